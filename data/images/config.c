/*
 * config.c - how images are prepared: defaults, our JSON, and what holds across its keys.
 *
 *   {"size": 64, "fit": "pad", "filter": "bicubic", "mean": [..], "std": [..], "orient": true}
 *
 * and for the other kinds
 *
 *   {"kind": "tiles", "pinpoints": [[h, w], ..], "several_whole": false, ..}
 *   {"kind": "patches", "patch": 14, "temporal": 2, "merge": 2, "min_pixels": 3136, "max_pixels": 1003520, ..}
 *   {"kind": "hybrid", "min_size": 14, "high": {"size": 1024, "filter", "mean", "std", "fill", "float_low"}, ..}
 */
#include "data/images/config.h"

#include <math.h>
#include <string.h>

static const char *const KINDS[] = {"square", "tiles", "patches", "hybrid"};
static const char *const FITS[] = {"pad", "crop", "squash", "longest"};
static const char *const FILTERS[] = {"bilinear", "bicubic"};

pc_image_config pc_image_config_default(int64_t size)
{
    return (pc_image_config){
        .size = size,
        .fit = PC_FIT_PAD,
        .filter = PC_FILTER_BICUBIC,
        .mean = {0.48145466, 0.4578275, 0.40821073},
        .std = {0.26862954, 0.26130258, 0.27577711},
        .orient = true,
    };
}

/* ---- values ---- */

pc_status pc_read_whole(int64_t *out, const json_t *v, const char *key, int64_t least, int64_t most)
{
    if (!json_is_integer(v)) return pc_fail(PC_ERR_FORMAT, "'%s' is not an integer", key);
    const json_int_t n = json_integer_value(v);
    if (n < least || n > most)
        return pc_fail(PC_ERR_FORMAT, "'%s' is %lld, expected %lld to %lld", key, (long long)n,
                       (long long)least, (long long)most);
    *out = n;
    return PC_OK;
}

pc_status pc_read_size(int64_t *out, const json_t *v, const char *key)
{
    return pc_read_whole(out, v, key, 1, PC_IMAGE_SIZE_MAX);
}

pc_status pc_read_three(double out[3], const json_t *v, const char *key)
{
    if (!json_is_array(v) || json_array_size(v) != 3)
        return pc_fail(PC_ERR_FORMAT, "'%s' is not a list of three numbers", key);
    for (size_t i = 0; i < 3; i++) {
        const json_t *x = json_array_get(v, i);
        out[i] = json_number_value(x);
        if (!json_is_number(x) || !(fabs(out[i]) <= 1000.0))
            return pc_fail(PC_ERR_FORMAT, "'%s' is not a list of three numbers", key);
    }
    return PC_OK;
}

pc_status pc_read_fill(uint8_t out[3], const json_t *v, const char *key)
{
    double rgb[3];
    pc_status st = pc_read_three(rgb, v, key);
    for (int i = 0; i < 3 && !st; i++) {
        if (!(rgb[i] >= 0.0 && rgb[i] <= 255.0))
            return pc_fail(PC_ERR_FORMAT, "'%s' has %g, expected 0 to 255", key, rgb[i]);
        out[i] = (uint8_t)rgb[i];
    }
    return st;
}

pc_status pc_read_pinpoints(pc_pinpoints *out, const json_t *v, const char *key, bool swapped)
{
    const size_t n = json_array_size(v);
    if (!json_is_array(v) || n < 1 || n > PC_PINPOINTS_MAX)
        return pc_fail(PC_ERR_FORMAT, "'%s' is not a list of 1 to %d resolutions", key,
                       PC_PINPOINTS_MAX);
    *out = (pc_pinpoints){.count = (int)n};
    for (size_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(v, i);
        if (!json_is_array(pair) || json_array_size(pair) != 2)
            return pc_fail(PC_ERR_FORMAT, "'%s' entry %zu is not a pair of sides", key, i);
        for (size_t k = 0; k < 2; k++) {
            int64_t side = 0;
            pc_status st = pc_read_whole(&side, json_array_get(pair, k), key, 1, PC_PINPOINT_SIDE);
            if (st) return st;
            out->hw[i][swapped ? 1 - k : k] = (int32_t)side;
        }
    }
    return PC_OK;
}

static pc_status read_word(int *out, const json_t *v, const char *key, const char *const *words,
                           int n)
{
    const char *text = json_string_value(v);
    for (int i = 0; text && i < n; i++)
        if (!strcmp(text, words[i])) {
            *out = i;
            return PC_OK;
        }
    const char *near = text ? pc_nearest(text, words, n) : NULL;
    return pc_fail(PC_ERR_FORMAT, "'%s' is '%s', expected %s%s%s", key, text ? text : "no string",
                   near ? "'" : "one of the known words", near ? near : "", near ? "'" : "");
}

static pc_status read_filter(pc_filter *out, const json_t *v, const char *key)
{
    int word = 0;
    pc_status st = read_word(&word, v, key, FILTERS, 2);
    if (!st) *out = (pc_filter)word;
    return st;
}

static pc_status read_bool(bool *out, const json_t *v, const char *key)
{
    if (!json_is_boolean(v)) return pc_fail(PC_ERR_FORMAT, "'%s' is not true or false", key);
    *out = json_is_true(v);
    return PC_OK;
}

static pc_status unknown_key(const char *key, const char *const *keys, int n)
{
    const char *near = pc_nearest(key, keys, n);
    return pc_fail(PC_ERR_FORMAT, "unknown key '%s'%s%s%s", key, near ? " (did you mean '" : "",
                   near ? near : "", near ? "'?)" : "");
}

/* ---- what holds across keys ---- */

static pc_status check_std(const double std[3])
{
    for (int i = 0; i < 3; i++)
        if (!(std[i] > 1e-6))
            return pc_fail(PC_ERR_FORMAT, "the image standard deviation %d is %g, expected above 0",
                           i, std[i]);
    return PC_OK;
}

static pc_status check_patches(const pc_image_config *c)
{
    if (!c->patch || !c->temporal || !c->merge || !c->min_pixels || !c->max_pixels)
        return pc_fail(PC_ERR_FORMAT,
                       "image settings of kind 'patches' need 'patch', 'temporal', 'merge', "
                       "'min_pixels' and 'max_pixels'");
    if (c->min_pixels > c->max_pixels)
        return pc_fail(PC_ERR_FORMAT, "'min_pixels' is %lld, above 'max_pixels', %lld",
                       (long long)c->min_pixels, (long long)c->max_pixels);
    return PC_OK;
}

static pc_status check_tiles(const pc_image_config *c)
{
    pc_status st = pc_pinpoints_validate(&c->pinpoints, c->size);
    for (int i = 0; i < c->pinpoints.count && !st; i++)
        if ((int64_t)c->pinpoints.hw[i][0] * c->pinpoints.hw[i][1] > PC_IMAGE_AREA_MAX)
            st = pc_fail(PC_ERR_FORMAT, "resolution %d of the tiles is %d x %d: above %lld pixels",
                         i, c->pinpoints.hw[i][0], c->pinpoints.hw[i][1],
                         (long long)PC_IMAGE_AREA_MAX);
    return st;
}

pc_status pc_image_config_validate(const pc_image_config *c)
{
    pc_status st = check_std(c->std);
    if (!st && c->kind != PC_IMAGE_PATCHES && !c->size)
        st = pc_fail(PC_ERR_FORMAT, "image settings: no 'size'");
    if (!st && c->kind == PC_IMAGE_PATCHES) st = check_patches(c);
    if (!st && c->kind == PC_IMAGE_TILES) st = check_tiles(c);
    if (!st && c->kind == PC_IMAGE_HYBRID) {
        st = check_std(c->high.std);
        if (!st && !c->high.size)
            st = pc_fail(PC_ERR_FORMAT, "image settings of kind 'hybrid': no 'size' in 'high'");
    }
    return st;
}

/* ---- ours ---- */

static pc_status read_high(pc_image_high *h, const json_t *json)
{
    static const char *const keys[] = {"size", "filter", "mean", "std", "fill", "float_low"};
    const char *key;
    json_t *v;
    if (!json_is_object(json)) return pc_fail(PC_ERR_FORMAT, "'high' is not an object");
    json_object_foreach((json_t *)(uintptr_t)json, key, v)
    {
        pc_status st = !strcmp(key, "size")        ? pc_read_size(&h->size, v, key)
                       : !strcmp(key, "filter")    ? read_filter(&h->filter, v, key)
                       : !strcmp(key, "mean")      ? pc_read_three(h->mean, v, key)
                       : !strcmp(key, "std")       ? pc_read_three(h->std, v, key)
                       : !strcmp(key, "fill")      ? pc_read_fill(h->fill, v, key)
                       : !strcmp(key, "float_low") ? read_bool(&h->float_low, v, key)
                                                   : unknown_key(key, keys, 6);
        if (st) return pc_context(st, "'high'");
    }
    return PC_OK;
}

// Keys of patches and tiles; *known false: none of them.
static pc_status read_kind_key(pc_image_config *c, bool *known, const char *key, const json_t *v)
{
    *known = true;
    if (!strcmp(key, "pinpoints")) return pc_read_pinpoints(&c->pinpoints, v, key, false);
    if (!strcmp(key, "several_whole")) return read_bool(&c->several_whole, v, key);
    if (!strcmp(key, "patch")) return pc_read_whole(&c->patch, v, key, 1, PC_IMAGE_PATCH_MAX);
    if (!strcmp(key, "temporal")) return pc_read_whole(&c->temporal, v, key, 1, 8);
    if (!strcmp(key, "merge")) return pc_read_whole(&c->merge, v, key, 1, 8);
    if (!strcmp(key, "min_pixels"))
        return pc_read_whole(&c->min_pixels, v, key, 1, PC_IMAGE_AREA_MAX);
    if (!strcmp(key, "max_pixels"))
        return pc_read_whole(&c->max_pixels, v, key, 1, PC_IMAGE_AREA_MAX);
    if (!strcmp(key, "min_size")) return pc_read_size(&c->min_size, v, key);
    if (!strcmp(key, "drop_alpha")) return read_bool(&c->drop_alpha, v, key);
    if (!strcmp(key, "truncate")) return read_bool(&c->truncate, v, key);
    if (!strcmp(key, "high")) return read_high(&c->high, v);
    *known = false;
    return PC_OK;
}

static pc_status read_key(pc_image_config *c, const char *key, const json_t *v)
{
    static const char *const keys[] = {"size",          "fit",      "filter",    "mean",
                                       "std",           "orient",   "kind",      "fill",
                                       "patch",         "merge",    "pinpoints", "temporal",
                                       "several_whole", "high",     "min_size",  "min_pixels",
                                       "max_pixels",    "truncate", "drop_alpha"};
    int word = 0;
    bool known = false;
    pc_status st = PC_OK;
    if (!strcmp(key, "size")) return pc_read_size(&c->size, v, key);
    if (!strcmp(key, "mean")) return pc_read_three(c->mean, v, key);
    if (!strcmp(key, "std")) return pc_read_three(c->std, v, key);
    if (!strcmp(key, "filter")) return read_filter(&c->filter, v, key);
    if (!strcmp(key, "orient")) return read_bool(&c->orient, v, key);
    if (!strcmp(key, "fit")) {
        if (!(st = read_word(&word, v, key, FITS, 4))) c->fit = (pc_fit)word;
        return st;
    }
    if (!strcmp(key, "kind")) {
        if (!(st = read_word(&word, v, key, KINDS, 4))) c->kind = (pc_image_kind)word;
        return st;
    }
    if (!strcmp(key, "fill")) {
        c->has_fill = true;
        return pc_read_fill(c->fill, v, key);
    }
    if ((st = read_kind_key(c, &known, key, v)) || known) return st;
    return unknown_key(key, keys, sizeof keys / sizeof *keys);
}

pc_status pc_image_config_from_json(pc_image_config *out, const json_t *json)
{
    *out = pc_image_config_default(0);
    if (!json_is_object(json)) return pc_fail(PC_ERR_FORMAT, "image settings are not an object");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)json, key, v)
    {
        pc_status st = read_key(out, key, v);
        if (st) return pc_context(st, "image settings");
    }
    return pc_image_config_validate(out);
}

static json_t *three(const double v[3])
{
    return json_pack("[fff]", v[0], v[1], v[2]);
}

static json_t *fill_json(const uint8_t v[3])
{
    return json_pack("[iii]", v[0], v[1], v[2]);
}

static json_t *pinpoints_json(const pc_pinpoints *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->count; i++)
        json_array_append_new(list, json_pack("[ii]", p->hw[i][0], p->hw[i][1]));
    return list;
}

json_t *pc_image_config_to_json(const pc_image_config *c)
{
    const pc_image_high *h = &c->high;
    json_t *o = json_pack("{s:I, s:s, s:s, s:o, s:o, s:b}", "size", (json_int_t)c->size, "fit",
                          FITS[c->fit], "filter", FILTERS[c->filter], "mean", three(c->mean), "std",
                          three(c->std), "orient", (int)c->orient);
    if (!o) return NULL;
    if (c->kind != PC_IMAGE_SQUARE) json_object_set_new(o, "kind", json_string(KINDS[c->kind]));
    if (c->kind == PC_IMAGE_PATCHES) json_object_del(o, "size");
    if (c->has_fill) json_object_set_new(o, "fill", fill_json(c->fill));
    if (c->min_size) json_object_set_new(o, "min_size", json_integer(c->min_size));
    if (c->drop_alpha) json_object_set_new(o, "drop_alpha", json_true());
    if (c->truncate) json_object_set_new(o, "truncate", json_true());
    if (c->kind == PC_IMAGE_TILES) {
        json_object_set_new(o, "pinpoints", pinpoints_json(&c->pinpoints));
        json_object_set_new(o, "several_whole", json_boolean(c->several_whole));
    }
    if (c->kind == PC_IMAGE_PATCHES)
        json_object_update_new(o, json_pack("{s:I, s:I, s:I, s:I, s:I}", "patch",
                                            (json_int_t)c->patch, "temporal",
                                            (json_int_t)c->temporal, "merge", (json_int_t)c->merge,
                                            "min_pixels", (json_int_t)c->min_pixels, "max_pixels",
                                            (json_int_t)c->max_pixels));
    if (c->kind == PC_IMAGE_HYBRID)
        json_object_set_new(o, "high",
                            json_pack("{s:I, s:s, s:o, s:o, s:o, s:b}", "size", (json_int_t)h->size,
                                      "filter", FILTERS[h->filter], "mean", three(h->mean), "std",
                                      three(h->std), "fill", fill_json(h->fill), "float_low",
                                      (int)h->float_low));
    return o;
}

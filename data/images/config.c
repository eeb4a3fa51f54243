/*
 * config.c - how images are prepared: defaults, our JSON, a published preprocessor_config.json.
 *
 *   {"size": 64, "fit": "pad", "filter": "bicubic", "mean": [..], "std": [..], "orient": true}
 */
#include "data/images/image.h"

#include <math.h>
#include <string.h>

#define SIZE_MAX_PX 8192

static const char *const FITS[] = {"pad", "crop", "squash"};
static const char *const FILTERS[] = {"bilinear", "bicubic"};
static const char *const KEYS[] = {"size", "fit", "filter", "mean", "std", "orient"};

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

static pc_status read_size(int64_t *out, const json_t *v, const char *key)
{
    if (!json_is_integer(v)) return pc_fail(PC_ERR_FORMAT, "'%s' is not an integer", key);
    const json_int_t n = json_integer_value(v);
    if (n < 1 || n > SIZE_MAX_PX)
        return pc_fail(PC_ERR_FORMAT, "'%s' is %lld, expected 1 to %d", key, (long long)n,
                       SIZE_MAX_PX);
    *out = n;
    return PC_OK;
}

static pc_status read_three(double out[3], const json_t *v, const char *key)
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

static pc_status validate(const pc_image_config *c)
{
    for (int i = 0; i < 3; i++)
        if (!(c->std[i] > 1e-6))
            return pc_fail(PC_ERR_FORMAT, "the image standard deviation %d is %g, expected above 0",
                           i, c->std[i]);
    return PC_OK;
}

/* ---- ours ---- */

static pc_status read_key(pc_image_config *c, const char *key, const json_t *v)
{
    int word = 0;
    pc_status st = PC_OK;
    if (!strcmp(key, "size")) return read_size(&c->size, v, key);
    if (!strcmp(key, "mean")) return read_three(c->mean, v, key);
    if (!strcmp(key, "std")) return read_three(c->std, v, key);
    if (!strcmp(key, "fit")) {
        if ((st = read_word(&word, v, key, FITS, 3))) return st;
        c->fit = (pc_fit)word;
        return PC_OK;
    }
    if (!strcmp(key, "filter")) {
        if ((st = read_word(&word, v, key, FILTERS, 2))) return st;
        c->filter = (pc_filter)word;
        return PC_OK;
    }
    if (!strcmp(key, "orient")) {
        if (!json_is_boolean(v)) return pc_fail(PC_ERR_FORMAT, "'orient' is not true or false");
        c->orient = json_is_true(v);
        return PC_OK;
    }
    const char *near = pc_nearest(key, KEYS, 6);
    return pc_fail(PC_ERR_FORMAT, "unknown key '%s'%s%s%s", key, near ? " (did you mean '" : "",
                   near ? near : "", near ? "'?)" : "");
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
    if (!out->size) return pc_fail(PC_ERR_FORMAT, "image settings: no 'size'");
    return validate(out);
}

json_t *pc_image_config_to_json(const pc_image_config *c)
{
    return json_pack("{s:I, s:s, s:s, s:[fff], s:[fff], s:b}", "size", (json_int_t)c->size, "fit",
                     FITS[c->fit], "filter", FILTERS[c->filter], "mean", c->mean[0], c->mean[1],
                     c->mean[2], "std", c->std[0], c->std[1], c->std[2], "orient", (int)c->orient);
}

/* ---- preprocessor_config.json ---- */

static bool flag(const json_t *o, const char *key, bool def)
{
    const json_t *v = json_object_get(o, key);
    return json_is_boolean(v) ? json_is_true(v) : def;
}

// "size" and "crop_size": an integer, {"shortest_edge": n} or {"height": n, "width": n}.
static pc_status read_extent(int64_t *out, bool *shortest, const json_t *v, const char *key)
{
    *shortest = true;
    if (json_is_integer(v)) return read_size(out, v, key);
    const json_t *edge = json_object_get(v, "shortest_edge"), *h = json_object_get(v, "height"),
                 *w = json_object_get(v, "width");
    if (edge) return read_size(out, edge, key);
    if (!h || !w)
        return pc_fail(PC_ERR_FORMAT, "'%s' has neither shortest_edge nor height and width", key);
    int64_t width = 0;
    pc_status st = PC_OK;
    *shortest = false;
    if ((st = read_size(out, h, key)) || (st = read_size(&width, w, key))) return st;
    if (*out != width)
        return pc_fail(PC_ERR_FORMAT, "'%s' is %lld x %lld, only squares are supported", key,
                       (long long)width, (long long)*out);
    return PC_OK;
}

static pc_status hf_size(pc_image_config *c, const json_t *json)
{
    const json_t *size = json_object_get(json, "size"), *crop = json_object_get(json, "crop_size");
    const bool cropped = flag(json, "do_center_crop", crop != NULL);
    bool shortest = false, unused = false;
    int64_t cut = 0;
    pc_status st = PC_OK;
    if (!size) return pc_fail(PC_ERR_FORMAT, "no 'size'");
    if (!flag(json, "do_resize", true))
        return pc_fail(PC_ERR_FORMAT, "'do_resize' is false: images of any size are not supported");
    if ((st = read_extent(&c->size, &shortest, size, "size"))) return st;
    if (cropped && crop) {
        if ((st = read_extent(&cut, &unused, crop, "crop_size"))) return st;
        if (cut != c->size)
            return pc_fail(PC_ERR_FORMAT, "'crop_size' is %lld, expected that of 'size', %lld",
                           (long long)cut, (long long)c->size);
    }
    c->fit = shortest ? PC_FIT_CROP : PC_FIT_SQUASH;
    if (flag(json, "do_pad", false)) c->fit = PC_FIT_PAD;
    if (shortest && !cropped && c->fit != PC_FIT_PAD)
        return pc_fail(PC_ERR_FORMAT,
                       "the shorter edge is resized without a crop: not square, not supported");
    return PC_OK;
}

pc_status pc_image_config_from_hf(pc_image_config *out, const json_t *json)
{
    pc_status st = PC_OK;
    *out = pc_image_config_default(0);
    if (!json_is_object(json)) return pc_fail(PC_ERR_FORMAT, "not an object");
    if ((st = hf_size(out, json))) return st;

    const json_t *filter = json_object_get(json, "resample");
    const json_int_t kind = json_is_integer(filter) ? json_integer_value(filter) : 3;
    if (kind != 2 && kind != 3)
        return pc_fail(PC_ERR_FORMAT, "'resample' is %lld, expected 2 (bilinear) or 3 (bicubic)",
                       (long long)kind);
    out->filter = kind == 2 ? PC_FILTER_BILINEAR : PC_FILTER_BICUBIC;

    const json_t *factor = json_object_get(json, "rescale_factor");
    const double scale = factor ? json_number_value(factor) : 1.0 / 255.0;
    if (!flag(json, "do_rescale", true) || !(fabs(scale * 255.0 - 1.0) < 1e-6))
        return pc_fail(PC_ERR_FORMAT, "pixels are scaled by %.9g, expected 1/255",
                       flag(json, "do_rescale", true) ? scale : 1.0);
    if (!flag(json, "do_normalize", true)) {
        for (int i = 0; i < 3; i++) {
            out->mean[i] = 0.0;
            out->std[i] = 1.0;
        }
        return PC_OK;
    }
    const json_t *mean = json_object_get(json, "image_mean"),
                 *std = json_object_get(json, "image_std");
    if (mean && (st = read_three(out->mean, mean, "image_mean"))) return st;
    if (std && (st = read_three(out->std, std, "image_std"))) return st;
    return validate(out);
}

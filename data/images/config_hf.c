/*
 * config_hf.c - how a published directory says that images are prepared.
 *
 * The processor's class is named by image_processor_type (older: feature_extractor_type, then by config.json's
 * model_type, then taken for CLIP's); endings such as Fast do not matter. Keys that a file leaves out have the
 * class's defaults, as there (spec: clip.md 5, llava.md 3 and 7, qwen-vl.md 1 and 5, deepseek-vl.md 1).
 *
 *   CLIP, Llava      shorter side, centre crop; Llava with do_pad: onto a square first
 *   Siglip, ViT      squashed
 *   LlavaNext, LlavaOnevision             tiles
 *   Qwen2VL          patches; size {shortest_edge, longest_edge} are areas, older min_pixels and max_pixels
 *   DeepseekVL, DeepseekVLHybrid          longest side and padding; VLM is the original code's name for either
 *
 * config.json alone tells it for Qwen-VL (visual.image_size), and for the original LLaVA code whether images
 * are padded or cut (image_aspect_ratio; its image_grid_pinpoints are (width, height)). The original code of these
 * families, and of DeepSeek-VL, drops transparency.
 */
#include "data/images/config.h"

#include <math.h>
#include <string.h>

typedef enum published_class {
    CLIP,
    LLAVA,
    SIGLIP,
    VIT,
    LLAVA_NEXT,
    ONEVISION,
    QWEN2_VL,
    DEEPSEEK,
    DEEPSEEK_HYBRID,
    VLM, // DeepSeek's original code
    CLASSES,
} published_class;

static const char *const CLASS_NAMES[CLASSES] = {
    [CLIP] = "CLIPImageProcessor",
    [LLAVA] = "LlavaImageProcessor",
    [SIGLIP] = "SiglipImageProcessor",
    [VIT] = "ViTImageProcessor",
    [LLAVA_NEXT] = "LlavaNextImageProcessor",
    [ONEVISION] = "LlavaOnevisionImageProcessor",
    [QWEN2_VL] = "Qwen2VLImageProcessor",
    [DEEPSEEK] = "DeepseekVLImageProcessor",
    [DEEPSEEK_HYBRID] = "DeepseekVLHybridImageProcessor",
    [VLM] = "VLMImageProcessor",
};

/* ---- the class and its defaults ---- */

static pc_status read_class(published_class *out, const json_t *json, const char *model_type)
{
    static const char *const by_model[][2] = {
        {"siglip", "Siglip"},           {"llava_next", "LlavaNext"},
        {"qwen2_vl", "Qwen2VL"},        {"llava_onevision", "LlavaOnevision"},
        {"qwen2_5_vl", "Qwen2VL"},      {"deepseek_vl", "DeepseekVL"},
        {"multi_modality", "VLMImage"}, {"deepseek_vl_hybrid", "DeepseekVLHybrid"}};
    const char *name = json_string_value(json_object_get(json, "image_processor_type"));
    if (!name) name = json_string_value(json_object_get(json, "feature_extractor_type"));
    for (size_t i = 0; !name && model_type && i < sizeof by_model / sizeof *by_model; i++)
        if (!strcmp(model_type, by_model[i][0])) name = by_model[i][1];
    if (!name) {
        *out = CLIP;
        return PC_OK;
    }
    // "Qwen2VLImageProcessorFast", "CLIPFeatureExtractor" -> the name up to these words
    const char *end = strstr(name, "Image"), *old = strstr(name, "FeatureExtractor");
    if (!end) end = old ? old : name + strlen(name);
    for (int i = 0; i < CLASSES; i++) {
        const size_t n = (size_t)(strstr(CLASS_NAMES[i], "Image") - CLASS_NAMES[i]);
        if ((size_t)(end - name) == n && !strncmp(name, CLASS_NAMES[i], n)) {
            *out = (published_class)i;
            return PC_OK;
        }
    }
    const char *near = pc_nearest(name, CLASS_NAMES, CLASSES);
    return pc_fail(PC_ERR_FORMAT,
                   "'image_processor_type' is '%.80s', whose steps are not known%s%s%s", name,
                   near ? " (nearest: '" : "", near ? near : "", near ? "')" : "");
}

static void grid(pc_pinpoints *p, int32_t side, int n)
{
    *p = (pc_pinpoints){0};
    for (int32_t h = 1; h <= n; h++)
        for (int32_t w = 1; w <= n; w++, p->count++) {
            p->hw[p->count][0] = h * side;
            p->hw[p->count][1] = w * side;
        }
}

static void halves(double mean[3], double std[3])
{
    for (int i = 0; i < 3; i++) mean[i] = std[i] = 0.5;
}

static pc_image_config class_defaults(published_class k)
{
    static const pc_pinpoints next = {
        5, {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}}};
    const bool deepseek = k == DEEPSEEK || k == DEEPSEEK_HYBRID || k == VLM;
    pc_image_config c = pc_image_config_default(k == ONEVISION || deepseek ? 384 : 224);
    c.fit = deepseek ? PC_FIT_LONGEST : k == SIGLIP || k == VIT ? PC_FIT_SQUASH : PC_FIT_CROP;
    if (k == SIGLIP || k == VIT) halves(c.mean, c.std);
    if (k == VIT) c.filter = PC_FILTER_BILINEAR;
    if (k == LLAVA_NEXT || k == ONEVISION) {
        c.kind = PC_IMAGE_TILES;
        c.fit = PC_FIT_SQUASH;
        c.pinpoints = next;
        c.several_whole = k == ONEVISION;
        if (k == ONEVISION) grid(&c.pinpoints, 384, 6);
    }
    if (k == QWEN2_VL) {
        c.kind = PC_IMAGE_PATCHES;
        c.size = 0;
        c.fit = PC_FIT_SQUASH;
        c.patch = 14;
        c.temporal = c.merge = 2;
        c.min_pixels = 56 * 56;
        c.max_pixels = 28 * 28 * 1280;
    }
    if (deepseek) c.min_size = 14;
    c.truncate = c.drop_alpha = k == VLM; // the original code
    if (k == DEEPSEEK_HYBRID) {
        c.kind = PC_IMAGE_HYBRID;
        c.high = (pc_image_high){.size = 1024, .filter = PC_FILTER_BICUBIC};
        memcpy(c.high.mean, c.mean, sizeof c.mean);
        memcpy(c.high.std, c.std, sizeof c.std);
    }
    return c;
}

/* ---- keys ---- */

static const json_t *get(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return v && !json_is_null(v) ? v : NULL;
}

static bool flag(const json_t *o, const char *key, bool def)
{
    const json_t *v = json_object_get(o, key);
    return json_is_boolean(v) ? json_is_true(v) : def;
}

// "size" and "crop_size": an integer, {"shortest_edge": n} or {"height": n, "width": n}.
static pc_status read_extent(int64_t *out, bool *shortest, const json_t *v, const char *key)
{
    *shortest = true;
    if (json_is_integer(v)) return pc_read_size(out, v, key);
    const json_t *edge = get(v, "shortest_edge"), *h = get(v, "height"), *w = get(v, "width");
    if (edge) return pc_read_size(out, edge, key);
    if (!h || !w)
        return pc_fail(PC_ERR_FORMAT, "'%s' has neither shortest_edge nor height and width", key);
    int64_t width = 0;
    pc_status st = PC_OK;
    *shortest = false;
    if ((st = pc_read_size(out, h, key)) || (st = pc_read_size(&width, w, key))) return st;
    if (*out != width)
        return pc_fail(PC_ERR_FORMAT, "'%s' is %lld x %lld, only squares are supported", key,
                       (long long)width, (long long)*out);
    return PC_OK;
}

static pc_status read_resample(pc_filter *out, const json_t *v, const char *key)
{
    const json_int_t kind = json_is_integer(v) ? json_integer_value(v) : -1;
    if (kind != 2 && kind != 3)
        return pc_fail(PC_ERR_FORMAT, "'%s' is %lld, expected 2 (bilinear) or 3 (bicubic)", key,
                       (long long)kind);
    *out = kind == 2 ? PC_FILTER_BILINEAR : PC_FILTER_BICUBIC;
    return PC_OK;
}

static pc_status read_scale(const json_t *json)
{
    const json_t *factor = get(json, "rescale_factor");
    const double scale = factor ? json_number_value(factor) : 1.0 / 255.0;
    if (flag(json, "do_rescale", true) && fabs(scale * 255.0 - 1.0) < 1e-6) return PC_OK;
    return pc_fail(PC_ERR_FORMAT, "pixels are scaled by %.9g, expected 1/255",
                   flag(json, "do_rescale", true) ? scale : 1.0);
}

static pc_status read_mean(double mean[3], double std[3], const json_t *json, const char *mean_key,
                           const char *std_key)
{
    const json_t *m = get(json, mean_key), *s = get(json, std_key);
    pc_status st = PC_OK;
    if (m && (st = pc_read_three(mean, m, mean_key))) return st;
    if (s && (st = pc_read_three(std, s, std_key))) return st;
    for (int i = 0; i < 3 && !flag(json, "do_normalize", true); i++) {
        mean[i] = 0.0;
        std[i] = 1.0;
    }
    return st;
}

/* ---- sizes, by class ---- */

static pc_status square_size(pc_image_config *c, const json_t *json, published_class k)
{
    const json_t *size = get(json, "size"), *crop = get(json, "crop_size");
    const bool has_crop = c->fit == PC_FIT_CROP; // by class
    const bool cropped = flag(json, "do_center_crop", has_crop || crop != NULL);
    bool shortest = c->fit == PC_FIT_CROP, unused = false;
    int64_t cut = c->size;
    pc_status st = PC_OK;
    if (size && (st = read_extent(&c->size, &shortest, size, "size"))) return st;
    if (crop && (st = read_extent(&cut, &unused, crop, "crop_size"))) return st;
    if (cropped && !crop && has_crop && cut != c->size)
        return pc_fail(PC_ERR_FORMAT,
                       "the shorter edge is resized to %lld without a crop_size; the class's own "
                       "is %lld, which is not supported",
                       (long long)c->size, (long long)cut);
    if (cropped && crop && cut != c->size)
        return pc_fail(PC_ERR_FORMAT, "'crop_size' is %lld, expected that of 'size', %lld",
                       (long long)cut, (long long)c->size);
    if (c->kind == PC_IMAGE_TILES) return PC_OK;
    c->fit = shortest ? PC_FIT_CROP : PC_FIT_SQUASH;
    if (k != SIGLIP && k != VIT && flag(json, "do_pad", false)) c->fit = PC_FIT_PAD;
    if (shortest && !cropped && c->fit != PC_FIT_PAD)
        return pc_fail(PC_ERR_FORMAT,
                       "the shorter edge is resized without a crop: not square, not supported");
    return PC_OK;
}

static pc_status patches_size(pc_image_config *c, const json_t *json)
{
    static const char *const least[] = {"min_pixels", "shortest_edge"}, *const most[] = {
                                                                            "max_pixels",
                                                                            "longest_edge"};
    const json_t *size = get(json, "size");
    pc_status st = PC_OK;
    // The later of these wins: inside "size", then the older keys beside it.
    for (int i = 1; i >= 0 && !st; i--) {
        const json_t *a = get(size, least[i]), *b = get(size, most[i]);
        if (a) st = pc_read_whole(&c->min_pixels, a, least[i], 1, PC_IMAGE_AREA_MAX);
        if (b && !st) st = pc_read_whole(&c->max_pixels, b, most[i], 1, PC_IMAGE_AREA_MAX);
    }
    const struct {
        const char *key;
        int64_t *out, most;
    } keys[] = {{"min_pixels", &c->min_pixels, PC_IMAGE_AREA_MAX},
                {"max_pixels", &c->max_pixels, PC_IMAGE_AREA_MAX},
                {"patch_size", &c->patch, PC_IMAGE_PATCH_MAX},
                {"temporal_patch_size", &c->temporal, 8},
                {"merge_size", &c->merge, 8}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !st; i++) {
        const json_t *v = get(json, keys[i].key);
        if (v) st = pc_read_whole(keys[i].out, v, keys[i].key, 1, keys[i].most);
    }
    return st;
}

// int(255 mean) where a mean is stated, else grey: the files' own background_color is not what the code uses.
static void background(uint8_t fill[3], const json_t *json, const char *key, const double mean[3])
{
    for (int i = 0; i < 3; i++) {
        const double v = floor(255.0 * mean[i]);
        fill[i] = get(json, key) ? (uint8_t)fmax(0.0, fmin(255.0, v)) : 127;
    }
}

static pc_status longest_size(pc_image_config *c, const json_t *json)
{
    const json_t *size = get(json, "size"), *min = get(json, "min_size"),
                 *original = get(json, "image_size");
    bool unused;
    pc_status st = PC_OK;
    if (original && (st = pc_read_size(&c->size, original, "image_size"))) return st;
    if (size && (st = read_extent(&c->size, &unused, size, "size"))) return st;
    if (min && (st = pc_read_size(&c->min_size, min, "min_size"))) return st;
    if (!flag(json, "do_pad", true))
        return pc_fail(PC_ERR_FORMAT, "'do_pad' is false: images of any shape are not supported");
    return PC_OK;
}

static pc_status hybrid_high(pc_image_config *c, const json_t *json)
{
    const json_t *size = get(json, "high_res_size"), *resample = get(json, "high_res_resample");
    pc_image_high *h = &c->high;
    bool unused;
    pc_status st = PC_OK;
    if (size && (st = read_extent(&h->size, &unused, size, "high_res_size"))) return st;
    if (resample && (st = read_resample(&h->filter, resample, "high_res_resample"))) return st;
    if ((st = read_mean(h->mean, h->std, json, "high_res_image_mean", "high_res_image_std")))
        return st;
    background(h->fill, json, "high_res_image_mean", h->mean);
    return PC_OK;
}

/* ---- DeepSeek's original code: the towers' own numbers stand in config.json ---- */

static pc_status original_hybrid(pc_image_config *c, const json_t *params)
{
    const json_t *high = get(params, "high_res_cfg"), *low = get(params, "low_res_cfg");
    pc_image_high *h = &c->high;
    pc_status st = PC_OK;
    *h = (pc_image_high){.size = c->size, .filter = c->filter, .float_low = true};
    memcpy(h->fill, c->fill, sizeof h->fill);
    const pc_image_config clip = pc_image_config_default(0);
    memcpy(h->mean, clip.mean, sizeof h->mean);
    memcpy(h->std, clip.std, sizeof h->std);
    halves(c->mean, c->std);
    c->kind = PC_IMAGE_HYBRID;
    const json_t *size = get(low, "image_size");
    c->size = 384;
    if (size && (st = pc_read_size(&c->size, size, "low_res_cfg.image_size"))) return st;
    if ((size = get(high, "image_size")) &&
        (st = pc_read_size(&h->size, size, "high_res_cfg.image_size")))
        return st;
    if ((st = read_mean(h->mean, h->std, high, "pixel_mean", "pixel_std"))) return st;
    return read_mean(c->mean, c->std, low, "pixel_mean", "pixel_std");
}

/* ---- original LLaVA: config.json ---- */

static pc_status original_aspect(pc_image_config *c, const json_t *config)
{
    const char *aspect = json_string_value(get(config, "image_aspect_ratio"));
    if (!aspect || c->kind != PC_IMAGE_SQUARE) return PC_OK;
    c->drop_alpha = true;
    if (!strcmp(aspect, "pad")) c->fit = PC_FIT_PAD;
    if (strncmp(aspect, "anyres", 6) != 0) return PC_OK;
    c->kind = PC_IMAGE_TILES;
    c->fit = PC_FIT_SQUASH;
    return pc_read_pinpoints(&c->pinpoints, get(config, "image_grid_pinpoints"),
                             "image_grid_pinpoints", true);
}

/* ---- files ---- */

static pc_status read_processor(pc_image_config *out, const json_t *json, const json_t *config)
{
    const char *model_type = json_string_value(get(config, "model_type"));
    published_class k = CLIP;
    pc_status st = PC_OK;
    if (!json_is_object(json)) return pc_fail(PC_ERR_FORMAT, "not an object");
    if ((st = read_class(&k, json, model_type))) return st;
    *out = class_defaults(k);
    if (!flag(json, "do_resize", true))
        return pc_fail(PC_ERR_FORMAT, "'do_resize' is false: images of any size are not supported");
    const json_t *resample = get(json, "resample");
    if (resample && (st = read_resample(&out->filter, resample, "resample"))) return st;
    if ((st = read_scale(json))) return st;
    if ((st = read_mean(out->mean, out->std, json, "image_mean", "image_std"))) return st;

    if (k == QWEN2_VL) {
        st = patches_size(out, json);
    } else if (out->fit == PC_FIT_LONGEST) {
        double mean[3] = {0.0, 0.0, 0.0};
        const json_t *stated = get(json, "image_mean");
        if (stated && (st = pc_read_three(mean, stated, "image_mean"))) return st;
        background(out->fill, json, "image_mean", mean);
        out->has_fill = true;
        st = longest_size(out, json);
    } else {
        st = square_size(out, json, k);
    }
    const json_t *pinpoints = get(json, "image_grid_pinpoints");
    if (!st && out->kind == PC_IMAGE_TILES && pinpoints)
        st = pc_read_pinpoints(&out->pinpoints, pinpoints, "image_grid_pinpoints", false);
    if (!st && k == DEEPSEEK_HYBRID) st = hybrid_high(out, json);
    const json_t *params = get(get(config, "vision_config"), "params");
    if (!st && k == VLM && get(params, "high_res_cfg")) st = original_hybrid(out, params);
    return st;
}

// Qwen-VL: its code, not a file, says that images are squashed to visual.image_size.
static pc_status qwen_vl(pc_image_config *out, bool *found, const json_t *config)
{
    const json_t *size = get(get(config, "visual"), "image_size");
    *found = size != NULL;
    if (!size) return PC_OK;
    *out = pc_image_config_default(0);
    out->fit = PC_FIT_SQUASH;
    out->drop_alpha = true;
    return pc_read_size(&out->size, size, "visual.image_size");
}

pc_status pc_image_config_from_files(pc_image_config *out, bool *found, const json_t *preprocessor,
                                     const json_t *processor, const json_t *config)
{
    const json_t *inner = get(processor, "image_processor");
    const json_t *json = inner ? inner : preprocessor;
    pc_status st = PC_OK;
    *found = false;
    if (!json) {
        if (!(st = qwen_vl(out, found, config)) && *found) st = pc_image_config_validate(out);
        return pc_context(st, "config.json");
    }
    if (!(st = read_processor(out, json, config)) && !(st = original_aspect(out, config)))
        st = pc_image_config_validate(out);
    *found = !st;
    return pc_context(st, inner ? "processor_config.json" : "preprocessor_config.json");
}

pc_status pc_image_config_from_hf(pc_image_config *out, const json_t *json)
{
    *out = pc_image_config_default(0);
    pc_status st = read_processor(out, json, NULL);
    return st ? st : pc_image_config_validate(out);
}

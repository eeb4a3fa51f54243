/*
 * config_open_clip.c - how open_clip_config.json says that images are prepared.
 *
 *   model_cfg.vision_cfg.image_size    a side, or [height, width] of a square
 *   preprocess_cfg                     mean, std; interpolation bicubic or bilinear; resize_mode shortest (then a centre
 *                                      crop) or squash. An absent section is CLIP's
 */
#include "data/images/config.h"

#include <string.h>

static pc_status word(const char **out, const json_t *o, const char *key, const char *def)
{
    const json_t *v = json_object_get(o, key);
    if (v && !json_is_null(v) && !json_is_string(v))
        return pc_fail(PC_ERR_FORMAT, "preprocess_cfg: key '%s': expected a string", key);
    *out = json_is_string(v) ? json_string_value(v) : def;
    return PC_OK;
}

pc_status pc_image_config_from_open_clip(pc_image_config *out, const json_t *config)
{
    const json_t *model = json_object_get(json_object_get(config, "model_cfg"), "vision_cfg");
    const json_t *p = json_object_get(config, "preprocess_cfg"), *v;
    const json_t *size = json_object_get(model, "image_size");
    const char *filter = NULL, *mode = NULL;
    int64_t side = 224;
    pc_status st = PC_OK;

    if (json_is_array(size)) size = json_array_get(size, 0);
    if (size) st = pc_read_size(&side, size, "image_size");
    if (st || (st = word(&filter, p, "interpolation", "bicubic")) ||
        (st = word(&mode, p, "resize_mode", "shortest")))
        return st;
    *out = pc_image_config_default(side);
    if (!strcmp(filter, "bilinear"))
        out->filter = PC_FILTER_BILINEAR;
    else if (strcmp(filter, "bicubic"))
        return pc_fail(PC_ERR_FORMAT,
                       "preprocess_cfg: key 'interpolation': \"%s\"; expected bicubic or bilinear",
                       filter);
    if (!strcmp(mode, "shortest"))
        out->fit = PC_FIT_CROP;
    else if (!strcmp(mode, "squash"))
        out->fit = PC_FIT_SQUASH;
    else
        return pc_fail(PC_ERR_FORMAT,
                       "preprocess_cfg: key 'resize_mode': \"%s\"; expected shortest or squash",
                       mode);
    if ((v = json_object_get(p, "mean")) && (st = pc_read_three(out->mean, v, "mean"))) return st;
    if ((v = json_object_get(p, "std")) && (st = pc_read_three(out->std, v, "std"))) return st;
    return PC_OK;
}

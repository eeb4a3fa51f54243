/*
 * image.h - image files to what the model sees (spec: clip.md 5, llava.md 3).
 *
 * Decoding gives 8-bit RGB, upright (EXIF orientation applied when asked). Resizing is the antialiased bicubic
 * or bilinear of PIL, to the bit. The settings are part of a checkpoint: training and inference cannot differ.
 */
#ifndef PC_DATA_IMAGE_H
#define PC_DATA_IMAGE_H

#include "model/core/status.h"
#include "model/networks/tiles.h"
#include <jansson.h>

typedef struct pc_image {
    uint8_t *rgb; // (height, width, 3)
    int64_t width, height;
} pc_image;

typedef enum pc_fit {
    PC_FIT_PAD,     // onto a square of the mean colour, then resize
    PC_FIT_CROP,    // shorter side to size, centre crop
    PC_FIT_SQUASH,  // straight to size x size
    PC_FIT_LONGEST, // longer side to size, then onto a square of the mean colour (DeepSeek-VL)
} pc_fit;

typedef enum pc_filter { PC_FILTER_BILINEAR, PC_FILTER_BICUBIC } pc_filter;

// What one image becomes (prepared.h). All but the first are of published families.
typedef enum pc_image_kind {
    PC_IMAGE_SQUARE, // one square, by `fit`
    PC_IMAGE_TILES, // the whole image squashed, then tiles of the best of `pinpoints` (LLaVA-NeXT, OneVision)
    PC_IMAGE_PATCHES, // rows of patches of any resolution (Qwen2-VL)
    PC_IMAGE_HYBRID,  // two squares: `high`, and from that one the small one (DeepSeek-VL 7B)
} pc_image_kind;

// The large square of the hybrid.
typedef struct pc_image_high {
    int64_t size;
    pc_filter filter;
    double mean[3], std[3];
    uint8_t fill[3]; // what pads it
    bool
        float_low; // the small square is made from floats, bilinear, and not rounded (the original code)
} pc_image_high;

typedef struct pc_image_config {
    int64_t size; // of squares and tiles; unused by patches
    pc_fit fit;   // squares
    pc_filter filter;
    double mean[3], std[3];
    bool orient;     // apply EXIF orientation
    bool drop_alpha; // transparency is left out of account (older code), not laid over white
    bool has_fill;   // pad with `fill`; otherwise with int(255 mean)
    uint8_t fill[3];
    pc_image_kind kind;
    // tiles
    pc_pinpoints pinpoints;
    bool
        several_whole; // images of a sample with several are not cut: one padded square each (OneVision)
    // patches: `patch` px wide, frames repeated to `temporal`, `merge` x `merge` of them next to each other
    int64_t patch, temporal, merge, min_pixels, max_pixels;
    // longest, hybrid
    int64_t min_size; // no side becomes shorter
    bool truncate;    // sides are truncated, not rounded (the original code)
    pc_image_high high;
} pc_image_config;

pc_image_config pc_image_config_default(int64_t size); // pad, bicubic, CLIP's mean and std
pc_status pc_image_config_from_json(pc_image_config *out, const json_t *json); // ours
json_t *pc_image_config_to_json(const pc_image_config *c);
/*
 * A published directory: preprocessor_config.json, processor_config.json (whose "image_processor" comes first, as
 * newer files have it) and config.json, each NULL when there is none. What they leave out takes the defaults of the
 * processor's class. *found false: none of them says how images are prepared.
 */
pc_status pc_image_config_from_files(pc_image_config *out, bool *found, const json_t *preprocessor,
                                     const json_t *processor, const json_t *config);
// open_clip_config.json: preprocess_cfg, and the size in model_cfg.
pc_status pc_image_config_from_open_clip(pc_image_config *out, const json_t *config);
// preprocessor_config.json alone.
pc_status pc_image_config_from_hf(pc_image_config *out, const json_t *preprocessor_config);

// Errors name the file and what is wrong (truncated, no image, absurd size). At most 2^28 pixels.
pc_status pc_image_open(pc_image *out, const char *path, bool orient);
pc_status pc_image_decode(pc_image *out, const void *bytes, size_t size, bool orient);
// As the settings have it: upright or not, transparency.
pc_status pc_image_open_as(pc_image *out, const char *path, const pc_image_config *c);
void pc_image_close(pc_image *im);
// Upright height and width, from the first bytes alone: quick, and pixels may still turn out damaged.
pc_status pc_image_size(int64_t *height, int64_t *width, const char *path, bool orient);
pc_status pc_image_resize(pc_image *out, const pc_image *in, int64_t width, int64_t height,
                          pc_filter filter);

// pixels: (3, size, size) floats: the square, or the small one of the hybrid. Other kinds: prepared.h.
pc_status pc_image_preprocess(float *pixels, const pc_image *in, const pc_image_config *c);

#endif

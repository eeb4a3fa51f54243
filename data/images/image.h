/*
 * image.h - image files to what the model sees (spec: clip.md 5, llava.md 3).
 *
 * Decoding gives 8-bit RGB, upright (EXIF orientation applied when asked). Resizing is the antialiased bicubic
 * or bilinear of PIL, to the bit. The settings are part of a checkpoint: training and inference cannot differ.
 */
#ifndef PC_DATA_IMAGE_H
#define PC_DATA_IMAGE_H

#include "model/core/status.h"
#include <jansson.h>

typedef struct pc_image {
    uint8_t *rgb; // (height, width, 3)
    int64_t width, height;
} pc_image;

typedef enum pc_fit {
    PC_FIT_PAD,    // onto a square of the mean colour, then resize
    PC_FIT_CROP,   // shorter side to size, centre crop
    PC_FIT_SQUASH, // straight to size x size
} pc_fit;

typedef enum pc_filter { PC_FILTER_BILINEAR, PC_FILTER_BICUBIC } pc_filter;

typedef struct pc_image_config {
    int64_t size;
    pc_fit fit;
    pc_filter filter;
    double mean[3], std[3];
    bool orient; // apply EXIF orientation
} pc_image_config;

pc_image_config pc_image_config_default(int64_t size); // pad, bicubic, CLIP's mean and std
pc_status pc_image_config_from_json(pc_image_config *out, const json_t *json); // ours
json_t *pc_image_config_to_json(const pc_image_config *c);
pc_status pc_image_config_from_hf(pc_image_config *out, const json_t *preprocessor_config);

// Errors name the file and what is wrong (truncated, no image, absurd size). At most 2^28 pixels.
pc_status pc_image_open(pc_image *out, const char *path, bool orient);
pc_status pc_image_decode(pc_image *out, const void *bytes, size_t size, bool orient);
void pc_image_close(pc_image *im);
pc_status pc_image_resize(pc_image *out, const pc_image *in, int64_t width, int64_t height,
                          pc_filter filter);

// pixels: (3, size, size) floats.
pc_status pc_image_preprocess(float *pixels, const pc_image *in, const pc_image_config *c);

#endif

/*
 * decode.h - what stands behind image.h, for the files of this folder only.
 *
 *   image.h       what the others use
 *   decode.c      which format it is, limits, alpha, orientation
 *   jpeg.c        libjpeg-turbo    webp.c  libwebp    others.c  stb_image: PNG, BMP, GIF, PNM
 *   exif.c        the orientation tag, and turning pixels by it
 *   resize.c      PIL's antialiased resize, to the bit, in one pass over the rows
 *   preprocess.c  one square: pad, crop, squash or longest, as 8 bits
 *   prepared.c    every kind: squares, tiles, patches; mean and standard deviation
 *   size.c        height and width from a file's first bytes
 *   visual.c      files into what a model's eyes are given
 *   config.c      the settings: defaults, our JSON    config_hf.c  as published directories state them
 *
 * Transparency: images with an alpha channel are composited on white, as the processors of today do; or the
 * channel is dropped, as the original code of some families does.
 */
#ifndef PC_DATA_IMAGES_DECODE_H
#define PC_DATA_IMAGES_DECODE_H

#include "data/images/image.h"

#define PC_IMAGE_PIXELS_MAX ((int64_t)1 << 28)

// At least one pixel, at most PC_IMAGE_PIXELS_MAX.
pc_status pc_image_check_size(int64_t width, int64_t height);
// Checks the size and gets memory for (height, width, 3); the caller closes it on failure too.
pc_status pc_image_alloc(pc_image *out, int64_t width, int64_t height);

// One colour channel over white, rounded as PIL's alpha_composite rounds.
static inline uint8_t pc_over_white(uint8_t value, uint8_t alpha)
{
    const uint32_t coef = alpha * 128u; // 7 bits more than alpha
    const uint32_t t = value * coef + 255u * (255u * 128u - coef) + (0x80u << 7);
    return alpha ? (uint8_t)((((t >> 8) + t) >> 8) >> 7) : 255;
}

pc_status pc_jpeg_decode(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha);
pc_status pc_webp_decode(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha);
// PNG, BMP, GIF, PNM
pc_status pc_other_decode(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha);
pc_status pc_other_size(int64_t *height, int64_t *width, const uint8_t *bytes, size_t size);

// EXIF orientation 1..8 of a JPEG, PNG or WebP file; 1 when there is none or it makes no sense.
int pc_exif_orientation(const uint8_t *bytes, size_t size);
// Turns the pixels upright.
pc_status pc_image_orient(pc_image *im, int orientation);

/*
 * Rows of a picture that need not exist as a whole: `row` writes width * 3 bytes of row y. The resize
 * reads rows once, from top to bottom, and leaves out those it has no use for.
 */
typedef struct pc_rows_source {
    int64_t width, height;
    void (*row)(void *arg, uint8_t *out, int64_t y);
    void *arg;
} pc_rows_source;

// The part [x0, x0+w) x [y0, y0+h) of the source resized to full_w x full_h, into out (h, w, 3).
pc_status pc_resize_window(uint8_t *out, const pc_rows_source *in, int64_t full_w, int64_t full_h,
                           int64_t x0, int64_t y0, int64_t w, int64_t h, pc_filter filter);

// The 8-bit (size, size, 3) picture that pc_image_preprocess normalises.
pc_status pc_image_fit(uint8_t *out, const pc_image *in, const pc_image_config *c);
// PC_FIT_LONGEST into (size, size, 3), with the least side and the rounding of the settings.
pc_status pc_image_longest(uint8_t *out, const pc_image *in, int64_t size, const uint8_t colour[3],
                           pc_filter filter, const pc_image_config *c);
// What squares are padded with.
void pc_image_colour(uint8_t out[3], const pc_image_config *c);

// What each 8-bit value becomes.
typedef struct pc_levels {
    float of[3][256];
} pc_levels;
void pc_image_levels(pc_levels *out, const double mean[3], const double std[3]);

/*
 * The bilinear, antialiased resize of tensors: the weights of resize.c's bilinear in double, no 8-bit rounding.
 * in (3, from, from), out (3, to, to).
 */
pc_status pc_resize_floats(float *out, const float *in, int64_t from, int64_t to);

#endif

/*
 * prepared.h - what one image becomes before a vision tower sees it, for every kind of preprocessing.
 *
 *   kind      pixels                                        beside them
 *   square    (1, 3, S, S)
 *   tiles     (crops, 3, S, S), the whole image first       height, width, tiles
 *   patches   (gh gw, 3 t p p), rows in merge blocks        grid (1, gh, gw)
 *   hybrid    (1, 3, S, S)                                  high (1, 3, S2, S2)
 *
 * Patches: (block row, block column, row in block, column in block) for the rows of `pixels`, and (channel, frame,
 * y, x) within a row; a still image fills all t frames.
 */
#ifndef PC_DATA_PREPARED_H
#define PC_DATA_PREPARED_H

#include "data/images/image.h"

// Everything but the pixels: known from the height and width alone.
typedef struct pc_image_shape {
    pc_image_kind kind;
    int64_t height, width;        // of the image, upright
    int64_t rows, row;            // pixels is (rows, row): crops of 3 S S, or patches of 3 t p p
    int64_t size, high;           // S, S2; 0 where the kind has none
    pc_tiles tiles;               // tiles; crops 1 and nothing else when the image stays whole
    int64_t resized_h, resized_w; // patches: after smart_resize
    int64_t grid[3];              // patches: t, h, w
} pc_image_shape;

/*
 * images: how many the sample has; of importance where several are not cut (several_whole). PC_ERR_INPUT for an image
 * of a shape that the processor refuses.
 */
pc_status pc_image_plan(pc_image_shape *out, const pc_image_config *c, int64_t height,
                        int64_t width, int64_t images);

typedef struct pc_prepared {
    pc_image_shape shape;
    float *pixels; // (rows, row)
    float *high;   // (3, S2, S2) or NULL
} pc_prepared;

// Allocates; the caller closes it. After an error it is closed.
pc_status pc_image_prepare(pc_prepared *out, const pc_image *in, const pc_image_config *c,
                           int64_t images);
void pc_prepared_close(pc_prepared *p);

// The same into memory that is there: pixels (rows, row), high (3, S2, S2) or NULL; `s` from pc_image_plan.
pc_status pc_image_prepare_into(float *pixels, float *high, const pc_image *in,
                                const pc_image_config *c, const pc_image_shape *s);

#endif

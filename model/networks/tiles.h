/*
 * tiles.h - the arithmetic of images of any size: how a picture is cut, and how many rows the decoder gets for it.
 *
 * No pixels and no weights: heights and widths in, counts out. Preprocessing, the loader and the networks all
 * ask here, so that no two of them can count differently (spec: llava.md 6, qwen-vl.md 5).
 *
 *   tiles (LLaVA-NeXT, OneVision)   the best of a list of resolutions is chosen; the picture is resized into it
 *                                   keeping its aspect, centred on black and cut into squares, row by row; the
 *                                   whole picture squashed to one square comes first
 *   grid of features                the tiles' features side by side, the padding's rows or columns cut off again,
 *                                   shrunk when they are too many (OneVision), each row ended by the newline
 *   patches (Qwen2-VL)              sides rounded to multiples of a factor within limits of the area
 */
#ifndef PC_NETWORKS_TILES_H
#define PC_NETWORKS_TILES_H

#include "model/core/status.h"

#include <stdint.h>

#define PC_PINPOINTS_MAX 64
#define PC_PINPOINT_SIDE 16384 // the longest side of a resolution

// image_grid_pinpoints of a config: (height, width) each, in the file's order.
typedef struct pc_pinpoints {
    int count;
    int32_t hw[PC_PINPOINTS_MAX][2];
} pc_pinpoints;

// Every resolution a multiple of `size` in both directions, at least one of them; errors name the entry.
pc_status pc_pinpoints_validate(const pc_pinpoints *p, int64_t size);

// How one picture is cut.
typedef struct pc_tiles {
    int64_t best_h, best_w;       // the resolution chosen
    int64_t resized_h, resized_w; // the picture inside it
    int64_t top, left;  // where it lies; what the centre cannot share goes below and to the right
    int64_t rows, cols; // tiles
    int64_t crops;      // 1 + rows * cols: the whole picture first
} pc_tiles;

// h, w: the picture; size: a tile's side. The list must be valid.
void pc_tiles_choose(pc_tiles *out, const pc_pinpoints *p, int64_t size, int64_t h, int64_t w);

// The tiles' features as one grid.
typedef struct pc_tile_grid {
    int64_t side;           // features of a crop: (side, side)
    int64_t full_h, full_w; // all tiles: rows * side, cols * side
    int64_t top, left;      // first row and column kept
    int64_t kept_h,
        kept_w; // without the padding; one of them may be 0 for a picture of extreme shape
    int64_t out_h, out_w; // what the decoder gets: kept, or shrunk bilinearly to this (OneVision)
    int64_t tokens;       // side^2 + out_h * (out_w + 1), with a newline behind every row
} pc_tile_grid;

// max_tiles: N of OneVision's "anyres_max_N"; 0: never shrunk. `tiles` must come from the same h, w.
void pc_tile_grid_plan(pc_tile_grid *out, const pc_tiles *tiles, int64_t side, int64_t h, int64_t w,
                       int64_t max_tiles);

// Rows of a picture that is one crop alone (no tiles): its features and one newline.
int64_t pc_tile_single_tokens(int64_t side);

/*
 * Qwen2-VL's smart_resize: sides rounded (half to even) to multiples of `factor` (patch * merge), then the area
 * brought within [min_pixels, max_pixels], aspect kept. PC_ERR_INPUT when one side is over 200 times the other.
 */
pc_status pc_smart_resize(int64_t *out_h, int64_t *out_w, int64_t h, int64_t w, int64_t factor,
                          int64_t min_pixels, int64_t max_pixels);

#endif

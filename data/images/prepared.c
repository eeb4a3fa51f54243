/*
 * prepared.c - see prepared.h.
 *
 *   pixels = (u8 / 255 - mean_c) / std_c, from a table of 256 values a channel
 *
 * Every kind ends in the same step: an 8-bit picture lies somewhere on a canvas of one colour, and windows of the
 * canvas are written out as floats. No canvas is ever built.
 */
#include "data/images/prepared.h"

#include "data/images/decode.h"

#include <stdlib.h>

/* ---- shapes ---- */

static void plan_crops(pc_image_shape *s, int64_t count, int64_t size)
{
    s->rows = count;
    s->size = size;
    s->row = 3 * size * size;
}

pc_status pc_image_plan(pc_image_shape *out, const pc_image_config *c, int64_t height,
                        int64_t width, int64_t images)
{
    *out = (pc_image_shape){.kind = c->kind, .height = height, .width = width};
    switch (c->kind) {
    case PC_IMAGE_SQUARE: plan_crops(out, 1, c->size); return PC_OK;
    case PC_IMAGE_HYBRID:
        plan_crops(out, 1, c->size);
        out->high = c->high.size;
        return PC_OK;
    case PC_IMAGE_TILES:
        out->tiles.crops = 1;
        if (!c->several_whole || images < 2)
            pc_tiles_choose(&out->tiles, &c->pinpoints, c->size, height, width);
        plan_crops(out, out->tiles.crops, c->size);
        return PC_OK;
    case PC_IMAGE_PATCHES: break;
    }
    pc_status st = pc_smart_resize(&out->resized_h, &out->resized_w, height, width,
                                   c->patch * c->merge, c->min_pixels, c->max_pixels);
    if (st) return st;
    out->grid[0] = 1;
    out->grid[1] = out->resized_h / c->patch;
    out->grid[2] = out->resized_w / c->patch;
    out->rows = out->grid[1] * out->grid[2];
    out->row = 3 * c->temporal * c->patch * c->patch;
    return PC_OK;
}

/* ---- pixels ---- */

// The window (S, S) whose corner is (top, left) of the picture, outside of it black.
static void window_floats(float *out, int64_t S, const pc_image *im, int64_t top, int64_t left,
                          const pc_levels *t)
{
    const int64_t n = S * S;
    for (int64_t y = 0; y < S; y++) {
        const int64_t sy = y + top;
        const bool row_in = sy >= 0 && sy < im->height;
        for (int64_t x = 0; x < S; x++) {
            const int64_t sx = x + left;
            const bool in = row_in && sx >= 0 && sx < im->width;
            for (int ch = 0; ch < 3; ch++)
                out[ch * n + y * S + x] =
                    t->of[ch][in ? im->rgb[3 * (sy * im->width + sx) + ch] : 0];
        }
    }
}

static pc_status prepare_square(float *pixels, const pc_image *in, const pc_image_config *c,
                                const pc_levels *t)
{
    pc_image square;
    pc_status st = pc_image_alloc(&square, c->size, c->size);
    if (!st) st = pc_image_fit(square.rgb, in, c);
    if (!st) window_floats(pixels, c->size, &square, 0, 0, t);
    pc_image_close(&square);
    return st;
}

// The small one from the floats of the large one, before mean and deviation.
static pc_status low_from_floats(float *pixels, const pc_image *square, const pc_image_config *c)
{
    static const double zero[3] = {0.0, 0.0, 0.0}, one[3] = {1.0, 1.0, 1.0};
    const int64_t S2 = square->width, n = c->size * c->size;
    pc_levels plain;
    float *whole = malloc((size_t)(3 * S2 * S2) * sizeof *whole);
    if (!whole) return pc_fail(PC_ERR_MEMORY, "%lld pixels as floats", (long long)(S2 * S2));
    pc_image_levels(&plain, zero, one);
    window_floats(whole, S2, square, 0, 0, &plain);
    pc_status st = pc_resize_floats(pixels, whole, S2, c->size);
    free(whole);
    for (int64_t i = 0; i < 3 * n && !st; i++)
        pixels[i] = (float)(((double)pixels[i] - c->mean[i / n]) / c->std[i / n]);
    return st;
}

static pc_status prepare_hybrid(float *pixels, float *high, const pc_image *in,
                                const pc_image_config *c, const pc_levels *t)
{
    const pc_image_high *h = &c->high;
    pc_image square, small = {0};
    pc_levels levels;
    pc_status st = pc_image_alloc(&square, h->size, h->size);
    if (!st) st = pc_image_longest(square.rgb, in, h->size, h->fill, h->filter, c);
    if (!st && high) {
        pc_image_levels(&levels, h->mean, h->std);
        window_floats(high, h->size, &square, 0, 0, &levels);
    }
    if (!st && h->float_low) {
        st = low_from_floats(pixels, &square, c);
    } else if (!st && !(st = pc_image_resize(&small, &square, c->size, c->size, c->filter))) {
        window_floats(pixels, c->size, &small, 0, 0, t);
    }
    pc_image_close(&small);
    pc_image_close(&square);
    return st;
}

static pc_status prepare_tiles(float *pixels, const pc_image *in, const pc_image_config *c,
                               const pc_image_shape *s, const pc_levels *t)
{
    const int64_t S = c->size;
    const pc_tiles *g = &s->tiles;
    pc_image_config one = *c;
    pc_image inside;
    one.kind = PC_IMAGE_SQUARE;
    one.fit = g->crops > 1 ? PC_FIT_SQUASH : PC_FIT_PAD;
    pc_status st = prepare_square(pixels, in, &one, t);
    if (st || g->crops == 1) return st;
    if ((st = pc_image_resize(&inside, in, g->resized_w, g->resized_h, c->filter))) return st;
    for (int64_t i = 1; i < g->crops; i++) {
        const int64_t y = (i - 1) / g->cols * S, x = (i - 1) % g->cols * S;
        window_floats(pixels + i * s->row, S, &inside, y - g->top, x - g->left, t);
    }
    pc_image_close(&inside);
    return PC_OK;
}

// One patch, (3, temporal, patch, patch), whose corner is (top, left).
static void patch_floats(float *out, const pc_image *im, int64_t top, int64_t left,
                         const pc_image_config *c, const pc_levels *t)
{
    const int64_t p = c->patch, area = p * p;
    for (int ch = 0; ch < 3; ch++)
        for (int64_t f = 0; f < c->temporal; f++, out += area)
            for (int64_t i = 0; i < area; i++)
                out[i] = t->of[ch][im->rgb[3 * ((top + i / p) * im->width + left + i % p) + ch]];
}

static pc_status prepare_patches(float *pixels, const pc_image *in, const pc_image_config *c,
                                 const pc_image_shape *s, const pc_levels *t)
{
    const int64_t m = c->merge, block = m * m, across = s->grid[2] / m;
    pc_image resized;
    pc_status st = pc_image_resize(&resized, in, s->resized_w, s->resized_h, c->filter);
    if (st) return st;
    for (int64_t r = 0; r < s->rows; r++) {
        const int64_t b = r / block, k = r % block;
        const int64_t y = b / across * m + k / m, x = b % across * m + k % m;
        patch_floats(pixels + r * s->row, &resized, y * c->patch, x * c->patch, c, t);
    }
    pc_image_close(&resized);
    return PC_OK;
}

pc_status pc_image_prepare_into(float *pixels, float *high, const pc_image *in,
                                const pc_image_config *c, const pc_image_shape *s)
{
    PC_ASSERT(s->kind == c->kind && s->height == in->height && s->width == in->width,
              "a plan of kind %d (%lld,%lld), the image is of kind %d (%lld,%lld)", (int)s->kind,
              (long long)s->height, (long long)s->width, (int)c->kind, (long long)in->height,
              (long long)in->width);
    pc_levels t;
    pc_image_levels(&t, c->mean, c->std);
    switch (s->kind) {
    case PC_IMAGE_SQUARE: return prepare_square(pixels, in, c, &t);
    case PC_IMAGE_TILES: return prepare_tiles(pixels, in, c, s, &t);
    case PC_IMAGE_PATCHES: return prepare_patches(pixels, in, c, s, &t);
    case PC_IMAGE_HYBRID: return prepare_hybrid(pixels, high, in, c, &t);
    }
    return PC_OK;
}

pc_status pc_image_prepare(pc_prepared *out, const pc_image *in, const pc_image_config *c,
                           int64_t images)
{
    *out = (pc_prepared){0};
    pc_status st = pc_image_plan(&out->shape, c, in->height, in->width, images);
    if (st) return st;
    const pc_image_shape *s = &out->shape;
    out->pixels = malloc((size_t)(s->rows * s->row) * sizeof *out->pixels);
    if (s->high) out->high = malloc((size_t)(3 * s->high * s->high) * sizeof *out->high);
    if (!out->pixels || (s->high && !out->high))
        st = pc_fail(PC_ERR_MEMORY, "%lld x %lld pixel values", (long long)s->rows,
                     (long long)s->row);
    if (!st) st = pc_image_prepare_into(out->pixels, out->high, in, c, s);
    if (st) pc_prepared_close(out);
    return st;
}

void pc_prepared_close(pc_prepared *p)
{
    free(p->pixels);
    free(p->high);
    *p = (pc_prepared){0};
}

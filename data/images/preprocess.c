/*
 * preprocess.c - from an image to the numbers that the vision tower sees.
 *
 *   pad     a square of side max(W,H) in the mean colour, int(255 mean), the image at (side - size) // 2;
 *           resized to size x size
 *   crop    shorter side to size, the longer to int(size * long / short); centre crop at (n - size) // 2
 *   squash  straight to size x size
 *   pixels[c][y][x] = (u8 / 255 - mean_c) / std_c
 *
 * The square of `pad` is never built: its rows are made as the resize asks for them.
 */
#include "data/images/decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct canvas {
    const pc_image *im;
    int64_t x, y, side; // where the image lies on the square
    uint8_t colour[3];
} canvas;

static void fill(uint8_t *out, const uint8_t colour[3], int64_t n)
{
    for (int64_t i = 0; i < n; i++) memcpy(out + 3 * i, colour, 3);
}

static void canvas_row(void *arg, uint8_t *out, int64_t y)
{
    const canvas *c = arg;
    const int64_t w = c->im->width, right = c->side - c->x - w, row = y - c->y;
    if (row < 0 || row >= c->im->height) {
        fill(out, c->colour, c->side);
        return;
    }
    fill(out, c->colour, c->x);
    memcpy(out + 3 * c->x, c->im->rgb + row * w * 3, (size_t)(3 * w));
    fill(out + 3 * (c->x + w), c->colour, right);
}

static pc_status fit_pad(uint8_t *out, const pc_image *in, const pc_image_config *c)
{
    const int64_t W = in->width, H = in->height, side = W > H ? W : H;
    canvas square = {in, (side - W) / 2, (side - H) / 2, side, {0}};
    for (int i = 0; i < 3; i++) {
        const double v = floor(255.0 * c->mean[i]);
        square.colour[i] = (uint8_t)(v < 0.0 ? 0.0 : v > 255.0 ? 255.0 : v);
    }
    const pc_rows_source rows = {side, side, canvas_row, &square};
    return pc_resize_window(out, &rows, c->size, c->size, 0, 0, c->size, c->size, c->filter);
}

pc_status pc_image_fit(uint8_t *out, const pc_image *in, const pc_image_config *c)
{
    const int64_t W = in->width, H = in->height, S = c->size;
    PC_ASSERT(W > 0 && H > 0 && S > 0, "image (%lld,%lld) to size %lld", (long long)W, (long long)H,
              (long long)S);
    if (c->fit == PC_FIT_PAD) return fit_pad(out, in, c);
    canvas whole = {.im = in, .side = W};
    const pc_rows_source rows = {W, H, canvas_row, &whole};
    if (c->fit == PC_FIT_SQUASH) return pc_resize_window(out, &rows, S, S, 0, 0, S, S, c->filter);
    // Exact: W, H <= 2^28 and S is far below 2^32.
    const int64_t w = W <= H ? S : S * W / H, h = W <= H ? S * H / W : S;
    return pc_resize_window(out, &rows, w, h, (w - S) / 2, (h - S) / 2, S, S, c->filter);
}

pc_status pc_image_preprocess(float *pixels, const pc_image *in, const pc_image_config *c)
{
    const int64_t n = c->size * c->size;
    const size_t bytes = 3 * (size_t)n;
    uint8_t *u8 = malloc(bytes);
    if (!u8) return pc_fail(PC_ERR_MEMORY, "%zu bytes of an image", bytes);
    pc_status st = pc_image_fit(u8, in, c);
    for (int ch = 0; ch < 3 && !st; ch++) {
        float table[256];
        for (int v = 0; v < 256; v++) table[v] = (float)((v / 255.0 - c->mean[ch]) / c->std[ch]);
        for (int64_t i = 0; i < n; i++) pixels[ch * n + i] = table[u8[3 * i + ch]];
    }
    free(u8);
    return st;
}

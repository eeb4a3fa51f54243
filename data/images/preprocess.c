/*
 * preprocess.c - from an image to the numbers that the vision tower sees.
 *
 *   pad     a square of side max(W,H) in the mean colour, int(255 mean), the image at (side - size) // 2;
 *           resized to size x size
 *   crop    shorter side to size, the longer to int(size * long / short); centre crop at (n - size) // 2
 *   squash  straight to size x size
 *   longest longer side to size, the other to round(n * size / longer), no side below min_size; onto a square of
 *           the mean colour at (size - n) // 2. The original DeepSeek-VL code truncates instead
 *   pixels[c][y][x] = (u8 / 255 - mean_c) / std_c
 *
 * The square of `pad` is never built: its rows are made as the resize asks for them. The small square of the
 * hybrid is the large one, 8-bit and padded, resized.
 */
#include "data/images/decode.h"
#include "data/images/prepared.h"

#include <math.h>
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

void pc_image_colour(uint8_t out[3], const pc_image_config *c)
{
    for (int i = 0; i < 3; i++) {
        const double v = floor(255.0 * c->mean[i]);
        out[i] = c->has_fill ? c->fill[i] : (uint8_t)(v < 0.0 ? 0.0 : v > 255.0 ? 255.0 : v);
    }
}

static pc_status fit_pad(uint8_t *out, const pc_image *in, const pc_image_config *c)
{
    const int64_t W = in->width, H = in->height, side = W > H ? W : H;
    canvas square = {in, (side - W) / 2, (side - H) / 2, side, {0}};
    pc_image_colour(square.colour, c);
    const pc_rows_source rows = {side, side, canvas_row, &square};
    return pc_resize_window(out, &rows, c->size, c->size, 0, 0, c->size, c->size, c->filter);
}

// The order of the operations is that of either code: the last bit decides where a side is halfway.
static int64_t shortened(int64_t n, int64_t longer, int64_t size, const pc_image_config *c)
{
    const double N = (double)n, S = (double)size, M = (double)longer;
    const int64_t least = c->min_size < size ? c->min_size : size;
    const int64_t s = n == longer   ? size
                      : c->truncate ? (int64_t)(N / M * S)
                                    : (int64_t)nearbyint(N * (S / M));
    return s > least ? s : least > 0 ? least : 1;
}

pc_status pc_image_longest(uint8_t *out, const pc_image *in, int64_t size, const uint8_t colour[3],
                           pc_filter filter, const pc_image_config *c)
{
    const int64_t longer = in->width > in->height ? in->width : in->height;
    const int64_t w = shortened(in->width, longer, size, c),
                  h = shortened(in->height, longer, size, c);
    pc_image small;
    pc_status st = pc_image_resize(&small, in, w, h, filter);
    if (st) return st;
    canvas square = {&small, (size - w) / 2, (size - h) / 2, size, {0}};
    memcpy(square.colour, colour, 3);
    for (int64_t y = 0; y < size; y++) canvas_row(&square, out + 3 * y * size, y);
    pc_image_close(&small);
    return PC_OK;
}

static pc_status fit_hybrid(uint8_t *out, const pc_image *in, const pc_image_config *c)
{
    pc_image high;
    const pc_image_high *h = &c->high;
    pc_status st = pc_image_alloc(&high, h->size, h->size);
    if (!st) st = pc_image_longest(high.rgb, in, h->size, h->fill, h->filter, c);
    if (!st) {
        canvas whole = {.im = &high, .side = h->size};
        const pc_rows_source rows = {h->size, h->size, canvas_row, &whole};
        st = pc_resize_window(out, &rows, c->size, c->size, 0, 0, c->size, c->size, c->filter);
    }
    pc_image_close(&high);
    return st;
}

pc_status pc_image_fit(uint8_t *out, const pc_image *in, const pc_image_config *c)
{
    const int64_t W = in->width, H = in->height, S = c->size;
    PC_ASSERT(W > 0 && H > 0 && S > 0, "image (%lld,%lld) to size %lld", (long long)W, (long long)H,
              (long long)S);
    if (c->kind == PC_IMAGE_HYBRID) return fit_hybrid(out, in, c);
    if (c->kind != PC_IMAGE_SQUARE)
        return pc_fail(PC_ERR_INPUT, "images of this model are not one square each");
    if (c->fit == PC_FIT_PAD) return fit_pad(out, in, c);
    if (c->fit == PC_FIT_LONGEST) {
        uint8_t colour[3];
        pc_image_colour(colour, c);
        return pc_image_longest(out, in, S, colour, c->filter, c);
    }
    canvas whole = {.im = in, .side = W};
    const pc_rows_source rows = {W, H, canvas_row, &whole};
    if (c->fit == PC_FIT_SQUASH) return pc_resize_window(out, &rows, S, S, 0, 0, S, S, c->filter);
    // Exact: W, H <= 2^28 and S is far below 2^32.
    const int64_t w = W <= H ? S : S * W / H, h = W <= H ? S * H / W : S;
    return pc_resize_window(out, &rows, w, h, (w - S) / 2, (h - S) / 2, S, S, c->filter);
}

void pc_image_levels(pc_levels *out, const double mean[3], const double std[3])
{
    for (int ch = 0; ch < 3; ch++)
        for (int v = 0; v < 256; v++) out->of[ch][v] = (float)((v / 255.0 - mean[ch]) / std[ch]);
}

pc_status pc_image_preprocess(float *pixels, const pc_image *in, const pc_image_config *c)
{
    pc_image_shape s;
    pc_status st = pc_image_plan(&s, c, in->height, in->width, 1);
    if (!st && s.rows != 1)
        st = pc_fail(PC_ERR_INPUT, "images of this model are not one square each");
    return st ? st : pc_image_prepare_into(pixels, NULL, in, c, &s);
}

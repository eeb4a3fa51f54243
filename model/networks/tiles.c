/*
 * tiles.c - see tiles.h. Formulas run in double in the order in which the published code runs them, because
 * a count that truncates is decided by the last bit.
 */
#include "model/networks/tiles.h"

#include <math.h>

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

pc_status pc_pinpoints_validate(const pc_pinpoints *p, int64_t size)
{
    if (p->count < 1 || p->count > PC_PINPOINTS_MAX)
        return pc_fail(PC_ERR_FORMAT, "%d resolutions of tiles, expected 1 to %d", p->count,
                       PC_PINPOINTS_MAX);
    for (int i = 0; i < p->count; i++) {
        const int64_t h = p->hw[i][0], w = p->hw[i][1];
        if (h < 1 || w < 1 || h > PC_PINPOINT_SIDE || w > PC_PINPOINT_SIDE || size < 1 ||
            h % size || w % size)
            return pc_fail(PC_ERR_FORMAT,
                           "resolution %d of the tiles is %lld x %lld, expected multiples of a "
                           "tile's side %lld, at most %d",
                           i, (long long)h, (long long)w, (long long)size, PC_PINPOINT_SIDE);
    }
    return PC_OK;
}

/*
 * For a resolution (Hc, Wc): s = min(Wc/w, Hc/h), effective = min(int(w s) int(h s), w h), wasted = Hc Wc - effective.
 * The largest effective wins, then the smallest wasted, then the first.
 */
static void choose_best(pc_tiles *out, const pc_pinpoints *p, int64_t h, int64_t w)
{
    int64_t most = -1, least = 0;
    for (int i = 0; i < p->count; i++) {
        const int64_t Hc = p->hw[i][0], Wc = p->hw[i][1];
        const double s = fmin((double)Wc / (double)w, (double)Hc / (double)h);
        const int64_t dw = (int64_t)((double)w * s), dh = (int64_t)((double)h * s);
        const int64_t effective = min64(dw * dh, w * h), wasted = Hc * Wc - effective;
        if (effective < most || (effective == most && wasted >= least)) continue;
        most = effective;
        least = wasted;
        out->best_h = Hc;
        out->best_w = Wc;
    }
}

void pc_tiles_choose(pc_tiles *out, const pc_pinpoints *p, int64_t size, int64_t h, int64_t w)
{
    PC_ASSERT(p->count > 0 && size > 0 && h > 0 && w > 0, "%d resolutions, tile %lld, (%lld,%lld)",
              p->count, (long long)size, (long long)h, (long long)w);
    *out = (pc_tiles){0};
    choose_best(out, p, h, w);
    const double sw = (double)out->best_w / (double)w, sh = (double)out->best_h / (double)h;
    if (sw < sh) {
        out->resized_w = out->best_w;
        out->resized_h = min64((int64_t)ceil((double)h * sw), out->best_h);
    } else {
        out->resized_h = out->best_h;
        out->resized_w = min64((int64_t)ceil((double)w * sh), out->best_w);
    }
    out->top = (out->best_h - out->resized_h) / 2;
    out->left = (out->best_w - out->resized_w) / 2;
    out->rows = out->best_h / size;
    out->cols = out->best_w / size;
    out->crops = 1 + out->rows * out->cols;
}

// floor(x / y) of the exact quotient, which x / y itself may round up to the next whole number.
static int64_t floor_div(double x, double y)
{
    const double q = (x - fmod(x, y)) / y, low = floor(q);
    return (int64_t)(q - low > 0.5 ? low + 1.0 : low);
}

// int(round(x, 7)): 11.99999999 counts as 12.
static int64_t whole(double x)
{
    return (int64_t)(nearbyint(x * 1e7) / 1e7);
}

void pc_tile_grid_plan(pc_tile_grid *out, const pc_tiles *tiles, int64_t side, int64_t h, int64_t w,
                       int64_t max_tiles)
{
    PC_ASSERT(side > 0 && h > 0 && w > 0 && max_tiles >= 0, "side %lld, (%lld,%lld), at most %lld",
              (long long)side, (long long)h, (long long)w, (long long)max_tiles);
    const int64_t gh = tiles->rows * side, gw = tiles->cols * side;
    *out = (pc_tile_grid){.side = side, .full_h = gh, .full_w = gw, .kept_h = gh, .kept_w = gw};
    if ((double)w / (double)h > (double)gw / (double)gh) {
        out->top = (gh - whole((double)h * ((double)gw / (double)w))) / 2;
        out->kept_h = gh - 2 * out->top;
    } else {
        out->left = (gw - whole((double)w * ((double)gh / (double)h))) / 2;
        out->kept_w = gw - 2 * out->left;
    }
    out->out_h = out->kept_h;
    out->out_w = out->kept_w;
    if (max_tiles) {
        const double ratio =
            sqrt((double)(out->kept_h * out->kept_w) / (double)(max_tiles * side * side));
        if (ratio > 1.1) {
            out->out_h = floor_div((double)out->kept_h, ratio);
            out->out_w = floor_div((double)out->kept_w, ratio);
        }
    }
    out->tokens = side * side + out->out_h * (out->out_w + 1);
}

int64_t pc_tile_single_tokens(int64_t side)
{
    return side * side + 1;
}

static int64_t at_least(int64_t x, int64_t least)
{
    return x < least ? least : x;
}

pc_status pc_smart_resize(int64_t *out_h, int64_t *out_w, int64_t h, int64_t w, int64_t factor,
                          int64_t min_pixels, int64_t max_pixels)
{
    PC_ASSERT(h > 0 && w > 0 && factor > 0, "(%lld,%lld), factor %lld", (long long)h, (long long)w,
              (long long)factor);
    const int64_t longer = h > w ? h : w, shorter = h > w ? w : h;
    if ((double)longer / (double)shorter > 200.0)
        return pc_fail(PC_ERR_INPUT,
                       "the image is %lld x %lld: one side is %.1f times the other, at most 200",
                       (long long)w, (long long)h, (double)longer / (double)shorter);
    const double f = (double)factor, area = (double)h * (double)w;
    int64_t H = (int64_t)nearbyint((double)h / f) * factor,
            W = (int64_t)nearbyint((double)w / f) * factor;
    if (H * W > max_pixels) {
        const double b = sqrt(area / (double)max_pixels);
        H = at_least((int64_t)floor((double)h / b / f) * factor, factor);
        W = at_least((int64_t)floor((double)w / b / f) * factor, factor);
    } else if (H * W < min_pixels) {
        const double b = sqrt((double)min_pixels / area);
        H = (int64_t)ceil((double)h * b / f) * factor;
        W = (int64_t)ceil((double)w * b / f) * factor;
    }
    *out_h = at_least(H, factor);
    *out_w = at_least(W, factor);
    return PC_OK;
}

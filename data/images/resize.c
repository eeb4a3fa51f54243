/*
 * resize.c - the antialiased bilinear and bicubic of PIL (12 and earlier), to the bit.
 *
 * One axis, `in` samples to `out`:
 *
 *   scale = in / out,  fs = max(scale, 1),  support = R fs        R = 1 bilinear, 2 bicubic (a = -1/2)
 *   center = (o + 1/2) scale,  window [lo, hi) = center -+ support, rounded and clipped to the samples
 *   w_j = f((lo + j - center + 1/2) / fs), normalised to sum 1;  k_j = w_j 2^22, rounded half away from 0
 *   out_o = clip8((2^21 + sum_j k_j in_{lo+j}) >> 22)
 *
 * The horizontal pass comes first and rounds to 8 bits, then the vertical one. Both are exact integer
 * sums, so the vertical one may add a row at a time: rows stream through, each is resized
 * horizontally once and added to the output rows whose windows hold it; only those are in memory.
 */
#include "data/images/decode.h"

#include <stdlib.h>
#include <string.h>

#define PRECISION 22

// Windows and weights of the outputs [first, first + count) of one axis.
typedef struct axis {
    int64_t count, taps; // taps: room for weights per output
    int64_t *lo, *hi;    // (count)
    int32_t *k;          // (count, taps)
    bool copy;           // same size: output o is sample o
} axis;

static double bilinear(double x)
{
    if (x < 0.0) x = -x;
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x)
{
    const double a = -0.5;
    if (x < 0.0) x = -x;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

static void axis_close(axis *a)
{
    free(a->lo);
    free(a->hi);
    free(a->k);
    *a = (axis){0};
}

// False: no memory.
static bool axis_open(axis *a, int64_t in, int64_t out, int64_t first, int64_t count,
                      pc_filter filter)
{
    double (*f)(double) = filter == PC_FILTER_BICUBIC ? bicubic : bilinear;
    const double scale = (double)in / (double)out, fs = scale > 1.0 ? scale : 1.0;
    const double support = (filter == PC_FILTER_BICUBIC ? 2.0 : 1.0) * fs, inverse = 1.0 / fs;
    const int64_t taps = (int64_t)support * 2 + 3;

    *a = (axis){.count = count, .taps = taps, .copy = in == out};
    const size_t n = (size_t)count;
    a->lo = malloc(n * sizeof *a->lo);
    a->hi = malloc(n * sizeof *a->hi);
    a->k = calloc(n * (size_t)taps, sizeof *a->k);
    double *w = malloc((size_t)taps * sizeof *w);
    if (!a->lo || !a->hi || !a->k || !w) {
        free(w);
        axis_close(a);
        return false;
    }
    for (int64_t i = 0; i < count; i++) {
        const double center = ((double)(first + i) + 0.5) * scale;
        int64_t lo = (int64_t)(center - support + 0.5), hi = (int64_t)(center + support + 0.5);
        if (lo < 0) lo = 0;
        if (hi > in) hi = in;
        double sum = 0.0;
        for (int64_t j = 0; j < hi - lo; j++) {
            w[j] = f(((double)(lo + j) - center + 0.5) * inverse);
            sum += w[j];
        }
        for (int64_t j = 0; j < hi - lo; j++) {
            const double v = (sum != 0.0 ? w[j] / sum : w[j]) * (1 << PRECISION);
            a->k[i * taps + j] = (int32_t)(v + (v < 0.0 ? -0.5 : 0.5));
        }
        a->lo[i] = lo;
        a->hi[i] = hi;
    }
    free(w);
    return true;
}

static uint8_t clip8(int32_t sum)
{
    const int32_t v = sum >> PRECISION;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void resize_row(uint8_t *out, const uint8_t *in, const axis *a)
{
    if (a->copy) {
        memcpy(out, in + 3 * a->lo[0], (size_t)(3 * a->count));
        return;
    }
    for (int64_t i = 0; i < a->count; i++) {
        const int32_t *k = a->k + i * a->taps;
        const uint8_t *p = in + 3 * a->lo[i];
        int32_t r = 1 << (PRECISION - 1), g = r, b = r;
        for (int64_t j = 0; j < a->hi[i] - a->lo[i]; j++) {
            r += k[j] * p[3 * j];
            g += k[j] * p[3 * j + 1];
            b += k[j] * p[3 * j + 2];
        }
        out[3 * i] = clip8(r);
        out[3 * i + 1] = clip8(g);
        out[3 * i + 2] = clip8(b);
    }
}

static void add_row(int32_t *restrict acc, const uint8_t *restrict row, int32_t k, int64_t n)
{
    for (int64_t i = 0; i < n; i++) acc[i] += k * row[i];
}

// The most output rows that any input row contributes to.
static int64_t ring_size(const axis *v)
{
    int64_t most = 1, first = 0;
    for (int64_t o = 0; o < v->count; o++) {
        while (first < o && v->hi[first] <= v->lo[o]) first++;
        if (o - first + 1 > most) most = o - first + 1;
    }
    return most;
}

// Rows from top to bottom: [first, next) are the outputs whose windows have begun and not ended.
static void stream_rows(uint8_t *out, const pc_rows_source *in, const axis *h, const axis *v,
                        uint8_t *source, uint8_t *row, int32_t *ring, int64_t ring_rows)
{
    const int64_t n = 3 * h->count;
    int64_t first = 0, next = 0;
    for (int64_t y = v->lo[0]; first < v->count; y++) {
        for (; next < v->count && v->lo[next] <= y; next++)
            for (int64_t i = 0; i < n; i++) ring[(next % ring_rows) * n + i] = 1 << (PRECISION - 1);
        in->row(in->arg, source, y);
        resize_row(row, source, h);
        for (int64_t o = first; o < next; o++)
            add_row(ring + (o % ring_rows) * n, row, v->k[o * v->taps + y - v->lo[o]], n);
        for (; first < next && v->hi[first] == y + 1; first++)
            for (int64_t i = 0; i < n; i++)
                out[first * n + i] = clip8(ring[(first % ring_rows) * n + i]);
    }
}

pc_status pc_resize_window(uint8_t *out, const pc_rows_source *in, int64_t full_w, int64_t full_h,
                           int64_t x0, int64_t y0, int64_t w, int64_t h, pc_filter filter)
{
    PC_ASSERT(w > 0 && h > 0 && x0 >= 0 && y0 >= 0 && x0 + w <= full_w && y0 + h <= full_h,
              "window (%lld,%lld)+(%lld,%lld) of (%lld,%lld)", (long long)x0, (long long)y0,
              (long long)w, (long long)h, (long long)full_w, (long long)full_h);
    pc_status st = PC_OK;
    axis across = {0}, down = {0};
    uint8_t *source = NULL, *row = NULL;
    int32_t *ring = NULL;
    if (!axis_open(&across, in->width, full_w, x0, w, filter) ||
        !axis_open(&down, in->height, full_h, y0, h, filter)) {
        st = pc_fail(PC_ERR_MEMORY, "tables of a resize from (%lld,%lld) to (%lld,%lld)",
                     (long long)in->width, (long long)in->height, (long long)full_w,
                     (long long)full_h);
        goto out;
    }
    const int64_t ring_rows = ring_size(&down);
    source = malloc((size_t)(3 * in->width));
    row = malloc((size_t)(3 * w));
    ring = malloc((size_t)(ring_rows * 3 * w) * sizeof *ring);
    if (!source || !row || !ring) {
        st = pc_fail(PC_ERR_MEMORY, "rows of a resize from %lld to %lld pixels",
                     (long long)in->width, (long long)w);
        goto out;
    }
    stream_rows(out, in, &across, &down, source, row, ring, ring_rows);
out:
    free(source);
    free(row);
    free(ring);
    axis_close(&across);
    axis_close(&down);
    return st;
}

static void image_row(void *arg, uint8_t *out, int64_t y)
{
    const pc_image *im = arg;
    memcpy(out, im->rgb + y * im->width * 3, (size_t)(im->width * 3));
}

pc_status pc_image_resize(pc_image *out, const pc_image *in, int64_t width, int64_t height,
                          pc_filter filter)
{
    const pc_rows_source rows = {in->width, in->height, image_row, (void *)(uintptr_t)in};
    *out = (pc_image){0};
    pc_status st = pc_image_alloc(out, width, height);
    if (!st) st = pc_resize_window(out->rgb, &rows, width, height, 0, 0, width, height, filter);
    if (st) pc_image_close(out);
    return st;
}

/*
 * resize_float.c - the resize of tensors that the original DeepSeek-VL code does between its two towers: bilinear
 * with antialias, floats in and out (spec: deepseek-vl.md 1).
 *
 *   scale = from / to,  fs = max(scale, 1);  center = (o + 1/2) scale,  window [lo, hi) = center -+ fs, clipped
 *   w_j = max(0, 1 - |lo + j - center + 1/2| / fs), normalised to sum 1
 *
 * Columns first, then rows; sums in double.
 */
#include "data/images/decode.h"

#include <math.h>
#include <stdlib.h>

// Output o of n numbers `stride` apart.
static float blend(const float *in, int64_t n, int64_t stride, int64_t o, double scale)
{
    const double fs = scale > 1.0 ? scale : 1.0, center = ((double)o + 0.5) * scale;
    int64_t lo = (int64_t)(center - fs + 0.5), hi = (int64_t)(center + fs + 0.5);
    double sum = 0.0, weights = 0.0;
    if (lo < 0) lo = 0;
    if (hi > n) hi = n;
    for (int64_t j = lo; j < hi; j++) {
        const double w = 1.0 - fabs((double)j - center + 0.5) / fs;
        if (w <= 0.0) continue;
        weights += w;
        sum += w * (double)in[j * stride];
    }
    return (float)(sum / weights);
}

pc_status pc_resize_floats(float *out, const float *in, int64_t from, int64_t to)
{
    const double scale = (double)from / (double)to;
    float *across = malloc((size_t)(from * to) * sizeof *across); // (from, to) of one channel
    if (!across)
        return pc_fail(PC_ERR_MEMORY, "rows of a resize from %lld to %lld", (long long)from,
                       (long long)to);
    for (int ch = 0; ch < 3; ch++) {
        const float *plane = in + ch * from * from;
        float *o = out + ch * to * to;
        for (int64_t y = 0; y < from; y++)
            for (int64_t x = 0; x < to; x++)
                across[y * to + x] = blend(plane + y * from, from, 1, x, scale);
        for (int64_t y = 0; y < to; y++)
            for (int64_t x = 0; x < to; x++) o[y * to + x] = blend(across + x, from, to, y, scale);
    }
    free(across);
    return PC_OK;
}

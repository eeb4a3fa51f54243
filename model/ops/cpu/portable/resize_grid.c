/*
 * resize_grid.c - a grid of rows under another size: position tables (portable kernels).
 *
 *   forward    y[i,j] = sum_{a,b = -1..2} k(fy - a) k(fx - b) x[clamp(iy + a), clamp(ix + b)]
 *              (i + 1/2) h1/h2 - 1/2 = iy + fy, iy whole, 0 <= fy < 1; columns likewise
 *   backward   dx += the same weights times dy            accumulated: a parameter
 *
 * k is the cubic convolution kernel (Keys 1981) with A = -0.75, no antialiasing:
 *   |t| <= 1   (A+2)|t|^3 - (A+3)|t|^2 + 1
 *   |t| <  2   A|t|^3 - 5A|t|^2 + 8A|t| - 4A
 *
 * Shapes: x (h1*w1,C), y (h2*w2,C), row-major grids. Weights in double. Backward shares out the columns.
 */
#include <math.h>
#include <string.h>

#include "model/ops/cpu/portable.h"

typedef struct resize_job {
    pc_tensor y, x;
    int64_t h2, w2, h1, w1;
} resize_job;

typedef struct taps {
    int64_t at[4];
    double weight[4];
} taps;

static double cubic(double t)
{
    const double A = -0.75;
    t = fabs(t);
    if (t <= 1.0) return ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    if (t < 2.0) return ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    return 0.0;
}

// The four places along one axis that output `i` of `out` reads, of `in`.
static taps taps_of(int64_t i, int64_t out, int64_t in)
{
    const double centre = ((double)i + 0.5) * (double)in / (double)out - 0.5;
    const double whole = floor(centre);
    taps t;
    for (int k = 0; k < 4; k++) {
        const int64_t at = (int64_t)whole + k - 1;
        t.at[k] = pc_min64(pc_max64(at, 0), in - 1);
        t.weight[k] = cubic(centre - whole - (double)(k - 1));
    }
    return t;
}

static void resize_lines(void *arg, int64_t begin, int64_t end, int worker)
{
    const resize_job *j = arg;
    const int64_t C = j->x.dim[1];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const taps down = taps_of(i, j->h2, j->h1);
        for (int64_t o = 0; o < j->w2; o++) {
            const taps across = taps_of(o, j->w2, j->w1);
            real *y = pc_row(j->y, i * j->w2 + o);
            memset(y, 0, (size_t)C * sizeof *y);
            for (int k = 0; k < 16; k++) {
                const real weight = (real)(down.weight[k / 4] * across.weight[k % 4]);
                const real *x = pc_row(j->x, down.at[k / 4] * j->w1 + across.at[k % 4]);
                for (int64_t c = 0; c < C; c++) y[c] += weight * x[c];
            }
        }
    }
}

static void check(const resize_job *j)
{
    PC_SAME("resize_grid: rows of y", j->y.dim[0], j->h2 * j->w2);
    PC_SAME("resize_grid: rows of x", j->x.dim[0], j->h1 * j->w1);
    PC_SAME("resize_grid: columns of y and x", j->y.dim[1], j->x.dim[1]);
}

void R(resize_grid_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, int64_t h2, int64_t w2,
                            int64_t h1, int64_t w1)
{
    resize_job job = {y, x, h2, w2, h1, w1};
    check(&job);
    pc_parallel(ctx->pool, h2, pc_row_grain(16 * w2 * x.dim[1]), resize_lines, &job);
}

static void resize_columns_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const resize_job *j = arg;
    (void)worker;
    for (int64_t i = 0; i < j->h2; i++) {
        const taps down = taps_of(i, j->h2, j->h1);
        for (int64_t o = 0; o < j->w2; o++) {
            const taps across = taps_of(o, j->w2, j->w1);
            const real *dy = pc_row(j->y, i * j->w2 + o);
            for (int k = 0; k < 16; k++) {
                const real weight = (real)(down.weight[k / 4] * across.weight[k % 4]);
                real *dx = pc_row(j->x, down.at[k / 4] * j->w1 + across.at[k % 4]);
                for (int64_t c = begin; c < end; c++) dx[c] += weight * dy[c];
            }
        }
    }
}

void R(resize_grid_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2,
                             int64_t h1, int64_t w1)
{
    resize_job job = {dy, dx, h2, w2, h1, w1};
    check(&job);
    pc_parallel(ctx->pool, dx.dim[1], pc_max64(16, pc_row_grain(16 * h2 * w2)),
                resize_columns_backward, &job);
}

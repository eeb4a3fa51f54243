/*
 * l2norm.c - rows of length one (portable kernels).
 *
 *   forward    inv[b] = 1 / max(|x[b]|, 1e-12),  y = x inv
 *   backward   dx = inv (dy - y (y.dy))               overwritten: an activation; dx may be dy
 *
 * Shapes: x, y, dx, dy (B,E); inv (B), kept from forward. Sums run in double.
 */
#include <math.h>

#include "model/ops/cpu/portable_sums.h"

typedef struct l2norm_job {
    pc_tensor out, dy, x, inv; // x is y in backward
} l2norm_job;

static void l2norm_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const l2norm_job *j = arg;
    const int64_t E = j->x.dim[1];
    real *inv = j->inv.data;
    (void)worker;
    for (int64_t b = begin; b < end; b++) {
        const real *x = pc_row(j->x, b);
        real *y = pc_row(j->out, b);
        const double length = sqrt(pc_dot(x, x, E));
        const real r = (real)(1.0 / (length < 1e-12 ? 1e-12 : length));
        for (int64_t e = 0; e < E; e++) y[e] = x[e] * r;
        inv[b] = r;
    }
}

void R(l2norm_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor inv, pc_tensor x)
{
    PC_SAME("l2norm: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("l2norm: columns of y and x", y.dim[1], x.dim[1]);
    l2norm_job job = {.out = y, .x = x, .inv = inv};
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(x.dim[1]), l2norm_rows, &job);
}

static void l2norm_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const l2norm_job *j = arg;
    const int64_t E = j->x.dim[1];
    const real *inv = j->inv.data;
    (void)worker;
    for (int64_t b = begin; b < end; b++) {
        const real *y = pc_row(j->x, b), *dy = pc_row(j->dy, b);
        real *dx = pc_row(j->out, b);
        const real dot = (real)pc_dot(y, dy, E), r = inv[b];
        for (int64_t e = 0; e < E; e++) dx[e] = r * (dy[e] - y[e] * dot);
    }
}

void R(l2norm_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor y, pc_tensor inv)
{
    PC_SAME("l2norm: rows of dx and dy", dx.dim[0], dy.dim[0]);
    PC_SAME("l2norm: columns of dy and y", dy.dim[1], y.dim[1]);
    l2norm_job job = {dx, dy, y, inv};
    pc_parallel(ctx->pool, y.dim[0], pc_row_grain(y.dim[1]), l2norm_rows_backward, &job);
}

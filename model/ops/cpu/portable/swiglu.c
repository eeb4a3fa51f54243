/*
 * swiglu.c - the gated product of a decoder's feed-forward layer (portable kernels).
 *
 *   forward    h = g s(g) u                     s the logistic function
 *   backward   dg = dh u s (1 + g (1 - s))      overwritten: activations
 *              du = dh g s
 *
 * Shapes: gu (N,2F), columns [0,F) are g and [F,2F) u; h (N,F); dgu like gu, and may not be gu.
 */
#include "model/ops/cpu/portable_math.h"

typedef struct swiglu_job {
    pc_tensor out, dh, gu;
} swiglu_job;

static void swiglu_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const swiglu_job *j = arg;
    const int64_t F = j->out.dim[1];
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const real *g = pc_row(j->gu, n), *u = g + F;
        real *h = pc_row(j->out, n);
        for (int64_t f = 0; f < F; f++) h[f] = g[f] / (1 + pc_exp(-g[f])) * u[f];
    }
}

void R(swiglu_forward)(pc_ctx *ctx, pc_tensor h, pc_tensor gu)
{
    PC_SAME("swiglu: rows of h and gu", h.dim[0], gu.dim[0]);
    PC_SAME("swiglu: twice the columns of h, and those of gu", 2 * h.dim[1], gu.dim[1]);
    swiglu_job job = {.out = h, .gu = gu};
    pc_parallel(ctx->pool, h.dim[0], pc_row_grain(8 * h.dim[1]), swiglu_rows, &job);
}

static void swiglu_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const swiglu_job *j = arg;
    const int64_t F = j->dh.dim[1];
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const real *g = pc_row(j->gu, n), *u = g + F, *dh = pc_row(j->dh, n);
        real *restrict dg = pc_row(j->out, n), *restrict du = dg + F;
        for (int64_t f = 0; f < F; f++) {
            const real s = 1 / (1 + pc_exp(-g[f]));
            dg[f] = dh[f] * u[f] * (s * (1 + g[f] * (1 - s)));
            du[f] = dh[f] * g[f] * s;
        }
    }
}

void R(swiglu_backward)(pc_ctx *ctx, pc_tensor dgu, pc_tensor dh, pc_tensor gu)
{
    PC_SAME("swiglu: rows of dh and gu", dh.dim[0], gu.dim[0]);
    PC_SAME("swiglu: columns of dgu and gu", dgu.dim[1], gu.dim[1]);
    PC_ASSERT(dgu.data != gu.data, "swiglu: dgu may not lie over gu");
    swiglu_job job = {dgu, dh, gu};
    pc_parallel(ctx->pool, dh.dim[0], pc_row_grain(8 * dh.dim[1]), swiglu_rows_backward, &job);
}

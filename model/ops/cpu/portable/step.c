/*
 * step.c - an optimiser step over a list of pieces, and the gate in front of it (portable kernels; formulas: ops.h).
 *
 * Pieces whose numbers are all `real` go through the kernels for one tensor of ctx's own table, so that a step over a
 * list is bit for bit the step over its tensors. Others are widened a block at a time.
 */
#include <math.h>

#include "model/ops/cpu/portable/pieces.h"
#include "model/ops/cpu/portable_sums.h"

void R(add_sum)(pc_ctx *ctx, pc_tensor out, pc_tensor x, double by)
{
    (void)ctx;
    PC_ASSERT(pc_is_dense(x) && out.dtype == PC_F64, "add_sum: x dense, the sum f64");
    *(double *)out.data += by * pc_sum(x.data, pc_numel(x));
}

void R(clamp)(pc_ctx *ctx, pc_tensor x, double low, double high)
{
    const real bottom = (real)low, top = (real)high;
    real *v = x.data;
    (void)ctx;
    PC_ASSERT(pc_is_dense(x), "clamp: x is dense");
    for (int64_t i = 0; i < pc_numel(x); i++) {
        if (v[i] < bottom) v[i] = bottom; // NaN stays
        if (v[i] > top) v[i] = top;
    }
}

void R(square_sums)(pc_ctx *ctx, pc_tensor sums, const pc_piece *list, int64_t count)
{
    double *out = sums.data;
    for (int64_t p = 0; p < count; p++) {
        const pc_piece *a = &list[p];
        out[p] = 0.0;
        if (a->g_type == PC_REAL) {
            ctx->grad_ops->square_sum(ctx, pc_view1(&out[p], PC_F64, 1),
                                      pc_view1(a->g, PC_REAL, a->n));
            continue;
        }
        for (int64_t i = 0; i < a->n; i += PIECE_BLOCK) {
            real space[PIECE_BLOCK];
            const int64_t n = pc_min64(PIECE_BLOCK, a->n - i);
            const real *g = piece_read(space, a->g, a->g_type, i, n);
            out[p] += pc_dot(g, g, n);
        }
    }
}

void R(step_gate)(pc_ctx *ctx, pc_tensor gate, pc_tensor sums, pc_tensor loss, double clip)
{
    double *to = gate.data, sum = 0.0;
    const double *from = sums.data;
    (void)ctx;
    for (int64_t i = 0; i < pc_numel(sums); i++) sum += from[i];
    const double norm = sqrt(sum), l = pc_present(loss) ? *(const double *)loss.data : 0.0;
    to[PC_GATE_LOSS] = l;
    to[PC_GATE_NORM] = norm;
    to[PC_GATE_SCALE] = clip > 0.0 ? fmin(1.0, clip / (norm + PC_CLIP_TINY)) : 1.0;
    if (!isfinite(l) || !isfinite(norm)) to[PC_GATE_SHUT] = 1.0;
}

// One piece, a block at a time, through the kernel for tensors.
static void mixed_piece(pc_ctx *ctx, const pc_piece *p, const pc_adamw *hyper,
                        const pc_rng_key *rounding)
{
    real ws[PIECE_BLOCK], ms[PIECE_BLOCK], vs[PIECE_BLOCK], gs[PIECE_BLOCK];
    pc_ctx alone = *ctx;
    alone.pool = NULL;
    for (int64_t i = 0; i < p->n; i += PIECE_BLOCK) {
        const int64_t n = pc_min64(PIECE_BLOCK, p->n - i), at = p->first + i;
        real *w = piece_read(ws, piece_kept(p), piece_kept_type(p), i, n);
        real *m = piece_read(ms, p->m, p->moment_type, i, n);
        real *v = piece_read(vs, p->v, p->moment_type, i, n);
        real *g = piece_read(gs, p->g, p->g_type, i, n);
        ctx->grad_ops->adamw(&alone, pc_view1(w, PC_REAL, n), pc_view1(m, PC_REAL, n),
                             pc_view1(v, PC_REAL, n), pc_view1(g, PC_REAL, n), hyper);
        piece_put_weight(p, i, n, w, rounding);
        piece_write(p->m, p->moment_type, i, n, m, at, PC_ROUND_M, rounding);
        piece_write(p->v, p->moment_type, i, n, v, at, PC_ROUND_V, rounding);
    }
}

void R(adamw_list)(pc_ctx *ctx, const pc_piece *list, int64_t count, const pc_adamw *hyper,
                   pc_tensor gate, const pc_rng_key *rounding)
{
    const double *by = gate.data;
    if (by[PC_GATE_SHUT] != 0.0) return;
    for (int64_t i = 0; i < count; i++) {
        const pc_piece *p = &list[i];
        pc_adamw own = *hyper;
        own.lr *= p->lr_scale;
        own.weight_decay *= p->decay;
        own.grad_scale *= by[PC_GATE_SCALE];
        if (!p->master && p->w_type == PC_REAL && p->moment_type == PC_REAL && p->g_type == PC_REAL)
            ctx->grad_ops->adamw(ctx, pc_view1(p->w, PC_REAL, p->n), pc_view1(p->m, PC_REAL, p->n),
                                 pc_view1(p->v, PC_REAL, p->n), pc_view1(p->g, PC_REAL, p->n),
                                 &own);
        else
            mixed_piece(ctx, p, &own, rounding);
    }
}

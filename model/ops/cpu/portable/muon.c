/*
 * muon.c - orthogonalised momentum (portable kernels; formulas: ops.h and step.h).
 *
 *   ahead       m <- b m + (1 - b) g',  u = (1 - b) g' + b m with the new m,  X = u / (|u|_F + 1e-7)
 *   orthogonal  A = X X^T,  P = a I + b A + c A A,  X <- P X;  for tall X: A = X^T X,  X <- X P, which is the same
 *   apply       w <- (1 - lr wd) w - 0.2 lr sqrt(max(R,C)) X
 *
 * Shapes: X (B,R,C) dense. The products are ctx's own linear maps: y = x W^T, dx = dy W and dW = dy^T x.
 */
#include <math.h>

#include "model/ops/cpu/portable/pieces.h"

static pc_tensor matrix_of(pc_tensor X, int64_t b)
{
    real *data = (real *)X.data + b * X.dim[1] * X.dim[2];
    return pc_view2(data, PC_REAL, X.dim[1], X.dim[2]);
}

static void ahead(pc_tensor X, const pc_piece *p, double beta, double by,
                  const pc_rng_key *rounding)
{
    const real keep = (real)beta, take = (real)(1.0 - beta), scale = (real)by;
    real ms[PIECE_BLOCK], gs[PIECE_BLOCK], *x = X.data;
    double sum = 0.0;
    for (int64_t i = 0; i < p->n; i += PIECE_BLOCK) {
        const int64_t n = pc_min64(PIECE_BLOCK, p->n - i);
        real *m = piece_read(ms, p->m, p->moment_type, i, n);
        const real *g = piece_read(gs, p->g, p->g_type, i, n);
        for (int64_t k = 0; k < n; k++) {
            const real gk = scale * g[k];
            m[k] = keep * m[k] + take * gk;
            x[i + k] = take * gk + keep * m[k];
            sum += (double)x[i + k] * (double)x[i + k];
        }
        piece_write(p->m, p->moment_type, i, n, m, p->first + i, PC_ROUND_M, rounding);
    }
    const real inverse = (real)(1.0 / (sqrt(sum) + PC_MUON_TINY));
    for (int64_t i = 0; i < p->n; i++) x[i] *= inverse;
}

void R(muon_ahead)(pc_ctx *ctx, pc_tensor X, const pc_piece *list, double beta, pc_tensor gate,
                   const pc_rng_key *rounding)
{
    const double *by = gate.data;
    (void)ctx;
    PC_ASSERT(X.rank == 3 && X.dtype == PC_REAL, "muon_ahead: X is (B,R,C)");
    if (by[PC_GATE_SHUT] != 0.0) return;
    for (int64_t b = 0; b < X.dim[0]; b++) {
        PC_SAME("muon_ahead: numbers of X and the piece", X.dim[1] * X.dim[2], list[b].n);
        ahead(matrix_of(X, b), &list[b], beta, by[PC_GATE_SCALE], rounding);
    }
}

// P <- a I + b A + c P, all (r,r): the polynomial in A, P holding A A.
static void polynomial(pc_tensor P, pc_tensor A)
{
    const int64_t r = A.dim[0];
    const real a = (real)PC_QUINTIC_A, b = (real)PC_QUINTIC_B, c = (real)PC_QUINTIC_C;
    for (int64_t i = 0; i < r; i++) {
        real *p = pc_row(P, i);
        const real *q = pc_row(A, i);
        for (int64_t j = 0; j < r; j++) p[j] = b * q[j] + c * p[j];
        p[i] += a;
    }
}

static void turn(pc_ctx *ctx, pc_tensor X, pc_tensor A, pc_tensor P, pc_tensor Y)
{
    const bool tall = X.dim[0] > X.dim[1];
    for (int k = 0; k < PC_QUINTIC_STEPS; k++) {
        if (tall)
            ctx->grad_ops->linear_backward(ctx, PC_NONE, A, PC_NONE, X, X, A, true);
        else
            ctx->ops->linear_forward(ctx, A, X, X, PC_NONE, PC_NONE);
        ctx->ops->linear_forward(ctx, P, A, A, PC_NONE, PC_NONE); // A is symmetric: A A^T = A A
        polynomial(P, A);
        if (tall)
            ctx->ops->linear_forward(ctx, Y, X, P, PC_NONE, PC_NONE);
        else
            ctx->grad_ops->linear_backward(ctx, Y, PC_NONE, PC_NONE, P, PC_NONE, X, false);
        ctx->ops->copy_forward(ctx, X, Y);
    }
}

void R(orthogonal)(pc_ctx *ctx, pc_tensor X)
{
    const int64_t R = X.dim[1], C = X.dim[2], r = pc_min64(R, C);
    const size_t mark = pc_arena_mark(ctx->scratch);
    PC_ASSERT(X.rank == 3 && X.dtype == PC_REAL && pc_is_dense(X), "orthogonal: X is (B,R,C)");
    const pc_tensor A = pc_alloc2(ctx->scratch, PC_REAL, r, r),
                    P = pc_alloc2(ctx->scratch, PC_REAL, r, r),
                    Y = pc_alloc2(ctx->scratch, PC_REAL, R, C);
    for (int64_t b = 0; b < X.dim[0]; b++) turn(ctx, matrix_of(X, b), A, P, Y);
    pc_arena_release(ctx->scratch, mark);
}

static void apply(const pc_piece *p, const real *x, double lr, double decay, double side,
                  const pc_rng_key *rounding)
{
    const real keep = (real)(1.0 - lr * decay), step = (real)(lr * PC_MUON_SCALE * sqrt(side));
    real ws[PIECE_BLOCK];
    for (int64_t i = 0; i < p->n; i += PIECE_BLOCK) {
        const int64_t n = pc_min64(PIECE_BLOCK, p->n - i);
        real *w = piece_read(ws, piece_kept(p), piece_kept_type(p), i, n);
        for (int64_t k = 0; k < n; k++) w[k] = keep * w[k] - step * x[i + k];
        piece_put_weight(p, i, n, w, rounding);
    }
}

void R(muon_apply)(pc_ctx *ctx, const pc_piece *list, pc_tensor X, double lr, double weight_decay,
                   pc_tensor gate, const pc_rng_key *rounding)
{
    const double *by = gate.data, side = (double)pc_max64(X.dim[1], X.dim[2]);
    (void)ctx;
    if (by[PC_GATE_SHUT] != 0.0) return;
    for (int64_t b = 0; b < X.dim[0]; b++)
        apply(&list[b], matrix_of(X, b).data, lr * list[b].lr_scale, weight_decay * list[b].decay,
              side, rounding);
}

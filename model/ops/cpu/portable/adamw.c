/*
 * adamw.c - one AdamW step (Loshchilov and Hutter 2019), in PyTorch's order.
 *
 *   g <- grad_scale g                                         the clipping factor
 *   w <- w (1 - lr wd)                                        decay first, with the old w
 *   m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
 *   w <- w - (lr / c1) m / (sqrt(v) / sqrt(c2) + eps)         c = 1 - beta^t
 *
 * Shapes: w, m, v, g alike and dense.
 */
#include <math.h>

#include "model/ops/cpu/portable.h"

typedef struct adamw_job {
    real *w, *m, *v;
    const real *g;
    const pc_adamw *hyper;
} adamw_job;

static inline real root(real x)
{
#ifdef PC_REAL_F64
    return sqrt(x);
#else
    return sqrtf(x);
#endif
}

static void adamw_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const adamw_job *j = arg;
    const pc_adamw *a = j->hyper;
    const real shrink = (real)(1.0 - a->lr * a->weight_decay), scale = (real)a->grad_scale;
    const real beta1 = (real)a->beta1, rest1 = (real)(1.0 - a->beta1);
    const real beta2 = (real)a->beta2, rest2 = (real)(1.0 - a->beta2);
    const real rate = (real)(a->lr / a->correct1), root2 = (real)sqrt(a->correct2);
    const real eps = (real)a->eps;
    real *restrict w = j->w, *restrict m = j->m, *restrict v = j->v;
    const real *restrict grad = j->g;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const real g = grad[i] * scale;
        m[i] = beta1 * m[i] + rest1 * g;
        v[i] = beta2 * v[i] + rest2 * (g * g);
        w[i] = w[i] * shrink - rate * (m[i] / (root(v[i]) / root2 + eps));
    }
}

void R(adamw)(pc_ctx *ctx, pc_tensor w, pc_tensor m, pc_tensor v, pc_tensor g,
              const pc_adamw *hyper)
{
    const int64_t n = pc_numel(w);
    PC_SAME("adamw: elements of w and g", n, pc_numel(g));
    PC_SAME("adamw: elements of w and m", n, pc_numel(m));
    PC_SAME("adamw: elements of w and v", n, pc_numel(v));
    PC_ASSERT(pc_is_dense(w) && pc_is_dense(m) && pc_is_dense(v) && pc_is_dense(g),
              "adamw: parameters and their state are dense");
    adamw_job job = {w.data, m.data, v.data, g.data, hyper};
    pc_parallel(ctx->pool, n, pc_row_grain(4), adamw_piece, &job);
}

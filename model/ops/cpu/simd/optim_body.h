/*
 * optim_body.h - the optimiser's passes over parameters (formulas: portable/adamw.c, square_sum.c).
 */
#include <math.h>

#include "model/ops/cpu/simd/simd.h"
#include "model/ops/cpu/workspace.h"

typedef struct adamw_job {
    float *w, *m, *v;
    const float *g;
    const pc_adamw *hyper;
} adamw_job;

static void adamw_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const adamw_job *j = arg;
    const pc_adamw *a = j->hyper;
    const vf shrink = v_set1((float)(1.0 - a->lr * a->weight_decay));
    const vf scale = v_set1((float)a->grad_scale);
    const vf beta1 = v_set1((float)a->beta1), rest1 = v_set1((float)(1.0 - a->beta1));
    const vf beta2 = v_set1((float)a->beta2), rest2 = v_set1((float)(1.0 - a->beta2));
    const vf rate = v_set1((float)(a->lr / a->correct1)), eps = v_set1((float)a->eps);
    const vf root2 = v_set1((float)(1.0 / sqrt(a->correct2)));
    (void)worker;
    for (int64_t i = begin; i < end; i += VW) {
        const int64_t left = end - i;
        const vf g = v_mul(v_load_tail(j->g + i, left), scale);
        const vf m = v_fma(beta1, v_load_tail(j->m + i, left), v_mul(rest1, g));
        const vf v = v_fma(beta2, v_load_tail(j->v + i, left), v_mul(rest2, v_mul(g, g)));
        const vf step = v_div(m, v_fma(v_sqrt(v), root2, eps));
        const vf w = v_mul(v_load_tail(j->w + i, left), shrink);
        v_store_tail(j->m + i, left, m);
        v_store_tail(j->v + i, left, v);
        v_store_tail(j->w + i, left, v_fnma(rate, step, w));
    }
}

void S(adamw)(pc_ctx *ctx, pc_tensor w, pc_tensor m, pc_tensor v, pc_tensor g,
              const pc_adamw *hyper)
{
    const int64_t n = pc_numel(w);
    PC_SAME("adamw: elements of w and g", n, pc_numel(g));
    PC_SAME("adamw: elements of w and m", n, pc_numel(m));
    PC_SAME("adamw: elements of w and v", n, pc_numel(v));
    PC_ASSERT(pc_is_dense(w) && pc_is_dense(m) && pc_is_dense(v) && pc_is_dense(g),
              "adamw: parameters and their state are dense");
    adamw_job job = {w.data, m.data, v.data, g.data, hyper};
    pc_parallel(ctx->pool, n, pc_row_grain(1), adamw_piece, &job);
}

void S(accumulate)(pc_ctx *ctx, pc_tensor y, pc_tensor x)
{
    S(add_forward)(ctx, y, y, x);
}

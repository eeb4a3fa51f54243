/*
 * rmsnorm.c - root-mean-square normalisation (portable kernels).
 *
 *   forward    rstd[n] = 1 / sqrt(mean_c x[n,c]^2 + eps),  y[n,c] = g[c] x[n,c] rstd[n]
 *   backward   a[n]  = rstd[n]^2 mean_c g[c] dy[n,c] x[n,c]
 *              dx    = rstd (g dy - a x) + add?        overwritten: an activation
 *              dg   += sum_n dy x rstd                 accumulated: a parameter
 *
 * Shapes: x, y, dx, dy, add? (N,C) with rstd (N), or heads (N,H,C) with rstd (N,H): each head of each
 * row is normalised on its own, all with the same g (C). Rows may be strided. y may be x; dx may be dy
 * or add; dg may be absent. Sums run in double; the threads' sums of dg are added in their order.
 */
#include <math.h>
#include <string.h>

#include "model/ops/cpu/portable_sums.h"
#include "model/ops/cpu/workspace.h"

typedef struct rmsnorm_job {
    pc_tensor y, rstd, x, g;
    double eps;
} rmsnorm_job;

static inline int64_t heads_of(pc_tensor x)
{
    return x.rank == 3 ? x.dim[1] : 1;
}

static void rmsnorm_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const rmsnorm_job *j = arg;
    const int64_t H = heads_of(j->x), C = j->g.dim[0];
    const real *gain = j->g.data;
    real *rstd = j->rstd.data;
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        for (int64_t h = 0; h < H; h++) {
            const real *x = pc_row(j->x, n) + h * C;
            real *y = pc_row(j->y, n) + h * C;
            const real r = (real)(1.0 / sqrt(pc_dot(x, x, C) / (double)C + j->eps));
            for (int64_t c = 0; c < C; c++) y[c] = gain[c] * (x[c] * r);
            rstd[n * H + h] = r;
        }
    }
}

void R(rmsnorm_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor rstd, pc_tensor x, pc_tensor g,
                        double eps)
{
    PC_SAME("rmsnorm: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("rmsnorm: width of x and g", pc_row_len(x), heads_of(x) * g.dim[0]);
    rmsnorm_job job = {y, rstd, x, g, eps};
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(pc_row_len(x)), rmsnorm_rows, &job);
}

typedef struct rmsnorm_back_job {
    pc_tensor dx, dy, x, g, rstd, add;
    bool params;
    double *sums; // (threads, C)
} rmsnorm_back_job;

static void rmsnorm_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const rmsnorm_back_job *j = arg;
    const int64_t H = heads_of(j->x), C = j->g.dim[0];
    const real *gain = j->g.data, *rstd = j->rstd.data;
    double *dgain = j->sums + worker * C;
    for (int64_t n = begin; n < end; n++) {
        for (int64_t h = 0; h < H; h++) {
            const real *x = pc_row(j->x, n) + h * C, *dy = pc_row(j->dy, n) + h * C;
            real *dx = pc_row(j->dx, n) + h * C;
            const real r = rstd[n * H + h];
            double sum_u = 0.0, dot = 0.0;
            pc_norm_sums(&sum_u, &dot, gain, dy, x, 0, C);
            const real a = (real)(dot / (double)C) * r * r;
            if (j->params)
                for (int64_t c = 0; c < C; c++) dgain[c] += (double)dy[c] * (double)(x[c] * r);
            if (pc_present(j->add)) {
                const real *add = pc_row(j->add, n) + h * C;
                for (int64_t c = 0; c < C; c++) dx[c] = r * (gain[c] * dy[c] - a * x[c]) + add[c];
            } else {
                for (int64_t c = 0; c < C; c++) dx[c] = r * (gain[c] * dy[c] - a * x[c]);
            }
        }
    }
}

void R(rmsnorm_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor dy, pc_tensor x,
                         pc_tensor g, pc_tensor rstd, pc_tensor add)
{
    const int64_t N = x.dim[0], C = g.dim[0];
    const int threads = pc_pool_threads(ctx->pool);
    PC_SAME("rmsnorm: rows of dy and x", dy.dim[0], N);
    PC_SAME("rmsnorm: width of x and g", pc_row_len(x), heads_of(x) * C);

    const size_t mark = pc_arena_mark(ctx->scratch);
    double *sums = pc_workspace(ctx, pc_norm_workspace(ctx, C));
    memset(sums, 0, (size_t)(threads * C) * sizeof *sums);
    rmsnorm_back_job job = {dx, dy, x, g, rstd, add, pc_present(dg), sums};
    pc_parallel(ctx->pool, N, pc_row_grain(pc_row_len(x)), rmsnorm_rows_backward, &job);
    if (pc_present(dg)) pc_add_sums(dg.data, sums, C, threads, C);
    pc_arena_release(ctx->scratch, mark);
}

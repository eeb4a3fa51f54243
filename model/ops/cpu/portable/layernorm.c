/*
 * layernorm.c - layer normalisation (portable kernels).
 *
 *   forward    mean[n] = mean_c x[n,c],  rstd[n] = 1 / sqrt(mean_c (x[n,c] - mean[n])^2 + eps)
 *              h[n,c]  = (x[n,c] - mean[n]) rstd[n],  y = g h + b
 *   backward   u = g dy
 *              dx  = rstd (u - mean_c u - h mean_c (u h)) + add?     overwritten: an activation
 *              dg += sum_n dy h,  db += sum_n dy                     accumulated: parameters
 *
 * Shapes: x, y, dx, dy, add? (N,C); g, b (C); mean, rstd (N), kept from forward. dx may be dy or add;
 * dg, db may be absent. Sums run in double. Each thread sums dg and db over its rows; the threads'
 * sums are added in their order.
 */
#include <math.h>
#include <string.h>

#include "model/ops/cpu/portable_sums.h"
#include "model/ops/cpu/workspace.h"

typedef struct layernorm_job {
    pc_tensor y, mean, rstd, x, g, b;
    double eps;
} layernorm_job;

static void layernorm_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const layernorm_job *j = arg;
    const int64_t C = j->x.dim[1];
    const real *gain = j->g.data, *bias = j->b.data;
    real *mean = j->mean.data, *rstd = j->rstd.data;
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const real *x = pc_row(j->x, n);
        real *y = pc_row(j->y, n);
        const double mu = pc_sum(x, C) / (double)C;
        const double variance = pc_square_distance(x, mu, C) / (double)C;
        const real m = (real)mu, r = (real)(1.0 / sqrt(variance + j->eps));
        for (int64_t c = 0; c < C; c++) y[c] = gain[c] * ((x[c] - m) * r) + bias[c];
        mean[n] = m;
        rstd[n] = r;
    }
}

void R(layernorm_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor mean, pc_tensor rstd, pc_tensor x,
                          pc_tensor g, pc_tensor b, double eps)
{
    PC_SAME("layernorm: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("layernorm: columns of x and g", x.dim[1], g.dim[0]);
    layernorm_job job = {y, mean, rstd, x, g, b, eps};
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(x.dim[1]), layernorm_rows, &job);
}

typedef struct layernorm_back_job {
    pc_tensor dx, dy, x, g, mean, rstd, add;
    bool params;
    double *sums; // (threads, 2C): dg, then db
} layernorm_back_job;

static void layernorm_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const layernorm_back_job *j = arg;
    const int64_t C = j->x.dim[1];
    const real *gain = j->g.data, *mean = j->mean.data, *rstd = j->rstd.data;
    double *restrict dgain = j->sums + worker * 2 * C, *restrict dbias = dgain + C;
    for (int64_t n = begin; n < end; n++) {
        const real *x = pc_row(j->x, n), *dy = pc_row(j->dy, n);
        real *dx = pc_row(j->dx, n);
        const real m = mean[n], r = rstd[n];
        double sum_u = 0.0, sum_uh = 0.0;
        pc_norm_sums(&sum_u, &sum_uh, gain, dy, x, m, C);
        const real mean_u = (real)(sum_u / (double)C);
        const real mean_uh = (real)(sum_uh * (double)r / (double)C);
        if (j->params)
            for (int64_t c = 0; c < C; c++) {
                dgain[c] += (double)dy[c] * (double)((x[c] - m) * r);
                dbias[c] += (double)dy[c];
            }
        if (pc_present(j->add)) {
            const real *add = pc_row(j->add, n);
            for (int64_t c = 0; c < C; c++)
                dx[c] = r * (gain[c] * dy[c] - mean_u - (x[c] - m) * r * mean_uh) + add[c];
        } else {
            for (int64_t c = 0; c < C; c++)
                dx[c] = r * (gain[c] * dy[c] - mean_u - (x[c] - m) * r * mean_uh);
        }
    }
}

void R(layernorm_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy,
                           pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd, pc_tensor add)
{
    const int64_t N = x.dim[0], C = x.dim[1];
    const int threads = pc_pool_threads(ctx->pool);
    PC_SAME("layernorm: rows of dy and x", dy.dim[0], N);
    PC_SAME("layernorm: columns of dy and x", dy.dim[1], C);

    const size_t mark = pc_arena_mark(ctx->scratch);
    double *sums = pc_workspace(ctx, pc_norm_workspace(ctx, C));
    memset(sums, 0, (size_t)(threads * 2 * C) * sizeof *sums);
    layernorm_back_job job = {dx,  dy, x, g, mean, rstd, add, pc_present(dg) || pc_present(db),
                              sums};
    pc_parallel(ctx->pool, N, pc_row_grain(C), layernorm_rows_backward, &job);
    if (pc_present(dg)) pc_add_sums(dg.data, sums, 2 * C, threads, C);
    if (pc_present(db)) pc_add_sums(db.data, sums + C, 2 * C, threads, C);
    pc_arena_release(ctx->scratch, mark);
}

/*
 * clip_loss.c - the symmetric contrastive softmax loss (portable kernels; Radford et al. 2021).
 *
 *   S = exp(t) u v^T
 *   forward    lse_row[i] = ln sum_j exp S[i,j],  lse_col[j] = ln sum_i exp S[i,j]
 *              loss = (sum_i (lse_row[i] - S[i,i]) + sum_j (lse_col[j] - S[j,j])) / (2B)
 *   backward   G   = scale (exp(S - lse_row) + exp(S - lse_col) - 2 I) / (2B)
 *              du  = exp(t) G v,  dv = exp(t) G^T u        overwritten: activations
 *              dt += sum_ij G[i,j] S[i,j]                  accumulated: a parameter
 *
 * Shapes: u, v (B,E) of unit rows; t (1); lse_row, lse_col (B) kept; loss f64 (1). S lives in chunks of
 * rows; a column's log-sum-exp grows from chunk to chunk under a running maximum. Sums run in double.
 */
#include <math.h>
#include <string.h>

#include "model/ops/cpu/gemm.h"
#include "model/ops/cpu/portable_math.h"
#include "model/ops/cpu/portable_sums.h"
#include "model/ops/cpu/workspace.h"

enum { BLOCK = 128 }; // columns at a time

typedef struct clip_job {
    int64_t B, first, count; // rows [first, first + count) of S
    real *S;                 // (count,B); G over it in backward
    real *lse_row, *lse_col;
    double *row_sum;           // (count): sum_j G S
    double *col_max, *col_sum; // (B): running, forward only
    real factor;               // scale / (2B)
} clip_job;

static void open_job(pc_ctx *ctx, clip_job *j, int64_t B)
{
    const int64_t R = pc_contrast_rows(B);
    void *block = pc_workspace(ctx, pc_contrast_workspace(ctx, B));
    j->B = B;
    j->S = pc_carve(&block, (size_t)(R * B) * sizeof(real));
    j->row_sum = pc_carve(&block, (size_t)R * sizeof(double));
    j->col_max = pc_carve(&block, (size_t)B * sizeof(double));
    j->col_sum = pc_carve(&block, (size_t)B * sizeof(double));
}

static void scores(pc_ctx *ctx, clip_job *j, pc_tensor u, pc_tensor v, double temperature)
{
    j->count = pc_min64(pc_contrast_rows(j->B), j->B - j->first);
    pc_gemm(ctx->pool, false, true, j->count, j->B, u.dim[1], (real)temperature,
            pc_row(u, j->first), u.stride, v.data, v.stride, 0, j->S, j->B);
}

static void row_statistics(void *arg, int64_t begin, int64_t end, int worker)
{
    const clip_job *j = arg;
    real e[BLOCK];
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const real *S = j->S + r * j->B;
        const real top = pc_max(S, j->B);
        double sum = 0.0;
        for (int64_t c0 = 0; c0 < j->B; c0 += BLOCK) {
            const int64_t count = pc_min64(BLOCK, j->B - c0);
            for (int64_t c = 0; c < count; c++) e[c] = pc_exp(S[c0 + c] - top);
            sum += pc_sum(e, count);
        }
        j->lse_row[j->first + r] = (real)((double)top + log(sum));
    }
}

// Columns [begin, end), some at a time, over the rows of the chunk.
static void column_statistics(void *arg, int64_t begin, int64_t end, int worker)
{
    const clip_job *j = arg;
    real top[BLOCK], e[BLOCK];
    double sum[BLOCK];
    (void)worker;
    for (int64_t c0 = begin; c0 < end; c0 += BLOCK) {
        const int64_t count = pc_min64(BLOCK, end - c0);
        for (int64_t c = 0; c < count; c++)
            top[c] = j->first ? (real)j->col_max[c0 + c] : j->S[c0 + c];
        for (int64_t r = 0; r < j->count; r++) {
            const real *S = j->S + r * j->B + c0;
            for (int64_t c = 0; c < count; c++) top[c] = S[c] > top[c] ? S[c] : top[c];
        }
        for (int64_t c = 0; c < count; c++) {
            const double before = j->first ? exp(j->col_max[c0 + c] - (double)top[c]) : 0.0;
            sum[c] = j->first ? j->col_sum[c0 + c] * before : 0.0;
            j->col_max[c0 + c] = (double)top[c];
        }
        for (int64_t r = 0; r < j->count; r++) {
            const real *S = j->S + r * j->B + c0;
            for (int64_t c = 0; c < count; c++) e[c] = pc_exp(S[c] - top[c]);
            for (int64_t c = 0; c < count; c++) sum[c] += (double)e[c];
        }
        for (int64_t c = 0; c < count; c++) j->col_sum[c0 + c] = sum[c];
    }
}

void R(clip_loss_forward)(pc_ctx *ctx, pc_tensor loss, pc_tensor lse_row, pc_tensor lse_col,
                          pc_tensor u, pc_tensor v, pc_tensor t)
{
    const int64_t B = u.dim[0];
    PC_SAME("clip_loss: rows of u and v", B, v.dim[0]);
    PC_SAME("clip_loss: columns of u and v", u.dim[1], v.dim[1]);
    const size_t mark = pc_arena_mark(ctx->scratch);
    clip_job j = {.lse_row = lse_row.data, .lse_col = lse_col.data};
    open_job(ctx, &j, B);

    const double temperature = exp((double)*(const real *)t.data);
    double total = 0.0;
    for (; j.first < B; j.first += j.count) {
        scores(ctx, &j, u, v, temperature);
        pc_parallel(ctx->pool, j.count, pc_row_grain(16 * B), row_statistics, &j);
        pc_parallel(ctx->pool, B, pc_row_grain(16 * j.count), column_statistics, &j);
        for (int64_t r = 0; r < j.count; r++)
            total += (double)j.lse_row[j.first + r] - 2.0 * (double)j.S[r * B + j.first + r];
    }
    for (int64_t c = 0; c < B; c++) {
        j.lse_col[c] = (real)(j.col_max[c] + log(j.col_sum[c]));
        total += (double)j.lse_col[c];
    }
    *(double *)loss.data = total / (2.0 * (double)B);
    pc_arena_release(ctx->scratch, mark);
}

// S of rows [begin, end) of the chunk becomes G.
static void gradient_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const clip_job *j = arg;
    const real factor = j->factor;
    real G[BLOCK];
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const int64_t n = j->first + r; // the row's own column
        const real lse = j->lse_row[n];
        double sum = 0.0;
        for (int64_t c0 = 0; c0 < j->B; c0 += BLOCK) {
            const int64_t count = pc_min64(BLOCK, j->B - c0);
            real *S = j->S + r * j->B + c0;
            const real *lse_col = j->lse_col + c0;
            for (int64_t c = 0; c < count; c++)
                G[c] = factor * (pc_exp(S[c] - lse) + pc_exp(S[c] - lse_col[c]));
            if (n >= c0 && n < c0 + count) G[n - c0] -= 2 * factor;
            sum += pc_dot(G, S, count);
            memcpy(S, G, (size_t)count * sizeof *S);
        }
        j->row_sum[r] = sum;
    }
}

void R(clip_loss_backward)(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor u,
                           pc_tensor v, pc_tensor t, pc_tensor lse_row, pc_tensor lse_col,
                           double scale)
{
    const int64_t B = u.dim[0], E = u.dim[1];
    PC_SAME("clip_loss: rows of u and v", B, v.dim[0]);
    PC_SAME("clip_loss: columns of u and v", E, v.dim[1]);
    const size_t mark = pc_arena_mark(ctx->scratch);
    clip_job j = {.lse_row = lse_row.data,
                  .lse_col = lse_col.data,
                  .factor = (real)(scale / (2.0 * (double)B))};
    open_job(ctx, &j, B);

    const double temperature = exp((double)*(const real *)t.data);
    double total = 0.0;
    for (; j.first < B; j.first += j.count) {
        scores(ctx, &j, u, v, temperature);
        pc_parallel(ctx->pool, j.count, pc_row_grain(16 * B), gradient_rows, &j);
        for (int64_t r = 0; r < j.count; r++) total += j.row_sum[r];
        if (pc_present(du))
            pc_gemm(ctx->pool, false, false, j.count, E, B, (real)temperature, j.S, B, v.data,
                    v.stride, 0, pc_row(du, j.first), du.stride);
        if (pc_present(dv))
            pc_gemm(ctx->pool, true, false, B, E, j.count, (real)temperature, j.S, B,
                    pc_row(u, j.first), u.stride, j.first ? 1 : 0, dv.data, dv.stride);
    }
    if (pc_present(dt)) *(real *)dt.data += (real)total;
    pc_arena_release(ctx->scratch, mark);
}

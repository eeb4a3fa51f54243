/*
 * sigmoid_loss.c - the pairwise sigmoid loss (portable kernels; Zhai et al. 2023).
 *
 *   z = exp(t) u v^T + b
 *   forward    loss = (1/B) (sum_ij softplus(z[i,j]) - sum_i z[i,i])
 *   backward   G   = scale (s(z) - I) / B                        s the logistic function
 *              du  = exp(t) G v,  dv = exp(t) G^T u              overwritten: activations
 *              dt += sum_ij G[i,j] (z[i,j] - b),  db += sum_ij G[i,j]     accumulated: parameters
 *
 * Shapes: u, v (B,E) of unit rows; t, b (1); loss f64 (1). z lives in chunks of rows; sums run in double.
 */
#include <math.h>
#include <string.h>

#include "model/ops/cpu/gemm.h"
#include "model/ops/cpu/portable_math.h"
#include "model/ops/cpu/portable_sums.h"
#include "model/ops/cpu/workspace.h"

typedef struct sigmoid_job {
    int64_t B, first, count; // rows [first, first + count) of z
    real *z;                 // (count,B) without b; G over it in backward
    double *sum, *sum_z;     // (count): per row
    real bias, factor;       // b; scale / B
} sigmoid_job;

static void open_job(pc_ctx *ctx, sigmoid_job *j, int64_t B, pc_tensor b)
{
    const int64_t R = pc_contrast_rows(B);
    void *block = pc_workspace(ctx, pc_contrast_workspace(ctx, B));
    j->B = B;
    j->bias = *(const real *)b.data;
    j->z = pc_carve(&block, (size_t)(R * B) * sizeof(real));
    j->sum = pc_carve(&block, (size_t)R * sizeof(double));
    j->sum_z = pc_carve(&block, (size_t)R * sizeof(double));
}

static void scores(pc_ctx *ctx, sigmoid_job *j, pc_tensor u, pc_tensor v, double temperature)
{
    j->count = pc_min64(pc_contrast_rows(j->B), j->B - j->first);
    pc_gemm(ctx->pool, false, true, j->count, j->B, u.dim[1], (real)temperature,
            pc_row(u, j->first), u.stride, v.data, v.stride, 0, j->z, j->B);
}

static void loss_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const sigmoid_job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const real *row = j->z + r * j->B;
        double sum = 0.0;
        for (int64_t c = 0; c < j->B; c++) {
            const double z = (double)row[c] + (double)j->bias;
            sum += (z > 0.0 ? z : 0.0) + log1p(exp(-fabs(z))); // softplus without overflow
        }
        j->sum[r] = sum - ((double)row[j->first + r] + (double)j->bias);
    }
}

void R(sigmoid_loss_forward)(pc_ctx *ctx, pc_tensor loss, pc_tensor u, pc_tensor v, pc_tensor t,
                             pc_tensor b)
{
    const int64_t B = u.dim[0];
    PC_SAME("sigmoid_loss: rows of u and v", B, v.dim[0]);
    PC_SAME("sigmoid_loss: columns of u and v", u.dim[1], v.dim[1]);
    const size_t mark = pc_arena_mark(ctx->scratch);
    sigmoid_job j = {0};
    open_job(ctx, &j, B, b);

    const double temperature = exp((double)*(const real *)t.data);
    double total = 0.0;
    for (; j.first < B; j.first += j.count) {
        scores(ctx, &j, u, v, temperature);
        pc_parallel(ctx->pool, j.count, pc_row_grain(32 * B), loss_rows, &j);
        for (int64_t r = 0; r < j.count; r++) total += j.sum[r];
    }
    *(double *)loss.data = total / (double)B;
    pc_arena_release(ctx->scratch, mark);
}

// z of rows [begin, end) of the chunk becomes G.
static void gradient_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    enum { BLOCK = 128 }; // columns at a time
    const sigmoid_job *j = arg;
    const real factor = j->factor, bias = j->bias;
    real G[BLOCK];
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const int64_t n = j->first + r; // the row's own column
        double sum = 0.0, sum_z = 0.0;
        for (int64_t c0 = 0; c0 < j->B; c0 += BLOCK) {
            const int64_t count = pc_min64(BLOCK, j->B - c0);
            real *z = j->z + r * j->B + c0;
            for (int64_t c = 0; c < count; c++) G[c] = factor / (1 + pc_exp(-(z[c] + bias)));
            if (n >= c0 && n < c0 + count) G[n - c0] -= factor;
            sum += pc_sum(G, count);
            sum_z += pc_dot(G, z, count);
            memcpy(z, G, (size_t)count * sizeof *z);
        }
        j->sum[r] = sum;
        j->sum_z[r] = sum_z;
    }
}

void R(sigmoid_loss_backward)(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor db,
                              pc_tensor u, pc_tensor v, pc_tensor t, pc_tensor b, double scale)
{
    const int64_t B = u.dim[0], E = u.dim[1];
    PC_SAME("sigmoid_loss: rows of u and v", B, v.dim[0]);
    PC_SAME("sigmoid_loss: columns of u and v", E, v.dim[1]);
    const size_t mark = pc_arena_mark(ctx->scratch);
    sigmoid_job j = {.factor = (real)(scale / (double)B)};
    open_job(ctx, &j, B, b);

    const double temperature = exp((double)*(const real *)t.data);
    double total = 0.0, total_z = 0.0;
    for (; j.first < B; j.first += j.count) {
        scores(ctx, &j, u, v, temperature);
        pc_parallel(ctx->pool, j.count, pc_row_grain(8 * B), gradient_rows, &j);
        for (int64_t r = 0; r < j.count; r++) total += j.sum[r], total_z += j.sum_z[r];
        if (pc_present(du))
            pc_gemm(ctx->pool, false, false, j.count, E, B, (real)temperature, j.z, B, v.data,
                    v.stride, 0, pc_row(du, j.first), du.stride);
        if (pc_present(dv))
            pc_gemm(ctx->pool, true, false, B, E, j.count, (real)temperature, j.z, B,
                    pc_row(u, j.first), u.stride, j.first ? 1 : 0, dv.data, dv.stride);
    }
    if (pc_present(dt)) *(real *)dt.data += (real)total_z;
    if (pc_present(db)) *(real *)db.data += (real)total;
    pc_arena_release(ctx->scratch, mark);
}

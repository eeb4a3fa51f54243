/*
 * linear_xent.c - cross-entropy fused with the output projection (portable kernels).
 *
 *   z[n]     = x[n] W^T                                   logits: never more than one chunk of rows
 *   forward    nll[n] = ln sum_v exp z[n,v] - z[n,labels[n]];  0 where labels[n] < 0
 *   backward   nll as above, and of sum_n coef[n] nll[n]:
 *              dz[n] = coef[n] (softmax(z[n]) - onehot(labels[n]))
 *              dx    = dz W                 overwritten: an activation; 0 where ignored
 *              dW   += dz^T x               accumulated: a parameter
 *
 * Shapes: x (N,C), W (V,C), labels i32 (N), nll, coef (N). Supervised rows are packed chunk by chunk
 * (most rows of instruction data are ignored), chunks follow in order. Sums over V run in double.
 */
#include <math.h>
#include <string.h>

#include "model/ops/cpu/gemm.h"
#include "model/ops/cpu/portable_math.h"
#include "model/ops/cpu/portable_stored.h"
#include "model/ops/cpu/portable_sums.h"
#include "model/ops/cpu/workspace.h"

typedef struct xent_job {
    pc_tensor dx, dw, nll, x, w, labels, coef;
    bool gradients;
    // one chunk: `count` supervised rows, their numbers, x, logits (then dz), dx
    int64_t count;
    int32_t *row;
    real *packed, *logits, *dpacked;
} xent_job;

static void pack_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const xent_job *j = arg;
    const int64_t C = j->x.dim[1];
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        memcpy(j->packed + r * C, pc_row(j->x, j->row[r]), (size_t)C * sizeof(real));
}

// Logits of packed rows [begin, end) into nll and, in place, dz.
static void softmax_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const xent_job *j = arg;
    const int64_t V = j->w.dim[0];
    real *nll = j->nll.data;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const int64_t n = j->row[r], label = pc_i32(j->labels)[n];
        PC_ASSERT(label < V, "linear_xent: row %lld has label %lld of %lld", (long long)n,
                  (long long)label, (long long)V);
        real *z = j->logits + r * V;
        const real top = pc_max(z, V), target = z[label];
        for (int64_t v = 0; v < V; v++) z[v] = pc_exp(z[v] - top);
        const double sum = pc_sum(z, V);
        nll[n] = (real)(log(sum) + (double)top - (double)target);
        if (!j->gradients) continue;
        const real coef = ((const real *)j->coef.data)[n], factor = (real)((double)coef / sum);
        for (int64_t v = 0; v < V; v++) z[v] *= factor;
        z[label] -= coef;
    }
}

static void unpack_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const xent_job *j = arg;
    const int64_t C = j->x.dim[1];
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        memcpy(pc_row(j->dx, j->row[r]), j->dpacked + r * C, (size_t)C * sizeof(real));
}

static void chunk(pc_ctx *ctx, xent_job *j)
{
    const int64_t C = j->x.dim[1], V = j->w.dim[0], rows = j->count;
    pc_parallel(ctx->pool, rows, pc_row_grain(C), pack_rows, j);
    R(pc_times_matrix)(ctx->pool, j->logits, V, j->packed, C, rows, j->w, false);
    pc_parallel(ctx->pool, rows, pc_row_grain(8 * V), softmax_rows, j);
    if (pc_present(j->dx)) {
        pc_gemm(ctx->pool, false, false, rows, C, V, 1, j->logits, V, j->w.data, j->w.stride, 0,
                j->dpacked, C);
        pc_parallel(ctx->pool, rows, pc_row_grain(C), unpack_rows, j);
    }
    if (pc_present(j->dw))
        pc_gemm(ctx->pool, true, false, V, C, rows, 1, j->logits, V, j->packed, C, 1, j->dw.data,
                j->dw.stride);
}

static void linear_xent(pc_ctx *ctx, xent_job *j)
{
    const int64_t N = j->x.dim[0], C = j->x.dim[1], V = j->w.dim[0];
    const int64_t limit = pc_linear_xent_rows(N, V);
    const int32_t *labels = pc_i32(j->labels);
    real *nll = j->nll.data;
    PC_SAME("linear_xent: columns of x and W", C, j->w.dim[1]);
    PC_SAME("linear_xent: rows of x and labels", N, j->labels.dim[0]);
    PC_SAME("linear_xent: rows of x and nll", N, j->nll.dim[0]);

    const size_t mark = pc_arena_mark(ctx->scratch);
    void *block = pc_workspace(ctx, pc_linear_xent_workspace(ctx, N, C, V));
    j->row = pc_carve(&block, (size_t)limit * sizeof *j->row);
    j->logits = pc_carve(&block, (size_t)(limit * V) * sizeof(real));
    j->packed = pc_carve(&block, (size_t)(limit * C) * sizeof(real));
    j->dpacked = pc_carve(&block, (size_t)(limit * C) * sizeof(real));

    for (int64_t n = 0; n < N; n++) {
        if (labels[n] >= 0) {
            j->row[j->count++] = (int32_t)n;
        } else {
            nll[n] = 0;
            if (pc_present(j->dx)) memset(pc_row(j->dx, n), 0, (size_t)C * sizeof(real));
        }
        if (j->count == limit || (n == N - 1 && j->count > 0)) {
            chunk(ctx, j);
            j->count = 0;
        }
    }
    pc_arena_release(ctx->scratch, mark);
}

void R(linear_xent_forward)(pc_ctx *ctx, pc_tensor nll, pc_tensor x, pc_tensor w, pc_tensor labels)
{
    xent_job job = {.nll = nll, .x = x, .w = w, .labels = labels};
    linear_xent(ctx, &job);
}

void R(linear_xent_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x,
                             pc_tensor w, pc_tensor labels, pc_tensor coef)
{
    PC_SAME("linear_xent: rows of x and coef", x.dim[0], coef.dim[0]);
    xent_job job = {dx, dw, nll, x, w, labels, coef, .gradients = true};
    linear_xent(ctx, &job);
}

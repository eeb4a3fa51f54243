/*
 * xent_body.h - cross-entropy fused with the output projection (formulas: portable/linear_xent.c).
 *
 * Supervised rows are packed chunk by chunk; a chunk's logits become its gradient in place, by rows, and
 * three products do the rest. The sum of exponentials runs in float vectors, their total in double.
 */
#include <math.h>

#include "model/ops/cpu/simd/math.h"
#include "model/ops/cpu/simd/product.h"
#include "model/ops/cpu/stored.h"
#include "model/ops/cpu/workspace.h"

typedef struct xent_job {
    pc_tensor dx, dw, nll, x, w, labels, coef;
    bool gradients;
    // one chunk: `count` supervised rows, their numbers, x, logits (then dz), dx
    int64_t count;
    int32_t *row;
    float *packed, *logits, *dpacked;
} xent_job;

static void pack_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const xent_job *j = arg;
    const int64_t C = j->x.dim[1];
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        memcpy(j->packed + r * C, pc_row(j->x, j->row[r]), (size_t)C * sizeof(float));
}

PC_INLINE float row_max(const float *z, int64_t V)
{
    vf top[2] = {v_set1(-INFINITY), v_set1(-INFINITY)};
    int64_t v = 0;
    for (; v + 2 * VW <= V; v += 2 * VW) {
        top[0] = v_max(top[0], v_load(z + v));
        top[1] = v_max(top[1], v_load(z + v + VW));
    }
    float most = v_max_of(v_max(top[0], top[1]));
    for (; v < V; v++) most = z[v] > most ? z[v] : most;
    return most;
}

// z[v] becomes exp(z[v] - top); returns their sum.
PC_INLINE double row_exp(float *z, float top, int64_t V)
{
    const vf shift = v_set1(top);
    double total = 0.0;
    enum { SPAN = 2048 };
    for (int64_t first = 0; first < V; first += SPAN) {
        const int64_t last = pc_min64(V, first + SPAN);
        vf sum[2] = {v_zero(), v_zero()};
        int64_t v = first;
        for (; v + 2 * VW <= last; v += 2 * VW) {
            const vf a = v_exp(v_sub(v_load(z + v), shift));
            const vf b = v_exp(v_sub(v_load(z + v + VW), shift));
            v_store(z + v, a);
            v_store(z + v + VW, b);
            sum[0] = v_add(sum[0], a);
            sum[1] = v_add(sum[1], b);
        }
        for (; v < last; v += VW) {
            const int64_t left = last - v;
            const vf e = v_exp(v_sub(v_load_tail(z + v, left), shift));
            v_store_tail(z + v, left, e);
            sum[0] = v_add(sum[0], v_select(v_lanes(0, left), e, v_zero()));
        }
        total += (double)v_sum(v_add(sum[0], sum[1]));
    }
    return total;
}

// Logits of packed rows [begin, end) into nll and, in place, dz.
static void softmax_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const xent_job *j = arg;
    const int64_t V = j->w.dim[0];
    float *nll = j->nll.data;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const int64_t n = j->row[r], label = pc_i32(j->labels)[n];
        PC_ASSERT(label < V, "linear_xent: row %lld has label %lld of %lld", (long long)n,
                  (long long)label, (long long)V);
        float *z = j->logits + r * V;
        const float top = row_max(z, V), target = z[label];
        const double sum = row_exp(z, top, V);
        nll[n] = (float)(log(sum) + (double)top - (double)target);
        if (!j->gradients) continue;
        const float coef = ((const float *)j->coef.data)[n];
        const vf factor = v_set1((float)((double)coef / sum));
        for (int64_t v = 0; v < V; v += VW)
            v_store_tail(z + v, V - v, v_mul(v_load_tail(z + v, V - v), factor));
        z[label] -= coef;
    }
}

static void unpack_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const xent_job *j = arg;
    const int64_t C = j->x.dim[1];
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        memcpy(pc_row(j->dx, j->row[r]), j->dpacked + r * C, (size_t)C * sizeof(float));
}

static void chunk(pc_ctx *ctx, xent_job *j)
{
    const int64_t C = j->x.dim[1], V = j->w.dim[0], rows = j->count;
    pc_parallel(ctx->pool, rows, pc_row_grain(C), pack_rows, j);
    pc_product logits = {.M = rows, .N = V, .K = C, .a = j->packed, .lda = C, .trans_b = true};
    if (pc_stored(j->w, PC_F32))
        logits.stored = j->w.data;
    else
        logits.b = j->w.data;
    logits.type = j->w.dtype;
    logits.ldb = j->w.stride;
    logits.c = j->logits;
    logits.ldc = V;
    S(pc_product)(ctx->pool, &logits);
    pc_parallel(ctx->pool, rows, pc_row_grain(V), softmax_rows, j);
    if (pc_present(j->dx)) {
        pc_product dx = {.M = rows, .N = C, .K = V, .a = j->logits, .lda = V};
        dx.b = j->w.data;
        dx.ldb = j->w.stride;
        dx.c = j->dpacked;
        dx.ldc = C;
        S(pc_product)(ctx->pool, &dx);
        pc_parallel(ctx->pool, rows, pc_row_grain(C), unpack_rows, j);
    }
    if (pc_present(j->dw)) {
        pc_product dw = {.M = V, .N = C, .K = rows, .a = j->logits, .lda = V, .trans_a = true};
        dw.b = j->packed;
        dw.ldb = C;
        dw.c = j->dw.data;
        dw.ldc = j->dw.stride;
        dw.accumulate = true;
        S(pc_product)(ctx->pool, &dw);
    }
}

static void linear_xent(pc_ctx *ctx, xent_job *j)
{
    const int64_t N = j->x.dim[0], C = j->x.dim[1], V = j->w.dim[0];
    const int64_t limit = pc_linear_xent_rows(N, V);
    const int32_t *labels = pc_i32(j->labels);
    float *nll = j->nll.data;
    PC_SAME("linear_xent: columns of x and W", C, j->w.dim[1]);
    PC_SAME("linear_xent: rows of x and labels", N, j->labels.dim[0]);
    PC_SAME("linear_xent: rows of x and nll", N, j->nll.dim[0]);

    const size_t mark = pc_arena_mark(ctx->scratch);
    void *block = pc_workspace(ctx, pc_linear_xent_workspace(ctx, N, C, V));
    j->row = pc_carve(&block, (size_t)limit * sizeof *j->row);
    j->logits = pc_carve(&block, (size_t)(limit * V) * sizeof(float));
    j->packed = pc_carve(&block, (size_t)(limit * C) * sizeof(float));
    j->dpacked = pc_carve(&block, (size_t)(limit * C) * sizeof(float));

    for (int64_t n = 0; n < N; n++) {
        if (labels[n] >= 0) {
            j->row[j->count++] = (int32_t)n;
        } else {
            nll[n] = 0;
            if (pc_present(j->dx)) memset(pc_row(j->dx, n), 0, (size_t)C * sizeof(float));
        }
        if (j->count == limit || (n == N - 1 && j->count > 0)) {
            chunk(ctx, j);
            j->count = 0;
        }
    }
    pc_arena_release(ctx->scratch, mark);
}

void S(linear_xent_forward)(pc_ctx *ctx, pc_tensor nll, pc_tensor x, pc_tensor w, pc_tensor labels)
{
    xent_job job = {.nll = nll, .x = x, .w = w, .labels = labels};
    linear_xent(ctx, &job);
}

void S(linear_xent_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x,
                             pc_tensor w, pc_tensor labels, pc_tensor coef)
{
    PC_SAME("linear_xent: rows of x and coef", x.dim[0], coef.dim[0]);
    xent_job job = {dx, dw, nll, x, w, labels, coef, .gradients = true};
    linear_xent(ctx, &job);
}

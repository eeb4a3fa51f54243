/*
 * elementwise.c - sums, multiples, copies and zeros (portable kernels).
 *
 *   add          y = a + b       any of the three may be the same rows; its backward is dy, twice
 *   scale        y = s x         y may be x
 *   copy         y = x           zero   y = 0
 *   accumulate   y += x
 *
 * Shapes: equal, any rank; rows may be strided. Dense tensors are treated as one long row.
 */
#include <string.h>

#include "model/ops/cpu/portable.h"

typedef struct element_job {
    pc_tensor y, a, b;
    int64_t len; // elements of a row; 0: everything is one row, and pieces are element ranges
    real s;
} element_job;

static void add_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const element_job *j = arg;
    (void)worker;
    if (!j->len) {
        const real *a = j->a.data, *b = j->b.data;
        real *y = j->y.data;
        for (int64_t i = begin; i < end; i++) y[i] = a[i] + b[i];
        return;
    }
    for (int64_t n = begin; n < end; n++) {
        const real *a = pc_row(j->a, n), *b = pc_row(j->b, n);
        real *y = pc_row(j->y, n);
        for (int64_t c = 0; c < j->len; c++) y[c] = a[c] + b[c];
    }
}

void R(add_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor a, pc_tensor b)
{
    PC_SAME("add: elements of y and a", pc_numel(y), pc_numel(a));
    PC_SAME("add: elements of y and b", pc_numel(y), pc_numel(b));
    const bool flat = pc_is_dense(y) && pc_is_dense(a) && pc_is_dense(b);
    element_job job = {y, a, b, flat ? 0 : pc_row_len(y), 0};
    pc_parallel(ctx->pool, flat ? pc_numel(y) : y.dim[0], pc_row_grain(flat ? 1 : job.len),
                add_piece, &job);
}

void R(accumulate)(pc_ctx *ctx, pc_tensor y, pc_tensor x)
{
    R(add_forward)(ctx, y, y, x);
}

static void scale_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const element_job *j = arg;
    const real s = j->s;
    (void)worker;
    if (!j->len) {
        const real *a = j->a.data;
        real *y = j->y.data;
        for (int64_t i = begin; i < end; i++) y[i] = s * a[i];
        return;
    }
    for (int64_t n = begin; n < end; n++) {
        const real *a = pc_row(j->a, n);
        real *y = pc_row(j->y, n);
        for (int64_t c = 0; c < j->len; c++) y[c] = s * a[c];
    }
}

void R(scale_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, double s)
{
    PC_SAME("scale: elements of y and x", pc_numel(y), pc_numel(x));
    const bool flat = pc_is_dense(y) && pc_is_dense(x);
    element_job job = {y, x, PC_NONE, flat ? 0 : pc_row_len(y), (real)s};
    pc_parallel(ctx->pool, flat ? pc_numel(y) : y.dim[0], pc_row_grain(flat ? 1 : job.len),
                scale_piece, &job);
}

static void copy_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const element_job *j = arg;
    (void)worker;
    if (!j->len) {
        memcpy((real *)j->y.data + begin, (const real *)j->a.data + begin,
               (size_t)(end - begin) * sizeof(real));
        return;
    }
    for (int64_t n = begin; n < end; n++)
        memcpy(pc_row(j->y, n), pc_row(j->a, n), (size_t)j->len * sizeof(real));
}

void R(copy_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x)
{
    PC_SAME("copy: elements of y and x", pc_numel(y), pc_numel(x));
    if (y.data == x.data) return;
    const bool flat = pc_is_dense(y) && pc_is_dense(x);
    element_job job = {y, x, PC_NONE, flat ? 0 : pc_row_len(y), 0};
    pc_parallel(ctx->pool, flat ? pc_numel(y) : y.dim[0], pc_row_grain(flat ? 1 : job.len),
                copy_piece, &job);
}

static void zero_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const element_job *j = arg;
    (void)worker;
    if (!j->len) {
        memset((real *)j->y.data + begin, 0, (size_t)(end - begin) * sizeof(real));
        return;
    }
    for (int64_t n = begin; n < end; n++) memset(pc_row(j->y, n), 0, (size_t)j->len * sizeof(real));
}

void R(zero_forward)(pc_ctx *ctx, pc_tensor y)
{
    const bool flat = pc_is_dense(y);
    element_job job = {y, PC_NONE, PC_NONE, flat ? 0 : pc_row_len(y), 0};
    pc_parallel(ctx->pool, flat ? pc_numel(y) : y.dim[0], pc_row_grain(flat ? 1 : job.len),
                zero_piece, &job);
}

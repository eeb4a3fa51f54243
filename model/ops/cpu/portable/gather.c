/*
 * gather.c - picks rows (portable kernels).
 *
 *   forward    y[m] = x[index[m]]
 *   backward   dx = 0, then dx[index[m]] += dy[m]      overwritten: an activation
 *
 * Shapes: x, dx (N,C); y, dy (M,C); index i32 (M), each in [0,N), repeats allowed: they sum in row
 * order, the threads sharing out the columns.
 */
#include <string.h>

#include "model/ops/cpu/portable.h"

typedef struct gather_job {
    pc_tensor y, x, index;
} gather_job;

static int64_t checked_row(const gather_job *j, int64_t m)
{
    const int64_t n = pc_i32(j->index)[m];
    PC_ASSERT(n >= 0 && n < j->x.dim[0], "gather: index %lld is %lld, x has %lld rows",
              (long long)m, (long long)n, (long long)j->x.dim[0]);
    return n;
}

static void gather_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const gather_job *j = arg;
    (void)worker;
    for (int64_t m = begin; m < end; m++)
        memcpy(pc_row(j->y, m), pc_row(j->x, checked_row(j, m)),
               (size_t)j->x.dim[1] * sizeof(real));
}

void R(gather_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor index)
{
    PC_SAME("gather: rows of y and index", y.dim[0], index.dim[0]);
    PC_SAME("gather: columns of y and x", y.dim[1], x.dim[1]);
    gather_job job = {y, x, index};
    pc_parallel(ctx->pool, index.dim[0], pc_row_grain(x.dim[1]), gather_rows, &job);
}

static void gather_columns_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const gather_job *j = arg;
    (void)worker;
    for (int64_t n = 0; n < j->x.dim[0]; n++)
        memset(pc_row(j->x, n) + begin, 0, (size_t)(end - begin) * sizeof(real));
    for (int64_t m = 0; m < j->index.dim[0]; m++) {
        const real *dy = pc_row(j->y, m);
        real *dx = pc_row(j->x, checked_row(j, m));
        for (int64_t c = begin; c < end; c++) dx[c] += dy[c];
    }
}

void R(gather_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor index)
{
    PC_SAME("gather: rows of dy and index", dy.dim[0], index.dim[0]);
    PC_SAME("gather: columns of dy and dx", dy.dim[1], dx.dim[1]);
    gather_job job = {dy, dx, index};
    pc_parallel(ctx->pool, dx.dim[1], pc_max64(16, pc_row_grain(dx.dim[0] + dy.dim[0])),
                gather_columns_backward, &job);
}

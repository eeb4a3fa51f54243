/*
 * splice.c - puts rows into a sequence: image features among tokens (portable kernels).
 *
 *   forward    y[index[m]] = f[m]         other rows of y stay; index[m] < 0: f[m] goes nowhere
 *   backward   df[m] = dy[index[m]]       overwritten: an activation; 0 where index[m] < 0
 *
 * Shapes: y, dy (N,C); f, df (M,C); index i32 (M), no row twice.
 */
#include <string.h>

#include "model/ops/cpu/portable.h"

typedef struct splice_job {
    pc_tensor y, f, index;
} splice_job;

static int64_t checked_place(const splice_job *j, int64_t m)
{
    const int64_t n = pc_i32(j->index)[m];
    PC_ASSERT(n < j->y.dim[0], "splice: index %lld is %lld, the sequence has %lld rows",
              (long long)m, (long long)n, (long long)j->y.dim[0]);
    return n;
}

static void splice_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const splice_job *j = arg;
    (void)worker;
    for (int64_t m = begin; m < end; m++) {
        const int64_t n = checked_place(j, m);
        if (n >= 0) memcpy(pc_row(j->y, n), pc_row(j->f, m), (size_t)j->f.dim[1] * sizeof(real));
    }
}

void R(splice_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor f, pc_tensor index)
{
    PC_SAME("splice: rows of f and index", f.dim[0], index.dim[0]);
    PC_SAME("splice: columns of f and y", f.dim[1], y.dim[1]);
    splice_job job = {y, f, index};
    pc_parallel(ctx->pool, index.dim[0], pc_row_grain(f.dim[1]), splice_rows, &job);
}

static void splice_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const splice_job *j = arg;
    const size_t bytes = (size_t)j->f.dim[1] * sizeof(real);
    (void)worker;
    for (int64_t m = begin; m < end; m++) {
        const int64_t n = checked_place(j, m);
        if (n >= 0)
            memcpy(pc_row(j->f, m), pc_row(j->y, n), bytes);
        else
            memset(pc_row(j->f, m), 0, bytes);
    }
}

void R(splice_backward)(pc_ctx *ctx, pc_tensor df, pc_tensor dy, pc_tensor index)
{
    PC_SAME("splice: rows of df and index", df.dim[0], index.dim[0]);
    PC_SAME("splice: columns of df and dy", df.dim[1], dy.dim[1]);
    splice_job job = {dy, df, index};
    pc_parallel(ctx->pool, index.dim[0], pc_row_grain(df.dim[1]), splice_rows_backward, &job);
}

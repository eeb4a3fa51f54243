/*
 * square_sum.c - the sum of squares behind a gradient norm (portable kernel).
 *
 *   out += sum x^2
 *
 * Shapes: out f64 (1); x dense, any rank. In double, block by block, blocks added in order: the result
 * does not depend on the number of threads. NaN and infinity survive.
 */
#include "model/ops/cpu/portable_sums.h"
#include "model/ops/cpu/workspace.h"

typedef struct square_job {
    const real *x;
    int64_t n;
    double *sums; // one per block
} square_job;

static void square_blocks(void *arg, int64_t begin, int64_t end, int worker)
{
    const square_job *j = arg;
    (void)worker;
    for (int64_t block = begin; block < end; block++) {
        const int64_t first = block * PC_SQUARE_SUM_BLOCK;
        j->sums[block] =
            pc_dot(j->x + first, j->x + first, pc_min64(PC_SQUARE_SUM_BLOCK, j->n - first));
    }
}

void R(square_sum)(pc_ctx *ctx, pc_tensor out, pc_tensor x)
{
    const int64_t n = pc_numel(x), blocks = (n + PC_SQUARE_SUM_BLOCK - 1) / PC_SQUARE_SUM_BLOCK;
    PC_ASSERT(pc_is_dense(x), "square_sum: x is dense");
    PC_ASSERT(out.dtype == PC_F64, "square_sum: the sum is f64, not %s", pc_dtype_name(out.dtype));

    const size_t mark = pc_arena_mark(ctx->scratch);
    square_job job = {x.data, n, pc_workspace(ctx, pc_square_sum_workspace(ctx, n))};
    pc_parallel(ctx->pool, blocks, 2, square_blocks, &job);
    double total = 0.0;
    for (int64_t block = 0; block < blocks; block++) total += job.sums[block];
    *(double *)out.data += total;
    pc_arena_release(ctx->scratch, mark);
}

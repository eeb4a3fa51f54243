/*
 * workspace.c - scratch of the CPU kernels (workspace.h).
 */
#include "model/ops/cpu/workspace.h"

static size_t times(int64_t count, size_t size)
{
    return pc_padded((size_t)count * size);
}

static size_t threads(const pc_ctx *ctx)
{
    return (size_t)pc_pool_threads(ctx->pool);
}

size_t pc_padded(size_t bytes)
{
    return (bytes + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN;
}

void *pc_workspace(pc_ctx *ctx, size_t bytes)
{
    return pc_arena_bytes(ctx->scratch, bytes);
}

void *pc_carve(void **block, size_t bytes)
{
    unsigned char *front = *block;
    *block = front + pc_padded(bytes);
    return front;
}

// The portable product needs nothing.
size_t pc_linear_workspace(const pc_ctx *ctx, int64_t N, int64_t I, int64_t O)
{
    (void)ctx, (void)N, (void)I, (void)O;
    return 0;
}

size_t pc_norm_workspace(const pc_ctx *ctx, int64_t C)
{
    return threads(ctx) * (times(2 * C, sizeof(double)) + times(2 * C, sizeof(float)));
}

// Panels of keys (and values), and as many blocks of scores: `sides` of each. The portable tiles fit too.
static size_t attention_workspace(const pc_ctx *ctx, int64_t D, int64_t M, int64_t sides)
{
    const size_t size = pc_dtype_size(ctx->real);
    const int64_t keys = (M + PC_PANEL - 1) / PC_PANEL * PC_PANEL;
    _Static_assert(PC_QUERY_BLOCK * PC_SCORE_STRIDE >= PC_TILE_Q * PC_TILE_K, "portable tiles fit");
    return threads(ctx) * times(sides * (PC_QUERY_BLOCK * PC_SCORE_STRIDE + keys * D), size);
}

size_t pc_attention_forward_workspace(const pc_ctx *ctx, int64_t N, int64_t H, int64_t D, int64_t M,
                                      int64_t G)
{
    (void)N, (void)H, (void)G;
    return attention_workspace(ctx, D, M, 1);
}

size_t pc_attention_backward_workspace(const pc_ctx *ctx, int64_t N, int64_t H, int64_t D,
                                       int64_t M, int64_t G)
{
    (void)N, (void)H, (void)G;
    return attention_workspace(ctx, D, M, 2);
}

size_t pc_rel_terms_workspace(const pc_ctx *ctx, int64_t a, int64_t b, int64_t D)
{
    return 2 * times((2 * a - 1 + 2 * b - 1) * D, pc_dtype_size(ctx->real));
}

// About 4 million logits at a time: W is read once a chunk, so chunks should not be too low.
int64_t pc_linear_xent_rows(int64_t N, int64_t V)
{
    int64_t rows = V > 0 ? (4 << 20) / V / 8 * 8 : 512;
    if (rows < 32) rows = 32;
    if (rows > 512) rows = 512;
    return rows < N ? rows : N;
}

size_t pc_linear_xent_workspace(const pc_ctx *ctx, int64_t N, int64_t C, int64_t V)
{
    const int64_t R = pc_linear_xent_rows(N, V);
    const size_t size = pc_dtype_size(ctx->real);
    return times(R, sizeof(int32_t)) + times(R * V, size) + 2 * times(R * C, size);
}

// A quarter of a million scores at a time: they stay in the second-level cache.
int64_t pc_contrast_rows(int64_t B)
{
    int64_t rows = B > 0 ? (1 << 18) / B / 8 * 8 : 16;
    if (rows < 16) rows = 16;
    return rows < B ? rows : B;
}

size_t pc_contrast_workspace(const pc_ctx *ctx, int64_t B)
{
    const int64_t R = pc_contrast_rows(B);
    return times(R * B, pc_dtype_size(ctx->real)) + 2 * times(R, sizeof(double)) +
           2 * times(B, sizeof(double));
}

size_t pc_square_sum_workspace(const pc_ctx *ctx, int64_t elements)
{
    (void)ctx;
    return times((elements + PC_SQUARE_SUM_BLOCK - 1) / PC_SQUARE_SUM_BLOCK, sizeof(double));
}

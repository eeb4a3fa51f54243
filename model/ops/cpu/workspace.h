/*
 * workspace.h - how much of ctx->scratch one call of a kernel takes.
 *
 * A kernel takes its workspace as one block, from ctx->scratch, and gives it back before it returns;
 * nothing else allocates. The amounts follow from shapes, ctx->real and the thread count alone (never
 * from what masks or labels hold), so the dry table takes as much without touching data, and they are
 * large enough for every instruction set: a SIMD kernel that needs more raises the figure here.
 * Operations not listed take nothing.
 */
#ifndef PC_OPS_CPU_WORKSPACE_H
#define PC_OPS_CPU_WORKSPACE_H

#include "model/ops/ops.h"

// linear and linear_act, both ways.
size_t pc_linear_workspace(const pc_ctx *ctx, int64_t N, int64_t I, int64_t O);
// layernorm_backward and rmsnorm_backward: per-thread sums of dg and db.
size_t pc_norm_workspace(const pc_ctx *ctx, int64_t C);
// attention: tiles per thread. N query rows, M key rows.
size_t pc_attention_forward_workspace(const pc_ctx *ctx, int64_t N, int64_t H, int64_t D, int64_t M,
                                      int64_t G);
size_t pc_attention_backward_workspace(const pc_ctx *ctx, int64_t N, int64_t H, int64_t D,
                                       int64_t M, int64_t G);
// linear_xent, both ways: packed rows, logits and their gradient of one chunk.
size_t pc_linear_xent_workspace(const pc_ctx *ctx, int64_t N, int64_t C, int64_t V);
// clip_loss and sigmoid_loss, both ways: a few rows of the (B,B) matrix at a time.
size_t pc_contrast_workspace(const pc_ctx *ctx, int64_t B);
// square_sum: one partial sum per block.
size_t pc_square_sum_workspace(const pc_ctx *ctx, int64_t elements);

// The block itself, aligned to PC_ALIGN. Release with pc_arena_release(ctx->scratch, mark), the mark
// taken before.
void *pc_workspace(pc_ctx *ctx, size_t bytes);

#endif

/*
 * workspace.h - how much of ctx->scratch one call of a kernel takes.
 *
 * A kernel takes its workspace as one block from ctx->scratch and gives it back before it returns;
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
// layernorm_backward and rmsnorm_backward: per-thread sums of dg and db, in double and in float.
size_t pc_norm_workspace(const pc_ctx *ctx, int64_t C);
// attention and rel_attention: tiles per thread. N query rows, M key rows.
size_t pc_attention_forward_workspace(const pc_ctx *ctx, int64_t N, int64_t H, int64_t D, int64_t M,
                                      int64_t G);
size_t pc_attention_backward_workspace(const pc_ctx *ctx, int64_t N, int64_t H, int64_t D,
                                       int64_t M, int64_t G);
// rel_terms, both ways: the tables from the end to the start, and their gradients. Grids of a x b.
size_t pc_rel_terms_workspace(const pc_ctx *ctx, int64_t a, int64_t b, int64_t D);
// linear_xent, both ways: packed rows, their logits and gradients, one chunk at a time.
size_t pc_linear_xent_workspace(const pc_ctx *ctx, int64_t N, int64_t C, int64_t V);
int64_t pc_linear_xent_rows(int64_t N, int64_t V); // rows in a chunk
// clip_loss and sigmoid_loss, both ways: some rows of the (B,B) matrix at a time, sums per column.
size_t pc_contrast_workspace(const pc_ctx *ctx, int64_t B);
int64_t pc_contrast_rows(int64_t B); // rows in a chunk
// square_sum: one partial sum per block of PC_SQUARE_SUM_BLOCK elements.
size_t pc_square_sum_workspace(const pc_ctx *ctx, int64_t elements);
#define PC_SQUARE_SUM_BLOCK 8192

// Tiles of the portable attention kernels: query rows by key rows.
#define PC_TILE_Q       32
#define PC_TILE_K       64
// The SIMD ones: keys in a panel, panels at a time, floats between rows of scores, most rows of a block.
#define PC_PANEL        16
#define PC_PANELS       32
#define PC_SCORE_STRIDE (PC_PANEL * PC_PANELS + 16)
#define PC_QUERY_BLOCK  32

// The block itself, aligned to PC_ALIGN. Take a mark of ctx->scratch before, release it after.
void *pc_workspace(pc_ctx *ctx, size_t bytes);
// Cuts `bytes` off the front of a block, keeping the rest aligned: sizes add up by pc_padded.
void *pc_carve(void **block, size_t bytes);
size_t pc_padded(size_t bytes); // up to a multiple of PC_ALIGN

#endif

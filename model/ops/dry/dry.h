/*
 * dry.h - the backend that computes nothing: it counts FLOPs and takes the scratch that kernels would.
 *
 * One multiplication and one addition are two FLOPs. Counted are matrix products and attention, which are all
 * but a few per cent of the work:
 *
 *   linear        2 N I O forward, as much for each of dx and dW
 *   attention     4 D H forward (q.k, P v) and 10 D H backward (q.k again, dP, dv, dq, dk) per visible pair
 *   rel_attention as attention; rel_terms 2 N H D (a + b) forward, as much for each of dq and the tables
 *   linear_xent   2 N C V forward; backward that and as much for each of dx and dW
 *   contrastive   2 B B E forward; backward that and as much for each of du and dv
 *
 * Forward and backward tables lie in two files, as with every backend: inference links the first alone.
 */
#ifndef PC_OPS_DRY_H
#define PC_OPS_DRY_H

#include "model/ops/cpu/workspace.h"
#include "model/ops/fp8.h"
#include "model/ops/ops.h"

// The scratch of one kernel call of the CPU's: taken and given back, so that the arena's peak remembers it. A device's
// kernels have a workspace of their own, beside the arenas.
static inline void pc_dry_workspace(pc_ctx *ctx, size_t bytes)
{
    if (ctx->scratch->memory) return;
    const size_t mark = pc_arena_mark(ctx->scratch);
    if (bytes > 0) pc_arena_bytes(ctx->scratch, bytes);
    pc_arena_release(ctx->scratch, mark);
}

// What a product in eight bits takes of a device's scratch. Whether its matrix is among those is not asked: which they are
// goes by their sizes, but for a few of the smallest.
static inline bool pc_dry_fp8(const pc_ctx *ctx, pc_tensor x, pc_tensor y)
{
    return ctx->fp8 && x.dtype == PC_BF16 && y.dtype == PC_BF16 &&
           pc_fp8_fits(x.dim[0], x.dim[1], y.dim[1]);
}

static inline void pc_dry_numbers(pc_ctx *ctx, size_t bytes)
{
    const size_t mark = pc_arena_mark(ctx->scratch);
    if (bytes > 0) pc_arena_numbers(ctx->scratch, bytes);
    pc_arena_release(ctx->scratch, mark);
}

// A mask whose maker did not count: every query of a sequence sees every key of it.
static inline double pc_dry_pairs(const pc_mask *mask, int64_t N, int64_t M)
{
    return mask->pairs > 0.0 ? mask->pairs : (double)N * (double)M / (double)mask->S;
}

#endif

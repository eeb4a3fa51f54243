/*
 * overlay_body.h - the slots that an instruction set does better (overlay.h).
 */
#include "model/ops/cpu/overlay.h"
#include "model/ops/cpu/simd/simd.h"

#if defined(__AVX512F__)
#define OVERLAY      pc_avx512_overlay
#define OVERLAY_GRAD pc_avx512_overlay_grad
#else
#define OVERLAY      pc_avx2_overlay
#define OVERLAY_GRAD pc_avx2_overlay_grad
#endif

#define PUT(slot) ops->slot = S(slot)

void OVERLAY(pc_ops *ops)
{
    PUT(linear_forward);
    PUT(act_forward);
    PUT(linear_act_forward);
    PUT(swiglu_forward);
    PUT(layernorm_forward);
    PUT(rmsnorm_forward);
    PUT(rope_forward);
    PUT(attention_forward);
    PUT(rel_attention_forward);
    PUT(linear_xent_forward);
    PUT(add_forward);
    PUT(add_rows_forward);
    PUT(dropout_forward);
    PUT(l2norm_forward);
#if !defined(__AVX512F__) // vectors of 8 are all that these take
    PUT(im2col_forward);
#endif
}

void OVERLAY_GRAD(pc_grad_ops *ops)
{
    PUT(linear_backward);
    PUT(act_backward);
    PUT(linear_act_backward);
    PUT(swiglu_backward);
    PUT(layernorm_backward);
    PUT(rmsnorm_backward);
    PUT(rope_backward);
    PUT(attention_backward);
    PUT(rel_attention_backward);
    PUT(linear_xent_backward);
    PUT(adamw);
    PUT(accumulate);
    PUT(square_sum);
    PUT(embedding_backward);
    PUT(add_rows_backward);
    PUT(gather_backward);
    PUT(dropout_backward);
    PUT(l2norm_backward);
#if !defined(__AVX512F__)
    PUT(im2col_backward);
#endif
}

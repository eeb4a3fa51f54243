/*
 * attention.cu - attention (ops.h): which kernel a call goes to.
 *
 * A few queries over many keys go to attention_few.cu, whole short sequences with heads of 64 to attention_short.cu, heads of
 * more than 96 to attention_long.cu, other bf16 whose rows can be read by 16 bytes to attention_tensor.cu, f32 and everything
 * else to attention_plain.cuh.
 */
#include "model/ops/cuda/attention_plain.cuh"

// The others list tiles, from what the host reads of the mask: those of a training pass, whose caller knows that it is the same.
static bool cannot_record(bool trains, const pc_mask *mask, int64_t N)
{
    if (!pc_cuda_recording() || (trains && sights_stay(mask, N))) return false;
    pc_cuda_decline();
    return true;
}

void cuda_attention_forward(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale)
{
    if (q.dim[0] == 0) return;
    if (attention_few_forward(o, lse, q, k, v, mask, scale)) return;
    if (cannot_record(ctx->grad_ops != NULL, mask, q.dim[0])) return;
    if (attention_short_forward(o, lse, q, k, v, mask, scale)) return;
    if (attention_long_forward(o, lse, q, k, v, mask, scale)) return;
    if (attention_tensor_forward(o, lse, q, k, v, mask, scale)) return;
    BY_TYPE(q, (plain_forward<T, none>(o, lse, q, k, v, mask, none{}, scale)));
}

void cuda_attention_backward(pc_ctx *, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,
                             pc_tensor o, pc_tensor lse, const pc_mask *mask, double scale)
{
    if (q.dim[0] == 0 && k.dim[0] == 0) return;
    if (cannot_record(true, mask, q.dim[0])) return;
    if (attention_short_backward(dq, dk, dv, dout, q, k, v, o, lse, mask, scale)) return;
    if (attention_long_backward(dq, dk, dv, dout, q, k, v, o, lse, mask, scale)) return;
    if (attention_tensor_backward(dq, dk, dv, dout, q, k, v, o, lse, mask, scale)) return;
    BY_TYPE(q, (plain_backward<T, none>(dq, dk, dv, PC_NONE, PC_NONE, dout, q, k, v, o, lse, mask, none{}, scale)));
}

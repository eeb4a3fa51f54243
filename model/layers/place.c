/*
 * place.c - see place.h.
 */
#include "model/layers/place.h"

#include <string.h>

pc_tensor pc_place(pc_ctx *ctx, pc_tensor host)
{
    const pc_memory *memory = ctx->act->memory;
    if (!memory || !pc_present(host)) return host;
    if (!ctx->grad_ops && memory->holds(host.data)) return host;
    PC_ASSERT(pc_is_dense(host), "only dense tensors are placed");
    const pc_tensor y = pc_alloc_like(ctx->act, host);
    const size_t bytes = (size_t)pc_numel(host) * pc_dtype_size(host.dtype);
    if (host.dtype == PC_I32) { // is shared memory
        if (!ctx->act->dry) memcpy(y.data, host.data, bytes);
        return y;
    }
    // By way of shared memory: the host's own is free on return, and nobody waits for the device.
    const pc_tensor staged = pc_alloc_shared(ctx->act, host.dtype, 1, pc_numel(host));
    if (ctx->act->dry) return y;
    const bool there = memory->holds(host.data);
    if (!there) memcpy(staged.data, host.data, bytes);
    memory->copy(y.data, there ? host.data : staged.data, bytes);
    return y;
}

pc_mask pc_place_mask(pc_ctx *ctx, const pc_mask *m)
{
    if (!ctx->act->memory) return *m;
    return (pc_mask){.S = m->S,
                     .q_off = pc_place(ctx, m->q_off),
                     .k_off = pc_place(ctx, m->k_off),
                     .lo = pc_place(ctx, m->lo),
                     .hi = pc_place(ctx, m->hi),
                     .plo = pc_place(ctx, m->plo),
                     .phi = pc_place(ctx, m->phi),
                     .pairs = m->pairs};
}

pc_tensor pc_fetch(pc_ctx *ctx, pc_tensor x)
{
    if (!ctx->act->memory || !pc_present(x)) return x;
    const int64_t C = pc_row_len(x);
    const pc_dtype t = x.dtype == PC_BF16 ? PC_F32 : x.dtype;
    pc_tensor y = pc_alloc_shared(ctx->act, t, pc_numel(x) / (C ? C : 1), C);
    pc_tensor flat = x;
    flat.rank = 2;
    flat.dim[0] = y.dim[0];
    flat.dim[1] = C;
    if (x.rank == 1) flat.stride = 1;
    ctx->ops->copy_forward(ctx, y, flat);
    pc_wait(ctx);
    void *data = y.data;
    y = x;
    y.dtype = t;
    y.data = data;
    y.stride = C;
    return y;
}

void pc_wait(const pc_ctx *ctx)
{
    if (ctx->act->memory && !ctx->act->dry) ctx->act->memory->wait();
}

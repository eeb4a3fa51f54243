/*
 * place.h - what comes from outside a pass, brought to where the pass computes, and back.
 *
 * On the CPU nothing is copied: the tensor itself comes back. In inference so it does where it lies in the device's memory,
 * or in what that shares with the host. Copies come from ctx->act.
 */
#ifndef PC_LAYERS_PLACE_H
#define PC_LAYERS_PLACE_H

#include "model/ops/ops.h"

pc_tensor pc_place(pc_ctx *ctx, pc_tensor host); // absent stays absent
pc_mask pc_place_mask(pc_ctx *ctx, const pc_mask *m);
// Rows as the host reads them, dense, bf16 widened; the device is waited for.
pc_tensor pc_fetch(pc_ctx *ctx, pc_tensor x);
// Until what the device was told is done: before the host reads a loss.
void pc_wait(const pc_ctx *ctx);

#endif

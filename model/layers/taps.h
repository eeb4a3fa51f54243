/*
 * taps.h - every activation by name.
 *
 * Where ctx->taps is set, layers hand over copies of their activations under dotted names
 * ("vision.hidden_states.2", "decoder.blocks.0.attn.out"); parity tests, `percept logits --taps` and the report's
 * heat maps read them. Without taps the call costs one comparison.
 */
#ifndef PC_LAYERS_TAPS_H
#define PC_LAYERS_TAPS_H

#include "model/ops/ops.h"

typedef struct pc_tap {
    char name[128];
    pc_tensor value; // a dense copy, malloc'ed
} pc_tap;

typedef struct pc_taps {
    pc_tap *list;
    int count, capacity;
    char prefix[128];
    pc_status status; // PC_ERR_MEMORY when a copy found no room: what came later is missing
} pc_taps;

// Copies x under prefix + name, bf16 widened, when ctx->taps is set. Nothing happens on dry operations.
void pc_tap_add(pc_ctx *ctx, pc_tensor x, const char *fmt, ...) PC_PRINTF(3, 4);
size_t pc_tap_push(pc_ctx *ctx, const char *fmt, ...) PC_PRINTF(2, 3); // prefix, as pc_params_push
void pc_tap_pop(pc_ctx *ctx, size_t length);
const pc_tensor *pc_tap_find(const pc_taps *t, const char *name);
void pc_taps_close(pc_taps *t);

#endif

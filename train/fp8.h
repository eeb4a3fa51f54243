/*
 * fp8.h - a run's products in eight bits: which matrices take part, the memory of it, what a checkpoint keeps.
 *
 * The linears of transformer blocks take part (qkv, out and both of an MLP, of towers and decoder), trained or frozen, where
 * both sizes are multiples of PC_FP8_LEAST. Projectors, heads, tables, what reads pixels and low-rank adapters do not.
 * How they are scaled and cast: ops/fp8.h.
 */
#ifndef PC_TRAIN_FP8_H
#define PC_TRAIN_FP8_H

#include "model/layers/params.h"
#include "model/ops/backend.h"

typedef struct fp8_state {
    pc_fp8 table;
    pc_params *params;
    pc_arena arena;          // the device's arrays, and W in eight bits, both ways
    float *history;          // the host's, which pc_param.history are views of
    int *param;              // (table.count) number in the list
    const pc_memory *memory; // NULL: not open
} fp8_state;

bool fp8_takes(const pc_param *q);
size_t fp8_bytes(const pc_params *p); // of the device

// For weights that lie on the device; none of them has a history.
pc_status fp8_open(fp8_state *f, pc_params *p, const pc_backend *b);
void fp8_close(fp8_state *f); // a zeroed one is fine

// Histories to the host, for a checkpoint; and as a checkpoint had them to the device.
void fp8_fetch(fp8_state *f);
void fp8_upload(fp8_state *f);

#endif

/*
 * norm.h - LayerNorm and RMSNorm as one layer (spec: decoders.md 2).
 */
#ifndef PC_LAYERS_NORM_H
#define PC_LAYERS_NORM_H

#include "model/layers/params.h"

typedef enum pc_norm_kind { PC_LAYERNORM, PC_RMSNORM } pc_norm_kind;

typedef struct pc_norm {
    pc_norm_kind kind;
    double eps;
    pc_weight gain, bias; // (C); RMSNorm has no bias
} pc_norm;

typedef struct pc_norm_kept {
    pc_tensor mean, rstd; // (N) each; RMSNorm has no mean
} pc_norm_kept;

void pc_norm_params(pc_params *p, pc_norm *l, const char *name, pc_norm_kind kind, int64_t C,
                    double eps);
// Statistics are allocated from ctx->act into kept. x (N,C) or strided heads (N,H,C) for RMSNorm.
void pc_norm_forward(pc_ctx *ctx, pc_tensor y, pc_norm_kept *kept, const pc_norm *l, pc_tensor x);
// dx = norm'(dy) + add?; dx may be dy or add.
void pc_norm_backward(pc_ctx *ctx, pc_tensor dx, pc_norm *l, const pc_norm_kept *kept, pc_tensor dy,
                      pc_tensor x, pc_tensor add);

// Whether any parameter of it has a gradient.
bool pc_norm_trains(const pc_norm *l);

#endif

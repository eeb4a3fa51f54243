/*
 * mlp.h - the feed-forward half of a block.
 *
 *   GELU kinds   y = f(x W1^T + b1) W2^T + b2 + r      fc1 (F,C), fc2 (C,F)
 *   SwiGLU       y = (silu(x Wg^T) * (x Wu^T)) Wd^T + r   gate_up (2F,C): gate rows first; down (C,F)
 */
#ifndef PC_LAYERS_MLP_H
#define PC_LAYERS_MLP_H

#include "model/layers/linear.h"

typedef struct pc_mlp_config {
    int64_t C, F, O; // O: output width, C in a block
    bool swiglu, bias;
    pc_act act;
    double std, out_std;
} pc_mlp_config;

typedef struct pc_mlp {
    pc_mlp_config config;
    pc_linear up;   // "fc1" or "gate_up"
    pc_linear down; // "fc2" or "down"
} pc_mlp;

typedef struct pc_mlp_kept {
    pc_tensor z; // (N,F), or (N,2F) gate and up
    pc_tensor h; // (N,F) the input of `down`
} pc_mlp_kept;

void pc_mlp_params(pc_params *p, pc_mlp *l, const char *name, const pc_mlp_config *c);
// y absent: only what backward reads is computed.
void pc_mlp_forward(pc_ctx *ctx, pc_tensor y, pc_mlp_kept *kept, const pc_mlp *l, pc_tensor x,
                    pc_tensor r);
void pc_mlp_backward(pc_ctx *ctx, pc_tensor dx, pc_mlp *l, const pc_mlp_kept *kept, pc_tensor dy,
                     pc_tensor x);

// Whether any parameter of it has a gradient.
bool pc_mlp_trains(const pc_mlp *l);

#endif

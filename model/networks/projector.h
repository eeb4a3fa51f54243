/*
 * projector.h - from the tower's width to the decoder's (spec: llava.md 1).
 *
 *   N linears with an activation between them: N = 1 is LLaVA's `linear`, N = 2 `mlp2x_gelu`.
 *   positions > 0 adds a learned table (positions, out) to the result, row p to patch p: where in the image
 *   a feature came from survives into the decoder.
 */
#ifndef PC_NETWORKS_PROJECTOR_H
#define PC_NETWORKS_PROJECTOR_H

#include "model/layers/linear.h"

#define PC_PROJECTOR_MAX 4

typedef struct pc_projector_config {
    int64_t depth, in, out; // depth: number of linears
    bool bias;
    pc_act act;
    int64_t positions;      // 0: none
    int64_t queries, heads; // of a resampler (resampler.h), which stands in the projector's place
    double std;             // initial standard deviation; 0: each matrix by its size
} pc_projector_config;

typedef struct pc_projector {
    pc_projector_config config;
    pc_linear linear[PC_PROJECTOR_MAX];
    pc_weight positions;
} pc_projector;

typedef struct pc_projector_kept {
    pc_tensor in[PC_PROJECTOR_MAX], z[PC_PROJECTOR_MAX];
    pc_tensor index; // i32 (N): patch of each row
} pc_projector_kept;

void pc_projector_params(pc_params *p, pc_projector *l, const pc_projector_config *c);
// x (N,in), N = images * patches.
pc_tensor pc_projector_forward(pc_ctx *ctx, pc_projector_kept *kept, const pc_projector *l,
                               pc_tensor x);
void pc_projector_backward(pc_ctx *ctx, pc_tensor dx, pc_projector *l,
                           const pc_projector_kept *kept, pc_tensor dy);

pc_status pc_projector_validate(const pc_projector_config *c);
bool pc_projector_trains(const pc_projector *l); // some parameter of it has a gradient

#endif

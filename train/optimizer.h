/*
 * optimizer.h - AdamW over the parameter list (spec: training.md 1); with `muon`, that for the hidden matrices.
 *
 *   clip    norm = sqrt(sum over trained parameters |g|^2), in double;  g *= min(1, clip / (norm + 1e-6))
 *   update  w -= lr wd w;  m, v moments of g;  w -= lr (m / (1-b1^t)) / (sqrt(v) / sqrt(1-b2^t) + eps)
 *   then    logit_scale is brought back into [0, ln 100]
 *
 * lr is the schedule's times the parameter's lr_scale; decay applies where the parameter's `decay` says.
 * The norm is summed piece by piece in list order (spans.h): the same for any number of threads.
 */
#ifndef PC_TRAIN_OPTIMIZER_H
#define PC_TRAIN_OPTIMIZER_H

#include "model/ops/backend.h"
#include "train/muon.h"
#include "train/spans.h"

typedef struct optimizer_config {
    double beta1, beta2, eps, weight_decay;
    double clip;               // 0: no limit
    bool muon;                 // hidden matrices are updated as muon.h has it
    const pc_backend *backend; // NULL: the CPU. Muon is the CPU's alone
} optimizer_config;

typedef struct optimizer {
    optimizer_config config;
    pc_params *params;
    spans spans;
    pc_arena moments;
    muon muon;
    pc_tensor logit_scale; // absent unless trained
    int64_t t;             // updates made
    double *
        squares; // (spans.count) of the last norm; on a device it lies in the scratch arena's shared part
    pc_pool *pool;           // not owned
    const pc_memory *memory; // of a device, or NULL
    pc_ctx *ctx;             // (threads) each without a pool
    pc_arena *scratch;
    int threads;
} optimizer;

// Gives the trainable parameters their moments (zero). The list must keep its order and flags.
pc_status optimizer_open(optimizer *o, pc_params *p, const optimizer_config *c, pc_pool *pool);
void optimizer_close(optimizer *o); // a zeroed one is fine

// The global gradient norm, before clipping; not finite when any gradient is not.
double optimizer_norm(optimizer *o);
// One update with the gradients as they stand; `norm` is optimizer_norm's.
void optimizer_step(optimizer *o, double lr, double norm);

// No decay for parameters whose name matches the shell pattern; returns how many matched.
int optimizer_no_decay(pc_params *p, const char *pattern);

#endif

/*
 * optimizer.h - AdamW over the parameter list (spec: training.md 1); with `muon`, that for the hidden matrices.
 *
 *   clip    norm = sqrt(sum over trained parameters |g|^2), in double;  g *= min(1, clip / (norm + 1e-6))
 *   update  w -= lr wd w;  m, v moments of g;  w -= lr (m / (1-b1^t)) / (sqrt(v) / sqrt(1-b2^t) + eps)
 *   then    logit_scale is brought back into [0, ln 100]
 *
 * lr is the schedule's times the parameter's lr_scale; decay applies where the parameter's `decay` says.
 * The norm is summed piece by piece in list order (spans.h): the same for any number of threads.
 *
 * A step is launched, and what it found is asked for later: on a device norm, clipping factor and the judgement whether
 * loss and norm are finite stay there, in a gate (ops.h) that the update itself looks at. A step that is not finite
 * changes nothing, nor does any after it. On the CPU the same calls have done their work when they return.
 */
#ifndef PC_TRAIN_OPTIMIZER_H
#define PC_TRAIN_OPTIMIZER_H

#include "model/ops/backend.h"
#include "train/muon.h"
#include "train/spans.h"

typedef struct optimizer_config {
    double beta1, beta2, eps, weight_decay;
    double clip;     // 0: no limit
    bool muon;       // hidden matrices are updated as muon.h has it
    bool stochastic; // what is stored in bf16 alone is rounded at random, by `seed` and the update
    uint64_t seed;
    pc_dtype real;             // the type of matrices where it is computed: f32 (0), or bf16
    pc_dtype moments;          // of matrices: f32 (0), or bf16
    bool master;               // matrices in bf16 have an f32 original, which is what changes
    const pc_backend *backend; // NULL: the CPU
} optimizer_config;

enum { OPTIMIZER_RESULTS = 2 }; // of so many steps the results are kept

typedef struct optimizer_result {
    double loss, norm; // norm: before clipping
} optimizer_result;

typedef struct optimizer {
    optimizer_config config;
    pc_params *params;
    spans spans;
    pc_arena moments, masters;
    muon muon;
    pc_tensor logit_scale; // absent unless trained
    int64_t t;             // updates made
    pc_tensor loss;        // f64 (1): where the objective leaves a step's loss (objective_launch)
    pc_tensor gate;        // f64 (PC_GATE) of the present step
    pc_tensor sums;        // f64 (spans.count): squares of the gradients
    struct {
        double *gate; // (PC_GATE) as the step left it, for the host
        int64_t mark; // behind its copy (pc_memory)
    } results[OPTIMIZER_RESULTS];
    int64_t launched;
    pc_piece *
        table; // a device's: spans.count pieces, first the `adamw` ones that are not Muon's; made by the first step
    int64_t adamw;
    bool made;
    pc_pool *pool;           // not owned
    const pc_memory *memory; // of a device, or NULL
    pc_ctx *ctx;             // (threads) each without a pool
    pc_arena *scratch;
    int threads;
} optimizer;

// Gives the trainable parameters their moments (zero). The list must keep its order and flags; on a device also the
// places of its tensors, lr_scale and decay from the first step on.
pc_status optimizer_open(optimizer *o, pc_params *p, const optimizer_config *c, pc_pool *pool);
void optimizer_close(optimizer *o); // a zeroed one is fine

// Norm and update with the gradients and `loss` as they stand. Where either is not finite, the weights stay as they are.
void optimizer_launch(optimizer *o, double lr);
// Of the launch `back` launches ago, below OPTIMIZER_RESULTS; waits until the device has come so far.
optimizer_result optimizer_found(optimizer *o, int64_t back);

// The same in two, waiting: the global gradient norm, before clipping; not finite when any gradient is not.
double optimizer_norm(optimizer *o);
// One update with the gradients as they stand; `norm` is optimizer_norm's.
void optimizer_step(optimizer *o, double lr, double norm);

// No decay for parameters whose name matches the shell pattern; returns how many matched.
int optimizer_no_decay(pc_params *p, const char *pattern);

#endif

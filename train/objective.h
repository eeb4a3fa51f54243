/*
 * objective.h - what is minimised: loss and gradients of one optimiser step over all its micro-batches.
 *
 *   contrastive.c  two towers. The loss couples all samples of the step: embeddings of every micro-batch are
 *                  gathered first. Micro-batches whose activations do not stay are run forward a second time, with the
 *                  same dropout (Gao et al. 2021, "Scaling deep contrastive learning batch size"): exact.
 *                  The temperature's gradient is made once, by the whole-batch loss.
 *   instruction.c  next token. L = sum of -ln p over all micro-batches / M, M the supervised tokens of the
 *                  step: splitting a step into micro-batches changes rounding only (spec: training.md 3).
 *
 * The order of every sum is fixed by the batch and the number of replicas alone.
 */
#ifndef PC_TRAIN_OBJECTIVE_H
#define PC_TRAIN_OBJECTIVE_H

#include "data/datasets/loader.h"
#include "train/engine.h"

// Zeroes gradients, runs every micro-batch forward and backward, sums over replicas. The loss is left in `loss`, f64 (1),
// where the engine's backend computes: nothing waits for a device. The batch's host memory is free on return.
void objective_launch(engine *e, const pc_batch *b, pc_tensor loss);
// The same, waiting; returns the loss.
double objective_step(engine *e, const pc_batch *b);

// The loss of knowing nothing: ln of the batch (softmax contrast), of the sigmoid loss at its initial scale
// and bias, or ln of the vocabulary.
double objective_chance(const pc_model *m, int64_t batch);

// ---- contrastive: pieces that the plan and the tests use too ----
// Embeddings of one micro-batch, (B,E) each, kept in `kept`; memory from ctx.
void contrastive_forward(pc_ctx *ctx, pc_clip *l, pc_clip_kept *kept, const pc_micro_batch *b);
void contrastive_backward(pc_ctx *ctx, pc_clip *l, const pc_clip_kept *kept,
                          const pc_micro_batch *b, pc_tensor du, pc_tensor dv);
void contrastive_launch(engine *e, const pc_batch *b, pc_tensor loss);
// Whether anything in a tower (or a network that feeds one) is trained: "vision.", "text."
bool objective_trains(const pc_params *p, const char *prefix);

// ---- instruction ----
// Forward and backward of one micro-batch; returns sum nll (0 when ctx runs dry). coef is 1/M.
double instruction_micro(pc_ctx *ctx, pc_vlm *l, const pc_vlm_batch *b, double coef);
void instruction_launch(engine *e, const pc_batch *b, pc_tensor loss);

/*
 * Teacher forcing without gradients: sum nll, and for every supervised row whether the likeliest token is the right one
 * (hit (N), 0 or 1; 0 on rows without a label). `hit` may be NULL. Memory from ctx, given back.
 */
double instruction_score(pc_ctx *ctx, const pc_vlm *l, const pc_vlm_batch *b, uint8_t *hit);

#endif

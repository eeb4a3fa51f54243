/*
 * named.h - parameters and gradients under the names of the checkpoint they came from.
 *
 * A Hugging Face directory has its family's names (several of theirs may lie in one of ours, and the other way
 * round); a native checkpoint has our own. Used by `gradients` and `replay`.
 */
#ifndef PC_TRAIN_NAMED_H
#define PC_TRAIN_NAMED_H

#include "checkpoints/bundle.h"
#include "checkpoints/given.h"
#include "model/networks/runner.h"

// The checkpoint's names: the family's, or one per parameter of ours. Close with pc_aliases_close.
pc_status named_aliases(pc_aliases *out, const pc_bundle *b);

// Where there are adapters, they alone are trained.
void named_train_adapters(pc_model *m);

// Freezes what a forward pass over this batch does not reach: blocks of the tower above the layer that is
// read, its unused norm; tower and projector when there is no image.
void named_freeze_unreached(pc_model *m, const pc_given *g);

// What stands under a name: every parameter trained, or none.
typedef enum named_what { NAMED_WEIGHTS, NAMED_GRADIENTS } named_what;

// Writes every trained parameter's weights or gradients under its name and shape, and `loss` (1) where it is
// given.
pc_status named_write(const char *path, const pc_aliases *names, pc_params *params, named_what what,
                      const float *loss);

// Sets decay (or trainable) to `value` for the named tensors. A name that is unknown is an error.
typedef enum named_flag { NAMED_DECAY, NAMED_TRAINABLE } named_flag;
pc_status named_set(const pc_aliases *names, pc_params *params, const char *name, named_flag flag,
                    bool value);
// After setting flags one by one: that no parameter of ours got both values. `name_is_set` tells which names
// were set.
pc_status named_check(const pc_aliases *names, pc_params *params, named_flag flag, bool value,
                      bool (*name_is_set)(const char *name, void *arg), void *arg);

// One forward and backward pass over a whole batch: gradients accumulate. Token losses: coef times the sum, and
// *loss is the sum; two towers: *loss is the loss.
typedef struct named_pass {
    pc_model *model;
    const pc_given *given;
    double coef, loss;
} named_pass;
void named_pass_run(pc_ctx *ctx, void *arg);

// Where the runner finds backward.
extern const pc_runner_grad named_grad;

#endif

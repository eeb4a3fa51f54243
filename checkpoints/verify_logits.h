/*
 * verify_logits.h - a model's answer to random inputs, for verify.c.
 */
#ifndef PC_CHECKPOINTS_VERIFY_LOGITS_H
#define PC_CHECKPOINTS_VERIFY_LOGITS_H

#include "model/networks/model.h"

typedef struct pc_answers {
    float *numbers; // logits of all rows; two towers: similarities, images by texts
    int64_t count;
    bool images; // pixels were part of it
} pc_answers;

// Inputs are a function of the seed and of `c`, the description of the model that others are held against (NULL: its
// own): formats that say less of a model see the same. Bound f32 weights.
pc_status pc_answers_open(pc_answers *out, pc_model *m, const pc_model_config *c, uint64_t seed);
void pc_answers_close(pc_answers *a);

#endif

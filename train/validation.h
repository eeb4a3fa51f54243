/*
 * validation.h - how well the model does on held-out data.
 *
 *   tokens     loss: mean -ln p of the supervised tokens. An answer counts as right when every supervised token
 *              of it, its end included, is the likeliest one given the true tokens before it: that is exactly
 *              when greedy decoding writes it. By question type.
 *   towers     loss: as in training, over whole batches. Recall at 1 (at 5): the share of images whose own
 *              caption is the nearest (among the five nearest) of all, and the other way round.
 */
#ifndef PC_TRAIN_VALIDATION_H
#define PC_TRAIN_VALIDATION_H

#include "train/run.h"

enum { VALIDATION_TYPES = 32 };

typedef struct validation_type {
    char name[48];
    int64_t right, count;
} validation_type;

typedef struct validation {
    int64_t step, samples;
    double loss, seconds;
    // tokens
    int64_t answers, right, tokens, tokens_right;
    validation_type types[VALIDATION_TYPES];
    int n_types;
    // towers
    double recall_image, recall_text;   // at 1: image to text, text to image
    double recall5_image, recall5_text; // at 5
} validation;

double validation_accuracy(const validation *v); // right / answers
double validation_recall(const validation *v);   // mean of the four: at 1 and 5, both ways

// Runs over run->shown once. Deterministic; leaves no trace in the training state.
pc_status validation_run(validation *out, run *u);

// Two towers: unit rows of every shown image and caption, (shown.count,E) each; row i is of sample
// row_sample[i], `rows` of them came (images may be skipped). Loss as in training, over whole batches.
pc_status validation_embed(run *u, pc_tensor U, pc_tensor V, int64_t *row_sample, int64_t *rows,
                           double *loss);

// Whether v beats the best so far by the recipe's `eval.best` (equal: the smaller loss); if so, the state
// remembers it.
bool validation_improves(const validation *v, run *u);

// "accuracy 61.2 %, loss 0.412" for log lines.
const char *validation_text(char *buf, size_t size, const validation *v, const run *u);

#endif

/*
 * preview.h - the first batch as the model will see it, before step 1.
 *
 * Ids decoded back into text, what is supervised in [[ ]], images as <image>: a wrong template, a mask that
 * supervises nothing or everything, or a truncated answer shows here and not after a night of training.
 */
#ifndef PC_TRAIN_PREVIEW_H
#define PC_TRAIN_PREVIEW_H

#include "train/run.h"

// Logs a few samples, the share of supervised tokens and the loss of knowing nothing.
pc_status preview_batch(const run *u, const pc_batch *b);

// One sequence of a micro-batch as text, malloc'ed.
pc_status preview_sequence(char **out, const pc_micro_batch *b, int64_t sequence,
                           const pc_tokenizer *tok);

#endif

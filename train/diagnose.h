/*
 * diagnose.h - where the first value stopped being finite.
 *
 * Training looks at two numbers a step, the loss and the gradient norm: sums carry every NaN and infinity
 * into them. Only when one of them is not finite is the step run again, slowly, micro-batch by micro-batch with every
 * activation looked at, to name the tensor and the samples.
 */
#ifndef PC_TRAIN_DIAGNOSE_H
#define PC_TRAIN_DIAGNOSE_H

#include "train/run.h"

// PC_ERR_NUMERIC, always: the message names tensor, step and samples. Gradients are used up.
pc_status diagnose_step(run *u, const pc_batch *b, double loss, double norm);

#endif

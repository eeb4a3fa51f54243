/*
 * loop.h - step after step.
 *
 *   batch -> loss and gradients -> norm -> update -> metrics -> [validate, best.h5] -> [last.h5]
 *
 * Everything after the update at step s is a function of s alone, so a run stopped anywhere and resumed
 * ends in the same bytes. SIGINT and SIGTERM end the step under way, write last.h5 and say how to go on.
 * A value that is not finite ends the run at once; nothing is written after it. On a device that is seen a step late,
 * when the next is under way already; but neither has changed a weight (optimizer.h).
 */
#ifndef PC_TRAIN_LOOP_H
#define PC_TRAIN_LOOP_H

#include "train/run.h"

// The whole command: opens the run, trains, reports. `resume`: go on in a used folder. PC_ERR_INTERRUPTED after a
// signal, with the state written.
pc_status loop_train(recipe *r, bool resume);

// Prints the plan to stdout and stops; PC_ERR_MEMORY when it does not fit.
pc_status loop_plan(recipe *r);

#endif

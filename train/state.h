/*
 * state.h - the run's folder and its checkpoints.
 *
 *   OUT/checkpoints/last.h5        parameters, moments, state: what --resume goes on from
 *   OUT/checkpoints/best.h5        parameters of the best validation so far (the last ones without validation)
 *   OUT/checkpoints/step-N.h5      `checkpoint.keep` of them: the same file as last.h5 was at step N
 *
 * Contents are a function of the recipe and the step alone: no times, no paths of the run. Every file
 * is written beside and renamed; killed at any moment, the folder holds whole checkpoints.
 */
#ifndef PC_TRAIN_STATE_H
#define PC_TRAIN_STATE_H

#include "train/run.h"

// OUT/NAME into a buffer of 4096 bytes.
const char *state_path(char buf[4096], const recipe *r, const char *name);

/*
 * Makes the folder, or finds it used: then PC_ERR_INPUT unless `resume`. *last becomes the path of last.h5
 * (malloc'ed) when there is one to go on from, NULL to begin. *lock is a descriptor that keeps other processes
 * out of the folder until it is closed, or this one is gone, however it went.
 */
pc_status state_folder(char **last, int *lock, const recipe *r, bool resume);

pc_status state_read(run_state *s, const char *json);
char *state_write(const run_state *s, uint64_t seed, int64_t steps_per_epoch); // malloc'ed JSON

// Both refuse to write numbers that are not finite.
pc_status state_save_last(run *u); // and step-N.h5 where the recipe keeps them
pc_status state_save_best(run *u);

#endif

/*
 * manifest.h - manifest.json and inputs.sha256: what went into a run, by hash.
 *
 * inputs.sha256 lists every file that was read (rows, images, the checkpoint to start from), as `sha256sum -c`
 * takes it; manifest.json holds the hash of that list, the recipe's, the program's version, the seed, and the licences
 * that the data declare (the first line of a README or LICENSE beside the rows that speaks of one).
 */
#ifndef PC_TRAIN_MANIFEST_H
#define PC_TRAIN_MANIFEST_H

#include "train/run.h"

// SHA-256 over the contents of the training row files, in order: the same data again?
pc_status manifest_rows(char out[65], const recipe_sources *s);

// Writes both files into the run's folder.
pc_status manifest_write(run *u);

#endif

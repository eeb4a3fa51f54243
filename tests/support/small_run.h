/*
 * small_run.h - a training run small enough for a test: a few generated scenes, tiny networks.
 */
#ifndef PC_TESTS_SMALL_RUN_H
#define PC_TESTS_SMALL_RUN_H

#include "train/recipe.h"

// Draws 48 training scenes of 32 px into the scratch folder, once; returns it.
const char *small_scenes(void);

// A recipe over those scenes: stage "pretrain" or "tune", into scratch folder `out`. `sets`: NULL-terminated
// "key=value" list on top, or NULL. Aborts on failure: a test cannot go on.
void small_recipe(recipe *r, const char *stage, const char *out, const char *const *sets);

// The same, for recipes that are meant to fail.
pc_status small_recipe_try(recipe *r, const char *stage, const char *out, const char *const *sets);

#endif

/*
 * tiny_model.h - untrained checkpoints of both kinds, whole with tokenizer, template and image settings, and a
 * few pictures to ask about: what tests of inference stand on. All in the scratch folder.
 */
#ifndef PC_TESTS_TINY_MODEL_H
#define PC_TESTS_TINY_MODEL_H

#include "model/core/status.h"

enum { TINY_IMAGES = 6 };

// Writes "vlm.h5" (template `name`: "short", "vicuna_v1"), "clip.h5" and image0.png ...; scratch must be open.
// `seed` picks the weights. Aborts on failure: a test cannot go on.
void tiny_models(const char *name, uint64_t seed);

#endif

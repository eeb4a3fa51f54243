/*
 * random.h - a reader of the counter-based generator, for the scenes' own files.
 *
 * A reader stands at a place fixed by (seed, split, index, purpose) and walks from there. Purposes
 * keep layout, drawing and language apart: a new question type moves no pixel.
 */
#ifndef PC_DATA_SCENES_RANDOM_H
#define PC_DATA_SCENES_RANDOM_H

#include <math.h>

#include "data/scenes/scenes.h"
#include "model/core/rng.h"

typedef enum scene_purpose {
    SCENE_FOR_LAYOUT,
    SCENE_FOR_DRAWING,
    SCENE_FOR_CAPTIONS,
    SCENE_FOR_DESCRIPTION,
    SCENE_FOR_QUESTIONS,
    SCENE_FOR_PRESENCE,
    SCENE_PURPOSES
} scene_purpose;

typedef struct scene_random {
    pc_rng_key key;
    uint64_t block;
    uint32_t word[4];
    int left;
} scene_random;

static inline scene_random scene_random_at(const pc_scene *scene, scene_purpose purpose)
{
    const uint64_t place = (uint64_t)scene->split * SCENE_PURPOSES + (uint64_t)purpose;
    return (scene_random){.key = {.seed = scene->seed,
                                  .stream = PC_STREAM_SCENE,
                                  .step = place << 48 | (uint64_t)scene->index}};
}

static inline uint32_t random_word(scene_random *r)
{
    if (r->left == 0) {
        pc_philox(&r->key, r->block++, r->word);
        r->left = 4;
    }
    return r->word[--r->left];
}

/* Uniform in [0,1). */
static inline double random_unit(scene_random *r)
{
    return (double)random_word(r) * (1.0 / 4294967296.0);
}

static inline double random_range(scene_random *r, double low, double high)
{
    return low + (high - low) * random_unit(r);
}

/* Uniform in 0..n-1; the bias of the multiplication is below n / 2^32. */
static inline int random_below(scene_random *r, int n)
{
    return (int)(((uint64_t)random_word(r) * (uint64_t)n) >> 32);
}

static inline bool random_chance(scene_random *r, double p)
{
    return random_unit(r) < p;
}

/* An index drawn with the given weights; their sum must be positive. */
static inline int random_weighted(scene_random *r, const double *weight, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += weight[i];
    double u = random_unit(r) * sum;
    for (int i = 0; i < n; i++) {
        u -= weight[i];
        if (u < 0.0 && weight[i] > 0.0) return i;
    }
    for (int i = n - 1; i > 0; i--) // rounding left a crumb
        if (weight[i] > 0.0) return i;
    return 0;
}

#endif

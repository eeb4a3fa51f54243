/*
 * language.h - shared by language.c, questions.c and write.c; not for other rooms.
 */
#ifndef PC_DATA_SCENES_LANGUAGE_H
#define PC_DATA_SCENES_LANGUAGE_H

#include "data/scenes/random.h"

/* Text that grows at its end and never past its room. */
typedef struct scene_text {
    char *at;
    size_t room;
} scene_text;

void say(scene_text *t, const char *fmt, ...) PC_PRINTF(2, 3);

/* "a" or "an". */
const char *scene_article(const char *word);

/* A random order of 0..count-1. */
void scene_order(int *order, int count, scene_random *r);

/*
 * POPE's question pairs (Li et al. 2023): up to SCENE_PRESENCE pairs that the scene shows, then as
 * many that it does not: at random, the most frequent of the training split, or (adversarial)
 * those whose colour and shape are both there on other objects, then those with one of the two.
 * Returns how many. `frequency` counts the training split's objects; only `popular` reads it.
 */
enum { SCENE_PRESENCE = 3 };
typedef struct scene_pair {
    int colour, shape;
    bool there;
} scene_pair;
typedef enum scene_lure {
    SCENE_LURE_RANDOM,
    SCENE_LURE_POPULAR,
    SCENE_LURE_ADVERSARIAL,
    SCENE_LURES
} scene_lure;
int scene_presence(scene_pair out[2 * SCENE_PRESENCE], const pc_scene *scene, scene_lure lure,
                   const int64_t frequency[SCENE_COLOURS][SCENE_SHAPES]);

#endif

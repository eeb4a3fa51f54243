/*
 * language.h - shared by the files that speak of scenes; not for other rooms.
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

/* How a sentence names objects: attributes, each ANY or a value. */
enum { ANY = -1, SCENE_NAME = 64 };
typedef struct scene_name {
    int size, colour, shape;
} scene_name;

/* How many objects a name fits. */
int scene_count_of(const pc_scene *s, scene_name n);

/* "large red circle", "red objects"; returns out. */
const char *scene_name_text(char out[SCENE_NAME], scene_name n, bool plural);

/* A name that fits object i and no other: the shortest, or (half of the time) the shortest with
 * both colour and shape. `with_colour` and `with_shape` say what it may give away. False when
 * there is none. */
bool scene_name_alone(scene_name *out, const pc_scene *s, int i, bool with_colour, bool with_shape,
                      scene_random *r);

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

/*
 * scenes.h - the generated scenes: a data set that is drawn, not downloaded.
 *
 *   layout.c     which objects a scene has, and where they lie
 *   draw.c       the picture: antialiased shapes over an uneven background
 *   names.c      how sentences name an object
 *   language.c   captions, and POPE's pairs
 *   describe.c   every object and its place, request by request
 *   questions.c  questions with their answers
 *   png.c        one picture to one file
 *   write.c      the files of a whole data set
 *
 * A scene is a pure function of (seed, split, index): every random number is Philox at a counter,
 * so any picture can be redrawn alone, in any order, by any number of threads, to the same bytes.
 * Lengths are fractions of the picture's side; x grows to the right, y downwards.
 *
 * Eight colour-shape pairs, one for each shape and one for each colour, are held out: no picture
 * and no sentence of train, val or test has one, every picture of `unseen` has at least one.
 */
#ifndef PC_DATA_SCENES_H
#define PC_DATA_SCENES_H

#include <stdbool.h>
#include <stdint.h>

#include "model/core/status.h"

enum { SCENE_SHAPES = 8, SCENE_COLOURS = 8, SCENE_SIZES = 2, SCENE_TEXTURES = 3 };
enum { SCENE_CROSS = 5 }; // the one shape whose plural takes "es"
enum { SCENE_MAX_OBJECTS = 4, SCENE_CAPTIONS = 4, SCENE_TEXT = 768 };

typedef enum scene_split {
    SCENE_TRAIN,
    SCENE_VAL,
    SCENE_TEST,
    SCENE_UNSEEN,
    SCENE_SPLITS
} scene_split;

typedef enum scene_texture { SCENE_PLAIN, SCENE_STRIPED, SCENE_DOTTED } scene_texture;
typedef enum scene_size { SCENE_SMALL, SCENE_LARGE } scene_size;

typedef enum scene_type {
    SCENE_EXISTENCE,
    SCENE_COLOUR,
    SCENE_SHAPE,
    SCENE_COUNT,
    SCENE_RELATION,
    SCENE_COMPARISON,
    SCENE_TYPES
} scene_type;

typedef struct scene_object {
    int shape, colour, size, texture; // indices into the name tables below
    double x, y;                      // centre
    double radius;                    // of the circle around it
    double angle;                     // radians
    double rgb[3], rgb_texture[3];    // in [0,1]: jittered body colour, and the texture's
} scene_object;

typedef struct pc_scene {
    uint64_t seed;
    scene_split split;
    int64_t index;
    int count;
    scene_object object[SCENE_MAX_OBJECTS];
} pc_scene;

typedef struct scene_question {
    scene_type type;
    char text[128];
    char answer[16];
} scene_question;

typedef enum scene_turn_type {
    SCENE_DESCRIPTION,
    SCENE_PLACE,
    SCENE_CONTENT,
    SCENE_SIDE,
    SCENE_TURN_TYPES
} scene_turn_type;

enum { SCENE_GRID = 8, SCENE_SIDES = 3, SCENE_TURNS = 1 + 2 * SCENE_MAX_OBJECTS + SCENE_SIDES };
typedef struct scene_turn {
    scene_turn_type type;
    char request[128];
    char reply[160];
} scene_turn;

extern const char *const scene_split_names[SCENE_SPLITS];
extern const char *const scene_shape_names[SCENE_SHAPES];
extern const char *const scene_colour_names[SCENE_COLOURS];
extern const char *const scene_size_names[SCENE_SIZES];
extern const char *const scene_texture_names[SCENE_TEXTURES];
extern const char *const scene_type_names[SCENE_TYPES];
extern const char *const scene_turn_names[SCENE_TURN_TYPES];

/* True for the pairs that only the split `unseen` shows. */
bool scene_held_out(int colour, int shape);

/* The objects of one scene. */
void scene_layout(pc_scene *out, uint64_t seed, scene_split split, int64_t index);

/* The picture: rgb takes 3 * size * size bytes, rows from the top; canvas is room for as many
 * floats. */
void scene_draw(uint8_t *rgb, float *canvas, const pc_scene *scene, int size);

/* SCENE_CAPTIONS different captions: every object with size, colour and shape, then with places,
 * as a relation, with textures. */
void scene_captions(char out[SCENE_CAPTIONS][SCENE_TEXT], const pc_scene *scene);

/*
 * The turns of a dense description (describe.c): all objects in one reply; for each object "Where
 * is the red circle?" - "c5" and "What is at c5?" - "small red circle"; for up to SCENE_SIDES pairs
 * "Where is the circle from the star?" - "left above". Returns how many.
 */
int scene_turns(scene_turn out[SCENE_TURNS], const pc_scene *scene);

/* The square of an object's centre: column a..h from the left, row 1..8 from the top. */
void scene_square(char out[3], const scene_object *object);

/* "What colour is the large star?" and the like, answers balanced, no question twice. Returns how
 * many of the `wanted` were found; `out` has room for `wanted`. */
int scene_questions(scene_question *out, int wanted, const pc_scene *scene);

typedef struct scenes_options {
    int64_t images; // of the split train; the other three have min(500, images / 4) each
    uint64_t seed;  //
    int size;       // pixels on a side, 32..512
    int questions;  // to an image, 1..32
    int threads;    // 0: all cores
    void (*progress)(void *user, int64_t done, int64_t total); // may be NULL
    void *user;
} scenes_options;

/* 16,000 training images of 64 pixels, 12 questions each, seed 1. */
scenes_options scenes_default_options(void);

/* How many images a split has. */
int64_t scenes_split_images(const scenes_options *options, scene_split split);

/* Writes the whole data set into out_dir, which is made if missing. Every file is written beside
 * its place, synced and renamed; scenes.json comes last, so its presence means the rest is whole. */
pc_status scenes_write(const char *out_dir, const scenes_options *options);

#endif

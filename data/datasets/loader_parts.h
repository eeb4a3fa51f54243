/*
 * loader_parts.h - inside the loader; not for other rooms.
 *
 *   loader.h         what the others use
 *   loader.c         slots, workers, the hand-over of batches
 *   loader_batch.c   one micro-batch: which samples, their images, their rows
 *   loader_texts.c   every text as ids, once, at open; what a visit of a sample shows; the worst case
 *   loader_order.c   which sample comes when: epochs, weights, permutations
 *   loader_images.c  images: their sizes, decoded, kept as 8 bits where they are squares
 *   loader_worst.c   the largest micro-batch that the data hold
 */
#ifndef PC_DATA_LOADER_PARTS_H
#define PC_DATA_LOADER_PARTS_H

#include "data/datasets/loader.h"
#include "data/images/visual.h"
#include "data/text/bytemap.h"
#include "model/core/memory.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- texts ---- */

// Ids of the pool [at, at + count), of which so many are supervised.
typedef struct pc_span {
    int64_t at;
    int32_t count, supervised;
} pc_span;

// A question with its answer (or a caption), as it stands behind the prefix and behind another turn.
typedef struct pc_turn_ids {
    pc_span first, later; // count 0: not needed in this place
} pc_turn_ids;

typedef struct pc_text_entry {
    pc_span prefix;                        // BOS, system, image place
    int32_t prefix_rows, prefix_positions; // the image place takes those of the image
    int32_t turns;
    int64_t turn; // its turns: turns[turn .. turn + turns)
    bool one_of;  // captions: a visit shows one of the turns
} pc_text_entry;

typedef struct pc_texts {
    int32_t *ids;
    uint8_t *supervised;
    int64_t count, room;
    pc_turn_ids *turns;
    int64_t turn_count, turn_room;
    pc_text_entry *entries;            // (samples)
    int64_t row_limit, position_limit; // of a visit; of what sees itself: with branches, one turn
    int64_t cut_turns;                 // turns that can never fit
    int64_t cut_example;               // a sample that has one
    int64_t samples, unusable; // of the data set; of these left out (their entries have no turns)
    const pc_loader_config *config;
    const pc_model_config *model;
    const struct pc_images *images;
} pc_texts;

// What one visit shows.
typedef struct pc_visit {
    pc_span prefix;
    int64_t turns, room;
    pc_span *turn;
    int64_t rows, ids, supervised;
} pc_visit;

pc_status pc_texts_open(pc_texts *t, const pc_dataset *data, const pc_model_config *model,
                        const pc_tokenizer *tok, const pc_template *tmpl,
                        const struct pc_images *images, const pc_loader_config *c);
void pc_texts_close(pc_texts *t);
int64_t pc_texts_most_turns(const pc_texts *t); // of any visit
// Chooses turns by (seed, epoch, entry) and drops whole ones from the end until the rest fits.
void pc_texts_visit(pc_visit *v, const pc_texts *t, int64_t sample, int64_t epoch, int64_t entry);
// The largest number of rows and supervised tokens that a visit of the sample can have.
void pc_texts_most(const pc_texts *t, int64_t sample, int64_t *rows, int64_t *supervised);

/* ---- order ---- */

enum { PC_EPOCHS_HELD = 2 };

typedef struct pc_epoch {
    int64_t epoch;   // -1: none
    int64_t *entry;  // (visits) in the order of the epoch
    int64_t *sample; // (visits) of each entry
} pc_epoch;

typedef struct pc_order {
    const pc_dataset *data;
    int64_t *usable;       // samples that can be shown, source by source
    int64_t *usable_begin; // (sources + 1)
    uint64_t seed;
    bool shuffle;
    int64_t visits; // in an epoch
    int64_t batch, steps;
    pthread_mutex_t lock;
    pc_epoch held[PC_EPOCHS_HELD];
    int64_t *scratch; // (largest source)
} pc_order;

typedef struct pc_visit_key {
    int64_t sample, epoch, entry;
} pc_visit_key;

pc_status pc_order_open(pc_order *o, const pc_dataset *data, const pc_texts *texts,
                        const pc_loader_config *c);
void pc_order_close(pc_order *o);
int64_t pc_order_samples(const pc_order *o, int64_t step); // in this batch
// Visits [begin, end) of a batch.
void pc_order_get(pc_order *o, pc_visit_key *out, int64_t step, int64_t begin, int64_t end);

/* ---- images ---- */

typedef struct pc_images {
    pc_image_config config;
    const pc_dataset *data;
    int64_t *of_sample;          // (samples): number of its image, -1: none
    int64_t count;               // different images
    pc_image_shape alike;        // of every image, where all are alike
    pc_image_geometry geometry;  // likewise
    pc_image_shape *shapes;      // (count) where they differ; rows 0: its size cannot be read
    pc_image_geometry *measures; // (count) likewise
    int64_t bytes;               // squares: of one, 3 S S
    atomic_uchar *state;         // (count)
    pc_arena cache;              // absent when images are not kept
    float table[3][256];         // from 8 bits to what the model sees
} pc_images;

pc_status pc_images_open(pc_images *im, const pc_dataset *data, const pc_model_config *model,
                         const pc_image_config *c, const pc_loader_config *l);
void pc_images_close(pc_images *im);
// Of a sample that has an image. Where its size cannot be read (and bad images are skipped) the shape has rows 0.
const pc_image_shape *pc_images_shape(const pc_images *im, int64_t sample);
const pc_image_geometry *pc_images_geometry(const pc_images *im, int64_t sample);
// The numbers of a sample's image, as many as its shape says; `u8` is room for `bytes`. Errors name the row.
pc_status pc_images_get(float *pixels, float *high, uint8_t *u8, pc_images *im, int64_t sample);
// True the first time: a skipped image is reported once.
bool pc_images_first_failure(pc_images *im, int64_t sample);

/* ---- batches ---- */

typedef struct pc_slot_micro {
    pc_micro_batch batch;
    pc_arena arena;
    float *pixels, *high;        // of all images, one after the other
    pc_image_shape *shapes;      // (worst_images)
    pc_image_geometry *geometry; // (worst_images)
    int64_t *samples;            // (micro)
    int64_t tokens, images, skipped;
    int64_t numbers, high_numbers; // of the images so far
    pc_status status;
    char message[1024];
} pc_slot_micro;

// Room for what one worker lays out.
typedef struct pc_bench {
    uint8_t *u8;
    pc_visit_key *key;
    pc_visit visit;
    int32_t *ids;
    uint8_t *supervised;
    int64_t *branch_end;
    pc_sequence *sequence;
    const int32_t **text;
    int64_t *length;
} pc_bench;

typedef struct pc_batch_maker {
    const pc_dataset *data;
    const pc_model_config *model;
    pc_loader_config config;
    pc_texts texts;
    pc_order order;
    pc_images images;
    int64_t worst_rows, worst_supervised, worst_images, worst_ids, worst_turns;
    int64_t worst_numbers;             // of pixels or patches
    pc_image_geometry *worst_geometry; // (worst_measures): see pc_loader_worst_images
    int64_t worst_measures;
} pc_batch_maker;

pc_status pc_maker_worst(pc_batch_maker *m); // fills worst_* in

pc_status pc_maker_open(pc_batch_maker *m, const pc_dataset *data, const pc_model_config *model,
                        const pc_tokenizer *tok, const pc_template *tmpl,
                        const pc_image_config *image, const pc_loader_config *c);
void pc_maker_close(pc_batch_maker *m);
pc_status pc_bench_open(pc_bench *b, const pc_batch_maker *m);
void pc_bench_close(pc_bench *b);
pc_status pc_slot_micro_open(pc_slot_micro *s, const pc_batch_maker *m);
void pc_slot_micro_close(pc_slot_micro *s);
// Makes micro-batch `number` of batch `step`; a failure stays in the slot.
void pc_make_micro(pc_slot_micro *out, pc_batch_maker *m, pc_bench *bench, int64_t step,
                   int64_t number);

#endif

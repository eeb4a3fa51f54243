/*
 * augment.h - training images and captions seen a little differently at each visit.
 *
 *   crop     a random square of at least this share of the side, stretched back to the whole (bilinear)
 *   flip     left and right exchanged, every other time: not for questions about left and right
 *   colour   every channel times 1 + u, plus v, in units of the normalised pixels; u, v in [-colour, colour]
 *   words    this share of a caption's tokens read as the blank (two towers; end-of-text stays)
 *
 * A function of (seed, step, place in the batch): resumed runs see the same, threads do not matter. It works
 * on the pixels of a batch, once, before the first forward pass; validation sees images as they are.
 */
#ifndef PC_TRAIN_AUGMENT_H
#define PC_TRAIN_AUGMENT_H

#include "data/datasets/loader.h"

typedef struct augment {
    double crop; // 1: none
    bool flip;
    double colour;       // 0: none
    double words;        // 0: none
    int32_t blank, keep; // the id that hides a word; the id that is never hidden
    uint64_t seed;
    pc_pool *pool; // not owned
    float *room;   // (threads, 3 S S)
    int64_t size;  // S
} augment;

// Room for images of S x S. The pool may be NULL.
pc_status augment_open(augment *a, int64_t S, pc_pool *pool);
void augment_close(augment *a); // a zeroed one is fine
bool augment_wanted(const augment *a);

void augment_batch(augment *a, const pc_batch *b);

// One image (3,S,S) in place; `room` is space for another. `index`: place in the batch.
void augment_image(const augment *a, float *pixels, float *room, int64_t step, int64_t index);

#endif

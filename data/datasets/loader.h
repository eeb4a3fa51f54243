/*
 * loader.h - batches, ready before the model wants them.
 *
 * Worker threads decode, resize and tokenise ahead into a ring of slots; what batch k holds is a function of
 * (seed, k) alone: the order of an epoch is a permutation keyed by (seed, epoch), so resuming at any step needs
 * one number. An error in a worker comes out of loader_next of the batch it belongs to, naming file and line.
 */
#ifndef PC_DATA_LOADER_H
#define PC_DATA_LOADER_H

#include "data/datasets/dataset.h"
#include "data/images/image.h"
#include "model/networks/model.h"

typedef struct pc_loader_config {
    int64_t batch; // samples per optimiser step
    int64_t micro; // samples per micro-batch; divides batch
    uint64_t seed;
    int threads, ahead; // workers (0: the caller's thread does the work); batches prepared ahead
    pc_bad_sample on_bad_image; // skip: also samples of which no turn fits
    int64_t
        max_tokens; // longest sequence, image rows included; longer ones: whole turns are dropped from the end; 0: the decoder's
    bool branches;  // turns of one sample share its image and do not see each other
    int64_t
        max_turns; // at most so many turns of a sample per visit, chosen by (seed, epoch, sample); 0: all
    bool shuffle;        // false: file order (evaluation)
    bool random_caption; // captions: one of the row's, by (seed, epoch, sample); false: the first
    bool
        cache_images; // keep preprocessed images in memory once decoded (8-bit, resized), when they fit
} pc_loader_config;

// One micro-batch of either kind, owned by the loader until the next call of loader_next.
typedef struct pc_micro_batch {
    pc_vlm_batch vlm;   // VLM models
    pc_tensor pixels;   // two towers: (B,3,S,S)
    pc_text_batch text; // two towers
    int64_t samples;
    const int64_t *sample; // dataset index of each
} pc_micro_batch;

typedef struct pc_batch {
    int64_t step; // number of this batch, from 0
    int64_t epoch;
    pc_micro_batch *micro;
    int64_t micros;
    int64_t supervised, tokens, images, samples, skipped;
} pc_batch;

typedef struct pc_loader pc_loader;

pc_status pc_loader_open(pc_loader **out, const pc_dataset *data, const pc_model_config *model,
                         const pc_tokenizer *tok, const pc_template *tmpl,
                         const pc_image_config *image, const pc_loader_config *c,
                         int64_t first_step);
pc_status pc_loader_next(pc_loader *l,
                         pc_batch **out); // waits; the batch stays valid until the next call
void pc_loader_close(pc_loader *l);
// With shuffle: as many whole batches as an epoch has; what is left over differs from epoch to epoch.
int64_t pc_loader_steps_per_epoch(const pc_loader *l);
int64_t pc_loader_skipped(const pc_loader *l); // samples left out at open (on_bad_image: skip)
// Largest micro-batch of this data set, for the plan: rows, images, supervised rows.
void pc_loader_worst(const pc_loader *l, int64_t *rows, int64_t *images, int64_t *supervised);
// Images that together take no less than those of any micro-batch, in crops, patches and rows: *count of them. Where
// all images are alike, NULL: as many as pc_loader_worst says.
const pc_image_geometry *pc_loader_worst_images(const pc_loader *l, int64_t *count);
int64_t pc_loader_worst_numbers(const pc_loader *l); // pixel values of the largest micro-batch
double pc_loader_waited(const pc_loader *l);         // seconds the model has waited for data so far

// Token ids of one text for a two-tower model: specials added, cut to the context (end-of-text kept).
pc_status pc_clip_text_ids(pc_ids *out, const pc_tokenizer *tok, const pc_text_config *c,
                           const char *text);

#endif

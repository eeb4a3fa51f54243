/*
 * generate.h - the ids that follow a prompt, with a cache of keys and values.
 *
 * All prompts go through the model at once (prefill); then every sequence that has not ended takes one
 * token a step. A prompt with branches (pc_sequence) is continued once for each branch: many questions about
 * one image cost the image once. Text and ids are the caller's to translate.
 *
 * Choosing: temperature 0 takes the largest logit, ties to the lowest id. Otherwise the logits are divided by the
 * temperature, cut to the top_k largest, then to the fewest that have top_p of the probability (the one that
 * reaches it is kept), and one is drawn by (seed, position, sequence): whatever else is in the batch, a sequence
 * of a given number gets the same.
 */
#ifndef PC_NETWORKS_GENERATE_H
#define PC_NETWORKS_GENERATE_H

#include "model/networks/runner.h"
#include "model/networks/vlm.h"

typedef struct pc_sampling {
    double temperature; // 0: greedy
    int64_t top_k;      // 0: all
    double top_p;       // 1: all
    uint64_t seed;
} pc_sampling;

// One id from logits (V), f32 or f64; ids from `vocabulary` on are not considered. `work`: 2 V doubles.
// PC_ERR_NUMERIC when a logit is NaN or all are -inf.
pc_status pc_sample_id(int32_t *id, pc_tensor logits, int64_t vocabulary, const pc_sampling *s,
                       int64_t position, int64_t sequence, double *work);

typedef struct pc_generate_options {
    int64_t max_tokens;
    pc_sampling sampling;
    const int32_t *stop; // (stops) ids that end a sequence; they are not part of the answer
    int stops;
    int64_t
        vocabulary; // ids from here on are never chosen (a head padded beyond the tokenizer); 0: all may be
    // Called for every id as it is chosen, sequences in order within a step; false ends that sequence.
    bool (*token)(void *arg, int64_t sequence, int32_t id);
    void *arg;
} pc_generate_options;

typedef struct pc_generation {
    int32_t *ids; // malloc'ed
    int64_t length;
    bool stopped; // by a stop id or the callback; otherwise max_tokens or decoder.T was reached
} pc_generation;

// One generation for each sequence, or each branch of it, in order.
int64_t pc_generate_count(const pc_sequence *seqs, int64_t S);

// out: pc_generate_count of them. `pictures`: those of all image places, in order (their geometry is taken from the
// sequences); NULL without images.
pc_status pc_generate(pc_generation *out, pc_runner *r, const pc_vlm *l, const pc_sequence *seqs,
                      int64_t S, const pc_pictures *pictures, const pc_generate_options *o);
void pc_generation_close(pc_generation *g, int64_t n); // frees ids

#endif

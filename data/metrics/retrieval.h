/*
 * retrieval.h - recall at k of images and captions (spec: eval.md 5).
 *
 *   S = U V^T, U (I,E) images and V (T,E) captions, unit rows; caption t belongs to image owner[t].
 *   image to text   the rank of the best of the image's captions
 *   text to image   the rank of the caption's image
 *   rank = 1 + candidates that are strictly nearer + equal ones with a smaller index
 */
#ifndef PC_DATA_METRICS_RETRIEVAL_H
#define PC_DATA_METRICS_RETRIEVAL_H

#include "model/core/status.h"

typedef struct pc_recall {
    double r1, r5, r10;  // shares of the queries
    double mean, median; // rank of the best positive
    double chance1;      // recall at 1 of a random order
    int64_t queries, candidates;
} pc_recall;

typedef struct pc_retrieval {
    pc_recall image_to_text, text_to_image;
} pc_retrieval;

// S (I,T) row-major. Every image has at least one caption. `ranks_image` (I) and `ranks_text` (T) get the ranks,
// for reports; either may be NULL.
pc_status pc_retrieval_score(pc_retrieval *out, const float *S, int64_t I, int64_t T,
                             const int64_t *owner, int64_t *ranks_image, int64_t *ranks_text);

#endif

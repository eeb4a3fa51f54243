/*
 * classification.h - zero-shot labels from text embeddings (spec: eval.md 6), and intervals of shares.
 *
 *   w_c = normalise(mean_t e_{c,t})    e_{c,t} the unit embedding of template t filled with class c
 *   label = argmax_c u . w_c           ties to the lower index
 */
#ifndef PC_DATA_METRICS_CLASSIFICATION_H
#define PC_DATA_METRICS_CLASSIFICATION_H

#include "model/core/status.h"

// w (E) from n unit rows (n,E); a zero mean stays zero.
void pc_class_weight(float *w, const float *rows, int64_t n, int64_t E);

// The k classes of the largest scores, best first, ties to the lower index. k <= C.
void pc_top_classes(int64_t *out, const float *scores, int64_t C, int64_t k);

typedef struct pc_classification {
    double top1, top5;   // shares of the samples
    double class_recall; // mean over the classes that occur of the share found
    int64_t n, classes, occurring;
} pc_classification;
// scores (N,C), truth (N).
pc_status pc_classification_score(pc_classification *out, const float *scores, const int64_t *truth,
                                  int64_t N, int64_t C);

// 95 % interval of a share of k in n (Wilson 1927); [0,1] for n = 0.
void pc_wilson(double *low, double *high, int64_t k, int64_t n);

#endif

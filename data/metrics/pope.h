/*
 * pope.h - yes/no answers about objects that may not be there (spec: eval.md 1; Li et al. 2023).
 *
 * An answer is "no" when its first sentence holds the word No, not or no (exact case); anything else,
 * emptiness included, is "yes". Positive is yes. 0/0 is 0.
 */
#ifndef PC_DATA_METRICS_POPE_H
#define PC_DATA_METRICS_POPE_H

#include "model/core/status.h"

#define PC_POPE_PARSER "pope-first-sentence/1"

// What the reference parser makes of an answer: true for yes.
bool pc_pope_yes(const char *answer);
// Whether the answer says yes or no at all (any case, any place): others are counted as evasive.
bool pc_pope_decided(const char *answer);

typedef struct pc_pope {
    int64_t tp, fp, tn, fn, evasive;
} pc_pope;

void pc_pope_add(pc_pope *p, const char *answer, bool truth);

typedef struct pc_pope_score {
    double accuracy, precision, recall, f1, yes_ratio;
    int64_t n;
} pc_pope_score;
pc_pope_score pc_pope_result(const pc_pope *p);

#endif

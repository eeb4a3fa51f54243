/*
 * vqa.h - answers compared the way VQA v2 compares them (spec: eval.md 2; Antol et al. 2015, Goyal et al. 2017).
 *
 *   normalise   white space; punctuation; periods that are no decimal points; lower case; number words to
 *               digits; articles dropped; missing apostrophes of contractions put back
 *   exact       one reference answer: equal after normalisation
 *   consensus   ten human answers, m of them equal: mean over the ten leave-one-out sets of min(1, matches/3)
 */
#ifndef PC_DATA_METRICS_VQA_H
#define PC_DATA_METRICS_VQA_H

#include "model/core/status.h"

// Named in every report: numbers of different versions do not compare.
#define PC_VQA_PARSER "vqa-v2-normalise/1"

// The normal form, malloc'ed; NULL only when memory is out.
char *pc_vqa_normalise(const char *answer);

// Equal after normalisation. False when memory is out.
bool pc_vqa_exact(const char *answer, const char *truth);

// Score of an answer against n human answers (0 to 1). Human answers are normalised unless all are identical, as the
// official evaluator does; n below 1 scores 0.
double pc_vqa_consensus(const char *answer, const char *const *humans, int n);

// One word of a normalised answer, with the apostrophe of a contraction put back ("dont" -> "don't"): at most
// size-1 bytes into buf. Returns buf. For tests.
const char *pc_vqa_contraction(char *buf, size_t size, const char *word);

#endif

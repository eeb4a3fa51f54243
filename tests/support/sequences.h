/*
 * sequences.h - small batches of rows that see each other in the three ways that matter.
 *
 *   SEQ_CAUSAL, SEQ_FULL   two sequences of 3 and 4 rows, causal or bidirectional
 *   SEQ_BRANCHES           one of 8 rows: a prefix of 3, branches of 2 and 3 that see it and themselves
 */
#ifndef PC_TESTS_SEQUENCES_H
#define PC_TESTS_SEQUENCES_H

#include "model/layers/attention.h"
#include "tests/support/gradcheck.h"

typedef enum sequences_kind { SEQ_CAUSAL, SEQ_FULL, SEQ_BRANCHES } sequences_kind;

int64_t sequences_rows(sequences_kind k);
// Index arrays and, with `rope`, tables for heads of width D, in g->hold.
pc_seq sequences_make(gradcheck *g, sequences_kind k, bool rope, int64_t D);

#endif

/*
 * mask.h - building the intervals that say who sees whom (pc_mask in ops.h).
 *
 * Arrays come from an arena of the caller's; on a dry arena sizes and pairs are set and nothing is written.
 */
#ifndef PC_LAYERS_MASK_H
#define PC_LAYERS_MASK_H

#include "model/ops/ops.h"

// Room for S sequences and N query rows; `prefixes`: with the second interval. Not filled.
void pc_mask_alloc(pc_mask *m, pc_arena *a, int64_t S, int64_t N, bool prefixes);

// B sequences of Q query rows and K key rows each: every query sees its sequence's keys but the first `skip`.
void pc_mask_full(pc_mask *m, pc_arena *a, int64_t B, int64_t Q, int64_t K, int64_t skip);

// B sequences of the given lengths (NULL: of T rows each), queries and keys the same rows: causal or
// bidirectional.
void pc_mask_ragged(pc_mask *m, pc_arena *a, const int64_t *lengths, int64_t T, int64_t B,
                    bool causal);

// The same keys, seen by query rows `rows` (i32 (M), ascending) alone: query m sees what row rows[m] of the N did.
void pc_mask_rows(pc_mask *m, pc_arena *a, const pc_mask *all, pc_tensor rows, int64_t N);

#endif

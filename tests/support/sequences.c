/*
 * sequences.c - see sequences.h.
 */
#include "tests/support/sequences.h"

#include "model/layers/mask.h"

int64_t sequences_rows(sequences_kind k)
{
    return k == SEQ_BRANCHES ? 8 : 7;
}

pc_seq sequences_make(gradcheck *g, sequences_kind k, bool rope, int64_t D)
{
    pc_seq seq = {0};
    if (k == SEQ_BRANCHES) {
        static const int32_t off[] = {0, 8}, lo[] = {0, 0, 0, 3, 3, 5, 5, 5};
        static const int32_t hi[] = {1, 2, 3, 4, 5, 6, 7, 8}, plo[8] = {0};
        static const int32_t phi[] = {0, 0, 0, 3, 3, 3, 3, 3}, pos[] = {0, 1, 2, 3, 4, 3, 4, 5};
        seq.mask = (pc_mask){.S = 1,
                             .q_off = gradcheck_index(g, off, 2),
                             .k_off = gradcheck_index(g, off, 2),
                             .lo = gradcheck_index(g, lo, 8),
                             .hi = gradcheck_index(g, hi, 8),
                             .plo = gradcheck_index(g, plo, 8),
                             .phi = gradcheck_index(g, phi, 8)};
        if (rope) seq.pos = gradcheck_index(g, pos, 8);
    } else {
        static const int64_t lengths[] = {3, 4};
        static const int32_t pos[] = {0, 1, 2, 0, 1, 2, 3};
        pc_mask_ragged(&seq.mask, &g->hold, lengths, 0, 2, k == SEQ_CAUSAL);
        if (rope) seq.pos = gradcheck_index(g, pos, 7);
    }
    const pc_rope_config c = {.theta = 50.0};
    if (rope) pc_rope_tables(&seq.rope, &g->hold, PC_F64, &c, 6, D);
    return seq;
}

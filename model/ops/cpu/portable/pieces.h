/*
 * pieces.h - blocks of a piece's numbers as `real`, whatever type they are stored in.
 */
#ifndef PC_OPS_CPU_PORTABLE_PIECES_H
#define PC_OPS_CPU_PORTABLE_PIECES_H

#include <string.h>

#include "model/core/quant.h"
#include "model/ops/cpu/portable.h"
#include "model/ops/step.h"

enum { PIECE_BLOCK = 512 };

static inline unsigned char *piece_at(void *numbers, pc_dtype t, int64_t i)
{
    return (unsigned char *)numbers + (size_t)i * pc_dtype_size(t);
}

// Numbers [i, i + n), n <= PIECE_BLOCK: where they lie when they are `real`, else widened into `space`.
static inline real *piece_read(real *space, void *numbers, pc_dtype t, int64_t i, int64_t n)
{
    unsigned char *from = piece_at(numbers, t, i);
    if (t == PC_REAL) return (real *)(void *)from;
    PC_ASSERT(t == PC_F32 || t == PC_BF16, "a piece of %s", pc_dtype_name(t));
    for (int64_t k = 0; k < n; k++)
        space[k] = t == PC_F32 ? (real)((const float *)(const void *)from)[k]
                               : (real)pc_bf16_to_f32(((const uint16_t *)(const void *)from)[k]);
    return space;
}

// x rounded to bf16, up or down by 16 random bits. What is not finite stays so.
static inline uint16_t round_at_random(float x, uint32_t bits)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7f800000u) == 0x7f800000u) return pc_f32_to_bf16(x);
    return (uint16_t)((u + bits) >> 16);
}

static inline uint32_t rounding_bits(const pc_rng_key *key, int64_t i, int role)
{
    uint32_t word[4];
    const int64_t group = i / PC_ROUND_GROUP, at = i % PC_ROUND_GROUP;
    pc_philox(key, (uint64_t)group, word);
    return word[PC_ROUND_WORD(at, role)] >> (at % 2 ? 16 : 0) & 0xffffu;
}

// Puts a block back that piece_read widened (elsewhere it lies already); `at` is the first's place in the list.
static inline void piece_write(void *numbers, pc_dtype t, int64_t i, int64_t n, const real *x,
                               int64_t at, int role, const pc_rng_key *rounding)
{
    void *to = piece_at(numbers, t, i);
    if (to == (const void *)x) return;
    for (int64_t k = 0; k < n; k++) {
        if (t == PC_F32)
            ((float *)to)[k] = (float)x[k];
        else if (t == PC_REAL)
            ((real *)to)[k] = x[k];
        else
            ((uint16_t *)to)[k] =
                rounding ? round_at_random((float)x[k], rounding_bits(rounding, at + k, role))
                         : pc_f32_to_bf16((float)x[k]);
    }
}

// What changes is the master copy, where there is one.
static inline pc_dtype piece_kept_type(const pc_piece *p)
{
    return p->master ? PC_F32 : p->w_type;
}
static inline void *piece_kept(const pc_piece *p)
{
    return p->master ? p->master : p->w;
}

// The weight of a block whose new values are x: the kept copy, and w itself where that is another.
static inline void piece_put_weight(const pc_piece *p, int64_t i, int64_t n, const real *x,
                                    const pc_rng_key *rounding)
{
    piece_write(piece_kept(p), piece_kept_type(p), i, n, x, p->first + i, PC_ROUND_W, rounding);
    if (p->master) piece_write(p->w, p->w_type, i, n, x, p->first + i, PC_ROUND_W, NULL);
}

#endif

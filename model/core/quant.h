/*
 * quant.h - numbers in fewer bits: f16, bf16 and the block formats of GGUF files (spec: formats.md 3).
 *
 * A row is cut into blocks of `block` numbers, each stored in `bytes` bytes: a scale, perhaps a minimum, and a few bits
 * per number. Blocks never cross rows, so a row's length is a multiple of `block`. Bytes are little-endian and need
 * no alignment.
 *
 *   quant.c    the table of types, f16, bf16, blocks of 32 (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1)
 *   quant_k.c  blocks of 256 with two levels of scales (Q2_K ... Q6_K)
 */
#ifndef PC_CORE_QUANT_H
#define PC_CORE_QUANT_H

#include "model/core/status.h"

// The values are those of GGUF files. Others of theirs are known by name and size alone.
typedef enum pc_quant {
    PC_Q_F32 = 0,
    PC_Q_F16 = 1,
    PC_Q_Q4_0 = 2,
    PC_Q_Q4_1 = 3,
    PC_Q_Q5_0 = 6,
    PC_Q_Q5_1 = 7,
    PC_Q_Q8_0 = 8,
    PC_Q_Q2_K = 10,
    PC_Q_Q3_K = 11,
    PC_Q_Q4_K = 12,
    PC_Q_Q5_K = 13,
    PC_Q_Q6_K = 14,
    PC_Q_F64 = 28,
    PC_Q_BF16 = 30,
} pc_quant;

typedef struct pc_quant_type {
    int id; // pc_quant, or another of GGUF's
    const char *name;
    int64_t block; // numbers
    size_t bytes;  // of a block
    bool decodes, encodes;
} pc_quant_type;

const pc_quant_type *pc_quant_find(int id);            // NULL: not a type that is known
const pc_quant_type *pc_quant_named(const char *name); // "Q8_0", in either case; NULL likewise
// Names of the types that can be written, NULL-terminated: what a --type flag takes.
const char *const *pc_quant_written(void);

// Bytes of n numbers; n is a multiple of the block.
size_t pc_quant_bytes(const pc_quant_type *t, int64_t n);

// n numbers, a multiple of the block; the type decodes.
void pc_quant_decode(const pc_quant_type *t, float *out, const void *in, int64_t n);
// The type encodes. Returns -1, or the index of the first number that is not finite or too large for the type (then
// `out` is not meaningful). F32 takes everything. The K-quants search for scales: their error is never above that of
// plain minimum and maximum.
int64_t pc_quant_encode(const pc_quant_type *t, void *out, const float *in, int64_t n);

// IEEE binary16 and bfloat16, round to nearest even; too large becomes infinity, NaN stays NaN.
float pc_f16_to_f32(uint16_t h);
uint16_t pc_f32_to_f16(float x);
float pc_bf16_to_f32(uint16_t h);
uint16_t pc_f32_to_bf16(float x);

// quant_k.c, for quant.c's table: one block of 256.
void pc_quant_decode_q2k(float *y, const uint8_t *b);
void pc_quant_decode_q3k(float *y, const uint8_t *b);
void pc_quant_decode_q4k(float *y, const uint8_t *b);
void pc_quant_decode_q5k(float *y, const uint8_t *b);
void pc_quant_decode_q6k(float *y, const uint8_t *b);
bool pc_quant_encode_q4k(uint8_t *b, const float *x);
bool pc_quant_encode_q6k(uint8_t *b, const float *x);

#endif

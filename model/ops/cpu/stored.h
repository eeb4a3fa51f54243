/*
 * stored.h - weights in the types of their files, widened as they are read.
 *
 * A product never makes a widened copy of its matrix: it widens the piece that it is about to multiply, into memory
 * of a few hundred KB that stays in the cache. Numbers come out as if the whole had been widened first.
 */
#ifndef PC_OPS_CPU_STORED_H
#define PC_OPS_CPU_STORED_H

#include "model/core/tensor.h"

// Numbers [k, k + n) of a row that begins at `row`, as f32. k and n are multiples of the type's block. Plain C; the
// instruction sets have their own for the types that decoding a token waits for.
void pc_stored_row(float *out, pc_dtype t, const void *row, int64_t k, int64_t n);
void pc_stored_row_avx2(float *out, pc_dtype t, const void *row, int64_t k, int64_t n);
void pc_stored_row_avx512(float *out, pc_dtype t, const void *row, int64_t k, int64_t n);

// Where row n of a stored matrix begins.
static inline const void *pc_stored_at(pc_tensor w, int64_t n)
{
    return (const unsigned char *)w.data + pc_dtype_bytes(w.dtype, n * w.stride);
}

// A matrix whose numbers are not those that kernels compute with.
static inline bool pc_stored(pc_tensor w, pc_dtype own)
{
    return w.dtype != own;
}

#endif

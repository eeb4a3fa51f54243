/*
 * product.h - the matrix product of the SIMD kernels, with what follows it done while it is in cache.
 *
 *   C (M,N) = [C +] op(A) op(B) [+ bias] [+ add];   act = f(C), and with `slope` C = f'(C) after that
 *   op(A) (M,K): a[m lda + k], or with trans_a a[k lda + m];  op(B) (K,N) likewise; all row-major
 *
 * Blocks of B are packed into panels that stay in the second-level cache; a register tile runs over
 * all K of a block; sums over K keep their order whatever the thread count. Faster than OpenBLAS 0.3.21
 * on the shapes of small models and where something follows the product; a large bare one is left to it.
 */
#ifndef PC_OPS_CPU_SIMD_PRODUCT_H
#define PC_OPS_CPU_SIMD_PRODUCT_H

#include "model/ops/cpu/portable.h"

typedef struct pc_product {
    int64_t M, N, K;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    const void *
        stored; // instead of b, with trans_b: rows of another type (../stored.h), ldb numbers apart
    pc_dtype type;
    float *c;
    int64_t ldc;
    bool trans_a, trans_b, accumulate;
    const float *bias; // (N) or NULL
    const float *add;  // (M,N) or NULL; may be c
    int64_t ld_add;
    float *act; // (M,N) or NULL; may be c
    int64_t ld_act;
    pc_act kind;
    bool slope; // act is not c
} pc_product;

void pc_product_avx2(pc_pool *pool, const pc_product *p);
void pc_product_avx512(pc_pool *pool, const pc_product *p);

// f of a row, in registers' reach: a[i] = f(z[i]), and with `slope` z[i] = f'(z[i]); then a may not be z.
void pc_act_row_avx2(float *a, float *z, int64_t n, pc_act kind, bool slope);
void pc_act_row_avx512(float *a, float *z, int64_t n, pc_act kind, bool slope);

// Up to PC_THIN rows of A meet PC_THIN_N rows of B at a time, and B is read once: one token through a weight matrix.
enum { PC_THIN = 8, PC_THIN_N = 4 };
// sums[m PC_THIN_N + i] = sum_k a[m,k] stored[n0 + i,k] for M <= PC_THIN rows and i < width.
void pc_stored_dots_avx2(float *sums, const pc_product *p, int64_t n0, int64_t width);
void pc_stored_dots_avx512(float *sums, const pc_product *p, int64_t n0, int64_t width);

// Multiplications from which a bare product goes to OpenBLAS.
#define PC_LARGE_PRODUCT 1e8

// Blocks: K terms by N columns of B are packed at a time, and a strip of A where its stride is bad.
enum { PC_PACK_K = 256, PC_PACK_N = 384, PC_PACK_M = 16 };

// This thread's packing space (pack.c): PC_PACK_K * PC_PACK_N floats, then PC_PACK_M * (PC_PACK_K + 16).
float *pc_pack_space(void);

#endif

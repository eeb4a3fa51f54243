/*
 * gemm.h - the matrix product, the only place where sizes narrow to what BLAS takes.
 *
 *   C = alpha op(A) op(B) + beta C      op(A) (M,K), op(B) (K,N), C (M,N), all row-major
 *
 * OpenBLAS runs single-threaded; our pool splits C into pieces, each computed whole by one thread, so
 * the sums over K keep their order. A NULL pool is the calling thread alone (kernels that have split
 * their rows already). beta = 0 overwrites C, whatever was there.
 */
#ifndef PC_OPS_CPU_GEMM_H
#define PC_OPS_CPU_GEMM_H

#include "model/core/threads.h"

void pc_gemm_f32(pc_pool *pool, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K,
                 float alpha, const float *A, int64_t lda, const float *B, int64_t ldb, float beta,
                 float *C, int64_t ldc);
void pc_gemm_f64(pc_pool *pool, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K,
                 double alpha, const double *A, int64_t lda, const double *B, int64_t ldb,
                 double beta, double *C, int64_t ldc);

#endif

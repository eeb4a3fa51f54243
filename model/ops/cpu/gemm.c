/*
 * gemm.c - the matrix product over OpenBLAS (gemm.h).
 */
#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include "model/ops/cpu/gemm.h"

// Pieces of C are multiples of this many rows or columns, of what OpenBLAS's kernels take at once: they never cut one.
// Rows are cut finely so that pieces are alike: 800 of them are twice 400, not 416 and 384.
enum { ROW_GRAIN = 8, COLUMN_GRAIN = 32 };

// Those for AVX2 take rows by twelves, and compute the last whole eight columns of a call in a way of their own as soon as
// there are eight rows: such products are cut into rows alone, or the bits would tell the number of threads.
enum { AVX2_ROW_GRAIN = 12, AVX2_FEW_ROWS = 8 };
static bool avx2_kernels;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void once_only(void)
{
    openblas_set_num_threads(1);
    const char *core = openblas_get_corename();
    avx2_kernels = !strcmp(core, "Haswell") || !strcmp(core, "Zen");
}

static int narrow(int64_t v, const char *what)
{
    PC_ASSERT(v >= 0 && v <= INT_MAX, "BLAS takes %s up to %d, got %lld", what, INT_MAX,
              (long long)v);
    return (int)v;
}

typedef struct gemm_job {
    bool f64, trans_a, trans_b, by_rows;
    int64_t M, N, K, lda, ldb, ldc;
    double alpha, beta;
    const void *A, *B;
    void *C;
} gemm_job;

// Rows or columns [begin, end) of C.
static void gemm_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const gemm_job *j = arg;
    (void)worker;
    const int64_t count = end - begin;
    const int64_t a = j->by_rows ? begin * (j->trans_a ? 1 : j->lda) : 0;
    const int64_t b = j->by_rows ? 0 : begin * (j->trans_b ? j->ldb : 1);
    const int64_t c = j->by_rows ? begin * j->ldc : begin;
    const int M = narrow(j->by_rows ? count : j->M, "rows");
    const int N = narrow(j->by_rows ? j->N : count, "columns");
    const int K = narrow(j->K, "terms"), lda = narrow(j->lda, "a stride");
    const int ldb = narrow(j->ldb, "a stride"), ldc = narrow(j->ldc, "a stride");
    const CBLAS_TRANSPOSE ta = j->trans_a ? CblasTrans : CblasNoTrans;
    const CBLAS_TRANSPOSE tb = j->trans_b ? CblasTrans : CblasNoTrans;
    if (j->f64)
        cblas_dgemm(CblasRowMajor, ta, tb, M, N, K, j->alpha, (const double *)j->A + a, lda,
                    (const double *)j->B + b, ldb, j->beta, (double *)j->C + c, ldc);
    else
        cblas_sgemm(CblasRowMajor, ta, tb, M, N, K, (float)j->alpha, (const float *)j->A + a, lda,
                    (const float *)j->B + b, ldb, (float)j->beta, (float *)j->C + c, ldc);
}

static void gemm(pc_pool *pool, gemm_job *j)
{
    if (j->M == 0 || j->N == 0) return;
    pthread_once(&once, once_only);
    j->by_rows = avx2_kernels ? j->M >= AVX2_FEW_ROWS : j->M >= j->N;
    if (j->by_rows)
        pc_parallel(pool, j->M, avx2_kernels ? AVX2_ROW_GRAIN : ROW_GRAIN, gemm_piece, j);
    else
        pc_parallel(pool, j->N, COLUMN_GRAIN, gemm_piece, j);
}

void pc_gemm_f32(pc_pool *pool, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K,
                 float alpha, const float *A, int64_t lda, const float *B, int64_t ldb, float beta,
                 float *C, int64_t ldc)
{
    gemm_job j = {.trans_a = trans_a,
                  .trans_b = trans_b,
                  .M = M,
                  .N = N,
                  .K = K,
                  .alpha = alpha,
                  .A = A,
                  .lda = lda,
                  .B = B,
                  .ldb = ldb,
                  .beta = beta,
                  .C = C,
                  .ldc = ldc};
    gemm(pool, &j);
}

void pc_gemm_f64(pc_pool *pool, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K,
                 double alpha, const double *A, int64_t lda, const double *B, int64_t ldb,
                 double beta, double *C, int64_t ldc)
{
    gemm_job j = {.f64 = true,
                  .trans_a = trans_a,
                  .trans_b = trans_b,
                  .M = M,
                  .N = N,
                  .K = K,
                  .alpha = alpha,
                  .A = A,
                  .lda = lda,
                  .B = B,
                  .ldb = ldb,
                  .beta = beta,
                  .C = C,
                  .ldc = ldc};
    gemm(pool, &j);
}

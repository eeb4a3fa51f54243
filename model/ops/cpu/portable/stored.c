/*
 * stored.c - products with matrices in the types of their files (portable kernels; portable_stored.h).
 *
 *   y[:, o] (+)= sum over pieces of K:  x[:, k..] widened(W[o, k..])^T
 *
 * Threads share the rows of W; each widens ROWS x TERMS numbers at a time into memory of its own and hands them
 * to the product.
 */
#include <string.h>

#include "model/ops/cpu/gemm.h"
#include "model/ops/cpu/portable_stored.h"

enum { ROWS = 64, TERMS = 256 }; // TERMS: whole blocks of every type

static _Thread_local real tile[ROWS * TERMS];

typedef struct stored_job {
    real *y;
    const real *x;
    int64_t ldy, ldx, N;
    pc_tensor w;
    bool add;
} stored_job;

void pc_widen_row(real *out, pc_tensor w, int64_t row, int64_t k, int64_t n)
{
    const void *from = pc_stored_at(w, row);
#ifdef PC_REAL_F64
    float wide[TERMS];
    for (int64_t i = 0; i < n; i += TERMS) {
        const int64_t count = pc_min64(TERMS, n - i);
        pc_stored_row(wide, w.dtype, from, k + i, count);
        for (int64_t j = 0; j < count; j++) out[i + j] = (real)wide[j];
    }
#else
    pc_stored_row(out, w.dtype, from, k, n);
#endif
}

static void stored_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const stored_job *j = arg;
    const int64_t I = j->w.dim[1];
    (void)worker;
    for (int64_t o = begin; o < end; o += ROWS) {
        const int64_t rows = pc_min64(ROWS, end - o);
        for (int64_t k = 0; k < I; k += TERMS) {
            const int64_t terms = pc_min64(TERMS, I - k);
            for (int64_t r = 0; r < rows; r++)
                pc_widen_row(tile + r * terms, j->w, o + r, k, terms);
            pc_gemm(NULL, false, true, j->N, rows, terms, 1, j->x + k, j->ldx, tile, terms,
                    j->add || k > 0 ? 1 : 0, j->y + o, j->ldy);
        }
    }
}

void R(pc_times_matrix)(pc_pool *pool, real *y, int64_t ldy, const real *x, int64_t ldx, int64_t N,
                        pc_tensor w, bool add)
{
    const int64_t O = w.dim[0], I = w.dim[1];
    if (!pc_stored(w, PC_REAL)) {
        pc_gemm(pool, false, true, N, O, I, 1, x, ldx, w.data, w.stride, add ? 1 : 0, y, ldy);
        return;
    }
    stored_job job = {y, x, ldy, ldx, N, w, add};
    if (N > 0) pc_parallel(pool, O, ROWS, stored_rows, &job);
}

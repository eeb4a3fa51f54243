/*
 * dropout.c - drops elements by counter-based random numbers (portable kernels).
 *
 *   forward    y = x keep / (1 - p),  keep(index) = uniform(key, index) >= p;  y may be x
 *   backward   dx = dy keep / (1 - p)        overwritten: an activation; dx may be dy
 *
 * `index` counts elements row by row, whatever the stride, so the mask is a function of the key and
 * the shape: nothing is stored and a recomputed forward drops the same ones.
 */
#include "model/ops/cpu/portable.h"

typedef struct dropout_job {
    pc_tensor y, x;
    double p;
    pc_rng_key key;
} dropout_job;

static void dropout_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const dropout_job *j = arg;
    const int64_t C = pc_row_len(j->x);
    const real scale = (real)(1.0 / (1.0 - j->p));
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const real *x = pc_row(j->x, n);
        real *y = pc_row(j->y, n);
        // Elements index .. index + 3 with index a multiple of 4 share one block of four words.
        for (int64_t c = 0; c < C;) {
            uint32_t word[4];
            const uint64_t index = (uint64_t)(n * C + c);
            pc_philox(&j->key, index / 4, word);
            for (uint64_t k = index % 4; k < 4 && c < C; k++, c++)
                y[c] = (double)word[k] * 0x1p-32 >= j->p ? x[c] * scale : 0;
        }
    }
}

static void dropout(pc_ctx *ctx, dropout_job *job)
{
    PC_SAME("dropout: rows of y and x", job->y.dim[0], job->x.dim[0]);
    PC_SAME("dropout: columns of y and x", pc_row_len(job->y), pc_row_len(job->x));
    PC_ASSERT(job->p >= 0.0 && job->p < 1.0, "dropout: p is %g, expected [0, 1)", job->p);
    pc_parallel(ctx->pool, job->x.dim[0], pc_row_grain(8 * pc_row_len(job->x)), dropout_rows, job);
}

void R(dropout_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, double p, pc_rng_key key)
{
    dropout_job job = {y, x, p, key};
    dropout(ctx, &job);
}

void R(dropout_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, double p, pc_rng_key key)
{
    dropout_job job = {dx, dy, p, key};
    dropout(ctx, &job);
}

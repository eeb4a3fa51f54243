/*
 * dropout.c - drops elements by counter-based random numbers (portable kernels).
 *
 *   forward    y = x keep / (1 - p),  keep(index) = uniform(key, index) >= p;  y may be x
 *   backward   dx = dy keep / (1 - p)        overwritten: an activation; dx may be dy
 *
 * `index` counts elements row by row, whatever the stride, so the mask is a function of the key and
 * the shape: nothing is stored and a recomputed forward drops the same ones.
 */
#include <math.h>

#include "model/ops/cpu/portable.h"

enum { WIDE = 32, WORDS = 4 * WIDE }; // blocks of four words made at a time

typedef struct dropout_job {
    pc_tensor y, x;
    uint32_t threshold; // words from here on are kept: the smallest word with word / 2^32 >= p
    real scale;
    uint32_t key[2], step[2];
} dropout_job;

static inline uint32_t upper_product(uint32_t a, uint32_t b)
{
    return (uint32_t)(((uint64_t)a * b) >> 32);
}

// Words of blocks block .. block + WIDE - 1 in order: pc_philox's rounds (core/rng.c), side by side.
static void make_words(uint32_t word[WORDS], const dropout_job *j, uint64_t block)
{
    uint32_t x0[WIDE], x1[WIDE], x2[WIDE], x3[WIDE], k0 = j->key[0], k1 = j->key[1];
    for (int i = 0; i < WIDE; i++) {
        x0[i] = (uint32_t)(block + (uint64_t)i);
        x1[i] = (uint32_t)((block + (uint64_t)i) >> 32);
        x2[i] = j->step[0];
        x3[i] = j->step[1];
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < WIDE; i++) {
            // Upper and lower half of a product apart: so each is a vector operation.
            const uint32_t a = x0[i], b = x2[i];
            x0[i] = upper_product(0xCD9E8D57u, b) ^ x1[i] ^ k0;
            x1[i] = 0xCD9E8D57u * b;
            x2[i] = upper_product(0xD2511F53u, a) ^ x3[i] ^ k1;
            x3[i] = 0xD2511F53u * a;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < WIDE; i++) {
        word[4 * i] = x0[i];
        word[4 * i + 1] = x1[i];
        word[4 * i + 2] = x2[i];
        word[4 * i + 3] = x3[i];
    }
}

static void dropout_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const dropout_job *j = arg;
    const int64_t C = pc_row_len(j->x);
    const uint32_t threshold = j->threshold;
    const real scale = j->scale;
    (void)worker;
    // The elements of consecutive rows have consecutive indices: one stream of words serves them all.
    uint32_t word[WORDS];
    int64_t index = begin * C, left = 0;
    for (int64_t n = begin; n < end; n++) {
        const real *x = pc_row(j->x, n);
        real *y = pc_row(j->y, n);
        for (int64_t c = 0; c < C;) {
            if (!left) {
                const int64_t first = index / 4 * 4;
                make_words(word, j, (uint64_t)(first / 4));
                left = WORDS - (index - first);
            }
            const uint32_t *w = word + (WORDS - left);
            const int64_t count = pc_min64(left, C - c);
            for (int64_t k = 0; k < count; k++)
                y[c + k] = x[c + k] * (w[k] >= threshold ? scale : 0);
            c += count, index += count, left -= count;
        }
    }
}

static void dropout(pc_ctx *ctx, pc_tensor y, pc_tensor x, double p, pc_rng_key key)
{
    const double threshold = ceil(p * 0x1p32);
    PC_SAME("dropout: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("dropout: columns of y and x", pc_row_len(y), pc_row_len(x));
    PC_ASSERT(threshold >= 0.0 && threshold < 0x1p32, "dropout: p is %g, expected [0, 1)", p);
    dropout_job job = {y, x, (uint32_t)threshold, (real)(1.0 / (1.0 - p)), {0}, {0}};
    uint32_t counter[4];
    pc_rng_words(&key, 0, job.key, counter);
    job.step[0] = counter[2];
    job.step[1] = counter[3];
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(4 * pc_row_len(x)), dropout_rows, &job);
}

void R(dropout_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, double p, pc_rng_key key)
{
    dropout(ctx, y, x, p, key);
}

void R(dropout_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, double p, pc_rng_key key)
{
    dropout(ctx, dx, dy, p, key);
}

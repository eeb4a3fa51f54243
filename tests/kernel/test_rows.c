/*
 * test_rows.c - what moves rows about, of every instruction set, held to the portable kernels: sizes of 1, odd, tails
 * and large, strided rows, in place where ops.h allows it, guarded memory, one and two threads.
 */
#include <math.h>
#include <stdlib.h>

#include "tests/support/check.h"
#include "tests/support/guarded.h"

static uint64_t seed = 11;

static int64_t below(int64_t n)
{
    const pc_rng_key key = {seed, PC_STREAM_TEST, 2};
    return (int64_t)pc_rng_below(&key, seed++, (uint64_t)n);
}

static int64_t any_channels(void)
{
    static const int64_t sizes[] = {1, 3, 7, 8, 9, 16, 23, 32, 64, 67};
    return sizes[below(sizeof sizes / sizeof *sizes)];
}

// Convolutions of planes and of rows of channels; forward copies and backward sums in one order: no error at all.
static void test_im2col(sides *s)
{
    static const int64_t kernels[] = {1, 2, 3, 3, 3, 3, 4, 5, 8, 16};
    pc_conv v = {.B = 1 + below(3), .C = any_channels(), .channels_last = below(2)};
    v.kernel = kernels[below(sizeof kernels / sizeof *kernels)];
    v.step = 1 + below(v.kernel);
    v.pad = below((v.kernel + 1) / 2);
    v.H = v.kernel + below(19);
    v.W = v.kernel + below(19);
    v.out_h = (v.H + 2 * v.pad - v.kernel) / v.step + 1;
    v.out_w = (v.W + 2 * v.pad - v.kernel) / v.step + 1;
    const int64_t rows = v.channels_last ? v.B * v.H * v.W : v.B;
    const int64_t width = v.channels_last ? v.C : v.C * v.H * v.W;
    const int64_t N = v.B * v.out_h * v.out_w, columns = v.C * v.kernel * v.kernel;
    guarded x = guarded_open(rows, width, below(4), 1, seed++);
    guarded cols = guarded_open(N, columns, below(4), 1, seed++);
    s->ref.ops->im2col_forward(&s->ref, cols.ref, x.ref, &v);
    s->simd.ops->im2col_forward(&s->simd, cols.simd, x.ref, &v);
    CHECK(guarded_alike(v.channels_last ? "im2col rows" : "im2col planes", &cols, 0));
    guarded dcols = guarded_open(N, columns, below(4), 1, seed++);
    s->ref.grad_ops->im2col_backward(&s->ref, x.ref, dcols.ref, &v);
    s->simd.grad_ops->im2col_backward(&s->simd, x.simd, dcols.ref, &v);
    CHECK(guarded_alike(v.channels_last ? "im2col rows back" : "im2col planes back", &x, 0));
    guarded_close(&x);
    guarded_close(&cols);
    guarded_close(&dcols);
}

int main(void)
{
    pc_isa best;
    pc_pool *pool;
    if (pc_isa_choose(&best) || pc_pool_open(&pool, 2)) return 1;
    for (int isa = PC_ISA_AVX2; isa <= (int)best; isa++)
        for (int threads = 1; threads <= 2; threads++) {
            sides s;
            sides_open(&s, (pc_isa)isa, threads == 2 ? pool : NULL);
            for (int i = 0; i < 200; i++) test_im2col(&s);
            sides_close(&s);
        }
    pc_pool_close(pool);
    guarded_report();
    return check_report("kernel.rows: SIMD against portable");
}

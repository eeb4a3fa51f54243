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

// Rows by number: repeats, and numbers below 0 where they may be.
static void test_index(sides *s)
{
    const int64_t N = 1 + below(300), C = any_channels() * (1 + below(3)), V = 1 + below(40);
    guarded x = guarded_open(N, C, below(4), 1, seed++), y = guarded_open(N, C, 2, 1, seed++);
    guarded table = guarded_open(V, C, 0, 1, seed++), rows = guarded_open(V, C, 3, 1, seed++);
    int32_t *number = malloc((size_t)N * sizeof *number),
            *order = malloc((size_t)N * sizeof *order);
    int64_t *drawn = malloc((size_t)N * sizeof *drawn);
    if (!number || !order || !drawn) abort();
    for (int64_t n = 0; n < N; n++) number[n] = (int32_t)(below(V + 1) - 1);
    const pc_tensor some = pc_view1(number, PC_I32, N);
    s->ref.ops->embedding_forward(&s->ref, y.ref, some, table.ref);
    s->simd.ops->embedding_forward(&s->simd, y.simd, some, table.ref);
    CHECK(guarded_alike("embedding", &y, 0));
    s->ref.grad_ops->embedding_backward(&s->ref, table.ref, x.ref, some);
    s->simd.grad_ops->embedding_backward(&s->simd, table.simd, x.ref, some);
    CHECK(guarded_alike("embedding back", &table, 0));
    s->ref.ops->add_rows_forward(&s->ref, y.ref, x.ref, table.ref, some);
    s->simd.ops->add_rows_forward(&s->simd, y.simd, x.ref, table.ref, some);
    CHECK(guarded_alike("add_rows", &y, 0));
    s->ref.ops->add_rows_forward(&s->ref, y.ref, y.ref, table.ref, some);
    s->simd.ops->add_rows_forward(&s->simd, y.simd, y.simd, table.ref, some);
    CHECK(guarded_alike("add_rows in place", &y, 0));
    s->ref.grad_ops->add_rows_backward(&s->ref, table.ref, x.ref, some);
    s->simd.grad_ops->add_rows_backward(&s->simd, table.simd, x.ref, some);
    CHECK(guarded_alike("add_rows back", &table, 0));

    const pc_rng_key key = {seed++, PC_STREAM_TEST, 4};
    pc_rng_permutation(&key, drawn, N);
    for (int64_t n = 0; n < N; n++) {
        order[n] = below(5) ? (int32_t)drawn[n] : -1; // for splice: no row twice
        if (number[n] < 0) number[n] = 0;             // for gather: none below 0
    }
    s->ref.ops->gather_forward(&s->ref, y.ref, rows.ref, some);
    s->simd.ops->gather_forward(&s->simd, y.simd, rows.ref, some);
    CHECK(guarded_alike("gather", &y, 0));
    s->ref.grad_ops->gather_backward(&s->ref, rows.ref, x.ref, some);
    s->simd.grad_ops->gather_backward(&s->simd, rows.simd, x.ref, some);
    CHECK(guarded_alike("gather back", &rows, 0));
    const pc_tensor once = pc_view1(order, PC_I32, N);
    s->ref.ops->splice_forward(&s->ref, y.ref, x.ref, once);
    s->simd.ops->splice_forward(&s->simd, y.simd, x.ref, once);
    CHECK(guarded_alike("splice", &y, 0));
    s->ref.grad_ops->splice_backward(&s->ref, x.ref, y.ref, once);
    s->simd.grad_ops->splice_backward(&s->simd, x.simd, y.simd, once);
    CHECK(guarded_alike("splice back", &x, 0));
    guarded_close(&x);
    guarded_close(&y);
    guarded_close(&table);
    guarded_close(&rows);
    free(number);
    free(order);
    free(drawn);
}

static void test_streams(sides *s)
{
    static const double rates[] = {0, 0.1, 0.5, 0.9};
    const int64_t N = 1 + below(200), C = any_channels() * (1 + below(4));
    const double p = rates[below(4)];
    const pc_rng_key key = {seed++, PC_STREAM_DROPOUT, (uint64_t)below(1000) << 30};
    guarded x = guarded_open(N, C, below(4), 1, seed++), y = guarded_open(N, C, 3, 1, seed++);
    guarded inv = guarded_vector(N, 1, seed++);
    s->ref.ops->dropout_forward(&s->ref, y.ref, x.ref, p, key);
    s->simd.ops->dropout_forward(&s->simd, y.simd, x.ref, p, key);
    CHECK(guarded_alike("dropout", &y, 0));
    s->ref.grad_ops->dropout_backward(&s->ref, y.ref, y.ref, p, key);
    s->simd.grad_ops->dropout_backward(&s->simd, y.simd, y.simd, p, key);
    CHECK(guarded_alike("dropout back in place", &y, 0));
    s->ref.ops->copy_forward(&s->ref, y.ref, x.ref);
    s->simd.ops->copy_forward(&s->simd, y.simd, x.ref);
    CHECK(guarded_alike("copy", &y, 0));
    s->ref.ops->l2norm_forward(&s->ref, y.ref, inv.ref, x.ref);
    s->simd.ops->l2norm_forward(&s->simd, y.simd, inv.simd, x.ref);
    CHECK(guarded_alike("l2norm", &y, 0));
    CHECK(guarded_alike("l2norm inv", &inv, 0));
    s->ref.grad_ops->l2norm_backward(&s->ref, x.ref, x.ref, y.ref, inv.ref);
    s->simd.grad_ops->l2norm_backward(&s->simd, x.simd, x.simd, y.ref, inv.ref);
    CHECK(guarded_alike("l2norm back in place", &x, 0));
    s->ref.ops->zero_forward(&s->ref, y.ref);
    s->simd.ops->zero_forward(&s->simd, y.simd);
    CHECK(guarded_alike("zero", &y, 0));
    guarded_close(&x);
    guarded_close(&y);
    guarded_close(&inv);
}

// Blocks of 8192, whole and not; NaN and infinity come through.
static void test_square_sum(sides *s)
{
    static const int64_t sizes[] = {1, 7, 8, 9, 8191, 8192, 8193, 50001};
    const int64_t n = sizes[below(sizeof sizes / sizeof *sizes)];
    guarded x = guarded_vector(n, 1, seed++);
    float *value = x.ref.data;
    for (int round = 0; round < 3; round++) {
        double ref = 1.0, simd = 1.0;
        s->ref.grad_ops->square_sum(&s->ref, pc_view1(&ref, PC_F64, 1), x.ref);
        s->simd.grad_ops->square_sum(&s->simd, pc_view1(&simd, PC_F64, 1), x.ref);
        CHECK(round == 2 ? isnan(ref) && isnan(simd) : ref == simd);
        CHECK(round == 1 ? isinf(simd) : round == 2 || (isfinite(simd) && simd > 1.0));
        value[below(n)] = round ? NAN : INFINITY;
        if (round) value[0] = NAN;
    }
    guarded_close(&x);
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
            for (int i = 0; i < 100; i++) {
                test_im2col(&s);
                test_index(&s);
                test_streams(&s);
                test_square_sum(&s);
            }
            sides_close(&s);
        }
    pc_pool_close(pool);
    guarded_report();
    return check_report("kernel.rows: SIMD against portable");
}

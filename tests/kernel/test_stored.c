/*
 * test_stored.c - matrices in the types of their files. Widening by vectors gives the bits of the plain C; products,
 * embeddings and cross-entropy give what they give on the widened matrix, on every instruction set, in float and in
 * double, for one row, a few and many, odd sizes, odd addresses and guarded memory.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/quant.h"
#include "model/ops/cpu/stored.h"
#include "tests/support/check.h"
#include "tests/support/guarded.h"

static const pc_dtype types[] = {PC_F32,  PC_BF16, PC_F16,  PC_Q8_0, PC_Q4_0, PC_Q4_1, PC_Q5_0,
                                 PC_Q5_1, PC_Q4_K, PC_Q6_K, PC_Q2_K, PC_Q3_K, PC_Q5_K};
enum { TYPES = sizeof types / sizeof *types };

static uint64_t seed = 3;

static int64_t below(int64_t n)
{
    const pc_rng_key key = {seed, PC_STREAM_TEST, 5};
    return (int64_t)pc_rng_below(&key, seed++, (uint64_t)n);
}

// A stored matrix at an odd address, and the same numbers as f32.
typedef struct matrix {
    unsigned char *memory;
    float *wide;
    pc_tensor w, f32;
} matrix;

static float any_number(void)
{
    const pc_rng_key key = {seed, PC_STREAM_TEST, 6};
    return (float)pc_rng_normal(&key, seed++);
}

// Types that cannot be written get any bytes, but for scales, which stay small.
static void any_bytes(unsigned char *at, pc_dtype t, int64_t n)
{
    const size_t bytes = pc_dtype_bytes(t, n), block = pc_dtype_bytes(t, pc_dtype_block(t));
    for (size_t i = 0; i < bytes; i++) at[i] = (unsigned char)below(256);
    for (size_t i = 0; i < bytes; i += block) {
        const uint16_t h = pc_f32_to_f16(0.01F);
        const size_t places[3][2] = {{80, 82}, {108, 108}, {0, 2}};
        const int kind = t == PC_Q2_K ? 0 : t == PC_Q3_K ? 1 : 2;
        for (int k = 0; k < 2; k++) memcpy(at + i + places[kind][k], &h, 2);
    }
}

static matrix matrix_open(pc_dtype t, int64_t O, int64_t I, bool odd)
{
    const pc_quant_type *q = pc_quant_find(pc_dtype_quant(t));
    const size_t bytes = pc_dtype_bytes(t, O * I);
    matrix m = {.memory = malloc(bytes + 16), .wide = malloc((size_t)(O * I) * sizeof(float))};
    if (!m.memory || !m.wide) abort();
    unsigned char *at = m.memory + (odd && t != PC_F32);
    for (int64_t i = 0; i < O * I; i++) m.wide[i] = any_number();
    if (q->encodes) {
        if (pc_quant_encode(q, at, m.wide, O * I) >= 0) abort();
    } else {
        any_bytes(at, t, O * I);
    }
    pc_quant_decode(q, m.wide, at, O * I);
    m.w = pc_view2(at, t, O, I);
    m.f32 = pc_view2(m.wide, PC_F32, O, I);
    return m;
}

static void matrix_close(matrix *m)
{
    free(m->memory);
    free(m->wide);
}

typedef void row_function(float *out, pc_dtype t, const void *row, int64_t k, int64_t n);

static void test_rows(row_function *row, pc_dtype t)
{
    const int64_t block = pc_dtype_block(t),
                  I = block > 1 ? block * (1 + below(5)) : 1 + below(700);
    const int64_t k = below(I / block) * block, n = I - k;
    matrix m = matrix_open(t, 1, I, below(2));
    guarded a = guarded_vector(n, 1, seed++);
    row(a.simd.data, t, m.w.data, k, n);
    memcpy(a.ref.data, m.wide + k, (size_t)n * sizeof(float));
    CHECK(guarded_alike(pc_dtype_name(t), &a, 0));
    guarded_close(&a);
    matrix_close(&m);
}

// Every value of f16, denormals, infinities and NaN among them.
static void test_every_half(row_function *row)
{
    static uint16_t all[1 << 16];
    static float seen[1 << 16];
    for (uint32_t i = 0; i < 1 << 16; i++) all[i] = (uint16_t)i;
    row(seen, PC_F16, all, 0, 1 << 16);
    int wrong = 0;
    for (uint32_t i = 0; i < 1 << 16; i++) {
        const float want = pc_f16_to_f32((uint16_t)i);
        wrong += isnan(want) ? !isnan(seen[i]) : memcmp(&want, &seen[i], sizeof want) != 0;
    }
    CHECK(wrong == 0);
}

static int64_t any_rows(void)
{
    static const int64_t sizes[] = {1, 1, 2, 5, 8, 9, 13, 30, 70};
    return sizes[below(sizeof sizes / sizeof *sizes)];
}

// The largest logit of x W^T: a row's loss is the difference of two numbers of that size, which its rounding is measured by.
static float largest_logit(pc_tensor x, pc_tensor w)
{
    double most = 0.0;
    for (int64_t n = 0; n < x.dim[0]; n++)
        for (int64_t o = 0; o < w.dim[0]; o++) {
            double z = 0.0;
            for (int64_t i = 0; i < x.dim[1]; i++)
                z += (double)pc_f32(x, n)[i] * (double)pc_f32(w, o)[i];
            most = fmax(most, fabs(z));
        }
    return (float)most;
}

static void add_to(pc_tensor x, float by)
{
    for (int64_t n = 0; n < x.dim[0]; n++) *pc_f32(x, n) += by;
}

static void test_products(sides *s, pc_dtype t)
{
    static const int64_t widths[] = {1, 7, 16, 33, 64, 100, 256, 300, 515, 1024};
    const int64_t block = pc_dtype_block(t), N = any_rows(), O = 1 + below(90);
    const int64_t I = block > 1 ? block * (1 + below(block > 32 ? 4 : 20)) : widths[below(10)];
    const bool bias = below(2), residual = below(2);
    matrix m = matrix_open(t, O, I, below(2));
    guarded x = guarded_open(N, I, below(4), 1, seed++), y = guarded_open(N, O, 3, 1, seed++);
    guarded b = guarded_vector(O, 1, seed++), r = guarded_open(N, O, below(3), 1, seed++);
    const pc_tensor bb = bias ? b.ref : PC_NONE;
    // The portable kernel on the widened matrix against it and the others on the stored one.
    const pc_ops *ref = s->ref.ops, *simd = s->simd.ops;
    ref->linear_forward(&s->ref, y.ref, x.ref, m.f32, bb, residual ? r.ref : PC_NONE);
    simd->linear_forward(&s->simd, y.simd, x.ref, m.w, bb, residual ? r.ref : PC_NONE);
    CHECK(guarded_alike("linear, stored", &y, 2e-6));
    ref->linear_forward(&s->ref, y.simd, x.ref, m.w, bb, residual ? r.ref : PC_NONE);
    CHECK(guarded_alike("linear, stored, portable", &y, 2e-6));
    ref->linear_forward(&s->ref, r.ref, x.ref, m.f32, bb, r.ref);
    simd->linear_forward(&s->simd, r.simd, x.ref, m.w, bb, r.simd);
    CHECK(guarded_alike("linear in place, stored", &r, 2e-6));
    guarded a = guarded_open(N, O, 1, 1, seed++);
    const pc_act kind = (pc_act)below(5);
    pc_ctx infer = s->simd;
    infer.grad_ops = NULL; // z is z
    ref->linear_act_forward(&s->ref, a.ref, y.ref, x.ref, m.f32, b.ref, kind);
    simd->linear_act_forward(&infer, a.simd, y.simd, x.ref, m.w, b.ref, kind);
    CHECK(guarded_alike("linear_act z, stored", &y, 2e-6));
    CHECK(guarded_alike("linear_act a, stored", &a, 4e-6));

    int32_t *id = malloc((size_t)N * sizeof *id);
    if (!id) abort();
    for (int64_t n = 0; n < N; n++) id[n] = (int32_t)(below(O + 1) - 1);
    const pc_tensor ids = pc_view1(id, PC_I32, N);
    guarded nll = guarded_vector(N, 1, seed++), e = guarded_open(N, I, 2, 1, seed++);
    ref->linear_xent_forward(&s->ref, nll.ref, x.ref, m.f32, ids);
    simd->linear_xent_forward(&s->simd, nll.simd, x.ref, m.w, ids);
    const float logit = largest_logit(x.ref, m.f32);
    add_to(nll.ref, logit);
    add_to(nll.simd, logit);
    CHECK(guarded_alike("linear_xent, stored", &nll, 1e-5));
    ref->linear_xent_forward(&s->ref, nll.simd, x.ref, m.w, ids);
    add_to(nll.simd, logit);
    CHECK(guarded_alike("linear_xent, stored, portable", &nll, 1e-5));
    ref->embedding_forward(&s->ref, e.ref, ids, m.f32);
    simd->embedding_forward(&s->simd, e.simd, ids, m.w);
    CHECK(guarded_alike("embedding, stored", &e, 0));
    free(id);
    guarded *all[] = {&x, &y, &b, &r, &a, &nll, &e};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_close(all[i]);
    matrix_close(&m);
}

// In double, for gradient checks of what stands on a stored base.
static void test_double(pc_dtype t)
{
    pc_arena scratch = {0};
    pc_ctx ctx = {.ops = pc_cpu_ops(PC_ISA_REF, PC_F64), .real = PC_F64, .scratch = &scratch};
    const int64_t block = pc_dtype_block(t), I = block > 1 ? 3 * block : 515, N = 3, O = 70;
    matrix m = matrix_open(t, O, I, false);
    double *x = malloc((size_t)(N * I) * sizeof *x), *y = malloc((size_t)(N * O) * sizeof *y);
    if (!x || !y) abort();
    for (int64_t i = 0; i < N * I; i++) x[i] = (double)any_number();
    ctx.ops->linear_forward(&ctx, pc_view2(y, PC_F64, N, O), pc_view2(x, PC_F64, N, I), m.w,
                            PC_NONE, PC_NONE);
    double worst = 0.0;
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) {
            double sum = 0.0;
            for (int64_t i = 0; i < I; i++) sum += x[n * I + i] * (double)m.wide[o * I + i];
            worst = fmax(worst, fabs(sum - y[n * O + o]));
        }
    CHECK(worst < 1e-11);
    free(x);
    free(y);
    matrix_close(&m);
}

int main(void)
{
    pc_isa best;
    pc_pool *pool;
    if (pc_isa_choose(&best) || pc_pool_open(&pool, 2)) return 1;
    for (int k = 0; k < TYPES; k++) {
        const pc_quant_type *q = pc_quant_find(pc_dtype_quant(types[k]));
        CHECK(q && q->block == pc_dtype_block(types[k]) &&
              pc_quant_bytes(q, 256) == pc_dtype_bytes(types[k], 256));
        test_double(types[k]);
        for (int i = 0; i < 20; i++) {
            test_rows(pc_stored_row, types[k]);
#if defined(__x86_64__)
            if (best >= PC_ISA_AVX2) test_rows(pc_stored_row_avx2, types[k]);
            if (best >= PC_ISA_AVX512) test_rows(pc_stored_row_avx512, types[k]);
#endif
        }
    }
    test_every_half(pc_stored_row);
#if defined(__x86_64__)
    if (best >= PC_ISA_AVX2) test_every_half(pc_stored_row_avx2);
    if (best >= PC_ISA_AVX512) test_every_half(pc_stored_row_avx512);
#endif
    for (int isa = PC_ISA_REF; isa <= (int)best; isa++)
        for (int threads = 1; threads <= 2; threads++) {
            sides s;
            sides_open(&s, (pc_isa)isa, threads == 2 ? pool : NULL);
            for (int i = 0; i < 12; i++)
                for (int k = 0; k < TYPES; k++) test_products(&s, types[k]);
            sides_close(&s);
        }
    pc_pool_close(pool);
    guarded_report();
    return check_report("kernel.stored: matrices in the types of their files");
}

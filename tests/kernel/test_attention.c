/*
 * test_attention.c - attention of every instruction set held to the portable kernel: causal, bidirectional,
 * packed, prefix with branches, cross, sliding and unseeing rows; grouped heads, odd head widths, more keys than
 * one pass takes; guarded memory, one and two threads.
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

enum { CAUSAL, BOTH_WAYS, BRANCHES, CROSS, SLIDING, BLIND, KINDS };
enum { MAX_S = 4, MAX_ROWS = 4096 };

typedef struct layout {
    int64_t N, M;
    int32_t q_off[MAX_S + 1], k_off[MAX_S + 1], lo[MAX_ROWS], hi[MAX_ROWS], plo[MAX_ROWS],
        phi[MAX_ROWS];
    pc_mask mask;
} layout;

static void sequence(layout *l, int64_t s, int kind, int64_t T, int64_t keys)
{
    const int32_t q0 = l->q_off[s], k0 = l->k_off[s];
    const int32_t prefix = (int32_t)(T / 3), branch = (int32_t)(1 + below(20));
    for (int32_t t = 0; t < T; t++) {
        const int32_t n = q0 + t;
        l->lo[n] = l->plo[n] = l->phi[n] = k0;
        l->hi[n] = k0 + t + 1;
        if (kind == BOTH_WAYS || kind == CROSS) l->hi[n] = k0 + (int32_t)keys;
        if (kind == SLIDING) l->lo[n] = k0 + (t > 9 ? t - 9 : 0);
        if (kind == BRANCHES && t >= prefix) {
            l->phi[n] = k0 + prefix;
            l->lo[n] = k0 + prefix + (t - prefix) / branch * branch;
        }
        if (kind == BLIND && t % 3 == 1) l->hi[n] = l->lo[n];
    }
    l->q_off[s + 1] = q0 + (int32_t)T;
    l->k_off[s + 1] = k0 + (int32_t)keys;
}

static void layout_make(layout *l, int kind, int64_t longest)
{
    const int64_t S = 1 + below(MAX_S);
    for (int64_t s = 0; s < S; s++) {
        const int64_t T = 1 + below(longest);
        sequence(l, s, kind, T, kind == CROSS ? 1 + below(longest) : T);
    }
    l->N = l->q_off[S];
    l->M = l->k_off[S];
    l->mask = (pc_mask){.S = S,
                        .q_off = pc_view1(l->q_off, PC_I32, S + 1),
                        .k_off = pc_view1(l->k_off, PC_I32, S + 1),
                        .lo = pc_view1(l->lo, PC_I32, l->N),
                        .hi = pc_view1(l->hi, PC_I32, l->N)};
    if (kind != BRANCHES) return;
    l->mask.plo = pc_view1(l->plo, PC_I32, l->N);
    l->mask.phi = pc_view1(l->phi, PC_I32, l->N);
}

static void test_one(sides *s, int kind, int64_t G, int64_t group, int64_t D, int64_t longest)
{
    static layout l;
    layout_make(&l, kind, longest);
    const int64_t N = l.N, M = l.M, H = G * group;
    const double scale = 1.0 / sqrt((double)D);
    guarded q = guarded_heads(N, H, D, 3, 2, seed++), k = guarded_heads(M, G, D, 1, 2, seed++);
    guarded v = guarded_heads(M, G, D, 2, 1, seed++), o = guarded_heads(N, H, D, 5, 1, seed++);
    guarded lse = guarded_open(N, H, 0, 1, seed++), dout = guarded_heads(N, H, D, 0, 1, seed++);
    guarded dq = guarded_heads(N, H, D, 1, 1, seed++), dk = guarded_heads(M, G, D, 4, 1, seed++);
    guarded dv = guarded_heads(M, G, D, 2, 1, seed++);
    s->ref.ops->attention_forward(&s->ref, o.ref, lse.ref, q.ref, k.ref, v.ref, &l.mask, scale);
    s->simd.ops->attention_forward(&s->simd, o.simd, lse.simd, q.ref, k.ref, v.ref, &l.mask, scale);
    CHECK(guarded_alike("o", &o, 1e-6));  // seen 3e-7
    for (int64_t i = 0; i < N * H; i++) { // rows that see nothing: -inf on both sides
        float *a = (float *)lse.ref.data + i, *b = (float *)lse.simd.data + i;
        if (*a == -INFINITY && *b == -INFINITY) *a = *b = 0;
    }
    CHECK(guarded_alike("lse", &lse, 5e-7));
    for (int64_t i = 0; i < N * H; i++) {
        const int64_t n = i / H;
        const bool blind = l.lo[n] >= l.hi[n] && (kind != BRANCHES || l.plo[n] >= l.phi[n]);
        if (blind) ((float *)lse.ref.data)[i] = -INFINITY;
    }
    s->ref.grad_ops->attention_backward(&s->ref, dq.ref, dk.ref, dv.ref, dout.ref, q.ref, k.ref,
                                        v.ref, o.ref, lse.ref, &l.mask, scale);
    s->simd.grad_ops->attention_backward(&s->simd, dq.simd, dk.simd, dv.simd, dout.ref, q.ref,
                                         k.ref, v.ref, o.ref, lse.ref, &l.mask, scale);
    CHECK(guarded_alike("dq", &dq, 3e-6)); // one visible key: dp - delta cancels
    CHECK(guarded_alike("dk", &dk, 3e-6));
    CHECK(guarded_alike("dv", &dv, 1e-6));
    guarded *all[] = {&q, &k, &v, &o, &lse, &dout, &dq, &dk, &dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_close(all[i]);
}

// A NaN among the inputs of a row comes out of that row.
static void test_nan(sides *s)
{
    static layout l;
    layout_make(&l, CAUSAL, 40);
    guarded q = guarded_heads(l.N, 2, 32, 0, 1, 3), k = guarded_heads(l.M, 2, 32, 0, 1, 4);
    guarded v = guarded_heads(l.M, 2, 32, 0, 1, 5), o = guarded_heads(l.N, 2, 32, 0, 1, 6);
    guarded lse = guarded_open(l.N, 2, 0, 1, 7);
    pc_f32(q.ref, l.N - 1)[33] = NAN;
    s->simd.ops->attention_forward(&s->simd, o.simd, lse.simd, q.ref, k.ref, v.ref, &l.mask, 0.2);
    CHECK(isnan(pc_f32(o.simd, l.N - 1)[32]) && !isnan(pc_f32(o.simd, l.N - 1)[31]));
    CHECK(isnan(pc_f32(lse.simd, l.N - 1)[1]));
    guarded *all[] = {&q, &k, &v, &o, &lse};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_close(all[i]);
}

int main(void)
{
    static const int64_t widths[] = {32, 16, 64, 8, 40, 80, 128, 24, 12};
    pc_isa best;
    pc_pool *pool;
    if (pc_isa_choose(&best) || pc_pool_open(&pool, 2)) return 1;
    for (int isa = PC_ISA_AVX2; isa <= (int)best; isa++)
        for (int threads = 1; threads <= 2; threads++) {
            sides s;
            sides_open(&s, (pc_isa)isa, threads == 2 ? pool : NULL);
            for (int kind = 0; kind < KINDS; kind++) {
                for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
                    test_one(&s, kind, 1 + below(3), 1 + below(3), widths[w], 90);
                test_one(&s, kind, 1, 2, 32, 900);
            }
            test_nan(&s);
            sides_close(&s);
        }
    pc_pool_close(pool);
    guarded_report();
    return check_report("kernel.attention: SIMD against portable");
}

/*
 * test_dense.c - products, activations, norms, cross-entropy and the optimiser of every instruction set, held to the
 * portable kernels: sizes of 1, odd, tails and large, strided rows, guarded memory, one and two threads.
 */
#include <math.h>
#include <stdlib.h>

#include "tests/support/check.h"
#include "tests/support/guarded.h"

static const int64_t sizes[] = {1, 2, 7, 16, 31, 33, 64, 100, 300, 515};
enum { SIZES = sizeof sizes / sizeof *sizes };

static uint64_t seed = 7;

static int64_t any_size(void)
{
    const pc_rng_key key = {seed, PC_STREAM_TEST, 1};
    return sizes[pc_rng_below(&key, seed++, SIZES)];
}

static void test_linear(sides *s)
{
    const int64_t N = any_size(), I = any_size(), O = any_size(), gap = any_size() % 5;
    const bool bias = seed % 2, residual = seed / 2 % 2;
    guarded x = guarded_open(N, I, gap, 1, seed++), w = guarded_open(O, I, 0, 1, seed++);
    guarded b = guarded_vector(O, 1, seed++), r = guarded_open(N, O, gap, 1, seed++);
    guarded y = guarded_open(N, O, 3, 1, seed++);
    s->ref.ops->linear_forward(&s->ref, y.ref, x.ref, w.ref, bias ? b.ref : PC_NONE,
                               residual ? r.ref : PC_NONE);
    s->simd.ops->linear_forward(&s->simd, y.simd, x.ref, w.ref, bias ? b.ref : PC_NONE,
                                residual ? r.ref : PC_NONE);
    CHECK(guarded_alike("linear", &y, 1e-6)); // seen 2e-7
    s->ref.ops->linear_forward(&s->ref, r.ref, x.ref, w.ref, PC_NONE, r.ref);
    s->simd.ops->linear_forward(&s->simd, r.simd, x.ref, w.ref, PC_NONE, r.simd);
    CHECK(guarded_alike("linear in place", &r, 1e-6));

    guarded dy = guarded_open(N, O, 1, 1, seed++), dx = guarded_open(N, I, 2, 1, seed++);
    guarded dw = guarded_open(O, I, 0, 1, seed++), db = guarded_vector(O, 1, seed++);
    s->ref.grad_ops->linear_backward(&s->ref, dx.ref, dw.ref, db.ref, dy.ref, x.ref, w.ref, false);
    s->simd.grad_ops->linear_backward(&s->simd, dx.simd, dw.simd, db.simd, dy.ref, x.ref, w.ref,
                                      false);
    CHECK(guarded_alike("linear dx", &dx, 1e-6));
    CHECK(guarded_alike("linear dw", &dw, 1e-6));
    CHECK(guarded_alike("linear db", &db, 5e-6));

    guarded z = guarded_open(N, O, 0, 1, seed++), a = guarded_open(N, O, 1, 1, seed++);
    const pc_act kind = (pc_act)(seed % 5);
    s->ref.ops->linear_act_forward(&s->ref, a.ref, z.ref, x.ref, w.ref, b.ref, kind);
    s->simd.ops->linear_act_forward(&s->simd, a.simd, z.simd, x.ref, w.ref, b.ref, kind);
    CHECK(guarded_alike("linear_act a", &a, 3e-6));
    s->ref.grad_ops->linear_act_backward(&s->ref, dy.ref, db.ref, dy.ref, z.ref, kind);
    s->simd.grad_ops->linear_act_backward(&s->simd, dy.simd, db.simd, dy.simd, z.simd, kind);
    CHECK(guarded_alike("linear_act dz", &dy, 3e-6));
    CHECK(guarded_alike("linear_act db", &db, 1e-5));
    pc_ctx infer = s->simd;
    infer.grad_ops = NULL; // z is z
    infer.ops->linear_act_forward(&infer, a.simd, z.simd, x.ref, w.ref, b.ref, kind);
    CHECK(guarded_alike("linear_act z", &z, 1e-6));
    CHECK(guarded_alike("linear_act a, no gradients", &a, 3e-6));
    infer.ops->linear_act_forward(&infer, z.simd, z.simd, x.ref, w.ref, b.ref, kind);
    s->ref.ops->linear_act_forward(&s->ref, z.ref, z.ref, x.ref, w.ref, b.ref, kind);
    CHECK(guarded_alike("linear_act in place", &z, 3e-6));
    guarded *all[] = {&x, &w, &b, &r, &y, &dy, &dx, &dw, &db, &z, &a};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_close(all[i]);
}

static void test_act(sides *s)
{
    static const char *const names[5][2] = {{"gelu", "gelu back"},
                                            {"gelu tanh", "gelu tanh back"},
                                            {"quick", "quick back"},
                                            {"silu", "silu back"},
                                            {"relu", "relu back"}};
    const int64_t N = any_size(), F = any_size();
    for (int kind = 0; kind < 5; kind++) {
        guarded z = guarded_open(N, F, 1, 8, seed++), a = guarded_open(N, F, 2, 1, seed++);
        guarded da = guarded_open(N, F, 0, 1, seed++);
        s->ref.ops->act_forward(&s->ref, a.ref, z.ref, (pc_act)kind);
        s->simd.ops->act_forward(&s->simd, a.simd, z.ref, (pc_act)kind);
        CHECK(guarded_alike(names[kind][0], &a, 5e-7)); // seen 1e-7
        s->ref.grad_ops->act_backward(&s->ref, da.ref, da.ref, z.ref, (pc_act)kind);
        s->simd.grad_ops->act_backward(&s->simd, da.simd, da.simd, z.ref, (pc_act)kind);
        CHECK(guarded_alike(names[kind][1], &da, 1e-6)); // seen 2e-7
        guarded_close(&z);
        guarded_close(&a);
        guarded_close(&da);
    }
    guarded gu = guarded_open(N, 2 * F, 3, 5, seed++), h = guarded_open(N, F, 1, 1, seed++);
    guarded dh = guarded_open(N, F, 1, 1, seed++), dgu = guarded_open(N, 2 * F, 0, 1, seed++);
    s->ref.ops->swiglu_forward(&s->ref, h.ref, gu.ref);
    s->simd.ops->swiglu_forward(&s->simd, h.simd, gu.ref);
    CHECK(guarded_alike("swiglu", &h, 5e-7));
    s->ref.grad_ops->swiglu_backward(&s->ref, dgu.ref, dh.ref, gu.ref);
    s->simd.grad_ops->swiglu_backward(&s->simd, dgu.simd, dh.ref, gu.ref);
    CHECK(guarded_alike("swiglu back", &dgu, 5e-7));
    guarded_close(&gu);
    guarded_close(&h);
    guarded_close(&dh);
    guarded_close(&dgu);
}

// What is not finite stays so, and the largest and smallest numbers do no harm.
static void test_act_extremes(sides *s)
{
    static const float special[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-38f, 100, -100, 0};
    enum { COUNT = sizeof special / sizeof *special };
    for (int kind = 0; kind < 5; kind++) {
        guarded z = guarded_open(1, COUNT, 0, 1, 1), a = guarded_open(1, COUNT, 0, 1, 1);
        for (int i = 0; i < COUNT; i++) ((float *)z.ref.data)[i] = special[i];
        s->simd.ops->act_forward(&s->simd, a.simd, z.ref, (pc_act)kind);
        const float *out = a.simd.data;
        CHECK(isnan(out[0]) && !isfinite(out[1]));
        // tanh GELU of 3e38 overflows in its cube, here as in the portable kernel: 3e38 or not finite
        CHECK(out[3] == 3e38f || !isfinite(out[3]));
        CHECK(fabsf(out[5]) <= 1e-38f && out[6] == 100 && fabsf(out[7]) <= 1e-30f && out[8] == 0);
        guarded_close(&z);
        guarded_close(&a);
    }
}

static void test_norms(sides *s)
{
    const int64_t N = any_size(), C = any_size();
    const bool extra = seed % 2;
    guarded x = guarded_open(N, C, 2, 3, seed++), g = guarded_vector(C, 1, seed++);
    guarded b = guarded_vector(C, 1, seed++), y = guarded_open(N, C, 1, 1, seed++);
    guarded mean = guarded_vector(N, 1, seed++), rstd = guarded_vector(N, 1, seed++);
    guarded dy = guarded_open(N, C, 0, 1, seed++), add = guarded_open(N, C, 1, 1, seed++);
    guarded dx = guarded_open(N, C, 3, 1, seed++);
    guarded dg = guarded_vector(C, 1, seed++), db = guarded_vector(C, 1, seed++);
    for (int64_t i = 0; i < N * x.ref.stride && C > 1; i += x.ref.stride) // a mean far from zero
        for (int64_t c = 0; c < C; c++) ((float *)x.ref.data)[i + c] += 2;
    s->ref.ops->layernorm_forward(&s->ref, y.ref, mean.ref, rstd.ref, x.ref, g.ref, b.ref, 1e-5);
    s->simd.ops->layernorm_forward(&s->simd, y.simd, mean.simd, rstd.simd, x.ref, g.ref, b.ref,
                                   1e-5);
    CHECK(guarded_alike("layernorm", &y, 3e-6)); // C = 2: x - mean cancels
    CHECK(guarded_alike("layernorm mean", &mean, 1e-6));
    CHECK(guarded_alike("layernorm rstd", &rstd, 3e-6));
    const pc_tensor more = extra ? add.ref : PC_NONE;
    s->ref.grad_ops->layernorm_backward(&s->ref, dx.ref, dg.ref, db.ref, dy.ref, x.ref, g.ref,
                                        mean.ref, rstd.ref, more);
    s->simd.grad_ops->layernorm_backward(&s->simd, dx.simd, dg.simd, db.simd, dy.ref, x.ref, g.ref,
                                         mean.ref, rstd.ref, more);
    if (C > 2) CHECK(guarded_alike("layernorm dx", &dx, 5e-6));
    CHECK(guarded_alike("layernorm dg", &dg, 2e-6));
    CHECK(guarded_alike("layernorm db", &db, 1e-6));

    s->ref.ops->rmsnorm_forward(&s->ref, y.ref, rstd.ref, x.ref, g.ref, 1e-6);
    s->simd.ops->rmsnorm_forward(&s->simd, y.simd, rstd.simd, x.ref, g.ref, 1e-6);
    CHECK(guarded_alike("rmsnorm", &y, 1e-6));
    CHECK(guarded_alike("rmsnorm rstd", &rstd, 1e-6));
    s->ref.grad_ops->rmsnorm_backward(&s->ref, dx.ref, dg.ref, dy.ref, x.ref, g.ref, rstd.ref,
                                      more);
    s->simd.grad_ops->rmsnorm_backward(&s->simd, dx.simd, dg.simd, dy.ref, x.ref, g.ref, rstd.ref,
                                       more);
    if (C > 1) CHECK(guarded_alike("rmsnorm dx", &dx, 3e-6));
    CHECK(guarded_alike("rmsnorm dg", &dg, 2e-6));
    guarded *all[] = {&x, &g, &b, &y, &mean, &rstd, &dy, &add, &dx, &dg, &db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_close(all[i]);
}

static void test_head_norms(sides *s)
{
    const int64_t N = any_size(), H = 1 + (int64_t)(seed % 4), D = any_size();
    guarded x = guarded_heads(N, H, D, 5, 2, seed++), g = guarded_vector(D, 1, seed++);
    guarded rstd = guarded_open(N, H, 0, 1, seed++), dy = guarded_heads(N, H, D, 1, 1, seed++);
    guarded y = guarded_heads(N, H, D, 3, 1, seed++), dg = guarded_vector(D, 1, seed++);
    s->ref.ops->rmsnorm_forward(&s->ref, y.ref, rstd.ref, x.ref, g.ref, 1e-6);
    s->simd.ops->rmsnorm_forward(&s->simd, y.simd, rstd.simd, x.ref, g.ref, 1e-6);
    CHECK(guarded_alike("head norm", &y, 1e-6));
    s->ref.grad_ops->rmsnorm_backward(&s->ref, dy.ref, dg.ref, dy.ref, x.ref, g.ref, rstd.ref,
                                      PC_NONE);
    s->simd.grad_ops->rmsnorm_backward(&s->simd, dy.simd, dg.simd, dy.simd, x.ref, g.ref, rstd.ref,
                                       PC_NONE);
    if (D > 1) CHECK(guarded_alike("head norm dx", &dy, 3e-6));
    CHECK(guarded_alike("head norm dg", &dg, 3e-6));
    guarded *all[] = {&x, &g, &rstd, &dy, &y, &dg};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_close(all[i]);
}

static void test_rope(sides *s)
{
    const int64_t N = any_size(), H = 1 + (int64_t)(seed % 5), D = 2 * any_size(), R = 9;
    guarded x = guarded_heads(N, H, D, 3, 1, seed++), y = guarded_heads(N, H, D, 1, 1, seed++);
    guarded c = guarded_open(R, D / 2, 0, 1, seed++), sn = guarded_open(R, D / 2, 0, 1, seed++);
    int32_t *pos = malloc((size_t)N * sizeof *pos);
    if (!pos) abort();
    for (int64_t n = 0; n < N; n++) pos[n] = (int32_t)((n * 5) % R);
    const pc_tensor p = pc_view1(pos, PC_I32, N);
    s->ref.ops->rope_forward(&s->ref, y.ref, x.ref, c.ref, sn.ref, p);
    s->simd.ops->rope_forward(&s->simd, y.simd, x.ref, c.ref, sn.ref, p);
    CHECK(guarded_alike("rope", &y, 3e-7));
    s->ref.grad_ops->rope_backward(&s->ref, y.ref, y.ref, c.ref, sn.ref, p);
    s->simd.grad_ops->rope_backward(&s->simd, y.simd, y.simd, c.ref, sn.ref, p);
    CHECK(guarded_alike("rope back in place", &y, 3e-7));
    guarded_close(&x);
    guarded_close(&y);
    guarded_close(&c);
    guarded_close(&sn);
    free(pos);
}

static void test_step(sides *s)
{
    const int64_t n = any_size() * any_size();
    guarded w = guarded_vector(n, 1, seed++), m = guarded_vector(n, 1, seed++);
    guarded v = guarded_vector(n, 1, seed++), g = guarded_vector(n, 1, seed++);
    for (int64_t i = 0; i < n; i++)
        ((float *)v.ref.data)[i] = ((float *)v.simd.data)[i] = fabsf(((float *)v.ref.data)[i]);
    const pc_adamw hyper = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1.0 - 0.9, 1.0 - 0.95, 0.5};
    s->ref.grad_ops->adamw(&s->ref, w.ref, m.ref, v.ref, g.ref, &hyper);
    s->simd.grad_ops->adamw(&s->simd, w.simd, m.simd, v.simd, g.ref, &hyper);
    CHECK(guarded_alike("adamw w", &w, 3e-7));
    CHECK(guarded_alike("adamw m", &m, 3e-7));
    CHECK(guarded_alike("adamw v", &v, 3e-7));
    s->ref.grad_ops->accumulate(&s->ref, w.ref, g.ref);
    s->simd.grad_ops->accumulate(&s->simd, w.simd, g.ref);
    CHECK(guarded_alike("accumulate", &w, 5e-7));
    guarded_close(&w);
    guarded_close(&m);
    guarded_close(&v);
    guarded_close(&g);

    const int64_t N = any_size(), C = any_size();
    guarded a = guarded_open(N, C, 2, 1, seed++), b = guarded_open(N, C, 0, 1, seed++);
    s->ref.ops->add_forward(&s->ref, a.ref, a.ref, b.ref);
    s->simd.ops->add_forward(&s->simd, a.simd, a.simd, b.ref);
    CHECK(guarded_alike("add", &a, 0));
    guarded_close(&a);
    guarded_close(&b);
}

static void test_xent(sides *s)
{
    const int64_t N = any_size(), C = any_size(), V = 1 + any_size() * (seed % 3 ? 1 : 9);
    guarded x = guarded_open(N, C, 2, 1, seed++), w = guarded_open(V, C, 0, 0.3f, seed++);
    guarded nll = guarded_vector(N, 1, seed++), coef = guarded_vector(N, 1, seed++);
    guarded dx = guarded_open(N, C, 1, 1, seed++), dw = guarded_open(V, C, 0, 0.1f, seed++);
    int32_t *labels = malloc((size_t)N * sizeof *labels);
    if (!labels) abort();
    for (int64_t n = 0; n < N; n++) labels[n] = n % 3 == 1 ? -1 : (int32_t)((n * 7) % V);
    const pc_tensor l = pc_view1(labels, PC_I32, N);
    s->ref.ops->linear_xent_forward(&s->ref, nll.ref, x.ref, w.ref, l);
    s->simd.ops->linear_xent_forward(&s->simd, nll.simd, x.ref, w.ref, l);
    CHECK(guarded_alike("linear_xent", &nll, 2e-6)); // V = 1: nll is 0 but for rounding
    s->ref.grad_ops->linear_xent_backward(&s->ref, dx.ref, dw.ref, nll.ref, x.ref, w.ref, l,
                                          coef.ref);
    s->simd.grad_ops->linear_xent_backward(&s->simd, dx.simd, dw.simd, nll.simd, x.ref, w.ref, l,
                                           coef.ref);
    CHECK(guarded_alike("linear_xent nll", &nll, 2e-6));
    CHECK(guarded_alike("linear_xent dx", &dx, 2e-6));
    CHECK(guarded_alike("linear_xent dw", &dw, 2e-6));
    guarded *all[] = {&x, &w, &nll, &coef, &dx, &dw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_close(all[i]);
    free(labels);
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
            for (int i = 0; i < 40; i++) {
                test_linear(&s);
                if (i % 2) continue;
                test_act(&s);
                test_norms(&s);
                test_head_norms(&s);
                test_rope(&s);
                test_step(&s);
                test_xent(&s);
            }
            test_act_extremes(&s);
            sides_close(&s);
        }
    pc_pool_close(pool);
    guarded_report();
    return check_report("kernel.dense: SIMD against portable");
}

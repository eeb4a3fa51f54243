/*
 * test_ops_attention.c - attention: derivatives, precision, mutations, and the plain definition.
 *
 * Besides the checks of opcheck.h every case's forward is compared with a few lines that follow the
 * definition, row by row, keys taken one by one.
 *
 * Seen: derivatives 2.9e-10; float against double 9.0e-7.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/opcheck.h"

// arg: mask, sequences, longest sequence, H, G, D
enum mask_kind {
    ALL,      // bidirectional within a sequence
    CAUSAL,   // keys up to and with the query's own place
    WINDOW,   // the last three of those
    BRANCHES, // a prefix all see, then branches that see it and themselves
    CROSS,    // fewer queries than keys, causal with the queries at the end; spare key rows behind
    BLIND,    // causal, but every third row sees nothing
};

typedef struct attention_state {
    op_var q, k, v;
    pc_tensor dout;
    pc_mask mask;
    double scale;
} attention_state;

static int64_t length_of(const int64_t *arg, int64_t s)
{
    return arg[2] - s > 1 ? arg[2] - s : 1; // every sequence one shorter than the one before
}

static void mask_row(pc_mask *m, int kind, int64_t n, int64_t t, int64_t T, int64_t k0)
{
    enum { PREFIX = 3, BRANCH = 2 };
    int32_t lo = 0, hi = (int32_t)(t + 1), plo = 0, phi = 0;
    switch (kind) {
    case ALL: hi = (int32_t)T; break;
    case WINDOW: lo = (int32_t)(t > 2 ? t - 2 : 0); break;
    case BRANCHES:
        if (t < PREFIX) {
            hi = (int32_t)(T < PREFIX ? T : PREFIX); // bidirectional inside, as image rows
        } else {
            lo = (int32_t)(PREFIX + (t - PREFIX) / BRANCH * BRANCH);
            phi = PREFIX;
        }
        break;
    case BLIND:
        if (t % 3 == 1) lo = hi = 0;
        break;
    default: break;
    }
    pc_i32(m->lo)[n] = lo + (int32_t)k0;
    pc_i32(m->hi)[n] = hi + (int32_t)k0;
    if (kind != BRANCHES) return;
    pc_i32(m->plo)[n] = plo + (int32_t)k0;
    pc_i32(m->phi)[n] = phi + (int32_t)k0;
}

static void *attention_setup(opcheck *o, const int64_t *arg)
{
    const int kind = (int)arg[0];
    const int64_t S = arg[1], H = arg[3], G = arg[4], D = arg[5], cut = kind == CROSS ? 2 : 0;
    attention_state *s = op_state(o, sizeof *s);
    pc_mask *m = &s->mask;
    m->S = S;
    m->q_off = pc_alloc1(&o->g.hold, PC_I32, S + 1);
    m->k_off = pc_alloc1(&o->g.hold, PC_I32, S + 1);
    int64_t N = 0, M = 0;
    for (int64_t i = 0; i <= S; i++) {
        pc_i32(m->q_off)[i] = (int32_t)N;
        pc_i32(m->k_off)[i] = (int32_t)M;
        if (i == S) break;
        const int64_t T = length_of(arg, i);
        N += T > cut ? T - cut : 1;
        M += T;
    }
    m->lo = pc_alloc1(&o->g.hold, PC_I32, N);
    m->hi = pc_alloc1(&o->g.hold, PC_I32, N);
    if (kind == BRANCHES) {
        m->plo = pc_alloc1(&o->g.hold, PC_I32, N);
        m->phi = pc_alloc1(&o->g.hold, PC_I32, N);
    }
    for (int64_t i = 0; i < S; i++) {
        const int64_t q0 = pc_i32(m->q_off)[i], q1 = pc_i32(m->q_off)[i + 1];
        const int64_t T = length_of(arg, i);
        for (int64_t n = q0; n < q1; n++)
            mask_row(m, kind, n, T - (q1 - n), T, pc_i32(m->k_off)[i]);
    }
    const int64_t rows = M + (kind == CROSS ? 3 : 0);
    s->scale = 1.0 / sqrt((double)D);
    s->q = op_input(o, "q", 1.0, 5, PC_DIMS(N, H, D));
    s->k = op_input(o, "k", 1.0, 4, PC_DIMS(rows, G, D));
    s->v = op_input(o, "v", 1.0, 3, PC_DIMS(rows, G, D));
    s->dout = op_const(o, 1.0, 1, PC_DIMS(N, H, D));
    return s;
}

static double attention_run(pc_ctx *ctx, void *arg, bool backward)
{
    const attention_state *s = arg;
    const int64_t N = s->dout.dim[0], H = s->dout.dim[1];
    const pc_tensor o = op_alloc(ctx, 2, PC_DIMS(N, H, s->dout.dim[2]));
    const pc_tensor lse = op_alloc(ctx, 0, PC_DIMS(N, H));
    ctx->ops->attention_forward(ctx, o, lse, s->q.x, s->k.x, s->v.x, &s->mask, s->scale);
    if (backward)
        ctx->grad_ops->attention_backward(ctx, s->q.g, s->k.g, s->v.g, s->dout, s->q.x, s->k.x,
                                          s->v.x, o, lse, &s->mask, s->scale);
    return op_dot(o, s->dout);
}

// clang-format off
static const op_case cases[] = {
    // op, label, set-up, run, tolerance of the derivative and of float; mask, S, T, H, G, D
    {"attention", "bidirectional", attention_setup, attention_run, 1e-7, 2e-6, {ALL, 2, 5, 2, 2, 3}},
    {"attention", "causal, grouped heads", attention_setup, attention_run, 1e-7, 2e-6, {CAUSAL, 3, 4, 4, 2, 2}},
    {"attention", "two tokens, one token", attention_setup, attention_run, 1e-7, 2e-6, {CAUSAL, 3, 2, 1, 1, 1}},
    {"attention", "one key head for three, window", attention_setup, attention_run, 1e-7, 2e-6, {WINDOW, 1, 9, 3, 1, 4}},
    {"attention", "branches behind a prefix", attention_setup, attention_run, 1e-7, 2e-6, {BRANCHES, 2, 9, 2, 1, 3}},
    {"attention", "cross, spare key rows", attention_setup, attention_run, 1e-7, 2e-6, {CROSS, 3, 6, 2, 2, 3}},
    {"attention", "rows that see nothing", attention_setup, attention_run, 1e-7, 2e-6, {BLIND, 2, 5, 2, 1, 3}},
    {"attention", "three tiles", attention_setup, attention_run, 1e-7, 2e-6, {CAUSAL, 1, 130, 1, 1, 1}},
    {"attention", "large bidirectional", attention_setup, attention_run, 0, 4e-6, {ALL, 3, 197, 3, 3, 32}},
    {"attention", "large causal, grouped heads", attention_setup, attention_run, 0, 4e-6, {CAUSAL, 2, 150, 6, 2, 64}},
    {"attention", "large branches", attention_setup, attention_run, 0, 4e-6, {BRANCHES, 4, 101, 4, 4, 17}},
    {"attention", "large window", attention_setup, attention_run, 0, 4e-6, {WINDOW, 1, 300, 2, 1, 80}},
    {"attention", "many short sequences", attention_setup, attention_run, 0, 4e-6, {BLIND, 40, 41, 4, 2, 12}},
};
// clang-format on

// Row n, head h by the definition. True when o and lse agree.
static bool row_agrees(const attention_state *s, pc_tensor o, pc_tensor lse, int64_t n, int64_t h)
{
    const int64_t H = o.dim[1], D = o.dim[2], G = s->k.x.dim[1], M = s->k.x.dim[0];
    const int64_t g = h * G / H;
    const pc_mask *m = &s->mask;
    double sum = 0.0, out[128] = {0};
    for (int64_t key = 0; key < M; key++) {
        const bool own = key >= pc_i32(m->lo)[n] && key < pc_i32(m->hi)[n];
        const bool prefix =
            pc_present(m->plo) && key >= pc_i32(m->plo)[n] && key < pc_i32(m->phi)[n];
        if (!own && !prefix) continue;
        double score = 0.0;
        for (int64_t d = 0; d < D; d++)
            score += op_get(s->q.x, (n * H + h) * D + d) * op_get(s->k.x, (key * G + g) * D + d);
        const double e = exp(score * s->scale);
        sum += e;
        for (int64_t d = 0; d < D; d++) out[d] += e * op_get(s->v.x, (key * G + g) * D + d);
    }
    const double l = op_get(lse, n * H + h);
    bool ok = sum > 0.0 ? fabs(l - log(sum)) <= 1e-12 * (1.0 + fabs(l)) : l == -INFINITY;
    for (int64_t d = 0; d < D; d++) {
        const double want = sum > 0.0 ? out[d] / sum : 0.0;
        ok = ok && fabs(op_get(o, (n * H + h) * D + d) - want) <= 1e-12; // seen 4e-15
    }
    return ok;
}

static int definition(void)
{
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        opcheck o = {.real = PC_F64};
        gradcheck_open(&o.g, cases[i].label, 3, 2);
        attention_state *s = cases[i].setup(&o, cases[i].arg);
        const int64_t N = s->dout.dim[0], H = s->dout.dim[1];
        const pc_tensor out = op_alloc(&o.g.ctx, 2, PC_DIMS(N, H, s->dout.dim[2]));
        const pc_tensor lse = op_alloc(&o.g.ctx, 0, PC_DIMS(N, H));
        o.g.ctx.ops->attention_forward(&o.g.ctx, out, lse, s->q.x, s->k.x, s->v.x, &s->mask,
                                       s->scale);
        int64_t wrong = 0;
        for (int64_t n = 0; n < N; n++)
            for (int64_t h = 0; h < H; h++) wrong += !row_agrees(s, out, lse, n, h);
        printf("%s attention, %s: %lld of %lld rows differ from the definition\n",
               wrong ? "FAILED" : "ok    ", cases[i].label, (long long)wrong, (long long)(N * H));
        failed += wrong > 0;
        gradcheck_close(&o.g);
    }
    return failed;
}

#define ATTENTION_ARGS                                                                             \
    pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout, pc_tensor q,            \
        pc_tensor k, pc_tensor v, pc_tensor o, pc_tensor lse, const pc_mask *mask, double scale

static void attention_no_delta(ATTENTION_ARGS)
{
    op_scale(o, 0.0);
    opcheck_sound()->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, mask, scale);
}
static void attention_dq_unscaled(ATTENTION_ARGS)
{
    opcheck_sound()->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, mask, scale);
    op_scale(dq, 1.0 / scale);
}
static void attention_dk_off(ATTENTION_ARGS)
{
    opcheck_sound()->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, mask, scale);
    op_scale(dk, 1.01);
}
static void attention_no_prefix(ATTENTION_ARGS)
{
    pc_mask blind = *mask;
    blind.plo = blind.phi = PC_NONE;
    opcheck_sound()->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, &blind, scale);
}
static void attention_sees_all(ATTENTION_ARGS)
{
    int32_t lo[256], hi[256];
    PC_ASSERT(q.dim[0] <= 256, "%lld rows", (long long)q.dim[0]);
    for (int64_t s = 0; s < mask->S; s++)
        for (int64_t n = pc_i32(mask->q_off)[s]; n < pc_i32(mask->q_off)[s + 1]; n++) {
            lo[n] = pc_i32(mask->k_off)[s];
            hi[n] = pc_i32(mask->k_off)[s + 1];
        }
    pc_mask all = *mask;
    all.lo = pc_view1(lo, PC_I32, q.dim[0]);
    all.hi = pc_view1(hi, PC_I32, q.dim[0]);
    all.plo = all.phi = PC_NONE;
    opcheck_sound()->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, &all, scale);
}
static void attention_dv_of_last_head(ATTENTION_ARGS)
{
    // A group's key head hears only the last of its query heads.
    const pc_tensor other = op_alloc(ctx, 0, PC_DIMS(q.dim[0], q.dim[1], q.dim[2]));
    const pc_tensor dk2 = op_alloc(ctx, 0, PC_DIMS(k.dim[0], k.dim[1], k.dim[2]));
    ctx->ops->copy_forward(ctx, other, dout);
    const int64_t H = q.dim[1], G = k.dim[1], D = q.dim[2];
    for (int64_t i = 0; i < pc_numel(other); i++) {
        const int64_t h = i / D % H;
        if (h + 1 < H && (h + 1) * G / H == h * G / H) op_set(other, i, 0.0);
    }
    opcheck_sound()->attention_backward(ctx, dq, dk2, dv, other, q, k, v, o, lse, mask, scale);
    const pc_tensor dv2 = op_alloc(ctx, 0, PC_DIMS(k.dim[0], k.dim[1], k.dim[2]));
    opcheck_sound()->attention_backward(ctx, dq, dk, dv2, dout, q, k, v, o, lse, mask, scale);
}

OP_INSTALL(attention_backward, attention_no_delta)
OP_INSTALL(attention_backward, attention_dq_unscaled)
OP_INSTALL(attention_backward, attention_dk_off)
OP_INSTALL(attention_backward, attention_no_prefix)
OP_INSTALL(attention_backward, attention_sees_all)
OP_INSTALL(attention_backward, attention_dv_of_last_head)

static const op_mutation mutations[] = {
    {"attention", "delta forgotten", install_attention_no_delta},
    {"attention", "dq unscaled", install_attention_dq_unscaled},
    {"attention", "dk 1 % too large", install_attention_dk_off},
    {"attention", "prefix unseen", install_attention_no_prefix},
    {"attention", "mask ignored", install_attention_sees_all},
    {"attention", "dv of a group's last head alone", install_attention_dv_of_last_head},
};

int main(void)
{
    const int failed = definition();
    const int rest = opcheck_main(cases, sizeof cases / sizeof *cases, mutations,
                                  sizeof mutations / sizeof *mutations);
    return failed ? EXIT_FAILURE : rest;
}

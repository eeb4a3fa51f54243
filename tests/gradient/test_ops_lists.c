/*
 * test_ops_lists.c - the optimiser's operations on lists of pieces and the gate in front of them, on every instruction
 * set and in double, against a few lines of double arithmetic; what is broken on purpose is seen.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/quant.h"
#include "model/ops/ops.h"
#include "model/ops/step.h"

static int failed;

static void expect(bool ok, const char *what, const char *how, double seen)
{
    printf("%s %s, %s: %.3g\n", ok ? "ok    " : "FAILED", what, how, seen);
    failed += !ok;
}

enum { N = 1211, PIECES = 3 };
static const int64_t cut[PIECES + 1] = {0, 8, 720, N}; // pieces begin on multiples of 8

typedef struct state {
    pc_dtype w_type, moment_type, g_type;
    bool master;
    double w[N], kept[N], m[N], v[N], g[N]; // room for any type; kept: the master copy
    pc_piece list[PIECES];
} state;

static void set(void *numbers, pc_dtype t, int64_t i, double x)
{
    if (t == PC_F64) ((double *)numbers)[i] = x;
    if (t == PC_F32) ((float *)numbers)[i] = (float)x;
    if (t == PC_BF16) ((uint16_t *)numbers)[i] = pc_f32_to_bf16((float)x);
}

static double number(const void *numbers, pc_dtype t, int64_t i)
{
    if (t == PC_F64) return ((const double *)numbers)[i];
    if (t == PC_F32) return (double)((const float *)numbers)[i];
    return (double)pc_bf16_to_f32(((const uint16_t *)numbers)[i]);
}

static void open_state(state *s, pc_dtype w, bool master, pc_dtype moment, pc_dtype g)
{
    const pc_rng_key key = {.seed = 5, .stream = PC_STREAM_TEST};
    *s = (state){.w_type = w, .master = master, .moment_type = moment, .g_type = g};
    for (int64_t i = 0; i < N; i++) {
        const uint64_t at = 4 * (uint64_t)i;
        const double weight = pc_rng_normal(&key, at);
        set(s->w, w, i, weight);
        set(s->kept, PC_F32, i, weight);
        set(s->m, moment, i, 0.1 * pc_rng_normal(&key, at + 1));
        set(s->v, moment, i, 0.01 + pow(pc_rng_normal(&key, at + 2), 2.0));
        set(s->g, g, i, pc_rng_normal(&key, at + 3));
    }
    for (int p = 0; p < PIECES; p++) {
        const size_t at = (size_t)cut[p];
        s->list[p] =
            (pc_piece){.w = (char *)s->w + at * pc_dtype_size(w),
                       .master = master ? (char *)s->kept + at * pc_dtype_size(PC_F32) : NULL,
                       .m = (char *)s->m + at * pc_dtype_size(moment),
                       .v = (char *)s->v + at * pc_dtype_size(moment),
                       .g = (char *)s->g + at * pc_dtype_size(g),
                       .n = cut[p + 1] - cut[p],
                       .first = cut[p],
                       .lr_scale = p == 1 ? 0.3 : 1.0,
                       .decay = p == 2 ? 0.0 : 1.0,
                       .w_type = w,
                       .moment_type = moment,
                       .g_type = g};
    }
}

static const pc_adamw hyper = {.lr = 5e-2,
                               .beta1 = 0.9,
                               .beta2 = 0.95,
                               .eps = 1e-8,
                               .weight_decay = 0.1,
                               .correct1 = 0.19,
                               .correct2 = 0.0975,
                               .grad_scale = 1.0};

typedef struct errors {
    double w, kept, m, v;
} errors;

// Relative errors of a step from the state `from`, as double arithmetic has it.
static errors errors_of(const state *s, const state *from, double scale)
{
    errors top = {0}, low = {0};
    for (int p = 0; p < PIECES; p++)
        for (int64_t i = cut[p]; i < cut[p + 1]; i++) {
            const double lr = hyper.lr * from->list[p].lr_scale;
            const double g = scale * number(from->g, from->g_type, i);
            const double m = 0.9 * number(from->m, from->moment_type, i) + 0.1 * g;
            const double v = 0.95 * number(from->v, from->moment_type, i) + 0.05 * g * g;
            double w =
                from->master ? number(from->kept, PC_F32, i) : number(from->w, from->w_type, i);
            w *= 1.0 - lr * 0.1 * from->list[p].decay;
            w -= lr * (m / 0.19) / (sqrt(v / 0.0975) + 1e-8);
            top.w += pow(number(s->w, s->w_type, i) - w, 2.0), low.w += w * w;
            top.kept += pow(number(s->kept, PC_F32, i) - w, 2.0), low.kept += w * w;
            top.m += pow(number(s->m, s->moment_type, i) - m, 2.0), low.m += m * m;
            top.v += pow(number(s->v, s->moment_type, i) - v, 2.0), low.v += v * v;
        }
    return (errors){sqrt(top.w / low.w), sqrt(top.kept / low.kept), sqrt(top.m / low.m),
                    sqrt(top.v / low.v)};
}

static double tolerance(pc_dtype t, bool random)
{
    if (t == PC_F64) return 1e-14; // seen 2e-16
    if (t == PC_F32) return 3e-7;  // seen 6e-8
    return random ? 6e-3 : 3e-3;   // seen 3.3e-3, 1.6e-3
}

static void steps(pc_ctx *ctx, const pc_grad_ops *ops, const char *how, bool sound)
{
    static const struct {
        pc_dtype w, moment, g; // F64: ctx->real
        bool master, random;
    } kinds[] = {{PC_F64, PC_F64, PC_F64, false, false},
                 {PC_F32, PC_F32, PC_BF16, false, false},
                 {PC_BF16, PC_F32, PC_F32, true, false},
                 {PC_BF16, PC_BF16, PC_BF16, true, true},
                 {PC_BF16, PC_BF16, PC_F32, false, false},
                 {PC_BF16, PC_BF16, PC_BF16, false, true}};
    double values[PC_GATE] = {0.0, 1.0, 0.5, 0.0};
    const pc_tensor gate = pc_view1(values, PC_F64, PC_GATE);
    const pc_rng_key key = {.seed = 7, .stream = PC_STREAM_ROUNDING, .step = 3};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        static state from, s;
        const pc_dtype real = ctx->real, w = kinds[k].w == PC_F64 ? real : kinds[k].w;
        open_state(&from, w, kinds[k].master, kinds[k].moment == PC_F64 ? real : kinds[k].moment,
                   kinds[k].g == PC_F64 ? real : kinds[k].g);
        open_state(&s, w, kinds[k].master, from.moment_type, from.g_type);
        ops->adamw_list(ctx, s.list, PIECES, &hyper, gate, kinds[k].random ? &key : NULL);
        const errors e = errors_of(&s, &from, values[PC_GATE_SCALE]);
        const double by_moment = tolerance(from.moment_type, kinds[k].random);
        bool ok = e.w <= tolerance(w, kinds[k].random && !kinds[k].master) && e.m <= by_moment &&
                  e.v <= by_moment;
        if (kinds[k].master) {
            ok = ok && e.kept <= tolerance(PC_F32, false);
            for (int64_t i = 0; i < N; i++) // w is its copy, to nearest
                ok = ok &&
                     number(s.w, w, i) ==
                         (double)pc_bf16_to_f32(pc_f32_to_bf16((float)number(s.kept, PC_F32, i)));
        }
        expect(ok == sound, sound ? "adamw_list" : "adamw_list broken", how,
               fmax(e.w, fmax(e.m, e.v)));
        if (!sound) continue;
        values[PC_GATE_SHUT] = 1.0;
        static state still;
        still = s;
        ops->adamw_list(ctx, s.list, PIECES, &hyper, gate, NULL);
        expect(!memcmp(&still, &s, sizeof s), "a shut gate", how, 0.0);
        values[PC_GATE_SHUT] = 0.0;
    }
}

// The list is, piece by piece, the kernel for one tensor; the same bits.
static void as_one(pc_ctx *ctx, const char *how)
{
    static state a, b;
    double values[PC_GATE] = {0.0, 1.0, 0.25, 0.0};
    open_state(&a, ctx->real, false, ctx->real, ctx->real);
    open_state(&b, ctx->real, false, ctx->real, ctx->real);
    ctx->grad_ops->adamw_list(ctx, a.list, PIECES, &hyper, pc_view1(values, PC_F64, PC_GATE), NULL);
    for (int p = 0; p < PIECES; p++) {
        pc_adamw own = hyper;
        own.lr *= b.list[p].lr_scale;
        own.weight_decay *= b.list[p].decay;
        own.grad_scale = 0.25;
        const pc_piece *q = &b.list[p];
        ctx->grad_ops->adamw(ctx, pc_view1(q->w, ctx->real, q->n), pc_view1(q->m, ctx->real, q->n),
                             pc_view1(q->v, ctx->real, q->n), pc_view1(q->g, ctx->real, q->n),
                             &own);
    }
    expect(!memcmp(a.w, b.w, sizeof a.w) && !memcmp(a.m, b.m, sizeof a.m) &&
               !memcmp(a.v, b.v, sizeof a.v),
           "adamw_list is adamw", how, 0.0);
}

// A weight and its moments, each a quarter of the way down: whether one goes down says nothing about another, nor about
// the number behind it.
static void apart(pc_ctx *ctx, const char *how)
{
    enum { W, M, V, NEXT, SIDES };
    static const char *const names[SIDES] = {"w", "m", "v", "the next w"};
    static state s;
    double values[PC_GATE] = {0.0, 0.0, 1.0, 0.0};
    const pc_tensor gate = pc_view1(values, PC_F64, PC_GATE);
    const double quarter = 0.25 / 256.0;
    const pc_adamw by = {.lr = quarter,
                         .beta1 = 1.0 - quarter,
                         .beta2 = 1.0 - quarter,
                         .correct1 = 1.0,
                         .correct2 = 1.0,
                         .grad_scale = 1.0};
    int64_t one[SIDES] = {0}, both[SIDES][SIDES] = {{0}}, three = 0, all = 0;
    for (uint64_t step = 0; step < 60; step++) {
        const pc_rng_key key = {.seed = 2, .stream = PC_STREAM_ROUNDING, .step = step};
        open_state(&s, PC_BF16, false, PC_BF16, PC_F32);
        for (int64_t i = 0; i < N; i++) {
            set(s.w, PC_BF16, i, 1.0);
            set(s.m, PC_BF16, i, 1.0);
            set(s.v, PC_BF16, i, 1.0);
            set(s.g, PC_F32, i, 0.0);
        }
        for (int p = 0; p < PIECES; p++) s.list[p].lr_scale = s.list[p].decay = 1.0;
        ctx->grad_ops->adamw_list(ctx, s.list, PIECES, &by, gate, &key);
        for (int64_t i = 0; i + 1 < N; i++, all++) {
            const bool low[SIDES] = {number(s.w, PC_BF16, i) < 1.0, number(s.m, PC_BF16, i) < 1.0,
                                     number(s.v, PC_BF16, i) < 1.0,
                                     number(s.w, PC_BF16, i + 1) < 1.0};
            for (int k = 0; k < SIDES; k++) {
                one[k] += low[k];
                for (int l = 0; l < k; l++) both[k][l] += low[k] && low[l];
            }
            three += low[W] && low[M] && low[V];
        }
    }
    const double n = (double)all;
    for (int k = 0; k < SIDES; k++)
        for (int l = 0; l < k; l++) {
            char what[64];
            snprintf(what, sizeof what, "%s and %s go down apart from each other", names[l],
                     names[k]);
            const double share = (double)both[k][l] / n;
            expect(fabs(share - (double)one[k] / n * ((double)one[l] / n)) <
                       4.0 * sqrt(share * (1.0 - share) / n),
                   what, how, share);
        }
    const double share = (double)three / n;
    expect(fabs(share - 1.0 / 64.0) < 5.0 * sqrt(1.0 / 64.0 / n), "all three", how, share);
}

// What lies between two neighbours goes to either, in the middle where it lies; other keys, other numbers.
static void rounding(pc_ctx *ctx, const char *how)
{
    static state s, other;
    double values[PC_GATE] = {0.0, 0.0, 1.0, 0.0};
    const pc_tensor gate = pc_view1(values, PC_F64, PC_GATE);
    // w = 1, no gradient, decay of a quarter of the distance to the number below 1 (2^-8).
    pc_adamw shrink = hyper;
    shrink.lr = 1.0;
    shrink.weight_decay = 0.25 / 256.0;
    int64_t low = 0, all = 0, differ = 0;
    for (uint64_t step = 0; step < 40; step++) {
        const pc_rng_key key = {.seed = 1, .stream = PC_STREAM_ROUNDING, .step = step};
        const pc_rng_key next = {.seed = 1, .stream = PC_STREAM_ROUNDING, .step = step + 1};
        for (int twice = 0; twice < 2; twice++) {
            state *t = twice ? &other : &s;
            open_state(t, PC_BF16, false, PC_F32, PC_F32);
            for (int64_t i = 0; i < N; i++) {
                set(t->w, PC_BF16, i, 1.0);
                set(t->m, PC_F32, i, 0.0);
                set(t->v, PC_F32, i, 1.0);
                set(t->g, PC_F32, i, 0.0);
            }
            for (int p = 0; p < PIECES; p++) t->list[p].lr_scale = t->list[p].decay = 1.0;
            ctx->grad_ops->adamw_list(ctx, t->list, PIECES, &shrink, gate, twice ? &next : &key);
        }
        for (int64_t i = 0; i < N; i++, all++) {
            const double w = number(s.w, PC_BF16, i);
            low += w == 1.0 - 1.0 / 256.0;
            failed += w != 1.0 && w != 1.0 - 1.0 / 256.0;
            differ += w != number(other.w, PC_BF16, i);
        }
    }
    const double share = (double)low / (double)all, sigma = sqrt(0.25 * 0.75 / (double)all);
    expect(fabs(share - 0.25) < 4.0 * sigma, "rounded at random, a quarter goes down", how, share);
    const double other_share = (double)differ / (double)all;
    expect(fabs(other_share - 0.375) < 0.02, "another update, other numbers", how, other_share);
    // To nearest nothing would ever move.
    open_state(&s, PC_BF16, false, PC_F32, PC_F32);
    set(s.w, PC_BF16, 0, 1.0), set(s.g, PC_F32, 0, 0.0), set(s.m, PC_F32, 0, 0.0);
    ctx->grad_ops->adamw_list(ctx, s.list, 1, &shrink, gate, NULL);
    expect(number(s.w, PC_BF16, 0) == 1.0, "to nearest", how, number(s.w, PC_BF16, 0));
}

static void gate_values(pc_ctx *ctx, const char *how)
{
    static state s;
    double values[PC_GATE] = {0}, sums[PIECES], want = 0.0, loss = 2.5, total = 1.0;
    const pc_tensor gate = pc_view1(values, PC_F64, PC_GATE), l = pc_view1(&loss, PC_F64, 1),
                    squares = pc_view1(sums, PC_F64, PIECES);
    const pc_dtype types[] = {ctx->real, PC_BF16};
    for (int k = 0; k < 2; k++) {
        open_state(&s, ctx->real, false, ctx->real, types[k]);
        want = 0.0;
        for (int64_t i = 0; i < N; i++) want += pow(number(s.g, types[k], i), 2.0);
        ctx->grad_ops->square_sums(ctx, squares, s.list, PIECES);
        ctx->grad_ops->step_gate(ctx, gate, squares, l, 1.0);
        const double off = fabs(values[PC_GATE_NORM] / sqrt(want) - 1.0);
        expect(off < 1e-12, "norm of pieces", how, off); // seen 2e-16
        expect(values[PC_GATE_SCALE] == 1.0 / (values[PC_GATE_NORM] + PC_CLIP_TINY) &&
                   values[PC_GATE_LOSS] == 2.5 && values[PC_GATE_SHUT] == 0.0,
               "gate", how, values[PC_GATE_SCALE]);
    }
    ctx->grad_ops->step_gate(ctx, gate, squares, PC_NONE, 0.0);
    expect(values[PC_GATE_SCALE] == 1.0, "no limit", how, values[PC_GATE_SCALE]);
    ctx->grad_ops->step_gate(ctx, gate, squares, l, 1e9);
    expect(values[PC_GATE_SCALE] == 1.0, "a far limit", how, values[PC_GATE_SCALE]);
    loss = NAN;
    ctx->grad_ops->step_gate(ctx, gate, squares, l, 1.0);
    expect(values[PC_GATE_SHUT] != 0.0, "a loss that is no number shuts it", how, 0.0);
    loss = 1.0;
    ctx->grad_ops->step_gate(ctx, gate, squares, l, 1.0);
    expect(values[PC_GATE_SHUT] != 0.0, "for good", how, 0.0);
    values[PC_GATE_SHUT] = 0.0;
    set(s.g, s.g_type, 5, INFINITY);
    ctx->grad_ops->square_sums(ctx, squares, s.list, PIECES);
    ctx->grad_ops->step_gate(ctx, gate, squares, l, 1.0);
    expect(values[PC_GATE_SHUT] != 0.0, "an infinite gradient shuts it", how, values[PC_GATE_NORM]);

    open_state(&s, ctx->real, false, ctx->real, ctx->real);
    want = 1.0;
    for (int64_t i = 0; i < N; i++) want += 0.5 * number(s.g, ctx->real, i);
    ctx->grad_ops->add_sum(ctx, pc_view1(&total, PC_F64, 1), pc_view1(s.g, ctx->real, N), 0.5);
    expect(fabs(total - want) < 1e-12 * N, "add_sum", how, total - want);
    ctx->grad_ops->clamp(ctx, pc_view1(s.g, ctx->real, N), -0.5, 0.25);
    int64_t wrong = 0, moved = 0;
    static state plain;
    open_state(&plain, ctx->real, false, ctx->real, ctx->real);
    for (int64_t i = 0; i < N; i++) {
        const double x = number(plain.g, ctx->real, i), y = number(s.g, ctx->real, i);
        wrong += y != fmin(fmax(x, -0.5), 0.25);
        moved += y != x;
    }
    expect(wrong == 0 && moved > 0, "clamp", how, (double)wrong);
}

// Momentum and update, with bf16 as with the rest: muon_ahead and muon_apply against double. train/test_muon has the whole.
static void muon(pc_ctx *ctx, const char *how)
{
    static const pc_dtype kinds[3][3] = {{PC_F64, PC_F64, PC_F64},
                                         {PC_F32, PC_BF16, PC_F32},
                                         {PC_BF16, PC_BF16, PC_BF16}};
    enum { R = 89, C = 8 }; // the second piece
    for (int k = 0; k < 3; k++) {
        static state s, from;
        static double space[R * C];
        double values[PC_GATE] = {0.0, 1.0, 0.5, 0.0}, norm = 0.0;
        const pc_tensor gate = pc_view1(values, PC_F64, PC_GATE),
                        X = pc_view3(space, ctx->real, 1, R, C);
        pc_dtype t[3];
        for (int i = 0; i < 3; i++) t[i] = kinds[k][i] == PC_F64 ? ctx->real : kinds[k][i];
        open_state(&s, t[0], k == 2, t[1], t[2]);
        open_state(&from, t[0], k == 2, t[1], t[2]);
        static double u[R * C], top[3], low[3];
        memset(top, 0, sizeof top), memset(low, 0, sizeof low);
        ctx->grad_ops->muon_ahead(ctx, X, s.list + 1, 0.9, gate, NULL);
        for (int64_t i = 0; i < R * C; i++) {
            const double g = 0.5 * number(from.g, t[2], cut[1] + i);
            const double m = 0.9 * number(from.m, t[1], cut[1] + i) + 0.1 * g;
            u[i] = 0.1 * g + 0.9 * m;
            norm += u[i] * u[i];
            top[0] += pow(number(s.m, t[1], cut[1] + i) - m, 2.0), low[0] += m * m;
        }
        for (int64_t i = 0; i < R * C; i++) {
            const double x = u[i] / (sqrt(norm) + 1e-7);
            top[1] += pow(number(space, ctx->real, i) - x, 2.0), low[1] += x * x;
        }
        ctx->grad_ops->muon_apply(ctx, s.list + 1, X, 0.1, 0.2, gate, NULL);
        for (int64_t i = 0; i < R * C; i++) {
            const double x = number(space, ctx->real, i);
            const double before =
                k == 2 ? number(from.kept, PC_F32, cut[1] + i) : number(from.w, t[0], cut[1] + i);
            const double w = (1.0 - 0.03 * 0.2) * before - 0.03 * 0.2 * sqrt(89.0) * x;
            const double now =
                k == 2 ? number(s.kept, PC_F32, cut[1] + i) : number(s.w, t[0], cut[1] + i);
            top[2] += pow(now - w, 2.0), low[2] += w * w;
        }
        const double m_off = sqrt(top[0] / low[0]), x_off = sqrt(top[1] / low[1]),
                     w_off = sqrt(top[2] / low[2]), real = tolerance(ctx->real, false);
        expect(m_off <= tolerance(t[1], false), "muon_ahead's momentum", how, m_off);
        expect(x_off <= fmax(real, 1e-15), "muon_ahead's X", how, x_off);
        expect(w_off <= fmax(real, tolerance(k == 2 ? PC_F32 : t[0], false)), "muon_apply", how,
               w_off);
        const state still = s;
        values[PC_GATE_SHUT] = 1.0;
        ctx->grad_ops->muon_ahead(ctx, X, s.list + 1, 0.9, gate, NULL);
        ctx->grad_ops->muon_apply(ctx, s.list + 1, X, 0.1, 0.2, gate, NULL);
        expect(!memcmp(&still, &s, sizeof s), "a shut gate before muon", how, 0.0);
    }
}

// ---- broken on purpose -----------------------------------------------------------------------------

static const pc_grad_ops *sound_ops;

static void same_rate(pc_ctx *ctx, const pc_piece *list, int64_t count, const pc_adamw *h,
                      pc_tensor gate, const pc_rng_key *key)
{
    for (int64_t i = 0; i < count; i++) {
        pc_piece p = list[i];
        p.lr_scale = 1.0;
        sound_ops->adamw_list(ctx, &p, 1, h, gate, key);
    }
}

static void unclipped(pc_ctx *ctx, const pc_piece *list, int64_t count, const pc_adamw *h,
                      pc_tensor gate, const pc_rng_key *key)
{
    double values[PC_GATE];
    memcpy(values, gate.data, sizeof values);
    values[PC_GATE_SCALE] = 1.0;
    sound_ops->adamw_list(ctx, list, count, h, pc_view1(values, PC_F64, PC_GATE), key);
}

static void all_decay(pc_ctx *ctx, const pc_piece *list, int64_t count, const pc_adamw *h,
                      pc_tensor gate, const pc_rng_key *key)
{
    for (int64_t i = 0; i < count; i++) {
        pc_piece p = list[i];
        p.decay = 1.0;
        pc_adamw strong = *h;
        if (list[i].decay == 0.0) strong.weight_decay *= 30.0; // seen in bf16 too
        sound_ops->adamw_list(ctx, &p, 1, &strong, gate, key);
    }
}

int main(void)
{
    pc_isa best = PC_ISA_REF;
    pc_arena scratch;
    if (pc_isa_choose(&best) || pc_arena_open(&scratch, "scratch", 1 << 20)) {
        printf("FAILED %s\n", pc_error_text());
        return EXIT_FAILURE;
    }
    for (int isa = -1; isa <= (int)best; isa++) {
        const pc_dtype real = isa < 0 ? PC_F64 : PC_F32;
        const pc_isa chosen = isa < 0 ? PC_ISA_REF : (pc_isa)isa;
        char how[64];
        snprintf(how, sizeof how, "%s %s", pc_dtype_name(real), pc_isa_name(chosen));
        pc_ctx ctx = {.ops = pc_cpu_ops(chosen, real),
                      .grad_ops = pc_cpu_grad_ops(chosen, real),
                      .real = real,
                      .act = &scratch,
                      .scratch = &scratch};
        steps(&ctx, ctx.grad_ops, how, true);
        as_one(&ctx, how);
        rounding(&ctx, how);
        apart(&ctx, how);
        gate_values(&ctx, how);
        muon(&ctx, how);
        if (isa >= 0) continue;
        sound_ops = ctx.grad_ops;
        void (*const broken[])(pc_ctx *, const pc_piece *, int64_t, const pc_adamw *, pc_tensor,
                               const pc_rng_key *) = {same_rate, unclipped, all_decay};
        for (int i = 0; i < 3; i++) {
            pc_grad_ops ops = *sound_ops;
            ops.adamw_list = broken[i];
            steps(&ctx, &ops, "one rate for all; no clipping; decay everywhere", false);
        }
    }
    pc_arena_close(&scratch);
    printf("%d failed\n", failed);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

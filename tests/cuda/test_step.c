/*
 * test_step.c - the optimiser on a GPU: lists of pieces of every mixture of types, the gate, Muon and whole steps, held to
 * the portable kernels with the same types.
 *
 * Without a GPU the test says so and passes over; with PERCEPT_NEED_GPU=1 it fails.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/quant.h"
#include "model/ops/step.h"
#include "train/optimizer.h"

static int failed;
static pc_backend gpu, cpu;

static void expect(bool ok, const char *what, const char *how, double seen)
{
    printf("%s %s, %s: %.3g\n", ok ? "ok    " : "FAILED", what, how, seen);
    failed += !ok;
}

static void must(pc_status st)
{
    if (!st) return;
    printf("FAILED %s\n", pc_error_text());
    exit(1);
}

// ---- numbers on either side ------------------------------------------------------------------------

typedef struct side {
    pc_arena arena;
    pc_ctx ctx;
} side;

static void open_side(side *s, const pc_backend *b)
{
    *s = (side){0};
    must(pc_arena_open_in(&s->arena, "test", b->memory, (size_t)64 << 20, (size_t)1 << 20));
    s->ctx = (pc_ctx){.ops = pc_backend_ops(b),
                      .grad_ops = pc_backend_grad_ops(b),
                      .real = PC_F32,
                      .act = &s->arena,
                      .scratch = &s->arena};
}

static void *upload(side *s, const void *from, size_t bytes)
{
    void *to = pc_arena_numbers(&s->arena, bytes);
    if (!s->arena.memory)
        memcpy(to, from, bytes);
    else {
        s->arena.memory->copy(to, from, bytes);
        s->arena.memory->wait();
    }
    return to;
}

static void download(const side *s, void *to, const void *from, size_t bytes)
{
    if (!s->arena.memory)
        memcpy(to, from, bytes);
    else {
        s->arena.memory->copy(to, from, bytes);
        s->arena.memory->wait();
    }
}

// n normal numbers of a type, by 16 bytes; `square`: not negative.
static void *drawn(side *s, pc_dtype t, int64_t n, uint64_t stream, bool square)
{
    unsigned char *host = calloc((size_t)n, 4);
    if (!host) exit(1);
    const pc_rng_key key = {.seed = 11, .stream = PC_STREAM_TEST, .step = stream};
    for (int64_t i = 0; i < n; i++) {
        double x = pc_rng_normal(&key, (uint64_t)i);
        if (square) x = 0.01 + x * x;
        if (t == PC_F32) ((float *)host)[i] = (float)x;
        if (t == PC_BF16) ((uint16_t *)host)[i] = pc_f32_to_bf16((float)x);
    }
    void *to = upload(s, host, (size_t)n * pc_dtype_size(t));
    free(host);
    return to;
}

static double number(const void *p, pc_dtype t, int64_t i)
{
    if (t == PC_F64) return ((const double *)p)[i];
    if (t == PC_F32) return (double)((const float *)p)[i];
    return (double)pc_bf16_to_f32(((const uint16_t *)p)[i]);
}

// Relative distance of n numbers, and the share of them that differ by more than rounding in f32.
static double distance(const side *a, const void *x, const side *b, const void *y, pc_dtype t,
                       int64_t n, double *share)
{
    const size_t bytes = (size_t)n * pc_dtype_size(t);
    void *p = malloc(bytes), *q = malloc(bytes);
    double top = 0.0, low = 0.0, differ = 0.0;
    if (!p || !q) exit(1);
    download(a, p, x, bytes);
    download(b, q, y, bytes);
    for (int64_t i = 0; i < n; i++) {
        const double u = number(p, t, i), v = number(q, t, i);
        top += (u - v) * (u - v);
        low += v * v;
        differ += fabs(u - v) > 1e-5 * fabs(v) + 1e-9;
    }
    free(p);
    free(q);
    if (share) *share = differ / (double)n;
    return sqrt(top / low);
}

// ---- pieces ----------------------------------------------------------------------------------------

enum { PIECES = 5 };
static const int64_t lengths[PIECES] = {1, 70000, 4096, 13, 65536};

typedef struct kind {
    pc_dtype w, moment, g;
    bool master;
} kind;

// The last piece begins one number too far for 16 bytes.
static void make_pieces(side *s, pc_piece *list, const kind *k)
{
    int64_t first = 0;
    for (int p = 0; p < PIECES; p++) {
        const int64_t n = lengths[p], off = p == PIECES - 1;
        const uint64_t at = 16 * (uint64_t)p;
        list[p] = (pc_piece){
            .w = (char *)drawn(s, k->w, n + off, at, false) + (size_t)off * pc_dtype_size(k->w),
            .master =
                k->master ? (char *)drawn(s, PC_F32, n + off, at, false) + (size_t)off * 4 : NULL,
            .m = (char *)drawn(s, k->moment, n + off, at + 1, false) +
                 (size_t)off * pc_dtype_size(k->moment),
            .v = (char *)drawn(s, k->moment, n + off, at + 2, true) +
                 (size_t)off * pc_dtype_size(k->moment),
            .g = (char *)drawn(s, k->g, n + off, at + 3, false) + (size_t)off * pc_dtype_size(k->g),
            .n = n,
            .first = first,
            .lr_scale = p == 1 ? 0.3 : 1.0,
            .decay = p == 2 ? 0.0 : 1.0,
            .w_type = k->w,
            .moment_type = k->moment,
            .g_type = k->g};
        first += (n + 7) / 8 * 8;
    }
}

static const pc_adamw hyper = {.lr = 1e-2,
                               .beta1 = 0.9,
                               .beta2 = 0.95,
                               .eps = 1e-8,
                               .weight_decay = 0.1,
                               .correct1 = 0.19,
                               .correct2 = 0.0975,
                               .grad_scale = 1.0};

static const char *kind_name(const kind *k, bool random)
{
    static char text[96];
    snprintf(text, sizeof text, "w %s%s, moments %s, gradients %s%s", pc_dtype_name(k->w),
             k->master ? " with a master" : "", pc_dtype_name(k->moment), pc_dtype_name(k->g),
             random ? ", rounded at random" : "");
    return text;
}

static void pieces(const kind *k, bool random)
{
    side a, b;
    pc_piece x[PIECES], y[PIECES];
    const pc_rng_key key = {.seed = 7, .stream = PC_STREAM_ROUNDING, .step = 3};
    open_side(&a, &gpu);
    open_side(&b, &cpu);
    make_pieces(&a, x, k);
    make_pieces(&b, y, k);
    const pc_piece *list = upload(&a, x, sizeof x);
    const double zero[PC_GATE] = {0};
    const double loss = 2.0;
    const pc_tensor ga = pc_view1(upload(&a, zero, sizeof zero), PC_F64, PC_GATE),
                    gb = pc_view1(upload(&b, zero, sizeof zero), PC_F64, PC_GATE);
    const double none[PIECES] = {0};
    const pc_tensor sa = pc_view1(upload(&a, none, sizeof none), PC_F64, PIECES),
                    sb = pc_view1(upload(&b, none, sizeof none), PC_F64, PIECES);
    const pc_tensor la = pc_view1(upload(&a, &loss, sizeof loss), PC_F64, 1),
                    lb = pc_view1(upload(&b, &loss, sizeof loss), PC_F64, 1);
    for (int step = 0; step < 2; step++) {
        a.ctx.grad_ops->square_sums(&a.ctx, sa, list, PIECES);
        b.ctx.grad_ops->square_sums(&b.ctx, sb, y, PIECES);
        a.ctx.grad_ops->step_gate(&a.ctx, ga, sa, la, 10.0);
        b.ctx.grad_ops->step_gate(&b.ctx, gb, sb, lb, 10.0);
        a.ctx.grad_ops->adamw_list(&a.ctx, list, PIECES, &hyper, ga, random ? &key : NULL);
        b.ctx.grad_ops->adamw_list(&b.ctx, y, PIECES, &hyper, gb, random ? &key : NULL);
    }
    const double gates = distance(&a, ga.data, &b, gb.data, PC_F64, PC_GATE, NULL);
    const double sums = distance(&a, sa.data, &b, sb.data, PC_F64, PIECES, NULL);
    double worst = fmax(gates, sums) > 1e-12 ? 1.0 : 0.0, most = 0.0, share;
    for (int p = 0; p < PIECES; p++) {
        const int64_t n = lengths[p];
        const struct {
            const void *x, *y;
            pc_dtype t;
        } all[4] = {{x[p].w, y[p].w, k->w},
                    {x[p].m, y[p].m, k->moment},
                    {x[p].v, y[p].v, k->moment},
                    {x[p].master, y[p].master, PC_F32}};
        for (int i = 0; i < (k->master ? 4 : 3); i++) {
            const double off = distance(&a, all[i].x, &b, all[i].y, all[i].t, n, &share);
            // A number on the edge between two of bf16 may fall to either side: few do.
            // The second step starts from moments of which one may have done so.
            worst = fmax(worst, all[i].t == PC_F32 ? off : 0.0);
            most = fmax(most, all[i].t == PC_F32 ? 0.0 : share);
        }
    }
    expect(worst < (k->moment == PC_F32 ? 3e-7 : 1e-5), "adamw_list", kind_name(k, random), worst);
    expect(most < 1e-3, "numbers rounded to the other side", kind_name(k, random), most);

    // What comes after a loss that is no number changes nothing.
    const double bad = NAN;
    void *before = malloc(70000 * 4), *after = malloc(70000 * 4);
    if (!before || !after) exit(1);
    download(&a, before, x[1].w, 70000 * pc_dtype_size(k->w));
    const pc_tensor nan_loss = pc_view1(upload(&a, &bad, sizeof bad), PC_F64, 1);
    a.ctx.grad_ops->step_gate(&a.ctx, ga, sa, nan_loss, 10.0);
    a.ctx.grad_ops->adamw_list(&a.ctx, list, PIECES, &hyper, ga, NULL);
    a.ctx.grad_ops->step_gate(&a.ctx, ga, sa, la, 10.0);
    a.ctx.grad_ops->adamw_list(&a.ctx, list, PIECES, &hyper, ga, NULL);
    download(&a, after, x[1].w, 70000 * pc_dtype_size(k->w));
    expect(!memcmp(before, after, 70000 * pc_dtype_size(k->w)), "a shut gate", kind_name(k, random),
           0.0);
    free(before);
    free(after);
    pc_arena_close(&a.arena);
    pc_arena_close(&b.arena);
}

// Numbers that are not finite, or about to be, among others: they stay what they are on the CPU, and the others too.
static void not_finite(void)
{
    enum { N = 512 };
    static uint16_t from[4][N], to[2][3][N];
    static const uint16_t usual[4] = {0x3f8a, 0x3f00, 0x3e80, 0x3eff}; // w, m, v, g
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_ROUNDING, .step = 5};
    const double open[PC_GATE] = {0.0, 1.0, 1.0, 0.0};
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < N; i++) from[k][i] = usual[k];
    from[0][5] = 0x7f80, from[0][6] = 0xff80, from[0][14] = 0x7fc0, from[0][300] = 0x7f7f;
    from[1][9] = 0x7fc0, from[1][17] = 0xff80, from[2][27] = 0x7f80, from[2][511] = 0x7fc0;
    for (int half = 0; half < 2; half++) {
        side s;
        open_side(&s, half ? &cpu : &gpu);
        const pc_piece one = {.w = upload(&s, from[0], sizeof from[0]),
                              .m = upload(&s, from[1], sizeof from[1]),
                              .v = upload(&s, from[2], sizeof from[2]),
                              .g = upload(&s, from[3], sizeof from[3]),
                              .n = N,
                              .lr_scale = 1.0,
                              .decay = 1.0,
                              .w_type = PC_BF16,
                              .moment_type = PC_BF16,
                              .g_type = PC_BF16};
        const pc_tensor gate = pc_view1(upload(&s, open, sizeof open), PC_F64, PC_GATE);
        s.ctx.grad_ops->adamw_list(&s.ctx, upload(&s, &one, sizeof one), 1, &hyper, gate, &key);
        void *const kept[3] = {one.w, one.m, one.v};
        for (int k = 0; k < 3; k++) download(&s, to[half][k], kept[k], sizeof to[half][k]);
        pc_arena_close(&s.arena);
    }
    int differ = 0;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < N; i++) {
            const float a = pc_bf16_to_f32(to[0][k][i]), b = pc_bf16_to_f32(to[1][k][i]);
            differ += isnan(a) != isnan(b) || (!isnan(a) && to[0][k][i] != to[1][k][i]);
        }
    expect(differ <= 3, "numbers that are not finite", "bf16", differ); // seen 0
}

static void small_things(void)
{
    side a, b;
    open_side(&a, &gpu);
    open_side(&b, &cpu);
    static const int64_t sizes[] = {1, 255, 65536, 200001};
    double worst = 0.0;
    for (int i = 0; i < 4; i++) {
        const int64_t n = sizes[i];
        const double start = 3.0;
        void *xa = drawn(&a, PC_F32, n, 5, false), *xb = drawn(&b, PC_F32, n, 5, false);
        const pc_tensor ta = pc_view1(upload(&a, &start, sizeof start), PC_F64, 1),
                        tb = pc_view1(upload(&b, &start, sizeof start), PC_F64, 1);
        a.ctx.grad_ops->add_sum(&a.ctx, ta, pc_view1(xa, PC_F32, n), 0.25);
        b.ctx.grad_ops->add_sum(&b.ctx, tb, pc_view1(xb, PC_F32, n), 0.25);
        a.ctx.grad_ops->square_sum(&a.ctx, ta, pc_view1(xa, PC_F32, n));
        b.ctx.grad_ops->square_sum(&b.ctx, tb, pc_view1(xb, PC_F32, n));
        worst = fmax(worst, distance(&a, ta.data, &b, tb.data, PC_F64, 1, NULL));
        a.ctx.grad_ops->clamp(&a.ctx, pc_view1(xa, PC_F32, n), -0.5, 0.25);
        b.ctx.grad_ops->clamp(&b.ctx, pc_view1(xb, PC_F32, n), -0.5, 0.25);
        worst = fmax(worst, distance(&a, xa, &b, xb, PC_F32, n, NULL));
    }
    expect(worst < 1e-12, "add_sum, square_sum, clamp", "f32", worst);
    pc_arena_close(&a.arena);
    pc_arena_close(&b.arena);
}

// ---- Muon ------------------------------------------------------------------------------------------

// X made orthogonal three times from the same numbers: told, recorded as a graph and replayed. Equal bits?
static bool alike(side *s, pc_tensor X)
{
    const pc_tensor given = pc_alloc_like(&s->arena, X);
    const size_t bytes = (size_t)pc_numel(X) * pc_dtype_size(X.dtype);
    unsigned char *seen = calloc(3, bytes);
    if (!seen) exit(1);
    s->ctx.ops->copy_forward(&s->ctx, given, X);
    for (int i = 0; i < 3; i++) {
        s->ctx.ops->copy_forward(&s->ctx, X, given);
        s->ctx.grad_ops->orthogonal(&s->ctx, X);
        download(s, seen + (size_t)i * bytes, X.data, bytes);
    }
    const bool same = !memcmp(seen, seen + bytes, bytes) && !memcmp(seen, seen + 2 * bytes, bytes);
    free(seen);
    return same;
}

// A batch of three matrices, one after the other in X.
static void matrices(int64_t R, int64_t C, pc_dtype real, const kind *k, bool random)
{
    enum { B = 3 };
    side a, b;
    pc_piece x[B], y[B];
    char how[160];
    const pc_rng_key key = {.seed = 7, .stream = PC_STREAM_ROUNDING, .step = 9};
    open_side(&a, &gpu);
    open_side(&b, &cpu);
    for (int side_of = 0; side_of < 2; side_of++)
        for (int p = 0; p < B; p++) {
            side *s = side_of ? &b : &a;
            const uint64_t at = 16 * (uint64_t)p;
            const pc_piece one = {.w = drawn(s, k->w, R * C, at, false),
                                  .master = k->master ? drawn(s, PC_F32, R * C, at, false) : NULL,
                                  .m = drawn(s, k->moment, R * C, at + 1, false),
                                  .g = drawn(s, k->g, R * C, at + 2, false),
                                  .n = R * C,
                                  .first = p * (R * C + 7) / 8 * 8,
                                  .lr_scale = p == 1 ? 0.3 : 1.0,
                                  .decay = p == 2 ? 0.0 : 1.0,
                                  .w_type = k->w,
                                  .moment_type = k->moment,
                                  .g_type = k->g};
            *(side_of ? &y[p] : &x[p]) = one;
        }
    const pc_piece *list = upload(&a, x, sizeof x);
    const double open[PC_GATE] = {0.0, 1.0, 0.5, 0.0};
    const pc_tensor ga = pc_view1(upload(&a, open, sizeof open), PC_F64, PC_GATE),
                    gb = pc_view1(upload(&b, open, sizeof open), PC_F64, PC_GATE);
    const pc_tensor X = pc_alloc3(&a.arena, real, B, R, C),
                    Y = pc_alloc3(&b.arena, PC_F32, B, R, C);
    a.ctx.grad_ops->muon_ahead(&a.ctx, X, list, 0.9, ga, random ? &key : NULL);
    b.ctx.grad_ops->muon_ahead(&b.ctx, Y, y, 0.9, gb, random ? &key : NULL);
    const bool same = alike(&a, X);
    b.ctx.grad_ops->orthogonal(&b.ctx, Y);
    a.ctx.grad_ops->muon_apply(&a.ctx, list, X, 0.02, 0.1, ga, random ? &key : NULL);
    b.ctx.grad_ops->muon_apply(&b.ctx, y, Y, 0.02, 0.1, gb, random ? &key : NULL);
    double m = 0.0, w = 0.0;
    for (int p = 0; p < B; p++) {
        m = fmax(m, distance(&a, x[p].m, &b, y[p].m, k->moment, R * C, NULL));
        w = fmax(w, k->master ? distance(&a, x[p].master, &b, y[p].master, PC_F32, R * C, NULL)
                              : distance(&a, x[p].w, &b, y[p].w, k->w, R * C, NULL));
    }
    pc_tensor wide = X;
    if (real == PC_BF16) {
        wide = pc_alloc3(&a.arena, PC_F32, B, R, C);
        a.ctx.ops->copy_forward(&a.ctx, wide, X);
    }
    const double turned = distance(&a, wide.data, &b, Y.data, PC_F32, B * R * C, NULL);
    snprintf(how, sizeof how, "%lld x %lld in %s, %s", (long long)R, (long long)C,
             pc_dtype_name(real), kind_name(k, random));
    // In bf16 the quintic, which is steep near 0, spreads what rounding does to small singular values.
    expect(turned < (real == PC_F32 ? 2e-5 : 4e-2), "orthogonal", how,
           turned); // seen 1.4e-6, 2.4e-2
    expect(same, "orthogonal, told and replayed", how, 0.0);
    expect(m < (k->moment == PC_F32 ? 1e-6 : 2e-4), "muon's momentum", how, m);
    expect(w < (real == PC_F32 && k->w == PC_F32 ? 1e-6 : 5e-3), "muon's weights", how, w);
    pc_arena_close(&a.arena);
    pc_arena_close(&b.arena);
}

// ---- whole steps -----------------------------------------------------------------------------------

enum { LISTED = 7 };
static const int64_t dims[LISTED][2] = {{37, 96},  {96, 37},  {64, 64}, {64, 64},
                                        {160, 64}, {700, 48}, {1, 1}};
static const int64_t fused[3] = {64, 64, 32};

// How a model is kept: in f32; in bf16 with f32 originals and moments; in bf16 alone.
typedef enum keeping { WIDE, MASTERS, NARROW } keeping;

typedef struct model {
    pc_weight w[LISTED];
    pc_params params;
    pc_arena weights, grads;
    optimizer opt;
    const pc_backend *backend;
} model;

// From f32 on the host into a tensor of either type; f32 originals of bf16 begin as what bf16 holds.
static void put(const model *m, pc_tensor to, const float *from)
{
    const int64_t n = pc_numel(to);
    const bool narrow = m->w[0].w.dtype == PC_BF16;
    unsigned char *space = calloc((size_t)n, 4);
    if (!space) exit(1);
    for (int64_t k = 0; k < n; k++) {
        const uint16_t half = pc_f32_to_bf16(from[k]);
        if (to.dtype == PC_BF16)
            ((uint16_t *)space)[k] = half;
        else
            ((float *)space)[k] = narrow && to.rank >= 2 ? pc_bf16_to_f32(half) : from[k];
    }
    const size_t bytes = (size_t)n * pc_dtype_size(to.dtype);
    if (m->backend->memory)
        m->backend->memory->copy(to.data, space, bytes), m->backend->memory->wait();
    else
        memcpy(to.data, space, bytes);
    free(space);
}

static void open_model(model *m, const pc_backend *b, bool with_muon, keeping how)
{
    const pc_dtype real = how == WIDE ? PC_F32 : PC_BF16;
    *m = (model){.backend = b};
    pc_arena host;
    for (int i = 0; i < LISTED; i++) {
        char name[32];
        snprintf(name, sizeof name, "m%d", i);
        pc_param_add(&m->params, &m->w[i], i == LISTED - 1 ? "logit_scale" : name, PC_INIT_NORMAL,
                     0.3, i == LISTED - 1 ? 1 : 2, dims[i]);
        pc_param_hidden(&m->params, &m->w[i], i < 5);
    }
    pc_param_fused(&m->params, &m->w[4], 3, fused);
    pc_params_find(&m->params, "m1")->lr_scale = 0.5;
    const size_t bytes = pc_params_bytes(&m->params, PC_F32, false);
    must(pc_arena_open(&host, "host", bytes));
    pc_params_bind_weights(&m->params, &host, PC_F32);
    pc_params_init(&m->params, 3);
    must(pc_arena_open_in(&m->weights, "w", b->memory, bytes, 0));
    must(pc_arena_open_in(&m->grads, "g", b->memory, bytes, 0));
    const float *from[LISTED];
    for (int i = 0; i < LISTED; i++) from[i] = m->w[i].w.data;
    pc_params_bind_weights(&m->params, &m->weights, real);
    pc_params_bind_grads(&m->params, &m->grads, real);
    for (int i = 0; i < LISTED; i++) put(m, m->w[i].w, from[i]);
    const optimizer_config c = {.beta1 = 0.9,
                                .beta2 = 0.95,
                                .eps = 1e-8,
                                .weight_decay = 0.05,
                                .clip = 1.0,
                                .muon = with_muon,
                                .stochastic = how == NARROW,
                                .seed = 4,
                                .real = real,
                                .moments = how == NARROW ? PC_BF16 : PC_F32,
                                .master = how == MASTERS,
                                .backend = b};
    must(optimizer_open(&m->opt, &m->params, &c, NULL));
    for (int i = 0; i < LISTED && how == MASTERS && !b->memory; i++)
        if (pc_present(m->params.list[i].master)) put(m, m->params.list[i].master, from[i]);
    pc_arena_close(&host);
}

static void draw_grads(model *m, int step, float bad)
{
    for (int i = 0; i < LISTED; i++) {
        const pc_rng_key key = {.seed = 9,
                                .stream = PC_STREAM_TEST,
                                .step = (uint64_t)(10 * step + i)};
        const int64_t n = pc_numel(m->w[i].g);
        float *g = malloc((size_t)n * 4);
        if (!g) exit(1);
        for (int64_t k = 0; k < n; k++) g[k] = (float)pc_rng_normal(&key, (uint64_t)k);
        if (i == 5) g[n - 1] += bad;
        put(m, m->w[i].g, g);
        free(g);
    }
}

// What changes, as numbers.
static void weights_of(const model *m, int i, double *to)
{
    const pc_param *p = &m->params.list[i];
    const pc_tensor x = pc_present(p->master) ? p->master : p->weight->w;
    const size_t n = (size_t)pc_numel(x), bytes = n * pc_dtype_size(x.dtype);
    unsigned char *space = malloc(bytes);
    if (!space) exit(1);
    if (m->backend->memory)
        m->backend->memory->copy(space, x.data, bytes), m->backend->memory->wait();
    else
        memcpy(space, x.data, bytes);
    for (size_t k = 0; k < n; k++) to[k] = number(space, x.dtype, (int64_t)k);
    free(space);
}

static double models_apart(const model *a, const model *b)
{
    static double x[40000], y[40000];
    double worst = 0.0;
    for (int i = 0; i < LISTED; i++) {
        double top = 0.0, low = 0.0;
        weights_of(a, i, x);
        weights_of(b, i, y);
        for (int64_t k = 0; k < pc_numel(a->w[i].w); k++) {
            top += (x[k] - y[k]) * (x[k] - y[k]);
            low += y[k] * y[k];
        }
        worst = fmax(worst, sqrt(top / low));
    }
    return worst;
}

static void whole(bool with_muon, keeping kept)
{
    static const char *const ways[] = {"in f32", "with f32 originals", "in bf16 alone"};
    // Muon's products are made in bf16 with bf16 matrices, on the GPU; numbers in bf16 alone fall to either side.
    const double limit = kept == NARROW ? 5e-3 : !with_muon ? 1e-6 : kept == MASTERS ? 5e-3 : 3e-5;
    static model m[3];
    char how[64];
    double norms = 0.0;
    snprintf(how, sizeof how, "%s %s", with_muon ? "muon" : "adamw", ways[kept]);
    open_model(&m[0], &gpu, with_muon, kept);
    open_model(&m[1], &cpu, with_muon, kept);
    open_model(&m[2], &gpu, with_muon, kept);
    for (int s = 0; s < 8; s++) {
        for (int k = 0; k < 3; k++) {
            draw_grads(&m[k], s, 0.0f);
            optimizer_launch(&m[k].opt, 0.02);
        }
        if (s == 0) continue; // a step late
        const double a = optimizer_found(&m[0].opt, 1).norm, b = optimizer_found(&m[1].opt, 1).norm;
        norms = fmax(norms, fabs(a / b - 1.0));
    }
    expect(norms < 1e-12, "norms, a step late", how, norms);
    const double apart = models_apart(&m[0], &m[1]);
    expect(apart < limit, "eight steps on both", how, apart);
    expect(models_apart(&m[0], &m[2]) == 0.0, "twice the same bits", how, 0.0);

    // Not finite, and then finite again: nothing moves.
    draw_grads(&m[0], 8, NAN);
    optimizer_launch(&m[0].opt, 0.02);
    draw_grads(&m[0], 9, 0.0f);
    optimizer_launch(&m[0].opt, 0.02);
    expect(isnan(optimizer_found(&m[0].opt, 1).norm) &&
               isfinite(optimizer_found(&m[0].opt, 0).norm),
           "a gradient that is no number", how, 0.0);
    expect(models_apart(&m[0], &m[2]) == 0.0, "moves no weight, then and later", how, 0.0);

    // In two, as traces are replayed.
    for (int k = 1; k < 3; k++) {
        draw_grads(&m[k], 8, 0.0f);
        optimizer_step(&m[k].opt, 0.02, optimizer_norm(&m[k].opt));
    }
    const double two = models_apart(&m[2], &m[1]);
    expect(two < limit, "norm and step apart", how, two);
    for (int k = 0; k < 3; k++) {
        optimizer_close(&m[k].opt);
        pc_params_close(&m[k].params);
        pc_arena_close(&m[k].weights);
        pc_arena_close(&m[k].grads);
    }
}

int main(void)
{
    if (pc_backend_choose(&gpu, "cuda")) {
        const char *need = getenv("PERCEPT_NEED_GPU");
        printf("%s: %s\n", need ? "FAILED" : "skipped", pc_error_text());
        return need != NULL;
    }
    must(pc_backend_choose(&cpu, "cpu"));
    printf("%s\n", gpu.device);
    for (int i = 0; i < 12; i++) {
        const kind k = {.w = i / 4 ? PC_BF16 : PC_F32,
                        .master = i / 4 == 1,
                        .moment = i & 1 ? PC_BF16 : PC_F32,
                        .g = i & 2 ? PC_BF16 : PC_F32};
        pieces(&k, false);
        pieces(&k, true);
    }
    not_finite();
    small_things();
    static const kind plain = {PC_F32, PC_F32, PC_F32, false},
                      half = {PC_BF16, PC_BF16, PC_BF16, false},
                      kept = {PC_BF16, PC_F32, PC_BF16, true};
    static const int64_t shapes[][2] = {{1, 7}, {96, 96}, {33, 200}, {200, 33}, {257, 130}};
    for (int i = 0; i < 5; i++) {
        matrices(shapes[i][0], shapes[i][1], PC_F32, &plain, false);
        matrices(shapes[i][0], shapes[i][1], PC_BF16, &kept, true);
        matrices(shapes[i][0], shapes[i][1], PC_BF16, &half, true);
    }
    for (int way = WIDE; way <= NARROW; way++) {
        whole(false, (keeping)way);
        whole(true, (keeping)way);
    }
    printf("%d failed\n", failed);
    return failed > 0;
}

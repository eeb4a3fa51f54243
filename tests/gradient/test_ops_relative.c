/*
 * test_ops_relative.c - attention with relative positions in two directions, and resized feature maps:
 * derivatives, precision, mutations; and the forward of both against their definitions.
 *
 * Seen: derivatives 2.5e-10; float against double 1.2e-6.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/layers/mask.h"
#include "tests/support/opcheck.h"

typedef struct relative_state {
    op_var q, k, v, rh, rw, th, tw;
    pc_tensor dout, dh, dw, add; // weights of the results; a gradient that arrives by another way
    pc_mask mask;
    double scale;
    int64_t a, b;
    bool plain; // rel_terms without `add`
} relative_state;

// arg: grids, lines, columns, H, G, D
static void *attention_setup(opcheck *o, const int64_t *arg)
{
    const int64_t S = arg[0], a = arg[1], b = arg[2], H = arg[3], G = arg[4], D = arg[5];
    const int64_t N = S * a * b;
    relative_state *s = op_state(o, sizeof *s);
    s->a = a;
    s->b = b;
    s->scale = 1.0 / sqrt((double)D);
    pc_mask_full(&s->mask, &o->g.hold, S, a * b, a * b, 0);
    s->q = op_input(o, "q", 1.0, 5, PC_DIMS(N, H, D));
    s->k = op_input(o, "k", 1.0, 4, PC_DIMS(N, G, D));
    s->v = op_input(o, "v", 1.0, 3, PC_DIMS(N, G, D));
    s->rh = op_input(o, "rh", 1.0, 2, PC_DIMS(N, H, a));
    s->rw = op_input(o, "rw", 1.0, 1, PC_DIMS(N, H, b));
    s->dout = op_const(o, 1.0, 1, PC_DIMS(N, H, D));
    return s;
}

static double attention_run(pc_ctx *ctx, void *arg, bool backward)
{
    const relative_state *s = arg;
    const int64_t N = s->dout.dim[0], H = s->dout.dim[1];
    const pc_tensor o = op_alloc(ctx, 2, PC_DIMS(N, H, s->dout.dim[2]));
    const pc_tensor lse = op_alloc(ctx, 0, PC_DIMS(N, H));
    ctx->ops->rel_attention_forward(ctx, o, lse, s->q.x, s->k.x, s->v.x, s->rh.x, s->rw.x, &s->mask,
                                    s->scale);
    if (backward)
        ctx->grad_ops->rel_attention_backward(ctx, s->q.g, s->k.g, s->v.g, s->rh.g, s->rw.g,
                                              s->dout, s->q.x, s->k.x, s->v.x, s->rh.x, s->rw.x, o,
                                              lse, &s->mask, s->scale);
    return op_dot(o, s->dout);
}

// arg: grids, lines, columns, H, D, without `add`
static void *terms_setup(opcheck *o, const int64_t *arg)
{
    const int64_t a = arg[1], b = arg[2], H = arg[3], D = arg[4], N = arg[0] * a * b;
    relative_state *s = op_state(o, sizeof *s);
    s->plain = arg[5] != 0;
    s->q = op_input(o, "q", 1.0, 3, PC_DIMS(N, H, D));
    s->th = op_param(o, "th", 0.0, 1.0, PC_DIMS(2 * a - 1, D));
    s->tw = op_param(o, "tw", 0.0, 1.0, PC_DIMS(2 * b - 1, D));
    s->dh = op_const(o, 1.0, 2, PC_DIMS(N, H, a));
    s->dw = op_const(o, 1.0, 1, PC_DIMS(N, H, b));
    s->add = op_const(o, 1.0, 4, PC_DIMS(N, H, D));
    return s;
}

static double terms_run(pc_ctx *ctx, void *arg, bool backward)
{
    const relative_state *s = arg;
    const pc_tensor rh = op_alloc(ctx, 3, PC_DIMS(s->dh.dim[0], s->dh.dim[1], s->dh.dim[2]));
    const pc_tensor rw = op_alloc(ctx, 2, PC_DIMS(s->dw.dim[0], s->dw.dim[1], s->dw.dim[2]));
    ctx->ops->rel_terms_forward(ctx, rh, rw, s->q.x, s->th.x, s->tw.x);
    if (backward)
        ctx->grad_ops->rel_terms_backward(ctx, s->q.g, s->th.g, s->tw.g, s->dh, s->dw, s->q.x,
                                          s->th.x, s->tw.x, s->plain ? PC_NONE : s->add);
    return op_dot(rh, s->dh) + op_dot(rw, s->dw) + (s->plain ? 0.0 : op_dot(s->q.x, s->add));
}

// The gradient arrives in the buffer that it is added to.
static double terms_in_place_run(pc_ctx *ctx, void *arg, bool backward)
{
    const relative_state *s = arg;
    relative_state in_place = *s;
    if (backward)
        for (int64_t i = 0; i < pc_numel(s->add); i++) op_set(s->q.g, i, op_get(s->add, i));
    in_place.add = s->q.g;
    terms_run(ctx, backward ? &in_place : arg, backward);
    return terms_run(ctx, arg, false);
}

typedef struct map_state {
    op_var x;
    pc_tensor dy;
    int64_t size[4]; // h2, w2, h1, w1
} map_state;

// arg: maps, channels, h2, w2, h1, w1
static void *map_setup(opcheck *o, const int64_t *arg)
{
    map_state *s = op_state(o, sizeof *s);
    for (int i = 0; i < 4; i++) s->size[i] = arg[2 + i];
    s->x = op_input(o, "x", 1.0, 3, PC_DIMS(arg[0] * arg[4] * arg[5], arg[1]));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(arg[0] * arg[2] * arg[3], arg[1]));
    return s;
}

static double map_run(pc_ctx *ctx, void *arg, bool backward)
{
    const map_state *s = arg;
    const int64_t *z = s->size;
    const pc_tensor y = op_alloc(ctx, 2, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    ctx->ops->resize_map_forward(ctx, y, s->x.x, z[0], z[1], z[2], z[3]);
    if (backward) ctx->grad_ops->resize_map_backward(ctx, s->x.g, s->dy, z[0], z[1], z[2], z[3]);
    return op_dot(y, s->dy);
}

// clang-format off
static const op_case cases[] = {
    // op, label, set-up, run, tolerance of the derivative and of float
    {"rel_attention", "two grids", attention_setup, attention_run, 1e-7, 2e-6, {2, 2, 3, 2, 2, 3}},
    {"rel_attention", "grouped heads, tall grids", attention_setup, attention_run, 1e-7, 2e-6, {2, 5, 2, 4, 2, 2}},
    {"rel_attention", "wide grids", attention_setup, attention_run, 1e-7, 2e-6, {2, 2, 6, 1, 1, 4}},
    {"rel_attention", "several tiles", attention_setup, attention_run, 1e-7, 2e-6, {1, 7, 11, 1, 1, 1}},
    {"rel_attention", "windows of 14", attention_setup, attention_run, 0, 4e-6, {3, 14, 14, 3, 3, 64}},
    {"rel_attention", "a large grid", attention_setup, attention_run, 0, 4e-6, {1, 31, 37, 2, 2, 32}},
    {"rel_attention", "lines of 3, width 16", attention_setup, attention_run, 0, 4e-6, {2, 50, 3, 2, 1, 16}},
    {"rel_attention", "width no vector", attention_setup, attention_run, 0, 4e-6, {2, 9, 13, 2, 2, 12}},
    {"rel_terms", "two grids", terms_setup, terms_run, 1e-7, 2e-6, {2, 2, 3, 2, 3}},
    {"rel_terms", "nothing added", terms_setup, terms_run, 1e-7, 2e-6, {1, 4, 2, 1, 2, 1}},
    {"rel_terms", "added in place", terms_setup, terms_in_place_run, 1e-7, 2e-6, {2, 3, 2, 2, 2}},
    {"rel_terms", "one place", terms_setup, terms_run, 1e-7, 2e-6, {3, 1, 1, 2, 2}},
    {"rel_terms", "windows of 14", terms_setup, terms_run, 0, 4e-6, {4, 14, 14, 3, 64}},
    {"rel_terms", "a large grid", terms_setup, terms_run, 0, 4e-6, {1, 31, 37, 2, 32}},
    {"resize_map", "enlarged", map_setup, map_run, 1e-7, 1e-6, {2, 3, 6, 5, 4, 3}},
    {"resize_map", "reduced", map_setup, map_run, 1e-7, 1e-6, {1, 2, 2, 3, 7, 5}},
    {"resize_map", "from one place", map_setup, map_run, 1e-7, 1e-6, {2, 2, 3, 2, 1, 1}},
    {"resize_map", "the same size", map_setup, map_run, 1e-7, 1e-6, {2, 2, 3, 4, 3, 4}},
    {"resize_map", "as in the hybrid tower", map_setup, map_run, 0, 1e-6, {2, 40, 48, 48, 32, 32}},
};
// clang-format on

// Query n, head h by the definition. True when o and lse agree.
static bool row_agrees(const relative_state *s, pc_tensor o, pc_tensor lse, int64_t n, int64_t h)
{
    const int64_t H = o.dim[1], D = o.dim[2], G = s->k.x.dim[1], grid = s->a * s->b;
    const int64_t g = h * G / H, first = n / grid * grid;
    double sum = 0.0, out[64] = {0};
    for (int64_t j = 0; j < grid; j++) {
        double score = 0.0;
        for (int64_t d = 0; d < D; d++)
            score +=
                op_get(s->q.x, (n * H + h) * D + d) * op_get(s->k.x, ((first + j) * G + g) * D + d);
        score = score * s->scale + op_get(s->rh.x, (n * H + h) * s->a + j / s->b) +
                op_get(s->rw.x, (n * H + h) * s->b + j % s->b);
        const double e = exp(score);
        sum += e;
        for (int64_t d = 0; d < D; d++) out[d] += e * op_get(s->v.x, ((first + j) * G + g) * D + d);
    }
    bool ok = fabs(op_get(lse, n * H + h) - log(sum)) <= 1e-12 * (1.0 + fabs(log(sum)));
    for (int64_t d = 0; d < D; d++)
        ok = ok && fabs(op_get(o, (n * H + h) * D + d) - out[d] / sum) <= 1e-12; // seen 3e-15
    return ok;
}

static int attention_definition(const op_case *c)
{
    opcheck o = {.real = PC_F64};
    gradcheck_open(&o.g, c->label, 3, 2);
    const relative_state *s = c->setup(&o, c->arg);
    const int64_t N = s->dout.dim[0], H = s->dout.dim[1];
    const pc_tensor out = op_alloc(&o.g.ctx, 2, PC_DIMS(N, H, s->dout.dim[2]));
    const pc_tensor lse = op_alloc(&o.g.ctx, 0, PC_DIMS(N, H));
    o.g.ctx.ops->rel_attention_forward(&o.g.ctx, out, lse, s->q.x, s->k.x, s->v.x, s->rh.x, s->rw.x,
                                       &s->mask, s->scale);
    int64_t wrong = 0;
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H; h++) wrong += !row_agrees(s, out, lse, n, h);
    printf("%s rel_attention, %s: %lld of %lld rows differ from the definition\n",
           wrong ? "FAILED" : "ok    ", c->label, (long long)wrong, (long long)(N * H));
    gradcheck_close(&o.g);
    return wrong > 0;
}

// rh[n,h,y] = sum_d q[n,h,d] th[Y - y + a-1, d], taken one by one; rw likewise.
static int terms_definition(const op_case *c)
{
    const int64_t a = c->arg[1], b = c->arg[2], H = c->arg[3], D = c->arg[4];
    opcheck o = {.real = PC_F64};
    gradcheck_open(&o.g, c->label, 3, 2);
    const relative_state *s = c->setup(&o, c->arg);
    const int64_t N = s->q.x.dim[0];
    const pc_tensor rh = op_alloc(&o.g.ctx, 1, PC_DIMS(N, H, a));
    const pc_tensor rw = op_alloc(&o.g.ctx, 2, PC_DIMS(N, H, b));
    o.g.ctx.ops->rel_terms_forward(&o.g.ctx, rh, rw, s->q.x, s->th.x, s->tw.x);
    int64_t wrong = 0;
    for (int64_t i = 0; i < N * H * (a + b); i++) {
        const int64_t row = i / (a + b), n = row / H, at = i % (a + b);
        const int64_t Y = n / b % a, X = n % b;
        const bool high = at < a;
        const int64_t r = high ? Y - at + a - 1 : X - (at - a) + b - 1;
        double want = 0.0;
        for (int64_t d = 0; d < D; d++)
            want += op_get(s->q.x, row * D + d) * op_get(high ? s->th.x : s->tw.x, r * D + d);
        const double seen = high ? op_get(rh, row * a + at) : op_get(rw, row * b + at - a);
        wrong += !(fabs(seen - want) <= 1e-12 * (1.0 + fabs(want)));
    }
    printf("%s rel_terms, %s: %lld values differ from the definition\n",
           wrong ? "FAILED" : "ok    ", c->label, (long long)wrong);
    gradcheck_close(&o.g);
    return wrong > 0;
}

#define ATTENTION_ARGS                                                                             \
    pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor drh, pc_tensor drw,           \
        pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor rh, pc_tensor rw,         \
        pc_tensor o, pc_tensor lse, const pc_mask *mask, double scale

static void attention_scaled_terms(ATTENTION_ARGS)
{
    opcheck_sound()->rel_attention_backward(ctx, dq, dk, dv, drh, drw, dout, q, k, v, rh, rw, o,
                                            lse, mask, scale);
    op_scale(drh, scale);
    op_scale(drw, scale);
}
static void attention_without_terms(ATTENTION_ARGS)
{
    opcheck_sound()->rel_attention_backward(ctx, dq, dk, dv, drh, drw, dout, q, k, v, rh, rw, o,
                                            lse, mask, scale);
    opcheck_sound()->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, mask, scale);
}
static void attention_columns_for_lines(ATTENTION_ARGS)
{
    opcheck_sound()->rel_attention_backward(ctx, dq, dk, dv, drh, drw, dout, q, k, v, rh, rw, o,
                                            lse, mask, scale);
    op_scale(drw, 0.0);
}

static void terms_no_add(pc_ctx *ctx, pc_tensor dq, pc_tensor dth, pc_tensor dtw, pc_tensor drh,
                         pc_tensor drw, pc_tensor q, pc_tensor th, pc_tensor tw, pc_tensor add)
{
    (void)add;
    opcheck_sound()->rel_terms_backward(ctx, dq, dth, dtw, drh, drw, q, th, tw, PC_NONE);
}
static void terms_other_way(pc_ctx *ctx, pc_tensor dq, pc_tensor dth, pc_tensor dtw, pc_tensor drh,
                            pc_tensor drw, pc_tensor q, pc_tensor th, pc_tensor tw, pc_tensor add)
{
    // The tables' gradients from the wrong end.
    opcheck_sound()->rel_terms_backward(ctx, dq, dth, dtw, drh, drw, q, th, tw, add);
    for (int64_t r = 0; r < dth.dim[0] / 2; r++) {
        const int64_t D = dth.dim[1], other = dth.dim[0] - 1 - r;
        for (int64_t d = 0; d < D; d++) {
            const double kept = op_get(dth, r * D + d);
            op_set(dth, r * D + d, op_get(dth, other * D + d));
            op_set(dth, other * D + d, kept);
        }
    }
}
static void terms_overwrites(pc_ctx *ctx, pc_tensor dq, pc_tensor dth, pc_tensor dtw, pc_tensor drh,
                             pc_tensor drw, pc_tensor q, pc_tensor th, pc_tensor tw, pc_tensor add)
{
    op_scale(dtw, 0.0);
    opcheck_sound()->rel_terms_backward(ctx, dq, dth, dtw, drh, drw, q, th, tw, add);
}

static void map_accumulates(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2,
                            int64_t h1, int64_t w1)
{
    const pc_tensor other = op_alloc(ctx, 0, PC_DIMS(dx.dim[0], dx.dim[1]));
    opcheck_sound()->resize_map_backward(ctx, other, dy, h2, w2, h1, w1);
    for (int64_t i = 0; i < pc_numel(dx); i++) op_set(dx, i, op_get(dx, i) + op_get(other, i));
}
static void map_nearest(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2, int64_t h1,
                        int64_t w1)
{
    (void)ctx;
    op_scale(dx, 0.0);
    for (int64_t i = 0; i < pc_numel(dx); i++) op_set(dx, i, 0.0);
    const int64_t C = dx.dim[1];
    for (int64_t n = 0; n < dy.dim[0]; n++) {
        const int64_t map = n / (h2 * w2), y = n / w2 % h2 * h1 / h2, x = n % w2 * w1 / w2;
        for (int64_t c = 0; c < C; c++) {
            const int64_t to = ((map * h1 + y) * w1 + x) * C + c;
            op_set(dx, to, op_get(dx, to) + op_get(dy, n * C + c));
        }
    }
}

OP_INSTALL(rel_attention_backward, attention_scaled_terms)
OP_INSTALL(rel_attention_backward, attention_without_terms)
OP_INSTALL(rel_attention_backward, attention_columns_for_lines)
OP_INSTALL(rel_terms_backward, terms_no_add)
OP_INSTALL(rel_terms_backward, terms_other_way)
OP_INSTALL(rel_terms_backward, terms_overwrites)
OP_INSTALL(resize_map_backward, map_accumulates)
OP_INSTALL(resize_map_backward, map_nearest)

static const op_mutation mutations[] = {
    {"rel_attention", "terms' gradients scaled", install_attention_scaled_terms},
    {"rel_attention", "scores without terms", install_attention_without_terms},
    {"rel_attention", "columns forgotten", install_attention_columns_for_lines},
    {"rel_terms", "what else arrives forgotten", install_terms_no_add},
    {"rel_terms", "table turned around", install_terms_other_way},
    {"rel_terms", "table's gradient overwritten", install_terms_overwrites},
    {"resize_map", "dx accumulated", install_map_accumulates},
    {"resize_map", "nearest in place of bilinear", install_map_nearest},
};

int main(void)
{
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].setup == attention_setup) failed += attention_definition(&cases[i]);
        if (cases[i].setup == terms_setup) failed += terms_definition(&cases[i]);
    }
    const int rest = opcheck_main(cases, sizeof cases / sizeof *cases, mutations,
                                  sizeof mutations / sizeof *mutations);
    return failed ? EXIT_FAILURE : rest;
}

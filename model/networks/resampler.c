/*
 * resampler.c - cross-attention from learned queries, forward and backward.
 */
#include "model/networks/resampler.h"

#include <math.h>

#include "model/layers/mask.h"
#include "model/layers/taps.h"

/* The side of a square grid of n places; 0 when n is no square. */
static int64_t side_of(int64_t n)
{
    int64_t side = (int64_t)llround(sqrt((double)(n > 0 ? n : 0)));
    return side * side == n ? side : 0;
}

void pc_resampler_params(pc_params *p, pc_resampler *l, const pc_resampler_config *c)
{
    *l = (pc_resampler){.config = *c};
    const int64_t C = c->C;
    const double std = 1.0 / sqrt((double)C);
    const size_t prefix = pc_params_push(p, "projector");
    pc_linear_params(p, &l->kv, "kv", c->I, C, false, sqrt(2.0 / (double)(c->I + C)));
    pc_norm_params(p, &l->norm_kv, "norm_kv", PC_LAYERNORM, C, c->eps);
    pc_param_add(p, &l->query, "query", PC_INIT_NORMAL, 0.02, PC_DIMS(c->Q, C));
    pc_norm_params(p, &l->norm_q, "norm_q", PC_LAYERNORM, C, c->eps);
    pc_param_add(p, &l->places, "places", PC_INIT_PLACES, 1.0, PC_DIMS(c->Q, C));
    pc_param_fixed(p, &l->places);
    const size_t inner = pc_params_push(p, "attn");
    pc_linear_params(p, &l->q, "q", C, C, true, std);
    pc_linear_params(p, &l->k, "k", C, C, true, std);
    pc_linear_params(p, &l->v, "v", C, C, true, std);
    pc_linear_params(p, &l->o, "out", C, C, true, std);
    pc_params_pop(p, inner);
    pc_norm_params(p, &l->norm_post, "norm_post", PC_LAYERNORM, C, c->eps);
    pc_param_add(p, &l->proj, "proj", PC_INIT_NORMAL, std, PC_DIMS(C, C));
    pc_param_hidden(p, &l->proj, true);
    pc_params_pop(p, prefix);
    for (int i = 0; i < p->count; i++) // a table is no matrix: it is not decayed
        if (p->list[i].weight == &l->query) p->list[i].decay = false;
}

pc_status pc_resampler_validate(const pc_resampler_config *c, int64_t rows)
{
    if (c->Q < 1 || !side_of(c->Q))
        return pc_fail(PC_ERR_INPUT, "projector.queries: %lld is not the square of a whole number",
                       (long long)c->Q);
    if (rows < 1 || !side_of(rows))
        return pc_fail(PC_ERR_INPUT,
                       "an image gives %lld rows; the resampler needs the square of a whole number",
                       (long long)rows);
    if (c->H < 1 || c->C % c->H)
        return pc_fail(PC_ERR_INPUT, "projector.heads: %lld heads do not divide a width of %lld",
                       (long long)c->H, (long long)c->C);
    if (c->C % 4)
        return pc_fail(PC_ERR_INPUT,
                       "projector.out: %lld; sines and cosines of two directions need a multiple "
                       "of 4",
                       (long long)c->C);
    return PC_OK;
}

/* i32 (B n): 0 .. n-1, B times. */
static pc_tensor counted(pc_arena *a, int64_t B, int64_t n)
{
    const pc_tensor index = pc_alloc1(a, PC_I32, B * n);
    for (int64_t i = 0; i < B * n && !a->dry; i++) pc_i32(index)[i] = (int32_t)(i % n);
    return index;
}

/* The places of P rows: the table, resized unless the grids are the same. */
static pc_tensor places_for(pc_ctx *ctx, const pc_resampler *l, int64_t P)
{
    const int64_t to = side_of(P), from = side_of(l->config.Q);
    if (to == from) return l->places.w;
    const pc_tensor out = pc_alloc2(ctx->act, ctx->real, P, l->config.C);
    ctx->ops->resize_grid_forward(ctx, out, l->places.w, to, to, from, from);
    return out;
}

/* The learned queries, the same for every image: normed, placed, projected. */
static void queries_forward(pc_ctx *ctx, pc_resampler_kept *kept, const pc_resampler *l, int64_t B)
{
    const int64_t Q = l->config.Q, C = l->config.C;
    kept->normed = pc_alloc2(ctx->act, ctx->real, Q, C);
    kept->placed = pc_alloc2(ctx->act, ctx->real, Q, C);
    kept->q1 = pc_alloc2(ctx->act, ctx->real, Q, C);
    kept->q = pc_alloc2(ctx->act, ctx->real, B * Q, C);
    kept->query_index = counted(ctx->act, B, Q);
    pc_norm_forward(ctx, kept->normed, &kept->norm_q, &l->norm_q, l->query.w);
    ctx->ops->add_forward(ctx, kept->placed, kept->normed, l->places.w);
    pc_linear_forward(ctx, kept->q1, &l->q, kept->placed, PC_NONE);
    ctx->ops->gather_forward(ctx, kept->q, kept->q1, kept->query_index);
}

static void keys_forward(pc_ctx *ctx, pc_resampler_kept *kept, const pc_resampler *l, int64_t B)
{
    const int64_t P = kept->P, C = l->config.C, N = B * P;
    kept->raw = pc_alloc2(ctx->act, ctx->real, N, C);
    kept->kv = pc_alloc2(ctx->act, ctx->real, N, C);
    kept->keyed = pc_alloc2(ctx->act, ctx->real, N, C);
    kept->k = pc_alloc2(ctx->act, ctx->real, N, C);
    kept->v = pc_alloc2(ctx->act, ctx->real, N, C);
    pc_linear_forward(ctx, kept->raw, &l->kv, kept->x, PC_NONE);
    pc_norm_forward(ctx, kept->kv, &kept->norm_kv, &l->norm_kv, kept->raw);
    ctx->ops->add_rows_forward(ctx, kept->keyed, kept->kv, places_for(ctx, l, P),
                               counted(ctx->act, B, P));
    pc_linear_forward(ctx, kept->k, &l->k, kept->keyed, PC_NONE);
    pc_linear_forward(ctx, kept->v, &l->v, kept->kv, PC_NONE);
}

/* P as planes of one pixel line each: unfolded, they are P transposed. */
static pc_conv turn(int64_t C)
{
    return (
        pc_conv){.B = 1, .C = C, .H = 1, .W = C, .kernel = 1, .step = 1, .out_h = 1, .out_w = C};
}

static pc_tensor as_planes(pc_tensor x)
{
    return pc_view4(x.data, x.dtype, 1, x.dim[0], 1, x.dim[1]);
}

static pc_linear turned_linear(pc_tensor w, pc_tensor g)
{
    return (pc_linear){.weight = {.w = w, .g = g}, .I = w.dim[1], .O = w.dim[0]};
}

static double scale_of(const pc_resampler *l)
{
    return 1.0 / sqrt((double)(l->config.C / l->config.H));
}

pc_tensor pc_resampler_forward(pc_ctx *ctx, pc_resampler_kept *kept, const pc_resampler *l,
                               pc_tensor x, int64_t P)
{
    const pc_resampler_config *c = &l->config;
    const int64_t B = x.dim[0] / P, D = c->C / c->H, M = B * c->Q;
    PC_ASSERT(x.dim[0] == B * P && side_of(P), "%lld rows, %lld an image", (long long)x.dim[0],
              (long long)P);
    *kept = (pc_resampler_kept){.P = P, .x = x};
    const pc_tensor y = pc_alloc2(ctx->act, ctx->real, M, c->C);
    queries_forward(ctx, kept, l, B);
    keys_forward(ctx, kept, l, B);
    pc_mask_full(&kept->mask, ctx->act, B, c->Q, P, 0);
    kept->o = pc_alloc2(ctx->act, ctx->real, M, c->C);
    kept->lse = pc_alloc2(ctx->act, pc_stat(ctx), M, c->H);
    kept->read = pc_alloc2(ctx->act, ctx->real, M, c->C);
    kept->post = pc_alloc2(ctx->act, ctx->real, M, c->C);
    ctx->ops->attention_forward(ctx, pc_as_heads(kept->o, D), kept->lse, pc_as_heads(kept->q, D),
                                pc_as_heads(kept->k, D), pc_as_heads(kept->v, D), &kept->mask,
                                scale_of(l));
    pc_linear_forward(ctx, kept->read, &l->o, kept->o, PC_NONE);
    pc_norm_forward(ctx, kept->post, &kept->norm_post, &l->norm_post, kept->read);
    const pc_conv conv = turn(c->C);
    kept->turned = pc_alloc2(ctx->act, ctx->real, c->C, c->C);
    ctx->ops->im2col_forward(ctx, kept->turned, as_planes(l->proj.w), &conv);
    const pc_linear out = turned_linear(kept->turned, PC_NONE);
    pc_linear_forward(ctx, y, &out, kept->post, PC_NONE);
    pc_tap_add(ctx, y, "projector.out");
    return y;
}

/* Whether anything that the projected queries (the keys and values) depend on has a gradient. */
static bool queries_train(const pc_resampler *l)
{
    return pc_linear_trains(&l->q) || pc_norm_trains(&l->norm_q) || pc_present(l->query.g);
}

static bool keys_train(const pc_resampler *l)
{
    return pc_linear_trains(&l->k) || pc_linear_trains(&l->v) || pc_norm_trains(&l->norm_kv) ||
           pc_linear_trains(&l->kv);
}

bool pc_resampler_trains(const pc_resampler *l)
{
    return queries_train(l) || keys_train(l) || pc_linear_trains(&l->o) ||
           pc_norm_trains(&l->norm_post) || pc_present(l->proj.g);
}

/* dq (BQ,C): the sum over images goes through the projection and the norm into the learned rows. */
static void queries_backward(pc_ctx *ctx, pc_resampler *l, const pc_resampler_kept *kept,
                             pc_tensor dq)
{
    const pc_tensor d = pc_alloc_like(ctx->scratch, kept->q1);
    const pc_tensor dplaced = pc_alloc_like(ctx->scratch, kept->placed);
    const bool norm = pc_norm_trains(&l->norm_q) || pc_present(l->query.g);
    ctx->grad_ops->gather_backward(ctx, d, dq, kept->query_index);
    pc_linear_backward(ctx, norm ? dplaced : PC_NONE, &l->q, d, kept->placed);
    if (!norm) return;
    pc_norm_backward(ctx, d, &l->norm_q, &kept->norm_q, dplaced, l->query.w, PC_NONE);
    if (pc_present(l->query.g)) ctx->grad_ops->accumulate(ctx, l->query.g, d);
}

static void keys_backward(pc_ctx *ctx, pc_tensor dx, pc_resampler *l, const pc_resampler_kept *kept,
                          pc_tensor dk, pc_tensor dv)
{
    const bool below = pc_present(dx) || pc_linear_trains(&l->kv);
    const bool norm = below || pc_norm_trains(&l->norm_kv);
    const pc_tensor dkeyed = norm ? pc_alloc_like(ctx->scratch, kept->kv) : PC_NONE;
    const pc_tensor dkv = norm ? pc_alloc_like(ctx->scratch, kept->kv) : PC_NONE;
    pc_linear_backward(ctx, dkeyed, &l->k, dk, kept->keyed);
    pc_linear_backward(ctx, dkv, &l->v, dv, kept->kv);
    if (!norm) return;
    ctx->ops->add_forward(ctx, dkv, dkv, dkeyed);
    pc_norm_backward(ctx, dkv, &l->norm_kv, &kept->norm_kv, dkv, kept->raw, PC_NONE);
    if (below) pc_linear_backward(ctx, dx, &l->kv, dkv, kept->x);
}

/* d (BQ,C) = dy P^T; the gradient of P is turned back before it is added. */
static void proj_backward(pc_ctx *ctx, pc_tensor d, pc_resampler *l, const pc_resampler_kept *kept,
                          pc_tensor dy)
{
    const bool trains = pc_present(l->proj.g);
    const pc_conv conv = turn(l->config.C);
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor g = trains ? pc_alloc_like(ctx->scratch, kept->turned) : PC_NONE;
    pc_linear out = turned_linear(kept->turned, g);
    if (trains) ctx->ops->zero_forward(ctx, g);
    pc_linear_backward(ctx, d, &out, dy, kept->post);
    if (trains) {
        const pc_tensor back = pc_alloc_like(ctx->scratch, l->proj.g);
        ctx->grad_ops->im2col_backward(ctx, as_planes(back), g, &conv);
        ctx->grad_ops->accumulate(ctx, l->proj.g, back);
    }
    pc_arena_release(ctx->scratch, mark);
}

void pc_resampler_backward(pc_ctx *ctx, pc_tensor dx, pc_resampler *l,
                           const pc_resampler_kept *kept, pc_tensor dy)
{
    const int64_t D = l->config.C / l->config.H;
    const bool queries = queries_train(l), keys = pc_present(dx) || keys_train(l);
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor d = pc_alloc_like(ctx->scratch, kept->post);
    const pc_tensor dout = pc_alloc_like(ctx->scratch, kept->o);
    proj_backward(ctx, d, l, kept, dy);
    pc_norm_backward(ctx, d, &l->norm_post, &kept->norm_post, d, kept->read, PC_NONE);
    pc_linear_backward(ctx, queries || keys ? dout : PC_NONE, &l->o, d, kept->o);
    if (queries || keys) {
        const pc_tensor dq = pc_alloc_like(ctx->scratch, kept->q);
        const pc_tensor dk = pc_alloc_like(ctx->scratch, kept->k);
        const pc_tensor dv = pc_alloc_like(ctx->scratch, kept->v);
        ctx->grad_ops->attention_backward(ctx, pc_as_heads(dq, D), pc_as_heads(dk, D),
                                          pc_as_heads(dv, D), pc_as_heads(dout, D),
                                          pc_as_heads(kept->q, D), pc_as_heads(kept->k, D),
                                          pc_as_heads(kept->v, D), pc_as_heads(kept->o, D),
                                          kept->lse, &kept->mask, scale_of(l));
        if (queries) queries_backward(ctx, l, kept, dq);
        if (keys) keys_backward(ctx, dx, l, kept, dk, dv);
    }
    pc_arena_release(ctx->scratch, mark);
}

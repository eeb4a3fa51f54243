/*
 * text.c - the text tower. One row of a text is read: the last block makes that one alone, and norm_final, which
 * works row by row, sees no other. Where activations are asked for by name the blocks make all rows.
 */
#include "model/networks/text.h"

#include <math.h>

#include "model/layers/mask.h"
#include "model/layers/place.h"
#include "model/layers/taps.h"

void pc_text_params(pc_params *p, pc_text *l, const pc_text_config *c)
{
    *l = (pc_text){.config = *c};
    const double C = (double)c->C, L = (double)(c->L > 0 ? c->L : 1), narrow = 1.0 / sqrt(C);
    const pc_transformer_config blocks = {.L = c->L,
                                          .C = c->C,
                                          .H = c->H,
                                          .G = c->H,
                                          .D = c->C / c->H,
                                          .F = c->F,
                                          .norm = PC_LAYERNORM,
                                          .eps = c->eps,
                                          .act = c->act,
                                          .qkv_bias = true,
                                          .out_bias = true,
                                          .mlp_bias = true,
                                          .qk_norm = c->qk_norm,
                                          .std = narrow,
                                          .out_std = narrow / sqrt(2.0 * L),
                                          .fc_std = 1.0 / sqrt(2.0 * C),
                                          .recompute = c->recompute};
    const size_t prefix = pc_params_push(p, "text");
    pc_param_add(p, &l->tokens, "tokens", PC_INIT_NORMAL, 0.02, PC_DIMS(c->V, c->C));
    pc_param_table(p, &l->tokens);
    pc_param_add(p, &l->positions, "positions", PC_INIT_NORMAL, 0.01, PC_DIMS(c->T, c->C));
    if (p->count > 0) p->list[p->count - 1].decay = false;
    pc_transformer_params(p, &l->blocks, &blocks);
    pc_norm_params(p, &l->norm_final, "norm_final", PC_LAYERNORM, c->C, c->eps);
    pc_linear_params(p, &l->proj, "proj", c->C, c->E, c->proj_bias, narrow);
    pc_params_pop(p, prefix);
}

void pc_text_close(pc_text *l)
{
    pc_transformer_close(&l->blocks);
}

pc_status pc_text_validate(const pc_text_config *c)
{
    if (c->H < 1 || c->C % c->H)
        return pc_fail(PC_ERR_INPUT, "text.H: %lld heads do not divide text.C, %lld",
                       (long long)c->H, (long long)c->C);
    if (c->pool == PC_POOL_EOT && (c->eot_id < 0 || c->eot_id >= c->V))
        return pc_fail(PC_ERR_INPUT, "text.eot_id: %lld is no id of a vocabulary of %lld",
                       (long long)c->eot_id, (long long)c->V);
    if (c->pad_id >= c->V)
        return pc_fail(PC_ERR_INPUT, "text.pad_id: %lld is no id of a vocabulary of %lld",
                       (long long)c->pad_id, (long long)c->V);
    if (c->pad_to_context && c->pad_id < 0)
        return pc_fail(PC_ERR_INPUT, "text.pad_to_context: needs text.pad_id");
    return PC_OK;
}

/* Where a text of length T is read: counted from its first row. */
static int64_t pooled_place(const pc_text_config *c, const int32_t *ids, int64_t length, int64_t T)
{
    int64_t place = 0;
    switch (c->pool) {
    case PC_POOL_LAST: return T - 1;
    case PC_POOL_LARGEST:
        for (int64_t t = 1; t < length; t++)
            if (ids[t] > ids[place]) place = t;
        return place;
    case PC_POOL_EOT:
        while (place < length && ids[place] != c->eot_id) place++;
        return place < length ? place : length - 1; // a text cut short ends in its last token
    }
    return T - 1;
}

void pc_text_batch_build(pc_text_batch *out, pc_arena *a, const pc_text_config *c,
                         const int32_t *const *ids, const int64_t *lengths, int64_t B)
{
    int64_t N = 0;
    for (int64_t b = 0; b < B; b++) {
        PC_ASSERT(lengths[b] >= 1 && lengths[b] <= c->T, "a text of %lld tokens, context %lld",
                  (long long)lengths[b], (long long)c->T);
        N += c->pad_to_context ? c->T : lengths[b];
    }
    *out = (pc_text_batch){0};
    out->ids = pc_alloc1(a, PC_I32, N);
    out->pos = pc_alloc1(a, PC_I32, N);
    out->pooled = pc_alloc1(a, PC_I32, B);
    pc_mask_ragged(&out->mask, a, c->pad_to_context ? NULL : lengths, c->T, B, c->causal);
    if (a->dry) return;
    int64_t n = 0; // first row of text b
    for (int64_t b = 0; b < B; b++) {
        const int64_t T = c->pad_to_context ? c->T : lengths[b];
        for (int64_t t = 0; t < T; t++) {
            pc_i32(out->ids)[n + t] = t < lengths[b] ? ids[b][t] : (int32_t)c->pad_id;
            pc_i32(out->pos)[n + t] = (int32_t)t;
        }
        pc_i32(out->pooled)[b] = (int32_t)(n + pooled_place(c, ids[b], lengths[b], T));
        n += T;
    }
}

static pc_text_batch placed(pc_ctx *ctx, const pc_text_batch *b)
{
    return (pc_text_batch){.ids = pc_place(ctx, b->ids),
                           .pos = pc_place(ctx, b->pos),
                           .pooled = pc_place(ctx, b->pooled),
                           .mask = pc_place_mask(ctx, &b->mask)};
}

pc_tensor pc_text_forward(pc_ctx *ctx, pc_text_kept *kept, const pc_text *l,
                          const pc_text_batch *given)
{
    const pc_text_config *c = &l->config;
    const pc_text_batch here = placed(ctx, given), *const b = &here;
    const int64_t N = b->ids.dim[0], B = b->pooled.dim[0];
    *kept = (pc_text_kept){.seq = {.mask = b->mask}};
    const size_t tap = pc_tap_push(ctx, "text");
    const pc_tensor y = pc_alloc2(ctx->act, ctx->real, B, c->E);
    const size_t mark = pc_arena_mark(ctx->act);

    kept->x = pc_alloc2(ctx->act, ctx->real, N, c->C);
    ctx->ops->embedding_forward(ctx, kept->x, b->ids, l->tokens.w);
    ctx->ops->add_rows_forward(ctx, kept->x, kept->x, l->positions.w, b->pos);
    const bool apart = !ctx->taps && c->L > 0;
    pc_read read;
    if (apart) pc_read_rows(&read, ctx->act, &kept->seq, b->pooled, N);
    kept->hidden = pc_transformer_forward(ctx, &kept->blocks, &l->blocks, kept->x, &kept->seq,
                                          apart ? &read : NULL, NULL, c->L);
    if (ctx->taps) { // published models name the whole normed sequence
        pc_norm_kept all;
        const pc_tensor normed = pc_alloc_like(ctx->act, kept->hidden);
        pc_norm_forward(ctx, normed, &all, &l->norm_final, kept->hidden);
        pc_tap_add(ctx, normed, "normed");
    }
    kept->normed = pc_alloc2(ctx->act, ctx->real, B, c->C);
    kept->rows = apart ? kept->hidden : pc_alloc2(ctx->act, ctx->real, B, c->C);
    if (!apart) ctx->ops->gather_forward(ctx, kept->rows, kept->hidden, b->pooled);
    pc_norm_forward(ctx, kept->normed, &kept->norm_final, &l->norm_final, kept->rows);
    pc_tap_add(ctx, kept->normed, "pooled");
    pc_linear_forward(ctx, y, &l->proj, kept->normed, PC_NONE);
    pc_tap_add(ctx, y, "embedding");
    if (!ctx->grad_ops) pc_arena_release(ctx->act, mark);
    pc_tap_pop(ctx, tap);
    return y;
}

bool pc_text_trains(const pc_text *l)
{
    return pc_present(l->tokens.g) || pc_present(l->positions.g) ||
           pc_transformer_trains(&l->blocks, l->config.L) || pc_norm_trains(&l->norm_final) ||
           pc_linear_trains(&l->proj);
}

void pc_text_backward(pc_ctx *ctx, pc_text *l, const pc_text_kept *kept, const pc_text_batch *given,
                      pc_tensor dy)
{
    const pc_text_batch here = placed(ctx, given), *const b = &here;
    const bool tables = pc_present(l->tokens.g) || pc_present(l->positions.g);
    const bool blocks = tables || pc_transformer_trains(&l->blocks, l->config.L);
    const bool norm = blocks || pc_norm_trains(&l->norm_final);
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor drows = pc_alloc_like(ctx->scratch, kept->rows);
    pc_linear_backward(ctx, norm ? drows : PC_NONE, &l->proj, dy, kept->normed);
    if (norm)
        pc_norm_backward(ctx, drows, &l->norm_final, &kept->norm_final, drows, kept->rows, PC_NONE);
    if (blocks) {
        const pc_tensor dx = pc_alloc_like(ctx->scratch, kept->x);
        const bool apart = kept->blocks.reads;
        if (!apart) ctx->grad_ops->gather_backward(ctx, dx, drows, b->pooled);
        pc_transformer_backward(ctx, tables ? dx : PC_NONE, &l->blocks, &kept->blocks,
                                apart ? drows : dx, &kept->seq);
        if (pc_present(l->tokens.g))
            ctx->grad_ops->embedding_backward(ctx, l->tokens.g, dx, b->ids);
        if (pc_present(l->positions.g))
            ctx->grad_ops->add_rows_backward(ctx, l->positions.g, dx, b->pos);
    }
    pc_arena_release(ctx->scratch, mark);
}

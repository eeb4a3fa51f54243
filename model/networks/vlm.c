/*
 * vlm.c - tower, projector, decoder. How sequences are laid out is in vlm_batch.c.
 *
 * A tower of which nothing is trained runs as in inference: it keeps nothing and its dropout is off.
 */
#include "model/networks/vlm.h"

#include "model/layers/taps.h"

static bool has_tower(const pc_vlm *l)
{
    return l->config.vision.L > 0;
}

void pc_vlm_params(pc_params *p, pc_vlm *l, const pc_vlm_config *c)
{
    *l = (pc_vlm){.config = *c};
    if (has_tower(l)) {
        pc_vision_params(p, &l->vision, &c->vision);
        pc_projector_params(p, &l->projector, &c->projector);
    }
    pc_decoder_params(p, &l->decoder, &c->decoder);
}

void pc_vlm_close(pc_vlm *l)
{
    pc_vision_close(&l->vision);
    pc_decoder_close(&l->decoder);
}

pc_status pc_vlm_validate(const pc_vlm_config *c)
{
    pc_status st = pc_decoder_validate(&c->decoder);
    if (st) return st;
    if (c->vision.L == 0) return PC_OK;
    if ((st = pc_vision_validate(&c->vision)) || (st = pc_projector_validate(&c->projector)))
        return st;
    if (c->projector.in != c->vision.C)
        return pc_fail(PC_ERR_INPUT, "projector.in: %lld; the tower (vision.C) is %lld wide",
                       (long long)c->projector.in, (long long)c->vision.C);
    if (c->projector.out != c->decoder.C)
        return pc_fail(PC_ERR_INPUT, "projector.out: %lld; the decoder (decoder.C) is %lld wide",
                       (long long)c->projector.out, (long long)c->decoder.C);
    const int64_t rows = pc_vlm_rows_per_image(c);
    if (c->projector.positions > 0 && c->projector.positions != rows)
        return pc_fail(PC_ERR_INPUT, "projector.positions: %lld; an image gives %lld rows",
                       (long long)c->projector.positions, (long long)rows);
    if (c->feature_layer > -1 || c->feature_layer < -(c->vision.L + 1))
        return pc_fail(PC_ERR_INPUT, "feature_layer: %lld is not in %lld .. -1",
                       (long long)c->feature_layer, (long long)-(c->vision.L + 1));
    if (c->keep_class && !c->vision.class_token)
        return pc_fail(PC_ERR_INPUT, "keep_class: true needs vision.class_token: true");
    const int32_t image = (int32_t)c->image_id;
    const int64_t positions = pc_vlm_positions(c, &image, 1);
    if (positions > c->decoder.T)
        return pc_fail(PC_ERR_INPUT, "decoder.T: %lld; an image alone takes %lld",
                       (long long)c->decoder.T, (long long)positions);
    return PC_OK;
}

static bool drops_class(const pc_vlm_config *c)
{
    return c->vision.class_token && !c->keep_class;
}

int64_t pc_vlm_rows_per_image(const pc_vlm_config *c)
{
    return c->vision.L > 0 ? pc_vision_tokens(&c->vision) - drops_class(c) : 0;
}

int64_t pc_vlm_stop(const pc_vlm_config *c)
{
    return c->vision.L + 1 + c->feature_layer;
}

/* Rows [first, N1) of every image: what is passed on when the class token is not. */
static pc_tensor patch_rows(pc_arena *a, int64_t B, int64_t N1)
{
    const int64_t P = N1 - 1;
    const pc_tensor index = pc_alloc1(a, PC_I32, B * P);
    if (!a->dry)
        for (int64_t n = 0; n < B * P; n++) pc_i32(index)[n] = (int32_t)(n / P * N1 + 1 + n % P);
    return index;
}

static bool tower_trains(const pc_vlm *l)
{
    return has_tower(l) && pc_vision_trains(&l->vision, pc_vlm_stop(&l->config));
}

pc_tensor pc_vlm_features_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l, pc_tensor pixels)
{
    const pc_vlm_config *c = &l->config;
    const pc_grad_ops *const grad_ops = ctx->grad_ops;
    const double dropout = ctx->dropout;
    const bool trains = tower_trains(l), drops = drops_class(c);
    const int64_t B = pixels.dim[0], rows = pc_vlm_rows_per_image(c);
    // What outlives a tower that keeps nothing is allocated before it runs.
    if (drops || !trains) kept->selected = pc_alloc2(ctx->act, ctx->real, B * rows, c->vision.C);
    if (drops) kept->select_index = patch_rows(ctx->act, B, rows + 1);
    const size_t mark = pc_arena_mark(ctx->act);
    if (!trains) {
        ctx->grad_ops = NULL;
        ctx->dropout = 0.0;
    }
    kept->hidden = pc_vision_forward(ctx, &kept->vision, &l->vision, pixels, pc_vlm_stop(c), false);
    if (drops)
        ctx->ops->gather_forward(ctx, kept->selected, kept->hidden, kept->select_index);
    else if (!trains)
        ctx->ops->copy_forward(ctx, kept->selected, kept->hidden);
    else
        kept->selected = kept->hidden;
    ctx->grad_ops = grad_ops;
    ctx->dropout = dropout;
    if (!trains) pc_arena_release(ctx->act, mark);
    pc_tap_add(ctx, kept->selected, "vision.selected");
    kept->features = pc_projector_forward(ctx, &kept->projector, &l->projector, kept->selected);
    return kept->features;
}

pc_tensor pc_vlm_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l, const pc_vlm_batch *b,
                         pc_kv *kv)
{
    *kept = (pc_vlm_kept){0};
    kept->x = pc_alloc2(ctx->act, ctx->real, b->N, l->config.decoder.C);
    const size_t mark = pc_arena_mark(ctx->act);
    ctx->ops->embedding_forward(ctx, kept->x, b->ids, l->decoder.tokens.w);
    if (b->images > 0) {
        const pc_tensor features = pc_vlm_features_forward(ctx, kept, l, b->pixels);
        ctx->ops->splice_forward(ctx, kept->x, features, b->image_rows);
        if (!ctx->grad_ops) pc_arena_release(ctx->act, mark);
    }
    const pc_seq seq = {.mask = b->mask, .pos = b->pos, .pos_y = b->pos_y};
    kept->normed = pc_decoder_forward(ctx, &kept->decoder, &l->decoder, kept->x, &seq, kv);
    return kept->normed;
}

/* Rows without a label cost the loss nothing; the dry backend cannot see labels, so it is told. */
static void count_supervised(pc_ctx *ctx, double before, const pc_vlm_batch *b)
{
    if (ctx->act->dry)
        ctx->flops = before + (ctx->flops - before) * (double)b->supervised / (double)b->N;
}

void pc_vlm_loss_forward(pc_ctx *ctx, pc_tensor nll, const pc_vlm *l, const pc_vlm_kept *kept,
                         const pc_vlm_batch *b)
{
    const double flops = ctx->flops;
    ctx->ops->linear_xent_forward(ctx, nll, kept->normed, pc_decoder_head(&l->decoder)->w,
                                  b->labels);
    count_supervised(ctx, flops, b);
}

bool pc_vlm_trains(const pc_vlm *l)
{
    return tower_trains(l) || pc_projector_trains(&l->projector) || pc_decoder_trains(&l->decoder);
}

/* From the gradient of the merged sequence's rows to projector and tower. */
static void features_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept,
                              const pc_vlm_batch *b, pc_tensor dx)
{
    const bool tower = tower_trains(l);
    const pc_tensor dfeatures = pc_alloc_like(ctx->scratch, kept->features);
    pc_tensor dselected = PC_NONE;
    if (tower) dselected = pc_alloc_like(ctx->scratch, kept->selected);
    ctx->grad_ops->splice_backward(ctx, dfeatures, dx, b->image_rows);
    pc_projector_backward(ctx, dselected, &l->projector, &kept->projector, dfeatures);
    if (!tower) return;
    pc_tensor dhidden = dselected;
    if (pc_present(kept->select_index)) {
        dhidden = pc_alloc_like(ctx->scratch, kept->hidden);
        ctx->grad_ops->gather_backward(ctx, dhidden, dselected, kept->select_index);
    }
    pc_vision_backward(ctx, &l->vision, &kept->vision, dhidden);
}

void pc_vlm_loss_backward(pc_ctx *ctx, pc_tensor nll, pc_vlm *l, const pc_vlm_kept *kept,
                          const pc_vlm_batch *b, pc_tensor coef)
{
    const bool features = b->images > 0 && (tower_trains(l) || pc_projector_trains(&l->projector));
    const bool sequence = features || pc_present(l->decoder.tokens.g); // dx is wanted
    pc_weight *head = l->config.decoder.tied ? &l->decoder.tokens : &l->decoder.head;
    const bool rows = sequence || pc_norm_trains(&l->decoder.norm_final) ||
                      pc_transformer_trains(&l->decoder.blocks, l->config.decoder.L);
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor d = rows ? pc_alloc_like(ctx->scratch, kept->normed) : PC_NONE;

    const double flops = ctx->flops;
    ctx->grad_ops->linear_xent_backward(ctx, d, head->g, nll, kept->normed, head->w, b->labels,
                                        coef);
    count_supervised(ctx, flops, b);
    if (rows) pc_decoder_backward(ctx, sequence ? d : PC_NONE, &l->decoder, &kept->decoder, d);
    if (pc_present(l->decoder.tokens.g))
        ctx->grad_ops->embedding_backward(ctx, l->decoder.tokens.g, d, b->ids);
    if (features) features_backward(ctx, l, kept, b, d);
    pc_arena_release(ctx->scratch, mark);
}

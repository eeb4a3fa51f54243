/*
 * vlm.c - eyes, decoder, loss. The kinds of eyes are in visual.c; how sequences are laid out, in vlm_batch.c.
 */
#include "model/networks/vlm.h"

#include "model/layers/place.h"

void pc_vlm_params(pc_params *p, pc_vlm *l, const pc_vlm_config *c)
{
    *l = (pc_vlm){.config = *c};
    pc_vlm_eyes_params(p, l);
    pc_decoder_params(p, &l->decoder, &c->decoder);
}

void pc_vlm_tables(pc_vlm *l, pc_arena *a, pc_dtype t)
{
    pc_decoder_tables(&l->decoder, a, t);
    if (l->config.visual == PC_VISUAL_GRID && l->config.vision.L > 0)
        pc_qwen2_vision_tables(&l->grid, a, t);
}

void pc_vlm_close(pc_vlm *l)
{
    pc_qwen2_vision_close(&l->grid);
    pc_vision_close(&l->vision);
    pc_hybrid_close(&l->hybrid);
    pc_decoder_close(&l->decoder);
}

pc_status pc_vlm_validate(const pc_vlm_config *c)
{
    const pc_status st = pc_decoder_validate(&c->decoder);
    return st || c->vision.L == 0 ? st : pc_vlm_eyes_validate(c);
}

pc_tensor pc_vlm_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l, const pc_vlm_batch *b,
                         pc_kv *kv)
{
    *kept = (pc_vlm_kept){0};
    const pc_seq seq = {.mask = pc_place_mask(ctx, &b->mask),
                        .pos = pc_place(ctx, b->pos),
                        .pos_y = pc_place(ctx, b->pos_y),
                        .pos_z = pc_place(ctx, b->pos_z)};
    // Below what is as long as the text: so a tower's passes lie where they lay (layers/repeat.h). Inference gives them back.
    const bool pictures = b->pictures.count > 0, first = pictures && ctx->grad_ops;
    pc_tensor features = first ? pc_vlm_features_forward(ctx, kept, l, &b->pictures) : PC_NONE;
    kept->x = pc_alloc2(ctx->act, ctx->real, b->N, l->config.decoder.C);
    const size_t mark = pc_arena_mark(ctx->act);
    ctx->ops->embedding_forward(ctx, kept->x, pc_place(ctx, b->ids), l->decoder.tokens.w);
    if (pictures) {
        if (!first) features = pc_vlm_features_forward(ctx, kept, l, &b->pictures);
        ctx->ops->splice_forward(ctx, kept->x, features, pc_place(ctx, b->image_rows));
        if (!ctx->grad_ops) pc_arena_release(ctx->act, mark);
    }
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
                                  pc_place(ctx, b->labels));
    count_supervised(ctx, flops, b);
}

bool pc_vlm_trains(const pc_vlm *l)
{
    return pc_vlm_eyes_train(l) || pc_decoder_trains(&l->decoder);
}

void pc_vlm_loss_backward(pc_ctx *ctx, pc_tensor nll, pc_vlm *l, const pc_vlm_kept *kept,
                          const pc_vlm_batch *b, pc_tensor coef)
{
    const bool features = b->pictures.count > 0 && pc_vlm_eyes_train(l);
    const bool sequence = features || pc_present(l->decoder.tokens.g); // dx is wanted
    pc_weight *head = l->config.decoder.tied ? &l->decoder.tokens : &l->decoder.head;
    const bool rows = sequence || pc_norm_trains(&l->decoder.norm_final) ||
                      pc_transformer_trains(&l->decoder.blocks, l->config.decoder.L);
    const size_t mark = pc_arena_mark(ctx->scratch);
    // First, for the same reason as in the forward pass.
    const pc_tensor dfeatures = features ? pc_alloc_like(ctx->scratch, kept->features) : PC_NONE;
    const size_t behind = pc_arena_mark(ctx->scratch);
    const pc_tensor d = rows ? pc_alloc_like(ctx->scratch, kept->normed) : PC_NONE;

    const double flops = ctx->flops;
    ctx->grad_ops->linear_xent_backward(ctx, d, head->g, nll, kept->normed, head->w,
                                        pc_place(ctx, b->labels), coef);
    count_supervised(ctx, flops, b);
    if (rows) pc_decoder_backward(ctx, sequence ? d : PC_NONE, &l->decoder, &kept->decoder, d);
    if (pc_present(l->decoder.tokens.g))
        ctx->grad_ops->embedding_backward(ctx, l->decoder.tokens.g, d, pc_place(ctx, b->ids));
    if (features) {
        ctx->grad_ops->splice_backward(ctx, dfeatures, d, pc_place(ctx, b->image_rows));
        pc_arena_release(ctx->scratch, behind);
        pc_vlm_features_backward(ctx, l, kept, &b->pictures, dfeatures);
    }
    pc_arena_release(ctx->scratch, mark);
}

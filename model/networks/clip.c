/*
 * clip.c - two towers into one space, and the loss that couples them.
 */
#include "model/networks/clip.h"

#include "model/layers/place.h"
#include "model/layers/taps.h"

void pc_clip_params(pc_params *p, pc_clip *l, const pc_clip_config *c)
{
    *l = (pc_clip){.config = *c};
    pc_vision_params(p, &l->vision, &c->vision);
    pc_text_params(p, &l->text, &c->text);
    pc_param_add(p, &l->logit_scale, "logit_scale", PC_INIT_CONST, c->init_scale, PC_DIMS(1));
    if (c->loss == PC_CONTRAST_SIGMOID)
        pc_param_add(p, &l->logit_bias, "logit_bias", PC_INIT_CONST, c->init_bias, PC_DIMS(1));
}

void pc_clip_close(pc_clip *l)
{
    pc_vision_close(&l->vision);
    pc_text_close(&l->text);
}

pc_status pc_clip_validate(const pc_clip_config *c)
{
    pc_status st = pc_vision_validate(&c->vision);
    if (st || (st = pc_text_validate(&c->text))) return st;
    if (c->vision.L < 1) return pc_fail(PC_ERR_INPUT, "vision.L: a two-tower model needs a tower");
    if (c->vision.head == PC_HEAD_NONE)
        return pc_fail(PC_ERR_INPUT,
                       "vision.head: none; a two-tower model needs class, mean or map");
    if (c->vision.E != c->text.E)
        return pc_fail(PC_ERR_INPUT, "vision.E: %lld and text.E: %lld must be the same",
                       (long long)c->vision.E, (long long)c->text.E);
    return PC_OK;
}

static pc_tensor normalise(pc_ctx *ctx, pc_tensor *inv, pc_tensor x)
{
    const pc_tensor y = pc_alloc2(ctx->act, pc_stat(ctx), x.dim[0], x.dim[1]);
    *inv = pc_alloc1(ctx->act, pc_stat(ctx), x.dim[0]);
    ctx->ops->l2norm_forward(ctx, y, *inv, x);
    return y;
}

pc_tensor pc_clip_image_forward(pc_ctx *ctx, pc_clip_kept *kept, const pc_clip *l, pc_tensor pixels)
{
    const pc_vision *v = &l->vision;
    const pc_tensor hidden =
        pc_vision_forward(ctx, &kept->vision, v, pc_place(ctx, pixels), v->config.L, false);
    kept->u =
        normalise(ctx, &kept->image_inv, pc_vision_head_forward(ctx, &kept->vision, v, hidden));
    return kept->u;
}

pc_tensor pc_clip_text_forward(pc_ctx *ctx, pc_clip_kept *kept, const pc_clip *l,
                               const pc_text_batch *b)
{
    kept->v = normalise(ctx, &kept->text_inv, pc_text_forward(ctx, &kept->text, &l->text, b));
    return kept->v;
}

void pc_clip_image_backward(pc_ctx *ctx, pc_clip *l, const pc_clip_kept *kept, pc_tensor du)
{
    const bool tower = pc_vision_trains(&l->vision, l->vision.config.L);
    if (!tower && !pc_vision_head_trains(&l->vision)) return;
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor dy = pc_alloc2(ctx->scratch, ctx->real, kept->u.dim[0], kept->u.dim[1]);
    const pc_tensor dhidden = pc_alloc_like(ctx->scratch, kept->vision.hidden);
    ctx->grad_ops->l2norm_backward(ctx, dy, du, kept->u, kept->image_inv);
    pc_vision_head_backward(ctx, dhidden, &l->vision, &kept->vision, dy);
    if (tower) pc_vision_backward(ctx, &l->vision, &kept->vision, dhidden);
    pc_arena_release(ctx->scratch, mark);
}

void pc_clip_text_backward(pc_ctx *ctx, pc_clip *l, const pc_clip_kept *kept,
                           const pc_text_batch *b, pc_tensor dv)
{
    if (!pc_text_trains(&l->text)) return;
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor dy = pc_alloc2(ctx->scratch, ctx->real, kept->v.dim[0], kept->v.dim[1]);
    ctx->grad_ops->l2norm_backward(ctx, dy, dv, kept->v, kept->text_inv);
    pc_text_backward(ctx, &l->text, &kept->text, b, dy);
    pc_arena_release(ctx->scratch, mark);
}

/* loss (absent: made in scratch) and, for the softmax loss, the statistics that its backward reads, in scratch. */
typedef struct contrast {
    pc_tensor loss, lse_row, lse_col;
} contrast;

static contrast loss_forward(pc_ctx *ctx, pc_tensor loss, const pc_clip *l, pc_tensor u,
                             pc_tensor v)
{
    contrast k = {.loss = pc_present(loss) ? loss : pc_alloc1(ctx->scratch, PC_F64, 1)};
    if (l->config.loss == PC_CONTRAST_SOFTMAX) {
        k.lse_row = pc_alloc1(ctx->scratch, pc_stat(ctx), u.dim[0]);
        k.lse_col = pc_alloc1(ctx->scratch, pc_stat(ctx), v.dim[0]);
        ctx->ops->clip_loss_forward(ctx, k.loss, k.lse_row, k.lse_col, u, v, l->logit_scale.w);
    } else {
        ctx->ops->sigmoid_loss_forward(ctx, k.loss, u, v, l->logit_scale.w, l->logit_bias.w);
    }
    return k;
}

static double value(const pc_ctx *ctx, pc_tensor loss)
{
    pc_wait(ctx);
    return ctx->scratch->dry ? 0.0 : *(const double *)loss.data;
}

double pc_clip_loss_forward(pc_ctx *ctx, const pc_clip *l, pc_tensor u, pc_tensor v)
{
    const size_t mark = pc_arena_mark(ctx->scratch);
    const double loss = value(ctx, loss_forward(ctx, PC_NONE, l, u, v).loss);
    pc_arena_release(ctx->scratch, mark);
    return loss;
}

static pc_tensor loss_backward(pc_ctx *ctx, pc_tensor loss, pc_tensor du, pc_tensor dv, pc_clip *l,
                               pc_tensor u, pc_tensor v)
{
    const contrast k = loss_forward(ctx, loss, l, u, v);
    if (l->config.loss == PC_CONTRAST_SOFTMAX)
        ctx->grad_ops->clip_loss_backward(ctx, du, dv, l->logit_scale.g, u, v, l->logit_scale.w,
                                          k.lse_row, k.lse_col, 1.0);
    else
        ctx->grad_ops->sigmoid_loss_backward(ctx, du, dv, l->logit_scale.g, l->logit_bias.g, u, v,
                                             l->logit_scale.w, l->logit_bias.w, 1.0);
    return k.loss;
}

void pc_clip_loss_launch(pc_ctx *ctx, pc_tensor loss, pc_tensor du, pc_tensor dv, pc_clip *l,
                         pc_tensor u, pc_tensor v)
{
    const size_t mark = pc_arena_mark(ctx->scratch);
    loss_backward(ctx, loss, du, dv, l, u, v);
    pc_arena_release(ctx->scratch, mark);
}

double pc_clip_loss_backward(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_clip *l, pc_tensor u,
                             pc_tensor v)
{
    const size_t mark = pc_arena_mark(ctx->scratch);
    const double loss = value(ctx, loss_backward(ctx, PC_NONE, du, dv, l, u, v));
    pc_arena_release(ctx->scratch, mark);
    return loss;
}

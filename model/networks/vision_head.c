/*
 * vision_head.c - from hidden rows to one embedding an image.
 *
 *   class   y = norm_post(x[class row]) Wproj^T
 *   mean    y = norm_post(mean of the patch rows) Wproj^T. The mean is an attention whose query is zero: every
 *           score is 0, so every weight is 1/P
 *   map     t = norm_post(x);  a = attention(q = probe Wq^T + bq, [k v] = t Wkv^T + bkv) Wo^T + bo
 *           y = a + mlp(norm(a))       (SigLIP's pooling; the query is the same for every image)
 */
#include "model/networks/vision.h"

#include <math.h>

#include "model/layers/mask.h"
#include "model/layers/taps.h"

void pc_vision_head_params(pc_params *p, pc_vision *l)
{
    const pc_vision_config *c = &l->config;
    const double narrow = 1.0 / sqrt((double)c->C);
    if (c->post_norm || c->head != PC_HEAD_NONE)
        pc_norm_params(p, &l->norm_post, "norm_post", PC_LAYERNORM, c->C, c->eps);
    if (c->head == PC_HEAD_CLASS || c->head == PC_HEAD_MEAN)
        pc_linear_params(p, &l->proj, "proj", c->C, c->E, false, narrow);
    if (c->head != PC_HEAD_MAP) return;
    const pc_mlp_config mlp = {.C = c->C,
                               .F = c->head_F,
                               .O = c->C,
                               .bias = true,
                               .act = c->act,
                               .std = 1.0 / sqrt(2.0 * (double)c->C),
                               .out_std = 1.0 / sqrt((double)c->head_F)};
    pc_param_add(p, &l->probe, "probe", PC_INIT_NORMAL, 1.0, PC_DIMS(1, c->C));
    pc_linear_params(p, &l->map_q, "map_q", c->C, c->C, true, narrow);
    pc_linear_params(p, &l->map_kv, "map_kv", c->C, 2 * c->C, true, narrow);
    const int64_t kv[] = {c->C, c->C};
    pc_param_fused(p, &l->map_kv.weight, 2, kv);
    pc_linear_params(p, &l->map_out, "map_out", c->C, c->C, true, narrow);
    pc_norm_params(p, &l->map_norm, "map_norm", PC_LAYERNORM, c->C, c->eps);
    pc_mlp_params(p, &l->map_mlp, "map_mlp", &mlp);
}

bool pc_vision_head_trains(const pc_vision *l)
{
    return pc_norm_trains(&l->norm_post) || pc_linear_trains(&l->proj) || pc_present(l->probe.g) ||
           pc_linear_trains(&l->map_q) || pc_linear_trains(&l->map_kv) ||
           pc_linear_trains(&l->map_out) || pc_norm_trains(&l->map_norm) ||
           pc_mlp_trains(&l->map_mlp);
}

/* i32 (B): first, first + step, ... */
static pc_tensor every(pc_arena *a, int64_t B, int64_t step)
{
    const pc_tensor index = pc_alloc1(a, PC_I32, B);
    if (!a->dry)
        for (int64_t b = 0; b < B; b++) pc_i32(index)[b] = (int32_t)(b * step);
    return index;
}

static double scale(const pc_vision_config *c)
{
    return 1.0 / sqrt((double)c->C / (double)c->H);
}

static pc_tensor by_heads(const pc_vision_config *c, pc_tensor x)
{
    return pc_as_heads(x, c->C / c->H);
}

/* norm_post and the projection, on one row an image. */
static pc_tensor project_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l)
{
    const pc_vision_config *c = &l->config;
    kept->post = pc_alloc2(ctx->act, ctx->real, kept->B, c->C);
    pc_norm_forward(ctx, kept->post, &kept->norm_post, &l->norm_post, kept->pooled_rows);
    const pc_tensor y = pc_alloc2(ctx->act, ctx->real, kept->B, c->E);
    pc_linear_forward(ctx, y, &l->proj, kept->post, PC_NONE);
    return y;
}

static void project_backward(pc_ctx *ctx, pc_tensor drows, pc_vision *l, const pc_vision_kept *kept,
                             pc_tensor dy)
{
    pc_linear_backward(ctx, drows, &l->proj, dy, kept->post);
    pc_norm_backward(ctx, drows, &l->norm_post, &kept->norm_post, drows, kept->pooled_rows,
                     PC_NONE);
}

static pc_tensor class_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l,
                               pc_tensor hidden)
{
    kept->pooled_rows = hidden;
    if (!kept->blocks.reads) {
        kept->head_index = every(ctx->act, kept->B, hidden.dim[0] / kept->B);
        kept->pooled_rows = pc_alloc2(ctx->act, ctx->real, kept->B, l->config.C);
        ctx->ops->gather_forward(ctx, kept->pooled_rows, hidden, kept->head_index);
    }
    return project_forward(ctx, kept, l);
}

static void class_backward(pc_ctx *ctx, pc_tensor dhidden, pc_vision *l, const pc_vision_kept *kept,
                           pc_tensor dy)
{
    const bool alone = kept->blocks.reads; // dhidden is of the class rows
    const pc_tensor drows = alone ? dhidden : pc_alloc_like(ctx->scratch, kept->pooled_rows);
    project_backward(ctx, drows, l, kept, dy);
    if (!alone) ctx->grad_ops->gather_backward(ctx, dhidden, drows, kept->head_index);
}

static pc_tensor mean_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l,
                              pc_tensor hidden)
{
    const pc_vision_config *c = &l->config;
    const int64_t B = kept->B, N1 = hidden.dim[0] / B;
    pc_mask_full(&kept->map_mask, ctx->act, B, 1, N1, c->class_token);
    kept->map_query = pc_alloc2(ctx->act, ctx->real, B, c->C);
    kept->pooled_rows = pc_alloc2(ctx->act, ctx->real, B, c->C);
    kept->map_lse = pc_alloc2(ctx->act, pc_stat(ctx), B, c->H);
    ctx->ops->zero_forward(ctx, kept->map_query);
    ctx->ops->attention_forward(ctx, by_heads(c, kept->pooled_rows), kept->map_lse,
                                by_heads(c, kept->map_query), by_heads(c, hidden),
                                by_heads(c, hidden), &kept->map_mask, scale(c));
    return project_forward(ctx, kept, l);
}

static void mean_backward(pc_ctx *ctx, pc_tensor dhidden, pc_vision *l, const pc_vision_kept *kept,
                          pc_tensor dy)
{
    const pc_vision_config *c = &l->config;
    const pc_tensor drows = pc_alloc_like(ctx->scratch, kept->pooled_rows);
    project_backward(ctx, drows, l, kept, dy);
    // The query is a constant and, being zero, passes nothing to the keys: only the values' gradient counts.
    const pc_tensor dq = pc_alloc_like(ctx->scratch, kept->pooled_rows);
    const pc_tensor dk = pc_alloc_like(ctx->scratch, dhidden);
    ctx->grad_ops->attention_backward(ctx, by_heads(c, dq), by_heads(c, dk), by_heads(c, dhidden),
                                      by_heads(c, drows), by_heads(c, kept->map_query),
                                      by_heads(c, kept->hidden), by_heads(c, kept->hidden),
                                      by_heads(c, kept->pooled_rows), kept->map_lse,
                                      &kept->map_mask, scale(c));
}

static pc_tensor map_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l,
                             pc_tensor hidden)
{
    const pc_vision_config *c = &l->config;
    const int64_t B = kept->B, C = c->C, N1 = hidden.dim[0] / B;
    const pc_dtype real = ctx->real;
    pc_mask_full(&kept->map_mask, ctx->act, B, 1, N1, 0);
    kept->head_index = every(ctx->act, B, 0); // every image asks with the same row
    kept->post = pc_alloc2(ctx->act, real, B * N1, C);
    pc_norm_forward(ctx, kept->post, &kept->norm_post, &l->norm_post, hidden);
    pc_tap_add(ctx, kept->post, "post");

    kept->map_query = pc_alloc2(ctx->act, real, 1, C);
    kept->map_qp = pc_alloc2(ctx->act, real, B, C);
    kept->map_kvp = pc_alloc2(ctx->act, real, B * N1, 2 * C);
    kept->map_o = pc_alloc2(ctx->act, real, B, C);
    kept->map_lse = pc_alloc2(ctx->act, pc_stat(ctx), B, c->H);
    pc_linear_forward(ctx, kept->map_query, &l->map_q, l->probe.w, PC_NONE);
    ctx->ops->gather_forward(ctx, kept->map_qp, kept->map_query, kept->head_index);
    pc_linear_forward(ctx, kept->map_kvp, &l->map_kv, kept->post, PC_NONE);
    ctx->ops->attention_forward(ctx, by_heads(c, kept->map_o), kept->map_lse,
                                by_heads(c, kept->map_qp),
                                by_heads(c, pc_cols(kept->map_kvp, 0, C)),
                                by_heads(c, pc_cols(kept->map_kvp, C, 2 * C)), &kept->map_mask,
                                scale(c));

    kept->map_a = pc_alloc2(ctx->act, real, B, C);
    kept->map_n = pc_alloc2(ctx->act, real, B, C);
    const pc_tensor y = pc_alloc2(ctx->act, real, B, C);
    pc_linear_forward(ctx, kept->map_a, &l->map_out, kept->map_o, PC_NONE);
    pc_norm_forward(ctx, kept->map_n, &kept->map_norm, &l->map_norm, kept->map_a);
    pc_mlp_forward(ctx, y, &kept->map_mlp, &l->map_mlp, kept->map_n, kept->map_a);
    return y;
}

static void map_backward(pc_ctx *ctx, pc_tensor dhidden, pc_vision *l, const pc_vision_kept *kept,
                         pc_tensor dy)
{
    const pc_vision_config *c = &l->config;
    const int64_t C = c->C;
    const pc_tensor da = pc_alloc_like(ctx->scratch, kept->map_a);
    pc_mlp_backward(ctx, da, &l->map_mlp, &kept->map_mlp, dy, kept->map_n);
    pc_norm_backward(ctx, da, &l->map_norm, &kept->map_norm, da, kept->map_a, dy);

    const pc_tensor dout = pc_alloc_like(ctx->scratch, kept->map_o);
    const pc_tensor dqp = pc_alloc_like(ctx->scratch, kept->map_qp);
    const pc_tensor dkvp = pc_alloc_like(ctx->scratch, kept->map_kvp);
    pc_linear_backward(ctx, dout, &l->map_out, da, kept->map_o);
    ctx->grad_ops->attention_backward(ctx, by_heads(c, dqp), by_heads(c, pc_cols(dkvp, 0, C)),
                                      by_heads(c, pc_cols(dkvp, C, 2 * C)), by_heads(c, dout),
                                      by_heads(c, kept->map_qp),
                                      by_heads(c, pc_cols(kept->map_kvp, 0, C)),
                                      by_heads(c, pc_cols(kept->map_kvp, C, 2 * C)),
                                      by_heads(c, kept->map_o), kept->map_lse, &kept->map_mask,
                                      scale(c));

    // The probe: its gradient is the sum over images.
    const pc_tensor dquery = pc_alloc_like(ctx->scratch, kept->map_query);
    const pc_tensor dprobe = pc_alloc_like(ctx->scratch, kept->map_query);
    const bool probe = pc_present(l->probe.g);
    ctx->grad_ops->gather_backward(ctx, dquery, dqp, kept->head_index);
    pc_linear_backward(ctx, probe ? dprobe : PC_NONE, &l->map_q, dquery, l->probe.w);
    if (probe) ctx->grad_ops->accumulate(ctx, l->probe.g, dprobe);

    pc_linear_backward(ctx, dhidden, &l->map_kv, dkvp, kept->post);
    pc_norm_backward(ctx, dhidden, &l->norm_post, &kept->norm_post, dhidden, kept->hidden, PC_NONE);
}

pc_tensor pc_vision_head_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l,
                                 pc_tensor hidden)
{
    const size_t tap = pc_tap_push(ctx, "vision");
    pc_tensor y = PC_NONE;
    kept->hidden = hidden;
    switch (l->config.head) {
    case PC_HEAD_CLASS: y = class_forward(ctx, kept, l, hidden); break;
    case PC_HEAD_MEAN: y = mean_forward(ctx, kept, l, hidden); break;
    case PC_HEAD_MAP: y = map_forward(ctx, kept, l, hidden); break;
    case PC_HEAD_NONE: PC_ASSERT(false, "a tower without a head has no embedding"); break;
    }
    if (l->config.head != PC_HEAD_MAP) pc_tap_add(ctx, kept->post, "pooled");
    pc_tap_add(ctx, y, "embedding");
    pc_tap_pop(ctx, tap);
    return y;
}

void pc_vision_head_backward(pc_ctx *ctx, pc_tensor dhidden, pc_vision *l,
                             const pc_vision_kept *kept, pc_tensor dy)
{
    const size_t mark = pc_arena_mark(ctx->scratch);
    switch (l->config.head) {
    case PC_HEAD_CLASS: class_backward(ctx, dhidden, l, kept, dy); break;
    case PC_HEAD_MEAN: mean_backward(ctx, dhidden, l, kept, dy); break;
    case PC_HEAD_MAP: map_backward(ctx, dhidden, l, kept, dy); break;
    case PC_HEAD_NONE: PC_ASSERT(false, "a tower without a head has no embedding"); break;
    }
    pc_arena_release(ctx->scratch, mark);
}

/*
 * decoder.c - the Llama-shaped decoder.
 *
 * Initial values: with `std` above 0 every matrix is normal with it, as published families have it; with 0 each
 * has its own, by Glorot's rule, output projections divided by sqrt(2 L), which small decoders learn better from.
 */
#include "model/networks/decoder.h"

#include <math.h>

#include "model/layers/taps.h"

static double by_size(int64_t in, int64_t out)
{
    return sqrt(2.0 / (double)(in + out));
}

void pc_decoder_params(pc_params *p, pc_decoder *l, const pc_decoder_config *c)
{
    *l = (pc_decoder){.config = *c};
    const bool fixed = c->std > 0.0;
    const int64_t C = c->C, F = c->F, HD = c->H * c->D;
    const double depth = 1.0 / sqrt(2.0 * (double)(c->L > 0 ? c->L : 1));
    // One figure serves both output projections: they differ in width by less than it matters.
    const pc_transformer_config blocks = {.L = c->L,
                                          .C = C,
                                          .H = c->H,
                                          .G = c->G,
                                          .D = c->D,
                                          .F = F,
                                          .norm = PC_RMSNORM,
                                          .eps = c->eps,
                                          .swiglu = true,
                                          .act = PC_ACT_SILU,
                                          .qkv_bias = c->qkv_bias,
                                          .qk_norm = c->qk_norm,
                                          .std = fixed ? c->std : by_size(C, HD),
                                          .out_std =
                                              fixed ? c->std : depth * by_size(C, (F + HD) / 2),
                                          .fc_std = fixed ? c->std : by_size(C, F),
                                          .recompute = c->recompute};
    const size_t prefix = pc_params_push(p, "decoder");
    pc_param_add(p, &l->tokens, "tokens", PC_INIT_NORMAL, fixed ? c->std : 0.1, PC_DIMS(c->V, C));
    pc_param_table(p, &l->tokens);
    pc_transformer_params(p, &l->blocks, &blocks);
    pc_norm_params(p, &l->norm_final, "norm_final", PC_RMSNORM, C, c->eps);
    if (!c->tied) {
        pc_param_add(p, &l->head, "head", PC_INIT_NORMAL, fixed ? c->std : by_size(C, c->V),
                     PC_DIMS(c->V, C));
        pc_param_table(p, &l->head);
    }
    pc_params_pop(p, prefix);
}

void pc_decoder_close(pc_decoder *l)
{
    pc_transformer_close(&l->blocks);
}

pc_status pc_decoder_validate(const pc_decoder_config *c)
{
    if (c->G < 1 || c->H % c->G)
        return pc_fail(PC_ERR_INPUT, "decoder.G: %lld key heads do not divide decoder.H, %lld",
                       (long long)c->G, (long long)c->H);
    if (c->D % 2)
        return pc_fail(PC_ERR_INPUT, "decoder.D: %lld is odd; rotary positions turn pairs",
                       (long long)c->D);
    const bool mrope = c->mrope[0] || c->mrope[1] || c->mrope[2];
    if (pc_decoder_axes(c) && c->window > 0)
        return pc_fail(PC_ERR_INPUT,
                       "decoder.window: goes by positions that count rows, which "
                       "decoder.%s has not",
                       mrope ? "mrope" : "rope_2d: true");
    if (c->rope_2d && mrope)
        return pc_fail(PC_ERR_INPUT, "decoder.rope_2d: true and decoder.mrope exclude each other");
    if (mrope && c->mrope[0] + c->mrope[1] + c->mrope[2] != c->D / 2)
        return pc_fail(PC_ERR_INPUT,
                       "decoder.mrope: %lld + %lld + %lld frequencies; half of decoder.D is %lld",
                       (long long)c->mrope[0], (long long)c->mrope[1], (long long)c->mrope[2],
                       (long long)(c->D / 2));
    const pc_rope_config *r = &c->rope;
    if (r->scaling != PC_ROPE_NONE && !(r->factor >= 1.0))
        return pc_fail(PC_ERR_INPUT, "decoder.rope_factor: %g; at least 1", r->factor);
    if (r->scaling == PC_ROPE_LLAMA3 && !(r->high_freq > r->low_freq && r->low_freq > 0.0))
        return pc_fail(PC_ERR_INPUT,
                       "decoder.rope_high_freq: %g must be above decoder.rope_low_freq, %g",
                       r->high_freq, r->low_freq);
    if (r->scaling == PC_ROPE_YARN && !(r->beta_fast >= r->beta_slow && r->beta_slow > 0.0))
        return pc_fail(PC_ERR_INPUT,
                       "decoder.rope_beta_fast: %g must not be below decoder.rope_beta_slow, %g",
                       r->beta_fast, r->beta_slow);
    if (r->scaling == PC_ROPE_YARN && !(r->theta > 1.0))
        return pc_fail(PC_ERR_INPUT, "decoder.rope_theta: %g; more than 1", r->theta);
    if (r->scaling == PC_ROPE_DYNAMIC && (pc_decoder_axes(c) || c->D < 4))
        return pc_fail(PC_ERR_INPUT,
                       "decoder.rope_scaling: dynamic is for one position a row and heads of at "
                       "least 4");
    if (r->scaling >= PC_ROPE_LLAMA3 && !(r->original_max >= 1.0))
        return pc_fail(PC_ERR_INPUT, "decoder.rope_original_max: %g; at least 1", r->original_max);
    return PC_OK;
}

void pc_decoder_tables(pc_decoder *l, pc_arena *a, pc_dtype t)
{
    // Those of a base that depends on the pass are made in it.
    const bool dynamic = l->config.rope.scaling == PC_ROPE_DYNAMIC;
    pc_rope_tables(&l->rope, a, t, &l->config.rope, dynamic ? 1 : l->config.T, l->config.D);
    if (l->config.rope_2d)
        pc_rope_tables_2d(&l->rope, a);
    else if (pc_decoder_axes(&l->config))
        pc_rope_tables_sections(&l->rope, a, l->config.mrope);
}

bool pc_decoder_axes(const pc_decoder_config *c)
{
    return c->rope_2d || c->mrope[0] || c->mrope[1] || c->mrope[2];
}

pc_tensor pc_decoder_forward(pc_ctx *ctx, pc_decoder_kept *kept, const pc_decoder *l, pc_tensor x,
                             const pc_seq *seq, pc_kv *kv)
{
    *kept = (pc_decoder_kept){.x = x, .seq = *seq};
    kept->seq.rope = l->rope;
    if (pc_decoder_axes(&l->config)) pc_rope_resolve(ctx, &kept->seq);
    if (l->config.rope.scaling == PC_ROPE_DYNAMIC)
        pc_rope_dynamic(ctx, &kept->seq, &l->config.rope, l->config.D);
    const size_t tap = pc_tap_push(ctx, "decoder");
    kept->hidden = pc_transformer_forward(ctx, &kept->blocks, &l->blocks, x, &kept->seq, NULL, kv,
                                          l->config.L);
    // Without blocks `hidden` is the caller's x; in inference a fresh one may be overwritten.
    const bool fresh = ctx->grad_ops || l->config.L == 0;
    kept->normed = fresh ? pc_alloc_like(ctx->act, x) : kept->hidden;
    pc_norm_forward(ctx, kept->normed, &kept->norm_final, &l->norm_final, kept->hidden);
    pc_tap_add(ctx, kept->normed, "normed");
    pc_tap_pop(ctx, tap);
    return kept->normed;
}

bool pc_decoder_trains(const pc_decoder *l)
{
    return pc_present(l->tokens.g) || pc_transformer_trains(&l->blocks, l->config.L) ||
           pc_norm_trains(&l->norm_final) || pc_present(l->head.g);
}

void pc_decoder_backward(pc_ctx *ctx, pc_tensor dx, pc_decoder *l, const pc_decoder_kept *kept,
                         pc_tensor dnormed)
{
    const bool blocks = pc_present(dx) || pc_transformer_trains(&l->blocks, l->config.L);
    if (!blocks && !pc_norm_trains(&l->norm_final)) return;
    pc_norm_backward(ctx, dnormed, &l->norm_final, &kept->norm_final, dnormed, kept->hidden,
                     PC_NONE);
    if (blocks) pc_transformer_backward(ctx, dx, &l->blocks, &kept->blocks, dnormed, &kept->seq);
}

const pc_weight *pc_decoder_head(const pc_decoder *l)
{
    return l->config.tied ? &l->tokens : &l->head;
}

void pc_decoder_logits(pc_ctx *ctx, pc_tensor logits, const pc_decoder *l, pc_tensor rows)
{
    ctx->ops->linear_forward(ctx, logits, rows, pc_decoder_head(l)->w, PC_NONE, PC_NONE);
}

/*
 * vision.c - the tower: stem, tokens, blocks. The heads are in vision_head.c.
 */
#include "model/networks/vision.h"

#include <math.h>

#include "model/layers/mask.h"
#include "model/layers/taps.h"

/* Levels of the stem: one unfolding of whole patches, or a convolution for each halving. */
static int levels(const pc_vision_config *c)
{
    int n = 0;
    if (c->stem == PC_STEM_PATCH) return 1;
    while (((int64_t)1 << n) < c->patch) n++;
    return n;
}

static int64_t grid(const pc_vision_config *c)
{
    return c->image_size / c->patch;
}

/* The side of the position table. */
static int64_t table_side(const pc_vision_config *c)
{
    return c->table > 0 ? c->table : grid(c);
}

int64_t pc_vision_tokens(const pc_vision_config *c)
{
    return grid(c) * grid(c) + c->class_token;
}

static void stem_params(pc_params *p, pc_vision *l)
{
    const pc_vision_config *c = &l->config;
    const bool conv = c->stem == PC_STEM_CONV;
    const int64_t kernel = conv ? 3 : c->patch, step = conv ? 2 : c->patch;
    const size_t prefix = pc_params_push(p, "stem");
    int64_t channels = 3;
    l->stems = levels(c);
    for (int i = 0; i < l->stems; i++) {
        const int64_t I = channels * kernel * kernel;
        const int64_t O = i == l->stems - 1 ? c->C : c->stem_width << i;
        // Each input feeds O outputs at (kernel/step)^2 places (Glorot and Bengio 2010, for convolutions).
        const double out = (double)(O * kernel * kernel) / (double)(step * step);
        const char name[] = {(char)('0' + i), '\0'};
        pc_linear_params(p, &l->stem[i], name, I, O, conv || c->patch_bias,
                         sqrt(2.0 / ((double)I + out)));
        channels = O;
    }
    pc_param_hidden(p, &l->stem[0].weight, false); // it reads pixels
    pc_params_pop(p, prefix);
}

void pc_vision_params(pc_params *p, pc_vision *l, const pc_vision_config *c)
{
    *l = (pc_vision){.config = *c};
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
    const size_t prefix = pc_params_push(p, "vision");
    stem_params(p, l);
    if (c->class_token)
        pc_param_add(p, &l->class_token, "class_token", PC_INIT_NORMAL, narrow, PC_DIMS(1, c->C));
    pc_param_add(p, &l->positions, "positions", PC_INIT_NORMAL, narrow,
                 PC_DIMS(table_side(c) * table_side(c) + c->class_token, c->C));
    if (c->pre_norm) pc_norm_params(p, &l->norm_pre, "norm_pre", PC_LAYERNORM, c->C, c->eps);
    pc_transformer_params(p, &l->blocks, &blocks);
    pc_vision_head_params(p, l);
    pc_params_pop(p, prefix);
    for (int i = 0; i < p->count; i++) { // tables and single rows are no matrices: not decayed
        const pc_weight *w = p->list[i].weight;
        if (w == &l->class_token || w == &l->positions || w == &l->probe) p->list[i].decay = false;
    }
}

void pc_vision_close(pc_vision *l)
{
    pc_transformer_close(&l->blocks);
}

pc_status pc_vision_validate(const pc_vision_config *c)
{
    if (c->L == 0) return PC_OK;
    if (c->image_size < c->patch)
        return pc_fail(PC_ERR_INPUT, "vision.image_size: %lld is less than vision.patch, %lld",
                       (long long)c->image_size, (long long)c->patch);
    if (c->H < 1 || c->C % c->H)
        return pc_fail(PC_ERR_INPUT, "vision.H: %lld heads do not divide vision.C, %lld",
                       (long long)c->H, (long long)c->C);
    if (c->stem == PC_STEM_CONV) {
        const int n = levels(c);
        if (c->patch != (int64_t)1 << n || n < 1 || n > PC_STEM_MAX)
            return pc_fail(PC_ERR_INPUT, "vision.patch: %lld; a conv stem needs 2, 4, 8, 16 or 32",
                           (long long)c->patch);
        if (c->stem_width < 1)
            return pc_fail(PC_ERR_INPUT, "vision.stem_width: %lld; a conv stem needs 1 or more",
                           (long long)c->stem_width);
        if (c->image_size % c->patch)
            return pc_fail(PC_ERR_INPUT,
                           "vision.image_size: %lld is no multiple of vision.patch, %lld",
                           (long long)c->image_size, (long long)c->patch);
    }
    if (c->head == PC_HEAD_CLASS && !c->class_token)
        return pc_fail(PC_ERR_INPUT, "vision.head: class needs vision.class_token: true");
    if (c->head == PC_HEAD_MAP && c->head_F < 1)
        return pc_fail(PC_ERR_INPUT, "vision.head_F: %lld; a map head needs 1 or more",
                       (long long)c->head_F);
    if (c->head == PC_HEAD_MAP && c->E != c->C)
        return pc_fail(PC_ERR_INPUT, "vision.E: %lld; a map head gives vision.C, %lld",
                       (long long)c->E, (long long)c->C);
    return PC_OK;
}

/*
 * Pixels to patch rows (B*P, C), written to `rows`. A level's output is rows of channels, so it feeds the next
 * unfolding as it is.
 */
static void stem_forward(pc_ctx *ctx, pc_tensor rows, pc_vision_kept *kept, const pc_vision *l,
                         pc_tensor pixels)
{
    const pc_vision_config *c = &l->config;
    const bool convolve = c->stem == PC_STEM_CONV;
    pc_conv conv = {.B = pixels.dim[0],
                    .C = 3,
                    .H = pixels.dim[2],
                    .W = pixels.dim[3],
                    .kernel = convolve ? 3 : c->patch,
                    .step = convolve ? 2 : c->patch,
                    .pad = convolve};
    pc_tensor x = pixels;
    for (int i = 0; i < l->stems; i++) {
        const pc_linear *linear = &l->stem[i];
        conv.out_h = (conv.H + 2 * conv.pad - conv.kernel) / conv.step + 1;
        conv.out_w = (conv.W + 2 * conv.pad - conv.kernel) / conv.step + 1;
        const int64_t N = conv.B * conv.out_h * conv.out_w;
        kept->conv[i] = conv;
        kept->cols[i] = pc_alloc2(ctx->act, ctx->real, N, linear->I);
        ctx->ops->im2col_forward(ctx, kept->cols[i], x, &conv);
        if (i == l->stems - 1) {
            pc_linear_forward(ctx, rows, linear, kept->cols[i], PC_NONE);
            return;
        }
        kept->stem_z[i] = pc_alloc2(ctx->act, ctx->real, N, linear->O);
        kept->stem_a[i] = pc_alloc2(ctx->act, ctx->real, N, linear->O);
        pc_linear_act_forward(ctx, kept->stem_a[i], kept->stem_z[i], linear, kept->cols[i], c->act);
        x = kept->stem_a[i];
        conv.C = linear->O;
        conv.H = conv.out_h;
        conv.W = conv.out_w;
        conv.channels_last = true;
    }
}

static void stem_backward(pc_ctx *ctx, pc_vision *l, const pc_vision_kept *kept, pc_tensor drows)
{
    int lowest = 0; // below it nothing is trained
    while (lowest < l->stems && !pc_linear_trains(&l->stem[lowest])) lowest++;
    pc_tensor dy = drows;
    for (int i = l->stems - 1; i >= lowest; i--) {
        if (i == lowest) {
            pc_linear_backward(ctx, PC_NONE, &l->stem[i], dy, kept->cols[i]);
            return;
        }
        // Through the product, the unfolding and the activation of the level below.
        const pc_tensor da = pc_alloc_like(ctx->scratch, kept->stem_a[i - 1]);
        const size_t mark = pc_arena_mark(ctx->scratch);
        const pc_tensor dcols = pc_alloc_like(ctx->scratch, kept->cols[i]);
        pc_linear_backward(ctx, dcols, &l->stem[i], dy, kept->cols[i]);
        ctx->grad_ops->im2col_backward(ctx, da, dcols, &kept->conv[i]);
        pc_arena_release(ctx->scratch, mark);
        pc_linear_act_backward(ctx, da, &l->stem[i - 1], da, kept->stem_z[i - 1], l->config.act);
        dy = da;
    }
}

/* Which row is what: image b owns rows [b N1, (b+1) N1), the class token first. */
static void number_rows(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision_config *c)
{
    const int64_t B = kept->B, P = kept->h * kept->w, N1 = P + c->class_token;
    kept->pos_index = pc_alloc1(ctx->act, PC_I32, B * N1);
    if (c->class_token) {
        kept->patch_rows = pc_alloc1(ctx->act, PC_I32, B * P);
        kept->cls_ids = pc_alloc1(ctx->act, PC_I32, B * N1);
    }
    if (ctx->act->dry) return;
    for (int64_t n = 0; n < B * N1; n++) {
        pc_i32(kept->pos_index)[n] = (int32_t)(n % N1);
        if (c->class_token) pc_i32(kept->cls_ids)[n] = n % N1 == 0 ? 0 : -1;
    }
    if (c->class_token)
        for (int64_t n = 0; n < B * P; n++)
            pc_i32(kept->patch_rows)[n] = (int32_t)(n / P * N1 + 1 + n % P);
}

static bool resized(const pc_vision_config *c, const pc_vision_kept *kept)
{
    return kept->h != table_side(c) || kept->w != table_side(c);
}

/* The position table for another grid: the class token's row as it is, the others interpolated. */
static pc_tensor positions_for(pc_ctx *ctx, const pc_vision *l, const pc_vision_kept *kept)
{
    const pc_vision_config *c = &l->config;
    const pc_tensor table = l->positions.w;
    if (!resized(c, kept)) return table;
    const int64_t cls = c->class_token, P = kept->h * kept->w, g = table_side(c);
    const pc_tensor out = pc_alloc2(ctx->act, ctx->real, P + cls, c->C);
    if (cls) ctx->ops->copy_forward(ctx, pc_rows(out, 0, 1), pc_rows(table, 0, 1));
    ctx->ops->resize_grid_forward(ctx, pc_rows(out, cls, P + cls), pc_rows(table, cls, g * g + cls),
                                  kept->h, kept->w, g, g);
    return out;
}

static void positions_backward(pc_ctx *ctx, pc_vision *l, const pc_vision_kept *kept,
                               pc_tensor dtokens)
{
    const pc_vision_config *c = &l->config;
    const pc_tensor dtable = l->positions.g;
    if (!pc_present(dtable)) return;
    if (!resized(c, kept)) {
        ctx->grad_ops->add_rows_backward(ctx, dtable, dtokens, kept->pos_index);
        return;
    }
    const int64_t cls = c->class_token, P = kept->h * kept->w, g = table_side(c);
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor d = pc_alloc2(ctx->scratch, ctx->real, P + cls, c->C);
    ctx->ops->zero_forward(ctx, d);
    ctx->grad_ops->add_rows_backward(ctx, d, dtokens, kept->pos_index);
    if (cls) ctx->grad_ops->accumulate(ctx, pc_rows(dtable, 0, 1), pc_rows(d, 0, 1));
    ctx->grad_ops->resize_grid_backward(ctx, pc_rows(dtable, cls, g * g + cls),
                                        pc_rows(d, cls, P + cls), kept->h, kept->w, g, g);
    pc_arena_release(ctx->scratch, mark);
}

static pc_tensor class_rows(pc_arena *a, int64_t B, int64_t N1)
{
    const pc_tensor rows = pc_alloc1(a, PC_I32, B);
    for (int64_t b = 0; b < B && !a->dry; b++) pc_i32(rows)[b] = (int32_t)(b * N1);
    return rows;
}

/* What the blocks read: stem, class token, positions, norm_pre. */
static pc_tensor tokens_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l,
                                pc_tensor pixels, bool interpolate)
{
    const pc_vision_config *c = &l->config;
    const int64_t B = pixels.dim[0];
    *kept = (pc_vision_kept){.B = B, .h = pixels.dim[2] / c->patch, .w = pixels.dim[3] / c->patch};
    const int64_t P = kept->h * kept->w, N1 = P + c->class_token;
    PC_ASSERT(pixels.rank == 4 && pixels.dim[1] == 3 && P > 0, "pixels (%lld,%lld,%lld,%lld)",
              (long long)B, (long long)pixels.dim[1], (long long)pixels.dim[2],
              (long long)pixels.dim[3]);
    PC_ASSERT(interpolate || (kept->h == grid(c) && kept->w == grid(c)),
              "images of %lld x %lld, positions for %lld x %lld", (long long)pixels.dim[3],
              (long long)pixels.dim[2], (long long)c->image_size, (long long)c->image_size);

    number_rows(ctx, kept, c);
    pc_mask_full(&kept->seq.mask, ctx->act, B, N1, N1, 0);
    kept->tokens = pc_alloc2(ctx->act, ctx->real, B * N1, c->C);
    pc_tensor x = kept->tokens;
    if (c->pre_norm) x = kept->pre = pc_alloc_like(ctx->act, kept->tokens);
    const size_t mark = pc_arena_mark(ctx->act);
    if (c->class_token) {
        const pc_tensor rows = pc_alloc2(ctx->act, ctx->real, B * P, c->C);
        stem_forward(ctx, rows, kept, l, pixels);
        ctx->ops->splice_forward(ctx, kept->tokens, rows, kept->patch_rows);
        ctx->ops->embedding_forward(ctx, kept->tokens, kept->cls_ids, l->class_token.w);
    } else {
        stem_forward(ctx, kept->tokens, kept, l, pixels);
    }
    ctx->ops->add_rows_forward(ctx, kept->tokens, kept->tokens, positions_for(ctx, l, kept),
                               kept->pos_index);
    if (c->pre_norm) pc_norm_forward(ctx, x, &kept->norm_pre, &l->norm_pre, kept->tokens);
    if (!ctx->grad_ops) pc_arena_release(ctx->act, mark);
    return x;
}

pc_tensor pc_vision_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l, pc_tensor pixels,
                            int64_t stop, bool interpolate)
{
    const pc_vision_config *c = &l->config;
    const size_t tap = pc_tap_push(ctx, "vision");
    const pc_tensor x = tokens_forward(ctx, kept, l, pixels, interpolate);
    const int64_t B = kept->B, N1 = x.dim[0] / B;
    const bool class_alone = c->head == PC_HEAD_CLASS && stop > 0 && stop == c->L && !ctx->taps;
    pc_read read;
    if (class_alone) pc_read_rows(&read, ctx->act, &kept->seq, class_rows(ctx->act, B, N1), B * N1);
    kept->hidden = pc_transformer_forward(ctx, &kept->blocks, &l->blocks, x, &kept->seq,
                                          class_alone ? &read : NULL, NULL, stop);
    pc_tap_pop(ctx, tap);
    return kept->hidden;
}

/* Blocks [begin, L) as a stack of their own. */
static pc_transformer blocks_from(const pc_transformer *l, int64_t begin)
{
    pc_transformer part = *l;
    part.blocks += begin;
    part.planned += begin;
    part.config.L -= begin;
    return part;
}

void pc_vision_forward_layers(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l,
                              pc_tensor pixels, const int64_t *stops, int n, pc_tensor *out)
{
    struct pc_taps *const taps = ctx->taps;
    const size_t tap = pc_tap_push(ctx, "vision");
    pc_tensor x = tokens_forward(ctx, kept, l, pixels, false);
    PC_ASSERT(n >= 1 && n <= PC_LAYERS_MAX, "%d hidden states", n);
    for (int i = 0; i < n; i++) {
        const int64_t begin = i ? stops[i - 1] : 0;
        const pc_transformer part = blocks_from(&l->blocks, begin);
        out[i] = x = pc_transformer_forward(ctx, i ? &kept->more[i - 1] : &kept->blocks, &part, x,
                                            &kept->seq, NULL, NULL, stops[i] - begin);
        ctx->taps = NULL; // the next part would use the same names again
    }
    ctx->taps = taps;
    kept->hidden = x;
    pc_tap_pop(ctx, tap);
}

static bool stem_trains(const pc_vision *l)
{
    for (int i = 0; i < l->stems; i++)
        if (pc_linear_trains(&l->stem[i])) return true;
    return false;
}

bool pc_vision_trains(const pc_vision *l, int64_t stop)
{
    return stem_trains(l) || pc_present(l->class_token.g) || pc_present(l->positions.g) ||
           pc_norm_trains(&l->norm_pre) || pc_transformer_trains(&l->blocks, stop);
}

/* From the gradient of what the blocks read, all rows' of it. */
static void tokens_backward(pc_ctx *ctx, pc_vision *l, const pc_vision_kept *kept, pc_tensor d)
{
    const pc_vision_config *c = &l->config;
    if (c->pre_norm)
        pc_norm_backward(ctx, d, &l->norm_pre, &kept->norm_pre, d, kept->tokens, PC_NONE);
    positions_backward(ctx, l, kept, d);
    if (pc_present(l->class_token.g))
        ctx->grad_ops->embedding_backward(ctx, l->class_token.g, d, kept->cls_ids);
    pc_tensor drows = d;
    if (c->class_token && stem_trains(l)) {
        drows = pc_alloc2(ctx->scratch, ctx->real, kept->B * kept->h * kept->w, c->C);
        ctx->grad_ops->splice_backward(ctx, drows, d, kept->patch_rows);
    }
    stem_backward(ctx, l, kept, drows);
}

void pc_vision_backward(pc_ctx *ctx, pc_vision *l, const pc_vision_kept *kept, pc_tensor dhidden)
{
    const bool tokens = pc_vision_trains(l, 0); // something below the blocks is trained
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor d =
        kept->blocks.reads ? pc_alloc_like(ctx->scratch, kept->tokens) : dhidden; // all rows'
    pc_transformer_backward(ctx, tokens ? d : PC_NONE, &l->blocks, &kept->blocks, dhidden,
                            &kept->seq);
    if (tokens) tokens_backward(ctx, l, kept, d);
    pc_arena_release(ctx->scratch, mark);
}

void pc_vision_backward_layers(pc_ctx *ctx, pc_vision *l, const pc_vision_kept *kept,
                               const int64_t *stops, int n, const pc_tensor *d)
{
    const size_t mark = pc_arena_mark(ctx->scratch);
    bool below = true;
    pc_tensor g = d[n - 1];
    for (int i = n - 1; i >= 0 && below; i--) {
        const int64_t begin = i ? stops[i - 1] : 0;
        pc_transformer part = blocks_from(&l->blocks, begin);
        below = pc_vision_trains(l, begin);
        pc_transformer_backward(ctx, below ? g : PC_NONE, &part,
                                i ? &kept->more[i - 1] : &kept->blocks, g, &kept->seq);
        if (!below || i == 0) continue;
        ctx->ops->add_forward(ctx, d[i - 1], d[i - 1], g); // the two paths meet
        g = d[i - 1];
    }
    if (below) tokens_backward(ctx, l, kept, g);
    pc_arena_release(ctx->scratch, mark);
}

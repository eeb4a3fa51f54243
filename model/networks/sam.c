/*
 * sam.c - see sam.h for formulas and shapes.
 *
 * Queries, keys and values are computed for real rows alone and put into the windows' places, the padding's are the
 * bias; their gradient goes back the same way, the padding's to the bias. Output projection, residual and MLP see
 * real rows alone too: cropping before a map of rows is cropping after it.
 *
 * In inference and with recompute a block's activations leave the arena when it is done; in inference the residual
 * stream is one buffer.
 */
#include "model/networks/sam.h"

#include <math.h>
#include <stdlib.h>

#include "model/layers/mask.h"
#include "model/layers/taps.h"

int64_t pc_sam_side(const pc_sam_config *c)
{
    return c->image_size / c->patch;
}

static bool is_global(const pc_sam_config *c, int64_t block)
{
    return c->window == 0 || (c->globals >> block & 1);
}

/* ------------------------------------------------------------------------ parameters */

static void block_params(pc_params *p, pc_sam_block *b, const pc_sam_config *c, int64_t side)
{
    const int64_t C = c->C;
    const double narrow = 1.0 / sqrt((double)C), out = narrow / sqrt(2.0 * (double)c->L);
    const pc_mlp_config mlp = {.C = C,
                               .F = c->F,
                               .O = C,
                               .bias = true,
                               .act = c->act,
                               .std = 1.0 / sqrt(2.0 * (double)C),
                               .out_std = out};
    const int64_t qkv[] = {C, C, C};
    *b = (pc_sam_block){0};
    pc_norm_params(p, &b->norm1, "norm1", PC_LAYERNORM, C, c->eps);
    const size_t prefix = pc_params_push(p, "attn");
    pc_linear_params(p, &b->qkv, "qkv", C, 3 * C, c->qkv_bias, narrow);
    pc_param_fused(p, &b->qkv.weight, 3, qkv);
    pc_linear_params(p, &b->out, "out", C, C, true, out);
    if (c->relative) { // SAM begins with no preference for any place
        const int64_t D = C / c->H;
        pc_param_add(p, &b->rel_h, "rel_h", PC_INIT_ZERO, 0.0, PC_DIMS(2 * side - 1, D));
        if (p->count > 0) p->list[p->count - 1].decay = false;
        pc_param_add(p, &b->rel_w, "rel_w", PC_INIT_ZERO, 0.0, PC_DIMS(2 * side - 1, D));
        if (p->count > 0) p->list[p->count - 1].decay = false;
    }
    pc_params_pop(p, prefix);
    pc_norm_params(p, &b->norm2, "norm2", PC_LAYERNORM, C, c->eps);
    pc_mlp_params(p, &b->mlp, "mlp", &mlp);
}

void pc_sam_params(pc_params *p, pc_sam *l, const pc_sam_config *c)
{
    *l = (pc_sam){.config = *c};
    l->blocks = calloc((size_t)c->L + 1, sizeof *l->blocks);
    l->planned = calloc((size_t)c->L + 1, sizeof *l->planned);
    if (!l->blocks || !l->planned) {
        p->status = pc_fail(PC_ERR_MEMORY, "%lld blocks", (long long)c->L);
        return;
    }
    const int64_t side = pc_sam_side(c), I = 3 * c->patch * c->patch;
    pc_linear_params(p, &l->stem, "stem", I, c->C, true, sqrt(2.0 / (double)(I + c->C)));
    pc_param_hidden(p, &l->stem.weight, false); // it reads pixels
    if (c->positions) {
        pc_param_add(p, &l->positions, "positions", PC_INIT_NORMAL, 1.0 / sqrt((double)c->C),
                     PC_DIMS(side * side, c->C));
        if (p->count > 0) p->list[p->count - 1].decay = false;
    }
    for (int64_t i = 0; i < c->L; i++) {
        const size_t prefix = pc_params_push(p, "blocks.%lld", (long long)i);
        block_params(p, &l->blocks[i], c, is_global(c, i) ? side : c->window);
        pc_params_pop(p, prefix);
    }
}

void pc_sam_close(pc_sam *l)
{
    free(l->blocks);
    free(l->planned);
    l->blocks = NULL;
    l->planned = NULL;
}

pc_status pc_sam_validate(const pc_sam_config *c)
{
    if (c->L < 1 || c->L > PC_SAM_MAX)
        return pc_fail(PC_ERR_INPUT, "high.L: %lld blocks; expected 1 .. %d", (long long)c->L,
                       PC_SAM_MAX);
    if (c->H < 1 || c->C % c->H)
        return pc_fail(PC_ERR_INPUT, "high.H: %lld heads do not divide high.C, %lld",
                       (long long)c->H, (long long)c->C);
    if (c->patch < 1 || c->image_size < c->patch || c->image_size % c->patch)
        return pc_fail(PC_ERR_INPUT, "high.image_size: %lld is no multiple of high.patch, %lld",
                       (long long)c->image_size, (long long)c->patch);
    if (c->window < 0)
        return pc_fail(PC_ERR_INPUT, "high.window: %lld; expected 0 or more", (long long)c->window);
    const int64_t side = pc_sam_side(c), window = c->window > 0 ? c->window : 1;
    const int64_t padded = (side + window - 1) / window * window;
    if (padded > 4 * side) // whose padding alone would take what no image asks for
        return pc_fail(PC_ERR_INPUT, "high.window: %lld; the grid has %lld patches along a side",
                       (long long)window, (long long)side);
    if (padded > PC_SAM_SIDE_MAX)
        return pc_fail(PC_ERR_INPUT, "high.%s: %lld patches along a side; expected at most %d",
                       side > PC_SAM_SIDE_MAX ? "image_size" : "window", (long long)padded,
                       PC_SAM_SIDE_MAX);
    if (c->globals < 0 || c->globals >> c->L)
        return pc_fail(PC_ERR_INPUT,
                       "high.globals: names a block that is not there; high.L is %lld",
                       (long long)c->L);
    if (c->middle < 0 || c->middle >= c->L)
        return pc_fail(PC_ERR_INPUT, "high.middle: block %lld; expected 0 .. %lld",
                       (long long)c->middle, (long long)c->L - 1);
    if (c->neck < 1) return pc_fail(PC_ERR_INPUT, "high.neck: %lld channels", (long long)c->neck);
    return PC_OK;
}

static bool block_trains(const pc_sam_block *b)
{
    return pc_norm_trains(&b->norm1) || pc_linear_trains(&b->qkv) || pc_linear_trains(&b->out) ||
           pc_present(b->rel_h.g) || pc_present(b->rel_w.g) || pc_norm_trains(&b->norm2) ||
           pc_mlp_trains(&b->mlp);
}

static bool tokens_train(const pc_sam *l)
{
    return pc_linear_trains(&l->stem) || pc_present(l->positions.g);
}

bool pc_sam_trains(const pc_sam *l)
{
    for (int64_t i = 0; i < l->config.L; i++)
        if (block_trains(&l->blocks[i])) return true;
    return tokens_train(l);
}

/* --------------------------------------------------------------------------- windows */

static void whole_grid(pc_sam_windows *w, pc_arena *a, int64_t B, int64_t side)
{
    *w = (pc_sam_windows){.side = side, .M = B * side * side};
    pc_mask_full(&w->mask, a, B, side * side, side * side, 0);
}

static void cut_windows(pc_sam_windows *w, pc_arena *a, int64_t B, int64_t side, int64_t window)
{
    const int64_t across = (side + window - 1) / window, P = side * side, area = window * window;
    *w = (pc_sam_windows){.side = window, .M = B * across * across * area};
    pc_mask_full(&w->mask, a, B * across * across, area, area, 0);
    w->place = pc_alloc1(a, PC_I32, B * P);
    if (side % window) w->padding = pc_alloc1(a, PC_I32, w->M);
    if (a->dry) return;
    for (int64_t m = 0; m < w->M && side % window; m++) pc_i32(w->padding)[m] = 0;
    for (int64_t n = 0; n < B * P; n++) {
        const int64_t y = n % P / side, x = n % side;
        const int64_t cut = (n / P * across + y / window) * across + x / window;
        const int64_t m = cut * area + y % window * window + x % window;
        pc_i32(w->place)[n] = (int32_t)m;
        if (side % window) pc_i32(w->padding)[m] = -1;
    }
}

/* Heads of one of the three parts of a fused buffer: (M,H,D). */
static pc_tensor heads(const pc_sam_config *c, pc_tensor qkv, int part)
{
    return pc_as_heads(pc_cols(qkv, part * c->C, (part + 1) * c->C), c->C / c->H);
}

/* A vector as a table of one row. */
static pc_tensor one_row(pc_tensor v)
{
    return pc_present(v) ? pc_reshape2(v, 1, pc_numel(v)) : PC_NONE;
}

/* ----------------------------------------------------------------------------- block */

static void windows_qkv(pc_ctx *ctx, pc_tensor qkv, const pc_sam_block *b, pc_tensor n1,
                        const pc_sam_windows *w)
{
    if (!pc_present(w->place)) {
        pc_linear_forward(ctx, qkv, &b->qkv, n1, PC_NONE);
        return;
    }
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor rows = pc_alloc2(ctx->scratch, ctx->real, n1.dim[0], qkv.dim[1]);
    pc_linear_forward(ctx, rows, &b->qkv, n1, PC_NONE);
    if (pc_present(w->padding) && b->qkv.has_bias)
        ctx->ops->embedding_forward(ctx, qkv, w->padding, one_row(b->qkv.bias.w));
    else if (pc_present(w->padding))
        ctx->ops->zero_forward(ctx, qkv);
    ctx->ops->splice_forward(ctx, qkv, rows, w->place);
    pc_arena_release(ctx->scratch, mark);
}

/*
 * out = block(x), out and h given: out == h == x is allowed when nothing is kept. Without `out` the block is being
 * run again for backward: the last product is left out.
 */
static void block_forward(pc_ctx *ctx, pc_tensor out, pc_tensor h, pc_sam_block_kept *kept,
                          const pc_sam_block *b, const pc_sam_config *c, pc_tensor x,
                          const pc_sam_windows *w)
{
    const int64_t H = c->H, D = c->C / H, M = w->M;
    const double scale = 1.0 / sqrt((double)D);
    kept->x = x;
    kept->h = h;
    kept->n1 = pc_alloc_like(ctx->act, x);
    pc_norm_forward(ctx, kept->n1, &kept->norm1, &b->norm1, x);

    kept->qkv = pc_alloc2(ctx->act, ctx->real, M, 3 * c->C);
    kept->o = pc_alloc2(ctx->act, ctx->real, M, c->C);
    kept->lse = pc_alloc2(ctx->act, pc_stat(ctx), M, H);
    windows_qkv(ctx, kept->qkv, b, kept->n1, w);
    const pc_tensor q = heads(c, kept->qkv, 0), k = heads(c, kept->qkv, 1);
    const pc_tensor v = heads(c, kept->qkv, 2), o = pc_as_heads(kept->o, D);
    if (c->relative) {
        kept->rh = pc_alloc3(ctx->act, ctx->real, M, H, w->side);
        kept->rw = pc_alloc3(ctx->act, ctx->real, M, H, w->side);
        ctx->ops->rel_terms_forward(ctx, kept->rh, kept->rw, q, b->rel_h.w, b->rel_w.w);
        ctx->ops->rel_attention_forward(ctx, o, kept->lse, q, k, v, kept->rh, kept->rw, &w->mask,
                                        scale);
    } else {
        ctx->ops->attention_forward(ctx, o, kept->lse, q, k, v, &w->mask, scale);
    }
    kept->crop = kept->o;
    if (pc_present(w->place)) {
        kept->crop = pc_alloc_like(ctx->act, x);
        ctx->ops->gather_forward(ctx, kept->crop, kept->o, w->place);
    }
    pc_linear_forward(ctx, h, &b->out, kept->crop, x);

    kept->n2 = pc_alloc_like(ctx->act, x);
    pc_norm_forward(ctx, kept->n2, &kept->norm2, &b->norm2, h);
    pc_mlp_forward(ctx, out, &kept->mlp, &b->mlp, kept->n2, h);
}

/* dn1 from g, the gradient of the attention's output rows; absent: for the parameters' sake alone. */
static void attention_backward(pc_ctx *ctx, pc_tensor dn1, pc_tensor g, pc_sam_block *b,
                               const pc_sam_config *c, const pc_sam_block_kept *kept,
                               const pc_sam_windows *w)
{
    const int64_t D = c->C / c->H;
    const double scale = 1.0 / sqrt((double)D);
    const bool inside = pc_present(dn1) || pc_linear_trains(&b->qkv) || pc_present(b->rel_h.g) ||
                        pc_present(b->rel_w.g);
    if (!inside) {
        pc_linear_backward(ctx, PC_NONE, &b->out, g, kept->crop);
        return;
    }
    const size_t mark = pc_arena_mark(ctx->scratch);
    pc_tensor dqkv = PC_NONE;
    if (pc_present(w->place)) dqkv = pc_alloc2(ctx->scratch, ctx->real, g.dim[0], 3 * c->C);
    const size_t inner = pc_arena_mark(ctx->scratch);
    const pc_tensor dall = pc_alloc_like(ctx->scratch, kept->qkv);
    const pc_tensor dq = heads(c, dall, 0), dk = heads(c, dall, 1), dv = heads(c, dall, 2);
    const pc_tensor q = heads(c, kept->qkv, 0), k = heads(c, kept->qkv, 1);
    const pc_tensor v = heads(c, kept->qkv, 2), o = pc_as_heads(kept->o, D);

    const size_t innermost = pc_arena_mark(ctx->scratch);
    pc_tensor dout = pc_alloc_like(ctx->scratch, kept->crop);
    pc_linear_backward(ctx, dout, &b->out, g, kept->crop);
    if (pc_present(w->place)) {
        const pc_tensor rows = dout;
        dout = pc_alloc_like(ctx->scratch, kept->o);
        ctx->grad_ops->gather_backward(ctx, dout, rows, w->place);
    }
    if (c->relative) {
        const pc_tensor drh = pc_alloc_like(ctx->scratch, kept->rh);
        const pc_tensor drw = pc_alloc_like(ctx->scratch, kept->rw);
        ctx->grad_ops->rel_attention_backward(ctx, dq, dk, dv, drh, drw, pc_as_heads(dout, D), q, k,
                                              v, kept->rh, kept->rw, o, kept->lse, &w->mask, scale);
        ctx->grad_ops->rel_terms_backward(ctx, dq, b->rel_h.g, b->rel_w.g, drh, drw, q, b->rel_h.w,
                                          b->rel_w.w, dq);
    } else {
        ctx->grad_ops->attention_backward(ctx, dq, dk, dv, pc_as_heads(dout, D), q, k, v, o,
                                          kept->lse, &w->mask, scale);
    }
    pc_arena_release(ctx->scratch, innermost);

    if (pc_present(w->place)) {
        if (pc_present(w->padding) && pc_present(b->qkv.bias.g))
            ctx->grad_ops->embedding_backward(ctx, one_row(b->qkv.bias.g), dall, w->padding);
        ctx->grad_ops->splice_backward(ctx, dqkv, dall, w->place);
        pc_arena_release(ctx->scratch, inner);
    } else {
        dqkv = dall;
    }
    pc_linear_backward(ctx, dn1, &b->qkv, dqkv, kept->n1);
    pc_arena_release(ctx->scratch, mark);
}

/*
 * g (N,C): the gradient of the block's output, consumed; becomes that of its input when `onward`. Otherwise it is
 * computed only as far as a gradient of the block needs it.
 */
static void block_backward(pc_ctx *ctx, pc_tensor g, bool onward, pc_sam_block *b,
                           const pc_sam_config *c, const pc_sam_block_kept *kept,
                           const pc_sam_windows *w)
{
    const bool first = onward || pc_norm_trains(&b->norm1); // the gradient reaches norm1
    const bool attn = first || pc_linear_trains(&b->qkv) || pc_linear_trains(&b->out) ||
                      pc_present(b->rel_h.g) || pc_present(b->rel_w.g);
    const bool second = attn || pc_norm_trains(&b->norm2);

    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor dn = pc_alloc_like(ctx->scratch, g);
    pc_mlp_backward(ctx, second ? dn : PC_NONE, &b->mlp, &kept->mlp, g, kept->n2);
    if (second) pc_norm_backward(ctx, g, &b->norm2, &kept->norm2, dn, kept->h, g);
    if (attn) attention_backward(ctx, first ? dn : PC_NONE, g, b, c, kept, w);
    if (first) pc_norm_backward(ctx, g, &b->norm1, &kept->norm1, dn, kept->x, g);
    pc_arena_release(ctx->scratch, mark);
}

/* The forward of a block once more: what it keeps goes to scratch, where the caller's mark frees it. */
static void recompute(pc_ctx *ctx, pc_sam_block_kept *block, const pc_sam_block *b,
                      const pc_sam_config *c, const pc_sam_windows *w)
{
    pc_arena *const act = ctx->act;
    const pc_tensor x = block->x;
    ctx->act = ctx->scratch;
    block_forward(ctx, PC_NONE, pc_alloc_like(ctx->scratch, x), block, b, c, x, w);
    ctx->act = act;
}

/* ----------------------------------------------------------------------------- tower */

/* Pixels to rows with positions. */
static void stem_forward(pc_ctx *ctx, pc_tensor x, pc_sam_kept *kept, const pc_sam *l,
                         pc_tensor pixels)
{
    const pc_sam_config *c = &l->config;
    const int64_t side = pc_sam_side(c), N = x.dim[0];
    kept->conv = (pc_conv){.B = pixels.dim[0],
                           .C = 3,
                           .H = c->image_size,
                           .W = c->image_size,
                           .kernel = c->patch,
                           .step = c->patch,
                           .out_h = side,
                           .out_w = side};
    kept->cols = pc_alloc2(ctx->act, ctx->real, N, l->stem.I);
    ctx->ops->im2col_forward(ctx, kept->cols, pixels, &kept->conv);
    pc_linear_forward(ctx, x, &l->stem, kept->cols, PC_NONE);
    if (!c->positions) return;
    kept->index = pc_alloc1(ctx->act, PC_I32, N);
    for (int64_t n = 0; n < N && !ctx->act->dry; n++)
        pc_i32(kept->index)[n] = (int32_t)(n % (side * side));
    ctx->ops->add_rows_forward(ctx, x, x, l->positions.w, kept->index);
}

void pc_sam_forward(pc_ctx *ctx, pc_tensor *last, pc_tensor *middle, pc_sam_kept *kept,
                    const pc_sam *l, pc_tensor pixels)
{
    const pc_sam_config *c = &l->config;
    const int64_t B = pixels.dim[0], side = pc_sam_side(c), N = B * side * side;
    const bool keep = ctx->grad_ops && c->recompute == PC_RECOMPUTE_NONE;
    PC_ASSERT(pixels.rank == 4 && pixels.dim[1] == 3 && pixels.dim[2] == c->image_size &&
                  pixels.dim[3] == c->image_size,
              "images of %lld x %lld, a tower for %lld x %lld", (long long)pixels.dim[3],
              (long long)pixels.dim[2], (long long)c->image_size, (long long)c->image_size);
    *kept = (pc_sam_kept){.B = B};
    whole_grid(&kept->grid, ctx->act, B, side);
    if (c->window) cut_windows(&kept->windows, ctx->act, B, side, c->window);
    if (ctx->grad_ops) {
        kept->blocks = pc_arena_bytes(ctx->act, (size_t)(c->L + 1) * sizeof *l->planned);
        if (ctx->act->dry) kept->blocks = l->planned; // dry memory counts but cannot hold
    }

    pc_tensor x = pc_alloc2(ctx->act, ctx->real, N, c->C);
    // In inference all blocks rewrite the one buffer, so the middle needs another.
    *middle = !ctx->grad_ops && c->middle + 1 < c->L ? pc_alloc_like(ctx->act, x) : PC_NONE;
    const size_t stem = pc_arena_mark(ctx->act);
    stem_forward(ctx, x, kept, l, pixels);
    if (!ctx->grad_ops) pc_arena_release(ctx->act, stem);
    pc_tap_add(ctx, x, "hidden_states.0");

    for (int64_t i = 0; i < c->L; i++) {
        pc_sam_block_kept local = {0};
        pc_sam_block_kept *block = ctx->grad_ops ? &kept->blocks[i] : &local;
        *block = (pc_sam_block_kept){0};
        const pc_tensor out = ctx->grad_ops ? pc_alloc_like(ctx->act, x) : x;
        const size_t mark = pc_arena_mark(ctx->act);
        const pc_tensor h = ctx->grad_ops ? pc_alloc_like(ctx->act, x) : x;
        block_forward(ctx, out, h, block, &l->blocks[i], c, x,
                      is_global(c, i) ? &kept->grid : &kept->windows);
        if (!keep) pc_arena_release(ctx->act, mark);
        x = out;
        pc_tap_add(ctx, x, "hidden_states.%lld", (long long)i + 1);
        if (i != c->middle) continue;
        if (pc_present(*middle))
            ctx->ops->copy_forward(ctx, *middle, x);
        else
            *middle = x;
    }
    *last = x;
}

void pc_sam_backward(pc_ctx *ctx, pc_sam *l, const pc_sam_kept *kept, pc_tensor dlast,
                     pc_tensor dmiddle)
{
    const pc_sam_config *c = &l->config;
    const bool tokens = tokens_train(l);
    int64_t lowest = 0; // the lowest block that the gradient must enter
    while (!tokens && lowest < c->L && !block_trains(&l->blocks[lowest])) lowest++;
    const pc_tensor g = dlast;
    for (int64_t i = c->L - 1; i >= lowest; i--) {
        if (i == c->middle && pc_present(dmiddle)) ctx->ops->add_forward(ctx, g, g, dmiddle);
        const size_t mark = pc_arena_mark(ctx->scratch);
        const pc_sam_windows *w = is_global(c, i) ? &kept->grid : &kept->windows;
        pc_sam_block_kept block = kept->blocks[i];
        if (c->recompute == PC_RECOMPUTE_BLOCK) recompute(ctx, &block, &l->blocks[i], c, w);
        block_backward(ctx, g, tokens || i > lowest, &l->blocks[i], c, &block, w);
        pc_arena_release(ctx->scratch, mark);
    }
    if (!tokens) return;
    if (pc_present(l->positions.g))
        ctx->grad_ops->add_rows_backward(ctx, l->positions.g, g, kept->index);
    pc_linear_backward(ctx, PC_NONE, &l->stem, g, kept->cols);
}

/*
 * hybrid.c - see hybrid.h for formulas and shapes.
 */
#include "model/networks/hybrid.h"

#include <math.h>

#include "model/layers/taps.h"

#define NECK_EPS 1e-6 // published code fixes it, whatever the tower's own

int64_t pc_hybrid_width(const pc_sam_config *sam)
{
    return 4 * sam->neck;
}

/* ------------------------------------------------------------------------ parameters */

/* A 3x3 convolution as a linear map of unfolded places. Each input feeds O outputs at (3/step)^2 places. */
static void conv_params(pc_params *p, pc_linear *l, const char *name, int64_t C, int64_t O,
                        int64_t step)
{
    const double out = (double)(9 * O) / (double)(step * step);
    pc_linear_params(p, l, name, 9 * C, O, false, sqrt(2.0 / ((double)(9 * C) + out)));
}

static void neck_params(pc_params *p, pc_neck *l, const char *name, int64_t C, int64_t O)
{
    const size_t prefix = pc_params_push(p, "%s", name);
    pc_linear_params(p, &l->conv1, "conv1", C, O, false, sqrt(2.0 / (double)(C + O)));
    pc_norm_params(p, &l->norm1, "norm1", PC_LAYERNORM, O, NECK_EPS);
    conv_params(p, &l->conv2, "conv2", O, O, 1);
    pc_norm_params(p, &l->norm2, "norm2", PC_LAYERNORM, O, NECK_EPS);
    pc_params_pop(p, prefix);
}

static void projector_params(pc_params *p, pc_hybrid *l, int64_t width)
{
    const pc_projector_config *c = &l->config;
    const int64_t half = c->out / 2;
    const bool given = c->std > 0.0;
    const size_t prefix = pc_params_push(p, "projector");
    pc_linear_params(p, &l->high, "high", width, half, c->bias,
                     given ? c->std : sqrt(2.0 / (double)(width + half)));
    pc_linear_params(p, &l->low, "low", c->in, half, c->bias,
                     given ? c->std : sqrt(2.0 / (double)(c->in + half)));
    for (int64_t i = 0; i < c->depth - 1; i++) {
        char name[] = "linear.0";
        name[7] = (char)('0' + i);
        pc_linear_params(p, &l->linear[i], name, c->out, c->out, c->bias,
                         given ? c->std : 1.0 / sqrt((double)c->out));
    }
    pc_params_pop(p, prefix);
}

void pc_hybrid_params(pc_params *p, pc_hybrid *l, const pc_sam_config *sam,
                      const pc_projector_config *c, int64_t grid)
{
    const int64_t O = sam->neck;
    *l = (pc_hybrid){.grid = grid, .config = *c};
    const size_t prefix = pc_params_push(p, "vision.high");
    pc_sam_params(p, &l->sam, sam);
    neck_params(p, &l->neck, "neck", sam->C, O);
    neck_params(p, &l->neck_middle, "neck_middle", sam->C, O);
    conv_params(p, &l->down[0], "down.0", O, 2 * O, 2);
    conv_params(p, &l->down[1], "down.1", 2 * O, 4 * O, 2);
    pc_param_add(p, &l->alpha, "alpha", PC_INIT_ZERO, 0.0, PC_DIMS(1));
    pc_params_pop(p, prefix);
    projector_params(p, l, pc_hybrid_width(sam));
}

void pc_hybrid_close(pc_hybrid *l)
{
    pc_sam_close(&l->sam);
}

pc_status pc_hybrid_validate(const pc_sam_config *sam, const pc_projector_config *c)
{
    const pc_status st = pc_sam_validate(sam);
    if (st) return st;
    if (c->out % 2)
        return pc_fail(PC_ERR_INPUT, "projector.out: %lld columns cannot be two halves",
                       (long long)c->out);
    if (c->positions > 0)
        return pc_fail(PC_ERR_INPUT, "projector.positions: %lld; the hybrid's projector has none",
                       (long long)c->positions);
    return PC_OK;
}

static bool neck_trains(const pc_neck *l)
{
    return pc_linear_trains(&l->conv1) || pc_linear_trains(&l->conv2) ||
           pc_norm_trains(&l->norm1) || pc_norm_trains(&l->norm2);
}

/* Something that the enlarged map depends on has a gradient. */
static bool mix_trains(const pc_hybrid *l)
{
    return neck_trains(&l->neck) || neck_trains(&l->neck_middle) || pc_present(l->alpha.g) ||
           pc_sam_trains(&l->sam);
}

bool pc_hybrid_high_trains(const pc_hybrid *l)
{
    return mix_trains(l) || pc_linear_trains(&l->down[0]) || pc_linear_trains(&l->down[1]);
}

bool pc_hybrid_join_trains(const pc_hybrid *l)
{
    for (int64_t i = 0; i < l->config.depth - 1; i++)
        if (pc_linear_trains(&l->linear[i])) return true;
    return pc_linear_trains(&l->high) || pc_linear_trains(&l->low);
}

/* ---------------------------------------------------------------------- convolutions */

/* y from x, rows of B maps of side x side places. */
static void conv_forward(pc_ctx *ctx, pc_tensor y, pc_conv3_kept *kept, const pc_linear *l,
                         pc_tensor x, int64_t side, int64_t step)
{
    const int64_t out = (side + 2 - 3) / step + 1;
    kept->conv = (pc_conv){.B = x.dim[0] / (side * side),
                           .C = x.dim[1],
                           .H = side,
                           .W = side,
                           .kernel = 3,
                           .step = step,
                           .pad = 1,
                           .channels_last = true,
                           .out_h = out,
                           .out_w = out};
    const size_t mark = pc_arena_mark(ctx->act);
    kept->cols = pc_alloc2(ctx->act, ctx->real, y.dim[0], l->I);
    ctx->ops->im2col_forward(ctx, kept->cols, x, &kept->conv);
    pc_linear_forward(ctx, y, l, kept->cols, PC_NONE);
    if (!ctx->grad_ops) pc_arena_release(ctx->act, mark);
}

/* dx may be absent. */
static void conv_backward(pc_ctx *ctx, pc_tensor dx, pc_linear *l, const pc_conv3_kept *kept,
                          pc_tensor dy)
{
    const size_t mark = pc_arena_mark(ctx->scratch);
    pc_tensor dcols = PC_NONE;
    if (pc_present(dx)) dcols = pc_alloc_like(ctx->scratch, kept->cols);
    pc_linear_backward(ctx, dcols, l, dy, kept->cols);
    if (pc_present(dx)) ctx->grad_ops->im2col_backward(ctx, dx, dcols, &kept->conv);
    pc_arena_release(ctx->scratch, mark);
}

static pc_tensor neck_forward(pc_ctx *ctx, pc_neck_kept *kept, const pc_neck *l, pc_tensor x,
                              int64_t side)
{
    const int64_t N = x.dim[0], O = l->conv1.O;
    const pc_tensor y = pc_alloc2(ctx->act, ctx->real, N, O);
    const size_t mark = pc_arena_mark(ctx->act);
    kept->x = x;
    kept->c1 = pc_alloc2(ctx->act, ctx->real, N, O);
    kept->n1 = pc_alloc2(ctx->act, ctx->real, N, O);
    kept->c2 = pc_alloc2(ctx->act, ctx->real, N, O);
    pc_linear_forward(ctx, kept->c1, &l->conv1, x, PC_NONE);
    pc_norm_forward(ctx, kept->n1, &kept->norm1, &l->norm1, kept->c1);
    conv_forward(ctx, kept->c2, &kept->conv2, &l->conv2, kept->n1, side, 1);
    pc_norm_forward(ctx, y, &kept->norm2, &l->norm2, kept->c2);
    if (!ctx->grad_ops) pc_arena_release(ctx->act, mark);
    return y;
}

/* dx may be absent; dy is consumed. */
static void neck_backward(pc_ctx *ctx, pc_tensor dx, pc_neck *l, const pc_neck_kept *kept,
                          pc_tensor dy)
{
    const bool conv1 = pc_present(dx) || pc_linear_trains(&l->conv1);
    const bool norm1 = conv1 || pc_norm_trains(&l->norm1);
    if (!norm1 && !neck_trains(l)) return;
    const size_t mark = pc_arena_mark(ctx->scratch);
    pc_norm_backward(ctx, dy, &l->norm2, &kept->norm2, dy, kept->c2, PC_NONE);
    const pc_tensor d = norm1 ? pc_alloc_like(ctx->scratch, dy) : PC_NONE;
    conv_backward(ctx, d, &l->conv2, &kept->conv2, dy);
    if (norm1) pc_norm_backward(ctx, d, &l->norm1, &kept->norm1, d, kept->c1, PC_NONE);
    if (conv1) pc_linear_backward(ctx, dx, &l->conv1, d, kept->x);
    pc_arena_release(ctx->scratch, mark);
}

/* -------------------------------------------------------------------- the high tower */

/* A dense tensor as one column: a scalar times it is then a linear map of rows of one number. */
static pc_tensor column(pc_tensor x)
{
    return pc_reshape2(x, pc_numel(x), 1);
}

static pc_tensor scalar(pc_tensor w)
{
    return pc_present(w) ? pc_reshape2(w, 1, 1) : PC_NONE;
}

static void tower_forward(pc_ctx *ctx, pc_hybrid_kept *kept, const pc_hybrid *l, pc_tensor pixels)
{
    const pc_sam_config *c = &l->sam.config;
    const int64_t side = pc_sam_side(c), N = pixels.dim[0] * side * side;
    if (!ctx->grad_ops || pc_sam_trains(&l->sam)) {
        pc_sam_forward(ctx, &kept->last, &kept->middle, &kept->sam, &l->sam, pixels);
        return;
    }
    // What outlives a tower that keeps nothing is allocated before it runs.
    const pc_grad_ops *const grad_ops = ctx->grad_ops;
    kept->last = pc_alloc2(ctx->act, ctx->real, N, c->C);
    kept->middle = pc_alloc2(ctx->act, ctx->real, N, c->C);
    const size_t mark = pc_arena_mark(ctx->act);
    pc_tensor last, middle;
    ctx->grad_ops = NULL;
    pc_sam_forward(ctx, &last, &middle, &kept->sam, &l->sam, pixels);
    ctx->ops->copy_forward(ctx, kept->last, last);
    ctx->ops->copy_forward(ctx, kept->middle, middle);
    ctx->grad_ops = grad_ops;
    pc_arena_release(ctx->act, mark);
}

pc_tensor pc_hybrid_high_forward(pc_ctx *ctx, pc_hybrid_kept *kept, const pc_hybrid *l,
                                 pc_tensor pixels)
{
    const int64_t B = pixels.dim[0], g = l->grid, O = l->sam.config.neck;
    const int64_t side = pc_sam_side(&l->sam.config);
    const size_t tap = pc_tap_push(ctx, "vision.high");
    const pc_tensor f = pc_alloc2(ctx->act, ctx->real, B * g * g, 4 * O);
    const size_t mark = pc_arena_mark(ctx->act);

    tower_forward(ctx, kept, l, pixels);
    const pc_tensor mix = neck_forward(ctx, &kept->neck, &l->neck, kept->last, side);
    pc_tap_add(ctx, mix, "neck");
    kept->side = neck_forward(ctx, &kept->neck_middle, &l->neck_middle, kept->middle, side);
    ctx->ops->linear_forward(ctx, column(mix), column(kept->side), scalar(l->alpha.w), PC_NONE,
                             column(mix));

    const pc_tensor large = pc_alloc2(ctx->act, ctx->real, B * 16 * g * g, O);
    const pc_tensor half = pc_alloc2(ctx->act, ctx->real, B * 4 * g * g, 2 * O);
    ctx->ops->resize_map_forward(ctx, large, mix, 4 * g, 4 * g, side, side);
    conv_forward(ctx, half, &kept->down[0], &l->down[0], large, 4 * g, 2);
    conv_forward(ctx, f, &kept->down[1], &l->down[1], half, 2 * g, 2);
    if (!ctx->grad_ops) pc_arena_release(ctx->act, mark);
    pc_tap_add(ctx, f, "features");
    pc_tap_pop(ctx, tap);
    return f;
}

void pc_hybrid_high_backward(pc_ctx *ctx, pc_hybrid *l, const pc_hybrid_kept *kept, pc_tensor df)
{
    const int64_t g = l->grid, O = l->sam.config.neck, side = pc_sam_side(&l->sam.config);
    const int64_t B = df.dim[0] / (g * g), N = B * side * side;
    const bool mixes = mix_trains(l), sam = pc_sam_trains(&l->sam);
    const bool first = mixes || pc_linear_trains(&l->down[0]);
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor dmix = pc_alloc2(ctx->scratch, ctx->real, N, O);

    const size_t inner = pc_arena_mark(ctx->scratch);
    const pc_tensor dhalf =
        first ? pc_alloc2(ctx->scratch, ctx->real, B * 4 * g * g, 2 * O) : PC_NONE;
    const pc_tensor dlarge =
        mixes ? pc_alloc2(ctx->scratch, ctx->real, B * 16 * g * g, O) : PC_NONE;
    conv_backward(ctx, dhalf, &l->down[1], &kept->down[1], df);
    if (first) conv_backward(ctx, dlarge, &l->down[0], &kept->down[0], dhalf);
    if (mixes) ctx->grad_ops->resize_map_backward(ctx, dmix, dlarge, 4 * g, 4 * g, side, side);
    pc_arena_release(ctx->scratch, inner);

    if (mixes) {
        const pc_tensor dside = pc_alloc2(ctx->scratch, ctx->real, N, O);
        pc_tensor dlast = PC_NONE, dmiddle = PC_NONE;
        if (sam) dlast = pc_alloc_like(ctx->scratch, kept->last);
        if (sam) dmiddle = pc_alloc_like(ctx->scratch, kept->middle);
        ctx->grad_ops->linear_backward(ctx, column(dside), scalar(l->alpha.g), PC_NONE,
                                       column(dmix), column(kept->side), scalar(l->alpha.w), false);
        neck_backward(ctx, dmiddle, &l->neck_middle, &kept->neck_middle, dside);
        neck_backward(ctx, dlast, &l->neck, &kept->neck, dmix);
        if (sam) pc_sam_backward(ctx, &l->sam, &kept->sam, dlast, dmiddle);
    }
    pc_arena_release(ctx->scratch, mark);
}

/* ---------------------------------------------------------------------- the projector */

pc_tensor pc_hybrid_join_forward(pc_ctx *ctx, pc_hybrid_kept *kept, const pc_hybrid *l, pc_tensor f,
                                 pc_tensor s)
{
    const pc_projector_config *c = &l->config;
    const int64_t N = s.dim[0], half = c->out / 2;
    PC_ASSERT(f.dim[0] == N, "%lld rows of large images, %lld of small ones", (long long)f.dim[0],
              (long long)N);
    const pc_tensor y = pc_alloc2(ctx->act, ctx->real, N, c->out);
    const size_t mark = pc_arena_mark(ctx->act);
    kept->f = f;
    kept->s = s;
    pc_tensor x = c->depth > 1 ? pc_alloc2(ctx->act, ctx->real, N, c->out) : y;
    pc_linear_forward(ctx, pc_cols(x, 0, half), &l->high, f, PC_NONE);
    pc_linear_forward(ctx, pc_cols(x, half, c->out), &l->low, s, PC_NONE);
    for (int64_t i = 0; i < c->depth - 1; i++) {
        kept->z[i] = x;
        kept->a[i] = pc_alloc2(ctx->act, ctx->real, N, c->out);
        ctx->ops->act_forward(ctx, kept->a[i], x, c->act);
        x = i == c->depth - 2 ? y : pc_alloc2(ctx->act, ctx->real, N, c->out);
        pc_linear_forward(ctx, x, &l->linear[i], kept->a[i], PC_NONE);
    }
    if (!ctx->grad_ops) pc_arena_release(ctx->act, mark);
    pc_tap_add(ctx, y, "projector.out");
    return y;
}

void pc_hybrid_join_backward(pc_ctx *ctx, pc_tensor df, pc_tensor ds, pc_hybrid *l,
                             const pc_hybrid_kept *kept, pc_tensor dy)
{
    const pc_projector_config *c = &l->config;
    const int64_t half = c->out / 2;
    const bool halves =
        pc_present(df) || pc_present(ds) || pc_linear_trains(&l->high) || pc_linear_trains(&l->low);
    int64_t lowest = 0; // below it no gradient is wanted
    if (!halves)
        while (lowest < c->depth - 1 && !pc_linear_trains(&l->linear[lowest])) lowest++;
    const size_t mark = pc_arena_mark(ctx->scratch);
    for (int64_t i = c->depth - 2; i >= lowest; i--) {
        const bool onward = halves || i > lowest;
        const pc_tensor d = onward ? pc_alloc_like(ctx->scratch, kept->a[i]) : PC_NONE;
        pc_linear_backward(ctx, d, &l->linear[i], dy, kept->a[i]);
        if (onward) ctx->grad_ops->act_backward(ctx, d, d, kept->z[i], c->act);
        dy = d;
    }
    if (halves) {
        pc_linear_backward(ctx, df, &l->high, pc_cols(dy, 0, half), kept->f);
        pc_linear_backward(ctx, ds, &l->low, pc_cols(dy, half, c->out), kept->s);
    }
    pc_arena_release(ctx->scratch, mark);
}

/*
 * test_ops_losses.c - cross-entropy through the output projection, the contrastive losses: derivatives,
 * precision, mutations.
 *
 * Seen: derivatives 1.3e-9; float against double 4.4e-7.
 */
#include <math.h>

#include "tests/support/opcheck.h"

// linear_xent: arg N, C, V, flags. The scalar is sum coef nll.
enum { NO_DX = 1, NO_DW = 2, ALL_IGNORED_BUT_ONE = 4 };

typedef struct xent_state {
    op_var x, w;
    pc_tensor labels, coef;
} xent_state;

static void *xent_setup(opcheck *o, const int64_t *arg)
{
    const int64_t N = arg[0], C = arg[1], V = arg[2], flags = arg[3];
    xent_state *s = op_state(o, sizeof *s);
    if (flags & NO_DX)
        s->x.x = op_const(o, 1.0, 3, PC_DIMS(N, C));
    else
        s->x = op_input(o, "x", 1.0, 3, PC_DIMS(N, C));
    if (flags & NO_DW)
        s->w.x = op_const(o, 0.5, 0, PC_DIMS(V, C));
    else
        s->w = op_param(o, "W", 0.0, 0.5, PC_DIMS(V, C));
    s->coef = op_const(o, 1.0, 0, PC_DIMS(N));
    s->labels = pc_alloc1(&o->g.hold, PC_I32, N);
    for (int64_t n = 0; n < N; n++) {
        const bool ignored = flags & ALL_IGNORED_BUT_ONE ? n != N / 2 : n % 3 == 1;
        const int32_t label = (int32_t)op_draw(o, (uint64_t)V);
        pc_i32(s->labels)[n] = ignored ? -1 - (int32_t)n : label;
    }
    return s;
}

static double xent_run(pc_ctx *ctx, void *arg, bool backward)
{
    const xent_state *s = arg;
    const int64_t N = s->coef.dim[0];
    const pc_tensor nll = op_alloc(ctx, 0, PC_DIMS(N)), again = op_alloc(ctx, 0, PC_DIMS(N));
    ctx->ops->linear_xent_forward(ctx, nll, s->x.x, s->w.x, s->labels);
    if (!backward) return op_dot(nll, s->coef);
    ctx->grad_ops->linear_xent_backward(ctx, s->x.g, s->w.g, again, s->x.x, s->w.x, s->labels,
                                        s->coef);
    // Backward's own nll is the result then: it has to be forward's.
    for (int64_t n = 0; n < N; n++)
        if (!(fabs(op_get(again, n) - op_get(nll, n)) <= 1e-5)) return (double)NAN;
    return op_dot(again, s->coef);
}

// clip_loss, sigmoid_loss: arg B, E, flags. The scalar is `scale` times the loss.
enum { FROZEN_U = 1, FROZEN_V = 2, FROZEN_T = 4 };

typedef struct pair_state {
    op_var u, v, t, b;
    double scale;
} pair_state;

static void *pair_setup(opcheck *o, const int64_t *arg)
{
    const int64_t B = arg[0], E = arg[1], flags = arg[2];
    pair_state *s = op_state(o, sizeof *s);
    s->scale = 0.75;
    s->u.x = s->v.x = s->t.x = PC_NONE;
    if (flags & FROZEN_U)
        s->u.x = op_const(o, 0.4, 3, PC_DIMS(B, E));
    else
        s->u = op_input(o, "u", 0.4, 3, PC_DIMS(B, E));
    if (flags & FROZEN_V)
        s->v.x = op_const(o, 0.4, 2, PC_DIMS(B, E));
    else
        s->v = op_input(o, "v", 0.4, 2, PC_DIMS(B, E));
    if (flags & FROZEN_T) {
        s->t.x = op_const(o, 0.5, 0, PC_DIMS(1));
        s->b.x = op_const(o, 0.5, 0, PC_DIMS(1));
    } else {
        s->t = op_param(o, "t", 1.0, 0.2, PC_DIMS(1));
        if (arg[3]) s->b = op_param(o, "b", -1.0, 0.2, PC_DIMS(1));
    }
    return s;
}

static double clip_run(pc_ctx *ctx, void *arg, bool backward)
{
    const pair_state *s = arg;
    const int64_t B = s->u.x.dim[0];
    const pc_tensor row = op_alloc(ctx, 0, PC_DIMS(B)), col = op_alloc(ctx, 0, PC_DIMS(B));
    double loss = (double)NAN;
    ctx->ops->clip_loss_forward(ctx, pc_view1(&loss, PC_F64, 1), row, col, s->u.x, s->v.x, s->t.x);
    if (backward)
        ctx->grad_ops->clip_loss_backward(ctx, s->u.g, s->v.g, s->t.g, s->u.x, s->v.x, s->t.x, row,
                                          col, s->scale);
    return s->scale * loss;
}

static double sigmoid_run(pc_ctx *ctx, void *arg, bool backward)
{
    const pair_state *s = arg;
    double loss = (double)NAN;
    ctx->ops->sigmoid_loss_forward(ctx, pc_view1(&loss, PC_F64, 1), s->u.x, s->v.x, s->t.x, s->b.x);
    if (backward)
        ctx->grad_ops->sigmoid_loss_backward(ctx, s->u.g, s->v.g, s->t.g, s->b.g, s->u.x, s->v.x,
                                             s->t.x, s->b.x, s->scale);
    return s->scale * loss;
}

// clang-format off
static const op_case cases[] = {
    // op, label, set-up, run, tolerance of the derivative and of float, sizes
    {"linear_xent", "7x5 of 11", xent_setup, xent_run, 1e-7, 2e-6, {7, 5, 11, 0}},
    {"linear_xent", "1x3 of 2", xent_setup, xent_run, 1e-7, 2e-6, {1, 3, 2, 0}},
    {"linear_xent", "6x4 of 17, one counted, no dx", xent_setup, xent_run, 1e-7, 2e-6, {6, 4, 17, NO_DX | ALL_IGNORED_BUT_ONE}},
    {"linear_xent", "5x9 of 3, no dW", xent_setup, xent_run, 1e-7, 2e-6, {5, 9, 3, NO_DW}},
    {"linear_xent", "large, two chunks", xent_setup, xent_run, 0, 4e-6, {1001, 33, 517, 0}},
    {"linear_xent", "large vocabulary", xent_setup, xent_run, 0, 4e-6, {70, 9, 70001, 0}},
    {"clip_loss", "5x7", pair_setup, clip_run, 1e-7, 4e-6, {5, 7, 0, 0}},
    {"clip_loss", "2x3, u frozen", pair_setup, clip_run, 1e-7, 4e-6, {2, 3, FROZEN_U, 0}},
    {"clip_loss", "9x4, v and t frozen", pair_setup, clip_run, 1e-7, 4e-6, {9, 4, FROZEN_V | FROZEN_T, 0}},
    {"clip_loss", "large, three chunks", pair_setup, clip_run, 0, 8e-6, {801, 33, 0, 0}},
    {"sigmoid_loss", "5x7", pair_setup, sigmoid_run, 1e-7, 4e-6, {5, 7, 0, 1}},
    {"sigmoid_loss", "1x3, v frozen", pair_setup, sigmoid_run, 1e-7, 4e-6, {1, 3, FROZEN_V, 1}},
    {"sigmoid_loss", "9x4, u, t and b frozen", pair_setup, sigmoid_run, 1e-7, 4e-6, {9, 4, FROZEN_U | FROZEN_T, 1}},
    {"sigmoid_loss", "large, three chunks", pair_setup, sigmoid_run, 0, 8e-6, {801, 33, 0, 1}},
};
// clang-format on

#define XENT_ARGS                                                                                  \
    pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x, pc_tensor w,              \
        pc_tensor labels, pc_tensor coef
#define CLIP_ARGS                                                                                  \
    pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor u, pc_tensor v, pc_tensor t,  \
        pc_tensor lse_row, pc_tensor lse_col, double scale
#define SIGMOID_ARGS                                                                               \
    pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor db, pc_tensor u, pc_tensor v, \
        pc_tensor t, pc_tensor b, double scale

static void xent_no_onehot(XENT_ARGS)
{
    // dx without the label's part: coef W[label] put back.
    opcheck_sound()->linear_xent_backward(ctx, dx, dw, nll, x, w, labels, coef);
    const int64_t C = w.dim[1];
    for (int64_t i = 0; i < pc_numel(dx) && pc_present(dx); i++) {
        const int64_t label = pc_i32(labels)[i / C];
        if (label >= 0)
            op_set(dx, i, op_get(dx, i) + op_get(coef, i / C) * op_get(w, label * C + i % C));
    }
}
static void xent_dw_overwritten(XENT_ARGS)
{
    if (pc_present(dw)) ctx->ops->zero_forward(ctx, dw);
    opcheck_sound()->linear_xent_backward(ctx, dx, dw, nll, x, w, labels, coef);
}
static void xent_counts_ignored(XENT_ARGS)
{
    int32_t all[16];
    for (int64_t n = 0; n < labels.dim[0]; n++)
        all[n] = pc_i32(labels)[n] < 0 ? 0 : pc_i32(labels)[n];
    opcheck_sound()->linear_xent_backward(ctx, dx, dw, nll, x, w,
                                          pc_view1(all, PC_I32, labels.dim[0]), coef);
}
static void xent_coef_of_row_0(XENT_ARGS)
{
    const pc_tensor same = op_alloc(ctx, 0, PC_DIMS(coef.dim[0]));
    for (int64_t n = 0; n < coef.dim[0]; n++) op_set(same, n, op_get(coef, 0));
    opcheck_sound()->linear_xent_backward(ctx, dx, dw, nll, x, w, labels, same);
}
static void clip_rows_only(CLIP_ARGS)
{
    // The columns' softmax taken over rows: lse_col replaced.
    opcheck_sound()->clip_loss_backward(ctx, du, dv, dt, u, v, t, lse_row, lse_row, scale);
    (void)lse_col;
}
static void clip_unscaled(CLIP_ARGS)
{
    (void)scale;
    opcheck_sound()->clip_loss_backward(ctx, du, dv, dt, u, v, t, lse_row, lse_col, 1.0);
}
static void clip_temperature_linear(CLIP_ARGS)
{
    // d loss / d exp(t) where d loss / dt is meant.
    const double before = pc_present(dt) ? op_get(dt, 0) : 0.0;
    opcheck_sound()->clip_loss_backward(ctx, du, dv, dt, u, v, t, lse_row, lse_col, scale);
    if (pc_present(dt)) op_set(dt, 0, before + (op_get(dt, 0) - before) / exp(op_get(t, 0)));
}
static void sigmoid_dt_with_bias(SIGMOID_ARGS)
{
    // dt takes sum G z where sum G (z - b) is meant.
    const double before = pc_present(db) ? op_get(db, 0) : 0.0;
    opcheck_sound()->sigmoid_loss_backward(ctx, du, dv, dt, db, u, v, t, b, scale);
    if (pc_present(dt)) op_set(dt, 0, op_get(dt, 0) + (op_get(db, 0) - before) * op_get(b, 0));
}
static void sigmoid_db_overwritten(SIGMOID_ARGS)
{
    if (pc_present(db)) op_set(db, 0, 0.0);
    opcheck_sound()->sigmoid_loss_backward(ctx, du, dv, dt, db, u, v, t, b, scale);
}
static void sigmoid_sides_swapped(SIGMOID_ARGS)
{
    opcheck_sound()->sigmoid_loss_backward(ctx, dv, du, dt, db, u, v, t, b, scale);
}

OP_INSTALL(linear_xent_backward, xent_no_onehot)
OP_INSTALL(linear_xent_backward, xent_dw_overwritten)
OP_INSTALL(linear_xent_backward, xent_counts_ignored)
OP_INSTALL(linear_xent_backward, xent_coef_of_row_0)
OP_INSTALL(clip_loss_backward, clip_rows_only)
OP_INSTALL(clip_loss_backward, clip_unscaled)
OP_INSTALL(clip_loss_backward, clip_temperature_linear)
OP_INSTALL(sigmoid_loss_backward, sigmoid_dt_with_bias)
OP_INSTALL(sigmoid_loss_backward, sigmoid_db_overwritten)
OP_INSTALL(sigmoid_loss_backward, sigmoid_sides_swapped)

static const op_mutation mutations[] = {
    {"linear_xent", "the label's part forgotten in dx", install_xent_no_onehot},
    {"linear_xent", "dW overwritten", install_xent_dw_overwritten},
    {"linear_xent", "ignored rows counted", install_xent_counts_ignored},
    {"linear_xent", "every row weighted as the first", install_xent_coef_of_row_0},
    {"clip_loss", "columns normalised as rows", install_clip_rows_only},
    {"clip_loss", "scale forgotten", install_clip_unscaled},
    {"clip_loss", "derivative by exp(t)", install_clip_temperature_linear},
    {"sigmoid_loss", "bias counted in dt", install_sigmoid_dt_with_bias},
    {"sigmoid_loss", "db overwritten", install_sigmoid_db_overwritten},
    {"sigmoid_loss", "du and dv swapped", install_sigmoid_sides_swapped},
};

int main(void)
{
    return opcheck_main(cases, sizeof cases / sizeof *cases, mutations,
                        sizeof mutations / sizeof *mutations);
}

/*
 * test_ops_dense.c - linear maps, activations, dropout, unit rows: derivatives, precision, mutations.
 *
 * Seen: derivatives 1.1e-10; float against double 5.1e-7 (linear, 512 terms), 2.1e-7 for the rest.
 */
#include "tests/support/opcheck.h"

// linear: arg N, I, O, flags
enum { BIAS = 1, RESIDUAL = 2, IN_PLACE = 4, NO_DX = 8, NO_DW = 16 };

typedef struct linear_state {
    int64_t flags;
    op_var x, w, b;
    pc_tensor r, dy;
    pc_act kind;
} linear_state;

static void *linear_setup(opcheck *o, const int64_t *arg)
{
    const int64_t N = arg[0], I = arg[1], O = arg[2];
    linear_state *s = op_state(o, sizeof *s);
    s->flags = arg[3];
    s->kind = (pc_act)arg[4];
    if (s->flags & NO_DX)
        s->x.x = op_const(o, 1.0, 3, PC_DIMS(N, I));
    else
        s->x = op_input(o, "x", 1.0, 3, PC_DIMS(N, I));
    if (s->flags & NO_DW)
        s->w.x = op_const(o, 0.5, 0, PC_DIMS(O, I));
    else
        s->w = op_param(o, "W", 0.0, 0.5, PC_DIMS(O, I));
    if (s->flags & BIAS) s->b = op_param(o, "b", 0.0, 0.5, PC_DIMS(O));
    s->r = op_const(o, 1.0, 2, PC_DIMS(N, O));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(N, O));
    return s;
}

static double linear_run(pc_ctx *ctx, void *arg, bool backward)
{
    const linear_state *s = arg;
    const pc_tensor y = op_alloc(ctx, 5, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    pc_tensor r = s->flags & RESIDUAL ? s->r : PC_NONE;
    if (s->flags & IN_PLACE) {
        ctx->ops->copy_forward(ctx, y, s->r);
        r = y;
    }
    ctx->ops->linear_forward(ctx, y, s->x.x, s->w.x, s->b.x, r);
    if (backward)
        ctx->grad_ops->linear_backward(ctx, s->x.g, s->w.g, s->b.g, s->dy, s->x.x, s->w.x, false);
    return op_dot(y, s->dy);
}

static double linear_act_run(pc_ctx *ctx, void *arg, bool backward)
{
    const linear_state *s = arg;
    const int64_t N = s->dy.dim[0], O = s->dy.dim[1];
    const pc_tensor a = op_alloc(ctx, 2, PC_DIMS(N, O)), z = op_alloc(ctx, 5, PC_DIMS(N, O));
    const pc_tensor dz = op_alloc(ctx, 1, PC_DIMS(N, O));
    ctx->ops->linear_act_forward(ctx, a, z, s->x.x, s->w.x, s->b.x, s->kind);
    if (backward) {
        ctx->grad_ops->linear_act_backward(ctx, dz, s->b.g, s->dy, z, s->kind);
        ctx->grad_ops->linear_backward(ctx, s->x.g, s->w.g, PC_NONE, dz, s->x.x, s->w.x, false);
    }
    return op_dot(a, s->dy);
}

// act and swiglu: arg N, F, kind, 1: dz lies over da
typedef struct act_state {
    pc_act kind;
    bool in_place;
    op_var z;
    pc_tensor da;
} act_state;

static void *act_setup(opcheck *o, const int64_t *arg)
{
    act_state *s = op_state(o, sizeof *s);
    s->kind = (pc_act)arg[2];
    s->in_place = arg[3] != 0;
    s->z = op_input(o, "z", 1.5, 3, PC_DIMS(arg[0], arg[1]));
    s->da = op_const(o, 1.0, 1, PC_DIMS(arg[0], arg[1]));
    return s;
}

static double act_run(pc_ctx *ctx, void *arg, bool backward)
{
    const act_state *s = arg;
    const pc_tensor a = op_alloc(ctx, 2, PC_DIMS(s->da.dim[0], s->da.dim[1]));
    ctx->ops->act_forward(ctx, a, s->z.x, s->kind);
    if (backward && s->in_place) {
        ctx->ops->copy_forward(ctx, s->z.g, s->da);
        ctx->grad_ops->act_backward(ctx, s->z.g, s->z.g, s->z.x, s->kind);
    } else if (backward) {
        ctx->grad_ops->act_backward(ctx, s->z.g, s->da, s->z.x, s->kind);
    }
    return op_dot(a, s->da);
}

static void *swiglu_setup(opcheck *o, const int64_t *arg)
{
    act_state *s = op_state(o, sizeof *s);
    s->z = op_input(o, "gu", 1.5, 3, PC_DIMS(arg[0], 2 * arg[1]));
    s->da = op_const(o, 1.0, 1, PC_DIMS(arg[0], arg[1]));
    return s;
}

static double swiglu_run(pc_ctx *ctx, void *arg, bool backward)
{
    const act_state *s = arg;
    const pc_tensor h = op_alloc(ctx, 2, PC_DIMS(s->da.dim[0], s->da.dim[1]));
    ctx->ops->swiglu_forward(ctx, h, s->z.x);
    if (backward) ctx->grad_ops->swiglu_backward(ctx, s->z.g, s->da, s->z.x);
    return op_dot(h, s->da);
}

// dropout: arg N, C, p in hundredths
typedef struct dropout_state {
    op_var x;
    pc_tensor dy;
    double p;
    pc_rng_key key;
} dropout_state;

static void *dropout_setup(opcheck *o, const int64_t *arg)
{
    dropout_state *s = op_state(o, sizeof *s);
    s->x = op_input(o, "x", 1.0, 3, PC_DIMS(arg[0], arg[1]));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(arg[0], arg[1]));
    s->p = (double)arg[2] / 100.0;
    s->key = (pc_rng_key){.seed = 5, .stream = PC_STREAM_DROPOUT, .step = 77};
    return s;
}

static double dropout_run(pc_ctx *ctx, void *arg, bool backward)
{
    const dropout_state *s = arg;
    const pc_tensor y = op_alloc(ctx, 2, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    ctx->ops->dropout_forward(ctx, y, s->x.x, s->p, s->key);
    if (backward) ctx->grad_ops->dropout_backward(ctx, s->x.g, s->dy, s->p, s->key);
    return op_dot(y, s->dy);
}

static void *l2norm_setup(opcheck *o, const int64_t *arg)
{
    dropout_state *s = op_state(o, sizeof *s);
    s->x = op_input(o, "x", 1.0, 3, PC_DIMS(arg[0], arg[1]));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(arg[0], arg[1]));
    return s;
}

static double l2norm_run(pc_ctx *ctx, void *arg, bool backward)
{
    const dropout_state *s = arg;
    const int64_t B = s->dy.dim[0];
    const pc_tensor y = op_alloc(ctx, 2, PC_DIMS(B, s->dy.dim[1]));
    const pc_tensor inv = op_alloc(ctx, 0, PC_DIMS(B));
    ctx->ops->l2norm_forward(ctx, y, inv, s->x.x);
    if (backward) ctx->grad_ops->l2norm_backward(ctx, s->x.g, s->dy, y, inv);
    return op_dot(y, s->dy);
}

// clang-format off
static const op_case cases[] = {
    // op, label, set-up, run, tolerance of the derivative and of float, sizes
    {"linear", "5x7 by 3, bias and residual", linear_setup, linear_run, 1e-7, 1e-6, {5, 7, 3, BIAS | RESIDUAL}},
    {"linear", "1x1 by 1, bias, residual in place", linear_setup, linear_run, 1e-7, 1e-6, {1, 1, 1, BIAS | IN_PLACE}},
    {"linear", "17x9 by 2, residual in place", linear_setup, linear_run, 1e-7, 1e-6, {17, 9, 2, IN_PLACE}},
    {"linear", "4x33 by 5, no dx", linear_setup, linear_run, 1e-7, 1e-6, {4, 33, 5, BIAS | NO_DX}},
    {"linear", "3x4 by 9, no dW", linear_setup, linear_run, 1e-7, 1e-6, {3, 4, 9, RESIDUAL | NO_DW}},
    {"linear", "1x7 by 65, nothing but W", linear_setup, linear_run, 1e-7, 1e-6, {1, 7, 65, NO_DX}},
    {"linear", "301x131 by 190, bias and residual", linear_setup, linear_run, 0, 2e-6, {301, 131, 190, BIAS | RESIDUAL}},
    {"linear", "1x512 by 768, bias", linear_setup, linear_run, 0, 2e-6, {1, 512, 768, BIAS}},
    {"linear", "770x33 by 17, bias, residual in place", linear_setup, linear_run, 0, 2e-6, {770, 33, 17, BIAS | IN_PLACE}},
    {"linear_act", "5x7 by 3, GELU", linear_setup, linear_act_run, 1e-7, 1e-6, {5, 7, 3, BIAS, PC_ACT_GELU}},
    {"linear_act", "4x3 by 17, GELU tanh, no bias", linear_setup, linear_act_run, 1e-7, 1e-6, {4, 3, 17, 0, PC_ACT_GELU_TANH}},
    {"linear_act", "1x5 by 9, quick", linear_setup, linear_act_run, 1e-7, 1e-6, {1, 5, 9, BIAS, PC_ACT_QUICK}},
    {"linear_act", "150x96 by 384, GELU", linear_setup, linear_act_run, 0, 2e-6, {150, 96, 384, BIAS, PC_ACT_GELU}},
    {"linear_act", "150x96 by 387, quick", linear_setup, linear_act_run, 0, 2e-6, {150, 96, 387, BIAS, PC_ACT_QUICK}},
    {"act", "GELU", act_setup, act_run, 1e-7, 1e-6, {5, 17, PC_ACT_GELU, 0}},
    {"act", "GELU tanh, in place", act_setup, act_run, 1e-7, 1e-6, {3, 33, PC_ACT_GELU_TANH, 1}},
    {"act", "quick", act_setup, act_run, 1e-7, 1e-6, {1, 1, PC_ACT_QUICK, 0}},
    {"act", "quick, in place", act_setup, act_run, 1e-7, 1e-6, {7, 15, PC_ACT_QUICK, 1}},
    {"act", "SiLU", act_setup, act_run, 1e-7, 1e-6, {4, 16, PC_ACT_SILU, 0}},
    {"act", "ReLU, in place", act_setup, act_run, 1e-7, 1e-6, {4, 19, PC_ACT_RELU, 1}},
    {"act", "large GELU", act_setup, act_run, 0, 1e-6, {203, 511, PC_ACT_GELU, 0}},
    {"act", "large GELU tanh", act_setup, act_run, 0, 1e-6, {203, 511, PC_ACT_GELU_TANH, 0}},
    {"act", "large quick", act_setup, act_run, 0, 1e-6, {203, 511, PC_ACT_QUICK, 1}},
    {"act", "large SiLU", act_setup, act_run, 0, 1e-6, {203, 511, PC_ACT_SILU, 0}},
    {"act", "large ReLU", act_setup, act_run, 0, 1e-6, {203, 511, PC_ACT_RELU, 0}},
    {"swiglu", "5x7", swiglu_setup, swiglu_run, 1e-7, 1e-6, {5, 7}},
    {"swiglu", "1x1", swiglu_setup, swiglu_run, 1e-7, 1e-6, {1, 1}},
    {"swiglu", "2x33", swiglu_setup, swiglu_run, 1e-7, 1e-6, {2, 33}},
    {"swiglu", "large", swiglu_setup, swiglu_run, 0, 1e-6, {130, 259}},
    {"dropout", "5x7", dropout_setup, dropout_run, 1e-7, 1e-6, {5, 7, 30}},
    {"dropout", "3x16, p = 0", dropout_setup, dropout_run, 1e-7, 1e-6, {3, 16, 0}},
    {"dropout", "large", dropout_setup, dropout_run, 0, 1e-6, {99, 333, 50}},
    {"l2norm", "5x7", l2norm_setup, l2norm_run, 1e-7, 1e-6, {5, 7}},
    {"l2norm", "1x2", l2norm_setup, l2norm_run, 1e-7, 1e-6, {1, 2}},
    {"l2norm", "large", l2norm_setup, l2norm_run, 0, 1e-6, {200, 513}},
};
// clang-format on

// What goes wrong when a backward is written by hand.

static void linear_dx_off(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor db, pc_tensor dy,
                          pc_tensor x, pc_tensor w, bool fresh)
{
    opcheck_sound()->linear_backward(ctx, dx, dw, db, dy, x, w, fresh);
    if (pc_present(dx)) op_scale(dx, 1.01);
}
static void linear_dw_overwritten(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor db,
                                  pc_tensor dy, pc_tensor x, pc_tensor w, bool fresh)
{
    if (pc_present(dw)) ctx->ops->zero_forward(ctx, dw);
    opcheck_sound()->linear_backward(ctx, dx, dw, db, dy, x, w, fresh);
}
static void linear_db_first_row_lost(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor db,
                                     pc_tensor dy, pc_tensor x, pc_tensor w, bool fresh)
{
    const pc_tensor rest = pc_rows(dy, 1, dy.dim[0]);
    opcheck_sound()->linear_backward(ctx, dx, dw, PC_NONE, dy, x, w, fresh);
    opcheck_sound()->linear_backward(ctx, PC_NONE, PC_NONE, db, rest, x, w, fresh);
}
static void act_tanh_for_erf(pc_ctx *ctx, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    opcheck_sound()->act_backward(ctx, dz, da, z, kind == PC_ACT_GELU ? PC_ACT_GELU_TANH : kind);
}
static void linear_act_db_first_row_lost(pc_ctx *ctx, pc_tensor dz, pc_tensor db, pc_tensor da,
                                         pc_tensor z, pc_act kind)
{
    opcheck_sound()->linear_act_backward(ctx, dz, PC_NONE, da, z, kind);
    if (pc_present(db))
        opcheck_sound()->linear_act_backward(ctx, pc_rows(dz, 1, dz.dim[0]), db,
                                             pc_rows(da, 1, da.dim[0]), pc_rows(z, 1, z.dim[0]),
                                             kind);
}
static void linear_act_tanh_for_erf(pc_ctx *ctx, pc_tensor dz, pc_tensor db, pc_tensor da,
                                    pc_tensor z, pc_act kind)
{
    opcheck_sound()->linear_act_backward(ctx, dz, db, da, z,
                                         kind == PC_ACT_GELU ? PC_ACT_GELU_TANH : kind);
}
static void act_silu_for_quick(pc_ctx *ctx, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    opcheck_sound()->act_backward(ctx, dz, da, z, kind == PC_ACT_QUICK ? PC_ACT_SILU : kind);
}
static void act_relu_passes_all(pc_ctx *ctx, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    if (kind == PC_ACT_RELU)
        ctx->ops->copy_forward(ctx, dz, da);
    else
        opcheck_sound()->act_backward(ctx, dz, da, z, kind);
}
static void swiglu_halves_swapped(pc_ctx *ctx, pc_tensor dgu, pc_tensor dh, pc_tensor gu)
{
    opcheck_sound()->swiglu_backward(ctx, dgu, dh, gu);
    for (int64_t n = 0; n < dh.dim[0]; n++)
        for (int64_t f = 0; f < dh.dim[1]; f++) {
            const int64_t g = n * dgu.dim[1] + f, u = g + dh.dim[1];
            const double t = op_get(dgu, g);
            op_set(dgu, g, op_get(dgu, u));
            op_set(dgu, u, t);
        }
}
static void dropout_unscaled(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, double p, pc_rng_key key)
{
    opcheck_sound()->dropout_backward(ctx, dx, dy, p, key);
    op_scale(dx, 1.0 - p);
}
static void dropout_other_key(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, double p, pc_rng_key key)
{
    key.step++;
    opcheck_sound()->dropout_backward(ctx, dx, dy, p, key);
}
static void l2norm_projection_lost(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor y,
                                   pc_tensor inv)
{
    (void)y;
    for (int64_t i = 0; i < pc_numel(dx); i++)
        op_set(dx, i, op_get(dy, i) * op_get(inv, i / dx.dim[1]));
    (void)ctx;
}

OP_INSTALL(linear_backward, linear_dx_off)
OP_INSTALL(linear_backward, linear_dw_overwritten)
OP_INSTALL(linear_backward, linear_db_first_row_lost)
OP_INSTALL(act_backward, act_tanh_for_erf)
OP_INSTALL(linear_act_backward, linear_act_tanh_for_erf)
OP_INSTALL(linear_act_backward, linear_act_db_first_row_lost)
OP_INSTALL(act_backward, act_silu_for_quick)
OP_INSTALL(act_backward, act_relu_passes_all)
OP_INSTALL(swiglu_backward, swiglu_halves_swapped)
OP_INSTALL(dropout_backward, dropout_unscaled)
OP_INSTALL(dropout_backward, dropout_other_key)
OP_INSTALL(l2norm_backward, l2norm_projection_lost)

static const op_mutation mutations[] = {
    {"linear", "dx 1 % too large", install_linear_dx_off},
    {"linear", "dW overwritten", install_linear_dw_overwritten},
    {"linear", "db without its first row", install_linear_db_first_row_lost},
    {"linear_act", "dW overwritten", install_linear_dw_overwritten},
    {"linear_act", "db without its first row", install_linear_act_db_first_row_lost},
    {"linear_act", "tanh derivative for erf", install_linear_act_tanh_for_erf},
    {"act", "tanh derivative for erf", install_act_tanh_for_erf},
    {"act", "SiLU derivative for quick", install_act_silu_for_quick},
    {"act", "ReLU passes all", install_act_relu_passes_all},
    {"swiglu", "gate and up swapped", install_swiglu_halves_swapped},
    {"dropout", "1/(1-p) forgotten", install_dropout_unscaled},
    {"dropout", "another mask", install_dropout_other_key},
    {"l2norm", "projection forgotten", install_l2norm_projection_lost},
};

int main(void)
{
    return opcheck_main(cases, sizeof cases / sizeof *cases, mutations,
                        sizeof mutations / sizeof *mutations);
}

/*
 * test_ops_norm.c - normalisation and rotary positions: derivatives, precision, mutations.
 *
 * Seen: derivatives 1.9e-10; float against double 1.7e-7.
 */
#include <math.h>

#include "tests/support/opcheck.h"

// layernorm, rmsnorm: arg N, H (0: rank 2), C, flags. The scalar is y.dy + x.add.
enum { ADD = 1, DX_IS_DY = 2, DX_IS_ADD = 4, NO_PARAMS = 8, Y_IS_X = 16 };

typedef struct norm_state {
    int64_t N, H, C, flags;
    op_var x, gain, bias;
    pc_tensor dy, add;
} norm_state;

static void *norm_setup(opcheck *o, const int64_t *arg)
{
    norm_state *s = op_state(o, sizeof *s);
    s->N = arg[0], s->H = arg[1], s->C = arg[2], s->flags = arg[3];
    const int rank = s->H ? 3 : 2;
    const int64_t dim[3] = {s->N, s->H ? s->H : s->C, s->C};
    s->x = op_input(o, "x", 1.0, 3, rank, dim);
    s->dy = op_const(o, 1.0, 1, rank, dim);
    s->add = op_const(o, 1.0, 2, rank, dim);
    if (s->flags & NO_PARAMS) {
        s->gain.x = op_const(o, 1.0, 0, PC_DIMS(s->C));
        s->bias.x = op_const(o, 1.0, 0, PC_DIMS(s->C));
    } else {
        s->gain = op_param(o, "gain", 1.0, 0.5, PC_DIMS(s->C));
        // RMSNorm has no bias, and a variable that nothing depends on is a mistake of the test.
        if (arg[4]) s->bias = op_param(o, "bias", 0.0, 0.5, PC_DIMS(s->C));
    }
    return s;
}

// dy and add as backward is to see them: dx itself where the case says so.
static void alias(pc_ctx *ctx, const norm_state *s, pc_tensor *dy, pc_tensor *add)
{
    *dy = s->dy;
    *add = s->flags & (ADD | DX_IS_ADD) ? s->add : PC_NONE;
    if (s->flags & DX_IS_DY) {
        ctx->ops->copy_forward(ctx, s->x.g, s->dy);
        *dy = s->x.g;
    }
    if (s->flags & DX_IS_ADD) {
        ctx->ops->copy_forward(ctx, s->x.g, s->add);
        *add = s->x.g;
    }
}

static double scalar(const norm_state *s, pc_tensor y)
{
    const double added = s->flags & (ADD | DX_IS_ADD) ? op_dot(s->x.x, s->add) : 0.0;
    return op_dot(y, s->dy) + added;
}

static double layernorm_run(pc_ctx *ctx, void *arg, bool backward)
{
    const norm_state *s = arg;
    const pc_tensor y = op_alloc(ctx, 4, PC_DIMS(s->N, s->C));
    const pc_tensor mean = op_alloc(ctx, 0, PC_DIMS(s->N)), rstd = op_alloc(ctx, 0, PC_DIMS(s->N));
    ctx->ops->layernorm_forward(ctx, y, mean, rstd, s->x.x, s->gain.x, s->bias.x, 1e-5);
    if (backward) {
        pc_tensor dy, add;
        alias(ctx, s, &dy, &add);
        ctx->grad_ops->layernorm_backward(ctx, s->x.g, s->gain.g, s->bias.g, dy, s->x.x, s->gain.x,
                                          mean, rstd, add);
    }
    return scalar(s, y);
}

static double rmsnorm_run(pc_ctx *ctx, void *arg, bool backward)
{
    const norm_state *s = arg;
    const int64_t dim[3] = {s->N, s->H ? s->H : s->C, s->C};
    const pc_tensor y = op_alloc(ctx, 4, s->H ? 3 : 2, dim);
    const pc_tensor rstd =
        s->H ? op_alloc(ctx, 0, PC_DIMS(s->N, s->H)) : op_alloc(ctx, 0, PC_DIMS(s->N));
    if (s->flags & Y_IS_X) ctx->ops->copy_forward(ctx, y, s->x.x);
    ctx->ops->rmsnorm_forward(ctx, y, rstd, s->flags & Y_IS_X ? y : s->x.x, s->gain.x, 1e-5);
    if (backward) {
        pc_tensor dy, add;
        alias(ctx, s, &dy, &add);
        ctx->grad_ops->rmsnorm_backward(ctx, s->x.g, s->gain.g, dy, s->x.x, s->gain.x, rstd, add);
    }
    return scalar(s, y);
}

// rope: arg N, H, D, 1: in place
typedef struct rope_state {
    bool in_place;
    op_var x;
    pc_tensor dy, cosine, sine, pos;
} rope_state;

static void *rope_setup(opcheck *o, const int64_t *arg)
{
    enum { ROWS = 11 };
    const int64_t N = arg[0], H = arg[1], D = arg[2];
    rope_state *s = op_state(o, sizeof *s);
    s->in_place = arg[3] != 0;
    s->x = op_input(o, "x", 1.0, 3, PC_DIMS(N, H, D));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(N, H, D));
    s->cosine = op_const(o, 1.0, 0, PC_DIMS(ROWS, D / 2));
    s->sine = op_const(o, 1.0, 0, PC_DIMS(ROWS, D / 2));
    for (int64_t i = 0; i < pc_numel(s->cosine); i++) {
        const double angle =
            (double)(i / (D / 2)) * pow(100.0, -2.0 * (double)(i % (D / 2)) / (double)D);
        op_set(s->cosine, i, cos(angle));
        op_set(s->sine, i, sin(angle));
    }
    s->pos = pc_alloc1(&o->g.hold, PC_I32, N);
    for (int64_t n = 0; n < N; n++) pc_i32(s->pos)[n] = (int32_t)op_draw(o, ROWS);
    return s;
}

static double rope_run(pc_ctx *ctx, void *arg, bool backward)
{
    const rope_state *s = arg;
    const pc_tensor y = op_alloc(ctx, 2, PC_DIMS(s->dy.dim[0], s->dy.dim[1], s->dy.dim[2]));
    if (s->in_place) ctx->ops->copy_forward(ctx, y, s->x.x);
    ctx->ops->rope_forward(ctx, y, s->in_place ? y : s->x.x, s->cosine, s->sine, s->pos);
    if (backward && s->in_place) ctx->ops->copy_forward(ctx, s->x.g, s->dy);
    if (backward)
        ctx->grad_ops->rope_backward(ctx, s->x.g, s->in_place ? s->x.g : s->dy, s->cosine, s->sine,
                                     s->pos);
    return op_dot(y, s->dy);
}

// clang-format off
static const op_case cases[] = {
    // op, label, set-up, run, tolerance of the derivative and of float, sizes
    {"layernorm", "5x7", norm_setup, layernorm_run, 1e-7, 2e-6, {5, 0, 7, 0, 1}},
    {"layernorm", "3x16, add", norm_setup, layernorm_run, 1e-7, 2e-6, {3, 0, 16, ADD, 1}},
    {"layernorm", "1x33, dx is dy, add", norm_setup, layernorm_run, 1e-7, 2e-6, {1, 0, 33, ADD | DX_IS_DY, 1}},
    {"layernorm", "4x9, dx is add", norm_setup, layernorm_run, 1e-7, 2e-6, {4, 0, 9, DX_IS_ADD, 1}},
    {"layernorm", "6x2, frozen", norm_setup, layernorm_run, 1e-7, 2e-6, {6, 0, 3, NO_PARAMS, 1}},
    {"layernorm", "large", norm_setup, layernorm_run, 0, 2e-6, {517, 0, 191, ADD | DX_IS_ADD, 1}},
    {"layernorm", "large, frozen", norm_setup, layernorm_run, 0, 2e-6, {301, 0, 768, DX_IS_DY | NO_PARAMS, 1}},
    {"rmsnorm", "5x7", norm_setup, rmsnorm_run, 1e-7, 2e-6, {5, 0, 7, 0, 0}},
    {"rmsnorm", "1x1, add", norm_setup, rmsnorm_run, 1e-7, 2e-6, {1, 0, 1, ADD, 0}},
    {"rmsnorm", "3x16, dx is dy, add", norm_setup, rmsnorm_run, 1e-7, 2e-6, {3, 0, 16, ADD | DX_IS_DY, 0}},
    {"rmsnorm", "4x9, dx is add, frozen", norm_setup, rmsnorm_run, 1e-7, 2e-6, {4, 0, 9, DX_IS_ADD | NO_PARAMS, 0}},
    {"rmsnorm", "heads 3x4x5", norm_setup, rmsnorm_run, 1e-7, 2e-6, {3, 4, 5, 0, 0}},
    {"rmsnorm", "heads 2x3x16, y is x, dx is dy", norm_setup, rmsnorm_run, 1e-7, 2e-6, {2, 3, 16, DX_IS_DY | Y_IS_X, 0}},
    {"rmsnorm", "large", norm_setup, rmsnorm_run, 0, 2e-6, {517, 0, 191, ADD, 0}},
    {"rmsnorm", "large heads", norm_setup, rmsnorm_run, 0, 2e-6, {203, 12, 33, DX_IS_DY | Y_IS_X, 0}},
    {"rope", "5x3x8", rope_setup, rope_run, 1e-7, 1e-6, {5, 3, 8, 0}},
    {"rope", "3x1x2, in place", rope_setup, rope_run, 1e-7, 1e-6, {3, 1, 2, 1}},
    {"rope", "2x2x34, in place", rope_setup, rope_run, 1e-7, 1e-6, {2, 2, 34, 1}},
    {"rope", "large", rope_setup, rope_run, 0, 1e-6, {301, 6, 32, 0}},
};
// clang-format on

static void layernorm_no_mean(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy,
                              pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd,
                              pc_tensor add)
{
    // What mean_c u takes off, put back.
    const int64_t N = x.dim[0], C = x.dim[1];
    double u[16] = {0};
    for (int64_t i = 0; i < pc_numel(x); i++)
        u[i / C % 16] += op_get(dy, i) * op_get(g, i % C) / (double)C;
    opcheck_sound()->layernorm_backward(ctx, dx, dg, db, dy, x, g, mean, rstd, add);
    for (int64_t i = 0; i < N * C; i++)
        op_set(dx, i, op_get(dx, i) + u[i / C % 16] * op_get(rstd, i / C));
}
static void layernorm_no_add(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy,
                             pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd,
                             pc_tensor add)
{
    (void)add;
    opcheck_sound()->layernorm_backward(ctx, dx, dg, db, dy, x, g, mean, rstd, PC_NONE);
}
static void layernorm_dg_overwritten(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor db,
                                     pc_tensor dy, pc_tensor x, pc_tensor g, pc_tensor mean,
                                     pc_tensor rstd, pc_tensor add)
{
    if (pc_present(dg)) ctx->ops->zero_forward(ctx, dg);
    opcheck_sound()->layernorm_backward(ctx, dx, dg, db, dy, x, g, mean, rstd, add);
}
static void layernorm_db_scaled(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy,
                                pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd,
                                pc_tensor add)
{
    opcheck_sound()->layernorm_backward(ctx, dx, dg, db, dy, x, g, mean, rstd, add);
    if (pc_present(db)) op_scale(db, 1.01);
}
static void rmsnorm_no_projection(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor dy,
                                  pc_tensor x, pc_tensor g, pc_tensor rstd, pc_tensor add)
{
    opcheck_sound()->rmsnorm_backward(ctx, dx, dg, dy, x, g, rstd, add);
    const int64_t C = g.dim[0];
    if (pc_present(add)) return;
    for (int64_t i = 0; i < pc_numel(x); i++)
        op_set(dx, i, op_get(rstd, i / C) * op_get(g, i % C) * op_get(dy, i));
}
static void rmsnorm_dg_without_rstd(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor dy,
                                    pc_tensor x, pc_tensor g, pc_tensor rstd, pc_tensor add)
{
    const int64_t C = g.dim[0];
    if (pc_present(dg))
        for (int64_t i = 0; i < pc_numel(x); i++)
            op_set(dg, i % C, op_get(dg, i % C) + op_get(dy, i) * op_get(x, i));
    opcheck_sound()->rmsnorm_backward(ctx, dx, PC_NONE, dy, x, g, rstd, add);
}
static void rmsnorm_no_add(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor dy, pc_tensor x,
                           pc_tensor g, pc_tensor rstd, pc_tensor add)
{
    (void)add;
    opcheck_sound()->rmsnorm_backward(ctx, dx, dg, dy, x, g, rstd, PC_NONE);
}
static void rope_same_turn(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor cos_table,
                           pc_tensor sin_table, pc_tensor pos)
{
    ctx->ops->rope_forward(ctx, dx, dy, cos_table, sin_table, pos);
}
static void rope_position_of_row_0(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor cos_table,
                                   pc_tensor sin_table, pc_tensor pos)
{
    int32_t first[16];
    for (int i = 0; i < 16; i++) first[i] = pc_i32(pos)[0];
    opcheck_sound()->rope_backward(ctx, dx, dy, cos_table, sin_table,
                                   pc_view1(first, PC_I32, pos.dim[0]));
}

OP_INSTALL(layernorm_backward, layernorm_no_mean)
OP_INSTALL(layernorm_backward, layernorm_no_add)
OP_INSTALL(layernorm_backward, layernorm_dg_overwritten)
OP_INSTALL(layernorm_backward, layernorm_db_scaled)
OP_INSTALL(rmsnorm_backward, rmsnorm_no_projection)
OP_INSTALL(rmsnorm_backward, rmsnorm_dg_without_rstd)
OP_INSTALL(rmsnorm_backward, rmsnorm_no_add)
OP_INSTALL(rope_backward, rope_same_turn)
OP_INSTALL(rope_backward, rope_position_of_row_0)

static const op_mutation mutations[] = {
    {"layernorm", "the mean's part forgotten", install_layernorm_no_mean},
    {"layernorm", "add forgotten", install_layernorm_no_add},
    {"layernorm", "dg overwritten", install_layernorm_dg_overwritten},
    {"layernorm", "db 1 % too large", install_layernorm_db_scaled},
    {"rmsnorm", "the projection forgotten", install_rmsnorm_no_projection},
    {"rmsnorm", "dg without rstd", install_rmsnorm_dg_without_rstd},
    {"rmsnorm", "add forgotten", install_rmsnorm_no_add},
    {"rope", "turned the same way", install_rope_same_turn},
    {"rope", "every row at the first one's position", install_rope_position_of_row_0},
};

int main(void)
{
    return opcheck_main(cases, sizeof cases / sizeof *cases, mutations,
                        sizeof mutations / sizeof *mutations);
}

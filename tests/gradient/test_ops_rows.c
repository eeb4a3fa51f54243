/*
 * test_ops_rows.c - lookups, row moves, convolutions as rows, resized grids: derivatives, precision,
 * mutations.
 *
 * Seen: derivatives 7.2e-11; float against double 1.5e-7.
 */
#include "tests/support/opcheck.h"

typedef struct rows_state {
    op_var table, x;
    pc_tensor index, dy, base;
    pc_conv conv;
    int64_t grid[4]; // h2, w2, h1, w1
    bool in_place;
} rows_state;

// embedding, add_rows: arg N, C, V. Ids repeat, and some are -1.
static void *table_setup(opcheck *o, const int64_t *arg)
{
    const int64_t N = arg[0], C = arg[1], V = arg[2];
    rows_state *s = op_state(o, sizeof *s);
    s->in_place = arg[3] != 0;
    s->table = op_param(o, "table", 0.0, 1.0, PC_DIMS(V, C));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(N, C));
    s->base = op_const(o, 1.0, 2, PC_DIMS(N, C));
    s->index = pc_alloc1(&o->g.hold, PC_I32, N);
    for (int64_t n = 0; n < N; n++) pc_i32(s->index)[n] = (int32_t)op_draw(o, (uint64_t)V + 1) - 1;
    pc_i32(s->index)[0] = (int32_t)V - 1;
    return s;
}

static double embedding_run(pc_ctx *ctx, void *arg, bool backward)
{
    const rows_state *s = arg;
    const pc_tensor y = op_alloc(ctx, 3, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    ctx->ops->copy_forward(ctx, y, s->base); // rows of id -1 keep this
    ctx->ops->embedding_forward(ctx, y, s->index, s->table.x);
    if (backward) ctx->grad_ops->embedding_backward(ctx, s->table.g, s->dy, s->index);
    return op_dot(y, s->dy);
}

static double add_rows_run(pc_ctx *ctx, void *arg, bool backward)
{
    const rows_state *s = arg;
    const pc_tensor y = op_alloc(ctx, 3, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    if (s->in_place) ctx->ops->copy_forward(ctx, y, s->base);
    ctx->ops->add_rows_forward(ctx, y, s->in_place ? y : s->base, s->table.x, s->index);
    if (backward) ctx->grad_ops->add_rows_backward(ctx, s->table.g, s->dy, s->index);
    return op_dot(y, s->dy);
}

// gather: arg N, C, M; repeats allowed, some rows are never taken
static void *gather_setup(opcheck *o, const int64_t *arg)
{
    const int64_t N = arg[0], C = arg[1], M = arg[2];
    rows_state *s = op_state(o, sizeof *s);
    s->x = op_input(o, "x", 1.0, 3, PC_DIMS(N, C));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(M, C));
    s->index = pc_alloc1(&o->g.hold, PC_I32, M);
    for (int64_t m = 0; m < M; m++) pc_i32(s->index)[m] = (int32_t)op_draw(o, (uint64_t)N);
    return s;
}

static double gather_run(pc_ctx *ctx, void *arg, bool backward)
{
    const rows_state *s = arg;
    const pc_tensor y = op_alloc(ctx, 3, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    ctx->ops->gather_forward(ctx, y, s->x.x, s->index);
    if (backward) ctx->grad_ops->gather_backward(ctx, s->x.g, s->dy, s->index);
    return op_dot(y, s->dy);
}

// splice: arg N, C, M <= N; no place twice, every fifth row goes nowhere
static void *splice_setup(opcheck *o, const int64_t *arg)
{
    const int64_t N = arg[0], C = arg[1], M = arg[2];
    rows_state *s = op_state(o, sizeof *s);
    s->x = op_input(o, "f", 1.0, 3, PC_DIMS(M, C));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(N, C));
    s->base = op_const(o, 1.0, 2, PC_DIMS(N, C));
    int64_t *place = op_state(o, (size_t)N * sizeof *place);
    const pc_rng_key key = {.seed = 4, .stream = PC_STREAM_TEST};
    pc_rng_permutation(&key, place, N);
    s->index = pc_alloc1(&o->g.hold, PC_I32, M);
    for (int64_t m = 0; m < M; m++) pc_i32(s->index)[m] = m % 5 == 3 ? -1 : (int32_t)place[m];
    return s;
}

static double splice_run(pc_ctx *ctx, void *arg, bool backward)
{
    const rows_state *s = arg;
    const pc_tensor y = op_alloc(ctx, 3, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    ctx->ops->copy_forward(ctx, y, s->base);
    ctx->ops->splice_forward(ctx, y, s->x.x, s->index);
    if (backward) ctx->grad_ops->splice_backward(ctx, s->x.g, s->dy, s->index);
    return op_dot(y, s->dy);
}

// im2col: arg B, C, H, W, kernel, step, pad, channels last
static void *im2col_setup(opcheck *o, const int64_t *arg)
{
    rows_state *s = op_state(o, sizeof *s);
    pc_conv *v = &s->conv;
    *v = (pc_conv){.B = arg[0],
                   .C = arg[1],
                   .H = arg[2],
                   .W = arg[3],
                   .kernel = arg[4],
                   .step = arg[5],
                   .pad = arg[6],
                   .channels_last = arg[7] != 0};
    v->out_h = (v->H + 2 * v->pad - v->kernel) / v->step + 1;
    v->out_w = (v->W + 2 * v->pad - v->kernel) / v->step + 1;
    if (v->channels_last)
        s->x = op_input(o, "x", 1.0, 3, PC_DIMS(v->B * v->H * v->W, v->C));
    else
        s->x = op_input(o, "x", 1.0, 3, PC_DIMS(v->B, v->C, v->H, v->W));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(v->B * v->out_h * v->out_w, v->C * v->kernel * v->kernel));
    return s;
}

static double im2col_run(pc_ctx *ctx, void *arg, bool backward)
{
    const rows_state *s = arg;
    const pc_tensor cols = op_alloc(ctx, 2, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    ctx->ops->im2col_forward(ctx, cols, s->x.x, &s->conv);
    if (backward) ctx->grad_ops->im2col_backward(ctx, s->x.g, s->dy, &s->conv);
    return op_dot(cols, s->dy);
}

// resize_grid: arg C, h2, w2, h1, w1
static void *resize_setup(opcheck *o, const int64_t *arg)
{
    rows_state *s = op_state(o, sizeof *s);
    for (int i = 0; i < 4; i++) s->grid[i] = arg[1 + i];
    s->table = op_param(o, "x", 0.0, 1.0, PC_DIMS(arg[3] * arg[4], arg[0]));
    s->dy = op_const(o, 1.0, 1, PC_DIMS(arg[1] * arg[2], arg[0]));
    return s;
}

static double resize_run(pc_ctx *ctx, void *arg, bool backward)
{
    const rows_state *s = arg;
    const int64_t *g = s->grid;
    const pc_tensor y = op_alloc(ctx, 2, PC_DIMS(s->dy.dim[0], s->dy.dim[1]));
    ctx->ops->resize_grid_forward(ctx, y, s->table.x, g[0], g[1], g[2], g[3]);
    if (backward)
        ctx->grad_ops->resize_grid_backward(ctx, s->table.g, s->dy, g[0], g[1], g[2], g[3]);
    return op_dot(y, s->dy);
}

// clang-format off
static const op_case cases[] = {
    // op, label, set-up, run, tolerance of the derivative and of float, sizes
    {"embedding", "9 rows of 4", table_setup, embedding_run, 1e-7, 1e-6, {9, 5, 4}},
    {"embedding", "one row of one", table_setup, embedding_run, 1e-7, 1e-6, {1, 1, 1}},
    {"embedding", "large", table_setup, embedding_run, 0, 1e-6, {700, 97, 50}},
    {"add_rows", "9 rows of 4", table_setup, add_rows_run, 1e-7, 1e-6, {9, 5, 4, 0}},
    {"add_rows", "6 rows of 3, in place", table_setup, add_rows_run, 1e-7, 1e-6, {6, 17, 3, 1}},
    {"add_rows", "large", table_setup, add_rows_run, 0, 1e-6, {700, 97, 50, 1}},
    {"gather", "7 of 5", gather_setup, gather_run, 1e-7, 1e-6, {5, 3, 7}},
    {"gather", "2 of 9", gather_setup, gather_run, 1e-7, 1e-6, {9, 17, 2}},
    {"gather", "large", gather_setup, gather_run, 0, 1e-6, {300, 97, 500}},
    {"splice", "5 into 9", splice_setup, splice_run, 1e-7, 1e-6, {9, 3, 5}},
    {"splice", "1 into 1", splice_setup, splice_run, 1e-7, 1e-6, {1, 1, 1}},
    {"splice", "large", splice_setup, splice_run, 0, 1e-6, {500, 97, 333}},
    {"im2col", "patches of planes", im2col_setup, im2col_run, 1e-7, 1e-6, {2, 3, 4, 6, 2, 2, 0, 0}},
    {"im2col", "patches, image not divisible", im2col_setup, im2col_run, 1e-7, 1e-6, {1, 2, 5, 7, 3, 3, 0, 0}},
    {"im2col", "3x3 step 2 pad 1, planes", im2col_setup, im2col_run, 1e-7, 1e-6, {2, 2, 5, 6, 3, 2, 1, 0}},
    {"im2col", "3x3 step 2 pad 1, channels last", im2col_setup, im2col_run, 1e-7, 1e-6, {2, 3, 6, 5, 3, 2, 1, 1}},
    {"im2col", "3x3 step 1 pad 1, one place", im2col_setup, im2col_run, 1e-7, 1e-6, {1, 1, 1, 1, 3, 1, 1, 1}},
    {"im2col", "5x5 step 1 pad 2, channels last", im2col_setup, im2col_run, 1e-7, 1e-6, {1, 2, 4, 3, 5, 1, 2, 1}},
    {"im2col", "large patches", im2col_setup, im2col_run, 0, 1e-6, {3, 3, 64, 64, 8, 8, 0, 0}},
    {"im2col", "large channels last", im2col_setup, im2col_run, 0, 1e-6, {2, 17, 31, 33, 3, 2, 1, 1}},
    {"resize_grid", "3x3 to 5x4", resize_setup, resize_run, 1e-7, 2e-6, {3, 5, 4, 3, 3}},
    {"resize_grid", "4x5 to 2x2", resize_setup, resize_run, 1e-7, 2e-6, {2, 2, 2, 4, 5}},
    {"resize_grid", "1x1 to 2x1", resize_setup, resize_run, 1e-7, 2e-6, {1, 2, 1, 1, 1}},
    {"resize_grid", "large", resize_setup, resize_run, 0, 2e-6, {97, 24, 20, 14, 14}},
};
// clang-format on

static void embedding_last_wins(pc_ctx *ctx, pc_tensor dtable, pc_tensor dy, pc_tensor ids)
{
    // Repeated ids overwrite one another.
    (void)ctx;
    const int64_t C = dy.dim[1];
    for (int64_t n = 0; n < ids.dim[0]; n++) {
        const int64_t id = pc_i32(ids)[n];
        for (int64_t c = 0; c < C && id >= 0; c++)
            op_set(dtable, id * C + c, op_get(dy, n * C + c) + 0.25);
    }
}
static void embedding_first_row_lost(pc_ctx *ctx, pc_tensor dtable, pc_tensor dy, pc_tensor ids)
{
    const int32_t first = pc_i32(ids)[0];
    pc_i32(ids)[0] = -1; // the first row is lost
    opcheck_sound()->embedding_backward(ctx, dtable, dy, ids);
    pc_i32(ids)[0] = first;
}
static void gather_overwrites(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor index)
{
    ctx->ops->zero_forward(ctx, dx);
    ctx->ops->splice_forward(ctx, dx, dy, index);
}
static void gather_accumulates(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor index)
{
    ctx->grad_ops->embedding_backward(ctx, dx, dy, index); // without dx = 0 before
}
static void splice_reads_in_order(pc_ctx *ctx, pc_tensor df, pc_tensor dy, pc_tensor index)
{
    (void)index;
    ctx->ops->copy_forward(ctx, df, pc_rows(dy, 0, df.dim[0]));
}
static void splice_keeps_lost_rows(pc_ctx *ctx, pc_tensor df, pc_tensor dy, pc_tensor index)
{
    opcheck_sound()->splice_backward(ctx, df, dy, index);
    for (int64_t m = 0; m < index.dim[0]; m++)
        for (int64_t c = 0; c < df.dim[1] && pc_i32(index)[m] < 0; c++)
            op_set(df, m * df.dim[1] + c, 1.0);
}
static void im2col_first_row_doubled(pc_ctx *ctx, pc_tensor dx, pc_tensor dcols,
                                     const pc_conv *conv)
{
    opcheck_sound()->im2col_backward(ctx, dx, dcols, conv);
    if (conv->pad) op_scale(pc_rows(dx, 0, 1), 2.0);
}
static void im2col_last_place_lost(pc_ctx *ctx, pc_tensor dx, pc_tensor dcols, const pc_conv *conv)
{
    const int64_t K2 = conv->kernel * conv->kernel, width = dcols.dim[1];
    const pc_tensor part = op_alloc(ctx, 0, PC_DIMS(dcols.dim[0], width));
    ctx->ops->copy_forward(ctx, part, dcols);
    for (int64_t i = 0; i < pc_numel(part); i++)
        if (i % width % K2 == K2 - 1) op_set(part, i, 0.0);
    opcheck_sound()->im2col_backward(ctx, dx, part, conv);
}
static void resize_transposed(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2,
                              int64_t h1, int64_t w1)
{
    opcheck_sound()->resize_grid_backward(ctx, dx, dy, w2, h2, h1, w1);
}
static void resize_overwrites(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2,
                              int64_t h1, int64_t w1)
{
    ctx->ops->zero_forward(ctx, dx);
    opcheck_sound()->resize_grid_backward(ctx, dx, dy, h2, w2, h1, w1);
}

OP_INSTALL(embedding_backward, embedding_last_wins)
OP_INSTALL(embedding_backward, embedding_first_row_lost)
OP_INSTALL(gather_backward, gather_overwrites)
OP_INSTALL(gather_backward, gather_accumulates)
OP_INSTALL(splice_backward, splice_reads_in_order)
OP_INSTALL(splice_backward, splice_keeps_lost_rows)
OP_INSTALL(im2col_backward, im2col_first_row_doubled)
OP_INSTALL(im2col_backward, im2col_last_place_lost)
OP_INSTALL(resize_grid_backward, resize_transposed)
OP_INSTALL(resize_grid_backward, resize_overwrites)

static void install_add_rows_last_wins(pc_grad_ops *ops)
{
    ops->add_rows_backward = embedding_last_wins;
}
static void install_add_rows_first_row_lost(pc_grad_ops *ops)
{
    ops->add_rows_backward = embedding_first_row_lost;
}

static const op_mutation mutations[] = {
    {"embedding", "a repeated id overwrites", install_embedding_last_wins},
    {"embedding", "the first row lost", install_embedding_first_row_lost},
    {"add_rows", "a repeated index overwrites", install_add_rows_last_wins},
    {"add_rows", "the first row lost", install_add_rows_first_row_lost},
    {"gather", "a repeated index overwrites", install_gather_overwrites},
    {"gather", "dx not cleared", install_gather_accumulates},
    {"splice", "rows in order, not by index", install_splice_reads_in_order},
    {"splice", "a gradient for a row that goes nowhere", install_splice_keeps_lost_rows},
    {"im2col", "the first row doubled under padding", install_im2col_first_row_doubled},
    {"im2col", "the last kernel place lost", install_im2col_last_place_lost},
    {"resize_grid", "height and width swapped", install_resize_transposed},
    {"resize_grid", "dx overwritten", install_resize_overwrites},
};

int main(void)
{
    return opcheck_main(cases, sizeof cases / sizeof *cases, mutations,
                        sizeof mutations / sizeof *mutations);
}

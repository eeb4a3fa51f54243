/*
 * sabotage.c - wrappers that call the sound backward and spoil its results.
 */
#include "tests/support/sabotage.h"

#include <stdio.h>

static const pc_grad_ops *sound;
static bool called;

/* A third more, row by row; absent tensors are left alone. */
static void spoil(pc_tensor x)
{
    called = true;
    if (!pc_present(x)) return;
    const int64_t len = pc_row_len(x);
    for (int64_t n = 0; n < x.dim[0]; n++)
        for (int64_t i = 0; i < len; i++) ((double *)x.data)[n * x.stride + i] *= 4.0 / 3.0;
}

static void linear(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor db, pc_tensor dy, pc_tensor x,
                   pc_tensor w, bool fresh)
{
    sound->linear_backward(ctx, dx, dw, db, dy, x, w, fresh);
    spoil(dx), spoil(dw), spoil(db);
}

static void act(pc_ctx *ctx, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    sound->act_backward(ctx, dz, da, z, kind);
    spoil(dz);
}

static void linear_act(pc_ctx *ctx, pc_tensor dz, pc_tensor db, pc_tensor da, pc_tensor z,
                       pc_act kind)
{
    sound->linear_act_backward(ctx, dz, db, da, z, kind);
    spoil(dz), spoil(db);
}

static void swiglu(pc_ctx *ctx, pc_tensor dgu, pc_tensor dh, pc_tensor gu)
{
    sound->swiglu_backward(ctx, dgu, dh, gu);
    spoil(dgu);
}

static void layernorm(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy,
                      pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd, pc_tensor add)
{
    sound->layernorm_backward(ctx, dx, dg, db, dy, x, g, mean, rstd, add);
    spoil(dx), spoil(dg), spoil(db);
}

static void rmsnorm(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor dy, pc_tensor x, pc_tensor g,
                    pc_tensor rstd, pc_tensor add)
{
    sound->rmsnorm_backward(ctx, dx, dg, dy, x, g, rstd, add);
    spoil(dx), spoil(dg);
}

static void rope(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor cos_table, pc_tensor sin_table,
                 pc_tensor pos)
{
    sound->rope_backward(ctx, dx, dy, cos_table, sin_table, pos);
    spoil(dx);
}

static void attention(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout,
                      pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o, pc_tensor lse,
                      const pc_mask *mask, double scale)
{
    sound->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, mask, scale);
    spoil(dq), spoil(dk), spoil(dv);
}

static void rel_terms(pc_ctx *ctx, pc_tensor dq, pc_tensor dth, pc_tensor dtw, pc_tensor drh,
                      pc_tensor drw, pc_tensor q, pc_tensor th, pc_tensor tw, pc_tensor add)
{
    sound->rel_terms_backward(ctx, dq, dth, dtw, drh, drw, q, th, tw, add);
    spoil(dq), spoil(dth), spoil(dtw);
}

static void rel_attention(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor drh,
                          pc_tensor drw, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,
                          pc_tensor rh, pc_tensor rw, pc_tensor o, pc_tensor lse,
                          const pc_mask *mask, double scale)
{
    sound->rel_attention_backward(ctx, dq, dk, dv, drh, drw, dout, q, k, v, rh, rw, o, lse, mask,
                                  scale);
    spoil(dq), spoil(dk), spoil(dv), spoil(drh), spoil(drw);
}

static void embedding(pc_ctx *ctx, pc_tensor dtable, pc_tensor dy, pc_tensor ids)
{
    sound->embedding_backward(ctx, dtable, dy, ids);
    spoil(dtable);
}

static void add_rows(pc_ctx *ctx, pc_tensor dtable, pc_tensor dy, pc_tensor index)
{
    sound->add_rows_backward(ctx, dtable, dy, index);
    spoil(dtable);
}

static void gather(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor index)
{
    sound->gather_backward(ctx, dx, dy, index);
    spoil(dx);
}

static void splice(pc_ctx *ctx, pc_tensor df, pc_tensor dy, pc_tensor index)
{
    sound->splice_backward(ctx, df, dy, index);
    spoil(df);
}

static void im2col(pc_ctx *ctx, pc_tensor dx, pc_tensor dcols, const pc_conv *conv)
{
    sound->im2col_backward(ctx, dx, dcols, conv);
    spoil(dx);
}

static void resize_grid(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2, int64_t h1,
                        int64_t w1)
{
    sound->resize_grid_backward(ctx, dx, dy, h2, w2, h1, w1);
    spoil(dx);
}

static void resize_map(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2, int64_t h1,
                       int64_t w1)
{
    sound->resize_map_backward(ctx, dx, dy, h2, w2, h1, w1);
    spoil(dx);
}

static void dropout(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, double p, pc_rng_key key)
{
    sound->dropout_backward(ctx, dx, dy, p, key);
    spoil(dx);
}

static void l2norm(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor y, pc_tensor inv)
{
    sound->l2norm_backward(ctx, dx, dy, y, inv);
    spoil(dx);
}

static void linear_xent(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x,
                        pc_tensor w, pc_tensor labels, pc_tensor coef)
{
    sound->linear_xent_backward(ctx, dx, dw, nll, x, w, labels, coef);
    spoil(dx), spoil(dw);
}

static void clip_loss(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor u,
                      pc_tensor v, pc_tensor t, pc_tensor lse_row, pc_tensor lse_col, double scale)
{
    sound->clip_loss_backward(ctx, du, dv, dt, u, v, t, lse_row, lse_col, scale);
    spoil(du), spoil(dv), spoil(dt);
}

static void sigmoid_loss(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor db,
                         pc_tensor u, pc_tensor v, pc_tensor t, pc_tensor b, double scale)
{
    sound->sigmoid_loss_backward(ctx, du, dv, dt, db, u, v, t, b, scale);
    spoil(du), spoil(dv), spoil(dt), spoil(db);
}

static void accumulate(pc_ctx *ctx, pc_tensor y, pc_tensor x)
{
    sound->accumulate(ctx, y, x);
    spoil(y);
}

typedef void install(pc_grad_ops *t);

// X(slot, wrapper): a function that puts the wrapper into the slot of a copied table.
// clang-format off
#define SABOTAGES(X) \
    X(linear_backward, linear) \
    X(act_backward, act) \
    X(linear_act_backward, linear_act) \
    X(swiglu_backward, swiglu) \
    X(layernorm_backward, layernorm) \
    X(rmsnorm_backward, rmsnorm) \
    X(rope_backward, rope) \
    X(attention_backward, attention) \
    X(rel_terms_backward, rel_terms) \
    X(rel_attention_backward, rel_attention) \
    X(embedding_backward, embedding) \
    X(add_rows_backward, add_rows) \
    X(gather_backward, gather) \
    X(splice_backward, splice) \
    X(im2col_backward, im2col) \
    X(resize_grid_backward, resize_grid) \
    X(resize_map_backward, resize_map) \
    X(dropout_backward, dropout) \
    X(l2norm_backward, l2norm) \
    X(linear_xent_backward, linear_xent) \
    X(clip_loss_backward, clip_loss) \
    X(sigmoid_loss_backward, sigmoid_loss) \
    X(accumulate, accumulate)
// clang-format on
#define INSTALLER(slot, wrapper)                                                                   \
    static void install_##wrapper(pc_grad_ops *t)                                                  \
    {                                                                                              \
        t->slot = wrapper;                                                                         \
    }
#define ENTRY(slot, wrapper) {#slot, install_##wrapper},
SABOTAGES(INSTALLER)

static const struct {
    const char *slot;
    install *install;
} entries[] = {SABOTAGES(ENTRY)};

bool sabotage_check(gradcheck *g, gradcheck_run *run, void *arg, double tolerance)
{
    bool ok = gradcheck_passes(g, run, arg, tolerance);
    const pc_grad_ops *const table = g->ctx.grad_ops;
    const bool quiet = g->quiet;
    int broken = 0;
    sound = table;
    g->quiet = true;
    for (size_t k = 0; k < sizeof entries / sizeof *entries; k++) {
        pc_grad_ops copy = *table;
        entries[k].install(&copy);
        g->ctx.grad_ops = &copy;
        called = false;
        const bool passes = gradcheck_again(g, run, arg, tolerance);
        if (!called) continue;
        broken++;
        if (passes) {
            printf("FAILED %s: a broken %s goes unnoticed\n", g->label, entries[k].slot);
            ok = false;
        }
    }
    g->ctx.grad_ops = table;
    g->quiet = quiet;
    if (broken == 0) {
        printf("FAILED %s: no backward was called\n", g->label);
        ok = false;
    }
    if (ok && !quiet)
        printf("ok     %s: %d operations broken in turn, each noticed\n", g->label, broken);
    fflush(stdout);
    return ok;
}

/*
 * test_sam.c - towers of windows with relative positions, the hybrid of two towers and its projector: backward
 * against differences, each operation broken in turn (sabotage.h); and what is frozen changes nothing of the rest.
 */
#include <stdio.h>
#include <string.h>

#include "model/networks/hybrid.h"
#include "tests/support/sabotage.h"

enum { SEED = 31 };
#define TOLERANCE 1e-7 // seen 4.9e-9, of a neck's first convolution

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

/* ----------------------------------------------------------------------------- tower */

typedef struct tower {
    pc_params params;
    pc_sam sam;
    pc_tensor pixels, w, w_middle;
    bool both;
} tower;

static double tower_run(pc_ctx *ctx, void *arg, bool backward)
{
    tower *s = arg;
    pc_sam_kept kept;
    pc_tensor last, middle;
    pc_sam_forward(ctx, &last, &middle, &kept, &s->sam, s->pixels);
    if (backward)
        pc_sam_backward(ctx, &s->sam, &kept, gradcheck_copy(ctx->act, s->w),
                        s->both ? s->w_middle : PC_NONE);
    return gradcheck_dot(last, s->w) + (s->both ? gradcheck_dot(middle, s->w_middle) : 0.0);
}

static pc_sam_config tower_config(void)
{
    return (pc_sam_config){.image_size = 10,
                           .patch = 2,
                           .C = 6,
                           .H = 2,
                           .F = 5,
                           .L = 3,
                           .window = 2,
                           .globals = 2,
                           .middle = 1,
                           .neck = 2,
                           .act = PC_ACT_GELU,
                           .eps = 1e-5,
                           .qkv_bias = true,
                           .positions = true,
                           .relative = true};
}

static void test_tower(const char *label, pc_sam_config c, bool both, const char *frozen)
{
    const int64_t side = pc_sam_side(&c), B = c.L > 2 ? 2 : 1;
    gradcheck g;
    gradcheck_open(&g, label, SEED, 2);
    tower s = {.both = both};
    s.pixels = gradcheck_random(&g, 1.0, PC_DIMS(B, 3, c.image_size, c.image_size));
    s.w = gradcheck_random(&g, 1.0, PC_DIMS(B * side * side, c.C));
    s.w_middle = gradcheck_random(&g, 1.0, PC_DIMS(B * side * side, c.C));
    check(pc_sam_validate(&c) == PC_OK, label);
    pc_sam_params(&s.params, &s.sam, &c);
    if (frozen) check(pc_params_train(&s.params, frozen, false) > 0, frozen);
    gradcheck_params(&g, &s.params, 0.4);
    check(sabotage_check(&g, tower_run, &s, TOLERANCE), label);
    pc_sam_close(&s.sam);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

static void test_towers(void)
{
    pc_sam_config c = tower_config();
    test_tower("windows of 2 in a grid of 5, block 1 global", c, true, NULL);
    c.L = 2;
    c.middle = 0;
    test_tower("the last block alone read", c, false, NULL);
    test_tower("queries, keys and values frozen", c, true, "blocks.0.attn.qkv");
    test_tower("stem and positions frozen", c, true, "stem");
    test_tower("a block's feed-forward part frozen", c, true, "blocks.1.mlp");
    pc_sam_config r = c;
    r.recompute = PC_RECOMPUTE_BLOCK;
    test_tower("recompute", r, true, NULL);
    test_tower("recompute, first block frozen", r, true, "blocks.0");
    c.window = 5;
    c.globals = 0;
    c.middle = 1;
    test_tower("one window holds the grid", c, true, NULL);
    c.window = 7;
    test_tower("a window larger than the grid", c, true, NULL);
    c.window = 0;
    c.middle = 0;
    test_tower("no windows", c, true, NULL);
    c = tower_config();
    c.L = 2;
    c.image_size = 8;
    test_tower("windows without padding", c, true, NULL);
    c.image_size = 6;
    c.qkv_bias = c.positions = false;
    test_tower("no bias, no positions", c, true, NULL);
    c.relative = false;
    test_tower("no relative positions either", c, true, NULL);
}

/* ---------------------------------------------------------------------------- hybrid */

typedef struct joined {
    pc_params params;
    pc_hybrid hybrid;
    pc_tensor pixels, s, ds, w; // large images; the low-resolution tower's rows
    bool want_ds;
} joined;

static double joined_run(pc_ctx *ctx, void *arg, bool backward)
{
    joined *j = arg;
    pc_hybrid_kept kept = {0};
    const pc_grad_ops *const grad_ops = ctx->grad_ops;
    const bool high = pc_hybrid_high_trains(&j->hybrid);
    if (!high) ctx->grad_ops = NULL; // as the network does
    const pc_tensor f = pc_hybrid_high_forward(ctx, &kept, &j->hybrid, j->pixels);
    ctx->grad_ops = grad_ops;
    const pc_tensor y = pc_hybrid_join_forward(ctx, &kept, &j->hybrid, f, j->s);
    if (backward) {
        const pc_tensor df = high ? pc_alloc_like(ctx->act, f) : PC_NONE;
        pc_hybrid_join_backward(ctx, df, j->want_ds ? j->ds : PC_NONE, &j->hybrid, &kept, j->w);
        if (high) pc_hybrid_high_backward(ctx, &j->hybrid, &kept, df);
    }
    return gradcheck_dot(y, j->w);
}

static void freeze(pc_params *p, const char *const *prefixes)
{
    for (; *prefixes; prefixes++) check(pc_params_train(p, *prefixes, false) > 0, *prefixes);
}

#define FREEZE(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_joined(const char *label, int64_t depth, bool want_ds, const char *const *frozen)
{
    const pc_sam_config sam = {
        .image_size = 6,
        .patch = 2,
        .C = 4,
        .H = 2,
        .F = 3,
        .L = 2,
        .window = 2,
        .globals = 1,
        .neck = 4, // of two channels a norm leaves signs alone: no differences there
        .act = PC_ACT_GELU,
        .eps = 1e-5,
        .qkv_bias = true,
        .positions = true,
        .relative = true};
    const pc_projector_config c = {
        .depth = depth, .in = 5, .out = 6, .bias = true, .act = PC_ACT_GELU};
    const int64_t B = 1, grid = 2;
    gradcheck g;
    joined j = {.want_ds = want_ds};
    gradcheck_open(&g, label, SEED, 2);
    j.pixels = gradcheck_random(&g, 1.0, PC_DIMS(B, 3, sam.image_size, sam.image_size));
    j.w = gradcheck_random(&g, 1.0, PC_DIMS(B * grid * grid, c.out));
    if (want_ds)
        j.s = gradcheck_input(&g, &j.ds, "s", 1.0, PC_DIMS(B * grid * grid, c.in));
    else
        j.s = gradcheck_random(&g, 1.0, PC_DIMS(B * grid * grid, c.in));
    check(pc_hybrid_validate(&sam, &c) == PC_OK, label);
    pc_hybrid_params(&j.params, &j.hybrid, &sam, &c, grid);
    if (frozen) freeze(&j.params, frozen);
    gradcheck_params(&g, &j.params, 0.4);
    check(sabotage_check(&g, joined_run, &j, TOLERANCE), label);
    pc_hybrid_close(&j.hybrid);
    pc_params_close(&j.params);
    gradcheck_close(&g);
}

int main(void)
{
    test_towers();
    test_joined("hybrid", 2, true, NULL);
    test_joined("hybrid, projector of three", 3, false, NULL);
    test_joined("hybrid, projector without activation", 1, true, NULL);
    test_joined("hybrid, SAM's blocks frozen", 2, true,
                FREEZE("vision.high.stem", "vision.high.positions", "vision.high.blocks"));
    test_joined("hybrid, all below the convolutions frozen", 2, true,
                FREEZE("vision.high.stem", "vision.high.positions", "vision.high.blocks",
                       "vision.high.neck", "vision.high.alpha"));
    test_joined("hybrid, the first neck and alpha frozen", 2, false,
                FREEZE("vision.high.neck.", "vision.high.alpha", "vision.high.down.0"));
    test_joined("hybrid, high tower frozen", 2, true, FREEZE("vision.high"));
    test_joined("hybrid, high tower frozen, one projection alone", 3, false,
                FREEZE("vision.high", "projector.high", "projector.low", "projector.linear.0"));
    return failures > 0;
}

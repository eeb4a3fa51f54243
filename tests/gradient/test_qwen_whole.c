/*
 * test_qwen_whole.c - Qwen2-VL and Qwen-VL whole against differences: images and a film spliced into sequences whose
 * tokens have three positions, with branches; a tower read by a resampler, with a decoder of biases.
 *
 * Each case is made again with each operation's backward broken (sabotage.h).
 */
#include <stdio.h>
#include <string.h>

#include "model/networks/vlm.h"
#include "tests/support/sabotage.h"

enum { SEED = 37, IMAGE = 9, FILM = 10, V = 11 };
#define TOLERANCE 1e-7 // seen 1.9e-9

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

typedef struct whole {
    gradcheck g;
    pc_params params;
    pc_vlm vlm;
    pc_vlm_batch batch;
    pc_tensor coef;
} whole;

static double whole_run(pc_ctx *ctx, void *arg, bool backward)
{
    whole *s = arg;
    pc_vlm_kept kept;
    pc_vlm_forward(ctx, &kept, &s->vlm, &s->batch, NULL);
    const pc_tensor nll = pc_alloc1(ctx->act, PC_F64, s->batch.N);
    if (backward)
        pc_vlm_loss_backward(ctx, nll, &s->vlm, &kept, &s->batch, s->coef);
    else
        pc_vlm_loss_forward(ctx, nll, &s->vlm, &kept, &s->batch);
    return gradcheck_dot(nll, s->coef);
}

static const pc_decoder_config decoder = {.V = V,
                                          .C = 8,
                                          .L = 2,
                                          .H = 2,
                                          .G = 1,
                                          .D = 8,
                                          .F = 10,
                                          .T = 24,
                                          .eps = 1e-5,
                                          .qkv_bias = true,
                                          .rope = {.theta = 100.0}};

static pc_vlm_config grid_config(void)
{
    pc_vlm_config c = {.visual = PC_VISUAL_GRID,
                       .vision = {.C = 8,
                                  .H = 2,
                                  .F = 6,
                                  .L = 1,
                                  .patch = 2,
                                  .frames = 2,
                                  .theta = 30.0,
                                  .act = PC_ACT_QUICK,
                                  .eps = 1e-6},
                       .merge = 2,
                       .decoder = decoder,
                       .feature_layer = -1,
                       .image_id = IMAGE,
                       .video_id = FILM};
    c.decoder.mrope[0] = 1;
    c.decoder.mrope[1] = 2;
    c.decoder.mrope[2] = 1;
    return c;
}

static pc_vlm_config resampler_config(void)
{
    const pc_vlm_config c = {
        .visual = PC_VISUAL_RESAMPLER,
        .vision = {.image_size = 6,
                   .patch = 2,
                   .table = 2,
                   .C = 6,
                   .H = 2,
                   .F = 8,
                   .L = 1,
                   .pre_norm = true,
                   .act = PC_ACT_GELU,
                   .eps = 1e-6},
        .projector = {.depth = 1, .in = 6, .out = 8, .queries = 4, .heads = 2, .bias = true},
        .decoder = decoder,
        .feature_layer = -1,
        .image_id = IMAGE};
    return c;
}

/* One sequence with an image and two branches behind it, one with `second` and an image. */
static void open_whole(whole *s, const char *label, const pc_vlm_config *c, int32_t second,
                       const char *const *frozen)
{
    static const int32_t first[] = {1, IMAGE, 2, 3, 4, 5, 6, 3, 7};
    static const uint8_t learn[] = {0, 0, 0, 0, 1, 1, 0, 0, 1};
    static const int64_t ends[] = {6, 9};
    const int32_t other[] = {1, second, 8, IMAGE, 5, 2};
    static const uint8_t learn_other[] = {0, 0, 1, 0, 1, 1};
    const bool grid = c->visual == PC_VISUAL_GRID;
    pc_image_geometry image[3] = {{.t = 1, .h = 2, .w = 4},
                                  {.t = 2, .h = 4, .w = 2},
                                  {.t = 1, .h = 2, .w = 2}};
    int64_t patches = 0;

    *s = (whole){0};
    gradcheck_open(&s->g, label, SEED, 2);
    pc_status st = pc_vlm_validate(c);
    for (int i = 0; i < 3 && !st; i++) {
        st = pc_vlm_measure(&image[i], c);
        patches += image[i].t * image[i].h * image[i].w;
    }
    const pc_sequence seqs[] = {{first, learn, 9, 3, 2, ends, image},
                                {other, learn_other, 6, 0, 0, NULL, image + 1}};
    st = st ? st : pc_vlm_batch_build(&s->batch, &s->g.hold, c, seqs, 2, 3);
    check(!st, pc_error_text());
    if (grid)
        s->batch.pictures.patches =
            gradcheck_random(&s->g, 1.0, PC_DIMS(patches, pc_qwen2_patch_width(&c->vision)));
    else
        s->batch.pictures.pixels = gradcheck_random(&s->g, 1.0, PC_DIMS(3, 3, 6, 6));
    s->coef = gradcheck_random(&s->g, 1.0, PC_DIMS(s->batch.N));
    pc_vlm_params(&s->params, &s->vlm, c);
    pc_vlm_tables(&s->vlm, &s->g.hold, PC_F64);
    for (; frozen && *frozen; frozen++)
        check(pc_params_train(&s->params, *frozen, false) > 0, *frozen);
    if (!grid) pc_params_train(&s->params, "projector.attn.k.bias", false); // see test_qwen.c
    gradcheck_params(&s->g, &s->params, 0.3);
}

static void close_whole(whole *s)
{
    pc_vlm_close(&s->vlm);
    pc_params_close(&s->params);
    gradcheck_close(&s->g);
}

static void test_whole(const char *label, pc_vlm_config c, int32_t second,
                       const char *const *frozen)
{
    whole s;
    open_whole(&s, label, &c, second, frozen);
    check(sabotage_check(&s.g, whole_run, &s, TOLERANCE), label);
    close_whole(&s);
}

/* What is frozen changes nothing about the rest, bit for bit. */
static void same_gradients(const char *label, const pc_vlm_config *c, int32_t second,
                           const char *const *frozen)
{
    whole x, y;
    int compared = 0;
    open_whole(&x, label, c, second, NULL);
    open_whole(&y, label, c, second, frozen);
    for (int i = 0; i < x.params.count; i++) {
        const pc_tensor from = x.params.list[i].weight->w;
        memcpy(y.params.list[i].weight->w.data, from.data, (size_t)pc_numel(from) * sizeof(double));
    }
    pc_params_zero_grads(&x.params);
    pc_params_zero_grads(&y.params);
    const double lx = gradcheck_once(&x.g, whole_run, &x, true);
    const double ly = gradcheck_once(&y.g, whole_run, &y, true);
    check(lx == ly, label);
    for (int i = 0; i < x.params.count; i++) {
        const pc_tensor gx = x.params.list[i].weight->g, gy = y.params.list[i].weight->g;
        if (!pc_present(gx) || !pc_present(gy)) continue;
        compared++;
        check(!memcmp(gx.data, gy.data, (size_t)pc_numel(gx) * sizeof(double)),
              x.params.list[i].name);
    }
    check(compared > 0, "nothing to compare");
    close_whole(&x);
    close_whole(&y);
}

/* Spec qwen-vl.md 5's own example, with a film behind it: where tokens and rows stand. */
static void test_positions(void)
{
    static const int32_t ids[] = {1, 2, 3, IMAGE, 4, 5, FILM, 6};
    static const int32_t t[] = {0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7, 8, 8, 9, 9, 10, 10, 11};
    static const int32_t h[] = {0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8, 8, 8, 8, 8, 8, 11};
    static const int32_t w[] = {0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 8, 9, 8, 9, 11};
    const pc_vlm_config c = grid_config();
    pc_image_geometry image[] = {{.t = 1, .h = 4, .w = 6}, {.t = 3, .h = 2, .w = 4}};
    pc_vlm_batch b;
    pc_arena a;
    bool good = !pc_arena_open(&a, "positions", 1 << 16) && !pc_vlm_measure(&image[0], &c) &&
                !pc_vlm_measure(&image[1], &c);
    const pc_sequence s = {.ids = ids, .length = 8, .images = image};
    good = good && !pc_vlm_batch_build(&b, &a, &c, &s, 1, 2) && b.N == 18;
    check(good && !memcmp(b.pos.data, t, sizeof t), "time");
    check(good && !memcmp(b.pos_y.data, h, sizeof h), "lines");
    check(good && !memcmp(b.pos_z.data, w, sizeof w), "columns");
    check(pc_vlm_positions(&c, ids, 8, image) == 12, "the position behind the last");
    pc_arena_close(&a);
}

int main(void)
{
    static const char *const vision[] = {"vision.", NULL};
    static const char *const but_projector[] = {"vision.", "decoder.", NULL};
    static const char *const but_vision[] = {"projector.", "decoder.", NULL};
    static const char *const eyes[] = {"vision.", "projector.", NULL};
    const pc_vlm_config grid = grid_config(), resampler = resampler_config();
    pc_vlm_config d = grid;

    test_positions();
    test_whole("grid: images, a film, branches", grid, FILM, NULL);
    test_whole("grid: merger alone", grid, FILM, but_projector);
    test_whole("grid: tower alone", grid, FILM, but_vision);
    d.vision.recompute = d.decoder.recompute = PC_RECOMPUTE_BLOCK;
    d.decoder.tied = true;
    test_whole("grid: recompute, tied head", d, FILM, NULL);
    test_whole("resampler: images, branches", resampler, IMAGE, NULL);
    test_whole("resampler: tower alone", resampler, IMAGE, but_vision);
    test_whole("resampler: resampler alone", resampler, IMAGE, but_projector);
    same_gradients("grid: tower frozen", &grid, FILM, vision);
    same_gradients("grid: eyes frozen", &grid, FILM, eyes);
    same_gradients("resampler: tower frozen", &resampler, IMAGE, vision);
    same_gradients("resampler: eyes frozen", &resampler, IMAGE, eyes);
    if (failures == 0) printf("ok     frozen parts agree bit for bit\n");
    return failures > 0;
}

/*
 * test_tiles.c - a vision-language model whose images are cut into tiles: gradients against central differences in
 * float64, through packing, newlines and shrinking.
 *
 * Each case is made again with each operation's backward broken (sabotage.h).
 */
#include <stdio.h>

#include "model/networks/vlm.h"
#include "tests/support/gradcheck.h"
#include "tests/support/sabotage.h"

#define SEED      20260123
#define TOLERANCE 1e-7 // seen 7e-9

enum { IMAGE = 9, V = 11, SIDE = 8 };

static int failures;

static void check(bool good, const char *what)
{
    if (!good) printf("FAILED %s\n", what);
    failures += !good;
}

typedef struct whole {
    gradcheck g;
    pc_params params;
    pc_vlm vlm;
    pc_vlm_batch batch;
    pc_tensor coef;
} whole;

static double run(pc_ctx *ctx, void *arg, bool backward)
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

static pc_vlm_config config(void)
{
    return (pc_vlm_config){
        .visual = PC_VISUAL_TILES,
        .vision = {.image_size = SIDE,
                   .patch = 4,
                   .C = 6,
                   .H = 2,
                   .F = 7,
                   .L = 2,
                   .patch_bias = true,
                   .class_token = true,
                   .act = PC_ACT_GELU_TANH,
                   .eps = 1e-5},
        .projector = {.depth = 2, .in = 6, .out = 8, .bias = true},
        .decoder = {.V = V,
                    .C = 8,
                    .L = 1,
                    .H = 4,
                    .G = 2,
                    .D = 4,
                    .F = 10,
                    .T = 96,
                    .eps = 1e-5,
                    .rope = {.theta = 100.0}},
        .pinpoints = {.count = 4,
                      .hw = {{SIDE, 2 * SIDE},
                             {2 * SIDE, SIDE},
                             {2 * SIDE, 2 * SIDE},
                             {3 * SIDE, 3 * SIDE}}},
        .feature_layer = -2,
        .image_id = IMAGE,
    };
}

/* Two sequences, one with two images and two branches behind the first of them. */
static void test(const char *label, const pc_vlm_config *c, const char *const *frozen,
                 int64_t want_shrunk)
{
    static const int32_t first[] = {1, IMAGE, 2, 3, 4, IMAGE, 5, 6, 3, 7};
    static const uint8_t learn_first[] = {0, 0, 0, 0, 1, 0, 1, 0, 0, 1};
    static const int64_t ends[] = {7, 10};
    static const int32_t second[] = {1, 8, IMAGE, 5, 2};
    static const uint8_t learn_second[] = {0, 1, 0, 1, 1};
    pc_image_geometry images[] = {{.height = 15, .width = 13},
                                  {.height = 5, .width = 40},
                                  {.crops = 1}};
    const pc_sequence seqs[] = {
        {.ids = first,
         .supervised = learn_first,
         .length = 10,
         .prefix = 3,
         .branches = 2,
         .branch_end = ends,
         .images = images},
        {.ids = second, .supervised = learn_second, .length = 5, .images = images + 2}};
    whole s = {0};
    int64_t crops = 0, shrunk = 0;
    gradcheck_open(&s.g, label, SEED, 2);
    pc_status st = pc_vlm_validate(c);
    for (int i = 0; i < 3 && !st; i++) {
        st = pc_vlm_measure(&images[i], c);
        crops += images[i].crops;
    }
    if (!st) st = pc_vlm_batch_build(&s.batch, &s.g.hold, c, seqs, 2, 3);
    check(!st, st ? pc_error_text() : "");
    if (st) return;
    s.batch.pictures.pixels = gradcheck_random(&s.g, 1.0, PC_DIMS(crops, 3, SIDE, SIDE));
    s.coef = gradcheck_random(&s.g, 1.0, PC_DIMS(s.batch.N));
    pc_vlm_params(&s.params, &s.vlm, c);
    pc_decoder_tables(&s.vlm.decoder, &s.g.hold, PC_F64);
    for (int i = 0; frozen && frozen[i]; i++) pc_params_train(&s.params, frozen[i], false);
    for (int i = 0; i < s.params.count; i++) // what the layer that is read does not need
        if (!pc_vlm_reads(c, s.params.list[i].name)) s.params.list[i].trainable = false;
    gradcheck_params(&s.g, &s.params, 0.3);
    for (int i = 0; i < 3; i++) {
        pc_tiles t;
        pc_tile_grid grid;
        if (images[i].crops == 1) continue;
        pc_tiles_choose(&t, &c->pinpoints, SIDE, images[i].height, images[i].width);
        pc_tile_grid_plan(&grid, &t, 2, images[i].height, images[i].width, c->max_tiles);
        shrunk += grid.out_h != grid.kept_h || grid.out_w != grid.kept_w;
    }
    check(shrunk == want_shrunk, "images that are shrunk");
    check(sabotage_check(&s.g, run, &s, TOLERANCE), label);
    pc_vlm_close(&s.vlm);
    pc_params_close(&s.params);
    gradcheck_close(&s.g);
}

int main(void)
{
    static const char *const vision[] = {"vision.", NULL};
    static const char *const but_newline[] = {"vision.", "projector.linear", "decoder.", NULL};
    static const char *const newline[] = {"projector.newline", NULL};
    static const char *const but_tower[] = {"projector.", "decoder.", NULL};
    pc_vlm_config c = config();

    test("tiles", &c, NULL, 0);
    test("tiles, tower frozen", &c, vision, 0);
    test("tiles, newline alone", &c, but_newline, 0);
    c.max_tiles = 1;
    test("tiles, shrunk", &c, NULL, 1);
    test("tiles, shrunk, newline frozen", &c, newline, 1);
    test("tiles, shrunk, tower alone", &c, but_tower, 1);
    c.vision.class_token = false;
    c.feature_layer = -1;
    c.image_bidirectional = true;
    test("tiles, no class token, image rows both ways", &c, NULL, 1);
    return failures > 0;
}

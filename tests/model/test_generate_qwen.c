/*
 * test_generate_qwen.c - does decoding with a cache pick what the whole model would, for eyes whose images take as many
 * rows and positions as they please? Two branches behind an image and a film; positions after them run behind rows.
 *
 * The yardstick runs prefix, branch and answer so far at once, without a cache, for every token.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/networks/generate.h"
#include "model/networks/model.h"

enum { V = 40, IMAGE = V - 1, FILM = V - 2, ANSWER = 10 };

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

static const pc_decoder_config decoder = {.V = V,
                                          .C = 16,
                                          .L = 3,
                                          .H = 4,
                                          .G = 2,
                                          .D = 8,
                                          .F = 24,
                                          .T = 60,
                                          .eps = 1e-5,
                                          .qkv_bias = true,
                                          .rope = {.theta = 100.0}};

static pc_model_config grid_config(void)
{
    pc_model_config c = {.kind = PC_MODEL_VLM,
                         .vlm = {.visual = PC_VISUAL_GRID,
                                 .vision = {.C = 16,
                                            .H = 2,
                                            .F = 24,
                                            .L = 2,
                                            .patch = 2,
                                            .frames = 2,
                                            .theta = 50.0,
                                            .act = PC_ACT_QUICK,
                                            .eps = 1e-6},
                                 .merge = 2,
                                 .decoder = decoder,
                                 .feature_layer = -1,
                                 .image_id = IMAGE,
                                 .video_id = FILM}};
    c.vlm.decoder.mrope[0] = c.vlm.decoder.mrope[1] = 1;
    c.vlm.decoder.mrope[2] = 2;
    return c;
}

static pc_model_config resampler_config(void)
{
    return (pc_model_config){
        .kind = PC_MODEL_VLM,
        .vlm = {.visual = PC_VISUAL_RESAMPLER,
                .vision = {.image_size = 6,
                           .patch = 2,
                           .table = 2,
                           .C = 16,
                           .H = 2,
                           .F = 24,
                           .L = 2,
                           .pre_norm = true,
                           .act = PC_ACT_GELU,
                           .eps = 1e-6},
                .projector = {.depth = 1, .in = 16, .out = 16, .queries = 4, .heads = 2},
                .decoder = decoder,
                .feature_layer = -1,
                .image_id = IMAGE}};
}

typedef struct bench {
    pc_model model;
    pc_runner runner;
    pc_arena host;
    pc_image_geometry image[2];
    pc_pictures pictures;
} bench;

static void noise(pc_tensor x)
{
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_TEST};
    for (int64_t i = 0; i < pc_numel(x); i++)
        ((float *)x.data)[i] = (float)pc_rng_normal(&key, (uint64_t)i);
}

static void open_bench(bench *b, const pc_model_config *c)
{
    *b = (bench){.image = {{.t = 1, .h = 4, .w = 6}, {.t = 2, .h = 4, .w = 4}}};
    pc_status st = pc_vlm_validate(&c->vlm);
    st = st ? st : pc_model_open(&b->model, c, PC_F32, true);
    st = st ? st : pc_runner_open(&b->runner, 2, NULL);
    st = st ? st : pc_arena_open(&b->host, "host", (size_t)1 << 24);
    for (int i = 0; i < 2 && !st; i++) st = pc_vlm_measure(&b->image[i], &c->vlm);
    if (st) {
        printf("FAILED %s\n", pc_error_text());
        exit(1);
    }
    // Larger weights than training starts from: logits that differ, and so answers that do.
    for (int i = 0; i < b->model.params.count; i++)
        if (b->model.params.list[i].init != PC_INIT_PLACES)
            b->model.params.list[i].init_scale *= 3.0;
    pc_params_init(&b->model.params, 11);
    b->pictures = (pc_pictures){.count = 2, .geometry = b->image};
    b->pictures.patches = pc_alloc2(&b->host, PC_F32, 24 + 32, 24);
    b->pictures.pixels = pc_view4(pc_arena_bytes(&b->host, 2 * 3 * 6 * 6 * 4), PC_F32, 2, 3, 6, 6);
    noise(b->pictures.patches);
    noise(b->pictures.pixels);
}

typedef struct full {
    const pc_vlm *vlm;
    pc_vlm_batch batch;
    pc_tensor logits;
} full;

static void full_pass(pc_ctx *ctx, void *arg)
{
    full *f = arg;
    pc_vlm_kept kept;
    f->logits = pc_alloc2(ctx->act, ctx->real, 1, f->vlm->config.decoder.V);
    const pc_tensor normed = pc_vlm_forward(ctx, &kept, f->vlm, &f->batch, NULL);
    pc_decoder_logits(ctx, f->logits, &f->vlm->decoder,
                      pc_rows(normed, f->batch.N - 1, f->batch.N));
}

/* The id that follows, by the whole model. */
static int32_t next_id(bench *b, const int32_t *ids, int64_t n)
{
    full f = {.vlm = &b->model.vlm};
    const pc_sequence s = {.ids = ids, .length = n, .images = b->image};
    const size_t mark = pc_arena_mark(&b->host);
    if (pc_vlm_batch_build(&f.batch, &b->host, &b->model.config.vlm, &s, 1, 2)) {
        printf("FAILED %s\n", pc_error_text());
        exit(1);
    }
    f.batch.pictures.pixels = b->pictures.pixels;
    f.batch.pictures.patches = b->pictures.patches;
    if (pc_runner_run(&b->runner, full_pass, &f)) exit(1);
    pc_arena_release(&b->host, mark);
    int32_t best = 0;
    for (int32_t v = 1; v < FILM; v++)
        if (pc_f32(f.logits, 0)[v] > pc_f32(f.logits, 0)[best]) best = v;
    return best;
}

static void test_branches(const char *label, const pc_model_config *c, int32_t second)
{
    const int32_t ids[] = {1, IMAGE, 2, second, 3, 4, 5, 6, 7, 8};
    static const int64_t prefix = 5, ends[] = {7, 10};
    const pc_generate_options o = {.max_tokens = ANSWER,
                                   .sampling = {.top_p = 1.0},
                                   .vocabulary = FILM};
    pc_generation got[2];
    bench b;
    open_bench(&b, c);
    const pc_sequence s = {ids, NULL, 10, prefix, 2, ends, b.image};
    check(!pc_generate(got, &b.runner, &b.model.vlm, &s, 1, &b.pictures, &o), pc_error_text());
    bool differ = false;
    for (int k = 0; k < 2; k++) {
        const int64_t begin = k ? ends[0] : prefix;
        int32_t whole[64];
        int64_t n = prefix + ends[k] - begin;
        memcpy(whole, ids, (size_t)prefix * sizeof *ids);
        memcpy(whole + prefix, ids + begin, (size_t)(ends[k] - begin) * sizeof *ids);
        check(got[k].length == ANSWER, label);
        for (int64_t i = 0; i < got[k].length; i++) {
            const int32_t want = next_id(&b, whole, n);
            differ = differ || got[k].ids[i] != got[k].ids[0];
            check(want == got[k].ids[i], label);
            whole[n++] = got[k].ids[i];
        }
    }
    check(differ, "an answer of one id proves little");
    pc_generation_close(got, 2);
    pc_model_close(&b.model);
    pc_runner_close(&b.runner);
    pc_arena_close(&b.host);
}

int main(void)
{
    const pc_model_config grid = grid_config(), resampler = resampler_config();
    test_branches("grid: branches behind an image and a film", &grid, FILM);
    test_branches("resampler: branches behind two images", &resampler, IMAGE);
    if (failures == 0) printf("ok     cached decoding of grids and resamplers\n");
    return failures > 0;
}

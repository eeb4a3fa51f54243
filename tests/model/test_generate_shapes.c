/*
 * test_generate_shapes.c - decoding with a cache behind images of many shapes: tiles, and grids whose rows have three
 * positions, a film among them. The yardstick runs the full sequence, prompt and answer so far, for every token.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/networks/generate.h"
#include "model/networks/model.h"

enum { V = 40, IMAGE = V - 1, FILM = V - 2, MOST = 8, IMAGES = 4, PROMPTS = 4 };

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

static pc_model_config config(pc_visual_kind kind)
{
    pc_model_config c = {.kind = PC_MODEL_VLM};
    c.vlm = (pc_vlm_config){
        .visual = kind,
        .vision = {.image_size = 8, .patch = 4, .C = 16, .H = 2, .F = 24, .L = 2, .eps = 1e-5},
        .projector = {.depth = 1, .in = 16, .out = 16, .bias = true},
        .decoder = {.V = V,
                    .C = 16,
                    .L = 3,
                    .H = 2,
                    .G = 1,
                    .D = 8,
                    .F = 24,
                    .T = 128,
                    .eps = 1e-5,
                    .rope = {.theta = 100.0},
                    .qk_norm = true},
        .feature_layer = -1,
        .image_id = IMAGE};
    if (kind == PC_VISUAL_TILES) {
        c.vlm.max_tiles = 1;
        c.vlm.pinpoints = (pc_pinpoints){3, {{8, 16}, {16, 8}, {16, 16}}};
        return c;
    }
    c.vlm.merge = 2;
    c.vlm.video_id = FILM;
    c.vlm.vision.frames = 2;
    c.vlm.vision.theta = 1e4;
    c.vlm.decoder.mrope[0] = 2;
    c.vlm.decoder.mrope[1] = c.vlm.decoder.mrope[2] = 1;
    return c;
}

typedef struct bench {
    pc_model model;
    pc_runner runner;
    pc_arena host;
    pc_image_geometry geometry[IMAGES];
    int64_t first[IMAGES + 1]; // first crop or patch of each
    pc_tensor numbers;         // pixels or patches of all
} bench;

static void open_bench(bench *b, const pc_model_config *c)
{
    const bool grid = c->vlm.visual == PC_VISUAL_GRID;
    static const pc_image_geometry tiles[IMAGES] = {{.height = 9, .width = 30},
                                                    {.crops = 1},
                                                    {.height = 40, .width = 41},
                                                    {.height = 12, .width = 12}};
    static const pc_image_geometry grids[IMAGES] = {{.t = 1, .h = 2, .w = 6},
                                                    {.t = 1, .h = 8, .w = 2},
                                                    {.t = 3, .h = 2, .w = 4},
                                                    {.t = 1, .h = 2, .w = 2}};
    *b = (bench){0};
    memcpy(b->geometry, grid ? grids : tiles, sizeof b->geometry);
    pc_status st = pc_vlm_validate(&c->vlm);
    for (int i = 0; i < IMAGES && !st; i++) {
        pc_image_geometry *g = &b->geometry[i];
        st = pc_vlm_measure(g, &c->vlm);
        b->first[i + 1] = b->first[i] + (grid ? g->t * g->h * g->w : g->crops);
    }
    st = st ? st : pc_model_open(&b->model, c, PC_F32, true);
    st = st ? st : pc_runner_open(&b->runner, 2, NULL);
    st = st ? st : pc_arena_open(&b->host, "host", (size_t)1 << 24);
    if (st) {
        printf("FAILED %s\n", pc_error_text());
        exit(1);
    }
    for (int i = 0; i < b->model.params.count; i++) b->model.params.list[i].init_scale *= 3.0;
    pc_params_init(&b->model.params, 7);
    const int64_t n = b->first[IMAGES];
    float *x = pc_arena_bytes(&b->host, (size_t)(n * 3 * 8 * 8) * sizeof *x);
    b->numbers = grid ? pc_view2(x, PC_F32, n, 3 * 2 * 4 * 4) : pc_view4(x, PC_F32, n, 3, 8, 8);
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_TEST};
    for (int64_t i = 0; i < pc_numel(b->numbers); i++)
        x[i] = (float)pc_rng_normal(&key, (uint64_t)i);
}

static pc_pictures pictures_of(const bench *b, int first, int count)
{
    const pc_tensor x = pc_rows(b->numbers, b->first[first], b->first[first + count]);
    pc_pictures p = {.count = count};
    if (b->model.config.vlm.visual == PC_VISUAL_GRID)
        p.patches = x;
    else
        p.pixels = x;
    return p;
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
    f->logits = pc_alloc2(ctx->act, ctx->real, 1, V);
    const pc_tensor normed = pc_vlm_forward(ctx, &kept, f->vlm, &f->batch, NULL);
    pc_decoder_logits(ctx, f->logits, &f->vlm->decoder,
                      pc_rows(normed, f->batch.N - 1, f->batch.N));
}

/* The answer to one prompt whose images are [first, first + count). */
static void answer(bench *b, int32_t out[MOST], const int32_t *prompt, int64_t n, int first,
                   int count)
{
    int32_t ids[64];
    static double work[2 * V];
    const pc_pictures p = pictures_of(b, first, count);
    memcpy(ids, prompt, (size_t)n * sizeof *ids);
    for (int64_t made = 0; made < MOST; made++) {
        full f = {.vlm = &b->model.vlm};
        const pc_sequence s = {.ids = ids, .length = n, .images = b->geometry + first};
        const pc_sampling greedy = {.top_p = 1.0};
        const size_t mark = pc_arena_mark(&b->host);
        pc_status st = pc_vlm_batch_build(&f.batch, &b->host, &b->model.config.vlm, &s, 1, count);
        f.batch.pictures.pixels = p.pixels;
        f.batch.pictures.patches = p.patches;
        st = st ? st : pc_runner_run(&b->runner, full_pass, &f);
        st = st ? st
                : pc_sample_id(&out[made], pc_view1(f.logits.data, PC_F32, V), 0, &greedy, n, 0,
                               work);
        check(!st, st ? pc_error_text() : "");
        if (st) exit(1);
        pc_arena_release(&b->host, mark);
        ids[n++] = out[made];
    }
}

static void compare(const char *label, pc_visual_kind kind)
{
    const int32_t film = kind == PC_VISUAL_GRID ? FILM : IMAGE;
    const int32_t one[] = {1, IMAGE, 3, 4}, two[] = {1, 5, IMAGE, 6, film, 7};
    // The prefix of the branched prompt has an image, and so has its second branch.
    const int32_t branched[] = {1, IMAGE, 2, /**/ 8, 9, /**/ 10, IMAGE, 11};
    const int32_t left[] = {1, IMAGE, 2, 8, 9}, right[] = {1, IMAGE, 2, 10, IMAGE, 11};
    const int64_t ends[] = {5, 8};
    const pc_model_config c = config(kind);
    bench b;
    pc_generation got[PROMPTS] = {0};
    open_bench(&b, &c);
    const pc_image_geometry *g = b.geometry;
    const pc_generate_options o = {.max_tokens = MOST, .sampling = {.top_p = 1.0}};

    // Together: one, then two images of the next prompt; answers must not depend on the company.
    const pc_sequence together[] = {{.ids = one, .length = 4, .images = g},
                                    {.ids = two, .length = 6, .images = g + 1}};
    const pc_pictures three = pictures_of(&b, 0, 3), last = pictures_of(&b, 2, 2);
    check(!pc_generate(got, &b.runner, &b.model.vlm, together, 2, &three, &o), "together");
    const pc_sequence fork = {.ids = branched,
                              .length = 8,
                              .prefix = 3,
                              .branches = 2,
                              .branch_end = ends,
                              .images = g + 2};
    check(!pc_generate(got + 2, &b.runner, &b.model.vlm, &fork, 1, &last, &o), "branches");
    const struct {
        const int32_t *ids;
        int64_t n;
        int first, count;
    } alone[PROMPTS] = {{one, 4, 0, 1}, {two, 6, 1, 2}, {left, 5, 2, 1}, {right, 6, 2, 2}};
    bool differ = false;
    for (int k = 0; k < PROMPTS; k++) {
        int32_t want[MOST];
        answer(&b, want, alone[k].ids, alone[k].n, alone[k].first, alone[k].count);
        const bool same = got[k].length == MOST && !memcmp(want, got[k].ids, sizeof want);
        check(same, label);
        for (int i = 1; i < MOST; i++) differ = differ || want[i] != want[0];
    }
    check(differ, "every answer is one token over and over: nothing is tested");
    if (!failures)
        printf("ok     %s: %d prompts of %d tokens, cached as not\n", label, PROMPTS, MOST);
    pc_generation_close(got, PROMPTS);
    pc_model_close(&b.model);
    pc_runner_close(&b.runner);
    pc_arena_close(&b.host);
}

int main(void)
{
    compare("tiles", PC_VISUAL_TILES);
    compare("grids", PC_VISUAL_GRID);
    return failures > 0;
}

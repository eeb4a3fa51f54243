/*
 * test_generate.c - does decoding with a cache pick what the whole model would, token by token?
 *
 * The yardstick runs the full sequence, prompt and answer so far, without a cache, for every token. Prompts: of
 * different lengths together, with images, with branches behind an image, with a sliding window, with image rows
 * that see each other both ways; greedy and sampled; in double and in float.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/networks/generate.h"
#include "model/networks/model.h"

enum { V = 40, IMAGE = V - 1, MOST = 12 };

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

static pc_model_config config(void)
{
    pc_model_config c = {.kind = PC_MODEL_VLM};
    c.vlm = (pc_vlm_config){.vision = {.image_size = 8,
                                       .patch = 4,
                                       .C = 12,
                                       .H = 2,
                                       .F = 24,
                                       .L = 2,
                                       .class_token = true,
                                       .eps = 1e-5},
                            .projector = {.depth = 1, .in = 12, .out = 16, .bias = true},
                            .decoder = {.V = V,
                                        .C = 16,
                                        .L = 3,
                                        .H = 4,
                                        .G = 2,
                                        .D = 4,
                                        .F = 24,
                                        .T = 40,
                                        .eps = 1e-5,
                                        .rope = {.theta = 100.0},
                                        .qk_norm = true},
                            .feature_layer = -1,
                            .image_id = IMAGE};
    return c;
}

typedef struct bench {
    pc_model model;
    pc_runner runner;
    pc_arena host;
    pc_tensor pixels;
} bench;

static void open_bench(bench *b, const pc_model_config *c, pc_dtype real)
{
    *b = (bench){0};
    pc_status st = pc_vlm_validate(&c->vlm);
    st = st ? st : pc_model_open(&b->model, c, real, true);
    st = st ? st : pc_runner_open(&b->runner, 2, NULL);
    st = st ? st : pc_arena_open(&b->host, "host", (size_t)1 << 24);
    if (st) {
        printf("FAILED %s\n", pc_error_text());
        exit(1);
    }
    if (real == PC_F64) {
        b->runner.ctx.real = PC_F64;
        b->runner.ctx.ops = pc_cpu_ops(PC_ISA_REF, PC_F64);
    }
    // Larger weights than training starts from: logits that differ, and so answers that do.
    for (int i = 0; i < b->model.params.count; i++) b->model.params.list[i].init_scale *= 3.0;
    pc_params_init(&b->model.params, 7);
    b->pixels = pc_view4(pc_arena_bytes(&b->host, 2 * 3 * 8 * 8 * 8), real, 2, 3, 8, 8);
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_TEST};
    for (int64_t i = 0; i < pc_numel(b->pixels); i++) {
        const double x = pc_rng_normal(&key, (uint64_t)i);
        if (real == PC_F64)
            ((double *)b->pixels.data)[i] = x;
        else
            ((float *)b->pixels.data)[i] = (float)x;
    }
}

static void close_bench(bench *b)
{
    pc_model_close(&b->model);
    pc_runner_close(&b->runner);
    pc_arena_close(&b->host);
}

/* The whole sequence at once, without a cache: logits of its last row. */
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

/* The answer to one prompt (without branches), number `sequence` of its batch. */
static int64_t answer(bench *b, int32_t *out, const int32_t *prompt, int64_t n, int64_t sequence,
                      pc_tensor pixels, const pc_generate_options *o)
{
    int32_t ids[128];
    static double work[2 * V];
    int64_t made = 0;
    memcpy(ids, prompt, (size_t)n * sizeof *ids);
    while (made < o->max_tokens) {
        full f = {.vlm = &b->model.vlm};
        const pc_sequence s = {.ids = ids, .length = n};
        const size_t mark = pc_arena_mark(&b->host);
        pc_status st = pc_vlm_batch_build(&f.batch, &b->host, &b->model.config.vlm, &s, 1,
                                          pc_present(pixels) ? pixels.dim[0] : 0);
        if (st) { // decoder.T is reached
            pc_arena_release(&b->host, mark);
            break;
        }
        f.batch.pictures.pixels = pixels;
        st = pc_runner_run(&b->runner, full_pass, &f);
        int32_t id = -1;
        if (!st)
            st = pc_sample_id(&id, pc_view1(f.logits.data, f.logits.dtype, V), o->vocabulary,
                              &o->sampling, pc_vlm_positions(&b->model.config.vlm, ids, n, NULL),
                              sequence, work);
        pc_arena_release(&b->host, mark);
        if (st) {
            check(false, pc_error_text());
            break;
        }
        bool stop = false;
        for (int i = 0; i < o->stops; i++) stop = stop || o->stop[i] == id;
        if (stop) break;
        out[made++] = ids[n++] = id;
    }
    return made;
}

typedef struct heard {
    int64_t count, last[8];
    int32_t ids[8][MOST];
} heard;

static bool hear(void *arg, int64_t sequence, int32_t id)
{
    heard *h = arg;
    h->ids[sequence][h->last[sequence]++] = id;
    h->count++;
    return true;
}

/* Four prompts: text, an image and a question, text, an image in the middle. With branches: two sequences. */
static const int32_t text_a[] = {1, 5, 7}, image_b[] = {1, IMAGE, 2, 3, 4}, text_c[] = {8};
static const int32_t image_d[] = {6, 5, IMAGE, 11, 12, 13};
static const int32_t two_branches[] = {1, IMAGE, 2, 3, 4, 5, 6, 7, 8};
static const int64_t branch_ends[] = {5, 6, 9};
static const int32_t as_alone[3][8] = {{1, IMAGE, 2, 3, 4}, {1, IMAGE, 5}, {1, IMAGE, 6, 7, 8}};

static void compare(bench *b, const char *label, const pc_generate_options *options)
{
    const int32_t *const prompts[] = {text_a,      image_b,     text_c,     image_d,
                                      as_alone[0], as_alone[1], as_alone[2]};
    const int64_t lengths[] = {3, 5, 1, 6, 5, 3, 5};
    const int64_t image_of[] = {-1, 0, -1, 1, 0, 0, 0};
    const pc_sequence separate[] = {{.ids = text_a, .length = 3},
                                    {.ids = image_b, .length = 5},
                                    {.ids = text_c, .length = 1},
                                    {.ids = image_d, .length = 6}};
    const pc_sequence branched[] = {
        {.ids = text_a, .length = 3},
        {.ids = two_branches, .length = 9, .prefix = 2, .branches = 3, .branch_end = branch_ends}};
    for (int form = 0; form < 2; form++) {
        const pc_sequence *seqs = form == 0 ? separate : branched;
        const int64_t S = form == 0 ? 4 : 2, n = pc_generate_count(seqs, S);
        pc_generation got[8];
        heard h = {0};
        pc_generate_options o = *options;
        o.token = hear;
        o.arg = &h;
        const pc_tensor pixels = form == 0 ? b->pixels : pc_rows(b->pixels, 0, 1);
        const pc_pictures pictures = {.count = pixels.dim[0], .pixels = pixels};
        const pc_status st = pc_generate(got, &b->runner, &b->model.vlm, seqs, S, &pictures, &o);
        check(!st, st ? pc_error_text() : "");
        if (st) return;
        check(n == 4, "four answers");
        int64_t made = 0;
        for (int64_t k = 0; k < n; k++) {
            const int which = form == 0 ? (int)k : k == 0 ? 0 : 3 + (int)k;
            int32_t want[MOST];
            const int64_t image = image_of[which];
            const int64_t m =
                answer(b, want, prompts[which], lengths[which], k,
                       image < 0 ? PC_NONE : pc_rows(b->pixels, image, image + 1), &o);
            const bool same =
                m == got[k].length && !memcmp(want, got[k].ids, (size_t)m * sizeof *want);
            if (!same)
                printf("FAILED %s, form %d, sequence %lld: %lld tokens, without a cache %lld\n",
                       label, form, (long long)k, (long long)got[k].length, (long long)m);
            failures += !same;
            check(h.last[k] == m && !memcmp(h.ids[k], got[k].ids, (size_t)m * sizeof *want),
                  "the callback heard something else");
            made += got[k].length;
        }
        check(h.count == made, "the callback counts otherwise");
        check(made > 8, "hardly anything was generated");
        pc_generation_close(got, n);
    }
    if (failures == 0) printf("ok     %s\n", label);
}

static void all_choices(pc_model_config c, const char *label, pc_dtype real)
{
    static const int32_t stop[] = {17};
    bench b;
    open_bench(&b, &c, real);
    pc_generate_options o = {.max_tokens = MOST, .vocabulary = IMAGE}; // an answer has no images
    compare(&b, label, &o);
    o.stop = stop;
    o.stops = 1;
    o.vocabulary = V - 3;
    o.sampling = (pc_sampling){.temperature = 1.5, .top_p = 1.0, .seed = 4};
    compare(&b, label, &o);
    o.sampling = (pc_sampling){.temperature = 2.0, .top_k = 5, .top_p = 0.8, .seed = 5};
    compare(&b, label, &o);
    o.sampling = (pc_sampling){.temperature = 2.0, .top_p = 0.7, .seed = 6};
    compare(&b, label, &o);
    close_bench(&b);
}

/* A callback that ends a sequence, a stop id at once, and the decoder's last position. */
static bool only_two(void *arg, int64_t sequence, int32_t id)
{
    (void)id;
    int64_t *count = arg;
    return ++count[sequence] < 2;
}

static void test_ends(void)
{
    pc_model_config c = config();
    c.vlm.decoder.T = 7;
    bench b;
    open_bench(&b, &c, PC_F32);
    pc_generation got[2];
    int64_t count[2] = {0};
    const pc_sequence seqs[] = {{.ids = text_a, .length = 3}, {.ids = text_c, .length = 1}};
    pc_generate_options o = {.max_tokens = 100};
    check(!pc_generate(got, &b.runner, &b.model.vlm, seqs, 2, NULL, &o), "until decoder.T");
    // Rows at positions 0 .. 6 are read; the last one's answer is the id of position 7.
    check(got[0].length == 5 && got[1].length == 7 && !got[0].stopped, "as far as positions go");
    const int32_t first = got[0].ids[0];
    pc_generation_close(got, 2);

    o.token = only_two;
    o.arg = count;
    check(!pc_generate(got, &b.runner, &b.model.vlm, seqs, 2, NULL, &o), "two each");
    check(got[0].length == 2 && got[1].length == 2 && got[0].stopped, "two each");
    pc_generation_close(got, 2);

    o = (pc_generate_options){.max_tokens = 100, .stop = &first, .stops = 1};
    check(!pc_generate(got, &b.runner, &b.model.vlm, seqs, 1, NULL, &o), "stop");
    check(got[0].length == 0 && got[0].stopped, "stopped at once");
    pc_generation_close(got, 1);

    const pc_sequence empty = {.ids = text_a, .length = 0};
    check(pc_generate(got, &b.runner, &b.model.vlm, &empty, 1, NULL, &o) == PC_ERR_INPUT,
          "an empty prompt is refused");
    const pc_sequence image = {.ids = image_b, .length = 5};
    check(pc_generate(got, &b.runner, &b.model.vlm, &image, 1, NULL, &o) == PC_ERR_INPUT,
          "an image place without an image is refused");
    close_bench(&b);
}

static void test_sample(void)
{
    const float z[] = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};
    float bad[] = {0.0f, 1.0f};
    double work[10];
    int32_t id = -1;
    const pc_tensor row = pc_view1((void *)(uintptr_t)z, PC_F32, 5);
    pc_sampling s = {0};
    check(!pc_sample_id(&id, row, 0, &s, 0, 0, work) && id == 1, "ties go to the lowest id");
    check(!pc_sample_id(&id, row, 1, &s, 0, 0, work) && id == 0, "a cut vocabulary");
    bad[1] = (float)strtod("nan", NULL);
    check(pc_sample_id(&id, pc_view1(bad, PC_F32, 2), 0, &s, 0, 0, work) == PC_ERR_NUMERIC,
          "NaN is refused");

    // Frequencies over many positions against probabilities, cut and not.
    enum { DRAWS = 40000 };
    const struct {
        pc_sampling s;
        double p[5];
    } cases[] = {
        // exp(z) / sum: 2.718 20.086 7.389 20.086 0.368, sum 50.646
        {{.temperature = 1.0, .top_p = 1.0, .seed = 1},
         {0.05367, 0.39659, 0.14590, 0.39659, 0.00726}},
        {{.temperature = 1.0, .top_k = 3, .top_p = 1.0, .seed = 2},
         {0, 0.42232, 0.15536, 0.42232, 0}},
        {{.temperature = 1.0, .top_p = 0.5, .seed = 3}, {0, 0.5, 0, 0.5, 0}},
        {{.temperature = 1.0, .top_k = 2, .top_p = 0.4, .seed = 4}, {0, 1, 0, 0, 0}},
        // temperature 1/2: exp(2 z): 7.389 403.43 54.598 403.43 0.135, sum 868.98
        {{.temperature = 0.5, .top_p = 1.0, .seed = 5},
         {0.00850, 0.46425, 0.06283, 0.46425, 0.00016}},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        double seen[5] = {0};
        for (int64_t i = 0; i < DRAWS; i++) {
            check(!pc_sample_id(&id, row, 0, &cases[k].s, i, 3, work), "a draw");
            seen[id] += 1.0 / DRAWS;
        }
        for (int i = 0; i < 5; i++) {
            const double d = seen[i] - cases[k].p[i];
            // five standard deviations of a frequency of one half
            if (!(d < 0.0125 && d > -0.0125) || (cases[k].p[i] == 0.0 && seen[i] > 0.0)) {
                printf("FAILED case %zu: id %d drawn %.4f of the time, expected %.4f\n", k, i,
                       seen[i], cases[k].p[i]);
                failures++;
            }
        }
    }
    printf("ok     sampling\n");
}

int main(void)
{
    pc_model_config c = config(), d = c;
    all_choices(c, "cache equals no cache, double", PC_F64);
    all_choices(c, "cache equals no cache, float", PC_F32);
    d.vlm.decoder.window = 5;
    all_choices(d, "sliding window", PC_F64);
    d = c;
    d.vlm.image_bidirectional = d.vlm.keep_class = true;
    d.vlm.decoder.tied = true;
    all_choices(d, "image rows both ways", PC_F64);
    d.vlm.image_bidirectional = d.vlm.decoder.rope_2d = true;
    all_choices(d, "two positions a patch", PC_F64);
    d.vlm.keep_class = false;
    all_choices(d, "two positions a patch, no class row", PC_F64);
    test_ends();
    test_sample();
    return failures > 0;
}

/*
 * test_generate.c - does a GPU choose the ids that the CPU chooses?
 *
 * The same model and prompts on both, in f32: several sequences together, images, branches behind one, greedy and sampled,
 * stop ids and callbacks that end one branch while others go on, the decoder's last position. Steps must have been replayed
 * where shapes allow it (pc_memory.replay), and not where heads are of a width that the kernels for few rows do not take.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/networks/generate.h"
#include "model/networks/placement.h"

enum { V = 96, IMAGE = V - 1, MOST = 40, SEQUENCES = 4 };

static int failures;
static int64_t replays;
static pc_memory counted;
static void (*replay_of_memory)(void *recording);

static void count_replay(void *recording)
{
    replays++;
    replay_of_memory(recording);
}

static pc_model_config config(int64_t D)
{
    pc_model_config c = {.kind = PC_MODEL_VLM};
    c.vlm = (pc_vlm_config){.vision = {.image_size = 16,
                                       .patch = 4,
                                       .C = 32,
                                       .H = 2,
                                       .F = 64,
                                       .L = 2,
                                       .class_token = true,
                                       .eps = 1e-5},
                            .projector = {.depth = 1, .in = 32, .out = 64, .bias = true},
                            .decoder = {.V = V,
                                        .C = 64,
                                        .L = 3,
                                        .H = 4,
                                        .G = 2,
                                        .D = D,
                                        .F = 96,
                                        .T = 160,
                                        .eps = 1e-5,
                                        .rope = {.theta = 1000.0},
                                        .qk_norm = true},
                            .feature_layer = -1,
                            .image_id = IMAGE};
    return c;
}

typedef struct side {
    pc_model model;
    pc_runner runner;
    pc_placement placement;
} side;

static void must(pc_status st)
{
    if (!st) return;
    printf("FAILED %s\n", pc_error_text());
    exit(1);
}

static void open_side(side *s, const pc_model_config *c, const pc_backend *b)
{
    *s = (side){0};
    must(pc_vlm_validate(&c->vlm));
    must(pc_model_open(&s->model, c, PC_F32, true));
    // Larger weights than training starts from: logits that differ, and so answers that do.
    for (int i = 0; i < s->model.params.count; i++) s->model.params.list[i].init_scale *= 3.0;
    pc_params_init(&s->model.params, 7);
    must(pc_runner_open_on(&s->runner, 2, NULL, b));
    must(pc_placement_open(&s->placement, &s->model, b));
}

static void close_side(side *s)
{
    pc_placement_close(&s->placement);
    pc_runner_close(&s->runner);
    pc_model_close(&s->model);
}

// Ends sequence 1 at its fifth id.
static bool five(void *arg, int64_t sequence, int32_t id)
{
    int64_t *count = arg;
    (void)id;
    return sequence != 1 || ++*count < 5;
}

static void compare(side *cpu, side *gpu, const char *label, const pc_sequence *seqs, int64_t S,
                    const pc_pictures *pictures, const pc_generate_options *options, bool replayed)
{
    pc_generation a[8], b[8];
    pc_generate_options o = *options;
    int64_t heard[2] = {0};
    const int64_t n = pc_generate_count(seqs, S);
    const int before = failures;
    replays = 0;
    o.arg = &heard[0];
    must(pc_generate(a, &cpu->runner, &cpu->model.vlm, seqs, S, pictures, &o));
    o.arg = &heard[1];
    must(pc_generate(b, &gpu->runner, &gpu->model.vlm, seqs, S, pictures, &o));
    int64_t made = 0;
    for (int64_t k = 0; k < n; k++) {
        const bool same = a[k].length == b[k].length && a[k].stopped == b[k].stopped &&
                          !memcmp(a[k].ids, b[k].ids, (size_t)a[k].length * sizeof *a[k].ids);
        if (!same) {
            int64_t at = 0;
            while (at < a[k].length && at < b[k].length && a[k].ids[at] == b[k].ids[at]) at++;
            printf("FAILED %s, sequence %lld: %lld ids on the CPU, %lld on the GPU, alike up to "
                   "%lld\n",
                   label, (long long)k, (long long)a[k].length, (long long)b[k].length,
                   (long long)at);
        }
        failures += !same;
        made += a[k].length;
    }
    if ((replays > 0) != replayed) {
        printf("FAILED %s: %lld steps replayed\n", label, (long long)replays);
        failures++;
    }
    if (failures == before)
        printf("ok     %s: %lld ids, %lld steps replayed\n", label, (long long)made,
               (long long)replays);
    pc_generation_close(a, n);
    pc_generation_close(b, n);
}

static void all(const pc_backend *device, int64_t D, bool replayed)
{
    static int32_t ids[SEQUENCES][24];
    static float pixels[2 * 3 * 16 * 16];
    static const int64_t ends[] = {9, 12, 18};
    const pc_model_config c = config(D);
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_TEST};
    pc_backend host;
    side cpu, gpu;
    char label[96];
    must(pc_backend_choose(&host, "cpu"));
    open_side(&cpu, &c, &host);
    open_side(&gpu, &c, device);
    for (int s = 0; s < SEQUENCES; s++)
        for (int i = 0; i < 24; i++)
            ids[s][i] = (int32_t)pc_rng_below(&key, (uint64_t)(100 * s + i), IMAGE);
    ids[1][1] = ids[3][4] = IMAGE;
    for (size_t i = 0; i < sizeof pixels / sizeof *pixels; i++)
        pixels[i] = (float)pc_rng_normal(&key, 10000 + i);
    const pc_pictures two = {.count = 2, .pixels = pc_view4(pixels, PC_F32, 2, 3, 16, 16)};
    const pc_pictures one = {.count = 1, .pixels = pc_view4(pixels, PC_F32, 1, 3, 16, 16)};
    const pc_sequence apart[] = {{.ids = ids[0], .length = 24},
                                 {.ids = ids[1], .length = 20},
                                 {.ids = ids[2], .length = 17},
                                 {.ids = ids[3], .length = 22}};
    const pc_sequence behind[] = {
        {.ids = ids[1], .length = 18, .prefix = 5, .branches = 3, .branch_end = ends}};
    const int32_t stops[] = {17, 3, 44};
    const struct {
        const char *name;
        pc_generate_options o;
    } ways[] = {
        {"greedy", {.max_tokens = MOST, .vocabulary = IMAGE}},
        {"greedy, stop ids", {.max_tokens = MOST, .vocabulary = IMAGE, .stop = stops, .stops = 3}},
        {"greedy, one ended by the callback",
         {.max_tokens = MOST, .vocabulary = IMAGE, .token = five}},
        {"sampled",
         {.max_tokens = MOST,
          .vocabulary = V - 4,
          .stop = stops,
          .stops = 3,
          .sampling = {.temperature = 1.3, .top_p = 0.9, .seed = 5}}},
        {"top k",
         {.max_tokens = MOST,
          .vocabulary = IMAGE,
          .sampling = {.temperature = 2.0, .top_k = 7, .top_p = 1.0, .seed = 6}}},
        {"to the last position", {.max_tokens = 400, .vocabulary = IMAGE}},
    };
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        snprintf(label, sizeof label, "heads of %lld, one text, %s", (long long)D, ways[w].name);
        compare(&cpu, &gpu, label, apart, 1, NULL, &ways[w].o, replayed);
        snprintf(label, sizeof label, "heads of %lld, four sequences, %s", (long long)D,
                 ways[w].name);
        compare(&cpu, &gpu, label, apart, SEQUENCES, &two, &ways[w].o, replayed);
        snprintf(label, sizeof label, "heads of %lld, three branches, %s", (long long)D,
                 ways[w].name);
        compare(&cpu, &gpu, label, behind, 1, &one, &ways[w].o, replayed);
    }
    close_side(&cpu);
    close_side(&gpu);
}

int main(void)
{
    pc_backend b;
    if (pc_backend_choose(&b, "cuda")) {
        const char *need = getenv("PERCEPT_NEED_GPU");
        printf("%s: %s\n", need ? "FAILED" : "skipped", pc_error_text());
        return need != NULL;
    }
    counted = *b.memory;
    replay_of_memory = counted.replay;
    counted.replay = count_replay;
    b.memory = &counted;
    all(&b, 16, true);
    all(&b, 32, true);
    all(&b, 12, false);
    return failures > 0;
}

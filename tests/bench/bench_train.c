/*
 * bench_train.c - time and memory of training steps (forward, backward, AdamW) on made-up data.
 *
 *   bench_train SHAPES.json NAME [threads]
 *
 * Waits for lines on standard input: "N" runs N steps and answers with [seconds, CPU seconds] of each on one
 * line, "sgemm" with the GFLOP/s of a product of two 2048 x 2048 matrices; end of input ends it with a summary. So scripts/compare_pytorch.py can take turns with its peer. Answers are JSON.
 * The step is the trainer's own: train/engine, train/objective, train/optimizer.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/core/log.h"
#include "train/optimizer.h"
#include "train/plan.h"

typedef struct bench {
    int64_t batch, micro, tokens, supervised, branches, branch_tokens;
    pc_model model;
    pc_pool *pool;
    plan plan;
    engine engine;
    optimizer optimizer;
    pc_arena data;
    pc_batch steps;
} bench;

static void must(pc_status st)
{
    if (!st) return;
    fprintf(stderr, "bench_train: %s\n", pc_error_text());
    exit(1);
}

// Peak (VmHWM) or present (VmRSS) memory of this process, in bytes.
static long memory(const char *what)
{
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, what, strlen(what))) kib = strtol(line + strlen(what) + 1, NULL, 10);
    if (f) fclose(f);
    return kib * 1024;
}

static int64_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static int32_t any_token(const bench *b, uint64_t index)
{
    const pc_rng_key key = {1, PC_STREAM_TEST, 0};
    const bool clip = b->model.config.kind == PC_MODEL_CLIP;
    const int64_t V = clip ? b->model.config.clip.text.V : b->model.config.vlm.decoder.V;
    return (int32_t)(3 + pc_rng_below(&key, index, (uint64_t)V - 4)); // the last may be the image's
}

static pc_tensor any_pixels(bench *b, int64_t images, int64_t size)
{
    const pc_rng_key key = {1, PC_STREAM_TEST, 1};
    const int64_t n = images * 3 * size * size;
    float *p = pc_arena_bytes(&b->data, (size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) p[i] = (float)pc_rng_uniform(&key, (uint64_t)i) * 2 - 1;
    return pc_view4(p, PC_F32, images, 3, size, size);
}

static void make_pairs(bench *b, pc_micro_batch *m, uint64_t *next)
{
    const pc_clip_config *c = &b->model.config.clip;
    const int32_t **ids = pc_arena_bytes(&b->data, (size_t)b->micro * sizeof *ids);
    int64_t *lengths = pc_arena_bytes(&b->data, (size_t)b->micro * sizeof *lengths);
    for (int64_t i = 0; i < b->micro; i++) {
        int32_t *text = pc_arena_bytes(&b->data, (size_t)b->tokens * sizeof *text);
        for (int64_t t = 0; t < b->tokens; t++) text[t] = any_token(b, (*next)++);
        ids[i] = text;
        lengths[i] = b->tokens;
    }
    m->pixels = any_pixels(b, b->micro, c->vision.image_size);
    pc_text_batch_build(&m->text, &b->data, &c->text, ids, lengths, b->micro);
}

static void make_conversations(bench *b, pc_micro_batch *m, uint64_t *next)
{
    const pc_vlm_config *c = &b->model.config.vlm;
    const int64_t rows = pc_vlm_rows_per_image(c);
    const int64_t length = b->branches ? 1 + b->branches * b->branch_tokens : b->tokens - rows + 1;
    pc_sequence *list = pc_arena_bytes(&b->data, (size_t)b->micro * sizeof *list);
    for (int64_t s = 0; s < b->micro; s++) {
        int32_t *ids = pc_arena_bytes(&b->data, (size_t)length * sizeof *ids);
        uint8_t *learned = pc_arena_bytes(&b->data, (size_t)length);
        int64_t *ends = pc_arena_bytes(&b->data, (size_t)(b->branches + 1) * sizeof *ends);
        const int64_t per = b->branches ? b->branch_tokens : length - 1; // tokens of a branch
        const int64_t answer = b->supervised / (b->branches ? b->branches : 1);
        ids[0] = (int32_t)c->image_id;
        learned[0] = 0;
        for (int64_t i = 1; i < length; i++) {
            ids[i] = any_token(b, (*next)++);
            learned[i] = (i - 1) % per >= per - answer;
        }
        for (int64_t i = 0; i < b->branches; i++) ends[i] = 1 + (i + 1) * per;
        list[s] = (pc_sequence){ids, learned, length, 1, b->branches, ends};
    }
    must(pc_vlm_batch_build(&m->vlm, &b->data, c, list, b->micro, b->micro));
    m->vlm.pixels = any_pixels(b, b->micro, c->vision.image_size);
    b->steps.supervised += m->vlm.supervised;
}

static void make_batch(bench *b)
{
    const int64_t micros = b->batch / b->micro;
    uint64_t next = 0;
    must(pc_arena_open(&b->data, "bench data", (size_t)512 << 20));
    b->steps.micro = pc_arena_bytes(&b->data, (size_t)micros * sizeof *b->steps.micro);
    memset(b->steps.micro, 0, (size_t)micros * sizeof *b->steps.micro);
    b->steps.micros = micros;
    b->steps.samples = b->batch;
    for (int64_t i = 0; i < micros; i++) {
        pc_micro_batch *m = &b->steps.micro[i];
        m->samples = b->micro;
        if (b->model.config.kind == PC_MODEL_CLIP)
            make_pairs(b, m, &next);
        else
            make_conversations(b, m, &next);
    }
}

static void open_bench(bench *b, const json_t *shape, int threads)
{
    pc_model_config config;
    b->batch = number(shape, "batch");
    b->micro = number(shape, "micro");
    b->tokens = number(shape, "tokens");
    b->supervised = number(shape, "supervised");
    b->branches = number(shape, "branches");
    b->branch_tokens = number(shape, "branch_tokens");
    must(pc_model_config_from_json(&config, json_object_get(shape, "model")));
    must(pc_pool_open(&b->pool, threads));
    must(pc_model_open(&b->model, &config, PC_F32, true));
    pc_params_init(&b->model.params, 1);
    make_batch(b);

    const int64_t micros = b->steps.micros;
    const pc_micro_batch *m = &b->steps.micro[0];
    const bool clip = config.kind == PC_MODEL_CLIP;
    plan_request q = {.model = &b->model, .pool = b->pool, .batch = b->batch, .keep_all = true};
    q.train = (plan_batch){b->micro, clip ? m->text.ids.dim[0] : m->vlm.N, b->micro,
                           clip ? 0 : m->vlm.supervised};
    // As the trainer chooses: small models take a micro-batch a thread.
    q.samples = micros >= 2 && pc_params_numel(&b->model.params, false) < 20 * 1000 * 1000;
    q.replicas = q.samples ? (int)(micros < threads ? micros : threads) : 1;
    if (q.replicas == 1) q.samples = false;
    must(plan_make(&b->plan, &q));
    const engine_config e = {.replicas = q.replicas, .samples = q.samples, .kept = b->plan.kept};
    const optimizer_config adamw = {0.9, 0.999, 1e-8, 0.01, 1.0, false};
    must(engine_open(&b->engine, &b->model, b->pool, &e, &b->plan.sizes));
    must(optimizer_open(&b->optimizer, &b->model.params, &adamw, b->pool));
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// The best of five products of the kind that layers make: what the machine gives at most.
static double sgemm_rate(bench *b)
{
    const int64_t n = 2048;
    pc_arena a = {0};
    must(pc_arena_open(&a, "sgemm", (size_t)(4 * n * n) * sizeof(float)));
    const pc_tensor x = pc_alloc2(&a, PC_F32, n, n), w = pc_alloc2(&a, PC_F32, n, n);
    const pc_tensor y = pc_alloc2(&a, PC_F32, n, n);
    for (int64_t i = 0; i < n * n; i++) {
        ((float *)x.data)[i] = (float)(i % 7) - 3;
        ((float *)w.data)[i] = (float)(i % 11) - 5;
    }
    pc_ctx ctx = b->engine.replicas[0].ctx;
    ctx.pool = b->pool;
    double best = 1e30;
    for (int i = 0; i < 5; i++) {
        const double began = pc_seconds();
        ctx.ops->linear_forward(&ctx, y, x, w, PC_NONE, PC_NONE);
        const double seconds = pc_seconds() - began;
        if (seconds < best) best = seconds;
    }
    pc_arena_close(&a);
    return 2e-9 * (double)(n * n * n) / best;
}

static double step(bench *b)
{
    const double began = pc_seconds();
    const double loss = objective_step(&b->engine, &b->steps);
    optimizer_step(&b->optimizer, 1e-5, optimizer_norm(&b->optimizer));
    const double seconds = pc_seconds() - began;
    if (!(loss < 100.0)) { // NaN too
        fprintf(stderr, "bench_train: the loss is %g\n", loss);
        exit(1);
    }
    return seconds;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: bench_train SHAPES.json NAME [threads]\n");
        return 2;
    }
    json_error_t error;
    json_t *shapes = json_load_file(argv[1], 0, &error);
    const json_t *shape = json_object_get(shapes, argv[2]);
    if (!shape) {
        fprintf(stderr, "bench_train: no shape '%s' in '%s' %s\n", argv[2], argv[1], error.text);
        return 1;
    }
    static bench b;
    pc_isa isa;
    const long start = memory("VmRSS:");
    must(pc_isa_choose(&isa));
    open_bench(&b, shape, argc > 3 ? atoi(argv[3]) : pc_cpu_count());
    printf("{\"parameters\": %lld, \"flops\": %.6g, \"isa\": \"%s\", \"replicas\": %d}\n",
           (long long)b.plan.numbers, b.plan.flops_step, pc_isa_name(isa), b.engine.count);
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "sgemm", 5)) {
            printf("%.1f\n", sgemm_rate(&b));
            fflush(stdout);
            continue;
        }
        const int n = atoi(line);
        printf("[");
        for (int i = 0; i < n; i++) {
            const double cpu = cpu_seconds(), seconds = step(&b);
            printf("%s[%.6f, %.6f]", i ? ", " : "", seconds, cpu_seconds() - cpu);
        }
        printf("]\n");
        fflush(stdout);
    }
    printf("{\"memory\": %ld}\n", memory("VmHWM:") - start);
    optimizer_close(&b.optimizer);
    engine_close(&b.engine);
    pc_arena_close(&b.data);
    pc_model_close(&b.model);
    pc_pool_close(b.pool);
    json_decref(shapes);
    return 0;
}

/*
 * bench_train.c - time and memory of training steps (forward, backward, clip, AdamW) on made-up data.
 *
 *   bench_train SHAPE [--steps N] [--threads N] [--json]
 *
 * A shape is a model and the lengths of a batch, by name in tests/bench/shapes.json. The step is the trainer's own:
 * train/engine, train/objective, train/optimizer. FLOPs are the products' as the plan counts them; their rate is set
 * beside the best product of this process: ours and OpenBLAS, large matrices on all threads.
 *
 * With --serve it waits for lines on standard input, so that scripts/compare_pytorch.py can let it take turns with its
 * peer: "N" runs N steps and answers with [seconds, CPU seconds] of each, "memory" with the peak above the start in
 * bytes, "sgemm" with GFLOP/s. Answers are JSON, one a line.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/core/cli.h"
#include "model/core/log.h"
#include "model/ops/cpu/gemm.h"
#include "train/optimizer.h"
#include "train/plan.h"

typedef struct bench {
    const json_t *shape;
    int64_t batch, micro;
    pc_model model;
    pc_pool *pool;
    plan plan;
    engine engine;
    optimizer optimizer;
    pc_arena data;
    pc_batch steps;
    uint64_t drawn; // tokens so far
    long start;     // memory before anything was made
    double flops;   // of a step
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

static int64_t number(const bench *b, const char *key)
{
    return json_integer_value(json_object_get(b->shape, key));
}

static int32_t any_token(bench *b)
{
    const pc_rng_key key = {1, PC_STREAM_TEST, 0};
    const bool clip = b->model.config.kind == PC_MODEL_CLIP;
    const int64_t V = clip ? b->model.config.clip.text.V : b->model.config.vlm.decoder.V;
    return (int32_t)(3 + pc_rng_below(&key, b->drawn++,
                                      (uint64_t)V - 4)); // the last may be the image's
}

static pc_tensor any_pixels(bench *b, int64_t images, int64_t size)
{
    const pc_rng_key key = {1, PC_STREAM_TEST, 1};
    const int64_t n = images * 3 * size * size;
    float *p = pc_arena_bytes(&b->data, (size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) p[i] = (float)pc_rng_uniform(&key, (uint64_t)i) * 2 - 1;
    return pc_view4(p, PC_F32, images, 3, size, size);
}

// The length of the text of sample i: "tokens" for all, or the list "texts", over and over.
static int64_t text_length(const bench *b, int64_t i)
{
    const json_t *list = json_object_get(b->shape, "texts");
    if (!list) return number(b, "tokens");
    return json_integer_value(json_array_get(list, (size_t)i % json_array_size(list)));
}

static void make_pairs(bench *b, pc_micro_batch *m, int64_t first)
{
    const pc_clip_config *c = &b->model.config.clip;
    const int32_t **ids = pc_arena_bytes(&b->data, (size_t)b->micro * sizeof *ids);
    int64_t *lengths = pc_arena_bytes(&b->data, (size_t)b->micro * sizeof *lengths);
    for (int64_t i = 0; i < b->micro; i++) {
        lengths[i] = text_length(b, first + i);
        int32_t *text = pc_arena_bytes(&b->data, (size_t)lengths[i] * sizeof *text);
        for (int64_t t = 0; t < lengths[i]; t++) text[t] = any_token(b);
        ids[i] = text;
    }
    m->pixels = any_pixels(b, b->micro, c->vision.image_size);
    pc_text_batch_build(&m->text, &b->data, &c->text, ids, lengths, b->micro);
    b->steps.tokens += m->text.ids.dim[0];
}

// An image's place and the tokens behind it: "tokens" rows in all of which the last "supervised" are learned, or
// branches as "rows" lists them: "tokens/learned tokens/learned ...".
static pc_sequence make_sequence(bench *b, int64_t sample)
{
    const pc_vlm_config *c = &b->model.config.vlm;
    int64_t *ends = pc_arena_bytes(&b->data, (size_t)c->decoder.T * sizeof *ends), branches = 0;
    int32_t *ids = pc_arena_bytes(&b->data, (size_t)c->decoder.T * sizeof *ids);
    uint8_t *learned = pc_arena_bytes(&b->data, (size_t)c->decoder.T);
    int64_t length = 1;
    ids[0] = (int32_t)c->image_id;
    learned[0] = 0;
    char text[32];
    snprintf(text, sizeof text, "%lld/%lld",
             (long long)(number(b, "tokens") - pc_vlm_rows_per_image(c)),
             (long long)number(b, "supervised"));
    const json_t *rows = json_object_get(b->shape, "rows");
    const char *at = rows ? json_string_value(json_array_get(rows, (size_t)sample)) : text;
    for (int used; at && *at; at += used) {
        int tokens, answer;
        if (sscanf(at, "%d/%d%n", &tokens, &answer, &used) < 2 || length + tokens > c->decoder.T)
            must(pc_fail(PC_ERR_INPUT, "row %lld: '%s' is not tokens/learned that fit",
                         (long long)sample, at));
        for (int i = 0; i < tokens; i++) {
            ids[length] = any_token(b);
            learned[length++] = i >= tokens - answer;
        }
        ends[branches++] = length;
    }
    return (pc_sequence){ids, learned, length, 1, rows ? branches : 0, ends, NULL};
}

static void make_conversations(bench *b, pc_micro_batch *m, int64_t first)
{
    const pc_vlm_config *c = &b->model.config.vlm;
    pc_sequence *list = pc_arena_bytes(&b->data, (size_t)b->micro * sizeof *list);
    for (int64_t s = 0; s < b->micro; s++) list[s] = make_sequence(b, first + s);
    must(pc_vlm_batch_build(&m->vlm, &b->data, c, list, b->micro, b->micro));
    m->vlm.pictures.pixels = any_pixels(b, b->micro, c->vision.image_size);
    b->steps.supervised += m->vlm.supervised;
    b->steps.tokens += m->vlm.N;
}

static void make_batch(bench *b)
{
    const int64_t micros = b->batch / b->micro;
    must(pc_arena_open(&b->data, "bench data", (size_t)512 << 20));
    b->steps.micro = pc_arena_bytes(&b->data, (size_t)micros * sizeof *b->steps.micro);
    memset(b->steps.micro, 0, (size_t)micros * sizeof *b->steps.micro);
    b->steps.micros = micros;
    b->steps.samples = b->batch;
    for (int64_t i = 0; i < micros; i++) {
        pc_micro_batch *m = &b->steps.micro[i];
        m->samples = b->micro;
        if (b->model.config.kind == PC_MODEL_CLIP)
            make_pairs(b, m, i * b->micro);
        else
            make_conversations(b, m, i * b->micro);
    }
}

static void open_bench(bench *b, int threads)
{
    pc_model_config config;
    b->batch = number(b, "batch");
    b->micro = number(b, "micro");
    must(pc_model_config_from_json(&config, json_object_get(b->shape, "model")));
    must(pc_pool_open(&b->pool, threads));
    must(pc_model_open(&b->model, &config, PC_F32, true));
    pc_params_init(&b->model.params, 1);
    make_batch(b);

    const int64_t micros = b->steps.micros;
    plan_request q = {.model = &b->model, .pool = b->pool, .batch = b->batch, .keep_all = true};
    q.train = (plan_batch){.samples = b->micro, .images = b->micro};
    for (int64_t i = 0; i < micros; i++) {
        const pc_micro_batch *m = &b->steps.micro[i];
        const int64_t rows = config.kind == PC_MODEL_CLIP ? m->text.ids.dim[0] : m->vlm.N;
        if (rows > q.train.rows) q.train.rows = rows;
        if (m->vlm.supervised > q.train.supervised) q.train.supervised = m->vlm.supervised;
    }
    // As the trainer chooses: small models take a micro-batch a thread.
    q.samples = micros >= 2 && pc_params_numel(&b->model.params, false) < 20 * 1000 * 1000;
    q.replicas = q.samples ? (int)(micros < threads ? micros : threads) : 1;
    if (q.replicas == 1) q.samples = false;
    must(plan_make(&b->plan, &q));
    const engine_config e = {.replicas = q.replicas, .samples = q.samples, .kept = b->plan.kept};
    const optimizer_config adamw = {
        .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01, .clip = 1.0};
    must(engine_open(&b->engine, &b->model, b->pool, &e, &b->plan.sizes));
    must(optimizer_open(&b->optimizer, &b->model.params, &adamw, b->pool));
    b->flops = b->plan.flops_row * (double)b->steps.tokens +
               b->plan.flops_image * (double)b->batch +
               b->plan.flops_supervised * (double)b->steps.supervised;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// The best of ten products of the kind that layers make, ours and OpenBLAS's: what the machine gives at most, in GFLOP/s.
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
    for (int i = 0; i < 10; i++) {
        const double began = pc_seconds();
        if (i % 2)
            pc_gemm_f32(b->pool, false, true, n, n, n, 1.0f, x.data, n, w.data, n, 0.0f, y.data, n);
        else
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

static void serve(bench *b)
{
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "sgemm", 5)) {
            printf("%.1f\n", sgemm_rate(b));
        } else if (!strncmp(line, "memory", 6)) {
            printf("%ld\n", memory("VmHWM:") - b->start);
        } else {
            const int n = atoi(line);
            printf("[");
            for (int i = 0; i < n; i++) {
                const double cpu = cpu_seconds(), seconds = step(b);
                printf("%s[%.6f, %.6f]", i ? ", " : "", seconds, cpu_seconds() - cpu);
            }
            printf("]\n");
        }
        fflush(stdout);
    }
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// One step that does not count (pages are touched), then so many that do.
static void measure(bench *b, const char *name, int64_t steps, bool as_json)
{
    double *seconds = malloc((size_t)steps * sizeof *seconds);
    json_t *all = json_array();
    if (!seconds || !all) must(pc_fail(PC_ERR_MEMORY, "times of steps"));
    step(b);
    for (int64_t i = 0; i < steps; i++) {
        seconds[i] = step(b);
        json_array_append_new(all, json_real(1e3 * seconds[i]));
        if (!as_json) printf("step %lld: %.2f ms\n", (long long)(i + 1), 1e3 * seconds[i]);
    }
    const long peak = memory("VmHWM:") - b->start;
    qsort(seconds, (size_t)steps, sizeof *seconds, ascending);
    const double median = (seconds[steps / 2] + seconds[(steps - 1) / 2]) / 2;
    const double rate = 1e-9 * b->flops / median, best = sgemm_rate(b);
    if (as_json) {
        json_t *o = json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:I, s:o}", "shape", name,
                              "parameters", (json_int_t)b->plan.numbers, "median_ms", 1e3 * median,
                              "gflop", 1e-9 * b->flops, "gflops", rate, "sgemm_gflops", best,
                              "share", rate / best, "memory", (json_int_t)peak, "steps_ms", all);
        json_dumpf(o, stdout, JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(o);
    } else {
        printf("%s: median %.2f ms of %lld steps, %.2f GFLOP, %.1f GFLOP/s, %.0f %% of the best "
               "product's %.1f; memory above start %.1f MiB\n",
               name, 1e3 * median, (long long)steps, 1e-9 * b->flops, rate, 100 * rate / best, best,
               (double)peak / 1048576.0);
        json_decref(all);
    }
    free(seconds);
}

int main(int argc, char **argv)
{
    static bench b;
    b.start = memory("VmRSS:");
    int64_t steps = 10, threads = 2;
    const char *path = "tests/bench/shapes.json";
    bool as_json = false, serving = false;
    const pc_cli_flag flags[] = {
        {"steps", PC_CLI_INT, &steps, "N", "steps that count", 1, 1e6, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads", 1, 1024, NULL},
        {"shapes", PC_CLI_STRING, &path, "FILE", "where shapes are described", 0, 0, NULL},
        {"json", PC_CLI_BOOL, &as_json, NULL, "print one JSON object", 0, 0, NULL},
        {"serve", PC_CLI_BOOL, &serving, NULL, "take orders on standard input", 0, 0, NULL},
    };
    const pc_cli cli = {"bench_train",
                        "SHAPE",
                        "Time and memory of training steps on made-up data.",
                        flags,
                        sizeof flags / sizeof *flags,
                        1,
                        1,
                        NULL};
    char **args;
    int n;
    if (pc_cli_parse(&cli, argc - 1, argv + 1, &args, &n)) {
        fprintf(stderr, "bench_train: %s\n", pc_error_text());
        return 2;
    }
    if (!args) return 0;

    json_error_t error = {.text = ""};
    json_t *shapes = json_load_file(path, 0, &error);
    b.shape = json_object_get(shapes, args[0]);
    if (!b.shape)
        must(pc_fail(PC_ERR_INPUT, "no shape '%s' in '%s' %s", args[0], path, error.text));
    pc_isa isa;
    must(pc_isa_choose(&isa));
    open_bench(&b, (int)threads);
    if (serving) {
        printf("{\"parameters\": %lld, \"flops\": %.6g, \"isa\": \"%s\", \"replicas\": %d}\n",
               (long long)b.plan.numbers, b.flops, pc_isa_name(isa), b.engine.count);
        fflush(stdout);
        serve(&b);
    } else {
        measure(&b, args[0], steps, as_json);
    }
    optimizer_close(&b.optimizer);
    engine_close(&b.engine);
    pc_arena_close(&b.data);
    pc_model_close(&b.model);
    pc_pool_close(b.pool);
    json_decref(shapes);
    return 0;
}

/*
 * gpu_train.c - training steps of published shapes on a device: time, FLOPs, memory beside the plan's.
 *
 *   gpu_train --row NAME [--steps N] [--profile] [--json] ...
 *   gpu_train --ceiling [--json]      what the device gives at most: a large bf16 product, a large copy
 *
 * Rows stand in tests/bench/gpu_shapes.json. The step is the trainer's own: train/engine, train/objective,
 * train/optimizer. Weights are random and are made on the device: a few MB of normal numbers, scaled and repeated, so
 * that a model of billions is there within a second. Pixels lie on the device, as the peer's do
 * (scripts/gpu_bench_peer.py), unless --upload has them come from the host at each step; their bytes are not counted.
 *
 * Times: the median of steps that are each waited for, and a step's share of as many that are not. Memory: what the
 * device has less of than before the model was there. --shrink and --narrow make the same row small, for tests.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/cli.h"
#include "model/core/log.h"
#include "tests/bench/gpu_profile.h"
#include "train/optimizer.h"
#include "train/plan.h"

typedef struct options {
    const char *row, *path, *device, *precision, *moments, *grads;
    int64_t steps, warmup, shrink, narrow, batch, shapes;
    bool json, profile, watch, upload, recompute, ceiling, master;
} options;

typedef struct bench {
    const options *o;
    const json_t *row;
    int64_t batch;
    bool recompute;
    pc_backend backend;
    pc_model model;
    pc_pool *pool;
    plan_request request;
    plan plan;
    engine engine;
    optimizer optimizer;
    pc_arena data, pixels, weights, tables;
    pc_batch step;
    uint64_t drawn; // tokens so far
    double loss, flops;
} bench;

static void must(pc_status st)
{
    if (!st) return;
    fprintf(stderr, "gpu_train: %s\n", pc_error_text());
    exit(1);
}

static void wait_for(const bench *b)
{
    if (b->backend.memory) b->backend.memory->wait();
}

static void copy(const bench *b, void *to, const void *from, size_t bytes)
{
    if (b->backend.memory)
        b->backend.memory->copy(to, from, bytes);
    else
        memcpy(to, from, bytes);
}

static size_t device_free(const bench *b)
{
    pc_backend now;
    must(pc_backend_choose(&now, b->backend.name));
    return now.room;
}

// The CPU computes in f32.
static pc_dtype type_of(const bench *b, const char *name)
{
    return b->backend.memory && strcmp(name, "fp32") ? PC_BF16 : PC_F32;
}

// ---- the model -----------------------------------------------------------------------------------

static void divide(json_t *section, const char *key, int64_t by, int64_t least)
{
    const int64_t n = json_integer_value(json_object_get(section, key)) / by;
    if (json_object_get(section, key))
        json_object_set_new(section, key, json_integer(n > least ? n : least));
}

// The row's model; made small when asked to.
static pc_model_config config_of(const bench *b, const json_t *file)
{
    const json_t *name = json_object_get(b->row, "model");
    json_t *model =
        json_deep_copy(json_object_get(json_object_get(file, "models"), json_string_value(name)));
    static const char *const parts[] = {"vision", "text", "decoder"};
    static const char *const widths[] = {"C", "F", "E", "H", "V"};
    for (int i = 0; i < 3; i++) {
        json_t *section = json_object_get(model, parts[i]);
        // The tower's last block but one is read: two at least.
        divide(section, "L", b->o->shrink, i == 0 ? 2 : 1);
        for (int k = 0; k < 5 && b->o->narrow > 1; k++)
            divide(section, widths[k], b->o->narrow, widths[k][0] == 'V' ? 16 : 1);
    }
    const json_t *V = json_object_get(json_object_get(model, "decoder"), "V");
    if (b->o->narrow > 1 && V)
        json_object_set_new(model, "image_id", json_integer(json_integer_value(V) - 1));
    pc_model_config config;
    must(pc_model_config_from_json(&config, model));
    json_decref(model);
    return config;
}

static bool is_block(const pc_param *q)
{
    return q->linear && !strncmp(q->name, "decoder.blocks.", strlen("decoder.blocks."));
}

// One adapter a matrix of those that are fused, as published models have them apart.
static void add_adapters(bench *b, int64_t r)
{
    pc_params *p = &b->model.params;
    pc_adapter_site *sites = calloc(3 * (size_t)p->count + 1, sizeof *sites);
    int n = 0;
    if (!sites) must(pc_fail(PC_ERR_MEMORY, "adapters"));
    for (int i = 0; i < p->count; i++) {
        const pc_param *q = &p->list[i];
        int64_t row = 0;
        for (int k = 0; k < q->parts && is_block(q); row += q->part_rows[k++]) {
            pc_adapter_site *s = &sites[n++];
            *s = (pc_adapter_site){.row = row,
                                   .rows = q->part_rows[k],
                                   .r = r,
                                   .alpha = (double)(2 * r),
                                   .scale = 2.0};
            snprintf(s->weight, sizeof s->weight, "%s", q->name);
        }
    }
    must(pc_model_adapt(&b->model, sites, n, false));
    free(sites);
}

static void choose_trained(bench *b)
{
    pc_params *p = &b->model.params;
    size_t i;
    const json_t *prefix;
    pc_params_train(p, "", false);
    json_array_foreach(json_object_get(b->row, "train"), i, prefix)
        pc_params_train(p, json_string_value(prefix), true);
    for (int k = 0; k < p->count; k++)
        if (p->list[k].adapter) p->list[k].trainable = true;
}

// ---- numbers made on the device ------------------------------------------------------------------

// Chunks of this many: no multiple of a row, so that rows differ.
enum { BLOCK = (1 << 20) - 64 };

typedef struct source {
    pc_arena arena;
    pc_tensor normals, halves; // (1,BLOCK), on the device: f32, bf16
    float *room;               // (BLOCK), the host's
} source;

static void open_source(source *s, const bench *b)
{
    const pc_rng_key key = {1, PC_STREAM_TEST, 2};
    s->room = malloc(BLOCK * sizeof *s->room);
    if (!s->room) must(pc_fail(PC_ERR_MEMORY, "random numbers"));
    must(pc_arena_open_in(&s->arena, "random numbers", b->backend.memory,
                          BLOCK * (sizeof(float) + sizeof(uint16_t)) + 4096, 0));
    for (int64_t i = 0; i < BLOCK; i++) s->room[i] = (float)pc_rng_normal(&key, (uint64_t)i);
    s->normals = pc_alloc2(&s->arena, PC_F32, 1, BLOCK);
    copy(b, s->normals.data, s->room, BLOCK * sizeof(float));
    wait_for(b);
    if (!b->backend.memory) return; // the CPU computes in f32
    pc_ctx ctx = {.ops = pc_backend_ops(&b->backend)};
    s->halves = pc_alloc2(&s->arena, PC_BF16, 1, BLOCK);
    ctx.ops->copy_forward(&ctx, s->halves, s->normals);
}

static void close_source(source *s)
{
    pc_arena_close(&s->arena);
    free(s->room);
}

static void fill(const bench *b, pc_ctx *ctx, source *s, const pc_param *q)
{
    const pc_tensor w = q->weight->w;
    const int64_t n = pc_numel(w);
    const bool constant = q->init == PC_INIT_ONE || q->init == PC_INIT_CONST;
    const double scale = q->init == PC_INIT_ZERO      ? 0.0
                         : q->init == PC_INIT_UNIFORM ? q->init_scale / sqrt(3.0)
                                                      : q->init_scale;
    const float one = q->init == PC_INIT_ONE ? 1.0f : (float)q->init_scale;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t count = n - at < BLOCK ? n - at : BLOCK;
        pc_tensor y =
            pc_view2((char *)w.data + (size_t)at * pc_dtype_size(w.dtype), w.dtype, 1, count);
        if (constant) {
            for (int64_t i = 0; i < count; i++) s->room[i] = one;
            PC_ASSERT(w.dtype == PC_F32, "'%s' is a constant matrix", q->name);
            copy(b, y.data, s->room, (size_t)count * sizeof(float));
            wait_for(b);
        } else {
            const pc_tensor x = w.dtype == PC_BF16 ? s->halves : s->normals;
            ctx->ops->scale_forward(ctx, y, pc_cols(x, 0, count), scale);
        }
    }
}

static void place_table(bench *b, pc_tensor *x)
{
    if (!pc_present(*x) || !b->backend.memory) return;
    const pc_tensor y = pc_alloc_like(&b->weights, *x);
    copy(b, y.data, x->data, (size_t)pc_numel(*x) * pc_dtype_size(x->dtype));
    *x = y;
}

static void bind_weights(bench *b)
{
    pc_arena dry;
    pc_arena_open_dry(&dry, "weights");
    pc_params_bind_weights(&b->model.params, &dry, b->backend.real);
    size_t tables = 0;
    if (b->model.config.kind == PC_MODEL_VLM) {
        pc_vlm_tables(&b->model.vlm, &dry, PC_F32);
        const pc_tensor t = b->model.vlm.decoder.rope.cos_table;
        tables = 2 * (size_t)pc_numel(t) * sizeof(float) + 4096;
    }
    must(pc_arena_open_in(&b->weights, "weights", b->backend.memory, dry.peak + 4096, 0));
    pc_params_bind_weights(&b->model.params, &b->weights, b->backend.real);
    if (!tables) return;
    must(pc_arena_open(&b->tables, "rotary tables", tables));
    pc_vlm_tables(&b->model.vlm, &b->tables, PC_F32);
    place_table(b, &b->model.vlm.decoder.rope.cos_table);
    place_table(b, &b->model.vlm.decoder.rope.sin_table);
    wait_for(b);
}

static void fill_weights(bench *b)
{
    source s;
    open_source(&s, b);
    for (int i = 0; i < b->model.params.count; i++)
        fill(b, &b->engine.replicas[0].ctx, &s, &b->model.params.list[i]);
    wait_for(b);
    close_source(&s);
}

static void fill_masters(bench *b)
{
    pc_ctx *ctx = &b->engine.replicas[0].ctx;
    for (int i = 0; i < b->model.params.count; i++) {
        const pc_param *q = &b->model.params.list[i];
        if (pc_present(q->master)) ctx->ops->copy_forward(ctx, q->master, q->weight->w);
    }
}

// ---- the batch -----------------------------------------------------------------------------------

static int32_t any_token(bench *b)
{
    const pc_rng_key key = {1, PC_STREAM_TEST, 0};
    const bool clip = b->model.config.kind == PC_MODEL_CLIP;
    const int64_t V = clip ? b->model.config.clip.text.V : b->model.config.vlm.decoder.V;
    const int64_t image = clip ? V : b->model.config.vlm.image_id;
    return (int32_t)(3 + pc_rng_below(&key, b->drawn++, (uint64_t)(image < V ? image : V) - 3));
}

static pc_tensor any_pixels(bench *b, int64_t images, int64_t size)
{
    enum { PIECE = 1 << 20 };
    const pc_rng_key key = {1, PC_STREAM_TEST, 1};
    const size_t n = (size_t)(images * 3 * size * size);
    float *piece = malloc(PIECE * sizeof *piece);
    if (!piece) must(pc_fail(PC_ERR_MEMORY, "pixels"));
    for (int64_t i = 0; i < PIECE; i++) piece[i] = (float)pc_rng_normal(&key, (uint64_t)i);
    const bool host = b->o->upload || !b->backend.memory;
    must(pc_arena_open_in(&b->pixels, "pixels", b->backend.memory, host ? 64 : 4 * n + 4096,
                          host && b->backend.memory ? 4 * n + 4096 : 0));
    float *p;
    if (host && !b->backend.memory) {
        pc_arena_close(&b->pixels);
        must(pc_arena_open(&b->pixels, "pixels", 4 * n + 4096));
    }
    p = host ? pc_arena_bytes(&b->pixels, 4 * n) : pc_arena_numbers(&b->pixels, 4 * n);
    for (size_t at = 0; at < n; at += PIECE)
        copy(b, p + at, piece, (n - at < PIECE ? n - at : PIECE) * sizeof *p);
    wait_for(b);
    free(piece);
    return pc_view4(p, PC_F32, images, 3, size, size);
}

static void make_pairs(bench *b, pc_micro_batch *m, int64_t tokens)
{
    const pc_clip_config *c = &b->model.config.clip;
    const int32_t **ids = pc_arena_bytes(&b->data, (size_t)b->batch * sizeof *ids);
    int64_t *lengths = pc_arena_bytes(&b->data, (size_t)b->batch * sizeof *lengths);
    for (int64_t i = 0; i < b->batch; i++) {
        lengths[i] = tokens;
        int32_t *text = pc_arena_bytes(&b->data, (size_t)tokens * sizeof *text);
        for (int64_t t = 0; t < tokens; t++) text[t] = any_token(b);
        ids[i] = text;
    }
    m->pixels = any_pixels(b, b->batch, c->vision.image_size);
    pc_text_batch_build(&m->text, &b->data, &c->text, ids, lengths, b->batch);
    b->step.tokens = m->text.ids.dim[0];
}

// One image's place and text behind it, all of it learned: `tokens` rows with the image's.
static void make_conversations(bench *b, pc_micro_batch *m, int64_t tokens)
{
    const pc_vlm_config *c = &b->model.config.vlm;
    const int64_t length = tokens - pc_vlm_rows_per_image(c) + 1;
    pc_sequence *list = pc_arena_bytes(&b->data, (size_t)b->batch * sizeof *list);
    uint8_t *learned = pc_arena_bytes(&b->data, (size_t)length);
    for (int64_t t = 0; t < length; t++) learned[t] = t > 0;
    for (int64_t s = 0; s < b->batch; s++) {
        int32_t *ids = pc_arena_bytes(&b->data, (size_t)length * sizeof *ids);
        ids[0] = (int32_t)c->image_id;
        for (int64_t t = 1; t < length; t++) ids[t] = any_token(b);
        list[s] = (pc_sequence){.ids = ids, .supervised = learned, .length = length};
    }
    must(pc_vlm_batch_build(&m->vlm, &b->data, c, list, b->batch, b->batch));
    m->vlm.pictures.pixels = any_pixels(b, b->batch, c->vision.image_size);
    b->step.supervised = m->vlm.supervised;
    b->step.tokens = m->vlm.N;
}

static void make_batch(bench *b)
{
    const int64_t tokens = json_integer_value(json_object_get(b->row, "tokens"));
    must(pc_arena_open(&b->data, "bench data", (size_t)64 << 20));
    b->step.micro = pc_arena_bytes(&b->data, sizeof *b->step.micro);
    *b->step.micro = (pc_micro_batch){.samples = b->batch};
    b->step.micros = 1;
    b->step.samples = b->step.images = b->batch;
    if (b->model.config.kind == PC_MODEL_CLIP)
        make_pairs(b, b->step.micro, tokens);
    else
        make_conversations(b, b->step.micro, tokens);
}

// ---- open, step, measure -------------------------------------------------------------------------

static void open_bench(bench *b, const json_t *file, size_t *before)
{
    must(pc_backend_choose(&b->backend, b->o->device));
    must(pc_pool_open(&b->pool, b->backend.memory ? 1 : 2));
    b->backend.real = type_of(b, b->o->precision);
    if (!strcmp(b->o->precision, "fp8") && !b->backend.fp8)
        must(pc_fail(PC_ERR_INPUT, "no eight bits on '%s'", b->backend.name));
    b->batch = b->o->batch ? b->o->batch : json_integer_value(json_object_get(b->row, "batch"));
    const pc_model_config config = config_of(b, file);
    must(pc_model_open(&b->model, &config, PC_F32, false));
    const int64_t r = json_integer_value(json_object_get(b->row, "lora"));
    if (r) add_adapters(b, b->o->narrow > 1 ? 8 : r);
    choose_trained(b);
    make_batch(b);
    *before = device_free(b);

    bind_weights(b);
    plan_request *q = &b->request;
    *q = (plan_request){.model = &b->model,
                        .pool = b->pool,
                        .batch = b->batch,
                        .keep_all = true,
                        .replicas = 1,
                        .memory = b->backend.memory,
                        .real = b->backend.real,
                        .gradients = type_of(b, b->o->grads),
                        .moments = type_of(b, b->o->moments),
                        .master = b->o->master,
                        .fp8 = b->backend.fp8 && !strcmp(b->o->precision, "fp8"),
                        .limit = b->backend.memory ? *before : SIZE_MAX};
    q->train = (plan_batch){.samples = b->batch,
                            .rows = b->step.tokens,
                            .images = b->batch,
                            .supervised = b->step.supervised};
    must(plan_make(&b->plan, q));
    b->flops = b->plan.flops_step; // what is computed again does not count
    b->recompute = b->o->recompute || b->plan.total > q->limit; // as compute.recompute: auto has it
    if (b->recompute) {
        plan_recompute(&b->model, PC_RECOMPUTE_BLOCK);
        must(plan_make(&b->plan, q));
    }
    must(plan_check(&b->plan, q));
    const engine_config e = {.backend = &b->backend,
                             .gradients = q->gradients,
                             .fp8 = q->fp8,
                             .replicas = 1,
                             .kept = b->plan.kept};
    const optimizer_config adamw = {.beta1 = 0.9,
                                    .beta2 = 0.999,
                                    .eps = 1e-8,
                                    .weight_decay = 0.01,
                                    .clip = 1.0,
                                    .stochastic = true,
                                    .real = b->backend.real,
                                    .moments = q->moments,
                                    .master = q->master,
                                    .backend = &b->backend};
    must(engine_open(&b->engine, &b->model, b->pool, &e, &b->plan.sizes));
    fill_weights(b);
    must(optimizer_open(&b->optimizer, &b->model.params, &adamw, b->pool));
    fill_masters(b);
}

// As train/loop.c has it: a step is launched, and what it found is looked at `back` launches later.
static void launch(bench *b)
{
    objective_launch(&b->engine, &b->step, b->optimizer.loss);
    optimizer_launch(&b->optimizer, 1e-5);
    b->step.step++;
}

static void look(bench *b, int64_t back)
{
    const optimizer_result found = optimizer_found(&b->optimizer, back);
    b->loss = found.loss;
    if (isfinite(found.loss) && isfinite(found.norm)) return;
    fprintf(stderr, "gpu_train: %s: loss %g, gradient norm %g\n", b->o->row, found.loss,
            found.norm);
    exit(1);
}

// Steps as a run makes them, the last one waited for. Returns the seconds of all.
static double run_steps(bench *b, int64_t n)
{
    const double began = pc_seconds();
    for (int64_t i = 0; i < n; i++) {
        launch(b);
        if (i > 0) look(b, 1);
    }
    if (n > 0) look(b, 0);
    wait_for(b);
    return pc_seconds() - began;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct result {
    double median, through; // seconds of a step: each waited for; all at once
    size_t memory;
} result;

static result measure(bench *b, size_t before)
{
    const int64_t n = b->o->steps;
    double *seconds = malloc((size_t)n * sizeof *seconds);
    if (!seconds) must(pc_fail(PC_ERR_MEMORY, "times of steps"));
    run_steps(b, b->o->warmup);
    const double first = b->loss;
    for (int64_t i = 0; i < n; i++) seconds[i] = run_steps(b, 1);
    result r = {.through = run_steps(b, n) / (double)n};
    qsort(seconds, (size_t)n, sizeof *seconds, ascending);
    r.median = (seconds[n / 2] + seconds[(n - 1) / 2]) / 2;
    if (b->backend.memory) r.memory = before - device_free(b);
    free(seconds);
    if (!b->o->json) printf("%s: loss %.4f, then %.4f\n", b->o->row, first, b->loss);
    return r;
}

static void wrap(bench *b)
{
    const bool device = b->backend.memory != NULL;
    profile_wrap(&b->engine.replicas[0].ctx, device);
    profile_wrap(&b->engine.whole_ctx, device);
    for (int i = 0; i < b->optimizer.threads; i++) profile_wrap(&b->optimizer.ctx[i], device);
}

static void profile(bench *b)
{
    wrap(b);
    profile_start();
    run_steps(b, 1); // makes the events
    profile_start();
    profile_print(3, run_steps(b, 3), (int)b->o->shapes,
                  (double)b->step.supervised / (double)b->step.tokens);
}

// What is kept in f32 beside what PyTorch keeps in bf16.
static const char *who(const bench *b)
{
    static char text[64];
    const plan_request *q = &b->request;
    if (!b->backend.memory || q->real == PC_F32) return "percept fp32";
    snprintf(text, sizeof text, "percept%s%s%s%s%s", q->fp8 ? " fp8" : "",
             q->gradients == PC_F32 ? " fp32 gradients" : "",
             q->moments == PC_F32 ? " fp32 moments" : "", q->master ? " fp32 master" : "",
             b->recompute ? " recompute" : "");
    return text;
}

static void print(const bench *b, const result *r)
{
    const plan *p = &b->plan;
    const double ms = 1e3 * r->median, tera = 1e-12 * b->flops;
    const double off = r->memory ? 100.0 * ((double)p->total / (double)r->memory - 1.0) : 0.0;
    if (b->o->json) {
        json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:I}", "row",
                              b->o->row, "who", who(b), "device",
                              *b->backend.device ? b->backend.device : "cpu", "parameters",
                              (json_int_t)p->numbers, "ms", ms, "through_ms", 1e3 * r->through,
                              "tflop", tera, "tflops", tera / r->median, "memory",
                              (json_int_t)r->memory, "planned", (json_int_t)p->total, "loss",
                              b->loss, "supervised", (json_int_t)b->step.supervised);
        json_dumpf(o, stdout, JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(o);
        return;
    }
    char have[32], planned[32];
    printf(
        "%s, %s: %.2f ms a step (median of %lld; %.2f without waiting), %.3f TFLOP, %.1f TFLOP/s, "
        "memory %s, planned %s (%+.1f %%)\n",
        b->o->row, who(b), ms, (long long)b->o->steps, 1e3 * r->through, tera, tera / r->median,
        plan_bytes(have, sizeof have, (double)r->memory),
        plan_bytes(planned, sizeof planned, (double)p->total), off);
}

// A product of 8192^3 as every linear map is made, and the device's copy of a GiB: read and written.
static void ceiling(bench *b)
{
    enum { N = 8192, REPEATS = 30 };
    const size_t matrix = (size_t)N * N * 2, copied = (size_t)1 << 30;
    pc_arena a;
    must(pc_backend_choose(&b->backend, b->o->device));
    if (!b->backend.memory) must(pc_fail(PC_ERR_INPUT, "the ceilings are a device's"));
    must(pc_arena_open_in(&a, "matrices", b->backend.memory, 3 * matrix + 2 * copied + 4096, 0));
    pc_ctx ctx = {.ops = pc_backend_ops(&b->backend), .real = PC_BF16, .act = &a, .scratch = &a};
    const pc_tensor x = pc_alloc2(&a, PC_BF16, N, N), w = pc_alloc2(&a, PC_BF16, N, N);
    const pc_tensor y = pc_alloc2(&a, PC_BF16, N, N);
    void *from = pc_arena_numbers(&a, copied), *to = pc_arena_numbers(&a, copied);
    source s;
    open_source(&s, b);
    for (int64_t at = 0; at < (int64_t)N * N; at += BLOCK) {
        const int64_t count = (int64_t)N * N - at < BLOCK ? (int64_t)N * N - at : BLOCK;
        for (int i = 0; i < 2; i++)
            copy(b, (uint16_t *)(i ? w : x).data + at, s.halves.data, (size_t)count * 2);
    }
    double best[2] = {1e30, 1e30};
    for (int round = 0; round < 4; round++)
        for (int kind = 0; kind < 2; kind++) {
            wait_for(b);
            const double began = pc_seconds();
            for (int i = 0; i < REPEATS; i++)
                if (kind)
                    copy(b, to, from, copied);
                else
                    ctx.ops->linear_forward(&ctx, y, x, w, PC_NONE, PC_NONE);
            wait_for(b);
            const double seconds = (pc_seconds() - began) / REPEATS;
            if (round > 0 && seconds < best[kind]) best[kind] = seconds;
        }
    const double tflops = 2e-12 * (double)N * N * N / best[0];
    const double gbs = 2e-9 * (double)copied / best[1];
    if (b->o->json)
        printf("{\"row\": \"ceiling\", \"who\": \"percept\", \"tflops\": %.1f, \"gbs\": %.1f, "
               "\"device\": \"%s\"}\n",
               tflops, gbs, b->backend.device);
    else
        printf("%s: %.1f TFLOP/s in an 8192^3 product in bf16, %.0f GB/s copying\n",
               b->backend.device, tflops, gbs);
    close_source(&s);
    pc_arena_close(&a);
}

static void close_bench(bench *b)
{
    optimizer_close(&b->optimizer);
    engine_close(&b->engine);
    pc_model_close(&b->model);
    pc_arena_close(&b->weights);
    pc_arena_close(&b->tables);
    pc_arena_close(&b->pixels);
    pc_arena_close(&b->data);
    pc_pool_close(b->pool);
}

int main(int argc, char **argv)
{
    options o = {.path = "tests/bench/gpu_shapes.json",
                 .device = "cuda",
                 .precision = "bf16",
                 .moments = "bf16",
                 .grads = "bf16",
                 .steps = 10,
                 .warmup = 3,
                 .shrink = 1,
                 .narrow = 1,
                 .shapes = 16};
    static const char *const types[] = {"fp32", "bf16", NULL};
    static const char *const precisions[] = {"fp32", "bf16", "fp8", NULL};
    const pc_cli_flag flags[] = {
        {"row", PC_CLI_STRING, &o.row, "NAME", "which row of the file", 0, 0, NULL},
        {"file", PC_CLI_STRING, &o.path, "FILE", "where rows are described", 0, 0, NULL},
        {"device", PC_CLI_STRING, &o.device, "NAME", "cuda or cpu", 0, 0, NULL},
        {"steps", PC_CLI_INT, &o.steps, "N", "steps that count", 1, 1e6, NULL},
        {"warmup", PC_CLI_INT, &o.warmup, "N", "steps before them", 0, 1e6, NULL},
        {"batch", PC_CLI_INT, &o.batch, "N", "samples, instead of the row's", 1, 1e6, NULL},
        {"shrink", PC_CLI_INT, &o.shrink, "K", "divide layers", 1, 1000, NULL},
        {"narrow", PC_CLI_INT, &o.narrow, "K", "divide widths, heads and the vocabulary", 1, 1000,
         NULL},
        {"precision", PC_CLI_STRING, &o.precision, "TYPE",
         "of activations and matrices; fp8: as bf16, blocks' products in eight bits", 0, 0,
         precisions},
        {"moments", PC_CLI_STRING, &o.moments, "TYPE", "of AdamW's moments of matrices", 0, 0,
         types},
        {"grads", PC_CLI_STRING, &o.grads, "TYPE", "of gradients of matrices", 0, 0, types},
        {"master", PC_CLI_BOOL, &o.master, NULL, "an f32 original of every matrix in bf16", 0, 0,
         NULL},
        {"recompute", PC_CLI_BOOL, &o.recompute, NULL, "keep blocks' inputs alone", 0, 0, NULL},
        {"upload", PC_CLI_BOOL, &o.upload, NULL, "pixels come from the host", 0, 0, NULL},
        {"profile", PC_CLI_BOOL, &o.profile, NULL, "time by operation as well", 0, 0, NULL},
        {"watch", PC_CLI_BOOL, &o.watch, NULL, "first two steps in which every number is looked at",
         0, 0, NULL},
        {"shapes", PC_CLI_INT, &o.shapes, "N", "shapes that a profile lists", 0, 1e4, NULL},
        {"ceiling", PC_CLI_BOOL, &o.ceiling, NULL, "the device's rates alone", 0, 0, NULL},
        {"json", PC_CLI_BOOL, &o.json, NULL, "print one JSON object", 0, 0, NULL},
    };
    const pc_cli cli = {"gpu_train",
                        "",
                        "Training steps of published shapes on a device.",
                        flags,
                        sizeof flags / sizeof *flags,
                        0,
                        0,
                        NULL};
    char **args;
    int n;
    if (pc_cli_parse(&cli, argc - 1, argv + 1, &args, &n)) {
        fprintf(stderr, "gpu_train: %s\n", pc_error_text());
        return 2;
    }
    if (!args) return 0;

    static bench b;
    size_t before;
    json_error_t error = {.text = ""};
    json_t *file = json_load_file(o.path, 0, &error);
    b.o = &o;
    if (o.ceiling) {
        ceiling(&b);
        json_decref(file);
        return 0;
    }
    b.row = json_object_get(json_object_get(file, "rows"), o.row ? o.row : "");
    if (!b.row)
        must(pc_fail(PC_ERR_INPUT, "no row '%s' in '%s' %s", o.row ? o.row : "", o.path,
                     error.text));
    open_bench(&b, file, &before);
    if (o.watch) {
        wrap(&b);
        profile_watch(12);
        run_steps(&b, 2);
        profile_watch(0);
    }
    const result r = measure(&b, before);
    print(&b, &r);
    if (o.profile) profile(&b);
    close_bench(&b);
    json_decref(file);
    return 0;
}

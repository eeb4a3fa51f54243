/*
 * gpu_decode.c - a LLaVA of published shape that reads an image and 64 tokens and writes on, one token a step; and the
 * products of few rows by themselves.
 *
 *   gpu_decode --model 7b|13b [--type bf16|f16|q8_0|q4_0|f32] [--device cuda|cpu] [--tokens N] [--sample] [--shrink K]
 *   gpu_decode --kernels              matrix-vector products of the decoder's shapes, each type, beside a large copy
 *
 * Weights are random and are made on the device: a few MB of normal numbers in their type, repeated, so that no copy of the
 * model lies in the host's memory. Vectors are f32, other tensors of two dimensions and more bf16 (f32 with --type f32);
 * --type is of the matrices of the decoder's blocks and its head. The model is that of networks/generate, as `percept ask`
 * runs it: the first token's time counts upload of the pixels, tower, projector, decoder and choice.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/cli.h"
#include "model/core/log.h"
#include "model/core/quant.h"
#include "model/networks/generate.h"
#include "model/networks/model.h"

typedef struct options {
    const char *model, *type, *device, *shapes;
    int64_t tokens, shrink, prompt, threads;
    bool kernels, sample;
} options;

typedef struct bench {
    options o;
    pc_backend backend;
    pc_runner runner;
    pc_model model;
    pc_arena weights, tables;
    pc_dtype real, type;
    double copy; // bytes read and written a second
} bench;

static void must(pc_status st)
{
    if (!st) return;
    fprintf(stderr, "gpu_decode: %s\n", pc_error_text());
    exit(1);
}

static void wait_for(const bench *b)
{
    if (b->backend.memory) b->backend.memory->wait();
}

static void copy_to(const bench *b, void *to, const void *from, size_t bytes)
{
    if (b->backend.memory)
        b->backend.memory->copy(to, from, bytes);
    else
        memcpy(to, from, bytes);
}

static pc_dtype type_named(const char *name)
{
    static const pc_dtype types[] = {PC_F32, PC_BF16, PC_F16, PC_Q8_0, PC_Q4_0};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcasecmp(pc_dtype_name(types[i]), name)) return types[i];
    must(pc_fail(PC_ERR_USAGE, "--type %s: expected f32, bf16, f16, q8_0 or q4_0", name));
    return PC_F32;
}

// A large copy on the device: what it gives at most.
static void measure_copy(bench *b)
{
    const size_t bytes = (size_t)(b->backend.memory ? 2048 : 64) << 20;
    pc_arena a;
    must(pc_arena_open_in(&a, "a copy", b->backend.memory, 2 * bytes + 4096, 0));
    unsigned char *x = pc_arena_numbers(&a, bytes), *y = pc_arena_numbers(&a, bytes);
    double best = 0.0;
    for (int i = 0; i < 8; i++) {
        const double start = pc_seconds();
        copy_to(b, y, x, bytes);
        wait_for(b);
        const double rate = 2.0 * (double)bytes / (pc_seconds() - start);
        best = i > 1 && rate > best ? rate : best;
    }
    b->copy = best;
    pc_arena_close(&a);
    printf("copy %.0f GB/s on %s\n", best / 1e9, b->backend.memory ? b->backend.device : "cpu");
}

// ---- numbers ---------------------------------------------------------------------------------------

// Normal numbers in a type, to be repeated: no multiple of a row, so that rows differ.
enum { NUMBERS = (1 << 20) - 96 };

typedef struct source {
    pc_arena arena;
    unsigned char *at;
    size_t bytes;
} source;

static source open_source(const bench *b, pc_dtype t, double scale)
{
    source s;
    const pc_rng_key key = {1, PC_STREAM_TEST, (uint64_t)t};
    s.bytes = pc_dtype_bytes(t, NUMBERS);
    float *f = malloc(NUMBERS * sizeof *f);
    unsigned char *packed = malloc(s.bytes);
    if (!f || !packed) must(pc_fail(PC_ERR_MEMORY, "random numbers"));
    for (int64_t i = 0; i < NUMBERS; i++) f[i] = (float)(scale * pc_rng_normal(&key, (uint64_t)i));
    if (pc_quant_encode(pc_quant_find(pc_dtype_quant(t)), packed, f, NUMBERS) >= 0)
        must(pc_fail(PC_ERR_NUMERIC, "random numbers in %s", pc_dtype_name(t)));
    must(pc_arena_open_in(&s.arena, "random numbers", b->backend.memory, s.bytes + 4096, 0));
    s.at = pc_arena_numbers(&s.arena, s.bytes);
    copy_to(b, s.at, packed, s.bytes);
    wait_for(b);
    free(f);
    free(packed);
    return s;
}

static void fill(const bench *b, const source *s, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += s->bytes)
        copy_to(b, (unsigned char *)data + at, s->at,
                bytes - at < s->bytes ? bytes - at : s->bytes);
}

static void fill_constant(const bench *b, pc_tensor w, float v)
{
    const int64_t n = pc_numel(w);
    float *f = malloc((size_t)n * sizeof *f);
    if (!f) must(pc_fail(PC_ERR_MEMORY, "a vector"));
    for (int64_t i = 0; i < n; i++) f[i] = v;
    copy_to(b, w.data, f, (size_t)n * sizeof *f);
    wait_for(b);
    free(f);
}

static pc_dtype type_of(const bench *b, const pc_param *q)
{
    if (q->rank < 2) return PC_F32;
    const bool matrix =
        (q->linear && !strncmp(q->name, "decoder.", 8)) || !strcmp(q->name, "decoder.head");
    return matrix ? b->type : b->real;
}

static void place_table(bench *b, pc_tensor *x)
{
    if (!pc_present(*x) || !b->backend.memory) return;
    const pc_tensor y = pc_alloc_like(&b->weights, *x);
    copy_to(b, y.data, x->data, (size_t)pc_numel(*x) * pc_dtype_size(x->dtype));
    *x = y;
}

static void make_weights(bench *b)
{
    pc_params *p = &b->model.params;
    const pc_decoder_config *d = &b->model.config.vlm.decoder;
    const size_t tables = 2 * (size_t)(d->T * d->D) * sizeof(float);
    size_t bytes = 2 * tables + 4096;
    for (int i = 0; i < p->count; i++) {
        int64_t n = 1;
        for (int k = 0; k < p->list[i].rank; k++) n *= p->list[i].dim[k];
        bytes += pc_dtype_bytes(type_of(b, &p->list[i]), n) + PC_ALIGN;
    }
    must(pc_arena_open_in(&b->weights, "weights", b->backend.memory, bytes, 0));
    must(pc_arena_open(&b->tables, "rotary tables", tables + 4096));
    const source real = open_source(b, b->real, 0.02), type = open_source(b, b->type, 0.02);
    for (int i = 0; i < p->count; i++) {
        pc_param *q = &p->list[i];
        const pc_dtype t = type_of(b, q);
        int64_t n = 1;
        for (int k = 0; k < q->rank; k++) n *= q->dim[k];
        void *data = pc_arena_numbers(&b->weights, pc_dtype_bytes(t, n));
        q->weight->w = q->rank == 1   ? pc_view1(data, t, q->dim[0])
                       : q->rank == 2 ? pc_view2(data, t, q->dim[0], q->dim[1])
                       : q->rank == 3
                           ? pc_view3(data, t, q->dim[0], q->dim[1], q->dim[2])
                           : pc_view4(data, t, q->dim[0], q->dim[1], q->dim[2], q->dim[3]);
        if (q->rank == 1)
            fill_constant(b, q->weight->w, q->init == PC_INIT_ONE ? 1.0f : 0.0f);
        else
            fill(b, t == b->type ? &type : &real, data, pc_dtype_bytes(t, n));
    }
    wait_for(b);
    pc_arena real_arena = real.arena, type_arena = type.arena;
    pc_arena_close(&real_arena);
    pc_arena_close(&type_arena);
    pc_vlm_tables(&b->model.vlm, &b->tables, PC_F32);
    place_table(b, &b->model.vlm.decoder.rope.cos_table);
    place_table(b, &b->model.vlm.decoder.rope.sin_table);
    wait_for(b);
}

static void open_model(bench *b)
{
    json_error_t error;
    char name[64];
    json_t *file = json_load_file(b->o.shapes, 0, &error);
    snprintf(name, sizeof name, "llava-1.5-%s", b->o.model);
    json_t *model = json_object_get(json_object_get(file, "models"), name);
    if (!model) must(pc_fail(PC_ERR_USAGE, "'%s' has no model '%s'", b->o.shapes, name));
    static const char *const keys[] = {"L", "C", "H", "F", "V"};
    for (int part = 0; part < 2 && b->o.shrink > 1; part++)
        for (int k = 0; k < 5; k++) {
            json_t *section = json_object_get(model, part ? "decoder" : "vision");
            const int64_t n = json_integer_value(json_object_get(section, keys[k])) / b->o.shrink;
            if (json_object_get(section, keys[k]))
                json_object_set_new(section, keys[k], json_integer(n > 2 ? n : 2));
        }
    const int64_t V = json_integer_value(json_object_get(json_object_get(model, "decoder"), "V"));
    if (b->o.shrink > 1) json_object_set_new(model, "image_id", json_integer(V - 1));
    pc_model_config config;
    must(pc_model_config_from_json(&config, model));
    json_decref(file);
    must(pc_model_open(&b->model, &config, PC_F32, false));
}

// ---- the job ---------------------------------------------------------------------------------------

typedef struct clock_ {
    double at[4096];
    int64_t count;
} clock_;

static bool tick(void *arg, int64_t sequence, int32_t id)
{
    clock_ *c = arg;
    (void)sequence;
    (void)id;
    if (c->count < 4096) c->at[c->count++] = pc_seconds();
    return true;
}

// Bytes that a token must read: every matrix of the decoder and its head; keys and values of `rows`.
static double bytes_of_token(const bench *b, double rows)
{
    const pc_decoder_config *d = &b->model.config.vlm.decoder;
    double bytes = 2.0 * rows * (double)(d->L * d->G * d->D) * (double)pc_dtype_size(b->real);
    for (int i = 0; i < b->model.params.count; i++) {
        const pc_param *q = &b->model.params.list[i];
        if (q->rank == 2 && !strncmp(q->name, "decoder.", 8) &&
            strcmp(q->name, "decoder.tokens") != 0)
            bytes += (double)pc_dtype_bytes(q->weight->w.dtype, pc_numel(q->weight->w));
    }
    return bytes;
}

static void run_model(bench *b)
{
    const pc_vlm_config *c = &b->model.config.vlm;
    const int64_t S = c->vision.image_size, n = b->o.prompt + 1, numbers = 3 * S * S;
    const pc_rng_key key = {1, PC_STREAM_TEST, 9};
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    float *pixels = malloc((size_t)numbers * sizeof *pixels);
    static clock_ clock_of;
    if (!ids || !pixels) must(pc_fail(PC_ERR_MEMORY, "the prompt"));
    for (int64_t i = 0; i < n; i++)
        ids[i] = i == 1 ? (int32_t)c->image_id
                        : (int32_t)(3 + pc_rng_below(&key, (uint64_t)i, (uint64_t)c->image_id - 3));
    for (int64_t i = 0; i < numbers; i++)
        pixels[i] = (float)pc_rng_normal(&key, (uint64_t)(1000 + i));
    const pc_pictures pictures = {.count = 1, .pixels = pc_view4(pixels, PC_F32, 1, 3, S, S)};
    const pc_sequence seq = {.ids = ids, .length = n};
    const double rows = (double)(pc_vlm_rows(c, ids, n, NULL)) + 0.5 * (double)b->o.tokens;
    double first = INFINITY, token = INFINITY;
    uint64_t sum = 0;
    for (int repeat = 0; repeat < 4; repeat++) { // the first warms up
        pc_generation out;
        clock_of.count = 0;
        const pc_generate_options o = {.max_tokens = b->o.tokens,
                                       .vocabulary = c->image_id,
                                       .token = tick,
                                       .arg = &clock_of,
                                       .sampling = {.temperature = b->o.sample ? 1.0 : 0.0,
                                                    .top_k = 50,
                                                    .top_p = 0.9}};
        const double start = pc_seconds();
        must(pc_generate(&out, &b->runner, &b->model.vlm, &seq, 1, &pictures, &o));
        const int64_t last = clock_of.count - 1,
                      from = last > 8 ? 4 : 0; // behind the recording of a step
        const double f = clock_of.at[0] - start,
                     t = (clock_of.at[last] - clock_of.at[from]) / (double)(last - from);
        if (repeat) first = f < first ? f : first;
        if (repeat) token = t < token ? t : token;
        uint64_t now = 1469598103934665603ull;
        for (int64_t i = 0; i < out.length; i++)
            now = (now ^ (uint64_t)(uint32_t)out.ids[i]) * 1099511628211ull;
        if (repeat && now != sum) printf("FAILED repeat %d: other ids\n", repeat);
        sum = now;
        pc_generation_close(&out, 1);
    }
    const double bytes = bytes_of_token(b, rows);
    printf("%s %s: %.2f GB a token, %.1f tokens/s, ids %016llx\n", b->o.model,
           pc_dtype_name(b->type), bytes / 1e9, 1.0 / token, (unsigned long long)sum);
    printf("decode %s prefill_ms %.3f token_ms %.4f bandwidth_share %.3f\n", b->o.model,
           1e3 * first, 1e3 * token, bytes / token / b->copy);
    free(ids);
    free(pixels);
}

// ---- products by themselves --------------------------------------------------------------------------

static void run_kernels(bench *b)
{
    static const int64_t shapes[][2] = {
        {4096, 4096}, {12288, 4096}, {22016, 4096}, {4096, 11008}, {32064, 4096}};
    static const pc_dtype types[] = {PC_BF16, PC_F16, PC_Q8_0, PC_Q4_0};
    enum { COPIES_BYTES = 1 << 30, REPEATS = 200 };
    pc_arena a, x;
    must(
        pc_arena_open_in(&a, "matrices", b->backend.memory, (size_t)COPIES_BYTES + (256 << 20), 0));
    must(pc_arena_open_in(&x, "rows", b->backend.memory, 64 << 20, 0));
    pc_ctx ctx = {.ops = pc_backend_ops(&b->backend), .real = PC_BF16, .act = &x, .scratch = &x};
    const source s16 = open_source(b, PC_BF16, 1.0);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        const source s = open_source(b, types[t], 0.02);
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            const int64_t O = shapes[k][0], I = shapes[k][1];
            const size_t bytes = (pc_dtype_bytes(types[t], O * I) + 255) / 256 * 256;
            const int copies = (int)(COPIES_BYTES / bytes);
            pc_arena_release(&a, 0);
            unsigned char *data = pc_arena_numbers(&a, bytes * (size_t)copies);
            fill(b, &s, data, bytes * (size_t)copies);
            printf("%-5s %5lld x %-5lld", pc_dtype_name(types[t]), (long long)O, (long long)I);
            for (int64_t N = 1; N <= 8; N *= 2) {
                pc_arena_release(&x, 0);
                const pc_tensor in = pc_alloc2(&x, PC_BF16, N, I),
                                out = pc_alloc2(&x, PC_BF16, N, O);
                fill(b, &s16, in.data, (size_t)(N * I) * 2);
                double best = INFINITY;
                for (int r = 0; r < 3; r++) {
                    wait_for(b);
                    const double start = pc_seconds();
                    for (int i = 0; i < REPEATS; i++)
                        ctx.ops->linear_forward(&ctx, out, in,
                                                pc_view2(data + bytes * (size_t)(i % copies),
                                                         types[t], O, I),
                                                PC_NONE, PC_NONE);
                    wait_for(b);
                    const double each = (pc_seconds() - start) / REPEATS;
                    best = each < best ? each : best;
                }
                printf("  N=%lld %6.1f us %3.0f%%", (long long)N, 1e6 * best,
                       100.0 * (double)bytes / best / b->copy);
            }
            printf("\n");
        }
        pc_arena sa = s.arena;
        pc_arena_close(&sa);
    }
    pc_arena sa = s16.arena;
    pc_arena_close(&sa);
    pc_arena_close(&a);
    pc_arena_close(&x);
}

int main(int argc, char **argv)
{
    static bench b;
    b.o = (options){.model = "7b",
                    .type = "bf16",
                    .device = "cuda",
                    .shapes = "tests/bench/gpu_shapes.json",
                    .tokens = 128,
                    .shrink = 1,
                    .prompt = 64};
    const pc_cli_flag flags[] = {
        {"model", PC_CLI_STRING, &b.o.model, "7b|13b", "which LLaVA-1.5", 0, 0, NULL},
        {"type", PC_CLI_STRING, &b.o.type, "TYPE",
         "of the decoder's matrices: bf16 f16 q8_0 q4_0 f32", 0, 0, NULL},
        {"device", PC_CLI_STRING, &b.o.device, "NAME", "cuda or cpu", 0, 0, NULL},
        {"shapes", PC_CLI_STRING, &b.o.shapes, "FILE", "the models' shapes", 0, 0, NULL},
        {"tokens", PC_CLI_INT, &b.o.tokens, "N", "to be written", 2, 4096, NULL},
        {"prompt", PC_CLI_INT, &b.o.prompt, "N", "tokens to be read behind the image", 2, 4096,
         NULL},
        {"shrink", PC_CLI_INT, &b.o.shrink, "K", "divides layers, widths and vocabulary", 1, 64,
         NULL},
        {"threads", PC_CLI_INT, &b.o.threads, "N", "of the CPU", 0, 4096, NULL},
        {"sample", PC_CLI_BOOL, &b.o.sample, NULL, "draw tokens instead of taking the likeliest", 0,
         0, NULL},
        {"kernels", PC_CLI_BOOL, &b.o.kernels, NULL, "matrix-vector products by themselves", 0, 0,
         NULL},
    };
    const pc_cli cli = {.command = "gpu_decode",
                        .usage = "[--model 7b|13b]",
                        .about = "Time of a LLaVA's first and further tokens.",
                        .flags = flags,
                        .flag_count = (int)(sizeof flags / sizeof *flags)};
    char **args;
    int n;
    must(pc_cli_parse(&cli, argc - 1, argv + 1, &args, &n));
    if (!args) return 0;
    must(pc_backend_choose(&b.backend, b.o.device));
    measure_copy(&b);
    if (b.o.kernels) {
        run_kernels(&b);
        return 0;
    }
    b.type = type_named(b.o.type);
    b.real = b.backend.memory && b.type != PC_F32 ? PC_BF16 : PC_F32;
    must(pc_runner_open_on(&b.runner, (int)b.o.threads, NULL, &b.backend));
    b.runner.ctx.real = b.real;
    open_model(&b);
    make_weights(&b);
    run_model(&b);
    pc_runner_close(&b.runner);
    pc_model_close(&b.model);
    pc_arena_close(&b.weights);
    pc_arena_close(&b.tables);
    return 0;
}

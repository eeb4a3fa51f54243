/*
 * gpu_attention.c - attention on the GPU by itself: TFLOP/s forward and backward of towers' and decoders' shapes in bf16,
 * GB/s of decoding steps.
 *
 *   gpu_attention [PART]     PART: only lines that begin so
 *
 * Pairs of a query and a key it sees are what counts: 4 D operations forward, 10 D backward, a head. Each figure is the
 * best of five rounds of calls that follow one another without waiting; a decoding step goes through 32 caches in turn, so
 * that no key lies in the second-level cache.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/layers/mask.h"
#include "model/ops/cuda/cuda.h"

enum { ROUNDS = 5, LAYERS = 32 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static pc_arena act;
static pc_ctx ctx;

static void open_arena(size_t bytes)
{
    if (pc_arena_open_in(&act, "bench", pc_cuda_memory(), bytes, (size_t)64 << 20)) {
        fprintf(stderr, "%s\n", pc_error_text());
        exit(1);
    }
    ctx = (pc_ctx){.ops = pc_cuda_ops(),
                   .grad_ops = pc_cuda_grad_ops(),
                   .real = PC_BF16,
                   .act = &act,
                   .scratch = &act};
}

// Numbers about normal, of bf16 or f32.
static pc_tensor filled(pc_dtype t, int64_t rows, int64_t columns)
{
    const pc_tensor x = pc_alloc2(&act, t, rows, columns);
    enum { SOME = 1 << 20 };
    static uint16_t halves[SOME];
    static float floats[SOME];
    if (floats[0] == 0.0f)
        for (int i = 0; i < SOME; i++) {
            floats[i] = (float)pc_rng_normal(&(pc_rng_key){.seed = 1, .stream = PC_STREAM_TEST},
                                             (uint64_t)(4 * i));
            uint32_t u;
            memcpy(&u, &floats[i], sizeof u);
            halves[i] = (uint16_t)(u >> 16);
        }
    const size_t size = pc_dtype_size(t), bytes = (size_t)pc_numel(x) * size, step = SOME * size;
    for (size_t at = 0; at < bytes; at += step)
        act.memory->copy((unsigned char *)x.data + at,
                         t == PC_BF16 ? (const void *)halves : (const void *)floats,
                         bytes - at < step ? bytes - at : step);
    act.memory->wait();
    return x;
}

typedef struct call {
    pc_tensor o, lse, q, k, v, dout, dq, dk, dv;
    pc_mask mask;
    double scale;
} call;

static void forward(const call *c)
{
    ctx.ops->attention_forward(&ctx, c->o, c->lse, c->q, c->k, c->v, &c->mask, c->scale);
}

static void backward(const call *c)
{
    ctx.grad_ops->attention_backward(&ctx, c->dq, c->dk, c->dv, c->dout, c->q, c->k, c->v, c->o,
                                     c->lse, &c->mask, c->scale);
}

static double seconds(void (*f)(const call *), const call *calls, int count, int repeats)
{
    double best = INFINITY;
    for (int i = 0; i < count; i++) f(&calls[i]);
    for (int r = 0; r < ROUNDS; r++) {
        act.memory->wait();
        const double t = now();
        for (int i = 0; i < repeats; i++)
            for (int j = 0; j < count; j++) f(&calls[j]);
        act.memory->wait();
        const double s = (now() - t) / repeats / count;
        if (s < best) best = s;
    }
    return best;
}

static pc_tensor heads(pc_tensor x, int64_t begin, int64_t end, int64_t D)
{
    return pc_as_heads(pc_cols(x, begin * D, end * D), D);
}

static void training(const char *name, int64_t B, int64_t T, int64_t H, int64_t G, int64_t D,
                     bool causal)
{
    const int64_t N = B * T;
    open_arena((size_t)(N * (2 * (H + 2 * G) + 2 * H) * D * 2 + N * H * 4) + ((size_t)8 << 20));
    const pc_tensor qkv = filled(PC_BF16, N, (H + 2 * G) * D),
                    d = filled(PC_BF16, N, (H + 2 * G) * D);
    call c = {.q = heads(qkv, 0, H, D),
              .k = heads(qkv, H, H + G, D),
              .v = heads(qkv, H + G, H + 2 * G, D),
              .dq = heads(d, 0, H, D),
              .dk = heads(d, H, H + G, D),
              .dv = heads(d, H + G, H + 2 * G, D),
              .o = pc_as_heads(filled(PC_BF16, N, H * D), D),
              .dout = pc_as_heads(filled(PC_BF16, N, H * D), D),
              .lse = filled(PC_F32, N, H),
              .scale = 1.0 / sqrt((double)D)};
    pc_mask_ragged(&c.mask, &act, NULL, T, B, causal);
    const double work = c.mask.pairs * (double)(H * D), a = seconds(forward, &c, 1, 10),
                 b = seconds(backward, &c, 1, 5);
    printf("%-16s B %3lld T %4lld H %2lld/%-2lld D %3lld  forward %7.3f ms %5.0f TFLOP/s  backward "
           "%7.3f ms %5.0f TFLOP/s\n",
           name, (long long)B, (long long)T, (long long)H, (long long)G, (long long)D, 1e3 * a,
           4e-12 * work / a, 1e3 * b, 10e-12 * work / b);
    pc_arena_close(&act);
}

static void decoding(const char *name, pc_dtype t, int64_t B, int64_t M, int64_t H, int64_t G,
                     int64_t D)
{
    const double bytes = (double)(B * M * 2 * G * D) * (double)pc_dtype_size(t);
    open_arena((size_t)(bytes * LAYERS * 1.1) + ((size_t)64 << 20));
    call c[LAYERS];
    const pc_tensor q = filled(t, B, H * D), o = filled(t, B, H * D), lse = filled(PC_F32, B, H);
    pc_mask mask;
    pc_mask_full(&mask, &act, B, 1, M, 0);
    for (int i = 0; i < LAYERS; i++)
        c[i] = (call){.q = pc_as_heads(q, D),
                      .o = pc_as_heads(o, D),
                      .lse = lse,
                      .k = pc_as_heads(filled(t, B * M, G * D), D),
                      .v = pc_as_heads(filled(t, B * M, G * D), D),
                      .mask = mask,
                      .scale = 1.0 / sqrt((double)D)};
    const double s = seconds(forward, c, LAYERS, 4);
    printf("%-16s B %3lld keys %4lld H %2lld/%-2lld D %3lld %s  %7.2f us  %5.0f GB/s\n", name,
           (long long)B, (long long)M, (long long)H, (long long)G, (long long)D, pc_dtype_name(t),
           1e6 * s, 1e-9 * bytes / s);
    pc_arena_close(&act);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int64_t B, T, H, G, D;
        bool causal;
    } shapes[] = {
        {"llama-7b", 4, 2048, 32, 32, 128, true},    {"llama-13b", 2, 2048, 40, 40, 128, true},
        {"qwen2-7b", 4, 2048, 28, 4, 128, true},     {"llama-4k", 2, 4096, 32, 32, 128, true},
        {"full", 4, 2048, 32, 32, 128, false},       {"clip-l", 256, 257, 16, 16, 64, false},
        {"clip-l-336", 128, 577, 16, 16, 64, false}, {"clip-b-32", 1024, 50, 12, 12, 64, false},
        {"clip-text", 256, 77, 12, 12, 64, true},    {"siglip", 64, 729, 16, 16, 72, false},
        {"big-g", 64, 257, 16, 16, 104, false},      {"d80", 32, 577, 16, 16, 80, false},
        {"short", 8, 1024, 32, 32, 128, true},       {"d64-1024", 32, 1024, 16, 16, 64, false},
    };
    static const struct {
        const char *name;
        pc_dtype t;
        int64_t B, M, H, G, D;
    } steps[] = {
        {"decode", PC_BF16, 1, 704, 32, 32, 128},    {"decode", PC_BF16, 1, 2048, 32, 32, 128},
        {"decode", PC_BF16, 1, 4096, 32, 32, 128},   {"decode-gqa", PC_BF16, 1, 4096, 28, 4, 128},
        {"decode-8", PC_BF16, 8, 2048, 32, 32, 128}, {"decode-f32", PC_F32, 1, 2048, 32, 32, 128},
    };
    const char *part = argc > 1 ? argv[1] : "";
    pc_cuda_info info;
    if (pc_cuda_open(&info)) {
        printf("skipped: %s\n", pc_error_text());
        return 0;
    }
    printf("%s\n", info.name);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (strncmp(shapes[i].name, part, strlen(part)) == 0)
            training(shapes[i].name, shapes[i].B, shapes[i].T, shapes[i].H, shapes[i].G,
                     shapes[i].D, shapes[i].causal);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        if (strncmp(steps[i].name, part, strlen(part)) == 0)
            decoding(steps[i].name, steps[i].t, steps[i].B, steps[i].M, steps[i].H, steps[i].G,
                     steps[i].D);
    return 0;
}

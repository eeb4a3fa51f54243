/*
 * gpu_kernels.c - the GPU's operations at the shapes of the 7B decoder and of ViT-L, each beside what the card gives.
 *
 *   gpu_kernels [WORD] [--repeats N]      only operations whose name contains WORD
 *
 * bf16. Operations that only move numbers: GB/s of their operands, each counted once, and the share of a plain copy
 * of 1 GiB. Products: TFLOP/s and the share of one of 8192^3. Both ceilings are measured in the same run. Time is
 * that of many calls between two of the device's events, after a few that are not counted; operands are larger
 * than the cache.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/ops/cuda/cuda.h"

extern cudaStream_t pc_cuda_stream; // model/ops/cuda/device.cuh

enum { PATTERN = 1 << 22 }; // elements that are drawn; operands repeat them

static pc_arena arena, scratch;
static pc_ctx ctx;
static unsigned char *pattern[2]; // normal numbers on the device: f32, bf16
static cudaEvent_t began, ended;
static const char *word;
static int repeats = 20;
static double copy_rate, product_rate; // GB/s, TFLOP/s

static void must(bool good, const char *what)
{
    if (good) return;
    fprintf(stderr, "gpu_kernels: %s\n", what);
    exit(1);
}

static void report(const char *name, double bytes, double flops)
{
    float ms = 0.0f;
    cudaEventRecord(ended, pc_cuda_stream);
    must(cudaEventSynchronize(ended) == cudaSuccess &&
             cudaEventElapsedTime(&ms, began, ended) == cudaSuccess,
         name);
    const double s = (double)ms / 1e3 / repeats;
    printf("%-34s %9.1f us", name, s * 1e6);
    if (flops > 0.0) {
        const double rate = flops / s / 1e12;
        if (product_rate == 0.0) product_rate = rate;
        printf("  %7.1f TFLOP/s  %3.0f %%\n", rate, 100.0 * rate / product_rate);
    } else {
        const double rate = bytes / s / 1e9;
        if (copy_rate == 0.0) copy_rate = rate;
        printf("  %7.0f GB/s     %3.0f %%\n", rate, 100.0 * rate / copy_rate);
    }
    fflush(stdout);
}

// Times a statement.
#define TIME(name, bytes, flops, ...)                                                              \
    do {                                                                                           \
        if (word && !strstr(name, word) && !strstr("ceiling", name)) break;                        \
        for (int i_ = 0; i_ < 3; i_++) {                                                           \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
        cudaEventRecord(began, pc_cuda_stream);                                                    \
        for (int i_ = 0; i_ < repeats; i_++) {                                                     \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
        report(name, (double)(bytes), (double)(flops));                                            \
    } while (0)

// A dense operand, filled with normal numbers.
static pc_tensor numbers(pc_dtype t, int64_t d0, int64_t d1)
{
    const pc_tensor x = d1 ? pc_alloc2(&arena, t, d0, d1) : pc_alloc1(&arena, t, d0);
    const size_t all = (size_t)pc_numel(x) * pc_dtype_size(t),
                 once = (size_t)PATTERN * pc_dtype_size(t);
    for (size_t at = 0; at < all; at += once)
        arena.memory->copy((char *)x.data + at, pattern[t == PC_BF16],
                           all - at < once ? all - at : once);
    return x;
}

static pc_tensor rows_of(int64_t N, int64_t C)
{
    return numbers(PC_BF16, N, C);
}

static pc_tensor wide(int64_t C)
{
    return numbers(PC_F32, C, 0);
}

static pc_tensor indices(int64_t n, int64_t below, bool drawn)
{
    const pc_tensor x = pc_alloc1(&arena, PC_I32, n);
    pc_rng_key key = {.seed = 1, .stream = PC_STREAM_TEST};
    for (int64_t i = 0; i < n; i++)
        pc_i32(x)[i] =
            (int32_t)(drawn ? (int64_t)pc_rng_below(&key, (uint64_t)(4 * i), (uint64_t)below)
                            : i % below);
    return x;
}

// ---- what moves numbers --------------------------------------------------------------------------------

static void rows(const char *shape, int64_t N, int64_t C, int64_t F, bool gated)
{
    const pc_ops *o = ctx.ops;
    const pc_grad_ops *g = ctx.grad_ops;
    const double NC = 2.0 * (double)(N * C), NF = 2.0 * (double)(N * F); // bytes
    char name[96];
#define NAMED(what) (snprintf(name, sizeof name, "%s %s", what, shape), name)
    pc_arena_release(&arena, 0);
    const pc_tensor x = rows_of(N, C), y = rows_of(N, C), d = rows_of(N, C), e = rows_of(N, C);
    const pc_tensor mean = wide(N), rstd = wide(N), gain = wide(C), bias = wide(C), dg = wide(C),
                    db = wide(C);
    TIME(NAMED("layernorm"), 2 * NC, 0,
         o->layernorm_forward(&ctx, y, mean, rstd, x, gain, bias, 1e-5));
    TIME(NAMED("layernorm backward"), 4 * NC, 0,
         g->layernorm_backward(&ctx, e, dg, db, d, x, gain, mean, rstd, e));
    TIME(NAMED("layernorm backward, frozen"), 4 * NC, 0,
         g->layernorm_backward(&ctx, e, PC_NONE, PC_NONE, d, x, gain, mean, rstd, e));
    TIME(NAMED("rmsnorm"), 2 * NC, 0, o->rmsnorm_forward(&ctx, y, rstd, x, gain, 1e-5));
    TIME(NAMED("rmsnorm backward"), 4 * NC, 0,
         g->rmsnorm_backward(&ctx, e, dg, d, x, gain, rstd, e));
    TIME(NAMED("add"), 3 * NC, 0, o->add_forward(&ctx, y, x, d));
    TIME(NAMED("scale"), 2 * NC, 0, o->scale_forward(&ctx, y, x, 0.5));
    TIME(NAMED("copy"), 2 * NC, 0, o->copy_forward(&ctx, y, x));
    TIME(NAMED("zero"), NC, 0, o->zero_forward(&ctx, y));
    const pc_rng_key key = {.seed = 5, .stream = PC_STREAM_DROPOUT};
    TIME(NAMED("dropout"), 2 * NC, 0, o->dropout_forward(&ctx, y, x, 0.1, key));
    const pc_tensor sum = numbers(PC_F32, N, C);
    TIME(NAMED("accumulate f32 += bf16"), 5 * NC, 0, g->accumulate(&ctx, sum, x));
    const int64_t D = C == 4096 ? 128 : 64;
    const pc_tensor qkv = rows_of(N, 3 * C), cosines = numbers(PC_F32, 2048, D / 2),
                    sines = numbers(PC_F32, 2048, D / 2), pos = indices(N, 2048, false),
                    both = pc_as_heads(pc_cols(qkv, 0, 2 * C), D);
    TIME(NAMED("rope"), 4 * NC, 0, o->rope_forward(&ctx, both, both, cosines, sines, pos));
    const pc_tensor table = rows_of(32000, C), ids = indices(N, 32000, true),
                    own = indices(N, N, false), positions = indices(N, 257, false),
                    dtable = numbers(PC_F32, 32000, C);
    TIME(NAMED("embedding"), 2 * NC, 0, o->embedding_forward(&ctx, y, ids, table));
    TIME(NAMED("embedding backward"), 5 * NC, 0, g->embedding_backward(&ctx, dtable, d, ids));
    TIME(NAMED("add_rows, 257 positions"), 2 * NC, 0,
         o->add_rows_forward(&ctx, y, y, table, positions));
    TIME(NAMED("add_rows backward, 257"), NC, 0, g->add_rows_backward(&ctx, dtable, d, positions));
    TIME(NAMED("gather"), 2 * NC, 0, o->gather_forward(&ctx, y, x, own));
    TIME(NAMED("gather backward"), 2 * NC, 0, g->gather_backward(&ctx, y, d, own));
    TIME(NAMED("splice"), 2 * NC, 0, o->splice_forward(&ctx, y, x, own));
    pc_arena_release(&arena, 0);
    const pc_tensor gu = rows_of(N, gated ? 2 * F : F), h = rows_of(N, F), dh = rows_of(N, F),
                    dgu = rows_of(N, gated ? 2 * F : F);
    if (gated) {
        TIME(NAMED("swiglu"), 3 * NF, 0, o->swiglu_forward(&ctx, h, gu));
        TIME(NAMED("swiglu backward"), 5 * NF, 0, g->swiglu_backward(&ctx, dgu, dh, gu));
        return;
    }
    const pc_tensor sums = wide(F);
    static const char *const names[] = {"gelu", "gelu_tanh", "quick", "silu", "relu"};
    for (int k = 0; k < 3; k++) {
        char both_names[64];
        TIME(NAMED(names[k]), 2 * NF, 0, o->act_forward(&ctx, h, gu, (pc_act)k));
        snprintf(both_names, sizeof both_names, "%s backward", names[k]);
        TIME(NAMED(both_names), 3 * NF, 0, g->act_backward(&ctx, dgu, dh, gu, (pc_act)k));
        snprintf(both_names, sizeof both_names, "%s backward, db", names[k]);
        TIME(NAMED(both_names), 3 * NF, 0,
             g->linear_act_backward(&ctx, dgu, sums, dh, gu, (pc_act)k));
    }
}

// ---- products ------------------------------------------------------------------------------------------

// y = x W^T with what comes around it, and both gradients; dw of either type.
static void product(const char *what, int64_t N, int64_t I, int64_t O, bool bias, bool residual,
                    int act)
{
    const double flops = 2.0 * (double)N * (double)I * (double)O;
    char name[96];
#define OF(part) (snprintf(name, sizeof name, "%s %s", what, part), name)
    pc_arena_release(&arena, 0);
    const pc_tensor x = rows_of(N, I), w = rows_of(O, I), y = rows_of(N, O), r = rows_of(N, O),
                    dx = rows_of(N, I), dw = rows_of(O, I), wide_dw = numbers(PC_F32, O, I),
                    b = wide(O), db = wide(O), none = PC_NONE;
    if (act >= 0)
        TIME(OF("forward, act"), 0, flops,
             ctx.ops->linear_act_forward(&ctx, r, y, x, w, b, (pc_act)act));
    else if (bias || residual)
        TIME(OF("forward, fused"), 0, flops,
             ctx.ops->linear_forward(&ctx, y, x, w, bias ? b : none, residual ? r : none));
    TIME(OF("forward, plain"), 0, flops, ctx.ops->linear_forward(&ctx, y, x, w, none, none));
    TIME(OF("dx"), 0, flops, ctx.grad_ops->linear_backward(&ctx, dx, none, none, y, x, w, false));
    TIME(OF("dw bf16"), 0, flops,
         ctx.grad_ops->linear_backward(&ctx, none, dw, none, y, x, w, true));
    TIME(OF("dw f32"), 0, flops,
         ctx.grad_ops->linear_backward(&ctx, none, wide_dw, none, y, x, w, true));
    if (bias) {
        TIME(OF("dw bf16, db"), 0, flops,
             ctx.grad_ops->linear_backward(&ctx, none, dw, db, y, x, w, false));
        TIME(OF("db"), 2.0 * (double)(N * O), 0,
             ctx.grad_ops->linear_backward(&ctx, none, none, db, y, x, w, false));
    }
}

static void patches(const char *name, int64_t B, int64_t side, int64_t patch)
{
    pc_arena_release(&arena, 0);
    const pc_conv conv = {.B = B,
                          .C = 3,
                          .H = side,
                          .W = side,
                          .kernel = patch,
                          .step = patch,
                          .out_h = side / patch,
                          .out_w = side / patch};
    const pc_tensor flat = numbers(PC_F32, B, 3 * side * side),
                    pixels = pc_view4(flat.data, PC_F32, B, 3, side, side);
    const pc_tensor cols = rows_of(B * conv.out_h * conv.out_w, 3 * patch * patch);
    TIME(name, 6.0 * (double)pc_numel(cols), 0, ctx.ops->im2col_forward(&ctx, cols, pixels, &conv));
}

static void losses(void)
{
    pc_arena_release(&arena, 0);
    const int64_t N = 8192, C = 4096, V = 32000;
    const double flops = 2.0 * (double)N * (double)C * (double)V;
    const pc_tensor x = rows_of(N, C), w = rows_of(V, C), dx = rows_of(N, C), dw = rows_of(V, C),
                    nll = wide(N), coef = wide(N);
    const pc_tensor labels = indices(N, V, true), none = PC_NONE;
    TIME("linear_xent forward", 0, flops, ctx.ops->linear_xent_forward(&ctx, nll, x, w, labels));
    TIME("linear_xent both ways", 0, 3 * flops,
         ctx.grad_ops->linear_xent_backward(&ctx, dx, dw, nll, x, w, labels, coef));
    TIME("linear_xent, head frozen", 0, 2 * flops,
         ctx.grad_ops->linear_xent_backward(&ctx, dx, none, nll, x, w, labels, coef));
    static const int64_t sizes[] = {256, 1024, 8192};
    for (int k = 0; k < 3; k++) {
        char name[64];
        const int64_t B = sizes[k], E = 768;
        pc_arena_release(&arena, 0);
        const pc_tensor u = numbers(PC_F32, B, E), v = numbers(PC_F32, B, E),
                        du = numbers(PC_F32, B, E), dv = numbers(PC_F32, B, E);
        const pc_tensor row = wide(B), column = wide(B), t = wide(1), dt = wide(1),
                        loss = pc_alloc1(&arena, PC_F64, 1);
        const double f = 2.0 * (double)B * (double)B * (double)E;
        snprintf(name, sizeof name, "clip_loss %d forward", (int)B);
        TIME(name, 0, f, ctx.ops->clip_loss_forward(&ctx, loss, row, column, u, v, t));
        snprintf(name, sizeof name, "clip_loss %d backward", (int)B);
        TIME(name, 0, 3 * f,
             ctx.grad_ops->clip_loss_backward(&ctx, du, dv, dt, u, v, t, row, column, 1.0));
    }
}

static void make_pattern(void)
{
    float *wide_host = malloc((size_t)PATTERN * sizeof *wide_host);
    uint16_t *half_host = malloc((size_t)PATTERN * sizeof *half_host);
    must(wide_host && half_host, "no memory");
    pc_rng_key key = {.seed = 7, .stream = PC_STREAM_TEST};
    for (int64_t i = 0; i < PATTERN; i++) {
        uint32_t bits;
        const float v = i < PATTERN / 16 ? 0.05f * (float)pc_rng_normal(&key, (uint64_t)(4 * i))
                                         : wide_host[i - PATTERN / 16];
        wide_host[i] = v;
        memcpy(&bits, &v, sizeof bits);
        half_host[i] = (uint16_t)(bits >> 16);
    }
    must(cudaMalloc((void **)&pattern[0], (size_t)PATTERN * 4) == cudaSuccess,
         "no memory on the device");
    must(cudaMalloc((void **)&pattern[1], (size_t)PATTERN * 2) == cudaSuccess,
         "no memory on the device");
    cudaMemcpy(pattern[0], wide_host, (size_t)PATTERN * 4, cudaMemcpyHostToDevice);
    cudaMemcpy(pattern[1], half_host, (size_t)PATTERN * 2, cudaMemcpyHostToDevice);
    free(wide_host);
    free(half_host);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--repeats") && i + 1 < argc)
            repeats = atoi(argv[++i]);
        else
            word = argv[i];
    }
    pc_cuda_info info;
    if (pc_cuda_open(&info)) {
        printf("skipped: %s\n", pc_error_text());
        return 0;
    }
    printf("%s\n", info.name);
    must(repeats > 0, "--repeats: at least 1");
    must(!pc_arena_open_in(&arena, "bench", pc_cuda_memory(), (size_t)12 << 30, (size_t)64 << 20),
         pc_error_text());
    must(!pc_arena_open_in(&scratch, "scratch", pc_cuda_memory(), (size_t)64 << 20,
                           (size_t)1 << 20),
         pc_error_text());
    ctx = (pc_ctx){.ops = pc_cuda_ops(),
                   .grad_ops = pc_cuda_grad_ops(),
                   .real = PC_BF16,
                   .act = &arena,
                   .scratch = &scratch};
    cudaEventCreate(&began);
    cudaEventCreate(&ended);
    make_pattern();

    const size_t GiB = (size_t)1 << 30;
    const pc_tensor from = rows_of(8192, 65536), to = rows_of(8192, 65536);
    TIME("ceiling", 2.0 * (double)GiB, 0, arena.memory->copy(to.data, from.data, GiB));
    const pc_tensor a = rows_of(8192, 8192), b = rows_of(8192, 8192), c = rows_of(8192, 8192);
    TIME("ceiling", 0, 2.0 * 8192.0 * 8192.0 * 8192.0,
         ctx.ops->linear_forward(&ctx, c, a, b, PC_NONE, PC_NONE));

    rows("8192x4096/11008", 8192, 4096, 11008, true);
    rows("65792x1024/4096", 65792, 1024, 4096, false);
    patches("im2col 1024 x 224, patch 32", 1024, 224, 32);
    patches("im2col 256 x 224, patch 14", 256, 224, 14);
    product("7B qkv", 8192, 4096, 12288, false, false, -1);
    product("7B out", 8192, 4096, 4096, false, true, -1);
    product("7B gate_up", 8192, 4096, 22016, false, false, -1);
    product("7B down", 8192, 11008, 4096, false, true, -1);
    product("ViT-L qkv", 65792, 1024, 3072, true, false, -1);
    product("ViT-L out", 65792, 1024, 1024, true, true, -1);
    product("ViT-L fc1", 65792, 1024, 4096, true, false, PC_ACT_QUICK);
    product("ViT-L fc2", 65792, 4096, 1024, true, true, -1);
    losses();
    return 0;
}

/*
 * gpu_optim.c - what the optimiser's step costs on a GPU.
 *
 *   gpu_optim [NUMBERS]    AdamW over NUMBERS (default 1e9) numbers in every mixture of types, as GB/s and as a share of
 *                          what a copy in the same memory reaches; the gradient norm; Muon in shapes large and small
 *
 * Times are the host's over many launches with a wait at their end. The arrays are far larger than any cache.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/ops/backend.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(pc_status st)
{
    if (!st) return;
    fprintf(stderr, "gpu_optim: %s\n", pc_error_text());
    exit(1);
}

enum { PIECE = 65536, REPEATS = 10 };

typedef struct bench {
    pc_backend backend;
    pc_ctx ctx;
    pc_arena scratch;
    double copy; // bytes a second, read and written
} bench;

static void fill(bench *b, void *numbers, size_t bytes)
{
    static unsigned char pattern[1 << 20]; // small positive numbers of either type
    for (size_t i = 0; i < sizeof pattern; i += 2)
        pattern[i] = (unsigned char)(i * 37), pattern[i + 1] = 0x3c;
    for (size_t at = 0; at < bytes; at += sizeof pattern)
        b->backend.memory->copy((unsigned char *)numbers + at, pattern,
                                bytes - at < sizeof pattern ? bytes - at : sizeof pattern);
    b->backend.memory->wait();
}

static void measure_copy(bench *b)
{
    const pc_memory *memory = b->backend.memory;
    const size_t bytes = (size_t)4 << 30;
    unsigned char *p = memory->get(2 * bytes);
    if (!p) exit(1);
    for (int k = 0; k < 3; k++) memory->copy(p + bytes, p, bytes);
    memory->wait();
    const double before = now();
    for (int k = 0; k < REPEATS; k++) memory->copy(p + bytes, p, bytes);
    memory->wait();
    b->copy = 2.0 * (double)bytes * REPEATS / (now() - before);
    memory->put(p);
    printf("copy                                          %7.0f GB/s\n", 1e-9 * b->copy);
}

static void adamw(bench *b, int64_t n, pc_dtype w, bool master, pc_dtype moment, pc_dtype g,
                  bool random)
{
    const pc_memory *memory = b->backend.memory;
    const size_t sizes[5] = {pc_dtype_size(w), master ? 4 : 0, pc_dtype_size(moment),
                             pc_dtype_size(moment), pc_dtype_size(g)};
    const int64_t count = (n + PIECE - 1) / PIECE;
    n = count * PIECE;
    unsigned char *at[5] = {NULL};
    double bytes = 0.0;
    for (int i = 0; i < 5; i++) {
        if (!sizes[i]) continue;
        if (!(at[i] = memory->get(sizes[i] * (size_t)n))) {
            printf("no memory for %lld numbers\n", (long long)n);
            exit(1);
        }
        fill(b, at[i], sizes[i] * (size_t)n);
        bytes += (double)sizes[i] * (double)n * (i == 4 || (i == 0 && master) ? 1.0 : 2.0);
    }
    pc_piece *list = calloc((size_t)count, sizeof *list);
    if (!list) exit(1);
    for (int64_t p = 0; p < count; p++) {
        const size_t first = (size_t)(p * PIECE);
        list[p] = (pc_piece){.w = at[0] + first * sizes[0],
                             .master = master ? at[1] + first * 4 : NULL,
                             .m = at[2] + first * sizes[2],
                             .v = at[3] + first * sizes[3],
                             .g = at[4] + first * sizes[4],
                             .n = PIECE,
                             .first = p * PIECE,
                             .lr_scale = 1.0,
                             .decay = 1.0,
                             .w_type = w,
                             .moment_type = moment,
                             .g_type = g};
    }
    const size_t mark = pc_arena_mark(&b->scratch);
    pc_piece *table = pc_arena_numbers(&b->scratch, (size_t)count * sizeof *table);
    const pc_tensor sums =
        pc_view1(pc_arena_numbers(&b->scratch, (size_t)count * 8), PC_F64, count);
    const pc_tensor gate = pc_view1(pc_arena_numbers(&b->scratch, PC_GATE * 8), PC_F64, PC_GATE);
    const double open[PC_GATE] = {0.0, 1.0, 1.0, 0.0};
    memory->copy(table, list, (size_t)count * sizeof *table);
    memory->copy(gate.data, open, sizeof open);
    memory->wait();
    free(list);
    const pc_adamw hyper = {.lr = 1e-5,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8,
                            .weight_decay = 0.1,
                            .correct1 = 0.19,
                            .correct2 = 0.0975,
                            .grad_scale = 1.0};
    const pc_rng_key key = {.seed = 1, .stream = PC_STREAM_ROUNDING, .step = 1};
    double seconds[2] = {0};
    for (int what = 0; what < 2; what++) {
        for (int k = -2; k < REPEATS; k++) {
            if (k == 0) {
                memory->wait();
                seconds[what] = now();
            }
            if (what == 0)
                b->ctx.grad_ops->adamw_list(&b->ctx, table, count, &hyper, gate,
                                            random ? &key : NULL);
            else {
                b->ctx.grad_ops->square_sums(&b->ctx, sums, table, count);
                b->ctx.grad_ops->step_gate(&b->ctx, gate, sums, PC_NONE, 1.0);
            }
        }
        memory->wait();
        seconds[what] = (now() - seconds[what]) / REPEATS;
    }
    const double rate = bytes / seconds[0], norm = (double)sizes[4] * (double)n / seconds[1];
    printf("w %-4s%s moments %-4s gradients %-4s %-8s %7.0f GB/s  %3.0f %%  %7.3f ms   norm %7.0f "
           "GB/s "
           "%3.0f %%\n",
           pc_dtype_name(w), master ? "+f32" : "    ", pc_dtype_name(moment), pc_dtype_name(g),
           random ? "random" : "nearest", 1e-9 * rate, 100.0 * rate / b->copy, 1e3 * seconds[0],
           1e-9 * norm, 100.0 * norm / b->copy);
    for (int i = 0; i < 5; i++)
        if (at[i]) memory->put(at[i]);
    pc_arena_release(&b->scratch, mark);
}

// `count` matrices, `together` of them in a batch.
static void muon(bench *b, const char *what, int64_t R, int64_t C, int64_t together, pc_dtype real)
{
    const pc_memory *memory = b->backend.memory;
    const size_t mark = pc_arena_mark(&b->scratch), bytes = (size_t)(together * R * C) * 4;
    pc_piece *list = calloc((size_t)together, sizeof *list);
    unsigned char *all = memory->get(3 * bytes);
    if (!list || !all) exit(1);
    fill(b, all, 3 * bytes);
    for (int64_t p = 0; p < together; p++)
        list[p] = (pc_piece){.w = all + (size_t)(p * R * C) * 4,
                             .m = all + bytes + (size_t)(p * R * C) * 4,
                             .g = all + 2 * bytes + (size_t)(p * R * C) * 4,
                             .n = R * C,
                             .lr_scale = 1.0,
                             .decay = 1.0};
    pc_piece *table = pc_arena_numbers(&b->scratch, (size_t)together * sizeof *table);
    const pc_tensor gate = pc_view1(pc_arena_numbers(&b->scratch, PC_GATE * 8), PC_F64, PC_GATE);
    const double open[PC_GATE] = {0.0, 1.0, 1.0, 0.0};
    memory->copy(table, list, (size_t)together * sizeof *table);
    memory->copy(gate.data, open, sizeof open);
    memory->wait();
    const pc_tensor X = pc_alloc3(&b->scratch, real, together, R, C);
    double seconds[2] = {0};
    for (int what_of = 0; what_of < 2; what_of++) {
        for (int k = -2; k < REPEATS; k++) {
            if (k == 0) {
                memory->wait();
                seconds[what_of] = now();
            }
            if (what_of == 0) b->ctx.grad_ops->muon_ahead(&b->ctx, X, table, 0.95, gate, NULL);
            b->ctx.grad_ops->orthogonal(&b->ctx, X);
            if (what_of == 0) b->ctx.grad_ops->muon_apply(&b->ctx, table, X, 1e-5, 0.1, gate, NULL);
        }
        memory->wait();
        seconds[what_of] = (now() - seconds[what_of]) / REPEATS;
    }
    const double r = (double)(R < C ? R : C);
    const double flops =
        5.0 * 2.0 * (double)together * r * (2.0 * (double)R * (double)C + r * r) / seconds[1];
    printf("muon %-22s %5lld x %5lld x %2lld in %-4s %8.3f ms, products %8.3f ms, %6.1f TFLOP/s\n",
           what, (long long)R, (long long)C, (long long)together, pc_dtype_name(real),
           1e3 * seconds[0], 1e3 * seconds[1], 1e-12 * flops);
    free(list);
    memory->put(all);
    pc_arena_release(&b->scratch, mark);
}

int main(int argc, char **argv)
{
    const int64_t n = argc > 1 ? (int64_t)atof(argv[1]) : 1000000000;
    bench b = {0};
    must(pc_backend_choose(&b.backend, "cuda"));
    must(pc_arena_open_in(&b.scratch, "scratch", b.backend.memory, (size_t)2 << 30, 0));
    b.ctx = (pc_ctx){.ops = pc_backend_ops(&b.backend),
                     .grad_ops = pc_backend_grad_ops(&b.backend),
                     .real = PC_F32,
                     .act = &b.scratch,
                     .scratch = &b.scratch};
    printf("%s, %lld numbers\n", b.backend.device, (long long)n);
    measure_copy(&b);
    for (int i = 0; i < 12; i++) {
        const pc_dtype w = i / 4 ? PC_BF16 : PC_F32, moment = i & 1 ? PC_BF16 : PC_F32,
                       g = i & 2 ? PC_BF16 : PC_F32;
        adamw(&b, n, w, i / 4 == 1, moment, g, false);
        if (moment == PC_BF16 || i / 4 == 2) adamw(&b, n, w, i / 4 == 1, moment, g, true);
    }
    muon(&b, "7B's attention", 4096, 4096, 1, PC_BF16);
    muon(&b, "7B's mlp", 11008, 4096, 1, PC_BF16);
    muon(&b, "7B's mlp", 4096, 11008, 1, PC_BF16);
    muon(&b, "7B's attention", 4096, 4096, 1, PC_F32);
    muon(&b, "ViT-B", 768, 768, 24, PC_BF16);
    // The quickstart's tune stage, all of it: the decoder's attention and mlp, the tower's, the projector.
    static const int64_t quickstart[][3] = {{96, 96, 16}, {256, 96, 8}, {96, 256, 4}, {64, 64, 12},
                                            {192, 64, 3}, {64, 192, 3}, {96, 64, 1}};
    for (int i = 0; i < 7; i++)
        muon(&b, "the quickstart's", quickstart[i][0], quickstart[i][1], quickstart[i][2], PC_F32);
    pc_arena_close(&b.scratch);
    return 0;
}

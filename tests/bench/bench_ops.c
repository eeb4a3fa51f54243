/*
 * bench_ops.c - time of one call of each operation, portable, AVX2 and AVX-512, at the quickstart's shapes.
 *
 *   bench_ops [WORD]      only operations whose name contains WORD
 *
 * One thread; processor time, the least of many calls, the instruction sets taking turns. The shapes: 4 images behind
 * 16 questions each for the decoder (1056 rows of 96), 32 images and texts for the towers, 735,000 parameters.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "model/ops/ops.h"

enum {
    N = 1056, // rows of the decoder
    C = 96,
    H = 3,
    D = 32,
    F = 256,
    V = 768,
    NV = 2080, // rows of the vision tower
    CV = 64,
    FV = 192,
    B = 128, // pairs
    P = 735000,
};

typedef struct data {
    pc_tensor x, y, z, dy, dz, half, mean, dg, wide, wide2, heads, rstd, row, g, db, rows, rows2,
        rows3, rows4;
    pc_tensor pixels, stem[3], cols[3], u, v, lse, lse2, loss, t, du, dt, w, dw, qkv;
    pc_tensor p[4], sum, ids, pos, index, cosine, sine, table, dtable, labels, nll, coef;
    pc_conv conv[3];
    pc_adamw adamw;
    pc_rng_key key;
} data;

typedef struct bench_case {
    const char *name;
    void (*run)(pc_ctx *ctx, const data *d);
} bench_case;

// CASE(name, call) makes a function of one call, o the forward table and g the other.
#define CASE(name, call)                                                                           \
    static void name(pc_ctx *c, const data *d)                                                     \
    {                                                                                              \
        const pc_ops *o = c->ops;                                                                  \
        const pc_grad_ops *g = c->grad_ops;                                                        \
        (void)o, (void)g;                                                                          \
        call;                                                                                      \
    }
// clang-format off
#define CASES(X) \
    X(linear,             o->linear_forward(c, d->wide2, d->x, d->w, PC_NONE, PC_NONE))                          \
    X(linear_back,        g->linear_backward(c, d->y, d->dw, PC_NONE, d->wide2, d->x, d->w, false))              \
    X(gelu,               o->act_forward(c, d->rows3, d->rows2, PC_ACT_GELU))                                    \
    X(gelu_back,          g->act_backward(c, d->rows3, d->rows4, d->rows2, PC_ACT_GELU))                         \
    X(gelu_tanh,          o->act_forward(c, d->rows3, d->rows2, PC_ACT_GELU_TANH))                               \
    X(gelu_tanh_back,     g->act_backward(c, d->rows3, d->rows4, d->rows2, PC_ACT_GELU_TANH))                    \
    X(quick,              o->act_forward(c, d->rows3, d->rows2, PC_ACT_QUICK))                                   \
    X(silu,               o->act_forward(c, d->rows3, d->rows2, PC_ACT_SILU))                                    \
    X(relu,               o->act_forward(c, d->rows3, d->rows2, PC_ACT_RELU))                                    \
    X(swiglu,             o->swiglu_forward(c, d->half, d->wide2))                                \
    X(swiglu_back,        g->swiglu_backward(c, d->wide, d->half, d->wide2))                      \
    X(layernorm,          o->layernorm_forward(c, d->rows, d->mean, d->row, d->z, pc_view1(d->g.data, PC_F32, CV), d->db, 1e-5)) \
    X(layernorm_back,     g->layernorm_backward(c, d->rows, pc_view1(d->dg.data, PC_F32, CV), d->db, d->dz, d->z, pc_view1(d->g.data, PC_F32, CV), d->mean, d->rstd, PC_NONE)) \
    X(rmsnorm,            o->rmsnorm_forward(c, d->y, d->rstd, d->x, d->g, 1e-6))                                \
    X(rmsnorm_back,       g->rmsnorm_backward(c, d->y, d->dg, d->dy, d->x, d->g, d->rstd, d->x))                   \
    X(head_norm,          o->rmsnorm_forward(c, pc_as_heads(d->y, D), d->rstd, pc_as_heads(pc_cols(d->qkv, 0, C), D), pc_view1(d->g.data, PC_F32, D), 1e-6)) \
    X(head_norm_back,     g->rmsnorm_backward(c, pc_as_heads(d->y, D), pc_view1(d->dg.data, PC_F32, D), pc_as_heads(d->dy, D), pc_as_heads(pc_cols(d->qkv, 0, C), D), pc_view1(d->g.data, PC_F32, D), d->rstd, PC_NONE)) \
    X(rope,               o->rope_forward(c, pc_as_heads(d->y, D), d->heads, d->cosine, d->sine, d->pos))                    \
    X(rope_back,          g->rope_backward(c, pc_as_heads(d->y, D), d->heads, d->cosine, d->sine, d->pos))                   \
    X(embedding,          o->embedding_forward(c, d->y, d->ids, d->table))                                       \
    X(embedding_back,     g->embedding_backward(c, d->dtable, d->dy, d->ids))                                      \
    X(add_rows,           o->add_rows_forward(c, d->y, d->x, d->table, d->pos))                                  \
    X(add_rows_back,      g->add_rows_backward(c, d->dtable, d->dy, d->pos))                                       \
    X(gather,             o->gather_forward(c, d->y, d->x, d->index))                                            \
    X(gather_back,        g->gather_backward(c, d->y, d->x, d->index))                                           \
    X(splice,             o->splice_forward(c, d->y, d->x, d->index))                                            \
    X(splice_back,        g->splice_backward(c, d->y, d->x, d->index))                                           \
    X(im2col_planes,      o->im2col_forward(c, d->cols[0], d->pixels, &d->conv[0]))                              \
    X(im2col_rows,        o->im2col_forward(c, d->cols[1], d->stem[1], &d->conv[1]))                             \
    X(im2col_rows_back,   g->im2col_backward(c, d->stem[1], d->cols[1], &d->conv[1]))                            \
    X(im2col_patches,     o->im2col_forward(c, d->cols[2], d->pixels, &d->conv[2]))                              \
    X(dropout,            o->dropout_forward(c, d->y, d->x, 0.1, d->key))                                        \
    X(add,                o->add_forward(c, d->y, d->x, d->dy))                                                   \
    X(copy,               o->copy_forward(c, d->y, d->x))                                                        \
    X(zero,               o->zero_forward(c, d->y))                                                              \
    X(l2norm,             o->l2norm_forward(c, d->u, d->lse, d->v))                                              \
    X(l2norm_back,        g->l2norm_backward(c, d->du, d->v, d->u, d->lse))                                       \
    X(linear_xent,        o->linear_xent_forward(c, d->nll, d->x, d->table, d->labels))                          \
    X(linear_xent_back,   g->linear_xent_backward(c, d->y, d->dtable, d->nll, d->x, d->table, d->labels, d->coef)) \
    X(clip_loss,          o->clip_loss_forward(c, d->loss, d->lse, d->lse2, d->u, d->u, d->t))                   \
    X(clip_loss_back,     g->clip_loss_backward(c, d->du, d->du, d->dt, d->u, d->u, d->t, d->lse, d->lse2, 1.0))    \
    X(sigmoid_loss,       o->sigmoid_loss_forward(c, d->loss, d->u, d->u, d->t, d->t))                           \
    X(sigmoid_loss_back,  g->sigmoid_loss_backward(c, d->du, d->du, d->dt, d->dt, d->u, d->u, d->t, d->t, 1.0))      \
    X(adamw,              g->adamw(c, d->p[0], d->p[1], d->p[2], d->p[3], &d->adamw))                            \
    X(square_sum,         g->square_sum(c, d->sum, d->p[3]))                                                     \
    X(accumulate,         g->accumulate(c, d->p[0], d->p[3]))
// clang-format on

#define MAKE(name, call) CASE(run_##name, call)
#define LIST(name, call) {#name, run_##name},
CASES(MAKE)
static const bench_case cases[] = {CASES(LIST)};
enum { COUNT = sizeof cases / sizeof *cases };

static pc_tensor uniform(pc_arena *a, int64_t rows, int64_t width)
{
    static uint64_t next;
    const pc_rng_key key = {next++, PC_STREAM_TEST, 3};
    pc_tensor x = pc_alloc2(a, PC_F32, rows, width);
    for (int64_t i = 0; i < rows * width; i++)
        ((float *)x.data)[i] = (float)pc_rng_uniform(&key, (uint64_t)i) - 0.5f;
    return x;
}

static pc_tensor vector(pc_arena *a, int64_t n)
{
    return pc_view1(uniform(a, 1, n).data, PC_F32, n);
}

static pc_tensor indices(pc_arena *a, int64_t n, int64_t step, int64_t below)
{
    pc_tensor x = pc_alloc1(a, PC_I32, n);
    for (int64_t i = 0; i < n; i++) pc_i32(x)[i] = (int32_t)(i * step % below);
    return x;
}

static pc_conv convolution(int64_t images, int64_t channels, int64_t size, int64_t kernel,
                           bool rows)
{
    pc_conv v = {.B = images, .C = channels, .H = size, .W = size, .kernel = kernel};
    v.channels_last = rows;
    v.pad = kernel == 3;
    v.step = kernel == 3 ? 2 : kernel;
    v.out_h = v.out_w = (size + 2 * v.pad - kernel) / v.step + 1;
    return v;
}

static void fill(data *d, pc_arena *a)
{
    d->x = uniform(a, N, C), d->y = uniform(a, N, C), d->z = uniform(a, NV, CV);
    d->wide = uniform(a, N, 2 * F), d->wide2 = uniform(a, N, 2 * F), d->qkv = uniform(a, N, 3 * C);
    d->heads = pc_as_heads(pc_cols(uniform(a, N, 3 * C), 0, C), D);
    d->rstd = vector(a, NV * H), d->row = vector(a, NV), d->g = vector(a, C), d->db = vector(a, CV);
    d->rows = uniform(a, NV, CV), d->rows2 = uniform(a, NV, FV), d->rows3 = uniform(a, NV, FV);
    d->rows4 = uniform(a, NV, FV), d->mean = vector(a, NV), d->dg = vector(a, C);
    d->half = uniform(a, N, F), d->dy = uniform(a, N, C), d->dz = uniform(a, NV, CV);
    d->w = uniform(a, 2 * F, C), d->dw = uniform(a, 2 * F, C);
    d->pixels = pc_alloc2(a, PC_F32, 32, 3 * 64 * 64);
    memset(d->pixels.data, 0, (size_t)pc_numel(d->pixels) * sizeof(float));
    d->stem[1] = uniform(a, (int64_t)32 * 32 * 32, 32);
    d->conv[0] = convolution(32, 3, 64, 3, false);
    d->conv[1] = convolution(32, 32, 32, 3, true);
    d->conv[2] = convolution(32, 3, 64, 8, false);
    for (int i = 0; i < 3; i++) {
        const pc_conv *v = &d->conv[i];
        d->cols[i] = uniform(a, v->B * v->out_h * v->out_w, v->C * v->kernel * v->kernel);
    }
    d->u = uniform(a, B, CV), d->v = uniform(a, B, CV), d->du = uniform(a, B, CV);
    d->dt = vector(a, 1);
    d->lse = vector(a, B), d->lse2 = vector(a, B), d->t = vector(a, 1);
    d->loss = pc_alloc1(a, PC_F64, 1), d->sum = pc_alloc1(a, PC_F64, 1);
    for (int i = 0; i < 4; i++) d->p[i] = vector(a, P);
    for (int64_t i = 0; i < P; i++) ((float *)d->p[2].data)[i] = 0.25f;
    d->ids = indices(a, N, 7, V), d->labels = indices(a, N, 5, V), d->pos = indices(a, N, 1, 264);
    d->index = indices(a, N, 5, N); // 5 and N share no factor: no row twice
    d->cosine = uniform(a, 264, D / 2), d->sine = uniform(a, 264, D / 2);
    d->table = uniform(a, V, C), d->dtable = uniform(a, V, C), d->nll = vector(a, N),
    d->coef = vector(a, N);
    d->adamw = (pc_adamw){1e-6, 0.9, 0.95, 1e-8, 0.0, 0.1, 0.05, 1.0};
    d->key = (pc_rng_key){1, PC_STREAM_DROPOUT, 1};
}

// Microseconds of processor time.
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

int main(int argc, char **argv)
{
    static data d;
    static pc_arena memory[3];
    pc_isa best;
    if (pc_isa_choose(&best)) return 1;
    for (int i = 0; i < 3; i++)
        if (pc_arena_open(&memory[i], "bench", (size_t)256 << 20)) return 1;
    fill(&d, &memory[0]);
    printf("%-20s %10s", "us a call", pc_isa_name(PC_ISA_REF));
    for (int isa = 1; isa <= (int)best; isa++) printf(" %10s        ", pc_isa_name((pc_isa)isa));
    printf("\n");
    for (int i = 0; i < COUNT; i++) {
        if (argc > 1 && !strstr(cases[i].name, argv[1])) continue;
        double least[3] = {1e30, 1e30, 1e30}, spent = 0;
        for (int call = 0; call < 4 || (spent < 1e5 && call < 1000); call++)
            for (int isa = 0; isa <= (int)best; isa++) {
                pc_ctx ctx = {.ops = pc_cpu_ops((pc_isa)isa, PC_F32),
                              .grad_ops = pc_cpu_grad_ops((pc_isa)isa, PC_F32),
                              .real = PC_F32,
                              .act = &memory[1],
                              .scratch = &memory[2]};
                const double began = now();
                cases[i].run(&ctx, &d);
                const double took = now() - began;
                if (took < least[isa]) least[isa] = took;
                spent += took;
            }
        printf("%-20s %10.1f", cases[i].name, least[0]);
        for (int isa = 1; isa <= (int)best; isa++)
            printf(" %10.1f (%4.1f x)", least[isa], least[0] / least[isa]);
        printf("\n");
        fflush(stdout);
    }
    for (int i = 0; i < 3; i++) pc_arena_close(&memory[i]);
    return 0;
}

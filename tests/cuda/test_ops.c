/*
 * test_ops.c - every operation of the CUDA backend against the portable kernels in double, forward and backward.
 *
 *   test_ops [REPEATS [CASE]]    prints a line an operation: worst relative error (Frobenius) in f32 and in bf16
 *
 * A case draws its shapes and numbers from a seed and runs once on either side; what it emits is compared. With bf16 both
 * sides start from numbers that bf16 can hold. Without a GPU the test says so and passes over; with PERCEPT_NEED_GPU=1
 * it fails.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/log.h"
#include "model/core/quant.h"
#include "model/layers/mask.h"
#include "model/ops/cuda/cuda.h"

enum { EMITS = 16, SEED = 3 };

typedef struct side {
    pc_ctx ctx;
    pc_arena act, scratch;
    bool gpu, half; // half: numbers are rounded to bf16
    pc_rng_key key;
    uint64_t drawn;
    const char *names[EMITS];
    pc_tensor out[EMITS];
    int outs;
} side;

static const size_t ROOM = (size_t)192 << 20;

static uint64_t draw(side *s, uint64_t n)
{
    return pc_rng_below(&s->key, 4 * s->drawn++, n);
}

// A size: one, small and odd, about a block, or a few blocks.
static int64_t size(side *s, int64_t most)
{
    static const int64_t bounds[] = {1, 9, 70, 300};
    const int64_t top = bounds[draw(s, 4)];
    const int64_t n = 1 + (int64_t)draw(s, (uint64_t)(top < most ? top : most));
    return n > 8 && draw(s, 2) ? n / 8 * 8 : n; // what kernels read by eights
}

// A width of rows: a size, or of a large model.
static int64_t width(side *s)
{
    return draw(s, 3) == 0 ? 8 * (1 + (int64_t)draw(s, 2600)) : size(s, 300);
}

static float rounded(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    u = (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u;
    memcpy(&v, &u, sizeof v);
    return v;
}

typedef enum kind {
    ROWS,
    WIDE
} kind; // of ctx->real, or f32 (f64 on the CPU): vectors, statistics, gradients

// The gradient of a matrix is of either type.
static kind either(side *s)
{
    return draw(s, 2) ? ROWS : WIDE;
}

static pc_dtype type_of(const side *s, kind k)
{
    if (!s->gpu) return PC_F64;
    return k == ROWS && s->half ? PC_BF16 : PC_F32;
}

// Numbers on a side: `values` (NULL: drawn, normal).
static pc_tensor place(side *s, kind k, const double *values, double by, int rank,
                       const int64_t *dim)
{
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    const pc_dtype t = type_of(s, k);
    pc_tensor x = rank == 1   ? pc_alloc1(&s->act, t, dim[0])
                  : rank == 2 ? pc_alloc2(&s->act, t, dim[0], dim[1])
                  : rank == 3
                      ? pc_alloc3(&s->act, t, dim[0], dim[1], dim[2])
                      : pc_view4(pc_alloc1(&s->act, t, n).data, t, dim[0], dim[1], dim[2], dim[3]);
    if (s->gpu && t == PC_F64) abort();
    unsigned char *host = malloc((size_t)n * 8);
    if (!host) abort();
    const uint64_t base = s->drawn;
    if (!values) s->drawn += (uint64_t)n;
    for (int64_t i = 0; i < n; i++) {
        float v =
            (float)(values ? values[i] : by * pc_rng_normal(&s->key, 4 * (base + (uint64_t)i)));
        if (s->half && k == ROWS) v = rounded(v);
        if (t == PC_F64) ((double *)host)[i] = (double)v;
        if (t == PC_F32) ((float *)host)[i] = v;
        if (t == PC_BF16) {
            uint32_t u;
            memcpy(&u, &v, sizeof u);
            ((uint16_t *)host)[i] = (uint16_t)(u >> 16);
        }
    }
    if (s->gpu) {
        s->act.memory->copy(x.data, host, (size_t)n * pc_dtype_size(t));
        s->act.memory->wait();
    } else {
        memcpy(x.data, host, (size_t)n * 8);
    }
    free(host);
    return x;
}

#define NORMAL(s, k, ...)                                                                          \
    place(s, k, NULL, 1.0, (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), (int64_t[]){__VA_ARGS__})
#define NORMAL_BY(s, k, by, ...)                                                                   \
    place(s, k, NULL, by, (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), (int64_t[]){__VA_ARGS__})

static pc_tensor index_of(side *s, int64_t n, int64_t below, bool holes)
{
    const pc_tensor x = pc_alloc1(&s->act, PC_I32, n);
    for (int64_t i = 0; i < n; i++) {
        pc_i32(x)[i] = (int32_t)draw(s, (uint64_t)below);
        if (holes && draw(s, 4) == 0) pc_i32(x)[i] = -1;
    }
    return x;
}

static void emit(side *s, const char *name, pc_tensor x)
{
    s->names[s->outs] = name;
    s->out[s->outs++] = x;
}

// ---- the cases -------------------------------------------------------------------------------------

static pc_tensor strided(side *s, int64_t N, int64_t C, pc_tensor *whole)
{
    const int64_t before = draw(s, 2) ? 3 : 8;
    *whole = NORMAL(s, ROWS, N, C + before + 8);
    return pc_cols(*whole, before, before + C);
}

static void linear(side *s)
{
    // In bf16 a product is rounded before its bias comes on top: a single number may cancel to nothing.
    const int64_t few = s->half ? 7 : 0;
    const int64_t N = few + size(s, 300), I = size(s, 300), O = few + size(s, 300);
    pc_tensor whole;
    const pc_tensor x = strided(s, N, I, &whole),
                    w = NORMAL_BY(s, ROWS, 1.0 / sqrt((double)I), O, I), b = NORMAL(s, WIDE, O),
                    r = NORMAL(s, ROWS, N, O);
    const pc_tensor y = NORMAL(s, ROWS, N, O), y2 = NORMAL(s, ROWS, N, O),
                    y3 = NORMAL(s, ROWS, N, O);
    s->ctx.ops->linear_forward(&s->ctx, y, x, w, b, r);
    s->ctx.ops->linear_forward(&s->ctx, y2, x, w, PC_NONE, PC_NONE);
    s->ctx.ops->linear_forward(&s->ctx, y3, x, w, b, y3);
    emit(s, "y", y);
    emit(s, "y without bias", y2);
    emit(s, "y in place", y3);
    const pc_tensor y4 = NORMAL(s, WIDE, N, O), y5 = NORMAL(s, WIDE, N, O);
    s->ctx.ops->linear_forward(&s->ctx, y4, x, w, b, PC_NONE);
    s->ctx.ops->linear_forward(&s->ctx, y5, x, w, PC_NONE, y4);
    emit(s, "wide y", y4);
    emit(s, "wide y with r", y5);
    const pc_tensor dy = NORMAL(s, ROWS, N, O), dx = NORMAL(s, ROWS, N, I),
                    dw = NORMAL(s, either(s), O, I), db = NORMAL(s, WIDE, O);
    s->ctx.grad_ops->linear_backward(&s->ctx, dx, dw, db, dy, x, w, false);
    emit(s, "dx", dx);
    emit(s, "dw", dw);
    emit(s, "db", db);
    s->ctx.grad_ops->linear_backward(&s->ctx, PC_NONE, dw, PC_NONE, dy, x, w, true);
    emit(s, "fresh dw", dw);
    s->ctx.grad_ops->linear_backward(&s->ctx, PC_NONE, dw, PC_NONE, pc_rows(dy, 0, 0),
                                     pc_rows(x, 0, 0), w, true);
    emit(s, "fresh dw of no rows", dw);
    const pc_act f = (pc_act)draw(s, 5);
    const pc_tensor z = NORMAL(s, ROWS, N, O), a = NORMAL(s, ROWS, N, O);
    s->ctx.ops->linear_act_forward(&s->ctx, a, z, x, w, b, f);
    emit(s, "act", a);
    emit(s, "z", z);
    s->ctx.grad_ops->linear_act_backward(&s->ctx, a, PC_NONE, a, z, f);
    emit(s, "dz", a);
}

// A matrix in a type of files, the same numbers on both sides.
static pc_tensor stored_matrix(side *s, pc_dtype t, int64_t O, int64_t I)
{
    const pc_quant_type *q = pc_quant_find(pc_dtype_quant(t));
    const size_t bytes = pc_dtype_bytes(t, O * I);
    float *f = malloc((size_t)(O * I) * sizeof *f);
    unsigned char *packed = malloc(bytes);
    double *values = malloc((size_t)(O * I) * sizeof *values);
    if (!f || !packed || !values) abort();
    for (int64_t i = 0; i < O * I; i++)
        f[i] = (float)(pc_rng_normal(&s->key, 4 * (s->drawn + (uint64_t)i)) / sqrt((double)I));
    s->drawn += (uint64_t)(O * I);
    if (pc_quant_encode(q, packed, f, O * I) >= 0) abort();
    pc_quant_decode(q, f, packed, O * I);
    for (int64_t i = 0; i < O * I; i++) values[i] = (double)f[i];
    pc_tensor w;
    if (s->gpu) {
        // Blocks need no alignment, and two bytes is what they get.
        const size_t shift = pc_dtype_block(t) > 1 && draw(s, 2) ? 2 : 0;
        unsigned char *at = pc_arena_numbers(&s->act, bytes + 16);
        s->act.memory->copy(at + shift, packed, bytes);
        s->act.memory->wait();
        w = pc_view2(at + shift, t, O, I);
    } else {
        if (pc_dtype_block(t) > 1) draw(s, 2);
        w = pc_view2(pc_arena_numbers(&s->act, (size_t)(O * I) * 8), PC_F64, O, I);
        memcpy(w.data, values, (size_t)(O * I) * 8);
    }
    free(f);
    free(packed);
    free(values);
    return w;
}

// Products of few and of many rows with W in the types of files; tables likewise. As in inference: nothing is written to W.
static void stored(side *s)
{
    static const pc_dtype types[] = {PC_F32, PC_BF16, PC_F16, PC_Q8_0, PC_Q4_0};
    const pc_dtype t = types[draw(s, 5)];
    const bool many = draw(s, 4) == 0;
    const int64_t few = s->half ? 7 : 0, N = many ? 9 + size(s, 70) : 1 + (int64_t)draw(s, 8),
                  O = few + size(s, 300);
    const int64_t I = pc_dtype_block(t) > 1 ? 32 * (1 + (int64_t)draw(s, 200))
                      : draw(s, 2)          ? 8 * size(s, 300)
                                            : 8 + size(s, 2500);
    const pc_grad_ops *const grad_ops = s->ctx.grad_ops;
    s->ctx.grad_ops = NULL;
    const pc_tensor x = NORMAL(s, ROWS, N, I), w = stored_matrix(s, t, O, I),
                    b = NORMAL(s, WIDE, O), r = NORMAL(s, ROWS, N, O);
    const pc_tensor y = NORMAL(s, ROWS, N, O), y2 = NORMAL(s, ROWS, N, O),
                    y3 = NORMAL(s, ROWS, N, O), y4 = NORMAL(s, WIDE, N, O);
    s->ctx.ops->linear_forward(&s->ctx, y, x, w, b, r);
    s->ctx.ops->linear_forward(&s->ctx, y2, x, w, PC_NONE, PC_NONE);
    s->ctx.ops->linear_forward(&s->ctx, y3, x, w, b, y3);
    s->ctx.ops->linear_forward(&s->ctx, y4, x, w, PC_NONE, PC_NONE);
    emit(s, "y", y);
    emit(s, "y without bias", y2);
    emit(s, "y in place", y3);
    emit(s, "y in f32", y4);
    const pc_act f = (pc_act)draw(s, 5);
    const pc_tensor z = NORMAL(s, ROWS, N, O), a = NORMAL(s, ROWS, N, O);
    s->ctx.ops->linear_act_forward(&s->ctx, a, z, x, w, b, f);
    emit(s, "act", a);
    emit(s, "z", z);
    const pc_tensor ids = index_of(s, N, O, true), e = NORMAL(s, ROWS, N, I);
    s->ctx.ops->embedding_forward(&s->ctx, e, ids, w);
    emit(s, "embedding", e);
    s->ctx.grad_ops = grad_ops;
}

static void act(side *s)
{
    const int64_t N = size(s, 300), F = size(s, 300);
    const pc_act f = (pc_act)draw(s, 5);
    const pc_tensor z = NORMAL_BY(s, ROWS, 2.0, N, F), a = NORMAL(s, ROWS, N, F),
                    da = NORMAL(s, ROWS, N, F), dz = NORMAL(s, ROWS, N, F);
    s->ctx.ops->act_forward(&s->ctx, a, z, f);
    s->ctx.grad_ops->act_backward(&s->ctx, dz, da, z, f);
    emit(s, "a", a);
    emit(s, "dz", dz);
}

static void linear_act(side *s)
{
    const int64_t N = draw(s, 6) ? size(s, 300) : 3000 + (int64_t)draw(s, 300);
    const int64_t F = 8 * (int64_t)draw(s, 2) + 7 + size(s, 300);
    const pc_act f = (pc_act)draw(s, 5);
    const pc_tensor z = NORMAL(s, ROWS, N, F), da = NORMAL(s, ROWS, N, F), db = NORMAL(s, WIDE, F),
                    dz = draw(s, 2) ? da : pc_alloc2(&s->act, type_of(s, ROWS), N, F);
    s->ctx.grad_ops->linear_act_backward(&s->ctx, dz, draw(s, 5) ? db : PC_NONE, da, z, f);
    emit(s, "dz", dz);
    emit(s, "db", db);
}

static void swiglu(side *s)
{
    const int64_t N = size(s, 300), F = size(s, 300);
    const pc_tensor gu = NORMAL(s, ROWS, N, 2 * F), h = NORMAL(s, ROWS, N, F),
                    dh = NORMAL(s, ROWS, N, F), d = NORMAL(s, ROWS, N, 2 * F);
    s->ctx.ops->swiglu_forward(&s->ctx, h, gu);
    s->ctx.grad_ops->swiglu_backward(&s->ctx, d, dh, gu);
    emit(s, "h", h);
    emit(s, "dgu", d);
}

// Rows and columns of a norm; now and then so many rows that every block of threads has some, one after the other.
static void norm_size(side *s, int64_t *N, int64_t *C)
{
    *N = size(s, 300);
    *C = width(s);
    if (draw(s, 8) > 0) return;
    *C = draw(s, 3) ? 8 * (1 + (int64_t)draw(s, 6)) : 2056;
    *N = (*C > 1000 ? 1060 : 17000) + (int64_t)draw(s, 300);
}

static void layernorm(side *s)
{
    int64_t N, C;
    norm_size(s, &N, &C);
    if (C < 8) C += 8;
    const pc_tensor x = NORMAL(s, ROWS, N, C), g = NORMAL(s, WIDE, C), b = NORMAL(s, WIDE, C),
                    y = pc_alloc2(&s->act, type_of(s, ROWS), N, C);
    const pc_tensor mean = NORMAL(s, WIDE, N), rstd = NORMAL(s, WIDE, N),
                    dy = NORMAL(s, ROWS, N, C), add = NORMAL(s, ROWS, N, C);
    const uint64_t place_of = draw(s, 3);
    const pc_tensor dx = place_of == 0   ? dy
                         : place_of == 1 ? add
                                         : pc_alloc2(&s->act, type_of(s, ROWS), N, C);
    const pc_tensor dg = NORMAL(s, WIDE, C), db = NORMAL(s, WIDE, C);
    s->ctx.ops->layernorm_forward(&s->ctx, y, mean, rstd, x, g, b, 1e-5);
    s->ctx.grad_ops->layernorm_backward(&s->ctx, dx, dg, db, dy, x, g, mean, rstd,
                                        place_of == 1 || draw(s, 2) ? add : PC_NONE);
    emit(s, "y", y);
    emit(s, "dx", dx);
    emit(s, "dg", dg);
    emit(s, "db", db);
}

static void rmsnorm(side *s)
{
    int64_t N, C;
    norm_size(s, &N, &C);
    const int64_t H = N > 300 ? 1 : 1 + (int64_t)draw(s, 4);
    if (C < 2) C = 2; // of one column nothing is left of dx but what is rounded
    const pc_tensor x = NORMAL(s, ROWS, N, H, C), g = NORMAL(s, WIDE, C),
                    y = pc_alloc3(&s->act, type_of(s, ROWS), N, H, C), rstd = NORMAL(s, WIDE, N, H);
    const pc_tensor dy = NORMAL(s, ROWS, N, H, C),
                    dx = draw(s, 2) ? dy : pc_alloc3(&s->act, type_of(s, ROWS), N, H, C),
                    dg = draw(s, 4) ? NORMAL(s, WIDE, C) : PC_NONE;
    s->ctx.ops->rmsnorm_forward(&s->ctx, y, rstd, x, g, 1e-6);
    s->ctx.grad_ops->rmsnorm_backward(&s->ctx, dx, dg, dy, x, g, rstd, PC_NONE);
    emit(s, "y", y);
    emit(s, "dx", dx);
    if (pc_present(dg)) emit(s, "dg", dg);
}

static void rope(side *s)
{
    const int64_t N = size(s, 300), H = 1 + (int64_t)draw(s, 20), R = 50,
                  D = draw(s, 2) ? 16 * (1 + (int64_t)draw(s, 8)) : 2 * (1 + (int64_t)draw(s, 40));
    const pc_tensor x = NORMAL(s, ROWS, N, H, D), y = NORMAL(s, ROWS, N, H, D),
                    cosines = NORMAL(s, WIDE, R, D / 2);
    const pc_tensor sines = NORMAL(s, WIDE, R, D / 2), pos = index_of(s, N, R, false),
                    dx = NORMAL(s, ROWS, N, H, D);
    s->ctx.ops->rope_forward(&s->ctx, y, x, cosines, sines, pos);
    s->ctx.grad_ops->rope_backward(&s->ctx, dx, x, cosines, sines, pos);
    emit(s, "y", y);
    emit(s, "dx", dx);
}

// Causal, full, windowed or behind a shared prefix; a few sequences.
static void attention(side *s)
{
    const int64_t S = 1 + (int64_t)draw(s, 3), G = 1 + (int64_t)draw(s, 2),
                  H = G * (1 + (int64_t)draw(s, 3));
    static const int64_t widths[] = {3, 16, 32, 33, 64, 80, 96, 128, 200, 256};
    const int64_t D = widths[draw(s, 10)];
    const int kind_of = (int)draw(s, 4);
    int64_t lengths[3], N = 0;
    for (int64_t i = 0; i < S; i++) N += lengths[i] = size(s, 200);
    pc_mask m;
    pc_mask_ragged(&m, &s->act, lengths, 0, S, kind_of != 1);
    if (kind_of >= 2) {
        const pc_tensor plo = pc_alloc1(&s->act, PC_I32, N), phi = pc_alloc1(&s->act, PC_I32, N);
        for (int64_t i = 0, n = 0; i < S; i++)
            for (int64_t t = 0, first = n; t < lengths[i]; t++, n++) {
                pc_i32(plo)[n] = pc_i32(phi)[n] = (int32_t)first;
                if (kind_of == 2) pc_i32(m.lo)[n] = (int32_t)(t > 5 ? n - 5 : first); // a window
                if (kind_of == 3 && t >= 7) { // branches of 4 behind 7 rows
                    pc_i32(phi)[n] = (int32_t)(first + 7);
                    pc_i32(m.lo)[n] = (int32_t)(first + 7 + (t - 7) / 4 * 4);
                }
            }
        m.plo = plo;
        m.phi = phi;
    }
    if (draw(s, 3) == 0) pc_i32(m.hi)[0] = pc_i32(m.lo)[0]; // a row that sees nothing
    // Queries, keys and values side by side in one buffer, as layers have them.
    const pc_tensor qkv = NORMAL(s, ROWS, N, (H + 2 * G) * D),
                    dqkv = NORMAL(s, ROWS, N, (H + 2 * G) * D);
    const pc_tensor q = pc_as_heads(pc_cols(qkv, 0, H * D), D),
                    k = pc_as_heads(pc_cols(qkv, H * D, (H + G) * D), D);
    const pc_tensor v = pc_as_heads(pc_cols(qkv, (H + G) * D, (H + 2 * G) * D), D);
    const pc_tensor dq = pc_as_heads(pc_cols(dqkv, 0, H * D), D),
                    dk = pc_as_heads(pc_cols(dqkv, H * D, (H + G) * D), D);
    const pc_tensor dv = pc_as_heads(pc_cols(dqkv, (H + G) * D, (H + 2 * G) * D), D);
    const pc_tensor o = NORMAL(s, ROWS, N, H, D), dout = NORMAL(s, ROWS, N, H, D),
                    lse = NORMAL(s, WIDE, N, H);
    s->ctx.ops->attention_forward(&s->ctx, o, lse, q, k, v, &m, 1.0 / sqrt((double)D));
    s->ctx.grad_ops->attention_backward(&s->ctx, dq, dk, dv, dout, q, k, v, o, lse, &m,
                                        1.0 / sqrt((double)D));
    emit(s, "o", o);
    emit(s, "dqkv", dqkv);
}

// Lengths and widths about the edges of tiles: packed sequences, one image each, or questions behind a prefix.
static void attention_tiles(side *s)
{
    static const int64_t widths[] = {16, 32, 64, 72, 80, 96, 104, 128, 256};
    static const int64_t sizes[] = {1, 63, 64, 65, 129, 257, 577};
    const int64_t D = widths[draw(s, 9)], S = 1 + (int64_t)draw(s, 2), G = 1 + (int64_t)draw(s, 2),
                  H = G * (1 + (int64_t)draw(s, 3));
    const int kind_of = (int)draw(s, 3);
    int64_t lengths[2], N = 0;
    for (int64_t i = 0; i < S; i++) N += lengths[i] = sizes[draw(s, 7)];
    pc_mask m;
    pc_mask_ragged(&m, &s->act, lengths, 0, S, kind_of != 0);
    if (kind_of == 2) {
        // A prefix that rows of it see whole, then branches of 70 that see it and what came before in their branch.
        m.plo = pc_alloc1(&s->act, PC_I32, N);
        m.phi = pc_alloc1(&s->act, PC_I32, N);
        for (int64_t i = 0, n = 0; i < S; i++) {
            const int64_t first = n, prefix = lengths[i] / 3;
            for (int64_t t = 0; t < lengths[i]; t++, n++) {
                pc_i32(m.plo)[n] = (int32_t)first;
                pc_i32(m.phi)[n] = (int32_t)(first + (t < prefix ? 0 : prefix));
                pc_i32(m.lo)[n] =
                    (int32_t)(t < prefix ? first : first + prefix + (t - prefix) / 70 * 70);
                if (t < prefix) pc_i32(m.hi)[n] = (int32_t)(first + prefix);
            }
        }
    }
    const pc_tensor qkv = NORMAL(s, ROWS, N, (H + 2 * G) * D),
                    dqkv = NORMAL(s, ROWS, N, (H + 2 * G) * D);
    const pc_tensor o = NORMAL(s, ROWS, N, H, D), dout = NORMAL(s, ROWS, N, H, D),
                    lse = NORMAL(s, WIDE, N, H);
    pc_tensor x[3], dx[3];
    const int64_t at[] = {0, H, H + G, H + 2 * G};
    for (int i = 0; i < 3; i++) {
        x[i] = pc_as_heads(pc_cols(qkv, at[i] * D, at[i + 1] * D), D);
        dx[i] = pc_as_heads(pc_cols(dqkv, at[i] * D, at[i + 1] * D), D);
    }
    const double scale = 1.0 / sqrt((double)D);
    s->ctx.ops->attention_forward(&s->ctx, o, lse, x[0], x[1], x[2], &m, scale);
    s->ctx.grad_ops->attention_backward(&s->ctx, dx[0], dx[1], dx[2], dout, x[0], x[1], x[2], o,
                                        lse, &m, scale);
    emit(s, "o", o);
    emit(s, "lse", lse);
    emit(s, "dqkv", dqkv);
}

// Whole sequences with heads of 64, as towers have them: about the edges of blocks of 64 rows and tails of 16.
static void attention_short(side *s)
{
    static const int64_t sizes[] = {1,   15,  16,  17,  50,  64,  65,  77,  80,  81,  96,
                                    128, 129, 145, 197, 208, 256, 257, 272, 273, 320, 577};
    const int64_t D = 64, S = 1 + (int64_t)draw(s, 4), H = 1 + (int64_t)draw(s, 3),
                  T = draw(s, 2) ? sizes[draw(s, 22)] : 1 + (int64_t)draw(s, 600);
    const bool same = draw(s, 2), causal = draw(s, 3) == 0;
    int64_t lengths[4], N = 0;
    for (int64_t i = 0; i < S; i++)
        N += lengths[i] = same || i == 0 ? T : 1 + (int64_t)draw(s, (uint64_t)T);
    pc_mask m;
    pc_mask_ragged(&m, &s->act, lengths, 0, S, causal);
    const pc_tensor qkv = NORMAL(s, ROWS, N, 3 * H * D);
    const pc_tensor o = NORMAL(s, ROWS, N, H, D), dout = NORMAL(s, ROWS, N, H, D),
                    lse = NORMAL(s, WIDE, N, H);
    pc_tensor x[3], dx[3];
    for (int i = 0; i < 3; i++) {
        x[i] = pc_as_heads(pc_cols(qkv, i * H * D, (i + 1) * H * D), D);
        dx[i] = NORMAL(s, ROWS, N, H, D);
    }
    const double scale = 1.0 / sqrt((double)D);
    s->ctx.ops->attention_forward(&s->ctx, o, lse, x[0], x[1], x[2], &m, scale);
    s->ctx.grad_ops->attention_backward(&s->ctx, dx[0], dx[1], dx[2], dout, x[0], x[1], x[2], o,
                                        lse, &m, scale);
    emit(s, "o", o);
    emit(s, "lse", lse);
    emit(s, "dq", dx[0]);
    emit(s, "dk", dx[1]);
    emit(s, "dv", dx[2]);
}

// More blocks of rows and heads than a card has processors, of wide heads: some blocks take several, of several lengths.
static void attention_long(side *s)
{
    static const int64_t widths[] = {104, 112, 128, 128};
    const int64_t D = widths[draw(s, 4)], S = 1 + (int64_t)draw(s, 3),
                  shared = 1 + (int64_t)draw(s, 3), G = (16 + (int64_t)draw(s, 16)) / shared,
                  H = G * shared;
    const int kind_of = (int)draw(s, 4);
    int64_t lengths[3], N = 0;
    for (int64_t i = 0; i < S; i++)
        N += lengths[i] = 1 + (int64_t)draw(s, i == 0 && draw(s, 4) == 0 ? 900 : 300);
    pc_mask m;
    pc_mask_ragged(&m, &s->act, lengths, 0, S, kind_of != 1);
    if (kind_of >= 2) {
        m.plo = pc_alloc1(&s->act, PC_I32, N);
        m.phi = pc_alloc1(&s->act, PC_I32, N);
        for (int64_t i = 0, n = 0; i < S; i++) {
            const int64_t first = n, image = lengths[i] / 4, last = image + lengths[i] / 3;
            for (int64_t t = 0; t < lengths[i]; t++, n++) {
                pc_i32(m.plo)[n] = pc_i32(m.phi)[n] = (int32_t)first;
                if (kind_of == 2 && t >= image && t < last) // an image's rows see each other
                    pc_i32(m.hi)[n] = (int32_t)(first + last);
                if (kind_of == 3) { // a window, and the first row
                    pc_i32(m.phi)[n] = (int32_t)(first + (t > 0));
                    if (t > 90) pc_i32(m.lo)[n] = (int32_t)(n - 90);
                }
            }
        }
    }
    const pc_tensor qkv = NORMAL(s, ROWS, N, (H + 2 * G) * D),
                    dqkv = NORMAL(s, ROWS, N, (H + 2 * G) * D);
    const pc_tensor o = NORMAL(s, ROWS, N, H, D), dout = NORMAL(s, ROWS, N, H, D),
                    lse = NORMAL(s, WIDE, N, H);
    pc_tensor x[3], dx[3];
    const int64_t at[] = {0, H, H + G, H + 2 * G};
    for (int i = 0; i < 3; i++) {
        x[i] = pc_as_heads(pc_cols(qkv, at[i] * D, at[i + 1] * D), D);
        dx[i] = pc_as_heads(pc_cols(dqkv, at[i] * D, at[i + 1] * D), D);
    }
    const double scale = 1.0 / sqrt((double)D);
    s->ctx.ops->attention_forward(&s->ctx, o, lse, x[0], x[1], x[2], &m, scale);
    s->ctx.grad_ops->attention_backward(&s->ctx, dx[0], dx[1], dx[2], dout, x[0], x[1], x[2], o,
                                        lse, &m, scale);
    emit(s, "o", o);
    emit(s, "lse", lse);
    emit(s, "dqkv", dqkv);
}

// A few query rows a sequence over a cache: each sees a part of its sequence's rows, some a prefix before.
static void attention_cache(side *s)
{
    static const int64_t widths[] = {16, 64, 72, 80, 128, 256}, shares[] = {1, 2, 3, 7, 12};
    const int64_t D = widths[draw(s, 6)], S = 1 + (int64_t)draw(s, 3), G = 1 + (int64_t)draw(s, 2),
                  H = G * shares[draw(s, 5)], room = 64 + (int64_t)draw(s, 1400),
                  Q = 1 + (int64_t)draw(s, 3), N = S * Q, M = S * room;
    const bool prefixes = draw(s, 2);
    pc_mask m;
    pc_mask_alloc(&m, &s->act, S, N, prefixes);
    for (int64_t i = 0; i <= S; i++) {
        pc_i32(m.q_off)[i] = (int32_t)(i * Q);
        pc_i32(m.k_off)[i] = (int32_t)(i * room);
    }
    for (int64_t n = 0; n < N; n++) {
        const int64_t first = n / Q * room, lo = (int64_t)draw(s, (uint64_t)room),
                      before = lo > 0 ? (int64_t)draw(s, (uint64_t)lo) : 0;
        pc_i32(m.lo)[n] = (int32_t)(first + (prefixes ? lo : 0));
        pc_i32(m.hi)[n] = (int32_t)(first + lo + 1 + (int64_t)draw(s, (uint64_t)(room - lo)));
        if (!prefixes) continue;
        pc_i32(m.plo)[n] = (int32_t)first;
        pc_i32(m.phi)[n] = (int32_t)(first + before);
    }
    if (draw(s, 4) == 0) { // a row that sees nothing
        pc_i32(m.hi)[0] = pc_i32(m.lo)[0];
        if (prefixes) pc_i32(m.phi)[0] = pc_i32(m.plo)[0];
    }
    const pc_tensor q = NORMAL(s, ROWS, N, H, D), k = NORMAL(s, ROWS, M, G, D),
                    v = NORMAL(s, ROWS, M, G, D);
    const pc_tensor o = NORMAL(s, ROWS, N, H, D), lse = NORMAL(s, WIDE, N, H);
    s->ctx.ops->attention_forward(&s->ctx, o, lse, q, k, v, &m, 1.0 / sqrt((double)D));
    emit(s, "o", o);
    emit(s, "lse", lse);
}

// Windows or whole images of a tower with relative positions: grids of a x b, heads in a fused buffer.
static void relative(side *s)
{
    static const int64_t widths[] = {3, 16, 32, 64, 80, 128};
    const int64_t D = widths[draw(s, 6)], H = 1 + (int64_t)draw(s, 3), a = 1 + (int64_t)draw(s, 15),
                  b = 1 + (int64_t)draw(s, 15), B = 1 + (int64_t)draw(s, 3), N = B * a * b;
    const double scale = 1.0 / sqrt((double)D);
    const pc_tensor qkv = NORMAL(s, ROWS, N, 3 * H * D), d = NORMAL(s, ROWS, N, 3 * H * D);
    pc_tensor x[3], dx[3];
    for (int i = 0; i < 3; i++) {
        x[i] = pc_as_heads(pc_cols(qkv, i * H * D, (i + 1) * H * D), D);
        dx[i] = pc_as_heads(pc_cols(d, i * H * D, (i + 1) * H * D), D);
    }
    const pc_tensor th = NORMAL_BY(s, ROWS, 0.3, 2 * a - 1, D),
                    tw = NORMAL_BY(s, ROWS, 0.3, 2 * b - 1, D);
    const pc_tensor rh = NORMAL(s, ROWS, N, H, a), rw = NORMAL(s, ROWS, N, H, b),
                    o = NORMAL(s, ROWS, N, H, D), dout = NORMAL(s, ROWS, N, H, D),
                    lse = NORMAL(s, WIDE, N, H);
    pc_mask m;
    pc_mask_full(&m, &s->act, B, a * b, a * b, 0);
    s->ctx.ops->rel_terms_forward(&s->ctx, rh, rw, x[0], th, tw);
    emit(s, "rh", rh);
    emit(s, "rw", rw);
    // Attention is given terms of its own: what rel_terms rounds differs between the sides.
    const pc_tensor gh = NORMAL(s, ROWS, N, H, a), gw = NORMAL(s, ROWS, N, H, b),
                    drh = NORMAL(s, ROWS, N, H, a), drw = NORMAL(s, ROWS, N, H, b);
    s->ctx.ops->rel_attention_forward(&s->ctx, o, lse, x[0], x[1], x[2], gh, gw, &m, scale);
    s->ctx.grad_ops->rel_attention_backward(&s->ctx, dx[0], dx[1], dx[2], drh, drw, dout, x[0],
                                            x[1], x[2], gh, gw, o, lse, &m, scale);
    emit(s, "o", o);
    emit(s, "lse", lse);
    emit(s, "dqkv", d);
    if (a * b > 1) { // one key alone is seen whole: no gradient but what is rounded
        emit(s, "drh", a > 1 ? drh : drw);
        emit(s, "drw", b > 1 ? drw : drh);
    }
    const pc_tensor dq = NORMAL(s, ROWS, N, H, D),
                    dth = NORMAL(s, draw(s, 2) ? ROWS : WIDE, 2 * a - 1, D),
                    dtw = NORMAL(s, WIDE, 2 * b - 1, D), add = NORMAL(s, ROWS, N, H, D);
    s->ctx.grad_ops->rel_terms_backward(&s->ctx, dq, dth, dtw, gh, gw, x[0], th, tw,
                                        draw(s, 2) ? add : PC_NONE);
    emit(s, "dq", dq);
    emit(s, "dth", dth);
    emit(s, "dtw", dtw);
    if (draw(s, 2))
        s->ctx.grad_ops->rel_terms_backward(&s->ctx, add, PC_NONE, PC_NONE, gh, gw, x[0], th, tw,
                                            add);
    emit(s, "dq in place", add);
}

static void rows(side *s)
{
    const int64_t N = size(s, 300) * (draw(s, 2) ? 1 : 7), R = size(s, 100), C = size(s, 300);
    const pc_tensor table = NORMAL(s, ROWS, R, C), ids = index_of(s, N, R, true),
                    some = index_of(s, N, R, false);
    const pc_tensor y = NORMAL(s, ROWS, N, C), y2 = NORMAL(s, ROWS, N, C),
                    y3 = NORMAL(s, ROWS, N, C), x = NORMAL(s, ROWS, N, C);
    s->ctx.ops->embedding_forward(&s->ctx, y, ids, table);
    s->ctx.ops->add_rows_forward(&s->ctx, y2, x, table, ids);
    s->ctx.ops->gather_forward(&s->ctx, y3, table, some);
    emit(s, "embedding", y);
    emit(s, "add_rows", y2);
    emit(s, "gather", y3);
    const pc_tensor d1 = NORMAL(s, either(s), R, C), d2 = NORMAL(s, either(s), R, C),
                    d3 = NORMAL(s, ROWS, R, C);
    s->ctx.grad_ops->embedding_backward(&s->ctx, d1, x, ids);
    s->ctx.grad_ops->add_rows_backward(&s->ctx, d2, x, ids);
    s->ctx.grad_ops->gather_backward(&s->ctx, d3, x, some);
    emit(s, "dtable", d1);
    emit(s, "dtable of add_rows", d2);
    emit(s, "dx of gather", d3);
    // Splice: no row twice.
    const pc_tensor f = NORMAL(s, ROWS, R, C), to = NORMAL(s, ROWS, 2 * R, C),
                    df = NORMAL(s, ROWS, R, C), index = pc_alloc1(&s->act, PC_I32, R);
    for (int64_t i = 0; i < R; i++)
        pc_i32(index)[i] = draw(s, 5) == 0 ? -1 : (int32_t)(2 * i + (int64_t)draw(s, 2));
    s->ctx.ops->splice_forward(&s->ctx, to, f, index);
    s->ctx.grad_ops->splice_backward(&s->ctx, df, to, index);
    emit(s, "splice", to);
    emit(s, "df of splice", df);
}

// What stands between the products of decoding, of few rows and as in inference.
static void small(side *s)
{
    const int64_t N = 1 + (int64_t)draw(s, 9),
                  C = draw(s, 4) ? 8 * (1 + (int64_t)draw(s, 900)) : 1 + size(s, 300),
                  H = 1 + (int64_t)draw(s, 5), D = 8 * (1 + (int64_t)draw(s, 16)), R = 50;
    const pc_grad_ops *const grad_ops = s->ctx.grad_ops;
    s->ctx.grad_ops = NULL;
    const pc_tensor x = NORMAL(s, ROWS, N, C), g = NORMAL(s, WIDE, C), rstd = NORMAL(s, WIDE, N),
                    gu = NORMAL(s, ROWS, N, 2 * C);
    const pc_tensor y = NORMAL(s, ROWS, N, C), h = NORMAL(s, ROWS, N, C),
                    to = NORMAL(s, ROWS, 40, C);
    const pc_tensor fused = NORMAL(s, ROWS, N, 3 * H * D), cosines = NORMAL(s, WIDE, R, D / 2),
                    sines = NORMAL(s, WIDE, R, D / 2);
    const pc_tensor pos = index_of(s, N, R, false), write = index_of(s, N, 4, true);
    const pc_tensor heads = pc_as_heads(pc_cols(fused, 0, 2 * H * D), D);
    for (int64_t n = 0; n < N; n++)
        pc_i32(write)[n] = pc_i32(write)[n] < 0 ? -1 : (int32_t)(4 * n + pc_i32(write)[n]);
    s->ctx.ops->rmsnorm_forward(&s->ctx, y, rstd, x, g, 1e-6);
    s->ctx.ops->swiglu_forward(&s->ctx, h, gu);
    s->ctx.ops->splice_forward(&s->ctx, to, y, write);
    s->ctx.ops->rope_forward(&s->ctx, heads, heads, cosines, sines, pos);
    emit(s, "rmsnorm", y);
    emit(s, "rstd", rstd);
    emit(s, "swiglu", h);
    emit(s, "splice", to);
    emit(s, "rope in place", fused);
    s->ctx.grad_ops = grad_ops;
}

// A large copy from pageable memory and back, in pieces: every byte, and how fast.
static int upload(void)
{
    const size_t bytes = ((size_t)48 << 20) + 12345;
    const pc_memory *m = pc_cuda_memory();
    uint32_t *host = malloc(bytes + 8), *back = malloc(bytes + 8);
    unsigned char *device = m->get(bytes);
    if (!host || !back || !device) abort();
    int bad = 0;
    double best = INFINITY;
    for (uint32_t turn = 0; turn < 3; turn++) {
        for (size_t i = 0; i < bytes / 4 + 1; i++) host[i] = (uint32_t)i * 2654435761u + turn;
        const double start = pc_seconds();
        m->copy(device, host, bytes);
        memset(host, 0, bytes / 2); // it is the host's again
        m->wait();
        const double seconds = pc_seconds() - start;
        best = seconds < best ? seconds : best;
        m->copy(back, device, bytes);
        m->wait();
        for (size_t i = 0; i < bytes / 4; i++) bad += back[i] != (uint32_t)i * 2654435761u + turn;
    }
    printf("%s %-12s       %d numbers of a large copy differ, %.1f GB/s\n",
           bad ? "FAILED" : "ok    ", "upload", bad, (double)bytes / best / 1e9);
    m->put(device);
    free(host);
    free(back);
    return bad != 0;
}

// The likeliest id among many that are alike, with what must not be taken among them.
static void choose(side *s)
{
    const int64_t N = size(s, 20), C = size(s, 300) * size(s, 300),
                  most = 1 + (int64_t)draw(s, (uint64_t)C);
    const pc_tensor ids = pc_alloc1(&s->act, PC_I32, N), log = pc_alloc2(&s->act, PC_I32, 3, N),
                    line = pc_alloc1(&s->act, PC_I32, 1), got = pc_alloc2(&s->act, PC_F64, 4, N);
    double *values = malloc((size_t)(N * C) * sizeof *values);
    if (!values) abort();
    for (int64_t i = 0; i < N * C; i++) values[i] = (double)draw(s, 50) - 25.0;
    for (int64_t n = 0; n < N; n++) {
        const int kind_of = (int)draw(s, 6);
        double *at = &values[n * C + (int64_t)draw(s, (uint64_t)C)];
        if (kind_of == 0) *at = (double)NAN;
        if (kind_of == 1) *at = (double)INFINITY;
        for (int64_t v = 0; v < C && kind_of == 2; v++) values[n * C + v] = -(double)INFINITY;
    }
    const pc_tensor z = place(s, WIDE, values, 1.0, 2, (int64_t[]){N, C});
    memset(log.data, 0, (size_t)(3 * N) * sizeof(int32_t));
    pc_i32(line)[0] = 0;
    s->ctx.ops->advance_forward(&s->ctx, line, 2);
    s->ctx.ops->argmax_forward(&s->ctx, ids, log, line, z, most);
    if (s->gpu) s->act.memory->wait();
    for (int64_t n = 0; n < N; n++) ((double *)got.data)[n] = (double)pc_i32(ids)[n];
    for (int64_t n = 0; n < 3 * N; n++) ((double *)got.data)[N + n] = (double)pc_i32(log)[n];
    emit(s, "ids and log", got);
    free(values);
}

static void elementwise(side *s)
{
    const int64_t N = size(s, 300), C = size(s, 300);
    pc_tensor whole;
    const pc_tensor a = strided(s, N, C, &whole), b = NORMAL(s, ROWS, N, C),
                    y = NORMAL(s, ROWS, N, C), y2 = NORMAL(s, ROWS, N, C);
    const pc_tensor y3 = NORMAL(s, ROWS, N, C), y4 = NORMAL(s, ROWS, N, C),
                    g = NORMAL(s, either(s), N, C);
    const pc_rng_key key = {.seed = 5, .stream = PC_STREAM_DROPOUT, .step = draw(s, 100)};
    s->ctx.ops->add_forward(&s->ctx, y, a, b);
    s->ctx.ops->scale_forward(&s->ctx, y2, a, -1.75);
    s->ctx.ops->copy_forward(&s->ctx, y3, a);
    s->ctx.ops->dropout_forward(&s->ctx, y4, b, 0.3, key);
    s->ctx.grad_ops->dropout_backward(&s->ctx, b, b, 0.3, key);
    s->ctx.grad_ops->accumulate(&s->ctx, g, y3);
    s->ctx.ops->zero_forward(&s->ctx, a);
    emit(s, "add", y);
    emit(s, "scale", y2);
    emit(s, "copy", y3);
    emit(s, "dropout", y4);
    emit(s, "dropout's backward", b);
    emit(s, "accumulate", g);
    emit(s, "zero of columns", whole);
}

static void image(side *s)
{
    const bool last = draw(s, 2);
    pc_conv v = {.B = 1 + (int64_t)draw(s, 3),
                 .C = 1 + (int64_t)draw(s, 9),
                 .H = 6 + (int64_t)draw(s, 20),
                 .W = 6 + (int64_t)draw(s, 20),
                 .kernel = 1 + (int64_t)draw(s, 4),
                 .step = 1 + (int64_t)draw(s, 3),
                 .pad = (int64_t)draw(s, 2),
                 .channels_last = last};
    v.out_h = (v.H + 2 * v.pad - v.kernel) / v.step + 1;
    v.out_w = (v.W + 2 * v.pad - v.kernel) / v.step + 1;
    const int64_t N = v.B * v.out_h * v.out_w, K = v.C * v.kernel * v.kernel;
    const pc_tensor x =
        last ? NORMAL(s, ROWS, v.B * v.H * v.W, v.C) : NORMAL(s, either(s), v.B, v.C, v.H, v.W);
    const pc_tensor dx =
        last ? NORMAL(s, ROWS, v.B * v.H * v.W, v.C) : NORMAL(s, ROWS, v.B, v.C, v.H, v.W);
    const pc_tensor cols = NORMAL(s, ROWS, N, K), dcols = NORMAL(s, ROWS, N, K);
    s->ctx.ops->im2col_forward(&s->ctx, cols, x, &v);
    s->ctx.grad_ops->im2col_backward(&s->ctx, dx, dcols, &v);
    emit(s, "im2col", cols);
    emit(s, "dx of im2col", dx);
    const int64_t h1 = 1 + (int64_t)draw(s, 9), w1 = 1 + (int64_t)draw(s, 9),
                  h2 = 1 + (int64_t)draw(s, 9), w2 = 1 + (int64_t)draw(s, 9), C = size(s, 70);
    const pc_tensor t = NORMAL(s, ROWS, h1 * w1, C), y = NORMAL(s, ROWS, h2 * w2, C),
                    dt = NORMAL(s, either(s), h1 * w1, C), dy = NORMAL(s, ROWS, h2 * w2, C);
    s->ctx.ops->resize_grid_forward(&s->ctx, y, t, h2, w2, h1, w1);
    s->ctx.grad_ops->resize_grid_backward(&s->ctx, dt, dy, h2, w2, h1, w1);
    emit(s, "resize_grid", y);
    emit(s, "dx of resize_grid", dt);
    const pc_tensor m = NORMAL(s, ROWS, 2 * h1 * w1, C), my = NORMAL(s, ROWS, 2 * h2 * w2, C),
                    dm = NORMAL(s, ROWS, 2 * h1 * w1, C), dmy = NORMAL(s, ROWS, 2 * h2 * w2, C);
    s->ctx.ops->resize_map_forward(&s->ctx, my, m, h2, w2, h1, w1);
    s->ctx.grad_ops->resize_map_backward(&s->ctx, dm, dmy, h2, w2, h1, w1);
    emit(s, "resize_map", my);
    emit(s, "dx of resize_map", dm);
}

static void losses(side *s)
{
    const int64_t N = size(s, 300), C = 8 + size(s, 100), V = 2 + size(s, 2000),
                  B = 1 + size(s, 300), E = 8 + size(s, 100);
    const pc_tensor x = NORMAL(s, ROWS, N, C), w = NORMAL_BY(s, ROWS, 0.3, V, C),
                    labels = index_of(s, N, V, true), coef = NORMAL(s, WIDE, N);
    const pc_tensor nll = NORMAL(s, WIDE, N), dx = NORMAL(s, ROWS, N, C),
                    dw = NORMAL(s, either(s), V, C), nll2 = NORMAL(s, WIDE, N);
    s->ctx.ops->linear_xent_forward(&s->ctx, nll, x, w, labels);
    s->ctx.grad_ops->linear_xent_backward(&s->ctx, dx, dw, nll2, x, w, labels, coef);
    emit(s, "nll", nll);
    emit(s, "nll again", nll2);
    emit(s, "dx of nll", dx);
    emit(s, "dw of nll", dw);
    const pc_tensor a = NORMAL(s, ROWS, B, E), b = NORMAL(s, ROWS, B, E), u = NORMAL(s, WIDE, B, E),
                    v = NORMAL(s, WIDE, B, E);
    const pc_tensor ia = NORMAL(s, WIDE, B), ib = NORMAL(s, WIDE, B), t = NORMAL(s, WIDE, 1),
                    bias = NORMAL(s, WIDE, 1);
    s->ctx.ops->l2norm_forward(&s->ctx, u, ia, a);
    s->ctx.ops->l2norm_forward(&s->ctx, v, ib, b);
    const pc_tensor loss = pc_alloc1(&s->act, PC_F64, 1), row = NORMAL(s, WIDE, B),
                    column = NORMAL(s, WIDE, B);
    const pc_tensor du = NORMAL(s, WIDE, B, E), dv = NORMAL(s, WIDE, B, E), dt = NORMAL(s, WIDE, 1),
                    db = NORMAL(s, WIDE, 1), da = NORMAL(s, ROWS, B, E);
    // The losses are given rows of their own: what l2norm rounds differs between the sides.
    const pc_tensor p = NORMAL_BY(s, WIDE, 0.15, B, E), q = NORMAL_BY(s, WIDE, 0.15, B, E),
                    dunit = NORMAL(s, WIDE, B, E);
    const bool sigmoid = draw(s, 2);
    if (sigmoid) {
        s->ctx.ops->sigmoid_loss_forward(&s->ctx, loss, p, q, t, bias);
        s->ctx.grad_ops->sigmoid_loss_backward(&s->ctx, du, dv, dt, db, p, q, t, bias, 1.5);
    } else {
        s->ctx.ops->clip_loss_forward(&s->ctx, loss, row, column, p, q, t);
        s->ctx.grad_ops->clip_loss_backward(&s->ctx, du, dv, dt, p, q, t, row, column, 1.5);
    }
    s->ctx.grad_ops->l2norm_backward(&s->ctx, da, dunit, u, ia);
    emit(s, "u", u);
    emit(s, "loss", loss);
    emit(s, "du", du);
    emit(s, "dv", dv);
    emit(s, "da", da);
    emit(s, "db", db);
}

// Few scores at a time: what a batch of tens of thousands, or a vocabulary as large, goes through.
static void chunks(side *s)
{
    setenv("PERCEPT_CUDA_CHUNK", "40000", 1);
    losses(s);
    unsetenv("PERCEPT_CUDA_CHUNK");
}

static void optimiser(side *s)
{
    const int64_t n = size(s, 300) * size(s, 300);
    const pc_tensor w = NORMAL(s, WIDE, n), m = NORMAL(s, WIDE, n), g = NORMAL(s, WIDE, n),
                    v = NORMAL(s, WIDE, n), out = pc_alloc1(&s->act, PC_F64, 1);
    s->ctx.ops->scale_forward(&s->ctx, v, v, 0.0);
    s->ctx.grad_ops->accumulate(&s->ctx, v, g);
    s->ctx.ops->act_forward(&s->ctx, v, v, PC_ACT_RELU); // second moments are not negative
    const pc_adamw hyper = {.lr = 1e-2,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8,
                            .weight_decay = 0.1,
                            .correct1 = 0.19,
                            .correct2 = 0.0975,
                            .grad_scale = 0.5};
    *(double *)out.data = 1.0;
    s->ctx.grad_ops->square_sum(&s->ctx, out, g);
    s->ctx.grad_ops->adamw(&s->ctx, w, m, v, g, &hyper);
    emit(s, "w", w);
    emit(s, "m", m);
    emit(s, "v", v);
    emit(s, "square_sum", out);
}

// ---- comparison --------------------------------------------------------------------------------------

static double value(const side *s, pc_tensor x, const void *host, int64_t i)
{
    (void)s;
    if (x.dtype == PC_F64) return ((const double *)host)[i];
    if (x.dtype == PC_F32) return (double)((const float *)host)[i];
    const uint32_t u = (uint32_t)((const uint16_t *)host)[i] << 16;
    float v;
    memcpy(&v, &u, sizeof v);
    return (double)v;
}

static double error_of(side *gpu, side *cpu, int i)
{
    const pc_tensor a = gpu->out[i], b = cpu->out[i];
    const int64_t n =
        a.rank == 2 ? a.dim[0] * a.stride : pc_numel(a); // whole rows of what is dense here
    unsigned char *host = malloc((size_t)n * 8 + 8);
    if (!host) abort();
    gpu->act.memory->copy(host, a.data, (size_t)pc_numel(a) * pc_dtype_size(a.dtype));
    gpu->act.memory->wait();
    double top = 0.0, low = 0.0;
    for (int64_t k = 0; k < pc_numel(a); k++) {
        const double x = value(gpu, a, host, k), y = value(cpu, b, b.data, k);
        const bool same = x == y || (isinf(y) && x == y);
        top += same ? 0.0 : (x - y) * (x - y);
        low += isinf(y) ? 0.0 : y * y;
    }
    free(host);
    return low > 0.0 ? sqrt(top / low) : sqrt(top);
}

static void run_side(side *s, void (*f)(side *), uint64_t seed)
{
    pc_arena_release(&s->act, 0);
    pc_arena_release(&s->scratch, 0);
    s->ctx.act = &s->act;
    s->ctx.scratch = &s->scratch;
    s->key = (pc_rng_key){.seed = seed, .stream = PC_STREAM_TEST};
    s->drawn = 0;
    s->outs = 0;
    f(s);
}

static size_t bytes_of(pc_tensor x)
{
    return (size_t)pc_numel(x) * pc_dtype_size(x.dtype);
}

// How many of a case's results are not the same bytes when it runs again.
static int differing(side *gpu, void (*run)(side *), uint64_t seed)
{
    unsigned char *first[EMITS];
    int differ = 0;
    for (int i = 0; i < gpu->outs; i++) {
        if (!(first[i] = malloc(bytes_of(gpu->out[i]) + 1))) abort();
        gpu->act.memory->copy(first[i], gpu->out[i].data, bytes_of(gpu->out[i]));
    }
    gpu->act.memory->wait();
    run_side(gpu, run, seed);
    for (int i = 0; i < gpu->outs; i++) {
        const size_t bytes = bytes_of(gpu->out[i]);
        unsigned char *again = malloc(bytes + 1);
        if (!again) abort();
        gpu->act.memory->copy(again, gpu->out[i].data, bytes);
        gpu->act.memory->wait();
        differ += memcmp(again, first[i], bytes) != 0;
        free(again);
        free(first[i]);
    }
    return differ;
}

static void open_side(side *s, bool gpu, bool half)
{
    *s = (side){.gpu = gpu, .half = half};
    if (pc_arena_open_in(&s->act, "test", gpu ? pc_cuda_memory() : NULL, ROOM * (gpu ? 4 : 16),
                         gpu ? ROOM / 4 : 0) ||
        pc_arena_open_in(&s->scratch, "scratch", gpu ? pc_cuda_memory() : NULL, ROOM,
                         gpu ? ROOM / 4 : 0)) {
        fprintf(stderr, "%s\n", pc_error_text());
        exit(1);
    }
    s->ctx = (pc_ctx){.ops = gpu ? pc_cuda_ops() : pc_cpu_ops(PC_ISA_REF, PC_F64),
                      .grad_ops = gpu ? pc_cuda_grad_ops() : pc_cpu_grad_ops(PC_ISA_REF, PC_F64),
                      .real = !gpu   ? PC_F64
                              : half ? PC_BF16
                                     : PC_F32};
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(side *);
        double half; // 0: f32 alone
    } cases[] = {
        {"linear", linear, 1e-2},
        {"act", act, 1e-2},
        {"stored", stored, 1e-2},
        {"choose", choose, 1e-2},
        {"small", small, 1e-2},
        {"linear_act", linear_act, 1e-2},
        {"swiglu", swiglu, 1e-2},
        {"layernorm", layernorm, 1e-2},
        {"rmsnorm", rmsnorm, 1e-2},
        {"rope", rope, 1e-2},
        {"attention", attention, 1e-2},
        {"tiles", attention_tiles, 1e-2},
        {"short", attention_short, 1e-2},
        {"long", attention_long, 1e-2},
        {"cache", attention_cache, 1e-2},
        {"relative", relative, 1e-2},
        {"rows", rows, 1e-2},
        {"elementwise", elementwise, 1e-2},
        {"image", image, 1e-2},
        {"losses", losses, 1e-2},
        {"chunks", chunks, 1e-2},
        {"optimiser", optimiser, 0.0},
    };
    const int repeats = argc > 1 ? atoi(argv[1]) : 20;
    pc_cuda_info info;
    if (pc_cuda_open(&info)) {
        const char *need = getenv("PERCEPT_NEED_GPU");
        printf("%s: %s\n", need ? "FAILED" : "skipped", pc_error_text());
        return need != NULL;
    }
    printf("%s, compute capability %d.%d\n", info.name, info.major, info.minor);
    side gpu, cpu;
    int failures = upload();
    for (int half = 0; half < 2; half++) {
        open_side(&gpu, true, half);
        open_side(&cpu, false, half);
        for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
            const double limit = half ? cases[c].half : 1e-5;
            double worst = 0.0;
            const char *where = "";
            int bad = 0;
            if (limit == 0.0 || (argc > 2 && strcmp(argv[2], cases[c].name) != 0)) continue;
            for (int r = 0; r < repeats; r++) {
                run_side(&gpu, cases[c].run, (uint64_t)(SEED + r));
                run_side(&cpu, cases[c].run, (uint64_t)(SEED + r));
                const int differ = differing(&gpu, cases[c].run, (uint64_t)(SEED + r));
                if (differ && bad++ < 5)
                    printf("FAILED %s, seed %d: %d results differ from run to run\n", cases[c].name,
                           SEED + r, differ);
                for (int i = 0; i < gpu.outs; i++) {
                    const double e = error_of(&gpu, &cpu, i);
                    if (!(e <= worst)) {
                        worst = e;
                        where = gpu.names[i];
                    }
                    if (!(e <= limit)) {
                        if (bad++ < 5)
                            printf("FAILED %s, seed %d: %s is off by %.1e\n", cases[c].name,
                                   SEED + r, gpu.names[i], e);
                    }
                }
            }
            printf("%s %-12s %s  worst %.1e of %.0e (%s), %d cases\n", bad ? "FAILED" : "ok    ",
                   cases[c].name, half ? "bf16" : "f32 ", worst, limit, where, repeats);
            failures += bad;
        }
        pc_arena_close(&gpu.act);
        pc_arena_close(&gpu.scratch);
        pc_arena_close(&cpu.act);
        pc_arena_close(&cpu.scratch);
    }
    return failures > 0;
}

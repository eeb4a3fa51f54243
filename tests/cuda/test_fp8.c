/*
 * test_fp8.c - products in eight bits on a GPU that has them (ops/fp8.h).
 *
 *   casts     every number as it lies and turned, against rounding in double; the largest; what lies around is left alone
 *   scales    a table's histories and scales over steps, against the rule; steps that see nothing; NaN and inf
 *   products  against double: of the numbers as they were cast (what is wrong there is the arithmetic), and of the numbers
 *             themselves (what eight bits cost); matrices in parts, residuals, bias, sums onto what is there
 *   without   what does not qualify gives the bytes of bf16
 *
 * Without such a GPU the test says so and passes over; with PERCEPT_NEED_GPU=1 it fails where there is no GPU at all.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/quant.h"
#include "model/core/rng.h"
#include "model/ops/cuda/cuda.h"

static const pc_memory *memory;
static pc_ctx ctx;
static pc_arena arena, scratch;
static int failures, cases;
static uint64_t drawn;

static void verdict(bool ok, const char *fmt, const char *what, double a, double b)
{
    cases++;
    if (ok) return;
    failures++;
    printf("FAILED %s: ", what);
    printf(fmt, a, b);
    printf("\n");
}

static double normal(void)
{
    const pc_rng_key key = {.seed = 5, .stream = PC_STREAM_TEST};
    return pc_rng_normal(&key, 4 * drawn++);
}

// ---- rounding, in double ---------------------------------------------------------------------------

typedef struct small {
    int mantissa, bias;
    double most;
} small;
static const small kinds[] = {{3, 7, 448.0}, {2, 15, 57344.0}};

// To the nearest, ties to even; the largest beyond it.
static double round_to(small k, double v)
{
    int e;
    if (v == 0.0) return v;
    frexp(fabs(v), &e); // v = f 2^e, f from a half on
    e = e - 1 < 1 - k.bias ? 1 - k.bias : e - 1;
    const double r = ldexp(nearbyint(ldexp(v, k.mantissa - e)), e - k.mantissa);
    return fabs(r) > k.most ? copysign(k.most, v) : r;
}

static double value_of(small k, unsigned char b)
{
    const int sign = b >> 7, e = (b & 0x7f) >> k.mantissa, m = b & ((1 << k.mantissa) - 1);
    const bool five = k.mantissa == 2;
    if (five ? e == 31 : (b & 0x7f) == 0x7f) return m == 0 && five ? INFINITY : NAN;
    const double a = e == 0 ? ldexp(m, 1 - k.bias - k.mantissa)
                            : ldexp(m + (1 << k.mantissa), e - k.bias - k.mantissa);
    return sign ? -a : a;
}

// The largest power of two that keeps `largest` within the type.
static double scale_of(small k, double largest)
{
    int e = 60;
    while (e > -60 && largest * ldexp(1.0, e) > k.most) e--;
    return ldexp(1.0, e);
}

// ---- numbers ---------------------------------------------------------------------------------------

static void *fetch(const void *from, size_t bytes)
{
    void *to = malloc(bytes + 1);
    if (!to) abort();
    memory->copy(to, from, bytes);
    memory->wait();
    return to;
}

static void send(void *to, const void *from, size_t bytes)
{
    memory->copy(to, from, bytes);
    memory->wait();
}

// Numbers on the device, and the same in double.
typedef struct matrix {
    pc_tensor x;
    double *v;
} matrix;

static matrix random_matrix(pc_dtype t, int64_t N, int64_t C, int64_t stride, double by)
{
    matrix m = {.x = pc_alloc2(&arena, t, N, stride)};
    const size_t size = pc_dtype_size(t), n = (size_t)(N * stride);
    unsigned char *host = calloc(n, size);
    m.v = calloc((size_t)(N * C) + 1, sizeof *m.v);
    if (!host || !m.v) abort();
    for (int64_t i = 0; i < N * stride; i++) {
        float f = (float)(by * normal());
        const uint16_t half = pc_f32_to_bf16(f);
        if (t == PC_BF16) {
            f = pc_bf16_to_f32(half);
            memcpy(host + 2 * i, &half, 2);
        } else {
            memcpy(host + 4 * i, &f, 4);
        }
        if (i % stride < C) m.v[i / stride * C + i % stride] = (double)f;
    }
    send(m.x.data, host, n * size);
    free(host);
    m.x = pc_cols(m.x, 0, C);
    return m;
}

static double *numbers(pc_tensor x)
{
    const int64_t N = x.dim[0], C = x.rank == 1 ? 1 : x.dim[1], stride = x.stride;
    const size_t size = pc_dtype_size(x.dtype);
    unsigned char *host = fetch(x.data, (size_t)((N - 1) * stride + C) * size);
    double *v = calloc((size_t)(N * C) + 1, sizeof *v);
    if (!v) abort();
    for (int64_t i = 0; i < N * C; i++) {
        const int64_t at = i / C * stride + i % C;
        float f;
        uint16_t half;
        if (x.dtype == PC_BF16) {
            memcpy(&half, host + 2 * at, 2);
            f = pc_bf16_to_f32(half);
        } else {
            memcpy(&f, host + 4 * at, 4);
        }
        v[i] = (double)f;
    }
    free(host);
    return v;
}

static double largest_of(const double *v, int64_t n)
{
    double top = 0.0;
    for (int64_t i = 0; i < n; i++) top = fabs(v[i]) > top ? fabs(v[i]) : top;
    return top;
}

// v as the device multiplies it, under a scale.
static double *as_cast(const double *v, int64_t n, small k, double scale)
{
    double *r = calloc((size_t)n + 1, sizeof *r);
    if (!r) abort();
    for (int64_t i = 0; i < n; i++) r[i] = round_to(k, v[i] * scale) / scale;
    return r;
}

static double distance(const double *a, const double *b, int64_t n)
{
    double top = 0.0, low = 0.0;
    for (int64_t i = 0; i < n; i++) {
        top += (a[i] - b[i]) * (a[i] - b[i]);
        low += b[i] * b[i];
    }
    return sqrt(top / (low > 0.0 ? low : 1.0));
}

// ---- casts -----------------------------------------------------------------------------------------

enum { GUARD = 64, FILL = 0x55 };

static int64_t wrong_bytes(const unsigned char *got, const double *v, int64_t N, int64_t C,
                           bool turned, small k, double scale)
{
    const int64_t M = turned ? pc_fp8_turned(N) : C;
    int64_t wrong = 0;
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++) {
            const double g = value_of(k, turned ? got[c * M + n] : got[n * C + c]),
                         x = v[n * C + c];
            const bool finite = isfinite(x);
            const double want = finite ? round_to(k, x * scale) : NAN;
            wrong += finite ? !(g == want && signbit(g) == signbit(want)) : !isnan(g);
        }
    for (int64_t c = 0; turned && c < C; c++)
        for (int64_t n = N; n < M; n++) wrong += got[c * M + n] != 0;
    for (int i = 0; i < GUARD; i++) wrong += got[(turned ? C * M : N * C) + i] != FILL;
    return wrong;
}

static void cast_case(int64_t N, int64_t C, int64_t stride, pc_fp8_kind kind, int ways, float scale,
                      bool odd)
{
    char what[128];
    const small k = kinds[kind];
    matrix m = random_matrix(PC_BF16, N, C, stride, 3.0);
    if (odd) { // inf, -inf and NaN
        const uint16_t special[] = {0x7f80, 0xff80, 0x7fc1};
        const double same[] = {INFINITY, -INFINITY, NAN};
        for (int i = 0; i < 3; i++) {
            const int64_t at = i * 5 % C;
            send((uint16_t *)m.x.data + at, &special[i], 2);
            m.v[at] = same[i];
        }
    }
    const size_t bytes[] = {(size_t)(N * C) + GUARD, (size_t)(C * pc_fp8_turned(N)) + GUARD};
    unsigned char *at[2], *fill = malloc(bytes[0] + bytes[1]);
    int32_t *largest = pc_arena_numbers(&arena, 2 * sizeof *largest), start[] = {-1, 0};
    float *by = pc_arena_numbers(&arena, sizeof *by);
    if (!fill) abort();
    memset(fill, FILL, bytes[0] + bytes[1]);
    for (int i = 0; i < 2; i++) {
        at[i] = pc_arena_numbers(&arena, bytes[i]);
        send(at[i], fill, bytes[i]);
    }
    free(fill);
    send(largest, start, sizeof start);
    send(by, &scale, sizeof scale);
    pc_cuda_fp8_cast(ways & 1 ? at[0] : NULL, ways & 2 ? at[1] : NULL, largest, m.x, by, kind);
    pc_cuda_fp8_largest(largest + 1, m.x);
    snprintf(what, sizeof what, "cast %lld x %lld of %lld to %s, ways %d%s", (long long)N,
             (long long)C, (long long)stride, kind == PC_E4M3 ? "E4M3" : "E5M2", ways,
             odd ? ", with inf and NaN" : "");
    for (int i = 0; i < 2; i++) {
        unsigned char *got = fetch(at[i], bytes[i]);
        int64_t wrong = 0;
        if (ways & (1 << i))
            wrong = wrong_bytes(got, m.v, N, C, i == 1, k, (double)scale);
        else
            for (size_t b = 0; b < bytes[i]; b++) wrong += got[b] != FILL;
        verdict(wrong == 0, i ? "%.0f wrong of %.0f turned" : "%.0f wrong of %.0f", what,
                (double)wrong, (double)(N * C));
        free(got);
    }
    int32_t *bits = fetch(largest, 2 * sizeof *largest);
    for (int i = 0; i < 2; i++) {
        float f;
        memcpy(&f, &bits[i], sizeof f);
        verdict(odd ? isnan(f) : (double)f == largest_of(m.v, N * C), "largest is %g, not %g", what,
                (double)f, largest_of(m.v, N * C));
    }
    free(bits);
    free(m.v);
    pc_arena_release(&arena, pc_arena_begin(&arena));
}

static void casts(void)
{
    static const int64_t rows[] = {1, 15, 16, 129, 300, 577}, widths[] = {16, 64, 144, 1040};
    static const float scales[] = {1.0f, 64.0f, 1024.0f, 0x1p-9f, 0x1p30f};
    int n = 0;
    for (int r = 0; r < 6; r++)
        for (int c = 0; c < 4; c++)
            for (int kind = 0; kind < 2; kind++)
                for (int ways = 1; ways < 4; ways++, n++)
                    cast_case(rows[r], widths[c], widths[c] + (n % 2 ? 24 : 0), (pc_fp8_kind)kind,
                              ways, scales[n % 5], n % 7 == 3);
}

// ---- a table ---------------------------------------------------------------------------------------

typedef struct table {
    pc_fp8 f;
    pc_fp8_matrix list[2];
} table;

static void open_table(table *t, const pc_tensor *w, int count, bool frozen)
{
    const int n = PC_FP8_OPERANDS * count;
    *t = (table){.f = {.list = t->list, .count = count}};
    for (int i = 0; i < count; i++) {
        const size_t bytes = (size_t)pc_numel(w[i]);
        t->list[i] = (pc_fp8_matrix){.w = w[i], .frozen = frozen};
        t->list[i].rows = pc_arena_numbers(&arena, bytes);
        t->list[i].turned = pc_arena_numbers(&arena, bytes);
    }
    float zeros[2 * PC_FP8_OPERANDS * PC_FP8_HISTORY] = {0};
    int32_t none[2 * PC_FP8_OPERANDS];
    for (int i = 0; i < n; i++) none[i] = -1;
    const size_t history = (size_t)(n * PC_FP8_HISTORY) * sizeof(float);
    t->f.history = pc_arena_numbers(&arena, history);
    t->f.scale = pc_arena_numbers(&arena, (size_t)n * sizeof(float));
    t->f.inverse = pc_arena_numbers(&arena, (size_t)(n * PC_FP8_APART) * sizeof(float));
    t->f.largest = pc_arena_numbers(&arena, (size_t)n * sizeof(int32_t));
    t->f.probe = pc_arena_numbers(&arena, sizeof(int32_t));
    send(t->f.history, zeros, history);
    send(t->f.largest, none, (size_t)n * sizeof(int32_t));
    pc_cuda_fp8_next(&t->f);
}

static small kind_of(int operand)
{
    return kinds[operand == PC_FP8_DY];
}

static void check_scales(const table *t, double history[][PC_FP8_HISTORY], const char *what)
{
    const int n = PC_FP8_OPERANDS * t->f.count;
    float *h = fetch(t->f.history, (size_t)(n * PC_FP8_HISTORY) * sizeof *h),
          *s = fetch(t->f.scale, (size_t)n * sizeof *s),
          *r = fetch(t->f.inverse, (size_t)(n * PC_FP8_APART) * sizeof *r);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < PC_FP8_HISTORY; k++)
            verdict((double)h[i * PC_FP8_HISTORY + k] == history[i][k], "history %g, not %g", what,
                    (double)h[i * PC_FP8_HISTORY + k], history[i][k]);
        const double top = largest_of(history[i], PC_FP8_HISTORY);
        if (top == 0.0) continue;
        const double want = scale_of(kind_of(i % PC_FP8_OPERANDS), top);
        verdict((double)s[i] == want, "scale %g, not %g", what, (double)s[i], want);
        verdict((double)r[i * PC_FP8_APART] == 1.0 / want, "inverse %g, not %g", what,
                (double)r[i * PC_FP8_APART], 1.0 / want);
    }
    free(h);
    free(s);
    free(r);
}

static void note(double *history, double largest)
{
    memmove(history + 1, history, (PC_FP8_HISTORY - 1) * sizeof *history);
    history[0] = largest > (double)FLT_MIN ? largest : (double)FLT_MIN;
}

// Twenty steps of one matrix whose operands grow and shrink; some steps have no backward pass, one only NaN.
static void scales(void)
{
    enum { N = 48, I = 64, O = 32, STEPS = 2 * PC_FP8_HISTORY + 8 };
    double history[PC_FP8_OPERANDS][PC_FP8_HISTORY] = {{0}};
    table t;
    const matrix w = random_matrix(PC_BF16, O, I, I, 0.1);
    const size_t mark = arena.used;
    open_table(&t, &w.x, 1, false);
    ctx.fp8 = &t.f;
    const size_t inner = pc_arena_mark(&arena);
    for (int step = 0; step < STEPS; step++) {
        char what[64];
        snprintf(what, sizeof what, "scales, step %d", step);
        const double by = step < 4 ? pow(10.0, step - 2) : step % 9 == 5 ? 0.0 : exp(normal());
        const matrix x = random_matrix(PC_BF16, N, I, I, by),
                     dy = random_matrix(PC_BF16, N, O, O, by * 1e-4);
        const matrix y = random_matrix(PC_BF16, N, O, O, 1.0),
                     dx = random_matrix(PC_BF16, N, I, I, 1.0);
        const bool blind = step == 11, forward_only = step % 5 == 3, nothing = step % 13 == 6;
        if (blind) {
            const uint16_t nan = 0x7fc0;
            send((uint16_t *)x.x.data + 7, &nan, sizeof nan);
        }
        if (!nothing) ctx.ops->linear_forward(&ctx, y.x, x.x, w.x, PC_NONE, PC_NONE);
        if (!nothing && !forward_only)
            ctx.grad_ops->linear_backward(&ctx, dx.x, PC_NONE, PC_NONE, dy.x, x.x, w.x, false);
        pc_cuda_fp8_next(&t.f);
        if (!nothing && !blind) note(history[PC_FP8_X], largest_of(x.v, N * I));
        if (!nothing) note(history[PC_FP8_W], largest_of(w.v, O * I));
        if (!nothing && !forward_only) note(history[PC_FP8_DY], largest_of(dy.v, N * O));
        check_scales(&t, history, what);
        free(x.v), free(y.v), free(dx.v), free(dy.v);
        pc_arena_release(&arena, inner);
    }
    (void)mark;
    ctx.fp8 = NULL;
    free(w.v);
    pc_arena_release(&arena, pc_arena_begin(&arena));
}

// ---- products --------------------------------------------------------------------------------------

// y (N,O) = x W^T + b + r;  dx = dy W;  dw = dy^T x + before.
static double *product(const double *x, const double *w, const double *b, const double *r,
                       int64_t N, int64_t I, int64_t O)
{
    double *y = calloc((size_t)(N * O) + 1, sizeof *y);
    if (!y) abort();
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) {
            double sum = (b ? b[o] : 0.0) + (r ? r[n * O + o] : 0.0);
            for (int64_t i = 0; i < I; i++) sum += x[n * I + i] * w[o * I + i];
            y[n * O + o] = sum;
        }
    return y;
}

static double *turned(const double *x, int64_t N, int64_t C)
{
    double *y = calloc((size_t)(N * C) + 1, sizeof *y);
    if (!y) abort();
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++) y[c * N + n] = x[n * C + c];
    return y;
}

static double
    worst[2][2]; // of y, of gradients: against numbers as cast, against the numbers themselves

// Frees what it is given but `got`.
static void compare(int gradient, const double *got, double *cast_want, double *want, int64_t n,
                    const char *what)
{
    static const double limits[2][2] = {{6e-3, 5e-2}, {6e-3, 8e-2}};
    const double e[2] = {distance(got, cast_want, n), distance(got, want, n)};
    for (int i = 0; i < 2; i++) {
        verdict(e[i] <= limits[gradient][i], "off by %.1e, %.0e allowed", what, e[i],
                limits[gradient][i]);
        if (!(e[i] <= worst[gradient][i])) worst[gradient][i] = e[i];
    }
    free(cast_want);
    free(want);
}

typedef struct operands {
    double scale[PC_FP8_OPERANDS];
    double *x, *w, *dy; // as cast
} operands;

static void product_case(int64_t N, int64_t I, int64_t O, int64_t from, int64_t to, bool frozen,
                         pc_dtype gradient)
{
    char what[160];
    const int64_t P = to - from; // the outputs looked at
    const matrix w = random_matrix(PC_BF16, O, I, I, 1.0 / sqrt((double)I)),
                 b = random_matrix(PC_F32, 1, P, P, 1.0);
    const pc_tensor part = pc_rows(w.x, from, to), bias = pc_view1(b.x.data, PC_F32, P);
    const double *wv = w.v + from * I;
    table t;
    open_table(&t, &w.x, 1, frozen);
    ctx.fp8 = &t.f;
    double top[PC_FP8_OPERANDS] = {0};
    for (int step = 0; step < 2;
         step++) { // by its own largest numbers, then by those of the step before
        const double by = step ? 0.9 : 1.0;
        matrix x = random_matrix(PC_BF16, N, I, I + 8, 2.0 * by),
               dy = random_matrix(PC_BF16, N, P, P + 16, 1e-5 * by);
        matrix y = random_matrix(PC_BF16, N, P, P + 8, 1.0),
               z = random_matrix(PC_BF16, N, P, P, 1.0), a = random_matrix(PC_BF16, N, P, P, 1.0),
               dx = random_matrix(PC_BF16, N, I, I, 1.0),
               dw = random_matrix(gradient, P, I, I, 1e-4);
        if (!step) {
            top[PC_FP8_X] = largest_of(x.v, N * I);
            top[PC_FP8_W] = largest_of(w.v, O * I);
            top[PC_FP8_DY] = largest_of(dy.v, N * P);
        }
        double scale[PC_FP8_OPERANDS];
        for (int k = 0; k < PC_FP8_OPERANDS; k++) scale[k] = scale_of(kind_of(k), top[k]);
        double *x8 = as_cast(x.v, N * I, kinds[0], scale[PC_FP8_X]),
               *w8 = as_cast(wv, P * I, kinds[0], scale[PC_FP8_W]),
               *dy8 = as_cast(dy.v, N * P, kinds[1], scale[PC_FP8_DY]);

        snprintf(what, sizeof what, "(%lld,%lld) by rows %lld to %lld of %lld%s, step %d, y",
                 (long long)N, (long long)I, (long long)from, (long long)to, (long long)O,
                 frozen ? ", frozen" : "", step);
        ctx.ops->linear_forward(&ctx, y.x, x.x, part, bias, y.x);
        double *got = numbers(y.x);
        compare(0, got, product(x8, w8, b.v, y.v, N, I, P), product(x.v, wv, b.v, y.v, N, I, P),
                N * P, what);
        free(got);
        strcat(what, " as z");
        ctx.ops->linear_act_forward(&ctx, a.x, z.x, x.x, part, bias, PC_ACT_RELU);
        got = numbers(z.x);
        compare(0, got, product(x8, w8, b.v, NULL, N, I, P), product(x.v, wv, b.v, NULL, N, I, P),
                N * P, what);
        double *relu = numbers(a.x);
        int64_t off = 0;
        for (int64_t i = 0; i < N * P; i++) off += relu[i] != (got[i] > 0.0 ? got[i] : 0.0);
        verdict(off == 0, "%.0f of %.0f of a are not f(z)", what, (double)off, (double)(N * P));
        free(relu), free(got);

        strcat(what, ", gradients");
        ctx.grad_ops->linear_backward(&ctx, dx.x, dw.x, PC_NONE, dy.x, x.x, part, false);
        double *wt = turned(wv, P, I), *wt8 = turned(w8, P, I), *xt = turned(x.v, N, I),
               *xt8 = turned(x8, N, I), *dyt = turned(dy.v, N, P), *dyt8 = turned(dy8, N, P);
        got = numbers(dx.x);
        compare(1, got, product(dy8, wt8, NULL, NULL, N, P, I),
                product(dy.v, wt, NULL, NULL, N, P, I), N * I, what);
        free(got);
        got = numbers(dw.x);
        compare(1, got, product(dyt8, xt8, NULL, dw.v, P, N, I),
                product(dyt, xt, NULL, dw.v, P, N, I), P * I, what);
        free(got);
        free(wt), free(wt8), free(xt), free(xt8), free(dyt), free(dyt8), free(x8), free(w8),
            free(dy8);
        free(x.v), free(dy.v), free(y.v), free(z.v), free(a.v), free(dx.v), free(dw.v);
        pc_cuda_fp8_next(&t.f);
    }
    ctx.fp8 = NULL;
    free(w.v), free(b.v);
    pc_arena_release(&arena, pc_arena_begin(&arena));
}

static void products(void)
{
    static const int64_t sizes[][3] = {{16, 16, 16},  {17, 64, 192},   {333, 96, 64},
                                       {64, 256, 96}, {300, 1040, 48}, {129, 64, 512},
                                       {2000, 80, 80}};
    for (int i = 0; i < 7; i++) {
        const int64_t *s = sizes[i];
        product_case(s[0], s[1], s[2], 0, s[2], i % 3 == 2, i % 2 ? PC_F32 : PC_BF16);
        if (s[2] >= 48)
            product_case(s[0], s[1], s[2], 16, s[2], i % 3 == 1, i % 2 ? PC_BF16 : PC_F32);
    }
    printf("products: of numbers as cast at most %.1e, gradients %.1e; of the numbers themselves "
           "%.1e, %.1e\n",
           worst[0][0], worst[1][0], worst[0][1], worst[1][1]);
}

// ---- what does not qualify -------------------------------------------------------------------------

static void same_case(int64_t N, int64_t I, int64_t O, bool listed, int64_t first, const char *what)
{
    unsigned char *bytes[2][3];
    const size_t start = drawn;
    const int64_t P = O - first;
    for (int with = 0; with < 2; with++) {
        drawn = start;
        const matrix w = random_matrix(PC_BF16, O, I, I, 0.1),
                     other = random_matrix(PC_BF16, O, I, I, 0.1),
                     x = random_matrix(PC_BF16, N, I, I, 1.0),
                     dy = random_matrix(PC_BF16, N, P, P, 1.0),
                     y = random_matrix(PC_BF16, N, P, P, 1.0),
                     dx = random_matrix(PC_BF16, N, I, I, 1.0),
                     dw = random_matrix(PC_F32, P, I, I, 1.0);
        const pc_tensor part = pc_rows(w.x, first, O);
        table t;
        if (with) {
            open_table(&t, listed ? &w.x : &other.x, 1, false);
            ctx.fp8 = &t.f;
        }
        ctx.ops->linear_forward(&ctx, y.x, x.x, part, PC_NONE, PC_NONE);
        ctx.grad_ops->linear_backward(&ctx, dx.x, dw.x, PC_NONE, dy.x, x.x, part, false);
        bytes[with][0] = fetch(y.x.data, (size_t)(2 * N * P));
        bytes[with][1] = fetch(dx.x.data, (size_t)(2 * N * I));
        bytes[with][2] = fetch(dw.x.data, (size_t)(4 * P * I));
        ctx.fp8 = NULL;
        free(w.v), free(other.v), free(x.v), free(dy.v), free(y.v), free(dx.v), free(dw.v);
        pc_arena_release(&arena, pc_arena_begin(&arena));
    }
    const size_t sizes[] = {(size_t)(2 * N * P), (size_t)(2 * N * I), (size_t)(4 * P * I)};
    for (int i = 0; i < 3; i++) {
        const bool same = !memcmp(bytes[0][i], bytes[1][i], sizes[i]);
        verdict(same, "result %.0f of %.0f is not that of bf16", what, (double)i, 3.0);
        free(bytes[0][i]), free(bytes[1][i]);
    }
}

int main(void)
{
    pc_cuda_info info;
    if (pc_cuda_open(&info)) {
        const char *need = getenv("PERCEPT_NEED_GPU");
        printf("%s: %s\n", need ? "FAILED" : "skipped", pc_error_text());
        return need != NULL;
    }
    if (10 * info.major + info.minor < 89) {
        printf("skipped: %s has no eight bits\n", info.name);
        return 0;
    }
    memory = pc_cuda_memory();
    if (pc_arena_open_in(&arena, "test", memory, (size_t)256 << 20, (size_t)1 << 20) ||
        pc_arena_open_in(&scratch, "scratch", memory, (size_t)64 << 20, (size_t)1 << 20)) {
        printf("FAILED: %s\n", pc_error_text());
        return 1;
    }
    ctx = (pc_ctx){.ops = pc_cuda_ops(),
                   .grad_ops = pc_cuda_grad_ops(),
                   .real = PC_BF16,
                   .act = &arena,
                   .scratch = &scratch};
    casts();
    printf("casts: %d looked at\n", cases);
    scales();
    products();
    same_case(15, 64, 64, true, 0, "few rows");
    same_case(64, 56, 64, true, 0, "a width of 56");
    same_case(64, 64, 72, true, 0, "72 outputs");
    same_case(64, 64, 64, true, 8, "outputs from 8 on");
    same_case(64, 64, 64, false, 0, "a matrix that is not listed");
    pc_arena_close(&arena);
    pc_arena_close(&scratch);
    printf("%s: %d of %d wrong on %s\n", failures ? "FAILED" : "ok", failures, cases, info.name);
    return failures > 0;
}

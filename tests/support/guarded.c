/*
 * guarded.c - guarded pairs of tensors (guarded.h).
 */
#include "tests/support/guarded.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BORDER = 67 }; // odd: rows start unaligned

// Inputs are of order one: where sums cancel to less than this, rounding is measured against this.
#define FLOOR 0.03

static const float guard = 12345.675f;

static void fill(float *memory, const guarded *g, float scale, uint64_t seed)
{
    const pc_rng_key key = {seed, PC_STREAM_TEST, 0};
    const int64_t width = pc_row_len(g->ref);
    for (int64_t i = 0; i < g->count; i++) memory[i] = guard;
    for (int64_t n = 0; n < g->ref.dim[0]; n++)
        for (int64_t c = 0; c < width; c++) {
            const double u = pc_rng_uniform(&key, (uint64_t)(n * width + c));
            memory[BORDER + n * g->ref.stride + c] = (float)(2.0 * u - 1.0) * scale;
        }
}

static guarded open_like(pc_tensor shape, int64_t gap, float scale, uint64_t seed)
{
    guarded g = {.ref = shape, .simd = shape};
    g.ref.stride = g.simd.stride = shape.rank == 1 ? 1 : pc_row_len(shape) + gap;
    g.count = 2 * BORDER + shape.dim[0] * g.ref.stride;
    for (int i = 0; i < 2; i++) {
        g.memory[i] = malloc((size_t)g.count * sizeof(float));
        if (!g.memory[i]) abort();
        fill(g.memory[i], &g, scale, seed);
    }
    g.ref.data = g.memory[0] + BORDER;
    g.simd.data = g.memory[1] + BORDER;
    return g;
}

guarded guarded_open(int64_t rows, int64_t width, int64_t gap, float scale, uint64_t seed)
{
    return open_like(pc_view2(NULL, PC_F32, rows, width), gap, scale, seed);
}

guarded guarded_vector(int64_t n, float scale, uint64_t seed)
{
    return open_like(pc_view1(NULL, PC_F32, n), 0, scale, seed);
}

guarded guarded_heads(int64_t rows, int64_t heads, int64_t D, int64_t gap, float scale,
                      uint64_t seed)
{
    return open_like(pc_view3(NULL, PC_F32, rows, heads, D), gap, scale, seed);
}

void guarded_close(guarded *g)
{
    free(g->memory[0]);
    free(g->memory[1]);
    *g = (guarded){0};
}

static bool intact(const float *memory, const guarded *g)
{
    const int64_t width = pc_row_len(g->ref);
    for (int64_t i = 0; i < g->count; i++) {
        const int64_t at = i - BORDER, row = at >= 0 ? at / g->ref.stride : -1;
        const bool inside = at >= 0 && row < g->ref.dim[0] && at - row * g->ref.stride < width;
        if (!inside && memcmp(&memory[i], &guard, sizeof guard) != 0) return false;
    }
    return true;
}

static struct seen {
    char what[48];
    double error, tolerance;
} seen[64];

static void remember(const char *what, double error, double tolerance)
{
    struct seen *s = seen;
    while (s < seen + 63 && s->what[0] && strcmp(s->what, what)) s++;
    snprintf(s->what, sizeof s->what, "%s", what);
    if (!(error <= s->error)) s->error = error;
    s->tolerance = tolerance;
}

bool guarded_alike(const char *what, const guarded *g, double tolerance)
{
    double difference = 0.0, size = 0.0;
    for (int64_t n = 0; n < g->ref.dim[0]; n++)
        for (int64_t c = 0; c < pc_row_len(g->ref); c++) {
            const double a = (double)pc_f32(g->ref, n)[c], b = (double)pc_f32(g->simd, n)[c];
            if (isnan(a) && isnan(b)) continue;
            difference += (a - b) * (a - b);
            size += fmax(a * a, FLOOR * FLOOR);
        }
    const double error = difference > 0.0 || isnan(difference) ? sqrt(difference / size) : 0.0;
    remember(what, error, tolerance);
    const bool whole = intact(g->memory[0], g) && intact(g->memory[1], g);
    if (whole && error <= tolerance) return true;
    printf("%s: rows %lld, width %lld: error %.3g, tolerance %.3g%s\n", what,
           (long long)g->ref.dim[0], (long long)pc_row_len(g->ref), error, tolerance,
           whole ? "" : ", WROTE OUTSIDE");
    return false;
}

void guarded_report(void)
{
    for (const struct seen *s = seen; s < seen + 64 && s->what[0]; s++)
        printf("%-24s largest error %.1e of %.0e\n", s->what, s->error, s->tolerance);
}

void sides_open(sides *s, pc_isa isa, pc_pool *pool)
{
    for (int i = 0; i < 4; i++)
        if (pc_arena_open(&s->memory[i], "kernel test", (size_t)512 << 20)) abort();
    s->ref = (pc_ctx){.ops = pc_cpu_ops(PC_ISA_REF, PC_F32),
                      .grad_ops = pc_cpu_grad_ops(PC_ISA_REF, PC_F32),
                      .real = PC_F32,
                      .pool = pool,
                      .act = &s->memory[0],
                      .scratch = &s->memory[1]};
    s->simd = s->ref;
    s->simd.ops = pc_cpu_ops(isa, PC_F32);
    s->simd.grad_ops = pc_cpu_grad_ops(isa, PC_F32);
    s->simd.act = &s->memory[2];
    s->simd.scratch = &s->memory[3];
}

void sides_close(sides *s)
{
    for (int i = 0; i < 4; i++) pc_arena_close(&s->memory[i]);
}

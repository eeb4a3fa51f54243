/*
 * gradcheck.c - central differences in double.
 */
#include "tests/support/gradcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP        1e-5
#define ARENA_BYTES ((size_t)1 << 28) // address space; pages are taken when touched

static double *at(pc_tensor x, int64_t i)
{
    const int64_t len = pc_row_len(x);
    return (double *)x.data + i / len * x.stride + i % len;
}

static void fill_nan(pc_arena *a)
{
    memset(a->base, 0xff, a->peak);
    a->used = 0;
}

void gradcheck_open(gradcheck *g, const char *label, uint64_t seed, int threads)
{
    *g = (gradcheck){.label = label, .seed = seed};
    pc_status st = pc_arena_open(&g->act, "act", ARENA_BYTES);
    st = st ? st : pc_arena_open(&g->scratch, "scratch", ARENA_BYTES);
    st = st ? st : pc_arena_open(&g->hold, "hold", ARENA_BYTES);
    st = st ? st : pc_pool_open(&g->pool, threads);
    PC_ASSERT(!st, "%s", pc_error_text());
    g->ctx = (pc_ctx){.ops = pc_cpu_ops(PC_ISA_REF, PC_F64),
                      .grad_ops = pc_cpu_grad_ops(PC_ISA_REF, PC_F64),
                      .real = PC_F64,
                      .pool = threads > 1 ? g->pool : NULL,
                      .act = &g->act,
                      .scratch = &g->scratch};
}

void gradcheck_close(gradcheck *g)
{
    pc_pool_close(g->pool);
    pc_arena_close(&g->act);
    pc_arena_close(&g->scratch);
    pc_arena_close(&g->hold);
    free(g->var);
    *g = (gradcheck){0};
}

static pc_tensor dense(pc_arena *a, int rank, const int64_t *dim)
{
    pc_tensor x = {.dtype = PC_F64, .rank = rank};
    for (int i = 0; i < rank; i++) x.dim[i] = dim[i];
    x.stride = pc_row_len(x);
    x.data = pc_arena_bytes(a, (size_t)pc_numel(x) * sizeof(double));
    return x;
}

static void randomise(gradcheck *g, pc_tensor x, double mean, double std)
{
    const pc_rng_key key = {.seed = g->seed, .stream = PC_STREAM_TEST, .step = g->draws++};
    const int64_t n = pc_numel(x);
    for (int64_t i = 0; i < n; i++) *at(x, i) = mean + std * pc_rng_normal(&key, (uint64_t)i);
}

pc_tensor gradcheck_random(gradcheck *g, double std, int rank, const int64_t *dim)
{
    pc_tensor x = dense(&g->hold, rank, dim);
    randomise(g, x, 0.0, std);
    return x;
}

pc_tensor gradcheck_index(gradcheck *g, const int32_t *value, int64_t n)
{
    pc_tensor x = pc_alloc1(&g->hold, PC_I32, n);
    memcpy(x.data, value, (size_t)n * sizeof *value);
    return x;
}

gradcheck_var *gradcheck_add(gradcheck *g, const char *name, pc_tensor x, pc_tensor dx,
                             gradcheck_kind kind)
{
    if (g->count == g->capacity) {
        g->capacity = g->capacity ? 2 * g->capacity : 16;
        g->var = realloc(g->var, (size_t)g->capacity * sizeof *g->var);
        PC_ASSERT(g->var, "%d variables", g->capacity);
    }
    gradcheck_var *v = &g->var[g->count++];
    *v = (gradcheck_var){.x = x, .g = dx, .kind = kind};
    snprintf(v->name, sizeof v->name, "%s", name);
    return v;
}

pc_tensor gradcheck_input(gradcheck *g, pc_tensor *dx, const char *name, double std, int rank,
                          const int64_t *dim)
{
    const pc_tensor x = gradcheck_random(g, std, rank, dim);
    *dx = dense(&g->hold, rank, dim);
    gradcheck_add(g, name, x, *dx, GRADCHECK_ACTIVATION);
    return x;
}

pc_weight gradcheck_param(gradcheck *g, const char *name, double std, int rank, const int64_t *dim)
{
    const pc_weight w = {gradcheck_random(g, std, rank, dim), dense(&g->hold, rank, dim)};
    gradcheck_add(g, name, w.w, w.g, GRADCHECK_PARAM);
    return w;
}

void gradcheck_params(gradcheck *g, pc_params *p, double std)
{
    pc_params_bind_weights(p, &g->hold, PC_F64);
    pc_params_bind_grads(p, &g->hold, PC_F64);
    for (int i = 0; i < p->count; i++) {
        const pc_param *q = &p->list[i];
        const double mean = q->init == PC_INIT_ONE     ? 1.0
                            : q->init == PC_INIT_CONST ? q->init_scale
                                                       : 0.0;
        randomise(g, q->weight->w, mean, std);
        if (q->trainable) gradcheck_add(g, q->name, q->weight->w, q->weight->g, GRADCHECK_PARAM);
    }
}

double gradcheck_dot(pc_tensor y, pc_tensor w)
{
    const int64_t n = pc_numel(y);
    PC_ASSERT(n == pc_numel(w), "%lld and %lld elements", (long long)n, (long long)pc_numel(w));
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += *at(y, i) * *at(w, i);
    return sum;
}

pc_tensor gradcheck_copy(pc_arena *a, pc_tensor x)
{
    const pc_tensor y = pc_alloc_like(a, x);
    const int64_t n = pc_numel(x);
    for (int64_t i = 0; i < n; i++) *at(y, i) = *at(x, i);
    return y;
}

double gradcheck_once(gradcheck *g, gradcheck_run *run, void *arg, bool backward)
{
    fill_nan(&g->act);
    fill_nan(&g->scratch);
    return run(&g->ctx, arg, backward);
}

/* What a parameter's gradient held before backward: element i of any variable. */
static double earlier(int64_t i)
{
    return 0.25 + 0.125 * (double)(i % 7);
}

static void differentiate(gradcheck *g, gradcheck_var *v, gradcheck_run *run, void *arg)
{
    const int64_t n = pc_numel(v->x);
    if (!v->numeric) v->numeric = pc_arena_bytes(&g->hold, (size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++) {
        double *x = at(v->x, i);
        const double before = *x;
        *x = before + STEP;
        const double up = *x, loss_up = gradcheck_once(g, run, arg, false);
        *x = before - STEP;
        const double down = *x, loss_down = gradcheck_once(g, run, arg, false);
        *x = before;
        v->numeric[i] = (loss_up - loss_down) / (up - down);
    }
}

static double relative_error(const gradcheck_var *v)
{
    double difference = 0.0, numeric_norm = 0.0, analytic_norm = 0.0;
    const int64_t n = pc_numel(v->x);
    for (int64_t i = 0; i < n; i++) {
        const double numeric = v->numeric[i];
        const double analytic = *at(v->g, i) - (v->kind == GRADCHECK_PARAM ? earlier(i) : 0.0);
        difference += (numeric - analytic) * (numeric - analytic);
        numeric_norm += numeric * numeric;
        analytic_norm += analytic * analytic;
    }
    if (v->zero) return analytic_norm == 0.0 && sqrt(numeric_norm) < 1e-8 ? 0.0 : 1.0;
    // Two zero gradients give 0/0, NaN: a variable that nothing depends on is a mistake of the test.
    return sqrt(difference) / sqrt(fmax(numeric_norm, analytic_norm));
}

bool gradcheck_again(gradcheck *g, gradcheck_run *run, void *arg, double tolerance)
{
    gradcheck_once(g, run, arg, true); // so that the arenas' peaks are known, and can be filled
    for (int k = 0; k < g->count; k++) {
        const gradcheck_var *v = &g->var[k];
        for (int64_t i = 0; i < pc_numel(v->g); i++)
            *at(v->g, i) = v->kind == GRADCHECK_PARAM ? earlier(i) : (double)NAN;
    }
    gradcheck_once(g, run, arg, true);

    bool ok = true;
    g->worst = 0.0;
    const char *worst_name = "-";
    for (int k = 0; k < g->count; k++) {
        const gradcheck_var *v = &g->var[k];
        const double error = relative_error(v);
        if (!(error <= g->worst)) {
            g->worst = error;
            worst_name = v->name;
        }
        if (!(error <= tolerance)) {
            ok = false;
            if (!g->quiet)
                printf("FAILED %s: d %s: relative error %.2e, at most %.0e (seed %llu)\n", g->label,
                       v->name, error, tolerance, (unsigned long long)g->seed);
        }
    }
    if (!g->quiet)
        printf("%s %s: %d variables, worst relative error %.1e (%s)\n", ok ? "ok    " : "FAILED",
               g->label, g->count, g->worst, worst_name);
    fflush(stdout);
    return ok;
}

bool gradcheck_passes(gradcheck *g, gradcheck_run *run, void *arg, double tolerance)
{
    for (int k = 0; k < g->count; k++) differentiate(g, &g->var[k], run, arg);
    return gradcheck_again(g, run, arg, tolerance);
}

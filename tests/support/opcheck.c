/*
 * opcheck.c - see opcheck.h.
 */
#include "tests/support/opcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED  20260u
#define GUARD 0x1p100 // exact in float and in double; no kernel may touch it

static size_t offset_of(pc_tensor x, int64_t i)
{
    const int64_t len = pc_row_len(x);
    return (size_t)(i / len * x.stride + i % len);
}

double op_get(pc_tensor x, int64_t i)
{
    const size_t at = offset_of(x, i);
    return x.dtype == PC_F64 ? ((double *)x.data)[at] : (double)((float *)x.data)[at];
}

void op_set(pc_tensor x, int64_t i, double value)
{
    const size_t at = offset_of(x, i);
    if (x.dtype == PC_F64)
        ((double *)x.data)[at] = value;
    else
        ((float *)x.data)[at] = (float)value;
}

double op_dot(pc_tensor y, pc_tensor w)
{
    const int64_t n = pc_numel(y);
    PC_ASSERT(n == pc_numel(w), "%lld and %lld elements", (long long)n, (long long)pc_numel(w));
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += op_get(y, i) * op_get(w, i);
    return sum;
}

void op_scale(pc_tensor x, double factor)
{
    const int64_t n = pc_numel(x);
    for (int64_t i = 0; i < n; i++) op_set(x, i, op_get(x, i) * factor);
}

static pc_tensor place(pc_arena *a, pc_dtype type, int64_t pad, int rank, const int64_t *dim)
{
    pc_tensor x = {.dtype = type, .rank = rank};
    for (int i = 0; i < rank; i++) x.dim[i] = dim[i];
    x.stride = pc_row_len(x) + (rank > 1 ? pad : 0);
    x.data = pc_arena_bytes(a, (size_t)(x.dim[0] * x.stride) * pc_dtype_size(type));
    return x;
}

// The guards are everything between the rows; set them, or count those that changed.
static int64_t guards(pc_tensor x, bool set)
{
    int64_t broken = 0;
    pc_tensor all = x;
    all.rank = 1;
    all.dim[0] = x.dim[0] * x.stride;
    all.stride = 1;
    for (int64_t n = 0; n < x.dim[0]; n++)
        for (int64_t i = pc_row_len(x); i < x.stride; i++) {
            if (set) op_set(all, n * x.stride + i, GUARD);
            broken += op_get(all, n * x.stride + i) != GUARD;
        }
    return broken;
}

void *op_state(opcheck *o, size_t bytes)
{
    return memset(pc_arena_bytes(&o->g.hold, bytes), 0, bytes);
}

static void randomise(opcheck *o, pc_tensor x, double mean, double std)
{
    const pc_rng_key key = {.seed = o->g.seed, .stream = PC_STREAM_TEST, .step = o->g.draws++};
    const int64_t n = pc_numel(x);
    for (int64_t i = 0; i < n; i++)
        op_set(x, i, (double)(float)(mean + std * pc_rng_normal(&key, (uint64_t)i)));
}

uint64_t op_draw(opcheck *o, uint64_t below)
{
    const pc_rng_key key = {.seed = o->g.seed, .stream = PC_STREAM_TEST, .step = o->g.draws++};
    return pc_rng_below(&key, 0, below);
}

pc_tensor op_const(opcheck *o, double std, int64_t pad, int rank, const int64_t *dim)
{
    const pc_tensor x = place(&o->g.hold, o->real, pad, rank, dim);
    guards(x, true);
    randomise(o, x, 0.0, std);
    return x;
}

static op_var variable(opcheck *o, const char *name, double mean, double std, int64_t pad, int rank,
                       const int64_t *dim, gradcheck_kind kind)
{
    const op_var v = {place(&o->g.hold, o->real, pad, rank, dim),
                      place(&o->g.hold, o->real, pad, rank, dim)};
    guards(v.x, true);
    guards(v.g, true);
    randomise(o, v.x, mean, std);
    gradcheck_add(&o->g, name, v.x, v.g, kind);
    return v;
}

op_var op_input(opcheck *o, const char *name, double std, int64_t pad, int rank, const int64_t *dim)
{
    return variable(o, name, 0.0, std, pad, rank, dim, GRADCHECK_ACTIVATION);
}

op_var op_param(opcheck *o, const char *name, double mean, double std, int rank, const int64_t *dim)
{
    return variable(o, name, mean, std, 0, rank, dim, GRADCHECK_PARAM);
}

pc_tensor op_index(opcheck *o, const int32_t *value, int64_t n)
{
    return gradcheck_index(&o->g, value, n);
}

pc_tensor op_alloc(pc_ctx *ctx, int64_t pad, int rank, const int64_t *dim)
{
    return place(ctx->act, ctx->real, pad, rank, dim);
}

const pc_grad_ops *opcheck_sound(void)
{
    return pc_cpu_grad_ops(PC_ISA_REF, PC_F64);
}

static bool guards_hold(const opcheck *o, const op_case *c, const char *how)
{
    bool ok = true;
    for (int k = 0; k < o->g.count; k++) {
        const gradcheck_var *v = &o->g.var[k];
        const int64_t x = guards(v->x, false), g = guards(v->g, false);
        if (x == 0 && g == 0) continue;
        printf("FAILED %s, %s (%s): %lld elements around %s and %lld around its gradient written\n",
               c->op, c->label, how, (long long)x, v->name, (long long)g);
        ok = false;
    }
    return ok;
}

static bool derivative_passes(const op_case *c, const pc_grad_ops *ops, bool quiet)
{
    opcheck o = {.real = PC_F64};
    char label[128];
    snprintf(label, sizeof label, "%s, %s", c->op, c->label);
    gradcheck_open(&o.g, label, SEED, 1);
    o.g.quiet = quiet;
    o.g.ctx.grad_ops = ops;
    void *state = c->setup(&o, c->arg);
    bool ok = gradcheck_passes(&o.g, c->run, state, c->derivative);
    ok = guards_hold(&o, c, "double") && ok;
    gradcheck_close(&o.g);
    return ok;
}

// The scalar and every gradient of one run, as doubles.
typedef struct results {
    double loss, *value;
    int64_t count, var_end[64];
    char name[64][PC_NAME_MAX];
    int vars;
} results;

static bool collect(results *r, const op_case *c, pc_dtype real, pc_isa isa, int threads)
{
    opcheck o = {.real = real};
    *r = (results){0};
    gradcheck_open(&o.g, c->label, SEED, threads);
    o.g.ctx.real = real;
    o.g.ctx.ops = pc_cpu_ops(isa, real);
    o.g.ctx.grad_ops = pc_cpu_grad_ops(isa, real);
    void *state = c->setup(&o, c->arg);
    gradcheck_once(&o.g, c->run, state, true); // the arenas' peaks are known, and NaN from here
    for (int k = 0; k < o.g.count; k++) r->count += pc_numel(o.g.var[k].g);
    r->value = malloc((size_t)(r->count + 1) * sizeof *r->value);
    PC_ASSERT(r->value && o.g.count <= 64, "%d variables", o.g.count);
    for (int k = 0; k < o.g.count; k++) {
        const gradcheck_var *v = &o.g.var[k];
        for (int64_t i = 0; i < pc_numel(v->g); i++)
            op_set(v->g, i, v->kind == GRADCHECK_PARAM ? 0.25 : (double)NAN);
    }
    r->loss = gradcheck_once(&o.g, c->run, state, true);
    int64_t at = 0;
    for (int k = 0; k < o.g.count; k++) {
        const gradcheck_var *v = &o.g.var[k];
        for (int64_t i = 0; i < pc_numel(v->g); i++)
            r->value[at++] = op_get(v->g, i) - (v->kind == GRADCHECK_PARAM ? 0.25 : 0.0);
        r->var_end[k] = at;
        snprintf(r->name[k], sizeof r->name[k], "%s", v->name);
    }
    r->vars = o.g.count;
    char how[64];
    snprintf(how, sizeof how, "%s, %s, %d threads", pc_dtype_name(real), pc_isa_name(isa), threads);
    const bool ok = guards_hold(&o, c, how);
    gradcheck_close(&o.g);
    return ok;
}

static bool same_bits(const results *a, const results *b)
{
    return a->count == b->count && !memcmp(&a->loss, &b->loss, sizeof a->loss) &&
           !memcmp(a->value, b->value, (size_t)a->count * sizeof *a->value);
}

// |a - b| / |b| over elements [begin, end); two zeros are equal.
static double distance(const results *a, const results *b, int64_t begin, int64_t end)
{
    double difference = 0.0, norm = 0.0;
    for (int64_t i = begin; i < end; i++) {
        difference += (a->value[i] - b->value[i]) * (a->value[i] - b->value[i]);
        norm += b->value[i] * b->value[i];
    }
    return difference == 0.0 ? 0.0 : sqrt(difference) / sqrt(norm);
}

static bool precision_passes(const op_case *c, pc_isa best)
{
    results yardstick, got, again;
    bool ok = collect(&yardstick, c, PC_F64, PC_ISA_REF, 1);
    for (int isa = PC_ISA_REF; isa <= (int)best; isa++) {
        for (int threads = 1; threads <= 3; threads += 2) {
            ok = collect(&got, c, PC_F32, (pc_isa)isa, threads) && ok;
            collect(&again, c, PC_F32, (pc_isa)isa, threads);
            double worst = fabs(got.loss - yardstick.loss) / (fabs(yardstick.loss) + 1.0);
            const char *name = "the result";
            int64_t begin = 0;
            for (int k = 0; k < got.vars; k++) {
                const double error = distance(&got, &yardstick, begin, got.var_end[k]);
                if (!(error <= worst)) worst = error, name = got.name[k];
                begin = got.var_end[k];
            }
            const bool near = worst <= c->precision, repeats = same_bits(&got, &again);
            printf("%s %s, %s: f32 %s on %d threads against f64: %.1e (%s)%s\n",
                   near && repeats ? "ok    " : "FAILED", c->op, c->label, pc_isa_name((pc_isa)isa),
                   threads, worst, name, repeats ? "" : "; a second run gave other bits");
            ok = ok && near && repeats;
            free(got.value);
            free(again.value);
        }
    }
    free(yardstick.value);
    return ok;
}

static bool mutation_is_caught(const op_mutation *m, const op_case *cases, int case_count)
{
    pc_grad_ops broken = *opcheck_sound();
    m->install(&broken);
    int caught = 0, tried = 0;
    for (int i = 0; i < case_count; i++) {
        if (strcmp(cases[i].op, m->op) != 0 || cases[i].derivative == 0.0) continue;
        tried++;
        caught += !derivative_passes(&cases[i], &broken, true);
    }
    printf("%s %s broken (%s): %d of %d checks fail\n", caught ? "ok    " : "FAILED", m->op,
           m->what, caught, tried);
    return caught > 0;
}

int opcheck_main(const op_case *cases, int case_count, const op_mutation *mutations,
                 int mutation_count)
{
    pc_isa best = PC_ISA_REF;
    const pc_status st = pc_isa_choose(&best);
    PC_ASSERT(!st, "%s", pc_error_text());
    int failed = 0;
    printf("seed %u\n", SEED);
    for (int i = 0; i < case_count; i++) {
        if (cases[i].derivative > 0.0)
            failed += !derivative_passes(&cases[i], opcheck_sound(), false);
        failed += !precision_passes(&cases[i], best);
    }
    for (int i = 0; i < mutation_count; i++)
        failed += !mutation_is_caught(&mutations[i], cases, case_count);
    // Every operation that has cases must have been broken at least once.
    for (int i = 0; i < case_count; i++) {
        bool broken = mutation_count == 0;
        for (int k = 0; k < mutation_count; k++)
            broken = broken || !strcmp(mutations[k].op, cases[i].op);
        if (!broken) {
            printf("FAILED %s: no mutation shows that its check can fail\n", cases[i].op);
            failed++;
        }
    }
    printf("%d failed\n", failed);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/*
 * test_ops_step.c - what has no derivative to check: the optimiser's step, sums, copies, the choice of
 * instructions. Compared with a few lines of double arithmetic, on every instruction set, and AdamW's
 * check is shown to fail when the step is broken.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/ops/cpu/portable_math.h"
#include "tests/support/opcheck.h"

static int failed;

static void expect(bool ok, const char *what, const char *how, double error)
{
    printf("%s %s, %s: error %.1e\n", ok ? "ok    " : "FAILED", what, how, error);
    failed += !ok;
}

static void numbers(opcheck *o, pc_tensor x, double mean, double std)
{
    const pc_rng_key key = {.seed = 8, .stream = PC_STREAM_TEST, .step = o->g.draws++};
    for (int64_t i = 0; i < pc_numel(x); i++)
        op_set(x, i, mean + std * pc_rng_normal(&key, (uint64_t)i));
}

// adamw: n numbers, steps 1 .. 5, against double. The relative error of w - w0, m and v.
static double adamw_error(opcheck *o, const pc_grad_ops *ops, int64_t n)
{
    pc_tensor t[4]; // w, m, v, g
    double *want = op_state(o, (size_t)(4 * n) * sizeof *want), error = 0.0;
    for (int k = 0; k < 4; k++) t[k] = op_const(o, 1.0, 0, PC_DIMS(n));
    for (int64_t i = 0; i < n; i++) {
        op_set(t[1], i, 0.0), op_set(t[2], i, 0.0);
        want[i] = want[3 * n + i] = op_get(t[0], i);
    }
    for (int step = 1; step <= 5; step++) {
        const pc_adamw a = {.lr = 2e-2 / step,
                            .beta1 = 0.9,
                            .beta2 = 0.98,
                            .eps = 1e-6,
                            .weight_decay = 0.1,
                            .correct1 = 1.0 - pow(0.9, step),
                            .correct2 = 1.0 - pow(0.98, step),
                            .grad_scale = 0.5};
        numbers(o, t[3], 0.1, 1.0);
        for (int64_t i = 0; i < n; i++) {
            double *w = want + i, *m = want + n + i, *v = want + 2 * n + i;
            const double g = op_get(t[3], i) * a.grad_scale;
            *w -= a.lr * a.weight_decay * *w;
            *m = a.beta1 * *m + (1.0 - a.beta1) * g;
            *v = a.beta2 * *v + (1.0 - a.beta2) * g * g;
            *w -= a.lr * (*m / a.correct1) / (sqrt(*v / a.correct2) + a.eps);
        }
        ops->adamw(&o->g.ctx, t[0], t[1], t[2], t[3], &a);
    }
    for (int k = 0; k < 3; k++) {
        double difference = 0.0, norm = 0.0;
        for (int64_t i = 0; i < n; i++) {
            const double base = k == 0 ? want[3 * n + i] : 0.0,
                         d = op_get(t[k], i) - want[k * n + i];
            difference += d * d;
            norm += (want[k * n + i] - base) * (want[k * n + i] - base);
        }
        error = fmax(error, sqrt(difference / norm));
    }
    return error;
}

static const pc_grad_ops *sound;
static void adamw_coupled_decay(pc_ctx *ctx, pc_tensor w, pc_tensor m, pc_tensor v, pc_tensor g,
                                const pc_adamw *hyper)
{
    pc_adamw a = *hyper;
    for (int64_t i = 0; i < pc_numel(w); i++)
        op_set(g, i, op_get(g, i) + a.weight_decay * op_get(w, i) / a.grad_scale);
    a.weight_decay = 0.0;
    sound->adamw(ctx, w, m, v, g, &a);
}
static void adamw_uncorrected(pc_ctx *ctx, pc_tensor w, pc_tensor m, pc_tensor v, pc_tensor g,
                              const pc_adamw *hyper)
{
    pc_adamw a = *hyper;
    a.correct2 = 1.0;
    sound->adamw(ctx, w, m, v, g, &a);
}
static void adamw_unclipped(pc_ctx *ctx, pc_tensor w, pc_tensor m, pc_tensor v, pc_tensor g,
                            const pc_adamw *hyper)
{
    pc_adamw a = *hyper;
    a.grad_scale = 1.0;
    sound->adamw(ctx, w, m, v, g, &a);
}

static void adamw_mutations(opcheck *o)
{
    void (*const broken[])(pc_ctx *, pc_tensor, pc_tensor, pc_tensor, pc_tensor,
                           const pc_adamw *) = {adamw_coupled_decay, adamw_uncorrected,
                                                adamw_unclipped};
    const char *const what[] = {"decay through the moments", "no correction of v", "no clipping"};
    sound = o->g.ctx.grad_ops;
    for (int i = 0; i < 3; i++) {
        pc_grad_ops ops = *sound;
        ops.adamw = broken[i];
        const double error = adamw_error(o, &ops, 37);
        expect(!(error <= 1e-12), "adamw broken", what[i], error);
    }
}

static void sums(opcheck *o, const char *how, double tolerance)
{
    pc_ctx *ctx = &o->g.ctx;
    const int64_t sizes[] = {1, 7, 8192, 8193, 100003};
    for (int i = 0; i < 5; i++) {
        const pc_tensor x = op_const(o, 1.0, 0, PC_DIMS(sizes[i]));
        double got = 3.0, want = 3.0; // += into what was there
        for (int64_t k = 0; k < sizes[i]; k++) want += op_get(x, k) * op_get(x, k);
        ctx->grad_ops->square_sum(ctx, pc_view1(&got, PC_F64, 1), x);
        expect(fabs(got - want) <= tolerance * want, "square_sum", how, fabs(got - want) / want);
        op_set(x, sizes[i] - 1, i % 2 ? (double)NAN : (double)INFINITY);
        ctx->grad_ops->square_sum(ctx, pc_view1(&got, PC_F64, 1), x);
        expect(!isfinite(got), "square_sum keeps what is not finite", how, 0.0);
    }
}

// add, accumulate, copy, zero on dense and strided rows, sources and targets the same or not.
static void moves(opcheck *o, const char *how)
{
    pc_ctx *ctx = &o->g.ctx;
    const int64_t shapes[][3] = {{1, 1, 0}, {3, 7, 2}, {5, 17, 0}, {301, 97, 0}, {203, 191, 5}};
    for (int i = 0; i < 5; i++) {
        const int64_t N = shapes[i][0], C = shapes[i][1], pad = shapes[i][2];
        const pc_tensor a = op_const(o, 1.0, pad, PC_DIMS(N, C));
        const pc_tensor b = op_const(o, 1.0, pad ? pad + 1 : 0, PC_DIMS(N, C));
        const pc_tensor y = op_const(o, 1.0, pad, PC_DIMS(N, C));
        int64_t wrong = 0;
        ctx->ops->add_forward(ctx, y, a, b);
        for (int64_t k = 0; k < N * C; k++) {
            const double sum = op_get(a, k) + op_get(b, k);
            wrong += op_get(y, k) != (o->real == PC_F64 ? sum : (double)(float)sum);
        }
        ctx->ops->copy_forward(ctx, y, a);
        for (int64_t k = 0; k < N * C; k++) wrong += op_get(y, k) != op_get(a, k);
        ctx->grad_ops->accumulate(ctx, y, b);
        for (int64_t k = 0; k < N * C; k++) {
            const double sum = op_get(a, k) + op_get(b, k);
            wrong += op_get(y, k) != (o->real == PC_F64 ? sum : (double)(float)sum);
        }
        ctx->ops->copy_forward(ctx, y, a);
        ctx->ops->add_forward(ctx, y, b, y); // y is the second operand
        ctx->ops->add_forward(ctx, y, y, y);
        for (int64_t k = 0; k < N * C; k++) {
            const double sum = op_get(a, k) + op_get(b, k);
            wrong += op_get(y, k) != 2.0 * (o->real == PC_F64 ? sum : (double)(float)sum);
        }
        ctx->ops->zero_forward(ctx, y);
        for (int64_t k = 0; k < N * C; k++) wrong += op_get(y, k) != 0.0;
        for (int64_t n = 0; n < N; n++) // the guards of opcheck.c between the rows
            for (int64_t c = C; c < y.stride; c++)
                wrong +=
                    (o->real == PC_F64 ? ((double *)y.data)[n * y.stride + c]
                                       : (double)((float *)y.data)[n * y.stride + c]) != 0x1p100;
        expect(wrong == 0, "add, accumulate, copy, zero", how, (double)wrong);
    }
}

// dropout's mask is pc_rng_uniform's, element by element.
static void dropout_mask(opcheck *o, const char *how)
{
    pc_ctx *ctx = &o->g.ctx;
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_DROPOUT, .step = 9};
    const pc_tensor x = op_const(o, 1.0, 3, PC_DIMS(31, 13)),
                    y = op_const(o, 1.0, 1, PC_DIMS(31, 13));
    const double p = 0.375; // 1/(1-p) is 1.6
    ctx->ops->dropout_forward(ctx, y, x, p, key);
    int64_t wrong = 0, kept = 0;
    for (int64_t i = 0; i < pc_numel(x); i++) {
        const bool keep = pc_rng_uniform(&key, (uint64_t)i) >= p;
        wrong += !(fabs(op_get(y, i) - (keep ? op_get(x, i) * 1.6 : 0.0)) <= 1e-6);
        kept += keep;
    }
    expect(wrong == 0 && kept > 0 && kept < pc_numel(x), "dropout's mask", how, (double)wrong);
}

// A batch without a supervised row: nll 0, dx 0, dW as it was.
static void nothing_supervised(opcheck *o, const char *how)
{
    pc_ctx *ctx = &o->g.ctx;
    const int32_t ignored[] = {-1, -100, -1};
    const pc_tensor x = op_const(o, 1.0, 1, PC_DIMS(3, 5)), dx = op_const(o, 1.0, 1, PC_DIMS(3, 5));
    const pc_tensor w = op_const(o, 1.0, 0, PC_DIMS(4, 5)), dw = op_const(o, 1.0, 0, PC_DIMS(4, 5));
    const pc_tensor nll = op_const(o, 1.0, 0, PC_DIMS(3)), coef = op_const(o, 1.0, 0, PC_DIMS(3));
    const pc_tensor before = op_const(o, 1.0, 0, PC_DIMS(4, 5)), labels = op_index(o, ignored, 3);
    ctx->ops->copy_forward(ctx, before, dw);
    int64_t wrong = 0;
    ctx->grad_ops->linear_xent_backward(ctx, dx, dw, nll, x, w, labels, coef);
    for (int64_t i = 0; i < 15; i++) wrong += op_get(dx, i) != 0.0;
    for (int64_t i = 0; i < 20; i++) wrong += op_get(dw, i) != op_get(before, i);
    for (int64_t i = 0; i < 3; i++) wrong += op_get(nll, i) != 0.0;
    op_scale(nll, (double)NAN);
    ctx->ops->linear_xent_forward(ctx, nll, x, w, labels);
    for (int64_t i = 0; i < 3; i++) wrong += op_get(nll, i) != 0.0;
    expect(wrong == 0, "linear_xent with nothing supervised", how, (double)wrong);
}

// pc_exp_f32 against libm in double, in units of the last place.
static void exponential(void)
{
    double worst = 0.0;
    for (int64_t i = -87330; i <= 88720; i++) {
        const float x = (float)i * 1e-3f;
        const double want = exp((double)x);
        int exponent;
        frexp(want, &exponent);
        worst = fmax(worst, fabs((double)pc_exp_f32(x) - want) / ldexp(1.0, exponent - 24));
    }
    expect(worst <= 1.0, "exp in float", "units in the last place", worst); // seen 0.97
    const bool ends = pc_exp_f32(-INFINITY) == 0.0f && pc_exp_f32(INFINITY) == INFINITY &&
                      isnan(pc_exp_f32(NAN)) && pc_exp_f32(0.0f) == 1.0f &&
                      pc_exp_f32(89.0f) == INFINITY && pc_exp_f32(-200.0f) == 0.0f &&
                      pc_exp_f32(-100.0f) > 0.0f;
    expect(ends, "exp in float", "ends of the range", 0.0);
}

static void choice(void)
{
    char kept[32] = "";
    const char *asked = getenv("PERCEPT_ISA");
    if (asked) snprintf(kept, sizeof kept, "%s", asked);
    pc_isa isa = PC_ISA_REF;
    setenv("PERCEPT_ISA", "ref", 1);
    expect(!pc_isa_choose(&isa) && isa == PC_ISA_REF, "PERCEPT_ISA", "ref", 0.0);
    setenv("PERCEPT_ISA", "sse9", 1);
    const bool refused = pc_isa_choose(&isa) == PC_ERR_USAGE && strstr(pc_error_text(), "sse9") &&
                         strstr(pc_error_text(), "avx512");
    expect(refused, "PERCEPT_ISA", "an unknown name is an error that names it", 0.0);
    unsetenv("PERCEPT_ISA");
    pc_isa best = PC_ISA_REF;
    expect(!pc_isa_choose(&best), "PERCEPT_ISA", "absent", 0.0);
    for (int i = 0; i < 3; i++) {
        setenv("PERCEPT_ISA", pc_isa_name((pc_isa)i), 1);
        const pc_status st = pc_isa_choose(&isa);
        const bool ok = i <= (int)best ? !st && (int)isa == i : st == PC_ERR_USAGE;
        expect(ok, "PERCEPT_ISA", pc_isa_name((pc_isa)i), 0.0);
    }
    if (asked)
        setenv("PERCEPT_ISA", kept, 1);
    else
        unsetenv("PERCEPT_ISA");
}

// No slot of any table is empty.
static void tables(pc_isa isa, pc_dtype type, const char *how)
{
    const pc_ops *ops = pc_cpu_ops(isa, type);
    const pc_grad_ops *grad = pc_cpu_grad_ops(isa, type);
    int empty = 0;
#define COUNT_FORWARD(name, args)  empty += !ops->name##_forward;
#define COUNT_BACKWARD(name, args) empty += !grad->name##_backward;
#define COUNT_TRAIN(name, args)    empty += !grad->name;
    PC_OP_LIST(COUNT_FORWARD, COUNT_BACKWARD, COUNT_TRAIN)
    expect(empty == 0, "empty slots", how, (double)empty);
}

static void all(pc_isa isa, pc_dtype type, int threads)
{
    char how[64];
    snprintf(how, sizeof how, "%s %s, %d threads", pc_dtype_name(type), pc_isa_name(isa), threads);
    opcheck o = {.real = type};
    gradcheck_open(&o.g, how, 6, threads);
    o.g.ctx.real = type;
    o.g.ctx.ops = pc_cpu_ops(isa, type);
    o.g.ctx.grad_ops = pc_cpu_grad_ops(isa, type);
    tables(isa, type, how);
    const int64_t sizes[] = {1, 37, 70001};
    for (int i = 0; i < 3; i++) {
        const double error = adamw_error(&o, o.g.ctx.grad_ops, sizes[i]);
        expect(error <= (type == PC_F64 ? 1e-12 : 5e-6), "adamw", how, error); // seen 5e-15, 2.6e-6
    }
    if (type == PC_F64) adamw_mutations(&o);
    sums(&o, how, 1e-12); // seen 8e-14
    moves(&o, how);
    dropout_mask(&o, how);
    nothing_supervised(&o, how);
    gradcheck_close(&o.g);
}

int main(void)
{
    pc_isa best = PC_ISA_REF;
    const pc_status st = pc_isa_choose(&best);
    PC_ASSERT(!st, "%s", pc_error_text());
    for (int threads = 1; threads <= 3; threads += 2) {
        all(PC_ISA_REF, PC_F64, threads);
        for (int isa = PC_ISA_REF; isa <= (int)best; isa++) all((pc_isa)isa, PC_F32, threads);
    }
    exponential();
    choice();
    printf("%d failed\n", failed);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/*
 * test_ops_formulas.c - is forward the right function? Small cases whose numbers are known: worked by
 * hand from the formulas of ops.h or published beside them to nine digits. In double, and in float on
 * every instruction set; needs no folder of stored numbers.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/opcheck.h"

typedef struct bench {
    opcheck o;
    pc_ctx *ctx;
    const char *how;
    double tolerance; // of one number x: times (1 + |x|)
    int failed, checks;
} bench;

static pc_tensor given(bench *b, const double *value, int rank, const int64_t *dim)
{
    const pc_tensor x = op_alloc(b->ctx, 2, rank, dim);
    for (int64_t i = 0; i < pc_numel(x); i++) op_set(x, i, value ? value[i] : (double)NAN);
    return x;
}

// Parameters and their gradients are dense.
static pc_tensor weight(bench *b, const double *value, int rank, const int64_t *dim)
{
    const pc_tensor x = op_alloc(b->ctx, 0, rank, dim);
    for (int64_t i = 0; i < pc_numel(x); i++) op_set(x, i, value ? value[i] : 0.0);
    return x;
}

static pc_tensor number(bench *b, double value)
{
    return weight(b, &value, PC_DIMS(1));
}

static void expect(bench *b, const char *what, pc_tensor got, const double *want)
{
    for (int64_t i = 0; i < pc_numel(got); i++) {
        const double error = fabs(op_get(got, i) - want[i]) / (1.0 + fabs(want[i]));
        b->checks++;
        if (error <= b->tolerance) continue;
        printf("FAILED %s, %s: element %lld is %.9f, expected %.9f\n", what, b->how, (long long)i,
               op_get(got, i), want[i]);
        b->failed++;
    }
}

#define NUMBERS(...) ((const double[]){__VA_ARGS__})

static void linear(bench *b)
{
    pc_ctx *ctx = b->ctx;
    // x (2,3), W (2,3): y = x W^T + b + r
    const pc_tensor x = given(b, NUMBERS(1, 2, 3, -1, 0, 2), PC_DIMS(2, 3));
    const pc_tensor w = weight(b, NUMBERS(1, 0, -1, 0.5, 2, 1), PC_DIMS(2, 3));
    const pc_tensor bias = weight(b, NUMBERS(10, -10), PC_DIMS(2));
    const pc_tensor r = given(b, NUMBERS(0.5, 0, 0, 0.25), PC_DIMS(2, 2));
    const pc_tensor y = given(b, NULL, PC_DIMS(2, 2)), a = given(b, NULL, PC_DIMS(2, 2));
    ctx->ops->linear_forward(ctx, y, x, w, PC_NONE, PC_NONE);
    expect(b, "linear", y, NUMBERS(-2, 7.5, -3, 1.5));
    ctx->ops->linear_forward(ctx, y, x, w, bias, r);
    expect(b, "linear with bias and residual", y, NUMBERS(8.5, -2.5, 7, -8.25));
    ctx->ops->linear_act_forward(ctx, a, y, x, w, bias, PC_ACT_RELU);
    expect(b, "linear_act, behind", a, NUMBERS(8, 0, 7, 0));
    const pc_tensor da = given(b, NUMBERS(3, 4, -5, 6), PC_DIMS(2, 2));
    ctx->grad_ops->linear_act_backward(ctx, da, PC_NONE, da, y, PC_ACT_RELU);
    expect(b, "linear_act, gradient", da, NUMBERS(3, 0, -5, 0));
    pc_ctx infer = *ctx;
    infer.grad_ops = NULL;
    infer.ops->linear_act_forward(&infer, a, y, x, w, bias, PC_ACT_RELU);
    expect(b, "linear_act, before", y, NUMBERS(8, -2.5, 7, -8.5));
    const pc_tensor dx = given(b, NULL, PC_DIMS(2, 3)), dw = weight(b, NULL, PC_DIMS(2, 3));
    const pc_tensor db = weight(b, NULL, PC_DIMS(2)),
                    dy = given(b, NUMBERS(1, 0, 2, -1), PC_DIMS(2, 2));
    ctx->grad_ops->linear_backward(ctx, dx, dw, db, dy, x, w, false);
    expect(b, "linear dx", dx, NUMBERS(1, 0, -1, 1.5, -2, -3));
    expect(b, "linear dW", dw, NUMBERS(-1, 2, 7, 1, 0, -2));
    expect(b, "linear db", db, NUMBERS(3, -1));
}

static void activations(bench *b)
{
    static const struct {
        const char *name;
        pc_act kind;
        double f[4], slope[4];
    } at[] = {
        {"GELU",
         PC_ACT_GELU,
         {-0.045500264, -0.154268769, 0.841344746, 2.995950306},
         {-0.085231801, 0.132504875, 1.083315471, 1.011945647}},
        {"GELU tanh",
         PC_ACT_GELU_TANH,
         {-0.045402306, -0.154285990, 0.841191991, 2.996362608},
         {-0.086099257, 0.132630096, 1.082964084, 1.011584167}},
        {"quick",
         PC_ACT_QUICK,
         {-0.064341377, -0.149611563, 0.845795766, 2.981928690},
         {-0.073815354, 0.120778088, 1.067779607, 1.024548324}},
        {"SiLU",
         PC_ACT_SILU,
         {-0.238405844, -0.188770334, 0.731058579, 2.857722381},
         {-0.090784249, 0.260038813, 0.927670512, 1.088104106}},
        {"ReLU", PC_ACT_RELU, {0, 0, 1, 3}, {0, 0, 1, 1}},
    };
    pc_ctx *ctx = b->ctx;
    const pc_tensor z = given(b, NUMBERS(-2, -0.5, 1, 3), PC_DIMS(1, 4));
    const pc_tensor one = given(b, NUMBERS(1, 1, 1, 1), PC_DIMS(1, 4)),
                    out = given(b, NULL, PC_DIMS(1, 4));
    for (int i = 0; i < 5; i++) {
        ctx->ops->act_forward(ctx, out, z, at[i].kind);
        expect(b, at[i].name, out, at[i].f);
        ctx->grad_ops->act_backward(ctx, out, one, z, at[i].kind);
        expect(b, at[i].name, out, at[i].slope);
    }
    const pc_tensor gu = given(b, NUMBERS(1, -2, 2, 0.5), PC_DIMS(1, 4)),
                    h = given(b, NULL, PC_DIMS(1, 2));
    ctx->ops->swiglu_forward(ctx, h, gu);
    expect(b, "swiglu", h, NUMBERS(2 * 0.731058579, 0.5 * -0.238405844));
}

// Far out nothing overflows, and NaN is not hidden.
static void activations_far_out(bench *b)
{
    static const pc_act kinds[] = {PC_ACT_GELU, PC_ACT_GELU_TANH, PC_ACT_QUICK, PC_ACT_SILU,
                                   PC_ACT_RELU};
    pc_ctx *ctx = b->ctx;
    const pc_tensor z = given(b, NUMBERS(-1e4, 1e4, -200, 200), PC_DIMS(1, 4));
    const pc_tensor one = given(b, NUMBERS(1, 1, 1, 1), PC_DIMS(1, 4)),
                    out = given(b, NULL, PC_DIMS(1, 4));
    const pc_tensor bad = given(b, NUMBERS(1, NAN, 2, 3), PC_DIMS(1, 4));
    for (int i = 0; i < 5; i++) {
        ctx->ops->act_forward(ctx, out, z, kinds[i]);
        expect(b, "act far out", out, NUMBERS(0, 1e4, 0, 200));
        ctx->grad_ops->act_backward(ctx, out, one, z, kinds[i]);
        expect(b, "act' far out", out, NUMBERS(0, 1, 0, 1));
        ctx->ops->act_forward(ctx, out, bad, kinds[i]);
        b->failed += !isnan(op_get(out, 1)) || isnan(op_get(out, 0)) || isnan(op_get(out, 2));
    }
}

static void norms(bench *b)
{
    pc_ctx *ctx = b->ctx;
    const pc_tensor x = given(b, NUMBERS(1, 2, 3, 4), PC_DIMS(1, 4)),
                    y = given(b, NULL, PC_DIMS(1, 4));
    const pc_tensor one = weight(b, NUMBERS(1, 1, 1, 1), PC_DIMS(4)),
                    g = weight(b, NUMBERS(1, 2, -1, 0), PC_DIMS(4));
    const pc_tensor zero = weight(b, NULL, PC_DIMS(4)),
                    shift = weight(b, NUMBERS(0, 1, 0, 5), PC_DIMS(4));
    const pc_tensor mean = weight(b, NULL, PC_DIMS(1)), rstd = weight(b, NULL, PC_DIMS(1));
    ctx->ops->rmsnorm_forward(ctx, y, rstd, x, one, 1e-5);
    expect(b, "rmsnorm", y, NUMBERS(0.365148128, 0.730296256, 1.095444385, 1.460592513));
    ctx->ops->rmsnorm_forward(ctx, y, rstd, x, g, 1e-5);
    expect(b, "rmsnorm with gain", y, NUMBERS(0.365148128, 1.460592512, -1.095444385, 0));
    ctx->ops->layernorm_forward(ctx, y, mean, rstd, x, one, zero, 1e-5);
    expect(b, "layernorm", y, NUMBERS(-1.34163542, -0.447211807, 0.447211807, 1.34163542));
    ctx->ops->layernorm_forward(ctx, y, mean, rstd, x, g, shift, 1e-5);
    expect(b, "layernorm with gain and bias", y,
           NUMBERS(-1.34163542, 0.105576386, -0.447211807, 5));
    expect(b, "layernorm's mean", mean, NUMBERS(2.5));
    const pc_tensor v = given(b, NUMBERS(3, 4, 0, 0), PC_DIMS(2, 2)),
                    unit = given(b, NULL, PC_DIMS(2, 2));
    const pc_tensor inv = weight(b, NULL, PC_DIMS(2));
    ctx->ops->l2norm_forward(ctx, unit, inv, v);
    expect(b, "l2norm, and of a row of zeros", unit, NUMBERS(0.6, 0.8, 0, 0));
}

static void rotary(bench *b)
{
    pc_ctx *ctx = b->ctx;
    const pc_tensor x = given(b, NUMBERS(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), PC_DIMS(1, 1, 8));
    const pc_tensor y = given(b, NULL, PC_DIMS(1, 1, 8));
    const pc_tensor cosine = weight(b, NULL, PC_DIMS(4, 4)), sine = weight(b, NULL, PC_DIMS(4, 4));
    for (int64_t i = 0; i < 16; i++) {
        const double angle = (double)(i / 4) * pow(1e4, -2.0 * (double)(i % 4) / 8.0);
        op_set(cosine, i, cos(angle));
        op_set(sine, i, sin(angle));
    }
    const pc_tensor pos = op_index(&b->o, (const int32_t[]){3}, 1);
    ctx->ops->rope_forward(ctx, y, x, cosine, sine, pos);
    expect(b, "rope", y,
           NUMBERS(-0.169559254, 0.013755174, 0.278868160, 0.397598204, -0.480884247, 0.632305935,
                   0.708683674, 0.801196398));
}

static void attention(bench *b)
{
    pc_ctx *ctx = b->ctx;
    // One query sees two keys; a second one sees nothing.
    const pc_tensor q = given(b, NUMBERS(2, 7), PC_DIMS(2, 1, 1)),
                    k = given(b, NUMBERS(1, 0), PC_DIMS(2, 1, 1));
    const pc_tensor v = given(b, NUMBERS(3, 5), PC_DIMS(2, 1, 1)),
                    dout = given(b, NUMBERS(1, 1), PC_DIMS(2, 1, 1));
    const pc_tensor o = given(b, NULL, PC_DIMS(2, 1, 1)), lse = weight(b, NULL, PC_DIMS(2, 1));
    const pc_tensor dq = given(b, NULL, PC_DIMS(2, 1, 1)), dk = given(b, NULL, PC_DIMS(2, 1, 1));
    const pc_tensor dv = given(b, NULL, PC_DIMS(2, 1, 1));
    const pc_mask mask = {.S = 1,
                          .q_off = op_index(&b->o, (const int32_t[]){0, 2}, 2),
                          .k_off = op_index(&b->o, (const int32_t[]){0, 2}, 2),
                          .lo = op_index(&b->o, (const int32_t[]){0, 0}, 2),
                          .hi = op_index(&b->o, (const int32_t[]){2, 0}, 2)};
    ctx->ops->attention_forward(ctx, o, lse, q, k, v, &mask, 1.0);
    expect(b, "attention", o, NUMBERS(3.238405844, 0));
    expect(b, "attention's lse", pc_view1(lse.data, lse.dtype, 1), NUMBERS(2.126928011));
    b->failed += op_get(lse, 1) != -INFINITY;
    ctx->grad_ops->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, &mask, 1.0);
    expect(b, "attention dq", dq, NUMBERS(-0.209987171, 0));
    expect(b, "attention dk", dk, NUMBERS(-0.419974342, 0.419974342));
    expect(b, "attention dv", dv, NUMBERS(0.880797078, 0.119202922));
}

static void rows(bench *b)
{
    pc_ctx *ctx = b->ctx;
    const pc_tensor table = weight(b, NUMBERS(1, 2, 3, 4, 5, 6), PC_DIMS(3, 2)),
                    y = given(b, NUMBERS(9, 9, 9, 9, 9, 9), PC_DIMS(3, 2));
    const pc_tensor index = op_index(&b->o, (const int32_t[]){2, -1, 0}, 3);
    ctx->ops->embedding_forward(ctx, y, index, table);
    expect(b, "embedding", y, NUMBERS(5, 6, 9, 9, 1, 2));
    ctx->ops->add_rows_forward(ctx, y, y, table, index);
    expect(b, "add_rows", y, NUMBERS(10, 12, 9, 9, 2, 4));
    const pc_tensor picked = given(b, NULL, PC_DIMS(2, 2));
    ctx->ops->gather_forward(ctx, picked, y, op_index(&b->o, (const int32_t[]){2, 0}, 2));
    expect(b, "gather", picked, NUMBERS(2, 4, 10, 12));
    ctx->ops->splice_forward(ctx, y, table, op_index(&b->o, (const int32_t[]){1, -1, 0}, 3));
    expect(b, "splice", y, NUMBERS(5, 6, 1, 2, 2, 4));
    // Ties to the lowest; what lies beyond the first four is not looked at; NaN, +inf and nothing but -inf are refused.
    const pc_tensor z = given(b,
                              NUMBERS(1, 3, 2, 3, 9, NAN, 0, 1, 2, 3, 0, 1, 2, INFINITY, 0,
                                      -INFINITY, -INFINITY, -INFINITY, -INFINITY, 1),
                              PC_DIMS(4, 5));
    const pc_tensor ids = op_index(&b->o, (const int32_t[]){7, 7, 7, 7}, 4),
                    line = op_index(&b->o, (const int32_t[]){-1}, 1),
                    all = op_index(&b->o, (const int32_t[]){5, 5, 5, 5, 5, 5, 5, 5}, 8);
    ctx->ops->advance_forward(ctx, line, 2);
    ctx->ops->argmax_forward(ctx, ids, pc_view2(all.data, PC_I32, 2, 4), line, z, 4);
    const pc_tensor seen = given(b, NULL, PC_DIMS(12));
    for (int64_t i = 0; i < 12; i++) {
        const int32_t v = i < 4 ? pc_i32(ids)[i] : pc_i32(all)[i - 4];
        if (seen.dtype == PC_F64)
            ((double *)seen.data)[i] = (double)v;
        else
            ((float *)seen.data)[i] = (float)v;
    }
    expect(b, "argmax", seen, NUMBERS(1, -1, -1, -1, 5, 5, 5, 5, 1, -1, -1, -1));
}

static void convolution(bench *b)
{
    pc_ctx *ctx = b->ctx;
    const pc_conv conv = {
        .B = 1, .C = 1, .H = 3, .W = 3, .kernel = 3, .step = 2, .pad = 1, .out_h = 2, .out_w = 2};
    const pc_tensor x = given(b, NUMBERS(1, 2, 3, 4, 5, 6, 7, 8, 9), PC_DIMS(1, 1, 3, 3));
    const pc_tensor cols = given(b, NULL, PC_DIMS(4, 9));
    ctx->ops->im2col_forward(ctx, cols, x, &conv);
    expect(b, "im2col", cols,
           NUMBERS(0, 0, 0, 0, 1, 2, 0, 4, 5, //
                   0, 0, 0, 2, 3, 0, 5, 6, 0, //
                   0, 4, 5, 0, 7, 8, 0, 0, 0, //
                   5, 6, 0, 8, 9, 0, 0, 0, 0));
    // Two channels, channels last: columns run over channels first.
    const pc_conv patch = {.B = 1,
                           .C = 2,
                           .H = 1,
                           .W = 2,
                           .kernel = 1,
                           .step = 1,
                           .channels_last = true,
                           .out_h = 1,
                           .out_w = 2};
    const pc_tensor last = given(b, NUMBERS(1, 2, 3, 4), PC_DIMS(2, 2)),
                    same = given(b, NULL, PC_DIMS(2, 2));
    ctx->ops->im2col_forward(ctx, same, last, &patch);
    expect(b, "im2col, channels last", same, NUMBERS(1, 2, 3, 4));
}

// One place of four at twice the size: the kernel itself at distances 1/4, 3/4, 5/4, 7/4, and a clamped edge.
static void grid(bench *b)
{
    pc_ctx *ctx = b->ctx;
    const pc_tensor x = weight(b, NUMBERS(0, 1, 0, 0), PC_DIMS(4, 1)),
                    y = given(b, NULL, PC_DIMS(8, 1));
    ctx->ops->resize_grid_forward(ctx, y, x, 1, 8, 1, 4);
    expect(b, "resize_grid", y,
           NUMBERS(-0.10546875, 0.26171875, 0.87890625, 0.87890625, 0.26171875, -0.10546875,
                   -0.03515625, 0));
    ctx->ops->resize_grid_forward(ctx, y, x, 8, 1, 4, 1);
    expect(b, "resize_grid, the other way", y,
           NUMBERS(-0.10546875, 0.26171875, 0.87890625, 0.87890625, 0.26171875, -0.10546875,
                   -0.03515625, 0));
}

static void losses(bench *b)
{
    pc_ctx *ctx = b->ctx;
    double loss = (double)NAN;
    const pc_tensor total = pc_view1(&loss, PC_F64, 1);
    const pc_tensor identity = weight(b, NUMBERS(1, 0, 0, 0, 1, 0, 0, 0, 1), PC_DIMS(3, 3));
    const pc_tensor z = given(b, NUMBERS(1, 2, 3, 7, 7, 7), PC_DIMS(2, 3)),
                    nll = weight(b, NULL, PC_DIMS(2));
    ctx->ops->linear_xent_forward(ctx, nll, z, identity,
                                  op_index(&b->o, (const int32_t[]){2, -100}, 2));
    expect(b, "linear_xent", nll, NUMBERS(0.407605964, 0));
    // Logits that overflow exp in float and in double.
    const pc_tensor huge = given(b, NUMBERS(1000, 990, -1000), PC_DIMS(1, 3));
    ctx->ops->linear_xent_forward(ctx, pc_rows(nll, 0, 1), huge, identity,
                                  op_index(&b->o, (const int32_t[]){1}, 1));
    expect(b, "linear_xent, huge logits", pc_rows(nll, 0, 1), NUMBERS(10.000045399));

    const pc_tensor u = given(b, NUMBERS(1, 0, 0.6, 0.8), PC_DIMS(2, 2)),
                    v = given(b, NUMBERS(0.8, 0.6, 0, 1), PC_DIMS(2, 2));
    const pc_tensor t = number(b, log(10.0)), bias = number(b, -10.0);
    const pc_tensor row = weight(b, NULL, PC_DIMS(2)), col = weight(b, NULL, PC_DIMS(2));
    const pc_tensor du = given(b, NULL, PC_DIMS(2, 2)), dt = number(b, 0.0), db = number(b, 0.0);
    ctx->ops->clip_loss_forward(ctx, total, row, col, u, v, t);
    ctx->grad_ops->clip_loss_backward(ctx, du, PC_NONE, dt, u, v, t, row, col, 1.0);
    expect(b, "clip_loss", total, NUMBERS(0.892118074));
    expect(b, "clip_loss du", du, NUMBERS(-1.664707471, -1.246853852, 3.328073541, 0.415170817));
    expect(b, "clip_loss dt", dt, NUMBERS(0.664273308));
    ctx->ops->sigmoid_loss_forward(ctx, total, u, v, t, bias);
    ctx->grad_ops->sigmoid_loss_backward(ctx, du, PC_NONE, PC_NONE, db, u, v, t, bias, 1.0);
    expect(b, "sigmoid_loss", total, NUMBERS(2.383458337));
    expect(b, "sigmoid_loss db", db, NUMBERS(-0.680118209));
}

static void optimiser(bench *b)
{
    static const double grad[] = {0.1, -0.2, 0.05},
                        want[] = {0.9989000001, 0.9991662136038749, 0.9992029876352317};
    pc_ctx *ctx = b->ctx;
    const pc_tensor w = number(b, 1.0), m = number(b, 0.0), v = number(b, 0.0);
    for (int s = 0; s < 3; s++) {
        const pc_adamw a = {.lr = 1e-3,
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .eps = 1e-8,
                            .weight_decay = 0.1,
                            .correct1 = 1.0 - pow(0.9, s + 1),
                            .correct2 = 1.0 - pow(0.999, s + 1),
                            .grad_scale = 1.0};
        ctx->grad_ops->adamw(ctx, w, m, v, number(b, grad[s]), &a);
        expect(b, "adamw", w, want + s);
    }
}

static int all(pc_isa isa, pc_dtype type)
{
    char how[32];
    snprintf(how, sizeof how, "%s %s", pc_dtype_name(type), pc_isa_name(isa));
    bench b = {.o.real = type, .how = how, .tolerance = type == PC_F64 ? 1e-9 : 1e-6};
    gradcheck_open(&b.o.g, how, 1, 2);
    b.ctx = &b.o.g.ctx;
    b.ctx->real = type;
    b.ctx->ops = pc_cpu_ops(isa, type);
    b.ctx->grad_ops = pc_cpu_grad_ops(isa, type);
    linear(&b);
    activations(&b);
    activations_far_out(&b);
    norms(&b);
    rotary(&b);
    attention(&b);
    rows(&b);
    convolution(&b);
    grid(&b);
    losses(&b);
    optimiser(&b);
    gradcheck_close(&b.o.g);
    printf("%s %s: %d numbers, %d wrong\n", b.failed ? "FAILED" : "ok    ", how, b.checks,
           b.failed);
    return b.failed;
}

int main(void)
{
    pc_isa best = PC_ISA_REF;
    const pc_status st = pc_isa_choose(&best);
    PC_ASSERT(!st, "%s", pc_error_text());
    int failed = all(PC_ISA_REF, PC_F64);
    for (int isa = PC_ISA_REF; isa <= (int)best; isa++) failed += all((pc_isa)isa, PC_F32);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

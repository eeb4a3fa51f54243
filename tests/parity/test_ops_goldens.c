/*
 * test_ops_goldens.c - every operation against numbers computed elsewhere, in double from float inputs:
 * ../shared/goldens/numerics (ops, attention, losses, adamw), in float on every instruction set and in
 * double. Without the folder the test says so and passes; with CI=true that is a failure.
 *
 * Errors are |got - golden| / |golden| over a tensor (Frobenius). The tolerances are the goldens' own, or less.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoints/safetensors.h"
#include "tests/support/opcheck.h"
#include "tests/support/scratch.h"

typedef struct bench {
    opcheck o;
    pc_ctx *ctx;
    pc_safetensors *file;
    const char *how;
    int failed, checks;
    double worst;
    char worst_name[64];
} bench;

static const pc_st_entry *entry(const bench *b, const char *name)
{
    const pc_st_entry *e = pc_safetensors_find(b->file, name);
    PC_ASSERT(e, "the golden file has no tensor '%s'", name);
    return e;
}

// The numbers of a tensor, malloc'ed.
static float *numbers(const bench *b, const char *name, int64_t n)
{
    float *v = malloc((size_t)n * sizeof *v);
    const pc_status st = pc_st_floats(v, entry(b, name), n);
    PC_ASSERT(v && !st, "%s", pc_error_text());
    return v;
}

// A golden tensor under our shape (as many elements, same order).
static pc_tensor load(bench *b, const char *name, int rank, const int64_t *dim)
{
    const pc_tensor x = op_alloc(b->ctx, 0, rank, dim);
    float *v = numbers(b, name, pc_numel(x));
    for (int64_t i = 0; i < pc_numel(x); i++) op_set(x, i, (double)v[i]);
    free(v);
    return x;
}

static pc_tensor fresh(bench *b, double value, int rank, const int64_t *dim)
{
    const pc_tensor x = op_alloc(b->ctx, 3, rank, dim);
    for (int64_t i = 0; i < pc_numel(x); i++) op_set(x, i, value);
    return x;
}

static void judge(bench *b, const char *name, double difference, double norm, double tolerance)
{
    const double error = difference == 0.0 ? 0.0 : sqrt(difference) / sqrt(norm);
    b->checks++;
    if (!(error <= b->worst)) {
        b->worst = error;
        snprintf(b->worst_name, sizeof b->worst_name, "%s", name);
    }
    if (error <= tolerance) return;
    printf("FAILED %s, %s: relative error %.2e, at most %.0e\n", name, b->how, error, tolerance);
    b->failed++;
}

// Elements [begin, end) of `got`, in order, against the golden tensor's.
static void compare_part(bench *b, pc_tensor got, const char *name, int64_t begin, int64_t end,
                         double tolerance)
{
    float *want = numbers(b, name, pc_numel(got));
    double difference = 0.0, norm = 0.0;
    for (int64_t i = begin; i < end; i++) {
        const double w = (double)want[i], d = op_get(got, i) - w;
        difference += d * d;
        norm += w * w;
    }
    free(want);
    judge(b, name, difference, norm, tolerance);
}

static void compare(bench *b, pc_tensor got, const char *name, double tolerance)
{
    compare_part(b, got, name, 0, pc_numel(got), tolerance);
}

static void activations(bench *b)
{
    static const struct {
        const char *name;
        pc_act kind;
    } kinds[] = {{"gelu_erf", PC_ACT_GELU},
                 {"gelu_tanh", PC_ACT_GELU_TANH},
                 {"quick_gelu", PC_ACT_QUICK},
                 {"silu", PC_ACT_SILU},
                 {"relu", PC_ACT_RELU}};
    const pc_tensor z = load(b, "act.x", PC_DIMS(1, 108)),
                    da = load(b, "act.grad_out", PC_DIMS(1, 108));
    for (int i = 0; i < 5; i++) {
        char name[64];
        const pc_tensor a = fresh(b, NAN, PC_DIMS(1, 108)), dz = fresh(b, NAN, PC_DIMS(1, 108));
        b->ctx->ops->act_forward(b->ctx, a, z, kinds[i].kind);
        b->ctx->grad_ops->act_backward(b->ctx, dz, da, z, kinds[i].kind);
        snprintf(name, sizeof name, "act.%s.y", kinds[i].name);
        compare(b, a, name, 1e-5);
        snprintf(name, sizeof name, "act.%s.dx", kinds[i].name);
        compare(b, dz, name, 1e-5);
    }
}

// Rows 1 (an offset of 100), 2 and 3 (hardly any variance) lose digits by nature.
static void compare_norm_rows(bench *b, pc_tensor got, const char *name)
{
    const int64_t C = got.dim[1];
    for (int64_t n = 0; n < got.dim[0]; n++)
        compare_part(b, got, name, n * C, (n + 1) * C, n >= 1 && n <= 3 ? 2e-3 : 1e-5);
}

static void norms(bench *b)
{
    enum { N = 6, C = 24 };
    static const struct {
        const char *name;
        double eps;
        bool layer;
    } kinds[] = {{"layernorm", 1e-5, true},
                 {"layernorm_eps1e-6", 1e-6, true},
                 {"rmsnorm", 1e-6, false},
                 {"rmsnorm_eps1e-5", 1e-5, false}};
    pc_ctx *ctx = b->ctx;
    const pc_tensor x = load(b, "norm.x", PC_DIMS(N, C)),
                    dy = load(b, "norm.grad_out", PC_DIMS(N, C));
    const pc_tensor g = load(b, "norm.weight", PC_DIMS(C)), bias = load(b, "norm.bias", PC_DIMS(C));
    for (int i = 0; i < 4; i++) {
        char name[64];
        const pc_tensor y = fresh(b, NAN, PC_DIMS(N, C)), dx = fresh(b, NAN, PC_DIMS(N, C));
        const pc_tensor dg = fresh(b, 0.0, PC_DIMS(C)), db = fresh(b, 0.0, PC_DIMS(C));
        const pc_tensor mean = fresh(b, NAN, PC_DIMS(N)), rstd = fresh(b, NAN, PC_DIMS(N));
        if (kinds[i].layer) {
            ctx->ops->layernorm_forward(ctx, y, mean, rstd, x, g, bias, kinds[i].eps);
            ctx->grad_ops->layernorm_backward(ctx, dx, dg, db, dy, x, g, mean, rstd, PC_NONE);
            snprintf(name, sizeof name, "norm.%s.dbias", kinds[i].name);
            compare(b, db, name, 1e-5);
        } else {
            ctx->ops->rmsnorm_forward(ctx, y, rstd, x, g, kinds[i].eps);
            ctx->grad_ops->rmsnorm_backward(ctx, dx, dg, dy, x, g, rstd, PC_NONE);
        }
        snprintf(name, sizeof name, "norm.%s.y", kinds[i].name);
        compare_norm_rows(b, y, name);
        snprintf(name, sizeof name, "norm.%s.dx", kinds[i].name);
        compare_norm_rows(b, dx, name);
        snprintf(name, sizeof name, "norm.%s.dweight", kinds[i].name);
        compare(b, dg, name, 1e-5);
    }
}

// Golden [B,H,T,D] as our rows (B*T,H,D), and back.
static int64_t golden_place(pc_tensor x, int64_t T, int64_t i)
{
    const int64_t H = x.dim[1], D = x.dim[2], d = i % D, h = i / D % H, n = i / D / H;
    return ((n / T * H + h) * T + n % T) * D + d;
}

static pc_tensor load_heads(bench *b, const char *name, int64_t B, int64_t H, int64_t T, int64_t D)
{
    const pc_tensor x = op_alloc(b->ctx, 5, PC_DIMS(B * T, H, D));
    float *v = numbers(b, name, B * H * T * D);
    for (int64_t i = 0; i < pc_numel(x); i++) op_set(x, i, (double)v[golden_place(x, T, i)]);
    free(v);
    return x;
}

// `valid` (B): rows of batch item b from valid[b] on are not compared; NULL: all are.
static void compare_heads(bench *b, pc_tensor got, const char *name, int64_t T,
                          const int64_t *valid, double tolerance)
{
    float *want = numbers(b, name, pc_numel(got));
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < pc_numel(got); i++) {
        const int64_t n = i / got.dim[2] / got.dim[1];
        if (valid && n % T >= valid[n / T]) continue;
        const double w = (double)want[golden_place(got, T, i)], d = op_get(got, i) - w;
        difference += d * d;
        norm += w * w;
    }
    free(want);
    judge(b, name, difference, norm, tolerance);
}

static void rotary(bench *b)
{
    enum { B = 2, H = 3, T = 10, D = 16, ROWS = 4096 };
    pc_ctx *ctx = b->ctx;
    const pc_tensor x = load_heads(b, "rope.x", B, H, T, D),
                    y = fresh(b, NAN, PC_DIMS(B * T, H, D));
    const pc_tensor cosine = op_alloc(ctx, 0, PC_DIMS(ROWS, D / 2));
    const pc_tensor sine = op_alloc(ctx, 0, PC_DIMS(ROWS, D / 2));
    const pc_tensor pos = pc_alloc1(ctx->act, PC_I32, B * T);
    for (int64_t i = 0; i < pc_numel(cosine); i++) {
        const double angle = (double)(i / (D / 2)) * pow(10000.0, -2.0 * (double)(i % (D / 2)) / D);
        op_set(cosine, i, cos(angle));
        op_set(sine, i, sin(angle));
    }
    const pc_status st = pc_st_ints(pc_i32(pos), entry(b, "rope.positions"), B * T);
    PC_ASSERT(!st, "%s", pc_error_text());
    ctx->ops->rope_forward(ctx, y, x, cosine, sine, pos);
    compare_heads(b, y, "rope.half_split", T, NULL, 1e-5);
    // Turning back gives x again.
    ctx->grad_ops->rope_backward(ctx, y, y, cosine, sine, pos);
    compare_heads(b, y, "rope.x", T, NULL, 1e-5);
}

static void gated_mlp(bench *b)
{
    enum { N = 4, C = 12, F = 20 };
    pc_ctx *ctx = b->ctx;
    const pc_tensor x = load(b, "swiglu.x", PC_DIMS(N, C)),
                    dy = load(b, "swiglu.grad_out", PC_DIMS(N, C));
    const pc_tensor down = load(b, "swiglu.w_down", PC_DIMS(C, F));
    const pc_tensor up = op_alloc(ctx, 0, PC_DIMS(2 * F, C)),
                    dup = op_alloc(ctx, 0, PC_DIMS(2 * F, C));
    const pc_tensor ddown = op_alloc(ctx, 0, PC_DIMS(C, F));
    const pc_tensor y = fresh(b, NAN, PC_DIMS(N, C)), dx = fresh(b, NAN, PC_DIMS(N, C));
    const pc_tensor h = fresh(b, NAN, PC_DIMS(N, F)), dh = fresh(b, NAN, PC_DIMS(N, F));
    const pc_tensor gu = fresh(b, NAN, PC_DIMS(N, 2 * F)), dgu = fresh(b, NAN, PC_DIMS(N, 2 * F));
    ctx->ops->copy_forward(ctx, pc_rows(up, 0, F), load(b, "swiglu.w_gate", PC_DIMS(F, C)));
    ctx->ops->copy_forward(ctx, pc_rows(up, F, 2 * F), load(b, "swiglu.w_up", PC_DIMS(F, C)));
    ctx->ops->zero_forward(ctx, dup);
    ctx->ops->zero_forward(ctx, ddown);
    ctx->ops->linear_forward(ctx, gu, x, up, PC_NONE, PC_NONE);
    ctx->ops->swiglu_forward(ctx, h, gu);
    ctx->ops->linear_forward(ctx, y, h, down, PC_NONE, PC_NONE);
    ctx->grad_ops->linear_backward(ctx, dh, ddown, PC_NONE, dy, h, down, false);
    ctx->grad_ops->swiglu_backward(ctx, dgu, dh, gu);
    ctx->grad_ops->linear_backward(ctx, dx, dup, PC_NONE, dgu, x, up, false);
    compare(b, y, "swiglu.y", 1e-5);
    compare(b, dx, "swiglu.dx", 1e-5);
    compare(b, ddown, "swiglu.dw_down", 1e-5);
    compare(b, pc_rows(dup, 0, F), "swiglu.dw_gate", 1e-5);
    compare(b, pc_rows(dup, F, 2 * F), "swiglu.dw_up", 1e-5);
}

// Golden planes [B,O,P] as our rows (B*P,O), and back.
static pc_tensor load_planes(bench *b, const char *name, int64_t B, int64_t O, int64_t P)
{
    const pc_tensor x = op_alloc(b->ctx, 1, PC_DIMS(B * P, O));
    float *v = numbers(b, name, B * O * P);
    for (int64_t i = 0; i < B * O * P; i++)
        op_set(x, i, (double)v[(i / O / P * O + i % O) * P + i / O % P]);
    free(v);
    return x;
}

static void compare_planes(bench *b, pc_tensor got, const char *name, int64_t P, double tolerance)
{
    const int64_t O = got.dim[1];
    float *want = numbers(b, name, pc_numel(got));
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < pc_numel(got); i++) {
        const double w = (double)want[(i / O / P * O + i % O) * P + i / O % P];
        difference += (op_get(got, i) - w) * (op_get(got, i) - w);
        norm += w * w;
    }
    free(want);
    judge(b, name, difference, norm, tolerance);
}

// One convolution; its part of dx.
static pc_tensor convolution(bench *b, pc_tensor x, const pc_conv *v, int64_t O, const char *w_name,
                             const char *b_name, const char *y_name, const char *dy_name)
{
    pc_ctx *ctx = b->ctx;
    const int64_t P = v->out_h * v->out_w, K = v->C * v->kernel * v->kernel;
    const pc_tensor w = load(b, w_name, PC_DIMS(O, K)), dw = op_alloc(ctx, 0, PC_DIMS(O, K));
    const pc_tensor bias = b_name ? load(b, b_name, PC_DIMS(O)) : PC_NONE;
    const pc_tensor db = b_name ? fresh(b, 0.0, PC_DIMS(O)) : PC_NONE;
    const pc_tensor cols = fresh(b, NAN, PC_DIMS(v->B * P, K)),
                    dcols = fresh(b, NAN, PC_DIMS(v->B * P, K));
    const pc_tensor y = fresh(b, NAN, PC_DIMS(v->B * P, O));
    const pc_tensor dy = load_planes(b, dy_name, v->B, O, P);
    const pc_tensor dx = op_alloc(ctx, 0, PC_DIMS(v->B, v->C, v->H, v->W));
    char name[64];
    ctx->ops->zero_forward(ctx, dw);
    ctx->ops->im2col_forward(ctx, cols, x, v);
    ctx->ops->linear_forward(ctx, y, cols, w, bias, PC_NONE);
    ctx->grad_ops->linear_backward(ctx, dcols, dw, db, dy, cols, w, false);
    ctx->grad_ops->im2col_backward(ctx, dx, dcols, v);
    compare_planes(b, y, y_name, P, 1e-5);
    snprintf(name, sizeof name, "conv.d%s", w_name + strlen("conv."));
    compare(b, dw, name, 1e-5);
    if (b_name) compare(b, db, "conv.dpatch_b", 1e-5);
    return dx;
}

static void convolutions(bench *b)
{
    const pc_conv patch = {
        .B = 2, .C = 3, .H = 20, .W = 24, .kernel = 4, .step = 4, .out_h = 5, .out_w = 6};
    const pc_conv stem = {.B = 2,
                          .C = 3,
                          .H = 20,
                          .W = 24,
                          .kernel = 3,
                          .step = 2,
                          .pad = 1,
                          .out_h = 10,
                          .out_w = 12};
    const pc_tensor x = load(b, "conv.x", PC_DIMS(2, 3, 20, 24));
    const pc_tensor dx1 = convolution(b, x, &patch, 5, "conv.patch_w", "conv.patch_b",
                                      "conv.patch_y", "conv.patch_grad_out");
    const pc_tensor dx2 =
        convolution(b, x, &stem, 4, "conv.w3s2p1", NULL, "conv.s2_y", "conv.s2_grad_out");
    b->ctx->ops->add_forward(b->ctx, dx1, dx1, dx2);
    compare(b, dx1, "conv.dx", 1e-5);
}

// A map of 7 x 7 under other sizes, bicubic (position tables) and bilinear (feature maps).
static void grids(bench *b)
{
    static const int64_t sizes[][2] = {{4, 4}, {7, 11}, {16, 16}, {24, 5}};
    pc_ctx *ctx = b->ctx;
    const pc_tensor x = load_planes(b, "resize.x", 1, 2, 49);
    for (int i = 0; i < 8; i++) {
        const bool cubic = i < 4;
        const char *kind = cubic ? "bicubic" : "bilinear";
        const int64_t h = sizes[i % 4][0], w = sizes[i % 4][1];
        char name[64];
        const pc_tensor y = fresh(b, NAN, PC_DIMS(h * w, 2));
        const pc_tensor dx = fresh(b, cubic ? 0.0 : NAN, PC_DIMS(49, 2));
        if (cubic)
            ctx->ops->resize_grid_forward(ctx, y, x, h, w, 7, 7);
        else
            ctx->ops->resize_map_forward(ctx, y, x, h, w, 7, 7);
        snprintf(name, sizeof name, "resize.%s.%lldx%lld.y", kind, (long long)h, (long long)w);
        compare_planes(b, y, name, h * w, 1e-5);
        snprintf(name, sizeof name, "resize.%s.%lldx%lld.grad_out", kind, (long long)h,
                 (long long)w);
        const pc_tensor dy = load_planes(b, name, 1, 2, h * w);
        if (cubic)
            ctx->grad_ops->resize_grid_backward(ctx, dx, dy, h, w, 7, 7);
        else
            ctx->grad_ops->resize_map_backward(ctx, dx, dy, h, w, 7, 7);
        snprintf(name, sizeof name, "resize.%s.%lldx%lld.dx", kind, (long long)h, (long long)w);
        compare_planes(b, dx, name, 49, 1e-5);
    }
}

static void operations(bench *b)
{
    activations(b);
    norms(b);
    rotary(b);
    gated_mlp(b);
    convolutions(b);
    grids(b);
}

static int64_t integer(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    PC_ASSERT(json_is_integer(v), "'%s' is an integer", key);
    return json_integer_value(v);
}

// The mask of a case, as ops.h has it.
static pc_mask attention_mask(bench *b, const json_t *c, int64_t B, int64_t Tq, int64_t Tk)
{
    const json_t *cu = json_object_get(c, "cu_seqlens"),
                 *valid = json_object_get(c, "valid_lengths");
    const json_t *offset = json_object_get(c, "causal_offset"),
                 *window = json_object_get(c, "window");
    const bool causal = json_is_true(json_object_get(c, "causal"));
    const int64_t S = json_is_array(cu) ? (int64_t)json_array_size(cu) - 1 : B;
    pc_arena *a = b->ctx->act;
    pc_mask m = {.S = S,
                 .q_off = pc_alloc1(a, PC_I32, S + 1),
                 .k_off = pc_alloc1(a, PC_I32, S + 1),
                 .lo = pc_alloc1(a, PC_I32, B * Tq),
                 .hi = pc_alloc1(a, PC_I32, B * Tq)};
    for (int64_t s = 0; s <= S; s++) {
        const bool packed = json_is_array(cu);
        const int64_t at = packed ? json_integer_value(json_array_get(cu, (size_t)s)) : s * Tq;
        pc_i32(m.q_off)[s] = (int32_t)at;
        pc_i32(m.k_off)[s] = (int32_t)(packed ? at : s * Tk);
    }
    for (int64_t s = 0; s < S; s++)
        for (int64_t n = pc_i32(m.q_off)[s]; n < pc_i32(m.q_off)[s + 1]; n++) {
            const int64_t k0 = pc_i32(m.k_off)[s], t = n - pc_i32(m.q_off)[s];
            int64_t lo = k0, hi = pc_i32(m.k_off)[s + 1];
            if (json_is_array(valid))
                hi = k0 + json_integer_value(json_array_get(valid, (size_t)s));
            const int64_t last =
                k0 + t + (json_is_integer(offset) ? json_integer_value(offset) : 0);
            if (causal && last + 1 < hi) hi = last + 1;
            if (json_is_integer(window) && last - json_integer_value(window) + 1 > lo)
                lo = last - json_integer_value(window) + 1;
            pc_i32(m.lo)[n] = (int32_t)lo;
            pc_i32(m.hi)[n] = (int32_t)hi;
        }
    return m;
}

static void attention_case(bench *b, const char *label, const json_t *c)
{
    const json_t *shape = json_object_get(c, "shape"),
                 *lengths = json_object_get(c, "valid_lengths");
    const int64_t B = integer(shape, "batch"), H = integer(shape, "heads"),
                  G = integer(shape, "kv_heads");
    const int64_t Tq = integer(shape, "q_len"), Tk = integer(shape, "kv_len"),
                  D = integer(shape, "head_dim");
    const double scale = json_real_value(json_object_get(c, "scale"));
    const double tolerance = strcmp(label, "huge_logits") ? 2e-5 : 2e-4;
    pc_ctx *ctx = b->ctx;
    char name[9][64];
    static const char *const what[] = {"q", "k", "v", "grad_out", "out", "lse", "dq", "dk", "dv"};
    for (int i = 0; i < 9; i++) snprintf(name[i], sizeof name[i], "%s.%s", label, what[i]);
    int64_t valid[8] = {0};
    for (int64_t s = 0; s < B && json_is_array(lengths); s++)
        valid[s] = json_integer_value(json_array_get(lengths, (size_t)s));
    const int64_t *limit = json_is_array(lengths) ? valid : NULL;

    const pc_tensor q = load_heads(b, name[0], B, H, Tq, D),
                    k = load_heads(b, name[1], B, G, Tk, D);
    const pc_tensor v = load_heads(b, name[2], B, G, Tk, D),
                    dout = load_heads(b, name[3], B, H, Tq, D);
    const pc_tensor o = fresh(b, NAN, PC_DIMS(B * Tq, H, D)),
                    lse = op_alloc(ctx, 0, PC_DIMS(B * Tq, H));
    const pc_tensor dq = fresh(b, NAN, PC_DIMS(B * Tq, H, D)),
                    dk = fresh(b, NAN, PC_DIMS(B * Tk, G, D));
    const pc_tensor dv = fresh(b, NAN, PC_DIMS(B * Tk, G, D));
    const pc_mask m = attention_mask(b, c, B, Tq, Tk);
    ctx->ops->attention_forward(ctx, o, lse, q, k, v, &m, scale);
    ctx->grad_ops->attention_backward(ctx, dq, dk, dv, dout, q, k, v, o, lse, &m, scale);
    compare_heads(b, o, name[4], Tq, limit, tolerance);
    const pc_tensor lse_heads = {lse.data, lse.dtype, 3, {B * Tq, H, 1}, H};
    compare_heads(b, lse_heads, name[5], Tq, limit, tolerance);
    compare_heads(b, dq, name[6], Tq, limit, tolerance);
    compare_heads(b, dk, name[7], Tk, NULL, tolerance);
    compare_heads(b, dv, name[8], Tk, NULL, tolerance);
}

static void attention(bench *b)
{
    json_t *root = json_load_file(shared_path("goldens/numerics/attention.json"), 0, NULL), *c;
    PC_ASSERT(root, "attention.json is JSON");
    const char *label;
    json_object_foreach(json_object_get(root, "cases"), label, c) attention_case(b, label, c);
    PC_ASSERT(json_object_size(json_object_get(root, "cases")) == 12, "twelve cases");
    json_decref(root);
}

static void cross_entropy(bench *b)
{
    enum { N = 14, V = 50 };
    pc_ctx *ctx = b->ctx;
    // Logits given: x = logits, W = 1, so dx is the gradient of the logits.
    const pc_tensor x = load(b, "ce.logits", PC_DIMS(N, V)), w = op_alloc(ctx, 0, PC_DIMS(V, V));
    const pc_tensor labels = pc_alloc1(ctx->act, PC_I32, N), coef = fresh(b, 1.0, PC_DIMS(N));
    const pc_tensor nll = fresh(b, NAN, PC_DIMS(N)), dx = fresh(b, NAN, PC_DIMS(N, V));
    const pc_status st = pc_st_ints(pc_i32(labels), entry(b, "ce.labels"), N);
    PC_ASSERT(!st, "%s", pc_error_text());
    for (int64_t i = 0; i < V * V; i++) op_set(w, i, i / V == i % V ? 1.0 : 0.0);
    ctx->ops->linear_xent_forward(ctx, nll, x, w, labels);
    compare(b, nll, "ce.per_token", 1e-5);
    double sum = 0.0, counted = 0.0;
    for (int64_t n = 0; n < N; n++) sum += op_get(nll, n), counted += pc_i32(labels)[n] >= 0;
    double loss = sum;
    compare(b, pc_view1(&loss, PC_F64, 1), "ce.sum.loss", 1e-5);
    loss = sum / counted;
    compare(b, pc_view1(&loss, PC_F64, 1), "ce.mean.loss", 1e-5);
    ctx->grad_ops->linear_xent_backward(ctx, dx, PC_NONE, nll, x, w, labels, coef);
    compare(b, nll, "ce.per_token", 1e-5);
    compare(b, dx, "ce.sum.grad", 2e-5);
    op_scale(coef, 1.0 / counted);
    ctx->grad_ops->linear_xent_backward(ctx, dx, PC_NONE, nll, x, w, labels, coef);
    compare(b, dx, "ce.mean.grad", 2e-5);
}

// The sum of log-probabilities of a text's supervised tokens; row t predicts token t + 1.
static void sequences(bench *b)
{
    enum { B = 3, T = 9, V = 50 };
    pc_ctx *ctx = b->ctx;
    const pc_tensor x = load(b, "seq.logits", PC_DIMS(B * T, V)),
                    w = op_alloc(ctx, 0, PC_DIMS(V, V));
    const pc_tensor labels = pc_alloc1(ctx->act, PC_I32, B * T),
                    nll = fresh(b, NAN, PC_DIMS(B * T));
    const pc_tensor sums = fresh(b, 0.0, PC_DIMS(B)), means = fresh(b, 0.0, PC_DIMS(B));
    int32_t read[B * T];
    const pc_status st = pc_st_ints(read, entry(b, "seq.labels"), B * T);
    PC_ASSERT(!st, "%s", pc_error_text());
    for (int64_t i = 0; i < V * V; i++) op_set(w, i, i / V == i % V ? 1.0 : 0.0);
    for (int64_t n = 0; n < B * T; n++) pc_i32(labels)[n] = n % T == T - 1 ? -1 : read[n + 1];
    ctx->ops->linear_xent_forward(ctx, nll, x, w, labels);
    for (int64_t s = 0; s < B; s++) {
        double sum = 0.0, counted = 0.0;
        for (int64_t n = s * T; n < (s + 1) * T; n++) {
            sum -= op_get(nll, n);
            counted += pc_i32(labels)[n] >= 0;
        }
        op_set(sums, s, sum);
        op_set(means, s, sum / counted);
    }
    compare(b, sums, "seq.sum_logps", 1e-5);
    compare(b, means, "seq.mean_logps", 1e-5);
}

static void contrastive(bench *b)
{
    enum { B = 7, E = 12 };
    pc_ctx *ctx = b->ctx;
    const pc_tensor u = load(b, "clip.image_embeds", PC_DIMS(B, E)),
                    v = load(b, "clip.text_embeds", PC_DIMS(B, E));
    const pc_tensor du = fresh(b, NAN, PC_DIMS(B, E)), dv = fresh(b, NAN, PC_DIMS(B, E));
    const pc_tensor row = fresh(b, NAN, PC_DIMS(B)), col = fresh(b, NAN, PC_DIMS(B));
    const pc_tensor dt = fresh(b, 0.0, PC_DIMS(1)), db = fresh(b, 0.0, PC_DIMS(1));
    double number = (double)NAN;
    const pc_tensor loss = pc_view1(&number, PC_F64, 1);
    pc_tensor t = load(b, "clip.logit_scale", PC_DIMS(1));
    ctx->ops->clip_loss_forward(ctx, loss, row, col, u, v, t);
    ctx->grad_ops->clip_loss_backward(ctx, du, dv, dt, u, v, t, row, col, 1.0);
    compare(b, loss, "clip.loss", 1e-5);
    compare(b, du, "clip.d_image", 2e-5);
    compare(b, dv, "clip.d_text", 2e-5);
    compare(b, dt, "clip.d_logit_scale", 2e-5);

    t = load(b, "siglip.logit_scale", PC_DIMS(1));
    const pc_tensor bias = load(b, "siglip.logit_bias", PC_DIMS(1));
    op_set(dt, 0, 0.0);
    ctx->ops->sigmoid_loss_forward(ctx, loss, u, v, t, bias);
    ctx->grad_ops->sigmoid_loss_backward(ctx, du, dv, dt, db, u, v, t, bias, 1.0);
    compare(b, loss, "siglip.loss", 1e-5);
    compare(b, du, "siglip.d_image", 2e-5);
    compare(b, dv, "siglip.d_text", 2e-5);
    compare(b, dt, "siglip.d_logit_scale", 2e-5);
    compare(b, db, "siglip.d_logit_bias", 2e-5);
}

static void losses(bench *b)
{
    cross_entropy(b);
    sequences(b);
    contrastive(b);
}

// At every step |dp| <= 1e-6 (1 + |p|), as the goldens ask.
static void adamw_case(bench *b, int number, const json_t *c)
{
    enum { STEPS = 50, N = 37 };
    pc_ctx *ctx = b->ctx;
    char name[32];
    snprintf(name, sizeof name, "%d.param0", number);
    const pc_tensor w = load(b, name, PC_DIMS(N)), m = fresh(b, 0.0, PC_DIMS(N)),
                    v = fresh(b, 0.0, PC_DIMS(N));
    snprintf(name, sizeof name, "%d.grads", number);
    const pc_tensor grads = load(b, name, PC_DIMS(STEPS, N));
    snprintf(name, sizeof name, "%d.params", number);
    const pc_tensor want = load(b, name, PC_DIMS(STEPS, N));
    const json_t *betas = json_object_get(c, "betas"), *lr = json_object_get(c, "lr_per_step");
    const double beta1 = json_number_value(json_array_get(betas, 0));
    const double beta2 = json_number_value(json_array_get(betas, 1));
    double worst = 0.0;
    for (int s = 0; s < STEPS; s++) {
        const pc_adamw a = {.lr = json_number_value(json_array_get(lr, (size_t)s)),
                            .beta1 = beta1,
                            .beta2 = beta2,
                            .eps = json_number_value(json_object_get(c, "eps")),
                            .weight_decay = json_number_value(json_object_get(c, "weight_decay")),
                            .correct1 = 1.0 - pow(beta1, s + 1),
                            .correct2 = 1.0 - pow(beta2, s + 1),
                            .grad_scale = 1.0};
        pc_tensor g = pc_rows(grads, s, s + 1);
        g.rank = 1, g.dim[0] = N, g.stride = 1;
        ctx->grad_ops->adamw(ctx, w, m, v, g, &a);
        for (int64_t i = 0; i < N; i++) {
            const double p = op_get(want, s * N + i), d = fabs(op_get(w, i) - p) / (1.0 + fabs(p));
            if (!(d <= worst)) worst = d;
        }
    }
    snprintf(name, sizeof name, "adamw %d", number);
    judge(b, name, worst * worst, 1.0, 1e-6); // seen 2e-7
    snprintf(name, sizeof name, "%d.exp_avg", number);
    compare(b, m, name, 1e-5);
    snprintf(name, sizeof name, "%d.exp_avg_sq", number);
    compare(b, v, name, 1e-5);
}

static void optimiser(bench *b)
{
    static const char *const inputs[] = {"clip.in0", "clip.in1", "clip.in2"};
    static const int64_t sizes[] = {15, 7, 8};
    pc_ctx *ctx = b->ctx;
    json_t *root = json_load_file(shared_path("goldens/numerics/adamw.json"), 0, NULL), *c;
    PC_ASSERT(root, "adamw.json is JSON");
    size_t i;
    json_array_foreach(json_object_get(root, "cases"), i, c) adamw_case(b, (int)i, c);

    // The global norm over three tensors, summed into one number.
    double sum = 0.0;
    for (int k = 0; k < 3; k++)
        ctx->grad_ops->square_sum(ctx, pc_view1(&sum, PC_F64, 1),
                                  load(b, inputs[k], PC_DIMS(sizes[k])));
    double norm = sqrt(sum);
    json_array_foreach(json_object_get(root, "clip_max_norms"), i, c)
    {
        char name[32];
        snprintf(name, sizeof name, "clip%d.norm", (int)i);
        compare(b, pc_view1(&norm, PC_F64, 1), name, 1e-6);
        for (int k = 0; k < 3; k++) {
            const pc_tensor g = load(b, inputs[k], PC_DIMS(sizes[k]));
            op_scale(g, fmin(1.0, json_number_value(c) / (norm + 1e-6)));
            snprintf(name, sizeof name, "clip%d.out%d", (int)i, k);
            compare(b, g, name, 1e-6);
        }
    }
    json_decref(root);
}

// One file of goldens in one precision on one instruction set.
static int section(const char *file, void (*run)(bench *), pc_dtype type, pc_isa isa)
{
    char path[128], how[64];
    snprintf(path, sizeof path, "goldens/numerics/%s", file);
    snprintf(how, sizeof how, "%s %s", pc_dtype_name(type), pc_isa_name(isa));
    bench b = {.o.real = type, .how = how};
    gradcheck_open(&b.o.g, file, 1, 2);
    b.ctx = &b.o.g.ctx;
    b.ctx->real = type;
    b.ctx->ops = pc_cpu_ops(isa, type);
    b.ctx->grad_ops = pc_cpu_grad_ops(isa, type);
    const pc_status st = pc_safetensors_open(&b.file, shared_path(path));
    PC_ASSERT(!st, "%s", pc_error_text());
    run(&b);
    pc_safetensors_close(b.file);
    gradcheck_close(&b.o.g);
    printf("%s %s, %s: %d tensors, worst relative error %.1e (%s)\n",
           b.failed ? "FAILED" : "ok    ", file, how, b.checks, b.worst, b.worst_name);
    return b.failed;
}

int main(void)
{
    static const struct {
        const char *file;
        void (*run)(bench *);
    } sections[] = {{"ops.safetensors", operations},
                    {"attention.safetensors", attention},
                    {"losses.safetensors", losses},
                    {"adamw.safetensors", optimiser}};
    if (!shared_path("goldens/numerics/ops.safetensors")) {
        const char *ci = getenv("CI");
        const bool must = ci && !strcmp(ci, "true");
        printf("%s: ../shared/goldens/numerics is not there\n", must ? "FAILED" : "skipped");
        return must ? EXIT_FAILURE : EXIT_SUCCESS;
    }
    pc_isa best = PC_ISA_REF;
    const pc_status st = pc_isa_choose(&best);
    PC_ASSERT(!st, "%s", pc_error_text());
    int failed = 0;
    for (int i = 0; i < 4; i++) {
        failed += section(sections[i].file, sections[i].run, PC_F64, PC_ISA_REF);
        for (int isa = PC_ISA_REF; isa <= (int)best; isa++)
            failed += section(sections[i].file, sections[i].run, PC_F32, (pc_isa)isa);
    }
    printf("%d failed\n", failed);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

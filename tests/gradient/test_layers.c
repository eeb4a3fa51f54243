/*
 * test_layers.c - is each layer's backward the derivative of its forward, for every parameter and input?
 *
 * Every case is made again with each operation's backward broken (sabotage.h). The gradients of a step (linear.h) begin
 * as NaN and end as those that were zeroed first, whichever parts of a matrix come in which order.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/layers/adapters.h"
#include "model/layers/transformer.h"
#include "tests/support/sabotage.h"
#include "tests/support/sequences.h"

enum { SEED = 20 };
#define TOLERANCE 1e-8 // seen 2.3e-10, of attention with a query/key norm

static int failures;

static void check(bool ok)
{
    failures += !ok;
}

/* Linear and MLP: y = l(x) + r, the scalar w.y. */
typedef struct simple {
    pc_params params;
    pc_linear linear;
    pc_mlp mlp;
    pc_norm norm;
    pc_adapters adapters;
    pc_tensor x, dx, r, w;
    bool want_dx;
    double dropout; // of adapters
    int64_t cut;    // adapted: outputs before and from here on in two calls; 0: in one
} simple;

static double linear_run(pc_ctx *ctx, void *arg, bool backward)
{
    simple *s = arg;
    const pc_tensor y = pc_alloc_like(ctx->act, s->w);
    pc_linear_forward(ctx, y, &s->linear, s->x, s->r);
    if (backward) pc_linear_backward(ctx, s->want_dx ? s->dx : PC_NONE, &s->linear, s->w, s->x);
    return gradcheck_dot(y, s->w);
}

static double mlp_run(pc_ctx *ctx, void *arg, bool backward)
{
    simple *s = arg;
    pc_mlp_kept kept;
    const pc_tensor y = pc_alloc_like(ctx->act, s->w);
    pc_mlp_forward(ctx, y, &kept, &s->mlp, s->x, s->r);
    if (backward) pc_mlp_backward(ctx, s->want_dx ? s->dx : PC_NONE, &s->mlp, &kept, s->w, s->x);
    return gradcheck_dot(y, s->w);
}

static double norm_run(pc_ctx *ctx, void *arg, bool backward)
{
    simple *s = arg;
    pc_norm_kept kept;
    const pc_tensor y = pc_alloc_like(ctx->act, s->w);
    pc_norm_forward(ctx, y, &kept, &s->norm, s->x);
    // The residual path: x reaches the scalar also through r, whose gradient arrives as `add`.
    if (backward) pc_norm_backward(ctx, s->dx, &s->norm, &kept, s->w, s->x, s->r);
    return gradcheck_dot(y, s->w) + gradcheck_dot(s->x, s->r);
}

static double adapted_run(pc_ctx *ctx, void *arg, bool backward)
{
    const simple *s = arg;
    ctx->adapter_dropout = s->dropout;
    ctx->dropout_key =
        (pc_rng_key){.seed = SEED, .stream = PC_STREAM_DROPOUT, .step = (5 << 16) + 3};
    if (!s->cut) {
        const double value = linear_run(ctx, arg, backward);
        ctx->adapter_dropout = 0.0;
        return value;
    }
    const int64_t O = s->linear.O, cuts[] = {0, s->cut, O};
    const pc_tensor y = pc_alloc_like(ctx->act, s->w), dx = pc_alloc_like(ctx->act, s->x);
    if (backward) ctx->ops->zero_forward(ctx, s->dx);
    for (int i = 0; i < 2; i++) {
        pc_linear part = pc_linear_outputs(&s->linear, cuts[i], cuts[i + 1]);
        pc_linear_forward(ctx, pc_cols(y, cuts[i], cuts[i + 1]), &part, s->x,
                          pc_cols(s->r, cuts[i], cuts[i + 1]));
        if (!backward) continue;
        pc_linear_backward(ctx, dx, &part, pc_cols(s->w, cuts[i], cuts[i + 1]), s->x);
        ctx->ops->add_forward(ctx, s->dx, s->dx, dx);
    }
    ctx->adapter_dropout = 0.0;
    return gradcheck_dot(y, s->w);
}

static void open_simple(gradcheck *g, simple *s, const char *label, int64_t N, int64_t I, int64_t O,
                        bool want_dx)
{
    gradcheck_open(g, label, SEED, 2);
    s->want_dx = want_dx;
    if (want_dx)
        s->x = gradcheck_input(g, &s->dx, "x", 1.0, PC_DIMS(N, I));
    else
        s->x = gradcheck_random(g, 1.0, PC_DIMS(N, I));
    s->r = gradcheck_random(g, 1.0, PC_DIMS(N, O));
    s->w = gradcheck_random(g, 1.0, PC_DIMS(N, O));
}

static void test_linear(const char *label, bool bias, const char *frozen, bool want_dx)
{
    gradcheck g;
    simple s = {0};
    open_simple(&g, &s, label, 5, 7, 4, want_dx);
    pc_linear_params(&s.params, &s.linear, "l", 7, 4, bias, 0.5);
    if (frozen) pc_params_train(&s.params, frozen, false);
    gradcheck_params(&g, &s.params, 0.5);
    check(sabotage_check(&g, linear_run, &s, TOLERANCE));
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

/* Adapters on rows [0,3) and [4,6) of six, ranks 2 and 3; `frozen` names what has no gradient. */
static void test_adapted(const char *label, const char *frozen, bool want_dx, double dropout,
                         int64_t cut)
{
    static const pc_adapter_site sites[] = {
        {"l.weight", 0, 3, 2, 8.0, 4.0, ""},
        {"l.weight", 4, 2, 3, 3.0, 0.7, ""},
    };
    gradcheck g;
    simple s = {0};
    open_simple(&g, &s, label, 5, 7, 6, want_dx);
    s.dropout = dropout;
    s.cut = cut;
    pc_linear_params(&s.params, &s.linear, "l", 7, 6, true, 0.5);
    check(!pc_adapters_open(&s.adapters, &s.params, sites, 2, PC_F64, false));
    if (frozen) pc_params_train(&s.params, frozen, false);
    gradcheck_params(&g, &s.params, 0.5);
    check(sabotage_check(&g, adapted_run, &s, TOLERANCE));
    pc_params_close(&s.params);
    pc_adapters_close(&s.adapters);
    gradcheck_close(&g);
}

enum { FRESH_O = 9, FRESH_I = 7, FRESH_N = 5, FRESH_PARTS = 4 };
enum { FRESH_MATRIX = FRESH_O * FRESH_I, FRESH_NUMBERS = FRESH_MATRIX + FRESH_O };

/* Outputs [begin, end) of a step's passes one after the other; rows: of x. The dry run in between counts for nothing. */
typedef struct fresh_case {
    const char *label;
    struct {
        int64_t begin, end, rows;
    } part[FRESH_PARTS];
} fresh_case;

static void backward_parts(gradcheck *g, simple *s, const fresh_case *c)
{
    for (int i = 0; i < FRESH_PARTS && c->part[i].end; i++) {
        const int64_t begin = c->part[i].begin, end = c->part[i].end, rows = c->part[i].rows;
        const pc_tensor dy = pc_rows(pc_cols(s->w, begin, end), 0, rows);
        pc_linear part = pc_linear_outputs(&s->linear, begin, end);
        pc_linear *l = begin == 0 && end == FRESH_O ? &s->linear : &part;
        pc_arena nothing;
        pc_ctx dry = g->ctx;
        pc_arena_open_dry(&nothing, "dry");
        dry.ops = pc_dry_ops();
        dry.grad_ops = pc_dry_grad_ops();
        dry.act = dry.scratch = &nothing;
        pc_linear_backward(&dry, PC_NONE, l, dy, pc_rows(s->x, 0, rows));
        pc_linear_backward(&g->ctx, PC_NONE, l, dy, pc_rows(s->x, 0, rows));
    }
}

static double *fresh_number(const simple *s, int i)
{
    const bool matrix = i < FRESH_MATRIX;
    return (double *)(matrix ? s->linear.weight.g : s->linear.bias.g).data +
           (matrix ? i : i - FRESH_MATRIX);
}

/* Twice: what one step leaves must not reach the next. Adding to zeros gives the same bits as writing. */
static void test_fresh(const fresh_case *c)
{
    gradcheck g;
    simple s = {0};
    double zeroed[FRESH_NUMBERS];
    open_simple(&g, &s, c->label, FRESH_N, FRESH_I, FRESH_O, false);
    pc_linear_params(&s.params, &s.linear, "l", FRESH_I, FRESH_O, true, 0.5);
    gradcheck_params(&g, &s.params, 0.5);

    pc_params_zero_grads(&s.params);
    backward_parts(&g, &s, c);
    for (int i = 0; i < FRESH_NUMBERS; i++) zeroed[i] = *fresh_number(&s, i);
    for (int step = 0; step < 2; step++) {
        for (int i = 0; i < FRESH_NUMBERS && step == 0; i++) *fresh_number(&s, i) = NAN;
        pc_grads_begin(&g.ctx, &s.params);
        backward_parts(&g, &s, c);
        pc_grads_end(&g.ctx, &s.params);
        bool same = true;
        for (int i = 0; i < FRESH_NUMBERS; i++) same &= *fresh_number(&s, i) == zeroed[i];
        printf("%s fresh gradients, %s\n", same ? "ok    " : "FAILED", c->label);
        check(same);
    }
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

static const fresh_case fresh_cases[] = {
    {"nothing", {{0}}},
    {"all at once", {{0, 9, 5}}},
    {"all, twice", {{0, 9, 5}, {0, 9, 3}}},
    {"no rows", {{0, 9, 0}}},
    {"no rows, then some", {{0, 9, 0}, {0, 9, 5}}},
    {"front and back", {{0, 3, 5}, {3, 9, 5}}},
    {"back and front", {{3, 9, 5}, {0, 3, 4}}},
    {"front only", {{0, 4, 5}}},
    {"back only", {{4, 9, 5}}},
    {"middle only", {{3, 6, 5}}},
    {"middle, front, back", {{3, 6, 5}, {0, 3, 5}, {6, 9, 5}}},
    {"middle, back, front, middle", {{3, 6, 5}, {6, 9, 5}, {0, 3, 5}, {3, 6, 2}}},
    {"front, then all", {{0, 4, 5}, {0, 9, 5}}},
    {"back, then all", {{4, 9, 5}, {0, 9, 5}}},
    {"middle, then across its edges", {{3, 6, 5}, {1, 4, 5}, {5, 8, 5}}},
    {"back, then across its edge", {{5, 9, 5}, {3, 7, 5}}},
    {"front, then across its edge", {{0, 4, 5}, {2, 6, 5}}},
    {"front, no rows", {{0, 4, 0}, {0, 9, 5}}},
};

static void test_mlp(const char *label, bool swiglu, bool bias, pc_act act, const char *frozen,
                     bool want_dx)
{
    gradcheck g;
    simple s = {0};
    const pc_mlp_config c = {
        .C = 6, .F = 9, .O = 5, .swiglu = swiglu, .bias = bias, .act = act, .std = 0.5};
    open_simple(&g, &s, label, 4, 6, 5, want_dx);
    pc_mlp_params(&s.params, &s.mlp, "mlp", &c);
    if (frozen) pc_params_train(&s.params, frozen, false);
    gradcheck_params(&g, &s.params, 0.5);
    check(sabotage_check(&g, mlp_run, &s, TOLERANCE));
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

static void test_norm(const char *label, pc_norm_kind kind)
{
    gradcheck g;
    simple s = {0};
    open_simple(&g, &s, label, 4, 6, 6, true);
    pc_norm_params(&s.params, &s.norm, "norm", kind, 6, 1e-5);
    gradcheck_params(&g, &s.params, 0.3);
    check(sabotage_check(&g, norm_run, &s, TOLERANCE));
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

typedef struct attention_case {
    pc_params params;
    pc_attention attn;
    pc_seq seq;
    pc_tensor x, dx, r, w;
    bool want_dx;
} attention_case;

static double attention_run(pc_ctx *ctx, void *arg, bool backward)
{
    attention_case *s = arg;
    pc_attention_kept kept;
    const pc_tensor y = pc_alloc_like(ctx->act, s->w);
    pc_attention_forward(ctx, y, &kept, &s->attn, s->x, &s->seq, NULL, NULL, s->r);
    if (backward)
        pc_attention_backward(ctx, s->want_dx ? s->dx : PC_NONE, &s->attn, &kept, s->w, s->x,
                              &s->seq, NULL);
    return gradcheck_dot(y, s->w);
}

static void test_attention(const char *label, sequences_kind k, int64_t G, bool rope, bool bias,
                           bool qk_norm, const char *frozen, bool want_dx)
{
    gradcheck g;
    attention_case s = {.want_dx = want_dx};
    const int64_t C = 6, H = 4, D = 4, N = sequences_rows(k);
    const pc_attention_config c = {.C = C,
                                   .H = H,
                                   .G = G,
                                   .D = D,
                                   .qkv_bias = bias,
                                   .out_bias = bias,
                                   .qk_norm = qk_norm,
                                   .eps = 1e-5,
                                   .std = 0.5,
                                   .out_std = 0.5};
    gradcheck_open(&g, label, SEED, 2);
    if (want_dx)
        s.x = gradcheck_input(&g, &s.dx, "x", 1.0, PC_DIMS(N, C));
    else
        s.x = gradcheck_random(&g, 1.0, PC_DIMS(N, C));
    s.r = gradcheck_random(&g, 1.0, PC_DIMS(N, C));
    s.w = gradcheck_random(&g, 1.0, PC_DIMS(N, C));
    s.seq = sequences_make(&g, k, rope, D);
    pc_attention_params(&s.params, &s.attn, "attn", &c);
    if (frozen) pc_params_train(&s.params, frozen, false);
    gradcheck_params(&g, &s.params, 0.5);
    check(sabotage_check(&g, attention_run, &s, TOLERANCE));
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

int main(void)
{
    test_linear("linear", false, NULL, true);
    test_linear("linear with bias", true, NULL, true);
    test_linear("linear, weight frozen", true, "l.weight", true);
    test_linear("linear, no dx", true, NULL, false);

    test_adapted("adapters", NULL, true, 0.0, 0);
    test_adapted("adapters, base frozen", "l.weight", true, 0.0, 0);
    test_adapted("adapters, dropout", "l.weight", true, 0.4, 0);
    test_adapted("adapters, dropout, no dx", "l.weight", false, 0.4, 0);
    test_adapted("adapters, one frozen", "l.lora.rows0_3", true, 0.4, 0);
    test_adapted("adapters, cut in two", "l.weight", true, 0.4, 2);
    test_adapted("adapters frozen", "l.lora", true, 0.4, 0);

    for (size_t i = 0; i < sizeof fresh_cases / sizeof *fresh_cases; i++)
        test_fresh(&fresh_cases[i]);

    test_norm("layernorm", PC_LAYERNORM);
    test_norm("rmsnorm", PC_RMSNORM);

    test_mlp("mlp gelu", false, true, PC_ACT_GELU, NULL, true);
    test_mlp("mlp gelu tanh", false, true, PC_ACT_GELU_TANH, NULL, true);
    test_mlp("mlp quick gelu, no bias", false, false, PC_ACT_QUICK, NULL, true);
    test_mlp("mlp silu", false, true, PC_ACT_SILU, NULL, true);
    test_mlp("mlp swiglu", true, false, PC_ACT_SILU, NULL, true);
    test_mlp("mlp swiglu with bias", true, true, PC_ACT_SILU, NULL, true);
    test_mlp("mlp, fc1 frozen", false, true, PC_ACT_GELU, "mlp.fc1", true);
    test_mlp("mlp, fc1 frozen, no dx", false, true, PC_ACT_GELU, "mlp.fc1", false);
    test_mlp("mlp, fc2 frozen, no dx", false, true, PC_ACT_GELU, "mlp.fc2", false);

    test_attention("attention causal, one key head each", SEQ_CAUSAL, 4, false, true, false, NULL,
                   true);
    test_attention("attention bidirectional", SEQ_FULL, 4, false, true, false, NULL, true);
    test_attention("attention causal, grouped heads, rope", SEQ_CAUSAL, 2, true, false, false, NULL,
                   true);
    test_attention("attention, query/key norm", SEQ_CAUSAL, 2, true, true, true, NULL, true);
    test_attention("attention branches, rope", SEQ_BRANCHES, 1, true, true, false, NULL, true);
    test_attention("attention branches, rope, query/key norm", SEQ_BRANCHES, 2, true, true, true,
                   NULL, true);
    test_attention("attention, out frozen", SEQ_CAUSAL, 2, true, true, true, "attn.out", true);
    test_attention("attention, qkv frozen, no dx", SEQ_CAUSAL, 2, true, true, true, "attn.qkv",
                   false);
    test_attention("attention, all but out frozen, no dx", SEQ_CAUSAL, 2, true, true, false,
                   "attn.qkv", false);
    return failures > 0;
}

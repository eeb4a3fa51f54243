/*
 * test_layers_stack.c - the transformer: derivatives in every shape it takes, and what must agree bit for bit.
 *
 *   derivative   a ViT's, a text tower's and a decoder's stack; packed branches; dropout; frozen parts
 *   bits         recompute equals keeping; inference (in place, nothing kept) equals training's forward;
 *                a gradient computed in part equals the whole one; reading some rows is making all of them
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/layers/transformer.h"
#include "tests/support/sabotage.h"
#include "tests/support/sequences.h"

enum { SEED = 21, L = 3, C = 6, STOP = 2 };
#define TOLERANCE 1e-7 // seen 5.9e-9, of a decoder with a query/key norm

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

typedef struct stack {
    gradcheck g;
    pc_params params;
    pc_transformer t;
    pc_seq seq;
    pc_tensor x, dx, w;
    double dropout;
    bool want_dx, reads; // reads: the last block makes every third row alone
    pc_read read;
} stack;

static double run(pc_ctx *ctx, void *arg, bool backward)
{
    stack *s = arg;
    pc_transformer_kept kept;
    ctx->dropout = s->dropout;
    ctx->dropout_key = (pc_rng_key){.seed = SEED, .stream = PC_STREAM_DROPOUT, .step = 5 << 16};
    const pc_tensor y = pc_transformer_forward(ctx, &kept, &s->t, s->x, &s->seq,
                                               s->reads ? &s->read : NULL, NULL, STOP);
    if (backward) {
        const pc_tensor dy = gradcheck_copy(ctx->act, s->w);
        pc_transformer_backward(ctx, s->want_dx ? s->dx : PC_NONE, &s->t, &kept, dy, &s->seq);
    }
    return gradcheck_dot(y, s->w);
}

static pc_transformer_config vit(void)
{
    return (pc_transformer_config){.L = L,
                                   .C = C,
                                   .H = 2,
                                   .G = 2,
                                   .D = 3,
                                   .F = 8,
                                   .norm = PC_LAYERNORM,
                                   .eps = 1e-5,
                                   .act = PC_ACT_GELU,
                                   .qkv_bias = true,
                                   .out_bias = true,
                                   .mlp_bias = true,
                                   .std = 0.5,
                                   .out_std = 0.5,
                                   .fc_std = 0.5};
}

static pc_transformer_config llama(void)
{
    return (pc_transformer_config){.L = L,
                                   .C = C,
                                   .H = 4,
                                   .G = 2,
                                   .D = 2,
                                   .F = 7,
                                   .norm = PC_RMSNORM,
                                   .eps = 1e-5,
                                   .swiglu = true,
                                   .std = 0.5,
                                   .out_std = 0.5,
                                   .fc_std = 0.5};
}

/* Blocks from `stop` on are not run: they get no gradient, so they must be frozen to be variables of nothing. */
static void open(stack *s, const char *label, const pc_transformer_config *c, sequences_kind k,
                 const char *const *frozen, bool want_dx)
{
    *s = (stack){.want_dx = want_dx};
    gradcheck_open(&s->g, label, SEED, 2);
    const int64_t N = sequences_rows(k);
    if (want_dx)
        s->x = gradcheck_input(&s->g, &s->dx, "x", 1.0, PC_DIMS(N, C));
    else
        s->x = gradcheck_random(&s->g, 1.0, PC_DIMS(N, C));
    s->w = gradcheck_random(&s->g, 1.0, PC_DIMS(N, C));
    s->seq = sequences_make(&s->g, k, c->swiglu, c->D);
    pc_transformer_params(&s->params, &s->t, c);
    pc_params_train(&s->params, "blocks.2.", false);
    for (; frozen && *frozen; frozen++)
        check(pc_params_train(&s->params, *frozen, false) > 0, *frozen);
    gradcheck_params(&s->g, &s->params, 0.5);
}

/* From now on rows 1, 4, 7, ... are read and no others. */
static void read_some(stack *s)
{
    const int64_t N = s->x.dim[0], M = (N + 1) / 3;
    const pc_tensor rows = pc_alloc1(&s->g.hold, PC_I32, M);
    for (int64_t i = 0; i < M; i++) pc_i32(rows)[i] = (int32_t)(3 * i + 1);
    pc_read_rows(&s->read, &s->g.hold, &s->seq, rows, N);
    s->w = gradcheck_random(&s->g, 1.0, PC_DIMS(M, C));
    s->reads = true;
}

static void close(stack *s)
{
    pc_transformer_close(&s->t);
    pc_params_close(&s->params);
    gradcheck_close(&s->g);
}

static void derivative(const char *label, pc_transformer_config c, sequences_kind k, double dropout,
                       const char *const *frozen, bool want_dx)
{
    stack s;
    open(&s, label, &c, k, frozen, want_dx);
    s.dropout = dropout;
    check(sabotage_check(&s.g, run, &s, TOLERANCE), label);
    close(&s);
}

static void derivative_read(const char *label, pc_transformer_config c, sequences_kind k,
                            double dropout, const char *const *frozen, bool want_dx)
{
    stack s;
    open(&s, label, &c, k, frozen, want_dx);
    read_some(&s);
    s.dropout = dropout;
    check(sabotage_check(&s.g, run, &s, TOLERANCE), label);
    close(&s);
}

/* Every gradient of a run, one after the other. */
static double *gradients(stack *s, int64_t *n)
{
    *n = 0;
    for (int k = 0; k < s->g.count; k++) *n += pc_numel(s->g.var[k].g);
    double *all = pc_arena_bytes(&s->g.hold, (size_t)*n * sizeof *all);
    pc_params_zero_grads(&s->params);
    gradcheck_once(&s->g, run, s, true);
    for (int64_t k = 0, at = 0; k < s->g.count; k++) {
        const pc_tensor d = s->g.var[k].g;
        memcpy(all + at, d.data, (size_t)pc_numel(d) * sizeof *all);
        at += pc_numel(d);
    }
    return all;
}

static void recompute_is_exact(const char *label, pc_transformer_config c, sequences_kind k,
                               double dropout)
{
    stack s;
    int64_t n, m;
    open(&s, label, &c, k, NULL, true);
    s.dropout = dropout;
    const double *kept = gradients(&s, &n);
    const size_t peak = s.g.act.peak;
    s.g.act.peak = 0;
    s.t.config.recompute = PC_RECOMPUTE_BLOCK;
    const double *again = gradients(&s, &m);
    check(n == m && !memcmp(kept, again, (size_t)n * sizeof *kept), label);
    check(s.g.act.peak < peak, "recompute saves nothing");
    close(&s);
}

static void inference_is_training(const char *label, pc_transformer_config c, sequences_kind k)
{
    stack s;
    open(&s, label, &c, k, NULL, true);
    const double training = gradcheck_once(&s.g, run, &s, false);
    const size_t peak = s.g.act.peak;
    s.g.act.peak = 0;
    s.g.ctx.grad_ops = NULL;
    const double inference = gradcheck_once(&s.g, run, &s, false);
    check(memcmp(&training, &inference, sizeof training) == 0, label);
    check(s.g.act.peak < peak, "inference keeps as much as training");
    close(&s);
}

/* Reading some rows is making all and passing the others no gradient: the same, but for the order of sums. */
static void read_is_whole(const char *label, pc_transformer_config c, sequences_kind k)
{
    stack s;
    int64_t n;
    open(&s, label, &c, k, NULL, true);
    read_some(&s);
    const double loss = gradcheck_once(&s.g, run, &s, false);
    const double *some = gradients(&s, &n);
    const pc_tensor w = s.w, all = gradcheck_random(&s.g, 0.0, PC_DIMS(s.x.dim[0], C));
    for (int64_t i = 0; i < w.dim[0]; i++)
        memcpy((double *)all.data + pc_i32(s.read.rows)[i] * C, (double *)w.data + i * C,
               C * sizeof(double));
    s.w = all;
    s.reads = false;
    check(fabs(gradcheck_once(&s.g, run, &s, false) - loss) < 1e-12, label);
    const double *whole = gradients(&s, &n);
    double worst = 0.0; // seen 2e-15
    for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs(some[i] - whole[i]));
    check(worst < 1e-12, label);
    close(&s);
}

/* What is frozen changes nothing about the gradients of the rest. */
static void part_is_whole(const char *label, pc_transformer_config c, const char *const *frozen)
{
    stack whole, part;
    int64_t n;
    open(&whole, label, &c, SEQ_CAUSAL, NULL, true);
    open(&part, label, &c, SEQ_CAUSAL, frozen, false);
    for (int i = 0; i < whole.params.count; i++) { // both drew in another order
        const pc_tensor from = whole.params.list[i].weight->w;
        memcpy(part.params.list[i].weight->w.data, from.data,
               (size_t)pc_numel(from) * sizeof(double));
    }
    part.x = whole.x;
    part.w = whole.w;
    gradients(&whole, &n);
    gradients(&part, &n);
    for (int i = 0; i < whole.params.count; i++) {
        const pc_tensor a = whole.params.list[i].weight->g, b = part.params.list[i].weight->g;
        if (!pc_present(b)) continue;
        check(!memcmp(a.data, b.data, (size_t)pc_numel(a) * sizeof(double)),
              whole.params.list[i].name);
    }
    close(&whole);
    close(&part);
}

int main(void)
{
    static const char *const block0[] = {"blocks.0.", NULL};
    static const char *const block1[] = {"blocks.1.", NULL};
    static const char *const norms[] = {"blocks.0.norm1", "blocks.0.attn", "blocks.0.norm2", NULL};
    static const char *const only_attn_out[] = {"blocks.0.norm1",       "blocks.0.attn.qkv",
                                                "blocks.0.attn.q_norm", "blocks.0.attn.k_norm",
                                                "blocks.1.mlp",         NULL};
    pc_transformer_config normed_vit = vit(), normed_llama = llama(), shallow = vit();
    normed_vit.qk_norm = normed_llama.qk_norm = true;
    shallow.qkv_bias = shallow.out_bias = shallow.mlp_bias = false;

    derivative("vit", vit(), SEQ_FULL, 0.0, NULL, true);
    derivative("vit, query/key norm", normed_vit, SEQ_FULL, 0.0, NULL, true);
    derivative("vit without biases", shallow, SEQ_FULL, 0.0, NULL, true);
    derivative("text tower", vit(), SEQ_CAUSAL, 0.0, NULL, true);
    derivative("decoder, grouped heads", llama(), SEQ_CAUSAL, 0.0, NULL, true);
    derivative("decoder, query/key norm", normed_llama, SEQ_CAUSAL, 0.0, NULL, true);
    derivative("decoder, branches", llama(), SEQ_BRANCHES, 0.0, NULL, true);
    derivative("decoder, branches, query/key norm", normed_llama, SEQ_BRANCHES, 0.0, NULL, true);
    derivative("vit, dropout", vit(), SEQ_FULL, 0.3, NULL, true);
    derivative("decoder, dropout", llama(), SEQ_CAUSAL, 0.3, NULL, true);
    derivative("vit, no dx", vit(), SEQ_FULL, 0.0, NULL, false);
    derivative("vit, first block frozen", vit(), SEQ_FULL, 0.0, block0, true);
    derivative("vit, first block frozen, no dx", vit(), SEQ_FULL, 0.0, block0, false);
    derivative("vit, last block frozen, no dx", vit(), SEQ_FULL, 0.0, block1, false);
    derivative("decoder, mlp of the first block alone", llama(), SEQ_CAUSAL, 0.0, norms, false);
    derivative("decoder, parts of blocks", normed_llama, SEQ_CAUSAL, 0.0, only_attn_out, false);

    derivative_read("vit, some rows read", vit(), SEQ_FULL, 0.0, NULL, true);
    derivative_read("vit, some rows read, dropout", vit(), SEQ_FULL, 0.3, NULL, true);
    derivative_read("text tower, some rows read, no dx", vit(), SEQ_CAUSAL, 0.0, NULL, false);
    derivative_read("decoder, some rows read", normed_llama, SEQ_CAUSAL, 0.0, NULL, true);
    derivative_read("decoder, branches, some rows read", llama(), SEQ_BRANCHES, 0.0, NULL, true);
    derivative_read("decoder, first block frozen, some rows read", normed_llama, SEQ_CAUSAL, 0.0,
                    block0, false);
    derivative_read("decoder, last block frozen, some rows read", llama(), SEQ_CAUSAL, 0.0, block1,
                    true);

    recompute_is_exact("vit: recompute", vit(), SEQ_FULL, 0.0);
    recompute_is_exact("vit with dropout: recompute", vit(), SEQ_FULL, 0.3);
    recompute_is_exact("decoder: recompute", normed_llama, SEQ_BRANCHES, 0.0);
    inference_is_training("vit: inference", vit(), SEQ_FULL);
    inference_is_training("decoder: inference", normed_llama, SEQ_BRANCHES);
    read_is_whole("vit: read", vit(), SEQ_FULL);
    read_is_whole("decoder: read", normed_llama, SEQ_BRANCHES);
    part_is_whole("decoder: parts", normed_llama, only_attn_out);
    part_is_whole("decoder: first block frozen", normed_llama, block0);
    if (failures == 0) printf("ok     recompute, inference and frozen parts agree bit for bit\n");
    return failures > 0;
}

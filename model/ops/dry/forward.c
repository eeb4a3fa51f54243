/*
 * forward.c - pc_dry_ops: see dry.h for what is counted.
 */
#include <pthread.h>

#include "model/ops/dry/dry.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define NOTHING(name, args)                                                                        \
    static void name##_nothing args                                                                \
    {                                                                                              \
    }
PC_OP_LIST(NOTHING, PC_NO_SLOT, PC_NO_SLOT)
#pragma GCC diagnostic pop

static void product(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor w)
{
    const int64_t N = x.dim[0], I = w.dim[1], O = w.dim[0];
    ctx->flops += 2.0 * (double)N * (double)I * (double)O;
    if (pc_dry_fp8(ctx, x, y)) pc_dry_numbers(ctx, pc_fp8_room(N, I));
    pc_dry_workspace(ctx, pc_linear_workspace(ctx, N, I, O));
}

static void linear(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r)
{
    (void)b, (void)r;
    product(ctx, y, x, w);
}

static void linear_act(pc_ctx *ctx, pc_tensor a, pc_tensor z, pc_tensor x, pc_tensor w, pc_tensor b,
                       pc_act kind)
{
    (void)a, (void)b, (void)kind;
    product(ctx, z, x, w);
}

static void attention(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,
                      pc_tensor v, const pc_mask *mask, double scale)
{
    (void)o, (void)lse, (void)v, (void)scale;
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2], M = k.dim[0], G = k.dim[1];
    ctx->flops += 4.0 * (double)(H * D) * pc_dry_pairs(mask, N, M);
    pc_dry_workspace(ctx, pc_attention_forward_workspace(ctx, N, H, D, M, G));
}

static void rel_terms(pc_ctx *ctx, pc_tensor rh, pc_tensor rw, pc_tensor q, pc_tensor th,
                      pc_tensor tw)
{
    (void)th, (void)tw;
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2], a = rh.dim[2], b = rw.dim[2];
    ctx->flops += 2.0 * (double)N * (double)(H * D) * (double)(a + b);
    pc_dry_workspace(ctx, pc_rel_terms_workspace(ctx, a, b, D));
}

static void rel_attention(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,
                          pc_tensor v, pc_tensor rh, pc_tensor rw, const pc_mask *mask,
                          double scale)
{
    (void)rh, (void)rw;
    attention(ctx, o, lse, q, k, v, mask, scale);
}

static void linear_xent(pc_ctx *ctx, pc_tensor nll, pc_tensor x, pc_tensor w, pc_tensor labels)
{
    (void)nll, (void)labels;
    const int64_t N = x.dim[0], C = x.dim[1], V = w.dim[0];
    ctx->flops += 2.0 * (double)N * (double)C * (double)V;
    pc_dry_workspace(ctx, pc_linear_xent_workspace(ctx, N, C, V));
}

static void contrast(pc_ctx *ctx, pc_tensor u)
{
    const double B = (double)u.dim[0], E = (double)u.dim[1];
    ctx->flops += 2.0 * B * B * E;
    pc_dry_workspace(ctx, pc_contrast_workspace(ctx, u.dim[0]));
}

static void clip_loss(pc_ctx *ctx, pc_tensor loss, pc_tensor lse_row, pc_tensor lse_col,
                      pc_tensor u, pc_tensor v, pc_tensor t)
{
    (void)loss, (void)lse_row, (void)lse_col, (void)v, (void)t;
    contrast(ctx, u);
}

static void sigmoid_loss(pc_ctx *ctx, pc_tensor loss, pc_tensor u, pc_tensor v, pc_tensor t,
                         pc_tensor b)
{
    (void)loss, (void)v, (void)t, (void)b;
    contrast(ctx, u);
}

#define SLOT(name, args) .name##_forward = name##_nothing,
static pc_ops table = {PC_OP_LIST(SLOT, PC_NO_SLOT, PC_NO_SLOT)};
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void)
{
    table.linear_forward = linear;
    table.linear_act_forward = linear_act;
    table.attention_forward = attention;
    table.rel_terms_forward = rel_terms;
    table.rel_attention_forward = rel_attention;
    table.linear_xent_forward = linear_xent;
    table.clip_loss_forward = clip_loss;
    table.sigmoid_loss_forward = sigmoid_loss;
}

const pc_ops *pc_dry_ops(void)
{
    pthread_once(&once, fill);
    return &table;
}

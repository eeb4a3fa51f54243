/*
 * backward.c - pc_dry_grad_ops: see dry.h for what is counted.
 */
#include <pthread.h>

#include "model/ops/dry/dry.h"
#include "model/ops/step.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define NOTHING(name, args)                                                                        \
    static void name##_nothing args                                                                \
    {                                                                                              \
    }
PC_OP_LIST(PC_NO_SLOT, NOTHING, NOTHING)
#pragma GCC diagnostic pop

static void linear(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor db, pc_tensor dy, pc_tensor x,
                   pc_tensor w, bool fresh)
{
    (void)db, (void)fresh;
    const int64_t N = dy.dim[0], I = w.dim[1], O = w.dim[0];
    const double products = (double)pc_present(dx) + (double)pc_present(dw);
    ctx->flops += 2.0 * (double)N * (double)I * (double)O * products;
    if (pc_dry_fp8(ctx, x, dy))
        pc_dry_numbers(ctx, pc_fp8_gradient_room(N, I, O, pc_present(dx), pc_present(dw)));
    pc_dry_workspace(ctx, pc_linear_workspace(ctx, N, I, O));
}

static void layernorm(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy,
                      pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd, pc_tensor add)
{
    (void)dx, (void)dg, (void)db, (void)dy, (void)x, (void)mean, (void)rstd, (void)add;
    pc_dry_workspace(ctx, pc_norm_workspace(ctx, g.dim[0]));
}

static void rmsnorm(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor dy, pc_tensor x, pc_tensor g,
                    pc_tensor rstd, pc_tensor add)
{
    (void)dx, (void)dg, (void)dy, (void)x, (void)rstd, (void)add;
    pc_dry_workspace(ctx, pc_norm_workspace(ctx, g.dim[0]));
}

static void attention(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout,
                      pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o, pc_tensor lse,
                      const pc_mask *mask, double scale)
{
    (void)dq, (void)dk, (void)dv, (void)dout, (void)v, (void)o, (void)lse, (void)scale;
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2], M = k.dim[0], G = k.dim[1];
    ctx->flops += 10.0 * (double)(H * D) * pc_dry_pairs(mask, N, M);
    pc_dry_workspace(ctx, pc_attention_backward_workspace(ctx, N, H, D, M, G));
}

static void rel_terms(pc_ctx *ctx, pc_tensor dq, pc_tensor dth, pc_tensor dtw, pc_tensor drh,
                      pc_tensor drw, pc_tensor q, pc_tensor th, pc_tensor tw, pc_tensor add)
{
    (void)th, (void)tw, (void)add;
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2], a = drh.dim[2], b = drw.dim[2];
    const double high = (double)pc_present(dq) + (double)pc_present(dth);
    const double wide = (double)pc_present(dq) + (double)pc_present(dtw);
    ctx->flops += 2.0 * (double)N * (double)(H * D) * ((double)a * high + (double)b * wide);
    pc_dry_workspace(ctx, pc_rel_terms_workspace(ctx, a, b, D));
}

static void rel_attention(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor drh,
                          pc_tensor drw, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,
                          pc_tensor rh, pc_tensor rw, pc_tensor o, pc_tensor lse,
                          const pc_mask *mask, double scale)
{
    (void)drh, (void)drw, (void)rh, (void)rw;
    attention(ctx, dq, dk, dv, dout, q, k, v, o, lse, mask, scale);
}

static void linear_xent(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x,
                        pc_tensor w, pc_tensor labels, pc_tensor coef)
{
    (void)nll, (void)labels, (void)coef;
    const int64_t N = x.dim[0], C = x.dim[1], V = w.dim[0];
    const double products = 1.0 + (double)pc_present(dx) + (double)pc_present(dw);
    ctx->flops += 2.0 * (double)N * (double)C * (double)V * products;
    pc_dry_workspace(ctx, pc_linear_xent_workspace(ctx, N, C, V));
}

static void contrast(pc_ctx *ctx, pc_tensor u, pc_tensor du, pc_tensor dv)
{
    const double B = (double)u.dim[0], E = (double)u.dim[1];
    ctx->flops += 2.0 * B * B * E * (1.0 + (double)pc_present(du) + (double)pc_present(dv));
    pc_dry_workspace(ctx, pc_contrast_workspace(ctx, u.dim[0]));
}

static void clip_loss(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor u,
                      pc_tensor v, pc_tensor t, pc_tensor lse_row, pc_tensor lse_col, double scale)
{
    (void)dt, (void)v, (void)t, (void)lse_row, (void)lse_col, (void)scale;
    contrast(ctx, u, du, dv);
}

static void sigmoid_loss(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor db,
                         pc_tensor u, pc_tensor v, pc_tensor t, pc_tensor b, double scale)
{
    (void)dt, (void)db, (void)v, (void)t, (void)b, (void)scale;
    contrast(ctx, u, du, dv);
}

static void square_sum(pc_ctx *ctx, pc_tensor out, pc_tensor x)
{
    (void)out;
    pc_dry_workspace(ctx, pc_square_sum_workspace(ctx, pc_numel(x)));
}

static void square_sums(pc_ctx *ctx, pc_tensor sums, const pc_piece *list, int64_t count)
{
    for (int64_t i = 0; i < count; i++) square_sum(ctx, sums, pc_view1(NULL, PC_F32, list[i].n));
}

// Three products a step, by either shape's shorter side r.
static void orthogonal(pc_ctx *ctx, pc_tensor X)
{
    const int64_t B = X.dim[0], R = X.dim[1], C = X.dim[2], r = R < C ? R : C;
    const size_t mark = pc_arena_mark(ctx->scratch);
    // A device takes all B matrices at once.
    const int64_t held = ctx->scratch->memory ? B : 1;
    pc_alloc3(ctx->scratch, X.dtype, held, r, r);
    pc_alloc3(ctx->scratch, X.dtype, held, r, r);
    pc_alloc3(ctx->scratch, X.dtype, held, R, C);
    pc_dry_workspace(ctx, pc_linear_workspace(ctx, r, C, R));
    pc_arena_release(ctx->scratch, mark);
    ctx->flops += (double)PC_QUINTIC_STEPS * 2.0 * (double)B * (double)r *
                  (2.0 * (double)R * (double)C + (double)r * (double)r);
}

#define BACKWARD_SLOT(name, args) .name##_backward = name##_nothing,
#define TRAIN_SLOT(name, args)    .name = name##_nothing,
static pc_grad_ops table = {PC_OP_LIST(PC_NO_SLOT, BACKWARD_SLOT, TRAIN_SLOT)};
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void)
{
    table.linear_backward = linear;
    table.layernorm_backward = layernorm;
    table.rmsnorm_backward = rmsnorm;
    table.attention_backward = attention;
    table.rel_terms_backward = rel_terms;
    table.rel_attention_backward = rel_attention;
    table.linear_xent_backward = linear_xent;
    table.clip_loss_backward = clip_loss;
    table.sigmoid_loss_backward = sigmoid_loss;
    table.square_sum = square_sum;
    table.square_sums = square_sums;
    table.orthogonal = orthogonal;
}

const pc_grad_ops *pc_dry_grad_ops(void)
{
    pthread_once(&once, fill);
    return &table;
}

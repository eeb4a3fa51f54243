/*
 * norm.c - LayerNorm and RMSNorm behind one call.
 */
#include "model/layers/norm.h"

void pc_norm_params(pc_params *p, pc_norm *l, const char *name, pc_norm_kind kind, int64_t C,
                    double eps)
{
    *l = (pc_norm){.kind = kind, .eps = eps};
    const size_t prefix = pc_params_push(p, "%s", name);
    pc_param_add(p, &l->gain, "weight", PC_INIT_ONE, 0.0, PC_DIMS(C));
    if (kind == PC_LAYERNORM) pc_param_add(p, &l->bias, "bias", PC_INIT_ZERO, 0.0, PC_DIMS(C));
    pc_params_pop(p, prefix);
}

bool pc_norm_trains(const pc_norm *l)
{
    return pc_present(l->gain.g) || pc_present(l->bias.g);
}

void pc_norm_forward(pc_ctx *ctx, pc_tensor y, pc_norm_kept *kept, const pc_norm *l, pc_tensor x)
{
    *kept = (pc_norm_kept){0};
    if (l->kind == PC_LAYERNORM) {
        kept->mean = pc_alloc1(ctx->act, pc_stat(ctx), x.dim[0]);
        kept->rstd = pc_alloc1(ctx->act, pc_stat(ctx), x.dim[0]);
        ctx->ops->layernorm_forward(ctx, y, kept->mean, kept->rstd, x, l->gain.w, l->bias.w,
                                    l->eps);
    } else {
        kept->rstd = x.rank == 3 ? pc_alloc2(ctx->act, pc_stat(ctx), x.dim[0], x.dim[1])
                                 : pc_alloc1(ctx->act, pc_stat(ctx), x.dim[0]);
        ctx->ops->rmsnorm_forward(ctx, y, kept->rstd, x, l->gain.w, l->eps);
    }
}

void pc_norm_backward(pc_ctx *ctx, pc_tensor dx, pc_norm *l, const pc_norm_kept *kept, pc_tensor dy,
                      pc_tensor x, pc_tensor add)
{
    if (l->kind == PC_LAYERNORM)
        ctx->grad_ops->layernorm_backward(ctx, dx, l->gain.g, l->bias.g, dy, x, l->gain.w,
                                          kept->mean, kept->rstd, add);
    else
        ctx->grad_ops->rmsnorm_backward(ctx, dx, l->gain.g, dy, x, l->gain.w, kept->rstd, add);
}

/*
 * mlp.c - the feed-forward half of a block, of either kind.
 */
#include "model/layers/mlp.h"

void pc_mlp_params(pc_params *p, pc_mlp *l, const char *name, const pc_mlp_config *c)
{
    l->config = *c;
    const size_t prefix = pc_params_push(p, "%s", name);
    if (c->swiglu) {
        pc_linear_params(p, &l->up, "gate_up", c->C, 2 * c->F, c->bias, c->std);
        const int64_t gate_up[] = {c->F, c->F};
        pc_param_fused(p, &l->up.weight, 2, gate_up);
        pc_linear_params(p, &l->down, "down", c->F, c->O, c->bias, c->out_std);
    } else {
        pc_linear_params(p, &l->up, "fc1", c->C, c->F, c->bias, c->std);
        pc_linear_params(p, &l->down, "fc2", c->F, c->O, c->bias, c->out_std);
    }
    pc_params_pop(p, prefix);
}

bool pc_mlp_trains(const pc_mlp *l)
{
    return pc_linear_trains(&l->up) || pc_linear_trains(&l->down);
}

void pc_mlp_forward(pc_ctx *ctx, pc_tensor y, pc_mlp_kept *kept, const pc_mlp *l, pc_tensor x,
                    pc_tensor r)
{
    const int64_t N = x.dim[0], F = l->config.F;
    kept->z = pc_alloc2(ctx->act, ctx->real, N, l->config.swiglu ? 2 * F : F);
    kept->h = pc_alloc2(ctx->act, ctx->real, N, F);
    if (l->config.swiglu) {
        pc_linear_forward(ctx, kept->z, &l->up, x, PC_NONE);
        ctx->ops->swiglu_forward(ctx, kept->h, kept->z);
    } else {
        pc_linear_act_forward(ctx, kept->h, kept->z, &l->up, x, l->config.act);
    }
    if (pc_present(y)) pc_linear_forward(ctx, y, &l->down, kept->h, r);
}

void pc_mlp_backward(pc_ctx *ctx, pc_tensor dx, pc_mlp *l, const pc_mlp_kept *kept, pc_tensor dy,
                     pc_tensor x)
{
    if (!pc_present(dx) && !pc_linear_trains(&l->up)) {
        pc_linear_backward(ctx, PC_NONE, &l->down, dy, kept->h);
        return;
    }
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor dh = pc_alloc_like(ctx->scratch, kept->h);
    pc_linear_backward(ctx, dh, &l->down, dy, kept->h);
    if (l->config.swiglu) {
        const pc_tensor dz = pc_alloc_like(ctx->scratch, kept->z);
        ctx->grad_ops->swiglu_backward(ctx, dz, dh, kept->z);
        pc_linear_backward(ctx, dx, &l->up, dz, x);
    } else {
        pc_linear_act_backward_all(ctx, dx, dh, &l->up, dh, kept->z, x, l->config.act);
    }
    pc_arena_release(ctx->scratch, mark);
}

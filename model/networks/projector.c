/*
 * projector.c - linears with an activation between them, and a place table on top.
 */
#include "model/networks/projector.h"

#include <math.h>

#include "model/layers/taps.h"

void pc_projector_params(pc_params *p, pc_projector *l, const pc_projector_config *c)
{
    *l = (pc_projector){.config = *c};
    const size_t prefix = pc_params_push(p, "projector");
    for (int64_t i = 0; i < c->depth; i++) {
        char name[32] = "linear.0";
        name[7] = (char)('0' + i);
        const int64_t in = i == 0 ? c->in : c->out;
        const double std = c->std > 0.0 ? c->std : sqrt(2.0 / (double)(in + c->out));
        pc_linear_params(p, &l->linear[i], name, in, c->out, c->bias, std);
    }
    if (c->positions > 0) {
        pc_param_add(p, &l->positions, "positions", PC_INIT_NORMAL, 0.1,
                     PC_DIMS(c->positions, c->out));
        if (p->count > 0) p->list[p->count - 1].decay = false;
    }
    pc_params_pop(p, prefix);
}

pc_status pc_projector_validate(const pc_projector_config *c)
{
    if (c->depth < 1 || c->depth > PC_PROJECTOR_MAX)
        return pc_fail(PC_ERR_INPUT, "projector.depth: %lld is not in 1 .. %d", (long long)c->depth,
                       PC_PROJECTOR_MAX);
    if (c->in < 1 || c->out < 1)
        return pc_fail(PC_ERR_INPUT, "projector: %lld wide in, %lld out", (long long)c->in,
                       (long long)c->out);
    return PC_OK;
}

pc_tensor pc_projector_forward(pc_ctx *ctx, pc_projector_kept *kept, const pc_projector *l,
                               pc_tensor x)
{
    const pc_projector_config *c = &l->config;
    const int64_t N = x.dim[0];
    *kept = (pc_projector_kept){0};
    const pc_tensor y = pc_alloc2(ctx->act, ctx->real, N, c->out);
    for (int64_t i = 0; i < c->depth; i++) {
        kept->in[i] = x;
        if (i == c->depth - 1) {
            pc_linear_forward(ctx, y, &l->linear[i], x, PC_NONE);
            break;
        }
        kept->z[i] = pc_alloc2(ctx->act, ctx->real, N, c->out);
        x = pc_alloc2(ctx->act, ctx->real, N, c->out);
        pc_linear_act_forward(ctx, x, kept->z[i], &l->linear[i], kept->in[i], c->act);
    }
    if (c->positions > 0) {
        PC_ASSERT(N % c->positions == 0, "%lld rows, %lld positions", (long long)N,
                  (long long)c->positions);
        kept->index = pc_alloc1(ctx->act, PC_I32, N);
        if (!ctx->act->dry)
            for (int64_t n = 0; n < N; n++) pc_i32(kept->index)[n] = (int32_t)(n % c->positions);
        ctx->ops->add_rows_forward(ctx, y, y, l->positions.w, kept->index);
    }
    pc_tap_add(ctx, y, "projector.out");
    return y;
}

bool pc_projector_trains(const pc_projector *l)
{
    for (int64_t i = 0; i < l->config.depth; i++)
        if (pc_linear_trains(&l->linear[i])) return true;
    return pc_present(l->positions.g);
}

void pc_projector_backward(pc_ctx *ctx, pc_tensor dx, pc_projector *l,
                           const pc_projector_kept *kept, pc_tensor dy)
{
    const pc_projector_config *c = &l->config;
    if (pc_present(l->positions.g))
        ctx->grad_ops->add_rows_backward(ctx, l->positions.g, dy, kept->index);
    int64_t lowest = 0; // below it no gradient is wanted
    if (!pc_present(dx))
        while (lowest < c->depth && !pc_linear_trains(&l->linear[lowest])) lowest++;
    const size_t mark = pc_arena_mark(ctx->scratch);
    for (int64_t i = c->depth - 1; i >= lowest; i--) {
        if (i == lowest) {
            pc_linear_backward(ctx, i == 0 ? dx : PC_NONE, &l->linear[i], dy, kept->in[i]);
            break;
        }
        const pc_tensor dz = pc_alloc_like(ctx->scratch, kept->in[i]);
        pc_linear_backward(ctx, dz, &l->linear[i], dy, kept->in[i]);
        pc_linear_act_backward(ctx, dz, &l->linear[i - 1], dz, kept->z[i - 1], c->act);
        dy = dz;
    }
    pc_arena_release(ctx->scratch, mark);
}

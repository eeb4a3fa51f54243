/*
 * linear.c - see linear.h for formulas and shapes.
 */
#include "model/layers/linear.h"

void pc_linear_params(pc_params *p, pc_linear *l, const char *name, int64_t I, int64_t O, bool bias,
                      double std)
{
    *l = (pc_linear){.I = I, .O = O, .has_bias = bias};
    const size_t prefix = pc_params_push(p, "%s", name);
    pc_param_add(p, &l->weight, "weight", PC_INIT_NORMAL, std, PC_DIMS(O, I));
    pc_param_hidden(p, &l->weight, true);
    if (bias) pc_param_add(p, &l->bias, "bias", PC_INIT_ZERO, 0.0, PC_DIMS(O));
    pc_params_pop(p, prefix);
}

bool pc_linear_trains(const pc_linear *l)
{
    return pc_present(l->weight.g) || pc_present(l->bias.g);
}

static pc_weight weight_rows(pc_weight w, int64_t begin, int64_t end)
{
    if (pc_present(w.w)) w.w = pc_rows(w.w, begin, end);
    if (pc_present(w.g)) w.g = pc_rows(w.g, begin, end);
    return w;
}

pc_linear pc_linear_outputs(const pc_linear *l, int64_t begin, int64_t end)
{
    pc_linear part = *l;
    part.O = end - begin;
    part.weight = weight_rows(l->weight, begin, end);
    part.bias = weight_rows(l->bias, begin, end);
    return part;
}

static void check(const pc_linear *l, pc_tensor y, pc_tensor x)
{
    PC_ASSERT(x.dim[1] == l->I && y.dim[1] == l->O && x.dim[0] == y.dim[0],
              "linear (%lld,%lld): x (%lld,%lld), y (%lld,%lld)", (long long)l->O, (long long)l->I,
              (long long)x.dim[0], (long long)x.dim[1], (long long)y.dim[0], (long long)y.dim[1]);
}

void pc_linear_forward(pc_ctx *ctx, pc_tensor y, const pc_linear *l, pc_tensor x, pc_tensor r)
{
    check(l, y, x);
    ctx->ops->linear_forward(ctx, y, x, l->weight.w, l->bias.w, r);
}

void pc_linear_act_forward(pc_ctx *ctx, pc_tensor a, pc_tensor z, const pc_linear *l, pc_tensor x,
                           pc_act kind)
{
    check(l, a, x);
    ctx->ops->linear_act_forward(ctx, a, z, x, l->weight.w, l->bias.w, kind);
}

void pc_linear_backward(pc_ctx *ctx, pc_tensor dx, pc_linear *l, pc_tensor dy, pc_tensor x)
{
    check(l, dy, x);
    if (!pc_present(dx) && !pc_linear_trains(l)) return;
    ctx->grad_ops->linear_backward(ctx, dx, l->weight.g, l->bias.g, dy, x, l->weight.w);
}

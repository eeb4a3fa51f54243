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
    pc_param_linear(p, &l->weight, l);
    if (bias) pc_param_add(p, &l->bias, "bias", PC_INIT_ZERO, 0.0, PC_DIMS(O));
    pc_params_pop(p, prefix);
}

static bool base_trains(const pc_linear *l)
{
    return pc_present(l->weight.g) || pc_present(l->bias.g);
}

static bool adapter_trains(const pc_adapter *a)
{
    return pc_present(a->A.g) || pc_present(a->B.g);
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
    part.listed = l->listed ? l->listed : (pc_linear *)l; // changed by backward alone, which may
    part.first += begin;
    part.O = end - begin;
    part.weight = weight_rows(l->weight, begin, end);
    part.bias = weight_rows(l->bias, begin, end);
    part.pieces = 0;
    int64_t row = 0;
    for (int i = 0; i < l->pieces; row += l->piece[i++].dim[0]) {
        const int64_t rows = l->piece[i].dim[0];
        const int64_t from = begin > row ? begin - row : 0,
                      to = end < row + rows ? end - row : rows;
        if (from < to) part.piece[part.pieces++] = pc_rows(l->piece[i], from, to);
    }
    return part;
}

void pc_param_place(pc_param *p, const pc_tensor *piece, int pieces)
{
    int64_t rows = 0;
    PC_ASSERT(p->stays && p->rank == 2 && pieces >= 1 && pieces <= (p->linear ? PC_PIECES : 1),
              "'%s' in %d pieces", p->name, pieces);
    for (int i = 0; i < pieces; i++) {
        PC_ASSERT(piece[i].rank == 2 && piece[i].dim[1] == p->dim[1] && pc_is_dense(piece[i]),
                  "piece %d of '%s' has rows of %lld", i, p->name, (long long)piece[i].dim[1]);
        rows += piece[i].dim[0];
        if (p->linear) p->linear->piece[i] = piece[i];
    }
    PC_ASSERT(rows == p->dim[0], "'%s': %lld rows placed of %lld", p->name, (long long)rows,
              (long long)p->dim[0]);
    if (p->linear) p->linear->pieces = pieces;
    p->weight->w = PC_NONE;
    if (pieces > 1) return;
    p->weight->w = piece[0];
    if (p->linear) p->linear->pieces = 0;
}

/* Rows of W that both an adapter and these outputs have, counted from the first output; false: none. */
static bool shared_rows(int64_t *begin, int64_t *end, const pc_linear *l, const pc_adapter *a)
{
    *begin = a->row > l->first ? a->row - l->first : 0;
    *end = a->row + a->rows - l->first;
    if (*end > l->O) *end = l->O;
    return *begin < *end;
}

bool pc_linear_trains(const pc_linear *l)
{
    int64_t begin, end;
    for (const pc_adapter *a = l->adapters; a; a = a->next)
        if (shared_rows(&begin, &end, l, a) && adapter_trains(a)) return true;
    return base_trains(l);
}

static void check(const pc_linear *l, pc_tensor y, pc_tensor x)
{
    PC_ASSERT(x.dim[1] == l->I && y.dim[1] == l->O && x.dim[0] == y.dim[0],
              "linear (%lld,%lld): x (%lld,%lld), y (%lld,%lld)", (long long)l->O, (long long)l->I,
              (long long)x.dim[0], (long long)x.dim[1], (long long)y.dim[0], (long long)y.dim[1]);
}

/* ---- adapters ---- */

/* The key of an adapter's mask: the same whenever a pass is run again under the same dropout_key. */
static pc_rng_key mask_key(const pc_ctx *ctx, const pc_adapter *a)
{
    const uint64_t pass = ctx->dropout_key.step & ~(uint64_t)0xffff;
    return (pc_rng_key){.seed = ctx->dropout_key.seed,
                        .stream = PC_STREAM_ADAPTER,
                        .step = pass | (uint64_t)a->number};
}

/* drop(x), which is x itself outside training. */
static pc_tensor dropped(pc_ctx *ctx, const pc_adapter *a, pc_tensor x)
{
    if (ctx->adapter_dropout == 0.0) return x;
    const pc_tensor y = pc_alloc_like(ctx->scratch, x);
    ctx->ops->dropout_forward(ctx, y, x, ctx->adapter_dropout, mask_key(ctx, a));
    return y;
}

/* u = s drop(x) A^T */
static pc_tensor reduced(pc_ctx *ctx, const pc_adapter *a, pc_tensor dropped_x)
{
    const pc_tensor u = pc_alloc2(ctx->scratch, ctx->real, dropped_x.dim[0], a->r);
    ctx->ops->linear_forward(ctx, u, dropped_x, a->A.w, PC_NONE, PC_NONE);
    ctx->ops->scale_forward(ctx, u, u, a->scale);
    return u;
}

static void adapters_forward(pc_ctx *ctx, pc_tensor y, const pc_linear *l, pc_tensor x)
{
    int64_t begin, end;
    for (const pc_adapter *a = l->adapters; a; a = a->next) {
        if (!shared_rows(&begin, &end, l, a)) continue;
        const int64_t shift = l->first - a->row; // from outputs to rows of B
        const size_t mark = pc_arena_mark(ctx->scratch);
        const pc_tensor u = reduced(ctx, a, dropped(ctx, a, x));
        const pc_tensor rows = pc_cols(y, begin, end),
                        B = pc_rows(a->B.w, begin + shift, end + shift);
        ctx->ops->linear_forward(ctx, rows, u, B, PC_NONE, rows);
        pc_arena_release(ctx->scratch, mark);
    }
}

static void adapter_backward(pc_ctx *ctx, pc_tensor dx, const pc_linear *l, pc_adapter *a,
                             pc_tensor dy, pc_tensor x)
{
    int64_t begin, end;
    if (!shared_rows(&begin, &end, l, a) || !(pc_present(dx) || adapter_trains(a))) return;
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_weight B = weight_rows(a->B, begin + l->first - a->row, end + l->first - a->row);
    const pc_tensor du = pc_alloc2(ctx->scratch, ctx->real, x.dim[0], a->r);
    pc_tensor u = PC_NONE, through = PC_NONE; // through: dx of this adapter
    if (adapter_trains(a)) x = dropped(ctx, a, x);
    if (pc_present(B.g)) u = reduced(ctx, a, x);
    if (pc_present(dx)) through = pc_alloc_like(ctx->scratch, dx);

    ctx->grad_ops->linear_backward(ctx, du, B.g, PC_NONE, pc_cols(dy, begin, end), u, B.w, false);
    ctx->ops->scale_forward(ctx, du, du, a->scale);
    ctx->grad_ops->linear_backward(ctx, through, a->A.g, PC_NONE, du, x, a->A.w, false);
    if (pc_present(dx)) {
        if (ctx->adapter_dropout > 0.0)
            ctx->grad_ops->dropout_backward(ctx, through, through, ctx->adapter_dropout,
                                            mask_key(ctx, a));
        ctx->ops->add_forward(ctx, dx, dx, through);
    }
    pc_arena_release(ctx->scratch, mark);
}

/* ---- gradients of a step ---- */

static void zero_rows(pc_ctx *ctx, pc_linear *l, int64_t begin, int64_t end)
{
    if (begin < end) ctx->ops->zero_forward(ctx, pc_rows(l->weight.g, begin, end));
}

void pc_grads_begin(pc_ctx *ctx, pc_params *p)
{
    for (int i = 0; i < p->count; i++) {
        pc_linear *l = p->list[i].linear;
        const pc_tensor g = p->list[i].weight->g;
        if (!pc_present(g)) continue;
        if (l) {
            l->fresh_from = 0;
            l->fresh_to = l->O;
        } else {
            ctx->ops->zero_forward(ctx, g);
        }
    }
}

void pc_grads_end(pc_ctx *ctx, pc_params *p)
{
    for (int i = 0; i < p->count; i++) {
        pc_linear *l = p->list[i].linear;
        if (!l || !pc_present(l->weight.g)) continue;
        zero_rows(ctx, l, l->fresh_from, l->fresh_to);
        l->fresh_from = l->fresh_to = 0;
    }
}

/*
 * Whether the gradient of these outputs' rows holds nothing; from now on it holds what the caller adds (a dry run adds
 * nothing). Rows that cannot stay fresh are zeroed: those that share a product with rows that are not, and those in
 * front of a part from the middle.
 */
static bool take_fresh(pc_ctx *ctx, pc_linear *l)
{
    pc_linear *all = l->listed ? l->listed : l;
    int64_t *from = &all->fresh_from, *to = &all->fresh_to;
    const int64_t begin = l->first > *from ? l->first : *from;
    const int64_t end = l->first + l->O < *to ? l->first + l->O : *to;
    if (ctx->scratch->dry || !pc_present(l->weight.g) || begin >= end) return false;

    const bool fresh = end - begin == l->O;
    if (!fresh) zero_rows(ctx, all, begin, end);
    if (end == *to) {
        *to = begin;
    } else {
        zero_rows(ctx, all, *from, begin);
        *from = end;
    }
    return fresh;
}

/* ---- the whole ---- */

/* Columns [begin, end) of an operand that may be absent; of a bias, its elements. */
static pc_tensor columns(pc_tensor x, int64_t begin, int64_t end)
{
    if (!pc_present(x)) return x;
    return x.rank == 1 ? pc_rows(x, begin, end) : pc_cols(x, begin, end);
}

/* y = x W^T + b + r, or with `a` z = y, a = f(z) and no r; piece by piece where W is in pieces. */
static void product(pc_ctx *ctx, pc_tensor a, pc_tensor y, const pc_linear *l, pc_tensor x,
                    pc_tensor r, pc_act kind)
{
    int64_t row = 0;
    for (int i = 0; i < (l->pieces ? l->pieces : 1); i++) {
        const pc_tensor w = l->pieces ? l->piece[i] : l->weight.w;
        const int64_t end = l->pieces ? row + w.dim[0] : l->O;
        const pc_tensor yi = columns(y, row, end), b = columns(l->bias.w, row, end);
        if (pc_present(a))
            ctx->ops->linear_act_forward(ctx, columns(a, row, end), yi, x, w, b, kind);
        else
            ctx->ops->linear_forward(ctx, yi, x, w, b, columns(r, row, end));
        row = end;
    }
}

void pc_linear_forward(pc_ctx *ctx, pc_tensor y, const pc_linear *l, pc_tensor x, pc_tensor r)
{
    check(l, y, x);
    product(ctx, PC_NONE, y, l, x, r, PC_ACT_RELU);
    adapters_forward(ctx, y, l, x);
}

void pc_linear_act_forward(pc_ctx *ctx, pc_tensor a, pc_tensor z, const pc_linear *l, pc_tensor x,
                           pc_act kind)
{
    check(l, a, x);
    if (l->adapters) {
        pc_linear_forward(ctx, z, l, x, PC_NONE);
        ctx->ops->act_forward(ctx, a, z, kind);
        return;
    }
    product(ctx, a, z, l, x, PC_NONE, kind);
}

void pc_linear_act_backward(pc_ctx *ctx, pc_tensor dz, const pc_linear *l, pc_tensor da,
                            pc_tensor z, pc_act kind)
{
    if (l->adapters)
        ctx->grad_ops->act_backward(ctx, dz, da, z, kind);
    else
        ctx->grad_ops->linear_act_backward(ctx, dz, PC_NONE, da, z, kind);
}

static void backward(pc_ctx *ctx, pc_tensor dx, pc_linear *l, pc_tensor db, pc_tensor dy,
                     pc_tensor x)
{
    check(l, dy, x);
    if (pc_present(dx) || base_trains(l))
        ctx->grad_ops->linear_backward(ctx, dx, l->weight.g, db, dy, x, l->weight.w,
                                       take_fresh(ctx, l));
    for (pc_adapter *a = l->adapters; a; a = a->next) adapter_backward(ctx, dx, l, a, dy, x);
}

void pc_linear_backward(pc_ctx *ctx, pc_tensor dx, pc_linear *l, pc_tensor dy, pc_tensor x)
{
    backward(ctx, dx, l, l->bias.g, dy, x);
}

void pc_linear_act_backward_all(pc_ctx *ctx, pc_tensor dx, pc_tensor dz, pc_linear *l, pc_tensor da,
                                pc_tensor z, pc_tensor x, pc_act kind)
{
    if (l->adapters) {
        pc_linear_act_backward(ctx, dz, l, da, z, kind);
        pc_linear_backward(ctx, dx, l, dz, x);
        return;
    }
    ctx->grad_ops->linear_act_backward(ctx, dz, l->bias.g, da, z, kind);
    backward(ctx, dx, l, PC_NONE, dz, x);
}

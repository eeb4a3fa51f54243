/*
 * attention.c - grouped-head self-attention, with a KV cache as an argument.
 *
 * The fused buffer holds, in each row, H heads of queries, G of keys, G of values, each D wide. Rotary
 * positions turn queries and keys in place, in one pass over the H + G heads that stand side by side. With a
 * query/key norm the products before it are kept too (its backward reads them), and values stay there.
 */
#include "model/layers/attention.h"

#include <math.h>

#include "model/layers/mask.h"

void pc_attention_params(pc_params *p, pc_attention *l, const char *name,
                         const pc_attention_config *c)
{
    *l = (pc_attention){.config = *c};
    PC_ASSERT(c->G > 0 && c->H % c->G == 0, "%lld heads, %lld key heads", (long long)c->H,
              (long long)c->G);
    const size_t prefix = pc_params_push(p, "%s", name);
    pc_linear_params(p, &l->qkv, "qkv", c->C, (c->H + 2 * c->G) * c->D, c->qkv_bias, c->std);
    const int64_t qkv[] = {c->H * c->D, c->G * c->D, c->G * c->D};
    pc_param_fused(p, &l->qkv.weight, 3, qkv);
    if (c->qk_norm) {
        pc_norm_params(p, &l->q_norm, "q_norm", PC_RMSNORM, c->D, c->eps);
        pc_norm_params(p, &l->k_norm, "k_norm", PC_RMSNORM, c->D, c->eps);
    }
    pc_linear_params(p, &l->out, "out", c->H * c->D, c->C, c->out_bias, c->out_std);
    pc_params_pop(p, prefix);
}

static bool norms_train(const pc_attention *l)
{
    return l->config.qk_norm && (pc_norm_trains(&l->q_norm) || pc_norm_trains(&l->k_norm));
}

bool pc_attention_trains(const pc_attention *l)
{
    return pc_linear_trains(&l->qkv) || pc_linear_trains(&l->out) || norms_train(l);
}

/* Heads [begin, end) of a fused buffer, as (N, end - begin, D). */
static pc_tensor heads(const pc_attention *l, pc_tensor fused, int64_t begin, int64_t end)
{
    const int64_t D = l->config.D;
    return pc_as_heads(pc_cols(fused, begin * D, end * D), D);
}

/* The three operands of the attention itself, wherever they stand. */
typedef struct operands {
    pc_tensor q, k, v; // (M or N, H, D), (N, G, D), (N, G, D)
} operands;

/* In one fused buffer, or queries apart. Values are where no query/key norm has copied from. */
static operands operands_of(const pc_attention *l, const pc_attention_kept *kept)
{
    const int64_t H = l->config.H, G = l->config.G;
    const bool apart = pc_present(kept->q);
    const int64_t first = apart ? 0 : H; // the first key head
    const pc_tensor from = pc_present(kept->raw) ? kept->raw : kept->qkv;
    return (operands){.q = heads(l, apart ? kept->q : kept->qkv, 0, H),
                      .k = heads(l, kept->qkv, first, first + G),
                      .v = heads(l, from, first + G, first + 2 * G)};
}

/* The products of all rows, or of the read rows' queries and of all rows' keys and values. */
static void project_forward(pc_ctx *ctx, pc_attention_kept *kept, const pc_attention *l,
                            pc_tensor x, const pc_read *read)
{
    const pc_attention_config *c = &l->config;
    const int64_t N = x.dim[0], H = c->H, G = c->G, D = c->D, Q = read ? 0 : H;
    kept->qkv = pc_alloc2(ctx->act, ctx->real, N, (c->qk_norm ? Q + G : Q + 2 * G) * D);
    if (c->qk_norm) kept->raw = pc_alloc2(ctx->act, ctx->real, N, (Q + 2 * G) * D);
    const pc_tensor all = c->qk_norm ? kept->raw : kept->qkv;
    if (!read) {
        pc_linear_forward(ctx, all, &l->qkv, x, PC_NONE);
        return;
    }
    const int64_t M = read->rows.dim[0];
    const pc_linear queries = pc_linear_outputs(&l->qkv, 0, H * D);
    const pc_linear others = pc_linear_outputs(&l->qkv, H * D, (H + 2 * G) * D);
    kept->x = pc_alloc2(ctx->act, ctx->real, M, c->C);
    kept->q = pc_alloc2(ctx->act, ctx->real, M, H * D);
    if (c->qk_norm) kept->q_raw = pc_alloc2(ctx->act, ctx->real, M, H * D);
    ctx->ops->gather_forward(ctx, kept->x, x, read->rows);
    pc_linear_forward(ctx, c->qk_norm ? kept->q_raw : kept->q, &queries, kept->x, PC_NONE);
    pc_linear_forward(ctx, all, &others, x, PC_NONE);
}

/* What the query/key norm read: queries, keys. */
static pc_tensor raw_queries(const pc_attention *l, const pc_attention_kept *kept)
{
    return heads(l, pc_present(kept->q) ? kept->q_raw : kept->raw, 0, l->config.H);
}

static pc_tensor raw_keys(const pc_attention *l, const pc_attention_kept *kept)
{
    const int64_t first = pc_present(kept->q) ? 0 : l->config.H;
    return heads(l, kept->raw, first, first + l->config.G);
}

void pc_attention_forward(pc_ctx *ctx, pc_tensor y, pc_attention_kept *kept, const pc_attention *l,
                          pc_tensor x, const pc_seq *seq, const pc_read *read, pc_kv *kv,
                          pc_tensor r)
{
    const pc_attention_config *c = &l->config;
    const int64_t M = read ? read->rows.dim[0] : x.dim[0], H = c->H, G = c->G, D = c->D;
    *kept = (pc_attention_kept){0};
    project_forward(ctx, kept, l, x, read);
    kept->o = pc_alloc2(ctx->act, ctx->real, M, H * D);
    kept->lse = pc_alloc2(ctx->act, pc_stat(ctx), M, H);

    operands t = operands_of(l, kept);
    if (c->qk_norm) {
        pc_norm_forward(ctx, t.q, &kept->q_norm, &l->q_norm, raw_queries(l, kept));
        pc_norm_forward(ctx, t.k, &kept->k_norm, &l->k_norm, raw_keys(l, kept));
    }
    if (pc_present(seq->pos)) {
        const pc_tensor both = read ? t.k : heads(l, kept->qkv, 0, H + G);
        ctx->ops->rope_forward(ctx, both, both, seq->rope.cos_table, seq->rope.sin_table, seq->pos);
        if (read)
            ctx->ops->rope_forward(ctx, t.q, t.q, read->seq.rope.cos_table,
                                   read->seq.rope.sin_table, read->seq.pos);
    }
    if (kv) {
        ctx->ops->splice_forward(ctx, kv->k, pc_as_heads(t.k, D), kv->write);
        ctx->ops->splice_forward(ctx, kv->v, pc_as_heads(t.v, D), kv->write);
        t.k = pc_as_heads(kv->k, D);
        t.v = pc_as_heads(kv->v, D);
    }
    ctx->ops->attention_forward(ctx, pc_as_heads(kept->o, D), kept->lse, t.q, t.k, t.v,
                                read ? &read->seq.mask : &seq->mask, 1.0 / sqrt((double)D));
    pc_linear_forward(ctx, y, &l->out, kept->o, r);
}

/* From the gradients of queries (M) and of keys and values (N) to that of x, each through its rows of Wqkv. */
static void project_apart_backward(pc_ctx *ctx, pc_tensor dx, pc_attention *l,
                                   const pc_attention_kept *kept, pc_tensor dq, pc_tensor dkv,
                                   pc_tensor x, const pc_read *read)
{
    const int64_t H = l->config.H, G = l->config.G, D = l->config.D;
    pc_linear queries = pc_linear_outputs(&l->qkv, 0, H * D);
    pc_linear others = pc_linear_outputs(&l->qkv, H * D, (H + 2 * G) * D);
    const pc_tensor dread = pc_present(dx) ? pc_alloc_like(ctx->scratch, kept->x) : PC_NONE;
    pc_linear_backward(ctx, dx, &others, dkv, x);
    pc_linear_backward(ctx, dread, &queries, dq, kept->x);
    if (pc_present(dx)) ctx->grad_ops->add_rows_backward(ctx, dx, dread, read->rows);
}

void pc_attention_backward(pc_ctx *ctx, pc_tensor dx, pc_attention *l,
                           const pc_attention_kept *kept, pc_tensor dy, pc_tensor x,
                           const pc_seq *seq, const pc_read *read)
{
    const pc_attention_config *c = &l->config;
    const int64_t N = x.dim[0], H = c->H, G = c->G, D = c->D, Q = read ? 0 : H;
    if (!pc_present(dx) && !pc_linear_trains(&l->qkv) && !norms_train(l)) {
        pc_linear_backward(ctx, PC_NONE, &l->out, dy, kept->o);
        return;
    }
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor dqkv = pc_alloc2(ctx->scratch, ctx->real, N, (Q + 2 * G) * D);
    const pc_tensor apart = read ? pc_alloc_like(ctx->scratch, kept->q) : PC_NONE;
    const pc_tensor dq = heads(l, read ? apart : dqkv, 0, H), dk = heads(l, dqkv, Q, Q + G);
    const pc_tensor dv = heads(l, dqkv, Q + G, Q + 2 * G);
    const operands t = operands_of(l, kept);

    const size_t inner = pc_arena_mark(ctx->scratch);
    const pc_tensor dout = pc_alloc_like(ctx->scratch, kept->o);
    pc_linear_backward(ctx, dout, &l->out, dy, kept->o);
    ctx->grad_ops->attention_backward(ctx, dq, dk, dv, pc_as_heads(dout, D), t.q, t.k, t.v,
                                      pc_as_heads(kept->o, D), kept->lse,
                                      read ? &read->seq.mask : &seq->mask, 1.0 / sqrt((double)D));
    pc_arena_release(ctx->scratch, inner);

    if (pc_present(seq->pos)) {
        const pc_tensor both = read ? dk : heads(l, dqkv, 0, H + G);
        ctx->grad_ops->rope_backward(ctx, both, both, seq->rope.cos_table, seq->rope.sin_table,
                                     seq->pos);
        if (read)
            ctx->grad_ops->rope_backward(ctx, dq, dq, read->seq.rope.cos_table,
                                         read->seq.rope.sin_table, read->seq.pos);
    }
    if (c->qk_norm) {
        pc_norm_backward(ctx, dq, &l->q_norm, &kept->q_norm, dq, raw_queries(l, kept), PC_NONE);
        pc_norm_backward(ctx, dk, &l->k_norm, &kept->k_norm, dk, raw_keys(l, kept), PC_NONE);
    }
    if (read)
        project_apart_backward(ctx, dx, l, kept, apart, dqkv, x, read);
    else
        pc_linear_backward(ctx, dx, &l->qkv, dqkv, x);
    pc_arena_release(ctx->scratch, mark);
}

void pc_read_rows(pc_read *out, pc_arena *a, const pc_seq *seq, pc_tensor rows, int64_t N)
{
    const int64_t M = rows.dim[0];
    PC_ASSERT(!pc_present(seq->pos_y), "rows with two positions are resolved first");
    *out = (pc_read){.rows = rows, .seq = {.rope = seq->rope}};
    pc_mask_rows(&out->seq.mask, a, &seq->mask, rows, N);
    if (!pc_present(seq->pos)) return;
    out->seq.pos = pc_alloc1(a, PC_I32, M);
    for (int64_t i = 0; i < M && !a->dry; i++)
        pc_i32(out->seq.pos)[i] = pc_i32(seq->pos)[pc_i32(rows)[i]];
}

static const double TWO_PI = 6.283185307179586476925286766559;

/* The frequency, not a whole number, whose wave turns `turns` times within the original length. */
static double yarn_place(const pc_rope_config *c, double turns, int64_t D)
{
    return (double)D * log(c->original_max / (TWO_PI * turns)) / (2.0 * log(c->theta));
}

/* How much of frequency j is stretched: 0 for the fastest waves, 1 for the slowest. */
static double yarn_ramp(const pc_rope_config *c, int64_t j, int64_t D)
{
    double low = yarn_place(c, c->beta_fast, D), high = yarn_place(c, c->beta_slow, D);
    if (!c->ramp_exact) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, (double)D - 1.0);
    if (low == high) high += 0.001;
    return fmin(fmax(((double)j - low) / (high - low), 0.0), 1.0);
}

/* Frequency j of D/2 for a sequence of n positions. */
static double frequency(const pc_rope_config *c, int64_t j, int64_t D, double n)
{
    double theta = c->theta;
    if (c->scaling == PC_ROPE_DYNAMIC && n > c->original_max)
        theta *=
            pow(c->factor * n / c->original_max - (c->factor - 1.0), (double)D / (double)(D - 2));
    const double inv = pow(theta, -2.0 * (double)j / (double)D);
    if (c->scaling == PC_ROPE_LINEAR) return inv / c->factor;
    if (c->scaling == PC_ROPE_YARN) {
        const double ramp = yarn_ramp(c, j, D);
        return inv / c->factor * ramp + inv * (1.0 - ramp);
    }
    if (c->scaling == PC_ROPE_LLAMA3) {
        // Short waves stay, long ones stretch by `factor`, between them the two are mixed.
        const double wave = TWO_PI / inv;
        const double blend = (c->original_max / wave - c->low_freq) / (c->high_freq - c->low_freq);
        if (wave > c->original_max / c->low_freq) return inv / c->factor;
        if (wave >= c->original_max / c->high_freq)
            return (1.0 - blend) * inv / c->factor + blend * inv;
    }
    return inv;
}

static double magnitude(const pc_rope_config *c)
{
    if (c->scaling != PC_ROPE_YARN) return 1.0;
    return c->attn_factor > 0.0 ? c->attn_factor : 0.1 * log(c->factor) + 1.0;
}

/* Entry (row, j) of the tables of D/2 columns: position `pos` turned by `inv`. */
static void put_angle(const pc_rope *r, int64_t row, int64_t j, int64_t pos, double inv, double m)
{
    const int64_t at = row * r->cos_table.dim[1] + j;
    if (r->cos_table.dtype == PC_F32) {
        // Published models compute the angle in single precision; doing likewise keeps their numbers.
        const double angle = (double)((float)pos * (float)inv);
        ((float *)r->cos_table.data)[at] = (float)((float)cos(angle) * (float)m);
        ((float *)r->sin_table.data)[at] = (float)((float)sin(angle) * (float)m);
    } else {
        const double angle = (double)pos * inv;
        ((double *)r->cos_table.data)[at] = cos(angle) * m;
        ((double *)r->sin_table.data)[at] = sin(angle) * m;
    }
}

static void alloc_tables(pc_rope *out, pc_arena *a, pc_dtype t, int64_t R, int64_t D)
{
    PC_ASSERT(D % 2 == 0 && (t == PC_F32 || t == PC_F64), "rotary tables %lld wide, of %s",
              (long long)D, pc_dtype_name(t));
    *out = (pc_rope){.cos_table = pc_alloc2(a, t, R, D / 2), // and no axes yet
                     .sin_table = pc_alloc2(a, t, R, D / 2)};
}

void pc_rope_tables(pc_rope *out, pc_arena *a, pc_dtype t, const pc_rope_config *c, int64_t R,
                    int64_t D)
{
    alloc_tables(out, a, t, R, D);
    for (int64_t j = 0; j < D / 2 && !a->dry; j++) {
        const double inv = frequency(c, j, D, 0.0);
        for (int64_t r = 0; r < R; r++) put_angle(out, r, j, r, inv, magnitude(c));
    }
}

void pc_rope_dynamic(pc_ctx *ctx, pc_seq *seq, const pc_rope_config *c, int64_t D)
{
    const int64_t N = seq->pos.dim[0];
    const pc_tensor at = pc_alloc1(ctx->act, PC_I32, N), pos = seq->pos;
    int32_t last = 0;
    alloc_tables(&seq->rope, ctx->act, pc_stat(ctx), N, D);
    seq->pos = at;
    if (ctx->act->dry) return;
    for (int64_t n = 0; n < N; n++) {
        const int32_t p = pc_i32(pos)[n];
        if (p > last) last = p;
        pc_i32(at)[n] = (int32_t)n;
    }
    for (int64_t j = 0; j < D / 2; j++) {
        const double inv = frequency(c, j, D, (double)last + 1.0);
        for (int64_t n = 0; n < N; n++) put_angle(&seq->rope, n, j, pc_i32(pos)[n], inv, 1.0);
    }
}

/* `table` with the columns of other axes zero; column j belongs to axis_of[j]. */
static pc_tensor of_axis(pc_arena *a, pc_tensor table, const uint8_t *axis_of, int axis)
{
    const pc_tensor out = pc_alloc_like(a, table);
    const int64_t n = pc_numel(table), half = table.dim[1];
    for (int64_t i = 0; i < n && !a->dry; i++) {
        const bool kept = axis_of[i % half] == axis;
        if (table.dtype == PC_F64)
            ((double *)out.data)[i] = kept ? ((const double *)table.data)[i] : 0.0;
        else
            ((float *)out.data)[i] = kept ? ((const float *)table.data)[i] : 0.0f;
    }
    return out;
}

static void axis_tables(pc_rope *out, pc_arena *a, const uint8_t *axis_of, int axes)
{
    for (int i = 0; i < axes; i++) {
        out->cos_axis[i] = of_axis(a, out->cos_table, axis_of, i);
        out->sin_axis[i] = of_axis(a, out->sin_table, axis_of, i);
    }
}

void pc_rope_tables_2d(pc_rope *out, pc_arena *a)
{
    uint8_t *axis_of = pc_arena_bytes(a, (size_t)out->cos_table.dim[1]);
    for (int64_t j = 0; j < out->cos_table.dim[1] && !a->dry; j++) axis_of[j] = (uint8_t)(j % 2);
    axis_tables(out, a, axis_of, 2);
}

void pc_rope_tables_sections(pc_rope *out, pc_arena *a, const int64_t sections[PC_ROPE_AXES])
{
    uint8_t *axis_of = pc_arena_bytes(a, (size_t)out->cos_table.dim[1]);
    for (int64_t j = 0; j < out->cos_table.dim[1] && !a->dry; j++)
        axis_of[j] = j < sections[0] ? 0 : j < sections[0] + sections[1] ? 1 : 2;
    axis_tables(out, a, axis_of, PC_ROPE_AXES);
}

/* Row n: each axis' columns from its table's row of that axis' position. */
static pc_tensor pick(pc_ctx *ctx, const pc_tensor *table, const pc_tensor *pos)
{
    const pc_tensor out = pc_alloc2(ctx->act, pc_stat(ctx), pos[0].dim[0], table[0].dim[1]);
    ctx->ops->gather_forward(ctx, out, table[0], pos[0]);
    for (int i = 1; i < PC_ROPE_AXES; i++)
        if (pc_present(table[i])) ctx->ops->add_rows_forward(ctx, out, out, table[i], pos[i]);
    return out;
}

void pc_rope_resolve(pc_ctx *ctx, pc_seq *seq)
{
    const int64_t N = seq->pos.dim[0];
    const pc_tensor pos[PC_ROPE_AXES] = {seq->pos, pc_present(seq->pos_y) ? seq->pos_y : seq->pos,
                                         pc_present(seq->pos_z) ? seq->pos_z : seq->pos};
    const pc_rope rope = seq->rope;
    seq->rope = (pc_rope){.cos_table = pick(ctx, rope.cos_axis, pos),
                          .sin_table = pick(ctx, rope.sin_axis, pos)};
    seq->pos = pc_alloc1(ctx->act, PC_I32, N);
    seq->pos_y = seq->pos_z = PC_NONE;
    for (int64_t n = 0; n < N && !ctx->act->dry; n++) pc_i32(seq->pos)[n] = (int32_t)n;
}

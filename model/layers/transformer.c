/*
 * transformer.c - the stack: forward with what backward needs, backward in place in one (N,C) gradient.
 *
 * Backward of a block, g the gradient of its output, in the buffer it arrives in:
 *   g = g + norm2'(mlp'(drop'(g)));   g = g + norm1'(attn'(drop'(g)))
 *
 * In inference and with recompute a block's activations leave the arena when it is done; in inference the
 * residual stream is one buffer, written in place by the output projections.
 */
#include "model/layers/transformer.h"

#include <stdlib.h>

#include "model/layers/repeat.h"
#include "model/layers/taps.h"

void pc_transformer_params(pc_params *p, pc_transformer *l, const pc_transformer_config *c)
{
    *l = (pc_transformer){.config = *c};
    l->blocks = calloc((size_t)c->L + 1, sizeof *l->blocks);
    l->planned = calloc((size_t)c->L + 1, sizeof *l->planned);
    if (!l->blocks || !l->planned) {
        p->status = pc_fail(PC_ERR_MEMORY, "%lld blocks", (long long)c->L);
        return;
    }
    const pc_attention_config attention = {.C = c->C,
                                           .H = c->H,
                                           .G = c->G,
                                           .D = c->D,
                                           .qkv_bias = c->qkv_bias,
                                           .out_bias = c->out_bias,
                                           .qk_norm = c->qk_norm,
                                           .eps = c->eps,
                                           .std = c->std,
                                           .out_std = c->out_std};
    const pc_mlp_config mlp = {.C = c->C,
                               .F = c->F,
                               .O = c->C,
                               .swiglu = c->swiglu,
                               .bias = c->mlp_bias,
                               .act = c->act,
                               .std = c->fc_std,
                               .out_std = c->out_std};
    for (int64_t i = 0; i < c->L; i++) {
        pc_block *b = &l->blocks[i];
        const size_t prefix = pc_params_push(p, "blocks.%lld", (long long)i);
        pc_norm_params(p, &b->norm1, "norm1", c->norm, c->C, c->eps);
        pc_attention_params(p, &b->attn, "attn", &attention);
        pc_norm_params(p, &b->norm2, "norm2", c->norm, c->C, c->eps);
        pc_mlp_params(p, &b->mlp, "mlp", &mlp);
        pc_params_pop(p, prefix);
    }
}

void pc_transformer_close(pc_transformer *l)
{
    free(l->blocks);
    free(l->planned);
    l->blocks = NULL;
    l->planned = NULL;
}

static bool block_trains(const pc_block *b)
{
    return pc_norm_trains(&b->norm1) || pc_attention_trains(&b->attn) ||
           pc_norm_trains(&b->norm2) || pc_mlp_trains(&b->mlp);
}

bool pc_transformer_trains(const pc_transformer *l, int64_t stop)
{
    for (int64_t i = 0; i < stop; i++)
        if (block_trains(&l->blocks[i])) return true;
    return false;
}

/* One half's output y becomes dropout(y) + r; without dropout the product has added r already. */
static void drop_and_add(pc_ctx *ctx, pc_tensor y, pc_tensor r, pc_rng_key key)
{
    ctx->ops->dropout_forward(ctx, y, y, ctx->dropout, key);
    ctx->ops->add_forward(ctx, y, y, r);
}

/* M rows of the block's output where `read` names them, else as many as it reads. */
static pc_tensor alloc_rows(pc_arena *a, pc_tensor x, const pc_read *read)
{
    return read ? pc_alloc2(a, x.dtype, read->rows.dim[0], x.dim[1]) : pc_alloc_like(a, x);
}

/*
 * out = block(x), out and h given: out == h == x is allowed when nothing is kept, without dropout. Without
 * `out` the block is being run again for backward: the dropout keys in kept are those of the first time, and
 * the last product is left out. With `read` out and h are its rows alone.
 */
static void block_forward(pc_ctx *ctx, pc_tensor out, pc_tensor h, pc_block_kept *kept,
                          const pc_block *b, pc_tensor x, const pc_seq *seq, const pc_read *read,
                          pc_kv *kv)
{
    const bool drop = ctx->dropout > 0.0, again = !pc_present(out);
    kept->x = x;
    kept->h = h;
    if (drop && !again) {
        kept->drop_attn = ctx->dropout_key;
        ctx->dropout_key.step++;
        kept->drop_mlp = ctx->dropout_key;
        ctx->dropout_key.step++;
    }
    kept->n1 = pc_alloc_like(ctx->act, x);
    pc_norm_forward(ctx, kept->n1, &kept->norm1, &b->norm1, x);
    pc_tensor r = x; // the residual stream where the block's output is wanted
    if (read) {
        r = alloc_rows(ctx->act, x, read);
        ctx->ops->gather_forward(ctx, r, x, read->rows);
    }
    pc_attention_forward(ctx, h, &kept->attn, &b->attn, kept->n1, seq, read, kv,
                         drop ? PC_NONE : r);
    if (drop) drop_and_add(ctx, h, r, kept->drop_attn);
    kept->n2 = pc_alloc_like(ctx->act, h);
    pc_norm_forward(ctx, kept->n2, &kept->norm2, &b->norm2, h);
    pc_mlp_forward(ctx, out, &kept->mlp, &b->mlp, kept->n2, drop ? PC_NONE : h);
    if (drop && !again) drop_and_add(ctx, out, h, kept->drop_mlp);
}

static pc_tensor stack_forward(pc_ctx *ctx, pc_transformer_kept *kept, const pc_transformer *l,
                               pc_tensor x, const pc_seq *seq, const pc_read *read, pc_kv *kv,
                               int64_t stop)
{
    PC_ASSERT(stop >= 0 && stop <= l->config.L, "%lld of %lld blocks", (long long)stop,
              (long long)l->config.L);
    PC_ASSERT(!read || stop > 0, "rows to read of no block");
    const bool inference = !ctx->grad_ops && ctx->dropout == 0.0;
    const bool keep = ctx->grad_ops && l->config.recompute == PC_RECOMPUTE_NONE;
    *kept = (pc_transformer_kept){.stop = stop, .reads = read != NULL};
    if (read) kept->read = *read;
    if (ctx->grad_ops) {
        kept->blocks = pc_arena_bytes(ctx->act, (size_t)(stop + 1) * sizeof *l->planned);
        if (ctx->act->dry) kept->blocks = l->planned; // dry memory counts but cannot hold
    }
    pc_tap_add(ctx, x, "hidden_states.0");

    pc_tensor stream = PC_NONE; // inference: the one buffer that all blocks but the first rewrite
    for (int64_t i = 0; i < stop; i++) {
        pc_block_kept local = {0};
        pc_block_kept *block = ctx->grad_ops ? &kept->blocks[i] : &local;
        *block = (pc_block_kept){0};
        const pc_read *rows = i == stop - 1 ? read : NULL;
        const pc_tensor out = pc_present(stream) && !rows ? stream : alloc_rows(ctx->act, x, rows);
        if (inference) stream = out;
        const size_t mark = pc_arena_mark(ctx->act);
        const pc_tensor h = inference ? out : pc_alloc_like(ctx->act, out);
        const size_t tap = pc_tap_push(ctx, "blocks.%lld", (long long)i);
        block_forward(ctx, out, h, block, &l->blocks[i], x, seq, rows, kv ? &kv[i] : NULL);
        pc_tap_add(ctx, block->n1, "norm1");
        pc_tap_add(ctx, block->attn.qkv, "attn.qkv");
        pc_tap_add(ctx, block->attn.o, "attn.out");
        pc_tap_add(ctx, block->n2, "norm2");
        pc_tap_add(ctx, block->mlp.h, "mlp.hidden");
        pc_tap_pop(ctx, tap);
        if (!keep) pc_arena_release(ctx->act, mark);
        x = out;
        pc_tap_add(ctx, x, "hidden_states.%lld", (long long)i + 1);
    }
    return x;
}

/* What operations of a stack read beside x: masks by what they say, the rest by where it lies. */
static void key_of_seq(pc_repeat_key *key, const pc_seq *seq)
{
    pc_repeat_mask(key, &seq->mask);
    pc_repeat_place(key, seq->pos);
    pc_repeat_place(key, seq->pos_y);
    pc_repeat_place(key, seq->pos_z);
    pc_repeat_place(key, seq->rope.cos_table);
    pc_repeat_place(key, seq->rope.sin_table);
}

static void key_of_stack(pc_repeat_key *key, bool forward, const pc_transformer *l, pc_tensor x,
                         const pc_seq *seq)
{
    pc_repeat_number(key, forward);
    pc_repeat_number(key, (int64_t)(intptr_t)l->blocks);
    pc_repeat_place(key, x);
    key_of_seq(key, seq);
}

typedef struct forward_part {
    pc_transformer_kept *kept;
    const pc_transformer *l;
    pc_tensor x, out;
    const pc_seq *seq;
    const pc_read *read;
    int64_t stop;
} forward_part;

static void run_forward(pc_ctx *ctx, void *arg)
{
    forward_part *p = arg;
    p->out = stack_forward(ctx, p->kept, p->l, p->x, p->seq, p->read, NULL, p->stop);
}

pc_tensor pc_transformer_forward(pc_ctx *ctx, pc_transformer_kept *kept, const pc_transformer *l,
                                 pc_tensor x, const pc_seq *seq, const pc_read *read, pc_kv *kv,
                                 int64_t stop)
{
    if (kv || stop == 0 || !pc_repeats_wanted(ctx))
        return stack_forward(ctx, kept, l, x, seq, read, kv, stop);
    forward_part p = {kept, l, x, PC_NONE, seq, read, stop};
    pc_repeat_key key = {.words = 0};
    key_of_stack(&key, true, l, x, seq);
    pc_repeat_number(&key, stop);
    if (read) { // few queries are told where their mask lies
        pc_repeat_place(&key, read->rows);
        key_of_seq(&key, &read->seq);
        pc_repeat_place(&key, read->seq.mask.lo);
        pc_repeat_place(&key, read->seq.mask.hi);
        pc_repeat_place(&key, read->seq.mask.plo);
        pc_repeat_place(&key, read->seq.mask.phi);
    }
    pc_repeated(ctx, &key, run_forward, &p);
    return p.out;
}

/*
 * g (N,C): the gradient of the block's output, consumed. That of its input goes to dx (which may be g) when
 * it is wanted; without dx it is computed only as far as a gradient of the block needs it. With `read` g is
 * (M,C) and reaches the residual stream at these rows.
 */
static void block_backward(pc_ctx *ctx, pc_tensor dx, pc_tensor g, pc_block *b,
                           const pc_block_kept *kept, const pc_seq *seq, const pc_read *read)
{
    const bool drop = ctx->dropout > 0.0;
    const bool first = pc_present(dx) || pc_norm_trains(&b->norm1); // the gradient reaches norm1
    const bool attn = first || pc_attention_trains(&b->attn);
    const bool second = attn || pc_norm_trains(&b->norm2);

    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor dn = pc_alloc_like(ctx->scratch, g);
    pc_tensor dy = g;
    if (drop) {
        dy = pc_alloc_like(ctx->scratch, g);
        ctx->grad_ops->dropout_backward(ctx, dy, g, ctx->dropout, kept->drop_mlp);
    }
    pc_mlp_backward(ctx, second ? dn : PC_NONE, &b->mlp, &kept->mlp, dy, kept->n2);
    if (second) pc_norm_backward(ctx, g, &b->norm2, &kept->norm2, dn, kept->h, g);
    const pc_tensor dn1 = read && first ? pc_alloc_like(ctx->scratch, kept->x) : dn;
    if (attn) {
        if (drop) ctx->grad_ops->dropout_backward(ctx, dy, g, ctx->dropout, kept->drop_attn);
        pc_attention_backward(ctx, first ? dn1 : PC_NONE, &b->attn, &kept->attn, dy, kept->n1, seq,
                              read);
    }
    if (first && !read)
        pc_norm_backward(ctx, pc_present(dx) ? dx : g, &b->norm1, &kept->norm1, dn, kept->x, g);
    if (first && read) {
        pc_norm_backward(ctx, pc_present(dx) ? dx : dn1, &b->norm1, &kept->norm1, dn1, kept->x,
                         PC_NONE);
        if (pc_present(dx)) ctx->grad_ops->add_rows_backward(ctx, dx, g, read->rows);
    }
    pc_arena_release(ctx->scratch, mark);
}

/* The forward of a block once more: what it keeps goes to scratch, where the caller's mark frees it. */
static void recompute(pc_ctx *ctx, pc_block_kept *block, const pc_block *b, const pc_seq *seq,
                      const pc_read *read)
{
    pc_arena *const act = ctx->act;
    pc_taps *const taps = ctx->taps;
    ctx->act = ctx->scratch;
    ctx->taps = NULL;
    const pc_tensor x = block->x;
    block_forward(ctx, PC_NONE, alloc_rows(ctx->scratch, x, read), block, b, x, seq, read, NULL);
    ctx->act = act;
    ctx->taps = taps;
}

/* Blocks begin .. end-1, the highest first: its gradient comes in dy, the others' in `all`, the lowest's goes to dx. */
typedef struct backward_part {
    pc_tensor dx, dy, all;
    pc_transformer *l;
    const pc_transformer_kept *kept;
    const pc_seq *seq;
    int64_t begin, end;
    bool fresh; // no matrix' gradient holds anything yet (linear.h)
} backward_part;

static pc_linear *matrix_of(pc_block *b, int i)
{
    pc_linear *const all[] = {&b->attn.qkv, &b->attn.out, &b->mlp.up, &b->mlp.down};
    return all[i];
}

enum { MATRICES = 4 };

/* Whether the gradients of all matrices hold nothing, or all something; false where it is some of them. */
static bool alike(backward_part *p)
{
    int fresh = 0, held = 0;
    for (int64_t b = p->begin; b < p->end; b++)
        for (int i = 0; i < MATRICES; i++) {
            const pc_linear *m = matrix_of(&p->l->blocks[b], i);
            if (!pc_present(m->weight.g)) continue;
            fresh += m->fresh_from == 0 && m->fresh_to == m->O;
            held += m->fresh_from >= m->fresh_to;
            if (m->fresh_from < m->fresh_to && m->fresh_to - m->fresh_from < m->O) return false;
        }
    p->fresh = fresh > 0;
    return fresh == 0 || held == 0;
}

static void run_backward(pc_ctx *ctx, void *arg)
{
    const backward_part *p = arg;
    const pc_transformer_kept *kept = p->kept;
    pc_transformer *l = p->l;
    for (int64_t b = p->begin; b < p->end && p->fresh; b++) // may be run again
        for (int i = 0; i < MATRICES; i++) {
            pc_linear *m = matrix_of(&l->blocks[b], i);
            m->fresh_from = 0;
            m->fresh_to = pc_present(m->weight.g) ? m->O : 0;
        }
    for (int64_t i = p->end - 1; i >= p->begin; i--) {
        const bool last = i == kept->stop - 1;
        const pc_read *read = last && kept->reads ? &kept->read : NULL;
        const size_t mark = pc_arena_mark(ctx->scratch);
        pc_block_kept block = kept->blocks[i];
        if (l->config.recompute == PC_RECOMPUTE_BLOCK)
            recompute(ctx, &block, &l->blocks[i], p->seq, read);
        block_backward(ctx, i > p->begin ? p->all : p->dx, i < p->end - 1 ? p->all : p->dy,
                       &l->blocks[i], &block, p->seq, read);
        pc_arena_release(ctx->scratch, mark);
    }
}

static void repeated_backward(pc_ctx *ctx, backward_part *p)
{
    if (p->begin >= p->end) return;
    if (!pc_repeats_wanted(ctx) || !alike(p)) {
        p->fresh = false;
        run_backward(ctx, p);
        return;
    }
    pc_repeat_key key = {.words = 0};
    key_of_stack(&key, false, p->l, p->dy, p->seq);
    pc_repeat_place(&key, p->dx);
    pc_repeat_place(&key, p->all);
    pc_repeat_number(&key, p->begin);
    pc_repeat_number(&key, p->end);
    pc_repeat_number(&key, p->fresh);
    pc_repeat_bytes(&key, p->kept->blocks + p->begin,
                    (size_t)(p->end - p->begin) * sizeof *p->kept->blocks);
    pc_repeated(ctx, &key, run_backward, p);
}

void pc_transformer_backward(pc_ctx *ctx, pc_tensor dx, pc_transformer *l,
                             const pc_transformer_kept *kept, pc_tensor dy, const pc_seq *seq)
{
    int64_t lowest = 0; // the lowest block that the gradient must enter
    if (!pc_present(dx))
        while (lowest < kept->stop && !block_trains(&l->blocks[lowest])) lowest++;
    // What travels down the blocks: dy itself, or, when that is of a few rows, a gradient of all of them.
    const size_t outer = pc_arena_mark(ctx->scratch);
    pc_tensor all = kept->reads ? dx : dy;
    if (kept->reads && !pc_present(dx) && kept->stop - 1 > lowest)
        all = pc_alloc_like(ctx->scratch, kept->blocks[kept->stop - 1].x);
    backward_part p = {dx, dy, all, l, kept, seq, lowest, kept->stop, false};
    if (kept->reads && kept->stop > lowest) { // the last block by itself: the host reads its rows
        backward_part top = p;
        top.begin = p.end = kept->stop - 1;
        if (p.end > lowest) top.dx = all;
        run_backward(ctx, &top);
        p.dy = all;
    }
    repeated_backward(ctx, &p);
    pc_arena_release(ctx->scratch, outer);
    const bool untouched = kept->stop == lowest && pc_present(dx) && dx.data != dy.data;
    if (untouched) ctx->ops->copy_forward(ctx, dx, dy);
}

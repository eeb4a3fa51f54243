/*
 * contrastive.c - two towers, one loss over the whole batch (see objective.h).
 *
 *   1  every micro-batch forward; its unit rows go into U, V (B,E). A replica keeps the activations of as
 *      many micro-batches as its arena has room for, the last ones of its share.
 *   2  loss over U, V: dU, dV and the gradients of scale and bias, once, into the master.
 *   3  every micro-batch backward, in falling order; those without activations forward again first.
 *
 * Step 3's order does not depend on how many were kept: keeping and replaying end in the same bits.
 */
#include "train/objective.h"

void contrastive_forward(pc_ctx *ctx, pc_clip *l, pc_clip_kept *kept, const pc_micro_batch *b)
{
    *kept = (pc_clip_kept){0};
    kept->u = pc_clip_image_forward(ctx, kept, l, b->pixels);
    kept->v = pc_clip_text_forward(ctx, kept, l, &b->text);
}

void contrastive_backward(pc_ctx *ctx, pc_clip *l, const pc_clip_kept *kept,
                          const pc_micro_batch *b, pc_tensor du, pc_tensor dv)
{
    if (pc_present(du)) pc_clip_image_backward(ctx, l, kept, du);
    if (pc_present(dv)) pc_clip_text_backward(ctx, l, kept, &b->text, dv);
}

typedef struct work {
    const pc_batch *batch;
    pc_tensor U, V, dU, dV; // (B,E)
} work;

static int64_t first_row(const pc_batch *b, int64_t m)
{
    int64_t row = 0;
    for (int64_t i = 0; i < m; i++) row += b->micro[i].samples;
    return row;
}

static pc_tensor share_rows(pc_tensor x, const pc_batch *b, int64_t m)
{
    const int64_t begin = first_row(b, m);
    return pc_present(x) ? pc_rows(x, begin, begin + b->micro[m].samples) : x;
}

// Micro-batches of a replica's share, and how many of the last of them keep their activations.
static int64_t share_count(const replica *r, int used, int64_t micros)
{
    return (micros - r->index + used - 1) / used;
}

static void forward_share(engine *e, replica *r, int used, void *arg)
{
    const work *w = arg;
    const pc_batch *b = w->batch;
    const int64_t share = share_count(r, used, b->micros);
    const int64_t replayed = share > e->config.kept ? share - e->config.kept : 0;
    engine_zero(r);
    pc_arena_release(&r->act, 0);
    pc_arena_release(&r->scratch, 0);
    for (int64_t i = 0; i < share; i++) {
        const int64_t m = r->index + i * used, slot = i - replayed;
        const size_t mark = pc_arena_mark(&r->act);
        pc_clip_kept passing, *kept = slot >= 0 ? &r->clip[slot] : &passing;
        if (slot >= 0) r->marks[slot] = mark;
        engine_dropout(e, &r->ctx, b->step, m);
        contrastive_forward(&r->ctx, &r->model->clip, kept, &b->micro[m]);
        r->ctx.ops->copy_forward(&r->ctx, share_rows(w->U, b, m), kept->u);
        r->ctx.ops->copy_forward(&r->ctx, share_rows(w->V, b, m), kept->v);
        if (slot < 0) pc_arena_release(&r->act, mark);
    }
}

static void backward_share(engine *e, replica *r, int used, void *arg)
{
    const work *w = arg;
    const pc_batch *b = w->batch;
    const int64_t share = share_count(r, used, b->micros);
    const int64_t replayed = share > e->config.kept ? share - e->config.kept : 0;
    for (int64_t i = share - 1; i >= 0; i--) {
        const int64_t m = r->index + i * used, slot = i - replayed;
        pc_clip_kept again, *kept = slot >= 0 ? &r->clip[slot] : &again;
        const size_t mark = slot >= 0 ? r->marks[slot] : pc_arena_begin(&r->act);
        engine_dropout(e, &r->ctx, b->step, m); // backward makes adapters' masks again, too
        if (slot < 0) contrastive_forward(&r->ctx, &r->model->clip, kept, &b->micro[m]);
        contrastive_backward(&r->ctx, &r->model->clip, kept, &b->micro[m], share_rows(w->dU, b, m),
                             share_rows(w->dV, b, m));
        pc_arena_release(&r->act, mark);
    }
}

void contrastive_launch(engine *e, const pc_batch *b, pc_tensor loss)
{
    const int used = engine_used(e, b->micros);
    const int64_t B = first_row(b, b->micros), E = e->model->config.clip.text.E;
    pc_ctx *ctx = &e->whole_ctx;
    pc_clip *l = &e->model->clip;
    work w = {.batch = b};

    pc_arena_release(ctx->act, 0);
    w.U = pc_alloc2(ctx->act, PC_F32, B, E);
    w.V = pc_alloc2(ctx->act, PC_F32, B, E);
    if (objective_trains(&e->model->params, "vision.")) w.dU = pc_alloc2(ctx->act, PC_F32, B, E);
    if (objective_trains(&e->model->params, "text.")) w.dV = pc_alloc2(ctx->act, PC_F32, B, E);

    engine_run(e, used, forward_share, &w);
    pc_clip_loss_launch(ctx, loss, w.dU, w.dV, l, w.U, w.V);
    engine_run(e, used, backward_share, &w);
    engine_reduce(e, used);
}

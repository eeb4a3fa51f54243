/*
 * engine.c - see engine.h.
 */
#include "train/engine.h"

#include <stdlib.h>

static pc_status open_replica(engine *e, replica *r, int index, const pc_backend *b,
                              const engine_sizes *sizes)
{
    pc_status st = PC_OK;
    r->index = index;
    r->model = index == 0 ? e->model : &r->own;
    if (index > 0 && (st = pc_model_replicate(&r->own, e->model))) return st;
    for (int i = 0; i < r->model->params.count; i++)
        r->model->params.list[i].trainable = e->model->params.list[i].trainable;

    if ((st = pc_arena_open_in(&r->act, "activations", b->memory, sizes->act, sizes->act_shared)) ||
        (st = pc_arena_open_in(&r->scratch, "scratch", b->memory, sizes->scratch,
                               sizes->scratch_shared)))
        return st;
    const size_t bytes = pc_params_bytes(&r->model->params, e->config.gradients, true);
    if ((st = pc_arena_open_in(&r->grads, "gradients", b->memory, bytes, 0))) return st;
    pc_params_bind_grads(&r->model->params, &r->grads, e->config.gradients);

    r->clip = calloc((size_t)e->config.kept, sizeof *r->clip);
    r->marks = calloc((size_t)e->config.kept, sizeof *r->marks);
    if (!r->clip || !r->marks) return pc_fail(PC_ERR_MEMORY, "replica %d", index);
    r->ctx = (pc_ctx){.ops = pc_backend_ops(b),
                      .grad_ops = pc_backend_grad_ops(b),
                      .real = b->real,
                      .pool = e->config.samples ? NULL : e->pool,
                      .act = &r->act,
                      .scratch = &r->scratch,
                      .dropout = e->config.dropout,
                      .adapter_dropout = e->config.adapter_dropout};
    return PC_OK;
}

pc_status engine_open(engine *e, pc_model *model, pc_pool *pool, const engine_config *c,
                      const engine_sizes *sizes)
{
    *e = (engine){.config = *c, .model = model, .pool = pool};
    PC_ASSERT(c->replicas >= 1 && c->kept >= 1, "%d replicas, %lld kept", c->replicas,
              (long long)c->kept);
    PC_ASSERT(c->samples || c->replicas == 1, "%d replicas of one pool", c->replicas);
    pc_backend cpu;
    pc_status st = pc_backend_choose(&cpu, "cpu");
    const pc_backend *backend = c->backend ? c->backend : &cpu;
    PC_ASSERT(!backend->memory || c->replicas == 1, "%d replicas on a device", c->replicas);
    if (!st && !(e->replicas = calloc((size_t)c->replicas, sizeof *e->replicas)))
        st = pc_fail(PC_ERR_MEMORY, "%d replicas", c->replicas);
    for (int i = 0; i < c->replicas && !st; i++) {
        e->count = i + 1;
        st = open_replica(e, &e->replicas[i], i, backend, sizes);
    }
    if (!st && c->fp8) st = fp8_open(&e->fp8, &model->params, backend);
    if (!st) st = spans_open(&e->spans, &model->params, SPAN_LENGTH);
    if (!st)
        st = pc_arena_open_in(&e->whole, "whole batch", backend->memory, sizes->whole,
                              sizes->whole_shared);
    if (!st) st = pc_repeats_open(&e->repeats, backend->memory, pc_backend_ops(backend));
    for (int i = 0; i < e->count; i++) e->replicas[i].ctx.repeats = e->repeats;
    if (!st && backend->memory && !(e->loss = backend->memory->get_shared(sizeof *e->loss)))
        st = pc_fail(PC_ERR_MEMORY, "the loss");
    if (st) {
        engine_close(e);
        return pc_context(st, "engine");
    }
    if (e->config.fp8) e->replicas[0].ctx.fp8 = &e->fp8.table;
    e->whole_ctx = e->replicas[0].ctx;
    e->whole_ctx.pool = pool;
    e->whole_ctx.act = &e->whole;
    return PC_OK;
}

void engine_close(engine *e)
{
    for (int i = 0; i < e->count; i++) {
        replica *r = &e->replicas[i];
        if (i > 0) pc_model_close(&r->own);
        pc_arena_close(&r->act);
        pc_arena_close(&r->scratch);
        pc_arena_close(&r->grads);
        free(r->clip);
        free(r->marks);
    }
    free(e->replicas);
    pc_repeats_close(e->repeats);
    spans_close(&e->spans);
    fp8_close(&e->fp8);
    if (e->loss) e->whole.memory->put_shared(e->loss);
    pc_arena_close(&e->whole);
    *e = (engine){0};
}

int engine_used(const engine *e, int64_t micros)
{
    return micros < e->count ? (int)micros : e->count;
}

typedef struct shared_task {
    engine *e;
    engine_task *task;
    void *arg;
    int used;
} shared_task;

static void run_replicas(void *arg, int64_t begin, int64_t end, int worker)
{
    shared_task *s = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) s->task(s->e, &s->e->replicas[i], s->used, s->arg);
}

void engine_run(engine *e, int used, engine_task *task, void *arg)
{
    shared_task s = {.e = e, .task = task, .arg = arg, .used = used};
    // One replica keeps the pool free for its own operations.
    if (e->count == 1)
        run_replicas(&s, 0, used, 0);
    else
        pc_parallel(e->pool, used, 1, run_replicas, &s);
}

void engine_zero(replica *r)
{
    pc_grads_begin(&r->ctx, &r->model->params);
}

static void end_gradients(engine *e, replica *r, int used, void *arg)
{
    (void)e, (void)used, (void)arg;
    pc_grads_end(&r->ctx, &r->model->params);
}

typedef struct sum_task {
    engine *e;
    int used;
} sum_task;

static void sum_pieces(void *arg, int64_t begin, int64_t end, int worker)
{
    const sum_task *t = arg;
    (void)worker;
    pc_ctx ctx = t->e->replicas[0].ctx; // accumulate needs no memory: a copy without a pool will do
    ctx.pool = NULL;
    for (int64_t i = begin; i < end; i++) {
        const span *s = &t->e->spans.list[i];
        const pc_tensor to = span_view(t->e->model->params.list[s->param].weight->g, s);
        for (int k = 1; k < t->used; k++) {
            const pc_params *from = &t->e->replicas[k].model->params;
            ctx.grad_ops->accumulate(&ctx, to, span_view(from->list[s->param].weight->g, s));
        }
    }
}

void engine_reduce(engine *e, int used)
{
    engine_run(e, used, end_gradients, NULL);
    if (used < 2) return;
    sum_task t = {.e = e, .used = used};
    pc_parallel(e->pool, e->spans.count, 1, sum_pieces, &t);
}

void engine_dropout(const engine *e, pc_ctx *ctx, int64_t step, int64_t micro)
{
    // Micro-batches of a step differ by seed, calls within one by the low bits of step.
    ctx->dropout_key = (pc_rng_key){
        .seed = e->config.seed + (uint64_t)micro * UINT64_C(0x9E3779B97F4A7C15),
        .stream = PC_STREAM_DROPOUT,
        .step = (uint64_t)step << 16,
    };
}

void engine_scales(engine *e)
{
    if (e->config.fp8) pc_backend_fp8_next(&e->fp8.table);
}

pc_ctx engine_infer(const replica *r)
{
    pc_ctx ctx = r->ctx;
    ctx.grad_ops = NULL;
    ctx.fp8 = NULL;
    ctx.dropout = ctx.adapter_dropout = 0.0;
    return ctx;
}

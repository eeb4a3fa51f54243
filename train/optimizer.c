/*
 * optimizer.c - see optimizer.h.
 */
#include "train/optimizer.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCRATCH = 1 << 20 }; // bytes a thread, touched only when a kernel wants them

pc_status optimizer_open(optimizer *o, pc_params *p, const optimizer_config *c, pc_pool *pool)
{
    *o = (optimizer){.config = *c, .params = p, .pool = pool};
    pc_backend cpu;
    pc_status st = pc_backend_choose(&cpu, "cpu");
    const pc_backend *backend = c->backend ? c->backend : &cpu;
    const pc_memory *memory = o->memory = backend->memory;
    if (!st && c->muon && memory)
        st = pc_fail(PC_ERR_INPUT, "optim.name: muon runs on the cpu alone; use adamw on %s",
                     memory->name);
    if (!st) st = spans_open(&o->spans, p);
    if (!st) st = pc_arena_open_in(&o->moments, "moments", memory, pc_params_moment_bytes(p), 0);
    if (st) goto failed;
    pc_params_bind_moments(p, &o->moments);
    if (memory) o->pool = NULL; // one stream, one thread that feeds it
    const pc_param *scale = pc_params_find(p, "logit_scale");
    if (scale && scale->trainable) o->logit_scale = scale->weight->w;

    if (c->muon && (st = muon_open(&o->muon, p, pool))) goto failed;

    o->threads = pc_pool_threads(o->pool);
    o->squares = memory ? NULL : calloc((size_t)o->spans.count + 1, sizeof *o->squares);
    o->ctx = calloc((size_t)o->threads, sizeof *o->ctx);
    o->scratch = calloc((size_t)o->threads, sizeof *o->scratch);
    if ((!memory && !o->squares) || !o->ctx || !o->scratch) {
        st = pc_fail(PC_ERR_MEMORY, "optimiser");
        goto failed;
    }
    for (int i = 0; i < o->threads; i++) {
        const size_t shared = ((size_t)o->spans.count + 8) * sizeof *o->squares;
        if ((st = pc_arena_open_in(&o->scratch[i], "optimiser scratch", memory, SCRATCH, shared)))
            goto failed;
        o->ctx[i] = (pc_ctx){.ops = pc_backend_ops(backend),
                             .grad_ops = pc_backend_grad_ops(backend),
                             .real = PC_F32,
                             .act = &o->scratch[i],
                             .scratch = &o->scratch[i]};
    }
    if (memory) {
        o->squares = pc_alloc1(&o->scratch[0], PC_F64, o->spans.count + 1).data;
        for (int i = 0; i < p->count; i++) {
            if (!p->list[i].trainable) continue;
            o->ctx[0].ops->zero_forward(&o->ctx[0], p->list[i].m);
            o->ctx[0].ops->zero_forward(&o->ctx[0], p->list[i].v);
        }
    }
    return PC_OK;
failed:
    optimizer_close(o);
    return st;
}

void optimizer_close(optimizer *o)
{
    if (!o->memory) free(o->squares);
    for (int i = 0; i < o->threads && o->scratch; i++) pc_arena_close(&o->scratch[i]);
    free(o->scratch);
    free(o->ctx);
    spans_close(&o->spans);
    muon_close(&o->muon);
    pc_arena_close(&o->moments);
    *o = (optimizer){0};
}

static void norm_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    optimizer *o = arg;
    pc_ctx *ctx = &o->ctx[worker];
    for (int64_t i = begin; i < end; i++) {
        const span *s = &o->spans.list[i];
        o->squares[i] = 0.0;
        ctx->grad_ops->square_sum(ctx, pc_view1(&o->squares[i], PC_F64, 1),
                                  span_view(o->params->list[s->param].weight->g, s));
    }
}

double optimizer_norm(optimizer *o)
{
    pc_parallel(o->pool, o->spans.count, 1, norm_piece, o);
    if (o->memory) o->memory->wait();
    double sum = 0.0;
    for (int64_t i = 0; i < o->spans.count; i++) sum += o->squares[i];
    return sqrt(sum);
}

typedef struct update {
    optimizer *o;
    pc_adamw hyper;
} update;

static void update_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const update *u = arg;
    pc_ctx *ctx = &u->o->ctx[worker];
    for (int64_t i = begin; i < end; i++) {
        const span *s = &u->o->spans.list[i];
        const pc_param *p = &u->o->params->list[s->param];
        if (u->o->config.muon && muon_takes(p)) continue;
        pc_adamw hyper = u->hyper;
        hyper.lr *= p->lr_scale;
        if (!p->decay) hyper.weight_decay = 0.0;
        ctx->grad_ops->adamw(ctx, span_view(p->weight->w, s), span_view(p->m, s),
                             span_view(p->v, s), span_view(p->weight->g, s), &hyper);
    }
}

// ln 100 as open_clip and the goldens have it; an untrained scale is left as it came.
static void clamp_scale(const optimizer *o)
{
    float *scale = o->logit_scale.data, here;
    const float top = 4.6051702f;
    if (!scale) return;
    if (o->memory) {
        o->memory->copy(&here, scale, sizeof here);
        o->memory->wait();
        scale = &here;
    }
    if (*scale < 0.0f) *scale = 0.0f;
    if (*scale > top) *scale = top;
    if (!o->memory) return;
    o->memory->copy(o->logit_scale.data, &here, sizeof here);
    o->memory->wait();
}

void optimizer_step(optimizer *o, double lr, double norm)
{
    const optimizer_config *c = &o->config;
    o->t++;
    update u = {.o = o,
                .hyper = {.lr = lr,
                          .beta1 = c->beta1,
                          .beta2 = c->beta2,
                          .eps = c->eps,
                          .weight_decay = c->weight_decay,
                          .correct1 = 1.0 - pow(c->beta1, (double)o->t),
                          .correct2 = 1.0 - pow(c->beta2, (double)o->t),
                          .grad_scale = c->clip > 0 ? fmin(1.0, c->clip / (norm + 1e-6)) : 1.0}};
    if (c->muon)
        muon_step(&o->muon, &(muon_hyper){.lr = lr,
                                          .beta = c->beta1,
                                          .weight_decay = c->weight_decay,
                                          .grad_scale = u.hyper.grad_scale});
    pc_parallel(o->pool, o->spans.count, 1, update_piece, &u);
    clamp_scale(o);
}

int optimizer_no_decay(pc_params *p, const char *pattern)
{
    int matched = 0;
    for (int i = 0; i < p->count; i++) {
        if (fnmatch(pattern, p->list[i].name, 0)) continue;
        p->list[i].decay = false;
        matched++;
    }
    return matched;
}

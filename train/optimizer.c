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
    pc_isa isa;
    pc_status st = pc_isa_choose(&isa);
    if (!st) st = spans_open(&o->spans, p);
    if (!st) st = pc_arena_open(&o->moments, "moments", pc_params_moment_bytes(p));
    if (st) goto failed;
    pc_params_bind_moments(p, &o->moments);
    const pc_param *scale = pc_params_find(p, "logit_scale");
    if (scale && scale->trainable) o->logit_scale = scale->weight->w;

    if (c->muon && (st = muon_open(&o->muon, p, pool))) goto failed;

    o->threads = pc_pool_threads(pool);
    o->squares = calloc((size_t)o->spans.count + 1, sizeof *o->squares);
    o->ctx = calloc((size_t)o->threads, sizeof *o->ctx);
    o->scratch = calloc((size_t)o->threads, sizeof *o->scratch);
    if (!o->squares || !o->ctx || !o->scratch) {
        st = pc_fail(PC_ERR_MEMORY, "optimiser");
        goto failed;
    }
    for (int i = 0; i < o->threads; i++) {
        if ((st = pc_arena_open(&o->scratch[i], "optimiser scratch", SCRATCH))) goto failed;
        o->ctx[i] = (pc_ctx){.ops = pc_cpu_ops(isa, PC_F32),
                             .grad_ops = pc_cpu_grad_ops(isa, PC_F32),
                             .real = PC_F32,
                             .act = &o->scratch[i],
                             .scratch = &o->scratch[i]};
    }
    return PC_OK;
failed:
    optimizer_close(o);
    return st;
}

void optimizer_close(optimizer *o)
{
    for (int i = 0; i < o->threads && o->scratch; i++) pc_arena_close(&o->scratch[i]);
    free(o->scratch);
    free(o->ctx);
    free(o->squares);
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
static void clamp_scale(pc_tensor t)
{
    if (!pc_present(t)) return;
    float *scale = t.data;
    const float top = 4.6051702f;
    if (*scale < 0.0f) *scale = 0.0f;
    if (*scale > top) *scale = top;
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
    clamp_scale(o->logit_scale);
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

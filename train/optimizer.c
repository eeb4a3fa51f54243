/*
 * optimizer.c - see optimizer.h.
 */
#include "train/optimizer.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCRATCH = 1 << 20 }; // bytes a thread, touched only when a kernel wants them

static pc_status open_scratch(optimizer *o, const pc_backend *backend)
{
    const size_t count = (size_t)o->spans.count + 1;
    const size_t own = count * sizeof(double) + 16 * PC_ALIGN;
    const size_t table = o->memory ? count * sizeof(pc_piece) : 0;
    o->threads = pc_pool_threads(o->pool);
    o->ctx = calloc((size_t)o->threads, sizeof *o->ctx);
    o->scratch = calloc((size_t)o->threads, sizeof *o->scratch);
    if (!o->ctx || !o->scratch) return pc_fail(PC_ERR_MEMORY, "optimiser");
    for (int i = 0; i < o->threads; i++) {
        const size_t bytes = SCRATCH + (i == 0 ? own + table : 0);
        const pc_status st = pc_arena_open_in(&o->scratch[i], "optimiser scratch", o->memory, bytes,
                                              (size_t)(16 * PC_ALIGN));
        if (st) return st;
        o->ctx[i] = (pc_ctx){.ops = pc_backend_ops(backend),
                             .grad_ops = pc_backend_grad_ops(backend),
                             .real = o->config.real,
                             .act = &o->scratch[i],
                             .scratch = &o->scratch[i]};
    }
    return PC_OK;
}

// Doubles where it is computed, zero.
static pc_tensor doubles(optimizer *o, int64_t n)
{
    void *data = pc_arena_numbers(&o->scratch[0], (size_t)n * sizeof(double));
    const pc_tensor x = pc_view1(data, PC_F64, n);
    if (o->memory)
        o->ctx[0].ops->zero_forward(&o->ctx[0], x);
    else
        memset(data, 0, (size_t)n * sizeof(double));
    return x;
}

pc_status optimizer_open(optimizer *o, pc_params *p, const optimizer_config *c, pc_pool *pool)
{
    *o = (optimizer){.config = *c, .params = p, .pool = pool};
    pc_backend cpu;
    pc_status st = pc_backend_choose(&cpu, "cpu");
    const pc_backend *backend = c->backend ? c->backend : &cpu;
    const pc_memory *memory = o->memory = backend->memory;
    if (!st) st = spans_open(&o->spans, p, memory ? DEVICE_SPAN_LENGTH : SPAN_LENGTH);
    if (!st)
        st = pc_arena_open_in(&o->moments, "moments", memory, pc_params_moment_bytes(p, c->moments),
                              0);
    const bool masters = c->master && c->real == PC_BF16;
    if (!st && masters)
        st = pc_arena_open_in(&o->masters, "masters", memory, pc_params_master_bytes(p), 0);
    if (st) goto failed;
    pc_params_bind_moments(p, &o->moments, c->moments);
    for (int i = 0; i < p->count; i++) p->list[i].master = PC_NONE;
    if (masters) pc_params_bind_masters(p, &o->masters);
    if (memory) o->pool = NULL; // one stream, one thread that feeds it
    const pc_param *scale = pc_params_find(p, "logit_scale");
    if (scale && scale->trainable) o->logit_scale = scale->weight->w;

    if (c->muon && (st = muon_open(&o->muon, p, o->pool, backend, c->real))) goto failed;
    if ((st = open_scratch(o, backend))) goto failed;
    o->loss = doubles(o, 1);
    o->gate = doubles(o, PC_GATE);
    o->sums = doubles(o, o->spans.count);
    for (int i = 0; i < OPTIMIZER_RESULTS; i++)
        o->results[i].gate = pc_arena_bytes(&o->scratch[0], PC_GATE * sizeof(double));
    if (memory) {
        o->table = pc_arena_numbers(&o->scratch[0], (size_t)o->spans.count * sizeof *o->table);
        for (int i = 0; i < p->count; i++) {
            if (!p->list[i].trainable) continue;
            o->ctx[0].ops->zero_forward(&o->ctx[0], p->list[i].m);
            o->ctx[0].ops->zero_forward(&o->ctx[0], p->list[i].v);
            if (pc_present(p->list[i].master)) // until a checkpoint's is read
                o->ctx[0].ops->copy_forward(&o->ctx[0], p->list[i].master, p->list[i].weight->w);
        }
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
    spans_close(&o->spans);
    muon_close(&o->muon);
    pc_arena_close(&o->moments);
    pc_arena_close(&o->masters);
    *o = (optimizer){0};
}

// ---- pieces --------------------------------------------------------------------------------------

static bool others(const optimizer *o, const pc_param *p)
{
    return o->config.muon && muon_takes(p);
}

static pc_piece piece_of(const optimizer *o, int64_t i)
{
    const span *s = &o->spans.list[i];
    return span_piece(&o->params->list[s->param], s);
}

// A device's list of all pieces, AdamW's in front. Made once, when all tensors have their places.
static void make_table(optimizer *o)
{
    pc_piece *list = calloc((size_t)o->spans.count + 1, sizeof *list);
    PC_ASSERT(list, "no memory for %lld pieces", (long long)o->spans.count);
    int64_t n = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < o->spans.count; i++)
            if (others(o, &o->params->list[o->spans.list[i].param]) == (pass == 1))
                list[n++] = piece_of(o, i);
        if (pass == 0) o->adamw = n;
    }
    o->memory->copy(o->table, list, (size_t)n * sizeof *list);
    o->memory->wait();
    free(list);
    o->made = true;
}

// ---- the norm, and what it lets through ----------------------------------------------------------

static void sum_pieces(void *arg, int64_t begin, int64_t end, int worker)
{
    optimizer *o = arg;
    pc_ctx *ctx = &o->ctx[worker];
    for (int64_t i = begin; i < end; i++) {
        const pc_piece p = piece_of(o, i);
        ctx->grad_ops->square_sums(ctx, pc_rows(o->sums, i, i + 1), &p, 1);
    }
}

static void sum_squares(optimizer *o)
{
    if (!o->memory) {
        pc_parallel(o->pool, o->spans.count, 1, sum_pieces, o);
        return;
    }
    if (!o->made) make_table(o);
    o->ctx[0].grad_ops->square_sums(&o->ctx[0], o->sums, o->table, o->spans.count);
}

static void copy(const optimizer *o, void *to, const void *from, size_t bytes)
{
    if (o->memory)
        o->memory->copy(to, from, bytes);
    else
        memcpy(to, from, bytes);
}

static void judge(optimizer *o, pc_tensor loss)
{
    pc_ctx *ctx = &o->ctx[0];
    const int64_t slot = o->launched++ % OPTIMIZER_RESULTS;
    sum_squares(o);
    ctx->grad_ops->step_gate(ctx, o->gate, o->sums, loss, o->config.clip);
    copy(o, o->results[slot].gate, o->gate.data, PC_GATE * sizeof(double));
    if (o->memory) o->results[slot].mark = o->memory->mark();
}

optimizer_result optimizer_found(optimizer *o, int64_t back)
{
    PC_ASSERT(back >= 0 && back < OPTIMIZER_RESULTS && back < o->launched, "result %lld of %lld",
              (long long)back, (long long)o->launched);
    const int64_t slot = (o->launched - 1 - back) % OPTIMIZER_RESULTS;
    if (o->memory) o->memory->wait_mark(o->results[slot].mark);
    const double *gate = o->results[slot].gate;
    return (optimizer_result){.loss = gate[PC_GATE_LOSS], .norm = gate[PC_GATE_NORM]};
}

double optimizer_norm(optimizer *o)
{
    judge(o, PC_NONE);
    return optimizer_found(o, 0).norm;
}

// ---- the update ----------------------------------------------------------------------------------

typedef struct update {
    optimizer *o;
    pc_adamw hyper;
    const pc_rng_key *rounding;
} update;

static void update_pieces(void *arg, int64_t begin, int64_t end, int worker)
{
    const update *u = arg;
    pc_ctx *ctx = &u->o->ctx[worker];
    for (int64_t i = begin; i < end; i++) {
        if (others(u->o, &u->o->params->list[u->o->spans.list[i].param])) continue;
        const pc_piece p = piece_of(u->o, i);
        ctx->grad_ops->adamw_list(ctx, &p, 1, &u->hyper, u->o->gate, u->rounding);
    }
}

// As the gate has it.
static void move_weights(optimizer *o, double lr)
{
    const optimizer_config *c = &o->config;
    o->t++;
    const pc_rng_key key = {.seed = c->seed, .stream = PC_STREAM_ROUNDING, .step = (uint64_t)o->t};
    update u = {.o = o,
                .hyper = {.lr = lr,
                          .beta1 = c->beta1,
                          .beta2 = c->beta2,
                          .eps = c->eps,
                          .weight_decay = c->weight_decay,
                          .correct1 = 1.0 - pow(c->beta1, (double)o->t),
                          .correct2 = 1.0 - pow(c->beta2, (double)o->t),
                          .grad_scale = 1.0},
                .rounding = c->stochastic ? &key : NULL};
    pc_ctx *ctx = &o->ctx[0];
    if (c->muon)
        muon_step(&o->muon,
                  &(muon_hyper){.lr = lr, .beta = c->beta1, .weight_decay = c->weight_decay},
                  o->gate, u.rounding);
    if (o->memory)
        ctx->grad_ops->adamw_list(ctx, o->table, o->adamw, &u.hyper, o->gate, u.rounding);
    else
        pc_parallel(o->pool, o->spans.count, 1, update_pieces, &u);
    // ln 100 as open_clip and the goldens have it; an untrained scale is left as it came.
    if (pc_present(o->logit_scale))
        ctx->grad_ops->clamp(ctx, o->logit_scale, 0.0, (double)4.6051702f);
}

void optimizer_launch(optimizer *o, double lr)
{
    judge(o, o->loss);
    move_weights(o, lr);
}

void optimizer_step(optimizer *o, double lr, double norm)
{
    const double clip = o->config.clip;
    double *gate = o->results[0].gate;
    if (o->memory) o->memory->wait();
    gate[PC_GATE_LOSS] = 0.0;
    gate[PC_GATE_NORM] = norm;
    gate[PC_GATE_SCALE] = clip > 0 ? fmin(1.0, clip / (norm + 1e-6)) : 1.0;
    gate[PC_GATE_SHUT] = 0.0;
    copy(o, o->gate.data, gate, PC_GATE * sizeof(double));
    if (o->memory && !o->made) make_table(o);
    move_weights(o, lr);
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

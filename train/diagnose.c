/*
 * diagnose.c - see diagnose.h.
 */
#include "train/diagnose.h"

#include "model/layers/taps.h"

#include <math.h>

static bool finite_tensor(pc_tensor x)
{
    const float *v = x.data;
    for (int64_t i = 0; i < pc_numel(x); i++)
        if (!isfinite(v[i])) return false;
    return true;
}

static const char *first_activation(const pc_taps *t)
{
    for (int i = 0; i < t->count; i++)
        if (t->list[i].value.dtype == PC_F32 && !finite_tensor(t->list[i].value))
            return t->list[i].name;
    return NULL;
}

// The parameter nearest to the loss whose gradient is not finite: backward reached it first.
static const pc_param *last_gradient(const pc_params *p)
{
    for (int i = p->count - 1; i >= 0; i--)
        if (pc_present(p->list[i].weight->g) && !finite_tensor(p->list[i].weight->g))
            return &p->list[i];
    return NULL;
}

// "a.json:12 (id), ..." of a micro-batch, at most eight.
static void sample_names(char *buf, size_t size, const run *u, const pc_micro_batch *b)
{
    size_t n = 0;
    *buf = 0;
    for (int64_t i = 0; i < b->samples && i < 8 && n < size; i++) {
        const pc_sample *s = &u->train.samples[b->sample[i]];
        n += (size_t)snprintf(buf + n, size - n, "%s%.200s:%lld%s%.60s%s", i ? ", " : "", s->file,
                              (long long)s->line, s->id ? " (" : "", s->id ? s->id : "",
                              s->id ? ")" : "");
    }
    if (b->samples > 8 && n < size)
        snprintf(buf + n, size - n, " and %lld more", (long long)b->samples - 8);
}

static pc_status found(const run *u, const pc_batch *b, int64_t micro, const char *kind,
                       const char *name)
{
    char samples[2500];
    sample_names(samples, sizeof samples, u, &b->micro[micro]);
    return pc_fail(
        PC_ERR_NUMERIC,
        "step %lld: %s '%s' is not finite, in the micro-batch of %s. Nothing was written "
        "after step %lld; a smaller optim.lr or optim.clip, or those samples, are where "
        "to look",
        (long long)b->step + 1, kind, name, samples, (long long)b->step);
}

static void pass(pc_ctx *ctx, pc_model *m, const pc_micro_batch *micro, double coef)
{
    pc_clip_kept kept;
    if (m->config.kind == PC_MODEL_CLIP)
        contrastive_forward(ctx, &m->clip, &kept, micro);
    else
        instruction_micro(ctx, &m->vlm, &micro->vlm, coef);
}

// Taps keep every row of the last block, which a step leaves out where nobody reads them: the pass may need more
// than was planned. Nothing of the run comes after it, so the arenas are opened anew where they are too small.
static pc_status make_room(replica *r, const pc_micro_batch *micro)
{
    pc_arena act, scratch;
    pc_ctx dry = r->ctx;
    pc_arena *const real[2] = {&r->act, &r->scratch}, *const need[2] = {&act, &scratch};
    pc_arena_open_dry_in(&act, r->act.name, r->act.memory);
    pc_arena_open_dry_in(&scratch, r->scratch.name, r->scratch.memory);
    dry.ops = pc_dry_ops();
    dry.grad_ops = pc_dry_grad_ops();
    dry.act = &act;
    dry.scratch = &scratch;
    pass(&dry, r->model, micro, 1.0);
    pc_status st = PC_OK;
    for (int i = 0; i < 2 && !st; i++) {
        if (real[i]->size >= need[i]->peak && real[i]->shared_size >= need[i]->shared_peak)
            continue;
        pc_arena_close(real[i]);
        st = pc_arena_open_in(real[i], need[i]->name, need[i]->memory, need[i]->peak,
                              need[i]->memory ? need[i]->shared_peak : 0);
    }
    return st;
}

pc_status diagnose_step(run *u, const pc_batch *b, double loss, double norm)
{
    pc_params *params = &u->model->params;
    replica *r = &u->engine.replicas[0];
    const bool clip = u->model->config.kind == PC_MODEL_CLIP;
    pc_status st =
        pc_placement_fetch(&u->placement); // looked at on the host, wherever they were made
    if (st) return st;
    const pc_param *weight = pc_params_nonfinite(params, false);
    // Two towers: the gradient of the whole batch is still there. It is of all micro-batches together.
    const pc_param *gradient = clip ? last_gradient(params) : NULL;
    pc_placement_return(&u->placement);
    if (weight)
        return pc_fail(
            PC_ERR_NUMERIC,
            "step %lld: the parameter '%s' itself is not finite; nothing was written after "
            "step %lld",
            (long long)b->step + 1, weight->name, (long long)b->step);
    for (int64_t m = 0; m < b->micros; m++) {
        const pc_micro_batch *micro = &b->micro[m];
        char name[160] = "";
        pc_taps taps = {0};
        engine_dropout(&u->engine, &r->ctx, b->step, m);
        r->ctx.taps = &taps;
        if ((st = make_room(r, micro))) {
            r->ctx.taps = NULL;
            pc_taps_close(&taps);
            return pc_context(st,
                              "step %lld is not finite (loss %g, gradient norm %g), and looking "
                              "for where",
                              (long long)b->step + 1, loss, norm);
        }
        pc_arena_release(&r->act, 0);
        pc_arena_release(&r->scratch, 0);
        if (!clip) engine_zero(r);
        pass(&r->ctx, r->model, micro, 1.0 / (double)b->supervised);
        if (!clip) pc_grads_end(&r->ctx, params);
        r->ctx.taps = NULL;
        const char *tap = first_activation(&taps);
        if (tap) snprintf(name, sizeof name, "%s", tap);
        pc_taps_close(&taps);
        if (*name) return found(u, b, m, "activation", name);
        if ((st = pc_placement_fetch(&u->placement))) return st;
        if (!clip) gradient = last_gradient(params);
        pc_placement_return(&u->placement);
        if (!clip && gradient) return found(u, b, m, "the gradient of", gradient->name);
    }
    if (gradient) return found(u, b, 0, "the gradient of", gradient->name);
    return pc_fail(PC_ERR_NUMERIC,
                   "step %lld: loss %g, gradient norm %g, though every tensor is finite",
                   (long long)b->step + 1, loss, norm);
}

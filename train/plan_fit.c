/*
 * plan_fit.c - when a plan does not fit: what to change, and what each change would take.
 *
 * Every proposal is planned by running dry again with it, one at a time. They are ordered by what they
 * cost the run: nothing but rounding first, time next, what is learned last.
 */
#include "train/plan.h"

typedef struct proposal {
    char change[96], price[64];
    size_t total;
    bool works; // it applies here and could be planned
} proposal;

static void try_plan(proposal *p, const plan_request *q)
{
    plan made;
    p->works = plan_make(&made, q) == PC_OK;
    p->total = made.total;
}

static void try_micro(proposal *p, const plan_request *q)
{
    plan_request r = *q;
    while (r.train.samples > 1) {
        int64_t next = r.train.samples / 2;
        while (q->batch % next) next--;
        const double share = (double)next / (double)r.train.samples;
        r.train.rows = (int64_t)((double)r.train.rows * share) + 1;
        r.train.images = (int64_t)((double)r.train.images * share) + (r.train.images > 0);
        r.train.supervised = (int64_t)((double)r.train.supervised * share) + 1;
        r.train.samples = next;
        if (r.train.rows < next) r.train.rows = next;
        try_plan(p, &r);
        snprintf(p->change, sizeof p->change, "batch.micro: %lld", (long long)next);
        if (p->works && p->total <= q->limit) return;
    }
}

static void try_replay(proposal *p, const plan_request *q)
{
    plan_request r = *q;
    if (!q->keep_all || q->model->config.kind != PC_MODEL_CLIP) return;
    r.keep_all = false;
    try_plan(p, &r);
}

static void try_recompute(proposal *p, const plan_request *q)
{
    const bool clip = q->model->config.kind == PC_MODEL_CLIP;
    const pc_recompute before =
        clip ? q->model->config.clip.vision.recompute : q->model->config.vlm.decoder.recompute;
    if (before == PC_RECOMPUTE_BLOCK) return;
    plan_recompute(q->model, PC_RECOMPUTE_BLOCK);
    try_plan(p, q);
    plan_recompute(q->model, before);
}

static void try_operations(proposal *p, const plan_request *q)
{
    plan_request r = *q;
    if (q->replicas < 2) return;
    r.replicas = 1;
    r.samples = false;
    try_plan(p, &r);
}

static void try_frozen(proposal *p, const plan_request *q, const char *module)
{
    pc_params *params = &q->model->params;
    if (!objective_trains(params, module)) return;
    bool before[4096] = {false};
    if (params->count > 4096) return;
    for (int i = 0; i < params->count; i++) before[i] = params->list[i].trainable;
    pc_params_train(params, module, false);
    if (pc_params_numel(params, true) > 0) try_plan(p, q);
    for (int i = 0; i < params->count; i++) params->list[i].trainable = before[i];
}

pc_status plan_check(const plan *p, const plan_request *q)
{
    if (p->total <= p->limit) return PC_OK;
    const bool clip = q->model->config.kind == PC_MODEL_CLIP;
    proposal list[] = {
        {.price = "same result up to rounding"},
        {.change = "compute.replay: on", .price = "same result, forward twice"},
        {.change = "compute.split: operations", .price = "same result up to rounding"},
        {.change = "compute.recompute: block", .price = "same result, forward twice"},
        {.change = "model.train.vision: frozen", .price = "the tower stays as it is"},
        {.price = "that module stays as it is"},
    };
    enum { N = sizeof list / sizeof list[0] };
    try_micro(&list[0], q);
    try_replay(&list[1], q);
    try_operations(&list[2], q);
    try_recompute(&list[3], q);
    try_frozen(&list[4], q, "vision.");
    snprintf(list[5].change, sizeof list[5].change, "model.train.%s: frozen",
             clip ? "text" : "decoder");
    try_frozen(&list[5], q, clip ? "text." : "decoder.");

    char text[1024] = "", total[32], limit[32];
    size_t n = 0;
    int shown = 0;
    // First what fits by itself, in order of price; then what at least helps.
    for (int fits = 1; fits >= 0 && shown < 3; fits--)
        for (int i = 0; i < N && shown < 3; i++) {
            const proposal *s = &list[i];
            if (!s->works || s->total >= p->total || (s->total <= p->limit) != fits) continue;
            char bytes[32];
            n += (size_t)snprintf(text + n, sizeof text - n, "\n  %s (%s): %s%s", s->change,
                                  s->price, plan_bytes(bytes, sizeof bytes, (double)s->total),
                                  fits ? "" : ", not enough by itself");
            shown++;
        }
    return pc_fail(PC_ERR_MEMORY, "the run would take %s of memory and may take %s%s%s",
                   plan_bytes(total, sizeof total, (double)p->total),
                   plan_bytes(limit, sizeof limit, (double)p->limit),
                   shown ? "; what would help:" : "; nothing short of a smaller model would help",
                   text);
}

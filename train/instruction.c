/*
 * instruction.c - next-token prediction on the supervised rows (see objective.h).
 */
#include "train/objective.h"

#include <math.h>

#include "model/layers/place.h"

// What the host writes or reads itself, a number a row.
static pc_tensor shared_row(pc_ctx *ctx, int64_t n)
{
    return pc_view1(pc_alloc_shared(ctx->act, PC_F32, n, 1).data, PC_F32, n);
}

// Returns nll (N), of the activations.
static pc_tensor micro_nll(pc_ctx *ctx, pc_vlm *l, const pc_vlm_batch *b, double coef)
{
    pc_vlm_kept kept = {0};
    const pc_tensor nll = shared_row(ctx, b->N), c = shared_row(ctx, b->N);
    if (!ctx->act->dry)
        for (int64_t n = 0; n < b->N; n++) ((float *)c.data)[n] = (float)coef;

    pc_vlm_forward(ctx, &kept, l, b, NULL);
    pc_vlm_loss_backward(ctx, nll, l, &kept, b, c);
    return nll;
}

double instruction_micro(pc_ctx *ctx, pc_vlm *l, const pc_vlm_batch *b, double coef)
{
    const size_t act = pc_arena_mark(ctx->act), scratch = pc_arena_mark(ctx->scratch);
    const pc_tensor nll = micro_nll(ctx, l, b, coef);
    double sum = 0.0;
    pc_wait(ctx);
    if (!ctx->act->dry)
        for (int64_t n = 0; n < b->N; n++) sum += (double)((const float *)nll.data)[n];

    pc_arena_release(ctx->act, act);
    pc_arena_release(ctx->scratch, scratch);
    return sum;
}

// The same, its share of the step's loss added to `loss`: nothing is waited for.
static void launch_micro(pc_ctx *ctx, pc_tensor loss, pc_vlm *l, const pc_vlm_batch *b, double coef)
{
    const size_t act = pc_arena_mark(ctx->act), scratch = pc_arena_mark(ctx->scratch);
    ctx->grad_ops->add_sum(ctx, loss, micro_nll(ctx, l, b, coef), coef);
    pc_arena_release(ctx->act, act);
    pc_arena_release(ctx->scratch, scratch);
}

typedef struct work {
    const pc_batch *batch;
    pc_tensor loss; // of a device, whose replica is alone; absent: replicas keep sums of their own
} work;

static void run_share(engine *e, replica *r, int used, void *arg)
{
    const work *w = arg;
    const pc_batch *b = w->batch;
    const double coef = 1.0 / (double)b->supervised;
    pc_arena_release(&r->act, 0);
    pc_arena_release(&r->scratch, 0);
    engine_zero(r);
    r->loss = 0.0;
    for (int64_t m = r->index; m < b->micros; m += used) {
        engine_dropout(e, &r->ctx, b->step, m);
        if (pc_present(w->loss))
            launch_micro(&r->ctx, w->loss, &r->model->vlm, &b->micro[m].vlm, coef);
        else
            r->loss += instruction_micro(&r->ctx, &r->model->vlm, &b->micro[m].vlm, coef);
    }
}

void instruction_launch(engine *e, const pc_batch *b, pc_tensor loss)
{
    const int used = engine_used(e, b->micros);
    PC_ASSERT(b->supervised > 0, "step %lld has %lld supervised tokens", (long long)b->step,
              (long long)b->supervised);
    pc_ctx *ctx = &e->replicas[0].ctx;
    const bool device = ctx->act->memory != NULL;
    work w = {.batch = b, .loss = device ? loss : PC_NONE};
    if (device) ctx->ops->zero_forward(ctx, loss);
    engine_run(e, used, run_share, &w);
    engine_reduce(e, used);
    if (device) return;
    double sum = 0.0;
    for (int i = 0; i < used; i++) sum += e->replicas[i].loss;
    *(double *)loss.data = sum / (double)b->supervised;
}

// ---- scoring -----------------------------------------------------------------------------------

enum { SCORE_ROWS = 256 }; // logits that exist at once: (SCORE_ROWS, V)

static int64_t argmax(const float *z, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (z[i] > z[best]) best = i;
    return best;
}

// Chosen rows of `normed` through the head, into the first rows of `rows` and `logits`; hit[row] tells whether the
// label is the likeliest.
static void score_rows(pc_ctx *ctx, const pc_vlm *l, pc_tensor normed, const int32_t *labels,
                       pc_tensor index, pc_tensor rows, pc_tensor logits, uint8_t *hit)
{
    const int64_t M = index.dim[0], V = l->decoder.config.V;
    rows = pc_rows(rows, 0, M);
    logits = pc_rows(logits, 0, M);
    ctx->ops->gather_forward(ctx, rows, normed, index);
    pc_decoder_logits(ctx, logits, &l->decoder, rows);
    pc_wait(ctx);
    if (hit) // NULL on dry runs
        for (int64_t m = 0; m < M; m++) {
            const int32_t n = pc_i32(index)[m];
            hit[n] = argmax(pc_f32(logits, m), V) == labels[n];
        }
}

double instruction_score(pc_ctx *ctx, const pc_vlm *l, const pc_vlm_batch *b, uint8_t *hit)
{
    const size_t act = pc_arena_mark(ctx->act), scratch = pc_arena_mark(ctx->scratch);
    const bool dry = ctx->act->dry;
    pc_vlm_kept kept = {0};
    pc_tensor nll = shared_row(ctx, b->N);
    pc_tensor index = pc_alloc1(ctx->act, PC_I32, SCORE_ROWS);
    const int32_t *labels = b->labels.data;
    double sum = 0.0;

    kept.normed = pc_vlm_forward(ctx, &kept, l, b, NULL);
    pc_vlm_loss_forward(ctx, nll, l, &kept, b);
    pc_wait(ctx);
    if (!dry)
        for (int64_t n = 0; n < b->N; n++) sum += (double)((const float *)nll.data)[n];

    const pc_tensor rows = pc_alloc2(ctx->act, ctx->real, SCORE_ROWS, kept.normed.dim[1]);
    const pc_tensor logits =
        pc_alloc_shared(ctx->act, pc_stat(ctx), SCORE_ROWS, l->decoder.config.V);
    if (dry) {
        score_rows(ctx, l, kept.normed, labels, index, rows, logits, NULL);
    } else if (hit) {
        int64_t held = 0;
        for (int64_t n = 0; n < b->N; n++) {
            hit[n] = 0;
            if (labels[n] >= 0) pc_i32(index)[held++] = (int32_t)n;
            if (held == SCORE_ROWS || (n == b->N - 1 && held > 0)) {
                score_rows(ctx, l, kept.normed, labels, pc_rows(index, 0, held), rows, logits, hit);
                held = 0;
            }
        }
    }
    pc_arena_release(ctx->act, act);
    pc_arena_release(ctx->scratch, scratch);
    return sum;
}

void objective_launch(engine *e, const pc_batch *b, pc_tensor loss)
{
    if (e->model->config.kind == PC_MODEL_CLIP)
        contrastive_launch(e, b, loss);
    else
        instruction_launch(e, b, loss);
    engine_scales(e);
}

double objective_step(engine *e, const pc_batch *b)
{
    double own = 0.0, *loss = e->loss ? e->loss : &own;
    objective_launch(e, b, pc_view1(loss, PC_F64, 1));
    pc_wait(&e->whole_ctx);
    return *loss;
}

double objective_chance(const pc_model *m, int64_t batch)
{
    if (m->config.kind == PC_MODEL_VLM) return log((double)m->config.vlm.decoder.V);
    if (m->config.clip.loss == PC_CONTRAST_SOFTMAX) return log((double)batch);
    // All pairs alike, z = t u.v + b with u.v = 0: (softplus(-b) + (B-1) softplus(b)) of the initial b.
    const double b = m->config.clip.init_bias;
    return log1p(exp(-b)) + (double)(batch - 1) * log1p(exp(b));
}

bool objective_trains(const pc_params *p, const char *prefix)
{
    for (int i = 0; i < p->count; i++) {
        const char *a = p->list[i].name, *b = prefix;
        while (*b && *a == *b) a++, b++;
        if (!*b && p->list[i].trainable) return true;
    }
    return false;
}

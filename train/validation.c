/*
 * validation.c - see validation.h.
 */
#include "train/validation.h"

#include "model/layers/place.h"
#include "model/core/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double validation_accuracy(const validation *v)
{
    return v->answers ? (double)v->right / (double)v->answers : 0.0;
}

double validation_recall(const validation *v)
{
    return 0.25 * (v->recall_image + v->recall_text + v->recall5_image + v->recall5_text);
}

// ---- tokens --------------------------------------------------------------------------------------

static void count_type(validation *v, const char *name, bool right)
{
    const size_t length = sizeof v->types[0].name - 1; // longer names are cut
    int i = 0;
    while (i < v->n_types && strncmp(v->types[i].name, name, length) != 0) i++;
    if (i == v->n_types) {
        if (v->n_types == VALIDATION_TYPES) {
            i--; // the last one takes what is left
            snprintf(v->types[i].name, sizeof v->types[i].name, "other");
        } else {
            snprintf(v->types[v->n_types++].name, sizeof v->types[0].name, "%s", name);
        }
    }
    v->types[i].right += right;
    v->types[i].count++;
}

// Answers are runs of supervised rows within a sequence, in the order of the sample's turns.
static void count_answers(validation *v, const pc_micro_batch *b, const pc_dataset *data,
                          const uint8_t *hit)
{
    const int32_t *labels = b->vlm.labels.data, *off = b->vlm.mask.q_off.data;
    for (int64_t s = 0; s < b->vlm.mask.S; s++) {
        const pc_sample *sample = &data->samples[b->sample[s]];
        int64_t turn = 0;
        for (int32_t n = off[s]; n < off[s + 1]; turn++) {
            while (n < off[s + 1] && labels[n] < 0) n++;
            if (n == off[s + 1]) break;
            bool right = true;
            for (; n < off[s + 1] && labels[n] >= 0; n++) {
                right = right && hit[n];
                v->tokens++;
                v->tokens_right += hit[n];
            }
            const char *type = sample->n_turns == 0     ? "caption"
                               : turn < sample->n_turns ? sample->turns[turn].type
                                                        : NULL;
            v->answers++;
            v->right += right;
            count_type(v, type ? type : "question", right);
        }
    }
}

typedef struct token_work {
    const pc_batch *batch;
    const pc_dataset *data;
    validation *parts; // (replicas)
    uint8_t **hits;    // (replicas), room for the largest micro-batch
} token_work;

static void score_share(engine *e, replica *r, int used, void *arg)
{
    token_work *w = arg;
    (void)e;
    for (int64_t m = r->index; m < w->batch->micros; m += used) {
        pc_ctx ctx = engine_infer(r);
        const pc_micro_batch *b = &w->batch->micro[m];
        pc_arena_release(ctx.act, 0);
        pc_arena_release(ctx.scratch, 0);
        w->parts[r->index].loss +=
            instruction_score(&ctx, &r->model->vlm, &b->vlm, w->hits[r->index]);
        count_answers(&w->parts[r->index], b, w->data, w->hits[r->index]);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const validation_type *)a)->name, ((const validation_type *)b)->name);
}

// Types met in another order by another replica end in the same sums, sorted by name.
static void merge(validation *out, const validation *part)
{
    out->loss += part->loss;
    out->answers += part->answers;
    out->right += part->right;
    out->tokens += part->tokens;
    out->tokens_right += part->tokens_right;
    for (int i = 0; i < part->n_types; i++) {
        int k = 0;
        while (k < out->n_types && strcmp(out->types[k].name, part->types[i].name) != 0) k++;
        if (k == out->n_types) {
            if (k == VALIDATION_TYPES) {
                k--;
            } else {
                out->types[out->n_types++] = part->types[i];
                continue;
            }
        }
        out->types[k].right += part->types[i].right;
        out->types[k].count += part->types[i].count;
    }
}

static pc_status score_tokens(validation *out, run *u)
{
    const int R = u->engine.count;
    token_work w = {.data = &u->shown};
    pc_status st = PC_OK;
    w.parts = calloc((size_t)R, sizeof *w.parts);
    w.hits = calloc((size_t)R, sizeof *w.hits);
    if (!w.parts || !w.hits) st = pc_fail(PC_ERR_MEMORY, "validation");
    for (int i = 0; i < R && w.hits && !st; i++)
        if (!(w.hits[i] = malloc((size_t)u->request.val.rows + 1)))
            st = pc_fail(PC_ERR_MEMORY, "validation");
    const int64_t batches = pc_loader_steps_per_epoch(u->val_loader);
    for (int64_t k = 0; k < batches && !st; k++) {
        pc_batch *b;
        if ((st = pc_loader_next(u->val_loader, &b))) break;
        w.batch = b;
        engine_run(&u->engine, engine_used(&u->engine, b->micros), score_share, &w);
    }
    for (int i = 0; i < R && !st; i++) merge(out, &w.parts[i]);
    if (!st) qsort(out->types, (size_t)out->n_types, sizeof out->types[0], by_name);
    out->loss = out->tokens ? out->loss / (double)out->tokens : 0.0;
    for (int i = 0; i < R && w.hits; i++) free(w.hits[i]);
    free(w.hits);
    free(w.parts);
    return st;
}

// ---- towers --------------------------------------------------------------------------------------

typedef struct tower_work {
    const pc_batch *batch;
    pc_tensor U, V; // (n,E) rows of this batch
} tower_work;

static void take_rows(pc_ctx *ctx, pc_tensor to, pc_tensor x)
{
    x = pc_fetch(ctx, x);
    memcpy(to.data, x.data, (size_t)pc_numel(to) * sizeof(float));
}

static void embed_share(engine *e, replica *r, int used, void *arg)
{
    tower_work *w = arg;
    (void)e;
    for (int64_t m = r->index; m < w->batch->micros; m += used) {
        int64_t row = 0;
        for (int64_t i = 0; i < m; i++) row += w->batch->micro[i].samples;
        const int64_t end = row + w->batch->micro[m].samples;
        pc_ctx ctx = engine_infer(r);
        pc_clip_kept kept;
        pc_arena_release(ctx.act, 0);
        pc_arena_release(ctx.scratch, 0);
        contrastive_forward(&ctx, &r->model->clip, &kept, &w->batch->micro[m]);
        take_rows(&ctx, pc_rows(w->U, row, end), kept.u);
        take_rows(&ctx, pc_rows(w->V, row, end), kept.v);
        pc_arena_release(ctx.act, 0);
    }
}

// How many of B's rows are nearer to a row of A than its own one is (n,E each); counted up to RANKS.
enum { RANKS = 5, LANES = 8 };

typedef struct recall_work {
    pc_tensor A, B;
    uint8_t *rank;
} recall_work;

static float dot(const float *a, const float *b, int64_t n)
{
    float lane[LANES] = {0}, sum = 0.0f;
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int i = 0; i < LANES; i++) lane[i] += a[k + i] * b[k + i];
    for (int i = 0; i < LANES; i++) sum += lane[i];
    for (; k < n; k++) sum += a[k] * b[k];
    return sum;
}

static void recall_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const recall_work *w = arg;
    const int64_t n = w->A.dim[0], E = w->A.dim[1];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const float *a = pc_f32(w->A, i), own = dot(a, pc_f32(w->B, i), E);
        int nearer = 0;
        for (int64_t j = 0; j < n && nearer < RANKS; j++)
            nearer += j != i && dot(a, pc_f32(w->B, j), E) > own;
        w->rank[i] = (uint8_t)nearer;
    }
}

static void recall(double *at_1, double *at_5, pc_pool *pool, pc_tensor A, pc_tensor B,
                   uint8_t *rank)
{
    recall_work w = {A, B, rank};
    const int64_t n = A.dim[0];
    int64_t first = 0, five = 0;
    pc_parallel(pool, n, 16, recall_rows, &w);
    for (int64_t i = 0; i < n; i++) {
        first += rank[i] == 0;
        five += rank[i] < RANKS;
    }
    *at_1 = n ? (double)first / (double)n : 0.0;
    *at_5 = n ? (double)five / (double)n : 0.0;
}

pc_status validation_embed(run *u, pc_tensor U, pc_tensor V, int64_t *row_sample, int64_t *rows,
                           double *loss)
{
    const int64_t n = U.dim[0], batches = pc_loader_steps_per_epoch(u->val_loader);
    int64_t seen = 0, whole = 0;
    double sum = 0.0, partial = 0.0;
    pc_status st = PC_OK;
    for (int64_t k = 0; k < batches; k++) {
        pc_batch *b;
        if ((st = pc_loader_next(u->val_loader, &b))) return st;
        const int64_t size = b->samples;
        PC_ASSERT(seen + size <= n, "%lld rows of %lld", (long long)(seen + size), (long long)n);
        tower_work w = {.batch = b,
                        .U = pc_rows(U, seen, seen + size),
                        .V = pc_rows(V, seen, seen + size)};
        engine_run(&u->engine, engine_used(&u->engine, b->micros), embed_share, &w);
        for (int64_t m = 0; m < b->micros; m++)
            for (int64_t i = 0; i < b->micro[m].samples; i++)
                row_sample[seen++] = b->micro[m].sample[i];
        // A smaller batch has another chance level: it counts only where no whole one exists.
        pc_arena_release(&u->engine.whole, 0);
        pc_ctx *ctx = &u->engine.whole_ctx;
        const double part =
            pc_clip_loss_forward(ctx, &u->model->clip, pc_place(ctx, w.U), pc_place(ctx, w.V));
        if (size == u->recipe->batch.size)
            sum += part, whole++;
        else
            partial = part;
    }
    *rows = seen;
    *loss = whole ? sum / (double)whole : partial;
    return PC_OK;
}

static pc_status score_towers(validation *out, run *u)
{
    const int64_t n = u->shown.count, E = u->model->config.clip.text.E;
    float *numbers = malloc((size_t)(2 * n * E + 1) * sizeof *numbers);
    int64_t *row_sample = malloc((size_t)(n + 1) * sizeof *row_sample), rows = 0;
    uint8_t *rank = malloc((size_t)n + 1);
    if (!numbers || !row_sample || !rank) {
        free(numbers);
        free(row_sample);
        free(rank);
        return pc_fail(PC_ERR_MEMORY, "validation embeddings");
    }
    const pc_tensor U = pc_view2(numbers, PC_F32, n, E);
    const pc_tensor V = pc_view2(numbers + n * E, PC_F32, n, E);
    pc_status st = validation_embed(u, U, V, row_sample, &rows, &out->loss);
    if (!st) {
        const pc_tensor A = pc_rows(U, 0, rows), B = pc_rows(V, 0, rows);
        out->samples = rows;
        recall(&out->recall_image, &out->recall5_image, u->pool, A, B, rank);
        recall(&out->recall_text, &out->recall5_text, u->pool, B, A, rank);
    }
    free(numbers);
    free(row_sample);
    free(rank);
    return st;
}

// ---- either --------------------------------------------------------------------------------------

pc_status validation_run(validation *out, run *u)
{
    const double started = pc_seconds();
    *out = (validation){.step = u->state.step, .samples = u->shown.count};
    pc_status st =
        u->model->config.kind == PC_MODEL_CLIP ? score_towers(out, u) : score_tokens(out, u);
    out->seconds = pc_seconds() - started;
    if (!st && !isfinite(out->loss))
        st = pc_fail(PC_ERR_NUMERIC, "step %lld: validation loss is not finite",
                     (long long)u->state.step);
    return pc_context(st, "validation");
}

bool validation_improves(const validation *v, run *u)
{
    run_state *s = &u->state;
    double value = -v->loss;
    if (u->recipe->eval.best == BEST_ACCURACY) value = validation_accuracy(v);
    if (u->recipe->eval.best == BEST_RECALL) value = validation_recall(v);
    if (s->has_best && !(value > s->best || (value == s->best && v->loss < s->best_loss)))
        return false;
    s->has_best = true;
    s->best = value;
    s->best_loss = v->loss;
    s->best_step = v->step;
    return true;
}

const char *validation_text(char *buf, size_t size, const validation *v, const run *u)
{
    if (u->model->config.kind == PC_MODEL_CLIP)
        snprintf(buf, size, "recall at 1 %.1f / %.1f %%, at 5 %.1f / %.1f %% of %lld, loss %.3f",
                 100.0 * v->recall_image, 100.0 * v->recall_text, 100.0 * v->recall5_image,
                 100.0 * v->recall5_text, (long long)v->samples, v->loss);
    else
        snprintf(buf, size, "answers right %.1f %% of %lld, loss %.3f",
                 100.0 * validation_accuracy(v), (long long)v->answers, v->loss);
    return buf;
}

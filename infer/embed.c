/*
 * embed.c - see embed.h.
 */
#include "infer/embed.h"

#include "data/datasets/loader.h"
#include "data/metrics/classification.h"
#include "infer/answer.h"
#include "model/layers/place.h"
#include "model/core/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES_AT_ONCE = 64, TEXTS_AT_ONCE = 256, ROWS_AT_ONCE = 256 };

pc_status embedder_open(embedder *e, pc_bundle *b, int threads)
{
    memset(e, 0, sizeof *e);
    if (b->model.config.kind != PC_MODEL_CLIP)
        return pc_fail(PC_ERR_INPUT,
                       "'%s' is no two-tower model: it answers questions (`percept ask`)", b->path);
    const pc_clip *l = &b->model.clip;
    e->bundle = b;
    e->E = b->model.config.clip.text.E;
    e->scale = expf(*pc_f32(l->logit_scale.w, 0));
    e->sigmoid = b->model.config.clip.loss == PC_CONTRAST_SIGMOID;
    if (pc_present(l->logit_bias.w)) e->bias = *pc_f32(l->logit_bias.w, 0);
    pc_backend backend;
    pc_status st = pc_backend_choose(&backend, NULL);
    backend.real = pc_placement_precision(&b->model, &backend);
    if (!st) st = pc_runner_open_on(&e->runner, threads, NULL, &backend);
    return st ? st : pc_placement_open(&e->placement, &b->model, &e->runner.backend);
}

void embedder_close(embedder *e)
{
    pc_placement_close(&e->placement);
    pc_runner_close(&e->runner);
    memset(e, 0, sizeof *e);
}

// One call of the model.
typedef struct job {
    const pc_clip *model;
    pc_tensor pixels;          // images
    const int32_t *const *ids; // texts
    const int64_t *lengths;
    int64_t n;
    pc_tensor u, v; // similarities
    float *out;
} job;

static void rows_out(pc_ctx *ctx, const job *j, pc_tensor x)
{
    x = pc_fetch(ctx, x);
    if (ctx->act->dry) return;
    const size_t row = (size_t)pc_row_len(x);
    for (int64_t i = 0; i < x.dim[0]; i++)
        memcpy(j->out + (size_t)i * row, pc_f32(x, i), row * sizeof *j->out);
}

static void image_pass(pc_ctx *ctx, void *arg)
{
    const job *j = arg;
    pc_clip_kept kept = {0};
    rows_out(ctx, j, pc_clip_image_forward(ctx, &kept, j->model, j->pixels));
}

static void text_pass(pc_ctx *ctx, void *arg)
{
    const job *j = arg;
    pc_clip_kept kept = {0};
    pc_text_batch batch;
    pc_text_batch_build(&batch, ctx->act, &j->model->config.text, j->ids, j->lengths, j->n);
    rows_out(ctx, j, pc_clip_text_forward(ctx, &kept, j->model, &batch));
}

static void similarity_pass(pc_ctx *ctx, void *arg)
{
    const job *j = arg;
    const pc_tensor S = pc_alloc2(ctx->act, PC_F32, j->u.dim[0], j->v.dim[0]);
    ctx->ops->linear_forward(ctx, S, pc_place(ctx, j->u), pc_place(ctx, j->v), PC_NONE, PC_NONE);
    rows_out(ctx, j, S);
}

pc_status embed_images(embedder *e, float *out, const char *const *paths, int64_t n,
                       const char *label)
{
    const pc_bundle *b = e->bundle;
    const int64_t S = b->image.size;
    pc_progress bar;
    pc_status st = PC_OK;

    if (!b->has_image)
        return pc_fail(PC_ERR_INPUT, "'%s' does not say how images are prepared", b->path);
    float *pixels = malloc((size_t)(IMAGES_AT_ONCE * 3 * S * S) * sizeof *pixels);
    if (!pixels) return pc_fail(PC_ERR_MEMORY, "images of %lld x %lld", (long long)S, (long long)S);
    if (label) pc_progress_open(&bar, label, "images", n);
    for (int64_t i = 0; i < n && !st; i += IMAGES_AT_ONCE) {
        const int64_t count = n - i < IMAGES_AT_ONCE ? n - i : IMAGES_AT_ONCE;
        job j = {.model = &b->model.clip,
                 .pixels = pc_view4(pixels, PC_F32, count, 3, S, S),
                 .out = out + i * e->E};
        if (!(st = answer_pixels_all(pixels, &b->image, paths + i, count, e->runner.pool)))
            st = pc_runner_run(&e->runner, image_pass, &j);
        if (label) pc_progress_update(&bar, i + count, NULL);
    }
    if (label) pc_progress_close(&bar);
    free(pixels);
    return st;
}

pc_status embed_texts(embedder *e, float *out, const char *const *texts, int64_t n,
                      const char *label)
{
    const pc_bundle *b = e->bundle;
    pc_ids ids[TEXTS_AT_ONCE] = {0};
    const int32_t *list[TEXTS_AT_ONCE];
    int64_t lengths[TEXTS_AT_ONCE];
    pc_progress bar;
    pc_status st = PC_OK;

    if (!b->tokenizer)
        return pc_fail(PC_ERR_INPUT, "'%s' came without a tokenizer that can be read", b->path);
    if (label) pc_progress_open(&bar, label, "texts", n);
    for (int64_t i = 0; i < n && !st; i += TEXTS_AT_ONCE) {
        const int64_t count = n - i < TEXTS_AT_ONCE ? n - i : TEXTS_AT_ONCE;
        for (int64_t k = 0; k < count && !st; k++) {
            ids[k].count = 0;
            st = pc_clip_text_ids(&ids[k], b->tokenizer, &b->model.config.clip.text, texts[i + k]);
            list[k] = ids[k].list;
            lengths[k] = ids[k].count;
        }
        job j = {.model = &b->model.clip,
                 .ids = list,
                 .lengths = lengths,
                 .n = count,
                 .out = out + i * e->E};
        if (!st) st = pc_runner_run(&e->runner, text_pass, &j);
        if (label) pc_progress_update(&bar, i + count, NULL);
    }
    if (label) pc_progress_close(&bar);
    for (int k = 0; k < TEXTS_AT_ONCE; k++) pc_ids_close(&ids[k]);
    return st;
}

pc_status embed_similarities(embedder *e, float *S, const float *U, int64_t I, const float *V,
                             int64_t T)
{
    pc_status st = PC_OK;
    for (int64_t i = 0; i < I && !st; i += ROWS_AT_ONCE) {
        const int64_t count = I - i < ROWS_AT_ONCE ? I - i : ROWS_AT_ONCE;
        job j = {.u = pc_view2((void *)(uintptr_t)(U + i * e->E), PC_F32, count, e->E),
                 .v = pc_view2((void *)(uintptr_t)V, PC_F32, T, e->E),
                 .out = S + i * T};
        st = pc_runner_run(&e->runner, similarity_pass, &j);
    }
    return st;
}

// "a photo of a {}." with the name in place of {}.
static char *fill(const char *template, const char *name)
{
    const char *at = strstr(template, "{}");
    const size_t size = strlen(template) + strlen(name) + 1;
    char *out = malloc(size);
    if (out) snprintf(out, size, "%.*s%s%s", (int)(at - template), template, name, at + 2);
    return out;
}

pc_status embed_classes(embedder *e, float *W, const char *const *names, int64_t C,
                        const char *const *templates, int n_templates)
{
    const int64_t n = C * n_templates;
    char **texts = calloc((size_t)n + 1, sizeof *texts);
    float *rows = malloc((size_t)(n * e->E + 1) * sizeof *rows);
    pc_status st = PC_OK;

    if (!texts || !rows) st = pc_fail(PC_ERR_MEMORY, "%lld class prompts", (long long)n);
    for (int t = 0; t < n_templates && !st; t++)
        if (!strstr(templates[t], "{}"))
            st = pc_fail(PC_ERR_INPUT, "template \"%s\": no {} for the name of the class",
                         templates[t]);
    for (int64_t i = 0; i < n && !st; i++)
        if (!(texts[i] = fill(templates[i % n_templates], names[i / n_templates])))
            st = pc_fail(PC_ERR_MEMORY, "a class prompt");
    if (!st) st = embed_texts(e, rows, (const char *const *)texts, n, NULL);
    for (int64_t c = 0; c < C && !st; c++)
        pc_class_weight(W + c * e->E, rows + c * n_templates * e->E, n_templates, e->E);
    for (int64_t i = 0; texts && i < n; i++) free(texts[i]);
    free(texts);
    free(rows);
    return st;
}

void embed_probabilities(const embedder *e, double *p, const float *cosines, int64_t C)
{
    double most = -INFINITY, sum = 0.0;

    for (int64_t c = 0; c < C; c++) {
        p[c] = (double)e->scale * (double)cosines[c] + (double)e->bias;
        if (p[c] > most) most = p[c];
    }
    for (int64_t c = 0; c < C; c++) {
        p[c] = e->sigmoid ? 1.0 / (1.0 + exp(-p[c])) : exp(p[c] - most);
        sum += p[c];
    }
    for (int64_t c = 0; c < C && !e->sigmoid; c++) p[c] /= sum;
}

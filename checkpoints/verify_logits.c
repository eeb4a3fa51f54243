/*
 * verify_logits.c - see verify_logits.h. Two short texts; images of the kind that the model takes, where they fit.
 */
#include "checkpoints/verify_logits.h"

#include "model/core/rng.h"
#include "model/layers/mask.h"
#include "model/networks/runner.h"
#include <stdlib.h>
#include <string.h>

enum { TEXTS = 2, BEFORE = 4, BEHIND = 6 };

typedef struct job {
    pc_model *model;
    const pc_model_config *as; // whose inputs these are
    pc_answers *out;
    pc_arena memory;
    pc_vlm_batch vlm;
    pc_text_batch text;
    pc_tensor pixels; // two towers
    uint64_t seed, at;
} job;

static double uniform(job *j)
{
    const pc_rng_key key = {j->seed, PC_STREAM_TEST, 0};
    return pc_rng_uniform(&key, j->at++);
}

static void fill_random(job *j, pc_tensor x)
{
    float *p = x.data;
    for (int64_t i = 0; i < pc_numel(x); i++) p[i] = (float)(2.0 * uniform(j) - 1.0);
}

static int32_t random_id(job *j, int64_t V, int64_t avoid, int64_t also)
{
    int32_t id;
    do id = (int32_t)(uniform(j) * (double)V);
    while (V > 3 && (id == avoid || id == also));
    return id;
}

/* ---- decoders with eyes ---- */

// A small image of each kind that does not fill its square.
static pc_image_geometry geometry_of(const pc_vlm_config *c)
{
    const int64_t S = c->vision.image_size, m = c->merge > 0 ? c->merge : 1;
    return (
        pc_image_geometry){.height = S + S / 3, .width = 2 * S - 3, .t = 1, .h = 2 * m, .w = 3 * m};
}

static int64_t patch_numbers(const pc_model *m)
{
    const pc_param *p = pc_params_find((pc_params *)(uintptr_t)&m->params, "vision.stem.0.weight");
    int64_t n = 1;
    for (int i = 1; p && i < p->rank; i++) n *= p->dim[i];
    return n;
}

static void make_pictures(job *j, const pc_image_geometry *g, int64_t images)
{
    const pc_vlm_config *c = &j->model->config.vlm;
    pc_pictures *p = &j->vlm.pictures;
    const int64_t S = c->vision.image_size;
    int64_t crops = 0, patches = 0;
    for (int64_t i = 0; i < images; i++) {
        crops += g[i].crops;
        patches += g[i].t * g[i].h * g[i].w;
    }
    if (c->visual == PC_VISUAL_GRID) {
        p->patches = pc_alloc2(&j->memory, PC_F32, patches, patch_numbers(j->model));
        fill_random(j, p->patches);
        return;
    }
    float *data = pc_arena_bytes(&j->memory, (size_t)(crops * 3 * S * S) * sizeof *data);
    p->pixels = pc_view4(data, PC_F32, crops, 3, S, S);
    fill_random(j, p->pixels);
    if (c->visual != PC_VISUAL_HYBRID) return;
    const int64_t S2 = c->high.image_size;
    float *high = pc_arena_bytes(&j->memory, (size_t)(images * 3 * S2 * S2) * sizeof *high);
    p->high = pc_view4(high, PC_F32, images, 3, S2, S2);
    fill_random(j, p->high);
}

// Whether random images can be made for these eyes and their rows fit the longest sequence.
static bool has_room(pc_image_geometry *g, const pc_vlm_config *c)
{
    if (!c->vision.L) return false;
    *g = geometry_of(c);
    if (pc_vlm_measure(g, c)) return false;
    return g->rows + BEFORE + BEHIND <= c->decoder.T;
}

static pc_status make_vlm(job *j)
{
    const pc_vlm_config *c = &j->as->vlm, *own = &j->model->config.vlm;
    int32_t ids[TEXTS][BEFORE + 1 + BEHIND];
    pc_image_geometry g;
    pc_sequence seqs[TEXTS] = {{0}};
    const bool images = has_room(&g, c);
    const int64_t length = c->decoder.T < BEFORE + BEHIND ? c->decoder.T : BEFORE + BEHIND;
    for (int s = 0; s < TEXTS; s++) {
        int64_t n = 0;
        for (int64_t t = 0; t < length; t++) {
            if (images && s == 0 && t == BEFORE) ids[s][n++] = (int32_t)own->image_id;
            ids[s][n++] = random_id(j, c->decoder.V, c->image_id, c->video_id);
        }
        seqs[s].ids = ids[s];
        seqs[s].length = n;
        seqs[s].images = images && s == 0 ? &g : NULL;
    }
    j->out->images = images;
    pc_status st = pc_vlm_batch_build(&j->vlm, &j->memory, own, seqs, TEXTS, images);
    if (!st && images) make_pictures(j, &g, 1);
    return st;
}

static size_t vlm_bytes(const pc_model *m)
{
    const pc_vlm_config *c = &m->config.vlm;
    pc_image_geometry g = {0};
    const bool images = has_room(&g, c);
    const int64_t S = c->vision.image_size;
    int64_t numbers = images ? g.crops * 3 * S * S : 0;
    if (images && c->visual == PC_VISUAL_HYBRID)
        numbers += 3 * c->high.image_size * c->high.image_size;
    if (images && c->visual == PC_VISUAL_GRID) numbers = g.t * g.h * g.w * patch_numbers(m);
    return (size_t)numbers * sizeof(float) + (size_t)(images ? g.rows + 64 : 64) * 512 + 65536;
}

static void vlm_pass(pc_ctx *ctx, void *arg)
{
    job *j = arg;
    const pc_vlm *l = &j->model->vlm;
    const int64_t N = j->vlm.N, V = l->config.decoder.V;
    pc_vlm_kept kept = {0};
    const pc_tensor normed = pc_vlm_forward(ctx, &kept, l, &j->vlm, NULL);
    for (int64_t n = 0; n < N; n += 64) {
        const int64_t end = n + 64 < N ? n + 64 : N;
        const size_t mark = pc_arena_mark(ctx->act);
        const pc_tensor logits = pc_alloc2(ctx->act, PC_F32, end - n, V);
        pc_decoder_logits(ctx, logits, &l->decoder, pc_rows(normed, n, end));
        for (int64_t k = n; k < end && !ctx->act->dry; k++)
            memcpy(j->out->numbers + k * V, pc_f32(logits, k - n), (size_t)V * sizeof(float));
        pc_arena_release(ctx->act, mark);
    }
}

/* ---- two towers ---- */

static void make_clip(job *j)
{
    const pc_clip_config *c = &j->model->config.clip;
    const pc_text_config *t = &c->text;
    const int64_t S = c->vision.image_size, T = t->pad_to_context || t->T < 8 ? t->T : 8, B = TEXTS;
    pc_text_batch *b = &j->text;
    float *data = pc_arena_bytes(&j->memory, (size_t)(B * 3 * S * S) * sizeof *data);
    j->pixels = pc_view4(data, PC_F32, B, 3, S, S);
    fill_random(j, j->pixels);
    b->ids = pc_alloc1(&j->memory, PC_I32, B * T);
    b->pos = pc_alloc1(&j->memory, PC_I32, B * T);
    b->pooled = pc_alloc1(&j->memory, PC_I32, B);
    pc_mask_alloc(&b->mask, &j->memory, B, B * T, false);
    for (int64_t s = 0; s <= B; s++)
        pc_i32(b->mask.q_off)[s] = pc_i32(b->mask.k_off)[s] = (int32_t)(s * T);
    for (int64_t s = 0; s < B; s++) {
        for (int64_t i = 0; i < T; i++) {
            const int64_t n = s * T + i;
            pc_i32(b->ids)[n] = random_id(j, t->V, t->eot_id, -1);
            pc_i32(b->pos)[n] = (int32_t)i;
            pc_i32(b->mask.lo)[n] = (int32_t)(s * T);
            pc_i32(b->mask.hi)[n] = (int32_t)(t->causal ? n + 1 : (s + 1) * T);
            b->mask.pairs += t->causal ? (double)(i + 1) : (double)T;
        }
        if (t->pool == PC_POOL_EOT) pc_i32(b->ids)[s * T + T - 1] = (int32_t)t->eot_id;
        pc_i32(b->pooled)[s] = (int32_t)(s * T + T - 1);
    }
    j->out->images = true;
}

static size_t clip_bytes(const pc_clip_config *c)
{
    const int64_t S = c->vision.image_size;
    return (size_t)(TEXTS * 3 * S * S) * sizeof(float) + (size_t)(TEXTS * (c->text.T + 8)) * 64 +
           65536;
}

static void clip_pass(pc_ctx *ctx, void *arg)
{
    job *j = arg;
    const pc_clip *l = &j->model->clip;
    pc_clip_kept kept = {0};
    const pc_tensor u = pc_clip_image_forward(ctx, &kept, l, j->pixels);
    const pc_tensor v = pc_clip_text_forward(ctx, &kept, l, &j->text);
    const pc_tensor S = pc_alloc2(ctx->act, PC_F32, TEXTS, TEXTS);
    ctx->ops->linear_forward(ctx, S, u, v, PC_NONE, PC_NONE);
    if (ctx->act->dry) return;
    // The embeddings themselves, then what the model says of each pair.
    const int64_t E = u.dim[1];
    float *to = j->out->numbers;
    for (int64_t n = 0; n < TEXTS; n++) {
        memcpy(to + n * E, pc_f32(u, n), (size_t)E * sizeof *to);
        memcpy(to + (TEXTS + n) * E, pc_f32(v, n), (size_t)E * sizeof *to);
    }
    to += 2 * TEXTS * E;
    memcpy(to, S.data, (size_t)(TEXTS * TEXTS) * sizeof *to);
    to += TEXTS * TEXTS;
    to[0] = *pc_f32(l->logit_scale.w, 0);
    to[1] = pc_present(l->logit_bias.w) ? *pc_f32(l->logit_bias.w, 0) : 0.0F;
}

static int64_t count_of(const job *j)
{
    const pc_model_config *c = &j->model->config;
    if (c->kind == PC_MODEL_VLM) return j->vlm.N * c->vlm.decoder.V;
    return 2 * TEXTS * c->clip.text.E + TEXTS * TEXTS + 2;
}

pc_status pc_answers_open(pc_answers *out, pc_model *m, const pc_model_config *c, uint64_t seed)
{
    const bool clip = m->config.kind == PC_MODEL_CLIP;
    job j = {.model = m, .as = c ? c : &m->config, .out = out, .seed = seed};
    pc_runner runner = {0};
    *out = (pc_answers){0};
    pc_status st = pc_arena_open(&j.memory, "random inputs",
                                 clip ? clip_bytes(&m->config.clip) : vlm_bytes(m));
    if (st) return st;
    if (clip)
        make_clip(&j);
    else
        st = make_vlm(&j);
    if (!st) {
        out->count = count_of(&j);
        out->numbers = calloc((size_t)out->count + 1, sizeof *out->numbers);
        if (!out->numbers) st = pc_fail(PC_ERR_MEMORY, "%lld logits", (long long)out->count);
    }
    if (!st) st = pc_runner_open(&runner, 0, NULL);
    if (!st) st = pc_runner_run(&runner, clip ? clip_pass : vlm_pass, &j);
    pc_runner_close(&runner);
    pc_arena_close(&j.memory);
    if (st) pc_answers_close(out);
    return pc_context(st, "random inputs");
}

void pc_answers_close(pc_answers *a)
{
    free(a->numbers);
    *a = (pc_answers){0};
}

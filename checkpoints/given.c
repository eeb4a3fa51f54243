/*
 * given.c - input_ids, attention_mask and labels into a batch of ours; what there is to see: given_visual.c.
 */
#include "checkpoints/given_parts.h"

#include "model/layers/mask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// (B,T) integers, within [min, max]; where absent, `fill`.
static pc_status integers(int32_t *out, const given_part *p, int64_t B, int64_t T, int32_t fill,
                          int64_t min, int64_t max)
{
    pc_status st;

    for (int64_t i = 0; i < B * T; i++) out[i] = fill;
    if (!p->there) return PC_OK;
    if (p->e.dim[0] != B || p->e.dim[1] != T) {
        char shape[128];
        given_shape(shape, sizeof shape, &p->e);
        return pc_fail(PC_ERR_INPUT, "tensor '%s': shape %s; input_ids has (%lld,%lld)", p->name,
                       shape, (long long)B, (long long)T);
    }
    if ((st = pc_st_ints(out, &p->e, B * T))) return pc_context(st, "tensor '%s'", p->name);
    for (int64_t i = 0; i < B * T; i++)
        if (out[i] < min || out[i] > max)
            return pc_fail(PC_ERR_INPUT,
                           "tensor '%s': %d at (%lld,%lld); expected a number from %lld to %lld",
                           p->name, out[i], (long long)(i / T), (long long)(i % T), (long long)min,
                           (long long)max);
    return PC_OK;
}

// The run of ones of each row of the attention mask.
static pc_status valid_runs(int64_t *first, int64_t *last, const int32_t *mask, const char *name,
                            int64_t B, int64_t T)
{
    for (int64_t b = 0; b < B; b++) {
        int64_t lo = 0, hi = T;
        while (lo < T && !mask[b * T + lo]) lo++;
        while (hi > lo && !mask[b * T + hi - 1]) hi--;
        for (int64_t t = lo; t < hi; t++)
            if (!mask[b * T + t])
                return pc_fail(
                    PC_ERR_INPUT,
                    "tensor '%s': row %lld has a 0 between ones, at %lld; padding may stand "
                    "at either end only",
                    name, (long long)b, (long long)t);
        first[b] = lo;
        last[b] = hi;
    }
    return PC_OK;
}

// Row b*T + t sees keys [first, last) of its own row of the batch; causal ones up to t.
static void mask_fill(pc_mask *m, pc_arena *a, const int64_t *first, const int64_t *last, int64_t B,
                      int64_t T, bool causal)
{
    pc_mask_alloc(m, a, B, B * T, false);
    m->pairs = 0.0;
    for (int64_t b = 0; b <= B; b++) pc_i32(m->q_off)[b] = pc_i32(m->k_off)[b] = (int32_t)(b * T);
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++) {
            int64_t lo = first[b], hi = last[b];
            if (causal && t + 1 < hi) hi = t + 1;
            if (hi < lo) hi = lo;
            pc_i32(m->lo)[b * T + t] = (int32_t)(b * T + lo);
            pc_i32(m->hi)[b * T + t] = (int32_t)(b * T + hi);
            m->pairs += (double)(hi - lo);
        }
}

static pc_status text_batch(pc_given *g, const pc_text_config *c, const int32_t *ids,
                            const int64_t *first, const int64_t *last)
{
    pc_text_batch *b = &g->text;
    pc_arena *a = &g->memory;
    const int64_t B = g->B, T = g->T;

    if (T > c->T || (c->pad_to_context && T != c->T))
        return pc_fail(PC_ERR_INPUT,
                       "input_ids: %lld tokens a text; the context of this model is %lld%s",
                       (long long)T, (long long)c->T,
                       c->pad_to_context ? " and has to be filled" : "");
    b->ids = pc_alloc1(a, PC_I32, B * T);
    b->pos = pc_alloc1(a, PC_I32, B * T);
    b->pooled = pc_alloc1(a, PC_I32, B);
    for (int64_t i = 0; i < B * T; i++) {
        pc_i32(b->ids)[i] = ids[i];
        pc_i32(b->pos)[i] = (int32_t)(i % T);
    }
    mask_fill(&b->mask, a, first, last, B, T, c->causal);
    for (int64_t s = 0; s < B; s++) {
        const int32_t *row = ids + s * T;
        int64_t at = c->pool == PC_POOL_LAST ? T - 1 : 0;
        if (c->pool == PC_POOL_EOT) { // HF: the arg-max of (id == eot), so 0 when there is none
            while (at < T && row[at] != c->eot_id) at++;
            if (at == T)
                return pc_fail(PC_ERR_INPUT, "input_ids: row %lld has no end-of-text id %lld",
                               (long long)s, (long long)c->eot_id);
        } else if (c->pool == PC_POOL_LARGEST) {
            for (int64_t t = 1; t < T; t++)
                if (row[t] > row[at]) at = t;
        }
        pc_i32(b->pooled)[s] = (int32_t)(s * T + at);
    }
    return PC_OK;
}

// A row of the batch with one id for each image, as pc_sequence has it; *n ids.
static pc_status collapse(int32_t *out, int64_t *n, const pc_vlm_config *c, const int32_t *ids,
                          int64_t b, int64_t T, const pc_image_geometry *geometry, int64_t images,
                          int64_t *image)
{
    int64_t t = 0;

    *n = 0;
    while (t < T) {
        const bool place = pc_vlm_place(c, ids[t]);
        int64_t per = 1;
        if (place && *image >= images)
            return pc_fail(
                PC_ERR_INPUT,
                "input_ids: row %lld has an image place at %lld; all %lld images are before it",
                (long long)b, (long long)t, (long long)images);
        if (place) per = geometry[(*image)++].rows;
        out[(*n)++] = ids[t];
        for (int64_t k = 0; place && k < per; k++)
            if (t + k >= T || ids[t + k] != ids[t])
                return pc_fail(
                    PC_ERR_INPUT,
                    "input_ids: row %lld has %lld image places (id %lld) in a row at %lld; "
                    "an image takes %lld",
                    (long long)b, (long long)k, (long long)ids[t], (long long)t, (long long)per);
        t += per;
    }
    return PC_OK;
}

// Keys of row (b,t) are limited to [first, last) of the row b.
static void limit_keys(pc_mask *m, const int64_t *first, const int64_t *last, int64_t B, int64_t T)
{
    for (int64_t n = 0; n < B * T; n++) {
        const int64_t b = n / T, begin = b * T + first[b], end = b * T + last[b];
        int32_t *lo = &pc_i32(m->lo)[n], *hi = &pc_i32(m->hi)[n];
        if (*lo < begin) *lo = (int32_t)begin;
        if (*hi > end) *hi = (int32_t)end;
        if (*hi < *lo) *hi = *lo; // it sees nothing
    }
}

static pc_status vlm_batch(pc_given *g, const pc_vlm_config *c, const int32_t *ids,
                           const int32_t *labels, const int64_t *first, const int64_t *last)
{
    pc_vlm_batch *b = &g->vlm;
    const int64_t B = g->B, T = g->T, N = B * T;
    pc_sequence *seq = calloc((size_t)B, sizeof *seq);
    int32_t *list = malloc((size_t)N * sizeof *list), *at = list;
    int64_t image = 0;
    pc_status st =
        seq && list ? PC_OK : pc_fail(PC_ERR_MEMORY, "a batch of %lld tokens", (long long)N);

    for (int64_t i = 0; i < B && !st; i++) {
        seq[i].ids = at;
        seq[i].images = g->geometry + image;
        st = collapse(at, &seq[i].length, c, ids + i * T, i, T, g->geometry, g->images, &image);
        at += seq[i].length;
    }
    if (st || (st = pc_vlm_batch_build(b, &g->memory, c, seq, B, g->images))) goto out;
    PC_ASSERT(b->N == N, "%lld rows laid out, %lld given", (long long)b->N, (long long)N);
    b->pictures.pixels = g->pixels;
    b->pictures.high = g->high;
    b->pictures.patches = g->patches;
    limit_keys(&b->mask, first, last, B, T);
    for (int64_t n = 0; n < N; n++) {
        const int32_t label = n % T + 1 < T ? labels[n + 1] : -100;
        pc_i32(b->labels)[n] = label >= 0 ? label : -1;
        b->supervised += label >= 0;
    }
out:
    free(seq);
    free(list);
    return st;
}

static bool mrope(const pc_model_config *c)
{
    return c->kind == PC_MODEL_VLM && pc_decoder_axes(&c->vlm.decoder) && !c->vlm.decoder.rope_2d;
}

// Frame, row and column of every place, instead of what the layout says.
static pc_status given_positions(pc_given *g, const given_part *p, int64_t most)
{
    const int64_t N = g->B * g->T;
    const pc_tensor to[] = {g->vlm.pos, g->vlm.pos_y, g->vlm.pos_z};
    if (p->e.dim[0] != 3 || p->e.dim[1] != g->B || p->e.dim[2] != g->T) {
        char shape[128];
        given_shape(shape, sizeof shape, &p->e);
        return pc_fail(PC_ERR_INPUT, "tensor '%s': shape %s; expected (3,%lld,%lld)", p->name,
                       shape, (long long)g->B, (long long)g->T);
    }
    int32_t *list = malloc((size_t)(3 * N) * sizeof *list);
    if (!list) return pc_fail(PC_ERR_MEMORY, "%lld positions", (long long)(3 * N));
    pc_status st = pc_context(pc_st_ints(list, &p->e, 3 * N), "tensor '%s'", p->name);
    for (int64_t i = 0; i < 3 * N && !st; i++)
        if (list[i] < 0 || list[i] >= most)
            st = pc_fail(PC_ERR_INPUT, "tensor '%s': position %d; the decoder has %lld", p->name,
                         list[i], (long long)most);
    for (int64_t i = 0; i < 3 * N && !st; i++) pc_i32(to[i / N])[i % N] = list[i];
    free(list);
    return st;
}

// Qwen-VL: between <img> and </img> stand as many ids as an image has rows, whatever they are.
static void mark_places(int32_t *ids, const pc_vlm_config *c, int64_t B, int64_t T)
{
    const int64_t rows = pc_vlm_rows_per_image(c), begin = c->image_id - 2, end = begin + 1;
    for (int64_t b = 0; b < B && rows > 0; b++)
        for (int64_t t = 0; t + rows + 1 < T; t++) {
            int32_t *at = ids + b * T + t;
            if (at[0] != begin || at[rows + 1] != end) continue;
            for (int64_t k = 1; k <= rows; k++) at[k] = (int32_t)c->image_id;
            t += rows;
        }
}

pc_status pc_given_open(pc_given *g, const pc_safetensors *file, const pc_model_config *config,
                        const char *prefix, int64_t slice)
{
    const bool clip = config->kind == PC_MODEL_CLIP;
    const int64_t V = clip ? config->clip.text.V : config->vlm.decoder.V;
    given_part ids, mask, labels, positions = {0};
    given_visual eyes;
    int32_t *id = NULL, *ones = NULL, *label = NULL;
    int64_t *first = NULL, *last = NULL;
    pc_status st;

    memset(g, 0, sizeof *g);
    if ((st = given_take(&ids, file, prefix, "input_ids", 2, slice)) ||
        (st = given_take(&mask, file, prefix, "attention_mask", 2, slice)) ||
        (st = given_take(&labels, file, prefix, "labels", 2, slice)) ||
        (mrope(config) && (st = given_take(&positions, file, prefix, "position_ids", 3, slice))) ||
        (st = given_visual_find(&eyes, file, config, prefix, slice)))
        return st;
    if (!ids.there && !(clip && eyes.pixels.there))
        return pc_fail(PC_ERR_INPUT, "no tensor '%sinput_ids'%s", prefix,
                       clip ? " and no 'pixel_values' either" : "");
    if (ids.there) {
        g->B = ids.e.dim[0];
        g->T = ids.e.dim[1];
        g->has_text = true;
        g->has_labels = labels.there;
    }
    const int64_t B = g->B, T = g->T, N = B * T;
    if (N > INT32_MAX / 2)
        return pc_fail(PC_ERR_INPUT, "tensor '%s': %lld places are too many", ids.name,
                       (long long)N);
    const size_t size = given_visual_bytes(&eyes) + (size_t)N * 64 + (size_t)B * 64 + 65536;
    if ((st = pc_arena_open(&g->memory, "given batch", size))) return st;
    if ((st = given_visual_read(g, &eyes, config))) goto out;
    if (!ids.there) goto out;

    id = malloc((size_t)N * sizeof *id);
    ones = malloc((size_t)N * sizeof *ones);
    label = malloc((size_t)N * sizeof *label);
    first = malloc((size_t)B * sizeof *first);
    last = malloc((size_t)B * sizeof *last);
    if (!id || !ones || !label || !first || !last) {
        st = pc_fail(PC_ERR_MEMORY, "a given batch of %lld tokens", (long long)N);
        goto out;
    }
    // A text tower whose texts are always full (SigLIP) attends to padding too: the mask says nothing to it.
    if (clip && config->clip.text.pad_to_context) mask.there = false;
    // An image's id may lie outside the vocabulary.
    const int64_t image = clip ? 0 : config->vlm.image_id;
    const int64_t high = image >= V ? image : V - 1;
    const int64_t low = image < 0 ? image : 0;
    if ((st = integers(id, &ids, B, T, 0, low, high)) ||
        (st = integers(ones, &mask, B, T, 1, 0, 1)) ||
        (st = integers(label, &labels, B, T, -100, -100, V - 1)) ||
        (st = valid_runs(first, last, ones, mask.name, B, T)))
        goto out;
    if (!clip && config->vlm.visual == PC_VISUAL_GRID &&
        (st = given_grid_read(g, &eyes, &config->vlm, id, N)))
        goto out;
    if (!clip && config->vlm.visual == PC_VISUAL_RESAMPLER) mark_places(id, &config->vlm, B, T);
    st = clip ? text_batch(g, &config->clip.text, id, first, last)
              : vlm_batch(g, &config->vlm, id, label, first, last);
    if (!st && positions.there) st = given_positions(g, &positions, config->vlm.decoder.T);
out:
    free(id);
    free(ones);
    free(label);
    free(first);
    free(last);
    if (st) pc_given_close(g);
    return st;
}

void pc_given_close(pc_given *g)
{
    pc_arena_close(&g->memory);
    memset(g, 0, sizeof *g);
}

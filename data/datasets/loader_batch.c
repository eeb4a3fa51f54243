/*
 * loader_batch.c - one micro-batch: which samples, their images, their rows.
 *
 * A function of (seed, step, number) alone. Memory is taken at open for the worst case of the data set.
 */
#include "data/datasets/loader_parts.h"
#include "model/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- open ---- */

static pc_status check_config(const pc_loader_config *c)
{
    if (c->batch < 1 || c->micro < 1 || c->batch % c->micro != 0)
        return pc_fail(PC_ERR_INPUT,
                       "batch of %lld in micro-batches of %lld; expected a multiple of at least 1",
                       (long long)c->batch, (long long)c->micro);
    if (c->threads < 0 || c->threads > 256 || c->ahead < 0 || c->ahead > 1024)
        return pc_fail(PC_ERR_INPUT,
                       "%d loader threads, %d batches ahead; expected 0 to 256 and "
                       "0 to 1024",
                       c->threads, c->ahead);
    if (c->max_tokens < 0 || c->max_turns < 0)
        return pc_fail(PC_ERR_INPUT, "max_tokens %lld, max_turns %lld; expected none below 0",
                       (long long)c->max_tokens, (long long)c->max_turns);
    return PC_OK;
}

pc_status pc_maker_open(pc_batch_maker *m, const pc_dataset *data, const pc_model_config *model,
                        const pc_tokenizer *tok, const pc_template *tmpl,
                        const pc_image_config *image, const pc_loader_config *c)
{
    *m = (pc_batch_maker){.data = data, .model = model, .config = *c};
    const bool clip = model->kind == PC_MODEL_CLIP;
    const pc_vision_config *v = clip ? &model->clip.vision : &model->vlm.vision;
    const bool squares = clip || model->vlm.visual != PC_VISUAL_GRID;
    pc_status st = check_config(c);
    if (st) return st;
    if (squares && v->L > 0 && image->size != v->image_size)
        return pc_fail(PC_ERR_INPUT, "images of %lld pixels, the vision tower takes %lld",
                       (long long)image->size, (long long)v->image_size);
    if ((st = pc_images_open(&m->images, data, model, image, c))) return st;
    if ((st = pc_texts_open(&m->texts, data, model, tok, tmpl, &m->images, &m->config))) return st;
    if ((st = pc_order_open(&m->order, data, &m->texts, &m->config))) return st;
    return pc_maker_worst(m);
}

void pc_maker_close(pc_batch_maker *m)
{
    pc_texts_close(&m->texts);
    pc_order_close(&m->order);
    pc_images_close(&m->images);
    free(m->worst_geometry);
}

pc_status pc_bench_open(pc_bench *b, const pc_batch_maker *m)
{
    const size_t micro = (size_t)m->config.micro, ids = (size_t)m->worst_ids + 1,
                 turns = (size_t)m->worst_turns + 1;
    *b = (pc_bench){
        .u8 = malloc((size_t)m->images.bytes + 1),
        .key = malloc(micro * sizeof *b->key),
        .visit = {.turn = malloc(turns * sizeof *b->visit.turn), .room = (int64_t)turns},
        .ids = malloc(ids * sizeof *b->ids),
        .supervised = malloc(ids),
        .branch_end = malloc(micro * turns * sizeof *b->branch_end),
        .sequence = malloc(micro * sizeof *b->sequence),
        .text = malloc(micro * sizeof *b->text),
        .length = malloc(micro * sizeof *b->length),
    };
    if (b->u8 && b->key && b->visit.turn && b->ids && b->supervised && b->branch_end &&
        b->sequence && b->text && b->length)
        return PC_OK;
    pc_bench_close(b);
    return pc_fail(PC_ERR_MEMORY, "a loader thread");
}

void pc_bench_close(pc_bench *b)
{
    free(b->u8);
    free(b->key);
    free(b->visit.turn);
    free(b->ids);
    free(b->supervised);
    free(b->branch_end);
    free(b->sequence);
    free(b->text);
    free(b->length);
    *b = (pc_bench){0};
}

pc_status pc_slot_micro_open(pc_slot_micro *s, const pc_batch_maker *m)
{
    *s = (pc_slot_micro){0};
    const size_t micro = (size_t)m->config.micro;
    // ids, labels, positions, the mask's four bounds, image rows, offsets: below 64 bytes a row
    const size_t rows = (size_t)m->worst_rows + (size_t)m->worst_ids + 2 * micro + 64;
    const size_t images = (size_t)m->worst_images;
    pc_status st = pc_arena_open(&s->arena, "a micro-batch",
                                 64 * rows + images * sizeof(pc_image_geometry) + PC_ALIGN);
    if (st) return st;
    const size_t high = images * (size_t)pc_visual_high(&m->images.alike);
    s->pixels = malloc(((size_t)m->worst_numbers + 1) * sizeof *s->pixels);
    s->high = malloc((high + 1) * sizeof *s->high);
    s->shapes = malloc((images + 1) * sizeof *s->shapes);
    s->geometry = malloc((images + 1) * sizeof *s->geometry);
    s->samples = malloc(micro * sizeof *s->samples);
    if (s->pixels && s->high && s->shapes && s->geometry && s->samples) return PC_OK;
    return pc_fail(PC_ERR_MEMORY, "%lld images of a micro-batch", (long long)m->worst_images);
}

void pc_slot_micro_close(pc_slot_micro *s)
{
    pc_arena_close(&s->arena);
    free(s->pixels);
    free(s->high);
    free(s->shapes);
    free(s->geometry);
    free(s->samples);
    *s = (pc_slot_micro){0};
}

/* ---- one micro-batch ---- */

/* The image of a visit; *skip when it is bad and bad ones are skipped. */
static pc_status take_image(bool *skip, pc_slot_micro *out, pc_batch_maker *m, pc_bench *b,
                            int64_t sample)
{
    *skip = false;
    if (m->images.of_sample[sample] < 0) return PC_OK;
    const pc_image_shape *s = pc_images_shape(&m->images, sample);
    pc_status st = pc_images_get(out->pixels + out->numbers, out->high + out->high_numbers, b->u8,
                                 &m->images, sample);
    if (!st) {
        out->shapes[out->images] = *s;
        out->geometry[out->images++] = *pc_images_geometry(&m->images, sample);
        out->numbers += pc_visual_numbers(s);
        out->high_numbers += pc_visual_high(s);
    }
    if (!st || st == PC_ERR_MEMORY || m->config.on_bad_image != PC_BAD_SKIP) return st;
    if (pc_images_first_failure(&m->images, sample)) pc_warn("skipped: %s", pc_error_text());
    out->skipped++;
    *skip = true;
    return PC_OK;
}

/* The ids of a visit, laid one behind the other: prefix, then turns, each a branch where asked. */
static void lay_out(pc_sequence *seq, const pc_batch_maker *m, pc_bench *b, int64_t *used,
                    int64_t *ends)
{
    const pc_texts *t = &m->texts;
    const pc_visit *v = &b->visit;
    *seq = (pc_sequence){.ids = b->ids + *used,
                         .supervised = b->supervised + *used,
                         .prefix = v->prefix.count,
                         .branch_end = b->branch_end + *ends};
    memcpy(b->ids + *used, t->ids + v->prefix.at, (size_t)v->prefix.count * sizeof *b->ids);
    memset(b->supervised + *used, 0, (size_t)v->prefix.count);
    int64_t n = v->prefix.count;
    for (int64_t i = 0; i < v->turns; i++) {
        const pc_span span = v->turn[i];
        memcpy(b->ids + *used + n, t->ids + span.at, (size_t)span.count * sizeof *b->ids);
        memcpy(b->supervised + *used + n, t->supervised + span.at, (size_t)span.count);
        n += span.count;
        b->branch_end[(*ends)++] = n;
    }
    seq->length = n;
    seq->branches = m->config.branches && v->turns > 1 ? v->turns : 0;
    *used += n;
}

static pc_status make_vlm(pc_slot_micro *out, pc_batch_maker *m, pc_bench *b, int64_t visits)
{
    int64_t used = 0, ends = 0;
    for (int64_t i = 0; i < visits; i++) {
        const pc_visit_key *key = &b->key[i];
        bool skip;
        const pc_image_geometry *images = out->geometry + out->images;
        pc_status st = take_image(&skip, out, m, b, key->sample);
        if (st) return st;
        if (skip) continue;
        pc_texts_visit(&b->visit, &m->texts, key->sample, key->epoch, key->entry);
        lay_out(&b->sequence[out->batch.samples], m, b, &used, &ends);
        b->sequence[out->batch.samples].images = images;
        out->samples[out->batch.samples++] = key->sample;
    }
    if (out->batch.samples == 0) return PC_OK;
    pc_status st = pc_vlm_batch_build(&out->batch.vlm, &out->arena, &m->model->vlm, b->sequence,
                                      out->batch.samples, out->images);
    if (st) return st;
    const pc_image_geometry *geometry = out->batch.vlm.pictures.geometry;
    out->batch.vlm.pictures =
        pc_visual_pictures(out->pixels, out->high, out->shapes, geometry, out->images);
    out->tokens = out->batch.vlm.N;
    return PC_OK;
}

static pc_status make_clip(pc_slot_micro *out, pc_batch_maker *m, pc_bench *b, int64_t visits)
{
    const int64_t S = m->images.config.size;
    for (int64_t i = 0; i < visits; i++) {
        const pc_visit_key *key = &b->key[i];
        bool skip;
        pc_status st = take_image(&skip, out, m, b, key->sample);
        if (st) return st;
        if (skip) continue;
        pc_texts_visit(&b->visit, &m->texts, key->sample, key->epoch, key->entry);
        const int64_t k = out->batch.samples++;
        b->text[k] = m->texts.ids + b->visit.turn[0].at;
        b->length[k] = b->visit.turn[0].count;
        out->samples[k] = key->sample;
        out->tokens += b->length[k];
    }
    if (out->batch.samples == 0) return PC_OK;
    pc_text_batch_build(&out->batch.text, &out->arena, &m->model->clip.text, b->text, b->length,
                        out->batch.samples);
    out->batch.pixels = pc_view4(out->pixels, PC_F32, out->images, 3, S, S);
    return PC_OK;
}

void pc_make_micro(pc_slot_micro *out, pc_batch_maker *m, pc_bench *bench, int64_t step,
                   int64_t number)
{
    const int64_t size = pc_order_samples(&m->order, step), begin = number * m->config.micro;
    int64_t end = begin + m->config.micro;
    if (end > size) end = size;
    pc_arena_release(&out->arena, 0);
    out->batch = (pc_micro_batch){.sample = out->samples};
    out->tokens = out->images = out->skipped = out->numbers = out->high_numbers = 0;
    out->status = PC_OK;
    if (begin >= end) return; // the last batch of an unshuffled epoch is smaller
    pc_order_get(&m->order, bench->key, step, begin, end);
    out->status = m->model->kind == PC_MODEL_CLIP ? make_clip(out, m, bench, end - begin)
                                                  : make_vlm(out, m, bench, end - begin);
    if (out->status) snprintf(out->message, sizeof out->message, "%s", pc_error_text());
}

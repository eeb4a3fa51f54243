/*
 * loader_texts.c - every text of the data set as ids, made once at open.
 *
 * A conversation becomes a prefix (BOS, system, image) and turns. With branches each turn is laid out as if it
 * were the first, for that is how the question will be asked; without, a later turn stands behind an earlier
 * one. Where max_turns asks for a window of a conversation, any turn may come first and both forms are kept.
 *
 * What cannot fit is known here, before step 1: a turn too long for its own row takes itself out (with
 * branches) or everything behind it too (without); a sample without a turn left is an error.
 */
#include "data/datasets/loader_parts.h"
#include "model/core/log.h"
#include "model/core/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK "<image>"

typedef struct tokenising {
    pc_texts *t;
    const pc_sample *sample;
    const pc_tokenizer *tok;
    const pc_template *tmpl;
    int32_t image_id;
    pc_text_entry *entry;
    char *text; // the question under way
    size_t room;
} tokenising;

/* ---- the pool ---- */

static pc_status add_span(pc_span *out, pc_texts *t, const int32_t *ids, const uint8_t *supervised,
                          int64_t n)
{
    if (t->room - t->count < n) {
        int64_t wanted = t->room ? 2 * t->room : 1 << 16;
        while (wanted - t->count < n) wanted *= 2;
        int32_t *more = realloc(t->ids, (size_t)wanted * sizeof *more);
        if (more) t->ids = more;
        uint8_t *flags = more ? realloc(t->supervised, (size_t)wanted) : NULL;
        if (flags) t->supervised = flags;
        if (!flags) return pc_fail(PC_ERR_MEMORY, "%lld token ids", (long long)wanted);
        t->room = wanted;
    }
    *out = (pc_span){.at = t->count, .count = (int32_t)n};
    for (int64_t i = 0; i < n; i++) {
        t->ids[t->count] = ids[i];
        t->supervised[t->count++] = supervised ? supervised[i] : 0;
        out->supervised += supervised && supervised[i];
    }
    return PC_OK;
}

static bool same_ids(const pc_texts *t, pc_span span, const int32_t *ids, int64_t n)
{
    return span.count == n &&
           (n == 0 || memcmp(t->ids + span.at, ids, (size_t)n * sizeof *ids) == 0);
}

static pc_status add_turn(pc_texts *t, const pc_turn_ids *turn)
{
    if (t->turn_count == t->turn_room) {
        const int64_t wanted = t->turn_room ? 2 * t->turn_room : 1 << 12;
        pc_turn_ids *turns = realloc(t->turns, (size_t)wanted * sizeof *turns);
        if (!turns) return pc_fail(PC_ERR_MEMORY, "%lld turns", (long long)wanted);
        t->turns = turns;
        t->turn_room = wanted;
    }
    t->turns[t->turn_count++] = *turn;
    return PC_OK;
}

/* ---- turns of a conversation ---- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The question without the image mark and white space at its ends; with the mark in front when asked. */
static pc_status question_text(tokenising *w, const char *question, bool mark)
{
    const size_t need = strlen(question) + sizeof MARK "\n";
    if (w->room < need) {
        char *text = realloc(w->text, 2 * need);
        if (!text) return pc_fail(PC_ERR_MEMORY, "a question of %zu bytes", need);
        w->text = text;
        w->room = 2 * need;
    }
    const size_t head = mark ? strlen(MARK "\n") : 0;
    char *body = w->text + head;
    const char *at = strstr(question, MARK);
    const size_t before = at ? (size_t)(at - question) : strlen(question);
    memcpy(body, question, before);
    strcpy(body + before, at ? at + strlen(MARK) : "");
    size_t n = strlen(body), skip = 0;
    while (n > 0 && is_blank(body[n - 1])) n--;
    while (skip < n && is_blank(body[skip])) skip++;
    memmove(body, body + skip, n - skip);
    body[n - skip] = '\0';
    memcpy(w->text, MARK "\n", head);
    if (mark && n == skip) w->text[strlen(MARK)] = '\0'; // nothing but the image
    return PC_OK;
}

static pc_status render_one(tokenising *w, pc_rendered *r, const char *question, const char *answer)
{
    const pc_sample *s = w->sample;
    pc_status st = question_text(w, question, s->image != NULL);
    if (st) return st;
    const pc_message messages[3] = {{PC_ROLE_SYSTEM, s->system},
                                    {PC_ROLE_USER, w->text},
                                    {PC_ROLE_ASSISTANT, answer}};
    const int skip = s->system == NULL;
    return pc_template_render(w->tmpl, r, w->tok, messages + skip, 3 - skip, false, w->image_id);
}

/* The prefix that all turns of a sample share, and most samples of a data set. */
static pc_status set_prefix(tokenising *w, const pc_rendered *r)
{
    pc_texts *t = w->t;
    pc_text_entry *e = w->entry;
    const int64_t n = r->first_turn, i = e - t->entries;
    const pc_image_geometry *g = r->images ? pc_images_geometry(t->images, i) : NULL;
    const int64_t positions = g ? pc_vlm_image_positions(&t->model->vlm, g) : 0;
    e->prefix_rows = (int32_t)(n + (g ? g->rows - 1 : 0));
    e->prefix_positions = (int32_t)(n + (g ? positions - 1 : 0));
    if (i > 0 && same_ids(t, e[-1].prefix, r->ids.list, n)) {
        e->prefix = e[-1].prefix;
        return PC_OK;
    }
    return add_span(&e->prefix, t, r->ids.list, NULL, n);
}

/* A turn as the first of a conversation. */
static pc_status first_form(tokenising *w, pc_span *out, const char *question, const char *answer)
{
    pc_rendered r;
    pc_texts *t = w->t;
    pc_status st = render_one(w, &r, question, answer);
    if (st) return st;
    const int64_t begin = r.first_turn, n = r.ids.count - begin;
    if (w->entry->prefix.count == 0 && w->entry->prefix_rows == 0) st = set_prefix(w, &r);
    if (!st && !same_ids(t, w->entry->prefix, r.ids.list, begin))
        st = pc_fail(PC_ERR_INPUT, "turns begin differently under this template");
    if (!st) st = add_span(out, t, r.ids.list + begin, r.supervised + begin, n);
    pc_rendered_close(&r);
    if (st) return st;
    const bool learns_at_once = n > 0 && t->supervised[out->at];
    if (out->supervised == 0)
        return pc_fail(PC_ERR_INPUT, "no token of the answer \"%.60s\" is learned", answer);
    if (learns_at_once && w->entry->prefix.count == 0)
        return pc_fail(PC_ERR_INPUT, "template '%s': nothing stands before what is learned",
                       pc_template_name(w->tmpl));
    if (learns_at_once && t->config->branches && w->sample->n_turns > 1)
        return pc_fail(PC_ERR_INPUT,
                       "template '%s' has no words before an answer; several turns behind one "
                       "image (branches) need them",
                       pc_template_name(w->tmpl));
    return PC_OK;
}

/* A turn behind another one: the end of a turn is a special token, so what stands before is of no account. */
static pc_status later_form(tokenising *w, pc_span *out, const pc_turn *turn)
{
    pc_rendered r;
    pc_status st = question_text(w, turn->question, false);
    if (st) return st;
    const pc_message messages[4] = {{PC_ROLE_USER, "-"},
                                    {PC_ROLE_ASSISTANT, "-"},
                                    {PC_ROLE_USER, w->text},
                                    {PC_ROLE_ASSISTANT, turn->answer}};
    if ((st = pc_template_render(w->tmpl, &r, w->tok, messages, 4, false, w->image_id))) return st;
    const int64_t begin = r.turn_end[0];
    st = add_span(out, w->t, r.ids.list + begin, r.supervised + begin, r.ids.count - begin);
    pc_rendered_close(&r);
    return st;
}

static bool fits(const pc_texts *t, const pc_text_entry *e, int64_t ids)
{
    return e->prefix_rows + ids <= t->row_limit && e->prefix_positions + ids <= t->position_limit;
}

static pc_status add_conversation(tokenising *w)
{
    const pc_loader_config *c = w->t->config;
    const pc_sample *s = w->sample;
    const bool window = !c->branches && c->max_turns > 0 && c->max_turns < s->n_turns;
    for (int64_t i = 0; i < s->n_turns; i++) {
        pc_turn_ids turn = {0};
        pc_status st = PC_OK;
        if (i == 0 || c->branches || window)
            st = first_form(w, &turn.first, s->turns[i].question, s->turns[i].answer);
        if (!st && i > 0 && !c->branches) st = later_form(w, &turn.later, &s->turns[i]);
        if (st) return pc_context(st, "turn %lld", (long long)i + 1);
        const int64_t longest =
            turn.first.count > turn.later.count ? turn.first.count : turn.later.count;
        if (!fits(w->t, w->entry, longest)) {
            w->t->cut_turns += c->branches ? 1 : s->n_turns - i;
            if (c->branches) continue;
            break;
        }
        if ((st = add_turn(w->t, &turn))) return st;
        w->entry->turns++;
    }
    return PC_OK;
}

static pc_status add_captions(tokenising *w)
{
    const pc_sample *s = w->sample;
    const bool clip = w->t->model->kind == PC_MODEL_CLIP;
    w->entry->one_of = true;
    for (int64_t i = 0; i < s->n_captions; i++) {
        pc_turn_ids turn = {0};
        pc_status st;
        if (clip) {
            pc_ids ids = {0};
            st = pc_clip_text_ids(&ids, w->tok, &w->t->model->clip.text, s->captions[i]);
            if (!st) st = add_span(&turn.first, w->t, ids.list, NULL, ids.count);
            pc_ids_close(&ids);
        } else {
            st = first_form(w, &turn.first, MARK, s->captions[i]);
        }
        if (st) return pc_context(st, "captions[%lld]", (long long)i);
        if (!fits(w->t, w->entry, turn.first.count)) {
            w->t->cut_turns++;
            continue;
        }
        if ((st = add_turn(w->t, &turn))) return st;
        w->entry->turns++;
        if (!w->t->config->random_caption) break;
    }
    return PC_OK;
}

/* What a visit may have, for messages. */
static const char *limits_text(const pc_texts *t, char *buf, size_t size)
{
    if (t->row_limit < INT64_MAX)
        snprintf(buf, size, "max_tokens %lld or the decoder's %lld positions",
                 (long long)t->row_limit, (long long)t->position_limit);
    else
        snprintf(buf, size, "the decoder's %lld positions", (long long)t->position_limit);
    return buf;
}

static pc_status add_sample(tokenising *w)
{
    const pc_sample *s = w->sample;
    pc_texts *t = w->t;
    const bool clip = t->model->kind == PC_MODEL_CLIP;
    if (clip && !s->captions)
        return pc_fail(PC_ERR_INPUT, "a conversation; two towers learn from captions");
    const bool sees = clip || t->model->vlm.vision.L > 0;
    const int64_t i = w->entry - t->entries;
    if (s->image && !sees) return pc_fail(PC_ERR_INPUT, "an image; the model has no vision tower");
    if (s->image && pc_images_shape(t->images, i)->rows == 0) { // said again, for this sample
        const pc_image_config *c = &t->images->config;
        pc_image_shape shape;
        pc_image_geometry g;
        int64_t height, width;
        pc_status bad = pc_image_size(&height, &width, s->image, c->orient);
        if (!bad) bad = pc_visual_plan(&shape, &g, c, &t->model->vlm, height, width, 1);
        return bad ? PC_ERR_INPUT : pc_fail(PC_ERR_INPUT, "the image was not there at first");
    }
    *w->entry = (pc_text_entry){.turn = t->turn_count};
    const int64_t cut_before = t->cut_turns;
    char limits[96];
    pc_status st = s->captions ? add_captions(w) : add_conversation(w);
    if (!st && t->cut_turns > cut_before && cut_before == 0) t->cut_example = w->entry - t->entries;
    if (!st && w->entry->turns == 0)
        st = pc_fail(
            PC_ERR_INPUT,
            "no supervised token is left: the image (%lld rows) and the first turn need more "
            "than %s",
            (long long)(s->image && !clip ? pc_images_geometry(t->images, i)->rows : 0),
            limits_text(t, limits, sizeof limits));
    return st;
}

/* ---- open ---- */

static pc_status set_limits(pc_texts *t)
{
    const pc_loader_config *c = t->config;
    if (t->model->kind == PC_MODEL_CLIP) {
        t->row_limit = t->position_limit = t->model->clip.text.T;
        return PC_OK;
    }
    const pc_vlm_config *m = &t->model->vlm;
    int64_t spared = 0; // rows that an image takes and positions it does not
    for (int64_t i = 0; m->vision.L > 0 && i < t->samples; i++) {
        if (t->images->of_sample[i] < 0) continue;
        const pc_image_geometry *g = pc_images_geometry(t->images, i);
        const int64_t more = g->rows ? g->rows - pc_vlm_image_positions(m, g) : 0;
        if (more > spared) spared = more;
    }
    t->row_limit = c->max_tokens > 0 ? c->max_tokens : INT64_MAX;
    t->position_limit = m->decoder.T;
    if (!c->branches && c->max_tokens > m->decoder.T + spared)
        return pc_fail(PC_ERR_INPUT, "max_tokens is %lld; the decoder has %lld positions",
                       (long long)c->max_tokens, (long long)m->decoder.T);
    return PC_OK;
}

static void report_cut(const pc_texts *t, const pc_dataset *data)
{
    if (t->unusable)
        pc_warn("%lld of %lld samples are skipped", (long long)t->unusable, (long long)t->samples);
    if (t->cut_turns == 0) return;
    char place[4200], limits[96];
    pc_warn("%lld turns do not fit into %s and are left out, the first in %s",
            (long long)t->cut_turns, limits_text(t, limits, sizeof limits),
            pc_sample_place(&data->samples[t->cut_example], place, sizeof place));
}

pc_status pc_texts_open(pc_texts *t, const pc_dataset *data, const pc_model_config *model,
                        const pc_tokenizer *tok, const pc_template *tmpl, const pc_images *images,
                        const pc_loader_config *c)
{
    char place[4200];
    enum { NAMED = 20 }; // skipped samples that are named; the rest is counted
    *t = (pc_texts){.config = c, .model = model, .images = images, .samples = data->count};
    tokenising w = {.t = t, .tok = tok, .tmpl = tmpl, .image_id = (int32_t)model->vlm.image_id};
    const int64_t V = model->kind == PC_MODEL_CLIP ? model->clip.text.V : model->vlm.decoder.V;
    pc_status st = set_limits(t);
    if (!st && pc_tokenizer_vocab(tok) > V)
        st = pc_fail(PC_ERR_INPUT, "the tokenizer has %d tokens, the model's table %lld",
                     pc_tokenizer_vocab(tok), (long long)V);
    t->entries = calloc((size_t)data->count + 1, sizeof *t->entries);
    if (!st && !t->entries) st = pc_fail(PC_ERR_MEMORY, "%lld samples", (long long)data->count);
    for (int64_t i = 0; i < data->count && !st; i++) {
        w.sample = &data->samples[i];
        w.entry = &t->entries[i];
        st = add_sample(&w);
        if (!st) continue;
        pc_context(st, "%s", pc_sample_place(w.sample, place, sizeof place));
        if (st != PC_ERR_INPUT || c->on_bad_image != PC_BAD_SKIP) break;
        w.entry->turns = 0;
        if (t->unusable++ < NAMED) pc_warn("skipped: %s", pc_error_text());
        st = PC_OK;
    }
    free(w.text);
    if (!st) report_cut(t, data);
    return st;
}

void pc_texts_close(pc_texts *t)
{
    free(t->ids);
    free(t->supervised);
    free(t->turns);
    free(t->entries);
    *t = (pc_texts){0};
}

/* ---- a visit ---- */

static int64_t wanted_turns(const pc_texts *t, const pc_text_entry *e)
{
    const int64_t most = t->config->max_turns;
    if (e->one_of) return 1;
    return most > 0 && most < e->turns ? most : e->turns;
}

static void show(pc_visit *v, pc_span span)
{
    v->turn[v->turns++] = span;
}

/* All turns, a window of them, a subset in order, or one caption. */
static void choose(pc_visit *v, const pc_texts *t, const pc_text_entry *e, int64_t epoch,
                   int64_t entry)
{
    const pc_rng_key key = {t->config->seed, PC_STREAM_AUGMENT, (uint64_t)epoch};
    const uint64_t base = (uint64_t)entry << 20;
    const pc_turn_ids *turns = t->turns + e->turn;
    const int64_t n = e->turns, m = wanted_turns(t, e);
    v->turns = 0;
    if (e->one_of) {
        const bool random = t->config->random_caption && n > 1;
        show(v, turns[random ? pc_rng_below(&key, base, (uint64_t)n) : 0].first);
    } else if (t->config->branches) { // each with equal chance: Knuth's algorithm S
        for (int64_t i = 0; i < n && v->turns < m; i++) {
            const uint64_t left = (uint64_t)(n - i), need = (uint64_t)(m - v->turns);
            if (need == left || pc_rng_below(&key, base + (uint64_t)i, left) < need)
                show(v, turns[i].first);
        }
    } else {
        const int64_t begin = m < n ? (int64_t)pc_rng_below(&key, base, (uint64_t)(n - m + 1)) : 0;
        for (int64_t i = 0; i < m; i++) show(v, i ? turns[begin + i].later : turns[begin].first);
    }
}

void pc_texts_visit(pc_visit *v, const pc_texts *t, int64_t sample, int64_t epoch, int64_t entry)
{
    const pc_text_entry *e = &t->entries[sample];
    choose(v, t, e, epoch, entry);
    v->prefix = e->prefix;
    v->rows = e->prefix_rows;
    v->ids = e->prefix.count;
    v->supervised = 0;
    for (int64_t i = 0; i < v->turns; i++) {
        const int64_t n = v->turn[i].count, behind = v->ids - e->prefix.count + n;
        if (v->rows + n > t->row_limit ||
            (!t->config->branches && e->prefix_positions + behind > t->position_limit)) {
            v->turns = i;
            break;
        }
        v->rows += n;
        v->ids += n;
        v->supervised += v->turn[i].supervised;
    }
}

int64_t pc_texts_most_turns(const pc_texts *t)
{
    int64_t most = 1;
    for (int64_t i = 0; i < t->samples; i++)
        if (wanted_turns(t, &t->entries[i]) > most) most = wanted_turns(t, &t->entries[i]);
    return most;
}

static int falling(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x < y) - (x > y);
}

/* The sum of the m largest of n. */
static int64_t sum_of_largest(int32_t *list, int64_t n, int64_t m)
{
    qsort(list, (size_t)n, sizeof *list, falling);
    int64_t sum = 0;
    for (int64_t i = 0; i < m && i < n; i++) sum += list[i];
    return sum;
}

void pc_texts_most(const pc_texts *t, int64_t sample, int64_t *rows, int64_t *supervised)
{
    enum { SOME = 64 };
    const pc_text_entry *e = &t->entries[sample];
    const pc_turn_ids *turns = t->turns + e->turn;
    int32_t few[2][SOME],
        *many = e->turns > SOME ? malloc(2 * (size_t)e->turns * sizeof *many) : NULL;
    int32_t *count = many ? many : few[0], *learned = many ? many + e->turns : few[1];
    int64_t all_rows = 0, all_learned = 0;
    // For windows and subsets alike: no choice has more than the largest turns together.
    for (int64_t i = 0; i < e->turns; i++) {
        const pc_span a = turns[i].first, b = turns[i].later;
        const int32_t n = a.count > b.count ? a.count : b.count,
                      s = a.supervised > b.supervised ? a.supervised : b.supervised;
        all_rows += n;
        all_learned += s;
        if (many || e->turns <= SOME) {
            count[i] = n;
            learned[i] = s;
        }
    }
    if (many || e->turns <= SOME) { // without memory for the lists, all turns are a bound too
        const int64_t m = wanted_turns(t, e);
        all_rows = sum_of_largest(count, e->turns, m);
        all_learned = sum_of_largest(learned, e->turns, m);
    }
    free(many);
    if (!t->config->branches && all_rows > t->position_limit - e->prefix_positions)
        all_rows = t->position_limit - e->prefix_positions;
    *rows = e->prefix_rows + all_rows;
    if (*rows > t->row_limit) *rows = t->row_limit;
    *supervised = all_learned;
}

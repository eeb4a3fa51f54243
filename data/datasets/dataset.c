/*
 * dataset.c - captions rows and conversation rows, checked one by one.
 *
 *   {"image": "images/1.jpg", "captions": ["A dog .", ...], ...}
 *   {"id": "7", "image": "images/1.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat ...?"},
 *    {"from": "gpt", "value": "..."}, ...], "turn_meta": [{"type": "count"}, ...]}
 *
 * Other keys are left alone. A row with an image has one <image>, in its first question; a row without has
 * none. Every question has an answer that is not blank.
 */
#include "data/datasets/rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t\r\n\v\f")] == '\0';
}

static int64_t count_marks(const char *text)
{
    int64_t n = 0;
    while ((text = strstr(text, "<image>"))) {
        n++;
        text += strlen("<image>");
    }
    return n;
}

static pc_status no_memory(void)
{
    return pc_fail(PC_ERR_MEMORY, "a row of a data set");
}

/* ---- captions ---- */

static pc_status read_captions(pc_sample *s, pc_dataset_memory *m, const json_t *captions)
{
    const size_t n = json_array_size(captions);
    if (!json_is_array(captions) || n == 0)
        return pc_fail(PC_ERR_INPUT, "`captions` is %s; expected an array of texts",
                       json_is_array(captions) ? "empty" : pc_json_kind(captions));
    if (!s->image) return pc_fail(PC_ERR_INPUT, "captions without an `image`");
    const char **list = pc_keep_bytes(m, n * sizeof *list);
    if (!list) return no_memory();
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(captions, i);
        if (!json_is_string(v))
            return pc_fail(PC_ERR_INPUT, "captions[%zu] is %s; expected a text", i,
                           pc_json_kind(v));
        if (is_blank(json_string_value(v)))
            return pc_fail(PC_ERR_INPUT, "captions[%zu] is empty: \"%s\"", i, json_string_value(v));
        if (!(list[i] = pc_keep_text(m, json_string_value(v)))) return no_memory();
    }
    s->captions = list;
    s->n_captions = (int64_t)n;
    return PC_OK;
}

/* ---- conversations ---- */

typedef enum speaker { HUMAN, ASSISTANT, SYSTEM, NOBODY } speaker;

static speaker speaker_of(const char *from)
{
    if (strcmp(from, "human") == 0 || strcmp(from, "user") == 0) return HUMAN;
    if (strcmp(from, "gpt") == 0 || strcmp(from, "assistant") == 0) return ASSISTANT;
    return strcmp(from, "system") == 0 ? SYSTEM : NOBODY;
}

/* One entry of `conversations`: who speaks, and the words, kept. */
static pc_status read_words(speaker *who, const char **words, pc_dataset_memory *m,
                            const json_t *entry, size_t i)
{
    const json_t *from = json_object_get(entry, "from"), *value = json_object_get(entry, "value");
    if (!json_is_string(from) || !json_is_string(value))
        return pc_fail(PC_ERR_INPUT,
                       "conversations[%zu]: `from` is %s and `value` %s; expected two texts", i,
                       pc_json_kind(from), pc_json_kind(value));
    *who = speaker_of(json_string_value(from));
    if (*who == NOBODY)
        return pc_fail(PC_ERR_INPUT,
                       "conversations[%zu].from is \"%s\"; expected human, gpt or system", i,
                       json_string_value(from));
    *words = pc_keep_text(m, json_string_value(value));
    return *words ? PC_OK : no_memory();
}

static pc_status read_turns(pc_sample *s, pc_dataset_memory *m, const json_t *list)
{
    const size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0)
        return pc_fail(PC_ERR_INPUT, "`conversations` is %s; expected an array of turns",
                       json_is_array(list) ? "empty" : pc_json_kind(list));
    pc_turn *turns = pc_keep_bytes(m, (n / 2 + 1) * sizeof *turns);
    const char *question = NULL;
    int64_t count = 0;
    if (!turns) return no_memory();
    for (size_t i = 0; i < n; i++) {
        speaker who = NOBODY;
        const char *words = NULL;
        pc_status st = read_words(&who, &words, m, json_array_get(list, i), i);
        if (st) return st;
        if (who == SYSTEM && i == 0) {
            s->system = words;
        } else if (who == HUMAN && !question) {
            if (is_blank(words))
                return pc_fail(PC_ERR_INPUT, "conversations[%zu]: an empty question", i);
            question = words;
        } else if (who == ASSISTANT && question) {
            if (is_blank(words))
                return pc_fail(PC_ERR_INPUT, "conversations[%zu]: an empty answer to \"%.60s\"", i,
                               question);
            if (count_marks(words))
                return pc_fail(PC_ERR_INPUT, "conversations[%zu]: an answer holds <image>", i);
            turns[count++] = (pc_turn){.question = question, .answer = words};
            question = NULL;
        } else {
            return pc_fail(PC_ERR_INPUT, "conversations[%zu] is \"%s\"'s; expected %s", i,
                           json_string_value(json_object_get(json_array_get(list, i), "from")),
                           question ? "gpt, who answers the question before" : "human, who asks");
        }
    }
    if (question || count == 0)
        return pc_fail(PC_ERR_INPUT, "a question without an answer: \"%.60s\"",
                       question ? question : "");
    s->turns = turns;
    s->n_turns = count;
    return PC_OK;
}

/* The kinds of the questions, from turn_meta: one entry for each question. */
static pc_status read_types(pc_sample *s, pc_dataset_memory *m, const json_t *meta)
{
    if (!meta || json_is_null(meta)) return PC_OK;
    if (!json_is_array(meta) || (int64_t)json_array_size(meta) != s->n_turns)
        return pc_fail(PC_ERR_INPUT, "`turn_meta` is %s of %zu; expected an array of %lld",
                       pc_json_kind(meta), json_array_size(meta), (long long)s->n_turns);
    pc_turn *turns = (pc_turn *)(uintptr_t)s->turns; // ours, not yet handed out
    for (int64_t i = 0; i < s->n_turns; i++) {
        const json_t *type = json_object_get(json_array_get(meta, (size_t)i), "type");
        if (!type || json_is_null(type)) continue;
        if (!json_is_string(type))
            return pc_fail(PC_ERR_INPUT, "turn_meta[%lld].type is %s; expected a text",
                           (long long)i, pc_json_kind(type));
        if (!(turns[i].type = pc_keep_text(m, json_string_value(type)))) return no_memory();
    }
    return PC_OK;
}

static pc_status check_marks(const pc_sample *s)
{
    int64_t marks = 0;
    for (int64_t i = 0; i < s->n_turns; i++) marks += count_marks(s->turns[i].question);
    if (marks > 1)
        return pc_fail(PC_ERR_INPUT,
                       "%lld times <image>; several images per sample are not supported yet, "
                       "expected %d",
                       (long long)marks, s->image ? 1 : 0);
    if (marks == 1 && !s->image)
        return pc_fail(PC_ERR_INPUT, "<image> in a question, but no `image` in the row");
    if (marks == 0 && s->image)
        return pc_fail(PC_ERR_INPUT, "`image` is given, but no question holds <image>");
    if (marks == 1 && !count_marks(s->turns[0].question))
        return pc_fail(PC_ERR_INPUT, "<image> in a later question; expected in the first");
    return PC_OK;
}

/* ---- a row ---- */

static pc_status read_id(pc_sample *s, pc_dataset_memory *m, const json_t *row)
{
    const json_t *id = json_object_get(row, "id");
    char number[32];
    if (!id || json_is_null(id)) return PC_OK;
    if (!json_is_string(id) && !json_is_integer(id))
        return pc_fail(PC_ERR_INPUT, "`id` is %s; expected a text or a whole number",
                       pc_json_kind(id));
    snprintf(number, sizeof number, "%lld", (long long)json_integer_value(id));
    s->id = pc_keep_text(m, json_is_string(id) ? json_string_value(id) : number);
    return s->id ? PC_OK : no_memory();
}

static pc_status read_row(pc_sample *s, pc_dataset_memory *m, const json_t *row, const char *folder)
{
    pc_status st;
    if (!json_is_object(row))
        return pc_fail(PC_ERR_INPUT, "the row is %s; expected an object", pc_json_kind(row));
    if (json_object_get(row, "video")) return pc_fail(PC_ERR_INPUT, "`video` is not supported yet");
    const json_t *captions = json_object_get(row, "captions"),
                 *conversations = json_object_get(row, "conversations");
    if (!captions == !conversations)
        return pc_fail(PC_ERR_INPUT, "%s `captions` %s `conversations`; expected one of the two",
                       captions ? "both" : "neither", captions ? "and" : "nor");
    if ((st = read_id(s, m, row)) || (st = pc_row_image(&s->image, m, row, folder))) return st;
    if (captions) return read_captions(s, m, captions);
    if ((st = read_turns(s, m, conversations))) return st;
    if ((st = read_types(s, m, json_object_get(row, "turn_meta")))) return st;
    return check_marks(s);
}

/* ---- files ---- */

typedef struct reader {
    pc_dataset *out;
    int64_t room;
    pc_bad_sample policy;
} reader;

static pc_status keep_sample(reader *r, const pc_sample *s)
{
    pc_dataset *d = r->out;
    if (d->count == r->room) {
        const int64_t wanted = r->room ? 2 * r->room : 1024;
        pc_sample *samples = realloc(d->samples, (size_t)wanted * sizeof *samples);
        if (!samples) return pc_fail(PC_ERR_MEMORY, "%lld samples", (long long)wanted);
        d->samples = samples;
        r->room = wanted;
    }
    d->samples[d->count++] = *s;
    return PC_OK;
}

static pc_status read_file(reader *r, const char *path, const char *folder)
{
    pc_row_reader rows;
    pc_status st = pc_row_reader_open(&rows, path);
    if (st) return st;
    const int64_t before = r->out->count, skipped_before = r->out->n_skipped;
    while (!st) {
        json_t *row;
        pc_sample s = {.file = path, .in_array = rows.array};
        st = pc_row_reader_next(&rows, &row);
        if (!st && !row) break;
        s.line = rows.array ? rows.index : rows.line;
        if (!st) st = read_row(&s, r->out->memory, row, folder);
        if (!st) st = keep_sample(r, &s);
        json_decref(row);
        if (!st) continue;
        pc_row_reader_context(&rows, st);
        if (pc_may_skip(st, r->policy))
            st = pc_skipped_add(&r->out->skipped, &r->out->n_skipped, pc_error_text());
    }
    const int64_t skipped = r->out->n_skipped - skipped_before;
    if (!st && r->out->count == before)
        st = pc_fail(PC_ERR_INPUT, "%s: no usable row%s%s", path, skipped ? "; the first: " : "",
                     skipped ? r->out->skipped[skipped_before] : "");
    pc_row_reader_close(&rows);
    return st;
}

pc_status pc_dataset_open(pc_dataset *out, const pc_source *sources, int n, pc_bad_sample policy)
{
    reader r = {.out = out, .policy = policy};
    *out = (pc_dataset){.n_sources = n, .memory = pc_dataset_memory_open()};
    pc_status st = out->memory ? PC_OK : no_memory();
    out->source_begin = calloc((size_t)n + 1, sizeof *out->source_begin);
    out->source_weight = calloc((size_t)n + 1, sizeof *out->source_weight);
    if (!out->source_begin || !out->source_weight) st = no_memory();
    for (int i = 0; i < n && !st; i++) {
        const double weight = sources[i].weight;
        if (!(weight >= 0.0 && weight <= 1e6)) {
            st = pc_fail(PC_ERR_INPUT, "%s: weight %g, expected above 0", sources[i].path, weight);
            break;
        }
        out->source_weight[i] = weight > 0.0 ? weight : 1.0;
        const char *path = pc_keep_text(out->memory, sources[i].path);
        const char *folder = path ? pc_image_folder(out->memory, path, sources[i].images) : NULL;
        st = folder ? read_file(&r, path, folder) : no_memory();
        out->source_begin[i + 1] = out->count;
    }
    if (st) pc_dataset_close(out);
    return st;
}

void pc_dataset_close(pc_dataset *d)
{
    free(d->samples);
    free(d->source_begin);
    free(d->source_weight);
    pc_skipped_close(d->skipped, d->n_skipped);
    pc_dataset_memory_close(d->memory);
    *d = (pc_dataset){0};
}

const char *pc_sample_place(const pc_sample *s, char *buf, size_t size)
{
    snprintf(buf, size, s->in_array ? "%s row %lld" : "%s:%lld", s->file, (long long)s->line);
    return buf;
}

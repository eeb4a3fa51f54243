/*
 * questions.c - flat questions for evaluation, checked one by one.
 *
 *   qa     {"question_id": 1, "image": "...", "question": "...", "answer": "...", "type": "count"}
 *   POPE   {"question_id": 1, "image": "...", "text": "...", "label": "yes"}
 *
 * Answers of a model are matched by question_id, so an id that comes twice is an error.
 */
#include "data/datasets/rows.h"

#include <stdlib.h>
#include <string.h>

static pc_status read_text(const char **out, pc_dataset_memory *m, const json_t *row,
                           const char *key)
{
    const json_t *v = json_object_get(row, key);
    if (!json_is_string(v))
        return pc_fail(PC_ERR_INPUT, "`%s` is %s; expected a text", key, pc_json_kind(v));
    const char *text = json_string_value(v);
    if (text[strspn(text, " \t\r\n\v\f")] == '\0')
        return pc_fail(PC_ERR_INPUT, "`%s` is empty: \"%s\"", key, text);
    *out = pc_keep_text(m, text);
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "a question");
}

static pc_status read_row(pc_question *q, pc_dataset_memory *m, const json_t *row,
                          const char *folder)
{
    pc_status st;
    if (!json_is_object(row))
        return pc_fail(PC_ERR_INPUT, "the row is %s; expected an object", pc_json_kind(row));
    const json_t *id = json_object_get(row, "question_id");
    if (!json_is_integer(id))
        return pc_fail(PC_ERR_INPUT, "`question_id` is %s; expected a whole number",
                       pc_json_kind(id));
    q->id = (int64_t)json_integer_value(id);
    if ((st = pc_row_image(&q->image, m, row, folder))) return st;
    const bool pope = json_object_get(row, "label") != NULL;
    if ((st = read_text(&q->question, m, row, pope ? "text" : "question"))) return st;
    if ((st = read_text(&q->answer, m, row, pope ? "label" : "answer"))) return st;
    if (pope && strcmp(q->answer, "yes") != 0 && strcmp(q->answer, "no") != 0)
        return pc_fail(PC_ERR_INPUT, "`label` is \"%s\"; expected yes or no", q->answer);
    if (strstr(q->question, "<image>"))
        return pc_fail(PC_ERR_INPUT, "the question holds <image>; the image comes from `image`");
    const json_t *type = json_object_get(row, "type");
    return !type || json_is_null(type) ? PC_OK : read_text(&q->type, m, row, "type");
}

/* Sorted copies of (id, line), to find an id that comes twice. */
static int by_id(const void *a, const void *b)
{
    const pc_question *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return x->line < y->line ? -1 : x->line > y->line;
}

static pc_status check_ids(const pc_questions *q, const char *path)
{
    pc_question *sorted = malloc((size_t)q->count * sizeof *sorted);
    pc_status st = sorted ? PC_OK : pc_fail(PC_ERR_MEMORY, "%lld questions", (long long)q->count);
    if (!st) memcpy(sorted, q->list, (size_t)q->count * sizeof *sorted);
    if (!st) qsort(sorted, (size_t)q->count, sizeof *sorted, by_id);
    for (int64_t i = 1; i < q->count && !st; i++)
        if (sorted[i].id == sorted[i - 1].id)
            st = pc_fail(PC_ERR_INPUT, "%s:%lld: question_id %lld is that of line %lld too", path,
                         (long long)sorted[i].line, (long long)sorted[i].id,
                         (long long)sorted[i - 1].line);
    free(sorted);
    return st;
}

static pc_status keep_question(pc_questions *out, int64_t *room, const pc_question *q)
{
    if (out->count == *room) {
        const int64_t wanted = *room ? 2 * *room : 1024;
        pc_question *list = realloc(out->list, (size_t)wanted * sizeof *list);
        if (!list) return pc_fail(PC_ERR_MEMORY, "%lld questions", (long long)wanted);
        out->list = list;
        *room = wanted;
    }
    out->list[out->count++] = *q;
    return PC_OK;
}

static pc_status read_file(pc_questions *out, const char *path, const char *folder,
                           pc_bad_sample policy)
{
    pc_row_reader rows;
    int64_t room = 0;
    pc_status st = pc_row_reader_open(&rows, path);
    if (st) return st;
    while (!st) {
        json_t *row;
        pc_question q = {0};
        st = pc_row_reader_next(&rows, &row);
        if (!st && !row) break;
        q.line = rows.array ? rows.index : rows.line;
        if (!st) st = read_row(&q, out->memory, row, folder);
        if (!st) st = keep_question(out, &room, &q);
        json_decref(row);
        if (!st) continue;
        pc_row_reader_context(&rows, st);
        if (pc_may_skip(st, policy))
            st = pc_skipped_add(&out->skipped, &out->n_skipped, pc_error_text());
    }
    if (!st && out->count == 0)
        st = pc_fail(PC_ERR_INPUT, "%s: no usable question%s%s", path,
                     out->n_skipped ? "; the first: " : "", out->n_skipped ? out->skipped[0] : "");
    pc_row_reader_close(&rows);
    return st ? st : check_ids(out, path);
}

pc_status pc_questions_read(pc_questions *out, const char *path, const char *images,
                            pc_bad_sample policy)
{
    *out = (pc_questions){.memory = pc_dataset_memory_open()};
    const char *folder = out->memory ? pc_image_folder(out->memory, path, images) : NULL;
    pc_status st = folder ? read_file(out, path, folder, policy)
                          : pc_fail(PC_ERR_MEMORY, "questions of '%s'", path);
    if (st) pc_questions_close(out);
    return st;
}

pc_status pc_questions_open(pc_questions *out, const char *path, const char *images)
{
    return pc_questions_read(out, path, images, PC_BAD_ERROR);
}

void pc_questions_close(pc_questions *q)
{
    free(q->list);
    pc_skipped_close(q->skipped, q->n_skipped);
    pc_dataset_memory_close(q->memory);
    *q = (pc_questions){0};
}

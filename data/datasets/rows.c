/*
 * rows.c - JSONL lines and array elements; see rows.h.
 */
#include "data/datasets/rows.h"
#include "model/core/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const size_t file_limit = (size_t)8 << 30;

/* ---- rows ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(pc_row_reader *r)
{
    while (r->at < r->size && is_space(r->text[r->at])) r->at++;
}

static void count_lines(pc_row_reader *r)
{
    for (; r->counted < r->at; r->counted++) r->line += r->text[r->counted] == '\n';
}

pc_status pc_row_reader_open(pc_row_reader *r, const char *path)
{
    *r = (pc_row_reader){.path = path, .index = -1, .line = 1};
    pc_status st = pc_file_read(&r->text, &r->size, path, file_limit);
    if (st) return st;
    if (r->size >= 3 && memcmp(r->text, "\xEF\xBB\xBF", 3) == 0) r->at = r->counted = 3;
    skip_space(r);
    if (r->at == r->size) {
        st = pc_fail(PC_ERR_FORMAT, "%s: the file is empty; expected JSON rows", path);
    } else if (r->text[r->at] == '[') {
        r->array = true;
        r->at++;
    } else if (r->text[r->at] != '{') {
        st = pc_fail(PC_ERR_FORMAT,
                     "%s: begins with '%.16s'; expected JSONL (a '{' a row) or a JSON array ('[')",
                     path, r->text + r->at);
    }
    if (st) pc_row_reader_close(r);
    return st;
}

void pc_row_reader_close(pc_row_reader *r)
{
    free(r->text);
    *r = (pc_row_reader){0};
}

static pc_status next_line(pc_row_reader *r, json_t **row)
{
    skip_space(r);
    if (r->at == r->size) {
        r->done = true;
        return PC_OK;
    }
    count_lines(r);
    r->index++;
    const char *begin = r->text + r->at, *newline = memchr(begin, '\n', r->size - r->at);
    const size_t length = newline ? (size_t)(newline - begin) : r->size - r->at;
    json_error_t error;
    *row = json_loadb(begin, length, JSON_REJECT_DUPLICATES, &error);
    r->at += length;
    return *row ? PC_OK
                : pc_fail(PC_ERR_INPUT, "column %d: %s; expected one JSON object on the line",
                          error.column, error.text);
}

static pc_status next_element(pc_row_reader *r, json_t **row)
{
    skip_space(r);
    if (r->index >= 0 && r->at < r->size && r->text[r->at] == ',') {
        r->at++;
        skip_space(r);
    } else if (r->at < r->size && r->text[r->at] == ']') {
        r->at++;
        skip_space(r);
        count_lines(r);
        r->done = true;
        return r->at == r->size
                   ? PC_OK
                   : pc_fail(PC_ERR_FORMAT, "'%.16s' behind the end of the array", r->text + r->at);
    } else if (r->index >= 0) {
        count_lines(r);
        r->done = true;
        return pc_fail(PC_ERR_FORMAT, r->at < r->size ? "no ',' or ']' behind the row"
                                                      : "the file ends before the array does");
    }
    count_lines(r);
    r->index++;
    json_error_t error;
    *row = json_loadb(r->text + r->at, r->size - r->at,
                      JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &error);
    if (!*row) {
        r->done = true;
        return pc_fail(PC_ERR_FORMAT, "%s at line %lld, column %d", error.text,
                       (long long)(r->line + error.line - 1), error.column);
    }
    r->at += (size_t)error.position;
    return PC_OK;
}

pc_status pc_row_reader_next(pc_row_reader *r, json_t **row)
{
    *row = NULL;
    if (r->done) return PC_OK;
    return r->array ? next_element(r, row) : next_line(r, row);
}

pc_status pc_row_reader_context(const pc_row_reader *r, pc_status st)
{
    if (r->array)
        return pc_context(st, "%s row %lld (line %lld)", r->path, (long long)r->index,
                          (long long)r->line);
    return pc_context(st, "%s:%lld", r->path, (long long)r->line);
}

/* ---- memory ---- */

enum { BLOCK = 1 << 20 };

typedef struct block {
    struct block *next;
    size_t used, size;
    _Alignas(16) char bytes[];
} block;

struct pc_dataset_memory {
    block *first;
};

pc_dataset_memory *pc_dataset_memory_open(void)
{
    return calloc(1, sizeof(pc_dataset_memory));
}

void pc_dataset_memory_close(pc_dataset_memory *m)
{
    if (!m) return;
    for (block *b = m->first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(m);
}

void *pc_keep_bytes(pc_dataset_memory *m, size_t size)
{
    size = (size + 7) & ~(size_t)7;
    block *b = m->first;
    if (!b || b->size - b->used < size) {
        const size_t room = size > BLOCK / 4 ? size : BLOCK;
        b = malloc(sizeof *b + room);
        if (!b) return NULL;
        *b = (block){.next = m->first, .size = room};
        m->first = b;
    }
    void *at = b->bytes + b->used;
    b->used += size;
    return at;
}

const char *pc_keep_text(pc_dataset_memory *m, const char *text)
{
    const size_t size = strlen(text) + 1;
    char *copy = pc_keep_bytes(m, size);
    return copy ? memcpy(copy, text, size) : NULL;
}

pc_status pc_skipped_add(char ***list, int64_t *count, const char *message)
{
    if ((*count & (*count - 1)) == 0) { // at powers of two
        char **grown = realloc(*list, (size_t)(*count ? 2 * *count : 1) * sizeof *grown);
        if (!grown) return pc_fail(PC_ERR_MEMORY, "the list of skipped rows");
        *list = grown;
    }
    char *copy = strdup(message);
    if (!copy) return pc_fail(PC_ERR_MEMORY, "the list of skipped rows");
    (*list)[(*count)++] = copy;
    return PC_OK;
}

void pc_skipped_close(char **list, int64_t count)
{
    for (int64_t i = 0; i < count; i++) free(list[i]);
    free(list);
}

bool pc_may_skip(pc_status st, pc_bad_sample policy)
{
    return policy == PC_BAD_SKIP && st == PC_ERR_INPUT;
}

/* ---- images ---- */

const char *pc_image_folder(pc_dataset_memory *m, const char *path, const char *images)
{
    if (images) return pc_keep_text(m, images);
    const char *slash = strrchr(path, '/');
    if (!slash) return pc_keep_text(m, ".");
    const size_t length = slash == path ? 1 : (size_t)(slash - path);
    char *folder = pc_keep_bytes(m, length + 1);
    if (!folder) return NULL;
    memcpy(folder, path, length);
    folder[length] = '\0';
    return folder;
}

pc_status pc_row_image(const char **out, pc_dataset_memory *m, const json_t *row,
                       const char *folder)
{
    char path[4096];
    struct stat info;
    const json_t *v = json_object_get(row, "image");
    *out = NULL;
    if (!v && json_object_get(row, "images")) v = json_object_get(row, "images");
    if (!v || json_is_null(v)) return PC_OK;
    if (json_is_array(v) && json_array_size(v) > 1)
        return pc_fail(PC_ERR_INPUT,
                       "%zu images; several images per sample are not supported yet, expected one",
                       json_array_size(v));
    if (json_is_array(v)) v = json_array_get(v, 0);
    if (!json_is_string(v))
        return pc_fail(PC_ERR_INPUT, "`image` is %s; expected a path relative to '%s'",
                       pc_json_kind(v), folder);
    pc_status st = pc_path_inside(path, sizeof path, folder, json_string_value(v));
    if (st) return pc_context(st == PC_ERR_INPUT ? st : PC_ERR_INPUT, "`image`");
    if (stat(path, &info)) {
        pc_fail_errno("image '%s'", path);
        return PC_ERR_INPUT;
    }
    if (!S_ISREG(info.st_mode)) return pc_fail(PC_ERR_INPUT, "image '%s' is no file", path);
    *out = pc_keep_text(m, path);
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "a path");
}

const char *pc_json_kind(const json_t *v)
{
    if (!v) return "missing";
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a text";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    case JSON_NULL: break;
    }
    return "null";
}

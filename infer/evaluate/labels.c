/*
 * labels.c - see labels.h.
 */
#include "infer/evaluate/labels.h"

#include "model/core/file.h"

#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 64 << 20 };

// Grows a list of texts by a copy of one.
static pc_status append(char ***list, int64_t *n, const char *text)
{
    char **more = realloc(*list, (size_t)(*n + 1) * sizeof *more);
    if (more) *list = more;
    char *copy = strdup(text);
    if (!more || !copy) {
        free(copy);
        return pc_fail(PC_ERR_MEMORY, "a list of %lld names", (long long)*n);
    }
    more[(*n)++] = copy;
    return PC_OK;
}

void labels_names_close(char **names, int64_t n)
{
    for (int64_t i = 0; i < n; i++) free(names[i]);
    free(names);
}

static pc_status names_of_json(char ***out, int64_t *n, const json_t *list)
{
    size_t i;
    json_t *v;
    pc_status st;

    json_array_foreach(list, i, v)
    {
        const json_t *name = json_object_get(v, "class");
        if (!name) name = json_object_get(v, "name");
        if (json_is_string(v)) name = v;
        if (!json_is_string(name))
            return pc_fail(PC_ERR_FORMAT,
                           "entry %zu is neither a name nor an object with a \"class\"", i);
        if ((st = append(out, n, json_string_value(name)))) return st;
    }
    return PC_OK;
}

static pc_status names_of_lines(char ***out, int64_t *n, char *text)
{
    char *save = NULL;
    pc_status st;

    for (char *line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save))
        if (line[strspn(line, " \t")] && (st = append(out, n, line))) return st;
    return PC_OK;
}

pc_status labels_names(char ***out, int64_t *n, const char *path)
{
    char *text;
    size_t size;
    json_error_t error;
    pc_status st = pc_file_read(&text, &size, path, FILE_MAX);

    *out = NULL;
    *n = 0;
    if (st) return st;
    if (text[strspn(text, " \t\r\n")] == '[') {
        json_t *list = json_loadb(text, size, 0, &error);
        st = list ? names_of_json(out, n, list)
                  : pc_fail(PC_ERR_FORMAT, "line %d: %s", error.line, error.text);
        json_decref(list);
    } else {
        st = names_of_lines(out, n, text);
    }
    free(text);
    if (!st && *n == 0) st = pc_fail(PC_ERR_INPUT, "no class in it");
    if (st) {
        labels_names_close(*out, *n);
        *out = NULL;
        *n = 0;
    }
    return pc_context(st, "'%s'", path);
}

static int64_t index_of(const labels_file *l, const char *name)
{
    for (int64_t i = 0; i < l->classes; i++)
        if (!strcmp(l->name[i], name)) return i;
    return -1;
}

static pc_status add_row(labels_file *l, const char *line, const char *folder, bool known)
{
    char path[PATH_MAX];
    json_error_t error;
    json_t *row = json_loads(line, 0, &error);
    const json_t *image = json_object_get(row, "image"), *class = json_object_get(row, "class");
    pc_status st = PC_OK;

    if (!row) {
        st = pc_fail(PC_ERR_FORMAT, "%s", error.text);
        goto out;
    }
    if (!json_is_string(image) || !json_is_string(class)) {
        st = pc_fail(PC_ERR_INPUT, "expected {\"image\": \"...\", \"class\": \"...\"}");
        goto out;
    }
    if ((st = pc_path_inside(path, sizeof path, folder, json_string_value(image)))) goto out;
    const char *name = json_string_value(class);
    int64_t k = index_of(l, name);
    if (k < 0 && known) {
        st = pc_fail(PC_ERR_INPUT, "class \"%s\" is not in the list of classes", name);
        goto out;
    }
    if (k < 0) {
        k = l->classes;
        if ((st = append(&l->name, &l->classes, name))) goto out;
    }
    int64_t *label = realloc(l->label, (size_t)(l->count + 1) * sizeof *label);
    if (label) l->label = label;
    if (!label) st = pc_fail(PC_ERR_MEMORY, "%lld rows", (long long)l->count);
    if (st || (st = append(&l->image, &l->count, path))) goto out;
    l->label[l->count - 1] = k;
out:
    json_decref(row);
    return st;
}

pc_status labels_open(labels_file *out, const char *path, const char *images,
                      const char *classes_path)
{
    char *text = NULL, own[PATH_MAX];
    size_t size;
    pc_status st;

    memset(out, 0, sizeof *out);
    snprintf(own, sizeof own, "%s", path);
    const char *folder = images ? images : dirname(own);
    if (classes_path && (st = labels_names(&out->name, &out->classes, classes_path))) return st;
    if ((st = pc_file_read(&text, &size, path, FILE_MAX))) goto out;
    // strtok would swallow empty lines, and with them the count of lines.
    int64_t n = 0;
    for (char *line = text; line && *line;) {
        char *end = strchr(line, '\n');
        if (end) *end = '\0';
        n++;
        if (line[strspn(line, " \t\r")] &&
            (st = add_row(out, line, folder, classes_path != NULL))) {
            st = pc_context(st, "%s:%lld", path, (long long)n);
            break;
        }
        line = end ? end + 1 : NULL;
    }
    if (!st && !out->count) st = pc_fail(PC_ERR_INPUT, "%s: no labelled image", path);
out:
    free(text);
    if (st) labels_close(out);
    return st;
}

void labels_close(labels_file *l)
{
    labels_names_close(l->image, l->count);
    labels_names_close(l->name, l->classes);
    free(l->label);
    memset(l, 0, sizeof *l);
}

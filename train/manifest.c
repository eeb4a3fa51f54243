/*
 * manifest.c - see manifest.h.
 */
#include "train/manifest.h"

#include "model/core/file.h"
#include "train/state.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

pc_status manifest_rows(char out[65], const recipe_sources *s)
{
    char *all = calloc((size_t)s->count * 65 + 1, 1);
    if (!all) return pc_fail(PC_ERR_MEMORY, "manifest");
    pc_status st = PC_OK;
    for (int64_t i = 0; i < s->count && !st; i++)
        st = pc_file_sha256(all + i * 64, s->list[i].full_path);
    if (!st) pc_sha256(out, all, (size_t)s->count * 64);
    free(all);
    return st;
}

// ---- the list of inputs --------------------------------------------------------------------------

typedef struct input {
    const char *path;
    char hash[65]; // "" where it could not be read
} input;

typedef struct inputs {
    input *list;
    int64_t count, capacity;
    char *owned[256]; // paths made here: files of a checkpoint's folder
    int n_owned;
} inputs;

static pc_status add(inputs *in, const char *path)
{
    if (in->count == in->capacity) {
        const int64_t capacity = in->capacity ? 2 * in->capacity : 256;
        input *list = realloc(in->list, (size_t)capacity * sizeof *list);
        if (!list) return pc_fail(PC_ERR_MEMORY, "list of inputs");
        in->list = list;
        in->capacity = capacity;
    }
    in->list[in->count++] = (input){.path = path};
    return PC_OK;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const input *)a)->path, ((const input *)b)->path);
}

static void hash_inputs(void *arg, int64_t begin, int64_t end, int worker)
{
    inputs *in = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        if (pc_file_sha256(in->list[i].hash, in->list[i].path)) in->list[i].hash[0] = 0;
}

static pc_status add_data(inputs *in, const recipe_sources *s, const pc_dataset *d)
{
    pc_status st = PC_OK;
    for (int64_t i = 0; i < s->count && !st; i++) st = add(in, s->list[i].full_path);
    for (int64_t i = 0; i < d->count && !st; i++)
        if (d->samples[i].image) st = add(in, d->samples[i].image);
    return st;
}

// A checkpoint: a file, or every file of a folder.
static pc_status add_checkpoint(inputs *in, const char *path)
{
    pc_status st = PC_OK;
    if (!*path) return PC_OK;
    if (!pc_is_dir(path)) return add(in, path);
    DIR *d = opendir(path);
    for (struct dirent *e; d && !st && (e = readdir(d)) && in->n_owned < 256;) {
        char file[4400];
        snprintf(file, sizeof file, "%.4000s/%s", path, e->d_name);
        if (e->d_name[0] == '.' || pc_is_dir(file)) continue;
        char *copy = in->owned[in->n_owned++] = strdup(file);
        st = copy ? add(in, copy) : pc_fail(PC_ERR_MEMORY, "list of inputs");
    }
    if (d) closedir(d);
    return st;
}

static pc_status collect(inputs *in, run *u)
{
    const recipe *r = u->recipe;
    pc_status st = add_data(in, &r->data.train, &u->train);
    if (!st) st = add_data(in, &r->data.val, &u->val);
    if (!st) st = add_checkpoint(in, r->model.vision_from);
    if (!st) st = add_checkpoint(in, r->model.from);
    if (st) return st;
    if (in->count > 0) qsort(in->list, (size_t)in->count, sizeof *in->list, by_path);
    int64_t kept = 0; // an image may have several rows
    for (int64_t i = 0; i < in->count; i++)
        if (i == 0 || strcmp(in->list[i].path, in->list[kept - 1].path) != 0)
            in->list[kept++] = in->list[i];
    in->count = kept;
    pc_parallel(u->pool, in->count, 8, hash_inputs, in);
    return PC_OK;
}

static pc_status list_text(char **out, size_t *size, const inputs *in)
{
    FILE *f = open_memstream(out, size);
    if (!f) return pc_fail(PC_ERR_MEMORY, "list of inputs");
    for (int64_t i = 0; i < in->count; i++)
        if (in->list[i].hash[0]) fprintf(f, "%s  %s\n", in->list[i].hash, in->list[i].path);
    return fclose(f) ? pc_fail(PC_ERR_MEMORY, "list of inputs") : PC_OK;
}

// ---- licences ------------------------------------------------------------------------------------

// The first line about a licence in a text file beside the rows, "" when there is none.
static void licence_beside(char *out, size_t size, const char *folder)
{
    static const char *const names[] = {"README.md", "README", "LICENSE", "LICENSE.source"};
    *out = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !*out; i++) {
        char path[4400], *text = NULL;
        size_t n = 0;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (!pc_file_exists(path) || pc_file_read(&text, &n, path, (size_t)1 << 20)) continue;
        for (char *line = text; line && *line;) {
            char *end = strchr(line, '\n');
            if (end) *end = 0;
            if (strcasestr(line, "licen") || strcasestr(line, "no rights are reserved")) {
                snprintf(out, size, "%.300s", line + strspn(line, " #-*"));
                break;
            }
            line = end ? end + 1 : NULL;
        }
        free(text);
    }
}

static json_t *source_json(const recipe_source *s)
{
    char folder[4096], licence[320], hash[65] = "";
    snprintf(folder, sizeof folder, "%s", s->full_path);
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = 0;
    else
        snprintf(folder, sizeof folder, ".");
    licence_beside(licence, sizeof licence, folder);
    if (pc_file_sha256(hash, s->full_path)) hash[0] = 0;
    json_t *o = json_pack("{s:s, s:s}", "path", s->full_path, "sha256", hash);
    if (o) json_object_set_new(o, "licence", *licence ? json_string(licence) : json_null());
    return o;
}

static json_t *sources_json(const recipe_sources *s)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->count; i++) json_array_append_new(list, source_json(&s->list[i]));
    return list;
}

// ---- writing -------------------------------------------------------------------------------------

pc_status manifest_write(run *u)
{
    inputs in = {0};
    char path[4096], list_hash[65], recipe_hash[65], *list = NULL, *yaml = NULL, *json = NULL;
    size_t size = 0;
    pc_status st = collect(&in, u);
    if (!st) st = list_text(&list, &size, &in);
    if (!st) st = pc_file_write(state_path(path, u->recipe, "inputs.sha256"), list, size);
    if (!st) st = recipe_to_yaml(&yaml, u->recipe, true);
    if (st) goto out;
    pc_sha256(list_hash, list, size);
    pc_sha256(recipe_hash, yaml, strlen(yaml));
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:I, s:{s:s, s:s}, s:{s:s, s:I, s:s}, s:{s:o, s:o}}", "program",
                  "percept-train", "version", PERCEPT_VERSION, "name", u->recipe->top.name, "seed",
                  (json_int_t)u->recipe->top.seed, "recipe", "file", u->recipe->file,
                  "sha256_resolved", recipe_hash, "inputs", "list", "inputs.sha256", "files",
                  (json_int_t)in.count, "sha256", list_hash, "data", "train",
                  sources_json(&u->recipe->data.train), "val", sources_json(&u->recipe->data.val));
    json = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    st = json ? pc_file_write(state_path(path, u->recipe, "manifest.json"), json, strlen(json))
              : pc_fail(PC_ERR_MEMORY, "manifest");
out:
    free(in.list);
    for (int i = 0; i < in.n_owned; i++) free(in.owned[i]);
    free(list);
    free(yaml);
    free(json);
    return pc_context(st, "manifest");
}

/*
 * hf_carry.c - see hf_carry.h.
 */
#include "checkpoints/hf_carry.h"

#include "checkpoints/numbers.h"
#include "model/core/file.h"
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX    ((size_t)64 << 20)
#define ALL_MAX     ((size_t)256 << 20)
#define IGNORED_MAX ((size_t)1 << 20)

/* ---- files ---- */

static const char *const CARRIED[] = {"config.json",
                                      "open_clip_config.json",
                                      "generation_config.json",
                                      "preprocessor_config.json",
                                      "video_preprocessor_config.json",
                                      "processor_config.json",
                                      "tokenizer.json",
                                      "tokenizer.model",
                                      "tokenizer_config.json",
                                      "special_tokens_map.json",
                                      "added_tokens.json",
                                      "vocab.json",
                                      "vocab.txt",
                                      "merges.txt",
                                      "spiece.model",
                                      "chat_template.json",
                                      "chat_template.jinja",
                                      NULL};

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n > k && !strcmp(s + n - k, end);
}

// Also tokenizers that come as tiktoken tables, licences, and the code that a config's auto_map names (Qwen-VL).
static bool wanted(const char *name)
{
    for (const char *const *c = CARRIED; *c; c++)
        if (!strcmp(*c, name)) return true;
    return ends_in(name, ".tiktoken") || ends_in(name, ".py") || !strncmp(name, "LICENSE", 7) ||
           !strncmp(name, "NOTICE", 6);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// In the order of their names, so that equal folders give equal checkpoints.
static pc_status list_names(char ***out, size_t *count, const char *dir)
{
    DIR *d = opendir(dir);
    char **names = NULL;
    size_t n = 0;
    if (!d) return pc_fail_errno("cannot open '%s'", dir);
    pc_status st = PC_OK;
    for (struct dirent *e; !st && (e = readdir(d));) {
        if (!wanted(e->d_name) || !pc_native_file_name(e->d_name)) continue;
        char **more = n < PC_NATIVE_FILES_MAX ? realloc(names, (n + 1) * sizeof *names) : NULL;
        if (more) names = more;
        if (!more || !(names[n] = strdup(e->d_name)))
            st = pc_fail(PC_ERR_MEMORY, "'%s': list of %zu files", dir, n + 1);
        else
            n++;
    }
    closedir(d);
    if (n > 1) qsort(names, n, sizeof *names, by_text);
    *out = names;
    *count = n;
    return st;
}

pc_status pc_hf_carry_files(pc_native_text *t, const char *dir)
{
    char **names = NULL, path[PATH_MAX];
    size_t n = 0, total = 0;
    pc_status st = list_names(&names, &n, dir);
    for (size_t i = 0; i < n && !st; i++) {
        char *data = NULL;
        size_t size = 0;
        if (snprintf(path, sizeof path, "%s/%s", dir, names[i]) >= (int)sizeof path)
            st = pc_fail(PC_ERR_INPUT, "path is too long: '%.200s'", dir);
        if (st || pc_is_dir(path)) continue;
        st = pc_file_read(&data, &size, path, FILE_MAX);
        if (!st && (total += size) > ALL_MAX)
            st = pc_fail(PC_ERR_INPUT, "'%s': more than %zu MB beside the weights", dir,
                         ALL_MAX >> 20);
        if (!st) st = pc_native_add_file(t, names[i], data, size);
        free(data);
    }
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
    return st;
}

/* ---- tensors without a meaning ---- */

static bool is_ignored(const pc_hf_match *m, const pc_st_entry *e, const pc_safetensors *s)
{
    pc_dtype type;
    if (!pc_dtype_from_text(&type, e->dtype) || ends_in(e->name, "lm_head.weight")) return false;
    for (int i = 0; i < m->aliases.count; i++)
        if (!strcmp(m->aliases.list[i].theirs, e->name)) return false;
    for (int64_t i = 0; i < m->surplus_count; i++)
        if (pc_safetensors_at(s, m->surplus[i]) == e) return false;
    return strlen(e->name) < sizeof((pc_st_out *)0)->name;
}

static pc_status carry_ignored(pc_native_text *t, const pc_hf_match *m, const pc_safetensors *s)
{
    const int64_t n = pc_safetensors_count(s);
    pc_st_out *list = calloc((size_t)n + 1, sizeof *list);
    int64_t count = 0;
    size_t total = 0;
    if (!list) return pc_fail(PC_ERR_MEMORY, "list of %lld tensors", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        const pc_st_entry *e = pc_safetensors_at(s, i);
        if (e->bytes > IGNORED_MAX - total || !is_ignored(m, e, s)) continue;
        pc_st_out *o = &list[count++];
        o->rank = e->rank;
        o->data = e->data;
        memcpy(o->dim, e->dim, sizeof o->dim);
        strcpy(o->name, e->name);
        pc_dtype_from_text(&o->dtype, e->dtype);
        total += e->bytes;
    }
    char *data = NULL;
    size_t size = 0;
    pc_status st = count ? pc_safetensors_memory(&data, &size, list, count) : PC_OK;
    if (!st && count) st = pc_native_add_file(t, PC_HF_IGNORED, data, size);
    free(data);
    free(list);
    return st;
}

/* ---- source ---- */

// The type of most numbers.
static const char *usual_type(const pc_hf_match *m, const pc_safetensors *s)
{
    static const char *const types[] = {"F32", "BF16", "F16", "F64"};
    uint64_t numbers[4] = {0};
    for (int i = 0; i < m->aliases.count; i++) {
        const pc_st_entry *e = pc_safetensors_find(s, m->aliases.list[i].theirs);
        for (int k = 0; e && k < 4; k++)
            if (!strcmp(e->dtype, types[k])) numbers[k] += (uint64_t)m->aliases.list[i].count;
    }
    int best = 0;
    for (int k = 1; k < 4; k++)
        if (numbers[k] > numbers[best]) best = k;
    return types[best];
}

static const char *base_name(const char *dir, char *buf, size_t size)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    size_t from = n;
    while (from > 0 && dir[from - 1] != '/') from--;
    snprintf(buf, size, "%.*s", (int)(n - from), dir + from);
    return buf;
}

static pc_status carry_source(pc_native_text *t, const char *dir, const pc_family *f,
                              const pc_hf_match *m, const pc_safetensors *s)
{
    char name[256];
    const char *usual = usual_type(m, s);
    json_t *types = json_object();
    bool ok = types != NULL;
    for (int i = 0; i < m->aliases.count && ok; i++) {
        const char *theirs = m->aliases.list[i].theirs;
        const pc_st_entry *e = pc_safetensors_find(s, theirs);
        if (e && strcmp(e->dtype, usual) != 0)
            ok = json_object_set_new(types, theirs, json_string(e->dtype)) == 0;
    }
    base_name(dir, name, sizeof name);
    json_t *o = json_pack("{s:s*, s:s, s:i, s:s, s:o}", "name",
                          *name && strcmp(name, ".") != 0 ? name : NULL, "family", f->name,
                          "layout", m->variant, "dtype", usual, "dtypes", types);
    free(t->source);
    t->source = o && ok ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return t->source ? PC_OK : pc_fail(PC_ERR_MEMORY, "text 'source'");
}

pc_status pc_hf_carry(pc_native_text *t, const char *dir, const pc_family *f, const pc_hf_match *m,
                      const pc_safetensors *s)
{
    pc_status st = pc_hf_carry_files(t, dir);
    if (!st) st = carry_ignored(t, m, s);
    return st ? st : carry_source(t, dir, f, m, s);
}

pc_status pc_hf_carried_json(json_t **out, const pc_native_text *t, const char *name)
{
    json_error_t e;
    const pc_native_file *f = pc_native_find_file(t, name);
    *out = NULL;
    if (!f) return PC_OK;
    *out = json_loadb((const char *)f->data, f->size, JSON_REJECT_DUPLICATES, &e);
    if (*out) return PC_OK;
    return pc_fail(PC_ERR_FORMAT, "carried file '%s' line %d, column %d: %s", name, e.line,
                   e.column, e.text);
}

static pc_status source_family(pc_hf_source *out, const pc_native_text *t)
{
    pc_model_config config;
    json_t *json = NULL;
    pc_status st = pc_hf_carried_json(&json, t, "config.json");
    if (!st && json) st = pc_family_from_config(&out->family, &config, json);
    json_decref(json);
    return pc_context(st, "carried file 'config.json'");
}

pc_status pc_hf_source_open(pc_hf_source *out, const pc_native_text *t)
{
    json_error_t e;
    *out = (pc_hf_source){.layout = -1};
    pc_status st = source_family(out, t);
    if (st || !t->source) return st;
    out->json = json_loads(t->source, JSON_REJECT_DUPLICATES, &e);
    if (!json_is_object(out->json)) {
        pc_hf_source_close(out);
        return pc_fail(PC_ERR_FORMAT, "text 'source': line %d, column %d: %s", e.line, e.column,
                       e.text);
    }
    const json_t *layout = json_object_get(out->json, "layout");
    const json_int_t v = json_integer_value(layout);
    if (out->family && json_is_integer(layout) && v >= 0 && v < out->family->variants)
        out->layout = (int)v;
    out->name = json_string_value(json_object_get(out->json, "name"));
    out->dtype = json_string_value(json_object_get(out->json, "dtype"));
    return PC_OK;
}

void pc_hf_source_close(pc_hf_source *s)
{
    json_decref(s->json);
    *s = (pc_hf_source){.layout = -1};
}

const char *pc_hf_source_dtype(const pc_hf_source *s, const char *theirs)
{
    const char *own =
        json_string_value(json_object_get(json_object_get(s->json, "dtypes"), theirs));
    return own ? own : s->dtype;
}

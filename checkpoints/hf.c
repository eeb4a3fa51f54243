/*
 * hf.c - see hf.h.
 */
#include "checkpoints/hf.h"

#include "model/core/file.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_FILE_MAX ((size_t)64 << 20)
#define NAMED_MAX     6 // tensors named in one message; more are counted

/* ---- config.json ---- */

pc_status pc_hf_json(json_t **out, const char *dir, const char *name)
{
    char path[PATH_MAX], *text = NULL;
    size_t size = 0;
    json_error_t e;
    *out = NULL;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return pc_fail(PC_ERR_INPUT, "path is too long: '%.200s'", dir);
    if (!pc_file_exists(path)) return PC_OK;
    pc_status st = pc_file_read(&text, &size, path, JSON_FILE_MAX);
    if (st) return st;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e);
    free(text);
    if (!*out)
        return pc_fail(PC_ERR_FORMAT, "'%s' line %d, column %d: %s", path, e.line, e.column,
                       e.text);
    return PC_OK;
}

static pc_status refuse_quantised(const json_t *json)
{
    const json_t *q = json_object_get(json, "quantization_config");
    if (!q || json_is_null(q)) return PC_OK;
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    return pc_fail(PC_ERR_FORMAT,
                   "weights quantised by '%.60s' (quantization_config) are not read; take the "
                   "unquantised model",
                   method ? method : "an unnamed method");
}

// open_clip's own file names no type.
static pc_status open_clip_json(json_t **out, const char *dir)
{
    const pc_status st = pc_hf_json(out, dir, "open_clip_config.json");
    if (st || !json_is_object(*out)) return st;
    return json_object_set_new(*out, "model_type", json_string("open_clip"))
               ? pc_fail(PC_ERR_MEMORY, "open_clip_config.json")
               : PC_OK;
}

pc_status pc_hf_config_open(pc_hf_config *out, const char *dir)
{
    *out = (pc_hf_config){0};
    pc_status st = pc_hf_json(&out->json, dir, "config.json");
    if (!st && !out->json) st = open_clip_json(&out->json, dir);
    if (!st && !out->json) st = pc_fail(PC_ERR_INPUT, "no config.json");
    if (!st) st = refuse_quantised(out->json);
    if (!st) st = pc_family_from_config(&out->family, &out->model, out->json);
    if (st) pc_hf_config_close(out);
    return pc_context(st, "'%s'", dir);
}

void pc_hf_config_close(pc_hf_config *c)
{
    json_decref(c->json);
    *c = (pc_hf_config){0};
}

/* ---- matching ---- */

static bool same_shape(const pc_alias *a, const pc_st_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    if (n == 1 && pc_alias_numel(a) == 1) return true; // () and (1) are both in use
    if (a->rank != e->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != e->dim[i]) return false;
    return true;
}

static bool ignored(const pc_family *f, const char *name)
{
    const size_t n = strlen(name);
    for (const char *const *end = f->ignored; end && *end; end++) {
        const size_t k = strlen(*end);
        if (k <= n && !strcmp(name + n - k, *end)) return true;
    }
    return false;
}

// The entries of one name that stand at or before alias i (a tensor split over two of ours has two).
static bool seen_before(const pc_aliases *a, int i)
{
    return i > 0 && !strcmp(a->list[i - 1].theirs, a->list[i].theirs);
}

static pc_status compare(pc_hf_match *m, const pc_family *f, const pc_safetensors *s)
{
    const int64_t n = m->aliases.count, entries = pc_safetensors_count(s);
    m->missing = calloc((size_t)n + 1, sizeof *m->missing);
    m->misshapen = calloc((size_t)n + 1, sizeof *m->misshapen);
    m->surplus = calloc((size_t)entries + 1, sizeof *m->surplus);
    bool *used = calloc((size_t)entries + 1, sizeof *used);
    if (!m->missing || !m->misshapen || !m->surplus || !used) {
        free(used);
        return pc_fail(PC_ERR_MEMORY, "table of %lld tensors", (long long)entries);
    }
    for (int i = 0; i < n; i++) {
        const pc_alias *a = &m->aliases.list[i];
        const pc_st_entry *e = pc_safetensors_find(s, a->theirs);
        if (e) used[e - pc_safetensors_at(s, 0)] = true;
        if (seen_before(&m->aliases, i)) continue;
        if (!e)
            m->missing[m->missing_count++] = i;
        else if (!same_shape(a, e))
            m->misshapen[m->misshapen_count++] = i;
    }
    for (int64_t i = 0; i < entries; i++)
        if (!used[i] && !ignored(f, pc_safetensors_at(s, i)->name))
            m->surplus[m->surplus_count++] = i;
    free(used);
    return PC_OK;
}

pc_status pc_hf_match_open(pc_hf_match *out, const pc_family *f, const pc_model_config *c,
                           const pc_safetensors *s)
{
    *out = (pc_hf_match){0};
    for (int v = 0; v < f->variants; v++) {
        pc_hf_match m = {.variant = v};
        pc_status st = f->aliases(&m.aliases, c, v);
        if (!st) st = compare(&m, f, s);
        if (st) {
            pc_hf_match_close(&m);
            pc_hf_match_close(out);
            return pc_context(st, "family '%s'", f->name);
        }
        if (v == 0 || m.missing_count < out->missing_count) {
            pc_hf_match_close(out);
            *out = m;
        } else {
            pc_hf_match_close(&m);
        }
    }
    return PC_OK;
}

void pc_hf_match_close(pc_hf_match *m)
{
    pc_aliases_close(&m->aliases);
    free(m->missing);
    free(m->misshapen);
    free(m->surplus);
    *m = (pc_hf_match){0};
}

static const char *shape_text(char *buf, size_t size, int rank, const int64_t *dim)
{
    size_t n = (size_t)snprintf(buf, size, "(");
    for (int i = 0; i < rank && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%lld", i ? "," : "", (long long)dim[i]);
    if (n < size) snprintf(buf + n, size - n, ")");
    return buf;
}

// "2 tensors missing: 'a', 'b'" into buf behind what is there; `name` gives the i-th.
static void name_some(char *buf, size_t size, int64_t count, const char *what, const int64_t *index,
                      const pc_hf_match *m, const pc_safetensors *s)
{
    size_t n = strlen(buf);
    if (!count) return;
    n += (size_t)snprintf(buf + n, size - n, "%s%lld tensor%s %s: ", n ? "; " : "",
                          (long long)count, count > 1 ? "s" : "", what);
    for (int64_t i = 0; i < count && i < NAMED_MAX && n < size; i++) {
        const char *name =
            s ? pc_safetensors_at(s, index[i])->name : m->aliases.list[index[i]].theirs;
        n += (size_t)snprintf(buf + n, size - n, "%s'%.100s'", i ? ", " : "", name);
    }
    if (count > NAMED_MAX && n < size) snprintf(buf + n, size - n, ", ...");
}

pc_status pc_hf_match_status(const pc_hf_match *m, const pc_safetensors *s)
{
    char text[1800] = "";
    if (m->misshapen_count) {
        const pc_alias *a = &m->aliases.list[m->misshapen[0]];
        const pc_st_entry *e = pc_safetensors_find(s, a->theirs);
        char has[96], wants[96];
        return pc_fail(PC_ERR_FORMAT, "tensor '%s': the file has %s, config.json asks for %s%s",
                       a->theirs, shape_text(has, sizeof has, e->rank, e->dim),
                       shape_text(wants, sizeof wants, a->rank, a->dim),
                       m->misshapen_count > 1 ? " (and others)" : "");
    }
    name_some(text, sizeof text, m->missing_count, "missing", m->missing, m, NULL);
    name_some(text, sizeof text, m->surplus_count, "not known", m->surplus, m, s);
    return text[0] ? pc_fail(PC_ERR_FORMAT, "%s", text) : PC_OK;
}

/* ---- loading ---- */

// One run of numbers, which may be a part of the tensor.
pc_status pc_hf_read(float *out, const pc_alias *a, const pc_st_entry *e)
{
    pc_st_entry part = *e;
    const size_t size = e->bytes / (size_t)pc_alias_numel(a);
    part.data = (const char *)e->data + (size_t)a->offset * size;
    part.bytes = (size_t)a->count * size;
    part.rank = 1;
    part.dim[0] = a->count;
    if (!a->transposed) return pc_st_floats(out, &part, a->count);
    float *theirs = malloc((size_t)a->count * sizeof *theirs);
    if (!theirs) return pc_fail(PC_ERR_MEMORY, "tensor '%s'", a->theirs);
    const pc_status st = pc_st_floats(theirs, &part, a->count);
    if (!st) pc_alias_to_ours(out, a, theirs);
    free(theirs);
    return st;
}

pc_status pc_hf_load(pc_params *params, const pc_hf_match *m, const pc_safetensors *s)
{
    pc_status st = pc_hf_match_status(m, s);
    int64_t *filled = calloc((size_t)params->count + 1, sizeof *filled);
    if (!filled) return pc_fail(PC_ERR_MEMORY, "table of %d parameters", params->count);
    for (int i = 0; i < m->aliases.count && !st; i++) {
        const pc_alias *a = &m->aliases.list[i];
        const pc_param *p = pc_params_find(params, a->ours);
        PC_ASSERT(p, "the family's list names '%s', the model has no such parameter", a->ours);
        st = pc_hf_read(pc_alias_data(a, p->weight->w), a, pc_safetensors_find(s, a->theirs));
        filled[p - params->list] += a->count;
    }
    for (int i = 0; i < params->count && !st; i++)
        if (filled[i] != pc_numel(params->list[i].weight->w))
            st = pc_fail(PC_ERR_FORMAT, "parameter '%s': %lld of %lld numbers are in the files",
                         params->list[i].name, (long long)filled[i],
                         (long long)pc_numel(params->list[i].weight->w));
    free(filled);
    return st;
}

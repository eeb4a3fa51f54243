/*
 * peft_write.c - adapters of ours as PEFT keeps them (peft.h).
 */
#include "checkpoints/peft.h"

#include "model/core/file.h"
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct writing {
    const pc_peft_config *config;
    pc_aliases aliases; // of the layout that is written
    bool *adapted;      // per alias
    pc_st_out *tensors;
    int64_t count;
    json_t *ranks, *alphas; // rank_pattern, alpha_pattern
} writing;

static bool is_module(const pc_alias *a)
{
    const size_t n = strlen(a->theirs);
    return a->rank == 2 && a->offset == 0 && a->count == pc_alias_numel(a) && n > 7 &&
           !strcmp(a->theirs + n - 7, ".weight");
}

static int module_length(const pc_alias *a)
{
    return (int)strlen(a->theirs) - 7;
}

static pc_status put_tensor(writing *w, const pc_alias *a, const char *half, const float *data,
                            int64_t d0, int64_t d1)
{
    pc_st_out *t = &w->tensors[w->count++];
    *t = (pc_st_out){.dtype = PC_F32, .rank = 2, .dim = {d0, d1}, .data = data};
    const int n = snprintf(t->name, sizeof t->name, "base_model.model.%.*s.%s.weight",
                           module_length(a), a->theirs, half);
    return n < (int)sizeof t->name ? PC_OK
                                   : pc_fail(PC_ERR_INPUT, "name of '%s' is too long", a->theirs);
}

// A key of rank_pattern is a regular expression for the end of a path; a dot in it fits a dot.
static pc_status put_pattern(json_t *patterns, const pc_alias *a, json_t *value)
{
    char module[192];
    snprintf(module, sizeof module, "%.*s", module_length(a), a->theirs);
    return json_object_set_new(patterns, module, value) ? pc_fail(PC_ERR_MEMORY, "patterns")
                                                        : PC_OK;
}

// One of ours to each of their linears that lies in its rows.
static pc_status put_adapter(writing *w, const pc_peft_out *x)
{
    int64_t rows = 0;
    pc_status st = PC_OK;
    for (int i = 0; i < w->aliases.count && !st; i++) {
        const pc_alias *a = &w->aliases.list[i];
        if (strcmp(a->ours, x->ours) != 0 || !is_module(a) || a->dim[1] != x->I ||
            a->row < x->row || a->row + a->dim[0] > x->row + x->O)
            continue;
        w->adapted[i] = true;
        rows += a->dim[0];
        if ((st = put_tensor(w, a, "lora_A", x->A, x->r, x->I)) ||
            (st = put_tensor(w, a, "lora_B", x->B + (a->row - x->row) * x->r, a->dim[0], x->r)))
            break;
        if (x->r != w->config->r) st = put_pattern(w->ranks, a, json_integer(x->r));
        if (!st && x->alpha != 0.0 && x->alpha != w->config->alpha)
            st = put_pattern(w->alphas, a, json_real(x->alpha));
    }
    if (!st && rows != x->O)
        st = pc_fail(PC_ERR_INPUT,
                     "adapter of '%s', rows %lld to %lld: %lld of them are linears of the family",
                     x->ours, (long long)x->row, (long long)(x->row + x->O), (long long)rows);
    return st;
}

static int64_t parts_of(const writing *w, const pc_peft_out *list, int64_t n)
{
    int64_t parts = 0;
    for (int64_t k = 0; k < n; k++)
        for (int i = 0; i < w->aliases.count; i++)
            parts += !strcmp(w->aliases.list[i].ours, list[k].ours);
    return parts;
}

/* ---- target_modules ---- */

static const char *ending(char *buf, size_t size, const pc_alias *a)
{
    snprintf(buf, size, "%.*s", module_length(a), a->theirs);
    const char *dot = strrchr(buf, '.');
    return dot ? dot + 1 : buf;
}

// An ending says exactly what is adapted when every linear that has it is.
static bool endings_do(const writing *w)
{
    char a[192], b[192];
    for (int i = 0; i < w->aliases.count; i++) {
        if (!w->adapted[i]) continue;
        const char *end = ending(a, sizeof a, &w->aliases.list[i]);
        if (isdigit((unsigned char)*end)) return false; // "2" of a sequence is "2" of the layers
        for (int k = 0; k < w->aliases.count; k++)
            if (!w->adapted[k] && is_module(&w->aliases.list[k]) &&
                !strcmp(end, ending(b, sizeof b, &w->aliases.list[k])))
                return false;
    }
    return true;
}

static bool has_text(const json_t *array, const char *text)
{
    for (size_t i = 0; i < json_array_size(array); i++)
        if (!strcmp(json_string_value(json_array_get(array, i)), text)) return true;
    return false;
}

static json_t *target_modules(const writing *w)
{
    json_t *targets = json_array();
    const bool endings = endings_do(w);
    char buf[192];
    for (int i = 0; i < w->aliases.count; i++) {
        if (!w->adapted[i]) continue;
        const char *end = ending(buf, sizeof buf, &w->aliases.list[i]);
        const char *text = endings ? end : buf;
        if (!has_text(targets, text)) json_array_append_new(targets, json_string(text));
    }
    return targets;
}

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

static pc_status write_config(const writing *w, const char *dir)
{
    const pc_peft_config *c = w->config;
    char path[PATH_MAX];
    json_t *json = json_pack(
        "{s:n, s:o, s:s, s:b, s:b, s:b, s:n, s:n, s:f, s:f, s:n, s:s, s:I, s:n, s:b, s:b}",
        "auto_mapping", "base_model_name_or_path", text_or_null(c->base), "bias", "none",
        "fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1, "layers_pattern",
        "layers_to_transform", "lora_alpha", c->alpha, "lora_dropout", c->dropout,
        "modules_to_save", "peft_type", "LORA", "r", (json_int_t)c->r, "revision", "use_dora", 0,
        "use_rslora", (int)c->rslora);
    if (!json || json_object_set(json, "rank_pattern", w->ranks) ||
        json_object_set(json, "alpha_pattern", w->alphas) ||
        json_object_set_new(json, "task_type", text_or_null(c->task_type)) ||
        json_object_set_new(json, "target_modules", target_modules(w))) {
        json_decref(json);
        return pc_fail(PC_ERR_INPUT, "adapter_config.json: a text is not valid UTF-8");
    }
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(json);
    if (!text) return pc_fail(PC_ERR_MEMORY, "adapter_config.json");
    pc_status st = PC_OK;
    if (snprintf(path, sizeof path, "%s/adapter_config.json", dir) >= (int)sizeof path)
        st = pc_fail(PC_ERR_INPUT, "path is too long");
    if (!st) st = pc_file_write(path, text, strlen(text));
    free(text);
    return st;
}

static pc_status write_both(writing *w, const char *dir, const pc_peft_out *list, int64_t n)
{
    char path[PATH_MAX];
    pc_status st = PC_OK;
    w->adapted = calloc((size_t)w->aliases.count + 1, sizeof *w->adapted);
    w->tensors = calloc((size_t)(2 * parts_of(w, list, n)) + 1, sizeof *w->tensors);
    w->ranks = json_object();
    w->alphas = json_object();
    if (!w->adapted || !w->tensors || !w->ranks || !w->alphas)
        return pc_fail(PC_ERR_MEMORY, "list of %lld adapters", (long long)n);
    for (int64_t i = 0; i < n && !st; i++) st = put_adapter(w, &list[i]);
    if (!st) st = pc_make_dirs(dir);
    if (!st && snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir) >= (int)sizeof path)
        st = pc_fail(PC_ERR_INPUT, "path is too long");
    if (!st) st = pc_safetensors_write(path, w->tensors, w->count, NULL);
    if (!st) st = write_config(w, dir);
    return st;
}

pc_status pc_peft_write(const char *dir, const pc_peft_config *config, const pc_family *f,
                        const pc_model_config *c, int variant, const pc_peft_out *list, int64_t n)
{
    writing w = {.config = config};
    PC_ASSERT(variant < f->variants, "layout %d of %d", variant, f->variants);
    pc_status st = f->aliases(&w.aliases, c, variant < 0 ? f->modules : variant);
    if (!st) st = write_both(&w, dir, list, n);
    pc_aliases_close(&w.aliases);
    free(w.adapted);
    free(w.tensors);
    json_decref(w.ranks);
    json_decref(w.alphas);
    return pc_context(st, "adapter '%s'", dir);
}

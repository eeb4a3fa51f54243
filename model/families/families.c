/*
 * families.c - the table of families, the alias list, and reading config.json's keys.
 */
#include "model/families/parts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const pc_family *const families[] = {
    &pc_family_clip,
    &pc_family_siglip,
    &pc_family_open_clip,
    &pc_family_llava,
    &pc_family_llava_original,
    &pc_family_llava_mistral,
    &pc_family_llava_qwen,
    &pc_family_llava_next,
    &pc_family_llava_onevision,
    &pc_family_llama,
    &pc_family_mistral,
    &pc_family_qwen2,
    &pc_family_qwen2_vl,
    &pc_family_qwen,
    &pc_family_deepseek_vl,
    &pc_family_deepseek_vl_hybrid,
    &pc_family_deepseek_vl_original,
};
enum { FAMILIES = sizeof families / sizeof families[0] };

const pc_family *pc_family_find(const char *model_type)
{
    for (int i = 0; i < FAMILIES; i++)
        if (!strcmp(families[i]->model_type, model_type)) return families[i];
    return NULL;
}

const char *const *pc_family_names(int *count)
{
    static const char *names[FAMILIES];

    for (int i = 0; i < FAMILIES; i++) names[i] = families[i]->model_type;
    *count = FAMILIES;
    return names;
}

pc_status pc_family_from_config(const pc_family **family, pc_model_config *out, const json_t *json)
{
    if (!json_is_object(json)) return pc_fail(PC_ERR_FORMAT, "config.json: not a JSON object");
    const json_t *type = json_object_get(json, "model_type");
    if (!json_is_string(type))
        return pc_fail(PC_ERR_FORMAT, "key 'model_type': %s; expected a string such as \"llava\"",
                       type ? "not a string" : "missing");

    const char *name = json_string_value(type);
    const pc_family *f = pc_family_find(name);
    if (!f) {
        int n;
        const char *const *names = pc_family_names(&n);
        const char *near = pc_nearest(name, names, n);
        char known[256] = "";
        for (int i = 0; i < n; i++) {
            const size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", names[i]);
        }
        return pc_fail(PC_ERR_FORMAT,
                       "model_type \"%s\" is not a family known here%s%s%s (known: %s)", name,
                       near ? "; did you mean \"" : "", near ? near : "", near ? "\"" : "", known);
    }
    // The original LLaVA code wrote "llava" too, with flat keys.
    if (f == &pc_family_llava && json_object_get(json, "mm_vision_tower"))
        f = &pc_family_llava_original;

    memset(out, 0, sizeof *out);
    const pc_status st = f->config(out, json);
    if (st) return pc_context(st, "config.json of family %s", f->name);
    *family = f;
    return PC_OK;
}

// Aliases.

static pc_alias *alias_new(pc_aliases *a)
{
    if (a->status) return NULL;
    if (a->count == a->capacity) {
        const int capacity = a->capacity ? 2 * a->capacity : 64;
        pc_alias *list = realloc(a->list, (size_t)capacity * sizeof *list);
        if (!list) {
            a->status = pc_fail(PC_ERR_MEMORY, "list of %d tensor names", capacity);
            return NULL;
        }
        a->list = list;
        a->capacity = capacity;
    }
    pc_alias *x = &a->list[a->count++];
    memset(x, 0, sizeof *x);
    return x;
}

static void alias_fill(pc_alias *x, const char *ours, int64_t row, int64_t offset, int64_t count,
                       int rank, const int64_t *dim, const char *fmt, va_list args)
{
    const int o = snprintf(x->ours, sizeof x->ours, "%s", ours);
    const int t = vsnprintf(x->theirs, sizeof x->theirs, fmt, args);
    PC_ASSERT(o > 0 && o < (int)sizeof x->ours && t > 0 && t < (int)sizeof x->theirs,
              "names of %d and %d characters do not fit an alias", o, t);
    PC_ASSERT(rank >= 0 && rank <= PC_MAX_RANK + 1, "rank %d of '%s'", rank, x->theirs);
    x->rank = rank;
    for (int i = 0; i < rank; i++) x->dim[i] = dim[i];
    x->row = row;
    x->offset = offset;
    x->count = count < 0 ? pc_alias_numel(x) : count;
}

void pc_alias_add(pc_aliases *a, const char *ours, int64_t row, int rank, const int64_t *dim,
                  const char *fmt, ...)
{
    pc_alias *x = alias_new(a);
    if (!x) return;
    va_list args;
    va_start(args, fmt);
    alias_fill(x, ours, row, 0, -1, rank, dim, fmt, args);
    va_end(args);
}

void pc_alias_add_part(pc_aliases *a, const char *ours, int64_t row, int64_t offset, int64_t count,
                       int rank, const int64_t *dim, const char *fmt, ...)
{
    pc_alias *x = alias_new(a);
    if (!x) return;
    va_list args;
    va_start(args, fmt);
    alias_fill(x, ours, row, offset, count, rank, dim, fmt, args);
    va_end(args);
}

void pc_alias_add_transposed(pc_aliases *a, const char *ours, int64_t O, int64_t I, const char *fmt,
                             ...)
{
    const int64_t dim[2] = {I, O};
    pc_alias *x = alias_new(a);
    if (!x) return;
    va_list args;
    va_start(args, fmt);
    alias_fill(x, ours, 0, 0, -1, 2, dim, fmt, args);
    va_end(args);
    x->transposed = true;
}

static void transpose(float *out, const float *in, int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < columns; k++) out[k * rows + r] = in[r * columns + k];
}

void pc_alias_to_theirs(float *theirs, const pc_alias *a, const float *ours)
{
    if (a->transposed)
        transpose(theirs, ours, a->dim[1], a->dim[0]);
    else
        memcpy(theirs, ours, (size_t)a->count * sizeof *ours);
}

void pc_alias_to_ours(float *ours, const pc_alias *a, const float *theirs)
{
    if (a->transposed)
        transpose(ours, theirs, a->dim[0], a->dim[1]);
    else
        memcpy(ours, theirs, (size_t)a->count * sizeof *ours);
}

void pc_aliases_close(pc_aliases *a)
{
    free(a->list);
    memset(a, 0, sizeof *a);
}

int64_t pc_alias_numel(const pc_alias *a)
{
    int64_t n = 1;
    for (int i = 0; i < a->rank; i++) n *= a->dim[i];
    return n;
}

float *pc_alias_data(const pc_alias *a, pc_tensor ours)
{
    const int64_t begin = a->row * pc_row_len(ours);
    PC_ASSERT(ours.dtype == PC_F32 && pc_is_dense(ours), "'%s' is not dense f32", a->ours);
    PC_ASSERT(begin + a->count <= pc_numel(ours), "'%s' ends at %lld, '%s' has %lld numbers",
              a->theirs, (long long)(begin + a->count), a->ours, (long long)pc_numel(ours));
    return (float *)ours.data + begin;
}

// Keys of config.json. A key that is absent or null takes the default of its class.

static pc_status wrong(const char *key, const json_t *v, const char *expected)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    const pc_status st =
        pc_fail(PC_ERR_FORMAT, "key '%s': %.60s; expected %s", key, text ? text : "?", expected);
    free(text);
    return st;
}

pc_status pc_json_int(int64_t *out, const json_t *o, const char *key, int64_t def, int64_t min,
                      int64_t max)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        *out = def;
        return PC_OK;
    }
    char expected[80];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)min,
             (long long)max);
    if (!json_is_integer(v)) return wrong(key, v, expected);
    const int64_t x = json_integer_value(v);
    if (x < min || x > max) return wrong(key, v, expected);
    *out = x;
    return PC_OK;
}

pc_status pc_json_real(double *out, const json_t *o, const char *key, double def)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        *out = def;
        return PC_OK;
    }
    if (!json_is_number(v)) return wrong(key, v, "a number");
    const double x = json_number_value(v);
    if (!isfinite(x)) return wrong(key, v, "a finite number");
    *out = x;
    return PC_OK;
}

pc_status pc_json_bool(bool *out, const json_t *o, const char *key, bool def)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        *out = def;
        return PC_OK;
    }
    if (!json_is_boolean(v)) return wrong(key, v, "true or false");
    *out = json_is_true(v);
    return PC_OK;
}

pc_status pc_json_act(pc_act *out, const json_t *o, const char *key, const char *def)
{
    static const struct {
        const char *name;
        pc_act act;
    } known[] = {
        {"gelu", PC_ACT_GELU},          {"gelu_pytorch_tanh", PC_ACT_GELU_TANH},
        {"gelu_new", PC_ACT_GELU_TANH}, {"quick_gelu", PC_ACT_QUICK},
        {"silu", PC_ACT_SILU},          {"swish", PC_ACT_SILU},
        {"relu", PC_ACT_RELU},
    };
    const json_t *v = json_object_get(o, key);
    if (v && !json_is_null(v) && !json_is_string(v)) return wrong(key, v, "an activation's name");
    const char *name = v && json_is_string(v) ? json_string_value(v) : def;

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(known[i].name, name)) {
            *out = known[i].act;
            return PC_OK;
        }
    return pc_fail(
        PC_ERR_FORMAT,
        "key '%s': activation \"%s\"; expected gelu, gelu_pytorch_tanh, quick_gelu, silu or relu",
        key, name);
}

pc_status pc_json_section(const json_t **out, const json_t *json, const char *key)
{
    char old[64];
    snprintf(old, sizeof old, "%s_dict", key);
    const json_t *v = json_object_get(json, old);
    if (!v || json_is_null(v)) v = json_object_get(json, key);
    if (v && json_is_null(v)) v = NULL;
    if (v && !json_is_object(v)) return wrong(key, v, "an object");
    *out = v;
    return PC_OK;
}

/*
 * peft.c - reading adapters and merging them (peft.h). Writing: peft_write.c.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "checkpoints/peft.h"

#include "checkpoints/hf.h"
#include "model/core/file.h"
#include <limits.h>
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX    "base_model.model."
#define RANK_MAX  (1 << 16)
#define MATCH_MAX 100000u // steps of a pattern of the file's

/* ---- adapter_config.json ---- */

// Keys that are read, and keys that change nothing of a finished adapter.
static const char *const HARMLESS[] = {"peft_type",
                                       "task_type",
                                       "base_model_name_or_path",
                                       "r",
                                       "lora_alpha",
                                       "lora_dropout",
                                       "bias",
                                       "target_modules",
                                       "exclude_modules",
                                       "use_rslora",
                                       "rank_pattern",
                                       "alpha_pattern",
                                       "init_lora_weights",
                                       "layers_to_transform",
                                       "layers_pattern",
                                       "inference_mode",
                                       "auto_mapping",
                                       "revision",
                                       "peft_version",
                                       "megatron_core",
                                       "qalora_group_size",
                                       "runtime_config",
                                       "ensure_weight_tying",
                                       NULL};

static bool harmless(const char *key)
{
    for (const char *const *k = HARMLESS; *k; k++)
        if (!strcmp(*k, key)) return true;
    return false;
}

static bool says_nothing(const json_t *v)
{
    return json_is_null(v) || json_is_false(v) || (json_is_array(v) && !json_array_size(v)) ||
           (json_is_object(v) && !json_object_size(v));
}

static pc_status refuse(const char *key, const json_t *v, const char *why)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    const pc_status st =
        pc_fail(PC_ERR_FORMAT, "key '%.60s': %.80s; %s", key, text ? text : "?", why);
    free(text);
    return st;
}

// Whatever is not known and not empty might change the numbers.
static pc_status check_keys(const json_t *json)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)json, key, v)
    {
        if (!harmless(key) && !says_nothing(v))
            return refuse(key, v, "adapters that use it are not read");
    }
    const json_t *type = json_object_get(json, "peft_type"), *bias = json_object_get(json, "bias");
    if (!json_is_string(type) || strcmp(json_string_value(type), "LORA") != 0)
        return type ? refuse("peft_type", type, "expected \"LORA\"")
                    : pc_fail(PC_ERR_FORMAT, "key 'peft_type': missing; expected \"LORA\"");
    if (bias && !json_is_null(bias) &&
        (!json_is_string(bias) || strcmp(json_string_value(bias), "none") != 0))
        return refuse("bias", bias, "expected \"none\": trained biases are not read");
    const json_t *init = json_object_get(json, "init_lora_weights");
    const char *how = json_string_value(init);
    if (how && strcmp(how, "gaussian") != 0 && strcmp(how, "orthogonal") != 0 &&
        strcmp(how, "eva") != 0)
        return refuse("init_lora_weights", init,
                      "such a start changes the base weights too; save it converted");
    return PC_OK;
}

static pc_status copy_text(char **out, const json_t *json, const char *key)
{
    const json_t *v = json_object_get(json, key);
    *out = NULL;
    if (!v || json_is_null(v)) return PC_OK;
    if (!json_is_string(v)) return refuse(key, v, "expected a string");
    *out = strdup(json_string_value(v));
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "key '%s'", key);
}

static pc_status read_config(pc_peft_config *c, const json_t *json)
{
    pc_status st;
    if (!json_is_object(json)) return pc_fail(PC_ERR_FORMAT, "not a JSON object");
    if ((st = check_keys(json)) || (st = pc_json_int(&c->r, json, "r", 8, 1, RANK_MAX)) ||
        (st = pc_json_real(&c->alpha, json, "lora_alpha", 8.0)) ||
        (st = pc_json_real(&c->dropout, json, "lora_dropout", 0.0)) ||
        (st = pc_json_bool(&c->rslora, json, "use_rslora", false)) ||
        (st = copy_text(&c->base, json, "base_model_name_or_path")) ||
        (st = copy_text(&c->task_type, json, "task_type")))
        return st;
    return PC_OK;
}

// PEFT's rule for the keys of rank_pattern and alpha_pattern: `(.*\.)?(KEY)$` from the start of the module's path.
static pc_status pattern_fits(bool *fits, const char *key, const char *module)
{
    char text[512];
    int error;
    PCRE2_SIZE where;
    *fits = false;
    if (snprintf(text, sizeof text, "^(.*\\.)?(%s)$", key) >= (int)sizeof text)
        return pc_fail(PC_ERR_FORMAT, "a pattern of %zu characters", strlen(key));
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, &error, &where, NULL);
    if (!code) return pc_fail(PC_ERR_FORMAT, "'%.100s' is no regular expression", key);
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int found = PCRE2_ERROR_NOMEMORY;
    if (data && limits) {
        pcre2_set_match_limit(limits, MATCH_MAX);
        pcre2_set_depth_limit(limits, MATCH_MAX);
        pcre2_set_heap_limit(limits, 1 << 16);
        found = pcre2_match(code, (PCRE2_SPTR)module, strlen(module), 0, 0, data, limits);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
        return pc_fail(PC_ERR_FORMAT, "pattern '%.100s' takes too long", key);
    *fits = found >= 0;
    return PC_OK;
}

// The number of the first pattern that fits, or `value` as it is.
static pc_status from_pattern(double *value, const json_t *json, const char *key,
                              const char *module)
{
    const json_t *patterns = json_object_get(json, key);
    const char *pattern;
    json_t *v;
    if (!patterns || json_is_null(patterns)) return PC_OK;
    if (!json_is_object(patterns)) return refuse(key, patterns, "expected an object");
    json_object_foreach((json_t *)(uintptr_t)patterns, pattern, v)
    {
        bool fits;
        const pc_status st = pattern_fits(&fits, pattern, module);
        if (st) return pc_context(st, "key '%s'", key);
        if (!fits) continue;
        if (!json_is_number(v)) return refuse(key, v, "expected a number");
        *value = json_number_value(v);
        return PC_OK;
    }
    return PC_OK;
}

/* ---- tensors ---- */

static pc_peft_pair *pair_of(pc_peft *p, const char *module, size_t length)
{
    // Names come sorted, so both halves of a pair stand beside each other.
    pc_peft_pair *last = p->count ? &p->list[p->count - 1] : NULL;
    if (last && strlen(last->module) == length && !memcmp(last->module, module, length))
        return last;
    pc_peft_pair *x = &p->list[p->count++];
    memset(x, 0, sizeof *x);
    memcpy(x->module, module, length);
    return x;
}

static pc_status add_tensor(pc_peft *p, const pc_st_entry *e)
{
    static const char *const ends[2] = {".lora_A.weight", ".lora_B.weight"};
    const size_t n = strlen(e->name), k = strlen(ends[0]), before = strlen(PREFIX);
    const int half = n > k && !strcmp(e->name + n - k, ends[0])   ? 0
                     : n > k && !strcmp(e->name + n - k, ends[1]) ? 1
                                                                  : -1;
    if (half < 0 || n <= before + k || strncmp(e->name, PREFIX, before) != 0)
        return pc_fail(PC_ERR_FORMAT, "expected %s<module>.lora_A.weight or .lora_B.weight",
                       PREFIX);
    if (n - before - k >= sizeof p->list->module)
        return pc_fail(PC_ERR_FORMAT, "a module path of %zu characters", n - before - k);
    if (e->rank != 2)
        return pc_fail(PC_ERR_FORMAT, "%d dimensions; adapters of matrices are read", e->rank);
    pc_peft_pair *x = pair_of(p, e->name + before, n - before - k);
    if (half)
        x->B = e;
    else
        x->A = e;
    return PC_OK;
}

static pc_status finish_pair(pc_peft *p, pc_peft_pair *x, const json_t *json)
{
    if (!x->A || !x->B) return pc_fail(PC_ERR_FORMAT, "no tensor lora_%c.weight", x->A ? 'B' : 'A');
    x->r = x->A->dim[0];
    x->I = x->A->dim[1];
    x->O = x->B->dim[0];
    double r = (double)p->config.r;
    x->alpha = p->config.alpha;
    pc_status st;
    if ((st = from_pattern(&r, json, "rank_pattern", x->module)) ||
        (st = from_pattern(&x->alpha, json, "alpha_pattern", x->module)))
        return st;
    if (x->r < 1 || x->B->dim[1] != x->r || (double)x->r != r)
        return pc_fail(PC_ERR_FORMAT, "lora_A is (%lld,%lld), lora_B (%lld,%lld), the rank %g",
                       (long long)x->r, (long long)x->I, (long long)x->O, (long long)x->B->dim[1],
                       r);
    x->scale = x->alpha / (p->config.rslora ? sqrt(r) : r);
    if (!isfinite(x->scale)) return pc_fail(PC_ERR_FORMAT, "its scale is not finite");
    return PC_OK;
}

static pc_status read_tensors(pc_peft *p, const json_t *json)
{
    const int64_t n = pc_safetensors_count(p->file);
    pc_status st = PC_OK;
    p->list = calloc((size_t)n + 1, sizeof *p->list);
    if (!p->list) return pc_fail(PC_ERR_MEMORY, "list of %lld tensors", (long long)n);
    for (int64_t i = 0; i < n && !st; i++) {
        const pc_st_entry *e = pc_safetensors_at(p->file, i);
        st = pc_context(add_tensor(p, e), "tensor '%.200s'", e->name);
    }
    for (int64_t i = 0; i < p->count && !st; i++)
        st = pc_context(finish_pair(p, &p->list[i], json), "module '%s'", p->list[i].module);
    if (!st && !p->count) st = pc_fail(PC_ERR_FORMAT, "no adapters in it");
    return st;
}

bool pc_peft_is_dir(const char *dir)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/adapter_config.json", dir) < (int)sizeof path &&
           pc_file_exists(path);
}

static pc_status open_weights(pc_safetensors **out, const char *dir)
{
    static const char *const names[] = {"adapter_model.safetensors", "adapter_model.bin"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (snprintf(path, sizeof path, "%s/%s", dir, names[i]) >= (int)sizeof path)
            return pc_fail(PC_ERR_INPUT, "path is too long");
        if (pc_file_exists(path)) return pc_safetensors_open(out, path);
    }
    return pc_fail(PC_ERR_INPUT, "no %s", names[0]);
}

pc_status pc_peft_open(pc_peft *out, const char *dir)
{
    json_t *json = NULL;
    *out = (pc_peft){0};
    pc_status st = pc_hf_json(&json, dir, "adapter_config.json");
    if (!st && !json) st = pc_fail(PC_ERR_INPUT, "no adapter_config.json");
    if (!st) st = pc_context(read_config(&out->config, json), "adapter_config.json");
    if (!st) st = open_weights(&out->file, dir);
    if (!st) st = read_tensors(out, json);
    json_decref(json);
    if (st) pc_peft_close(out);
    return pc_context(st, "adapter '%s'", dir);
}

void pc_peft_close(pc_peft *p)
{
    free(p->config.base);
    free(p->config.task_type);
    free(p->list);
    pc_safetensors_close(p->file);
    *p = (pc_peft){0};
}

/* ---- which of ours ---- */

// Their linear of this path, in one layout; NULL: it has none.
static const pc_alias *find_module(const pc_aliases *a, const char *module)
{
    const size_t n = strlen(module);
    for (int i = 0; i < a->count; i++) {
        const pc_alias *x = &a->list[i];
        if (x->rank == 2 && x->offset == 0 && x->count == pc_alias_numel(x) &&
            !strncmp(x->theirs, module, n) && !strcmp(x->theirs + n, ".weight"))
            return x;
    }
    return NULL;
}

static pc_status take(pc_peft_pair *x, const pc_alias *a)
{
    if (a->dim[0] != x->O || a->dim[1] != x->I)
        return pc_fail(PC_ERR_FORMAT,
                       "module '%s': the adapter is for (%lld,%lld), the model has (%lld,%lld)",
                       x->module, (long long)x->O, (long long)x->I, (long long)a->dim[0],
                       (long long)a->dim[1]);
    memcpy(x->ours, a->ours, sizeof x->ours);
    x->row = a->row;
    return PC_OK;
}

pc_status pc_peft_match(pc_peft *p, const pc_family *f, const pc_model_config *c)
{
    int64_t left = p->count;
    pc_status st = PC_OK;
    for (int64_t i = 0; i < p->count; i++) p->list[i].ours[0] = '\0';
    for (int v = 0; v < f->variants && left && !st; v++) {
        pc_aliases a = {0};
        st = f->aliases(&a, c, v);
        for (int64_t i = 0; i < p->count && !st; i++) {
            pc_peft_pair *x = &p->list[i];
            const pc_alias *found = x->ours[0] ? NULL : find_module(&a, x->module);
            if (!found) continue;
            st = take(x, found);
            left--;
        }
        pc_aliases_close(&a);
    }
    for (int64_t i = 0; i < p->count && !st; i++)
        if (!p->list[i].ours[0])
            st = pc_fail(PC_ERR_FORMAT,
                         "module '%s': a model of family %s has no such linear (%lld of %lld "
                         "modules fit)",
                         p->list[i].module, f->name, (long long)(p->count - left),
                         (long long)p->count);
    return pc_context(st, "adapter");
}

/* ---- merging ---- */

static pc_status floats(float **out, const pc_st_entry *e)
{
    const int64_t n = e->dim[0] * e->dim[1];
    *out = malloc((size_t)(n ? n : 1) * sizeof **out);
    if (!*out) return pc_fail(PC_ERR_MEMORY, "tensor '%.200s'", e->name);
    return pc_st_floats(*out, e, n);
}

// Rows of W: w[o] += s sum_k B[o,k] A[k].
static pc_status merge_pair(const pc_peft_pair *x, pc_tensor w)
{
    float *A = NULL, *B = NULL, *sum = malloc((size_t)(x->I ? x->I : 1) * sizeof *sum);
    pc_status st = sum ? PC_OK : pc_fail(PC_ERR_MEMORY, "a row of %lld", (long long)x->I);
    if (st || (st = floats(&A, x->A)) || (st = floats(&B, x->B))) goto out;
    for (int64_t o = 0; o < x->O; o++) {
        float *to = pc_f32(w, x->row + o);
        memset(sum, 0, (size_t)x->I * sizeof *sum);
        for (int64_t k = 0; k < x->r; k++) {
            const float b = B[o * x->r + k], *a = A + k * x->I;
            for (int64_t i = 0; i < x->I; i++) sum[i] += b * a[i];
        }
        const float s = (float)x->scale;
        for (int64_t i = 0; i < x->I; i++) to[i] += s * sum[i];
    }
out:
    free(A);
    free(B);
    free(sum);
    return st;
}

pc_status pc_peft_merge(const pc_peft *p, const char *ours, pc_tensor w)
{
    pc_status st = PC_OK;
    for (int64_t i = 0; i < p->count && !st; i++) {
        const pc_peft_pair *x = &p->list[i];
        if (strcmp(x->ours, ours) != 0) continue;
        PC_ASSERT(w.dtype == PC_F32 && pc_is_dense(w) && pc_row_len(w) == x->I &&
                      x->row + x->O <= w.dim[0],
                  "'%s' is not what '%s' was matched with", ours, x->module);
        st = merge_pair(x, w);
    }
    return st;
}

/*
 * supply.c - see supply.h.
 */
#include "checkpoints/supply.h"

#include "checkpoints/gguf_names.h"
#include "checkpoints/numbers.h"
#include "model/core/file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A run of theirs inside one of ours: numbers [begin, begin + count) are those of `entry` from `offset` on.
struct pc_supply_run {
    const char *ours;
    int64_t begin, count, offset;
    const pc_st_entry *entry; // NULL: GGUF
    int alias;                // GGUF: of its list
};
typedef struct pc_supply_run run;

static const pc_param *find_param(const pc_supply *o, const char *ours)
{
    return pc_params_find((pc_params *)(uintptr_t)&o->shape.params, ours);
}

static int64_t numel_of(const pc_param *p)
{
    int64_t n = 1;
    for (int i = 0; i < p->rank; i++) n *= p->dim[i];
    return n;
}

static int64_t row_of(const pc_param *p)
{
    int64_t n = 1;
    for (int i = 1; i < p->rank; i++) n *= p->dim[i];
    return n;
}

/* ---- opening ---- */

// Their tensors as parts of ours.
static const pc_aliases *names_of(const pc_supply *o)
{
    return o->tensors ? &o->match.aliases : &o->gguf.aliases;
}

static int by_place(const void *a, const void *b)
{
    const run *x = a, *y = b;
    const int order = strcmp(x->ours, y->ours);
    return order ? order : x->begin < y->begin ? -1 : x->begin > y->begin;
}

// Every number of ours must come from exactly one run of theirs.
static pc_status check_runs(const pc_supply *o)
{
    const int n = names_of(o)->count;
    int i = 0, params = 0;
    while (i < n) {
        const pc_param *p = find_param(o, o->runs[i].ours);
        PC_ASSERT(p, "the family names '%s', the model has no such parameter", o->runs[i].ours);
        int64_t at = 0;
        for (const char *ours = o->runs[i].ours; i < n && !strcmp(o->runs[i].ours, ours); i++) {
            if (o->runs[i].begin != at)
                return pc_fail(PC_ERR_FORMAT, "parameter '%s': number %lld comes from no tensor",
                               ours, (long long)at);
            at += o->runs[i].count;
        }
        if (at != numel_of(p))
            return pc_fail(PC_ERR_FORMAT, "parameter '%s': %lld of %lld numbers are in the files",
                           p->name, (long long)at, (long long)numel_of(p));
        params++;
    }
    if (params != o->shape.params.count)
        return pc_fail(PC_ERR_FORMAT, "%d of %d parameters are in the files", params,
                       o->shape.params.count);
    return PC_OK;
}

static pc_status make_runs(pc_supply *o)
{
    const pc_aliases *a = names_of(o);
    o->runs = calloc((size_t)a->count + 1, sizeof *o->runs);
    if (!o->runs) return pc_fail(PC_ERR_MEMORY, "list of %d tensors", a->count);
    for (int i = 0; i < a->count; i++) {
        const pc_alias *x = &a->list[i];
        const pc_param *p = find_param(o, x->ours);
        PC_ASSERT(p, "the family names '%s', the model has no such parameter", x->ours);
        // Frames of a stem lie between one another in ours: any order of them will do, they are read together.
        const int frame = o->tensors ? -1 : pc_gguf_frame(x, &o->gguf.config);
        o->runs[i] = (run){x->ours,
                           frame < 0 ? x->row * row_of(p) : frame * x->count,
                           x->count,
                           x->offset,
                           o->tensors ? pc_safetensors_find(o->tensors, x->theirs) : NULL,
                           i};
    }
    if (a->count > 1) qsort(o->runs, (size_t)a->count, sizeof *o->runs, by_place);
    return check_runs(o);
}

static pc_status open_dir(pc_supply *o, const char *dir)
{
    o->family = o->bundle.family;
    pc_status st = pc_safetensors_open_dir(&o->tensors, dir);
    if (st) return st; // names the files
    if ((st = pc_hf_match_open(&o->match, o->family, &o->shape.config, o->tensors)) ||
        (st = pc_hf_match_status(&o->match, o->tensors)) || (st = make_runs(o)))
        return pc_context(st, "'%s'", dir);
    return pc_hf_carry(&o->bundle.text, dir, o->family, &o->match, o->tensors);
}

static pc_status check_native(const pc_supply *o)
{
    for (int i = 0; i < o->shape.params.count; i++) {
        const pc_param *p = &o->shape.params.list[i];
        const pc_st_entry *e = pc_safetensors_find(o->tensors, p->name);
        if (!e) return pc_fail(PC_ERR_FORMAT, "parameter '%s' is missing", p->name);
        if (e->rank != p->rank ||
            (p->rank && memcmp(e->dim, p->dim, (size_t)p->rank * sizeof *p->dim) != 0))
            return pc_fail(PC_ERR_FORMAT, "parameter '%s' has another shape than the model's",
                           p->name);
    }
    return PC_OK;
}

static pc_status own_pair(pc_peft_pair *x, const pc_supply *o, const pc_adapter_site *s)
{
    char A[PC_NAME_MAX], B[PC_NAME_MAX];
    const pc_param *p = find_param(o, s->weight);
    if (!p || p->rank != 2 || s->row < 0 || s->rows < 1 || s->row > p->dim[0] - s->rows)
        return pc_fail(PC_ERR_FORMAT, "adapter of '%s': the model has no such matrix or rows",
                       s->weight);
    pc_adapter_names(A, B, &o->shape.params, s);
    *x = (pc_peft_pair){.r = s->r,
                        .I = p->dim[1],
                        .O = s->rows,
                        .alpha = s->alpha,
                        .scale = s->scale,
                        .row = s->row,
                        .A = pc_safetensors_find(o->tensors, A),
                        .B = pc_safetensors_find(o->tensors, B)};
    memcpy(x->module, s->module, sizeof x->module);
    memcpy(x->ours, s->weight, sizeof x->ours);
    if (!x->A || !x->B || x->A->rank != 2 || x->B->rank != 2 || x->A->dim[0] != x->r ||
        x->A->dim[1] != x->I || x->B->dim[0] != x->O || x->B->dim[1] != x->r)
        return pc_fail(PC_ERR_FORMAT, "adapter of '%s': '%s' and '%s' are missing or misshapen",
                       s->weight, A, B);
    return PC_OK;
}

// The adapters that the checkpoint was trained with, as if they came from a folder.
static pc_status own_adapters(pc_supply *o, const char *text)
{
    pc_adapter_site *sites;
    int n;
    pc_status st = pc_adapters_read_text(&sites, &n, &o->dropout, text);
    if (st || !n) {
        free(sites);
        return st;
    }
    o->adapters = calloc(1, sizeof *o->adapters);
    pc_peft_pair *list = calloc((size_t)n, sizeof *list);
    if (!o->adapters || !list) st = pc_fail(PC_ERR_MEMORY, "%d adapters", n);
    for (int i = 0; i < n && !st; i++) st = own_pair(&list[i], o, &sites[i]);
    if (st) {
        free(list);
    } else {
        o->adapters[o->adapter_count++] = (pc_peft){.list = list, .count = n};
        o->own_adapters = true;
    }
    free(sites);
    return st;
}

static pc_status open_native(pc_supply *o, const char *path)
{
    o->native = true;
    pc_status st = pc_native_map(&o->tensors, path);
    if (!st) st = check_native(o);
    if (!st && o->bundle.text.adapters) st = own_adapters(o, o->bundle.text.adapters);
    return pc_context(st, "checkpoint '%s'", path);
}

static pc_status open_gguf(pc_supply *o, const char *path)
{
    pc_gguf_match x = {0};
    pc_status st = pc_gguf_model_open(&o->gguf, path, NULL);
    if (!st) st = pc_gguf_match_open(&x, &o->gguf);
    if (!st && (x.missing_count || x.misshapen_count)) {
        const int64_t i = x.missing_count ? x.missing[0] : x.misshapen[0];
        st = pc_fail(PC_ERR_FORMAT, "'%s': tensor '%s' is missing or of another shape", path,
                     o->gguf.aliases.list[i].theirs);
    }
    pc_gguf_match_close(&x);
    return st ? st : make_runs(o);
}

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static pc_status open_rest(pc_supply *o, const char *path)
{
    pc_status st;
    if ((st = pc_bundle_open_light(&o->bundle, path)) ||
        (st = pc_model_open(&o->shape, &o->bundle.model.config, PC_F32, false)) ||
        (st = pc_is_dir(path)          ? open_dir(o, path)
              : ends_in(path, ".gguf") ? open_gguf(o, path)
                                       : open_native(o, path)) ||
        (st = pc_context(pc_hf_source_open(&o->source, &o->bundle.text), "'%s'", path)))
        return st;
    if (!o->family) o->family = o->source.family ? o->source.family : o->bundle.family;
    return PC_OK;
}

pc_status pc_supply_open(pc_supply *out, const char *path)
{
    *out = (pc_supply){0};
    const pc_status st = open_rest(out, path);
    if (st) pc_supply_close(out);
    return st;
}

void pc_supply_drop_adapters(pc_supply *o)
{
    for (int i = 0; i < o->adapter_count; i++) pc_peft_close(&o->adapters[i]);
    free(o->adapters);
    o->adapters = NULL;
    o->adapter_count = 0;
    o->own_adapters = false;
    o->merged = NULL;
}

void pc_supply_close(pc_supply *o)
{
    pc_supply_drop_adapters(o);
    free(o->numbers);
    free(o->whole);
    free(o->runs);
    pc_gguf_model_close(&o->gguf);
    pc_hf_source_close(&o->source);
    pc_hf_match_close(&o->match);
    pc_safetensors_close(o->tensors);
    pc_model_close(&o->shape);
    pc_bundle_close(&o->bundle);
    *o = (pc_supply){0};
}

pc_status pc_supply_adapt(pc_supply *o, const char *dir)
{
    pc_peft p;
    if (!o->family)
        return pc_fail(PC_ERR_INPUT,
                       "'%s' does not say which family it is of: adapters go by its module names",
                       o->bundle.path);
    pc_peft *more = realloc(o->adapters, (size_t)(o->adapter_count + 1) * sizeof *more);
    if (!more) return pc_fail(PC_ERR_MEMORY, "an adapter");
    o->adapters = more;
    pc_status st = pc_peft_open(&p, dir);
    if (st) return st;
    if ((st = pc_peft_match(&p, o->family, &o->shape.config))) {
        pc_peft_close(&p);
        return pc_context(st, "'%s' for '%s'", dir, o->bundle.path);
    }
    o->adapters[o->adapter_count++] = p;
    o->merged = NULL;
    return PC_OK;
}

/* ---- reading ---- */

static pc_status entry_floats(float *out, const pc_st_entry *e, int64_t at, int64_t count)
{
    pc_dtype t;
    if (!pc_dtype_from_text(&t, e->dtype) ||
        (t != PC_F32 && t != PC_F64 && t != PC_BF16 && t != PC_F16))
        return pc_fail(PC_ERR_FORMAT, "tensor '%.200s' is %s, expected floating-point numbers",
                       e->name, e->dtype);
    pc_widen(out, (const char *)e->data + (size_t)at * pc_dtype_size(t), t, count);
    return PC_OK;
}

// First run of this parameter that ends behind `at`.
static const run *first_run(const pc_supply *o, const char *ours, int64_t at)
{
    int lo = 0, hi = names_of(o)->count;
    while (lo < hi) {
        const int mid = lo + (hi - lo) / 2;
        const int order = strcmp(o->runs[mid].ours, ours);
        if (order < 0 || (order == 0 && o->runs[mid].begin + o->runs[mid].count <= at))
            lo = mid + 1;
        else
            hi = mid;
    }
    return &o->runs[lo];
}

static pc_status room_for_whole(pc_supply *o, int64_t n, const char *name)
{
    if (n <= o->whole_room) return PC_OK;
    float *more = realloc(o->whole, (size_t)n * sizeof *more);
    if (!more) return pc_fail(PC_ERR_MEMORY, "tensor '%s'", name);
    o->whole = more;
    o->whole_room = n;
    return PC_OK;
}

// All frames of a stem, each put between the others. They are "alias" -1.
static pc_status frame_floats(pc_supply *o, float *out, const run *r, int64_t at, int64_t count)
{
    const pc_aliases *a = &o->gguf.aliases;
    if (o->read_alias != -1) {
        pc_status st =
            room_for_whole(o, a->list[r->alias].count * o->gguf.config.vlm.vision.frames, r->ours);
        o->read_alias = 0;
        for (int i = 0; i < a->count && !st; i++)
            if (pc_gguf_frame(&a->list[i], &o->gguf.config) >= 0)
                st = pc_gguf_model_read(o->whole, &o->gguf, i);
        if (st) return st;
        o->read_alias = -1;
    }
    memcpy(out, o->whole + r->begin + at, (size_t)count * sizeof *out);
    return PC_OK;
}

// Rows of queries and keys may lie in another order, and blocks cannot be cut: such tensors are read whole.
static pc_status gguf_floats(pc_supply *o, float *out, const run *r, int64_t at, int64_t count)
{
    const pc_alias *a = &o->gguf.aliases.list[r->alias];
    if (pc_gguf_frame(a, &o->gguf.config) >= 0) return frame_floats(o, out, r, at, count);
    const bool permuted = r->alias < o->gguf.eyes_first &&
                          pc_gguf_permuted(a, &o->gguf.config.vlm.decoder, o->gguf.llama);
    pc_gguf_tensor t = {0};
    const pc_gguf *file = r->alias < o->gguf.eyes_first ? o->gguf.text : o->gguf.eyes;
    if (!permuted && pc_gguf_find(&t, file, a->theirs) && at % t.type->block == 0 &&
        count % t.type->block == 0)
        return pc_gguf_floats(out, &t, at, count);
    const int64_t n = pc_alias_numel(a);
    if (o->read_alias != r->alias + 1) {
        pc_status st = room_for_whole(o, n, a->theirs);
        if (st) return st;
        o->read_alias = 0;
        st = pc_gguf_model_read(o->whole, &o->gguf, r->alias);
        if (st) return st;
        o->read_alias = r->alias + 1;
    }
    memcpy(out, o->whole + at, (size_t)count * sizeof *out);
    return PC_OK;
}

// Numbers [at, at + count) of our order out of a tensor that is turned round: it is read whole.
static pc_status turned_floats(pc_supply *o, float *out, const run *r, int64_t at, int64_t count)
{
    const pc_alias *a = &o->match.aliases.list[r->alias];
    const int64_t n = pc_alias_numel(a);
    if (o->read_alias != r->alias + 1) {
        if (n > o->whole_room) {
            float *more = realloc(o->whole, (size_t)n * sizeof *more);
            if (!more) return pc_fail(PC_ERR_MEMORY, "tensor '%s'", a->theirs);
            o->whole = more;
            o->whole_room = n;
        }
        o->read_alias = 0;
        const pc_status st = pc_hf_read(o->whole, a, r->entry);
        if (st) return st;
        o->read_alias = r->alias + 1;
    }
    memcpy(out, o->whole + at, (size_t)count * sizeof *out);
    return PC_OK;
}

static pc_status read_stored(pc_supply *o, float *out, const pc_param *p, int64_t at, int64_t count)
{
    if (o->native) return entry_floats(out, pc_safetensors_find(o->tensors, p->name), at, count);
    pc_status st = PC_OK;
    for (const run *r = first_run(o, p->name, at); count > 0 && !st; r++) {
        const int64_t skip = at - r->begin, n = r->count - skip < count ? r->count - skip : count;
        if (r->entry && o->match.aliases.list[r->alias].transposed)
            st = turned_floats(o, out, r, skip, n);
        else
            st = r->entry ? entry_floats(out, r->entry, r->offset + skip, n)
                          : gguf_floats(o, out, r, r->offset + skip, n);
        out += n;
        at += n;
        count -= n;
    }
    return st;
}

static bool is_adapted(const pc_supply *o, const char *ours)
{
    for (int k = 0; k < o->adapter_count; k++)
        for (int64_t i = 0; i < o->adapters[k].count; i++)
            if (!strcmp(o->adapters[k].list[i].ours, ours)) return true;
    return false;
}

static pc_status merge(pc_supply *o, const pc_param *p)
{
    const int64_t n = numel_of(p), row = row_of(p);
    if (n > o->room) {
        float *more = realloc(o->numbers, (size_t)n * sizeof *more);
        if (!more) return pc_fail(PC_ERR_MEMORY, "parameter '%s'", p->name);
        o->numbers = more;
        o->room = n;
    }
    o->merged = NULL;
    pc_status st = read_stored(o, o->numbers, p, 0, n);
    for (int k = 0; k < o->adapter_count && !st; k++)
        st = pc_peft_merge(&o->adapters[k], p->name, pc_view2(o->numbers, PC_F32, n / row, row));
    if (!st) o->merged = p;
    return st;
}

pc_status pc_supply_read(pc_supply *o, float *out, const char *ours, int64_t at, int64_t count)
{
    const pc_param *p = find_param(o, ours);
    PC_ASSERT(p, "no parameter '%s'", ours);
    PC_ASSERT(at >= 0 && count >= 0 && at + count <= numel_of(p), "'%s': %lld from %lld of %lld",
              ours, (long long)count, (long long)at, (long long)numel_of(p));
    if (!is_adapted(o, ours)) return read_stored(o, out, p, at, count);
    if (o->merged != p) {
        const pc_status st = merge(o, p);
        if (st) return st;
    }
    memcpy(out, o->numbers + at, (size_t)count * sizeof *out);
    return PC_OK;
}

pc_status pc_supply_bind(pc_supply *o, pc_params *params)
{
    pc_status st = PC_OK;
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        st = pc_supply_read(o, p->weight->w.data, p->name, 0, numel_of(p));
    }
    return st;
}

static pc_dtype both(pc_dtype a, pc_dtype b)
{
    return a == b ? a : PC_F32;
}

static pc_dtype entry_type(const pc_st_entry *e)
{
    pc_dtype t;
    return pc_dtype_from_text(&t, e->dtype) && (t == PC_BF16 || t == PC_F16) ? t : PC_F32;
}

pc_dtype pc_supply_dtype(const pc_supply *o, const char *ours)
{
    if (!o->tensors || is_adapted(o, ours)) return PC_F32;
    if (o->native) return entry_type(pc_safetensors_find(o->tensors, ours));
    const run *r = first_run(o, ours, 0);
    pc_dtype t = entry_type(r->entry);
    for (int64_t n = numel_of(find_param(o, ours)) - r->count; n > 0; n -= r->count)
        t = both(t, entry_type((++r)->entry));
    return t;
}

/* ---- texts ---- */

static char *json_text(json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return text;
}

static bool copy_if(char **out, const char *text)
{
    *out = text ? strdup(text) : NULL;
    return !text || *out;
}

pc_status pc_supply_texts(pc_native_text *out, const pc_supply *o)
{
    const pc_bundle *b = &o->bundle;
    const pc_native_text *t = &b->text;
    *out = (pc_native_text){.model = json_text(pc_model_config_to_json(&o->shape.config))};
    bool ok = out->model && copy_if(&out->recipe, t->recipe) && copy_if(&out->state, t->state) &&
              copy_if(&out->source, t->source);
    if (ok && b->has_image) ok = (out->image = json_text(pc_image_config_to_json(&b->image)));
    if (ok && b->tokenizer) ok = (out->tokenizer = pc_tokenizer_json(b->tokenizer));
    if (ok && b->template) ok = (out->template_name = strdup(pc_template_text(b->template)));
    pc_status st = ok ? PC_OK : pc_fail(PC_ERR_MEMORY, "checkpoint texts");
    for (int i = 0; i < t->file_count && !st; i++)
        st = pc_native_add_file(out, t->files[i].name, t->files[i].data, t->files[i].size);
    if (st) pc_native_text_close(out);
    return st;
}

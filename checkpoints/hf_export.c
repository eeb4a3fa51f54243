/*
 * hf_export.c - see hf_export.h.
 */
#include "checkpoints/hf_export.h"

#include "checkpoints/hf_config.h"
#include "checkpoints/numbers.h"
#include "model/core/file.h"
#include "model/core/log.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARD_SIZE ((int64_t)5000 * 1000 * 1000)

// One tensor that will be written: its aliases are aliases[first .. first + parts) of the plan.
typedef struct tensor {
    int first, parts; // parts 0: `kept` holds it as it was
    const pc_st_entry *kept;
    int shard;
} tensor;

typedef struct plan {
    pc_supply *o;
    const pc_family *family;
    json_t *config;
    pc_aliases aliases;
    pc_st_out *list;
    tensor *tensors;
    int64_t count;
    int shards;
    char (*files)[64]; // names of shards
    pc_safetensors *ignored;
    char ignored_path[PATH_MAX];
    uint64_t total;
    float *buffer; // a piece in f32
    int64_t room;
} plan;

/* ---- which tensors, which types, which shards ---- */

static pc_dtype type_of(const plan *p, const pc_hf_export_options *x, const pc_alias *a)
{
    pc_dtype t = x->dtype;
    if (!x->as_source) return t;
    const char *was = pc_hf_source_dtype(&p->o->source, a->theirs);
    if (was && pc_dtype_from_text(&t, was) && (t == PC_BF16 || t == PC_F16 || t == PC_F32))
        return t;
    return pc_supply_dtype(p->o, a->ours);
}

static pc_status add_tensors(plan *p, const pc_hf_export_options *x)
{
    const int n = p->aliases.count;
    for (int i = 0; i < n; i++) {
        const pc_alias *a = &p->aliases.list[i];
        if (p->count && !strcmp(p->list[p->count - 1].name, a->theirs)) {
            p->tensors[p->count - 1].parts++;
            continue;
        }
        pc_st_out *o = &p->list[p->count];
        if (snprintf(o->name, sizeof o->name, "%s", a->theirs) >= (int)sizeof o->name)
            return pc_fail(PC_ERR_INPUT, "name '%.100s...' is too long", a->theirs);
        o->dtype = type_of(p, x, a);
        o->rank = a->rank;
        for (int k = 0; k < a->rank; k++) o->dim[k] = a->dim[k];
        p->tensors[p->count++] = (tensor){.first = i, .parts = 1};
    }
    return PC_OK;
}

static bool has_name(const plan *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!strcmp(p->list[i].name, name)) return true;
    return false;
}

// What the source had and nobody needs (position_ids) goes back into the layout it came in.
static void add_ignored(plan *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const pc_st_entry *e = pc_safetensors_at(p->ignored, i);
        pc_st_out *o = &p->list[p->count];
        if (has_name(p, e->name) || !pc_dtype_from_text(&o->dtype, e->dtype)) continue;
        snprintf(o->name, sizeof o->name, "%s", e->name);
        o->rank = e->rank;
        memcpy(o->dim, e->dim, sizeof o->dim);
        p->tensors[p->count++] = (tensor){.kept = e};
    }
}

static pc_status open_ignored(plan *p, const char *dir)
{
    const pc_native_file *f = pc_native_find_file(&p->o->bundle.text, PC_HF_IGNORED);
    if (!f) return PC_OK;
    if (snprintf(p->ignored_path, sizeof p->ignored_path, "%s/%s", dir, PC_HF_IGNORED) >=
        (int)sizeof p->ignored_path)
        return pc_fail(PC_ERR_INPUT, "path is too long");
    pc_status st = pc_file_write(p->ignored_path, f->data, f->size);
    if (!st) st = pc_safetensors_open(&p->ignored, p->ignored_path);
    unlink(p->ignored_path); // the mapping stays
    return st;
}

static size_t bytes_of(const pc_st_out *o)
{
    size_t n = pc_dtype_size(o->dtype);
    for (int i = 0; i < o->rank; i++) n *= (size_t)o->dim[i];
    return n;
}

// In the order of the list, a new shard where the next tensor would go beyond the size.
static pc_status cut_shards(plan *p, int64_t size)
{
    uint64_t in_shard = 0;
    p->shards = 1;
    for (int64_t i = 0; i < p->count; i++) {
        const uint64_t bytes = bytes_of(&p->list[i]);
        if (in_shard && in_shard + bytes > (uint64_t)size) {
            p->shards++;
            in_shard = 0;
        }
        in_shard += bytes;
        p->total += bytes;
        p->tensors[i].shard = p->shards - 1;
    }
    if (p->shards > 99999) return pc_fail(PC_ERR_INPUT, "%d shards are too many", p->shards);
    p->files = calloc((size_t)p->shards, sizeof *p->files);
    if (!p->files) return pc_fail(PC_ERR_MEMORY, "list of shards");
    for (int s = 0; s < p->shards; s++)
        snprintf(p->files[s], sizeof p->files[s],
                 p->shards == 1 ? "model.safetensors" : "model-%05d-of-%05d.safetensors", s + 1,
                 p->shards);
    return PC_OK;
}

static const char *dtype_word(pc_dtype t)
{
    return t == PC_BF16 ? "bfloat16" : t == PC_F16 ? "float16" : "float32";
}

// The type most tensors are written in, for config.json.
static pc_dtype usual_type(const pc_supply *o, const pc_hf_export_options *x)
{
    pc_dtype t = x->dtype;
    if (!x->as_source) return t;
    if (o->source.dtype && pc_dtype_from_text(&t, o->source.dtype) && (t == PC_BF16 || t == PC_F16))
        return t;
    if (o->source.dtype || !o->shape.params.count) return PC_F32;
    return pc_supply_dtype(o, o->shape.params.list[o->shape.params.count - 1].name);
}

static pc_status make_plan(plan *p, const char *dir, const pc_hf_export_options *x)
{
    const pc_model_config *c = &p->o->shape.config;
    json_t *carried = NULL;
    pc_status st = pc_hf_carried_json(&carried, &p->o->bundle.text, "config.json");
    if (!st)
        st = pc_hf_config_json(&p->config, &p->family, c, carried, p->o->bundle.tokenizer,
                               dtype_word(usual_type(p->o, x)));
    json_decref(carried);
    if (st) return st;
    if (!p->o->family) p->o->family = p->family; // a model of ours that a family can say
    int layout = x->layout >= 0 ? x->layout : p->o->native ? p->o->source.layout : -1;
    if (layout < 0 && p->o->match.aliases.count) layout = p->o->match.variant;
    if (layout < 0) layout = 0;
    if (layout >= p->family->variants)
        return pc_fail(PC_ERR_INPUT, "--layout %d: family %s has layouts 0 to %d", layout,
                       p->family->name, p->family->variants - 1);
    if ((st = p->family->aliases(&p->aliases, c, layout)) || (st = open_ignored(p, dir))) return st;
    const bool same = x->layout < 0 || x->layout == p->o->source.layout;
    const int64_t extra = p->ignored && same ? pc_safetensors_count(p->ignored) : 0,
                  most = p->aliases.count + extra + 1;
    p->list = calloc((size_t)most, sizeof *p->list);
    p->tensors = calloc((size_t)most, sizeof *p->tensors);
    if (!p->list || !p->tensors) return pc_fail(PC_ERR_MEMORY, "list of tensors");
    if ((st = add_tensors(p, x))) return st;
    add_ignored(p, extra);
    return cut_shards(p, x->shard_size > 0 ? x->shard_size : SHARD_SIZE);
}

static void plan_close(plan *p)
{
    json_decref(p->config);
    pc_aliases_close(&p->aliases);
    pc_safetensors_close(p->ignored);
    free(p->list);
    free(p->tensors);
    free(p->files);
    free(p->buffer);
}

/* ---- weights ---- */

static int64_t row_of(const plan *p, const char *ours)
{
    const pc_param *q = pc_params_find(&p->o->shape.params, ours);
    PC_ASSERT(q, "the family names '%s', the model has no such parameter", ours);
    int64_t n = 1;
    for (int i = 1; i < q->rank; i++) n *= q->dim[i];
    return n;
}

static pc_status room_for(plan *p, int64_t count)
{
    if (count <= p->room) return PC_OK;
    float *more = realloc(p->buffer, (size_t)count * sizeof *more);
    if (!more) return pc_fail(PC_ERR_MEMORY, "a piece of %lld numbers", (long long)count);
    p->buffer = more;
    p->room = count;
    return PC_OK;
}

typedef struct shard {
    plan *p;
    const int64_t *index; // of the shard's tensors in the plan
} shard;

static pc_status fill(void *arg, void *buffer, int64_t index, int64_t begin, int64_t count)
{
    const shard *s = arg;
    plan *p = s->p;
    const tensor *t = &p->tensors[s->index[index]];
    const pc_st_out *o = &p->list[s->index[index]];
    const size_t item = pc_dtype_size(o->dtype);
    if (t->kept) {
        memcpy(buffer, (const char *)t->kept->data + (size_t)begin * item, (size_t)count * item);
        return PC_OK;
    }
    pc_status st = room_for(p, count);
    for (int k = 0; k < t->parts && !st; k++) {
        const pc_alias *a = &p->aliases.list[t->first + k];
        // The part of [begin, begin + count) that this run of theirs covers.
        const int64_t lo = a->offset > begin ? a->offset : begin;
        const int64_t end = a->offset + a->count, stop = begin + count,
                      hi = end < stop ? end : stop;
        if (lo >= hi) continue;
        st = pc_supply_read(p->o, p->buffer + (lo - begin), a->ours,
                            a->row * row_of(p, a->ours) + (lo - a->offset), hi - lo);
    }
    if (!st) pc_narrow(buffer, o->dtype, p->buffer, count);
    return st;
}

static pc_status write_shard(plan *p, const char *dir, int number)
{
    char path[PATH_MAX];
    int64_t *index = malloc((size_t)(p->count + 1) * sizeof *index), n = 0;
    pc_st_out *list = malloc((size_t)(p->count + 1) * sizeof *list);
    pc_status st = index && list ? PC_OK : pc_fail(PC_ERR_MEMORY, "list of tensors");
    for (int64_t i = 0; i < p->count && !st; i++) {
        if (p->tensors[i].shard != number) continue;
        index[n] = i;
        list[n++] = p->list[i];
    }
    if (!st && snprintf(path, sizeof path, "%s/%s", dir, p->files[number]) >= (int)sizeof path)
        st = pc_fail(PC_ERR_INPUT, "path is too long");
    if (!st) st = pc_safetensors_stream(path, list, n, NULL, fill, &(shard){p, index});
    free(index);
    free(list);
    return st;
}

/* ---- files ---- */

static pc_status put_bytes(const char *dir, const char *name, const void *data, size_t size)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return pc_fail(PC_ERR_INPUT, "path is too long: '%.200s'", dir);
    return pc_file_write(path, data, size);
}

// Takes the object.
static pc_status put_json(const char *dir, const char *name, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    if (!text) return pc_fail(PC_ERR_MEMORY, "%s", name);
    const pc_status st = put_bytes(dir, name, text, strlen(text));
    free(text);
    return st;
}

static pc_status write_index(const plan *p, const char *dir)
{
    if (p->shards == 1) return PC_OK;
    json_t *map = json_object();
    for (int64_t i = 0; i < p->count; i++)
        json_object_set_new(map, p->list[i].name, json_string(p->files[p->tensors[i].shard]));
    return put_json(dir, "model.safetensors.index.json",
                    json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)p->total,
                              "weight_map", map));
}

static bool carries(const pc_supply *o, const char *name)
{
    return pc_native_find_file(&o->bundle.text, name) != NULL;
}

static pc_status write_tokenizer(const plan *p, const char *dir)
{
    static const char *const any[] = {"tokenizer.json", "tokenizer.model", "vocab.json", NULL};
    const pc_bundle *b = &p->o->bundle;
    for (const char *const *name = any; *name; name++)
        if (carries(p->o, *name)) return PC_OK;
    if (!b->tokenizer) return PC_OK;
    const pc_model_config *c = &p->o->shape.config;
    char *text = pc_tokenizer_json(b->tokenizer);
    if (!text) return pc_fail(PC_ERR_MEMORY, "tokenizer.json");
    // A tokenizer of another kind than tokenizer.json came with its own file.
    pc_status st = text[0] == '{' ? put_bytes(dir, "tokenizer.json", text, strlen(text)) : PC_OK;
    free(text);
    if (!st)
        st = put_json(dir, "tokenizer_config.json",
                      pc_hf_tokenizer_config_json(b->tokenizer, c->kind == PC_MODEL_CLIP
                                                                    ? c->clip.text.T
                                                                    : c->vlm.decoder.T));
    return st;
}

static pc_status write_made(const plan *p, const char *dir)
{
    const pc_bundle *b = &p->o->bundle;
    json_t *o = NULL;
    pc_status st = write_tokenizer(p, dir);
    if (!st && b->tokenizer && p->o->shape.config.kind == PC_MODEL_VLM &&
        !carries(p->o, "generation_config.json"))
        st = put_json(dir, "generation_config.json", pc_hf_generation_json(b->tokenizer));
    if (st || !b->has_image || carries(p->o, "preprocessor_config.json") ||
        carries(p->o, "processor_config.json"))
        return st;
    st = pc_hf_preprocessor_json(&o, &b->image);
    if (!st && o) st = put_json(dir, "preprocessor_config.json", o);
    if (!st && !o)
        pc_warn("no image processor of transformers prepares images as this model's settings do: "
                "there is no preprocessor_config.json");
    return st;
}

static pc_status write_files(const plan *p, const char *dir, const pc_card *card)
{
    const pc_native_text *t = &p->o->bundle.text;
    char numbers[200];
    pc_status st = PC_OK;
    for (int i = 0; i < t->file_count && !st; i++) {
        const pc_native_file *f = &t->files[i];
        if (strcmp(f->name, "config.json") != 0 && strcmp(f->name, PC_HF_IGNORED) != 0)
            st = put_bytes(dir, f->name, f->data, f->size);
    }
    if (!st) st = put_json(dir, "config.json", json_incref(p->config));
    if (!st) st = write_made(p, dir);
    if (!st) st = write_index(p, dir);
    if (st) return st;
    const char *word = json_string_value(json_object_get(p->config, "dtype"));
    if (!word) word = json_string_value(json_object_get(p->config, "torch_dtype"));
    snprintf(numbers, sizeof numbers, "%lld parameters, %s, %lld tensors in %d file%s",
             (long long)pc_params_numel(&p->o->shape.params, false), word ? word : "float32",
             (long long)p->count, p->shards, p->shards > 1 ? "s" : "");
    char *text = pc_card_text(card, p->o, numbers);
    if (!text) return pc_fail(PC_ERR_MEMORY, "model card");
    st = put_bytes(dir, "README.md", text, strlen(text));
    free(text);
    return st;
}

/* ---- the folder ---- */

static bool is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    bool empty = d != NULL;
    for (struct dirent *e; d && empty && (e = readdir(d));)
        empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    if (d) closedir(d);
    return empty;
}

// The half-written folder, with its files; it holds no folders.
static void remove_folder(const char *dir)
{
    char path[PATH_MAX];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (snprintf(path, sizeof path, "%s/%s", dir, e->d_name) < (int)sizeof path &&
            strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlink(path);
    if (d) closedir(d);
    rmdir(dir);
}

static pc_status write_all(plan *p, const char *dir, const pc_hf_export_options *x,
                           const pc_card *card)
{
    pc_status st = make_plan(p, dir, x);
    for (int s = 0; s < p->shards && !st; s++) {
        if (p->shards > 1) pc_log("writing %s (%d of %d)", p->files[s], s + 1, p->shards);
        st = write_shard(p, dir, s);
    }
    return st ? st : write_files(p, dir, card);
}

// The largest error of any type that was written.
static pc_verify_limits limits_of(const plan *p)
{
    pc_verify_limits l = pc_verify_type(PC_F32);
    for (int64_t i = 0; i < p->count; i++) {
        if (p->tensors[i].kept) continue;
        const pc_verify_limits t = pc_verify_type(p->list[i].dtype);
        if (t.number > l.number) l = t;
    }
    return l;
}

pc_status pc_hf_export(const char *dir, pc_supply *o, const pc_hf_export_options *x,
                       const pc_card *card, pc_verify_report *report)
{
    char part[PATH_MAX];
    size_t n = strlen(dir);
    plan p = {.o = o};
    *report = (pc_verify_report){0};
    while (n > 1 && dir[n - 1] == '/') n--;
    if (snprintf(part, sizeof part, "%.*s.part", (int)n, dir) >= (int)sizeof part)
        return pc_fail(PC_ERR_INPUT, "path is too long: '%.200s'", dir);
    if (pc_file_exists(dir) && !is_empty(dir))
        return pc_fail(PC_ERR_INPUT, "'%s' is there already, and not empty", dir);
    remove_folder(part);
    pc_status st = pc_make_dirs(part);
    if (!st) st = write_all(&p, part, x, card);
    if (!st) {
        const pc_verify_limits l = limits_of(&p);
        st = pc_verify(report, o, part, &l, x->verify, x->seed);
    }
    plan_close(&p);
    if (!st && pc_file_exists(dir) && rmdir(dir) != 0)
        st = pc_fail_errno("cannot replace '%s'", dir);
    if (!st && rename(part, dir) != 0) st = pc_fail_errno("cannot rename '%s' to '%s'", part, dir);
    if (st) remove_folder(part);
    return pc_context(st, "export to '%s'", dir);
}

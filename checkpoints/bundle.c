/*
 * bundle.c - MODEL, whatever it is: a native checkpoint, a Hugging Face directory or GGUF files.
 *
 *   native       text/model, text/image, text/tokenizer, text/template and the parameters of one file
 *   .gguf        a text model as llama.cpp has it, with the mmproj beside it
 *   directory    config.json -> family and shape; model.safetensors or its shards; tokenizer.json and
 *                preprocessor_config.json or processor_config.json where they are there; the family's usual
 *                chat template
 */
#include "checkpoints/bundle.h"

#include "checkpoints/hf_carry.h"
#include "checkpoints/mapped.h"
#include "model/core/file.h"
#include "model/core/log.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t tower_size(const pc_model_config *c)
{
    return c->kind == PC_MODEL_CLIP ? c->clip.vision.image_size
           : c->vlm.vision.L        ? c->vlm.vision.image_size
                                    : 0;
}

static pc_status check_image_size(const pc_bundle *b)
{
    const int64_t size = tower_size(&b->model.config);
    if (!b->has_image || !size || !b->image.size || size == b->image.size) return PC_OK;
    return pc_fail(PC_ERR_FORMAT, "images are prepared at %lld pixels, the vision tower takes %lld",
                   (long long)b->image.size, (long long)size);
}

/* ---- native ---- */

static pc_status parse_json(json_t **out, const char *text, const char *what)
{
    json_error_t e;
    *out = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    if (*out) return PC_OK;
    return pc_fail(PC_ERR_FORMAT, "text '%s': line %d, column %d: %s", what, e.line, e.column,
                   e.text);
}

static pc_status native_config(pc_model_config *out, const char *text)
{
    json_t *json = NULL;
    if (!text) return pc_fail(PC_ERR_FORMAT, "no text 'model'");
    pc_status st = parse_json(&json, text, "model");
    if (!st) st = pc_context(pc_model_config_from_json(out, json), "text 'model'");
    json_decref(json);
    return st;
}

static pc_status native_image(pc_bundle *b, const char *text)
{
    json_t *json = NULL;
    if (!text) return PC_OK;
    pc_status st = parse_json(&json, text, "image");
    if (!st) st = pc_context(pc_image_config_from_json(&b->image, json), "text 'image'");
    json_decref(json);
    b->has_image = !st;
    return st;
}

static pc_status native_language(pc_bundle *b)
{
    const pc_native_text *t = &b->text;
    if (t->template_name && pc_template_is_source(t->template_name)) {
        pc_template *own = NULL;
        pc_status st = pc_template_open(&own, "the checkpoint's own", t->template_name,
                                        strlen(t->template_name), NULL);
        if (st) return st;
        b->template = own;
    } else if (t->template_name) {
        int n = 0;
        const char *const *names = pc_template_names(&n);
        b->template = pc_template_find(t->template_name);
        const char *near = pc_nearest(t->template_name, names, n);
        if (!b->template)
            return pc_fail(PC_ERR_FORMAT, "unknown template '%.60s'%s%s%s", t->template_name,
                           near ? " (nearest: '" : "", near ? near : "", near ? "')" : "");
    }
    if (!t->tokenizer) return PC_OK;
    return pc_context(pc_tokenizer_parse(&b->tokenizer, t->tokenizer, strlen(t->tokenizer)),
                      "text 'tokenizer'");
}

// Whether some parameter is of a narrower type than f32.
static pc_status native_narrow(bool *narrow, const char *path)
{
    pc_native_item *items;
    int64_t n;
    const pc_status st = pc_native_list(&items, &n, path);
    if (st) return st;
    *narrow = false;
    for (int64_t i = 0; i < n; i++)
        *narrow =
            *narrow || (items[i].plain && (items[i].dtype == PC_BF16 || items[i].dtype == PC_F16));
    pc_native_list_close(items, n);
    return PC_OK;
}

// Parameters where they lie, under our own names; what pc_native_load is strict about, this is too.
static pc_status native_mapped(pc_bundle *b, const char *path)
{
    pc_params *params = &b->model.params;
    pc_aliases names = {0};
    pc_status st = pc_native_map(&b->files, path);
    if (st) return st; // names the file
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        const pc_st_entry *e = pc_safetensors_find(b->files, p->name);
        if (!e)
            st = pc_fail(PC_ERR_FORMAT, "parameter '%s' is missing", p->name);
        else if (e->rank != p->rank || memcmp(e->dim, p->dim, (size_t)p->rank * sizeof *p->dim))
            st = pc_fail(PC_ERR_FORMAT, "parameter '%s': its shape is not the model's", p->name);
        else
            pc_alias_add(&names, p->name, 0, p->rank, p->dim, "%s", p->name);
    }
    for (int64_t i = 0; i < pc_safetensors_count(b->files) && !st; i++) {
        const char *name = pc_safetensors_at(b->files, i)->name;
        if (!pc_params_find(params, name))
            st = pc_fail(PC_ERR_FORMAT, "the file's parameter '%.200s' is not one of the model's",
                         name);
    }
    if (!st) st = names.status;
    if (!st) st = pc_mapped_tensors(&b->model, &b->room, &names, b->files);
    pc_aliases_close(&names);
    return pc_context(st, "checkpoint '%s'", path);
}

// A checkpoint that carries the config.json it came with knows its family, and goes by that family's names.
static pc_status native_family(pc_bundle *b, const pc_model_config *c)
{
    pc_hf_source source;
    pc_status st = pc_hf_source_open(&source, &b->text);
    if (st) return st;
    if (source.family) {
        b->family = source.family;
        st = source.family->aliases(&b->aliases, c, source.layout < 0 ? 0 : source.layout);
    }
    pc_hf_source_close(&source);
    return st;
}

static pc_status open_native(pc_bundle *b, const char *path, bool weights)
{
    pc_model_config config;
    pc_status st = pc_native_read_text(&b->text, path);
    if (st) return st; // names the file
    if ((st = native_config(&config, b->text.model)) || (st = native_image(b, b->text.image)) ||
        (st = native_language(b)) || (st = native_family(b, &config)))
        return pc_context(st, "checkpoint '%s'", path);
    if (!weights) {
        b->model.config = config;
        return check_image_size(b);
    }
    bool narrow = false;
    if (b->mapped && (st = native_narrow(&narrow, path))) return st;
    if ((st = pc_model_open(&b->model, &config, PC_F32, !narrow)) || (st = check_image_size(b)) ||
        (b->text.adapters &&
         (st = pc_adapters_from_text(&b->model, &b->adapter_dropout, b->text.adapters))))
        return pc_context(st, "checkpoint '%s'", path);
    return narrow ? native_mapped(b, path)
                  : pc_native_load(&b->model.params, path, false, true, NULL);
}

/* ---- Hugging Face directories ---- */

// The layout that a family's published models were tuned with.
static const char *usual_template(const pc_family *f, const json_t *config)
{
    static const char *const usual[][2] = {{"llava", "vicuna_v1"},
                                           {"llava (original)", "vicuna_v1"},
                                           {"llava_next", "vicuna_v1"},
                                           {"llava_onevision", "chatml"},
                                           {"qwen", "qwen"},
                                           {"qwen2", "chatml"},
                                           {"qwen2_vl", "qwen2_vl"},
                                           {"deepseek_vl", "deepseek_vl"},
                                           {"deepseek_vl_hybrid", "deepseek_vl"},
                                           {"deepseek_vl (original)", "deepseek_vl"}};
    const json_t *text = json_object_get(config, "text_config");
    const char *decoder = json_string_value(json_object_get(text, "model_type"));
    if (decoder && !strcmp(decoder, "mistral") && !strncmp(f->name, "llava", 5))
        return "mistral_instruct";
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (!strcmp(f->name, usual[i][0])) return usual[i][1];
    return NULL;
}

static pc_status dir_image(pc_bundle *b, const char *dir, const json_t *config)
{
    json_t *preprocessor = NULL, *processor = NULL;
    pc_status st = pc_hf_json(&preprocessor, dir, "preprocessor_config.json");
    if (!st) st = pc_hf_json(&processor, dir, "processor_config.json");
    if (!st && json_object_get(config, "model_cfg") && !preprocessor) {
        st = pc_image_config_from_open_clip(&b->image, config);
        b->has_image = !st;
    } else if (!st) {
        st = pc_image_config_from_files(&b->image, &b->has_image, preprocessor, processor, config);
    }
    json_decref(preprocessor);
    json_decref(processor);
    return st;
}

// The directory's own chat template, where it has one that can be read; otherwise the family's usual one.
static pc_status dir_template(pc_bundle *b, const char *dir, const json_t *config)
{
    const char *name = usual_template(b->family, config);
    pc_template *own = NULL;
    pc_status st = pc_template_open_dir(&own, dir);
    if (st == PC_ERR_MEMORY || st == PC_ERR_IO) return st;
    if (st) pc_warn("%s%s%s", pc_error_text(), name ? "; used instead: " : "", name ? name : "");
    b->template = own ? own : name ? pc_template_find(name) : NULL;
    return PC_OK;
}

// A tokenizer of a kind that is not read does not keep the weights from being used.
static pc_status dir_tokenizer(pc_bundle *b, const char *dir)
{
    if (!pc_tokenizer_in(dir)) return PC_OK;
    pc_status st = pc_tokenizer_open(&b->tokenizer, dir);
    if (st == PC_ERR_MEMORY || st == PC_ERR_IO) return st;
    if (st) pc_warn("opened without its tokenizer: %s", pc_error_text());
    return PC_OK;
}

static pc_status dir_weights(pc_bundle *b, const char *dir, const pc_hf_config *c)
{
    pc_safetensors *s = NULL;
    pc_hf_match match = {0};
    pc_status st = pc_safetensors_open_dir(&s, dir);
    if (st) return st; // names the files
    if ((st = pc_model_open(&b->model, &c->model, PC_F32, !b->mapped))) goto out;
    if ((st = pc_hf_match_open(&match, c->family, &c->model, s)) ||
        (st = pc_hf_match_status(&match, s)) ||
        (st = b->mapped ? pc_mapped_tensors(&b->model, &b->room, &match.aliases, s)
                        : pc_hf_load(&b->model.params, &match, s))) {
        st = pc_context(st, "'%s'", dir);
        goto out;
    }
    if ((st = pc_hf_carry(&b->text, dir, c->family, &match, s))) goto out;
    b->aliases = match.aliases;
    match.aliases = (pc_aliases){0}; // the bundle owns them from here
    if (b->mapped) {
        b->files = s;
        s = NULL;
    }
out:
    pc_hf_match_close(&match);
    pc_safetensors_close(s);
    return st;
}

static pc_status open_dir(pc_bundle *b, const char *dir, bool weights)
{
    pc_hf_config c = {0};
    pc_status st = pc_hf_config_open(&c, dir);
    if (st) return st;
    b->family = c.family;
    b->model.config = c.model;
    if ((st = dir_image(b, dir, c.json)) || (st = check_image_size(b)))
        st = pc_context(st, "'%s'", dir);
    if (!st) st = dir_template(b, dir, c.json);
    if (!st) st = dir_tokenizer(b, dir);
    if (!st && weights) st = dir_weights(b, dir, &c);
    pc_hf_config_close(&c);
    return st;
}

/* ---- GGUF ---- */

// The family whose files would hold the same model: adapters and gradients go by its names.
static const pc_family *gguf_family(const pc_model_config *c)
{
    const pc_decoder_config *d = &c->vlm.decoder;
    const char *text = d->qkv_bias ? "qwen2" : d->window ? "mistral" : "llama";
    const char *eyes = c->vlm.visual == PC_VISUAL_GRID    ? "qwen2_vl"
                       : c->vlm.feature_norm              ? "deepseek_vl"
                       : c->vlm.visual != PC_VISUAL_TILES ? "llava"
                       : c->vlm.max_tiles                 ? "llava_onevision"
                                                          : "llava_next";
    return pc_family_find(c->vlm.vision.L ? eyes : text);
}

// The built-in layout that the file names, or its own chat template; where that cannot be read, or there is none, the
// usual one.
static pc_status gguf_template(pc_bundle *b, const pc_gguf_model *m)
{
    b->template = m->template_name ? pc_template_find(m->template_name) : NULL;
    if (b->template) return PC_OK;
    const char *t = m->chat_template;
    const char *usual = m->config.vlm.decoder.qkv_bias ? "chatml" : m->eyes ? "vicuna_v1" : NULL;
    pc_template *own = NULL;
    if (t && strstr(t, "<|im_start|>")) usual = "chatml";
    if (t) {
        pc_status st = pc_template_open(&own, "tokenizer.chat_template", t, strlen(t), NULL);
        if (st == PC_ERR_MEMORY) return st;
        if (st)
            pc_warn("%s%s%s", pc_error_text(), usual ? "; used instead: " : "", usual ? usual : "");
    }
    b->template = own ? own : usual ? pc_template_find(usual) : NULL;
    return PC_OK;
}

static pc_status gguf_text(pc_bundle *b, const pc_gguf_model *m)
{
    pc_status st = gguf_template(b, m);
    if (st) return st;
    st = pc_gguf_tokenizer(&b->tokenizer, m->text);
    if (st == PC_ERR_MEMORY || st == PC_ERR_IO) return st;
    if (st) pc_warn("opened without its tokenizer: %s", pc_error_text());
    return PC_OK;
}

// A file of a vocabulary alone has no tensors, and may be of any architecture.
static pc_status vocabulary_alone(pc_bundle *b, bool *alone, const char *path)
{
    pc_gguf_model m = {.bos = -1, .eos = -1};
    pc_status st = pc_gguf_open(&m.text, path);
    *alone = !st && !pc_gguf_count(m.text);
    if (*alone && !(st = pc_gguf_text(&m.chat_template, m.text, "tokenizer.chat_template")) &&
        !(st = gguf_template(b, &m)))
        st = pc_gguf_tokenizer(&b->tokenizer, m.text);
    pc_gguf_model_close(&m);
    return st;
}

// Their names for our parameters; a model that the family cannot have goes without.
static pc_status gguf_aliases(pc_bundle *b, const pc_model_config *c)
{
    if (!b->family) return PC_OK;
    const pc_status st = b->family->aliases(&b->aliases, c, 0);
    bool all = true;
    for (int i = 0; i < b->aliases.count && all; i++)
        all = pc_params_find(&b->model.params, b->aliases.list[i].ours) != NULL;
    if (all) return st;
    pc_aliases_close(&b->aliases);
    b->family = NULL;
    return st;
}

static pc_status open_gguf(pc_bundle *b, const char *path, const char *mmproj, bool weights)
{
    pc_gguf_model m;
    bool alone = false;
    pc_status st = weights ? PC_OK : vocabulary_alone(b, &alone, path);
    if (st || alone) return st;
    if ((st = pc_gguf_model_open(&m, path, mmproj))) return st; // names the file
    b->model.config = m.config;
    b->has_image = m.eyes != NULL;
    b->image = m.image;
    b->family = gguf_family(&m.config);
    if (!m.text)
        st = pc_fail(PC_ERR_INPUT, "'%s' is a vision tower alone (an mmproj); give the text model",
                     path);
    if (!st) st = gguf_text(b, &m);
    // Before there is memory for them: sizes that the files do not back are only claims.
    if (!st && weights) st = pc_context(pc_gguf_model_check(&m), "'%s'", path);
    if (!st && weights) st = pc_model_open(&b->model, &m.config, PC_F32, !b->mapped);
    if (!st && weights) st = gguf_aliases(b, &m.config);
    if (!st && weights)
        st = pc_context(b->mapped ? pc_gguf_views_bind(&b->gguf, &b->model, &b->room, &m)
                                  : pc_gguf_model_load(&b->model.params, &m),
                        "'%s'", path);
    pc_gguf_model_close(&m);
    return st;
}

/* ---- whichever ---- */

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

// `mmproj`: see pc_gguf_model_open.
typedef enum how { LIGHT, LOADED, MAPPED } how;

static pc_status open_any(pc_bundle *out, const char *path, const char *mmproj, how way)
{
    const bool weights = way != LIGHT;
    *out = (pc_bundle){.mapped = way == MAPPED};
    if (snprintf(out->path, sizeof out->path, "%s", path) >= (int)sizeof out->path)
        return pc_fail(PC_ERR_INPUT, "path is too long: '%.200s...'", path);
    pc_status st = PC_OK;
    const bool gguf = ends_in(path, ".gguf");
    if (mmproj && *mmproj && !gguf)
        st = pc_fail(PC_ERR_INPUT, "'%s' is no GGUF file: an mmproj ('%s') belongs to one", path,
                     mmproj);
    else if (pc_is_dir(path))
        st = open_dir(out, path, weights);
    else if (gguf)
        st = open_gguf(out, path, mmproj, weights);
    else if (ends_in(path, ".safetensors"))
        st = pc_fail(PC_ERR_INPUT,
                     "'%s' holds tensors alone; give its folder, with config.json beside it", path);
    else
        st = open_native(out, path, weights);
    if (st) pc_bundle_close(out);
    return st;
}

pc_status pc_bundle_open(pc_bundle *out, const char *path)
{
    return open_any(out, path, NULL, LOADED);
}

pc_status pc_bundle_open_pair(pc_bundle *out, const char *path, const char *mmproj)
{
    return open_any(out, path, mmproj, LOADED);
}

pc_status pc_bundle_open_mapped(pc_bundle *out, const char *path, const char *mmproj)
{
    return open_any(out, path, mmproj, MAPPED);
}

pc_status pc_bundle_open_light(pc_bundle *out, const char *path)
{
    return open_any(out, path, NULL, LIGHT);
}

pc_status pc_bundle_adapt(pc_bundle *b, const char *dir)
{
    return dir ? pc_adapters_load(&b->model, b->family, dir) : PC_OK;
}

void pc_bundle_close(pc_bundle *b)
{
    pc_model_close(&b->model);
    pc_tokenizer_close(b->tokenizer);
    pc_template_close(b->template);
    pc_aliases_close(&b->aliases);
    pc_native_text_close(&b->text);
    pc_safetensors_close(b->files); // the model's matrices may lie in them
    pc_gguf_views_close(&b->gguf);
    pc_arena_close(&b->room);
    *b = (pc_bundle){0};
}

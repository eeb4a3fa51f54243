/*
 * run_model.c - where the model of a run comes from: a checkpoint, or a shape with new weights.
 *
 * A new model takes from its surroundings what its shape leaves out: the number of tokens and the ids of
 * special tokens from the tokenizer, the vision tower's description (and its weights) from
 * `vision_from`. What came together is put into run->bundle, as if it had been opened from one file.
 */
#include "train/run.h"

#include "data/images/visual.h"
#include "model/core/file.h"
#include "train/whiten.h"

#include <stdlib.h>
#include <string.h>

// ---- the tokenizer -------------------------------------------------------------------------------

// A question's words without the image mark in front of them.
static const char *words(const char *text)
{
    if (!strncmp(text, "<image>", 7)) text += 7;
    return text + strspn(text, "\n ");
}

typedef struct text_list {
    const char **list;
    int64_t count;
} text_list;

// Every text of the data set, borrowed.
static pc_status add_texts(text_list *t, const pc_dataset *d)
{
    int64_t more = 0;
    for (int64_t i = 0; i < d->count; i++)
        more += 1 + d->samples[i].n_captions + 2 * d->samples[i].n_turns;
    const char **grown = realloc(t->list, (size_t)(t->count + more + 1) * sizeof *grown);
    if (!grown) return pc_fail(PC_ERR_MEMORY, "texts of the tokenizer");
    t->list = grown;
    for (int64_t i = 0; i < d->count; i++) {
        const pc_sample *s = &d->samples[i];
        if (s->system) t->list[t->count++] = s->system;
        for (int64_t k = 0; k < s->n_captions; k++) t->list[t->count++] = s->captions[k];
        for (int64_t k = 0; k < s->n_turns; k++) {
            t->list[t->count++] = words(s->turns[k].question);
            t->list[t->count++] = s->turns[k].answer;
        }
    }
    return PC_OK;
}

// The files of `also`, read as data sets.
static pc_status open_also(pc_dataset *out, const recipe *r)
{
    const recipe_texts *also = &r->tokenizer.also;
    char(*paths)[4096] = calloc((size_t)also->count + 1, sizeof *paths);
    pc_source *sources = calloc((size_t)also->count + 1, sizeof *sources);
    if (!paths || !sources) {
        free(paths);
        free(sources);
        return pc_fail(PC_ERR_MEMORY, "texts of the tokenizer");
    }
    for (int64_t i = 0; i < also->count; i++) {
        const bool under = *r->data.root && also->list[i][0] != '/';
        snprintf(paths[i], sizeof paths[i], "%s%s%s", under ? r->data.root : "", under ? "/" : "",
                 also->list[i]);
        sources[i] = (pc_source){.path = paths[i], .weight = 1.0};
    }
    pc_status st = pc_dataset_open(out, sources, (int)also->count, PC_BAD_ERROR);
    free(paths);
    free(sources);
    return pc_context(st, "data.text.tokenizer.train.also");
}

static pc_status train_tokenizer(run *u)
{
    text_list texts = {0};
    pc_dataset also = {0};
    int n_specials;
    pc_status st = add_texts(&texts, &u->train);
    if (!st && u->recipe->tokenizer.also.count && !(st = open_also(&also, u->recipe)))
        st = add_texts(&texts, &also);
    const char *const *specials = pc_template_specials(u->template, &n_specials);
    if (!st)
        st = pc_tokenizer_train(&u->bundle.tokenizer, texts.list, texts.count,
                                (int32_t)u->recipe->tokenizer.vocab, specials, n_specials);
    free(texts.list);
    pc_dataset_close(&also);
    return pc_context(st, "tokenizer of %lld tokens", (long long)u->recipe->tokenizer.vocab);
}

static pc_status open_tokenizer(run *u)
{
    const recipe *r = u->recipe;
    const char *path = r->text.tokenizer;
    if (r->tokenizer.vocab) return train_tokenizer(u);
    const size_t n = strlen(path);
    if (n < 3 || strcmp(path + n - 3, ".h5") != 0)
        return pc_context(pc_tokenizer_open(&u->bundle.tokenizer, path), "data.text.tokenizer");
    pc_native_text text = {0};
    pc_status st = pc_native_read_text(&text, path);
    if (!st && !text.tokenizer)
        st = pc_fail(PC_ERR_INPUT, "'%s' holds no tokenizer", path);
    else if (!st)
        st = pc_tokenizer_parse(&u->bundle.tokenizer, text.tokenizer, strlen(text.tokenizer));
    pc_native_text_close(&text);
    return pc_context(st, "data.text.tokenizer");
}

// A chat template in a file; the bundle owns it in place of its own.
static pc_status template_file(run *u, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    pc_template *own = NULL;
    pc_status st = pc_file_read(&text, &size, path, (size_t)1 << 20);
    if (!st) st = pc_template_open(&own, path, text, size, NULL);
    free(text);
    if (st) return pc_context(st, "data.text.template");
    pc_template_close(u->bundle.template);
    u->template = u->bundle.template = own;
    return PC_OK;
}

static pc_status choose_template(run *u)
{
    const char *name = u->recipe->text.template;
    const size_t n_name = strlen(name);
    if (n_name > 6 && !strcmp(name + n_name - 6, ".jinja")) return template_file(u, name);
    if (!*name && u->bundle.template) {
        u->template = u->bundle.template;
        return PC_OK;
    }
    if (!*name) name = "short";
    u->template = pc_template_find(name);
    if (u->template) return PC_OK;
    int n;
    const char *const *names = pc_template_names(&n), *near = pc_nearest(name, names, n);
    return pc_fail(PC_ERR_INPUT, "data.text.template: '%s' is unknown%s%s%s", name,
                   near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

// ---- a new model ---------------------------------------------------------------------------------

static void fill_integer(json_t *section, const char *key, int64_t value)
{
    if (!json_object_get(section, key) && value >= 0)
        json_object_set_new(section, key, json_integer(value));
}

static json_t *section_of(json_t *shape, const char *name)
{
    json_t *s = json_object_get(shape, name);
    if (!s && !json_object_set_new(shape, name, json_object())) s = json_object_get(shape, name);
    return s;
}

// The tower of `vision_from` under what the shape says of it itself.
static pc_status take_vision(json_t *shape, const pc_bundle *source)
{
    json_t *theirs = pc_model_config_to_json(&source->model.config);
    json_t *vision = json_deep_copy(json_object_get(theirs, "vision"));
    json_decref(theirs);
    if (!vision) return pc_fail(PC_ERR_INPUT, "it has no vision tower");
    // The head belongs to the two towers; the decoder reads rows.
    static const char *const head[] = {"head", "E", "head_F"};
    for (size_t i = 0; i < sizeof head / sizeof head[0]; i++) json_object_del(vision, head[i]);
    json_t *own = json_object_get(shape, "vision");
    if (own) json_object_update(vision, own);
    json_object_set_new(shape, "vision", vision);
    return PC_OK;
}

static pc_status shape_config(pc_model_config *out, run *u, const pc_bundle *source)
{
    const pc_tokenizer *tok = u->bundle.tokenizer;
    json_t *shape = json_deep_copy(u->recipe->model.shape);
    if (!shape) return pc_fail(PC_ERR_MEMORY, "model.shape");
    pc_status st = PC_OK;
    if (source) st = pc_context(take_vision(shape, source), "model.vision_from");
    const bool towers = u->recipe->top.stage == STAGE_PRETRAIN;
    if (!json_object_get(shape, "kind"))
        json_object_set_new(shape, "kind", json_string(towers ? "clip" : "vlm"));
    fill_integer(section_of(shape, "vision"), "image_size",
                 u->recipe->image.size ? u->recipe->image.size : -1);
    if (towers) {
        fill_integer(section_of(shape, "text"), "V", pc_tokenizer_vocab(tok));
        fill_integer(section_of(shape, "text"), "eot_id", pc_tokenizer_eos(tok));
    } else {
        fill_integer(section_of(shape, "decoder"), "V", pc_tokenizer_vocab(tok));
        fill_integer(shape, "image_id", pc_tokenizer_id(tok, "<image>"));
    }
    if (!st) st = pc_context(pc_model_config_from_json(out, shape), "model.shape");
    json_decref(shape);
    return st;
}

// Weights of the tower, by name; every one of ours must be there in the same shape.
static pc_status copy_tower(pc_params *to, pc_params *from)
{
    int64_t copied = 0;
    for (int i = 0; i < to->count; i++) {
        pc_param *q = &to->list[i];
        if (strncmp(q->name, "vision.", 7) != 0) continue;
        const pc_param *p = pc_params_find(from, q->name);
        if (!p) return pc_fail(PC_ERR_INPUT, "it has no '%s'", q->name);
        char ours[64], theirs[64];
        if (!pc_same_shape(p->weight->w, q->weight->w))
            return pc_fail(PC_ERR_INPUT, "'%s': it has %s, model.shape asks for %s", q->name,
                           pc_shape_text(p->weight->w, theirs, sizeof theirs),
                           pc_shape_text(q->weight->w, ours, sizeof ours));
        memcpy(q->weight->w.data, p->weight->w.data,
               (size_t)pc_numel(q->weight->w) * sizeof(float));
        copied++;
    }
    if (copied == 0) return pc_fail(PC_ERR_INPUT, "model.shape has no vision tower to fill");
    return PC_OK;
}

static pc_status new_model(run *u)
{
    const recipe *r = u->recipe;
    pc_bundle source = {0};
    pc_model_config config;
    const bool tower = *r->model.vision_from != 0;
    pc_status st = choose_template(u);
    if (!st) st = open_tokenizer(u);
    if (!st && tower) st = run_open_merged(&source, r->model.vision_from);
    if (!st) st = shape_config(&config, u, tower ? &source : NULL);
    if (!st) st = pc_model_open(&u->bundle.model, &config, PC_F32, true);
    if (!st) {
        pc_params_init(&u->bundle.model.params, (uint64_t)r->top.seed);
        if (tower)
            st = pc_context(copy_tower(&u->bundle.model.params, &source.model.params),
                            "model.vision_from '%s'", r->model.vision_from);
    }
    if (!st && tower && source.has_image) {
        u->bundle.image = source.image; // what the tower was taught to see
        u->bundle.has_image = true;
    }
    if (tower) pc_bundle_close(&source);
    return st;
}

// ---- either --------------------------------------------------------------------------------------

static int64_t image_size(const pc_model_config *c)
{
    return c->kind == PC_MODEL_CLIP ? c->clip.vision.image_size : c->vlm.vision.image_size;
}

static pc_status choose_image(run *u)
{
    const recipe_image *r = &u->recipe->image;
    const int64_t size = image_size(&u->bundle.model.config);
    const pc_model_config *m = &u->bundle.model.config;
    u->image = u->bundle.has_image       ? u->bundle.image
               : m->kind == PC_MODEL_VLM ? pc_visual_default(&m->vlm)
                                         : pc_image_config_default(size);
    u->image.size = size;
    if (r->size && r->size != size)
        return pc_fail(PC_ERR_INPUT, "data.image.size: %lld, but the model sees %lld px",
                       (long long)r->size, (long long)size);
    if (r->fit != FIT_AUTO) u->image.fit = (pc_fit)(r->fit - FIT_PAD);
    if (r->filter != FILTER_AUTO) u->image.filter = (pc_filter)(r->filter - FILTER_BILINEAR);
    for (int i = 0; i < 3; i++) {
        if (r->mean.count) u->image.mean[i] = r->mean.v[i];
        if (r->std.count) u->image.std[i] = r->std.v[i];
    }
    return PC_OK;
}

// model.stem: whitened.
static pc_status whiten(run *u)
{
    const pc_model_config *c = &u->model->config;
    pc_vision *tower = c->kind == PC_MODEL_CLIP ? &u->model->clip.vision : &u->model->vlm.vision;
    pc_status st;
    if (u->image.kind != PC_IMAGE_SQUARE || tower->stems == 0)
        st = pc_fail(PC_ERR_INPUT, "it is for a tower of square images");
    else
        st = whiten_stem(tower, &u->train, &u->image, u->recipe->data.on_bad_sample == BAD_SKIP,
                         (uint64_t)u->recipe->top.seed);
    return pc_context(st, "model.stem: whitened");
}

static pc_status check_kind(const run *u)
{
    const pc_model_config *c = &u->bundle.model.config;
    const bool towers = u->recipe->top.stage == STAGE_PRETRAIN;
    if (towers == (c->kind == PC_MODEL_CLIP)) return PC_OK;
    return pc_fail(PC_ERR_INPUT, "stage %s needs a %s, model.%s is a %s",
                   recipe_word("stage", u->recipe->top.stage),
                   towers ? "two-tower model (clip)" : "vision-language model (vlm)",
                   *u->recipe->model.from ? "from" : "shape",
                   towers ? "vision-language model (vlm)" : "two-tower model (clip)");
}

static pc_status check_tokens(const run *u)
{
    const pc_model_config *c = &u->bundle.model.config;
    const int64_t V = c->kind == PC_MODEL_CLIP ? c->clip.text.V : c->vlm.decoder.V;
    if (pc_tokenizer_vocab(u->tokenizer) <= V) return PC_OK;
    return pc_fail(PC_ERR_INPUT, "the tokenizer has %d tokens, the model %lld rows for them",
                   (int)pc_tokenizer_vocab(u->tokenizer), (long long)V);
}

static char *json_text(json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return text;
}

// The files of the directory that the model came from stay with it; a tokenizer of the recipe's replaces theirs.
static void carry(run *u)
{
    pc_native_text *from = &u->bundle.text, *t = &u->text;
    const bool other = *u->recipe->text.tokenizer || u->recipe->tokenizer.vocab;
    t->source = from->source;
    t->files = from->files;
    t->file_count = from->file_count;
    from->source = NULL;
    from->files = NULL;
    from->file_count = 0;
    if (other) pc_native_drop_tokenizer(t);
}

// What every checkpoint of the run will say. Going on, the words of last.h5 are kept as they are.
static pc_status write_texts(run *u, bool going_on)
{
    pc_native_text *t = &u->text;
    if (going_on) {
        *t = u->bundle.text;
        u->bundle.text = (pc_native_text){0};
        free(t->recipe);
        t->recipe = NULL; // today's; `state` is read, then made anew at each writing
    } else {
        t->model = json_text(pc_model_config_to_json(&u->model->config));
        t->image = json_text(pc_image_config_to_json(&u->image));
        t->tokenizer = pc_tokenizer_json(u->tokenizer);
        t->template_name = strdup(pc_template_text(u->template));
        carry(u);
        const pc_adapters *a = &u->model->adapters;
        if (a->count && !(t->adapters = pc_adapters_text(a, u->recipe->lora.dropout)))
            return pc_fail(PC_ERR_MEMORY, "checkpoint texts");
    }
    if (!t->model || !t->image || !t->tokenizer || !t->template_name)
        return pc_fail(PC_ERR_MEMORY, "checkpoint texts");
    return recipe_to_yaml(&t->recipe, u->recipe, false);
}

// From last.h5: the recipe must be that of the run, as far as it shapes what is learned.
static pc_status go_on(run *u, const char *last)
{
    pc_status st = pc_bundle_open(&u->bundle, last);
    if (!st && !u->bundle.text.recipe)
        st = pc_fail(PC_ERR_FORMAT, "'%s' holds no recipe: percept-train did not write it", last);
    if (!st) st = recipe_same_run(u->bundle.text.recipe, u->recipe);
    return st;
}

pc_status run_open_model(run *u, const char *last)
{
    const recipe *r = u->recipe;
    pc_status st;
    if (last)
        st = go_on(u, last);
    else if (*r->model.from)
        st = pc_context(run_open_merged(&u->bundle, r->model.from), "model.from");
    else
        st = new_model(u);
    if (st) return st;

    u->model = &u->bundle.model;
    if (!u->template && (st = choose_template(u))) return st;
    if (!last && *r->model.from && *r->text.tokenizer) {
        pc_tokenizer_close(u->bundle.tokenizer);
        u->bundle.tokenizer = NULL;
        if ((st = open_tokenizer(u))) return st;
    }
    u->tokenizer = u->bundle.tokenizer;
    if (!u->tokenizer)
        return pc_fail(PC_ERR_INPUT, "'%s' holds no tokenizer: give data.text.tokenizer",
                       r->model.from);
    if ((st = check_kind(u)) || (st = check_tokens(u)) || (st = choose_image(u)) ||
        (!last && r->model.stem == STEM_WHITENED && (st = whiten(u))) ||
        (!last && (st = run_add_adapters(u))))
        return st;
    return write_texts(u, last != NULL);
}

// ---- which parameters change ---------------------------------------------------------------------

static void set_module(run *u, const char *key, int change, double lr_scale)
{
    pc_params *p = &u->model->params;
    char prefix[32];
    snprintf(prefix, sizeof prefix, "%s.", key);
    pc_params_train(p, prefix, false);
    for (int i = 0; i < p->count; i++) {
        pc_param *q = &p->list[i];
        if (strncmp(q->name, prefix, strlen(prefix)) != 0) continue;
        q->trainable = change == (q->adapter ? CHANGE_LORA : CHANGE_FULL);
        q->lr_scale = lr_scale;
    }
}

bool run_reaches(const pc_model *m, const char *name)
{
    return m->config.kind != PC_MODEL_VLM || pc_vlm_reads(&m->config.vlm, name);
}

// Whether some module is trained whole.
static bool any_full(const run *u)
{
    const recipe_model_train *t = &u->recipe->train;
    if (t->vision == CHANGE_FULL) return true;
    if (u->model->config.kind == PC_MODEL_CLIP) return t->text == CHANGE_FULL;
    return t->projector == CHANGE_FULL || t->decoder == CHANGE_FULL;
}

pc_status run_set_modules(run *u)
{
    const recipe *r = u->recipe;
    pc_params *p = &u->model->params;
    // What no module owns (scale and bias of the contrast, say) goes with modules that are trained whole: what a run
    // of adapters hands on is adapters alone.
    pc_params_train(p, "", any_full(u));
    set_module(u, "vision", r->train.vision, r->lr_scale.vision);
    for (int i = 0; i < p->count; i++)
        if (!strncmp(p->list[i].name, "vision.stem.0.", 14))
            p->list[i].lr_scale *= r->lr_scale.stem;
    set_module(u, "text", r->train.text, r->lr_scale.text);
    set_module(u, "projector", r->train.projector, r->lr_scale.projector);
    set_module(u, "decoder", r->train.decoder, r->lr_scale.decoder);
    for (int i = 0; i < p->count; i++) // left trainable, decay alone would eat them
        if (!run_reaches(u->model, p->list[i].name)) p->list[i].trainable = false;
    for (int64_t i = 0; i < r->optim.no_decay.count; i++)
        if (optimizer_no_decay(p, r->optim.no_decay.list[i]) == 0)
            return pc_fail(PC_ERR_INPUT, "optim.no_decay: no parameter is named '%s'",
                           r->optim.no_decay.list[i]);
    if (pc_params_numel(p, true) == 0)
        return pc_fail(PC_ERR_INPUT, "model.train: every module of this model is frozen");
    return PC_OK;
}

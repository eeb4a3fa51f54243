/*
 * recipe_rules.c - rules across keys, and what `auto` means where that follows from the recipe alone;
 * whether a run may go on with a recipe that has changed.
 */
#include "train/recipe.h"

#include "model/core/log.h"
#include "model/core/threads.h"
#include "train/recipe_yaml.h"

#include <stdlib.h>
#include <string.h>

// ---- rules across keys ---------------------------------------------------------------------------

static pc_status put_text(char **member_, const char *fmt, const char *value)
{
    char text[4096];
    snprintf(text, sizeof text, fmt, value);
    free(*member_);
    *member_ = strdup(text);
    return *member_ ? PC_OK : pc_fail(PC_ERR_MEMORY, "recipe");
}

static pc_status name_run(recipe *r)
{
    pc_status st = PC_OK;
    if (!*r->top.name) {
        char name[4096];
        const char *slash = strrchr(r->file, '/');
        snprintf(name, sizeof name, "%s", slash ? slash + 1 : r->file);
        char *dot = strrchr(name, '.');
        if (dot && dot != name) *dot = 0;
        st = put_text(&r->top.name, "%s", name);
    }
    if (!st && !*r->top.out) st = put_text(&r->top.out, "runs/%s", r->top.name);
    return st;
}

static pc_status place_sources(recipe *r, recipe_sources *s)
{
    for (int64_t i = 0; i < s->count; i++) {
        recipe_source *src = &s->list[i];
        char full[4096], folder[4096];
        const char *root = r->data.root;
        const bool under = *root && src->path[0] != '/';
        snprintf(full, sizeof full, "%s%s%s", under ? root : "", under ? "/" : "", src->path);
        if (*src->images) {
            const bool in = *root && src->images[0] != '/';
            snprintf(folder, sizeof folder, "%s%s%s", in ? root : "", in ? "/" : "", src->images);
        } else {
            snprintf(folder, sizeof folder, "%s", full);
            char *slash = strrchr(folder, '/');
            if (slash)
                *slash = 0;
            else
                snprintf(folder, sizeof folder, ".");
        }
        pc_status st = put_text(&src->full_path, "%s", full);
        if (!st) st = put_text(&src->full_images, "%s", folder);
        if (st) return st;
    }
    return PC_OK;
}

static void settle_batch(recipe *r)
{
    if (r->batch.micro) return;
    const int64_t threads = r->compute.threads ? r->compute.threads : pc_cpu_count();
    int64_t most = (r->batch.size + threads - 1) / threads;
    if (most > 32) most = 32;
    while (r->batch.size % most) most--;
    r->batch.micro = most;
}

static void settle_change(int *change, bool trained)
{
    if (*change == CHANGE_AUTO) *change = trained ? CHANGE_FULL : CHANGE_FROZEN;
}

#define REFUSE(...) return pc_fail(PC_ERR_INPUT, __VA_ARGS__)

pc_status recipe_validate(recipe *r)
{
    const recipe_stage stage = (recipe_stage)r->top.stage;
    const char *stage_word = recipe_word("stage", r->top.stage);

#ifndef PERCEPT_CUDA
    if (r->top.device == DEVICE_CUDA)
        REFUSE("device: this build of percept has no cuda; use auto or cpu, or build with cmake "
               "--preset cuda");
    if (r->top.precision == PRECISION_BF16 || r->top.precision == PRECISION_FP8)
        REFUSE("precision: this build of percept has no cuda, and the cpu computes in fp32; use "
               "auto or fp32");
    const char *narrow = r->optim.moments == KEPT_BF16     ? "moments: bf16"
                         : r->optim.gradients == KEPT_BF16 ? "gradients: bf16"
                         : r->optim.master != KEPT_FP32    ? "master: none"
                                                           : NULL;
    if (narrow)
        REFUSE("optim.%s is for a build with cuda, and this one has no cuda; the cpu keeps fp32",
               narrow);
#endif
    const bool narrow_numbers =
        r->top.precision == PRECISION_BF16 || r->top.precision == PRECISION_FP8;
    if (narrow_numbers && r->top.device == DEVICE_CPU)
        REFUSE("precision: the cpu computes in fp32; use auto or fp32, or device: cuda");

    if (!*r->model.from == !r->model.shape)
        REFUSE("model: give either `from` (a checkpoint) or `shape` (a new model)%s",
               *r->model.from ? ", not both" : "");
    if (*r->model.vision_from && !r->model.shape)
        REFUSE("model.vision_from goes with `shape`: a checkpoint brings its own vision tower");
    if (*r->model.vision_from && stage == STAGE_PRETRAIN)
        REFUSE("model.vision_from is for align and tune; pretrain goes on with `from`");

    if (r->model.stem == STEM_WHITENED && (!r->model.shape || *r->model.vision_from))
        REFUSE("model.stem: whitened is for a new tower; %s brings its own",
               *r->model.from ? "model.from" : "model.vision_from");

    if (r->data.train.count == 0) REFUSE("data.train: expected at least one source, seen none");
    if (r->model.shape && !*r->text.tokenizer && !r->tokenizer.vocab)
        REFUSE("data.text.tokenizer: a new model needs one: a path, or {train: {vocab: 1024}}");
    if (*r->model.from && r->tokenizer.vocab)
        REFUSE("data.text.tokenizer.train: the checkpoint has its own tokens; a new tokenizer "
               "needs a new model");
    if (r->image.mean.count != 0 && r->image.mean.count != 3)
        REFUSE("data.image.mean: expected 3 numbers, seen %lld", (long long)r->image.mean.count);
    if (r->image.std.count != 0 && r->image.std.count != 3)
        REFUSE("data.image.std: expected 3 numbers, seen %lld", (long long)r->image.std.count);

    if ((r->length.epochs > 0) == (r->length.steps > 0))
        REFUSE("length: give either epochs or steps%s", r->length.steps > 0 ? ", not both" : "");
    settle_batch(r);
    if (r->batch.size % r->batch.micro)
        REFUSE("batch.micro: %lld does not divide batch.size %lld", (long long)r->batch.micro,
               (long long)r->batch.size);
    if (stage == STAGE_PRETRAIN && r->batch.size < 2)
        REFUSE("batch.size: a contrastive batch needs at least 2 pairs, seen %lld",
               (long long)r->batch.size);

    if (r->optim.betas.count != 2)
        REFUSE("optim.betas: expected 2 numbers, seen %lld", (long long)r->optim.betas.count);
    if (r->eval.best == BEST_RECALL && stage != STAGE_PRETRAIN)
        REFUSE("eval.best: recall is of pretrain; %s has loss or accuracy", stage_word);
    if (r->eval.best == BEST_ACCURACY && stage == STAGE_PRETRAIN)
        REFUSE("eval.best: accuracy is of align and tune; pretrain has loss or recall");
    if (r->eval.best == BEST_AUTO)
        r->eval.best = stage == STAGE_PRETRAIN ? BEST_RECALL
                       : stage == STAGE_ALIGN  ? BEST_LOSS
                                               : BEST_ACCURACY;

    settle_change(&r->train.vision, stage == STAGE_PRETRAIN);
    settle_change(&r->train.text, true);
    settle_change(&r->train.projector, true);
    settle_change(&r->train.decoder, stage == STAGE_TUNE);
    const bool moves = stage == STAGE_PRETRAIN
                           ? r->train.vision != CHANGE_FROZEN || r->train.text != CHANGE_FROZEN
                           : r->train.vision != CHANGE_FROZEN ||
                                 r->train.projector != CHANGE_FROZEN ||
                                 r->train.decoder != CHANGE_FROZEN;
    if (!moves) REFUSE("model.train: every module is frozen; nothing would be learned");

    pc_status st = name_run(r);
    if (!st) st = place_sources(r, &r->data.train);
    if (!st) st = place_sources(r, &r->data.val);
    return st;
}

// ---- going on with a run ---------------------------------------------------------------------------

// May differ without a word.
static const char *const free_keys[] = {"name",
                                        "out",
                                        "device",
                                        "data.root",
                                        "data.train",
                                        "data.val",
                                        "data.cache_images",
                                        "model.from",
                                        "model.vision_from",
                                        "data.text.tokenizer"};
static const char *const free_sections[] = {"eval", "checkpoint", "compute", "report"};
// May differ, with a warning that the bits or the schedule will not be those of an unbroken run.
static const char *const warned[] = {"batch.micro", "length.epochs", "length.steps"};

static bool listed(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i], name)) return true;
    return false;
}
#define LISTED(name, list) listed(name, list, sizeof(list) / sizeof((list)[0]))

static bool equal(const json_t *a, const json_t *b)
{
    if (!a || !b) return a == b;
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

// A run from before there was such a key went by what is the default now.
static bool is_default(const json_t *v, const recipe_key *key)
{
    yaml_tree tree = {0};
    char text[256];
    snprintf(text, sizeof text, "key: %s\n", key->def ? key->def : "");
    const bool same = key->def && !yaml_tree_parse(&tree, "default", text, strlen(text)) &&
                      equal(v, yaml_tree_get(&tree, "key"));
    yaml_tree_close(&tree);
    return same;
}

static pc_status compare_key(const yaml_tree *a, const yaml_tree *b, const char *full,
                             const recipe_key *key)
{
    const json_t *va = yaml_tree_get(a, full), *vb = yaml_tree_get(b, full);
    if (equal(va, vb) || (!va && is_default(vb, key))) return PC_OK;
    char *ta = va ? json_dumps(va, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    char *tb = vb ? json_dumps(vb, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    pc_status st = PC_OK;
    if (LISTED(full, warned))
        pc_warn("%s was %.200s, is %.200s now: the run will not end in the same bits", full,
                ta ? ta : "absent", tb ? tb : "absent");
    else
        st = pc_fail(PC_ERR_INPUT, "%s: the run began with %.200s, the recipe now says %.200s",
                     full, ta ? ta : "nothing", tb ? tb : "nothing");
    free(ta);
    free(tb);
    return st;
}

pc_status recipe_same_run(const char *before, const recipe *now)
{
    yaml_tree a = {0}, b = {0};
    int n_sections;
    const recipe_section *sections = recipe_sections(&n_sections);
    char *text = NULL;
    pc_status st = yaml_tree_parse(&a, "the run's recipe", before, strlen(before));
    if (!st) st = recipe_to_yaml(&text, now, false);
    if (!st) st = yaml_tree_parse(&b, "recipe", text, strlen(text));
    for (int s = 0; s < n_sections && !st; s++) {
        if (LISTED(sections[s].path, free_sections)) continue;
        for (int k = 0; k < sections[s].count && !st; k++) {
            char full[256];
            recipe_join(full, sizeof full, sections[s].path, sections[s].keys[k].name);
            if (!LISTED(full, free_keys)) st = compare_key(&a, &b, full, &sections[s].keys[k]);
        }
    }
    free(text);
    yaml_tree_close(&a);
    yaml_tree_close(&b);
    return st;
}

/*
 * run_adapters.c - low-rank adapters of a run: on which linears, from the recipe.
 *
 * A run that starts from a checkpoint with adapters starts from the two merged. New adapters go on the modules that
 * `model.train` gives as lora; a going-on run finds its own in last.h5.
 */
#include "train/run.h"

#include "model/core/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Queries and values, as PEFT chooses where nothing is said; fused with the keys in some families.
static const char *const usual[] = {"q_proj", "v_proj", "qkv", "c_attn"};
enum { USUAL = sizeof usual / sizeof usual[0] };

pc_status run_open_merged(pc_bundle *b, const char *path)
{
    pc_status st = pc_bundle_open(b, path);
    if (st || !b->model.adapters.count) return st;
    pc_log("'%s': %d adapters merged into the weights", path, b->model.adapters.count);
    if ((st = pc_adapters_merge(&b->model.adapters, &b->model.params))) pc_bundle_close(b);
    return st;
}

typedef struct part {
    const char *key, *prefix; // "vision", "vision."
    int change;
} part;

enum { PARTS = 4 };

static void parts_of(part out[PARTS], const recipe *r)
{
    const part parts[PARTS] = {{"vision", "vision.", r->train.vision},
                               {"text", "text.", r->train.text},
                               {"projector", "projector.", r->train.projector},
                               {"decoder", "decoder.", r->train.decoder}};
    memcpy(out, parts, sizeof parts);
}

static bool under(const pc_module *m, const part *p)
{
    return !strncmp(m->site.weight, p->prefix, strlen(p->prefix));
}

// The model's linears that may be adapted: of modules given as lora, as far as the loss depends on them.
static int keep_wanted(pc_module *list, int count, const pc_model *m, const part *parts)
{
    int kept = 0;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < PARTS; k++)
            if (parts[k].change == CHANGE_LORA && under(&list[i], &parts[k]) &&
                run_reaches(m, list[i].site.weight)) {
                list[kept++] = list[i];
                break;
            }
    return kept;
}

static bool is_usual(const pc_module *m)
{
    const char *dot = strrchr(m->site.module, '.'), *name = dot ? dot + 1 : m->site.module;
    for (int i = 0; i < USUAL; i++)
        if (!strcmp(name, usual[i])) return true;
    return !strncmp(m->site.weight, "projector.", strlen("projector."));
}

static pc_status choose(pc_module *list, int count, const recipe *r, const part *parts)
{
    const recipe_texts *t = &r->lora.targets;
    for (int i = 0; i < count && !t->count; i++) list[i].chosen = is_usual(&list[i]);
    if (t->count) {
        const pc_status st = pc_modules_choose(list, count, (const char *const *)t->list, t->count);
        if (st) return pc_context(st, "model.lora.targets");
    }
    for (int k = 0; k < PARTS; k++) {
        const char *some = NULL; // a linear of the module, whose name may help
        int found = 0;
        for (int i = 0; i < count; i++) {
            if (!under(&list[i], &parts[k])) continue;
            some = list[i].site.module;
            found += list[i].chosen;
        }
        if (parts[k].change == CHANGE_LORA && some && !found)
            return pc_fail(PC_ERR_INPUT,
                           "model.lora.targets: none of them is in the %s, whose linears are named "
                           "like '%s'",
                           parts[k].key, some);
    }
    return PC_OK;
}

pc_status run_add_adapters(run *u)
{
    const recipe *r = u->recipe;
    part parts[PARTS];
    bool wanted = false;
    parts_of(parts, r);
    for (int k = 0; k < PARTS; k++) wanted = wanted || parts[k].change == CHANGE_LORA;
    if (!wanted) return PC_OK;

    pc_module *list = NULL;
    pc_adapter_site *sites = NULL;
    int count, n = 0;
    pc_status st = pc_modules_list(&list, &count, u->model, u->bundle.family);
    if (st) return st;
    count = keep_wanted(list, count, u->model, parts);
    if ((st = choose(list, count, r, parts))) goto out;
    sites = calloc((size_t)count + 1, sizeof *sites);
    if (!sites) {
        st = pc_fail(PC_ERR_MEMORY, "%d adapters", count);
        goto out;
    }
    const double rank = (double)r->lora.r;
    for (int i = 0; i < count; i++) {
        if (!list[i].chosen) continue;
        sites[n] = list[i].site;
        sites[n].r = r->lora.r;
        sites[n].alpha = r->lora.alpha;
        sites[n++].scale = r->lora.alpha / (r->lora.rslora ? sqrt(rank) : rank);
    }
    if (n == 0) {
        st = pc_fail(PC_ERR_INPUT, "model.train: this model has no module that is given as lora");
        goto out;
    }
    st = pc_model_adapt(u->model, sites, n, true);
    if (!st)
        pc_params_init_from(&u->model->params, u->model->adapters.first, (uint64_t)r->top.seed);
out:
    free(list);
    free(sites);
    return st;
}

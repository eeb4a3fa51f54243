/*
 * export_peft.c - the adapters of a native checkpoint as a PEFT folder.
 */
#include "checkpoints/commands/export.h"

#include "checkpoints/commands/common.h"
#include "model/core/file.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pc_status floats(float **out, const pc_st_entry *e)
{
    const int64_t n = e->dim[0] * e->dim[1];
    *out = malloc((size_t)(n ? n : 1) * sizeof **out);
    if (!*out) return pc_fail(PC_ERR_MEMORY, "tensor '%.200s'", e->name);
    return pc_st_floats(*out, e, n);
}

static bool is_rslora(const pc_peft_pair *x)
{
    return x->r > 1 && x->scale * x->scale * (double)x->r > 0.999 * x->alpha * x->alpha &&
           x->scale * x->scale * (double)x->r < 1.001 * x->alpha * x->alpha;
}

static pc_status write_folder(const char *dir, const pc_supply *o, const convert_request *r)
{
    const pc_peft *p = &o->adapters[0];
    const pc_peft_pair *first = &p->list[0];
    pc_peft_config config = {
        .r = first->r,
        .alpha = first->alpha,
        .dropout = o->dropout,
        .rslora = is_rslora(first),
        .base = (char *)(uintptr_t)(r->base ? r->base : o->source.name),
        .task_type = o->shape.config.kind == PC_MODEL_VLM ? (char *)(uintptr_t) "CAUSAL_LM" : NULL,
    };
    pc_peft_out *list = calloc((size_t)p->count, sizeof *list);
    float **numbers = calloc((size_t)(2 * p->count), sizeof *numbers);
    pc_status st = list && numbers ? PC_OK : pc_fail(PC_ERR_MEMORY, "list of adapters");
    for (int64_t i = 0; i < p->count && !st; i++) {
        const pc_peft_pair *x = &p->list[i];
        if ((st = floats(&numbers[2 * i], x->A)) || (st = floats(&numbers[2 * i + 1], x->B))) break;
        list[i] = (pc_peft_out){.ours = x->ours,
                                .row = x->row,
                                .r = x->r,
                                .I = x->I,
                                .O = x->O,
                                .alpha = x->alpha,
                                .A = numbers[2 * i],
                                .B = numbers[2 * i + 1]};
    }
    if (!st)
        st = pc_peft_write(dir, &config, o->family, &o->shape.config, (int)r->layout, list,
                           p->count);
    for (int64_t i = 0; numbers && i < 2 * p->count; i++) free(numbers[i]);
    free(numbers);
    free(list);
    return st;
}

// The same base with the folder's adapters must be the model with its own.
static pc_status verify(pc_supply *o, const convert_request *r)
{
    const pc_verify_mode mode = convert_verify_mode(r->verify);
    const pc_verify_limits exact = pc_verify_type(PC_F32);
    pc_verify_report report = {0};
    pc_supply again;
    if (mode != PC_VERIFY_NONE) {
        pc_status st = pc_supply_open(&again, r->path);
        if (!st) {
            pc_supply_drop_adapters(&again);
            st = pc_supply_adapt(&again, r->out);
        }
        if (!st) st = pc_verify_against(&report, o, &again, &exact, mode, (uint64_t)r->seed);
        pc_supply_close(&again);
        if (st) return pc_context(st, "verifying '%s'", r->out);
    }
    convert_done(r->out, &report);
    return PC_OK;
}

pc_status convert_peft(pc_supply *o, const convert_request *r)
{
    char path[PATH_MAX];
    if (!o->own_adapters)
        return pc_fail(PC_ERR_INPUT,
                       "'%s' holds no low-rank adapters: train with `model: train: {...: lora}`, "
                       "or export it whole (--format hf)",
                       r->path);
    if (!o->family)
        return pc_fail(PC_ERR_INPUT,
                       "'%s' carries no config.json of a family: adapters go by its module names",
                       r->path);
    if (r->layout >= o->family->variants)
        return pc_fail(PC_ERR_INPUT, "--layout %lld: family %s has layouts 0 to %d",
                       (long long)r->layout, o->family->name, o->family->variants - 1);
    if (snprintf(path, sizeof path, "%s/adapter_config.json", r->out) >= (int)sizeof path)
        return pc_fail(PC_ERR_INPUT, "path is too long");
    if (pc_file_exists(path)) return pc_fail(PC_ERR_INPUT, "'%s' is there already", path);
    pc_status st = write_folder(r->out, o, r);
    if (!st) st = verify(o, r);
    if (st) {
        unlink(path);
        snprintf(path, sizeof path, "%s/adapter_model.safetensors", r->out);
        unlink(path);
    }
    return st;
}

/*
 * model.c - a model opened: its parameters listed and given memory.
 */
#include "model/networks/model.h"

#include <stdlib.h>

static void list_params(pc_model *m)
{
    if (m->config.kind == PC_MODEL_CLIP)
        pc_clip_params(&m->params, &m->clip, &m->config.clip);
    else
        pc_vlm_params(&m->params, &m->vlm, &m->config.vlm);
}

static void bind(pc_model *m, pc_arena *a, pc_dtype t)
{
    pc_params_bind_absent(&m->params, a, t);
    if (m->config.kind == PC_MODEL_VLM) pc_vlm_tables(&m->vlm, a, t);
}

// Counted first, then handed out: what the count has bound is taken away again.
static pc_status bind_all(pc_model *m, pc_dtype t)
{
    pc_arena dry;
    pc_params *p = &m->params;
    pc_weight *placed = calloc((size_t)p->count + 1, sizeof *placed);
    if (!placed) return pc_fail(PC_ERR_MEMORY, "%d parameters", p->count);
    for (int i = 0; i < p->count; i++) placed[i] = *p->list[i].weight;
    pc_arena_open_dry(&dry, "weights");
    bind(m, &dry, t);
    for (int i = 0; i < p->count; i++) *p->list[i].weight = placed[i];
    free(placed);
    const pc_status st = pc_arena_open(&m->weights, "weights", dry.peak);
    if (!st) bind(m, &m->weights, t);
    return st;
}

pc_status pc_model_open(pc_model *m, const pc_model_config *c, pc_dtype t, bool memory)
{
    *m = (pc_model){.config = *c};
    list_params(m);
    pc_status st = pc_params_end(&m->params);
    if (!st && memory) st = bind_all(m, t);
    if (st) pc_model_close(m);
    return st;
}

pc_status pc_model_bind_absent(pc_model *m)
{
    return bind_all(m, PC_F32);
}

void pc_model_close(pc_model *m)
{
    pc_clip_close(&m->clip);
    pc_vlm_close(&m->vlm);
    pc_params_close(&m->params);
    pc_adapters_close(&m->adapters);
    pc_arena_close(&m->weights);
    *m = (pc_model){0};
}

pc_status pc_model_adapt(pc_model *m, const pc_adapter_site *sites, int count, bool memory)
{
    if (m->adapters.count)
        return pc_fail(PC_ERR_INPUT, "the model has %d adapters already; merge them first",
                       m->adapters.count);
    return pc_adapters_open(&m->adapters, &m->params, sites, count, PC_F32, memory);
}

pc_status pc_model_replicate(pc_model *out, pc_model *master)
{
    pc_status st = pc_model_open(out, &master->config, PC_F32, false);
    const pc_adapters *a = &master->adapters;
    if (!st && a->count && (st = pc_model_adapt(out, a->sites, a->count, false)))
        pc_model_close(out);
    if (st) return st;
    pc_params_share_weights(&out->params, &master->params);
    out->vlm.decoder.rope = master->vlm.decoder.rope;
    out->vlm.grid.rope = master->vlm.grid.rope;
    return PC_OK;
}

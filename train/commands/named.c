/*
 * named.c - the checkpoint's names for what is trained here.
 */
#include "train/commands/named.h"

#include "train/objective.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const pc_runner_grad named_grad = {pc_cpu_grad_ops, pc_dry_grad_ops, pc_backend_device_grad_ops};

pc_status named_aliases(pc_aliases *out, const pc_bundle *b)
{
    *out = (pc_aliases){0};
    if (b->family) {
        for (int i = 0; i < b->aliases.count; i++) {
            const pc_alias *a = &b->aliases.list[i];
            pc_alias_add_part(out, a->ours, a->row, a->offset, a->count, a->rank, a->dim, "%s",
                              a->theirs);
            if (!out->status) out->list[out->count - 1].transposed = a->transposed;
        }
        return pc_adapters_names(out, &b->model);
    }
    for (int i = 0; i < b->model.params.count; i++) {
        const pc_param *p = &b->model.params.list[i];
        if (p->adapter) continue;
        pc_alias_add(out, p->name, 0, p->rank, p->dim, "%s", p->name);
    }
    return pc_adapters_names(out, &b->model);
}

void named_train_adapters(pc_model *m)
{
    for (int i = 0; i < m->params.count && m->adapters.count; i++)
        m->params.list[i].trainable = m->params.list[i].adapter;
}

void named_freeze_unreached(pc_model *m, const pc_given *g)
{
    if (m->config.kind == PC_MODEL_CLIP) return;
    if (!g->images) {
        pc_params_train(&m->params, "vision.", false);
        pc_params_train(&m->params, "projector.", false);
        return;
    }
    for (int i = 0; i < m->params.count; i++) {
        pc_param *p = &m->params.list[i];
        if (!pc_vlm_reads(&m->config.vlm, p->name)) p->trainable = false;
    }
}

// One tensor of the file to be: all entries of one name, gathered.
static pc_status gather(pc_st_out *out, bool *trained, const pc_aliases *names, int first,
                        pc_params *params, named_what what)
{
    const pc_alias *head = &names->list[first];
    const int64_t n = pc_alias_numel(head);
    int64_t filled = 0;
    float *data = NULL;

    *trained = false;
    for (int i = first; i < names->count; i++) {
        const pc_alias *a = &names->list[i];
        if (strcmp(a->theirs, head->theirs)) continue;
        const pc_param *p = pc_params_find(params, a->ours);
        PC_ASSERT(p, "'%s' is not in the list", a->ours);
        const pc_tensor x = what == NAMED_WEIGHTS ? p->weight->w : p->weight->g;
        if (!p->trainable) continue;
        if (!data && !(data = malloc((size_t)n * sizeof *data)))
            return pc_fail(PC_ERR_MEMORY, "tensor '%s'", head->theirs);
        pc_alias_to_theirs(data + a->offset, a, pc_alias_data(a, x));
        filled += a->count;
    }
    if (!filled) return PC_OK;
    if (filled != n) {
        free(data);
        return pc_fail(PC_ERR_INPUT, "tensor '%s': trained in part only", head->theirs);
    }
    *out = (pc_st_out){.dtype = PC_F32, .rank = head->rank, .data = data};
    snprintf(out->name, sizeof out->name, "%s", head->theirs);
    for (int i = 0; i < head->rank; i++) out->dim[i] = head->dim[i];
    *trained = true;
    return PC_OK;
}

static bool seen_before(const pc_aliases *names, int i)
{
    for (int k = i - 1; k >= 0 && k >= i - 4; k--) // parts stand next to each other
        if (!strcmp(names->list[k].theirs, names->list[i].theirs)) return true;
    return false;
}

pc_status named_write(const char *path, const pc_aliases *names, pc_params *params, named_what what,
                      const float *loss)
{
    pc_st_out *list = calloc((size_t)names->count + 1, sizeof *list);
    int64_t n = 0;
    pc_status st = PC_OK;

    if (!list) return pc_fail(PC_ERR_MEMORY, "list of %d tensors", names->count);
    for (int i = 0; i < names->count && !st; i++) {
        bool trained;
        if (seen_before(names, i)) continue;
        st = gather(&list[n], &trained, names, i, params, what);
        n += !st && trained;
    }
    const int64_t owned = n;
    if (loss) {
        list[n] = (pc_st_out){.dtype = PC_F32, .rank = 1, .dim = {1}, .data = loss};
        snprintf(list[n++].name, sizeof list[0].name, "loss");
    }
    if (!st) st = pc_safetensors_write(path, list, n, NULL);
    for (int64_t i = 0; i < owned; i++) free((void *)(uintptr_t)list[i].data);
    free(list);
    return st;
}

static bool *flag_of(pc_param *p, named_flag flag)
{
    return flag == NAMED_DECAY ? &p->decay : &p->trainable;
}

pc_status named_set(const pc_aliases *names, pc_params *params, const char *name, named_flag flag,
                    bool value)
{
    bool found = false;

    for (int i = 0; i < names->count; i++) {
        if (strcmp(names->list[i].theirs, name)) continue;
        pc_param *p = pc_params_find(params, names->list[i].ours);
        PC_ASSERT(p, "'%s' is not in the list", names->list[i].ours);
        *flag_of(p, flag) = value;
        found = true;
    }
    if (found) return PC_OK;
    return pc_fail(PC_ERR_INPUT, "the trace names a tensor '%s' that this model does not have",
                   name);
}

pc_status named_check(const pc_aliases *names, pc_params *params, named_flag flag, bool value,
                      bool (*name_is_set)(const char *name, void *arg), void *arg)
{
    for (int i = 0; i < names->count; i++) {
        pc_param *p = pc_params_find(params, names->list[i].ours);
        PC_ASSERT(p, "'%s' is not in the list", names->list[i].ours);
        if (*flag_of(p, flag) == value && !name_is_set(names->list[i].theirs, arg))
            return pc_fail(
                PC_ERR_INPUT,
                "the trace treats '%s' unlike its neighbours in one of our parameters (%s)",
                names->list[i].theirs, p->name);
    }
    return PC_OK;
}

void named_pass_run(pc_ctx *ctx, void *arg)
{
    named_pass *p = arg;
    const pc_given *g = p->given;

    if (p->model->config.kind == PC_MODEL_VLM) {
        p->loss = instruction_micro(ctx, &p->model->vlm, &g->vlm, p->coef);
        return;
    }
    pc_clip *l = &p->model->clip;
    const pc_micro_batch b = {.pixels = g->pixels, .text = g->text, .samples = g->B};
    pc_clip_kept kept;
    contrastive_forward(ctx, l, &kept, &b);
    const pc_tensor du = pc_alloc_like(ctx->act, kept.u), dv = pc_alloc_like(ctx->act, kept.v);
    p->loss = pc_clip_loss_backward(ctx, du, dv, l, kept.u, kept.v);
    contrastive_backward(ctx, l, &kept, &b, du, dv);
}

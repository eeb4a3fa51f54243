/*
 * placement.c - see placement.h.
 */
#include "model/networks/placement.h"

#include <stdlib.h>

enum { W, G, M, V, KINDS };

static pc_tensor *tensor_of(pc_param *p, int kind)
{
    return kind == W ? &p->weight->w : kind == G ? &p->weight->g : kind == M ? &p->m : &p->v;
}

static size_t bytes_of(pc_tensor x)
{
    return pc_present(x) ? (size_t)pc_numel(x) * pc_dtype_size(x.dtype) : 0;
}

static size_t rounded(size_t bytes)
{
    return (bytes + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN;
}

// The tables of rotary positions of a model: decoder and eyes.
enum { ROPES = 2, TABLES = 2 + 2 * PC_ROPE_AXES };

static pc_tensor *table_of(pc_model *m, int rope, int i)
{
    pc_rope *r = rope == 0 ? &m->vlm.decoder.rope : &m->vlm.grid.rope;
    if (i < 2) return i == 0 ? &r->cos_table : &r->sin_table;
    i -= 2;
    return i < PC_ROPE_AXES ? &r->cos_axis[i] : &r->sin_axis[i - PC_ROPE_AXES];
}

static pc_status check(const pc_model *m, const pc_memory *memory)
{
    for (int i = 0; i < m->params.count; i++)
        if (!pc_present(m->params.list[i].weight->w) || m->params.list[i].weight->w.dtype != PC_F32)
            return pc_fail(PC_ERR_INPUT, "'%s' is not in f32, as %s needs it",
                           m->params.list[i].name, memory->name);
    return PC_OK;
}

static void move(pc_arena *a, const pc_memory *memory, pc_tensor *x)
{
    if (!pc_present(*x)) return;
    const pc_tensor y = pc_alloc_like(a, *x);
    memory->copy(y.data, x->data, bytes_of(*x));
    *x = y;
}

pc_status pc_placement_open(pc_placement *out, pc_model *m, const pc_memory *memory)
{
    *out = (pc_placement){.memory = memory, .params = &m->params};
    if (!memory) return PC_OK;
    pc_status st = check(m, memory);
    if (st) {
        out->memory = NULL;
        return st;
    }
    size_t bytes = PC_ALIGN;
    for (int i = 0; i < m->params.count; i++)
        bytes += rounded(bytes_of(m->params.list[i].weight->w));
    const bool vlm = m->config.kind == PC_MODEL_VLM;
    for (int r = 0; r < ROPES && vlm; r++)
        for (int i = 0; i < TABLES; i++) bytes += rounded(bytes_of(*table_of(m, r, i)));
    out->list = calloc((size_t)m->params.count + 1, sizeof *out->list);
    st = out->list ? pc_arena_open_in(&out->arena, "weights", memory, bytes, 0)
                   : pc_fail(PC_ERR_MEMORY, "parameters");
    if (st) {
        free(out->list);
        *out = (pc_placement){0};
        return st;
    }
    for (int i = 0; i < m->params.count; i++) {
        pc_tensor *w = &m->params.list[i].weight->w;
        out->list[i].host[W] = w->data;
        move(&out->arena, memory, w);
        out->list[i].device[W] = w->data;
    }
    for (int r = 0; r < ROPES && vlm; r++)
        for (int i = 0; i < TABLES; i++) move(&out->arena, memory, table_of(m, r, i));
    memory->wait();
    return PC_OK;
}

void pc_placement_close(pc_placement *p)
{
    for (int i = 0; p->memory && i < p->params->count; i++)
        p->params->list[i].weight->w.data = p->list[i].host[W];
    free(p->list);
    pc_arena_close(&p->arena);
    pc_arena_close(&p->extra);
    *p = (pc_placement){0};
}

pc_status pc_placement_fetch(pc_placement *p)
{
    if (!p->memory) return PC_OK;
    if (!p->extra.base) {
        size_t bytes = 0;
        for (int i = 0; i < p->params->count; i++)
            for (int k = G; k < KINDS; k++)
                bytes += rounded(bytes_of(*tensor_of(&p->params->list[i], k)));
        const pc_status st =
            pc_arena_open(&p->extra, "the host's copy of gradients and moments", bytes);
        if (st) return st;
    }
    pc_arena_release(&p->extra, 0);
    for (int i = 0; i < p->params->count; i++)
        for (int k = W; k < KINDS; k++) {
            pc_tensor *x = tensor_of(&p->params->list[i], k);
            if (!pc_present(*x)) continue;
            p->list[i].device[k] = x->data;
            if (k != W) p->list[i].host[k] = pc_arena_bytes(&p->extra, rounded(bytes_of(*x)));
            p->memory->copy(p->list[i].host[k], x->data, bytes_of(*x));
            x->data = p->list[i].host[k];
        }
    p->memory->wait();
    return PC_OK;
}

void pc_placement_upload(pc_placement *p)
{
    for (int i = 0; p->memory && i < p->params->count; i++)
        for (int k = W; k < KINDS; k++) {
            const pc_tensor x = *tensor_of(&p->params->list[i], k);
            if (pc_present(x))
                p->memory->copy(p->list[i].device[k], p->list[i].host[k], bytes_of(x));
        }
    if (p->memory) p->memory->wait();
}

void pc_placement_return(pc_placement *p)
{
    for (int i = 0; p->memory && i < p->params->count; i++)
        for (int k = W; k < KINDS; k++) {
            pc_tensor *x = tensor_of(&p->params->list[i], k);
            if (pc_present(*x)) x->data = p->list[i].device[k];
        }
}

/*
 * mapped.c - see mapped.h.
 */
#include "checkpoints/mapped.h"

#include "checkpoints/hf.h"
#include "checkpoints/numbers.h"
#include "model/layers/linear.h"

#include <stdlib.h>
#include <string.h>

// A parameter's aliases in the order of its rows.
typedef struct runs {
    int alias[PC_PIECES];
    pc_tensor view[PC_PIECES]; // absent: to be read
    int count;                 // more than PC_PIECES when they do not fit
    int64_t numbers;           // of all of them
} runs;

static void add_run(runs *r, const pc_aliases *names, int alias)
{
    const pc_alias *a = &names->list[alias];
    r->numbers += a->count;
    if (r->count >= PC_PIECES) {
        r->count = PC_PIECES + 1;
        return;
    }
    int at = r->count++;
    for (; at > 0 && names->list[r->alias[at - 1]].row > a->row; at--)
        r->alias[at] = r->alias[at - 1];
    r->alias[at] = alias;
}

// Whole rows that follow one another from the first to the last.
static bool covers(const runs *r, const pc_param *p, const pc_aliases *names)
{
    int64_t row = 0;
    if (p->rank != 2 || r->count < 1 || r->count > (p->linear ? PC_PIECES : 1)) return false;
    for (int i = 0; i < r->count; i++) {
        const pc_alias *a = &names->list[r->alias[i]];
        if (a->transposed || a->row != row || a->offset % p->dim[1] || a->count % p->dim[1])
            return false;
        row += a->count / p->dim[1];
    }
    return row == p->dim[0];
}

// Views of what can stay; false when nothing can.
static bool find_views(runs *r, const pc_param *p, const pc_mapped_source *s)
{
    bool any = false;
    if (!p->stays || !covers(r, p, s->names)) return false;
    for (int i = 0; i < r->count; i++) {
        const pc_alias *a = &s->names->list[r->alias[i]];
        pc_dtype t;
        const void *data;
        r->view[i] = PC_NONE;
        if (!s->find(s->arg, r->alias[i], &t, &data) || p->dim[1] % pc_dtype_block(t)) continue;
        const unsigned char *first = (const unsigned char *)data + pc_dtype_bytes(t, a->offset);
        if (t == PC_F32 && (uintptr_t)first % sizeof(float)) continue;
        // Nothing writes through a weight in inference; the mapping would not let it.
        r->view[i] = pc_view2((void *)(uintptr_t)first, t, a->count / p->dim[1], p->dim[1]);
        any = true;
    }
    return any;
}

static pc_status read_rest(runs *r, const pc_param *p, pc_arena *room, const pc_mapped_source *s)
{
    for (int i = 0; i < r->count; i++) {
        if (pc_present(r->view[i])) continue;
        const pc_alias *a = &s->names->list[r->alias[i]];
        r->view[i] = pc_alloc2(room, PC_F32, a->count / p->dim[1], p->dim[1]);
        const pc_status st = s->read(s->arg, r->alias[i], r->view[i].data);
        if (st) return pc_context(st, "tensor '%s'", a->theirs);
    }
    return PC_OK;
}

// Every parameter's aliases; the room that matrices to be read will take.
static pc_status gather(runs *all, bool *stays, size_t *bytes, pc_model *m,
                        const pc_mapped_source *s)
{
    pc_params *params = &m->params;
    for (int i = 0; i < s->names->count; i++) {
        const pc_param *p = pc_params_find(params, s->names->list[i].ours);
        PC_ASSERT(p, "the list names '%s', the model has no such parameter",
                  s->names->list[i].ours);
        add_run(&all[p - params->list], s->names, i);
    }
    for (int i = 0; i < params->count; i++) {
        const pc_param *p = &params->list[i];
        int64_t numbers = 1;
        for (int k = 0; k < p->rank; k++) numbers *= p->dim[k];
        if (all[i].numbers != numbers)
            return pc_fail(PC_ERR_FORMAT, "parameter '%s': %lld of %lld numbers are in the files",
                           p->name, (long long)all[i].numbers, (long long)numbers);
        stays[i] = find_views(&all[i], p, s);
        for (int k = 0; stays[i] && k < all[i].count; k++)
            if (!pc_present(all[i].view[k]))
                *bytes += (size_t)s->names->list[all[i].alias[k]].count * sizeof(float) + PC_ALIGN;
    }
    return PC_OK;
}

pc_status pc_mapped_bind(pc_model *m, pc_arena *room, const pc_mapped_source *s)
{
    pc_params *params = &m->params;
    runs *all = calloc((size_t)params->count + 1, sizeof *all);
    bool *stays = calloc((size_t)params->count + 1, sizeof *stays);
    size_t bytes = 0;
    pc_status st =
        all && stays ? PC_OK : pc_fail(PC_ERR_MEMORY, "table of %d parameters", params->count);
    if (!st) st = gather(all, stays, &bytes, m, s);
    if (!st && bytes) st = pc_arena_open(room, "widened matrices", bytes);
    for (int i = 0; i < params->count && !st; i++) {
        if (!stays[i]) continue;
        st = read_rest(&all[i], &params->list[i], room, s);
        if (!st) pc_param_place(&params->list[i], all[i].view, all[i].count);
    }
    if (!st) st = pc_model_bind_absent(m);
    for (int i = 0; i < s->names->count && !st; i++) {
        const pc_alias *a = &s->names->list[i];
        const pc_param *p = pc_params_find(params, a->ours);
        if (stays[p - params->list]) continue;
        st = pc_context(s->read(s->arg, i, pc_alias_data(a, p->weight->w)), "tensor '%s'",
                        a->theirs);
    }
    free(all);
    free(stays);
    return st;
}

/* ---- tensors of safetensors, pickles and native checkpoints ---- */

typedef struct tensors {
    const pc_aliases *names;
    const pc_safetensors *files;
} tensors;

static bool find_tensor(void *arg, int alias, pc_dtype *t, const void **data)
{
    const tensors *x = arg;
    const pc_st_entry *e = pc_safetensors_find(x->files, x->names->list[alias].theirs);
    if (!e || !pc_dtype_from_text(t, e->dtype)) return false;
    *data = e->data;
    return *t == PC_F32 || *t == PC_BF16 || *t == PC_F16;
}

static pc_status read_tensor(void *arg, int alias, float *out)
{
    const tensors *x = arg;
    const pc_alias *a = &x->names->list[alias];
    return pc_hf_read(out, a, pc_safetensors_find(x->files, a->theirs));
}

pc_status pc_mapped_tensors(pc_model *m, pc_arena *room, const pc_aliases *names,
                            const pc_safetensors *files)
{
    tensors x = {names, files};
    const pc_mapped_source s = {names, find_tensor, read_tensor, &x};
    return pc_mapped_bind(m, room, &s);
}

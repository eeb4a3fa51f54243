/*
 * adapters.c - see adapters.h.
 */
#include "model/layers/adapters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 65536 }; // numbers of masks: 16 bits of a key

static const pc_param *find(const pc_params *p, const char *name)
{
    for (int i = 0; i < p->count; i++)
        if (!strcmp(p->list[i].name, name)) return &p->list[i];
    return NULL;
}

/* "decoder.blocks.0.attn.qkv.lora.0": where A and B are listed. */
static int prefix(char *out, size_t size, const pc_param *q, const pc_adapter_site *s)
{
    const size_t length = strlen(q->name) - strlen(".weight");
    char part[64] = "";
    int64_t row = 0;
    if (s->row != 0 || s->rows != q->dim[0])
        snprintf(part, sizeof part, ".rows%lld_%lld", (long long)s->row,
                 (long long)(s->row + s->rows));
    for (int i = 0; i < q->parts && q->parts > 1; row += q->part_rows[i++])
        if (s->row == row && s->rows == q->part_rows[i]) snprintf(part, sizeof part, ".%d", i);
    return snprintf(out, size, "%.*s.lora%s", (int)length, q->name, part);
}

void pc_adapter_names(char A[PC_NAME_MAX], char B[PC_NAME_MAX], const pc_params *p,
                      const pc_adapter_site *site)
{
    const pc_param *q = find(p, site->weight);
    PC_ASSERT(q, "'%s' is not in the list", site->weight);
    const int n = prefix(A, PC_NAME_MAX, q, site);
    PC_ASSERT(n > 0 && n + 2 < PC_NAME_MAX, "'%s' is too long for an adapter", q->name);
    snprintf(B, PC_NAME_MAX, "%s", A);
    strcat(A, ".A");
    strcat(B, ".B");
}

static pc_status check(const pc_params *p, const pc_adapter_site *s)
{
    const pc_param *q = find(p, s->weight);
    if (!q)
        return pc_fail(PC_ERR_INPUT, "adapter on '%s': the model has no such weight", s->weight);
    if (!q->linear)
        return pc_fail(PC_ERR_INPUT, "adapter on '%s': only matrices of linear layers take one",
                       s->weight);
    if (s->row < 0 || s->rows < 1 || s->rows > q->dim[0] || s->row > q->dim[0] - s->rows)
        return pc_fail(PC_ERR_INPUT, "adapter on %lld rows from %lld on of '%s', which has %lld",
                       (long long)s->rows, (long long)s->row, s->weight, (long long)q->dim[0]);
    if (s->r < 1 || s->r > INT32_MAX || !isfinite(s->scale))
        return pc_fail(PC_ERR_INPUT, "adapter on '%s': rank %lld, scale %g", s->weight,
                       (long long)s->r, s->scale);
    for (const pc_adapter *a = q->linear->adapters; a; a = a->next)
        if (s->row < a->row + a->rows && a->row < s->row + s->rows)
            return pc_fail(PC_ERR_INPUT, "two adapters on row %lld of '%s'",
                           (long long)(s->row > a->row ? s->row : a->row), s->weight);
    return PC_OK;
}

/* Lists A and B and hangs the adapter behind those of its linear. */
static pc_status add(pc_adapters *set, pc_params *p, int i)
{
    const pc_adapter_site *s = &set->sites[i];
    const pc_status st = check(p, s);
    if (st) return st;
    pc_adapter *a = &set->list[i];
    pc_linear *l = find(p, s->weight)->linear;
    char name[PC_NAME_MAX];
    const int n = prefix(name, sizeof name, find(p, s->weight), s);
    PC_ASSERT(n > 0 && n + 2 < PC_NAME_MAX, "'%s' is too long for an adapter", s->weight);
    *a = (pc_adapter){.row = s->row, .rows = s->rows, .r = s->r, .scale = s->scale, .number = i};
    const size_t before = pc_params_push(p, "%s", name);
    const int first = p->count;
    pc_param_add(p, &a->A, "A", PC_INIT_UNIFORM, 1.0 / sqrt((double)l->I), PC_DIMS(s->r, l->I));
    pc_param_add(p, &a->B, "B", PC_INIT_ZERO, 0.0, PC_DIMS(s->rows, s->r));
    pc_params_pop(p, before);
    if (p->status) return p->status;
    for (int k = first; k < p->count; k++) p->list[k].adapter = true;
    pc_adapter **at = &l->adapters;
    while (*at) at = &(*at)->next;
    *at = a;
    return PC_OK;
}

pc_status pc_adapters_open(pc_adapters *a, pc_params *p, const pc_adapter_site *sites, int count,
                           pc_dtype t, bool bind)
{
    *a = (pc_adapters){.first = p->count};
    if (count >= MOST) return pc_fail(PC_ERR_INPUT, "%d adapters; at most %d", count, MOST - 1);
    a->list = calloc((size_t)count + 1, sizeof *a->list);
    a->sites = calloc((size_t)count + 1, sizeof *a->sites);
    if (!a->list || !a->sites) {
        pc_adapters_close(a);
        return pc_fail(PC_ERR_MEMORY, "%d adapters", count);
    }
    if (count) memcpy(a->sites, sites, (size_t)count * sizeof *sites);
    pc_status st = PC_OK;
    for (int i = 0; i < count && !st; i++) {
        st = add(a, p, i);
        a->count += !st;
    }
    if (st || !bind) return st;
    pc_arena dry;
    pc_arena_open_dry(&dry, "adapters");
    pc_params_bind_weights_from(p, a->first, &dry, t);
    if ((st = pc_arena_open(&a->memory, "adapters", dry.peak))) return st;
    pc_params_bind_weights_from(p, a->first, &a->memory, t);
    return PC_OK;
}

void pc_adapters_close(pc_adapters *a)
{
    free(a->list);
    free(a->sites);
    pc_arena_close(&a->memory);
    *a = (pc_adapters){0};
}

/* Rows of W, one after the other: the update is summed in double, then added. */
static void merge(pc_tensor w, const pc_adapter *a, double *sum)
{
    const int64_t I = a->A.w.dim[1];
    for (int64_t o = 0; o < a->rows; o++) {
        const float *b = pc_f32(a->B.w, o);
        float *row = pc_f32(w, a->row + o);
        memset(sum, 0, (size_t)I * sizeof *sum);
        for (int64_t k = 0; k < a->r; k++) {
            const float *v = pc_f32(a->A.w, k);
            const double factor = a->scale * (double)b[k];
            for (int64_t i = 0; i < I; i++) sum[i] += factor * (double)v[i];
        }
        for (int64_t i = 0; i < I; i++) row[i] += (float)sum[i];
    }
}

pc_status pc_adapters_merge(pc_adapters *a, pc_params *p)
{
    int64_t widest = 1;
    PC_ASSERT(p->count == a->first + 2 * a->count, "%d parameters behind %d, of %d adapters",
              p->count, a->first, a->count);
    for (int i = 0; i < a->count; i++) {
        const pc_param *q = find(p, a->sites[i].weight);
        if (!pc_present(q->weight->w) || q->weight->w.dtype != PC_F32)
            return pc_fail(PC_ERR_INPUT,
                           "adapters are merged into weights in memory; '%s' lies in its file",
                           q->name);
        if (q->dim[1] > widest) widest = q->dim[1];
    }
    double *sum = malloc((size_t)widest * sizeof *sum);
    if (!sum) return pc_fail(PC_ERR_MEMORY, "a row of %lld numbers", (long long)widest);
    for (int i = 0; i < a->count; i++) {
        pc_linear *l = find(p, a->sites[i].weight)->linear;
        merge(l->weight.w, &a->list[i], sum);
        l->adapters = NULL;
    }
    free(sum);
    p->count = a->first;
    pc_adapters_close(a);
    return PC_OK;
}

/*
 * fp8.c - see fp8.h.
 */
#include "train/fp8.h"

#include <stdlib.h>
#include <string.h>

bool fp8_takes(const pc_param *q)
{
    return q->linear && q->hidden && !q->adapter && q->rank == 2 &&
           strstr(q->name, "blocks.") != NULL && pc_fp8_fits(PC_FP8_LEAST, q->dim[1], q->dim[0]);
}

static size_t rounded(size_t bytes)
{
    return (bytes + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN;
}

// Bytes of the device's arrays of so many matrices.
static size_t array_bytes(int64_t count)
{
    const size_t n = (size_t)(PC_FP8_OPERANDS * count);
    return rounded(n * PC_FP8_HISTORY * sizeof(float)) + rounded(n * sizeof(float)) +
           rounded(n * PC_FP8_APART * sizeof(float)) + rounded(n * sizeof(int32_t)) +
           rounded(sizeof(int32_t));
}

static int64_t matrix_bytes(const pc_param *q)
{
    return (int64_t)rounded((size_t)(q->dim[0] * q->dim[1]));
}

size_t fp8_bytes(const pc_params *p)
{
    size_t bytes = PC_ALIGN;
    int64_t count = 0;
    for (int i = 0; i < p->count; i++) {
        if (!fp8_takes(&p->list[i])) continue;
        bytes += 2 * (size_t)matrix_bytes(&p->list[i]);
        count++;
    }
    return bytes + array_bytes(count);
}

static int by_address(const void *a, const void *b)
{
    const uintptr_t x = (uintptr_t)((const pc_fp8_matrix *)a)->w.data,
                    y = (uintptr_t)((const pc_fp8_matrix *)b)->w.data;
    return (x > y) - (x < y);
}

static void list_matrices(fp8_state *f)
{
    pc_fp8 *t = &f->table;
    for (int i = 0; i < f->params->count; i++) {
        const pc_param *q = &f->params->list[i];
        if (!fp8_takes(q)) continue;
        PC_ASSERT(q->weight->w.dtype == PC_BF16, "'%s' is of %s", q->name,
                  pc_dtype_name(q->weight->w.dtype));
        const size_t bytes = (size_t)matrix_bytes(q);
        t->list[t->count++] = (pc_fp8_matrix){.w = q->weight->w,
                                              .frozen = !q->trainable,
                                              .rows = pc_arena_numbers(&f->arena, bytes),
                                              .turned = pc_arena_numbers(&f->arena, bytes)};
    }
    qsort(t->list, (size_t)t->count, sizeof *t->list, by_address);
}

// Each parameter's part of the history.
static void share_history(fp8_state *f)
{
    for (int i = 0; i < f->params->count; i++) {
        pc_param *q = &f->params->list[i];
        q->history = PC_NONE;
        int64_t first;
        const pc_fp8_matrix *m = fp8_takes(q) ? pc_fp8_find(&f->table, q->weight->w, &first) : NULL;
        if (!m) continue;
        const int64_t at = m - f->table.list;
        q->history = pc_view2(f->history + at * PC_FP8_OPERANDS * PC_FP8_HISTORY, PC_F32,
                              PC_FP8_OPERANDS, PC_FP8_HISTORY);
        f->param[at] = i;
    }
}

pc_status fp8_open(fp8_state *f, pc_params *p, const pc_backend *b)
{
    *f = (fp8_state){.params = p, .memory = b->memory};
    PC_ASSERT(b->memory && b->fp8, "%s has no eight bits", b->name);
    const size_t most = (size_t)p->count + 1;
    pc_status st = pc_arena_open_in(&f->arena, "fp8", b->memory, fp8_bytes(p), 0);
    f->table.list = calloc(most, sizeof *f->table.list);
    f->param = calloc(most, sizeof *f->param);
    f->history = calloc(most * PC_FP8_OPERANDS * PC_FP8_HISTORY, sizeof *f->history);
    if (!st && !(f->table.list && f->param && f->history)) st = pc_fail(PC_ERR_MEMORY, "fp8");
    if (st) {
        fp8_close(f);
        return st;
    }
    list_matrices(f);
    pc_fp8 *t = &f->table;
    const size_t n = (size_t)(PC_FP8_OPERANDS * t->count);
    t->history = pc_arena_numbers(&f->arena, n * PC_FP8_HISTORY * sizeof *t->history);
    t->scale = pc_arena_numbers(&f->arena, n * sizeof *t->scale);
    t->inverse = pc_arena_numbers(&f->arena, n * PC_FP8_APART * sizeof *t->inverse);
    t->largest = pc_arena_numbers(&f->arena, n * sizeof *t->largest);
    t->probe = pc_arena_numbers(&f->arena, sizeof *t->probe);
    share_history(f);
    fp8_upload(f);
    return PC_OK;
}

void fp8_close(fp8_state *f)
{
    for (int i = 0; i < f->table.count; i++) f->params->list[f->param[i]].history = PC_NONE;
    pc_arena_close(&f->arena);
    free(f->table.list);
    free(f->param);
    free(f->history);
    *f = (fp8_state){0};
}

static size_t history_bytes(const fp8_state *f)
{
    return (size_t)(f->table.count * PC_FP8_OPERANDS * PC_FP8_HISTORY) * sizeof(float);
}

void fp8_fetch(fp8_state *f)
{
    if (!f->memory || f->table.count == 0) return;
    f->memory->copy(f->history, f->table.history, history_bytes(f));
    f->memory->wait();
}

void fp8_upload(fp8_state *f)
{
    if (!f->memory || f->table.count == 0) return;
    const int n = PC_FP8_OPERANDS * f->table.count;
    int32_t *none = malloc((size_t)n * sizeof *none);
    PC_ASSERT(none, "no memory for %d numbers", n);
    for (int i = 0; i < n; i++) {
        none[i] = -1;
        pc_fp8_matrix *m = &f->table.list[i / PC_FP8_OPERANDS];
        m->seen[i % PC_FP8_OPERANDS] = f->history[(int64_t)i * PC_FP8_HISTORY] > 0.0f;
        m->used[i % PC_FP8_OPERANDS] = m->made = false;
    }
    f->memory->copy(f->table.history, f->history, history_bytes(f));
    f->memory->copy(f->table.largest, none, (size_t)n * sizeof *none);
    f->memory->wait();
    free(none);
    pc_backend_fp8_next(&f->table);
}

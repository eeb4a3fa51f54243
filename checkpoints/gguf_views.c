/*
 * gguf_views.c - a model whose matrices stay in GGUF files, in their types; see gguf_model.h.
 *
 * Blocks never cross rows, so that a permuted matrix is put into our order by copying its rows as they are stored.
 */
#include "checkpoints/gguf_model.h"
#include "checkpoints/mapped.h"

#include <stdlib.h>
#include <string.h>

// The element type that views have; false for one that products do not read.
static bool view_type(pc_dtype *out, const pc_quant_type *t)
{
    static const pc_dtype plain[] = {PC_F32, PC_F16, PC_BF16};
    static const int ids[] = {PC_Q_F32, PC_Q_F16, PC_Q_BF16};
    for (int i = 0; i < 3; i++)
        if (t->id == ids[i]) {
            *out = plain[i];
            return true;
        }
    for (int d = PC_Q4_0; d <= PC_Q6_K; d++)
        if (pc_dtype_quant((pc_dtype)d) == t->id) {
            *out = (pc_dtype)d;
            return true;
        }
    return false;
}

// Row 2j and 2j + 1 of a head in the file are j and j + D/2 of ours.
static void unpermute_bytes(unsigned char *out, const unsigned char *in, int64_t rows,
                            int64_t heads, size_t row)
{
    const int64_t D = rows / heads;
    for (int64_t h = 0; h < heads; h++, in += (size_t)D * row, out += (size_t)D * row)
        for (int64_t j = 0; j < D / 2; j++) {
            memcpy(out + (size_t)j * row, in + (size_t)(2 * j) * row, row);
            memcpy(out + (size_t)(j + D / 2) * row, in + (size_t)(2 * j + 1) * row, row);
        }
}

static bool find(void *arg, int alias, pc_dtype *t, const void **data)
{
    pc_gguf_views *v = arg;
    const pc_gguf_model *m = &v->model;
    const pc_alias *a = &m->aliases.list[alias];
    pc_gguf_tensor x;
    if (!pc_gguf_model_find(&x, m, alias) || !view_type(t, x.type)) return false;
    if (pc_gguf_frame(a, &m->config) >= 0) return false;
    const int64_t heads =
        alias < m->eyes_first ? pc_gguf_permuted(a, &m->config.vlm.decoder, m->llama) : 0;
    *data = x.data;
    if (!heads || a->rank != 2) return !heads;
    unsigned char *copy = malloc(x.bytes);
    if (!copy) return false; // then it is read, which says that there is no memory
    unpermute_bytes(copy, x.data, a->dim[0], heads, x.bytes / (size_t)a->dim[0]);
    v->copies[v->count++] = copy;
    *data = copy;
    return true;
}

static pc_status read_alias(void *arg, int alias, float *out)
{
    const pc_gguf_views *v = arg;
    return pc_gguf_model_read(out, &v->model, alias);
}

pc_status pc_gguf_views_bind(pc_gguf_views *out, pc_model *model, pc_arena *room, pc_gguf_model *m)
{
    *out = (pc_gguf_views){.model = *m};
    *m = (pc_gguf_model){0};
    out->copies = calloc((size_t)out->model.aliases.count + 1, sizeof *out->copies);
    pc_status st = out->copies ? PC_OK : pc_fail(PC_ERR_MEMORY, "table of matrices");
    if (!st) st = pc_gguf_model_check(&out->model);
    const pc_mapped_source s = {&out->model.aliases, find, read_alias, out};
    return st ? st : pc_mapped_bind(model, room, &s);
}

void pc_gguf_views_close(pc_gguf_views *v)
{
    for (int i = 0; i < v->count; i++) free(v->copies[i]);
    free(v->copies);
    pc_gguf_model_close(&v->model);
    *v = (pc_gguf_views){0};
}

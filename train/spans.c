/*
 * spans.c - see spans.h.
 */
#include "train/spans.h"

#include <stdlib.h>

static int64_t numel(const pc_param *p)
{
    int64_t n = 1;
    for (int i = 0; i < p->rank; i++) n *= p->dim[i];
    return n;
}

int64_t span_next(const pc_param *p, int64_t first)
{
    return p->trainable ? first + (numel(p) + 7) / 8 * 8 : first;
}

static void *at(pc_tensor x, int64_t i)
{
    return pc_present(x) ? (unsigned char *)x.data + (size_t)i * pc_dtype_size(x.dtype) : NULL;
}

pc_piece span_piece(const pc_param *p, const span *s)
{
    return (pc_piece){.w = at(p->weight->w, s->begin),
                      .master = at(p->master, s->begin),
                      .m = at(p->m, s->begin),
                      .v = at(p->v, s->begin),
                      .g = at(p->weight->g, s->begin),
                      .n = s->end - s->begin,
                      .first = s->first + s->begin,
                      .lr_scale = p->lr_scale,
                      .decay = p->decay ? 1.0 : 0.0,
                      .w_type = p->weight->w.dtype,
                      .moment_type = p->m.dtype,
                      .g_type = p->weight->g.dtype};
}

pc_status spans_open(spans *s, const pc_params *p, int64_t length)
{
    *s = (spans){0};
    int64_t count = 0;
    for (int i = 0; i < p->count; i++)
        if (p->list[i].trainable) count += (numel(&p->list[i]) + length - 1) / length;
    s->list = calloc((size_t)count + 1, sizeof *s->list);
    if (!s->list) return pc_fail(PC_ERR_MEMORY, "list of %lld parameter pieces", (long long)count);
    int64_t first = 0;
    for (int i = 0; i < p->count; i++) {
        if (!p->list[i].trainable) continue;
        const int64_t n = numel(&p->list[i]);
        for (int64_t begin = 0; begin < n; begin += length) {
            const int64_t end = begin + length < n ? begin + length : n;
            s->list[s->count++] = (span){.param = i, .begin = begin, .end = end, .first = first};
        }
        first = span_next(&p->list[i], first);
    }
    return PC_OK;
}

void spans_close(spans *s)
{
    free(s->list);
    *s = (spans){0};
}

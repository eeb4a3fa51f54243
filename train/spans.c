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

pc_status spans_open(spans *s, const pc_params *p)
{
    *s = (spans){0};
    int64_t count = 0;
    for (int i = 0; i < p->count; i++)
        if (p->list[i].trainable) count += (numel(&p->list[i]) + SPAN_LENGTH - 1) / SPAN_LENGTH;
    s->list = calloc((size_t)count + 1, sizeof *s->list);
    if (!s->list) return pc_fail(PC_ERR_MEMORY, "list of %lld parameter pieces", (long long)count);
    for (int i = 0; i < p->count; i++) {
        if (!p->list[i].trainable) continue;
        const int64_t n = numel(&p->list[i]);
        for (int64_t begin = 0; begin < n; begin += SPAN_LENGTH) {
            const int64_t end = begin + SPAN_LENGTH < n ? begin + SPAN_LENGTH : n;
            s->list[s->count++] = (span){.param = i, .begin = begin, .end = end};
        }
    }
    return PC_OK;
}

void spans_close(spans *s)
{
    free(s->list);
    *s = (spans){0};
}

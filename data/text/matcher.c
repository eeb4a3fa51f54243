/*
 * matcher.c - one look into a hash table for every length that occurs with the first byte.
 */
#include "data/text/matcher.h"

#include <stdlib.h>
#include <string.h>

pc_status pc_matcher_add(pc_matcher *m, const char *text, size_t size, int64_t value)
{
    if (size == 0 || size > INT32_MAX) return pc_fail(PC_ERR_FORMAT, "a token of %zu bytes", size);
    if (!pc_bytemap_add(&m->map, text, size, value, NULL))
        return pc_fail(PC_ERR_MEMORY, "%lld tokens", (long long)m->map.count);
    return PC_OK;
}

typedef struct start {
    int32_t length;
    unsigned char byte;
} start;

static int by_byte_and_length(const void *a, const void *b)
{
    const start *x = a, *y = b;
    if (x->byte != y->byte) return x->byte < y->byte ? -1 : 1;
    return (x->length < y->length) - (x->length > y->length);
}

pc_status pc_matcher_finish(pc_matcher *m)
{
    const int64_t n = m->map.count;
    start *all = malloc((size_t)(n + 1) * sizeof *all);
    free(m->length);
    m->length = malloc((size_t)(n + 1) * sizeof *m->length);
    if (!all || !m->length) {
        free(all);
        return pc_fail(PC_ERR_MEMORY, "%lld tokens", (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        const pc_byte_entry *e = &m->map.entries[i];
        all[i] = (start){(int32_t)e->size, (unsigned char)*pc_bytemap_key(&m->map, e)};
    }
    qsort(all, (size_t)n, sizeof *all, by_byte_and_length);
    int64_t used = 0, i = 0;
    for (int b = 0; b < 256; b++) {
        m->begin[b] = used;
        for (; i < n && all[i].byte == b; i++)
            if (used == m->begin[b] || m->length[used - 1] != all[i].length)
                m->length[used++] = all[i].length;
    }
    m->begin[256] = used;
    free(all);
    return PC_OK;
}

void pc_matcher_close(pc_matcher *m)
{
    pc_bytemap_close(&m->map);
    free(m->length);
    *m = (pc_matcher){0};
}

int64_t pc_matcher_find(const pc_matcher *m, size_t *length, const char *text, size_t size)
{
    const unsigned char first = (unsigned char)*text;
    for (int64_t i = m->begin[first]; i < m->begin[first + 1]; i++) {
        const size_t n = (size_t)m->length[i];
        if (n > size) continue;
        const int64_t value = pc_bytemap_find(&m->map, text, n);
        if (value < 0) continue;
        *length = n;
        return value;
    }
    return -1;
}

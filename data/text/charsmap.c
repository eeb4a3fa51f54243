/*
 * charsmap.c - a double-array trie: in unit u the label is u & 0x800000FF, bit 8 says that a value follows, and
 * the offset to the children is (u >> 10) << ((u & 0x200) >> 6); a value is u & 0x7FFFFFFF. Replacements are UTF-8
 * and begin with a character, whatever a trie points at: what texts become is text.
 */
#include "data/text/charsmap.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

static uint32_t u32_at(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

pc_status pc_charsmap_open(pc_charsmap *m, const void *bytes, size_t size)
{
    const unsigned char *p = bytes;
    *m = (pc_charsmap){0};
    if (size == 0) return PC_OK;
    const size_t trie = size >= 4 ? u32_at(p) : 0;
    if (size < 8 || trie == 0 || trie % 4 || trie > size - 4 || size - 4 - trie == 0)
        return pc_fail(PC_ERR_FORMAT,
                       "precompiled_charsmap: a trie of %zu bytes in a table of %zu bytes", trie,
                       size);
    if (p[size - 1] != '\0')
        return pc_fail(PC_ERR_FORMAT, "precompiled_charsmap: the last replacement has no end");
    if (!pc_utf8_valid((const char *)p + 4 + trie, size - 4 - trie))
        return pc_fail(PC_ERR_FORMAT, "precompiled_charsmap: a replacement is no UTF-8 text");
    m->units = trie / 4;
    m->size = size - 4 - trie;
    m->unit = malloc(trie);
    m->replacement = malloc(m->size);
    if (!m->unit || !m->replacement) {
        pc_charsmap_close(m);
        return pc_fail(PC_ERR_MEMORY, "a table of %zu bytes", size);
    }
    for (size_t i = 0; i < m->units; i++) m->unit[i] = u32_at(p + 4 + 4 * i);
    memcpy(m->replacement, p + 4 + trie, m->size);
    return PC_OK;
}

void pc_charsmap_close(pc_charsmap *m)
{
    free(m->unit);
    free(m->replacement);
    *m = (pc_charsmap){0};
}

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & 0x200) >> 6);
}

static size_t find(const pc_charsmap *m, const char **replacement, const char *text, size_t size,
                   bool first)
{
    size_t found = 0;
    if (m->units == 0) return 0;
    size_t node = offset_of(m->unit[0]);
    for (size_t i = 0; i < size && !(first && found); i++) {
        const unsigned char c = (unsigned char)text[i];
        node ^= c;
        if (node >= m->units || (m->unit[node] & 0x800000FF) != c) break;
        const bool leaf = m->unit[node] >> 8 & 1;
        node ^= offset_of(m->unit[node]);
        if (!leaf || node >= m->units) continue;
        const uint32_t value = m->unit[node] & 0x7FFFFFFF;
        if (value >= m->size || ((unsigned char)m->replacement[value] & 0xC0) == 0x80) continue;
        found = i + 1;
        *replacement = m->replacement + value;
    }
    return found;
}

size_t pc_charsmap_find(const pc_charsmap *m, const char **replacement, const char *text,
                        size_t size)
{
    return find(m, replacement, text, size, false);
}

size_t pc_charsmap_first(const pc_charsmap *m, const char **replacement, const char *text,
                         size_t size)
{
    return find(m, replacement, text, size, true);
}

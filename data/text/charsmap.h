/*
 * charsmap.h - SentencePiece's table of characters: a trie of prefixes and what stands for them (spec:
 * tokenizers.md 1). Little-endian: u32 size of the trie in bytes; the trie's units; NUL-terminated replacements.
 */
#ifndef PC_DATA_CHARSMAP_H
#define PC_DATA_CHARSMAP_H

#include "model/core/status.h"

typedef struct pc_charsmap {
    uint32_t *unit;
    size_t units;
    char *replacement; // the last byte is a NUL
    size_t size;
} pc_charsmap;

pc_status pc_charsmap_open(pc_charsmap *m, const void *bytes, size_t size);
void pc_charsmap_close(pc_charsmap *m);
// The longest prefix of text that is in the table: its length and its replacement. 0: none.
size_t pc_charsmap_find(const pc_charsmap *m, const char **replacement, const char *text,
                        size_t size);
// The shortest one.
size_t pc_charsmap_first(const pc_charsmap *m, const char **replacement, const char *text,
                         size_t size);

#endif

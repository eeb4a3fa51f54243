/*
 * bytemap.h - from byte strings to numbers: vocabularies, word counts, image paths.
 *
 * Open addressing over a list of entries in the order in which they came, so that walking the entries
 * gives the same order every time. Keys are copied and may hold any bytes.
 */
#ifndef PC_DATA_BYTEMAP_H
#define PC_DATA_BYTEMAP_H

#include "model/core/status.h"

typedef struct pc_byte_entry {
    size_t at, size; // the key: keys + at
    uint64_t hash;
    int64_t value;
} pc_byte_entry;

typedef struct pc_bytemap {
    pc_byte_entry *entries;
    int64_t count, capacity;
    uint32_t *slots; // entry number + 1; 0 is free
    size_t slot_count;
    char *keys;
    size_t keys_used, keys_room;
} pc_bytemap;

void pc_bytemap_close(pc_bytemap *m); // a zeroed map is an empty one

// The entry of the key, made with `value` when it is new (then *made is true). NULL: no memory.
// Pointers to entries last until the next call that makes one.
pc_byte_entry *pc_bytemap_add(pc_bytemap *m, const void *key, size_t size, int64_t value,
                              bool *made);
int64_t pc_bytemap_find(const pc_bytemap *m, const void *key, size_t size); // its value; -1: none

static inline const char *pc_bytemap_key(const pc_bytemap *m, const pc_byte_entry *e)
{
    return m->keys + e->at;
}

uint64_t pc_hash_bytes(const void *bytes, size_t size);

#endif

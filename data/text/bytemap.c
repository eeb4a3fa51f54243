/*
 * bytemap.c - open addressing with linear probing, at most half full.
 */
#include "data/text/bytemap.h"

#include <stdlib.h>
#include <string.h>

void pc_bytemap_close(pc_bytemap *m)
{
    free(m->entries);
    free(m->slots);
    free(m->keys);
    *m = (pc_bytemap){0};
}

uint64_t pc_hash_bytes(const void *bytes, size_t size)
{
    // Eight bytes at a time through a multiply and a fold; the tail is padded with its own length.
    const unsigned char *p = bytes;
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15) ^ size;
    while (size >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * UINT64_C(0xbf58476d1ce4e5b9);
        h ^= h >> 32;
        p += 8;
        size -= 8;
    }
    uint64_t tail = size;
    for (size_t i = 0; i < size; i++) tail = tail << 8 | p[i];
    h = (h ^ tail) * UINT64_C(0x94d049bb133111eb);
    h ^= h >> 29;
    h *= UINT64_C(0xbf58476d1ce4e5b9);
    return h ^ (h >> 32);
}

/* The slot that holds the key, or the free one where it belongs. */
static size_t find_slot(const pc_bytemap *m, const void *key, size_t size, uint64_t hash)
{
    size_t slot = (size_t)hash & (m->slot_count - 1);
    while (m->slots[slot] != 0) {
        const pc_byte_entry *e = &m->entries[m->slots[slot] - 1];
        if (e->hash == hash && e->size == size && memcmp(m->keys + e->at, key, size) == 0) break;
        slot = (slot + 1) & (m->slot_count - 1);
    }
    return slot;
}

static bool grow_slots(pc_bytemap *m)
{
    const size_t wanted = m->slot_count ? 2 * m->slot_count : 64;
    uint32_t *slots = calloc(wanted, sizeof *slots);
    if (!slots) return false;
    for (int64_t i = 0; i < m->count; i++) {
        size_t slot = (size_t)m->entries[i].hash & (wanted - 1);
        while (slots[slot] != 0) slot = (slot + 1) & (wanted - 1);
        slots[slot] = (uint32_t)i + 1;
    }
    free(m->slots);
    m->slots = slots;
    m->slot_count = wanted;
    return true;
}

static bool make_room(pc_bytemap *m, size_t key_size)
{
    if (m->count == m->capacity) {
        const int64_t wanted = m->capacity ? 2 * m->capacity : 32;
        if (wanted >= UINT32_MAX) return false;
        pc_byte_entry *entries = realloc(m->entries, (size_t)wanted * sizeof *entries);
        if (!entries) return false;
        m->entries = entries;
        m->capacity = wanted;
    }
    if (m->keys_room - m->keys_used < key_size + 1) {
        size_t wanted = m->keys_room ? 2 * m->keys_room : 256;
        while (wanted - m->keys_used < key_size + 1) wanted *= 2;
        char *keys = realloc(m->keys, wanted);
        if (!keys) return false;
        m->keys = keys;
        m->keys_room = wanted;
    }
    return 2 * (size_t)(m->count + 1) <= m->slot_count || grow_slots(m);
}

pc_byte_entry *pc_bytemap_add(pc_bytemap *m, const void *key, size_t size, int64_t value,
                              bool *made)
{
    const uint64_t hash = pc_hash_bytes(key, size);
    if (made) *made = false;
    if (m->slot_count) {
        const size_t slot = find_slot(m, key, size, hash);
        if (m->slots[slot] != 0) return &m->entries[m->slots[slot] - 1];
    }
    if (!make_room(m, size)) return NULL;
    const size_t slot = find_slot(m, key, size, hash);
    pc_byte_entry *e = &m->entries[m->count];
    *e = (pc_byte_entry){.at = m->keys_used, .size = size, .hash = hash, .value = value};
    if (size) memcpy(m->keys + m->keys_used, key, size);
    m->keys[m->keys_used + size] = '\0';
    m->keys_used += size + 1;
    m->slots[slot] = (uint32_t)++m->count;
    if (made) *made = true;
    return e;
}

int64_t pc_bytemap_find(const pc_bytemap *m, const void *key, size_t size)
{
    if (m->slot_count == 0) return -1;
    const size_t slot = find_slot(m, key, size, pc_hash_bytes(key, size));
    return m->slots[slot] ? m->entries[m->slots[slot] - 1].value : -1;
}

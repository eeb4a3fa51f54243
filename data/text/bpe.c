/*
 * bpe.c - the merges of one word, and the memory of words seen before.
 *
 * Start with the word's bytes; again and again merge the neighbouring pair of lowest rank, the leftmost
 * first, until no pair of neighbours is in the table. A heap of pairs by (rank, place) over a doubly linked
 * list of symbols: n log n, so that a word of a million letters ends too.
 */
#include "data/text/bpe.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- the byte alphabet: 33-126, 161-172, 174-255 stand for themselves, the other 68 follow U+0100 ---- */

static bool stands_for_itself(int byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

uint32_t pc_byte_char(int byte)
{
    if (stands_for_itself(byte)) return (uint32_t)byte;
    if (byte <= 32) return 0x100 + (uint32_t)byte;
    return byte == 173 ? 0x143 : 0x121 + (uint32_t)(byte - 127);
}

int pc_byte_of_char(uint32_t code)
{
    if (code < 0x100) return stands_for_itself((int)code) ? (int)code : -1;
    if (code <= 0x120) return (int)code - 0x100;
    if (code <= 0x142) return (int)code - 0x121 + 127;
    return code == 0x143 ? 173 : -1;
}

/* ---- the merge table ---- */

size_t pc_merge_slot(const pc_merge *merges, size_t slots, int32_t left, int32_t right)
{
    uint64_t h = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    h = (h ^ (h >> 31)) * UINT64_C(0x9e3779b97f4a7c15);
    size_t slot = (size_t)(h >> 20) & (slots - 1);
    while (merges[slot].left >= 0 && (merges[slot].left != left || merges[slot].right != right))
        slot = (slot + 1) & (slots - 1);
    return slot;
}

const pc_merge *pc_merge_find(const pc_tokenizer *t, int32_t left, int32_t right)
{
    const pc_merge *m = &t->merges[pc_merge_slot(t->merges, t->merge_slots, left, right)];
    return m->left < 0 ? NULL : m;
}

/* ---- one word ---- */

typedef struct symbol {
    int32_t id, before, after; // neighbours' places, -1 at the ends; id -1: merged away
} symbol;

typedef struct candidate {
    int32_t rank, at, left, right, id;
} candidate;

typedef struct merging {
    const pc_tokenizer *t;
    symbol *s;
    candidate *heap;
    int64_t heaped;
} merging;

static bool comes_first(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(merging *w, candidate c)
{
    int64_t i = w->heaped++;
    while (i > 0 && comes_first(&c, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = c;
}

static candidate heap_pop(merging *w)
{
    const candidate top = w->heap[0], last = w->heap[--w->heaped];
    int64_t i = 0;
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= w->heaped) break;
        if (child + 1 < w->heaped && comes_first(&w->heap[child + 1], &w->heap[child])) child++;
        if (!comes_first(&w->heap[child], &last)) break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

static void consider(merging *w, int32_t at)
{
    if (at < 0 || w->s[at].after < 0) return;
    const int32_t left = w->s[at].id, right = w->s[w->s[at].after].id;
    const pc_merge *m = pc_merge_find(w->t, left, right);
    if (m) heap_push(w, (candidate){m->rank, at, left, right, m->id});
}

static void merge_all(merging *w, int32_t n)
{
    for (int32_t i = 0; i + 1 < n; i++) consider(w, i);
    while (w->heaped > 0) {
        const candidate c = heap_pop(w);
        symbol *a = &w->s[c.at];
        if (a->id != c.left || a->after < 0 || w->s[a->after].id != c.right) continue; // outdated
        symbol *b = &w->s[a->after];
        a->id = c.id;
        b->id = -1;
        a->after = b->after;
        if (a->after >= 0) w->s[a->after].before = c.at;
        consider(w, a->before);
        consider(w, c.at);
    }
}

static pc_status merge_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size)
{
    enum { SMALL = 64 }; // most words; longer ones take memory for the while
    symbol small_symbols[SMALL];
    candidate small_heap[3 * SMALL]; // n - 1 at first, at most two more for each of n - 1 merges
    merging w = {.t = t, .s = small_symbols, .heap = small_heap};
    const int32_t n = (int32_t)size;
    pc_status st = PC_OK;
    if (size > SMALL) {
        w.s = malloc(size * sizeof *w.s);
        w.heap = malloc(3 * size * sizeof *w.heap);
        if (!w.s || !w.heap) {
            st = pc_fail(PC_ERR_MEMORY, "a word of %zu bytes", size);
            goto out;
        }
    }
    for (int32_t i = 0; i < n; i++)
        w.s[i] = (symbol){t->byte_id[(unsigned char)word[i]], i - 1, i + 1 < n ? i + 1 : -1};
    merge_all(&w, n);
    for (int32_t i = 0; i >= 0 && !st; i = w.s[i].after) st = pc_ids_add(out, w.s[i].id);
out:
    if (size > SMALL) {
        free(w.s);
        free(w.heap);
    }
    return st;
}

static bool recall(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size, uint32_t hash,
                   pc_status *st)
{
    const pc_cached_word *e = &t->cache->word[hash % PC_CACHE_WORDS];
    pthread_mutex_t *lock = &t->cache->lock[hash % PC_CACHE_LOCKS];
    pthread_mutex_lock(lock);
    const bool found = e->hash == hash && e->size == size && memcmp(e->word, word, size) == 0;
    if (found) {
        *st = pc_ids_reserve(out, e->count);
        if (!*st) {
            memcpy(out->list + out->count, e->ids, e->count * sizeof *e->ids);
            out->count += e->count;
        }
    }
    pthread_mutex_unlock(lock);
    return found;
}

static void remember(const pc_tokenizer *t, const char *word, size_t size, uint32_t hash,
                     const int32_t *ids, int64_t count)
{
    if (count > PC_CACHE_IDS) return;
    pc_cached_word *e = &t->cache->word[hash % PC_CACHE_WORDS];
    pthread_mutex_t *lock = &t->cache->lock[hash % PC_CACHE_LOCKS];
    pthread_mutex_lock(lock);
    e->hash = hash;
    e->size = (uint8_t)size;
    e->count = (uint8_t)count;
    memcpy(e->word, word, size);
    memcpy(e->ids, ids, (size_t)count * sizeof *ids);
    pthread_mutex_unlock(lock);
}

pc_status pc_bpe_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size)
{
    if (size == 0) return PC_OK;
    if (size > INT32_MAX / 4) return pc_fail(PC_ERR_INPUT, "a word of %zu bytes", size);
    pc_status st = PC_OK;
    const bool short_enough = size <= PC_CACHE_BYTES;
    const uint32_t hash = short_enough ? (uint32_t)pc_hash_bytes(word, size) : 0;
    if (short_enough && recall(t, out, word, size, hash, &st)) return st;

    const int64_t first = out->count;
    int64_t whole = -1;
    if (t->ignore_merges && size <= (size_t)t->longest) {
        unsigned char *name = malloc(2 * size); // in the byte alphabet, two bytes at most for one
        if (!name) return pc_fail(PC_ERR_MEMORY, "a word of %zu bytes", size);
        size_t n = 0;
        for (size_t i = 0; i < size; i++)
            n += (size_t)pc_utf8_put(name + n, pc_byte_char((unsigned char)word[i]));
        whole = pc_bytemap_find(&t->names, name, n);
        free(name);
    }
    if (whole >= 0)
        st = pc_ids_add(out, (int32_t)whole);
    else
        st = merge_word(t, out, word, size);
    if (!st && short_enough) remember(t, word, size, hash, out->list + first, out->count - first);
    return st;
}

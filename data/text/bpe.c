/*
 * bpe.c - the merges of one word, and the memory of words seen before.
 *
 * Start with the word's bytes or characters; again and again merge the neighbouring pair of lowest rank, the
 * leftmost first, until no pair of neighbours is in the table. A heap of pairs by (rank, place) over a doubly
 * linked list of symbols: n log n, so that a word of a million letters ends too.
 *
 * A word without spaces to split at may be a whole book. It is cut wherever no merge joins the characters on
 * both sides: what lies on either side never meets, so the ids are the same, and the pieces are remembered.
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

bool pc_bytes_of_name(unsigned char *out, size_t *out_size, const char *name, size_t size)
{
    const unsigned char *s = (const unsigned char *)name;
    size_t n = 0;
    for (size_t i = 0; i < size;) {
        const int step = pc_utf8_step(s + i, size - i);
        const int byte = step > 0 ? pc_byte_of_char(pc_utf8_code(s + i, step)) : -1;
        if (byte < 0) return false;
        out[n++] = (unsigned char)byte;
        i += (size_t)step;
    }
    *out_size = n;
    return true;
}

/* ---- one word ---- */

enum { NO_SYMBOL = -1, UNKNOWN = -2 }; // merged away; a character of no token and no merge

typedef struct symbol {
    int32_t id, before, after; // neighbours' places, -1 at the ends
    int32_t at, size;          // its bytes in the word
} symbol;

typedef struct candidate {
    int32_t rank, at, left, right, id;
} candidate;

/* SentencePiece: what an unused piece was last merged from. */
typedef struct origin {
    int32_t id, left, right, left_size;
} origin;

typedef struct merging {
    const pc_tokenizer *t;
    const char *word;
    symbol *s;
    int32_t count;
    candidate *heap;
    int64_t heaped;
    symbol pending; // unknown characters not yet written; size 0: none
    origin *origins;
    int64_t origin_count, origin_room;
    pc_ids *out;
    bool unknown_last; // the last id written stands for unknown characters
    pc_status st;
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

static void note_origin(merging *w, int32_t id, const symbol *left, const symbol *right)
{
    if (w->origin_count == w->origin_room) {
        const int64_t wanted = w->origin_room ? 2 * w->origin_room : 16;
        origin *grown = realloc(w->origins, (size_t)wanted * sizeof *grown);
        if (!grown) {
            w->st = pc_fail(PC_ERR_MEMORY, "%lld merges of unused pieces", (long long)wanted);
            return;
        }
        w->origins = grown;
        w->origin_room = wanted;
    }
    w->origins[w->origin_count++] = (origin){id, left->id, right->id, left->size};
}

static void consider(merging *w, int32_t at)
{
    if (at < 0 || w->s[at].after < 0) return;
    const symbol *a = &w->s[at], *b = &w->s[a->after];
    if (a->id < 0 || b->id < 0) return;
    const pc_merge *m = pc_merge_find(w->t, a->id, b->id);
    if (!m) return;
    heap_push(w, (candidate){m->rank, at, a->id, b->id, m->id});
    if (w->t->has_unused && w->t->pieces[m->id].unused) note_origin(w, m->id, a, b);
}

static void merge_all(merging *w)
{
    for (int32_t i = 0; i + 1 < w->count; i++) consider(w, i);
    while (w->heaped > 0) {
        const candidate c = heap_pop(w);
        symbol *a = &w->s[c.at];
        if (a->id != c.left || a->after < 0 || w->s[a->after].id != c.right) continue; // outdated
        symbol *b = &w->s[a->after];
        a->id = c.id;
        a->size += b->size;
        b->id = NO_SYMBOL;
        a->after = b->after;
        if (a->after >= 0) w->s[a->after].before = c.at;
        consider(w, a->before);
        consider(w, c.at);
    }
}

/* ---- the symbols at the beginning ---- */

static void add_symbol(merging *w, int32_t id, int32_t at, int32_t size)
{
    w->s[w->count] = (symbol){.id = id, .at = at, .size = size};
    w->count++;
}

static void flush_pending(merging *w)
{
    if (w->pending.size) add_symbol(w, w->t->unk, w->pending.at, w->pending.size);
    w->pending.size = 0;
}

/* A character that is no token, as the reference treats it: its bytes, or the unknown token, or nothing. */
static void add_unknown(merging *w, const unsigned char *spelled, size_t spelled_size, int32_t at,
                        int32_t size)
{
    const pc_tokenizer *t = w->t;
    bool bytes = t->falls_back;
    for (size_t i = 0; i < spelled_size && bytes; i++) bytes = t->fallback[spelled[i]] >= 0;
    if (bytes) { // unknown characters that wait keep waiting
        for (size_t i = 0; i < spelled_size; i++)
            add_symbol(w, t->fallback[spelled[i]], at + (int32_t)(i ? size : 0), i ? 0 : size);
        return;
    }
    if (t->unk_missing)
        w->st = pc_fail(PC_ERR_INPUT,
                        "a character is no token, and the unknown token \"%s\" is none either",
                        t->unk_missing);
    if (t->unk < 0) return;
    if (w->pending.size && t->fuse_unk) {
        w->pending.size += size;
        return;
    }
    flush_pending(w);
    w->pending = (symbol){.at = at, .size = size};
}

static void start_with_bytes(merging *w, size_t size)
{
    const pc_tokenizer *t = w->t;
    for (size_t i = 0; i < size; i++) {
        const unsigned char byte = (unsigned char)w->word[i];
        const int32_t id = t->byte_id[(i > 0) + 2 * (i + 1 == size)][byte];
        if (id >= 0) {
            flush_pending(w);
            add_symbol(w, id, (int32_t)i, 1);
        } else {
            unsigned char coded[4];
            const int n = pc_utf8_put(coded, pc_byte_char(byte));
            add_unknown(w, coded, (size_t)n, (int32_t)i, 1);
        }
    }
}

/* The symbol of a character with what is put around it inside and at the end of a word. */
static int32_t spelled_symbol(const pc_tokenizer *t, const char *c, size_t n, bool within,
                              bool ends, unsigned char *spelled, size_t *spelled_size)
{
    const size_t prefix = within && t->prefix ? strlen(t->prefix) : 0,
                 suffix = ends && t->suffix ? strlen(t->suffix) : 0;
    memcpy(spelled, prefix ? t->prefix : "", prefix);
    memcpy(spelled + prefix, c, n);
    memcpy(spelled + prefix + n, suffix ? t->suffix : "", suffix);
    *spelled_size = prefix + n + suffix;
    const int64_t id = pc_bytemap_find(&t->names, spelled, *spelled_size);
    return id >= 0 && t->pieces[id].outside ? -1 : (int32_t)id;
}

static void start_with_characters(merging *w, size_t size)
{
    const pc_tokenizer *t = w->t;
    const unsigned char *s = (const unsigned char *)w->word;
    for (size_t at = 0; at < size && !w->st;) {
        const size_t n = (size_t)pc_utf8_step(s + at, size - at);
        unsigned char spelled[PC_AFFIX * 2 + 4];
        size_t spelled_size = n;
        int32_t id;
        if (t->prefix || t->suffix) {
            id = spelled_symbol(t, w->word + at, n, at > 0, at + n == size, spelled, &spelled_size);
        } else {
            memcpy(spelled, s + at, n);
            id = n == 1 ? t->ascii_id[s[at]] : (int32_t)pc_bytemap_find(&t->chars, s + at, n);
        }
        if (id < 0 && t->scored) {
            add_symbol(w, UNKNOWN, (int32_t)at, (int32_t)n); // decided after the merges
        } else if (id < 0) {
            add_unknown(w, spelled, spelled_size, (int32_t)at, (int32_t)n);
        } else {
            flush_pending(w);
            add_symbol(w, id, (int32_t)at, (int32_t)n);
        }
        at += n;
    }
}

/* ---- what is left in the end ---- */

static void put_id(merging *w, int32_t id)
{
    if (!w->st) w->st = pc_ids_add(w->out, id);
    w->unknown_last = false;
}

/* A symbol that is no token: SentencePiece gives bytes, or one unknown for all that stand together. */
static void put_text(merging *w, int32_t at, int32_t size)
{
    const pc_tokenizer *t = w->t;
    if (t->whole_fallback) {
        for (int32_t i = 0; i < size; i++) put_id(w, t->fallback[(unsigned char)w->word[at + i]]);
        return;
    }
    if (w->unknown_last || t->unk < 0) return;
    put_id(w, t->unk);
    w->unknown_last = true;
}

static void put_symbol(merging *w, int32_t id, int32_t at, int32_t size, int depth)
{
    const pc_tokenizer *t = w->t;
    if (id < 0 || id >= t->vocab) {
        put_text(w, at, size);
        return;
    }
    if (!t->has_unused || !t->pieces[id].unused) {
        put_id(w, id);
        return;
    }
    for (int64_t i = w->origin_count - 1; i >= 0; i--) {
        const origin *o = &w->origins[i];
        if (o->id != id || depth > 1000) continue; // parts are shorter, so the depth is the length
        put_symbol(w, o->left, at, o->left_size, depth + 1);
        put_symbol(w, o->right, at + o->left_size, size - o->left_size, depth + 1);
        return;
    }
    put_id(w, id);
}

static pc_status merge_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size)
{
    enum { SMALL = 64 }; // most words; longer ones take memory for the while
    symbol small_symbols[SMALL];
    candidate small_heap[3 * SMALL]; // n - 1 at first, at most two more for each of n - 1 merges
    merging w = {.t = t, .word = word, .s = small_symbols, .heap = small_heap, .out = out};
    // A character's bytes with what is put around them may each be a symbol.
    const size_t around = (t->prefix ? strlen(t->prefix) : 0) + (t->suffix ? strlen(t->suffix) : 0);
    const size_t most = size * (2 + (t->falls_back ? around : 0));
    const bool small = most <= SMALL;
    if (!small) {
        w.s = malloc(most * sizeof *w.s);
        w.heap = malloc(3 * most * sizeof *w.heap);
        if (!w.s || !w.heap) {
            w.st = pc_fail(PC_ERR_MEMORY, "a word of %zu bytes", size);
            goto out;
        }
    }
    if (t->byte_level)
        start_with_bytes(&w, size);
    else
        start_with_characters(&w, size);
    flush_pending(&w);
    if (w.count == 0) goto out;
    for (int32_t i = 0; i < w.count; i++) {
        w.s[i].before = i - 1;
        w.s[i].after = i + 1 < w.count ? i + 1 : -1;
    }
    merge_all(&w);
    for (int32_t i = 0; i >= 0 && !w.st; i = w.s[i].after)
        put_symbol(&w, w.s[i].id, w.s[i].at, w.s[i].size, 0);
out:
    if (!small) {
        free(w.s);
        free(w.heap);
    }
    free(w.origins);
    return w.st;
}

/* ---- words seen before ---- */

pc_status pc_bpe_cache(pc_tokenizer *t)
{
    t->cache = calloc(1, sizeof *t->cache);
    if (!t->cache) return pc_fail(PC_ERR_MEMORY, "the cache of words");
    for (int i = 0; i < PC_CACHE_LOCKS; i++) pthread_mutex_init(&t->cache->lock[i], NULL);
    return PC_OK;
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
        if (!*st && e->count) {
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
    if (count) memcpy(e->ids, ids, (size_t)count * sizeof *ids);
    pthread_mutex_unlock(lock);
}

static pc_status cached_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size)
{
    pc_status st = PC_OK;
    const bool short_enough = size <= PC_CACHE_BYTES;
    const uint32_t hash = short_enough ? (uint32_t)pc_hash_bytes(word, size) : 0;
    if (short_enough && recall(t, out, word, size, hash, &st)) return st;
    const int64_t first = out->count;
    st = t->unigram.on ? pc_unigram_word(t, out, word, size) : merge_word(t, out, word, size);
    const int32_t *ids = out->count > first ? out->list + first : NULL;
    if (!st && short_enough) remember(t, word, size, hash, ids, out->count - first);
    return st;
}

/* ---- cutting at places that no merge joins ---- */

// What a character's first or last byte is to the table of joins; the mark has a class of its own.
static unsigned char class_of(const char *text, size_t n, bool last)
{
    if (n == 3 && memcmp(text, PC_MARK, 3) == 0) return 0xFF; // never a byte of UTF-8
    return (unsigned char)text[last ? n - 1 : 0];
}

static pc_status cut_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size)
{
    const unsigned char *s = (const unsigned char *)word;
    size_t done = 0, at = (size_t)pc_utf8_step(s, size);
    unsigned char left = class_of(word, at, true);
    pc_status st = PC_OK;
    while (at < size && !st) {
        const size_t n = s[at] < 0x80 ? 1 : (size_t)pc_utf8_step(s + at, size - at);
        const unsigned char right = class_of(word + at, n, false);
        if (!(t->joins[left][right >> 3] >> (right & 7) & 1)) {
            st = cached_word(t, out, word + done, at - done);
            done = at;
        }
        left = class_of(word + at, n, true);
        at += n;
    }
    return st ? st : cached_word(t, out, word + done, size - done);
}

/* A word that is itself a token: in the byte alphabet its name is up to twice as long. */
static pc_status whole_word(const pc_tokenizer *t, int64_t *id, const char *word, size_t size)
{
    *id = -1;
    if (size > t->longest_name) return PC_OK;
    if (!t->byte_level) {
        *id = pc_bytemap_find(&t->names, word, size);
    } else {
        unsigned char small[256] = "", *name = 2 * size <= sizeof small ? small : calloc(2, size);
        if (!name) return pc_fail(PC_ERR_MEMORY, "a word of %zu bytes", size);
        size_t n = 0;
        for (size_t i = 0; i < size; i++)
            n += (size_t)pc_utf8_put(name + n, pc_byte_char((unsigned char)word[i]));
        *id = pc_bytemap_find(&t->names, name, n);
        if (name != small) free(name);
    }
    if (*id >= 0 && t->pieces[*id].outside) *id = -1;
    return PC_OK;
}

pc_status pc_bpe_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size)
{
    if (size == 0) return PC_OK;
    if (size > INT32_MAX / 64) return pc_fail(PC_ERR_INPUT, "a word of %zu bytes", size);
    if (t->ignore_merges) {
        int64_t id;
        pc_status st = whole_word(t, &id, word, size);
        if (st) return st;
        if (id >= 0) return pc_ids_add(out, (int32_t)id);
    }
    return t->joins ? cut_word(t, out, word, size) : cached_word(t, out, word, size);
}

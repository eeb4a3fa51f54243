/*
 * pairs.c - which neighbouring symbols merge, into what, and how early.
 *
 * A `tokenizer.json` lists its merges. SentencePiece and tiktoken merge any two symbols that together are a token,
 * the best token first: that is the list of all ways to cut a token in two symbols, ranked by the token.
 */
#include "data/text/bpe.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

static size_t slot_of(const pc_merge *merges, size_t slots, int32_t left, int32_t right)
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
    const pc_merge *m = &t->merges[slot_of(t->merges, t->merge_slots, left, right)];
    return m->left < 0 ? NULL : m;
}

pc_status pc_merges_room(pc_tokenizer *t, int64_t count)
{
    size_t slots = 64;
    if (count > INT32_MAX / 4) return pc_fail(PC_ERR_FORMAT, "%lld merges", (long long)count);
    while (slots < 2 * (size_t)count) slots *= 2;
    pc_merge *merges = malloc(slots * sizeof *merges);
    if (!merges) return pc_fail(PC_ERR_MEMORY, "%lld merges", (long long)count);
    for (size_t i = 0; i < slots; i++) merges[i].left = -1;
    for (size_t i = 0; i < t->merge_slots; i++) {
        const pc_merge *m = &t->merges[i];
        if (m->left >= 0) merges[slot_of(merges, slots, m->left, m->right)] = *m;
    }
    free(t->merges);
    t->merges = merges;
    t->merge_slots = slots;
    return PC_OK;
}

void pc_merges_add(pc_tokenizer *t, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    pc_merge *m = &t->merges[slot_of(t->merges, t->merge_slots, left, right)];
    t->merge_count += m->left < 0;
    *m = (pc_merge){left, right, rank, id};
}

bool pc_name_of(const pc_tokenizer *t, int32_t id, const char **name, size_t *size)
{
    const pc_bytemap *m = id < t->vocab ? &t->names : &t->chars;
    int64_t entry = -1;
    if (id < t->vocab) {
        if (id >= 0) entry = t->pieces[id].name;
    } else {
        entry = t->chars_known + (id - t->vocab);
    }
    if (entry < 0) return false;
    *name = pc_bytemap_key(m, &m->entries[entry]);
    *size = m->entries[entry].size;
    return true;
}

/* ---- every way to cut a token ---- */

typedef struct splitter {
    pc_tokenizer *t;
    const int32_t *rank;
    bool bytes;
    unsigned char *lengths; // bit: some token has so many bytes
    int32_t next_symbol;
} splitter;

/* The symbol of a part: a token with a rank, or a character (made a symbol when it is none). -1: none. */
static pc_status part_symbol(splitter *w, int32_t *id, const char *part, size_t size)
{
    pc_tokenizer *t = w->t;
    const bool character =
        !w->bytes && (size_t)pc_utf8_step((const unsigned char *)part, size) == size;
    *id = -1;
    if (character) {
        const pc_byte_entry *e = pc_bytemap_add(&t->chars, part, size, w->next_symbol, NULL);
        if (!e) return pc_fail(PC_ERR_MEMORY, "characters of merges");
        *id = (int32_t)e->value;
        if (*id == w->next_symbol) {
            w->next_symbol++;
            if (size == 1) t->ascii_id[(unsigned char)*part] = *id;
        }
        return PC_OK;
    }
    if (!(w->lengths[size / 8] >> size % 8 & 1)) return PC_OK;
    const int64_t found = pc_bytemap_find(&t->names, part, size);
    if (found >= 0 && w->rank[found] >= 0) *id = (int32_t)found;
    return PC_OK;
}

static pc_status cut_token(splitter *w, int32_t id)
{
    pc_tokenizer *t = w->t;
    const char *name;
    size_t size;
    pc_status st = PC_OK;
    if (!pc_name_of(t, id, &name, &size)) return PC_OK;
    char *copy = strndup(name, size); // adding characters may move what names point into
    if (!copy) return pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", size);
    for (size_t at = 0; at < size && !st;) {
        at += (size_t)pc_utf8_step((const unsigned char *)copy + at, size - at);
        if (at >= size) break;
        int32_t left, right;
        if ((st = part_symbol(w, &left, copy, at)) || left < 0 ||
            (st = part_symbol(w, &right, copy + at, size - at)) || right < 0)
            continue;
        if (2 * (size_t)(t->merge_count + 1) > t->merge_slots &&
            (st = pc_merges_room(t, 2 * t->merge_count)))
            break;
        pc_merges_add(t, left, right, w->rank[id], id);
    }
    free(copy);
    return st;
}

pc_status pc_merges_all(pc_tokenizer *t, const int32_t *rank, bool bytes)
{
    splitter w = {.t = t, .rank = rank, .bytes = bytes, .next_symbol = t->vocab};
    w.lengths = calloc(t->longest_name / 8 + 1, 1);
    if (!w.lengths) return pc_fail(PC_ERR_MEMORY, "lengths of tokens");
    for (int32_t id = 0; id < t->vocab; id++) {
        const char *name;
        size_t size;
        if (rank[id] >= 0 && pc_name_of(t, id, &name, &size))
            w.lengths[size / 8] |= (unsigned char)(1 << size % 8);
    }
    t->chars_known = t->chars.count;
    pc_status st = pc_merges_room(t, 2 * (int64_t)t->vocab);
    for (int32_t id = 0; id < t->vocab && !st; id++)
        if (rank[id] >= 0) st = cut_token(&w, id);
    free(w.lengths);
    return st;
}

/* ---- where no merge ever joins two characters ---- */

static unsigned char last_class(const char *name, size_t size)
{
    const bool mark = size >= 3 && memcmp(name + size - 3, PC_MARK, 3) == 0;
    return mark ? 0xFF : (unsigned char)name[size - 1];
}

static unsigned char first_class(const char *name, size_t size)
{
    const bool mark = size >= 3 && memcmp(name, PC_MARK, 3) == 0;
    return mark ? 0xFF : (unsigned char)name[0];
}

pc_status pc_merges_joins(pc_tokenizer *t)
{
    t->joins = calloc(256, sizeof *t->joins);
    if (!t->joins) return pc_fail(PC_ERR_MEMORY, "the table of joins");
    for (size_t i = 0; i < t->merge_slots; i++) {
        const pc_merge *m = &t->merges[i];
        const char *left, *right;
        size_t left_size, right_size;
        if (m->left < 0 || !pc_name_of(t, m->left, &left, &left_size) ||
            !pc_name_of(t, m->right, &right, &right_size))
            continue;
        const unsigned char a = last_class(left, left_size), b = first_class(right, right_size);
        t->joins[a][b >> 3] = (uint8_t)(t->joins[a][b >> 3] | 1 << (b & 7));
    }
    return PC_OK;
}

/* ---- for others to read ---- */

static int by_rank(const void *a, const void *b)
{
    const pc_merge *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

pc_status pc_merges_json(json_t *list, const pc_tokenizer *t)
{
    pc_merge *sorted = malloc((size_t)(t->merge_count + 1) * sizeof *sorted);
    if (!sorted) return pc_fail(PC_ERR_MEMORY, "%lld merges", (long long)t->merge_count);
    size_t n = 0;
    for (size_t i = 0; i < t->merge_slots; i++) {
        const pc_merge *m = &t->merges[i];
        if (m->left >= 0 && m->left < t->vocab && m->right < t->vocab) sorted[n++] = *m;
    }
    qsort(sorted, n, sizeof *sorted, by_rank);
    pc_status st = PC_OK;
    for (size_t i = 0; i < n && !st; i++) {
        const char *left, *right;
        size_t left_size, right_size;
        if (!pc_name_of(t, sorted[i].left, &left, &left_size) ||
            !pc_name_of(t, sorted[i].right, &right, &right_size))
            continue;
        json_t *pair = json_array();
        if (json_array_append_new(pair, json_stringn_nocheck(left, left_size)) ||
            json_array_append_new(pair, json_stringn_nocheck(right, right_size)) ||
            json_array_append_new(list, pair))
            st = pc_fail(PC_ERR_MEMORY, "%zu merges", n);
    }
    free(sorted);
    return st;
}

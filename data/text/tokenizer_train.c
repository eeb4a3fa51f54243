/*
 * tokenizer_train.c - a byte-level BPE from texts (Sennrich et al. 2016, on bytes; spec: tokenizers.md 7).
 *
 *   words    texts in NFC, split with Qwen2's pattern; every different word once, with its count. A text's first
 *            word counts with a space before it too, and marks at its end with a newline behind them ("?\n"):
 *            templates put texts behind others
 *   loop     the pair of neighbouring symbols that occurs most often (ties: the smaller pair of ids)
 *            becomes a symbol; the words that have it are rewritten
 *   ids      256 bytes in the order of their alphabet, the merges' results, special tokens
 *
 * Each pair knows the words it was seen in, and a heap holds the pairs by count; a heap entry whose count is
 * outdated is put back with the right one when it comes up. The result is a function of the texts alone.
 */
#include "data/text/bpe.h"
#include "data/text/utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct pair {
    int32_t a, b;   // a -1: a free slot
    int32_t seen;   // first of the places where it was seen, -1: none
    int64_t count;  // over all words, times the words' counts
    int64_t pushed; // the count of its best entry in the heap
} pair;

typedef struct place { // one word of a pair's list
    int32_t word, next;
} place;

typedef struct ranked {
    int64_t count;
    int32_t a, b;
} ranked;

typedef struct trainer {
    pc_word_rules rules;
    pc_bytemap words; // word -> count
    int32_t *symbols; // of all words, one after the other
    int64_t *begin;   // (words): first symbol
    int32_t *length;  // (words): how many are left
    pair *pairs;      // open addressing
    size_t pair_slots, pair_count;
    place *places;
    int64_t place_count, place_room;
    ranked *heap;
    int64_t heap_count, heap_room;
    pc_bytemap names; // token in the byte alphabet -> id
    json_t *vocab, *merges;
    int32_t next_id;
} trainer;

/* ---- pairs ---- */

static size_t pair_slot(const pair *pairs, size_t slots, int32_t a, int32_t b)
{
    uint64_t h = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    h = (h ^ (h >> 29)) * UINT64_C(0xbf58476d1ce4e5b9);
    size_t slot = (size_t)(h >> 24) & (slots - 1);
    while (pairs[slot].a >= 0 && (pairs[slot].a != a || pairs[slot].b != b))
        slot = (slot + 1) & (slots - 1);
    return slot;
}

static pc_status grow_pairs(trainer *w)
{
    const size_t wanted = w->pair_slots ? 2 * w->pair_slots : 1 << 12;
    pair *pairs = malloc(wanted * sizeof *pairs);
    if (!pairs) return pc_fail(PC_ERR_MEMORY, "%zu pairs", wanted);
    for (size_t i = 0; i < wanted; i++) pairs[i].a = -1;
    for (size_t i = 0; i < w->pair_slots; i++)
        if (w->pairs[i].a >= 0)
            pairs[pair_slot(pairs, wanted, w->pairs[i].a, w->pairs[i].b)] = w->pairs[i];
    free(w->pairs);
    w->pairs = pairs;
    w->pair_slots = wanted;
    return PC_OK;
}

/* The pair's entry, made when new; pointers last until the next call. */
static pc_status pair_at(trainer *w, pair **out, int32_t a, int32_t b)
{
    pc_status st = PC_OK;
    if (2 * (w->pair_count + 1) > w->pair_slots && (st = grow_pairs(w))) return st;
    pair *p = &w->pairs[pair_slot(w->pairs, w->pair_slots, a, b)];
    if (p->a < 0) {
        *p = (pair){.a = a, .b = b, .seen = -1};
        w->pair_count++;
    }
    *out = p;
    return PC_OK;
}

static pc_status remember_place(trainer *w, pair *p, int32_t word)
{
    if (p->seen >= 0 && w->places[p->seen].word == word) return PC_OK;
    if (w->place_count == w->place_room) {
        const int64_t wanted = w->place_room ? 2 * w->place_room : 1 << 12;
        place *places =
            wanted < INT32_MAX ? realloc(w->places, (size_t)wanted * sizeof *places) : NULL;
        if (!places) return pc_fail(PC_ERR_MEMORY, "%lld places of pairs", (long long)wanted);
        w->places = places;
        w->place_room = wanted;
    }
    w->places[w->place_count] = (place){word, p->seen};
    p->seen = (int32_t)w->place_count++;
    return PC_OK;
}

/* ---- the heap: largest count first, then the smaller pair ---- */

static bool ranks_before(const ranked *x, const ranked *y)
{
    if (x->count != y->count) return x->count > y->count;
    return x->a != y->a ? x->a < y->a : x->b < y->b;
}

static pc_status heap_push(trainer *w, pair *p)
{
    if (w->heap_count == w->heap_room) {
        const int64_t wanted = w->heap_room ? 2 * w->heap_room : 1 << 12;
        ranked *heap = realloc(w->heap, (size_t)wanted * sizeof *heap);
        if (!heap) return pc_fail(PC_ERR_MEMORY, "%lld pairs in a heap", (long long)wanted);
        w->heap = heap;
        w->heap_room = wanted;
    }
    const ranked r = {p->count, p->a, p->b};
    p->pushed = p->count;
    int64_t i = w->heap_count++;
    while (i > 0 && ranks_before(&r, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = r;
    return PC_OK;
}

static ranked heap_pop(trainer *w)
{
    const ranked top = w->heap[0], last = w->heap[--w->heap_count];
    int64_t i = 0;
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= w->heap_count) break;
        if (child + 1 < w->heap_count && ranks_before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!ranks_before(&w->heap[child], &last)) break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

/* ---- words ---- */

static pc_status count_word(void *arg, const char *word, size_t size)
{
    trainer *w = arg;
    pc_byte_entry *e = pc_bytemap_add(&w->words, word, size, 0, NULL);
    if (!e) return pc_fail(PC_ERR_MEMORY, "%lld different words", (long long)w->words.count);
    e->value++;
    return PC_OK;
}

typedef struct first_word {
    trainer *w;
    bool seen;
} first_word;

static pc_status count_first(void *arg, const char *word, size_t size)
{
    first_word *f = arg;
    if (f->seen) return PC_OK;
    f->seen = true;
    return count_word(f->w, word, size);
}

/* The first word of a text as it looks behind another text. */
static pc_status count_behind_space(trainer *w, const char *text, size_t size)
{
    char word[130] = " "; // longer words are of no account here
    size_t n = 0;
    while (n < size && n < sizeof word - 2 && (unsigned char)text[n] > ' ') n++;
    if (n == 0 || n == sizeof word - 2) return PC_OK;
    memcpy(word + 1, text, n);
    first_word f = {w, false};
    return pc_words_each(&w->rules, word, n + 1, true, count_first, &f);
}

typedef struct last_word {
    const char *word;
    size_t size;
} last_word;

static pc_status note_last(void *arg, const char *word, size_t size)
{
    *(last_word *)arg = (last_word){word, size};
    return PC_OK;
}

/* The marks at the end of a text as they look before a newline; a newline behind a letter stands alone. */
static pc_status count_before_newline(trainer *w, const char *text, size_t size)
{
    char tail[66];
    size_t n = size < sizeof tail - 2 ? size : sizeof tail - 2;
    while (n > 0 && ((unsigned char)text[size - n] & 0xC0) == 0x80) n--; // whole characters
    memcpy(tail, text + size - n, n);
    tail[n] = '\n';
    last_word last = {0};
    pc_status st = pc_words_each(&w->rules, tail, n + 1, true, note_last, &last);
    if (st || last.size < 2 || last.word[0] == '\n') return st;
    return count_word(w, last.word, last.size);
}

static pc_status count_piece(trainer *w, const char *text, size_t size)
{
    const char *normal;
    char *owned;
    size_t n;
    pc_status st = pc_normal_nfc(&normal, &n, &owned, text, size);
    if (!st) st = pc_words_each(&w->rules, normal, n, true, count_word, w);
    if (!st) st = count_behind_space(w, normal, n);
    if (!st && n > 0) st = count_before_newline(w, normal, n);
    free(owned);
    return st;
}

/* A text without the special tokens written in it. */
static pc_status count_text(trainer *w, const char *text, const char *const *specials, int n)
{
    size_t size = strlen(text);
    char *repaired = NULL;
    if (!pc_utf8_valid(text, size)) {
        repaired = pc_utf8_repaired(text, size, &size);
        if (!repaired) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", size);
        text = repaired;
    }
    pc_status st = PC_OK;
    while (size > 0 && !st) {
        size_t cut = size, skip = 0;
        for (int i = 0; i < n; i++) {
            const char *at = strstr(text, specials[i]);
            if (at && (size_t)(at - text) < cut) {
                cut = (size_t)(at - text);
                skip = strlen(specials[i]);
            }
        }
        st = count_piece(w, text, cut);
        text += cut + skip;
        size -= cut + skip;
    }
    free(repaired);
    return st;
}

/* Adds or takes away a word's pairs. Pairs with the symbol `fresh` are new to the word (-1: all are). */
static pc_status count_pairs(trainer *w, int32_t word, int sign, int32_t fresh)
{
    const int32_t *s = w->symbols + w->begin[word];
    const int64_t times = sign * w->words.entries[word].value;
    for (int32_t i = 0; i + 1 < w->length[word]; i++) {
        pair *p;
        pc_status st = pair_at(w, &p, s[i], s[i + 1]);
        if (st) return st;
        p->count += times;
        const bool is_new = fresh < 0 || s[i] == fresh || s[i + 1] == fresh;
        if (sign > 0 && is_new && (st = remember_place(w, p, word))) return st;
    }
    return PC_OK;
}

static pc_status push_grown(trainer *w, int32_t word)
{
    const int32_t *s = w->symbols + w->begin[word];
    for (int32_t i = 0; i + 1 < w->length[word]; i++) {
        pair *p;
        pc_status st = pair_at(w, &p, s[i], s[i + 1]);
        if (!st && p->count > p->pushed) st = heap_push(w, p);
        if (st) return st;
    }
    return PC_OK;
}

static pc_status lay_out_words(trainer *w)
{
    const int64_t n = w->words.count;
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) total += (int64_t)w->words.entries[i].size;
    if (n > INT32_MAX / 2 || total > INT32_MAX)
        return pc_fail(PC_ERR_INPUT, "%lld different words are too many", (long long)n);
    w->symbols = malloc((size_t)(total + 1) * sizeof *w->symbols);
    w->begin = malloc((size_t)(n + 1) * sizeof *w->begin);
    w->length = malloc((size_t)(n + 1) * sizeof *w->length);
    if (!w->symbols || !w->begin || !w->length)
        return pc_fail(PC_ERR_MEMORY, "%lld different words", (long long)n);
    int32_t rank[256], next = 0; // a byte's id: its place in the alphabet's order
    for (uint32_t code = 0; code <= 0x143; code++)
        if (pc_byte_of_char(code) >= 0) rank[pc_byte_of_char(code)] = next++;
    total = 0;
    for (int64_t i = 0; i < n; i++) {
        const pc_byte_entry *e = &w->words.entries[i];
        const char *key = pc_bytemap_key(&w->words, e);
        w->begin[i] = total;
        w->length[i] = (int32_t)e->size;
        for (size_t k = 0; k < e->size; k++) w->symbols[total++] = rank[(unsigned char)key[k]];
    }
    for (int64_t i = 0; i < n; i++) {
        pc_status st = count_pairs(w, (int32_t)i, 1, -1);
        if (st) return st;
    }
    for (int64_t i = 0; i < n; i++) {
        pc_status st = push_grown(w, (int32_t)i);
        if (st) return st;
    }
    return PC_OK;
}

/* ---- tokens ---- */

/* The id of a token, given in the byte alphabet; a new one unless it is there already. */
static pc_status add_token(trainer *w, int32_t *id, const char *name, size_t size)
{
    bool made;
    const pc_byte_entry *e = pc_bytemap_add(&w->names, name, size, w->next_id, &made);
    if (!e || (made && json_object_set_new(w->vocab, name, json_integer(w->next_id))))
        return pc_fail(PC_ERR_MEMORY, "token %d", w->next_id);
    if (made) w->next_id++;
    *id = (int32_t)e->value;
    return PC_OK;
}

static pc_status add_bytes(trainer *w)
{
    for (uint32_t code = 0; code <= 0x143; code++) {
        unsigned char name[5];
        int32_t id;
        if (pc_byte_of_char(code) < 0) continue;
        const int n = pc_utf8_put(name, code);
        name[n] = '\0';
        pc_status st = add_token(w, &id, (const char *)name, (size_t)n);
        if (st) return st;
    }
    return PC_OK;
}

/* The names of tokens by id are the entries of `names` in the order in which they came. */
static pc_status add_merge(trainer *w, int32_t *id, int32_t a, int32_t b)
{
    const pc_byte_entry *left = &w->names.entries[a], *right = &w->names.entries[b];
    const size_t size = left->size + right->size;
    char *text = malloc(2 * size + 3), *whole = text ? text + size + 2 : NULL;
    if (!text) return pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", size);
    memcpy(text, pc_bytemap_key(&w->names, left), left->size);
    text[left->size] = ' ';
    memcpy(text + left->size + 1, pc_bytemap_key(&w->names, right), right->size);
    text[size + 1] = '\0';
    memcpy(whole, text, left->size);
    memcpy(whole + left->size, text + left->size + 1, right->size + 1);
    pc_status st = json_array_append_new(w->merges, json_string(text))
                       ? pc_fail(PC_ERR_MEMORY, "merge \"%s\"", text)
                       : add_token(w, id, whole, size);
    free(text);
    return st;
}

static void rewrite(trainer *w, int32_t word, int32_t a, int32_t b, int32_t id)
{
    int32_t *s = w->symbols + w->begin[word], n = 0;
    for (int32_t i = 0; i < w->length[word]; i++) {
        const bool here = s[i] == a && i + 1 < w->length[word] && s[i + 1] == b;
        s[n++] = here ? id : s[i];
        i += here;
    }
    w->length[word] = n;
}

static bool has_pair(const trainer *w, int32_t word, int32_t a, int32_t b)
{
    const int32_t *s = w->symbols + w->begin[word];
    for (int32_t i = 0; i + 1 < w->length[word]; i++)
        if (s[i] == a && s[i + 1] == b) return true;
    return false;
}

static pc_status apply_merge(trainer *w, int32_t a, int32_t b, int32_t id)
{
    pair *p;
    pc_status st = pair_at(w, &p, a, b);
    for (int32_t at = st ? -1 : p->seen; at >= 0 && !st; at = w->places[at].next) {
        const int32_t word = w->places[at].word;
        if (!has_pair(w, word, a, b)) continue;
        if ((st = count_pairs(w, word, -1, -1))) break;
        rewrite(w, word, a, b, id);
        st = count_pairs(w, word, 1, id);
    }
    if (!st) st = pair_at(w, &p, a, b);
    for (int32_t at = st ? -1 : p->seen; at >= 0 && !st; at = w->places[at].next)
        st = push_grown(w, w->places[at].word); // once all counts are final
    return st;
}

static pc_status merge_until(trainer *w, int32_t wanted)
{
    pc_status st = PC_OK;
    while (w->next_id < wanted && w->heap_count > 0 && !st) {
        const ranked top = heap_pop(w);
        pair *p;
        if ((st = pair_at(w, &p, top.a, top.b))) break;
        if (p->count != top.count) { // outdated
            if (p->count < p->pushed && p->count > 1) st = heap_push(w, p);
            continue;
        }
        if (top.count < 2) break; // what occurs once teaches nothing
        int32_t id = -1;
        if ((st = add_merge(w, &id, top.a, top.b))) break;
        st = apply_merge(w, top.a, top.b, id);
    }
    return st;
}

/* ---- the file ---- */

/* NULL: no memory, and then the whole file is none. */
static json_t *added_tokens(const trainer *w, const char *const *specials, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_t *entry = json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (int)w->next_id + i,
                                  "content", specials[i], "single_word", 0, "lstrip", 0, "rstrip",
                                  0, "normalized", 0, "special", 1);
        if (!json_array_append_new(list, entry)) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}

/* A beginning-of-text token goes in front when special tokens are asked for, as Llama's files have it. */
static json_t *post_processor(const trainer *w, const char *const *specials, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(specials[i], "<s>") == 0)
            return json_pack(
                "{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                " s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}], s:{s:{s:s, s:[i], s:[s]}}}",
                "type", "TemplateProcessing", "single", "SpecialToken", "id", "<s>", "type_id", 0,
                "Sequence", "id", "A", "type_id", 0, "pair", "SpecialToken", "id", "<s>", "type_id",
                0, "Sequence", "id", "A", "type_id", 0, "Sequence", "id", "B", "type_id", 1,
                "special_tokens", "<s>", "id", "<s>", "ids", (int)w->next_id + i, "tokens", "<s>");
    return json_null();
}

static char *write_json(trainer *w, const char *const *specials, int n)
{
    json_t *root = json_pack(
        "{s:s, s:n, s:n, s:o, s:{s:s}, s:{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b, s:b}]},"
        " s:o, s:{s:s, s:b, s:b, s:b}, s:{s:s, s:n, s:n, s:s, s:s, s:b, s:b, s:b, s:O, s:O}}",
        "version", "1.0", "truncation", "padding", "added_tokens", added_tokens(w, specials, n),
        "normalizer", "type", "NFC", "pre_tokenizer", "type", "Sequence", "pretokenizers", "type",
        "Split", "pattern", "Regex", pc_pattern_qwen2, "behavior", "Isolated", "invert", 0, "type",
        "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0, "post_processor",
        post_processor(w, specials, n), "decoder", "type", "ByteLevel", "add_prefix_space", 0,
        "trim_offsets", 1, "use_regex", 0, "model", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "", "end_of_word_suffix", "", "fuse_unk", 0, "byte_fallback",
        0, "ignore_merges", 0, "vocab", w->vocab, "merges", w->merges);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    return text;
}

static void trainer_close(trainer *w)
{
    pc_word_rules_close(&w->rules);
    pc_bytemap_close(&w->words);
    pc_bytemap_close(&w->names);
    free(w->symbols);
    free(w->begin);
    free(w->length);
    free(w->pairs);
    free(w->places);
    free(w->heap);
    json_decref(w->vocab);
    json_decref(w->merges);
}

pc_status pc_tokenizer_train(pc_tokenizer **out, const char *const *texts, int64_t n, int32_t vocab,
                             const char *const *specials, int n_specials)
{
    char *json = NULL;
    pc_status st = PC_OK;
    *out = NULL;
    if (vocab < 256 + n_specials)
        return pc_fail(PC_ERR_INPUT,
                       "a vocabulary of %d is too small: 256 bytes and %d special tokens need %d",
                       vocab, n_specials, 256 + n_specials);
    trainer w = {.vocab = json_object(), .merges = json_array()};
    if (!w.vocab || !w.merges) st = pc_fail(PC_ERR_MEMORY, "a vocabulary");
    for (int i = 0; i < n_specials && !st; i++)
        if (!*specials[i]) st = pc_fail(PC_ERR_INPUT, "an empty special token");
    if (st || (st = pc_word_rules_split(&w.rules, pc_pattern_qwen2))) goto out;
    for (int64_t i = 0; i < n && !st; i++) st = count_text(&w, texts[i], specials, n_specials);
    if (st || (st = add_bytes(&w)) || (st = lay_out_words(&w))) goto out;
    if ((st = merge_until(&w, vocab - n_specials))) goto out;
    json = write_json(&w, specials, n_specials);
    st = json ? pc_tokenizer_parse(out, json, strlen(json))
              : pc_fail(PC_ERR_MEMORY, "a tokenizer of %d tokens", vocab);
out:
    free(json);
    trainer_close(&w);
    return pc_context(st, "training a tokenizer");
}

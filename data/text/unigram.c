/*
 * unigram.c - the best way through a word (Viterbi), over a trie of pieces.
 *
 * Two libraries, two sets of habits:
 *   SentencePiece   control, unknown, unused and byte pieces are never found; sums in f32; user-defined pieces get a
 *                   score that nearly always wins; an unknown character gives its bytes when there is byte fallback
 *   tokenizers      every piece is found (here: but for special ones); sums in f64; unknown characters that stand
 *                   together are looked up once more as a whole before they give their bytes
 */
#include "data/text/unigram.h"
#include "data/text/bpe.h"
#include "data/text/sentencepiece.h"
#include "data/text/utf8.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double UNKNOWN_COSTS = 10.0;

/* ---- the trie ---- */

static size_t slot_of(const pc_trie *r, uint64_t edge)
{
    size_t i = (size_t)((edge * 0x9E3779B97F4A7C15u) >> 17) & (r->slots - 1);
    while (r->edge[i] && r->edge[i] != edge) i = (i + 1) & (r->slots - 1);
    return i;
}

static uint64_t edge_of(int32_t node, unsigned char byte)
{
    return 1 + ((uint64_t)(uint32_t)node << 8 | byte);
}

static pc_status grow_edges(pc_trie *r)
{
    pc_trie grown = *r;
    grown.slots = r->slots ? 2 * r->slots : 1 << 10;
    grown.edge = calloc(grown.slots, sizeof *grown.edge);
    grown.child = malloc(grown.slots * sizeof *grown.child);
    if (!grown.edge || !grown.child) {
        free(grown.edge);
        free(grown.child);
        return pc_fail(PC_ERR_MEMORY, "a trie of %zu edges", r->edges);
    }
    for (size_t i = 0; i < r->slots; i++) {
        if (!r->edge[i]) continue;
        const size_t at = slot_of(&grown, r->edge[i]);
        grown.edge[at] = r->edge[i];
        grown.child[at] = r->child[i];
    }
    free(r->edge);
    free(r->child);
    *r = grown;
    return PC_OK;
}

static pc_status add_node(pc_trie *r, int32_t *node)
{
    if (r->nodes == r->room) {
        if (r->nodes > INT32_MAX / 4) return pc_fail(PC_ERR_FORMAT, "a trie of %d nodes", r->nodes);
        const int32_t wanted = r->room ? 2 * r->room : 1 << 10;
        int32_t *piece = realloc(r->piece, (size_t)wanted * sizeof *piece);
        if (!piece) return pc_fail(PC_ERR_MEMORY, "a trie of %d nodes", wanted);
        r->piece = piece;
        r->room = wanted;
    }
    r->piece[r->nodes] = -1;
    *node = r->nodes++;
    return PC_OK;
}

/* The child of a node, -1: none. */
static inline int32_t step(const pc_trie *r, int32_t node, unsigned char byte)
{
    if (node == 0) return r->first[byte];
    const uint64_t edge = edge_of(node, byte);
    const size_t i = slot_of(r, edge);
    return r->edge[i] ? r->child[i] : -1;
}

static pc_status add_piece(pc_trie *r, const char *text, size_t size, int32_t id)
{
    int32_t node = 0;
    for (size_t i = 0; i < size; i++) {
        const unsigned char byte = (unsigned char)text[i];
        int32_t next = step(r, node, byte);
        if (next < 0) {
            pc_status st = add_node(r, &next);
            if (!st && 2 * (r->edges + 1) > r->slots) st = grow_edges(r);
            if (st) return st;
            if (node == 0) {
                r->first[byte] = next;
            } else {
                const uint64_t edge = edge_of(node, byte);
                const size_t at = slot_of(r, edge);
                r->edge[at] = edge;
                r->child[at] = next;
                r->edges++;
            }
        }
        node = next;
    }
    r->piece[node] = id;
    return PC_OK;
}

static pc_status open_trie(pc_trie *r)
{
    int32_t root;
    memset(r->first, 0xFF, sizeof r->first);
    pc_status st = grow_edges(r);
    return st ? st : add_node(r, &root);
}

void pc_unigram_close(pc_unigram *u)
{
    free(u->score);
    free(u->chosen);
    free(u->trie.edge);
    free(u->trie.child);
    free(u->trie.piece);
    *u = (pc_unigram){0};
}

/* ---- reading ---- */

static pc_status read_entry(pc_tokenizer *t, const json_t *entry, int32_t id)
{
    const json_t *name = json_array_get(entry, 0), *score = json_array_get(entry, 1);
    if (json_array_size(entry) != 2 || !json_is_string(name) || !json_is_number(score))
        return pc_fail(PC_ERR_FORMAT, "expected [piece, score]");
    if (json_string_length(name) == 0) return pc_fail(PC_ERR_FORMAT, "an empty piece");
    const int64_t other =
        pc_bytemap_find(&t->names, json_string_value(name), json_string_length(name));
    if (other >= 0)
        return pc_fail(PC_ERR_FORMAT, "\"%.60s\" is piece %lld already", json_string_value(name),
                       (long long)other);
    t->unigram.score[id] = json_number_value(score);
    return pc_tok_name(t, id, json_string_value(name), json_string_length(name));
}

pc_status pc_unigram_vocab(pc_tokenizer *t, const json_t *model)
{
    const json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_id");
    const size_t n = json_array_size(vocab);
    pc_unigram *u = &t->unigram;
    if (!json_is_array(vocab) || n == 0)
        return pc_fail(PC_ERR_FORMAT, "model.vocab: expected an array of [piece, score]");
    if (n > INT32_MAX / 8) return pc_fail(PC_ERR_FORMAT, "model.vocab: %zu pieces", n);
    u->on = true;
    u->count = (int32_t)n;
    u->score = calloc(n, sizeof *u->score);
    if (!u->score) return pc_fail(PC_ERR_MEMORY, "%zu scores", n);
    pc_status st = pc_tok_room(t, (int32_t)n);
    for (size_t i = 0; i < n && !st; i++)
        st = pc_context(read_entry(t, json_array_get(vocab, i), (int32_t)i), "model.vocab[%zu]", i);
    if (st) return st;
    t->unk = -1;
    if (pc_tok_absent(unk)) return PC_OK; // an error once it is needed
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 ||
        json_integer_value(unk) >= (json_int_t)n)
        return pc_fail(PC_ERR_FORMAT, "model.unk_id: %lld, expected a piece from 0 to %zu",
                       (long long)json_integer_value(unk), n - 1);
    t->unk = (int32_t)json_integer_value(unk);
    return PC_OK;
}

/* Which pieces are found in texts, and what decides the score of an unknown character. */
static bool is_found(const pc_tokenizer *t, int32_t id, int type)
{
    if (type == 0) return !t->pieces[id].special;
    return type == PC_SP_NORMAL || type == PC_SP_USER_DEFINED;
}

pc_status pc_unigram_finish(pc_tokenizer *t, const json_t *types)
{
    pc_unigram *u = &t->unigram;
    double least = INFINITY, largest = (double)FLT_MIN; // SentencePiece begins there
    u->single = types != NULL;
    if (types && json_array_size(types) != (size_t)u->count)
        return pc_fail(PC_ERR_FORMAT, "model.percept: %zu types of %d pieces",
                       json_array_size(types), u->count);
    u->chosen = calloc((size_t)u->count, 1);
    if (!u->chosen) return pc_fail(PC_ERR_MEMORY, "%d pieces", u->count);
    pc_status st = open_trie(&u->trie);
    for (int32_t i = 0; i < u->count && !st; i++) {
        const json_t *type = json_array_get(types, (size_t)i);
        const int kind = (int)json_integer_value(type);
        const char *name = NULL;
        size_t size = 0;
        if (types && (!json_is_integer(type) || kind < PC_SP_NORMAL || kind > PC_SP_BYTE))
            return pc_fail(PC_ERR_FORMAT, "model.percept: types[%d] is %lld, expected 1 to 6", i,
                           (long long)json_integer_value(type));
        u->chosen[i] = kind == PC_SP_USER_DEFINED;
        if (!types || kind == PC_SP_NORMAL) {
            least = fmin(least, u->score[i]);
            largest = fmax(largest, u->score[i]);
        }
        if (is_found(t, i, kind) && pc_name_of(t, i, &name, &size))
            st = add_piece(&u->trie, name, size, i);
    }
    if (types && least == INFINITY) least = (double)FLT_MAX;
    u->unknown = least - UNKNOWN_COSTS;
    if (u->single) u->unknown = (double)(float)u->unknown;
    u->largest = largest;
    return st;
}

/* ---- the way through a word ---- */

// Of the best pieces up to a place: their sum; where the last one begins and what it is; where the next one of the
// chosen way ends.
typedef struct place {
    double sum;
    int32_t from, id, to;
} place;

typedef struct way {
    const pc_tokenizer *t;
    const char *word;
    int32_t size;
    place *place; // (size + 1)
    pc_ids *out;
} way;

static inline void reach(const way *w, int32_t from, int32_t to, int32_t id, double sum)
{
    place *p = &w->place[to];
    if (w->t->unigram.single) sum = (double)(float)sum;
    if (p->from >= 0 && !(sum > p->sum)) return;
    p->sum = sum;
    p->from = from;
    p->id = id;
}

static double score_of(const pc_unigram *u, int32_t id, int32_t length)
{
    if (u->single && u->chosen[id])
        return (double)(float)((double)((float)length * (float)u->largest) - 0.1);
    return u->score[id];
}

static void pieces_from(const way *w, int32_t at, int32_t character)
{
    const pc_unigram *u = &w->t->unigram;
    const double before = w->place[at].sum;
    bool known = false; // the character by itself is a piece
    int32_t node = 0;
    for (int32_t end = at; end < w->size;) {
        node = step(&u->trie, node, (unsigned char)w->word[end++]);
        if (node < 0) break;
        const int32_t id = u->trie.piece[node];
        if (id < 0) continue;
        reach(w, at, end, id, before + score_of(u, id, end - at));
        known = known || end - at == character;
    }
    if (known) return;
    reach(w, at, at + character, w->t->unk, before + u->unknown);
}

/* Characters that no piece is: a token after all, their bytes, or the unknown token. */
static pc_status put_unknown(const way *w, int32_t begin, int32_t end)
{
    const pc_tokenizer *t = w->t;
    const char *text = w->word + begin;
    const int32_t n = end - begin;
    const int64_t id = t->unigram.single ? -1 : pc_bytemap_find(&t->names, text, (size_t)n);
    if (id >= 0 && !t->pieces[id].outside && !t->pieces[id].special)
        return pc_ids_add(w->out, (int32_t)id);
    bool bytes = t->falls_back;
    for (int32_t i = 0; i < n && bytes; i++) bytes = t->fallback[(unsigned char)text[i]] >= 0;
    pc_status st = PC_OK;
    for (int32_t i = 0; i < n && bytes && !st; i++)
        st = pc_ids_add(w->out, t->fallback[(unsigned char)text[i]]);
    if (bytes) return st;
    if (t->unk < 0)
        return pc_fail(PC_ERR_INPUT, "'%.*s' is no piece, and the model has no unk_id",
                       n < 40 ? (int)n : 40, text);
    return pc_ids_add(w->out, t->unk);
}

static pc_status put_way(const way *w)
{
    const pc_tokenizer *t = w->t;
    pc_status st = PC_OK;
    for (int32_t at = w->size; at > 0; at = w->place[at].from) w->place[w->place[at].from].to = at;
    int32_t unknown = -1; // where the unknown characters that stand together begin
    for (int32_t at = 0; at < w->size && !st; at = w->place[at].to) {
        const int32_t id = w->place[w->place[at].to].id;
        if (id == t->unk) {
            if (unknown < 0) unknown = at;
            continue;
        }
        if (unknown >= 0) st = put_unknown(w, unknown, at);
        unknown = -1;
        if (!st) st = pc_ids_add(w->out, id);
    }
    return !st && unknown >= 0 ? put_unknown(w, unknown, w->size) : st;
}

pc_status pc_unigram_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size)
{
    enum { SMALL = 96 };
    place small[SMALL];
    if (size == 0) return PC_OK;
    if (size > INT32_MAX / 64) return pc_fail(PC_ERR_INPUT, "a word of %zu bytes", size);
    way w = {.t = t, .word = word, .size = (int32_t)size, .place = small, .out = out};
    if (size + 1 > SMALL) w.place = malloc((size + 1) * sizeof *w.place);
    if (!w.place) return pc_fail(PC_ERR_MEMORY, "a word of %zu bytes", size);
    for (int32_t i = 0; i <= w.size; i++) w.place[i] = (place){.sum = 0, .from = -1};
    for (int32_t at = 0; at < w.size;) {
        const int character = pc_utf8_step((const unsigned char *)word + at, size - (size_t)at);
        PC_ASSERT(character > 0, "a word that is no UTF-8 at byte %d", at);
        pieces_from(&w, at, character);
        at += character;
    }
    pc_status st = put_way(&w);
    if (w.place != small) free(w.place);
    return st;
}

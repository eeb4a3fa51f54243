/*
 * tokenizer.c - encoding and decoding; the file's layout is tokenizer_json.c's, the merges are bpe.c's.
 *
 *   encode   added tokens that are matched raw are cut out; the rest is normalised; added tokens that are
 *            matched normalised are cut out; the rest is split into words; each word is merged
 *   decode   the bytes of all tokens, one after the other, broken characters replaced
 */
#include "data/text/bpe.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- lists of ids ---- */

void pc_ids_close(pc_ids *ids)
{
    free(ids->list);
    *ids = (pc_ids){0};
}

pc_status pc_ids_reserve(pc_ids *ids, int64_t more)
{
    if (ids->capacity - ids->count >= more) return PC_OK;
    int64_t wanted = ids->capacity ? 2 * ids->capacity : 64;
    while (wanted - ids->count < more) wanted *= 2;
    int32_t *list = realloc(ids->list, (size_t)wanted * sizeof *list);
    if (!list) return pc_fail(PC_ERR_MEMORY, "%lld token ids", (long long)wanted);
    ids->list = list;
    ids->capacity = wanted;
    return PC_OK;
}

pc_status pc_ids_add(pc_ids *ids, int32_t id)
{
    pc_status st = pc_ids_reserve(ids, 1);
    if (!st) ids->list[ids->count++] = id;
    return st;
}

/* ---- life and questions ---- */

void pc_tokenizer_close(pc_tokenizer *t)
{
    if (!t) return;
    free(t->json);
    pc_bytemap_close(&t->names);
    free(t->pieces);
    free(t->pool);
    free(t->merges);
    for (int i = 0; i < t->added_count; i++) free(t->added[i].content);
    free(t->added);
    pc_word_rules_close(&t->rules);
    pc_ids_close(&t->before);
    pc_ids_close(&t->after);
    if (t->cache)
        for (int i = 0; i < PC_CACHE_LOCKS; i++) pthread_mutex_destroy(&t->cache->lock[i]);
    free(t->cache);
    free(t);
}

char *pc_tokenizer_json(const pc_tokenizer *t)
{
    return strdup(t->json);
}

int32_t pc_tokenizer_vocab(const pc_tokenizer *t)
{
    return t->vocab;
}

int32_t pc_tokenizer_id(const pc_tokenizer *t, const char *token)
{
    return (int32_t)pc_bytemap_find(&t->names, token, strlen(token));
}

int32_t pc_tokenizer_bos(const pc_tokenizer *t)
{
    return t->bos;
}

int32_t pc_tokenizer_eos(const pc_tokenizer *t)
{
    return t->eos;
}

int32_t pc_tokenizer_pad(const pc_tokenizer *t)
{
    return t->pad;
}

bool pc_tokenizer_is_special(const pc_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab && t->pieces[id].special;
}

pc_status pc_tokenizer_frame(const pc_tokenizer *t, pc_ids *ids)
{
    const int64_t before = t->before.count, n = ids->count;
    pc_status st = pc_ids_reserve(ids, before + t->after.count);
    if (st) return st;
    if (n) memmove(ids->list + before, ids->list, (size_t)n * sizeof *ids->list);
    for (int64_t i = 0; i < before; i++) ids->list[i] = t->before.list[i];
    ids->count += before;
    for (int64_t i = 0; i < t->after.count; i++) ids->list[ids->count++] = t->after.list[i];
    return PC_OK;
}

/* ---- encode ---- */

typedef struct encoder {
    const pc_tokenizer *t;
    pc_ids *out;
    bool parse_special;
} encoder;

static pc_status encode_word(void *arg, const char *word, size_t size)
{
    const encoder *e = arg;
    return pc_bpe_word(e->t, e->out, word, size);
}

/* A letter, digit or underscore: what may not touch a token that must stand alone. */
static bool is_word_byte(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (unsigned char)c >= 0x80;
}

/* The longest added token at text + at, among those matched raw or among those matched normalised. */
static const pc_added *added_at(const encoder *e, bool normalized, const char *text, size_t size,
                                size_t at)
{
    const pc_tokenizer *t = e->t;
    if (!t->added_first[(unsigned char)text[at]]) return NULL;
    const pc_added *best = NULL;
    for (int i = 0; i < t->added_count; i++) {
        const pc_added *a = &t->added[i];
        if (a->normalized != normalized || (a->special && !e->parse_special)) continue;
        if (a->size > size - at || (best && a->size <= best->size)) continue;
        if (memcmp(text + at, a->content, a->size) != 0) continue;
        if (a->single_word && ((at > 0 && is_word_byte(text[at - 1])) ||
                               (at + a->size < size && is_word_byte(text[at + a->size]))))
            continue;
        best = a;
    }
    return best;
}

static size_t skip_space(const char *text, size_t size, size_t at)
{
    while (at < size) {
        const int n = pc_utf8_step((const unsigned char *)text + at, size - at);
        if (!pc_utf8_is_space(pc_utf8_code((const unsigned char *)text + at, n))) break;
        at += (size_t)n;
    }
    return at;
}

/* Where the white space that ends at `at` begins, not before `floor`. */
static size_t back_over_space(const char *text, size_t at, size_t floor)
{
    while (at > floor) {
        size_t p = at - 1;
        while (p > floor && ((unsigned char)text[p] & 0xC0) == 0x80) p--;
        if (!pc_utf8_is_space(pc_utf8_code((const unsigned char *)text + p, (int)(at - p)))) break;
        at = p;
    }
    return at;
}

static pc_status encode_plain(const encoder *e, const char *text, size_t size)
{
    return pc_words_each(&e->t->rules, text, size, encode_word, (void *)e);
}

static pc_status encode_normalised(const encoder *e, const char *text, size_t size);

/* Cuts added tokens out of a text; what lies between goes on to the next stage. */
static pc_status cut_added(const encoder *e, bool normalized, const char *text, size_t size)
{
    pc_status (*const next)(const encoder *, const char *, size_t) =
        normalized ? encode_plain : encode_normalised;
    pc_status st = PC_OK;
    size_t done = 0;
    for (size_t at = 0; at < size && !st;) {
        const pc_added *a = added_at(e, normalized, text, size, at);
        if (!a) {
            at++;
            continue;
        }
        const size_t begin = a->lstrip ? back_over_space(text, at, done) : at;
        size_t end = at + a->size;
        if (a->rstrip) end = skip_space(text, size, end);
        if (begin > done) st = next(e, text + done, begin - done);
        if (!st) st = pc_ids_add(e->out, a->id);
        done = at = end;
    }
    return st || done >= size ? st : next(e, text + done, size - done);
}

static pc_status encode_normalised(const encoder *e, const char *text, size_t size)
{
    const char *normal;
    char *owned;
    size_t n;
    pc_status st = pc_words_normalise(&e->t->rules, &normal, &n, &owned, text, size);
    if (!st) st = cut_added(e, true, normal, n);
    free(owned);
    return st;
}

pc_status pc_tokenizer_encode(const pc_tokenizer *t, pc_ids *out, const char *text, size_t size,
                              bool parse_special)
{
    const encoder e = {t, out, parse_special};
    if (pc_utf8_valid(text, size)) return cut_added(&e, false, text, size);
    char *repaired = pc_utf8_repaired(text, size, &size);
    if (!repaired) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", size);
    pc_status st = cut_added(&e, false, repaired, size);
    free(repaired);
    return st;
}

/* ---- decode ---- */

static pc_status check_id(const pc_tokenizer *t, int32_t id)
{
    if (id < 0 || id >= t->vocab || t->pieces[id].size < 0)
        return pc_fail(PC_ERR_INPUT, "token id %d is not in the vocabulary (0 to %d)", id,
                       t->vocab - 1);
    return PC_OK;
}

pc_status pc_tokenizer_decode(const pc_tokenizer *t, char **out, const int32_t *ids, int64_t n,
                              bool skip_special)
{
    pc_status st = PC_OK;
    size_t size = 0;
    *out = NULL;
    for (int64_t i = 0; i < n; i++) {
        if ((st = check_id(t, ids[i]))) return st;
        size += (size_t)t->pieces[ids[i]].size;
    }
    char *bytes = malloc(size + 1);
    if (!bytes) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", size);
    size = 0;
    for (int64_t i = 0; i < n; i++) {
        const pc_piece *p = &t->pieces[ids[i]];
        if (skip_special && p->special) continue;
        memcpy(bytes + size, t->pool + p->at, (size_t)p->size);
        size += (size_t)p->size;
    }
    bytes[size] = '\0';
    if (pc_utf8_valid(bytes, size)) {
        *out = bytes;
        return PC_OK;
    }
    *out = pc_utf8_repaired(bytes, size, &size);
    free(bytes);
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", size);
}

/* ---- streaming ---- */

size_t pc_stream_room(const pc_tokenizer *t)
{
    return 3 * ((size_t)t->longest + sizeof((pc_stream_decoder *)0)->held) + 1;
}

pc_status pc_stream_decode(pc_stream_decoder *d, int32_t id, char *buf, size_t size)
{
    const pc_tokenizer *t = d->tokenizer;
    pc_status st = check_id(t, id);
    PC_ASSERT(size >= 1, "no room for the end of a text");
    buf[0] = '\0';
    if (st) return st;
    const pc_piece *p = &t->pieces[id];
    if (p->special) return PC_OK;
    const size_t n = (size_t)d->held_count + (size_t)p->size;
    unsigned char small[256], *bytes = n <= sizeof small ? small : malloc(n);
    if (!bytes) return pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", n);
    memcpy(bytes, d->held, (size_t)d->held_count);
    memcpy(bytes + d->held_count, t->pool + p->at, (size_t)p->size);

    size_t used = 0, i = 0;
    for (int step; i < n && (step = pc_utf8_step(bytes + i, n - i)) != 0;) {
        const size_t add = step > 0 ? (size_t)step : 3;
        if (used + add + 1 > size) {
            st = pc_fail(PC_ERR_INPUT, "token %d needs a buffer of %zu bytes, %zu were given", id,
                         pc_stream_room(t), size);
            break;
        }
        memcpy(buf + used, step > 0 ? (const void *)(bytes + i) : (const void *)"\xEF\xBF\xBD",
               add);
        used += add;
        i += (size_t)(step > 0 ? step : -step);
    }
    if (!st) {
        buf[used] = '\0';
        d->held_count = (int)(n - i); // the beginning of a character: three bytes at most
        memcpy(d->held, bytes + i, n - i);
    }
    if (bytes != small) free(bytes);
    return st;
}

void pc_stream_flush(pc_stream_decoder *d, char *buf, size_t size)
{
    PC_ASSERT(size >= 4, "a buffer of %zu bytes for one character", size);
    strcpy(buf, d->held_count ? "\xEF\xBF\xBD" : "");
    d->held_count = 0;
}

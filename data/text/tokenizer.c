/*
 * tokenizer.c - encoding, and what is asked of a tokenizer; decoding is decode.c's, the merges are bpe.c's.
 *
 *   encode   added tokens that are matched raw are cut out; the rest is normalised; added tokens that are
 *            matched normalised are cut out; the rest is split into words; each word is merged.
 *            SentencePiece's own way: normalised, user-defined pieces cut out, the rest is merged; SigLIP's class
 *            does this to what lies between added tokens, once it is prepared
 */
#include "data/text/bpe.h"
#include "data/text/sentencepiece.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

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
    pc_bytemap_close(&t->chars);
    free(t->pieces);
    free(t->pool);
    free(t->unk_missing);
    free(t->prefix);
    free(t->suffix);
    free(t->merges);
    free(t->joins);
    pc_matcher_close(&t->defined);
    pc_unigram_close(&t->unigram);
    for (int i = 0; i < t->added_count; i++) free(t->added[i].content);
    free(t->added);
    for (int i = 0; i < 4; i++) pc_matcher_close(&t->added_match[i / 2][i % 2]);
    pc_normal_close(&t->normal);
    pc_charsmap_close(&t->sp.chars);
    pc_word_rules_close(&t->rules);
    pc_ids_close(&t->before);
    pc_ids_close(&t->after);
    if (t->cache)
        for (int i = 0; i < PC_CACHE_LOCKS; i++) pthread_mutex_destroy(&t->cache->lock[i]);
    free(t->cache);
    free(t);
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

/* ---- encode: words ---- */

typedef struct encoder {
    const pc_tokenizer *t;
    pc_ids *out;
    bool parse_special;
    bool first; // the text under way is the beginning of the whole
} encoder;

static pc_status encode_word(void *arg, const char *word, size_t size)
{
    const encoder *e = arg;
    const pc_tokenizer *t = e->t;
    if (!t->rules.coded || !t->byte_level) return pc_bpe_word(t, e->out, word, size);
    unsigned char small[256], *bytes = size <= sizeof small ? small : malloc(size);
    size_t n;
    if (!bytes) return pc_fail(PC_ERR_MEMORY, "a word of %zu bytes", size);
    pc_status st = pc_bytes_of_name(bytes, &n, word, size)
                       ? pc_bpe_word(t, e->out, (const char *)bytes, n)
                       : pc_fail(PC_ERR_INPUT, "a word that is not in the byte alphabet");
    if (bytes != small) free(bytes);
    return st;
}

static pc_status encode_own(const pc_tokenizer *t, pc_ids *out, const char *text, size_t size,
                            bool prefix);

static pc_status encode_plain(const encoder *e, const char *text, size_t size)
{
    if (e->t->sp.prepared) return encode_own(e->t, e->out, text, size, e->first);
    return pc_words_each(&e->t->rules, text, size, e->first, encode_word, (void *)e);
}

/* ---- encode: added tokens ---- */

/* What a word is made of: letters, marks, digits, underscores and their kin. */
static bool is_word_code(uint32_t code)
{
    if (code == 0x200C || code == 0x200D) return true;
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return code >= 0x24B6 && code <= 0x24E9;
    }
}

static uint32_t code_before(const char *text, size_t at)
{
    size_t p = at - 1;
    while (p > 0 && ((unsigned char)text[p] & 0xC0) == 0x80) p--;
    return pc_utf8_code((const unsigned char *)text + p, (int)(at - p));
}

static uint32_t code_at(const char *text, size_t size, size_t at)
{
    const unsigned char *s = (const unsigned char *)text + at;
    return pc_utf8_code(s, pc_utf8_step(s, size - at));
}

static bool stands_alone(const char *text, size_t size, size_t begin, size_t end)
{
    return !(begin > 0 && is_word_code(code_before(text, begin))) &&
           !(end < size && is_word_code(code_at(text, size, end)));
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

static pc_status encode_normalised(const encoder *e, const char *text, size_t size);

static pc_status encode_between(const encoder *e, bool normalized, const char *text, size_t begin,
                                size_t end)
{
    if (begin >= end) return PC_OK;
    encoder part = *e;
    part.first = e->first && begin == 0;
    return normalized ? encode_plain(&part, text + begin, end - begin)
                      : encode_normalised(&part, text + begin, end - begin);
}

/* Cuts added tokens out of a text, the longest at the leftmost place; what lies between goes on. */
static pc_status cut_added(const encoder *e, bool normalized, const char *text, size_t size)
{
    const pc_matcher *m = &e->t->added_match[normalized][e->parse_special];
    pc_status st = PC_OK;
    size_t done = 0;
    for (size_t at = 0; at < size && !st && m->map.count > 0;) {
        size_t n = 1;
        const int64_t which =
            pc_matcher_may_begin(m, text[at]) ? pc_matcher_find(m, &n, text + at, size - at) : -1;
        const pc_added *a = which >= 0 ? &e->t->added[which] : NULL;
        if (!a || (a->single_word && !stands_alone(text, size, at, at + n))) {
            at += n; // a word that does not stand alone is passed over whole
            continue;
        }
        const size_t begin = !a->lstrip ? at : at > done ? back_over_space(text, at, done) : done;
        size_t end = at + n;
        if (a->rstrip) end = skip_space(text, size, end);
        st = encode_between(e, normalized, text, done, begin);
        if (!st && begin < end) st = pc_ids_add(e->out, a->id);
        at += n; // a token of spaces may begin among the spaces that this one swallowed
        done = end;
    }
    return st ? st : encode_between(e, normalized, text, done, size);
}

static pc_status encode_normalised(const encoder *e, const char *text, size_t size)
{
    const char *normal;
    char *owned;
    size_t n;
    pc_status st = pc_normal_run(&e->t->normal, &normal, &n, &owned, text, size);
    if (!st) st = cut_added(e, true, normal, n);
    free(owned);
    return st;
}

/* ---- encode: the whole ---- */

/* User-defined pieces are whole wherever they stand; what lies between is merged. */
static pc_status encode_own(const pc_tokenizer *t, pc_ids *out, const char *text, size_t size,
                            bool prefix)
{
    pc_buffer normal = {0};
    pc_status st = pc_sentencepiece_normal(t, &normal, text, size, prefix);
    size_t done = 0;
    if (!st && t->unigram.on) { // among its pieces the user-defined ones win by their score
        st = pc_unigram_word(t, out, normal.data, normal.used);
        done = normal.used;
    }
    for (size_t at = done; at < normal.used && !st && t->defined.map.count > 0;) {
        size_t n = 0;
        const int64_t id =
            pc_matcher_may_begin(&t->defined, normal.data[at])
                ? pc_matcher_find(&t->defined, &n, normal.data + at, normal.used - at)
                : -1;
        if (id < 0) {
            at++;
            continue;
        }
        st = pc_bpe_word(t, out, normal.data + done, at - done);
        if (!st) st = pc_ids_add(out, (int32_t)id);
        done = at += n;
    }
    if (!st && done < normal.used) st = pc_bpe_word(t, out, normal.data + done, normal.used - done);
    free(normal.data);
    return st;
}

pc_status pc_tokenizer_encode(const pc_tokenizer *t, pc_ids *out, const char *text, size_t size,
                              bool parse_special)
{
    const encoder e = {t, out, parse_special, true};
    if (t->sp.on && !t->sp.prepared) return encode_own(t, out, text, size, t->sp.dummy_prefix);
    if (pc_utf8_valid(text, size)) return cut_added(&e, false, text, size);
    char *repaired = pc_utf8_repaired(text, size, &size);
    if (!repaired) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", size);
    pc_status st = cut_added(&e, false, repaired, size);
    free(repaired);
    return st;
}

/*
 * tokenizer_json.c - the layout of `tokenizer.json` (spec: tokenizers.md 2), read strictly: vocabulary, merges,
 * added tokens. What stands around the model is pipeline_json.c's.
 *
 * Taken: model BPE, byte-level or by characters with byte fallback, prefix within and suffix at the end of words;
 * merges as "a b" or ["a", "b"]; model Unigram (unigram.h); added tokens with all their flags.
 *
 * `model.percept` is ours, others pass over it. It holds what the layout has no place for:
 *   roles          {"bos": id, "eos": id, "pad": id, "unk": id}: which tokens begin, end and pad texts
 *   scores, types  of the pieces of a SentencePiece model (types as in its file): instead of the merges, which are
 *                  written for others, any two symbols that make a piece merge, the piece of highest score first
 *   ranks          true: likewise, the token of lowest id first (tiktoken)
 *   sentencepiece  how its own normaliser and decoder behave (sentencepiece.h); instead of `normalizer` and `decoder`
 */
#include "data/text/bpe.h"
#include "data/text/layouts.h"
#include "data/text/sentencepiece.h"
#include "data/text/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pieces ---- */

pc_status pc_pool_add(pc_tokenizer *t, size_t *at, const void *bytes, size_t size)
{
    if (t->pool_room - t->pool_used < size) {
        size_t wanted = t->pool_room ? 2 * t->pool_room : 1 << 12;
        while (wanted - t->pool_used < size) wanted *= 2;
        char *pool = realloc(t->pool, wanted);
        if (!pool) return pc_fail(PC_ERR_MEMORY, "%zu bytes of tokens", wanted);
        t->pool = pool;
        t->pool_room = wanted;
    }
    *at = t->pool_used;
    if (size) memcpy(t->pool + t->pool_used, bytes, size);
    t->pool_used += size;
    return PC_OK;
}

pc_status pc_tok_room(pc_tokenizer *t, int32_t wanted)
{
    if (wanted <= t->vocab) return PC_OK;
    pc_piece *pieces = realloc(t->pieces, (size_t)wanted * sizeof *pieces);
    if (!pieces) return pc_fail(PC_ERR_MEMORY, "%d tokens", wanted);
    for (int32_t i = t->vocab; i < wanted; i++) pieces[i] = (pc_piece){.size = -1, .name = -1};
    t->pieces = pieces;
    t->vocab = wanted;
    return PC_OK;
}

pc_status pc_tok_name(pc_tokenizer *t, int32_t id, const char *name, size_t size)
{
    if (size > INT32_MAX) return pc_fail(PC_ERR_FORMAT, "token %d has %zu bytes", id, size);
    const pc_byte_entry *e = pc_bytemap_add(&t->names, name, size, id, NULL);
    if (!e) return pc_fail(PC_ERR_MEMORY, "%lld tokens", (long long)t->names.count);
    t->pieces[id].name = (int32_t)(e - t->names.entries);
    if (size > t->longest_name) t->longest_name = size;
    return PC_OK;
}

/* Ids may have gaps, but not so wide that a small file makes a large table. */
static int64_t id_limit(size_t tokens)
{
    const int64_t limit = 4 * (int64_t)tokens + (1 << 17);
    return limit < 1 << 26 ? limit : 1 << 26;
}

static pc_status read_vocab(pc_tokenizer *t, json_t *model, size_t added)
{
    json_t *vocab = json_object_get(model, "vocab");
    if (t->unigram.on) return pc_unigram_vocab(t, model);
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return pc_fail(PC_ERR_FORMAT, "model.vocab: expected an object of token: id");
    const int64_t limit = id_limit(json_object_size(vocab) + added);
    const char *name;
    json_t *value;
    pc_status st = PC_OK;
    int64_t largest = -1;
    json_object_foreach(vocab, name, value)
    {
        const int64_t id = json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;
        if (id < 0 || id >= limit)
            return pc_fail(PC_ERR_FORMAT,
                           "model.vocab: token \"%.60s\": id %lld, expected an integer from 0 to "
                           "%lld in a vocabulary of %zu",
                           name, (long long)json_integer_value(value), (long long)limit - 1,
                           json_object_size(vocab));
        if (id > largest) largest = id;
    }
    if ((st = pc_tok_room(t, (int32_t)largest + 1))) return st;
    json_object_foreach(vocab, name, value)
    {
        const int32_t id = (int32_t)json_integer_value(value);
        const size_t size = strlen(name);
        if (size == 0) return pc_fail(PC_ERR_FORMAT, "model.vocab: id %d is an empty token", id);
        if (t->pieces[id].name >= 0)
            return pc_fail(PC_ERR_FORMAT, "model.vocab: id %d is given twice, last by \"%.60s\"",
                           id, name);
        if ((st = pc_tok_name(t, id, name, size))) return st;
    }
    return PC_OK;
}

/* ---- the symbols that words begin with ---- */

static int32_t spelled(const pc_tokenizer *t, const char *text, bool within, bool ends)
{
    char name[2 * PC_AFFIX + 8];
    snprintf(name, sizeof name, "%s%s%s", within && t->prefix ? t->prefix : "", text,
             ends && t->suffix ? t->suffix : "");
    return pc_tokenizer_id(t, name);
}

static void byte_symbols(pc_tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        unsigned char coded[5];
        coded[pc_utf8_put(coded, pc_byte_char(b))] = '\0';
        for (int place = 0; place < 4; place++)
            t->byte_id[place][b] = spelled(t, (const char *)coded, place & 1, place & 2);
    }
}

static pc_status character_symbols(pc_tokenizer *t, const int32_t *rank)
{
    for (int i = 0; i < 128; i++) t->ascii_id[i] = -1;
    for (int64_t i = 0; i < t->names.count; i++) {
        const pc_byte_entry *e = &t->names.entries[i];
        const char *name = pc_bytemap_key(&t->names, e);
        const int step = pc_utf8_step((const unsigned char *)name, e->size);
        if (step <= 0 || (size_t)step != e->size || (rank && rank[e->value] < 0)) continue;
        if (t->pieces[e->value].outside) continue;
        if (!pc_bytemap_add(&t->chars, name, e->size, e->value, NULL))
            return pc_fail(PC_ERR_MEMORY, "characters of a vocabulary");
        if (step == 1) t->ascii_id[(unsigned char)*name] = (int32_t)e->value;
    }
    return PC_OK;
}

static void fallback_symbols(pc_tokenizer *t)
{
    t->whole_fallback = t->falls_back;
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        const int32_t id = t->falls_back ? pc_tokenizer_id(t, name) : -1;
        t->fallback[b] = id >= 0 && !t->pieces[id].outside ? id : -1;
        if (t->fallback[b] < 0) t->whole_fallback = false;
    }
}

/* ---- merges ---- */

static pc_status merge_parts(const json_t *entry, int64_t i, const char **left, size_t *left_size,
                             const char **right)
{
    if (json_is_string(entry)) {
        *left = json_string_value(entry);
        const char *gap = strchr(*left, ' ');
        if (gap && gap > *left && gap[1] && !strchr(gap + 1, ' ')) {
            *left_size = (size_t)(gap - *left);
            *right = gap + 1;
            return PC_OK;
        }
        return pc_fail(PC_ERR_FORMAT, "model.merges[%lld]: \"%.60s\", expected \"LEFT RIGHT\"",
                       (long long)i, *left);
    }
    const json_t *a = json_array_get(entry, 0), *b = json_array_get(entry, 1);
    if (json_array_size(entry) != 2 || !json_is_string(a) || !json_is_string(b))
        return pc_fail(PC_ERR_FORMAT,
                       "model.merges[%lld]: expected \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"]",
                       (long long)i);
    *left = json_string_value(a);
    *left_size = json_string_length(a);
    *right = json_string_value(b);
    return PC_OK;
}

static int64_t model_token(const pc_tokenizer *t, const char *name, size_t size)
{
    const int64_t id = pc_bytemap_find(&t->names, name, size);
    return id >= 0 && t->pieces[id].outside ? -1 : id;
}

static pc_status add_merge(pc_tokenizer *t, const json_t *entry, int64_t i)
{
    const char *left = NULL, *right = NULL;
    size_t left_size = 0;
    pc_status st = merge_parts(entry, i, &left, &left_size, &right);
    if (st) return st;
    const size_t right_size = strlen(right), skip = t->prefix ? strlen(t->prefix) : 0;
    if (skip > right_size)
        return pc_fail(PC_ERR_FORMAT, "model.merges[%lld]: \"%.60s\" lacks the prefix \"%s\"",
                       (long long)i, right, t->prefix);
    const size_t whole_size = left_size + right_size - skip;
    char *whole = malloc(whole_size + 1);
    if (!whole) return pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", whole_size);
    memcpy(whole, left, left_size);
    memcpy(whole + left_size, right + skip, right_size - skip + 1);
    const int64_t a = model_token(t, left, left_size), b = model_token(t, right, right_size),
                  id = model_token(t, whole, whole_size);
    const char *missing = a < 0 ? left : b < 0 ? right : id < 0 ? whole : NULL;
    const int shown = (int)(a < 0 ? left_size : b < 0 ? right_size : whole_size);
    if (missing)
        st = pc_fail(PC_ERR_FORMAT, "model.merges[%lld]: \"%.*s\" is not in the vocabulary",
                     (long long)i, shown < 60 ? shown : 60, missing);
    else
        pc_merges_add(t, (int32_t)a, (int32_t)b, (int32_t)i, (int32_t)id);
    free(whole);
    return st;
}

static pc_status read_merges(pc_tokenizer *t, const json_t *model)
{
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges)) return pc_fail(PC_ERR_FORMAT, "model.merges: expected an array");
    const int64_t n = (int64_t)json_array_size(merges);
    pc_status st = pc_merges_room(t, n);
    for (int64_t i = 0; i < n && !st; i++) st = add_merge(t, json_array_get(merges, (size_t)i), i);
    return st;
}

/* ---- ranks instead of merges ---- */

typedef struct scored {
    double score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    return x->score != y->score ? (x->score > y->score ? -1 : 1) : 0;
}

static pc_status ranks_of_scores(pc_tokenizer *t, int32_t *rank, const json_t *own)
{
    const json_t *scores = json_object_get(own, "scores"), *types = json_object_get(own, "types");
    const size_t n = json_array_size(scores);
    if (!json_is_array(scores) || !json_is_array(types) || json_array_size(types) != n ||
        n > (size_t)t->vocab)
        return pc_fail(PC_ERR_FORMAT, "model.percept: %zu scores and %zu types of %d tokens", n,
                       json_array_size(types), t->vocab);
    scored *list = malloc((n + 1) * sizeof *list);
    if (!list) return pc_fail(PC_ERR_MEMORY, "%zu scores", n);
    pc_status st = PC_OK;
    size_t count = 0;
    for (size_t i = 0; i < n && !st; i++) {
        const json_t *score = json_array_get(scores, i), *type = json_array_get(types, i);
        const int kind = (int)json_integer_value(type);
        if (!json_is_number(score) || !json_is_integer(type))
            st = pc_fail(PC_ERR_FORMAT, "model.percept: scores[%zu] or types[%zu] is no number", i,
                         i);
        if (kind == PC_SP_UNUSED) t->pieces[i].unused = t->has_unused = true;
        if (kind == PC_SP_UNKNOWN || kind == PC_SP_CONTROL || kind == PC_SP_BYTE) continue;
        if (t->pieces[i].name >= 0 && !t->pieces[i].outside)
            list[count++] = (scored){json_number_value(score), (int32_t)i};
    }
    qsort(list, count, sizeof *list, by_score);
    int32_t next = -1;
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || list[i].score != list[i - 1].score) next++; // equal scores, equal rank
        rank[list[i].id] = next;
    }
    free(list);
    return st;
}

static pc_status read_ranks(pc_tokenizer *t, const json_t *own)
{
    const bool ranks = json_is_true(json_object_get(own, "ranks"));
    int32_t *rank = malloc((size_t)t->vocab * sizeof *rank);
    if (!rank) return pc_fail(PC_ERR_MEMORY, "%d ranks", t->vocab);
    pc_status st = PC_OK;
    for (int32_t i = 0; i < t->vocab; i++)
        rank[i] = ranks && t->pieces[i].name >= 0 && !t->pieces[i].outside ? i : -1;
    if (!ranks) {
        t->scored = true;
        st = ranks_of_scores(t, rank, own);
    }
    if (!st) st = character_symbols(t, rank);
    if (!st) st = pc_merges_all(t, rank, t->byte_level);
    free(rank);
    return st;
}

/* ---- the model ---- */

static pc_status read_affix(char **out, const json_t *model, const char *key)
{
    const json_t *v = json_object_get(model, key);
    if (pc_tok_absent(v) || (json_is_string(v) && json_string_length(v) == 0)) return PC_OK;
    if (!json_is_string(v) || json_string_length(v) >= PC_AFFIX)
        return pc_fail(PC_ERR_FORMAT, "model.%s: expected a text of less than %d bytes", key,
                       PC_AFFIX);
    *out = strdup(json_string_value(v));
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "model.%s", key);
}

static pc_status read_settings(pc_tokenizer *t, const json_t *root, const json_t *model)
{
    const char *type = pc_tok_text(model, "type");
    if (!json_is_object(model)) return pc_fail(PC_ERR_FORMAT, "no `model` object");
    // Files from before 2020 have no type; a list of pieces with scores is a unigram model's.
    t->unigram.on =
        type ? !strcmp(type, "Unigram") : json_is_array(json_object_get(model, "vocab"));
    if (type && !t->unigram.on && strcmp(type, "BPE") != 0)
        return pc_fail(PC_ERR_FORMAT,
                       "model.type: \"%.40s\" is not supported; expected \"BPE\" or \"Unigram\"",
                       type);
    pc_status st;
    if ((st = pc_tok_flag(&t->falls_back, model, "byte_fallback", false)) ||
        (st = pc_tok_flag(&t->fuse_unk, model, "fuse_unk", false)) ||
        (st = pc_tok_flag(&t->ignore_merges, model, "ignore_merges", false)))
        return pc_context(st, "model");
    if ((st = read_affix(&t->prefix, model, "continuing_subword_prefix")) ||
        (st = read_affix(&t->suffix, model, "end_of_word_suffix")))
        return st;
    const json_t *dropout = json_object_get(model, "dropout");
    if (!pc_tok_absent(dropout) && json_number_value(dropout) != 0.0)
        return pc_fail(PC_ERR_FORMAT, "model.dropout: %g, expected null",
                       json_number_value(dropout));
    if ((st = pc_pipeline_words(t, root))) return st;
    if (t->unigram.on && t->byte_level)
        return pc_fail(PC_ERR_FORMAT, "ByteLevel around a Unigram model is not supported");
    return PC_OK;
}

static pc_status read_unknown(pc_tokenizer *t, const json_t *model)
{
    const char *unk = pc_tok_text(model, "unk_token");
    t->unk = unk ? (int32_t)model_token(t, unk, strlen(unk)) : -1;
    if (!unk || t->unk >= 0) return PC_OK;
    t->unk_missing = strdup(unk); // an error once it is needed, as the reference has it
    return t->unk_missing ? PC_OK : pc_fail(PC_ERR_MEMORY, "model.unk_token");
}

static pc_status read_model(pc_tokenizer *t, const json_t *model)
{
    const json_t *own = json_object_get(model, "percept");
    fallback_symbols(t);
    if (t->unigram.on) {
        const bool by_types = json_is_object(json_object_get(own, "sentencepiece"));
        return pc_unigram_finish(t, by_types ? json_object_get(own, "types") : NULL);
    }
    pc_status st = read_unknown(t, model);
    if (st) return st;
    byte_symbols(t);
    if (json_object_get(own, "scores") || json_is_true(json_object_get(own, "ranks"))) {
        st = read_ranks(t, own);
        t->lacks_merges = json_array_size(json_object_get(model, "merges")) == 0;
    } else {
        st = character_symbols(t, NULL);
        if (!st) st = read_merges(t, model);
    }
    // Where every character is tokens of its own, words may be cut: unknown ones would meet across a cut.
    const bool cut =
        t->whole_fallback && !t->byte_level && !t->prefix && !t->suffix && !t->has_unused;
    return st || !cut ? st : pc_merges_joins(t);
}

/* ---- added tokens ---- */

static pc_status read_added_one(pc_tokenizer *t, const json_t *entry, int64_t limit)
{
    const char *content = pc_tok_text(entry, "content");
    const json_t *id_value = json_object_get(entry, "id");
    const int64_t id = json_is_integer(id_value) ? (int64_t)json_integer_value(id_value) : -1;
    if (!content || !*content) return pc_fail(PC_ERR_FORMAT, "no `content`");
    if (id < 0 || id >= limit)
        return pc_fail(PC_ERR_FORMAT, "\"%.60s\": id %lld, expected an integer from 0 to %lld",
                       content, (long long)json_integer_value(id_value), (long long)limit - 1);
    const size_t size = strlen(content);
    const int64_t known = pc_bytemap_find(&t->names, content, size);
    if (known >= 0 && known != id)
        return pc_fail(PC_ERR_FORMAT, "\"%.60s\" has id %lld here and %lld before", content,
                       (long long)id, (long long)known);
    pc_status st = pc_tok_room(t, (int32_t)id + 1);
    if (st) return st;
    if (known < 0 && t->pieces[id].name >= 0)
        return pc_fail(PC_ERR_FORMAT, "\"%.60s\": id %lld belongs to another token", content,
                       (long long)id);

    pc_added *a = &t->added[t->added_count];
    *a = (pc_added){.size = size, .id = (int32_t)id, .content = strdup(content)};
    if (!a->content) return pc_fail(PC_ERR_MEMORY, "added token \"%.60s\"", content);
    t->added_count++;
    if ((st = pc_tok_flag(&a->special, entry, "special", false)) ||
        (st = pc_tok_flag(&a->single_word, entry, "single_word", false)) ||
        (st = pc_tok_flag(&a->lstrip, entry, "lstrip", false)) ||
        (st = pc_tok_flag(&a->rstrip, entry, "rstrip", false)) ||
        (st = pc_tok_flag(&a->normalized, entry, "normalized", !a->special)))
        return pc_context(st, "\"%.60s\"", content);
    if (known < 0) {
        if ((st = pc_tok_name(t, a->id, content, size))) return st;
        t->pieces[id].outside = true;
    }
    t->pieces[id].special = a->special;
    return PC_OK;
}

static pc_status read_added(pc_tokenizer *t, const json_t *root)
{
    const json_t *list = json_object_get(root, "added_tokens"), *entry;
    size_t i;
    if (pc_tok_absent(list)) return PC_OK;
    if (!json_is_array(list)) return pc_fail(PC_ERR_FORMAT, "added_tokens: expected an array");
    const int64_t limit = id_limit((size_t)t->names.count + json_array_size(list));
    t->added = calloc(json_array_size(list) + 1, sizeof *t->added);
    if (!t->added) return pc_fail(PC_ERR_MEMORY, "%zu added tokens", json_array_size(list));
    json_array_foreach(list, i, entry)
    {
        pc_status st = read_added_one(t, entry, limit);
        if (st) return pc_context(st, "added_tokens[%zu]", i);
    }
    return PC_OK;
}

/* What is looked for: tokens that are matched in normalised text are normalised themselves. */
static pc_status match_added(pc_tokenizer *t)
{
    for (int i = 0; i < t->added_count; i++) {
        const pc_added *a = &t->added[i];
        const char *text = a->content;
        size_t size = a->size;
        char *owned = NULL;
        pc_status st = PC_OK;
        if (a->normalized && (!t->sp.on || t->sp.prepared))
            st = pc_normal_run(&t->normal, &text, &size, &owned, a->content, a->size);
        for (int all = a->special; all < 2 && !st && size > 0; all++)
            st = pc_matcher_add(&t->added_match[a->normalized][all], text, size, i);
        free(owned);
        if (st) return st;
    }
    for (int i = 0; i < 4; i++) {
        pc_status st = pc_matcher_finish(&t->added_match[i / 2][i % 2]);
        if (st) return st;
    }
    return PC_OK;
}

/* ---- the whole ---- */

static pc_status build(pc_tokenizer *t, const json_t *root)
{
    json_t *model = json_object_get(root, "model");
    const json_t *sp = json_object_get(json_object_get(model, "percept"), "sentencepiece");
    pc_status st = read_settings(t, root, model);
    if (st || (st = read_vocab(t, model, json_array_size(json_object_get(root, "added_tokens")))) ||
        (st = read_added(t, root)) || (st = read_model(t, model)))
        return st;
    if ((st = pc_pipeline_rest(t, root, json_is_object(sp)))) return st;
    if (json_is_object(sp) && (st = pc_sentencepiece_read(t, model))) return st;
    if ((st = match_added(t))) return pc_context(st, "added_tokens");
    pc_roles_read(t, root);
    return pc_bpe_cache(t);
}

static pc_status load_json(json_t **out, const char *text, size_t size)
{
    json_error_t error;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!*out) return pc_fail(PC_ERR_FORMAT, "line %d: %s", error.line, error.text);
    if (!json_is_object(*out)) return pc_fail(PC_ERR_FORMAT, "expected a JSON object");
    return PC_OK;
}

/* `text`: what root was read from, kept when nothing was changed; NULL: written anew. */
static pc_status finish(pc_tokenizer **out, json_t *root, const char *text, size_t size,
                        const json_t *config)
{
    pc_tokenizer *t = calloc(1, sizeof *t);
    pc_status st = t ? build(t, root) : pc_fail(PC_ERR_MEMORY, "a tokenizer");
    bool changed = false;
    *out = NULL;
    if (!st && config) st = pc_roles_keep(root, t, config, &changed);
    if (!st && config) st = pc_siglip_keep(root, t, config, &changed);
    if (!st && changed) {
        // What the configuration changes may be anything: read again from the beginning.
        pc_tokenizer_close(t);
        return finish(out, root, NULL, 0, NULL);
    }
    if (!st) {
        t->json = text ? strndup(text, size) : json_dumps(root, JSON_COMPACT);
        if (!t->json) st = pc_fail(PC_ERR_MEMORY, "a tokenizer's text");
    }
    if (st) {
        pc_tokenizer_close(t);
        return st;
    }
    *out = t;
    return PC_OK;
}

pc_status pc_tokenizer_build(pc_tokenizer **out, json_t *root, const json_t *config)
{
    return finish(out, root, NULL, 0, config);
}

pc_status pc_tokenizer_parse_with(pc_tokenizer **out, const char *json, size_t size,
                                  const json_t *config)
{
    json_t *root = NULL;
    *out = NULL;
    pc_status st = load_json(&root, json, size);
    if (!st) st = finish(out, root, json, size, config);
    json_decref(root);
    return st;
}

pc_status pc_tokenizer_parse(pc_tokenizer **out, const char *json, size_t size)
{
    return pc_context(pc_tokenizer_parse_with(out, json, size, NULL), "tokenizer");
}

char *pc_tokenizer_json(const pc_tokenizer *t)
{
    if (!t->lacks_merges) return strdup(t->json);
    json_t *root = json_loads(t->json, 0, NULL), *merges = json_array();
    char *text = NULL;
    if (root && !pc_merges_json(merges, t) &&
        !json_object_set(json_object_get(root, "model"), "merges", merges))
        text = json_dumps(root, JSON_INDENT(1));
    json_decref(merges);
    json_decref(root);
    return text;
}

/*
 * gguf_vocab.c - vocabularies of GGUF files, in (gguf_model.h) and out (gguf_vocab.h).
 *
 *   tokenizer.ggml.model   "llama": pieces with scores, the best pair of neighbours merges first; "gpt2": bytes and merges
 *   tokenizer.ggml.pre     how texts are split for "gpt2", by name
 *
 * A tokenizer.json of pieces has merges in place of scores. The rank of the first merge that makes a piece, negated, is
 * a score that gives the same order.
 */
#include "checkpoints/gguf_vocab.h"

#include "checkpoints/gguf_model.h"
#include "data/text/presets.h"
#include "model/core/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

/* ---- in ---- */

typedef struct lists {
    pc_gguf_span *tokens, *merges;
    float *scores;
    int32_t *types;
    char *model, *pre;
    int64_t token_count, merge_count, score_count, type_count;
    // Pointers and sizes apart, as pc_tokenizer_parts has them: tokens, then merges.
    const char **text;
    size_t *size;
} lists;

static void lists_close(lists *l)
{
    free(l->tokens);
    free(l->merges);
    free(l->scores);
    free(l->types);
    free(l->model);
    free(l->pre);
    free(l->text);
    free(l->size);
}

static pc_status read_lists(lists *l, const pc_gguf *g)
{
    pc_status st;
    if ((st = pc_gguf_text(&l->model, g, "tokenizer.ggml.model")) ||
        (st = pc_gguf_text(&l->pre, g, "tokenizer.ggml.pre")) ||
        (st = pc_gguf_strings(&l->tokens, &l->token_count, g, "tokenizer.ggml.tokens")) ||
        (st = pc_gguf_strings(&l->merges, &l->merge_count, g, "tokenizer.ggml.merges")) ||
        (st = pc_gguf_reals(&l->scores, &l->score_count, g, "tokenizer.ggml.scores")) ||
        (st = pc_gguf_ints(&l->types, &l->type_count, g, "tokenizer.ggml.token_type")))
        return st;
    if (l->token_count > INT32_MAX)
        return pc_fail(PC_ERR_FORMAT, "%lld tokens", (long long)l->token_count);
    const struct {
        const char *key;
        int64_t n;
    } same[] = {{"scores", l->score_count}, {"token_type", l->type_count}};
    for (int i = 0; i < 2; i++)
        if (same[i].n && same[i].n != l->token_count)
            return pc_fail(PC_ERR_FORMAT, "key 'tokenizer.ggml.%s' has %lld items, tokens %lld",
                           same[i].key, (long long)same[i].n, (long long)l->token_count);
    const size_t n = (size_t)(l->token_count + l->merge_count) + 1;
    l->text = malloc(n * sizeof *l->text);
    l->size = malloc(n * sizeof *l->size);
    if (!l->text || !l->size) return pc_fail(PC_ERR_MEMORY, "vocabulary of %zu texts", n);
    for (int64_t i = 0; i < l->token_count + l->merge_count; i++) {
        const pc_gguf_span s = i < l->token_count ? l->tokens[i] : l->merges[i - l->token_count];
        l->text[i] = s.text;
        l->size[i] = s.size;
    }
    return PC_OK;
}

// 0, 1, or -1 when the file does not say.
static pc_status tristate(int *out, const pc_gguf *g, const char *key)
{
    bool v = false;
    const pc_status st = pc_gguf_bool(&v, g, key, false);
    *out = pc_gguf_has(g, key) ? v : -1;
    return st;
}

static pc_status special_id(int32_t *out, const pc_gguf *g, const char *key, int64_t n)
{
    int64_t id;
    const pc_status st = pc_gguf_int(&id, g, key, -1, 0, n - 1);
    *out = st ? -1 : (int32_t)id;
    return st;
}

pc_status pc_gguf_tokenizer(pc_tokenizer **out, const pc_gguf *g)
{
    lists l = {0};
    pc_tokenizer_parts p = {0};
    const int64_t *n = &l.token_count;
    *out = NULL;
    if (!pc_gguf_has(g, "tokenizer.ggml.tokens")) return PC_OK;
    pc_status st = read_lists(&l, g);
    if (st || (st = special_id(&p.bos, g, "tokenizer.ggml.bos_token_id", *n)) ||
        (st = special_id(&p.eos, g, "tokenizer.ggml.eos_token_id", *n)) ||
        (st = special_id(&p.pad, g, "tokenizer.ggml.padding_token_id", *n)) ||
        (st = special_id(&p.unk, g, "tokenizer.ggml.unknown_token_id", *n)) ||
        (st = tristate(&p.add_bos, g, "tokenizer.ggml.add_bos_token")) ||
        (st = tristate(&p.add_eos, g, "tokenizer.ggml.add_eos_token")) ||
        (st = tristate(&p.add_space_prefix, g, "tokenizer.ggml.add_space_prefix")))
        goto out;
    p.model = l.model;
    p.pre = l.pre;
    p.count = (int32_t)l.token_count;
    p.token = l.text;
    p.token_size = l.size;
    p.score = l.scores;
    p.type = l.types;
    p.merge_count = l.merge_count;
    p.merge = l.text + l.token_count;
    p.merge_size = l.size + l.token_count;
    st = pc_tokenizer_from_parts(out, &p);
out:
    lists_close(&l);
    return st ? pc_context(st, "'%s'", pc_gguf_path(g)) : PC_OK;
}

/* ---- out: which kind ---- */

// The patterns by which a tokenizer.json splits texts, one below the other; "gpt-2" for the built-in one.
static void patterns(char *buf, size_t size, const json_t *pre)
{
    size_t i;
    const json_t *step, *steps = json_object_get(pre, "pretokenizers");
    const char *type = json_string_value(json_object_get(pre, "type"));
    const char *regex =
        json_string_value(json_object_get(json_object_get(pre, "pattern"), "Regex"));
    const size_t n = strlen(buf);
    if (!type) return;
    if (!strcmp(type, "Split") && regex)
        snprintf(buf + n, size - n, "%s\n", regex);
    else if (!strcmp(type, "ByteLevel") && !json_is_false(json_object_get(pre, "use_regex")))
        snprintf(buf + n, size - n, "gpt-2\n");
    else if (!strcmp(type, "Digits"))
        snprintf(buf + n, size - n, "digits\n");
    json_array_foreach((json_t *)(uintptr_t)steps, i, step) patterns(buf, size, step);
}

static bool begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

// The name of the way of splitting; NULL when no name stands for it.
static const char *pre_name(const json_t *root)
{
    static const char *const names[] = {"qwen2",          "llama-bpe", "gpt-2", "deepseek-llm",
                                        "deepseek-coder", "tekken",    "gpt-4o"};
    const char *found = NULL;
    char want[8192] = "", have[8192];
    patterns(want, sizeof want, json_object_get(root, "pre_tokenizer"));
    if (!strcmp(want, "gpt-2\n")) return "gpt-2";
    for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++) {
        json_t *other = json_object(), *model = json_object();
        have[0] = '\0';
        if (other && model && !pc_preset_bytes(other, model, names[i]))
            patterns(have, sizeof have, json_object_get(other, "pre_tokenizer"));
        if (have[0] && !strcmp(want, have)) found = names[i];
        json_decref(other);
        json_decref(model);
    }
    // DeepSeek's file writes its letters out; its first steps are like no other's.
    if (!found && (begins(want, "[\r\n]\n\\s?[A-Za-z") || begins(want, "[\\r\\n]\n\\s?[A-Za-z")))
        found = "deepseek-llm";
    return found;
}

static bool is_pieces(const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    return json_is_true(json_object_get(model, "byte_fallback"));
}

// Whether a text gets a space in front: a Prepend among the normalisers, or a Metaspace that does.
static bool prepends(const json_t *o)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    const char *scheme = json_string_value(json_object_get(o, "prepend_scheme"));
    const json_t *step, *list = json_object_get(o, "normalizers");
    size_t i;
    if (type && !strcmp(type, "Prepend")) return true;
    if (type && !strcmp(type, "Metaspace"))
        return scheme ? strcmp(scheme, "never") != 0
                      : !json_is_false(json_object_get(o, "add_prefix_space"));
    if (!list) list = json_object_get(o, "pretokenizers");
    json_array_foreach((json_t *)(uintptr_t)list, i, step) if (prepends(step)) return true;
    return false;
}

// Whether the post-processor puts this id first (last) around one text.
static bool frames(const json_t *post, int32_t id, bool last)
{
    const json_t *single = json_object_get(post, "single"), *step, *list;
    size_t i;
    list = json_object_get(post, "processors");
    json_array_foreach((json_t *)(uintptr_t)list, i, step) if (frames(step, id, last)) return true;
    const size_t n = json_array_size(single);
    if (!n || id < 0) return false;
    const json_t *token = json_object_get(json_array_get(single, last ? n - 1 : 0), "SpecialToken");
    const char *name = json_string_value(json_object_get(token, "id"));
    const json_t *entry =
        name ? json_object_get(json_object_get(post, "special_tokens"), name) : NULL;
    return json_integer_value(json_array_get(json_object_get(entry, "ids"), 0)) == id && entry;
}

/* ---- out: the arrays ---- */

typedef struct vocab {
    json_t *root;
    const json_t *model;
    int64_t V;
    pc_gguf_span *token;
    int32_t *type;
    float *score;
    char *names; // of rows that no token has
} vocab;

static pc_status place(vocab *v, const char *text, const json_t *id, int32_t type)
{
    const json_int_t i = json_integer_value(id);
    if (!json_is_integer(id) || i < 0)
        return pc_fail(PC_ERR_INPUT, "token '%.60s': its id is no count", text);
    if (i >= v->V)
        return pc_fail(PC_ERR_INPUT, "token '%.60s' has id %lld, the model has %lld rows", text,
                       (long long)i, (long long)v->V);
    v->token[i] = (pc_gguf_span){text, strlen(text)};
    v->type[i] = type;
    return PC_OK;
}

static bool byte_token(const char *s)
{
    return strlen(s) == 6 && !strncmp(s, "<0x", 3) && s[5] == '>';
}

static pc_status place_all(vocab *v, bool pieces)
{
    const json_t *list = json_object_get(v->root, "added_tokens"), *entry;
    const char *unk = json_string_value(json_object_get(v->model, "unk_token")), *text;
    json_t *id;
    size_t i;
    pc_status st;
    json_object_foreach(json_object_get(v->model, "vocab"), text, id)
    {
        const int32_t type = !pieces                     ? NORMAL
                             : unk && !strcmp(text, unk) ? UNKNOWN
                             : byte_token(text)          ? BYTE
                                                         : NORMAL;
        if ((st = place(v, text, id, type))) return st;
    }
    json_array_foreach((json_t *)(uintptr_t)list, i, entry)
    {
        text = json_string_value(json_object_get(entry, "content"));
        if (!text) return pc_fail(PC_ERR_INPUT, "added_tokens[%zu] has no content", i);
        const bool special = json_is_true(json_object_get(entry, "special"));
        const int32_t type = pieces && unk && !strcmp(text, unk) ? UNKNOWN
                             : special                           ? CONTROL
                                                                 : USER_DEFINED;
        if ((st = place(v, text, json_object_get(entry, "id"), type))) return st;
    }
    return PC_OK;
}

// "[PAD<id>]" into the places that no token has.
static pc_status fill(vocab *v)
{
    enum { ROOM = 32 };
    int64_t holes = 0, k = 0;
    for (int64_t i = 0; i < v->V; i++) holes += !v->token[i].text;
    v->names = malloc((size_t)(holes + 1) * ROOM);
    if (!v->names) return pc_fail(PC_ERR_MEMORY, "names of %lld places", (long long)holes);
    for (int64_t i = 0; i < v->V; i++) {
        if (v->token[i].text) continue;
        char *name = v->names + ROOM * k++;
        const int n = snprintf(name, ROOM, "[PAD%lld]", (long long)i);
        v->token[i] = (pc_gguf_span){name, (size_t)n};
        v->type[i] = UNUSED;
    }
    return PC_OK;
}

// A merge is "a b" or ["a", "b"]: both halves.
static bool halves(const json_t *merge, pc_gguf_span half[2])
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (int k = 0; k < 2; k++) {
            const json_t *s = json_array_get(merge, (size_t)k);
            if (!json_is_string(s)) return false;
            half[k] = (pc_gguf_span){json_string_value(s), json_string_length(s)};
        }
        return true;
    }
    const char *text = json_string_value(merge), *space = text ? strchr(text, ' ') : NULL;
    if (!space) return false;
    half[0] = (pc_gguf_span){text, (size_t)(space - text)};
    half[1] = (pc_gguf_span){space + 1, strlen(space + 1)};
    return true;
}

// "ab" into a buffer that grows; NULL: no memory.
static char *joined(char **buf, size_t *room, const pc_gguf_span half[2], bool space)
{
    const size_t n = half[0].size + half[1].size + (space ? 1 : 0);
    if (n + 1 > *room) {
        char *more = realloc(*buf, 2 * (n + 1));
        if (!more) return NULL;
        *buf = more;
        *room = 2 * (n + 1);
    }
    memcpy(*buf, half[0].text, half[0].size);
    if (space) (*buf)[half[0].size] = ' ';
    memcpy(*buf + half[0].size + (space ? 1 : 0), half[1].text, half[1].size);
    (*buf)[n] = '\0';
    return *buf;
}

static pc_status no_merge(size_t i)
{
    return pc_fail(PC_ERR_INPUT, "merges[%zu] is no pair", i);
}

// Scores kept from a SentencePiece model, or ranks of merges.
static pc_status scores(vocab *v)
{
    const json_t *kept = json_object_get(json_object_get(v->model, "percept"), "scores");
    const json_t *merges = json_object_get(v->model, "merges"), *m;
    const json_t *ids = json_object_get(v->model, "vocab");
    const float last = -(float)json_array_size(merges) - 1.0f;
    char *buf = NULL;
    size_t room = 0, i;
    pc_status st = PC_OK;
    if (json_array_size(kept) && (int64_t)json_array_size(kept) <= v->V) {
        json_array_foreach((json_t *)(uintptr_t)kept, i, m) v->score[i] =
            (float)json_number_value(m);
        return PC_OK;
    }
    for (int64_t k = 0; k < v->V; k++) v->score[k] = v->type[k] == NORMAL ? last : 0.0f;
    json_array_foreach((json_t *)(uintptr_t)merges, i, m)
    {
        pc_gguf_span half[2];
        if (!halves(m, half)) {
            st = no_merge(i);
            break;
        }
        const char *text = joined(&buf, &room, half, false);
        if (!text) {
            st = pc_fail(PC_ERR_MEMORY, "a merge");
            break;
        }
        const json_t *id = json_object_get(ids, text);
        const json_int_t k = json_integer_value(id);
        if (id && k < v->V && v->score[k] == last) v->score[k] = -(float)i;
    }
    free(buf);
    return st;
}

static pc_status put_merges(pc_gguf_writer *w, const json_t *merges)
{
    const size_t n = json_array_size(merges);
    pc_gguf_span *list = malloc((n + 1) * sizeof *list);
    char **own = calloc(n + 1, sizeof *own);
    pc_status st = list && own ? PC_OK : pc_fail(PC_ERR_MEMORY, "%zu merges", n);
    for (size_t i = 0; i < n && !st; i++) {
        const json_t *m = json_array_get(merges, i);
        pc_gguf_span half[2];
        size_t room = 0;
        if (!halves(m, half))
            st = no_merge(i);
        else if (json_is_string(m))
            list[i] = (pc_gguf_span){json_string_value(m), json_string_length(m)};
        else if (!joined(&own[i], &room, half, true))
            st = pc_fail(PC_ERR_MEMORY, "%zu merges", n);
        else
            list[i] = (pc_gguf_span){own[i], strlen(own[i])};
    }
    if (!st) pc_gguf_put_spans(w, "tokenizer.ggml.merges", list, (int64_t)n);
    for (size_t i = 0; own && i < n; i++) free(own[i]);
    free(own);
    free(list);
    return st;
}

static void put_ids(pc_gguf_writer *w, const vocab *v, int32_t bos, int32_t eos, int32_t pad)
{
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", bos},
               {"tokenizer.ggml.eos_token_id", eos},
               {"tokenizer.ggml.padding_token_id", pad}};
    for (int i = 0; i < 3; i++)
        if (ids[i].id >= 0 && ids[i].id < v->V) pc_gguf_put_u32(w, ids[i].key, (uint32_t)ids[i].id);
    for (int64_t i = 0; i < v->V; i++)
        if (v->type[i] == UNKNOWN) {
            pc_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", (uint32_t)i);
            break;
        }
    const json_t *post = json_object_get(v->root, "post_processor");
    pc_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", frames(post, bos, false));
    pc_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", frames(post, eos, true));
}

static pc_status put_kind(pc_gguf_writer *w, vocab *v, bool pieces)
{
    pc_status st;
    if (pieces) {
        if ((st = scores(v))) return st;
        pc_gguf_put_text(w, "tokenizer.ggml.model", "llama");
        pc_gguf_put_text(w, "tokenizer.ggml.pre", "default");
        pc_gguf_put_f32s(w, "tokenizer.ggml.scores", v->score, v->V);
        pc_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix",
                         prepends(json_object_get(v->root, "normalizer")) ||
                             prepends(json_object_get(v->root, "pre_tokenizer")));
        return PC_OK;
    }
    const json_t *end = json_object_get(v->model, "end_of_word_suffix");
    if (json_is_string(end) && *json_string_value(end))
        return pc_fail(
            PC_ERR_INPUT,
            "a GGUF file has no place for a tokenizer that marks ends of words (\"%.20s\")",
            json_string_value(end));
    const char *pre = pre_name(v->root);
    if (!pre)
        pc_warn("no name stands for the way this tokenizer splits texts: written as 'default'");
    pc_gguf_put_text(w, "tokenizer.ggml.model", "gpt2");
    pc_gguf_put_text(w, "tokenizer.ggml.pre", pre ? pre : "default");
    return put_merges(w, json_object_get(v->model, "merges"));
}

static pc_status put_all(pc_gguf_writer *w, vocab *v, int32_t bos, int32_t eos, int32_t pad)
{
    const char *type = json_string_value(json_object_get(v->model, "type"));
    const bool pieces = is_pieces(v->root);
    pc_status st;
    if (!json_is_object(json_object_get(v->model, "vocab")) || (type && strcmp(type, "BPE")))
        return pc_fail(PC_ERR_INPUT, "a GGUF file takes tokenizers of type BPE, not '%.40s'",
                       type ? type : "none");
    v->token = calloc((size_t)v->V, sizeof *v->token);
    v->type = calloc((size_t)v->V, sizeof *v->type);
    v->score = calloc((size_t)v->V, sizeof *v->score);
    if (!v->token || !v->type || !v->score)
        return pc_fail(PC_ERR_MEMORY, "vocabulary of %lld", (long long)v->V);
    if ((st = place_all(v, pieces)) || (st = fill(v)) || (st = put_kind(w, v, pieces))) return st;
    pc_gguf_put_spans(w, "tokenizer.ggml.tokens", v->token, v->V);
    pc_gguf_put_i32s(w, "tokenizer.ggml.token_type", v->type, v->V);
    put_ids(w, v, bos, eos, pad);
    return PC_OK;
}

pc_status pc_gguf_put_vocabulary(pc_gguf_writer *w, const char *json, size_t size, int64_t V,
                                 int32_t bos, int32_t eos, int32_t pad)
{
    json_error_t e;
    vocab v = {.V = V};
    v.root = json_loadb(json, size, JSON_REJECT_DUPLICATES, &e);
    if (!v.root)
        return pc_fail(PC_ERR_FORMAT, "tokenizer.json line %d, column %d: %s", e.line, e.column,
                       e.text);
    v.model = json_object_get(v.root, "model");
    const pc_status st = put_all(w, &v, bos, eos, pad);
    free(v.token);
    free(v.type);
    free(v.score);
    free(v.names);
    json_decref(v.root);
    return pc_context(st, "tokenizer");
}

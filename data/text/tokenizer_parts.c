/*
 * tokenizer_parts.c - a tokenizer from arrays (the metadata of a GGUF): they become the `tokenizer.json` that says
 * the same, and that is read as any other.
 *
 *   gpt2    vocab, merges; the pre-tokeniser by its name; control and user-defined tokens are added tokens
 *   llama   scores instead of merges, kept in model.percept; a space before every text between special tokens
 */
#include "data/text/bpe.h"
#include "data/text/presets.h"
#include "data/text/utf8.h"

#include <math.h>
#include <string.h>

enum { UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4 };

static int32_t type_of(const pc_tokenizer_parts *p, int32_t i)
{
    return p->type ? p->type[i] : 1;
}

static pc_status add_vocab(const pc_tokenizer_parts *p, json_t *vocab)
{
    for (int32_t i = 0; i < p->count; i++) {
        const char *token = p->token[i];
        const size_t size = p->token_size[i];
        char name[512];
        if (size == 0) return pc_fail(PC_ERR_FORMAT, "tokens[%d] is empty", i);
        if (!pc_utf8_valid(token, size) || memchr(token, '\0', size))
            return pc_fail(PC_ERR_FORMAT, "tokens[%d] is no UTF-8 text", i);
        char *copy = size < sizeof name ? name : strndup(token, size);
        if (!copy) return pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", size);
        if (copy == name) {
            memcpy(name, token, size);
            name[size] = '\0';
        }
        const json_t *other = json_object_get(vocab, copy);
        pc_status st = PC_OK;
        if (other)
            st = pc_fail(PC_ERR_FORMAT, "tokens[%d] and tokens[%lld] are both \"%.60s\"", i,
                         (long long)json_integer_value(other), copy);
        else if (json_object_set_new_nocheck(vocab, copy, json_integer(i)))
            st = pc_fail(PC_ERR_MEMORY, "%d tokens", p->count);
        if (copy != name) free(copy);
        if (st) return st;
    }
    return PC_OK;
}

static pc_status add_merges(const pc_tokenizer_parts *p, json_t *merges)
{
    for (int64_t i = 0; i < p->merge_count; i++) {
        if (!pc_utf8_valid(p->merge[i], p->merge_size[i]))
            return pc_fail(PC_ERR_FORMAT, "merges[%lld] is no UTF-8 text", (long long)i);
        if (json_array_append_new(merges, json_stringn_nocheck(p->merge[i], p->merge_size[i])))
            return pc_fail(PC_ERR_MEMORY, "%lld merges", (long long)p->merge_count);
    }
    return PC_OK;
}

/* Tokens that are found in texts as they stand. What begins, ends and pads texts is special whatever its type. */
static pc_status add_added(const pc_tokenizer_parts *p, json_t *added)
{
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t type = type_of(p, i);
        const bool special = type == CONTROL || type == UNKNOWN || i == p->bos || i == p->eos;
        if (!special && type != USER_DEFINED) continue;
        json_t *content = json_stringn_nocheck(p->token[i], p->token_size[i]);
        if (json_array_append_new(added,
                                  json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (int)i,
                                            "content", content, "single_word", 0, "lstrip", 0,
                                            "rstrip", 0, "normalized", 0, "special", (int)special)))
            return pc_fail(PC_ERR_MEMORY, "added tokens");
    }
    return PC_OK;
}

static pc_status add_percept(const pc_tokenizer_parts *p, json_t *model, bool pieces)
{
    const int32_t role[4] = {p->bos, p->eos, p->pad, p->unk};
    static const char *const name[4] = {"bos", "eos", "pad", "unk"};
    json_t *roles = json_object(), *own = json_object();
    int failed = 0;
    for (int r = 0; r < 4; r++)
        failed |=
            json_object_set_new(roles, name[r], role[r] < 0 ? json_null() : json_integer(role[r]));
    failed |= json_object_set_new(own, "roles", roles);
    if (pieces) {
        json_t *scores = json_array(), *types = json_array();
        for (int32_t i = 0; i < p->count; i++) {
            failed |= json_array_append_new(scores, json_real((double)p->score[i]));
            failed |= json_array_append_new(types, json_integer(type_of(p, i)));
        }
        failed |= json_object_set_new(own, "scores", scores);
        failed |= json_object_set_new(own, "types", types);
    }
    failed |= json_object_set_new(model, "percept", own);
    return failed ? pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer") : PC_OK;
}

static pc_status check(const pc_tokenizer_parts *p)
{
    static const char *const name[4] = {"bos", "eos", "padding", "unknown"};
    const int32_t role[4] = {p->bos, p->eos, p->pad, p->unk};
    if (p->count <= 0) return pc_fail(PC_ERR_FORMAT, "tokens: none");
    for (int r = 0; r < 4; r++)
        if (role[r] >= p->count || role[r] < -1)
            return pc_fail(PC_ERR_FORMAT, "%s token id %d: expected 0 to %d", name[r], role[r],
                           p->count - 1);
    for (int32_t i = 0; i < p->count; i++)
        if (type_of(p, i) < 0 || type_of(p, i) > 6)
            return pc_fail(PC_ERR_FORMAT, "token_type[%d] is %d, expected 1 to 6", i,
                           type_of(p, i));
    for (int32_t i = 0; i < p->count && p->score; i++)
        if (isnan(p->score[i])) return pc_fail(PC_ERR_FORMAT, "scores[%d] is not a number", i);
    return PC_OK;
}

static pc_status set_frame(const pc_tokenizer_parts *p, json_t *root, const json_t *vocab, bool bos,
                           bool eos)
{
    const char *name[2] = {NULL, NULL}, *key;
    const json_t *value;
    if (!(bos && p->bos >= 0) && !(eos && p->eos >= 0)) return PC_OK;
    void *at = json_object_iter((json_t *)(uintptr_t)vocab);
    for (; at; at = json_object_iter_next((json_t *)(uintptr_t)vocab, at)) {
        key = json_object_iter_key(at);
        value = json_object_iter_value(at);
        if (bos && json_integer_value(value) == p->bos) name[0] = key;
        if (eos && json_integer_value(value) == p->eos) name[1] = key;
    }
    return json_object_set_new(root, "post_processor",
                               pc_preset_frame(name[0], p->bos, name[1], p->eos))
               ? pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer")
               : PC_OK;
}

static pc_status compose(json_t *root, json_t *model, const pc_tokenizer_parts *p)
{
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
    const bool pieces = p->model && strcmp(p->model, "llama") == 0;
    int failed = json_object_set_new(root, "version", json_string("1.0")) |
                 json_object_set_new(root, "truncation", json_null()) |
                 json_object_set_new(root, "padding", json_null()) |
                 json_object_set_new(root, "added_tokens", added) |
                 json_object_set_new(model, "type", json_string("BPE")) |
                 json_object_set_new(model, "byte_fallback", json_boolean(pieces)) |
                 json_object_set_new(model, "fuse_unk", json_boolean(pieces)) |
                 json_object_set_new(model, "vocab", vocab) |
                 json_object_set_new(model, "merges", merges);
    if (failed) return pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer");
    pc_status st = check(p);
    if (st || (st = add_vocab(p, vocab)) || (st = add_merges(p, merges)) ||
        (st = add_added(p, added)))
        return st;
    bool add_bos = p->add_bos > 0, add_eos = p->add_eos > 0;
    if (pieces) {
        if (!p->score) return pc_fail(PC_ERR_FORMAT, "scores: none; model \"llama\" needs them");
        st = pc_preset_pieces(root, p->add_space_prefix != 0);
        if (p->add_bos < 0) add_bos = true;
        if (!st && p->unk >= 0 &&
            json_object_set_new(model, "unk_token",
                                json_stringn_nocheck(p->token[p->unk], p->token_size[p->unk])))
            st = pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer");
    } else if (p->model && strcmp(p->model, "gpt2") == 0) {
        const char *pre = p->pre && *p->pre ? p->pre : "default";
        st = pc_preset_bytes(root, model, pre);
        if (p->add_bos < 0) add_bos = pc_preset_adds_bos(pre);
    } else {
        st = pc_fail(PC_ERR_FORMAT,
                     "tokenizer model \"%.40s\" is not supported; expected \"llama\" or \"gpt2\"",
                     p->model ? p->model : "(none)");
    }
    if (!st) st = add_percept(p, model, pieces);
    return st ? st : set_frame(p, root, vocab, add_bos, add_eos);
}

pc_status pc_tokenizer_from_parts(pc_tokenizer **out, const pc_tokenizer_parts *parts)
{
    json_t *root = json_object(), *model = json_object();
    *out = NULL;
    pc_status st = PC_OK;
    if (json_object_set_new(root, "model", model)) st = pc_fail(PC_ERR_MEMORY, "a tokenizer");
    if (!st) st = compose(root, model, parts);
    if (!st) st = pc_tokenizer_build(out, root, NULL);
    json_decref(root);
    return pc_context(st, "vocabulary");
}

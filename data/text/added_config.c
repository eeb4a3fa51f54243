/*
 * added_config.c - the added tokens of layouts that have no place for them: they stand in the files beside.
 *
 *   tokenizer_config.json   added_tokens_decoder {"id": {content, flags}}; bos_token and its like by name
 *   added_tokens.json       {"content": id}
 */
#include "data/text/bpe.h"
#include "data/text/layouts.h"

#include <stdlib.h>
#include <string.h>

typedef struct adding {
    json_t *root, *list;
    const json_t *vocab;
} adding;

static json_t *entry_of(const adding *w, const char *content)
{
    json_t *entry;
    size_t i;
    json_array_foreach(w->list, i, entry)
    {
        const char *text = pc_tok_text(entry, "content");
        if (text && strcmp(text, content) == 0) return entry;
    }
    return NULL;
}

static int64_t next_id(const adding *w)
{
    int64_t next = 0;
    const char *name;
    json_t *value;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)w->vocab, name, value)
    {
        if (json_integer_value(value) >= next) next = json_integer_value(value) + 1;
    }
    json_array_foreach(w->list, i, value)
    {
        const int64_t id = json_integer_value(json_object_get(value, "id"));
        if (id >= next) next = id + 1;
    }
    return next;
}

/* Adds or replaces; `flags` may have lstrip and the like. */
static pc_status add(adding *w, const char *content, int64_t id, const json_t *flags, bool special)
{
    static const char *const names[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
    json_t *entry = json_pack("{s:I, s:s}", "id", (json_int_t)id, "content", content);
    int failed = entry == NULL;
    for (int i = 0; i < 5; i++) {
        const json_t *v = json_object_get(flags, names[i]);
        const bool absent = i == 4 ? special : i == 3 ? !special : false;
        failed |= json_object_set_new(entry, names[i],
                                      json_boolean(json_is_boolean(v) ? json_is_true(v) : absent));
    }
    json_t *old = entry_of(w, content);
    if (old) {
        failed |= json_object_update(old, entry);
        json_decref(entry);
    } else {
        failed |= json_array_append_new(w->list, entry);
    }
    return failed ? pc_fail(PC_ERR_MEMORY, "added tokens") : PC_OK;
}

static pc_status add_decoder(adding *w, const json_t *decoder)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, value)
    {
        char *end;
        const long long id = strtoll(key, &end, 10);
        const char *content = pc_tok_text(value, "content");
        if (*end || end == key || id < 0 || !content || !*content)
            return pc_fail(PC_ERR_FORMAT, "added_tokens_decoder: \"%.40s\" is no id with a content",
                           key);
        pc_status st = add(w, content, id, value, json_is_true(json_object_get(value, "special")));
        if (st) return st;
    }
    return PC_OK;
}

static pc_status add_file(adding *w, const json_t *file)
{
    const char *content;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)file, content, value)
    {
        if (!json_is_integer(value) || !*content)
            return pc_fail(PC_ERR_FORMAT, "added_tokens.json: \"%.40s\" has no id", content);
        const int64_t id = json_integer_value(value);
        if (entry_of(w, content)) continue;
        pc_status st = add(w, content, id, NULL, false);
        if (st) return st;
    }
    return PC_OK;
}

/* A token that has a role: added when it is not, special in any case. */
static pc_status add_named(adding *w, const json_t *v)
{
    const char *content = json_is_object(v) ? pc_tok_text(v, "content") : json_string_value(v);
    if (!content || !*content) return PC_OK;
    json_t *entry = entry_of(w, content);
    if (entry)
        return json_object_set_new(entry, "special", json_true()) ||
                       (!json_is_object(v) &&
                        json_object_set_new(entry, "normalized", json_false()))
                   ? pc_fail(PC_ERR_MEMORY, "added tokens")
                   : PC_OK;
    const json_t *id = json_object_get(w->vocab, content);
    return add(w, content, id ? json_integer_value(id) : next_id(w), json_is_object(v) ? v : NULL,
               true);
}

/* {token: id}, which a unigram model has as a list. */
static json_t *vocab_of(const json_t *model)
{
    json_t *vocab = json_object_get(model, "vocab"), *pair;
    size_t i;
    if (!json_is_array(vocab)) return json_incref(vocab);
    json_t *out = json_object();
    json_array_foreach(vocab, i, pair)
    {
        const char *name = json_string_value(json_array_get(pair, 0));
        if (name && json_object_set_new(out, name, json_integer((json_int_t)i))) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static pc_status add_all(adding *w, const json_t *config)
{
    static const char *const roles[] = {"unk_token", "bos_token", "eos_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    pc_status st;
    if ((st = add_decoder(w, json_object_get(config, "added_tokens_decoder"))) ||
        (st = add_file(w, json_object_get(config, "added_tokens.json"))))
        return st;
    for (size_t i = 0; i < sizeof roles / sizeof *roles && !st; i++)
        st = add_named(w, json_object_get(config, roles[i]));
    const json_t *more = json_object_get(config, "additional_special_tokens"), *v;
    size_t i;
    json_array_foreach(more, i, v)
    {
        if (!st) st = add_named(w, v);
    }
    return st;
}

pc_status pc_added_from_config(json_t *root, const json_t *config)
{
    json_t *vocab = vocab_of(json_object_get(root, "model"));
    if (!vocab) return pc_fail(PC_ERR_MEMORY, "added tokens");
    adding w = {root, json_object_get(root, "added_tokens"), vocab};
    const pc_status st = add_all(&w, config);
    json_decref(vocab);
    return st;
}

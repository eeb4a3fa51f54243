/*
 * roles.c - which tokens begin, end and pad texts.
 *
 * The layout of `tokenizer.json` does not say. A `tokenizer_config.json` beside it does, and where that is silent a
 * `generation_config.json`; without them usual names decide.
 * What the configuration says is kept in the file's text as model.percept.roles, so that a checkpoint that holds
 * only this text loses nothing. (Checkpoints written before have "percept_roles" in the added tokens' entries.)
 */
#include "data/text/bpe.h"
#include "data/text/presets.h"

#include <string.h>

enum { BOS, EOS, PAD, ROLES };
static const char *const role_names[ROLES] = {"bos", "eos", "pad"};
static const char *const usual_names[ROLES][10] = {
    {"<s>", "<|begin_of_text|>", "<|startoftext|>",
     "<\xEF\xBD\x9C"
     "begin\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
     "<bos>"},
    {"</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>",
     "<\xEF\xBD\x9C"
     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
     "<eos>"},
    {"<pad>", "<|endoftext|>"},
};

static void by_name(const pc_tokenizer *t, int32_t role[ROLES])
{
    for (int r = 0; r < ROLES; r++) {
        role[r] = -1;
        for (int i = 0; usual_names[r][i] && role[r] < 0; i++)
            role[r] = pc_tokenizer_id(t, usual_names[r][i]);
    }
}

static int32_t id_of(const pc_tokenizer *t, const json_t *v)
{
    const json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
    return id >= 0 && id < t->vocab && t->pieces[id].name >= 0 ? (int32_t)id : -1;
}

static void by_entries(const pc_tokenizer *t, int32_t role[ROLES], const json_t *root)
{
    bool stated = false;
    const json_t *entry, *name;
    size_t i, k;
    json_array_foreach(json_object_get(root, "added_tokens"), i, entry)
    {
        json_array_foreach(json_object_get(entry, "percept_roles"), k, name)
        {
            if (!stated)
                for (int r = 0; r < ROLES; r++) role[r] = -1; // what is stated is the whole of it
            stated = true;
            for (int r = 0; r < ROLES; r++)
                if (json_is_string(name) && strcmp(json_string_value(name), role_names[r]) == 0)
                    role[r] = id_of(t, json_object_get(entry, "id"));
        }
    }
}

void pc_roles_read(pc_tokenizer *t, const json_t *root)
{
    int32_t role[ROLES];
    const json_t *own = json_object_get(json_object_get(root, "model"), "percept");
    const json_t *roles = json_object_get(own, "roles");
    by_name(t, role);
    if (json_is_object(roles))
        for (int r = 0; r < ROLES; r++) role[r] = id_of(t, json_object_get(roles, role_names[r]));
    else
        by_entries(t, role, root);
    t->bos = role[BOS];
    t->eos = role[EOS];
    t->pad = role[PAD];
}

/* The name of a token as a configuration has it: text or an added token's object; NULL: none. */
static const char *named(const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    return json_is_object(v) ? pc_tok_text(v, "content") : json_string_value(v);
}

/* A generation_config.json has ids, one or several. */
static int32_t generation_id(const pc_tokenizer *t, const json_t *generation, const char *key)
{
    const json_t *v = json_object_get(generation, key);
    return id_of(t, json_is_array(v) ? json_array_get(v, 0) : v);
}

/* Llama's classes put BOS and EOS around a text as their configuration says, whatever the file does. */
static pc_status keep_frame(json_t *root, const json_t *config, const char *const name[ROLES],
                            const int32_t role[ROLES], bool *changed)
{
    static const char *const classes[] = {"LlamaTokenizer", "LlamaTokenizerFast",
                                          "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"};
    const char *class = pc_tok_text(config, "tokenizer_class");
    bool llama = false, add[2];
    for (int i = 0; i < 4; i++) llama = llama || (class && strcmp(class, classes[i]) == 0);
    if (!llama || (pc_tok_absent(json_object_get(config, "add_bos_token")) &&
                   pc_tok_absent(json_object_get(config, "add_eos_token"))))
        return PC_OK;
    pc_status st;
    if ((st = pc_tok_flag(&add[0], config, "add_bos_token", true)) ||
        (st = pc_tok_flag(&add[1], config, "add_eos_token", false)))
        return pc_context(st, "tokenizer_config.json");
    json_t *frame =
        pc_preset_frame(add[0] ? name[BOS] : NULL, role[BOS], add[1] ? name[EOS] : NULL, role[EOS]);
    const bool same = json_equal(frame, json_object_get(root, "post_processor"));
    *changed = *changed || !same;
    if (!frame || json_object_set_new(root, "post_processor", frame))
        return pc_fail(PC_ERR_MEMORY, "the frame of a text");
    return PC_OK;
}

pc_status pc_roles_keep(json_t *root, const pc_tokenizer *t, const json_t *config, bool *changed)
{
    static const char *const keys[ROLES] = {"bos_token", "eos_token", "pad_token"};
    static const char *const id_keys[ROLES] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    int32_t said[ROLES];
    const char *name[ROLES];
    const int32_t now[ROLES] = {t->bos, t->eos, t->pad};
    *changed = false;
    const json_t *generation = json_object_get(config, "generation_config.json");
    for (int r = 0; r < ROLES; r++) {
        name[r] = named(config, keys[r]);
        said[r] = name[r] ? pc_tokenizer_id(t, name[r]) : -1;
        if (!json_object_get(config, keys[r])) // of several ids that end an answer, the first
            said[r] = generation_id(t, generation, id_keys[r]);
        if (name[r] && said[r] < 0)
            return pc_fail(PC_ERR_FORMAT, "tokenizer_config.json: %s \"%.60s\" is no token",
                           keys[r], name[r]);
        *changed = *changed || said[r] != now[r];
    }
    json_t *model = json_object_get(root, "model");
    if (*changed) {
        json_t *own = json_object_get(model, "percept"), *roles = json_object();
        int failed = 0;
        if (!json_is_object(own)) {
            own = json_object();
            failed = json_object_set_new(model, "percept", own);
        }
        for (int r = 0; r < ROLES; r++)
            failed |= json_object_set_new(roles, role_names[r],
                                          said[r] < 0 ? json_null() : json_integer(said[r]));
        failed |= json_object_set_new(own, "roles", roles);
        if (failed) return pc_fail(PC_ERR_MEMORY, "the roles of tokens");
    }
    return keep_frame(root, config, name, said, changed);
}

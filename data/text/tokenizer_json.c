/*
 * tokenizer_json.c - the layout of `tokenizer.json` (spec: tokenizers.md 2), read strictly.
 *
 * Taken: model BPE with a whole byte alphabet; merges as "a b" or ["a", "b"]; added tokens with all their
 * flags; normaliser NFC or none; pre-tokenisers ByteLevel, Split (Isolated), Digits and sequences of them;
 * post-processors ByteLevel and TemplateProcessing; decoder ByteLevel. Anything else is refused by name:
 * a tokenizer that is nearly right is worse than none.
 *
 * Which token begins, ends and pads texts does not stand in this layout. A `tokenizer_config.json` beside it
 * says so; otherwise usual names decide. What the config says is kept in the added tokens' entries as
 * "percept_roles": ["eos"], so that a checkpoint that holds only this text loses nothing.
 */
#include "data/text/bpe.h"
#include "data/text/utf8.h"
#include "model/core/file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IDS = 1 << 22, FILE_LIMIT = 256 << 20 };

/* ---- small readers ---- */

static const char *text_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_string(v) ? json_string_value(v) : NULL;
}

/* A boolean that may be absent or null. */
static pc_status flag_of(bool *out, const json_t *o, const char *key, bool absent)
{
    const json_t *v = json_object_get(o, key);
    *out = v && !json_is_null(v) ? json_is_true(v) : absent;
    if (v && !json_is_null(v) && !json_is_boolean(v))
        return pc_fail(PC_ERR_FORMAT, "`%s` is neither true nor false", key);
    return PC_OK;
}

static bool is_absent(const json_t *v)
{
    return !v || json_is_null(v);
}

/* What stands under "type", for messages. */
static const char *kind_of(const json_t *o)
{
    const char *kind = text_of(o, "type");
    return kind ? kind : json_is_object(o) ? "(no type)" : "(not an object)";
}

/* ---- pieces ---- */

static pc_status put_bytes(pc_tokenizer *t, size_t *at, const void *bytes, size_t size)
{
    if (t->pool_room - t->pool_used < size) {
        size_t wanted = t->pool_room ? 2 * t->pool_room : 1 << 16;
        while (wanted - t->pool_used < size) wanted *= 2;
        char *pool = realloc(t->pool, wanted);
        if (!pool) return pc_fail(PC_ERR_MEMORY, "%zu bytes of tokens", wanted);
        t->pool = pool;
        t->pool_room = wanted;
    }
    *at = t->pool_used;
    memcpy(t->pool + t->pool_used, bytes, size);
    t->pool_used += size;
    return PC_OK;
}

static pc_status grow_vocab(pc_tokenizer *t, int32_t wanted)
{
    if (wanted <= t->vocab) return PC_OK;
    pc_piece *pieces = realloc(t->pieces, (size_t)wanted * sizeof *pieces);
    if (!pieces) return pc_fail(PC_ERR_MEMORY, "%d tokens", wanted);
    for (int32_t i = t->vocab; i < wanted; i++) pieces[i] = (pc_piece){.size = -1};
    t->pieces = pieces;
    t->vocab = wanted;
    return PC_OK;
}

static pc_status set_piece(pc_tokenizer *t, int32_t id, const void *bytes, size_t size)
{
    pc_piece *p = &t->pieces[id];
    if (size > INT32_MAX) return pc_fail(PC_ERR_FORMAT, "token %d has %zu bytes", id, size);
    pc_status st = put_bytes(t, &p->at, bytes, size);
    if (st) return st;
    p->size = (int32_t)size;
    if (p->size > t->longest) t->longest = p->size;
    return PC_OK;
}

/* From the byte alphabet to bytes; a token with any other character stands for its own UTF-8. */
static pc_status set_coded_piece(pc_tokenizer *t, int32_t id, const char *name, size_t size)
{
    unsigned char small[256], *bytes = size <= sizeof small ? small : malloc(size);
    if (!bytes) return pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", size);
    const unsigned char *s = (const unsigned char *)name;
    size_t n = 0;
    bool coded = true;
    for (size_t i = 0; i < size && coded;) {
        const int step = pc_utf8_step(s + i, size - i);
        const int byte = pc_byte_of_char(pc_utf8_code(s + i, step)); // JSON is valid UTF-8
        coded = byte >= 0;
        if (coded) bytes[n++] = (unsigned char)byte;
        i += (size_t)step;
    }
    pc_status st = coded ? set_piece(t, id, bytes, n) : set_piece(t, id, name, size);
    if (bytes != small) free(bytes);
    return st;
}

static pc_status read_vocab(pc_tokenizer *t, json_t *model)
{
    json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return pc_fail(PC_ERR_FORMAT, "model.vocab: expected an object of token: id");
    const char *name;
    json_t *value;
    pc_status st = PC_OK;
    int64_t largest = -1;
    json_object_foreach(vocab, name, value)
    {
        const int64_t id = json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;
        if (id < 0 || id >= MAX_IDS)
            return pc_fail(PC_ERR_FORMAT,
                           "model.vocab: token \"%s\": id %lld, expected an integer from 0 to %d",
                           name, (long long)json_integer_value(value), MAX_IDS - 1);
        if (id > largest) largest = id;
    }
    if ((st = grow_vocab(t, (int32_t)largest + 1))) return st;
    json_object_foreach(vocab, name, value)
    {
        const int32_t id = (int32_t)json_integer_value(value);
        const size_t size = strlen(name);
        if (size == 0) return pc_fail(PC_ERR_FORMAT, "model.vocab: id %d is an empty token", id);
        if (t->pieces[id].size >= 0)
            return pc_fail(PC_ERR_FORMAT, "model.vocab: id %d is given twice, last by \"%s\"", id,
                           name);
        if ((st = set_coded_piece(t, id, name, size))) return st;
        if (!pc_bytemap_add(&t->names, name, size, id, NULL))
            return pc_fail(PC_ERR_MEMORY, "%lld tokens", (long long)t->names.count);
    }
    for (int b = 0; b < 256; b++) {
        unsigned char coded[4];
        const int n = pc_utf8_put(coded, pc_byte_char(b));
        t->byte_id[b] = (int32_t)pc_bytemap_find(&t->names, coded, (size_t)n);
        if (t->byte_id[b] < 0)
            return pc_fail(PC_ERR_FORMAT,
                           "model.vocab: no token \"%.*s\" for byte 0x%02X; expected all 256 of a "
                           "byte-level alphabet",
                           n, (const char *)coded, b);
    }
    return PC_OK;
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
        return pc_fail(PC_ERR_FORMAT, "model.merges[%lld]: \"%s\", expected \"LEFT RIGHT\"",
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

static pc_status add_merge(pc_tokenizer *t, const json_t *entry, int64_t i)
{
    const char *left = NULL, *right = NULL;
    size_t left_size = 0;
    pc_status st = merge_parts(entry, i, &left, &left_size, &right);
    if (st) return st;
    const size_t right_size = strlen(right), whole_size = left_size + right_size;
    char *whole = malloc(whole_size + 1);
    if (!whole) return pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", whole_size);
    memcpy(whole, left, left_size);
    memcpy(whole + left_size, right, right_size + 1);
    const int64_t a = pc_bytemap_find(&t->names, left, left_size),
                  b = pc_bytemap_find(&t->names, right, right_size),
                  id = pc_bytemap_find(&t->names, whole, whole_size);
    const char *missing = a < 0 ? left : b < 0 ? right : id < 0 ? whole : NULL;
    const int shown = (int)(a < 0 ? left_size : b < 0 ? right_size : whole_size);
    if (missing)
        st = pc_fail(PC_ERR_FORMAT, "model.merges[%lld]: \"%.*s\" is not in the vocabulary",
                     (long long)i, shown, missing);
    free(whole);
    if (st) return st;
    pc_merge *m = &t->merges[pc_merge_slot(t->merges, t->merge_slots, (int32_t)a, (int32_t)b)];
    if (m->left >= 0)
        return pc_fail(PC_ERR_FORMAT, "model.merges[%lld] repeats model.merges[%d]", (long long)i,
                       m->rank);
    *m = (pc_merge){(int32_t)a, (int32_t)b, (int32_t)i, (int32_t)id};
    return PC_OK;
}

static pc_status read_merges(pc_tokenizer *t, const json_t *model)
{
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges) || json_array_size(merges) > INT32_MAX / 4)
        return pc_fail(PC_ERR_FORMAT, "model.merges: expected an array");
    const size_t n = json_array_size(merges);
    t->merge_slots = 64;
    while (t->merge_slots < 2 * n) t->merge_slots *= 2;
    t->merges = malloc(t->merge_slots * sizeof *t->merges);
    if (!t->merges) return pc_fail(PC_ERR_MEMORY, "%zu merges", n);
    for (size_t i = 0; i < t->merge_slots; i++) t->merges[i].left = -1;
    for (size_t i = 0; i < n; i++) {
        pc_status st = add_merge(t, json_array_get(merges, i), (int64_t)i);
        if (st) return st;
    }
    return PC_OK;
}

static pc_status read_model(pc_tokenizer *t, const json_t *root)
{
    json_t *model = json_object_get(root, "model");
    const char *type = text_of(model, "type"); // files from before 2020 have none
    if (!json_is_object(model)) return pc_fail(PC_ERR_FORMAT, "no `model` object");
    if (type && strcmp(type, "BPE") != 0)
        return pc_fail(
            PC_ERR_FORMAT,
            "model.type: \"%s\" is not supported yet; expected \"BPE\" with a byte-level "
            "alphabet",
            type);
    bool byte_fallback;
    pc_status st;
    if ((st = flag_of(&byte_fallback, model, "byte_fallback", false)) ||
        (st = flag_of(&t->ignore_merges, model, "ignore_merges", false)))
        return pc_context(st, "model");
    if (byte_fallback)
        return pc_fail(PC_ERR_FORMAT,
                       "model.byte_fallback: true (a SentencePiece BPE) is not supported yet; "
                       "expected a byte-level BPE");
    static const char *const empty[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(model, empty[i]);
        if (!is_absent(v) && json_string_length(v) > 0)
            return pc_fail(PC_ERR_FORMAT,
                           "model.%s: \"%s\" (CLIP's tokenizer has one) is not supported yet; "
                           "expected none",
                           empty[i], json_string_value(v));
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_absent(dropout) && json_number_value(dropout) != 0.0)
        return pc_fail(PC_ERR_FORMAT, "model.dropout: %g, expected null",
                       json_number_value(dropout));
    if ((st = read_vocab(t, model))) return st;
    return read_merges(t, model);
}

/* ---- normaliser, pre-tokeniser, decoder: one entry or a sequence of them ---- */

typedef pc_status part_fn(pc_tokenizer *t, const json_t *part);

static pc_status each_part(pc_tokenizer *t, const json_t *part, const char *list, part_fn *fn)
{
    if (is_absent(part)) return PC_OK;
    if (!json_is_object(part)) return pc_fail(PC_ERR_FORMAT, "expected an object or null");
    if (strcmp(kind_of(part), "Sequence") != 0) return fn(t, part);
    const json_t *parts = json_object_get(part, list), *one;
    size_t i;
    if (!json_is_array(parts)) return pc_fail(PC_ERR_FORMAT, "Sequence without `%s`", list);
    json_array_foreach(parts, i, one)
    {
        pc_status st = strcmp(kind_of(one), "Sequence") == 0
                           ? pc_fail(PC_ERR_FORMAT, "a Sequence within a Sequence")
                           : fn(t, one);
        if (st) return st;
    }
    return PC_OK;
}

static pc_status normalizer_part(pc_tokenizer *t, const json_t *part)
{
    if (strcmp(kind_of(part), "NFC") != 0)
        return pc_fail(PC_ERR_FORMAT, "\"%s\" is not supported yet; expected NFC or null",
                       kind_of(part));
    t->rules.nfc = true;
    return PC_OK;
}

static pc_status split_part(pc_tokenizer *t, const json_t *part)
{
    const json_t *pattern = json_object_get(part, "pattern");
    const char *behavior = text_of(part, "behavior"), *regex = text_of(pattern, "Regex"),
               *literal = text_of(pattern, "String");
    bool invert;
    pc_status st = flag_of(&invert, part, "invert", false);
    if (st) return st;
    if (!behavior || strcmp(behavior, "Isolated") != 0)
        return pc_fail(PC_ERR_FORMAT,
                       "Split: behavior \"%s\" is not supported yet; expected "
                       "\"Isolated\"",
                       behavior ? behavior : "(none)");
    if (!regex && !literal) return pc_fail(PC_ERR_FORMAT, "Split: no pattern.Regex or .String");
    return pc_word_rules_split(&t->rules, regex ? regex : literal, !regex);
}

static pc_status bytes_part(pc_tokenizer *t, const json_t *part)
{
    bool prefix_space, use_regex;
    pc_status st;
    if ((st = flag_of(&prefix_space, part, "add_prefix_space", true)) ||
        (st = flag_of(&use_regex, part, "use_regex", true)))
        return st;
    if (prefix_space && (st = pc_word_rules_prefix_space(&t->rules))) return st;
    return use_regex ? pc_word_rules_split(&t->rules, pc_pattern_gpt2, false) : PC_OK;
}

static pc_status digits_part(pc_tokenizer *t, const json_t *part)
{
    bool each;
    pc_status st = flag_of(&each, part, "individual_digits", false);
    return st ? st : pc_word_rules_split(&t->rules, each ? "\\p{N}" : "\\p{N}+", false);
}

static pc_status pre_tokenizer_part(pc_tokenizer *t, const json_t *part)
{
    const char *kind = kind_of(part);
    if (strcmp(kind, "Split") == 0) return split_part(t, part);
    if (strcmp(kind, "ByteLevel") == 0) return bytes_part(t, part);
    if (strcmp(kind, "Digits") == 0) return digits_part(t, part);
    return pc_fail(PC_ERR_FORMAT,
                   "\"%s\" is not supported yet; expected ByteLevel, Split, Digits or a Sequence",
                   kind);
}

static bool has_byte_level(const json_t *part, const char *list)
{
    if (strcmp(kind_of(part), "ByteLevel") == 0) return true;
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(part, list), i, one)
    {
        if (strcmp(kind_of(one), "ByteLevel") == 0) return true;
    }
    return false;
}

static pc_status decoder_part(pc_tokenizer *t, const json_t *part)
{
    (void)t;
    if (strcmp(kind_of(part), "ByteLevel") == 0) return PC_OK;
    return pc_fail(PC_ERR_FORMAT, "\"%s\" is not supported yet; expected ByteLevel", kind_of(part));
}

/* ---- added tokens ---- */

static pc_status read_added_one(pc_tokenizer *t, const json_t *entry)
{
    const char *content = text_of(entry, "content");
    const json_t *id_value = json_object_get(entry, "id");
    const int64_t id = json_is_integer(id_value) ? (int64_t)json_integer_value(id_value) : -1;
    if (!content || !*content) return pc_fail(PC_ERR_FORMAT, "no `content`");
    if (id < 0 || id >= MAX_IDS)
        return pc_fail(PC_ERR_FORMAT, "\"%s\": id %lld, expected an integer from 0 to %d", content,
                       (long long)json_integer_value(id_value), MAX_IDS - 1);
    const size_t size = strlen(content);
    const int64_t known = pc_bytemap_find(&t->names, content, size);
    if (known >= 0 && known != id)
        return pc_fail(PC_ERR_FORMAT, "\"%s\" has id %lld here and %lld before", content,
                       (long long)id, (long long)known);
    pc_status st = grow_vocab(t, (int32_t)id + 1);
    if (st) return st;
    if (known < 0 && t->pieces[id].size >= 0)
        return pc_fail(PC_ERR_FORMAT, "\"%s\": id %lld belongs to another token", content,
                       (long long)id);

    pc_added *a = &t->added[t->added_count];
    *a = (pc_added){.size = size, .id = (int32_t)id, .content = strdup(content)};
    if (!a->content) return pc_fail(PC_ERR_MEMORY, "added token \"%s\"", content);
    t->added_count++;
    if ((st = flag_of(&a->special, entry, "special", false)) ||
        (st = flag_of(&a->single_word, entry, "single_word", false)) ||
        (st = flag_of(&a->lstrip, entry, "lstrip", false)) ||
        (st = flag_of(&a->rstrip, entry, "rstrip", false)) ||
        (st = flag_of(&a->normalized, entry, "normalized", !a->special)))
        return pc_context(st, "\"%s\"", content);
    if ((st = set_piece(t, a->id, content, size))) return st; // its own text, not the byte alphabet
    t->pieces[id].added = true;
    t->pieces[id].special = a->special;
    t->added_first[(unsigned char)*content] = true;
    if (!pc_bytemap_add(&t->names, content, size, id, NULL))
        return pc_fail(PC_ERR_MEMORY, "added token \"%s\"", content);
    return PC_OK;
}

static pc_status read_added(pc_tokenizer *t, const json_t *root)
{
    const json_t *list = json_object_get(root, "added_tokens"), *entry;
    size_t i;
    if (is_absent(list)) return PC_OK;
    if (!json_is_array(list)) return pc_fail(PC_ERR_FORMAT, "added_tokens: expected an array");
    t->added = calloc(json_array_size(list) + 1, sizeof *t->added);
    if (!t->added) return pc_fail(PC_ERR_MEMORY, "%zu added tokens", json_array_size(list));
    json_array_foreach(list, i, entry)
    {
        pc_status st = read_added_one(t, entry);
        if (st) return pc_context(st, "added_tokens[%zu]", i);
    }
    return PC_OK;
}

/* ---- post-processor: what stands around a text ---- */

static pc_status template_ids(pc_tokenizer *t, pc_ids *out, const json_t *part, const char *name)
{
    const json_t *special = json_object_get(json_object_get(part, "special_tokens"), name);
    const json_t *ids = json_object_get(special, "ids"),
                 *tokens = json_object_get(special, "tokens");
    const size_t n = json_array_size(ids);
    if (!json_is_array(ids) || json_array_size(tokens) != n)
        return pc_fail(
            PC_ERR_FORMAT,
            "TemplateProcessing: special_tokens[\"%s\"] needs `ids` and as many `tokens`", name);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i), *token = json_array_get(tokens, i);
        const char *text = json_is_string(token) ? json_string_value(token) : "";
        const int32_t known = pc_tokenizer_id(t, text);
        if (!json_is_integer(id) || known < 0 || json_integer_value(id) != known)
            return pc_fail(PC_ERR_FORMAT,
                           "TemplateProcessing: \"%s\" has id %lld here and %d in the vocabulary",
                           text, (long long)json_integer_value(id), known);
        pc_status st = pc_ids_add(out, known);
        if (st) return st;
    }
    return PC_OK;
}

static pc_status post_part(pc_tokenizer *t, const json_t *part)
{
    if (strcmp(kind_of(part), "ByteLevel") == 0) return PC_OK; // only moves offsets
    if (strcmp(kind_of(part), "TemplateProcessing") != 0)
        return pc_fail(PC_ERR_FORMAT,
                       "\"%s\" is not supported yet; expected ByteLevel or TemplateProcessing",
                       kind_of(part));
    const json_t *single = json_object_get(part, "single"), *item;
    size_t i;
    bool behind = false;
    json_array_foreach(single, i, item)
    {
        const char *name = text_of(json_object_get(item, "SpecialToken"), "id");
        if (!name) {
            if (behind) return pc_fail(PC_ERR_FORMAT, "TemplateProcessing: the text stands twice");
            behind = true;
            continue;
        }
        pc_status st = template_ids(t, behind ? &t->after : &t->before, part, name);
        if (st) return st;
    }
    return PC_OK;
}

/* ---- roles ---- */

static const char *const role_names[3] = {"bos", "eos", "pad"};
static const char *const usual_names[3][8] = {
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

static void roles_by_name(const pc_tokenizer *t, int32_t role[3])
{
    for (int r = 0; r < 3; r++) {
        role[r] = -1;
        for (int i = 0; usual_names[r][i] && role[r] < 0; i++)
            role[r] = pc_tokenizer_id(t, usual_names[r][i]);
    }
}

static void read_roles(pc_tokenizer *t, const json_t *root)
{
    int32_t role[3];
    roles_by_name(t, role);
    bool stated = false;
    const json_t *own =
        json_object_get(json_object_get(json_object_get(root, "model"), "percept"), "roles");
    for (int r = 0; r < 3 && json_is_object(own); r++) {
        const json_t *v = json_object_get(own, role_names[r]);
        role[r] =
            json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < t->vocab
                ? (int32_t)json_integer_value(v)
                : -1;
    }
    const json_t *entry, *name;
    size_t i, k;
    json_array_foreach(json_object_get(root, "added_tokens"), i, entry)
    {
        json_array_foreach(json_object_get(entry, "percept_roles"), k, name)
        {
            if (!stated)
                for (int r = 0; r < 3; r++) role[r] = -1; // what is stated is the whole of it
            stated = true;
            for (int r = 0; r < 3; r++)
                if (json_is_string(name) && strcmp(json_string_value(name), role_names[r]) == 0)
                    role[r] = (int32_t)json_integer_value(json_object_get(entry, "id"));
        }
    }
    t->bos = role[0];
    t->eos = role[1];
    t->pad = role[2];
}

/* Writes what a tokenizer_config.json says into the added tokens, unless the names say the same. */
static pc_status keep_roles(json_t *root, const pc_tokenizer *t, const json_t *config)
{
    static const char *const keys[3] = {"bos_token", "eos_token", "pad_token"};
    int32_t usual[3], said[3];
    roles_by_name(t, usual);
    bool differs = false;
    for (int r = 0; r < 3; r++) {
        const json_t *v = json_object_get(config, keys[r]);
        const char *name = json_is_object(v) ? text_of(v, "content") : json_string_value(v);
        said[r] = name ? pc_tokenizer_id(t, name) : -1;
        if (name && said[r] < 0)
            return pc_fail(PC_ERR_FORMAT, "tokenizer_config.json: %s \"%s\" is no token", keys[r],
                           name);
        differs = differs || said[r] != usual[r];
    }
    if (!differs) return PC_OK;
    json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(root, "added_tokens"), i, entry)
    {
        const int32_t id = (int32_t)json_integer_value(json_object_get(entry, "id"));
        json_t *roles = json_array();
        int failed = roles == NULL;
        for (int r = 0; r < 3; r++)
            if (said[r] == id && json_array_append_new(roles, json_string(role_names[r])))
                failed = 1;
        if (json_array_size(roles) && json_object_set(entry, "percept_roles", roles)) failed = 1;
        json_decref(roles);
        if (failed) return pc_fail(PC_ERR_MEMORY, "roles of added tokens");
    }
    return PC_OK;
}

/* ---- the whole ---- */

static pc_status build(pc_tokenizer *t, const json_t *root)
{
    pc_status st = read_model(t, root);
    if (st || (st = read_added(t, root))) return st;
    if ((st = each_part(t, json_object_get(root, "normalizer"), "normalizers", normalizer_part)))
        return pc_context(st, "normalizer");
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    if (!has_byte_level(pre, "pretokenizers"))
        return pc_fail(
            PC_ERR_FORMAT,
            "pre_tokenizer: %s has no ByteLevel; other tokenizers than byte-level BPE are "
            "not supported yet",
            is_absent(pre) ? "null" : kind_of(pre));
    if ((st = each_part(t, pre, "pretokenizers", pre_tokenizer_part)))
        return pc_context(st, "pre_tokenizer");
    if ((st = each_part(t, json_object_get(root, "decoder"), "decoders", decoder_part)))
        return pc_context(st, "decoder");
    if ((st = each_part(t, json_object_get(root, "post_processor"), "processors", post_part)))
        return pc_context(st, "post_processor");
    read_roles(t, root);

    t->cache = calloc(1, sizeof *t->cache);
    if (!t->cache) return pc_fail(PC_ERR_MEMORY, "the cache of words");
    for (int i = 0; i < PC_CACHE_LOCKS; i++) pthread_mutex_init(&t->cache->lock[i], NULL);
    return PC_OK;
}

static pc_status load_json(json_t **out, const char *text, size_t size)
{
    json_error_t error;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!*out) return pc_fail(PC_ERR_FORMAT, "line %d: %s", error.line, error.text);
    if (!json_is_object(*out)) return pc_fail(PC_ERR_FORMAT, "expected a JSON object");
    return PC_OK;
}

static pc_status parse(pc_tokenizer **out, const char *text, size_t size, const json_t *config)
{
    json_t *root = NULL;
    pc_tokenizer *t = calloc(1, sizeof *t);
    pc_status st = t ? load_json(&root, text, size) : pc_fail(PC_ERR_MEMORY, "a tokenizer");
    *out = NULL;
    if (st || (st = build(t, root))) goto out;
    if (config) {
        if ((st = keep_roles(root, t, config))) goto out;
        read_roles(t, root);
        t->json = json_dumps(root, JSON_INDENT(1));
    } else {
        t->json = strndup(text, size);
    }
    if (!t->json) {
        st = pc_fail(PC_ERR_MEMORY, "%zu bytes of a tokenizer's text", size);
        goto out;
    }
    *out = t;
    t = NULL;
out:
    json_decref(root);
    pc_tokenizer_close(t);
    return st;
}

pc_status pc_tokenizer_build(pc_tokenizer **out, const json_t *root)
{
    pc_tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    pc_status st = t ? build(t, root) : pc_fail(PC_ERR_MEMORY, "a tokenizer");
    if (!st && !(t->json = json_dumps(root, JSON_COMPACT)))
        st = pc_fail(PC_ERR_MEMORY, "a tokenizer's text");
    if (st) {
        pc_tokenizer_close(t);
        return st;
    }
    *out = t;
    return PC_OK;
}

pc_status pc_tokenizer_parse(pc_tokenizer **out, const char *json, size_t size)
{
    return pc_context(parse(out, json, size, NULL), "tokenizer");
}

/* The tokenizer_config.json of a folder; NULL when there is none. */
static pc_status load_config(json_t **out, const char *folder)
{
    char path[4096];
    *out = NULL;
    const int n = snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    if (n < 0 || (size_t)n >= sizeof path || !pc_file_exists(path)) return PC_OK;
    char *text;
    size_t size;
    pc_status st = pc_file_read(&text, &size, path, FILE_LIMIT);
    if (st) return st;
    st = load_json(out, text, size);
    free(text);
    return pc_context(st, "'%s'", path);
}

pc_status pc_tokenizer_open(pc_tokenizer **out, const char *path)
{
    char file[4096];
    const bool folder = pc_is_dir(path);
    *out = NULL;
    const int n = snprintf(file, sizeof file, folder ? "%s/tokenizer.json" : "%s", path);
    if (n < 0 || (size_t)n >= sizeof file)
        return pc_fail(PC_ERR_INPUT, "'%.80s...': a path of %d characters is too long", path, n);
    if (folder && !pc_file_exists(file))
        return pc_fail(
            PC_ERR_INPUT,
            "'%s' holds no tokenizer.json; other forms (tokenizer.model, vocab.json with "
            "merges.txt) are not supported yet",
            path);
    char *text = NULL;
    size_t size = 0;
    json_t *config = NULL;
    char *slash = strrchr(file, '/');
    const char *name = slash ? slash + 1 : file;
    pc_status st = PC_OK;
    if (strcmp(name, "tokenizer.json") == 0) { // as published: its settings lie beside it
        char beside[4096];
        snprintf(beside, sizeof beside, "%.*s", slash ? (int)(slash - file) : 1,
                 slash ? file : ".");
        st = load_config(&config, beside);
    }
    if (!st) st = pc_file_read(&text, &size, file, FILE_LIMIT);
    if (!st) st = pc_context(parse(out, text, size, config), "tokenizer '%s'", file);
    free(text);
    json_decref(config);
    return st;
}

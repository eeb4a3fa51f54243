/*
 * sentencepiece_file.c - `tokenizer.model`, a protobuf message, read by hand (spec: tokenizers.md 1):
 *
 *   ModelProto      1 pieces (repeated), 2 trainer_spec, 3 normalizer_spec
 *   SentencePiece   1 piece, 2 score (float), 3 type
 *   TrainerSpec     3 model_type, 24 treat_whitespace_as_suffix, 35 byte_fallback, 40-43 ids, 44 unk_surface
 *   NormalizerSpec  1 name, 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces
 *
 * A field begins with a varint 8 * number + wire type: 0 varint, 1 eight bytes, 2 a length and so many bytes, 5 four
 * bytes. Unknown fields are passed over; anything that does not fit its place is an error with its offset.
 */
#include "data/text/base64.h"
#include "data/text/layouts.h"
#include "data/text/presets.h"
#include "data/text/sentencepiece.h"
#include "data/text/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the wire ---- */

typedef struct wire {
    const unsigned char *p;
    size_t at, end; // within the file, so that errors say where
} wire;

typedef struct field {
    uint32_t number;
    int type;
    uint64_t value; // types 0, 1, 5
    wire bytes;     // type 2
} field;

static pc_status read_varint(uint64_t *out, wire *w)
{
    *out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (w->at == w->end)
            return pc_fail(PC_ERR_FORMAT, "offset %zu: a number has no end", w->at);
        const unsigned char byte = w->p[w->at++];
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return PC_OK;
    }
    return pc_fail(PC_ERR_FORMAT, "offset %zu: a number of more than 64 bits", w->at);
}

static pc_status read_field(field *f, wire *w)
{
    uint64_t key, n;
    const size_t at = w->at;
    pc_status st = read_varint(&key, w);
    if (st) return st;
    *f = (field){.number = (uint32_t)(key >> 3), .type = (int)(key & 7)};
    if (key >> 3 == 0 || key >> 32)
        return pc_fail(PC_ERR_FORMAT, "offset %zu: no field of a protobuf message", at);
    switch (f->type) {
    case 0: return read_varint(&f->value, w);
    case 1:
    case 5:
        n = f->type == 1 ? 8 : 4;
        if (n > w->end - w->at)
            return pc_fail(PC_ERR_FORMAT, "offset %zu: field %u is cut off", at, f->number);
        for (uint64_t i = 0; i < n; i++) f->value |= (uint64_t)w->p[w->at++] << (8 * i);
        return PC_OK;
    case 2:
        if ((st = read_varint(&n, w))) return st;
        if (n > w->end - w->at)
            return pc_fail(PC_ERR_FORMAT,
                           "offset %zu: field %u has %llu bytes, %zu are left of its message", at,
                           f->number, (unsigned long long)n, w->end - w->at);
        f->bytes = (wire){w->p, w->at, w->at + (size_t)n};
        w->at += (size_t)n;
        return PC_OK;
    default:
        return pc_fail(PC_ERR_FORMAT,
                       "offset %zu: field %u has wire type %d, expected 0, 1, 2 or 5", at,
                       f->number, f->type);
    }
}

static pc_status expect(const field *f, int type)
{
    if (f->type == type) return PC_OK;
    return pc_fail(PC_ERR_FORMAT, "field %u has wire type %d, expected %d", f->number, f->type,
                   type);
}

/* ---- the message ---- */

typedef struct piece {
    const char *text;
    size_t size;
    float score;
    int type;
} piece;

typedef struct model {
    piece *pieces;
    int64_t count, room;
    int model_type;
    bool suffix_space, byte_fallback, dummy_prefix, remove_spaces, escape;
    int32_t unk, bos, eos, pad;
    wire surface, name, charsmap;
} model;

static pc_status read_piece(model *m, wire w)
{
    piece p = {.type = PC_SP_NORMAL};
    field f;
    pc_status st = PC_OK;
    while (w.at < w.end && !(st = read_field(&f, &w))) {
        if (f.number == 1 && !(st = expect(&f, 2))) {
            p.text = (const char *)f.bytes.p + f.bytes.at;
            p.size = f.bytes.end - f.bytes.at;
        } else if (f.number == 2 && !st && !(st = expect(&f, 5))) {
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&p.score, &bits, sizeof bits);
        } else if (f.number == 3 && !st && !(st = expect(&f, 0))) {
            p.type = f.value < 100 ? (int)f.value : 100;
        }
        if (st) break;
    }
    if (st) return st;
    if (p.size == 0) return pc_fail(PC_ERR_FORMAT, "it is empty");
    if (!pc_utf8_valid(p.text, p.size) || memchr(p.text, '\0', p.size))
        return pc_fail(PC_ERR_FORMAT, "it is no UTF-8 text");
    if (p.type < PC_SP_NORMAL || p.type > PC_SP_BYTE)
        return pc_fail(PC_ERR_FORMAT, "type %d, expected 1 to 6", p.type);
    if (!isfinite(p.score)) return pc_fail(PC_ERR_FORMAT, "its score is no finite number");
    if (m->count == m->room) {
        const int64_t wanted = m->room ? 2 * m->room : 256;
        piece *grown = realloc(m->pieces, (size_t)wanted * sizeof *grown);
        if (!grown) return pc_fail(PC_ERR_MEMORY, "%lld pieces", (long long)wanted);
        m->pieces = grown;
        m->room = wanted;
    }
    m->pieces[m->count++] = p;
    return PC_OK;
}

static pc_status read_trainer(model *m, wire w)
{
    field f;
    pc_status st = PC_OK;
    while (w.at < w.end && !st && !(st = read_field(&f, &w))) {
        int32_t *const id = f.number == 40   ? &m->unk
                            : f.number == 41 ? &m->bos
                            : f.number == 42 ? &m->eos
                            : f.number == 43 ? &m->pad
                                             : NULL;
        if (f.number == 44) {
            if (!(st = expect(&f, 2))) m->surface = f.bytes;
        } else if (id || f.number == 3 || f.number == 24 || f.number == 35) {
            if ((st = expect(&f, 0))) break;
            if (id) *id = (int64_t)f.value < 0 || f.value > INT32_MAX ? -1 : (int32_t)f.value;
            if (f.number == 3) m->model_type = f.value < 100 ? (int)f.value : 100;
            if (f.number == 24) m->suffix_space = f.value != 0;
            if (f.number == 35) m->byte_fallback = f.value != 0;
        }
    }
    return pc_context(st, "trainer_spec");
}

static pc_status read_normalizer(model *m, wire w)
{
    field f;
    pc_status st = PC_OK;
    while (w.at < w.end && !st && !(st = read_field(&f, &w))) {
        if (f.number == 1 || f.number == 2) {
            if (!(st = expect(&f, 2))) *(f.number == 1 ? &m->name : &m->charsmap) = f.bytes;
        } else if (f.number >= 3 && f.number <= 5) {
            bool *const flag = f.number == 3   ? &m->dummy_prefix
                               : f.number == 4 ? &m->remove_spaces
                                               : &m->escape;
            if (!(st = expect(&f, 0))) *flag = f.value != 0;
        }
    }
    return pc_context(st, "normalizer_spec");
}

static pc_status check(model *m)
{
    static const char *const types[] = {"?", "unigram", "BPE", "word", "char"};
    int64_t unknown = -1, bytes = 0;
    if (m->count == 0) return pc_fail(PC_ERR_FORMAT, "no pieces: this is no SentencePiece model");
    if (m->count > INT32_MAX / 8) return pc_fail(PC_ERR_FORMAT, "%lld pieces", (long long)m->count);
    if (m->model_type != 1 && m->model_type != 2)
        return pc_fail(PC_ERR_FORMAT,
                       "model type %d (%s) is not supported; expected 1 (unigram) or 2 (BPE)",
                       m->model_type,
                       m->model_type >= 1 && m->model_type <= 4 ? types[m->model_type] : "?");
    if (m->suffix_space)
        return pc_fail(PC_ERR_FORMAT, "treat_whitespace_as_suffix is not supported");
    for (int64_t i = 0; i < m->count; i++) {
        if (m->pieces[i].type == PC_SP_BYTE) bytes++;
        if (m->pieces[i].type != PC_SP_UNKNOWN) continue;
        if (unknown >= 0)
            return pc_fail(PC_ERR_FORMAT, "pieces %lld and %lld are both the unknown one",
                           (long long)unknown, (long long)i);
        unknown = i;
    }
    if (unknown < 0) return pc_fail(PC_ERR_FORMAT, "no piece is the unknown one (type 2)");
    if (m->byte_fallback && bytes != 256)
        return pc_fail(PC_ERR_FORMAT, "byte_fallback with %lld byte pieces, expected 256",
                       (long long)bytes);
    if (!m->byte_fallback && bytes)
        return pc_fail(PC_ERR_FORMAT, "%lld byte pieces without byte_fallback", (long long)bytes);
    m->unk = (int32_t)unknown;
    int32_t *const id[3] = {&m->bos, &m->eos, &m->pad};
    for (int i = 0; i < 3; i++)
        if (*id[i] >= m->count) *id[i] = -1;
    return PC_OK;
}

static pc_status read_model(model *m, const void *bytes, size_t size)
{
    wire w = {bytes, 0, size};
    field f;
    pc_status st = PC_OK;
    *m = (model){.model_type = 1, .bos = 1, .eos = 2, .pad = -1};
    m->dummy_prefix = m->remove_spaces = m->escape = true;
    while (w.at < w.end && !st && !(st = read_field(&f, &w))) {
        if (f.number < 1 || f.number > 3) continue;
        if ((st = expect(&f, 2))) break;
        if (f.number == 1) {
            st = pc_context(read_piece(m, f.bytes), "piece %lld", (long long)m->count);
        } else if (f.number == 2) {
            st = read_trainer(m, f.bytes);
        } else {
            st = read_normalizer(m, f.bytes);
        }
    }
    return st ? st : check(m);
}

/* ---- the same as a `tokenizer.json` ---- */

static json_t *text_of(wire w)
{
    const char *text = (const char *)w.p + w.at;
    return json_stringn(text, w.end - w.at); // NULL when it is no UTF-8
}

/* `strips`: SigLIP's special tokens swallow the white space around them. */
static json_t *added_entry(int64_t id, const char *content, size_t size, bool special, bool strips)
{
    return json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
                     content, size, "single_word", 0, "lstrip", (int)strips, "rstrip", (int)strips,
                     "normalized", 0, "special", (int)special);
}

/* `siglip`: its class finds no other special tokens than these two and those of the configuration. */
static pc_status put_pieces(json_t *root, json_t *m_json, json_t *own, const model *m, bool siglip)
{
    const bool unigram = m->model_type == 1;
    json_t *vocab = json_object(), *list = json_array(), *scores = json_array(),
           *types = json_array(), *added = json_array();
    int failed = 0;
    pc_status st = PC_OK;
    for (int64_t i = 0; i < m->count && !st; i++) {
        const piece *p = &m->pieces[i];
        char *name = strndup(p->text, p->size);
        const json_t *other = name ? json_object_get(vocab, name) : NULL;
        if (other)
            st = pc_fail(PC_ERR_FORMAT, "pieces %lld and %lld are both \"%.60s\"",
                         (long long)json_integer_value(other), (long long)i, name);
        else
            failed |= !name || json_object_set_new_nocheck(vocab, name, json_integer(i));
        if (unigram)
            failed |= json_array_append_new(list, json_pack("[s%, f]", p->text, p->size,
                                                            (double)p->score));
        free(name);
        failed |= json_array_append_new(scores, json_real((double)p->score));
        failed |= json_array_append_new(types, json_integer(p->type));
        if (siglip ? i == m->unk || i == m->eos
                   : p->type == PC_SP_UNKNOWN || p->type == PC_SP_CONTROL ||
                         p->type == PC_SP_USER_DEFINED)
            failed |=
                json_array_append_new(added, added_entry(i, p->text, p->size,
                                                         p->type != PC_SP_USER_DEFINED, siglip));
    }
    failed |= json_object_set_new(root, "added_tokens", added);
    if (unigram) { // the scores stand in the vocabulary
        failed |= json_object_set(m_json, "vocab", list);
    } else {
        failed |= json_object_set(m_json, "vocab", vocab);
        failed |= json_object_set_new(m_json, "merges", json_array());
        failed |= json_object_set(own, "scores", scores);
    }
    json_decref(vocab);
    json_decref(list);
    json_decref(scores);
    failed |= json_object_set_new(own, "types", types);
    return st ? st : failed ? pc_fail(PC_ERR_MEMORY, "%lld pieces", (long long)m->count) : PC_OK;
}

static pc_status put_own(json_t *own, const model *m)
{
    json_t *sp = json_pack("{s:b, s:b, s:b}", "add_dummy_prefix", (int)m->dummy_prefix,
                           "remove_extra_whitespaces", (int)m->remove_spaces, "escape_whitespaces",
                           (int)m->escape);
    int failed = 0;
    if (m->name.end > m->name.at) {
        json_t *name = text_of(m->name);
        if (name) failed |= json_object_set_new(sp, "normalizer", name);
    }
    if (m->surface.p) {
        json_t *surface = text_of(m->surface);
        if (!surface) {
            json_decref(sp);
            return pc_fail(PC_ERR_FORMAT, "unk_surface is no UTF-8 text");
        }
        failed |= json_object_set_new(sp, "unk_surface", surface);
    }
    if (m->charsmap.end > m->charsmap.at) {
        char *letters =
            pc_base64_encode(m->charsmap.p + m->charsmap.at, m->charsmap.end - m->charsmap.at);
        failed |= !letters || json_object_set_new(sp, "charsmap", json_string(letters));
        free(letters);
    }
    failed |= json_object_set_new(own, "sentencepiece", sp);
    return failed ? pc_fail(PC_ERR_MEMORY, "the settings of a model") : PC_OK;
}

/* Steps in front of the usual ones: the table of characters, runs of spaces. */
static pc_status put_table(json_t *root, const model *m)
{
    json_t *list = json_object_get(json_object_get(root, "normalizer"), "normalizers");
    int failed = 0;
    if (m->remove_spaces) {
        failed |= json_array_insert_new(list, 0,
                                        json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace",
                                                  "pattern", "Regex", " {2,}", "content", " "));
        failed |= json_array_insert_new(list, 0,
                                        json_pack("{s:s, s:b, s:b}", "type", "Strip", "strip_left",
                                                  1, "strip_right", 1));
    }
    if (m->charsmap.end > m->charsmap.at) {
        char *letters =
            pc_base64_encode(m->charsmap.p + m->charsmap.at, m->charsmap.end - m->charsmap.at);
        failed |= !letters || json_array_insert_new(list, 0,
                                                    json_pack("{s:s, s:s}", "type", "Precompiled",
                                                              "precompiled_charsmap", letters));
        free(letters);
    }
    return failed ? pc_fail(PC_ERR_MEMORY, "the settings of a model") : PC_OK;
}

/* "legacy": false - only the very beginning of a text gets a space before it. */
static pc_status put_newer(json_t *root, const model *m)
{
    json_t *list = json_object_get(json_object_get(root, "normalizer"), "normalizers");
    int failed = 0;
    while (json_array_size(list) > 0 && // Prepend and Replace are the last ones
           json_array_size(list) > (size_t)(m->remove_spaces ? 2 : 0) + (m->charsmap.p != NULL))
        failed |= json_array_remove(list, json_array_size(list) - 1);
    if (json_array_size(list) == 0) failed |= json_object_set_new(root, "normalizer", json_null());
    failed |= json_object_set_new(root, "pre_tokenizer",
                                  json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace",
                                            "replacement", PC_MARK, "prepend_scheme",
                                            m->dummy_prefix ? "first" : "never", "split", 0));
    return failed ? pc_fail(PC_ERR_MEMORY, "the settings of a model") : PC_OK;
}

/* ---- a unigram model ---- */

static bool is_t5_class(const json_t *config)
{
    const char *class = pc_tok_text(config, "tokenizer_class");
    return class && (!strcmp(class, "T5Tokenizer") || !strcmp(class, "T5TokenizerFast"));
}

/* Other classes move the ids or change the scores: a tokenizer that is nearly right is worse than none. */
static pc_status check_class(const json_t *config)
{
    static const char *const known[] = {"PreTrainedTokenizer", "PreTrainedTokenizerFast",
                                        "TokenizersBackend",   "SentencePieceBackend",
                                        "LlamaTokenizer",      "LlamaTokenizerFast"};
    const char *class = pc_tok_text(config, "tokenizer_class");
    bool found = !class || is_t5_class(config) || pc_is_siglip_class(config);
    for (size_t i = 0; i < sizeof known / sizeof *known && !found; i++)
        found = strcmp(class, known[i]) == 0;
    if (found) return PC_OK;
    return pc_fail(PC_ERR_FORMAT,
                   "tokenizer_class \"%.60s\" of a unigram model is not supported (T5Tokenizer and "
                   "SiglipTokenizer are); a tokenizer.json of it may be",
                   class);
}

/* T5's 100 sentinels behind the pieces, the last one first. */
static pc_status put_sentinels(json_t *root, json_t *m_json, const json_t *config)
{
    json_t *vocab = json_object_get(m_json, "vocab"),
           *added = json_object_get(root, "added_tokens");
    const json_t *v = json_object_get(config, "extra_ids");
    const json_int_t count = pc_tok_absent(v) ? 100 : json_integer_value(v);
    if ((!pc_tok_absent(v) && !json_is_integer(v)) || count < 0 || count > 10000)
        return pc_fail(PC_ERR_FORMAT, "tokenizer_config.json: extra_ids %lld, expected 0 to 10000",
                       (long long)count);
    int failed = 0;
    for (json_int_t i = count - 1; i >= 0; i--) {
        char name[40];
        const int n = snprintf(name, sizeof name, "<extra_id_%lld>", (long long)i);
        const int64_t id = (int64_t)json_array_size(vocab);
        failed |= json_array_append_new(vocab, json_pack("[s, f]", name, 0.0));
        failed |= json_array_append_new(added, added_entry(id, name, (size_t)n, true, false));
    }
    return failed ? pc_fail(PC_ERR_MEMORY, "tokens of a T5") : PC_OK;
}

static json_t *metaspace(const char *scheme)
{
    return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", PC_MARK,
                     "prepend_scheme", scheme, "split", 1);
}

/* What stands around it: as the classes of transformers 5 have it; words are split at spaces. */
static pc_status put_around_unigram(json_t *root, const model *m, const json_t *config)
{
    const char *scheme = !m->dummy_prefix             ? "never"
                         : pc_is_siglip_class(config) ? "first"
                                                      : "always";
    json_t *steps = json_array(), *decode = metaspace(scheme), *split = metaspace(scheme);
    int failed = 0;
    if (is_t5_class(config))
        split = json_pack("{s:s, s:[{s:s}, o]}", "type", "Sequence", "pretokenizers", "type",
                          "WhitespaceSplit", split);
    if (m->byte_fallback) {
        json_decref(decode);
        decode = json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]}", "type", "Sequence",
                           "decoders", "type", "Replace", "pattern", "String", PC_MARK, "content",
                           " ", "type", "ByteFallback", "type", "Fuse");
        if (m->dummy_prefix)
            failed |= json_array_append_new(json_object_get(decode, "decoders"),
                                            json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip",
                                                      "content", " ", "start", 1, "stop", 0));
    }
    failed |=
        json_object_set_new(root, "normalizer",
                            json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps));
    failed |= json_object_set_new(root, "pre_tokenizer", split);
    failed |= json_object_set_new(root, "decoder", decode);
    failed |= json_object_set_new(root, "post_processor", json_null());
    return failed ? pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer") : PC_OK;
}

/* A BOS before a text; behind it an EOS where there is no BOS (T5, SigLIP). */
static pc_status put_frame(json_t *root, const model *m)
{
    const bool ends = m->model_type == 1 && m->bos < 0 && m->eos >= 0;
    const int32_t id = ends ? m->eos : m->bos;
    if (id < 0) return PC_OK;
    char *name = strndup(m->pieces[id].text, m->pieces[id].size);
    json_t *frame = !name  ? NULL
                    : ends ? pc_preset_frame(NULL, -1, name, id)
                           : pc_preset_frame(name, id, NULL, -1);
    free(name);
    return frame && !json_object_set_new(root, "post_processor", frame)
               ? PC_OK
               : pc_fail(PC_ERR_MEMORY, "a tokenizer");
}

static pc_status compose(json_t *root, const model *m, bool own_ways, const json_t *config)
{
    const bool unigram = m->model_type == 1;
    json_t *m_json = json_object(), *own = json_object(), *roles = json_object();
    const int32_t role[4] = {m->bos, m->eos, m->pad, m->unk};
    static const char *const role_name[4] = {"bos", "eos", "pad", "unk"};
    int failed = json_object_set_new(root, "version", json_string("1.0")) |
                 json_object_set_new(root, "truncation", json_null()) |
                 json_object_set_new(root, "padding", json_null()) |
                 json_object_set_new(root, "model", m_json) |
                 json_object_set_new(m_json, "type", json_string(unigram ? "Unigram" : "BPE")) |
                 json_object_set_new(m_json, "byte_fallback",
                                     json_boolean(m->byte_fallback && !is_t5_class(config))) |
                 json_object_set_new(own, "roles", roles);
    if (unigram)
        failed |= json_object_set_new(m_json, "unk_id", json_integer(m->unk));
    else
        failed |= json_object_set_new(m_json, "dropout", json_null()) |
                  json_object_set_new(m_json, "fuse_unk", json_true()) |
                  json_object_set_new(m_json, "unk_token",
                                      json_stringn_nocheck(m->pieces[m->unk].text,
                                                           m->pieces[m->unk].size));
    for (int r = 0; r < 4; r++)
        failed |= json_object_set_new(roles, role_name[r],
                                      role[r] < 0 ? json_null() : json_integer(role[r]));
    pc_status st = failed ? pc_fail(PC_ERR_MEMORY, "a tokenizer")
                          : put_pieces(root, m_json, own, m, pc_is_siglip_class(config));
    const bool newer = config && json_is_false(json_object_get(config, "legacy"));
    if (!st && (own_ways || pc_is_siglip_class(config))) st = put_own(own, m);
    if (!st && unigram) {
        st = check_class(config);
        if (!st && is_t5_class(config)) st = put_sentinels(root, m_json, config);
        if (!st) st = put_around_unigram(root, m, config);
    } else if (!st) {
        st = pc_preset_pieces(root, m->dummy_prefix);
    }
    if (!st) st = put_table(root, m);
    if (!st && newer && !unigram) st = put_newer(root, m);
    if (json_object_set_new(m_json, "percept", own) && !st)
        st = pc_fail(PC_ERR_MEMORY, "a tokenizer");
    return st ? st : put_frame(root, m);
}

pc_status pc_sentencepiece_json(json_t **root, const void *bytes, size_t size, bool own,
                                const json_t *config)
{
    model m;
    *root = json_object();
    pc_status st = *root ? read_model(&m, bytes, size) : pc_fail(PC_ERR_MEMORY, "a tokenizer");
    if (*root) {
        if (!st) st = compose(*root, &m, own, config);
        free(m.pieces);
    }
    if (st) {
        json_decref(*root);
        *root = NULL;
    }
    return st;
}

pc_status pc_tokenizer_sentencepiece_parse(pc_tokenizer **out, const void *bytes, size_t size)
{
    json_t *root = NULL;
    *out = NULL;
    pc_status st = pc_sentencepiece_json(&root, bytes, size, true, NULL);
    if (!st) st = pc_tokenizer_build(out, root, NULL);
    json_decref(root);
    return pc_context(st, "SentencePiece model");
}

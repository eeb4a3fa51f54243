/*
 * sentencepiece.c - how the library itself treats texts, before the merges and after.
 *
 *   before   [characters by the table] -> spaces collapsed and off the ends -> U+2581 before a text -> U+2581 for
 *            every space; user-defined pieces pass untouched but for their spaces
 *   after    control pieces vanish, the unknown one has a text of its own, bytes are joined; the first piece
 *            loses the mark it begins with
 */
#include "data/text/sentencepiece.h"
#include "data/text/base64.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

static pc_status read_table(pc_charsmap *m, const json_t *own)
{
    const json_t *v = json_object_get(own, "charsmap");
    const size_t n = json_string_length(v);
    if (pc_tok_absent(v) || n == 0) return PC_OK;
    unsigned char *bytes = malloc(n);
    size_t size;
    if (!bytes) return pc_fail(PC_ERR_MEMORY, "a table of %zu bytes", n);
    pc_status st = pc_base64_decode(bytes, &size, json_string_value(v), n)
                       ? pc_charsmap_open(m, bytes, size)
                       : pc_fail(PC_ERR_FORMAT, "charsmap is no base64");
    free(bytes);
    return st;
}

/* The steps behind these, and the splitting, stand there for other readers. */
static pc_status read_prepared(pc_tokenizer *t, const json_t *own)
{
    const json_t *v = json_object_get(own, "prepared");
    pc_normal *n = &t->normal;
    if (pc_tok_absent(v)) return PC_OK;
    if (!t->unigram.on || !json_is_integer(v) || json_integer_value(v) < 1 ||
        json_integer_value(v) > n->count)
        return pc_fail(PC_ERR_FORMAT, "prepared: %lld, expected 1 to %d steps of a unigram model",
                       (long long)json_integer_value(v), n->count);
    t->sp.prepared = (int)json_integer_value(v);
    pc_normal_cut(n, t->sp.prepared);
    pc_word_rules_close(&t->rules);
    return PC_OK;
}

static pc_status read_piece(pc_tokenizer *t, int32_t id, int type, const char *unk_surface)
{
    pc_piece *p = &t->pieces[id];
    const char *name;
    size_t size;
    if (!pc_name_of(t, id, &name, &size)) return PC_OK;
    if (type == PC_SP_CONTROL) {
        p->kind = PC_PIECE_SILENT;
        p->size = 0;
    } else if (type == PC_SP_UNKNOWN) {
        p->marked = false;
        p->size = (int32_t)strlen(unk_surface);
        return pc_pool_add(t, &p->at, unk_surface, strlen(unk_surface));
    } else if (type == PC_SP_USER_DEFINED) {
        return pc_matcher_add(&t->defined, name, size, id);
    }
    return PC_OK;
}

/* U+2581 becomes a space, "<0x0A>" a byte where its type says so. */
static pc_status piece_texts(pc_tokenizer *t, const json_t *types)
{
    pc_decode_step steps[2] = {{.kind = PC_DECODE_FALLBACK},
                               {.kind = PC_DECODE_REPLACE, .text = strdup(" ")}};
    pc_status st = steps[1].text ? pc_pattern_open(&steps[1].pattern, PC_MARK, 3, true)
                                 : pc_fail(PC_ERR_MEMORY, "the texts of pieces");
    if (!st) st = pc_decode_pieces(t, steps, 2);
    pc_pattern_close(&steps[1].pattern);
    free(steps[1].text);
    for (int32_t id = 0; id < t->vocab && !st; id++) {
        pc_piece *p = &t->pieces[id];
        const char *name;
        size_t size;
        if (!pc_name_of(t, id, &name, &size)) continue;
        p->marked = size >= 3 && memcmp(name, PC_MARK, 3) == 0;
        const bool byte = json_integer_value(json_array_get(types, (size_t)id)) == PC_SP_BYTE;
        if (p->kind != PC_PIECE_BYTE || byte) continue;
        p->kind = PC_PIECE_TEXT; // it only looks like one
        p->size = (int32_t)size;
        if (size > t->longest) t->longest = size;
        st = pc_pool_add(t, &p->at, name, size);
    }
    return st;
}

pc_status pc_sentencepiece_read(pc_tokenizer *t, const json_t *model)
{
    const json_t *percept = json_object_get(model, "percept"),
                 *own = json_object_get(percept, "sentencepiece"),
                 *types = json_object_get(percept, "types");
    const char *surface = pc_tok_text(own, "unk_surface");
    pc_sentencepiece *sp = &t->sp;
    pc_status st;
    if (!t->scored && !t->unigram.on)
        return pc_fail(PC_ERR_FORMAT, "model.percept.sentencepiece without scores");
    if (!surface) surface = " \xE2\x81\x87 ";
    if ((st = pc_tok_flag(&sp->dummy_prefix, own, "add_dummy_prefix", true)) ||
        (st = pc_tok_flag(&sp->remove_spaces, own, "remove_extra_whitespaces", true)) ||
        (st = pc_tok_flag(&sp->escape, own, "escape_whitespaces", true)) ||
        (st = read_table(&sp->chars, own)) || (st = read_prepared(t, own)) ||
        (st = piece_texts(t, types)))
        return pc_context(st, "model.percept.sentencepiece");
    sp->on = true;
    for (size_t i = 0; i < json_array_size(types) && !st; i++)
        st = read_piece(t, (int32_t)i, (int)json_integer_value(json_array_get(types, i)), surface);
    if (strlen(surface) > t->longest) t->longest = strlen(surface);
    t->decoder = (pc_decoder){.bytes = PC_DECODE_EACH,
                              .drops_prefix = sp->dummy_prefix || sp->remove_spaces,
                              .drops_all_leading = sp->remove_spaces};
    return st ? st : pc_matcher_finish(&t->defined);
}

/* ---- the normaliser ---- */

/* What the next characters become, and how many bytes they were. */
static size_t normal_prefix(const pc_tokenizer *t, const char **out, size_t *out_size,
                            const char *text, size_t size)
{
    size_t n = 0;
    *out = text;
    if (pc_matcher_may_begin(&t->defined, *text) &&
        pc_matcher_find(&t->defined, &n, text, size) >= 0) {
        *out_size = n;
        return n;
    }
    n = pc_charsmap_find(&t->sp.chars, out, text, size);
    if (n) {
        *out_size = strlen(*out);
        return n;
    }
    const int step = pc_utf8_step((const unsigned char *)text, size);
    *out_size = (size_t)step;
    if (step > 0) return (size_t)step;
    *out = "\xEF\xBF\xBD"; // every byte that is no character
    *out_size = 3;
    return 1;
}

static pc_status put_escaped(const pc_tokenizer *t, pc_buffer *out, const char *text, size_t size)
{
    pc_status st = PC_OK;
    while (size > 0 && !st) {
        const char *space = t->sp.escape ? memchr(text, ' ', size) : NULL;
        const size_t n = space ? (size_t)(space - text) : size;
        st = pc_buffer_add(out, text, n);
        if (!st && space) st = pc_buffer_add(out, PC_MARK, 3);
        text += n + (space != NULL);
        size -= n + (space != NULL);
    }
    return st;
}

/* Plain settings on plain text: spaces are all there is to do. */
static bool only_escapes(const pc_tokenizer *t, const char *text, size_t size)
{
    return !t->sp.remove_spaces && t->sp.chars.units == 0 && t->defined.map.count == 0 &&
           pc_utf8_valid(text, size);
}

pc_status pc_sentencepiece_normal(const pc_tokenizer *t, pc_buffer *out, const char *text,
                                  size_t size, bool prefix)
{
    const pc_sentencepiece *sp = &t->sp;
    const char *mark = sp->escape ? PC_MARK : " ", *part;
    const size_t mark_size = strlen(mark);
    pc_status st = pc_buffer_add(out, "", 0);
    size_t at = 0, n;
    while (sp->remove_spaces &&
           at < size) { // spaces at the beginning, whatever they were written as
        const size_t step = normal_prefix(t, &part, &n, text + at, size - at);
        if (n != 1 || *part != ' ') break;
        at += step;
    }
    if (st || at >= size) return st;
    if (prefix && (st = pc_buffer_add(out, mark, mark_size))) return st;
    if (only_escapes(t, text, size)) return put_escaped(t, out, text, size);
    bool after_space = sp->remove_spaces;
    while (at < size && !st) {
        at += normal_prefix(t, &part, &n, text + at, size - at);
        for (; after_space && n > 0 && *part == ' '; part++) n--;
        if (n == 0) continue;
        st = put_escaped(t, out, part, n);
        if (!st && out->used > ((size_t)1 << 20) + 64 * size) // a table of one's own making
            st = pc_fail(PC_ERR_INPUT, "normalising makes more than %zu bytes of a text of %zu",
                         out->used, size);
        after_space = sp->remove_spaces && part[n - 1] == ' ';
    }
    while (!st && sp->remove_spaces && out->used >= mark_size &&
           memcmp(out->data + out->used - mark_size, mark, mark_size) == 0)
        out->used -= mark_size;
    return st;
}

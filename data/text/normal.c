/*
 * normal.c - utf8proc for Unicode's forms and cases; the rest is copying.
 */
#include "data/text/normal.h"
#include "data/text/bpe.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

pc_status pc_buffer_add(pc_buffer *b, const void *data, size_t size)
{
    if (b->room - b->used < size + 1) {
        size_t wanted = b->room ? b->room : 256;
        while (wanted - b->used < size + 1) wanted *= 2;
        char *grown = realloc(b->data, wanted);
        if (!grown) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", wanted);
        b->data = grown;
        b->room = wanted;
    }
    if (size) memcpy(b->data + b->used, data, size);
    b->used += size;
    b->data[b->used] = '\0';
    return PC_OK;
}

pc_normal_step *pc_normal_add(pc_normal *n, pc_normal_kind kind)
{
    if (n->count == PC_NORMAL_STEPS) {
        pc_fail(PC_ERR_INPUT, "more than %d normalising steps", PC_NORMAL_STEPS);
        return NULL;
    }
    pc_normal_step *s = &n->step[n->count++];
    *s = (pc_normal_step){.kind = kind};
    return s;
}

void pc_normal_cut(pc_normal *n, int count)
{
    for (int i = count; i < n->count; i++) {
        pc_pattern_close(&n->step[i].pattern);
        free(n->step[i].text);
        pc_charsmap_close(&n->step[i].chars);
    }
    n->count = count;
}

void pc_normal_close(pc_normal *n)
{
    pc_normal_cut(n, 0);
}

/* ---- Unicode's forms ---- */

/*
 * Below U+0300 every text is composed already, and so are CJK ideographs, kana without marks, and quotation marks
 * and dashes: one such run is copied, what lies between is composed. A run may be cut only before a character
 * that never joins with the one before it, which all of these are.
 */
static bool is_composed(uint32_t c)
{
    return c < 0x300 || (c >= 0x2010 && c <= 0x2027) || (c >= 0x3001 && c <= 0x3029) ||
           (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xFF01 && c <= 0xFF5E) || c == 0xFFFD;
}

/* The end of the run of composed characters at `at`. A base character before others belongs to them. */
static size_t composed_run(const char *text, size_t size, size_t at)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t last = at;
    while (at < size) {
        const int n = pc_utf8_step(s + at, size - at);
        if (!is_composed(pc_utf8_code(s + at, n))) return last;
        last = at;
        at += (size_t)n;
    }
    return at;
}

static size_t other_run(const char *text, size_t size, size_t at)
{
    const unsigned char *s = (const unsigned char *)text;
    bool first = true;
    while (at < size) {
        const int n = pc_utf8_step(s + at, size - at);
        if (!first && is_composed(pc_utf8_code(s + at, n))) break;
        first = false;
        at += (size_t)n;
    }
    return at;
}

static pc_status map(pc_buffer *out, const char *text, size_t size, int options)
{
    utf8proc_uint8_t *mapped = NULL;
    const utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &mapped,
                     (utf8proc_option_t)(UTF8PROC_STABLE | options));
    if (n < 0)
        return pc_fail(n == UTF8PROC_ERROR_NOMEM ? PC_ERR_MEMORY : PC_ERR_INPUT,
                       "text cannot be normalised: %s", utf8proc_errmsg(n));
    pc_status st = pc_buffer_add(out, mapped, (size_t)n);
    free(mapped);
    return st;
}

static pc_status compose(pc_buffer *out, const char *text, size_t size)
{
    pc_status st = PC_OK;
    for (size_t at = 0; at < size && !st;) {
        size_t end = composed_run(text, size, at);
        st = pc_buffer_add(out, text + at, end - at);
        at = end;
        if (st || at >= size) break;
        end = other_run(text, size, at);
        st = map(out, text + at, end - at, UTF8PROC_COMPOSE);
        at = end;
    }
    return st;
}

static pc_status form(const pc_normal_step *s, pc_buffer *out, const char *text, size_t size)
{
    if (pc_utf8_ascii(text, size)) return pc_buffer_add(out, text, size);
    if (s->compose && !s->compatible) return compose(out, text, size);
    return map(out, text, size,
               (s->compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                   (s->compatible ? UTF8PROC_COMPAT : 0));
}

/* ---- characters one by one ---- */

static pc_status put_code(pc_buffer *out, uint32_t code)
{
    unsigned char bytes[4];
    const int n = pc_utf8_put(bytes, code);
    return pc_buffer_add(out, bytes, (size_t)n);
}

static pc_status lower(pc_buffer *out, uint32_t code)
{
    if (code != 0x130) return put_code(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)code));
    pc_status st = put_code(out, 'i'); // the one character whose lower case is two
    return st ? st : put_code(out, 0x307);
}

static bool is_mark(uint32_t code)
{
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

static pc_status control(pc_buffer *out, uint32_t c)
{
    if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F ||
        c == 0x9F)
        return PC_OK;
    const bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xFEFF || c == 0xFFFD;
    return put_code(out, space ? ' ' : c);
}

static pc_status by_character(const pc_normal_step *s, pc_buffer *out, const char *text,
                              size_t size)
{
    const unsigned char *p = (const unsigned char *)text;
    pc_status st = PC_OK;
    for (size_t at = 0; at < size && !st;) {
        if (s->kind == PC_NORMAL_BYTES) {
            st = put_code(out, pc_byte_char(p[at++]));
            continue;
        }
        const int n = pc_utf8_step(p + at, size - at);
        const uint32_t code = pc_utf8_code(p + at, n);
        if (s->kind == PC_NORMAL_LOWER)
            st = lower(out, code);
        else if (s->kind == PC_NORMAL_CONTROL)
            st = control(out, code);
        else if (!is_mark(code))
            st = put_code(out, code);
        at += (size_t)n;
    }
    return st;
}

static pc_status lower_ascii(pc_buffer *out, const char *text, size_t size)
{
    pc_status st = pc_buffer_add(out, text, size);
    char *copy = out->data + out->used - size;
    for (size_t i = 0; i < size && !st; i++)
        if (copy[i] >= 'A' && copy[i] <= 'Z') copy[i] = (char)(copy[i] + 32);
    return st;
}

/* ---- pieces of text ---- */

static pc_status strip(const pc_normal_step *s, pc_buffer *out, const char *text, size_t size)
{
    size_t begin = 0, end = size;
    const unsigned char *p = (const unsigned char *)text;
    while (s->left && begin < end) {
        const int n = pc_utf8_step(p + begin, end - begin);
        if (!pc_utf8_is_space(pc_utf8_code(p + begin, n))) break;
        begin += (size_t)n;
    }
    while (s->right && end > begin) {
        size_t at = end - 1;
        while (at > begin && (p[at] & 0xC0) == 0x80) at--;
        if (!pc_utf8_is_space(pc_utf8_code(p + at, (int)(end - at)))) break;
        end = at;
    }
    return pc_buffer_add(out, text + begin, end - begin);
}

/* A few replacements of a small file could make a text of any length: what no tokenizer needs is refused. */
static pc_status check_growth(const pc_buffer *out, size_t size)
{
    if (out->used <= ((size_t)1 << 20) + 64 * size) return PC_OK;
    return pc_fail(PC_ERR_INPUT, "normalising makes more than %zu bytes of a text of %zu",
                   out->used, size);
}

static pc_status replace(const pc_normal_step *s, pc_buffer *out, const char *text, size_t size,
                         size_t whole)
{
    void *room;
    pc_search search;
    bool found;
    size_t done = 0;
    pc_status st = pc_search_room(&room, &s->pattern);
    if (st) return st;
    pc_search_start(&search, &s->pattern, room, text, size);
    while (!(st = pc_search_next(&search, &found)) && found) {
        if ((st = pc_buffer_add(out, text + done, search.begin - done)) ||
            (st = pc_buffer_add(out, s->text, s->size)) || (st = check_growth(out, whole)))
            break;
        done = search.end;
    }
    pc_search_free(room);
    return st ? st : pc_buffer_add(out, text + done, size - done);
}

/* Where the grapheme that begins at `at` ends. */
static size_t grapheme_end(const char *text, size_t size, size_t at)
{
    const unsigned char *s = (const unsigned char *)text;
    int n = pc_utf8_step(s + at, size - at);
    utf8proc_int32_t before = (utf8proc_int32_t)pc_utf8_code(s + at, n), state = 0;
    for (at += (size_t)n; at < size; at += (size_t)n) {
        n = pc_utf8_step(s + at, size - at);
        const utf8proc_int32_t code = (utf8proc_int32_t)pc_utf8_code(s + at, n);
        if (utf8proc_grapheme_break_stateful(before, code, &state)) break;
        before = code;
    }
    return at;
}

/* What stands for a part of a text, or the part itself. */
static pc_status put_mapped(const pc_normal_step *s, pc_buffer *out, const char *text, size_t size,
                            size_t whole)
{
    const char *with;
    if (!pc_charsmap_first(&s->chars, &with, text, size)) return pc_buffer_add(out, text, size);
    pc_status st = pc_buffer_add(out, with, strlen(with));
    return st ? st : check_growth(out, whole);
}

/* A grapheme of less than 6 bytes that begins with an entry is replaced whole; otherwise character by character. */
static pc_status by_table(const pc_normal_step *s, pc_buffer *out, const char *text, size_t size,
                          size_t whole)
{
    pc_status st = PC_OK;
    const char *with;
    for (size_t at = 0; at < size && !st;) {
        const size_t end = grapheme_end(text, size, at);
        if (end - at < 6 && pc_charsmap_first(&s->chars, &with, text + at, end - at)) {
            st = put_mapped(s, out, text + at, end - at, whole);
            at = end;
        }
        while (at < end && !st) {
            const size_t n = (size_t)pc_utf8_step((const unsigned char *)text + at, size - at);
            st = put_mapped(s, out, text + at, n, whole);
            at += n;
        }
    }
    return st;
}

/* `whole`: the size of the text that the first step was given. */
static pc_status run_step(const pc_normal_step *s, pc_buffer *out, const char *text, size_t size,
                          size_t whole)
{
    pc_status st = pc_buffer_add(out, "", 0);
    if (st) return st;
    switch (s->kind) {
    case PC_NORMAL_FORM: return form(s, out, text, size);
    case PC_NORMAL_STRIP: return strip(s, out, text, size);
    case PC_NORMAL_PREPEND:
        if (size) st = pc_buffer_add(out, s->text, s->size);
        return st ? st : pc_buffer_add(out, text, size);
    case PC_NORMAL_REPLACE: return replace(s, out, text, size, whole);
    case PC_NORMAL_CHARS: return by_table(s, out, text, size, whole);
    case PC_NORMAL_LOWER:
        if (pc_utf8_ascii(text, size)) return lower_ascii(out, text, size);
        return by_character(s, out, text, size);
    case PC_NORMAL_ACCENTS:
    case PC_NORMAL_CONTROL:
    case PC_NORMAL_BYTES: return by_character(s, out, text, size);
    }
    return st;
}

pc_status pc_normal_run(const pc_normal *n, const char **out, size_t *out_size, char **owned,
                        const char *text, size_t size)
{
    pc_buffer now = {0};
    *out = text;
    *out_size = size;
    *owned = NULL;
    for (int i = 0; i < n->count; i++) {
        const pc_normal_step *s = &n->step[i];
        if (s->kind == PC_NORMAL_FORM && pc_utf8_ascii(*out, *out_size)) continue;
        pc_buffer next = {0};
        pc_status st = run_step(s, &next, *out, *out_size, size);
        if (!st) st = check_growth(&next, size);
        free(now.data);
        now = next;
        if (st) {
            free(now.data);
            return st;
        }
        *out = now.data;
        *out_size = now.used;
    }
    *owned = now.data;
    return PC_OK;
}

pc_status pc_normal_nfc(const char **out, size_t *out_size, char **owned, const char *text,
                        size_t size)
{
    pc_normal nfc = {.count = 1};
    nfc.step[0] = (pc_normal_step){.kind = PC_NORMAL_FORM, .compose = true};
    return pc_normal_run(&nfc, out, out_size, owned, text, size);
}

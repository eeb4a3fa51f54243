/*
 * pattern.c - PCRE2, compiled to machine code where the platform can.
 */
#include "data/text/pattern.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

const char pc_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                               "\\s+(?!\\S)|\\s+";
const char pc_pattern_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                                "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* ---- from the other engine's notation ---- */

/* As the insides of classes: Unicode's White_Space, what is not, and what a word is made of. */
static const char space_class[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"
                                  "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char other_class[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"
    "d7ff}"
    "\\x{e000}-\\x{10ffff}";
static const char word_class[] = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}"
                                 "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";
static const char digit_class[] = "0-9a-fA-F";

typedef struct translation {
    char *out;
    size_t used;
    const char *from; // the whole pattern, for messages
} translation;

static void append(translation *t, const char *text, size_t size)
{
    memcpy(t->out + t->used, text, size);
    t->used += size;
}

/* One escape, p[0] is the backslash; returns how many bytes of the pattern it took, 0 when refused. */
static size_t escape(translation *t, const char *p, size_t left, bool inside)
{
    const char next = left > 1 ? p[1] : '\0';
    const char *class = NULL;
    bool negated = false;
    switch (next) {
    case '\0': pc_fail(PC_ERR_INPUT, "pattern ends in a lone backslash: %s", t->from); return 0;
    case 's': class = space_class; break;
    case 'S':
        class = inside ? other_class : space_class;
        negated = !inside;
        break;
    case 'w': class = word_class; break;
    case 'W':
        class = word_class;
        negated = true;
        break;
    case 'h': class = digit_class; break; // a hexadecimal digit there, a blank here
    case 'H':
        class = digit_class;
        negated = true;
        break;
    case 'b': class = inside ? "\\x08" : NULL; break;
    default: break;
    }
    if ((negated && inside) || strchr("BbRXKGCk", next) != NULL) {
        if (class == NULL || negated) {
            pc_fail(PC_ERR_INPUT, "pattern uses \\%c%s, which is not supported: %s", next,
                    inside ? " inside a class" : "", t->from);
            return 0;
        }
    }
    if (!class) {
        append(t, p, 2);
        return 2;
    }
    if (!inside) append(t, "[^", negated ? 2 : 1);
    append(t, class, strlen(class));
    if (!inside) append(t, "]", 1);
    return 2;
}

/* The same pattern for PCRE2. Classes within classes and their intersections are refused. */
static pc_status translate(translation *t, const char *pattern, size_t size)
{
    bool inside = false;
    for (size_t i = 0; i < size;) {
        const char *p = pattern + i;
        if (*p == '\\') {
            const size_t n = escape(t, p, size - i, inside);
            if (n == 0) return PC_ERR_INPUT;
            i += n;
            continue;
        }
        if (inside && (*p == '[' || (p[0] == '&' && i + 1 < size && p[1] == '&')))
            return pc_fail(PC_ERR_INPUT, "pattern nests classes, which is not supported: %s",
                           t->from);
        if (!inside && *p == '[') {
            inside = true;
            const size_t n = i + 1 < size && p[1] == '^' ? 2 : 1;
            append(t, p, n);
            i += n;
            if (i < size && pattern[i] == ']') append(t, pattern + i++, 1); // first, it is itself
            continue;
        }
        if (inside && *p == ']') inside = false;
        append(t, p, 1);
        i++;
    }
    return PC_OK;
}

pc_status pc_pattern_open(pc_pattern *p, const char *text, size_t size, bool literal)
{
    *p = (pc_pattern){.text = strndup(text, size), .size = size};
    if (!p->text) return pc_fail(PC_ERR_MEMORY, "a pattern of %zu bytes", size);
    if (literal && size == 0) return pc_fail(PC_ERR_INPUT, "an empty text to search for");
    if (literal) return PC_OK;

    const size_t most = sizeof other_class + 4; // one escape of two bytes becomes this at most
    translation t = {.from = p->text};
    if (size > 1 << 20) return pc_fail(PC_ERR_INPUT, "a pattern of %zu bytes", size);
    t.out = malloc(size / 2 * most + size + most);
    if (!t.out) return pc_fail(PC_ERR_MEMORY, "a pattern of %zu bytes", size);
    pc_status st = translate(&t, text, size);
    int error = 0;
    PCRE2_SIZE at = 0;
    if (!st)
        p->code = pcre2_compile((PCRE2_SPTR)t.out, t.used,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                &error, &at, NULL);
    free(t.out);
    if (st) return st;
    if (!p->code) {
        PCRE2_UCHAR why[256] = "";
        pcre2_get_error_message(error, why, sizeof why);
        return pc_fail(PC_ERR_INPUT, "pattern: %s at offset %zu: %s", (const char *)why, at,
                       p->text);
    }
    p->fast =
        pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0; // without it slower, nothing else
    return PC_OK;
}

void pc_pattern_close(pc_pattern *p)
{
    pcre2_code_free(p->code);
    free(p->text);
    *p = (pc_pattern){0};
}

/* ---- searching ---- */

pc_status pc_search_room(void **match, const pc_pattern *p)
{
    *match = NULL;
    if (!p->code) return PC_OK;
    *match = pcre2_match_data_create(1, NULL);
    return *match ? PC_OK : pc_fail(PC_ERR_MEMORY, "matching data of a pattern");
}

void pc_search_free(void *match)
{
    pcre2_match_data_free(match);
}

void pc_search_start(pc_search *s, const pc_pattern *p, void *match, const char *text, size_t size)
{
    *s = (pc_search){.pattern = p, .match = match, .text = text, .size = size};
}

static pc_status next_code(pc_search *s, bool *found)
{
    const pc_pattern *p = s->pattern;
    int n;
    *found = false;
    for (;;) {
        n = p->fast ? pcre2_jit_match(p->code, (PCRE2_SPTR)s->text, s->size, s->from,
                                      PCRE2_NO_UTF_CHECK, s->match, NULL)
                    : PCRE2_ERROR_JIT_STACKLIMIT;
        if (n == PCRE2_ERROR_JIT_STACKLIMIT)
            n = pcre2_match(p->code, (PCRE2_SPTR)s->text, s->size, s->from,
                            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match, NULL);
        if (n < 0) break;
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(s->match);
        s->begin = v[0];
        s->end = v[1];
        if (s->end < s->begin || s->begin < s->from) // \K and the like: taken as empty
            s->begin = s->end = s->from;
        if (s->end > s->begin || !s->matched || s->last != s->end) {
            s->matched = *found = true;
            s->from = s->last = s->end;
            return PC_OK;
        }
        if (s->from >= s->size) return PC_OK; // an empty match right behind another
        s->from +=
            (size_t)pc_utf8_step((const unsigned char *)s->text + s->from, s->size - s->from);
    }
    if (n == PCRE2_ERROR_NOMATCH) return PC_OK;
    PCRE2_UCHAR why[256] = "";
    pcre2_get_error_message(n, why, sizeof why);
    return pc_fail(PC_ERR_INPUT, "splitting a text of %zu bytes: %s", s->size, (const char *)why);
}

pc_status pc_search_next(pc_search *s, bool *found)
{
    *found = false;
    if (s->from > s->size) return PC_OK;
    if (s->pattern->code) return next_code(s, found);
    const char *at =
        memmem(s->text + s->from, s->size - s->from, s->pattern->text, s->pattern->size);
    if (!at) return PC_OK;
    *found = true;
    s->begin = (size_t)(at - s->text);
    s->from = s->end = s->begin + s->pattern->size;
    return PC_OK;
}

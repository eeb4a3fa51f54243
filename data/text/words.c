/*
 * words.c - PCRE2 for the splits, utf8proc for NFC.
 */
#include "data/text/words.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

const char pc_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                               "\\s+(?!\\S)|\\s+";
const char pc_pattern_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                                "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* Unicode's White_Space, as the inside of a class. */
static const char space_class[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"
                                  "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

static pc_status append(char *out, size_t *used, size_t room, const char *text, size_t size)
{
    if (room - *used <= size)
        return pc_fail(PC_ERR_INPUT, "pattern is longer than the %zu bytes that are taken", room);
    memcpy(out + *used, text, size);
    *used += size;
    out[*used] = '\0';
    return PC_OK;
}

/*
 * The same pattern for PCRE2: \s and \S spelled out. What the two engines read differently is refused:
 * \h (a hexadecimal digit there, a blank here), \w and \b (other letters), classes within classes.
 */
static pc_status translate(char *out, size_t room, const char *pattern)
{
    size_t used = 0;
    bool inside = false;
    pc_status st = PC_OK;
    out[0] = '\0';
    for (const char *p = pattern; *p && !st;) {
        if (*p == '\\') {
            const char next = p[1];
            if (next == '\0')
                return pc_fail(PC_ERR_INPUT, "pattern ends in a lone backslash: %s", pattern);
            if (strchr("hHwWbB", next) || (next == 'S' && inside))
                return pc_fail(PC_ERR_INPUT, "pattern uses \\%c%s, which is not supported: %s",
                               next, inside ? " inside a class" : "", pattern);
            if (next != 's' && next != 'S') {
                st = append(out, &used, room, p, 2);
            } else {
                if (!inside) st = append(out, &used, room, "[^", next == 'S' ? 2 : 1);
                if (!st) st = append(out, &used, room, space_class, sizeof space_class - 1);
                if (!inside && !st) st = append(out, &used, room, "]", 1);
            }
            p += 2;
            continue;
        }
        if (inside && (*p == '[' || (p[0] == '&' && p[1] == '&')))
            return pc_fail(PC_ERR_INPUT, "pattern nests classes, which is not supported: %s",
                           pattern);
        if (!inside && *p == '[') {
            inside = true;
            st = append(out, &used, room, p, p[1] == '^' ? 2 : 1);
            p += p[1] == '^' ? 2 : 1;
            if (*p == ']' && !st) st = append(out, &used, room, p++, 1); // first, it is itself
            continue;
        }
        if (inside && *p == ']') inside = false;
        st = append(out, &used, room, p, 1);
        p++;
    }
    return st;
}

static pc_word_step *new_step(pc_word_rules *r)
{
    if (r->count == PC_WORD_STEPS) {
        pc_fail(PC_ERR_INPUT, "more than %d splitting steps", PC_WORD_STEPS);
        return NULL;
    }
    pc_word_step *s = &r->step[r->count++];
    *s = (pc_word_step){0};
    return s;
}

pc_status pc_word_rules_split(pc_word_rules *r, const char *pattern, bool literal)
{
    char text[8192];
    pc_status st = PC_OK;
    if (literal && strlen(pattern) >= sizeof text)
        return pc_fail(PC_ERR_INPUT, "a split text of %zu bytes", strlen(pattern));
    if (literal)
        strcpy(text, pattern);
    else if ((st = translate(text, sizeof text, pattern)))
        return st;

    int error = 0;
    PCRE2_SIZE at = 0;
    const uint32_t options =
        literal ? PCRE2_LITERAL | PCRE2_UTF
                : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)text, strlen(text), options, &error, &at, NULL);
    if (!code) {
        PCRE2_UCHAR why[256] = "";
        pcre2_get_error_message(error, why, sizeof why);
        return pc_fail(PC_ERR_INPUT, "pattern: %s at offset %zu: %s", (const char *)why, at,
                       pattern);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); // without it matching is slower, nothing else
    pc_word_step *s = new_step(r);
    if (!s) {
        pcre2_code_free(code);
        return PC_ERR_INPUT;
    }
    s->code = code;
    return PC_OK;
}

pc_status pc_word_rules_prefix_space(pc_word_rules *r)
{
    pc_word_step *s = new_step(r);
    if (!s) return PC_ERR_INPUT;
    s->prefix_space = true;
    return PC_OK;
}

void pc_word_rules_close(pc_word_rules *r)
{
    for (int i = 0; i < r->count; i++) pcre2_code_free(r->step[i].code);
    *r = (pc_word_rules){0};
}

pc_status pc_words_normalise(const pc_word_rules *r, const char **out, size_t *out_size,
                             char **owned, const char *text, size_t size)
{
    *out = text;
    *out_size = size;
    *owned = NULL;
    if (!r->nfc || pc_utf8_ascii(text, size)) return PC_OK;
    utf8proc_uint8_t *composed = NULL;
    const utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &composed,
                     (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n < 0)
        return pc_fail(n == UTF8PROC_ERROR_NOMEM ? PC_ERR_MEMORY : PC_ERR_INPUT,
                       "text cannot be normalised: %s", utf8proc_errmsg(n));
    *owned = (char *)composed;
    *out = *owned;
    *out_size = (size_t)n;
    return PC_OK;
}

/* ---- the walk: one level of recursion for every step ---- */

typedef struct walk {
    const pc_word_rules *rules;
    pcre2_match_data *match[PC_WORD_STEPS];
    pc_word_fn *word;
    void *arg;
} walk;

static pc_status walk_piece(walk *w, int step, const char *text, size_t size);

static pc_status walk_split(walk *w, int step, const char *text, size_t size)
{
    const pcre2_code *code = w->rules->step[step].code;
    pcre2_match_data *match = w->match[step];
    pc_status st = PC_OK;
    size_t done = 0, from = 0; // behind the last piece; where the next search begins
    while (from < size && !st) {
        int n = pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, match, NULL);
        if (n == PCRE2_ERROR_JIT_STACKLIMIT)
            n = pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            match, NULL);
        if (n == PCRE2_ERROR_NOMATCH) break;
        if (n < 0) {
            PCRE2_UCHAR why[256] = "";
            pcre2_get_error_message(n, why, sizeof why);
            return pc_fail(PC_ERR_INPUT, "splitting a text of %zu bytes: %s", size,
                           (const char *)why);
        }
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(match);
        const size_t begin = v[0], end = v[1];
        if (end <= begin || begin < from) { // an empty match cuts nothing
            from += (size_t)pc_utf8_step((const unsigned char *)text + from, size - from);
            continue;
        }
        if (begin > done) st = walk_piece(w, step + 1, text + done, begin - done);
        if (!st) st = walk_piece(w, step + 1, text + begin, end - begin);
        done = from = end;
    }
    return st || done == size ? st : walk_piece(w, step + 1, text + done, size - done);
}

static pc_status walk_piece(walk *w, int step, const char *text, size_t size)
{
    if (step == w->rules->count) return w->word(w->arg, text, size);
    const pc_word_step *s = &w->rules->step[step];
    if (s->code) return walk_split(w, step, text, size);
    if (!s->prefix_space || text[0] == ' ') return walk_piece(w, step + 1, text, size);
    char *longer = malloc(size + 1);
    if (!longer) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", size);
    longer[0] = ' ';
    memcpy(longer + 1, text, size);
    pc_status st = walk_piece(w, step + 1, longer, size + 1);
    free(longer);
    return st;
}

pc_status pc_words_each(const pc_word_rules *r, const char *text, size_t size, pc_word_fn *word,
                        void *arg)
{
    if (size == 0) return PC_OK;
    walk w = {.rules = r, .word = word, .arg = arg};
    pc_status st = PC_OK;
    for (int i = 0; i < r->count && !st; i++) {
        if (!r->step[i].code) continue;
        w.match[i] = pcre2_match_data_create(1, NULL);
        if (!w.match[i]) st = pc_fail(PC_ERR_MEMORY, "matching data of a split");
    }
    if (!st) st = walk_piece(&w, 0, text, size);
    for (int i = 0; i < r->count; i++) pcre2_match_data_free(w.match[i]);
    return st;
}

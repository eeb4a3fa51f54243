/*
 * jinja_lex.c - a template's source into tokens, with Jinja's rules for white space around tags:
 *
 *   {%-  -%}     all white space on that side goes
 *   {%           after nothing but white space on its line: that white space goes (lstrip_blocks), unless {%+
 *   %}\n         the newline goes (trim_blocks), unless +%}; so it does behind #}, not behind }}
 *
 * and one newline at the end of the source.
 */
#include "data/text/jinja_parts.h"
#include "data/text/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct lexer {
    jparser *p;
    const char *s;
    size_t n, at;
    int line;
    bool line_starting; // what was read last ended in a newline
} lexer;

static size_t space_at(const char *s, size_t n)
{
    if (n == 0) return 0;
    const int step = pc_utf8_step((const unsigned char *)s, n);
    return step > 0 && pc_utf8_is_space(pc_utf8_code((const unsigned char *)s, step)) ? (size_t)step
                                                                                      : 0;
}

static void count_lines(lexer *l, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) l->line += l->s[i] == '\n';
}

static void move_to(lexer *l, size_t to)
{
    count_lines(l, l->at, to);
    if (to > l->at) l->line_starting = l->s[to - 1] == '\n';
    l->at = to;
}

static jtoken *add(lexer *l, jtoken_kind kind)
{
    jparser *p = l->p;
    if (p->count == p->room) {
        const int64_t room = p->room ? 2 * p->room : 256;
        jtoken *more = realloc(p->tokens, (size_t)room * sizeof *more);
        if (!more) {
            p->st = pc_fail(PC_ERR_MEMORY, "%lld tokens of a template", (long long)room);
            return NULL;
        }
        p->tokens = more;
        p->room = room;
    }
    jtoken *t = &p->tokens[p->count++];
    *t = (jtoken){.kind = kind, .line = l->line};
    return t;
}

static void add_text(lexer *l, size_t from, size_t to)
{
    if (to <= from) return;
    jtoken *t = add(l, JT_TEXT);
    if (t) t->text = (jstr){.s = l->s + from, .n = to - from};
}

/* ---- text between tags ---- */

// Where a text that ends before a tag really ends. `sign` behind the tag's brace; `block`: not {{.
static size_t text_end(const lexer *l, size_t from, size_t to, char sign, bool block)
{
    if (sign == '-') {
        while (to > from) {
            size_t k = to - 1;
            while (k > from && ((unsigned char)l->s[k] & 0xC0) == 0x80) k--;
            if (space_at(l->s + k, to - k) != to - k) break;
            to = k;
        }
        return to;
    }
    if (sign == '+' || !block) return to;
    size_t line = to;
    while (line > from && l->s[line - 1] != '\n') line--;
    if (line == from && !l->line_starting) return to;
    size_t k = line;
    while (k < to) {
        const size_t step = space_at(l->s + k, to - k);
        if (!step) return to;
        k += step;
    }
    return line;
}

// Behind a tag's end: "-" takes all white space, otherwise one newline goes unless "+" or an output.
static size_t behind_tag(const lexer *l, size_t at, char sign, bool trims)
{
    if (sign == '-') {
        size_t step;
        while ((step = space_at(l->s + at, l->n - at)) > 0) at += step;
    } else if (trims && sign != '+' && at < l->n && l->s[at] == '\n') {
        at++;
    }
    return at;
}

static char sign_at(const lexer *l, size_t at)
{
    return at < l->n && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at] : '\0';
}

static bool starts(const lexer *l, size_t at, const char *word)
{
    const size_t n = strlen(word);
    return l->n - at >= n && !memcmp(l->s + at, word, n);
}

static void lex_comment(lexer *l)
{
    const size_t body = l->at + 2 + (sign_at(l, l->at + 2) != '\0');
    const char *end = memmem(l->s + body, l->n - body, "#}", 2);
    if (!end) {
        jparse_fail(l->p, l->line, "a comment {# is never closed");
        return;
    }
    const size_t close = (size_t)(end - l->s);
    const char sign = close > body ? sign_at(l, close - 1) : '\0';
    move_to(l, behind_tag(l, close + 2, sign, true));
}

// "{% raw %}" at `at`: where its text begins, 0 when it is something else.
static size_t word_tag(const lexer *l, size_t at, const char *word, char *begin_sign,
                       char *end_sign)
{
    size_t k = at + 2, step;
    *begin_sign = sign_at(l, k);
    if (*begin_sign) k++;
    while ((step = space_at(l->s + k, l->n - k)) > 0) k += step;
    if (!starts(l, k, word)) return 0;
    k += strlen(word);
    while ((step = space_at(l->s + k, l->n - k)) > 0) k += step;
    *end_sign = sign_at(l, k);
    if (*end_sign) k++;
    return starts(l, k, "%}") ? k + 2 : 0;
}

static void lex_raw(lexer *l, size_t text, char sign)
{
    char begin, end;
    const int line = l->line;
    move_to(l, behind_tag(l, text, sign, false));
    for (size_t k = l->at; k + 1 < l->n; k++) {
        if (l->s[k] != '{' || l->s[k + 1] != '%') continue;
        const size_t behind = word_tag(l, k, "endraw", &begin, &end);
        if (!behind) continue;
        add_text(l, l->at, text_end(l, l->at, k, begin, true));
        move_to(l, behind_tag(l, behind, end, true));
        return;
    }
    jparse_fail(l->p, line, "{%% raw %%} is never closed");
}

/* ---- inside tags ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

// \xHH, \uHHHH, \UHHHHHHHH: bytes used, 0 when they are not digits.
static size_t hex_escape(uint32_t *code, const char *s, size_t n)
{
    const size_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
    *code = 0;
    if (n < digits + 1) return 0;
    for (size_t i = 1; i <= digits; i++) {
        const int d = hex_digit(s[i]);
        if (d < 0) return 0;
        *code = *code * 16 + (uint32_t)d;
    }
    return *code <= 0x10FFFF && (*code < 0xD800 || *code > 0xDFFF) ? digits + 1 : 0;
}

static jstr unescape(lexer *l, const char *s, size_t n)
{
    static const char names[] = "n\nt\tr\r\\\\'\'\"\"a\ab\bf\fv\v";
    char *out = jpool_get(l->p->pool, n + 1);
    size_t k = 0;
    if (!out) {
        l->p->st = pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", n);
        return (jstr){0};
    }
    for (size_t i = 0; i < n; i++) {
        if (s[i] != '\\' || i + 1 == n) {
            out[k++] = s[i];
            continue;
        }
        const char c = s[++i];
        const char *known = NULL;
        for (size_t j = 0; j + 1 < sizeof names; j += 2)
            if (names[j] == c) known = &names[j + 1];
        uint32_t code = 0;
        size_t used;
        if (known) {
            out[k++] = *known;
        } else if (c == '\n') { // a line goes on
        } else if (c >= '0' && c <= '7') {
            size_t digits = 0;
            for (; digits < 3 && i + digits < n && s[i + digits] >= '0' && s[i + digits] <= '7';
                 digits++)
                code = code * 8 + (uint32_t)(s[i + digits] - '0');
            i += digits - 1;
            k += (size_t)pc_utf8_put((unsigned char *)out + k, code);
        } else if ((c == 'x' || c == 'u' || c == 'U') &&
                   (used = hex_escape(&code, s + i, n - i)) > 0) {
            i += used - 1;
            k += (size_t)pc_utf8_put((unsigned char *)out + k, code);
        } else {
            out[k++] = '\\';
            out[k++] = c;
        }
    }
    return (jstr){.s = out, .n = k};
}

static void lex_string(lexer *l)
{
    const char quote = l->s[l->at];
    size_t k = l->at + 1;
    while (k < l->n && l->s[k] != quote) k += l->s[k] == '\\' ? 2 : 1;
    if (k >= l->n) {
        jparse_fail(l->p, l->line, "a text in %c is never closed", quote);
        return;
    }
    const jstr text = unescape(l, l->s + l->at + 1, k - l->at - 1);
    jtoken *t = add(l, JT_STRING);
    if (t) t->text = text;
    move_to(l, k + 1);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

static void lex_number(lexer *l)
{
    char digits[64];
    size_t k = l->at, n = 0;
    bool real = false;
    const bool hex = starts(l, k, "0x") || starts(l, k, "0X");
    for (; k < l->n && n + 1 < sizeof digits; k++) {
        const char c = l->s[k];
        const bool more = k + 1 < l->n && is_digit(l->s[k + 1]);
        if (c == '_' && more) continue;
        if (hex ? !(hex_digit(c) >= 0 || (k == l->at + 1)) : !is_digit(c)) {
            const bool sign = (c == '+' || c == '-') && n && (digits[n - 1] | 32) == 'e' && more;
            const bool exponent =
                (c | 32) == 'e' &&
                (more || (k + 2 < l->n && (l->s[k + 1] == '-' || l->s[k + 1] == '+') &&
                          is_digit(l->s[k + 2])));
            if (hex || !(sign || exponent || (c == '.' && more && !real))) break;
            real = true;
        }
        digits[n++] = c;
    }
    digits[n] = '\0';
    jtoken *t = add(l, real ? JT_FLOAT : JT_INT);
    if (!t) return;
    errno = 0;
    t->value = real ? jv_float(strtod(digits, NULL))
                    : jv_int((int64_t)strtoll(digits, NULL, hex ? 16 : 10));
    if (!real && errno == ERANGE) jparse_fail(l->p, l->line, "the number %s is too large", digits);
    move_to(l, k);
}

static void lex_operator(lexer *l, int *open)
{
    static const struct {
        char text[3];
        int op;
    } twos[] = {{"==", JOP_EQ}, {"!=", JOP_NE}, {"<=", JOP_LE},
                {">=", JOP_GE}, {"**", 'P'},    {"//", 'D'}};
    const char c = l->s[l->at];
    for (size_t i = 0; i < sizeof twos / sizeof *twos; i++)
        if (starts(l, l->at, twos[i].text)) {
            jtoken *t = add(l, JT_OP);
            if (t) t->op = twos[i].op;
            move_to(l, l->at + 2);
            return;
        }
    if (!c || !strchr("+-*/%~[](){}<>=.:|,;", c)) {
        jparse_fail(l->p, l->line, "a character '%c' that is no part of an expression", c);
        return;
    }
    *open += strchr("([{", c) ? 1 : strchr(")]}", c) ? -1 : 0;
    jtoken *t = add(l, JT_OP);
    if (t) t->op = (unsigned char)c;
    move_to(l, l->at + 1);
}

// From behind {{ or {% to behind its end.
static void lex_tag(lexer *l, bool block)
{
    const char *close = block ? "%}" : "}}";
    const int line = l->line;
    int open = 0;
    while (!l->p->st) {
        size_t step;
        while ((step = space_at(l->s + l->at, l->n - l->at)) > 0) move_to(l, l->at + step);
        if (l->at >= l->n) {
            jparse_fail(l->p, line, "%s is never closed", block ? "{%" : "{{");
            return;
        }
        const char c = l->s[l->at];
        const char sign = sign_at(l, l->at);
        const size_t end = l->at + (sign == '-' || (sign && block) ? 1 : 0);
        if (open <= 0 && starts(l, end, close)) {
            add(l, block ? JT_BLOCK_END : JT_OUTPUT_END);
            move_to(l, behind_tag(l, end + 2, end > l->at ? sign : '\0', block));
            return;
        }
        if (c == '\'' || c == '"') {
            lex_string(l);
        } else if (is_digit(c)) {
            lex_number(l);
        } else if (is_name(c)) {
            size_t k = l->at;
            while (k < l->n && is_name(l->s[k])) k++;
            jtoken *t = add(l, JT_NAME);
            if (t) t->text = (jstr){.s = l->s + l->at, .n = k - l->at};
            move_to(l, k);
        } else {
            lex_operator(l, &open);
        }
    }
}

void jinja_lex(jparser *p, const char *source, size_t size)
{
    lexer l = {.p = p, .s = source, .n = size, .line = 1, .line_starting = true};
    if (l.n && l.s[l.n - 1] == '\n') l.n--;
    size_t from = 0;
    for (size_t k = 0; !p->st && k <= l.n;) {
        const bool tag = k + 1 < l.n && l.s[k] == '{' &&
                         (l.s[k + 1] == '{' || l.s[k + 1] == '%' || l.s[k + 1] == '#');
        if (k < l.n && !tag) {
            k++;
            continue;
        }
        if (k == l.n) {
            add_text(&l, from, k);
            break;
        }
        const char kind = l.s[k + 1];
        const char sign = sign_at(&l, k + 2);
        char begin, end;
        const size_t text = kind == '%' ? word_tag(&l, k, "raw", &begin, &end) : 0;
        add_text(&l, from, text_end(&l, from, k, sign, kind != '{'));
        move_to(&l, k);
        if (kind == '#') {
            lex_comment(&l);
        } else if (text) {
            lex_raw(&l, text, end);
        } else {
            add(&l, kind == '%' ? JT_BLOCK : JT_OUTPUT);
            move_to(&l, k + 2 + (sign != '\0'));
            lex_tag(&l, kind == '%');
        }
        from = k = l.at;
    }
    if (!p->st) add(&l, JT_END);
}

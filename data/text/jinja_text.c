/*
 * jinja_text.c - see jinja_text.h. Upper and lower case are the simple mappings of Unicode, one character to one;
 * of those where one becomes several only the sharp s is known.
 */
#include "data/text/jinja_text.h"
#include "data/text/utf8.h"

#include <string.h>
#include <utf8proc.h>

// The character at byte `at`: its code, and its bytes in *n.
static uint32_t char_at(jstr s, size_t at, size_t *n)
{
    const int step = pc_utf8_step((const unsigned char *)s.s + at, s.n - at);
    *n = step > 0 ? (size_t)step : 1;
    return step > 0 ? pc_utf8_code((const unsigned char *)s.s + at, step) : (unsigned char)s.s[at];
}

static bool is_letter(uint32_t c)
{
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

static void add_char(jrun *r, jout *o, jstr from, size_t at, size_t n, uint32_t code)
{
    unsigned char *out = jget(r, 4);
    uint8_t *mark = from.mark ? jget(r, 4) : NULL;
    if (!out || (from.mark && !mark)) return;
    const size_t used = (size_t)pc_utf8_put(out, code);
    if (mark) memset(mark, from.mark[at], used);
    (void)n;
    jout_add(r, o, (jstr){(const char *)out, used, mark});
}

// first: what becomes of a character that begins a run (title) or the text; rest: of the others.
typedef enum change { UPPER, LOWER } change;

static jstr changed(jrun *r, jstr s, change first, change rest, bool every_run)
{
    jout o = {0};
    bool inside = false;
    for (size_t i = 0, n; i < s.n && !r->st; i += n) {
        const uint32_t c = char_at(s, i, &n);
        const change how = inside ? rest : first;
        const uint32_t to = how == UPPER ? (uint32_t)utf8proc_toupper((utf8proc_int32_t)c)
                                         : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
        const bool sharp = c == 0xDF && how == UPPER; // one that becomes two
        if (sharp) jout_text(r, &o, inside || first == rest ? "SS" : "Ss");
        inside = every_run ? is_letter(c) : true;
        if (sharp) continue;
        if (to == c)
            jout_add(r, &o, jstr_part(s, i, i + n));
        else
            add_char(r, &o, s, i, n, to);
    }
    return jout_str(&o);
}

jstr jtext_upper(jrun *r, jstr s)
{
    return changed(r, s, UPPER, UPPER, false);
}
jstr jtext_lower(jrun *r, jstr s)
{
    return changed(r, s, LOWER, LOWER, false);
}
jstr jtext_capitalize(jrun *r, jstr s)
{
    return changed(r, s, UPPER, LOWER, false);
}
jstr jtext_title(jrun *r, jstr s)
{
    return changed(r, s, UPPER, LOWER, true);
}

int64_t jtext_find(jstr s, jstr what, bool last)
{
    if (what.n > s.n) return -1;
    if (what.n == 0) return last ? (int64_t)s.n : 0;
    if (!last) {
        const char *at = memmem(s.s, s.n, what.s, what.n);
        return at ? at - s.s : -1;
    }
    for (size_t i = s.n - what.n + 1; i-- > 0;)
        if (memcmp(s.s + i, what.s, what.n) == 0) return (int64_t)i;
    return -1;
}

jstr jtext_replace(jrun *r, jstr s, jstr from, jstr to, int64_t most)
{
    jout o = {0};
    int64_t done = 0;
    if (from.n == 0) { // between all characters
        for (size_t i = 0, n; i < s.n && !r->st; i += n) {
            char_at(s, i, &n);
            if (most < 0 || done++ < most) jout_add(r, &o, to);
            jout_add(r, &o, jstr_part(s, i, i + n));
        }
        if (most < 0 || done < most) jout_add(r, &o, to);
        return jout_str(&o);
    }
    for (int64_t at;
         (most < 0 || done < most) && jstep(r) && (at = jtext_find(s, from, false)) >= 0; done++) {
        jout_add(r, &o, jstr_part(s, 0, (size_t)at));
        jout_add(r, &o, to);
        s = jstr_part(s, (size_t)at + from.n, s.n);
    }
    jout_add(r, &o, s);
    return jout_str(&o);
}

jvalue jtext_split(jrun *r, jstr s, jstr by, int64_t most, bool from_right)
{
    const jvalue l = jv_list(r, JV_LIST);
    int64_t at;
    for (int64_t done = 0; (most < 0 || done < most) && jstep(r); done++) {
        if ((at = jtext_find(s, by, from_right)) < 0) break;
        const jstr before = jstr_part(s, 0, (size_t)at),
                   behind = jstr_part(s, (size_t)at + by.n, s.n);
        jlist_add(r, l, jv_str(from_right ? behind : before));
        s = from_right ? before : behind;
    }
    jlist_add(r, l, jv_str(s));
    for (int64_t i = 0, k = r->st ? 0 : l.u.list->n - 1; from_right && i < k; i++, k--) {
        const jvalue v = l.u.list->v[i];
        l.u.list->v[i] = l.u.list->v[k];
        l.u.list->v[k] = v;
    }
    return l;
}

jvalue jtext_words(jrun *r, jstr s, int64_t most)
{
    const jvalue l = jv_list(r, JV_LIST);
    s = jstr_trim(s, NULL, 0, true, false);
    for (int64_t done = 0; s.n && (most < 0 || done < most) && jstep(r); done++) {
        size_t end = 0, n;
        for (; end < s.n; end += n)
            if (pc_utf8_is_space(char_at(s, end, &n))) break;
        jlist_add(r, l, jv_str(jstr_part(s, 0, end)));
        s = jstr_trim(jstr_part(s, end, s.n), NULL, 0, true, false);
    }
    s = jstr_trim(s, NULL, 0, false, true);
    if (s.n) jlist_add(r, l, jv_str(s));
    return l;
}

// A line's end at byte i: its bytes, 0 when there is none.
static size_t line_end(jstr s, size_t i)
{
    size_t n;
    const uint32_t c = char_at(s, i, &n);
    if (c == '\r') return i + 1 < s.n && s.s[i + 1] == '\n' ? 2 : 1;
    const bool is = (c >= '\n' && c <= '\f') || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                    c == 0x2028 || c == 0x2029;
    return is ? n : 0;
}

jvalue jtext_lines(jrun *r, jstr s, bool keep_ends)
{
    const jvalue l = jv_list(r, JV_LIST);
    size_t from = 0;
    for (size_t i = 0; i < s.n && !r->st;) {
        const size_t end = line_end(s, i);
        if (!end) {
            i++;
            continue;
        }
        jlist_add(r, l, jv_str(jstr_part(s, from, keep_ends ? i + end : i)));
        from = i += end;
    }
    if (from < s.n) jlist_add(r, l, jv_str(jstr_part(s, from, s.n)));
    return l;
}

bool jtext_is(jstr s, jtext_kind kind)
{
    bool cased = false;
    for (size_t i = 0, n; i < s.n; i += n) {
        const uint32_t c = char_at(s, i, &n);
        const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
        const bool digit = k == UTF8PROC_CATEGORY_ND, upper = k == UTF8PROC_CATEGORY_LU,
                   lower = k == UTF8PROC_CATEGORY_LL;
        if (kind == JTEXT_DIGIT && !digit) return false;
        if (kind == JTEXT_ALPHA && !is_letter(c)) return false;
        if (kind == JTEXT_ALNUM && !digit && !is_letter(c)) return false;
        if (kind == JTEXT_SPACE && !pc_utf8_is_space(c)) return false;
        if ((kind == JTEXT_UPPER && lower) || (kind == JTEXT_LOWER && upper)) return false;
        cased |= upper || lower;
    }
    return kind == JTEXT_UPPER || kind == JTEXT_LOWER ? cased : s.n > 0;
}

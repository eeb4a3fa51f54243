/*
 * jinja_call.c - what can be called: methods of texts, lists, objects and loops as Python has them, and the
 * functions range, namespace, dict, raise_exception, strftime_now.
 */
#include "data/text/jinja_parts.h"
#include "data/text/jinja_text.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

typedef jvalue method(jrun *r, jvalue self, jargs a);

bool jarg_has(jargs a, int64_t i, const char *name)
{
    return i < a.list->n || (name && jdict_text(a.keys, name));
}

jvalue jarg(jargs a, int64_t i, const char *name, jvalue or_else)
{
    if (i < a.list->n) return a.list->v[i];
    const jvalue *v = name ? jdict_text(a.keys, name) : NULL;
    return v ? *v : or_else;
}

// Argument i as a text; fails when it is none.
static jstr text_arg(jrun *r, jargs a, int64_t i, const char *name)
{
    const jvalue v = jarg(a, i, name, jv_undefined((jstr){0}));
    if (v.kind == JV_STR) return v.u.str;
    jfail(r, "a method expects a text as its argument, not '%s'", jkind_name(v));
    return (jstr){.s = "", .n = 0};
}

static int64_t whole_arg(jrun *r, jargs a, int64_t i, const char *name, int64_t or_else)
{
    const jvalue v = jarg(a, i, name, jv_int(or_else));
    if (v.kind == JV_INT) return v.u.i;
    if (v.kind != JV_BOOL) jfail(r, "expected a whole number, not '%s'", jkind_name(v));
    return v.kind == JV_BOOL && v.u.b;
}

/* ---- texts ---- */

static jvalue strip_sides(jrun *r, jvalue self, jargs a, bool left, bool right)
{
    const jvalue chars = jarg(a, 0, NULL, jv_none());
    if (chars.kind == JV_NONE) return jv_str(jstr_trim(self.u.str, NULL, 0, left, right));
    const jstr set = text_arg(r, a, 0, NULL);
    return jv_str(jstr_trim(self.u.str, set.s ? set.s : "", set.n, left, right));
}
static jvalue m_strip(jrun *r, jvalue self, jargs a)
{
    return strip_sides(r, self, a, true, true);
}
static jvalue m_lstrip(jrun *r, jvalue self, jargs a)
{
    return strip_sides(r, self, a, true, false);
}
static jvalue m_rstrip(jrun *r, jvalue self, jargs a)
{
    return strip_sides(r, self, a, false, true);
}

static jvalue m_upper(jrun *r, jvalue self, jargs a)
{
    (void)a;
    return jv_str(jtext_upper(r, self.u.str));
}
static jvalue m_lower(jrun *r, jvalue self, jargs a)
{
    (void)a;
    return jv_str(jtext_lower(r, self.u.str));
}
static jvalue m_capitalize(jrun *r, jvalue self, jargs a)
{
    (void)a;
    return jv_str(jtext_capitalize(r, self.u.str));
}
static jvalue m_title(jrun *r, jvalue self, jargs a)
{
    (void)a;
    return jv_str(jtext_title(r, self.u.str));
}

static bool ends_match(jstr s, jstr part, bool start)
{
    return part.n <= s.n &&
           (part.n == 0 || memcmp(s.s + (start ? 0 : s.n - part.n), part.s, part.n) == 0);
}

// The argument may be a tuple of texts.
static jvalue match_ends(jrun *r, jvalue self, jargs a, bool start)
{
    const jvalue v = jarg(a, 0, NULL, jv_none());
    if (v.kind != JV_TUPLE) return jv_bool(ends_match(self.u.str, text_arg(r, a, 0, NULL), start));
    for (int64_t i = 0; i < v.u.list->n; i++)
        if (v.u.list->v[i].kind == JV_STR && ends_match(self.u.str, v.u.list->v[i].u.str, start))
            return jv_bool(true);
    return jv_bool(false);
}
static jvalue m_startswith(jrun *r, jvalue self, jargs a)
{
    return match_ends(r, self, a, true);
}
static jvalue m_endswith(jrun *r, jvalue self, jargs a)
{
    return match_ends(r, self, a, false);
}

static jvalue without(jrun *r, jvalue self, jargs a, bool start)
{
    const jstr s = self.u.str, part = text_arg(r, a, 0, NULL);
    if (!ends_match(s, part, start)) return self;
    return jv_str(start ? jstr_part(s, part.n, s.n) : jstr_part(s, 0, s.n - part.n));
}
static jvalue m_removeprefix(jrun *r, jvalue self, jargs a)
{
    return without(r, self, a, true);
}
static jvalue m_removesuffix(jrun *r, jvalue self, jargs a)
{
    return without(r, self, a, false);
}

static jvalue m_replace(jrun *r, jvalue self, jargs a)
{
    const jstr from = text_arg(r, a, 0, NULL), to = text_arg(r, a, 1, NULL);
    return r->st ? self
                 : jv_str(jtext_replace(r, self.u.str, from, to, whole_arg(r, a, 2, "count", -1)));
}

static jvalue m_split(jrun *r, jvalue self, jargs a)
{
    const jvalue sep = jarg(a, 0, "sep", jv_none());
    const int64_t most = whole_arg(r, a, 1, "maxsplit", -1);
    if (sep.kind == JV_NONE) return jtext_words(r, self.u.str, most);
    const jstr by = text_arg(r, a, 0, "sep");
    if (!r->st && by.n == 0) return jfail(r, "empty separator");
    return r->st ? self : jtext_split(r, self.u.str, by, most, false);
}

static jvalue m_rsplit(jrun *r, jvalue self, jargs a)
{
    const int64_t most = whole_arg(r, a, 1, "maxsplit", -1);
    const jvalue sep = jarg(a, 0, "sep", jv_none());
    if (sep.kind == JV_NONE && most < 0) return jtext_words(r, self.u.str, most);
    const jstr by = text_arg(r, a, 0, "sep");
    if (!r->st && by.n == 0) return jfail(r, "empty separator");
    return r->st ? self : jtext_split(r, self.u.str, by, most, true);
}

static jvalue m_splitlines(jrun *r, jvalue self, jargs a)
{
    return jtext_lines(r, self.u.str, jtruth(jarg(a, 0, "keepends", jv_bool(false))));
}

static jvalue three(jrun *r, jstr a, jstr b, jstr c)
{
    const jvalue t = jv_list(r, JV_TUPLE);
    jlist_add(r, t, jv_str(a));
    jlist_add(r, t, jv_str(b));
    jlist_add(r, t, jv_str(c));
    return t;
}

static jvalue partition(jrun *r, jvalue self, jargs a, bool last)
{
    const jstr s = self.u.str, by = text_arg(r, a, 0, NULL), none = {.s = "", .n = 0};
    if (r->st) return self;
    if (by.n == 0) return jfail(r, "empty separator");
    const int64_t at = jtext_find(s, by, last);
    if (at < 0) return last ? three(r, none, none, s) : three(r, s, none, none);
    return three(r, jstr_part(s, 0, (size_t)at), by, jstr_part(s, (size_t)at + by.n, s.n));
}
static jvalue m_partition(jrun *r, jvalue self, jargs a)
{
    return partition(r, self, a, false);
}
static jvalue m_rpartition(jrun *r, jvalue self, jargs a)
{
    return partition(r, self, a, true);
}

static jvalue find_in(jrun *r, jvalue self, jargs a, bool last, bool must)
{
    const jstr s = self.u.str, what = text_arg(r, a, 0, NULL);
    if (a.list->n > 1) return jfail(r, "find with a start or an end is not supported");
    const int64_t at = r->st ? -1 : jtext_find(s, what, last);
    if (at < 0 && must) return jfail(r, "substring not found");
    return jv_int(at < 0 ? -1 : jstr_chars(jstr_part(s, 0, (size_t)at)));
}
static jvalue m_find(jrun *r, jvalue self, jargs a)
{
    return find_in(r, self, a, false, false);
}
static jvalue m_rfind(jrun *r, jvalue self, jargs a)
{
    return find_in(r, self, a, true, false);
}

static jvalue m_join(jrun *r, jvalue self, jargs a)
{
    const jlist *l = jitems(r, jarg(a, 0, NULL, jv_none()));
    jout o = {0};
    for (int64_t i = 0; i < l->n && !r->st; i++) {
        if (l->v[i].kind != JV_STR)
            return jfail(r, "sequence item %lld: expected str instance, %s found", (long long)i,
                         jkind_name(l->v[i]));
        if (i) jout_add(r, &o, self.u.str);
        jout_add(r, &o, l->v[i].u.str);
    }
    return jv_str(jout_str(&o));
}

// "{} {0} {name}" without format specifications.
static jvalue m_format(jrun *r, jvalue self, jargs a)
{
    const jstr s = self.u.str;
    jout o = {0};
    int64_t at = 0;
    for (size_t i = 0; i < s.n && !r->st; i++) {
        const char c = s.s[i];
        if ((c == '{' || c == '}') && i + 1 < s.n && s.s[i + 1] == c) {
            jout_add(r, &o, jstr_part(s, i, i + 1));
            i++;
            continue;
        }
        if (c != '{') {
            jout_add(r, &o, jstr_part(s, i, i + 1));
            continue;
        }
        size_t end = i + 1;
        while (end < s.n && s.s[end] != '}') end++;
        const jstr field = jstr_part(s, i + 1, end);
        const jvalue *named = jdict_find(a.keys, jv_str(field));
        int64_t index = -1;
        if (field.n == 0) index = at++;
        if (field.n == 1 && field.s[0] >= '0' && field.s[0] <= '9') index = field.s[0] - '0';
        if (!named && (index < 0 || index >= a.list->n))
            return jfail(r, "the field {%.*s} of format is not supported or has no argument",
                         (int)field.n, field.s);
        jout_add(r, &o, jto_str(r, named ? *named : a.list->v[index]));
        i = end;
    }
    return jv_str(jout_str(&o));
}

static jvalue m_text_count(jrun *r, jvalue self, jargs a)
{
    jstr s = self.u.str;
    const jstr what = text_arg(r, a, 0, NULL);
    int64_t n = 0, at;
    if (what.n == 0) return jv_int(jstr_chars(s) + 1);
    while ((at = jtext_find(s, what, false)) >= 0) {
        s = jstr_part(s, (size_t)at + what.n, s.n);
        n++;
    }
    return jv_int(n);
}

static jvalue pad(jrun *r, jvalue self, jargs a, bool left, bool right)
{
    const int64_t width = whole_arg(r, a, 0, NULL, 0), n = jstr_chars(self.u.str);
    const jvalue fill = jarg(a, 1, NULL, jv_text(" "));
    const int64_t room = width > n ? width - n : 0;
    int64_t before = left && right ? room / 2 + (room & width & 1) : left ? room : 0;
    jout o = {0};
    if (fill.kind != JV_STR || room > JINJA_RANGE_MAX)
        return jfail(r, "a width or fill that cannot be");
    for (int64_t i = 0; i < before; i++) jout_add(r, &o, fill.u.str);
    jout_add(r, &o, self.u.str);
    for (int64_t i = before; i < room; i++) jout_add(r, &o, fill.u.str);
    return jv_str(jout_str(&o));
}
static jvalue m_ljust(jrun *r, jvalue self, jargs a)
{
    return pad(r, self, a, false, true);
}
static jvalue m_rjust(jrun *r, jvalue self, jargs a)
{
    return pad(r, self, a, true, false);
}
static jvalue m_center(jrun *r, jvalue self, jargs a)
{
    return pad(r, self, a, true, true);
}

#define TEXT_IS(name, kind)                                                                        \
    static jvalue name(jrun *r, jvalue self, jargs a)                                              \
    {                                                                                              \
        (void)r;                                                                                   \
        (void)a;                                                                                   \
        return jv_bool(jtext_is(self.u.str, kind));                                                \
    }
TEXT_IS(m_isdigit, JTEXT_DIGIT)
TEXT_IS(m_isalpha, JTEXT_ALPHA)
TEXT_IS(m_isalnum, JTEXT_ALNUM)
TEXT_IS(m_isspace, JTEXT_SPACE)
TEXT_IS(m_isupper, JTEXT_UPPER)
TEXT_IS(m_islower, JTEXT_LOWER)

/* ---- objects, lists, loops ---- */

static jvalue m_items(jrun *r, jvalue self, jargs a)
{
    const jdict *d = self.u.dict;
    const jvalue l = jv_list(r, JV_LIST);
    (void)a;
    for (int64_t i = 0; i < d->n && !r->st; i++) {
        const jvalue pair = jv_list(r, JV_TUPLE);
        jlist_add(r, pair, d->key[i]);
        jlist_add(r, pair, d->v[i]);
        jlist_add(r, l, pair);
    }
    return l;
}

static jvalue m_keys(jrun *r, jvalue self, jargs a)
{
    const jvalue l = jv_list(r, JV_LIST);
    (void)a;
    for (int64_t i = 0; i < self.u.dict->n && !r->st; i++) jlist_add(r, l, self.u.dict->key[i]);
    return l;
}

static jvalue m_values(jrun *r, jvalue self, jargs a)
{
    const jvalue l = jv_list(r, JV_LIST);
    (void)a;
    for (int64_t i = 0; i < self.u.dict->n && !r->st; i++) jlist_add(r, l, self.u.dict->v[i]);
    return l;
}

static jvalue m_get(jrun *r, jvalue self, jargs a)
{
    (void)r;
    const jvalue *v = jdict_find(self.u.dict, jarg(a, 0, NULL, jv_none()));
    return v ? *v : jarg(a, 1, "default", jv_none());
}

static jvalue m_copy(jrun *r, jvalue self, jargs a)
{
    (void)a;
    if (self.kind == JV_DICT) {
        const jvalue d = jv_dict(r);
        for (int64_t i = 0; i < self.u.dict->n && !r->st; i++)
            jdict_set(r, d.u.dict, self.u.dict->key[i], self.u.dict->v[i]);
        return d;
    }
    const jvalue l = jv_list(r, self.kind);
    for (int64_t i = 0; i < self.u.list->n && !r->st; i++) jlist_add(r, l, self.u.list->v[i]);
    return l;
}

static jvalue m_list_index(jrun *r, jvalue self, jargs a)
{
    const jvalue what = jarg(a, 0, NULL, jv_none());
    for (int64_t i = 0; i < self.u.list->n; i++)
        if (jequal(self.u.list->v[i], what)) return jv_int(i);
    return jfail(r, "the value is not in the list");
}

static jvalue m_list_count(jrun *r, jvalue self, jargs a)
{
    const jvalue what = jarg(a, 0, NULL, jv_none());
    int64_t n = 0;
    (void)r;
    for (int64_t i = 0; i < self.u.list->n; i++) n += jequal(self.u.list->v[i], what);
    return jv_int(n);
}

static jvalue m_text_index(jrun *r, jvalue self, jargs a)
{
    return find_in(r, self, a, false, true);
}

static jvalue m_cycle(jrun *r, jvalue self, jargs a)
{
    if (a.list->n == 0) return jfail(r, "no items for cycling given");
    return a.list->v[self.u.loop->at % a.list->n];
}

static jvalue m_changed(jrun *r, jvalue self, jargs a)
{
    jloop *l = self.u.loop;
    const jvalue now = {.kind = JV_LIST, .u.list = (jlist *)(uintptr_t)a.list};
    (void)r;
    const bool changed = !l->asked || !jequal(l->changed, now);
    l->asked = true;
    l->changed = now;
    return jv_bool(changed);
}

// The sandbox that chat templates run in lets nothing be changed.
static jvalue m_forbidden(jrun *r, jvalue self, jargs a)
{
    (void)a;
    return jfail(r, "a %s cannot be changed by a template", jkind_name(self));
}

/* ---- the tables ---- */

typedef struct method_row {
    const char *name;
    method *call;
} method_row;

static const method_row text_methods[] = {
    {"strip", m_strip},
    {"lstrip", m_lstrip},
    {"rstrip", m_rstrip},
    {"upper", m_upper},
    {"lower", m_lower},
    {"casefold", m_lower},
    {"capitalize", m_capitalize},
    {"title", m_title},
    {"startswith", m_startswith},
    {"endswith", m_endswith},
    {"removeprefix", m_removeprefix},
    {"removesuffix", m_removesuffix},
    {"replace", m_replace},
    {"split", m_split},
    {"rsplit", m_rsplit},
    {"splitlines", m_splitlines},
    {"partition", m_partition},
    {"rpartition", m_rpartition},
    {"find", m_find},
    {"rfind", m_rfind},
    {"index", m_text_index},
    {"join", m_join},
    {"format", m_format},
    {"count", m_text_count},
    {"ljust", m_ljust},
    {"rjust", m_rjust},
    {"center", m_center},
    {"isdigit", m_isdigit},
    {"isnumeric", m_isdigit},
    {"isdecimal", m_isdigit},
    {"isalpha", m_isalpha},
    {"isalnum", m_isalnum},
    {"isspace", m_isspace},
    {"isupper", m_isupper},
    {"islower", m_islower},
    {NULL, NULL},
};
static const method_row list_methods[] = {
    {"index", m_list_index}, {"count", m_list_count}, {"copy", m_copy},
    {"append", m_forbidden}, {"extend", m_forbidden}, {"insert", m_forbidden},
    {"pop", m_forbidden},    {"remove", m_forbidden}, {"reverse", m_forbidden},
    {"sort", m_forbidden},   {"clear", m_forbidden},  {NULL, NULL},
};
static const method_row dict_methods[] = {
    {"items", m_items},
    {"keys", m_keys},
    {"values", m_values},
    {"get", m_get},
    {"copy", m_copy},
    {"update", m_forbidden},
    {"pop", m_forbidden},
    {"setdefault", m_forbidden},
    {"popitem", m_forbidden},
    {"clear", m_forbidden},
    {NULL, NULL},
};
static const method_row loop_methods[] = {{"cycle", m_cycle}, {"changed", m_changed}, {NULL, NULL}};

static method *find_method(jvalue self, jstr name)
{
    const method_row *rows = self.kind == JV_STR                             ? text_methods
                             : self.kind == JV_LIST || self.kind == JV_TUPLE ? list_methods
                             : self.kind == JV_DICT                          ? dict_methods
                             : self.kind == JV_LOOP                          ? loop_methods
                                                                             : NULL;
    for (; rows && rows->name; rows++)
        if (jstr_is(name, rows->name)) return rows->call;
    return NULL;
}

bool jinja_has_method(jvalue self, jstr name)
{
    return find_method(self, name) != NULL;
}

/* ---- functions ---- */

static jvalue f_range(jrun *r, jargs a)
{
    const bool two = a.list->n > 1;
    const int64_t from = two ? whole_arg(r, a, 0, NULL, 0) : 0,
                  to = whole_arg(r, a, two ? 1 : 0, NULL, 0), step = whole_arg(r, a, 2, NULL, 1);
    const jvalue l = jv_list(r, JV_LIST);
    if (step == 0) return jfail(r, "range() arg 3 must not be zero");
    for (int64_t i = from; (step > 0 ? i < to : i > to) && jstep(r);) {
        if (l.u.list->n >= JINJA_RANGE_MAX)
            return jfail(r, "a range of more than %d items", JINJA_RANGE_MAX);
        jlist_add(r, l, jv_int(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return l;
}

static jvalue f_dict(jrun *r, jargs a, jkind kind)
{
    jvalue d = jv_dict(r);
    if (r->st) return d;
    if (a.list->n == 1 && a.list->v[0].kind == JV_DICT) d = m_copy(r, a.list->v[0], a);
    for (int64_t i = 0; i < a.keys->n && !r->st; i++)
        jdict_set(r, d.u.dict, a.keys->key[i], a.keys->v[i]);
    if (!r->st) d.kind = kind;
    return d;
}

static jvalue f_strftime(jrun *r, jargs a)
{
    char text[256], format[128];
    const jstr f = text_arg(r, a, 0, NULL);
    const time_t now = time(NULL);
    struct tm local;
    if (r->st) return jv_none();
    snprintf(format, sizeof format, "%.*s", (int)f.n, f.s ? f.s : "");
    localtime_r(&now, &local);
    // The format is the template's own: strftime writes nothing beyond `text` whatever it says.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    const size_t n = strftime(text, sizeof text, format, &local);
#pragma GCC diagnostic pop
    char *copy = jget(r, n + 1);
    if (!copy) return jv_none();
    memcpy(copy, text, n);
    return jv_str((jstr){.s = copy, .n = n});
}

jvalue jinja_call(jrun *r, jvalue f, jargs a)
{
    if (f.kind == JV_MACRO) return jinja_call_macro(r, f.u.macro, a.list, a.keys);
    if (f.kind == JV_METHOD) {
        method *m = find_method(f.u.method->self, f.u.method->name);
        return m(r, f.u.method->self, a);
    }
    if (f.kind == JV_UNDEFINED)
        return jfail(r, "'%.*s' is undefined", (int)f.u.str.n, f.u.str.s ? f.u.str.s : "");
    if (f.kind != JV_FUNCTION) return jfail(r, "'%s' object is not callable", jkind_name(f));
    if (jstr_is(f.u.str, "range")) return f_range(r, a);
    if (jstr_is(f.u.str, "namespace")) return f_dict(r, a, JV_NAMESPACE);
    if (jstr_is(f.u.str, "dict")) return f_dict(r, a, JV_DICT);
    if (jstr_is(f.u.str, "strftime_now")) return f_strftime(r, a);
    const jstr why = jto_str(r, jarg(a, 0, "message", jv_none()));
    return jfail(r, "%.*s", (int)(why.n < 800 ? why.n : 800), why.s ? why.s : "");
}

/*
 * jinja_filter.c - filters of the template language: `value|name(arguments)`. Those that work on lists item by item
 * stand in jinja_select.c.
 */
#include "data/text/jinja_filter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const jstr nothing = {.s = "", .n = 0};

static int64_t whole_or(jrun *r, jvalue v, int64_t or_else)
{
    if (v.kind == JV_INT) return v.u.i;
    if (v.kind == JV_BOOL) return v.u.b;
    if (v.kind != JV_NONE && v.kind != JV_UNDEFINED)
        jfail(r, "expected a whole number, not '%s'", jkind_name(v));
    return or_else;
}

/* ---- texts ---- */

static jvalue f_trim(jrun *r, jvalue v, jargs a)
{
    const jvalue chars = jarg(a, 0, "chars", jv_none());
    const jstr s = jto_str(r, v);
    if (chars.kind != JV_STR) return jv_str(jstr_trim(s, NULL, 0, true, true));
    return jv_str(jstr_trim(s, chars.u.str.s ? chars.u.str.s : "", chars.u.str.n, true, true));
}
static jvalue f_upper(jrun *r, jvalue v, jargs a)
{
    (void)a;
    return jv_str(jtext_upper(r, jto_str(r, v)));
}
static jvalue f_lower(jrun *r, jvalue v, jargs a)
{
    (void)a;
    return jv_str(jtext_lower(r, jto_str(r, v)));
}
static jvalue f_capitalize(jrun *r, jvalue v, jargs a)
{
    (void)a;
    return jv_str(jtext_capitalize(r, jto_str(r, v)));
}

// Words begin behind white space, hyphens and opening brackets.
static jvalue f_title(jrun *r, jvalue v, jargs a)
{
    const jstr s = jto_str(r, v);
    jout o = {0};
    size_t from = 0;
    (void)a;
    for (size_t i = 0; i < s.n && !r->st; i++) {
        const bool cut = s.s[i] && strchr(" \t\n\r\f\v-({[<", s.s[i]);
        if (!cut) continue;
        jout_add(r, &o, jtext_capitalize(r, jstr_part(s, from, i)));
        jout_add(r, &o, jstr_part(s, i, i + 1));
        from = i + 1;
    }
    jout_add(r, &o, jtext_capitalize(r, jstr_part(s, from, s.n)));
    return jv_str(jout_str(&o));
}

static jvalue f_replace(jrun *r, jvalue v, jargs a)
{
    const jstr from = jto_str(r, jarg(a, 0, "old", jv_str(nothing))),
               to = jto_str(r, jarg(a, 1, "new", jv_str(nothing)));
    const int64_t most = whole_or(r, jarg(a, 2, "count", jv_none()), -1);
    return r->st ? v : jv_str(jtext_replace(r, jto_str(r, v), from, to, most));
}

static jvalue f_string(jrun *r, jvalue v, jargs a)
{
    (void)a;
    return jv_str(jto_str(r, v));
}

static jvalue f_safe(jrun *r, jvalue v, jargs a)
{
    return f_string(r, v, a);
}

static jvalue f_escape(jrun *r, jvalue v, jargs a)
{
    static const char marks[] = "&<>'\"";
    static const char *const codes[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const jstr s = jto_str(r, v);
    jout o = {0};
    (void)a;
    for (size_t i = 0; i < s.n && !r->st; i++) {
        const char *at = s.s[i] ? strchr(marks, s.s[i]) : NULL;
        if (at)
            jout_text(r, &o, codes[at - marks]);
        else
            jout_add(r, &o, jstr_part(s, i, i + 1));
    }
    return jv_str(jout_str(&o));
}

static jvalue f_indent(jrun *r, jvalue v, jargs a)
{
    const jvalue width = jarg(a, 0, "width", jv_int(4));
    const bool first = jtruth(jarg(a, 1, "first", jv_bool(false))),
               blank = jtruth(jarg(a, 2, "blank", jv_bool(false)));
    jout by = {0}, o = {0};
    if (v.kind != JV_STR) return jfail(r, "a '%s' cannot be indented", jkind_name(v));
    if (width.kind == JV_STR) {
        jout_add(r, &by, width.u.str);
    } else {
        const int64_t n = whole_or(r, width, 4);
        for (int64_t i = 0; i < n && i < JINJA_RANGE_MAX && !r->st; i++) jout_text(r, &by, " ");
    }
    jout_add(r, &o, jto_str(r, v));
    jout_text(r, &o, "\n"); // as there: the last line of a text ends too
    const jvalue lines = jtext_lines(r, jout_str(&o), false);
    o = (jout){0};
    for (int64_t i = 0; !r->st && i < lines.u.list->n; i++) {
        const jstr line = lines.u.list->v[i].u.str;
        if (i) jout_text(r, &o, "\n");
        if (i ? line.n > 0 || blank : first) jout_add(r, &o, jout_str(&by));
        jout_add(r, &o, line);
    }
    return jv_str(jout_str(&o));
}

// Runs of letters, digits and underscores.
static jvalue f_wordcount(jrun *r, jvalue v, jargs a)
{
    const jstr s = jto_str(r, v);
    int64_t words = 0;
    bool inside = false;
    (void)a;
    for (size_t i = 0, n; i < s.n; i += n) {
        for (n = 1; i + n < s.n && ((unsigned char)s.s[i + n] & 0xC0) == 0x80;) n++;
        const bool word = s.s[i] == '_' || jtext_is(jstr_part(s, i, i + n), JTEXT_ALNUM);
        words += word && !inside;
        inside = word;
    }
    return jv_int(words);
}

static jvalue f_tojson(jrun *r, jvalue v, jargs a)
{
    const jvalue indent = jarg(a, 1, "indent", jv_none()),
                 separators = jarg(a, 2, "separators", jv_none());
    jjson_style style = {.indent = whole_or(r, indent, -1),
                         .ascii = jtruth(jarg(a, 0, "ensure_ascii", jv_bool(false))),
                         .sort = jtruth(jarg(a, 3, "sort_keys", jv_bool(false)))};
    style.item = (jstr){.s = ", ", .n = style.indent < 0 ? 2 : 1};
    style.key = (jstr){.s = ": ", .n = 2};
    if (separators.kind == JV_LIST || separators.kind == JV_TUPLE) {
        if (separators.u.list->n != 2) return jfail(r, "separators are two texts");
        style.item = jto_str(r, separators.u.list->v[0]);
        style.key = jto_str(r, separators.u.list->v[1]);
    }
    jout o = {0};
    if (!r->st) jout_json(r, &o, v, &style, 0);
    return jv_str(jout_str(&o));
}

/* ---- numbers ---- */

static jvalue f_abs(jrun *r, jvalue v, jargs a)
{
    (void)a;
    if (v.kind == JV_INT && v.u.i != INT64_MIN) return jv_int(v.u.i < 0 ? -v.u.i : v.u.i);
    if (v.kind == JV_FLOAT) return jv_float(fabs(v.u.f));
    if (v.kind == JV_BOOL) return jv_int(v.u.b);
    return jfail(r, "bad operand type for abs(): '%s'", jkind_name(v));
}

// A text as a number of the given kind; `ok` false when it is none.
static double text_number(jrun *r, jvalue v, bool *ok)
{
    char text[64], *end = text;
    const jstr s = jstr_trim(v.u.str, NULL, 0, true, true);
    double f = 0.0;
    (void)r;
    if (s.n && s.n < sizeof text) {
        memcpy(text, s.s, s.n);
        text[s.n] = '\0';
        f = strtod(text, &end);
    }
    *ok = s.n > 0 && s.n < sizeof text && *end == '\0' && !strpbrk(text, "xXpP");
    return f;
}

static jvalue no_number(jrun *r, jvalue v)
{
    return jfail(r, "'%.*s' is undefined", (int)v.u.str.n, v.u.str.s ? v.u.str.s : "");
}

static jvalue f_int(jrun *r, jvalue v, jargs a)
{
    const jvalue or_else = jarg(a, 0, "default", jv_int(0));
    bool ok = true;
    double f = 0.0;
    if (jarg_has(a, 1, "base")) return jfail(r, "filter 'int' with a base is not supported");
    if (v.kind == JV_INT) return v;
    if (v.kind == JV_UNDEFINED) return no_number(r, v);
    if (v.kind == JV_STR)
        f = text_number(r, v, &ok);
    else
        ok = jnumber(v, &f);
    return ok && fabs(f) < 9.2e18 ? jv_int((int64_t)f) : or_else;
}

static jvalue f_float(jrun *r, jvalue v, jargs a)
{
    const jvalue or_else = jarg(a, 0, "default", jv_float(0.0));
    bool ok = true;
    double f = 0.0;
    if (v.kind == JV_UNDEFINED) return no_number(r, v);
    if (v.kind == JV_STR)
        f = text_number(r, v, &ok);
    else
        ok = jnumber(v, &f);
    return ok ? jv_float(f) : or_else;
}

static jvalue f_round(jrun *r, jvalue v, jargs a)
{
    const int64_t digits = whole_or(r, jarg(a, 0, "precision", jv_int(0)), 0);
    const jstr how = jto_str(r, jarg(a, 1, "method", jv_text("common")));
    char text[400];
    double f;
    if (!jnumber(v, &f)) return jfail(r, "a '%s' cannot be rounded", jkind_name(v));
    if (v.kind == JV_INT && jstr_is(how, "common") && digits >= 0) return v;
    if (v.kind == JV_BOOL && jstr_is(how, "common") && digits >= 0) return jv_int(v.u.b);
    if (digits < 0 || digits > 15) return jfail(r, "rounding to %lld digits", (long long)digits);
    const double scale = pow(10.0, (double)digits);
    if (jstr_is(how, "ceil")) return jv_float(ceil(f * scale) / scale);
    if (jstr_is(how, "floor")) return jv_float(floor(f * scale) / scale);
    if (!jstr_is(how, "common")) return jfail(r, "method must be common, ceil or floor");
    snprintf(text, sizeof text, "%.*f", (int)digits, f); // correctly rounded, half to even
    return jv_float(strtod(text, NULL));
}

/* ---- anything ---- */

static jvalue f_default(jrun *r, jvalue v, jargs a)
{
    const jvalue or_else = jarg(a, 0, "default_value", jv_str(nothing));
    const bool empty_too = jtruth(jarg(a, 1, "boolean", jv_bool(false)));
    (void)r;
    return v.kind == JV_UNDEFINED || (empty_too && !jtruth(v)) ? or_else : v;
}

static jvalue f_length(jrun *r, jvalue v, jargs a)
{
    (void)a;
    return jv_int(jlength(r, v));
}

static jvalue f_attr(jrun *r, jvalue v, jargs a)
{
    const jvalue name = jarg(a, 0, "name", jv_none());
    if (name.kind != JV_STR) return jfail(r, "filter 'attr' needs a name");
    // Attributes alone: the keys of an object are none.
    return v.kind == JV_DICT && !jinja_has_method(v, name.u.str) ? jv_undefined(name.u.str)
                                                                 : jattr(r, v, name.u.str);
}

/* ---- the table ---- */

static const struct {
    const char *name;
    jfilter *filter;
} filters[] = {
    {"abs", f_abs},
    {"attr", f_attr},
    {"batch", jfilter_batch},
    {"capitalize", f_capitalize},
    {"count", f_length},
    {"d", f_default},
    {"default", f_default},
    {"dictsort", jfilter_dictsort},
    {"e", f_escape},
    {"escape", f_escape},
    {"first", jfilter_first},
    {"float", f_float},
    {"indent", f_indent},
    {"int", f_int},
    {"items", jfilter_items},
    {"join", jfilter_join},
    {"last", jfilter_last},
    {"length", f_length},
    {"list", jfilter_list},
    {"lower", f_lower},
    {"map", jfilter_map},
    {"max", jfilter_max},
    {"min", jfilter_min},
    {"reject", jfilter_reject},
    {"rejectattr", jfilter_rejectattr},
    {"replace", f_replace},
    {"reverse", jfilter_reverse},
    {"round", f_round},
    {"safe", f_safe},
    {"select", jfilter_select},
    {"selectattr", jfilter_selectattr},
    {"sort", jfilter_sort},
    {"string", f_string},
    {"sum", jfilter_sum},
    {"title", f_title},
    {"tojson", f_tojson},
    {"trim", f_trim},
    {"unique", jfilter_unique},
    {"upper", f_upper},
    {"wordcount", f_wordcount},
};
enum { FILTERS = (int)(sizeof filters / sizeof *filters) };

bool jinja_knows_filter(jstr name, const char **near)
{
    const char *names[FILTERS];
    char text[64];
    for (int i = 0; i < FILTERS; i++) {
        names[i] = filters[i].name;
        if (jstr_is(name, filters[i].name)) return true;
    }
    snprintf(text, sizeof text, "%.*s", (int)name.n, name.s);
    *near = pc_nearest(text, names, FILTERS);
    return false;
}

jvalue jinja_filter(jrun *r, jstr name, jvalue v, jargs a)
{
    for (int i = 0; i < FILTERS; i++)
        if (jstr_is(name, filters[i].name)) return filters[i].filter(r, v, a);
    return jfail(r, "filter '%.*s' is not supported", (int)name.n, name.s ? name.s : "");
}

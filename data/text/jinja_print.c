/*
 * jinja_print.c - values of the template language as text: as {{ }} prints them (Python's str and repr), and as
 * JSON (Python's json.dumps).
 */
#include "data/text/jinja_parts.h"
#include "data/text/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a text that grows ---- */

static bool grow(jrun *r, jout *o, size_t more, bool marks)
{
    if (r->st) return false;
    if (o->n + more > PC_JINJA_OUTPUT_MAX) {
        jfail(r, "a text of more than %zu MB", PC_JINJA_OUTPUT_MAX >> 20);
        return false;
    }
    if (o->room - o->n < more + 1) {
        size_t room = o->room ? 2 * o->room : 64;
        while (room - o->n < more + 1) room *= 2;
        char *s = jget(r, room);
        uint8_t *mark = o->mark || marks ? jget(r, room) : NULL;
        if (!s || (o->mark && !mark)) return false;
        if (o->n) memcpy(s, o->s, o->n);
        if (o->n && o->mark) memcpy(mark, o->mark, o->n);
        o->s = s;
        o->mark = mark;
        o->room = room;
    } else if (marks && !o->mark) {
        o->mark = jget(r, o->room); // cleared: the template's
    }
    return !r->st;
}

void jout_add(jrun *r, jout *o, jstr s)
{
    if (s.n == 0 || !grow(r, o, s.n, s.mark != NULL)) return;
    memcpy(o->s + o->n, s.s, s.n);
    if (s.mark)
        memcpy(o->mark + o->n, s.mark, s.n);
    else if (o->mark)
        memset(o->mark + o->n, PC_FROM_TEMPLATE, s.n);
    o->n += s.n;
}

void jout_text(jrun *r, jout *o, const char *s)
{
    jout_add(r, o, (jstr){.s = s, .n = strlen(s)});
}

jstr jout_str(const jout *o)
{
    return (jstr){o->s ? o->s : "", o->n, o->mark};
}

/* ---- numbers ---- */

// The shortest digits that read back, as Python writes them.
static void float_text(char out[40], double f)
{
    if (isnan(f) || isinf(f)) {
        snprintf(out, 40, "%s", isnan(f) ? "nan" : f > 0.0 ? "inf" : "-inf");
        return;
    }
    int digits = 1;
    for (; digits < 17; digits++) {
        snprintf(out, 40, "%.*e", digits - 1, f);
        if (strtod(out, NULL) == f) break;
    }
    snprintf(out, 40, "%.*e", digits - 1, f);
    const int exponent = (int)strtol(strchr(out, 'e') + 1, NULL, 10);
    if (exponent >= -4 && exponent < 16) {
        const int decimals = digits - 1 - exponent;
        snprintf(out, 40, "%.*f", decimals > 0 ? decimals : 1, f);
    }
}

static void number_text(char out[40], jvalue v)
{
    if (v.kind == JV_INT)
        snprintf(out, 40, "%lld", (long long)v.u.i);
    else
        float_text(out, v.u.f);
}

/* ---- str and repr ---- */

// Python's repr of a text. The origin of the bytes is kept where they stand as they were.
static void repr_text(jrun *r, jout *o, jstr s)
{
    const bool single = memchr(s.s ? s.s : "", '\'', s.n) && !memchr(s.s, '"', s.n);
    const char quote = single ? '"' : '\'';
    const char edge[2] = {quote, '\0'};
    jout_text(r, o, edge);
    for (size_t i = 0; i < s.n && !r->st; i++) {
        const char c = s.s[i];
        char code[8] = "";
        if (c == '\n' || c == '\r' || c == '\t' || c == '\\' || c == quote) {
            const char letter = c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c;
            snprintf(code, sizeof code, "\\%c", letter);
        } else if ((unsigned char)c < 0x20 || c == 0x7F) {
            snprintf(code, sizeof code, "\\x%02x", (unsigned char)c);
        }
        if (*code)
            jout_text(r, o, code);
        else
            jout_add(r, o, jstr_part(s, i, i + 1));
    }
    jout_text(r, o, edge);
}

static void repr_list(jrun *r, jout *o, const jlist *l, bool tuple)
{
    jout_text(r, o, tuple ? "(" : "[");
    for (int64_t i = 0; i < l->n && !r->st; i++) {
        if (i) jout_text(r, o, ", ");
        jout_repr(r, o, l->v[i]);
    }
    jout_text(r, o, tuple ? (l->n == 1 ? ",)" : ")") : "]");
}

static void repr_dict(jrun *r, jout *o, const jdict *d)
{
    jout_text(r, o, "{");
    for (int64_t i = 0; i < d->n && !r->st; i++) {
        if (i) jout_text(r, o, ", ");
        jout_repr(r, o, d->key[i]);
        jout_text(r, o, ": ");
        jout_repr(r, o, d->v[i]);
    }
    jout_text(r, o, "}");
}

void jout_repr(jrun *r, jout *o, jvalue v)
{
    char number[40];
    if (!jstep(r)) return;
    if (++r->depth > JINJA_RUN_DEPTH) jfail(r, "a value nests deeper than %d levels", r->depth);
    switch (v.kind) {
    case JV_UNDEFINED: jout_text(r, o, "Undefined"); break;
    case JV_NONE: jout_text(r, o, "None"); break;
    case JV_BOOL: jout_text(r, o, v.u.b ? "True" : "False"); break;
    case JV_INT:
    case JV_FLOAT:
        number_text(number, v);
        jout_text(r, o, number);
        break;
    case JV_STR: repr_text(r, o, v.u.str); break;
    case JV_LIST:
        if (v.u.list->lazy) {
            jfail(r, "a generator cannot be printed; use the filter 'list'");
            break;
        }
        repr_list(r, o, v.u.list, false);
        break;
    case JV_TUPLE: repr_list(r, o, v.u.list, true); break;
    case JV_DICT: repr_dict(r, o, v.u.dict); break;
    default: jfail(r, "a %s cannot be printed", jkind_name(v)); break;
    }
    r->depth--;
}

void jout_value(jrun *r, jout *o, jvalue v)
{
    if (v.kind == JV_STR)
        jout_add(r, o, v.u.str);
    else if (v.kind != JV_UNDEFINED)
        jout_repr(r, o, v);
}

jstr jto_str(jrun *r, jvalue v)
{
    jout o = {0};
    if (v.kind == JV_STR) return v.u.str;
    jout_value(r, &o, v);
    return jout_str(&o);
}

/* ---- JSON ---- */

static void json_text(jrun *r, jout *o, jstr s, bool ascii)
{
    static const char codes[] = "\"\"\\\\\nn\rr\tt\bb\ff";
    jout_text(r, o, "\"");
    for (size_t i = 0; i < s.n && !r->st;) {
        const unsigned char c = (unsigned char)s.s[i];
        const int step = pc_utf8_step((const unsigned char *)s.s + i, s.n - i);
        const size_t used = step > 0 ? (size_t)step : 1;
        char code[16] = "";
        for (size_t k = 0; k + 1 < sizeof codes; k += 2)
            if (codes[k] == (char)c) snprintf(code, sizeof code, "\\%c", codes[k + 1]);
        const uint32_t point = step > 0 ? pc_utf8_code((const unsigned char *)s.s + i, step) : c;
        if (!*code && c < 0x20) snprintf(code, sizeof code, "\\u%04x", c);
        if (!*code && ascii && point > 0xFFFF)
            snprintf(code, sizeof code, "\\u%04x\\u%04x", 0xD800 + ((point - 0x10000) >> 10),
                     0xDC00 + ((point - 0x10000) & 0x3FF));
        else if (!*code && ascii && point > 0x7E)
            snprintf(code, sizeof code, "\\u%04x", point);
        if (*code)
            jout_text(r, o, code);
        else
            jout_add(r, o, jstr_part(s, i, i + used));
        i += used;
    }
    jout_text(r, o, "\"");
}

static void json_break(jrun *r, jout *o, const jjson_style *style, int64_t depth)
{
    if (style->indent < 0) return;
    jout_text(r, o, "\n");
    for (int64_t i = 0; i < depth * style->indent && !r->st; i++) jout_text(r, o, " ");
}

static void json_key(jrun *r, jout *o, jvalue key, const jjson_style *style)
{
    if (key.kind == JV_STR) {
        json_text(r, o, key.u.str, style->ascii);
        return;
    }
    jout_text(r, o, "\"");
    jout_json(r, o, key, style, 0);
    jout_text(r, o, "\"");
}

static void json_dict(jrun *r, jout *o, const jdict *d, const jjson_style *style, int64_t depth)
{
    int64_t *order = jget(r, (size_t)(d->n + 1) * sizeof *order);
    if (!order) return;
    for (int64_t i = 0; i < d->n; i++) {
        int64_t k = i;
        for (; style->sort && k > 0 && jcompare(r, d->key[order[k - 1]], d->key[i]) > 0; k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
    jout_text(r, o, "{");
    for (int64_t i = 0; i < d->n && !r->st; i++) {
        if (i) jout_add(r, o, style->item);
        json_break(r, o, style, depth + 1);
        json_key(r, o, d->key[order[i]], style);
        jout_add(r, o, style->key);
        jout_json(r, o, d->v[order[i]], style, depth + 1);
    }
    if (d->n) json_break(r, o, style, depth);
    jout_text(r, o, "}");
}

void jout_json(jrun *r, jout *o, jvalue v, const jjson_style *style, int64_t depth)
{
    char number[40];
    if (!jstep(r)) return;
    if (depth > JINJA_RUN_DEPTH) {
        jfail(r, "a value nests deeper than %d levels", JINJA_RUN_DEPTH);
        return;
    }
    switch (v.kind) {
    case JV_NONE: jout_text(r, o, "null"); return;
    case JV_BOOL: jout_text(r, o, v.u.b ? "true" : "false"); return;
    case JV_INT:
    case JV_FLOAT:
        number_text(number, v);
        if (v.kind == JV_FLOAT && isnan(v.u.f)) snprintf(number, sizeof number, "NaN");
        if (v.kind == JV_FLOAT && isinf(v.u.f))
            snprintf(number, sizeof number, "%sInfinity", v.u.f < 0.0 ? "-" : "");
        jout_text(r, o, number);
        return;
    case JV_STR: json_text(r, o, v.u.str, style->ascii); return;
    case JV_DICT: json_dict(r, o, v.u.dict, style, depth); return;
    case JV_LIST:
    case JV_TUPLE:
        if (v.u.list->lazy) break;
        jout_text(r, o, "[");
        for (int64_t i = 0; i < v.u.list->n && !r->st; i++) {
            if (i) jout_add(r, o, style->item);
            json_break(r, o, style, depth + 1);
            jout_json(r, o, v.u.list->v[i], style, depth + 1);
        }
        if (v.u.list->n) json_break(r, o, style, depth);
        jout_text(r, o, "]");
        return;
    default: break;
    }
    jfail(r, "Object of type %s is not JSON serializable", jkind_name(v));
}

/*
 * jinja_select.c - filters that take lists: choosing, mapping, sorting, joining. What Jinja makes step by step
 * (map, select, ...) is a generator here too: true as a condition, read once, without a length.
 */
#include "data/text/jinja_filter.h"

#include <stdlib.h>
#include <string.h>

static jvalue lazy(jrun *r, jvalue list)
{
    if (!r->st) list.u.list->lazy = true;
    return list;
}

// v.a.0.b, as "attribute" arguments name it; parts that are numbers are places.
static jvalue path_of(jrun *r, jvalue v, jvalue path)
{
    if (path.kind == JV_INT) return jitem(r, v, path);
    if (path.kind != JV_STR) return v;
    const jvalue parts = jtext_split(r, path.u.str, (jstr){.s = ".", .n = 1}, -1, false);
    for (int64_t i = 0; !r->st && i < parts.u.list->n; i++) {
        const jstr part = parts.u.list->v[i].u.str;
        jvalue key = jv_str(part);
        if (jtext_is(part, JTEXT_DIGIT) && part.n < 10) {
            int64_t place = 0;
            for (size_t k = 0; k < part.n; k++) place = 10 * place + (part.s[k] - '0');
            key = jv_int(place);
        }
        v = jitem(r, v, key);
    }
    return v;
}

// What is compared: texts without regard to case unless asked.
static jvalue sort_key(jrun *r, jvalue v, jvalue attribute, bool case_sensitive)
{
    v = path_of(r, v, attribute);
    return v.kind == JV_STR && !case_sensitive ? jv_str(jtext_lower(r, v.u.str)) : v;
}

/* ---- one of them, or all of them ---- */

jvalue jfilter_first(jrun *r, jvalue v, jargs a)
{
    (void)a;
    const jlist *l = jitems(r, v);
    return l->n ? l->v[0]
                : jv_undefined((jstr){.s = "No first item, sequence was empty.", .n = 34});
}

jvalue jfilter_last(jrun *r, jvalue v, jargs a)
{
    (void)a;
    if (v.kind == JV_LIST && v.u.list->lazy) return jfail(r, "a generator has no last item");
    const jlist *l = jitems(r, v);
    return l->n ? l->v[l->n - 1]
                : jv_undefined((jstr){.s = "No last item, sequence was empty.", .n = 33});
}

jvalue jfilter_list(jrun *r, jvalue v, jargs a)
{
    (void)a;
    const jlist *l = jitems(r, v);
    const jvalue out = jv_list(r, JV_LIST);
    for (int64_t i = 0; i < l->n && !r->st; i++) jlist_add(r, out, l->v[i]);
    return out;
}

jvalue jfilter_reverse(jrun *r, jvalue v, jargs a)
{
    (void)a;
    const jlist *l = jitems(r, v);
    if (v.kind == JV_STR) {
        jout o = {0};
        for (int64_t i = l->n; i-- > 0 && !r->st;) jout_add(r, &o, l->v[i].u.str);
        return jv_str(jout_str(&o));
    }
    const jvalue out = jv_list(r, JV_LIST);
    for (int64_t i = l->n; i-- > 0 && !r->st;) jlist_add(r, out, l->v[i]);
    return lazy(r, out);
}

jvalue jfilter_join(jrun *r, jvalue v, jargs a)
{
    const jstr by = jto_str(r, jarg(a, 0, "d", jv_text("")));
    const jvalue attribute = jarg(a, 1, "attribute", jv_none());
    const jlist *l = jitems(r, v);
    jout o = {0};
    for (int64_t i = 0; i < l->n && !r->st; i++) {
        if (i) jout_add(r, &o, by);
        jout_add(r, &o, jto_str(r, path_of(r, l->v[i], attribute)));
    }
    return jv_str(jout_str(&o));
}

jvalue jfilter_items(jrun *r, jvalue v, jargs a)
{
    const jvalue none = jv_list(r, JV_LIST);
    if (v.kind == JV_UNDEFINED) return lazy(r, none);
    if (v.kind != JV_DICT) return jfail(r, "Can only get item pairs from a mapping.");
    const jvalue name = jattr(r, v, (jstr){.s = "items", .n = 5});
    return r->st ? v : lazy(r, jinja_call(r, name, a));
}

jvalue jfilter_batch(jrun *r, jvalue v, jargs a)
{
    const jvalue size = jarg(a, 0, "linecount", jv_none()),
                 fill = jarg(a, 1, "fill_with", jv_none());
    const jlist *l = jitems(r, v);
    const jvalue out = jv_list(r, JV_LIST);
    if (size.kind != JV_INT || size.u.i < 1 || size.u.i > JINJA_RANGE_MAX)
        return jfail(r, "filter 'batch' needs a whole number above 0");
    for (int64_t i = 0; i < l->n && !r->st; i += size.u.i) {
        const jvalue row = jv_list(r, JV_LIST);
        for (int64_t k = i; k < i + size.u.i && !r->st; k++)
            if (k < l->n || fill.kind != JV_NONE) jlist_add(r, row, k < l->n ? l->v[k] : fill);
        jlist_add(r, out, row);
    }
    return lazy(r, out);
}

/* ---- choosing ---- */

// The arguments from `skip` on.
static jargs behind(jrun *r, jargs a, int64_t skip)
{
    const jvalue rest = jv_list(r, JV_LIST);
    for (int64_t i = skip; i < a.list->n && !r->st; i++) jlist_add(r, rest, a.list->v[i]);
    if (!r->st) a.list = rest.u.list;
    return a;
}

// What is chosen from: nothing of whatever counts as false, be it a list or not.
static const jlist *choices(jrun *r, jvalue v)
{
    static const jlist none;
    return jtruth(v) ? jitems(r, v) : &none;
}

static jvalue choose(jrun *r, jvalue v, jargs a, bool by_attribute, bool wanted)
{
    const jvalue attribute = by_attribute ? jarg(a, 0, NULL, jv_none()) : jv_none();
    const jvalue test = jarg(a, by_attribute, NULL, jv_none());
    const jargs rest = behind(r, a, by_attribute + 1);
    const jlist *l = choices(r, v);
    const jvalue out = jv_list(r, JV_LIST);
    if (by_attribute && attribute.kind == JV_NONE)
        return jfail(r, "Missing parameter for attribute name");
    for (int64_t i = 0; i < l->n && jstep(r); i++) {
        const jvalue x = path_of(r, l->v[i], attribute);
        if (r->st) break;
        const bool is = test.kind == JV_STR ? jinja_test(r, test.u.str, x, rest) : jtruth(x);
        if (is == wanted) jlist_add(r, out, l->v[i]);
    }
    return lazy(r, out);
}

jvalue jfilter_select(jrun *r, jvalue v, jargs a)
{
    return choose(r, v, a, false, true);
}
jvalue jfilter_reject(jrun *r, jvalue v, jargs a)
{
    return choose(r, v, a, false, false);
}
jvalue jfilter_selectattr(jrun *r, jvalue v, jargs a)
{
    return choose(r, v, a, true, true);
}
jvalue jfilter_rejectattr(jrun *r, jvalue v, jargs a)
{
    return choose(r, v, a, true, false);
}

jvalue jfilter_map(jrun *r, jvalue v, jargs a)
{
    const jvalue *attribute = jdict_text(a.keys, "attribute"),
                 *or_else = jdict_text(a.keys, "default");
    const jvalue name = jarg(a, 0, NULL, jv_none());
    const jargs rest = attribute ? a : behind(r, a, 1);
    const jlist *l = choices(r, v);
    const jvalue out = jv_list(r, JV_LIST);
    if (!attribute && name.kind != JV_STR) return jfail(r, "map requires a filter argument");
    for (int64_t i = 0; i < l->n && jstep(r); i++) {
        jvalue x = attribute ? path_of(r, l->v[i], *attribute)
                             : jinja_filter(r, name.u.str, l->v[i], rest);
        if (attribute && x.kind == JV_UNDEFINED && or_else) x = *or_else;
        jlist_add(r, out, x);
    }
    return lazy(r, out);
}

jvalue jfilter_unique(jrun *r, jvalue v, jargs a)
{
    const bool cased = jtruth(jarg(a, 0, "case_sensitive", jv_bool(false)));
    const jvalue attribute = jarg(a, 1, "attribute", jv_none());
    const jlist *l = jitems(r, v);
    const jvalue out = jv_list(r, JV_LIST), seen = jv_list(r, JV_LIST);
    for (int64_t i = 0; i < l->n && !r->st; i++) {
        const jvalue key = sort_key(r, l->v[i], attribute, cased);
        bool known = false;
        for (int64_t k = 0; k < seen.u.list->n && !known && jstep(r); k++)
            known = jequal(seen.u.list->v[k], key);
        if (known) continue;
        jlist_add(r, seen, key);
        jlist_add(r, out, l->v[i]);
    }
    return lazy(r, out);
}

/* ---- order ---- */

// Stable merge sort of `items` by `keys`, both of them (n).
static void sort_pairs(jrun *r, jvalue *items, jvalue *keys, jvalue *room, int64_t n, bool falling)
{
    if (n < 2 || !jstep(r)) return;
    const int64_t m = n / 2;
    sort_pairs(r, items, keys, room, m, falling);
    sort_pairs(r, items + m, keys + m, room, n - m, falling);
    if (r->st) return;
    jvalue *i_out = room, *k_out = room + n;
    for (int64_t i = 0, j = m, at = 0; at < n; at++) {
        const int order = i < m && j < n ? jcompare(r, keys[i], keys[j]) : 0;
        const bool left = j >= n || (i < m && (falling ? order >= 0 : order <= 0));
        const int64_t from = left ? i++ : j++;
        i_out[at] = items[from];
        k_out[at] = keys[from];
    }
    memcpy(items, i_out, (size_t)n * sizeof *items);
    memcpy(keys, k_out, (size_t)n * sizeof *keys);
}

static jvalue sorted(jrun *r, const jlist *l, jvalue attribute, bool cased, bool falling)
{
    const jvalue out = jv_list(r, JV_LIST);
    jvalue *keys = jget(r, (size_t)(3 * l->n + 1) * sizeof *keys);
    for (int64_t i = 0; i < l->n && !r->st; i++) {
        jlist_add(r, out, l->v[i]);
        if (keys) keys[i] = sort_key(r, l->v[i], attribute, cased);
    }
    if (!r->st) sort_pairs(r, out.u.list->v, keys, keys + l->n, l->n, falling);
    return out;
}

jvalue jfilter_sort(jrun *r, jvalue v, jargs a)
{
    const bool falling = jtruth(jarg(a, 0, "reverse", jv_bool(false))),
               cased = jtruth(jarg(a, 1, "case_sensitive", jv_bool(false)));
    return sorted(r, jitems(r, v), jarg(a, 2, "attribute", jv_none()), cased, falling);
}

jvalue jfilter_dictsort(jrun *r, jvalue v, jargs a)
{
    const bool cased = jtruth(jarg(a, 0, "case_sensitive", jv_bool(false))),
               falling = jtruth(jarg(a, 2, "reverse", jv_bool(false)));
    const jstr by = jto_str(r, jarg(a, 1, "by", jv_text("key")));
    if (v.kind != JV_DICT) return jfail(r, "filter 'dictsort' needs an object");
    if (!jstr_is(by, "key") && !jstr_is(by, "value"))
        return jfail(r, "You can only sort by either \"key\" or \"value\"");
    const jvalue pairs = jfilter_items(r, v, (jargs){a.list, a.keys});
    return r->st ? v : sorted(r, jitems(r, pairs), jv_int(jstr_is(by, "value")), cased, falling);
}

static jvalue extreme(jrun *r, jvalue v, jargs a, int sign)
{
    const bool cased = jtruth(jarg(a, 0, "case_sensitive", jv_bool(false)));
    const jvalue attribute = jarg(a, 1, "attribute", jv_none());
    const jlist *l = jitems(r, v);
    jvalue best = jv_undefined((jstr){.s = "No aggregated item, sequence was empty.", .n = 39});
    jvalue best_key = best;
    for (int64_t i = 0; i < l->n && !r->st; i++) {
        const jvalue key = sort_key(r, l->v[i], attribute, cased);
        if (i && jcompare(r, key, best_key) * sign <= 0) continue;
        best = l->v[i];
        best_key = key;
    }
    return best;
}

jvalue jfilter_max(jrun *r, jvalue v, jargs a)
{
    return extreme(r, v, a, 1);
}
jvalue jfilter_min(jrun *r, jvalue v, jargs a)
{
    return extreme(r, v, a, -1);
}

jvalue jfilter_sum(jrun *r, jvalue v, jargs a)
{
    const jvalue attribute = jarg(a, 0, "attribute", jv_none());
    const jvalue start = jarg(a, 1, "start", jv_int(0));
    const jlist *l = jitems(r, v);
    double f = 0.0, x;
    int64_t whole = start.kind == JV_INT ? start.u.i : 0;
    bool real = start.kind == JV_FLOAT;
    if (!jnumber(start, &f)) return jfail(r, "filter 'sum' adds numbers alone");
    for (int64_t i = 0; i < l->n && !r->st; i++) {
        const jvalue one = path_of(r, l->v[i], attribute);
        if (!jnumber(one, &x)) return jfail(r, "filter 'sum' adds numbers alone");
        f += x;
        real |= one.kind == JV_FLOAT;
        if (!real && __builtin_add_overflow(whole, (int64_t)x, &whole))
            return jfail(r, "a number beyond 64 bits");
    }
    return real ? jv_float(f) : jv_int(whole);
}

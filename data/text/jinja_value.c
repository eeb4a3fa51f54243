/*
 * jinja_value.c - values of the template language: memory, texts with their origin, lists, objects, comparison.
 */
#include "data/text/jinja_parts.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

struct jchunk {
    struct jchunk *next;
};
#define CHUNK ((size_t)64 << 10)

void *jpool_get(jpool *p, size_t size)
{
    const size_t head = (sizeof(struct jchunk) + 15) & ~(size_t)15;
    size = (size + 15) & ~(size_t)15;
    if (!p->chunks || p->room - p->used < size) {
        const size_t room = size > CHUNK ? size : CHUNK;
        if (room > JINJA_POOL_MAX || p->total > JINJA_POOL_MAX - room) return NULL;
        struct jchunk *c = calloc(1, head + room);
        if (!c) return NULL;
        c->next = p->chunks;
        p->chunks = c;
        p->used = 0;
        p->room = room;
        p->total += room;
    }
    void *out = (char *)p->chunks + head + p->used;
    p->used += size;
    return out;
}

void jpool_close(jpool *p)
{
    while (p->chunks) {
        struct jchunk *next = p->chunks->next;
        free(p->chunks);
        p->chunks = next;
    }
    *p = (jpool){0};
}

void *jget(jrun *r, size_t size)
{
    void *m = r->st ? NULL : jpool_get(&r->pool, size);
    if (!m && !r->st)
        r->st = pc_fail(PC_ERR_INPUT, "line %d: more memory than %zu MB is asked for", r->line,
                        JINJA_POOL_MAX >> 20);
    return m;
}

/* ---- making values ---- */

jvalue jv_none(void)
{
    return (jvalue){.kind = JV_NONE};
}
jvalue jv_bool(bool b)
{
    return (jvalue){.kind = JV_BOOL, .u.b = b};
}
jvalue jv_int(int64_t i)
{
    return (jvalue){.kind = JV_INT, .u.i = i};
}
jvalue jv_float(double f)
{
    return (jvalue){.kind = JV_FLOAT, .u.f = f};
}
jvalue jv_str(jstr s)
{
    return (jvalue){.kind = JV_STR, .u.str = s};
}
jvalue jv_text(const char *s)
{
    return jv_str((jstr){.s = s, .n = strlen(s)});
}
jvalue jv_undefined(jstr what)
{
    return (jvalue){.kind = JV_UNDEFINED, .u.str = what};
}

jvalue jv_list(jrun *r, jkind kind)
{
    jlist *l = jget(r, sizeof *l);
    return l ? (jvalue){.kind = kind, .u.list = l} : jv_undefined((jstr){0});
}

void jlist_add(jrun *r, jvalue list, jvalue v)
{
    if (r->st) return;
    jlist *l = list.u.list;
    if (l->n == l->room) {
        const int64_t room = l->room ? 2 * l->room : 8;
        jvalue *more = jget(r, (size_t)room * sizeof *more);
        if (!more) return;
        if (l->n) memcpy(more, l->v, (size_t)l->n * sizeof *more);
        l->v = more;
        l->room = room;
    }
    l->v[l->n++] = v;
}

jvalue jv_dict(jrun *r)
{
    jdict *d = jget(r, sizeof *d);
    return d ? (jvalue){.kind = JV_DICT, .u.dict = d} : jv_undefined((jstr){0});
}

const jvalue *jdict_find(const jdict *d, jvalue key)
{
    for (int64_t i = 0; i < d->n; i++)
        if (jequal(d->key[i], key)) return &d->v[i];
    return NULL;
}

const jvalue *jdict_text(const jdict *d, const char *key)
{
    return jdict_find(d, jv_text(key));
}

void jdict_set(jrun *r, jdict *d, jvalue key, jvalue v)
{
    if (r->st) return;
    jvalue *old = (jvalue *)(uintptr_t)jdict_find(d, key);
    if (old) {
        *old = v;
        return;
    }
    if (d->n == d->room) {
        const int64_t room = d->room ? 2 * d->room : 8;
        jvalue *keys = jget(r, 2 * (size_t)room * sizeof *keys);
        if (!keys) return;
        if (d->n) {
            memcpy(keys, d->key, (size_t)d->n * sizeof *keys);
            memcpy(keys + room, d->v, (size_t)d->n * sizeof *keys);
        }
        d->key = keys;
        d->v = keys + room;
        d->room = room;
    }
    d->key[d->n] = key;
    d->v[d->n++] = v;
}

static jvalue json_text(jrun *r, const char *s, size_t n, pc_origin origin)
{
    uint8_t *mark = NULL;
    char *copy = jget(r, n + 1);
    if (!copy) return jv_undefined((jstr){0});
    memcpy(copy, s, n);
    if (origin != PC_FROM_TEMPLATE && n) {
        mark = jget(r, n);
        if (mark) memset(mark, (int)origin, n);
    }
    return jv_str((jstr){copy, n, mark});
}

static jvalue json_value(jrun *r, const json_t *json, pc_origin origin, int depth)
{
    const char *key;
    json_t *item;
    size_t i;
    if (depth > JINJA_RUN_DEPTH) return jfail(r, "a variable nests deeper than %d levels", depth);
    switch (json_typeof(json)) {
    case JSON_OBJECT: {
        const jvalue d = jv_dict(r);
        json_object_foreach((json_t *)(uintptr_t)json, key, item)
        {
            if (r->st) break;
            const jvalue k = json_text(r, key, strlen(key), PC_FROM_TEMPLATE);
            jdict_set(r, d.u.dict, k, json_value(r, item, origin, depth + 1));
        }
        return d;
    }
    case JSON_ARRAY: {
        const jvalue l = jv_list(r, JV_LIST);
        json_array_foreach(json, i, item)
        {
            if (r->st) break;
            jlist_add(r, l, json_value(r, item, origin, depth + 1));
        }
        return l;
    }
    case JSON_STRING:
        return json_text(r, json_string_value(json), json_string_length(json), origin);
    case JSON_INTEGER: return jv_int(json_integer_value(json));
    case JSON_REAL: return jv_float(json_real_value(json));
    case JSON_TRUE:
    case JSON_FALSE: return jv_bool(json_is_true(json));
    default: return jv_none();
    }
}

jvalue jv_from_json(jrun *r, const json_t *json, pc_origin origin)
{
    return json_value(r, json, origin, 0);
}

/* ---- texts ---- */

bool jstr_is(jstr s, const char *text)
{
    return strlen(text) == s.n && (s.n == 0 || memcmp(s.s, text, s.n) == 0);
}

bool jstr_same(jstr a, jstr b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.s, b.s, a.n) == 0);
}

jstr jstr_part(jstr s, size_t from, size_t to)
{
    if (to < from) to = from;
    return (jstr){s.s + from, to - from, s.mark ? s.mark + from : NULL};
}

int64_t jstr_chars(jstr s)
{
    int64_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.s[i] & 0xC0) != 0x80;
    return n;
}

size_t jstr_byte(jstr s, int64_t character)
{
    size_t i = 0;
    for (; i < s.n; i++)
        if (((unsigned char)s.s[i] & 0xC0) != 0x80 && character-- == 0) break;
    return i;
}

// Whether the character of `step` bytes at c is to be trimmed.
static bool trimmed(const char *c, size_t step, const char *chars, size_t n)
{
    if (!chars) return pc_utf8_is_space(pc_utf8_code((const unsigned char *)c, (int)step));
    for (size_t i = 0; i + step <= n; i++)
        if (memcmp(chars + i, c, step) == 0) return true;
    return false;
}

jstr jstr_trim(jstr s, const char *chars, size_t n, bool left, bool right)
{
    size_t from = 0, to = s.n;
    while (left && from < to) {
        size_t step = 1;
        while (from + step < to && ((unsigned char)s.s[from + step] & 0xC0) == 0x80) step++;
        if (!trimmed(s.s + from, step, chars, n)) break;
        from += step;
    }
    while (right && to > from) {
        size_t k = to - 1;
        while (k > from && ((unsigned char)s.s[k] & 0xC0) == 0x80) k--;
        if (!trimmed(s.s + k, to - k, chars, n)) break;
        to = k;
    }
    return jstr_part(s, from, to);
}

/* ---- comparison ---- */

bool jnumber(jvalue v, double *out)
{
    if (v.kind == JV_INT)
        *out = (double)v.u.i;
    else if (v.kind == JV_FLOAT)
        *out = v.u.f;
    else if (v.kind == JV_BOOL)
        *out = v.u.b ? 1.0 : 0.0;
    else
        return false;
    return true;
}

bool jtruth(jvalue v)
{
    switch (v.kind) {
    case JV_UNDEFINED:
    case JV_NONE: return false;
    case JV_BOOL: return v.u.b;
    case JV_INT: return v.u.i != 0;
    case JV_FLOAT: return v.u.f != 0.0;
    case JV_STR: return v.u.str.n > 0;
    case JV_LIST:
    case JV_TUPLE: return v.u.list->lazy || v.u.list->n > 0;
    case JV_DICT: return v.u.dict->n > 0;
    default: return true;
    }
}

static bool equal_lists(const jlist *a, const jlist *b)
{
    if (a == b) return true;
    if (a->n != b->n || a->lazy || b->lazy) return false;
    for (int64_t i = 0; i < a->n; i++)
        if (!jequal(a->v[i], b->v[i])) return false;
    return true;
}

bool jequal(jvalue a, jvalue b)
{
    double x, y;
    if (a.kind == JV_INT && b.kind == JV_INT) return a.u.i == b.u.i;
    if (jnumber(a, &x) && jnumber(b, &y)) return x == y;
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case JV_UNDEFINED:
    case JV_NONE: return true;
    case JV_STR: return jstr_same(a.u.str, b.u.str);
    case JV_LIST:
    case JV_TUPLE: return equal_lists(a.u.list, b.u.list);
    case JV_DICT:
        if (a.u.dict->n != b.u.dict->n) return false;
        for (int64_t i = 0; i < a.u.dict->n; i++) {
            const jvalue *other = jdict_find(b.u.dict, a.u.dict->key[i]);
            if (!other || !jequal(a.u.dict->v[i], *other)) return false;
        }
        return true;
    default: return a.u.dict == b.u.dict;
    }
}

int jcompare(jrun *r, jvalue a, jvalue b)
{
    double x, y;
    if (jnumber(a, &x) && jnumber(b, &y)) return x < y ? -1 : x > y;
    if (a.kind == JV_STR && b.kind == JV_STR) {
        const size_t n = a.u.str.n < b.u.str.n ? a.u.str.n : b.u.str.n;
        const int c = n ? memcmp(a.u.str.s, b.u.str.s, n) : 0;
        return c ? c : a.u.str.n < b.u.str.n ? -1 : a.u.str.n > b.u.str.n;
    }
    if (a.kind == b.kind && (a.kind == JV_LIST || a.kind == JV_TUPLE)) {
        const jlist *l = a.u.list, *m = b.u.list;
        for (int64_t i = 0; i < l->n && i < m->n; i++)
            if (!jequal(l->v[i], m->v[i])) return jcompare(r, l->v[i], m->v[i]);
        return l->n < m->n ? -1 : l->n > m->n;
    }
    if (a.kind == JV_UNDEFINED || b.kind == JV_UNDEFINED) {
        const jstr what = a.kind == JV_UNDEFINED ? a.u.str : b.u.str;
        jfail(r, "'%.*s' is undefined", (int)what.n, what.s ? what.s : "");
        return 0;
    }
    jfail(r, "'%s' and '%s' have no order", jkind_name(a), jkind_name(b));
    return 0;
}

const char *jkind_name(jvalue v)
{
    static const char *const names[] = {
        [JV_UNDEFINED] = "Undefined", [JV_NONE] = "NoneType",
        [JV_BOOL] = "bool",           [JV_INT] = "int",
        [JV_FLOAT] = "float",         [JV_STR] = "str",
        [JV_LIST] = "list",           [JV_TUPLE] = "tuple",
        [JV_DICT] = "dict",           [JV_NAMESPACE] = "Namespace",
        [JV_MACRO] = "Macro",         [JV_LOOP] = "LoopContext",
        [JV_METHOD] = "method",       [JV_FUNCTION] = "function",
    };
    if (v.kind == JV_LIST && v.u.list->lazy) return "generator";
    return names[v.kind];
}

/* ---- containers ---- */

int64_t jlength(jrun *r, jvalue v)
{
    switch (v.kind) {
    case JV_UNDEFINED: return 0;
    case JV_STR: return jstr_chars(v.u.str);
    case JV_LIST:
        if (v.u.list->lazy) break;
        return v.u.list->n;
    case JV_TUPLE: return v.u.list->n;
    case JV_DICT: return v.u.dict->n;
    case JV_LOOP: return v.u.loop->items->n;
    default: break;
    }
    jfail(r, "object of type '%s' has no length", jkind_name(v));
    return 0;
}

static const jlist empty_list;

const jlist *jitems(jrun *r, jvalue v)
{
    jvalue l;
    switch (v.kind) {
    case JV_UNDEFINED: return &empty_list;
    case JV_LIST:
    case JV_TUPLE:
        if (v.u.list->lazy && v.u.list->spent) return &empty_list;
        v.u.list->spent = true;
        return v.u.list;
    case JV_DICT:
        l = jv_list(r, JV_LIST);
        for (int64_t i = 0; i < v.u.dict->n && !r->st; i++) jlist_add(r, l, v.u.dict->key[i]);
        return r->st ? &empty_list : l.u.list;
    case JV_STR:
        l = jv_list(r, JV_LIST);
        for (size_t at = 0; at < v.u.str.n && !r->st;) {
            size_t to = at + 1;
            while (to < v.u.str.n && ((unsigned char)v.u.str.s[to] & 0xC0) == 0x80) to++;
            jlist_add(r, l, jv_str(jstr_part(v.u.str, at, to)));
            at = to;
        }
        return r->st ? &empty_list : l.u.list;
    default: jfail(r, "'%s' object is not iterable", jkind_name(v)); return &empty_list;
    }
}

bool jcontains(jrun *r, jvalue v, jvalue in)
{
    if (in.kind == JV_STR) {
        if (v.kind != JV_STR) {
            jfail(r, "'in <string>' requires string as left operand, not %s", jkind_name(v));
            return false;
        }
        return v.u.str.n == 0 || memmem(in.u.str.s, in.u.str.n, v.u.str.s, v.u.str.n);
    }
    if (in.kind == JV_DICT && (v.kind == JV_LIST || v.kind == JV_DICT)) {
        jfail(r, "unhashable type: '%s'", jkind_name(v));
        return false;
    }
    if (in.kind == JV_DICT) return jdict_find(in.u.dict, v) != NULL;
    const jlist *l = jitems(r, in);
    for (int64_t i = 0; i < l->n; i++)
        if (jequal(l->v[i], v)) return true;
    return false;
}

static jvalue loop_attr(jrun *r, const jloop *l, jstr name)
{
    const int64_t i = l->at, n = l->items->n;
    if (jstr_is(name, "index")) return jv_int(i + 1);
    if (jstr_is(name, "index0")) return jv_int(i);
    if (jstr_is(name, "revindex")) return jv_int(n - i);
    if (jstr_is(name, "revindex0")) return jv_int(n - i - 1);
    if (jstr_is(name, "first")) return jv_bool(i == 0);
    if (jstr_is(name, "last")) return jv_bool(i + 1 == n);
    if (jstr_is(name, "length")) return jv_int(n);
    if (jstr_is(name, "depth")) return jv_int(l->depth);
    if (jstr_is(name, "depth0")) return jv_int(l->depth - 1);
    if (jstr_is(name, "previtem") && i > 0) return l->items->v[i - 1];
    if (jstr_is(name, "nextitem") && i + 1 < n) return l->items->v[i + 1];
    (void)r;
    return jv_undefined(name);
}

static jvalue bound(jrun *r, jvalue self, jstr name)
{
    jmethod *m = jget(r, sizeof *m);
    if (!m) return jv_undefined(name);
    *m = (jmethod){self, name};
    return (jvalue){.kind = JV_METHOD, .u.method = m};
}

static jvalue undefined_has_none(jrun *r, jvalue v)
{
    return jfail(r, "'%.*s' is undefined", (int)v.u.str.n, v.u.str.s ? v.u.str.s : "");
}

jvalue jattr(jrun *r, jvalue v, jstr name)
{
    const jvalue *found = NULL;
    if (v.kind == JV_UNDEFINED) return undefined_has_none(r, v);
    if (v.kind == JV_LOOP && !jinja_has_method(v, name)) return loop_attr(r, v.u.loop, name);
    if (jinja_has_method(v, name)) return bound(r, v, name);
    if (v.kind == JV_DICT || v.kind == JV_NAMESPACE) found = jdict_find(v.u.dict, jv_str(name));
    return found ? *found : jv_undefined(name);
}

static jvalue sequence_item(jvalue v, int64_t i)
{
    if (v.kind == JV_STR) {
        const int64_t n = jstr_chars(v.u.str);
        if (i < 0) i += n;
        if (i < 0 || i >= n) return jv_undefined((jstr){0});
        const size_t at = jstr_byte(v.u.str, i);
        return jv_str(jstr_part(v.u.str, at, jstr_byte(v.u.str, i + 1)));
    }
    const jlist *l = v.u.list;
    if (i < 0) i += l->n;
    return i < 0 || i >= l->n || l->lazy ? jv_undefined((jstr){0}) : l->v[i];
}

jvalue jitem(jrun *r, jvalue v, jvalue key)
{
    if (v.kind == JV_UNDEFINED) return undefined_has_none(r, v);
    if (v.kind == JV_DICT) {
        const jvalue *found = jdict_find(v.u.dict, key);
        if (found) return *found;
    }
    const bool sequence = v.kind == JV_STR || v.kind == JV_LIST || v.kind == JV_TUPLE;
    if (sequence && (key.kind == JV_INT || key.kind == JV_BOOL))
        return sequence_item(v, key.kind == JV_INT ? key.u.i : key.u.b);
    if (key.kind != JV_STR) return jv_undefined((jstr){0});
    if (v.kind == JV_DICT)
        return jinja_has_method(v, key.u.str) ? bound(r, v, key.u.str) : jv_undefined(key.u.str);
    return jattr(r, v, key.u.str);
}

// Python's rule for the ends of a slice.
static int64_t slice_end(jrun *r, jvalue v, int64_t n, int64_t step, int64_t or_else)
{
    if (v.kind == JV_NONE) return or_else;
    if (v.kind != JV_INT && v.kind != JV_BOOL) {
        jfail(r, "slice indices must be integers or None, not '%s'", jkind_name(v));
        return 0;
    }
    int64_t i = v.kind == JV_INT ? v.u.i : v.u.b;
    if (i < 0) i = i < -n ? -1 : i + n;
    if (i < 0) return step > 0 ? 0 : -1;
    return i < n ? i : step > 0 ? n : n - 1;
}

jvalue jslice(jrun *r, jvalue v, const jvalue part[3])
{
    if (v.kind == JV_UNDEFINED) return undefined_has_none(r, v);
    if (v.kind != JV_STR && v.kind != JV_TUPLE && (v.kind != JV_LIST || v.u.list->lazy))
        return jfail(r, "a '%s' cannot be sliced", jkind_name(v));
    const int64_t n = jlength(r, v), step = part[2].kind == JV_INT ? part[2].u.i : 1;
    if (step == 0) return jfail(r, "slice step cannot be zero");
    const int64_t from = slice_end(r, part[0], n, step, step > 0 ? 0 : n - 1),
                  to = slice_end(r, part[1], n, step, step > 0 ? n : -1);
    if (r->st) return jv_undefined((jstr){0});
    if (v.kind == JV_STR && step == 1)
        return jv_str(jstr_part(v.u.str, jstr_byte(v.u.str, from),
                                jstr_byte(v.u.str, to > from ? to : from)));
    if (v.kind == JV_STR) {
        const jlist *chars = jitems(r, v);
        jout o = {0};
        for (int64_t i = from; (step > 0 ? i < to : i > to) && !r->st; i += step)
            jout_add(r, &o, chars->v[i].u.str);
        return jv_str(jout_str(&o));
    }
    const jvalue l = jv_list(r, v.kind);
    for (int64_t i = from; (step > 0 ? i < to : i > to) && !r->st; i += step)
        jlist_add(r, l, v.u.list->v[i]);
    return l;
}

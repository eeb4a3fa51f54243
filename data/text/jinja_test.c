/*
 * jinja_test.c - tests of the template language: `value is name(arguments)`.
 */
#include "data/text/jinja_parts.h"
#include "data/text/jinja_text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static double remainder_of(jrun *r, jvalue v, int64_t by)
{
    double f;
    if (!jnumber(v, &f) || by == 0) {
        jfail(r, "'%s' cannot be divided by %lld here", jkind_name(v), (long long)by);
        return -1.0;
    }
    if (v.kind == JV_FLOAT) return f - floor(f / (double)by) * (double)by;
    const int64_t i = v.kind == JV_INT ? v.u.i : v.u.b;
    return by == -1 ? 0.0 : (double)((i % by + by) % by);
}

static bool iterable(jvalue v)
{
    return v.kind == JV_STR || v.kind == JV_LIST || v.kind == JV_TUPLE || v.kind == JV_DICT ||
           v.kind == JV_UNDEFINED;
}

static bool t_defined(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind != JV_UNDEFINED;
}
static bool t_undefined(jrun *r, jvalue v, jvalue x)
{
    return !t_defined(r, v, x);
}
static bool t_none(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_NONE;
}
static bool t_true(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_BOOL && v.u.b;
}
static bool t_false(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_BOOL && !v.u.b;
}
static bool t_boolean(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_BOOL;
}
static bool t_string(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_STR;
}
static bool t_integer(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_INT;
}
static bool t_float(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_FLOAT;
}
static bool t_number(jrun *r, jvalue v, jvalue x)
{
    double f;
    (void)r;
    (void)x;
    return jnumber(v, &f);
}
static bool t_mapping(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_DICT;
}
static bool t_sequence(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return iterable(v) && !(v.kind == JV_LIST && v.u.list->lazy);
}
static bool t_iterable(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return iterable(v);
}
static bool t_callable(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    (void)x;
    return v.kind == JV_MACRO || v.kind == JV_METHOD || v.kind == JV_FUNCTION;
}
static bool t_eq(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    return jequal(v, x);
}
static bool t_ne(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    return !jequal(v, x);
}
static bool t_lt(jrun *r, jvalue v, jvalue x)
{
    return jcompare(r, v, x) < 0;
}
static bool t_le(jrun *r, jvalue v, jvalue x)
{
    return jcompare(r, v, x) <= 0;
}
static bool t_gt(jrun *r, jvalue v, jvalue x)
{
    return jcompare(r, v, x) > 0;
}
static bool t_ge(jrun *r, jvalue v, jvalue x)
{
    return jcompare(r, v, x) >= 0;
}
static bool t_in(jrun *r, jvalue v, jvalue x)
{
    return jcontains(r, v, x);
}
static bool t_odd(jrun *r, jvalue v, jvalue x)
{
    (void)x;
    return remainder_of(r, v, 2) == 1.0;
}
static bool t_even(jrun *r, jvalue v, jvalue x)
{
    (void)x;
    return remainder_of(r, v, 2) == 0.0;
}
static bool t_divisibleby(jrun *r, jvalue v, jvalue x)
{
    return remainder_of(r, v, x.kind == JV_INT ? x.u.i : 0) == 0.0;
}
static bool t_sameas(jrun *r, jvalue v, jvalue x)
{
    (void)r;
    return v.kind == x.kind && jequal(v, x);
}
static bool t_lower(jrun *r, jvalue v, jvalue x)
{
    (void)x;
    return jtext_is(jto_str(r, v), JTEXT_LOWER);
}
static bool t_upper(jrun *r, jvalue v, jvalue x)
{
    (void)x;
    return jtext_is(jto_str(r, v), JTEXT_UPPER);
}

static const struct {
    const char *name;
    bool (*is)(jrun *r, jvalue v, jvalue x);
    bool argument;
} tests[] = {
    {"defined", t_defined, false},
    {"undefined", t_undefined, false},
    {"none", t_none, false},
    {"true", t_true, false},
    {"false", t_false, false},
    {"boolean", t_boolean, false},
    {"string", t_string, false},
    {"integer", t_integer, false},
    {"float", t_float, false},
    {"number", t_number, false},
    {"mapping", t_mapping, false},
    {"sequence", t_sequence, false},
    {"iterable", t_iterable, false},
    {"callable", t_callable, false},
    {"odd", t_odd, false},
    {"even", t_even, false},
    {"lower", t_lower, false},
    {"upper", t_upper, false},
    {"divisibleby", t_divisibleby, true},
    {"sameas", t_sameas, true},
    {"in", t_in, true},
    {"eq", t_eq, true},
    {"equalto", t_eq, true},
    {"==", t_eq, true},
    {"ne", t_ne, true},
    {"!=", t_ne, true},
    {"lt", t_lt, true},
    {"lessthan", t_lt, true},
    {"<", t_lt, true},
    {"le", t_le, true},
    {"<=", t_le, true},
    {"gt", t_gt, true},
    {"greaterthan", t_gt, true},
    {">", t_gt, true},
    {"ge", t_ge, true},
    {">=", t_ge, true},
};
enum { TESTS = (int)(sizeof tests / sizeof *tests) };

bool jinja_knows_test(jstr name, const char **near)
{
    const char *names[TESTS];
    char text[64];
    for (int i = 0; i < TESTS; i++) {
        names[i] = tests[i].name;
        if (jstr_is(name, tests[i].name)) return true;
    }
    snprintf(text, sizeof text, "%.*s", (int)name.n, name.s);
    *near = pc_nearest(text, names, TESTS);
    return false;
}

bool jinja_test(jrun *r, jstr name, jvalue v, jargs a)
{
    const jvalue x = jarg(a, 0, "other", jv_undefined((jstr){0}));
    for (int i = 0; i < TESTS; i++) {
        if (!jstr_is(name, tests[i].name)) continue;
        if ((a.list->n + a.keys->n > 0) == tests[i].argument) return tests[i].is(r, v, x);
        jfail(r, "test '%s' takes %s argument", tests[i].name, tests[i].argument ? "one" : "no");
        return false;
    }
    jfail(r, "test '%.*s' is not supported", (int)name.n, name.s);
    return false;
}

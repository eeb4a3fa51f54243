/*
 * jinja_eval.c - expressions of the template language.
 */
#include "data/text/jinja_parts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

jvalue jfail(jrun *r, const char *fmt, ...)
{
    char text[900];
    if (!r->st) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        r->st = pc_fail(PC_ERR_INPUT, "line %d: %s", r->line, text);
    }
    return jv_undefined((jstr){0});
}

bool jstep(jrun *r)
{
    if (++r->steps > JINJA_STEPS_MAX)
        jfail(r, "the template takes more than %lld steps", (long long)JINJA_STEPS_MAX);
    return !r->st;
}

/* ---- operators ---- */

static jvalue text_sum(jrun *r, jstr a, jstr b)
{
    jout o = {0};
    jout_add(r, &o, a);
    jout_add(r, &o, b);
    return jv_str(jout_str(&o));
}

static jvalue list_sum(jrun *r, jvalue a, jvalue b)
{
    const jvalue l = jv_list(r, a.kind);
    for (int64_t i = 0; i < a.u.list->n && !r->st; i++) jlist_add(r, l, a.u.list->v[i]);
    for (int64_t i = 0; i < b.u.list->n && !r->st; i++) jlist_add(r, l, b.u.list->v[i]);
    return l;
}

static jvalue repeated(jrun *r, jvalue v, int64_t times)
{
    if (v.kind == JV_STR) {
        jout o = {0};
        for (int64_t i = 0; i < times && v.u.str.n && jstep(r); i++) jout_add(r, &o, v.u.str);
        return jv_str(jout_str(&o));
    }
    const jvalue l = jv_list(r, v.kind);
    for (int64_t i = 0; i < times && !r->st; i++)
        for (int64_t k = 0; k < v.u.list->n && jstep(r); k++) jlist_add(r, l, v.u.list->v[k]);
    return l;
}

static bool whole(jvalue v, int64_t *out)
{
    if (v.kind == JV_INT) *out = v.u.i;
    if (v.kind == JV_BOOL) *out = v.u.b;
    return v.kind == JV_INT || v.kind == JV_BOOL;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    const int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static jvalue whole_power(jrun *r, int64_t a, int64_t b)
{
    int64_t out = 1;
    for (int64_t i = 0; i < b; i++)
        if (!jstep(r) || __builtin_mul_overflow(out, a, &out))
            return jfail(r, "a number beyond 64 bits");
    return jv_int(out);
}

static jvalue whole_binary(jrun *r, int op, int64_t a, int64_t b)
{
    int64_t out = 0;
    bool beyond = false;
    if ((op == '%' || op == 'D') && (b == 0 || (a == INT64_MIN && b == -1)))
        return jfail(r, b ? "a number beyond 64 bits" : "division by zero");
    switch (op) {
    case '+': beyond = __builtin_add_overflow(a, b, &out); break;
    case '-': beyond = __builtin_sub_overflow(a, b, &out); break;
    case '*': beyond = __builtin_mul_overflow(a, b, &out); break;
    case 'D': out = floor_div(a, b); break;
    case '%': out = a - floor_div(a, b) * b; break;
    default: return whole_power(r, a, b);
    }
    return beyond ? jfail(r, "a number beyond 64 bits") : jv_int(out);
}

static jvalue real_binary(jrun *r, int op, double a, double b)
{
    if ((op == '/' || op == '%' || op == 'D') && b == 0.0) return jfail(r, "division by zero");
    switch (op) {
    case '+': return jv_float(a + b);
    case '-': return jv_float(a - b);
    case '*': return jv_float(a * b);
    case '/': return jv_float(a / b);
    case 'D': return jv_float(floor(a / b));
    case '%': return jv_float(a - floor(a / b) * b);
    default: return jv_float(pow(a, b));
    }
}

static jvalue wrong_operands(jrun *r, int op, jvalue a, jvalue b)
{
    const char text[2] = {(char)op, '\0'};
    const jvalue u = a.kind == JV_UNDEFINED ? a : b;
    if (u.kind == JV_UNDEFINED)
        return jfail(r, "'%.*s' is undefined", (int)u.u.str.n, u.u.str.s ? u.u.str.s : "");
    if (op == '+' && a.kind == JV_STR)
        return jfail(r, "can only concatenate str (not \"%s\") to str", jkind_name(b));
    if (op == '%' && a.kind == JV_STR)
        return jfail(r, "formatting a text with %% is not supported; use ~");
    return jfail(r, "unsupported operand type(s) for %s: '%s' and '%s'",
                 op == 'P'   ? "**"
                 : op == 'D' ? "//"
                             : text,
                 jkind_name(a), jkind_name(b));
}

static bool sequence(jvalue v)
{
    return v.kind == JV_STR || v.kind == JV_TUPLE || (v.kind == JV_LIST && !v.u.list->lazy);
}

static jvalue binary(jrun *r, int op, jvalue a, jvalue b)
{
    int64_t x = 0, y = 0;
    double f, g;
    if (op == '~') return text_sum(r, jto_str(r, a), jto_str(r, b));
    if (whole(a, &x) && whole(b, &y) && op != '/' && !(op == 'P' && y < 0))
        return whole_binary(r, op, x, y);
    if (jnumber(a, &f) && jnumber(b, &g)) return real_binary(r, op, f, g);
    if (op == '+' && a.kind == JV_STR && b.kind == JV_STR) return text_sum(r, a.u.str, b.u.str);
    if (op == '+' && a.kind == b.kind && sequence(a) && sequence(b)) return list_sum(r, a, b);
    if (op == '*' && sequence(a) && whole(b, &y)) return repeated(r, a, y);
    if (op == '*' && whole(a, &x) && sequence(b)) return repeated(r, b, x);
    return wrong_operands(r, op, a, b);
}

static bool compare(jrun *r, int op, jvalue a, jvalue b)
{
    switch (op) {
    case JOP_EQ: return jequal(a, b);
    case JOP_NE: return !jequal(a, b);
    case JOP_IN: return jcontains(r, a, b);
    case JOP_NOT_IN: return !jcontains(r, a, b);
    case '<': return jcompare(r, a, b) < 0;
    case '>': return jcompare(r, a, b) > 0;
    case JOP_LE: return jcompare(r, a, b) <= 0;
    default: return jcompare(r, a, b) >= 0;
    }
}

/* ---- nodes ---- */

static jvalue eval_list(jrun *r, const jnodes *items, jkind kind)
{
    const jvalue l = jv_list(r, kind);
    for (int i = 0; i < items->n && !r->st; i++) jlist_add(r, l, jinja_eval(r, items->v[i]));
    return l;
}

static jvalue eval_dict(jrun *r, const jnode *n)
{
    const jvalue d = jv_dict(r);
    for (int i = 0; i < n->args.n && !r->st; i++) {
        const jvalue key = jinja_eval(r, n->args.v[i]);
        jdict_set(r, d.u.dict, key, jinja_eval(r, n->more.v[i]));
    }
    return d;
}

// The arguments of a call, filter or test.
static jargs eval_args(jrun *r, const jnode *n)
{
    static const jlist none;
    static const jdict nothing;
    jargs a = {&none, &nothing};
    if (n->args.n) {
        const jvalue l = eval_list(r, &n->args, JV_LIST);
        if (!r->st) a.list = l.u.list;
    }
    if (n->more.n) {
        const jvalue d = jv_dict(r);
        for (int i = 0; i < n->more.n && !r->st; i++)
            jdict_set(r, d.u.dict, jv_str(n->names[i]), jinja_eval(r, n->more.v[i]));
        if (!r->st) a.keys = d.u.dict;
    }
    return a;
}

static jvalue eval_slice(jrun *r, const jnode *n)
{
    const jvalue v = jinja_eval(r, n->a);
    const jvalue part[3] = {n->b ? jinja_eval(r, n->b) : jv_none(),
                            n->c ? jinja_eval(r, n->c) : jv_none(),
                            n->target ? jinja_eval(r, n->target) : jv_none()};
    return r->st ? v : jslice(r, v, part);
}

static jvalue eval_compare(jrun *r, const jnode *n)
{
    jvalue a = jinja_eval(r, n->a);
    bool so = true;
    for (int i = 0; i < n->more.n && so && !r->st; i++) {
        const jvalue b = jinja_eval(r, n->more.v[i]);
        if (r->st) break;
        so = compare(r, n->ops[i], a, b);
        a = b;
    }
    return jv_bool(so);
}

static jvalue eval_sign(jrun *r, const jnode *n)
{
    const jvalue v = jinja_eval(r, n->a);
    int64_t i;
    if (r->st) return v;
    if (whole(v, &i)) {
        if (i == INT64_MIN) return jfail(r, "a number beyond 64 bits");
        return jv_int(n->kind == JN_NEGATE ? -i : i);
    }
    if (v.kind == JV_FLOAT) return jv_float(n->kind == JN_NEGATE ? -v.u.f : v.u.f);
    return jfail(r, "bad operand type for unary %c: '%s'", n->kind == JN_NEGATE ? '-' : '+',
                 jkind_name(v));
}

static jvalue eval_call(jrun *r, const jnode *n)
{
    const jvalue f = jinja_eval(r, n->a);
    if (r->st) return f;
    const jargs a = eval_args(r, n);
    if (r->st) return f;
    r->line = n->line;
    if (f.kind == JV_UNDEFINED && n->a->kind == JN_ATTR)
        return jfail(r, "method '%.*s' is not supported", (int)n->a->name.n, n->a->name.s);
    return jinja_call(r, f, a);
}

static jvalue eval_filter(jrun *r, const jnode *n)
{
    const jvalue v = jinja_eval(r, n->a);
    if (r->st) return v;
    const jargs a = eval_args(r, n);
    r->line = n->line;
    return r->st ? v : jinja_filter(r, n->name, v, a);
}

static jvalue eval_test(jrun *r, const jnode *n)
{
    const jvalue v = jinja_eval(r, n->a);
    if (r->st) return v;
    const jargs a = eval_args(r, n);
    r->line = n->line;
    return r->st ? v : jv_bool(jinja_test(r, n->name, v, a));
}

static jvalue eval_node(jrun *r, const jnode *n)
{
    jvalue a, b;
    switch (n->kind) {
    case JN_CONST: return n->value;
    case JN_NAME: return jinja_lookup(r, n->name);
    case JN_LIST: return eval_list(r, &n->args, JV_LIST);
    case JN_TUPLE: return eval_list(r, &n->args, JV_TUPLE);
    case JN_DICT: return eval_dict(r, n);
    case JN_ATTR: a = jinja_eval(r, n->a); return r->st ? a : jattr(r, a, n->name);
    case JN_ITEM:
        a = jinja_eval(r, n->a);
        b = jinja_eval(r, n->b);
        return r->st ? a : jitem(r, a, b);
    case JN_SLICE: return eval_slice(r, n);
    case JN_CALL: return eval_call(r, n);
    case JN_FILTER: return eval_filter(r, n);
    case JN_TEST: return eval_test(r, n);
    case JN_NOT: a = jinja_eval(r, n->a); return jv_bool(!jtruth(a));
    case JN_NEGATE:
    case JN_PLUS: return eval_sign(r, n);
    case JN_BINARY:
        a = jinja_eval(r, n->a);
        b = jinja_eval(r, n->b);
        r->line = n->line;
        return r->st ? a : binary(r, n->op, a, b);
    case JN_COMPARE: return eval_compare(r, n);
    case JN_AND: a = jinja_eval(r, n->a); return r->st || !jtruth(a) ? a : jinja_eval(r, n->b);
    case JN_OR: a = jinja_eval(r, n->a); return r->st || jtruth(a) ? a : jinja_eval(r, n->b);
    case JN_IF_ELSE:
        a = jinja_eval(r, n->b);
        if (r->st) return a;
        if (jtruth(a)) return jinja_eval(r, n->a);
        return n->c ? jinja_eval(r, n->c) : jv_undefined((jstr){0});
    default: break;
    }
    return jfail(r, "a statement where a value is expected");
}

jvalue jinja_eval(jrun *r, const jnode *n)
{
    if (!jstep(r)) return jv_undefined((jstr){0});
    if (r->depth >= JINJA_RUN_DEPTH)
        return jfail(r, "the template nests deeper than %d levels", JINJA_RUN_DEPTH);
    r->depth++;
    r->line = n->line;
    const jvalue v = eval_node(r, n);
    r->depth--;
    return r->st ? jv_undefined((jstr){0}) : v;
}

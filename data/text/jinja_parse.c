/*
 * jinja_parse.c - expressions of the template language, by recursive descent with Jinja's precedence:
 *
 *   a if b else c  <  or  <  and  <  not  <  comparisons, in  <  + -  <  ~  <  * / // %  <  **  <  unary - +
 *   <  .name [item] (call)  <  |filter, is test
 */
#include "data/text/jinja_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors, tokens, nodes ---- */

void jparse_fail(jparser *p, int line, const char *fmt, ...)
{
    char text[512];
    if (p->st) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    p->st = pc_fail(PC_ERR_FORMAT, "line %d: %s", line, text);
}

const jtoken *jparse_peek(const jparser *p)
{
    static const jtoken end = {.kind = JT_END};
    return p->at < p->count && !p->st ? &p->tokens[p->at] : &end;
}

static const jtoken *next(jparser *p)
{
    const jtoken *t = jparse_peek(p);
    if (p->at < p->count) p->at++;
    return t;
}

bool jparse_is_name(const jparser *p, const char *name)
{
    const jtoken *t = jparse_peek(p);
    return t->kind == JT_NAME && jstr_is(t->text, name);
}

bool jparse_is_op(const jparser *p, int op)
{
    const jtoken *t = jparse_peek(p);
    return t->kind == JT_OP && t->op == op;
}

bool jparse_skip_name(jparser *p, const char *name)
{
    const bool is = jparse_is_name(p, name);
    if (is) next(p);
    return is;
}

bool jparse_skip_op(jparser *p, int op)
{
    const bool is = jparse_is_op(p, op);
    if (is) next(p);
    return is;
}

void jparse_need_op(jparser *p, int op, const char *what)
{
    const int line = jparse_peek(p)->line;
    if (!jparse_skip_op(p, op)) jparse_fail(p, line, "expected '%c' %s", op, what);
}

jstr jparse_need_name(jparser *p, const char *what)
{
    const jtoken *t = next(p);
    if (t->kind != JT_NAME) jparse_fail(p, t->line, "expected a name %s", what);
    return t->text;
}

static void *get(jparser *p, size_t size)
{
    void *m = jpool_get(p->pool, size);
    if (!m && !p->st) p->st = pc_fail(PC_ERR_MEMORY, "the tree of a template");
    return m;
}

jnode *jparse_node(jparser *p, jnode_kind kind, int line)
{
    jnode *n = get(p, sizeof *n);
    if (!n) return &p->broken;
    n->kind = kind;
    n->line = line;
    return n;
}

void jparse_add(jparser *p, jnodes *list, jnode *node)
{
    if (p->st) return;
    if (list->n == list->room) {
        const int room = list->room ? 2 * list->room : 4;
        jnode **v = get(p, (size_t)room * sizeof *v);
        if (!v) return;
        if (list->n) memcpy(v, list->v, (size_t)list->n * sizeof *v);
        list->v = v;
        list->room = room;
    }
    list->v[list->n++] = node;
}

static bool deeper(jparser *p)
{
    if (++p->depth > JINJA_PARSE_DEPTH)
        jparse_fail(p, jparse_peek(p)->line, "expressions nest deeper than %d levels",
                    JINJA_PARSE_DEPTH);
    return !p->st;
}

/* ---- arguments ---- */

static void add_keyword(jparser *p, jnode *call, jstr name, jnode *value)
{
    jstr *names = get(p, (size_t)(call->more.n + 1) * sizeof *names);
    if (!names) return;
    if (call->more.n) memcpy(names, call->names, (size_t)call->more.n * sizeof *names);
    names[call->more.n] = name;
    call->names = names;
    jparse_add(p, &call->more, value);
}

// Behind "(", up to and with ")".
static void parse_arguments(jparser *p, jnode *call)
{
    while (!p->st && !jparse_skip_op(p, ')')) {
        const jtoken *t = jparse_peek(p);
        const jtoken *behind = p->at + 1 < p->count ? &p->tokens[p->at + 1] : t;
        if (jparse_is_op(p, '*') || jparse_is_op(p, 'P'))
            jparse_fail(p, t->line, "arguments unpacked with * or ** are not supported");
        if (t->kind == JT_NAME && behind->kind == JT_OP && behind->op == '=') {
            next(p);
            next(p);
            add_keyword(p, call, t->text, jparse_expression(p));
        } else if (call->more.n) {
            jparse_fail(p, t->line, "a positional argument behind a named one");
        } else {
            jparse_add(p, &call->args, jparse_expression(p));
        }
        if (jparse_skip_op(p, ')')) return;
        jparse_need_op(p, ',', "between arguments");
    }
}

/* ---- primaries ---- */

// Behind "[" or "(", up to and with `close`.
static void parse_items(jparser *p, jnode *list, int close)
{
    while (!p->st && !jparse_skip_op(p, close)) {
        jparse_add(p, &list->args, jparse_expression(p));
        if (jparse_skip_op(p, close)) return;
        jparse_need_op(p, ',', "between items");
    }
}

static jnode *parse_dict(jparser *p, int line)
{
    jnode *d = jparse_node(p, JN_DICT, line);
    while (!p->st && !jparse_skip_op(p, '}')) {
        jparse_add(p, &d->args, jparse_expression(p));
        jparse_need_op(p, ':', "behind a key");
        jparse_add(p, &d->more, jparse_expression(p));
        if (jparse_skip_op(p, '}')) break;
        jparse_need_op(p, ',', "between items");
    }
    return d;
}

// Behind "(": a value in parentheses, or a tuple.
static jnode *parse_parentheses(jparser *p, int line)
{
    jnode *tuple = jparse_node(p, JN_TUPLE, line);
    if (jparse_skip_op(p, ')')) return tuple;
    jnode *first = jparse_expression(p);
    if (jparse_skip_op(p, ')')) return first;
    jparse_add(p, &tuple->args, first);
    jparse_need_op(p, ',', "or ')'");
    parse_items(p, tuple, ')');
    return tuple;
}

static jnode *parse_strings(jparser *p, const jtoken *t)
{
    jnode *n = jparse_node(p, JN_CONST, t->line);
    jstr all = t->text;
    while (jparse_peek(p)->kind == JT_STRING) { // 'a' 'b' is 'ab'
        const jstr more = next(p)->text;
        char *joined = get(p, all.n + more.n + 1);
        if (!joined) break;
        memcpy(joined, all.s, all.n);
        memcpy(joined + all.n, more.s, more.n);
        all = (jstr){.s = joined, .n = all.n + more.n};
    }
    n->value = jv_str(all);
    return n;
}

static jnode *parse_name(jparser *p, const jtoken *t)
{
    const bool yes = jstr_is(t->text, "true") || jstr_is(t->text, "True"),
               no = jstr_is(t->text, "false") || jstr_is(t->text, "False");
    jnode *n = jparse_node(p, JN_NAME, t->line);
    n->name = t->text;
    if (!yes && !no && !jstr_is(t->text, "none") && !jstr_is(t->text, "None")) return n;
    n->kind = JN_CONST;
    n->value = yes || no ? jv_bool(yes) : jv_none();
    return n;
}

static jnode *parse_primary(jparser *p)
{
    const jtoken *t = next(p);
    jnode *n;
    switch (t->kind) {
    case JT_NAME: return parse_name(p, t);
    case JT_STRING: return parse_strings(p, t);
    case JT_INT:
    case JT_FLOAT:
        n = jparse_node(p, JN_CONST, t->line);
        n->value = t->value;
        return n;
    case JT_OP:
        if (t->op == '(') return parse_parentheses(p, t->line);
        if (t->op == '{') return parse_dict(p, t->line);
        if (t->op == '[') {
            n = jparse_node(p, JN_LIST, t->line);
            parse_items(p, n, ']');
            return n;
        }
        break;
    default: break;
    }
    jparse_fail(p, t->line, "a value is missing");
    return jparse_node(p, JN_CONST, t->line);
}

/* ---- what stands behind a primary ---- */

// Behind "[": an item or a slice.
static jnode *parse_item(jparser *p, jnode *a, int line)
{
    jnode *n = jparse_node(p, JN_ITEM, line);
    jnode *part[3] = {NULL, NULL, NULL};
    int colons = 0;
    n->a = a;
    while (!p->st && !jparse_is_op(p, ']')) {
        if (jparse_skip_op(p, ':')) {
            if (++colons > 2) jparse_fail(p, line, "a slice has at most three parts");
        } else if (part[colons]) {
            jparse_fail(p, line, "several items in [] are not supported");
        } else {
            part[colons] = jparse_expression(p);
        }
    }
    jparse_need_op(p, ']', "behind an item");
    if (colons == 0 && !part[0]) jparse_fail(p, line, "an item is missing in []");
    n->b = part[0];
    if (colons == 0) return n;
    n->kind = JN_SLICE;
    n->c = part[1];
    n->target = part[2]; // the step
    return n;
}

static jnode *parse_attribute(jparser *p, jnode *a, int line)
{
    const jtoken *t = next(p);
    jnode *n = jparse_node(p, t->kind == JT_INT ? JN_ITEM : JN_ATTR, line);
    n->a = a;
    if (t->kind == JT_INT) {
        n->b = jparse_node(p, JN_CONST, line);
        n->b->value = t->value;
    } else if (t->kind == JT_NAME) {
        n->name = t->text;
    } else {
        jparse_fail(p, line, "a name is missing behind '.'");
    }
    return n;
}

static jnode *parse_call(jparser *p, jnode *a, int line)
{
    jnode *n = jparse_node(p, JN_CALL, line);
    n->a = a;
    parse_arguments(p, n);
    return n;
}

static jnode *parse_postfix(jparser *p, jnode *a)
{
    while (!p->st) {
        const int line = jparse_peek(p)->line;
        if (jparse_skip_op(p, '.'))
            a = parse_attribute(p, a, line);
        else if (jparse_skip_op(p, '['))
            a = parse_item(p, a, line);
        else if (jparse_skip_op(p, '('))
            a = parse_call(p, a, line);
        else
            break;
    }
    return a;
}

static void name_known(jparser *p, bool known, const char *what, const jnode *n, const char *near)
{
    if (known) return;
    jparse_fail(p, n->line, "%s '%.*s' is not supported%s%s%s", what, (int)n->name.n, n->name.s,
                near ? " (nearest: '" : "", near ? near : "", near ? "')" : "");
}

static jnode *parse_filter(jparser *p, jnode *a, int line)
{
    jnode *n = jparse_node(p, JN_FILTER, line);
    const char *near = NULL;
    n->a = a;
    n->name = jparse_need_name(p, "of a filter behind '|'");
    const bool known = p->st || jinja_knows_filter(n->name, &near);
    name_known(p, known, "filter", n, near);
    if (jparse_skip_op(p, '(')) parse_arguments(p, n);
    return n;
}

jnode *jparse_filters(jparser *p, jnode *a)
{
    const int line = jparse_peek(p)->line;
    if (!a) a = parse_filter(p, NULL, line);
    while (!p->st && jparse_skip_op(p, '|')) a = parse_filter(p, a, jparse_peek(p)->line);
    return a;
}

// Behind `is`: a test, whose one argument may stand without parentheses.
static jnode *parse_test(jparser *p, jnode *a, int line)
{
    const bool negated = jparse_skip_name(p, "not");
    jnode *n = jparse_node(p, JN_TEST, line);
    const char *near = NULL;
    n->a = a;
    n->name = jparse_need_name(p, "of a test behind 'is'");
    const bool known = p->st || jinja_knows_test(n->name, &near);
    name_known(p, known, "test", n, near);
    const jtoken *t = jparse_peek(p);
    const bool word = t->kind == JT_NAME && !jparse_is_name(p, "else") &&
                      !jparse_is_name(p, "or") && !jparse_is_name(p, "and") &&
                      !jparse_is_name(p, "is") && !jparse_is_name(p, "if") &&
                      !jparse_is_name(p, "not") && !jparse_is_name(p, "in");
    const bool value = t->kind == JT_STRING || t->kind == JT_INT || t->kind == JT_FLOAT ||
                       jparse_is_op(p, '[') || jparse_is_op(p, '{');
    if (jparse_skip_op(p, '('))
        parse_arguments(p, n);
    else if (word || value)
        jparse_add(p, &n->args, parse_postfix(p, parse_primary(p)));
    if (!negated) return n;
    jnode *wrong = jparse_node(p, JN_NOT, line);
    wrong->a = n;
    return wrong;
}

static jnode *parse_behind(jparser *p, jnode *a)
{
    while (!p->st) {
        const int line = jparse_peek(p)->line;
        if (jparse_skip_op(p, '|'))
            a = parse_filter(p, a, line);
        else if (jparse_skip_name(p, "is"))
            a = parse_test(p, a, line);
        else if (jparse_skip_op(p, '('))
            a = parse_call(p, a, line);
        else
            break;
    }
    return a;
}

static jnode *parse_unary(jparser *p, bool filters)
{
    const int line = jparse_peek(p)->line;
    jnode *n;
    if (!deeper(p)) return jparse_node(p, JN_CONST, line);
    if (jparse_is_op(p, '-') || jparse_is_op(p, '+')) {
        n = jparse_node(p, next(p)->op == '-' ? JN_NEGATE : JN_PLUS, line);
        n->a = parse_unary(p, false);
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    if (filters) n = parse_behind(p, n);
    p->depth--;
    return n;
}

/* ---- operators ---- */

static jnode *binary(jparser *p, jnode_kind kind, int op, int line, jnode *a, jnode *b)
{
    jnode *n = jparse_node(p, kind, line);
    n->op = op;
    n->a = a;
    n->b = b;
    return n;
}

typedef jnode *level(jparser *p);

// a op b op c, from the left.
static jnode *parse_left(jparser *p, level *below, const char *ops)
{
    jnode *a = below(p);
    while (!p->st && jparse_peek(p)->kind == JT_OP && jparse_peek(p)->op < 128 &&
           strchr(ops, jparse_peek(p)->op)) {
        const jtoken *t = next(p);
        a = binary(p, JN_BINARY, t->op, t->line, a, below(p));
    }
    return a;
}

static jnode *parse_operand(jparser *p)
{
    return parse_unary(p, true);
}
static jnode *parse_power(jparser *p)
{
    return parse_left(p, parse_operand, "P");
}
static jnode *parse_product(jparser *p)
{
    return parse_left(p, parse_power, "*/%D");
}
static jnode *parse_concat(jparser *p)
{
    return parse_left(p, parse_product, "~");
}
static jnode *parse_sum(jparser *p)
{
    return parse_left(p, parse_concat, "+-");
}

static int comparison(jparser *p)
{
    const jtoken *t = jparse_peek(p);
    if (t->kind == JT_OP && (t->op == '<' || t->op == '>' || (t->op >= JOP_EQ && t->op <= JOP_GE)))
        return next(p)->op;
    if (jparse_skip_name(p, "in")) return JOP_IN;
    if (jparse_is_name(p, "not") && p->at + 1 < p->count && p->tokens[p->at + 1].kind == JT_NAME &&
        jstr_is(p->tokens[p->at + 1].text, "in")) {
        next(p);
        next(p);
        return JOP_NOT_IN;
    }
    return 0;
}

static jnode *parse_compare(jparser *p)
{
    jnode *a = parse_sum(p), *n = NULL;
    int op;
    while (!p->st && (op = comparison(p)) != 0) {
        if (!n) {
            n = jparse_node(p, JN_COMPARE, jparse_peek(p)->line);
            n->a = a;
        }
        int *ops = get(p, (size_t)(n->more.n + 1) * sizeof *ops);
        if (!ops) break;
        if (n->more.n) memcpy(ops, n->ops, (size_t)n->more.n * sizeof *ops);
        ops[n->more.n] = op;
        n->ops = ops;
        jparse_add(p, &n->more, parse_sum(p));
    }
    return n ? n : a;
}

static jnode *parse_not(jparser *p)
{
    const int line = jparse_peek(p)->line;
    if (!jparse_is_name(p, "not")) return parse_compare(p);
    if (!deeper(p)) return jparse_node(p, JN_CONST, line);
    next(p);
    jnode *n = jparse_node(p, JN_NOT, line);
    n->a = parse_not(p);
    p->depth--;
    return n;
}

static jnode *parse_and(jparser *p)
{
    jnode *a = parse_not(p);
    while (!p->st && jparse_skip_name(p, "and"))
        a = binary(p, JN_AND, 0, jparse_peek(p)->line, a, parse_not(p));
    return a;
}

jnode *jparse_unconditional(jparser *p)
{
    jnode *a = parse_and(p);
    while (!p->st && jparse_skip_name(p, "or"))
        a = binary(p, JN_OR, 0, jparse_peek(p)->line, a, parse_and(p));
    return a;
}

jnode *jparse_expression(jparser *p)
{
    const int line = jparse_peek(p)->line;
    if (!deeper(p)) return jparse_node(p, JN_CONST, line);
    jnode *a = jparse_unconditional(p);
    while (!p->st && jparse_skip_name(p, "if")) {
        jnode *n = jparse_node(p, JN_IF_ELSE, line);
        n->a = a;
        n->b = jparse_unconditional(p);
        if (jparse_skip_name(p, "else")) n->c = jparse_expression(p);
        a = n;
    }
    p->depth--;
    return a;
}

jnode *jparse_tuple(jparser *p, bool conditional)
{
    level *one = conditional ? jparse_expression : jparse_unconditional;
    const int line = jparse_peek(p)->line;
    jnode *first = one(p);
    if (!jparse_is_op(p, ',')) return first;
    jnode *tuple = jparse_node(p, JN_TUPLE, line);
    jparse_add(p, &tuple->args, first);
    while (!p->st && jparse_skip_op(p, ',')) {
        const jtoken_kind k = jparse_peek(p)->kind;
        if (k == JT_BLOCK_END || k == JT_OUTPUT_END) break;
        jparse_add(p, &tuple->args, one(p));
    }
    return tuple;
}

// A name, names between commas, or (for set) name.attribute of a namespace.
jnode *jparse_target(jparser *p, bool attribute)
{
    const int line = jparse_peek(p)->line;
    jnode *tuple = NULL, *n;
    const bool open = jparse_skip_op(p, '(');
    do {
        if (tuple && !(jparse_peek(p)->kind == JT_NAME)) break; // a comma at the end
        n = jparse_node(p, JN_NAME, line);
        n->name = jparse_need_name(p, "to assign to");
        if (attribute && !tuple && jparse_skip_op(p, '.')) {
            jnode *space = n;
            n = jparse_node(p, JN_ATTR, line);
            n->a = space;
            n->name = jparse_need_name(p, "behind '.'");
        }
        if (tuple) {
            jparse_add(p, &tuple->args, n);
        } else if (jparse_is_op(p, ',')) {
            tuple = jparse_node(p, JN_TUPLE, line);
            jparse_add(p, &tuple->args, n);
        }
    } while (!p->st && jparse_skip_op(p, ','));
    if (open) jparse_need_op(p, ')', "behind names");
    return tuple ? tuple : n;
}

/*
 * jinja_run.c - statements of the template language, variables, and a template from source to text.
 *
 * Scopes are Jinja's: the body of a loop (anew for every item), of a macro, of with, filter, generation and of a set
 * block have one of their own; those of if have none. What is set inside is gone behind it; a namespace is the way
 * out.
 */
#include "data/text/jinja_parts.h"

#include <stdlib.h>
#include <string.h>

/* ---- variables ---- */

static jvalue *find(const jscope *s, jstr name)
{
    for (int i = 0; i < s->n; i++)
        if (jstr_same(s->name[i], name)) return &s->v[i];
    return NULL;
}

jvalue jinja_lookup(const jrun *r, jstr name)
{
    static const char *const functions[] = {"range", "namespace", "dict", "raise_exception",
                                            "strftime_now"};
    for (const jscope *s = r->scope; s; s = s->parent) {
        const jvalue *v = find(s, name);
        if (v) return *v;
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (jstr_is(name, functions[i])) return (jvalue){.kind = JV_FUNCTION, .u.str = name};
    return jv_undefined(name);
}

void jinja_assign(jrun *r, jstr name, jvalue v)
{
    jscope *s = r->scope;
    jvalue *old = find(s, name);
    if (old) {
        *old = v;
        return;
    }
    if (s->n == s->room) {
        const int room = s->room ? 2 * s->room : 8;
        jstr *names = jget(r, (size_t)room * sizeof *names);
        jvalue *values = jget(r, (size_t)room * sizeof *values);
        if (!names || !values) return;
        if (s->n) {
            memcpy(names, s->name, (size_t)s->n * sizeof *names);
            memcpy(values, s->v, (size_t)s->n * sizeof *values);
        }
        s->name = names;
        s->v = values;
        s->room = room;
    }
    s->name[s->n] = name;
    s->v[s->n++] = v;
}

void jinja_assign_target(jrun *r, const jnode *target, jvalue v)
{
    if (r->st) return;
    if (target->kind == JN_NAME) {
        jinja_assign(r, target->name, v);
        return;
    }
    if (target->kind == JN_ATTR) {
        const jvalue space = jinja_lookup(r, target->a->name);
        if (space.kind != JV_NAMESPACE)
            jfail(r, "'%.*s' is no namespace: its attributes cannot be set", (int)target->a->name.n,
                  target->a->name.s);
        else
            jdict_set(r, space.u.dict, jv_str(target->name), v);
        return;
    }
    const jlist *items = jitems(r, v);
    if (!r->st && items->n != target->args.n)
        jfail(r, "%lld values for %d names", (long long)items->n, target->args.n);
    for (int i = 0; i < target->args.n && !r->st; i++)
        jinja_assign_target(r, target->args.v[i], items->v[i]);
}

static jscope *enter(jrun *r, jscope *parent)
{
    jscope *s = jget(r, sizeof *s), *before = r->scope;
    if (!s) return before;
    s->parent = parent;
    r->scope = s;
    return before;
}

/* ---- statements ---- */

// A body in a scope of its own.
static void run_inside(jrun *r, const jnode *body)
{
    jscope *before = enter(r, r->scope);
    jinja_run(r, body);
    r->scope = before;
}

// What a body prints.
static jvalue captured(jrun *r, const jnode *body)
{
    jout o = {0}, *before = r->out;
    r->out = &o;
    run_inside(r, body);
    r->out = before;
    return jv_str(jout_str(&o));
}

// The filters of a block: the innermost node has no value of its own.
static jvalue filtered(jrun *r, const jnode *n, jvalue v)
{
    static const jlist none;
    static const jdict nothing;
    if (n->a) v = filtered(r, n->a, v);
    if (r->st) return v;
    jargs a = {&none, &nothing};
    const jvalue list = jv_list(r, JV_LIST), keys = jv_dict(r);
    for (int i = 0; i < n->args.n && !r->st; i++) jlist_add(r, list, jinja_eval(r, n->args.v[i]));
    for (int i = 0; i < n->more.n && !r->st; i++)
        jdict_set(r, keys.u.dict, jv_str(n->names[i]), jinja_eval(r, n->more.v[i]));
    if (r->st) return v;
    a.list = list.u.list;
    a.keys = keys.u.dict;
    r->line = n->line;
    return jinja_filter(r, n->name, v, a);
}

// The items of a loop: those for which its condition holds.
static const jlist *loop_items(jrun *r, const jnode *n)
{
    const jvalue v = jinja_eval(r, n->a);
    if (r->st) return NULL;
    r->line = n->line;
    const jlist *all = jitems(r, v);
    if (!n->b || r->st) return all;
    const jvalue some = jv_list(r, JV_LIST);
    jscope *before = r->scope;
    for (int64_t i = 0; i < all->n && !r->st; i++) {
        enter(r, before);
        jinja_assign_target(r, n->target, all->v[i]);
        if (!r->st && jtruth(jinja_eval(r, n->b))) jlist_add(r, some, all->v[i]);
        r->scope = before;
    }
    return r->st ? NULL : some.u.list;
}

static void run_for(jrun *r, const jnode *n)
{
    static const jstr loop_name = {.s = "loop", .n = 4};
    const jlist *items = loop_items(r, n);
    jloop *l = jget(r, sizeof *l);
    jscope *before = r->scope;
    if (!l || r->st) return;
    *l = (jloop){.items = items, .depth = 1}; // depth counts recursion, which there is none of
    for (int64_t i = 0; i < items->n && !r->st && !r->breaking; i++) {
        l->at = i;
        enter(r, before);
        jinja_assign_target(r, n->target, items->v[i]);
        jinja_assign(r, loop_name, (jvalue){.kind = JV_LOOP, .u.loop = l});
        jinja_run(r, n->body);
        r->continuing = false;
        r->scope = before;
    }
    r->breaking = false;
    if (items->n == 0) run_inside(r, n->otherwise);
}

static void run_generation(jrun *r, const jnode *n)
{
    pc_jinja_output *o = r->result;
    const bool outermost = r->out == r->outermost;
    const size_t from = r->out->n;
    run_inside(r, n->body);
    if (!outermost || r->st || r->out->n == from) return;
    if (o->generations == r->generation_room) {
        const int64_t room = r->generation_room ? 2 * r->generation_room : 8;
        void *more = realloc(o->generation, (size_t)room * sizeof *o->generation);
        if (!more) {
            r->st = pc_fail(PC_ERR_MEMORY, "%lld answers", (long long)room);
            return;
        }
        o->generation = more;
        r->generation_room = room;
    }
    o->generation[o->generations][0] = from;
    o->generation[o->generations++][1] = r->out->n;
}

static void run_with(jrun *r, const jnode *n)
{
    jscope *before = r->scope;
    const jvalue values = jv_list(r, JV_LIST);
    for (int i = 0; i < n->more.n && !r->st; i++) jlist_add(r, values, jinja_eval(r, n->more.v[i]));
    if (r->st) return;
    enter(r, before);
    for (int i = 0; i < n->args.n && !r->st; i++)
        jinja_assign(r, n->args.v[i]->name, values.u.list->v[i]);
    jinja_run(r, n->body);
    r->scope = before;
}

static void run_macro(jrun *r, const jnode *n)
{
    jmacro *m = jget(r, sizeof *m);
    if (!m) return;
    *m = (jmacro){n, r->scope};
    jinja_assign(r, n->name, (jvalue){.kind = JV_MACRO, .u.macro = m});
}

static void run_statement(jrun *r, const jnode *n)
{
    jvalue v;
    switch (n->kind) {
    case JN_TEXT: jout_add(r, r->out, n->value.u.str); return;
    case JN_OUTPUT:
        v = jinja_eval(r, n->a);
        r->line = n->line;
        if (!r->st) jout_value(r, r->out, v);
        return;
    case JN_IF:
        v = jinja_eval(r, n->a);
        if (!r->st) jinja_run(r, jtruth(v) ? n->body : n->otherwise);
        return;
    case JN_FOR: run_for(r, n); return;
    case JN_SET:
        v = jinja_eval(r, n->a);
        r->line = n->line;
        jinja_assign_target(r, n->target, v);
        return;
    case JN_SET_BLOCK:
        v = captured(r, n->body);
        if (n->a && !r->st) v = filtered(r, n->a, v);
        jinja_assign_target(r, n->target, v);
        return;
    case JN_MACRO: run_macro(r, n); return;
    case JN_FILTER_BLOCK:
        v = captured(r, n->body);
        if (!r->st) v = filtered(r, n->a, v);
        if (!r->st) jout_value(r, r->out, v);
        return;
    case JN_WITH: run_with(r, n); return;
    case JN_GENERATION: run_generation(r, n); return;
    case JN_BREAK: r->breaking = true; return;
    case JN_CONTINUE: r->continuing = true; return;
    default: jfail(r, "a value where a statement is expected"); return;
    }
}

void jinja_run(jrun *r, const jnode *body)
{
    if (r->depth >= JINJA_RUN_DEPTH) {
        jfail(r, "the template nests deeper than %d levels", JINJA_RUN_DEPTH);
        return;
    }
    r->depth++;
    for (const jnode *n = body; n && !r->st && !r->breaking && !r->continuing; n = n->next) {
        if (!jstep(r)) break;
        r->line = n->line;
        run_statement(r, n);
    }
    r->depth--;
}

jvalue jinja_call_macro(jrun *r, const jmacro *m, const jlist *args, const jdict *keys)
{
    const jnode *n = m->node;
    jscope *before = r->scope;
    jout o = {0}, *out = r->out;
    if (args->n > n->args.n)
        return jfail(r, "macro '%.*s' takes not more than %d argument(s)", (int)n->name.n,
                     n->name.s, n->args.n);
    if (r->depth >= JINJA_RUN_DEPTH)
        return jfail(r, "macros call each other deeper than %d levels", JINJA_RUN_DEPTH);
    int64_t used = 0;
    enter(r, m->scope);
    for (int i = 0; i < n->args.n && !r->st; i++) {
        const jstr name = n->args.v[i]->name;
        const jvalue *given = jdict_find(keys, jv_str(name));
        if (i < args->n && given) {
            jfail(r, "macro '%.*s' got two values for the argument '%.*s'", (int)n->name.n,
                  n->name.s, (int)name.n, name.s);
            break;
        }
        used += given != NULL;
        jinja_assign(r, name,
                     i < args->n    ? args->v[i]
                     : given        ? *given
                     : n->more.v[i] ? jinja_eval(r, n->more.v[i])
                                    : jv_undefined(name));
    }
    if (!r->st && used != keys->n)
        jfail(r, "macro '%.*s' has no such argument", (int)n->name.n, n->name.s);
    r->out = &o;
    if (!r->st) jinja_run(r, n->body);
    r->out = out;
    r->scope = before;
    return jv_str(jout_str(&o));
}

/* ---- from source to text ---- */

// Every kind of line end is a newline.
static char *with_newlines(const char *source, size_t *size)
{
    char *out = malloc(*size + 1);
    size_t n = 0;
    for (size_t i = 0; out && i < *size; i++) {
        if (source[i] == '\r' && i + 1 < *size && source[i + 1] == '\n') continue;
        out[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (out) out[n] = '\0';
    *size = n;
    return out;
}

pc_status pc_jinja_open(pc_jinja **out, const char *source, size_t size)
{
    *out = NULL;
    if (size > PC_JINJA_SOURCE_MAX)
        return pc_fail(PC_ERR_FORMAT, "a template of %zu bytes, at most %zu", size,
                       PC_JINJA_SOURCE_MAX);
    pc_jinja *t = calloc(1, sizeof *t);
    if (!t || !(t->source = with_newlines(source, &size))) {
        free(t);
        return pc_fail(PC_ERR_MEMORY, "a template of %zu bytes", size);
    }
    jparser p = {.pool = &t->pool};
    jinja_lex(&p, t->source, size);
    if (!p.st) t->body = jparse_template(&p);
    free(p.tokens);
    if (p.st) {
        pc_jinja_close(t);
        return p.st;
    }
    *out = t;
    return PC_OK;
}

void pc_jinja_close(pc_jinja *t)
{
    if (!t) return;
    jpool_close(&t->pool);
    free(t->source);
    free(t);
}

static bool has_string(const jnode *n, const char *text);

static bool nodes_have(const jnodes *list, const char *text)
{
    for (int i = 0; i < list->n; i++)
        if (has_string(list->v[i], text)) return true;
    return false;
}

static bool has_string(const jnode *n, const char *text)
{
    for (; n; n = n->next) {
        if (n->kind == JN_CONST && n->value.kind == JV_STR && jstr_is(n->value.u.str, text))
            return true;
        const jnode *inside[] = {n->a, n->b, n->c, n->target, n->body, n->otherwise};
        for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
            if (inside[i] && has_string(inside[i], text)) return true;
        if (nodes_have(&n->args, text) || nodes_have(&n->more, text)) return true;
    }
    return false;
}

bool pc_jinja_has_string(const pc_jinja *t, const char *text)
{
    return has_string(t->body, text);
}

// A message, all of whose texts but its role come from whoever speaks.
static jvalue message_value(jrun *r, const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const pc_origin origin =
        role && !strcmp(role, "assistant") ? PC_FROM_ASSISTANT : PC_FROM_OTHERS;
    const jvalue v = jv_from_json(r, message, origin);
    if (!r->st && v.kind == JV_DICT && role) jdict_set(r, v.u.dict, jv_text("role"), jv_text(role));
    return v;
}

static void set_variables(jrun *r, const json_t *variables)
{
    const char *key;
    json_t *v;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)variables, key, v)
    {
        const jstr name = {.s = key, .n = strlen(key)};
        if (strcmp(key, "messages") != 0 || !json_is_array(v)) {
            jinja_assign(r, name, jv_from_json(r, v, PC_FROM_TEMPLATE));
            continue;
        }
        const json_t *one;
        const jvalue list = jv_list(r, JV_LIST);
        json_array_foreach(v, i, one)
        {
            if (r->st) return;
            jlist_add(r, list, message_value(r, one));
        }
        jinja_assign(r, name, list);
    }
}

static pc_status keep_output(pc_jinja_output *out, const jout *o)
{
    out->text = malloc(o->n + 1);
    out->origin = calloc(o->n + 1, 1);
    if (!out->text || !out->origin) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", o->n);
    if (o->n) memcpy(out->text, o->s, o->n);
    if (o->n && o->mark) memcpy(out->origin, o->mark, o->n);
    out->text[o->n] = '\0';
    out->size = o->n;
    return PC_OK;
}

pc_status pc_jinja_render(const pc_jinja *t, pc_jinja_output *out, const json_t *variables)
{
    jscope outermost = {0};
    jout o = {0};
    *out = (pc_jinja_output){0};
    jrun r = {.scope = &outermost, .out = &o, .outermost = &o, .result = out, .line = 1};
    set_variables(&r, variables);
    if (!r.st) jinja_run(&r, t->body);
    if (!r.st) r.st = keep_output(out, &o);
    jpool_close(&r.pool);
    if (r.st) pc_jinja_output_close(out);
    return r.st;
}

void pc_jinja_output_close(pc_jinja_output *o)
{
    free(o->text);
    free(o->origin);
    free(o->generation);
    *o = (pc_jinja_output){0};
}

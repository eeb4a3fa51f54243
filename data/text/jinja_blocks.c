/*
 * jinja_blocks.c - statements of the template language.
 *
 *   {{ expression }}   {% if %} {% elif %} {% else %} {% endif %}   {% for x in xs if y %} {% else %} {% endfor %}
 *   {% set x = y %}  {% set x %} {% endset %}   {% macro m(a, b=c) %} {% endmacro %}   {% filter f %} {% endfilter %}
 *   {% with x = y %} {% endwith %}   {% generation %} {% endgeneration %}   {% break %}  {% continue %}
 */
#include "data/text/jinja_parts.h"

#include <stdio.h>
#include <string.h>

static jnode *parse_body(jparser *p, const char *const *ends, const char *of, int line);

static void end_tag(jparser *p)
{
    const jtoken *t = jparse_peek(p);
    if (t->kind != JT_BLOCK_END)
        jparse_fail(p, t->line, "%%} is missing: something stands behind the statement");
    else
        p->at++;
}

// The word that ended a body has been read; its tag's end has not.
static jnode *parse_if(jparser *p, int line)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif",
                                                                                        NULL};
    jnode *n = jparse_node(p, JN_IF, line);
    n->a = jparse_tuple(p, false);
    end_tag(p);
    n->body = parse_body(p, ends, "if", line);
    if (jparse_skip_name(p, "elif")) {
        if (++p->depth > JINJA_PARSE_DEPTH) jparse_fail(p, line, "too many elif");
        n->otherwise = p->st ? NULL : parse_if(p, jparse_peek(p)->line);
        p->depth--;
        return n;
    }
    if (jparse_skip_name(p, "else")) {
        end_tag(p);
        n->otherwise = parse_body(p, last, "if", line);
    }
    jparse_skip_name(p, "endif");
    end_tag(p);
    return n;
}

static jnode *parse_for(jparser *p, int line)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    jnode *n = jparse_node(p, JN_FOR, line);
    n->target = jparse_target(p, false);
    if (!jparse_skip_name(p, "in")) jparse_fail(p, line, "'in' is missing in {%% for %%}");
    n->a = jparse_tuple(p, false);
    if (jparse_skip_name(p, "if")) n->b = jparse_expression(p);
    if (jparse_is_name(p, "recursive")) jparse_fail(p, line, "'recursive' loops are not supported");
    end_tag(p);
    p->loops++;
    n->body = parse_body(p, ends, "for", line);
    p->loops--;
    if (jparse_skip_name(p, "else")) {
        end_tag(p);
        n->otherwise = parse_body(p, last, "for", line);
    }
    jparse_skip_name(p, "endfor");
    end_tag(p);
    return n;
}

static jnode *parse_set(jparser *p, int line)
{
    static const char *const ends[] = {"endset", NULL};
    jnode *n = jparse_node(p, JN_SET, line);
    n->target = jparse_target(p, true);
    if (jparse_skip_op(p, '=')) {
        n->a = jparse_tuple(p, true);
        end_tag(p);
        return n;
    }
    n->kind = JN_SET_BLOCK;
    if (jparse_skip_op(p, '|')) n->a = jparse_filters(p, NULL);
    end_tag(p);
    n->body = parse_body(p, ends, "set", line);
    jparse_skip_name(p, "endset");
    end_tag(p);
    return n;
}

static jnode *parse_macro(jparser *p, int line)
{
    static const char *const ends[] = {"endmacro", NULL};
    jnode *n = jparse_node(p, JN_MACRO, line);
    const int loops = p->loops;
    n->name = jparse_need_name(p, "of a macro");
    jparse_need_op(p, '(', "behind a macro's name");
    while (!p->st && !jparse_skip_op(p, ')')) { // more: defaults, NULL where there is none
        jnode *arg = jparse_node(p, JN_NAME, line);
        arg->name = jparse_need_name(p, "of an argument");
        jparse_add(p, &n->args, arg);
        jparse_add(p, &n->more, jparse_skip_op(p, '=') ? jparse_expression(p) : NULL);
        if (jparse_skip_op(p, ')')) break;
        jparse_need_op(p, ',', "between arguments");
    }
    end_tag(p);
    p->loops = 0;
    n->body = parse_body(p, ends, "macro", line);
    p->loops = loops;
    jparse_skip_name(p, "endmacro");
    end_tag(p);
    return n;
}

static jnode *parse_filter_block(jparser *p, int line)
{
    static const char *const ends[] = {"endfilter", NULL};
    jnode *n = jparse_node(p, JN_FILTER_BLOCK, line);
    n->a = jparse_filters(p, NULL);
    end_tag(p);
    n->body = parse_body(p, ends, "filter", line);
    jparse_skip_name(p, "endfilter");
    end_tag(p);
    return n;
}

static jnode *parse_with(jparser *p, int line)
{
    static const char *const ends[] = {"endwith", NULL};
    jnode *n = jparse_node(p, JN_WITH, line);
    while (!p->st && jparse_peek(p)->kind != JT_BLOCK_END) {
        if (n->args.n) jparse_need_op(p, ',', "between assignments");
        jnode *name = jparse_node(p, JN_NAME, line);
        name->name = jparse_need_name(p, "to assign to");
        jparse_need_op(p, '=', "behind a name");
        jparse_add(p, &n->args, name);
        jparse_add(p, &n->more, jparse_expression(p));
    }
    end_tag(p);
    n->body = parse_body(p, ends, "with", line);
    jparse_skip_name(p, "endwith");
    end_tag(p);
    return n;
}

static jnode *parse_generation(jparser *p, int line)
{
    static const char *const ends[] = {"endgeneration", NULL};
    jnode *n = jparse_node(p, JN_GENERATION, line);
    end_tag(p);
    n->body = parse_body(p, ends, "generation", line);
    jparse_skip_name(p, "endgeneration");
    end_tag(p);
    return n;
}

static jnode *parse_jump(jparser *p, jnode_kind kind, int line)
{
    jnode *n = jparse_node(p, kind, line);
    if (!p->loops) jparse_fail(p, line, "break or continue outside of a loop");
    end_tag(p);
    return n;
}

static jnode *unknown_statement(jparser *p, jstr word, int line)
{
    static const char *const known[] = {"if",  "for",  "set",        "macro", "filter",
                                        "raw", "with", "generation", "break", "continue"};
    static const char *const jinja[] = {"block", "extends", "include",    "import", "from",
                                        "call",  "do",      "autoescape", "trans",  "debug"};
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)word.n, word.s);
    for (size_t i = 0; i < sizeof jinja / sizeof *jinja; i++)
        if (!strcmp(text, jinja[i])) {
            jparse_fail(p, line, "statement '%s' is not supported", text);
            return jparse_node(p, JN_TEXT, line);
        }
    const char *near = pc_nearest(text, known, sizeof known / sizeof *known);
    jparse_fail(p, line, "unknown statement '%s'%s%s%s", text, near ? " (nearest: '" : "",
                near ? near : "", near ? "')" : "");
    return jparse_node(p, JN_TEXT, line);
}

static jnode *parse_statement(jparser *p, int line)
{
    static const struct {
        const char *word;
        jnode *(*parse)(jparser *p, int line);
    } table[] = {{"if", parse_if},
                 {"for", parse_for},
                 {"set", parse_set},
                 {"macro", parse_macro},
                 {"with", parse_with},
                 {"filter", parse_filter_block},
                 {"generation", parse_generation}};
    const jstr word = jparse_need_name(p, "of a statement");
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (jstr_is(word, table[i].word)) return table[i].parse(p, line);
    if (jstr_is(word, "break")) return parse_jump(p, JN_BREAK, line);
    if (jstr_is(word, "continue")) return parse_jump(p, JN_CONTINUE, line);
    return unknown_statement(p, word, line);
}

static bool ends_here(const jparser *p, const char *const *ends)
{
    for (int i = 0; ends && ends[i]; i++)
        if (jparse_is_name(p, ends[i])) return true;
    return false;
}

static jnode *parse_output(jparser *p, int line)
{
    jnode *n = jparse_node(p, JN_OUTPUT, line);
    n->a = jparse_tuple(p, true);
    if (jparse_peek(p)->kind != JT_OUTPUT_END)
        jparse_fail(p, jparse_peek(p)->line, "}} is missing: something stands behind the value");
    else
        p->at++;
    return n;
}

// Statements up to a tag that begins with one of `ends`, which is left to be read; NULL: up to the end.
static jnode *parse_body(jparser *p, const char *const *ends, const char *of, int line)
{
    jnode *first = NULL, **link = &first;
    if (++p->depth > JINJA_PARSE_DEPTH)
        jparse_fail(p, line, "statements nest deeper than %d levels", JINJA_PARSE_DEPTH);
    while (!p->st) {
        const jtoken *t = jparse_peek(p);
        jnode *n = NULL;
        if (t->kind == JT_END) {
            if (ends) jparse_fail(p, line, "{%% %s %%} is never closed", of);
            break;
        }
        p->at++;
        if (t->kind == JT_TEXT) {
            n = jparse_node(p, JN_TEXT, t->line);
            n->value = jv_str(t->text);
        } else if (t->kind == JT_OUTPUT) {
            n = parse_output(p, t->line);
        } else {
            if (ends_here(p, ends)) break;
            n = parse_statement(p, t->line);
        }
        if (p->st) break;
        *link = n;
        link = &n->next;
    }
    p->depth--;
    return first;
}

jnode *jparse_template(jparser *p)
{
    return parse_body(p, NULL, "", 1);
}

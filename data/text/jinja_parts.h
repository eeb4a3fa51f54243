/*
 * jinja_parts.h - inside the template language; not for other rooms.
 *
 *   jinja.h          what the others use
 *   jinja_lex.c      source to tokens: white space around tags
 *   jinja_parse.c    tokens to a tree: expressions    jinja_blocks.c  statements
 *   jinja_value.c    values: texts with their origin, lists, objects; comparison    jinja_print.c  as text
 *   jinja_eval.c     expressions    jinja_run.c  statements, variables, the whole
 *   jinja_call.c     methods of values and functions
 *   jinja_filter.c   filters    jinja_test.c  tests (`is ...`)
 *
 * Errors stick: the first one is kept in `st` of the parser or the run, and everything returns at once after it.
 */
#ifndef PC_DATA_JINJA_PARTS_H
#define PC_DATA_JINJA_PARTS_H

#include "data/text/jinja.h"

enum {
    JINJA_PARSE_DEPTH = 120,
    JINJA_RUN_DEPTH = 200,
    JINJA_RANGE_MAX = 100000,
};
#define JINJA_STEPS_MAX ((int64_t)20000000)
#define JINJA_POOL_MAX  ((size_t)256 << 20)

/* ---- memory: all of a template, or all of a run, goes at once ---- */

typedef struct jpool {
    struct jchunk *chunks;
    size_t used, room, total;
} jpool;
void *jpool_get(jpool *p, size_t size); // cleared; NULL: no memory, or too much of it
void jpool_close(jpool *p);

/* ---- values ---- */

typedef struct jstr {
    const char *s;
    size_t n;
    const uint8_t *mark; // (n) of pc_origin; NULL: all of it the template's
} jstr;

typedef enum jkind {
    JV_UNDEFINED, // str: what was looked for
    JV_NONE,
    JV_BOOL,
    JV_INT,
    JV_FLOAT,
    JV_STR,
    JV_LIST,
    JV_TUPLE,
    JV_DICT,
    JV_NAMESPACE,
    JV_MACRO,
    JV_LOOP,
    JV_METHOD,   // a method of `self`
    JV_FUNCTION, // str: its name
} jkind;

typedef struct jvalue jvalue;
struct jvalue {
    jkind kind;
    union {
        bool b;
        int64_t i;
        double f;
        jstr str;
        struct jlist *list;
        struct jdict *dict;
        struct jmacro *macro;
        struct jloop *loop;
        struct jmethod *method;
    } u;
};

typedef struct jlist {
    jvalue *v;
    int64_t n, room;
    bool lazy, spent; // what a filter makes step by step: true as a condition, read once
} jlist;

typedef struct jdict {
    jvalue *key, *v;
    int64_t n, room;
} jdict;

typedef struct jmethod {
    jvalue self;
    jstr name;
} jmethod;

typedef struct jloop {
    const jlist *items;
    int64_t at, depth;
    jvalue changed;
    bool asked;
} jloop;

/* ---- the tree ---- */

typedef enum jnode_kind {
    // expressions
    JN_CONST,
    JN_NAME,
    JN_LIST,
    JN_TUPLE,
    JN_DICT, // args: keys; more: values
    JN_ATTR, // a.name
    JN_ITEM, // a[b]
    JN_SLICE,
    JN_CALL,   // a(args, keys=more)
    JN_FILTER, // a|name(args, keys=more); a NULL: of a block
    JN_TEST,   // a is name(args)
    JN_NOT,
    JN_NEGATE,
    JN_PLUS,
    JN_BINARY,  // op: + - * / % ~, 'P' **, 'D' //
    JN_COMPARE, // a, then op_i more_i
    JN_AND,
    JN_OR,
    JN_IF_ELSE, // a if b else c
    // statements
    JN_TEXT,
    JN_OUTPUT,
    JN_IF,
    JN_FOR,       // for target in a if b: body, otherwise
    JN_SET,       // target = a
    JN_SET_BLOCK, // target = body, through filters in a
    JN_MACRO,
    JN_FILTER_BLOCK,
    JN_WITH,
    JN_GENERATION,
    JN_BREAK,
    JN_CONTINUE,
} jnode_kind;

enum { JOP_EQ = 256, JOP_NE, JOP_LE, JOP_GE, JOP_IN, JOP_NOT_IN }; // beside '<', '>'

typedef struct jnode jnode;
typedef struct jnodes {
    jnode **v;
    int n, room;
} jnodes;

struct jnode {
    jnode_kind kind;
    int op, line;
    jstr name;
    jvalue value; // CONST
    jnode *a, *b, *c, *target;
    jnodes args, more; // more: keyword arguments, named by names
    jstr *names;
    int *ops;                // COMPARE
    jnode *body, *otherwise; // lists, by next
    jnode *next;
};

typedef struct jmacro {
    const jnode *node;
    struct jscope *scope; // where it was defined
} jmacro;

struct pc_jinja {
    jpool pool;
    jnode *body;
    char *source;
};

/* ---- reading ---- */

typedef enum jtoken_kind {
    JT_TEXT,
    JT_OUTPUT, // {{
    JT_OUTPUT_END,
    JT_BLOCK, // {%
    JT_BLOCK_END,
    JT_NAME,
    JT_INT,
    JT_FLOAT,
    JT_STRING,
    JT_OP,
    JT_END,
} jtoken_kind;

typedef struct jtoken {
    jtoken_kind kind;
    int line, op; // op: the character, or of two: 'P' **, 'D' //, JOP_EQ ..
    jstr text;
    jvalue value;
} jtoken;

typedef struct jparser {
    jpool *pool;
    pc_status st;
    jtoken *tokens;
    int64_t count, room, at;
    int depth, loops;
    jnode broken; // stands for a node when there was no memory; never looked into
} jparser;

PC_PRINTF(3, 4) void jparse_fail(jparser *p, int line, const char *fmt, ...);
void jinja_lex(jparser *p, const char *source, size_t size);
jnode *jparse_template(jparser *p);

// For jinja_blocks.c, from jinja_parse.c.
jnode *jparse_node(jparser *p, jnode_kind kind, int line);
void jparse_add(jparser *p, jnodes *list, jnode *node);
jnode *jparse_expression(jparser *p);              // with a if b else c
jnode *jparse_unconditional(jparser *p);           // without
jnode *jparse_tuple(jparser *p, bool conditional); // a, b, c without parentheses
jnode *jparse_filters(jparser *p, jnode *a);       // |f|g behind a, which may be NULL
jnode *jparse_target(jparser *p, bool attribute);
const jtoken *jparse_peek(const jparser *p);
bool jparse_is_name(const jparser *p, const char *name);
bool jparse_is_op(const jparser *p, int op);
bool jparse_skip_name(jparser *p, const char *name);
bool jparse_skip_op(jparser *p, int op);
void jparse_need_op(jparser *p, int op, const char *what);
jstr jparse_need_name(jparser *p, const char *what);

// Known names, for messages and refusals when a template is read.
bool jinja_knows_filter(jstr name, const char **near);
bool jinja_knows_test(jstr name, const char **near);

/* ---- running ---- */

typedef struct jscope {
    struct jscope *parent;
    jstr *name;
    jvalue *v;
    int n, room;
} jscope;

typedef struct jout { // a text that grows
    char *s;
    uint8_t *mark;
    size_t n, room;
} jout;

typedef struct jrun {
    jpool pool;
    pc_status st;
    int line, depth;
    int64_t steps;
    jscope *scope;
    jout *out, *outermost; // outermost: the text itself, not what a block or macro prints into
    pc_jinja_output *result;
    int64_t generation_room;
    bool breaking, continuing;
} jrun;

PC_PRINTF(2, 3) jvalue jfail(jrun *r, const char *fmt, ...); // JV_UNDEFINED
void *jget(jrun *r, size_t size);                            // sticks when there is no memory
bool jstep(jrun *r);                                         // false: stop

jvalue jinja_eval(jrun *r, const jnode *n);
void jinja_run(jrun *r, const jnode *body);
jvalue jinja_lookup(const jrun *r, jstr name);
void jinja_assign(jrun *r, jstr name, jvalue v);
void jinja_assign_target(jrun *r, const jnode *target, jvalue v);
jvalue jinja_call_macro(jrun *r, const jmacro *m, const jlist *args, const jdict *keys);

// Arguments of a call, by position and by name.
typedef struct jargs {
    const jlist *list;
    const jdict *keys;
} jargs;
jvalue jinja_filter(jrun *r, jstr name, jvalue v, jargs a);
bool jinja_test(jrun *r, jstr name, jvalue v, jargs a);
jvalue jinja_call(jrun *r, jvalue f, jargs a);
bool jinja_has_method(jvalue self, jstr name);
// Argument i, or the one of this name; `or_else` when there is none.
jvalue jarg(jargs a, int64_t i, const char *name, jvalue or_else);
bool jarg_has(jargs a, int64_t i, const char *name);

/* ---- values (jinja_value.c) ---- */

jvalue jv_none(void);
jvalue jv_bool(bool b);
jvalue jv_int(int64_t i);
jvalue jv_float(double f);
jvalue jv_str(jstr s);
jvalue jv_text(const char *s); // of the program
jvalue jv_undefined(jstr what);
jvalue jv_list(jrun *r, jkind kind); // empty
void jlist_add(jrun *r, jvalue list, jvalue v);
jvalue jv_dict(jrun *r);
void jdict_set(jrun *r, jdict *d, jvalue key, jvalue v);
const jvalue *jdict_find(const jdict *d, jvalue key);
const jvalue *jdict_text(const jdict *d, const char *key);
jvalue jv_from_json(jrun *r, const json_t *json, pc_origin origin);

bool jstr_is(jstr s, const char *text);
bool jstr_same(jstr a, jstr b);
jstr jstr_part(jstr s, size_t from, size_t to);
int64_t jstr_chars(jstr s);
size_t jstr_byte(jstr s, int64_t character); // where a character begins
jstr jstr_trim(jstr s, const char *chars, size_t n, bool left,
               bool right); // chars NULL: white space

void jout_add(jrun *r, jout *o, jstr s);
void jout_text(jrun *r, jout *o, const char *s);
void jout_value(jrun *r, jout *o, jvalue v); // as {{ }} prints it
jstr jout_str(const jout *o);
void jout_repr(jrun *r, jout *o, jvalue v);
typedef struct jjson_style {
    int64_t indent; // -1: on one line
    bool sort, ascii;
    jstr item, key; // separators
} jjson_style;
void jout_json(jrun *r, jout *o, jvalue v, const jjson_style *style, int64_t depth);
jstr jto_str(jrun *r, jvalue v);

bool jtruth(jvalue v);
bool jequal(jvalue a, jvalue b);
int jcompare(jrun *r, jvalue a, jvalue b); // fails for what has no order
bool jcontains(jrun *r, jvalue v, jvalue in);
const char *jkind_name(jvalue v); // as Python names the type
bool jnumber(jvalue v, double *out);
int64_t jlength(jrun *r, jvalue v);
// The items of anything that can be iterated over; fails otherwise.
const jlist *jitems(jrun *r, jvalue v);
jvalue jattr(jrun *r, jvalue v, jstr name);  // v.name
jvalue jitem(jrun *r, jvalue v, jvalue key); // v[key]
jvalue jslice(jrun *r, jvalue v, const jvalue part[3]);

#endif

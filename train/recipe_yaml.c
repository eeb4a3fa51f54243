/*
 * recipe_yaml.c - libyaml's document into a JSON tree, with places; and back.
 *
 * Documents are small and come from people: nesting is limited to 32 and the tree to 100,000 values,
 * so that aliases cannot unfold without end.
 */
#include "train/recipe_yaml.h"

#include "model/core/file.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_DEPTH = 32, MAX_VALUES = 100000, MAX_PATH = 1024 };

typedef struct reader {
    yaml_document_t *doc;
    const char *name;
    json_t *places; // NULL: not wanted
    int values;
} reader;

static size_t line_of(const yaml_node_t *n)
{
    return n->start_mark.line + 1;
}

// ---- scalars ---------------------------------------------------------------------------------

static json_t *plain_scalar(const char *s)
{
    if (!*s || !strcmp(s, "~") || !strcmp(s, "null") || !strcmp(s, "Null") || !strcmp(s, "NULL"))
        return json_null();
    if (!strcmp(s, "true") || !strcmp(s, "True") || !strcmp(s, "TRUE")) return json_true();
    if (!strcmp(s, "false") || !strcmp(s, "False") || !strcmp(s, "FALSE")) return json_false();
    // Numbers start with a digit, a sign or a point, and hold nothing that strtod alone would take.
    if (strchr("0123456789+-.", *s) && strspn(s, "0123456789+-.eE") == strlen(s)) {
        char *end;
        errno = 0;
        const long long i = strtoll(s, &end, 10);
        if (!*end && end != s && !errno) return json_integer(i);
        const double x = strtod(s, &end);
        if (!*end && end != s && isfinite(x)) return json_real(x);
    }
    return json_string(s);
}

static json_t *scalar(const reader *r, const yaml_node_t *n)
{
    const char *s = (const char *)n->data.scalar.value;
    if (strlen(s) != n->data.scalar.length) {
        pc_fail(PC_ERR_FORMAT, "%s:%zu: a text holds a zero byte", r->name, line_of(n));
        return NULL;
    }
    json_t *v = n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain_scalar(s) : json_string(s);
    if (!v) pc_fail(PC_ERR_FORMAT, "%s:%zu: text is not UTF-8", r->name, line_of(n));
    return v;
}

// ---- collections -----------------------------------------------------------------------------

static json_t *convert(reader *r, int id, const char *path, int depth);

static bool put_place(const reader *r, const char *path, const yaml_node_t *n)
{
    if (!r->places) return true;
    char text[4200];
    snprintf(text, sizeof text, "%s:%zu", r->name, line_of(n));
    return json_object_set_new(r->places, path, json_string(text)) == 0;
}

static json_t *sequence(reader *r, const yaml_node_t *n, const char *path, int depth)
{
    json_t *list = json_array();
    int i = 0;
    for (const yaml_node_item_t *it = n->data.sequence.items.start;
         list && it < n->data.sequence.items.top; it++, i++) {
        char sub[MAX_PATH];
        snprintf(sub, sizeof sub, "%.900s[%d]", path, i);
        json_t *v = convert(r, *it, sub, depth + 1);
        if (!v || json_array_append_new(list, v)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

// The key of a pair as text, or NULL with the error recorded.
static const char *key_text(const reader *r, const yaml_node_t *k)
{
    if (k->type != YAML_SCALAR_NODE) {
        pc_fail(PC_ERR_FORMAT, "%s:%zu: a key must be a word", r->name, line_of(k));
        return NULL;
    }
    const char *s = (const char *)k->data.scalar.value;
    if (!*s || strlen(s) != k->data.scalar.length || strlen(s) > 200) {
        pc_fail(PC_ERR_FORMAT, "%s:%zu: a key must be a word", r->name, line_of(k));
        return NULL;
    }
    return s;
}

static json_t *mapping(reader *r, const yaml_node_t *n, const char *path, int depth)
{
    json_t *object = json_object();
    for (const yaml_node_pair_t *p = n->data.mapping.pairs.start;
         object && p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = yaml_document_get_node(r->doc, p->key);
        const char *key = key_text(r, k);
        json_t *v = NULL;
        char sub[MAX_PATH];
        if (key) {
            snprintf(sub, sizeof sub, "%.700s%s%.200s", path, *path ? "." : "", key);
            if (json_object_get(object, key)) {
                const char *first =
                    r->places ? json_string_value(json_object_get(r->places, sub)) : NULL;
                pc_fail(PC_ERR_INPUT, "%s:%zu: key '%s' is given twice%s%s", r->name, line_of(k),
                        sub, first ? ", first at " : "", first ? first : "");
            } else if (put_place(r, sub, k)) {
                v = convert(r, p->value, sub, depth + 1);
            }
        }
        if (!v || json_object_set_new(object, key, v)) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *convert(reader *r, int id, const char *path, int depth)
{
    const yaml_node_t *n = yaml_document_get_node(r->doc, id);
    if (!n) {
        pc_fail(PC_ERR_FORMAT, "%s: empty document", r->name);
        return NULL;
    }
    if (depth > MAX_DEPTH || ++r->values > MAX_VALUES) {
        pc_fail(PC_ERR_FORMAT, "%s:%zu: nested deeper than %d, or more than %d values", r->name,
                line_of(n), MAX_DEPTH, MAX_VALUES);
        return NULL;
    }
    // A list item has no key to stand for it; a pair has put its key's line already.
    if (*path && path[strlen(path) - 1] == ']' && !put_place(r, path, n)) return NULL;
    switch (n->type) {
    case YAML_SCALAR_NODE: return scalar(r, n);
    case YAML_SEQUENCE_NODE: return sequence(r, n, path, depth);
    case YAML_MAPPING_NODE: return mapping(r, n, path, depth);
    default: break;
    }
    pc_fail(PC_ERR_FORMAT, "%s:%zu: neither value, list nor mapping", r->name, line_of(n));
    return NULL;
}

// ---- documents -------------------------------------------------------------------------------

static json_t *parse(const char *name, const char *text, size_t size, json_t *places)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    if (!yaml_parser_initialize(&parser)) {
        pc_fail(PC_ERR_MEMORY, "YAML parser");
        return NULL;
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    if (!yaml_parser_load(&parser, &doc)) {
        pc_fail(PC_ERR_FORMAT, "%s:%zu: not YAML: %s%s%s", name, parser.problem_mark.line + 1,
                parser.problem ? parser.problem : "unreadable", parser.context ? ", " : "",
                parser.context ? parser.context : "");
        yaml_parser_delete(&parser);
        return NULL;
    }
    reader r = {.doc = &doc, .name = name, .places = places};
    pc_error_set(""); // a failure without words of its own is out of memory
    json_t *root = NULL;
    if (!yaml_document_get_root_node(&doc))
        root = json_null();
    else
        root = convert(&r, 1, "", 0);
    if (!root && !*pc_error_text()) pc_fail(PC_ERR_MEMORY, "%s: out of memory", name);
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
    return root;
}

pc_status yaml_tree_parse(yaml_tree *t, const char *name, const char *text, size_t size)
{
    *t = (yaml_tree){0};
    snprintf(t->name, sizeof t->name, "%s", name);
    t->places = json_object();
    t->root = t->places ? parse(name, text, size, t->places) : NULL;
    if (t->root && !json_is_object(t->root)) {
        yaml_tree_close(t);
        return pc_fail(PC_ERR_FORMAT, "%s: expected keys and values at the top, as 'stage: tune'",
                       name);
    }
    if (t->root) return PC_OK;
    yaml_tree_close(t);
    return PC_ERR_FORMAT;
}

pc_status yaml_tree_open(yaml_tree *t, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    *t = (yaml_tree){0};
    pc_status st = pc_file_read(&text, &size, path, (size_t)1 << 20);
    if (!st) st = yaml_tree_parse(t, path, text, size);
    free(text);
    return st;
}

void yaml_tree_close(yaml_tree *t)
{
    json_decref(t->root);
    json_decref(t->places);
    t->root = t->places = NULL;
}

json_t *yaml_value(const char *name, const char *text)
{
    return parse(name, text, strlen(text), NULL);
}

// ---- paths -----------------------------------------------------------------------------------

// The next step of a path: a key ("train") or an index ("[0]"). Returns what follows, NULL at a mistake.
static const char *path_step(const char *path, char *key, size_t size, long *index)
{
    *index = -1;
    if (*path == '[') {
        char *end;
        *index = strtol(path + 1, &end, 10);
        if (end == path + 1 || *end != ']' || *index < 0) return NULL;
        path = end + 1;
    } else {
        const size_t n = strcspn(path, ".[");
        if (n == 0 || n >= size) return NULL;
        memcpy(key, path, n);
        key[n] = 0;
        path += n;
    }
    if (*path == '.') return path[1] ? path + 1 : NULL;
    return path;
}

json_t *yaml_tree_get(const yaml_tree *t, const char *path)
{
    json_t *at = t->root;
    while (at && *path) {
        char key[256];
        long index;
        path = path_step(path, key, sizeof key, &index);
        if (!path) return NULL;
        at = index >= 0 ? json_array_get(at, (size_t)index) : json_object_get(at, key);
    }
    return at;
}

const char *yaml_tree_place(const yaml_tree *t, const char *path)
{
    char cut[MAX_PATH];
    snprintf(cut, sizeof cut, "%s", path);
    for (;;) {
        const char *place = json_string_value(json_object_get(t->places, cut));
        if (place) return place;
        char *dot = strrchr(cut, '.'), *bracket = strrchr(cut, '[');
        if (bracket > dot) dot = bracket;
        if (!dot) return t->name;
        *dot = 0;
    }
}

static pc_status set_failed(const char *assignment, const char *why)
{
    return pc_fail(PC_ERR_USAGE, "--set %s: %s", assignment, why);
}

pc_status yaml_tree_set(yaml_tree *t, const char *assignment)
{
    const char *eq = strchr(assignment, '=');
    if (!eq || eq == assignment) return set_failed(assignment, "expected key=value");
    char path[MAX_PATH], name[MAX_PATH + 16];
    if ((size_t)(eq - assignment) >= sizeof path) return set_failed("...", "the key is too long");
    snprintf(path, sizeof path, "%.*s", (int)(eq - assignment), assignment);
    snprintf(name, sizeof name, "--set %s", path);

    json_t *value = yaml_value(name, eq + 1);
    if (!value) return PC_ERR_USAGE;
    json_t *at = t->root;
    const char *rest = path;
    while (*rest) {
        char key[256];
        long index;
        const char *next = path_step(rest, key, sizeof key, &index);
        if (!next) {
            json_decref(value);
            return set_failed(assignment, "the key is not a dotted path such as optim.lr");
        }
        const bool last = !*next;
        json_t *child = last ? json_incref(value) : NULL;
        if (index >= 0) {
            json_t *old = json_array_get(at, (size_t)index);
            if (!old) {
                json_decref(value);
                json_decref(child);
                return set_failed(assignment, "the list has no such item");
            }
            if (last) json_array_set_new(at, (size_t)index, child);
            at = last ? child : old;
        } else {
            json_t *old = json_object_get(at, key);
            if (!last && !json_is_object(old) && !json_is_array(old)) {
                child = json_object(); // a section that the file does not have yet
                old = NULL;
            }
            if (!old || last) json_object_set_new(at, key, child);
            at = old && !last ? old : child;
        }
        if (!at) {
            json_decref(value);
            return pc_fail(PC_ERR_MEMORY, "--set %s", assignment);
        }
        rest = next;
    }
    json_decref(value);
    if (json_object_set_new(t->places, path, json_string(name)))
        return pc_fail(PC_ERR_MEMORY, "--set %s", assignment);
    return PC_OK;
}

// ---- writing ---------------------------------------------------------------------------------

typedef struct writer {
    yaml_emitter_t emitter;
    char *text;
    size_t size, capacity;
    bool failed;
} writer;

static int collect(void *arg, unsigned char *bytes, size_t n)
{
    writer *w = arg;
    if (w->size + n + 1 > w->capacity) {
        const size_t capacity = 2 * (w->size + n + 1);
        char *text = realloc(w->text, capacity);
        if (!text) return 0;
        w->text = text;
        w->capacity = capacity;
    }
    memcpy(w->text + w->size, bytes, n);
    w->size += n;
    w->text[w->size] = 0;
    return 1;
}

static void emit(writer *w, yaml_event_t *e, int made)
{
    if (w->failed || !made || !yaml_emitter_emit(&w->emitter, e)) w->failed = true;
}

// The shortest decimal text that reads back as the same double, and as a real.
static void real_text(char *buf, size_t size, double x)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, size, "%.*g", digits, x);
        if (strtod(buf, NULL) == x) break; // exact on purpose
    }
    if (!strpbrk(buf, ".e")) snprintf(buf + strlen(buf), size - strlen(buf), ".0");
}

static void emit_scalar(writer *w, const char *s, bool text)
{
    // A text that would read back as something else is quoted.
    bool quote = false;
    if (text) {
        json_t *back = plain_scalar(s);
        quote = !json_is_string(back);
        json_decref(back);
    }
    yaml_event_t e;
    emit(w, &e,
         yaml_scalar_event_initialize(&e, NULL, NULL, (yaml_char_t *)(uintptr_t)s, (int)strlen(s),
                                      1, 1,
                                      quote ? YAML_DOUBLE_QUOTED_SCALAR_STYLE
                                            : YAML_PLAIN_SCALAR_STYLE));
}

static bool all_scalars(const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (json_is_object(v) || json_is_array(v)) return false;
    }
    return true;
}

static void emit_value(writer *w, const json_t *v)
{
    yaml_event_t e;
    char buf[64];
    switch (json_typeof(v)) {
    case JSON_OBJECT: {
        const bool empty = json_object_size(v) == 0;
        emit(w, &e,
             yaml_mapping_start_event_initialize(&e, NULL, NULL, 1,
                                                 empty ? YAML_FLOW_MAPPING_STYLE
                                                       : YAML_BLOCK_MAPPING_STYLE));
        for (void *it = json_object_iter((json_t *)(uintptr_t)v); it;
             it = json_object_iter_next((json_t *)(uintptr_t)v, it)) {
            emit_scalar(w, json_object_iter_key(it), true);
            emit_value(w, json_object_iter_value(it));
        }
        emit(w, &e, yaml_mapping_end_event_initialize(&e));
        break;
    }
    case JSON_ARRAY:
        emit(w, &e,
             yaml_sequence_start_event_initialize(&e, NULL, NULL, 1,
                                                  all_scalars(v) ? YAML_FLOW_SEQUENCE_STYLE
                                                                 : YAML_BLOCK_SEQUENCE_STYLE));
        for (size_t i = 0; i < json_array_size(v); i++) emit_value(w, json_array_get(v, i));
        emit(w, &e, yaml_sequence_end_event_initialize(&e));
        break;
    case JSON_STRING: emit_scalar(w, json_string_value(v), true); break;
    case JSON_INTEGER:
        snprintf(buf, sizeof buf, "%lld", (long long)json_integer_value(v));
        emit_scalar(w, buf, false);
        break;
    case JSON_REAL:
        real_text(buf, sizeof buf, json_real_value(v));
        emit_scalar(w, buf, false);
        break;
    case JSON_TRUE: emit_scalar(w, "true", false); break;
    case JSON_FALSE: emit_scalar(w, "false", false); break;
    case JSON_NULL: emit_scalar(w, "null", false); break;
    }
}

pc_status yaml_write(char **out, const json_t *root)
{
    writer w = {0};
    yaml_event_t e;
    if (!yaml_emitter_initialize(&w.emitter)) return pc_fail(PC_ERR_MEMORY, "YAML writer");
    yaml_emitter_set_output(&w.emitter, collect, &w);
    yaml_emitter_set_unicode(&w.emitter, 1);
    yaml_emitter_set_width(&w.emitter, -1);
    emit(&w, &e, yaml_stream_start_event_initialize(&e, YAML_UTF8_ENCODING));
    emit(&w, &e, yaml_document_start_event_initialize(&e, NULL, NULL, NULL, 1));
    emit_value(&w, root);
    emit(&w, &e, yaml_document_end_event_initialize(&e, 1));
    emit(&w, &e, yaml_stream_end_event_initialize(&e));
    yaml_emitter_delete(&w.emitter);
    if (w.failed || !w.text) {
        free(w.text);
        return pc_fail(PC_ERR_MEMORY, "YAML writer");
    }
    *out = w.text;
    return PC_OK;
}

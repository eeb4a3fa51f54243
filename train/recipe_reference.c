/*
 * recipe_reference.c - the recipe's tables as text: --help recipe, docs/recipes.md, a JSON schema.
 */
#include "model/networks/model.h"
#include "train/recipe.h"
#include "train/recipe_yaml.h"

#include <stdlib.h>
#include <string.h>

// "0 to 10", "one of a, b, c", "" where anything goes.
static const char *range_text(char *buf, size_t size, const recipe_key *k)
{
    *buf = 0;
    if (k->type == RECIPE_TYPE_CHOICE) {
        size_t n = 0;
        for (const char *c = k->unit; *c && n + 3 < size; c++) {
            buf[n++] = *c == '|' ? ',' : *c;
            if (*c == '|') buf[n++] = ' ';
        }
        buf[n] = 0;
    } else if (k->type == RECIPE_TYPE_INT || k->type == RECIPE_TYPE_REAL ||
               k->type == RECIPE_TYPE_REALS) {
        snprintf(buf, size, "%.10g to %.10g%s%s", k->min, k->max, *k->unit ? " " : "", k->unit);
    }
    return buf;
}

static const char *default_text(const recipe_key *k)
{
    if (!k->def) return "required";
    return strcmp(k->def, "\"\"") ? k->def : "empty";
}

// ---- --help recipe -----------------------------------------------------------------------------

static void help_line(void *arg, const char *section, const char *key, const char *type,
                      const char *def, const char *range, const char *help)
{
    fprintf(arg, "  model.shape.%s%s%-18s %s; %s%s%s\n      %s\n", section ? section : "",
            section && *section ? "." : "", key, type, def ? def : "required",
            range && *range ? "; " : "", range ? range : "", help);
}

static void help_section(FILE *out, const recipe_section *s, const char *prefix)
{
    char range[512];
    fprintf(out, "%s%s%s\n", s->help, *s->path ? ": " : "", s->path);
    for (int i = 0; i < s->count; i++) {
        const recipe_key *k = &s->keys[i];
        range_text(range, sizeof range, k);
        fprintf(out, "  %s%s%-18s %s; %s%s%s\n      %s\n", prefix, *prefix ? "." : "", k->name,
                recipe_type_name(k->type), default_text(k), *range ? "; " : "", range, k->help);
    }
    fputc('\n', out);
}

void recipe_help(FILE *out)
{
    int n;
    const recipe_section *s = recipe_sections(&n);
    fprintf(out,
            "A recipe is one YAML file; any key can be overridden with --set section.key=value.\n"
            "Each line: key, type, default, range.\n\n");
    for (int i = 0; i < n; i++) help_section(out, &s[i], s[i].path);
    help_section(out, recipe_source_section(), "data.train[0]");
    fprintf(out, "A new model: model.shape\n");
    pc_model_config_help(help_line, out);
}

// ---- docs/recipes.md ---------------------------------------------------------------------------

// Markdown tables split at bars: choices are written with commas already, help texts have none.
static void doc_section(FILE *out, const recipe_section *s)
{
    char range[512];
    fprintf(out,
            "\n## %s%s%s%s\n\n%s.\n\n| key | type | default | range | meaning |\n"
            "| --- | --- | --- | --- | --- |\n",
            *s->path ? "`" : "", *s->path ? s->path : "Top", *s->path ? "`" : "", "", s->help);
    for (int i = 0; i < s->count; i++) {
        const recipe_key *k = &s->keys[i];
        fprintf(out, "| `%s` | %s | %s%s%s | %s | %s |\n", k->name, recipe_type_name(k->type),
                k->def ? "`" : "", k->def ? k->def : "required", k->def ? "`" : "",
                range_text(range, sizeof range, k), k->help);
    }
}

typedef struct shape_doc {
    FILE *out;
    char section[128];
    bool any;
} shape_doc;

static void doc_shape_line(void *arg, const char *section, const char *key, const char *type,
                           const char *def, const char *range, const char *help)
{
    shape_doc *d = arg;
    if (!d->any || strcmp(d->section, section ? section : "") != 0) {
        snprintf(d->section, sizeof d->section, "%s", section ? section : "");
        fprintf(d->out,
                "\n### `model.shape%s%s`\n\n| key | type | default | range | meaning |\n"
                "| --- | --- | --- | --- | --- |\n",
                *d->section ? "." : "", d->section);
        d->any = true;
    }
    fprintf(d->out, "| `%s` | %s | %s | %s | %s |\n", key, type, def ? def : "required",
            range ? range : "", help);
}

void recipe_reference(FILE *out)
{
    int n;
    const recipe_section *s = recipe_sections(&n);
    fprintf(
        out,
        "# Recipes\n\n"
        "One YAML file is one run: `percept-train RECIPE.yaml`. Every key can be overridden on "
        "the\n"
        "command line, `--set optim.lr=1e-3`, lists included: `--set data.train[0].path=my.json`.\n"
        "An unknown or repeated key is an error that names file, line and the nearest key.\n"
        "This page is written by `percept-train --reference`; `percept-train --schema` writes a "
        "JSON\n"
        "schema for editors. The run's folder keeps the recipe as resolved, every key with its "
        "value.\n");
    for (int i = 0; i < n; i++) doc_section(out, &s[i]);
    doc_section(out, recipe_source_section());
    fprintf(
        out,
        "\n## `model.shape`\n\nThe description of a new model; a checkpoint holds the same keys. "
        "Token counts, the image token and the ids of\nend-of-text and padding follow from the "
        "tokenizer where they are left out, the tower from `model.vision_from`.\n");
    shape_doc d = {.out = out};
    pc_model_config_help(doc_shape_line, &d);
}

// ---- JSON schema -------------------------------------------------------------------------------

static json_t *key_schema(const recipe_key *k);

static json_t *section_schema(const recipe_section *s, json_t *properties)
{
    json_t *required = json_array();
    for (int i = 0; i < s->count; i++) {
        json_object_set_new(properties, s->keys[i].name, key_schema(&s->keys[i]));
        if (!s->keys[i].def) json_array_append_new(required, json_string(s->keys[i].name));
    }
    json_t *o = json_pack("{s:s, s:s, s:b, s:O}", "type", "object", "description", s->help,
                          "additionalProperties", 0, "properties", properties);
    if (json_array_size(required)) json_object_set(o, "required", required);
    json_decref(required);
    return o;
}

static json_t *words_array(const char *words)
{
    json_t *list = json_array();
    for (const char *w = words;; w++) {
        const size_t n = strcspn(w, "|");
        json_array_append_new(list, json_stringn(w, n));
        w += n;
        if (!*w) return list;
    }
}

static json_t *range_schema(const char *type, const recipe_key *k)
{
    return json_pack("{s:s, s:f, s:f}", "type", type, "minimum", k->min, "maximum", k->max);
}

static json_t *key_schema(const recipe_key *k)
{
    json_t *o = NULL;
    switch (k->type) {
    case RECIPE_TYPE_INT: o = range_schema("integer", k); break;
    case RECIPE_TYPE_REAL: o = range_schema("number", k); break;
    case RECIPE_TYPE_BOOL: o = json_pack("{s:s}", "type", "boolean"); break;
    case RECIPE_TYPE_TEXT: o = json_pack("{s:s}", "type", "string"); break;
    case RECIPE_TYPE_CHOICE: o = json_pack("{s:o}", "enum", words_array(k->unit)); break;
    case RECIPE_TYPE_REALS:
        o = json_pack("{s:s, s:o, s:i}", "type", "array", "items", range_schema("number", k),
                      "maxItems", RECIPE_REALS_MAX);
        break;
    case RECIPE_TYPE_TEXTS:
        o = json_pack("{s:s, s:{s:s}}", "type", "array", "items", "type", "string");
        break;
    case RECIPE_TYPE_SOURCES: {
        json_t *p = json_object();
        o = json_pack("{s:s, s:o}", "type", "array", "items",
                      section_schema(recipe_source_section(), p));
        json_decref(p);
        break;
    }
    case RECIPE_TYPE_TREE: o = json_pack("{s:[s,s]}", "type", "object", "null"); break;
    }
    json_object_set_new(o, "description", json_string(k->help));
    if (k->def) json_object_set_new(o, "default", yaml_value("default", k->def));
    return o;
}

// The properties object of a section's path, inside the schema being built.
static json_t *properties_at(json_t *schema, const char *path)
{
    json_t *at = schema;
    while (*path) {
        char key[64];
        const size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        at = json_object_get(json_object_get(at, "properties"), key);
        path += n + (path[n] == '.');
    }
    return at;
}

// Puts `child` under the parent section; where a key of that name exists (data.text.tokenizer), either.
static void attach(json_t *schema, const char *path, json_t *child)
{
    char parent[128];
    snprintf(parent, sizeof parent, "%s", path);
    char *dot = strrchr(parent, '.');
    const char *key = dot ? dot + 1 : path;
    if (dot) *dot = 0;
    json_t *properties = json_object_get(properties_at(schema, dot ? parent : ""), "properties");
    json_t *old = json_object_get(properties, key);
    json_t *both = old ? json_pack("{s:[O,O]}", "anyOf", old, child) : json_incref(child);
    json_object_set_new(properties, key, both);
}

pc_status recipe_schema(FILE *out)
{
    int n;
    const recipe_section *s = recipe_sections(&n);
    json_t *schema = NULL;
    for (int i = 0; i < n; i++) {
        json_t *properties = json_object();
        json_t *section = section_schema(&s[i], properties);
        json_decref(properties);
        if (i == 0) {
            schema = section;
            json_object_set_new(schema, "$schema",
                                json_string("https://json-schema.org/draft/2020-12/schema"));
            json_object_set_new(schema, "title", json_string("percept recipe"));
            continue;
        }
        if (!strcmp(s[i].path, "data.text.tokenizer.train")) {
            json_t *wrap = json_pack("{s:s, s:b, s:{s:O}}", "type", "object",
                                     "additionalProperties", 0, "properties", "train", section);
            attach(schema, "data.text.tokenizer", wrap);
            json_decref(wrap);
        } else {
            attach(schema, s[i].path, section);
        }
        json_decref(section);
    }
    char *text = schema ? json_dumps(schema, JSON_INDENT(2)) : NULL;
    json_decref(schema);
    if (!text) return pc_fail(PC_ERR_MEMORY, "schema");
    fprintf(out, "%s\n", text);
    free(text);
    return PC_OK;
}

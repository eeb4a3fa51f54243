/*
 * card.c - see card.h.
 */
#include "checkpoints/card.h"

#include "model/core/file.h"
#include "model/core/log.h"
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

// DIR/checkpoints/x.h5 -> DIR/manifest.json.
static bool manifest_path(char *out, size_t size, const char *path)
{
    char copy[PATH_MAX];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) return false;
    const char *folder = dirname(copy);
    const int n = snprintf(out, size, "%s/../manifest.json", folder);
    return n > 0 && n < (int)size && pc_file_exists(out);
}

static void read_manifest(pc_card *c, const char *path)
{
    char where[PATH_MAX + 32];
    json_error_t e;
    if (!manifest_path(where, sizeof where, path)) return;
    c->manifest = json_load_file(where, JSON_REJECT_DUPLICATES, &e);
    if (!c->manifest) {
        pc_warn("'%s' is left out of the card: line %d: %s", where, e.line, e.text);
        return;
    }
    const json_t *data = json_object_get(c->manifest, "data");
    const char *const parts[] = {"train", "val"};
    for (int k = 0; k < 2; k++) {
        const json_t *list = json_object_get(data, parts[k]);
        for (size_t i = 0; i < json_array_size(list) && c->dataset_count < PC_CARD_LIST; i++) {
            const json_t *d = json_array_get(list, i);
            if (!text_of(d, "path")) continue;
            c->datasets[c->dataset_count] = text_of(d, "path");
            c->hashes[c->dataset_count] = text_of(d, "sha256");
            c->licences[c->dataset_count++] = text_of(d, "licence");
        }
    }
    c->version = text_of(c->manifest, "version");
    c->inputs_hash = text_of(json_object_get(c->manifest, "inputs"), "sha256");
    const json_t *seed = json_object_get(c->manifest, "seed");
    if (json_is_integer(seed)) c->seed = json_integer_value(seed);
}

static void last_part(char *out, size_t size, const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    snprintf(out, size, "%s", basename(copy));
    char *dot = strrchr(out, '.');
    if (dot && (!strcmp(dot, ".h5") || !strcmp(dot, ".gguf"))) *dot = '\0';
}

pc_status pc_card_open(pc_card *out, const pc_supply *o, const char *path, const char *name,
                       const char *license)
{
    const pc_native_text *t = &o->bundle.text;
    *out = (pc_card){.license = license, .recipe = t->recipe, .seed = -1, .step = -1};
    read_manifest(out, path);
    json_t *state = t->state ? json_loads(t->state, 0, NULL) : NULL;
    const json_t *step = json_object_get(state, "step");
    if (json_is_integer(step)) out->step = json_integer_value(step);
    json_decref(state);
    const char *run = text_of(out->manifest, "name");
    if (name)
        snprintf(out->name, sizeof out->name, "%s", name);
    else if (run)
        snprintf(out->name, sizeof out->name, "%s", run);
    else
        last_part(out->name, sizeof out->name, path);
    // What it was tuned from; a model that was only converted is the model itself.
    if (o->source.name && out->recipe) out->base[out->base_count++] = o->source.name;
    return PC_OK;
}

void pc_card_close(pc_card *c)
{
    json_decref(c->manifest);
    *c = (pc_card){0};
}

/* ---- the card ---- */

// A text as a YAML string in double quotes.
static void quoted(FILE *f, const char *text)
{
    fputc('"', f);
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\') fputc('\\', f);
        fputc((unsigned char)*p < 32 ? ' ' : *p, f);
    }
    fputc('"', f);
}

static void front_matter(FILE *f, const pc_card *c, const pc_supply *o)
{
    const bool clip = o->shape.config.kind == PC_MODEL_CLIP;
    const char *task = clip                           ? "zero-shot-image-classification"
                       : o->shape.config.vlm.vision.L ? "image-text-to-text"
                                                      : "text-generation";
    fprintf(f, "---\nlibrary_name: transformers\npipeline_tag: %s\ntags:\n- percept\n", task);
    if (c->license) {
        fprintf(f, "license: ");
        quoted(f, c->license);
        fprintf(f, "\n");
    }
    if (c->base_count) fprintf(f, "base_model:\n");
    for (int i = 0; i < c->base_count; i++) {
        fprintf(f, "- ");
        quoted(f, c->base[i]);
        fprintf(f, "\n");
    }
    fprintf(f, "---\n\n");
}

static void data_table(FILE *f, const pc_card *c)
{
    if (!c->dataset_count) return;
    fprintf(f, "## Data\n\n| rows | SHA-256 | licence as declared |\n| --- | --- | --- |\n");
    for (int i = 0; i < c->dataset_count; i++)
        fprintf(f, "| `%s` | `%s` | %s |\n", c->datasets[i],
                c->hashes[i] && *c->hashes[i] ? c->hashes[i] : "not known",
                c->licences[i] ? c->licences[i] : "none");
    if (c->inputs_hash)
        fprintf(f, "\nSHA-256 of the list of every file that was read: `%s`\n", c->inputs_hash);
    fprintf(f, "\n");
}

// A fence that is longer than any in the text.
static void fenced(FILE *f, const char *text, const char *language)
{
    int longest = 2, run = 0;
    for (const char *p = text; *p; p++) {
        run = *p == '`' ? run + 1 : 0;
        if (run > longest) longest = run;
    }
    for (int i = 0; i <= longest; i++) fputc('`', f);
    fprintf(f, "%s\n%s%s", language, text, *text && text[strlen(text) - 1] == '\n' ? "" : "\n");
    for (int i = 0; i <= longest; i++) fputc('`', f);
    fprintf(f, "\n\n");
}

char *pc_card_text(const pc_card *c, const pc_supply *o, const char *numbers)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f) return NULL;
    front_matter(f, c, o);
    fprintf(f, "# %s\n\n", c->name);
    fprintf(f, "%s%s%s, written by percept %s.\n\n", o->family ? "Family " : "",
            o->family ? o->family->name : "A model of percept", o->family ? "" : "'s own",
            PERCEPT_VERSION);
    fprintf(f, "%s.\n\n", numbers);
    if (o->source.name) fprintf(f, "It came from `%s`.\n\n", o->source.name);
    if (c->recipe) {
        fprintf(f, "## Training\n\nTrained with percept%s%s", c->version ? " " : "",
                c->version ? c->version : "");
        if (c->step >= 0) fprintf(f, ", %lld steps", (long long)c->step);
        if (c->seed >= 0) fprintf(f, ", seed %lld", (long long)c->seed);
        fprintf(f, ", by this recipe:\n\n");
        fenced(f, c->recipe, "yaml");
    }
    data_table(f, c);
    fprintf(f, "## Licence\n\n%s\n",
            c->license ? c->license
                       : "Not declared. That of the model it came from and of the data it was "
                         "trained on applies.");
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

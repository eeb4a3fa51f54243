/*
 * recipe.c - the tree of a YAML file into the struct, by the tables of recipe_keys.h.
 *
 * Errors read "recipe.yaml:12: optim.lr: 30 is outside [0, 10]". A key that no table has names its
 * nearest neighbour; a value from --set names the assignment instead of a line.
 */
#include "train/recipe.h"

#include "train/recipe_yaml.h"

#include <stdlib.h>
#include <string.h>

// ---- the tables as data ------------------------------------------------------------------------

#define KEY_ROW(type_, key_, def_, min_, max_, unit_, help_)                                       \
    {.name = #key_,                                                                                \
     .type = RECIPE_TYPE_##type_,                                                                  \
     .def = def_,                                                                                  \
     .min = min_,                                                                                  \
     .max = max_,                                                                                  \
     .unit = unit_,                                                                                \
     .help = help_,                                                                                \
     .offset = offsetof(SECTION, key_)},

#define SECTION recipe_top
static const recipe_key top_keys[] = {RECIPE_TOP_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_model
static const recipe_key model_keys[] = {RECIPE_MODEL_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_model_train
static const recipe_key train_keys[] = {RECIPE_MODEL_TRAIN_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_lora
static const recipe_key lora_keys[] = {RECIPE_LORA_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_data
static const recipe_key data_keys[] = {RECIPE_DATA_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_image
static const recipe_key image_keys[] = {RECIPE_IMAGE_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_augment
static const recipe_key augment_keys[] = {RECIPE_AUGMENT_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_text
static const recipe_key text_keys[] = {RECIPE_TEXT_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_tokenizer
static const recipe_key tokenizer_keys[] = {RECIPE_TOKENIZER_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_batch
static const recipe_key batch_keys[] = {RECIPE_BATCH_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_length
static const recipe_key length_keys[] = {RECIPE_LENGTH_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_optim
static const recipe_key optim_keys[] = {RECIPE_OPTIM_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_lr_scale
static const recipe_key lr_scale_keys[] = {RECIPE_LR_SCALE_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_eval
static const recipe_key eval_keys[] = {RECIPE_EVAL_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_checkpoint
static const recipe_key checkpoint_keys[] = {RECIPE_CHECKPOINT_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_compute
static const recipe_key compute_keys[] = {RECIPE_COMPUTE_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_report
static const recipe_key report_keys[] = {RECIPE_REPORT_KEYS(KEY_ROW)};
#undef SECTION
#define SECTION recipe_source
static const recipe_key source_keys[] = {RECIPE_SOURCE_KEYS(KEY_ROW)};
#undef SECTION

#define SECTION_ROW(path_, name_, member_, KEYS_, help_)                                           \
    {.path = path_,                                                                                \
     .keys = member_##_keys,                                                                       \
     .count = (int)(sizeof member_##_keys / sizeof member_##_keys[0]),                             \
     .offset = offsetof(recipe, member_),                                                          \
     .help = help_},
static const recipe_section sections[] = {RECIPE_SECTIONS(SECTION_ROW)};
enum { SECTIONS = sizeof sections / sizeof sections[0] };

static const recipe_section source_section = {"data.train[]", source_keys,
                                              (int)(sizeof source_keys / sizeof source_keys[0]), 0,
                                              "One source of samples"};

const recipe_section *recipe_sections(int *count)
{
    *count = SECTIONS;
    return sections;
}

const recipe_section *recipe_source_section(void)
{
    return &source_section;
}

const char *recipe_type_name(recipe_type t)
{
    static const char *const names[] = {"whole number",  "number",          "true or false",
                                        "text",          "one of",          "list of numbers",
                                        "list of texts", "list of sources", "tree"};
    return names[t];
}

void recipe_join(char *buf, size_t size, const char *path, const char *key)
{
    snprintf(buf, size, "%s%s%s", path, *path ? "." : "", key);
}

void *recipe_member(const recipe *r, const recipe_section *s, const recipe_key *k)
{
    return (char *)(uintptr_t)r + s->offset + k->offset;
}

bool recipe_word_at(char *buf, size_t size, const char *words, int i)
{
    for (; i > 0; i--) {
        words = strchr(words, '|');
        if (!words) return false;
        words++;
    }
    snprintf(buf, size, "%.*s", (int)strcspn(words, "|"), words);
    return true;
}

const char *recipe_word(const char *path, int choice)
{
    static _Thread_local char word[64];
    char full[256];
    for (int s = 0; s < SECTIONS; s++)
        for (int k = 0; k < sections[s].count; k++) {
            recipe_join(full, sizeof full, sections[s].path, sections[s].keys[k].name);
            if (!strcmp(full, path) &&
                recipe_word_at(word, sizeof word, sections[s].keys[k].unit, choice))
                return word;
        }
    return "?";
}

// ---- unknown keys ------------------------------------------------------------------------------

static bool starts_section(const char *path)
{
    const size_t n = strlen(path);
    for (int s = 0; s < SECTIONS; s++)
        if (!strncmp(sections[s].path, path, n) &&
            (sections[s].path[n] == 0 || sections[s].path[n] == '.'))
            return true;
    return false;
}

static const recipe_key *find_key(const char *path, const char *key)
{
    for (int s = 0; s < SECTIONS; s++) {
        if (strcmp(sections[s].path, path) != 0) continue;
        for (int k = 0; k < sections[s].count; k++)
            if (!strcmp(sections[s].keys[k].name, key)) return &sections[s].keys[k];
    }
    return NULL;
}

// Every name that may stand directly under `path`: keys and first steps of deeper sections.
static int names_under(const char *path, char names[][64], const char **list, int max)
{
    int n = 0;
    const size_t len = strlen(path);
    for (int s = 0; s < SECTIONS; s++) {
        const recipe_section *sec = &sections[s];
        if (!strcmp(sec->path, path))
            for (int k = 0; k < sec->count && n < max; k++)
                snprintf(names[n++], 64, "%s", sec->keys[k].name);
        const char *rest = sec->path + len + (len ? 1 : 0);
        if (strncmp(sec->path, path, len) != 0 || strlen(sec->path) <= len) continue;
        if (len && sec->path[len] != '.') continue;
        if (n < max) snprintf(names[n++], 64, "%.*s", (int)strcspn(rest, "."), rest);
    }
    for (int i = 0; i < n; i++) list[i] = names[i];
    return n;
}

static pc_status unknown(const yaml_tree *t, const char *path, const char *full, const char *key)
{
    char names[64][64];
    const char *list[64];
    const char *near = pc_nearest(key, list, names_under(path, names, list, 64));
    if (near)
        return pc_fail(PC_ERR_INPUT, "%s: unknown key '%s'; did you mean '%s'?",
                       yaml_tree_place(t, full), full, near);
    // Nothing alike here: a key of that name may live in another section.
    for (int s = 0; s < SECTIONS; s++)
        if (find_key(sections[s].path, key))
            return pc_fail(PC_ERR_INPUT, "%s: unknown key '%s'; did you mean '%s%s%s'?",
                           yaml_tree_place(t, full), full, sections[s].path,
                           *sections[s].path ? "." : "", key);
    return pc_fail(PC_ERR_INPUT, "%s: unknown key '%s'; percept-train help-recipe lists them",
                   yaml_tree_place(t, full), full);
}

static pc_status check_known(const yaml_tree *t, const json_t *object, const char *path)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        char full[1024];
        recipe_join(full, sizeof full, path, key);
        const recipe_key *k = find_key(path, key);
        if (starts_section(full) && json_is_object(value)) {
            pc_status st = check_known(t, value, full);
            if (st) return st;
        } else if (!k && starts_section(full)) {
            // "optim:" with nothing below is an empty section.
            if (!json_is_null(value))
                return pc_fail(PC_ERR_INPUT, "%s: %s is a section: expected keys below it",
                               yaml_tree_place(t, full), full);
        } else if (!k) {
            return unknown(t, path, full, key);
        }
    }
    return PC_OK;
}

// ---- one value ---------------------------------------------------------------------------------

static pc_status wrong(const char *place, const char *full, const json_t *v, const char *expected)
{
    char *seen = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
    pc_status st = pc_fail(PC_ERR_INPUT, "%s: %s: expected %s, seen %.80s", place, full, expected,
                           seen ? seen : "?");
    free(seen);
    return st;
}

static pc_status read_number(double *out, const char *place, const char *full, const recipe_key *k,
                             const json_t *v, bool whole)
{
    if (whole ? !json_is_integer(v) : !json_is_number(v))
        return wrong(place, full, v, whole ? "a whole number" : "a number");
    const double x = json_number_value(v);
    if (!(x >= k->min && x <= k->max))
        return pc_fail(PC_ERR_INPUT, "%s: %s: %.12g is outside [%.12g, %.12g]", place, full, x,
                       k->min, k->max);
    *out = x;
    return PC_OK;
}

static pc_status read_choice(int *out, const char *place, const char *full, const recipe_key *k,
                             const json_t *v)
{
    char words[16][64], expected[512];
    const char *list[16];
    int n = 0;
    while (n < 16 && recipe_word_at(words[n], sizeof words[n], k->unit, n)) {
        list[n] = words[n];
        if (json_is_string(v) && !strcmp(json_string_value(v), words[n])) {
            *out = n;
            return PC_OK;
        }
        n++;
    }
    const char *near = json_is_string(v) ? pc_nearest(json_string_value(v), list, n) : NULL;
    snprintf(expected, sizeof expected, "one of %s%s%s%s", k->unit, near ? " (did you mean " : "",
             near ? near : "", near ? "?)" : "");
    return wrong(place, full, v, expected);
}

static pc_status read_reals(recipe_reals *out, const char *place, const char *full,
                            const recipe_key *k, const json_t *v)
{
    if (!json_is_array(v) || json_array_size(v) > RECIPE_REALS_MAX)
        return wrong(place, full, v, "a list of at most 4 numbers");
    out->count = (int64_t)json_array_size(v);
    for (int64_t i = 0; i < out->count; i++) {
        pc_status st = read_number(&out->v[i], place, full, k, json_array_get(v, (size_t)i), false);
        if (st) return st;
    }
    return PC_OK;
}

static pc_status read_text(char **out, const char *place, const char *full, const json_t *v)
{
    if (!json_is_string(v)) return wrong(place, full, v, "a text");
    *out = strdup(json_string_value(v));
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "%s", full);
}

static pc_status read_texts(recipe_texts *out, const char *place, const char *full, const json_t *v)
{
    if (!json_is_array(v)) return wrong(place, full, v, "a list of texts");
    out->list = calloc(json_array_size(v) + 1, sizeof *out->list);
    if (!out->list) return pc_fail(PC_ERR_MEMORY, "%s", full);
    for (size_t i = 0; i < json_array_size(v); i++) {
        pc_status st = read_text(&out->list[i], place, full, json_array_get(v, i));
        if (st) return st;
        out->count++;
    }
    return PC_OK;
}

static pc_status read_source(recipe_source *out, const yaml_tree *t, const char *full,
                             const json_t *v)
{
    const char *place = yaml_tree_place(t, full), *key, *names[3];
    json_t *value;
    for (int k = 0; k < source_section.count; k++) names[k] = source_keys[k].name;
    if (!json_is_object(v)) return wrong(place, full, v, "{path: ..., images: ...}");
    out->weight = 1.0;
    json_object_foreach((json_t *)(uintptr_t)v, key, value)
    {
        char sub[1200];
        pc_status st = PC_OK;
        snprintf(sub, sizeof sub, "%s.%s", full, key);
        const char *at = yaml_tree_place(t, sub);
        if (!strcmp(key, "path"))
            st = read_text(&out->path, at, sub, value);
        else if (!strcmp(key, "images"))
            st = read_text(&out->images, at, sub, value);
        else if (!strcmp(key, "weight"))
            st = read_number(&out->weight, at, sub, &source_keys[2], value, false);
        else {
            const char *near = pc_nearest(key, names, source_section.count);
            st = pc_fail(PC_ERR_INPUT,
                         "%s: unknown key '%s'; a source has path, images, weight%s%s%s", at, sub,
                         near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
        }
        if (st) return st;
    }
    if (!out->path || !*out->path)
        return pc_fail(PC_ERR_INPUT, "%s: %s: a source needs a path", place, full);
    if (!out->images) out->images = strdup("");
    return out->images ? PC_OK : pc_fail(PC_ERR_MEMORY, "%s", full);
}

static pc_status read_sources(recipe_sources *out, const yaml_tree *t, const char *full,
                              const json_t *v)
{
    if (!json_is_array(v))
        return wrong(yaml_tree_place(t, full), full, v, "a list of {path: ..., images: ...}");
    out->list = calloc(json_array_size(v) + 1, sizeof *out->list);
    if (!out->list) return pc_fail(PC_ERR_MEMORY, "%s", full);
    for (size_t i = 0; i < json_array_size(v); i++) {
        char sub[1100];
        snprintf(sub, sizeof sub, "%s[%zu]", full, i);
        out->count++;
        pc_status st = read_source(&out->list[i], t, sub, json_array_get(v, i));
        if (st) return st;
    }
    return PC_OK;
}

static pc_status read_key(recipe *r, const yaml_tree *t, const recipe_section *s,
                          const recipe_key *k, const json_t *v, const char *full)
{
    const char *place = yaml_tree_place(t, full);
    void *out = recipe_member(r, s, k);
    double x = 0.0;
    pc_status st = PC_OK;
    switch (k->type) {
    case RECIPE_TYPE_INT:
        st = read_number(&x, place, full, k, v, true);
        *(int64_t *)out = (int64_t)x;
        return st;
    case RECIPE_TYPE_REAL:
        st = read_number(&x, place, full, k, v, false);
        *(double *)out = x;
        return st;
    case RECIPE_TYPE_BOOL:
        if (!json_is_boolean(v)) return wrong(place, full, v, "true or false");
        *(bool *)out = json_is_true(v);
        return PC_OK;
    case RECIPE_TYPE_TEXT: return read_text(out, place, full, v);
    case RECIPE_TYPE_CHOICE: return read_choice(out, place, full, k, v);
    case RECIPE_TYPE_REALS: return read_reals(out, place, full, k, v);
    case RECIPE_TYPE_TEXTS: return read_texts(out, place, full, v);
    case RECIPE_TYPE_SOURCES: return read_sources(out, t, full, v);
    case RECIPE_TYPE_TREE:
        if (!json_is_object(v) && !json_is_null(v)) return wrong(place, full, v, "keys below it");
        *(json_t **)out = json_is_object(v) ? json_deep_copy(v) : NULL;
        return PC_OK;
    }
    return PC_OK;
}

static pc_status read_section(recipe *r, const yaml_tree *t, const recipe_section *s)
{
    for (int i = 0; i < s->count; i++) {
        const recipe_key *k = &s->keys[i];
        char full[256];
        recipe_join(full, sizeof full, s->path, k->name);
        json_t *v = yaml_tree_get(t, full), *def = NULL;
        if (json_is_object(v) && k->type != RECIPE_TYPE_TREE && starts_section(full)) v = NULL;
        if (!v && !k->def)
            return pc_fail(PC_ERR_INPUT, "%s: '%s' is missing: %s%s%s%s", t->name, full, k->help,
                           k->type == RECIPE_TYPE_CHOICE ? " (" : "",
                           k->type == RECIPE_TYPE_CHOICE ? k->unit : "",
                           k->type == RECIPE_TYPE_CHOICE ? ")" : "");
        if (!v && !(v = def = yaml_value(full, k->def))) return PC_ERR_MEMORY;
        pc_status st = read_key(r, t, s, k, v, full);
        json_decref(def);
        if (st) return st;
    }
    return PC_OK;
}

// ---- the whole ---------------------------------------------------------------------------------

static pc_status read_tree(recipe *r, yaml_tree *t, const char *const *sets, int n_sets)
{
    pc_status st = PC_OK;
    snprintf(r->file, sizeof r->file, "%s", t->name);
    for (int i = 0; i < n_sets && !st; i++) st = yaml_tree_set(t, sets[i]);
    if (!st) st = check_known(t, t->root, "");
    for (int s = 0; s < SECTIONS && !st; s++) st = read_section(r, t, &sections[s]);
    if (!st && (st = recipe_validate(r))) st = pc_context(st, "%s", t->name);
    return st;
}

pc_status recipe_parse(recipe *r, const char *name, const char *text, size_t size,
                       const char *const *sets, int n_sets)
{
    yaml_tree t;
    *r = (recipe){0};
    pc_status st = yaml_tree_parse(&t, name, text, size);
    if (!st) st = read_tree(r, &t, sets, n_sets);
    yaml_tree_close(&t);
    if (st) recipe_close(r);
    return st;
}

pc_status recipe_open(recipe *r, const char *path, const char *const *sets, int n_sets)
{
    yaml_tree t;
    *r = (recipe){0};
    pc_status st = yaml_tree_open(&t, path);
    if (!st) st = read_tree(r, &t, sets, n_sets);
    yaml_tree_close(&t);
    if (st) recipe_close(r);
    return st;
}

static void close_sources(recipe_sources *s)
{
    for (int64_t i = 0; i < s->count; i++) {
        free(s->list[i].path);
        free(s->list[i].images);
        free(s->list[i].full_path);
        free(s->list[i].full_images);
    }
    free(s->list);
}

void recipe_close(recipe *r)
{
    for (int s = 0; s < SECTIONS; s++)
        for (int k = 0; k < sections[s].count; k++) {
            void *at = recipe_member(r, &sections[s], &sections[s].keys[k]);
            switch (sections[s].keys[k].type) {
            case RECIPE_TYPE_TEXT: free(*(char **)at); break;
            case RECIPE_TYPE_TREE: json_decref(*(json_t **)at); break;
            case RECIPE_TYPE_SOURCES: close_sources(at); break;
            case RECIPE_TYPE_TEXTS:
                for (int64_t i = 0; i < ((recipe_texts *)at)->count; i++)
                    free(((recipe_texts *)at)->list[i]);
                free(((recipe_texts *)at)->list);
                break;
            default: break;
            }
        }
    *r = (recipe){0};
}

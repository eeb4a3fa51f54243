/*
 * recipe_write.c - the recipe as resolved, every key with its value: JSON, and YAML that reads back the same.
 */
#include "train/recipe.h"

#include "train/recipe_yaml.h"

#include <stdlib.h>
#include <string.h>

// ---- as resolved ---------------------------------------------------------------------------------

static json_t *sources_json(const recipe_sources *s)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:f}", "path", s->list[i].path, "images",
                                              s->list[i].images, "weight", s->list[i].weight));
    return list;
}

static json_t *key_json(const recipe *r, const recipe_section *s, const recipe_key *k)
{
    const void *at = recipe_member(r, s, k);
    char word[64] = "";
    json_t *list;
    switch (k->type) {
    case RECIPE_TYPE_INT: return json_integer(*(const int64_t *)at);
    case RECIPE_TYPE_REAL: return json_real(*(const double *)at);
    case RECIPE_TYPE_BOOL: return json_boolean(*(const bool *)at);
    case RECIPE_TYPE_TEXT: return json_string(*(char *const *)at);
    case RECIPE_TYPE_CHOICE:
        recipe_word_at(word, sizeof word, k->unit, *(const int *)at);
        return json_string(word);
    case RECIPE_TYPE_REALS:
        list = json_array();
        for (int64_t i = 0; i < ((const recipe_reals *)at)->count; i++)
            json_array_append_new(list, json_real(((const recipe_reals *)at)->v[i]));
        return list;
    case RECIPE_TYPE_TEXTS:
        list = json_array();
        for (int64_t i = 0; i < ((const recipe_texts *)at)->count; i++)
            json_array_append_new(list, json_string(((const recipe_texts *)at)->list[i]));
        return list;
    case RECIPE_TYPE_SOURCES: return sources_json(at);
    case RECIPE_TYPE_TREE:
        return *(json_t *const *)at ? json_deep_copy(*(json_t *const *)at) : json_null();
    }
    return NULL;
}

// The object at a dotted path of sections, made where missing.
static json_t *section_object(json_t *root, const char *path)
{
    json_t *at = root;
    while (*path) {
        char key[64];
        const size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        json_t *next = json_object_get(at, key);
        if (!json_is_object(next)) {
            next = json_object();
            json_object_set_new(at, key, next);
        }
        at = next;
        path += n + (path[n] == '.');
    }
    return at;
}

json_t *recipe_to_json(const recipe *r, bool where)
{
    int n_sections;
    const recipe_section *sections = recipe_sections(&n_sections);
    json_t *root = json_object();
    for (int s = 0; s < n_sections; s++) {
        // A tokenizer that was not trained here has no section: its key holds the path.
        if (!strcmp(sections[s].path, "data.text.tokenizer.train") && !r->tokenizer.vocab) continue;
        json_t *object = section_object(root, sections[s].path);
        for (int k = 0; k < sections[s].count; k++) {
            if (s == 0 && !where && !strcmp(sections[s].keys[k].name, "out")) continue;
            json_object_set_new(object, sections[s].keys[k].name,
                                key_json(r, &sections[s], &sections[s].keys[k]));
        }
    }
    return root;
}

pc_status recipe_to_yaml(char **out, const recipe *r, bool where)
{
    json_t *root = recipe_to_json(r, where);
    if (!root) return pc_fail(PC_ERR_MEMORY, "recipe");
    pc_status st = yaml_write(out, root);
    json_decref(root);
    return st;
}

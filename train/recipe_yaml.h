/*
 * recipe_yaml.h - YAML text as a JSON tree that remembers where each value stood.
 *
 * Plain scalars become null, booleans, integers and reals as in YAML 1.2's core schema (2e-4 is a
 * number, `yes` is a text); quoted ones are texts. A repeated key is an error that names both lines.
 * `places` maps the dotted path of every value ("data.train[0].path") to "recipe.yaml:12", or to the
 * command-line assignment that put it there.
 */
#ifndef PC_TRAIN_RECIPE_YAML_H
#define PC_TRAIN_RECIPE_YAML_H

#include "model/core/status.h"
#include <jansson.h>

typedef struct yaml_tree {
    json_t *root;   // what the document says; an object
    json_t *places; // path -> text
    char name[4096];
} yaml_tree;

pc_status yaml_tree_open(yaml_tree *t, const char *path);
pc_status yaml_tree_parse(yaml_tree *t, const char *name, const char *text, size_t size);
void yaml_tree_close(yaml_tree *t); // a zeroed tree is fine

// "a.b=c", c any YAML value on one line; "data.train[0].path=x" reaches into lists.
pc_status yaml_tree_set(yaml_tree *t, const char *assignment);

// The value at a dotted path (borrowed), NULL when there is none.
json_t *yaml_tree_get(const yaml_tree *t, const char *path);
// Where it stood: its own place, or that of the nearest value around it; the file's name at last.
const char *yaml_tree_place(const yaml_tree *t, const char *path);

// One value from one line of YAML, new reference; NULL with the error recorded.
json_t *yaml_value(const char *name, const char *text);

// Block-style YAML of a tree, malloc'ed; lists of scalars in flow style. Read back it gives the same tree.
pc_status yaml_write(char **out, const json_t *root);

#endif

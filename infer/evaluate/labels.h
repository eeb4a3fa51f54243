/*
 * labels.h - labelled images and lists of class names.
 *
 *   rows      JSONL: {"image": "...", "class": "Granny Smith"}, images below a folder
 *   classes   a text file with one name a line, or a JSON list of names or of objects with a "class" or "name"
 */
#ifndef PC_INFER_LABELS_H
#define PC_INFER_LABELS_H

#include "model/core/status.h"

typedef struct labels_file {
    char **image;   // (count) paths
    int64_t *label; // (count) index of the class
    int64_t count;
    char **name; // (classes)
    int64_t classes;
} labels_file;

// `classes_path` NULL: the classes are those that occur, in order of appearance.
pc_status labels_open(labels_file *out, const char *path, const char *images,
                      const char *classes_path);
void labels_close(labels_file *l);

// Names alone: malloc'ed list of malloc'ed texts.
pc_status labels_names(char ***out, int64_t *n, const char *path);
void labels_names_close(char **names, int64_t n);

#endif

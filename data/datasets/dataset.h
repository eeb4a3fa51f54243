/*
 * dataset.h - rows of captions and conversations (formats: LLaVA conversation JSON; captions JSONL).
 *
 * A data set is read whole at start (text only, images stay on disk), every row checked: which file and line, what
 * was seen, what is expected. `on_bad_sample: error` stops at the first, `skip` counts and lists them.
 */
#ifndef PC_DATA_DATASET_H
#define PC_DATA_DATASET_H

#include "data/text/template.h"

typedef struct pc_turn {
    const char *question, *answer, *type; // type may be NULL
} pc_turn;

typedef struct pc_sample {
    const char *file;       // where it was read from
    int64_t line;           // JSONL: line; JSON array: index of the row, from 0
    bool in_array;          // which of the two
    const char *id, *image; // image: path, absent (NULL) for text alone
    const char *system;
    const char *const *captions; // captions rows
    int64_t n_captions;
    const pc_turn *turns; // conversation rows
    int64_t n_turns;
} pc_sample;

typedef struct pc_source {
    const char *path,
        *images;   // the rows; the folder that image paths are relative to (NULL: path's own)
    double weight; // samples of this source count `weight` times in an epoch (0 stands for 1)
} pc_source;

typedef struct pc_dataset {
    pc_sample *samples;
    int64_t count;
    int64_t *source_begin; // (n_sources + 1)
    double *source_weight; // (n_sources)
    int n_sources;
    char **skipped; // what was wrong with skipped rows, one line each
    int64_t n_skipped;
    struct pc_dataset_memory *memory; // owns the strings
} pc_dataset;

typedef enum pc_bad_sample { PC_BAD_ERROR, PC_BAD_SKIP } pc_bad_sample;

pc_status pc_dataset_open(pc_dataset *out, const pc_source *sources, int n, pc_bad_sample policy);
void pc_dataset_close(pc_dataset *d);
// "FILE:LINE", or "FILE row INDEX" of an array, into buf: where a sample was read from, for messages.
const char *pc_sample_place(const pc_sample *s, char *buf, size_t size);

// Flat questions (qa JSONL) and POPE files for evaluation.
typedef struct pc_question {
    int64_t id, line;
    const char *image, *question, *answer, *type; // type may be NULL; POPE: answer is the label
} pc_question;
typedef struct pc_questions {
    pc_question *list;
    int64_t count;
    char **skipped; // what was wrong with skipped rows
    int64_t n_skipped;
    struct pc_dataset_memory *memory;
} pc_questions;
pc_status pc_questions_open(pc_questions *out, const char *path, const char *images);
// The same with a policy; pc_questions_open stops at the first bad row.
pc_status pc_questions_read(pc_questions *out, const char *path, const char *images,
                            pc_bad_sample policy);
void pc_questions_close(pc_questions *q);

#endif

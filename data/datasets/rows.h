/*
 * rows.h - the rows of a data file, one at a time, and the memory of what is kept of them.
 *
 * A file is either JSONL (an object a line) or one JSON array of objects; its first character tells. Rows
 * are parsed one by one out of the file's text, so a file of 100 MB takes 100 MB and one row.
 */
#ifndef PC_DATA_ROWS_H
#define PC_DATA_ROWS_H

#include "data/datasets/dataset.h"

#include <jansson.h>

typedef struct pc_row_reader {
    const char *path; // not copied
    char *text;
    size_t size, at;
    bool array, done;
    int64_t index, line; // of the row last read: from 0; from 1
    size_t counted;      // lines are counted up to here
} pc_row_reader;

pc_status pc_row_reader_open(pc_row_reader *r, const char *path);
void pc_row_reader_close(pc_row_reader *r);

// The next row, a new reference; NULL at the end. A bad line of JSONL is PC_ERR_INPUT and the next call
// goes on behind it; after PC_ERR_FORMAT (a broken array) nothing more can be read.
pc_status pc_row_reader_next(pc_row_reader *r, json_t **row);

// "FILE:LINE", or "FILE row INDEX (line LINE)" of an array; in front of a message.
pc_status pc_row_reader_context(const pc_row_reader *r, pc_status st);

// Strings and lists that live as long as the data set.
typedef struct pc_dataset_memory pc_dataset_memory;
pc_dataset_memory *pc_dataset_memory_open(void); // NULL: no memory
void pc_dataset_memory_close(pc_dataset_memory *m);
void *pc_keep_bytes(pc_dataset_memory *m, size_t size); // aligned for pointers; NULL: no memory
const char *pc_keep_text(pc_dataset_memory *m, const char *text);

// What was wrong with rows left out.
pc_status pc_skipped_add(char ***list, int64_t *count, const char *message);
void pc_skipped_close(char **list, int64_t count);
// True when the policy lets a row with this status go.
bool pc_may_skip(pc_status st, pc_bad_sample policy);

// The image of a row, folder in front: inside the folder, there, a file. Absent or null: *out is NULL.
pc_status pc_row_image(const char **out, pc_dataset_memory *m, const json_t *row,
                       const char *folder);
// The folder images are relative to: `images`, or where `path` lies when that is NULL.
const char *pc_image_folder(pc_dataset_memory *m, const char *path, const char *images);

// "a text", "a number", "an array" ...: what a value is, for messages.
const char *pc_json_kind(const json_t *v);

#endif

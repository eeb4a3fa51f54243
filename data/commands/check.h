/*
 * check.h - what percept-data check finds out about one file, as a JSON object:
 *
 *   {"path", "kind": "captions" | "conversations" | "mixed" | "questions",
 *    "rows": usable, "texts": captions or turns, "unusable": rows, "problems": [messages],
 *    "images": {"count", "unreadable", "smallest": [w, h], "largest": [w, h]},
 *    "duplicates": {"rows", "captions", "images", "examples": [messages]},
 *    "tokens": {"total", "learned", "longest", "longest_at", "cut"}}
 */
#ifndef PC_DATA_COMMANDS_CHECK_H
#define PC_DATA_COMMANDS_CHECK_H

#include "data/datasets/rows.h"
#include "model/core/threads.h"

typedef struct check_options {
    const char *images;      // folder; NULL: each file's own
    bool decode;             // read every image
    const pc_tokenizer *tok; // NULL: no tokens are counted
    const pc_template *tmpl; //
    int64_t max_tokens;      // 0: no limit
    int64_t image_rows;      // rows that an image takes
    pc_pool *pool;
} check_options;

// A new object, however bad the file is; fails only where nothing can be said (no memory).
pc_status check_file(json_t **report, const char *path, const check_options *o);

#endif

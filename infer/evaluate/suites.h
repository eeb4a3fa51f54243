/*
 * suites.h - the suites of `percept eval`.
 *
 *   questions.c   vqa and pope: questions about images, answered greedily
 *   towers.c      retrieval and classify: two-tower models
 *   page.c        one self-contained HTML page of results
 *
 * A suite gives its results as JSON (with the prompt, the parser's version and the data's hash, without which
 * numbers do not compare), a table for people, and cards for the page.
 */
#ifndef PC_INFER_SUITES_H
#define PC_INFER_SUITES_H

#include "infer/answer.h"
#include "infer/embed.h"

#include <jansson.h>

typedef struct suite_input {
    const char *data;   // the rows
    const char *images; // folder of the images; NULL: the data's own
    int64_t samples;    // at most so many, evenly spaced; 0: all
    // questions
    bool blind; // ask again without the image, and with a grey one
    int64_t max_tokens;
    const char *suffix;
    FILE *answers; // one JSON line a question; NULL: none
    // two towers
    int64_t captions;    // of each image; 0: all
    const char *classes; // file of class names, one a line or a JSON list; NULL: those that occur
    const char *const *templates;
    int n_templates;
    // the page
    int64_t cards;
} suite_input;

typedef struct suite_output {
    json_t *result; // object
    json_t *table;  // list of rows, the first one heads; cells are strings
    json_t *cards;  // list of {image, lines: [[name, text]...], right: bool?}
} suite_output;

pc_status suite_vqa(suite_output *out, answerer *a, const suite_input *in);
pc_status suite_pope(suite_output *out, answerer *a, const suite_input *in);
pc_status suite_retrieval(suite_output *out, embedder *e, const suite_input *in);
pc_status suite_classify(suite_output *out, embedder *e, const suite_input *in);
void suite_close(suite_output *out);

// Index of the k-th of `take` evenly spaced rows among n.
int64_t suite_pick(int64_t k, int64_t take, int64_t n);
// Adds a row of cells (NULL ends) to a table.
pc_status suite_row(json_t *table, ...);
// "61.2 %" into one of 16 buffers used in turn.
const char *suite_percent(double share);
// Sets `data` (path), `data_sha256` and `suite` in a result.
pc_status suite_begin(suite_output *out, const char *suite, const suite_input *in);
// {"low": .., "high": ..}: 95 % of k in n.
json_t *suite_interval(int64_t k, int64_t n);

// The whole page. `head` is the object that --json prints.
pc_status page_write(const char *path, const json_t *head, const suite_output *suites, int n);
// The table as text, columns aligned.
void table_print(FILE *out, const json_t *table);

#endif

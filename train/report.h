/*
 * report.h - report.html: a run on one self-contained page.
 *
 *   report_curves.c   metrics.jsonl back into numbers; curves as inline SVG
 *   report_samples.c  validation images, for two towers with the captions they find
 *   report_answers.c  for a vlm with questions, greedy answers and truths
 *   report_page.c     the page: head figures, curves, tables, plan against use, recipe, versions
 *
 * No script, no fetch: the file can be mailed. Colours follow the reader's light or dark setting.
 */
#ifndef PC_TRAIN_REPORT_H
#define PC_TRAIN_REPORT_H

#include "data/images/picture.h"
#include "train/metrics.h"

enum { REPORT_SIDE = 224 }; // pixels of a picture on the page, at most

typedef struct report_input {
    run *run;
    const metrics *metrics;
    const validation *val; // of the end; NULL: none
    double seconds;        // of this process, start to end
} report_input;

pc_status report_write(const report_input *in);

// ---- report_curves.c ----
typedef struct history_type {
    char name[48];
    double *accuracy; // (vals), NaN where absent
} history_type;

typedef struct history {
    int64_t count; // lines
    double *step, *loss, *lr, *norm, *samples_per_s, *flops_per_s, *memory, *waited, *seconds;
    double samples, skipped, tokens;                      // sums
    int64_t vals;                                         // lines with a validation
    double *val_step, *val_loss, *val_score, *val_score2; // accuracy; or both recalls
    history_type types[VALIDATION_TYPES];
    int n_types;
} history;

pc_status history_open(history *h, const char *path);
void history_close(history *h);

typedef struct curve {
    const char *label;
    const double *x, *y;
    int64_t count;
    int colour;  // 0 .. 7
    bool smooth; // a faint line of what is, a strong one of its moving mean
    bool marks;  // points on it
} curve;

// One chart. `level` (NaN: none) is drawn dashed with its label. Values are percent when `percent`.
void chart_write(FILE *out, const char *title, const curve *curves, int n, double level,
                 const char *level_label, bool percent, bool log_scale);

// ---- report_samples.c, report_answers.c ----
pc_status report_answers(FILE *out, run *u, int64_t count); // cards of a vlm
// The grid of examples as HTML.
pc_status report_samples(FILE *out, run *u, int64_t count);

#endif

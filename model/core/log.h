/*
 * log.h - lines and bars on standard error.
 *
 * A bar (done/total, rate, time left) when stderr is a terminal; otherwise a plain line at most every
 * ten seconds and at the end. Results go to stdout and never through here.
 */
#ifndef PC_CORE_LOG_H
#define PC_CORE_LOG_H

#include "model/core/status.h"

void pc_log(const char *fmt, ...) PC_PRINTF(1, 2);  // one line, newline added
void pc_warn(const char *fmt, ...) PC_PRINTF(1, 2); // "warning: ..."
void pc_log_quiet(bool quiet);                      // silences pc_log and bars, not pc_warn

typedef struct pc_progress {
    char label[48], unit[16]; // "tune", "steps"
    int64_t total, done;
    int64_t first;         // done before this process began: no part of the rate
    double started, shown; // seconds
    bool bar, closed;
} pc_progress;

void pc_progress_open(pc_progress *p, const char *label, const char *unit, int64_t total);
// The work goes on where another process stopped.
void pc_progress_resume(pc_progress *p, int64_t done);
// `note` (may be NULL) is shown behind the rate: "loss 1.234".
void pc_progress_update(pc_progress *p, int64_t done, const char *note);
void pc_progress_close(pc_progress *p);
double pc_seconds(void); // monotonic clock

#endif

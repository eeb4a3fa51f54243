/*
 * metrics.h - metrics.jsonl: a line per step, and the same numbers for TensorBoard.
 *
 * Lines gather in a buffer and are written when it fills, every few seconds, and before each checkpoint. A
 * resumed run drops the lines beyond the step it goes on from.
 */
#ifndef PC_TRAIN_METRICS_H
#define PC_TRAIN_METRICS_H

#include "train/tensorboard.h"
#include "train/validation.h"

typedef struct step_metrics {
    int64_t step, epoch; // finished steps, from 1
    double loss, lr, grad_norm;
    int64_t samples, skipped, tokens, supervised, images;
    double seconds, waited, flops; // of the step; seconds includes waiting for data
    const validation *val;         // NULL unless validated after this step
} step_metrics;

enum { METRICS_BUFFER = 1 << 16 };

typedef struct metrics {
    int fd;
    char path[4096];
    char *buffer;
    size_t used;
    double flushed;
    tensorboard board;
    double total_seconds, total_flops; // of the steps written by this process
    int64_t written, peak_memory;
} metrics;

// `from` finished steps: later lines of an earlier process are cut off.
pc_status metrics_open(metrics *m, const char *folder, int64_t from);
pc_status metrics_write(metrics *m, const step_metrics *s);
pc_status metrics_flush(metrics *m); // to the disk
void metrics_close(metrics *m);      // without writing what is buffered; a zeroed one is fine

#endif

/*
 * schedule.h - the learning rate of a step (spec: training.md 2).
 *
 *   s     finished optimiser steps, 0 .. S-1;  W warm-up steps;  r where it ends, as a share of lr
 *   warm  s < W:   s / W (first step 0), or (s+1) / W where `from_one` (open_clip's form)
 *   then  cosine   c = (1 + cos(pi (s-W)/(S-W))) / 2        linear  c = (S-s)/(S-W)        constant  c = 1
 *         lr (r + (1-r) max(0, c))
 */
#ifndef PC_TRAIN_SCHEDULE_H
#define PC_TRAIN_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

// In the order of the recipe's words.
typedef enum schedule_kind { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT } schedule_kind;

typedef struct schedule {
    schedule_kind kind;
    double lr, min_ratio;
    int64_t warmup, steps;
    bool from_one;
} schedule;

double schedule_lr(const schedule *s, int64_t finished);

// Warm-up steps of a recipe's `warmup`: below 1 a share of all steps, rounded up; else steps.
int64_t schedule_warmup(double warmup, int64_t steps);

#endif

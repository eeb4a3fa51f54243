/*
 * test_schedule.c - learning rates against the values of the published schedules.
 */
#include <math.h>
#include <stdio.h>

#include "train/schedule.h"

static int failed;

static void expect(const char *what, double seen, double wanted, double tolerance)
{
    const double error = fabs(seen - wanted);
    const int ok = error <= tolerance;
    printf("%s %s: %.9f, expected %.9f\n", ok ? "ok    " : "FAILED", what, seen, wanted);
    failed += !ok;
}

int main(void)
{
    // Cosine of 100 steps with 3 of warm-up, as transformers computes it: the first step is at 0.
    const schedule cosine = {.kind = SCHEDULE_COSINE, .lr = 1.0, .warmup = 3, .steps = 100};
    const int64_t at[] = {0, 1, 2, 3, 4, 50, 99};
    const double factor[] = {0, 1.0 / 3, 2.0 / 3, 1, .999737785, .524281111, .000262215};
    for (int i = 0; i < 7; i++)
        expect("cosine", schedule_lr(&cosine, at[i]), factor[i], 1e-9); // printed to 9 digits

    // open_clip's form, as the two-tower traces have it: base 1e-3, 4 of warm-up, 20 steps.
    const schedule open = {
        .kind = SCHEDULE_COSINE, .lr = 1e-3, .warmup = 4, .steps = 20, .from_one = true};
    expect("open_clip 0", schedule_lr(&open, 0), 2.5e-4, 1e-15);
    expect("open_clip 3", schedule_lr(&open, 3), 1e-3, 1e-15);
    expect("open_clip 12", schedule_lr(&open, 12), 5e-4, 1e-15);

    const schedule linear = {.kind = SCHEDULE_LINEAR, .lr = 2.0, .warmup = 10, .steps = 110};
    expect("linear 5", schedule_lr(&linear, 5), 1.0, 1e-15);
    expect("linear 60", schedule_lr(&linear, 60), 1.0, 1e-15);
    expect("linear 109", schedule_lr(&linear, 109), 0.02, 1e-15);

    const schedule constant = {.kind = SCHEDULE_CONSTANT, .lr = 3.0, .warmup = 2, .steps = 10};
    expect("constant 1", schedule_lr(&constant, 1), 1.5, 1e-15);
    expect("constant 9", schedule_lr(&constant, 9), 3.0, 1e-15);

    // A floor holds behind the warm-up only; beyond the end it stays there.
    const schedule floor_ = {
        .kind = SCHEDULE_COSINE, .lr = 1.0, .min_ratio = 0.1, .warmup = 2, .steps = 10};
    expect("floor 0", schedule_lr(&floor_, 0), 0.0, 1e-15);
    expect("floor 2", schedule_lr(&floor_, 2), 1.0, 1e-15);
    expect("floor 6", schedule_lr(&floor_, 6), 0.55, 1e-12);
    expect("floor 10", schedule_lr(&floor_, 10), 0.1, 1e-12);
    expect("floor 50", schedule_lr(&floor_, 50), 0.1, 1e-12);

    expect("no warm-up", schedule_lr(&(schedule){.lr = 1.0, .steps = 10}, 0), 1.0, 1e-15);
    expect("a share is rounded up", (double)schedule_warmup(0.03, 20), 1.0, 0.0);
    expect("a share of nothing", (double)schedule_warmup(0.0, 20), 0.0, 0.0);
    expect("a number of steps", (double)schedule_warmup(7.0, 20), 7.0, 0.0);
    return failed != 0;
}

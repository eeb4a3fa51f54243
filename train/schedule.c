/*
 * schedule.c - see schedule.h.
 */
#include "train/schedule.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

static double shape(const schedule *s, int64_t done)
{
    const double W = (double)s->warmup, S = (double)s->steps, at = (double)done;
    const double span = S > W ? S - W : 1.0;
    switch (s->kind) {
    case SCHEDULE_COSINE: return 0.5 * (1.0 + cos(PI * fmin(1.0, (at - W) / span)));
    case SCHEDULE_LINEAR: return fmax(0.0, (S - at) / span);
    case SCHEDULE_CONSTANT: break;
    }
    return 1.0;
}

double schedule_lr(const schedule *s, int64_t finished)
{
    if (finished < s->warmup)
        return s->lr * (double)(finished + (s->from_one ? 1 : 0)) / (double)s->warmup;
    return s->lr * (s->min_ratio + (1.0 - s->min_ratio) * shape(s, finished));
}

int64_t schedule_warmup(double warmup, int64_t steps)
{
    if (warmup >= 1.0) return (int64_t)warmup;
    return (int64_t)ceil(warmup * (double)steps);
}

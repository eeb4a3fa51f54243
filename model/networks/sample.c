/*
 * sample.c - one id from a row of logits.
 */
#include <math.h>
#include <stdlib.h>

#include "model/networks/generate.h"

typedef struct candidate {
    double p;
    int32_t id;
} candidate;

static double element(pc_tensor x, int64_t i)
{
    return x.dtype == PC_F64 ? ((const double *)x.data)[i] : (double)((const float *)x.data)[i];
}

/* Larger first, the lower id first among equals. */
static int by_probability(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* The last of a heap's n by that order stays at its front: sinks list[0] to where it belongs. */
static void sink(candidate *list, int64_t n)
{
    for (int64_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && by_probability(&list[child + 1], &list[child]) > 0) child++;
        if (by_probability(&list[i], &list[child]) >= 0) return;
        const candidate t = list[i];
        list[i] = list[child];
        list[child] = t;
    }
}

/* The k largest of V logits, the lower id of two equal ones first; most are passed over after one look. */
static void select_first(candidate *list, int64_t k, pc_tensor logits, int64_t V)
{
    // Before there are k, ones that are behind all logits.
    for (int64_t i = 0; i < k; i++) list[i] = (candidate){-INFINITY, INT32_MAX};
    for (int64_t i = 0; i < V; i++) {
        const candidate c = {element(logits, i), (int32_t)i};
        if (c.p < list[0].p || by_probability(&c, &list[0]) > 0) continue;
        list[0] = c;
        sink(list, k);
    }
}

pc_status pc_sample_id(int32_t *id, pc_tensor logits, int64_t vocabulary, const pc_sampling *s,
                       int64_t position, int64_t sequence, double *work)
{
    int64_t V = logits.dim[0], best = -1;
    if (vocabulary > 0 && vocabulary < V) V = vocabulary;
    double most = -INFINITY;
    for (int64_t i = 0; i < V; i++) {
        const double z = element(logits, i);
        if (isnan(z) || z == INFINITY)
            return pc_fail(PC_ERR_NUMERIC, "the logit of id %lld is %g", (long long)i, z);
        if (z > most) {
            most = z;
            best = i;
        }
    }
    if (best < 0) return pc_fail(PC_ERR_NUMERIC, "every logit is -inf");
    *id = (int32_t)best;
    if (!(s->temperature > 0.0)) return PC_OK;

    // Probabilities, times their sum.
    candidate *list = (candidate *)(void *)work;
    const bool cut_k = s->top_k > 0 && s->top_k < V, cut_p = s->top_p < 1.0;
    double sum = 0.0;
    int64_t n = cut_k ? s->top_k : V;
    if (cut_k) {
        select_first(list, n, logits, V);
        qsort(list, (size_t)n, sizeof *list, by_probability);
        for (int64_t i = 0; i < n; i++) {
            list[i].p = exp((list[i].p - most) / s->temperature);
            sum += list[i].p;
        }
    } else {
        for (int64_t i = 0; i < V; i++) {
            const double p = exp((element(logits, i) - most) / s->temperature);
            list[i] = (candidate){p, (int32_t)i};
            sum += p;
        }
        if (cut_p) {
            // All that are rarer than this have less than 1 - top_p together: they cannot be among the kept.
            const double rare = (1.0 - s->top_p) * sum / (double)V;
            int64_t kept = 0;
            for (int64_t i = 0; i < n; i++)
                if (list[i].p >= rare) list[kept++] = list[i];
            n = kept;
            qsort(list, (size_t)n, sizeof *list, by_probability);
        }
    }
    if (cut_p) {
        double reached = 0.0;
        int64_t kept = 0;
        while (kept < n && (kept == 0 || reached < s->top_p * sum)) reached += list[kept++].p;
        n = kept;
        sum = reached;
    }

    const pc_rng_key key = {.seed = s->seed,
                            .stream = PC_STREAM_SAMPLE,
                            .step = (uint64_t)position};
    double left = pc_rng_uniform(&key, (uint64_t)sequence) * sum;
    for (int64_t i = 0; i < n; i++) {
        if (list[i].p <= 0.0) continue;
        *id = list[i].id; // rounding may leave a little at the end: the last possible one takes it
        if (left < list[i].p) break;
        left -= list[i].p;
    }
    return PC_OK;
}

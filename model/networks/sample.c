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

/* The k first of them by probability, in any order, to the front (Hoare 1961): no two are equal, so these are always the same. */
static void select_first(candidate *list, int64_t n, int64_t k)
{
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const candidate pivot = list[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (by_probability(&list[i], &pivot) < 0) i++;
            while (by_probability(&pivot, &list[j]) < 0) j--;
            if (i > j) break;
            const candidate t = list[i];
            list[i++] = list[j];
            list[j--] = t;
        }
        if (k <= j + 1)
            high = j;
        else if (k > i)
            low = i;
        else
            return;
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
    double sum = 0.0;
    int64_t n = 0;
    for (int64_t i = 0; i < V; i++) {
        const double p = exp((element(logits, i) - most) / s->temperature);
        list[n++] = (candidate){p, (int32_t)i};
        sum += p;
    }
    const bool cut_k = s->top_k > 0 && s->top_k < V, cut_p = s->top_p < 1.0;
    if (cut_p && !cut_k) {
        // All that are rarer than this have less than 1 - top_p together: they cannot be among the kept.
        const double rare = (1.0 - s->top_p) * sum / (double)V;
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++)
            if (list[i].p >= rare) list[kept++] = list[i];
        n = kept;
    }
    if (cut_k) {
        select_first(list, n, s->top_k);
        n = s->top_k;
    }
    if (cut_k || cut_p) qsort(list, (size_t)n, sizeof *list, by_probability);
    if (cut_k) {
        sum = 0.0;
        for (int64_t i = 0; i < n; i++) sum += list[i].p;
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

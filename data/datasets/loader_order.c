/*
 * loader_order.c - which sample comes when, as a function of (seed, step).
 *
 * An epoch has round(weight n) visits of a source with n samples: whole copies of it, and for the fraction
 * that is left as many different samples, drawn anew each epoch. The visits are numbered source by source
 * (the entries) and permuted by (seed, epoch). Batch k takes visits [k B, (k+1) B) of its epoch; what does
 * not fill a batch at the end of an epoch is left out of it, other visits each time. Without shuffling the
 * order is that of the files and the last batch is smaller.
 */
#include "data/datasets/loader_parts.h"
#include "model/core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t samples_of(const pc_order *o, int source)
{
    return o->usable_begin[source + 1] - o->usable_begin[source];
}

static int64_t visits_of(const pc_order *o, int source)
{
    return llround(o->data->source_weight[source] * (double)samples_of(o, source));
}

static pc_status list_usable(pc_order *o, const pc_texts *texts)
{
    const pc_dataset *d = o->data;
    int64_t n = 0;
    o->usable = malloc((size_t)(d->count + 1) * sizeof *o->usable);
    o->usable_begin = calloc((size_t)d->n_sources + 1, sizeof *o->usable_begin);
    if (!o->usable || !o->usable_begin)
        return pc_fail(PC_ERR_MEMORY, "%lld samples", (long long)d->count);
    for (int s = 0; s < d->n_sources; s++) {
        for (int64_t i = d->source_begin[s]; i < d->source_begin[s + 1]; i++)
            if (texts->entries[i].turns > 0) o->usable[n++] = i;
        o->usable_begin[s + 1] = n;
    }
    return PC_OK;
}

pc_status pc_order_open(pc_order *o, const pc_dataset *data, const pc_texts *texts,
                        const pc_loader_config *c)
{
    *o = (pc_order){.data = data, .seed = c->seed, .shuffle = c->shuffle, .batch = c->batch};
    pthread_mutex_init(&o->lock, NULL);
    pc_status st = list_usable(o, texts);
    if (st) return st;
    int64_t largest = 1;
    for (int s = 0; s < data->n_sources; s++) {
        o->visits += visits_of(o, s);
        if (samples_of(o, s) > largest) largest = samples_of(o, s);
    }
    if (o->visits < 1) return pc_fail(PC_ERR_INPUT, "the data set has no samples");
    if (o->shuffle && o->visits < o->batch)
        return pc_fail(PC_ERR_INPUT,
                       "an epoch has %lld samples, a batch %lld; expected at least one batch",
                       (long long)o->visits, (long long)o->batch);
    o->steps = o->shuffle ? o->visits / o->batch : (o->visits + o->batch - 1) / o->batch;
    o->scratch = malloc((size_t)largest * sizeof *o->scratch);
    if (!o->scratch) return pc_fail(PC_ERR_MEMORY, "%lld samples in order", (long long)largest);
    for (int i = 0; i < PC_EPOCHS_HELD; i++) {
        o->held[i] = (pc_epoch){.epoch = -1};
        o->held[i].entry = malloc((size_t)o->visits * sizeof *o->held[i].entry);
        o->held[i].sample = malloc((size_t)o->visits * sizeof *o->held[i].sample);
        if (!o->held[i].entry || !o->held[i].sample)
            return pc_fail(PC_ERR_MEMORY, "%lld visits of an epoch", (long long)o->visits);
    }
    return PC_OK;
}

void pc_order_close(pc_order *o)
{
    for (int i = 0; i < PC_EPOCHS_HELD; i++) {
        free(o->held[i].entry);
        free(o->held[i].sample);
    }
    free(o->scratch);
    free(o->usable);
    free(o->usable_begin);
    if (o->data) pthread_mutex_destroy(&o->lock);
    *o = (pc_order){0};
}

int64_t pc_order_samples(const pc_order *o, int64_t step)
{
    const int64_t left = o->visits - step % o->steps * o->batch;
    return left < o->batch ? left : o->batch;
}

static void fill_epoch(pc_order *o, pc_epoch *e, int64_t epoch)
{
    int64_t entry = 0;
    for (int s = 0; s < o->data->n_sources; s++) {
        const int64_t *samples = o->usable + o->usable_begin[s];
        const int64_t n = samples_of(o, s), visits = visits_of(o, s),
                      whole = n ? visits / n * n : 0;
        if (whole < visits && o->shuffle) {
            const pc_rng_key key = {o->seed, PC_STREAM_SHUFFLE,
                                    (uint64_t)epoch | (uint64_t)(s + 1) << 40};
            pc_rng_permutation(&key, o->scratch, n);
        }
        for (int64_t v = 0; v < visits; v++)
            e->sample[entry++] = samples[v < whole || !o->shuffle ? v % n : o->scratch[v - whole]];
    }
    const pc_rng_key key = {o->seed, PC_STREAM_SHUFFLE, (uint64_t)epoch};
    if (o->shuffle)
        pc_rng_permutation(&key, e->entry, o->visits);
    else
        for (int64_t i = 0; i < o->visits; i++) e->entry[i] = i;
    e->epoch = epoch;
}

void pc_order_get(pc_order *o, pc_visit_key *out, int64_t step, int64_t begin, int64_t end)
{
    const int64_t epoch = step / o->steps, first = step % o->steps * o->batch;
    pthread_mutex_lock(&o->lock);
    pc_epoch *e = &o->held[epoch % PC_EPOCHS_HELD];
    if (e->epoch != epoch) fill_epoch(o, e, epoch);
    for (int64_t i = begin; i < end; i++) {
        const int64_t entry = e->entry[first + i];
        out[i - begin] = (pc_visit_key){e->sample[entry], epoch, entry};
    }
    pthread_mutex_unlock(&o->lock);
}

/*
 * loader.c - slots, workers, the hand-over of batches.
 *
 * The unit of work is a micro-batch. Units are taken in order; unit u belongs to batch first + u / M, which
 * lives in slot (batch % slots). A worker may begin a batch when its slot is free: at most `ahead` batches
 * lie ready or in the making behind the one that the model has. All that workers share is guarded by one
 * mutex; what a unit holds is a function of its number, so threads change when, never what.
 */
#include "data/datasets/loader_parts.h"
#include "model/core/log.h"

#include <stdlib.h>
#include <string.h>

typedef struct slot {
    pc_slot_micro *micro; // (M)
    pc_micro_batch *list; // (M) those with samples, for the batch
    int64_t done;         // units made, of the batch that lives here now
} slot;

struct pc_loader {
    pc_batch_maker maker;
    int64_t M, first, taken; // micro-batches in a batch; first batch; units taken by workers
    int64_t next, freed; // batch that is handed over next; batches before this one are done with
    slot *slots;
    int64_t slot_count;
    pc_batch batch; // the one that the model has
    pc_bench own;   // for loading without threads
    pthread_t *thread;
    int threads;
    bool stop;
    pthread_mutex_t lock;
    pthread_cond_t work, ready; // a slot was freed; a batch is whole
    double waited;
};

/* ---- workers ---- */

static slot *slot_of(pc_loader *l, int64_t step)
{
    return &l->slots[step % l->slot_count];
}

static void *worker(void *arg)
{
    pc_loader *l = arg;
    pc_bench bench;
    pc_status st = pc_bench_open(&bench, &l->maker);
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && l->first + l->taken / l->M >= l->freed + l->slot_count)
            pthread_cond_wait(&l->work, &l->lock);
        if (l->stop) break;
        const int64_t unit = l->taken++, step = l->first + unit / l->M, number = unit % l->M;
        pc_slot_micro *out = &slot_of(l, step)->micro[number];
        pthread_mutex_unlock(&l->lock);
        if (st) {
            out->status = st;
            strncpy(out->message, pc_error_text(), sizeof out->message - 1);
        } else {
            pc_make_micro(out, &l->maker, &bench, step, number);
        }
        pthread_mutex_lock(&l->lock);
        if (++slot_of(l, step)->done == l->M) pthread_cond_broadcast(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    pc_bench_close(&bench);
    return NULL;
}

static pc_status start_workers(pc_loader *l)
{
    const int wanted = l->maker.config.threads;
    if (wanted == 0) return pc_bench_open(&l->own, &l->maker);
    l->thread = calloc((size_t)wanted, sizeof *l->thread);
    if (!l->thread) return pc_fail(PC_ERR_MEMORY, "%d loader threads", wanted);
    for (; l->threads < wanted; l->threads++)
        if (pthread_create(&l->thread[l->threads], NULL, worker, l))
            return pc_fail(PC_ERR_MEMORY, "loader thread %d of %d cannot be started",
                           l->threads + 1, wanted);
    return PC_OK;
}

/* ---- life ---- */

static pc_status open_slots(pc_loader *l)
{
    l->slots = calloc((size_t)l->slot_count, sizeof *l->slots);
    if (!l->slots) return pc_fail(PC_ERR_MEMORY, "%lld batches", (long long)l->slot_count);
    for (int64_t i = 0; i < l->slot_count; i++) {
        l->slots[i].micro = calloc((size_t)l->M, sizeof *l->slots[i].micro);
        l->slots[i].list = calloc((size_t)l->M, sizeof *l->slots[i].list);
        if (!l->slots[i].micro || !l->slots[i].list)
            return pc_fail(PC_ERR_MEMORY, "%lld micro-batches", (long long)l->M);
        for (int64_t m = 0; m < l->M; m++) {
            pc_status st = pc_slot_micro_open(&l->slots[i].micro[m], &l->maker);
            if (st) return st;
        }
    }
    return PC_OK;
}

pc_status pc_loader_open(pc_loader **out, const pc_dataset *data, const pc_model_config *model,
                         const pc_tokenizer *tok, const pc_template *tmpl,
                         const pc_image_config *image, const pc_loader_config *c,
                         int64_t first_step)
{
    *out = NULL;
    PC_ASSERT(first_step >= 0, "first batch %lld", (long long)first_step);
    pc_loader *l = calloc(1, sizeof *l);
    if (!l) return pc_fail(PC_ERR_MEMORY, "a loader");
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->ready, NULL);
    l->first = l->next = l->freed = first_step;
    pc_status st = pc_maker_open(&l->maker, data, model, tok, tmpl, image, c);
    if (!st) {
        l->M = c->batch / c->micro;
        l->slot_count = c->threads > 0 ? c->ahead + 1 : 1;
        st = open_slots(l);
    }
    if (!st) st = start_workers(l);
    if (st)
        pc_loader_close(l);
    else
        *out = l;
    return st;
}

void pc_loader_close(pc_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->threads; i++) pthread_join(l->thread[i], NULL);
    free(l->thread);
    for (int64_t i = 0; l->slots && i < l->slot_count; i++) {
        for (int64_t m = 0; l->slots[i].micro && m < l->M; m++)
            pc_slot_micro_close(&l->slots[i].micro[m]);
        free(l->slots[i].micro);
        free(l->slots[i].list);
    }
    free(l->slots);
    pc_bench_close(&l->own);
    pc_maker_close(&l->maker);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->ready);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- hand-over ---- */

/* The first failure in order, if any; otherwise the sums and the micro-batches that have samples. */
static pc_status gather(pc_loader *l, slot *s)
{
    pc_batch *b = &l->batch;
    *b = (pc_batch){.step = l->next, .epoch = l->next / l->maker.order.steps, .micro = s->list};
    for (int64_t m = 0; m < l->M; m++) {
        const pc_slot_micro *from = &s->micro[m];
        if (from->status) {
            pc_error_set(from->message);
            return pc_context(from->status, "batch %lld", (long long)b->step);
        }
        b->skipped += from->skipped;
        if (from->batch.samples == 0) continue;
        s->list[b->micros++] = from->batch;
        b->supervised += from->batch.vlm.supervised;
        b->tokens += from->tokens;
        b->images += from->images;
        b->samples += from->batch.samples;
    }
    if (b->samples == 0)
        return pc_fail(PC_ERR_INPUT, "batch %lld: none of its %lld images can be used",
                       (long long)b->step, (long long)b->skipped);
    return PC_OK;
}

pc_status pc_loader_next(pc_loader *l, pc_batch **out)
{
    slot *s = slot_of(l, l->next);
    *out = NULL;
    const double started = pc_seconds();
    if (l->threads == 0) {
        for (int64_t m = 0; m < l->M; m++)
            pc_make_micro(&s->micro[m], &l->maker, &l->own, l->next, m);
    } else {
        pthread_mutex_lock(&l->lock);
        if (l->freed < l->next) { // the batch handed over last
            slot_of(l, l->freed)->done = 0;
            l->freed = l->next;
            pthread_cond_broadcast(&l->work);
        }
        while (s->done < l->M) pthread_cond_wait(&l->ready, &l->lock);
        pthread_mutex_unlock(&l->lock);
    }
    l->waited += pc_seconds() - started;
    pc_status st = gather(l, s);
    if (st) return st; // the same again at the next call: the batch stays
    l->next++;
    *out = &l->batch;
    return PC_OK;
}

int64_t pc_loader_steps_per_epoch(const pc_loader *l)
{
    return l->maker.order.steps;
}

int64_t pc_loader_skipped(const pc_loader *l)
{
    return l->maker.texts.unusable;
}

const pc_image_geometry *pc_loader_worst_images(const pc_loader *l, int64_t *count)
{
    *count = l->maker.worst_measures;
    return l->maker.worst_geometry;
}

int64_t pc_loader_worst_numbers(const pc_loader *l)
{
    return l->maker.worst_numbers;
}

void pc_loader_worst(const pc_loader *l, int64_t *rows, int64_t *images, int64_t *supervised)
{
    *rows = l->maker.worst_rows;
    *images = l->maker.worst_images;
    *supervised = l->maker.worst_supervised;
}

double pc_loader_waited(const pc_loader *l)
{
    return l->waited;
}

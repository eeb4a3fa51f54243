/*
 * loader_worst.c - the largest micro-batch that the data hold: the `micro` largest visits together, in each respect.
 */
#include "data/datasets/loader_parts.h"
#include "model/networks/pack.h"

#include <math.h>
#include <stdlib.h>

typedef struct demand {
    int64_t size, times; // so large, so many times in an epoch
} demand;

static int larger_first(const void *a, const void *b)
{
    const demand *x = a, *y = b;
    return (x->size < y->size) - (x->size > y->size);
}

static int64_t worst_sum(demand *list, int64_t n, int64_t wanted)
{
    int64_t sum = 0;
    qsort(list, (size_t)n, sizeof *list, larger_first);
    for (int64_t i = 0; i < n && wanted > 0; i++) {
        const int64_t k = list[i].times < wanted ? list[i].times : wanted;
        sum += k * list[i].size;
        wanted -= k;
    }
    return sum;
}

static pc_status find_worst(pc_batch_maker *m)
{
    const pc_dataset *d = m->data;
    const int64_t micro = m->config.micro, n = d->count;
    demand *rows = calloc((size_t)n + 1, sizeof *rows),
           *learned = calloc((size_t)n + 1, sizeof *rows),
           *images = calloc((size_t)n + 1, sizeof *rows),
           *numbers = calloc((size_t)n + 1, sizeof *rows),
           *ids = calloc((size_t)n + 1, sizeof *rows);
    pc_status st = PC_OK;
    if (!rows || !learned || !images || !numbers || !ids) {
        st = pc_fail(PC_ERR_MEMORY, "the lengths of %lld samples", (long long)n);
        goto out;
    }
    for (int s = 0; s < d->n_sources; s++) {
        const int64_t times = (int64_t)ceil(d->source_weight[s]);
        for (int64_t i = d->source_begin[s]; i < d->source_begin[s + 1]; i++) {
            const pc_text_entry *e = &m->texts.entries[i];
            if (e->turns == 0) continue;
            pc_texts_most(&m->texts, i, &rows[i].size, &learned[i].size);
            images[i].size = d->samples[i].image != NULL;
            if (images[i].size) numbers[i].size = pc_visual_numbers(pc_images_shape(&m->images, i));
            // an image place of several rows is one id; a place of no rows does not occur
            ids[i].size = rows[i].size - (e->prefix_rows - e->prefix.count);
            rows[i].times = learned[i].times = images[i].times = ids[i].times = times;
            numbers[i].times = times;
        }
    }
    m->worst_rows = worst_sum(rows, n, micro);
    m->worst_supervised = worst_sum(learned, n, micro);
    m->worst_images = worst_sum(images, n, micro);
    m->worst_ids = worst_sum(ids, n, micro);
    m->worst_numbers = worst_sum(numbers, n, micro);
    m->worst_turns = pc_texts_most_turns(&m->texts);
    if (m->model->kind == PC_MODEL_CLIP && m->model->clip.text.pad_to_context)
        m->worst_rows = micro * m->model->clip.text.T;
out:
    free(rows);
    free(learned);
    free(images);
    free(numbers);
    free(ids);
    return st;
}

/* ---- images of several sizes ---- */

// What an image takes: of the tower, of the decoder, of the buffers in which tiles are shrunk.
enum { EYES, ROWS, GRID, SMALL, RESPECTS };

typedef struct candidate {
    const pc_image_geometry *g;
    int64_t takes[RESPECTS];
    int64_t times;
    int respect;
} candidate;

static void fill_takes(int64_t takes[RESPECTS], const pc_image_geometry *g, const pc_vlm_config *c)
{
    takes[EYES] = g->crops + g->t * g->h * g->w;
    takes[ROWS] = g->rows;
    takes[GRID] = takes[SMALL] = 0;
    if (c->visual == PC_VISUAL_TILES) pc_pack_shrunk(&takes[GRID], &takes[SMALL], g, c);
}

static int most_first(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    for (int i = 0; i < RESPECTS; i++) {
        const int r = (x->respect + i) % RESPECTS;
        const int64_t p = x->takes[r], q = y->takes[r];
        if (p != q) return p < q ? 1 : -1;
    }
    return 0;
}

/* Adds images from the most demanding on until the list takes as much as any micro-batch. */
static void add_until(pc_batch_maker *m, candidate *list, int64_t n, int respect)
{
    int64_t want = 0, have = 0, left = m->worst_images;
    for (int64_t i = 0; i < n; i++) list[i].respect = respect;
    qsort(list, (size_t)n, sizeof *list, most_first);
    for (int64_t i = 0; i < n && left > 0; i++) {
        const int64_t k = list[i].times < left ? list[i].times : left;
        want += k * list[i].takes[respect];
        left -= k;
    }
    for (int64_t i = 0; i < m->worst_measures; i++) {
        int64_t own[RESPECTS];
        fill_takes(own, &m->worst_geometry[i], &m->model->vlm);
        have += own[respect];
    }
    for (int64_t i = 0; i < n && have < want; i++)
        for (int64_t k = 0; k < list[i].times && have < want; k++) {
            m->worst_geometry[m->worst_measures++] = *list[i].g;
            have += list[i].takes[respect];
        }
}

static pc_status find_worst_images(pc_batch_maker *m)
{
    const pc_dataset *d = m->data;
    int64_t n = 0;
    if (!m->images.measures) return PC_OK; // all are alike
    candidate *list = calloc((size_t)d->count + 1, sizeof *list);
    m->worst_geometry = calloc((size_t)(RESPECTS * m->worst_images) + 1, sizeof *m->worst_geometry);
    if (!list || !m->worst_geometry) {
        free(list);
        return pc_fail(PC_ERR_MEMORY, "the sizes of %lld images", (long long)d->count);
    }
    for (int s = 0; s < d->n_sources; s++)
        for (int64_t i = d->source_begin[s]; i < d->source_begin[s + 1]; i++)
            if (m->texts.entries[i].turns > 0 && d->samples[i].image) {
                list[n] = (candidate){.g = pc_images_geometry(&m->images, i),
                                      .times = (int64_t)ceil(d->source_weight[s])};
                fill_takes(list[n].takes, list[n].g, &m->model->vlm);
                n++;
            }
    for (int respect = 0; respect < RESPECTS; respect++) add_until(m, list, n, respect);
    free(list);
    return PC_OK;
}

pc_status pc_maker_worst(pc_batch_maker *m)
{
    const pc_status st = find_worst(m);
    return st ? st : find_worst_images(m);
}

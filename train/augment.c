/*
 * augment.c - see augment.h.
 */
#include "train/augment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DRAWS = 16 }; // random numbers set aside for an image

pc_status augment_open(augment *a, int64_t S, pc_pool *pool)
{
    const size_t numbers = (size_t)pc_pool_threads(pool) * (size_t)(3 * S * S);
    a->size = S;
    a->pool = pool;
    a->room = malloc(numbers * sizeof *a->room);
    return a->room ? PC_OK : pc_fail(PC_ERR_MEMORY, "augmentation");
}

void augment_close(augment *a)
{
    free(a->room);
    *a = (augment){0};
}

bool augment_wanted(const augment *a)
{
    return a->crop < 1.0 || a->flip || a->colour > 0.0 || a->words > 0.0;
}

// out[y][x] = in at (left + (x + 1/2) share - 1/2, top + ...), between the four pixels around; edges hold.
static void resample(float *out, const float *in, int64_t S, double left, double top, double share,
                     bool flip)
{
    for (int64_t y = 0; y < S; y++) {
        const double sy = fmin(fmax(top + ((double)y + 0.5) * share - 0.5, 0.0), (double)S - 1.0);
        const int64_t y0 = (int64_t)sy, y1 = y0 + 1 < S ? y0 + 1 : y0;
        const float fy = (float)(sy - (double)y0);
        for (int64_t x = 0; x < S; x++) {
            const double at = (double)(flip ? S - 1 - x : x);
            const double sx = fmin(fmax(left + (at + 0.5) * share - 0.5, 0.0), (double)S - 1.0);
            const int64_t x0 = (int64_t)sx, x1 = x0 + 1 < S ? x0 + 1 : x0;
            const float fx = (float)(sx - (double)x0);
            const float upper = in[y0 * S + x0] + fx * (in[y0 * S + x1] - in[y0 * S + x0]);
            const float lower = in[y1 * S + x0] + fx * (in[y1 * S + x1] - in[y1 * S + x0]);
            out[y * S + x] = upper + fy * (lower - upper);
        }
    }
}

void augment_image(const augment *a, float *pixels, float *room, int64_t step, int64_t index)
{
    const pc_rng_key key = {.seed = a->seed, .stream = PC_STREAM_AUGMENT, .step = (uint64_t)step};
    const uint64_t draw = (uint64_t)index * DRAWS;
    const int64_t S = a->size, plane = S * S;
    const double share = a->crop + (1.0 - a->crop) * pc_rng_uniform(&key, draw);
    const double left = (1.0 - share) * (double)S * pc_rng_uniform(&key, draw + 1);
    const double top = (1.0 - share) * (double)S * pc_rng_uniform(&key, draw + 2);
    const bool flip = a->flip && pc_rng_uniform(&key, draw + 3) < 0.5;
    for (int64_t c = 0; c < 3; c++) {
        float *p = pixels + c * plane, *out = room + c * plane;
        const double u = 2.0 * pc_rng_uniform(&key, draw + 4 + 2 * (uint64_t)c) - 1.0;
        const double v = 2.0 * pc_rng_uniform(&key, draw + 5 + 2 * (uint64_t)c) - 1.0;
        const float gain = (float)(1.0 + a->colour * u), offset = (float)(a->colour * v);
        if (share < 1.0 || flip) {
            resample(out, p, S, left, top, share, flip);
            memcpy(p, out, (size_t)plane * sizeof *p);
        }
        if (a->colour > 0.0)
            for (int64_t i = 0; i < plane; i++) p[i] = gain * p[i] + offset;
    }
}

typedef struct work {
    augment *a;
    const pc_batch *batch;
} work;

// Captions start in the stream where images end.
static void hide_words(const augment *a, const pc_micro_batch *b, int64_t step, int64_t micro)
{
    const pc_rng_key key = {.seed = a->seed + (uint64_t)micro + 1,
                            .stream = PC_STREAM_AUGMENT,
                            .step = (uint64_t)step};
    int32_t *ids = b->text.ids.data;
    for (int64_t n = 0; n < b->text.ids.dim[0]; n++)
        if (ids[n] != a->keep && pc_rng_uniform(&key, (uint64_t)n + (UINT64_C(1) << 40)) < a->words)
            ids[n] = a->blank;
}

static void run_micro(void *arg, int64_t begin, int64_t end, int worker)
{
    const work *w = arg;
    augment *a = w->a;
    const int64_t one = 3 * a->size * a->size;
    for (int64_t m = begin; m < end; m++) {
        const pc_micro_batch *b = &w->batch->micro[m];
        if (a->words > 0.0 && pc_present(b->text.ids)) hide_words(a, b, w->batch->step, m);
        const pc_tensor pixels = pc_present(b->pixels) ? b->pixels : b->vlm.pictures.pixels;
        if (!pc_present(pixels)) continue;
        int64_t before = 0; // images of the micro-batches in front
        for (int64_t k = 0; k < m; k++) before += w->batch->micro[k].samples;
        for (int64_t i = 0; i < pixels.dim[0]; i++)
            augment_image(a, (float *)pixels.data + i * one, a->room + worker * one, w->batch->step,
                          before + i);
    }
}

void augment_batch(augment *a, const pc_batch *b)
{
    work w = {a, b};
    pc_parallel(a->pool, b->micros, 1, run_micro, &w);
}

/*
 * loader_images.c - images of samples: their sizes at open, where rows follow from them; squares decoded once where memory
 * allows, and kept as 8 bits.
 *
 * Every different path is one image, whoever shows it. Its 8-bit picture after fit and resize is what is
 * kept; mean and deviation are applied on the way into a batch, from a table that pc_image_preprocess itself
 * fills, so that training and inference see the same bits.
 */
#include "data/datasets/loader_parts.h"
#include "data/images/decode.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ABSENT, WRITING, READY, BROKEN };

static pc_status number_images(pc_images *im)
{
    pc_bytemap paths = {0};
    pc_status st = PC_OK;
    for (int64_t i = 0; i < im->data->count && !st; i++) {
        const char *path = im->data->samples[i].image;
        im->of_sample[i] = -1;
        if (!path) continue;
        const pc_byte_entry *e = pc_bytemap_add(&paths, path, strlen(path), paths.count, NULL);
        if (e)
            im->of_sample[i] = e->value;
        else
            st = pc_fail(PC_ERR_MEMORY, "%lld image paths", (long long)paths.count);
    }
    im->count = paths.count;
    pc_bytemap_close(&paths);
    return st;
}

/* What each 8-bit value becomes: asked of the function that inference uses. */
static pc_status fill_table(pc_images *im)
{
    pc_image_config one = im->config;
    one.size = 1;
    for (int v = 0; v < 256; v++) {
        uint8_t rgb[3] = {(uint8_t)v, (uint8_t)v, (uint8_t)v};
        float pixels[3];
        pc_status st = pc_image_preprocess(pixels, &(pc_image){rgb, 1, 1}, &one);
        if (st) return st;
        for (int c = 0; c < 3; c++) im->table[c][v] = pixels[c];
    }
    return PC_OK;
}

/* At most a quarter of the machine's memory. */
static bool fits(double bytes)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 && bytes <= 0.25 * (double)pages * (double)page;
}

/* One after the other: headers are a page each. */
static pc_status measure_images(pc_images *im, const pc_vlm_config *model, bool skip)
{
    im->shapes = calloc((size_t)im->count + 1, sizeof *im->shapes);
    im->measures = calloc((size_t)im->count + 1, sizeof *im->measures);
    if (!im->shapes || !im->measures)
        return pc_fail(PC_ERR_MEMORY, "%lld images", (long long)im->count);
    for (int64_t i = 0, next = 0; i < im->data->count; i++) {
        const pc_sample *s = &im->data->samples[i];
        const int64_t k = im->of_sample[i];
        char place[4200];
        int64_t h, w;
        if (k != next) continue; // numbered in order of first appearance
        next++;
        pc_status st = pc_image_size(&h, &w, s->image, im->config.orient);
        if (!st) st = pc_visual_plan(&im->shapes[k], &im->measures[k], &im->config, model, h, w, 1);
        if (!st) continue;
        im->shapes[k] = (pc_image_shape){0};
        if (!skip || st == PC_ERR_MEMORY)
            return pc_context(st, "%s", pc_sample_place(s, place, sizeof place));
    }
    return PC_OK;
}

static pc_status measure(pc_images *im, const pc_model_config *model, const pc_loader_config *l)
{
    const int64_t S = im->config.size;
    if (model->kind == PC_MODEL_CLIP) {
        if (im->config.kind != PC_IMAGE_SQUARE)
            return pc_fail(PC_ERR_INPUT, "images are prepared in parts; two towers see squares");
        return pc_image_plan(&im->alike, &im->config, S, S, 1);
    }
    if (model->vlm.vision.L == 0) return PC_OK;
    const pc_status st = pc_visual_check(&im->config, &model->vlm);
    if (st) return st;
    if (pc_visual_fixed(&im->config))
        return pc_visual_plan(&im->alike, &im->geometry, &im->config, &model->vlm, S, S, 1);
    return measure_images(im, &model->vlm, l->on_bad_image == PC_BAD_SKIP);
}

pc_status pc_images_open(pc_images *im, const pc_dataset *data, const pc_model_config *model,
                         const pc_image_config *c, const pc_loader_config *l)
{
    *im = (pc_images){.config = *c, .data = data};
    im->of_sample = malloc((size_t)(data->count + 1) * sizeof *im->of_sample);
    if (!im->of_sample) return pc_fail(PC_ERR_MEMORY, "%lld samples", (long long)data->count);
    pc_status st = number_images(im);
    if (!st) st = measure(im, model, l);
    if (st) return st;
    im->state = malloc((size_t)(im->count + 1) * sizeof *im->state);
    if (!im->state) return pc_fail(PC_ERR_MEMORY, "%lld images", (long long)im->count);
    for (int64_t i = 0; i < im->count; i++) atomic_init(&im->state[i], ABSENT);
    if (c->kind != PC_IMAGE_SQUARE) return PC_OK; // decoded at each visit
    im->bytes = 3 * c->size * c->size;
    if ((st = fill_table(im))) return st;
    if (l->cache_images && im->count && fits((double)im->count * (double)im->bytes))
        st = pc_arena_open(&im->cache, "decoded images", (size_t)(im->count * im->bytes));
    return st;
}

const pc_image_shape *pc_images_shape(const pc_images *im, int64_t sample)
{
    return im->shapes ? &im->shapes[im->of_sample[sample]] : &im->alike;
}

const pc_image_geometry *pc_images_geometry(const pc_images *im, int64_t sample)
{
    return im->measures ? &im->measures[im->of_sample[sample]] : &im->geometry;
}

void pc_images_close(pc_images *im)
{
    pc_arena_close(&im->cache);
    free(im->of_sample);
    free(im->state);
    free(im->shapes);
    free(im->measures);
    *im = (pc_images){0};
}

static void normalise(float *pixels, const uint8_t *u8, const pc_images *im)
{
    const int64_t n = im->config.size * im->config.size;
    float *r = pixels, *g = pixels + n, *b = pixels + 2 * n;
    for (int64_t i = 0; i < n; i++) {
        r[i] = im->table[0][u8[3 * i]];
        g[i] = im->table[1][u8[3 * i + 1]];
        b[i] = im->table[2][u8[3 * i + 2]];
    }
}

static pc_status decode(uint8_t *u8, const pc_images *im, const char *path)
{
    pc_image picture;
    pc_status st = pc_image_open_as(&picture, path, &im->config);
    if (st) return st;
    st = pc_image_fit(u8, &picture, &im->config);
    pc_image_close(&picture);
    return st;
}

pc_status pc_images_get(float *pixels, float *high, uint8_t *u8, pc_images *im, int64_t sample)
{
    const pc_sample *s = &im->data->samples[sample];
    const int64_t i = im->of_sample[sample];
    char place[4200];
    if (im->config.kind != PC_IMAGE_SQUARE) {
        const pc_status st =
            pc_visual_read(pixels, high, pc_images_shape(im, sample), &im->config, s->image);
        return st ? pc_context(st, "%s", pc_sample_place(s, place, sizeof place)) : PC_OK;
    }
    uint8_t *kept = im->cache.base ? im->cache.base + i * im->bytes : NULL;
    if (kept && atomic_load_explicit(&im->state[i], memory_order_acquire) == READY) {
        normalise(pixels, kept, im);
        return PC_OK;
    }
    pc_status st = decode(u8, im, s->image);
    if (st) return pc_context(st, "%s", pc_sample_place(s, place, sizeof place));
    normalise(pixels, u8, im);
    unsigned char absent = ABSENT;
    if (kept && atomic_compare_exchange_strong(&im->state[i], &absent, WRITING)) {
        memcpy(kept, u8, (size_t)im->bytes);
        atomic_store_explicit(&im->state[i], READY, memory_order_release);
    }
    return PC_OK;
}

bool pc_images_first_failure(pc_images *im, int64_t sample)
{
    unsigned char absent = ABSENT;
    return atomic_compare_exchange_strong(&im->state[im->of_sample[sample]], &absent, BROKEN);
}

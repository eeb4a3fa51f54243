/*
 * visual.c - see visual.h.
 */
#include "data/images/visual.h"

#include "data/images/decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pc_status differs(const char *what, int64_t image, int64_t model)
{
    return pc_fail(PC_ERR_INPUT, "%s: images are prepared with %lld, the model has %lld", what,
                   (long long)image, (long long)model);
}

static pc_status check_pinpoints(const pc_pinpoints *a, const pc_pinpoints *b)
{
    bool same = a->count == b->count;
    for (int i = 0; i < a->count && same; i++)
        same = a->hw[i][0] == b->hw[i][0] && a->hw[i][1] == b->hw[i][1];
    if (same) return PC_OK;
    return pc_fail(PC_ERR_INPUT,
                   "images are cut by other resolutions (%d of them) than the model's (%d)",
                   a->count, b->count);
}

pc_status pc_visual_check(const pc_image_config *image, const pc_vlm_config *model)
{
    static const char *const names[] = {"square", "tiles", "patches", "hybrid"};
    pc_image_kind want = PC_IMAGE_SQUARE;
    switch (model->visual) {
    case PC_VISUAL_TILES: want = PC_IMAGE_TILES; break;
    case PC_VISUAL_GRID: want = PC_IMAGE_PATCHES; break;
    case PC_VISUAL_HYBRID: want = PC_IMAGE_HYBRID; break;
    case PC_VISUAL_SQUARE:
    case PC_VISUAL_RESAMPLER: break;
    }
    // An image that is not cut is an image of one tile.
    const bool whole = want == PC_IMAGE_TILES && image->kind == PC_IMAGE_SQUARE;
    if (image->kind != want && !whole)
        return pc_fail(PC_ERR_INPUT, "images are prepared as %s, the model sees %s",
                       names[image->kind], names[want]);
    if (want == PC_IMAGE_PATCHES) {
        if (image->patch != model->vision.patch)
            return differs("patch", image->patch, model->vision.patch);
        if (image->merge != model->merge) return differs("merge", image->merge, model->merge);
        if (image->temporal != model->vision.frames)
            return differs("frames of a patch", image->temporal, model->vision.frames);
        return PC_OK;
    }
    if (image->size != model->vision.image_size)
        return differs("size in pixels", image->size, model->vision.image_size);
    if (image->kind == PC_IMAGE_HYBRID && image->high.size != model->high.image_size)
        return differs("size of the large square in pixels", image->high.size,
                       model->high.image_size);
    if (image->kind == PC_IMAGE_TILES) return check_pinpoints(&image->pinpoints, &model->pinpoints);
    return PC_OK;
}

pc_image_config pc_visual_default(const pc_vlm_config *model)
{
    pc_image_config c = pc_image_config_default(model->vision.image_size);
    if (model->vision.L == 0) return c;
    if (model->visual == PC_VISUAL_TILES) {
        c.kind = PC_IMAGE_TILES;
        c.pinpoints = model->pinpoints;
    }
    if (model->visual == PC_VISUAL_HYBRID) { // as DeepSeek-VL's processor has it
        c.kind = PC_IMAGE_HYBRID;
        c.fit = PC_FIT_LONGEST;
        c.min_size = 14;
        c.high = (pc_image_high){.size = model->high.image_size, .filter = c.filter};
        memcpy(c.high.mean, c.mean, sizeof c.mean);
        memcpy(c.high.std, c.std, sizeof c.std);
        for (int i = 0; i < 3; i++) {
            c.high.fill[i] = (uint8_t)(255.0 * c.mean[i]);
            c.mean[i] = c.std[i] = 0.5;
        }
    }
    if (model->visual == PC_VISUAL_GRID) {
        const int64_t cell = model->vision.patch * model->merge;
        c.kind = PC_IMAGE_PATCHES;
        c.patch = model->vision.patch;
        c.merge = model->merge;
        c.temporal = model->vision.frames;
        c.min_pixels = 4 * cell * cell; // as Qwen2-VL's processor has it: 4 to 1280 rows
        c.max_pixels = 1280 * cell * cell;
    }
    return c;
}

bool pc_visual_fixed(const pc_image_config *image)
{
    return image->kind == PC_IMAGE_SQUARE || image->kind == PC_IMAGE_HYBRID;
}

pc_status pc_visual_plan(pc_image_shape *shape, pc_image_geometry *geometry,
                         const pc_image_config *image, const pc_vlm_config *model, int64_t height,
                         int64_t width, int64_t images)
{
    const pc_status st = pc_image_plan(shape, image, height, width, images);
    if (st) return st;
    const bool whole = shape->kind == PC_IMAGE_SQUARE ||
                       (shape->kind == PC_IMAGE_TILES && shape->tiles.crops == 1);
    *geometry = (pc_image_geometry){.crops = whole ? 1 : 0,
                                    .height = height,
                                    .width = width,
                                    .t = shape->grid[0],
                                    .h = shape->grid[1],
                                    .w = shape->grid[2]};
    return pc_vlm_measure(geometry, model);
}

int64_t pc_visual_numbers(const pc_image_shape *s)
{
    return s->rows * s->row;
}

int64_t pc_visual_high(const pc_image_shape *s)
{
    return 3 * s->high * s->high;
}

pc_status pc_visual_read(float *pixels, float *high, const pc_image_shape *s,
                         const pc_image_config *image, const char *path)
{
    pc_image im;
    if (!*path) { // the mean colour is zero once it is subtracted
        memset(pixels, 0, (size_t)pc_visual_numbers(s) * sizeof *pixels);
        if (s->high) memset(high, 0, (size_t)pc_visual_high(s) * sizeof *high);
        return PC_OK;
    }
    pc_status st = pc_image_open_as(&im, path, image);
    if (st) return st;
    pc_image_shape own = *s;
    if (pc_visual_fixed(image)) {
        own.height = im.height;
        own.width = im.width;
    }
    if (im.height != own.height || im.width != own.width)
        st = pc_fail(PC_ERR_FORMAT, "the header says %lld x %lld, the pixels are %lld x %lld",
                     (long long)own.width, (long long)own.height, (long long)im.width,
                     (long long)im.height);
    else
        st = pc_image_prepare_into(pixels, high, &im, image, &own);
    pc_image_close(&im);
    return pc_context(st, "image '%s'", path);
}

pc_pictures pc_visual_pictures(float *pixels, float *high, const pc_image_shape *shapes,
                               const pc_image_geometry *geometry, int64_t count)
{
    pc_pictures p = {.count = count, .geometry = geometry};
    if (count == 0) return p;
    const pc_image_shape *first = shapes;
    int64_t rows = 0;
    for (int64_t i = 0; i < count; i++) rows += shapes[i].rows;
    if (first->kind == PC_IMAGE_PATCHES)
        p.patches = pc_view2(pixels, PC_F32, rows, first->row);
    else
        p.pixels = pc_view4(pixels, PC_F32, rows, 3, first->size, first->size);
    if (first->high) p.high = pc_view4(high, PC_F32, count, 3, first->high, first->high);
    return p;
}

// ---- whole files ---------------------------------------------------------------------------------

pc_status pc_visual_measure(pc_visual *v, const pc_image_config *image, const pc_vlm_config *model,
                            const char *const *paths, int64_t n, int64_t images)
{
    pc_status st = pc_visual_check(image, model);
    *v = (pc_visual){0};
    if (st) return st;
    v->shapes = calloc((size_t)n + 1, sizeof *v->shapes);
    v->geometry = calloc((size_t)n + 1, sizeof *v->geometry);
    if (!v->shapes || !v->geometry) st = pc_fail(PC_ERR_MEMORY, "%lld images", (long long)n);
    for (int64_t i = 0; i < n && !st; i++) {
        int64_t h = image->size, w = image->size;
        // Of a picture that does not exist, and where it makes no difference, no size is read.
        if (*paths[i] && !pc_visual_fixed(image))
            st = pc_image_size(&h, &w, paths[i], image->orient);
        if (image->kind == PC_IMAGE_PATCHES && !*paths[i]) h = w = image->patch * image->merge * 8;
        if (!st)
            st = pc_context(pc_visual_plan(&v->shapes[i], &v->geometry[i], image, model, h, w,
                                           images),
                            "image '%s'", paths[i]);
    }
    if (st) pc_visual_close(v);
    v->pictures.count = n;
    return st;
}

typedef struct job {
    pc_visual *v;
    const pc_image_config *config;
    const char *const *paths;
    const int64_t *at; // (n): where each image's numbers begin
    pc_status *status; // (n)
    char (*message)[512];
} job;

static void task(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *j = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const pc_image_shape *s = &j->v->shapes[i];
        float *high = j->v->high ? j->v->high + i * pc_visual_high(s) : NULL;
        j->status[i] = pc_visual_read(j->v->pixels + j->at[i], high, s, j->config, j->paths[i]);
        if (j->status[i]) snprintf(j->message[i], sizeof j->message[i], "%s", pc_error_text());
    }
}

pc_status pc_visual_load(pc_visual *v, const pc_image_config *image, const char *const *paths,
                         pc_pool *pool)
{
    const int64_t n = v->pictures.count;
    job j = {.v = v, .config = image, .paths = paths};
    int64_t *at = calloc((size_t)n + 1, sizeof *at);
    pc_status st = PC_OK;
    j.status = calloc((size_t)n + 1, sizeof *j.status);
    j.message = calloc((size_t)n + 1, sizeof *j.message);
    j.at = at;
    for (int64_t i = 0; i < n && at; i++) at[i + 1] = at[i] + pc_visual_numbers(&v->shapes[i]);
    const int64_t high = n ? n * pc_visual_high(v->shapes) : 0;
    if (!st && at) v->pixels = malloc((size_t)(at[n] + 1) * sizeof *v->pixels);
    if (!st && high) v->high = malloc((size_t)high * sizeof *v->high);
    if (!st && (!at || !j.status || !j.message || !v->pixels || (high && !v->high)))
        st = pc_fail(PC_ERR_MEMORY, "%lld images", (long long)n);
    if (!st) {
        pc_parallel(pool, n, 1, task, &j);
        for (int64_t i = 0; i < n && !st; i++)
            if ((st = j.status[i])) pc_error_set(j.message[i]);
    }
    if (!st) v->pictures = pc_visual_pictures(v->pixels, v->high, v->shapes, v->geometry, n);
    free(at);
    free(j.status);
    free(j.message);
    return st;
}

void pc_visual_close(pc_visual *v)
{
    free(v->shapes);
    free(v->geometry);
    free(v->pixels);
    free(v->high);
    *v = (pc_visual){0};
}

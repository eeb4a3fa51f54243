/*
 * given_visual.c - pixel_values and what describes them into pictures of ours (see given_parts.h).
 */
#include "checkpoints/given_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void given_shape(char *buf, size_t size, const pc_st_entry *e)
{
    size_t used = (size_t)snprintf(buf, size, "(");
    for (int i = 0; i < e->rank && used < size; i++)
        used +=
            (size_t)snprintf(buf + used, size - used, "%s%lld", i ? "," : "", (long long)e->dim[i]);
    if (used < size) snprintf(buf + used, size - used, ")");
}

pc_status given_take(given_part *out, const pc_safetensors *file, const char *prefix,
                     const char *name, int rank, int64_t slice)
{
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%s%s", prefix, name);
    const pc_st_entry *e = pc_safetensors_find(file, out->name);
    if (!e) return PC_OK;

    out->e = *e;
    out->there = true;
    const int want = rank + (slice >= 0);
    bool empty = false;
    for (int i = 0; i < e->rank; i++) empty = empty || e->dim[i] < 1;
    if (e->rank != want || empty) {
        char shape[128];
        given_shape(shape, sizeof shape, e);
        return pc_fail(PC_ERR_INPUT,
                       "tensor '%s': shape %s; expected %d dimensions, none of them 0", out->name,
                       shape, want);
    }
    if (slice < 0) return PC_OK;
    if (slice >= e->dim[0])
        return pc_fail(PC_ERR_INPUT, "tensor '%s': batch %lld asked for, it holds %lld", out->name,
                       (long long)slice, (long long)e->dim[0]);
    out->e.bytes = e->bytes / (size_t)e->dim[0];
    out->e.data = (const char *)e->data + (size_t)slice * out->e.bytes;
    out->e.rank = rank;
    for (int i = 0; i < rank; i++) out->e.dim[i] = e->dim[i + 1];
    return PC_OK;
}

// ---- finding -----------------------------------------------------------------------------------

static bool tiled(const pc_model_config *c)
{
    return c->kind == PC_MODEL_VLM && c->vlm.visual == PC_VISUAL_TILES;
}

pc_status given_visual_find(given_visual *v, const pc_safetensors *file,
                            const pc_model_config *config, const char *prefix, int64_t slice)
{
    pc_status st;

    *v = (given_visual){0};
    if (config->kind == PC_MODEL_VLM && config->vlm.visual == PC_VISUAL_GRID)
        return given_grid_find(v, file, prefix, slice);
    if (!tiled(config)) {
        st = given_take(&v->pixels, file, prefix, "pixel_values", 4, slice);
        return st ? st : given_take(&v->high, file, prefix, "high_res_pixel_values", 4, slice);
    }
    char name[128];
    snprintf(name, sizeof name, "%spixel_values_videos", prefix);
    if (pc_safetensors_find(file, name))
        return pc_fail(PC_ERR_INPUT, "tensor '%s': models that cut images do not see films here",
                       name);
    snprintf(name, sizeof name, "%spixel_values", prefix);
    const pc_st_entry *e = pc_safetensors_find(file, name);
    const bool flat = e && e->rank == (slice >= 0 ? 5 : 4);
    if ((st = given_take(&v->pixels, file, prefix, "pixel_values", flat ? 4 : 5, slice)) ||
        (st = given_take(&v->sizes, file, prefix, "image_sizes", 2, slice)) ||
        (st = given_take(&v->numbers, file, prefix, "batch_num_images", 1, slice)))
        return st;
    return PC_OK;
}

size_t given_visual_bytes(const given_visual *v)
{
    // Pixels may be of a narrower type; a size takes two numbers of at least a byte and becomes a geometry.
    return (v->pixels.e.bytes + v->high.e.bytes) * 4 +
           (size_t)(v->pixels.there ? v->pixels.e.dim[0] + 1 : 1) * sizeof(pc_image_geometry) +
           4096 + given_grid_bytes(v);
}

// ---- reading -----------------------------------------------------------------------------------

// Square crops behind any number of leading dimensions, of which *crops is the product.
static pc_status read_pixels(float **out, int64_t *crops, pc_given *g, const given_part *p,
                             int64_t S)
{
    const int lead = p->e.rank - 3;
    const int64_t *d = p->e.dim + lead;

    *out = NULL;
    *crops = 1;
    for (int i = 0; i < lead; i++) *crops *= p->e.dim[i];
    if (d[0] != 3 || d[1] != S || d[2] != S) {
        char shape[128];
        given_shape(shape, sizeof shape, &p->e);
        return pc_fail(PC_ERR_INPUT, "tensor '%s': shape %s; expected (%s,3,%lld,%lld)", p->name,
                       shape, lead == 1 ? "images" : "images,crops", (long long)S, (long long)S);
    }
    *out = pc_arena_bytes(&g->memory, (size_t)(*crops * 3 * S * S) * sizeof **out);
    const pc_status st = pc_st_floats(*out, &p->e, *crops * 3 * S * S);
    return pc_context(st, "tensor '%s'", p->name);
}

static pc_status room_for_geometry(pc_given *g, int64_t images)
{
    g->images = images;
    g->geometry = pc_arena_bytes(&g->memory, (size_t)(images + 1) * sizeof *g->geometry);
    memset(g->geometry, 0, (size_t)(images + 1) * sizeof *g->geometry);
    return PC_OK;
}

static pc_status measure_images(pc_given *g, const pc_vlm_config *c)
{
    for (int64_t i = 0; i < g->images; i++) {
        const pc_status st = pc_vlm_measure(&g->geometry[i], c);
        if (st) return pc_context(st, "image %lld", (long long)i);
    }
    return PC_OK;
}

static pc_status read_square(pc_given *g, const given_part *p, const pc_vision_config *v)
{
    float *data = NULL;
    int64_t images = 0;
    const pc_status st = read_pixels(&data, &images, g, p, v->image_size);

    if (st) return st;
    g->pixels = pc_view4(data, PC_F32, images, 3, v->image_size, v->image_size);
    return room_for_geometry(g, images);
}

// Heights and widths; crops 1 for images of samples that have several.
static pc_status read_sizes(pc_given *g, const given_visual *v)
{
    const int64_t n = g->images;
    const int64_t samples = v->numbers.there ? v->numbers.e.dim[0] : 0;
    pc_status st = PC_OK;
    int32_t *list = malloc((size_t)(2 * n + samples) * sizeof *list), *number = list + 2 * n;

    if (!list) return pc_fail(PC_ERR_MEMORY, "%lld images", (long long)n);
    if ((st = pc_st_ints(list, &v->sizes.e, 2 * n))) {
        st = pc_context(st, "tensor '%s'", v->sizes.name);
        goto out;
    }
    for (int64_t i = 0; i < n; i++) {
        g->geometry[i].height = list[2 * i];
        g->geometry[i].width = list[2 * i + 1];
    }
    if (!samples) goto out;
    if ((st = pc_st_ints(number, &v->numbers.e, samples))) {
        st = pc_context(st, "tensor '%s'", v->numbers.name);
        goto out;
    }
    int64_t image = 0;
    for (int64_t s = 0; s < samples && !st; s++) {
        if (number[s] < 0 || number[s] > n - image)
            st = pc_fail(PC_ERR_INPUT, "tensor '%s': %d images of sample %lld; %lld are left",
                         v->numbers.name, number[s], (long long)s, (long long)(n - image));
        for (int32_t k = 0; k < number[s] && !st; k++, image++)
            if (number[s] > 1) g->geometry[image].crops = 1;
    }
    if (!st && image != n)
        st = pc_fail(PC_ERR_INPUT, "tensor '%s': %lld images, image_sizes has %lld",
                     v->numbers.name, (long long)image, (long long)n);
out:
    free(list);
    return st;
}

static pc_status read_tiles(pc_given *g, const given_visual *v, const pc_vlm_config *c)
{
    const int64_t S = c->vision.image_size, one = 3 * S * S;
    const bool flat = v->pixels.e.rank == 4;
    int64_t crops = 0, used = 0;
    float *data = NULL;
    char shape[128];
    pc_status st = read_pixels(&data, &crops, g, &v->pixels, S);

    if (st) return st;
    if (!v->sizes.there)
        return pc_fail(PC_ERR_INPUT, "no tensor 'image_sizes'; images that are cut need (images,2) "
                                     "heights and widths");
    const int64_t images = v->sizes.e.dim[0], most = flat ? crops : v->pixels.e.dim[1];
    if (v->sizes.e.dim[1] != 2 || (!flat && images != v->pixels.e.dim[0])) {
        given_shape(shape, sizeof shape, &v->sizes.e);
        return pc_fail(PC_ERR_INPUT, "tensor '%s': shape %s; expected (images,2) for %lld images",
                       v->sizes.name, shape, (long long)(flat ? images : v->pixels.e.dim[0]));
    }
    if (images > crops)
        return pc_fail(PC_ERR_INPUT, "tensor '%s': %lld images, %lld crops", v->sizes.name,
                       (long long)images, (long long)crops);
    if ((st = room_for_geometry(g, images)) || (st = read_sizes(g, v)) ||
        (st = measure_images(g, c)))
        return st;
    // Crops that are there to fill a rectangle go.
    for (int64_t i = 0; i < images; i++) {
        const int64_t own = g->geometry[i].crops, from = flat ? used : i * most;
        if (own > (flat ? crops - used : most)) {
            given_shape(shape, sizeof shape, &v->pixels.e);
            return pc_fail(PC_ERR_INPUT,
                           "tensor '%s': shape %s; image %lld of %lld x %lld takes %lld crops",
                           v->pixels.name, shape, (long long)i, (long long)g->geometry[i].height,
                           (long long)g->geometry[i].width, (long long)own);
        }
        memmove(data + used * one, data + from * one, (size_t)(own * one) * sizeof *data);
        used += own;
    }
    if (flat && used != crops)
        return pc_fail(PC_ERR_INPUT, "tensor '%s': %lld crops; the images take %lld",
                       v->pixels.name, (long long)crops, (long long)used);
    g->pixels = pc_view4(data, PC_F32, used, 3, S, S);
    return PC_OK;
}

// The images in both sizes.
static pc_status read_hybrid(pc_given *g, const given_visual *v, const pc_vlm_config *c)
{
    const int64_t S = c->high.image_size;
    float *data = NULL;
    int64_t images = 0;
    pc_status st = read_square(g, &v->pixels, &c->vision);

    if (st) return st;
    if (!v->high.there)
        return pc_fail(PC_ERR_INPUT,
                       "no tensor '%s' beside '%s': this model sees images in two sizes",
                       v->high.name, v->pixels.name);
    if ((st = read_pixels(&data, &images, g, &v->high, S))) return st;
    if (images != g->images)
        return pc_fail(PC_ERR_INPUT, "tensor '%s': %lld images; '%s' has %lld", v->high.name,
                       (long long)images, v->pixels.name, (long long)g->images);
    g->high = pc_view4(data, PC_F32, images, 3, S, S);
    return measure_images(g, c);
}

pc_status given_visual_read(pc_given *g, const given_visual *v, const pc_model_config *config)
{
    const pc_vlm_config *c = &config->vlm;

    if (config->kind == PC_MODEL_VLM && c->visual == PC_VISUAL_GRID) return PC_OK;
    if (!v->pixels.there) return room_for_geometry(g, 0);
    const bool clip = config->kind == PC_MODEL_CLIP;
    if (!(clip ? config->clip.vision.L : c->vision.L))
        return pc_fail(PC_ERR_INPUT, "tensor '%s': this model has no eyes", v->pixels.name);
    if (v->high.there && (clip || c->visual != PC_VISUAL_HYBRID))
        return pc_fail(PC_ERR_INPUT, "tensor '%s': this model sees images in one size",
                       v->high.name);
    if (clip) return read_square(g, &v->pixels, &config->clip.vision);
    switch (c->visual) {
    case PC_VISUAL_TILES: return read_tiles(g, v, c);
    case PC_VISUAL_HYBRID: return read_hybrid(g, v, c);
    case PC_VISUAL_SQUARE:
    case PC_VISUAL_GRID:
    case PC_VISUAL_RESAMPLER: break;
    }
    const pc_status st = read_square(g, &v->pixels, &c->vision);
    return st ? st : measure_images(g, c);
}

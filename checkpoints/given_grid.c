/*
 * given_grid.c - patches of images and films of any grid (see given_parts.h), in the order of their places.
 */
#include "checkpoints/given_parts.h"

#include <stdlib.h>
#include <string.h>

pc_status given_grid_find(given_visual *v, const pc_safetensors *file, const char *prefix,
                          int64_t slice)
{
    pc_status st;

    if ((st = given_take(&v->pixels, file, prefix, "pixel_values", 2, slice)) ||
        (st = given_take(&v->sizes, file, prefix, "image_grid_thw", 2, slice)) ||
        (st = given_take(&v->films, file, prefix, "pixel_values_videos", 2, slice)) ||
        (st = given_take(&v->film_sizes, file, prefix, "video_grid_thw", 2, slice)))
        return st;
    if (v->films.there) return PC_OK;
    return given_take(&v->films, file, prefix, "video_pixel_values", 2, slice);
}

size_t given_grid_bytes(const given_visual *v)
{
    // Patches are counted with the pixels, films here; a grid becomes a geometry, twice: here and in the batch.
    const int64_t n = (v->sizes.there ? v->sizes.e.dim[0] : 0) +
                      (v->film_sizes.there ? v->film_sizes.e.dim[0] : 0);
    return (v->films.there ? v->films.e.bytes * 4 : 0) +
           (size_t)(n + 4) * 3 * sizeof(pc_image_geometry) + 4096;
}

// Images, or films: what is given, and how far the places have used it up.
typedef struct grids {
    const given_part *patches, *sizes;
    const char *what;            // "images"
    int64_t count, next;         // pictures; the next one
    int64_t patch;               // its first patch
    pc_image_geometry *geometry; // (count), malloc'ed
} grids;

static pc_status check_shapes(const grids *x, int64_t width)
{
    char shape[128];

    if (x->sizes->e.dim[1] != 3) {
        given_shape(shape, sizeof shape, &x->sizes->e);
        return pc_fail(PC_ERR_INPUT, "tensor '%s': shape %s; expected (%s,3)", x->sizes->name,
                       shape, x->what);
    }
    if (x->patches->e.dim[1] != width) {
        given_shape(shape, sizeof shape, &x->patches->e);
        return pc_fail(PC_ERR_INPUT, "tensor '%s': shape %s; expected (patches,%lld)",
                       x->patches->name, shape, (long long)width);
    }
    return PC_OK;
}

// t, h and w of each, which must have as many patches as there are.
static pc_status read_sizes(grids *x, const pc_vlm_config *c)
{
    if (!x->patches->there && !x->sizes->there) return PC_OK;
    if (!x->patches->there || !x->sizes->there)
        return pc_fail(PC_ERR_INPUT, "tensor '%s' is given, '%s' is not",
                       (x->patches->there ? x->patches : x->sizes)->name,
                       (x->patches->there ? x->sizes : x->patches)->name);
    pc_status st = check_shapes(x, pc_qwen2_patch_width(&c->vision));
    if (st) return st;
    x->count = x->sizes->e.dim[0];
    int32_t *list = malloc((size_t)(3 * x->count) * sizeof *list);
    x->geometry = calloc((size_t)x->count, sizeof *x->geometry);
    if (!list || !x->geometry) {
        free(list);
        return pc_fail(PC_ERR_MEMORY, "%lld %s", (long long)x->count, x->what);
    }
    st = pc_st_ints(list, &x->sizes->e, 3 * x->count);
    int64_t patches = 0;
    for (int64_t i = 0; i < x->count && !st; i++) {
        pc_image_geometry *g = &x->geometry[i];
        *g = (pc_image_geometry){.t = list[3 * i], .h = list[3 * i + 1], .w = list[3 * i + 2]};
        if ((st = pc_vlm_measure(g, c))) break;
        patches += g->t * g->h * g->w;
    }
    free(list);
    if (st) return pc_context(st, "tensor '%s'", x->sizes->name);
    if (patches == x->patches->e.dim[0]) return PC_OK;
    return pc_fail(PC_ERR_INPUT, "tensor '%s': %lld patches; '%s' has %lld", x->patches->name,
                   (long long)x->patches->e.dim[0], x->sizes->name, (long long)patches);
}

// The next picture's patches to row `at` of `out`.
static pc_status take_patches(float *out, int64_t at, grids *x, const pc_image_geometry *g)
{
    const int64_t n = g->t * g->h * g->w, width = x->patches->e.dim[1];
    pc_st_entry rows = x->patches->e;
    const size_t row = rows.bytes / (size_t)rows.dim[0];
    rows.data = (const char *)rows.data + (size_t)x->patch * row;
    rows.bytes = (size_t)n * row;
    rows.dim[0] = n;
    x->patch += n;
    x->next++;
    return pc_context(pc_st_floats(out + at * width, &rows, n * width), "tensor '%s'",
                      x->patches->name);
}

// Which of the two an id is a place of; NULL: neither.
static grids *kind_of(grids x[2], const pc_vlm_config *c, int32_t id)
{
    return id == c->image_id ? &x[0] : id == c->video_id && c->video_id > 0 ? &x[1] : NULL;
}

// Pictures in the order of their places. One place too many is reported where rows are laid out.
static pc_status arrange(pc_given *g, grids x[2], const pc_vlm_config *c, const int32_t *ids,
                         int64_t N)
{
    const int64_t width = pc_qwen2_patch_width(&c->vision);
    const int64_t all = (x[0].patches->there ? x[0].patches->e.dim[0] : 0) +
                        (x[1].patches->there ? x[1].patches->e.dim[0] : 0);
    float *out = pc_arena_bytes(&g->memory, (size_t)(all * width + 1) * sizeof *out);
    int64_t at = 0;
    pc_status st = PC_OK;

    for (int64_t n = 0; n < N && !st;) {
        grids *k = kind_of(x, c, ids[n]);
        if (k && k->next == k->count) break;
        if (!k) {
            n++;
            continue;
        }
        const pc_image_geometry *one = &k->geometry[k->next];
        g->geometry[g->images] = *one;
        g->film[g->images++] = k == &x[1];
        st = take_patches(out, at, k, one);
        at += one->t * one->h * one->w;
        n += one->rows;
    }
    g->patches = pc_view2(out, PC_F32, at, width);
    if (!x[1].count || x[1].next) return st;

    const int64_t begin = at;
    g->apart.count = x[1].count;
    g->apart.geometry = &g->geometry[g->images];
    while (x[1].next < x[1].count && !st) {
        const pc_image_geometry *one = &x[1].geometry[x[1].next];
        g->geometry[g->images + x[1].next] = *one;
        st = take_patches(out, at, &x[1], one);
        at += one->t * one->h * one->w;
    }
    g->apart.patches = pc_view2(out + begin * width, PC_F32, at - begin, width);
    return st;
}

pc_status given_grid_read(pc_given *g, const given_visual *v, const pc_vlm_config *c,
                          const int32_t *ids, int64_t N)
{
    grids x[2] = {{.patches = &v->pixels, .sizes = &v->sizes, .what = "images"},
                  {.patches = &v->films, .sizes = &v->film_sizes, .what = "films"}};
    pc_status st;

    if ((st = read_sizes(&x[0], c)) || (st = read_sizes(&x[1], c))) goto out;
    const size_t n = (size_t)(x[0].count + x[1].count + 1);
    g->geometry = pc_arena_bytes(&g->memory, n * sizeof *g->geometry);
    g->film = pc_arena_bytes(&g->memory, n);
    if ((st = arrange(g, x, c, ids, N))) goto out;
    for (int i = 0; i < 2 && !st; i++)
        if (x[i].next < x[i].count)
            st = pc_fail(PC_ERR_INPUT, "tensor '%s': %lld %s, %lld of them have a place in the ids",
                         x[i].sizes->name, (long long)x[i].count, x[i].what, (long long)x[i].next);
out:
    free(x[0].geometry);
    free(x[1].geometry);
    return st;
}

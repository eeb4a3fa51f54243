/*
 * test_given_grid.c - patches of images and films given as tensors: the order of places decides, films without a
 * place stand apart, and whatever does not fit ends in a message that names the tensor.
 */
#include "checkpoints/given.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGE = 9, FILM = 10, START = 6, V = 12, WIDTH = 3 * 2 * 2 * 2 };

static pc_model_config grid_config(void)
{
    pc_model_config c = {
        .kind = PC_MODEL_VLM,
        .vlm = {.visual = PC_VISUAL_GRID,
                .vision = {.C = 8, .H = 2, .F = 6, .L = 1, .patch = 2, .frames = 2, .theta = 30.0},
                .merge = 2,
                .decoder = {.V = V, .C = 8, .L = 1, .H = 2, .G = 1, .D = 8, .F = 10, .T = 24},
                .feature_layer = -1,
                .image_id = IMAGE,
                .video_id = FILM}};
    c.vlm.decoder.mrope[0] = c.vlm.decoder.mrope[1] = 1;
    c.vlm.decoder.mrope[2] = 2;
    return c;
}

typedef struct tensors {
    pc_st_out list[8];
    int count;
} tensors;

static void add(tensors *t, const char *name, pc_dtype type, int rank, const int64_t *dim,
                const void *data)
{
    pc_st_out *o = &t->list[t->count++];
    *o = (pc_st_out){.dtype = type, .rank = rank, .data = data};
    snprintf(o->name, sizeof o->name, "%s", name);
    for (int i = 0; i < rank; i++) o->dim[i] = dim[i];
}
#define DIMS(...)                                                                                  \
    (const int64_t[])                                                                              \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

// Patch n of a kind holds base + n in every place.
static float *patches(int64_t n, float base)
{
    float *x = malloc((size_t)(n * WIDTH) * sizeof *x);
    if (!x) abort();
    for (int64_t i = 0; i < n * WIDTH; i++) x[i] = base + (float)(i / WIDTH);
    return x;
}

static pc_status give(pc_given *g, const tensors *t, const pc_model_config *c)
{
    const char *path = scratch_path("given.safetensors");
    pc_safetensors *file = NULL;
    if (pc_safetensors_write(path, t->list, t->count, NULL) || pc_safetensors_open(&file, path))
        abort();
    const pc_status st = pc_given_open(g, file, c, "", -1);
    pc_safetensors_close(file);
    return st;
}

static bool refuses(const tensors *t, const char *why)
{
    const pc_model_config c = grid_config();
    pc_given g;
    if (!give(&g, t, &c)) {
        pc_given_close(&g);
        return false;
    }
    if (strstr(pc_error_text(), why)) return true;
    printf("  lacks \"%s\": %s\n", why, pc_error_text());
    return false;
}

// Two rows: an image and a film; a film and an image.
static const int32_t both[] = {1, IMAGE, 2, FILM, FILM, 3, FILM, FILM, 4, IMAGE, 5, 6};
static const int64_t images[] = {1, 2, 2, 1, 2, 2}, films[] = {2, 2, 2, 1, 4, 2};

static void order(void)
{
    const pc_model_config c = grid_config();
    float *image = patches(8, 0.0F), *film = patches(16, 100.0F);
    pc_given g;
    tensors t = {.count = 0};
    add(&t, "input_ids", PC_I32, 2, DIMS(2, 6), both);
    add(&t, "pixel_values", PC_F32, 2, DIMS(8, WIDTH), image);
    add(&t, "image_grid_thw", PC_I64, 2, DIMS(2, 3), images);
    add(&t, "pixel_values_videos", PC_F32, 2, DIMS(16, WIDTH), film);
    add(&t, "video_grid_thw", PC_I64, 2, DIMS(2, 3), films);
    CHECK(!give(&g, &t, &c));
    CHECK(g.images == 4 && !g.film[0] && g.film[1] && g.film[2] && !g.film[3] && !g.apart.count);
    CHECK(g.vlm.N == 12 && g.vlm.pictures.count == 4 && g.patches.dim[0] == 24);
    static const float first[] = {0.0F, 100.0F, 108.0F, 4.0F};
    for (int64_t i = 0, at = 0; i < g.images; i++) {
        CHECK(*pc_f32(g.patches, at) == first[i]);
        at += g.geometry[i].t * g.geometry[i].h * g.geometry[i].w;
    }
    pc_given_close(&g);

    static const int64_t positions[36] = {0, 5, 6, 7}, far[36] = {24};
    add(&t, "position_ids", PC_I64, 3, DIMS(3, 2, 6), positions);
    CHECK(!give(&g, &t, &c) && pc_i32(g.vlm.pos)[3] == 7 && pc_i32(g.vlm.pos_y)[3] == 0);
    pc_given_close(&g);
    t.list[t.count - 1].data = far;
    CHECK(refuses(&t, "position 24; the decoder has 24"));
    t.list[t.count - 1].dim[1] = 1;
    CHECK(refuses(&t, "(3,2,6)"));
    free(image);
    free(film);
}

// A film that no id stands for is read for its features.
static void apart(void)
{
    static const int32_t ids[] = {1, IMAGE, 2};
    const pc_model_config c = grid_config();
    float *image = patches(4, 0.0F), *film = patches(16, 100.0F);
    pc_given g;
    tensors t = {.count = 0};
    add(&t, "input_ids", PC_I32, 2, DIMS(1, 3), ids);
    add(&t, "pixel_values", PC_F32, 2, DIMS(4, WIDTH), image);
    add(&t, "image_grid_thw", PC_I64, 2, DIMS(1, 3), images);
    add(&t, "video_pixel_values", PC_F32, 2, DIMS(16, WIDTH), film);
    add(&t, "video_grid_thw", PC_I64, 2, DIMS(2, 3), films);
    CHECK(!give(&g, &t, &c) && g.images == 1 && g.apart.count == 2 &&
          g.apart.patches.dim[0] == 16 && *pc_f32(g.apart.patches, 15) == 115.0F &&
          g.apart.geometry[1].rows == 2);
    pc_given_close(&g);
    free(image);
    free(film);
}

static void refusals(void)
{
    static const int32_t ids[] = {1, IMAGE, 2, IMAGE}, short_run[] = {1, FILM, 2, 3};
    static const int64_t odd[] = {1, 2, 3}, none[] = {0, 2, 2}, huge[] = {1, 1 << 20, 2};
    static const int64_t wide[] = {1, 2, 4}, film[] = {2, 2, 2};
    static const int64_t most[] = {1LL << 40, 2, 2};
    float *x = patches(8, 0.0F);
    tensors t = {.count = 0};
    add(&t, "input_ids", PC_I32, 2, DIMS(1, 4), ids);
    CHECK(refuses(&t, "image place"));
    add(&t, "pixel_values", PC_F32, 2, DIMS(8, WIDTH), x);
    CHECK(refuses(&t, "'image_grid_thw' is not"));
    add(&t, "image_grid_thw", PC_I64, 2, DIMS(2, 3), images);
    pc_st_out *thw = &t.list[2], *pixels = &t.list[1], *id = &t.list[0];
    const pc_st_out good[] = {*id, *pixels, *thw};

    thw->dim[0] = 1;
    CHECK(refuses(&t, "8 patches; 'image_grid_thw' has 4"));
    thw->data = odd;
    CHECK(refuses(&t, "multiples of 2"));
    thw->data = none;
    CHECK(refuses(&t, "at least one frame"));
    thw->data = huge;
    CHECK(refuses(&t, "at most 4096"));
    thw->data = most;
    CHECK(refuses(&t, "image_grid_thw"));
    thw->data = wide; // one image of two rows, two places of one
    CHECK(refuses(&t, "an image takes 2"));
    thw->dim[1] = 2;
    CHECK(refuses(&t, "(images,3)"));
    *thw = good[2];
    pixels->dim[1] = WIDTH - 1;
    CHECK(refuses(&t, "(patches,24)"));
    *pixels = good[1];
    id->dim[1] = 2; // one place of two
    CHECK(refuses(&t, "2 images, 1 of them have a place"));
    *id = good[0];

    id->data = short_run;
    snprintf(pixels->name, sizeof pixels->name, "pixel_values_videos");
    snprintf(thw->name, sizeof thw->name, "video_grid_thw");
    thw->dim[0] = 1;
    thw->data = film;
    CHECK(refuses(&t, "an image takes 2"));
    free(x);
}

// Qwen-VL: whatever stands between <img> and </img>.
static void resampler_places(void)
{
    static const int32_t ids[] = {1, START, 3, 4, 8, 8, START + 1, 2, START, 3, START + 1, 5};
    static float pixels[3 * 6 * 6];
    const pc_model_config c = {
        .kind = PC_MODEL_VLM,
        .vlm = {.visual = PC_VISUAL_RESAMPLER,
                .vision = {.C = 8, .H = 2, .F = 6, .L = 1, .patch = 2, .image_size = 6},
                .projector = {.depth = 1, .in = 8, .out = 8, .queries = 4, .heads = 2},
                .decoder = {.V = V, .C = 8, .L = 1, .H = 2, .G = 1, .D = 8, .F = 10, .T = 24},
                .feature_layer = -1,
                .image_id = START + 2}};
    pc_given g;
    tensors t = {.count = 0};
    add(&t, "input_ids", PC_I32, 2, DIMS(1, 12), ids);
    add(&t, "pixel_values", PC_F32, 4, DIMS(1, 3, 6, 6), pixels);
    CHECK(!give(&g, &t, &c) && g.vlm.N == 12);
    const int32_t *row = pc_i32(g.vlm.image_rows), *got = pc_i32(g.vlm.ids);
    CHECK(row[0] == 2 && row[3] == 5 && got[1] == START && got[2] == -1 && got[5] == -1 &&
          got[6] == START + 1 && got[9] == 3);
    pc_given_close(&g);
}

int main(void)
{
    scratch_open();
    order();
    apart();
    refusals();
    resampler_places();
    scratch_close();
    return check_report("given grids");
}

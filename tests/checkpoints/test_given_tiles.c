/*
 * test_given_tiles.c - crops of images given as tensors, padded to a rectangle or one after the other: those that fill up
 * go, images of a sample with several stay whole, and whatever does not fit ends in a message that names the tensor.
 */
#include "checkpoints/given.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGE = 9, V = 12, SIDE = 4, ONE = 3 * SIDE * SIDE };

static pc_model_config tiles_config(void)
{
    return (pc_model_config){
        .kind = PC_MODEL_VLM,
        .vlm = {.visual = PC_VISUAL_TILES,
                .pinpoints = {3, {{4, 8}, {8, 4}, {8, 8}}},
                .vision = {.C = 8, .H = 2, .F = 6, .L = 1, .image_size = SIDE, .patch = 2},
                .projector = {.depth = 1, .in = 8, .out = 8},
                .decoder = {.V = V, .C = 8, .L = 1, .H = 2, .G = 1, .D = 4, .F = 10, .T = 64},
                .feature_layer = -1,
                .image_id = IMAGE}};
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

static pc_status give(pc_given *g, const tensors *t)
{
    const pc_model_config c = tiles_config();
    const char *path = scratch_path("given.safetensors");
    pc_safetensors *file = NULL;
    if (pc_safetensors_write(path, t->list, t->count, NULL) || pc_safetensors_open(&file, path))
        abort();
    const pc_status st = pc_given_open(g, file, &c, "", -1);
    pc_safetensors_close(file);
    return st;
}

static bool refuses(const tensors *t, const char *why)
{
    pc_given g;
    if (!give(&g, t)) {
        pc_given_close(&g);
        printf("  taken, though it lacks \"%s\"\n", why);
        return false;
    }
    if (strstr(pc_error_text(), why)) return true;
    printf("  lacks \"%s\": %s\n", why, pc_error_text());
    return false;
}

static float numbers[16 * ONE]; // crop n holds n everywhere

// 4 x 8: 3 crops, 4 + 2 (4 + 1) rows. 8 x 8: 5 crops, 4 + 4 (4 + 1).
static const int64_t sizes[] = {4, 8, 8, 8};

static int64_t *places(int64_t rows, int64_t n)
{
    int64_t *ids = malloc((size_t)n * sizeof *ids);
    if (!ids) abort();
    for (int64_t i = 0; i < n; i++) ids[i] = i && i <= rows ? IMAGE : 1;
    return ids;
}

static bool crops(const pc_given *g, const int *want, int64_t n)
{
    if (g->pixels.dim[0] != n) return false;
    for (int64_t i = 0; i < n; i++)
        if (((const float *)g->pixels.data)[i * ONE] != (float)want[i]) return false;
    return true;
}

static void layouts(void)
{
    static const int padded[] = {0, 1, 2, 6, 7, 8, 9, 10}, flat[] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const int whole[] = {0, 6};
    int64_t *ids = places(38, 40), *short_ids = places(10, 12);
    pc_given g;
    tensors t = {.count = 0};
    add(&t, "input_ids", PC_I64, 2, DIMS(1, 40), ids);
    add(&t, "image_sizes", PC_I64, 2, DIMS(2, 2), sizes);
    add(&t, "pixel_values", PC_F32, 5, DIMS(2, 6, 3, SIDE, SIDE), numbers);
    CHECK(!give(&g, &t) && g.images == 2 && crops(&g, padded, 8));
    CHECK(g.geometry[0].rows == 14 && g.geometry[1].rows == 24 && g.vlm.N == 40);
    pc_given_close(&g);
    t.count--;
    add(&t, "pixel_values", PC_F32, 4, DIMS(8, 3, SIDE, SIDE), numbers);
    CHECK(!give(&g, &t) && crops(&g, flat, 8) && g.vlm.N == 40);
    pc_given_close(&g);

    static const int64_t together[] = {2}, wrong[] = {3};
    t.count = 0;
    add(&t, "input_ids", PC_I64, 2, DIMS(1, 12), short_ids);
    add(&t, "image_sizes", PC_I64, 2, DIMS(2, 2), sizes);
    add(&t, "pixel_values", PC_F32, 5, DIMS(2, 6, 3, SIDE, SIDE), numbers);
    add(&t, "batch_num_images", PC_I64, 1, DIMS(1), together);
    CHECK(!give(&g, &t) && crops(&g, whole, 2) && g.geometry[1].rows == 5);
    pc_given_close(&g);
    t.count--;
    add(&t, "batch_num_images", PC_I64, 1, DIMS(1), wrong);
    CHECK(refuses(&t, "batch_num_images"));
    free(ids);
    free(short_ids);
}

static void errors(void)
{
    static const int64_t zero[] = {0, 8, 8, 8}, huge[] = {4, INT32_MAX, 8, 8};
    int64_t *ids = places(38, 40);
    tensors t = {.count = 0};
    add(&t, "input_ids", PC_I64, 2, DIMS(1, 40), ids);
    add(&t, "pixel_values", PC_F32, 5, DIMS(2, 6, 3, SIDE, SIDE), numbers);
    CHECK(refuses(&t, "no tensor 'image_sizes'"));
    add(&t, "image_sizes", PC_I64, 2, DIMS(1, 2), sizes);
    CHECK(refuses(&t, "expected (images,2) for 2 images"));
    t.count--;
    add(&t, "image_sizes", PC_I64, 2, DIMS(2, 2), zero);
    CHECK(refuses(&t, "height 0 and width 8"));
    t.count--;
    add(&t, "image_sizes", PC_I64, 2, DIMS(2, 2), huge);
    CHECK(refuses(&t, "2147483647"));
    t.count = 1;
    add(&t, "image_sizes", PC_I64, 2, DIMS(2, 2), sizes);
    add(&t, "pixel_values", PC_F32, 5, DIMS(2, 4, 3, SIDE, SIDE), numbers);
    CHECK(refuses(&t, "image 1 of 8 x 8 takes 5 crops"));
    t.count--;
    add(&t, "pixel_values", PC_F32, 4, DIMS(7, 3, SIDE, SIDE), numbers);
    CHECK(refuses(&t, "image 1 of 8 x 8 takes 5 crops"));
    t.count--;
    add(&t, "pixel_values", PC_F32, 4, DIMS(9, 3, SIDE, SIDE), numbers);
    CHECK(refuses(&t, "9 crops; the images take 8"));
    t.count--;
    add(&t, "pixel_values", PC_F32, 4, DIMS(1, 3, SIDE, SIDE), numbers);
    CHECK(refuses(&t, "2 images, 1 crops"));
    t.count--;
    add(&t, "pixel_values", PC_F32, 5, DIMS(2, 6, 3, SIDE, SIDE - 1), numbers);
    CHECK(refuses(&t, "expected (images,crops,3,4,4)"));
    add(&t, "pixel_values_videos", PC_F32, 4, DIMS(1, 3, SIDE, SIDE), numbers);
    CHECK(refuses(&t, "films"));
    t.count--;
    // One place too few, and one image too many.
    t.count--;
    add(&t, "pixel_values", PC_F32, 4, DIMS(8, 3, SIDE, SIDE), numbers);
    ids[38] = 1;
    CHECK(refuses(&t, "23 image places"));
    ids[14] = 1;
    CHECK(refuses(&t, "13 image places"));
    for (int i = 1; i < 40; i++) ids[i] = i <= 14 ? IMAGE : 1;
    CHECK(refuses(&t, "1 image places in the text, 2 images"));
    free(ids);
}

int main(void)
{
    scratch_open();
    for (int i = 0; i < 16 * ONE; i++) numbers[i] = (float)(i / ONE);
    layouts();
    errors();
    scratch_close();
    return check_report("crops that are given");
}

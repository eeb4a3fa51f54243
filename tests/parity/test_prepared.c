/*
 * test_prepared.c - images as each family's processor prepares them, against the folders of ../shared/goldens
 * that hold images.safetensors: their settings files as they are, pixels, sizes and grids; and the geometry
 * against the published tables (anyres_table.json, smart_resize.json).
 */
#include "checkpoints/safetensors.h"
#include "data/images/prepared.h"
#include "tests/support/scratch.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static json_t *load(const char *format, const char *dir)
{
    char path[512];
    snprintf(path, sizeof path, format, dir);
    const char *p = shared_path(path);
    return p ? json_load_file(p, 0, NULL) : NULL;
}

static pc_safetensors *open_set(const char *dir, const char *name)
{
    char path[512];
    pc_safetensors *s = NULL;
    snprintf(path, sizeof path, "goldens/%s/%s.safetensors", dir, name);
    const char *p = shared_path(path);
    if (p && pc_safetensors_open(&s, p)) fail_msg("%s", pc_error_text());
    return s;
}

static int64_t whole(const json_t *list, size_t i)
{
    return json_integer_value(json_array_get(list, i));
}

/* ---- geometry ---- */

static void check_pair(const char *what, const json_t *want, int64_t h, int64_t w, size_t row)
{
    if (!want) return;
    if (whole(want, 0) != h || whole(want, 1) != w)
        fail_msg("row %zu: %s is (%lld,%lld), expected (%lld,%lld)", row, what, (long long)h,
                 (long long)w, (long long)whole(want, 0), (long long)whole(want, 1));
}

static void check_row(const json_t *row, size_t i, const pc_pinpoints *p, int64_t crop,
                      int64_t side, int64_t max_tiles)
{
    const json_t *size = json_object_get(row, "size_hw");
    const int64_t h = whole(size, 0), w = whole(size, 1);
    pc_tiles t;
    pc_tile_grid g;
    pc_tiles_choose(&t, p, crop, h, w);
    pc_tile_grid_plan(&g, &t, side, h, w, max_tiles);
    check_pair("best", json_object_get(row, "best_resolution_hw"), t.best_h, t.best_w, i);
    check_pair("resized", json_object_get(row, "resized_hw"), t.resized_h, t.resized_w, i);
    check_pair("corner", json_object_get(row, "pad_top_left"), t.top, t.left, i);
    check_pair("kept", json_object_get(row, "unpadded_grid_hw"), g.kept_h, g.kept_w, i);
    check_pair("shrunk", json_object_get(row, "interpolated_grid_hw"), g.out_h, g.out_w, i);
    assert_int_equal(t.crops, json_integer_value(json_object_get(row, "crops_including_base")));
    if (json_integer_value(json_object_get(row, "tokens")) != g.tokens)
        fail_msg("row %zu, (%lld,%lld): %lld tokens", i, (long long)h, (long long)w,
                 (long long)g.tokens);
}

static pc_pinpoints read_pinpoints(const json_t *list)
{
    pc_pinpoints p = {.count = (int)json_array_size(list)};
    for (int i = 0; i < p.count; i++)
        for (size_t k = 0; k < 2; k++)
            p.hw[i][k] = (int32_t)whole(json_array_get(list, (size_t)i), k);
    return p;
}

static int64_t max_tiles_of(const char *family)
{
    const char *max = strstr(family, "anyres_max_");
    return max ? strtol(max + 11, NULL, 10) : 0;
}

static void test_anyres_table(void **state)
{
    (void)state;
    json_t *table = load("goldens/%s", "anyres_table.json");
    if (!table) skip();
    const char *family;
    json_t *set, *row;
    size_t i, rows = 0;
    json_object_foreach(table, family, set)
    {
        const pc_pinpoints p = read_pinpoints(json_object_get(set, "grid_pinpoints_hw"));
        const int64_t crop = json_integer_value(json_object_get(set, "crop")),
                      patch = json_integer_value(json_object_get(set, "patch"));
        assert_int_equal(pc_pinpoints_validate(&p, crop), PC_OK);
        json_array_foreach(json_object_get(set, "rows"), i, row)
        {
            check_row(row, i, &p, crop, crop / patch, max_tiles_of(family));
            rows++;
        }
    }
    print_message("%zu rows\n", rows);
    assert_true(rows > 0);
    json_decref(table);
}

static void test_smart_resize(void **state)
{
    (void)state;
    json_t *table = load("goldens/%s/smart_resize.json", "qwen2_vl_tiny");
    if (!table) skip();
    const int64_t factor = json_integer_value(json_object_get(table, "factor")),
                  least = json_integer_value(json_object_get(table, "min_pixels")),
                  most = json_integer_value(json_object_get(table, "max_pixels"));
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(table, "rows_h_w_to_h_w"), i, row)
    {
        int64_t h = 0, w = 0;
        assert_int_equal(pc_smart_resize(&h, &w, whole(row, 0), whole(row, 1), factor, least, most),
                         PC_OK);
        if (h != whole(row, 2) || w != whole(row, 3))
            fail_msg("row %zu (%lld,%lld): (%lld,%lld)", i, (long long)whole(row, 0),
                     (long long)whole(row, 1), (long long)h, (long long)w);
    }
    assert_true(i > 0);
    int64_t h, w;
    assert_int_equal(pc_smart_resize(&h, &w, 10, 2001, factor, least, most), PC_ERR_INPUT);
    assert_int_equal(pc_smart_resize(&h, &w, 10, 2000, factor, least, most), PC_OK);
    json_decref(table);
}

/* ---- pixels ---- */

static pc_image image_of(const pc_st_entry *e)
{
    assert_string_equal(e->dtype, "U8");
    assert_int_equal(e->rank, 3);
    return (pc_image){(uint8_t *)(uintptr_t)e->data, e->dim[1], e->dim[0]};
}

// The set allows one level of 255 for some; nothing of it is needed.
static void compare(const char *dir, const char *what, const float *got, const float *want,
                    int64_t n, double *worst)
{
    for (int64_t k = 0; k < n; k++) {
        const double err = fabs((double)got[k] - (double)want[k]);
        if (!(err <= 1e-5)) // seen 2.4e-7
            fail_msg("%s %s: value %lld is %g, expected %g", dir, what, (long long)k,
                     (double)got[k], (double)want[k]);
        if (err > *worst) *worst = err;
    }
}

static float *floats_of(const pc_safetensors *s, const char *name, int64_t *n)
{
    const pc_st_entry *e = pc_safetensors_find(s, name);
    if (!e) return NULL;
    *n = 1;
    for (int i = 0; i < e->rank; i++) *n *= e->dim[i];
    float *v = malloc((size_t)*n * sizeof *v);
    assert_non_null(v);
    assert_int_equal(pc_st_floats(v, e, *n), PC_OK);
    return v;
}

static void check_ints(const pc_safetensors *s, const char *name, int64_t i, int64_t n,
                       const int64_t *got)
{
    const pc_st_entry *e = pc_safetensors_find(s, name);
    if (!e) return;
    assert_string_equal(e->dtype, "I64");
    assert_memory_equal((const int64_t *)e->data + i * n, got, (size_t)n * sizeof *got);
}

// How far the images of a folder came: places in pixel_values and in high_res_pixel_values.
typedef struct cursor {
    const char *dir;
    const pc_safetensors *inputs;
    float *pixels, *high;
    int64_t at, high_at, total, high_total;
    double worst;
} cursor;

static void check_image(cursor *c, const pc_image *im, const pc_image_config *config, int64_t i)
{
    pc_prepared p;
    if (pc_image_prepare(&p, im, config, 1)) fail_msg("%s: %s", c->dir, pc_error_text());
    const pc_image_shape *s = &p.shape;
    const int64_t n = s->rows * s->row, size[2] = {im->height, im->width};
    assert_true(c->at + n <= c->total);
    compare(c->dir, "pixel_values", p.pixels, c->pixels + c->at, n, &c->worst);
    c->at += n;
    if (s->kind == PC_IMAGE_TILES) { // filled up with zeros to the most crops of the batch
        const pc_st_entry *e = pc_safetensors_find(c->inputs, "pixel_values");
        const int64_t end = (i + 1) * (c->total / e->dim[0]);
        for (; c->at < end; c->at++) assert_true(c->pixels[c->at] == 0.0F);
        check_ints(c->inputs, "image_sizes", i, 2, size);
    }
    if (s->kind == PC_IMAGE_PATCHES) check_ints(c->inputs, "image_grid_thw", i, 3, s->grid);
    if (s->high) {
        const int64_t m = 3 * s->high * s->high;
        assert_true(c->high_at + m <= c->high_total);
        compare(c->dir, "high_res_pixel_values", p.high, c->high + c->high_at, m, &c->worst);
        c->high_at += m;
    }
    pc_prepared_close(&p);
}

static bool check_folder(const char *dir)
{
    pc_safetensors *images = open_set(dir, "images"), *inputs = NULL;
    json_t *preprocessor = load("goldens/%s/preprocessor_config.json", dir),
           *config_json = load("goldens/%s/config.json", dir);
    if (!images) return false;
    inputs = open_set(dir, "inputs");
    pc_image_config config, back;
    bool found = false;
    if (pc_image_config_from_files(&config, &found, preprocessor, NULL, config_json) || !found)
        fail_msg("%s: %s", dir, pc_error_text());
    // Through our own JSON and back: what a native checkpoint keeps.
    json_t *ours = pc_image_config_to_json(&config);
    if (pc_image_config_from_json(&back, ours)) fail_msg("%s: %s", dir, pc_error_text());

    cursor c = {.dir = dir, .inputs = inputs};
    c.pixels = floats_of(inputs, "pixel_values", &c.total);
    c.high = floats_of(inputs, "high_res_pixel_values", &c.high_total);
    int64_t count = pc_safetensors_count(images);
    for (int64_t i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "image%lld", (long long)i);
        const pc_image im = image_of(pc_safetensors_find(images, name));
        check_image(&c, &im, &back, i);
    }
    assert_int_equal(c.at, c.total);
    assert_int_equal(c.high_at, c.high_total);
    print_message("%s: %lld images, largest difference %.2g\n", dir, (long long)count, c.worst);
    json_decref(ours);
    json_decref(preprocessor);
    json_decref(config_json);
    free(c.pixels);
    free(c.high);
    pc_safetensors_close(images);
    pc_safetensors_close(inputs);
    return true;
}

static void test_folders(void **state)
{
    (void)state;
    const char *root = shared_path("goldens");
    if (!root) skip();
    DIR *d = opendir(root);
    assert_non_null(d);
    const struct dirent *e;
    int folders = 0;
    while ((e = readdir(d))) {
        char path[512];
        snprintf(path, sizeof path, "goldens/%s/images.safetensors", e->d_name);
        if (e->d_name[0] != '.' && shared_path(path)) folders += check_folder(e->d_name);
    }
    closedir(d);
    assert_true(folders > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_anyres_table),
        cmocka_unit_test(test_smart_resize),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

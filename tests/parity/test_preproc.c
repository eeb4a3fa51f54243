/*
 * test_preproc.c - images as the published processors prepare them, against ../shared/goldens/preproc.
 *
 * Decoded pixels, resized pixels and SHA-256 of whole 8-bit images must be equal to the byte, final floats
 * within 1e-5 (the set allows a step of 255; nothing of it is needed).
 */
#include "checkpoints/safetensors.h"
#include "data/images/decode.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static json_t *meta;

static pc_image open_golden(const json_t *entry, bool drop_alpha)
{
    char path[256];
    pc_image im;
    snprintf(path, sizeof path, "goldens/preproc/%s",
             json_string_value(json_object_get(entry, "file")));
    const pc_image_config c = {.drop_alpha = drop_alpha};
    if (pc_image_open_as(&im, shared_path(path), &c)) fail_msg("%s", pc_error_text());
    assert_int_equal(im.width, json_integer_value(json_object_get(entry, "width")));
    assert_int_equal(im.height, json_integer_value(json_object_get(entry, "height")));
    return im;
}

static pc_safetensors *open_set(const char *name)
{
    char path[256];
    pc_safetensors *s = NULL;
    snprintf(path, sizeof path, "goldens/preproc/%s.safetensors", name);
    if (pc_safetensors_open(&s, shared_path(path))) fail_msg("%s", pc_error_text());
    return s;
}

// Rows 0, step, 2 step ... of an image against a stored (rows, width, 3).
static void check_rows(const char *what, const uint8_t *rgb, int64_t width, int64_t height,
                       int64_t step, const pc_st_entry *e)
{
    assert_string_equal(e->dtype, "U8");
    assert_int_equal(e->dim[0], (height + step - 1) / step);
    assert_int_equal(e->dim[1], width);
    const uint8_t *want = e->data;
    for (int64_t r = 0; r < e->dim[0]; r++)
        if (memcmp(want + 3 * width * r, rgb + 3 * width * r * step, (size_t)(3 * width)) != 0)
            fail_msg("%s: row %lld differs", what, (long long)(r * step));
}

static void test_decoded(void **state)
{
    (void)state;
    if (!meta) skip();
    pc_safetensors *s = open_set("decoded_rgb_u8");
    size_t i, checked = 0, dropped = 0;
    json_t *entry;
    json_array_foreach(json_object_get(meta, "images"), i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        char rows4[128];
        snprintf(rows4, sizeof rows4, "%s.rows4", name);
        const pc_st_entry *whole = pc_safetensors_find(s, name),
                          *some = pc_safetensors_find(s, rows4);
        if (!whole && !some) continue;
        pc_image im = open_golden(entry, false);
        check_rows(name, im.rgb, im.width, im.height, whole ? 1 : 4, whole ? whole : some);
        pc_image_close(&im);
        checked++;
        snprintf(rows4, sizeof rows4, "%s.dropalpha", name);
        if (!(whole = pc_safetensors_find(s, rows4))) continue;
        im = open_golden(entry, true);
        check_rows(rows4, im.rgb, im.width, im.height, 1, whole);
        pc_image_close(&im);
        dropped++;
    }
    assert_int_equal(checked, 8);
    assert_int_equal(dropped, 3);
    pc_safetensors_close(s);
}

static pc_image_config config_of(const char *processor, int64_t size)
{
    pc_image_config c = pc_image_config_default(size);
    if (!strncmp(processor, "clip", 4)) c.fit = PC_FIT_CROP;
    if (!strncmp(processor, "siglip", 6)) {
        c.fit = PC_FIT_SQUASH;
        for (int i = 0; i < 3; i++) c.mean[i] = c.std[i] = 0.5;
    }
    return c;
}

static void check_u8(const char *processor, int64_t size)
{
    char key[64], file[96];
    snprintf(key, sizeof key, "%s_%lld", processor, (long long)size);
    snprintf(file, sizeof file, "%s_u8_rows5", key);
    pc_safetensors *s = open_set(file);
    const json_t *hashes = json_object_get(json_object_get(meta, "sha256_u8"), key);
    const pc_image_config c = config_of(processor, size);
    uint8_t *u8 = malloc((size_t)(3 * size * size));
    assert_non_null(u8);
    size_t i, checked = 0;
    json_t *entry;
    json_array_foreach(json_object_get(meta, "images"), i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        const char *hash = json_string_value(json_object_get(hashes, name));
        if (!hash) continue;
        pc_image im = open_golden(entry, false);
        assert_int_equal(pc_image_fit(u8, &im, &c), PC_OK);
        check_rows(name, u8, size, size, 5, pc_safetensors_find(s, name));
        char got[65];
        pc_sha256(got, u8, (size_t)(3 * size * size));
        assert_string_equal(got, hash);
        pc_image_close(&im);
        checked++;
    }
    assert_int_equal(checked, json_object_size(hashes));
    assert_int_equal(checked, pc_safetensors_count(s));
    free(u8);
    pc_safetensors_close(s);
}

static void test_bytes(void **state)
{
    (void)state;
    if (!meta) skip();
    check_u8("clip", 336);
    check_u8("siglip", 224);
    check_u8("llava_pad", 336);
}

static void check_floats(const char *processor)
{
    char file[64];
    const int64_t n = 3 * 32 * 32;
    float got[3 * 32 * 32], want[3 * 32 * 32];
    double worst = 0.0;
    snprintf(file, sizeof file, "%s_32_f32", processor);
    pc_safetensors *s = open_set(file);
    const pc_image_config c = config_of(processor, 32);
    size_t i;
    int64_t checked = 0;
    json_t *entry;
    json_array_foreach(json_object_get(meta, "images"), i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        for (int drop = 0; drop < 2; drop++) {
            char key[128];
            snprintf(key, sizeof key, "%s%s", name, drop ? ".dropalpha" : "");
            if (!pc_safetensors_find(s, key)) continue;
            pc_image im = open_golden(entry, drop);
            assert_int_equal(pc_image_preprocess(got, &im, &c), PC_OK);
            assert_int_equal(pc_st_floats(want, pc_safetensors_find(s, key), n), PC_OK);
            for (int64_t k = 0; k < n; k++) {
                const double err = fabs((double)got[k] - (double)want[k]);
                if (!(err <= 1e-5)) // seen 2.4e-7
                    fail_msg("%s %s: value %lld is %g, expected %g", processor, key, (long long)k,
                             (double)got[k], (double)want[k]);
                if (err > worst) worst = err;
            }
            pc_image_close(&im);
            checked++;
        }
    }
    assert_int_equal(checked, pc_safetensors_count(s));
    print_message("%s: largest difference %.2g\n", file, worst);
    pc_safetensors_close(s);
}

static void test_floats(void **state)
{
    (void)state;
    if (!meta) skip();
    check_floats("clip");
    check_floats("siglip");
    check_floats("llava_pad");
}

// The settings as the published directories state them.
static void test_published_settings(void **state)
{
    (void)state;
    static const struct {
        const char *dir;
        pc_fit fit;
        int64_t size;
        double mean0;
    } cases[] = {{"clip_tiny/a", PC_FIT_CROP, 32, 0.48145466},
                 {"clip_tiny/b", PC_FIT_CROP, 36, 0.48145466},
                 {"siglip_tiny", PC_FIT_SQUASH, 32, 0.5},
                 {"llava_tiny", PC_FIT_CROP, 32, 0.48145466}};
    if (!meta) skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[256];
        snprintf(path, sizeof path, "goldens/%s/preprocessor_config.json", cases[i].dir);
        json_t *json = json_load_file(shared_path(path), 0, NULL);
        pc_image_config c;
        assert_non_null(json);
        if (pc_image_config_from_hf(&c, json)) fail_msg("%s: %s", path, pc_error_text());
        assert_int_equal(c.fit, cases[i].fit);
        assert_int_equal(c.size, cases[i].size);
        assert_int_equal(c.filter, PC_FILTER_BICUBIC);
        assert_true(c.mean[0] == cases[i].mean0);
        json_decref(json);
    }
}

static int setup(void **state)
{
    (void)state;
    const char *path = shared_path("goldens/preproc/meta.json");
    if (path) meta = json_load_file(path, 0, NULL);
    return path && !meta ? 1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    json_decref(meta);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoded),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_published_settings),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

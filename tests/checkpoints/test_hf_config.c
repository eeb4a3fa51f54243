/*
 * test_hf_config.c - config.json and preprocessor_config.json made from nothing but the model: for every published
 * config.json that is there the one that is made says the same model under the same family, and every key that
 * differs is refused. (That transformers opens them: scripts/check_export.sh, end_to_end/convert.sh.)
 */
#include "checkpoints/hf_config.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static json_t *load(const char *path)
{
    char *text;
    size_t size;
    json_error_t error;
    if (pc_file_read(&text, &size, path, 1 << 20)) fail_msg("%s", pc_error_text());
    json_t *o = json_loadb(text, size, 0, &error);
    free(text);
    if (!o) fail_msg("%s: %s", path, error.text);
    return o;
}

// Families that have a class in transformers, and no other's files: one is made for these.
static bool is_made(const pc_family *f)
{
    static const char *const names[] = {"clip",        "siglip",
                                        "llava",       "llava_next",
                                        "qwen2_vl",    "llava_onevision",
                                        "deepseek_vl", "deepseek_vl_hybrid"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(f->name, names[i])) return true;
    return !strcmp(f->model_type, "llama") || !strcmp(f->model_type, "mistral") ||
           !strcmp(f->model_type, "qwen2");
}

static int check_config(const char *path)
{
    const pc_family *from = NULL, *to = NULL;
    pc_model_config c;
    json_t *published = load(path), *made = NULL;
    if (pc_family_from_config(&from, &c, published)) fail_msg("%s: %s", path, pc_error_text());
    const bool wanted = is_made(from);
    if (wanted && pc_hf_config_json(&made, &to, &c, NULL, NULL, "float32"))
        fail_msg("%s: %s", path, pc_error_text());
    if (wanted) {
        assert_string_equal(to->name, from->name);
        // The class that opens it, by name.
        const json_t *a = json_array_get(json_object_get(published, "architectures"), 0);
        const json_t *b = json_array_get(json_object_get(made, "architectures"), 0);
        if (a && !json_equal((json_t *)(uintptr_t)a, (json_t *)(uintptr_t)b))
            fail_msg("%s: %s is made for %s", path, json_string_value(b), json_string_value(a));
        printf("  %s: %s\n", path, json_string_value(b));
    }
    json_decref(published);
    json_decref(made);
    return wanted;
}

/* Every config.json two folders below `root`. */
static int walk(const char *root, int depth)
{
    int n = 0;
    DIR *d = opendir(root);
    if (!d) return 0;
    for (const struct dirent *e; (e = readdir(d));) {
        char path[1024];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", root, e->d_name);
        if (!strcmp(e->d_name, "config.json") || !strcmp(e->d_name, "config.legacy.json"))
            n += check_config(path);
        else if (depth > 0 && pc_is_dir(path))
            n += walk(path, depth - 1);
    }
    closedir(d);
    return n;
}

static void test_published(void **state)
{
    (void)state;
    assert_true(walk("tests/goldens", 1) >= 7);
    if (shared_path("goldens")) {
        assert_true(walk(shared_path("goldens"), 2) >= 14);
    } else {
        if (getenv("CI") && !strcmp(getenv("CI"), "true")) fail_msg("../shared is needed");
        printf("  no ../shared: its configurations were not tried\n");
    }
}

/* What no file can say is refused by its key. */
static void test_refused(void **state)
{
    (void)state;
    json_t *json = load("tests/goldens/qwen2_vl/config.json"), *made = NULL;
    const pc_family *f = NULL;
    pc_model_config c, d;
    assert_int_equal(pc_family_from_config(&f, &c, json), PC_OK);
    json_decref(json);
    d = c;
    d.vlm.vision.eps = 1e-5; // the class has its own
    assert_int_equal(pc_hf_config_json(&made, &f, &d, NULL, NULL, "float32"), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "vision.eps"));
    d = c;
    d.vlm.vision.F += 1; // any width is some multiple of the tower's
    assert_int_equal(pc_hf_config_json(&made, &f, &d, NULL, NULL, "float32"), PC_OK);
    json_decref(made);
    json = load("tests/goldens/deepseek_vl_hybrid/config.json");
    assert_int_equal(pc_family_from_config(&f, &c, json), PC_OK);
    json_decref(json);
    d = c;
    d.vlm.high.globals = 1; // the block that is handed out is no global one
    d.vlm.high.middle = 1;
    assert_int_equal(pc_hf_config_json(&made, &f, &d, NULL, NULL, "float32"), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "high."));
}

static void round_trip(const char *text, const char *processor)
{
    json_t *in = json_loads(text, 0, NULL), *out = NULL;
    pc_image_config c, d;
    assert_non_null(in);
    if (pc_image_config_from_hf(&c, in)) fail_msg("%s", pc_error_text());
    assert_int_equal(pc_hf_preprocessor_json(&out, &c), PC_OK);
    if (!out) fail_msg("no processor for %s", text);
    assert_string_equal(json_string_value(json_object_get(out, "image_processor_type")), processor);
    assert_int_equal(pc_image_config_from_hf(&d, out), PC_OK);
    json_t *a = pc_image_config_to_json(&c), *b = pc_image_config_to_json(&d);
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    json_decref(in);
    json_decref(out);
}

static void test_processors(void **state)
{
    (void)state;
    round_trip("{\"image_processor_type\": \"Qwen2VLImageProcessor\", \"min_pixels\": 3136, "
               "\"max_pixels\": 12845056, \"patch_size\": 14, \"merge_size\": 2}",
               "Qwen2VLImageProcessor");
    round_trip(
        "{\"image_processor_type\": \"DeepseekVLImageProcessor\", \"size\": {\"height\": 384, "
        "\"width\": 384}, \"min_size\": 14, \"image_mean\": [0.5, 0.5, 0.5], \"image_std\": "
        "[0.5, 0.5, 0.5]}",
        "DeepseekVLImageProcessor");
    round_trip(
        "{\"image_processor_type\": \"DeepseekVLHybridImageProcessor\", \"size\": {\"height\": "
        "384, \"width\": 384}, \"high_res_size\": {\"height\": 1024, \"width\": 1024}, "
        "\"high_res_image_mean\": [0.48, 0.46, 0.41], \"high_res_image_std\": [0.27, 0.26, "
        "0.28]}",
        "DeepseekVLHybridImageProcessor");
    round_trip("{\"image_processor_type\": \"SiglipImageProcessor\", \"size\": {\"height\": 64, "
               "\"width\": 64}}",
               "SiglipImageProcessor");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published),
                                       cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_processors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_inspect.c - percept-convert inspect: its report holds the tensors, the totals and what does not fit.
 */
#include "checkpoints/commands/commands.h"
#include "checkpoints/gguf.h"
#include "checkpoints/native.h"
#include "checkpoints/safetensors.h"
#include "model/core/file.h"
#include "model/networks/model.h"
#include "tests/support/scratch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

// What the command prints, through a file of our own; malloc'ed.
static char *output_of(pc_status *st, const char *path, bool json)
{
    char *argv[2], first[4096], flag[] = "--json", *text = NULL;
    size_t size = 0;
    snprintf(first, sizeof first, "%s", path);
    argv[0] = first;
    argv[1] = flag;
    fflush(stdout);
    const int saved = dup(1), fd = open(scratch_path("stdout"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(saved >= 0 && fd >= 0 && dup2(fd, 1) >= 0);
    *st = convert_inspect(json ? 2 : 1, argv);
    fflush(stdout);
    assert_true(dup2(saved, 1) >= 0);
    close(saved);
    close(fd);
    assert_int_equal(pc_file_read(&text, &size, scratch_path("stdout"), 1 << 24), PC_OK);
    return text;
}

static json_t *report_of(const char *path)
{
    pc_status st;
    char *text = output_of(&st, path, true);
    if (st) fail_msg("%s", pc_error_text());
    json_t *report = json_loads(text, 0, NULL);
    assert_non_null(report);
    free(text);
    return report;
}

static void check_number(const json_t *report, const char *key, int64_t want)
{
    assert_int_equal(json_integer_value(json_object_get(report, key)), want);
}

static void check_list(const json_t *report, const char *key, const char *want)
{
    const json_t *list = json_object_get(report, key);
    assert_int_equal(json_array_size(list), want ? 1 : 0);
    if (want) assert_string_equal(json_string_value(json_array_get(list, 0)), want);
}

static void test_safetensors(void **state)
{
    (void)state;
    const float f[6] = {0};
    const pc_st_out list[] = {{"a", PC_F32, 2, {2, 3}, f}, {"b", PC_U8, 1, {5}, f}};
    const char *path = scratch_path("x.safetensors");
    assert_int_equal(pc_safetensors_write(path, list, 2, NULL), PC_OK);
    json_t *report = report_of(path);
    assert_string_equal(json_string_value(json_object_get(report, "format")), "safetensors");
    check_number(report, "count", 2);
    check_number(report, "numbers", 11);
    check_number(report, "bytes", 29);
    json_decref(report);

    pc_status st;
    char *text = output_of(&st, scratch_path("x.safetensors"), false);
    assert_int_equal(st, PC_OK);
    assert_non_null(strstr(text, "2 tensors, 11 numbers, 29 bytes"));
    assert_non_null(strstr(text, "(2,3)"));
    free(text);
}

// A file whose description has a parameter more and one less than its numbers.
static void test_native(void **state)
{
    (void)state;
    pc_model_config config;
    pc_model m;
    json_t *json = json_pack("{s:s, s:{s:i, s:i}}", "kind", "clip", "text", "V", 50, "eot_id", 1);
    if (pc_model_config_from_json(&config, json)) fail_msg("%s", pc_error_text());
    json_decref(json);
    config.clip.vision.L = config.clip.text.L = 1;
    json = pc_model_config_to_json(&config);
    pc_native_text t = {.model = json_dumps(json, JSON_COMPACT), .state = strdup("{\"step\":42}")};
    json_decref(json);
    assert_int_equal(pc_model_open(&m, &config, PC_F32, true), PC_OK);
    pc_params_init(&m.params, 1);
    const char *path = scratch_path("m.h5");
    if (pc_native_write(path, &m.params, false, &t)) fail_msg("%s", pc_error_text());

    json_t *report = report_of(path);
    assert_string_equal(json_string_value(json_object_get(report, "kind")), "clip");
    check_number(report, "step", 42);
    check_number(report, "count", m.params.count);
    check_number(report, "numbers", pc_params_numel(&m.params, false));
    check_list(report, "missing", NULL);
    check_list(report, "surplus", NULL);
    json_decref(report);

    char lost[PC_NAME_MAX];
    pc_param *last = &m.params.list[m.params.count - 1];
    snprintf(lost, sizeof lost, "%s", last->name);
    snprintf(last->name, sizeof last->name, "vision.strange");
    assert_int_equal(pc_native_write(path, &m.params, false, &t), PC_OK);
    report = report_of(path);
    check_list(report, "missing", lost);
    check_list(report, "surplus", "vision.strange");
    check_list(report, "misshapen", NULL);
    json_decref(report);

    pc_native_text_close(&t);
    pc_model_close(&m);
}

static void test_directory(void **state)
{
    (void)state;
    const char *config = "{\"model_type\":\"unheard\"}";
    const float f[6] = {0};
    const pc_st_out list[] = {{"a", PC_F32, 2, {2, 3}, f}};
    mkdir(scratch_path("hf"), 0777);
    scratch_write("hf/config.json", config, strlen(config));
    assert_int_equal(pc_safetensors_write(scratch_path("hf/model.safetensors"), list, 1, NULL),
                     PC_OK);
    json_t *report = report_of(scratch_path("hf")); // a family of no name: still a list
    check_number(report, "count", 1);
    assert_non_null(strstr(json_string_value(json_object_get(report, "note")), "unheard"));
    json_decref(report);

    if (!shared_path("goldens/llava_tiny")) return;
    report = report_of(shared_path("goldens/llava_tiny"));
    assert_string_equal(json_string_value(json_object_get(report, "family")), "llava");
    check_number(report, "count", 89);
    check_list(report, "missing", NULL);
    check_list(report, "surplus", NULL);
    json_decref(report);
}

// A decoder with one tensor less and one more than its keys ask for, and one of another shape.
static void test_gguf(void **state)
{
    (void)state;
    static const char *const counts[] = {"context_length", "embedding_length", "block_count",
                                         "feed_forward_length", "attention.head_count"};
    static const uint32_t values[] = {16, 32, 1, 64, 2};
    static const struct {
        const char *name;
        int64_t rows, row; // row 0: a vector
    } tensors[] = {{"token_embd.weight", 40, 32},    {"output_norm.weight", 32, 0},
                   {"output.weight", 40, 32},        {"blk.0.attn_norm.weight", 32, 0},
                   {"blk.0.attn_q.weight", 32, 32},  {"blk.0.attn_k.weight", 32, 32},
                   {"blk.0.attn_v.weight", 32, 32},  {"blk.0.attn_output.weight", 64, 32},
                   {"blk.0.ffn_norm.weight", 32, 0}, {"blk.0.ffn_gate.weight", 64, 32},
                   {"blk.0.ffn_up.weight", 64, 32},  {"strange.weight", 3, 32}};
    enum { TENSORS = sizeof tensors / sizeof *tensors };
    static const float zeros[64 * 32];
    const char *path = scratch_path("x.gguf");
    pc_gguf_writer *w = NULL;
    assert_int_equal(pc_gguf_create(&w, path), PC_OK);
    pc_gguf_put_text(w, "general.architecture", "llama");
    for (int i = 0; i < 5; i++) {
        char key[64];
        snprintf(key, sizeof key, "llama.%s", counts[i]);
        pc_gguf_put_u32(w, key, values[i]);
    }
    pc_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5);
    for (int i = 0; i < TENSORS; i++)
        pc_gguf_declare(w, tensors[i].name, pc_quant_find(tensors[i].row ? PC_Q_Q8_0 : PC_Q_F32),
                        tensors[i].row ? 2 : 1, (const int64_t[]){tensors[i].rows, tensors[i].row});
    assert_int_equal(pc_gguf_begin(w), PC_OK);
    for (int i = 0; i < TENSORS; i++) {
        const int64_t n = tensors[i].rows * (tensors[i].row ? tensors[i].row : 1);
        assert_int_equal(pc_gguf_write(w, zeros, n), PC_OK);
    }
    assert_int_equal(pc_gguf_finish(w), PC_OK);
    pc_gguf_writer_close(w);

    json_t *report = report_of(path);
    assert_string_equal(json_string_value(json_object_get(report, "format")), "gguf");
    assert_string_equal(json_string_value(json_object_get(report, "family")), "llama");
    check_number(report, "count", TENSORS);
    check_list(report, "missing", "blk.0.ffn_down.weight");
    check_list(report, "misshapen", "blk.0.attn_output.weight");
    check_list(report, "surplus", "strange.weight");
    const json_t *keys = json_object_get(report, "metadata");
    assert_string_equal(json_string_value(json_object_get(keys, "llama.block_count")), "1");
    json_decref(report);

    pc_status st;
    char *text = output_of(&st, scratch_path("x.gguf"), false);
    assert_int_equal(st, PC_OK);
    assert_non_null(strstr(text, "llama.embedding_length = 32"));
    assert_non_null(strstr(text, "decoder.blocks.0.attn.qkv.weight"));
    free(text);
}

static void test_adapters(void **state)
{
    (void)state;
    const char *dir = shared_path("goldens/llava_tiny/lora/adapter_final");
    if (!dir) skip();
    json_t *report = report_of(dir);
    assert_string_equal(json_string_value(json_object_get(report, "format")), "peft");
    check_number(report, "count", 42); // 3 blocks, 7 modules, A and B
    json_decref(report);
}

static void test_unreadable(void **state)
{
    (void)state;
    static const struct {
        const char *name, *bytes, *message;
    } cases[] = {
        {"gguf", "GGUF\3\0\0\0", "the number of tensors"},
        {"note.txt", "hello there", "none of"},
        {"false.h5", "hello there", "not an HDF5 file"},
        {"cut.h5", "\x89HDF\r\n\x1a\n", "cut short"},
        {"cut.safetensors", "hello", "at least 8"},
    };
    pc_status st;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch_write(cases[i].name, cases[i].bytes, i ? strlen(cases[i].bytes) : 8);
        free(output_of(&st, scratch_path(cases[i].name), false));
        if (!st || !strstr(pc_error_text(), cases[i].message))
            fail_msg("%s: status %d, '%s'", cases[i].name, (int)st, pc_error_text());
    }
    free(output_of(&st, scratch_path("nobody"), false));
    assert_int_equal(st, PC_ERR_IO);
}

static int setup(void **state)
{
    (void)state;
    scratch_open();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors), cmocka_unit_test(test_native),
        cmocka_unit_test(test_directory),   cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_adapters),    cmocka_unit_test(test_unreadable),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

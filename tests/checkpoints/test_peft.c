/*
 * test_peft.c - adapters: written and read again they are the same; they find their rows of our weights; merging adds
 * s B A; what would change the numbers unseen is refused by name.
 */
#include "checkpoints/hf.h"
#include "checkpoints/peft.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MODEL "tests/goldens/llava"

enum { R = 3 };

static pc_hf_config config;

static void must(pc_status st)
{
    if (st) fail_msg("%s", pc_error_text());
}

static float *random_numbers(int64_t n, unsigned seed)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / (float)(1 << 24) - 0.5F;
    }
    return x;
}

static int64_t rows_of_qkv(const pc_decoder_config *d)
{
    return (d->H + 2 * d->G) * d->D;
}

static void write_adapter(const char *dir, double alpha, int64_t row, int64_t O, float *A, float *B)
{
    const pc_decoder_config *d = &config.model.vlm.decoder;
    const pc_peft_config c = {.r = R, .alpha = 6.0, .base = (char *)(uintptr_t) "some/base"};
    const pc_peft_out list[] = {{"decoder.blocks.0.attn.qkv.weight", row, R, d->C, O, alpha, A, B}};
    must(pc_peft_write(dir, &c, config.family, &config.model, -1, list, 1));
}

static void test_round_trip(void **state)
{
    (void)state;
    const pc_decoder_config *d = &config.model.vlm.decoder;
    const int64_t C = d->C, O = rows_of_qkv(d), q = d->H * d->D;
    float *A = random_numbers(R * C, 1), *B = random_numbers(O * R, 2),
          *W = random_numbers(O * C, 3);
    float *was = malloc((size_t)(O * C) * sizeof *was), back[1 << 12];
    assert_non_null(was);
    memcpy(was, W, (size_t)(O * C) * sizeof *was);
    const char *dir = scratch_path("fused");
    write_adapter(dir, 4.5, 0, O, A, B);

    // One adapter over the fused matrix is three of theirs, which share A.
    pc_peft p;
    must(pc_peft_open(&p, dir));
    must(pc_peft_match(&p, config.family, &config.model));
    assert_int_equal(p.count, 3);
    assert_string_equal(p.config.base, "some/base");
    int64_t rows = 0;
    for (int i = 0; i < 3; i++) {
        const pc_peft_pair *x = &p.list[i];
        assert_string_equal(x->ours, "decoder.blocks.0.attn.qkv.weight");
        assert_true(fabs(x->scale - 4.5 / R) < 1e-12);
        must(pc_st_floats(back, x->A, R * C));
        assert_memory_equal(back, A, (size_t)(R * C) * sizeof *A);
        must(pc_st_floats(back, x->B, x->O * R));
        assert_memory_equal(back, B + x->row * R, (size_t)(x->O * R) * sizeof *B);
        rows += x->O;
    }
    assert_int_equal(rows, O);
    assert_true(strstr(p.list[1].module, "model.language_model.layers.0.self_attn.q_proj"));

    must(pc_peft_merge(&p, "decoder.blocks.0.attn.qkv.weight", pc_view2(W, PC_F32, O, C)));
    double worst = 0.0;
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = 0; i < C; i++) {
            double sum = was[o * C + i];
            for (int64_t k = 0; k < R; k++)
                sum += 1.5 * (double)B[o * R + k] * (double)A[k * C + i];
            worst = fmax(worst, fabs(sum - (double)W[o * C + i]));
        }
    assert_true(worst < 1e-6); // seen 1.2e-7
    pc_peft_close(&p);

    // The queries alone: whole paths, since other layers' q_proj are not adapted.
    write_adapter(scratch_path("q"), 0.0, 0, q, A, B);
    must(pc_peft_open(&p, scratch_path("q")));
    must(pc_peft_match(&p, config.family, &config.model));
    assert_int_equal(p.count, 1);
    assert_int_equal(p.list[0].O, q);
    assert_true(fabs(p.list[0].scale - 6.0 / R) < 1e-12);
    pc_peft_close(&p);
    char *text;
    size_t size;
    must(pc_file_read(&text, &size, scratch_path("q/adapter_config.json"), 1 << 16));
    assert_non_null(strstr(text, "\"model.language_model.layers.0.self_attn.q_proj\""));
    free(text);
    free(A);
    free(B);
    free(W);
    free(was);
}

// adapter_config.json with `key` set to `value`.
static void refused(const char *key, const char *value, const char *says)
{
    json_error_t e;
    json_t *json = json_load_file(scratch_path("q/adapter_config.json"), 0, &e);
    json_t *v = json_loads(value, JSON_DECODE_ANY, &e);
    assert_true(json && v);
    json_object_set_new(json, key, v);
    must(pc_make_dirs(scratch_path("bad")));
    char *text = json_dumps(json, 0);
    scratch_write("bad/adapter_config.json", text, strlen(text));
    free(text);
    json_decref(json);
    size_t size;
    must(pc_file_read(&text, &size, scratch_path("q/adapter_model.safetensors"), 1 << 20));
    scratch_write("bad/adapter_model.safetensors", text, size);
    free(text);
    pc_peft p;
    assert_int_not_equal(pc_peft_open(&p, scratch_path("bad")), PC_OK);
    if (!strstr(pc_error_text(), says)) fail_msg("'%s' not in: %s", says, pc_error_text());
}

static void test_refused(void **state)
{
    (void)state;
    refused("peft_type", "\"LOHA\"", "peft_type");
    refused("use_dora", "true", "use_dora");
    refused("bias", "\"all\"", "bias");
    refused("modules_to_save", "[\"lm_head\"]", "modules_to_save");
    refused("some_new_key", "3", "some_new_key");
    refused("init_lora_weights", "\"pissa\"", "init_lora_weights");
    refused("r", "5", "rank");
    refused("r", "-1", "key 'r'");
    refused("alpha_pattern", "{\"(\": 3}", "regular expression");
    refused("rank_pattern", "{\"q_proj\": 7}", "rank");
    refused("lora_alpha", "\"x\"", "lora_alpha");
}

// Published adapters of the optional reference folder.
static void test_shared(void **state)
{
    (void)state;
    const char *dir = shared_path("goldens/llava_tiny/lora/adapter_final");
    if (!dir) {
        print_message("skipped: no ../shared\n");
        skip();
    }
    pc_peft p;
    pc_hf_config c;
    must(pc_hf_config_open(&c, shared_path("goldens/llava_tiny")));
    must(pc_peft_open(&p, dir));
    must(pc_peft_match(&p, c.family, &c.model));
    assert_true(p.count > 0);
    assert_true(p.list[0].scale == 2.0);
    pc_peft_close(&p);
    // A model that has other shapes says so.
    must(pc_peft_open(&p, dir));
    assert_int_not_equal(pc_peft_match(&p, config.family, &config.model), PC_OK);
    pc_peft_close(&p);
    pc_hf_config_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_shared),
    };
    scratch_open();
    if (pc_hf_config_open(&config, MODEL)) {
        fprintf(stderr, "%s\n", pc_error_text());
        return 1;
    }
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pc_hf_config_close(&config);
    scratch_close();
    return failed != 0;
}

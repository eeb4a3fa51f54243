/*
 * test_convert.c - directory -> native -> directory gives every tensor back bit for bit, in the types and under the
 * names it had, for every model folder that is there, as it is and narrowed to bf16 and f16; carried files come back
 * as they were. What was written wrongly, or described wrongly, is refused by name.
 */
#include "checkpoints/adapters.h"
#include "checkpoints/commands/commands.h"
#include "checkpoints/hf_export.h"
#include "checkpoints/native_import.h"
#include "model/core/file.h"
#include "model/core/log.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static void must(pc_status st)
{
    if (st) fail_msg("%s", pc_error_text());
}

static void clear(const char *dir)
{
    char line[4200];
    snprintf(line, sizeof line, "rm -rf '%s'", dir);
    if (system(line)) fail_msg("cannot remove %s", dir);
}

static pc_verify_report export_to(const char *dir, const char *from, const pc_hf_export_options *x)
{
    pc_supply o;
    pc_card card;
    pc_verify_report report;
    clear(dir);
    must(pc_supply_open(&o, from));
    must(pc_card_open(&card, &o, from, NULL, NULL));
    must(pc_hf_export(dir, &o, x, &card, &report));
    pc_card_close(&card);
    pc_supply_close(&o);
    return report;
}

static void import_to(const char *h5, const char *from)
{
    pc_supply o;
    pc_verify_report report;
    must(pc_supply_open(&o, from));
    must(pc_native_import(h5, &o, PC_VERIFY_LOGITS, &report));
    assert_int_equal(report.exact, report.parameters);
    assert_true(report.parameters > 0 && report.logits == 0.0);
    pc_supply_close(&o);
}

// A tied head that is stored a second time is left out, as the library leaves it out.
static bool tied_copy(const char *name, const pc_safetensors *other)
{
    const size_t n = strlen(name), k = strlen("lm_head.weight");
    return n >= k && !strcmp(name + n - k, "lm_head.weight") && !pc_safetensors_find(other, name);
}

static void same_tensors(const char *a, const char *b)
{
    pc_safetensors *x, *y;
    int64_t compared = 0;
    must(pc_safetensors_open_dir(&x, a));
    must(pc_safetensors_open_dir(&y, b));
    for (int64_t i = 0; i < pc_safetensors_count(x); i++) {
        const pc_st_entry *e = pc_safetensors_at(x, i), *f = pc_safetensors_find(y, e->name);
        if (!f && tied_copy(e->name, y)) continue;
        if (!f) fail_msg("%s: '%s' did not come back", a, e->name);
        if (strcmp(e->dtype, f->dtype) || e->rank != f->rank || e->bytes != f->bytes ||
            memcmp(e->dim, f->dim, (size_t)e->rank * sizeof *e->dim) ||
            memcmp(e->data, f->data, e->bytes))
            fail_msg("%s: '%s' is not what it was", a, e->name);
        compared++;
    }
    if (pc_safetensors_count(y) != compared) fail_msg("%s: surplus tensors came back", a);
    pc_safetensors_close(x);
    pc_safetensors_close(y);
}

static void same_file(const char *a, const char *b, const char *name)
{
    char p[4200], q[4200], *x = NULL, *y = NULL;
    size_t n, k;
    snprintf(p, sizeof p, "%s/%s", a, name);
    snprintf(q, sizeof q, "%s/%s", b, name);
    if (!pc_file_exists(p)) return;
    must(pc_file_read(&x, &n, p, 1 << 24));
    must(pc_file_read(&y, &k, q, 1 << 24));
    if (n != k || memcmp(x, y, n)) fail_msg("%s is not what it was", p);
    free(x);
    free(y);
}

static void round_trip(const char *dir)
{
    static const char *const carried[] = {"generation_config.json", "preprocessor_config.json",
                                          "tokenizer.json", "tokenizer_config.json"};
    const pc_hf_export_options as_source = {.as_source = true,
                                            .layout = -1,
                                            .verify = PC_VERIFY_LOGITS,
                                            .seed = 3};
    char h5[4096], back[4096], narrow[4096];
    snprintf(h5, sizeof h5, "%s", scratch_path("trip.h5"));
    snprintf(back, sizeof back, "%s", scratch_path("trip"));
    snprintf(narrow, sizeof narrow, "%s", scratch_path("narrow"));
    import_to(h5, dir);
    pc_verify_report r = export_to(back, h5, &as_source);
    assert_int_equal(r.exact, r.parameters);
    same_tensors(dir, back);
    for (size_t i = 0; i < sizeof carried / sizeof *carried; i++) same_file(dir, back, carried[i]);

    const pc_dtype types[] = {PC_BF16, PC_F16};
    for (int i = 0; i < 2; i++) {
        // In several shards too.
        const pc_hf_export_options x = {.dtype = types[i],
                                        .layout = -1,
                                        .shard_size = 100000,
                                        .verify = PC_VERIFY_LOGITS,
                                        .seed = 4};
        r = export_to(narrow, h5, &x);
        print_message("%s as %s: %s\n", dir, i ? "f16" : "bf16",
                      pc_verify_text(back, sizeof back, &r));
        snprintf(back, sizeof back, "%s", scratch_path("trip"));
        char narrow_h5[4096];
        snprintf(narrow_h5, sizeof narrow_h5, "%s", scratch_path("narrow.h5"));
        import_to(narrow_h5, narrow);
        r = export_to(back, narrow_h5, &as_source);
        assert_int_equal(r.exact, r.parameters);
        same_tensors(narrow, back);
    }
}

static bool has(const char *dir, const char *name)
{
    char path[8192];
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path &&
           pc_file_exists(path);
}

static bool is_model(const char *dir)
{
    return has(dir, "config.json") &&
           (has(dir, "model.safetensors") || has(dir, "model.safetensors.index.json"));
}

static int walk(const char *dir, int depth)
{
    int found = 0;
    if (is_model(dir)) {
        round_trip(dir);
        return 1;
    }
    DIR *d = opendir(dir);
    for (struct dirent *e; d && depth < 4 && (e = readdir(d));) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.' && pc_is_dir(path)) found += walk(path, depth + 1);
    }
    if (d) closedir(d);
    return found;
}

static void test_own(void **state)
{
    (void)state;
    assert_true(walk("tests/goldens", 0) >= 3);
}

static void test_shared(void **state)
{
    (void)state;
    const char *dir = shared_path("goldens");
    if (!dir) {
        print_message("skipped: no ../shared\n");
        skip();
    }
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", dir);
    assert_true(walk(copy, 0) >= 9);
}

// Every layout of a family holds the same model.
static void test_layouts(void **state)
{
    (void)state;
    char back[4096];
    snprintf(back, sizeof back, "%s", scratch_path("layout"));
    for (int v = 0; v < 4; v++) {
        const pc_hf_export_options x = {.as_source = true,
                                        .layout = v,
                                        .verify = PC_VERIFY_LOGITS,
                                        .seed = 5};
        const pc_verify_report r = export_to(back, "tests/goldens/llava", &x);
        assert_int_equal(r.exact, r.parameters);
        assert_true(r.logits == 0.0 && r.random_images);
    }
}

// One byte of a written file changed; one word of its description.
static void test_found(void **state)
{
    (void)state;
    const pc_hf_export_options x = {.as_source = true,
                                    .layout = -1,
                                    .verify = PC_VERIFY_NONE,
                                    .seed = 6};
    const pc_verify_limits exact = pc_verify_type(PC_F32), bf16 = pc_verify_type(PC_BF16);
    char dir[4096], path[4200];
    pc_supply o;
    pc_verify_report r;
    snprintf(dir, sizeof dir, "%s", scratch_path("wrong"));
    export_to(dir, "tests/goldens/llava", &x);
    must(pc_supply_open(&o, "tests/goldens/llava"));
    must(pc_verify(&r, &o, dir, &exact, PC_VERIFY_LOGITS, 1));

    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    const int fd = open(path, O_RDWR);
    struct stat s;
    unsigned char c;
    assert_true(fd >= 0 && fstat(fd, &s) == 0);
    assert_int_equal(pread(fd, &c, 1, s.st_size - 1001), 1);
    c ^= 0x41;
    assert_int_equal(pwrite(fd, &c, 1, s.st_size - 1001), 1);
    assert_int_equal(pc_verify(&r, &o, dir, &exact, PC_VERIFY_TENSORS, 1), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "it was"));
    print_message("%s\n", pc_error_text());
    c ^= 0x41;
    assert_int_equal(pwrite(fd, &c, 1, s.st_size - 1001), 1);
    close(fd);

    // The tensors are right and the model is another: only logits show it.
    json_error_t e;
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *json = json_load_file(path, 0, &e);
    assert_non_null(json);
    json_object_set_new(json_object_get(json, "text_config"), "rms_norm_eps", json_real(0.3));
    assert_int_equal(json_dump_file(json, path, 0), 0);
    json_decref(json);
    must(pc_verify(&r, &o, dir, &exact, PC_VERIFY_TENSORS, 1));
    assert_int_equal(pc_verify(&r, &o, dir, &bf16, PC_VERIFY_LOGITS, 1), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "logits differ"));
    print_message("%s\n", pc_error_text());
    pc_supply_close(&o);
}

// A number that f16 cannot hold is found before anyone uses the file, and nothing is left behind.
static void test_overflow(void **state)
{
    (void)state;
    const pc_hf_export_options x = {.dtype = PC_F16,
                                    .layout = -1,
                                    .verify = PC_VERIFY_TENSORS,
                                    .seed = 7};
    char dir[4096], source[4096];
    pc_supply o;
    pc_card card;
    pc_verify_report r;
    const pc_hf_export_options keep = {.as_source = true,
                                       .layout = -1,
                                       .verify = PC_VERIFY_NONE,
                                       .seed = 6};
    snprintf(source, sizeof source, "%s", scratch_path("large"));
    snprintf(dir, sizeof dir, "%s", scratch_path("f16"));
    export_to(source, "tests/goldens/clip", &keep);
    char path[4200];
    snprintf(path, sizeof path, "%s/model.safetensors", source);
    const int fd = open(path, O_RDWR);
    struct stat s;
    const float large = 1e6F;
    assert_true(fd >= 0 && fstat(fd, &s) == 0);
    assert_int_equal(pwrite(fd, &large, sizeof large, s.st_size - 400), sizeof large);
    close(fd);
    must(pc_supply_open(&o, source));
    must(pc_card_open(&card, &o, source, NULL, NULL));
    assert_int_equal(pc_hf_export(dir, &o, &x, &card, &r), PC_ERR_FORMAT);
    print_message("%s\n", pc_error_text());
    assert_non_null(strstr(pc_error_text(), "1000000"));
    assert_false(pc_file_exists(dir));
    strcat(dir, ".part");
    assert_false(pc_file_exists(dir));
    pc_card_close(&card);
    pc_supply_close(&o);
}

static float *some_numbers(int64_t n, unsigned seed)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525U + 1013904223U;
        x[i] = (float)(seed >> 8) / (float)(1 << 24) - 0.5F;
    }
    return x;
}

// A folder's adapters into a checkpoint, as training leaves them there, and out again as a folder.
static void test_adapters(void **state)
{
    (void)state;
    pc_hf_config c;
    pc_bundle b;
    pc_peft p, q;
    char folder[4096], h5[4096], again[4096], numbers[2][4096];
    snprintf(folder, sizeof folder, "%s", scratch_path("adapter"));
    snprintf(h5, sizeof h5, "%s", scratch_path("adapted.h5"));
    snprintf(again, sizeof again, "%s", scratch_path("adapter-again"));
    must(pc_hf_config_open(&c, "tests/goldens/llava"));
    const pc_decoder_config *d = &c.model.vlm.decoder;
    const int64_t q_rows = d->H * d->D, k_rows = d->G * d->D;
    float *A = some_numbers(8 * d->C, 1), *B = some_numbers(8 * q_rows, 2);
    const pc_peft_config config = {.r = 4,
                                   .alpha = 8.0,
                                   .task_type = (char *)(uintptr_t) "CAUSAL_LM"};
    const pc_peft_out list[] = {{"decoder.blocks.0.attn.qkv.weight", 0, 4, d->C, q_rows, 0.0, A, B},
                                {"decoder.blocks.0.attn.qkv.weight", q_rows + k_rows, 2, d->C,
                                 k_rows, 6.0, A + 7, B + 9},
                                {"projector.linear.1.weight", 0, 4, d->C, d->C, 0.0, A + 1, B + 3}};
    must(pc_peft_write(folder, &config, c.family, &c.model, -1, list, 3));
    free(A);
    free(B);

    must(pc_bundle_open(&b, "tests/goldens/llava"));
    must(pc_bundle_adapt(&b, folder));
    json_t *json = pc_model_config_to_json(&b.model.config);
    b.text.model = json_dumps(json, JSON_REAL_PRECISION(17));
    json_decref(json);
    b.text.adapters = pc_adapters_text(&b.model.adapters, 0.1);
    must(pc_native_write(h5, &b.model.params, false, &b.text));
    pc_bundle_close(&b);

    char *argv[] = {h5,
                    (char *)(uintptr_t) "--format",
                    (char *)(uintptr_t) "peft",
                    (char *)(uintptr_t) "--out",
                    again,
                    (char *)(uintptr_t) "--base",
                    (char *)(uintptr_t) "the/base",
                    NULL};
    must(convert_export(7, argv)); // verifies itself: tensors and logits
    must(pc_peft_open(&p, folder));
    must(pc_peft_open(&q, again));
    assert_int_equal(p.count, q.count);
    assert_string_equal(q.config.base, "the/base");
    assert_true(q.config.dropout == 0.1);
    for (int64_t i = 0; i < p.count; i++) {
        assert_string_equal(p.list[i].module, q.list[i].module);
        assert_true(p.list[i].scale == q.list[i].scale && p.list[i].r == q.list[i].r);
        assert_memory_equal(p.list[i].A->data, q.list[i].A->data, p.list[i].A->bytes);
        assert_memory_equal(p.list[i].B->data, q.list[i].B->data, p.list[i].B->bytes);
    }
    pc_peft_close(&p);
    pc_peft_close(&q);

    // Merged from the checkpoint or from the folder: the same directory.
    for (int k = 0; k < 2; k++) {
        pc_supply o;
        pc_card card;
        pc_verify_report r;
        const pc_hf_export_options x = {.as_source = true,
                                        .layout = -1,
                                        .verify = PC_VERIFY_LOGITS,
                                        .seed = 8};
        snprintf(numbers[k], sizeof numbers[k], "%s", scratch_path(k ? "merged1" : "merged0"));
        must(pc_supply_open(&o, k ? "tests/goldens/llava" : h5));
        if (k) must(pc_supply_adapt(&o, folder));
        must(pc_card_open(&card, &o, h5, NULL, NULL));
        must(pc_hf_export(numbers[k], &o, &x, &card, &r));
        pc_card_close(&card);
        pc_supply_close(&o);
    }
    same_tensors(numbers[0], numbers[1]);
    pc_hf_config_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own),      cmocka_unit_test(test_shared),
        cmocka_unit_test(test_layouts),  cmocka_unit_test(test_found),
        cmocka_unit_test(test_overflow), cmocka_unit_test(test_adapters),
    };
    scratch_open();
    pc_log_quiet(true);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_close();
    return failed != 0;
}

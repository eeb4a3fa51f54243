/*
 * test_native.c - native checkpoints: what is written comes back, equal content is equal bytes, and files that
 * are cut, garbled, of another shape or written to a full disk end in a message and lose nothing.
 */
#include "checkpoints/native.h"
#include "model/core/file.h"
#include "model/ops/fp8.h"
#include "tests/support/scratch.h"

#include <errno.h>
#include <hdf5.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

// HDF5 1.10 loses memory of its own while it gives up on a damaged file. Only that is let pass.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5\n";
}

/* ---- small models ---- */

typedef struct small {
    pc_weight weight[8];
    pc_params params;
    pc_arena weights, moments;
} small;

typedef struct row {
    const char *name;
    int64_t rows, cols; // cols 0: rank 1
    bool trained;
} row;

static const row PLAIN[] = {{"vision.patch.weight", 3, 4, true},
                            {"vision.patch.bias", 3, 0, false},
                            {"decoder.tokens", 7, 2, true},
                            {"decoder.norm.gain", 5, 0, true}};

static void small_open(small *s, const row *rows, int n, float start)
{
    *s = (small){0};
    for (int i = 0; i < n; i++) {
        const int64_t dim[] = {rows[i].rows, rows[i].cols};
        pc_param_add(&s->params, &s->weight[i], rows[i].name, PC_INIT_ZERO, 0.0,
                     rows[i].cols ? 2 : 1, dim);
    }
    assert_int_equal(pc_params_end(&s->params), PC_OK);
    pc_params_train(&s->params, "", false);
    for (int i = 0; i < n; i++)
        if (rows[i].trained) pc_params_train(&s->params, rows[i].name, true);
    assert_int_equal(pc_arena_open(&s->weights, "weights", 65536), PC_OK);
    assert_int_equal(pc_arena_open(&s->moments, "moments", 65536), PC_OK);
    pc_params_bind_weights(&s->params, &s->weights, PC_F32);
    pc_params_bind_moments(&s->params, &s->moments, PC_F32);
    for (int i = 0; i < n; i++) {
        const pc_param *p = &s->params.list[i];
        for (int64_t k = 0; k < pc_numel(p->weight->w); k++) {
            ((float *)p->weight->w.data)[k] = start + (float)(100 * i) + (float)k;
            if (!pc_present(p->m)) continue;
            ((float *)p->m.data)[k] = -start - (float)k;
            ((float *)p->v.data)[k] = 0.5f * (float)k;
        }
    }
}

static void small_close(small *s)
{
    pc_params_close(&s->params);
    pc_arena_close(&s->weights);
    pc_arena_close(&s->moments);
}

static bool same_numbers(const small *a, const small *b, bool moments)
{
    for (int i = 0; i < a->params.count; i++) {
        const pc_param *p = &a->params.list[i], *q = &b->params.list[i];
        const size_t n = (size_t)pc_numel(p->weight->w) * sizeof(float);
        if (memcmp(p->weight->w.data, q->weight->w.data, n) != 0) return false;
        if (moments && pc_present(p->m) &&
            (memcmp(p->m.data, q->m.data, n) != 0 || memcmp(p->v.data, q->v.data, n) != 0))
            return false;
    }
    return true;
}

static pc_native_text texts(void)
{
    static char model[] = "{\"kind\":\"vlm\"}", state[] = "{\"step\":12}",
                recipe[] = "name: \xc3\xa9\n", empty[] = "";
    return (
        pc_native_text){.model = model, .state = state, .recipe = recipe, .template_name = empty};
}

static const char *write_plain(const char *name, bool moments)
{
    small s;
    const pc_native_text t = texts();
    const char *path = scratch_path(name);
    small_open(&s, PLAIN, 4, 1.0f);
    if (pc_native_write(path, &s.params, moments, &t)) fail_msg("%s", pc_error_text());
    small_close(&s);
    return path;
}

static char *read_all(const char *path, size_t *size)
{
    char *bytes = NULL;
    assert_int_equal(pc_file_read(&bytes, size, path, 1 << 24), PC_OK);
    return bytes;
}

/* ---- tests ---- */

static void test_round_trip(void **state)
{
    (void)state;
    const char *path = write_plain("a.h5", true);
    small a, b;
    int64_t loaded = 0;
    small_open(&a, PLAIN, 4, 1.0f);
    small_open(&b, PLAIN, 4, 77.0f);
    assert_int_equal(pc_native_load(&b.params, path, true, true, &loaded), PC_OK);
    assert_int_equal(loaded, 4);
    assert_true(same_numbers(&a, &b, true));
    small_close(&a);
    small_close(&b);

    pc_native_text t;
    assert_int_equal(pc_native_read_text(&t, path), PC_OK);
    assert_string_equal(t.model, "{\"kind\":\"vlm\"}");
    assert_string_equal(t.recipe, "name: \xc3\xa9\n");
    assert_string_equal(t.state, "{\"step\":12}");
    assert_string_equal(t.template_name, "");
    assert_null(t.tokenizer);
    assert_null(t.image);
    pc_native_text_close(&t);

    pc_native_item *items = NULL;
    int64_t n = 0;
    assert_int_equal(pc_native_list(&items, &n, path), PC_OK);
    assert_int_equal(n, 4);
    for (int i = 0; i < 4; i++) { // in the order of the list
        assert_string_equal(items[i].name, PLAIN[i].name);
        assert_int_equal(items[i].trained, PLAIN[i].trained);
        assert_int_equal(items[i].rank, PLAIN[i].cols ? 2 : 1);
        assert_int_equal(items[i].dim[0], PLAIN[i].rows);
    }
    pc_native_list_close(items, n);
}

// The same content, written at another time, to another name, over a dirtied heap: the same bytes.
static void test_equal_bytes(void **state)
{
    (void)state;
    size_t n = 0, m = 0;
    char *first = read_all(write_plain("one.h5", true), &n);
    void *dirt[64];
    for (int i = 0; i < 64; i++) {
        dirt[i] = malloc((size_t)(64 << (i % 12)));
        assert_non_null(dirt[i]);
        memset(dirt[i], 0xA5, (size_t)(64 << (i % 12)));
    }
    for (int i = 0; i < 64; i++) free(dirt[i]);
    sleep(1);
    char *second = read_all(write_plain("a-longer-name.h5", true), &m);
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n);
    free(second);
    // Without moments it is another file.
    second = read_all(write_plain("two.h5", false), &m);
    assert_true(n != m);
    free(first);
    free(second);
}

static void expect_load(const char *path, const row *rows, int n, bool moments, bool strict,
                        const char *message)
{
    small s;
    int64_t loaded = -1;
    small_open(&s, rows, n, 500.0f);
    const pc_status st = pc_native_load(&s.params, path, moments, strict, &loaded);
    if (!message && st) fail_msg("%s", pc_error_text());
    if (message && (!st || !strstr(pc_error_text(), message) || !strstr(pc_error_text(), path)))
        fail_msg("expected '%s', got %d: '%s'", message, (int)st, pc_error_text());
    small_close(&s);
}

// What runs in eight bits scale by is kept with the moments, and asked for by such runs alone.
static void test_history(void **state)
{
    (void)state;
    enum { N = PC_FP8_OPERANDS * PC_FP8_HISTORY };
    float numbers[2][N], back[2][N];
    small s;
    const pc_native_text t = texts();
    const char *path = scratch_path("history.h5"), *without = write_plain("without.h5", true);
    small_open(&s, PLAIN, 4, 1.0f);
    for (int i = 0; i < 2; i++) { // of a frozen one and of a trained one
        for (int k = 0; k < N; k++) numbers[i][k] = (float)(i + 1) / (float)(k + 3);
        s.params.list[1 + i].history =
            pc_view2(numbers[i], PC_F32, PC_FP8_OPERANDS, PC_FP8_HISTORY);
    }
    assert_int_equal(pc_native_write(path, &s.params, true, &t), PC_OK);
    for (int i = 0; i < 2; i++)
        s.params.list[1 + i].history.data = memset(back[i], 0, sizeof back[i]);
    assert_int_equal(pc_native_load(&s.params, path, true, true, NULL), PC_OK);
    assert_memory_equal(numbers, back, sizeof back);
    assert_int_equal(pc_native_load(&s.params, without, true, true, NULL), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "moments/history"));
    s.params.list[0].history = s.params.list[1].history;
    assert_int_equal(pc_native_load(&s.params, path, true, true, NULL), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "'vision.patch.weight' is missing"));
    s.params.list[0].history = PC_NONE;
    back[0][5] = -1.0f;
    assert_int_equal(pc_native_write(path, &s.params, true, &t), PC_OK);
    assert_int_equal(pc_native_load(&s.params, path, true, true, NULL), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "a largest number of -1"));
    small_close(&s);
    expect_load(path, PLAIN, 4, true, true, NULL); // a run without has no use for it
}

static void test_names_and_shapes(void **state)
{
    (void)state;
    const char *path = write_plain("names.h5", false);
    row r[5];
    memcpy(r, PLAIN, sizeof PLAIN);
    r[0].cols = 5;
    expect_load(path, r, 4, false, true,
                "parameter 'vision.patch.weight': the file has (3,4), the model (3,5)");
    memcpy(r, PLAIN, sizeof PLAIN);
    r[3].cols = 1;
    expect_load(path, r, 4, false, true, "the file has (5), the model (5,1)");
    memcpy(r, PLAIN, sizeof PLAIN);
    r[2].name = "decoder.tokns";
    expect_load(path, r, 4, false, true,
                "'decoder.tokns' is missing (the file has 'decoder.tokens')");
    expect_load(path, PLAIN, 3, false, true, "'decoder.norm.gain' is not one of the model's");
    expect_load(path, PLAIN, 4, true, true, "no optimiser state");
    // Parts: what the file has none of is left alone, what it has must be whole; surplus is left out.
    r[2] = (row){"projector.weight", 2, 2, true};
    expect_load(path, r, 3, false, true, "'projector.weight' is missing");
    expect_load(path, r, 3, false, false, NULL);
    r[2] = (row){"vision.other", 2, 2, true};
    expect_load(path, r, 3, false, false, "'vision.other' is missing");
}

static void test_parts(void **state)
{
    (void)state;
    const char *path = write_plain("parts.h5", false);
    const row r[] = {{"vision.patch.weight", 3, 4, true}, {"projector.weight", 2, 2, true}};
    small s, want;
    int64_t loaded = 0;
    small_open(&s, r, 2, 500.0f);
    small_open(&want, r, 2, 500.0f);
    assert_int_equal(pc_native_load(&s.params, path, false, false, &loaded), PC_OK);
    assert_int_equal(loaded, 1);
    const float *w = s.params.list[0].weight->w.data, *p = s.params.list[1].weight->w.data;
    assert_true(w[0] == 1.0f && w[11] == 12.0f);
    assert_memory_equal(p, want.params.list[1].weight->w.data, 4 * sizeof *p);
    small_close(&s);
    small_close(&want);
}

static void touch_everything(const char *path, int *opened)
{
    pc_native_text t;
    pc_native_item *items = NULL;
    int64_t n = 0;
    small s;
    small_open(&s, PLAIN, 4, 3.0f);
    const bool a = !pc_native_read_text(&t, path);
    if (a) pc_native_text_close(&t);
    const bool b = !pc_native_list(&items, &n, path);
    if (b) pc_native_list_close(items, n);
    const bool c = !pc_native_load(&s.params, path, true, true, &n);
    *opened = a + b + c;
    small_close(&s);
}

// Cut at every length in the metadata and at many in the data: always a message.
static void test_cut_short(void **state)
{
    (void)state;
    size_t n = 0;
    char *bytes = read_all(write_plain("cut.h5", true), &n);
    for (size_t cut = 0; cut < n; cut += cut < 200 ? 1 : 37) {
        int opened = 0;
        scratch_write("cut.h5", bytes, cut);
        touch_everything(scratch_path("cut.h5"), &opened);
        if (opened) fail_msg("a file cut to %zu of %zu bytes was read", cut, n);
        assert_true(strlen(pc_error_text()) > 20);
    }
    free(bytes);
}

// One byte changed at a time: any answer but a crash.
static void test_garbled(void **state)
{
    (void)state;
    size_t n = 0;
    int refused = 0;
    char *bytes = read_all(write_plain("garbled.h5", true), &n);
    for (size_t at = 0; at < n; at += 7)
        for (int k = 0; k < 2; k++) {
            int opened = 0;
            const char old = bytes[at];
            bytes[at] = (char)(k ? old ^ 0x01 : 0xFF);
            scratch_write("garbled.h5", bytes, n);
            touch_everything(scratch_path("garbled.h5"), &opened);
            refused += opened < 3;
            bytes[at] = old;
        }
    print_message("%zu bytes, %d changes refused\n", n, refused);
    assert_true(refused > 100);
    free(bytes);
}

static void expect_unreadable(const char *path, const char *message)
{
    pc_native_text t;
    const pc_status st = pc_native_read_text(&t, path);
    if (!st || !strstr(pc_error_text(), message) || !strstr(pc_error_text(), path))
        fail_msg("expected '%s', got %d: '%s'", message, (int)st, pc_error_text());
}

// Every field of the superblock, wrong: one sentence that says which, before HDF5 sees the file.
static void test_superblock(void **state)
{
    (void)state;
    size_t n = 0;
    static const struct {
        size_t at;
        unsigned char byte;
        const char *message;
    } rows[] = {
        {8, 9, "version 9; expected 0 to 3"},
        {9, 4, "addresses of 4"},
        {10, 0, "lengths of 0"},
        {12, 1, "begins at byte 1"},
        {18, 0x80, "begins at byte"},
        {35, 0x7F, "cut short"},
        {30, 0xFF, "cut short"},
        {43, 0x7F, "the root group at"},
        {36, 0x01, "broken HDF5"},
    };
    char *bytes = read_all(write_plain("super.h5", true), &n);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char old = bytes[rows[i].at];
        bytes[rows[i].at] = (char)rows[i].byte;
        scratch_write("super.h5", bytes, n);
        expect_unreadable(scratch_path("super.h5"), rows[i].message);
        bytes[rows[i].at] = old;
    }
    memset(bytes + 20, 0x11, 8); // an extension far behind the end
    scratch_write("super.h5", bytes, n);
    expect_unreadable(scratch_path("super.h5"), "behind the end");
    memset(bytes + 20, 0xFF, 8);
    scratch_write("super.h5", bytes, n - 1);
    char message[64];
    snprintf(message, sizeof message, "cut short: %zu bytes of %zu", n - 1, n);
    expect_unreadable(scratch_path("super.h5"), message);
    free(bytes);
}

// The disk is full at any moment: an error, the old file as it was, nothing left behind.
static void test_full_disk(void **state)
{
    (void)state;
    size_t n = 0, m = 0;
    small s;
    struct rlimit before, limit;
    char path[4096]; // kept while other paths are made
    snprintf(path, sizeof path, "%s", write_plain("full.h5", true));
    char *old = read_all(path, &n);
    const pc_native_text t = texts();
    small_open(&s, PLAIN, 4, 9.0f);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    for (size_t room = 0; room < n; room += 331) {
        limit = before;
        limit.rlim_cur = room;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        const pc_status st = pc_native_write(path, &s.params, true, &t);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        if (!st) fail_msg("written into %zu of %zu bytes", room, n);
        if (!strstr(pc_error_text(), "File too large")) fail_msg("%zu: %s", room, pc_error_text());
        char *now = read_all(path, &m);
        assert_int_equal(n, m);
        assert_memory_equal(old, now, n);
        free(now);
        assert_false(pc_file_exists(scratch_path("full.h5.part")));
    }
    assert_int_equal(pc_native_write(path, &s.params, true, &t), PC_OK);
    small_close(&s);
    free(old);
}

static void test_other_files(void **state)
{
    (void)state;
    scratch_write("text.h5", "this is no HDF5 file, only a name", 33);
    expect_unreadable(scratch_path("text.h5"), "not an HDF5 file");
    scratch_write("empty.h5", "", 0);
    expect_unreadable(scratch_path("empty.h5"), "not an HDF5 file: it is empty");
    static const struct {
        const char *bytes;
        size_t size;
        const char *message;
    } kinds[] = {
        {"GGUF\3\0\0\0", 8, "it is a GGUF file"},
        {"PK\3\4....", 8, "it is a ZIP archive"},
        {"\x1f\x8b\10\0", 4, "it is a gzip file"},
        {"\x40\0\0\0\0\0\0\0{\"a\":", 13, "it is a safetensors file"},
        {"{\"model_type\": 1}", 17, "it is text"},
        {"\x89HDF\r\n\x1a", 7, "cut short: it has 7 bytes"},
        {"\x89HDF\r\n\x1a\n\7", 9, "superblock of version 7"},
        {"\1\2\3", 3, "it begins with 01 02 03"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        scratch_write("other.h5", kinds[i].bytes, kinds[i].size);
        expect_unreadable(scratch_path("other.h5"), kinds[i].message);
    }
    expect_unreadable(scratch_path("nobody.h5"), "No such file");
    expect_unreadable(scratch_path("."), "not a regular file");

    const char *path = scratch_path("foreign.h5");
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(f >= 0);
    H5Fclose(f);
    expect_unreadable(path, "no percept checkpoint");

    path = write_plain("later.h5", false);
    const int32_t version = 9;
    f = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t a = H5Aopen(f, "version", H5P_DEFAULT);
    assert_true(H5Awrite(a, H5T_NATIVE_INT32, &version) >= 0);
    H5Aclose(a);
    H5Fclose(f);
    expect_unreadable(path, "format version 9, this percept reads 1");
    assert_int_equal(pc_native_write(scratch_path("no/dir.h5"), &(pc_params){0}, false, NULL),
                     PC_ERR_IO);
    assert_non_null(strstr(pc_error_text(), "No such file"));
}

// Links that lead elsewhere and numbers that are not plain are refused.
static void test_strange_contents(void **state)
{
    (void)state;
    const hsize_t dim[2] = {3, 4};
    const char *path = write_plain("strange.h5", false), *other = write_plain("other.h5", false);
    hid_t f = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(H5Ldelete(f, "params/vision.patch.weight", H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_external(other, "params/vision.patch.weight", f,
                                   "params/vision.patch.weight", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    H5Fclose(f);
    expect_load(path, PLAIN, 4, false, true, "no dataset of this file");

    f = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(H5Ldelete(f, "params/vision.patch.weight", H5P_DEFAULT) >= 0);
    const hid_t space = H5Screate_simple(2, dim, NULL);
    hid_t d = H5Dcreate2(f, "params/vision.patch.weight", H5T_STD_I32LE, space, H5P_DEFAULT,
                         H5P_DEFAULT, H5P_DEFAULT);
    H5Dclose(d);
    H5Fclose(f);
    expect_load(path, PLAIN, 4, false, true, "not stored as plain floating-point numbers");

    f = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(H5Ldelete(f, "params/vision.patch.weight", H5P_DEFAULT) >= 0);
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    assert_true(H5Pset_external(list, "/etc/hostname", 0, 48) >= 0);
    d = H5Dcreate2(f, "params/vision.patch.weight", H5T_IEEE_F32LE, space, H5P_DEFAULT, list,
                   H5P_DEFAULT);
    assert_true(d >= 0);
    H5Dclose(d);
    H5Pclose(list);
    H5Sclose(space);
    H5Fclose(f);
    expect_load(path, PLAIN, 4, false, true, "not stored as plain");
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
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_equal_bytes),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_names_and_shapes),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_garbled),
        cmocka_unit_test(test_superblock),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_strange_contents),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

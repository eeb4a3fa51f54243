/*
 * test_safetensors.c - what is written comes back; reference files read right; every broken rule of the
 * format ends in a message that names it.
 */
#include "checkpoints/safetensors.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- reference files ---- */

static bool close_f32(double a, double b)
{
    return fabs(a - b) <=
           1e-7 * fabs(b); // seen 0: values are printed with all digits, F64 rounds once
}

static void check_entry(const pc_st_entry *e, const json_t *want)
{
    const json_t *values = json_object_get(want, "values"), *shape = json_object_get(want, "shape");
    const int64_t n = (int64_t)json_array_size(values);
    assert_int_equal(e->rank, json_array_size(shape));
    for (int i = 0; i < e->rank; i++)
        assert_int_equal(e->dim[i], json_integer_value(json_array_get(shape, (size_t)i)));
    float *got = malloc((size_t)(n + 1) * sizeof *got);
    assert_non_null(got);
    assert_int_equal(pc_st_floats(got, e, n), PC_OK);
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(values, (size_t)i);
        const double w = json_is_boolean(v) ? json_is_true(v) : json_number_value(v);
        assert_true(close_f32((double)got[i], w));
    }
    free(got);
    int32_t ints[16];
    const bool integer = strchr("IUB", e->dtype[0]) && strcmp(e->dtype, "BF16") != 0;
    assert_int_equal(pc_st_ints(ints, e, n),
                     integer && strcmp(e->dtype, "I64") != 0 ? PC_OK : PC_ERR_FORMAT);
}

static void test_reference_types(void **state)
{
    (void)state;
    const char *path = shared_path("goldens/formats/mixed.safetensors");
    if (!path) skip();
    pc_safetensors *s = NULL;
    json_error_t error;
    json_t *want = json_load_file(shared_path("goldens/formats/mixed.json"), 0, &error);
    assert_non_null(want);
    assert_int_equal(pc_safetensors_open(&s, path), PC_OK);
    assert_int_equal(pc_safetensors_count(s), json_object_size(want));
    const char *name;
    json_t *v;
    json_object_foreach(want, name, v)
    {
        const pc_st_entry *e = pc_safetensors_find(s, name);
        assert_non_null(e);
        check_entry(e, v);
    }
    assert_null(pc_safetensors_find(s, "nobody"));
    json_decref(want);
    pc_safetensors_close(s);
}

static void test_reference_shards(void **state)
{
    (void)state;
    const char *dir = shared_path("goldens/formats/sharded_bf16_llama3");
    if (!dir) skip();
    pc_safetensors *s = NULL;
    assert_int_equal(pc_safetensors_open_dir(&s, dir), PC_OK);
    size_t total = 0;
    for (int64_t i = 0; i < pc_safetensors_count(s); i++) {
        const pc_st_entry *e = pc_safetensors_at(s, i);
        assert_string_equal(e->dtype, "BF16");
        if (i) assert_true(strcmp(pc_safetensors_at(s, i - 1)->name, e->name) < 0);
        total += e->bytes;
    }
    assert_int_equal(total, 112224); // metadata.total_size of the set
    assert_non_null(pc_safetensors_find(s, "lm_head.weight"));
    pc_safetensors_close(s);
}

/* ---- round trip ---- */

static void test_round_trip(void **state)
{
    (void)state;
    const float f[6] = {1.5f, -2.0f, 0.0f, 3e38f, -0.0f, 1e-45f};
    const int64_t l[3] = {-1, 2147483647, -2147483648};
    const int32_t k[2] = {7, -8};
    const uint8_t u[5] = {0, 1, 128, 254, 255};
    const pc_st_out list[] = {{"z.u8", PC_U8, 1, {5}, u},
                              {"b", PC_F32, 2, {2, 3}, f},
                              {"a", PC_F32, 1, {6}, f},
                              {"l\"\\\xc3\xa9", PC_I64, 1, {3}, l},
                              {"k", PC_I32, 2, {1, 2}, k},
                              {"none", PC_F32, 3, {2, 0, 4}, NULL},
                              {"scalar", PC_F32, 0, {0}, f + 3}};
    const char *path = scratch_path("round.safetensors");
    assert_int_equal(pc_safetensors_write(path, list, 7, "{\"who\":\"test\"}"), PC_OK);

    pc_safetensors *s = NULL;
    assert_int_equal(pc_safetensors_open(&s, path), PC_OK);
    assert_int_equal(pc_safetensors_count(s), 7);
    float got[6];
    int32_t ints[5];
    assert_int_equal(pc_st_floats(got, pc_safetensors_find(s, "b"), 6), PC_OK);
    assert_memory_equal(got, f, sizeof f);
    assert_int_equal(pc_st_floats(got, pc_safetensors_find(s, "scalar"), 1), PC_OK);
    assert_true(got[0] == 3e38f);
    assert_int_equal(pc_st_ints(ints, pc_safetensors_find(s, list[3].name), 3), PC_OK);
    assert_int_equal(ints[2], INT32_MIN);
    assert_int_equal(pc_st_ints(ints, pc_safetensors_find(s, "z.u8"), 5), PC_OK);
    assert_int_equal(ints[4], 255);
    assert_int_equal(pc_safetensors_find(s, "none")->bytes, 0);
    assert_int_equal((uintptr_t)pc_safetensors_find(s, "a")->data % 4, 0);
    assert_int_equal((uintptr_t)pc_safetensors_find(s, list[3].name)->data % 8, 0);
    assert_int_equal(pc_st_floats(got, pc_safetensors_find(s, "b"), 5), PC_ERR_FORMAT);
    assert_int_equal(pc_st_ints(ints, pc_safetensors_find(s, "b"), 6), PC_ERR_FORMAT);
    pc_safetensors_close(s);

    // The same tensors in another order are the same bytes.
    const pc_st_out other[] = {list[6], list[5], list[4], list[3], list[2], list[1], list[0]};
    char first[65], second[65];
    assert_int_equal(pc_file_sha256(first, path), PC_OK);
    assert_int_equal(pc_safetensors_write(path, other, 7, "{\"who\":\"test\"}"), PC_OK);
    assert_int_equal(pc_file_sha256(second, path), PC_OK);
    assert_string_equal(first, second);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    const float f[1] = {1.0f};
    const pc_st_out twice[] = {{"a", PC_F32, 1, {1}, f}, {"a", PC_F32, 1, {1}, f}};
    const char *path = scratch_path("refused.safetensors");
    assert_int_equal(pc_safetensors_write(path, twice, 2, NULL), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "'a'"));
    const pc_st_out bad_name[] = {{"\xff", PC_F32, 1, {1}, f}};
    assert_int_equal(pc_safetensors_write(path, bad_name, 1, NULL), PC_ERR_INPUT);
    assert_int_equal(pc_safetensors_write(path, twice, 1, "[1]"), PC_ERR_FORMAT);
    assert_int_equal(pc_safetensors_write(scratch_path("no/such/dir.safetensors"), twice, 1, NULL),
                     PC_ERR_IO);
    assert_false(pc_file_exists(path));
}

// A disk without room: the old file stays as it was.
static void test_full_disk(void **state)
{
    (void)state;
    if (access("/dev/full", W_OK) != 0) skip();
    const float f[1] = {1.0f};
    const pc_st_out list[] = {{"a", PC_F32, 1, {1}, f}};
    const char *path = scratch_path("full.safetensors");
    scratch_write("full.safetensors", "old", 3);
    assert_int_equal(symlink("/dev/full", scratch_path("full.safetensors.part")), 0);
    assert_int_equal(pc_safetensors_write(path, list, 1, NULL), PC_ERR_IO);
    assert_non_null(strstr(pc_error_text(), "No space left"));
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(pc_file_read(&text, &size, path, 100), PC_OK);
    assert_string_equal(text, "old");
    free(text);
}

/* ---- hostile files ---- */

// A file with this header (its true length unless another is given) and `data` zero bytes.
static pc_status open_made(const char *header, uint64_t length, size_t data)
{
    const size_t n = strlen(header);
    unsigned char *file = calloc(1, 8 + n + data);
    assert_non_null(file);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)(length >> (8 * i));
    memcpy(file + 8, header, n);
    scratch_write("made.safetensors", file, 8 + n + data);
    free(file);
    pc_safetensors *s = NULL;
    pc_status st = pc_safetensors_open(&s, scratch_path("made.safetensors"));
    if (st) assert_null(s);
    pc_safetensors_close(s);
    return st;
}

#define ONE(shape, begin, end)                                                                     \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}}"
#define TWO(b0, e0, b1, e1)                                                                        \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[" b0 "," e0 "]},"                    \
    "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[" b1 "," e1 "]}}"

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *message; // NULL: valid
    } cases[] = {
        {ONE("[2]", "0", "8"), 8, NULL},
        {"{}", 0, NULL},
        {TWO("4", "8", "0", "4"), 8, NULL},
        {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, NULL},
        {" {}", 0, "begin with '{'"},
        {"[]", 0, "begin with '{'"},
        {"{", 0, "not valid JSON"},
        {"{\"a\":\xff}", 0, "not valid JSON"},
        {"{}{}", 0, "not valid JSON"},
        {"{\"a\":1,\"a\":2}", 0, "duplicate"},
        {"{\"a\":1}", 0, "exactly dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "exactly dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
         "exactly dtype"},
        {"{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype 'F99'"},
        {"{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "exactly dtype"},
        {"{\"__metadata__\":{\"n\":1}}", 0, "not a string"},
        {"{\"__metadata__\":3}", 0, "not an object"},
        {ONE("[-1]", "0", "4"), 4, "non-negative"},
        {ONE("[1.0]", "0", "4"), 4, "non-negative"},
        {ONE("[1,1,1,1,1,1,1,1,1]", "0", "4"), 4, "dimensions"},
        {ONE("[4611686018427387904,4]", "0", "4"), 4, "64 bits"},
        {ONE("[4294967296,4294967296]", "0", "0"), 0, "64 bits"},
        {ONE("[99999999999999999999]", "0", "4"), 4, "not valid JSON"},
        {ONE("[1]", "4", "0"), 4, "backwards"},
        {ONE("[1]", "0", "8"), 8, "need 4"},
        {ONE("[2]", "0", "8"), 4, "holds 4 bytes"},
        {ONE("[1]", "-4", "0"), 4, "non-negative integers"},
        {ONE("[1]", "0", "4,8"), 8, "non-negative integers"},
        {ONE("[1]", "0", "4"), 8, "behind the last"},
        {ONE("[1]", "4", "8"), 8, "hole"},
        {TWO("0", "4", "2", "6"), 8, "overlapping"},
        {TWO("0", "4", "0", "4"), 4, "overlapping"},
        {TWO("0", "4", "5", "9"), 9, "hole"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "within a byte"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const pc_status st = open_made(cases[i].header, strlen(cases[i].header), cases[i].data);
        if (!cases[i].message) {
            if (st) fail_msg("case %zu: %s", i, pc_error_text());
            continue;
        }
        if (st != PC_ERR_FORMAT || !strstr(pc_error_text(), cases[i].message) ||
            !strstr(pc_error_text(), "made.safetensors"))
            fail_msg("case %zu (%s): status %d, '%s'", i, cases[i].message, (int)st,
                     st ? pc_error_text() : "");
    }
}

static void test_lengths(void **state)
{
    (void)state;
    const char *header = ONE("[2]", "0", "8");
    const uint64_t n = strlen(header);
    const uint64_t lengths[] = {0, 1, n - 1, n + 9, 1000, 100000001, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        assert_int_equal(open_made(header, lengths[i], 8), PC_ERR_FORMAT);
        assert_non_null(strstr(pc_error_text(), "eader"));
    }
    // Cut at every length: never more than a message.
    unsigned char file[512] = {0};
    file[0] = (unsigned char)n;
    memcpy(file + 8, header, n);
    for (size_t cut = 0; cut < 8 + n + 8; cut++) {
        pc_safetensors *s = NULL;
        scratch_write("cut.safetensors", file, cut);
        assert_int_equal(pc_safetensors_open(&s, scratch_path("cut.safetensors")), PC_ERR_FORMAT);
    }
}

static void test_deep_json(void **state)
{
    (void)state;
    const size_t depth = 200000;
    char *text = malloc(depth + 16);
    assert_non_null(text);
    strcpy(text, "{\"a\":");
    memset(text + 5, '[', depth);
    text[5 + depth] = '\0';
    assert_int_equal(open_made(text, strlen(text), 0), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "not valid JSON"));
    free(text);
}

// One byte changed at a time: any answer but a crash.
static void test_flipped_bytes(void **state)
{
    (void)state;
    const float f[6] = {1, 2, 3, 4, 5, 6};
    const pc_st_out list[] = {{"alpha", PC_F32, 2, {2, 3}, f}, {"beta", PC_F32, 1, {4}, f}};
    const char *path = scratch_path("flip.safetensors");
    char *bytes = NULL;
    size_t size = 0;
    assert_int_equal(pc_safetensors_write(path, list, 2, NULL), PC_OK);
    assert_int_equal(pc_file_read(&bytes, &size, path, 4096), PC_OK);
    int refused = 0;
    for (size_t i = 0; i < size - 40; i++)
        for (int bit = 0; bit < 8; bit += 3) {
            pc_safetensors *s = NULL;
            bytes[i] = (char)(bytes[i] ^ 1 << bit);
            scratch_write("flip.safetensors", bytes, size);
            refused += pc_safetensors_open(&s, path) != PC_OK;
            for (int64_t k = 0; s && k < pc_safetensors_count(s); k++) {
                float out[6];
                (void)pc_st_floats(out, pc_safetensors_at(s, k), k ? 4 : 6);
            }
            pc_safetensors_close(s);
            bytes[i] = (char)(bytes[i] ^ 1 << bit);
        }
    assert_true(refused > 100);
    free(bytes);
}

/* ---- shards ---- */

static pc_status open_index(const char *json)
{
    pc_safetensors *s = NULL;
    scratch_write("model.safetensors.index.json", json, strlen(json));
    pc_status st = pc_safetensors_open_dir(&s, scratch_path("."));
    if (!st) assert_int_equal(pc_safetensors_count(s), 2);
    pc_safetensors_close(s);
    return st;
}

static void test_shards(void **state)
{
    (void)state;
    const float f[2] = {1, 2};
    const pc_st_out a = {"a", PC_F32, 1, {2}, f},
                    b[] = {{"b", PC_F32, 1, {2}, f}, {"extra", PC_F32, 1, {1}, f}};
    assert_int_equal(pc_safetensors_write(scratch_path("1.safetensors"), &a, 1, NULL), PC_OK);
    assert_int_equal(pc_safetensors_write(scratch_path("2.safetensors"), b, 2, NULL), PC_OK);
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}", NULL},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"2.safetensors\"}}", "'c' is not in"},
        {"{\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"2.safetensors\"}}", "'a' is not in"},
        {"{\"weight_map\":{\"a\":\"3.safetensors\"}}", "3.safetensors"},
        {"{\"weight_map\":{\"a\":\"../1.safetensors\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":1}}", "plain file name"},
        {"{\"weight_map\":[]}", "weight_map"},
        {"{", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const pc_status st = open_index(cases[i].json);
        if (!st != !cases[i].message || (st && !strstr(pc_error_text(), cases[i].message)))
            fail_msg("case %zu: status %d, '%s'", i, (int)st, pc_error_text());
    }
    unlink(scratch_path("model.safetensors.index.json"));
    pc_safetensors *s = NULL;
    assert_int_equal(pc_safetensors_open_dir(&s, scratch_path(".")), PC_ERR_INPUT);
    scratch_write("pytorch_model.bin", "x", 1);
    assert_int_equal(pc_safetensors_open_dir(&s, scratch_path(".")), PC_ERR_FORMAT);
    assert_int_equal(pc_safetensors_open(&s, scratch_path(".")), PC_ERR_INPUT); // a directory
    assert_int_equal(pc_safetensors_open(&s, scratch_path("nobody")), PC_ERR_IO);
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
        cmocka_unit_test(test_reference_types), cmocka_unit_test(test_reference_shards),
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_full_disk),       cmocka_unit_test(test_rules),
        cmocka_unit_test(test_lengths),         cmocka_unit_test(test_deep_json),
        cmocka_unit_test(test_flipped_bytes),   cmocka_unit_test(test_shards),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/*
 * test_pickle.c - PyTorch's files: plain state dicts come out whole, nothing is executed, and any byte may be wrong.
 *
 * Archives are built here byte by byte, as torch.save builds them: stored members, a pickle of protocol 2.
 */
#include "checkpoints/safetensors.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct bytes {
    unsigned char at[8192];
    size_t n;
} bytes;

static void put(bytes *b, const void *p, size_t n)
{
    assert_true(b->n + n <= sizeof b->at);
    memcpy(b->at + b->n, p, n);
    b->n += n;
}

static void put_text(bytes *b, const char *text)
{
    put(b, text, strlen(text));
}

static void put_le(bytes *b, uint64_t v, int size)
{
    for (int i = 0; i < size; i++) {
        const unsigned char c = (unsigned char)(v >> (8 * i));
        put(b, &c, 1);
    }
}

/* ---- pickles ---- */

static void op_text(bytes *b, const char *text) // BINUNICODE
{
    put_text(b, "X");
    put_le(b, strlen(text), 4);
    put_text(b, text);
}

static void op_number(bytes *b, int n) // BININT
{
    put_text(b, "J");
    put_le(b, (uint32_t)n, 4);
}

static void op_dims(bytes *b, int n, const int *dim)
{
    put_text(b, "(");
    for (int i = 0; i < n; i++) op_number(b, dim[i]);
    put_text(b, "t");
}

// name: tensor, on the dict below.
static void op_tensor(bytes *b, const char *name, const char *class, const char *key, int offset,
                      int rank, const int *dim, const int *stride)
{
    op_text(b, name);
    put_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    op_text(b, "storage");
    put_text(b, "ctorch\n");
    put_text(b, class);
    put_text(b, "\n");
    op_text(b, key);
    op_text(b, "cpu");
    op_number(b, 6);
    put_text(b, "tQ");
    op_number(b, offset);
    op_dims(b, rank, dim);
    op_dims(b, rank, stride);
    put_text(b, "\x89"
                "ccollections\nOrderedDict\n)RtR");
}

static void begin(bytes *b)
{
    put_text(b, "\x80\x02}q");
    put_le(b, 0, 1);
    put_text(b, "(");
}

/* ---- archives ---- */

typedef struct archive {
    bytes file, directory;
    int members;
} archive;

static void member(archive *a, const char *name, const void *data, size_t size, int method)
{
    const size_t at = a->file.n;
    put_text(&a->file, "PK\3\4");
    put_le(&a->file, 20, 2);
    put_le(&a->file, 0, 2);
    put_le(&a->file, (uint64_t)method, 2);
    put_le(&a->file, 0, 4);
    put_le(&a->file, 0, 4);
    put_le(&a->file, size, 4);
    put_le(&a->file, size, 4);
    put_le(&a->file, strlen(name), 2);
    put_le(&a->file, 0, 2);
    put_text(&a->file, name);
    put(&a->file, data, size);
    put_text(&a->directory, "PK\1\2");
    put_le(&a->directory, 20, 2);
    put_le(&a->directory, 20, 2);
    put_le(&a->directory, 0, 2);
    put_le(&a->directory, (uint64_t)method, 2);
    put_le(&a->directory, 0, 4);
    put_le(&a->directory, 0, 4);
    put_le(&a->directory, size, 4);
    put_le(&a->directory, size, 4);
    put_le(&a->directory, strlen(name), 2);
    put_le(&a->directory, 0, 8);
    put_le(&a->directory, 0, 4);
    put_le(&a->directory, at, 4);
    put_text(&a->directory, name);
    a->members++;
}

static void finish(archive *a, const char *name)
{
    const size_t at = a->file.n, size = a->directory.n;
    put(&a->file, a->directory.at, size);
    put_text(&a->file, "PK\5\6");
    put_le(&a->file, 0, 4);
    put_le(&a->file, (uint64_t)a->members, 2);
    put_le(&a->file, (uint64_t)a->members, 2);
    put_le(&a->file, size, 4);
    put_le(&a->file, at, 4);
    put_le(&a->file, 0, 2);
    scratch_write(name, a->file.at, a->file.n);
}

static const float NUMBERS[6] = {1, 2, 3, 4, 5, 6};

static pc_status open_pickle(pc_safetensors **out, const bytes *pickle, int method)
{
    archive a = {.members = 0};
    member(&a, "archive/data.pkl", pickle->at, pickle->n, 0);
    member(&a, "archive/byteorder", "little", 6, 0);
    member(&a, "archive/data/0", NUMBERS, sizeof NUMBERS, method);
    finish(&a, "x.bin");
    return pc_safetensors_open(out, scratch_path("x.bin"));
}

static void good(bytes *b)
{
    begin(b);
    op_tensor(b, "w", "FloatStorage", "0", 0, 2, (const int[]){2, 3}, (const int[]){3, 1});
    op_tensor(b, "turned", "FloatStorage", "0", 0, 2, (const int[]){3, 2}, (const int[]){1, 3});
    op_tensor(b, "part", "FloatStorage", "0", 4, 1, (const int[]){2}, (const int[]){1});
    op_text(b, "epoch");
    op_number(b, 3);
    put_text(b, "u.");
}

static void check(const pc_safetensors *s, const char *name, int64_t n, const float *want)
{
    float got[6];
    const pc_st_entry *e = pc_safetensors_find(s, name);
    assert_non_null(e);
    assert_int_equal(pc_st_floats(got, e, n), PC_OK);
    assert_memory_equal(got, want, (size_t)n * sizeof *want);
}

static void test_good(void **state)
{
    (void)state;
    bytes b = {.n = 0};
    pc_safetensors *s = NULL;
    good(&b);
    if (open_pickle(&s, &b, 0)) fail_msg("%s", pc_error_text());
    assert_int_equal(pc_safetensors_count(s), 3);
    check(s, "w", 6, NUMBERS);
    check(s, "turned", 6, (const float[]){1, 4, 2, 5, 3, 6});
    check(s, "part", 2, (const float[]){5, 6});
    pc_safetensors_close(s);

    // Under "state_dict" of a larger dict, which holds other things too.
    b.n = 0;
    begin(&b);
    op_text(&b, "names");
    put_text(&b, "](");
    op_text(&b, "a");
    put_text(&b, "e");
    op_text(&b, "state_dict");
    put_text(&b, "ccollections\nOrderedDict\n)R(");
    op_tensor(&b, "w", "FloatStorage", "0", 0, 1, (const int[]){6}, (const int[]){1});
    put_text(&b, "u}(");
    op_text(&b, "_metadata");
    put_text(&b, "}ubu.");
    if (open_pickle(&s, &b, 0)) fail_msg("%s", pc_error_text());
    assert_int_equal(pc_safetensors_count(s), 1);
    check(s, "w", 6, NUMBERS);
    pc_safetensors_close(s);
}

static void refused(const bytes *b, int method, const char *says)
{
    pc_safetensors *s = NULL;
    assert_int_not_equal(open_pickle(&s, b, method), PC_OK);
    assert_null(s);
    if (!strstr(pc_error_text(), says)) fail_msg("'%s' not in: %s", says, pc_error_text());
}

static void one_tensor(bytes *b, const char *class, const char *key, int offset, int rank,
                       const int *dim, const int *stride)
{
    b->n = 0;
    begin(b);
    op_tensor(b, "w", class, key, offset, rank, dim, stride);
    put_text(b, "u.");
}

static void test_refused(void **state)
{
    (void)state;
    bytes b = {.n = 0};
    put_text(&b, "\x80\x02"
                 "cposix\nsystem\n(");
    op_text(&b, "echo");
    put_text(&b, "tR.");
    refused(&b, 0, "'posix.system'");
    refused(&b, 0, "save_file");
    one_tensor(&b, "FloatStorage", "0", 0, 1, (const int[]){7}, (const int[]){1});
    refused(&b, 0, "end at 7, its storage has 6");
    one_tensor(&b, "FloatStorage", "0", -1, 1, (const int[]){1}, (const int[]){1});
    refused(&b, 0, "tensor 'w'");
    one_tensor(&b, "FloatStorage", "0", 0, 2, (const int[]){1000000, 1000000},
               (const int[]){0, 0}); // one number, spread
    refused(&b, 0, "more numbers than its storage");
    one_tensor(&b, "FloatStorage", "0", 0, 4,
               (const int[]){2147483647, 2147483647, 2147483647, 2147483647},
               (const int[]){0, 0, 0, 0});
    refused(&b, 0, "64 bits");
    one_tensor(&b, "FloatStorage", "1", 0, 1, (const int[]){6}, (const int[]){1});
    refused(&b, 0, "'archive/data/1' is not in the archive");
    one_tensor(&b, "QInt8Storage", "0", 0, 1, (const int[]){6}, (const int[]){1});
    refused(&b, 0, "QInt8Storage");
    b.n = 0;
    put_text(&b, "\x80\x02K\1.");
    refused(&b, 0, "no dict of tensors");
    b.n = 0;
    put_text(&b, "\x80\x02}.");
    refused(&b, 0, "no tensors");
    b.n = 0;
    put_text(&b, "\x80\x02}u.");
    refused(&b, 0, "takes more");
    b.n = 0;
    put_text(&b, "\x80\x02i");
    refused(&b, 0, "opcode 0x69");
    b.n = 0;
    good(&b);
    refused(&b, 8, "compressed");

    pc_safetensors *s = NULL;
    scratch_write("old.bin", "\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", 21);
    assert_int_not_equal(pc_safetensors_open(&s, scratch_path("old.bin")), PC_OK);
    assert_non_null(strstr(pc_error_text(), "before 1.6"));
}

// Every byte changed, every length cut: a message or a whole result, never more.
static void test_any_byte(void **state)
{
    (void)state;
    bytes b = {.n = 0};
    pc_safetensors *s = NULL;
    char *text;
    size_t size;
    good(&b);
    assert_int_equal(open_pickle(&s, &b, 0), PC_OK);
    pc_safetensors_close(s);
    assert_int_equal(pc_file_read(&text, &size, scratch_path("x.bin"), 1 << 20), PC_OK);
    for (size_t i = 0; i < size; i++)
        for (int k = 0; k < 3; k++) {
            const char was = text[i];
            text[i] = (char)(k == 0 ? was ^ 1 : k == 1 ? was ^ 0x80 : 0);
            scratch_write("y.bin", text, size);
            if (!pc_safetensors_open(&s, scratch_path("y.bin"))) pc_safetensors_close(s);
            text[i] = was;
        }
    for (size_t n = 0; n < size; n++) {
        scratch_write("y.bin", text, n);
        assert_int_not_equal(pc_safetensors_open(&s, scratch_path("y.bin")), PC_OK);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_any_byte),
    };
    scratch_open();
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_close();
    return failed != 0;
}

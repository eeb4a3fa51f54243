/*
 * test_file.c - whole files: the old one or the new one, never half; paths that do not climb out; SHA-256.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/core/file.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

static bool holds(const char *path, const void *want, size_t size)
{
    char *data;
    size_t n;
    if (pc_file_read(&data, &n, path, (size_t)1 << 20)) return false;
    const bool same = n == size && !memcmp(data, want, size) && data[n] == '\0';
    free(data);
    return same;
}

static void test_read_write(void)
{
    char *data;
    size_t n;
    const char *path = scratch_path("a.bin");
    static const char bytes[] = "one\0two\n";
    CHECK(!pc_file_write(path, bytes, sizeof bytes));
    CHECK(holds(path, bytes, sizeof bytes));
    CHECK(!pc_file_write(path, "x", 1) && holds(path, "x", 1));
    CHECK(!pc_file_write(path, NULL, 0) && holds(path, "", 0));
    CHECK(pc_file_exists(path) && !pc_is_dir(path) && !pc_file_exists(scratch_path("none")));

    CHECK(pc_file_read(&data, &n, scratch_path("none"), 10) == PC_ERR_IO && data == NULL);
    CHECK(strstr(pc_error_text(), "none") && strstr(pc_error_text(), "No such file"));
    CHECK(!pc_file_write(path, "12345678901", 11));
    CHECK(pc_file_read(&data, &n, path, 10) == PC_ERR_INPUT && data == NULL);
    CHECK(strstr(pc_error_text(), "11 bytes") && strstr(pc_error_text(), "10"));
    CHECK(!pc_file_read(&data, &n, path, 11) && n == 11);
    free(data);
    CHECK(pc_file_read(&data, &n, scratch_path(""), 10) == PC_ERR_IO); // a directory
    CHECK(!pc_file_read(&data, &n, "/proc/self/status", (size_t)1 << 20) &&
          n > 100); // states no size
    free(data);
    CHECK(pc_file_read(&data, &n, "/proc/self/status", 100) == PC_ERR_INPUT);
    CHECK(pc_file_write(scratch_path("no/such/dir"), "x", 1) == PC_ERR_IO);
}

static void test_temp(void)
{
    char tmp[4096], small[8];
    const char *path = scratch_path("b.bin");
    CHECK(!pc_file_write(path, "old", 3));
    CHECK(!pc_file_temp(tmp, sizeof tmp, path));
    CHECK(strcmp(tmp, path) && !strncmp(tmp, path, strlen(path)));
    FILE *f = fopen(tmp, "w");
    CHECK(f != NULL);
    if (!f) return;
    fputs("new", f);
    fclose(f);
    CHECK(holds(path, "old", 3));
    CHECK(!pc_file_commit(tmp, path) && holds(path, "new", 3) && !pc_file_exists(tmp));
    CHECK(pc_file_commit(tmp, path) == PC_ERR_IO && holds(path, "new", 3));
    CHECK(pc_file_temp(small, sizeof small, path) == PC_ERR_INPUT);
}

/* A disk that is full, played by a limit on file size: the old content stays, nothing is left beside. */
static void test_full(void)
{
    enum { SIZE = 100000 };
    char tmp[4096], *big = calloc(1, SIZE);
    const char *path = scratch_path("c.bin");
    struct rlimit before, little = {.rlim_cur = 5000};
    CHECK(!pc_file_write(path, "old", 3) && !getrlimit(RLIMIT_FSIZE, &before));
    little.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(!setrlimit(RLIMIT_FSIZE, &little));
    CHECK(pc_file_write(path, big, SIZE) == PC_ERR_IO);
    CHECK(strstr(pc_error_text(), "c.bin") && strstr(pc_error_text(), "too large"));
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(holds(path, "old", 3));
    CHECK(!pc_file_temp(tmp, sizeof tmp, path) && !pc_file_exists(tmp));
    free(big);
}

static void test_dirs(void)
{
    CHECK(!pc_make_dirs(scratch_path("x/y/z")) && pc_is_dir(scratch_path("x/y/z")));
    CHECK(!pc_make_dirs(scratch_path("x/y/z/")) && !pc_make_dirs(scratch_path("x")));
    CHECK(!pc_file_write(scratch_path("x/file"), "1", 1));
    CHECK(pc_make_dirs(scratch_path("x/file")) == PC_ERR_IO);
    CHECK(pc_make_dirs(scratch_path("x/file/y")) == PC_ERR_IO);
    CHECK(pc_make_dirs("") == PC_ERR_INPUT);
    CHECK(!pc_make_dirs("."));
}

static void test_inside(void)
{
    char out[64];
    static const struct {
        const char *name;
        bool ok;
    } names[] = {{"a.png", true},        {"b/c.png", true},    {"b/../c.png", true},
                 {"./a", true},          {"..a/b", true},      {"a/...", true},
                 {"../a", false},        {"b/../../a", false}, {"a/b/../../../c", false},
                 {"/etc/passwd", false}, {"", false},          {"..", false}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CHECK(!pc_path_inside(out, sizeof out, "dir", names[i].name) == names[i].ok);
    CHECK(!pc_path_inside(out, sizeof out, "dir", "b/c") && !strcmp(out, "dir/b/c"));
    CHECK(pc_path_inside(out, 8, "dir", "abcd") == PC_ERR_INPUT); // "dir/abcd" and its end: 9
    CHECK(!pc_path_inside(out, 9, "dir", "abcd"));
}

/* FIPS 180-4's examples, and a million letters. */
static void test_sha256(void)
{
    char out[65], *letters = malloc(1000000);
    pc_sha256(out, "abc", 3);
    CHECK(!strcmp(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    pc_sha256(out, "", 0);
    CHECK(!strcmp(out, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    pc_sha256(out, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    CHECK(!strcmp(out, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"));
    if (!letters) return;
    memset(letters, 'a', 1000000);
    pc_sha256(out, letters, 1000000);
    CHECK(!strcmp(out, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
    CHECK(!pc_file_write(scratch_path("letters"), letters, 1000000));
    CHECK(!pc_file_sha256(out, scratch_path("letters")));
    CHECK(!strcmp(out, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
    CHECK(pc_file_sha256(out, scratch_path("none")) == PC_ERR_IO);
    free(letters);
}

int main(void)
{
    scratch_open();
    test_read_write();
    test_temp();
    test_full();
    test_dirs();
    test_inside();
    test_sha256();
    scratch_close();
    return check_report("files");
}

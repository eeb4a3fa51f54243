/*
 * test_tensor.c - views and arenas, of the host's and of a device's memory.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/core/memory.h"
#include "tests/support/check.h"

static void test_views(void)
{
    float data[60];
    char text[64];
    for (int i = 0; i < 60; i++) data[i] = (float)i;
    const pc_tensor x = pc_view2(data, PC_F32, 5, 12);
    CHECK(pc_numel(x) == 60 && pc_row_len(x) == 12 && pc_is_dense(x));
    CHECK(!strcmp(pc_shape_text(x, text, sizeof text), "(5,12)"));

    const pc_tensor rows = pc_rows(x, 1, 3);
    CHECK(rows.dim[0] == 2 && rows.dim[1] == 12 && pc_f32(rows, 1)[2] == 26.0f);
    const pc_tensor cols = pc_cols(x, 4, 10);
    CHECK(cols.dim[0] == 5 && cols.dim[1] == 6 && cols.stride == 12 && !pc_is_dense(cols));
    CHECK(pc_f32(cols, 2)[1] == 29.0f);
    const pc_tensor heads = pc_as_heads(cols, 3);
    CHECK(heads.rank == 3 && heads.dim[1] == 2 && heads.dim[2] == 3 && heads.stride == 12);
    CHECK(!strcmp(pc_shape_text(heads, text, sizeof text), "(5,2,3)"));
    CHECK(pc_same_shape(pc_as_heads(heads, 3), cols));
    CHECK(!pc_same_shape(heads, cols) && !pc_same_shape(rows, x));

    const pc_tensor other = pc_reshape2(x, 15, 4);
    CHECK(other.data == x.data && other.dim[0] == 15 && other.stride == 4);
    CHECK(pc_is_dense(pc_rows(cols, 2, 3))); // one row is dense whatever its stride
    const pc_tensor one = pc_view1(data, PC_F32, 7);
    CHECK(one.stride == 1 && pc_row_len(one) == 1 && pc_numel(pc_rows(one, 2, 5)) == 3);
    CHECK(pc_view4(data, PC_F32, 1, 3, 4, 5).stride == 60);
    CHECK(!pc_present(PC_NONE) && pc_present(x));
    const pc_tensor scalar = {.data = data};
    CHECK(pc_numel(scalar) == 1 && !strcmp(pc_shape_text(scalar, text, sizeof text), "()"));
    CHECK(strlen(pc_shape_text(x, text, 4)) < 4);
    CHECK(pc_dtype_size(PC_BF16) == 2 && pc_dtype_size(PC_I64) == 8 && pc_dtype_size(PC_U8) == 1);
    CHECK(!strcmp(pc_dtype_name(PC_F64), "f64"));
}

static void test_arena(void)
{
    pc_arena a, dry;
    CHECK(!pc_arena_open(&a, "test", 10000));
    pc_arena_open_dry(&dry, "dry");
    CHECK(dry.dry && !a.dry);
    for (int round = 0; round < 2; round++) { // both hand out the same places
        const size_t mark = pc_arena_mark(&a), dry_mark = pc_arena_mark(&dry);
        const pc_tensor x = pc_alloc2(&a, PC_F32, 3, 5), y = pc_alloc1(&a, PC_I32, 1);
        const pc_tensor p = pc_alloc2(&dry, PC_F32, 3, 5), q = pc_alloc1(&dry, PC_I32, 1);
        CHECK((uintptr_t)x.data % PC_ALIGN == 0 && (uintptr_t)y.data % PC_ALIGN == 0);
        CHECK((char *)y.data - (char *)x.data == PC_ALIGN); // 60 bytes, rounded up
        CHECK((char *)q.data - (char *)p.data == PC_ALIGN);
        CHECK(pc_present(p) && (uintptr_t)p.data % PC_ALIGN == 0);
        CHECK(a.used == dry.used && a.peak == dry.peak);
        memset(x.data, 1, 60);
        pc_arena_release(&a, mark);
        pc_arena_release(&dry, dry_mark);
    }
    CHECK(a.used == 0 && a.peak == PC_ALIGN + 4);
    const pc_tensor cols = pc_cols(pc_alloc2(&a, PC_F64, 4, 6), 1, 4);
    const pc_tensor like = pc_alloc_like(&a, cols);
    CHECK(pc_same_shape(like, cols) && pc_is_dense(like));
    pc_arena_close(&a);
    pc_arena_close(&a); // a zeroed arena is fine
    pc_arena_close(&dry);
    CHECK(pc_arena_open(&a, "far too much", (size_t)1 << 62) == PC_ERR_MEMORY);
    CHECK(strstr(pc_error_text(), "far too much"));
    pc_arena_close(&a);
    CHECK(!pc_arena_open(&a, "empty", 0));
    CHECK(pc_arena_bytes(&a, 0) != NULL);
    pc_arena_close(&a);
}

/* What breaks a promise must end the process by abort, with both figures in its message. */
static void aborts(void (*what)(void), const char *message)
{
    int end[2];
    char text[512] = "";
    fflush(stdout);
    CHECK(!pipe(end));
    const pid_t child = fork();
    if (child == 0) {
        dup2(end[1], STDERR_FILENO);
        what();
        _exit(0);
    }
    close(end[1]);
    size_t used = 0;
    for (ssize_t n = 1; n > 0 && used<sizeof text - 1; used += n> 0 ? (size_t)n : 0)
        n = read(end[0], text + used, sizeof text - 1 - used);
    close(end[0]);
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strstr(text, message));
}

static void overflow(void)
{
    pc_arena a;
    if (!pc_arena_open(&a, "narrow", 128)) pc_alloc1(&a, PC_F32, 33);
}

static void bad_rows(void)
{
    float data[4];
    pc_rows(pc_view2(data, PC_F32, 2, 2), 1, 3);
}

static void bad_reshape(void)
{
    float data[4];
    pc_reshape2(pc_cols(pc_view2(data, PC_F32, 2, 2), 0, 1), 1, 2);
}

// ---- a device's, of the host's bytes --------------------------------------------------------------

static int64_t marked, awaited;
static int held; // blocks

static void *get(size_t bytes)
{
    held++;
    return aligned_alloc(PC_ALIGN, (bytes + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN);
}

static void put(void *base)
{
    held--;
    free(base);
}

static void *get_none(size_t bytes)
{
    (void)bytes;
    return NULL;
}

static int64_t mark(void)
{
    return marked++;
}

static void wait_mark(int64_t m)
{
    awaited = m;
}

// Shared memory that is handed out again was left before the mark that is waited for, and never in between.
static void test_shared(void)
{
    const pc_memory memory = {.name = "a device",
                              .get = get,
                              .put = put,
                              .get_shared = get,
                              .put_shared = put,
                              .mark = mark,
                              .wait_mark = wait_mark};
    pc_arena a, dry;
    CHECK(!pc_arena_open_in(&a, "test", &memory, 1000, 100));
    pc_arena_open_dry_in(&dry, "dry", &memory);
    unsigned char *first[5];
    for (int round = 0; round < 5; round++) {
        awaited = -1;
        pc_arena_release(&a, 0);
        pc_arena_release(&dry, 0);
        // A round leaves one mark: the half of round r was left by mark r - 2 when it was last used.
        CHECK(marked == round && awaited == (round < 2 ? -1 : round - 2));
        first[round] = pc_arena_bytes(&a, 40);
        pc_arena_bytes(&dry, 40);
        memset(first[round], round, 100);
        const size_t here = pc_arena_mark(&a);
        const pc_tensor ids = pc_alloc1(&a, PC_I32, 9), x = pc_alloc1(&a, PC_F32, 16);
        pc_alloc1(&dry, PC_I32, 9), pc_alloc1(&dry, PC_F32, 16);
        CHECK((unsigned char *)ids.data == first[round] + PC_ALIGN);
        pc_arena_release(&a, here);
        CHECK(marked == round); // numbers alone are given back
        CHECK(pc_alloc1(&a, PC_F32, 16).data == x.data);
    }
    CHECK(first[0] != first[1] && first[0] == first[2] && first[1] == first[3]);
    for (int i = 0; i < 100; i++) CHECK(first[3][i] == 3 && first[4][i] == 4);
    CHECK(dry.peak == a.peak && dry.shared_peak == a.shared_peak && a.shared_peak == 100);
    marked = 0;
    pc_arena_release(&a, 0);
    pc_arena_release(&a, 0); // nothing shared was taken: nothing is left, nothing waited for
    CHECK(marked == 1);
    pc_arena_close(&a);
    CHECK(held == 0);

    pc_memory poor = memory;
    poor.get_shared = get_none;
    CHECK(pc_arena_open_in(&a, "pinned", &poor, 1000, (size_t)1 << 20) == PC_ERR_MEMORY);
    CHECK(strstr(pc_error_text(), "2.0 MiB of pinned memory") != NULL);
    CHECK(held == 0);
}

int main(void)
{
    test_views();
    test_arena();
    test_shared();
    aborts(overflow, "arena 'narrow': 132 bytes wanted, 0 of 128 used");
    aborts(bad_rows, "rows [1,3) of 2");
    aborts(bad_reshape, "2 elements as (1,2)");
    return check_report("tensors and arenas");
}

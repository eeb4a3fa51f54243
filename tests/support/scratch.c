/*
 * scratch.c - see scratch.h.
 */
#include "tests/support/scratch.h"

#include "model/core/file.h"
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[PATH_MAX];

static char *next_buffer(void)
{
    static char buffer[8][2 * PATH_MAX];
    static int at;
    return buffer[at++ % 8];
}

const char *scratch_open(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/percept-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        abort();
    }
    return folder;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

void scratch_close(void)
{
    if (folder[0]) nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    folder[0] = '\0';
}

const char *scratch_path(const char *name)
{
    char *buf = next_buffer();
    snprintf(buf, 2 * PATH_MAX, "%s/%s", folder, name);
    return buf;
}

void scratch_write(const char *name, const void *data, size_t size)
{
    const char *path = scratch_path(name);
    if (pc_file_write(path, data, size)) {
        fprintf(stderr, "%s\n", pc_error_text());
        abort();
    }
}

const char *shared_path(const char *name)
{
    const char *base = getenv("PERCEPT_SHARED");
    char *buf = next_buffer();
    snprintf(buf, 2 * PATH_MAX, "%s/%s", base && *base ? base : "../shared", name);
    return pc_file_exists(buf) ? buf : NULL;
}

/*
 * file.c - whole files in and out, and SHA-256 (FIPS 180-4).
 */
#include "model/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

pc_status pc_file_read(char **out, size_t *size, const char *path, size_t limit)
{
    pc_status st = PC_OK;
    char *data = NULL;
    size_t used = 0, capacity = 0;
    *out = NULL;
    *size = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return pc_fail_errno("'%s' cannot be opened", path);
    struct stat info;
    if (fstat(fd, &info)) {
        st = pc_fail_errno("'%s'", path);
        goto out;
    }
    // The stated size is a first guess: pipes and /proc state none.
    capacity = info.st_size > 0 && (uintmax_t)info.st_size <= limit ? (size_t)info.st_size : 4096;
    if (S_ISREG(info.st_mode) && info.st_size > 0 && (uintmax_t)info.st_size > limit) {
        st = pc_fail(PC_ERR_INPUT, "'%s' has %lld bytes, more than the %zu expected at most", path,
                     (long long)info.st_size, limit);
        goto out;
    }
    for (;;) {
        if (!data || used == capacity) {
            if (data) capacity *= 2;
            char *grown = realloc(data, capacity + 1);
            if (!grown) {
                st = pc_fail(PC_ERR_MEMORY, "'%s': %zu bytes to read it into", path, capacity);
                goto out;
            }
            data = grown;
        }
        const ssize_t got = read(fd, data + used, capacity - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            st = pc_fail_errno("'%s' cannot be read", path);
            goto out;
        }
        if (got == 0) break;
        used += (size_t)got;
        if (used > limit) {
            st = pc_fail(PC_ERR_INPUT, "'%s' has more than the %zu bytes expected at most", path,
                         limit);
            goto out;
        }
    }
    data[used] = '\0';
    *out = data;
    *size = used;
    data = NULL;
out:
    free(data);
    close(fd);
    return st;
}

pc_status pc_file_temp(char *tmp, size_t size, const char *path)
{
    const int n = snprintf(tmp, size, "%s.part", path);
    if (n < 0 || (size_t)n >= size)
        return pc_fail(PC_ERR_INPUT, "'%.80s...': a path of %d characters is too long", path, n);
    return PC_OK;
}

static pc_status sync_dir_of(const char *path)
{
    char dir[PATH_MAX];
    if (strlen(path) >= sizeof dir) return pc_fail(PC_ERR_INPUT, "'%.80s...' is too long", path);
    strcpy(dir, path);
    char *slash = strrchr(dir, '/');
    if (slash == dir)
        dir[1] = '\0';
    else if (slash)
        *slash = '\0';
    else
        strcpy(dir, ".");
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return pc_fail_errno("directory '%s'", dir);
    // Some file systems have no fsync for directories; that is no failure of ours.
    const int failed = fsync(fd) && errno != EINVAL && errno != ENOTSUP;
    if (failed) pc_fail_errno("directory '%s' cannot be synced", dir);
    close(fd);
    return failed ? PC_ERR_IO : PC_OK;
}

pc_status pc_file_commit(const char *tmp, const char *path)
{
    pc_status st = PC_OK;
    const int fd = open(tmp, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return pc_fail_errno("'%s' cannot be opened", tmp);
    if (fsync(fd)) st = pc_fail_errno("'%s' cannot be synced", tmp);
    close(fd);
    if (!st && rename(tmp, path)) st = pc_fail_errno("'%s' cannot be renamed to '%s'", tmp, path);
    if (st) {
        unlink(tmp);
        return st;
    }
    return sync_dir_of(path);
}

pc_status pc_file_write(const char *path, const void *data, size_t size)
{
    char tmp[PATH_MAX];
    pc_status st = pc_file_temp(tmp, sizeof tmp, path);
    if (st) return st;
    const int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return pc_fail_errno("'%s' cannot be written", path);
    const char *bytes = data;
    for (size_t done = 0; done < size && !st;) {
        const ssize_t put = write(fd, bytes + done, size - done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) st = pc_fail_errno("'%s' cannot be written", path);
        if (put > 0) done += (size_t)put;
    }
    if (close(fd) && !st) st = pc_fail_errno("'%s' cannot be written", path);
    if (st) {
        unlink(tmp);
        return st;
    }
    return pc_file_commit(tmp, path);
}

pc_status pc_make_dirs(const char *path)
{
    char part[PATH_MAX];
    const size_t length = strlen(path);
    if (length == 0) return pc_fail(PC_ERR_INPUT, "an empty path names no directory");
    if (length >= sizeof part) return pc_fail(PC_ERR_INPUT, "'%.80s...' is too long", path);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) && errno != EEXIST && !pc_is_dir(part))
            return pc_fail_errno("directory '%s' cannot be made", part);
    }
    if (!pc_is_dir(path)) return pc_fail(PC_ERR_IO, "'%s' is there and is no directory", path);
    return PC_OK;
}

bool pc_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool pc_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

pc_status pc_path_inside(char *out, size_t size, const char *dir, const char *name)
{
    if (!*name) return pc_fail(PC_ERR_INPUT, "an empty file name");
    if (*name == '/')
        return pc_fail(PC_ERR_INPUT, "'%s' is absolute; names are relative to '%s'", name, dir);
    int depth = 0; // below `dir`, after each component
    for (const char *p = name; *p;) {
        const size_t length = strcspn(p, "/");
        if (length == 2 && p[0] == '.' && p[1] == '.')
            depth--;
        else if (length > 0 && !(length == 1 && p[0] == '.'))
            depth++;
        if (depth < 0) return pc_fail(PC_ERR_INPUT, "'%s' leads out of the folder '%s'", name, dir);
        p += length;
        p += *p == '/';
    }
    const int n = snprintf(out, size, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= size)
        return pc_fail(PC_ERR_INPUT, "'%s/%.80s...': a path of %d characters is too long", dir,
                       name, n);
    return PC_OK;
}

/* SHA-256. The constants are the first 32 bits of the fractions of the roots of the first primes. */
typedef struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    unsigned char block[64];
    size_t filled;
} sha256;

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha_block(sha256 *s, const unsigned char *p)
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
               (uint32_t)p[4 * i + 2] << 8 | (uint32_t)p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        const uint32_t a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        const uint32_t b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    uint32_t v[8];
    memcpy(v, s->state, sizeof v);
    for (int i = 0; i < 64; i++) {
        const uint32_t e = v[4], a = v[0];
        const uint32_t t1 = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                            ((e & v[5]) ^ (~e & v[6])) + sha_k[i] + w[i];
        const uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                            ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) s->state[i] += v[i];
}

static void sha_open(sha256 *s)
{
    *s = (sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
                            0x1f83d9ab, 0x5be0cd19}};
}

static void sha_add(sha256 *s, const unsigned char *data, size_t size)
{
    s->bytes += size;
    while (size > 0) {
        const size_t room = sizeof s->block - s->filled, n = size < room ? size : room;
        memcpy(s->block + s->filled, data, n);
        s->filled += n;
        data += n;
        size -= n;
        if (s->filled == sizeof s->block) {
            sha_block(s, s->block);
            s->filled = 0;
        }
    }
}

static void sha_close(sha256 *s, char out[65])
{
    const uint64_t bits = s->bytes * 8;
    const unsigned char one = 0x80, zero = 0;
    sha_add(s, &one, 1);
    while (s->filled != 56) sha_add(s, &zero, 1);
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)(bits >> (56 - 8 * i));
    sha_add(s, length, 8);
    for (int i = 0; i < 8; i++) snprintf(out + 8 * i, 9, "%08x", (unsigned)s->state[i]);
}

void pc_sha256(char out[65], const void *data, size_t size)
{
    sha256 s;
    sha_open(&s);
    sha_add(&s, data, size);
    sha_close(&s, out);
}

pc_status pc_file_sha256(char out[65], const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return pc_fail_errno("'%s' cannot be opened", path);
    pc_status st = PC_OK;
    sha256 s;
    sha_open(&s);
    unsigned char buffer[16384];
    size_t got;
    while ((got = fread(buffer, 1, sizeof buffer, f)) > 0) sha_add(&s, buffer, got);
    if (ferror(f)) st = pc_fail_errno("'%s' cannot be read", path);
    fclose(f);
    sha_close(&s, out);
    return st;
}

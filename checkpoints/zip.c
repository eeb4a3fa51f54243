/*
 * zip.c - see zip.h.
 */
#include "checkpoints/zip.h"

#include <stdlib.h>
#include <string.h>

enum { END_SIZE = 22, END64_SIZE = 56, LOCATOR_SIZE = 20, ENTRY_SIZE = 46, LOCAL_SIZE = 30 };

static uint64_t little(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static bool is(const unsigned char *p, const char *signature)
{
    return !memcmp(p, signature, 4);
}

typedef struct directory {
    uint64_t count, size, offset;
} directory;

// The end record stands last, before a comment of at most 64 KB.
static pc_status find_end(size_t *at, const unsigned char *base, size_t size)
{
    if (size < END_SIZE) return pc_fail(PC_ERR_FORMAT, "%zu bytes are no ZIP archive", size);
    const size_t last = size - END_SIZE, first = last > 65535 ? last - 65535 : 0;
    for (size_t i = last + 1; i-- > first;)
        if (is(base + i, "PK\5\6") && little(base + i + 20, 2) == last - i) {
            *at = i;
            return PC_OK;
        }
    return pc_fail(PC_ERR_FORMAT, "no end of a ZIP archive: cut short, or something else");
}

static pc_status read_end(directory *d, const unsigned char *base, size_t size)
{
    size_t at = 0;
    pc_status st = find_end(&at, base, size);
    if (st) return st;
    const unsigned char *p = base + at;
    d->count = little(p + 10, 2);
    d->size = little(p + 12, 4);
    d->offset = little(p + 16, 4);
    if (at >= LOCATOR_SIZE && is(p - LOCATOR_SIZE, "PK\6\7")) {
        const uint64_t end64 = little(p - LOCATOR_SIZE + 8, 8);
        if (end64 > size || size - end64 < END64_SIZE || !is(base + end64, "PK\6\6"))
            return pc_fail(PC_ERR_FORMAT, "ZIP: the ZIP64 record is not where it is said to be");
        d->count = little(base + end64 + 32, 8);
        d->size = little(base + end64 + 40, 8);
        d->offset = little(base + end64 + 48, 8);
    }
    if (d->offset > size || d->size > size - d->offset || d->count > d->size / ENTRY_SIZE)
        return pc_fail(PC_ERR_FORMAT, "ZIP: a directory of %llu members in %llu bytes at %llu",
                       (unsigned long long)d->count, (unsigned long long)d->size,
                       (unsigned long long)d->offset);
    return PC_OK;
}

// Fields that are all ones stand in the ZIP64 extra field, in this order, when they are there.
static pc_status wide_fields(uint64_t *plain, uint64_t *packed, uint64_t *offset,
                             const unsigned char *extra, size_t size)
{
    uint64_t *const fields[3] = {plain, packed, offset};
    while (size >= 4) {
        const uint64_t id = little(extra, 2), n = little(extra + 2, 2);
        if (n > size - 4) break;
        if (id == 1) {
            size_t at = 4, left = (size_t)n;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != 0xFFFFFFFFu) continue;
                if (left < 8) return pc_fail(PC_ERR_FORMAT, "its ZIP64 field is too short");
                *fields[i] = little(extra + at, 8);
                at += 8;
                left -= 8;
            }
            return PC_OK;
        }
        extra += 4 + n;
        size -= 4 + (size_t)n;
    }
    return *plain == 0xFFFFFFFFu || *packed == 0xFFFFFFFFu || *offset == 0xFFFFFFFFu
               ? pc_fail(PC_ERR_FORMAT, "its ZIP64 field is missing")
               : PC_OK;
}

static pc_status locate(pc_zip_member *m, const unsigned char *base, size_t size, uint64_t offset,
                        uint64_t bytes)
{
    if (offset > size || size - offset < LOCAL_SIZE || !is(base + offset, "PK\3\4"))
        return pc_fail(PC_ERR_FORMAT, "it is not where the directory says");
    const unsigned char *p = base + offset;
    const uint64_t begin = offset + LOCAL_SIZE + little(p + 26, 2) + little(p + 28, 2);
    if (little(p + 26, 2) != m->name_size || size - offset - LOCAL_SIZE < m->name_size ||
        memcmp(p + LOCAL_SIZE, m->name, m->name_size) != 0)
        return pc_fail(PC_ERR_FORMAT, "its own header has another name");
    if (begin > size || bytes > size - begin)
        return pc_fail(PC_ERR_FORMAT, "its %llu bytes end behind the end of the file",
                       (unsigned long long)bytes);
    m->data = base + begin;
    m->size = (size_t)bytes;
    return PC_OK;
}

// One entry of the directory; *used bytes of it.
static pc_status read_entry(pc_zip_member *m, size_t *used, const unsigned char *p, size_t left,
                            const unsigned char *base, size_t size)
{
    if (left < ENTRY_SIZE || !is(p, "PK\1\2"))
        return pc_fail(PC_ERR_FORMAT, "ZIP: the directory ends early");
    const size_t name = (size_t)little(p + 28, 2), extra = (size_t)little(p + 30, 2),
                 comment = (size_t)little(p + 32, 2);
    if (name + extra + comment > left - ENTRY_SIZE)
        return pc_fail(PC_ERR_FORMAT, "ZIP: the directory ends early");
    *used = ENTRY_SIZE + name + extra + comment;
    m->name = (const char *)p + ENTRY_SIZE;
    m->name_size = name;
    uint64_t packed = little(p + 20, 4), plain = little(p + 24, 4), offset = little(p + 42, 4);
    pc_status st = wide_fields(&plain, &packed, &offset, p + ENTRY_SIZE + name, extra);
    if (!st && (little(p + 8, 2) & 1u)) st = pc_fail(PC_ERR_FORMAT, "it is encrypted");
    if (!st && (little(p + 10, 2) != 0 || plain != packed))
        st = pc_fail(PC_ERR_FORMAT, "it is compressed, which PyTorch never does");
    if (!st) st = locate(m, base, size, offset, plain);
    return pc_context(st, "ZIP: member '%.*s'", (int)(name < 200 ? name : 200), m->name);
}

static int compare(const char *a, size_t n, const char *b, size_t k)
{
    const int order = memcmp(a, b, n < k ? n : k);
    return order ? order : n < k ? -1 : n > k;
}

static int by_name(const void *a, const void *b)
{
    const pc_zip_member *x = a, *y = b;
    return compare(x->name, x->name_size, y->name, y->name_size);
}

pc_status pc_zip_open(pc_zip *out, const unsigned char *base, size_t size)
{
    directory d = {0};
    *out = (pc_zip){0};
    pc_status st = read_end(&d, base, size);
    if (st) return st;
    out->list = calloc((size_t)d.count + 1, sizeof *out->list);
    if (!out->list) return pc_fail(PC_ERR_MEMORY, "ZIP: %llu members", (unsigned long long)d.count);
    size_t at = (size_t)d.offset;
    const size_t end = at + (size_t)d.size;
    for (uint64_t i = 0; i < d.count && !st; i++) {
        size_t used = 0;
        st = read_entry(&out->list[i], &used, base + at, end - at, base, size);
        at += used;
        out->count += !st;
    }
    if (!st && out->count > 1) qsort(out->list, out->count, sizeof *out->list, by_name);
    for (size_t i = 1; i < out->count && !st; i++)
        if (!by_name(&out->list[i - 1], &out->list[i]))
            st = pc_fail(PC_ERR_FORMAT, "ZIP: member '%.*s' is there twice",
                         (int)(out->list[i].name_size < 200 ? out->list[i].name_size : 200),
                         out->list[i].name);
    if (st) pc_zip_close(out);
    return st;
}

void pc_zip_close(pc_zip *z)
{
    free(z->list);
    *z = (pc_zip){0};
}

const pc_zip_member *pc_zip_find(const pc_zip *z, const char *name, size_t name_size)
{
    size_t lo = 0, hi = z->count;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const pc_zip_member *m = &z->list[mid];
        const int order = compare(m->name, m->name_size, name, name_size);
        if (!order) return m;
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

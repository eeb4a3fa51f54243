/*
 * gguf.c - the reader of GGUF files; see gguf.h.
 *
 * One cursor walks the header once, each step bounded by the end of the file; lengths and counts are compared with the
 * bytes that are left before they are used. Beside the mapping only offsets are kept, sorted by name: a key takes at
 * least 14 bytes of the file and a tensor 25, the index 8 and 16.
 */
#include "checkpoints/gguf.h"

#include "model/core/file.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_MAX       65535u
#define ALIGN_DEFAULT 32u
#define ALIGN_MAX     (1u << 30)
#define KEY_LEAST     14u // bytes: length, one character, type, one byte
#define TENSOR_LEAST  25u // bytes: length, one character, rank 0, type, offset

struct pc_gguf {
    const unsigned char *base;
    size_t size;
    bool mapped;
    char *path;
    int version;
    size_t data;    // where the data section begins
    uint64_t *keys; // sorted by name
    uint64_t *infos, *infos_by_name;
    int64_t key_count, count;
};

static const struct {
    const char *name;
    unsigned bytes; // 0: not of one size
} KINDS[PC_GGUF_KINDS] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},    {"u32", 4},
                          {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 0}, {"array", 0},
                          {"u64", 8}, {"i64", 8}, {"f64", 8}};

const char *pc_gguf_kind_name(pc_gguf_kind k)
{
    return (unsigned)k < PC_GGUF_KINDS ? KINDS[k].name : "unknown";
}

static uint64_t get(const unsigned char *p, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = bytes; i-- > 0;) v = v << 8 | p[i];
    return v;
}

/* ---- the cursor ---- */

typedef struct cursor {
    const unsigned char *base;
    size_t at, size;
} cursor;

static size_t left(const cursor *c)
{
    return c->size - c->at;
}

static pc_status ends(const cursor *c, const char *what)
{
    return pc_fail(PC_ERR_FORMAT, "the file ends at byte %zu inside %s", c->size, what);
}

static pc_status take(uint64_t *v, cursor *c, unsigned bytes, const char *what)
{
    if (left(c) < bytes) return ends(c, what);
    *v = get(c->base + c->at, bytes);
    c->at += bytes;
    return PC_OK;
}

static pc_status take_span(pc_gguf_span *s, cursor *c, const char *what)
{
    uint64_t n = 0;
    const pc_status st = take(&n, c, 8, what);
    if (st) return st;
    if (n > left(c))
        return pc_fail(PC_ERR_FORMAT, "%s at byte %zu is %llu bytes long, the file has %zu left",
                       what, c->at - 8, (unsigned long long)n, left(c));
    *s = (pc_gguf_span){(const char *)c->base + c->at, (size_t)n};
    c->at += (size_t)n;
    return PC_OK;
}

/* ---- keys ---- */

// Steps over `count` items of one kind.
static pc_status skip_items(cursor *c, pc_gguf_kind kind, uint64_t count)
{
    if (kind == PC_GGUF_STRING) {
        pc_gguf_span s;
        for (uint64_t i = 0; i < count; i++) {
            const pc_status st = take_span(&s, c, "a string");
            if (st) return st;
        }
        return PC_OK;
    }
    const unsigned bytes = KINDS[kind].bytes;
    if (count > left(c) / bytes)
        return pc_fail(PC_ERR_FORMAT, "%llu items of %s do not fit the %zu bytes left",
                       (unsigned long long)count, KINDS[kind].name, left(c));
    if (kind == PC_GGUF_BOOL)
        for (uint64_t i = 0; i < count; i++)
            if (c->base[c->at + i] > 1)
                return pc_fail(PC_ERR_FORMAT, "a bool is %u; expected 0 or 1", c->base[c->at + i]);
    c->at += (size_t)count * bytes;
    return PC_OK;
}

static pc_status take_kind(pc_gguf_kind *out, cursor *c, const char *what)
{
    uint64_t k = 0;
    const pc_status st = take(&k, c, 4, what);
    if (st) return st;
    if (k >= PC_GGUF_KINDS)
        return pc_fail(PC_ERR_FORMAT, "%s is %llu; expected 0 to %d", what, (unsigned long long)k,
                       PC_GGUF_KINDS - 1);
    *out = (pc_gguf_kind)k;
    return PC_OK;
}

// A value up to its first item.
static pc_status take_head(pc_gguf_value *v, cursor *c)
{
    pc_status st = take_kind(&v->kind, c, "the type of a value");
    if (st) return st;
    v->item = v->kind;
    v->count = 1;
    if (v->kind == PC_GGUF_ARRAY) {
        if ((st = take_kind(&v->item, c, "the type of an array's items")) ||
            (st = take(&v->count, c, 8, "the length of an array")))
            return st;
        if (v->item == PC_GGUF_ARRAY)
            return pc_fail(PC_ERR_FORMAT, "an array of arrays; expected items of another type");
        // A string takes 8 bytes at least: a count that cannot be is refused before the walk.
        if (v->item == PC_GGUF_STRING && v->count > left(c) / 8)
            return pc_fail(PC_ERR_FORMAT, "%llu strings do not fit the %zu bytes left",
                           (unsigned long long)v->count, left(c));
    }
    v->data = c->base + c->at;
    return PC_OK;
}

static pc_status take_value(pc_gguf_value *v, cursor *c)
{
    const pc_status st = take_head(v, c);
    return st ? st : skip_items(c, v->item, v->count);
}

static pc_status check_key(pc_gguf_span k)
{
    if (!k.size || k.size > KEY_MAX)
        return pc_fail(PC_ERR_FORMAT, "a key of %zu bytes; expected 1 to %u", k.size, KEY_MAX);
    for (size_t i = 0; i < k.size; i++) {
        const unsigned char x = (unsigned char)k.text[i];
        if (x <= ' ' || x >= 127 || (x >= 'A' && x <= 'Z'))
            return pc_fail(PC_ERR_FORMAT,
                           "key '%.*s': byte %zu is 0x%02x; keys are lower-case ASCII",
                           (int)(i < 80 ? i : 80), k.text, i, x);
    }
    return PC_OK;
}

static pc_status take_key(pc_gguf_value *v, cursor *c)
{
    pc_status st = take_span(&v->key, c, "a key");
    if (st || (st = check_key(v->key))) return st;
    return pc_context(take_value(v, c), "key '%.*s'", (int)(v->key.size < 200 ? v->key.size : 200),
                      v->key.text);
}

/* ---- tensors ---- */

static pc_status check_name(pc_gguf_span s)
{
    if (!s.size || s.size >= PC_GGUF_NAME)
        return pc_fail(PC_ERR_FORMAT, "a tensor's name of %zu bytes ('%.*s'); expected 1 to %d",
                       s.size, (int)(s.size < 80 ? s.size : 80), s.text, PC_GGUF_NAME - 1);
    if (memchr(s.text, '\0', s.size))
        return pc_fail(PC_ERR_FORMAT, "a tensor's name holds a NUL byte ('%.*s')", (int)s.size,
                       s.text);
    return PC_OK;
}

// Shape, numbers and bytes from the file's dims, which are fastest first.
static pc_status take_shape(pc_gguf_tensor *t, cursor *c)
{
    uint64_t rank = 0;
    pc_status st = take(&rank, c, 4, "a tensor's rank");
    if (st) return st;
    if (rank > PC_GGUF_RANK)
        return pc_fail(PC_ERR_FORMAT, "%llu dimensions; expected at most %d",
                       (unsigned long long)rank, PC_GGUF_RANK);
    t->rank = (int)rank;
    t->numel = t->row = 1;
    for (int i = 0; i < t->rank; i++) {
        uint64_t d = 0;
        if ((st = take(&d, c, 8, "a tensor's dimensions"))) return st;
        if (!d || d > INT64_MAX || __builtin_mul_overflow(t->numel, (int64_t)d, &t->numel))
            return pc_fail(PC_ERR_FORMAT,
                           "dimension %d is %llu; expected at least 1 and a product below 2^63", i,
                           (unsigned long long)d);
        t->dim[t->rank - 1 - i] = (int64_t)d;
        if (!i) t->row = (int64_t)d;
    }
    return PC_OK;
}

static pc_status take_type(pc_gguf_tensor *t, cursor *c)
{
    uint64_t id = 0;
    pc_status st = take(&id, c, 4, "a tensor's type");
    if (st) return st;
    t->type = id <= INT32_MAX ? pc_quant_find((int)id) : NULL;
    if (!t->type)
        return pc_fail(PC_ERR_FORMAT, "type %llu is not known here", (unsigned long long)id);
    if (t->row % t->type->block)
        return pc_fail(PC_ERR_FORMAT, "rows of %lld numbers; %s takes multiples of %lld",
                       (long long)t->row, t->type->name, (long long)t->type->block);
    int64_t bytes;
    if (__builtin_mul_overflow(t->numel / t->type->block, (int64_t)t->type->bytes, &bytes))
        return pc_fail(PC_ERR_FORMAT, "%lld numbers of %s are more bytes than 2^63",
                       (long long)t->numel, t->type->name);
    t->bytes = (size_t)bytes;
    return PC_OK;
}

// An info at the cursor; `offset` is relative to the data section.
static pc_status take_info(pc_gguf_tensor *t, uint64_t *offset, cursor *c)
{
    pc_gguf_span name;
    memset(t, 0, sizeof *t);
    pc_status st = take_span(&name, c, "a tensor's name");
    if (st || (st = check_name(name))) return st;
    memcpy(t->name, name.text, name.size);
    if ((st = take_shape(t, c)) || (st = take_type(t, c)) ||
        (st = take(offset, c, 8, "a tensor's offset")))
        return pc_context(st, "tensor '%s'", t->name);
    return PC_OK;
}

/* ---- the index ---- */

static pc_gguf_span span_at(const pc_gguf *g, uint64_t offset)
{
    return (pc_gguf_span){(const char *)g->base + offset + 8, (size_t)get(g->base + offset, 8)};
}

static int compare_spans(pc_gguf_span a, pc_gguf_span b)
{
    const int c = memcmp(a.text, b.text, a.size < b.size ? a.size : b.size);
    return c ? c : (a.size > b.size) - (a.size < b.size);
}

static int by_name(const void *a, const void *b, void *arg)
{
    const pc_gguf *g = arg;
    return compare_spans(span_at(g, *(const uint64_t *)a), span_at(g, *(const uint64_t *)b));
}

// Sorts offsets by the names they point at; a name that stands twice is an error.
static pc_status sort_names(pc_gguf *g, uint64_t *sorted, int64_t n, const char *what)
{
    if (n > 1) qsort_r(sorted, (size_t)n, sizeof *sorted, by_name, g);
    for (int64_t i = 1; i < n; i++) {
        const pc_gguf_span s = span_at(g, sorted[i]);
        if (!compare_spans(span_at(g, sorted[i - 1]), s))
            return pc_fail(PC_ERR_FORMAT, "%s '%.*s' stands twice", what,
                           (int)(s.size < 200 ? s.size : 200), s.text);
    }
    return PC_OK;
}

// -1: none.
static int64_t find_name(const pc_gguf *g, const uint64_t *sorted, int64_t n, const char *name)
{
    const pc_gguf_span want = {name, strlen(name)};
    int64_t lo = 0, hi = n;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        const int c = compare_spans(span_at(g, sorted[mid]), want);
        if (!c) return (int64_t)sorted[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

static pc_status table(uint64_t **out, int64_t n, const char *what)
{
    *out = malloc((size_t)(n ? n : 1) * sizeof **out);
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "table of %lld %s", (long long)n, what);
}

/* ---- opening ---- */

static pc_status read_counts(pc_gguf *g, cursor *c)
{
    uint64_t version = 0, tensors = 0, keys = 0;
    pc_status st;
    if (g->size < 4 || memcmp(g->base, "GGUF", 4))
        return pc_fail(PC_ERR_FORMAT, "the file does not begin with \"GGUF\"");
    c->at = 4;
    if ((st = take(&version, c, 4, "the version"))) return st;
    if (version && !(version & 0xFFFFu))
        return pc_fail(PC_ERR_FORMAT, "version 0x%08llx: the file is big-endian, which is not read",
                       (unsigned long long)version);
    if (version != 2 && version != 3)
        return pc_fail(PC_ERR_FORMAT, "version %llu; expected 2 or 3", (unsigned long long)version);
    g->version = (int)version;
    if ((st = take(&tensors, c, 8, "the number of tensors")) ||
        (st = take(&keys, c, 8, "the number of keys")))
        return st;
    if (keys > left(c) / KEY_LEAST)
        return pc_fail(PC_ERR_FORMAT, "%llu keys do not fit the %zu bytes left",
                       (unsigned long long)keys, left(c));
    if (tensors > left(c) / TENSOR_LEAST)
        return pc_fail(PC_ERR_FORMAT, "%llu tensors do not fit the %zu bytes left",
                       (unsigned long long)tensors, left(c));
    g->key_count = (int64_t)keys;
    g->count = (int64_t)tensors;
    return PC_OK;
}

static pc_status read_keys(pc_gguf *g, cursor *c)
{
    pc_status st = table(&g->keys, g->key_count, "keys");
    for (int64_t i = 0; i < g->key_count && !st; i++) {
        pc_gguf_value v;
        g->keys[i] = c->at;
        if ((st = take_key(&v, c)))
            return pc_context(st, "key %lld of %lld", (long long)i + 1, (long long)g->key_count);
    }
    return st ? st : sort_names(g, g->keys, g->key_count, "key");
}

static pc_status alignment(uint64_t *out, const pc_gguf *g)
{
    pc_gguf_value v;
    *out = ALIGN_DEFAULT;
    if (!pc_gguf_get(&v, g, "general.alignment")) return PC_OK;
    if (v.kind != PC_GGUF_U32)
        return pc_fail(PC_ERR_FORMAT, "key 'general.alignment' is %s; expected u32",
                       KINDS[v.kind].name);
    const uint64_t a = get(v.data, 4);
    if (!a || a > ALIGN_MAX || (a & (a - 1)))
        return pc_fail(PC_ERR_FORMAT, "key 'general.alignment' is %llu; expected a power of two",
                       (unsigned long long)a);
    *out = a;
    return PC_OK;
}

typedef struct extent {
    const pc_gguf *g;
    uint64_t begin;
    size_t bytes;
} extent;

static extent extent_of(const pc_gguf *g, uint64_t info)
{
    cursor c = {g->base, (size_t)info, g->size};
    pc_gguf_tensor t;
    extent e = {.g = g};
    if (!take_info(&t, &e.begin, &c)) e.bytes = t.bytes; // was read once before: cannot fail
    return e;
}

static int by_place(const void *a, const void *b, void *arg)
{
    const extent x = extent_of(arg, *(const uint64_t *)a), y = extent_of(arg, *(const uint64_t *)b);
    if (x.begin != y.begin) return x.begin < y.begin ? -1 : 1;
    return (x.bytes > y.bytes) - (x.bytes < y.bytes);
}

// No byte belongs to two tensors. `order` is room for as many offsets as there are tensors.
static pc_status check_overlap(pc_gguf *g, uint64_t *order)
{
    bool sorted = true;
    for (int64_t i = 0; i < g->count; i++) {
        order[i] = g->infos[i];
        sorted = sorted && (!i || by_place(&order[i - 1], &order[i], g) <= 0);
    }
    if (!sorted) qsort_r(order, (size_t)g->count, sizeof *order, by_place, g);
    for (int64_t i = 1; i < g->count; i++) {
        const extent a = extent_of(g, order[i - 1]), b = extent_of(g, order[i]);
        if (b.begin - a.begin >= a.bytes) continue;
        const pc_gguf_span x = span_at(g, order[i - 1]), y = span_at(g, order[i]);
        return pc_fail(PC_ERR_FORMAT, "tensors '%.*s' and '%.*s' overlap", (int)x.size, x.text,
                       (int)y.size, y.text);
    }
    return PC_OK;
}

static pc_status check_place(const pc_gguf_tensor *t, uint64_t offset, uint64_t align, size_t room)
{
    if (offset % align)
        return pc_fail(PC_ERR_FORMAT, "tensor '%s': offset %llu is no multiple of %llu", t->name,
                       (unsigned long long)offset, (unsigned long long)align);
    if (offset > room || t->bytes > room - offset)
        return pc_fail(PC_ERR_FORMAT,
                       "tensor '%s': %zu bytes at %llu, the data section has %zu bytes", t->name,
                       t->bytes, (unsigned long long)offset, room);
    return PC_OK;
}

static pc_status read_infos(pc_gguf *g, cursor *c)
{
    uint64_t align = 0, offset = 0;
    pc_gguf_tensor t;
    pc_status st;
    if ((st = alignment(&align, g)) || (st = table(&g->infos, g->count, "tensors")) ||
        (st = table(&g->infos_by_name, g->count, "tensors")))
        return st;
    for (int64_t i = 0; i < g->count; i++) {
        g->infos[i] = c->at;
        if ((st = take_info(&t, &offset, c)))
            return pc_context(st, "tensor %lld of %lld", (long long)i + 1, (long long)g->count);
    }
    const uint64_t begin = (c->at + align - 1) / align * align;
    g->data = begin < g->size ? (size_t)begin : g->size;
    for (int64_t i = 0; i < g->count; i++) {
        cursor again = {g->base, (size_t)g->infos[i], g->size};
        if ((st = take_info(&t, &offset, &again)) ||
            (st = check_place(&t, offset, align, g->size - g->data)))
            return st;
    }
    if ((st = check_overlap(g, g->infos_by_name))) return st;
    return sort_names(g, g->infos_by_name, g->count, "tensor");
}

static pc_status read_all(pc_gguf *g)
{
    cursor c = {g->base, 0, g->size};
    pc_status st = read_counts(g, &c);
    if (!st) st = read_keys(g, &c);
    if (!st) st = read_infos(g, &c);
    return st;
}

static pc_status map_file(pc_gguf *g, const char *path)
{
    struct stat s;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return pc_fail_errno("cannot open");
    pc_status st = PC_OK;
    if (fstat(fd, &s) != 0)
        st = pc_fail_errno("cannot stat");
    else if (!S_ISREG(s.st_mode))
        st = pc_fail(PC_ERR_INPUT, "not a regular file");
    else if (!s.st_size)
        st = pc_fail(PC_ERR_FORMAT, "the file is empty");
    if (!st) {
        void *base = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (base == MAP_FAILED)
            st = pc_fail_errno("cannot map");
        else
            *g = (pc_gguf){.base = base, .size = (size_t)s.st_size, .mapped = true};
    }
    close(fd);
    return st;
}

static pc_status open_either(pc_gguf **out, const char *path, const void *bytes, size_t size)
{
    *out = NULL;
    pc_gguf *g = calloc(1, sizeof *g);
    if (!g) return pc_fail(PC_ERR_MEMORY, "GGUF handle");
    pc_status st = PC_OK;
    if (bytes)
        *g = (pc_gguf){.base = bytes, .size = size};
    else
        st = map_file(g, path);
    if (!st && !(g->path = strdup(path))) st = pc_fail(PC_ERR_MEMORY, "GGUF handle");
    if (!st) st = read_all(g);
    if (st) {
        pc_gguf_close(g);
        return pc_context(st, "'%s'", path);
    }
    *out = g;
    return PC_OK;
}

pc_status pc_gguf_open(pc_gguf **out, const char *path)
{
    return open_either(out, path, NULL, 0);
}

pc_status pc_gguf_open_memory(pc_gguf **out, const void *bytes, size_t size)
{
    return open_either(out, "memory", bytes ? bytes : "", bytes ? size : 0);
}

void pc_gguf_close(pc_gguf *g)
{
    if (!g) return;
    if (g->mapped) munmap((void *)(uintptr_t)g->base, g->size);
    free(g->keys);
    free(g->infos);
    free(g->infos_by_name);
    free(g->path);
    free(g);
}

const char *pc_gguf_path(const pc_gguf *g)
{
    return g->path;
}

int pc_gguf_version(const pc_gguf *g)
{
    return g->version;
}

/* ---- tensors ---- */

int64_t pc_gguf_count(const pc_gguf *g)
{
    return g->count;
}

static pc_gguf_tensor tensor_at(const pc_gguf *g, uint64_t info)
{
    cursor c = {g->base, (size_t)info, g->size};
    pc_gguf_tensor t;
    uint64_t offset = 0;
    const pc_status st = take_info(&t, &offset, &c);
    PC_ASSERT(!st, "a tensor's info that was read before: %s", pc_error_text());
    t.data = g->base + g->data + offset;
    return t;
}

pc_gguf_tensor pc_gguf_at(const pc_gguf *g, int64_t i)
{
    PC_ASSERT(i >= 0 && i < g->count, "tensor %lld of %lld", (long long)i, (long long)g->count);
    return tensor_at(g, g->infos[i]);
}

bool pc_gguf_find(pc_gguf_tensor *out, const pc_gguf *g, const char *name)
{
    const int64_t info = find_name(g, g->infos_by_name, g->count, name);
    if (info >= 0) *out = tensor_at(g, (uint64_t)info);
    return info >= 0;
}

pc_status pc_gguf_floats(float *out, const pc_gguf_tensor *t, int64_t begin, int64_t n)
{
    const pc_quant_type *q = t->type;
    if (!q->decodes)
        return pc_fail(PC_ERR_FORMAT, "tensor '%s' is %s, which is not read as numbers", t->name,
                       q->name);
    PC_ASSERT(begin >= 0 && n >= 0 && begin <= t->numel && n <= t->numel - begin &&
                  begin % q->block == 0,
              "numbers %lld to %lld of %lld", (long long)begin, (long long)(begin + n),
              (long long)t->numel);
    pc_quant_decode(q, out, (const char *)t->data + pc_quant_bytes(q, begin), n);
    return PC_OK;
}

/* ---- keys ---- */

int64_t pc_gguf_key_count(const pc_gguf *g)
{
    return g->key_count;
}

static pc_gguf_value value_at(const pc_gguf *g, uint64_t offset)
{
    cursor c = {g->base, (size_t)offset, g->size};
    pc_gguf_value v;
    pc_status st = take_span(&v.key, &c, "a key");
    if (!st) st = take_head(&v, &c);
    PC_ASSERT(!st, "a key that was read before: %s", pc_error_text());
    return v;
}

pc_gguf_value pc_gguf_key_at(const pc_gguf *g, int64_t i)
{
    PC_ASSERT(i >= 0 && i < g->key_count, "key %lld of %lld", (long long)i,
              (long long)g->key_count);
    return value_at(g, g->keys[i]);
}

bool pc_gguf_get(pc_gguf_value *out, const pc_gguf *g, const char *key)
{
    const int64_t at = find_name(g, g->keys, g->key_count, key);
    if (at >= 0) *out = value_at(g, (uint64_t)at);
    return at >= 0;
}

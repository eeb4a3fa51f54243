/*
 * safetensors.c - the reader of safetensors files; the writer is safetensors_write.c.
 *
 *   u64 header length (little-endian) | header, a JSON object | data
 *   name -> {"dtype": "F32", "shape": [3,5], "data_offsets": [begin, end]}, offsets from the first data byte
 *
 * Nothing is believed before it is checked: lengths against the file, offsets against shapes, and the
 * tensors together must cover the data without holes or overlap. Files are mapped read-only; data need
 * not be aligned, so numbers are read byte-wise. A sharded set is several such files and an index.
 */
#include "checkpoints/tensor_set.h"
#include "checkpoints/numbers.h"
#include "checkpoints/pickle.h"

#include "model/core/file.h"
#include "model/core/log.h"
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MAX 100000000u // bytes: the format's own limit
#define RANK_MAX   8
#define SHARDS_MAX 4096

static const struct {
    const char *name;
    unsigned bits;
} DTYPES[] = {
    {"BOOL", 8},    {"U8", 8},   {"I8", 8},   {"F8_E4M3", 8}, {"F8_E5M2", 8},
    {"F8_E8M0", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16},    {"BF16", 16},
    {"I32", 32},    {"U32", 32}, {"F32", 32}, {"I64", 64},    {"U64", 64},
    {"F64", 64},    {"C64", 64}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6},
};

// Bits of one element; 0 for an unknown type.
static unsigned dtype_bits(const char *name)
{
    for (size_t i = 0; i < sizeof DTYPES / sizeof *DTYPES; i++)
        if (!strcmp(name, DTYPES[i].name)) return DTYPES[i].bits;
    return 0;
}

static uint64_t read_u64(const unsigned char *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* ---- one file ---- */

static pc_status parse_header(pc_mapping *m, size_t *data_start)
{
    PC_ASSERT(m->base && m->size >= 8, "%zu bytes mapped", m->size);
    const uint64_t length = read_u64(m->base);
    if (length > HEADER_MAX)
        return pc_fail(PC_ERR_FORMAT, "header length is %llu bytes, at most %u allowed",
                       (unsigned long long)length, HEADER_MAX);
    if (length > m->size - 8)
        return pc_fail(PC_ERR_FORMAT,
                       "header length is %llu bytes, but only %zu follow in the file",
                       (unsigned long long)length, m->size - 8);
    const char *text = (const char *)m->base + 8;
    if (length == 0 || text[0] != '{')
        return pc_fail(PC_ERR_FORMAT, "header does not begin with '{'");
    json_error_t e;
    m->header = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &e);
    if (!m->header)
        return pc_fail(PC_ERR_FORMAT, "header is not valid JSON: line %d, column %d: %s", e.line,
                       e.column, e.text);
    *data_start = 8 + (size_t)length;
    return PC_OK;
}

static pc_status check_metadata(const json_t *value)
{
    if (!json_is_object(value))
        return pc_fail(PC_ERR_FORMAT, "__metadata__ is not an object of strings");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)value, key, v) if (!json_is_string(v)) return pc_fail(
        PC_ERR_FORMAT, "__metadata__ key '%.100s' is not a string", key);
    return PC_OK;
}

// An entry of the header, checked against the size of the data.
static pc_status parse_entry(pc_st_entry *e, const char *name, const json_t *v,
                             const unsigned char *data, size_t data_size)
{
    *e = (pc_st_entry){.name = name};
    const json_t *dtype = json_object_get(v, "dtype"), *shape = json_object_get(v, "shape"),
                 *offsets = json_object_get(v, "data_offsets");
    if (!json_is_object(v) || json_object_size(v) != 3 || !json_is_string(dtype) ||
        !json_is_array(shape) || !json_is_array(offsets))
        return pc_fail(PC_ERR_FORMAT, "expected exactly dtype, shape and data_offsets");
    const unsigned bits = dtype_bits(json_string_value(dtype));
    if (!bits) return pc_fail(PC_ERR_FORMAT, "unknown dtype '%.40s'", json_string_value(dtype));
    const size_t rank = json_array_size(shape);
    if (rank > RANK_MAX)
        return pc_fail(PC_ERR_FORMAT, "%zu dimensions, at most %d supported", rank, RANK_MAX);

    e->dtype = json_string_value(dtype);
    e->rank = (int)rank;
    uint64_t n = bits;
    for (size_t i = 0; i < rank; i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return pc_fail(PC_ERR_FORMAT, "shape entry %zu is not a non-negative integer", i);
        e->dim[i] = json_integer_value(d);
        if (__builtin_mul_overflow(n, (uint64_t)e->dim[i], &n))
            return pc_fail(PC_ERR_FORMAT, "its shape does not fit 64 bits");
    }
    if (n % 8) return pc_fail(PC_ERR_FORMAT, "its shape ends within a byte");
    n /= 8;

    const json_t *b = json_array_get(offsets, 0), *f = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(f) ||
        json_integer_value(b) < 0 || json_integer_value(f) < 0)
        return pc_fail(PC_ERR_FORMAT, "data_offsets are not two non-negative integers");
    const uint64_t begin = (uint64_t)json_integer_value(b), end = (uint64_t)json_integer_value(f);
    if (begin > end)
        return pc_fail(PC_ERR_FORMAT, "data_offsets [%llu, %llu] run backwards",
                       (unsigned long long)begin, (unsigned long long)end);
    if (end > data_size)
        return pc_fail(PC_ERR_FORMAT, "data end at %llu, but the file holds %zu bytes of data",
                       (unsigned long long)end, data_size);
    if (end - begin != n)
        return pc_fail(PC_ERR_FORMAT, "data_offsets hold %llu bytes, dtype and shape need %llu",
                       (unsigned long long)(end - begin), (unsigned long long)n);
    e->data = data + begin;
    e->bytes = (size_t)n;
    return PC_OK;
}

static int by_data(const void *a, const void *b)
{
    const pc_st_entry *x = a, *y = b;
    const unsigned char *p = x->data, *q = y->data;
    if (p != q) return p < q ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; // empty ones first
}

// Together the entries must cover the data: no holes, no overlap, nothing behind the last.
static pc_status check_cover(pc_st_entry *list, int64_t n, const unsigned char *data, size_t size)
{
    if (n > 1) qsort(list, (size_t)n, sizeof *list, by_data);
    const unsigned char *end = data;
    for (int64_t i = 0; i < n; i++) {
        const unsigned char *begin = list[i].data;
        if (begin != end)
            return pc_fail(PC_ERR_FORMAT, "tensor '%.200s' begins at byte %zu, %s at %zu",
                           list[i].name, (size_t)(begin - data),
                           begin < end ? "overlapping the one that ends"
                                       : "leaving a hole after the one that ends",
                           (size_t)(end - data));
        end = begin + list[i].bytes;
    }
    if (end != data + size)
        return pc_fail(PC_ERR_FORMAT,
                       "%zu bytes behind the last tensor (data are %zu bytes, tensors %zu)",
                       (size_t)(data + size - end), size, (size_t)(end - data));
    return PC_OK;
}

// Maps one file and appends its entries.
static pc_status add_file(pc_safetensors *s, const char *path)
{
    pc_status st = PC_OK;
    pc_mapping *m = NULL;
    size_t start = 0;
    if ((st = pc_set_map(s, &m, path, 8))) return st;
    if (pc_pickle_is(m->base, m->size)) return pc_pickle_add(s, s->files - 1);
    if ((st = parse_header(m, &start)) || (st = pc_set_reserve(s, json_object_size(m->header))))
        return st;
    const unsigned char *data = m->base + start;
    const size_t size = m->size - start;
    const int64_t first = s->count;
    const char *name;
    json_t *v;
    json_object_foreach(m->header, name, v)
    {
        if (!strcmp(name, "__metadata__")) {
            if ((st = check_metadata(v))) return st;
            continue;
        }
        PC_ASSERT(s->list && s->count < s->capacity, "%lld entries of %lld", (long long)s->count,
                  (long long)s->capacity);
        if ((st = parse_entry(&s->list[s->count], name, v, data, size)))
            return pc_context(st, "tensor '%.200s'", name);
        s->count++;
    }
    return check_cover(s->list ? s->list + first : NULL, s->count - first, data, size);
}

static pc_status open_single(pc_safetensors *s, const char *path)
{
    const pc_status st = add_file(s, path);
    return st ? st : pc_set_sort(s);
}

/* ---- sharded sets ---- */

static pc_status folder_of(char *out, size_t size, const char *path)
{
    const char *slash = strrchr(path, '/');
    const size_t n = slash ? (size_t)(slash - path) : 1;
    if (n + 1 > size) return pc_fail(PC_ERR_INPUT, "path is too long: '%s'", path);
    const char *from = slash ? (n ? path : "/") : ".";
    snprintf(out, size, "%.*s", n ? (int)n : 1, from);
    return PC_OK;
}

static pc_status load_index(json_t **out, const json_t **map, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    json_error_t e;
    pc_status st = pc_file_read(&text, &size, path, HEADER_MAX);
    if (st) return st;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e);
    free(text);
    if (!*out)
        return pc_fail(PC_ERR_FORMAT, "not valid JSON: line %d, column %d: %s", e.line, e.column,
                       e.text);
    *map = json_object_get(*out, "weight_map");
    if (!json_is_object(*map)) return pc_fail(PC_ERR_FORMAT, "no object \"weight_map\"");
    return PC_OK;
}

// Opens one shard and keeps those of its tensors that the map sends there.
static pc_status add_shard(pc_safetensors *s, const json_t *map, const char *dir, const char *file)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", dir, file) >= (int)sizeof path)
        return pc_fail(PC_ERR_INPUT, "path is too long");
    const int64_t first = s->count;
    pc_status st = add_file(s, path);
    if (st) return st;
    int64_t kept = first, extra = 0;
    const char *extra_name = NULL;
    for (int64_t i = first; i < s->count; i++) {
        const char *where = json_string_value(json_object_get(map, s->list[i].name));
        if (where && !strcmp(where, file)) {
            s->list[kept++] = s->list[i];
        } else if (extra++ == 0) {
            extra_name = s->list[i].name;
        }
    }
    s->count = kept;
    if (extra)
        pc_warn("'%s' holds %lld tensors that the index does not send there (left out): '%.200s'%s",
                path, (long long)extra, extra_name, extra > 1 ? ", ..." : "");
    return PC_OK;
}

static pc_status open_index(pc_safetensors *s, const char *path)
{
    json_t *index = NULL, *seen = json_object();
    const json_t *map = NULL;
    char dir[PATH_MAX];
    pc_status st = PC_OK;
    if (!seen) return pc_fail(PC_ERR_MEMORY, "table of shards");
    if ((st = folder_of(dir, sizeof dir, path)) || (st = load_index(&index, &map, path))) goto out;

    const char *name;
    json_t *v;
    json_object_foreach((json_t *)map, name, v)
    {
        const char *file = json_string_value(v);
        if (!file || !*file || strchr(file, '/') || strchr(file, '\\') || !strcmp(file, "..") ||
            !strcmp(file, ".")) {
            st = pc_fail(PC_ERR_FORMAT,
                         "weight_map of '%.200s' is %.200s, expected a plain file name", name,
                         file ? file : "not a string");
            goto out;
        }
        if (json_object_get(seen, file)) continue;
        if (json_object_size(seen) >= SHARDS_MAX) {
            st = pc_fail(PC_ERR_FORMAT, "weight_map names more than %d files", SHARDS_MAX);
            goto out;
        }
        if (json_object_set_new(seen, file, json_true()) != 0) {
            st = pc_fail(PC_ERR_MEMORY, "table of shards");
            goto out;
        }
        if ((st = add_shard(s, map, dir, file))) {
            st = pc_context(st, "shard '%s'", file);
            goto out;
        }
    }
    if ((st = pc_set_sort(s))) goto out;
    json_object_foreach((json_t *)map, name, v) if (!pc_safetensors_find(s, name))
    {
        st = pc_fail(PC_ERR_FORMAT, "tensor '%.200s' is not in '%s', where weight_map has it", name,
                     json_string_value(v));
        break;
    }
out:
    json_decref(index);
    json_decref(seen);
    return st;
}

/* ---- opening ---- */

pc_status pc_safetensors_open(pc_safetensors **out, const char *path)
{
    *out = NULL;
    pc_safetensors *s = calloc(1, sizeof *s);
    if (!s) return pc_fail(PC_ERR_MEMORY, "safetensors handle");
    const size_t n = strlen(path);
    const bool index = n > 5 && !strcmp(path + n - 5, ".json");
    pc_status st = index ? open_index(s, path) : open_single(s, path);
    if (st) {
        pc_safetensors_close(s);
        return pc_context(st, "'%s'", path);
    }
    *out = s;
    return PC_OK;
}

pc_status pc_safetensors_open_dir(pc_safetensors **out, const char *dir)
{
    static const char *const names[] = {"model.safetensors",
                                        "model.safetensors.index.json",
                                        "pytorch_model.bin",
                                        "pytorch_model.bin.index.json",
                                        "open_clip_model.safetensors",
                                        "open_clip_pytorch_model.bin"};
    char path[PATH_MAX];
    *out = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (snprintf(path, sizeof path, "%s/%s", dir, names[i]) >= (int)sizeof path)
            return pc_fail(PC_ERR_INPUT, "path is too long: '%s'", dir);
        if (pc_file_exists(path)) return pc_safetensors_open(out, path);
    }
    return pc_fail(PC_ERR_INPUT, "'%s' has neither %s nor %s, nor PyTorch's %s", dir, names[0],
                   names[1], names[2]);
}

/* ---- numbers ---- */

static pc_status check_count(const pc_st_entry *e, int64_t n)
{
    int64_t have = 1;
    for (int i = 0; i < e->rank; i++) have *= e->dim[i]; // fits: checked against the file
    if (have != n)
        return pc_fail(PC_ERR_FORMAT, "tensor '%.200s' has %lld elements, expected %lld", e->name,
                       (long long)have, (long long)n);
    return PC_OK;
}

static uint64_t read_uint(const unsigned char *p, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = bytes; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static int64_t sign_extend(uint64_t v, unsigned bytes)
{
    const uint64_t top = UINT64_C(1) << (8 * bytes - 1);
    return (int64_t)((v ^ top) - top);
}

static bool is_signed_int(const char *t)
{
    return t[0] == 'I';
}

static bool is_int(const char *t)
{
    return t[0] == 'I' || t[0] == 'U' || !strcmp(t, "BOOL");
}

pc_status pc_st_floats(float *out, const pc_st_entry *e, int64_t n)
{
    pc_status st = check_count(e, n);
    if (st) return st;
    const unsigned char *p = e->data;
    const unsigned bytes = dtype_bits(e->dtype) / 8;
    pc_dtype type;
    if (!n) return PC_OK;
    if (!is_int(e->dtype) && pc_dtype_from_text(&type, e->dtype)) {
        pc_widen(out, p, type, n);
    } else if (is_int(e->dtype)) {
        for (int64_t i = 0; i < n; i++) {
            const uint64_t v = read_uint(p + bytes * i, bytes);
            out[i] = is_signed_int(e->dtype) ? (float)sign_extend(v, bytes) : (float)v;
        }
    } else {
        return pc_fail(PC_ERR_FORMAT, "tensor '%.200s' is %s, which is not read as numbers",
                       e->name, e->dtype);
    }
    return PC_OK;
}

pc_status pc_st_ints(int32_t *out, const pc_st_entry *e, int64_t n)
{
    pc_status st = check_count(e, n);
    if (st) return st;
    if (!is_int(e->dtype))
        return pc_fail(PC_ERR_FORMAT, "tensor '%.200s' is %s, expected integers", e->name,
                       e->dtype);
    const unsigned char *p = e->data;
    const unsigned bytes = dtype_bits(e->dtype) / 8;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t u = read_uint(p + bytes * i, bytes);
        const bool big = !is_signed_int(e->dtype) && u > INT32_MAX;
        const int64_t v = is_signed_int(e->dtype) ? sign_extend(u, bytes) : (int64_t)u;
        if (big || v < INT32_MIN || v > INT32_MAX)
            return pc_fail(PC_ERR_FORMAT, "tensor '%.200s': element %lld does not fit 32 bits",
                           e->name, (long long)i);
        out[i] = (int32_t)v;
    }
    return PC_OK;
}

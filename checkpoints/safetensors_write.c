/*
 * safetensors_write.c - safetensors files out: atomically, whole or in pieces (safetensors.h).
 */
#include "checkpoints/safetensors.h"

#include "checkpoints/numbers.h"
#include "model/core/file.h"
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RANK_MAX 8
#define PIECE    (8 << 20) // bytes of a tensor written at once

/* ---- writing ---- */

// Large items first keeps every tensor aligned to its item; then by name.
static int by_item_then_name(const void *a, const void *b)
{
    const pc_st_out *x = a, *y = b;
    const size_t p = pc_dtype_size(x->dtype), q = pc_dtype_size(y->dtype);
    if (p != q) return p > q ? -1 : 1;
    return strcmp(x->name, y->name);
}

static pc_status out_bytes(size_t *bytes, const pc_st_out *t)
{
    size_t n = pc_dtype_size(t->dtype);
    if (t->rank < 0 || t->rank > RANK_MAX)
        return pc_fail(PC_ERR_INPUT, "tensor '%s' has rank %d, at most %d", t->name, t->rank,
                       RANK_MAX);
    for (int i = 0; i < t->rank; i++)
        if (t->dim[i] < 0 || __builtin_mul_overflow(n, (size_t)t->dim[i], &n))
            return pc_fail(PC_ERR_INPUT, "tensor '%s': dimension %d is %lld", t->name, i,
                           (long long)t->dim[i]);
    *bytes = n;
    return PC_OK;
}

static pc_status header_metadata(json_t *header, const char *metadata_json)
{
    json_error_t e;
    json_t *meta =
        metadata_json ? json_loads(metadata_json, JSON_REJECT_DUPLICATES, &e) : json_object();
    if (!meta) return pc_fail(PC_ERR_INPUT, "metadata is not a JSON object");
    const char *key;
    json_t *value;
    pc_status st = json_is_object(meta) ? PC_OK : pc_fail(PC_ERR_FORMAT, "metadata: not an object");
    json_object_foreach(meta, key, value)
    {
        if (!st && !json_is_string(value))
            st = pc_fail(PC_ERR_FORMAT, "metadata: key '%.100s' is not a string", key);
    }
    if (!st && !json_object_get(meta, "format") &&
        json_object_set_new(meta, "format", json_string("pt")) != 0)
        st = pc_fail(PC_ERR_MEMORY, "metadata");
    if (!st && json_object_set(header, "__metadata__", meta) != 0)
        st = pc_fail(PC_ERR_MEMORY, "metadata");
    json_decref(meta);
    return st;
}

static pc_status header_entry(json_t *header, const pc_st_out *t, size_t begin, size_t end)
{
    json_t *shape = json_array();
    for (int i = 0; shape && i < t->rank; i++)
        if (json_array_append_new(shape, json_integer(t->dim[i])) != 0) {
            json_decref(shape);
            return pc_fail(PC_ERR_MEMORY, "header");
        }
    json_t *v = json_pack("{s:s, s:o, s:[I,I]}", "dtype", pc_dtype_text(t->dtype), "shape", shape,
                          "data_offsets", (json_int_t)begin, (json_int_t)end);
    if (!v) return pc_fail(PC_ERR_MEMORY, "header");
    if (json_object_set_new(header, t->name, v) != 0)
        return pc_fail(PC_ERR_INPUT, "tensor name '%s' is not valid UTF-8", t->name);
    return PC_OK;
}

// The header as text, padded with spaces to a multiple of 8; malloc'ed.
static pc_status header_text(char **out, size_t *length, const pc_st_out *order, int64_t n,
                             const char *metadata_json)
{
    pc_status st = PC_OK;
    json_t *header = json_object();
    char *text = NULL;
    if (!header) return pc_fail(PC_ERR_MEMORY, "header");
    if ((st = header_metadata(header, metadata_json))) goto out;
    size_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        size_t bytes = 0;
        if (!order[i].name[0] || json_object_get(header, order[i].name)) {
            st = pc_fail(PC_ERR_INPUT, "tensor name '%s' is empty or used twice", order[i].name);
            goto out;
        }
        if ((st = out_bytes(&bytes, &order[i])) ||
            (st = header_entry(header, &order[i], at, at + bytes)))
            goto out;
        at += bytes;
    }
    text = json_dumps(header, JSON_COMPACT);
    const size_t len = text ? strlen(text) : 0, padded = (len + 7) / 8 * 8;
    char *grown = text ? realloc(text, padded + 1) : NULL;
    if (!grown) {
        st = pc_fail(PC_ERR_MEMORY, "header");
        goto out;
    }
    text = NULL;
    memset(grown + len, ' ', padded - len);
    grown[padded] = '\0';
    *out = grown;
    *length = padded;
out:
    free(text);
    json_decref(header);
    return st;
}

// One tensor in pieces, through a buffer, or at once from where it lies.
typedef struct pieces {
    const pc_st_out *list; // the caller's
    pc_st_fill *fill;
    void *arg, *buffer;
} pieces;

static pc_status write_tensor(FILE *f, const pc_st_out *t, const pieces *p)
{
    size_t bytes = 0;
    pc_status st = out_bytes(&bytes, t);
    if (st || !bytes) return st;
    if (!p->fill)
        return fwrite(t->data, 1, bytes, f) == bytes ? PC_OK : pc_fail_errno("cannot write");
    const pc_st_out *theirs = t->data; // write_file put it there
    const int64_t item = (int64_t)pc_dtype_size(t->dtype), n = (int64_t)bytes / item,
                  piece = PIECE / item;
    for (int64_t k = 0; k < n && !st; k += piece) {
        const int64_t count = n - k < piece ? n - k : piece;
        st = p->fill(p->arg, p->buffer, theirs - p->list, k, count);
        if (!st && fwrite(p->buffer, (size_t)item, (size_t)count, f) != (size_t)count)
            st = pc_fail_errno("cannot write");
    }
    return pc_context(st, "tensor '%s'", t->name);
}

static pc_status write_to(FILE *f, const char *header, size_t length, const pc_st_out *order,
                          int64_t n, const pieces *p)
{
    unsigned char le[8];
    for (int i = 0; i < 8; i++) le[i] = (unsigned char)((uint64_t)length >> (8 * i));
    const bool ok = fwrite(le, 1, 8, f) == 8 && fwrite(header, 1, length, f) == length;
    pc_status st = ok ? PC_OK : pc_fail_errno("cannot write");
    for (int64_t i = 0; i < n && !st; i++) st = write_tensor(f, &order[i], p);
    return st;
}

static pc_status write_all(const char *tmp, const char *header, size_t length,
                           const pc_st_out *order, int64_t n, const pieces *p)
{
    FILE *f = fopen(tmp, "wbe");
    if (!f) return pc_fail_errno("cannot create '%s'", tmp);
    pc_status st = write_to(f, header, length, order, n, p);
    if (fclose(f) != 0 && !st) st = pc_fail_errno("cannot write");
    return pc_context(st, "'%s'", tmp);
}

static pc_status write_file(const char *path, const pc_st_out *list, int64_t n,
                            const char *metadata_json, pieces *p)
{
    PC_ASSERT(n >= 0, "%lld tensors", (long long)n);
    char tmp[PATH_MAX] = "", *header = NULL;
    size_t length = 0;
    pc_status st = PC_OK;
    pc_st_out *order = malloc((size_t)(n ? n : 1) * sizeof *order);
    if (!order) return pc_fail(PC_ERR_MEMORY, "table of %lld tensors", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        order[i] = list[i];
        if (p->fill) order[i].data = &list[i]; // whose piece is asked for
    }
    if (n > 1) qsort(order, (size_t)n, sizeof *order, by_item_then_name);

    if ((st = header_text(&header, &length, order, n, metadata_json)) ||
        (st = pc_file_temp(tmp, sizeof tmp, path)))
        goto out;
    if ((st = write_all(tmp, header, length, order, n, p)) || (st = pc_file_commit(tmp, path)))
        unlink(tmp);
out:
    free(header);
    free(order);
    return st ? pc_context(st, "'%s'", path) : PC_OK;
}

pc_status pc_safetensors_write(const char *path, const pc_st_out *list, int64_t n,
                               const char *metadata_json)
{
    return write_file(path, list, n, metadata_json, &(pieces){0});
}

pc_status pc_safetensors_memory(char **out, size_t *size, const pc_st_out *list, int64_t n)
{
    char *header = NULL;
    size_t length = 0;
    *out = NULL;
    pc_st_out *order = malloc((size_t)(n ? n : 1) * sizeof *order);
    FILE *f = open_memstream(out, size);
    pc_status st = order && f ? PC_OK : pc_fail(PC_ERR_MEMORY, "%lld tensors", (long long)n);
    if (!st && n) memcpy(order, list, (size_t)n * sizeof *order);
    if (!st && n > 1) qsort(order, (size_t)n, sizeof *order, by_item_then_name);
    if (!st) st = header_text(&header, &length, order, n, NULL);
    if (!st) st = write_to(f, header, length, order, n, &(pieces){0});
    if (f && fclose(f) != 0 && !st) st = pc_fail(PC_ERR_MEMORY, "%lld tensors", (long long)n);
    free(header);
    free(order);
    if (st) {
        free(*out);
        *out = NULL;
    }
    return st;
}

pc_status pc_safetensors_stream(const char *path, const pc_st_out *list, int64_t n,
                                const char *metadata_json, pc_st_fill *fill, void *arg)
{
    pieces p = {.list = list, .fill = fill, .arg = arg, .buffer = malloc(PIECE)};
    if (!p.buffer) return pc_fail(PC_ERR_MEMORY, "a buffer of %d bytes", PIECE);
    const pc_status st = write_file(path, list, n, metadata_json, &p);
    free(p.buffer);
    return st;
}

/*
 * gguf_write.c - the writer of GGUF files (version 3); see gguf.h.
 *
 * The header is put together in memory; tensors' numbers go straight to a temporary file beside the final name, a
 * piece at a time, each tensor padded with zero bytes to the alignment. All threads encode, each its rows.
 */
#include "checkpoints/gguf.h"

#include "model/core/file.h"
#include "model/core/threads.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGN 32u

typedef struct bytes {
    unsigned char *data;
    size_t size, room;
} bytes;

typedef struct item {
    char name[PC_GGUF_NAME];
    const pc_quant_type *type;
    size_t bytes;
    int64_t row;
} item;

struct pc_gguf_writer {
    char path[PATH_MAX], temp[PATH_MAX];
    FILE *file;
    pc_status status;
    bytes keys, infos, piece;
    item *items;
    int64_t count, room, key_count;
    uint64_t offset; // where the next declared tensor begins
    int64_t current; // the tensor being written
    size_t written;  // bytes of it
    bool begun, done;
    pc_pool *pool; // opened when there is something to encode
};

static void fail(pc_gguf_writer *w, pc_status st)
{
    if (!w->status) w->status = st;
}

/* ---- bytes in memory ---- */

static unsigned char *extend(pc_gguf_writer *w, bytes *b, size_t more)
{
    if (w->status) return NULL;
    if (more > b->room - b->size) {
        const size_t room = (b->size + more) * 2;
        unsigned char *data = realloc(b->data, room);
        if (!data) {
            fail(w, pc_fail(PC_ERR_MEMORY, "header of %zu bytes", room));
            return NULL;
        }
        b->data = data;
        b->room = room;
    }
    b->size += more;
    return b->data + b->size - more;
}

static void put(pc_gguf_writer *w, bytes *b, uint64_t v, unsigned n)
{
    unsigned char *to = extend(w, b, n);
    for (unsigned i = 0; to && i < n; i++) to[i] = (unsigned char)(v >> 8 * i);
}

static void put_span(pc_gguf_writer *w, bytes *b, const char *text, size_t size)
{
    put(w, b, size, 8);
    unsigned char *to = extend(w, b, size);
    if (to && size) memcpy(to, text, size);
}

static void put_key(pc_gguf_writer *w, const char *key, pc_gguf_kind kind)
{
    PC_ASSERT(!w->begun && *key, "key '%s' after the header was written", key);
    put_span(w, &w->keys, key, strlen(key));
    put(w, &w->keys, kind, 4);
    w->key_count++;
}

static void put_array(pc_gguf_writer *w, const char *key, pc_gguf_kind kind, int64_t n)
{
    put_key(w, key, PC_GGUF_ARRAY);
    put(w, &w->keys, kind, 4);
    put(w, &w->keys, (uint64_t)n, 8);
}

static uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

void pc_gguf_put_u32(pc_gguf_writer *w, const char *key, uint32_t v)
{
    put_key(w, key, PC_GGUF_U32);
    put(w, &w->keys, v, 4);
}

void pc_gguf_put_f32(pc_gguf_writer *w, const char *key, double v)
{
    put_key(w, key, PC_GGUF_F32);
    put(w, &w->keys, float_bits((float)v), 4);
}

void pc_gguf_put_bool(pc_gguf_writer *w, const char *key, bool v)
{
    put_key(w, key, PC_GGUF_BOOL);
    put(w, &w->keys, v, 1);
}

void pc_gguf_put_text(pc_gguf_writer *w, const char *key, const char *v)
{
    put_key(w, key, PC_GGUF_STRING);
    put_span(w, &w->keys, v, strlen(v));
}

void pc_gguf_put_texts(pc_gguf_writer *w, const char *key, const char *const *v, int64_t n)
{
    put_array(w, key, PC_GGUF_STRING, n);
    for (int64_t i = 0; i < n; i++) put_span(w, &w->keys, v[i], strlen(v[i]));
}

void pc_gguf_put_spans(pc_gguf_writer *w, const char *key, const pc_gguf_span *v, int64_t n)
{
    put_array(w, key, PC_GGUF_STRING, n);
    for (int64_t i = 0; i < n; i++) put_span(w, &w->keys, v[i].text, v[i].size);
}

void pc_gguf_put_i32s(pc_gguf_writer *w, const char *key, const int32_t *v, int64_t n)
{
    put_array(w, key, PC_GGUF_I32, n);
    for (int64_t i = 0; i < n; i++) put(w, &w->keys, (uint32_t)v[i], 4);
}

void pc_gguf_put_f32s(pc_gguf_writer *w, const char *key, const float *v, int64_t n)
{
    put_array(w, key, PC_GGUF_F32, n);
    for (int64_t i = 0; i < n; i++) put(w, &w->keys, float_bits(v[i]), 4);
}

/* ---- tensors ---- */

static item *new_item(pc_gguf_writer *w)
{
    if (w->status) return NULL;
    if (w->count == w->room) {
        const int64_t room = w->room ? 2 * w->room : 256;
        item *items = realloc(w->items, (size_t)room * sizeof *items);
        if (!items) {
            fail(w, pc_fail(PC_ERR_MEMORY, "table of %lld tensors", (long long)room));
            return NULL;
        }
        w->items = items;
        w->room = room;
    }
    return &w->items[w->count++];
}

static size_t padded(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

void pc_gguf_declare(pc_gguf_writer *w, const char *name, const pc_quant_type *type, int rank,
                     const int64_t *dim)
{
    PC_ASSERT(!w->begun && rank >= 1 && rank <= PC_GGUF_RANK, "tensor '%s' of rank %d", name, rank);
    PC_ASSERT(type->encodes, "type %s is not written", type->name);
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    const int64_t row = dim[rank - 1];
    if (strlen(name) >= PC_GGUF_NAME) {
        fail(w, pc_fail(PC_ERR_INPUT, "tensor name '%s' has more than %d bytes", name,
                        PC_GGUF_NAME - 1));
        return;
    }
    if (row <= 0 || n <= 0 || row % type->block) {
        fail(w,
             pc_fail(PC_ERR_INPUT, "tensor '%s': rows of %lld numbers; %s takes multiples of %lld",
                     name, (long long)row, type->name, (long long)type->block));
        return;
    }
    item *it = new_item(w);
    if (!it) return;
    *it = (item){.type = type, .bytes = pc_quant_bytes(type, n), .row = row};
    memcpy(it->name, name, strlen(name) + 1);

    put_span(w, &w->infos, name, strlen(name));
    put(w, &w->infos, (uint64_t)rank, 4);
    for (int i = rank; i-- > 0;) put(w, &w->infos, (uint64_t)dim[i], 8);
    put(w, &w->infos, (uint64_t)type->id, 4);
    put(w, &w->infos, w->offset, 8);
    w->offset += padded(it->bytes);
}

static void write_out(pc_gguf_writer *w, const void *data, size_t size)
{
    if (w->status || !size) return;
    if (fwrite(data, 1, size, w->file) != size)
        fail(w, pc_fail_errno("cannot write '%s'", w->temp));
}

static void write_zeros(pc_gguf_writer *w, size_t n)
{
    static const unsigned char zeros[ALIGN];
    PC_ASSERT(n < ALIGN, "%zu bytes of padding", n);
    write_out(w, zeros, n);
}

// Steps over tensors that are whole, padding behind them.
static void advance(pc_gguf_writer *w)
{
    const item *it = &w->items[w->current];
    if (w->written < it->bytes) return;
    write_zeros(w, padded(it->bytes) - it->bytes);
    w->current++;
    w->written = 0;
}

pc_status pc_gguf_create(pc_gguf_writer **out, const char *path)
{
    *out = NULL;
    pc_gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return pc_fail(PC_ERR_MEMORY, "GGUF writer");
    pc_status st = PC_OK;
    if (snprintf(w->path, sizeof w->path, "%s", path) >= (int)sizeof w->path)
        st = pc_fail(PC_ERR_INPUT, "path is too long: '%.200s'", path);
    if (!st) st = pc_file_temp(w->temp, sizeof w->temp, path);
    if (st) {
        w->temp[0] = '\0';
    } else if (!(w->file = fopen(w->temp, "wbe"))) {
        st = pc_fail_errno("cannot create '%s'", w->temp);
    }
    if (st) {
        pc_gguf_writer_close(w);
        return st;
    }
    *out = w;
    return PC_OK;
}

pc_status pc_gguf_begin(pc_gguf_writer *w)
{
    PC_ASSERT(!w->begun, "'%s' is begun twice", w->path);
    bytes head = {0};
    w->begun = true;
    put(w, &head, UINT64_C(0x0000000346554747), 8); // "GGUF", version 3
    put(w, &head, (uint64_t)w->count, 8);
    put(w, &head, (uint64_t)w->key_count, 8);
    write_out(w, head.data, head.size);
    write_out(w, w->keys.data, w->keys.size);
    write_out(w, w->infos.data, w->infos.size);
    const size_t size = head.size + w->keys.size + w->infos.size;
    write_zeros(w, padded(size) - size);
    free(head.data);
    return pc_context(w->status, "'%s'", w->path);
}

pc_status pc_gguf_write_bytes(pc_gguf_writer *w, const void *data, size_t size)
{
    PC_ASSERT(w->begun && !w->done && w->current < w->count, "no tensor of '%s' waits for numbers",
              w->path);
    const item *it = &w->items[w->current];
    PC_ASSERT(size <= it->bytes - w->written, "tensor '%s': %zu bytes are left, %zu come", it->name,
              it->bytes - w->written, size);
    write_out(w, data, size);
    w->written += size;
    advance(w);
    return pc_context(w->status, "'%s'", w->path);
}

typedef struct encoding {
    const item *it;
    unsigned char *out;
    const float *in;
    int64_t *bad; // (threads): the first number of each that does not fit, -1: none
} encoding;

static void encode_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const encoding *e = arg;
    const int64_t row = e->it->row, at = begin * row;
    const int64_t bad = pc_quant_encode(e->it->type, e->out + pc_quant_bytes(e->it->type, at),
                                        e->in + at, (end - begin) * row);
    e->bad[worker] = bad < 0 ? -1 : at + bad;
}

// -1, or the first of n numbers that the type cannot hold; -2: no memory.
static int64_t encode(pc_gguf_writer *w, const item *it, unsigned char *out, const float *in,
                      int64_t n)
{
    if (it->type->id == PC_Q_F32) return pc_quant_encode(it->type, out, in, n);
    if (!w->pool && pc_pool_open(&w->pool, 0)) return -2;
    const int threads = pc_pool_threads(w->pool);
    int64_t *bad = malloc((size_t)threads * sizeof *bad), first = -1;
    if (!bad) return -2;
    for (int i = 0; i < threads; i++) bad[i] = -1;
    encoding e = {it, out, in, bad};
    const int64_t grain = it->row < 4096 ? 4096 / it->row : 1;
    pc_parallel(w->pool, n / it->row, grain, encode_rows, &e);
    for (int i = 0; i < threads; i++)
        if (bad[i] >= 0 && (first < 0 || bad[i] < first)) first = bad[i];
    free(bad);
    return first;
}

pc_status pc_gguf_write(pc_gguf_writer *w, const float *numbers, int64_t n)
{
    PC_ASSERT(w->begun && w->current < w->count, "no tensor of '%s' waits for numbers", w->path);
    const item *it = &w->items[w->current];
    PC_ASSERT(n % it->row == 0, "tensor '%s': %lld numbers are no whole rows of %lld", it->name,
              (long long)n, (long long)it->row);
    if (w->status) return w->status;
    const size_t size = pc_quant_bytes(it->type, n);
    w->piece.size = 0;
    unsigned char *to = extend(w, &w->piece, size ? size : 1);
    if (!to) return w->status;
    const int64_t bad = encode(w, it, to, numbers, n);
    if (bad == -2) fail(w, pc_fail(PC_ERR_MEMORY, "tensor '%s': threads", it->name));
    if (bad >= 0)
        fail(w, pc_fail(PC_ERR_NUMERIC, "tensor '%s': %g is not finite, or too large for %s",
                        it->name, (double)numbers[bad], it->type->name));
    if (bad != -1) return pc_context(w->status, "'%s'", w->path);
    return pc_gguf_write_bytes(w, to, size);
}

pc_status pc_gguf_finish(pc_gguf_writer *w)
{
    PC_ASSERT(w->begun && !w->done, "'%s' is not begun, or finished", w->path);
    if (w->status) return pc_context(w->status, "'%s'", w->path);
    PC_ASSERT(w->current == w->count, "tensor '%s' was declared and not written",
              w->items[w->current].name);
    FILE *f = w->file;
    w->file = NULL;
    if (fclose(f) != 0)
        fail(w, pc_fail_errno("cannot write '%s'", w->temp));
    else
        fail(w, pc_file_commit(w->temp, w->path));
    w->done = !w->status;
    return pc_context(w->status, "'%s'", w->path);
}

void pc_gguf_writer_close(pc_gguf_writer *w)
{
    if (!w) return;
    if (w->file) fclose(w->file);
    if (!w->done && w->temp[0]) unlink(w->temp);
    free(w->keys.data);
    free(w->infos.data);
    free(w->piece.data);
    free(w->items);
    pc_pool_close(w->pool);
    free(w);
}

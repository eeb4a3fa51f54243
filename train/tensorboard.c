/*
 * tensorboard.c - see tensorboard.h.
 */
#include "train/tensorboard.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint32_t crc32c(const void *data, size_t size)
{
    const unsigned char *p = data;
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        // Bitwise, reflected polynomial 0x1EDC6F41: records are short and few.
        for (int k = 0; k < 8; k++) crc = (crc >> 1) ^ (UINT32_C(0x82F63B78) & (0u - (crc & 1u)));
    }
    return ~crc;
}

static uint32_t masked(const void *data, size_t size)
{
    const uint32_t crc = crc32c(data, size);
    return ((crc >> 15) | (crc << 17)) + UINT32_C(0xa282ead8);
}

// ---- protobuf ------------------------------------------------------------------------------------

enum { EVENT_BYTES = 8192 };

typedef struct message {
    unsigned char bytes[EVENT_BYTES];
    size_t n;
} message;

static void put_byte(message *m, unsigned b)
{
    PC_ASSERT(m->n < EVENT_BYTES, "event of %zu bytes", m->n);
    m->bytes[m->n++] = (unsigned char)b;
}

static void put_varint(message *m, uint64_t x)
{
    for (; x >= 128; x >>= 7) put_byte(m, (unsigned)(x & 127u) | 128u);
    put_byte(m, (unsigned)x);
}

static void put_fixed(message *m, const void *x, size_t size) // little-endian machine order
{
    const unsigned char *b = x;
    for (size_t i = 0; i < size; i++) put_byte(m, b[i]);
}

static void put_bytes(message *m, unsigned field, const void *bytes, size_t size)
{
    put_byte(m, field << 3 | 2u);
    put_varint(m, size);
    put_fixed(m, bytes, size);
}

static void begin_event(message *m, int64_t step)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const double wall = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    m->n = 0;
    put_byte(m, 1u << 3 | 1u);
    put_fixed(m, &wall, sizeof wall);
    put_byte(m, 2u << 3 | 0u);
    put_varint(m, (uint64_t)step);
}

// ---- records -------------------------------------------------------------------------------------

pc_status tensorboard_flush(tensorboard *t)
{
    size_t done = 0;
    while (t->buffer && done < t->used) {
        const ssize_t n = write(t->fd, t->buffer + done, t->used - done);
        if (n < 0) return pc_fail_errno("'%s'", t->path);
        done += (size_t)n;
    }
    t->used = 0;
    return PC_OK;
}

static pc_status put_record(tensorboard *t, const message *m)
{
    const uint64_t length = m->n;
    const uint32_t head = masked(&length, sizeof length), tail = masked(m->bytes, m->n);
    if (t->used + m->n + 16 > TENSORBOARD_BUFFER) {
        pc_status st = tensorboard_flush(t);
        if (st) return st;
    }
    unsigned char *out = t->buffer + t->used;
    memcpy(out, &length, 8);
    memcpy(out + 8, &head, 4);
    memcpy(out + 12, m->bytes, m->n);
    memcpy(out + 12 + m->n, &tail, 4);
    t->used += m->n + 16;
    return PC_OK;
}

pc_status tensorboard_open(tensorboard *t, const char *folder, int64_t step)
{
    *t = (tensorboard){.fd = -1};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    // Names sort by time; a counter keeps two processes within a second apart.
    for (int k = 0; k < 1000 && t->fd < 0; k++) {
        snprintf(t->path, sizeof t->path, "%s/events.out.tfevents.%lld.%03d.percept", folder,
                 (long long)now.tv_sec, k);
        t->fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    }
    if (t->fd < 0) return pc_fail_errno("'%s' cannot be made", t->path);
    t->buffer = malloc(TENSORBOARD_BUFFER);
    if (!t->buffer) {
        close(t->fd);
        return pc_fail(PC_ERR_MEMORY, "event file");
    }
    message m;
    begin_event(&m, 0);
    put_bytes(&m, 3, "brain.Event:2", 13);
    pc_status st = put_record(t, &m);
    if (!st && step > 0) {
        static const unsigned char start[] = {1u << 3 | 0u, 1}; // SessionLog { status: START }
        begin_event(&m, step + 1);
        put_bytes(&m, 7, start, sizeof start);
        st = put_record(t, &m);
    }
    if (st) tensorboard_close(t);
    return st;
}

pc_status tensorboard_write(tensorboard *t, int64_t step, const tensorboard_value *values, int n)
{
    message m, summary = {.n = 0}, value;
    for (int i = 0; i < n && i < TENSORBOARD_VALUES; i++) {
        const float x = (float)values[i].value;
        value.n = 0;
        put_bytes(&value, 1, values[i].tag, strnlen(values[i].tag, 100));
        put_byte(&value, 2u << 3 | 5u);
        put_fixed(&value, &x, sizeof x);
        if (summary.n + value.n + 8 > EVENT_BYTES - 64) break;
        put_bytes(&summary, 1, value.bytes, value.n);
    }
    begin_event(&m, step);
    put_bytes(&m, 5, summary.bytes, summary.n);
    return put_record(t, &m);
}

void tensorboard_close(tensorboard *t)
{
    if (t->buffer) close(t->fd);
    free(t->buffer);
    *t = (tensorboard){.fd = -1};
}

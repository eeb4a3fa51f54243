/*
 * gguf_keys.c - values of a GGUF file's keys, with their types checked; see gguf.h.
 */
#include "checkpoints/gguf.h"

#include "data/text/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t get(const unsigned char *p, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = bytes; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static unsigned width(pc_gguf_kind k)
{
    switch (k) {
    case PC_GGUF_U8:
    case PC_GGUF_I8:
    case PC_GGUF_BOOL: return 1;
    case PC_GGUF_U16:
    case PC_GGUF_I16: return 2;
    case PC_GGUF_U32:
    case PC_GGUF_I32:
    case PC_GGUF_F32: return 4;
    case PC_GGUF_U64:
    case PC_GGUF_I64:
    case PC_GGUF_F64: return 8;
    default: return 0;
    }
}

static bool is_int(pc_gguf_kind k)
{
    return k <= PC_GGUF_I32 || k == PC_GGUF_U64 || k == PC_GGUF_I64;
}

static bool is_real(pc_gguf_kind k)
{
    return k == PC_GGUF_F32 || k == PC_GGUF_F64;
}

static bool is_signed(pc_gguf_kind k)
{
    return k == PC_GGUF_I8 || k == PC_GGUF_I16 || k == PC_GGUF_I32 || k == PC_GGUF_I64;
}

// False when an unsigned number is above what int64_t holds.
static bool int_at(int64_t *out, const unsigned char *p, pc_gguf_kind k)
{
    const unsigned n = width(k);
    const uint64_t v = get(p, n), top = UINT64_C(1) << (8 * n - 1);
    if (!is_signed(k)) {
        *out = (int64_t)v;
        return v <= INT64_MAX;
    }
    *out = (int64_t)((v ^ top) - top);
    return true;
}

static double real_at(const unsigned char *p, pc_gguf_kind k)
{
    if (k == PC_GGUF_F64) {
        const uint64_t u = get(p, 8);
        double d;
        memcpy(&d, &u, sizeof d);
        return d;
    }
    const uint32_t u = (uint32_t)get(p, 4);
    float f;
    memcpy(&f, &u, sizeof f);
    return (double)f;
}

static const char *called(const pc_gguf_value *v, char *buf, size_t size)
{
    if (v->kind == PC_GGUF_ARRAY)
        snprintf(buf, size, "an array of %s", pc_gguf_kind_name(v->item));
    else
        snprintf(buf, size, "%s", pc_gguf_kind_name(v->kind));
    return buf;
}

static pc_status wrong(const pc_gguf_value *v, const char *key, const char *expected)
{
    char is[48], text[80];
    return pc_fail(PC_ERR_FORMAT, "key '%s' is %s (%s); expected %s", key, called(v, is, sizeof is),
                   pc_gguf_value_text(v, text, sizeof text), expected);
}

static pc_status absent(const char *key)
{
    return pc_fail(PC_ERR_FORMAT, "key '%s' is missing", key);
}

bool pc_gguf_has(const pc_gguf *g, const char *key)
{
    pc_gguf_value v;
    return pc_gguf_get(&v, g, key);
}

pc_status pc_gguf_int(int64_t *out, const pc_gguf *g, const char *key, int64_t def, int64_t min,
                      int64_t max)
{
    pc_gguf_value v;
    if (!pc_gguf_get(&v, g, key)) {
        *out = def;
        return def == PC_GGUF_NEEDED ? absent(key) : PC_OK;
    }
    char expected[80];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)min,
             (long long)max);
    if (!is_int(v.kind) || !int_at(out, v.data, v.kind) || *out < min || *out > max)
        return wrong(&v, key, expected);
    return PC_OK;
}

pc_status pc_gguf_real(double *out, const pc_gguf *g, const char *key, double def)
{
    pc_gguf_value v;
    if (!pc_gguf_get(&v, g, key)) {
        *out = def;
        return isnan(def) ? absent(key) : PC_OK;
    }
    if (!is_real(v.kind)) return wrong(&v, key, "f32 or f64");
    *out = real_at(v.data, v.kind);
    return isfinite(*out) ? PC_OK : wrong(&v, key, "a finite number");
}

pc_status pc_gguf_bool(bool *out, const pc_gguf *g, const char *key, bool def)
{
    pc_gguf_value v;
    *out = def;
    if (!pc_gguf_get(&v, g, key)) return PC_OK;
    if (v.kind != PC_GGUF_BOOL) return wrong(&v, key, "a bool");
    *out = v.data[0] != 0;
    return PC_OK;
}

static pc_gguf_span string_at(const unsigned char *p)
{
    return (pc_gguf_span){(const char *)p + 8, (size_t)get(p, 8)};
}

pc_status pc_gguf_text(char **out, const pc_gguf *g, const char *key)
{
    pc_gguf_value v;
    *out = NULL;
    if (!pc_gguf_get(&v, g, key)) return PC_OK;
    if (v.kind != PC_GGUF_STRING) return wrong(&v, key, "a string");
    const pc_gguf_span s = string_at(v.data);
    if (memchr(s.text, '\0', s.size)) return wrong(&v, key, "a string without NUL bytes");
    *out = malloc(s.size + 1);
    if (!*out) return pc_fail(PC_ERR_MEMORY, "key '%s': %zu bytes", key, s.size);
    memcpy(*out, s.text, s.size);
    (*out)[s.size] = '\0';
    return PC_OK;
}

// The array under a key; *out NULL when there is none or it is empty. Its room is below the file's own size, times 2
// for strings (16 bytes beside the 8 of a length).
static pc_status array(pc_gguf_value *v, void **out, int64_t *count, size_t item, const pc_gguf *g,
                       const char *key)
{
    *out = NULL;
    *count = 0;
    if (!pc_gguf_get(v, g, key)) return PC_OK;
    if (v->kind != PC_GGUF_ARRAY) return wrong(v, key, "an array");
    if (!v->count) return PC_OK;
    *out = malloc((size_t)v->count * item); // fits: bounded by the file
    if (!*out)
        return pc_fail(PC_ERR_MEMORY, "key '%s': %llu items", key, (unsigned long long)v->count);
    *count = (int64_t)v->count;
    return PC_OK;
}

static void give_up(void **out, int64_t *count)
{
    free(*out);
    *out = NULL;
    *count = 0;
}

pc_status pc_gguf_strings(pc_gguf_span **out, int64_t *count, const pc_gguf *g, const char *key)
{
    pc_gguf_value v;
    void *room;
    const pc_status st = array(&v, &room, count, sizeof **out, g, key);
    *out = room;
    if (st || !room) return st;
    if (v.item != PC_GGUF_STRING) {
        give_up(&room, count);
        *out = NULL;
        return wrong(&v, key, "an array of strings");
    }
    for (int64_t i = 0; i < *count; i++) {
        (*out)[i] = string_at(v.data);
        v.data += 8 + (*out)[i].size;
    }
    return PC_OK;
}

pc_status pc_gguf_ints(int32_t **out, int64_t *count, const pc_gguf *g, const char *key)
{
    pc_gguf_value v;
    void *room;
    const pc_status st = array(&v, &room, count, sizeof **out, g, key);
    *out = room;
    if (st || !room) return st;
    bool good = is_int(v.item);
    for (int64_t i = 0; i < *count && good; i++) {
        int64_t x = 0;
        good = int_at(&x, v.data + (size_t)i * width(v.item), v.item) && x >= INT32_MIN &&
               x <= INT32_MAX;
        (*out)[i] = (int32_t)x;
    }
    if (good) return PC_OK;
    give_up(&room, count);
    *out = NULL;
    return wrong(&v, key, "an array of integers of 32 bits");
}

pc_status pc_gguf_reals(float **out, int64_t *count, const pc_gguf *g, const char *key)
{
    pc_gguf_value v;
    void *room;
    const pc_status st = array(&v, &room, count, sizeof **out, g, key);
    *out = room;
    if (st || !room) return st;
    bool good = is_real(v.item);
    for (int64_t i = 0; i < *count && good; i++)
        (*out)[i] = (float)real_at(v.data + (size_t)i * width(v.item), v.item);
    if (good) return PC_OK;
    give_up(&room, count);
    *out = NULL;
    return wrong(&v, key, "an array of reals");
}

/* ---- for people ---- */

// Whole characters as they are, anything else as \xNN; about `most` bytes of it.
static size_t put_string(char *buf, size_t size, pc_gguf_span s, size_t most)
{
    const unsigned char *text = (const unsigned char *)s.text;
    size_t i = 0, n = (size_t)snprintf(buf, size, "\"");
    while (i < s.size && i < most && n + 10 < size) {
        const int step = pc_utf8_step(text + i, s.size - i);
        if (step > 0 && text[i] >= ' ' && text[i] != 127) {
            n += (size_t)snprintf(buf + n, size - n, "%.*s", step, s.text + i);
            i += (size_t)step;
        } else if (text[i] == '\n') {
            n += (size_t)snprintf(buf + n, size - n, "\\n");
            i++;
        } else {
            n += (size_t)snprintf(buf + n, size - n, "\\x%02x", text[i++]);
        }
    }
    n += (size_t)snprintf(buf + n, size - n, i < s.size ? "...\"" : "\"");
    return n < size ? n : size - 1;
}

static size_t put_item(char *buf, size_t size, const unsigned char *p, pc_gguf_kind k, size_t most)
{
    int64_t x = 0;
    int n;
    if (k == PC_GGUF_STRING) return put_string(buf, size, string_at(p), most);
    if (k == PC_GGUF_BOOL)
        n = snprintf(buf, size, "%s", *p ? "true" : "false");
    else if (is_real(k))
        n = snprintf(buf, size, "%.9g", real_at(p, k));
    else if (int_at(&x, p, k))
        n = snprintf(buf, size, "%lld", (long long)x);
    else
        n = snprintf(buf, size, "%llu", (unsigned long long)get(p, 8));
    return (size_t)n < size ? (size_t)n : size - 1;
}

const char *pc_gguf_value_text(const pc_gguf_value *v, char *buf, size_t size)
{
    PC_ASSERT(size >= 8, "room of %zu bytes", size);
    if (v->kind != PC_GGUF_ARRAY) {
        put_item(buf, size, v->data, v->kind, size / 2);
        return buf;
    }
    const unsigned char *p = v->data;
    size_t n = (size_t)snprintf(buf, size, "[%llu %s:", (unsigned long long)v->count,
                                pc_gguf_kind_name(v->item));
    for (uint64_t i = 0; i < v->count && i < 8 && n + 32 < size; i++) {
        n += (size_t)snprintf(buf + n, size - n, i ? ", " : " ");
        n += put_item(buf + n, size - n, p, v->item, 16);
        p += v->item == PC_GGUF_STRING ? 8 + string_at(p).size : width(v->item);
    }
    if (n < size) snprintf(buf + n, size - n, v->count > 8 ? ", ...]" : "]");
    return buf;
}

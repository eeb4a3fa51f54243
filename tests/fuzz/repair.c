/*
 * repair.c - see repair.h. The checksum is Jenkins' lookup3 of the bytes before it, from 0.
 */
#include "tests/fuzz/repair.h"

#include <string.h>

static uint32_t turn(uint32_t x, int k)
{
    return x << k | x >> (32 - k);
}

static uint32_t word(const uint8_t *p, size_t n) // up to four bytes
{
    uint32_t v = 0;
    for (size_t i = 0; i < n && i < 4; i++) v |= (uint32_t)p[i] << (8 * i);
    return v;
}

static uint32_t lookup3(const uint8_t *p, size_t n)
{
    uint32_t a = 0xdeadbeefU + (uint32_t)n, b = a, c = a;
    for (; n > 12; p += 12, n -= 12) {
        a += word(p, 4);
        b += word(p + 4, 4);
        c += word(p + 8, 4);
        a -= c, a ^= turn(c, 4), c += b;
        b -= a, b ^= turn(a, 6), a += c;
        c -= b, c ^= turn(b, 8), b += a;
        a -= c, a ^= turn(c, 16), c += b;
        b -= a, b ^= turn(a, 19), a += c;
        c -= b, c ^= turn(b, 4), b += a;
    }
    if (!n) return c;
    a += word(p, n);
    if (n > 4) b += word(p + 4, n - 4);
    if (n > 8) c += word(p + 8, n - 8);
    c ^= b, c -= turn(b, 14);
    a ^= c, a -= turn(c, 11);
    b ^= a, b -= turn(a, 25);
    c ^= b, c -= turn(b, 16);
    a ^= c, a -= turn(c, 4);
    b ^= a, b -= turn(a, 14);
    c ^= b, c -= turn(b, 24);
    return c;
}

static void seal(uint8_t *from, size_t n)
{
    const uint32_t sum = lookup3(from, n);
    for (int i = 0; i < 4; i++) from[n + (size_t)i] = (uint8_t)(sum >> (8 * i));
}

// "OHDR", version, flags, times?, limits?, size of the first chunk, the chunk, the checksum.
static void header(uint8_t *p, size_t left)
{
    if (left < 16 || p[4] != 2) return;
    const unsigned flags = p[5], width = 1U << (flags & 3U);
    const size_t at = 6 + (flags & 0x20U ? 16U : 0U) + (flags & 0x10U ? 4U : 0U);
    if (left < at + width + 4) return;
    uint64_t chunk = 0;
    for (unsigned i = width; i-- > 0;) chunk = chunk << 8 | p[at + i];
    if (chunk > left - at - width - 4) return;
    seal(p, at + width + (size_t)chunk);
}

void repair_hdf5(uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 16 < size; i++)
        if (!memcmp(data + i, "OHDR", 4)) header(data + i, size - i);
    if (size >= 48 && !memcmp(data, "\x89HDF\r\n\x1a\n", 8) && (data[8] == 2 || data[8] == 3))
        seal(data, 44);
}

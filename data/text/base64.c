/*
 * base64.c - four letters for three bytes.
 */
#include "data/text/base64.h"

#include <stdlib.h>

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool pc_base64_decode(unsigned char *out, size_t *out_size, const char *text, size_t size)
{
    size_t n = 0;
    if (size % 4) return false;
    for (size_t i = 0; i < size; i += 4) {
        const bool last = i + 4 == size;
        const int pad = !last ? 0 : text[i + 3] != '=' ? 0 : text[i + 2] != '=' ? 1 : 2;
        uint32_t bits = 0;
        for (int k = 0; k < 4; k++) {
            const int v = k < 4 - pad ? value_of(text[i + (size_t)k]) : 0;
            if (v < 0) return false;
            bits = bits << 6 | (uint32_t)v;
        }
        for (int k = 0; k < 3 - pad; k++) out[n++] = (unsigned char)(bits >> (16 - 8 * k));
    }
    *out_size = n;
    return true;
}

char *pc_base64_encode(const void *bytes, size_t size)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = bytes;
    char *out = malloc((size + 2) / 3 * 4 + 1);
    size_t n = 0;
    if (!out) return NULL;
    for (size_t i = 0; i < size; i += 3) {
        const size_t left = size - i;
        const uint32_t bits = (uint32_t)p[i] << 16 | (uint32_t)(left > 1 ? p[i + 1] : 0) << 8 |
                              (uint32_t)(left > 2 ? p[i + 2] : 0);
        out[n++] = letters[bits >> 18];
        out[n++] = letters[bits >> 12 & 63];
        out[n++] = left > 1 ? letters[bits >> 6 & 63] : '=';
        out[n++] = left > 2 ? letters[bits & 63] : '=';
    }
    out[n] = '\0';
    return out;
}

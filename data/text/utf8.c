/*
 * utf8.c - the well-formed byte sequences of Unicode 15, table 3-7.
 */
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

int pc_utf8_step(const unsigned char *s, size_t n)
{
    if (n == 0) return 0;
    const unsigned char lead = s[0];
    if (lead < 0x80) return 1;
    const int length = lead >= 0xC2 && lead <= 0xDF   ? 2
                       : lead >= 0xE0 && lead <= 0xEF ? 3
                       : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                      : 0;
    if (length == 0) return -1;
    // The second byte's range keeps out overlong forms, surrogates and what lies above U+10FFFF.
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == n) return 0;
        if (s[i] < (i == 1 ? low : 0x80) || s[i] > (i == 1 ? high : 0xBF)) return -i;
    }
    return length;
}

bool pc_utf8_ascii(const char *text, size_t size)
{
    unsigned char seen = 0;
    for (size_t i = 0; i < size; i++) seen |= (unsigned char)text[i];
    return seen < 0x80;
}

bool pc_utf8_valid(const char *text, size_t size)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < size;) {
        const int step = pc_utf8_step(s + i, size - i);
        if (step <= 0) return false;
        i += (size_t)step;
    }
    return true;
}

char *pc_utf8_repaired(const char *text, size_t size, size_t *out_size)
{
    const unsigned char *s = (const unsigned char *)text;
    char *out = size < SIZE_MAX / 3 - 1 ? malloc(3 * size + 1) : NULL; // one bad byte becomes three
    if (!out) return NULL;
    size_t used = 0;
    for (size_t i = 0; i < size;) {
        const int step = pc_utf8_step(s + i, size - i);
        if (step > 0) {
            memcpy(out + used, s + i, (size_t)step);
            used += (size_t)step;
            i += (size_t)step;
        } else {
            memcpy(out + used, "\xEF\xBF\xBD", 3);
            used += 3;
            i += step ? (size_t)-step : size - i; // a beginning at the very end is one U+FFFD
        }
    }
    out[used] = '\0';
    *out_size = used;
    return out;
}

uint32_t pc_utf8_code(const unsigned char *s, int length)
{
    static const unsigned char lead_bits[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t code = (uint32_t)(s[0] & lead_bits[length]);
    for (int i = 1; i < length; i++) code = code << 6 | (uint32_t)(s[i] & 0x3F);
    return code;
}

int pc_utf8_put(unsigned char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (unsigned char)code;
        return 1;
    }
    const int length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--) {
        out[i] = (unsigned char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    out[0] = (unsigned char)(lead[length] | code);
    return length;
}

bool pc_utf8_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

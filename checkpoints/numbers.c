/*
 * numbers.c - see numbers.h.
 */
#include "checkpoints/numbers.h"

#include <string.h>

static const struct {
    const char *text;
    pc_dtype type;
} TYPES[] = {{"F32", PC_F32}, {"F64", PC_F64}, {"BF16", PC_BF16}, {"F16", PC_F16},
             {"I32", PC_I32}, {"I64", PC_I64}, {"U8", PC_U8}};

bool pc_dtype_from_text(pc_dtype *out, const char *text)
{
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (!strcmp(TYPES[i].text, text)) {
            *out = TYPES[i].type;
            return true;
        }
    return false;
}

const char *pc_dtype_text(pc_dtype t)
{
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (TYPES[i].type == t) return TYPES[i].text;
    PC_ASSERT(false, "dtype %d", (int)t);
    return NULL;
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float pc_f32_from_f16(uint16_t half)
{
    const uint32_t h = half, sign = (h & 0x8000u) << 16, exp = h >> 10 & 31u, frac = h & 0x3FFu;
    if (exp == 31) return from_bits(sign | 0x7F800000u | frac << 13);
    if (exp) return from_bits(sign | (exp + 112u) << 23 | frac << 13);
    const float f = (float)frac * 0x1p-24f;
    return sign ? -f : f;
}

uint16_t pc_f16_from_f32(float f)
{
    const uint32_t u = bits_of(f), sign = u >> 16 & 0x8000u;
    uint32_t a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) { // NaN: quiet unless its bits fit
        const uint32_t frac = a >> 13 & 0x3FFu;
        return (uint16_t)(sign | 0x7C00u | frac | ((a & 0x1FFFu) || !frac ? 0x200u : 0u));
    }
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); // 65520 and more
    if (a >= 0x38800000u) {                                  // 2^-14: normal
        a += 0xFFFu + (a >> 13 & 1u);
        return (uint16_t)(sign | (a - 0x38000000u) >> 13);
    }
    const uint32_t shift = 126u - (a >> 23); // to units of 2^-24
    if (shift > 24u) return (uint16_t)sign;
    const uint32_t m = (a & 0x7FFFFFu) | 0x800000u, half = 1u << (shift - 1u),
                   rest = m & ((1u << shift) - 1u);
    uint32_t r = m >> shift;
    if (rest > half || (rest == half && (r & 1u))) r++;
    return (uint16_t)(sign | r);
}

uint16_t pc_bf16_from_f32(float f)
{
    const uint32_t u = bits_of(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(u >> 16 | ((u & 0xFFFFu) || !(u & 0x7F0000u) ? 0x40u : 0u));
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

void pc_widen(float *out, const void *in, pc_dtype t, int64_t n)
{
    const unsigned char *p = in;
    if (n <= 0) return;
    switch (t) {
    case PC_F32: memcpy(out, p, (size_t)n * sizeof *out); return;
    case PC_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, sizeof h);
            out[i] = from_bits((uint32_t)h << 16);
        }
        return;
    case PC_F16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, sizeof h);
            out[i] = pc_f32_from_f16(h);
        }
        return;
    case PC_F64:
        for (int64_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, p + 8 * i, sizeof d);
            out[i] = (float)d;
        }
        return;
    default: PC_ASSERT(false, "dtype %s is no floating type", pc_dtype_name(t));
    }
}

void pc_narrow(void *out, pc_dtype t, const float *in, int64_t n)
{
    unsigned char *p = out;
    if (n <= 0) return;
    switch (t) {
    case PC_F32: memcpy(p, in, (size_t)n * sizeof *in); return;
    case PC_BF16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t h = pc_bf16_from_f32(in[i]);
            memcpy(p + 2 * i, &h, sizeof h);
        }
        return;
    case PC_F16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t h = pc_f16_from_f32(in[i]);
            memcpy(p + 2 * i, &h, sizeof h);
        }
        return;
    default: PC_ASSERT(false, "dtype %s is not narrowed to", pc_dtype_name(t));
    }
}

/*
 * quant.c - see quant.h: types, f16 and bf16, and blocks of 32.
 *
 *   Q8_0   f16 d, i8 q[32]                  y = d q
 *   Q4_0   f16 d, u8 q[16]                  y_j = d (low_j - 8), y_{j+16} = d (high_j - 8)
 *   Q4_1   f16 d, f16 m, u8 q[16]           y_j = d low_j + m, ...
 *   Q5_0   f16 d, u32 h, u8 q[16]           n = nibble | bit of h << 4;  y = d (n - 16)
 *   Q5_1   f16 d, f16 m, u32 h, u8 q[16]    y = d n + m
 *
 * Encoders divide by the scale before it is rounded to f16, as the reference does, so that equal numbers give equal
 * bytes. A scale that f16 cannot hold makes an encoder return false.
 */
#include "model/core/quant.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define B 32

static const pc_quant_type types[] = {
    {0, "F32", 1, 4, true, true},           {1, "F16", 1, 2, true, true},
    {2, "Q4_0", 32, 18, true, true},        {3, "Q4_1", 32, 20, true, true},
    {6, "Q5_0", 32, 22, true, true},        {7, "Q5_1", 32, 24, true, true},
    {8, "Q8_0", 32, 34, true, true},        {9, "Q8_1", 32, 40, false, false},
    {10, "Q2_K", 256, 84, true, false},     {11, "Q3_K", 256, 110, true, false},
    {12, "Q4_K", 256, 144, true, true},     {13, "Q5_K", 256, 176, true, false},
    {14, "Q6_K", 256, 210, true, true},     {15, "Q8_K", 256, 292, false, false},
    {16, "IQ2_XXS", 256, 66, false, false}, {17, "IQ2_XS", 256, 74, false, false},
    {18, "IQ3_XXS", 256, 98, false, false}, {19, "IQ1_S", 256, 50, false, false},
    {20, "IQ4_NL", 32, 18, false, false},   {21, "IQ3_S", 256, 110, false, false},
    {22, "IQ2_S", 256, 82, false, false},   {23, "IQ4_XS", 256, 136, false, false},
    {24, "I8", 1, 1, false, false},         {25, "I16", 1, 2, false, false},
    {26, "I32", 1, 4, false, false},        {27, "I64", 1, 8, false, false},
    {28, "F64", 1, 8, true, false},         {29, "IQ1_M", 256, 56, false, false},
    {30, "BF16", 1, 2, true, true},         {34, "TQ1_0", 256, 54, false, false},
    {35, "TQ2_0", 256, 66, false, false},   {39, "MXFP4", 32, 17, false, false},
    {40, "NVFP4", 64, 36, false, false},    {41, "Q1_0", 128, 18, false, false},
};
enum { TYPES = sizeof types / sizeof *types };

const pc_quant_type *pc_quant_find(int id)
{
    for (int i = 0; i < TYPES; i++)
        if (types[i].id == id) return &types[i];
    return NULL;
}

const pc_quant_type *pc_quant_named(const char *name)
{
    for (int i = 0; i < TYPES; i++)
        if (!strcasecmp(types[i].name, name)) return &types[i];
    return NULL;
}

const char *const *pc_quant_written(void)
{
    static const char *const names[] = {"F32",  "F16",  "BF16", "Q8_0", "Q5_1", "Q5_0",
                                        "Q4_1", "Q4_0", "Q6_K", "Q4_K", NULL};
    return names;
}

size_t pc_quant_bytes(const pc_quant_type *t, int64_t n)
{
    PC_ASSERT(n >= 0 && n % t->block == 0, "%lld numbers in blocks of %lld", (long long)n,
              (long long)t->block);
    return (size_t)(n / t->block) * t->bytes;
}

/* ---- single numbers ---- */

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

// 1 sign, 5 exponent (bias 15), 10 fraction bits.
float pc_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 31u, frac = h & 0x3FFu;
    if (exp == 31) return from_bits(sign | 0x7F800000u | frac << 13);
    if (exp) return from_bits(sign | (exp + 112u) << 23 | frac << 13);
    const float f = (float)frac * 0x1p-24f;
    return sign ? -f : f;
}

uint16_t pc_f32_to_f16(float x)
{
    const uint32_t u = to_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) { // NaN: the bits it has, quiet where they do not fit
        const uint32_t frac = a >> 13 & 0x3FFu;
        return (uint16_t)(sign | 0x7C00u | frac | ((a & 0x1FFFu) || !frac ? 0x200u : 0u));
    }
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); // 65520 and above round to infinity
    if (a <
        0x38800000u) { // below 2^-14: multiples of 2^-24; adding 0.5 leaves them in the low bits
        const uint32_t r = to_bits(from_bits(a) + 0.5f) - 0x3F000000u;
        return (uint16_t)(sign | r);
    }
    const uint32_t odd = a >> 13 & 1u;
    return (uint16_t)(sign | (a - 0x38000000u + 0xFFFu + odd) >> 13);
}

float pc_bf16_to_f32(uint16_t h)
{
    return from_bits((uint32_t)h << 16);
}

uint16_t pc_f32_to_bf16(float x)
{
    const uint32_t u = to_bits(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) // NaN, as above
        return (uint16_t)(u >> 16 | ((u & 0xFFFFu) || !(u & 0x7F0000u) ? 0x40u : 0u));
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

static float get_f16(const uint8_t *b)
{
    return pc_f16_to_f32((uint16_t)(b[0] | b[1] << 8));
}

// False when f16 has no finite value near x.
static bool put_f16(uint8_t *b, float x)
{
    const uint16_t h = pc_f32_to_f16(x);
    b[0] = (uint8_t)h;
    b[1] = (uint8_t)(h >> 8);
    return (h & 0x7C00u) != 0x7C00u;
}

static uint32_t get_u32(const uint8_t *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* ---- blocks of 32: decode ---- */

static void decode_q8_0(float *y, const uint8_t *b)
{
    const float d = get_f16(b);
    for (int j = 0; j < B; j++) y[j] = d * (float)(int8_t)b[2 + j];
}

static void decode_q4_0(float *y, const uint8_t *b)
{
    const float d = get_f16(b);
    for (int j = 0; j < B / 2; j++) {
        y[j] = d * (float)((b[2 + j] & 15) - 8);
        y[j + B / 2] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

static void decode_q4_1(float *y, const uint8_t *b)
{
    const float d = get_f16(b), m = get_f16(b + 2);
    for (int j = 0; j < B / 2; j++) {
        y[j] = d * (float)(b[4 + j] & 15) + m;
        y[j + B / 2] = d * (float)(b[4 + j] >> 4) + m;
    }
}

// The five-bit numbers behind a u32 of high bits.
static void five_bits(int n[B], const uint8_t *b)
{
    const uint32_t h = get_u32(b);
    for (int j = 0; j < B / 2; j++) {
        n[j] = (b[4 + j] & 15) | (int)(h >> j & 1u) << 4;
        n[j + B / 2] = b[4 + j] >> 4 | (int)(h >> (j + B / 2) & 1u) << 4;
    }
}

static void decode_q5_0(float *y, const uint8_t *b)
{
    const float d = get_f16(b);
    int n[B];
    five_bits(n, b + 2);
    for (int j = 0; j < B; j++) y[j] = d * (float)(n[j] - 16);
}

static void decode_q5_1(float *y, const uint8_t *b)
{
    const float d = get_f16(b), m = get_f16(b + 2);
    int n[B];
    five_bits(n, b + 4);
    for (int j = 0; j < B; j++) y[j] = d * (float)n[j] + m;
}

/* ---- blocks of 32: encode ---- */

// 0 for no scale, and for one so small that nothing is left of it in f16.
static float inverse(float d)
{
    const float r = 1.0f / d;
    return d != 0.0f && isfinite(r) ? r : 0.0f;
}

// trunc(v) held to 0 .. most.
static int level(float v, int most)
{
    if (!(v > 0.0f)) return 0;
    return v >= (float)most ? most : (int)v;
}

// The element of largest magnitude, the first of equals, with its sign.
static float extreme(const float *x)
{
    float m = x[0];
    for (int j = 1; j < B; j++)
        if (fabsf(x[j]) > fabsf(m)) m = x[j];
    return m;
}

static void range(float *least, float *most, const float *x)
{
    *least = *most = x[0];
    for (int j = 1; j < B; j++) {
        if (x[j] < *least) *least = x[j];
        if (x[j] > *most) *most = x[j];
    }
}

static bool encode_q8_0(uint8_t *b, const float *x)
{
    const float d = fabsf(extreme(x)) / 127.0f, id = inverse(d);
    for (int j = 0; j < B; j++) {
        const float v = x[j] * id, a = fabsf(v);
        const int q = a < 127.0f ? (int)(floorf(a) + floorf(2.0f * (a - floorf(a)))) : 127;
        b[2 + j] = (uint8_t)(int8_t)(v < 0.0f ? -q : q);
    }
    return put_f16(b, d);
}

static bool encode_q4_0(uint8_t *b, const float *x)
{
    const float d = extreme(x) / -8.0f, id = inverse(d);
    for (int j = 0; j < B / 2; j++) {
        const int lo = level(x[j] * id + 8.5f, 15), hi = level(x[j + B / 2] * id + 8.5f, 15);
        b[2 + j] = (uint8_t)(lo | hi << 4);
    }
    return put_f16(b, d);
}

static bool encode_q4_1(uint8_t *b, const float *x)
{
    float least, most;
    range(&least, &most, x);
    const float d = (most - least) / 15.0f, id = inverse(d);
    for (int j = 0; j < B / 2; j++) {
        const int lo = level((x[j] - least) * id + 0.5f, 15);
        const int hi = level((x[j + B / 2] - least) * id + 0.5f, 15);
        b[4 + j] = (uint8_t)(lo | hi << 4);
    }
    return put_f16(b, d) && put_f16(b + 2, least);
}

static void put_five_bits(uint8_t *b, const int n[B])
{
    memset(b, 0, 4);
    for (int j = 0; j < B / 2; j++) b[4 + j] = (uint8_t)((n[j] & 15) | (n[j + B / 2] & 15) << 4);
    for (int j = 0; j < B; j++) b[j / 8] = (uint8_t)(b[j / 8] | (n[j] >> 4) << j % 8);
}

static bool encode_q5_0(uint8_t *b, const float *x)
{
    const float d = extreme(x) / -16.0f, id = inverse(d);
    int n[B];
    for (int j = 0; j < B; j++) n[j] = level(x[j] * id + 16.5f, 31);
    put_five_bits(b + 2, n);
    return put_f16(b, d);
}

static bool encode_q5_1(uint8_t *b, const float *x)
{
    float least, most;
    range(&least, &most, x);
    const float d = (most - least) / 31.0f, id = inverse(d);
    int n[B];
    for (int j = 0; j < B; j++) n[j] = level((x[j] - least) * id + 0.5f, 31);
    put_five_bits(b + 4, n);
    return put_f16(b, d) && put_f16(b + 2, least);
}

/* ---- rows ---- */

typedef void decoder(float *y, const uint8_t *b);
typedef bool encoder(uint8_t *b, const float *x);

static decoder *decoder_of(int id)
{
    switch (id) {
    case PC_Q_Q8_0: return decode_q8_0;
    case PC_Q_Q4_0: return decode_q4_0;
    case PC_Q_Q4_1: return decode_q4_1;
    case PC_Q_Q5_0: return decode_q5_0;
    case PC_Q_Q5_1: return decode_q5_1;
    case PC_Q_Q2_K: return pc_quant_decode_q2k;
    case PC_Q_Q3_K: return pc_quant_decode_q3k;
    case PC_Q_Q4_K: return pc_quant_decode_q4k;
    case PC_Q_Q5_K: return pc_quant_decode_q5k;
    case PC_Q_Q6_K: return pc_quant_decode_q6k;
    default: return NULL;
    }
}

static encoder *encoder_of(int id)
{
    switch (id) {
    case PC_Q_Q8_0: return encode_q8_0;
    case PC_Q_Q4_0: return encode_q4_0;
    case PC_Q_Q4_1: return encode_q4_1;
    case PC_Q_Q5_0: return encode_q5_0;
    case PC_Q_Q5_1: return encode_q5_1;
    case PC_Q_Q4_K: return pc_quant_encode_q4k;
    case PC_Q_Q6_K: return pc_quant_encode_q6k;
    default: return NULL;
    }
}

void pc_quant_decode(const pc_quant_type *t, float *out, const void *in, int64_t n)
{
    const uint8_t *b = in;
    PC_ASSERT(t->decodes && n % t->block == 0, "%lld numbers of %s", (long long)n, t->name);
    if (!n) return;
    switch (t->id) {
    case PC_Q_F32: memcpy(out, in, (size_t)n * sizeof *out); return;
    case PC_Q_F16:
        for (int64_t i = 0; i < n; i++) out[i] = get_f16(b + 2 * i);
        return;
    case PC_Q_BF16:
        for (int64_t i = 0; i < n; i++)
            out[i] = pc_bf16_to_f32((uint16_t)(b[2 * i] | b[2 * i + 1] << 8));
        return;
    case PC_Q_F64:
        for (int64_t i = 0; i < n; i++) {
            double v;
            memcpy(&v, b + 8 * i, sizeof v);
            out[i] = (float)v;
        }
        return;
    default: break;
    }
    decoder *f = decoder_of(t->id);
    PC_ASSERT(f, "type %s has no decoder", t->name);
    for (int64_t i = 0; i < n; i += t->block, b += t->bytes) f(out + i, b);
}

// -1, or the first of n numbers that is not finite.
static int64_t first_not_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return i;
    return -1;
}

// Round to nearest even; a finite number must stay finite.
static int64_t encode_halves(uint8_t *b, const float *in, int64_t n, bool brain)
{
    for (int64_t i = 0; i < n; i++) {
        const uint16_t h = brain ? pc_f32_to_bf16(in[i]) : pc_f32_to_f16(in[i]);
        const unsigned exp = brain ? 0x7F80u : 0x7C00u;
        b[2 * i] = (uint8_t)h;
        b[2 * i + 1] = (uint8_t)(h >> 8);
        if ((h & exp) == exp) return i;
    }
    return -1;
}

int64_t pc_quant_encode(const pc_quant_type *t, void *out, const float *in, int64_t n)
{
    uint8_t *b = out;
    PC_ASSERT(t->encodes && n % t->block == 0, "%lld numbers as %s", (long long)n, t->name);
    if (!n) return -1;
    if (t->id == PC_Q_F32) {
        memcpy(out, in, (size_t)n * sizeof *in);
        return -1;
    }
    if (t->id == PC_Q_F16 || t->id == PC_Q_BF16) return encode_halves(b, in, n, t->id == PC_Q_BF16);

    encoder *f = encoder_of(t->id);
    PC_ASSERT(f, "type %s has no encoder", t->name);
    for (int64_t i = 0; i < n; i += t->block, b += t->bytes) {
        const int64_t bad = first_not_finite(in + i, t->block);
        if (bad >= 0) return i + bad;
        if (!f(b, in + i)) return i;
    }
    return -1;
}

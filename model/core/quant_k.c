/*
 * quant_k.c - blocks of 256 numbers with two levels of scales (spec: formats.md 3).
 *
 *   Q2_K   u8 s[16], u8 q[64], f16 d, f16 m      y = d (s & 15) n - m (s >> 4),  16 sub-blocks of 16
 *   Q3_K   u8 h[32], u8 q[64], u8 s[12], f16 d   y = d (s - 32) (n - 4 [no high bit])
 *   Q4_K   f16 d, f16 m, u8 s[12], u8 q[128]     y = d sc n - m mn,  8 sub-blocks of 32, six bits for sc and mn
 *   Q5_K   f16 d, f16 m, u8 s[12], u8 h[32], u8 q[128]     likewise with five bits
 *   Q6_K   u8 ql[128], u8 qh[64], i8 s[16], f16 d          y = d s (n - 32),  16 sub-blocks of 16
 *
 * Encoding minimises the squared error. For each sub-block a few roundings are tried and, for each, the scale (and
 * minimum) of least squares; then the two levels are rounded, and neighbouring integers of the lower level are tried
 * with the scale that the file will hold. The plain encoder (scale from the largest and smallest number) is one of the
 * candidates, so the search never does worse than it.
 */
#include "model/core/quant.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { BLOCK = 256, TRIES = 6 };

static float get_f16(const uint8_t *b)
{
    return pc_f16_to_f32((uint16_t)(b[0] | b[1] << 8));
}

static bool put_f16(uint8_t *b, float x)
{
    const uint16_t h = pc_f32_to_f16(x);
    b[0] = (uint8_t)h;
    b[1] = (uint8_t)(h >> 8);
    return (h & 0x7C00u) != 0x7C00u;
}

/* ---- decode ---- */

void pc_quant_decode_q2k(float *y, const uint8_t *b)
{
    const uint8_t *s = b, *q = b + 16;
    const float d = get_f16(b + 80), m = get_f16(b + 82);
    for (int i = 0; i < BLOCK; i++) {
        const int sub = i / 16, n = q[32 * (i / 128) + i % 32] >> 2 * (i / 32 % 4) & 3;
        y[i] = d * (float)(s[sub] & 15) * (float)n - m * (float)(s[sub] >> 4);
    }
}

void pc_quant_decode_q3k(float *y, const uint8_t *b)
{
    const uint8_t *h = b, *q = b + 32, *s = b + 96;
    const float d = get_f16(b + 108);
    float scale[16];
    for (int i = 0; i < 16; i++) {
        const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4, high = s[8 + i % 4] >> 2 * (i / 4) & 3;
        scale[i] = d * (float)((low | high << 4) - 32);
    }
    for (int i = 0; i < BLOCK; i++) {
        const int low = q[32 * (i / 128) + i % 32] >> 2 * (i / 32 % 4) & 3;
        const int high = h[i % 32] >> i / 32 & 1;
        y[i] = scale[i / 16] * (float)(low - (high ? 0 : 4));
    }
}

// The eight six-bit scales and minima of Q4_K and Q5_K.
static void six_bits(uint8_t scale[8], uint8_t min[8], const uint8_t *s)
{
    for (int j = 0; j < 4; j++) {
        scale[j] = s[j] & 63;
        min[j] = s[j + 4] & 63;
        scale[j + 4] = (uint8_t)((s[j + 8] & 15) | (s[j] >> 6) << 4);
        min[j + 4] = (uint8_t)(s[j + 8] >> 4 | (s[j + 4] >> 6) << 4);
    }
}

static void put_six_bits(uint8_t *s, const uint8_t scale[8], const uint8_t min[8])
{
    for (int j = 0; j < 4; j++) {
        s[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
        s[j + 4] = (uint8_t)(min[j] | (min[j + 4] >> 4) << 6);
        s[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
    }
}

void pc_quant_decode_q4k(float *y, const uint8_t *b)
{
    const float d = get_f16(b), m = get_f16(b + 2);
    const uint8_t *q = b + 16;
    uint8_t scale[8], min[8];
    six_bits(scale, min, b + 4);
    for (int j = 0; j < 8; j++, y += 32) {
        const float ds = d * (float)scale[j], ms = m * (float)min[j];
        const int shift = j % 2 * 4;
        for (int l = 0; l < 32; l++) y[l] = ds * (float)(q[32 * (j / 2) + l] >> shift & 15) - ms;
    }
}

void pc_quant_decode_q5k(float *y, const uint8_t *b)
{
    const float d = get_f16(b), m = get_f16(b + 2);
    const uint8_t *h = b + 16, *q = b + 48;
    uint8_t scale[8], min[8];
    six_bits(scale, min, b + 4);
    for (int j = 0; j < 8; j++, y += 32) {
        const float ds = d * (float)scale[j], ms = m * (float)min[j];
        const int shift = j % 2 * 4;
        for (int l = 0; l < 32; l++) {
            const int n = (q[32 * (j / 2) + l] >> shift & 15) | (h[l] >> j & 1) << 4;
            y[l] = ds * (float)n - ms;
        }
    }
}

void pc_quant_decode_q6k(float *y, const uint8_t *b)
{
    const uint8_t *ql = b, *qh = b + 128;
    const float d = get_f16(b + 208);
    float scale[16];
    for (int i = 0; i < 16; i++) scale[i] = d * (float)(int8_t)b[192 + i];
    for (int i = 0; i < BLOCK; i++) {
        const int half = i / 128, g = i / 32 % 4, l = i % 32;
        const int low = ql[64 * half + 32 * (g & 1) + l] >> (g < 2 ? 0 : 4) & 15;
        const int high = qh[32 * half + l] >> 2 * g & 3;
        y[i] = scale[i / 16] * (float)((low | high << 4) - 32);
    }
}

/* ---- Q4_K: a scale and a minimum per 32 numbers ---- */

static int nearest(float v, int least, int most)
{
    if (!(v > (float)least)) return least;
    return v >= (float)most ? most : (int)floorf(v + 0.5f);
}

// 1 / scale; 0 for none, and for one so small that nothing is left of it.
static float inverse(float scale)
{
    const float r = 1.0f / scale;
    return scale != 0.0f && isfinite(r) ? r : 0.0f;
}

static float sum_of(const float *x, int n)
{
    float lane[4] = {0.0f};
    for (int l = 0; l < n; l += 4)
        for (int k = 0; k < 4; k++) lane[k] += x[l + k];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

/*
 * n = round((x + min) / scale) held to 0..15; returns the squared error of scale n - min. Rounding and bounds go by way
 * of int: loops that compilers turn into vectors of the plainest processors. The quotient is far below 2^31: scales are
 * within a small factor of the largest number's share (sane).
 */
static float fit4(float n[32], const float *x, float scale, float min)
{
    const float id = inverse(scale);
    float e[32];
    for (int l = 0; l < 32; l++) {
        int q = (int)((x[l] + min) * id + 0.5f);
        q = q < 0 ? 0 : q;
        q = q > 15 ? 15 : q;
        n[l] = (float)q;
    }
    for (int l = 0; l < 32; l++) {
        const float d = scale * n[l] - min - x[l];
        e[l] = d * d;
    }
    return sum_of(e, 32);
}

// A scale and minimum near enough to the plain ones.
static bool sane(float scale, float min, const float plain[2])
{
    return scale > plain[0] / 16.0f && scale < plain[0] * 16.0f && min >= 0.0f &&
           min < 2.0f * plain[1] + 16.0f * plain[0];
}

// The scale and minimum (>= 0) of least squares for given n; false when the n are all alike.
static bool solve4(float *scale, float *min, const float *x, const float *n)
{
    float squares[32], products[32];
    for (int l = 0; l < 32; l++) {
        squares[l] = n[l] * n[l];
        products[l] = n[l] * x[l];
    }
    const float N = sum_of(n, 32), NN = sum_of(squares, 32);
    const float X = sum_of(x, 32), NX = sum_of(products, 32);
    const float det = 32.0f * NN - N * N; // whole numbers: exact
    if (!(det > 0.0f)) return false;
    *scale = (32.0f * NX - N * X) / det;
    *min = (N * NX - NN * X) / det;
    if (*min < 0.0f) { // a minimum above zero cannot be said
        *min = 0.0f;
        *scale = NX / NN;
    }
    return true;
}

// scale and min of one sub-block; the plain ones in plain[2].
static void search4(float *scale, float *min, float plain[2], const float *x)
{
    float least = 0.0f, most = x[0];
    for (int l = 0; l < 32; l++) {
        least = x[l] < least ? x[l] : least;
        most = x[l] > most ? x[l] : most;
    }
    plain[0] = *scale = (most - least) / 15.0f;
    plain[1] = *min = -least;
    if (!(*scale > 0.0f)) return;
    float n[32], best = fit4(n, x, *scale, *min);
    for (int t = 0; t < TRIES; t++) {
        float a = plain[0] * 15.0f / (13.5f + 0.375f * (float)t), b = plain[1];
        fit4(n, x, a, b);
        if (!solve4(&a, &b, x, n) || !sane(a, b, plain)) continue;
        const float error = fit4(n, x, a, b);
        if (error < best) {
            best = error;
            *scale = a;
            *min = b;
        }
    }
}

// A whole block from sub-block scales and minima; the squared error, or FLT_MAX when f16 cannot hold them.
static float block4(uint8_t *b, const float *x, const float scale[8], const float min[8],
                    int around)
{
    float most_scale = 0.0f, most_min = 0.0f, total = 0.0f;
    static const int step[5][2] = {{0, 0}, {-1, 0}, {1, 0}, {0, -1}, {0, 1}};
    uint8_t sc[8], mn[8];
    float n[2][32];
    for (int j = 0; j < 8; j++) {
        most_scale = scale[j] > most_scale ? scale[j] : most_scale;
        most_min = min[j] > most_min ? min[j] : most_min;
    }
    if (!put_f16(b, most_scale / 63.0f) || !put_f16(b + 2, most_min / 63.0f)) return FLT_MAX;
    const float d = get_f16(b), m = get_f16(b + 2), id = inverse(d), im = inverse(m);
    for (int j = 0; j < 8; j++) {
        const int s0 = nearest(scale[j] * id, 0, 63), m0 = nearest(min[j] * im, 0, 63);
        float best = INFINITY;
        sc[j] = mn[j] = 0;
        for (int t = 0; t < (around ? 5 : 1); t++) {
            const int s = s0 + step[t][0], k = m0 + step[t][1];
            if (s < 0 || s > 63 || k < 0 || k > 63) continue;
            const float e = fit4(n[j % 2], x + 32 * j, d * (float)s, m * (float)k);
            if (!(e < best)) continue;
            best = e;
            sc[j] = (uint8_t)s;
            mn[j] = (uint8_t)k;
        }
        fit4(n[j % 2], x + 32 * j, d * (float)sc[j], m * (float)mn[j]);
        if (j % 2)
            for (int l = 0; l < 32; l++)
                b[16 + 32 * (j / 2) + l] = (uint8_t)((int)n[0][l] | (int)n[1][l] << 4);
        total += best;
    }
    put_six_bits(b + 4, sc, mn);
    return total;
}

bool pc_quant_encode_q4k(uint8_t *b, const float *x)
{
    float scale[8], min[8], plain_scale[8], plain_min[8];
    uint8_t other[144];
    for (int j = 0; j < 8; j++) {
        float plain[2];
        search4(&scale[j], &min[j], plain, x + 32 * j);
        plain_scale[j] = plain[0];
        plain_min[j] = plain[1];
    }
    const float plain = block4(b, x, plain_scale, plain_min, false);
    const float found = block4(other, x, scale, min, true);
    if (found < plain) memcpy(b, other, sizeof other);
    return plain < FLT_MAX || found < FLT_MAX;
}

/* ---- Q6_K: a signed scale per 16 numbers ---- */

// n = round(x / scale) held to -32..31; returns the squared error of scale n.
static float fit6(float n[16], const float *x, float scale)
{
    const float id = inverse(scale);
    float e[16];
    for (int l = 0; l < 16; l++) {
        int q = (int)(x[l] * id + 32.5f); // towards zero, which is down where it is not held anyway
        q = q < 0 ? 0 : q;
        q = q > 63 ? 63 : q;
        n[l] = (float)(q - 32);
    }
    for (int l = 0; l < 16; l++) {
        const float d = scale * n[l] - x[l];
        e[l] = d * d;
    }
    return sum_of(e, 16);
}

// The largest number in magnitude takes the side that has one level more.
static void search6(float *scale, float *plain, const float *x)
{
    float extreme = x[0];
    for (int l = 1; l < 16; l++)
        if (fabsf(x[l]) > fabsf(extreme)) extreme = x[l];
    *plain = *scale = extreme / -32.0f;
    if (extreme == 0.0f) return;
    float n[16], best = fit6(n, x, *scale);
    for (int t = 0; t < TRIES; t++) {
        float squares[16], products[16];
        fit6(n, x, extreme / (-30.5f - 0.5f * (float)t));
        for (int l = 0; l < 16; l++) {
            squares[l] = n[l] * n[l];
            products[l] = n[l] * x[l];
        }
        const float NN = sum_of(squares, 16), a = sum_of(products, 16) / NN;
        if (!(NN > 0.0f) || !(fabsf(a) > fabsf(*plain) / 16.0f)) continue;
        const float error = fit6(n, x, a);
        if (error < best) {
            best = error;
            *scale = a;
        }
    }
}

static float block6(uint8_t *b, const float *x, const float scale[16], bool around)
{
    float most = scale[0], total = 0.0f;
    float n[BLOCK];
    for (int j = 1; j < 16; j++)
        if (fabsf(scale[j]) > fabsf(most)) most = scale[j];
    if (!put_f16(b + 208, most / -128.0f)) return FLT_MAX;
    const float d = get_f16(b + 208), id = inverse(d);
    for (int j = 0; j < 16; j++) {
        const int s0 = nearest(scale[j] * id, -128, 127);
        float best = INFINITY;
        int sc = 0;
        for (int s = s0 - around; s <= s0 + around; s++) {
            if (s < -128 || s > 127) continue;
            const float e = fit6(n + 16 * j, x + 16 * j, d * (float)s);
            if (!(e < best)) continue;
            best = e;
            sc = s;
        }
        b[192 + j] = (uint8_t)(int8_t)sc;
        fit6(n + 16 * j, x + 16 * j, d * (float)sc);
        total += best;
    }
    memset(b, 0, 192);
    for (int i = 0; i < BLOCK; i++) {
        const int half = i / 128, g = i / 32 % 4, l = i % 32, k = (int)n[i] + 32;
        uint8_t *lo = &b[64 * half + 32 * (g & 1) + l], *hi = &b[128 + 32 * half + l];
        *lo = (uint8_t)(*lo | (k & 15) << (g < 2 ? 0 : 4));
        *hi = (uint8_t)(*hi | (k >> 4) << 2 * g);
    }
    return total;
}

bool pc_quant_encode_q6k(uint8_t *b, const float *x)
{
    float scale[16], plain_scale[16];
    uint8_t other[210];
    for (int j = 0; j < 16; j++) search6(&scale[j], &plain_scale[j], x + 16 * j);
    const float plain = block6(b, x, plain_scale, false), found = block6(other, x, scale, true);
    if (found < plain) memcpy(b, other, sizeof other);
    return plain < FLT_MAX || found < FLT_MAX;
}

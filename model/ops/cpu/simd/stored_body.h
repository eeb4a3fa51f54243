/*
 * stored_body.h - weights in the types of their files, by vectors (stored.h).
 *
 * Included once by an instruction set's stored.c. Every number comes out with the very bits of the plain C: scales
 * multiply and minima are subtracted in the same order, without contraction.
 */
#include "model/core/quant.h"
#include "model/ops/cpu/simd/product.h"
#include "model/ops/cpu/simd/simd.h"
#include "model/ops/cpu/stored.h"

#if defined(__AVX512F__)

typedef __m512i vi;
#define vi_set1(x)    _mm512_set1_epi32(x)
#define vi_and(a, b)  _mm512_and_si512(a, b)
#define vi_or(a, b)   _mm512_or_si512(a, b)
#define vi_sub(a, b)  _mm512_sub_epi32(a, b)
#define vi_left(a, n) _mm512_slli_epi32(a, n)
#define vi_down(a, n) _mm512_srli_epi32(a, n)
#define vi_float(a)   _mm512_cvtepi32_ps(a)
#define vi_bits(a)    _mm512_castsi512_ps(a)

PC_INLINE vi vi_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
PC_INLINE vi vi_i8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
PC_INLINE vi vi_u16(const uint8_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
PC_INLINE vf v_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

#else

typedef __m256i vi;
#define vi_set1(x)    _mm256_set1_epi32(x)
#define vi_and(a, b)  _mm256_and_si256(a, b)
#define vi_or(a, b)   _mm256_or_si256(a, b)
#define vi_sub(a, b)  _mm256_sub_epi32(a, b)
#define vi_left(a, n) _mm256_slli_epi32(a, n)
#define vi_down(a, n) _mm256_srli_epi32(a, n)
#define vi_float(a)   _mm256_cvtepi32_ps(a)
#define vi_bits(a)    _mm256_castsi256_ps(a)

PC_INLINE vi vi_u8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
PC_INLINE vi vi_i8(const uint8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
PC_INLINE vi vi_u16(const uint8_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
// Exponent and fraction move up 13 bits and 2^112 corrects the exponent, of denormals too; what was 31, infinity and
// NaN, becomes 255.
PC_INLINE vf v_f16(const uint8_t *p)
{
    const vi h = vi_u16(p), a = vi_left(vi_and(h, vi_set1(0x7fff)), 13);
    const vi sign = vi_left(vi_and(h, vi_set1(0x8000)), 16);
    const vi endless =
        _mm256_and_si256(_mm256_cmpgt_epi32(a, vi_set1((0x7c00 << 13) - 1)), vi_set1(0x7f800000));
    const vf f = v_mul(vi_bits(a), v_set1(0x1p112f));
    return _mm256_or_ps(f, vi_bits(vi_or(sign, endless)));
}

#endif

PC_INLINE vf v_bf16(const uint8_t *p)
{
    return vi_bits(vi_left(vi_u16(p), 16));
}

// A block's scale; infinity and NaN take the long way.
static inline float half(const uint8_t *b)
{
    const uint32_t h = (uint32_t)b[0] | (uint32_t)b[1] << 8, bits = (h & 0x7fffu) << 13;
    float f;
    if ((h & 0x7c00u) == 0x7c00u) return pc_f16_to_f32((uint16_t)h);
    memcpy(&f, &bits, sizeof f);
    f *= 0x1p112f;
    return h & 0x8000u ? -f : f;
}

/* ---- blocks ---- */

static void row_q8_0(float *y, const uint8_t *b, int64_t n)
{
    for (int64_t i = 0; i < n; i += 32, b += 34) {
        const vf d = v_set1(half(b));
        PC_UNROLL for (int v = 0; v < 32; v += VW)
            v_store(y + i + v, v_mul(d, vi_float(vi_i8(b + 2 + v))));
    }
}

static void row_q4_0(float *y, const uint8_t *b, int64_t n)
{
    const vi low = vi_set1(15), eight = vi_set1(8);
    for (int64_t i = 0; i < n; i += 32, b += 18) {
        const vf d = v_set1(half(b));
        PC_UNROLL for (int v = 0; v < 16; v += VW)
        {
            const vi q = vi_u8(b + 2 + v);
            v_store(y + i + v, v_mul(d, vi_float(vi_sub(vi_and(q, low), eight))));
            v_store(y + i + 16 + v, v_mul(d, vi_float(vi_sub(vi_down(q, 4), eight))));
        }
    }
}

// Two runs of 32 share their bytes: low and high halves, each run with a scale and a minimum of six bits.
static void row_q4_k(float *y, const uint8_t *b, int64_t n)
{
    const vi low = vi_set1(15);
    for (int64_t i = 0; i < n; i += 256, b += 144) {
        const float d = half(b), m = half(b + 2);
        const uint8_t *s = b + 4;
        for (int j = 0; j < 8; j += 2) {
            float scale[2], min[2];
            for (int h = 0; h < 2; h++) {
                const int g = j + h;
                const int a = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
                const int c = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4;
                scale[h] = d * (float)a;
                min[h] = m * (float)c;
            }
            const uint8_t *q = b + 16 + 16 * j;
            float *to = y + i + 32 * j;
            PC_UNROLL for (int v = 0; v < 32; v += VW)
            {
                const vi x = vi_u8(q + v);
                v_store(to + v,
                        v_sub(v_mul(v_set1(scale[0]), vi_float(vi_and(x, low))), v_set1(min[0])));
                v_store(to + 32 + v,
                        v_sub(v_mul(v_set1(scale[1]), vi_float(vi_down(x, 4))), v_set1(min[1])));
            }
        }
    }
}

// Four bits in one place, two in another; a scale of eight bits per 16 numbers.
static void row_q6_k(float *y, const uint8_t *b, int64_t n)
{
    const vi low = vi_set1(15), two = vi_set1(3), middle = vi_set1(32);
    for (int64_t i = 0; i < n; i += 256, b += 210) {
        const float d = half(b + 208);
        for (int h = 0; h < 2; h++)
            for (int l = 0; l < 32; l += VW) {
                const vi a = vi_u8(b + 64 * h + l), c = vi_u8(b + 64 * h + 32 + l);
                const vi up = vi_u8(b + 128 + 32 * h + l);
                const vi q[4] = {
                    vi_or(vi_and(a, low), vi_left(vi_and(up, two), 4)),
                    vi_or(vi_and(c, low), vi_left(vi_and(vi_down(up, 2), two), 4)),
                    vi_or(vi_down(a, 4), vi_left(vi_and(vi_down(up, 4), two), 4)),
                    vi_or(vi_down(c, 4), vi_left(vi_down(up, 6), 4)),
                };
                PC_UNROLL for (int g = 0; g < 4; g++)
                {
                    const float scale = d * (float)(int8_t)b[192 + 8 * h + 2 * g + l / 16];
                    v_store(y + i + 128 * h + 32 * g + l,
                            v_mul(v_set1(scale), vi_float(vi_sub(q[g], middle))));
                }
            }
    }
}

void S(pc_stored_row)(float *out, pc_dtype t, const void *row, int64_t k, int64_t n)
{
    const uint8_t *b = (const uint8_t *)row + pc_dtype_bytes(t, k);
    const int64_t whole = n / VW * VW;
    switch (t) {
    case PC_BF16:
        for (int64_t i = 0; i < whole; i += VW) v_store(out + i, v_bf16(b + 2 * i));
        break;
    case PC_F16:
        for (int64_t i = 0; i < whole; i += VW) v_store(out + i, v_f16(b + 2 * i));
        break;
    case PC_Q8_0: row_q8_0(out, b, n); return;
    case PC_Q4_0: row_q4_0(out, b, n); return;
    case PC_Q4_K: row_q4_k(out, b, n); return;
    case PC_Q6_K: row_q6_k(out, b, n); return;
    default: pc_stored_row(out, t, row, k, n); return;
    }
    if (whole < n) pc_stored_row(out + whole, t, row, k + whole, n - whole);
}

/* ---- few rows: dot products while the matrix passes by once ---- */

enum { CHUNK = 512 }; // numbers of a row widened at a time, in the first-level cache

typedef vf load_function(const uint8_t *p);

PC_INLINE void two_byte_dots(float *sums, const uint8_t *w, int64_t pitch, const float *x,
                             int64_t K, load_function *load)
{
    vf acc[PC_THIN_N][2];
    PC_UNROLL for (int i = 0; i < PC_THIN_N; i++) acc[i][0] = acc[i][1] = v_zero();
    for (int64_t k = 0; k < K; k += 2 * VW) {
        const vf x0 = v_load(x + k), x1 = v_load(x + k + VW);
        PC_UNROLL for (int i = 0; i < PC_THIN_N; i++)
        {
            const uint8_t *p = w + i * pitch + 2 * k;
            acc[i][0] = v_fma(load(p), x0, acc[i][0]);
            acc[i][1] = v_fma(load(p + 2 * VW), x1, acc[i][1]);
        }
    }
    PC_UNROLL for (int i = 0; i < PC_THIN_N; i++) sums[i] = v_sum(v_add(acc[i][0], acc[i][1]));
}

// acc[m][i] += x[m] . wide[i] over kc numbers; `rows` is a constant where it is called.
PC_INLINE void add_wide(vf acc[][PC_THIN_N], int rows, float wide[PC_THIN_N][CHUNK], const float *x,
                        int64_t lda, int64_t kc)
{
    vf sum[PC_THIN_N][PC_THIN_N];
    PC_UNROLL for (int m = 0; m < rows; m++) PC_UNROLL for (int i = 0; i < PC_THIN_N; i++)
        sum[m][i] = acc[m][i];
    for (int64_t k = 0; k < kc; k += VW) {
        vf w[PC_THIN_N];
        PC_UNROLL for (int i = 0; i < PC_THIN_N; i++) w[i] = v_load(wide[i] + k);
        PC_UNROLL for (int m = 0; m < rows; m++)
        {
            const vf xv = v_load_tail(x + m * lda + k, kc - k);
            PC_UNROLL for (int i = 0; i < PC_THIN_N; i++) sum[m][i] = v_fma(w[i], xv, sum[m][i]);
        }
    }
    PC_UNROLL for (int m = 0; m < rows; m++) PC_UNROLL for (int i = 0; i < PC_THIN_N; i++)
        acc[m][i] = sum[m][i];
}

// Any type, up to PC_THIN rows of A: pieces of four rows of W are widened, then multiplied.
static void widened_dots(float *sums, const pc_product *p, int64_t n0, int64_t width)
{
    float wide[PC_THIN_N][CHUNK];
    vf acc[PC_THIN][PC_THIN_N];
    for (int64_t m = 0; m < p->M; m++)
        for (int i = 0; i < PC_THIN_N; i++) acc[m][i] = v_zero();
    for (int64_t k0 = 0; k0 < p->K; k0 += CHUNK) {
        const int64_t kc = pc_min64(CHUNK, p->K - k0), padded = (kc + VW - 1) / VW * VW;
        for (int64_t i = 0; i < PC_THIN_N; i++) {
            const void *row =
                (const uint8_t *)p->stored + pc_dtype_bytes(p->type, (n0 + i) * p->ldb);
            const int64_t there = i < width ? kc : 0;
            if (there) S(pc_stored_row)(wide[i], p->type, row, k0, kc);
            for (int64_t k = there; k < padded; k++) wide[i][k] = 0.0f;
        }
        for (int64_t m = 0; m < p->M;) {
            const int64_t rows = p->M - m >= PC_THIN_N ? PC_THIN_N : 1;
            const float *x = p->a + m * p->lda + k0;
            if (rows == PC_THIN_N)
                add_wide(acc + m, PC_THIN_N, wide, x, p->lda, kc);
            else
                add_wide(acc + m, 1, wide, x, p->lda, kc);
            m += rows;
        }
    }
    for (int64_t m = 0; m < p->M; m++)
        for (int64_t i = 0; i < width; i++) sums[m * PC_THIN_N + i] = v_sum(acc[m][i]);
}

void S(pc_stored_dots)(float *sums, const pc_product *p, int64_t n0, int64_t width)
{
    const bool halves = p->type == PC_BF16 || p->type == PC_F16;
    if (p->M != 1 || width != PC_THIN_N || !halves || p->K % (2 * VW)) {
        widened_dots(sums, p, n0, width);
        return;
    }
    const uint8_t *w = (const uint8_t *)p->stored + 2 * n0 * p->ldb;
    if (p->type == PC_BF16)
        two_byte_dots(sums, w, 2 * p->ldb, p->a, p->K, v_bf16);
    else
        two_byte_dots(sums, w, 2 * p->ldb, p->a, p->K, v_f16);
}

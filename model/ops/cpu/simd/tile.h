/*
 * tile.h - the register tile all products are made of.
 *
 *   acc[m][v] += sum_k a[m a_row + k a_k] b[k b_k + v VW]      m < rows, v < vectors
 *
 * rows and vectors are constants where tile_sum is called: everything unrolls into registers.
 * AVX-512: 14 x 2 vectors of 16, 28 of 32 registers; AVX2: 6 x 2 vectors of 8, 12 of 16.
 */
#ifndef PC_OPS_CPU_SIMD_TILE_H
#define PC_OPS_CPU_SIMD_TILE_H

#include "model/ops/cpu/simd/simd.h"

#if defined(__AVX512F__)
enum { MR = 14 };
#define PC_FOR_TILE_ROWS(X)                                                                        \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#else
enum { MR = 6 };
#define PC_FOR_TILE_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#endif
enum { NV = 2, NR = NV * VW };

PC_INLINE void tile_sum(vf acc[MR][NV], int rows, int vectors, int64_t K, const float *a,
                        int64_t a_row, int64_t a_k, const float *b, int64_t b_k)
{
    for (int64_t k = 0; k < K; k++) {
        vf bv[NV];
        PC_UNROLL for (int v = 0; v < vectors; v++) bv[v] = v_load(b + v * VW);
        PC_UNROLL for (int m = 0; m < rows; m++)
        {
            const vf x = v_set1(a[m * a_row]);
            PC_UNROLL for (int v = 0; v < vectors; v++) acc[m][v] = v_fma(x, bv[v], acc[m][v]);
        }
        a += a_k;
        b += b_k;
    }
}

PC_INLINE void tile_zero(vf acc[MR][NV], int rows, int vectors)
{
    PC_UNROLL for (int m = 0; m < rows; m++)
    {
        PC_UNROLL for (int v = 0; v < vectors; v++) acc[m][v] = v_zero();
    }
}

/* out[k ldo + i] = in[i ldi + k] for i, k < VW. */
#if defined(__AVX512F__)
PC_INLINE vf unpack_pairs(vf a, vf b, bool high)
{
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
}

PC_INLINE void transpose_square(float *out, int64_t ldo, const float *in, int64_t ldi)
{
    vf r[16], t[16];
    PC_UNROLL for (int i = 0; i < 16; i++) r[i] = v_load(in + i * ldi);
    PC_UNROLL for (int i = 0; i < 8; i++)
    {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    PC_UNROLL for (int i = 0; i < 4; i++)
    {
        r[4 * i] = unpack_pairs(t[4 * i], t[4 * i + 2], false);
        r[4 * i + 1] = unpack_pairs(t[4 * i], t[4 * i + 2], true);
        r[4 * i + 2] = unpack_pairs(t[4 * i + 1], t[4 * i + 3], false);
        r[4 * i + 3] = unpack_pairs(t[4 * i + 1], t[4 * i + 3], true);
    }
    PC_UNROLL for (int i = 0; i < 4; i++)
    {
        t[i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
    }
    PC_UNROLL for (int i = 0; i < 4; i++)
    {
        v_store(out + i * ldo, _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88));
        v_store(out + (8 + i) * ldo, _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd));
        v_store(out + (4 + i) * ldo, _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88));
        v_store(out + (12 + i) * ldo, _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd));
    }
}
#else
PC_INLINE vf unpack_pairs(vf a, vf b, bool high)
{
    const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
    return _mm256_castpd_ps(high ? _mm256_unpackhi_pd(x, y) : _mm256_unpacklo_pd(x, y));
}

PC_INLINE void transpose_square(float *out, int64_t ldo, const float *in, int64_t ldi)
{
    vf r[8], t[8];
    PC_UNROLL for (int i = 0; i < 8; i++) r[i] = v_load(in + i * ldi);
    PC_UNROLL for (int i = 0; i < 4; i++)
    {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    PC_UNROLL for (int i = 0; i < 2; i++)
    {
        r[4 * i] = unpack_pairs(t[4 * i], t[4 * i + 2], false);
        r[4 * i + 1] = unpack_pairs(t[4 * i], t[4 * i + 2], true);
        r[4 * i + 2] = unpack_pairs(t[4 * i + 1], t[4 * i + 3], false);
        r[4 * i + 3] = unpack_pairs(t[4 * i + 1], t[4 * i + 3], true);
    }
    PC_UNROLL for (int i = 0; i < 4; i++)
    {
        v_store(out + i * ldo, _mm256_permute2f128_ps(r[i], r[4 + i], 0x20));
        v_store(out + (4 + i) * ldo, _mm256_permute2f128_ps(r[i], r[4 + i], 0x31));
    }
}
#endif

/*
 * One panel: `width` rows of `in` (rows ldi apart, K long) as columns, out[k lanes + i] = in[i ldi + k],
 * zeros for width <= i < lanes. lanes is a multiple of VW.
 */
PC_INLINE void pack_transposed(float *out, int64_t lanes, const float *in, int64_t ldi,
                               int64_t width, int64_t K)
{
    for (int64_t v = 0; v < lanes; v += VW) {
        const int64_t rows = pc_max64(0, pc_min64(VW, width - v));
        for (int64_t k = 0; k < K; k += VW) {
            const float *from = in + v * ldi + k;
            float *to = out + k * lanes + v;
            if (rows == VW && k + VW <= K) {
                transpose_square(to, lanes, from, ldi);
                continue;
            }
            float square[VW * VW], turned[VW * VW];
            const int64_t columns = pc_min64(VW, K - k);
            for (int64_t i = 0; i < VW; i++)
                v_store(square + i * VW,
                        i < rows ? v_load_tail(from + i * ldi, columns) : v_zero());
            transpose_square(turned, VW, square, VW);
            for (int64_t i = 0; i < columns; i++) v_store(to + i * lanes, v_load(turned + i * VW));
        }
    }
}

#endif

/*
 * simd.h - one vocabulary for AVX2 and AVX-512: the kernels of this folder are written once.
 *
 * A file of avx2/ or avx512/ is one line: it includes a body from here, compiled with its own -m
 * flags. S(name) is name_avx2 or name_avx512; VW is the number of floats in a vector.
 *
 *   simd.h         this file                     product.h        the matrix product's interface
 *   math.h         exp, logistic, GELU           product_body.h   packing, register tiles, epilogues
 *   linear_body.h  linear, linear_act            norm_body.h      layernorm, rmsnorm
 *   act_body.h     act, swiglu                   attention_body.h attention over intervals
 *   xent_body.h    linear_xent                   rows_body.h      rope, add, copies by row
 *   optim_body.h   adamw, accumulate ...         stored_body.h    bf16, f16, blocks: widened by vectors
 *   overlay_body.h the slots these replace
 *
 * Comparisons keep NaN: v_max(c, x) and v_min(c, x) return x when x is NaN, so the constant goes first.
 */
#ifndef PC_OPS_CPU_SIMD_H
#define PC_OPS_CPU_SIMD_H

#include <immintrin.h>
#include <string.h>

#include "model/ops/cpu/portable.h"

#define PC_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define PC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PC_UNROLL _Pragma("GCC unroll 32")
#endif

#if defined(__AVX512F__)

#define S(name) name##_avx512
enum { VW = 16 };
typedef __m512 vf;
typedef __mmask16 vmask;

#define v_load(p)         _mm512_loadu_ps(p)
#define v_store(p, x)     _mm512_storeu_ps(p, x)
#define v_set1(x)         _mm512_set1_ps(x)
#define v_zero()          _mm512_setzero_ps()
#define v_fma(a, b, c)    _mm512_fmadd_ps(a, b, c)  // a b + c
#define v_fnma(a, b, c)   _mm512_fnmadd_ps(a, b, c) // c - a b
#define v_add(a, b)       _mm512_add_ps(a, b)
#define v_sub(a, b)       _mm512_sub_ps(a, b)
#define v_mul(a, b)       _mm512_mul_ps(a, b)
#define v_div(a, b)       _mm512_div_ps(a, b)
#define v_sqrt(a)         _mm512_sqrt_ps(a)
#define v_max(a, b)       _mm512_max_ps(a, b)
#define v_min(a, b)       _mm512_min_ps(a, b)
#define v_abs(a)          _mm512_abs_ps(a)
#define v_round(a)        _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_sum(a)          _mm512_reduce_add_ps(a)
#define v_max_of(a)       _mm512_reduce_max_ps(a)
#define v_select(m, a, b) _mm512_mask_blend_ps(m, b, a) // m ? a : b
#define v_negative(x)     _mm512_movepi32_mask(_mm512_castps_si512(x))
#define v_not_positive(x) _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LE_OQ)

// The lanes [begin, end), which may lie outside 0 .. VW.
PC_INLINE vmask v_lanes(int64_t begin, int64_t end)
{
    const unsigned low = begin <= 0 ? 0xffffu : begin >= VW ? 0u : 0xffffu << begin;
    const unsigned high = end >= VW ? 0xffffu : end <= 0 ? 0u : (1u << end) - 1u;
    return (vmask)(low & high & 0xffffu);
}
PC_INLINE vf v_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps((vmask)((1u << n) - 1u), p);
}
PC_INLINE void v_store_n(float *p, int64_t n, vf x)
{
    _mm512_mask_storeu_ps(p, (vmask)((1u << n) - 1u), x);
}
// x 2^n, n whole; overflows to infinity, underflows by denormals to zero.
#define v_scale(x, n) _mm512_scalef_ps(x, n)
// 1 / x to an error of 2^-23, for |x| in 2^-100 .. 2^125.
PC_INLINE vf v_recip(vf x)
{
    const vf r = _mm512_rcp14_ps(x);
    return v_mul(r, v_fnma(x, r, v_set1(2.0f)));
}

#else

#define S(name) name##_avx2
enum { VW = 8 };
typedef __m256 vf;
typedef __m256 vmask;

#define v_load(p)         _mm256_loadu_ps(p)
#define v_store(p, x)     _mm256_storeu_ps(p, x)
#define v_set1(x)         _mm256_set1_ps(x)
#define v_zero()          _mm256_setzero_ps()
#define v_fma(a, b, c)    _mm256_fmadd_ps(a, b, c)  // a b + c
#define v_fnma(a, b, c)   _mm256_fnmadd_ps(a, b, c) // c - a b
#define v_add(a, b)       _mm256_add_ps(a, b)
#define v_sub(a, b)       _mm256_sub_ps(a, b)
#define v_mul(a, b)       _mm256_mul_ps(a, b)
#define v_div(a, b)       _mm256_div_ps(a, b)
#define v_sqrt(a)         _mm256_sqrt_ps(a)
#define v_max(a, b)       _mm256_max_ps(a, b)
#define v_min(a, b)       _mm256_min_ps(a, b)
#define v_abs(a)          _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define v_round(a)        _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_select(m, a, b) _mm256_blendv_ps(b, a, m) // m ? a : b
#define v_negative(x)     (x)                       // blendv looks at the sign
#define v_not_positive(x) _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LE_OQ)

PC_INLINE float v_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
PC_INLINE float v_max_of(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
PC_INLINE __m256i v_first_lanes(int64_t n)
{
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(const void *)(ones + 8 - n));
}
// The lanes [begin, end), which may lie outside 0 .. VW.
PC_INLINE vmask v_lanes(int64_t begin, int64_t end)
{
    const int64_t b = begin < 0    ? 0
                      : begin > VW ? VW
                                   : begin,
                  e = end < 0    ? 0
                      : end > VW ? VW
                                 : end;
    return _mm256_castsi256_ps(_mm256_andnot_si256(v_first_lanes(b), v_first_lanes(e)));
}
PC_INLINE vf v_load_n(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, v_first_lanes(n));
}
PC_INLINE void v_store_n(float *p, int64_t n, vf x)
{
    _mm256_maskstore_ps(p, v_first_lanes(n), x);
}
// x 2^n, n whole in -252 .. 254; overflows to infinity, underflows by denormals to zero.
PC_INLINE vf v_scale(vf x, vf n)
{
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    const vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return v_mul(v_mul(x, a), b);
}
#define v_recip(x)        v_div(v_set1(1.0f), x)

#endif

#define PC_DECLARE_SIMD_FORWARD(name, args)  void S(name##_forward) args;
#define PC_DECLARE_SIMD_BACKWARD(name, args) void S(name##_backward) args;
#define PC_DECLARE_SIMD_TRAIN(name, args)    void S(name) args;
PC_OP_LIST(PC_DECLARE_SIMD_FORWARD, PC_DECLARE_SIMD_BACKWARD, PC_DECLARE_SIMD_TRAIN)

// A loop over C elements by vectors, the last one partial: n is how many lanes count.
PC_INLINE vf v_load_tail(const float *p, int64_t n)
{
    return n >= VW ? v_load(p) : v_load_n(p, n);
}
PC_INLINE void v_store_tail(float *p, int64_t n, vf x)
{
    if (n >= VW)
        v_store(p, x);
    else
        v_store_n(p, n, x);
}

// What forward kept was written long ago and is no longer near: backward asks for it PC_AHEAD floats before it reads
// it. Pages end every 1024 floats, and the processor's own guesses with them. Nothing need be there.
#define PC_AHEAD 768
PC_INLINE void v_ask_ahead(const float *p)
{
    _mm_prefetch((const char *)((uintptr_t)p + PC_AHEAD * sizeof *p), _MM_HINT_T0);
}

#endif

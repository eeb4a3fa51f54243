/*
 * portable_math.h - exp that compilers turn into vector code.
 *
 * libm's expf is a call per element; softmax and the sigmoid kinds of activation are little else.
 * pc_exp is branch-free arithmetic (reduction by a ln 2 in two parts, a polynomial of degree 6, scaling
 * in two steps so that denormals and overflow come out right): within 1.0 ulp of exp over the whole
 * range of normal results. exp(-inf) = 0, exp(+inf) = inf, NaN stays NaN. In the double copy it is
 * libm's exp.
 */
#ifndef PC_OPS_CPU_PORTABLE_MATH_H
#define PC_OPS_CPU_PORTABLE_MATH_H

#include <math.h>
#include <string.h>

#include "model/ops/cpu/portable.h"

static inline float pc_bits_to_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline uint32_t pc_f32_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

// x where it is below `top`, `top` elsewhere, without a branch: a comparison that fails leaves NaN alone.
static inline float pc_clamp_above(float x, float top)
{
    const uint32_t over = 0u - (uint32_t)(x > top);
    return pc_bits_to_f32((pc_f32_to_bits(x) & ~over) | (pc_f32_to_bits(top) & over));
}

static inline float pc_exp_f32(float x)
{
    // Beyond these bounds the result is 0 or inf.
    x = pc_clamp_above(x, 89.0f);
    x = -pc_clamp_above(-x, 104.0f);
    const float magic = 12582912.0f; // 1.5 2^23: adding it rounds to the nearest integer
    const float shifted = x * 1.44269504f + magic;
    const float n = shifted - magic;
    // ln 2 = 355/512 - 2.1219e-4: n times the first part is exact.
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    // exp(r) = 1 + r + r^2 q(r); q minimises the largest relative error on |r| <= ln(2)/2: 3.1e-9.
    float q = 1.381454058e-3f;
    q = q * r + 8.368745446e-3f;
    q = q * r + 4.166838899e-2f;
    q = q * r + 1.666652113e-1f;
    q = q * r + 4.999999404e-1f;
    const float p = (q * (r * r) + r) + 1.0f;
    // 2^n as 2^a 2^b: n reaches -150 and 128, one exponent field does not.
    const int32_t k = (int32_t)(pc_f32_to_bits(shifted) - 0x4B400000u);
    const int32_t a = k >> 1, b = k - a;
    return p * pc_bits_to_f32((uint32_t)(a + 127) << 23) *
           pc_bits_to_f32((uint32_t)(b + 127) << 23);
}

static inline double pc_exp_f64(double x)
{
    return exp(x);
}

#endif

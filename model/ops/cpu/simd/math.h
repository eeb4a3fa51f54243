/*
 * math.h - exp, logistic and the normal distribution on vectors.
 *
 *   v_exp       x = n ln 2 + r, |r| <= ln 2 / 2; 2^n times a polynomial of degree 7: relative error
 *               2e-7; 0 below -104, infinity above 89, NaN stays
 *   v_logistic  1 / (1 + exp(-x)), the exponent cut at 87
 *   v_normal    Phi(z) and exp(-z^2/2) together:
 *               Phi(-x) = exp(-x^2/2) q(t), t = 1 / (1 + x/4), x >= 0, q a polynomial of degree 7
 *               fitted to the scaled complementary error function: error of Phi 5e-9 before rounding
 */
#ifndef PC_OPS_CPU_SIMD_MATH_H
#define PC_OPS_CPU_SIMD_MATH_H

#include "model/ops/cpu/simd/simd.h"

PC_INLINE vf v_exp(vf x)
{
    const vf y = v_min(v_set1(89.0f), v_max(v_set1(-104.0f), x));
    const vf n = v_round(v_mul(y, v_set1(1.44269504088896341f)));
    vf r = v_fnma(n, v_set1(0.693147182464599609375f), y);
    r = v_fnma(n, v_set1(-1.904654323148236e-9f), r);
    vf p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), r);
    return v_scale(v_add(p, v_set1(1.0f)), n);
}

PC_INLINE vf v_logistic(vf x)
{
    const vf e = v_exp(v_min(v_set1(87.0f), v_sub(v_zero(), x)));
    return v_recip(v_add(v_set1(1.0f), e));
}

// Phi(z), and *density = exp(-z^2/2).
PC_INLINE vf v_normal(vf z, vf *density)
{
    const vf x = v_min(v_set1(1e6f), v_abs(z));
    const vf t = v_recip(v_fma(x, v_set1(0.25f), v_set1(1.0f)));
    const vf e = v_exp(v_mul(v_mul(x, x), v_set1(-0.5f)));
    vf q = v_set1(-0.09268584619734235f);
    q = v_fma(q, t, v_set1(0.34658188274367935f));
    q = v_fma(q, t, v_set1(-0.276334245279605f));
    q = v_fma(q, t, v_set1(0.2903487106561847f));
    q = v_fma(q, t, v_set1(0.01983224172355587f));
    q = v_fma(q, t, v_set1(0.11359987260524024f));
    q = v_fma(q, t, v_set1(0.0986573791996961f));
    q = v_mul(v_mul(q, t), e);
    *density = e;
    return v_select(v_negative(z), q, v_sub(v_set1(1.0f), q));
}

#endif

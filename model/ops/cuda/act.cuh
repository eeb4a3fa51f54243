/*
 * act.cuh - activation functions and their slopes, by kind at compile time.
 */
#ifndef PC_OPS_CUDA_ACT_CUH
#define PC_OPS_CUDA_ACT_CUH

#include "model/ops/cuda/device.cuh"

// FAST: for what is rounded to bf16 in the end; errors of 1e-6 at most. Without it, to the last bits of f32.
template <bool FAST = false> __device__ __forceinline__ float logistic(float z)
{
    return FAST ? __fdividef(1.0f, 1.0f + __expf(-z)) : 1.0f / (1.0f + expf(-z));
}

template <bool FAST> __device__ __forceinline__ float hyperbolic(float z)
{
    return FAST ? 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * z)) : tanhf(z); // exp may be inf: 1
}

// erf(z / sqrt 2) for e = exp(-z^2 / 2), which the slope wants too: Abramowitz and Stegun 7.1.26, 1.5e-7.
__device__ __forceinline__ float error_function(float z, float e)
{
    const float t = __fdividef(1.0f, 1.0f + 0.3275911f * 0.70710678118654752f * fabsf(z));
    const float p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    return copysignf(1.0f - p * e, z);
}

template <int KIND, bool FAST = false> __device__ __forceinline__ float act_value(float z)
{
    if (KIND == PC_ACT_GELU && FAST) return 0.5f * z * (1.0f + error_function(z, __expf(-0.5f * z * z)));
    if (KIND == PC_ACT_GELU) return 0.5f * z * (1.0f + erff(z * 0.70710678118654752f));
    if (KIND == PC_ACT_GELU_TANH)
        return 0.5f * z * (1.0f + hyperbolic<FAST>(0.79788456080286536f * (z + 0.044715f * z * z * z)));
    if (KIND == PC_ACT_QUICK) return z * logistic<FAST>(1.702f * z);
    if (KIND == PC_ACT_SILU) return z * logistic<FAST>(z);
    return z > 0.0f ? z : z * 0.0f; // RELU; NaN stays
}

template <int KIND, bool FAST = false> __device__ __forceinline__ float act_slope(float z)
{
    if (KIND == PC_ACT_GELU) {
        const float e = FAST ? __expf(-0.5f * z * z) : expf(-0.5f * z * z);
        return 0.5f * (1.0f + (FAST ? error_function(z, e) : erff(z * 0.70710678118654752f))) + z * 0.39894228040143268f * e;
    }
    if (KIND == PC_ACT_GELU_TANH) {
        const float a = 0.79788456080286536f, t = hyperbolic<FAST>(a * (z + 0.044715f * z * z * z));
        return 0.5f * (1.0f + t) + 0.5f * z * (1.0f - t * t) * a * (1.0f + 3.0f * 0.044715f * z * z);
    }
    if (KIND == PC_ACT_QUICK) {
        const float s = logistic<FAST>(1.702f * z);
        return s + 1.702f * z * s * (1.0f - s);
    }
    if (KIND == PC_ACT_SILU) {
        const float s = logistic<FAST>(z);
        return s + z * s * (1.0f - s);
    }
    return z > 0.0f ? 1.0f : 0.0f;
}

#define BY_KIND(kind, ...)                                                                         \
    switch (kind) {                                                                                \
    case PC_ACT_GELU: { enum { KIND = PC_ACT_GELU }; __VA_ARGS__; break; }                         \
    case PC_ACT_GELU_TANH: { enum { KIND = PC_ACT_GELU_TANH }; __VA_ARGS__; break; }               \
    case PC_ACT_QUICK: { enum { KIND = PC_ACT_QUICK }; __VA_ARGS__; break; }                       \
    case PC_ACT_SILU: { enum { KIND = PC_ACT_SILU }; __VA_ARGS__; break; }                         \
    case PC_ACT_RELU: { enum { KIND = PC_ACT_RELU }; __VA_ARGS__; break; }                         \
    }

#endif

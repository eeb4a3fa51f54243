/*
 * act.cuh - activation functions and their slopes, by kind at compile time.
 */
#ifndef PC_OPS_CUDA_ACT_CUH
#define PC_OPS_CUDA_ACT_CUH

#include "model/ops/cuda/device.cuh"

__device__ __forceinline__ float logistic(float z)
{
    return 1.0f / (1.0f + expf(-z));
}

template <int KIND> __device__ __forceinline__ float act_value(float z)
{
    if (KIND == PC_ACT_GELU) return 0.5f * z * (1.0f + erff(z * 0.70710678118654752f));
    if (KIND == PC_ACT_GELU_TANH) {
        const float t = tanhf(0.79788456080286536f * (z + 0.044715f * z * z * z));
        return 0.5f * z * (1.0f + t);
    }
    if (KIND == PC_ACT_QUICK) return z * logistic(1.702f * z);
    if (KIND == PC_ACT_SILU) return z * logistic(z);
    return z > 0.0f ? z : z * 0.0f; // RELU; NaN stays
}

template <int KIND> __device__ __forceinline__ float act_slope(float z)
{
    if (KIND == PC_ACT_GELU)
        return 0.5f * (1.0f + erff(z * 0.70710678118654752f)) + z * 0.39894228040143268f * expf(-0.5f * z * z);
    if (KIND == PC_ACT_GELU_TANH) {
        const float a = 0.79788456080286536f, t = tanhf(a * (z + 0.044715f * z * z * z));
        return 0.5f * (1.0f + t) + 0.5f * z * (1.0f - t * t) * a * (1.0f + 3.0f * 0.044715f * z * z);
    }
    if (KIND == PC_ACT_QUICK) {
        const float s = logistic(1.702f * z);
        return s + 1.702f * z * s * (1.0f - s);
    }
    if (KIND == PC_ACT_SILU) {
        const float s = logistic(z);
        return s + z * s * (1.0f - s);
    }
    return z > 0.0f ? 1.0f : 0.0f;
}

#endif

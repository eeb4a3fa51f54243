/*
 * step.cuh - what optim.cu and muon.cu share: groups of eight numbers of either type, and rounding at random (step.h).
 */
#ifndef PC_OPS_CUDA_STEP_CUH
#define PC_OPS_CUDA_STEP_CUH

#include "model/ops/cuda/device.cuh"
#include "model/ops/step.h"

enum { GROUP = PC_ROUND_GROUP };

__device__ __forceinline__ bool aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

// Eight numbers, by 16 bytes; read and written once a step, so they need no place in the caches.
__device__ __forceinline__ void load(float x[GROUP], const float *p)
{
    const float4 a = __ldcs((const float4 *)p), b = __ldcs((const float4 *)p + 1);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ __forceinline__ void load(float x[GROUP], const bf16 *p)
{
    const uint4 a = __ldcs((const uint4 *)p);
    const uint32_t word[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        x[2 * k] = __uint_as_float(word[k] << 16);
        x[2 * k + 1] = __uint_as_float(word[k] & 0xffff0000u);
    }
}

// The key's words (core/rng.h), and Philox4x32-10 under it.
typedef struct random_key {
    uint32_t k0, k1, s0, s1;
} random_key;

static inline random_key random_key_of(const pc_rng_key *key)
{
    uint32_t k[2] = {0, 0}, c[4] = {0, 0, 0, 0};
    if (key) pc_rng_words(key, 0, k, c);
    return random_key{k[0], k[1], c[2], c[3]};
}

__device__ __forceinline__ void random_words(uint32_t out[4], const random_key &key, uint64_t block)
{
    uint32_t x0 = (uint32_t)block, x1 = (uint32_t)(block >> 32), x2 = key.s0, x3 = key.s1, a = key.k0, b = key.k1;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t p = x0, q = x2;
        x0 = __umulhi(0xCD9E8D57u, q) ^ x1 ^ a;
        x1 = 0xCD9E8D57u * q;
        x2 = __umulhi(0xD2511F53u, p) ^ x3 ^ b;
        x3 = 0xD2511F53u * p;
        a += 0x9E3779B9u;
        b += 0xBB67AE85u;
    }
    out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3;
}

// Up or down by 16 random bits; what is not finite stays so.
__device__ __forceinline__ uint32_t round_by(float x, uint32_t bits)
{
    const uint32_t u = __float_as_uint(x);
    if ((u & 0x7f800000u) == 0x7f800000u) return __bfloat16_as_ushort(__float2bfloat16(x));
    return u + bits >> 16;
}

template <bool RANDOM> __device__ __forceinline__ void store(float *p, const float x[GROUP], const random_key &, uint64_t, int)
{
    __stcs((float4 *)p, make_float4(x[0], x[1], x[2], x[3]));
    __stcs((float4 *)p + 1, make_float4(x[4], x[5], x[6], x[7]));
}
template <bool RANDOM>
__device__ __forceinline__ void store(bf16 *p, const float x[GROUP], const random_key &key, uint64_t group, int role)
{
    uint32_t word[4], bits[4];
    if (RANDOM) random_words(bits, key, group * PC_ROUNDS + (uint64_t)role);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (RANDOM)
            word[k] = round_by(x[2 * k], bits[k] & 0xffffu) | round_by(x[2 * k + 1], bits[k] >> 16) << 16;
        else
            word[k] = (uint32_t)__bfloat16_as_ushort(__float2bfloat16(x[2 * k])) |
                      (uint32_t)__bfloat16_as_ushort(__float2bfloat16(x[2 * k + 1])) << 16;
    }
    __stcs((uint4 *)p, make_uint4(word[0], word[1], word[2], word[3]));
}

// Number `at` of the whole list, alone.
template <bool RANDOM> __device__ __forceinline__ void put_one(float *p, int64_t i, float x, const random_key &, int64_t, int)
{
    p[i] = x;
}
template <bool RANDOM>
__device__ __forceinline__ void put_one(bf16 *p, int64_t i, float x, const random_key &key, int64_t at, int role)
{
    if (!RANDOM) {
        put(p, i, x);
        return;
    }
    uint32_t bits[4];
    random_words(bits, key, (uint64_t)(at / GROUP * PC_ROUNDS + role));
    const int k = (int)(at % GROUP) / 2;
    const uint32_t word = k == 0 ? bits[0] : k == 1 ? bits[1] : k == 2 ? bits[2] : bits[3];
    p[i] = __ushort_as_bfloat16((unsigned short)round_by(x, at % 2 ? word >> 16 : word & 0xffffu));
}

#endif

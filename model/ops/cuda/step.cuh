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

// Eight numbers as they lie, by 16 bytes; read and written once a step, so they need no place in the caches.
template <class T> struct packed {
    uint32_t word[2 * sizeof(T)];
};

template <class T> __device__ __forceinline__ packed<T> load(const T *p)
{
    packed<T> x;
#pragma unroll
    for (int k = 0; k < (int)sizeof(T) / 2; k++) {
        const uint4 a = __ldcs((const uint4 *)p + k);
        x.word[4 * k] = a.x, x.word[4 * k + 1] = a.y, x.word[4 * k + 2] = a.z, x.word[4 * k + 3] = a.w;
    }
    return x;
}

template <class T> __device__ __forceinline__ void store(T *p, const packed<T> &x)
{
#pragma unroll
    for (int k = 0; k < (int)sizeof(T) / 2; k++)
        __stcs((uint4 *)p + k, make_uint4(x.word[4 * k], x.word[4 * k + 1], x.word[4 * k + 2], x.word[4 * k + 3]));
}

// Four here and four there.
__device__ __forceinline__ packed<float> load(const float *p, const float *q)
{
    const uint4 a = __ldcs((const uint4 *)p), b = __ldcs((const uint4 *)q);
    return packed<float>{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ packed<bf16> load(const bf16 *p, const bf16 *q)
{
    const uint2 a = __ldcs((const uint2 *)p), b = __ldcs((const uint2 *)q);
    return packed<bf16>{{a.x, a.y, b.x, b.y}};
}
__device__ __forceinline__ void store(float *p, float *q, const packed<float> &x)
{
    __stcs((uint4 *)p, make_uint4(x.word[0], x.word[1], x.word[2], x.word[3]));
    __stcs((uint4 *)q, make_uint4(x.word[4], x.word[5], x.word[6], x.word[7]));
}
__device__ __forceinline__ void store(bf16 *p, bf16 *q, const packed<bf16> &x)
{
    __stcs((uint2 *)p, make_uint2(x.word[0], x.word[1]));
    __stcs((uint2 *)q, make_uint2(x.word[2], x.word[3]));
}

// Numbers 2 k and 2 k + 1.
__device__ __forceinline__ float2 pair_of(const packed<float> &x, int k)
{
    return make_float2(__uint_as_float(x.word[2 * k]), __uint_as_float(x.word[2 * k + 1]));
}
__device__ __forceinline__ float2 pair_of(const packed<bf16> &x, int k)
{
    return make_float2(__uint_as_float(x.word[k] << 16), __uint_as_float(x.word[k] & 0xffff0000u));
}

// The key's words (core/rng.h), one of each pair for a round, and Philox4x32-10 under it.
enum { ROUNDS = 10 };
typedef struct random_key {
    uint32_t a[ROUNDS], b[ROUNDS], s0, s1;
} random_key;

static inline random_key random_key_of(const pc_rng_key *key)
{
    uint32_t k[2] = {0, 0}, c[4] = {0, 0, 0, 0};
    if (key) pc_rng_words(key, 0, k, c);
    random_key r;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        r.a[i] = k[0] + i * 0x9E3779B9u;
        r.b[i] = k[1] + i * 0xBB67AE85u;
    }
    r.s0 = c[2], r.s1 = c[3];
    return r;
}

__device__ __forceinline__ void random_words(uint32_t out[4], const random_key &key, uint64_t block)
{
    uint32_t x0 = (uint32_t)block, x1 = (uint32_t)(block >> 32), x2 = key.s0, x3 = key.s1;
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const uint64_t q = (uint64_t)0xCD9E8D57u * x2, p = (uint64_t)0xD2511F53u * x0;
        x0 = (uint32_t)(q >> 32) ^ x1 ^ key.a[i];
        x1 = (uint32_t)q;
        x2 = (uint32_t)(p >> 32) ^ x3 ^ key.b[i];
        x3 = (uint32_t)p;
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

// Puts pair k of eight, rounded by the halves of a random word; of finite numbers only.
template <bool RANDOM> __device__ __forceinline__ void put_pair(packed<float> &to, int k, float2 x, uint32_t)
{
    to.word[2 * k] = __float_as_uint(x.x);
    to.word[2 * k + 1] = __float_as_uint(x.y);
}
template <bool RANDOM> __device__ __forceinline__ void put_pair(packed<bf16> &to, int k, float2 x, uint32_t word)
{
    if (RANDOM) {
        to.word[k] = __byte_perm(__float_as_uint(x.x) + (word & 0xffffu), __float_as_uint(x.y) + (word >> 16), 0x7632);
    } else {
        const __nv_bfloat162 both = __floats2bfloat162_rn(x.x, x.y);
        to.word[k] = *(const uint32_t *)&both;
    }
}

// Number `at` of the whole list, alone.
template <bool RANDOM> __device__ __forceinline__ void put_one(float *p, int64_t i, float x, const random_key &, int64_t, int)
{
    p[i] = x;
}
template <bool RANDOM> __device__ __forceinline__ void put_one(bf16 *p, int64_t i, float x, const random_key &key, int64_t at, int role)
{
    if (!RANDOM) {
        put(p, i, x);
        return;
    }
    uint32_t bits[4];
    random_words(bits, key, (uint64_t)(at / GROUP));
    const int64_t k = PC_ROUND_WORD(at % GROUP, role);
    const uint32_t word = k == 0 ? bits[0] : k == 1 ? bits[1] : k == 2 ? bits[2] : bits[3];
    p[i] = __ushort_as_bfloat16((unsigned short)round_by(x, at % 2 ? word >> 16 : word & 0xffffu));
}

#endif

/*
 * rng.c - Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011).
 *
 * The generator is a bijection of a 128-bit counter under a 64-bit key. Here the counter holds (block, step)
 * and the key a mix of (seed, stream): for one stream, different seeds always give different keys.
 */
#include "model/core/rng.h"

#include <math.h>

/* The finaliser of splitmix64: a bijection on 64 bits. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void pc_rng_words(const pc_rng_key *key, uint64_t block, uint32_t k[2], uint32_t c[4])
{
    const uint64_t mixed = mix(key->seed + mix(key->stream * UINT64_C(0x9e3779b97f4a7c15)));
    k[0] = (uint32_t)mixed;
    k[1] = (uint32_t)(mixed >> 32);
    c[0] = (uint32_t)block;
    c[1] = (uint32_t)(block >> 32);
    c[2] = (uint32_t)key->step;
    c[3] = (uint32_t)(key->step >> 32);
}

void pc_philox4x32(const uint32_t k[2], const uint32_t c[4], uint32_t out[4])
{
    uint32_t k0 = k[0], k1 = k[1];
    uint32_t x0 = c[0], x1 = c[1], x2 = c[2], x3 = c[3];
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * x0, b = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(b >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)b;
        x2 = (uint32_t)(a >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

void pc_philox(const pc_rng_key *key, uint64_t block, uint32_t out[4])
{
    uint32_t k[2], c[4];
    pc_rng_words(key, block, k, c);
    pc_philox4x32(k, c, out);
}

uint32_t pc_rng_u32(const pc_rng_key *key, uint64_t index)
{
    uint32_t word[4];
    pc_philox(key, index / 4, word);
    return word[index % 4];
}

double pc_rng_uniform(const pc_rng_key *key, uint64_t index)
{
    return (double)pc_rng_u32(key, index) * 0x1p-32;
}

double pc_rng_normal(const pc_rng_key *key, uint64_t index)
{
    // Each block gives two: 2i and 2i + 1 share a radius and an angle of 64 bits.
    const double two_pi = 6.283185307179586476925286766559;
    uint32_t word[4];
    pc_philox(key, index / 2, word);
    const uint64_t a = (uint64_t)word[0] << 32 | word[1], b = (uint64_t)word[2] << 32 | word[3];
    const double u = ((double)(a >> 11) + 1.0) * 0x1p-53; // (0, 1]
    const double angle = two_pi * ((double)(b >> 11) * 0x1p-53);
    const double radius = sqrt(-2.0 * log(u));
    return radius * (index % 2 ? sin(angle) : cos(angle));
}

uint64_t pc_rng_below(const pc_rng_key *key, uint64_t index, uint64_t n)
{
    PC_ASSERT(n >= 1, "a number below %llu", (unsigned long long)n);
    // Values at or above the largest multiple of n are drawn again: the block's second half, then the
    // blocks of a far-away place of the counter.
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t block = index;
    for (uint64_t attempt = 0;; attempt++) {
        uint32_t word[4];
        pc_philox(key, block, word);
        for (int half = 0; half < 2; half++) {
            const uint64_t x = (uint64_t)word[2 * half] << 32 | word[2 * half + 1];
            if (x < limit) return x % n;
        }
        block = index ^ ((attempt + 1) << 56);
    }
}

void pc_rng_permutation(const pc_rng_key *key, int64_t *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t j = (int64_t)pc_rng_below(key, (uint64_t)i, (uint64_t)i + 1);
        const int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

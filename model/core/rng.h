/*
 * rng.h - counter-based random numbers (Philox4x32-10; Salmon et al. 2011).
 *
 * Any number is a function of (seed, stream, step, index): there is no state to save, and resume needs
 * none. Streams keep uses apart.
 */
#ifndef PC_CORE_RNG_H
#define PC_CORE_RNG_H

#include "model/core/status.h"

typedef enum pc_stream {
    PC_STREAM_INIT = 1, // step: index of the parameter
    PC_STREAM_SHUFFLE,  // step: epoch
    PC_STREAM_DROPOUT,  // step: optimiser step << 16 | call number within the forward pass
    PC_STREAM_SCENE,    // step: scene index
    PC_STREAM_SAMPLE,   // step: position while generating
    PC_STREAM_AUGMENT,
    PC_STREAM_TEST,
    PC_STREAM_ADAPTER,  // step: optimiser step << 16 | number of the adapter
    PC_STREAM_ROUNDING, // step: update of the optimiser
    PC_STREAM_PATCHES,  // step: image looked at before training
} pc_stream;

typedef struct pc_rng_key {
    uint64_t seed, stream, step;
} pc_rng_key;

// The bijection itself, ten rounds on counter c under key k; and the words that stand for a key and a
// block, for kernels that run many blocks side by side.
void pc_philox4x32(const uint32_t k[2], const uint32_t c[4], uint32_t out[4]);
void pc_rng_words(const pc_rng_key *key, uint64_t block, uint32_t k[2], uint32_t c[4]);
// Four 32-bit words of block `block` of the key.
void pc_philox(const pc_rng_key *key, uint64_t block, uint32_t out[4]);
uint32_t pc_rng_u32(const pc_rng_key *key, uint64_t index);   // word index%4 of block index/4
double pc_rng_uniform(const pc_rng_key *key, uint64_t index); // [0, 1), 32 bits
double pc_rng_normal(const pc_rng_key *key, uint64_t index);  // mean 0, variance 1 (Box-Muller)
// Unbiased integer in [0, n), n >= 1; uses index's own block, so indices must not be reused.
uint64_t pc_rng_below(const pc_rng_key *key, uint64_t index, uint64_t n);
// A permutation of 0..n-1 as a function of the key (Fisher-Yates).
void pc_rng_permutation(const pc_rng_key *key, int64_t *out, int64_t n);

#endif

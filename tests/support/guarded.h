/*
 * guarded.h - two copies of a tensor in guarded memory, for holding one kernel to another.
 *
 * Rows are strided; the gaps between rows and a border on both sides hold a pattern that no kernel may
 * touch. `ref` goes to the portable kernel, `simd` to the other, both filled with the same numbers;
 * guarded_alike compares afterwards. An input is given to both sides as `ref`.
 */
#ifndef PC_TESTS_GUARDED_H
#define PC_TESTS_GUARDED_H

#include "model/ops/ops.h"

typedef struct guarded {
    pc_tensor ref, simd;
    float *memory[2];
    int64_t count; // floats in each
} guarded;

// (rows, width) with `gap` unused floats after each row, uniform in (-scale, scale) from `seed`.
guarded guarded_open(int64_t rows, int64_t width, int64_t gap, float scale, uint64_t seed);
guarded guarded_vector(int64_t n, float scale, uint64_t seed); // rank 1
guarded guarded_heads(int64_t rows, int64_t heads, int64_t D, int64_t gap, float scale,
                      uint64_t seed); // rank 3
void guarded_close(guarded *g);

// |simd - ref| <= tolerance |ref| (Frobenius, elements counted as 0.03 at least) and all guards as they were; prints `what` when not.
// The largest error of each `what` is remembered for guarded_report.
bool guarded_alike(const char *what, const guarded *g, double tolerance);
void guarded_report(void);

// The two sides: portable kernels, and those of `isa`, with room for their scratch.
typedef struct sides {
    pc_ctx ref, simd;
    pc_arena memory[4];
} sides;
void sides_open(sides *s, pc_isa isa, pc_pool *pool);
void sides_close(sides *s);

#endif

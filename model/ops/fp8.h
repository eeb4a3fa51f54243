/*
 * fp8.h - products in eight bits: which matrices they are made with, and what their numbers are scaled by.
 *
 *   y  = x W^T             x, W in E4M3 (448 at most), and y = ... + b + r as in bf16
 *   dx = dy W, dW += dy^T x   dy in E5M2 (57344 at most), W and x in E4M3
 *
 * Sums in f32, results in their own types. Each operand of a matrix - its inputs, itself, the gradients of its outputs - has
 * a scale, a power of two: the largest that keeps the largest number of the last PC_FP8_HISTORY steps within the type. What
 * goes beyond all the same becomes the type's largest. An operand that no step has seen yet goes by its own largest number.
 * Within a step scales stay as they are, so what is computed again comes out the same; pc_backend_fp8_next ends it.
 *
 * A device's table, in pc_ctx.fp8 while training: operations look their matrix up in it. One that is not there, rows fewer
 * than PC_FP8_LEAST, what has no bf16 on both sides or does not lie by 16 bytes goes as without. W is cast once a step,
 * both as it lies and turned; once ever where it is frozen.
 */
#ifndef PC_OPS_FP8_H
#define PC_OPS_FP8_H

#include "model/core/tensor.h"

// Least rows; sizes of a matrix are multiples of it. Inverse scales lie 16 bytes apart, as matrix products want them.
enum { PC_FP8_LEAST = 16, PC_FP8_HISTORY = 16, PC_FP8_APART = 4 };
typedef enum pc_fp8_operand { PC_FP8_X, PC_FP8_W, PC_FP8_DY, PC_FP8_OPERANDS } pc_fp8_operand;

typedef struct pc_fp8_matrix {
    pc_tensor w;                  // (O,I) of bf16
    bool frozen;                  // it stays what it is: has no history
    unsigned char *rows, *turned; // (O,I) and (I,O) in eight bits, where `made`
    bool made;
    bool used[PC_FP8_OPERANDS], seen[PC_FP8_OPERANDS]; // in this step; in one before
} pc_fp8_matrix;

// Arrays lie on the device; operand k of matrix i stands at PC_FP8_OPERANDS i + k.
typedef struct pc_fp8 {
    pc_fp8_matrix *list; // by address
    int count;
    float *
        history; // (.., PC_FP8_HISTORY) largest numbers of the last steps, the newest first; 0: none
    float *scale;     // (..)
    float *inverse;   // (.., PC_FP8_APART), of which the first
    int32_t *largest; // (..) of this step, as the bits of a float; -1: not seen
    int32_t *probe;   // (1)
} pc_fp8;

// Whether a product of such sizes is made in eight bits: x (N,I), W (O,I).
static inline bool pc_fp8_fits(int64_t N, int64_t I, int64_t O)
{
    return N >= PC_FP8_LEAST && I > 0 && O > 0 && I % PC_FP8_LEAST == 0 && O % PC_FP8_LEAST == 0;
}

// Columns of a turned matrix of N rows: what is summed over is whole pieces of 16 bytes, zero beyond N.
static inline int64_t pc_fp8_turned(int64_t N)
{
    return (N + 15) / 16 * 16;
}

// The matrix that w is, or is rows of, and which (NULL: it goes as without).
pc_fp8_matrix *pc_fp8_find(const pc_fp8 *f, pc_tensor w, int64_t *first);

// Bytes of ctx->scratch that the product takes; that the wanted gradients take.
size_t pc_fp8_room(int64_t N, int64_t I);
size_t pc_fp8_gradient_room(int64_t N, int64_t I, int64_t O, bool dx, bool dw);

#endif

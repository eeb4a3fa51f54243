/*
 * cuda.h - the CUDA backend: every operation of ops.h on one GPU, in f32 or with activations and matrices in bf16.
 *
 * Types: ctx->real is PC_F32 or PC_BF16. Activations and parameters of two or more dimensions have it; parameters of
 * one dimension and their gradients, statistics (means, log-sum-exps) and unit embeddings are f32 always; a matrix'
 * gradient may be of either type; sums are made in f32.
 * Index tensors and losses lie in shared memory (core/memory.h), so the host writes and reads them as on the CPU.
 *
 * Everything is put into one stream, in order: no operation waits for the device. Equal inputs give equal bits: no
 * sum is made by atomics, and the matrix products' algorithm is a function of the shape.
 *
 *   device.cu    the device, its memory, its stream          tables.cu     the two tables
 *   linear.cu    products through cuBLASLt                   attention.cu  tiles, never T x T; rel.cu with positions
 *   fp8.cu       products in eight bits (ops/fp8.h)          fp8_cast.cu
 *   norm.cu act.cu rope.cu rows.cu image.cu                  xent.cu contrast.cu
 *   optim.cu     norm, gate, AdamW of all parameters at once   muon.cu   matrices of one shape at once
 */
#ifndef PC_OPS_CUDA_CUDA_H
#define PC_OPS_CUDA_CUDA_H

#include "model/ops/fp8.h"
#include "model/ops/ops.h"

typedef struct pc_cuda_info {
    char name[256];
    int major, minor; // compute capability
    size_t memory;    // bytes of the card
    size_t free;      // of them free now
    int processors;
} pc_cuda_info;

// Whether there is a GPU this build has code for, and which. PC_ERR_INPUT says why not (no driver, too old ...).
pc_status pc_cuda_open(pc_cuda_info *info);
void pc_cuda_close(void);

const pc_memory *pc_cuda_memory(void);
const pc_ops *pc_cuda_ops(void); // either type: kernels go by their tensors
const pc_grad_ops *pc_cuda_grad_ops(void);

// In eight bits (fp8.cu, fp8_cast.cu), a table's step: see backend.h.
void pc_cuda_fp8_next(pc_fp8 *f);
typedef enum pc_fp8_kind {
    PC_E4M3, // weights and activations: three bits behind the point, 448 at most
    PC_E5M2, // gradients of outputs: two bits, 57344 at most
} pc_fp8_kind;

/*
 * x (N,C) of bf16, C a multiple of 16, rows by 16 bytes, times *scale in eight bits: `rows` (N,C)? and `turned`
 * (C,pc_fp8_turned(N))?, its transpose. What is beyond the largest number becomes that; inf and NaN become NaN.
 * *largest becomes max(*largest, max |x|), as the bits of a float: order plays no part in it.
 */
void pc_cuda_fp8_cast(void *rows, void *turned, int32_t *largest, pc_tensor x, const float *scale,
                      pc_fp8_kind kind);
// The last of it alone.
void pc_cuda_fp8_largest(int32_t *largest, pc_tensor x);

#endif

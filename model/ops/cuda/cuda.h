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
 *   norm.cu act.cu rope.cu rows.cu image.cu                  xent.cu contrast.cu
 *   optim.cu     norm, gate, AdamW of all parameters at once   muon.cu   matrices of one shape at once
 */
#ifndef PC_OPS_CUDA_CUDA_H
#define PC_OPS_CUDA_CUDA_H

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

#endif

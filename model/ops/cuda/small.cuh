/*
 * small.cuh - operations of one to eight rows in inference (small.cu): false when the ordinary kernel is to do it.
 */
#ifndef PC_OPS_CUDA_SMALL_CUH
#define PC_OPS_CUDA_SMALL_CUH

#include "model/ops/cuda/decode.cuh"

bool pc_cuda_rmsnorm_few(const pc_ctx *ctx, pc_tensor y, pc_tensor rstd, pc_tensor x, pc_tensor g, double eps);
bool pc_cuda_swiglu_few(const pc_ctx *ctx, pc_tensor h, pc_tensor gu);
bool pc_cuda_splice_few(const pc_ctx *ctx, pc_tensor y, pc_tensor f, pc_tensor index);
bool pc_cuda_rope_few(const pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor cosines, pc_tensor sines, pc_tensor pos);

#endif

/*
 * fp8.cuh - operands in eight bits, cast and scaled (fp8.cu), and their products (linear.cu). What is computed: ops/fp8.h;
 * the cast itself: cuda.h, fp8_cast.cu.
 */
#ifndef PC_OPS_CUDA_FP8_CUH
#define PC_OPS_CUDA_FP8_CUH

#include "model/ops/cuda/device.cuh"
#include <library_types.h>

// An operand of a product: rows of what is summed over.
typedef struct fp8_rows {
    const void *data;
    int64_t stride;
    cudaDataType type;
    const float *inverse; // of its scale, on the device
} fp8_rows;

// x and W for y = x W^T; false: it goes as without. What they are cast to lies in ctx->scratch, above the mark of the caller.
bool pc_cuda_fp8_operands(pc_ctx *ctx, fp8_rows *x8, fp8_rows *w8, pc_tensor y, pc_tensor x, pc_tensor w);
// dx and dW (either may be absent), without db: as above.
bool pc_cuda_fp8_gradients(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor dy, pc_tensor x, pc_tensor w, bool fresh);

// D (M,N) = A (M,K) B (N,K)^T, added to what is there unless `fresh` (linear.cu). `fast`: sums are kept to fewer bits, as the
// tensor cores have them, which is enough for what is rounded to bf16. False: the library has no kernel.
bool pc_cuda_fp8_product(pc_tensor D, const fp8_rows *A, const fp8_rows *B, int64_t K, bool fresh, bool fast);

#endif

/*
 * decode.cuh - what decoding needs beside the operations (decode.cu, stored.cu): products of few rows, matrices in the
 * types of their files, kernels that begin before the one in front of them has ended.
 */
#ifndef PC_OPS_CUDA_DECODE_CUH
#define PC_OPS_CUDA_DECODE_CUH

#include "model/ops/cuda/device.cuh"

// The rows that a product of few rows takes at most.
enum { FEW_ROWS = 8 };

// linear and linear_act where x has few rows or W another type than x: false when they are for cuBLASLt alone.
// `act`: pc_act, or -1 for y = x W^T + b + r; z may be absent. In inference (no ctx->grad_ops) W is taken to be written by
// nobody: its loads begin early.
bool pc_cuda_linear_few(const pc_ctx *ctx, pc_tensor y, pc_tensor z, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r, int act);

// Rows [begin, end) of W widened to type t, dense, on the device: valid until the next call of it.
pc_tensor pc_cuda_widened(pc_tensor w, int64_t begin, int64_t end, pc_dtype t);
// How many rows of W are widened at once.
int64_t pc_cuda_widened_rows(pc_tensor w, pc_dtype t);

// y[n] = table[ids[n]] of a table of any type.
void pc_cuda_embedding_stored(pc_tensor y, pc_tensor ids, pc_tensor table);

// Whether kernels may begin early (compute capability 9 and above).
bool pc_cuda_early(void);

// Launches a kernel that, with `early_on`, may begin while the one in front of it still runs: it must call behind_others() before it reads
// what others write, or writes what others read.
template <class... P, class... A> static inline void launch_early(bool early_on, void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared, A... a)
{
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute early[1];
    c.gridDim = blocks;
    c.blockDim = threads;
    c.dynamicSmemBytes = shared;
    c.stream = pc_cuda_stream;
    early[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early[0].val.programmaticStreamSerializationAllowed = 1;
    c.attrs = early;
    c.numAttrs = early_on && pc_cuda_early() ? 1 : 0;
    CHECK_CUDA(cudaLaunchKernelEx(&c, kernel, (P)a...));
}

// From here on the next kernel may begin.
__device__ __forceinline__ void let_others_begin()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until the kernel in front has ended and what it wrote is seen.
__device__ __forceinline__ void behind_others()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#endif

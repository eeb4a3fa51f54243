/*
 * device.cuh - what the kernels of this folder share: types, launches, workspace, reductions.
 */
#ifndef PC_OPS_CUDA_DEVICE_CUH
#define PC_OPS_CUDA_DEVICE_CUH

extern "C" {
#include "model/ops/cuda/cuda.h"
}
#include <cuda_bf16.h>
#include <cuda_runtime.h>

typedef __nv_bfloat16 bf16;

// Any error here means that the device or the program is broken: it is named and the process ends. What was
// written to disk before stays whole, as files are renamed into place.
void pc_cuda_check(cudaError_t e, const char *what, const char *file, int line);
#define CHECK_CUDA(call) pc_cuda_check((call), #call, __FILE__, __LINE__)

extern cudaStream_t pc_cuda_stream;

// One call's temporaries on the device, valid until the next call of it: all work is in one stream.
void *pc_cuda_workspace(size_t bytes);
// Small arrays made by the host for a launch: pinned, seen by both, not used again before the device has passed.
void *pc_cuda_staged(size_t bytes);

// Work noted down to be done many times (record.cu): nothing may be waited for meanwhile. A launch that depends on what the
// host would have to read says so: then there is no such recording.
bool pc_cuda_recording(void);
void pc_cuda_decline(void);
bool pc_cuda_record(void);
void *pc_cuda_recorded(void);
void pc_cuda_replay(void *graph);
void pc_cuda_forget(void *graph);

// Threads of a block; blocks for n items.
enum { THREADS = 256 };
static inline unsigned blocks_for(int64_t n, int64_t per = THREADS)
{
    const int64_t b = (n + per - 1) / per;
    return (unsigned)(b < 1 ? 1 : b > 2147483647 ? 2147483647 : b);
}

#define LAUNCH(kernel, blocks, threads, shared, ...)                                               \
    do {                                                                                           \
        kernel<<<(blocks), (threads), (shared), pc_cuda_stream>>>(__VA_ARGS__);                    \
        pc_cuda_check(cudaGetLastError(), #kernel, __FILE__, __LINE__);                            \
    } while (0)

// Runs the statement with T the type of x's numbers.
#define BY_TYPE(x, ...)                                                                            \
    do {                                                                                           \
        if ((x).dtype == PC_BF16) {                                                                \
            typedef bf16 T;                                                                        \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            PC_ASSERT((x).dtype == PC_F32, "a %s on the GPU", pc_dtype_name((x).dtype));           \
            typedef float T;                                                                       \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

__device__ __forceinline__ float get(const float *p, int64_t i)
{
    return p[i];
}
__device__ __forceinline__ float get(const bf16 *p, int64_t i)
{
    return __bfloat162float(p[i]);
}
__device__ __forceinline__ void put(float *p, int64_t i, float v)
{
    p[i] = v;
}
__device__ __forceinline__ void put(bf16 *p, int64_t i, float v)
{
    p[i] = __float2bfloat16(v);
}

// Sums over all threads of a block, in a fixed order; every thread gets the result. `space`: 32 floats.
__device__ __forceinline__ float warp_sum(float v)
{
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
__device__ __forceinline__ float warp_max(float v)
{
    for (int d = 16; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}
__device__ __forceinline__ float block_sum(float v, float *space)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    v = warp_sum(v);
    __syncthreads();
    if (lane == 0) space[warp] = v;
    __syncthreads();
    v = lane < warps ? space[lane] : 0.0f;
    return warp_sum(v);
}
__device__ __forceinline__ float block_max(float v, float *space)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    v = warp_max(v);
    __syncthreads();
    if (lane == 0) space[warp] = v;
    __syncthreads();
    v = lane < warps ? space[lane] : -INFINITY;
    return warp_max(v);
}

// The product all linear maps are made of (linear.cu): C (M,N) = alpha op(A) op(B) + beta C, row-major, by types.
void pc_cuda_product(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha, const void *A,
                     int64_t lda, const void *B, int64_t ldb, float beta, void *C, int64_t ldc, pc_dtype in,
                     pc_dtype out);

// `batch` of them, whose matrices lie so many numbers apart.
void pc_cuda_products(int64_t batch, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha, const void *A, int64_t lda,
                      int64_t next_a, const void *B, int64_t ldb, int64_t next_b, float beta, void *C, int64_t ldc, int64_t next_c,
                      pc_dtype in, pc_dtype out);

// Every slot's function, by the list of ops.h: declared once for tables.cu and the files that define them.
#define CUDA_FORWARD(name, args)  void cuda_##name##_forward args;
#define CUDA_BACKWARD(name, args) void cuda_##name##_backward args;
#define CUDA_TRAIN(name, args)    void cuda_##name args;
extern "C" {
PC_OP_LIST(CUDA_FORWARD, CUDA_BACKWARD, CUDA_TRAIN)
}

#endif

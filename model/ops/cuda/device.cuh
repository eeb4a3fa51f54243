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
// What the host wrote to memory that both see, copied to the device's own: a kernel reads it there at full speed, however
// many of its threads want the same number. Valid until a few more calls of it: launch at once.
const void *pc_cuda_mirror(const void *from, size_t bytes);
// A few are read where they are, which takes no longer than to copy them.
static inline const int32_t *mirrored(pc_tensor index)
{
    const int64_t n = pc_numel(index);
    return n <= 128 ? pc_i32(index) : (const int32_t *)pc_cuda_mirror(index.data, (size_t)n * sizeof(int32_t));
}

// Work noted down to be done many times (record.cu): nothing may be waited for meanwhile. A launch that depends on what the
// host would have to read says so: then there is no such recording. PERCEPT_GPU_GRAPH=0: there is none at all.
bool pc_cuda_recording(void);
void pc_cuda_decline(void);
bool pc_cuda_recorded_any(void); // what a recording may read must stay where it is
bool pc_cuda_record(void);
void *pc_cuda_recorded(void);
void pc_cuda_replay(void *graph);
void pc_cuda_forget(void *graph);

/*
 * Work that follows from these numbers alone (addresses, shapes), with nothing of the host's in it: told the first time,
 * replayed as a graph from the second on (PERCEPT_GPU_GRAPH=0: never). Of so many different calls; more are told each time.
 */
typedef struct pc_cuda_call {
    int64_t kind, number[8]; // kind: one of a kernel file's own
    void *at[4];
} pc_cuda_call;
void pc_cuda_repeated(const pc_cuda_call *call, void (*tell)(const pc_cuda_call *call));
void pc_cuda_repeated_close(void);

// A large copy from pageable memory to the device (upload.cu); false: not that. On return the host's memory is free.
bool pc_cuda_upload(void *to, const void *from, size_t bytes);
void pc_cuda_upload_close(void);

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

// Eight numbers in a row at once: 16 bytes of bf16, 32 of f32. The address is a multiple of 16.
__device__ __forceinline__ void get8(float *v, const float *p)
{
    const float4 a = *(const float4 *)p, b = *(const float4 *)(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ __forceinline__ void get8(float *v, const bf16 *p)
{
    const uint4 a = *(const uint4 *)p;
    const uint32_t words[4] = {a.x, a.y, a.z, a.w};
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ void put8(float *p, const float *v)
{
    *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    *(float4 *)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ __forceinline__ void put8(bf16 *p, const float *v)
{
    uint32_t words[4];
    for (int i = 0; i < 4; i++) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        words[i] = *(const uint32_t *)&pair;
    }
    *(uint4 *)p = make_uint4(words[0], words[1], words[2], words[3]);
}
// Whether rows of x can be read by eights; an absent operand always can. Of a vector the address alone is looked at.
static inline bool by_eights(pc_tensor x)
{
    if (!x.data) return true;
    if ((uintptr_t)x.data % 16 != 0) return false;
    return x.rank < 2 || ((size_t)x.stride * pc_dtype_size(x.dtype) % 16 == 0 && pc_row_len(x) % 8 == 0);
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

// Of the numbers seen so far: their maximum, and the sum of exp(number - maximum). NaN goes into the sum.
struct exp_sum {
    float top, sum;
};
__device__ __forceinline__ exp_sum joined(exp_sum a, exp_sum b)
{
    const float top = fmaxf(a.top, b.top);
    if (top == -INFINITY) return exp_sum{top, a.sum + b.sum};
    return exp_sum{top, a.sum * expf(a.top - top) + b.sum * expf(b.top - top)};
}
__device__ __forceinline__ exp_sum warp_joined(exp_sum v)
{
    for (int d = 16; d > 0; d >>= 1)
        v = joined(v, exp_sum{__shfl_xor_sync(0xffffffffu, v.top, d), __shfl_xor_sync(0xffffffffu, v.sum, d)});
    return v;
}
// `space`: 32 of them, not used before.
__device__ __forceinline__ exp_sum block_joined(exp_sum v, exp_sum *space)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    v = warp_joined(v);
    if (lane == 0) space[warp] = v;
    __syncthreads();
    return warp_joined(lane < warps ? space[lane] : exp_sum{-INFINITY, 0.0f});
}

// What a loss may hold of its scores at one time: `bytes`, or PERCEPT_CUDA_CHUNK (tests want many chunks of few numbers).
int64_t pc_cuda_chunk(int64_t bytes);

// The product all linear maps are made of (linear.cu): C (M,N) = alpha op(A) op(B) + beta C, row-major, by types.
void pc_cuda_product(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha, const void *A,
                     int64_t lda, const void *B, int64_t ldb, float beta, void *C, int64_t ldc, pc_dtype in,
                     pc_dtype out);

// `batch` of them, whose matrices lie so many numbers apart.
void pc_cuda_products(int64_t batch, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha, const void *A, int64_t lda,
                      int64_t next_a, const void *B, int64_t ldb, int64_t next_b, float beta, void *C, int64_t ldc, int64_t next_c,
                      pc_dtype in, pc_dtype out);

// to[c] += sum over s of part[s][c], C columns, in order of s (linear.cu).
void pc_cuda_add_slices(float *to, const float *part, int64_t slices, int64_t C);

// Every slot's function, by the list of ops.h: declared once for tables.cu and the files that define them.
#define CUDA_FORWARD(name, args)  void cuda_##name##_forward args;
#define CUDA_BACKWARD(name, args) void cuda_##name##_backward args;
#define CUDA_TRAIN(name, args)    void cuda_##name args;
extern "C" {
PC_OP_LIST(CUDA_FORWARD, CUDA_BACKWARD, CUDA_TRAIN)
}

#endif

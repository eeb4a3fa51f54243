/*
 * few.cuh - what the products of few rows share (decode.cu, stored.cu): operands, sums over a block, results.
 */
#ifndef PC_OPS_CUDA_FEW_CUH
#define PC_OPS_CUDA_FEW_CUH

#include "model/ops/cuda/act.cuh"

#include <cuda_fp16.h>

enum { FEW_BLOCK = 128, FEW_ROWS_OF_W = 4 };

typedef struct few_operands {
    pc_tensor y, z, x, w, b, r; // z, b, r may be absent
    int act;                    // pc_act, -1: none
    bool early;                 // loads of W may begin before the kernel in front has ended
} few_operands;

// W of blocks of 32; false: not of a type that is read as it lies.
bool pc_cuda_blocks_few(const few_operands *f);
// The same of bf16 rows, on tensor cores, of Q8_0 or Q4_0 (stored_tensor.cu).
void pc_cuda_blocks_tensor(const few_operands *f);

// FEW(n) with n = N: kernels are made for each count.
#define FEW_BY_COUNT(N)                                                                            \
    switch (N) {                                                                                   \
    case 1: FEW(1); break;                                                                         \
    case 2: FEW(2); break;                                                                         \
    case 3: FEW(3); break;                                                                         \
    case 4: FEW(4); break;                                                                         \
    case 5: FEW(5); break;                                                                         \
    case 6: FEW(6); break;                                                                         \
    case 7: FEW(7); break;                                                                         \
    default: FEW(8); break;                                                                        \
    }

__device__ __forceinline__ float wide(float v)
{
    return v;
}
__device__ __forceinline__ float wide(bf16 v)
{
    return __bfloat162float(v);
}
__device__ __forceinline__ float wide(half v)
{
    return __half2float(v);
}

// Eight numbers of a row of x, which stays in the first cache.
__device__ __forceinline__ void read8(float (&f)[8], const float *p)
{
    const float4 a = *(const float4 *)p, b = *(const float4 *)(p + 4);
    f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
}
__device__ __forceinline__ void read8(float (&f)[8], const bf16 *p)
{
    const uint4 a = *(const uint4 *)p;
    const uint32_t u[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = __uint_as_float(u[i] << 16);
        f[2 * i + 1] = __uint_as_float(u[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ float activated(float v, int act)
{
    switch (act) {
    case PC_ACT_GELU: return act_value<PC_ACT_GELU>(v);
    case PC_ACT_GELU_TANH: return act_value<PC_ACT_GELU_TANH>(v);
    case PC_ACT_QUICK: return act_value<PC_ACT_QUICK>(v);
    case PC_ACT_SILU: return act_value<PC_ACT_SILU>(v);
    case PC_ACT_RELU: return act_value<PC_ACT_RELU>(v);
    default: return v;
    }
}

// Result (n,o): bias, residual, activation.
template <class Y>
__device__ __forceinline__ void put_result(float v, Y *y, int64_t ys, Y *z, int64_t zs, const float *b, const Y *r, int64_t rs, int n, int o,
                                           int act)
{
    if (b) v += b[o];
    if (r) v += get(r, n * rs + o);
    if (z) put(z, n * zs + o, v);
    put(y, n * ys + o, activated(v, act));
}

// Every thread's sums over the warp, then over the block in order; one thread a result.
template <int N, class Y>
__device__ __forceinline__ void finish_few(float (&sums)[FEW_BLOCK / 32][FEW_ROWS_OF_W * N], float (&acc)[FEW_ROWS_OF_W][N], Y *y, int64_t ys,
                                           Y *z, int64_t zs, const float *b, const Y *r, int64_t rs, int o0, int O, int act)
{
    const int t = threadIdx.x;
#pragma unroll
    for (int i = 0; i < FEW_ROWS_OF_W; i++)
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float v = warp_sum(acc[i][n]);
            if (t % 32 == 0) sums[t / 32][i * N + n] = v;
        }
    __syncthreads();
    if (t >= FEW_ROWS_OF_W * N || o0 + t / N >= O) return;
    float v = 0.0f;
#pragma unroll
    for (int i = 0; i < FEW_BLOCK / 32; i++) v += sums[i][t];
    put_result(v, y, ys, z, zs, b, r, rs, t % N, o0 + t / N, act);
}

#endif

/*
 * small.cu - what stands between the products of decoding, for one to eight rows: rmsnorm, rope, splice, swiglu. Formulas:
 * ops.h.
 *
 * A step of decoding is bound by how soon one kernel follows another. These begin while the one in front still runs, read
 * what nobody writes (gains), wait for it (behind_others), and let the next begin at once: a product's first loads of W are
 * then on their way while the norm in front of it is made. In inference alone; anything else goes the ordinary way.
 */
#include "model/ops/cuda/few.cuh"
#include "model/ops/cuda/small.cuh"

__device__ __forceinline__ void write8(float *p, const float (&f)[8])
{
    *(float4 *)p = make_float4(f[0], f[1], f[2], f[3]);
    *(float4 *)(p + 4) = make_float4(f[4], f[5], f[6], f[7]);
}
__device__ __forceinline__ void write8(bf16 *p, const float (&f)[8])
{
    uint32_t u[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const __nv_bfloat162 v = __floats2bfloat162_rn(f[2 * i], f[2 * i + 1]);
        u[i] = *(const uint32_t *)&v;
    }
    *(uint4 *)p = make_uint4(u[0], u[1], u[2], u[3]);
}

static bool rows_of_16(pc_tensor x)
{
    const int64_t size = (int64_t)pc_dtype_size(x.dtype);
    return ((uintptr_t)x.data | (uintptr_t)(x.stride * size)) % 16 == 0;
}

static bool small(const pc_ctx *ctx, int64_t N)
{
    return ctx && !ctx->grad_ops && N >= 1 && N <= FEW_ROWS && pc_cuda_early();
}

// ---- rmsnorm: a thread 8 numbers ---------------------------------------------------------------------

template <class T> __global__ void rms_few(T *y, int64_t ys, float *rstd, const T *x, int64_t xs, const float *g, int C, float eps)
{
    __shared__ float space[32];
    const int64_t n = blockIdx.x;
    const int c = 8 * threadIdx.x;
    float gain[8] = {}, in[8] = {};
    let_others_begin();
    if (c < C) read8(gain, g + c);
    behind_others();
    if (c < C) read8(in, x + n * xs + c);
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < 8; e++) sum += in[e] * in[e];
    const float s = rsqrtf(block_sum(sum, space) / (float)C + eps);
#pragma unroll
    for (int e = 0; e < 8; e++) in[e] = in[e] * s * gain[e];
    if (c < C) write8(y + n * ys + c, in);
    if (threadIdx.x == 0) rstd[n] = s;
}

bool pc_cuda_rmsnorm_few(const pc_ctx *ctx, pc_tensor y, pc_tensor rstd, pc_tensor x, pc_tensor g, double eps)
{
    const int64_t C = x.dim[1];
    if (!small(ctx, x.dim[0]) || x.rank != 2 || C % 8 || C > 8192 || !rows_of_16(x) || !rows_of_16(y) || (uintptr_t)g.data % 16) return false;
    const unsigned threads = (unsigned)((C / 8 + 31) / 32 * 32);
    BY_TYPE(x, launch_early(true, rms_few<T>, dim3((unsigned)x.dim[0]), threads, 0, (T *)y.data, y.stride, (float *)rstd.data,
                            (const T *)x.data, x.stride, (const float *)g.data, (int)C, (float)eps));
    return true;
}

// ---- swiglu --------------------------------------------------------------------------------------------

template <class T> __global__ void swiglu_few(T *h, int64_t hs, const T *gu, int64_t gs, int F)
{
    const int64_t n = blockIdx.y;
    const int c = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
    let_others_begin();
    behind_others();
    if (c >= F) return;
    float g[8], u[8];
    read8(g, gu + n * gs + c);
    read8(u, gu + n * gs + F + c);
#pragma unroll
    for (int e = 0; e < 8; e++) g[e] = act_value<PC_ACT_SILU>(g[e]) * u[e];
    write8(h + n * hs + c, g);
}

bool pc_cuda_swiglu_few(const pc_ctx *ctx, pc_tensor h, pc_tensor gu)
{
    const int64_t F = h.dim[1];
    if (!small(ctx, h.dim[0]) || F % 8 || !rows_of_16(h) || !rows_of_16(gu)) return false;
    BY_TYPE(h, launch_early(true, swiglu_few<T>, dim3(blocks_for(F / 8, 128), (unsigned)h.dim[0]), 128, 0, (T *)h.data, h.stride,
                            (const T *)gu.data, gu.stride, (int)F));
    return true;
}

// ---- splice --------------------------------------------------------------------------------------------

template <class T> __global__ void splice_few(T *y, int64_t ys, const T *f, int64_t fs, const int32_t *index, int C)
{
    const int64_t n = blockIdx.x;
    const int c = 8 * threadIdx.x;
    let_others_begin();
    behind_others();
    const int32_t at = index[n];
    if (at < 0) return;
    for (int i = c; i < C; i += 8 * blockDim.x) {
        float v[8];
        read8(v, f + n * fs + i);
        write8(y + (int64_t)at * ys + i, v);
    }
}

bool pc_cuda_splice_few(const pc_ctx *ctx, pc_tensor y, pc_tensor f, pc_tensor index)
{
    const int64_t C = pc_row_len(f), N = index.dim[0];
    if (!small(ctx, N) || y.dtype != f.dtype || C % 8 || !rows_of_16(y) || !rows_of_16(f)) return false;
    const int64_t threads = (C / 8 + 31) / 32 * 32;
    BY_TYPE(y, launch_early(true, splice_few<T>, dim3((unsigned)N), (unsigned)(threads < 512 ? threads : 512), 0, (T *)y.data, y.stride,
                            (const T *)f.data, f.stride, pc_i32(index), (int)C));
    return true;
}

// ---- rope ----------------------------------------------------------------------------------------------

template <class T>
__global__ void turn_few(T *y, int64_t ys, const T *x, int64_t xs, const float *cosines, const float *sines, const int32_t *pos, int H, int half)
{
    const int64_t n = blockIdx.y;
    const int i = blockIdx.x * blockDim.x + threadIdx.x, j = i % half, h = i / half;
    let_others_begin();
    behind_others();
    if (h >= H) return;
    const int64_t at = (int64_t)pos[n] * half + j, in = n * xs + (int64_t)h * 2 * half + j, out = n * ys + (int64_t)h * 2 * half + j;
    const float c = cosines[at], s = sines[at], a = get(x, in), b = get(x, in + half);
    put(y, out, a * c - b * s);
    put(y, out + half, b * c + a * s);
}

bool pc_cuda_rope_few(const pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor cosines, pc_tensor sines, pc_tensor pos)
{
    const int64_t H = x.dim[1], half = x.dim[2] / 2;
    if (!small(ctx, x.dim[0]) || cosines.dtype != PC_F32 || H * half > INT32_MAX) return false;
    BY_TYPE(x, launch_early(true, turn_few<T>, dim3(blocks_for(H * half, 128), (unsigned)x.dim[0]), 128, 0, (T *)y.data, y.stride,
                            (const T *)x.data, x.stride, (const float *)cosines.data, (const float *)sines.data, pc_i32(pos), (int)H,
                            (int)half));
    return true;
}

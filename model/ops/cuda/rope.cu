/*
 * rope.cu - rotary positions: pairs (j, j + D/2) of every head turned by the angle of table row pos[n]. Formulas: ops.h.
 *
 * A thread takes eight pairs of a few heads of a row: their angles are read once, and all its numbers are on their way
 * before the first is needed.
 */
#include "model/ops/cuda/device.cuh"
#include "model/ops/cuda/small.cuh"

template <class T>
__global__ void turn(T *y, int64_t ys, const T *x, int64_t xs, const float *cosines, const float *sines, const int32_t *pos, int64_t n,
                     int64_t H, int64_t half, float sign)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t j = i % half, h = i / half % H, r = i / (half * H);
        const int64_t at = (int64_t)pos[r] * half + j;
        const float c = cosines[at], s = sign * sines[at];
        const int64_t in = r * xs + h * 2 * half + j, out = r * ys + h * 2 * half + j;
        const float a = get(x, in), b = get(x, in + half);
        put(y, out, a * c - b * s);
        put(y, out + half, b * c + a * s);
    }
}

// Eight numbers as they lie. Left to itself the compiler writes some of them word by word.
template <class T> struct packed8 {
    uint4 part[sizeof(T) / 2];
};
template <class T> __device__ __forceinline__ packed8<T> read8(const T *from)
{
    packed8<T> x;
    for (int k = 0; k < (int)sizeof(T) / 2; k++) x.part[k] = ((const uint4 *)from)[k];
    return x;
}
template <class T> __device__ __forceinline__ void write8(T *to, const float *v)
{
    packed8<T> x;
    put8((T *)&x, v);
    for (int k = 0; k < (int)sizeof(T) / 2; k++) __stwb((uint4 *)to + k, x.part[k]);
}

template <class T> struct together {
    enum { heads = 8 / sizeof(T) };
};

// n rows' groups of heads by eights of pairs.
template <class T>
__global__ void turn8(T *y, int64_t ys, const T *x, int64_t xs, const float *cosines, const float *sines, const int32_t *pos, uint32_t n,
                      uint32_t groups, uint32_t H, uint32_t half, float sign)
{
    enum { HEADS = together<T>::heads };
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const uint32_t eights = half / 8, j = i % eights * 8, rest = i / eights, r = rest / groups, first = rest % groups * HEADS;
    const T *in = x + r * xs + (int64_t)first * 2 * half + j;
    packed8<T> a[HEADS], b[HEADS];
#pragma unroll
    for (uint32_t h = 0; h < HEADS; h++) {
        if (first + h >= H) continue;
        a[h] = read8(in + h * 2 * half);
        b[h] = read8(in + h * 2 * half + half);
    }
    float c[8], s[8];
    const int64_t at = (int64_t)pos[r] * half + j;
    get8(c, cosines + at);
    get8(s, sines + at);
    for (int k = 0; k < 8; k++) s[k] *= sign;
    T *out = y + r * ys + (int64_t)first * 2 * half + j;
#pragma unroll
    for (uint32_t h = 0; h < HEADS; h++) {
        if (first + h >= H) continue;
        float u[8], v[8], p[8], q[8];
        get8(p, (const T *)&a[h]);
        get8(q, (const T *)&b[h]);
        for (int k = 0; k < 8; k++) {
            u[k] = p[k] * c[k] - q[k] * s[k];
            v[k] = q[k] * c[k] + p[k] * s[k];
        }
        write8(out + h * 2 * half, u);
        write8(out + h * 2 * half + half, v);
    }
}

static void run_turn(pc_tensor y, pc_tensor x, pc_tensor cosines, pc_tensor sines, pc_tensor pos, float sign)
{
    const int64_t N = x.dim[0], H = x.dim[1], half = x.dim[2] / 2, n = N * H * half;
    if (n == 0) return;
    PC_ASSERT(cosines.dtype == PC_F32, "rotary tables of %s", pc_dtype_name(cosines.dtype));
    const int32_t *at = mirrored(pos);
    const int64_t heads = x.dtype == PC_BF16 ? (int64_t)together<bf16>::heads : (int64_t)together<float>::heads;
    const int64_t groups = (H + heads - 1) / heads, eights = N * groups * (half / 8);
    if (half % 8 == 0 && by_eights(y) && by_eights(x) && by_eights(cosines) && by_eights(sines) && eights < (int64_t)1 << 31)
        BY_TYPE(x, LAUNCH(turn8<T>, blocks_for(eights, 128), 128, 0, (T *)y.data, y.stride, (const T *)x.data, x.stride,
                          (const float *)cosines.data, (const float *)sines.data, at, (uint32_t)eights, (uint32_t)groups, (uint32_t)H,
                          (uint32_t)half, sign));
    else
        BY_TYPE(x, LAUNCH(turn<T>, blocks_for(n) < 65536u ? blocks_for(n) : 65536u, THREADS, 0, (T *)y.data, y.stride, (const T *)x.data,
                          x.stride, (const float *)cosines.data, (const float *)sines.data, at, n, H, half, sign));
}

void cuda_rope_forward(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor cos_table, pc_tensor sin_table, pc_tensor pos)
{
    if (pc_cuda_rope_few(ctx, y, x, cos_table, sin_table, pos)) return;
    run_turn(y, x, cos_table, sin_table, pos, 1.0f);
}

void cuda_rope_backward(pc_ctx *, pc_tensor dx, pc_tensor dy, pc_tensor cos_table, pc_tensor sin_table, pc_tensor pos)
{
    run_turn(dx, dy, cos_table, sin_table, pos, -1.0f);
}

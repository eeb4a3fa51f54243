/*
 * each.cuh - operations that go number by number: y[n,c] = f(a[n,c], b[n,c], i), i = n C + c, for rows that may be
 * strides apart. By eights where the operands' addresses and widths allow it.
 *
 * f has `one(a, b, i)`; Each<F> makes `eight` of it, which a functor may have of its own.
 */
#ifndef PC_OPS_CUDA_EACH_CUH
#define PC_OPS_CUDA_EACH_CUH

#include "model/ops/cuda/device.cuh"

template <class F> struct Each {
    __device__ __forceinline__ void eight(float *y, const float *a, const float *b, int64_t i) const
    {
        for (int k = 0; k < 8; k++) y[k] = ((const F *)this)->one(a[k], b[k], i + k);
    }
};

template <class Y, class A, class B, class F>
__global__ void each(Y *y, int64_t ys, const A *a, int64_t as, const B *b, int64_t bs, int64_t n, int64_t C, F f)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / C, c = i - r * C;
        put(y, r * ys + c, f.one(get(a, r * as + c), b ? get(b, r * bs + c) : 0.0f, i));
    }
}

// n, C: in eights.
template <class Y, class A, class B, class F, bool BOTH>
__global__ void each8(Y *y, int64_t ys, const A *a, int64_t as, const B *b, int64_t bs, uint32_t n, uint32_t C, F f)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const uint32_t r = C == n ? 0 : i / C, c = (i - r * C) * 8;
    float u[8], v[8] = {}, w[8];
    get8(u, a + r * as + (int64_t)c);
    if (BOTH) get8(v, b + r * bs + (int64_t)c);
    f.eight(w, u, v, (int64_t)i * 8);
    put8(y + r * ys + (int64_t)c, w);
}

static inline bool dense_or_absent(pc_tensor x)
{
    return !x.data || pc_is_dense(x);
}

template <class Y, class A, class B, class F> static void run_each(pc_tensor y, pc_tensor a, pc_tensor b, F f)
{
    const int64_t n = pc_numel(y);
    int64_t C = pc_row_len(y);
    if (n == 0) return;
    const bool flat = pc_is_dense(y) && pc_is_dense(a) && dense_or_absent(b);
    bool eights = n % 8 == 0 && n / 8 < (int64_t)1 << 31;
    if (flat) {
        C = n;
        eights = eights && ((uintptr_t)y.data | (uintptr_t)a.data | (uintptr_t)b.data) % 16 == 0;
    } else {
        eights = eights && by_eights(y) && by_eights(a) && by_eights(b);
    }
    if (!eights) {
        const unsigned blocks = blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
        LAUNCH((each<Y, A, B, F>), blocks, THREADS, 0, (Y *)y.data, y.stride, (const A *)a.data, a.stride, (const B *)b.data,
               b.stride, n, C, f);
    } else if (pc_present(b)) {
        LAUNCH((each8<Y, A, B, F, true>), blocks_for(n / 8), THREADS, 0, (Y *)y.data, y.stride, (const A *)a.data, a.stride,
               (const B *)b.data, b.stride, (uint32_t)(n / 8), (uint32_t)(C / 8), f);
    } else {
        LAUNCH((each8<Y, A, B, F, false>), blocks_for(n / 8), THREADS, 0, (Y *)y.data, y.stride, (const A *)a.data, a.stride,
               (const B *)NULL, (int64_t)0, (uint32_t)(n / 8), (uint32_t)(C / 8), f);
    }
}

#endif

/*
 * act.cu - activations, each with its derivative beside it, and the gated product of SwiGLU. Formulas: ops.h.
 */
#include "model/ops/cuda/act.cuh"

template <class T, int KIND> __global__ void act_rows(T *a, int64_t as, const T *z, int64_t zs, int64_t n, int64_t C)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / C, c = i - r * C;
        put(a, r * as + c, act_value<KIND>(get(z, r * zs + c)));
    }
}

template <class T, int KIND>
__global__ void act_rows_backward(T *dz, int64_t ds, const T *da, int64_t as, const T *z, int64_t zs, int64_t n, int64_t C)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / C, c = i - r * C;
        put(dz, r * ds + c, get(da, r * as + c) * act_slope<KIND>(get(z, r * zs + c)));
    }
}

static unsigned grid_for(int64_t n)
{
    return blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
}

#define BY_KIND(kind, ...)                                                                         \
    switch (kind) {                                                                                \
    case PC_ACT_GELU: { enum { KIND = PC_ACT_GELU }; __VA_ARGS__; break; }                         \
    case PC_ACT_GELU_TANH: { enum { KIND = PC_ACT_GELU_TANH }; __VA_ARGS__; break; }               \
    case PC_ACT_QUICK: { enum { KIND = PC_ACT_QUICK }; __VA_ARGS__; break; }                       \
    case PC_ACT_SILU: { enum { KIND = PC_ACT_SILU }; __VA_ARGS__; break; }                         \
    case PC_ACT_RELU: { enum { KIND = PC_ACT_RELU }; __VA_ARGS__; break; }                         \
    }

void cuda_act_forward(pc_ctx *, pc_tensor a, pc_tensor z, pc_act kind)
{
    const int64_t n = pc_numel(a), C = pc_row_len(a);
    if (n == 0) return;
    BY_TYPE(a, BY_KIND(kind, LAUNCH((act_rows<T, KIND>), grid_for(n), THREADS, 0, (T *)a.data, a.stride, (const T *)z.data, z.stride, n, C)));
}

void cuda_act_backward(pc_ctx *, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    const int64_t n = pc_numel(dz), C = pc_row_len(dz);
    if (n == 0) return;
    BY_TYPE(dz, BY_KIND(kind, LAUNCH((act_rows_backward<T, KIND>), grid_for(n), THREADS, 0, (T *)dz.data, dz.stride, (const T *)da.data,
                                     da.stride, (const T *)z.data, z.stride, n, C)));
}

// ---- swiglu: h = silu(g) u of rows (g, u) ------------------------------------------------------------

template <class T> __global__ void swiglu_rows(T *h, int64_t hs, const T *gu, int64_t gs, int64_t n, int64_t F)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / F, c = i - r * F;
        put(h, r * hs + c, act_value<PC_ACT_SILU>(get(gu, r * gs + c)) * get(gu, r * gs + F + c));
    }
}

template <class T>
__global__ void swiglu_rows_backward(T *dgu, int64_t ds, const T *dh, int64_t hs, const T *gu, int64_t gs, int64_t n, int64_t F)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / F, c = i - r * F;
        const float g = get(gu, r * gs + c), u = get(gu, r * gs + F + c), d = get(dh, r * hs + c);
        put(dgu, r * ds + c, d * u * act_slope<PC_ACT_SILU>(g));
        put(dgu, r * ds + F + c, d * act_value<PC_ACT_SILU>(g));
    }
}

void cuda_swiglu_forward(pc_ctx *, pc_tensor h, pc_tensor gu)
{
    const int64_t n = pc_numel(h), F = pc_row_len(h);
    if (n == 0) return;
    BY_TYPE(h, LAUNCH(swiglu_rows<T>, grid_for(n), THREADS, 0, (T *)h.data, h.stride, (const T *)gu.data, gu.stride, n, F));
}

void cuda_swiglu_backward(pc_ctx *, pc_tensor dgu, pc_tensor dh, pc_tensor gu)
{
    const int64_t n = pc_numel(dh), F = pc_row_len(dh);
    if (n == 0) return;
    BY_TYPE(dh, LAUNCH(swiglu_rows_backward<T>, grid_for(n), THREADS, 0, (T *)dgu.data, dgu.stride, (const T *)dh.data, dh.stride,
                       (const T *)gu.data, gu.stride, n, F));
}

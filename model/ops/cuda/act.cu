/*
 * act.cu - activations, each with its derivative beside it, and the gated product of SwiGLU. Formulas: ops.h.
 */
#include "model/ops/cuda/act.cuh"
#include "model/ops/cuda/small.cuh"
#include "model/ops/cuda/each.cuh"

template <class T> struct fast {
    enum { yes = sizeof(T) == 2 };
};

template <int KIND, bool FAST> struct Value : Each<Value<KIND, FAST>> {
    __device__ float one(float z, float, int64_t) const { return act_value<KIND, FAST>(z); }
};
template <int KIND, bool FAST> struct Slope : Each<Slope<KIND, FAST>> {
    __device__ float one(float da, float z, int64_t) const { return da * act_slope<KIND, FAST>(z); }
};

void cuda_act_forward(pc_ctx *, pc_tensor a, pc_tensor z, pc_act kind)
{
    BY_TYPE(a, BY_KIND(kind, run_each<T, T, T>(a, z, PC_NONE, Value<KIND, fast<T>::yes>())));
}

void cuda_act_backward(pc_ctx *, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    BY_TYPE(dz, BY_KIND(kind, run_each<T, T, T>(dz, da, z, Slope<KIND, fast<T>::yes>())));
}

// What linear_act leaves is z.
void cuda_linear_act_backward(pc_ctx *ctx, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    cuda_act_backward(ctx, dz, da, z, kind);
}

// ---- swiglu: h = silu(g) u of rows (g, u) ------------------------------------------------------------

template <bool FAST> struct Gate : Each<Gate<FAST>> {
    __device__ float one(float g, float u, int64_t) const { return act_value<PC_ACT_SILU, FAST>(g) * u; }
};

void cuda_swiglu_forward(pc_ctx *ctx, pc_tensor h, pc_tensor gu)
{
    if (pc_cuda_swiglu_few(ctx, h, gu)) return;
    const int64_t F = pc_row_len(h);
    BY_TYPE(h, run_each<T, T, T>(h, pc_cols(gu, 0, F), pc_cols(gu, F, 2 * F), Gate<fast<T>::yes>()));
}

template <bool FAST> __device__ __forceinline__ void gate_backward(float *dg, float *du, float d, float g, float u)
{
    const float s = logistic<FAST>(g);
    *dg = d * u * (s + g * s * (1.0f - s));
    *du = d * g * s;
}

template <class T>
__global__ void swiglu_rows_backward(T *dgu, int64_t ds, const T *dh, int64_t hs, const T *gu, int64_t gs, int64_t n, int64_t F)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / F, c = i - r * F;
        float dg, du;
        gate_backward<fast<T>::yes>(&dg, &du, get(dh, r * hs + c), get(gu, r * gs + c), get(gu, r * gs + F + c));
        put(dgu, r * ds + c, dg);
        put(dgu, r * ds + F + c, du);
    }
}

// n in eights, F in numbers.
template <class T>
__global__ void swiglu_rows_backward8(T *dgu, int64_t ds, const T *dh, int64_t hs, const T *gu, int64_t gs, uint32_t n, uint32_t F)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const uint32_t r = i / (F / 8), c = (i - r * (F / 8)) * 8;
    float d[8], g[8], u[8], dg[8], du[8];
    get8(d, dh + r * hs + c);
    get8(g, gu + r * gs + c);
    get8(u, gu + r * gs + F + c);
    for (int k = 0; k < 8; k++) gate_backward<fast<T>::yes>(&dg[k], &du[k], d[k], g[k], u[k]);
    put8(dgu + r * ds + c, dg);
    put8(dgu + r * ds + F + c, du);
}

void cuda_swiglu_backward(pc_ctx *, pc_tensor dgu, pc_tensor dh, pc_tensor gu)
{
    const int64_t n = pc_numel(dh), F = pc_row_len(dh);
    if (n == 0) return;
    const bool eights = by_eights(dgu) && by_eights(dh) && by_eights(gu) && n / 8 < (int64_t)1 << 31;
    if (eights)
        BY_TYPE(dh, LAUNCH(swiglu_rows_backward8<T>, blocks_for(n / 8), THREADS, 0, (T *)dgu.data, dgu.stride, (const T *)dh.data,
                           dh.stride, (const T *)gu.data, gu.stride, (uint32_t)(n / 8), (uint32_t)F));
    else
        BY_TYPE(dh, LAUNCH(swiglu_rows_backward<T>, blocks_for(n) < 65536u ? blocks_for(n) : 65536u, THREADS, 0, (T *)dgu.data,
                           dgu.stride, (const T *)dh.data, dh.stride, (const T *)gu.data, gu.stride, n, F));
}

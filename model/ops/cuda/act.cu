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

// ---- a derivative and the sums of its columns, for a bias --------------------------------------------

/*
 * What linear_act leaves is z: dz = da f'(z), and part[slice][c] = the sum over the slice's rows of dz. A block: 32 eights of columns; a thread takes
 * STEPS rows a turn, LINES apart, whose numbers are all on their way before the first is needed.
 */
enum { LINES = 8, STEPS = 2, BLOCKS = 4 * 132 };
template <class T, int KIND>
__global__ void __launch_bounds__(32 * LINES, 4)
    slope_sums8(T *dz, int64_t ds, float *part, const T *da, int64_t as, const T *z, int64_t zs, int64_t N, int64_t F)
{
    __shared__ float lines[LINES][256];
    const int64_t c = (blockIdx.x * (int64_t)32 + threadIdx.x) * 8;
    const int64_t per = (N + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * per, end = begin + per < N ? begin + per : N;
    float sum[8] = {};
    if (c < F)
        for (int64_t n = begin + threadIdx.y; n < end; n += LINES * STEPS) {
            float d[STEPS][8], v[STEPS][8];
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                const int64_t r = n + k * LINES;
                if (r >= end) continue;
                get8(d[k], da + r * as + c);
                get8(v[k], z + r * zs + c);
            }
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                const int64_t r = n + k * LINES;
                if (r >= end) continue;
                for (int i = 0; i < 8; i++) {
                    d[k][i] *= act_slope<KIND, fast<T>::yes>(v[k][i]);
                    sum[i] += d[k][i];
                }
                put8(dz + r * ds + c, d[k]);
            }
        }
    for (int i = 0; i < 8; i++) lines[threadIdx.y][threadIdx.x * 8 + i] = sum[i];
    __syncthreads();
    const int column = threadIdx.y * 32 + threadIdx.x;
    const int64_t at = blockIdx.x * (int64_t)256 + column;
    if (at >= F) return;
    float all = 0.0f;
    for (int i = 0; i < LINES; i++) all += lines[i][column];
    part[blockIdx.y * F + at] = all;
}

void cuda_linear_act_backward(pc_ctx *ctx, pc_tensor dz, pc_tensor db, pc_tensor da, pc_tensor z, pc_act kind)
{
    const int64_t N = dz.dim[0], F = pc_row_len(dz);
    if (!pc_present(db) || N < 4 * LINES || !by_eights(dz) || !by_eights(da) || !by_eights(z)) {
        cuda_act_backward(ctx, dz, da, z, kind);
        if (pc_present(db)) cuda_linear_backward(ctx, PC_NONE, PC_NONE, db, dz, PC_NONE, PC_NONE, false);
        return;
    }
    const int64_t across = blocks_for(F, 256), most = N / (4 * LINES), want = BLOCKS / across > 0 ? BLOCKS / across : 1;
    const int64_t slices = want < most ? want : most;
    float *part = (float *)pc_cuda_workspace((size_t)(slices * F) * sizeof *part);
    BY_TYPE(dz, BY_KIND(kind, LAUNCH((slope_sums8<T, KIND>), dim3((unsigned)across, (unsigned)slices), dim3(32, LINES), 0, (T *)dz.data,
                                     dz.stride, part, (const T *)da.data, da.stride, (const T *)z.data, z.stride, N, F)));
    pc_cuda_add_slices((float *)db.data, part, slices, F);
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

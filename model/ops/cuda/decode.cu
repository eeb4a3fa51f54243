/*
 * decode.cu - y = f(x W^T + b + r) of one to eight rows, at the rate at which W can be read. Formulas: ops.h.
 *
 * A block of 128 threads takes 4 rows of W. Threads go along the row 8 numbers at a time, with the loads of all 4 rows for
 * several steps on their way before the first is used, so that a processor has some hundred KB in flight. W is read past
 * the first cache; x, which all blocks read, stays there. Each thread's sum, then the warp's by exchange, then the block's
 * in order: the bits of a row depend neither on the other rows nor on how many there are.
 *
 * The loads of W begin before the kernel in front has ended (behind_others): a small kernel's time hides behind them.
 *
 * W: f32, bf16, f16 here; blocks of 32 (Q8_0, Q4_0) in stored.cu.
 */
#include "model/ops/cuda/act.cuh"
#include "model/ops/cuda/decode.cuh"
#include "model/ops/cuda/few.cuh"

bool pc_cuda_early(void)
{
    static int major;
    if (!major) CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    return major >= 9;
}

// Sixteen bytes that are read once.
__device__ __forceinline__ uint4 load_once(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// Eight numbers as they lie.
template <class W> struct packed {
    uint4 a;
    __device__ __forceinline__ void load(const W *p) { a = load_once(p); }
};
template <> struct packed<float> {
    uint4 a, b;
    __device__ __forceinline__ void load(const float *p)
    {
        a = load_once(p);
        b = load_once(p + 4);
    }
};

__device__ __forceinline__ void unpack(float (&f)[8], const packed<bf16> &p)
{
    const uint32_t u[4] = {p.a.x, p.a.y, p.a.z, p.a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = __uint_as_float(u[i] << 16);
        f[2 * i + 1] = __uint_as_float(u[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ void unpack(float (&f)[8], const packed<half> &p)
{
    const uint32_t u[4] = {p.a.x, p.a.y, p.a.z, p.a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 v = __half22float2(*(const __half2 *)&u[i]);
        f[2 * i] = v.x;
        f[2 * i + 1] = v.y;
    }
}
__device__ __forceinline__ void unpack(float (&f)[8], const packed<float> &p)
{
    const uint32_t u[8] = {p.a.x, p.a.y, p.a.z, p.a.w, p.b.x, p.b.y, p.b.z, p.b.w};
#pragma unroll
    for (int i = 0; i < 8; i++) f[i] = __uint_as_float(u[i]);
}

template <int N, class W, class X, class Y>
__global__ void __launch_bounds__(FEW_BLOCK) few_rows(Y *y, int64_t ys, Y *z, int64_t zs, const X *x, int64_t xs, const W *w, int64_t ws,
                                                      const float *b, const Y *r, int64_t rs, int O, int K, int act)
{
    constexpr int AHEAD = sizeof(W) == 4 ? 2 : 4, STEP = FEW_BLOCK * 8;
    __shared__ float sums[FEW_BLOCK / 32][FEW_ROWS_OF_W * N];
    const int o0 = blockIdx.x * FEW_ROWS_OF_W, t = threadIdx.x;
    const W *row[FEW_ROWS_OF_W];
    packed<W> p[AHEAD][FEW_ROWS_OF_W];
    float acc[FEW_ROWS_OF_W][N];
#pragma unroll
    for (int i = 0; i < FEW_ROWS_OF_W; i++) {
        row[i] = w + (int64_t)min(o0 + i, O - 1) * ws + 8 * t;
#pragma unroll
        for (int n = 0; n < N; n++) acc[i][n] = 0.0f;
    }
    let_others_begin();
    for (int k = 0; k < K; k += AHEAD * STEP) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            if (k + a * STEP + 8 * t < K) {
#pragma unroll
                for (int i = 0; i < FEW_ROWS_OF_W; i++) p[a][i].load(row[i] + k + a * STEP);
            }
        if (k == 0) behind_others();
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int at = k + a * STEP + 8 * t;
            if (at >= K) continue;
            float v[FEW_ROWS_OF_W][8];
#pragma unroll
            for (int i = 0; i < FEW_ROWS_OF_W; i++) unpack(v[i], p[a][i]);
#pragma unroll
            for (int n = 0; n < N; n++) {
                float in[8];
                read8(in, x + n * xs + at);
#pragma unroll
                for (int i = 0; i < FEW_ROWS_OF_W; i++)
#pragma unroll
                    for (int e = 0; e < 8; e++) acc[i][n] += v[i][e] * in[e];
            }
        }
    }
    finish_few<N>(sums, acc, y, ys, z, zs, b, r, rs, o0, O, act);
}

// Rows that are no multiple of 8 long, or begin anywhere: a warp a row of W.
template <class W, class X, class Y>
__global__ void odd_rows(Y *y, int64_t ys, Y *z, int64_t zs, const X *x, int64_t xs, const W *w, int64_t ws, const float *b, const Y *r,
                         int64_t rs, int O, int K, int act)
{
    const int o = blockIdx.x * (FEW_BLOCK / 32) + threadIdx.x / 32, n = blockIdx.y;
    behind_others();
    if (o >= O) return;
    float sum = 0.0f;
    for (int k = threadIdx.x % 32; k < K; k += 32) sum += wide(w[(int64_t)o * ws + k]) * get(x, n * xs + k);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) put_result(sum, y, ys, z, zs, b, r, rs, n, o, act);
}

template <class W, class X, class Y> static void run(const few_operands *f)
{
    const Y *r = (const Y *)f->r.data;
    const W *w = (const W *)f->w.data;
    const X *x = (const X *)f->x.data;
    Y *y = (Y *)f->y.data, *z = (Y *)f->z.data;
    const float *b = (const float *)f->b.data;
    const int O = (int)f->w.dim[0], K = (int)f->x.dim[1], N = (int)f->x.dim[0];
    const uintptr_t all = (uintptr_t)w | (uintptr_t)x | (uintptr_t)(f->w.stride * (int64_t)sizeof(W)) |
                          (N > 1 ? (uintptr_t)(f->x.stride * (int64_t)sizeof(X)) : 0);
    if (all % 16 || K % 8) {
        launch_early(f->early, odd_rows<W, X, Y>, dim3(blocks_for(O, FEW_BLOCK / 32), (unsigned)N), FEW_BLOCK, 0, y, f->y.stride, z, f->z.stride, x,
                     f->x.stride, w, f->w.stride, b, r, f->r.stride, O, K, f->act);
        return;
    }
#define FEW(n)                                                                                     \
    launch_early(f->early, few_rows<n, W, X, Y>, dim3(blocks_for(O, FEW_ROWS_OF_W)), FEW_BLOCK, 0, y, f->y.stride, z, f->z.stride, x,               \
                 f->x.stride, w, f->w.stride, b, r, f->r.stride, O, K, f->act)
    FEW_BY_COUNT(N);
#undef FEW
}

template <class W> static void run_types(const few_operands *f)
{
    if (f->x.dtype == PC_F32)
        run<W, float, float>(f);
    else if (f->y.dtype == PC_F32)
        run<W, bf16, float>(f);
    else
        run<W, bf16, bf16>(f);
}

// What the kernels take: x f32 with y f32, x bf16 with either.
static bool takes(const few_operands *f)
{
    const pc_dtype x = f->x.dtype, y = f->y.dtype;
    if (f->x.dim[0] > FEW_ROWS || f->w.dim[0] > INT32_MAX || f->x.dim[1] > INT32_MAX) return false;
    return (x == PC_F32 && y == PC_F32) || (x == PC_BF16 && (y == PC_F32 || y == PC_BF16));
}

static bool few(const few_operands *f)
{
    if (!takes(f)) return false;
    switch (f->w.dtype) {
    case PC_F32: run_types<float>(f); return true;
    case PC_BF16: run_types<bf16>(f); return true;
    case PC_F16: run_types<half>(f); return true;
    default: return pc_cuda_blocks_few(f);
    }
}

static pc_tensor part(pc_tensor x, int64_t begin, int64_t end)
{
    if (!pc_present(x)) return x;
    return x.rank == 1 ? pc_rows(x, begin, end) : pc_cols(x, begin, end);
}

bool pc_cuda_linear_few(const pc_ctx *ctx, pc_tensor y, pc_tensor z, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r, int act)
{
    const few_operands f = {y, z, x, w, b, r, act, ctx && !ctx->grad_ops};
    if (x.dim[0] == 0 || w.dim[0] == 0) return true;
    if (few(&f)) return true;
    if (w.dtype == x.dtype) return false;
    // Many rows: so much of W as there is room for, widened, through the product of equal types.
    const int64_t O = w.dim[0], step = pc_cuda_widened_rows(w, x.dtype);
    for (int64_t o = 0; o < O; o += step) {
        const int64_t end = o + step < O ? o + step : O;
        const pc_tensor wide_w = pc_cuda_widened(w, o, end, x.dtype);
        if (act < 0)
            cuda_linear_forward(NULL, part(y, o, end), x, wide_w, part(b, o, end), part(r, o, end));
        else
            cuda_linear_act_forward(NULL, part(y, o, end), part(z, o, end), x, wide_w, part(b, o, end), (pc_act)act);
    }
    return true;
}

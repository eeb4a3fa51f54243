/*
 * attention_plain.cuh - softmax attention by tiles of f32 in shared memory, with or without relative positions.
 *
 *   forward    a block takes 64 queries of one head and lets the keys they see pass by, 64 at a time, keeping a running
 *              maximum and sum a row (Milakov and Gimelshein 2018; Dao et al. 2022)
 *   backward   delta[n,h] = o . do;  P = exp(s - lse), dS = P (do . v - delta)
 *              one kernel goes by queries and sums dq over keys, one by keys and sums dk, dv over queries and over
 *              the heads that share them: every sum has one owner and one order
 *
 * Products run in f32 whatever the tensors hold.
 */
#ifndef PC_OPS_CUDA_ATTENTION_PLAIN_CUH
#define PC_OPS_CUDA_ATTENTION_PLAIN_CUH

#include "model/ops/cuda/attention.cuh"

#include <math.h>

enum { SIDE = GRANULE, GRID = 16, PER = SIDE / GRID, NARROW = 32 };

// Rows [begin, end) of head h, times `by`, as floats [rows][WIDE + 1]; zeros behind the end and behind D.
template <int WIDE, class T>
__device__ __forceinline__ void load_rows(float *to, const T *x, int64_t stride, int64_t h, int64_t D, int begin, int end, int rows, float by)
{
    for (int i = threadIdx.x; i < rows * WIDE; i += GRID * GRID) {
        const int r = i / WIDE, d = i % WIDE;
        to[r * (WIDE + 1) + d] = begin + r < end && d < D ? by * get(x + (int64_t)(begin + r) * stride + h * D, d) : 0.0f;
    }
}

// s[i][j] = row (ty PER + i) of a . row (tx + GRID j) of b
template <int WIDE, int J> __device__ __forceinline__ void dots(float s[PER][J], const float *a, const float *b)
{
    const int tx = threadIdx.x % GRID, ty = threadIdx.x / GRID;
    for (int i = 0; i < PER; i++)
        for (int j = 0; j < J; j++) s[i][j] = 0.0f;
    for (int d = 0; d < WIDE; d++) {
        float x[PER], y[J];
        for (int i = 0; i < PER; i++) x[i] = a[(ty * PER + i) * (WIDE + 1) + d];
        for (int j = 0; j < J; j++) y[j] = b[(tx + GRID * j) * (WIDE + 1) + d];
        for (int i = 0; i < PER; i++)
            for (int j = 0; j < J; j++) s[i][j] += x[i] * y[j];
    }
}

// acc[i][j] += sum over k < K of w[ty PER + i][k] v[k][tx + GRID j]
template <int WIDE, int K> __device__ __forceinline__ void weigh(float acc[PER][WIDE / GRID], const float *w, const float *v)
{
    const int tx = threadIdx.x % GRID, ty = threadIdx.x / GRID;
    for (int k = 0; k < K; k++) {
        float x[PER];
        for (int i = 0; i < PER; i++) x[i] = w[(ty * PER + i) * (K + 1) + k];
        for (int j = 0; j < WIDE / GRID; j++) {
            const float y = v[k * (WIDE + 1) + tx + GRID * j];
            for (int i = 0; i < PER; i++) acc[i][j] += x[i] * y;
        }
    }
}

__device__ __forceinline__ float across_max(float v)
{
    for (int d = GRID / 2; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

__device__ __forceinline__ float across_sum(float v)
{
    for (int d = GRID / 2; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

// What comes on top of a scaled product: rh[n,h,y] + rw[n,h,x], key (y,x) of the sequence's grid. none: nothing.
template <class T> struct relative {
    enum { THERE = true };
    const T *rh, *rw;
    int64_t hs, ws; // elements between rows
    int a, b;
    __device__ __forceinline__ int line(int key) const
    {
        return key / b;
    }
    __device__ __forceinline__ int column(int key) const
    {
        return key % b;
    }
    __device__ __forceinline__ float at(int64_t n, int h, int key) const
    {
        return get(rh, n * hs + h * a + line(key)) + get(rw, n * ws + h * b + column(key));
    }
};
struct none {
    enum { THERE = false };
    int a, b;
    __device__ __forceinline__ int line(int) const
    {
        return 0;
    }
    __device__ __forceinline__ int column(int) const
    {
        return 0;
    }
    __device__ __forceinline__ float at(int64_t, int, int) const
    {
        return 0.0f;
    }
};

template <int WIDE, class T, class R>
__global__ void __launch_bounds__(GRID *GRID)
    attend(T *o, int64_t os, float *lse, const T *q, int64_t qs, const T *k, int64_t ks, const T *v, int64_t vs, const task *tasks,
           const granule *granules, const int4 *rows, R rel, heads z)
{
    extern __shared__ float memory[];
    float *Q = memory, *KV = Q + SIDE * (WIDE + 1), *P = KV + SIDE * (WIDE + 1);
    const task t = tasks[blockIdx.x];
    const int h = blockIdx.y, g = (int)(h * z.G / z.H), tx = threadIdx.x % GRID, ty = threadIdx.x / GRID;
    float acc[PER][WIDE / GRID], top[PER], sum[PER];
    for (int i = 0; i < PER; i++) {
        top[i] = -INFINITY;
        sum[i] = 0.0f;
        for (int j = 0; j < WIDE / GRID; j++) acc[i][j] = 0.0f;
    }
    const int origin = granules[t.granule].origin;
    load_rows<WIDE>(Q, q, qs, h, z.D, t.begin, t.end, SIDE, z.scale);
    for (int part = 0; part < 2; part++)
        for (int key = t.first[part]; key < t.last[part]; key += SIDE) {
            const int end = t.last[part];
            __syncthreads();
            load_rows<WIDE>(KV, k, ks, g, z.D, key, end, SIDE, 1.0f);
            __syncthreads();
            float s[PER][PER];
            dots<WIDE, PER>(s, Q, KV);
            for (int i = 0; i < PER; i++) {
                const int n = t.begin + ty * PER + i;
                float high = -INFINITY;
                for (int j = 0; j < PER; j++) {
                    const int at = key + tx + GRID * j;
                    if (n >= t.end || at >= end || !sees(rows[n], at))
                        s[i][j] = -INFINITY;
                    else if (R::THERE)
                        s[i][j] += rel.at(n, h, at - origin);
                    high = fmaxf(high, s[i][j]);
                }
                high = fmaxf(top[i], across_max(high));
                const float base = high == -INFINITY ? 0.0f : high, by = expf(top[i] - base);
                float add = 0.0f;
                for (int j = 0; j < PER; j++) {
                    const float p = expf(s[i][j] - base);
                    P[(ty * PER + i) * (SIDE + 1) + tx + GRID * j] = p;
                    add += p;
                }
                sum[i] = sum[i] * by + across_sum(add);
                for (int j = 0; j < WIDE / GRID; j++) acc[i][j] *= by;
                top[i] = high;
            }
            __syncthreads();
            load_rows<WIDE>(KV, v, vs, g, z.D, key, end, SIDE, 1.0f);
            __syncthreads();
            weigh<WIDE, SIDE>(acc, P, KV);
        }
    for (int i = 0; i < PER; i++) {
        const int64_t n = t.begin + ty * PER + i;
        if (n >= t.end) continue;
        const float by = sum[i] > 0.0f ? 1.0f / sum[i] : 0.0f;
        for (int j = 0; j < WIDE / GRID; j++) {
            const int d = tx + GRID * j;
            if (d < z.D) put(o, n * os + h * z.D + d, acc[i][j] * by);
        }
        if (tx == 0) lse[n * z.H + h] = sum[i] > 0.0f ? top[i] + logf(sum[i]) : -INFINITY;
    }
}

// delta[n,h] = o . do, a warp each.
template <class T>
__global__ void deltas(float *delta, const T *o, int64_t os, const T *d, int64_t ds, int64_t count, int64_t H, int64_t D)
{
    const int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    if (i >= count) return;
    const int64_t n = i / H, h = i % H;
    float sum = 0.0f;
    for (int64_t c = threadIdx.x % 32; c < D; c += 32) sum += get(o, n * os + h * D + c) * get(d, n * ds + h * D + c);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[i] = sum;
}

// With positions drh and drw are summed too, in `bins` of a row: a of drh, b of drw, each by one thread.
template <int WIDE, class T, class R>
__global__ void __launch_bounds__(GRID *GRID)
    attend_backward_q(T *dq, int64_t dqs, T *drh, int64_t dhs, T *drw, int64_t dws, const T *dout, int64_t ds, const T *q, int64_t qs, const T *k, int64_t ks, const T *v, int64_t vs,
                      const float *lse, const float *delta, const task *tasks, const granule *granules, const int4 *rows, R rel, heads z)
{
    extern __shared__ float memory[];
    float *Q = memory, *DO = Q + SIDE * (WIDE + 1), *K = DO + SIDE * (WIDE + 1), *V = K + NARROW * (WIDE + 1),
          *S = V + NARROW * (WIDE + 1), *bins = S + SIDE * (NARROW + 1);
    enum { J = NARROW / GRID };
    const int kinds = R::THERE ? rel.a + rel.b : 0;
    const task t = tasks[blockIdx.x];
    const int h = blockIdx.y, g = (int)(h * z.G / z.H), tx = threadIdx.x % GRID, ty = threadIdx.x / GRID;
    const int origin = granules[t.granule].origin;
    float acc[PER][WIDE / GRID] = {};
    for (int i = threadIdx.x; i < SIDE * (kinds + 1); i += GRID * GRID)
        if (R::THERE) bins[i] = 0.0f;
    load_rows<WIDE>(Q, q, qs, h, z.D, t.begin, t.end, SIDE, z.scale);
    load_rows<WIDE>(DO, dout, ds, h, z.D, t.begin, t.end, SIDE, 1.0f);
    for (int part = 0; part < 2; part++)
        for (int key = t.first[part]; key < t.last[part]; key += NARROW) {
            const int end = t.last[part];
            __syncthreads();
            load_rows<WIDE>(K, k, ks, g, z.D, key, end, NARROW, 1.0f);
            load_rows<WIDE>(V, v, vs, g, z.D, key, end, NARROW, 1.0f);
            __syncthreads();
            float s[PER][J], p[PER][J];
            dots<WIDE, J>(s, Q, K);
            dots<WIDE, J>(p, DO, V);
            for (int i = 0; i < PER; i++) {
                const int n = t.begin + ty * PER + i;
                const bool row = n < t.end;
                const float l = row ? lse[(int64_t)n * z.H + h] : 0.0f, d = row ? delta[(int64_t)n * z.H + h] : 0.0f;
                for (int j = 0; j < J; j++) {
                    const int at = key + tx + GRID * j;
                    const bool seen = row && at < end && sees(rows[n], at);
                    if (R::THERE && seen) s[i][j] += rel.at(n, h, at - origin);
                    S[(ty * PER + i) * (NARROW + 1) + tx + GRID * j] = seen ? expf(s[i][j] - l) * (p[i][j] - d) : 0.0f;
                }
            }
            __syncthreads();
            if (R::THERE && threadIdx.x < 2 * SIDE) {
                const int r = threadIdx.x % SIDE, wide = threadIdx.x / SIDE;
                float *bin = bins + r * (kinds + 1) + (wide ? rel.a : 0);
                for (int j = 0; j < NARROW && key + j < end; j++) {
                    const int at = key + j - origin;
                    bin[wide ? rel.column(at) : rel.line(at)] += S[r * (NARROW + 1) + j];
                }
            }
            weigh<WIDE, NARROW>(acc, S, K);
        }
    if constexpr (R::THERE) {
        __syncthreads();
        for (int i = threadIdx.x; i < SIDE * kinds; i += GRID * GRID) {
            const int64_t n = t.begin + i / kinds;
            const int d = i % kinds;
            if (n >= t.end) continue;
            const float v = bins[i / kinds * (kinds + 1) + d];
            if (d < rel.a)
                put(drh, n * dhs + h * rel.a + d, v);
            else
                put(drw, n * dws + h * rel.b + d - rel.a, v);
        }
    }
    for (int i = 0; i < PER; i++) {
        const int64_t n = t.begin + ty * PER + i;
        if (n >= t.end) continue;
        for (int j = 0; j < WIDE / GRID; j++) {
            const int d = tx + GRID * j;
            if (d < z.D) put(dq, n * dqs + h * z.D + d, z.scale * acc[i][j]);
        }
    }
}

// Tasks of keys.
template <int WIDE, class T, class R>
__global__ void __launch_bounds__(GRID *GRID)
    attend_backward_kv(T *dk, int64_t dks, T *dv, int64_t dvs, const T *dout, int64_t ds, const T *q, int64_t qs, const T *k, int64_t ks,
                       const T *v, int64_t vs, const float *lse, const float *delta, const task *tasks, const granule *granules,
                       const int4 *rows, R rel, heads z)
{
    extern __shared__ float memory[];
    float *K = memory, *V = K + SIDE * (WIDE + 1), *Q = V + SIDE * (WIDE + 1), *DO = Q + NARROW * (WIDE + 1),
          *P = DO + NARROW * (WIDE + 1), *S = P + SIDE * (NARROW + 1);
    enum { J = NARROW / GRID };
    const task t = tasks[blockIdx.x];
    const int g = blockIdx.y, tx = threadIdx.x % GRID, ty = threadIdx.x / GRID;
    float ak[PER][WIDE / GRID] = {}, av[PER][WIDE / GRID] = {};
    load_rows<WIDE>(K, k, ks, g, z.D, t.begin, t.end, SIDE, 1.0f);
    load_rows<WIDE>(V, v, vs, g, z.D, t.begin, t.end, SIDE, 1.0f);
    for (int64_t h = g * z.H / z.G; h < (g + 1) * z.H / z.G; h++)
        for (int r = t.first[0]; r < t.last[0]; r++) {
            const granule row = granules[r];
            const bool meet = (row.first[0] < t.end && t.begin < row.last[0]) || (row.first[1] < t.end && t.begin < row.last[1]);
            if (!meet) continue;
            for (int n0 = row.begin; n0 < row.end; n0 += NARROW) {
                __syncthreads();
                load_rows<WIDE>(Q, q, qs, h, z.D, n0, row.end, NARROW, z.scale);
                load_rows<WIDE>(DO, dout, ds, h, z.D, n0, row.end, NARROW, 1.0f);
                __syncthreads();
                float s[PER][J], p[PER][J];
                dots<WIDE, J>(s, K, Q);
                dots<WIDE, J>(p, V, DO);
                for (int j = 0; j < J; j++) {
                    const int n = n0 + tx + GRID * j;
                    const bool there = n < row.end;
                    const float l = there ? lse[(int64_t)n * z.H + h] : 0.0f, d = there ? delta[(int64_t)n * z.H + h] : 0.0f;
                    for (int i = 0; i < PER; i++) {
                        const int at = t.begin + ty * PER + i;
                        const bool seen = there && at < t.end && sees(rows[n], at);
                        if (R::THERE && seen) s[i][j] += rel.at(n, (int)h, at - row.origin);
                        const float e = seen ? expf(s[i][j] - l) : 0.0f;
                        P[(ty * PER + i) * (NARROW + 1) + tx + GRID * j] = e;
                        S[(ty * PER + i) * (NARROW + 1) + tx + GRID * j] = seen ? e * (p[i][j] - d) : 0.0f;
                    }
                }
                __syncthreads();
                weigh<WIDE, NARROW>(av, P, DO);
                weigh<WIDE, NARROW>(ak, S, Q); // Q holds scale q
            }
        }
    for (int i = 0; i < PER; i++) {
        const int64_t n = t.begin + ty * PER + i;
        if (n >= t.end) continue;
        for (int j = 0; j < WIDE / GRID; j++) {
            const int d = tx + GRID * j;
            if (d >= z.D) continue;
            put(dk, n * dks + g * z.D + d, ak[i][j]);
            put(dv, n * dvs + g * z.D + d, av[i][j]);
        }
    }
}

#define LAUNCH_WIDE(kernel, blocks, floats, ...)                                                   \
    do {                                                                                           \
        const size_t bytes = (size_t)(floats) * sizeof(float);                                     \
        CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)); \
        LAUNCH(kernel, blocks, GRID *GRID, bytes, __VA_ARGS__);                                    \
    } while (0)

#define BY_WIDTH(D, ...)                                                                           \
    do {                                                                                           \
        if ((D) <= 32) {                                                                           \
            enum { WIDE = 32 };                                                                    \
            __VA_ARGS__;                                                                           \
        } else if ((D) <= 64) {                                                                    \
            enum { WIDE = 64 };                                                                    \
            __VA_ARGS__;                                                                           \
        } else if ((D) <= 128) {                                                                   \
            enum { WIDE = 128 };                                                                   \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            PC_ASSERT((D) <= 256, "attention heads of %lld", (long long)(D));                      \
            enum { WIDE = 256 };                                                                   \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

// rel: relative<T>, or none, which leaves drh and drw alone.
template <class T, class R>
static void plain_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, R rel, double scale)
{
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2];
    const sights s = sights_of(mask, N);
    const heads z = {H, k.dim[1], D, (float)scale};
    if (s.query_count[0] == 0) return;
    BY_WIDTH(D, auto *kernel = attend<WIDE, T, R>;
             LAUNCH_WIDE(kernel, dim3((unsigned)s.query_count[0], (unsigned)H), 2 * SIDE * (WIDE + 1) + SIDE * (SIDE + 1), (T *)o.data, o.stride,
                         (float *)lse.data, (const T *)q.data, q.stride, (const T *)k.data, k.stride, (const T *)v.data, v.stride, s.queries[0],
                         s.granules, s.rows, rel, z));
}

template <class T, class R>
static void plain_backward(pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor drh, pc_tensor drw, pc_tensor dout, pc_tensor q, pc_tensor k,
                           pc_tensor v, pc_tensor o, pc_tensor lse, const pc_mask *mask, R rel, double scale)
{
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2], G = k.dim[1];
    const sights s = sights_of(mask, N);
    const heads z = {H, G, D, (float)scale};
    float *delta = (float *)pc_cuda_workspace((size_t)(N * H + 1) * sizeof *delta);
    const float *l = (const float *)lse.data;
    LAUNCH(deltas<T>, blocks_for(N * H * 32), THREADS, 0, delta, (const T *)o.data, o.stride, (const T *)dout.data, dout.stride, N * H, H, D);
    BY_WIDTH(D, enum { FLOATS = 2 * (SIDE + NARROW) * (WIDE + 1) }; auto *by_query = attend_backward_q<WIDE, T, R>;
             if (s.query_count[0] > 0)
                 LAUNCH_WIDE(by_query, dim3((unsigned)s.query_count[0], (unsigned)H),
                             FLOATS + SIDE * (NARROW + 1) + (R::THERE ? SIDE * (rel.a + rel.b + 1) : 0), (T *)dq.data, dq.stride, (T *)drh.data,
                             drh.stride, (T *)drw.data, drw.stride, (const T *)dout.data, dout.stride, (const T *)q.data, q.stride,
                             (const T *)k.data, k.stride, (const T *)v.data, v.stride, l, delta, s.queries[0], s.granules, s.rows, rel, z);
             auto *by_key = attend_backward_kv<WIDE, T, R>;
             if (s.key_count[0] > 0)
                 LAUNCH_WIDE(by_key, dim3((unsigned)s.key_count[0], (unsigned)G), FLOATS + 2 * SIDE * (NARROW + 1), (T *)dk.data, dk.stride,
                             (T *)dv.data, dv.stride, (const T *)dout.data, dout.stride, (const T *)q.data, q.stride, (const T *)k.data, k.stride,
                             (const T *)v.data, v.stride, l, delta, s.keys[0], s.granules, s.rows, rel, z));
}

#endif

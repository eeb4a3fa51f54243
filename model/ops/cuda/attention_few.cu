/*
 * attention_few.cu - attention forward of few query rows over many keys: decoding from a cache.
 *
 * A block takes one query row, the heads that share one key head (up to 8 of them), and one of `splits` equal parts of the
 * keys that the row sees. Lanes hold 8 columns each, so W / 8 of them a key; every such team lets its keys pass by four at a
 * time, loads of keys and values on their way together, with a running maximum and sum a head (as flash decoding, Dao et
 * al. 2023). Teams are put together in order; the block that finishes last puts the parts together, in order too: equal inputs
 * give equal bits, whoever is last.
 *
 * What a row sees is read on the device. Inside a graph being captured it is read from the mask's own arrays, which the host
 * may rewrite before the graph is launched again, and `splits` follows from the cache's size alone.
 */
#include "model/ops/cuda/attention.cuh"

#include <math.h>

enum { BLOCK = 128, AHEAD = 4 };
static constexpr int64_t MOST_ROWS = 8;
static constexpr int MOST_SPLITS = 64;

typedef struct row_sight {
    const int32_t *lo, *hi, *plo, *phi; // [row * step]
    int step;
} row_sight;

typedef struct raw8 {
    uint4 a, b;
} raw8;

__device__ __forceinline__ void fetch(raw8 &r, const float *p)
{
    r.a = __ldg((const uint4 *)p);
    r.b = __ldg((const uint4 *)p + 1);
}
__device__ __forceinline__ void fetch(raw8 &r, const bf16 *p)
{
    r.a = __ldg((const uint4 *)p);
}
__device__ __forceinline__ void open8(float (&x)[8], const raw8 &r, const float *)
{
    const uint32_t u[8] = {r.a.x, r.a.y, r.a.z, r.a.w, r.b.x, r.b.y, r.b.z, r.b.w};
    for (int i = 0; i < 8; i++) x[i] = __uint_as_float(u[i]);
}
__device__ __forceinline__ void open8(float (&x)[8], const raw8 &r, const bf16 *)
{
    const uint32_t u[4] = {r.a.x, r.a.y, r.a.z, r.a.w};
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(u[i] << 16);
        x[2 * i + 1] = __uint_as_float(u[i] & 0xffff0000u);
    }
}

// Sums over the lanes of a team.
template <int TEAM> __device__ __forceinline__ float team_sum(float v)
{
#pragma unroll
    for (int d = TEAM / 2; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

// parts: per (row, head, split) a maximum, a sum, and D columns (unused with one split, which writes o and lse). finished: of the
// blocks of a row and its heads how many, 0 again at the end.
template <int W, int HEADS, class T>
__global__ void __launch_bounds__(BLOCK)
    few(T *o, int64_t os, float *lse, const T *q, int64_t qs, const T *k, int64_t ks, const T *v, int64_t vs, row_sight see, float *parts, int *finished,
        int splits, heads z)
{
    constexpr int TEAM = W / 8, TEAMS = BLOCK / TEAM;
    __shared__ float tops[TEAMS][HEADS], sums[TEAMS][HEADS], columns[BLOCK / 32][HEADS][W];
    __shared__ float weights[HEADS][MOST_SPLITS], totals[HEADS], highs[HEADS];
    __shared__ bool last;
    const int64_t n = blockIdx.z;
    const int share = (int)(z.H / z.G), chunks = (share + HEADS - 1) / HEADS, g = blockIdx.y / chunks, h0 = g * share + blockIdx.y % chunks * HEADS;
    const int count = min(HEADS, (g + 1) * share - h0), D = (int)z.D;
    const int lane = threadIdx.x % TEAM, team = threadIdx.x / TEAM, c = lane * 8;
    const bool inside = c < D;
    const float by = z.scale * 1.44269504088896341f;
    const int lo = see.lo[n * see.step], hi = max(lo, see.hi[n * see.step]);
    int plo = 0, phi = 0;
    if (see.plo) {
        plo = see.plo[n * see.step];
        phi = max(plo, see.phi[n * see.step]);
        if (lo < hi && phi > lo) phi = max(plo, lo); // where the two overlap a key counts once
    }
    const int before = phi - plo, all = before + hi - lo, part = (all + splits - 1) / splits;
    const int begin = min(all, (int)blockIdx.x * part), end = min(all, begin + part);

    float x[HEADS][8], acc[HEADS][8], top[HEADS], sum[HEADS];
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        top[i] = -INFINITY;
        sum[i] = 0.0f;
        raw8 r = {};
        if (i < count && inside) fetch(r, q + n * qs + (h0 + i) * z.D + c);
        open8(x[i], r, q);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            x[i][e] *= by;
            acc[i][e] = 0.0f;
        }
    }
    k += g * z.D + (inside ? c : 0);
    v += g * z.D + (inside ? c : 0);
    // All teams of a warp go round together, as they exchange sums.
    for (int first = begin; first < end; first += TEAMS * AHEAD) {
        raw8 rk[AHEAD], rv[AHEAD];
        bool there[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int i = first + a * TEAMS + team;
            there[a] = i < end;
            const int64_t row = !there[a] ? (begin < before ? plo + begin : lo + begin - before) : i < before ? plo + i : lo + i - before;
            fetch(rk[a], k + row * ks);
            fetch(rv[a], v + row * vs);
        }
        float s[AHEAD][HEADS];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float y[8];
            open8(y, rk[a], k);
#pragma unroll
            for (int i = 0; i < HEADS; i++) {
                float dot = 0.0f;
#pragma unroll
                for (int e = 0; e < 8; e++) dot += x[i][e] * y[e];
                s[a][i] = inside ? dot : 0.0f;
            }
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
#pragma unroll
            for (int i = 0; i < HEADS; i++) {
                s[a][i] = team_sum<TEAM>(s[a][i]);
                if (!there[a]) s[a][i] = -INFINITY;
            }
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
            float high = top[i];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) high = fmaxf(high, s[a][i]);
            const float base = high == -INFINITY ? 0.0f : high, less = exp2f(top[i] - base);
            sum[i] *= less;
#pragma unroll
            for (int e = 0; e < 8; e++) acc[i][e] *= less;
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                s[a][i] = exp2f(s[a][i] - base);
                sum[i] += s[a][i];
            }
            top[i] = high;
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float y[8];
            open8(y, rv[a], v);
#pragma unroll
            for (int i = 0; i < HEADS; i++)
#pragma unroll
                for (int e = 0; e < 8; e++) acc[i][e] += there[a] ? s[a][i] * y[e] : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < HEADS; i++)
        if (lane == 0) {
            tops[team][i] = top[i];
            sums[team][i] = sum[i];
        }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        float high = -INFINITY;
        for (int t = 0; t < TEAMS; t++) high = fmaxf(high, tops[t][i]);
        const float less = high == -INFINITY ? 0.0f : exp2f(top[i] - high);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float w = acc[i][e] * less;
#pragma unroll
            for (int d = TEAM; d < 32; d <<= 1) w += __shfl_xor_sync(0xffffffffu, w, d);
            if (threadIdx.x % 32 < TEAM) columns[threadIdx.x / 32][i][c + e] = w;
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < count * W; at += BLOCK) {
        const int i = at / W, d = at % W;
        float high = -INFINITY, total = 0.0f, w = 0.0f;
        for (int t = 0; t < TEAMS; t++) high = fmaxf(high, tops[t][i]);
        for (int t = 0; t < TEAMS; t++) total += high == -INFINITY ? 0.0f : sums[t][i] * exp2f(tops[t][i] - high);
        for (int t = 0; t < BLOCK / 32; t++) w += columns[t][i][d];
        const int64_t h = h0 + i;
        if (splits == 1) {
            if (d < D) put(o, n * os + h * z.D + d, total > 0.0f ? w / total : 0.0f);
            if (d == 0) lse[n * z.H + h] = total > 0.0f ? (high + log2f(total)) * 0.69314718055994531f : -INFINITY;
        } else {
            float *to = parts + ((n * z.H + h) * splits + blockIdx.x) * (z.D + 2);
            if (d < D) to[2 + d] = w;
            if (d == 0) {
                to[0] = high;
                to[1] = total;
            }
        }
    }
    if (splits == 1) return;
    __threadfence();
    __syncthreads();
    int *mine = finished + n * gridDim.y + blockIdx.y;
    if (threadIdx.x == 0) last = atomicAdd(mine, 1) == splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    const int64_t step = z.D + 2;
    const float *from = parts + (n * z.H + h0) * splits * step;
    for (int i = threadIdx.x / 32; i < count; i += BLOCK / 32) {
        const float *head = from + i * splits * step;
        float high = -INFINITY, total = 0.0f;
        for (int s = threadIdx.x % 32; s < splits; s += 32) high = fmaxf(high, __ldcg(head + s * step));
        high = warp_max(high);
        const float base = high == -INFINITY ? 0.0f : high;
        for (int s = threadIdx.x % 32; s < splits; s += 32) {
            weights[i][s] = exp2f(__ldcg(head + s * step) - base);
            total += weights[i][s] * __ldcg(head + s * step + 1);
        }
        total = warp_sum(total);
        if (threadIdx.x % 32 == 0) {
            totals[i] = total;
            highs[i] = high;
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < count * W; at += BLOCK) {
        const int i = at / W, d = at % W;
        const int64_t h = h0 + i;
        if (d >= D) continue;
        const float *head = from + i * splits * step + 2 + d;
        float w = 0.0f;
#pragma unroll 8
        for (int s = 0; s < splits; s++) w += weights[i][s] * __ldcg(head + s * step);
        put(o, n * os + h * z.D + d, totals[i] > 0.0f ? w / totals[i] : 0.0f);
        if (d == 0) lse[n * z.H + h] = totals[i] > 0.0f ? (highs[i] + log2f(totals[i])) * 0.69314718055994531f : -INFINITY;
    }
    if (threadIdx.x == 0) *mine = 0;
}

// ---- the host's side ---------------------------------------------------------------------------------

typedef struct operands {
    pc_tensor o, lse, q, k, v;
    row_sight see;
    float *parts;
    int *finished;
    int splits;
    heads z;
} operands;

template <int W, int HEADS, class T> static void launch(const operands *x)
{
    const int64_t N = x->q.dim[0], G = x->z.G, chunks = (x->z.H / G + HEADS - 1) / HEADS;
    auto *kernel = few<W, HEADS, T>;
    LAUNCH(kernel, dim3((unsigned)x->splits, (unsigned)(G * chunks), (unsigned)N), BLOCK, 0, (T *)x->o.data, x->o.stride, (float *)x->lse.data,
           (const T *)x->q.data, x->q.stride, (const T *)x->k.data, x->k.stride, (const T *)x->v.data, x->v.stride, x->see, x->parts, x->finished, x->splits,
           x->z);
}

template <int W, class T> static void launch_heads(const operands *x)
{
    const int64_t share = x->z.H / x->z.G;
    if (share == 1)
        launch<W, 1, T>(x);
    else if (share == 2)
        launch<W, 2, T>(x);
    else if (share <= 4)
        launch<W, 4, T>(x);
    else
        launch<W, 8, T>(x);
}

template <class T> static void launch_width(const operands *x)
{
    if (x->z.D <= 32)
        launch_heads<32, T>(x);
    else if (x->z.D <= 64)
        launch_heads<64, T>(x);
    else if (x->z.D <= 128)
        launch_heads<128, T>(x);
    else
        launch_heads<256, T>(x);
}

static row_sight sight_of(const pc_mask *m, int64_t N)
{
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CHECK_CUDA(cudaStreamIsCapturing(pc_cuda_stream, &capture));
    if (capture != cudaStreamCaptureStatusNone) {
        row_sight s = {pc_i32(m->lo), pc_i32(m->hi), NULL, NULL, 1};
        if (pc_present(m->plo)) {
            s.plo = pc_i32(m->plo);
            s.phi = pc_i32(m->phi);
        }
        return s;
    }
    const int32_t *rows = (const int32_t *)sights_of(m, N).rows;
    const row_sight s = {rows, rows + 1, rows + 2, rows + 3, 4};
    return s;
}

// `count` zeros that kernels leave as zeros.
static int *counters(int64_t count)
{
    static int *zeros;
    static int64_t room;
    if (count <= room) return zeros;
    if (!pc_cuda_recorded_any()) { // as with the workspace
        CHECK_CUDA(cudaStreamSynchronize(pc_cuda_stream));
        CHECK_CUDA(cudaFree(zeros));
    }
    room = count < 4096 ? 4096 : 2 * count;
    CHECK_CUDA(cudaMalloc((void **)&zeros, (size_t)room * sizeof *zeros));
    CHECK_CUDA(cudaMemsetAsync(zeros, 0, (size_t)room * sizeof *zeros, pc_cuda_stream));
    return zeros;
}

bool attention_few_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale)
{
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2], G = k.dim[1], S = mask->S > 0 ? mask->S : 1;
    if (N > MOST_ROWS * S || N > 65535 || D > 256 || H % G != 0 || k.dim[0] < 8 * N) return false;
    if (!by_vectors(q) || !by_vectors(k) || !by_vectors(v) || D % 8 != 0) return false;
    static int processors;
    if (!processors) CHECK_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    // Four to eight blocks a processor, none with fewer than 64 keys of a full cache.
    const int64_t share = H / G, blocks = N * G * ((share + 7) / 8), wanted = (share <= 2 ? 8 : 4) * (int64_t)processors;
    int64_t splits = (wanted + blocks - 1) / blocks;
    const int64_t most = (k.dim[0] / S + 63) / 64;
    splits = splits < most ? splits : most;
    splits = splits > MOST_SPLITS ? MOST_SPLITS : splits < 1 ? 1 : splits;
    float *parts = (float *)pc_cuda_workspace((size_t)(N * H * splits * (D + 2)) * sizeof *parts);
    const operands x = {o, lse, q, k, v, sight_of(mask, N), parts, counters(blocks), (int)splits, {H, G, D, (float)scale}};
    BY_TYPE(q, launch_width<T>(&x));
    return true;
}

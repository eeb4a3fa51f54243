/*
 * attention_tensor.cu - attention forward in bf16 on tensor cores (Dao 2023): scores and sums in f32 registers.
 *
 * A block has GROUPS groups of 64 query rows of one head. Keys and values that any of them sees pass by, N at a time, while
 * the next ones are on their way; a group skips what none of its rows sees, and tests no row's interval where all of them
 * see all. A last tile of at most 16 keys is multiplied as 16. Exponentials are powers of two: the scale takes in log2 e.
 */
#include "model/ops/cuda/attention_tensor.cuh"

#include <math.h>
#include <stdlib.h>
#include <string.h>

template <int W, int N, int GROUPS> constexpr int forward_bytes()
{
    return SLACK + TILE_BYTES(GROUPS * 64, W) + 4 * TILE_BYTES(N, W);
}

template <int W> struct running {
    float o[W / 8][4], top[2], sum[2];
};

template <bool HOPPER, int NT, int N, int W, int GROUPS>
__device__ __forceinline__ void pass_keys(running<W> &s, uint32_t Q, uint32_t K, uint32_t V, const int4 *rows, const granule &g, int n0, int n1, int key,
                                          int end, float by)
{
    float p[NT / 8][4];
    hold<HOPPER>(s.o);
    products_begin<HOPPER>();
    product<HOPPER, NT, W, GROUPS * 64, N>(p, Q, K);
    products_end<HOPPER>();
    products_wait<HOPPER, 0>();
    hold<HOPPER>(p);
    if (key + NT > end || !all_see(g, key, NT)) {
        const int4 row0 = rows[n0], row1 = rows[n1];
        const int first = key + (int)(threadIdx.x % 4) * 2;
#pragma unroll
        for (int j = 0; j < NT / 8; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int at = first + 8 * j + c;
                if (at >= end || !sees(row0, at)) p[j][c] = -INFINITY;
                if (at >= end || !sees(row1, at)) p[j][2 + c] = -INFINITY;
            }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float high = s.top[i];
#pragma unroll
        for (int j = 0; j < NT / 8; j++) high = fmaxf(high, fmaxf(p[j][2 * i], p[j][2 * i + 1]));
        high = quad_max(high);
        const float base = high == -INFINITY ? 0.0f : high * by, less = power2(s.top[i] * by - base);
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < NT / 8; j++)
#pragma unroll
            for (int c = 2 * i; c < 2 * i + 2; c++) {
                p[j][c] = power2(p[j][c] * by - base);
                sum += p[j][c];
            }
        s.sum[i] = s.sum[i] * less + sum;
        s.top[i] = high;
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
            s.o[j][2 * i] *= less;
            s.o[j][2 * i + 1] *= less;
        }
    }
    uint32_t a[NT / 16][4];
    as_left<NT>(a, p);
    hold<HOPPER>(s.o);
    products_begin<HOPPER>();
    add_product<HOPPER, NT, W, N>(s.o, a, V);
    products_end<HOPPER>();
    products_wait<HOPPER, 0>();
    hold<HOPPER>(s.o);
}

template <int W, int N, int GROUPS, int BLOCKS, bool HOPPER>
__global__ void __launch_bounds__(GROUPS *GROUP, BLOCKS)
    attend(bf16 *o, int64_t os, float *lse, const bf16 *q, int64_t qs, const bf16 *k, int64_t ks, const bf16 *v, int64_t vs, const task *tasks,
           const granule *granules, const int4 *rows, heads z)
{
    if constexpr (HOPPER && !HAS_WGMMA) return;
    extern __shared__ unsigned char memory[];
    constexpr int THREADS_HERE = GROUPS * GROUP, ROWS = GROUPS * 64, TILE = TILE_BYTES(N, W);
    const uint32_t Q = tiles_begin(memory), KV = Q + TILE_BYTES(ROWS, W);
    const task t = tasks[blockIdx.x];
    const int h = blockIdx.y, D = (int)z.D, group = threadIdx.x / GROUP, lane = threadIdx.x % 32;
    const int64_t kv = (int64_t)(h * z.G / z.H) * z.D;
    const bool active = group < t.count;
    const granule g = granules[t.granule + (active ? group : 0)];
    const int row = t.begin + (int)(threadIdx.x / 32) * 16 + lane / 4, n0 = min(row, t.end - 1), n1 = min(row + 8, t.end - 1);
    const float by = z.scale * LOG2E;
    running<W> s;
#pragma unroll
    for (int j = 0; j < W / 8; j++) s.o[j][0] = s.o[j][1] = s.o[j][2] = s.o[j][3] = 0.0f;
    s.top[0] = s.top[1] = -INFINITY;
    s.sum[0] = s.sum[1] = 0.0f;
    k += kv;
    v += kv;

    key_walk at, next;
    at.start(t);
    load_tile<W, ROWS, THREADS_HERE>(Q, q + h * z.D, qs, t.begin, t.end, D);
    if (at.more()) {
        load_tile<W, N, THREADS_HERE>(KV, k, ks, at.key, at.end(t), D);
        load_tile<W, N, THREADS_HERE>(KV + TILE, v, vs, at.key, at.end(t), D);
    }
    for (uint32_t here = KV; at.more(); at = next) {
        copies_done();
        tiles_ready<HOPPER>();
        const uint32_t there = here == KV ? KV + 2 * TILE : KV;
        const int end = at.end(t), key = at.key;
        next = at;
        next.key += N;
        next.settle(t);
        if (next.more()) {
            load_tile<W, N, THREADS_HERE>(there, k, ks, next.key, next.end(t), D);
            load_tile<W, N, THREADS_HERE>(there + TILE, v, vs, next.key, next.end(t), D);
        }
        if (active && any_sees(g, key, min(key + N, end))) {
            if (end - key <= 16)
                pass_keys<HOPPER, 16, N, W, GROUPS>(s, Q, here, here + TILE, rows, g, n0, n1, key, end, by);
            else
                pass_keys<HOPPER, N, N, W, GROUPS>(s, Q, here, here + TILE, rows, g, n0, n1, key, end, by);
        }
        here = there;
    }
    copies_done();
    __syncthreads();
    if (!active) return;
    float inverse[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float sum = quad_sum(s.sum[i]);
        inverse[i] = sum > 0.0f ? 1.0f / sum : 0.0f;
        const int n = row + 8 * i;
        if (lane % 4 == 0 && n < t.end) lse[(int64_t)n * z.H + h] = sum > 0.0f ? s.top[i] * z.scale + logf(sum) : -INFINITY;
    }
    store_rows<W, ROWS>(o + h * z.D, os, t.begin, t.end, D, Q, s.o, inverse[0], inverse[1]);
}

bool attention_on_hopper(void)
{
    static int hopper = -1;
    if (hopper < 0) {
        int major = 0, minor = 0;
        CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
        CHECK_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
        const char *isa = getenv("PERCEPT_GPU_ISA");
        hopper = major == 9 && minor == 0 && !(isa && strcmp(isa, "sm80") == 0);
    }
    return hopper == 1;
}

typedef struct operands {
    pc_tensor o, lse, q, k, v;
    sights see;
    heads z;
} operands;

template <int W, int N, int GROUPS, int BLOCKS, bool HOPPER> static void launch(const operands *x)
{
    auto *kernel = attend<W, N, GROUPS, BLOCKS, HOPPER>;
    LAUNCH_TILES(kernel, dim3((unsigned)x->see.query_count[GROUPS - 1], (unsigned)x->z.H), GROUPS * GROUP, (forward_bytes<W, N, GROUPS>()),
                 (bf16 *)x->o.data, x->o.stride, (float *)x->lse.data, (const bf16 *)x->q.data, x->q.stride, (const bf16 *)x->k.data, x->k.stride,
                 (const bf16 *)x->v.data, x->v.stride, x->see.queries[GROUPS - 1], x->see.granules, x->see.rows, x->z);
}

template <int W> static void launch_width(const operands *x)
{
    if (!attention_on_hopper())
        launch<W, 64, 2, 1, false>(x);
    else if constexpr (W <= 64)
        launch<W, 64, 2, 2, true>(x);
    else
        launch<W, 64, 3, 1, true>(x);
}

bool attention_tensor_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale)
{
    const int64_t D = q.dim[2];
    if (q.dtype != PC_BF16 || D > 128 || !(scale > 0.0) || !by_vectors(o) || !by_vectors(q) || !by_vectors(k) || !by_vectors(v)) return false;
    const operands x = {o, lse, q, k, v, sights_of(mask, q.dim[0]), {q.dim[1], k.dim[1], D, (float)scale}};
    if (x.see.query_count[0] == 0) return true;
    if (D <= 32)
        launch_width<32>(&x);
    else if (D <= 64)
        launch_width<64>(&x);
    else if (D <= 80)
        launch_width<80>(&x);
    else if (D <= 96)
        launch_width<96>(&x);
    else
        launch_width<128>(&x);
    return true;
}

/*
 * attention_tensor_backward.cu - attention backward in bf16 on tensor cores; every sum has one owner and one order.
 *
 *   P = 2^(by s - lse log2 e)      dS = P (do . v - delta),  delta = o . do
 *   by queries    dq = scale dS k          a block of 128 query rows, their keys pass by
 *   by keys       dk = scale dS^T q, dv = P^T do   a block of 128 key rows, their queries pass by, head after head of
 *                 those that share the keys; here scores are computed with keys as rows
 *
 * Scores are made twice, so that no sum crosses blocks. (lse log2 e, delta) lie in pairs by head, made first.
 */
#include "model/ops/cuda/attention_tensor.cuh"

#include <math.h>

// Eight lanes each: pairs[h, n] = (lse log2 e, o . do)
static __global__ void pair_up(float2 *pairs, const float *lse, const bf16 *o, int64_t os, const bf16 *d, int64_t ds, int64_t N, int64_t H, int64_t D)
{
    const int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 8, n = i / H, h = i % H;
    const int lane = threadIdx.x % 8;
    float sum = 0.0f;
    for (int64_t c = 8 * lane; c < D && i < N * H; c += 64) {
        const uint4 a = *(const uint4 *)(o + n * os + h * D + c), b = *(const uint4 *)(d + n * ds + h * D + c);
        const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
        for (int e = 0; e < 4; e++)
            sum += __uint_as_float(x[e] << 16) * __uint_as_float(y[e] << 16) +
                   __uint_as_float(x[e] & 0xffff0000u) * __uint_as_float(y[e] & 0xffff0000u);
    }
    for (int e = 4; e > 0; e >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, e);
    if (lane == 0 && i < N * H) pairs[h * N + n] = make_float2(lse[i] * LOG2E, sum);
}

// ---- by queries --------------------------------------------------------------------------------------

template <bool HOPPER, int NT, int N, int W, int ROWS, class DURING>
__device__ __forceinline__ void pass_keys(float (&dq)[W / 8][4], uint32_t Q, uint32_t DO, uint32_t K, uint32_t V, const int4 *rows, const granule &g,
                                          int n0, int n1, float2 pair0, float2 pair1, int key, int end, float by, const DURING &during)
{
    float s[NT / 8][4], p[NT / 8][4];
    hold<HOPPER>(dq);
    products_begin<HOPPER>();
    product<HOPPER, NT, W, ROWS, N>(s, Q, K);
    products_end<HOPPER>();
    product<HOPPER, NT, W, ROWS, N>(p, DO, V);
    products_end<HOPPER>();
    during();
    products_wait<HOPPER, 1>();
    hold<HOPPER>(s);
#pragma unroll
    for (int j = 0; j < NT / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) s[j][c] = power2(s[j][c] * by - (c < 2 ? pair0.x : pair1.x));
    if (key + NT > end || !all_see(g, key, NT)) {
        const int4 row0 = rows[n0], row1 = rows[n1];
        const int first = key + (int)(threadIdx.x % 4) * 2;
#pragma unroll
        for (int j = 0; j < NT / 8; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int at = first + 8 * j + c;
                if (at >= end || !sees(row0, at)) s[j][c] = 0.0f;
                if (at >= end || !sees(row1, at)) s[j][2 + c] = 0.0f;
            }
    }
    products_wait<HOPPER, 0>();
    hold<HOPPER>(p);
#pragma unroll
    for (int j = 0; j < NT / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) s[j][c] *= p[j][c] - (c < 2 ? pair0.y : pair1.y);
    uint32_t a[NT / 16][4];
    as_left<NT>(a, s);
    products_begin<HOPPER>();
    add_product<HOPPER, NT, W, N>(dq, a, K);
    products_end<HOPPER>();
    products_wait<HOPPER, 0>();
    hold<HOPPER>(dq);
}

template <int W, int N, int GROUPS, int BLOCKS, bool HOPPER>
__global__ void __launch_bounds__(GROUPS *GROUP, BLOCKS)
    by_queries(bf16 *dq, int64_t dqs, const bf16 *dout, int64_t ds, const bf16 *q, int64_t qs, const bf16 *k, int64_t ks, const bf16 *v, int64_t vs,
               const float2 *pairs, const task *tasks, const granule *granules, const int4 *rows, int64_t all, heads z)
{
    if constexpr (HOPPER && !HAS_WGMMA) return;
    extern __shared__ unsigned char memory[];
    typedef ring<HOPPER, GROUPS * GROUP / 32> ring_of;
    constexpr int ALL = GROUPS * GROUP, ROWS = GROUPS * 64, TILE = TILE_BYTES(N, W);
    const uint32_t Q = tiles_begin(memory), DO = Q + TILE_BYTES(ROWS, W), KV = DO + TILE_BYTES(ROWS, W);
    const task t = tasks[blockIdx.x];
    const int h = blockIdx.y, D = (int)z.D, group = threadIdx.x / GROUP, lane = threadIdx.x % 32;
    const int64_t kv = (int64_t)(h * z.G / z.H) * z.D;
    const bool active = group < t.count;
    const granule g = granules[t.granule + (active ? group : 0)];
    const int row = t.begin + (int)(threadIdx.x / 32) * 16 + lane / 4, n0 = min(row, t.end - 1), n1 = min(row + 8, t.end - 1);
    const float2 pair0 = pairs[h * all + n0], pair1 = pairs[h * all + n1];
    const float by = z.scale * LOG2E;
    float sum[W / 8][4];
#pragma unroll
    for (int j = 0; j < W / 8; j++) sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0.0f;
    k += kv;
    v += kv;

    key_walk at, ahead;
    at.start(t);
    ahead = at;
    const auto load = [&](int place) {
        if (!ahead.more()) return false;
        const uint32_t to = KV + (uint32_t)(place * 2 * TILE);
        load_tile<W, N, ALL>(to, k, ks, ahead.key, ahead.end(t), D);
        load_tile<W, N, ALL>(to + TILE, v, vs, ahead.key, ahead.end(t), D);
        ahead.advance(t, N);
        return true;
    };
    ring_of tiles;
    load_tile<W, ROWS, ALL>(Q, q + h * z.D, qs, t.begin, t.end, D);
    load_tile<W, ROWS, ALL>(DO, dout + h * z.D, ds, t.begin, t.end, D);
    tiles.start(KV + ring_of::PLACES * 2 * TILE, load);
    for (; tiles.left > 0; at.advance(t, N)) {
        const uint32_t here = KV + (uint32_t)(tiles.ready(load) * 2 * TILE);
        const int end = at.end(t), key = at.key;
        const auto during = [&]() { tiles.during(); };
        if (!active || !any_sees(g, key, min(key + N, end)))
            during();
        else if (end - key <= 16)
            pass_keys<HOPPER, 16, N, W, ROWS>(sum, Q, DO, here, here + TILE, rows, g, n0, n1, pair0, pair1, key, end, by, during);
        else
            pass_keys<HOPPER, N, N, W, ROWS>(sum, Q, DO, here, here + TILE, rows, g, n0, n1, pair0, pair1, key, end, by, during);
        tiles.done(load);
    }
    copies_done();
    __syncthreads();
    if (active) store_rows<W, ROWS>(dq + h * z.D, dqs, t.begin, t.end, D, Q, sum, z.scale, z.scale);
}

// ---- by keys -----------------------------------------------------------------------------------------

// Queries that meet a task's keys: head after head of the group, N rows at a time.
template <int N> struct query_walk {
    enum { PER = GRANULE / N };
    int h, last_head, piece; // piece: PER a granule
    __device__ __forceinline__ bool more() const
    {
        return h < last_head;
    }
    __device__ __forceinline__ void settle(const task &t, const granule *granules)
    {
        for (; h < last_head; piece++) {
            if (piece >= t.last[0] * PER) {
                piece = t.first[0] * PER - 1;
                h++;
                continue;
            }
            const granule g = granules[piece / PER];
            if (g.begin + piece % PER * N < g.end && any_sees(g, t.begin, t.end)) return;
        }
    }
    __device__ __forceinline__ void advance(const task &t, const granule *granules)
    {
        piece++;
        settle(t, granules);
    }
    __device__ __forceinline__ void start(const task &t, const granule *granules, int from, int to)
    {
        h = from;
        last_head = t.first[0] < t.last[0] ? to : from;
        piece = t.first[0] * PER;
        settle(t, granules);
    }
};

template <bool HOPPER, int NT, int N, int W, int ROWS, class DURING>
__device__ __forceinline__ void pass_queries(float (&dk)[W / 8][4], float (&dv)[W / 8][4], uint32_t K, uint32_t V, uint32_t Q, uint32_t DO,
                                             uint32_t pairs, const int4 *rows, const granule &g, int first, int key, float by, const DURING &during)
{
    const int lane = threadIdx.x % 32;
    float s[NT / 8][4], p[NT / 8][4];
    hold<HOPPER>(dk);
    hold<HOPPER>(dv);
    products_begin<HOPPER>();
    product<HOPPER, NT, W, ROWS, N>(s, K, Q);
    products_end<HOPPER>();
    product<HOPPER, NT, W, ROWS, N>(p, V, DO);
    products_end<HOPPER>();
    during();
    products_wait<HOPPER, 1>();
    hold<HOPPER>(s);
#pragma unroll
    for (int j = 0; j < NT / 8; j++) {
        float l0, l1, d0, d1;
        asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                     : "=f"(l0), "=f"(d0), "=f"(l1), "=f"(d1)
                     : "r"(pairs + (uint32_t)((8 * j + lane % 4 * 2) * 8)));
        s[j][0] = power2(s[j][0] * by - l0);
        s[j][1] = power2(s[j][1] * by - l1);
        s[j][2] = power2(s[j][2] * by - l0);
        s[j][3] = power2(s[j][3] * by - l1);
    }
    const int group_key = key - (lane / 4) - (int)(threadIdx.x % GROUP / 32) * 16;
    if (!all_see(g, group_key, 64)) {
#pragma unroll
        for (int j = 0; j < NT / 8; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int n = first + 8 * j + lane % 4 * 2 + c;
                const bool there = n < g.end;
                const int4 row = rows[there ? n : g.begin];
                if (!there || !sees(row, key)) s[j][c] = 0.0f;
                if (!there || !sees(row, key + 8)) s[j][2 + c] = 0.0f;
            }
    }
    uint32_t a[NT / 16][4];
    as_left<NT>(a, s);
    products_begin<HOPPER>();
    add_product<HOPPER, NT, W, N>(dv, a, DO);
    products_end<HOPPER>();
    products_wait<HOPPER, 1>();
    hold<HOPPER>(p);
#pragma unroll
    for (int j = 0; j < NT / 8; j++) {
        float l0, l1, d0, d1;
        asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                     : "=f"(l0), "=f"(d0), "=f"(l1), "=f"(d1)
                     : "r"(pairs + (uint32_t)((8 * j + lane % 4 * 2) * 8)));
        s[j][0] *= p[j][0] - d0;
        s[j][1] *= p[j][1] - d1;
        s[j][2] *= p[j][2] - d0;
        s[j][3] *= p[j][3] - d1;
    }
    uint32_t b[NT / 16][4];
    as_left<NT>(b, s);
    products_begin<HOPPER>();
    add_product<HOPPER, NT, W, N>(dk, b, Q);
    products_end<HOPPER>();
    products_wait<HOPPER, 0>();
    hold<HOPPER>(dk);
    hold<HOPPER>(dv);
}

template <int W, int N, int GROUPS, int BLOCKS, bool HOPPER>
__global__ void __launch_bounds__(GROUPS *GROUP, BLOCKS)
    by_keys(bf16 *dk, int64_t dks, bf16 *dv, int64_t dvs, const bf16 *dout, int64_t ds, const bf16 *q, int64_t qs, const bf16 *k, int64_t ks,
            const bf16 *v, int64_t vs, const float2 *pairs, const task *tasks, const granule *granules, const int4 *rows, int64_t all, heads z)
{
    if constexpr (HOPPER && !HAS_WGMMA) return;
    extern __shared__ unsigned char memory[];
    typedef ring<HOPPER, GROUPS * GROUP / 32> ring_of;
    constexpr int ALL = GROUPS * GROUP, ROWS = GROUPS * 64, TILE = TILE_BYTES(N, W), PER = GRANULE / N, PLACES = ring_of::PLACES;
    const uint32_t K = tiles_begin(memory), V = K + TILE_BYTES(ROWS, W), QD = V + TILE_BYTES(ROWS, W), PAIRS = QD + PLACES * 2 * TILE;
    const task t = tasks[blockIdx.x];
    const int kv = blockIdx.y, D = (int)z.D, group = threadIdx.x / GROUP, lane = threadIdx.x % 32;
    const int begin = t.begin + group * 64, key = begin + (int)(threadIdx.x % GROUP / 32) * 16 + lane / 4;
    const float by = z.scale * LOG2E;
    float ak[W / 8][4], av[W / 8][4];
#pragma unroll
    for (int j = 0; j < W / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) ak[j][c] = av[j][c] = 0.0f;

    query_walk<N> at, ahead;
    at.start(t, granules, (int)(kv * z.H / z.G), (int)((kv + 1) * z.H / z.G));
    ahead = at;
    const auto load = [&](int place) {
        if (!ahead.more()) return false;
        const granule g = granules[ahead.piece / PER];
        const int first = g.begin + ahead.piece % PER * N;
        const uint32_t to = QD + (uint32_t)(place * 2 * TILE);
        load_tile<W, N, ALL>(to, q + ahead.h * z.D, qs, first, g.end, D);
        load_tile<W, N, ALL>(to + TILE, dout + ahead.h * z.D, ds, first, g.end, D);
        if (threadIdx.x < N) {
            const int n = first + (int)threadIdx.x;
            const float2 *pair = pairs + ahead.h * all;
            copy_async_8(PAIRS + (uint32_t)((place * N + (int)threadIdx.x) * 8), n < g.end ? pair + n : pair, n < g.end);
        }
        ahead.advance(t, granules);
        return true;
    };
    ring_of tiles;
    load_tile<W, ROWS, ALL>(K, k + kv * z.D, ks, t.begin, t.end, D);
    load_tile<W, ROWS, ALL>(V, v + kv * z.D, vs, t.begin, t.end, D);
    tiles.start(PAIRS + PLACES * N * 8, load);
    for (; tiles.left > 0; at.advance(t, granules)) {
        const int place = tiles.ready(load);
        const granule g = granules[at.piece / PER];
        const int first = g.begin + at.piece % PER * N;
        const uint32_t tile = QD + (uint32_t)(place * 2 * TILE), pair = PAIRS + (uint32_t)(place * N * 8);
        const auto during = [&]() { tiles.during(); };
        if (begin >= t.end || !any_sees(g, begin, begin + 64))
            during();
        else if (g.end - first <= 16)
            pass_queries<HOPPER, 16, N, W, ROWS>(ak, av, K, V, tile, tile + TILE, pair, rows, g, first, key, by, during);
        else
            pass_queries<HOPPER, N, N, W, ROWS>(ak, av, K, V, tile, tile + TILE, pair, rows, g, first, key, by, during);
        tiles.done(load);
    }
    copies_done();
    __syncthreads();
    store_rows<W, ROWS>(dk + kv * z.D, dks, t.begin, t.end, D, K, ak, z.scale, z.scale);
    store_rows<W, ROWS>(dv + kv * z.D, dvs, t.begin, t.end, D, V, av, 1.0f, 1.0f);
}

// ---- the host's side ---------------------------------------------------------------------------------

typedef struct operands {
    pc_tensor dq, dk, dv, dout, q, k, v;
    const float2 *pairs;
    sights see;
    heads z;
} operands;

template <int W, int N, int GROUPS, int BLOCKS, bool HOPPER> static void launch(const operands *x)
{
    typedef ring<HOPPER, GROUPS * GROUP / 32> ring_of;
    constexpr int BYTES = SLACK + 2 * TILE_BYTES(GROUPS * 64, W) + ring_of::PLACES * 2 * TILE_BYTES(N, W) + ring_of::BYTES;
    const bf16 *dout = (const bf16 *)x->dout.data, *q = (const bf16 *)x->q.data, *k = (const bf16 *)x->k.data, *v = (const bf16 *)x->v.data;
    const int64_t all = x->q.dim[0];
    const sights *s = &x->see;
    if (s->query_count[GROUPS - 1] > 0) {
        auto *kernel = by_queries<W, N, GROUPS, BLOCKS, HOPPER>;
        LAUNCH_TILES(kernel, dim3((unsigned)s->query_count[GROUPS - 1], (unsigned)x->z.H), GROUPS * GROUP, BYTES, (bf16 *)x->dq.data, x->dq.stride,
                     dout, x->dout.stride, q, x->q.stride, k, x->k.stride, v, x->v.stride, x->pairs, s->queries[GROUPS - 1], s->granules, s->rows,
                     all, x->z);
    }
    if (s->key_count[GROUPS - 1] > 0) {
        auto *kernel = by_keys<W, N, GROUPS, BLOCKS, HOPPER>;
        LAUNCH_TILES(kernel, dim3((unsigned)s->key_count[GROUPS - 1], (unsigned)x->z.G), GROUPS * GROUP, BYTES + ring_of::PLACES * N * 8,
                     (bf16 *)x->dk.data, x->dk.stride, (bf16 *)x->dv.data, x->dv.stride, dout, x->dout.stride, q, x->q.stride, k, x->k.stride, v,
                     x->v.stride, x->pairs, s->keys[GROUPS - 1], s->granules, s->rows, all, x->z);
    }
}

template <int W> static void launch_width(const operands *x)
{
    if (!attention_on_hopper())
        launch<W, 32, 2, 1, false>(x);
    else if constexpr (W <= 64)
        launch<W, 64, 1, 3, true>(x);
    else
        launch<W, 64, 2, 1, true>(x);
}

bool attention_tensor_backward(pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o,
                               pc_tensor lse, const pc_mask *mask, double scale)
{
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2];
    const bool fits = by_vectors(dq) && by_vectors(dk) && by_vectors(dv) && by_vectors(dout) && by_vectors(q) && by_vectors(k) && by_vectors(v) &&
                      by_vectors(o);
    if (q.dtype != PC_BF16 || D > 128 || !(scale > 0.0) || !fits) return false;
    float2 *pairs = (float2 *)pc_cuda_workspace((size_t)(N * H + 1) * sizeof *pairs);
    if (N * H > 0)
        LAUNCH(pair_up, blocks_for(N * H * 8), THREADS, 0, pairs, (const float *)lse.data, (const bf16 *)o.data, o.stride, (const bf16 *)dout.data,
               dout.stride, N, H, D);
    const operands x = {dq, dk, dv, dout, q, k, v, pairs, sights_of(mask, N), {H, k.dim[1], D, (float)scale}};
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

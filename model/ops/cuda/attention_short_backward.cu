/*
 * attention_short_backward.cu - attention backward of short sequences with heads of 64, bf16, Hopper: each score once.
 *
 *   P = 2^(by s - lse log2 e)      dS = P (do . v - delta),  delta = o . do
 *   dv = P^T do      dk = scale dS^T q      dq = scale dS k
 *
 * A block takes one head of one sequence after the other. Keys and values of the head, up to 64 PER rows of them and a
 * tail, lie in shared memory, twice, so that the next head's come meanwhile; tiles of 64 query rows (q, do, lse, delta) pass
 * by. WORKERS groups hold dk and dv of SHARE blocks of 64 keys each in registers. For a tile they compute P and dS with keys
 * as rows, 32 queries at a time, the next scores while exponentials of these are made, and leave dS in shared memory. A
 * helping group multiplies the tile's dS, all keys deep, by the keys: dq is one sum in registers. It also keeps the tail's
 * scores, dk and dv (16 keys, as columns), and one of its threads orders the copies. More keys than 64 PER take more
 * passes, between which dq is kept in f32 for the block itself; of a pass with one block of keys both workers have half of
 * each tile's queries, and their sums meet at its end. Every sum has one order.
 *
 * On an H100, 10 D operations a pair, and attention_tensor_backward.cu's on another of them: 256 x 257 rows, 16 heads 264
 * TFLOP/s (94); 128 x 577, 16 heads 264 (142); 1024 x 50, 12 heads 66 (28); 256 x 77 causal, 12 heads 46 (20); 32 x 1024, 16
 * heads 378.
 */
#include "model/ops/cuda/attention_short.cuh"

#include <math.h>

// lse log2 e and o . do by sequence and head, `room` rows of each; behind the last row lse is infinite, so that P is 0. A block
// has STAT_ROWS rows of a sequence, all heads: eight lanes a row of a head, then rows of numbers side by side.
enum { STAT_ROWS = 32 };
static __global__ void row_stats(float *stats, int room, const float *lse, const bf16 *o, int64_t os, const bf16 *d, int64_t ds,
                                 const int32_t *offsets, int H)
{
    extern __shared__ float found[]; // (H, STAT_ROWS + 1) of lse, then of sums
    const int s = blockIdx.y, begin = blockIdx.x * STAT_ROWS, first = offsets[s], T = offsets[s + 1] - first, lane = threadIdx.x % 8;
    float *sums = found + H * (STAT_ROWS + 1);
#pragma unroll 4
    for (int i = threadIdx.x / 8; i < STAT_ROWS * H; i += THREADS / 8) {
        const int r = i / H, h = i % H, t = begin + r;
        const int64_t n = first + t;
        float sum = 0.0f, l = INFINITY;
        if (t < T) {
            const uint4 a = *(const uint4 *)(o + n * os + h * HEAD + 8 * lane), b = *(const uint4 *)(d + n * ds + h * HEAD + 8 * lane);
            const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
            l = lse[n * H + h] * LOG2E;
#pragma unroll
            for (int e = 0; e < 4; e++)
                sum += __uint_as_float(x[e] << 16) * __uint_as_float(y[e] << 16) +
                       __uint_as_float(x[e] & 0xffff0000u) * __uint_as_float(y[e] & 0xffff0000u);
        }
        const unsigned mask = 0xffu << (threadIdx.x % 32 / 8 * 8);
#pragma unroll
        for (int e = 4; e > 0; e >>= 1) sum += __shfl_xor_sync(mask, sum, e);
        if (lane == 0) {
            found[h * (STAT_ROWS + 1) + r] = l;
            sums[h * (STAT_ROWS + 1) + r] = sum;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * H * STAT_ROWS; i += THREADS) {
        const int at = i / STAT_ROWS, r = i % STAT_ROWS, h = at % H, which = at / H; // lse, or sums
        stats[(((int64_t)s * H + h) * 2 + which) * room + begin + r] = found[at * (STAT_ROWS + 1) + r];
    }
}

// WORKERS groups, SHARE blocks of keys each; STAGES tiles of queries on their way; registers a worker and a helper have.
template <int WORKERS_, int SHARE_, int STAGES_, int BLOCKS_, int WORKER_, int HELPER_> struct plan {
    enum {
        WORKERS = WORKERS_,
        SHARE = SHARE_,
        STAGES = STAGES_,
        BLOCKS = BLOCKS_,
        WORKER = WORKER_,
        HELPER = HELPER_,
        PER = WORKERS * SHARE,
        THREADS_HERE = (WORKERS + 1) * GROUP,
        ROWS = PER * BLOCK + TAIL, // of keys, and of dS: the tail last
        KEYS = ROWS * LINE,
        STAGE = 2 * BLOCK_BYTES,
        STATS = BLOCK * 8, // of a tile: 64 of either
        // where things lie behind a multiple of 1024
        AT_DS = 4 * KEYS,
        AT_P = AT_DS + KEYS, // of the tail
        AT_QUERIES = AT_P + TAIL_BYTES,
        AT_STATS = AT_QUERIES + STAGES * STAGE,
        AT_BARRIERS = AT_STATS + STAGES * STATS,
        AT_COPIES = AT_BARRIERS + 8 * (2 * STAGES + 6),
        AT_NOTES = (AT_COPIES + 64 + 15) / 16 * 16,
        BYTES = SLACK + AT_NOTES + 32 * 4 * WORKERS,
    };
};

typedef struct boxes {
    CUtensorMap q, d, k, v, q_tail, d_tail, k_tail, v_tail;
} boxes;

typedef struct tensors {
    bf16 *dq, *dk, *dv;
    int64_t dqs, dks, dvs;
    const float *stats; // by sequence and head: room of lse log2 e, room of delta
    float4 *kept;       // of dq, between passes
    shape_of_work work;
    int room;
    float scale;
} tensors;

#if HAS_WGMMA

struct barriers {
    uint32_t base;
    int stages;
    __device__ __forceinline__ uint32_t query_full(int i) const
    {
        return base + 8 * i;
    }
    __device__ __forceinline__ uint32_t query_empty(int i) const
    {
        return base + 8 * (stages + i);
    }
    __device__ __forceinline__ uint32_t key_full(int i) const
    {
        return base + 8 * (2 * stages + i);
    }
    __device__ __forceinline__ uint32_t key_empty(int i) const
    {
        return base + 8 * (2 * stages + 2 + i);
    }
    __device__ __forceinline__ uint32_t ds_full() const
    {
        return base + 8 * (2 * stages + 4);
    }
    __device__ __forceinline__ uint32_t ds_empty() const
    {
        return base + 8 * (2 * stages + 5);
    }
};

// What a worker knows of its keys in a pass.
struct place {
    uint32_t K, DS; // its first block
    int rows, keys; // rows of the sequence; keys from its first one on
};

// A tile's P, dS, and what they add to dk and dv, HALVES times N queries. `query`: the first, beside the
// worker's first key; `piece`: where in the tile it stands, in eights.
template <class P, int N, int ACTIVE, int HALVES, bool CAUSAL, int SHARE, class FREE>
__device__ __forceinline__ void pass_tile(float (&dk)[SHARE][8][4], float (&dv)[SHARE][8][4], const place &my, uint32_t Q, uint32_t stats, int thread,
                                          int query, int piece, float by, const FREE &wait_free)
{
    constexpr int STEPS = ACTIVE * HALVES;
    const int lane = thread % 32, warp = thread % GROUP / 32;
    const uint32_t keys = low_of(my.K), queries = low_of(Q);
    float s[N / 8][4], p[N / 8][4];
    const auto begin = [&](int t) {
        uint32_t block = keys + (uint32_t)(t % ACTIVE * (P::WORKERS * BLOCK_BYTES) / 16), rows = queries + (uint32_t)(t / ACTIVE * N * LINE / 16);
        asm volatile("" : "+r"(block), "+r"(rows)); // made anew each time: registers
        products_begin<true>();
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma_both<N>(s, tile_of(block + 2 * k), tile_of(rows + 2 * k), k);
        products_end<true>();
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma_both<N>(p, tile_of(block + P::KEYS / 16 + 2 * k), tile_of(rows + BLOCK_BYTES / 16 + 2 * k), k);
        products_end<true>();
    };
    begin(0);
#pragma unroll
    for (int t = 0; t < STEPS; t++) {
        const int b = t % ACTIVE, half = t / ACTIVE;
        const uint32_t row_of = stats + (uint32_t)((half * N + lane % 4 * 2) * 4);
        float l[N / 8][2], delta[N / 8][2];
#pragma unroll
        for (int j = 0; j < N / 8; j++) asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(l[j][0]), "=f"(l[j][1]) : "r"(row_of + 32 * j));
        wait_but(t > 0 ? 2 : 1); // the products of do and v and dk's of the step before may run on
        hold<true>(s);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            s[j][0] = power2(s[j][0] * by - l[j][0]);
            s[j][1] = power2(s[j][1] * by - l[j][1]);
            s[j][2] = power2(s[j][2] * by - l[j][0]);
            s[j][3] = power2(s[j][3] * by - l[j][1]);
        }
        const int block = b * (P::WORKERS * BLOCK), key = block + warp * 16 + lane / 4;
        if (CAUSAL || block + BLOCK > my.keys) {
            const int last = query + half * N + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int at = key + c / 2 * 8;
                    if (at >= my.keys || (CAUSAL && at > last + 8 * j + c % 2)) s[j][c] = 0.0f;
                }
        }
        uint32_t a[N / 16][4];
        as_left<N>(a, s);
        products_begin<true>();
#pragma unroll
        for (int k = 0; k < N / 16; k++) wgmma_left<64>(dv[b], a[k], tile_of(queries + (uint32_t)((BLOCK_BYTES + (half * N + 16 * k) * LINE) / 16)));
        products_end<true>();
#pragma unroll
        for (int j = 0; j < N / 8; j++)
            asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(delta[j][0]), "=f"(delta[j][1]) : "r"(row_of + 32 * j + BLOCK * 4));
        wait_but(t > 0 ? 2 : 1);
        hold<true>(p);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            s[j][0] *= p[j][0] - delta[j][0];
            s[j][1] *= p[j][1] - delta[j][1];
            s[j][2] *= p[j][2] - delta[j][0];
            s[j][3] *= p[j][3] - delta[j][1];
        }
        if (t > 0) products_wait<true, 1>(); // dk's of the step before has read its registers
        uint32_t e[N / 16][4];
        as_left<N>(e, s);
        if (t + 1 < STEPS) begin(t + 1); // before dk's: exponentials wait for these
        products_begin<true>();
#pragma unroll
        for (int k = 0; k < N / 16; k++) wgmma_left<64>(dk[b], e[k], tile_of(queries + (uint32_t)((half * N + 16 * k) * LINE / 16)));
        products_end<true>();
        if (t == 0) wait_free();
        const int row = b * (P::WORKERS * BLOCK) + warp * 16 + lane % 16;
#pragma unroll
        for (int k = 0; k < N / 16; k++) store_matrices(piece_at<BLOCK>(my.DS, row, piece + half * (N / 8) + 2 * k + lane / 16), e[k]);
    }
    products_wait<true, 0>();
#pragma unroll
    for (int b = 0; b < ACTIVE; b++) {
        hold<true>(dk[b]);
        hold<true>(dv[b]);
    }
}

// A sum that two groups have parts of: one leaves its part at `at` (16 KB), the other adds it to its own.
__device__ __forceinline__ void put_part(uint32_t at, const float (&d)[8][4])
{
    at += threadIdx.x % GROUP * 16;
#pragma unroll
    for (int j = 0; j < 8; j++)
        asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(at + 16 * GROUP * j), "f"(d[j][0]), "f"(d[j][1]), "f"(d[j][2]), "f"(d[j][3])
                     : "memory");
}

__device__ __forceinline__ void add_part(float (&d)[8][4], uint32_t at)
{
    at += threadIdx.x % GROUP * 16;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float v[4];
        asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "r"(at + 16 * GROUP * j) : "memory");
#pragma unroll
        for (int c = 0; c < 4; c++) d[j][c] += v[c];
    }
}

// Where a worker is, noted by every thread while registers are wanted for other things.
template <int PER> __device__ __forceinline__ void note(uint32_t to, const key_passes<PER> &at, int passes)
{
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(at.item), "r"(at.pass), "r"(at.first), "r"(at.T) : "memory");
    asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(to + 16), "r"(at.whole), "r"(passes) : "memory");
}

template <int PER> __device__ __forceinline__ void recall(key_passes<PER> &at, int &passes, uint32_t from)
{
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(at.item), "=r"(at.pass), "=r"(at.first), "=r"(at.T) : "r"(from) : "memory");
    asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(at.whole), "=r"(passes) : "r"(from + 16) : "memory");
    at.item = same(at.item);
    at.pass = same(at.pass);
    at.first = same(at.first);
    at.T = same(at.T);
    at.whole = same(at.whole);
    passes = same(passes);
}

// A worker's share of a pass: ACTIVE blocks of keys; with SPLIT two workers share one block, each has half of a tile's queries.
template <class P, int ACTIVE, bool SPLIT, bool CAUSAL>
__device__ __forceinline__ void work_pass(const tensors &x, place my, uint32_t base, uint32_t notes, const barriers &bar, int &tile_count)
{
    float dk[P::SHARE][8][4], dv[P::SHARE][8][4];
#pragma unroll
    for (int b = 0; b < P::SHARE; b++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) dk[b][j][c] = dv[b][j][c] = 0.0f;
    const float by = x.scale * LOG2E;
    for (int left = my.rows; left > 0; left -= BLOCK, tile_count++) {
        const int stage = tile_count % P::STAGES, thread = thread_again(), group = same(thread / GROUP);
        asm volatile("" : "+r"(my.K), "+r"(my.DS)); // what is made of them is made here, not kept through the loop
        const uint32_t Q = base + P::AT_QUERIES + (uint32_t)(stage * P::STAGE), stats = base + P::AT_STATS + (uint32_t)(stage * P::STATS);
        const auto wait_free = [&]() {
            if (tile_count > 0) barrier_wait(bar.ds_empty(), (uint32_t)(tile_count - 1) & 1);
        };
        barrier_wait(bar.query_full(stage), (uint32_t)(tile_count / P::STAGES) & 1);
        if constexpr (ACTIVE > 0 && !SPLIT) {
            if (left <= TAIL)
                pass_tile<P, 16, ACTIVE, 1, CAUSAL>(dk, dv, my, Q, stats, thread, my.keys - left, 0, by, wait_free);
            else
                pass_tile<P, 32, ACTIVE, 2, CAUSAL>(dk, dv, my, Q, stats, thread, my.keys - left, 0, by, wait_free);
        } else if (ACTIVE > 0 && left > TAIL) {
            const uint32_t rows = (uint32_t)(group * 32 * LINE);
            pass_tile<P, 32, 1, 1, CAUSAL>(dk, dv, my, Q + rows, stats + group * 32 * 4, thread, my.keys - left + group * 32, group * 4, by,
                                           wait_free);
        } else if (ACTIVE > 0 && group == 0) {
            pass_tile<P, 16, 1, 1, CAUSAL>(dk, dv, my, Q, stats, thread, my.keys - left, 0, by, wait_free);
        } else {
            wait_free();
        }
        show_tiles<true>();
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
            barrier_arrive(bar.ds_full());
            barrier_arrive(bar.query_empty(stage));
        }
    }
    key_passes<P::PER> at;
    int passes;
    recall(at, passes, notes);
    const int group = same(thread_again() / GROUP), h = at.item % x.work.H, keys = passes & 1, first = at.begin() + (SPLIT ? 0 : group * BLOCK);
    if constexpr (SPLIT) {
        const uint32_t room_k = my.K + BLOCK_BYTES, room_v = my.K + P::KEYS + BLOCK_BYTES; // of blocks that are not there
        const int64_t row = at.first + first;
        if (group == 0)
            put_part(room_v, dv[0]);
        else
            put_part(room_k, dk[0]);
        asm volatile("bar.sync 2, 256;" ::: "memory");
        if (group == 0)
            add_part(dk[0], room_k);
        else
            add_part(dv[0], room_v);
        show_tiles<true>();
        warp_arrive(bar.key_empty(keys));
        if (group == 0)
            store_block(x.dk + row * x.dks + h * HEAD, x.dks, at.T - first, dk[0], x.scale, x.scale);
        else
            store_block(x.dv + row * x.dvs + h * HEAD, x.dvs, at.T - first, dv[0], 1.0f, 1.0f);
        return;
    }
    warp_arrive(bar.key_empty(keys));
#pragma unroll
    for (int b = 0; b < ACTIVE; b++) {
        const int key = first + b * (P::WORKERS * BLOCK);
        const int64_t row = at.first + key;
        store_block(x.dk + row * x.dks + h * HEAD, x.dks, at.T - key, dk[b], x.scale, x.scale);
        store_block(x.dv + row * x.dvs + h * HEAD, x.dvs, at.T - key, dv[b], 1.0f, 1.0f);
    }
}

// 16 keys as columns, to rows of x: column j of d's rows (a head's width) is row j.
__device__ __forceinline__ void store_tail(bf16 *x, int64_t stride, int rows, const float (&d)[2][4], float by)
{
    const int lane = threadIdx.x % 32, at = (int)(threadIdx.x % GROUP / 32) * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int row = 8 * j + lane % 4 * 2 + c % 2;
            if (row < rows) x[row * stride + at + c / 2 * 8] = __float2bfloat16(d[j][c] * by);
        }
}

// Of the warp whose first lane orders copies: next pass of keys, next tile of queries. In shared memory: registers are scarce.
template <class P> struct copies {
    key_passes<P::PER> keys, queries;
    int passes, tiles, tile; // ordered so far; next of the queries' pass
};

template <class P> __device__ __forceinline__ void copy_keys(copies<P> &c, const boxes &box, const tensors &x, uint32_t base, const barriers &bar)
{
    key_passes<P::PER> &at = c.keys;
    if (!at.more(x.work)) return;
    const int buffer = c.passes++ & 1, h = at.item % x.work.H, blocks = at.blocks(), tail = at.tail(), row = at.first + at.begin();
    const uint32_t K = base + (uint32_t)(buffer * 2 * P::KEYS), V = K + P::KEYS, full = bar.key_full(buffer);
    if (threadIdx.x % 32 == 0) {
        barrier_expect(full, 2 * (blocks * BLOCK_BYTES + (tail > 0 ? TAIL_BYTES : 0)));
        for (int b = 0; b < blocks; b++) {
            copy_box(K + b * BLOCK_BYTES, &box.k, h, row + b * BLOCK, full);
            copy_box(V + b * BLOCK_BYTES, &box.v, h, row + b * BLOCK, full);
        }
        if (tail > 0) {
            copy_box(K + P::PER * BLOCK_BYTES, &box.k_tail, h, row + blocks * BLOCK, full);
            copy_box(V + P::PER * BLOCK_BYTES, &box.v_tail, h, row + blocks * BLOCK, full);
        }
    }
    __syncwarp();
    at.advance(x.work);
}

template <class P> __device__ __forceinline__ void copy_queries(copies<P> &c, const boxes &box, const tensors &x, uint32_t base, const barriers &bar)
{
    key_passes<P::PER> &at = c.queries;
    if (!at.more(x.work)) return;
    const int stage = c.tiles++ % P::STAGES, h = at.item % x.work.H, row = at.first + c.tile * BLOCK;
    const uint32_t Q = base + P::AT_QUERIES + (uint32_t)(stage * P::STAGE), full = bar.query_full(stage);
    if (threadIdx.x % 32 == 0) {
        const bool few = at.T - c.tile * BLOCK <= TAIL;
        barrier_expect(full, (few ? 2 * TAIL_BYTES : P::STAGE) + P::STATS);
        copy_box(Q, few ? &box.q_tail : &box.q, h, row, full);
        copy_box(Q + BLOCK_BYTES, few ? &box.d_tail : &box.d, h, row, full);
        const float *from = x.stats + (int64_t)at.item * 2 * x.room + c.tile * BLOCK;
        const uint32_t to = base + P::AT_STATS + (uint32_t)(stage * P::STATS);
        copy_bulk(to, from, P::STATS / 2, full);
        copy_bulk(to + P::STATS / 2, from + x.room, P::STATS / 2, full);
    }
    __syncwarp();
    if (++c.tile == at.tiles()) {
        c.tile = 0;
        at.advance(x.work);
    }
}

// The tail's P and dS of a tile, with queries as rows, and what they add to its dk and dv, both turned.
template <class P, bool CAUSAL>
__device__ __forceinline__ void pass_tail(float (&dk)[2][4], float (&dv)[2][4], uint32_t base, uint32_t K, uint32_t Q, uint32_t stats, int query,
                                          int key, int tail, int T, float by)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x % GROUP / 32, row = warp * 16 + lane / 4;
    const uint32_t DO = Q + BLOCK_BYTES, KT = K + P::PER * BLOCK_BYTES, VT = KT + P::KEYS, DST = base + P::AT_DS + P::PER * BLOCK_BYTES,
                   PT = base + P::AT_P;
    float s[2][4], p[2][4], l[2], delta[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t at = stats + (uint32_t)((row + 8 * i) * 4);
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(l[i]) : "r"(at));
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(delta[i]) : "r"(at + BLOCK * 4));
    }
    products_begin<true>();
#pragma unroll
    for (int k = 0; k < 4; k++) wgmma_both_16(s, tile_at(Q + 32 * k, 0), tile_at(KT + 32 * k, 0), k);
#pragma unroll
    for (int k = 0; k < 4; k++) wgmma_both_16(p, tile_at(DO + 32 * k, 0), tile_at(VT + 32 * k, 0), k);
    products_end<true>();
    products_wait<true, 0>();
    hold<true>(s);
    hold<true>(p);
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int at = 8 * j + lane % 4 * 2 + c % 2;
            const bool seen = at < tail && !(CAUSAL && key + at > query + row + c / 2 * 8);
            s[j][c] = seen ? power2(s[j][c] * by - l[c / 2]) : 0.0f;
            p[j][c] = s[j][c] * (p[j][c] - delta[c / 2]);
        }
    uint32_t a[1][4];
    const int to = lane / 16 * 8 + lane % 8, piece = warp * 2 + lane / 8 % 2;
    as_left<16>(a, s);
    asm volatile("bar.sync 1, 128;" ::: "memory"); // nobody multiplies the tile before any more
    store_matrices_turned(piece_at<BLOCK>(PT, to, piece), a[0]);
    as_left<16>(a, p);
    store_matrices_turned(piece_at<BLOCK>(DST, to, piece), a[0]);
    show_tiles<true>();
    asm volatile("bar.sync 1, 128;" ::: "memory");
    products_begin<true>();
    const bool few = T - query <= TAIL; // the rest of the tile holds what it held before
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (k > 0 && few) break;
        wgmma_turned_16(dv, tile_at(DO + (uint32_t)(k * 16 * LINE), 0), tile_at(PT + 32 * k, 0));
        wgmma_turned_16(dk, tile_at(Q + (uint32_t)(k * 16 * LINE), 0), tile_at(DST + 32 * k, 0));
    }
    products_end<true>();
    products_wait<true, 0>();
    hold<true>(dk);
    hold<true>(dv);
}

template <class P, bool CAUSAL>
__device__ __forceinline__ void help(const boxes &box, const tensors &x, uint32_t base, const barriers &bar, copies<P> &state)
{
    const int thread = threadIdx.x % GROUP;
    const float by = x.scale * LOG2E;
    const bool copying = same(thread / 32) == 0;
    if (copying) {
        copies<P> next;
        next.keys.start(x.work);
        next.queries = next.keys;
        next.passes = next.tiles = next.tile = 0;
        copy_keys(next, box, x, base, bar);
        for (int i = 0; i < P::STAGES; i++) copy_queries(next, box, x, base, bar);
        copy_keys(next, box, x, base, bar);
        state = next;
        __syncwarp();
    }
    key_passes<P::PER> at;
    int passes = 0, tile_count = 0;
    for (at.start(x.work); at.more(x.work); at.advance(x.work), passes++) {
        const int h = at.item % x.work.H, buffer = passes & 1, blocks = at.blocks(), tail = at.tail(), tiles = at.tiles();
        const bool first = at.pass == 0, last = at.last();
        const uint32_t K = base + (uint32_t)(buffer * 2 * P::KEYS), DS = base + P::AT_DS;
        float dk[2][4], dv[2][4];
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) dk[j][c] = dv[j][c] = 0.0f;
        barrier_wait(bar.key_full(buffer), (uint32_t)(passes / 2) & 1);
        for (int i = 0; i < tiles; i++, tile_count++) {
            const int stage = tile_count % P::STAGES;
            const uint32_t Q = base + P::AT_QUERIES + (uint32_t)(stage * P::STAGE), stats = base + P::AT_STATS + (uint32_t)(stage * P::STATS);
            barrier_wait(bar.query_full(stage), (uint32_t)(tile_count / P::STAGES) & 1);
            if (tail > 0) pass_tail<P, CAUSAL>(dk, dv, base, K, Q, stats, i * BLOCK, at.whole * BLOCK, tail, at.T, by);
            float dq[8][4];
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) dq[j][c] = 0.0f;
            hold<true>(dq);
            barrier_wait(bar.ds_full(), (uint32_t)tile_count & 1);
            products_begin<true>();
            for (int b = 0; b < blocks; b++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const uint32_t rows = (uint32_t)(b * BLOCK_BYTES + k * 16 * LINE) / 16;
                    wgmma_turned_64(dq, tile_of(low_of(DS) + rows), tile_of(low_of(K) + rows), 1);
                }
            if (tail > 0) wgmma_turned_64(dq, tile_at(DS + P::PER * BLOCK_BYTES, 0), tile_at(K + P::PER * BLOCK_BYTES, 0), 1);
            products_end<true>();
            products_wait<true, 0>();
            hold<true>(dq);
            __syncwarp();
            if (threadIdx.x % 32 == 0) {
                barrier_arrive(bar.ds_empty());
                barrier_arrive(bar.query_empty(stage));
            }
            float4 *kept = x.kept + ((int64_t)blockIdx.x * (x.room / BLOCK) + i) * (8 * GROUP) + thread;
            if (!first)
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    if (j % 2 == 0) asm volatile("" ::: "memory"); // two at a time: registers
                    const float4 v = kept[j * GROUP];
                    dq[j][0] += v.x;
                    dq[j][1] += v.y;
                    dq[j][2] += v.z;
                    dq[j][3] += v.w;
                }
            if (last)
                store_block(x.dq + (int64_t)(at.first + i * BLOCK) * x.dqs + h * HEAD, x.dqs, at.T - i * BLOCK, dq, x.scale, x.scale);
            else
#pragma unroll
                for (int j = 0; j < 8; j++) kept[j * GROUP] = make_float4(dq[j][0], dq[j][1], dq[j][2], dq[j][3]);
            if (copying) {
                copies<P> next = state;
                __syncwarp();
                if (tile_count > 0) {
                    barrier_wait(bar.query_empty((tile_count - 1) % P::STAGES), (uint32_t)((tile_count - 1) / P::STAGES) & 1);
                    copy_queries(next, box, x, base, bar);
                }
                if (i == 0 && passes > 0) {
                    barrier_wait(bar.key_empty(buffer ^ 1), (uint32_t)((passes - 1) / 2) & 1);
                    copy_keys(next, box, x, base, bar);
                }
                state = next;
                __syncwarp();
            }
        }
        warp_arrive(bar.key_empty(buffer));
        if (tail > 0) {
            const int64_t row = at.first + at.whole * BLOCK;
            store_tail(x.dk + row * x.dks + h * HEAD, x.dks, tail, dk, x.scale);
            store_tail(x.dv + row * x.dvs + h * HEAD, x.dvs, tail, dv, 1.0f);
        }
    }
}

template <class P, bool CAUSAL> __device__ __forceinline__ void work(const tensors &x, uint32_t base, const barriers &bar)
{
    key_passes<P::PER> at;
    const uint32_t notes = base + P::AT_NOTES + threadIdx.x / 32 * 32;
    int passes = 0, tile_count = 0;
    for (at.start(x.work); at.more(x.work); at.advance(x.work), passes++) {
        const int buffer = passes & 1, blocks = at.blocks(), group = same(thread_again() / GROUP);
        const int active = (blocks - group + P::WORKERS - 1) / P::WORKERS; // blocks are dealt out
        const bool split = P::WORKERS == 2 && P::PER >= 3 && blocks == 1;
        const int block = split ? 0 : group;
        const uint32_t mine = (uint32_t)(block * BLOCK_BYTES), K = base + (uint32_t)(buffer * 2 * P::KEYS) + mine;
        const place my = {K, base + P::AT_DS + mine, at.T, at.T - at.begin() - block * BLOCK};
        barrier_wait(bar.key_full(buffer), (uint32_t)(passes / 2) & 1);
        note(notes, at, passes);
        if (split)
            work_pass<P, 1, true, CAUSAL>(x, my, base, notes, bar, tile_count);
        else if (active == P::SHARE)
            work_pass<P, P::SHARE, false, CAUSAL>(x, my, base, notes, bar, tile_count);
        else if (P::SHARE > 1 && active == 1)
            work_pass<P, 1, false, CAUSAL>(x, my, base, notes, bar, tile_count);
        else
            work_pass<P, 0, false, CAUSAL>(x, my, base, notes, bar, tile_count);
        recall(at, passes, notes);
    }
}

#endif

template <class P, bool CAUSAL>
__global__ void __launch_bounds__(P::THREADS_HERE, P::BLOCKS) turn_back(const __grid_constant__ boxes box, const __grid_constant__ tensors x)
{
#if HAS_WGMMA
    extern __shared__ unsigned char memory[];
    const uint32_t base = tiles_begin(memory);
    const barriers bar = {base + P::AT_BARRIERS, P::STAGES};
    constexpr int WARPS = P::THREADS_HERE / 32, WORKING = P::WORKERS * 4;
    if (threadIdx.x == 0) {
        for (int i = 0; i < P::STAGES; i++) {
            barrier_open(bar.query_full(i), 1);
            barrier_open(bar.query_empty(i), WARPS);
        }
        for (int i = 0; i < 2; i++) {
            barrier_open(bar.key_full(i), 1);
            barrier_open(bar.key_empty(i), WARPS);
        }
        barrier_open(bar.ds_full(), WORKING);
        barrier_open(bar.ds_empty(), 4);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    const int group = same((int)threadIdx.x / GROUP);
    if (group == P::WORKERS) {
        registers_fewer<P::HELPER>();
        static_assert(sizeof(copies<P>) <= 64, "room for it");
        help<P, CAUSAL>(box, x, base, bar, *(copies<P> *)(memory + (base - shared_address(memory)) + P::AT_COPIES));
    } else {
        registers_more<P::WORKER>();
        work<P, CAUSAL>(x, base, bar);
    }
#endif
}

// ---- the host's side ---------------------------------------------------------------------------------

typedef plan<2, 2, 3, 1, 208, 88> large_plan; // up to 256 keys and a tail at a time
typedef plan<1, 1, 2, 2, 168, 88> small_plan; // up to 64

template <class P> static void launch(const boxes *box, const tensors *x, bool causal)
{
    static_assert((int)P::BYTES * P::BLOCKS <= 227 * 1024, "shared memory");
    const unsigned blocks = (unsigned)(attention_processors() * P::BLOCKS);
    if (causal) {
        auto *kernel = turn_back<P, true>;
        LAUNCH_TILES(kernel, blocks, P::THREADS_HERE, P::BYTES, *box, *x);
    } else {
        auto *kernel = turn_back<P, false>;
        LAUNCH_TILES(kernel, blocks, P::THREADS_HERE, P::BYTES, *box, *x);
    }
}

bool attention_short_backward(pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o,
                              pc_tensor lse, const pc_mask *mask, double scale)
{
    enum { MOST = 1024, MOST_HEADS = 128 }; // rows; heads whose statistics of STAT_ROWS rows a block has room for
    const int64_t N = q.dim[0], H = q.dim[1];
    const bool fits =
        by_vectors(dq) && by_vectors(dk) && by_vectors(dv) && by_vectors(dout) && by_vectors(q) && by_vectors(k) && by_vectors(v) && by_vectors(o);
    if (q.dtype != PC_BF16 || q.dim[2] != HEAD || k.dim[1] != H || H > MOST_HEADS || !(scale > 0.0) || !fits || N == 0 || !attention_on_hopper())
        return false;
    const sights see = sights_of(mask, N);
    if (see.shape == SHAPE_OTHER || see.longest > MOST || (int64_t)see.sequences * H > INT32_MAX / 2 || see.sequences > 65535) return false;
    boxes box;
    if (!attention_box(&box.q, q, BLOCK) || !attention_box(&box.d, dout, BLOCK) || !attention_box(&box.k, k, BLOCK) ||
        !attention_box(&box.v, v, BLOCK) || !attention_box(&box.q_tail, q, TAIL) || !attention_box(&box.d_tail, dout, TAIL) ||
        !attention_box(&box.k_tail, k, TAIL) || !attention_box(&box.v_tail, v, TAIL))
        return false;

    const int room = (see.longest + BLOCK - 1) / BLOCK * BLOCK;
    const size_t stats = (size_t)see.sequences * (size_t)H * (size_t)room * 2 * sizeof(float),
                 kept = (size_t)(2 * attention_processors()) * (size_t)room * HEAD * sizeof(float);
    unsigned char *space = (unsigned char *)pc_cuda_workspace(stats + kept);
    const tensors x = {(bf16 *)dq.data,
                       (bf16 *)dk.data,
                       (bf16 *)dv.data,
                       dq.stride,
                       dk.stride,
                       dv.stride,
                       (float *)space,
                       (float4 *)(space + stats),
                       {see.offsets, see.uniform, see.sequences, (int)H},
                       room,
                       (float)scale};
    LAUNCH(row_stats, dim3((unsigned)(room / STAT_ROWS), (unsigned)see.sequences), THREADS, 2 * H * (STAT_ROWS + 1) * sizeof(float), (float *)space,
           room, (const float *)lse.data, (const bf16 *)o.data, o.stride, (const bf16 *)dout.data, dout.stride, see.offsets, (int)H);
    const bool causal = see.shape == SHAPE_CAUSAL;
    if (see.longest <= BLOCK + TAIL)
        launch<small_plan>(&box, &x, causal);
    else
        launch<large_plan>(&box, &x, causal);
    return true;
}

/*
 * attention_long_backward.cu - attention backward of wide heads on Hopper: the formulas of attention_tensor_backward.cu.
 *
 *   fold        l[h,n] = lse log2 e,  delta[h,n] = o . do
 *   by_keys     128 key rows stay, 64 queries pass by: S^T = K Q^T, dP^T = V dO^T, dv += P^T dO, dk += dS^T Q
 *   by_queries  64 GROUPS query rows stay, N keys pass by: S = Q K^T, dP = dO V^T, dq += dS K
 *
 * P and dS go from the results' registers into the next product's: nothing but tiles passes through shared memory. Products
 * follow one another without a gap: while a group computes exponentials its dP runs, while it computes dS its dv, and the
 * scores of its next tile stand behind dk.
 *
 * On an H100, 4 sequences of 2048, 32 heads of 128: causal 1.05 ms, 326 TFLOP/s (attention_tensor_backward.cu: 1.43 ms, 241);
 * without a mask 1.80 ms, 383 TFLOP/s (2.38 ms, 289).
 */
#include "model/ops/cuda/attention_long.cuh"
#include "model/ops/cuda/decode.cuh"

// l and delta of a granule's rows, as a lane reads them: of rows 8 j + 2 q and the next, all j, then those of the next q.
enum { FOUR = 16 * 4 + 16, SUMS = 4 * FOUR }; // bytes of one q's, banks apart; of all l, before all delta

__device__ __forceinline__ int sum_at(int row) // bytes
{
    return row % 8 / 2 * FOUR + (row / 8 * 2 + row % 2) * 4;
}

// Eight lanes a row and head; the counters of the two kernels begin at zero. Zeros for rows that a granule lacks.
static __global__ void fold(unsigned char *sums, int *counters, const granule *granules, int64_t count, const float *lse, const bf16 *o, int64_t os,
                            const bf16 *d, int64_t ds, int64_t H, int64_t D)
{
    const int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 8, h = i % H, at = i / H / GRANULE;
    const int lane = threadIdx.x % 8, row = (int)(i / H % GRANULE);
    if (blockIdx.x == 0 && threadIdx.x < 2) counters[threadIdx.x] = 0;
    int64_t n = -1;
    if (at < count && granules[at].begin + row < granules[at].end) n = granules[at].begin + row;
    float sum = 0.0f;
    for (int64_t c = 8 * lane; c < D && n >= 0; c += 64) {
        float x[8], y[8];
        get8(x, o + n * os + h * D + c);
        get8(y, d + n * ds + h * D + c);
        for (int e = 0; e < 8; e++) sum += x[e] * y[e];
    }
    for (int e = 4; e > 0; e >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, e);
    if (lane > 0 || at >= count) return;
    unsigned char *to = sums + (h * count + at) * 2 * SUMS + sum_at(row);
    *(float *)to = n < 0 ? 0.0f : lse[n * H + h] * LOG2E;
    *(float *)(to + SUMS) = sum;
}

typedef struct places {
    CUtensorMap dout, q, k, v; // boxes of the rows that pass by; of those that stay: own_
    CUtensorMap own0, own1;    // k and v, or q and dout
    const unsigned char *sums;
    const task *tasks;
    const granule *granules;
    const int4 *rows;
    int count; // of granules
    heads z;
    order o;
} places;

// ---- by keys ----------------------------------------------------------------------------------------------

// Queries that meet a task's keys: head after head of the group, a granule at a time.
struct granule_walk {
    int h, last_head, at;
    __device__ __forceinline__ bool more() const
    {
        return h < last_head;
    }
    __device__ __forceinline__ void settle(const task &t, const granule *granules)
    {
        for (; h < last_head; at++) {
            if (at >= t.last[0]) {
                at = t.first[0] - 1;
                h++;
                continue;
            }
            if (any_sees(granules[at], t.begin, t.end)) return;
        }
    }
    __device__ __forceinline__ void advance(const task &t, const granule *granules)
    {
        at++;
        settle(t, granules);
    }
    __device__ __forceinline__ void start(const task &t, const granule *granules, int from, int to)
    {
        h = from;
        last_head = t.first[0] < t.last[0] ? to : from;
        at = t.first[0];
        settle(t, granules);
    }
};

template <int STAGES> struct keys_memory {
    enum {
        KEYS = 128,
        QUERIES = 64,
        OWN = TILE_BYTES(KEYS, WIDE),
        TILE = TILE_BYTES(QUERIES, WIDE),
        SIDE = 2 * SUMS + QUERIES * 16 + NOTE,
        BYTES = SLACK + 2 * OWN + STAGES * (2 * TILE + SIDE) + belt<STAGES>::BYTES
    };
    uint32_t base;
    __device__ __forceinline__ uint32_t k() const
    {
        return base;
    }
    __device__ __forceinline__ uint32_t v() const
    {
        return base + OWN;
    }
    __device__ __forceinline__ uint32_t q(int i) const
    {
        return base + (uint32_t)(2 * OWN + i * 2 * TILE);
    }
    __device__ __forceinline__ uint32_t sums(int i) const
    {
        return base + (uint32_t)(2 * OWN + STAGES * 2 * TILE + i * SIDE);
    }
    __device__ __forceinline__ uint32_t rows(int i) const
    {
        return sums(i) + 2 * SUMS;
    }
    __device__ __forceinline__ uint32_t said(int i) const
    {
        return rows(i) + QUERIES * 16;
    }
    __device__ __forceinline__ uint32_t barriers() const
    {
        return sums(STAGES);
    }
};

template <int STAGES> __device__ __forceinline__ void feed_queries(const places &x, keys_memory<STAGES> m, belt<STAGES> b)
{
    typedef keys_memory<STAGES> memory;
    feeder<STAGES> f;
    const int total = x.o.tasks * x.o.heads;
    f.start(b);
    for (int index = blockIdx.x, next; index < total; index = next) {
        int which, kv;
        next = (int)gridDim.x + atomicAdd(x.o.counter, 1);
        pick(x.o, index, &which, &kv);
        const task t = x.tasks[which];
        granule_walk at;
        at.start(t, x.granules, kv * (int)x.z.H / (int)x.z.G, (kv + 1) * (int)x.z.H / (int)x.z.G);
        for (int n = 1, more = 1; more; n++) {
            const bool some = at.more();
            const int h = at.h, here = at.at;
            if (some) at.advance(t, x.granules);
            more = at.more();
            int flags = more ? 0 : LAST, begin = 0, end = 0;
            if (some) {
                const granule &g = x.granules[here];
                begin = g.begin;
                end = g.end;
                for (int group = 0; group < 2; group++) {
                    const int key = t.begin + group * 64;
                    if (key < t.end && any_sees(g, key, min(key + 64, t.end))) flags |= ANY << group;
                    if (end - begin == 64 && all_see(g, key, min(64, t.end - key))) flags |= ALL << group;
                }
            }
            const int place = f.room();
            if (some) {
                set_words(m.said(place), flags, begin, end, 0);
                const uint32_t full = b.full(place);
                barrier_expect(full, 2 * memory::TILE + 2 * SUMS + 64 * 16);
                fetch<64>(m.q(place), x.q, begin, h, full);
                fetch_bytes(m.sums(place), x.sums + (size_t)(h * x.count + here) * 2 * SUMS, 2 * SUMS, full);
                fetch<64>(m.q(place) + memory::TILE, x.dout, begin, h, full);
                fetch_bytes(m.rows(place), x.rows + begin, 64 * 16, full);
            } else {
                set_words(m.said(place), flags, 0, 0, 0);
                barrier_arrive(b.full(place));
            }
            f.step();
            if (n == f.AHEAD || (!more && n < f.AHEAD)) {
                f.own_room();
                set_words(b.said(), t.begin, t.end, kv, 0);
                barrier_expect(b.own_full(), 2 * memory::OWN);
                fetch<128>(m.k(), x.own0, t.begin, kv, b.own_full());
                fetch<128>(m.v(), x.own1, t.begin, kv, b.own_full());
            }
        }
    }
    set_words(m.said(f.room()), EXIT, 0, 0, 0);
    barrier_arrive(b.full(f.place));
}

template <int STAGES, bool TURNS>
__device__ __forceinline__ void meet_queries(const places &x, keys_memory<STAGES> m, belt<STAGES> b, bf16 *dk, int64_t dks, bf16 *dv, int64_t dvs)
{
    typedef keys_memory<STAGES> memory;
    const int group = common((int)threadIdx.x / GROUP) - 1, lane = threadIdx.x % 32, q = lane % 4;
    const int own_row = group * 64 + (int)(threadIdx.x % GROUP) / 32 * 16 + lane / 4;
    const uint32_t K = m.k() + (uint32_t)(group * 64 * LINE), V = m.v() + (uint32_t)(group * 64 * LINE);
    const float by = x.z.scale * LOG2E;
    reader<STAGES, 2, TURNS> r;
    r.start(b);
    for (;;) {
        float ak[WIDE / 8][4], av[WIDE / 8][4], s[8][4], p[8][4];
        int flags = r.take(m.said(r.place));
        if (flags & EXIT) return;
#pragma unroll
        for (int j = 0; j < WIDE / 8; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) ak[j][c] = av[j][c] = 0.0f;
        r.own_wait();
        const auto begin = [&](bool first, int held) {
            const uint32_t tile = m.q(r.place);
            products_begin<true>();
            scores<64, 128, 64>(s, K, tile);
            products_end<true>();
            if (!first) { // its registers are needed
                products_wait<true, 1>();
                r.done(b.empty(held));
                products_begin<true>();
            }
            scores<64, 128, 64>(p, V, tile + memory::TILE);
            products_end<true>();
            r.begun();
        };
        for (bool more = true; more;) {
            if (!(flags & ANY << group)) {
                r.done(b.empty(r.place));
            } else {
                int held;
                hold<true>(ak);
                hold<true>(av);
                begin(true, 0);
                for (;;) {
                    const uint32_t tile = m.q(r.place), sums = m.sums(r.place) + (uint32_t)(q * FOUR);
                    products_wait<true, 1>();
                    hold<true>(s);
#pragma unroll
                    for (int j = 0; j < 8; j += 2) {
                        const float4 l = numbers_at(sums + (uint32_t)(j * 8));
                        s[j][0] = power2(s[j][0] * by - l.x);
                        s[j][1] = power2(s[j][1] * by - l.y);
                        s[j][2] = power2(s[j][2] * by - l.x);
                        s[j][3] = power2(s[j][3] * by - l.y);
                        s[j + 1][0] = power2(s[j + 1][0] * by - l.z);
                        s[j + 1][1] = power2(s[j + 1][1] * by - l.w);
                        s[j + 1][2] = power2(s[j + 1][2] * by - l.z);
                        s[j + 1][3] = power2(s[j + 1][3] * by - l.w);
                    }
                    if (!(flags & ALL << group)) {
                        const uint32_t rows = m.rows(r.place) + (uint32_t)(q * 32);
                        const int4 note = words_at(m.said(r.place));
                        const int key = word_at(b.said()) + own_row, last = note.z - note.y - q * 2;
#pragma unroll
                        for (int j = 0; j < 8; j++)
#pragma unroll
                            for (int c = 0; c < 2; c++) {
                                const int4 row = words_at(rows + (uint32_t)(j * 128 + c * 16));
                                const bool there = 8 * j + c < last;
                                if (!(there & within(row, key))) s[j][c] = 0.0f;
                                if (!(there & within(row, key + 8))) s[j][2 + c] = 0.0f;
                            }
                    }
                    uint32_t a[4][4];
                    as_left<64>(a, s);
                    products_begin<true>();
                    gather<64>(av, a, tile + memory::TILE);
                    products_end<true>();
                    products_wait<true, 1>();
                    hold<true>(p);
#pragma unroll
                    for (int j = 0; j < 8; j += 2) {
                        const float4 d = numbers_at(sums + (uint32_t)(SUMS + j * 8));
                        s[j][0] *= p[j][0] - d.x;
                        s[j][1] *= p[j][1] - d.y;
                        s[j][2] *= p[j][2] - d.x;
                        s[j][3] *= p[j][3] - d.y;
                        s[j + 1][0] *= p[j + 1][0] - d.z;
                        s[j + 1][1] *= p[j + 1][1] - d.w;
                        s[j + 1][2] *= p[j + 1][2] - d.z;
                        s[j + 1][3] *= p[j + 1][3] - d.w;
                    }
                    products_wait<true, 0>(); // of dv, whose registers are needed
                    hold<true>(av);
                    as_left<64>(a, s);
                    held = r.place;
                    const bool last = flags & LAST;
                    if (!last) {
                        r.step();
                        flags = r.take(m.said(r.place));
                    }
                    products_begin<true>();
                    gather<64>(ak, a, tile);
                    products_end<true>();
                    if (last || !(flags & ANY << group)) break;
                    begin(false, held);
                }
                products_wait<true, 0>();
                hold<true>(ak);
                hold<true>(av);
                r.done(b.empty(held));
                if (held != r.place) continue; // the tile at hand is not one that this group sees
            }
            more = !(flags & LAST);
            r.step();
            if (more) flags = r.take(m.said(r.place));
        }
        const int4 own = words_at(b.said());
        const int key = own.x + own_row;
        r.done(b.own_empty());
        store_wide(dk + own.z * x.z.D, dks, key, own.y, (int)x.z.D, ak, x.z.scale, x.z.scale);
        store_wide(dv + own.z * x.z.D, dvs, key, own.y, (int)x.z.D, av, 1.0f, 1.0f);
    }
}

template <int STAGES, bool TURNS>
static __global__ void __launch_bounds__(3 * GROUP, 1) by_keys(const __grid_constant__ places x, bf16 *dk, int64_t dks, bf16 *dv, int64_t dvs)
{
    if constexpr (!HAS_WGMMA) return;
    extern __shared__ unsigned char shared[];
    const keys_memory<STAGES> m = {tiles_begin(shared)};
    const belt<STAGES> b = {m.barriers()};
    b.open(2 * GROUP / 32);
    if (threadIdx.x < GROUP) {
        fewer_registers<24>();
        if (threadIdx.x == 0) feed_queries<STAGES>(x, m, b);
    } else {
        more_registers<240>();
        meet_queries<STAGES, TURNS>(x, m, b, dk, dks, dv, dvs);
        behind_others(); // by_queries: blocks have begun where it had left a processor
    }
}

// ---- by queries ---------------------------------------------------------------------------------------------

template <int N, int GROUPS, int STAGES> struct queries_memory {
    enum {
        QUERIES = GROUPS * 64,
        OWN = TILE_BYTES(QUERIES, WIDE),
        TILE = TILE_BYTES(N, WIDE),
        ROWS = QUERIES * 16, // intervals; l and delta of each granule behind them
        SIDE = ROWS + GROUPS * 2 * SUMS,
        BYTES = SLACK + 2 * OWN + STAGES * (2 * TILE + NOTE) + SIDE + belt<STAGES>::BYTES
    };
    uint32_t base;
    __device__ __forceinline__ uint32_t q() const
    {
        return base;
    }
    __device__ __forceinline__ uint32_t dout() const
    {
        return base + OWN;
    }
    __device__ __forceinline__ uint32_t k(int i) const
    {
        return base + (uint32_t)(2 * OWN + i * 2 * TILE);
    }
    __device__ __forceinline__ uint32_t rows() const
    {
        return k(STAGES);
    }
    __device__ __forceinline__ uint32_t sums() const
    {
        return rows() + ROWS;
    }
    __device__ __forceinline__ uint32_t said(int i) const
    {
        return rows() + (uint32_t)(SIDE + i * NOTE);
    }
    __device__ __forceinline__ uint32_t barriers() const
    {
        return said(STAGES);
    }
};

template <int N, int GROUPS, int STAGES>
__device__ __forceinline__ void feed_keys(const places &x, queries_memory<N, GROUPS, STAGES> m, belt<STAGES> b)
{
    typedef queries_memory<N, GROUPS, STAGES> memory;
    feeder<STAGES> f;
    const int total = x.o.tasks * x.o.heads;
    f.start(b);
    for (int index = blockIdx.x, next; index < total; index = next) {
        int which, h;
        next = (int)gridDim.x + atomicAdd(x.o.counter, 1);
        pick(x.o, index, &which, &h);
        const task t = x.tasks[which];
        const int kv = h * (int)x.z.G / (int)x.z.H;
        key_walk at;
        at.start(t);
        for (int n = 1, more = 1; more; n++) {
            const bool some = at.more();
            const int key = at.key, end = some ? at.end(t) : 0;
            if (some) at.advance(t, N);
            more = at.more();
            int flags = more ? 0 : LAST;
            for (int group = 0; some && group < t.count; group++) {
                const granule &g = x.granules[t.granule + group];
                if (any_sees(g, key, min(key + N, end))) flags |= ANY << group;
                if (key + N <= end && all_see(g, key, N)) flags |= ALL << group;
            }
            const int place = f.room();
            if (some) {
                set_words(m.said(place), flags, key, end, 0);
                const uint32_t full = b.full(place);
                barrier_expect(full, 2 * memory::TILE);
                fetch<N>(m.k(place), x.k, key, kv, full);
                fetch<N>(m.k(place) + memory::TILE, x.v, key, kv, full);
            } else {
                set_words(m.said(place), flags, 0, 0, 0);
                barrier_arrive(b.full(place));
            }
            f.step();
            if (n == f.AHEAD || (!more && n < f.AHEAD)) {
                const uint32_t full = b.own_full();
                f.own_room();
                set_words(b.said(), t.begin, t.end, h, 0);
                barrier_expect(full, 2 * memory::OWN + memory::ROWS + t.count * 2 * SUMS);
                fetch<memory::QUERIES>(m.q(), x.own0, t.begin, h, full);
                fetch<memory::QUERIES>(m.dout(), x.own1, t.begin, h, full);
                fetch_bytes(m.rows(), x.rows + t.begin, memory::ROWS, full);
                fetch_bytes(m.sums(), x.sums + (size_t)(h * x.count + t.granule) * 2 * SUMS, t.count * 2 * SUMS, full);
            }
        }
    }
    set_words(m.said(f.room()), EXIT, 0, 0, 0);
    barrier_arrive(b.full(f.place));
}

__device__ __forceinline__ float number_at(uint32_t at)
{
    return __int_as_float(word_at(at));
}

template <int N, int GROUPS, int STAGES, bool TURNS>
__device__ __forceinline__ void meet_keys(const places &x, queries_memory<N, GROUPS, STAGES> m, belt<STAGES> b, bf16 *dq, int64_t dqs)
{
    typedef queries_memory<N, GROUPS, STAGES> memory;
    const int group = common((int)threadIdx.x / GROUP) - 1, lane = threadIdx.x % 32;
    const int own_row = group * 64 + (int)(threadIdx.x % GROUP) / 32 * 16 + lane / 4;
    const uint32_t Q = m.q() + (uint32_t)(group * 64 * LINE), DO = m.dout() + (uint32_t)(group * 64 * LINE);
    const float by = x.z.scale * LOG2E;
    reader<STAGES, GROUPS, TURNS> r;
    r.start(b);
    for (;;) {
        float sum[WIDE / 8][4], s[N / 8][4], p[N / 8][4];
        int flags = r.take(m.said(r.place));
        if (flags & EXIT) return;
#pragma unroll
        for (int j = 0; j < WIDE / 8; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) sum[j][c] = 0.0f;
        r.own_wait();
        const uint32_t at = m.sums() + (uint32_t)(group * 2 * SUMS + sum_at(own_row % 64)); // 8 rows on are 8 bytes
        const float l0 = number_at(at), l1 = number_at(at + 8), d0 = number_at(at + SUMS), d1 = number_at(at + SUMS + 8);
        const auto begin = [&](bool first, int held) {
            const uint32_t tile = m.k(r.place);
            products_begin<true>();
            scores<N, memory::QUERIES, N>(s, Q, tile);
            products_end<true>();
            if (!first) {
                products_wait<true, 1>();
                r.done(b.empty(held));
                products_begin<true>();
            }
            scores<N, memory::QUERIES, N>(p, DO, tile + memory::TILE);
            products_end<true>();
            r.begun();
        };
        for (bool more = true; more;) {
            if (!(flags & ANY << group)) {
                r.done(b.empty(r.place));
            } else {
                int held;
                hold<true>(sum);
                begin(true, 0);
                for (;;) {
                    const uint32_t tile = m.k(r.place);
                    products_wait<true, 1>();
                    hold<true>(s);
#pragma unroll
                    for (int j = 0; j < N / 8; j++)
#pragma unroll
                        for (int c = 0; c < 4; c++) s[j][c] = power2(s[j][c] * by - (c < 2 ? l0 : l1));
                    if (!(flags & ALL << group)) {
                        const int4 note = words_at(m.said(r.place));
                        const uint32_t rows = m.rows() + (uint32_t)(own_row * 16);
                        const int4 row0 = clipped(words_at(rows), note.z), row1 = clipped(words_at(rows + 128), note.z);
                        const int first = note.y + lane % 4 * 2;
#pragma unroll
                        for (int j = 0; j < N / 8; j++)
#pragma unroll
                            for (int c = 0; c < 2; c++) {
                                const int key = first + 8 * j + c;
                                if (!within(row0, key)) s[j][c] = 0.0f;
                                if (!within(row1, key)) s[j][2 + c] = 0.0f;
                            }
                    }
                    products_wait<true, 0>();
                    hold<true>(p);
#pragma unroll
                    for (int j = 0; j < N / 8; j++)
#pragma unroll
                        for (int c = 0; c < 4; c++) s[j][c] *= p[j][c] - (c < 2 ? d0 : d1);
                    uint32_t a[N / 16][4];
                    as_left<N>(a, s);
                    held = r.place;
                    const bool last = flags & LAST;
                    if (!last) {
                        r.step();
                        flags = r.take(m.said(r.place));
                    }
                    products_begin<true>();
                    gather<N>(sum, a, tile);
                    products_end<true>();
                    if (last || !(flags & ANY << group)) break;
                    begin(false, held);
                }
                products_wait<true, 0>();
                hold<true>(sum);
                r.done(b.empty(held));
                if (held != r.place) continue;
            }
            more = !(flags & LAST);
            r.step();
            if (more) flags = r.take(m.said(r.place));
        }
        const int4 own = words_at(b.said());
        r.done(b.own_empty());
        store_wide(dq + own.z * x.z.D, dqs, own.x + own_row, own.y, (int)x.z.D, sum, x.z.scale, x.z.scale);
    }
}

template <int N, int GROUPS, int STAGES, bool TURNS>
static __global__ void __launch_bounds__((GROUPS + 1) * GROUP, 1) by_queries(const __grid_constant__ places x, bf16 *dq, int64_t dqs)
{
    if constexpr (!HAS_WGMMA) return;
    extern __shared__ unsigned char shared[];
    const queries_memory<N, GROUPS, STAGES> m = {tiles_begin(shared)};
    let_others_begin();
    const belt<STAGES> b = {m.barriers()};
    b.open(GROUPS * GROUP / 32);
    if (threadIdx.x < GROUP) {
        fewer_registers<GROUPS == 2 ? 24 : 32>();
        if (threadIdx.x == 0) feed_keys<N, GROUPS, STAGES>(x, m, b);
    } else {
        more_registers<GROUPS == 2 ? 240 : 160>();
        meet_keys<N, GROUPS, STAGES, TURNS>(x, m, b, dq, dqs);
    }
}

// ---- the host's side ------------------------------------------------------------------------------------------

typedef struct operands {
    pc_tensor dq, dk, dv, dout, q, k, v;
    sights see;
    unsigned char *sums;
    int *counters;
    heads z;
} operands;

template <int N, int GROUPS, int STAGES, bool TURNS> static void launch_queries(const operands *x)
{
    const int count = x->see.query_count[GROUPS - 1], total = count * (int)x->z.H;
    if (total == 0) return;
    const places p = {{},
                      {},
                      boxes_of(x->k, N),
                      boxes_of(x->v, N),
                      boxes_of(x->q, GROUPS * 64),
                      boxes_of(x->dout, GROUPS * 64),
                      x->sums,
                      x->see.queries[GROUPS - 1],
                      x->see.granules,
                      x->see.rows,
                      x->see.granule_count,
                      x->z,
                      order_of(count, x->z.H, processors(), x->counters)};
    auto *kernel = by_queries<N, GROUPS, STAGES, TURNS>;
    LAUNCH_LONG(kernel, total, (GROUPS + 1) * GROUP, (queries_memory<N, GROUPS, STAGES>::BYTES), p, (bf16 *)x->dq.data, x->dq.stride);
}

template <int STAGES, bool TURNS> static void launch_keys(const operands *x)
{
    const int count = x->see.key_count[1], total = count * (int)x->z.G;
    if (total == 0) return;
    const places p = {boxes_of(x->dout, 64),
                      boxes_of(x->q, 64),
                      {},
                      {},
                      boxes_of(x->k, 128),
                      boxes_of(x->v, 128),
                      x->sums,
                      x->see.keys[1],
                      x->see.granules,
                      x->see.rows,
                      x->see.granule_count,
                      x->z,
                      order_of(count, x->z.G, processors(), x->counters + 1)};
    auto *kernel = by_keys<STAGES, TURNS>;
    constexpr int BYTES = keys_memory<STAGES>::BYTES;
    static const cudaError_t grown = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    CHECK_CUDA(grown);
    launch_early(x->see.query_count[0] > 0, kernel, dim3((unsigned)(total < processors() ? total : processors())), dim3(3 * GROUP), BYTES, p,
                 (bf16 *)x->dk.data, x->dk.stride, (bf16 *)x->dv.data, x->dv.stride);
}

bool attention_long_backward(pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o,
                             pc_tensor lse, const pc_mask *mask, double scale)
{
    const int64_t N = q.dim[0], H = q.dim[1], D = q.dim[2];
    const bool fits =
        by_vectors(dq) && by_vectors(dk) && by_vectors(dv) && by_vectors(dout) && by_vectors(q) && by_vectors(k) && by_vectors(v) && by_vectors(o);
    if (q.dtype != PC_BF16 || D <= 96 || D > WIDE || !(scale > 0.0) || !fits || !attention_on_hopper()) return false;
    if (q.dim[0] == 0 || k.dim[0] == 0) return false;
    const sights see = sights_of(mask, N);
    const int64_t count = see.granule_count;
    const size_t bytes = (size_t)(count * H) * 2 * SUMS;
    unsigned char *sums = (unsigned char *)pc_cuda_workspace(bytes + 2 * sizeof(int));
    const operands x = {dq, dk, dv, dout, q, k, v, see, sums, (int *)(sums + bytes), {H, k.dim[1], D, (float)scale}};
    LAUNCH(fold, blocks_for(count * GRANULE * H * 8), THREADS, 0, sums, x.counters, see.granules, count, (const float *)lse.data,
           (const bf16 *)o.data, o.stride, (const bf16 *)dout.data, dout.stride, H, D);
    if (see.seen >= MANY_KEYS)
        launch_queries<128, 2, 2, false>(&x);
    else
        launch_queries<64, 3, 3, false>(&x);
    launch_keys<4, true>(&x);
    return true;
}

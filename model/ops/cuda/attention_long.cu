/*
 * attention_long.cu - attention forward of wide heads on Hopper: the formulas of attention_tensor.cu.
 *
 * 64 GROUPS query rows stay, N keys and values pass by. The scores of a tile stand before the product of the tile in front
 * with its values, so that the latter runs while a group computes exponentials; it is waited for before sums are scaled.
 *
 * On an H100, 4 sequences of 2048, 32 heads of 128: causal 0.29 ms, 478 TFLOP/s (attention_tensor.cu: 0.46 ms, 302); without
 * a mask 0.48 ms, 568 TFLOP/s (0.73 ms, 377).
 */
#include "model/ops/cuda/attention_long.cuh"

#include <math.h>

typedef struct places {
    CUtensorMap q, k, v;
    const bf16 *values; // v's
    int64_t vs;
    const task *tasks;
    const granule *granules;
    const int4 *rows;
    heads z;
    order o;
} places;

template <int N, int GROUPS, int STAGES> struct rows_memory {
    enum {
        QUERIES = GROUPS * 64,
        OWN = TILE_BYTES(QUERIES, WIDE),
        TILE = TILE_BYTES(N, WIDE),
        BYTES = SLACK + OWN + STAGES * (2 * TILE + NOTE) + belt<STAGES>::BYTES
    };
    uint32_t base;
    __device__ __forceinline__ uint32_t k(int i) const
    {
        return base + (uint32_t)(OWN + i * 2 * TILE);
    }
    __device__ __forceinline__ uint32_t said(int i) const
    {
        return k(STAGES) + (uint32_t)(i * NOTE);
    }
    __device__ __forceinline__ uint32_t barriers() const
    {
        return said(STAGES);
    }
};

// Values of a tile that ends early, by a warp: what stands behind may be no number, and nothing times that is none.
template <int N> __device__ __forceinline__ void fetch_edge(uint32_t tile, const bf16 *v, int64_t stride, int begin, int end, int D)
{
    const int lane = threadIdx.x;
#pragma unroll 1
    for (int at = lane; at < N * WIDE / 8; at += 32) {
        const int r = at / (WIDE / 8), c = at % (WIDE / 8);
        const bool there = begin + r < end && c * 8 < D;
        copy_async(piece_at<N>(tile, r, c), there ? v + (int64_t)(begin + r) * stride + c * 8 : v, there);
    }
    copies_done();
    show_tiles<true>();
    __syncwarp();
}

template <int N, int GROUPS, int STAGES> __device__ __forceinline__ void feed_keys(const places &x, rows_memory<N, GROUPS, STAGES> m, belt<STAGES> b)
{
    typedef rows_memory<N, GROUPS, STAGES> memory;
    feeder<STAGES> f;
    const int total = x.o.tasks * x.o.heads;
    const bool one = threadIdx.x == 0;
    f.start(b);
    for (int index = blockIdx.x, next; index < total; index = common(next)) {
        int which, h;
        if (one) next = (int)gridDim.x + atomicAdd(x.o.counter, 1);
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
            const bool edge = some && key + N > end;
            int flags = more ? 0 : LAST;
            for (int group = 0; some && group < t.count; group++) {
                const granule &g = x.granules[t.granule + group];
                if (any_sees(g, key, min(key + N, end))) flags |= ANY << group;
                if (!edge && all_see(g, key, N)) flags |= ALL << group;
            }
            const int place = f.room();
            if (edge) fetch_edge<N>(m.k(place) + memory::TILE, x.values + kv * x.z.D, x.vs, key, end, (int)x.z.D);
            if (one) {
                const uint32_t full = b.full(place);
                set_words(m.said(place), flags, key, end, 0);
                if (some) {
                    barrier_expect(full, (edge ? 1 : 2) * memory::TILE);
                    fetch<N>(m.k(place), x.k, key, kv, full);
                    if (!edge) fetch<N>(m.k(place) + memory::TILE, x.v, key, kv, full);
                } else {
                    barrier_arrive(full);
                }
            }
            f.step();
            if (n == f.AHEAD || (!more && n < f.AHEAD)) {
                f.own_room();
                if (one) {
                    set_words(b.said(), t.begin, t.end, h, 0);
                    barrier_expect(b.own_full(), memory::OWN);
                    fetch<memory::QUERIES>(m.base, x.q, t.begin, h, b.own_full());
                }
            }
        }
    }
    f.room();
    if (one) {
        set_words(m.said(f.place), EXIT, 0, 0, 0);
        barrier_arrive(b.full(f.place));
    }
}

// Two rows' maxima and sums so far; `less`: what sums of before are to be multiplied with.
struct running {
    float top[2], sum[2], less[2];
};

// Scores into P, where a row sees the key.
template <int N> __device__ __forceinline__ void weigh(running &r, float (&s)[N / 8][4], float by)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float high = r.top[i];
#pragma unroll
        for (int j = 0; j < N / 8; j++) high = fmaxf(high, fmaxf(s[j][2 * i], s[j][2 * i + 1]));
        high = quad_max(high);
        const float base = high == -INFINITY ? 0.0f : high * by;
        float sum = 0.0f;
        r.less[i] = power2(r.top[i] * by - base);
        r.top[i] = high;
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int c = 2 * i; c < 2 * i + 2; c++) {
                s[j][c] = power2(s[j][c] * by - base);
                sum += s[j][c];
            }
        r.sum[i] = r.sum[i] * r.less[i] + sum;
    }
}

template <int N, int GROUPS, int STAGES, bool TURNS>
__device__ __forceinline__ void meet_keys(const places &x, rows_memory<N, GROUPS, STAGES> m, belt<STAGES> b, bf16 *o, int64_t os, float *lse)
{
    typedef rows_memory<N, GROUPS, STAGES> memory;
    const int group = common((int)threadIdx.x / GROUP) - 1, lane = threadIdx.x % 32;
    const int own_row = group * 64 + (int)(threadIdx.x % GROUP) / 32 * 16 + lane / 4;
    const uint32_t Q = m.base + (uint32_t)(group * 64 * LINE);
    const float by = x.z.scale * LOG2E;
    reader<STAGES, GROUPS, TURNS> r;
    r.start(b);
    for (;;) {
        float sum[WIDE / 8][4], s[N / 8][4];
        uint32_t a[N / 16][4];
        running run = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {0.0f, 0.0f}};
        int flags = r.take(m.said(r.place));
        if (flags & EXIT) return;
#pragma unroll
        for (int j = 0; j < WIDE / 8; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) sum[j][c] = 0.0f;
        r.own_wait();
        const auto score = [&]() {
            products_begin<true>();
            scores<N, memory::QUERIES, N>(s, Q, m.k(r.place));
            products_end<true>();
        };
        const auto hide = [&]() { // what a row does not see
            if (flags & ALL << group) return;
            const int4 note = words_at(m.said(r.place)), own = words_at(b.said());
            const int n = own.x + own_row, first = note.y + lane % 4 * 2;
            const int4 row0 = clipped(x.rows[min(n, own.y - 1)], note.z), row1 = clipped(x.rows[min(n + 8, own.y - 1)], note.z);
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int key = first + 8 * j + c;
                    if (!within(row0, key)) s[j][c] = -INFINITY;
                    if (!within(row1, key)) s[j][2 + c] = -INFINITY;
                }
        };
        const auto shrink = [&]() {
            if (__any_sync(0xffffffffu,
                           run.less[0] != 1.0f || run.less[1] != 1.0f)) // maxima soon rise no more
#pragma unroll
                for (int j = 0; j < WIDE / 8; j++)
#pragma unroll
                    for (int c = 0; c < 4; c++) sum[j][c] *= run.less[c / 2];
            as_left<N>(a, s);
        };
        for (bool more = true; more;) {
            if (!(flags & ANY << group)) {
                r.done(b.empty(r.place));
            } else {
                int held;
                score();
                r.begun();
                products_wait<true, 0>();
                hold<true>(s);
                hide();
                weigh<N>(run, s, by);
                shrink();
                for (;;) {
                    const uint32_t values = m.k(r.place) + memory::TILE;
                    bool next = !(flags & LAST);
                    held = r.place;
                    if (next) {
                        r.step();
                        flags = r.take(m.said(r.place));
                        next = flags & ANY << group;
                    }
                    hold<true>(sum);
                    if (!next) {
                        products_begin<true>();
                        gather<N>(sum, a, values);
                        products_end<true>();
                        break;
                    }
                    score();
                    gather<N>(sum, a, values);
                    products_end<true>();
                    r.begun();
                    products_wait<true, 1>();
                    hold<true>(s);
                    hide();
                    weigh<N>(run, s, by);
                    products_wait<true, 0>();
                    hold<true>(sum);
                    r.done(b.empty(held));
                    shrink();
                }
                products_wait<true, 0>();
                hold<true>(sum);
                r.done(b.empty(held));
                if (held != r.place) continue; // the tile at hand is not one that this group sees
            }
            more = !(flags & LAST);
            r.step();
            if (more) flags = r.take(m.said(r.place));
        }
        const int4 own = words_at(b.said());
        const int n = own.x + own_row;
        r.done(b.own_empty());
        float inverse[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float all = quad_sum(run.sum[i]);
            inverse[i] = all > 0.0f ? 1.0f / all : 0.0f;
            if (lane % 4 == 0 && n + 8 * i < own.y)
                lse[(int64_t)(n + 8 * i) * x.z.H + own.z] = all > 0.0f ? run.top[i] * x.z.scale + logf(all) : -INFINITY;
        }
        store_wide(o + own.z * x.z.D, os, n, own.y, (int)x.z.D, sum, inverse[0], inverse[1]);
    }
}

template <int N, int GROUPS, int STAGES, bool TURNS>
static __global__ void __launch_bounds__((GROUPS + 1) * GROUP, 1) attend(const __grid_constant__ places x, bf16 *o, int64_t os, float *lse)
{
    if constexpr (!HAS_WGMMA) return;
    extern __shared__ unsigned char shared[];
    const rows_memory<N, GROUPS, STAGES> m = {tiles_begin(shared)};
    const belt<STAGES> b = {m.barriers()};
    b.open(GROUPS * GROUP / 32);
    if (threadIdx.x < GROUP) {
        fewer_registers<GROUPS == 2 ? 24 : 32>();
        if (threadIdx.x < 32) feed_keys<N, GROUPS, STAGES>(x, m, b);
    } else {
        more_registers<GROUPS == 2 ? 240 : 160>();
        meet_keys<N, GROUPS, STAGES, TURNS>(x, m, b, o, os, lse);
    }
}

typedef struct operands {
    pc_tensor o, lse, q, k, v;
    sights see;
    heads z;
} operands;

template <int N, int GROUPS, int STAGES, bool TURNS> static void launch(const operands *x)
{
    const int count = x->see.query_count[GROUPS - 1], total = count * (int)x->z.H;
    if (total == 0) return;
    int *counter = (int *)pc_cuda_workspace(sizeof(int));
    CHECK_CUDA(cudaMemsetAsync(counter, 0, sizeof(int), pc_cuda_stream));
    const places p = {boxes_of(x->q, GROUPS * 64),
                      boxes_of(x->k, N),
                      boxes_of(x->v, N),
                      (const bf16 *)x->v.data,
                      x->v.stride,
                      x->see.queries[GROUPS - 1],
                      x->see.granules,
                      x->see.rows,
                      x->z,
                      order_of(count, x->z.H, processors(), counter)};
    auto *kernel = attend<N, GROUPS, STAGES, TURNS>;
    LAUNCH_LONG(kernel, total, (GROUPS + 1) * GROUP, (rows_memory<N, GROUPS, STAGES>::BYTES), p, (bf16 *)x->o.data, x->o.stride,
                (float *)x->lse.data);
}

bool attention_long_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale)
{
    const int64_t H = q.dim[1], D = q.dim[2];
    const bool fits = by_vectors(o) && by_vectors(q) && by_vectors(k) && by_vectors(v);
    if (q.dtype != PC_BF16 || D <= 96 || D > WIDE || !(scale > 0.0) || !fits || !attention_on_hopper()) return false;
    if (q.dim[0] == 0 || k.dim[0] == 0) return false;
    const operands x = {o, lse, q, k, v, sights_of(mask, q.dim[0]), {H, k.dim[1], D, (float)scale}};
    if (x.see.seen >= MANY_KEYS)
        launch<128, 2, 3, true>(&x);
    else
        launch<64, 3, 5, false>(&x);
    return true;
}

CUtensorMap boxes_of(pc_tensor x, int rows)
{
    typedef decltype(&cuTensorMapEncodeTiled) encoder;
    static encoder encode;
    if (!encode) {
        cudaDriverEntryPointQueryResult found;
        void *f = NULL;
#if CUDART_VERSION >= 12050
        CHECK_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found));
#else
        CHECK_CUDA(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found));
#endif
        PC_ASSERT(f && found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
        encode = (encoder)f;
    }
    // Columns, heads, rows. A tensor without rows is never read.
    const cuuint64_t dims[3] = {(cuuint64_t)x.dim[2], (cuuint64_t)x.dim[1], (cuuint64_t)(x.dim[0] > 0 ? x.dim[0] : 1)};
    const cuuint64_t strides[2] = {(cuuint64_t)x.dim[2] * sizeof(bf16), (cuuint64_t)x.stride * sizeof(bf16)};
    const cuuint32_t box[3] = {64, 1, (cuuint32_t)rows}, steps[3] = {1, 1, 1};
    CUtensorMap m;
    const CUresult bad = encode(&m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, x.data, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    PC_ASSERT(bad == CUDA_SUCCESS, "a tensor map of (%lld,%lld,%lld), stride %lld: driver's error %d", (long long)x.dim[0], (long long)x.dim[1],
              (long long)x.dim[2], (long long)x.stride, (int)bad);
    return m;
}

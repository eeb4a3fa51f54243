/*
 * attention_short.cu - attention forward of short sequences with heads of 64, bf16, Hopper.
 *
 * A block takes one head of one sequence after the other: all its keys and values lie in shared memory, with room for the
 * next heads' where they are few. WORKERS groups take blocks of 64 query rows in turn, over the border of heads: scores of
 * 128, 64 or (the tail) 16 keys at a time, exponentials as powers of two with the scale and log2 e taken in, sums in f32
 * registers. Of a helping group one warp orders the copies and one does the tail of queries, 16 rows, by itself.
 *
 * On an H100, 4 D operations a pair, and attention_tensor.cu's on another of them: 256 x 257 rows, 16 heads 205 TFLOP/s (138);
 * 128 x 577, 16 heads 325 (235); 1024 x 50, 12 heads 64 (31); 256 x 77 causal, 12 heads 30 (26).
 */
#include "model/ops/cuda/attention_short.cuh"

#include <math.h>

// ROWS of keys a head may have, BUFFERS heads at a time.
template <int ROWS_, int BUFFERS_> struct plan {
    enum {
        ROWS = ROWS_,
        BUFFERS = BUFFERS_,
        WORKERS = 3,
        WIDE = 2 * BLOCK, // keys at a time
        SLOTS = 2,        // of queries, a worker
        THREADS_HERE = (WORKERS + 1) * GROUP,
        WORKER = 144, // registers
        HELPER = 80,
        KEYS = ROWS * LINE,
        AT_QUERIES = 2 * BUFFERS * KEYS,
        AT_TAILS = AT_QUERIES + WORKERS * SLOTS * BLOCK_BYTES,
        AT_BARRIERS = AT_TAILS + SLOTS * TAIL_BYTES,
        BYTES = SLACK + AT_BARRIERS + 8 * (2 * BUFFERS + 2 * SLOTS * (WORKERS + 1)),
    };
};

typedef struct boxes {
    CUtensorMap q, k, v, q_tail, k_tail, v_tail;
} boxes;

typedef struct tensors {
    bf16 *o;
    int64_t os;
    float *lse;
    shape_of_work work;
    float scale;
} tensors;

#if HAS_WGMMA

typedef key_passes<1 << 20> heads_walk; // all keys at once

template <class P> struct barriers {
    uint32_t base;
    __device__ __forceinline__ uint32_t key_full(int i) const
    {
        return base + 8 * i;
    }
    __device__ __forceinline__ uint32_t key_empty(int i) const
    {
        return base + 8 * (P::BUFFERS + i);
    }
    // Of worker w, or (w = WORKERS) the tail's warp.
    __device__ __forceinline__ uint32_t query_full(int w, int slot) const
    {
        return base + 8 * (2 * P::BUFFERS + w * P::SLOTS + slot);
    }
    __device__ __forceinline__ uint32_t query_empty(int w, int slot) const
    {
        return query_full(w, slot) + 8 * (P::WORKERS + 1) * P::SLOTS;
    }
};

struct running {
    float o[8][4], top[2], sum[2];
};

__device__ __forceinline__ void run_from(running &r)
{
#pragma unroll
    for (int j = 0; j < 8; j++) r.o[j][0] = r.o[j][1] = r.o[j][2] = r.o[j][3] = 0.0f;
    r.top[0] = r.top[1] = -INFINITY;
    r.sum[0] = r.sum[1] = 0.0f;
}

// Scores of N keys from `key` on become powers, the running sums what they are against the new maximum. `row`: the thread's
// first query row; its other is 8 on.
template <int N, bool CAUSAL> __device__ __forceinline__ void soften(running &r, float (&p)[N / 8][4], int key, int row, int T, float by)
{
    const int first = key + (int)(threadIdx.x % 4) * 2;
    if (CAUSAL ? key + N > min(row - (int)(threadIdx.x % 32 / 4), T) : key + N > T)
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int at = first + 8 * j + c % 2;
                if (at >= T || (CAUSAL && at > row + c / 2 * 8)) p[j][c] = -INFINITY;
            }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float high = r.top[i];
#pragma unroll
        for (int j = 0; j < N / 8; j++) high = fmaxf(high, fmaxf(p[j][2 * i], p[j][2 * i + 1]));
        high = quad_max(high);
        const float base = high == -INFINITY ? 0.0f : high * by, less = power2(r.top[i] * by - base);
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int c = 2 * i; c < 2 * i + 2; c++) {
                p[j][c] = power2(p[j][c] * by - base);
                sum += p[j][c];
            }
        r.sum[i] = r.sum[i] * less + sum;
        r.top[i] = high;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            r.o[j][2 * i] *= less;
            r.o[j][2 * i + 1] *= less;
        }
    }
}

template <int N, bool CAUSAL>
__device__ __forceinline__ void pass_keys(running &r, uint32_t Q, uint32_t K, uint32_t V, int key, int row, int T, float by)
{
    float p[N / 8][4];
    products_begin<true>();
#pragma unroll
    for (int k = 0; k < 4; k++) wgmma_both<N>(p, tile_at(Q + 32 * k, 0), tile_at(K + (uint32_t)(key * LINE) + 32 * k, 0), k);
    products_end<true>();
    products_wait<true, 0>();
    hold<true>(p);
    soften<N, CAUSAL>(r, p, key, row, T, by);
    uint32_t a[N / 16][4];
    as_left<N>(a, p);
    hold<true>(r.o);
    products_begin<true>();
#pragma unroll
    for (int k = 0; k < N / 16; k++) wgmma_left<64>(r.o, a[k], tile_at(V + (uint32_t)((key + 16 * k) * LINE), 0));
    products_end<true>();
    products_wait<true, 0>();
    hold<true>(r.o);
}

// What the running sums come to: factors of the rows of o; lse written.
__device__ __forceinline__ void settle(float (&inverse)[2], const running &r, const tensors &x, int first, int row, int T, int h)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float sum = quad_sum(r.sum[i]);
        inverse[i] = sum > 0.0f ? 1.0f / sum : 0.0f;
        if (threadIdx.x % 4 == 0 && row + 8 * i < T)
            x.lse[(int64_t)(first + row + 8 * i) * x.work.H + h] = sum > 0.0f ? r.top[i] * x.scale + logf(sum) : -INFINITY;
    }
}

template <class P, bool CAUSAL> __device__ __forceinline__ void work(const tensors &x, uint32_t base, const barriers<P> &bar, int w)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x % GROUP / 32;
    const float by = x.scale * LOG2E;
    heads_walk at;
    int count = 0, taken = 0, next = w; // heads; blocks of mine; how many blocks on is my next one
    for (at.start(x.work); at.more(x.work); at.advance(x.work), count++) {
        const int buffer = count % P::BUFFERS, h = at.item % x.work.H;
        const uint32_t K = base + (uint32_t)(2 * buffer * P::KEYS), V = K + P::KEYS;
        barrier_wait(bar.key_full(buffer), (uint32_t)(count / P::BUFFERS) & 1);
        for (; next < at.whole; next += P::WORKERS, taken++) {
            const int slot = taken % P::SLOTS, query = next * BLOCK, row = query + warp * 16 + lane / 4;
            const uint32_t Q = base + P::AT_QUERIES + (uint32_t)((w * P::SLOTS + slot) * BLOCK_BYTES);
            const int blocks = CAUSAL ? next + 1 : at.whole;
            running r;
            run_from(r);
            barrier_wait(bar.query_full(w, slot), (uint32_t)(taken / P::SLOTS) & 1);
            int key = 0;
            for (; key + P::WIDE <= blocks * BLOCK; key += P::WIDE) pass_keys<P::WIDE, CAUSAL>(r, Q, K, V, key, row, at.T, by);
            if (key < blocks * BLOCK) pass_keys<64, CAUSAL>(r, Q, K, V, key, row, at.T, by);
            if (!CAUSAL && at.tail() > 0) pass_keys<16, CAUSAL>(r, Q, K, V, blocks * BLOCK, row, at.T, by);
            warp_arrive(bar.query_empty(w, slot));
            float inverse[2];
            settle(inverse, r, x, at.first, row, at.T, h);
            store_block(x.o + (int64_t)(at.first + query) * x.os + h * HEAD, x.os, at.T - query, r.o, inverse[0], inverse[1]);
        }
        next -= at.whole;
        warp_arrive(bar.key_empty(buffer));
    }
}

// A warp's own products: 16 rows of queries, 16 keys at a time.
template <class P, bool CAUSAL> __device__ __forceinline__ void work_tails(const tensors &x, uint32_t base, const barriers<P> &bar)
{
    const int lane = threadIdx.x % 32;
    const float by = x.scale * LOG2E;
    heads_walk at;
    int count = 0, taken = 0;
    for (at.start(x.work); at.more(x.work); at.advance(x.work), count++) {
        const int buffer = count % P::BUFFERS, h = at.item % x.work.H, query = at.whole * BLOCK, row = query + lane / 4;
        const uint32_t K = base + (uint32_t)(2 * buffer * P::KEYS), V = K + P::KEYS;
        barrier_wait(bar.key_full(buffer), (uint32_t)(count / P::BUFFERS) & 1);
        if (at.tail() > 0) {
            const int slot = taken % P::SLOTS;
            const uint32_t Q = base + P::AT_TAILS + (uint32_t)(slot * TAIL_BYTES);
            running r;
            run_from(r);
            barrier_wait(bar.query_full(P::WORKERS, slot), (uint32_t)(taken / P::SLOTS) & 1);
            for (int key = 0; key < at.T; key += 16) {
                float p[2][4];
#pragma unroll
                for (int j = 0; j < 2; j++) p[j][0] = p[j][1] = p[j][2] = p[j][3] = 0.0f;
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    uint32_t a[4], b[4];
                    load_matrices(a, piece_at<BLOCK>(Q, lane % 16, 2 * k + lane / 16));
                    load_matrices(b, piece_at<BLOCK>(K, key + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
                    multiply(p[0], a, b[0], b[1]);
                    multiply(p[1], a, b[2], b[3]);
                }
                soften<16, CAUSAL>(r, p, key, row, at.T, by);
                uint32_t a[1][4];
                as_left<16>(a, p);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    uint32_t b[4];
                    load_matrices_turned(b, piece_at<BLOCK>(V, key + lane % 16, 2 * j + lane / 16));
                    multiply(r.o[2 * j], a[0], b[0], b[1]);
                    multiply(r.o[2 * j + 1], a[0], b[2], b[3]);
                }
            }
            warp_arrive(bar.query_empty(P::WORKERS, slot));
            taken++;
            float inverse[2];
            settle(inverse, r, x, at.first, row, at.T, h);
            bf16 *to = x.o + (int64_t)(at.first + row) * x.os + h * HEAD + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 8; j++)
                    if (row + 8 * i < at.T)
                        *(uint32_t *)(to + 8 * i * x.os + 8 * j) = pack(r.o[j][2 * i] * inverse[i], r.o[j][2 * i + 1] * inverse[i]);
        }
        warp_arrive(bar.key_empty(buffer));
    }
}

// One thread that orders all copies, in the order in which workers take them.
template <class P> __device__ __forceinline__ void order_copies(const boxes &box, const tensors &x, uint32_t base, const barriers<P> &bar)
{
    const bool me = threadIdx.x % 32 == 0;
    heads_walk at;
    int count = 0, blocks = 0, tails = 0;
    for (at.start(x.work); at.more(x.work); at.advance(x.work), count++) {
        const int buffer = count % P::BUFFERS, h = at.item % x.work.H, tail = at.tail();
        const uint32_t K = base + (uint32_t)(2 * buffer * P::KEYS), V = K + P::KEYS, full = bar.key_full(buffer);
        if (count >= P::BUFFERS) barrier_wait(bar.key_empty(buffer), (uint32_t)(count / P::BUFFERS - 1) & 1);
        if (me) {
            barrier_expect(full, 2 * (at.whole * BLOCK_BYTES + (tail > 0 ? TAIL_BYTES : 0)));
            for (int b = 0; b < at.whole; b++) copy_box(K + b * BLOCK_BYTES, &box.k, h, at.first + b * BLOCK, full);
            if (tail > 0) copy_box(K + at.whole * BLOCK_BYTES, &box.k_tail, h, at.first + at.whole * BLOCK, full);
            for (int b = 0; b < at.whole; b++) copy_box(V + b * BLOCK_BYTES, &box.v, h, at.first + b * BLOCK, full);
            if (tail > 0) copy_box(V + at.whole * BLOCK_BYTES, &box.v_tail, h, at.first + at.whole * BLOCK, full);
        }
        __syncwarp();
        if (tail > 0) {
            const int slot = tails % P::SLOTS;
            if (tails >= P::SLOTS) barrier_wait(bar.query_empty(P::WORKERS, slot), (uint32_t)(tails / P::SLOTS - 1) & 1);
            if (me) {
                barrier_expect(bar.query_full(P::WORKERS, slot), TAIL_BYTES);
                copy_box(base + P::AT_TAILS + (uint32_t)(slot * TAIL_BYTES), &box.q_tail, h, at.first + at.whole * BLOCK,
                         bar.query_full(P::WORKERS, slot));
            }
            __syncwarp();
            tails++;
        }
        for (int b = 0; b < at.whole; b++, blocks++) {
            const int w = blocks % P::WORKERS, n = blocks / P::WORKERS, slot = n % P::SLOTS;
            if (n >= P::SLOTS) barrier_wait(bar.query_empty(w, slot), (uint32_t)(n / P::SLOTS - 1) & 1);
            if (me) {
                barrier_expect(bar.query_full(w, slot), BLOCK_BYTES);
                copy_box(base + P::AT_QUERIES + (uint32_t)((w * P::SLOTS + slot) * BLOCK_BYTES), &box.q, h, at.first + b * BLOCK,
                         bar.query_full(w, slot));
            }
            __syncwarp();
        }
    }
}

#endif

template <class P, bool CAUSAL>
__global__ void __launch_bounds__(P::THREADS_HERE, 1) attend(const __grid_constant__ boxes box, const __grid_constant__ tensors x)
{
#if HAS_WGMMA
    extern __shared__ unsigned char memory[];
    const uint32_t base = tiles_begin(memory);
    const barriers<P> bar = {base + P::AT_BARRIERS};
    if (threadIdx.x == 0) {
        for (int i = 0; i < P::BUFFERS; i++) {
            barrier_open(bar.key_full(i), 1);
            barrier_open(bar.key_empty(i), P::WORKERS * 4 + 1);
        }
        for (int w = 0; w <= P::WORKERS; w++)
            for (int i = 0; i < P::SLOTS; i++) {
                barrier_open(bar.query_full(w, i), 1);
                barrier_open(bar.query_empty(w, i), w < P::WORKERS ? 4 : 1);
            }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    const int group = same((int)threadIdx.x / GROUP);
    if (group == P::WORKERS) {
        registers_fewer<P::HELPER>();
        const int warp = same((int)threadIdx.x % GROUP / 32);
        if (warp == 0) order_copies<P>(box, x, base, bar);
        if (warp == 1) work_tails<P, CAUSAL>(x, base, bar);
    } else {
        registers_more<P::WORKER>();
        work<P, CAUSAL>(x, base, bar, group);
    }
#endif
}

// ---- the host's side ---------------------------------------------------------------------------------

int attention_processors(void)
{
    static int count;
    if (count == 0) CHECK_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
    return count;
}

typedef CUresult (*encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                           const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static encode encoder(void)
{
    static encode f;
    static bool asked;
    if (!asked) {
        void *p = NULL;
        cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
        const cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found);
#else
        const cudaError_t e = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &p, cudaEnableDefault, &found);
#endif
        f = e == cudaSuccess && found == cudaDriverEntryPointSuccess ? (encode)p : NULL;
        asked = true;
    }
    return f;
}

bool attention_box(CUtensorMap *box, pc_tensor x, int rows)
{
    const encode f = encoder();
    const cuuint64_t sizes[2] = {(cuuint64_t)(x.dim[1] * x.dim[2]), (cuuint64_t)x.dim[0]}, strides[1] = {(cuuint64_t)x.stride * sizeof(bf16)};
    const cuuint32_t part[2] = {HEAD, (cuuint32_t)rows}, steps[2] = {1, 1};
    return f && f(box, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, x.data, sizes, strides, part, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class P> static void launch(const boxes *box, const tensors *x, bool causal)
{
    static_assert((int)P::BYTES <= 227 * 1024, "shared memory");
    const unsigned blocks = (unsigned)attention_processors();
    if (causal) {
        auto *kernel = attend<P, true>;
        LAUNCH_TILES(kernel, blocks, P::THREADS_HERE, P::BYTES, *box, *x);
    } else {
        auto *kernel = attend<P, false>;
        LAUNCH_TILES(kernel, blocks, P::THREADS_HERE, P::BYTES, *box, *x);
    }
}

bool attention_short_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale)
{
    typedef plan<80, 5> few;
    typedef plan<272, 2> some;
    typedef plan<592, 1> many;
    const int64_t N = q.dim[0], H = q.dim[1];
    if (q.dtype != PC_BF16 || q.dim[2] != HEAD || k.dim[1] != H || !(scale > 0.0) || N == 0 || !by_vectors(o) || !by_vectors(q) || !by_vectors(k) ||
        !by_vectors(v) || !attention_on_hopper())
        return false;
    const sights see = sights_of(mask, N);
    const int T = see.longest, room = T > BLOCK && T % BLOCK <= TAIL ? T / BLOCK * BLOCK + TAIL : (T + BLOCK - 1) / BLOCK * BLOCK;
    if (see.shape == SHAPE_OTHER || room > many::ROWS || (int64_t)see.sequences * H > INT32_MAX / 2) return false;
    boxes box;
    if (!attention_box(&box.q, q, BLOCK) || !attention_box(&box.k, k, BLOCK) || !attention_box(&box.v, v, BLOCK) ||
        !attention_box(&box.q_tail, q, TAIL) || !attention_box(&box.k_tail, k, TAIL) || !attention_box(&box.v_tail, v, TAIL))
        return false;
    const tensors x = {(bf16 *)o.data, o.stride, (float *)lse.data, {see.offsets, see.uniform, see.sequences, (int)H}, (float)scale};
    const bool causal = see.shape == SHAPE_CAUSAL;
    if (room <= few::ROWS)
        launch<few>(&box, &x, causal);
    else if (room <= some::ROWS)
        launch<some>(&box, &x, causal);
    else
        launch<many>(&box, &x, causal);
    return true;
}

/*
 * attention_tensor.cuh - tiles of bf16 in shared memory and products of them on tensor cores.
 *
 * A tile of R rows lies in panels of 64 columns, a row of a panel 128 bytes, its eight pieces of 16 bytes in the order
 * piece ^ (row % 8): the layout that both ldmatrix reads without conflicts and wgmma knows as its 128-byte swizzle. One code
 * runs on either: a warp owns 16 rows of results and holds them as mma.m16n8 does, four warps make a group of 64 rows; with
 * HOPPER the group's product is one asynchronous instruction, without it each warp multiplies for itself (Ampere and later).
 */
#ifndef PC_OPS_CUDA_ATTENTION_TENSOR_CUH
#define PC_OPS_CUDA_ATTENTION_TENSOR_CUH

#include "model/ops/cuda/attention.cuh"
#include "model/ops/cuda/wgmma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HAS_WGMMA 1
#else
#define HAS_WGMMA 0
#endif

enum { GROUP = 128, PIECE = 16, LINE = 128 }; // threads of a group; bytes of a piece, of a panel's row
static constexpr float LOG2E = 1.44269504088896341f, LN2 = 0.69314718055994531f;

#define TILE_BYTES(rows, width) ((rows) * (((width) + 63) / 64) * LINE)

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

// Where piece c (8 columns) of row r stands in a tile of ROWS rows.
template <int ROWS> __device__ __forceinline__ uint32_t piece_at(uint32_t tile, int r, int c)
{
    return tile + (uint32_t)((c / 8) * ROWS * LINE + r * LINE + ((c % 8) ^ (r % 8)) * PIECE);
}

__device__ __forceinline__ void copy_async(uint32_t to, const void *from, bool there)
{
    const int bytes = there ? PIECE : 0; // the rest is zeros
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy_async_8(uint32_t to, const void *from, bool there)
{
    const int bytes = there ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copies_done()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// Rows [begin, end) of one head, W columns, D of them there; zeros behind the end and behind D.
template <int W, int ROWS, int COUNT>
__device__ __forceinline__ void load_tile(uint32_t tile, const bf16 *x, int64_t stride, int begin, int end, int D)
{
    constexpr int PIECES = W / 8;
#pragma unroll
    for (int i = 0; i < (ROWS * PIECES + COUNT - 1) / COUNT; i++) {
        const int at = i * COUNT + (int)threadIdx.x, r = at / PIECES, c = at % PIECES;
        if (ROWS * PIECES % COUNT != 0 && at >= ROWS * PIECES) break;
        const bool there = begin + r < end && c * 8 < D;
        copy_async(piece_at<ROWS>(tile, r, c), there ? x + (int64_t)(begin + r) * stride + c * 8 : x, there);
    }
}

// What this thread has put into shared memory, made visible to wgmma.
template <bool HOPPER> __device__ __forceinline__ void show_tiles()
{
#if HAS_WGMMA
    if constexpr (HOPPER) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// The same of all threads, for all.
template <bool HOPPER> __device__ __forceinline__ void tiles_ready()
{
    show_tiles<HOPPER>();
    __syncthreads();
}

// ---- tiles that pass by ------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_open(uint32_t at, int count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t at)
{
    asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(at) : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t at, uint32_t parity)
{
#if HAS_WGMMA
    uint32_t done;
    do {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                     : "=r"(done)
                     : "r"(at), "r"(parity)
                     : "memory");
    } while (!done);
#endif
}

/*
 * Tiles that all threads of a block load together and use one after the other.
 *
 * On Hopper there are three places. Warps say for each place when it is full (their own copies have come) and when they have
 * done with it, so that the groups of a block need not go in step: while one computes exponentials the products of another
 * run. Elsewhere there are two places and everyone meets before each tile.
 *
 *   ring.start(load)                      the first tiles are on their way
 *   for each tile: here = ring.ready(load)   its place; it can be read
 *                  ring.during()             once, while products run
 *                  ring.done(load)           this warp reads it no more
 *
 * load(place) starts the copies of the next tile, if there is one, and says whether there was.
 */
template <bool HOPPER, int WARPS> struct ring {
    enum { PLACES = HOPPER ? 3 : 2, BYTES = 64 };
    uint32_t barriers; // full, then empty, 8 bytes each
    int here, there;   // places of the tile in use and of the next to be loaded
    int round, loads;  // of `here` through all places; tiles loaded
    int left;          // tiles loaded and not yet done with

    template <class LOAD> __device__ __forceinline__ void put(const LOAD &load)
    {
        if (load(there)) {
            left++;
            loads++;
            there = there + 1 == PLACES ? 0 : there + 1;
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }

    __device__ __forceinline__ void publish(int place)
    {
        show_tiles<HOPPER>();
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(barriers + (uint32_t)place * 8);
    }

    template <class LOAD> __device__ __forceinline__ void start(uint32_t at, const LOAD &load)
    {
        barriers = at;
        here = there = round = loads = left = 0;
        if constexpr (HOPPER) {
            if (threadIdx.x == 0)
                for (int i = 0; i < 2 * PLACES; i++) barrier_open(at + (uint32_t)i * 8, WARPS);
            __syncthreads();
        }
        put(load);
        if constexpr (HOPPER) {
            put(load);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
            publish(0);
        }
    }

    template <class LOAD> __device__ __forceinline__ int ready(const LOAD &load)
    {
        if constexpr (HOPPER) {
            barrier_wait(barriers + (uint32_t)here * 8, (uint32_t)round & 1);
        } else {
            copies_done();
            __syncthreads();
            put(load);
        }
        return here;
    }

    __device__ __forceinline__ void during()
    {
        if constexpr (HOPPER) {
            if (left < 2) return;
            copies_done();
            publish(here + 1 == PLACES ? 0 : here + 1);
        }
    }

    template <class LOAD> __device__ __forceinline__ void done(const LOAD &load)
    {
        if constexpr (HOPPER) {
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(barriers + (uint32_t)(PLACES + here) * 8);
            // The tile before the last in `there`, if there was one, has to be done with everywhere.
            if (loads >= PLACES) barrier_wait(barriers + (uint32_t)(PLACES + there) * 8, (uint32_t)(loads / PLACES - 1) & 1);
            put(load);
        }
        left--;
        if (++here == PLACES) {
            here = 0;
            round++;
        }
    }
};

template <bool HOPPER> __device__ __forceinline__ void products_begin()
{
#if HAS_WGMMA
    if constexpr (HOPPER) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

template <bool HOPPER> __device__ __forceinline__ void products_end()
{
#if HAS_WGMMA
    if constexpr (HOPPER) asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until at most LEFT of the groups of products begun are still running.
template <bool HOPPER, int LEFT> __device__ __forceinline__ void products_wait()
{
#if HAS_WGMMA
    if constexpr (HOPPER) asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
#endif
}

// The compiler may not move reads of results above the wait, nor writes below the start.
template <bool HOPPER, int J> __device__ __forceinline__ void hold(float (&d)[J][4])
{
    if constexpr (HOPPER)
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) asm volatile("" : "+f"(d[j][i])::"memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_turned(uint32_t (&m)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
}

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t *a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Descriptor of a 128-byte swizzled tile: groups of eight rows are 1024 bytes apart, panels `panel` bytes.
__device__ __forceinline__ uint64_t tile_at(uint32_t at, uint32_t panel)
{
    return (uint64_t)((at & 0x3ffffu) >> 4) | (uint64_t)(panel >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

// d = A B^T: rows [64 group, +64) of a tile of AR rows with rows [0, N) of one of BR, over W columns.
template <bool HOPPER, int N, int W, int AR, int BR> __device__ __forceinline__ void product(float (&d)[N / 8][4], uint32_t a, uint32_t b)
{
    const int group = threadIdx.x / GROUP, warp = threadIdx.x % GROUP / 32, lane = threadIdx.x % 32;
    if constexpr (HOPPER) {
#if HAS_WGMMA
#pragma unroll
        for (int k = 0; k < W / 16; k++)
            wgmma_both<N>(d, tile_at(a + (uint32_t)((k / 4) * AR * LINE + group * 64 * LINE + k % 4 * 32), 0),
                          tile_at(b + (uint32_t)((k / 4) * BR * LINE + k % 4 * 32), 0), k);
#endif
    } else {
#pragma unroll
        for (int j = 0; j < N / 8; j++) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0.0f;
#pragma unroll
        for (int k = 0; k < W / 16; k++) {
            uint32_t x[4], y[4];
            load_matrices(x, piece_at<AR>(a, group * 64 + warp * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
            for (int j = 0; j < N / 16; j++) {
                load_matrices(y, piece_at<BR>(b, j * 16 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
                multiply(d[2 * j], x, y[0], y[1]);
                multiply(d[2 * j + 1], x, y[2], y[3]);
            }
        }
    }
}

// d += A B: A from registers, K deep; B rows [0, K) of a tile of BR rows, W columns.
template <bool HOPPER, int K, int W, int BR> __device__ __forceinline__ void add_product(float (&d)[W / 8][4], const uint32_t (&a)[K / 16][4], uint32_t b)
{
    const int lane = threadIdx.x % 32;
    if constexpr (HOPPER) {
#if HAS_WGMMA
#pragma unroll
        for (int k = 0; k < K / 16; k++) {
            const uint32_t at = b + (uint32_t)(k * 16 * LINE);
            if constexpr (W == 128) {
                wgmma_left<128>(d, a[k], tile_at(at, BR * LINE));
            } else {
                if constexpr (W >= 64) wgmma_left<64>(d, a[k], tile_at(at, 0));
                if constexpr (W % 64 != 0) wgmma_left<W % 64>(d + W / 64 * 8, a[k], tile_at(at + (uint32_t)(W / 64 * BR * LINE), 0));
            }
        }
#endif
    } else {
#pragma unroll
        for (int k = 0; k < K / 16; k++)
#pragma unroll
            for (int j = 0; j < W / 16; j++) {
                uint32_t y[4];
                load_matrices_turned(y, piece_at<BR>(b, k * 16 + lane % 16, 2 * j + lane / 16));
                multiply(d[2 * j], a[k], y[0], y[1]);
                multiply(d[2 * j + 1], a[k], y[2], y[3]);
            }
    }
}

__device__ __forceinline__ uint32_t pack(float low, float high)
{
    uint32_t u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
    return u;
}

// Results as the left operand of the next product.
template <int N> __device__ __forceinline__ void as_left(uint32_t (&a)[N / 16][4], const float (&d)[N / 8][4])
{
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        a[k][0] = pack(d[2 * k][0], d[2 * k][1]);
        a[k][1] = pack(d[2 * k][2], d[2 * k][3]);
        a[k][2] = pack(d[2 * k + 1][0], d[2 * k + 1][1]);
        a[k][3] = pack(d[2 * k + 1][2], d[2 * k + 1][3]);
    }
}

__device__ __forceinline__ float power2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float quad_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

__device__ __forceinline__ float quad_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// A warp's 16 rows, times by[0] and by[1] (rows lane / 4 and that + 8), to rows [begin, end) of x, through its rows of a
// tile that nobody reads any more.
template <int W, int ROWS>
__device__ __forceinline__ void store_rows(bf16 *x, int64_t stride, int begin, int end, int D, uint32_t tile, const float (&d)[W / 8][4], float by0,
                                           float by1)
{
    const int lane = threadIdx.x % 32, base = threadIdx.x / 32 * 16, r = base + lane / 4;
#pragma unroll
    for (int j = 0; j < W / 8; j++) {
        const uint32_t at = (uint32_t)(lane % 4 * 4);
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(piece_at<ROWS>(tile, r, j) + at), "r"(pack(d[j][0] * by0, d[j][1] * by0)) : "memory");
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(piece_at<ROWS>(tile, r + 8, j) + at), "r"(pack(d[j][2] * by1, d[j][3] * by1)) : "memory");
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < W / 16; i++) {
        const int at = i * 32 + lane, row = base + at / (W / 8), c = at % (W / 8);
        uint4 v;
        asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(piece_at<ROWS>(tile, row, c)) : "memory");
        if (begin + row < end && c * 8 < D) *(uint4 *)(x + (int64_t)(begin + row) * stride + c * 8) = v;
    }
    __syncwarp();
}

// Whether every row of a granule sees all of [key, key + n), or any row any of it.
__device__ __forceinline__ bool all_see(const granule &g, int key, int n)
{
    return (g.all_first[1] <= key && key + n <= g.all_last[1]) || (g.all_first[0] <= key && key + n <= g.all_last[0]);
}

__device__ __forceinline__ bool any_sees(const granule &g, int key, int end)
{
    return (g.first[1] < end && key < g.last[1]) || (g.first[0] < end && key < g.last[0]);
}

// The tiles of keys that a task's queries see, in order.
struct key_walk {
    int part, key;
    __device__ __forceinline__ bool more() const
    {
        return part < 2;
    }
    __device__ __forceinline__ void settle(const task &t) // past ranges that hold nothing
    {
        if (part == 0 && key >= t.last[0]) {
            part = 1;
            key = t.first[1];
        }
        if (part == 1 && key >= t.last[1]) part = 2;
    }
    __device__ __forceinline__ void start(const task &t)
    {
        part = 0;
        key = t.first[0];
        settle(t);
    }
    __device__ __forceinline__ int end(const task &t) const
    {
        return part == 0 ? t.last[0] : t.last[1];
    }
    __device__ __forceinline__ void advance(const task &t, int n)
    {
        key += n;
        settle(t);
    }
};

// Shared memory from a multiple of 1024 on, as swizzled tiles need it.
__device__ __forceinline__ uint32_t tiles_begin(const void *memory)
{
    return (shared_address(memory) + 1023u) & ~1023u;
}

enum { SLACK = 1024 };

// Whether this device has wgmma and is not told to do without (PERCEPT_GPU_ISA=sm80).
bool attention_on_hopper(void);

#define LAUNCH_TILES(kernel, blocks, threads, bytes, ...)                                          \
    do {                                                                                           \
        static const cudaError_t grown =                                                           \
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes)); \
        CHECK_CUDA(grown);                                                                         \
        LAUNCH(kernel, blocks, threads, bytes, __VA_ARGS__);                                       \
    } while (0)

#endif

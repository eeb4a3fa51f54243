/*
 * attention_long.cuh - what attention of wide heads (96 < D <= 128) on Hopper is made of: blocks that stay, a warp that has
 * tiles fetched, groups that compute.
 *
 * A block lives as long as the kernel and takes tasks from a counter: a task is a block of rows of one head, which it keeps in
 * shared memory (`own`), and the tiles of the other side that meet them, which pass by in STAGES places. The first warp of
 * group 0 has the copy engine bring them and writes for each what has to be known of it (a note): who sees any of it, who all
 * of it, whether it is a task's last. Groups 1 and on have 64 rows each and meet nobody: they wait until a place is full and
 * say when they have done with it, so that products of one run while another computes exponentials, and the first tiles of
 * the next task are there before the results of this one are stored.
 *
 * The engine knows a tensor's rows, not its sequences: behind the last row of a sequence a tile holds rows of the next one,
 * which the masks keep out.
 *
 * Who takes which task decides no number: a sum has one owner and one order.
 */
#ifndef PC_OPS_CUDA_ATTENTION_LONG_CUH
#define PC_OPS_CUDA_ATTENTION_LONG_CUH

#include "model/ops/cuda/attention_tensor.cuh"

#include <cuda.h>

enum { WIDE = 128 };                            // columns of a tile
enum { MANY_KEYS = 400 };                       // that rows see: from there on large tiles pay for what their edges waste
enum { LAST = 1, EXIT = 2, ANY = 4, ALL = 64 }; // of a note: ANY and ALL shifted by the group

// What is said of a tile: flags, its first row, the end of its rows. Of a task: its rows [begin, end), its head.
enum { NOTE = 16 };

// ---- which task ---------------------------------------------------------------------------------------

// Heads go by sections whose tasks keep all blocks busy about twice; in a section the longest tasks of all heads come first,
// so that what is left at the end is short, while few enough heads are at work for the cache to hold what they share.
typedef struct order {
    int tasks, heads, section; // tasks a head
    int *counter;              // tasks taken beyond the first of each block
} order;

__device__ __forceinline__ void pick(const order &o, int i, int *task_index, int *head)
{
    const int first = o.heads % o.section, before = first * o.tasks;
    int heads = first, from = 0;
    if (i >= before) {
        const int s = (i - before) / (o.section * o.tasks);
        i -= before + s * o.section * o.tasks;
        from = first + s * o.section;
        heads = o.section;
    }
    *task_index = i / heads;
    *head = from + i % heads;
}

static inline order order_of(int tasks, int64_t heads, int blocks, int *counter)
{
    int64_t section = tasks > 0 ? (2 * blocks + tasks - 1) / tasks : 1;
    if (section > heads) section = heads;
    const order o = {tasks, (int)heads, (int)section, counter};
    return o;
}

// Processors of the device: blocks, of which each takes one whole.
static inline int processors(void)
{
    static int count;
    if (!count) CHECK_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
    return count;
}

// ---- shared memory --------------------------------------------------------------------------------------

__device__ __forceinline__ void set_word(uint32_t at, int v)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}

__device__ __forceinline__ int word_at(uint32_t at)
{
    int v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

// The same of all lanes of a warp, so that the compiler knows that it is.
__device__ __forceinline__ int common(int v)
{
    return __shfl_sync(0xffffffffu, v, 0);
}

__device__ __forceinline__ int4 words_at(uint32_t at)
{
    int4 v;
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}

__device__ __forceinline__ float4 numbers_at(uint32_t at)
{
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at) : "memory");
    return v;
}

__device__ __forceinline__ void set_words(uint32_t at, int x, int y, int z, int w)
{
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}

// ---- the copy engine ------------------------------------------------------------------------------------

// A tensor (N,H,D) of bf16 as boxes of `rows` rows of one head, 64 columns; zeros behind its ends.
CUtensorMap boxes_of(pc_tensor x, int rows);

// Arrives, and says how many bytes will still come.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes)
{
#if HAS_WGMMA
    asm volatile("{.reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;}" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}

// A tile of ROWS rows, which are a box's.
template <int ROWS> __device__ __forceinline__ void fetch(uint32_t tile, const CUtensorMap &boxes, int row, int head, uint32_t barrier)
{
#if HAS_WGMMA
#pragma unroll
    for (int panel = 0; panel < WIDE / 64; panel++)
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(tile + (uint32_t)(panel * ROWS * LINE)),
                     "l"(&boxes), "r"(panel * 64), "r"(head), "r"(row), "r"(barrier)
                     : "memory");
#endif
}

// Bytes that stand together: a multiple of 16, as are both addresses.
__device__ __forceinline__ void fetch_bytes(uint32_t to, const void *from, int bytes, uint32_t barrier)
{
#if HAS_WGMMA
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
                 "r"(barrier)
                 : "memory");
#endif
}

// ---- the two ends of the belt -----------------------------------------------------------------------------

// Barriers, 8 bytes each: full and empty of each place, then of what a task keeps.
template <int STAGES> struct belt {
    enum { BYTES = (2 * STAGES + 2) * 8 + NOTE }; // and a note of the task
    uint32_t at;
    __device__ __forceinline__ uint32_t full(int i) const
    {
        return at + (uint32_t)i * 8;
    }
    __device__ __forceinline__ uint32_t empty(int i) const
    {
        return at + (uint32_t)(STAGES + i) * 8;
    }
    __device__ __forceinline__ uint32_t own_full() const
    {
        return at + 2 * STAGES * 8;
    }
    __device__ __forceinline__ uint32_t own_empty() const
    {
        return own_full() + 8;
    }
    __device__ __forceinline__ uint32_t said() const
    {
        return own_full() + 16;
    }
    __device__ __forceinline__ void open(int readers) const
    {
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_open(full(i), 1);
                barrier_open(empty(i), readers);
            }
            barrier_open(own_full(), 1);
            barrier_open(own_empty(), readers);
        }
        __syncthreads();
    }
};

// The fetching warp's end.
template <int STAGES> struct feeder {
    enum { AHEAD = 2 }; // tiles of a task that are fetched before what it keeps
    belt<STAGES> b;
    int place;
    uint32_t parity, own;

    __device__ __forceinline__ void start(belt<STAGES> belt_)
    {
        b = belt_;
        place = 0;
        parity = own = 1;
    }
    // The next place, when it is free.
    __device__ __forceinline__ int room()
    {
        barrier_wait(b.empty(place), parity);
        return place;
    }
    __device__ __forceinline__ void step()
    {
        if (++place == STAGES) {
            place = 0;
            parity ^= 1;
        }
    }
    __device__ __forceinline__ void own_room()
    {
        barrier_wait(b.own_empty(), own);
        own ^= 1;
    }
};

// A computing group's end: the place in use, and what its note says. With TURNS groups begin their products one after the
// other, tile by tile, so that those of one run while another computes exponentials.
template <int STAGES, int GROUPS, bool TURNS> struct reader {
    belt<STAGES> b;
    int place, group;
    uint32_t parity, own;

    __device__ __forceinline__ void start(belt<STAGES> belt_)
    {
        b = belt_;
        place = 0;
        parity = own = 0;
        group = common((int)threadIdx.x / GROUP) - 1;
        if (TURNS && group == GROUPS - 1) asm volatile("bar.arrive %0, 256;" ::"r"(1) : "memory"); // the first group begins
    }
    // The note of the tile at hand, when it is there and it is this group's turn to begin its products.
    __device__ __forceinline__ int take(uint32_t said) const
    {
        barrier_wait(b.full(place), parity);
        const int flags = common(word_at(said));
        if (TURNS && (!(flags & EXIT) || group == 0)) asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
        if (!(flags & (ANY << group | EXIT))) begun();
        return flags;
    }
    // They have begun, or are none: the next group's turn.
    __device__ __forceinline__ void begun() const
    {
        if (TURNS) asm volatile("bar.arrive %0, 256;" ::"r"(group + 1 == GROUPS ? 1 : 2 + group) : "memory");
    }
    __device__ __forceinline__ void step()
    {
        if (++place == STAGES) {
            place = 0;
            parity ^= 1;
        }
        place = common(place);
    }
    __device__ __forceinline__ void done(uint32_t barrier) const
    {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
    }
    __device__ __forceinline__ void own_wait()
    {
        barrier_wait(b.own_full(), own);
        own ^= 1;
    }
};

// Registers of the kernel's start, given to the groups that need them. To be the first of a role's branch.
template <int N> __device__ __forceinline__ void fewer_registers()
{
#if HAS_WGMMA
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

template <int N> __device__ __forceinline__ void more_registers()
{
#if HAS_WGMMA
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

// ---- products ------------------------------------------------------------------------------------------

// A descriptor (attention_tensor.cuh's tile_at) whose lower word alone is computed; addresses are common to a warp's lanes, and
// the compiler knows it: descriptors lie in registers that warps have once.
__device__ __forceinline__ uint32_t lower_word(uint32_t at, uint32_t panel)
{
    return at >> 4 | (panel >> 4) << 16;
}

__device__ __forceinline__ uint64_t descriptor(uint32_t low)
{
    uint64_t d;
    asm("mov.b64 %0, {%1, %2};" : "=l"(d) : "r"(low), "n"(1 << 30 | 1024 >> 4));
    return d;
}

// d = A B^T over 128 columns: 64 rows from `a` on, of a tile of AR rows, with rows [0, N) of one of BR.
template <int N, int AR, int BR> __device__ __forceinline__ void scores(float (&d)[N / 8][4], uint32_t a, uint32_t b)
{
#if HAS_WGMMA
    const uint32_t x = lower_word(a, 0), y = lower_word(b, 0);
#pragma unroll
    for (int k = 0; k < WIDE / 16; k++)
        wgmma_both<N>(d, descriptor(x + (uint32_t)(((k / 4) * AR * LINE + k % 4 * 32) / 16)),
                      descriptor(y + (uint32_t)(((k / 4) * BR * LINE + k % 4 * 32) / 16)), k);
#endif
}

// d += A B: A from registers, K deep; B a tile of K rows.
template <int K> __device__ __forceinline__ void gather(float (&d)[WIDE / 8][4], const uint32_t (&a)[K / 16][4], uint32_t b)
{
#if HAS_WGMMA
    const uint32_t y = lower_word(b, K * LINE);
#pragma unroll
    for (int k = 0; k < K / 16; k++) wgmma_left<128>(d, a[k], descriptor(y + (uint32_t)(k * 16 * LINE / 16)));
#endif
}

// ---- masks -----------------------------------------------------------------------------------------------

// Whether a row sees a key, without branches.
__device__ __forceinline__ bool within(const int4 &row, int key)
{
    return ((uint32_t)(key - row.x) < (uint32_t)(row.y - row.x)) | ((uint32_t)(key - row.z) < (uint32_t)(row.w - row.z));
}

// What a row sees of the keys below `end`.
__device__ __forceinline__ int4 clipped(int4 row, int end)
{
    row.y = max(row.x, min(row.y, end));
    row.w = max(row.z, min(row.w, end));
    return row;
}

// ---- results --------------------------------------------------------------------------------------------

// A warp's 16 rows, of which this lane has rows n and n + 8, times by0 and by1, to rows below `end` of x: the lanes of a row
// trade words until each has 16 bytes that stand together.
__device__ __forceinline__ void store_wide(bf16 *x, int64_t stride, int n, int end, int D, const float (&d)[WIDE / 8][4], float by0, float by1)
{
    const int q = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < WIDE / 8; j += 4) {
            uint32_t u[4];
            const float by = half ? by1 : by0;
#pragma unroll
            for (int i = 0; i < 4; i++) u[i] = pack(d[j + i][2 * half] * by, d[j + i][2 * half + 1] * by);
#pragma unroll
            for (int m = 1; m < 4; m *= 2)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int low = m == 1 ? 2 * i : i, high = low + m;
                    const uint32_t come = __shfl_xor_sync(0xffffffffu, q & m ? u[low] : u[high], m);
                    if (q & m)
                        u[low] = come;
                    else
                        u[high] = come;
                }
            const int row = n + 8 * half, c = (j + q) * 8;
            if (row < end && c < D) *(uint4 *)(x + (int64_t)row * stride + c) = make_uint4(u[0], u[1], u[2], u[3]);
        }
}

#define LAUNCH_LONG(kernel, total, threads, bytes, ...)                                                                                              \
    LAUNCH_TILES(kernel, (unsigned)((total) < processors() ? (total) : processors()), threads, bytes, __VA_ARGS__)

#endif

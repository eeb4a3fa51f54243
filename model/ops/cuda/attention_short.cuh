/*
 * attention_short.cuh - what the kernels of short sequences with heads of 64 share: whole sequences that see themselves,
 * all of it or from the past, copied tile by tile by the copy engine (TMA) and multiplied by warpgroups on Hopper.
 *
 * A tile is one panel of attention_tensor.cuh: rows of 128 bytes, pieces swizzled, which is what the copy engine writes.
 * Rows behind a sequence's end are those of the next one, or zeros: whoever uses them makes them count nothing.
 *
 * 64 rows are a block. A sequence of T rows has `whole` blocks; of its last T % 64 rows up to 16 are a tail, which is
 * multiplied as 16, not as 64: CLIP's 257 and 577 rows are 4 and 9 blocks and one row.
 */
#ifndef PC_OPS_CUDA_ATTENTION_SHORT_CUH
#define PC_OPS_CUDA_ATTENTION_SHORT_CUH

#include "model/ops/cuda/attention_tensor.cuh"

#include <cuda.h>

enum { BLOCK = 64, TAIL = 16, HEAD = 64, BLOCK_BYTES = BLOCK * LINE, TAIL_BYTES = TAIL * LINE };

// How x (N,H,64) is cut into boxes of `rows` rows of one head; false: this driver cannot say.
bool attention_box(CUtensorMap *box, pc_tensor x, int rows);
int attention_processors(void);

// Which heads of which sequences there are; uniform: the rows of every sequence, or 0, and then offsets say.
typedef struct shape_of_work {
    const int32_t *offsets;
    int uniform, sequences, H;
    __device__ __forceinline__ int items() const
    {
        return sequences * H;
    }
} shape_of_work;

#if HAS_WGMMA

// d (+)= A^T B^T's kind: both operands have their rows along the depth. M = 64, N = 64.
__device__ __forceinline__ void wgmma_turned_64(float (*d)[4], uint64_t a, uint64_t b, int keep)
{
#define FOUR(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
    // clang-format off
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0;"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, %32, %33, p, 1, 1, 1, 1;}"
                 : FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7)
                 : "l"(a), "l"(b), "r"(keep));
    // clang-format on
}

// The left operand has its rows along the depth, the right one its columns. M = 64, N = 16.
__device__ __forceinline__ void wgmma_turned_16(float (*d)[4], uint64_t a, uint64_t b)
{
    // clang-format off
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7"
                 "}, %8, %9, 1, 1, 1, 1, 0;"
                 : FOUR(0), FOUR(1)
                 : "l"(a), "l"(b));
    // clang-format on
#undef FOUR
}

// A tile's descriptor by its low word, to which distances are added in units of 16 bytes.
__device__ __forceinline__ uint32_t low_of(uint32_t at)
{
    return (at & 0x3ffffu) >> 4;
}

__device__ __forceinline__ uint64_t tile_of(uint32_t low)
{
    return (uint64_t)low | (uint64_t)(1024 >> 4 | 1u << 30) << 32;
}

// Until at most `left` groups of products still run; `left` is known when the code around is unrolled.
__device__ __forceinline__ void wait_but(int left)
{
    if (left <= 0) products_wait<true, 0>();
    if (left == 1) products_wait<true, 1>();
    if (left == 2) products_wait<true, 2>();
    if (left >= 3) products_wait<true, 3>();
}

__device__ __forceinline__ void barrier_expect(uint32_t at, uint32_t bytes)
{
    asm volatile("{.reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1;}" ::"r"(at), "r"(bytes) : "memory");
}

// Rows [row, +rows of the box) of head h.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *box, int h, int row, uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(box),
                 "r"(h * HEAD), "r"(row), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
                 "r"(barrier)
                 : "memory");
}

template <int REGISTERS> __device__ __forceinline__ void registers_more()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> __device__ __forceinline__ void registers_fewer()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// One arrival a warp, of all it did.
__device__ __forceinline__ void warp_arrive(uint32_t barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

__device__ __forceinline__ void store_matrices(uint32_t at, const uint32_t (&m)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3]) : "memory");
}

__device__ __forceinline__ void store_matrices_turned(uint32_t at, const uint32_t (&m)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3])
                 : "memory");
}

// threadIdx.x, asked for again: what is made of it is not kept in registers all along.
__device__ __forceinline__ int thread_again()
{
    int t;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(t));
    return t;
}

// Of four lanes with four words each: word k of lane q goes to lane k, as its word q.
__device__ __forceinline__ void turn_quad(uint32_t (&r)[4], int lane)
{
    const bool odd = lane & 1, high = lane & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? r[i] : r[i + 1], 1);
        if (odd)
            r[i] = got;
        else
            r[i + 1] = got;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t got = __shfl_xor_sync(0xffffffffu, high ? r[i] : r[i + 2], 2);
        if (high)
            r[i] = got;
        else
            r[i + 2] = got;
    }
}

// A group's 64 rows of results, times by0 (rows lane / 4 of each warp) and by1 (those + 8), to the first `rows` rows of x.
__device__ __forceinline__ void store_block(bf16 *x, int64_t stride, int rows, const float (&d)[8][4], float by0, float by1)
{
    const int thread = thread_again(), lane = thread % 32, row = thread % GROUP / 32 * 16 + lane / 4;
    bf16 *to = x + row * stride + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int g = 0; g < 2; g++) {
            const float by = i ? by1 : by0;
            uint32_t r[4];
#pragma unroll
            for (int j = 0; j < 4; j++) r[j] = pack(d[4 * g + j][2 * i] * by, d[4 * g + j][2 * i + 1] * by);
            turn_quad(r, lane);
            if (row + 8 * i < rows) *(uint4 *)(to + 8 * i * stride + 32 * g) = make_uint4(r[0], r[1], r[2], r[3]);
        }
}

// What all lanes of a warp have, said so that the compiler knows.
__device__ __forceinline__ int same(int v)
{
    return __shfl_sync(0xffffffffu, v, 0);
}

// A block's way through heads of sequences, `PER` blocks of keys at a time. Whole warps go it.
template <int PER> struct key_passes {
    int item, pass;
    int first, T, whole; // of the item: its first row, its rows, its whole blocks

    __device__ __forceinline__ void settle(const shape_of_work &x)
    {
        pass = 0;
        for (; item < x.items(); item += (int)gridDim.x) {
            const int s = item / x.H;
            if (x.uniform > 0) {
                T = x.uniform;
                first = s * T;
            } else {
                first = same(x.offsets[s]);
                T = same(x.offsets[s + 1]) - first;
            }
            whole = T > BLOCK && T % BLOCK <= TAIL ? T / BLOCK : (T + BLOCK - 1) / BLOCK;
            if (T > 0) return;
        }
    }
    __device__ __forceinline__ void start(const shape_of_work &x)
    {
        item = (int)blockIdx.x;
        settle(x);
    }
    __device__ __forceinline__ bool more(const shape_of_work &x) const
    {
        return item < x.items();
    }
    __device__ __forceinline__ bool last() const
    {
        return (pass + 1) * PER >= whole;
    }
    __device__ __forceinline__ void advance(const shape_of_work &x)
    {
        if (!last()) {
            pass++;
            return;
        }
        item += (int)gridDim.x;
        settle(x);
    }
    __device__ __forceinline__ int begin() const // first key, in the sequence
    {
        return pass * PER * BLOCK;
    }
    __device__ __forceinline__ int blocks() const
    {
        return min(PER, whole - pass * PER);
    }
    __device__ __forceinline__ int tail() const
    {
        return last() ? max(T - whole * BLOCK, 0) : 0;
    }
    __device__ __forceinline__ int tiles() const
    {
        return (T + BLOCK - 1) / BLOCK;
    }
};

#endif
#endif

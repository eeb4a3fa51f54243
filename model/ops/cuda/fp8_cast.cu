/*
 * fp8_cast.cu - bf16 to eight bits, as it lies and turned, with its largest number, in one pass: see fp8.cuh.
 *
 * A block takes a tile of 128 x 128. A thread reads eight numbers of a row at a time and writes them as eight bytes; the
 * same bytes go to shared memory, where words of four columns lie so that neither way has two threads at one bank: word w
 * of row n at w ^ 4 (n / 16 mod 8). From there a thread takes a word of sixteen rows and turns it, four by four, into
 * sixteen rows of each of four columns: a piece of a line of the transpose. Eight threads write its 128 bytes.
 */
#include "model/ops/cuda/fp8.cuh"

#include <cuda_fp8.h>

enum {
    TILE = 128,
    WORDS = TILE / 4,
    EIGHTS = TILE / 8,
    LINES = THREADS / EIGHTS,
    READS = TILE / LINES
};
static const uint32_t NOT_FINITE = 0x7f80; // of bf16 without its sign: inf, and NaN above it

// Of two packed numbers each: the larger without sign.
__device__ __forceinline__ uint32_t larger2(uint32_t top, uint32_t pair)
{
    return __vmaxu2(top, pair & 0x7fff7fffu);
}

__device__ __forceinline__ uint32_t largest8(uint4 v)
{
    const uint32_t top = larger2(larger2(larger2(larger2(0, v.x), v.y), v.z), v.w);
    return top >> 16 > (top & 0xffffu) ? top >> 16 : top & 0xffffu;
}

// inf becomes NaN: in eight bits it would be a number like others.
__device__ __forceinline__ uint32_t without_inf(uint32_t pair)
{
    if ((pair & 0x7fffu) == NOT_FINITE) pair |= 1u;
    if ((pair >> 16 & 0x7fffu) == NOT_FINITE) pair |= 1u << 16;
    return pair;
}

template <int KIND> __device__ __forceinline__ uint32_t eight_bits(uint32_t pair, float scale)
{
    const float2 v = make_float2(__uint_as_float(pair << 16) * scale,
                                 __uint_as_float(pair & 0xffff0000u) * scale);
    return __nv_cvt_float2_to_fp8x2(v, __NV_SATFINITE, KIND == PC_E4M3 ? __NV_E4M3 : __NV_E5M2);
}

template <int KIND> __device__ __forceinline__ uint2 eight_bits8(uint4 v, uint32_t top, float scale)
{
    if (top >= NOT_FINITE)
        v = make_uint4(without_inf(v.x), without_inf(v.y), without_inf(v.z), without_inf(v.w));
    return make_uint2(eight_bits<KIND>(v.x, scale) | eight_bits<KIND>(v.y, scale) << 16,
                      eight_bits<KIND>(v.z, scale) | eight_bits<KIND>(v.w, scale) << 16);
}

// The largest of a block's `top` into *largest.
__device__ __forceinline__ void note_largest(int *largest, uint32_t top)
{
    __shared__ uint32_t tops[THREADS / 32];
    top = __reduce_max_sync(0xffffffffu, top);
    if ((threadIdx.x & 31) == 0) tops[threadIdx.x >> 5] = top;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int i = 1; i < THREADS / 32; i++) top = tops[i] > top ? tops[i] : top;
    const int bits = (int)(top << 16);
    if (bits > *(volatile int *)largest) atomicMax(largest, bits);
}

// Bytes of four rows and four columns: out[c] holds column c's, the first row lowest.
__device__ __forceinline__ void turn4(uint32_t *out, const uint32_t *row)
{
    const uint32_t a = __byte_perm(row[0], row[1], 0x5140), b = __byte_perm(row[2], row[3], 0x5140);
    const uint32_t c = __byte_perm(row[0], row[1], 0x7362), d = __byte_perm(row[2], row[3], 0x7362);
    out[0] = __byte_perm(a, b, 0x5410), out[1] = __byte_perm(a, b, 0x7632);
    out[2] = __byte_perm(c, d, 0x5410), out[3] = __byte_perm(c, d, 0x7632);
}

template <int KIND, bool ROWS, bool TURNED>
__global__ void __launch_bounds__(THREADS)
    cast(unsigned char *rows, unsigned char *turned, int *largest, const bf16 *x, int64_t xs,
         int64_t N, int64_t C, int64_t M, const float *scale)
{
    __shared__ uint32_t tile[TURNED ? TILE * WORDS : 1];
    const int64_t n0 = blockIdx.x * (int64_t)TILE, c0 = blockIdx.y * (int64_t)TILE;
    const int line = threadIdx.x / EIGHTS, eight = threadIdx.x % EIGHTS;
    const int64_t c = c0 + 8 * eight;
    const float by = *scale;
    uint32_t top = 0;
    uint4 v[READS];
#pragma unroll
    for (int i = 0; i < READS; i++) {
        const int64_t n = n0 + line + i * LINES;
        v[i] = n < N && c < C ? *(const uint4 *)(x + n * xs + c) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < READS; i++) {
        const int n = line + i * LINES;
        const uint32_t own = largest8(v[i]);
        const uint2 bytes = eight_bits8<KIND>(v[i], own, by);
        top = own > top ? own : top;
        if (ROWS && n0 + n < N && c < C) *(uint2 *)(rows + (n0 + n) * C + c) = bytes;
        if (TURNED) *(uint2 *)(tile + n * WORDS + ((2 * eight) ^ ((n / 16) % 8 * 4))) = bytes;
    }
    note_largest(largest, top); // has all threads meet
    if (!TURNED) return;

    const int sixteen = threadIdx.x % 8, word = threadIdx.x / 8;
    const int64_t n = n0 + 16 * sixteen, column = c0 + 4 * word;
    if (n >= M || column >= C) return;
    uint32_t out[4][4]; // of a column its four words
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t in[4], four[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            in[k] = tile[(16 * sixteen + 4 * i + k) * WORDS + (word ^ (sixteen * 4))];
        turn4(four, in);
#pragma unroll
        for (int k = 0; k < 4; k++) out[k][i] = four[k];
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        *(uint4 *)(turned + (column + k) * M + n) =
            make_uint4(out[k][0], out[k][1], out[k][2], out[k][3]);
}

static void check(pc_tensor x)
{
    PC_ASSERT(x.dtype == PC_BF16 && x.rank == 2 && by_eights(x) && x.dim[1] % 16 == 0,
              "a %s of rank %d, %lld wide, in eight bits", pc_dtype_name(x.dtype), x.rank,
              (long long)x.dim[1]);
}

void pc_cuda_fp8_cast(void *rows, void *turned, int *largest, pc_tensor x, const float *scale,
                      pc_fp8_kind kind)
{
    check(x);
    const int64_t N = x.dim[0], C = x.dim[1];
    if (N == 0 || C == 0) return;
    const dim3 blocks(blocks_for(N, TILE), blocks_for(C, TILE));
#define CAST(KIND, ROWS, TURNED)                                                                   \
    LAUNCH((cast<KIND, ROWS, TURNED>), blocks, THREADS, 0, (unsigned char *)rows,                  \
           (unsigned char *)turned, largest, (const bf16 *)x.data, x.stride, N, C, pc_fp8_turned(N),  \
           scale)
#define CASTS(KIND)                                                                                \
    do {                                                                                           \
        if (rows && turned)                                                                        \
            CAST(KIND, true, true);                                                                \
        else if (turned)                                                                           \
            CAST(KIND, false, true);                                                               \
        else                                                                                       \
            CAST(KIND, true, false);                                                               \
    } while (0)
    if (kind == PC_E4M3)
        CASTS(PC_E4M3);
    else
        CASTS(PC_E5M2);
}

__global__ void __launch_bounds__(THREADS)
    find_largest(int *largest, const bf16 *x, int64_t xs, int64_t N, int64_t eights)
{
    uint32_t top = 0;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < N * eights;
         i += (int64_t)gridDim.x * THREADS) {
        const int64_t n = i / eights;
        const uint32_t own = largest8(*(const uint4 *)(x + n * xs + 8 * (i - n * eights)));
        top = own > top ? own : top;
    }
    note_largest(largest, top);
}

void pc_cuda_fp8_largest(int *largest, pc_tensor x)
{
    check(x);
    const int64_t N = x.dim[0], eights = x.dim[1] / 8, most = 2048;
    const int64_t blocks = blocks_for(N * eights);
    LAUNCH(find_largest, (unsigned)(blocks < most ? blocks : most), THREADS, 0, largest,
           (const bf16 *)x.data, x.stride, N, eights);
}

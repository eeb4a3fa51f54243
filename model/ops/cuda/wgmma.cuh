/*
 * wgmma.cuh - Hopper's warpgroup products by size: 64 rows, N columns, 16 deep, bf16 into f32.
 *
 * d[j] holds, of the eight columns from 8 j, what one mma.m16n8 would: two of row lane / 4, two of that row + 8; warp w of the
 * group has rows 16 w and on. `both`: A and B from shared memory, rows along the depth. `left`: A from registers, as
 * mma.m16n8k16 has it, B with its rows along the columns. Written out once a size: the number of registers is part of the
 * instruction.
 */
#ifndef PC_OPS_CUDA_WGMMA_CUH
#define PC_OPS_CUDA_WGMMA_CUH

#include <stdint.h>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

#define FOUR(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
// clang-format off

__device__ __forceinline__ void wgmma_both_16(float (*d)[4], uint64_t a, uint64_t b, int keep)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %10, 0;"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7"
                 "}, %8, %9, p, 1, 1, 0, 0;}"
                 : FOUR(0), FOUR(1)
                 : "l"(a), "l"(b), "r"(keep));
}

__device__ __forceinline__ void wgmma_left_16(float (*d)[4], const uint32_t *a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7"
                 "}, {%8, %9, %10, %11}, %12, 1, 1, 1, 1;"
                 : FOUR(0), FOUR(1)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void wgmma_both_32(float (*d)[4], uint64_t a, uint64_t b, int keep)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %18, 0;"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
                 "}, %16, %17, p, 1, 1, 0, 0;}"
                 : FOUR(0), FOUR(1), FOUR(2), FOUR(3)
                 : "l"(a), "l"(b), "r"(keep));
}

__device__ __forceinline__ void wgmma_left_32(float (*d)[4], const uint32_t *a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
                 "}, {%16, %17, %18, %19}, %20, 1, 1, 1, 1;"
                 : FOUR(0), FOUR(1), FOUR(2), FOUR(3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void wgmma_both_64(float (*d)[4], uint64_t a, uint64_t b, int keep)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0;"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, %32, %33, p, 1, 1, 0, 0;}"
                 : FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7)
                 : "l"(a), "l"(b), "r"(keep));
}

__device__ __forceinline__ void wgmma_left_64(float (*d)[4], const uint32_t *a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void wgmma_both_128(float (*d)[4], uint64_t a, uint64_t b, int keep)
{
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0;"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p, 1, 1, 0, 0;}"
                 : FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7), FOUR(8), FOUR(9), FOUR(10), FOUR(11), FOUR(12), FOUR(13), FOUR(14), FOUR(15)
                 : "l"(a), "l"(b), "r"(keep));
}

__device__ __forceinline__ void wgmma_left_128(float (*d)[4], const uint32_t *a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7), FOUR(8), FOUR(9), FOUR(10), FOUR(11), FOUR(12), FOUR(13), FOUR(14), FOUR(15)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// clang-format on
#undef FOUR

template <int N> __device__ __forceinline__ void wgmma_both(float (*d)[4], uint64_t a, uint64_t b, int keep)
{
    if constexpr (N == 16) wgmma_both_16(d, a, b, keep);
    if constexpr (N == 32) wgmma_both_32(d, a, b, keep);
    if constexpr (N == 64) wgmma_both_64(d, a, b, keep);
    if constexpr (N == 128) wgmma_both_128(d, a, b, keep);
}

template <int N> __device__ __forceinline__ void wgmma_left(float (*d)[4], const uint32_t *a, uint64_t b)
{
    if constexpr (N == 16) wgmma_left_16(d, a, b);
    if constexpr (N == 32) wgmma_left_32(d, a, b);
    if constexpr (N == 64) wgmma_left_64(d, a, b);
    if constexpr (N == 128) wgmma_left_128(d, a, b);
}

#endif
#endif

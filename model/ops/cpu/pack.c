/*
 * pack.c - a thread's space for packed blocks (simd/product.h). It belongs to the thread, not to the
 * call, so that it stays in the thread's second-level cache from one product to the next.
 */
#include <stdalign.h>

#include "model/ops/cpu/simd/product.h"

static _Thread_local alignas(64) float space[PC_PACK_K * PC_PACK_N + PC_PACK_M * (PC_PACK_K + 16)];

float *pc_pack_space(void)
{
    return space;
}

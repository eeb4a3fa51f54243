/*
 * table_forward.c - pc_cpu_ops: the portable forward kernels, then what the instruction set does
 * better. Names no backward kernel: inference links this file and not table_backward.c.
 */
#include <pthread.h>

#include "model/ops/cpu/overlay.h"
#include "model/ops/cpu/portable.h"

#define SLOT_F32(name, args) .name##_forward = name##_forward_f32,
#define SLOT_F64(name, args) .name##_forward = name##_forward_f64,

static const pc_ops portable_f32 = {PC_OP_LIST(SLOT_F32, PC_NO_SLOT, PC_NO_SLOT)};
static const pc_ops portable_f64 = {PC_OP_LIST(SLOT_F64, PC_NO_SLOT, PC_NO_SLOT)};
static pc_ops tables[3]; // by pc_isa, as far as the processor goes; written once
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void)
{
    const pc_isa best = pc_isa_best();
    for (int isa = 0; isa <= (int)best; isa++) {
        tables[isa] = portable_f32;
#if PC_X86
        if (isa >= PC_ISA_AVX2) pc_avx2_overlay(&tables[isa]);
        if (isa >= PC_ISA_AVX512) pc_avx512_overlay(&tables[isa]);
#endif
    }
}

const pc_ops *pc_cpu_ops(pc_isa isa, pc_dtype type)
{
    PC_ASSERT(type == PC_F32 || type == PC_F64, "CPU kernels compute in f32 or f64, not %s",
              pc_dtype_name(type));
    if (type == PC_F64) return &portable_f64;
    PC_ASSERT(isa <= pc_isa_best(), "kernels for %s on a processor that goes up to %s",
              pc_isa_name(isa), pc_isa_name(pc_isa_best()));
    pthread_once(&once, fill);
    return &tables[isa];
}

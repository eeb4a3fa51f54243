/*
 * table_backward.c - pc_cpu_grad_ops: the portable backward and training kernels, then what the
 * instruction set does better. Only what trains links this file.
 */
#include <pthread.h>

#include "model/ops/cpu/overlay.h"
#include "model/ops/cpu/portable.h"

#define BACKWARD_F32(name, args) .name##_backward = name##_backward_f32,
#define BACKWARD_F64(name, args) .name##_backward = name##_backward_f64,
#define TRAIN_F32(name, args)    .name = name##_f32,
#define TRAIN_F64(name, args)    .name = name##_f64,

static const pc_grad_ops portable_f32 = {PC_OP_LIST(PC_NO_SLOT, BACKWARD_F32, TRAIN_F32)};
static const pc_grad_ops portable_f64 = {PC_OP_LIST(PC_NO_SLOT, BACKWARD_F64, TRAIN_F64)};
static pc_grad_ops tables[3]; // by pc_isa, as far as the processor goes; written once
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void)
{
    const pc_isa best = pc_isa_best();
    for (int isa = 0; isa <= (int)best; isa++) {
        tables[isa] = portable_f32;
#if PC_X86
        if (isa >= PC_ISA_AVX2) pc_avx2_overlay_grad(&tables[isa]);
        if (isa >= PC_ISA_AVX512) pc_avx512_overlay_grad(&tables[isa]);
#endif
    }
}

const pc_grad_ops *pc_cpu_grad_ops(pc_isa isa, pc_dtype type)
{
    PC_ASSERT(type == PC_F32 || type == PC_F64, "CPU kernels compute in f32 or f64, not %s",
              pc_dtype_name(type));
    if (type == PC_F64) return &portable_f64;
    PC_ASSERT(isa <= pc_isa_best(), "kernels for %s on a processor that goes up to %s",
              pc_isa_name(isa), pc_isa_name(pc_isa_best()));
    pthread_once(&once, fill);
    return &tables[isa];
}

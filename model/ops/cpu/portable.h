/*
 * portable.h - what every portable kernel file starts with.
 *
 * The files of portable/ compile twice: `real` is float, and with PC_REAL_F64 double, for gradient
 * checks. R(name) is name_f32 or name_f64; every operation of PC_OP_LIST is declared here under both,
 * so that the tables and the SIMD kernels (which hand rare shapes on) can name either.
 *
 *   portable.h        this file                      portable/NAME.c   one operation, both ways
 *   overlay.h         where AVX2 and AVX-512 come in  table_forward.c   pc_cpu_ops
 *   workspace.h       scratch a kernel takes          table_backward.c  pc_cpu_grad_ops
 *   gemm.h            the matrix product              isa.c             which instructions to use
 *   stored.h          matrices in the types of their files
 */
#ifndef PC_OPS_CPU_PORTABLE_H
#define PC_OPS_CPU_PORTABLE_H

#include "model/ops/ops.h"

#ifdef PC_REAL_F64
typedef double real;
#define R(name) name##_f64
#define PC_REAL PC_F64
#else
typedef float real;
#define R(name) name##_f32
#define PC_REAL PC_F32
#endif

#define pc_gemm R(pc_gemm) // gemm.h
#define pc_exp  R(pc_exp)  // portable_math.h

#define PC_DECLARE_FORWARD(name, args)                                                             \
    void name##_forward_f32 args;                                                                  \
    void name##_forward_f64 args;
#define PC_DECLARE_BACKWARD(name, args)                                                            \
    void name##_backward_f32 args;                                                                 \
    void name##_backward_f64 args;
#define PC_DECLARE_TRAIN(name, args)                                                               \
    void name##_f32 args;                                                                          \
    void name##_f64 args;
PC_OP_LIST(PC_DECLARE_FORWARD, PC_DECLARE_BACKWARD, PC_DECLARE_TRAIN)

// Row n of a tensor, whatever lies below dim[0].
static inline real *pc_row(pc_tensor x, int64_t n)
{
    return (real *)x.data + n * x.stride;
}

// A row loop is cut into pieces of at least this many elements: less is not worth a thread.
#define PC_GRAIN_ELEMENTS 16384

static inline int64_t pc_row_grain(int64_t elements_per_row)
{
    if (elements_per_row < 1) return PC_GRAIN_ELEMENTS;
    return elements_per_row >= PC_GRAIN_ELEMENTS ? 1 : PC_GRAIN_ELEMENTS / elements_per_row;
}

// A broken promise about sizes, with both sides in the message.
#define PC_SAME(what, a, b)                                                                        \
    PC_ASSERT((a) == (b), "%s: %lld and %lld", what, (long long)(a), (long long)(b))

static inline int64_t pc_min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t pc_max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif

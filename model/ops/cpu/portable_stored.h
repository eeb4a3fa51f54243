/*
 * portable_stored.h - products with matrices in the types of their files, for the portable kernels (portable/stored.c).
 */
#ifndef PC_OPS_CPU_PORTABLE_STORED_H
#define PC_OPS_CPU_PORTABLE_STORED_H

#include "model/ops/cpu/portable.h"
#include "model/ops/cpu/stored.h"

// y (N,O) = [y +] x (N,I) W^T, W (O,I) of `real` or stored; rows of y and x are ldy and ldx apart.
void R(pc_times_matrix)(pc_pool *pool, real *y, int64_t ldy, const real *x, int64_t ldx, int64_t N,
                        pc_tensor w, bool add);

// Numbers [k, k + n) of row `row` of a stored matrix. By the type of `real`, whatever names a kernel is compiled under.
#ifdef PC_REAL_F64
#define pc_widen_row pc_widen_row_f64
#else
#define pc_widen_row pc_widen_row_f32
#endif
void pc_widen_row(real *out, pc_tensor w, int64_t row, int64_t k, int64_t n);

#endif

/*
 * numbers.h - the floating types of files, widened and narrowed.
 *
 * One number at a time: model/core/quant.h. Widening is exact; narrowing rounds to nearest, ties to even, overflows to infinity. What was widened narrows to
 * the very bits it came from, NaNs included. Neither side need be aligned.
 */
#ifndef PC_CHECKPOINTS_NUMBERS_H
#define PC_CHECKPOINTS_NUMBERS_H

#include "model/core/tensor.h"

// Names as safetensors writes them: "F32", "BF16" ... False: not one of pc_dtype.
bool pc_dtype_from_text(pc_dtype *out, const char *text);
const char *pc_dtype_text(pc_dtype t);

// n numbers of f32, bf16 or f16 (widening takes f64 too, rounded).
void pc_widen(float *out, const void *in, pc_dtype t, int64_t n);
void pc_narrow(void *out, pc_dtype t, const float *in, int64_t n);

#endif

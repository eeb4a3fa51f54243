/*
 * stored.c - rows of stored matrices, in plain C (stored.h).
 */
#include "model/ops/cpu/stored.h"

#include <string.h>

#include "model/core/quant.h"

void pc_stored_row(float *out, pc_dtype t, const void *row, int64_t k, int64_t n)
{
    const int id = pc_dtype_quant(t);
    const unsigned char *from = (const unsigned char *)row + pc_dtype_bytes(t, k);
    PC_ASSERT(id >= 0, "a matrix of %s", pc_dtype_name(t));
    if (t == PC_F32)
        memcpy(out, from, (size_t)n * sizeof *out);
    else
        pc_quant_decode(pc_quant_find(id), out, from, n);
}

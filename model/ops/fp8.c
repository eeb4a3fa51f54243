/*
 * fp8.c - see fp8.h.
 */
#include "model/ops/fp8.h"

#include "model/core/memory.h"

pc_fp8_matrix *pc_fp8_find(const pc_fp8 *f, pc_tensor w, int64_t *first)
{
    int low = 0, high = f->count; // the last whose address is not above w's
    while (low < high) {
        const int middle = (low + high) / 2;
        if ((uintptr_t)f->list[middle].w.data <= (uintptr_t)w.data)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || w.rank != 2) return NULL;
    pc_fp8_matrix *m = &f->list[low - 1];
    const uintptr_t past = (uintptr_t)w.data - (uintptr_t)m->w.data;
    const size_t row = (size_t)m->w.dim[1] * pc_dtype_size(m->w.dtype);
    *first = (int64_t)(past / row);
    const bool rows = w.dtype == m->w.dtype && w.dim[1] == m->w.dim[1] && past % row == 0 &&
                      *first + w.dim[0] <= m->w.dim[0];
    return rows && *first % PC_FP8_LEAST == 0 ? m : NULL;
}

static size_t rounded(int64_t bytes)
{
    return ((size_t)bytes + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN;
}

size_t pc_fp8_room(int64_t N, int64_t I)
{
    return rounded(N * I);
}

size_t pc_fp8_gradient_room(int64_t N, int64_t I, int64_t O, bool dx, bool dw)
{
    const int64_t M = pc_fp8_turned(N);
    return (dx ? rounded(N * O) : 0) + (dw ? rounded(O * M) + rounded(I * M) : 0);
}

/*
 * fp8.cu - products in eight bits: the operands of a matrix, cast and scaled; its scales from step to step. See ops/fp8.h.
 */
#include "model/ops/cuda/fp8.cuh"

#include <float.h>

// Where the numbers of a type end: 1.75 times two to this.
__device__ __forceinline__ int top_of(int operand)
{
    return operand == PC_FP8_DY ? 15 : 8;
}

// The largest power of two that keeps `largest` within the type; of zero and of what is not finite, some.
__device__ __forceinline__ void set_scale(float *scale, float *inverse, float largest, int top)
{
    const int bits = __float_as_int(largest), above = (bits & 0x7fffff) > 0x600000;
    int e = top - ((bits >> 23) - 127) - above;
    e = e > 60 ? 60 : e < -60 ? -60 : e;
    *scale = __int_as_float((127 + e) << 23);
    *inverse = __int_as_float((127 - e) << 23);
}

__global__ void scale_by(float *scale, float *inverse, const int32_t *largest, int top)
{
    set_scale(scale, inverse, __int_as_float(*largest), top);
}

// The step's largest numbers in front of the others, and scales by all of them. Zero is kept as the least above it: a zero
// says that there is none. What was not finite is left out, as its step is.
__global__ void next(float *history, float *scale, float *inverse, int32_t *largest, int count)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float *h = history + (int64_t)i * PC_FP8_HISTORY, now = __int_as_float(largest[i]), top = 0.0f;
    if (largest[i] >= 0 && now <= FLT_MAX) {
        for (int k = PC_FP8_HISTORY - 1; k > 0; k--) h[k] = h[k - 1];
        h[0] = fmaxf(now, FLT_MIN);
    }
    largest[i] = -1;
    for (int k = 0; k < PC_FP8_HISTORY; k++) top = fmaxf(top, h[k]);
    if (top > 0.0f) set_scale(scale + i, inverse + i * PC_FP8_APART, top, top_of(i % PC_FP8_OPERANDS));
}

extern "C" void pc_cuda_fp8_next(pc_fp8 *f)
{
    const int count = PC_FP8_OPERANDS * f->count;
    if (count == 0) return;
    LAUNCH(next, blocks_for(count), THREADS, 0, f->history, f->scale, f->inverse, f->largest, count);
    for (int i = 0; i < f->count; i++) {
        pc_fp8_matrix *m = &f->list[i];
        if (!m->frozen) m->made = false;
        for (int k = 0; k < PC_FP8_OPERANDS; k++) {
            if (k == PC_FP8_W && m->frozen) continue;
            m->seen[k] = m->seen[k] || m->used[k];
            m->used[k] = false;
        }
    }
}

static const float *cast(pc_fp8 *f, pc_fp8_matrix *m, pc_fp8_operand operand, void *rows, void *turned, pc_tensor x)
{
    const int64_t at = PC_FP8_OPERANDS * (m - f->list) + operand;
    const pc_fp8_kind kind = operand == PC_FP8_DY ? PC_E5M2 : PC_E4M3;
    if (!m->seen[operand]) {
        CHECK_CUDA(cudaMemsetAsync(f->probe, 0, sizeof *f->probe, pc_cuda_stream));
        pc_cuda_fp8_largest(f->probe, x);
        LAUNCH(scale_by, 1, 1, 0, f->scale + at, f->inverse + at * PC_FP8_APART, f->probe, operand == PC_FP8_DY ? 15 : 8);
    }
    m->used[operand] = true;
    const bool kept = operand == PC_FP8_W && m->frozen;
    pc_cuda_fp8_cast(rows, turned, kept ? f->probe : f->largest + at, x, f->scale + at, kind);
    return f->inverse + at * PC_FP8_APART;
}

static const float *weights(pc_fp8 *f, pc_fp8_matrix *m)
{
    const int64_t at = PC_FP8_OPERANDS * (m - f->list) + PC_FP8_W;
    if (!m->made) cast(f, m, PC_FP8_W, m->rows, m->turned, m->w);
    m->made = true;
    return f->inverse + at * PC_FP8_APART;
}

static pc_fp8_matrix *matrix_of(const pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor w, int64_t *first)
{
    const bool fits = ctx->fp8 && x.dtype == PC_BF16 && y.dtype == PC_BF16 && by_eights(x) && by_eights(y) &&
                      pc_fp8_fits(x.dim[0], w.dim[1], w.dim[0]);
    return fits ? pc_fp8_find(ctx->fp8, w, first) : NULL;
}

bool pc_cuda_fp8_operands(pc_ctx *ctx, fp8_rows *x8, fp8_rows *w8, pc_tensor y, pc_tensor x, pc_tensor w)
{
    int64_t first;
    pc_fp8_matrix *m = matrix_of(ctx, y, x, w, &first);
    if (!m) return false;
    const int64_t N = x.dim[0], I = x.dim[1];
    void *cast_x = pc_arena_numbers(ctx->scratch, pc_fp8_room(N, I));
    *w8 = fp8_rows{m->rows + first * I, I, CUDA_R_8F_E4M3, weights(ctx->fp8, m)};
    *x8 = fp8_rows{cast_x, I, CUDA_R_8F_E4M3, cast(ctx->fp8, m, PC_FP8_X, cast_x, NULL, x)};
    return true;
}

bool pc_cuda_fp8_gradients(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor dy, pc_tensor x, pc_tensor w, bool fresh)
{
    int64_t first;
    const pc_tensor in = pc_present(dw) ? x : dx;
    pc_fp8_matrix *m = matrix_of(ctx, dy, in, w, &first);
    if (!m || !by_eights(dx) || (pc_present(dx) && dx.dtype != PC_BF16)) return false;
    pc_fp8 *f = ctx->fp8;
    const int64_t N = dy.dim[0], I = w.dim[1], O = w.dim[0], M = pc_fp8_turned(N);
    const size_t across = pc_fp8_room(N, O);
    void *rows = pc_present(dx) ? pc_arena_numbers(ctx->scratch, across) : NULL;
    void *turned = pc_present(dw) ? pc_arena_numbers(ctx->scratch, pc_fp8_room(O, M)) : NULL;
    void *turned_x = pc_present(dw) ? pc_arena_numbers(ctx->scratch, pc_fp8_room(I, M)) : NULL;
    const float *inverse = cast(f, m, PC_FP8_DY, rows, turned, dy);
    bool done = true;
    if (pc_present(dx)) {
        const fp8_rows dy8 = {rows, O, CUDA_R_8F_E5M2, inverse};
        const fp8_rows w8 = {m->turned + first, m->w.dim[0], CUDA_R_8F_E4M3, weights(f, m)};
        done = pc_cuda_fp8_product(dx, &dy8, &w8, O, true, false);
    }
    if (pc_present(dw) && done) {
        const fp8_rows dy8 = {turned, M, CUDA_R_8F_E5M2, inverse};
        const fp8_rows x8 = {turned_x, M, CUDA_R_8F_E4M3, cast(f, m, PC_FP8_X, NULL, turned_x, x)};
        done = pc_cuda_fp8_product(dw, &dy8, &x8, M, fresh, false);
    }
    return done; // else all of it goes as without: dx is written again
}

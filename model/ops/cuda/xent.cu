/*
 * xent.cu - cross-entropy fused with the output projection, in chunks of rows: logits (M,V) of a whole batch are never
 * stored. Formulas: ops.h. Rows without a label are left out of the products: the host, which knows the labels, lists
 * the others.
 *
 * Logits are f32. Their gradient, in the type of the rows, is kept for more rows than they are: dW is read and written
 * once for as many. Where it is as wide as they are, in f32, it lies in their place.
 */
#include "model/ops/cuda/decode.cuh"

enum { LOGITS = 128 << 20, GRADIENTS = 256 << 20 }; // bytes

template <int VEC> __device__ __forceinline__ void get_logits(float *v, const float *p)
{
    if (VEC == 8)
        get8(v, p);
    else
        v[0] = p[0];
}

/*
 * Row i of the chunk: nll[row], and coef (softmax - onehot) to dz, which may lie over z. Logits are read once for their
 * log-sum-exp and once for the gradient.
 */
template <class T, int VEC>
__global__ void __launch_bounds__(1024) softmax_rows(float *nll, T *dz, const float *z, int64_t V, const int32_t *rows, const int32_t *labels, const float *coef)
{
    __shared__ exp_sum space[32];
    const int64_t i = blockIdx.x, n = rows[i];
    const int32_t label = labels[i];
    const float *in = z + i * V;
    const float at_label = in[label];
    exp_sum all = {-INFINITY, 0.0f};
    bool broken = false; // a logit that is no number: the maximum would not notice
    for (int64_t c = threadIdx.x * VEC; c < V; c += blockDim.x * VEC) {
        float v[VEC], top = all.top, sum = 0.0f;
        get_logits<VEC>(v, in + c);
        for (int k = 0; k < VEC; k++) {
            top = fmaxf(top, v[k]);
            broken |= v[k] != v[k];
        }
        if (top == -INFINITY) continue;
        for (int k = 0; k < VEC; k++) sum += sizeof(T) == 2 ? __expf(v[k] - top) : expf(v[k] - top);
        all.sum = all.sum * expf(all.top - top) + sum;
        all.top = top;
    }
    if (broken) all.sum = NAN;
    all = block_joined(all, space);
    const float lse = all.top + logf(all.sum);
    if (threadIdx.x == 0) nll[n] = lse - at_label;
    if (!dz) return;
    const float by = coef[n];
    for (int64_t c = threadIdx.x * VEC; c < V; c += blockDim.x * VEC) {
        float v[VEC];
        get_logits<VEC>(v, in + c);
        for (int k = 0; k < VEC; k++)
            v[k] = by * ((sizeof(T) == 2 ? __expf(v[k] - lse) : expf(v[k] - lse)) - (c + k == label ? 1.0f : 0.0f));
        if (VEC == 8)
            put8(dz + i * V + c, v);
        else
            put(dz, i * V + c, v[0]);
    }
}

static size_t rounded_up(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static int64_t rows_in(int64_t bytes, int64_t row)
{
    return bytes / row < 16 ? 16 : bytes / row;
}

// The size of the parts when n rows go by at most `most` at a time, and all parts are about as large.
static int64_t even(int64_t n, int64_t most)
{
    const int64_t parts = (n + most - 1) / most;
    return (n + parts - 1) / parts;
}

static void run(pc_ctx *ctx, bool backward, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x, pc_tensor w, pc_tensor labels,
                pc_tensor coef)
{
    const int64_t N = x.dim[0], C = x.dim[1], V = w.dim[0];
    const size_t size = pc_dtype_size(x.dtype);
    // The rows that have a label; behind them these labels.
    int32_t *rows = (int32_t *)pc_cuda_staged((size_t)(2 * N + 1) * sizeof *rows);
    int64_t M = 0;
    for (int64_t n = 0; n < N; n++)
        if (pc_i32(labels)[n] >= 0) rows[M++] = (int32_t)n;
    for (int64_t i = 0; i < M; i++) rows[M + i] = pc_i32(labels)[rows[i]];
    CHECK_CUDA(cudaMemsetAsync(nll.data, 0, (size_t)N * sizeof(float), pc_cuda_stream));
    if (pc_present(dx) && M < N) cuda_zero_forward(ctx, dx);
    if (M == 0) return;
    if (!backward && w.dtype != x.dtype) w = pc_cuda_widened(w, 0, V, x.dtype);

    // Chunks of R rows, as even as can be; within them parts of P rows, whose logits are there at one time.
    const bool over = !backward || size == sizeof(float); // the gradient lies over the logits, or there is none
    const int64_t room = rows_in(pc_cuda_chunk(LOGITS), V * (int64_t)sizeof(float)),
                  wide = over ? room : rows_in(pc_cuda_chunk(GRADIENTS), V * (int64_t)size);
    const int64_t R = even(M, wide), P = even(R, room);
    // Room for N labels, whatever there are: it does not grow from step to step.
    const int64_t P_most = N < room ? N : room, R_most = N < wide ? N : wide;
    const size_t logits = rounded_up((size_t)(P_most * V) * sizeof(float)), gradients = over ? 0 : rounded_up((size_t)(R_most * V) * size);
    const size_t picked = rounded_up((size_t)(R_most * C) * size);
    unsigned char *space = (unsigned char *)pc_cuda_workspace(logits + gradients + 2 * picked);
    float *z = (float *)space;
    unsigned char *dz = gradients ? space + logits : space, *xs = space + logits + gradients, *dxs = xs + picked;
    const bool eights = V % 8 == 0; // rows of z and dz are aligned then
    const int threads = V >= 4096 ? 1024 : 256;
    for (int64_t first = 0; first < M; first += R) {
        const int64_t m = M - first < R ? M - first : R;
        const int32_t *list = (const int32_t *)pc_cuda_mirror(rows + first, (size_t)m * sizeof(int32_t));
        const int32_t *wanted = (const int32_t *)pc_cuda_mirror(rows + M + first, (size_t)m * sizeof(int32_t));
        pc_tensor index = labels;
        index.data = rows + first;
        index.dim[0] = m;
        cuda_gather_forward(ctx, pc_view2(xs, x.dtype, m, C), x, index);
        for (int64_t part = 0; part < m; part += P) {
            const int64_t p = m - part < P ? m - part : P;
            unsigned char *to = dz + (gradients ? (size_t)(part * V) * size : 0);
            pc_cuda_product(false, true, p, V, C, 1.0f, xs + (size_t)(part * C) * size, C, w.data, w.stride, 0.0f, z, V, x.dtype, PC_F32);
#define SOFTMAX(VEC)                                                                               \
    LAUNCH((softmax_rows<T, VEC>), (unsigned)p, threads, 0, (float *)nll.data, backward ? (T *)to : (T *)NULL, z, V, list + part,      \
           wanted + part, (const float *)coef.data)
            BY_TYPE(x, if (eights) SOFTMAX(8); else SOFTMAX(1));
        }
        if (pc_present(dx)) {
            pc_cuda_product(false, false, m, C, V, 1.0f, dz, V, w.data, w.stride, 0.0f, dxs, C, x.dtype, x.dtype);
            cuda_splice_forward(ctx, dx, pc_view2(dxs, x.dtype, m, C), index);
        }
        if (pc_present(dw))
            pc_cuda_product(true, false, V, C, m, 1.0f, dz, V, xs, C, 1.0f, dw.data, dw.stride, x.dtype, dw.dtype);
    }
}

void cuda_linear_xent_forward(pc_ctx *ctx, pc_tensor nll, pc_tensor x, pc_tensor w, pc_tensor labels)
{
    run(ctx, false, PC_NONE, PC_NONE, nll, x, w, labels, PC_NONE);
}

void cuda_linear_xent_backward(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x, pc_tensor w, pc_tensor labels,
                               pc_tensor coef)
{
    run(ctx, true, dx, dw, nll, x, w, labels, coef);
}

/*
 * xent.cu - cross-entropy fused with the output projection, in chunks of rows: logits (M,V) of a whole batch are never
 * stored. Formulas: ops.h. Rows without a label are left out of the products: the host, which knows the labels, lists
 * the others.
 */
#include "model/ops/cuda/device.cuh"

enum { CHUNK_BYTES = 256 << 20 };

// Row i of the chunk: nll[row], and in place of the logits coef (softmax - onehot) in the type of the rows.
template <class T>
__global__ void softmax_rows(float *nll, T *dz, const float *z, int64_t V, const int32_t *rows, const int32_t *labels, const float *coef)
{
    __shared__ float space[32];
    const int64_t i = blockIdx.x, n = rows[i];
    const int32_t label = labels[n];
    const float *in = z + i * V;
    float top = -INFINITY, sum = 0.0f;
    for (int64_t c = threadIdx.x; c < V; c += blockDim.x) top = fmaxf(top, in[c]);
    top = block_max(top, space);
    for (int64_t c = threadIdx.x; c < V; c += blockDim.x) sum += expf(in[c] - top);
    sum = block_sum(sum, space);
    const float lse = top + logf(sum);
    if (threadIdx.x == 0) nll[n] = lse - in[label];
    if (!dz) return;
    const float by = coef[n];
    __syncthreads(); // dz may lie over in
    for (int64_t c = threadIdx.x; c < V; c += blockDim.x)
        put(dz, i * V + c, by * (expf(in[c] - lse) - (c == label ? 1.0f : 0.0f)));
}

template <class T> __global__ void pick_rows(T *to, const T *x, int64_t xs, const int32_t *rows, int64_t C)
{
    const int64_t i = blockIdx.x, n = rows[i];
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) to[i * C + c] = x[n * xs + c];
}

template <class T> __global__ void put_rows(T *x, int64_t xs, const T *from, const int32_t *rows, int64_t C)
{
    const int64_t i = blockIdx.x, n = rows[i];
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) x[n * xs + c] = from[i * C + c];
}

static size_t rounded_up(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static void run(pc_ctx *ctx, bool backward, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x, pc_tensor w, pc_tensor labels,
                pc_tensor coef)
{
    const int64_t N = x.dim[0], C = x.dim[1], V = w.dim[0];
    int32_t *rows = (int32_t *)pc_cuda_staged((size_t)(N + 1) * sizeof *rows);
    int64_t M = 0;
    for (int64_t n = 0; n < N; n++)
        if (pc_i32(labels)[n] >= 0) rows[M++] = (int32_t)n;
    CHECK_CUDA(cudaMemsetAsync(nll.data, 0, (size_t)N * sizeof(float), pc_cuda_stream));
    if (pc_present(dx)) cuda_zero_forward(ctx, dx);
    if (M == 0) return;

    const size_t size = pc_dtype_size(x.dtype);
    int64_t R = CHUNK_BYTES / (V * (int64_t)sizeof(float));
    R = R < 16 ? 16 : R > M ? M : R;
    // Logits; their gradient behind them, or in their place when it is as wide; rows picked, and their gradient.
    const size_t logits = rounded_up((size_t)(R * V) * sizeof(float)), picked = rounded_up((size_t)(R * C) * size);
    const size_t narrow = size == 2 && backward ? rounded_up((size_t)(R * V) * size) : 0;
    unsigned char *space = (unsigned char *)pc_cuda_workspace(logits + narrow + 2 * picked);
    float *z = (float *)space;
    unsigned char *dz = narrow ? space + logits : space, *xs = space + logits + narrow, *dxs = xs + picked;
    const int threads = V >= 4096 ? 1024 : 256;
    for (int64_t first = 0; first < M; first += R) {
        const int64_t m = M - first < R ? M - first : R;
        const int32_t *list = rows + first;
        BY_TYPE(x,
            LAUNCH(pick_rows<T>, (unsigned)m, 256, 0, (T *)xs, (const T *)x.data, x.stride, list, C);
            pc_cuda_product(false, true, m, V, C, 1.0f, xs, C, w.data, w.stride, 0.0f, z, V, x.dtype, PC_F32);
            LAUNCH(softmax_rows<T>, (unsigned)m, threads, 0, (float *)nll.data, backward ? (T *)dz : (T *)NULL, z, V, list,
                   pc_i32(labels), (const float *)coef.data));
        if (pc_present(dx)) {
            pc_cuda_product(false, false, m, C, V, 1.0f, dz, V, w.data, w.stride, 0.0f, dxs, C, x.dtype, x.dtype);
            BY_TYPE(x, LAUNCH(put_rows<T>, (unsigned)m, 256, 0, (T *)dx.data, dx.stride, (const T *)dxs, list, C));
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

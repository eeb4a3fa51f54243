/*
 * rows.cu - rows picked, put, added, scaled, dropped. Formulas: ops.h.
 *
 * Where rows meet in one row of the result (embedding, add_rows, gather backward), the first that meets there adds
 * them all up, in row order: the same bits every time, and no atomics.
 */
#include "model/ops/cuda/decode.cuh"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- one to one ----------------------------------------------------------------------------------

// y[n,c] = f(a[n,c], b[n,c]) for rows of C numbers that are strides apart.
template <class T, class F>
__global__ void each(T *y, int64_t ys, const T *a, int64_t as, const T *b, int64_t bs, int64_t n, int64_t C, F f)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / C, c = i - r * C;
        put(y, r * ys + c, f(get(a, r * as + c), b ? get(b, r * bs + c) : 0.0f, i));
    }
}

struct Sum {
    __device__ float operator()(float a, float b, int64_t) const { return a + b; }
};
struct Scale {
    float s;
    __device__ float operator()(float a, float, int64_t) const { return s * a; }
};

template <class F> static void run_each(pc_tensor y, pc_tensor a, pc_tensor b, F f)
{
    const int64_t n = pc_numel(y), C = pc_row_len(y);
    if (n == 0) return;
    const unsigned blocks = blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
    BY_TYPE(y, LAUNCH((each<T, F>), blocks, THREADS, 0, (T *)y.data, y.stride, (const T *)a.data, a.stride, (const T *)b.data,
                      b.stride, n, C, f));
}

void cuda_add_forward(pc_ctx *, pc_tensor y, pc_tensor a, pc_tensor b)
{
    run_each(y, a, b, Sum());
}

void cuda_scale_forward(pc_ctx *, pc_tensor y, pc_tensor x, double s)
{
    run_each(y, x, PC_NONE, Scale{(float)s});
}

// Between types too: a matrix in bf16 from its f32 original, a gradient in f32 from one in bf16.
template <class Y, class X> __global__ void convert(Y *y, int64_t ys, const X *x, int64_t xs, int64_t n, int64_t C, float keep)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / C, c = i - r * C;
        const float before = keep != 0.0f ? get(y, r * ys + c) : 0.0f;
        put(y, r * ys + c, before + get(x, r * xs + c));
    }
}

static void run_convert(pc_tensor y, pc_tensor x, float keep)
{
    const int64_t n = pc_numel(y), C = pc_row_len(y);
    if (n == 0) return;
    const unsigned blocks = blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
    BY_TYPE(x, typedef T X; BY_TYPE(y, LAUNCH((convert<T, X>), blocks, THREADS, 0, (T *)y.data, y.stride, (const X *)x.data,
                                              x.stride, n, C, keep)));
}

void cuda_copy_forward(pc_ctx *, pc_tensor y, pc_tensor x)
{
    run_convert(y, x, 0.0f);
}

void cuda_accumulate(pc_ctx *, pc_tensor y, pc_tensor x)
{
    run_convert(y, x, 1.0f);
}

void cuda_zero_forward(pc_ctx *, pc_tensor y)
{
    const size_t size = pc_dtype_size(y.dtype), width = (size_t)pc_row_len(y) * size;
    if (pc_numel(y) == 0) return;
    const int64_t rows = pc_numel(y) / pc_row_len(y);
    CHECK_CUDA(cudaMemset2DAsync(y.data, pc_is_dense(y) ? width : (size_t)y.stride * size, 0, width, (size_t)rows, pc_cuda_stream));
}

// ---- dropout ---------------------------------------------------------------------------------------

struct Drop {
    uint32_t k0, k1, s0, s1, threshold;
    float scale;
    // Word i % 4 of block i / 4 of the key: Philox4x32-10, as core/rng.c has it.
    __device__ float operator()(float x, float, int64_t i) const
    {
        const uint64_t block = (uint64_t)i >> 2;
        uint32_t x0 = (uint32_t)block, x1 = (uint32_t)(block >> 32), x2 = s0, x3 = s1, a = k0, b = k1;
        for (int round = 0; round < 10; round++) {
            const uint32_t p = x0, q = x2;
            x0 = __umulhi(0xCD9E8D57u, q) ^ x1 ^ a;
            x1 = 0xCD9E8D57u * q;
            x2 = __umulhi(0xD2511F53u, p) ^ x3 ^ b;
            x3 = 0xD2511F53u * p;
            a += 0x9E3779B9u;
            b += 0xBB67AE85u;
        }
        const int k = (int)(i & 3);
        const uint32_t word = k == 0 ? x0 : k == 1 ? x1 : k == 2 ? x2 : x3;
        return word >= threshold ? x * scale : 0.0f;
    }
};

static Drop drop_of(double p, pc_rng_key key)
{
    uint32_t k[2], c[4];
    pc_rng_words(&key, 0, k, c);
    const double limit = p * 4294967296.0;
    return Drop{k[0], k[1], c[2], c[3], limit >= 4294967295.0 ? 4294967295u : (uint32_t)ceil(limit), (float)(1.0 / (1.0 - p))};
}

void cuda_dropout_forward(pc_ctx *, pc_tensor y, pc_tensor x, double p, pc_rng_key key)
{
    run_each(y, x, PC_NONE, drop_of(p, key));
}

void cuda_dropout_backward(pc_ctx *, pc_tensor dx, pc_tensor dy, double p, pc_rng_key key)
{
    run_each(dx, dy, PC_NONE, drop_of(p, key));
}

// ---- by index --------------------------------------------------------------------------------------

// y[m] = (x ? x[m] : 0) + table[index[m]]; index < 0: see `skip`.
template <class T>
__global__ void pick(T *y, int64_t ys, const T *x, int64_t xs, const T *table, int64_t ts, const int32_t *index, int64_t C, bool skip)
{
    const int64_t m = blockIdx.x;
    const int32_t at = index[m];
    if (at < 0 && skip) return;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x)
        put(y, m * ys + c, (x ? get(x, m * xs + c) : 0.0f) + (at < 0 ? 0.0f : get(table, (int64_t)at * ts + c)));
}

static int row_threads(int64_t C)
{
    return C >= 256 ? 256 : C > 64 ? 128 : C > 32 ? 64 : 32;
}

static void run_pick(pc_tensor y, pc_tensor x, pc_tensor table, pc_tensor index, bool skip)
{
    const int64_t M = index.dim[0], C = pc_row_len(y);
    if (M == 0) return;
    BY_TYPE(y, LAUNCH(pick<T>, (unsigned)M, row_threads(C), 0, (T *)y.data, y.stride, (const T *)x.data, x.stride,
                      (const T *)table.data, table.stride, pc_i32(index), C, skip));
}

void cuda_embedding_forward(pc_ctx *, pc_tensor y, pc_tensor ids, pc_tensor table)
{
    if (table.dtype != y.dtype)
        pc_cuda_embedding_stored(y, ids, table);
    else
        run_pick(y, PC_NONE, table, ids, true);
}

void cuda_gather_forward(pc_ctx *, pc_tensor y, pc_tensor x, pc_tensor index)
{
    run_pick(y, PC_NONE, x, index, true);
}

void cuda_add_rows_forward(pc_ctx *, pc_tensor y, pc_tensor x, pc_tensor table, pc_tensor index)
{
    run_pick(y, x, table, index, false);
}

// y[index[m]] = f[m], and back: f[m] = y[index[m]], 0 where there is none.
template <class T>
__global__ void spread(T *y, int64_t ys, T *f, int64_t fs, const int32_t *index, int64_t C, bool back)
{
    const int64_t m = blockIdx.x;
    const int32_t at = index[m];
    if (at < 0 && !back) return;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
        if (!back)
            y[(int64_t)at * ys + c] = f[m * fs + c];
        else
            put(f, m * fs + c, at < 0 ? 0.0f : get(y, (int64_t)at * ys + c));
    }
}

static void run_spread(pc_tensor y, pc_tensor f, pc_tensor index, bool back)
{
    const int64_t M = index.dim[0], C = pc_row_len(f);
    if (M == 0) return;
    BY_TYPE(y, LAUNCH(spread<T>, (unsigned)M, row_threads(C), 0, (T *)y.data, y.stride, (T *)f.data, f.stride, pc_i32(index), C, back));
}

void cuda_splice_forward(pc_ctx *, pc_tensor y, pc_tensor f, pc_tensor index)
{
    run_spread(y, f, index, false);
}

void cuda_splice_backward(pc_ctx *, pc_tensor df, pc_tensor dy, pc_tensor index)
{
    run_spread(dy, df, index, true);
}

/*
 * d[index[n]] += dy[n]: `next` links each row to the following one that meets in the same place, `first` lists the
 * rows where such a chain begins. Made by the host, which knows the index.
 */
template <class D, class T>
__global__ void meet(D *d, int64_t ds, const T *dy, int64_t ys, const int32_t *index, const int32_t *first, const int32_t *next, int64_t C)
{
    const int64_t begin = first[blockIdx.x];
    const int64_t at = index[begin];
    for (int64_t c = blockIdx.y * (int64_t)blockDim.x + threadIdx.x; c < C; c += (int64_t)gridDim.y * blockDim.x) {
        float sum = 0.0f;
        for (int64_t n = begin; n >= 0; n = next[n]) sum += get(dy, n * ys + c);
        put(d, at * ds + c, get(d, at * ds + c) + sum);
    }
}

static void run_meet(pc_tensor d, pc_tensor dy, pc_tensor index)
{
    const int64_t N = index.dim[0], R = d.dim[0], C = pc_row_len(dy);
    if (N == 0) return;
    int32_t *first = (int32_t *)pc_cuda_staged((size_t)(2 * N) * sizeof *first), *next = first + N;
    int32_t *last = (int32_t *)malloc((size_t)R * sizeof *last); // the last row met so far, by place
    PC_ASSERT(last, "no memory for %lld rows", (long long)R);
    memset(last, 0xff, (size_t)R * sizeof *last);
    int64_t chains = 0;
    for (int64_t n = 0; n < N; n++) {
        const int32_t at = pc_i32(index)[n];
        next[n] = -1;
        if (at < 0) continue;
        if (last[at] < 0)
            first[chains++] = (int32_t)n;
        else
            next[last[at]] = (int32_t)n;
        last[at] = (int32_t)n;
    }
    free(last);
    if (chains == 0) return;
    const unsigned wide = (unsigned)((C + 127) / 128 < 8 ? (C + 127) / 128 : 8);
    BY_TYPE(dy, typedef T Y; BY_TYPE(d, LAUNCH((meet<T, Y>), dim3((unsigned)chains, wide), 128, 0, (T *)d.data, d.stride,
                                               (const Y *)dy.data, dy.stride, pc_i32(index), first, next, C)));
}

void cuda_embedding_backward(pc_ctx *, pc_tensor dtable, pc_tensor dy, pc_tensor ids)
{
    run_meet(dtable, dy, ids);
}

void cuda_add_rows_backward(pc_ctx *, pc_tensor dtable, pc_tensor dy, pc_tensor index)
{
    run_meet(dtable, dy, index);
}

void cuda_gather_backward(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor index)
{
    cuda_zero_forward(ctx, dx);
    run_meet(dx, dy, index);
}

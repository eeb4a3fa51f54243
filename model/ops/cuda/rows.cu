/*
 * rows.cu - rows picked, put, added, scaled, dropped. Formulas: ops.h.
 *
 * Where rows meet in one row of the result (embedding, add_rows, gather backward) their sum has one order: the same
 * bits every time, and no atomics.
 */
#include "model/ops/cuda/decode.cuh"
#include "model/ops/cuda/small.cuh"
#include "model/ops/cuda/each.cuh"

#include <math.h>
#include <stdlib.h>

// ---- one to one ----------------------------------------------------------------------------------

struct Sum : Each<Sum> {
    __device__ float one(float a, float b, int64_t) const { return a + b; }
};
struct Scale : Each<Scale> {
    float s;
    Scale(float by) : s(by) {}
    __device__ float one(float a, float, int64_t) const { return s * a; }
};
struct Same : Each<Same> {
    __device__ float one(float a, float, int64_t) const { return a; }
};

void cuda_add_forward(pc_ctx *, pc_tensor y, pc_tensor a, pc_tensor b)
{
    BY_TYPE(y, run_each<T, T, T>(y, a, b, Sum()));
}

void cuda_scale_forward(pc_ctx *, pc_tensor y, pc_tensor x, double s)
{
    BY_TYPE(y, run_each<T, T, T>(y, x, PC_NONE, Scale((float)s)));
}

// Between types too: a matrix in bf16 from its f32 original, a gradient in f32 from one in bf16.
void cuda_copy_forward(pc_ctx *, pc_tensor y, pc_tensor x)
{
    const size_t size = pc_dtype_size(y.dtype);
    if (y.dtype == x.dtype && pc_is_dense(y) && pc_is_dense(x)) {
        CHECK_CUDA(cudaMemcpyAsync(y.data, x.data, (size_t)pc_numel(y) * size, cudaMemcpyDefault, pc_cuda_stream));
        return;
    }
    BY_TYPE(x, typedef T X; BY_TYPE(y, run_each<T, X, X>(y, x, PC_NONE, Same())));
}

void cuda_accumulate(pc_ctx *, pc_tensor y, pc_tensor x)
{
    BY_TYPE(x, typedef T X; BY_TYPE(y, run_each<T, T, X>(y, y, x, Sum())));
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
    // The four words of a block of the key: Philox4x32-10, as core/rng.c has it.
    __device__ __forceinline__ void words(uint32_t *w, uint64_t block) const
    {
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
        w[0] = x0, w[1] = x1, w[2] = x2, w[3] = x3;
    }
    // Number i: word i % 4 of block i / 4.
    __device__ float one(float x, float, int64_t i) const
    {
        uint32_t w[4];
        words(w, (uint64_t)i >> 2);
        const int k = (int)(i & 3);
        const uint32_t word = k == 0 ? w[0] : k == 1 ? w[1] : k == 2 ? w[2] : w[3];
        return word >= threshold ? x * scale : 0.0f;
    }
    __device__ __forceinline__ void eight(float *y, const float *x, const float *, int64_t i) const
    {
        uint32_t w[8];
        words(w, (uint64_t)i >> 2);
        words(w + 4, ((uint64_t)i >> 2) + 1);
        for (int k = 0; k < 8; k++) y[k] = w[k] >= threshold ? x[k] * scale : 0.0f;
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
    BY_TYPE(y, run_each<T, T, T>(y, x, PC_NONE, drop_of(p, key)));
}

void cuda_dropout_backward(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, double p, pc_rng_key key)
{
    cuda_dropout_forward(ctx, dx, dy, p, key);
}

// ---- by index --------------------------------------------------------------------------------------

/*
 * y[m] = (x ? x[m] : 0) + table[index[m]], Y and X of one type, the table of another maybe; index < 0: see `skip`.
 * C in steps of VEC numbers, n = M C.
 */
template <int VEC, class T> __device__ __forceinline__ void get_some(float *v, const T *p)
{
    if (VEC == 8)
        get8(v, p);
    else
        v[0] = get(p, 0);
}
template <int VEC, class T> __device__ __forceinline__ void put_some(T *p, const float *v)
{
    if (VEC == 8)
        put8(p, v);
    else
        put(p, 0, v[0]);
}

template <class Y, class W, int VEC>
__global__ void pick(Y *y, int64_t ys, const Y *x, int64_t xs, const W *table, int64_t ts, const int32_t *index, uint32_t n, uint32_t C,
                     bool skip)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const uint32_t m = i / C;
    const int64_t c = (int64_t)(i - m * C) * VEC;
    const int32_t at = index[m];
    if (at < 0 && skip) return;
    float v[VEC] = {}, w[VEC];
    if (at >= 0) get_some<VEC>(v, table + (int64_t)at * ts + c);
    if (x) {
        get_some<VEC>(w, x + m * xs + c);
        for (int k = 0; k < VEC; k++) v[k] += w[k];
    }
    put_some<VEC>(y + m * ys + c, v);
}

static void run_pick(pc_tensor y, pc_tensor x, pc_tensor table, pc_tensor index, bool skip)
{
    const int64_t M = index.dim[0], C = pc_row_len(y);
    if (M == 0) return;
    const int32_t *at = mirrored(index);
    const bool eights = by_eights(y) && by_eights(x) && by_eights(table);
    const int64_t n = eights ? M * (C / 8) : M * C;
    PC_ASSERT(n < (int64_t)1 << 31, "%lld rows of %lld picked at once", (long long)M, (long long)C);
#define PICK(VEC)                                                                                  \
    LAUNCH((pick<T, W, VEC>), blocks_for(n), THREADS, 0, (T *)y.data, y.stride, (const T *)x.data, x.stride, (const W *)table.data,    \
           table.stride, at, (uint32_t)n, (uint32_t)(C / VEC), skip)
    BY_TYPE(table, typedef T W; BY_TYPE(y, if (eights) PICK(8); else PICK(1)));
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
template <class Y, class F, int VEC>
__global__ void spread(Y *y, int64_t ys, F *f, int64_t fs, const int32_t *index, uint32_t n, uint32_t C, bool back)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const uint32_t m = i / C;
    const int64_t c = (int64_t)(i - m * C) * VEC;
    const int32_t at = index[m];
    float v[VEC] = {};
    if (back) {
        if (at >= 0) get_some<VEC>(v, y + (int64_t)at * ys + c);
        put_some<VEC>(f + m * fs + c, v);
    } else if (at >= 0) {
        get_some<VEC>(v, f + m * fs + c);
        put_some<VEC>(y + (int64_t)at * ys + c, v);
    }
}

static void run_spread(pc_tensor y, pc_tensor f, pc_tensor index, bool back)
{
    const int64_t M = index.dim[0], C = pc_row_len(f);
    if (M == 0) return;
    const int32_t *at = mirrored(index);
    const bool eights = by_eights(y) && by_eights(f);
    const int64_t n = eights ? M * (C / 8) : M * C;
    PC_ASSERT(n < (int64_t)1 << 31, "%lld rows of %lld spread at once", (long long)M, (long long)C);
#define SPREAD(VEC)                                                                                \
    LAUNCH((spread<Y, T, VEC>), blocks_for(n), THREADS, 0, (Y *)y.data, y.stride, (T *)f.data, f.stride, at, (uint32_t)n,              \
           (uint32_t)(C / VEC), back)
    BY_TYPE(y, typedef T Y; BY_TYPE(f, if (eights) SPREAD(8); else SPREAD(1)));
}

void cuda_splice_forward(pc_ctx *ctx, pc_tensor y, pc_tensor f, pc_tensor index)
{
    if (pc_cuda_splice_few(ctx, y, f, index)) return;
    run_spread(y, f, index, false);
}

void cuda_splice_backward(pc_ctx *, pc_tensor df, pc_tensor dy, pc_tensor index)
{
    run_spread(dy, df, index, true);
}

/*
 * d[index[n]] += dy[n]. The host, which knows the index, sorts the rows by their place (those of one place stay in
 * order) and cuts what meets in one place into pieces of at most PIECE rows. A piece that is alone in its place adds
 * to d; the others leave their sums in `part`, from where their heads add them up in order. So every sum has one
 * order, and a place where everything meets is not one thread's long way.
 */
typedef struct piece {
    int32_t begin, end; // of the sorted rows; of a head: of its pieces' slots
    int32_t at, slot;   // its place; where its sum goes, -1: to d
} piece;
enum { PIECE = 32 };

template <class D, class Y, int VEC>
__global__ void meet(D *d, int64_t ds, float *part, const Y *dy, int64_t ys, const int32_t *rows, const piece *pieces, int64_t C)
{
    const piece p = pieces[blockIdx.y];
    const int64_t c = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * VEC;
    if (c >= C) return;
    float sum[VEC] = {}, old[VEC] = {};
    if (p.slot < 0) get_some<VEC>(old, d + p.at * ds + c);
#pragma unroll 4
    for (int32_t n = p.begin; n < p.end; n++) {
        float v[VEC];
        get_some<VEC>(v, dy + (rows ? rows[n] : n) * ys + c);
        for (int k = 0; k < VEC; k++) sum[k] += v[k];
    }
    for (int k = 0; k < VEC; k++) sum[k] += old[k];
    if (p.slot >= 0)
        put_some<VEC>(part + p.slot * C + c, sum);
    else
        put_some<VEC>(d + p.at * ds + c, sum);
}

template <class D, class Y, int VEC>
static void launch_meet(pc_tensor d, float *part, const void *dy, int64_t ys, const int32_t *rows, const piece *pieces, int64_t count,
                        int64_t C)
{
    const int threads = C / VEC >= 128 ? 128 : C / VEC > 64 ? 96 : C / VEC > 32 ? 64 : 32;
    for (int64_t first = 0; first < count; first += 65535) {
        const int64_t some = count - first < 65535 ? count - first : 65535;
        LAUNCH((meet<D, Y, VEC>), dim3(blocks_for(C / VEC, threads), (unsigned)some), threads, 0, (D *)d.data, d.stride, part, (const Y *)dy,
               ys, rows, pieces + first, C);
    }
}

static void run_meet(pc_tensor d, pc_tensor dy, pc_tensor index)
{
    const int64_t N = index.dim[0], R = d.dim[0], C = pc_row_len(dy);
    if (N == 0) return;
    const int32_t *at = pc_i32(index);
    int32_t *begin = (int32_t *)calloc((size_t)R + 1, sizeof *begin); // of a place's rows among the sorted
    PC_ASSERT(begin, "no memory for %lld rows", (long long)R);
    for (int64_t n = 0; n < N; n++)
        if (at[n] >= 0) begin[at[n] + 1]++;
    int64_t singles = 0, heads = 0, slots = 0;
    for (int64_t r = 0; r < R; r++) {
        const int64_t met = begin[r + 1], pieces = (met + PIECE - 1) / PIECE;
        if (pieces == 1) singles++;
        if (pieces > 1) heads++, slots += pieces;
        begin[r + 1] += begin[r];
    }
    const int64_t M = begin[R], count = singles + slots + heads;
    const size_t bytes = (size_t)count * sizeof(piece) + (size_t)M * sizeof(int32_t);
    if (M == 0) {
        free(begin);
        return;
    }
    piece *all = (piece *)pc_cuda_staged(bytes), *p = all, *head = all + singles + slots;
    int32_t *rows = (int32_t *)(all + count);
    int32_t slot = 0;
    for (int64_t r = 0; r < R; r++) {
        const int32_t from = begin[r], to = begin[r + 1];
        const bool alone = to - from <= PIECE;
        if (!alone) *head++ = piece{slot, slot + (to - from + PIECE - 1) / PIECE, (int32_t)r, -1};
        for (int32_t n = from; n < to; n += PIECE)
            *p++ = piece{n, n + PIECE < to ? n + PIECE : to, (int32_t)r, alone ? -1 : slot++};
    }
    for (int64_t n = 0; n < N; n++)
        if (at[n] >= 0) rows[begin[at[n]]++] = (int32_t)n;
    free(begin);

    const piece *pieces = (const piece *)pc_cuda_mirror(all, bytes);
    const int32_t *sorted = (const int32_t *)(pieces + count);
    float *part = slots ? (float *)pc_cuda_workspace((size_t)(slots * C) * sizeof *part) : NULL;
    const bool eights = by_eights(d) && by_eights(dy);
#define MEET(VEC)                                                                                  \
    do {                                                                                           \
        launch_meet<T, Y, VEC>(d, part, dy.data, dy.stride, sorted, pieces, singles + slots, C);                                       \
        launch_meet<T, float, VEC>(d, NULL, part, C, NULL, pieces + singles + slots, heads, C);                                        \
    } while (0)
    BY_TYPE(dy, typedef T Y; BY_TYPE(d, if (eights) MEET(8); else MEET(1)));
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

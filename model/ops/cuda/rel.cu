/*
 * rel.cu - relative positions in two directions (SAM's tower); formulas in ops.h.
 *
 *   rel_terms       a block has EIGHT query rows of one head in shared memory, a thread one output of one row
 *     backward      dq as forward; the tables' gradients: a block owns one table row and one head, sums over the queries
 *                   that read it, and a second kernel adds heads up in order
 *   rel_attention   attention_plain.cuh with positions; drh and drw are summed by the block that owns the query
 */
#include "model/ops/cuda/attention_plain.cuh"

enum { EIGHT = 8 };

typedef struct grid {
    int64_t N, H, D, a, b;
} grid;

template <class T> __global__ void widen_table(float *to, const T *from, int64_t count)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i < count) to[i] = get(from, i);
}

// A table of either type, as f32.
static const float *in_f32(float *to, pc_tensor table)
{
    const int64_t count = pc_numel(table);
    if (table.dtype == PC_F32) return (const float *)table.data;
    BY_TYPE(table, LAUNCH(widen_table<T>, blocks_for(count), THREADS, 0, to, (const T *)table.data, count));
    return to;
}

template <class T>
__global__ void terms(T *rh, int64_t hs, T *rw, int64_t ws, const T *q, int64_t qs, const float *th, const float *tw, grid z)
{
    extern __shared__ float rows[];
    const int64_t first = blockIdx.x * (int64_t)EIGHT, h = blockIdx.y;
    const int D = (int)z.D, a = (int)z.a, b = (int)z.b, each = a + b;
    for (int i = threadIdx.x; i < EIGHT * D; i += blockDim.x) {
        const int64_t n = first + i / D;
        rows[i] = n < z.N ? get(q, n * qs + h * D + i % D) : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < EIGHT * each; i += blockDim.x) {
        const int64_t n = first + i / each;
        if (n >= z.N) break;
        const int d = i % each, place = (int)(n % (z.a * z.b)), Y = place / b, X = place % b;
        const float *row = rows + i / each * D;
        const float *table = d < a ? th + (int64_t)(Y - d + a - 1) * D : tw + (int64_t)(X - (d - a) + b - 1) * D;
        float sum = 0.0f;
        for (int c = 0; c < D; c++) sum += row[c] * table[c];
        if (d < a)
            put(rh, n * hs + h * a + d, sum);
        else
            put(rw, n * ws + h * b + d - a, sum);
    }
}

template <class T>
__global__ void terms_dq(T *dq, int64_t dqs, const T *drh, int64_t hs, const T *drw, int64_t ws, const float *th, const float *tw, const T *add,
                         int64_t as, grid z)
{
    extern __shared__ float rows[];
    const int64_t first = blockIdx.x * (int64_t)EIGHT, h = blockIdx.y;
    const int D = (int)z.D, a = (int)z.a, b = (int)z.b, each = a + b;
    for (int i = threadIdx.x; i < EIGHT * each; i += blockDim.x) {
        const int64_t n = first + i / each;
        const int d = i % each;
        rows[i] = n >= z.N ? 0.0f : d < a ? get(drh, n * hs + h * a + d) : get(drw, n * ws + h * b + d - a);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < EIGHT * D; i += blockDim.x) {
        const int64_t n = first + i / D;
        if (n >= z.N) break;
        const int c = i % D, place = (int)(n % (z.a * z.b)), Y = place / b, X = place % b;
        const float *row = rows + i / D * each;
        float sum = add ? get(add, n * as + h * D + c) : 0.0f;
        for (int y = 0; y < a; y++) sum += row[y] * th[(int64_t)(Y - y + a - 1) * D + c];
        for (int x = 0; x < b; x++) sum += row[a + x] * tw[(int64_t)(X - x + b - 1) * D + c];
        put(dq, n * dqs + h * D + c, sum);
    }
}

// parts[h][r][c] = sum over the queries of head h that read row r of a table: drel[n,h,j] q[n,h,c], j = place - r + size - 1.
// Lines (wide: columns) of the grid are `size` many; each has `across` queries, `step` rows apart.
template <class T>
__global__ void table_parts(float *parts, const T *drel, int64_t rs, const T *q, int64_t qs, bool wide, grid z)
{
    extern __shared__ float sums[]; // [teams][D]
    const int r = blockIdx.x, h = blockIdx.y, D = (int)z.D, size = (int)(wide ? z.b : z.a), across = (int)(wide ? z.a : z.b);
    const int team = threadIdx.x / 32, teams = blockDim.x / 32, lane = threadIdx.x % 32;
    const int low = max(0, r - size + 1), high = min(size - 1, r), count = (high - low + 1) * across;
    const int64_t places = z.a * z.b, all = z.N / places * count;
    for (int c0 = 0; c0 < D; c0 += 32) {
        const int c = c0 + lane;
        float sum = 0.0f;
        for (int64_t i = team; i < all; i += teams) {
            const int64_t s = i / count;
            const int at = (int)(i % count), line = low + at / across, j = line + size - 1 - r;
            const int64_t n = s * places + (wide ? (int64_t)(at % across) * z.b + line : (int64_t)line * z.b + at % across);
            if (c < D) sum += get(drel, n * rs + h * (int64_t)size + j) * get(q, n * qs + h * z.D + c);
        }
        if (c < D) sums[team * D + c] = sum;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < D; c += blockDim.x) {
        float sum = 0.0f;
        for (int t = 0; t < teams; t++) sum += sums[t * D + c];
        parts[((int64_t)h * (2 * size - 1) + r) * D + c] = sum;
    }
}

template <class T> __global__ void add_parts(T *table, const float *parts, int64_t count, int64_t H)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float sum = 0.0f;
    for (int64_t h = 0; h < H; h++) sum += parts[h * count + i];
    put(table, i, get(table, i) + sum);
}

static grid grid_of(pc_tensor q, pc_tensor rh, pc_tensor rw)
{
    const grid z = {q.dim[0], q.dim[1], q.dim[2], rh.dim[2], rw.dim[2]};
    return z;
}

// More than 48 KiB of shared memory has to be asked for.
#define LAUNCH_SHARED(kernel, blocks, floats, ...)                                                 \
    do {                                                                                           \
        const size_t bytes = (size_t)(floats) * sizeof(float);                                     \
        if (bytes > (48 << 10))                                                                    \
            CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)); \
        LAUNCH(kernel, blocks, THREADS, bytes, __VA_ARGS__);                                       \
    } while (0)

void cuda_rel_terms_forward(pc_ctx *, pc_tensor rh, pc_tensor rw, pc_tensor q, pc_tensor th, pc_tensor tw)
{
    const grid z = grid_of(q, rh, rw);
    if (z.N == 0) return;
    float *space = (float *)pc_cuda_workspace((size_t)(pc_numel(th) + pc_numel(tw)) * sizeof *space);
    const float *high = in_f32(space, th), *wide = in_f32(space + pc_numel(th), tw);
    BY_TYPE(q, LAUNCH_SHARED(terms<T>, dim3(blocks_for(z.N, EIGHT), (unsigned)z.H), EIGHT * z.D, (T *)rh.data, rh.stride, (T *)rw.data, rw.stride,
                             (const T *)q.data, q.stride, high, wide, z));
}

void cuda_rel_terms_backward(pc_ctx *, pc_tensor dq, pc_tensor dth, pc_tensor dtw, pc_tensor drh, pc_tensor drw, pc_tensor q, pc_tensor th,
                             pc_tensor tw, pc_tensor add)
{
    const grid z = grid_of(q, drh, drw);
    if (z.N == 0) return;
    const int64_t most = pc_numel(th) > pc_numel(tw) ? pc_numel(th) : pc_numel(tw), tables = pc_numel(th) + pc_numel(tw);
    float *space = (float *)pc_cuda_workspace((size_t)(tables + z.H * most) * sizeof *space), *parts = space + tables;
    const pc_tensor gradients[] = {dth, dtw}, reads[] = {drh, drw};
    for (int i = 0; i < 2; i++) {
        const pc_tensor d = gradients[i], r = reads[i];
        if (!pc_present(d)) continue;
        BY_TYPE(q, LAUNCH_SHARED(table_parts<T>, dim3((unsigned)d.dim[0], (unsigned)z.H), THREADS / 32 * z.D, parts, (const T *)r.data, r.stride,
                                 (const T *)q.data, q.stride, i == 1, z));
        BY_TYPE(d, LAUNCH(add_parts<T>, blocks_for(pc_numel(d)), THREADS, 0, (T *)d.data, parts, pc_numel(d), z.H));
    }
    if (!pc_present(dq)) return;
    const float *high = in_f32(space, th), *wide = in_f32(space + pc_numel(th), tw);
    BY_TYPE(q, LAUNCH_SHARED(terms_dq<T>, dim3(blocks_for(z.N, EIGHT), (unsigned)z.H), EIGHT * (z.a + z.b), (T *)dq.data, dq.stride,
                             (const T *)drh.data, drh.stride, (const T *)drw.data, drw.stride, high, wide, (const T *)add.data, add.stride, z));
}

template <class T> static relative<T> relative_of(pc_tensor rh, pc_tensor rw)
{
    const relative<T> r = {(const T *)rh.data, (const T *)rw.data, rh.stride, rw.stride, (int)rh.dim[2], (int)rw.dim[2]};
    return r;
}

void cuda_rel_attention_forward(pc_ctx *, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor rh, pc_tensor rw,
                                const pc_mask *mask, double scale)
{
    if (q.dim[0] == 0) return;
    BY_TYPE(q, plain_forward<T>(o, lse, q, k, v, mask, relative_of<T>(rh, rw), scale));
}

void cuda_rel_attention_backward(pc_ctx *, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor drh, pc_tensor drw, pc_tensor dout, pc_tensor q,
                                 pc_tensor k, pc_tensor v, pc_tensor rh, pc_tensor rw, pc_tensor o, pc_tensor lse, const pc_mask *mask,
                                 double scale)
{
    if (q.dim[0] == 0 && k.dim[0] == 0) return;
    BY_TYPE(q, plain_backward<T>(dq, dk, dv, drh, drw, dout, q, k, v, o, lse, mask, relative_of<T>(rh, rw), scale));
}

/*
 * optim.cu - the optimiser's step: for one tensor in f32, or for all pieces of all parameters in one launch; the gradient
 * norm and the gate. Formulas: ops.h; rounding at random: step.h.
 *
 * A block takes a piece, eight numbers a thread and turn: 16 bytes at a time of every array. The norm is made of a sum in
 * double for each piece, added up by one block in a fixed order; the clipping factor never leaves the device.
 */
#include "model/ops/cuda/step.cuh"

#include <math.h>

__global__ void adamw_step(float *w, float *m, float *v, const float *g, int64_t n, float shrink, float scale, float b1, float r1,
                           float b2, float r2, float rate, float root2, float eps)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const float d = g[i] * scale;
        m[i] = b1 * m[i] + r1 * d;
        v[i] = b2 * v[i] + r2 * (d * d);
        w[i] = w[i] * shrink - rate * (m[i] / (sqrtf(v[i]) / root2 + eps));
    }
}

void cuda_adamw(pc_ctx *, pc_tensor w, pc_tensor m, pc_tensor v, pc_tensor g, const pc_adamw *a)
{
    const int64_t n = pc_numel(w);
    if (n == 0) return;
    const unsigned blocks = blocks_for(n) < 16384u ? blocks_for(n) : 16384u;
    LAUNCH(adamw_step, blocks, THREADS, 0, (float *)w.data, (float *)m.data, (float *)v.data, (const float *)g.data, n,
           (float)(1.0 - a->lr * a->weight_decay), (float)a->grad_scale, (float)a->beta1, (float)(1.0 - a->beta1), (float)a->beta2,
           (float)(1.0 - a->beta2), (float)(a->lr / a->correct1), (float)sqrt(a->correct2), (float)a->eps);
}

// ---- sums --------------------------------------------------------------------------------------------

// Over all threads of a block, in a fixed order; thread 0 has the result.
template <int N> __device__ double block_total(double sum)
{
    __shared__ double space[N];
    space[threadIdx.x] = sum;
    for (int d = N / 2; d > 0; d >>= 1) {
        __syncthreads();
        if ((int)threadIdx.x < d) space[threadIdx.x] += space[threadIdx.x + d];
    }
    return space[0];
}

template <class G> __device__ double squares_of(const G *g, int64_t n)
{
    const int64_t groups = aligned(g) ? n / GROUP : 0;
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < groups; i += blockDim.x) {
        float x[GROUP];
        load(x, g + i * GROUP);
        double part = 0.0;
#pragma unroll
        for (int k = 0; k < GROUP; k++) part += (double)x[k] * (double)x[k];
        sum += part;
    }
    for (int64_t i = groups * GROUP + threadIdx.x; i < n; i += blockDim.x) sum += (double)get(g, i) * (double)get(g, i);
    return sum;
}

__global__ void piece_squares(double *sums, const pc_piece *list)
{
    const pc_piece &p = list[blockIdx.x];
    const double sum = p.g_type == PC_BF16 ? squares_of((const bf16 *)p.g, p.n) : squares_of((const float *)p.g, p.n);
    const double all = block_total<THREADS>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = all;
}

void cuda_square_sums(pc_ctx *, pc_tensor sums, const pc_piece *list, int64_t count)
{
    if (count > 0) LAUNCH(piece_squares, (unsigned)count, THREADS, 0, (double *)sums.data, list);
}

// Slices of a tensor, SQUARES or plain.
enum { SLICE = 65536 };
template <class T, bool SQUARES> __global__ void slice_sums(double *part, const T *x, int64_t n)
{
    const int64_t begin = blockIdx.x * (int64_t)SLICE, count = n - begin < SLICE ? n - begin : SLICE;
    double sum = 0.0;
    if (SQUARES)
        sum = squares_of(x + begin, count);
    else
        for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += (double)get(x, begin + i);
    const double all = block_total<THREADS>(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = all;
}

enum { WIDE_BLOCK = 1024 };

__device__ double all_of(const double *part, int64_t count)
{
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < count; i += WIDE_BLOCK) sum += part[i];
    return block_total<WIDE_BLOCK>(sum);
}

__global__ void add_slices(double *out, const double *part, int64_t count, double by)
{
    const double sum = all_of(part, count);
    if (threadIdx.x == 0) *out += by * sum;
}

template <bool SQUARES> static void add_up(pc_tensor out, pc_tensor x, double by)
{
    const int64_t n = pc_numel(x);
    if (n == 0) return;
    PC_ASSERT(pc_is_dense(x) && out.dtype == PC_F64, "a sum of dense numbers is f64, not %s", pc_dtype_name(out.dtype));
    const unsigned blocks = blocks_for(n, SLICE);
    double *part = (double *)pc_cuda_workspace(blocks * sizeof *part);
    BY_TYPE(x, LAUNCH((slice_sums<T, SQUARES>), blocks, THREADS, 0, part, (const T *)x.data, n));
    LAUNCH(add_slices, 1, WIDE_BLOCK, 0, (double *)out.data, part, (int64_t)blocks, by);
}

void cuda_square_sum(pc_ctx *, pc_tensor out, pc_tensor x)
{
    add_up<true>(out, x, 1.0);
}

void cuda_add_sum(pc_ctx *, pc_tensor out, pc_tensor x, double by)
{
    add_up<false>(out, x, by);
}

__global__ void decide(double *gate, const double *sums, int64_t count, const double *loss, double clip)
{
    const double sum = all_of(sums, count);
    if (threadIdx.x > 0) return;
    const double norm = sqrt(sum), l = loss ? *loss : 0.0;
    gate[PC_GATE_LOSS] = l;
    gate[PC_GATE_NORM] = norm;
    gate[PC_GATE_SCALE] = clip > 0.0 ? fmin(1.0, clip / (norm + PC_CLIP_TINY)) : 1.0;
    if (!isfinite(l) || !isfinite(norm)) gate[PC_GATE_SHUT] = 1.0;
}

void cuda_step_gate(pc_ctx *, pc_tensor gate, pc_tensor sums, pc_tensor loss, double clip)
{
    LAUNCH(decide, 1, WIDE_BLOCK, 0, (double *)gate.data, (const double *)sums.data, pc_numel(sums), (const double *)loss.data, clip);
}

__global__ void clamp_all(float *x, int64_t n, float low, float high)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= n) return;
    if (x[i] < low) x[i] = low; // NaN stays
    if (x[i] > high) x[i] = high;
}

void cuda_clamp(pc_ctx *, pc_tensor x, double low, double high)
{
    PC_ASSERT(pc_is_dense(x) && x.dtype == PC_F32, "clamp of %s", pc_dtype_name(x.dtype));
    LAUNCH(clamp_all, blocks_for(pc_numel(x)), THREADS, 0, (float *)x.data, pc_numel(x), (float)low, (float)high);
}

// ---- all pieces at once ------------------------------------------------------------------------------

typedef struct step_numbers {
    double lr, decay, grad_scale, correct1;
    float b1, r1, b2, r2, root2, eps;
} step_numbers;

typedef struct piece_numbers {
    float shrink, scale, rate;
} piece_numbers;

__device__ __forceinline__ void move(float &w, float &m, float &v, float g, const step_numbers &a, const piece_numbers &own)
{
    const float d = g * own.scale;
    m = a.b1 * m + a.r1 * d;
    v = a.b2 * v + a.r2 * (d * d);
    w = w * own.shrink - own.rate * (m / (sqrtf(v) / a.root2 + a.eps));
}

// W what changes (the master copy where there is one), C the copy of it that is computed with.
template <class W, class M, class G, bool COPY, bool RANDOM>
__device__ void step_piece(const pc_piece &p, const step_numbers &a, const piece_numbers &own, const random_key &key)
{
    W *w = (W *)(COPY ? p.master : p.w);
    bf16 *copy = (bf16 *)p.w;
    M *m = (M *)p.m, *v = (M *)p.v;
    const G *g = (const G *)p.g;
    const int64_t groups = aligned(w) && aligned(m) && aligned(v) && aligned(g) && (!COPY || aligned(copy)) ? p.n / GROUP : 0;
    for (int64_t i = threadIdx.x; i < groups; i += blockDim.x) {
        float ws[GROUP], ms[GROUP], vs[GROUP], gs[GROUP];
        load(ws, w + i * GROUP);
        load(ms, m + i * GROUP);
        load(vs, v + i * GROUP);
        load(gs, g + i * GROUP);
#pragma unroll
        for (int k = 0; k < GROUP; k++) move(ws[k], ms[k], vs[k], gs[k], a, own);
        const uint64_t group = (uint64_t)(p.first / GROUP + i);
        store<RANDOM>(w + i * GROUP, ws, key, group, PC_ROUND_W);
        store<RANDOM>(m + i * GROUP, ms, key, group, PC_ROUND_M);
        store<RANDOM>(v + i * GROUP, vs, key, group, PC_ROUND_V);
        if (COPY) store<false>(copy + i * GROUP, ws, key, group, PC_ROUND_W);
    }
    for (int64_t i = groups * GROUP + threadIdx.x; i < p.n; i += blockDim.x) {
        float w1 = get(w, i), m1 = get(m, i), v1 = get(v, i);
        move(w1, m1, v1, get(g, i), a, own);
        put_one<RANDOM>(w, i, w1, key, p.first + i, PC_ROUND_W);
        put_one<RANDOM>(m, i, m1, key, p.first + i, PC_ROUND_M);
        put_one<RANDOM>(v, i, v1, key, p.first + i, PC_ROUND_V);
        if (COPY) put(copy, i, w1);
    }
}

template <bool RANDOM>
__global__ void __launch_bounds__(THREADS, 4) step_pieces(const pc_piece *list, step_numbers a, const double *gate, random_key key)
{
    if (gate[PC_GATE_SHUT] != 0.0) return;
    const pc_piece p = list[blockIdx.x];
    const double lr = a.lr * p.lr_scale;
    const piece_numbers own = {(float)(1.0 - lr * (a.decay * p.decay)), (float)(a.grad_scale * gate[PC_GATE_SCALE]),
                               (float)(lr / a.correct1)};
#define STEP(W, M, G, COPY) step_piece<W, M, G, COPY, RANDOM>(p, a, own, key)
#define STEP_BY_STATE(W, COPY)                                                                     \
    do {                                                                                           \
        const bool half = p.moment_type == PC_BF16, narrow = p.g_type == PC_BF16;                  \
        if (half && narrow)                                                                        \
            STEP(W, bf16, bf16, COPY);                                                             \
        else if (half)                                                                             \
            STEP(W, bf16, float, COPY);                                                            \
        else if (narrow)                                                                           \
            STEP(W, float, bf16, COPY);                                                            \
        else                                                                                       \
            STEP(W, float, float, COPY);                                                           \
    } while (0)
    if (p.master)
        STEP_BY_STATE(float, true);
    else if (p.w_type == PC_BF16)
        STEP_BY_STATE(bf16, false);
    else
        STEP_BY_STATE(float, false);
}

void cuda_adamw_list(pc_ctx *, const pc_piece *list, int64_t count, const pc_adamw *h, pc_tensor gate, const pc_rng_key *rounding)
{
    if (count == 0) return;
    const step_numbers a = {h->lr, h->weight_decay, h->grad_scale, h->correct1, (float)h->beta1, (float)(1.0 - h->beta1),
                            (float)h->beta2, (float)(1.0 - h->beta2), (float)sqrt(h->correct2), (float)h->eps};
    const random_key key = random_key_of(rounding);
    if (rounding)
        LAUNCH(step_pieces<true>, (unsigned)count, THREADS, 0, list, a, (const double *)gate.data, key);
    else
        LAUNCH(step_pieces<false>, (unsigned)count, THREADS, 0, list, a, (const double *)gate.data, key);
}

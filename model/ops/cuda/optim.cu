/*
 * optim.cu - the optimiser's step: for one tensor in f32, or for all pieces of all parameters in one launch; the gradient
 * norm and the gate. Formulas: ops.h; rounding at random: step.h.
 *
 * A block takes a piece, eight numbers a thread and turn, by 16 bytes where that can be. The norm is made of a sum in
 * double for each piece, added up by one block in a fixed order; the clipping factor never leaves the device.
 */
#include "model/ops/cuda/step.cuh"

#include <math.h>

__global__ void adamw_step(float *w, float *m, float *v, const float *g, int64_t n, float shrink, float scale, float b1, float r1, float b2,
                           float r2, float rate, float root2, float eps)
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
        const packed<G> x = load(g + i * GROUP);
        double part = 0.0;
#pragma unroll
        for (int k = 0; k < GROUP / 2; k++) {
            const float2 v = pair_of(x, k);
            part += (double)v.x * (double)v.x;
            part += (double)v.y * (double)v.y;
        }
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

// Root and reciprocal to the last bit or two of f32: exact ones take most of the instructions of a step.
__device__ __forceinline__ float root(float x)
{
    float y;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// root2: the reciprocal of the root of v's correction.
__device__ __forceinline__ void move(float &w, float &m, float &v, float g, const step_numbers &a, const piece_numbers &own)
{
    const float d = g * own.scale;
    m = __fmaf_rn(a.b1, m, a.r1 * d);
    v = __fmaf_rn(a.r2, d * d, a.b2 * v);
    const float by = reciprocal(__fmaf_rn(root(v), a.root2, a.eps));
    w = __fmaf_rn(-own.rate, m * by, w * own.shrink);
}

// Number i of a piece, alone. W what changes (the master copy where there is one).
template <class W, class M, class G, bool COPY, bool RANDOM>
__device__ void step_one(const pc_piece &p, int64_t i, const step_numbers &a, const piece_numbers &own, const random_key &key)
{
    W *w = (W *)(COPY ? p.master : p.w);
    M *m = (M *)p.m, *v = (M *)p.v;
    float w1 = get(w, i), m1 = get(m, i), v1 = get(v, i);
    move(w1, m1, v1, get((const G *)p.g, i), a, own);
    put_one<RANDOM>(w, i, w1, key, p.first + i, PC_ROUND_W);
    put_one<RANDOM>(m, i, m1, key, p.first + i, PC_ROUND_M);
    put_one<RANDOM>(v, i, v1, key, p.first + i, PC_ROUND_V);
    if (COPY) put((bf16 *)p.w, i, w1);
}

/*
 * A thread takes eight numbers a turn. All in bf16 they lie together, 16 bytes of each array; else four lie together, and
 * the other four 128 further on, so that what a warp reads at once has no gaps. The next turn's are on their way meanwhile;
 * few blocks that each have much under way leave more of the memory's rows open to each other than many do.
 */
template <bool TOGETHER> struct two_fours {
    int64_t at[2];
    __device__ __forceinline__ two_fours(int64_t i)
    {
        at[0] = TOGETHER ? i * 8 : i / 32 * 256 + i % 32 * 4;
        at[1] = TOGETHER ? i * 8 + 4 : at[0] + 128;
    }
};

template <bool TOGETHER, class T> __device__ __forceinline__ packed<T> load(const T *p, const two_fours<TOGETHER> &i)
{
    return TOGETHER ? load(p + i.at[0]) : load(p + i.at[0], p + i.at[1]);
}
template <bool TOGETHER, class T> __device__ __forceinline__ void store(T *p, const two_fours<TOGETHER> &i, const packed<T> &x)
{
    if (TOGETHER)
        store(p + i.at[0], x);
    else
        store(p + i.at[0], p + i.at[1], x);
}

template <class W, class M, class G, bool COPY, bool RANDOM, bool TOGETHER>
__device__ __forceinline__ void step_piece(const pc_piece &p, const step_numbers &a, const piece_numbers &own, const random_key &key)
{
    W *w = (W *)(COPY ? p.master : p.w);
    bf16 *copy = (bf16 *)p.w;
    M *m = (M *)p.m, *v = (M *)p.v;
    const G *g = (const G *)p.g;
    enum { ROUNDED = RANDOM && (sizeof(W) == 2 || sizeof(M) == 2) };
    const bool all = aligned(w) && aligned(m) && aligned(v) && aligned(g) && (!COPY || aligned(copy));
    const int64_t groups = !all ? 0 : TOGETHER ? p.n / GROUP : p.n / (32 * GROUP) * 32;
    int64_t i = threadIdx.x;
    packed<W> ws;
    packed<M> ms, vs;
    packed<G> gs;
    if (i < groups) {
        const two_fours<TOGETHER> at(i);
        ws = load(w, at);
        ms = load(m, at);
        vs = load(v, at);
        gs = load(g, at);
    }
    for (; i < groups; i += THREADS) {
        const two_fours<TOGETHER> at(i);
        packed<W> w2;
        packed<M> m2, v2;
        packed<G> g2;
        if (i + THREADS < groups) {
            const two_fours<TOGETHER> next(i + THREADS);
            w2 = load(w, next);
            m2 = load(m, next);
            v2 = load(v, next);
            g2 = load(g, next);
        }
        uint32_t bits[2][4];
        if (ROUNDED) {
            random_words(bits[0], key, (uint64_t)((p.first + at.at[0]) / GROUP));
            if (!TOGETHER) {
                random_words(bits[1], key, (uint64_t)((p.first + at.at[1]) / GROUP));
                if (threadIdx.x & 1) { // the second four of their eight
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const uint32_t b0 = bits[h][0], b1 = bits[h][1];
                        bits[h][0] = bits[h][2], bits[h][1] = bits[h][3], bits[h][2] = b0, bits[h][3] = b1;
                    }
                }
            }
        }
        packed<bf16> narrow;
        float whole = 0.0f; // or NaN, when a number is not finite; m is not where w is
#pragma unroll
        for (int k = 0; k < GROUP / 2; k++) {
            float2 w1 = pair_of(ws, k), m1 = pair_of(ms, k), v1 = pair_of(vs, k);
            const float2 g1 = pair_of(gs, k);
            move(w1.x, m1.x, v1.x, g1.x, a, own);
            move(w1.y, m1.y, v1.y, g1.y, a, own);
            if (ROUNDED) {
                whole = __fmaf_rn(w1.x, 0.0f, whole);
                whole = __fmaf_rn(w1.y, 0.0f, whole);
                whole = __fmaf_rn(v1.x, 0.0f, whole);
                whole = __fmaf_rn(v1.y, 0.0f, whole);
            }
            const uint32_t *word = bits[TOGETHER ? 0 : k / 2];
            const int in = TOGETHER ? 2 * k : 2 * (k % 2);
            put_pair<RANDOM>(ws, k, w1, word[PC_ROUND_WORD(in, PC_ROUND_W)]);
            put_pair<RANDOM>(ms, k, m1, word[PC_ROUND_WORD(in, PC_ROUND_M)]);
            put_pair<RANDOM>(vs, k, v1, word[PC_ROUND_WORD(in, PC_ROUND_V)]);
            if (COPY) put_pair<false>(narrow, k, w1, 0);
        }
        if (ROUNDED && !(whole == 0.0f)) {
            for (int k = 0; k < GROUP; k++) step_one<W, M, G, COPY, RANDOM>(p, at.at[k / 4] + k % 4, a, own, key);
        } else {
            store(w, at, ws);
            store(m, at, ms);
            store(v, at, vs);
            if (COPY) store(copy, at, narrow);
        }
        ws = w2, ms = m2, vs = v2, gs = g2;
    }
    for (i = groups * GROUP + threadIdx.x; i < p.n; i += THREADS) step_one<W, M, G, COPY, RANDOM>(p, i, a, own, key);
}

template <bool RANDOM>
__global__ void __launch_bounds__(THREADS, 2) step_pieces(const pc_piece *list, step_numbers a, const double *gate, random_key key)
{
    if (gate[PC_GATE_SHUT] != 0.0) return;
    const pc_piece p = list[blockIdx.x];
    const double lr = a.lr * p.lr_scale;
    const piece_numbers own = {(float)(1.0 - lr * (a.decay * p.decay)), (float)(a.grad_scale * gate[PC_GATE_SCALE]),
                               (float)(lr / a.correct1)};
#define STEP(W, M, G, COPY) step_piece<W, M, G, COPY, RANDOM, sizeof(W) + 2 * sizeof(M) + sizeof(G) == 8>(p, a, own, key)
#define STEP_BY_STATE(W, COPY)                                                                                                             \
    do {                                                                                                                                   \
        const bool half = p.moment_type == PC_BF16, narrow = p.g_type == PC_BF16;                                                          \
        if (half && narrow)                                                                                                                \
            STEP(W, bf16, bf16, COPY);                                                                                                     \
        else if (half)                                                                                                                     \
            STEP(W, bf16, float, COPY);                                                                                                    \
        else if (narrow)                                                                                                                   \
            STEP(W, float, bf16, COPY);                                                                                                    \
        else                                                                                                                               \
            STEP(W, float, float, COPY);                                                                                                   \
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
    const step_numbers a = {h->lr,           h->weight_decay,         h->grad_scale,
                            h->correct1,     (float)h->beta1,         (float)(1.0 - h->beta1),
                            (float)h->beta2, (float)(1.0 - h->beta2), (float)(1.0 / sqrt(h->correct2)),
                            (float)h->eps};
    const random_key key = random_key_of(rounding);
    if (rounding)
        LAUNCH(step_pieces<true>, (unsigned)count, THREADS, 0, list, a, (const double *)gate.data, key);
    else
        LAUNCH(step_pieces<false>, (unsigned)count, THREADS, 0, list, a, (const double *)gate.data, key);
}

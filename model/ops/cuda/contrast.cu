/*
 * contrast.cu - the two contrastive losses over a whole batch. Formulas: ops.h. All in f32.
 *
 * Scores u v^T are made for some rows at a time, so that a batch of tens of thousands fits; kernels multiply them by
 * exp(t) as they read them. Columns' log-sum-exps are put together from slices of rows, in order. In backward the gradient
 * lies in place of the scores, times exp(t): du = G v and dv = G^T u.
 */
#include "model/ops/cuda/device.cuh"

enum { SCORES = 256 << 20, LINES = 8 };

typedef struct batch {
    int64_t B, E, rows; // rows: of scores at one time
    const float *u, *v;
    int64_t us, vs; // strides
    float *S;       // (rows,B)
    exp_sum *parts; // (slices,B)
    float *sums;    // (2,B): a number or two a row
    float *d;       // (B,E): a gradient that is not f32, or is in pieces
} batch;

// Rows of a slice of the columns' sums.
static int64_t slice_of(int64_t B)
{
    return B > 4096 ? 256 : 64;
}

static int64_t slices_of(const batch *t, int64_t m)
{
    return (m + slice_of(t->B) - 1) / slice_of(t->B);
}

static batch batch_of(pc_ctx *ctx, pc_tensor u, pc_tensor v)
{
    batch t;
    t.B = u.dim[0], t.E = u.dim[1];
    t.rows = pc_cuda_chunk(SCORES) / (t.B * (int64_t)sizeof(float));
    t.rows = t.rows < slice_of(t.B) ? slice_of(t.B) : t.rows / slice_of(t.B) * slice_of(t.B);
    if (t.rows > t.B) t.rows = t.B;
    const int64_t S = (t.rows * t.B + 63) / 64 * 64, rows = (t.B * t.E + 63) / 64 * 64, parts = (slices_of(&t, t.B) + 1) * t.B * 2;
    float *space = (float *)pc_cuda_workspace((size_t)(S + 3 * rows + parts + 2 * t.B) * sizeof *space);
    t.S = space;
    float *wide_u = t.S + S, *wide_v = wide_u + rows;
    t.d = wide_v + rows;
    t.parts = (exp_sum *)(t.d + rows);
    t.sums = (float *)(t.parts + parts / 2);
    t.u = (const float *)u.data, t.us = u.stride;
    t.v = (const float *)v.data, t.vs = v.stride;
    if (u.dtype != PC_F32) {
        cuda_copy_forward(ctx, pc_view2(wide_u, PC_F32, t.B, t.E), u);
        t.u = wide_u, t.us = t.E;
    }
    if (v.dtype != PC_F32) {
        cuda_copy_forward(ctx, pc_view2(wide_v, PC_F32, t.B, t.E), v);
        t.v = wide_v, t.vs = t.E;
    }
    return t;
}

// Scores of rows [first, first + m).
static void make_scores(const batch *t, int64_t first, int64_t m)
{
    pc_cuda_product(false, true, m, t->B, t->E, 1.0f, t->u + first * t->us, t->us, t->v, t->vs, 0.0f, t->S, t->B, PC_F32, PC_F32);
}

// From G of rows [first, first + m): their du; dv so far.
static void both_sides(pc_ctx *ctx, const batch *t, pc_tensor du, pc_tensor dv, int64_t first, int64_t m)
{
    const bool last = first + m == t->B;
    if (pc_present(du)) {
        const bool direct = du.dtype == PC_F32;
        float *to = direct ? (float *)du.data + first * du.stride : t->d;
        pc_cuda_product(false, false, m, t->E, t->B, 1.0f, t->S, t->B, t->v, t->vs, 0.0f, to, direct ? du.stride : t->E, PC_F32, PC_F32);
        if (!direct) cuda_copy_forward(ctx, pc_rows(du, first, first + m), pc_view2(t->d, PC_F32, m, t->E));
    }
    if (pc_present(dv)) {
        const bool direct = dv.dtype == PC_F32;
        PC_ASSERT(direct || m == t->B, "a gradient of %s of %lld pairs", pc_dtype_name(dv.dtype), (long long)t->B);
        pc_cuda_product(true, false, t->B, t->E, m, 1.0f, t->S, t->B, t->u + first * t->us, t->us, first ? 1.0f : 0.0f,
                        direct ? dv.data : (void *)t->d, direct ? dv.stride : t->E, PC_F32, PC_F32);
        if (!direct && last) cuda_copy_forward(ctx, dv, pc_view2(t->d, PC_F32, t->B, t->E));
    }
}

// *to = or += the sum of n numbers, times `by`, in f64 and in a fixed order.
template <class T> __global__ void add_up(T *to, const float *x, int64_t n, double by, bool keep)
{
    __shared__ double space[THREADS];
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += (double)x[i];
    space[threadIdx.x] = sum;
    for (int d = THREADS / 2; d > 0; d >>= 1) {
        __syncthreads();
        if ((int)threadIdx.x < d) space[threadIdx.x] += space[threadIdx.x + d];
    }
    if (threadIdx.x == 0) *to = (T)((keep ? (double)*to : 0.0) + space[0] * by);
}

// ---- softmax both ways -------------------------------------------------------------------------------

// A block a row: its log-sum-exp, and its own score.
__global__ void lse_rows(float *lse, float *own, const float *S, int64_t B, int64_t first, const float *t)
{
    __shared__ exp_sum space[32];
    const int64_t i = first + blockIdx.x;
    const float *line = S + blockIdx.x * B;
    const float scale = expf(*t);
    exp_sum all = {-INFINITY, 0.0f};
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) all = joined(all, exp_sum{scale * line[j], 1.0f});
    all = block_joined(all, space);
    if (threadIdx.x > 0) return;
    lse[i] = all.top + logf(all.sum);
    own[i] = scale * line[i];
}

// A block 32 columns and `slice` rows of m.
__global__ void column_parts(exp_sum *parts, const float *S, int64_t m, int64_t B, int64_t slice, const float *t)
{
    __shared__ exp_sum lines[LINES][32];
    const int64_t j = blockIdx.x * (int64_t)32 + threadIdx.x, begin = blockIdx.y * slice, end = begin + slice < m ? begin + slice : m;
    const float scale = expf(*t);
    exp_sum all = {-INFINITY, 0.0f};
    if (j < B)
        for (int64_t i = begin + threadIdx.y; i < end; i += LINES) all = joined(all, exp_sum{scale * S[i * B + j], 1.0f});
    lines[threadIdx.y][threadIdx.x] = all;
    __syncthreads();
    if (threadIdx.y > 0 || j >= B) return;
    for (int i = 1; i < LINES; i++) all = joined(all, lines[i][threadIdx.x]);
    parts[blockIdx.y * B + j] = all;
}

// lse of the columns; own[j] becomes lse_row[j] + lse_col[j] - 2 own[j], the pair's share of the loss.
__global__ void lse_columns(float *lse, float *own, const float *lse_row, const exp_sum *parts, int64_t slices, int64_t B)
{
    const int64_t j = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (j >= B) return;
    exp_sum all = {-INFINITY, 0.0f};
    for (int64_t s = 0; s < slices; s++) all = joined(all, parts[s * B + j]);
    lse[j] = all.top + logf(all.sum);
    own[j] = (lse_row[j] - own[j]) + (lse[j] - own[j]);
}

// S becomes exp(t) G; sums[i] = sum_j G S.
__global__ void clip_gradient(float *S, float *sums, const float *lse_row, const float *lse_col, int64_t B, int64_t first, const float *t,
                              float factor)
{
    __shared__ float space[32];
    const int64_t i = first + blockIdx.x;
    float *line = S + blockIdx.x * B;
    const float scale = expf(*t), mine = lse_row[i];
    float sum = 0.0f;
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) {
        const float s = scale * line[j];
        const float g = factor * (expf(s - mine) + expf(s - lse_col[j]) - (i == j ? 2.0f : 0.0f));
        sum += g * s;
        line[j] = scale * g;
    }
    sum = block_sum(sum, space);
    if (threadIdx.x == 0) sums[i] = sum;
}

void cuda_clip_loss_forward(pc_ctx *ctx, pc_tensor loss, pc_tensor lse_row, pc_tensor lse_col, pc_tensor u, pc_tensor v, pc_tensor t)
{
    const batch s = batch_of(ctx, u, v);
    const int64_t B = s.B, slice = slice_of(B);
    const float *scale = (const float *)t.data;
    int64_t slices = 0;
    for (int64_t first = 0; first < B; first += s.rows) {
        const int64_t m = B - first < s.rows ? B - first : s.rows, some = slices_of(&s, m);
        make_scores(&s, first, m);
        LAUNCH(lse_rows, (unsigned)m, THREADS, 0, (float *)lse_row.data, s.sums, s.S, B, first, scale);
        LAUNCH(column_parts, dim3(blocks_for(B, 32), (unsigned)some), dim3(32, LINES), 0, s.parts + slices * B, s.S, m, B, slice, scale);
        slices += some;
    }
    LAUNCH(lse_columns, blocks_for(B, 64), 64, 0, (float *)lse_col.data, s.sums, (const float *)lse_row.data, s.parts, slices, B);
    LAUNCH(add_up<double>, 1, THREADS, 0, (double *)loss.data, s.sums, B, 1.0 / (2.0 * (double)B), false);
}

void cuda_clip_loss_backward(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor u, pc_tensor v, pc_tensor t, pc_tensor lse_row,
                             pc_tensor lse_col, double scale)
{
    const batch s = batch_of(ctx, u, v);
    const int64_t B = s.B;
    for (int64_t first = 0; first < B; first += s.rows) {
        const int64_t m = B - first < s.rows ? B - first : s.rows;
        make_scores(&s, first, m);
        LAUNCH(clip_gradient, (unsigned)m, THREADS, 0, s.S, s.sums, (const float *)lse_row.data, (const float *)lse_col.data, B, first,
               (const float *)t.data, (float)(scale / (2.0 * (double)B)));
        both_sides(ctx, &s, du, dv, first, m);
    }
    if (pc_present(dt)) LAUNCH(add_up<float>, 1, THREADS, 0, (float *)dt.data, s.sums, B, 1.0, true);
}

// ---- a sigmoid for every pair ------------------------------------------------------------------------

__device__ __forceinline__ float softplus(float z)
{
    return fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z)));
}

// sums[i] = sum_j softplus(z) - z_ii; z = exp(t) S + b
__global__ void sigmoid_value(float *sums, const float *S, const float *t, const float *b, int64_t B, int64_t first)
{
    __shared__ float space[32];
    const int64_t i = first + blockIdx.x;
    const float *line = S + blockIdx.x * B;
    const float scale = expf(*t);
    float sum = 0.0f;
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) {
        const float z = scale * line[j] + *b;
        sum += softplus(z) - (i == j ? z : 0.0f);
    }
    sum = block_sum(sum, space);
    if (threadIdx.x == 0) sums[i] = sum;
}

// S becomes exp(t) G; sums[i] = sum_j G exp(t) S, sums[B + i] = sum_j G.
__global__ void sigmoid_gradient(float *S, float *sums, const float *t, const float *b, int64_t B, int64_t first, float factor)
{
    __shared__ float space[32];
    const int64_t i = first + blockIdx.x;
    float *line = S + blockIdx.x * B;
    const float scale = expf(*t);
    float st = 0.0f, sb = 0.0f;
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) {
        const float s = scale * line[j], g = factor * (1.0f / (1.0f + expf(-(s + *b))) - (i == j ? 1.0f : 0.0f));
        st += g * s;
        sb += g;
        line[j] = scale * g;
    }
    st = block_sum(st, space);
    sb = block_sum(sb, space);
    if (threadIdx.x == 0) {
        sums[i] = st;
        sums[B + i] = sb;
    }
}

void cuda_sigmoid_loss_forward(pc_ctx *ctx, pc_tensor loss, pc_tensor u, pc_tensor v, pc_tensor t, pc_tensor b)
{
    const batch s = batch_of(ctx, u, v);
    const int64_t B = s.B;
    for (int64_t first = 0; first < B; first += s.rows) {
        const int64_t m = B - first < s.rows ? B - first : s.rows;
        make_scores(&s, first, m);
        LAUNCH(sigmoid_value, (unsigned)m, THREADS, 0, s.sums, s.S, (const float *)t.data, (const float *)b.data, B, first);
    }
    LAUNCH(add_up<double>, 1, THREADS, 0, (double *)loss.data, s.sums, B, 1.0 / (double)B, false);
}

void cuda_sigmoid_loss_backward(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor db, pc_tensor u, pc_tensor v, pc_tensor t,
                                pc_tensor b, double scale)
{
    const batch s = batch_of(ctx, u, v);
    const int64_t B = s.B;
    for (int64_t first = 0; first < B; first += s.rows) {
        const int64_t m = B - first < s.rows ? B - first : s.rows;
        make_scores(&s, first, m);
        LAUNCH(sigmoid_gradient, (unsigned)m, THREADS, 0, s.S, s.sums, (const float *)t.data, (const float *)b.data, B, first,
               (float)(scale / (double)B));
        both_sides(ctx, &s, du, dv, first, m);
    }
    if (pc_present(dt)) LAUNCH(add_up<float>, 1, THREADS, 0, (float *)dt.data, s.sums, B, 1.0, true);
    if (pc_present(db)) LAUNCH(add_up<float>, 1, THREADS, 0, (float *)db.data, s.sums + B, B, 1.0, true);
}

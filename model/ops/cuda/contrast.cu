/*
 * contrast.cu - the two contrastive losses over a whole batch. Formulas: ops.h; B x B scores in f32.
 */
#include "model/ops/cuda/device.cuh"

// ---- softmax both ways -------------------------------------------------------------------------------

// lse[i] = ln sum_j exp S[i step_i + j step_j], a block each: rows, or columns.
__global__ void lse_lines(float *lse, const float *S, int64_t B, int64_t step_i, int64_t step_j)
{
    __shared__ float space[32];
    const float *line = S + blockIdx.x * step_i;
    float top = -INFINITY, sum = 0.0f;
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) top = fmaxf(top, line[j * step_j]);
    top = block_max(top, space);
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) sum += expf(line[j * step_j] - top);
    sum = block_sum(sum, space);
    if (threadIdx.x == 0) lse[blockIdx.x] = top + logf(sum);
}

__global__ void clip_value(double *loss, const float *S, const float *lse_row, const float *lse_col, int64_t B)
{
    __shared__ double space[THREADS];
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < B; i += blockDim.x) sum += (double)lse_row[i] + (double)lse_col[i] - 2.0 * (double)S[i * B + i];
    space[threadIdx.x] = sum;
    for (int d = THREADS / 2; d > 0; d >>= 1) {
        __syncthreads();
        if ((int)threadIdx.x < d) space[threadIdx.x] += space[threadIdx.x + d];
    }
    if (threadIdx.x == 0) *loss = space[0] / (2.0 * (double)B);
}

// S becomes G; sums[i] = sum_j G S, and (sigmoid) sums[B + i] = sum_j G.
__global__ void clip_gradient(float *S, float *sums, const float *lse_row, const float *lse_col, int64_t B, float factor)
{
    __shared__ float space[32];
    const int64_t i = blockIdx.x;
    float sum = 0.0f;
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) {
        const float s = S[i * B + j];
        const float g = factor * (expf(s - lse_row[i]) + expf(s - lse_col[j]) - (i == j ? 2.0f : 0.0f));
        sum += g * s;
        S[i * B + j] = g;
    }
    sum = block_sum(sum, space);
    if (threadIdx.x == 0) sums[i] = sum;
}

__global__ void add_up(float *to, const float *sums, int64_t B)
{
    double sum = 0.0;
    for (int64_t i = 0; i < B; i++) sum += (double)sums[i];
    *to += (float)sum;
}

// out = s in, as the rows' type; s = exp(t).
template <class T> __global__ void unpack(T *out, int64_t os, const float *in, const float *t, int64_t B, int64_t E)
{
    const float s = expf(*t);
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < B * E; i += (int64_t)gridDim.x * blockDim.x)
        put(out, i / E * os + i % E, s * in[i]);
}

template <class T> __global__ void widen_rows(float *out, const T *in, int64_t is, const float *t, int64_t B, int64_t E)
{
    const float s = t ? expf(*t) : 1.0f;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < B * E; i += (int64_t)gridDim.x * blockDim.x)
        out[i] = s * get(in, i / E * is + i % E);
}

typedef struct scores {
    float *S, *u, *v, *d, *sums;
} scores;

// S = exp(t) u v^T in f32, whatever the rows hold.
static scores make_scores(pc_tensor u, pc_tensor v, pc_tensor t)
{
    const int64_t B = u.dim[0], E = u.dim[1], BE = (B * E + 63) / 64 * 64, BB = (B * B + 63) / 64 * 64;
    scores s;
    s.S = (float *)pc_cuda_workspace((size_t)(BB + 3 * BE + 2 * B) * sizeof(float));
    s.u = s.S + BB;
    s.v = s.u + BE;
    s.d = s.v + BE;
    s.sums = s.d + BE;
    BY_TYPE(u, LAUNCH(widen_rows<T>, blocks_for(B * E), THREADS, 0, s.u, (const T *)u.data, u.stride, (const float *)t.data, B, E);
            LAUNCH(widen_rows<T>, blocks_for(B * E), THREADS, 0, s.v, (const T *)v.data, v.stride, (const float *)NULL, B, E));
    pc_cuda_product(false, true, B, B, E, 1.0f, s.u, E, s.v, E, 0.0f, s.S, B, PC_F32, PC_F32);
    return s;
}

// du = exp(t) G v, dv = G^T (exp(t) u), of G in s.S.
static void both_sides(const scores *s, pc_tensor du, pc_tensor dv, pc_tensor t)
{
    if (pc_present(du)) {
        const int64_t B = du.dim[0], E = du.dim[1];
        pc_cuda_product(false, false, B, E, B, 1.0f, s->S, B, s->v, E, 0.0f, s->d, E, PC_F32, PC_F32);
        BY_TYPE(du, LAUNCH(unpack<T>, blocks_for(B * E), THREADS, 0, (T *)du.data, du.stride, s->d, (const float *)t.data, B, E));
    }
    if (pc_present(dv)) {
        const int64_t B = dv.dim[0], E = dv.dim[1];
        pc_cuda_product(true, false, B, E, B, 1.0f, s->S, B, s->u, E, 0.0f, s->d, E, PC_F32, PC_F32);
        pc_tensor d = pc_view2(s->d, PC_F32, B, E);
        cuda_copy_forward(NULL, dv, d);
    }
}

void cuda_clip_loss_forward(pc_ctx *, pc_tensor loss, pc_tensor lse_row, pc_tensor lse_col, pc_tensor u, pc_tensor v, pc_tensor t)
{
    const int64_t B = u.dim[0];
    const scores s = make_scores(u, v, t);
    LAUNCH(lse_lines, (unsigned)B, THREADS, 0, (float *)lse_row.data, s.S, B, B, (int64_t)1);
    LAUNCH(lse_lines, (unsigned)B, THREADS, 0, (float *)lse_col.data, s.S, B, (int64_t)1, B);
    LAUNCH(clip_value, 1, THREADS, 0, (double *)loss.data, s.S, (const float *)lse_row.data, (const float *)lse_col.data, B);
}

void cuda_clip_loss_backward(pc_ctx *, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor u, pc_tensor v, pc_tensor t, pc_tensor lse_row,
                             pc_tensor lse_col, double scale)
{
    const int64_t B = u.dim[0];
    const scores s = make_scores(u, v, t);
    LAUNCH(clip_gradient, (unsigned)B, THREADS, 0, s.S, s.sums, (const float *)lse_row.data, (const float *)lse_col.data, B,
           (float)(scale / (2.0 * (double)B)));
    if (pc_present(dt)) LAUNCH(add_up, 1, 1, 0, (float *)dt.data, s.sums, B);
    both_sides(&s, du, dv, t);
}

// ---- a sigmoid for every pair ------------------------------------------------------------------------

__device__ __forceinline__ float softplus(float z)
{
    return fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z)));
}

// sums[i] = sum_j softplus(z) - z_ii; z = S + b
__global__ void sigmoid_value(float *sums, const float *S, const float *b, int64_t B)
{
    __shared__ float space[32];
    const int64_t i = blockIdx.x;
    float sum = 0.0f;
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) {
        const float z = S[i * B + j] + *b;
        sum += softplus(z) - (i == j ? z : 0.0f);
    }
    sum = block_sum(sum, space);
    if (threadIdx.x == 0) sums[i] = sum;
}

__global__ void mean_up(double *to, const float *sums, int64_t B)
{
    double sum = 0.0;
    for (int64_t i = 0; i < B; i++) sum += (double)sums[i];
    *to = sum / (double)B;
}

__global__ void sigmoid_gradient(float *S, float *sums, const float *b, int64_t B, float factor)
{
    __shared__ float space[32];
    const int64_t i = blockIdx.x;
    float st = 0.0f, sb = 0.0f;
    for (int64_t j = threadIdx.x; j < B; j += blockDim.x) {
        const float s = S[i * B + j], g = factor * (1.0f / (1.0f + expf(-(s + *b))) - (i == j ? 1.0f : 0.0f));
        st += g * s;
        sb += g;
        S[i * B + j] = g;
    }
    st = block_sum(st, space);
    sb = block_sum(sb, space);
    if (threadIdx.x == 0) {
        sums[i] = st;
        sums[B + i] = sb;
    }
}

void cuda_sigmoid_loss_forward(pc_ctx *, pc_tensor loss, pc_tensor u, pc_tensor v, pc_tensor t, pc_tensor b)
{
    const int64_t B = u.dim[0];
    const scores s = make_scores(u, v, t);
    LAUNCH(sigmoid_value, (unsigned)B, THREADS, 0, s.sums, s.S, (const float *)b.data, B);
    LAUNCH(mean_up, 1, 1, 0, (double *)loss.data, s.sums, B);
}

void cuda_sigmoid_loss_backward(pc_ctx *, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor db, pc_tensor u, pc_tensor v, pc_tensor t,
                                pc_tensor b, double scale)
{
    const int64_t B = u.dim[0];
    const scores s = make_scores(u, v, t);
    LAUNCH(sigmoid_gradient, (unsigned)B, THREADS, 0, s.S, s.sums, (const float *)b.data, B, (float)(scale / (double)B));
    if (pc_present(dt)) LAUNCH(add_up, 1, 1, 0, (float *)dt.data, s.sums, B);
    if (pc_present(db)) LAUNCH(add_up, 1, 1, 0, (float *)db.data, s.sums + B, B);
    both_sides(&s, du, dv, t);
}

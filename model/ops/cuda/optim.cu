/*
 * optim.cu - the optimiser's step and the gradient norm. Formulas: ops.h. All f32.
 */
#include "model/ops/cuda/device.cuh"

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

static const unsigned SQUARE_BLOCKS = 512;

__global__ void squares(double *part, const float *x, int64_t n)
{
    __shared__ double space[THREADS];
    double sum = 0.0;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        sum += (double)x[i] * (double)x[i];
    space[threadIdx.x] = sum;
    for (int d = THREADS / 2; d > 0; d >>= 1) {
        __syncthreads();
        if ((int)threadIdx.x < d) space[threadIdx.x] += space[threadIdx.x + d];
    }
    if (threadIdx.x == 0) part[blockIdx.x] = space[0];
}

__global__ void add_squares(double *out, const double *part, int count)
{
    double sum = 0.0;
    for (int i = 0; i < count; i++) sum += part[i];
    *out += sum;
}

void cuda_square_sum(pc_ctx *, pc_tensor out, pc_tensor x)
{
    const int64_t n = pc_numel(x);
    if (n == 0) return;
    PC_ASSERT(x.dtype == PC_F32 && pc_is_dense(x), "square_sum of %s", pc_dtype_name(x.dtype));
    const unsigned blocks = blocks_for(n) < SQUARE_BLOCKS ? blocks_for(n) : SQUARE_BLOCKS;
    double *part = (double *)pc_cuda_workspace(SQUARE_BLOCKS * sizeof *part);
    LAUNCH(squares, blocks, THREADS, 0, part, (const float *)x.data, n);
    LAUNCH(add_squares, 1, 1, 0, (double *)out.data, part, (int)blocks);
}

/*
 * norm.cu - LayerNorm, RMSNorm, unit rows. Formulas: ops.h. A block takes a row; statistics are f32.
 *
 * Gradients of gain and bias: a block takes 32 columns and a slice of the rows; slices are added up in order by a
 * second kernel.
 */
#include "model/ops/cuda/device.cuh"

// Row r of (N,C), or of (N,H,C) strided heads: r = n H + h.
__device__ __forceinline__ int64_t row_at(int64_t r, int64_t H, int64_t stride, int64_t C)
{
    return r / H * stride + r % H * C;
}

template <class T, bool CENTRED>
__global__ void norm_rows(T *y, int64_t ys, float *mean, float *rstd, const T *x, int64_t xs, const float *g, const float *b,
                          int64_t H, int64_t C, float eps)
{
    __shared__ float space[32];
    const int64_t r = blockIdx.x;
    const T *in = x + row_at(r, H, xs, C);
    T *out = y + row_at(r, H, ys, C);
    float m = 0.0f, sum = 0.0f;
    if (CENTRED) {
        for (int64_t c = threadIdx.x; c < C; c += blockDim.x) sum += get(in, c);
        m = block_sum(sum, space) / (float)C;
        sum = 0.0f;
    }
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
        const float d = get(in, c) - m;
        sum += d * d;
    }
    const float s = rsqrtf(block_sum(sum, space) / (float)C + eps);
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
        const float v = (get(in, c) - m) * s * g[c];
        put(out, c, CENTRED ? v + b[c] : v);
    }
    if (threadIdx.x == 0) {
        if (CENTRED) mean[r] = m;
        rstd[r] = s;
    }
}

template <class T, bool CENTRED>
__global__ void norm_rows_backward(T *dx, int64_t ds, const T *dy, int64_t ys, const T *x, int64_t xs, const float *g, const float *mean,
                                   const float *rstd, const T *add, int64_t adds, int64_t H, int64_t C)
{
    __shared__ float space[32];
    const int64_t r = blockIdx.x;
    const T *in = x + row_at(r, H, xs, C), *up = dy + row_at(r, H, ys, C);
    const float m = CENTRED ? mean[r] : 0.0f, s = rstd[r];
    float a = 0.0f, b = 0.0f; // sum of g dy, of g dy x^
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
        const float d = get(up, c) * g[c];
        a += d;
        b += d * (get(in, c) - m) * s;
    }
    a = CENTRED ? block_sum(a, space) / (float)C : 0.0f;
    b = block_sum(b, space) / (float)C;
    T *out = dx + row_at(r, H, ds, C);
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
        const float v = s * (get(up, c) * g[c] - a - (get(in, c) - m) * s * b);
        put(out, c, add ? v + get(add + row_at(r, H, adds, C), c) : v);
    }
}

static const int COLUMNS = 32, LINES = 8, SLICES = 64;

// part[slice][c] = sum over the slice's rows of dy x^ (and, behind these, of dy).
template <class T, bool CENTRED>
__global__ void norm_sums(float *part, const T *dy, int64_t ys, const T *x, int64_t xs, const float *mean, const float *rstd, int64_t R,
                          int64_t H, int64_t C)
{
    __shared__ float gains[LINES][COLUMNS], biases[LINES][COLUMNS];
    const int64_t c = blockIdx.x * (int64_t)COLUMNS + threadIdx.x;
    const int64_t per = (R + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * per, end = begin + per < R ? begin + per : R;
    float dg = 0.0f, db = 0.0f;
    if (c < C)
        for (int64_t r = begin + threadIdx.y; r < end; r += LINES) {
            const float d = get(dy + row_at(r, H, ys, C), c);
            dg += d * (get(x + row_at(r, H, xs, C), c) - (CENTRED ? mean[r] : 0.0f)) * rstd[r];
            db += d;
        }
    gains[threadIdx.y][threadIdx.x] = dg;
    biases[threadIdx.y][threadIdx.x] = db;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) return;
    for (int i = 1; i < LINES; i++) {
        dg += gains[i][threadIdx.x];
        db += biases[i][threadIdx.x];
    }
    part[blockIdx.y * C + c] = dg;
    part[(gridDim.y + blockIdx.y) * C + c] = db;
}

// d[c] += sum over slices of part[slice][c]; then the same for the second half.
__global__ void norm_gather(float *dg, float *db, const float *part, int64_t slices, int64_t C)
{
    const int64_t c = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (c >= C) return;
    float a = 0.0f, b = 0.0f;
    for (int64_t s = 0; s < slices; s++) {
        a += part[s * C + c];
        b += part[(slices + s) * C + c];
    }
    if (dg) dg[c] += a;
    if (db) db[c] += b;
}

static int norm_threads(int64_t C)
{
    return C > 2048 ? 512 : C > 512 ? 256 : C > 128 ? 128 : C > 32 ? 64 : 32;
}

static int64_t heads_of(pc_tensor x)
{
    return x.rank == 3 ? x.dim[1] : 1;
}

static int64_t width_of(pc_tensor x)
{
    return x.dim[x.rank - 1];
}

void cuda_layernorm_forward(pc_ctx *, pc_tensor y, pc_tensor mean, pc_tensor rstd, pc_tensor x, pc_tensor g, pc_tensor b, double eps)
{
    if (x.dim[0] == 0) return;
    BY_TYPE(x, LAUNCH((norm_rows<T, true>), (unsigned)x.dim[0], norm_threads(x.dim[1]), 0, (T *)y.data, y.stride, (float *)mean.data,
                      (float *)rstd.data, (const T *)x.data, x.stride, (const float *)g.data, (const float *)b.data, 1, x.dim[1],
                      (float)eps));
}

void cuda_rmsnorm_forward(pc_ctx *, pc_tensor y, pc_tensor rstd, pc_tensor x, pc_tensor g, double eps)
{
    const int64_t H = heads_of(x), C = width_of(x), R = x.dim[0] * H;
    if (R == 0) return;
    BY_TYPE(x, LAUNCH((norm_rows<T, false>), (unsigned)R, norm_threads(C), 0, (T *)y.data, y.stride, NULL, (float *)rstd.data,
                      (const T *)x.data, x.stride, (const float *)g.data, NULL, H, C, (float)eps));
}

template <bool CENTRED>
static void backward(pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy, pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd,
                     pc_tensor add)
{
    const int64_t H = heads_of(x), C = width_of(x), R = x.dim[0] * H;
    if (R == 0) return;
    // Before dx, which may be dy.
    if (pc_present(dg) || pc_present(db)) {
        const int64_t slices = R < 4 * LINES * SLICES ? (R + 4 * LINES - 1) / (4 * LINES) : SLICES;
        float *part = (float *)pc_cuda_workspace((size_t)(2 * slices * C) * sizeof *part);
        BY_TYPE(x, LAUNCH((norm_sums<T, CENTRED>), dim3(blocks_for(C, COLUMNS), (unsigned)slices), dim3(COLUMNS, LINES), 0, part,
                          (const T *)dy.data, dy.stride, (const T *)x.data, x.stride, (const float *)mean.data,
                          (const float *)rstd.data, R, H, C));
        LAUNCH(norm_gather, blocks_for(C), THREADS, 0, (float *)dg.data, (float *)db.data, part, slices, C);
    }
    BY_TYPE(x, LAUNCH((norm_rows_backward<T, CENTRED>), (unsigned)R, norm_threads(C), 0, (T *)dx.data, dx.stride, (const T *)dy.data,
                      dy.stride, (const T *)x.data, x.stride, (const float *)g.data, (const float *)mean.data,
                      (const float *)rstd.data, (const T *)add.data, add.stride, H, C));
}

void cuda_layernorm_backward(pc_ctx *, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy, pc_tensor x, pc_tensor g, pc_tensor mean,
                             pc_tensor rstd, pc_tensor add)
{
    backward<true>(dx, dg, db, dy, x, g, mean, rstd, add);
}

void cuda_rmsnorm_backward(pc_ctx *, pc_tensor dx, pc_tensor dg, pc_tensor dy, pc_tensor x, pc_tensor g, pc_tensor rstd, pc_tensor add)
{
    backward<false>(dx, dg, PC_NONE, dy, x, g, PC_NONE, rstd, add);
}

// ---- unit rows ---------------------------------------------------------------------------------------

template <class T> __global__ void unit_rows(T *y, int64_t ys, float *inv, const T *x, int64_t xs, int64_t C)
{
    __shared__ float space[32];
    const int64_t r = blockIdx.x;
    float sum = 0.0f;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) sum += get(x, r * xs + c) * get(x, r * xs + c);
    const float s = 1.0f / fmaxf(sqrtf(block_sum(sum, space)), 1e-12f);
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) put(y, r * ys + c, get(x, r * xs + c) * s);
    if (threadIdx.x == 0) inv[r] = s;
}

template <class T>
__global__ void unit_rows_backward(T *dx, int64_t ds, const T *dy, int64_t us, const T *y, int64_t ys, const float *inv, int64_t C)
{
    __shared__ float space[32];
    const int64_t r = blockIdx.x;
    float sum = 0.0f;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) sum += get(dy, r * us + c) * get(y, r * ys + c);
    sum = block_sum(sum, space);
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x)
        put(dx, r * ds + c, inv[r] * (get(dy, r * us + c) - get(y, r * ys + c) * sum));
}

void cuda_l2norm_forward(pc_ctx *, pc_tensor y, pc_tensor inv, pc_tensor x)
{
    if (x.dim[0] == 0) return;
    BY_TYPE(x, LAUNCH(unit_rows<T>, (unsigned)x.dim[0], norm_threads(x.dim[1]), 0, (T *)y.data, y.stride, (float *)inv.data,
                      (const T *)x.data, x.stride, x.dim[1]));
}

void cuda_l2norm_backward(pc_ctx *, pc_tensor dx, pc_tensor dy, pc_tensor y, pc_tensor inv)
{
    if (y.dim[0] == 0) return;
    BY_TYPE(y, LAUNCH(unit_rows_backward<T>, (unsigned)y.dim[0], norm_threads(y.dim[1]), 0, (T *)dx.data, dx.stride, (const T *)dy.data,
                      dy.stride, (const T *)y.data, y.stride, (const float *)inv.data, y.dim[1]));
}

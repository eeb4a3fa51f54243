/*
 * muon.cu - orthogonalised momentum for a batch of matrices of one shape. Formulas: ops.h, step.h and
 * cpu/portable/muon.c. X is f32, or bf16 with products that add up in f32.
 *
 * |u|_F stays on the device: slices of a matrix are summed in double, and every block of the second pass adds the slices
 * up again in their order.
 */
#include "model/ops/cuda/step.cuh"

#include <math.h>

static const int64_t SLICE = 8192, SLICES = 256;

// Piece b's momentum, old or new, of either type.
__device__ __forceinline__ float number(const void *p, pc_dtype t, int64_t i)
{
    return t == PC_BF16 ? get((const bf16 *)p, i) : ((const float *)p)[i];
}

template <bool RANDOM>
__device__ __forceinline__ void put_number(void *p, pc_dtype t, int64_t i, float x, const random_key &key, int64_t at, int role)
{
    if (t == PC_BF16)
        put_one<RANDOM>((bf16 *)p, i, x, key, at, role);
    else
        ((float *)p)[i] = x;
}

template <bool RANDOM>
__global__ void momentum(double *part, const pc_piece *list, float keep, float take, const double *gate, random_key key)
{
    if (gate[PC_GATE_SHUT] != 0.0) return;
    __shared__ double space[THREADS];
    const pc_piece p = list[blockIdx.y];
    const float scale = (float)gate[PC_GATE_SCALE];
    double sum = 0.0;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < p.n; i += (int64_t)gridDim.x * THREADS) {
        const float g = scale * number(p.g, p.g_type, i), m = keep * number(p.m, p.moment_type, i) + take * g;
        put_number<RANDOM>(p.m, p.moment_type, i, m, key, p.first + i, PC_ROUND_M);
        const float u = take * g + keep * number(p.m, p.moment_type, i); // of m as it is stored
        sum += (double)u * (double)u;
    }
    space[threadIdx.x] = sum;
    for (int d = THREADS / 2; d > 0; d >>= 1) {
        __syncthreads();
        if ((int)threadIdx.x < d) space[threadIdx.x] += space[threadIdx.x + d];
    }
    if (threadIdx.x == 0) part[blockIdx.y * gridDim.x + blockIdx.x] = space[0];
}

template <class T>
__global__ void look_ahead(T *X, const double *part, const pc_piece *list, float keep, float take, const double *gate)
{
    if (gate[PC_GATE_SHUT] != 0.0) return;
    __shared__ float by;
    const pc_piece p = list[blockIdx.y];
    const float scale = (float)gate[PC_GATE_SCALE];
    if (threadIdx.x == 0) {
        double sum = 0.0;
        for (unsigned i = 0; i < gridDim.x; i++) sum += part[blockIdx.y * gridDim.x + i];
        by = (float)(1.0 / (sqrt(sum) + PC_MUON_TINY));
    }
    __syncthreads();
    T *x = X + blockIdx.y * p.n;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < p.n; i += (int64_t)gridDim.x * THREADS) {
        const float g = scale * number(p.g, p.g_type, i);
        put(x, i, by * (take * g + keep * number(p.m, p.moment_type, i)));
    }
}

static dim3 slices_of(pc_tensor X)
{
    const int64_t slices = (X.dim[1] * X.dim[2] + SLICE - 1) / SLICE;
    return dim3((unsigned)(slices < SLICES ? slices : SLICES), (unsigned)X.dim[0]);
}

void cuda_muon_ahead(pc_ctx *, pc_tensor X, const pc_piece *list, double beta, pc_tensor gate, const pc_rng_key *rounding)
{
    const dim3 grid = slices_of(X);
    const double *g = (const double *)gate.data;
    const float keep = (float)beta, take = (float)(1.0 - beta);
    const random_key key = random_key_of(rounding);
    double *part = (double *)pc_cuda_workspace((size_t)grid.x * grid.y * sizeof *part);
    if (rounding)
        LAUNCH(momentum<true>, grid, THREADS, 0, part, list, keep, take, g, key);
    else
        LAUNCH(momentum<false>, grid, THREADS, 0, part, list, keep, take, g, key);
    BY_TYPE(X, LAUNCH(look_ahead<T>, grid, THREADS, 0, (T *)X.data, part, list, keep, take, g));
}

// P <- a I + b A + c P, matrix by matrix (r,r).
template <class T> __global__ void polynomial(T *P, const T *A, int64_t r, int64_t n)
{
    const float a = (float)PC_QUINTIC_A, b = (float)PC_QUINTIC_B, c = (float)PC_QUINTIC_C;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS) {
        const int64_t at = i % (r * r);
        put(P, i, b * get(A, i) + c * get(P, i) + (at / r == at % r ? a : 0.0f));
    }
}

// X, A, P, Y: matrices (B,R,C), (B,r,r), (B,r,r), (B,R,C).
static void iterate(const pc_cuda_call *call)
{
    const int64_t B = call->number[0], R = call->number[1], C = call->number[2], r = R < C ? R : C, n = B * r * r;
    const pc_dtype t = (pc_dtype)call->number[3];
    const unsigned blocks = blocks_for(n) < 4096u ? blocks_for(n) : 4096u;
    void *X = call->at[0], *A = call->at[1], *P = call->at[2], *from = X, *to = call->at[3];
    for (int k = 0; k < PC_QUINTIC_STEPS; k++) {
        if (R > C)
            pc_cuda_products(B, true, false, r, r, R, 1.0f, from, C, R * C, from, C, R * C, 0.0f, A, r, r * r, t, t);
        else
            pc_cuda_products(B, false, true, r, r, C, 1.0f, from, C, R * C, from, C, R * C, 0.0f, A, r, r * r, t, t);
        pc_cuda_products(B, false, false, r, r, r, 1.0f, A, r, r * r, A, r, r * r, 0.0f, P, r, r * r, t, t);
        if (t == PC_BF16)
            LAUNCH(polynomial<bf16>, blocks, THREADS, 0, (bf16 *)P, (const bf16 *)A, r, n);
        else
            LAUNCH(polynomial<float>, blocks, THREADS, 0, (float *)P, (const float *)A, r, n);
        if (R > C)
            pc_cuda_products(B, false, false, R, C, r, 1.0f, from, C, R * C, P, r, r * r, 0.0f, to, C, R * C, t, t);
        else
            pc_cuda_products(B, false, false, R, C, r, 1.0f, P, r, r * r, from, C, R * C, 0.0f, to, C, R * C, t, t);
        void *swap = from;
        from = to;
        to = swap;
    }
    if (from != X) CHECK_CUDA(cudaMemcpyAsync(X, from, (size_t)(B * R * C) * pc_dtype_size(t), cudaMemcpyDeviceToDevice, pc_cuda_stream));
}

// A score of launches for each shape of matrix, the same at every step: replayed.
void cuda_orthogonal(pc_ctx *ctx, pc_tensor X)
{
    const int64_t B = X.dim[0], R = X.dim[1], C = X.dim[2], r = R < C ? R : C;
    const pc_dtype t = X.dtype;
    const size_t mark = pc_arena_mark(ctx->scratch);
    PC_ASSERT(X.rank == 3 && pc_is_dense(X) && (t == PC_BF16 || t == PC_F32), "orthogonal: X is (B,R,C), of %s", pc_dtype_name(t));
    const pc_tensor A = pc_alloc3(ctx->scratch, t, B, r, r), P = pc_alloc3(ctx->scratch, t, B, r, r),
                    Y = pc_alloc3(ctx->scratch, t, B, R, C);
    const pc_cuda_call call = {0, {B, R, C, t, 0, 0, 0, 0}, {X.data, A.data, P.data, Y.data}};
    pc_cuda_repeated(&call, iterate);
    pc_arena_release(ctx->scratch, mark);
}

template <class T, bool RANDOM>
__global__ void apply(const pc_piece *list, const T *X, double lr, double decay, double side, const double *gate, random_key key)
{
    if (gate[PC_GATE_SHUT] != 0.0) return;
    const pc_piece p = list[blockIdx.y];
    const T *x = X + blockIdx.y * p.n;
    const double own = lr * p.lr_scale;
    const float keep = (float)(1.0 - own * (decay * p.decay)), step = (float)(own * PC_MUON_SCALE * sqrt(side));
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < p.n; i += (int64_t)gridDim.x * THREADS) {
        if (p.master) {
            float *kept = (float *)p.master;
            const float w = keep * kept[i] - step * get(x, i);
            kept[i] = w;
            put_number<false>(p.w, p.w_type, i, w, key, p.first + i, PC_ROUND_W);
        } else {
            const float w = keep * number(p.w, p.w_type, i) - step * get(x, i);
            put_number<RANDOM>(p.w, p.w_type, i, w, key, p.first + i, PC_ROUND_W);
        }
    }
}

void cuda_muon_apply(pc_ctx *, const pc_piece *list, pc_tensor X, double lr, double weight_decay, pc_tensor gate,
                     const pc_rng_key *rounding)
{
    const dim3 grid = slices_of(X);
    const double side = (double)(X.dim[1] > X.dim[2] ? X.dim[1] : X.dim[2]);
    const double *g = (const double *)gate.data;
    const random_key key = random_key_of(rounding);
    BY_TYPE(X, if (rounding) LAUNCH((apply<T, true>), grid, THREADS, 0, list, (const T *)X.data, lr, weight_decay, side, g, key);
            else LAUNCH((apply<T, false>), grid, THREADS, 0, list, (const T *)X.data, lr, weight_decay, side, g, key));
}

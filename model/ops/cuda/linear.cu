/*
 * linear.cu - linear maps: products through cuBLASLt, bias, residual and activation around them. Formulas: ops.h.
 *
 * A row-major product is a column-major one of the transposes: C^T (N,M) = op(B)^T op(A)^T. The library's heuristics
 * are asked once for a shape and the answer is kept; schemes that add up by atomics are ruled out.
 */
#include <cublasLt.h>

#include "model/ops/cuda/act.cuh"
#include "model/ops/cuda/decode.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE = 64 << 20 };

typedef struct shape {
    bool trans_a, trans_b, add, aligned;
    pc_dtype in, out;
    int64_t M, N, K, lda, ldb, ldc;
    int64_t batch, next_a, next_b, next_c; // so many alike, so far apart
} shape;

typedef struct plan {
    shape key;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    struct plan *next;
} plan;

enum { BUCKETS = 1024 };
static plan *plans[BUCKETS];
static cublasLtHandle_t handle;
static void *space;

static void check(cublasStatus_t s, const char *what, const shape *k)
{
    if (s == CUBLAS_STATUS_SUCCESS) return;
    fprintf(stderr, "error: the GPU's matrix product failed at %s: %s (M %lld, N %lld, K %lld)\n", what, cublasLtGetStatusString(s),
            k ? (long long)k->M : 0LL, k ? (long long)k->N : 0LL, k ? (long long)k->K : 0LL);
    exit(1);
}

static cudaDataType type_of(pc_dtype t)
{
    return t == PC_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasLtMatrixLayout_t layout(pc_dtype t, int64_t rows, int64_t columns, int64_t ld, int64_t next, const shape *k)
{
    cublasLtMatrixLayout_t l;
    const int32_t batch = (int32_t)k->batch;
    check(cublasLtMatrixLayoutCreate(&l, type_of(t), (uint64_t)rows, (uint64_t)columns, ld), "layout", k);
    if (batch == 1) return l;
    check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch), "batch", k);
    check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &next, sizeof next), "batch", k);
    return l;
}

// Column-major: A is our B, B our A.
static plan *make_plan(const shape *k)
{
    plan *p = (plan *)calloc(1, sizeof *p);
    PC_ASSERT(p, "no memory for a product's plan");
    p->key = *k;
    const cublasOperation_t yes = CUBLAS_OP_T, no = CUBLAS_OP_N;
    check(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description", k);
    check(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, k->trans_b ? &yes : &no, sizeof yes), "transposition", k);
    check(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, k->trans_a ? &yes : &no, sizeof yes), "transposition", k);
    p->a = k->trans_b ? layout(k->in, k->K, k->N, k->ldb, k->next_b, k) : layout(k->in, k->N, k->K, k->ldb, k->next_b, k);
    p->b = k->trans_a ? layout(k->in, k->M, k->K, k->lda, k->next_a, k) : layout(k->in, k->K, k->M, k->lda, k->next_a, k);
    p->c = layout(k->out, k->N, k->M, k->ldc, k->next_c, k);

    cublasLtMatmulPreference_t want;
    const size_t room = WORKSPACE;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_INPLACE;
    const uint32_t align = k->aligned ? 16 : (uint32_t)pc_dtype_size(k->in);
    check(cublasLtMatmulPreferenceCreate(&want), "preference", k);
    cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
    cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes);
    cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align);
    cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align);
    const uint32_t align_c = k->aligned ? 16 : (uint32_t)pc_dtype_size(k->out);
    cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_c, sizeof align_c);
    cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_c, sizeof align_c);
    cublasLtMatmulHeuristicResult_t found[1];
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle, p->op, p->a, p->b, p->c, p->c, want, 1, found, &count), "choice", k);
    if (count < 1) check(CUBLAS_STATUS_NOT_SUPPORTED, "choice", k);
    cublasLtMatmulPreferenceDestroy(want);
    p->algo = found[0].algo;
    return p;
}

static const plan *plan_of(const shape *k)
{
    uint64_t h = 1469598103934665603ull;
    const unsigned char *bytes = (const unsigned char *)k;
    for (size_t i = 0; i < sizeof *k; i++) h = (h ^ bytes[i]) * 1099511628211ull;
    plan **bucket = &plans[h % BUCKETS];
    for (plan *p = *bucket; p; p = p->next)
        if (!memcmp(&p->key, k, sizeof *k)) return p;
    plan *p = make_plan(k);
    p->next = *bucket;
    *bucket = p;
    return p;
}

void pc_cuda_product(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha, const void *A, int64_t lda, const void *B,
                     int64_t ldb, float beta, void *C, int64_t ldc, pc_dtype in, pc_dtype out)
{
    pc_cuda_products(1, trans_a, trans_b, M, N, K, alpha, A, lda, 0, B, ldb, 0, beta, C, ldc, 0, in, out);
}

void pc_cuda_products(int64_t batch, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha, const void *A, int64_t lda,
                      int64_t next_a, const void *B, int64_t ldb, int64_t next_b, float beta, void *C, int64_t ldc, int64_t next_c,
                      pc_dtype in, pc_dtype out)
{
    if (M <= 0 || N <= 0) return;
    if (!handle) {
        check(cublasLtCreate(&handle), "start", NULL);
        CHECK_CUDA(cudaMalloc(&space, WORKSPACE));
    }
    shape k;
    memset(&k, 0, sizeof k); // its bytes are compared
    k.trans_a = trans_a, k.trans_b = trans_b, k.add = beta != 0.0f;
    k.in = in, k.out = out, k.M = M, k.N = N, k.K = K;
    // A single row or column may come with any stride; the library wants at least the width.
    k.lda = lda < (trans_a ? M : K) ? (trans_a ? M : K) : lda;
    k.ldb = ldb < (trans_b ? K : N) ? (trans_b ? K : N) : ldb;
    k.ldc = ldc < N ? N : ldc;
    const uintptr_t all = (uintptr_t)A | (uintptr_t)B | (uintptr_t)C | (uintptr_t)(k.lda * (int64_t)pc_dtype_size(in)) |
                          (uintptr_t)(k.ldb * (int64_t)pc_dtype_size(in)) | (uintptr_t)(k.ldc * (int64_t)pc_dtype_size(out));
    k.batch = batch, k.next_a = next_a, k.next_b = next_b, k.next_c = next_c;
    const int64_t steps = batch == 1 ? 0 : (next_a | next_b) * (int64_t)pc_dtype_size(in) | next_c * (int64_t)pc_dtype_size(out);
    k.aligned = (all | (uintptr_t)steps) % 16 == 0;
    const plan *p = plan_of(&k);
    check(cublasLtMatmul(handle, p->op, &alpha, B, p->a, A, p->b, &beta, C, p->c, C, p->c, &p->algo, space, WORKSPACE, pc_cuda_stream),
          "the product", &k);
}

// y = f?(y + b? + r?), with z, where it is wanted, what f was given.
template <class T, int KIND>
__global__ void finish(T *y, int64_t ys, T *z, int64_t zs, const float *b, const T *r, int64_t rs, int64_t n, int64_t O)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t m = i / O, o = i - m * O;
        float v = get(KIND < 0 ? y + m * ys : z + m * zs, o);
        if (b) v += b[o];
        if (r) v += get(r, m * rs + o);
        if (KIND >= 0) put(z, m * zs + o, v);
        put(y, m * ys + o, KIND < 0 ? v : act_value<KIND>(v));
    }
}

static void product_xw(pc_tensor y, pc_tensor x, pc_tensor w, float beta)
{
    PC_ASSERT(w.dtype == x.dtype, "linear: W of %s, x of %s", pc_dtype_name(w.dtype), pc_dtype_name(x.dtype));
    pc_cuda_product(false, true, x.dim[0], w.dim[0], x.dim[1], 1.0f, x.data, x.stride, w.data, w.stride, beta, y.data, y.stride, x.dtype,
                    y.dtype);
}

void cuda_linear_forward(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r)
{
    if (pc_cuda_linear_few(ctx, y, PC_NONE, x, w, b, r, -1)) return;
    const bool in_place = pc_present(r) && r.data == y.data;
    product_xw(y, x, w, in_place ? 1.0f : 0.0f);
    if (in_place) r = PC_NONE;
    const int64_t n = pc_numel(y);
    if (n == 0 || !(pc_present(b) || pc_present(r))) return;
    const unsigned blocks = blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
    BY_TYPE(y, LAUNCH((finish<T, -1>), blocks, THREADS, 0, (T *)y.data, y.stride, (T *)NULL, 0, (const float *)b.data, (const T *)r.data,
                      r.stride, n, y.dim[1]));
}

void cuda_linear_act_forward(pc_ctx *ctx, pc_tensor a, pc_tensor z, pc_tensor x, pc_tensor w, pc_tensor b, pc_act kind)
{
    const int64_t n = pc_numel(z);
    if (pc_cuda_linear_few(ctx, a, z, x, w, b, PC_NONE, (int)kind)) return;
    product_xw(z, x, w, 0.0f);
    if (n == 0) return;
    const unsigned blocks = blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
#define FINISH(KIND)                                                                               \
    case KIND:                                                                                     \
        BY_TYPE(z, LAUNCH((finish<T, KIND>), blocks, THREADS, 0, (T *)a.data, a.stride, (T *)z.data, z.stride, (const float *)b.data,     \
                          (const T *)NULL, 0, n, z.dim[1]));                                       \
        break
    switch (kind) {
        FINISH(PC_ACT_GELU);
        FINISH(PC_ACT_GELU_TANH);
        FINISH(PC_ACT_QUICK);
        FINISH(PC_ACT_SILU);
        FINISH(PC_ACT_RELU);
    }
}

static const int COLUMNS = 32, LINES = 8, SLICES = 64;

// part[slice][o] = sum over the slice's rows of dy[n,o].
template <class T> __global__ void bias_sums(float *part, const T *dy, int64_t ys, int64_t N, int64_t O)
{
    __shared__ float lines[LINES][COLUMNS];
    const int64_t o = blockIdx.x * (int64_t)COLUMNS + threadIdx.x;
    const int64_t per = (N + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * per, end = begin + per < N ? begin + per : N;
    float sum = 0.0f;
    if (o < O)
        for (int64_t n = begin + threadIdx.y; n < end; n += LINES) sum += get(dy, n * ys + o);
    lines[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || o >= O) return;
    for (int i = 1; i < LINES; i++) sum += lines[i][threadIdx.x];
    part[blockIdx.y * O + o] = sum;
}

__global__ void bias_gather(float *db, const float *part, int64_t slices, int64_t O)
{
    const int64_t o = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (o >= O) return;
    float sum = 0.0f;
    for (int64_t s = 0; s < slices; s++) sum += part[s * O + o];
    db[o] += sum;
}

void cuda_linear_backward(pc_ctx *, pc_tensor dx, pc_tensor dw, pc_tensor db, pc_tensor dy, pc_tensor x, pc_tensor w)
{
    const int64_t N = dy.dim[0], O = dy.dim[1];
    if (N == 0) return;
    if (pc_present(dx))
        pc_cuda_product(false, false, N, dx.dim[1], O, 1.0f, dy.data, dy.stride, w.data, w.stride, 0.0f, dx.data, dx.stride, dy.dtype,
                        dx.dtype);
    if (pc_present(dw))
        pc_cuda_product(true, false, O, x.dim[1], N, 1.0f, dy.data, dy.stride, x.data, x.stride, 1.0f, dw.data, dw.stride, dy.dtype,
                        dw.dtype);
    if (pc_present(db)) {
        const int64_t slices = N < 4 * LINES * SLICES ? (N + 4 * LINES - 1) / (4 * LINES) : SLICES;
        float *part = (float *)pc_cuda_workspace((size_t)(slices * O) * sizeof *part);
        BY_TYPE(dy, LAUNCH(bias_sums<T>, dim3(blocks_for(O, COLUMNS), (unsigned)slices), dim3(COLUMNS, LINES), 0, part,
                           (const T *)dy.data, dy.stride, N, O));
        LAUNCH(bias_gather, blocks_for(O), THREADS, 0, (float *)db.data, part, slices, O);
    }
}

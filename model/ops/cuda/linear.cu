/*
 * linear.cu - linear maps: products through cuBLASLt, which adds bias and residual before it rounds; activations behind
 * them, sums over rows. Formulas: ops.h.
 *
 * A row-major product is a column-major one of the transposes: C^T (N,M) = op(B)^T op(A)^T. The library's heuristics
 * are asked once for a shape, or for many that differ a little in their rows, and the answer is kept; schemes that add up
 * by atomics are ruled out.
 */
#include <cublasLt.h>

#include "model/ops/cuda/act.cuh"
#include "model/ops/cuda/decode.cuh"
#include "model/ops/cuda/fp8.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE = 64 << 20 };
static const double MUCH = 32.0 * (1 << 30); // multiplications: some 0.1 ms on an H100

// D (M,N) = alpha op(A) op(B) + beta C + bias, row-major; C may be D. bias (N)? is added before rounding.
typedef struct product {
    bool trans_a, trans_b;
    int64_t M, N, K;
    const void *A, *B, *C, *bias;
    void *D;
    int64_t lda, ldb, ldc, ldd;
    int64_t batch, next_a, next_b, next_d; // so many alike, so far apart
    float alpha, beta;
    cudaDataType in_a, in_b, out, bias_type;
    const float *inverse_a, *inverse_b; // of eight bits: what the product is multiplied by besides, on the device
    bool fast;                          // likewise: sums of fewer bits
} product;

// Compared and hashed by its bytes: no holes.
typedef struct shape {
    int32_t trans_a, trans_b, add, aligned, bias, fast;
    int32_t in_a, in_b, out, bias_type; // cudaDataType
    int64_t M, N, K, lda, ldb, ldc, ldd;
    int64_t batch, next_a, next_b, next_d; // so many alike, so far apart
} shape;

// What the heuristics said to a shape.
typedef struct choice {
    shape key;
    bool works; // false: the library has no kernel with this bias, or in eight bits
    cublasLtMatmulAlgo_t algo;
} choice;

typedef struct plan {
    shape key;
    bool works;
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t a, b, c, d;
    cublasLtMatmulAlgo_t algo;
} plan;

/*
 * Kept in tables of a fixed size, where the new takes the place of the oldest of its set. What is kept follows from its key
 * alone, so what is found there, and what has to be made again, changes times and no numbers.
 */
enum { WAYS = 4, PLAN_SETS = 1024, CHOICE_SETS = 256 };
static plan plans[PLAN_SETS][WAYS];
static choice choices[CHOICE_SETS][WAYS];
static unsigned char oldest_plan[PLAN_SETS], oldest_choice[CHOICE_SETS];
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

static bool eight_bits(int32_t type)
{
    return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2;
}

static int64_t size_of(int32_t type)
{
    return eight_bits(type) ? 1 : type == CUDA_R_16BF ? 2 : 4;
}

static void layout(cublasLtMatrixLayoutOpaque_t *l, int32_t t, int64_t rows, int64_t columns, int64_t ld, int64_t next, const shape *k)
{
    const int32_t batch = (int32_t)k->batch;
    check(cublasLtMatrixLayoutInit(l, (cudaDataType)t, (uint64_t)rows, (uint64_t)columns, ld), "layout", k);
    if (batch == 1) return;
    check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch), "batch", k);
    check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &next, sizeof next), "batch", k);
}

static void scale_by(plan *p, const float *a, const float *b)
{
    check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &b, sizeof b), "scale", &p->key);
    check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a, sizeof a), "scale", &p->key);
}

// All of a plan but its algorithm. Column-major: A is our B, B our A.
static void lay_out(plan *p, const shape *k, const void *bias)
{
    memset(p, 0, sizeof *p);
    p->key = *k;
    const cublasOperation_t yes = CUBLAS_OP_T, no = CUBLAS_OP_N;
    check(cublasLtMatmulDescInit(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description", k);
    check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_TRANSA, k->trans_b ? &yes : &no, sizeof yes), "transposition", k);
    check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_TRANSB, k->trans_a ? &yes : &no, sizeof yes), "transposition", k);
    layout(&p->a, k->in_b, k->trans_b ? k->K : k->N, k->trans_b ? k->N : k->K, k->ldb, k->next_b, k);
    layout(&p->b, k->in_a, k->trans_a ? k->M : k->K, k->trans_a ? k->K : k->M, k->lda, k->next_a, k);
    layout(&p->c, k->out, k->N, k->M, k->ldc, k->next_d, k);
    layout(&p->d, k->out, k->N, k->M, k->ldd, k->next_d, k);
    if (eight_bits(k->in_a)) {
        const int8_t fast = (int8_t)k->fast;
        check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast), "accumulation", k);
        scale_by(p, (const float *)space, (const float *)space); // that there are scales decides which kernels there are
    }
    if (!k->bias) return;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType type = (cudaDataType)k->bias_type;
    check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue), "bias", k);
    check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type), "bias", k);
    check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias), "bias", k);
}

// The library's heuristics, asked about the very shape of the plan.
static void ask(plan *p)
{
    const shape *k = &p->key;
    cublasLtMatmulPreferenceOpaque_t want;
    const size_t room = WORKSPACE;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; // no atomics, no sums in bf16
    const uint32_t align = k->aligned ? 16 : (uint32_t)size_of(k->in_a);
    check(cublasLtMatmulPreferenceInit(&want), "preference", k);
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes);
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align);
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align);
    const uint32_t align_c = k->aligned ? 16 : (uint32_t)size_of(k->out);
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_c, sizeof align_c);
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_c, sizeof align_c);
    cublasLtMatmulHeuristicResult_t found[1];
    int count = 0;
    const cublasStatus_t answer = cublasLtMatmulAlgoGetHeuristic(handle, &p->op, &p->a, &p->b, &p->c, &p->d, &want, 1, found, &count);
    p->works = answer == CUBLAS_STATUS_SUCCESS && count > 0;
    if (!p->works && !k->bias && !eight_bits(k->in_a)) check(answer == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_NOT_SUPPORTED : answer, "choice", k);
    if (p->works) p->algo = found[0].algo;
}

static size_t set_of(const shape *k, size_t sets)
{
    uint64_t h = 1469598103934665603ull, word[sizeof *k / sizeof(uint64_t)];
    static_assert(sizeof *k == 10 * sizeof(int32_t) + 11 * sizeof(int64_t), "a shape with holes");
    memcpy(word, k, sizeof *k);
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) h = (h ^ word[i]) * 1099511628211ull, h ^= h >> 29;
    return (size_t)(h % sets);
}

// Eight sizes from one power of two to the next.
static int64_t rounded(int64_t rows)
{
    int64_t step = 1;
    while (16 * step < rows) step *= 2;
    return (rows + step - 1) / step * step;
}

/*
 * The shape whose algorithm a shape takes. Packed batches have another number of rows at each step, and the heuristics need
 * longer than many a product of a small model; so they are asked about a rounded number, be it M, or K where rows are what
 * is summed over. Where the product itself takes far longer the very number is asked about.
 */
static shape model_of(const shape *k)
{
    shape like = *k;
    if (k->batch > 1 || (double)k->M * (double)k->N * (double)k->K > MUCH) return like;
    if (!k->trans_a) like.M = rounded(k->M);
    if (k->trans_a && !k->trans_b) like.K = rounded(k->K);
    if (eight_bits(k->in_a)) { // turned beforehand: K may be rows, and is what a row of either is long
        like.K = rounded(k->K);
        if (like.lda < like.K) like.lda = like.K;
        if (like.ldb < like.K) like.ldb = like.K;
    }
    return like;
}

static const choice *choice_of(const shape *k)
{
    const size_t set = set_of(k, CHOICE_SETS);
    for (int i = 0; i < WAYS; i++)
        if (!memcmp(&choices[set][i].key, k, sizeof *k)) return &choices[set][i];
    plan p;
    lay_out(&p, k, space);
    ask(&p);
    choice *c = &choices[set][oldest_choice[set]++ % WAYS];
    *c = choice{*k, p.works, p.algo};
    return c;
}

static plan *plan_of(const shape *k, const void *bias)
{
    const size_t set = set_of(k, PLAN_SETS);
    for (int i = 0; i < WAYS; i++)
        if (!memcmp(&plans[set][i].key, k, sizeof *k)) return &plans[set][i];
    plan *p = &plans[set][oldest_plan[set]++ % WAYS];
    lay_out(p, k, bias);
    const shape like = model_of(k);
    if (!memcmp(&like, k, sizeof like)) {
        ask(p);
        return p;
    }
    const choice *c = choice_of(&like);
    cublasLtMatmulHeuristicResult_t found;
    p->works = c->works;
    p->algo = c->algo;
    if (p->works && (cublasLtMatmulAlgoCheck(handle, &p->op, &p->a, &p->b, &p->c, &p->d, &p->algo, &found) != CUBLAS_STATUS_SUCCESS ||
                     found.workspaceSize > WORKSPACE))
        ask(p);
    return p;
}

// False: there is no kernel with such a bias, or in eight bits, and nothing was done.
static bool multiply(const product *t)
{
    if (t->M <= 0 || t->N <= 0) return true;
    if (!handle) {
        check(cublasLtCreate(&handle), "start", NULL);
        CHECK_CUDA(cudaMalloc(&space, WORKSPACE));
    }
    const int64_t in = size_of(t->in_a), out = size_of(t->out);
    shape k;
    k.trans_a = t->trans_a, k.trans_b = t->trans_b, k.add = t->beta != 0.0f, k.bias = t->bias != NULL, k.fast = t->fast;
    k.in_a = t->in_a, k.in_b = t->in_b, k.out = t->out, k.bias_type = t->bias ? t->bias_type : t->out, k.M = t->M, k.N = t->N, k.K = t->K;
    // A single row or column may come with any stride; the library wants at least the width.
    const int64_t wide_a = t->trans_a ? t->M : t->K, wide_b = t->trans_b ? t->K : t->N;
    k.lda = t->lda < wide_a ? wide_a : t->lda;
    k.ldb = t->ldb < wide_b ? wide_b : t->ldb;
    k.ldc = t->ldc < t->N ? t->N : t->ldc;
    k.ldd = t->ldd < t->N ? t->N : t->ldd;
    const uintptr_t all = (uintptr_t)t->A | (uintptr_t)t->B | (uintptr_t)t->C | (uintptr_t)t->D | (uintptr_t)(k.lda * in) |
                          (uintptr_t)(k.ldb * in) | (uintptr_t)(k.ldc * out) | (uintptr_t)(k.ldd * out);
    k.batch = t->batch, k.next_a = t->next_a, k.next_b = t->next_b, k.next_d = t->next_d;
    const int64_t steps = t->batch == 1 ? 0 : (t->next_a | t->next_b) * in | t->next_d * out;
    k.aligned = (all | (uintptr_t)steps) % 16 == 0;
    plan *p = plan_of(&k, t->bias);
    if (!p->works) return false;
    if (eight_bits(t->in_a)) scale_by(p, t->inverse_a, t->inverse_b);
    if (t->bias)
        check(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &t->bias, sizeof t->bias), "bias", &k);
    check(cublasLtMatmul(handle, &p->op, &t->alpha, t->B, &p->a, t->A, &p->b, &t->beta, t->C, &p->c, t->D, &p->d, &p->algo, space,
                         WORKSPACE, pc_cuda_stream),
          "the product", &k);
    return true;
}

void pc_cuda_products(int64_t batch, bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha, const void *A, int64_t lda,
                      int64_t next_a, const void *B, int64_t ldb, int64_t next_b, float beta, void *C, int64_t ldc, int64_t next_c,
                      pc_dtype in, pc_dtype out)
{
    product t;
    memset(&t, 0, sizeof t);
    t.batch = batch, t.next_a = next_a, t.next_b = next_b, t.next_d = next_c;
    t.trans_a = trans_a, t.trans_b = trans_b, t.M = M, t.N = N, t.K = K, t.alpha = alpha, t.beta = beta;
    t.A = A, t.B = B, t.C = C, t.D = C, t.lda = lda, t.ldb = ldb, t.ldc = ldc, t.ldd = ldc;
    t.in_a = t.in_b = type_of(in), t.out = type_of(out);
    multiply(&t);
}

void pc_cuda_product(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, float alpha, const void *A, int64_t lda, const void *B,
                     int64_t ldb, float beta, void *C, int64_t ldc, pc_dtype in, pc_dtype out)
{
    pc_cuda_products(1, trans_a, trans_b, M, N, K, alpha, A, lda, 0, B, ldb, 0, beta, C, ldc, 0, in, out);
}

static void in_eight_bits(product *t, const fp8_rows *A, const fp8_rows *B, bool fast)
{
    t->A = A->data, t->B = B->data, t->lda = A->stride, t->ldb = B->stride, t->in_a = A->type, t->in_b = B->type;
    t->inverse_a = A->inverse, t->inverse_b = B->inverse, t->fast = fast;
}

bool pc_cuda_fp8_product(pc_tensor D, const fp8_rows *A, const fp8_rows *B, int64_t K, bool fresh, bool fast)
{
    product t;
    memset(&t, 0, sizeof t);
    t.batch = 1;
    t.trans_b = true, t.M = D.dim[0], t.N = D.dim[1], t.K = K, t.alpha = 1.0f, t.beta = fresh ? 0.0f : 1.0f;
    t.C = t.D = D.data, t.ldc = t.ldd = D.stride, t.out = type_of(D.dtype);
    in_eight_bits(&t, A, B, fast);
    return multiply(&t);
}

// y = f?(y + b), with z, where there is an f, what f was given: after a product without its bias.
template <class T, int KIND>
__global__ void finish(T *y, int64_t ys, T *z, int64_t zs, const float *b, int64_t n, int64_t O)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t m = i / O, o = i - m * O;
        const float v = get(KIND < 0 ? y + m * ys : z + m * zs, o) + (b ? b[o] : 0.0f);
        if (KIND >= 0) put(z, m * zs + o, v);
        put(y, m * ys + o, KIND < 0 ? v : act_value<KIND, sizeof(T) == 2>(v));
    }
}

__global__ void narrow(bf16 *to, const float *from, int64_t n)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i < n) put(to, i, from[i]);
}

typedef enum made { NOT_MADE, WITHOUT_BIAS, MADE } made;

// y = x W^T + b? + r? as the product says. A bias goes in where the library knows a kernel with one, in f32 or rounded to bf16.
static made multiply_xw(product *t, pc_tensor b)
{
    if (pc_present(b)) {
        t->bias = b.data, t->bias_type = CUDA_R_32F;
        if (multiply(t)) return MADE;
        if (t->in_a != CUDA_R_32F && t->out == CUDA_R_16BF) {
            bf16 *rounded = (bf16 *)pc_cuda_workspace((size_t)t->N * sizeof *rounded);
            LAUNCH(narrow, blocks_for(t->N), THREADS, 0, rounded, (const float *)b.data, t->N);
            t->bias = rounded, t->bias_type = CUDA_R_16BF;
            if (multiply(t)) return MADE;
        }
        t->bias = NULL;
    }
    if (!multiply(t)) return NOT_MADE;
    return pc_present(b) ? WITHOUT_BIAS : MADE;
}

/*
 * y = x W^T + b? + r?, all added up before y is rounded. Returns whether b is in it: where there is no kernel with one the
 * caller adds it.
 */
static bool product_xw(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r)
{
    PC_ASSERT(w.dtype == x.dtype, "linear: W of %s, x of %s", pc_dtype_name(w.dtype), pc_dtype_name(x.dtype));
    PC_ASSERT(!pc_present(r) || r.dtype == y.dtype, "linear: y of %s, r of %s", pc_dtype_name(y.dtype), pc_dtype_name(r.dtype));
    const bool more = pc_present(r);
    product t;
    memset(&t, 0, sizeof t);
    t.batch = 1;
    t.trans_b = true, t.M = x.dim[0], t.N = w.dim[0], t.K = x.dim[1], t.alpha = 1.0f, t.beta = more ? 1.0f : 0.0f;
    t.A = x.data, t.B = w.data, t.C = more ? r.data : y.data, t.D = y.data;
    t.lda = x.stride, t.ldb = w.stride, t.ldc = more ? r.stride : y.stride, t.ldd = y.stride;
    t.in_a = t.in_b = type_of(x.dtype), t.out = type_of(y.dtype);
    if (ctx && ctx->fp8) { // none: part of a product with a widened matrix
        const product without = t;
        const size_t mark = pc_arena_mark(ctx->scratch);
        fp8_rows x8, w8;
        made how = NOT_MADE;
        if (pc_cuda_fp8_operands(ctx, &x8, &w8, y, x, w)) {
            in_eight_bits(&t, &x8, &w8, true);
            how = multiply_xw(&t, b);
        }
        pc_arena_release(ctx->scratch, mark); // what follows stands behind it in the stream
        if (how != NOT_MADE) return how == MADE;
        t = without;
    }
    return multiply_xw(&t, b) == MADE;
}

void cuda_linear_forward(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r)
{
    if (pc_cuda_linear_few(ctx, y, PC_NONE, x, w, b, r, -1)) return;
    const int64_t n = pc_numel(y);
    if (n == 0 || product_xw(ctx, y, x, w, b, r)) return;
    const unsigned blocks = blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
    BY_TYPE(y, LAUNCH((finish<T, -1>), blocks, THREADS, 0, (T *)y.data, y.stride, (T *)NULL, 0, (const float *)b.data, n, y.dim[1]));
}

void cuda_linear_act_forward(pc_ctx *ctx, pc_tensor a, pc_tensor z, pc_tensor x, pc_tensor w, pc_tensor b, pc_act kind)
{
    const int64_t n = pc_numel(z);
    if (pc_cuda_linear_few(ctx, a, z, x, w, b, PC_NONE, (int)kind)) return;
    if (n == 0) return;
    if (product_xw(ctx, z, x, w, b, PC_NONE)) {
        cuda_act_forward(ctx, a, z, kind);
        return;
    }
    const unsigned blocks = blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
    BY_TYPE(z, BY_KIND(kind, LAUNCH((finish<T, KIND>), blocks, THREADS, 0, (T *)a.data, a.stride, (T *)z.data, z.stride,
                                    (const float *)b.data, n, z.dim[1])));
}

// ---- sums over rows ------------------------------------------------------------------------------------

// A block: LINES rows at a time of 32 columns, or of 32 eights; BLOCKS of them read at once, in slices of the rows.
enum { LINES = 8, BLOCKS = 1056 };

// part[slice][o] = sum over the slice's rows of dy[n,o].
template <class T, int VEC> __global__ void column_sums(float *part, const T *dy, int64_t ys, int64_t N, int64_t O)
{
    __shared__ float lines[LINES][32 * VEC];
    const int64_t o = (blockIdx.x * (int64_t)32 + threadIdx.x) * VEC;
    const int64_t per = (N + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * per, end = begin + per < N ? begin + per : N;
    float sum[VEC] = {};
    if (o < O) {
#pragma unroll 4
        for (int64_t n = begin + threadIdx.y; n < end; n += LINES) {
            float v[VEC];
            if (VEC == 8)
                get8(v, dy + n * ys + o);
            else
                v[0] = get(dy, n * ys + o);
            for (int k = 0; k < VEC; k++) sum[k] += v[k];
        }
    }
    for (int k = 0; k < VEC; k++) lines[threadIdx.y][threadIdx.x * VEC + k] = sum[k];
    __syncthreads();
    const int c = threadIdx.y * 32 + threadIdx.x; // 8 lines of 32 threads: one a column when VEC is 8
    const int64_t column = blockIdx.x * (int64_t)(32 * VEC) + c;
    if (c >= 32 * VEC || column >= O) return;
    float all = 0.0f;
    for (int i = 0; i < LINES; i++) all += lines[i][c];
    part[blockIdx.y * O + column] = all;
}

__global__ void add_slices(float *to, const float *part, int64_t slices, int64_t C)
{
    __shared__ float lines[32][33];
    const int64_t c = blockIdx.x * (int64_t)32 + threadIdx.x;
    float sum = 0.0f;
    if (c < C)
        for (int64_t s = threadIdx.y; s < slices; s += 32) sum += part[s * C + c];
    lines[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) return;
    for (int i = 1; i < 32; i++) sum += lines[i][threadIdx.x];
    to[c] += sum;
}

void pc_cuda_add_slices(float *to, const float *part, int64_t slices, int64_t C)
{
    LAUNCH(add_slices, blocks_for(C, 32), dim3(32, 32), 0, to, part, slices, C);
}

static void bias_gradient(pc_tensor db, pc_tensor dy)
{
    const int64_t N = dy.dim[0], O = dy.dim[1];
    const bool eights = by_eights(dy);
    const int64_t across = blocks_for(O, eights ? 256 : 32), most = (N + 4 * LINES - 1) / (4 * LINES), want = (BLOCKS + across - 1) / across;
    const int64_t slices = want < most ? want : most;
    float *part = (float *)pc_cuda_workspace((size_t)(slices * O) * sizeof *part);
    const dim3 blocks((unsigned)across, (unsigned)slices), threads(32, LINES);
    if (eights)
        BY_TYPE(dy, LAUNCH((column_sums<T, 8>), blocks, threads, 0, part, (const T *)dy.data, dy.stride, N, O));
    else
        BY_TYPE(dy, LAUNCH((column_sums<T, 1>), blocks, threads, 0, part, (const T *)dy.data, dy.stride, N, O));
    pc_cuda_add_slices((float *)db.data, part, slices, O);
}

static bool gradients_in_eight_bits(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor dy, pc_tensor x, pc_tensor w,
                                    bool fresh)
{
    if (!ctx || !ctx->fp8) return false;
    const size_t mark = pc_arena_mark(ctx->scratch);
    const bool done = pc_cuda_fp8_gradients(ctx, dx, dw, dy, x, w, fresh);
    pc_arena_release(ctx->scratch, mark);
    return done;
}

void cuda_linear_backward(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor db, pc_tensor dy, pc_tensor x, pc_tensor w, bool fresh)
{
    const int64_t N = dy.dim[0], O = dy.dim[1];
    if (N == 0 && fresh && pc_present(dw)) cuda_zero_forward(ctx, dw);
    if (N == 0 || O == 0) return;
    if (pc_present(db)) bias_gradient(db, dy);
    if (gradients_in_eight_bits(ctx, dx, dw, dy, x, w, fresh)) return;
    if (pc_present(dx))
        pc_cuda_product(false, false, N, dx.dim[1], O, 1.0f, dy.data, dy.stride, w.data, w.stride, 0.0f, dx.data, dx.stride, dy.dtype,
                        dx.dtype);
    if (pc_present(dw))
        pc_cuda_product(true, false, O, x.dim[1], N, 1.0f, dy.data, dy.stride, x.data, x.stride, fresh ? 0.0f : 1.0f, dw.data,
                        dw.stride, dy.dtype, dw.dtype);
}

/*
 * stored.cu - matrices in the types of their files: products of few f32 rows straight from blocks of 32 (of bf16 rows:
 * stored_tensor.cu), and any type widened for what takes many rows. The formats: core/quant.h.
 *
 *   Q8_0   f16 d, i8 q[32]      34 bytes      y = d q
 *   Q4_0   f16 d, u8 q[16]      18 bytes      y_j = d (low_j - 8), y_{j+16} = d (high_j - 8)
 *
 * Blocks are no multiple of 4 bytes: a block of threads brings 4 rows of W, 128 blocks of each at a time, into shared
 * memory by whole loads of 16 bytes, and a thread then takes one block of every row from there.
 */
#include "model/ops/cuda/decode.cuh"
#include "model/ops/cuda/few.cuh"

// Where a row's piece lies in shared memory: up to 15 bytes in front of it come along.
template <int BYTES> struct staging {
    enum { ROOM = (FEW_BLOCK * BYTES + 15 + 15) / 16 * 16 };
};

__device__ __forceinline__ uint32_t two_bytes(const unsigned char *p)
{
    return *(const uint16_t *)p;
}

__device__ __forceinline__ float scale_at(const unsigned char *p)
{
    return __half2float(__ushort_as_half((unsigned short)two_bytes(p)));
}

// Block p, without its scale.
template <int BYTES> __device__ __forceinline__ void numbers_of(float (&f)[32], const unsigned char *p)
{
    if (BYTES == 34) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            // A byte q + 128 in the low bits of 2^23 is 2^23 + q + 128.
            const uint32_t u = two_bytes(p + 2 + 2 * i) ^ 0x8080u;
            f[2 * i] = __uint_as_float(__byte_perm(u, 0x4b000000u, 0x7540)) - 8388736.0f;
            f[2 * i + 1] = __uint_as_float(__byte_perm(u, 0x4b000000u, 0x7541)) - 8388736.0f;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t u = two_bytes(p + 2 + 2 * i), low = u & 0x0f0fu, high = u >> 4 & 0x0f0fu;
            f[2 * i] = __uint_as_float(__byte_perm(low, 0x4b000000u, 0x7540)) - 8388616.0f;
            f[2 * i + 1] = __uint_as_float(__byte_perm(low, 0x4b000000u, 0x7541)) - 8388616.0f;
            f[16 + 2 * i] = __uint_as_float(__byte_perm(high, 0x4b000000u, 0x7540)) - 8388616.0f;
            f[16 + 2 * i + 1] = __uint_as_float(__byte_perm(high, 0x4b000000u, 0x7541)) - 8388616.0f;
        }
    }
}

template <int N, int BYTES>
__global__ void __launch_bounds__(FEW_BLOCK) few_blocks(float *y, int64_t ys, float *z, int64_t zs, const float *x, int64_t xs, const unsigned char *w,
                                                        const float *b, const float *r, int64_t rs, int O, int K, int act)
{
    constexpr int ROOM = staging<BYTES>::ROOM, LOADS = (FEW_ROWS_OF_W * (ROOM / 16) + FEW_BLOCK - 1) / FEW_BLOCK;
    __shared__ __align__(16) unsigned char stage[FEW_ROWS_OF_W][ROOM];
    __shared__ float sums[FEW_BLOCK / 32][FEW_ROWS_OF_W * N];
    const int o0 = blockIdx.x * FEW_ROWS_OF_W, t = threadIdx.x, blocks = K / 32;
    const int64_t row_bytes = (int64_t)blocks * BYTES;
    float acc[FEW_ROWS_OF_W][N];
#pragma unroll
    for (int i = 0; i < FEW_ROWS_OF_W; i++)
#pragma unroll
        for (int n = 0; n < N; n++) acc[i][n] = 0.0f;
    let_others_begin();
    for (int first = 0; first < blocks; first += FEW_BLOCK) {
        const int count = min(FEW_BLOCK, blocks - first);
        uint4 piece[LOADS];
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            const int at = l * FEW_BLOCK + t, i = at / (ROOM / 16), c = at % (ROOM / 16);
            if (i >= FEW_ROWS_OF_W) continue;
            const unsigned char *begin = w + min(o0 + i, O - 1) * row_bytes + (int64_t)first * BYTES, *end = begin + count * BYTES;
            const unsigned char *from = (const unsigned char *)((uintptr_t)begin / 16 * 16) + 16 * c;
            if (from < end) piece[l] = __ldcs((const uint4 *)from);
        }
        if (first == 0)
            behind_others();
        else
            __syncthreads();
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            const int at = l * FEW_BLOCK + t, i = at / (ROOM / 16), c = at % (ROOM / 16);
            if (i < FEW_ROWS_OF_W) *(uint4 *)&stage[i][16 * c] = piece[l];
        }
        __syncthreads();
        if (t >= count) continue;
        float in[N == 1 ? 32 : 1];
        if (N == 1)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                float v[8];
                read8(v, x + 32 * (int64_t)(first + t) + 8 * c);
#pragma unroll
                for (int e = 0; e < 8; e++) in[N == 1 ? 8 * c + e : 0] = v[e];
            }
#pragma unroll
        for (int i = 0; i < FEW_ROWS_OF_W; i++) {
            const unsigned char *begin = w + min(o0 + i, O - 1) * row_bytes + (int64_t)first * BYTES;
            const unsigned char *p = &stage[i][(uintptr_t)begin % 16 + t * BYTES];
            const float d = scale_at(p);
            float f[32];
            numbers_of<BYTES>(f, p);
#pragma unroll
            for (int n = 0; n < N; n++) {
                float dot = 0.0f;
                if (N == 1) {
#pragma unroll
                    for (int e = 0; e < 32; e++) dot += f[e] * in[N == 1 ? e : 0];
                } else {
#pragma unroll
                    for (int c = 0; c < 4; c++) {
                        float v[8];
                        read8(v, x + n * xs + 32 * (int64_t)(first + t) + 8 * c);
#pragma unroll
                        for (int e = 0; e < 8; e++) dot += f[8 * c + e] * v[e];
                    }
                }
                acc[i][n] += d * dot;
            }
        }
    }
    finish_few<N>(sums, acc, y, ys, z, zs, b, r, rs, o0, O, act);
}

template <int BYTES> static void run(const few_operands *f)
{
    float *y = (float *)f->y.data, *z = (float *)f->z.data;
    const int O = (int)f->w.dim[0], K = (int)f->x.dim[1], N = (int)f->x.dim[0];
#define FEW(n)                                                                                     \
    launch_early(f->early, few_blocks<n, BYTES>, dim3(blocks_for(O, FEW_ROWS_OF_W)), FEW_BLOCK, 0, y, f->y.stride, z, f->z.stride,            \
                 (const float *)f->x.data, f->x.stride, (const unsigned char *)f->w.data, (const float *)f->b.data, (const float *)f->r.data,      \
                 f->r.stride, O, K, f->act)
    FEW_BY_COUNT(N);
#undef FEW
}

bool pc_cuda_blocks_few(const few_operands *f)
{
    const uintptr_t x = (uintptr_t)f->x.data | (f->x.dim[0] > 1 ? (uintptr_t)(f->x.stride * (int64_t)pc_dtype_size(f->x.dtype)) : 0);
    if (x % 16 || (uintptr_t)f->w.data % 2 || f->w.stride != f->w.dim[1]) return false;
    if (f->w.dtype != PC_Q8_0 && f->w.dtype != PC_Q4_0) return false;
    if (f->x.dtype == PC_BF16)
        pc_cuda_blocks_tensor(f);
    else if (f->w.dtype == PC_Q8_0)
        run<34>(f);
    else
        run<18>(f);
    return true;
}

// ---- widened -----------------------------------------------------------------------------------------

static const size_t WIDENED = (size_t)128 << 20;

// Number k of row o of W.
template <int TYPE> __device__ __forceinline__ float number_at(const unsigned char *w, int64_t ws, int64_t o, int64_t k)
{
    if (TYPE == PC_F32) return ((const float *)w)[o * ws + k];
    if (TYPE == PC_BF16) return __bfloat162float(((const bf16 *)w)[o * ws + k]);
    if (TYPE == PC_F16) return __half2float(((const half *)w)[o * ws + k]);
    const int bytes = TYPE == PC_Q8_0 ? 34 : 18, j = (int)(k % 32);
    const unsigned char *p = w + (o * ws / 32 + k / 32) * bytes;
    if (TYPE == PC_Q8_0) return scale_at(p) * (float)(signed char)p[2 + j];
    return scale_at(p) * (float)((j < 16 ? p[2 + j] & 15 : p[2 + j - 16] >> 4) - 8);
}

template <int TYPE, class T> __global__ void widen(T *to, const unsigned char *w, int64_t ws, int64_t begin, int64_t n, int64_t K)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        put(to, i, number_at<TYPE>(w, ws, begin + i / K, i % K));
}

template <int TYPE, class T>
__global__ void pick_stored(T *y, int64_t ys, const int32_t *ids, const unsigned char *table, int64_t ts, int64_t C)
{
    const int64_t n = blockIdx.x, at = ids[n];
    if (at < 0) return;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) put(y, n * ys + c, number_at<TYPE>(table, ts, at, c));
}

#define BY_STORED(w, ...)                                                                          \
    switch ((w).dtype) {                                                                           \
    case PC_F32: { enum { TYPE = PC_F32 }; __VA_ARGS__; break; }                                   \
    case PC_BF16: { enum { TYPE = PC_BF16 }; __VA_ARGS__; break; }                                 \
    case PC_F16: { enum { TYPE = PC_F16 }; __VA_ARGS__; break; }                                   \
    case PC_Q8_0: { enum { TYPE = PC_Q8_0 }; __VA_ARGS__; break; }                                 \
    case PC_Q4_0: { enum { TYPE = PC_Q4_0 }; __VA_ARGS__; break; }                                 \
    default: PC_ASSERT(false, "a matrix of %s on the GPU", pc_dtype_name((w).dtype));              \
    }

int64_t pc_cuda_widened_rows(pc_tensor w, pc_dtype t)
{
    const int64_t rows = (int64_t)(WIDENED / ((size_t)w.dim[1] * pc_dtype_size(t)));
    return rows < 1 ? 1 : rows;
}

pc_tensor pc_cuda_widened(pc_tensor w, int64_t begin, int64_t end, pc_dtype t)
{
    static void *room;
    static size_t size;
    const int64_t K = w.dim[1], n = (end - begin) * K;
    const size_t bytes = (size_t)n * pc_dtype_size(t);
    if (bytes > size) {
        CHECK_CUDA(cudaStreamSynchronize(pc_cuda_stream));
        CHECK_CUDA(cudaFree(room));
        size = bytes > WIDENED ? bytes : WIDENED;
        CHECK_CUDA(cudaMalloc(&room, size));
    }
    const pc_tensor to = pc_view2(room, t, end - begin, K);
    BY_TYPE(to, BY_STORED(w, LAUNCH((widen<TYPE, T>), blocks_for(n) < 65536u ? blocks_for(n) : 65536u, THREADS, 0, (T *)to.data,
                                    (const unsigned char *)w.data, w.stride, begin, n, K)));
    return to;
}

void pc_cuda_embedding_stored(pc_tensor y, pc_tensor ids, pc_tensor table)
{
    if (ids.dim[0] == 0) return;
    BY_TYPE(y, BY_STORED(table, LAUNCH((pick_stored<TYPE, T>), (unsigned)ids.dim[0], 256, 0, (T *)y.data, y.stride, pc_i32(ids),
                                       (const unsigned char *)table.data, table.stride, pc_row_len(y))));
}

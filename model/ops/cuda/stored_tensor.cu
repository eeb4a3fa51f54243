/*
 * stored_tensor.cu - products of one to eight bf16 rows with a matrix in blocks of 32 (Q8_0, Q4_0), on tensor cores: the
 * arithmetic that turns blocks into numbers stays below the time it takes to read them.
 *
 *   y (N,O) = x (N,K) W^T     W's 16 rows are the tile's M, x's rows its N, a block of 32 two of its K = 16
 *
 * A number of a block is a small integer, which bf16 holds exactly; so a block's sum is that of exact products in f32, and
 * its scale is multiplied in behind. Which number of a block counts as which k does not matter as long as x's are taken
 * in the same order: a thread takes bytes 4c to 4c+3 of a block, c its place among four.
 *
 * A warp brings 16 rows of CHUNK blocks at a time into shared memory of its own, by copies of 16 bytes that do not wait;
 * rows lie so far apart there that the eight rows and four columns of a warp's load fall into 32 banks. Warps share K; their
 * sums are added in order at the end. Seen on an H100 at (22016,4096): Q8_0 85 % of a copy's rate, Q4_0 70 %; at (4096,4096)
 * 60 and 49 %.
 */
#include "model/ops/cuda/decode.cuh"
#include "model/ops/cuda/few.cuh"

enum { WARPS = 8, ROWS = 16, CHUNK = 8 };

// Bytes between rows in shared memory: a row's piece begins up to 15 bytes behind a multiple of 16, and 12 words modulo 32.
template <int BYTES> struct layout_of {
    enum { PIECES = (CHUNK * BYTES + 16) / 16, PITCH = PIECES * 16 + 16, STAGES = BYTES == 34 ? 2 : 3, ROOM = WARPS * STAGES * ROWS * PITCH };
};

__device__ __forceinline__ void copy16(void *to, const void *from)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

__device__ __forceinline__ uint32_t two_at(const unsigned char *p)
{
    return *(const uint16_t *)p;
}

// Four bytes at an even address.
__device__ __forceinline__ uint32_t four_at(const unsigned char *p)
{
    return two_at(p) | two_at(p + 2) << 16;
}

__device__ __forceinline__ uint32_t minus(uint32_t a, uint32_t b)
{
    const __nv_bfloat162 d = __hsub2(*(const __nv_bfloat162 *)&a, *(const __nv_bfloat162 *)&b);
    return *(const uint32_t *)&d;
}

// A thread's eight numbers of block p, in pairs: 0x4300 | n is 128 + n in bf16 while n < 128, and 0x4380 is 256.
template <int BYTES> __device__ __forceinline__ void eight_of(uint32_t (&v)[4], const unsigned char *p, int c)
{
    const unsigned char *q = p + 2 + 4 * c;
    if (BYTES == 34) {
        const uint32_t u[2] = {four_at(q), four_at(q + 16)};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t pair = __byte_perm(u[i / 2], 0x43434343u, i % 2 ? 0x4342 : 0x4140);
            v[i] = minus(pair & 0x437f437fu, pair & 0x43804380u); // 128 + low seven bits, less 128 or 256
        }
    } else {
        const uint32_t u = four_at(q), halves[2] = {u & 0x0f0f0f0fu, u >> 4 & 0x0f0f0f0fu};
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = minus(__byte_perm(halves[i / 2], 0x43434343u, i % 2 ? 0x4342 : 0x4140), 0x43084308u);
    }
}

__device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint2 b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b.x), "r"(b.y));
}

template <int BYTES, class Y>
__global__ void __launch_bounds__(WARPS * 32) few_blocks_tensor(Y *y, int64_t ys, Y *z, int64_t zs, const bf16 *x, int64_t xs,
                                                                const unsigned char *w, const float *b, const Y *r, int64_t rs, int N, int O,
                                                                int K, int act)
{
    constexpr int PITCH = layout_of<BYTES>::PITCH, STAGES = layout_of<BYTES>::STAGES, PIECES = layout_of<BYTES>::PIECES;
    static_assert(PITCH / 4 % 32 == 12, "banks");
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ float sums[WARPS][ROWS][8];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4, o0 = blockIdx.x * ROWS;
    const int blocks = K / 32, chunks = (blocks + CHUNK - 1) / CHUNK;
    const int64_t row_bytes = (int64_t)blocks * BYTES;
    unsigned char *mine = shared + warp * STAGES * ROWS * PITCH;
    const unsigned char *row0 = w + min(o0 + g, O - 1) * row_bytes, *row1 = w + min(o0 + g + 8, O - 1) * row_bytes;
    const bf16 *mine_of_x = x + (g < N ? g : 0) * xs + 4 * c;

    // Eight threads a row, four rows at a time: this thread's pieces are `part`, part + 8, ... of rows lane / 8 + 4 r. What lies
    // between a row's begin and the multiple of 16 before it is the same for all chunks.
    const int part = lane % 8;
    const unsigned char *from_row[ROWS / 4];
    int lead[ROWS / 4];
#pragma unroll
    for (int r = 0; r < ROWS / 4; r++) {
        const uintptr_t begin = (uintptr_t)(w + min(o0 + lane / 8 + 4 * r, O - 1) * row_bytes);
        lead[r] = (int)(begin % 16);
        from_row[r] = (const unsigned char *)(begin - begin % 16) + 16 * part;
    }
    unsigned char *to_row = mine + lane / 8 * PITCH + 16 * part;
    auto bring = [&](int chunk, int stage) {
        if (chunk < chunks) {
            const int length = min(CHUNK, blocks - chunk * CHUNK) * BYTES;
#pragma unroll
            for (int r = 0; r < ROWS / 4; r++) {
                const unsigned char *from = from_row[r] + chunk * (int64_t)(CHUNK * BYTES);
                unsigned char *to = to_row + (stage * ROWS + 4 * r) * PITCH;
#pragma unroll
                for (int piece = 0; piece < PIECES; piece += 8)
                    if (16 * (part + piece) < lead[r] + length) copy16(to + 16 * piece, from + 16 * piece);
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };

    let_others_begin();
#pragma unroll
    for (int s = 0; s < STAGES; s++) bring(warp + s * WARPS, s);
    behind_others();
    float acc[4] = {};
    int stage = 0;
    for (int chunk = warp; chunk < chunks; chunk += WARPS) {
        const int first = chunk * CHUNK, count = min(CHUNK, blocks - first);
        uint2 in[CHUNK][2];
#pragma unroll
        for (int q = 0; q < CHUNK; q++) {
            in[q][0] = in[q][1] = make_uint2(0, 0);
            if (g >= N || q >= count) continue;
            const bf16 *from = mine_of_x + 32 * (int64_t)(first + q);
            in[q][0] = *(const uint2 *)from, in[q][1] = *(const uint2 *)(from + 16);
        }
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
        __syncwarp();
        const unsigned char *base = mine + stage * ROWS * PITCH;
        const unsigned char *p0 = base + g * PITCH + (uintptr_t)(row0 + (int64_t)first * BYTES) % 16;
        const unsigned char *p1 = base + (g + 8) * PITCH + (uintptr_t)(row1 + (int64_t)first * BYTES) % 16;
        auto block = [&](int q) {
            uint32_t v0[4], v1[4];
            eight_of<BYTES>(v0, p0 + q * BYTES, c);
            eight_of<BYTES>(v1, p1 + q * BYTES, c);
            const float d0 = __half2float(__ushort_as_half((unsigned short)two_at(p0 + q * BYTES)));
            const float d1 = __half2float(__ushort_as_half((unsigned short)two_at(p1 + q * BYTES)));
            float s[4] = {};
            multiply(s, v0[0], v1[0], v0[1], v1[1], in[q][0]);
            multiply(s, v0[2], v1[2], v0[3], v1[3], in[q][1]);
            acc[0] += d0 * s[0], acc[1] += d0 * s[1], acc[2] += d1 * s[2], acc[3] += d1 * s[3];
        };
        if (count == CHUNK) {
#pragma unroll
            for (int q = 0; q < CHUNK; q++) block(q);
        } else {
#pragma unroll
            for (int q = 0; q < CHUNK; q++)
                if (q < count) block(q);
        }
        __syncwarp();
        bring(chunk + STAGES * WARPS, stage);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    sums[warp][g][2 * c] = acc[0], sums[warp][g][2 * c + 1] = acc[1];
    sums[warp][g + 8][2 * c] = acc[2], sums[warp][g + 8][2 * c + 1] = acc[3];
    __syncthreads();
    const int o = threadIdx.x / 8, n = threadIdx.x % 8;
    if (o >= ROWS || n >= N || o0 + o >= O) return;
    float v = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) v += sums[i][o][n];
    put_result(v, y, ys, z, zs, b, r, rs, n, o0 + o, act);
}

template <int BYTES, class Y> static void run(const few_operands *f)
{
    static bool roomy;
    const size_t room = layout_of<BYTES>::ROOM;
    if (!roomy) CHECK_CUDA(cudaFuncSetAttribute(few_blocks_tensor<BYTES, Y>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    roomy = true;
    const int O = (int)f->w.dim[0], K = (int)f->x.dim[1], N = (int)f->x.dim[0];
    launch_early(f->early, few_blocks_tensor<BYTES, Y>, dim3(blocks_for(O, ROWS)), WARPS * 32, room, (Y *)f->y.data, f->y.stride, (Y *)f->z.data,
                 f->z.stride, (const bf16 *)f->x.data, f->x.stride, (const unsigned char *)f->w.data, (const float *)f->b.data,
                 (const Y *)f->r.data, f->r.stride, N, O, K, f->act);
}

void pc_cuda_blocks_tensor(const few_operands *f)
{
    if (f->w.dtype == PC_Q8_0)
        f->y.dtype == PC_F32 ? run<34, float>(f) : run<34, bf16>(f);
    else
        f->y.dtype == PC_F32 ? run<18, float>(f) : run<18, bf16>(f);
}

/*
 * norm.cu - LayerNorm, RMSNorm, unit rows. Formulas: ops.h. Statistics are f32.
 *
 * Rows whose width and addresses allow it are read by eights, once, and stay in registers; the others number by number.
 * Gradients of gain and bias: blocks leave the sums of their rows, which a second kernel adds up in order.
 */
#include "model/ops/cuda/device.cuh"
#include "model/ops/cuda/small.cuh"

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

// ---- by eights ---------------------------------------------------------------------------------------

// Row r of (N,C), or of (N,H,C).
typedef struct place {
    uint32_t n, h;
} place;

__device__ __forceinline__ place place_of(uint32_t r, uint32_t H)
{
    if (H == 1) return place{r, 0};
    const uint32_t n = r / H;
    return place{n, r - n * H};
}

__device__ __forceinline__ int64_t begin_of(place p, int64_t stride, uint32_t C)
{
    return p.n * stride + (int64_t)p.h * C;
}

// Over a block, in a fixed order. `space`: 32 floats, not used before.
__device__ __forceinline__ float sum_once(float v, float *space)
{
    const int lane = threadIdx.x & 31, warps = (int)blockDim.x >> 5;
    v = warp_sum(v);
    if (lane == 0) space[threadIdx.x >> 5] = v;
    __syncthreads();
    return warp_sum(lane < warps ? space[lane] : 0.0f);
}

/*
 * A row stays in registers, VEC eights a thread: with WARP 32 threads take a row, a block as many rows as it has warps;
 * else a block takes one.
 */
template <class T, bool CENTRED, int VEC, bool WARP>
__global__ void __launch_bounds__(VEC == 4 && !WARP ? 1024 : 512)
    norm_rows8(T *y, int64_t ys, float *mean, float *rstd, const T *x, int64_t xs, const float *g, const float *b, uint32_t R, uint32_t H,
               uint32_t C, float eps)
{
    __shared__ float space[2][32];
    const int threads = WARP ? 32 : (int)blockDim.x, thread = WARP ? (int)(threadIdx.x & 31) : (int)threadIdx.x;
    const uint32_t r = WARP ? blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32 : blockIdx.x;
    if (r >= R) return; // a whole warp, or none
    const place at = place_of(r, H);
    const T *in = x + begin_of(at, xs, C);
    float v[VEC][8], sum = 0.0f, m = 0.0f;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const uint32_t c = (uint32_t)(k * threads + thread) * 8;
        if (c < C)
            get8(v[k], in + c);
        else
            for (int i = 0; i < 8; i++) v[k][i] = 0.0f;
    }
    if (CENTRED) {
#pragma unroll
        for (int k = 0; k < VEC; k++)
            for (int i = 0; i < 8; i++) sum += v[k][i];
        m = (WARP ? warp_sum(sum) : sum_once(sum, space[0])) / (float)C;
        sum = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < VEC; k++)
        if ((uint32_t)(k * threads + thread) * 8 < C)
            for (int i = 0; i < 8; i++) sum += (v[k][i] - m) * (v[k][i] - m);
    const float s = rsqrtf((WARP ? warp_sum(sum) : sum_once(sum, space[1])) / (float)C + eps);
    T *out = y + begin_of(at, ys, C);
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const uint32_t c = (uint32_t)(k * threads + thread) * 8;
        if (c >= C) continue;
        float gain[8], bias[8];
        get8(gain, g + c);
        if (CENTRED) get8(bias, b + c);
        for (int i = 0; i < 8; i++) {
            v[k][i] = (v[k][i] - m) * s * gain[i];
            if (CENTRED) v[k][i] += bias[i];
        }
        put8(out + c, v[k]);
    }
    if (thread == 0) {
        if (CENTRED) mean[r] = m;
        rstd[r] = s;
    }
}

// Two sums over a block, in a fixed order. `space`: 64 floats, another half at each call in turn: one barrier is enough.
__device__ __forceinline__ void block_sums(float *a, float *b, float *space)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    *a = warp_sum(*a);
    *b = warp_sum(*b);
    if (lane == 0) {
        space[warp] = *a;
        space[32 + warp] = *b;
    }
    __syncthreads();
    *a = warp_sum(lane < warps ? space[lane] : 0.0f);
    *b = warp_sum(lane < warps ? space[32 + lane] : 0.0f);
}

/*
 * A block takes rows blockIdx, blockIdx + gridDim, ... With SUMS it keeps the columns' sums of dy x^ and of dy as it goes
 * and leaves them in row blockIdx of part, and of the second half of part: dy and x are read once.
 */
enum { WIDEST = 512 }; // threads of such a block
template <class T, bool CENTRED, int VEC, bool SUMS>
__global__ void __launch_bounds__(WIDEST, VEC == 1 ? 2 : 1) norm_backward8(T *dx, int64_t ds, float *part, const T *dy, int64_t ys, const T *x, int64_t xs, const float *g,
                               const float *mean, const float *rstd, const T *add, int64_t adds, int64_t R, int64_t H, int64_t C)
{
    __shared__ float space[2][64];
    float gain[VEC][8], dg[VEC][8] = {}, db[VEC][8] = {};
    int turn = 0;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const int64_t c = ((int64_t)k * blockDim.x + threadIdx.x) * 8;
        if (c < C)
            get8(gain[k], g + c);
        else
            for (int i = 0; i < 8; i++) gain[k][i] = 0.0f;
    }
    for (int64_t r = blockIdx.x; r < R; r += gridDim.x, turn ^= 1) {
        const T *in = x + row_at(r, H, xs, C), *up = dy + row_at(r, H, ys, C), *more = add ? add + row_at(r, H, adds, C) : NULL;
        float d[VEC][8], hat[VEC][8], extra[VEC][8], a = 0.0f, b = 0.0f; // sums of g dy, of g dy x^
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            const int64_t c = ((int64_t)k * blockDim.x + threadIdx.x) * 8;
            if (c < C) {
                get8(d[k], up + c);
                get8(hat[k], in + c);
                if (more) get8(extra[k], more + c);
            } else
                for (int i = 0; i < 8; i++) d[k][i] = hat[k][i] = 0.0f;
        }
        const float m = CENTRED ? mean[r] : 0.0f, s = rstd[r];
#pragma unroll
        for (int k = 0; k < VEC; k++)
            for (int i = 0; i < 8; i++) {
                hat[k][i] = (hat[k][i] - m) * s;
                if (SUMS) {
                    dg[k][i] += d[k][i] * hat[k][i];
                    if (CENTRED) db[k][i] += d[k][i];
                }
                d[k][i] *= gain[k][i];
                a += d[k][i];
                b += d[k][i] * hat[k][i];
            }
        block_sums(&a, &b, space[turn]);
        a = CENTRED ? a / (float)C : 0.0f;
        b /= (float)C;
        T *out = dx + row_at(r, H, ds, C);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            const int64_t c = ((int64_t)k * blockDim.x + threadIdx.x) * 8;
            if (c >= C) continue;
            for (int i = 0; i < 8; i++) {
                const float v = s * (d[k][i] - a - hat[k][i] * b);
                d[k][i] = more ? v + extra[k][i] : v;
            }
            put8(out + c, d[k]);
        }
    }
    if constexpr (SUMS) {
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            const int64_t c = ((int64_t)k * blockDim.x + threadIdx.x) * 8;
            if (c >= C) continue;
            put8(part + blockIdx.x * C + c, dg[k]);
            if (CENTRED) put8(part + (gridDim.x + blockIdx.x) * C + c, db[k]);
        }
    }
}

// ---- sums over rows, of any width --------------------------------------------------------------------

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
    if (CENTRED) part[(gridDim.y + blockIdx.y) * C + c] = db;
}

// dg += the rows of part, in order; db those of its second half. A block: 32 columns, 32 rows at a time.
__global__ void add_halves(float *dg, float *db, const float *part, int64_t slices, int64_t C)
{
    __shared__ float lines[32][33];
    const int64_t c = blockIdx.x * (int64_t)32 + threadIdx.x;
    float *to = blockIdx.y ? db : dg, sum = 0.0f;
    if (!to) return;
    part += blockIdx.y * slices * C;
    if (c < C) {
#pragma unroll 8
        for (int64_t s = threadIdx.y; s < slices; s += 32) sum += part[s * C + c];
    }
    lines[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) return;
    for (int i = 1; i < 32; i++) sum += lines[i][threadIdx.x];
    to[c] += sum;
}

static void gather_sums(pc_tensor dg, pc_tensor db, const float *part, int64_t slices, int64_t C)
{
    LAUNCH(add_halves, dim3(blocks_for(C, 32), pc_present(db) ? 2 : 1), dim3(32, 32), 0, (float *)dg.data, (float *)db.data, part, slices,
           C);
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

template <class T, bool CENTRED>
static void forward(pc_tensor y, pc_tensor mean, pc_tensor rstd, pc_tensor x, pc_tensor g, pc_tensor b, float eps)
{
    const int64_t H = heads_of(x), C = width_of(x), R = x.dim[0] * H, eights = C / 8;
    if (R == 0) return;
#define NORM(kernel, blocks, threads, ...)                                                                                                 \
    LAUNCH((kernel), blocks, threads, 0, (T *)y.data, y.stride, (float *)mean.data, (float *)rstd.data, (const T *)x.data, x.stride,       \
           (const float *)g.data, (const float *)b.data, __VA_ARGS__)
#define NORM8(VEC, WARP, blocks, threads)                                                                                                  \
    NORM((norm_rows8<T, CENTRED, VEC, WARP>), blocks, threads, (uint32_t)R, (uint32_t)H, (uint32_t)C, eps)
    if (C % 8 != 0 || eights > 4096 || R >= (int64_t)1 << 31 || !by_eights(y) || !by_eights(x) || !by_eights(g) || !by_eights(b))
        NORM((norm_rows<T, CENTRED>), (unsigned)R, norm_threads(C), H, C, eps);
    else if (eights <= 32)
        NORM8(1, true, blocks_for(R, 4), 128);
    else if (eights <= 64)
        NORM8(2, true, blocks_for(R, 4), 128);
    else if (eights <= 128)
        NORM8(4, true, blocks_for(R, 4), 128);
    else if (eights <= 1024)
        NORM8(2, false, (unsigned)R, (int)((eights + 63) / 64 * 32));
    else
        NORM8(4, false, (unsigned)R, (int)((eights + 127) / 128 * 32));
}

void cuda_layernorm_forward(pc_ctx *, pc_tensor y, pc_tensor mean, pc_tensor rstd, pc_tensor x, pc_tensor g, pc_tensor b, double eps)
{
    BY_TYPE(x, forward<T, true>(y, mean, rstd, x, g, b, (float)eps));
}

void cuda_rmsnorm_forward(pc_ctx *ctx, pc_tensor y, pc_tensor rstd, pc_tensor x, pc_tensor g, double eps)
{
    if (pc_cuda_rmsnorm_few(ctx, y, rstd, x, g, eps)) return;
    BY_TYPE(x, forward<T, false>(y, PC_NONE, rstd, x, g, PC_NONE, (float)eps));
}

// Threads of all blocks together that keep their columns' sums: what 132 processors run at once, so that none waits for
// a second round.
enum { SUMMING = 132 * 1024 };

template <class T, bool CENTRED>
static void backward(pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy, pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd,
                     pc_tensor add)
{
    const int64_t H = heads_of(x), C = width_of(x), R = x.dim[0] * H, eights = C / 8;
    const bool sums = pc_present(dg) || pc_present(db);
    if (R == 0) return;
    if (C % 8 == 0 && eights <= 2 * WIDEST && by_eights(dx) && by_eights(dy) && by_eights(x) && by_eights(g) && by_eights(add)) {
        const int vec = eights <= WIDEST ? 1 : 2, threads = (int)((eights + 32 * vec - 1) / (32 * vec) * 32);
        const int64_t most = SUMMING / threads, blocks = !sums || R < most ? R : most;
        float *part = sums ? (float *)pc_cuda_workspace((size_t)(2 * blocks * C) * sizeof *part) : NULL;
#define BACK8(VEC, SUMS)                                                                           \
    LAUNCH((norm_backward8<T, CENTRED, VEC, SUMS>), (unsigned)blocks, threads, 0, (T *)dx.data, dx.stride, part, (const T *)dy.data,   \
           dy.stride, (const T *)x.data, x.stride, (const float *)g.data, (const float *)mean.data, (const float *)rstd.data,          \
           (const T *)add.data, add.stride, R, H, C)
        if (vec == 1 && sums) BACK8(1, true);
        if (vec == 1 && !sums) BACK8(1, false);
        if (vec == 2 && sums) BACK8(2, true);
        if (vec == 2 && !sums) BACK8(2, false);
        if (sums) gather_sums(dg, db, part, blocks, C);
        return;
    }
    if (sums) { // before dx, which may be dy
        const int64_t slices = R < 4 * LINES * SLICES ? (R + 4 * LINES - 1) / (4 * LINES) : SLICES;
        float *part = (float *)pc_cuda_workspace((size_t)(2 * slices * C) * sizeof *part);
        LAUNCH((norm_sums<T, CENTRED>), dim3(blocks_for(C, COLUMNS), (unsigned)slices), dim3(COLUMNS, LINES), 0, part,
               (const T *)dy.data, dy.stride, (const T *)x.data, x.stride, (const float *)mean.data, (const float *)rstd.data, R, H, C);
        gather_sums(dg, db, part, slices, C);
    }
    LAUNCH((norm_rows_backward<T, CENTRED>), (unsigned)R, norm_threads(C), 0, (T *)dx.data, dx.stride, (const T *)dy.data, dy.stride,
           (const T *)x.data, x.stride, (const float *)g.data, (const float *)mean.data, (const float *)rstd.data, (const T *)add.data,
           add.stride, H, C);
}

void cuda_layernorm_backward(pc_ctx *, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy, pc_tensor x, pc_tensor g, pc_tensor mean,
                             pc_tensor rstd, pc_tensor add)
{
    BY_TYPE(x, (backward<T, true>(dx, dg, db, dy, x, g, mean, rstd, add)));
}

void cuda_rmsnorm_backward(pc_ctx *, pc_tensor dx, pc_tensor dg, pc_tensor dy, pc_tensor x, pc_tensor g, pc_tensor rstd, pc_tensor add)
{
    BY_TYPE(x, (backward<T, false>(dx, dg, PC_NONE, dy, x, g, PC_NONE, rstd, add)));
}

// ---- unit rows: y and dy are f32 where x and dx are bf16 ---------------------------------------------

template <class Y, class X> __global__ void unit_rows(Y *y, int64_t ys, float *inv, const X *x, int64_t xs, int64_t C)
{
    __shared__ float space[32];
    const int64_t r = blockIdx.x;
    float sum = 0.0f;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) sum += get(x, r * xs + c) * get(x, r * xs + c);
    const float s = 1.0f / fmaxf(sqrtf(block_sum(sum, space)), 1e-12f);
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) put(y, r * ys + c, get(x, r * xs + c) * s);
    if (threadIdx.x == 0) inv[r] = s;
}

template <class X, class Y>
__global__ void unit_rows_backward(X *dx, int64_t ds, const Y *dy, int64_t us, const Y *y, int64_t ys, const float *inv, int64_t C)
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
    BY_TYPE(x, typedef T X; BY_TYPE(y, LAUNCH((unit_rows<T, X>), (unsigned)x.dim[0], norm_threads(x.dim[1]), 0, (T *)y.data, y.stride,
                                              (float *)inv.data, (const X *)x.data, x.stride, x.dim[1])));
}

void cuda_l2norm_backward(pc_ctx *, pc_tensor dx, pc_tensor dy, pc_tensor y, pc_tensor inv)
{
    if (y.dim[0] == 0) return;
    PC_ASSERT(dy.dtype == y.dtype, "unit rows of %s, their gradient of %s", pc_dtype_name(y.dtype), pc_dtype_name(dy.dtype));
    BY_TYPE(y, typedef T Y; BY_TYPE(dx, LAUNCH((unit_rows_backward<T, Y>), (unsigned)y.dim[0], norm_threads(y.dim[1]), 0, (T *)dx.data,
                                               dx.stride, (const Y *)dy.data, dy.stride, (const Y *)y.data, y.stride,
                                               (const float *)inv.data, y.dim[1])));
}

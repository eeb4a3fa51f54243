/*
 * image.cu - convolutions as rows, position tables and feature maps under another size. Formulas: ops.h.
 *
 * Backward goes by the places of the result, each of which takes what was copied from it, in order.
 */
#include "model/ops/cuda/device.cuh"

typedef struct geometry {
    int64_t B, C, H, W, K, step, pad, oh, ow;
    bool rows; // channels last
} geometry;

static geometry of(const pc_conv *v)
{
    return geometry{v->B, v->C, v->H, v->W, v->kernel, v->step, v->pad, v->out_h, v->out_w, v->channels_last};
}

__device__ __forceinline__ int64_t pixel(const geometry &v, int64_t stride, int64_t b, int64_t c, int64_t y, int64_t x)
{
    return v.rows ? ((b * v.H + y) * v.W + x) * stride + c : b * stride + (c * v.H + y) * v.W + x;
}

// X: the pixels' type (f32 even where rows are bf16). A block a row of the result.
template <class T, class X> __global__ void unfold(T *cols, int64_t cs, const X *x, int64_t xs, geometry v)
{
    const uint32_t ow = (uint32_t)v.ow, places = (uint32_t)(v.oh * v.ow), r = blockIdx.x, b = r / places, place = r - b * places;
    const int top = (int)(place / ow * v.step - v.pad), left = (int)(place % ow * v.step - v.pad);
    const uint32_t K = (uint32_t)v.K, KK = K * K, width = (uint32_t)v.C * KK;
    const X *image = x + b * (v.rows ? v.H * v.W : 1) * xs;
    T *out = cols + (int64_t)r * cs;
    for (uint32_t k = threadIdx.x; k < width; k += blockDim.x) {
        const uint32_t c = k / KK, rest = k - c * KK, ky = rest / K;
        const int yy = top + (int)ky, xx = left + (int)(rest - ky * K);
        const bool inside = yy >= 0 && yy < (int)v.H && xx >= 0 && xx < (int)v.W;
        const int64_t at = v.rows ? (int64_t)(yy * (int)v.W + xx) * xs + c : ((int64_t)c * v.H + yy) * v.W + xx;
        put(out, k, inside ? get(image, at) : 0.0f);
    }
}

template <class T> __global__ void fold(T *dx, int64_t xs, const T *dcols, int64_t cs, geometry v, int64_t n)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        int64_t b, c, y, x;
        if (v.rows) {
            c = i % v.C, x = i / v.C % v.W, y = i / (v.C * v.W) % v.H, b = i / (v.C * v.W * v.H);
        } else {
            x = i % v.W, y = i / v.W % v.H, c = i / (v.W * v.H) % v.C, b = i / (v.W * v.H * v.C);
        }
        float sum = 0.0f;
        for (int64_t ky = 0; ky < v.K; ky++) {
            const int64_t top = y + v.pad - ky;
            if (top < 0 || top % v.step || top / v.step >= v.oh) continue;
            for (int64_t kx = 0; kx < v.K; kx++) {
                const int64_t left = x + v.pad - kx;
                if (left < 0 || left % v.step || left / v.step >= v.ow) continue;
                sum += get(dcols, ((b * v.oh + top / v.step) * v.ow + left / v.step) * cs + (c * v.K + ky) * v.K + kx);
            }
        }
        put(dx, pixel(v, xs, b, c, y, x), sum);
    }
}

static unsigned grid_for(int64_t n)
{
    return blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
}

void cuda_im2col_forward(pc_ctx *, pc_tensor cols, pc_tensor x, const pc_conv *conv)
{
    const int64_t N = cols.dim[0], width = conv->C * conv->kernel * conv->kernel;
    if (N == 0 || width == 0) return;
    const int threads = width > 128 ? 256 : width > 64 ? 128 : width > 32 ? 64 : 32;
    BY_TYPE(x, typedef T X; BY_TYPE(cols, LAUNCH((unfold<T, X>), (unsigned)N, threads, 0, (T *)cols.data, cols.stride, (const X *)x.data,
                                                 x.stride, of(conv))));
}

void cuda_im2col_backward(pc_ctx *, pc_tensor dx, pc_tensor dcols, const pc_conv *conv)
{
    const int64_t n = conv->B * conv->C * conv->H * conv->W;
    if (n == 0) return;
    BY_TYPE(dx, LAUNCH(fold<T>, grid_for(n), THREADS, 0, (T *)dx.data, dx.stride, (const T *)dcols.data, dcols.stride, of(conv), n));
}

// ---- another size ------------------------------------------------------------------------------------

// Up to four places along one axis that output i of `out` reads, of `in`: cubic (A = -0.75), or two, linear.
struct places {
    int64_t at[4];
    float weight[4];
    int count;
};

__device__ __forceinline__ double cubic(double t)
{
    const double A = -0.75;
    t = fabs(t);
    if (t <= 1.0) return ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    if (t < 2.0) return ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    return 0.0;
}

template <bool CUBIC> __device__ places places_of(int64_t i, int64_t out, int64_t in)
{
    places p;
    double centre = ((double)i + 0.5) * (double)in / (double)out - 0.5;
    if (CUBIC) {
        const double whole = floor(centre);
        p.count = 4;
        for (int k = 0; k < 4; k++) {
            const int64_t at = (int64_t)whole + k - 1;
            p.at[k] = at < 0 ? 0 : at > in - 1 ? in - 1 : at;
            p.weight[k] = (float)cubic(centre - whole - (double)(k - 1));
        }
    } else {
        if (centre < 0.0) centre = 0.0;
        const int64_t low = (int64_t)centre < in - 1 ? (int64_t)centre : in - 1;
        const float f = (float)(centre - (double)low);
        p.count = 2;
        p.at[0] = low, p.at[1] = low + 1 < in - 1 ? low + 1 : in - 1;
        p.weight[0] = 1.0f - f, p.weight[1] = f;
    }
    return p;
}

template <class T, bool CUBIC>
__global__ void resize(T *y, int64_t ys, const T *x, int64_t xs, int64_t h2, int64_t w2, int64_t h1, int64_t w1, int64_t C)
{
    const int64_t r = blockIdx.x, b = r / (h2 * w2), i = r / w2 % h2, o = r % w2;
    const places down = places_of<CUBIC>(i, h2, h1), across = places_of<CUBIC>(o, w2, w1);
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
        float sum = 0.0f;
        for (int a = 0; a < down.count; a++)
            for (int e = 0; e < across.count; e++)
                sum += down.weight[a] * across.weight[e] * get(x, ((b * h1 + down.at[a]) * w1 + across.at[e]) * xs + c);
        put(y, r * ys + c, sum);
    }
}

// X: the gradient's type; `keep`: it accumulates.
template <class X, class T, bool CUBIC>
__global__ void resize_backward(X *dx, int64_t xs, const T *dy, int64_t ys, int64_t h2, int64_t w2, int64_t h1, int64_t w1, int64_t C,
                                bool keep)
{
    const int64_t r = blockIdx.x, b = r / (h1 * w1), line = r / w1 % h1, column = r % w1;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
        float sum = keep ? get(dx, r * xs + c) : 0.0f;
        for (int64_t i = 0; i < h2; i++) {
            const places down = places_of<CUBIC>(i, h2, h1);
            float wy = 0.0f;
            for (int a = 0; a < down.count; a++) wy += down.at[a] == line ? down.weight[a] : 0.0f;
            if (wy == 0.0f) continue;
            for (int64_t o = 0; o < w2; o++) {
                const places across = places_of<CUBIC>(o, w2, w1);
                float wx = 0.0f;
                for (int a = 0; a < across.count; a++) wx += across.at[a] == column ? across.weight[a] : 0.0f;
                if (wx != 0.0f) sum += wy * wx * get(dy, ((b * h2 + i) * w2 + o) * ys + c);
            }
        }
        put(dx, r * xs + c, sum);
    }
}

void cuda_resize_grid_forward(pc_ctx *, pc_tensor y, pc_tensor x, int64_t h2, int64_t w2, int64_t h1, int64_t w1)
{
    BY_TYPE(y, LAUNCH((resize<T, true>), (unsigned)y.dim[0], 128, 0, (T *)y.data, y.stride, (const T *)x.data, x.stride, h2, w2, h1, w1,
                      x.dim[1]));
}

void cuda_resize_grid_backward(pc_ctx *, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2, int64_t h1, int64_t w1)
{
    BY_TYPE(dx, typedef T X; BY_TYPE(dy, LAUNCH((resize_backward<X, T, true>), (unsigned)dx.dim[0], 128, 0, (X *)dx.data, dx.stride,
                                                (const T *)dy.data, dy.stride, h2, w2, h1, w1, dx.dim[1], true)));
}

void cuda_resize_map_forward(pc_ctx *, pc_tensor y, pc_tensor x, int64_t h2, int64_t w2, int64_t h1, int64_t w1)
{
    if (y.dim[0] == 0) return;
    BY_TYPE(y, LAUNCH((resize<T, false>), (unsigned)y.dim[0], 128, 0, (T *)y.data, y.stride, (const T *)x.data, x.stride, h2, w2, h1, w1,
                      x.dim[1]));
}

void cuda_resize_map_backward(pc_ctx *, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2, int64_t h1, int64_t w1)
{
    if (dx.dim[0] == 0) return;
    BY_TYPE(dx, LAUNCH((resize_backward<T, T, false>), (unsigned)dx.dim[0], 128, 0, (T *)dx.data, dx.stride, (const T *)dy.data, dy.stride,
                       h2, w2, h1, w1, dx.dim[1], false));
}

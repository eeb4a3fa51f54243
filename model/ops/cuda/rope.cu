/*
 * rope.cu - rotary positions: pairs (j, j + D/2) of every head turned by the angle of table row pos[n]. Formulas: ops.h.
 */
#include "model/ops/cuda/device.cuh"

template <class T>
__global__ void turn(T *y, int64_t ys, const T *x, int64_t xs, const float *cosines, const float *sines, const int32_t *pos, int64_t n,
                     int64_t H, int64_t half, float sign)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t j = i % half, h = i / half % H, r = i / (half * H);
        const int64_t at = (int64_t)pos[r] * half + j;
        const float c = cosines[at], s = sign * sines[at];
        const int64_t in = r * xs + h * 2 * half + j, out = r * ys + h * 2 * half + j;
        const float a = get(x, in), b = get(x, in + half);
        put(y, out, a * c - b * s);
        put(y, out + half, b * c + a * s);
    }
}

static void run_turn(pc_tensor y, pc_tensor x, pc_tensor cosines, pc_tensor sines, pc_tensor pos, float sign)
{
    const int64_t n = x.dim[0] * x.dim[1] * (x.dim[2] / 2);
    if (n == 0) return;
    const unsigned blocks = blocks_for(n) < 65536u ? blocks_for(n) : 65536u;
    PC_ASSERT(cosines.dtype == PC_F32, "rotary tables of %s", pc_dtype_name(cosines.dtype));
    BY_TYPE(x, LAUNCH(turn<T>, blocks, THREADS, 0, (T *)y.data, y.stride, (const T *)x.data, x.stride, (const float *)cosines.data,
                      (const float *)sines.data, pc_i32(pos), n, x.dim[1], x.dim[2] / 2, sign));
}

void cuda_rope_forward(pc_ctx *, pc_tensor y, pc_tensor x, pc_tensor cos_table, pc_tensor sin_table, pc_tensor pos)
{
    run_turn(y, x, cos_table, sin_table, pos, 1.0f);
}

void cuda_rope_backward(pc_ctx *, pc_tensor dx, pc_tensor dy, pc_tensor cos_table, pc_tensor sin_table, pc_tensor pos)
{
    run_turn(dx, dy, cos_table, sin_table, pos, -1.0f);
}

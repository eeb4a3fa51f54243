/*
 * choose.cu - the likeliest id, and counters that go on: what a step of decoding leaves for the next. Formulas: ops.h.
 */
#include "model/ops/cuda/device.cuh"

// A block a row. Among equals the lowest id: a pair (value, id) beats another by value, then by id.
__global__ void __launch_bounds__(1024) likeliest(int32_t *ids, int32_t *log, int64_t ls, const int32_t *line, const float *z, int64_t zs, int most)
{
    __shared__ float tops[32];
    __shared__ int places[32], unsound[32];
    const float *in = z + blockIdx.x * zs;
    float top = -INFINITY;
    int at = INT32_MAX, bad = 0;
    for (int v = threadIdx.x; v < most; v += blockDim.x) {
        const float x = in[v];
        bad |= !(x < INFINITY); // NaN too
        if (x > top) {
            top = x;
            at = v;
        }
    }
    for (int d = 16; d > 0; d >>= 1) {
        const float t = __shfl_xor_sync(0xffffffffu, top, d);
        const int a = __shfl_xor_sync(0xffffffffu, at, d);
        bad |= __shfl_xor_sync(0xffffffffu, bad, d);
        if (t > top || (t == top && a < at)) {
            top = t;
            at = a;
        }
    }
    if (threadIdx.x % 32 == 0) {
        tops[threadIdx.x / 32] = top;
        places[threadIdx.x / 32] = at;
        unsound[threadIdx.x / 32] = bad;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 1; w < (int)(blockDim.x + 31) / 32; w++) {
        bad |= unsound[w];
        if (tops[w] > top || (tops[w] == top && places[w] < at)) {
            top = tops[w];
            at = places[w];
        }
    }
    const int32_t id = bad || top == -INFINITY ? -1 : at;
    ids[blockIdx.x] = id;
    if (log) log[line[0] * ls + blockIdx.x] = id;
}

__global__ void go_on(int32_t *x, int64_t n, int32_t by)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i < n) x[i] += by;
}

void cuda_argmax_forward(pc_ctx *, pc_tensor ids, pc_tensor log, pc_tensor line, pc_tensor logits, int64_t most)
{
    if (logits.dim[0] == 0) return;
    PC_ASSERT(logits.dtype == PC_F32 && most <= INT32_MAX, "logits of %s", pc_dtype_name(logits.dtype));
    LAUNCH(likeliest, (unsigned)logits.dim[0], 1024, 0, pc_i32(ids), pc_present(log) ? pc_i32(log) : NULL, log.stride,
           pc_present(line) ? pc_i32(line) : NULL, (const float *)logits.data, logits.stride, (int)most);
}

void cuda_advance_forward(pc_ctx *, pc_tensor x, int64_t by)
{
    if (x.dim[0] == 0) return;
    LAUNCH(go_on, blocks_for(x.dim[0]), THREADS, 0, pc_i32(x), x.dim[0], (int32_t)by);
}

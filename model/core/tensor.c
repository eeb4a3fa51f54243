/*
 * tensor.c - shapes and views.
 */
#include "model/core/tensor.h"

#include "model/core/quant.h"

#include <stdio.h>

size_t pc_dtype_size(pc_dtype t)
{
    switch (t) {
    case PC_F32: return 4;
    case PC_F64: return 8;
    case PC_BF16: return 2;
    case PC_F16: return 2;
    case PC_I32: return 4;
    case PC_I64: return 8;
    case PC_U8: return 1;
    default: break;
    }
    PC_ASSERT(false, "%s has no size of one element", pc_dtype_name(t));
    return 0;
}

// Sizes are those of quant.c's table, which is searched: products ask for them row by row.
static const struct {
    const char *name;
    int id, numbers, bytes;
} blocks[] = {
    {"q4_0", PC_Q_Q4_0, 32, 18},   {"q4_1", PC_Q_Q4_1, 32, 20},   {"q5_0", PC_Q_Q5_0, 32, 22},
    {"q5_1", PC_Q_Q5_1, 32, 24},   {"q8_0", PC_Q_Q8_0, 32, 34},   {"q2_k", PC_Q_Q2_K, 256, 84},
    {"q3_k", PC_Q_Q3_K, 256, 110}, {"q4_k", PC_Q_Q4_K, 256, 144}, {"q5_k", PC_Q_Q5_K, 256, 176},
    {"q6_k", PC_Q_Q6_K, 256, 210},
};

int pc_dtype_quant(pc_dtype t)
{
    if (t >= PC_Q4_0 && t <= PC_Q6_K) return blocks[t - PC_Q4_0].id;
    return t == PC_F32    ? PC_Q_F32
           : t == PC_F16  ? PC_Q_F16
           : t == PC_BF16 ? PC_Q_BF16
           : t == PC_F64  ? PC_Q_F64
                          : -1;
}

int64_t pc_dtype_block(pc_dtype t)
{
    return t < PC_Q4_0 ? 1 : blocks[t - PC_Q4_0].numbers;
}

size_t pc_dtype_bytes(pc_dtype t, int64_t n)
{
    if (t < PC_Q4_0) return (size_t)n * pc_dtype_size(t);
    const int64_t numbers = blocks[t - PC_Q4_0].numbers;
    PC_ASSERT(n % numbers == 0, "%lld numbers in blocks of %lld", (long long)n, (long long)numbers);
    return (size_t)(n / numbers * blocks[t - PC_Q4_0].bytes);
}

const char *pc_dtype_name(pc_dtype t)
{
    switch (t) {
    case PC_F32: return "f32";
    case PC_F64: return "f64";
    case PC_BF16: return "bf16";
    case PC_F16: return "f16";
    case PC_I32: return "i32";
    case PC_I64: return "i64";
    case PC_U8: return "u8";
    default: break;
    }
    return t <= PC_Q6_K ? blocks[t - PC_Q4_0].name : "?";
}

int64_t pc_row_len(pc_tensor x)
{
    int64_t n = 1;
    for (int i = 1; i < x.rank; i++) n *= x.dim[i];
    return n;
}

int64_t pc_numel(pc_tensor x)
{
    return x.rank == 0 ? 1 : x.dim[0] * pc_row_len(x);
}

bool pc_is_dense(pc_tensor x)
{
    return x.rank == 0 || x.dim[0] <= 1 || x.stride == pc_row_len(x);
}

bool pc_same_shape(pc_tensor a, pc_tensor b)
{
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

pc_tensor pc_view1(void *data, pc_dtype t, int64_t d0)
{
    return (pc_tensor){.data = data, .dtype = t, .rank = 1, .dim = {d0}, .stride = 1};
}

pc_tensor pc_view2(void *data, pc_dtype t, int64_t d0, int64_t d1)
{
    return (pc_tensor){.data = data, .dtype = t, .rank = 2, .dim = {d0, d1}, .stride = d1};
}

pc_tensor pc_view3(void *data, pc_dtype t, int64_t d0, int64_t d1, int64_t d2)
{
    return (pc_tensor){.data = data, .dtype = t, .rank = 3, .dim = {d0, d1, d2}, .stride = d1 * d2};
}

pc_tensor pc_view4(void *data, pc_dtype t, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
    return (pc_tensor){
        .data = data, .dtype = t, .rank = 4, .dim = {d0, d1, d2, d3}, .stride = d1 * d2 * d3};
}

static void *element(pc_tensor x, int64_t index)
{
    return (unsigned char *)x.data + pc_dtype_bytes(x.dtype, index);
}

pc_tensor pc_rows(pc_tensor x, int64_t begin, int64_t end)
{
    PC_ASSERT(x.rank >= 1 && 0 <= begin && begin <= end && end <= x.dim[0],
              "rows [%lld,%lld) of %lld", (long long)begin, (long long)end, (long long)x.dim[0]);
    x.data = element(x, begin * x.stride);
    x.dim[0] = end - begin;
    return x;
}

pc_tensor pc_cols(pc_tensor x, int64_t begin, int64_t end)
{
    PC_ASSERT(x.rank == 2 && 0 <= begin && begin <= end && end <= x.dim[1],
              "columns [%lld,%lld) of %lld, rank %d", (long long)begin, (long long)end,
              (long long)x.dim[1], x.rank);
    x.data = element(x, begin);
    x.dim[1] = end - begin;
    return x;
}

pc_tensor pc_as_heads(pc_tensor x, int64_t D)
{
    if (x.rank == 3) { // (N,H,D) back to (N,H*D)
        x.dim[1] *= x.dim[2];
        x.dim[2] = 0;
        x.rank = 2;
        return x;
    }
    PC_ASSERT(x.rank == 2 && D > 0 && x.dim[1] % D == 0, "width %lld in heads of %lld",
              (long long)x.dim[1], (long long)D);
    x.rank = 3;
    x.dim[2] = D;
    x.dim[1] /= D;
    return x;
}

pc_tensor pc_reshape2(pc_tensor x, int64_t d0, int64_t d1)
{
    PC_ASSERT(pc_is_dense(x) && pc_numel(x) == d0 * d1, "%lld elements as (%lld,%lld)",
              (long long)pc_numel(x), (long long)d0, (long long)d1);
    return pc_view2(x.data, x.dtype, d0, d1);
}

const char *pc_shape_text(pc_tensor x, char *buf, size_t size)
{
    size_t used = 0;
    buf[0] = '\0';
    for (int i = 0; i <= x.rank && used < size; i++) {
        const int n = i < x.rank ? snprintf(buf + used, size - used, "%s%lld", i ? "," : "(",
                                            (long long)x.dim[i])
                                 : snprintf(buf + used, size - used, "%s", i ? ")" : "()");
        used += n > 0 ? (size_t)n : 0;
    }
    return buf;
}

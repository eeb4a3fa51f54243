/*
 * tensor.h - a view on numbers.
 *
 * A pc_tensor owns nothing. Data are row-major; `stride` is the distance, in elements, between two
 * neighbours along dim[0], everything below dim[0] is dense. So a column range of a matrix (the
 * queries inside a fused (N, H*D + 2*G*D) buffer) is a tensor too. An absent tensor has data NULL.
 *
 * Letters, everywhere: B batch, T tokens, P patches, C channels, H heads, G key/value heads, D head
 * width, F feed-forward width, V vocabulary, L layers, N rows (all tokens of all sequences of a batch
 * lie one after the other: there is no padding inside the model), E width of the joint embedding.
 */
#ifndef PC_CORE_TENSOR_H
#define PC_CORE_TENSOR_H

#include "model/core/status.h"

// The types below PC_U8 are blocks of GGUF files (quant.h): a row is whole blocks, and only whole rows are looked at.
typedef enum pc_dtype {
    PC_F32,
    PC_F64,
    PC_BF16,
    PC_F16,
    PC_I32,
    PC_I64,
    PC_U8,
    PC_Q4_0,
    PC_Q4_1,
    PC_Q5_0,
    PC_Q5_1,
    PC_Q8_0,
    PC_Q2_K,
    PC_Q3_K,
    PC_Q4_K,
    PC_Q5_K,
    PC_Q6_K,
} pc_dtype;

#define PC_MAX_RANK 4

typedef struct pc_tensor {
    void *data;
    pc_dtype dtype;
    int rank;
    int64_t dim[PC_MAX_RANK];
    int64_t stride; // elements between rows of dim[0]
} pc_tensor;

size_t pc_dtype_size(pc_dtype t);             // bytes of one element; not of a block type
int64_t pc_dtype_block(pc_dtype t);           // elements of a block; 1 for the others
size_t pc_dtype_bytes(pc_dtype t, int64_t n); // bytes of n elements, a multiple of the block
int pc_dtype_quant(pc_dtype t);               // its number in GGUF files (pc_quant); -1: none
const char *pc_dtype_name(pc_dtype t);        // "f32" ...
int64_t pc_numel(pc_tensor x);                // product of dims; 1 for rank 0
int64_t pc_row_len(pc_tensor x);              // elements in one row of dim[0]
bool pc_is_dense(pc_tensor x);                // stride equals the row length (or one row only)
bool pc_same_shape(pc_tensor a, pc_tensor b);

// Dense views on memory of the caller's.
pc_tensor pc_view1(void *data, pc_dtype t, int64_t d0);
pc_tensor pc_view2(void *data, pc_dtype t, int64_t d0, int64_t d1);
pc_tensor pc_view3(void *data, pc_dtype t, int64_t d0, int64_t d1, int64_t d2);
pc_tensor pc_view4(void *data, pc_dtype t, int64_t d0, int64_t d1, int64_t d2, int64_t d3);

// Sub-views: rows [begin, end) along dim[0]; columns [begin, end) of a rank-2 tensor.
pc_tensor pc_rows(pc_tensor x, int64_t begin, int64_t end);
pc_tensor pc_cols(pc_tensor x, int64_t begin, int64_t end);
// (N, H*D) as (N, H, D) and back: same rows, same stride.
pc_tensor pc_as_heads(pc_tensor x, int64_t D);
// A dense tensor under another shape of as many elements.
pc_tensor pc_reshape2(pc_tensor x, int64_t d0, int64_t d1);

static inline bool pc_present(pc_tensor x)
{
    return x.data != NULL;
}
static const pc_tensor PC_NONE = {0}; // an absent operand

static inline float *pc_f32(pc_tensor x, int64_t row)
{
    return (float *)x.data + row * x.stride;
}
static inline int32_t *pc_i32(pc_tensor x)
{
    return (int32_t *)x.data;
}

// "(800,768)" into buf; returns buf.
const char *pc_shape_text(pc_tensor x, char *buf, size_t size);

#endif

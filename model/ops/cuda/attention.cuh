/*
 * attention.cuh - what the attention kernels share: lists of tiles made from a mask, once, and which kernel takes what.
 *
 *   attention.cu                which kernel a call goes to; attention_plain.cuh: f32, and shapes the others refuse
 *   attention_tensor.cu         bf16 forward on tensor cores; attention_tensor_backward.cu its backward
 *   attention_short.cu          bf16 forward of whole short sequences, heads of 64, on Hopper; attention_short_backward.cu
 *   attention_long.cu           the same of wide heads on Hopper, attention_long_backward.cu its backward
 *   attention_few.cu            forward of a few query rows a sequence over many keys, split by keys
 *   attention_mask.cu           the lists below
 */
#ifndef PC_OPS_CUDA_ATTENTION_CUH
#define PC_OPS_CUDA_ATTENTION_CUH

#include "model/ops/cuda/device.cuh"

enum { GRANULE = 64 }; // rows of queries the lists go by

// Consecutive query rows of one sequence. Intervals are of key rows; [0] the prefix, [1] the row's own.
typedef struct granule {
    int32_t begin, end, origin;        // origin: the sequence's first key row
    int32_t first[2], last[2];         // what any row sees lies in here
    int32_t all_first[2], all_last[2]; // what every row sees, in one interval of the row's
} granule;

// A block's work: query rows (up to SPANS granules of one sequence) and the one or two disjoint ranges of keys that any
// of them sees; or key rows, which meet `count` of the query granules [first[0], last[0]).
typedef struct task {
    int32_t begin, end;
    int32_t first[2], last[2];
    int32_t granule, count;
} task;

enum { SPANS = 3 };

// A mask on the device. Rows hold (lo, hi, plo, phi); where the two intervals touch they are one, the row's own. Behind the
// last of them there is room for the rows of a task.
typedef struct sights {
    const int4 *rows;
    const granule *granules;
    const task *queries[SPANS], *keys[SPANS]; // by 1, 2, 3 granules
    int query_count[SPANS], key_count[SPANS], granule_count;
    int seen; // keys that a granule's rows see between them, on average
    // Of masks in which every sequence sees itself, all of it (FULL) or up to the row itself (CAUSAL).
    int shape;
    const int32_t *offsets; // (S+1)
    int sequences, longest, uniform; // uniform: the rows of each, if that is one number and they start at row 0, or 0
} sights;

enum { SHAPE_OTHER, SHAPE_FULL, SHAPE_CAUSAL };

// The lists of a mask over N query rows. They are kept: a mask that holds what an earlier one held costs a comparison.
sights sights_of(const pc_mask *mask, int64_t N);
// Whether they are there and will stay where they are, for a recording.
bool sights_stay(const pc_mask *mask, int64_t N);

__device__ __forceinline__ bool sees(int4 row, int key)
{
    return (key >= row.x && key < row.y) || (key >= row.z && key < row.w);
}

typedef struct heads {
    int64_t H, G, D;
    float scale;
} heads;

// Operands whose rows can be read 16 bytes at a time.
static inline bool by_vectors(pc_tensor x)
{
    const int64_t size = (int64_t)pc_dtype_size(x.dtype);
    return (uintptr_t)x.data % 16 == 0 && x.stride * size % 16 == 0 && x.dim[2] * size % 16 == 0;
}

// Each says whether it has taken the call.
bool attention_tensor_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale);
bool attention_tensor_backward(pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,
                               pc_tensor o, pc_tensor lse, const pc_mask *mask, double scale);
bool attention_short_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale);
bool attention_short_backward(pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,
                              pc_tensor o, pc_tensor lse, const pc_mask *mask, double scale);
bool attention_long_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale);
bool attention_long_backward(pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,
                             pc_tensor o, pc_tensor lse, const pc_mask *mask, double scale);
bool attention_few_forward(pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k, pc_tensor v, const pc_mask *mask, double scale);

#endif

/*
 * spans.h - the trainable parameters as pieces of even size.
 *
 * What is done to every trainable number (summing replicas, the norm, the optimiser's update) is spread over
 * threads by these pieces: many small tensors cost one hand-over to the pool, not one each, and sums
 * of the pieces come in list order whatever the number of threads.
 */
#ifndef PC_TRAIN_SPANS_H
#define PC_TRAIN_SPANS_H

#include "model/layers/params.h"

enum {
    SPAN_LENGTH = 16384,        // numbers: three tensors of them fit a core's second-level cache
    DEVICE_SPAN_LENGTH = 65536, // of a device's blocks of threads
};

typedef struct span {
    int param; // index in the list
    int64_t begin, end;
    int64_t
        first; // where the parameter's first number stands among all trained ones, each parameter on a multiple of 8
} span;

typedef struct spans {
    span *list;
    int64_t count;
} spans;

// Of the trainable parameters of the list, in order; `length` is a multiple of 8.
pc_status spans_open(spans *s, const pc_params *p, int64_t length);
void spans_close(spans *s); // a zeroed one is fine

// Numbers [begin, end) of a dense tensor as a vector.
static inline pc_tensor span_view(pc_tensor x, const span *s)
{
    return pc_view1((unsigned char *)x.data + (size_t)s->begin * pc_dtype_size(x.dtype), x.dtype,
                    s->end - s->begin);
}

// What the optimiser's operations (ops.h) take of it.
pc_piece span_piece(const pc_param *p, const span *s);
// `first` of the next parameter.
int64_t span_next(const pc_param *p, int64_t first);

#endif

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

enum { SPAN_LENGTH = 16384 }; // numbers: three tensors of them fit a core's second-level cache

typedef struct span {
    int param; // index in the list
    int64_t begin, end;
} span;

typedef struct spans {
    span *list;
    int64_t count;
} spans;

// Of the trainable parameters of the list, in order.
pc_status spans_open(spans *s, const pc_params *p);
void spans_close(spans *s); // a zeroed one is fine

// Numbers [begin, end) of a dense tensor as a vector.
static inline pc_tensor span_view(pc_tensor x, const span *s)
{
    return pc_view1((unsigned char *)x.data + (size_t)s->begin * pc_dtype_size(x.dtype), x.dtype,
                    s->end - s->begin);
}

#endif

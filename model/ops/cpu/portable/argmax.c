/*
 * argmax.c - the likeliest id, and counters that go on (portable kernels): what a step of decoding leaves for the next.
 *
 *   argmax    ids[n] = the lowest v < most with the largest logits[n,v];  -1: NaN, +inf, or nothing above -inf
 *   advance   x += by
 */
#include <math.h>

#include "model/ops/cpu/portable.h"

void R(argmax_forward)(pc_ctx *ctx, pc_tensor ids, pc_tensor log, pc_tensor line, pc_tensor logits,
                       int64_t most)
{
    (void)ctx;
    const int64_t N = logits.dim[0];
    PC_SAME("argmax: ids and rows", ids.dim[0], N);
    PC_ASSERT(most >= 1 && most <= logits.dim[1], "argmax: the first %lld of %lld", (long long)most,
              (long long)logits.dim[1]);
    for (int64_t n = 0; n < N; n++) {
        const real *z = pc_row(logits, n);
        int32_t best = -1;
        bool sound = true;
        for (int64_t v = 0; v < most && sound; v++) {
            sound = !isnan(z[v]) && z[v] != (real)INFINITY;
            if (z[v] > (best < 0 ? (real)-INFINITY : z[best])) best = (int32_t)v;
        }
        pc_i32(ids)[n] = sound ? best : -1;
        if (pc_present(log)) pc_i32(log)[pc_i32(line)[0] * log.stride + n] = pc_i32(ids)[n];
    }
}

void R(advance_forward)(pc_ctx *ctx, pc_tensor x, int64_t by)
{
    (void)ctx;
    for (int64_t i = 0; i < x.dim[0]; i++) pc_i32(x)[i] += (int32_t)by;
}

/*
 * portable_sums.h - sums in double for the portable kernels.
 *
 * Each keeps eight running sums in a fixed order: compilers turn them into vectors, and the result
 * does not depend on which compiler or instruction set did.
 */
#ifndef PC_OPS_CPU_PORTABLE_SUMS_H
#define PC_OPS_CPU_PORTABLE_SUMS_H

#include "model/ops/cpu/portable.h"

enum { PC_LANES = 8 };

static inline double pc_lanes_total(const double sum[PC_LANES])
{
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

// sum_c x[c] y[c]
static inline double pc_dot(const real *x, const real *y, int64_t C)
{
    double sum[PC_LANES] = {0};
    int64_t c = 0;
    for (; c + PC_LANES <= C; c += PC_LANES)
        for (int k = 0; k < PC_LANES; k++) sum[k] += (double)x[c + k] * (double)y[c + k];
    for (int k = 0; c < C; c++, k++) sum[k] += (double)x[c] * (double)y[c];
    return pc_lanes_total(sum);
}

// sum_c x[c]
static inline double pc_sum(const real *x, int64_t C)
{
    double sum[PC_LANES] = {0};
    int64_t c = 0;
    for (; c + PC_LANES <= C; c += PC_LANES)
        for (int k = 0; k < PC_LANES; k++) sum[k] += (double)x[c + k];
    for (int k = 0; c < C; c++, k++) sum[k] += (double)x[c];
    return pc_lanes_total(sum);
}

// max_c x[c], C >= 1; NaN anywhere may or may not come out, but then the caller's sums hold it.
static inline real pc_max(const real *x, int64_t C)
{
    real top[PC_LANES];
    for (int k = 0; k < PC_LANES; k++) top[k] = x[0];
    int64_t c = 0;
    for (; c + PC_LANES <= C; c += PC_LANES)
        for (int k = 0; k < PC_LANES; k++) top[k] = x[c + k] > top[k] ? x[c + k] : top[k];
    for (; c < C; c++) top[0] = x[c] > top[0] ? x[c] : top[0];
    for (int k = 1; k < PC_LANES; k++) top[0] = top[k] > top[0] ? top[k] : top[0];
    return top[0];
}

// sum_c (x[c] - mean)^2
static inline double pc_square_distance(const real *x, double mean, int64_t C)
{
    double sum[PC_LANES] = {0};
    int64_t c = 0;
    for (; c + PC_LANES <= C; c += PC_LANES)
        for (int k = 0; k < PC_LANES; k++) {
            const double d = (double)x[c + k] - mean;
            sum[k] += d * d;
        }
    for (int k = 0; c < C; c++, k++) sum[k] += ((double)x[c] - mean) * ((double)x[c] - mean);
    return pc_lanes_total(sum);
}

// With u = gain dy: *sum_ux = sum_c u[c] (x[c] - shift), *sum_u = sum_c u[c].
static inline void pc_norm_sums(double *sum_u, double *sum_ux, const real *gain, const real *dy,
                                const real *x, real shift, int64_t C)
{
    double a[PC_LANES] = {0}, b[PC_LANES] = {0};
    int64_t c = 0;
    for (; c + PC_LANES <= C; c += PC_LANES)
        for (int k = 0; k < PC_LANES; k++) {
            const double u = (double)gain[c + k] * (double)dy[c + k];
            a[k] += u;
            b[k] += u * (double)(x[c + k] - shift);
        }
    for (int k = 0; c < C; c++, k++) {
        const double u = (double)gain[c] * (double)dy[c];
        a[k] += u;
        b[k] += u * (double)(x[c] - shift);
    }
    *sum_u = pc_lanes_total(a);
    *sum_ux = pc_lanes_total(b);
}

// y[c] += sum over threads of sums[thread * stride + c], in thread order.
static inline void pc_add_sums(real *y, const double *sums, int64_t stride, int threads, int64_t C)
{
    for (int64_t c = 0; c < C; c++) {
        double total = 0.0;
        for (int t = 0; t < threads; t++) total += sums[t * stride + c];
        y[c] += (real)total;
    }
}

#endif

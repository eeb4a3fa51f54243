/*
 * act.c - pointwise activations (portable kernels; the kinds and formulas stand in ops.h).
 *
 *   forward    a = f(z)
 *   backward   dz = da f'(z)      overwritten: an activation; dz may be da
 *
 * Shapes: all (N,F), rows may be strided. With s the logistic function,
 *   GELU       f = z Phi(z)            f' = Phi(z) + z phi(z)
 *   GELU tanh  f = z s(2u)             u = sqrt(2/pi) (z + 0.044715 z^3)
 *              f' = s + 2 z s (1 - s) u'          (1 + tanh u = 2 s(2u))
 *   quick      f = z s(1.702 z)        f' = s (1 + 1.702 z (1 - s));  SiLU the same with 1
 *   ReLU       f' = 1 where z > 0, else 0
 */
#include "model/ops/cpu/portable_math.h"

static const real gelu_a = (real)0.79788456080286535588; // sqrt(2/pi)
static const real gelu_b = (real)0.044715;
static const real quick = (real)1.702;

static inline real logistic(real x)
{
    return 1 / (1 + pc_exp(-x));
}

static inline real erf_real(real x)
{
#ifdef PC_REAL_F64
    return erf(x);
#else
    return erff(x);
#endif
}

static inline real phi_cumulative(real z)
{
    return (real)0.5 * (1 + erf_real(z * (real)0.70710678118654752440));
}

static void act_row(real *a, const real *z, int64_t F, pc_act kind)
{
    switch (kind) {
    case PC_ACT_GELU:
        for (int64_t f = 0; f < F; f++) a[f] = z[f] * phi_cumulative(z[f]);
        break;
    case PC_ACT_GELU_TANH:
        for (int64_t f = 0; f < F; f++) {
            const real u = gelu_a * (z[f] + gelu_b * z[f] * z[f] * z[f]);
            a[f] = z[f] * logistic(2 * u);
        }
        break;
    case PC_ACT_QUICK:
        for (int64_t f = 0; f < F; f++) a[f] = z[f] * logistic(quick * z[f]);
        break;
    case PC_ACT_SILU:
        for (int64_t f = 0; f < F; f++) a[f] = z[f] * logistic(z[f]);
        break;
    case PC_ACT_RELU:
        // Not z > 0 ? z : 0, which would hide NaN.
        for (int64_t f = 0; f < F; f++) a[f] = z[f] <= 0 ? 0 : z[f];
        break;
    }
}

// erf is a call per element; the rest runs over blocks of its results, as vectors.
static void gelu_row_backward(real *dz, const real *da, const real *z, int64_t F)
{
    enum { BLOCK = 64 };
    const real norm = (real)0.39894228040143267794; // 1/sqrt(2 pi)
    real below[BLOCK];
    for (int64_t first = 0; first < F; first += BLOCK) {
        const int64_t count = pc_min64(BLOCK, F - first);
        for (int64_t f = 0; f < count; f++) below[f] = phi_cumulative(z[first + f]);
        for (int64_t f = 0; f < count; f++) {
            const real at = z[first + f], density = norm * pc_exp((real)-0.5 * at * at);
            dz[first + f] = da[first + f] * (below[f] + at * density);
        }
    }
}

static void act_row_backward(real *dz, const real *da, const real *z, int64_t F, pc_act kind)
{
    switch (kind) {
    case PC_ACT_GELU: gelu_row_backward(dz, da, z, F); break;
    case PC_ACT_GELU_TANH:
        for (int64_t f = 0; f < F; f++) {
            const real z2 = z[f] * z[f];
            const real s = logistic(2 * gelu_a * (z[f] + gelu_b * z2 * z[f]));
            const real slope = gelu_a * (1 + 3 * gelu_b * z2);
            dz[f] = da[f] * (s + 2 * z[f] * s * (1 - s) * slope);
        }
        break;
    case PC_ACT_QUICK:
        for (int64_t f = 0; f < F; f++) {
            const real s = logistic(quick * z[f]);
            dz[f] = da[f] * (s * (1 + quick * z[f] * (1 - s)));
        }
        break;
    case PC_ACT_SILU:
        for (int64_t f = 0; f < F; f++) {
            const real s = logistic(z[f]);
            dz[f] = da[f] * (s * (1 + z[f] * (1 - s)));
        }
        break;
    case PC_ACT_RELU:
        for (int64_t f = 0; f < F; f++) {
            const real d = da[f]; // read in any case: nothing to branch on
            dz[f] = z[f] <= 0 ? 0 : d;
        }
        break;
    }
}

typedef struct act_job {
    pc_tensor out, da, z;
    pc_act kind;
} act_job;

static void act_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const act_job *j = arg;
    const int64_t F = pc_row_len(j->z);
    (void)worker;
    for (int64_t n = begin; n < end; n++) act_row(pc_row(j->out, n), pc_row(j->z, n), F, j->kind);
}

void R(act_forward)(pc_ctx *ctx, pc_tensor a, pc_tensor z, pc_act kind)
{
    PC_SAME("act: rows of a and z", a.dim[0], z.dim[0]);
    PC_SAME("act: columns of a and z", pc_row_len(a), pc_row_len(z));
    act_job job = {.out = a, .z = z, .kind = kind};
    pc_parallel(ctx->pool, z.dim[0], pc_row_grain(8 * pc_row_len(z)), act_rows, &job);
}

static void act_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const act_job *j = arg;
    const int64_t F = pc_row_len(j->z);
    (void)worker;
    for (int64_t n = begin; n < end; n++)
        act_row_backward(pc_row(j->out, n), pc_row(j->da, n), pc_row(j->z, n), F, j->kind);
}

void R(act_backward)(pc_ctx *ctx, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    PC_SAME("act: rows of dz and z", dz.dim[0], z.dim[0]);
    PC_SAME("act: columns of da and z", pc_row_len(da), pc_row_len(z));
    act_job job = {dz, da, z, kind};
    pc_parallel(ctx->pool, z.dim[0], pc_row_grain(8 * pc_row_len(z)), act_rows_backward, &job);
}

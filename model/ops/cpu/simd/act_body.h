/*
 * act_body.h - pointwise activations and SwiGLU (formulas: portable/act.c, portable/swiglu.c). linear_act's forward leaves
 * f'(z) where z was: value and slope share exponential and polynomial, and backward is a product.
 */
#include "model/ops/cpu/simd/math.h"
#include "model/ops/cpu/simd/product.h"

// z -> 2u of the tanh form: 2 sqrt(2/pi) (z + 0.044715 z^3).
#define GELU_2A 1.59576912160573071176f
#define GELU_B  0.044715f
#define QUICK   1.702f

// The logistic of steepness a behind all kinds but the erf one.
PC_INLINE vf act_gate(vf z, pc_act kind)
{
    if (kind == PC_ACT_GELU_TANH) {
        const vf cubic = v_fma(v_mul(v_mul(z, z), v_set1(GELU_B)), z, z);
        return v_logistic(v_mul(v_set1(GELU_2A), cubic));
    }
    return v_logistic(kind == PC_ACT_QUICK ? v_mul(v_set1(QUICK), z) : z);
}

PC_INLINE vf act_value(vf z, pc_act kind)
{
    if (kind == PC_ACT_RELU) return v_select(v_not_positive(z), v_zero(), z);
    if (kind == PC_ACT_GELU) {
        vf density;
        return v_mul(z, v_normal(z, &density));
    }
    return v_mul(z, act_gate(z, kind));
}

PC_INLINE vf act_slope(vf z, pc_act kind)
{
    const vf one = v_set1(1.0f);
    if (kind == PC_ACT_RELU) return v_select(v_not_positive(z), v_zero(), one);
    if (kind == PC_ACT_GELU) {
        vf density;
        const vf below = v_normal(z, &density);
        return v_fma(v_mul(z, density), v_set1(0.39894228040143267794f), below);
    }
    const vf s = act_gate(z, kind);
    vf inner =
        kind == PC_ACT_QUICK ? v_mul(v_set1(QUICK), z) : z; // z times the gate argument's slope
    if (kind == PC_ACT_GELU_TANH)
        inner = v_mul(v_mul(z, v_set1(GELU_2A)), v_fma(v_mul(z, z), v_set1(3.0f * GELU_B), one));
    return v_mul(s, v_fma(inner, v_sub(one, s), one));
}

PC_INLINE void act_row(float *a, const float *z, int64_t n, pc_act kind)
{
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) { // two at a time hide the latency of the polynomials
        const vf x = act_value(v_load(z + i), kind), y = act_value(v_load(z + i + VW), kind);
        v_store(a + i, x);
        v_store(a + i + VW, y);
    }
    for (; i < n; i += VW) v_store_tail(a + i, n - i, act_value(v_load_tail(z + i, n - i), kind));
}

// a = f(z), z = f'(z): the numbers that act_row_back would meet.
PC_INLINE void act_row_slope(float *a, float *z, int64_t n, pc_act kind)
{
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        const vf x = v_load(z + i), y = v_load(z + i + VW);
        v_store(a + i, act_value(x, kind));
        v_store(a + i + VW, act_value(y, kind));
        v_store(z + i, act_slope(x, kind));
        v_store(z + i + VW, act_slope(y, kind));
    }
    for (; i < n; i += VW) {
        const vf x = v_load_tail(z + i, n - i);
        v_store_tail(a + i, n - i, act_value(x, kind));
        v_store_tail(z + i, n - i, act_slope(x, kind));
    }
}

PC_INLINE void act_row_back(float *dz, const float *da, const float *z, int64_t n, pc_act kind)
{
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        v_ask_ahead(z + i);
        v_ask_ahead(z + i + VW);
        const vf x = act_slope(v_load(z + i), kind), y = act_slope(v_load(z + i + VW), kind);
        v_store(dz + i, v_mul(v_load(da + i), x));
        v_store(dz + i + VW, v_mul(v_load(da + i + VW), y));
    }
    for (; i < n; i += VW)
        v_store_tail(dz + i, n - i,
                     v_mul(v_load_tail(da + i, n - i), act_slope(v_load_tail(z + i, n - i), kind)));
}

static void act_row_of(float *a, const float *z, int64_t n, pc_act kind)
{
    switch (kind) {
    case PC_ACT_GELU: act_row(a, z, n, PC_ACT_GELU); break;
    case PC_ACT_GELU_TANH: act_row(a, z, n, PC_ACT_GELU_TANH); break;
    case PC_ACT_QUICK: act_row(a, z, n, PC_ACT_QUICK); break;
    case PC_ACT_SILU: act_row(a, z, n, PC_ACT_SILU); break;
    case PC_ACT_RELU: act_row(a, z, n, PC_ACT_RELU); break;
    }
}

static void act_row_slope_of(float *a, float *z, int64_t n, pc_act kind)
{
    switch (kind) {
    case PC_ACT_GELU: act_row_slope(a, z, n, PC_ACT_GELU); break;
    case PC_ACT_GELU_TANH: act_row_slope(a, z, n, PC_ACT_GELU_TANH); break;
    case PC_ACT_QUICK: act_row_slope(a, z, n, PC_ACT_QUICK); break;
    case PC_ACT_SILU: act_row_slope(a, z, n, PC_ACT_SILU); break;
    case PC_ACT_RELU: act_row_slope(a, z, n, PC_ACT_RELU); break;
    }
}

void S(pc_act_row)(float *a, float *z, int64_t n, pc_act kind, bool slope)
{
    if (slope)
        act_row_slope_of(a, z, n, kind);
    else
        act_row_of(a, z, n, kind);
}

static void act_row_backward(float *dz, const float *da, const float *z, int64_t n, pc_act kind)
{
    switch (kind) {
    case PC_ACT_GELU: act_row_back(dz, da, z, n, PC_ACT_GELU); break;
    case PC_ACT_GELU_TANH: act_row_back(dz, da, z, n, PC_ACT_GELU_TANH); break;
    case PC_ACT_QUICK: act_row_back(dz, da, z, n, PC_ACT_QUICK); break;
    case PC_ACT_SILU: act_row_back(dz, da, z, n, PC_ACT_SILU); break;
    case PC_ACT_RELU: act_row_back(dz, da, z, n, PC_ACT_RELU); break;
    }
}

typedef struct act_job {
    pc_tensor out, da, z;
    pc_act kind;
} act_job;

static void act_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const act_job *j = arg;
    (void)worker;
    for (int64_t n = begin; n < end; n++)
        act_row_of(pc_row(j->out, n), pc_row(j->z, n), pc_row_len(j->z), j->kind);
}

void S(act_forward)(pc_ctx *ctx, pc_tensor a, pc_tensor z, pc_act kind)
{
    PC_SAME("act: rows of a and z", a.dim[0], z.dim[0]);
    PC_SAME("act: columns of a and z", pc_row_len(a), pc_row_len(z));
    act_job job = {.out = a, .z = z, .kind = kind};
    pc_parallel(ctx->pool, z.dim[0], pc_row_grain(pc_row_len(z)), act_rows, &job);
}

static void act_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const act_job *j = arg;
    (void)worker;
    for (int64_t n = begin; n < end; n++)
        act_row_backward(pc_row(j->out, n), pc_row(j->da, n), pc_row(j->z, n), pc_row_len(j->z),
                         j->kind);
}

void S(act_backward)(pc_ctx *ctx, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind)
{
    PC_SAME("act: rows of dz and z", dz.dim[0], z.dim[0]);
    PC_SAME("act: columns of da and z", pc_row_len(da), pc_row_len(z));
    act_job job = {dz, da, z, kind};
    pc_parallel(ctx->pool, z.dim[0], pc_row_grain(pc_row_len(z)), act_rows_backward, &job);
}

static void times_slope(void *arg, int64_t begin, int64_t end, int worker)
{
    const act_job *j = arg;
    const int64_t F = pc_row_len(j->z);
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const float *slope = pc_row(j->z, n), *da = pc_row(j->da, n);
        float *dz = pc_row(j->out, n);
        for (int64_t f = 0; f < F; f += VW) {
            v_ask_ahead(slope + f);
            v_store_tail(dz + f, F - f,
                         v_mul(v_load_tail(da + f, F - f), v_load_tail(slope + f, F - f)));
        }
    }
}

void S(linear_act_backward)(pc_ctx *ctx, pc_tensor dz, pc_tensor db, pc_tensor da, pc_tensor z,
                            pc_act kind)
{
    PC_SAME("linear_act: rows of dz and z", dz.dim[0], z.dim[0]);
    PC_SAME("linear_act: columns of da and z", pc_row_len(da), pc_row_len(z));
    act_job job = {dz, da, z, kind};
    pc_parallel(ctx->pool, z.dim[0], pc_row_grain(pc_row_len(z)), times_slope, &job);
    if (pc_present(db))
        ctx->grad_ops->linear_backward(ctx, PC_NONE, PC_NONE, db, dz, PC_NONE, PC_NONE, false);
}

typedef struct swiglu_job {
    pc_tensor out, dh, gu;
} swiglu_job;

static void swiglu_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const swiglu_job *j = arg;
    const int64_t F = j->out.dim[1];
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const float *g = pc_row(j->gu, n), *u = g + F;
        float *h = pc_row(j->out, n);
        for (int64_t f = 0; f < F; f += VW) {
            const vf z = v_load_tail(g + f, F - f);
            v_store_tail(h + f, F - f, v_mul(v_mul(z, v_logistic(z)), v_load_tail(u + f, F - f)));
        }
    }
}

void S(swiglu_forward)(pc_ctx *ctx, pc_tensor h, pc_tensor gu)
{
    PC_SAME("swiglu: rows of h and gu", h.dim[0], gu.dim[0]);
    PC_SAME("swiglu: twice the columns of h, and those of gu", 2 * h.dim[1], gu.dim[1]);
    swiglu_job job = {.out = h, .gu = gu};
    pc_parallel(ctx->pool, h.dim[0], pc_row_grain(h.dim[1]), swiglu_rows, &job);
}

static void swiglu_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const swiglu_job *j = arg;
    const int64_t F = j->dh.dim[1];
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const float *g = pc_row(j->gu, n), *u = g + F, *dh = pc_row(j->dh, n);
        float *dg = pc_row(j->out, n), *du = dg + F;
        for (int64_t f = 0; f < F; f += VW) {
            const int64_t left = F - f;
            v_ask_ahead(g + f);
            v_ask_ahead(u + f);
            const vf z = v_load_tail(g + f, left), d = v_load_tail(dh + f, left);
            const vf s = v_logistic(z), one = v_set1(1.0f);
            const vf slope = v_mul(s, v_fma(z, v_sub(one, s), one));
            v_store_tail(dg + f, left, v_mul(v_mul(d, v_load_tail(u + f, left)), slope));
            v_store_tail(du + f, left, v_mul(d, v_mul(z, s)));
        }
    }
}

void S(swiglu_backward)(pc_ctx *ctx, pc_tensor dgu, pc_tensor dh, pc_tensor gu)
{
    PC_SAME("swiglu: rows of dh and gu", dh.dim[0], gu.dim[0]);
    PC_SAME("swiglu: columns of dgu and gu", dgu.dim[1], gu.dim[1]);
    PC_ASSERT(dgu.data != gu.data, "swiglu: dgu may not lie over gu");
    swiglu_job job = {dgu, dh, gu};
    pc_parallel(ctx->pool, dh.dim[0], pc_row_grain(dh.dim[1]), swiglu_rows_backward, &job);
}

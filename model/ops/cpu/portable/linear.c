/*
 * linear.c - the linear map, alone and with an activation behind it (portable kernels).
 *
 *   forward    y = x W^T + b + r
 *   backward   dx = dy W          overwritten: an activation
 *              dW += dy^T x       accumulated: a parameter; or written, where it is fresh
 *              db += sum_n dy     accumulated; the sum over rows runs in double
 *   linear_act z = x W^T + b,  a = f(z);  dz = da f'(z)   z stays z
 *
 * Shapes: x (N,I), W (O,I), b (O)?, y and r? (N,O); r may be y. Bias and residual are laid down in y
 * first and the product is added to them.
 */
#include <string.h>

#include "model/ops/cpu/gemm.h"
#include "model/ops/cpu/portable.h"
#include "model/ops/cpu/portable_stored.h"

typedef struct base_job {
    pc_tensor y, b, r;
} base_job;

// y = b + r, whichever of them there is.
static void base_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const base_job *j = arg;
    const int64_t O = j->y.dim[1];
    const real *bias = j->b.data;
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        real *yn = pc_row(j->y, n);
        if (!pc_present(j->r)) {
            memcpy(yn, bias, (size_t)O * sizeof *yn);
            continue;
        }
        const real *rn = pc_row(j->r, n);
        if (!bias)
            memmove(yn, rn, (size_t)O * sizeof *yn);
        else
            for (int64_t o = 0; o < O; o++) yn[o] = rn[o] + bias[o];
    }
}

void R(linear_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r)
{
    const int64_t N = x.dim[0], I = x.dim[1], O = w.dim[0];
    PC_SAME("linear: rows of y and x", y.dim[0], N);
    PC_SAME("linear: columns of y and rows of W", y.dim[1], O);
    PC_SAME("linear: columns of x and W", I, w.dim[1]);

    const bool in_place = pc_present(r) && r.data == y.data;
    const bool base = pc_present(b) || pc_present(r);
    base_job job = {y, b, r};
    if (pc_present(b) || (pc_present(r) && !in_place))
        pc_parallel(ctx->pool, N, pc_row_grain(O), base_rows, &job);
    R(pc_times_matrix)(ctx->pool, y.data, y.stride, x.data, x.stride, N, w, base);
}

typedef struct bias_job {
    pc_tensor db, dy;
} bias_job;

// db[o] += sum_n dy[n,o] for columns [begin, end), all rows in order.
static void bias_columns(void *arg, int64_t begin, int64_t end, int worker)
{
    enum { BLOCK = 64 };
    const bias_job *j = arg;
    const int64_t N = j->dy.dim[0];
    real *db = j->db.data;
    (void)worker;
    for (int64_t first = begin; first < end; first += BLOCK) {
        const int64_t width = pc_min64(BLOCK, end - first);
        double sum[BLOCK] = {0};
        for (int64_t n = 0; n < N; n++) {
            const real *dyn = pc_row(j->dy, n) + first;
            for (int64_t o = 0; o < width; o++) sum[o] += (double)dyn[o];
        }
        for (int64_t o = 0; o < width; o++) db[first + o] += (real)sum[o];
    }
}

static void add_rows(pc_ctx *ctx, pc_tensor db, pc_tensor dy)
{
    bias_job job = {db, dy};
    if (pc_present(db))
        pc_parallel(ctx->pool, dy.dim[1], pc_max64(16, pc_row_grain(dy.dim[0])), bias_columns,
                    &job);
}

void R(linear_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor db, pc_tensor dy,
                        pc_tensor x, pc_tensor w, bool fresh)
{
    const int64_t N = dy.dim[0], O = dy.dim[1], I = w.dim[1];
    PC_SAME("linear: columns of dy and rows of W", O, w.dim[0]);

    if (pc_present(dx)) {
        PC_SAME("linear: rows of dx and dy", dx.dim[0], N);
        pc_gemm(ctx->pool, false, false, N, I, O, 1, dy.data, dy.stride, w.data, w.stride, 0,
                dx.data, dx.stride);
    }
    if (pc_present(dw)) {
        PC_SAME("linear: rows of x and dy", x.dim[0], N);
        pc_gemm(ctx->pool, true, false, O, I, N, 1, dy.data, dy.stride, x.data, x.stride,
                fresh ? 0 : 1, dw.data, dw.stride);
    }
    add_rows(ctx, db, dy);
}

void R(linear_act_forward)(pc_ctx *ctx, pc_tensor a, pc_tensor z, pc_tensor x, pc_tensor w,
                           pc_tensor b, pc_act kind)
{
    R(linear_forward)(ctx, z, x, w, b, PC_NONE);
    R(act_forward)(ctx, a, z, kind);
}

void R(linear_act_backward)(pc_ctx *ctx, pc_tensor dz, pc_tensor db, pc_tensor da, pc_tensor z,
                            pc_act kind)
{
    R(act_backward)(ctx, dz, da, z, kind);
    add_rows(ctx, db, dz);
}

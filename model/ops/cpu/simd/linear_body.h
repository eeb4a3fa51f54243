/*
 * linear_body.h - the linear map with bias, residual and activation in the product's epilogue.
 */
#include "model/ops/cpu/simd/product.h"
#include "model/ops/cpu/simd/simd.h"
#include "model/ops/cpu/stored.h"

static pc_product linear_product(pc_tensor y, pc_tensor x, pc_tensor w, pc_tensor b)
{
    PC_SAME("linear: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("linear: columns of y and rows of W", y.dim[1], w.dim[0]);
    PC_SAME("linear: columns of x and W", x.dim[1], w.dim[1]);
    return (pc_product){.M = x.dim[0],
                        .N = w.dim[0],
                        .K = x.dim[1],
                        .a = x.data,
                        .lda = x.stride,
                        .b = pc_stored(w, PC_F32) ? NULL : w.data,
                        .stored = pc_stored(w, PC_F32) ? w.data : NULL,
                        .type = w.dtype,
                        .ldb = w.stride,
                        .trans_b = true,
                        .c = y.data,
                        .ldc = y.stride,
                        .bias = b.data};
}

void S(linear_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r)
{
    pc_product p = linear_product(y, x, w, b);
    p.add = r.data;
    p.ld_add = r.stride;
    S(pc_product)(ctx->pool, &p);
}

void S(linear_act_forward)(pc_ctx *ctx, pc_tensor a, pc_tensor z, pc_tensor x, pc_tensor w,
                           pc_tensor b, pc_act kind)
{
    pc_product p = linear_product(z, x, w, b);
    p.act = a.data;
    p.ld_act = a.stride;
    p.kind = kind;
    p.slope = ctx->grad_ops && a.data != z.data;
    S(pc_product)(ctx->pool, &p);
}

typedef struct bias_job {
    pc_tensor db, dy;
} bias_job;

// db[o] += sum_n dy[n,o] for columns [begin, end): sums of 64 rows in float, added up in order.
static void bias_columns(void *arg, int64_t begin, int64_t end, int worker)
{
    enum { ROWS = 64 };
    const bias_job *j = arg;
    const int64_t N = j->dy.dim[0];
    float *db = j->db.data;
    (void)worker;
    for (int64_t o = begin; o < end; o += 2 * VW) {
        const int64_t first = pc_min64(VW, end - o),
                      second = pc_max64(0, pc_min64(VW, end - o - VW));
        vf total[2] = {v_zero(), v_zero()};
        for (int64_t n0 = 0; n0 < N; n0 += ROWS) {
            vf sum[2] = {v_zero(), v_zero()};
            for (int64_t n = n0; n < pc_min64(N, n0 + ROWS); n++) {
                const float *dy = pc_row(j->dy, n) + o;
                sum[0] = v_add(sum[0], v_load_tail(dy, first));
                if (second) sum[1] = v_add(sum[1], v_load_tail(dy + VW, second));
            }
            total[0] = v_add(total[0], sum[0]);
            total[1] = v_add(total[1], sum[1]);
        }
        v_store_tail(db + o, first, v_add(total[0], v_load_tail(db + o, first)));
        if (second)
            v_store_tail(db + o + VW, second, v_add(total[1], v_load_tail(db + o + VW, second)));
    }
}

void S(linear_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dw, pc_tensor db, pc_tensor dy,
                        pc_tensor x, pc_tensor w, bool fresh)
{
    const int64_t N = dy.dim[0], O = dy.dim[1];
    if (pc_present(dx)) {
        PC_SAME("linear: rows of dx and dy", dx.dim[0], N);
        PC_SAME("linear: columns of dy and rows of W", O, w.dim[0]);
        const pc_product p = {.M = N,
                              .N = dx.dim[1],
                              .K = O,
                              .a = dy.data,
                              .lda = dy.stride,
                              .b = w.data,
                              .ldb = w.stride,
                              .c = dx.data,
                              .ldc = dx.stride};
        S(pc_product)(ctx->pool, &p);
    }
    if (pc_present(dw) && N == 0 && fresh) ctx->ops->zero_forward(ctx, dw);
    if (pc_present(dw) && N > 0) { // no rows, no sum: dW stays
        PC_SAME("linear: rows of x and dy", x.dim[0], N);
        PC_SAME("linear: columns of dy and rows of dW", O, dw.dim[0]);
        const pc_product p = {.M = O,
                              .N = x.dim[1],
                              .K = N,
                              .a = dy.data,
                              .lda = dy.stride,
                              .trans_a = true,
                              .b = x.data,
                              .ldb = x.stride,
                              .c = dw.data,
                              .ldc = dw.stride,
                              .accumulate = !fresh};
        S(pc_product)(ctx->pool, &p);
    }
    if (pc_present(db)) {
        bias_job job = {db, dy};
        pc_parallel(ctx->pool, O, pc_max64(2 * VW, pc_row_grain(N) / 2 / VW * 2 * VW), bias_columns,
                    &job);
    }
}

/*
 * rows_body.h - what streams rows through: rotary positions and sums (formulas: ops.h).
 */
#include "model/ops/cpu/simd/simd.h"

typedef struct rope_job {
    pc_tensor y, x, cos_table, sin_table, pos;
    float sign; // +1 forward, -1 backward
} rope_job;

static void rope_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const rope_job *j = arg;
    const int64_t H = j->x.dim[1], D = j->x.dim[2], half = D / 2;
    const int32_t *pos = pc_i32(j->pos);
    const vf sign = v_set1(j->sign);
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        PC_ASSERT(pos[n] >= 0 && pos[n] < j->cos_table.dim[0],
                  "rope: row %lld has position %d, the table has %lld rows", (long long)n, pos[n],
                  (long long)j->cos_table.dim[0]);
        const float *cosine = pc_row(j->cos_table, pos[n]), *sine = pc_row(j->sin_table, pos[n]);
        for (int64_t d = 0; d < half; d += VW) {
            const int64_t left = half - d;
            const vf c = v_load_tail(cosine + d, left);
            const vf s = v_mul(sign, v_load_tail(sine + d, left));
            const float *x = pc_row(j->x, n) + d;
            float *y = pc_row(j->y, n) + d;
            for (int64_t h = 0; h < H; h++, x += D, y += D) {
                const vf a = v_load_tail(x, left), b = v_load_tail(x + half, left);
                v_store_tail(y, left, v_fnma(b, s, v_mul(a, c)));
                v_store_tail(y + half, left, v_fma(a, s, v_mul(b, c)));
            }
        }
    }
}

static void rope(pc_ctx *ctx, rope_job *job)
{
    const pc_tensor x = job->x;
    PC_SAME("rope: rows of y and x", job->y.dim[0], x.dim[0]);
    PC_SAME("rope: half the head width, and columns of the table", x.dim[2] / 2,
            job->cos_table.dim[1]);
    PC_ASSERT(x.dim[2] % 2 == 0, "rope: the head width %lld is odd", (long long)x.dim[2]);
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(pc_row_len(x)), rope_rows, job);
}

void S(rope_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor cos_table,
                     pc_tensor sin_table, pc_tensor pos)
{
    rope_job job = {y, x, cos_table, sin_table, pos, 1};
    rope(ctx, &job);
}

void S(rope_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor cos_table,
                      pc_tensor sin_table, pc_tensor pos)
{
    rope_job job = {dx, dy, cos_table, sin_table, pos, -1};
    rope(ctx, &job);
}

typedef struct add_job {
    pc_tensor y, a, b;
    int64_t len; // elements of a row; 0: everything is one row, and pieces are element ranges
} add_job;

PC_INLINE void add_span(float *y, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i += VW)
        v_store_tail(y + i, n - i, v_add(v_load_tail(a + i, n - i), v_load_tail(b + i, n - i)));
}

static void add_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const add_job *j = arg;
    (void)worker;
    if (!j->len) {
        add_span((float *)j->y.data + begin, (const float *)j->a.data + begin,
                 (const float *)j->b.data + begin, end - begin);
        return;
    }
    for (int64_t n = begin; n < end; n++)
        add_span(pc_row(j->y, n), pc_row(j->a, n), pc_row(j->b, n), j->len);
}

void S(add_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor a, pc_tensor b)
{
    PC_SAME("add: elements of y and a", pc_numel(y), pc_numel(a));
    PC_SAME("add: elements of y and b", pc_numel(y), pc_numel(b));
    const bool flat = pc_is_dense(y) && pc_is_dense(a) && pc_is_dense(b);
    add_job job = {y, a, b, flat ? 0 : pc_row_len(y)};
    pc_parallel(ctx->pool, flat ? pc_numel(y) : y.dim[0], pc_row_grain(flat ? 1 : job.len),
                add_piece, &job);
}

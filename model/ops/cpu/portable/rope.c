/*
 * rope.c - rotary positions, half layout (portable kernels; Su et al. 2021).
 *
 *   forward    y[j]       = x[j] cos - x[j + D/2] sin          j < D/2, angle j of table row pos[n]
 *              y[j + D/2] = x[j + D/2] cos + x[j] sin
 *   backward   the inverse turn: the same with -sin            overwritten: an activation
 *
 * Shapes: x, y (N,H,D), rows may be strided; cos, sin (R,D/2); pos i32 (N). y may be x, dx may be dy.
 */
#include "model/ops/cpu/portable.h"

typedef struct rope_job {
    pc_tensor y, x, cos_table, sin_table, pos;
    real sign; // +1 forward, -1 backward
} rope_job;

// One head. y may be x: pairs are read some at a time before they are written, which lets compilers use vectors.
static void turn(real *y, const real *x, const real *cosine, const real *sine, real sign,
                 int64_t half)
{
    enum { BLOCK = 8 };
    int64_t d = 0;
    for (; d + BLOCK <= half; d += BLOCK) {
        real a[BLOCK], b[BLOCK];
        for (int k = 0; k < BLOCK; k++) a[k] = x[d + k], b[k] = x[d + k + half];
        for (int k = 0; k < BLOCK; k++) {
            const real c = cosine[d + k], s = sign * sine[d + k];
            y[d + k] = a[k] * c - b[k] * s;
            y[d + k + half] = b[k] * c + a[k] * s;
        }
    }
    for (; d < half; d++) {
        const real a = x[d], b = x[d + half], s = sign * sine[d];
        y[d] = a * cosine[d] - b * s;
        y[d + half] = b * cosine[d] + a * s;
    }
}

static void rope_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const rope_job *j = arg;
    const int64_t H = j->x.dim[1], D = j->x.dim[2], half = D / 2;
    const int32_t *pos = pc_i32(j->pos);
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        PC_ASSERT(pos[n] >= 0 && pos[n] < j->cos_table.dim[0],
                  "rope: row %lld has position %d, the table has %lld rows", (long long)n, pos[n],
                  (long long)j->cos_table.dim[0]);
        const real *cosine = pc_row(j->cos_table, pos[n]), *sine = pc_row(j->sin_table, pos[n]);
        for (int64_t h = 0; h < H; h++) {
            const real *x = pc_row(j->x, n) + h * D;
            real *y = pc_row(j->y, n) + h * D;
            turn(y, x, cosine, sine, j->sign, half);
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

void R(rope_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor cos_table,
                     pc_tensor sin_table, pc_tensor pos)
{
    rope_job job = {y, x, cos_table, sin_table, pos, 1};
    rope(ctx, &job);
}

void R(rope_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, pc_tensor cos_table,
                      pc_tensor sin_table, pc_tensor pos)
{
    rope_job job = {dx, dy, cos_table, sin_table, pos, -1};
    rope(ctx, &job);
}

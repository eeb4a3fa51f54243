/*
 * resize_map.c - feature maps under another size, bilinear (portable kernels).
 *
 *   forward    y[b,i,j] = sum over two lines, two columns of their weights times x[b, line, column]
 *              p = max(0, (i + 1/2) h1/h2 - 1/2): lines floor(p) and the next, at most h1 - 1, with weights
 *              1 - f and f, f = p - floor(p); columns likewise
 *   backward   dx = the same weights times dy         overwritten: an activation
 *
 * Shapes: x (B*h1*w1,C), y (B*h2*w2,C), maps row-major, one after the other. Weights in double. Backward goes by
 * lines of dx, each of which takes from the lines of dy that read it, in order: no two threads write one place.
 */
#include <math.h>
#include <string.h>

#include "model/ops/cpu/portable.h"

typedef struct resize_job {
    pc_tensor y, x;
    int64_t h2, w2, h1, w1;
} resize_job;

// The two places along one axis that output `i` of `out` reads, of `in`.
typedef struct pair {
    int64_t at[2];
    double weight[2];
} pair;

static pair pair_of(int64_t i, int64_t out, int64_t in)
{
    const double centre = fmax(0.0, ((double)i + 0.5) * (double)in / (double)out - 0.5);
    const int64_t low = pc_min64((int64_t)centre, in - 1);
    const double f = centre - (double)low;
    return (pair){{low, pc_min64(low + 1, in - 1)}, {1.0 - f, f}};
}

static void resize_lines(void *arg, int64_t begin, int64_t end, int worker)
{
    const resize_job *j = arg;
    const int64_t C = j->x.dim[1];
    (void)worker;
    for (int64_t line = begin; line < end; line++) {
        const int64_t first = line / j->h2 * j->h1; // line 0 of the map in x
        const pair down = pair_of(line % j->h2, j->h2, j->h1);
        for (int64_t o = 0; o < j->w2; o++) {
            const pair across = pair_of(o, j->w2, j->w1);
            const real *restrict x[4];
            real weight[4], *restrict y = pc_row(j->y, line * j->w2 + o);
            for (int k = 0; k < 4; k++) {
                x[k] = pc_row(j->x, (first + down.at[k / 2]) * j->w1 + across.at[k % 2]);
                weight[k] = (real)(down.weight[k / 2] * across.weight[k % 2]);
            }
            for (int64_t c = 0; c < C; c++)
                y[c] = weight[0] * x[0][c] + weight[1] * x[1][c] + weight[2] * x[2][c] +
                       weight[3] * x[3][c];
        }
    }
}

static void check(const resize_job *j)
{
    PC_ASSERT(j->h1 > 0 && j->w1 > 0 && j->h2 > 0 && j->w2 > 0, "resize_map: an empty map");
    PC_SAME("resize_map: maps in y and x", j->y.dim[0] / (j->h2 * j->w2),
            j->x.dim[0] / (j->h1 * j->w1));
    PC_SAME("resize_map: rows of y beyond whole maps", j->y.dim[0] % (j->h2 * j->w2), 0);
    PC_SAME("resize_map: rows of x beyond whole maps", j->x.dim[0] % (j->h1 * j->w1), 0);
    PC_SAME("resize_map: columns of y and x", j->y.dim[1], j->x.dim[1]);
}

void R(resize_map_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, int64_t h2, int64_t w2,
                           int64_t h1, int64_t w1)
{
    resize_job job = {y, x, h2, w2, h1, w1};
    check(&job);
    pc_parallel(ctx->pool, y.dim[0] / w2, pc_row_grain(4 * w2 * x.dim[1]), resize_lines, &job);
}

// Line `to` of dx (of all maps) += weight times line `from` of dy.
static void add_line(const resize_job *j, int64_t to, int64_t from, double weight)
{
    const int64_t C = j->x.dim[1];
    for (int64_t o = 0; o < j->w2; o++) {
        const pair across = pair_of(o, j->w2, j->w1);
        const real *restrict dy = pc_row(j->y, from * j->w2 + o);
        for (int k = 0; k < 2; k++) {
            const real w = (real)(weight * across.weight[k]);
            real *restrict dx = pc_row(j->x, to * j->w1 + across.at[k]);
            for (int64_t c = 0; c < C; c++) dx[c] += w * dy[c];
        }
    }
}

static void resize_lines_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const resize_job *j = arg;
    (void)worker;
    for (int64_t line = begin; line < end; line++) {
        const int64_t map = line / j->h1, at = line % j->h1;
        for (int64_t n = 0; n < j->w1; n++)
            memset(pc_row(j->x, line * j->w1 + n), 0, (size_t)j->x.dim[1] * sizeof(real));
        for (int64_t i = 0; i < j->h2; i++) {
            const pair down = pair_of(i, j->h2, j->h1);
            for (int k = 0; k < 2; k++)
                if (down.at[k] == at && down.weight[k] != 0.0)
                    add_line(j, line, map * j->h2 + i, down.weight[k]);
        }
    }
}

void R(resize_map_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2,
                            int64_t h1, int64_t w1)
{
    resize_job job = {dy, dx, h2, w2, h1, w1};
    check(&job);
    const int64_t work = 4 * w2 * dx.dim[1] * (h2 / h1 + 1);
    pc_parallel(ctx->pool, dx.dim[0] / w1, pc_row_grain(work), resize_lines_backward, &job);
}

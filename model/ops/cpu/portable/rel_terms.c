/*
 * rel_terms.c - what a query says about keys so many lines and columns away (portable kernels).
 *
 *   forward    rh[n,h,y] = q[n,h].th[Y - y + a-1]     n = (s a + Y) b + X: place (Y,X) of grid s
 *              rw[n,h,x] = q[n,h].tw[X - x + b-1]
 *   backward   dq = sum_y drh[n,h,y] th[Y-y+a-1] + sum_x drw[n,h,x] tw[X-x+b-1] + add
 *              dth[r] += sum over Y - y + a-1 = r of drh[n,h,y] q[n,h];  dtw likewise
 *
 * Shapes: q, dq, add (N,H,D), rows may be strided; th (2a-1,D), tw (2b-1,D); rh (N,H,a), rw (N,H,b).
 * The queries of one line Y read rows [a-1-Y, 2a-1-Y) of the table turned end to start, in order: one product
 * a line; of one column X likewise. Forward and dq share out (grid, head); the tables' gradients share out their
 * columns, each summed over grids, heads and lines in order.
 */
#include <string.h>

#include "model/ops/cpu/gemm.h"
#include "model/ops/cpu/portable.h"
#include "model/ops/cpu/workspace.h"

typedef struct rel_job {
    pc_tensor rh, rw, q, add; // in backward rh, rw, q hold drh, drw and either q or dq
    int64_t a, b;
    real *th, *tw;   // turned end to start
    real *dth, *dtw; // likewise, NULL where not wanted
} rel_job;

// One line (or column) of a grid: its queries, every step-th row from n on, and where its part of the table begins.
typedef struct line {
    int64_t n, count, step, first;
} line;

static line row_line(const rel_job *j, int64_t s, int64_t Y)
{
    return (line){(s * j->a + Y) * j->b, j->b, 1, j->a - 1 - Y};
}

static line column_line(const rel_job *j, int64_t s, int64_t X)
{
    return (line){s * j->a * j->b + X, j->a, j->b, j->b - 1 - X};
}

static real *head_row(pc_tensor x, int64_t n, int64_t h)
{
    return pc_row(x, n) + h * x.dim[2];
}

static void forward_line(const rel_job *j, pc_tensor out, const real *table, line l, int64_t h)
{
    const int64_t D = j->q.dim[2];
    pc_gemm(NULL, false, true, l.count, out.dim[2], D, 1, head_row(j->q, l.n, h),
            j->q.stride * l.step, table + l.first * D, D, 0, head_row(out, l.n, h),
            out.stride * l.step);
}

static void forward_items(void *arg, int64_t begin, int64_t end, int worker)
{
    const rel_job *j = arg;
    const int64_t H = j->q.dim[1];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        for (int64_t Y = 0; Y < j->a; Y++)
            forward_line(j, j->rh, j->th, row_line(j, i / H, Y), i % H);
        for (int64_t X = 0; X < j->b; X++)
            forward_line(j, j->rw, j->tw, column_line(j, i / H, X), i % H);
    }
}

static int64_t check(const rel_job *j, pc_tensor th, pc_tensor tw)
{
    const int64_t N = j->q.dim[0], H = j->q.dim[1], grid = j->a * j->b;
    PC_SAME("rel_terms: rows of q and rh", N, j->rh.dim[0]);
    PC_SAME("rel_terms: rows of q and rw", N, j->rw.dim[0]);
    PC_SAME("rel_terms: heads of q and rh", H, j->rh.dim[1]);
    PC_SAME("rel_terms: heads of q and rw", H, j->rw.dim[1]);
    PC_SAME("rel_terms: rows of th, and 2 a - 1", th.dim[0], 2 * j->a - 1);
    PC_SAME("rel_terms: rows of tw, and 2 b - 1", tw.dim[0], 2 * j->b - 1);
    PC_SAME("rel_terms: columns of th", th.dim[1], j->q.dim[2]);
    PC_SAME("rel_terms: columns of tw", tw.dim[1], j->q.dim[2]);
    PC_SAME("rel_terms: rows of q beyond whole grids", N % grid, 0);
    return N / grid * H;
}

static void turn(real *out, const real *table, int64_t rows, int64_t D)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * D, table + (rows - 1 - r) * D, (size_t)D * sizeof *out);
}

// Copies of the tables, turned.
static void turn_tables(rel_job *j, pc_tensor th, pc_tensor tw, real *space)
{
    j->th = space;
    j->tw = space + pc_numel(th);
    turn(j->th, th.data, th.dim[0], th.dim[1]);
    turn(j->tw, tw.data, tw.dim[0], tw.dim[1]);
}

void R(rel_terms_forward)(pc_ctx *ctx, pc_tensor rh, pc_tensor rw, pc_tensor q, pc_tensor th,
                          pc_tensor tw)
{
    const int64_t D = q.dim[2];
    rel_job job = {.rh = rh, .rw = rw, .q = q, .a = rh.dim[2], .b = rw.dim[2]};
    const int64_t items = check(&job, th, tw);
    const size_t mark = pc_arena_mark(ctx->scratch);
    turn_tables(&job, th, tw, pc_workspace(ctx, pc_rel_terms_workspace(ctx, job.a, job.b, D)));
    pc_parallel(ctx->pool, items, pc_row_grain(job.a * job.b * D), forward_items, &job);
    pc_arena_release(ctx->scratch, mark);
}

static void dq_line(const rel_job *j, pc_tensor drel, const real *table, line l, int64_t h)
{
    const int64_t D = j->q.dim[2];
    pc_gemm(NULL, false, false, l.count, D, drel.dim[2], 1, head_row(drel, l.n, h),
            drel.stride * l.step, table + l.first * D, D, 1, head_row(j->q, l.n, h),
            j->q.stride * l.step);
}

static void dq_items(void *arg, int64_t begin, int64_t end, int worker)
{
    const rel_job *j = arg;
    const int64_t H = j->q.dim[1], grid = j->a * j->b;
    const size_t bytes = (size_t)j->q.dim[2] * sizeof(real);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const int64_t s = i / H, h = i % H;
        for (int64_t n = s * grid; n < (s + 1) * grid; n++) {
            real *dq = head_row(j->q, n, h);
            if (!pc_present(j->add))
                memset(dq, 0, bytes);
            else if (dq != head_row(j->add, n, h))
                memcpy(dq, head_row(j->add, n, h), bytes);
        }
        for (int64_t Y = 0; Y < j->a; Y++) dq_line(j, j->rh, j->th, row_line(j, s, Y), h);
        for (int64_t X = 0; X < j->b; X++) dq_line(j, j->rw, j->tw, column_line(j, s, X), h);
    }
}

// Columns [begin, end) of the turned table's gradient.
static void table_line(const rel_job *j, real *dtable, pc_tensor drel, line l, int64_t h,
                       int64_t begin, int64_t end)
{
    const int64_t D = j->q.dim[2];
    pc_gemm(NULL, true, false, drel.dim[2], end - begin, l.count, 1, head_row(drel, l.n, h),
            drel.stride * l.step, head_row(j->q, l.n, h) + begin, j->q.stride * l.step, 1,
            dtable + l.first * D + begin, D);
}

static void table_columns(void *arg, int64_t begin, int64_t end, int worker)
{
    const rel_job *j = arg;
    const int64_t H = j->q.dim[1], grids = j->q.dim[0] / (j->a * j->b);
    (void)worker;
    for (int64_t s = 0; s < grids; s++)
        for (int64_t h = 0; h < H; h++) {
            for (int64_t Y = 0; Y < j->a && j->dth; Y++)
                table_line(j, j->dth, j->rh, row_line(j, s, Y), h, begin, end);
            for (int64_t X = 0; X < j->b && j->dtw; X++)
                table_line(j, j->dtw, j->rw, column_line(j, s, X), h, begin, end);
        }
}

// dtable += turned
static void add_turned(pc_tensor dtable, const real *turned)
{
    const int64_t rows = dtable.dim[0], D = dtable.dim[1];
    real *out = dtable.data;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < D; d++) out[r * D + d] += turned[(rows - 1 - r) * D + d];
}

void R(rel_terms_backward)(pc_ctx *ctx, pc_tensor dq, pc_tensor dth, pc_tensor dtw, pc_tensor drh,
                           pc_tensor drw, pc_tensor q, pc_tensor th, pc_tensor tw, pc_tensor add)
{
    const int64_t D = q.dim[2], high = pc_numel(th), wide = pc_numel(tw);
    rel_job job = {.rh = drh, .rw = drw, .q = q, .a = drh.dim[2], .b = drw.dim[2], .add = add};
    const int64_t items = check(&job, th, tw);
    const size_t mark = pc_arena_mark(ctx->scratch);
    real *space = pc_workspace(ctx, pc_rel_terms_workspace(ctx, job.a, job.b, D));
    turn_tables(&job, th, tw, space);
    if (pc_present(dth) || pc_present(dtw)) {
        real *turned = space + high + wide;
        memset(turned, 0, (size_t)(high + wide) * sizeof *turned);
        job.dth = pc_present(dth) ? turned : NULL;
        job.dtw = pc_present(dtw) ? turned + high : NULL;
        pc_parallel(ctx->pool, D, 16, table_columns, &job);
        if (job.dth) add_turned(dth, job.dth);
        if (job.dtw) add_turned(dtw, job.dtw);
    }
    if (pc_present(dq)) {
        job.q = dq;
        pc_parallel(ctx->pool, items, pc_row_grain(job.a * job.b * D), dq_items, &job);
    }
    pc_arena_release(ctx->scratch, mark);
}

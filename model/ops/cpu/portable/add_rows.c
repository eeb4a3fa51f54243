/*
 * add_rows.c - adds rows of a table: learned positions, a class token (portable kernels).
 *
 *   forward    y[n] = x[n] + table[index[n]]        index[n] < 0 adds nothing; y may be x
 *   backward   dtable[index[n]] += dy[n]            accumulated: a parameter; dx is dy itself
 *
 * Shapes: x, y, dy (N,C); index i32 (N); table, dtable (R,C). Backward is embedding's: rows in order,
 * columns shared out among the threads.
 */
#include <string.h>

#include "model/ops/cpu/portable.h"

typedef struct add_rows_job {
    pc_tensor y, x, table, index;
} add_rows_job;

static void add_rows_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    const add_rows_job *j = arg;
    const int64_t C = j->x.dim[1];
    const int32_t *index = pc_i32(j->index);
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const real *x = pc_row(j->x, n);
        real *y = pc_row(j->y, n);
        PC_ASSERT(index[n] < j->table.dim[0],
                  "add_rows: row %lld has index %d, the table has %lld rows", (long long)n,
                  index[n], (long long)j->table.dim[0]);
        if (index[n] < 0) {
            if (x != y) memcpy(y, x, (size_t)C * sizeof *y);
            continue;
        }
        const real *row = pc_row(j->table, index[n]);
        for (int64_t c = 0; c < C; c++) y[c] = x[c] + row[c];
    }
}

void R(add_rows_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor x, pc_tensor table, pc_tensor index)
{
    PC_SAME("add_rows: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("add_rows: rows of x and index", x.dim[0], index.dim[0]);
    PC_SAME("add_rows: columns of x and the table", x.dim[1], table.dim[1]);
    add_rows_job job = {y, x, table, index};
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(x.dim[1]), add_rows_piece, &job);
}

void R(add_rows_backward)(pc_ctx *ctx, pc_tensor dtable, pc_tensor dy, pc_tensor index)
{
    R(embedding_backward)(ctx, dtable, dy, index);
}

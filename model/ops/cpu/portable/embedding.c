/*
 * embedding.c - rows of a table by number (portable kernels).
 *
 *   forward    y[n] = table[ids[n]]              ids[n] < 0 leaves row n alone
 *   backward   dtable[ids[n]] += dy[n]           accumulated: a parameter
 *
 * Shapes: y, dy (N,C); ids i32 (N); table, dtable (V,C). Backward goes through the rows in order; the
 * threads share out the columns, so repeated ids sum the same way every time.
 */
#include <string.h>

#include "model/ops/cpu/portable.h"
#include "model/ops/cpu/portable_stored.h"

typedef struct embedding_job {
    pc_tensor y, ids, table;
} embedding_job;

static int64_t checked_id(const embedding_job *j, int64_t n)
{
    const int64_t id = pc_i32(j->ids)[n];
    PC_ASSERT(id < j->table.dim[0], "embedding: row %lld has id %lld, the table has %lld rows",
              (long long)n, (long long)id, (long long)j->table.dim[0]);
    return id;
}

static void embedding_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const embedding_job *j = arg;
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const int64_t id = checked_id(j, n);
        if (id < 0) continue;
        if (pc_stored(j->table, PC_REAL))
            pc_widen_row(pc_row(j->y, n), j->table, id, 0, j->table.dim[1]);
        else
            memcpy(pc_row(j->y, n), pc_row(j->table, id), (size_t)j->table.dim[1] * sizeof(real));
    }
}

void R(embedding_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor ids, pc_tensor table)
{
    PC_SAME("embedding: rows of y and ids", y.dim[0], ids.dim[0]);
    PC_SAME("embedding: columns of y and the table", y.dim[1], table.dim[1]);
    embedding_job job = {y, ids, table};
    pc_parallel(ctx->pool, ids.dim[0], pc_row_grain(table.dim[1]), embedding_rows, &job);
}

static void embedding_columns_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const embedding_job *j = arg;
    (void)worker;
    for (int64_t n = 0; n < j->ids.dim[0]; n++) {
        const int64_t id = checked_id(j, n);
        if (id < 0) continue;
        const real *dy = pc_row(j->y, n);
        real *dtable = pc_row(j->table, id);
        for (int64_t c = begin; c < end; c++) dtable[c] += dy[c];
    }
}

void R(embedding_backward)(pc_ctx *ctx, pc_tensor dtable, pc_tensor dy, pc_tensor ids)
{
    PC_SAME("embedding: rows of dy and ids", dy.dim[0], ids.dim[0]);
    PC_SAME("embedding: columns of dy and the table", dy.dim[1], dtable.dim[1]);
    embedding_job job = {dy, ids, dtable};
    pc_parallel(ctx->pool, dtable.dim[1], pc_max64(16, pc_row_grain(ids.dim[0])),
                embedding_columns_backward, &job);
}

/*
 * muon.c - see muon.h.
 */
#include "train/muon.h"

#include <stdlib.h>

// Numbers of X that a device takes at once, unless one matrix has more.
static const int64_t TOGETHER = (int64_t)16 << 20;

bool muon_takes(const pc_param *p)
{
    return p->trainable && p->hidden && p->rank == 2;
}

void muon_orthogonal(pc_ctx *ctx, pc_tensor X)
{
    ctx->grad_ops->orthogonal(ctx, pc_view3(X.data, X.dtype, 1, X.dim[0], X.dim[1]));
}

// `count` matrices of one shape.
static void update(pc_ctx *ctx, pc_dtype real, const muon_matrix *a, const pc_piece *list,
                   int64_t count, const muon_hyper *h, pc_tensor gate, const pc_rng_key *rounding)
{
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor X = pc_alloc3(ctx->scratch, real, count, a->rows, a->cols);
    ctx->grad_ops->muon_ahead(ctx, X, list, h->beta, gate, rounding);
    ctx->grad_ops->orthogonal(ctx, X);
    ctx->grad_ops->muon_apply(ctx, list, X, h->lr, h->weight_decay, gate, rounding);
    pc_arena_release(ctx->scratch, mark);
}

static pc_piece piece_of(const muon *u, const muon_matrix *a)
{
    const span s = {.param = a->param,
                    .begin = a->row * a->cols,
                    .end = (a->row + a->rows) * a->cols,
                    .first = a->first};
    return span_piece(&u->params->list[a->param], &s);
}

// ---- all of them ---------------------------------------------------------------------------------

// Lists the matrices, falling by cost (list may be NULL: counts).
static int list_matrices(muon_matrix *list, const pc_params *p)
{
    int n = 0;
    int64_t first = 0;
    for (int i = 0; i < p->count; i++) {
        const pc_param *q = &p->list[i];
        int64_t row = 0;
        for (int k = 0; muon_takes(q) && k < q->parts; k++) {
            const double rows = (double)q->part_rows[k], cols = (double)q->dim[1];
            const double small = rows < cols ? rows : cols;
            if (list)
                list[n] = (muon_matrix){.param = i,
                                        .row = row,
                                        .rows = q->part_rows[k],
                                        .cols = q->dim[1],
                                        .first = first,
                                        .cost = small * (2.0 * rows * cols + small * small)};
            row += q->part_rows[k];
            n++;
        }
        first = span_next(q, first);
    }
    return n;
}

static int by_cost(const void *a, const void *b)
{
    const muon_matrix *x = a, *y = b;
    if (x->cost != y->cost) return x->cost < y->cost ? 1 : -1;
    if (x->rows != y->rows) return x->rows < y->rows ? 1 : -1;
    if (x->param != y->param) return x->param < y->param ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static pc_status sorted_list(muon_matrix **out, int *count, const pc_params *p)
{
    *count = list_matrices(NULL, p);
    *out = calloc((size_t)*count + 1, sizeof **out);
    if (!*out) return pc_fail(PC_ERR_MEMORY, "muon");
    list_matrices(*out, p);
    if (*count > 0) qsort(*out, (size_t)*count, sizeof **out, by_cost);
    return PC_OK;
}

// Each matrix to the thread that has least to do so far.
static pc_status deal(muon *u)
{
    muon_matrix *sorted = NULL;
    int count;
    const pc_status st = sorted_list(&sorted, &count, u->params);
    if (st) return st;
    int *owner = calloc((size_t)u->count + 1, sizeof *owner);
    double *load = calloc((size_t)u->threads, sizeof *load);
    if (!owner || !load) {
        free(sorted);
        free(owner);
        free(load);
        return pc_fail(PC_ERR_MEMORY, "muon");
    }
    for (int i = 0; i < u->count; i++) {
        for (int t = 1; t < u->threads; t++)
            if (load[t] < load[owner[i]]) owner[i] = t;
        load[owner[i]] += sorted[i].cost;
    }
    int n = 0;
    for (int t = 0; t < u->threads; t++) {
        u->begin[t] = n;
        for (int i = 0; i < u->count; i++)
            if (owner[i] == t) u->list[n++] = sorted[i];
    }
    u->begin[u->threads] = n;
    free(sorted);
    free(owner);
    free(load);
    return PC_OK;
}

// How many of the matrices from the first on, all of its shape, are taken together.
static int together(const muon_matrix *a, int count)
{
    const int64_t room = TOGETHER / (a->rows * a->cols);
    int n = 1;
    while (n < count && n < room && a[n].rows == a->rows && a[n].cols == a->cols) n++;
    return n;
}

static size_t listed_bytes(const muon_matrix *list, int count, const pc_memory *memory,
                           pc_dtype real)
{
    const muon_hyper none = {0};
    pc_arena dry;
    pc_arena_open_dry_in(&dry, "muon", memory);
    pc_ctx ctx = {.ops = pc_dry_ops(),
                  .grad_ops = pc_dry_grad_ops(),
                  .real = real,
                  .act = &dry,
                  .scratch = &dry};
    for (int i = 0, n; i < count; i += n) {
        n = memory ? together(&list[i], count - i) : 1;
        update(&ctx, real, &list[i], NULL, n, &none, PC_NONE, NULL);
    }
    return dry.peak;
}

size_t muon_bytes(const pc_params *p, const pc_memory *memory, pc_dtype real)
{
    muon_matrix *list;
    int count;
    if (sorted_list(&list, &count, p)) return 0; // opening fails in its turn
    const size_t bytes = listed_bytes(list, count, memory, real);
    free(list);
    return bytes;
}

pc_status muon_open(muon *u, pc_params *p, pc_pool *pool, const pc_backend *backend, pc_dtype real)
{
    const pc_memory *memory = backend->memory;
    *u = (muon){.params = p,
                .pool = pool,
                .threads = pc_pool_threads(pool),
                .memory = memory,
                .real = memory ? real : PC_F32};
    u->count = list_matrices(NULL, p);
    const size_t T = (size_t)u->threads, bytes = muon_bytes(p, memory, u->real);
    u->list = calloc((size_t)u->count + 1, sizeof *u->list);
    u->begin = calloc(T + 1, sizeof *u->begin);
    u->ctx = calloc(T, sizeof *u->ctx);
    u->scratch = calloc(T, sizeof *u->scratch);
    pc_status st = PC_OK;
    if (!u->list || !u->begin || !u->ctx || !u->scratch) st = pc_fail(PC_ERR_MEMORY, "muon");
    if (!st) st = deal(u);
    for (int t = 0; t < u->threads && !st; t++) {
        st = pc_arena_open_in(&u->scratch[t], "muon", memory, bytes, 0);
        u->ctx[t] = (pc_ctx){.ops = pc_backend_ops(backend),
                             .grad_ops = pc_backend_grad_ops(backend),
                             .real = u->real,
                             .act = &u->scratch[t],
                             .scratch = &u->scratch[t]};
    }
    if (!st && memory) {
        const size_t table = (size_t)(u->count + 1) * sizeof *u->table;
        st = pc_arena_open_in(&u->room, "muon's matrices", memory, table, 0);
        if (!st) u->table = pc_arena_numbers(&u->room, table);
    }
    if (st) muon_close(u);
    return st;
}

void muon_close(muon *u)
{
    for (int t = 0; t < u->threads && u->scratch; t++) pc_arena_close(&u->scratch[t]);
    pc_arena_close(&u->room);
    free(u->list);
    free(u->begin);
    free(u->ctx);
    free(u->scratch);
    *u = (muon){0};
}

typedef struct work {
    muon *u;
    const muon_hyper *h;
    pc_tensor gate;
    const pc_rng_key *rounding;
} work;

static void share(void *arg, int64_t begin, int64_t end, int worker)
{
    const work *w = arg;
    muon *u = w->u;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int i = u->begin[t]; i < u->begin[t + 1]; i++) {
            const pc_piece p = piece_of(u, &u->list[i]);
            update(&u->ctx[t], u->real, &u->list[i], &p, 1, w->h, w->gate, w->rounding);
        }
}

static void make_table(muon *u)
{
    pc_piece *list = calloc((size_t)u->count + 1, sizeof *list);
    PC_ASSERT(list, "no memory for %d matrices", u->count);
    for (int i = 0; i < u->count; i++) list[i] = piece_of(u, &u->list[i]);
    u->memory->copy(u->table, list, (size_t)u->count * sizeof *list);
    u->memory->wait();
    free(list);
    u->made = true;
}

void muon_step(muon *u, const muon_hyper *h, pc_tensor gate, const pc_rng_key *rounding)
{
    if (!u->memory) {
        work w = {u, h, gate, rounding};
        pc_parallel(u->pool, u->threads, 1, share, &w);
        return;
    }
    if (!u->made) make_table(u);
    for (int i = 0, n; i < u->count; i += n) {
        n = together(&u->list[i], u->count - i);
        update(&u->ctx[0], u->real, &u->list[i], u->table + i, n, h, gate, rounding);
    }
}

/*
 * muon.c - see muon.h.
 */
#include "train/muon.h"

#include <math.h>
#include <stdlib.h>

enum { ITERATIONS = 5 };
static const double QUINTIC[3] = {3.4445, -4.7750, 2.0315};

bool muon_takes(const pc_param *p)
{
    return p->trainable && p->hidden && p->rank == 2;
}

// ---- one matrix ----------------------------------------------------------------------------------

static pc_tensor matrix(pc_ctx *ctx, int64_t rows, int64_t cols)
{
    return pc_alloc2(ctx->scratch, PC_F32, rows, cols);
}

// P <- a I + b A + c P, all (r,r): the polynomial in A, P holding A A.
static void polynomial(pc_tensor P, pc_tensor A)
{
    const int64_t r = A.dim[0];
    const float a = (float)QUINTIC[0], b = (float)QUINTIC[1], c = (float)QUINTIC[2];
    for (int64_t i = 0; i < r; i++) {
        float *p = pc_f32(P, i);
        const float *q = pc_f32(A, i);
        for (int64_t j = 0; j < r; j++) p[j] = b * q[j] + c * p[j];
        p[i] += a;
    }
}

void muon_orthogonal(pc_ctx *ctx, pc_tensor X)
{
    const int64_t rows = X.dim[0], cols = X.dim[1], r = rows < cols ? rows : cols;
    const size_t mark = pc_arena_mark(ctx->scratch);
    const bool dry = ctx->scratch->dry, tall = rows > cols;
    pc_tensor A = matrix(ctx, r, r), P = matrix(ctx, r, r), Y = matrix(ctx, rows, cols);
    for (int k = 0; k < ITERATIONS; k++) {
        // A = X X^T, or X^T X: y = x W^T and dW = dy^T x are these products.
        if (tall) {
            ctx->ops->zero_forward(ctx, A);
            ctx->grad_ops->linear_backward(ctx, PC_NONE, A, PC_NONE, X, X, A);
        } else {
            ctx->ops->linear_forward(ctx, A, X, X, PC_NONE, PC_NONE);
        }
        ctx->ops->linear_forward(ctx, P, A, A, PC_NONE, PC_NONE); // A is symmetric: A A^T = A A
        if (!dry) polynomial(P, A);
        if (tall)
            ctx->ops->linear_forward(ctx, Y, X, P, PC_NONE, PC_NONE);
        else
            ctx->grad_ops->linear_backward(ctx, Y, PC_NONE, PC_NONE, P, PC_NONE, X); // dx = dy W
        ctx->ops->copy_forward(ctx, X, Y);
    }
    pc_arena_release(ctx->scratch, mark);
}

// The new momentum into m, the look-ahead into X; returns |X|_F.
static double look_ahead(pc_tensor X, pc_tensor m, pc_tensor g, const muon_hyper *h)
{
    float *x = X.data, *momentum = m.data;
    const float *grad = g.data, keep = (float)h->beta, take = (float)(1.0 - h->beta);
    const float scale = (float)h->grad_scale;
    const int64_t n = pc_numel(X);
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const float gi = scale * grad[i];
        momentum[i] = keep * momentum[i] + take * gi;
        x[i] = take * gi + keep * momentum[i];
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(sum);
}

static void update(pc_ctx *ctx, const muon *u, const muon_matrix *a, const muon_hyper *h)
{
    const pc_param *p = &u->params->list[a->param];
    const size_t mark = pc_arena_mark(ctx->scratch);
    pc_tensor X = matrix(ctx, a->rows, a->cols);
    if (ctx->scratch->dry) {
        muon_orthogonal(ctx, X);
        return;
    }
    pc_tensor w = pc_rows(p->weight->w, a->row, a->row + a->rows);
    const double norm = look_ahead(X, pc_rows(p->m, a->row, a->row + a->rows),
                                   pc_rows(p->weight->g, a->row, a->row + a->rows), h);
    const float inverse = (float)(1.0 / (norm + 1e-7));
    const int64_t n = pc_numel(X);
    float *x = X.data, *weight = w.data;
    for (int64_t i = 0; i < n; i++) x[i] *= inverse;
    muon_orthogonal(ctx, X);

    const double lr = h->lr * p->lr_scale, side = (double)(a->rows > a->cols ? a->rows : a->cols);
    const float keep = (float)(1.0 - (p->decay ? lr * h->weight_decay : 0.0));
    const float step = (float)(lr * 0.2 * sqrt(side));
    for (int64_t i = 0; i < n; i++) weight[i] = keep * weight[i] - step * x[i];
    pc_arena_release(ctx->scratch, mark);
}

// ---- all of them ---------------------------------------------------------------------------------

// Lists the matrices, falling by cost (list may be NULL: counts).
static int list_matrices(muon_matrix *list, const pc_params *p)
{
    int n = 0;
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
                                        .cost = small * (2.0 * rows * cols + small * small)};
            row += q->part_rows[k];
            n++;
        }
    }
    return n;
}

static int by_cost(const void *a, const void *b)
{
    const muon_matrix *x = a, *y = b;
    if (x->cost != y->cost) return x->cost < y->cost ? 1 : -1;
    if (x->param != y->param) return x->param < y->param ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

// Each matrix to the thread that has least to do so far.
static pc_status deal(muon *u)
{
    muon_matrix *sorted = calloc((size_t)u->count + 1, sizeof *sorted);
    int *owner = calloc((size_t)u->count + 1, sizeof *owner);
    double *load = calloc((size_t)u->threads, sizeof *load);
    if (!sorted || !owner || !load) {
        free(sorted);
        free(owner);
        free(load);
        return pc_fail(PC_ERR_MEMORY, "muon");
    }
    list_matrices(sorted, u->params);
    if (u->count > 0) qsort(sorted, (size_t)u->count, sizeof *sorted, by_cost);
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

size_t muon_bytes(const pc_params *p)
{
    pc_arena dry;
    pc_arena_open_dry(&dry, "muon");
    pc_ctx ctx = {.ops = pc_dry_ops(),
                  .grad_ops = pc_dry_grad_ops(),
                  .real = PC_F32,
                  .act = &dry,
                  .scratch = &dry};
    const muon u = {.params = (pc_params *)(uintptr_t)p};
    for (int i = 0; i < p->count; i++)
        for (int k = 0; muon_takes(&p->list[i]) && k < p->list[i].parts; k++) {
            const muon_matrix a = {.param = i,
                                   .rows = p->list[i].part_rows[k],
                                   .cols = p->list[i].dim[1]};
            pc_arena_release(&dry, 0);
            update(&ctx, &u, &a, NULL);
        }
    return dry.peak;
}

pc_status muon_open(muon *u, pc_params *p, pc_pool *pool)
{
    *u = (muon){.params = p, .pool = pool, .threads = pc_pool_threads(pool)};
    u->count = list_matrices(NULL, p);
    const size_t T = (size_t)u->threads, bytes = muon_bytes(p);
    u->list = calloc((size_t)u->count + 1, sizeof *u->list);
    u->begin = calloc(T + 1, sizeof *u->begin);
    u->ctx = calloc(T, sizeof *u->ctx);
    u->scratch = calloc(T, sizeof *u->scratch);
    pc_isa isa;
    pc_status st = pc_isa_choose(&isa);
    if (!st && (!u->list || !u->begin || !u->ctx || !u->scratch))
        st = pc_fail(PC_ERR_MEMORY, "muon");
    if (!st) st = deal(u);
    for (int t = 0; t < u->threads && !st; t++) {
        st = pc_arena_open(&u->scratch[t], "muon", bytes);
        u->ctx[t] = (pc_ctx){.ops = pc_cpu_ops(isa, PC_F32),
                             .grad_ops = pc_cpu_grad_ops(isa, PC_F32),
                             .real = PC_F32,
                             .act = &u->scratch[t],
                             .scratch = &u->scratch[t]};
    }
    if (st) muon_close(u);
    return st;
}

void muon_close(muon *u)
{
    for (int t = 0; t < u->threads && u->scratch; t++) pc_arena_close(&u->scratch[t]);
    free(u->list);
    free(u->begin);
    free(u->ctx);
    free(u->scratch);
    *u = (muon){0};
}

typedef struct work {
    muon *u;
    const muon_hyper *h;
} work;

static void share(void *arg, int64_t begin, int64_t end, int worker)
{
    const work *w = arg;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int i = w->u->begin[t]; i < w->u->begin[t + 1]; i++)
            update(&w->u->ctx[t], w->u, &w->u->list[i], w->h);
}

void muon_step(muon *u, const muon_hyper *h)
{
    work w = {u, h};
    pc_parallel(u->pool, u->threads, 1, share, &w);
}

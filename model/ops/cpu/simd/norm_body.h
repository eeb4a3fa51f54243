/*
 * norm_body.h - LayerNorm and RMSNorm (formulas: portable/layernorm.c, portable/rmsnorm.c).
 *
 * Sums over a row run in four float vectors. Backward takes four rows at a time, so that the sums of dg and
 * db over rows, kept per thread in float, are read and written once for four; every 256 rows they go to
 * double, so that long batches lose nothing.
 */
#include <math.h>

#include "model/ops/cpu/simd/simd.h"
#include "model/ops/cpu/workspace.h"

enum { NORM_ROWS = 4, NORM_FLUSH = 256 };

// sum_c x[c] and sum_c x[c]^2 about `shift`.
PC_INLINE float row_sum(const float *x, int64_t C)
{
    vf sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t c = 0;
    for (; c + 4 * VW <= C; c += 4 * VW)
        PC_UNROLL for (int k = 0; k < 4; k++) sum[k] = v_add(sum[k], v_load(x + c + k * VW));
    for (; c < C; c += VW) sum[0] = v_add(sum[0], v_load_tail(x + c, C - c));
    return v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
}

PC_INLINE float row_square_sum(const float *x, float shift, int64_t C)
{
    const vf s = v_set1(shift);
    vf sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t c = 0;
    for (; c + 4 * VW <= C; c += 4 * VW) PC_UNROLL for (int k = 0; k < 4; k++)
        {
            const vf d = v_sub(v_load(x + c + k * VW), s);
            sum[k] = v_fma(d, d, sum[k]);
        }
    for (; c + VW <= C; c += VW) {
        const vf d = v_sub(v_load(x + c), s);
        sum[0] = v_fma(d, d, sum[0]);
    }
    float total = v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
    for (; c < C; c++) total += (x[c] - shift) * (x[c] - shift);
    return total;
}

typedef struct norm_job {
    pc_tensor y, mean, rstd, x, g, b;
    double eps;
} norm_job;

static void layernorm_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const norm_job *j = arg;
    const int64_t C = j->g.dim[0];
    const float *gain = j->g.data, *bias = j->b.data;
    float *mean = j->mean.data, *rstd = j->rstd.data;
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const float *x = pc_row(j->x, n);
        float *y = pc_row(j->y, n);
        const float m = row_sum(x, C) / (float)C;
        const double var = (double)row_square_sum(x, m, C) / (double)C;
        const float r = (float)(1.0 / sqrt(var + j->eps));
        const vf mv = v_set1(m), rv = v_set1(r);
        for (int64_t c = 0; c < C; c += VW) {
            const vf h = v_mul(v_sub(v_load_tail(x + c, C - c), mv), rv);
            v_store_tail(y + c, C - c,
                         v_fma(h, v_load_tail(gain + c, C - c), v_load_tail(bias + c, C - c)));
        }
        mean[n] = m;
        rstd[n] = r;
    }
}

void S(layernorm_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor mean, pc_tensor rstd, pc_tensor x,
                          pc_tensor g, pc_tensor b, double eps)
{
    PC_SAME("layernorm: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("layernorm: columns of x and g", x.dim[1], g.dim[0]);
    norm_job job = {y, mean, rstd, x, g, b, eps};
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(x.dim[1]), layernorm_rows, &job);
}

static inline int64_t heads_of(pc_tensor x)
{
    return x.rank == 3 ? x.dim[1] : 1;
}

static void rmsnorm_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const norm_job *j = arg;
    const int64_t H = heads_of(j->x), C = j->g.dim[0];
    const float *gain = j->g.data;
    float *rstd = j->rstd.data;
    (void)worker;
    for (int64_t i = begin * H; i < end * H; i++) {
        const float *x = pc_row(j->x, i / H) + i % H * C;
        float *y = pc_row(j->y, i / H) + i % H * C;
        const double mean = (double)row_square_sum(x, 0, C) / (double)C;
        const float r = (float)(1.0 / sqrt(mean + j->eps));
        const vf rv = v_set1(r);
        for (int64_t c = 0; c < C; c += VW)
            v_store_tail(y + c, C - c,
                         v_mul(v_load_tail(gain + c, C - c), v_mul(v_load_tail(x + c, C - c), rv)));
        rstd[i] = r;
    }
}

void S(rmsnorm_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor rstd, pc_tensor x, pc_tensor g,
                        double eps)
{
    PC_SAME("rmsnorm: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("rmsnorm: width of x and g", pc_row_len(x), heads_of(x) * g.dim[0]);
    norm_job job = {.y = y, .rstd = rstd, .x = x, .g = g, .eps = eps};
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(pc_row_len(x)), rmsnorm_rows, &job);
}

typedef struct norm_back_job {
    pc_tensor dx, dy, x, g, mean, rstd, add;
    bool params;
    double *sums; // per thread: C doubles of dg, C of db
    float *runs;  // per thread: the same in float, since the last flush
} norm_back_job;

// With u = g dy: sum_c u and sum_c u (x - shift).
PC_INLINE void back_sums(float *sum_u, float *sum_ux, const float *g, const float *dy,
                         const float *x, float shift, int64_t C, bool layer)
{
    const vf s = v_set1(shift);
    vf a[2] = {v_zero(), v_zero()}, b[2] = {v_zero(), v_zero()};
    int64_t c = 0;
    for (; c + 2 * VW <= C; c += 2 * VW) PC_UNROLL for (int k = 0; k < 2; k++)
        {
            const vf u = v_mul(v_load(g + c + k * VW), v_load(dy + c + k * VW));
            const vf xc = v_load(x + c + k * VW);
            if (layer) a[k] = v_add(a[k], u);
            b[k] = v_fma(u, layer ? v_sub(xc, s) : xc, b[k]);
        }
    for (; c < C; c += VW) { // past the end u is 0
        const vf u = v_mul(v_load_tail(g + c, C - c), v_load_tail(dy + c, C - c));
        const vf xc = v_load_tail(x + c, C - c);
        if (layer) a[0] = v_add(a[0], u);
        b[0] = v_fma(u, layer ? v_sub(xc, s) : xc, b[0]);
    }
    *sum_u = layer ? v_sum(v_add(a[0], a[1])) : 0;
    *sum_ux = v_sum(v_add(b[0], b[1]));
}

// Row (or head) i of `rows` at a time: dx, and the sums of dg and db.
PC_INLINE void back_rows(const norm_back_job *j, int64_t i, int rows, float *dg, float *db,
                         int64_t C, bool layer)
{
    const int64_t H = heads_of(j->x);
    const float *gain = j->g.data, *mean = j->mean.data, *rstd = j->rstd.data;
    const float *x[NORM_ROWS], *dy[NORM_ROWS], *add[NORM_ROWS];
    float *dx[NORM_ROWS];
    vf shift[NORM_ROWS], r[NORM_ROWS], mean_u[NORM_ROWS], mean_uh[NORM_ROWS];
    for (int k = 0; k < rows; k++) {
        const int64_t n = (i + k) / H, at = (i + k) % H * C;
        x[k] = pc_row(j->x, n) + at;
        dy[k] = pc_row(j->dy, n) + at;
        dx[k] = pc_row(j->dx, n) + at;
        add[k] = pc_present(j->add) ? pc_row(j->add, n) + at : NULL;
        float sum_u, sum_ux;
        const float m = layer ? mean[i + k] : 0, ri = rstd[i + k];
        back_sums(&sum_u, &sum_ux, gain, dy[k], x[k], m, C, layer);
        shift[k] = v_set1(m);
        r[k] = v_set1(ri);
        mean_u[k] = v_set1(sum_u / (float)C);
        mean_uh[k] = v_set1(sum_ux / (float)C * ri);
    }
    for (int64_t c = 0; c < C; c += VW) {
        const int64_t left = C - c;
        const vf g = v_load_tail(gain + c, left);
        vf sum_g = v_zero(), sum_b = v_zero();
        for (int k = 0; k < rows; k++) {
            const vf xc = v_load_tail(x[k] + c, left), d = v_load_tail(dy[k] + c, left);
            const vf h = v_mul(layer ? v_sub(xc, shift[k]) : xc, r[k]);
            vf out = v_fnma(h, mean_uh[k], v_mul(g, d));
            if (layer) out = v_sub(out, mean_u[k]);
            out = add[k] ? v_fma(out, r[k], v_load_tail(add[k] + c, left)) : v_mul(out, r[k]);
            sum_g = v_fma(d, h, sum_g);
            if (layer) sum_b = v_add(sum_b, d);
            v_store_tail(dx[k] + c, left, out);
        }
        if (!j->params) continue;
        v_store_tail(dg + c, left, v_add(v_load_tail(dg + c, left), sum_g));
        if (layer) v_store_tail(db + c, left, v_add(v_load_tail(db + c, left), sum_b));
    }
}

PC_INLINE void back_all(void *arg, int64_t begin, int64_t end, int worker, bool layer)
{
    const norm_back_job *j = arg;
    const int64_t H = heads_of(j->x), C = j->g.dim[0], width = layer ? 2 * C : C;
    double *sums = j->sums + worker * 2 * C;
    float *runs = j->runs + worker * 2 * C;
    for (int64_t first = begin * H; first < end * H; first += NORM_FLUSH) {
        const int64_t last = pc_min64(end * H, first + NORM_FLUSH);
        memset(runs, 0, (size_t)width * sizeof *runs);
        int64_t i = first;
        for (; i + NORM_ROWS <= last; i += NORM_ROWS)
            back_rows(j, i, NORM_ROWS, runs, runs + C, C, layer);
        for (; i < last; i++) back_rows(j, i, 1, runs, runs + C, C, layer);
        if (j->params)
            for (int64_t c = 0; c < width; c++) sums[c] += (double)runs[c];
    }
}

static void layernorm_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    back_all(arg, begin, end, worker, true);
}

static void rmsnorm_rows_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    back_all(arg, begin, end, worker, false);
}

static void norm_backward(pc_ctx *ctx, norm_back_job *job, pc_tensor dg, pc_tensor db,
                          pc_task *task)
{
    const int64_t C = job->g.dim[0];
    const int threads = pc_pool_threads(ctx->pool);
    const size_t count = (size_t)(threads * 2 * C), mark = pc_arena_mark(ctx->scratch);
    void *block = pc_workspace(ctx, pc_norm_workspace(ctx, C));
    job->sums = pc_carve(&block, count * sizeof(double));
    job->runs = pc_carve(&block, count * sizeof(float));
    memset(job->sums, 0, count * sizeof *job->sums);
    pc_parallel(ctx->pool, job->x.dim[0], pc_row_grain(pc_row_len(job->x)), task, job);
    for (int64_t c = 0; c < C; c++) {
        double sum_g = 0.0, sum_b = 0.0;
        for (int t = 0; t < threads; t++) {
            sum_g += job->sums[t * 2 * C + c];
            sum_b += job->sums[t * 2 * C + C + c];
        }
        if (pc_present(dg)) ((float *)dg.data)[c] += (float)sum_g;
        if (pc_present(db)) ((float *)db.data)[c] += (float)sum_b;
    }
    pc_arena_release(ctx->scratch, mark);
}

void S(layernorm_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy,
                           pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd, pc_tensor add)
{
    PC_SAME("layernorm: rows of dy and x", dy.dim[0], x.dim[0]);
    PC_SAME("layernorm: columns of dy and x", dy.dim[1], x.dim[1]);
    norm_back_job job = {
        .dx = dx, .dy = dy, .x = x, .g = g, .mean = mean, .rstd = rstd, .add = add};
    job.params = pc_present(dg) || pc_present(db);
    norm_backward(ctx, &job, dg, db, layernorm_rows_backward);
}

void S(rmsnorm_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dg, pc_tensor dy, pc_tensor x,
                         pc_tensor g, pc_tensor rstd, pc_tensor add)
{
    PC_SAME("rmsnorm: rows of dy and x", dy.dim[0], x.dim[0]);
    PC_SAME("rmsnorm: width of x and g", pc_row_len(x), heads_of(x) * g.dim[0]);
    norm_back_job job = {.dx = dx, .dy = dy, .x = x, .g = g, .rstd = rstd, .add = add};
    job.params = pc_present(dg);
    norm_backward(ctx, &job, dg, PC_NONE, rmsnorm_rows_backward);
}

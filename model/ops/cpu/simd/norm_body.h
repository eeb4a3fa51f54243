/*
 * norm_body.h - LayerNorm and RMSNorm (formulas: portable/layernorm.c, portable/rmsnorm.c).
 *
 * Rows, or the heads of rows, go four at a time: the gains are loaded once for four, the sums across vectors and the
 * roots of four are one vector each, and in backward the sums of dg and db over rows, kept per thread in float, are
 * read and written once for four; every 256 rows they go to double, so that long batches lose nothing. What is left
 * over goes alone, in the same order: a row's result does not depend on its company.
 */
#include <math.h>

#include "model/ops/cpu/simd/simd.h"
#include "model/ops/cpu/workspace.h"

enum { NORM_ROWS = 4, NORM_FLUSH = 256 };

// The sums of four vectors; each is added up in the same order.
PC_INLINE void sums_of(float out[NORM_ROWS], const vf a[NORM_ROWS])
{
    __m256 half[NORM_ROWS];
    PC_UNROLL for (int k = 0; k < NORM_ROWS; k++)
    {
#if defined(__AVX512F__)
        half[k] = _mm256_add_ps(_mm512_castps512_ps256(a[k]), _mm512_extractf32x8_ps(a[k], 1));
#else
        half[k] = a[k];
#endif
    }
    const __m256 s =
        _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

// Head h of row n; head 0 of 1 is the row.
typedef struct place {
    int64_t n, h;
} place;

static inline int64_t heads_of(pc_tensor x)
{
    return x.rank == 3 ? x.dim[1] : 1;
}

PC_INLINE float *at_place(pc_tensor x, place p, int64_t C)
{
    return pc_row(x, p.n) + p.h * C;
}

PC_INLINE void step_on(place *p, int64_t H)
{
    if (++p->h < H) return;
    p->h = 0;
    p->n++;
}

typedef struct norm_job {
    pc_tensor y, mean, rstd, x, g, b;
    double eps;
} norm_job;

// Of each row, sum_c x, or sum_c (x - shift)^2.
PC_INLINE void row_sums(float out[NORM_ROWS], const float *const x[NORM_ROWS],
                        const vf shift[NORM_ROWS], int rows, int64_t C, bool squares, bool layer)
{
    vf even[NORM_ROWS] = {v_zero(), v_zero(), v_zero(), v_zero()};
    vf odd[NORM_ROWS] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t c = 0;
    for (; c + 2 * VW <= C; c += 2 * VW)
        for (int k = 0; k < rows; k++) {
            vf a = v_load(x[k] + c), b = v_load(x[k] + c + VW);
            if (squares && layer) a = v_sub(a, shift[k]), b = v_sub(b, shift[k]);
            even[k] = squares ? v_fma(a, a, even[k]) : v_add(even[k], a);
            odd[k] = squares ? v_fma(b, b, odd[k]) : v_add(odd[k], b);
        }
    for (; c < C; c += VW)
        for (int k = 0; k < rows; k++) {
            vf a = v_load_tail(x[k] + c, C - c);
            if (squares && layer) { // past the end stays 0
                a = v_sub(a, shift[k]);
                if (C - c < VW) a = v_select(v_lanes(0, C - c), a, v_zero());
            }
            even[k] = squares ? v_fma(a, a, even[k]) : v_add(even[k], a);
        }
    for (int k = 0; k < rows; k++) even[k] = v_add(even[k], odd[k]);
    sums_of(out, even);
}

// Places first .. of `rows` at a time; moves on to the next.
PC_INLINE void norm_rows(const norm_job *j, place *first, int64_t i, int rows, int64_t H, int64_t C,
                         bool layer)
{
    const float *gain = j->g.data, *bias = j->b.data;
    const float *x[NORM_ROWS];
    float *y[NORM_ROWS], sum[NORM_ROWS], *mean = j->mean.data, *rstd = j->rstd.data;
    vf shift[NORM_ROWS], r[NORM_ROWS];
    for (int k = 0; k < rows; k++, step_on(first, H)) {
        x[k] = at_place(j->x, *first, C);
        y[k] = at_place(j->y, *first, C);
    }
    if (layer) {
        row_sums(sum, x, NULL, rows, C, false, true);
        for (int k = 0; k < rows; k++) {
            mean[i + k] = sum[k] / (float)C;
            shift[k] = v_set1(mean[i + k]);
        }
    }
    row_sums(sum, x, shift, rows, C, true, layer);
    // 1 / sqrt(mean + eps) of all four.
    const __m128 mean_square = _mm_mul_ps(_mm_loadu_ps(sum), _mm_set1_ps(1.0f / (float)C));
    const __m128 root = _mm_sqrt_ps(_mm_add_ps(mean_square, _mm_set1_ps((float)j->eps)));
    _mm_storeu_ps(sum, _mm_div_ps(_mm_set1_ps(1.0f), root));
    for (int k = 0; k < rows; k++) {
        rstd[i + k] = sum[k];
        r[k] = v_set1(sum[k]);
    }
    for (int64_t c = 0; c < C; c += VW) {
        const int64_t left = C - c;
        const vf g = v_load_tail(gain + c, left),
                 b = layer ? v_load_tail(bias + c, left) : v_zero();
        for (int k = 0; k < rows; k++) {
            const vf xc = v_load_tail(x[k] + c, left);
            const vf h = v_mul(layer ? v_sub(xc, shift[k]) : xc, r[k]);
            v_store_tail(y[k] + c, left, layer ? v_fma(h, g, b) : v_mul(g, h));
        }
    }
}

PC_INLINE void norm_all(const norm_job *j, int64_t begin, int64_t end, bool layer)
{
    const int64_t H = heads_of(j->x), C = j->g.dim[0];
    place at = {begin, 0};
    int64_t i = begin * H;
    for (; i + NORM_ROWS <= end * H; i += NORM_ROWS) norm_rows(j, &at, i, NORM_ROWS, H, C, layer);
    for (; i < end * H; i++) norm_rows(j, &at, i, 1, H, C, layer);
}

static void layernorm_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)worker;
    norm_all(arg, begin, end, true);
}

static void rmsnorm_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)worker;
    norm_all(arg, begin, end, false);
}

void S(layernorm_forward)(pc_ctx *ctx, pc_tensor y, pc_tensor mean, pc_tensor rstd, pc_tensor x,
                          pc_tensor g, pc_tensor b, double eps)
{
    PC_SAME("layernorm: rows of y and x", y.dim[0], x.dim[0]);
    PC_SAME("layernorm: columns of x and g", x.dim[1], g.dim[0]);
    norm_job job = {y, mean, rstd, x, g, b, eps};
    pc_parallel(ctx->pool, x.dim[0], pc_row_grain(x.dim[1]), layernorm_rows, &job);
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

// Of each row, with u = g dy: sum_c u and sum_c u (x - shift).
PC_INLINE void back_sums(float sum_u[NORM_ROWS], float sum_ux[NORM_ROWS], const float *gain,
                         const float *const dy[NORM_ROWS], const float *const x[NORM_ROWS],
                         const vf shift[NORM_ROWS], int rows, int64_t C, bool layer)
{
    vf a[NORM_ROWS] = {v_zero(), v_zero(), v_zero(), v_zero()};
    vf b[NORM_ROWS] = {v_zero(), v_zero(), v_zero(), v_zero()};
    for (int64_t c = 0; c < C; c += VW) { // past the end u is 0
        const int64_t left = C - c;
        const vf g = v_load_tail(gain + c, left);
        for (int k = 0; k < rows; k++) {
            const vf u = v_mul(g, v_load_tail(dy[k] + c, left)), xc = v_load_tail(x[k] + c, left);
            if (layer) a[k] = v_add(a[k], u);
            b[k] = v_fma(u, layer ? v_sub(xc, shift[k]) : xc, b[k]);
        }
    }
    if (layer) sums_of(sum_u, a);
    sums_of(sum_ux, b);
}

// Places first .. of `rows` at a time: dx, and the sums of dg and db; moves on to the next.
PC_INLINE void back_rows(const norm_back_job *j, place *first, int64_t i, int rows, float *dg,
                         float *db, int64_t H, int64_t C, bool layer)
{
    const float *gain = j->g.data, *mean = j->mean.data, *rstd = j->rstd.data;
    const float *x[NORM_ROWS], *dy[NORM_ROWS], *add[NORM_ROWS];
    const bool more = pc_present(j->add);
    const int64_t ahead = 1 + PC_AHEAD / (H * C); // rows
    float *dx[NORM_ROWS], sum_u[NORM_ROWS], sum_ux[NORM_ROWS];
    vf shift[NORM_ROWS], r[NORM_ROWS], mean_u[NORM_ROWS], mean_uh[NORM_ROWS];
    for (int k = 0; k < rows; k++, step_on(first, H)) {
        x[k] = at_place(j->x, *first, C);
        dy[k] = at_place(j->dy, *first, C);
        dx[k] = at_place(j->dx, *first, C);
        add[k] = more ? at_place(j->add, *first, C) : NULL;
        shift[k] = v_set1(layer ? mean[i + k] : 0);
        r[k] = v_set1(rstd[i + k]);
        const place later = {pc_min64(first->n + ahead, j->x.dim[0] - 1), first->h};
        const float *soon = at_place(j->x, later, C);
        for (int64_t c = 0; c < C; c += 16) _mm_prefetch((const char *)(soon + c), _MM_HINT_T0);
    }
    back_sums(sum_u, sum_ux, gain, dy, x, shift, rows, C, layer);
    for (int k = 0; k < rows; k++) {
        mean_u[k] = v_set1(layer ? sum_u[k] / (float)C : 0);
        mean_uh[k] = v_set1(sum_ux[k] / (float)C * rstd[i + k]);
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
            out = more ? v_fma(out, r[k], v_load_tail(add[k] + c, left)) : v_mul(out, r[k]);
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
    place at = {begin, 0};
    for (int64_t first = begin * H; first < end * H; first += NORM_FLUSH) {
        const int64_t last = pc_min64(end * H, first + NORM_FLUSH);
        memset(runs, 0, (size_t)width * sizeof *runs);
        int64_t i = first;
        for (; i + NORM_ROWS <= last; i += NORM_ROWS)
            back_rows(j, &at, i, NORM_ROWS, runs, runs + C, H, C, layer);
        for (; i < last; i++) back_rows(j, &at, i, 1, runs, runs + C, H, C, layer);
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

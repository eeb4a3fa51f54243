/*
 * product_body.h - the matrix product (product.h). Included once by an instruction set's product.c.
 *
 * Loops, outermost first: blocks of N, blocks of K (B packed as panels [k][NR]), strips of MR rows, panels.
 * A strip of A (MR x K floats) stays in the first-level cache while the panels pass by; it is read in
 * place, or copied first where its stride would map every row to the same cache sets.
 */
#include "model/ops/cpu/gemm.h"
#include "model/ops/cpu/simd/product.h"
#include "model/ops/cpu/simd/tile.h"
#include "model/ops/cpu/stored.h"

// Where a finished tile goes.
typedef struct tile_end {
    float *c;
    int64_t ldc;
    int64_t n; // columns that count, 1 .. NR
    bool load; // c holds a sum already
    const float *bias, *add;
    int64_t ld_add;
} tile_end;

PC_INLINE void tile_finish(vf acc[MR][NV], int rows, int vectors, const tile_end *e)
{
    PC_UNROLL for (int v = 0; v < vectors; v++)
    {
        const int64_t n = e->n - v * VW;
        float *c = e->c + v * VW;
        if (e->bias) {
            const vf b = v_load_tail(e->bias + v * VW, n);
            PC_UNROLL for (int m = 0; m < rows; m++) acc[m][v] = v_add(acc[m][v], b);
        }
        if (e->load)
            PC_UNROLL for (int m = 0; m < rows; m++) acc[m][v] =
                v_add(acc[m][v], v_load_tail(c + m * e->ldc, n));
        if (e->add) {
            const float *add = e->add + v * VW;
            PC_UNROLL for (int m = 0; m < rows; m++) acc[m][v] =
                v_add(acc[m][v], v_load_tail(add + m * e->ld_add, n));
        }
        PC_UNROLL for (int m = 0; m < rows; m++) v_store_tail(c + m * e->ldc, n, acc[m][v]);
    }
}

typedef void tile_function(int64_t K, const float *a, int64_t a_row, int64_t a_k, const float *b,
                           int64_t b_k, const tile_end *e);

#define TILE(rows)                                                                                 \
    static void tile_1_##rows(int64_t K, const float *a, int64_t a_row, int64_t a_k,               \
                              const float *b, int64_t b_k, const tile_end *e)                      \
    {                                                                                              \
        vf acc[MR][NV];                                                                            \
        tile_zero(acc, rows, 1);                                                                   \
        tile_sum(acc, rows, 1, K, a, a_row, a_k, b, b_k);                                          \
        tile_finish(acc, rows, 1, e);                                                              \
    }                                                                                              \
    static void tile_2_##rows(int64_t K, const float *a, int64_t a_row, int64_t a_k,               \
                              const float *b, int64_t b_k, const tile_end *e)                      \
    {                                                                                              \
        vf acc[MR][NV];                                                                            \
        tile_zero(acc, rows, 2);                                                                   \
        tile_sum(acc, rows, 2, K, a, a_row, a_k, b, b_k);                                          \
        tile_finish(acc, rows, 2, e);                                                              \
    }
PC_FOR_TILE_ROWS(TILE)

#define TILE_1(rows) tile_1_##rows,
#define TILE_2(rows) tile_2_##rows,
static tile_function *const tiles[NV][MR] = {{PC_FOR_TILE_ROWS(TILE_1)},
                                             {PC_FOR_TILE_ROWS(TILE_2)}};

// Columns of B that are read where they stand: whole panels, when few strips would use a packed copy and rows do
// not fall on the same cache sets. The gradient of a small weight matrix is such a product.
static int64_t in_place(const pc_product *p, int64_t rows, int64_t nc)
{
    enum { STRIPS = 16 };
    const bool fits = !p->trans_b && rows <= STRIPS * MR && p->ldb % 256 != 0;
    return fits ? nc / NR * NR : 0;
}

// The same of a stored B: a panel's rows are widened first.
static void pack_stored(float *out, const pc_product *p, int64_t k0, int64_t kc, int64_t n0,
                        int64_t nc)
{
    enum { PITCH = PC_PACK_K + 16 };
    float wide[NR * PITCH];
    for (int64_t n = 0; n < nc; n += NR, out += kc * NR) {
        const int64_t width = pc_min64(NR, nc - n);
        for (int64_t i = 0; i < width; i++) S(pc_stored_row)
        (wide + i * PITCH, p->type,
         (const unsigned char *)p->stored + pc_dtype_bytes(p->type, (n0 + n + i) * p->ldb), k0, kc);
        pack_transposed(out, NR, wide, PITCH, width, kc);
    }
}

// op(B)[k0 .. k0+kc, n0 .. n0+nc) as panels [k][NR], the last one filled up with zeros.
static void pack_b(float *out, const pc_product *p, int64_t k0, int64_t kc, int64_t n0, int64_t nc)
{
    if (p->stored) {
        pack_stored(out, p, k0, kc, n0, nc);
        return;
    }
    for (int64_t n = 0; n < nc; n += NR, out += kc * NR) {
        const int64_t width = pc_min64(NR, nc - n);
        if (p->trans_b) {
            pack_transposed(out, NR, p->b + (n0 + n) * p->ldb + k0, p->ldb, width, kc);
            continue;
        }
        const float *b = p->b + k0 * p->ldb + n0 + n;
        if (width == NR) {
            for (int64_t k = 0; k < kc; k++)
                PC_UNROLL for (int v = 0; v < NV; v++)
                    v_store(out + k * NR + v * VW, v_load(b + k * p->ldb + v * VW));
            continue;
        }
        for (int64_t k = 0; k < kc; k++)
            for (int64_t v = 0; v < NR; v += VW) {
                const int64_t n_left = pc_max64(0, pc_min64(VW, width - v));
                v_store(out + k * NR + v, v_load_n(b + k * p->ldb + v, n_left));
            }
    }
}

// Rows 4096 bytes apart share cache sets: a strip of more rows than ways evicts itself. A copy pays from
// about eight panels on.
static bool worth_copying(int64_t ld, int64_t nc)
{
    return ld % 1024 == 0 && nc >= 8 * NR;
}

typedef struct strip {
    const float *a;
    int64_t row, k; // strides
} strip;

static strip strip_of(const pc_product *p, float *space, int64_t m0, int64_t rows, int64_t k0,
                      int64_t kc, int64_t nc)
{
    const bool copy = worth_copying(p->lda, nc);
    if (p->trans_a) {
        const float *a = p->a + k0 * p->lda + m0;
        if (!copy) return (strip){a, 1, p->lda};
        for (int64_t k = 0; k < kc; k++)
            for (int64_t m = 0; m < rows; m++) space[k * PC_PACK_M + m] = a[k * p->lda + m];
        return (strip){space, 1, PC_PACK_M};
    }
    const float *a = p->a + m0 * p->lda + k0;
    if (!copy) return (strip){a, p->lda, 1};
    for (int64_t m = 0; m < rows; m++)
        memcpy(space + m * (PC_PACK_K + 16), a + m * p->lda, (size_t)kc * sizeof *a);
    return (strip){space, PC_PACK_K + 16, 1};
}

// `limit` or less, so that the pieces of `total` are alike, in multiples of `unit`.
static int64_t even_block(int64_t total, int64_t limit, int64_t unit)
{
    if (total <= limit) return total;
    const int64_t pieces = (total + limit - 1) / limit;
    return pc_min64(limit, ((total + pieces - 1) / pieces + unit - 1) / unit * unit);
}

typedef struct span2 {
    int64_t m0, m1, n0, n1;
} span2;

static void product_block(const pc_product *p, float *space, const span2 *part, int64_t k0,
                          int64_t kc, int64_t n0, int64_t nc)
{
    const bool last = k0 + kc == p->K;
    const int64_t direct = in_place(p, part->m1 - part->m0, nc);
    pack_b(space + direct * kc, p, k0, kc, n0 + direct, nc - direct);
    for (int64_t m0 = part->m0; m0 < part->m1; m0 += MR) {
        const int64_t rows = pc_min64(MR, part->m1 - m0);
        const strip a = strip_of(p, space + PC_PACK_K * PC_PACK_N, m0, rows, k0, kc, nc);
        float *c = p->c + m0 * p->ldc + n0;
        tile_end e = {.ldc = p->ldc, .load = p->accumulate || k0 > 0, .ld_add = p->ld_add};
        for (int64_t n = 0; n < nc; n += NR) {
            e.c = c + n;
            e.n = pc_min64(NR, nc - n);
            e.bias = last && p->bias ? p->bias + n0 + n : NULL;
            e.add = last && p->add ? p->add + m0 * p->ld_add + n0 + n : NULL;
            const bool here = n < direct;
            tiles[e.n > VW][rows - 1](kc, a.a, a.row, a.k,
                                      here ? p->b + k0 * p->ldb + n0 + n : space + n * kc,
                                      here ? p->ldb : NR, &e);
        }
        if (last && p->act)
            for (int64_t m = 0; m < rows; m++) S(pc_act_row)
        (p->act + (m0 + m) * p->ld_act + n0, c + m * p->ldc, nc, p->kind, p->slope);
    }
}

static void product_part(const pc_product *p, const span2 *part)
{
    float *space = pc_pack_space();
    const int64_t N = part->n1 - part->n0;
    const int64_t unit = p->stored ? pc_max64(8, pc_dtype_block(p->type)) : 8;
    const int64_t kc = even_block(p->K, PC_PACK_K, unit), nc = even_block(N, PC_PACK_N, NR);
    for (int64_t n0 = 0; n0 < N; n0 += nc)
        for (int64_t k0 = 0; k0 < p->K; k0 += kc)
            product_block(p, space, part, k0, pc_min64(kc, p->K - k0), part->n0 + n0,
                          pc_min64(nc, N - n0));
}

/* Few rows, B transposed (one token through a weight matrix): dot products of rows, W read once. */
PC_INLINE void thin_dots(float *out, int rows, const pc_product *p, int64_t m0, const float *b)
{
    vf acc[PC_THIN_N][PC_THIN_N];
    PC_UNROLL for (int i = 0; i < PC_THIN_N; i++)
    {
        PC_UNROLL for (int m = 0; m < rows; m++) acc[i][m] = v_zero();
    }
    for (int64_t k = 0; k < p->K; k += VW) {
        vf x[PC_THIN_N];
        PC_UNROLL for (int m = 0; m < rows; m++) x[m] =
            v_load_tail(p->a + (m0 + m) * p->lda + k, p->K - k);
        PC_UNROLL for (int i = 0; i < PC_THIN_N; i++)
        {
            const vf w = v_load_tail(b + i * p->ldb + k, p->K - k);
            PC_UNROLL for (int m = 0; m < rows; m++) acc[i][m] = v_fma(w, x[m], acc[i][m]);
        }
    }
    PC_UNROLL for (int i = 0; i < PC_THIN_N; i++)
    {
        PC_UNROLL for (int m = 0; m < rows; m++) out[m * PC_THIN_N + i] = v_sum(acc[i][m]);
    }
}

static float thin_dot(const pc_product *p, int64_t m, int64_t n)
{
    const float *a = p->a + m * p->lda, *b = p->b + n * p->ldb;
    vf acc = v_zero();
    for (int64_t k = 0; k < p->K; k += VW)
        acc = v_fma(v_load_tail(a + k, p->K - k), v_load_tail(b + k, p->K - k), acc);
    return v_sum(acc);
}

// sums[m PC_THIN_N + i] of columns n0 + i < n0 + width, all rows.
static void thin_sums(float *sums, const pc_product *p, int64_t n0, int64_t width)
{
    if (p->stored) {
        S(pc_stored_dots)(sums, p, n0, width);
        return;
    }
    const float *b = p->b + n0 * p->ldb;
    for (int64_t m0 = 0; m0 < p->M; m0 += PC_THIN_N, sums += PC_THIN_N * PC_THIN_N) {
        const int64_t rows = pc_min64(PC_THIN_N, p->M - m0);
        if (width == PC_THIN_N && rows == PC_THIN_N)
            thin_dots(sums, PC_THIN_N, p, m0, b);
        else if (width == PC_THIN_N && rows == 1)
            thin_dots(sums, 1, p, m0, b);
        else
            for (int64_t m = 0; m < rows; m++)
                for (int64_t i = 0; i < width; i++)
                    sums[m * PC_THIN_N + i] = thin_dot(p, m0 + m, n0 + i);
    }
}

static void thin_columns(void *arg, int64_t begin, int64_t end, int worker)
{
    const pc_product *p = arg;
    (void)worker;
    for (int64_t n0 = begin; n0 < end; n0 += PC_THIN_N) {
        const int64_t width = pc_min64(PC_THIN_N, end - n0);
        float sums[PC_THIN * PC_THIN_N];
        thin_sums(sums, p, n0, width);
        for (int64_t m = 0; m < p->M; m++) {
            float *c = p->c + m * p->ldc + n0;
            for (int64_t i = 0; i < width; i++) {
                float sum = sums[m * PC_THIN_N + i];
                if (p->bias) sum += p->bias[n0 + i];
                if (p->accumulate) sum += c[i];
                if (p->add) sum += p->add[m * p->ld_add + n0 + i];
                c[i] = sum;
            }
        }
    }
    for (int64_t m = 0; p->act && m < p->M; m++) S(pc_act_row)
    (p->act + m * p->ld_act + begin, p->c + m * p->ldc + begin, end - begin, p->kind, p->slope);
}

/* Threads share C out as a grid of row_parts x column_parts, each part computed whole by one. */
typedef struct grid {
    const pc_product *p;
    int64_t row_parts, column_parts;
} grid;

static int64_t part_begin(int64_t i, int64_t parts, int64_t total, int64_t unit)
{
    const int64_t units = (total + unit - 1) / unit;
    return pc_min64(total, units * i / parts * unit);
}

static void grid_parts(void *arg, int64_t begin, int64_t end, int worker)
{
    const grid *g = arg;
    const pc_product *p = g->p;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const int64_t r = i / g->column_parts, c = i % g->column_parts;
        const span2 part = {part_begin(r, g->row_parts, p->M, MR),
                            part_begin(r + 1, g->row_parts, p->M, MR),
                            part_begin(c, g->column_parts, p->N, NR),
                            part_begin(c + 1, g->column_parts, p->N, NR)};
        if (part.m0 < part.m1 && part.n0 < part.n1) product_part(p, &part);
    }
}

// The grid whose largest part takes least: register tiles, and B's packing at a tenth of a strip's.
static grid best_grid(const pc_product *p, int64_t threads)
{
    grid best = {p, 1, 1};
    int64_t least = INT64_MAX;
    const int64_t strips = (p->M + MR - 1) / MR, panels = (p->N + NR - 1) / NR;
    for (int64_t columns = threads; columns >= 1; columns--) {
        if (threads % columns != 0) continue;
        const int64_t rows = threads / columns;
        const int64_t m = (strips + rows - 1) / rows, n = (panels + columns - 1) / columns;
        const int64_t cost = (10 * m + 1) * n;
        if (cost < least) {
            least = cost;
            best.row_parts = rows;
            best.column_parts = columns;
        }
    }
    return best;
}

void S(pc_product)(pc_pool *pool, const pc_product *p)
{
    if (p->M <= 0 || p->N <= 0) return;
    pc_product job = *p;
    if (job.add == job.c) { // partial sums over K would overwrite it
        job.accumulate = true;
        job.add = NULL;
    }
    PC_ASSERT(p->K > 0, "a product of %lld terms", (long long)p->K);
    if (p->trans_b && !p->trans_a && p->M <= PC_THIN) {
        pc_parallel(pool, p->N,
                    pc_max64(PC_THIN_N, 65536 / pc_max64(1, job.K) / PC_THIN_N * PC_THIN_N),
                    thin_columns, &job);
        return;
    }
    // The blocking here is for small models; a large product without anything to do at its end is OpenBLAS's.
    const double work = (double)p->M * (double)p->N * (double)p->K;
    if (work >= PC_LARGE_PRODUCT && !job.stored && !job.bias && !job.add && !job.act) {
        pc_gemm_f32(pool, job.trans_a, job.trans_b, job.M, job.N, job.K, 1.0f, job.a, job.lda,
                    job.b, job.ldb, job.accumulate ? 1.0f : 0.0f, job.c, job.ldc);
        return;
    }
    // Too little to share: about 20 microseconds of one core.
    const bool small = work < 1e6;
    const int64_t threads = small ? 1 : pc_pool_threads(pool);
    grid g = best_grid(&job, threads);
    if (threads == 1)
        grid_parts(&g, 0, 1, 0);
    else
        pc_parallel(pool, threads, 1, grid_parts, &g);
}

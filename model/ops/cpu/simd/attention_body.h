/*
 * attention_body.h - softmax attention over intervals of keys (formulas: portable/attention.c).
 *
 * A work item is one sequence and one key head: its keys (backward: its values too) are turned into panels
 * [D][16] once, then blocks of query rows of every head of the group pass over the panels they see.
 * A block's scores, at most PANELS panels at a time, stay in the first- and second-level cache; with more
 * panels the running maximum takes over. All five products are register tiles (tile.h).
 *
 *   scores   S[r][c] = q[r].k[c]                  weighted   o[r] = sum_c P[r][c] v[c]
 *   outer    dv[c] += sum_r P[r][c] do[r]
 *
 * rel_attention adds rh + rw to the scores, a line of the sequence's grid at a time; as scores are scaled last, what
 * is added is divided by the scale.
 *
 * An item owns its rows of dk and dv and the dq of its heads: sums run in one order, whatever the threads.
 */
#include <math.h>

#include "model/ops/cpu/simd/math.h"
#include "model/ops/cpu/simd/tile.h"
#include "model/ops/cpu/workspace.h"

enum {
    PW = PC_PANEL,          // keys in a panel
    PV = PW / VW,           // vectors in a panel's row
    PANELS = PC_PANELS,     // panels at a time
    LD = PC_SCORE_STRIDE,   // of S and P
    BLOCK = PC_QUERY_BLOCK, // query rows at a time
#if defined(__AVX512F__)
    ROWS = MR,
#else
    ROWS = 4 * MR,
#endif
};

typedef struct attention_job {
    pc_tensor o, lse, q, k, v;  // o is read in backward
    pc_tensor dq, dk, dv, dout; // backward
    const pc_mask *mask;
    float scale;
    unsigned char *workspace;
    size_t per_thread;
    pc_tensor rh, rw, drh, drw; // rel_attention alone
} attention_job;

// Consecutive keys of the panels at hand: column `column` of S on.
typedef struct run {
    int64_t key, keys, column;
} run;

// One block of query rows of one head, and the panels it looks at.
typedef struct block {
    const attention_job *j;
    const float *k_panels, *v_panels;
    float *S, *P;
    int64_t k_first; // key row of panel 0
    int64_t n0, rows, h, g;
    int64_t key[PANELS]; // first key of each panel
    int part[PANELS];    // 0 prefix, 1 own interval
    int panels;
    run runs[2];
    int run_count;
    float top[BLOCK], sum[BLOCK],
        keep[BLOCK];    // forward: running maximum and sum, factor of o so far
    float delta[BLOCK]; // backward
    bool first;
} block;

static inline float *head_row(pc_tensor x, int64_t n, int64_t h)
{
    return pc_row(x, n) + h * x.dim[2];
}

#define ATTENTION_TILES(rows)                                                                      \
    static void scores_##rows(float *s, const float *q, int64_t q_stride, const float *panel,      \
                              int64_t D)                                                           \
    {                                                                                              \
        vf acc[MR][NV];                                                                            \
        tile_zero(acc, rows, PV);                                                                  \
        tile_sum(acc, rows, PV, D, q, q_stride, 1, panel, PW);                                     \
        PC_UNROLL for (int m = 0; m < rows; m++)                                                   \
        {                                                                                          \
            PC_UNROLL for (int v = 0; v < PV; v++) v_store(s + m * LD + v * VW, acc[m][v]);        \
        }                                                                                          \
    }                                                                                              \
    static void weighted_1_##rows(float *out, int64_t stride, const float *S, const float *b,      \
                                  int64_t b_stride, const run *runs, int count, const float *keep) \
    {                                                                                              \
        weighted(out, stride, S, b, b_stride, runs, count, keep, rows, 1);                         \
    }                                                                                              \
    static void weighted_2_##rows(float *out, int64_t stride, const float *S, const float *b,      \
                                  int64_t b_stride, const run *runs, int count, const float *keep) \
    {                                                                                              \
        weighted(out, stride, S, b, b_stride, runs, count, keep, rows, 2);                         \
    }                                                                                              \
    static void outer_1_##rows(float *out, int64_t stride, const float *P, const float *b,         \
                               int64_t b_stride, int64_t K)                                        \
    {                                                                                              \
        outer(out, stride, P, b, b_stride, K, rows, 1);                                            \
    }                                                                                              \
    static void outer_2_##rows(float *out, int64_t stride, const float *P, const float *b,         \
                               int64_t b_stride, int64_t K)                                        \
    {                                                                                              \
        outer(out, stride, P, b, b_stride, K, rows, 2);                                            \
    }

// out[r] = keep[r] out[r] + sum over runs of S[r][c] b[key]; without keep out is overwritten.
PC_INLINE void weighted(float *out, int64_t stride, const float *S, const float *b,
                        int64_t b_stride, const run *runs, int count, const float *keep, int rows,
                        int vectors)
{
    vf acc[MR][NV];
    tile_zero(acc, rows, vectors);
    for (int i = 0; i < count; i++)
        tile_sum(acc, rows, vectors, runs[i].keys, S + runs[i].column, LD, 1,
                 b + runs[i].key * b_stride, b_stride);
    PC_UNROLL for (int m = 0; m < rows; m++)
    {
        PC_UNROLL for (int v = 0; v < vectors; v++)
        {
            float *o = out + m * stride + v * VW;
            v_store(o, keep ? v_fma(v_set1(keep[m]), v_load(o), acc[m][v]) : acc[m][v]);
        }
    }
}

// out[c] += sum_r P[r][c] b[r], c < rows (of the tile), r < K.
PC_INLINE void outer(float *out, int64_t stride, const float *P, const float *b, int64_t b_stride,
                     int64_t K, int rows, int vectors)
{
    vf acc[MR][NV];
    PC_UNROLL for (int m = 0; m < rows; m++)
    {
        PC_UNROLL for (int v = 0; v < vectors; v++) acc[m][v] = v_load(out + m * stride + v * VW);
    }
    tile_sum(acc, rows, vectors, K, P, 1, LD, b, b_stride);
    PC_UNROLL for (int m = 0; m < rows; m++)
    {
        PC_UNROLL for (int v = 0; v < vectors; v++) v_store(out + m * stride + v * VW, acc[m][v]);
    }
}

PC_FOR_TILE_ROWS(ATTENTION_TILES)

typedef void scores_function(float *s, const float *q, int64_t q_stride, const float *panel,
                             int64_t D);
typedef void weighted_function(float *out, int64_t stride, const float *S, const float *b,
                               int64_t b_stride, const run *runs, int count, const float *keep);
typedef void outer_function(float *out, int64_t stride, const float *P, const float *b,
                            int64_t b_stride, int64_t K);
#define SCORES(rows)     scores_##rows,
#define WEIGHTED_1(rows) weighted_1_##rows,
#define WEIGHTED_2(rows) weighted_2_##rows,
#define OUTER_1(rows)    outer_1_##rows,
#define OUTER_2(rows)    outer_2_##rows,
static scores_function *const score_tiles[MR] = {PC_FOR_TILE_ROWS(SCORES)};
static weighted_function *const weighted_tiles[NV][MR] = {{PC_FOR_TILE_ROWS(WEIGHTED_1)},
                                                          {PC_FOR_TILE_ROWS(WEIGHTED_2)}};
static outer_function *const outer_tiles[NV][MR] = {{PC_FOR_TILE_ROWS(OUTER_1)},
                                                    {PC_FOR_TILE_ROWS(OUTER_2)}};

// S = rows of x (head h) times the panels.
static void block_scores(const block *b, float *S, pc_tensor x, const float *panels)
{
    const int64_t D = x.dim[2];
    for (int64_t r = 0; r < b->rows; r += MR) {
        const int64_t rows = pc_min64(MR, b->rows - r);
        const float *q = head_row(x, b->n0 + r, b->h);
        for (int i = 0; i < b->panels; i++)
            score_tiles[rows - 1](S + r * LD + i * PW, q, x.stride,
                                  panels + (b->key[i] - b->k_first) * D, D);
    }
}

// Rows of out (head h) from S and the key rows of y (head g).
static void block_weighted(const block *b, const float *S, pc_tensor out, pc_tensor y,
                           const float *keep)
{
    const int64_t D = y.dim[2];
    const float *base = (const float *)y.data + b->g * D;
    for (int64_t r = 0; r < b->rows; r += MR) {
        const int64_t rows = pc_min64(MR, b->rows - r);
        float *o = head_row(out, b->n0 + r, b->h);
        for (int64_t d = 0; d < D; d += NR)
            weighted_tiles[D - d > VW][rows - 1](o + d, out.stride, S + r * LD, base + d, y.stride,
                                                 b->runs, b->run_count, keep ? keep + r : NULL);
    }
}

// Key rows of out (head g) += P^T times rows of x (head h).
static void block_outer(const block *b, pc_tensor out, const float *P, pc_tensor x)
{
    const int64_t D = x.dim[2];
    const float *rows_of_x = head_row(x, b->n0, b->h);
    for (int i = 0; i < b->run_count; i++) {
        const run *u = &b->runs[i];
        for (int64_t c = 0; c < u->keys; c += MR) {
            const int64_t rows = pc_min64(MR, u->keys - c);
            float *o = head_row(out, u->key + c, b->g);
            for (int64_t d = 0; d < D; d += NR)
                outer_tiles[D - d > VW][rows - 1](o + d, out.stride, P + u->column + c,
                                                  rows_of_x + d, x.stride, b->rows);
        }
    }
}

typedef struct interval {
    int64_t begin, end;
} interval;

// What row n sees: part 0 its prefix, part 1 its own interval.
static inline interval visible(const pc_mask *m, int part, int64_t n)
{
    if (part == 1) return (interval){pc_i32(m->lo)[n], pc_i32(m->hi)[n]};
    if (!pc_present(m->plo)) return (interval){0, 0};
    return (interval){pc_i32(m->plo)[n], pc_i32(m->phi)[n]};
}

// S += (rh + rw) / scale, by the keys' lines and columns; keys not at hand are left alone.
static void add_terms(const block *b, float *S)
{
    const attention_job *j = b->j;
    const int64_t width = j->rw.dim[2];
    const vf inverse = v_set1(1.0f / j->scale);
    for (int64_t r = 0; r < b->rows; r++) {
        const float *rh = head_row(j->rh, b->n0 + r, b->h), *rw = head_row(j->rw, b->n0 + r, b->h);
        for (int i = 0; i < b->run_count; i++) {
            const run *u = &b->runs[i];
            float *s = S + r * LD + u->column;
            int64_t y = (u->key - b->k_first) / width, x = (u->key - b->k_first) % width;
            for (int64_t left = u->keys; left > 0; y++, x = 0) {
                const int64_t n = pc_min64(width - x, left);
                const vf high = v_set1(rh[y]);
                for (int64_t c = 0; c < n; c += VW) {
                    const vf term = v_add(high, v_load_tail(rw + x + c, n - c));
                    v_store_tail(s + c, n - c, v_fma(term, inverse, v_load_tail(s + c, n - c)));
                }
                s += n;
                left -= n;
            }
        }
    }
}

// drh, drw += dS / scale, by lines and columns: dS holds the scale already.
static void sum_terms(const block *b, const float *dS)
{
    const attention_job *j = b->j;
    const int64_t width = j->rw.dim[2];
    const float inverse = 1.0f / j->scale;
    for (int64_t r = 0; r < b->rows; r++) {
        float *drh = head_row(j->drh, b->n0 + r, b->h), *drw = head_row(j->drw, b->n0 + r, b->h);
        for (int i = 0; i < b->run_count; i++) {
            const run *u = &b->runs[i];
            const float *ds = dS + r * LD + u->column;
            int64_t y = (u->key - b->k_first) / width, x = (u->key - b->k_first) % width;
            for (int64_t left = u->keys; left > 0; y++, x = 0) {
                const int64_t n = pc_min64(width - x, left);
                vf line = v_zero();
                for (int64_t c = 0; c < n; c += VW) {
                    const vf d = v_load_tail(ds + c, n - c);
                    float *to = drw + x + c;
                    line = v_add(line, d);
                    v_store_tail(to, n - c, v_fma(d, v_set1(inverse), v_load_tail(to, n - c)));
                }
                drh[y] += v_sum(line) * inverse;
                ds += n;
                left -= n;
            }
        }
    }
}

// Forward: the panels' scores become exp(scale (s - top)), o the running weighted sum.
static void forward_panels(block *b)
{
    const attention_job *j = b->j;
    const vf scale = v_set1(j->scale), hidden = v_set1(-INFINITY);
    block_scores(b, b->S, j->q, b->k_panels);
    if (pc_present(j->rh)) add_terms(b, b->S);
    for (int64_t r = 0; r < b->rows; r++) {
        float *s = b->S + r * LD;
        const interval seen[2] = {visible(j->mask, 0, b->n0 + r), visible(j->mask, 1, b->n0 + r)};
        vf top = hidden;
        for (int i = 0; i < b->panels; i++) {
            const int64_t begin = seen[b->part[i]].begin - b->key[i];
            const int64_t end = seen[b->part[i]].end - b->key[i];
            PC_UNROLL for (int v = 0; v < PV; v++)
            {
                vf x = v_load(s + i * PW + v * VW);
                if (begin > 0 || end < PW) {
                    x = v_select(v_lanes(begin - v * VW, end - v * VW), x, hidden);
                    v_store(s + i * PW + v * VW, x);
                }
                top = v_max(top, x);
            }
        }
        float highest = fmaxf(b->top[r], v_max_of(top) * j->scale);
        b->keep[r] = 1;
        if (highest == -INFINITY) // maxima may have passed over a NaN
            for (int64_t i = 0; i < b->panels * PW; i++)
                if (isnan(s[i])) highest = s[i];
        if (highest == -INFINITY) { // nothing seen so far
            memset(s, 0, (size_t)(b->panels * PW) * sizeof *s);
            continue;
        }
        const vf shift = v_set1(-highest);
        vf sum = v_zero();
        for (int i = 0; i < b->panels * PV; i++) {
            const vf e = v_exp(v_fma(v_load(s + i * VW), scale, shift));
            v_store(s + i * VW, e);
            sum = v_add(sum, e);
        }
        b->keep[r] = b->top[r] == -INFINITY ? 0 : expf(b->top[r] - highest);
        b->sum[r] = b->sum[r] * b->keep[r] + v_sum(sum);
        b->top[r] = highest;
    }
    block_weighted(b, b->S, j->o, j->v, b->first ? NULL : b->keep);
    b->first = false;
}

// Backward: dq, dk and dv of the panels at hand.
static void backward_panels(block *b)
{
    const attention_job *j = b->j;
    const int64_t H = j->q.dim[1];
    const float *lse = j->lse.data;
    const vf scale = v_set1(j->scale);
    block_scores(b, b->P, j->q, b->k_panels);
    if (pc_present(j->rh)) add_terms(b, b->P);
    block_scores(b, b->S, j->dout, b->v_panels);
    for (int64_t r = 0; r < b->rows; r++) {
        float *p = b->P + r * LD, *ds = b->S + r * LD;
        const int64_t n = b->n0 + r;
        const interval seen[2] = {visible(j->mask, 0, n), visible(j->mask, 1, n)};
        const vf shift = v_set1(-lse[n * H + b->h]), delta = v_set1(b->delta[r]);
        for (int i = 0; i < b->panels; i++) {
            const int64_t begin = seen[b->part[i]].begin - b->key[i];
            const int64_t end = seen[b->part[i]].end - b->key[i];
            PC_UNROLL for (int v = 0; v < PV; v++)
            {
                const int64_t at = i * PW + v * VW;
                vf e = v_exp(v_fma(v_load(p + at), scale, shift));
                vf d = v_mul(v_mul(e, scale), v_sub(v_load(ds + at), delta));
                if (begin > 0 || end < PW) {
                    const vmask lanes = v_lanes(begin - v * VW, end - v * VW);
                    e = v_select(lanes, e, v_zero());
                    d = v_select(lanes, d, v_zero());
                }
                v_store(p + at, e);
                v_store(ds + at, d);
            }
        }
    }
    if (pc_present(j->rh)) sum_terms(b, b->S);
    block_weighted(b, b->S, j->dq, j->k, b->first ? NULL : b->keep);
    block_outer(b, j->dk, b->S, j->q);
    block_outer(b, j->dv, b->P, j->dout);
    b->first = false;
}

// Gathers the panels that the rows of the block see and hands them on, at most PANELS at a time.
static void block_panels(block *b, void (*work)(block *b))
{
    b->panels = b->run_count = 0;
    for (int part = 0; part < 2; part++) {
        interval all = {INT64_MAX, 0};
        for (int64_t r = 0; r < b->rows; r++) {
            const interval s = visible(b->j->mask, part, b->n0 + r);
            if (s.begin >= s.end) continue;
            all.begin = pc_min64(all.begin, s.begin);
            all.end = pc_max64(all.end, s.end);
        }
        if (all.begin >= all.end) continue;
        int64_t key = b->k_first + (all.begin - b->k_first) / PW * PW;
        bool fresh = true;
        for (; key < all.end; key += PW) {
            if (b->panels == PANELS) {
                work(b);
                b->panels = b->run_count = 0;
                fresh = true;
            }
            if (fresh) {
                const int64_t skip = pc_max64(0, all.begin - key);
                b->runs[b->run_count++] = (run){key + skip, 0, b->panels * PW + skip};
                fresh = false;
            }
            run *last = &b->runs[b->run_count - 1];
            last->keys = pc_min64(all.end, key + PW) - last->key;
            b->key[b->panels] = key;
            b->part[b->panels++] = part;
        }
    }
    if (b->panels) work(b);
}

static void forward_block(block *b)
{
    const attention_job *j = b->j;
    const int64_t D = j->q.dim[2], H = j->q.dim[1];
    float *lse = j->lse.data;
    for (int64_t r = 0; r < b->rows; r++) {
        b->top[r] = -INFINITY;
        b->sum[r] = 0;
    }
    b->first = true;
    block_panels(b, forward_panels);
    for (int64_t r = 0; r < b->rows; r++) {
        float *o = head_row(j->o, b->n0 + r, b->h);
        if (b->top[r] == -INFINITY) {
            memset(o, 0, (size_t)D * sizeof *o);
            lse[(b->n0 + r) * H + b->h] = -INFINITY;
            continue;
        }
        const vf inverse = v_set1(1.0f / b->sum[r]);
        for (int64_t d = 0; d < D; d += VW) v_store(o + d, v_mul(v_load(o + d), inverse));
        lse[(b->n0 + r) * H + b->h] = b->top[r] + logf(b->sum[r]);
    }
}

static void backward_block(block *b)
{
    const attention_job *j = b->j;
    const int64_t D = j->q.dim[2];
    for (int64_t r = 0; r < b->rows; r++) {
        const float *o = head_row(j->o, b->n0 + r, b->h), *d = head_row(j->dout, b->n0 + r, b->h);
        vf sum = v_zero();
        for (int64_t i = 0; i < D; i += VW) sum = v_fma(v_load(o + i), v_load(d + i), sum);
        b->delta[r] = v_sum(sum);
        b->keep[r] = 1;
        if (!pc_present(j->rh)) continue;
        memset(head_row(j->drh, b->n0 + r, b->h), 0, (size_t)j->drh.dim[2] * sizeof(float));
        memset(head_row(j->drw, b->n0 + r, b->h), 0, (size_t)j->drw.dim[2] * sizeof(float));
    }
    b->first = true;
    block_panels(b, backward_panels);
    if (b->first) // no row saw anything
        for (int64_t r = 0; r < b->rows; r++)
            memset(head_row(j->dq, b->n0 + r, b->h), 0, (size_t)D * sizeof(float));
}

static void pack_panels(float *out, pc_tensor x, int64_t begin, int64_t end, int64_t g)
{
    const int64_t D = x.dim[2];
    for (int64_t k = begin; k < end; k += PW, out += PW * D)
        pack_transposed(out, PW, head_row(x, k, g), x.stride, pc_min64(PW, end - k), D);
}

// Work items [begin, end) of (sequence, key head).
PC_INLINE void attention_items(const attention_job *j, int64_t begin, int64_t end, int worker,
                               bool backward)
{
    const int64_t H = j->q.dim[1], G = j->k.dim[1], D = j->q.dim[2];
    const int64_t room = (j->k.dim[0] + PW - 1) / PW * PW * D;
    float *space = (float *)(void *)(j->workspace + (size_t)worker * j->per_thread);
    block b = {.j = j, .S = space, .P = space + BLOCK * LD};
    float *k_panels = space + (backward ? 2 : 1) * BLOCK * LD, *v_panels = k_panels + room;
    b.k_panels = k_panels;
    b.v_panels = v_panels;
    for (int64_t item = begin; item < end; item++) {
        const int64_t s = item / G, k_end = pc_i32(j->mask->k_off)[s + 1];
        const int64_t q_end = pc_i32(j->mask->q_off)[s + 1];
        b.g = item % G;
        b.k_first = pc_i32(j->mask->k_off)[s];
        pack_panels(k_panels, j->k, b.k_first, k_end, b.g);
        if (backward) {
            pack_panels(v_panels, j->v, b.k_first, k_end, b.g);
            for (int64_t k = b.k_first; k < k_end; k++) {
                memset(head_row(j->dk, k, b.g), 0, (size_t)D * sizeof(float));
                memset(head_row(j->dv, k, b.g), 0, (size_t)D * sizeof(float));
            }
        }
        for (b.h = b.g * H / G; b.h < (b.g + 1) * H / G; b.h++)
            for (b.n0 = pc_i32(j->mask->q_off)[s]; b.n0 < q_end; b.n0 += ROWS) {
                b.rows = pc_min64(ROWS, q_end - b.n0);
                if (backward)
                    backward_block(&b);
                else
                    forward_block(&b);
            }
    }
}

static void forward_items(void *arg, int64_t begin, int64_t end, int worker)
{
    attention_items(arg, begin, end, worker, false);
}

static void backward_items(void *arg, int64_t begin, int64_t end, int worker)
{
    attention_items(arg, begin, end, worker, true);
}

// Head widths in whole vectors; others go to the next narrower instruction set.
static bool narrower(pc_tensor q, pc_tensor k)
{
    return q.dim[2] % VW != 0 || q.dim[1] % k.dim[1] != 0;
}

#if defined(__AVX512F__)
#define NARROWER(name) name##_avx2
void attention_forward_avx2(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,
                            pc_tensor v, const pc_mask *mask, double scale);
void attention_backward_avx2(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout,
                             pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o, pc_tensor lse,
                             const pc_mask *mask, double scale);
void rel_attention_forward_avx2(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,
                                pc_tensor v, pc_tensor rh, pc_tensor rw, const pc_mask *mask,
                                double scale);
void rel_attention_backward_avx2(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv,
                                 pc_tensor drh, pc_tensor drw, pc_tensor dout, pc_tensor q,
                                 pc_tensor k, pc_tensor v, pc_tensor rh, pc_tensor rw, pc_tensor o,
                                 pc_tensor lse, const pc_mask *mask, double scale);
#else
#define NARROWER(name) name##_f32
#endif

static void run_forward(pc_ctx *ctx, attention_job *job)
{
    const int64_t H = job->q.dim[1], D = job->q.dim[2], G = job->k.dim[1], M = job->k.dim[0];
    PC_SAME("attention: head width of q and k", D, job->k.dim[2]);
    PC_SAME("attention: head width of q and v", D, job->v.dim[2]);
    const size_t mark = pc_arena_mark(ctx->scratch);
    const size_t bytes = pc_attention_forward_workspace(ctx, job->q.dim[0], H, D, M, G);
    job->workspace = pc_workspace(ctx, bytes);
    job->per_thread = bytes / (size_t)pc_pool_threads(ctx->pool);
    pc_parallel(ctx->pool, job->mask->S * G, 1, forward_items, job);
    pc_arena_release(ctx->scratch, mark);
}

void S(attention_forward)(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,
                          pc_tensor v, const pc_mask *mask, double scale)
{
    if (narrower(q, k)) {
        NARROWER(attention_forward)(ctx, o, lse, q, k, v, mask, scale);
        return;
    }
    attention_job job = {.o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = mask};
    job.scale = (float)scale;
    run_forward(ctx, &job);
}

void S(rel_attention_forward)(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,
                              pc_tensor v, pc_tensor rh, pc_tensor rw, const pc_mask *mask,
                              double scale)
{
    if (narrower(q, k)) {
        NARROWER(rel_attention_forward)(ctx, o, lse, q, k, v, rh, rw, mask, scale);
        return;
    }
    attention_job job = {.o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = mask};
    job.scale = (float)scale;
    job.rh = rh;
    job.rw = rw;
    run_forward(ctx, &job);
}

static void run_backward(pc_ctx *ctx, attention_job *job)
{
    const int64_t H = job->q.dim[1], D = job->q.dim[2], G = job->k.dim[1], M = job->k.dim[0];
    const size_t mark = pc_arena_mark(ctx->scratch);
    const size_t bytes = pc_attention_backward_workspace(ctx, job->q.dim[0], H, D, M, G);
    job->workspace = pc_workspace(ctx, bytes);
    job->per_thread = bytes / (size_t)pc_pool_threads(ctx->pool);
    pc_parallel(ctx->pool, job->mask->S * G, 1, backward_items, job);
    pc_arena_release(ctx->scratch, mark);
}

void S(attention_backward)(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout,
                           pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o, pc_tensor lse,
                           const pc_mask *mask, double scale)
{
    if (narrower(q, k)) {
        NARROWER(attention_backward)(ctx, dq, dk, dv, dout, q, k, v, o, lse, mask, scale);
        return;
    }
    attention_job job = {.o = o,
                         .lse = lse,
                         .q = q,
                         .k = k,
                         .v = v,
                         .dq = dq,
                         .dk = dk,
                         .dv = dv,
                         .dout = dout,
                         .mask = mask,
                         .scale = (float)scale};
    run_backward(ctx, &job);
}

void S(rel_attention_backward)(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor drh,
                               pc_tensor drw, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,
                               pc_tensor rh, pc_tensor rw, pc_tensor o, pc_tensor lse,
                               const pc_mask *mask, double scale)
{
    if (narrower(q, k)) {
        NARROWER(rel_attention_backward)
        (ctx, dq, dk, dv, drh, drw, dout, q, k, v, rh, rw, o, lse, mask, scale);
        return;
    }
    attention_job job = {.o = o,
                         .lse = lse,
                         .q = q,
                         .k = k,
                         .v = v,
                         .dq = dq,
                         .dk = dk,
                         .dv = dv,
                         .dout = dout,
                         .rh = rh,
                         .rw = rw,
                         .drh = drh,
                         .drw = drw,
                         .mask = mask,
                         .scale = (float)scale};
    run_backward(ctx, &job);
}

/*
 * attention.c - softmax attention over intervals of keys, by tiles (portable kernels).
 *
 *   forward    s_j = scale q.k_j over the visible keys j,  o = sum_j softmax_j(s) v_j
 *              lse = ln sum_j exp s_j
 *              Per tile of queries a running maximum m, sum z and output o; for each tile of keys
 *              m' = max(m, max_j s_j),  e_j = exp(s_j - m'),  z = z exp(m - m') + sum_j e_j,
 *              o = o exp(m - m') + sum_j e_j v_j;  at the end o / z and m + ln z
 *   backward   p_j = exp(s_j - lse),  delta = do.o
 *              dv_j += p_j do,  ds_j = p_j (do.v_j - delta)
 *              dq    = scale sum_j ds_j k_j,  dk_j += scale ds_j q        all overwritten
 *
 *   rel_attention adds rh[n,h,y] + rw[n,h,x] to s_j, key j being place (y,x) of its sequence's grid; then
 *              drh[n,h,y] = sum over the line's keys of ds_j,  drw[n,h,x] likewise      overwritten
 *
 * Shapes: q, o (N,H,D), k, v (M,G,D), lse (N,H); rows may be strided. Query head h reads key head
 * floor(h G/H). The mask's intervals are in ops.h: row n sees [lo,hi) and the prefix [plo,phi) before it.
 * T x T is never stored: a tile is PC_TILE_Q by PC_TILE_K. Statistics run in double, products in BLAS.
 *
 * Forward shares out (sequence, head, query tile); backward (sequence, key head), which owns its rows of
 * dk and dv and the dq of the heads that read them, so sums run in one order whatever the thread count.
 */
#include <math.h>
#include <string.h>

#include "model/ops/cpu/gemm.h"
#include "model/ops/cpu/portable_math.h"
#include "model/ops/cpu/portable_sums.h"
#include "model/ops/cpu/workspace.h"

enum { TILE_Q = PC_TILE_Q, TILE_K = PC_TILE_K };

typedef struct attention_job {
    pc_tensor o, lse, q, k, v;  // o is read in backward
    pc_tensor dq, dk, dv, dout; // backward
    pc_tensor rh, rw, drh, drw; // rel_attention alone
    const pc_mask *mask;
    double scale;
    unsigned char *workspace;
    size_t per_thread;
} attention_job;

// One tile of queries of one head.
typedef struct tile {
    int64_t n0, rows; // query rows [n0, n0 + rows)
    int64_t h, g;
    int64_t k_first; // first key row of the sequence
} tile;

static inline int64_t key_head(const attention_job *j, int64_t h)
{
    return h * j->k.dim[1] / j->q.dim[1];
}

static inline real *head_row(pc_tensor x, int64_t n, int64_t h)
{
    return pc_row(x, n) + h * x.dim[2];
}

typedef struct span {
    int64_t begin, end;
} span;

// What row n sees: part 0 its prefix, part 1 its own interval.
static span visible(const pc_mask *m, int part, int64_t n)
{
    if (part == 1) return (span){pc_i32(m->lo)[n], pc_i32(m->hi)[n]};
    if (!pc_present(m->plo)) return (span){0, 0};
    return (span){pc_i32(m->plo)[n], pc_i32(m->phi)[n]};
}

// The smallest interval around what the rows of a tile see.
static span visible_to_tile(const pc_mask *m, int part, const tile *t)
{
    span all = {INT64_MAX, 0};
    for (int64_t r = 0; r < t->rows; r++) {
        const span s = visible(m, part, t->n0 + r);
        if (s.begin >= s.end) continue;
        all.begin = pc_min64(all.begin, s.begin);
        all.end = pc_max64(all.end, s.end);
    }
    return all;
}

// Columns of the key tile [k0, k0 + keys) that row n sees, counted from k0; empty: begin >= end.
static inline span visible_in_tile(const pc_mask *m, int part, int64_t n, int64_t k0, int64_t keys)
{
    const span s = visible(m, part, n);
    return (span){pc_max64(s.begin - k0, 0), pc_min64(s.end - k0, keys)};
}

// S += rh + rw of each key's line and column.
static void add_terms(const attention_job *j, const tile *t, real *S, int64_t k0, int64_t keys)
{
    const int64_t b = j->rw.dim[2];
    for (int64_t r = 0; r < t->rows; r++) {
        const real *rh = head_row(j->rh, t->n0 + r, t->h), *rw = head_row(j->rw, t->n0 + r, t->h);
        for (int64_t c = 0; c < keys; c++) {
            const int64_t at = k0 + c - t->k_first;
            S[r * TILE_K + c] += rh[at / b] + rw[at % b];
        }
    }
}

// drh, drw += dS, by line and by column.
static void sum_terms(const attention_job *j, const tile *t, const real *dS, int64_t k0,
                      int64_t keys)
{
    const int64_t b = j->rw.dim[2];
    for (int64_t r = 0; r < t->rows; r++) {
        real *drh = head_row(j->drh, t->n0 + r, t->h), *drw = head_row(j->drw, t->n0 + r, t->h);
        for (int64_t c = 0; c < keys; c++) {
            const int64_t at = k0 + c - t->k_first;
            drh[at / b] += dS[r * TILE_K + c];
            drw[at % b] += dS[r * TILE_K + c];
        }
    }
}

// S (rows, TILE_K) = scale q k^T for keys [k0, k0 + keys).
static void tile_scores(const attention_job *j, const tile *t, real *S, int64_t k0, int64_t keys)
{
    pc_gemm(NULL, false, true, t->rows, keys, j->q.dim[2], (real)j->scale,
            head_row(j->q, t->n0, t->h), j->q.stride, head_row(j->k, k0, t->g), j->k.stride, 0, S,
            TILE_K);
    if (pc_present(j->rh)) add_terms(j, t, S, k0, keys);
}

// Turns row r of S into exp(s - m') with zeros where nothing is seen; updates m and z; returns exp(m - m').
static real tile_softmax_row(real *s, double *m, double *z, span seen, int64_t keys)
{
    if (seen.begin >= seen.end) {
        memset(s, 0, (size_t)keys * sizeof *s);
        return 1;
    }
    const real top = pc_max(s + seen.begin, seen.end - seen.begin);
    const double m_new = fmax(*m, (double)top);
    const double shrink = exp(*m - m_new); // 0 the first time: m is -inf
    const real shift = (real)m_new;
    memset(s, 0, (size_t)seen.begin * sizeof *s);
    for (int64_t c = seen.begin; c < seen.end; c++) s[c] = pc_exp(s[c] - shift);
    memset(s + seen.end, 0, (size_t)(keys - seen.end) * sizeof *s);
    *z = *z * shrink + pc_sum(s + seen.begin, seen.end - seen.begin);
    *m = m_new;
    return (real)shrink;
}

static void tile_forward(const attention_job *j, const tile *t, real *S)
{
    const int64_t D = j->q.dim[2], H = j->q.dim[1];
    double m[TILE_Q], z[TILE_Q];
    for (int64_t r = 0; r < t->rows; r++) {
        m[r] = -INFINITY;
        z[r] = 0.0;
        memset(head_row(j->o, t->n0 + r, t->h), 0, (size_t)D * sizeof(real));
    }
    for (int part = 0; part < 2; part++) {
        const span all = visible_to_tile(j->mask, part, t);
        for (int64_t k0 = all.begin; k0 < all.end; k0 += TILE_K) {
            const int64_t keys = pc_min64(TILE_K, all.end - k0);
            tile_scores(j, t, S, k0, keys);
            for (int64_t r = 0; r < t->rows; r++) {
                const span seen = visible_in_tile(j->mask, part, t->n0 + r, k0, keys);
                const real shrink = tile_softmax_row(S + r * TILE_K, &m[r], &z[r], seen, keys);
                if (shrink == 1) continue;
                real *o = head_row(j->o, t->n0 + r, t->h);
                for (int64_t d = 0; d < D; d++) o[d] *= shrink;
            }
            pc_gemm(NULL, false, false, t->rows, D, keys, 1, S, TILE_K, head_row(j->v, k0, t->g),
                    j->v.stride, 1, head_row(j->o, t->n0, t->h), j->o.stride);
        }
    }
    real *lse = j->lse.data;
    for (int64_t r = 0; r < t->rows; r++) {
        real *o = head_row(j->o, t->n0 + r, t->h);
        const real inverse = z[r] > 0.0 || isnan(z[r]) ? (real)(1.0 / z[r]) : 0;
        for (int64_t d = 0; d < D; d++) o[d] *= inverse;
        lse[(t->n0 + r) * H + t->h] = (real)(m[r] + log(z[r])); // nothing seen: -inf
    }
}

static int64_t tiles_of(const pc_mask *m, int64_t s)
{
    return (pc_i32(m->q_off)[s + 1] - pc_i32(m->q_off)[s] + TILE_Q - 1) / TILE_Q;
}

// Work items [begin, end) of (sequence, head, tile), in that order.
static void forward_items(void *arg, int64_t begin, int64_t end, int worker)
{
    const attention_job *j = arg;
    const int64_t H = j->q.dim[1];
    real *S = (real *)(void *)(j->workspace + (size_t)worker * j->per_thread);
    int64_t item = 0;
    for (int64_t s = 0; s < j->mask->S && item < end; s++) {
        const int64_t tiles = tiles_of(j->mask, s), last = pc_i32(j->mask->q_off)[s + 1];
        for (int64_t i = pc_max64(begin - item, 0); i < pc_min64(end - item, H * tiles); i++) {
            tile t = {.n0 = pc_i32(j->mask->q_off)[s] + i % tiles * TILE_Q, .h = i / tiles};
            t.rows = pc_min64(TILE_Q, last - t.n0);
            t.g = key_head(j, t.h);
            t.k_first = pc_i32(j->mask->k_off)[s];
            tile_forward(j, &t, S);
        }
        item += H * tiles;
    }
}

static void check(const attention_job *j)
{
    const pc_mask *m = j->mask;
    PC_SAME("attention: rows of q and o", j->q.dim[0], j->o.dim[0]);
    PC_SAME("attention: rows of k and v", j->k.dim[0], j->v.dim[0]);
    PC_SAME("attention: head width of q and k", j->q.dim[2], j->k.dim[2]);
    PC_SAME("attention: head width of k and v", j->k.dim[2], j->v.dim[2]);
    PC_SAME("attention: heads of k and v", j->k.dim[1], j->v.dim[1]);
    PC_SAME("attention: first query row of the sequences, and 0", pc_i32(m->q_off)[0], 0);
    PC_SAME("attention: rows of the sequences and of q", pc_i32(m->q_off)[m->S], j->q.dim[0]);
    PC_ASSERT(pc_present(m->plo) == pc_present(m->phi), "attention: both ends of the prefix");
    if (!pc_present(j->rh)) return;
    PC_SAME("rel_attention: rows of rh and q", j->rh.dim[0], j->q.dim[0]);
    PC_SAME("rel_attention: rows of rw and q", j->rw.dim[0], j->q.dim[0]);
    for (int64_t s = 0; s < m->S; s++)
        PC_SAME("rel_attention: keys of a sequence and places of its grid",
                pc_i32(m->k_off)[s + 1] - pc_i32(m->k_off)[s], j->rh.dim[2] * j->rw.dim[2]);
}

static void run_forward(pc_ctx *ctx, attention_job *job)
{
    const int64_t N = job->q.dim[0], H = job->q.dim[1], D = job->q.dim[2];
    const int64_t M = job->k.dim[0], G = job->k.dim[1];
    check(job);
    const size_t mark = pc_arena_mark(ctx->scratch);
    job->workspace = pc_workspace(ctx, pc_attention_forward_workspace(ctx, N, H, D, M, G));
    job->per_thread = pc_padded(TILE_Q * TILE_K * sizeof(real));

    int64_t items = 0;
    for (int64_t s = 0; s < job->mask->S; s++) items += H * tiles_of(job->mask, s);
    pc_parallel(ctx->pool, items, pc_row_grain(TILE_Q * TILE_K * D / 8), forward_items, job);
    pc_arena_release(ctx->scratch, mark);
}

void R(attention_forward)(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,
                          pc_tensor v, const pc_mask *mask, double scale)
{
    attention_job job = {.o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = mask, .scale = scale};
    run_forward(ctx, &job);
}

void R(rel_attention_forward)(pc_ctx *ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,
                              pc_tensor v, pc_tensor rh, pc_tensor rw, const pc_mask *mask,
                              double scale)
{
    attention_job job = {.o = o,
                         .lse = lse,
                         .q = q,
                         .k = k,
                         .v = v,
                         .rh = rh,
                         .rw = rw,
                         .mask = mask,
                         .scale = scale};
    run_forward(ctx, &job);
}

// P (rows, TILE_K): scores become probabilities, zeros where nothing is seen.
static void tile_probabilities(const attention_job *j, const tile *t, int part, real *P, int64_t k0,
                               int64_t keys)
{
    const int64_t H = j->q.dim[1];
    const real *lse = j->lse.data;
    for (int64_t r = 0; r < t->rows; r++) {
        const span seen = visible_in_tile(j->mask, part, t->n0 + r, k0, keys);
        const real l = lse[(t->n0 + r) * H + t->h];
        real *p = P + r * TILE_K;
        if (seen.begin >= seen.end) {
            memset(p, 0, (size_t)keys * sizeof *p);
            continue;
        }
        memset(p, 0, (size_t)seen.begin * sizeof *p);
        for (int64_t c = seen.begin; c < seen.end; c++) p[c] = pc_exp(p[c] - l);
        memset(p + seen.end, 0, (size_t)(keys - seen.end) * sizeof *p);
    }
}

static void tile_backward(const attention_job *j, const tile *t, real *P, real *dP)
{
    const int64_t D = j->q.dim[2];
    const real scale = (real)j->scale;
    const real *q = head_row(j->q, t->n0, t->h), *dout = head_row(j->dout, t->n0, t->h);
    real *dq = head_row(j->dq, t->n0, t->h);
    real delta[TILE_Q];
    for (int64_t r = 0; r < t->rows; r++) {
        delta[r] = (real)pc_dot(dout + r * j->dout.stride, head_row(j->o, t->n0 + r, t->h), D);
        memset(dq + r * j->dq.stride, 0, (size_t)D * sizeof(real));
        if (!pc_present(j->rh)) continue;
        memset(head_row(j->drh, t->n0 + r, t->h), 0, (size_t)j->drh.dim[2] * sizeof(real));
        memset(head_row(j->drw, t->n0 + r, t->h), 0, (size_t)j->drw.dim[2] * sizeof(real));
    }
    for (int part = 0; part < 2; part++) {
        const span all = visible_to_tile(j->mask, part, t);
        for (int64_t k0 = all.begin; k0 < all.end; k0 += TILE_K) {
            const int64_t keys = pc_min64(TILE_K, all.end - k0);
            tile_scores(j, t, P, k0, keys);
            tile_probabilities(j, t, part, P, k0, keys);
            pc_gemm(NULL, true, false, keys, D, t->rows, 1, P, TILE_K, dout, j->dout.stride, 1,
                    head_row(j->dv, k0, t->g), j->dv.stride);
            pc_gemm(NULL, false, true, t->rows, keys, D, 1, dout, j->dout.stride,
                    head_row(j->v, k0, t->g), j->v.stride, 0, dP, TILE_K);
            for (int64_t r = 0; r < t->rows; r++)
                for (int64_t c = 0; c < keys; c++)
                    P[r * TILE_K + c] *= dP[r * TILE_K + c] - delta[r];
            if (pc_present(j->rh)) sum_terms(j, t, P, k0, keys);
            pc_gemm(NULL, false, false, t->rows, D, keys, scale, P, TILE_K,
                    head_row(j->k, k0, t->g), j->k.stride, 1, dq, j->dq.stride);
            pc_gemm(NULL, true, false, keys, D, t->rows, scale, P, TILE_K, q, j->q.stride, 1,
                    head_row(j->dk, k0, t->g), j->dk.stride);
        }
    }
}

static void zero_head_rows(pc_tensor x, int64_t g, int64_t begin, int64_t end)
{
    for (int64_t n = begin; n < end; n++)
        memset(head_row(x, n, g), 0, (size_t)x.dim[2] * sizeof(real));
}

// Work items [begin, end) of (sequence, key head), in that order.
static void backward_items(void *arg, int64_t begin, int64_t end, int worker)
{
    const attention_job *j = arg;
    const pc_mask *m = j->mask;
    const int64_t H = j->q.dim[1], G = j->k.dim[1], M = j->k.dim[0];
    real *P = (real *)(void *)(j->workspace + (size_t)worker * j->per_thread);
    real *dP = P + TILE_Q * TILE_K;
    for (int64_t item = begin; item < end; item++) {
        const int64_t s = item / G, g = item % G;
        // Key rows before the first and behind the last sequence have no gradient, but have a value.
        const int64_t k_begin = s == 0 ? 0 : pc_i32(m->k_off)[s];
        const int64_t k_end = s == m->S - 1 ? M : pc_i32(m->k_off)[s + 1];
        zero_head_rows(j->dk, g, k_begin, k_end);
        zero_head_rows(j->dv, g, k_begin, k_end);
        const int64_t last = pc_i32(m->q_off)[s + 1];
        for (int64_t h = (g * H + G - 1) / G; h < H && key_head(j, h) == g; h++)
            for (int64_t n0 = pc_i32(m->q_off)[s]; n0 < last; n0 += TILE_Q) {
                const tile t = {n0, pc_min64(TILE_Q, last - n0), h, g, pc_i32(m->k_off)[s]};
                tile_backward(j, &t, P, dP);
            }
    }
}

static void run_backward(pc_ctx *ctx, attention_job *job)
{
    const int64_t N = job->q.dim[0], H = job->q.dim[1], D = job->q.dim[2];
    const int64_t M = job->k.dim[0], G = job->k.dim[1];
    check(job);
    PC_SAME("attention: rows of dq and q", job->dq.dim[0], N);
    PC_SAME("attention: rows of dk and k", job->dk.dim[0], M);
    PC_SAME("attention: rows of dv and v", job->dv.dim[0], M);
    const size_t mark = pc_arena_mark(ctx->scratch);
    job->workspace = pc_workspace(ctx, pc_attention_backward_workspace(ctx, N, H, D, M, G));
    job->per_thread = pc_padded(2 * TILE_Q * TILE_K * sizeof(real));
    pc_parallel(ctx->pool, job->mask->S * G, 1, backward_items, job);
    pc_arena_release(ctx->scratch, mark);
}

void R(attention_backward)(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout,
                           pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o, pc_tensor lse,
                           const pc_mask *mask, double scale)
{
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
                         .scale = scale};
    run_backward(ctx, &job);
}

void R(rel_attention_backward)(pc_ctx *ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor drh,
                               pc_tensor drw, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,
                               pc_tensor rh, pc_tensor rw, pc_tensor o, pc_tensor lse,
                               const pc_mask *mask, double scale)
{
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
                         .scale = scale};
    run_backward(ctx, &job);
}

/*
 * vlm_batch.c - laying sequences out: rows, positions, labels, who sees whom.
 *
 * A sequence of ids becomes rows: a token one row, an image place the rows of an image. With branches,
 *
 *     rows       [ prefix ][ branch 0 ][ branch 1 ] ...
 *     positions  0 .. p-1    p, p+1 ..   p, p+1 ..          each branch goes on from the prefix
 *     sees       [lo, hi)    the branch's own rows up to itself, and [plo, phi) the prefix
 *
 * Positions may be limited to a window (the last `window` of them, itself included). Rows of one image
 * see each other both ways when the config says so.
 */
#include "model/networks/vlm.h"

#include "model/layers/mask.h"

typedef struct layout {
    const pc_vlm_config *config;
    int64_t image_rows; // of one image
    pc_vlm_batch *out;
    bool dry;
    int64_t n, images; // next row, next image
    double pairs;
} layout;

/* One run of rows with positions that count up: a whole sequence, a prefix, or a branch. */
typedef struct run {
    int64_t first, pos;          // row and position of its first token
    int64_t prefix, prefix_rows; // first row and number of the rows of the prefix it sees
    int64_t image_first,
        image_end; // the image that the present row belongs to; empty outside images
} run;

int64_t pc_vlm_rows(const pc_vlm_config *c, const int32_t *ids, int64_t n)
{
    const int64_t image = pc_vlm_rows_per_image(c);
    int64_t rows = 0;
    for (int64_t i = 0; i < n; i++) rows += image > 0 && ids[i] == c->image_id ? image : 1;
    return rows;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The present row: its id (-1: of an image), position, and what it sees. */
static void put(layout *y, const run *r, int32_t id)
{
    const int64_t n = y->n++, window = y->config->decoder.window;
    const int64_t pos = r->pos + n - r->first;
    const int64_t far = window > 0 ? larger(0, pos - window + 1) : 0; // first position in sight
    int64_t lo = larger(r->first, r->first + far - r->pos), hi = n + 1;
    int64_t plo = r->prefix, phi = r->prefix;
    if (r->prefix_rows > far) {
        plo = r->prefix + far;
        phi = r->prefix + r->prefix_rows;
    }
    if (r->image_end > n && y->config->image_bidirectional) {
        hi = r->image_end;
        if (r->image_first < lo) lo = r->image_first;
    }
    y->pairs += (double)(hi - lo + phi - plo);
    if (y->dry) return;
    pc_vlm_batch *b = y->out;
    pc_i32(b->ids)[n] = id;
    pc_i32(b->labels)[n] = -1;
    pc_i32(b->pos)[n] = (int32_t)pos;
    pc_i32(b->mask.lo)[n] = (int32_t)lo;
    pc_i32(b->mask.hi)[n] = (int32_t)hi;
    if (!pc_present(b->mask.plo)) return;
    pc_i32(b->mask.plo)[n] = (int32_t)plo;
    pc_i32(b->mask.phi)[n] = (int32_t)phi;
}

/* Ids [begin, end) of a sequence as one run. A supervised token is the label of the row before it. */
static pc_status put_run(layout *y, const pc_sequence *s, int64_t begin, int64_t end, run r)
{
    r.first = y->n;
    for (int64_t i = begin; i < end; i++) {
        const bool supervised = s->supervised && s->supervised[i];
        if (supervised) {
            if (y->n == r.first)
                return pc_fail(PC_ERR_INPUT, "token %lld is to be learned, but no row precedes it",
                               (long long)i);
            if (!y->dry) pc_i32(y->out->labels)[y->n - 1] = s->ids[i];
            y->out->supervised++;
        }
        if (s->ids[i] != y->config->image_id || y->image_rows == 0) {
            r.image_first = r.image_end = 0;
            if (s->ids[i] < 0 || s->ids[i] >= y->config->decoder.V)
                return pc_fail(PC_ERR_INPUT, "token %lld: id %d, vocabulary of %lld", (long long)i,
                               (int)s->ids[i], (long long)y->config->decoder.V);
            put(y, &r, s->ids[i]);
            continue;
        }
        if (supervised)
            return pc_fail(PC_ERR_INPUT, "token %lld is to be learned and stands for an image",
                           (long long)i);
        r.image_first = y->n;
        r.image_end = y->n + y->image_rows;
        for (int64_t k = 0; k < y->image_rows; k++) {
            if (!y->dry && y->images < y->out->images)
                pc_i32(y->out->image_rows)[y->images * y->image_rows + k] = (int32_t)y->n;
            put(y, &r, -1);
        }
        y->images++;
    }
    return PC_OK;
}

static pc_status put_sequence(layout *y, const pc_sequence *s)
{
    const int64_t shared = s->branches > 0 ? s->prefix : s->length, first = y->n;
    pc_status st = put_run(y, s, 0, shared, (run){0});
    const int64_t rows = y->n - first;
    int64_t longest = rows, begin = shared;
    for (int64_t k = 0; k < s->branches && !st; k++) {
        const int64_t at = y->n;
        st = put_run(y, s, begin, s->branch_end[k],
                     (run){.pos = rows, .prefix = first, .prefix_rows = rows});
        longest = larger(longest, rows + y->n - at);
        begin = s->branch_end[k];
    }
    if (!st && longest > y->config->decoder.T)
        return pc_fail(PC_ERR_INPUT, "%lld positions; the decoder has %lld (decoder.T)",
                       (long long)longest, (long long)y->config->decoder.T);
    return st;
}

static pc_status check(const pc_sequence *s)
{
    if (s->length < 1) return pc_fail(PC_ERR_INPUT, "no tokens");
    if (s->branches == 0) return PC_OK;
    PC_ASSERT(s->prefix >= 0 && s->prefix <= s->length, "prefix of %lld in %lld tokens",
              (long long)s->prefix, (long long)s->length);
    int64_t begin = s->prefix;
    for (int64_t k = 0; k < s->branches; k++) {
        PC_ASSERT(s->branch_end[k] >= begin, "branch %lld ends at %lld, begins at %lld",
                  (long long)k, (long long)s->branch_end[k], (long long)begin);
        begin = s->branch_end[k];
    }
    PC_ASSERT(begin == s->length, "branches end at %lld of %lld tokens", (long long)begin,
              (long long)s->length);
    return PC_OK;
}

pc_status pc_vlm_batch_build(pc_vlm_batch *out, pc_arena *a, const pc_vlm_config *c,
                             const pc_sequence *seqs, int64_t S, int64_t images)
{
    layout y = {.config = c, .image_rows = pc_vlm_rows_per_image(c), .out = out, .dry = a->dry};
    pc_status st = PC_OK;
    bool branches = false;
    int64_t N = 0;
    for (int64_t s = 0; s < S; s++) {
        if ((st = check(&seqs[s]))) return pc_context(st, "sequence %lld", (long long)s + 1);
        branches = branches || seqs[s].branches > 0;
        N += pc_vlm_rows(c, seqs[s].ids, seqs[s].length);
    }
    if (N > INT32_MAX) return pc_fail(PC_ERR_INPUT, "%lld rows in one batch", (long long)N);

    *out = (pc_vlm_batch){.N = N, .images = images};
    out->ids = pc_alloc1(a, PC_I32, N);
    out->labels = pc_alloc1(a, PC_I32, N);
    out->pos = pc_alloc1(a, PC_I32, N);
    out->image_rows = pc_alloc1(a, PC_I32, images * y.image_rows);
    pc_mask_alloc(&out->mask, a, S, N, branches);
    for (int64_t s = 0; s <= S; s++) {
        if (!y.dry) pc_i32(out->mask.q_off)[s] = pc_i32(out->mask.k_off)[s] = (int32_t)y.n;
        if (s == S) break;
        if ((st = put_sequence(&y, &seqs[s])))
            return pc_context(st, "sequence %lld", (long long)s + 1);
    }
    out->mask.pairs = y.pairs;
    if (y.images != images)
        return pc_fail(PC_ERR_INPUT, "%lld image places in the text, %lld images",
                       (long long)y.images, (long long)images);
    return PC_OK;
}

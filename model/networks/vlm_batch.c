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
 *
 * With decoder.rope_2d an image of g x g patches that begins at position s takes positions in two directions,
 * (s + column, s + row), and what follows goes on at s + g; tokens stand at (s, s). A class token that is
 * passed on takes a position of its own before the patches. With decoder.mrope a film of t frames of h x w rows
 * takes (s + frame, s + row, s + column), and what follows goes on at s + max(t, h, w).
 */
#include "model/networks/vlm.h"

#include "model/layers/mask.h"

typedef struct layout {
    const pc_vlm_config *config;
    pc_vlm_batch *out;
    bool dry;
    int64_t n, images; // next row, next image
    int64_t features;  // rows of the images so far
    double pairs;
} layout;

/* One run of rows with positions that count up: a whole sequence, a prefix, or a branch. */
typedef struct run {
    int64_t first, start, next;  // its first row, that one's position, the next token's position
    int64_t prefix, prefix_rows; // first row and number of the rows of the prefix it sees
    int64_t image, image_end;    // rows of the image that is being laid out; empty outside images
} run;

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The present row: its id (-1: of an image), where it stands (the same on all axes for a token), what it sees. */
static void put(layout *y, const run *r, int32_t id, const int64_t at[PC_ROPE_AXES])
{
    const int64_t n = y->n++, window = y->config->decoder.window;
    // With a window positions count rows, so that those in sight are an interval of rows.
    const int64_t far = window > 0 ? larger(0, at[0] - window + 1) : 0; // first position in sight
    int64_t lo = larger(r->first, r->first + far - r->start), hi = n + 1;
    int64_t plo = r->prefix, phi = r->prefix;
    if (r->prefix_rows > far) {
        plo = r->prefix + far;
        phi = r->prefix + r->prefix_rows;
    }
    if (r->image_end > n && y->config->image_bidirectional) {
        hi = r->image_end;
        if (r->image < lo) lo = r->image;
    }
    y->pairs += (double)(hi - lo + phi - plo);
    if (y->dry) return;
    pc_vlm_batch *b = y->out;
    pc_i32(b->ids)[n] = id;
    pc_i32(b->labels)[n] = -1;
    pc_i32(b->pos)[n] = (int32_t)at[0];
    if (pc_present(b->pos_y)) pc_i32(b->pos_y)[n] = (int32_t)at[1];
    if (pc_present(b->pos_z)) pc_i32(b->pos_z)[n] = (int32_t)at[2];
    pc_i32(b->mask.lo)[n] = (int32_t)lo;
    pc_i32(b->mask.hi)[n] = (int32_t)hi;
    if (!pc_present(b->mask.plo)) return;
    pc_i32(b->mask.plo)[n] = (int32_t)plo;
    pc_i32(b->mask.phi)[n] = (int32_t)phi;
}

/* The rows of one image, and where its features go. */
static void put_image(layout *y, run *r, const pc_image_geometry *g)
{
    const pc_vlm_config *c = y->config;
    const int64_t rows = g ? g->rows : pc_vlm_rows_per_image(c);
    pc_vlm_batch *b = y->out;
    const bool counted = y->images < b->pictures.count; // one too many is reported at the end
    r->image = y->n;
    r->image_end = y->n + rows;
    pc_image_geometry *kept = (pc_image_geometry *)(uintptr_t)b->pictures.geometry;
    if (counted && g && kept && !y->dry) kept[y->images] = *g;
    for (int64_t k = 0; k < rows; k++) {
        int64_t at[PC_ROPE_AXES];
        if (counted && !y->dry) pc_i32(b->image_rows)[y->features + k] = (int32_t)y->n;
        pc_vlm_image_place(at, c, g, k);
        for (int i = 0; i < PC_ROPE_AXES; i++) at[i] += r->next;
        put(y, r, -1, at);
    }
    r->next += pc_vlm_image_positions(c, g);
    r->image = r->image_end = 0;
    y->features += rows;
    y->images++;
}

/* Ids [begin, end) of a sequence as one run; *next: the position behind it. A supervised token is the label of the row before it. */
static pc_status put_run(layout *y, const pc_sequence *s, int64_t begin, int64_t end, run r,
                         int64_t *next, const pc_image_geometry **image)
{
    r.first = y->n;
    r.next = r.start;
    for (int64_t i = begin; i < end; i++) {
        const bool supervised = s->supervised && s->supervised[i];
        if (supervised) {
            if (y->n == r.first)
                return pc_fail(PC_ERR_INPUT, "token %lld is to be learned, but no row precedes it",
                               (long long)i);
            if (!y->dry) pc_i32(y->out->labels)[y->n - 1] = s->ids[i];
            y->out->supervised++;
        }
        if (pc_vlm_place(y->config, s->ids[i])) {
            if (supervised)
                return pc_fail(PC_ERR_INPUT, "token %lld is to be learned and stands for an image",
                               (long long)i);
            put_image(y, &r, *image);
            if (*image) ++*image;
            continue;
        }
        if (s->ids[i] < 0 || s->ids[i] >= y->config->decoder.V)
            return pc_fail(PC_ERR_INPUT, "token %lld: id %d, vocabulary of %lld", (long long)i,
                           (int)s->ids[i], (long long)y->config->decoder.V);
        put(y, &r, s->ids[i], (const int64_t[]){r.next, r.next, r.next});
        r.next++;
    }
    *next = r.next;
    return PC_OK;
}

static pc_status put_sequence(layout *y, const pc_sequence *s)
{
    const int64_t shared = s->branches > 0 ? s->prefix : s->length, first = y->n;
    const pc_image_geometry *image = s->images;
    int64_t begin = shared, after = 0;
    pc_status st = put_run(y, s, 0, shared, (run){0}, &after, &image);
    const int64_t rows = y->n - first;
    int64_t longest = after;
    for (int64_t k = 0; k < s->branches && !st; k++) {
        int64_t end = after;
        st = put_run(y, s, begin, s->branch_end[k],
                     (run){.start = after, .prefix = first, .prefix_rows = rows}, &end, &image);
        longest = larger(longest, end);
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
    layout y = {.config = c, .out = out, .dry = a->dry};
    pc_status st = PC_OK;
    bool branches = false;
    int64_t N = 0, tokens = 0;
    for (int64_t s = 0; s < S; s++) {
        const pc_sequence *q = &seqs[s];
        if ((st = check(q))) return pc_context(st, "sequence %lld", (long long)s + 1);
        PC_ASSERT(q->images || pc_vlm_alike(c) || !pc_vlm_places(c, q->ids, q->length),
                  "sequence %lld: images without their geometry", (long long)s);
        branches = branches || q->branches > 0;
        N += pc_vlm_rows(c, q->ids, q->length, q->images);
        tokens += q->length - pc_vlm_places(c, q->ids, q->length);
    }
    if (N > INT32_MAX) return pc_fail(PC_ERR_INPUT, "%lld rows in one batch", (long long)N);

    *out = (pc_vlm_batch){.N = N, .pictures = {.count = images}};
    out->ids = pc_alloc1(a, PC_I32, N);
    out->labels = pc_alloc1(a, PC_I32, N);
    out->pos = pc_alloc1(a, PC_I32, N);
    if (pc_decoder_axes(&c->decoder)) out->pos_y = pc_alloc1(a, PC_I32, N);
    if (pc_decoder_axes(&c->decoder) && !c->decoder.rope_2d) out->pos_z = pc_alloc1(a, PC_I32, N);
    out->image_rows = pc_alloc1(a, PC_I32, N - tokens);
    if (images > 0 && !pc_vlm_alike(c))
        out->pictures.geometry = pc_arena_bytes(a, (size_t)images * sizeof *out->pictures.geometry);
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

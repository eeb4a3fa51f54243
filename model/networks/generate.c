/*
 * generate.c - prefill, then a token a step.
 *
 * The cache of a layer has a place for every row that will ever be: for each sequence its prefix, then each
 * branch with room for its answer. A sequence without branches is one branch and no prefix.
 *
 *     cache   [ prefix ][ branch 0 | its answer ][ branch 1 | its answer ] ...   next sequence ...
 *
 * On a device that can (pc_memory.record), steps of a few branches are noted down once and replayed until one of them
 * ends: what changes from step to step (ids, positions, rows of the cache, how far a row sees) lies in the device's memory
 * and goes on there by itself. Greedy choice is the device's too: a step is under way while the host looks at the ids of the
 * one before. When one has ended, the step that is too many counts for the others alone; it wrote into the ended branch's
 * own rows.
 */
#include "model/networks/generate.h"

#include <stdlib.h>
#include <string.h>

#include "model/layers/mask.h"
#include "model/layers/place.h"

typedef struct branch {
    int64_t sequence;
    int64_t first, rows;         // its rows in the cache, the answer's so far included
    int64_t prefix, prefix_rows; // the prefix's rows in the cache
    int64_t pos;                 // position of the id that comes next
    int64_t last;                // batch row of its last prompt token
    int32_t next;                // the id chosen last, to be read next
    bool live;
} branch;

typedef struct generator {
    pc_runner *runner;
    const pc_vlm *vlm;
    const pc_generate_options *options;
    int64_t S, branches, rows; // sequences, branches, rows of the cache
    branch *branch;            // (branches)
    int64_t *sequence_row;     // (S+1): first cache row of each sequence
    pc_arena host;             // index arrays
    pc_kv *kv;                 // (L)
    double *work;              // of the sampler
    // the pass being run
    pc_vlm_batch batch;
    pc_tensor ask;    // i32: rows of the batch that predict the next ids
    pc_tensor write;  // i32: cache row of each row of the batch
    pc_tensor logits; // (asked rows, V)
    // steps that are replayed
    int64_t alike; // steps since the number of live branches changed
    bool replayed; // the pass being noted down is to be
    pc_arena device;
    pc_tensor chosen, line,
        going; // i32: log of ids (steps, rows), its line, all that goes up by one a step
} generator;

int64_t pc_generate_count(const pc_sequence *seqs, int64_t S)
{
    int64_t n = 0;
    for (int64_t s = 0; s < S; s++) n += seqs[s].branches > 0 ? seqs[s].branches : 1;
    return n;
}

void pc_generation_close(pc_generation *g, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        free(g[i].ids);
        g[i] = (pc_generation){0};
    }
}

static bool is_greedy(const generator *g)
{
    return !(g->options->sampling.temperature > 0.0);
}

// How many ids there are to choose from.
static int64_t choices(const generator *g)
{
    const int64_t V = g->vlm->config.decoder.V, known = g->options->vocabulary;
    return known > 0 && known < V ? known : V;
}

static void pass(pc_ctx *ctx, void *arg)
{
    generator *g = arg;
    const pc_decoder_config *c = &g->vlm->config.decoder;
    const int64_t n = g->ask.dim[0];
    pc_vlm_kept kept;
    const bool choice = g->replayed && is_greedy(g); // the device's own
    g->logits = choice ? pc_alloc2(ctx->act, pc_stat(ctx), n, c->V)
                       : pc_alloc_shared(ctx->act, pc_stat(ctx), n, c->V);
    const pc_tensor write = pc_place(ctx, g->write);
    for (int64_t l = 0; l < c->L; l++) g->kv[l].write = write;
    pc_tensor rows = pc_vlm_forward(ctx, &kept, g->vlm, &g->batch, g->kv);
    if (n < g->batch.N) { // otherwise each row is asked
        const pc_tensor normed = rows;
        rows = pc_alloc2(ctx->act, ctx->real, n, c->C);
        ctx->ops->gather_forward(ctx, rows, normed, pc_place(ctx, g->ask));
    }
    pc_decoder_logits(ctx, g->logits, &g->vlm->decoder, rows);
    if (choice)
        ctx->ops->argmax_forward(ctx, g->batch.ids, g->chosen, g->line, g->logits, choices(g));
    if (g->replayed) ctx->ops->advance_forward(ctx, g->going, 1);
}

static pc_status run(generator *g)
{
    const pc_status st = pc_runner_run(g->runner, pass, g);
    if (!st) pc_wait(&g->runner->ctx);
    return st;
}

/* Where every branch lies: in the batch (its last row) and in the cache. */
static void place_branches(generator *g, const pc_sequence *seqs)
{
    const pc_vlm_config *c = &g->vlm->config;
    const int64_t room = g->options->max_tokens;
    int64_t k = 0, batch_row = 0, row = 0;
    for (int64_t s = 0; s < g->S; s++) {
        const pc_sequence *q = &seqs[s];
        const pc_image_geometry *image = q->images;
        const int64_t prefix_ids = q->branches > 0 ? q->prefix : 0;
        const int64_t prefix_rows = pc_vlm_rows(c, q->ids, prefix_ids, image), prefix = row;
        const int64_t prefix_positions = pc_vlm_positions(c, q->ids, prefix_ids, image);
        int64_t begin = prefix_ids;
        if (image) image += pc_vlm_places(c, q->ids, prefix_ids);
        g->sequence_row[s] = row;
        row += prefix_rows;
        batch_row += prefix_rows;
        for (int64_t b = 0; b < (q->branches > 0 ? q->branches : 1); b++) {
            const int64_t end = q->branches > 0 ? q->branch_end[b] : q->length;
            const int64_t n = end - begin, rows = pc_vlm_rows(c, q->ids + begin, n, image);
            batch_row += rows;
            g->branch[k++] =
                (branch){.sequence = s,
                         .first = row,
                         .rows = rows,
                         .prefix = prefix,
                         .prefix_rows = prefix_rows,
                         .pos = prefix_positions + pc_vlm_positions(c, q->ids + begin, n, image),
                         .last = batch_row - 1,
                         .live = true};
            if (image) image += pc_vlm_places(c, q->ids + begin, n);
            row += rows + room;
            begin = end;
        }
    }
    g->sequence_row[g->S] = row;
    g->rows = row;
}

/* From rows of the batch to rows of the cache: writes, and what each row sees. */
static void into_cache(generator *g)
{
    pc_vlm_batch *b = &g->batch;
    const pc_tensor write = pc_alloc1(&g->host, PC_I32, b->N);
    int32_t *map = pc_i32(write);
    int64_t n = 0;
    for (int64_t k = 0; k < g->branches; k++) {
        const branch *x = &g->branch[k];
        const bool first = k == 0 || g->branch[k - 1].sequence != x->sequence;
        for (int64_t i = 0; first && i < x->prefix_rows; i++) map[n++] = (int32_t)(x->prefix + i);
        for (int64_t i = 0; i < x->rows; i++) map[n++] = (int32_t)(x->first + i);
    }
    PC_ASSERT(n == b->N, "%lld rows placed, %lld in the batch", (long long)n, (long long)b->N);
    for (int64_t i = 0; i < b->N; i++) {
        pc_i32(b->mask.lo)[i] = map[pc_i32(b->mask.lo)[i]];
        pc_i32(b->mask.hi)[i] = map[pc_i32(b->mask.hi)[i] - 1] + 1;
        if (!pc_present(b->mask.plo)) continue;
        int32_t *lo = &pc_i32(b->mask.plo)[i], *hi = &pc_i32(b->mask.phi)[i];
        const bool sees = *hi > *lo;
        *lo = sees ? map[*lo] : 0;
        *hi = sees ? map[*hi - 1] + 1 : 0;
    }
    for (int64_t s = 0; s <= g->S; s++) pc_i32(b->mask.k_off)[s] = (int32_t)g->sequence_row[s];
    g->write = write;
}

/* A batch of one row for each live branch: the id chosen last, reading the cache. */
static void step_batch(generator *g)
{
    const pc_decoder_config *c = &g->vlm->config.decoder;
    int64_t N = 0;
    for (int64_t k = 0; k < g->branches; k++) N += g->branch[k].live;
    pc_vlm_batch *b = &g->batch;
    *b = (pc_vlm_batch){.N = N};
    b->ids = pc_alloc1(&g->host, PC_I32, N);
    b->pos = pc_alloc1(&g->host, PC_I32, N);
    pc_mask_alloc(&b->mask, &g->host, g->S, N, true);
    const pc_tensor write = pc_alloc1(&g->host, PC_I32, N);
    g->ask = pc_alloc1(&g->host, PC_I32, N);

    for (int64_t s = 0; s <= g->S; s++) {
        pc_i32(b->mask.q_off)[s] = 0;
        pc_i32(b->mask.k_off)[s] = (int32_t)g->sequence_row[s];
    }
    int64_t n = 0;
    for (int64_t k = 0; k < g->branches; k++) {
        branch *x = &g->branch[k];
        if (!x->live) continue;
        const int64_t pos = x->pos++, row = x->first + x->rows++;
        const int64_t far = c->window > 0 && pos >= c->window ? pos - c->window + 1 : 0;
        const bool prefix = far < x->prefix_rows; // in sight
        pc_i32(b->ids)[n] = x->next;
        pc_i32(b->pos)[n] = (int32_t)pos;
        pc_i32(write)[n] = (int32_t)row;
        pc_i32(b->mask.lo)[n] = (int32_t)(x->first + (prefix ? 0 : far - x->prefix_rows));
        pc_i32(b->mask.hi)[n] = (int32_t)(row + 1);
        pc_i32(b->mask.plo)[n] = (int32_t)(prefix ? x->prefix + far : 0);
        pc_i32(b->mask.phi)[n] = (int32_t)(prefix ? x->prefix + x->prefix_rows : 0);
        b->mask.pairs += (double)(x->prefix_rows + x->rows - far);
        pc_i32(g->ask)[n] = (int32_t)n;
        pc_i32(b->mask.q_off)[x->sequence + 1] = (int32_t)++n;
    }
    for (int64_t s = 0; s < g->S; s++) // a sequence that has ended has no rows
        if (pc_i32(b->mask.q_off)[s + 1] < pc_i32(b->mask.q_off)[s])
            pc_i32(b->mask.q_off)[s + 1] = pc_i32(b->mask.q_off)[s];
    g->write = write;
}

static bool is_stop(const pc_generate_options *o, int32_t id)
{
    for (int i = 0; i < o->stops; i++)
        if (o->stop[i] == id) return true;
    return false;
}

/* The id of row n of the pass's logits, for branch k. */
static pc_status sample(generator *g, int64_t k, int64_t n)
{
    branch *x = &g->branch[k];
    pc_tensor logits = pc_rows(g->logits, n, n + 1);
    logits = pc_view1(logits.data, logits.dtype, logits.dim[1]);
    const pc_status st = pc_sample_id(&x->next, logits, g->options->vocabulary,
                                      &g->options->sampling, x->pos, k, g->work);
    return st ? pc_context(st, "sequence %lld, position %lld", (long long)k, (long long)x->pos)
              : PC_OK;
}

/* Takes the id chosen for branch k (its `next`, at position `pos`) and ends the branch where it ends. */
static void take(generator *g, pc_generation *out, int64_t k)
{
    const pc_generate_options *o = g->options;
    branch *x = &g->branch[k];
    if (is_stop(o, x->next)) {
        out[k].stopped = true;
        x->live = false;
        return;
    }
    out[k].ids[out[k].length++] = x->next;
    if (o->token && !o->token(o->arg, k, x->next)) {
        out[k].stopped = true;
        x->live = false;
    }
    if (out[k].length >= o->max_tokens || x->pos >= g->vlm->config.decoder.T) x->live = false;
}

/* Reads the logits of the pass and takes one id for each live branch; *live is how many go on. */
static pc_status choose(generator *g, pc_generation *out, int64_t *live)
{
    int64_t n = 0;
    *live = 0;
    for (int64_t k = 0; k < g->branches; k++) {
        if (!g->branch[k].live) continue;
        const pc_status st = sample(g, k, n++);
        if (st) return st;
        take(g, out, k);
        *live += g->branch[k].live;
    }
    g->alike = *live == n ? g->alike + 1 : 0;
    return PC_OK;
}

/* ---- steps that a device replays ---- */

enum { REPLAYED_ROWS = 8, SHORT = 3 };

/* Worth noting down: few rows, which kernels for few rows take, and tokens enough to come. */
static bool may_replay(const generator *g, const pc_generation *out)
{
    const pc_memory *m = g->runner->backend.memory;
    int64_t most = 0;
    if (!m || !m->record || g->alike < 1 || g->batch.N > REPLAYED_ROWS) return false;
    if (g->vlm->config.decoder.window > 0 || g->runner->ctx.taps) return false;
    for (int64_t k = 0; k < g->branches; k++) {
        const int64_t left = g->options->max_tokens - out[k].length;
        if (g->branch[k].live && left > most) most = left;
    }
    return most > SHORT;
}

static pc_tensor device_ints(int32_t **at, int64_t n)
{
    const pc_tensor x = pc_view1(*at, PC_I32, n);
    *at += n;
    return x;
}

/*
 * The step's arrays on the device: what goes up by one first, then what stays. `staged` is the host's copy, whose
 * last N are the ids.
 */
static pc_status place_step(generator *g, int32_t **staged)
{
    pc_vlm_batch *b = &g->batch;
    const int64_t N = b->N, going = 3 * N + 1, all = going + 4 * N;
    const int64_t lines = is_greedy(g) ? g->options->max_tokens + 1 : 1;
    const size_t bytes = (size_t)all * sizeof(int32_t);
    if (!g->device.base) {
        const size_t most = (size_t)(7 * REPLAYED_ROWS + 1) * sizeof(int32_t) + 2 * PC_ALIGN;
        const pc_status st =
            pc_arena_open_in(&g->device, "steps", g->runner->backend.memory, most,
                             most + (size_t)(lines * REPLAYED_ROWS) * sizeof(int32_t) + PC_ALIGN);
        if (st) return st;
    }
    pc_arena_release(&g->device, 0);
    int32_t *to = pc_arena_bytes(&g->device, bytes), *at = pc_arena_numbers(&g->device, bytes);
    const pc_tensor from[] = {b->pos,     g->write,    b->mask.hi,  PC_NONE,
                              b->mask.lo, b->mask.plo, b->mask.phi, b->ids};
    int32_t *fill = to;
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        const int64_t n = pc_present(from[i]) ? N : 1;
        for (int64_t k = 0; k < n; k++) *fill++ = pc_present(from[i]) ? pc_i32(from[i])[k] : 0;
    }
    g->runner->backend.memory->copy(at, to, bytes);
    *staged = to;
    g->going = pc_view1(at, PC_I32, going);
    b->pos = device_ints(&at, N);
    g->write = device_ints(&at, N);
    b->mask.hi = device_ints(&at, N);
    g->line = device_ints(&at, 1);
    b->mask.lo = device_ints(&at, N);
    b->mask.plo = device_ints(&at, N);
    b->mask.phi = device_ints(&at, N);
    b->ids = device_ints(&at, N);
    g->chosen = pc_view2(pc_arena_bytes(&g->device, (size_t)(lines * N) * sizeof(int32_t)), PC_I32,
                         lines, N);
    return PC_OK;
}

/* Whether there may be a step behind number `step`, whose ids are not known yet: none of them must be a last one. */
static bool one_more(const generator *g, const pc_generation *out, const bool *in, int64_t step)
{
    for (int64_t k = 0; k < g->branches; k++)
        if (in[k] && (out[k].length + 1 >= g->options->max_tokens ||
                      g->branch[k].pos + (step > 0) >= g->vlm->config.decoder.T))
            return false;
    return true;
}

/* The ids of replay number `step` (from 0), in which branches `in` had rows; those that have ended since are passed over. */
static pc_status take_step(generator *g, pc_generation *out, const bool *in, int64_t step)
{
    int64_t n = 0;
    for (int64_t k = 0; k < g->branches; k++) {
        branch *x = &g->branch[k];
        if (!in[k]) continue;
        const int64_t row = n++;
        if (!x->live) continue;
        if (step > 0) { // the first was counted when its batch was made
            x->pos++;
            x->rows++;
        }
        if (is_greedy(g)) {
            x->next = pc_i32(g->chosen)[step * g->chosen.stride + row];
            if (x->next < 0)
                return pc_fail(PC_ERR_NUMERIC,
                               "sequence %lld, position %lld: the logits are not finite",
                               (long long)k, (long long)x->pos);
        } else {
            const pc_status st = sample(g, k, row);
            if (st) return st;
        }
        take(g, out, k);
    }
    return PC_OK;
}

static int64_t count_live(const generator *g)
{
    int64_t live = 0;
    for (int64_t k = 0; k < g->branches; k++) live += g->branch[k].live;
    return live;
}

/* Replays the step that step_batch has made until a branch ends; *done false: the device declined, nothing has happened. */
static pc_status replay(generator *g, pc_generation *out, int64_t *live, bool *done)
{
    const pc_memory *m = g->runner->backend.memory;
    const pc_vlm_batch host = g->batch;
    const pc_tensor write = g->write;
    const int64_t alike = *live;
    int32_t *staged;
    int64_t told = 0, taken = 0, mark = 0, ahead = 0;
    void *recording = NULL;
    bool *in = calloc((size_t)g->branches, sizeof *in);
    pc_status st = in ? PC_OK : pc_fail(PC_ERR_MEMORY, "%lld branches", (long long)g->branches);
    for (int64_t k = 0; !st && k < g->branches; k++) in[k] = g->branch[k].live;
    if (st || (st = place_step(g, &staged))) goto out;
    g->replayed = true;
    st = pc_runner_record(g->runner, pass, g, &recording);
    g->replayed = false;
    *done = recording != NULL;
    if (!recording) {
        g->batch = host;
        g->write = write;
        g->alike = INT32_MIN; // not asked again soon
    }
    while (recording && *live == alike && !st) {
        if (told == taken) {
            m->replay(recording);
            mark = m->mark();
            told++;
        } else {
            mark = ahead;
        }
        if (is_greedy(g) && told == taken + 1 && one_more(g, out, in, taken)) {
            m->replay(recording);
            ahead = m->mark();
            told++;
        }
        m->wait_mark(mark);
        st = take_step(g, out, in, taken++);
        *live = count_live(g);
        if (is_greedy(g) || *live < alike) continue;
        int32_t *next = staged + 6 * alike + 1;
        for (int64_t k = 0; k < g->branches; k++)
            if (in[k]) *next++ = g->branch[k].next;
        m->copy(g->batch.ids.data, staged + 6 * alike + 1, (size_t)alike * sizeof(int32_t));
    }
    if (told > taken && !st) {
        m->wait_mark(ahead);
        st = take_step(g, out, in, taken);
        *live = count_live(g);
    }
    if (recording) {
        m->wait();
        m->forget(recording);
        g->alike = *live == alike ? g->alike : 0;
    }
out:
    free(in);
    return st;
}

static pc_status open_generator(generator *g, pc_generation *out, const pc_sequence *seqs)
{
    const pc_decoder_config *c = &g->vlm->config.decoder;
    const size_t width = (size_t)(c->G * c->D), L = (size_t)(c->L > 0 ? c->L : 1);
    g->branch = calloc((size_t)g->branches, sizeof *g->branch);
    g->sequence_row = calloc((size_t)g->S + 1, sizeof *g->sequence_row);
    g->kv = calloc(L, sizeof *g->kv);
    g->work = calloc(2 * (size_t)c->V, sizeof *g->work);
    if (!g->branch || !g->sequence_row || !g->kv || !g->work)
        return pc_fail(PC_ERR_MEMORY, "%lld sequences", (long long)g->S);
    for (int64_t k = 0; k < g->branches; k++) {
        out[k].ids = malloc((size_t)g->options->max_tokens * sizeof *out[k].ids + 1);
        if (!out[k].ids)
            return pc_fail(PC_ERR_MEMORY, "%lld answers of up to %lld tokens",
                           (long long)g->branches, (long long)g->options->max_tokens);
    }
    place_branches(g, seqs);
    if (g->rows > INT32_MAX)
        return pc_fail(PC_ERR_INPUT, "%lld rows of keys and values", (long long)g->rows);
    const size_t layer = (size_t)g->rows * width * pc_dtype_size(g->runner->ctx.real) + PC_ALIGN;
    pc_arena *cache = &g->runner->cache;
    if (!cache->base || cache->size < 2 * L * layer + PC_ALIGN) {
        pc_arena_close(cache);
        const pc_status st = pc_arena_open_in(cache, "keys and values", g->runner->backend.memory,
                                              2 * L * layer + PC_ALIGN, 0);
        if (st) return st;
    }
    pc_arena_release(cache, 0);
    for (int64_t l = 0; l < c->L; l++) {
        g->kv[l].k = pc_alloc2(cache, g->runner->ctx.real, g->rows, c->G * c->D);
        g->kv[l].v = pc_alloc2(cache, g->runner->ctx.real, g->rows, c->G * c->D);
    }
    return PC_OK;
}

static void close_generator(generator *g)
{
    free(g->branch);
    free(g->sequence_row);
    free(g->kv);
    free(g->work);
    if (!g->runner->backend.memory) pc_arena_close(&g->runner->cache);
    pc_arena_close(&g->host);
    pc_arena_close(&g->device);
}

/* Lays the prompts out, in an arena for index arrays that the steps will use again. */
static pc_status prefill_batch(generator *g, const pc_sequence *seqs, int64_t images)
{
    pc_arena dry;
    pc_arena_open_dry(&dry, "prompts");
    pc_status st = pc_vlm_batch_build(&g->batch, &dry, &g->vlm->config, seqs, g->S, images);
    if (st) return st;
    // Beyond what the batch takes: two index arrays, and all arrays of a step.
    const size_t extra = (size_t)(16 * (g->S + g->branches + 8)) * sizeof(int32_t) * 2 +
                         (size_t)g->batch.N * sizeof(int32_t) + 32 * PC_ALIGN;
    if ((st = pc_arena_open(&g->host, "prompts", dry.peak + extra)) ||
        (st = pc_vlm_batch_build(&g->batch, &g->host, &g->vlm->config, seqs, g->S, images)))
        return st;
    into_cache(g);
    g->ask = pc_alloc1(&g->host, PC_I32, g->branches);
    for (int64_t k = 0; k < g->branches; k++) pc_i32(g->ask)[k] = (int32_t)g->branch[k].last;
    return PC_OK;
}

pc_status pc_generate(pc_generation *out, pc_runner *r, const pc_vlm *l, const pc_sequence *seqs,
                      int64_t S, const pc_pictures *pictures, const pc_generate_options *o)
{
    generator g = {
        .runner = r, .vlm = l, .options = o, .S = S, .branches = pc_generate_count(seqs, S)};
    const int64_t images = pictures ? pictures->count : 0;
    int64_t live = g.branches;
    memset(out, 0, (size_t)g.branches * sizeof *out);
    for (int64_t s = 0, k = 0; s < S; s++) { // every branch needs a token to go on from
        int64_t begin = seqs[s].branches > 0 ? seqs[s].prefix : 0;
        for (int64_t b = 0; b < (seqs[s].branches > 0 ? seqs[s].branches : 1); b++, k++) {
            const int64_t end = seqs[s].branches > 0 ? seqs[s].branch_end[b] : seqs[s].length;
            if (end <= begin)
                return pc_fail(PC_ERR_INPUT, "sequence %lld: an empty prompt", (long long)k);
            begin = end;
        }
    }
    if (g.branches == 0 || o->max_tokens < 1) return PC_OK;

    pc_status st = open_generator(&g, out, seqs);
    if (st || (st = prefill_batch(&g, seqs, images))) goto out;
    if (images) {
        g.batch.pictures.pixels = pictures->pixels;
        g.batch.pictures.high = pictures->high;
        g.batch.pictures.patches = pictures->patches;
    }
    if ((st = run(&g)) || (st = choose(&g, out, &live))) goto out;
    g.alike = 0;
    while (live > 0) {
        bool done = false;
        pc_arena_release(&g.host, 0);
        step_batch(&g);
        if (may_replay(&g, out) && (st = replay(&g, out, &live, &done))) goto out;
        if (!done && ((st = run(&g)) || (st = choose(&g, out, &live)))) goto out;
    }
out:
    close_generator(&g);
    if (st) pc_generation_close(out, g.branches);
    return st;
}

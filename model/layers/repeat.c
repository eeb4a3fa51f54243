/*
 * repeat.c - see repeat.h.
 */
#include "model/layers/repeat.h"

#include <stdlib.h>
#include <string.h>

enum { SEEN = 64, RECORDED = 48 };

// A key's words, and once it is recorded the contents of its blocks.
typedef struct entry {
    int64_t word[PC_REPEAT_WORDS];
    int words;
    unsigned char *contents;
    size_t bytes;
    void *recording;
    bool declined;
    int64_t used;
} entry;

struct pc_repeats {
    const pc_memory *memory;
    const pc_ops *ops, *dry;
    const pc_grad_ops *dry_grad; // here, so that inference links nothing of it
    entry seen[SEEN];            // told once; the oldest makes room
    entry kept[RECORDED];
    int seen_count, kept_count;
    int64_t calls, replayed;
};

pc_status pc_repeats_open(pc_repeats **out, const pc_memory *memory, const pc_ops *ops)
{
    *out = NULL;
    if (!memory || !memory->record) return PC_OK;
    pc_repeats *r = calloc(1, sizeof *r);
    if (!r) return pc_fail(PC_ERR_MEMORY, "parts that repeat");
    r->memory = memory;
    r->ops = ops;
    r->dry = pc_dry_ops();
    r->dry_grad = pc_dry_grad_ops();
    *out = r;
    return PC_OK;
}

void pc_repeats_close(pc_repeats *r)
{
    if (!r) return;
    for (int i = 0; i < r->kept_count; i++) {
        if (r->kept[i].recording) r->memory->forget(r->kept[i].recording);
        free(r->kept[i].contents);
    }
    free(r);
}

int64_t pc_repeats_replayed(const pc_repeats *r)
{
    return r ? r->replayed : 0;
}

// ---- keys ----------------------------------------------------------------------------------------

void pc_repeat_number(pc_repeat_key *k, int64_t n)
{
    PC_ASSERT(k->words < PC_REPEAT_WORDS, "more than %d words", PC_REPEAT_WORDS);
    k->word[k->words++] = n;
}

void pc_repeat_place(pc_repeat_key *k, pc_tensor x)
{
    pc_repeat_number(k, (int64_t)(intptr_t)x.data);
    if (!pc_present(x)) return;
    pc_repeat_number(k, ((int64_t)x.dtype << 8) + x.rank);
    for (int i = 0; i < x.rank; i++) pc_repeat_number(k, x.dim[i]);
    pc_repeat_number(k, x.stride);
}

void pc_repeat_bytes(pc_repeat_key *k, const void *at, size_t bytes)
{
    const int most = (int)(sizeof k->block / sizeof *k->block);
    PC_ASSERT(k->blocks < most, "more than %d blocks", most);
    k->block[k->blocks].at = at;
    k->block[k->blocks++].bytes = bytes;
    pc_repeat_number(k, (int64_t)bytes);
}

void pc_repeat_mask(pc_repeat_key *k, const pc_mask *m)
{
    const pc_tensor part[6] = {m->q_off, m->k_off, m->lo, m->hi, m->plo, m->phi};
    int64_t pairs;
    memcpy(&pairs, &m->pairs, sizeof pairs);
    pc_repeat_number(k, m->S);
    pc_repeat_number(k, pairs);
    for (int i = 0; i < 6; i++) {
        const size_t n = pc_present(part[i]) ? (size_t)pc_numel(part[i]) : 0;
        pc_repeat_bytes(k, part[i].data, n * sizeof(int32_t));
    }
}

static void arena_place(pc_repeat_key *k, const pc_arena *a)
{
    pc_repeat_number(k, (int64_t)(intptr_t)a->base);
    pc_repeat_number(k, (int64_t)a->used);
}

static bool same_words(const entry *e, const pc_repeat_key *k)
{
    return e->words == k->words && !memcmp(e->word, k->word, (size_t)k->words * sizeof *k->word);
}

static bool same_contents(const entry *e, const pc_repeat_key *k)
{
    const unsigned char *at = e->contents;
    for (int i = 0; i < k->blocks; at += k->block[i++].bytes)
        if (k->block[i].bytes && memcmp(at, k->block[i].at, k->block[i].bytes) != 0) return false;
    return true;
}

// Takes the contents along: false without memory for them.
static bool fill(entry *e, const pc_repeat_key *k)
{
    *e = (entry){.words = k->words};
    memcpy(e->word, k->word, (size_t)k->words * sizeof *k->word);
    for (int i = 0; i < k->blocks; i++) e->bytes += k->block[i].bytes;
    unsigned char *at = e->contents = malloc(e->bytes + 1);
    for (int i = 0; at && i < k->blocks; at += k->block[i++].bytes)
        if (k->block[i].bytes) memcpy(at, k->block[i].at, k->block[i].bytes);
    return e->contents != NULL;
}

// Whether the words were seen before; from now on they were.
static bool seen_before(pc_repeats *r, const pc_repeat_key *k)
{
    entry *oldest = &r->seen[0];
    for (int i = 0; i < r->seen_count; i++) {
        entry *e = &r->seen[i];
        if (same_words(e, k)) {
            e->used = r->calls;
            return true;
        }
        if (e->used < oldest->used) oldest = e;
    }
    entry *e = r->seen_count < SEEN ? &r->seen[r->seen_count++] : oldest;
    *e = (entry){.words = k->words, .used = r->calls};
    memcpy(e->word, k->word, (size_t)k->words * sizeof *k->word);
    return false;
}

// ---- parts ---------------------------------------------------------------------------------------

bool pc_repeats_wanted(const pc_ctx *ctx)
{
    return ctx->repeats && ctx->grad_ops && !ctx->act->dry && !ctx->taps &&
           ctx->ops == ctx->repeats->ops && ctx->dropout == 0.0 && ctx->adapter_dropout == 0.0 &&
           !ctx->fp8; // the host counts there as it tells
}

static void silently(pc_ctx *ctx, pc_part *part, void *arg)
{
    const pc_ops *ops = ctx->ops;
    const pc_grad_ops *grad_ops = ctx->grad_ops;
    ctx->ops = ctx->repeats->dry;
    ctx->grad_ops = ctx->repeats->dry_grad;
    part(ctx, arg);
    ctx->ops = ops;
    ctx->grad_ops = grad_ops;
}

void pc_repeated(pc_ctx *ctx, pc_repeat_key *key, pc_part *part, void *arg)
{
    pc_repeats *r = ctx->repeats;
    arena_place(key, ctx->act);
    arena_place(key, ctx->scratch);
    r->calls++;
    for (int i = 0; i < r->kept_count; i++) {
        entry *e = &r->kept[i];
        if (!same_words(e, key) || !same_contents(e, key)) continue;
        if (e->declined) {
            part(ctx, arg);
            return;
        }
        silently(ctx, part, arg);
        r->memory->replay(e->recording);
        r->replayed++;
        return;
    }
    entry *e = &r->kept[r->kept_count];
    if (!seen_before(r, key) || r->kept_count == RECORDED || !fill(e, key)) {
        part(ctx, arg);
        return;
    }
    r->kept_count++;
    if (r->memory->record()) { // noted down; then done
        const pc_arena act = *ctx->act, scratch = *ctx->scratch;
        part(ctx, arg);
        e->recording = r->memory->recorded();
        if (e->recording) {
            r->memory->replay(e->recording);
            return;
        }
        *ctx->act = act; // told again, from where the arenas stood
        *ctx->scratch = scratch;
    }
    e->declined = true;
    part(ctx, arg);
}

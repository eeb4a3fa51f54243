/*
 * preview.c - see preview.h.
 */
#include "train/preview.h"

#include "model/core/log.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN = 3, LONGEST = 1200 };

typedef struct text {
    char *s;
    size_t n, capacity;
} text;

static pc_status append(text *t, const char *s)
{
    const size_t n = strlen(s);
    if (t->n + n + 1 > t->capacity) {
        const size_t capacity = 2 * (t->n + n + 1);
        char *grown = realloc(t->s, capacity);
        if (!grown) return pc_fail(PC_ERR_MEMORY, "preview");
        t->s = grown;
        t->capacity = capacity;
    }
    memcpy(t->s + t->n, s, n + 1);
    t->n += n;
    return PC_OK;
}

// Ids gathered so far, as text: bytes of one character may be spread over several tokens.
static pc_status flush(text *t, pc_ids *ids, const pc_tokenizer *tok, bool supervised)
{
    char *s = NULL;
    if (ids->count == 0) return PC_OK;
    pc_status st = pc_tokenizer_decode(tok, &s, ids->list, ids->count, false);
    if (!st && supervised) st = append(t, "[[");
    if (!st) st = append(t, s);
    if (!st && supervised) st = append(t, "]]");
    ids->count = 0;
    free(s);
    return st;
}

pc_status preview_sequence(char **out, const pc_micro_batch *b, int64_t sequence,
                           const pc_tokenizer *tok)
{
    const int32_t *off = b->vlm.mask.q_off.data, *ids = b->vlm.ids.data;
    const int32_t *labels = b->vlm.labels.data;
    const int32_t begin = off[sequence], end = off[sequence + 1];
    text t = {0};
    pc_ids held = {0};
    bool marked = false;
    pc_status st = append(&t, "");
    for (int32_t n = begin; n < end && !st; n++) {
        // Row n was itself to be learned when the row before it says so.
        const bool learned = n > begin && labels[n - 1] >= 0 && labels[n - 1] == ids[n];
        if (learned != marked || ids[n] < 0) st = flush(&t, &held, tok, marked);
        marked = learned;
        if (!st && ids[n] >= 0) st = pc_ids_add(&held, ids[n]);
        if (!st && ids[n] < 0 && (n == begin || ids[n - 1] >= 0)) st = append(&t, "<image>");
        // A token that is predicted but never read: the last of an answer.
        const bool read = n + 1 < end && ids[n + 1] == labels[n];
        if (!st && labels[n] >= 0 && !read) {
            if (!marked) st = flush(&t, &held, tok, false);
            if (!st) st = pc_ids_add(&held, labels[n]);
            if (!st) st = flush(&t, &held, tok, true);
            marked = false;
        }
    }
    if (!st) st = flush(&t, &held, tok, marked);
    pc_ids_close(&held);
    if (st) {
        free(t.s);
        return st;
    }
    *out = t.s;
    return PC_OK;
}

// Text tower: the ids of one caption.
static pc_status caption(char **out, const pc_micro_batch *b, int64_t i, const pc_tokenizer *tok)
{
    const int32_t *off = b->text.mask.q_off.data;
    return pc_tokenizer_decode(tok, out, (const int32_t *)b->text.ids.data + off[i],
                               off[i + 1] - off[i], false);
}

pc_status preview_batch(const run *u, const pc_batch *b)
{
    const bool clip = u->model->config.kind == PC_MODEL_CLIP;
    if (clip)
        pc_log("first batch: %lld pairs; a loss of %.3f is chance", (long long)b->samples,
               u->chance);
    else
        pc_log("first batch: %lld samples, %lld tokens, %lld of them supervised ([[ ]]); a loss of "
               "%.3f (ln %lld) is chance",
               (long long)b->samples, (long long)b->tokens, (long long)b->supervised, u->chance,
               (long long)u->model->config.vlm.decoder.V);
    const pc_micro_batch *m = &b->micro[0];
    for (int64_t i = 0; i < m->samples && i < SHOWN; i++) {
        char *s = NULL;
        pc_status st =
            clip ? caption(&s, m, i, u->tokenizer) : preview_sequence(&s, m, i, u->tokenizer);
        if (st || !s) return pc_context(st, "first batch");
        const pc_sample *row = &u->train.samples[m->sample[i]];
        pc_log("  %s: %.*s%s", row->image ? row->image : "no image", LONGEST, s,
               strlen(s) > LONGEST ? " ..." : "");
        free(s);
    }
    return PC_OK;
}

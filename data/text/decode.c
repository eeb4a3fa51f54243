/*
 * decode.c - ids to text, all at once or as they come: the same steps, so the same text.
 *
 *   bytes   WHOLE: pieces one after the other; a broken character is one U+FFFD (maximal subparts)
 *           RUNS:  byte pieces that stand together are text if all of them are, else one U+FFFD each
 *           EACH:  of byte pieces that stand together every byte that is no text is one U+FFFD
 *   ends    what a text loses at its beginning: a mark, one space, or all white space
 */
#include "data/text/bpe.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD"

/* ---- pieces, when the file is read ---- */

/* "<0x0A>": the byte, or -1. */
static int byte_of(const char *text, size_t size)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    if (size != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    if (!text[3] || !text[4]) return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    if (!high || !low) return -1;
    const int h = (int)(high - digits), l = (int)(low - digits);
    return (h < 16 ? h : h - 6) * 16 + (l < 16 ? l : l - 6);
}

static pc_status replaced(pc_buffer *out, const pc_decode_step *s, const char *text, size_t size)
{
    void *room;
    pc_search search;
    bool found;
    size_t done = 0;
    pc_status st = pc_search_room(&room, &s->pattern);
    if (st) return st;
    pc_search_start(&search, &s->pattern, room, text, size);
    while (!(st = pc_search_next(&search, &found)) && found) {
        if ((st = pc_buffer_add(out, text + done, search.begin - done)) ||
            (st = pc_buffer_add(out, s->text, strlen(s->text))))
            break;
        if (out->used >
            256 + 64 * size) // no tokenizer needs that, and a file could ask for any amount
            st = pc_fail(PC_ERR_FORMAT, "a token of %zu bytes decodes to more than %zu", size,
                         out->used);
        if (st) break;
        done = search.end;
    }
    pc_search_free(room);
    return st ? st : pc_buffer_add(out, text + done, size - done);
}

static void strip_ends(const pc_decode_step *s, const char **text, size_t *size)
{
    const size_t n = strlen(s->text);
    for (int32_t i = 0; i < s->start && *size >= n && !memcmp(*text, s->text, n); i++) {
        *text += n;
        *size -= n;
    }
    for (int32_t i = 0; i < s->stop && *size >= n && !memcmp(*text + *size - n, s->text, n); i++)
        *size -= n;
}

static pc_status run_step(pc_piece *p, const pc_decode_step *s, pc_buffer *out, const char *text,
                          size_t size)
{
    pc_status st = pc_buffer_add(out, "", 0);
    if (st) return st;
    switch (s->kind) {
    case PC_DECODE_REPLACE: return replaced(out, s, text, size);
    case PC_DECODE_MARK:
        p->marked = memmem(text, size, s->pattern.text, s->pattern.size) != NULL;
        return replaced(out, s, text, size);
    case PC_DECODE_SUFFIX: {
        const size_t n = s->pattern.size;
        p->space_after = size >= n && !memcmp(text + size - n, s->pattern.text, n);
        return pc_buffer_add(out, text, p->space_after ? size - n : size);
    }
    case PC_DECODE_STRIP: strip_ends(s, &text, &size); return pc_buffer_add(out, text, size);
    case PC_DECODE_FALLBACK: {
        const int byte = byte_of(text, size);
        if (byte < 0) return pc_buffer_add(out, text, size);
        const char one = (char)byte;
        p->kind = PC_PIECE_BYTE;
        return pc_buffer_add(out, &one, 1);
    }
    case PC_DECODE_BYTES: {
        unsigned char *bytes = malloc(size + 1);
        size_t n;
        if (!bytes) return pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", size);
        if (pc_bytes_of_name(bytes, &n, text, size))
            st = pc_buffer_add(out, bytes, n);
        else // other characters stand for themselves
            st = pc_buffer_add(out, text, size);
        free(bytes);
        return st;
    }
    }
    return st;
}

static pc_status decode_piece(pc_tokenizer *t, int32_t id, const char *text, size_t size,
                              const pc_decode_step *steps, int count, pc_buffer work[2])
{
    pc_piece *p = &t->pieces[id];
    p->kind = PC_PIECE_TEXT;
    for (int i = 0; i < count && p->kind == PC_PIECE_TEXT; i++) {
        pc_buffer *out = &work[i & 1];
        out->used = 0;
        pc_status st = run_step(p, &steps[i], out, text, size);
        if (st) return st;
        text = out->data;
        size = out->used;
    }
    if (size > INT32_MAX) return pc_fail(PC_ERR_FORMAT, "token %d has %zu bytes", id, size);
    p->size = (int32_t)size;
    if (size > t->longest) t->longest = size;
    return pc_pool_add(t, &p->at, text, size);
}

pc_status pc_decode_pieces(pc_tokenizer *t, const pc_decode_step *steps, int count)
{
    pc_buffer work[2] = {{0}, {0}};
    pc_status st = PC_OK;
    for (int32_t id = 0; id < t->vocab && !st; id++) {
        const char *name;
        size_t size;
        if (pc_name_of(t, id, &name, &size))
            st = decode_piece(t, id, name, size, steps, count, work);
    }
    // Added tokens that are found in normalised text are themselves normalised, and so is what they give.
    for (int i = 0; i < t->added_count && !st && t->normal.count; i++) {
        const pc_added *a = &t->added[i];
        const char *text;
        char *owned = NULL;
        size_t size;
        if (!a->normalized) continue;
        st = pc_normal_run(&t->normal, &text, &size, &owned, a->content, a->size);
        if (!st) st = decode_piece(t, a->id, text, size, steps, count, work);
        free(owned);
    }
    free(work[0].data);
    free(work[1].data);
    return st;
}

/* ---- one text ---- */

/* Where text goes: a buffer that grows, or one of a given size that may prove too small. */
typedef struct decoding {
    const pc_tokenizer *t;
    pc_stream_decoder *s; // the state
    pc_buffer *held;      // NULL: s->held, with its limit
    pc_buffer *grows;     // NULL: `buf`
    char *buf;
    size_t used, size;
    bool overflow;
    pc_status st;
} decoding;

static void put(decoding *d, const void *text, size_t n)
{
    if (n == 0 || d->st) return;
    d->s->text_begun = true;
    if (d->grows) {
        d->st = pc_buffer_add(d->grows, text, n);
        return;
    }
    d->overflow = d->overflow || d->used + n + 1 > d->size;
    if (d->overflow) return;
    memcpy(d->buf + d->used, text, n);
    d->used += n;
}

static bool is_trimmed(uint32_t c)
{
    return pc_utf8_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

/* Whole characters on their way out: what the beginning of a text loses is taken off here. */
static void put_characters(decoding *d, const char *text, size_t n)
{
    const pc_decoder *c = &d->t->decoder;
    pc_stream_decoder *s = d->s;
    const size_t k = strlen(c->strip);
    while (!s->strip_over && n > 0) {
        s->strip_over = s->stripped >= c->strip_count || n < k || memcmp(text, c->strip, k) != 0;
        if (s->strip_over) break;
        s->stripped++;
        text += k;
        n -= k;
    }
    while (c->trims && !s->text_begun && n > 0) {
        const int step = pc_utf8_step((const unsigned char *)text, n);
        if (!is_trimmed(pc_utf8_code((const unsigned char *)text, step))) break;
        text += step;
        n -= (size_t)step;
    }
    put(d, text, n);
}

/* Bytes of which some may be broken; what is incomplete at the end is left. Returns how many were used. */
static size_t put_bytes(decoding *d, const unsigned char *bytes, size_t n, bool each)
{
    size_t done = 0, i = 0;
    while (i < n) {
        const int step = pc_utf8_step(bytes + i, n - i);
        if (step > 0) {
            i += (size_t)step;
            continue;
        }
        put_characters(d, (const char *)bytes + done, i - done);
        done = i;
        if (step == 0) return done;
        put_characters(d, REPLACEMENT, 3);
        done = i += each ? 1 : (size_t)-step;
    }
    put_characters(d, (const char *)bytes + done, i - done);
    return n;
}

static unsigned char *held_bytes(decoding *d, size_t *n)
{
    *n = d->held ? d->held->used : (size_t)d->s->held_count;
    return d->held ? (unsigned char *)d->held->data : d->s->held;
}

static void drop_held(decoding *d, size_t n)
{
    if (d->held) {
        if (n) memmove(d->held->data, d->held->data + n, d->held->used - n);
        d->held->used -= n;
    } else {
        memmove(d->s->held, d->s->held + n, (size_t)d->s->held_count - n);
        d->s->held_count -= (int)n;
    }
}

/* The run of byte pieces is over: other text follows, or nothing. */
static void end_run(decoding *d)
{
    size_t n;
    const unsigned char *held = held_bytes(d, &n);
    if (n == 0) return;
    if (d->t->decoder.bytes == PC_DECODE_RUNS && !pc_utf8_valid((const char *)held, n)) {
        for (size_t i = 0; i < n; i++) put_characters(d, REPLACEMENT, 3);
    } else {
        const size_t done = put_bytes(d, held, n, d->t->decoder.bytes != PC_DECODE_WHOLE);
        const size_t left = d->t->decoder.bytes == PC_DECODE_WHOLE ? done < n : n - done;
        for (size_t i = 0; i < left; i++) put_characters(d, REPLACEMENT, 3);
    }
    drop_held(d, n);
}

static void hold(decoding *d, const char *bytes, size_t n)
{
    if (d->held) {
        if (!d->st) d->st = pc_buffer_add(d->held, bytes, n);
        return;
    }
    pc_stream_decoder *s = d->s;
    if ((size_t)s->held_count + n > sizeof s->held) { // an endless run: what is whole goes out
        const size_t done = put_bytes(d, s->held, (size_t)s->held_count, true);
        drop_held(d, done);
    }
    memcpy(s->held + s->held_count, bytes, n);
    s->held_count += (int)n;
}

/* Pieces of any bytes: joined to what is held, whole characters go out. */
static void put_whole(decoding *d, const char *bytes, size_t n)
{
    size_t held;
    const unsigned char *before = held_bytes(d, &held);
    if (held == 0) {
        const size_t done = put_bytes(d, (const unsigned char *)bytes, n, false);
        hold(d, bytes + done, n - done);
        return;
    }
    unsigned char small[512], *all = held + n <= sizeof small ? small : malloc(held + n);
    if (!all) {
        d->st = pc_fail(PC_ERR_MEMORY, "a token of %zu bytes", n);
        return;
    }
    memcpy(all, before, held);
    memcpy(all + held, bytes, n);
    drop_held(d, held);
    const size_t done = put_bytes(d, all, held + n, false);
    hold(d, (const char *)all + done, held + n - done);
    if (all != small) free(all);
}

static void put_text(decoding *d, const char *text, size_t n)
{
    if (d->t->decoder.bytes == PC_DECODE_WHOLE)
        put_whole(d, text, n);
    else
        put_characters(d, text, n);
}

/* The first token without any mark. */
static void put_unmarked(decoding *d, int32_t id)
{
    const char *name;
    size_t size;
    if (!pc_name_of(d->t, id, &name, &size)) return;
    while (size > 0) {
        const char *mark = memmem(name, size, PC_MARK, 3);
        const size_t n = mark ? (size_t)(mark - name) : size;
        put_text(d, name, n);
        name += mark ? n + 3 : n;
        size -= mark ? n + 3 : n;
    }
}

static void feed(decoding *d, int32_t id)
{
    const pc_tokenizer *t = d->t;
    const pc_decoder *c = &t->decoder;
    const pc_piece *p = &t->pieces[id];
    pc_stream_decoder *s = d->s;
    const char *text = t->pool + p->at;
    size_t n = (size_t)p->size;
    const bool first = !s->begun;
    s->begun = true;
    if (c->bytes != PC_DECODE_WHOLE && p->kind == PC_PIECE_BYTE) {
        hold(d, text, n);
        if (c->bytes != PC_DECODE_EACH) return;
        const unsigned char *held = held_bytes(d, &n);
        drop_held(d, put_bytes(d, held, n, true));
        return;
    }
    if (c->bytes != PC_DECODE_WHOLE) end_run(d);
    if (p->kind == PC_PIECE_SILENT) return;
    if ((c->spaced && !first) || s->space_waits) put_text(d, " ", 1);
    s->space_waits = p->space_after;
    if (c->drops_marks && first && p->marked) {
        put_unmarked(d, id);
        return;
    }
    if (c->drops_prefix || c->drops_all_leading) {
        s->mark_seen = s->mark_seen || s->text_begun; // sticks
        if (!s->mark_seen && p->marked) {
            text++;
            n--;
            s->mark_seen = !c->drops_all_leading;
        }
    }
    put_text(d, text, n);
}

/* SentencePiece's file may not know what the files beside it add: such tokens have no text. */
static bool beyond(const pc_tokenizer *t, int32_t id)
{
    return t->sp.on && id >= t->vocab;
}

static pc_status check_id(const pc_tokenizer *t, int32_t id)
{
    if (id < 0 || id >= t->vocab || t->pieces[id].size < 0)
        return pc_fail(PC_ERR_INPUT, "token id %d is not in the vocabulary (0 to %d)", id,
                       t->vocab - 1);
    return PC_OK;
}

static void trim_end(pc_buffer *b)
{
    while (b->used > 0) {
        size_t at = b->used - 1;
        while (at > 0 && ((unsigned char)b->data[at] & 0xC0) == 0x80) at--;
        const uint32_t code = pc_utf8_code((unsigned char *)b->data + at, (int)(b->used - at));
        if (!is_trimmed(code)) break;
        b->used = at;
        b->data[at] = '\0';
    }
}

pc_status pc_tokenizer_decode_sized(const pc_tokenizer *t, char **out, size_t *size,
                                    const int32_t *ids, int64_t n, bool skip_special)
{
    pc_buffer text = {0}, held = {0};
    pc_stream_decoder state = {.tokenizer = t};
    decoding d = {.t = t, .s = &state, .held = &held, .grows = &text};
    *out = NULL;
    *size = 0;
    d.st = pc_buffer_add(&text, "", 0);
    for (int64_t i = 0; i < n && !d.st; i++) {
        if (beyond(t, ids[i])) continue;
        if ((d.st = check_id(t, ids[i]))) break;
        if (!skip_special || !t->pieces[ids[i]].special) feed(&d, ids[i]);
    }
    if (!d.st) end_run(&d);
    free(held.data);
    if (d.st) {
        free(text.data);
        return d.st;
    }
    if (t->decoder.trims) trim_end(&text);
    *out = text.data;
    *size = text.used;
    return PC_OK;
}

pc_status pc_tokenizer_decode(const pc_tokenizer *t, char **out, const int32_t *ids, int64_t n,
                              bool skip_special)
{
    size_t size;
    return pc_tokenizer_decode_sized(t, out, &size, ids, n, skip_special);
}

/* ---- streaming ---- */

size_t pc_stream_room(const pc_tokenizer *t)
{
    return 3 * (t->longest + PC_STREAM_HELD) + 2;
}

pc_status pc_stream_decode(pc_stream_decoder *d, int32_t id, char *buf, size_t size)
{
    const pc_tokenizer *t = d->tokenizer;
    PC_ASSERT(size >= 1, "no room for the end of a text");
    buf[0] = '\0';
    if (beyond(t, id)) return PC_OK;
    pc_status st = check_id(t, id);
    if (st || t->pieces[id].special) return st;
    const pc_stream_decoder before = *d;
    decoding w = {.t = t, .s = d, .buf = buf, .size = size};
    feed(&w, id);
    if (!w.st && w.overflow)
        w.st = pc_fail(PC_ERR_INPUT, "token %d needs a buffer of %zu bytes, %zu were given", id,
                       pc_stream_room(t), size);
    if (w.st) *d = before;
    buf[w.st ? 0 : w.used] = '\0';
    return w.st;
}

void pc_stream_flush(pc_stream_decoder *d, char *buf, size_t size)
{
    PC_ASSERT(size >= 3 * sizeof d->held + 1 || size >= 3 * (size_t)d->held_count + 1,
              "a buffer of %zu bytes for %d bytes held", size, d->held_count);
    decoding w = {.t = d->tokenizer, .s = d, .buf = buf, .size = size};
    end_run(&w);
    buf[w.used] = '\0';
    *d = (pc_stream_decoder){.tokenizer = d->tokenizer};
}

/*
 * template_write.c - what built-in templates say, as ids: segment by segment, each with its mark.
 *
 * A segment that follows another one without a special token between them is tokenised together with it: when the
 * ids that are there already come out again, those behind them are the segment's (SentencePiece must not begin a
 * new text there). When they do not, a token would have crossed the border, and the segment is tokenised by itself:
 * generation begins at that border too and never sees such a token.
 */
#include "data/text/template_parts.h"

#include <stdlib.h>
#include <string.h>

static pc_status append(char **text, size_t *used, size_t *room, const char *more, size_t size)
{
    if (*room - *used < size + 1) {
        size_t wanted = *room ? 2 * *room : 512;
        while (wanted - *used < size + 1) wanted *= 2;
        char *grown = realloc(*text, wanted);
        if (!grown) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", wanted);
        *text = grown;
        *room = wanted;
    }
    memcpy(*text + *used, more, size);
    *used += size;
    (*text)[*used] = '\0';
    return PC_OK;
}

pc_status pc_write_text(renderer *r, const char *text, size_t size)
{
    return append(&r->text, &r->used, &r->room, text, size);
}

pc_status pc_write(renderer *r, const char *text)
{
    return pc_write_text(r, text, strlen(text));
}

// Marks the ids behind the last marked one.
pc_status pc_mark_ids(pc_rendered *out, int64_t *room, int64_t from, bool supervised)
{
    const int64_t n = out->ids.count;
    if (n > *room) {
        const int64_t wanted = out->ids.capacity;
        uint8_t *flags = realloc(out->supervised, (size_t)wanted);
        if (!flags) return pc_fail(PC_ERR_MEMORY, "%lld token marks", (long long)wanted);
        out->supervised = flags;
        *room = wanted;
    }
    if (n > from) memset(out->supervised + from, supervised, (size_t)(n - from));
    return PC_OK;
}

// The run with the segment: its ids behind those that are there; *crossed when they differ.
static pc_status encode_behind(renderer *r, bool *crossed)
{
    pc_ids *ids = &r->out->ids, whole = {0};
    const int64_t there = ids->count - r->run_ids;
    pc_status st = pc_tokenizer_encode(r->tok, &whole, r->run, r->run_used, false);
    *crossed =
        !st && (whole.count < there || (there && memcmp(whole.list, ids->list + r->run_ids,
                                                        (size_t)there * sizeof *whole.list) != 0));
    for (int64_t i = there; !st && !*crossed && i < whole.count; i++)
        st = pc_ids_add(ids, whole.list[i]);
    pc_ids_close(&whole);
    return st;
}

pc_status pc_write_end(renderer *r, bool supervised)
{
    const int64_t from = r->out->ids.count;
    bool crossed = false;
    if (r->used == 0) return PC_OK;
    pc_status st = append(&r->out->text, &r->said, &r->said_room, r->text, r->used);
    if (!st) st = append(&r->run, &r->run_used, &r->run_room, r->text, r->used);
    if (!st) st = encode_behind(r, &crossed);
    if (!st && crossed) {
        r->run_used = 0;
        r->run_ids = from;
        st = append(&r->run, &r->run_used, &r->run_room, r->text, r->used);
        if (!st) st = encode_behind(r, &crossed);
    }
    r->used = 0;
    if (supervised) r->learned_to = r->said;
    return st ? st : pc_mark_ids(r->out, &r->flags_room, from, supervised);
}

static pc_status add_id(renderer *r, int32_t id, const char *text, bool supervised)
{
    pc_status st = pc_write_end(r, false);
    const int64_t from = r->out->ids.count;
    if (!st) st = pc_ids_add(&r->out->ids, id);
    if (!st && text) st = append(&r->out->text, &r->said, &r->said_room, text, strlen(text));
    r->run_used = 0;
    r->run_ids = r->out->ids.count;
    if (supervised) r->learned_to = r->said;
    return st ? st : pc_mark_ids(r->out, &r->flags_room, from, supervised);
}

pc_status pc_write_id(renderer *r, int32_t id, bool supervised)
{
    char *text = NULL;
    pc_status st = pc_tokenizer_decode(r->tok, &text, &id, 1, false);
    if (!st) st = add_id(r, id, text, supervised);
    free(text);
    return st;
}

pc_status pc_write_token(renderer *r, const char *token, bool supervised)
{
    const int32_t id = pc_tokenizer_id(r->tok, token);
    if (id < 0)
        return pc_fail(PC_ERR_INPUT, "template '%s' needs the token %s; the tokenizer has none",
                       r->t->name, token);
    return add_id(r, id, token, supervised);
}

pc_status pc_write_frame(renderer *r, int32_t id)
{
    r->out->framed++;
    return add_id(r, id, NULL, false);
}

pc_status pc_write_stop(renderer *r)
{
    return pc_write_id(r, r->stop_id, true);
}

pc_status pc_write_image(renderer *r)
{
    if (r->image_id < 0)
        return pc_fail(PC_ERR_INPUT,
                       "a message holds " PC_IMAGE_MARK "; the model takes no images");
    r->out->images++;
    return add_id(r, r->image_id, PC_IMAGE_MARK, false);
}

// Words of a user: every image mark becomes an image place.
pc_status pc_write_with_images(renderer *r, const char *text, size_t size)
{
    const size_t mark = strlen(PC_IMAGE_MARK);
    pc_status st = PC_OK;
    while (size > 0 && !st) {
        const char *at = memmem(text, size, PC_IMAGE_MARK, mark);
        const size_t before = at ? (size_t)(at - text) : size;
        st = pc_write_text(r, text, before);
        if (at && !st) st = pc_write_image(r);
        const size_t step = at ? before + mark : size;
        text += step;
        size -= step;
    }
    return st;
}

pc_status pc_write_turn_end(renderer *r)
{
    pc_rendered *out = r->out;
    if (out->turns == r->turns_room) {
        const int64_t wanted = r->turns_room ? 2 * r->turns_room : 8;
        int64_t *ends = realloc(out->turn_end, (size_t)wanted * sizeof *ends);
        if (!ends) return pc_fail(PC_ERR_MEMORY, "%lld turns", (long long)wanted);
        out->turn_end = ends;
        r->turns_room = wanted;
    }
    out->turn_end[out->turns++] = out->ids.count;
    return PC_OK;
}

pc_status pc_write_answer(renderer *r, int64_t begin, int64_t end)
{
    pc_rendered *out = r->out;
    if (out->answers == r->answers_room) {
        const int64_t wanted = r->answers_room ? 2 * r->answers_room : 8;
        void *more = realloc(out->answer, (size_t)wanted * sizeof *out->answer);
        if (!more) return pc_fail(PC_ERR_MEMORY, "%lld answers", (long long)wanted);
        out->answer = more;
        r->answers_room = wanted;
    }
    out->answer[out->answers][0] = begin;
    out->answer[out->answers++][1] = end;
    return PC_OK;
}

void pc_writer_close(renderer *r)
{
    free(r->text);
    free(r->run);
    r->text = r->run = NULL;
}

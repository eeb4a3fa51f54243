/*
 * template.c - the built-in templates (spec: llava.md 4, 5; tokenizers.md 8). [[ ]] marks what is learned.
 *
 *   vicuna_v1  <s>SYSTEM USER: <image>\nQ ASSISTANT:[[ A</s>]]USER: Q ASSISTANT:[[ A</s>]]
 *   plain      <s><image>[[A\n]]                      the user's words are dropped, the image stays
 *   chatml     <|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\n<image>\nQ<|im_end|>\n
 *              <|im_start|>assistant\n[[A<|im_end|>]]\n
 *   short      <image> Q\n[[ A</s>]] Q\n[[ A</s>]]    one or two tokens around a turn, for small models
 *
 * Text is tokenised segment by segment. Segments end at special tokens, at image places and where the learned
 * part begins, before the space of an answer: a byte-level tokenizer cuts there by itself, so the ids are those
 * of the whole text. What is written by users never becomes a special token. The newline of `plain` is a segment of
 * its own: one token always, so that generation knows where to stop. In `short` a text that begins with a letter
 * has a space before it, so that a word at the beginning and within a text is one and the same token; and the
 * newline belongs to the question's segment, so that a tokenizer may have one token for "?\n".
 */
#include "data/text/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_MARK "<image>"

typedef struct renderer renderer;

struct pc_template {
    const char *name;
    const char *specials[6];
    int special_count;
    const char *system; // said when the conversation has no system message; NULL: nothing
    bool bos;           // begins with the tokenizer's BOS where it has one
    const char *stop;   // the token that ends an answer; NULL: the tokenizer's EOS
    pc_status (*begin)(renderer *r, const char *system);
    pc_status (*user)(renderer *r, const char *text, bool first);
    pc_status (*invite)(renderer *r);
    pc_status (*answer)(renderer *r, const char *text);
    const char *unanswered; // behind a last user turn that is neither answered nor invites
};

struct renderer {
    const pc_template *t;
    const pc_tokenizer *tok;
    pc_rendered *out;
    int32_t image_id, stop_id;
    char *text; // of the segment under way
    size_t used, room;
    int64_t flags_room, turns_room;
};

/* ---- segments ---- */

static pc_status add_text(renderer *r, const char *text, size_t size)
{
    if (r->room - r->used < size + 1) {
        size_t wanted = r->room ? 2 * r->room : 512;
        while (wanted - r->used < size + 1) wanted *= 2;
        char *grown = realloc(r->text, wanted);
        if (!grown) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", wanted);
        r->text = grown;
        r->room = wanted;
    }
    memcpy(r->text + r->used, text, size);
    r->used += size;
    return PC_OK;
}

static pc_status say(renderer *r, const char *text)
{
    return add_text(r, text, strlen(text));
}

/* Marks the ids behind the last marked one. */
static pc_status mark(renderer *r, int64_t from, bool supervised)
{
    const int64_t n = r->out->ids.count;
    if (n > r->flags_room) {
        const int64_t wanted = r->out->ids.capacity;
        uint8_t *flags = realloc(r->out->supervised, (size_t)wanted);
        if (!flags) return pc_fail(PC_ERR_MEMORY, "%lld token marks", (long long)wanted);
        r->out->supervised = flags;
        r->flags_room = wanted;
    }
    if (n > from) memset(r->out->supervised + from, supervised, (size_t)(n - from));
    return PC_OK;
}

/* Ends the segment: its text becomes ids. */
static pc_status end_segment(renderer *r, bool supervised)
{
    const int64_t from = r->out->ids.count;
    if (r->used == 0) return PC_OK;
    pc_status st = pc_tokenizer_encode(r->tok, &r->out->ids, r->text, r->used, false);
    r->used = 0;
    return st ? st : mark(r, from, supervised);
}

static pc_status add_token(renderer *r, int32_t id, bool supervised)
{
    pc_status st = end_segment(r, false);
    const int64_t from = r->out->ids.count;
    if (!st) st = pc_ids_add(&r->out->ids, id);
    return st ? st : mark(r, from, supervised);
}

static pc_status add_named(renderer *r, const char *token, bool supervised)
{
    const int32_t id = pc_tokenizer_id(r->tok, token);
    if (id < 0)
        return pc_fail(PC_ERR_INPUT, "template '%s' needs the token %s; the tokenizer has none",
                       r->t->name, token);
    return add_token(r, id, supervised);
}

static pc_status add_image(renderer *r)
{
    if (r->image_id < 0)
        return pc_fail(PC_ERR_INPUT, "a message holds " IMAGE_MARK "; the model takes no images");
    r->out->images++;
    return add_token(r, r->image_id, false);
}

/* Words of a user: every image mark becomes an image place. */
static pc_status say_with_images(renderer *r, const char *text, size_t size)
{
    pc_status st = PC_OK;
    while (size > 0 && !st) {
        const char *at = memmem(text, size, IMAGE_MARK, strlen(IMAGE_MARK));
        const size_t before = at ? (size_t)(at - text) : size;
        st = add_text(r, text, before);
        if (at && !st) st = add_image(r);
        const size_t step = at ? before + strlen(IMAGE_MARK) : size;
        text += step;
        size -= step;
    }
    return st;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The text without white space at its ends. */
static const char *trimmed(const char *text, size_t *size)
{
    *size = strlen(text);
    while (*size > 0 && is_blank(*text)) {
        text++;
        --*size;
    }
    while (*size > 0 && is_blank(text[*size - 1])) --*size;
    return text;
}

/* The text behind image marks at its beginning, which become image places; first_turn moves behind them. */
static pc_status take_leading_images(renderer *r, const char **text)
{
    pc_status st = PC_OK;
    while (!st && strncmp(*text, IMAGE_MARK, strlen(IMAGE_MARK)) == 0) {
        *text += strlen(IMAGE_MARK);
        st = add_image(r);
        r->out->first_turn = r->out->ids.count;
    }
    return st;
}

/* ---- vicuna_v1 ---- */

static pc_status vicuna_begin(renderer *r, const char *system)
{
    pc_status st = say(r, system);
    return st ? st : end_segment(r, false);
}

static pc_status vicuna_user(renderer *r, const char *text, bool first)
{
    const bool behind_text = first && r->out->ids.count > (pc_tokenizer_bos(r->tok) >= 0);
    pc_status st = say(r, behind_text ? " USER: " : "USER: ");
    if (!st && first) st = take_leading_images(r, &text);
    return st ? st : say_with_images(r, text, strlen(text));
}

static pc_status vicuna_invite(renderer *r)
{
    const pc_rendered *out = r->out;
    const bool after_answer =
        r->used == 0 && out->turns > 0 && out->turn_end[out->turns - 1] == out->ids.count;
    pc_status st = say(r, after_answer ? "ASSISTANT:" : " ASSISTANT:");
    return st ? st : end_segment(r, false);
}

static pc_status vicuna_answer(renderer *r, const char *text)
{
    pc_status st;
    if ((st = say(r, " ")) || (st = say(r, text)) || (st = end_segment(r, true))) return st;
    return add_token(r, r->stop_id, true);
}

/* ---- plain ---- */

static pc_status plain_begin(renderer *r, const char *system)
{
    (void)r;
    (void)system;
    return PC_OK;
}

static pc_status plain_user(renderer *r, const char *text, bool first)
{
    pc_status st = PC_OK;
    for (const char *at = text; !st && (at = strstr(at, IMAGE_MARK)); at += strlen(IMAGE_MARK))
        st = add_image(r);
    if (first) r->out->first_turn = r->out->ids.count;
    return st;
}

static pc_status plain_invite(renderer *r)
{
    (void)r;
    return PC_OK;
}

static pc_status plain_answer(renderer *r, const char *text)
{
    pc_status st;
    if ((st = say(r, text)) || (st = end_segment(r, true)) || (st = say(r, "\n"))) return st;
    return end_segment(r, true);
}

/* ---- chatml ---- */

static pc_status chatml_open(renderer *r, const char *role)
{
    pc_status st;
    if ((st = add_named(r, "<|im_start|>", false)) || (st = say(r, role))) return st;
    return say(r, "\n");
}

static pc_status chatml_close(renderer *r, bool supervised)
{
    pc_status st;
    if ((st = add_named(r, "<|im_end|>", supervised)) || (st = say(r, "\n"))) return st;
    return end_segment(r, false);
}

static pc_status chatml_begin(renderer *r, const char *system)
{
    pc_status st;
    if ((st = chatml_open(r, "system")) || (st = say(r, system))) return st;
    return chatml_close(r, false);
}

static pc_status chatml_user(renderer *r, const char *text, bool first)
{
    pc_status st = chatml_open(r, "user");
    if (!st && first) st = take_leading_images(r, &text);
    if (!st) st = say_with_images(r, text, strlen(text));
    return st ? st : chatml_close(r, false);
}

static pc_status chatml_invite(renderer *r)
{
    pc_status st = chatml_open(r, "assistant");
    return st ? st : end_segment(r, false);
}

static pc_status chatml_answer(renderer *r, const char *text)
{
    pc_status st;
    if ((st = say(r, text)) || (st = end_segment(r, true))) return st;
    return chatml_close(r, true);
}

/* ---- short ---- */

static pc_status short_begin(renderer *r, const char *system)
{
    pc_status st;
    if (!*system) return PC_OK;
    if ((st = say(r, system)) || (st = say(r, "\n"))) return st;
    return end_segment(r, false);
}

/* The space before a word. A digit is a token by itself and would only pay for one. */
static pc_status say_space(renderer *r, const char *text, size_t size)
{
    const unsigned char c = size ? (unsigned char)*text : 0;
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
    return letter ? say(r, " ") : PC_OK;
}

static pc_status short_user(renderer *r, const char *text, bool first)
{
    size_t size;
    text = trimmed(text, &size);
    if (first) {
        const char *rest = text;
        pc_status st = take_leading_images(r, &rest);
        if (st) return st;
        size -= (size_t)(rest - text);
        text = rest;
    }
    while (size > 0 && is_blank(*text)) { // the newline that stands behind the mark
        text++;
        size--;
    }
    pc_status st = say_space(r, text, size);
    return st ? st : say_with_images(r, text, size);
}

static pc_status short_invite(renderer *r)
{
    pc_status st = say(r, "\n");
    return st ? st : end_segment(r, false);
}

static pc_status short_answer(renderer *r, const char *text)
{
    size_t size;
    text = trimmed(text, &size);
    pc_status st;
    if ((st = say_space(r, text, size)) || (st = add_text(r, text, size)) ||
        (st = end_segment(r, true)))
        return st;
    return add_token(r, r->stop_id, true);
}

/* ---- the table ---- */

static const pc_template templates[] = {
    {.name = "vicuna_v1",
     .specials = {IMAGE_MARK, "<s>", "</s>", "<pad>"},
     .special_count = 4,
     .system = "A chat between a curious user and an artificial intelligence assistant. The "
               "assistant gives helpful, detailed, and polite answers to the user's questions.",
     .bos = true,
     .begin = vicuna_begin,
     .user = vicuna_user,
     .invite = vicuna_invite,
     .answer = vicuna_answer,
     .unanswered = " "},
    {.name = "plain",
     .specials = {IMAGE_MARK, "<s>", "</s>", "<pad>"},
     .special_count = 4,
     .bos = true,
     .stop = "\n",
     .begin = plain_begin,
     .user = plain_user,
     .invite = plain_invite,
     .answer = plain_answer},
    {.name = "chatml",
     .specials = {IMAGE_MARK, "<|im_start|>", "<|im_end|>", "<|endoftext|>"},
     .special_count = 4,
     .system = "You are a helpful assistant.",
     .stop = "<|im_end|>",
     .begin = chatml_begin,
     .user = chatml_user,
     .invite = chatml_invite,
     .answer = chatml_answer},
    {.name = "short",
     .specials = {IMAGE_MARK, "</s>", "<pad>"},
     .special_count = 3,
     .begin = short_begin,
     .user = short_user,
     .invite = short_invite,
     .answer = short_answer},
};
enum { TEMPLATES = (int)(sizeof templates / sizeof *templates) };
static const char *const names[TEMPLATES] = {"vicuna_v1", "plain", "chatml", "short"};

const pc_template *pc_template_find(const char *name)
{
    for (int i = 0; i < TEMPLATES; i++)
        if (strcmp(templates[i].name, name) == 0) return &templates[i];
    return NULL;
}

const char *const *pc_template_names(int *count)
{
    *count = TEMPLATES;
    return names;
}

const char *pc_template_name(const pc_template *t)
{
    return t->name;
}

const char *const *pc_template_specials(const pc_template *t, int *count)
{
    *count = t->special_count;
    return t->specials;
}

int32_t pc_template_stop(const pc_template *t, const pc_tokenizer *tok)
{
    if (!t->stop) return pc_tokenizer_eos(tok);
    if (strcmp(t->stop, "\n") != 0) return pc_tokenizer_id(tok, t->stop);
    pc_ids ids = {0};
    const pc_status st = pc_tokenizer_encode(tok, &ids, "\n", 1, false);
    const int32_t id = st || ids.count != 1 ? -1 : ids.list[0];
    pc_ids_close(&ids);
    return id;
}

/* ---- a conversation ---- */

void pc_rendered_close(pc_rendered *r)
{
    pc_ids_close(&r->ids);
    free(r->supervised);
    free(r->turn_end);
    *r = (pc_rendered){0};
}

static pc_status end_turn(renderer *r)
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

static pc_status check_roles(const pc_message *messages, int n)
{
    static const char *const role[3] = {"system", "user", "assistant"};
    const int first = n > 0 && messages[0].role == PC_ROLE_SYSTEM;
    for (int i = first; i < n; i++) {
        const pc_role expected = (i - first) % 2 ? PC_ROLE_ASSISTANT : PC_ROLE_USER;
        if (messages[i].role != expected)
            return pc_fail(PC_ERR_INPUT, "message %d is the %s's, expected the %s's", i + 1,
                           role[messages[i].role], role[expected]);
    }
    return n > first ? PC_OK : pc_fail(PC_ERR_INPUT, "a conversation without a user's message");
}

static pc_status render(renderer *r, const pc_message *m, int n, bool generate)
{
    const pc_template *t = r->t;
    const bool has_system = m[0].role == PC_ROLE_SYSTEM;
    const char *system = has_system ? m[0].text : t->system ? t->system : "";
    pc_status st = PC_OK;
    if (t->bos && pc_tokenizer_bos(r->tok) >= 0) st = add_token(r, pc_tokenizer_bos(r->tok), false);
    if (st || (st = t->begin(r, system))) return st;
    r->out->first_turn = r->out->ids.count;
    for (int i = has_system; i < n && !st; i++) {
        if (m[i].role == PC_ROLE_USER) {
            st = t->user(r, m[i].text, i == has_system);
            continue;
        }
        if ((st = t->invite(r)) || (st = t->answer(r, m[i].text))) break;
        st = end_turn(r);
    }
    if (!st && generate) st = t->invite(r);
    if (!st && !generate && m[n - 1].role == PC_ROLE_USER && t->unanswered)
        st = say(r, t->unanswered);
    return st ? st : end_segment(r, false);
}

pc_status pc_template_render(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                             const pc_message *messages, int n, bool generate, int32_t image_id)
{
    renderer r = {.t = t, .tok = tok, .out = out, .image_id = image_id};
    *out = (pc_rendered){0};
    pc_status st = check_roles(messages, n);
    r.stop_id = st ? -1 : pc_template_stop(t, tok);
    if (!st && r.stop_id < 0)
        st = pc_fail(PC_ERR_INPUT,
                     "template '%s' needs a token that ends answers (%s); the tokenizer has none",
                     t->name, t->stop ? t->stop : "</s>");
    if (!st) st = render(&r, messages, n, generate);
    free(r.text);
    if (st) pc_rendered_close(out);
    return st;
}

char *pc_rendered_text(const pc_rendered *r, const pc_tokenizer *tok, int32_t image_id)
{
    char *out = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&out, &size);
    if (!f) return NULL;
    bool failed = false, inside = false;
    for (int64_t i = 0; i < r->ids.count && !failed;) {
        if ((r->supervised[i] != 0) != inside) fputs(inside ? "]]" : "[[", f);
        inside = r->supervised[i] != 0;
        int64_t end = i;
        while (end < r->ids.count && r->ids.list[end] != image_id &&
               r->supervised[end] == r->supervised[i])
            end++;
        char *text = NULL;
        if (end > i) failed = pc_tokenizer_decode(tok, &text, r->ids.list + i, end - i, false);
        if (text) fputs(text, f);
        free(text);
        if (end == i) {
            fputs(IMAGE_MARK, f);
            end++;
        }
        i = end;
    }
    if (inside) fputs("]]", f);
    failed = fclose(f) != 0 || failed;
    if (!failed) return out;
    free(out);
    return NULL;
}

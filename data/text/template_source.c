/*
 * template_source.c - templates read from a model's chat_template.
 *
 *   text      what the template prints for the whole conversation; its ids are those of the whole text, special tokens
 *             recognised wherever they stand, as the published processors do
 *   answers   of message i: what the text for messages 0..i has behind the text for messages 0..i-1 that invites
 *             the assistant to speak. Where a template does not nest so, or an assistant speaks first, what is
 *             learned is what the template marks with {% generation %}, else what it printed of the message itself
 *   stop      the special token that the template writes behind an answer, else the tokenizer's EOS; it is learned with
 *             the answer before it, and added where the template leaves it out behind the last one
 *
 * A border between bytes is a border between ids where the text up to it gives the same ids; a token across a border
 * belongs to the answer.
 */
#include "data/text/template_parts.h"
#include "model/core/file.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- open ---- */

pc_status pc_template_open(pc_template **out, const char *name, const char *source, size_t size,
                           const json_t *tokens)
{
    *out = NULL;
    pc_template *t = calloc(1, sizeof *t);
    if (!t) return pc_fail(PC_ERR_MEMORY, "a template");
    pc_status st = pc_jinja_open(&t->jinja, source, size);
    if (st == PC_ERR_FORMAT)
        st = pc_context(st,
                        "chat template '%s' is outside of what is read (a built-in one can be "
                        "chosen with `template:`)",
                        name);
    t->own_name = strdup(name);
    t->source = strndup(source, size);
    t->tokens = tokens ? json_deep_copy(tokens) : NULL;
    if (!st && (!t->own_name || !t->source || (tokens && !t->tokens)))
        st = pc_fail(PC_ERR_MEMORY, "a template");
    if (st) {
        pc_template_close(t);
        return st;
    }
    t->name = t->own_name;
    const bool typed = pc_jinja_has_string(t->jinja, "type");
    t->lists = pc_jinja_has_string(t->jinja, "image") ||
               pc_jinja_has_string(t->jinja, "image_url") ||
               (typed && pc_jinja_has_string(t->jinja, "text"));
    *out = t;
    return PC_OK;
}

void pc_template_close(const pc_template *t)
{
    if (!t || (!t->jinja && !t->own_name && !t->source)) return;
    pc_template *own = (pc_template *)(uintptr_t)t;
    pc_jinja_close(own->jinja);
    free(own->own_name);
    free(own->source);
    json_decref(own->tokens);
    free(own);
}

const char *pc_template_text(const pc_template *t)
{
    return t->source ? t->source : t->name;
}

bool pc_template_is_source(const char *text)
{
    return strstr(text, "{%") || strstr(text, "{{");
}

/* ---- a published directory ---- */

static pc_status read_text(char **out, size_t *size, const char *dir, const char *name)
{
    char path[PATH_MAX];
    *out = NULL;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return pc_fail(PC_ERR_INPUT, "path is too long: '%.200s'", dir);
    return pc_file_exists(path) ? pc_file_read(out, size, path, (size_t)256 << 20) : PC_OK;
}

static pc_status read_json(json_t **out, const char *dir, const char *name)
{
    char *text;
    size_t size = 0;
    json_error_t e;
    *out = NULL;
    pc_status st = read_text(&text, &size, dir, name);
    if (st || !text) return st;
    *out = json_loadb(text, size, 0, &e);
    free(text);
    return *out ? PC_OK
                : pc_fail(PC_ERR_FORMAT, "'%s/%s' line %d, column %d: %s", dir, name, e.line,
                          e.column, e.text);
}

// A text, or [{"name": "default", "template": ..}, ..]; NULL: none.
static const char *named_template(const json_t *v)
{
    size_t i;
    const json_t *one;
    const char *only = NULL;
    if (json_is_string(v)) return json_string_value(v);
    json_array_foreach(v, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        only = json_string_value(json_object_get(one, "template"));
        if (name && only && !strcmp(name, "default")) return only;
    }
    return json_array_size(v) == 1 ? only : NULL;
}

// The *_token entries of a tokenizer_config.json; a new reference, NULL: no memory.
static json_t *token_names(const json_t *config)
{
    json_t *out = json_object(), *v;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)config, key, v)
    {
        const size_t n = strlen(key);
        if (n > 6 && !strcmp(key + n - 6, "_token") &&
            (json_is_string(v) || json_is_string(json_object_get(v, "content"))))
            json_object_set(out, key, v);
    }
    return out;
}

pc_status pc_template_open_dir(pc_template **out, const char *dir)
{
    static const char *const files[] = {"chat_template.json", "processor_config.json"};
    json_t *config = NULL, *json = NULL, *tokens = NULL;
    char *text = NULL;
    size_t size = 0;
    const char *source = NULL;
    *out = NULL;
    pc_status st = read_json(&config, dir, "tokenizer_config.json");
    if (!st) st = read_text(&text, &size, dir, "chat_template.jinja");
    if (!st) source = text;
    for (size_t i = 0; !st && !source && i < 2; i++) {
        json_decref(json);
        json = NULL;
        if (!(st = read_json(&json, dir, files[i])) && json)
            source = named_template(json_object_get(json, "chat_template"));
    }
    if (!st && !source) source = named_template(json_object_get(config, "chat_template"));
    if (!st && source) {
        tokens = config ? token_names(config) : NULL;
        st = pc_template_open(out, dir, source, source == text ? size : strlen(source), tokens);
    }
    json_decref(tokens);
    json_decref(config);
    json_decref(json);
    free(text);
    return st;
}

/* ---- text ---- */

static void set_token(json_t *variables, const char *key, const pc_tokenizer *tok, int32_t id)
{
    char *text = NULL;
    if (id < 0) return;
    if (!pc_tokenizer_decode(tok, &text, &id, 1, false))
        json_object_set_new(variables, key, json_string(text));
    free(text);
}

// Everything a template may ask for but the messages; NULL: no memory.
static json_t *variables_of(const pc_template *t, const pc_tokenizer *tok)
{
    json_t *v = json_pack("{s:n, s:n}", "tools", "documents"), *token;
    const char *key;
    if (!v) return NULL;
    if (!t->tokens) {
        set_token(v, "bos_token", tok, pc_tokenizer_bos(tok));
        set_token(v, "eos_token", tok, pc_tokenizer_eos(tok));
        set_token(v, "pad_token", tok, pc_tokenizer_pad(tok));
        return v;
    }
    json_object_foreach(t->tokens, key, token)
    {
        json_t *text = json_is_object(token) ? json_object_get(token, "content") : token;
        if (json_is_string(text)) json_object_set(v, key, text);
    }
    return v;
}

// One rendering: the first n messages.
static pc_status print(const pc_template *t, pc_jinja_output *out, json_t *variables,
                       const json_t *messages, size_t n, bool generate)
{
    json_t *some = json_array();
    for (size_t i = 0; i < n; i++) json_array_append(some, json_array_get(messages, i));
    json_object_set_new(variables, "messages", some);
    json_object_set_new(variables, "add_generation_prompt", json_boolean(generate));
    return pc_jinja_render(t->jinja, out, variables);
}

static bool is_assistant(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role && !strcmp(role, "assistant");
}

/* ---- answers ---- */

typedef struct source_run {
    const pc_template *t;
    const pc_tokenizer *tok;
    pc_rendered *out;
    json_t *variables;
    const json_t *messages;
    pc_jinja_output text;
    int32_t stop, image_id;
    int64_t marks_room;
} source_run;

// A model without a token for images has an id behind the last one for them: the text is cut at the marks.
static pc_status encode(pc_ids *out, const source_run *s, const char *text, size_t size)
{
    const size_t mark = strlen(PC_IMAGE_MARK);
    const bool cut = s->image_id >= pc_tokenizer_vocab(s->tok);
    pc_status st = PC_OK;
    for (const char *at; cut && !st && (at = memmem(text, size, PC_IMAGE_MARK, mark));) {
        st = pc_tokenizer_encode(s->tok, out, text, (size_t)(at - text), true);
        if (!st) st = pc_ids_add(out, s->image_id);
        size -= (size_t)(at - text) + mark;
        text = at + mark;
    }
    return st ? st : pc_tokenizer_encode(s->tok, out, text, size, true);
}

// How many bytes of the text a shorter conversation prints: -1 when it is no beginning of the text.
static int64_t beginning(source_run *s, size_t n, bool generate)
{
    pc_jinja_output o;
    if (print(s->t, &o, s->variables, s->messages, n, generate)) return -1;
    const bool is = o.size <= s->text.size && !memcmp(o.text, s->text.text, o.size);
    const int64_t size = is ? (int64_t)o.size : -1;
    pc_jinja_output_close(&o);
    return size;
}

static pc_status find_answers(source_run *s)
{
    const size_t n = json_array_size(s->messages);
    pc_rendered *out = s->out;
    out->answer = calloc(n + 1, sizeof *out->answer);
    out->turn_end = calloc(n + 1, sizeof *out->turn_end);
    if (!out->answer || !out->turn_end) return pc_fail(PC_ERR_MEMORY, "%zu messages", n);
    for (size_t i = 0; i < n; i++) {
        if (!is_assistant(json_array_get(s->messages, i))) continue;
        int64_t begin = i ? beginning(s, i, true) : 0,
                end = begin < 0 ? -1 : beginning(s, i + 1, false);
        if (end < begin) begin = end = -1;
        out->answer[out->answers][0] = begin;
        out->answer[out->answers++][1] = end;
    }
    return PC_OK;
}

/* ---- bytes to ids ---- */

/*
 * The id that begins at a byte, counted without the frame; when a token lies across it, that token (last false) or
 * the one behind it.
 */
static pc_status id_at(int64_t *id, source_run *s, int64_t byte, bool last)
{
    const pc_rendered *out = s->out;
    const int32_t *ids = out->ids.list + out->framed;
    const int64_t count = out->ids.count - out->framed;
    pc_ids before = {0};
    pc_status st = encode(&before, s, s->text.text, (size_t)byte);
    int64_t k = 0;
    while (!st && k < before.count && k < count && before.list[k] == ids[k]) k++;
    if (k < before.count && k < count && last) k++;
    *id = out->framed + k;
    pc_ids_close(&before);
    return st;
}

// Marks bytes as learned, with the stop behind them; *end is the id behind all of it.
static pc_status learn(source_run *s, int64_t from, int64_t to, int64_t *end)
{
    pc_rendered *out = s->out;
    int64_t a = 0, b = 0;
    pc_status st = id_at(&a, s, from, false);
    if (!st) st = id_at(&b, s, to, true);
    if (st) return st;
    if (b < out->ids.count && s->stop >= 0 && out->ids.list[b] == s->stop) b++;
    for (int64_t i = a; i < b; i++) out->supervised[i] = 1;
    *end = b;
    return PC_OK;
}

// The next run of bytes of an assistant's in [at, to); false: none.
static bool next_run(const source_run *s, int64_t at, int64_t to, int64_t run[2])
{
    const uint8_t *origin = s->text.origin;
    while (at < to && origin[at] != PC_FROM_ASSISTANT) at++;
    run[0] = at;
    while (at < to && origin[at] == PC_FROM_ASSISTANT) at++;
    run[1] = at;
    return run[0] < run[1];
}

// Answers that do not nest: blocks that the template marks, else every run of bytes that came out of an assistant's
// message. Each run ends a turn.
static pc_status learn_printed(source_run *s)
{
    pc_rendered *out = s->out;
    const int64_t size = (int64_t)s->text.size, blocks = s->text.generations;
    int64_t run[2] = {0, 0}, end = 0;
    pc_status st = PC_OK;
    for (int64_t i = 0; i < blocks && !st; i++)
        st = learn(s, (int64_t)s->text.generation[i][0], (int64_t)s->text.generation[i][1], &end);
    while (!st && !blocks && next_run(s, run[1], size, run)) st = learn(s, run[0], run[1], &end);
    if (!st) out->turn_end[out->turns++] = end;
    return st;
}

static pc_status learn_answers(source_run *s)
{
    pc_rendered *out = s->out;
    pc_status st = PC_OK;
    for (int64_t i = 0; i < out->answers; i++)
        if (out->answer[i][0] < 0) return learn_printed(s);
    for (int64_t i = 0; i < out->answers && !st; i++) {
        int64_t from = out->answer[i][0], end = 0, run[2];
        const int64_t to = out->answer[i][1];
        // An assistant who speaks first: what the template says before it is not the answer.
        if (from == 0 && next_run(s, 0, to, run)) from = run[0];
        if (from < to) st = learn(s, from, to, &end);
        if (!st) out->turn_end[out->turns++] = end;
    }
    return st;
}

/* ---- around the text ---- */

// What the tokenizer puts in front of texts, unless the text begins with it itself.
static pc_status add_frame(source_run *s)
{
    enum { STAND_IN = INT32_MAX }; // for the text: no token has this id
    pc_ids *ids = &s->out->ids, framed = {0}, all = {0};
    pc_status st = pc_ids_add(&framed, STAND_IN);
    if (!st) st = pc_tokenizer_frame(s->tok, &framed);
    int64_t lead = 0;
    while (!st && framed.list[lead] != STAND_IN) lead++;
    const bool there = lead > 0 && ids->count >= lead &&
                       !memcmp(ids->list, framed.list, (size_t)lead * sizeof *ids->list);
    if (!st && lead > 0 && !there) {
        for (int64_t i = 0; i < lead && !st; i++) st = pc_ids_add(&all, framed.list[i]);
        for (int64_t i = 0; i < ids->count && !st; i++) st = pc_ids_add(&all, ids->list[i]);
        if (!st) {
            const pc_ids old = *ids;
            *ids = all;
            all = old;
            s->out->framed = lead;
        }
    }
    pc_ids_close(&framed);
    pc_ids_close(&all);
    return st;
}

static bool is_blank(const pc_tokenizer *tok, int32_t id)
{
    char *text = NULL;
    bool blank = !pc_tokenizer_decode(tok, &text, &id, 1, false);
    for (const char *c = text; blank && c && *c; c++)
        blank = *c == ' ' || (*c >= '\t' && *c <= '\r');
    free(text);
    return blank;
}

// A last answer ends with the stop, whether or not the template writes it.
static pc_status add_tail(source_run *s, bool generate)
{
    pc_rendered *out = s->out;
    const size_t n = json_array_size(s->messages);
    int64_t last = out->ids.count - 1;
    if (generate || n == 0 || !is_assistant(json_array_get(s->messages, n - 1)) || s->stop < 0)
        return PC_OK;
    while (last >= out->framed && out->ids.list[last] != s->stop &&
           out->ids.list[last] != s->image_id && is_blank(s->tok, out->ids.list[last]))
        last--;
    if (last >= out->framed && out->ids.list[last] == s->stop) return PC_OK;
    const int64_t from = out->ids.count;
    pc_status st = pc_ids_add(&out->ids, s->stop);
    if (!st) st = pc_mark_ids(out, &s->marks_room, from, true);
    out->tail = 1;
    if (out->turns) out->turn_end[out->turns - 1] = out->ids.count;
    return st;
}

static pc_status check_images(source_run *s, int64_t images)
{
    pc_rendered *out = s->out;
    bool answered = false;
    out->first_turn = out->framed;
    for (int64_t i = 0; i < out->ids.count; i++) {
        answered |= out->supervised[i] != 0;
        if (s->image_id < 0 || out->ids.list[i] != s->image_id) continue;
        out->images++;
        if (!answered) out->first_turn = i + 1;
    }
    if (images < 0 || images == out->images) return PC_OK;
    return pc_fail(PC_ERR_INPUT,
                   "template '%s' shows %lld image places for the %lld images of the messages",
                   s->t->name, (long long)out->images, (long long)images);
}

/* ---- a conversation ---- */

// The special token behind an answer that another question follows; -1: there is none.
static int32_t written_stop(const pc_template *t, const pc_tokenizer *tok, json_t *variables)
{
    static const pc_message m[] = {{PC_ROLE_USER, "a"},
                                   {PC_ROLE_ASSISTANT, "b"},
                                   {PC_ROLE_USER, "c"}};
    int64_t images;
    int32_t stop = -1;
    pc_jinja_output o = {0};
    pc_ids ids = {0};
    json_t *messages = pc_messages_json(m, 3, t->lists, PC_IMAGE_MARK, &images);
    if (messages && !print(t, &o, variables, messages, 3, false)) {
        size_t from = 0, to;
        while (from < o.size && o.origin[from] != PC_FROM_ASSISTANT) from++;
        while (from < o.size && o.origin[from] == PC_FROM_ASSISTANT) from++;
        for (to = from; to < o.size && o.origin[to] == PC_FROM_TEMPLATE;) to++;
        if (!pc_tokenizer_encode(tok, &ids, o.text + from, to - from, true))
            for (int64_t i = 0; i < ids.count && stop < 0; i++)
                if (pc_tokenizer_is_special(tok, ids.list[i])) stop = ids.list[i];
    }
    pc_ids_close(&ids);
    pc_jinja_output_close(&o);
    json_decref(messages);
    return stop;
}

int32_t pc_source_stop(const pc_template *t, const pc_tokenizer *tok)
{
    json_t *variables = variables_of(t, tok);
    const int32_t stop = variables ? written_stop(t, tok, variables) : -1;
    json_decref(variables);
    return stop >= 0 ? stop : pc_tokenizer_eos(tok);
}

static pc_status render(source_run *s, bool generate, int64_t images)
{
    pc_rendered *out = s->out;
    const size_t n = json_array_size(s->messages);
    pc_status st = print(s->t, &s->text, s->variables, s->messages, n, generate);
    if (st) return pc_context(st, "chat template '%s'", s->t->name);
    if (!(out->text = strdup(s->text.text)))
        return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", s->text.size);
    st = encode(&out->ids, s, s->text.text, s->text.size);
    if (!st) st = add_frame(s);
    if (!st) st = pc_mark_ids(out, &s->marks_room, 0, false);
    if (!st && out->ids.count == 0 && !(out->supervised = calloc(1, 1)))
        st = pc_fail(PC_ERR_MEMORY, "token marks");
    if (!st) st = find_answers(s);
    if (!st) st = learn_answers(s);
    if (!st) st = add_tail(s, generate);
    return st ? st : check_images(s, images);
}

pc_status pc_source_render(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                           const json_t *messages, bool generate, int32_t image_id, int64_t images)
{
    source_run s = {.t = t, .tok = tok, .out = out, .messages = messages, .image_id = image_id};
    *out = (pc_rendered){0};
    s.variables = variables_of(t, tok);
    if (!s.variables) return pc_fail(PC_ERR_MEMORY, "variables of a template");
    s.stop = written_stop(t, tok, s.variables);
    if (s.stop < 0) s.stop = pc_tokenizer_eos(tok);
    pc_status st = render(&s, generate, images);
    pc_jinja_output_close(&s.text);
    json_decref(s.variables);
    if (st) pc_rendered_close(out);
    return st;
}

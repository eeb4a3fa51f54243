/*
 * template.c - a conversation through a template: the built-in ones turn by turn, others by template_source.c.
 */
#include "data/text/template_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const pc_template *pc_template_find(const char *name)
{
    int n;
    const pc_template *list = pc_builtin_templates(&n);
    for (int i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0) return &list[i];
    return NULL;
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
    if (t->jinja) return pc_source_stop(t, tok);
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
    free(r->text);
    free(r->answer);
    *r = (pc_rendered){0};
}

static pc_status check_roles(const pc_message *messages, int n)
{
    static const char *const role[3] = {"system", "user", "assistant"};
    const int first = n > 0 && messages[0].role == PC_ROLE_SYSTEM;
    for (int i = first; i < n; i++) {
        const pc_role expected = (i - first) % 2 ? PC_ROLE_ASSISTANT : PC_ROLE_USER;
        if (messages[i].role != expected)
            return pc_fail(PC_ERR_INPUT,
                           "roles must alternate: message %d is the %s's, expected the %s's", i + 1,
                           role[messages[i].role], role[expected]);
    }
    return n > first ? PC_OK : pc_fail(PC_ERR_INPUT, "a conversation without a user's message");
}

static pc_status add_answer(renderer *r, const char *text)
{
    const pc_template *t = r->t;
    pc_status st = t->invite(r);
    const size_t begin = r->said + t->spaced;
    if (st || (st = t->answer(r, text)) || (st = pc_write_turn_end(r))) return st;
    return pc_write_answer(r, (int64_t)begin, (int64_t)r->learned_to);
}

static pc_status render(renderer *r, const pc_message *m, int n, bool generate)
{
    const pc_template *t = r->t;
    const bool has_system = m[0].role == PC_ROLE_SYSTEM;
    const char *system = has_system ? m[0].text : t->system ? t->system : "";
    pc_status st = PC_OK;
    if (t->bos && pc_tokenizer_bos(r->tok) >= 0) st = pc_write_frame(r, pc_tokenizer_bos(r->tok));
    if (st || (st = t->begin(r, system))) return st;
    r->out->first_turn = r->out->ids.count;
    for (int i = has_system; i < n && !st; i++)
        st = m[i].role == PC_ROLE_USER ? t->user(r, m[i].text, i == has_system)
                                       : add_answer(r, m[i].text);
    if (!st && generate) st = t->invite(r);
    if (!st && !generate && m[n - 1].role == PC_ROLE_USER && t->unanswered)
        st = pc_write(r, t->unanswered);
    return st ? st : pc_write_end(r, false);
}

static pc_status render_builtin(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                                const pc_message *messages, int n, bool generate, int32_t image_id)
{
    renderer r = {.t = t, .tok = tok, .out = out, .image_id = image_id, .system = ""};
    pc_status st = check_roles(messages, n);
    r.stop_id = st ? -1 : pc_template_stop(t, tok);
    if (!st && r.stop_id < 0)
        st = pc_fail(PC_ERR_INPUT,
                     "template '%s' needs a token that ends answers (%s); the tokenizer has none",
                     t->name, t->stop ? t->stop : "</s>");
    if (!st) st = render(&r, messages, n, generate);
    pc_writer_close(&r);
    if (!st && !out->text && !(out->text = strdup("")))
        st = pc_fail(PC_ERR_MEMORY, "a rendered text");
    if (st) pc_rendered_close(out);
    return st;
}

// What stands for an image in a text: the image token as the tokenizer writes it.
static pc_status image_text(char **out, const pc_tokenizer *tok, int32_t image_id)
{
    *out = NULL;
    if (image_id >= 0 && image_id < pc_tokenizer_vocab(tok))
        return pc_tokenizer_decode(tok, out, &image_id, 1, false);
    *out = strdup(PC_IMAGE_MARK);
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "an image mark");
}

pc_status pc_template_render(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                             const pc_message *messages, int n, bool generate, int32_t image_id)
{
    *out = (pc_rendered){0};
    if (!t->jinja) return render_builtin(t, out, tok, messages, n, generate, image_id);
    char *mark = NULL;
    int64_t images = 0;
    pc_status st = image_text(&mark, tok, image_id);
    if (st) return st;
    json_t *json = pc_messages_json(messages, n, t->lists, mark, &images);
    free(mark);
    if (!json) return pc_fail(PC_ERR_MEMORY, "%d messages", n);
    st = images && image_id < 0
             ? pc_fail(PC_ERR_INPUT, "a message holds " PC_IMAGE_MARK "; the model takes no images")
             : pc_source_render(t, out, tok, json, generate, image_id, images);
    json_decref(json);
    return st;
}

pc_status pc_template_render_json(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                                  const json_t *messages, bool generate, int32_t image_id)
{
    const size_t n = json_array_size(messages);
    pc_status st = PC_OK;
    *out = (pc_rendered){0};
    if (!json_is_array(messages) || n > 100000)
        return pc_fail(PC_ERR_INPUT, "expected an array of at most 100000 messages");
    if (t->jinja) {
        json_t *form = NULL;
        if ((st = pc_messages_in_form(&form, messages, t->lists))) return st;
        st = pc_source_render(t, out, tok, form, generate, image_id, -1);
        json_decref(form);
        return st;
    }
    pc_message *m = calloc(n + 1, sizeof *m);
    char **texts = calloc(n + 1, sizeof *texts);
    if (!m || !texts)
        st = pc_fail(PC_ERR_MEMORY, "%zu messages", n);
    else if (!(st = pc_messages_read(m, texts, messages, n)))
        st = pc_template_render(t, out, tok, m, (int)n, generate, image_id);
    for (size_t i = 0; texts && i < n; i++) free(texts[i]);
    free(texts);
    free(m);
    return st;
}

/* ---- for people ---- */

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
            fputs(PC_IMAGE_MARK, f);
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

/*
 * render.c - percept-data render: conversations through a chat template.
 *
 *   in    a line a conversation: [{"role": "user", "content": "<image>\nWhat?"}, ...] or {"messages": [...]};
 *         content may be a list of parts {"type": "text", "text"} and {"type": "image"}
 *   out   {"text", "ids", "supervised": [[begin, end], ...] of ids, "images"}; or, to be read by people, the text
 *         with what is learned in [[ ]]
 */
#include "data/commands/commands.h"
#include "data/datasets/rows.h"

#include <stdlib.h>
#include <string.h>

typedef struct setting {
    const pc_template *tmpl;
    pc_tokenizer *tok;
    int32_t image_id;
    bool generate, as_json;
} setting;

/* ---- messages ---- */

static pc_status read_role(pc_role *out, const json_t *message)
{
    static const char *const names[] = {"system", "user", "assistant"};
    const char *role = json_string_value(json_object_get(message, "role"));
    for (int i = 0; role && i < 3; i++)
        if (strcmp(role, names[i]) == 0) {
            *out = (pc_role)i;
            return PC_OK;
        }
    return pc_fail(PC_ERR_INPUT, "`role` is \"%s\"; expected system, user or assistant",
                   role ? role : "(missing)");
}

/* A content as one malloc'ed text: parts one after the other, an image as "<image>\n". */
static pc_status read_content(char **out, const json_t *content)
{
    size_t size = 0;
    const json_t *part;
    size_t i;
    *out = NULL;
    if (json_is_string(content)) {
        *out = strdup(json_string_value(content));
        return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "a message");
    }
    if (!json_is_array(content))
        return pc_fail(PC_ERR_INPUT, "`content` is %s; expected a text or a list of parts",
                       pc_json_kind(content));
    FILE *f = open_memstream(out, &size);
    if (!f) return pc_fail(PC_ERR_MEMORY, "a message");
    pc_status st = PC_OK;
    json_array_foreach(content, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type")),
                   *text = json_string_value(json_object_get(part, "text"));
        if (type && strcmp(type, "image") == 0)
            fputs("<image>\n", f);
        else if (type && strcmp(type, "text") == 0 && text)
            fputs(text, f);
        else
            st = pc_fail(PC_ERR_INPUT, "content[%zu] is of type \"%s\"; expected image or text", i,
                         type ? type : "(missing)");
        if (st) break;
    }
    if (fclose(f) != 0 && !st) st = pc_fail(PC_ERR_MEMORY, "a message");
    if (st) {
        free(*out);
        *out = NULL;
    }
    return st;
}

static pc_status read_messages(pc_message *m, char **texts, const json_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(list, i);
        pc_status st = read_role(&m[i].role, one);
        if (!st) st = read_content(&texts[i], json_object_get(one, "content"));
        if (st) return pc_context(st, "message %zu", i + 1);
        m[i].text = texts[i];
    }
    return PC_OK;
}

/* ---- output ---- */

/* The learned runs of ids; NULL: no memory. */
static json_t *spans_of(const pc_rendered *r)
{
    json_t *spans = json_array();
    for (int64_t i = 0; i < r->ids.count;) {
        int64_t end = i;
        while (end < r->ids.count && r->supervised[end]) end++;
        json_t *span = end > i ? json_pack("[I, I]", (json_int_t)i, (json_int_t)end) : NULL;
        if (end > i && json_array_append_new(spans, span)) {
            json_decref(spans);
            return NULL;
        }
        i = end > i ? end : i + 1;
    }
    return spans;
}

static json_t *ids_of(const pc_rendered *r)
{
    json_t *ids = json_array();
    for (int64_t i = 0; i < r->ids.count; i++) {
        if (!json_array_append_new(ids, json_integer(r->ids.list[i]))) continue;
        json_decref(ids);
        return NULL;
    }
    return ids;
}

/* The text alone: image places as <image>. */
static char *text_of(const pc_rendered *r, const setting *s)
{
    pc_rendered plain = *r;
    plain.supervised = calloc((size_t)r->ids.count + 1, 1);
    char *text = plain.supervised ? pc_rendered_text(&plain, s->tok, s->image_id) : NULL;
    free(plain.supervised);
    return text;
}

static pc_status print(const pc_rendered *r, const setting *s, int64_t number)
{
    char *text = s->as_json ? text_of(r, s) : pc_rendered_text(r, s->tok, s->image_id);
    pc_status st = text ? PC_OK : pc_fail(PC_ERR_MEMORY, "a rendered text");
    if (!st && s->as_json) {
        json_t *out = json_pack("{s:s, s:o, s:o, s:I}", "text", text, "ids", ids_of(r),
                                "supervised", spans_of(r), "images", (json_int_t)r->images);
        st = data_print_json(out);
        json_decref(out);
    } else if (!st) {
        int64_t learned = 0;
        for (int64_t i = 0; i < r->ids.count; i++) learned += r->supervised[i];
        printf("--- %lld: %lld tokens, %lld learned, %lld images\n%s\n", (long long)number,
               (long long)r->ids.count, (long long)learned, (long long)r->images, text);
    }
    free(text);
    return st;
}

static pc_status render_line(const setting *s, const data_lines *l)
{
    json_error_t error;
    json_t *json = json_loadb(l->text, l->size, JSON_REJECT_DUPLICATES, &error);
    const json_t *list = json_is_object(json) ? json_object_get(json, "messages") : json;
    const size_t n = json_array_size(list);
    pc_message *m = calloc(n + 1, sizeof *m);
    char **texts = calloc(n + 1, sizeof *texts);
    pc_rendered r = {0};
    pc_status st = PC_OK;
    if (!json)
        st = pc_fail(PC_ERR_INPUT, "column %d: %s", error.column, error.text);
    else if (!json_is_array(list))
        st = pc_fail(PC_ERR_INPUT, "expected an array of messages, or an object with `messages`");
    else if (!m || !texts || n > 100000)
        st = pc_fail(PC_ERR_MEMORY, "%zu messages", n);
    if (!st) st = read_messages(m, texts, list, n);
    if (!st) st = pc_template_render(s->tmpl, &r, s->tok, m, (int)n, s->generate, s->image_id);
    if (!st) st = print(&r, s, l->number);
    pc_rendered_close(&r);
    for (size_t i = 0; texts && i < n; i++) free(texts[i]);
    free(texts);
    free(m);
    json_decref(json);
    return st;
}

/* ---- the command ---- */

/* A template by name with a tokenizer of its own, or a model that has both. */
static pc_status open_setting(setting *s, const char *what, const char *tokenizer)
{
    pc_status st = PC_OK;
    s->tmpl = pc_template_find(what);
    if (s->tmpl && !tokenizer)
        return pc_fail(PC_ERR_USAGE, "template '%s' needs --tokenizer FILE", what);
    if (!s->tmpl) {
        pc_bundle b;
        if ((st = pc_bundle_open_light(&b, what))) return st;
        s->tmpl = b.template;
        s->tok = b.tokenizer;
        b.tokenizer = NULL; // ours from here
        s->image_id =
            b.model.config.kind == PC_MODEL_VLM ? (int32_t)b.model.config.vlm.image_id : -1;
        pc_bundle_close(&b);
        if (!s->tmpl) return pc_fail(PC_ERR_INPUT, "'%s' names no template that is known", what);
    }
    if (tokenizer) {
        pc_tokenizer_close(s->tok);
        if ((st = data_open_tokenizer(&s->tok, tokenizer))) return st;
        s->image_id = pc_tokenizer_id(s->tok, "<image>");
    }
    return s->tok ? PC_OK
                  : pc_fail(PC_ERR_INPUT, "'%s' holds no tokenizer; give --tokenizer", what);
}

pc_status data_render(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-data render runs/quickstart/tune/checkpoints/best.h5 --messages talks.jsonl",
        "percept-data render chatml --tokenizer tokenizer.json --messages talks.jsonl --generate",
        NULL,
    };
    const char *messages = NULL, *tokenizer = NULL;
    setting s = {.image_id = -1};
    const pc_cli_flag flags[] = {
        {"messages", PC_CLI_STRING, &messages, "FILE",
         "conversations, a line each; - for standard "
         "input",
         0, 0, NULL},
        {"tokenizer", PC_CLI_STRING, &tokenizer, "FILE", "a tokenizer.json, for a template by name",
         0, 0, NULL},
        {"generate", PC_CLI_BOOL, &s.generate, NULL, "end with what invites the assistant to speak",
         0, 0, NULL},
        {"json", PC_CLI_BOOL, &s.as_json, NULL, "text, ids and learned spans as JSON, a line each",
         0, 0, NULL},
    };
    const pc_cli cli = {
        .command = "percept-data render",
        .usage = "MODEL_OR_TEMPLATE",
        .about = "Writes conversations as a model is trained on them: the text, its token ids, and "
                 "which of them are learned. A conversation is a JSON array of {\"role\", "
                 "\"content\"} on a line. Templates: vicuna_v1, plain, chatml, short.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags,
        .min_args = 1,
        .max_args = 1,
        .examples = examples,
    };
    char **args, *line;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;
    if (!messages) return pc_fail(PC_ERR_USAGE, "percept-data render needs --messages FILE");

    data_lines lines = {0};
    st = open_setting(&s, args[0], tokenizer);
    if (!st) st = data_lines_open(&lines, messages);
    while (!st && !(st = data_lines_next(&lines, &line)) && line) {
        if (line[strspn(line, " \t")] == '\0') continue;
        st = render_line(&s, &lines);
        if (st) pc_context(st, "%s:%lld", lines.name, (long long)lines.number);
    }
    data_lines_close(&lines);
    pc_tokenizer_close(s.tok);
    return st ? st : data_flush();
}

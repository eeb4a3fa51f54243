/*
 * render.c - percept-data render: conversations through a chat template.
 *
 *   in    a line a conversation: [{"role": "user", "content": "<image>\nWhat?"}, ...] or {"messages": [...]};
 *         content may be a list of parts {"type": "text", "text"} and {"type": "image"}
 *   out   {"text", "ids", "supervised": [[begin, end], ...] of ids, "assistant_byte_spans": of bytes of the text,
 *         "images"}; or, to be read by people, the text with what is learned in [[ ]]
 */
#include "checkpoints/hf.h"
#include "data/commands/commands.h"
#include "model/core/file.h"

#include <stdlib.h>
#include <string.h>

typedef struct setting {
    const pc_template *tmpl;
    pc_tokenizer *tok;
    int32_t image_id;
    bool generate, as_json, add_special;
} setting;

/* ---- output ---- */

// The ids that are shown: those of the text, or all of them.
static void shown(int64_t *from, int64_t *to, const pc_rendered *r, const setting *s)
{
    *from = s->add_special ? 0 : r->framed;
    *to = r->ids.count - (s->add_special ? 0 : r->tail);
}

static bool add_pair(json_t *list, int64_t a, int64_t b)
{
    return json_array_append_new(list, json_pack("[I, I]", (json_int_t)a, (json_int_t)b)) == 0;
}

// The learned runs of ids; NULL: no memory.
static json_t *spans_of(const pc_rendered *r, const setting *s)
{
    json_t *spans = json_array();
    int64_t from, to;
    shown(&from, &to, r, s);
    for (int64_t i = from; i < to;) {
        int64_t end = i;
        while (end < to && r->supervised[end]) end++;
        if (end > i && !add_pair(spans, i - from, end - from)) {
            json_decref(spans);
            return NULL;
        }
        i = end > i ? end : i + 1;
    }
    return spans;
}

static json_t *ids_of(const pc_rendered *r, const setting *s)
{
    json_t *ids = json_array();
    int64_t from, to;
    shown(&from, &to, r, s);
    for (int64_t i = from; i < to; i++) {
        if (!json_array_append_new(ids, json_integer(r->ids.list[i]))) continue;
        json_decref(ids);
        return NULL;
    }
    return ids;
}

// Bytes of the answers, or null where one cannot be told from the text.
static json_t *answers_of(const pc_rendered *r)
{
    json_t *spans = json_array();
    for (int64_t i = 0; i < r->answers; i++) {
        if (r->answer[i][0] < 0) {
            json_decref(spans);
            return json_null();
        }
        if (add_pair(spans, r->answer[i][0], r->answer[i][1])) continue;
        json_decref(spans);
        return NULL;
    }
    return spans;
}

static pc_status print_json(const pc_rendered *r, const setting *s)
{
    json_t *out = json_pack("{s:s, s:o, s:o, s:o, s:I}", "text", r->text, "ids", ids_of(r, s),
                            "supervised", spans_of(r, s), "assistant_byte_spans", answers_of(r),
                            "images", (json_int_t)r->images);
    const pc_status st =
        out ? data_print_json(out) : pc_fail(PC_ERR_MEMORY, "a rendered conversation");
    json_decref(out);
    return st;
}

static pc_status print(const pc_rendered *r, const setting *s, int64_t number)
{
    if (s->as_json) return print_json(r, s);
    char *text = pc_rendered_text(r, s->tok, s->image_id);
    if (!text) return pc_fail(PC_ERR_MEMORY, "a rendered text");
    int64_t learned = 0;
    for (int64_t i = 0; i < r->ids.count; i++) learned += r->supervised[i];
    printf("--- %lld: %lld tokens, %lld learned, %lld images\n%s\n", (long long)number,
           (long long)r->ids.count, (long long)learned, (long long)r->images, text);
    free(text);
    return PC_OK;
}

static pc_status render_line(const setting *s, const data_lines *l)
{
    json_error_t error;
    json_t *json = json_loadb(l->text, l->size, JSON_REJECT_DUPLICATES, &error);
    const json_t *list = json_is_object(json) ? json_object_get(json, "messages") : json;
    pc_rendered r = {0};
    pc_status st = PC_OK;
    if (!json)
        st = pc_fail(PC_ERR_INPUT, "column %d: %s", error.column, error.text);
    else if (!json_is_array(list))
        st = pc_fail(PC_ERR_INPUT, "expected an array of messages, or an object with `messages`");
    if (!st) st = pc_template_render_json(s->tmpl, &r, s->tok, list, s->generate, s->image_id);
    if (!st) st = print(&r, s, l->number);
    pc_rendered_close(&r);
    json_decref(json);
    return st;
}

// With --json a conversation that is refused is a line too, and the others follow.
static pc_status print_refused(pc_status st, const data_lines *l, char first[1024])
{
    json_t *out = json_pack("{s:s}", "error", pc_error_text());
    pc_context(st, "%s:%lld", l->name, (long long)l->number);
    if (!*first) snprintf(first, 1024, "%s", pc_error_text());
    const pc_status printed =
        out ? data_print_json(out) : pc_fail(PC_ERR_MEMORY, "a refused conversation");
    json_decref(out);
    return printed;
}

static pc_status render_lines(const setting *s, data_lines *l)
{
    char *line, first[1024] = "";
    pc_status st = PC_OK;
    while (!st && !(st = data_lines_next(l, &line)) && line) {
        if (line[strspn(line, " \t")] == '\0') continue;
        st = render_line(s, l);
        if (st == PC_ERR_INPUT && s->as_json)
            st = print_refused(st, l, first);
        else if (st)
            pc_context(st, "%s:%lld", l->name, (long long)l->number);
    }
    return st || !*first ? st : pc_fail(PC_ERR_INPUT, "%s", first);
}

/* ---- what is rendered with ---- */

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

// The token for images: of the usual names the one that the template writes, else the first that there is.
static int32_t usual_image_id(const pc_tokenizer *tok, const pc_template *t)
{
    static const char *const names[] = {"<image>", "<|image_pad|>", "<image_placeholder>",
                                        "<imgpad>"};
    int32_t id = -1;
    int count = 0;
    const char *const *specials = pc_template_specials(t, &count);
    for (size_t i = 0; i < sizeof names / sizeof *names && id < 0; i++) {
        bool written = strstr(pc_template_text(t), names[i]) != NULL;
        for (int k = 0; k < count; k++) written |= !strcmp(specials[k], names[i]);
        if (written) id = pc_tokenizer_id(tok, names[i]);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names && id < 0; i++)
        id = pc_tokenizer_id(tok, names[i]);
    return id;
}

static pc_status open_file(setting *s, const char *path, const json_t *tokens)
{
    char *text = NULL;
    size_t size = 0;
    pc_template *t = NULL;
    pc_status st = pc_file_read(&text, &size, path, (size_t)1 << 20);
    if (!st) st = pc_template_open(&t, path, text, size, tokens);
    s->tmpl = t;
    free(text);
    return st;
}

static pc_status open_model(setting *s, const char *path)
{
    pc_bundle b;
    pc_status st = pc_bundle_open_light(&b, path);
    if (st) return st;
    s->tmpl = b.template;
    s->tok = b.tokenizer;
    b.tokenizer = NULL; // ours from here, and so is the template
    b.template = NULL;
    s->image_id = b.model.config.kind == PC_MODEL_VLM ? (int32_t)b.model.config.vlm.image_id : -1;
    pc_bundle_close(&b);
    return s->tmpl ? PC_OK : pc_fail(PC_ERR_INPUT, "'%s' names no template that is known", path);
}

// A directory is asked for its template and tokenizer, whether or not its network is known.
static pc_status open_dir(setting *s, const char *dir)
{
    static const char *const keys[] = {"image_token_id", "image_token_index"};
    json_t *config = NULL;
    pc_template *t = NULL;
    pc_status st = pc_template_open_dir(&t, dir);
    if (st) return st;
    s->tmpl = t;
    if (!t) return open_model(s, dir);
    if ((st = pc_hf_json(&config, dir, "config.json"))) return st;
    for (int i = 0; i < 2; i++)
        if (json_is_integer(json_object_get(config, keys[i])))
            s->image_id = (int32_t)json_integer_value(json_object_get(config, keys[i]));
    json_decref(config);
    return data_open_tokenizer(&s->tok, dir);
}

/* A template by name or file with a tokenizer of its own, or a model that has both. */
static pc_status open_setting(setting *s, const char *what, const char *tokenizer,
                              const json_t *tokens)
{
    pc_status st = PC_OK;
    const bool file = ends_in(what, ".jinja");
    s->tmpl = pc_template_find(what);
    if ((s->tmpl || file) && !tokenizer)
        return pc_fail(PC_ERR_USAGE, "template '%s' needs --tokenizer FILE", what);
    if (!s->tmpl)
        st = file                            ? open_file(s, what, tokens)
             : pc_is_dir(what) && !tokenizer ? open_dir(s, what)
             : pc_is_dir(what)               ? PC_OK
                                             : open_model(s, what);
    if (!st && tokenizer && !s->tmpl) { // the template alone of a directory
        pc_template *t = NULL;
        st = pc_template_open_dir(&t, what);
        s->tmpl = t;
        if (!st && !t) st = open_model(s, what);
    }
    if (st) return st;
    if (tokenizer) {
        pc_tokenizer_close(s->tok);
        s->tok = NULL;
        if ((st = data_open_tokenizer(&s->tok, tokenizer))) return st;
        s->image_id = -1;
    }
    if (s->tok && s->image_id < 0) s->image_id = usual_image_id(s->tok, s->tmpl);
    return s->tok ? PC_OK
                  : pc_fail(PC_ERR_INPUT, "'%s' holds no tokenizer; give --tokenizer", what);
}

pc_status data_render(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-data render runs/quickstart/tune/checkpoints/best.h5 --messages talks.jsonl",
        "percept-data render chatml --tokenizer tokenizer.json --messages talks.jsonl --generate",
        "percept-data render llava-1.5-7b-hf --messages talks.jsonl --json",
        "percept-data render own.jinja --tokenizer tokenizer.json --bos '<s>' --messages t.jsonl",
        NULL,
    };
    const char *messages = NULL, *tokenizer = NULL, *bos = NULL, *eos = NULL;
    setting s = {.image_id = -1};
    const pc_cli_flag flags[] = {
        {"messages", PC_CLI_STRING, &messages, "FILE",
         "conversations, a line each; - for standard "
         "input",
         0, 0, NULL},
        {"tokenizer", PC_CLI_STRING, &tokenizer, "FILE",
         "a tokenizer.json or its folder, for a template by name or file", 0, 0, NULL},
        {"bos", PC_CLI_STRING, &bos, "TOKEN", "bos_token of a template file", 0, 0, NULL},
        {"eos", PC_CLI_STRING, &eos, "TOKEN", "eos_token of a template file", 0, 0, NULL},
        {"generate", PC_CLI_BOOL, &s.generate, NULL, "end with what invites the assistant to speak",
         0, 0, NULL},
        {"add-special", PC_CLI_BOOL, &s.add_special, NULL,
         "ids with what stands around the text too: BOS, and a stop the template leaves out", 0, 0,
         NULL},
        {"json", PC_CLI_BOOL, &s.as_json, NULL, "text, ids and learned spans as JSON, a line each",
         0, 0, NULL},
    };
    const pc_cli cli = {
        .command = "percept-data render",
        .usage = "MODEL_OR_TEMPLATE",
        .about = "Writes conversations as a model is trained on them: the text, its token ids, and "
                 "which of them are learned. A conversation is a JSON array of {\"role\", "
                 "\"content\"} on a line. A template is a model's own, a .jinja file, or one of "
                 "vicuna_v1, llava_v1, llava_llama_2, mistral_instruct, chatml_direct, plain, "
                 "chatml, qwen, qwen2_vl, llama2, llama3, deepseek_vl, deepseek, short.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags,
        .min_args = 1,
        .max_args = 1,
        .examples = examples,
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;
    if (!messages) return pc_fail(PC_ERR_USAGE, "percept-data render needs --messages FILE");

    data_lines lines = {0};
    json_t *tokens =
        bos || eos ? json_pack("{s:s*, s:s*}", "bos_token", bos, "eos_token", eos) : NULL;
    st = open_setting(&s, args[0], tokenizer, tokens);
    if (!st) st = data_lines_open(&lines, messages);
    if (!st) st = render_lines(&s, &lines);
    data_lines_close(&lines);
    pc_tokenizer_close(s.tok);
    pc_template_close(s.tmpl);
    json_decref(tokens);
    return st ? st : data_flush();
}

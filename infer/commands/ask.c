/*
 * ask.c - `percept ask`: one question, one answer, streamed as it is made; `percept chat`: a conversation.
 */
#include "infer/answer.h"
#include "infer/infer.h"
#include "model/core/cli.h"
#include "model/core/log.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_MARK "<image>"

// Flags that both commands have.
typedef struct choices {
    pc_cli_strings images;
    bool greedy, json;
    double temperature, top_p;
    int64_t top_k, seed, max_tokens, threads;
    const char *system, *adapter, *mmproj;
} choices;

static choices defaults(void)
{
    return (choices){.temperature = 0.0, .top_p = 1.0, .max_tokens = 256};
}

enum { FLAGS = 12 };

static void flag_list(pc_cli_flag out[FLAGS], choices *c)
{
    const pc_cli_flag flags[FLAGS] = {
        {"image", PC_CLI_STRINGS, &c->images, "FILE", "an image to look at; repeat for more", 0, 0,
         NULL},
        {"greedy", PC_CLI_BOOL, &c->greedy, NULL,
         "always the likeliest token; so it is unless --temperature is given", 0, 0, NULL},
        {"temperature", PC_CLI_REAL, &c->temperature, "T", "draw tokens; higher is wilder", 0, 100,
         NULL},
        {"top-p", PC_CLI_REAL, &c->top_p, "P", "draw among the likeliest that make up this share",
         0, 1, NULL},
        {"top-k", PC_CLI_INT, &c->top_k, "K", "draw among the K likeliest", 0, 1e9, NULL},
        {"seed", PC_CLI_INT, &c->seed, "S", "of the drawing", 0, 0, NULL},
        {"max-tokens", PC_CLI_INT, &c->max_tokens, "N", "longest answer", 1, 1e6, NULL},
        {"system", PC_CLI_STRING, &c->system, "TEXT",
         "what the model is told first, instead of its template's words", 0, 0, NULL},
        {"adapter", PC_CLI_STRING, &c->adapter, "DIR", "PEFT folder: its adapters on the model", 0,
         0, NULL},
        {"mmproj", PC_CLI_STRING, &c->mmproj, "FILE",
         "eyes of a .gguf, where they are not the mmproj beside it", 0, 0, NULL},
        {"threads", PC_CLI_INT, &c->threads, "N", "threads; as many as processors unless given", 0,
         4096, NULL},
        {"json", PC_CLI_BOOL, &c->json, NULL, "the answer as a JSON object", 0, 0, NULL},
    };
    memcpy(out, flags, sizeof flags);
}

static pc_status check(const choices *c, const char *command)
{
    if (c->greedy && c->temperature > 0.0)
        return pc_fail(PC_ERR_USAGE, "%s: --greedy and --temperature exclude each other", command);
    if (c->top_p <= 0.0)
        return pc_fail(PC_ERR_USAGE, "%s: --top-p 0 leaves no token to draw", command);
    if (c->temperature == 0.0 && (c->top_k > 0 || c->top_p < 1.0))
        return pc_fail(PC_ERR_USAGE, "%s: --top-k and --top-p need --temperature", command);
    return PC_OK;
}

static answer_options options_of(const choices *c)
{
    return (answer_options){
        .max_tokens = c->max_tokens,
        .sampling = {.temperature = c->temperature,
                     .top_k = c->top_k,
                     .top_p = c->top_p,
                     .seed = (uint64_t)c->seed},
    };
}

static void say(void *arg, const char *text)
{
    (void)arg;
    fputs(text, stdout);
    fflush(stdout);
}

// The template `short` is that of small models trained here, on one image each.
static pc_status check_images(const pc_bundle *b, int images)
{
    const char *name = b->template ? pc_template_name(b->template) : "";
    if (images > 1 && (!strcmp(name, "short") || !strcmp(name, "plain")))
        return pc_fail(PC_ERR_INPUT, "%d images; a model of template '%s' takes one", images, name);
    return PC_OK;
}

// "<image>\n" for each image, then the words without white space at their ends, as in training.
static char *with_marks(const char *text, int images)
{
    text += strspn(text, " \t\r\n\v\f");
    size_t n = strlen(text);
    while (n > 0 && strchr(" \t\r\n\v\f", text[n - 1])) n--;
    const size_t mark = strlen(IMAGE_MARK "\n"), head = (size_t)images * mark;
    char *out = malloc(head + n + 1);
    if (!out) return NULL;
    for (int i = 0; i < images; i++) memcpy(out + (size_t)i * mark, IMAGE_MARK "\n", mark);
    memcpy(out + head, text, n);
    out[head + n] = '\0';
    return out;
}

static void print_json(const char *question, const choices *c, const char *answer,
                       const answer_stream *s, double opened, double seconds)
{
    json_t *images = json_array();
    for (int i = 0; i < c->images.count; i++)
        json_array_append_new(images, json_string(c->images.list[i]));
    json_t *o = json_pack("{s:s, s:o, s:s, s:I, s:s, s:f, s:f, s:f}", "question", question,
                          "images", images, "answer", answer, "tokens", (json_int_t)s->tokens,
                          "finish", s->stopped ? "stop" : "length", "seconds", seconds,
                          "first_token_seconds", s->first, "open_seconds", opened);
    char *text = o ? json_dumps(o, 0) : NULL;
    puts(text ? text : "{}");
    free(text);
    json_decref(o);
}

static pc_status ask(const char *model, const char *question, const choices *c)
{
    pc_bundle bundle = {0};
    answerer a = {0};
    answer_stream stream = {.say = c->json ? NULL : say};
    const answer_options o = options_of(c);
    char *answer = NULL, *text = with_marks(question, c->images.count);
    pc_status st;

    if (!text) return pc_fail(PC_ERR_MEMORY, "the question");
    const double begin = pc_seconds();
    if ((st = pc_bundle_open_mapped(&bundle, model, c->mmproj)) ||
        (st = pc_bundle_adapt(&bundle, c->adapter)) ||
        (st = check_images(&bundle, c->images.count)) ||
        (st = answerer_open(&a, &bundle, (int)c->threads)))
        goto done;
    const pc_message messages[] = {{PC_ROLE_SYSTEM, c->system}, {PC_ROLE_USER, text}};
    const int skip = c->system == NULL;
    const double start = pc_seconds();
    if ((st = answer_one(&a, &answer, messages + skip, 2 - skip, c->images.list, c->images.count,
                         &o, &stream)))
        goto done;
    if (c->json)
        print_json(question, c, answer, &stream, start - begin, pc_seconds() - start);
    else
        putchar('\n');
done:
    free(answer);
    free(text);
    answerer_close(&a);
    pc_bundle_close(&bundle);
    return st;
}

pc_status ask_main(int argc, char **argv)
{
    choices c = defaults();
    pc_cli_flag flags[FLAGS];
    flag_list(flags, &c);
    const pc_cli cli = {
        .command = "percept ask",
        .usage = "MODEL \"QUESTION\"",
        .about = "One answer to one question about an image, printed as it is made.",
        .flags = flags,
        .flag_count = FLAGS,
        .min_args = 2,
        .max_args = 2,
        .examples = (const char *const[]){"percept ask runs/quickstart/tune/checkpoints/best.h5 "
                                          "--image photo.png \"how many red circles are there?\"",
                                          "percept ask llava-dir --image chart.png \"What does it "
                                          "show?\" --temperature 0.7 --seed 3",
                                          NULL},
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);

    if (!st && args && !(st = check(&c, "percept ask"))) st = ask(args[0], args[1], &c);
    pc_cli_strings_close(&c.images);
    return st;
}

// ---- chat --------------------------------------------------------------------------------------

typedef struct conversation {
    pc_message *list;
    int count, capacity;
} conversation;

static pc_status add(conversation *c, pc_role role, char *text)
{
    if (!text) return pc_fail(PC_ERR_MEMORY, "a message");
    if (c->count == c->capacity) {
        const int capacity = c->capacity ? 2 * c->capacity : 16;
        pc_message *list = realloc(c->list, (size_t)capacity * sizeof *list);
        if (!list) {
            free(text);
            return pc_fail(PC_ERR_MEMORY, "a conversation of %d messages", capacity);
        }
        c->list = list;
        c->capacity = capacity;
    }
    c->list[c->count++] = (pc_message){role, text};
    return PC_OK;
}

static void forget(conversation *c)
{
    for (int i = 0; i < c->count; i++) free((char *)(uintptr_t)c->list[i].text);
    c->count = 0;
}

// Reads lines until the end; the images stand in front of the first one.
static pc_status talk(answerer *a, const choices *c)
{
    conversation talk = {0};
    const answer_options o = options_of(c);
    char *line = NULL;
    size_t room = 0;
    pc_status st = PC_OK;

    if (c->system && (st = add(&talk, PC_ROLE_SYSTEM, strdup(c->system)))) goto done;
    const int head = talk.count;
    for (;;) {
        fputs("> ", stderr);
        const ssize_t n = getline(&line, &room, stdin);
        if (n < 0) break;
        line[strcspn(line, "\r\n")] = '\0';
        if (!*line) continue;
        char *answer;
        answer_stream stream = {.say = say};
        const int images = talk.count == head ? c->images.count : 0;
        if ((st = add(&talk, PC_ROLE_USER, with_marks(line, images))) ||
            (st = answer_one(a, &answer, talk.list, talk.count, c->images.list, c->images.count, &o,
                             &stream)) ||
            (st = add(&talk, PC_ROLE_ASSISTANT, answer)))
            break;
        putchar('\n');
    }
    fputc('\n', stderr);
done:
    forget(&talk);
    free(talk.list);
    free(line);
    return st;
}

pc_status chat_main(int argc, char **argv)
{
    choices c = defaults();
    pc_cli_flag flags[FLAGS];
    flag_list(flags, &c);
    const pc_cli cli = {
        .command = "percept chat",
        .usage = "MODEL",
        .about = "A conversation in the terminal: a line is a question, the end of the input ends "
                 "it. The model "
                 "sees everything said before.",
        .flags = flags,
        .flag_count = FLAGS - 1, // no --json
        .min_args = 1,
        .max_args = 1,
        .examples = (const char *const[]){"percept chat llava-dir --image photo.png", NULL},
    };
    pc_bundle bundle = {0};
    answerer a = {0};
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);

    if (!st && args && !(st = check(&c, "percept chat")) &&
        !(st = pc_bundle_open_mapped(&bundle, args[0], c.mmproj)) &&
        !(st = pc_bundle_adapt(&bundle, c.adapter)) &&
        !(st = check_images(&bundle, c.images.count)) &&
        !(st = answerer_open(&a, &bundle, (int)c.threads)))
        st = talk(&a, &c);
    answerer_close(&a);
    pc_bundle_close(&bundle);
    pc_cli_strings_close(&c.images);
    return st;
}

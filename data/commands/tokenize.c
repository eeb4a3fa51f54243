/*
 * tokenize.c - percept-data tokenize: texts to ids and back, a line each.
 */
#include "data/commands/commands.h"

#include <stdlib.h>
#include <string.h>

typedef struct options {
    bool as_json, add_special, no_parse_special, decode, skip_special;
} options;

static pc_status encode_line(const pc_tokenizer *tok, const options *o, const data_lines *l)
{
    pc_ids ids = {0};
    json_t *json = NULL;
    const char *text = l->text;
    size_t size = l->size;
    pc_status st = PC_OK;
    if (o->as_json) {
        json_error_t error;
        json = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
        if (!json_is_string(json)) {
            st = pc_fail(PC_ERR_INPUT, "%s; expected a JSON string",
                         json ? "another JSON value" : error.text);
            goto out;
        }
        text = json_string_value(json);
        size = json_string_length(json);
    }
    st = pc_tokenizer_encode(tok, &ids, text, size, !o->no_parse_special);
    if (!st && o->add_special) st = pc_tokenizer_frame(tok, &ids);
    if (st) goto out;
    putchar('[');
    for (int64_t i = 0; i < ids.count; i++) printf(i ? ",%d" : "%d", ids.list[i]);
    puts("]");
out:
    json_decref(json);
    pc_ids_close(&ids);
    return st;
}

static pc_status decode_line(const pc_tokenizer *tok, const options *o, const data_lines *l)
{
    json_error_t error;
    json_t *json = json_loadb(l->text, l->size, 0, &error), *value;
    pc_ids ids = {0};
    char *text = NULL;
    size_t i, size = 0;
    pc_status st = PC_OK;
    if (!json_is_array(json))
        st = pc_fail(PC_ERR_INPUT, "%s; expected a JSON array of ids",
                     json ? "another JSON value" : error.text);
    json_array_foreach(json, i, value)
    {
        const int64_t id = (int64_t)json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id > INT32_MAX)
            st = pc_fail(PC_ERR_INPUT, "entry %zu is no token id", i);
        if (!st) st = pc_ids_add(&ids, (int32_t)id);
        if (st) break;
    }
    if (!st)
        st = pc_tokenizer_decode_sized(tok, &text, &size, ids.list, ids.count, o->skip_special);
    if (!st && o->as_json) {
        json_t *string = json_stringn(text, size);
        st = data_print_json(string);
        json_decref(string);
    } else if (!st) {
        fwrite(text, 1, size, stdout); // may hold NUL bytes
        putchar('\n');
    }
    free(text);
    pc_ids_close(&ids);
    json_decref(json);
    return st;
}

pc_status data_tokenize(int argc, char **argv)
{
    static const char *const examples[] = {
        "echo 'What is it?' | percept-data tokenize runs/quickstart/tune/checkpoints/best.h5",
        "percept-data tokenize tokenizer.json texts.txt",
        "echo '[12, 7]' | percept-data tokenize tokenizer.json --decode",
        NULL,
    };
    options o = {0};
    const pc_cli_flag flags[] = {
        {"json", PC_CLI_BOOL, &o.as_json, NULL, "every text is a JSON string on a line", 0, 0,
         NULL},
        {"add-special", PC_CLI_BOOL, &o.add_special, NULL,
         "put around a text what the tokenizer's file says (BOS, EOS)", 0, 0, NULL},
        {"no-parse-special", PC_CLI_BOOL, &o.no_parse_special, NULL,
         "special tokens written in the text are mere words", 0, 0, NULL},
        {"decode", PC_CLI_BOOL, &o.decode, NULL, "arrays of ids in, texts out", 0, 0, NULL},
        {"skip-special", PC_CLI_BOOL, &o.skip_special, NULL,
         "with --decode: leave special tokens out of the text", 0, 0, NULL},
    };
    const pc_cli cli = {
        .command = "percept-data tokenize",
        .usage = "MODEL_OR_TOKENIZER [FILE]",
        .about = "Reads a text a line from FILE or standard input and writes a JSON array of token "
                 "ids a line; with --decode the other way round. MODEL_OR_TOKENIZER is a "
                 "tokenizer.json, tokenizer.model, vocab.json, *.tiktoken or CLIP's gzipped "
                 "vocabulary, a folder with one, a GGUF, or a checkpoint (.h5).",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags,
        .min_args = 1,
        .max_args = 2,
        .examples = examples,
    };
    char **args, *line;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;

    pc_tokenizer *tok = NULL;
    data_lines lines = {0};
    if ((st = data_open_tokenizer(&tok, args[0]))) return st;
    st = data_lines_open(&lines, n > 1 ? args[1] : NULL);
    while (!st && !(st = data_lines_next(&lines, &line)) && line) {
        st = o.decode ? decode_line(tok, &o, &lines) : encode_line(tok, &o, &lines);
        if (st) pc_context(st, "%s:%lld", lines.name, (long long)lines.number);
    }
    data_lines_close(&lines);
    pc_tokenizer_close(tok);
    return st ? st : data_flush();
}

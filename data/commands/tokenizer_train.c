/*
 * tokenizer_train.c - percept-data tokenizer train: a byte-level BPE of one's own.
 */
#include "data/commands/commands.h"
#include "data/datasets/rows.h"
#include "model/core/file.h"
#include "model/core/log.h"

#include <stdlib.h>
#include <string.h>

/* The texts of all files. JSON rows give up their words; anything else is text, line by line. */
typedef struct texts {
    pc_dataset_memory *memory;
    const char **list;
    int64_t count, room;
    int64_t bytes;
} texts;

static pc_status keep(texts *t, const char *text)
{
    if (t->count == t->room) {
        const int64_t wanted = t->room ? 2 * t->room : 1 << 12;
        const char **list = realloc(t->list, (size_t)wanted * sizeof *list);
        if (!list) return pc_fail(PC_ERR_MEMORY, "%lld texts", (long long)wanted);
        t->list = list;
        t->room = wanted;
    }
    if (!(t->list[t->count] = pc_keep_text(t->memory, text)))
        return pc_fail(PC_ERR_MEMORY, "%lld texts", (long long)t->count);
    t->bytes += (int64_t)strlen(text);
    t->count++;
    return PC_OK;
}

/* Captions, turns of a conversation, a flat question with its answer. */
static pc_status keep_row(texts *t, const json_t *row)
{
    static const char *const keys[] = {"question", "answer", "text"};
    const int64_t before = t->count;
    const json_t *one;
    size_t i;
    pc_status st = PC_OK;
    json_array_foreach(json_object_get(row, "captions"), i, one)
    {
        if (json_is_string(one) && (st = keep(t, json_string_value(one)))) return st;
    }
    json_array_foreach(json_object_get(row, "conversations"), i, one)
    {
        const json_t *value = json_object_get(one, "value");
        if (json_is_string(value) && (st = keep(t, json_string_value(value)))) return st;
    }
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        const json_t *value = json_object_get(row, keys[k]);
        if (json_is_string(value) && (st = keep(t, json_string_value(value)))) return st;
    }
    return t->count > before
               ? PC_OK
               : pc_fail(PC_ERR_INPUT, "no words; expected `captions`, `conversations`, or "
                                       "`question` and `answer` (--plain takes the file as text)");
}

static pc_status read_rows(texts *t, const char *path)
{
    pc_row_reader rows;
    pc_status st = pc_row_reader_open(&rows, path);
    if (st) return st;
    while (!st) {
        json_t *row;
        st = pc_row_reader_next(&rows, &row);
        if (!st && !row) break;
        if (!st) st = keep_row(t, row);
        json_decref(row);
        if (st) pc_row_reader_context(&rows, st);
    }
    pc_row_reader_close(&rows);
    return st;
}

static pc_status read_plain(texts *t, const char *path)
{
    data_lines lines;
    char *line;
    pc_status st = data_lines_open(&lines, path);
    while (!st && !(st = data_lines_next(&lines, &line)) && line)
        if (*line) st = keep(t, line);
    data_lines_close(&lines);
    return st;
}

static pc_status looks_like_json(bool *json, const char *path)
{
    data_lines lines;
    char *line;
    *json = false;
    pc_status st = data_lines_open(&lines, path);
    while (!st && !(st = data_lines_next(&lines, &line)) && line) {
        const char *first = line + strspn(line, " \t\r\xEF\xBB\xBF");
        if (!*first) continue;
        *json = *first == '{' || *first == '[';
        break;
    }
    data_lines_close(&lines);
    return st;
}

static pc_status read_texts(texts *t, char **paths, int n, bool plain)
{
    t->memory = pc_dataset_memory_open();
    if (!t->memory) return pc_fail(PC_ERR_MEMORY, "texts");
    for (int i = 0; i < n; i++) {
        bool json = false;
        pc_status st = plain ? PC_OK : looks_like_json(&json, paths[i]);
        if (!st) st = json ? read_rows(t, paths[i]) : read_plain(t, paths[i]);
        if (st) return st;
    }
    return t->count ? PC_OK : pc_fail(PC_ERR_INPUT, "the texts are empty");
}

static void texts_close(texts *t)
{
    free(t->list);
    pc_dataset_memory_close(t->memory);
}

/* ---- the command ---- */

static pc_status train(const texts *t, const char *out, int32_t vocab, const char *template_name,
                       const pc_cli_strings *more, bool as_json)
{
    const char *specials[64];
    int known, count;
    const char *const *names = pc_template_specials(pc_template_find(template_name), &known);
    if (known + more->count > 64)
        return pc_fail(PC_ERR_USAGE, "%d special tokens, at most 64", known + more->count);
    for (count = 0; count < known; count++) specials[count] = names[count];
    for (int i = 0; i < more->count; i++) specials[count++] = more->list[i];

    pc_tokenizer *tok = NULL;
    pc_status st = pc_tokenizer_train(&tok, t->list, t->count, vocab, specials, count);
    char *json = st ? NULL : pc_tokenizer_json(tok);
    if (!st) st = json ? pc_file_write(out, json, strlen(json)) : pc_fail(PC_ERR_MEMORY, "a file");
    const int32_t made = st ? 0 : pc_tokenizer_vocab(tok);
    free(json);
    pc_tokenizer_close(tok);
    if (st) return st;
    if (made < vocab)
        pc_warn("the texts give %d tokens, not %d: no other pair of neighbours occurs twice", made,
                vocab);
    if (!as_json) {
        printf("%s: %d tokens from %lld texts of %lld bytes\n", out, made, (long long)t->count,
               (long long)t->bytes);
        return data_flush();
    }
    json_t *report = json_pack("{s:s, s:i, s:I, s:I}", "out", out, "tokens", (int)made, "texts",
                               (json_int_t)t->count, "bytes", (json_int_t)t->bytes);
    st = data_print_json(report);
    json_decref(report);
    return st ? st : data_flush();
}

pc_status data_tokenizer_train(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-data tokenizer train captions.jsonl vqa.json --out tokenizer.json --vocab 1024",
        "percept-data tokenizer train notes.txt --out tokenizer.json --vocab 8000 --template "
        "chatml",
        NULL,
    };
    int names;
    const char *out = NULL, *template_name = "vicuna_v1";
    int64_t vocab = 0;
    pc_cli_strings more = {0};
    bool plain = false, as_json = false;
    const char *choices[16] = {NULL};
    const char *const *known = pc_template_names(&names);
    for (int i = 0; i < names && i < 15; i++) choices[i] = known[i];
    const pc_cli_flag flags[] = {
        {"out", PC_CLI_STRING, &out, "FILE", "where to write it (tokenizer.json)", 0, 0, NULL},
        {"vocab", PC_CLI_INT, &vocab, "N", "tokens in all: 256 bytes, merges, special tokens", 257,
         1e6, NULL},
        {"template", PC_CLI_STRING, &template_name, "NAME", "whose special tokens it gets", 0, 0,
         choices},
        {"special", PC_CLI_STRINGS, &more, "TOKEN", "one more special token", 0, 0, NULL},
        {"plain", PC_CLI_BOOL, &plain, NULL, "take every file as text, JSON too", 0, 0, NULL},
        {"json", PC_CLI_BOOL, &as_json, NULL, "the summary as one JSON object", 0, 0, NULL},
    };
    const pc_cli cli = {
        .command = "percept-data tokenizer train",
        .usage = "TEXT...",
        .about =
            "Trains a byte-level BPE on texts and writes a tokenizer.json that other software "
            "reads too. Of captions, conversations and question files (JSONL or JSON) the words "
            "are taken; any other file is text, line by line. The same texts give the same "
            "tokenizer.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags,
        .min_args = 1,
        .max_args = -1,
        .examples = examples,
    };
    char **args;
    int n;
    texts t = {0};
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) goto out;
    if (!out || !vocab) {
        st = pc_fail(PC_ERR_USAGE, "percept-data tokenizer train needs %s",
                     out ? "--vocab N" : "--out FILE");
        goto out;
    }
    st = read_texts(&t, args, n, plain);
    if (!st) st = train(&t, out, (int32_t)vocab, template_name, &more, as_json);
out:
    texts_close(&t);
    pc_cli_strings_close(&more);
    return st;
}

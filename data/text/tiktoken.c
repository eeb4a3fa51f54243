/*
 * tiktoken.c - a line for every token: base64 of its bytes, a blank, its rank, which is its id (spec: tokenizers.md 5).
 *
 * The special tokens stand in the publishers' code, not in the file: Qwen's follow its ranks, those of Qwen-VL
 * behind them; a file of 128,000 ranks is Llama 3's.
 */
#include "data/text/base64.h"
#include "data/text/bpe.h"
#include "data/text/layouts.h"
#include "data/text/presets.h"
#include "data/text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LLAMA3_RANKS = 128000 };

/* One line: its token's bytes (out has room for the line) and its rank. */
static bool read_line(unsigned char *out, size_t *n, int64_t *rank, const char *line, size_t size)
{
    const char *gap = memchr(line, ' ', size);
    if (!gap || gap == line) return false;
    if (!pc_base64_decode(out, n, line, (size_t)(gap - line)) || *n == 0) return false;
    const char *at = gap + 1, *end = line + size;
    if (at == end || end - at > 9) return false;
    for (*rank = 0; at < end; at++) {
        if (*at < '0' || *at > '9') return false;
        *rank = *rank * 10 + (*at - '0');
    }
    return true;
}

bool pc_looks_like_tiktoken(const char *text, size_t size)
{
    unsigned char bytes[256];
    const char *stop = memchr(text, '\n', size);
    size_t n = stop ? (size_t)(stop - text) : size, token;
    int64_t rank;
    if (n && text[n - 1] == '\r') n--;
    return n < sizeof bytes && read_line(bytes, &token, &rank, text, n);
}

static pc_status add_line(json_t *vocab, pc_buffer *work, const char *line, size_t size,
                          int64_t number)
{
    work->used = 0;
    pc_status st =
        pc_buffer_add(work, line, size); // room for bytes and, behind them, for their name
    if (!st) st = pc_buffer_add(work, line, size);
    if (!st) st = pc_buffer_add(work, line, size);
    if (st) return st;
    unsigned char *bytes = (unsigned char *)work->data, *name = bytes + size;
    size_t n, used = 0;
    int64_t rank;
    if (!read_line(bytes, &n, &rank, line, size))
        return pc_fail(PC_ERR_FORMAT, "line %lld: \"%.*s\", expected base64, a blank and a rank",
                       (long long)number, size < 60 ? (int)size : 60, line);
    for (size_t i = 0; i < n; i++) used += (size_t)pc_utf8_put(name + used, pc_byte_char(bytes[i]));
    name[used] = '\0';
    const json_t *other = json_object_get(vocab, (const char *)name);
    if (other)
        return pc_fail(PC_ERR_FORMAT, "line %lld: the token \"%.60s\" has rank %lld already",
                       (long long)number, (const char *)name, (long long)json_integer_value(other));
    return json_object_set_new_nocheck(vocab, (const char *)name, json_integer(rank))
               ? pc_fail(PC_ERR_MEMORY, "%zu tokens", json_object_size(vocab))
               : PC_OK;
}

static int add_special(json_t *list, int64_t id, const char *content)
{
    return json_array_append_new(list, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id",
                                                 (json_int_t)id, "content", content, "single_word",
                                                 0, "lstrip", 0, "rstrip", 0, "normalized", 0,
                                                 "special", 1));
}

static int add_qwen(json_t *list, int64_t id)
{
    static const char *const chat[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    static const char *const images[] = {"<ref>",   "</ref>", "<box>",  "</box>",  "<quad>",
                                         "</quad>", "<img>",  "</img>", "<imgpad>"};
    int failed = 0;
    for (int i = 0; i < 3; i++) failed |= add_special(list, id++, chat[i]);
    for (int i = 0; i < 205; i++) {
        char name[32];
        snprintf(name, sizeof name, "<|extra_%d|>", i);
        failed |= add_special(list, id++, name);
    }
    for (int i = 0; i < 9; i++) failed |= add_special(list, id++, images[i]);
    return failed;
}

static int add_llama3(json_t *list, int64_t id)
{
    static const struct {
        int place;
        const char *name;
    } named[] = {{0, "<|begin_of_text|>"},
                 {1, "<|end_of_text|>"},
                 {6, "<|start_header_id|>"},
                 {7, "<|end_header_id|>"},
                 {9, "<|eot_id|>"}};
    int failed = 0, reserved = 0;
    for (int i = 0; i < 256; i++) {
        char name[48];
        snprintf(name, sizeof name, "<|reserved_special_token_%d|>", reserved);
        size_t k = 0;
        while (k < sizeof named / sizeof *named && named[k].place != i) k++;
        const bool is_named = k < sizeof named / sizeof *named;
        reserved += !is_named;
        failed |= add_special(list, id + i, is_named ? named[k].name : name);
    }
    return failed;
}

static pc_status compose(json_t *r, json_t *vocab)
{
    const bool llama = json_object_size(vocab) == LLAMA3_RANKS;
    json_t *model = json_object(), *added = json_array();
    const char *name;
    json_t *value;
    int64_t next = 0;
    json_object_foreach(vocab, name, value)
    {
        if (json_integer_value(value) >= next) next = json_integer_value(value) + 1;
    }
    for (int b = 0; b < 256; b++) {
        unsigned char coded[5];
        coded[pc_utf8_put(coded, pc_byte_char(b))] = '\0';
        if (json_object_get(vocab, (const char *)coded)) continue;
        json_decref(model);
        json_decref(added);
        return pc_fail(PC_ERR_FORMAT, "no token for byte 0x%02X; expected all 256", (unsigned)b);
    }
    int failed = json_object_set_new(r, "version", json_string("1.0")) |
                 json_object_set_new(r, "truncation", json_null()) |
                 json_object_set_new(r, "padding", json_null()) |
                 json_object_set_new(r, "added_tokens", added) |
                 json_object_set_new(r, "model", model) |
                 json_object_set_new(model, "type", json_string("BPE")) |
                 json_object_set(model, "vocab", vocab) |
                 json_object_set_new(model, "merges", json_array()) |
                 json_object_set_new(model, "percept", json_pack("{s:b}", "ranks", 1));
    failed |= llama ? add_llama3(added, next) : add_qwen(added, next);
    if (failed) return pc_fail(PC_ERR_MEMORY, "a tokenizer");
    pc_status st = pc_preset_bytes(r, model, llama ? "llama-bpe" : "qwen2");
    if (!st && json_object_set_new(model, "ignore_merges", json_true()))
        st = pc_fail(PC_ERR_MEMORY, "a tokenizer");
    if (!st && llama &&
        json_object_set_new(r, "post_processor",
                            pc_preset_frame("<|begin_of_text|>", (int32_t)next, NULL, -1)))
        st = pc_fail(PC_ERR_MEMORY, "a tokenizer");
    return st;
}

pc_status pc_tiktoken_json(json_t **root, const char *text, size_t size)
{
    json_t *vocab = json_object();
    pc_buffer work = {0};
    pc_status st = PC_OK;
    int64_t line = 0;
    *root = json_object();
    for (const char *at = text, *end = text + size; at < end && !st;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at);
        if (n && at[n - 1] == '\r') n--;
        line++;
        if (n) st = add_line(vocab, &work, at, n, line);
        at = stop ? stop + 1 : end;
    }
    if (!st) st = compose(*root, vocab);
    if (st) {
        json_decref(*root);
        *root = NULL;
    }
    json_decref(vocab);
    free(work.data);
    return st;
}

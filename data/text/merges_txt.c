/*
 * merges_txt.c - vocab.json with merges.txt, the layout before `tokenizer.json`, and CLIP's single gzipped file.
 *
 *   merges.txt   "#version: 0.2", then a merge a line: "LEFT RIGHT"
 *   CLIP's file  likewise; its ids are 256 byte characters in the order of bytes_to_unicode, the same with "</w>",
 *                48,894 merges, <|startoftext|>, <|endoftext|>. What lies behind these merges is not used
 */
#include "data/text/bpe.h"
#include "data/text/layouts.h"
#include "data/text/presets.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { CLIP_MERGES = 48894, INFLATED_LIMIT = 32 << 20 };

#define CLIP_SPLIT                                                                                 \
    "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|"            \
    "[^\\s\\p{L}\\p{N}]+"

/* ---- lines ---- */

static pc_status read_merges(json_t *list, const char *text, size_t size, int64_t limit)
{
    int64_t line = 0, count = 0;
    for (const char *at = text, *end = text + size; at < end && count < limit;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const char *next = stop ? stop + 1 : end;
        size_t n = (size_t)((stop ? stop : end) - at);
        if (n && at[n - 1] == '\r') n--;
        line++;
        const bool header = line == 1 && n >= 8 && memcmp(at, "#version", 8) == 0;
        if (!header && n > 0) {
            const char *gap = memchr(at, ' ', n);
            if (!gap || gap == at || gap == at + n - 1 ||
                memchr(gap + 1, ' ', n - (size_t)(gap + 1 - at)) || !pc_utf8_valid(at, n))
                return pc_fail(PC_ERR_FORMAT,
                               "merges, line %lld: \"%.*s\", expected \"LEFT RIGHT\"",
                               (long long)line, n < 60 ? (int)n : 60, at);
            if (json_array_append_new(list, json_stringn(at, n)))
                return pc_fail(PC_ERR_FORMAT, "merges, line %lld: no text", (long long)line);
            count++;
        }
        at = next;
    }
    return PC_OK;
}

/* ---- the parts of a `tokenizer.json` ---- */

static pc_status clip_parts(json_t *root, json_t *model, json_t *vocab)
{
    const json_t *bos = json_object_get(vocab, "<|startoftext|>"),
                 *eos = json_object_get(vocab, "<|endoftext|>");
    int failed = json_object_set_new(root, "normalizer",
                                     json_pack("{s:s, s:[{s:s}, {s:s, s:{s:s}, s:s}, {s:s}]}",
                                               "type", "Sequence", "normalizers", "type", "NFC",
                                               "type", "Replace", "pattern", "Regex", "\\s+",
                                               "content", " ", "type", "Lowercase"));
    failed |=
        json_object_set_new(root, "pre_tokenizer",
                            json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b, s:b}]}",
                                      "type", "Sequence", "pretokenizers", "type", "Split",
                                      "pattern", "Regex", CLIP_SPLIT, "behavior", "Removed",
                                      "invert", 1, "type", "ByteLevel", "add_prefix_space", 0,
                                      "trim_offsets", 1, "use_regex", 1));
    failed |=
        json_object_set_new(root, "decoder",
                            json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel",
                                      "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1));
    failed |= json_object_set_new(model, "end_of_word_suffix", json_string("</w>"));
    if (json_is_integer(bos) && json_is_integer(eos)) {
        failed |= json_object_set_new(model, "unk_token", json_string("<|endoftext|>"));
        failed |= json_object_set_new(root, "post_processor",
                                      json_pack("{s:s, s:[s, I], s:[s, I], s:b, s:b}", "type",
                                                "RobertaProcessing", "sep", "<|endoftext|>",
                                                json_integer_value(eos), "cls", "<|startoftext|>",
                                                json_integer_value(bos), "trim_offsets", 0,
                                                "add_prefix_space", 0));
    }
    return failed ? pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer") : PC_OK;
}

static pc_status roberta_parts(json_t *root, json_t *vocab)
{
    const json_t *bos = json_object_get(vocab, "<s>"), *eos = json_object_get(vocab, "</s>");
    if (!json_is_integer(bos) || !json_is_integer(eos)) return PC_OK;
    return json_object_set_new(root, "post_processor",
                               json_pack("{s:s, s:[s, I], s:[s, I], s:b, s:b}", "type",
                                         "RobertaProcessing", "sep", "</s>",
                                         json_integer_value(eos), "cls", "<s>",
                                         json_integer_value(bos), "trim_offsets", 1,
                                         "add_prefix_space", 0))
               ? pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer")
               : PC_OK;
}

static bool has_word_ends(json_t *vocab)
{
    const char *name;
    json_t *value;
    json_object_foreach(vocab, name, value)
    {
        const size_t n = strlen(name);
        if (n > 4 && strcmp(name + n - 4, "</w>") == 0) return true;
    }
    return false;
}

static bool mentions(const char *class, const char *word)
{
    return class && strcasestr(class, word) != NULL;
}

static pc_status add_prefix_space(json_t *root)
{
    const json_t *steps = json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers");
    json_t *bytes = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                              "trim_offsets", 1, "use_regex", 1);
    (void)steps;
    return json_object_set_new(root, "pre_tokenizer", bytes)
               ? pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer")
               : PC_OK;
}

/* A token that the vocabulary holds and that a text must not be cut in. */
static pc_status add_usual(json_t *root, json_t *vocab)
{
    static const char *const usual[] = {"<|startoftext|>", "<|endoftext|>", "<|im_start|>",
                                        "<|im_end|>",      "<s>",           "</s>",
                                        "<pad>",           "<unk>",         "<mask>"};
    json_t *list = json_object_get(root, "added_tokens");
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        const json_t *id = json_object_get(vocab, usual[i]);
        if (!json_is_integer(id)) continue;
        if (json_array_append_new(list, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id",
                                                  json_integer_value(id), "content", usual[i],
                                                  "single_word", 0, "lstrip", 0, "rstrip", 0,
                                                  "normalized", 0, "special", 1)))
            return pc_fail(PC_ERR_MEMORY, "added tokens");
    }
    return PC_OK;
}

pc_status pc_merges_txt_json(json_t **root, json_t *vocab, const char *merges, size_t size,
                             const char *class, const json_t *config)
{
    json_t *model = json_object(), *list = json_array(), *r = json_object();
    int failed = json_object_set_new(r, "version", json_string("1.0")) |
                 json_object_set_new(r, "truncation", json_null()) |
                 json_object_set_new(r, "padding", json_null()) |
                 json_object_set_new(r, "added_tokens", json_array()) |
                 json_object_set_new(r, "model", model) |
                 json_object_set_new(model, "type", json_string("BPE")) |
                 json_object_set(model, "vocab", vocab) |
                 json_object_set_new(model, "merges", list);
    pc_status st =
        failed ? pc_fail(PC_ERR_MEMORY, "a tokenizer") : read_merges(list, merges, size, INT32_MAX);
    *root = r;
    if (!st && !json_is_object(vocab))
        st = pc_fail(PC_ERR_FORMAT, "vocab: expected an object of token: id");
    if (st) goto out;
    if (mentions(class, "clip") || has_word_ends(vocab)) {
        st = clip_parts(r, model, vocab);
    } else if (mentions(class, "qwen2")) {
        st = pc_preset_bytes(r, model, "qwen2");
    } else {
        st = pc_preset_bytes(r, model, "gpt-2");
        if (!st && (mentions(class, "roberta") || mentions(class, "bart")))
            st = roberta_parts(r, vocab);
        if (!st && json_is_true(json_object_get(config, "add_prefix_space")))
            st = add_prefix_space(r);
    }
    if (!st) st = config ? pc_added_from_config(r, config) : add_usual(r, vocab);
out:
    if (st) {
        json_decref(r);
        *root = NULL;
    }
    return st;
}

/* ---- CLIP's file ---- */

static pc_status inflate_all(pc_buffer *out, const void *bytes, size_t size)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)size};
    unsigned char part[1 << 14];
    if (size > UINT32_MAX) return pc_fail(PC_ERR_FORMAT, "%zu bytes of gzip", size);
    if (inflateInit2(&z, 15 + 16) != Z_OK) return pc_fail(PC_ERR_MEMORY, "inflating");
    pc_status st = PC_OK;
    int code = Z_OK;
    while (!st && code == Z_OK) {
        z.next_out = part;
        z.avail_out = sizeof part;
        code = inflate(&z, Z_NO_FLUSH);
        if (code != Z_OK && code != Z_STREAM_END)
            st = pc_fail(PC_ERR_FORMAT, "gzip: %s", z.msg ? z.msg : "the file is cut off");
        else
            st = pc_buffer_add(out, part, sizeof part - z.avail_out);
        if (!st && out->used > INFLATED_LIMIT)
            st = pc_fail(PC_ERR_FORMAT, "gzip: more than %d bytes", INFLATED_LIMIT);
    }
    inflateEnd(&z);
    return st;
}

static int add_name(json_t *vocab, const char *left, size_t n, const char *right)
{
    char small[128],
        *name = n + strlen(right) < sizeof small ? small : malloc(n + strlen(right) + 1);
    if (!name) return -1;
    for (size_t i = 0; i < n; i++) name[i] = left[i];
    strcpy(name + n, right);
    // Two merges may make the same token: the place counts, the later name wins, as in the original.
    const int failed =
        json_object_set_new(vocab, name, json_integer((json_int_t)json_object_size(vocab)));
    if (name != small) free(name);
    return failed;
}

static pc_status clip_vocab(json_t *vocab, const json_t *merges)
{
    int failed = 0;
    for (int end = 0; end < 2; end++)
        for (int moved = 0; moved < 2; moved++)
            for (int b = 0; b < 256; b++) {
                unsigned char coded[4];
                const uint32_t code = pc_byte_char(b);
                if ((code >= 0x100) != moved) continue;
                const int n = pc_utf8_put(coded, code);
                failed |= add_name(vocab, (const char *)coded, (size_t)n, end ? "</w>" : "");
            }
    const json_t *merge;
    size_t i;
    json_array_foreach(merges, i, merge)
    {
        const char *text = json_string_value(merge), *gap = strchr(text, ' ');
        const size_t before = json_object_size(vocab);
        failed |= add_name(vocab, text, (size_t)(gap - text), gap + 1);
        if (!failed && json_object_size(vocab) == before)
            return pc_fail(PC_ERR_FORMAT, "merges, line %zu: \"%.60s\" makes a token that is there",
                           i + 2, text);
    }
    failed |= add_name(vocab, "<|startoftext|>", 15, "");
    failed |= add_name(vocab, "<|endoftext|>", 13, "");
    return failed ? pc_fail(PC_ERR_MEMORY, "a vocabulary") : PC_OK;
}

pc_status pc_clip_gz_json(json_t **root, const void *bytes, size_t size)
{
    pc_buffer text = {0};
    json_t *vocab = json_object(), *merges = json_array();
    pc_status st = inflate_all(&text, bytes, size);
    *root = NULL;
    if (st) goto out;
    // Its first line is a header, whatever it says.
    const char *first = memchr(text.data, '\n', text.used);
    const size_t skip = first ? (size_t)(first + 1 - text.data) : text.used;
    if ((st = read_merges(merges, text.data + skip, text.used - skip, CLIP_MERGES))) goto out;
    if (json_array_size(merges) == 0) st = pc_fail(PC_ERR_FORMAT, "no merges");
    if (!st) st = clip_vocab(vocab, merges);
    if (!st) st = pc_merges_txt_json(root, vocab, "", 0, "clip", NULL);
    if (!st && json_object_set(json_object_get(*root, "model"), "merges", merges))
        st = pc_fail(PC_ERR_MEMORY, "merges");
out:
    if (st) {
        json_decref(*root);
        *root = NULL;
    }
    json_decref(vocab);
    json_decref(merges);
    free(text.data);
    return st;
}

/*
 * test_tokenizer_parts.c - vocabularies given as arrays (a GGUF's): what they encode, by hand, and what is refused.
 */
#include "data/text/bpe.h"
#include "data/text/tokenizer.h"
#include "data/text/utf8.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MARK "\xE2\x96\x81"

/* ---- asking ---- */

/* Ids as text: "3 7 7". */
static void check_ids(const pc_tokenizer *t, const char *text, const char *want)
{
    pc_ids ids = {0};
    char got[1024] = "";
    if (pc_tokenizer_encode(t, &ids, text, strlen(text), true)) fail_msg("%s", pc_error_text());
    for (int64_t i = 0; i < ids.count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), i ? " %d" : "%d", ids.list[i]);
    if (strcmp(got, want)) fail_msg("'%s': %s, expected %s", text, got, want);
    pc_ids_close(&ids);
}

static void check_text(const pc_tokenizer *t, const int32_t *ids, int64_t n, const char *want)
{
    char *text, all[1024] = "", piece[1024];
    if (pc_tokenizer_decode(t, &text, ids, n, false)) fail_msg("%s", pc_error_text());
    assert_string_equal(text, want);
    free(text);
    if (pc_tokenizer_decode(t, &text, ids, n, true)) fail_msg("%s", pc_error_text());
    pc_stream_decoder d = {.tokenizer = t};
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(pc_stream_decode(&d, ids[i], piece, sizeof piece), PC_OK);
        strcat(all, piece);
    }
    pc_stream_flush(&d, piece, sizeof piece);
    strcat(all, piece);
    assert_string_equal(all, text); // streamed, the same but for special tokens
    free(text);
}
#define TEXT(t, want, ...)                                                                         \
    check_text(t, (const int32_t[]){__VA_ARGS__},                                                  \
               (int64_t)(sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)), want)

/* The text that a checkpoint keeps gives the same tokenizer. */
static pc_tokenizer *kept(const pc_tokenizer *t)
{
    pc_tokenizer *again = NULL;
    char *json = pc_tokenizer_json(t);
    assert_non_null(json);
    if (pc_tokenizer_parse(&again, json, strlen(json))) fail_msg("%s", pc_error_text());
    free(json);
    return again;
}

enum { PARTS = 16 };
typedef struct arrays {
    pc_tokenizer_parts p;
    const char *token[300], *merge[PARTS];
    size_t token_size[300], merge_size[PARTS];
    float score[300];
    int32_t type[300];
    char byte[256][8];
} arrays;

static void give(arrays *a, const char *token, float score, int32_t type)
{
    const int32_t i = a->p.count++;
    a->token[i] = token;
    a->token_size[i] = strlen(token);
    a->score[i] = score;
    a->type[i] = type;
}

static void give_merge(arrays *a, const char *merge)
{
    a->merge[a->p.merge_count] = merge;
    a->merge_size[a->p.merge_count++] = strlen(merge);
}

static void begin_parts(arrays *a, const char *model, const char *pre)
{
    *a = (arrays){.p = {.model = model, .pre = pre, .bos = -1, .eos = -1, .pad = -1, .unk = -1}};
    a->p.add_bos = a->p.add_eos = a->p.add_space_prefix = -1;
    a->p.token = a->token;
    a->p.token_size = a->token_size;
    a->p.score = a->score;
    a->p.type = a->type;
    a->p.merge = a->merge;
    a->p.merge_size = a->merge_size;
}

/* 0-255 the byte alphabet in the order of bytes, 256 "ab", 257 <end>, 258 <user>. */
static void byte_parts(arrays *a)
{
    begin_parts(a, "gpt2", "qwen2");
    for (int b = 0; b < 256; b++) {
        a->byte[b][pc_utf8_put((unsigned char *)a->byte[b], pc_byte_char(b))] = '\0';
        give(a, a->byte[b], 0, 1);
    }
    give(a, "ab", 0, 1);
    give(a, "<end>", 0, 3);
    give(a, "<user>", 0, 4);
    give_merge(a, "a b");
    a->p.eos = 257;
}

static void test_parts_of_bytes(void **state)
{
    (void)state;
    static arrays a;
    byte_parts(&a);
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_from_parts(&t, &a.p)) fail_msg("%s", pc_error_text());
    pc_tokenizer *again = kept(t);
    for (int round = 0; round < 2; round++) {
        const pc_tokenizer *u = round ? again : t;
        check_ids(u, "abab 1", "256 256 32 49");
        check_ids(u, "a<end>b<user>", "97 257 98 258");
        TEXT(u, "ab<end>\xC3\xA9", 256, 257, 0xC3, 0xA9);
        assert_int_equal(pc_tokenizer_eos(u), 257);
        assert_int_equal(pc_tokenizer_bos(u), -1);
        assert_true(pc_tokenizer_is_special(u, 257));
        assert_false(pc_tokenizer_is_special(u, 258));
    }
    pc_tokenizer_close(again);
    pc_tokenizer_close(t);
    a.p.pre = "deepseek-coder"; // begins with a BOS, where the file names one
    a.p.bos = 257;
    if (pc_tokenizer_from_parts(&t, &a.p)) fail_msg("%s", pc_error_text());
    pc_ids ids = {0};
    assert_int_equal(pc_tokenizer_frame(t, &ids), PC_OK);
    assert_int_equal(ids.count, 1);
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
}

static void piece_parts(arrays *a)
{
    begin_parts(a, "llama", "default");
    give(a, "<unk>", 0, 2);
    give(a, "<s>", 0, 3);
    give(a, "</s>", 0, 3);
    give(a, MARK, -3, 1);
    give(a, "a", -3, 1);
    give(a, MARK "a", -1, 1);
    give(a, "<u>", 0, 4);
    a->p.bos = 1;
    a->p.eos = 2;
    a->p.unk = 0;
}

static void test_parts_of_pieces(void **state)
{
    (void)state;
    static arrays a;
    piece_parts(&a);
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_from_parts(&t, &a.p)) fail_msg("%s", pc_error_text());
    pc_tokenizer *again = kept(t);
    for (int round = 0; round < 2; round++) {
        const pc_tokenizer *u = round ? again : t;
        check_ids(u, "a a", "5 5");
        check_ids(u, "a</s>a<u>a", "5 2 5 6 5"); // a prefix behind every token that is found
        check_ids(u, "xyz", "3 0");
        TEXT(u, "a a", 5, 5);
        pc_ids ids = {0};
        assert_int_equal(pc_tokenizer_frame(u, &ids), PC_OK);
        assert_int_equal(ids.count, 1);
        pc_ids_close(&ids);
    }
    pc_tokenizer_close(again);
    pc_tokenizer_close(t);
    a.p.add_space_prefix = 0;
    a.p.add_bos = 0;
    a.p.add_eos = 1;
    if (pc_tokenizer_from_parts(&t, &a.p)) fail_msg("%s", pc_error_text());
    check_ids(t, "a a", "4 5");
    pc_ids ids = {0};
    assert_int_equal(pc_tokenizer_frame(t, &ids), PC_OK);
    assert_int_equal(ids.list[0], 2);
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
}

static void refused_parts(const arrays *a, const char *word)
{
    pc_tokenizer *t = NULL;
    assert_int_equal(pc_tokenizer_from_parts(&t, &a->p), PC_ERR_FORMAT);
    assert_null(t);
    if (!strstr(pc_error_text(), word))
        fail_msg("'%s' says nothing of '%s'", pc_error_text(), word);
}

static void test_parts_refused(void **state)
{
    (void)state;
    static arrays a;
    byte_parts(&a);
    give(&a, "ab", 0, 1);
    refused_parts(&a, "tokens[259] and tokens[256]");
    byte_parts(&a);
    give_merge(&a, "ab zz");
    refused_parts(&a, "\"zz\"");
    byte_parts(&a);
    give_merge(&a, "abc");
    refused_parts(&a, "merges[1]");
    byte_parts(&a);
    give(&a, "\xC3", 0, 1);
    refused_parts(&a, "tokens[259]");
    byte_parts(&a);
    give(&a, "", 0, 1);
    refused_parts(&a, "empty");
    byte_parts(&a);
    a.p.eos = 300;
    refused_parts(&a, "eos token id 300");
    byte_parts(&a);
    a.p.pre = "qwen3x";
    refused_parts(&a, "nearest");
    byte_parts(&a);
    a.p.model = "bert";
    refused_parts(&a, "\"bert\"");
    byte_parts(&a);
    a.type[5] = 77;
    refused_parts(&a, "token_type[5]");
    byte_parts(&a);
    a.p.count = 0;
    refused_parts(&a, "none");
    piece_parts(&a);
    a.p.score = NULL;
    refused_parts(&a, "scores");
    piece_parts(&a);
    a.score[3] = (float)NAN;
    refused_parts(&a, "scores[3]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_of_bytes),
        cmocka_unit_test(test_parts_of_pieces),
        cmocka_unit_test(test_parts_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_tokenizer.c - training, reading, encoding, decoding, streaming; hostile files. Parity with the reference
 * library is tests/parity/test_tokenizer.c's.
 */
#include "data/text/bpe.h"
#include "data/text/tokenizer.h"
#include "data/text/utf8.h"
#include "model/core/file.h"
#include "model/core/rng.h"
#include "tests/support/scratch.h"

#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const specials[] = {"<image>", "<s>", "</s>", "<pad>"};
#define WORDS                                                                                      \
    "low low low low low lower lower newest newest newest newest newest newest widest widest "     \
    "widest"
static const char *const corpus[] = {
    WORDS,
    "low\nlow\nlow\nlow\nlow\nlow\nlow\nlow\nlow",
    "<image>\nIs there a large red star? yes",
    "Is there a small blue circle? no",
    "Is there a large red star? yes",
    "Is there a small blue circle? no",
    "caf\xC3\xA9 na\xC3\xAFve \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E 12345",
};
enum { CORPUS = sizeof corpus / sizeof *corpus };

static pc_tokenizer *trained(int32_t vocab)
{
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_train(&t, corpus, CORPUS, vocab, specials, 4)) fail_msg("%s", pc_error_text());
    return t;
}

static pc_ids encoded(const pc_tokenizer *t, const char *text, bool parse_special)
{
    pc_ids ids = {0};
    if (pc_tokenizer_encode(t, &ids, text, strlen(text), parse_special))
        fail_msg("%s", pc_error_text());
    return ids;
}

/* The tokens' texts joined by '|'. */
static void check_pieces(const pc_tokenizer *t, const char *text, const char *want)
{
    pc_ids ids = encoded(t, text, true);
    char got[512] = "";
    for (int64_t i = 0; i < ids.count; i++) {
        char *piece;
        assert_int_equal(pc_tokenizer_decode(t, &piece, &ids.list[i], 1, false), PC_OK);
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", i ? "|" : "", piece);
        free(piece);
    }
    assert_string_equal(got, want);
    pc_ids_close(&ids);
}

/* ---- training ---- */

/*
 * By hand, words with their counts: low 1 and " low" 4, " lower" 2, " newest" 6, " widest" 3. Pairs: e-s and
 * s-t 9, es-t then 9; w-e 8; l-o 7, o-w 7; the order among equals is that of ids (e < s < w < bytes above 0x100).
 */
static void test_merges_by_hand(void **state)
{
    (void)state;
    pc_tokenizer *t = NULL;
    static const char *const want[] = {"e s", "es t", "l o", "lo w"};
    if (pc_tokenizer_train(&t, corpus, 1, 256 + 4, NULL, 0)) fail_msg("%s", pc_error_text());
    char *text = pc_tokenizer_json(t);
    json_t *json = json_loads(text, 0, NULL);
    const json_t *merges = json_object_get(json_object_get(json, "model"), "merges");
    assert_int_equal(json_array_size(merges), 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(json_string_value(json_array_get(merges, i)), want[i]);
    assert_int_equal(pc_tokenizer_vocab(t), 260);
    json_decref(json);
    free(text);
    check_pieces(t, "lowest", "low|est");
    pc_tokenizer_close(t);
}

/* What begins a text is learned as it looks behind another text too: " yes" although only "yes" was shown; marks
 * at its end as they look before a newline. */
static void test_first_words_behind_a_space(void **state)
{
    (void)state;
    static const char *const texts[] = {"yes", "yes", "2", "no", "no", "yes?", "no?", "a .", "b ."};
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_train(&t, texts, 9, 400, NULL, 0)) fail_msg("%s", pc_error_text());
    check_pieces(t, "yes yes no no", "yes| yes| no| no");
    check_pieces(t, "no 2", "no| |2");
    check_pieces(t, "no?\nyes\n", "no|?\n|yes|\n");
    check_pieces(t, "no? no .\n", "no|?| no| .\n");
    pc_tokenizer_close(t);
}

static void test_training_is_deterministic(void **state)
{
    (void)state;
    pc_tokenizer *a = trained(300), *b = trained(300);
    char *one = pc_tokenizer_json(a), *two = pc_tokenizer_json(b);
    assert_string_equal(one, two);
    free(one);
    free(two);
    pc_tokenizer_close(a);
    pc_tokenizer_close(b);
}

static void test_ids_of_a_trained_one(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(300);
    assert_int_equal(pc_tokenizer_vocab(t), 300);
    assert_int_equal(pc_tokenizer_id(t, "!"), 0); // first of the alphabet
    assert_int_equal(pc_tokenizer_id(t, "<image>"), 296);
    assert_int_equal(pc_tokenizer_bos(t), 297);
    assert_int_equal(pc_tokenizer_eos(t), 298);
    assert_int_equal(pc_tokenizer_pad(t), 299);
    assert_int_equal(pc_tokenizer_id(t, "nothing"), -1);
    assert_true(pc_tokenizer_is_special(t, 296));
    assert_false(pc_tokenizer_is_special(t, 0));
    assert_false(pc_tokenizer_is_special(t, -1));
    pc_ids ids = encoded(t, "low", true);
    assert_int_equal(pc_tokenizer_frame(t, &ids), PC_OK); // a BOS in front
    assert_int_equal(ids.list[0], 297);
    assert_int_equal(ids.count, 2);
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
}

/* Marks in the training texts are cut out, not learned from. */
static void test_specials_are_not_learned_from(void **state)
{
    (void)state;
    static const char *const texts[] = {"<image>", "<image><image>", "<image>"};
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_train(&t, texts, 3, 400, specials, 4)) fail_msg("%s", pc_error_text());
    assert_int_equal(pc_tokenizer_vocab(t), 260); // nothing was left to merge
    pc_tokenizer_close(t);
}

static void test_training_refuses(void **state)
{
    (void)state;
    static const char *const empty[] = {""};
    static const char *const letter[] = {"a"};
    pc_tokenizer *t = NULL;
    assert_int_equal(pc_tokenizer_train(&t, corpus, CORPUS, 259, specials, 4), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "260"));
    assert_int_equal(pc_tokenizer_train(&t, corpus, CORPUS, 300, empty, 1), PC_ERR_INPUT);
    assert_int_equal(pc_tokenizer_train(&t, corpus, CORPUS, 300, letter, 1), PC_ERR_FORMAT);
    assert_null(t);
}

/* ---- words ---- */

static pc_status join_word(void *arg, const char *word, size_t size)
{
    char *out = arg;
    snprintf(out + strlen(out), 512 - strlen(out), "%s%.*s", *out ? "|" : "", (int)size, word);
    return PC_OK;
}

static void check_words(const char *pattern, const char *text, const char *want)
{
    pc_word_rules r = {0};
    char got[512] = "";
    assert_int_equal(pc_word_rules_split(&r, pattern), PC_OK);
    assert_int_equal(pc_words_each(&r, text, strlen(text), true, join_word, got), PC_OK);
    assert_string_equal(got, want);
    pc_word_rules_close(&r);
}

static void test_patterns(void **state)
{
    (void)state;
    const char *q = pc_pattern_qwen2, *g = pc_pattern_gpt2;
    check_words(q, "It's 2024!  ok\n\n x\t y", "It|'s| |2|0|2|4|!| | ok|\n\n| x|\t| y");
    check_words(g, "It's 2024!  ok\n\n x\t y", "It|'s| 2024|!| | ok|\n\n| x|\t| y");
    check_words(q, "foo_bar, (x+1)==2\r\n", "foo|_bar|,| (|x|+|1|)==|2|\r\n");
    check_words(g, "foo_bar, (x+1)==2\r\n", "foo|_|bar|,| (|x|+|1|)==|2|\r\n");
    check_words(q, "I'LL we'Ve 'quoted'", "I|'LL| we|'Ve| '|quoted|'");
    check_words(g, "I'LL we'Ve 'quoted'", "I|'|LL| we|'|Ve| '|quoted|'");
    check_words(q, "a\n \n b   ", "a|\n \n| b|   ");
    check_words(g, "3.14 $x", "3|.|14| $|x");
    // White space is Unicode's: U+180E is none, U+3000 is.
    check_words("\\s+",
                "a\xE1\xA0\x8E"
                "b\xE3\x80\x80"
                "c",
                "a\xE1\xA0\x8E"
                "b|\xE3\x80\x80|c");
    check_words("[\\s,]+", "a, b", "a|, |b");
    check_words("x*", "axxb", "a|xx|b"); // empty matches cut nothing
}

static void test_patterns_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"[\\W]", "[\\H]", "[[a]b]", "[a&&b]",
                                      "\\R",   "a\\",   "(",      "\\b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pc_word_rules r = {0};
        assert_int_equal(pc_word_rules_split(&r, bad[i]), PC_ERR_INPUT);
        assert_true(strlen(pc_error_text()) > 8);
        pc_word_rules_close(&r);
    }
}

/* ---- encode and decode ---- */

static void test_special_tokens_in_text(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(300);
    check_pieces(t, "<image>low</s>", "<image>|low|</s>");
    pc_ids ids = encoded(t, "<image>low</s>", false);
    for (int64_t i = 0; i < ids.count; i++) assert_false(pc_tokenizer_is_special(t, ids.list[i]));
    char *text;
    assert_int_equal(pc_tokenizer_decode(t, &text, ids.list, ids.count, true), PC_OK);
    assert_string_equal(text, "<image>low</s>");
    free(text);
    pc_ids_close(&ids);
    const int32_t bad[] = {300, -1};
    assert_int_equal(pc_tokenizer_decode(t, &text, bad, 1, false), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "300"));
    assert_int_equal(pc_tokenizer_decode(t, &text, bad + 1, 1, false), PC_ERR_INPUT);
    pc_tokenizer_close(t);
}

/* Any bytes go in; valid UTF-8 in composed form comes out as it was, the rest repaired. */
static void test_round_trip_of_any_bytes(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(300);
    const pc_rng_key key = {.seed = 11, .stream = PC_STREAM_TEST};
    for (uint64_t round = 0; round < 400; round++) {
        char in[64];
        const size_t n = 1 + pc_rng_u32(&key, round * 100) % 60;
        for (size_t i = 0; i < n; i++) { // runs of letters between bytes of all kinds
            const uint32_t r = pc_rng_u32(&key, round * 100 + 1 + i);
            in[i] = r % 3 ? "low est\n"[r / 3 % 8] : (char)(r / 3 % 255 + 1);
        }
        in[n] = '\0';
        size_t want_size;
        char *repaired = pc_utf8_repaired(in, n, &want_size);
        const char *want;
        char *owned, *got;
        assert_int_equal(pc_normal_nfc(&want, &want_size, &owned, repaired, want_size), PC_OK);
        pc_ids ids = encoded(t, in, false);
        assert_int_equal(pc_tokenizer_decode(t, &got, ids.list, ids.count, false), PC_OK);
        assert_string_equal(got, want);
        free(got);
        free(owned);
        free(repaired);
        pc_ids_close(&ids);
    }
    pc_tokenizer_close(t);
}

/* A word of 200,000 letters ends, and in the same ids as its pieces would suggest. */
static void test_long_word(void **state)
{
    (void)state;
    enum { N = 200000 };
    pc_tokenizer *t = trained(300);
    char *text = malloc(3 * N + 1);
    for (int i = 0; i < N; i++) memcpy(text + 3 * i, "low", 3);
    text[3 * N] = '\0';
    pc_ids ids = encoded(t, text, true), one = encoded(t, "low", true);
    assert_int_equal(one.count, 1);
    assert_int_equal(ids.count, N);
    for (int64_t i = 0; i < N; i++) assert_int_equal(ids.list[i], one.list[0]);
    pc_ids_close(&ids);
    pc_ids_close(&one);
    free(text);
    pc_tokenizer_close(t);
}

/* Streaming never shows half a character, and all pieces are the decoded text. */
static void test_streaming(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(260); // bytes only: every character is cut
    const char *text = "a\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80z";
    pc_ids ids = encoded(t, text, false);
    assert_int_equal(ids.count, (int64_t)strlen(text));
    assert_int_equal(pc_ids_add(&ids, pc_tokenizer_eos(t)), PC_OK); // special: silent
    char all[64] = "", piece[64];
    pc_stream_decoder d = {.tokenizer = t};
    for (int64_t i = 0; i < ids.count; i++) {
        assert_int_equal(pc_stream_decode(&d, ids.list[i], piece, sizeof piece), PC_OK);
        assert_true(pc_utf8_valid(piece, strlen(piece)));
        strcat(all, piece);
    }
    pc_stream_flush(&d, piece, sizeof piece);
    assert_string_equal(piece, "");
    assert_string_equal(all, text);
    // Cut inside the emoji: one replacement for its beginning, at the flush.
    d = (pc_stream_decoder){.tokenizer = t};
    for (int64_t i = 6; i < 9; i++) {
        assert_int_equal(pc_stream_decode(&d, ids.list[i], piece, sizeof piece), PC_OK);
        assert_string_equal(piece, "");
    }
    pc_stream_flush(&d, piece, sizeof piece);
    assert_string_equal(piece, "\xEF\xBF\xBD");
    // Too small a buffer is said, not overrun.
    assert_int_equal(pc_stream_decode(&d, ids.list[0], piece, 1), PC_ERR_INPUT);
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
}

typedef struct job {
    const pc_tokenizer *t;
    pc_ids ids;
} job;

static void *encode_many(void *arg)
{
    job *j = arg;
    for (int i = 0; i < 200; i++)
        for (int k = 0; k < CORPUS; k++)
            if (pc_tokenizer_encode(j->t, &j->ids, corpus[k], strlen(corpus[k]), true)) abort();
    return NULL;
}

/* The cache of words is shared by threads; the ids are the same. */
static void test_threads(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(300);
    job jobs[4] = {{0}};
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) {
        jobs[i].t = t;
        assert_int_equal(pthread_create(&thread[i], NULL, encode_many, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(jobs[i].ids.count, jobs[0].ids.count);
        assert_memory_equal(jobs[i].ids.list, jobs[0].ids.list,
                            (size_t)jobs[0].ids.count * sizeof *jobs[0].ids.list);
    }
    for (int i = 0; i < 4; i++) pc_ids_close(&jobs[i].ids);
    pc_tokenizer_close(t);
}

/* ---- files ---- */

/* A trained tokenizer's JSON, changed by a path and a value, read again. */
static pc_status with_change(pc_tokenizer **out, const char *const *path, json_t *value)
{
    pc_tokenizer *t = trained(300);
    char *text = pc_tokenizer_json(t);
    json_t *root = json_loads(text, 0, NULL), *at = root;
    while (path[1]) at = json_object_get(at, *path++);
    assert_true(json_is_object(at));
    json_object_set_new(at, *path, value);
    free(text);
    text = json_dumps(root, 0);
    const pc_status st = pc_tokenizer_parse(out, text, strlen(text));
    free(text);
    json_decref(root);
    pc_tokenizer_close(t);
    return st;
}

#define PATH(...) ((const char *const[]){__VA_ARGS__, NULL})

static void refused(const char *const *path, json_t *value, const char *word)
{
    pc_tokenizer *t = NULL;
    const pc_status st = with_change(&t, path, value);
    if (st != PC_ERR_FORMAT && st != PC_ERR_INPUT) fail_msg("%s: taken", word);
    assert_null(t);
    if (!strstr(pc_error_text(), word))
        fail_msg("'%s' says nothing of '%s'", pc_error_text(), word);
}

static void test_other_kinds_are_refused(void **state)
{
    (void)state;
    refused(PATH("model", "type"), json_string("Unigram"), "Unigram");
    refused(PATH("model", "byte_fallback"), json_string("yes"), "byte_fallback");
    refused(PATH("model", "end_of_word_suffix"), json_integer(1), "end_of_word_suffix");
    refused(PATH("model", "continuing_subword_prefix"), json_string("##"), "##");
    refused(PATH("model", "dropout"), json_real(0.1), "dropout");
    refused(PATH("normalizer"), json_pack("{s:s}", "type", "BertNormalizer"), "BertNormalizer");
    refused(PATH("normalizer"), json_pack("{s:s}", "type", "Replace"), "pattern");
    refused(PATH("normalizer"), json_pack("{s:s}", "type", "Prepend"), "prepend");
    refused(PATH("pre_tokenizer"),
            json_pack("{s:s,s:s}", "type", "Metaspace", "prepend_scheme", "no"), "prepend_scheme");
    refused(PATH("pre_tokenizer", "pretokenizers"),
            json_pack("[{s:s},{s:s}]", "type", "UnicodeScripts", "type", "ByteLevel"),
            "UnicodeScripts");
    refused(PATH("pre_tokenizer", "pretokenizers"),
            json_pack("[{s:s,s:{s:s},s:s},{s:s}]", "type", "Split", "pattern", "Regex", "a",
                      "behavior", "Remove", "type", "ByteLevel"),
            "Removed");
    refused(PATH("pre_tokenizer", "pretokenizers"),
            json_pack("[{s:s,s:{s:s},s:s},{s:s}]", "type", "Split", "pattern", "Regex", "(",
                      "behavior", "Isolated", "type", "ByteLevel"),
            "(");
    refused(PATH("decoder"), json_pack("{s:s}", "type", "WordPiece"), "WordPiece");
    refused(PATH("post_processor"), json_pack("{s:s}", "type", "BertProcessing"), "cls");
    refused(PATH("post_processor"), json_pack("{s:s}", "type", "Other"), "Other");
}

static void test_broken_files_are_refused(void **state)
{
    (void)state;
    refused(PATH("model"), json_null(), "model");
    refused(PATH("model", "vocab"), json_object(), "vocab");
    refused(PATH("model", "vocab", "a"), json_integer(-3), "-3");
    refused(PATH("model", "vocab", "a"), json_integer(1 << 30), "1073741824");
    refused(PATH("model", "vocab", "a"), json_string("7"), "\"a\"");
    refused(PATH("model", "vocab", "a"), json_integer(1), "given twice");
    refused(PATH("model", "vocab", ""), json_integer(295), "empty");
    refused(PATH("model", "merges"), json_null(), "merges");
    refused(PATH("model", "merges"), json_pack("[s]", "ab"), "merges[0]");
    refused(PATH("model", "merges"), json_pack("[s]", "a b c"), "merges[0]");
    refused(PATH("model", "merges"), json_pack("[[s]]", "a"), "merges[0]");
    refused(PATH("model", "merges"), json_pack("[i]", 3), "merges[0]");
    refused(PATH("model", "merges"), json_pack("[s,s]", "l o", "q q"), "\"qq\"");
    refused(PATH("added_tokens"), json_pack("[{s:i}]", "id", 299), "content");
    refused(PATH("added_tokens"), json_pack("[{s:s,s:i}]", "content", "<x>", "id", 5), "<x>");
    refused(PATH("added_tokens"), json_pack("[{s:s,s:i}]", "content", "a", "id", 299), "\"a\"");
    refused(PATH("added_tokens"),
            json_pack("[{s:s,s:i,s:i}]", "content", "<x>", "id", 299, "special", 1), "special");

    pc_tokenizer *t = NULL;
    assert_int_equal(pc_tokenizer_parse(&t, "[1]", 3), PC_ERR_FORMAT);
    assert_int_equal(pc_tokenizer_parse(&t, "{\"a\":1,\"a\":2}", 13), PC_ERR_FORMAT);
    assert_int_equal(pc_tokenizer_open(&t, "/nowhere/at/all.json"), PC_ERR_IO);
    assert_non_null(strstr(pc_error_text(), "/nowhere/at/all.json"));
    scratch_open();
    assert_int_equal(pc_tokenizer_open(&t, scratch_path("")), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "tokenizer.json"));
    scratch_close();
}

/* Both ways of writing merges mean the same. */
static void test_merges_as_pairs(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(300), *again = NULL;
    char *text = pc_tokenizer_json(t);
    json_t *root = json_loads(text, 0, NULL), *list = json_array(), *one;
    size_t i;
    json_array_foreach(json_object_get(json_object_get(root, "model"), "merges"), i, one)
    {
        const char *s = json_string_value(one), *gap = strchr(s, ' ');
        json_array_append_new(list, json_pack("[s#,s]", s, (int)(gap - s), gap + 1));
    }
    free(text);
    json_object_set_new(json_object_get(root, "model"), "merges", list);
    text = json_dumps(root, 0);
    if (pc_tokenizer_parse(&again, text, strlen(text))) fail_msg("%s", pc_error_text());
    for (int k = 0; k < CORPUS; k++) {
        pc_ids a = encoded(t, corpus[k], true), b = encoded(again, corpus[k], true);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.list, b.list, (size_t)a.count * sizeof *a.list);
        pc_ids_close(&a);
        pc_ids_close(&b);
    }
    free(text);
    json_decref(root);
    pc_tokenizer_close(again);
    pc_tokenizer_close(t);
}

static void test_flags_of_added_tokens(void **state)
{
    (void)state;
    pc_tokenizer *t = NULL;
    json_t *added =
        json_pack("[{s:s,s:i,s:b,s:b},{s:s,s:i,s:b},{s:s,s:i,s:b},{s:s,s:i}]", "content", "<strip>",
                  "id", 296, "lstrip", 1, "rstrip", 1, "content", "word", "id", 297, "single_word",
                  1, "content", "<sp>", "id", 298, "special", 1, "content", "<spa>", "id", 299);
    assert_int_equal(with_change(&t, PATH("added_tokens"), added), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "TemplateProcessing")); // <s> is gone
    added = json_pack("[{s:s,s:i,s:b,s:b},{s:s,s:i,s:b},{s:s,s:i,s:b},{s:s,s:i},{s:s,s:i}]",
                      "content", "<strip>", "id", 296, "lstrip", 1, "rstrip", 1, "content", "word",
                      "id", 298, "single_word", 1, "content", "<sp>", "id", 299, "special", 1,
                      "content", "<spa>", "id", 300, "content", "<s>", "id", 297);
    if (with_change(&t, PATH("added_tokens"), added)) fail_msg("%s", pc_error_text());
    check_pieces(t, "low \t<strip>  low", "low|<strip>|low");
    check_pieces(t, "low word low",
                 "low| |word|"
                 " low");
    pc_ids ids = encoded(t, "sword", true); // within a word it is none
    for (int64_t i = 0; i < ids.count; i++) assert_true(ids.list[i] < 296);
    pc_ids_close(&ids);
    ids = encoded(t, "<sp><spa>", true); // the longest wins
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.list[0], 299);
    assert_int_equal(ids.list[1], 300);
    pc_ids_close(&ids);
    ids = encoded(t, "<sp><spa>", false); // only special ones are kept out
    assert_int_equal(ids.list[ids.count - 1], 300);
    assert_true(ids.count > 2);
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
}

static void test_roles_from_config(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(300), *again = NULL;
    char *text = pc_tokenizer_json(t);
    scratch_open();
    scratch_write("tokenizer.json", text, strlen(text));
    free(text);
    pc_tokenizer_close(t);
    const char *config = "{\"bos_token\": null, \"eos_token\": {\"content\": \"<pad>\"}, "
                         "\"pad_token\": \"<pad>\"}";
    scratch_write("tokenizer_config.json", config, strlen(config));
    if (pc_tokenizer_open(&t, scratch_path(""))) fail_msg("%s", pc_error_text());
    text = pc_tokenizer_json(t);
    if (pc_tokenizer_parse(&again, text, strlen(text))) fail_msg("%s", pc_error_text());
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pc_tokenizer_bos(i ? again : t), -1);
        assert_int_equal(pc_tokenizer_eos(i ? again : t), 299);
        assert_int_equal(pc_tokenizer_pad(i ? again : t), 299);
    }
    free(text);
    pc_tokenizer_close(again);
    pc_tokenizer_close(t);
    // Where it is silent, generation_config.json's ids count.
    config = "{\"pad_token\": null}";
    scratch_write("tokenizer_config.json", config, strlen(config));
    config = "{\"eos_token_id\": [298, 299], \"pad_token_id\": 299, \"bos_token_id\": 9999}";
    scratch_write("generation_config.json", config, strlen(config));
    if (pc_tokenizer_open(&t, scratch_path(""))) fail_msg("%s", pc_error_text());
    assert_int_equal(pc_tokenizer_bos(t), -1);
    assert_int_equal(pc_tokenizer_eos(t), 298);
    assert_int_equal(pc_tokenizer_pad(t), -1); // said to be none
    pc_tokenizer_close(t);
    config = "{\"eos_token\": \"<none>\"}";
    scratch_write("tokenizer_config.json", config, strlen(config));
    assert_int_equal(pc_tokenizer_open(&t, scratch_path("")), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "<none>"));
    scratch_close();
}

static void test_ignore_merges(void **state)
{
    (void)state;
    pc_tokenizer *t = NULL;
    // "zz" is a token that no merge makes: only as a whole word it appears.
    pc_tokenizer *base = trained(300);
    char *text = pc_tokenizer_json(base);
    json_t *root = json_loads(text, 0, NULL), *model = json_object_get(root, "model");
    json_object_set_new(json_object_get(model, "vocab"), "zz", json_integer(300));
    json_object_set_new(model, "ignore_merges", json_true());
    free(text);
    text = json_dumps(root, 0);
    if (pc_tokenizer_parse(&t, text, strlen(text))) fail_msg("%s", pc_error_text());
    check_pieces(t, "zz", "zz");
    check_pieces(t, "zzz", "z|z|z");
    free(text);
    json_decref(root);
    pc_tokenizer_close(t);
    pc_tokenizer_close(base);
}

/* Random damage to a good file: taken or refused, never worse. */
static void test_damaged_files(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(300);
    char *good = pc_tokenizer_json(t);
    const size_t n = strlen(good);
    char *bad = malloc(n + 1);
    const pc_rng_key key = {.seed = 5, .stream = PC_STREAM_TEST};
    int taken = 0, refusals = 0;
    for (uint64_t round = 0; round < 600; round++) {
        memcpy(bad, good, n + 1);
        size_t size = n;
        for (uint64_t k = 0; k < 1 + round % 3; k++)
            bad[pc_rng_u32(&key, round * 8 + k) % n] =
                "{}[]\",:0129ab\\n \xC3"[pc_rng_u32(&key, 1000000 + round * 8 + k) % 17];
        if (round % 5 == 0) size = pc_rng_u32(&key, 2000000 + round) % n; // cut short
        pc_tokenizer *out = NULL;
        if (pc_tokenizer_parse(&out, bad, size)) {
            assert_null(out);
            assert_true(strlen(pc_error_text()) > 10);
            refusals++;
            continue;
        }
        taken++;
        pc_ids ids = encoded(out, corpus[CORPUS - 1], true);
        pc_ids_close(&ids);
        pc_tokenizer_close(out);
    }
    assert_true(taken > 0 && refusals > 100);
    free(bad);
    free(good);
    pc_tokenizer_close(t);
}

static void test_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"a\x80z", "a\xEF\xBF\xBDz"},
        {"\xE6\x97", "\xEF\xBF\xBD"},                                             // one beginning
        {"\xE6\x97\x41", "\xEF\xBF\xBD\x41"},                                     //
        {"\xC0\xAF", "\xEF\xBF\xBD\xEF\xBF\xBD"},                                 // overlong
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},                 // a surrogate
        {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, // above 10FFFF
        {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n;
        char *out = pc_utf8_repaired(cases[i].in, strlen(cases[i].in), &n);
        assert_string_equal(out, cases[i].out);
        assert_int_equal(n, strlen(cases[i].out));
        assert_int_equal(pc_utf8_valid(cases[i].in, strlen(cases[i].in)),
                         strcmp(cases[i].in, cases[i].out) == 0);
        free(out);
    }
    for (int b = 0; b < 256; b++) assert_int_equal(pc_byte_of_char(pc_byte_char(b)), b);
    assert_int_equal(pc_byte_char('\n'), 0x10A);
    assert_int_equal(pc_byte_char(' '), 0x120);
    assert_int_equal(pc_byte_char(127), 0x121);
    assert_int_equal(pc_byte_char(173), 0x143);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_by_hand),
        cmocka_unit_test(test_first_words_behind_a_space),
        cmocka_unit_test(test_training_is_deterministic),
        cmocka_unit_test(test_ids_of_a_trained_one),
        cmocka_unit_test(test_specials_are_not_learned_from),
        cmocka_unit_test(test_training_refuses),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_patterns_refused),
        cmocka_unit_test(test_special_tokens_in_text),
        cmocka_unit_test(test_round_trip_of_any_bytes),
        cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_other_kinds_are_refused),
        cmocka_unit_test(test_broken_files_are_refused),
        cmocka_unit_test(test_merges_as_pairs),
        cmocka_unit_test(test_flags_of_added_tokens),
        cmocka_unit_test(test_roles_from_config),
        cmocka_unit_test(test_ignore_merges),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_tokenizer_kinds.c - the layouts other than a trained tokenizer's own: SentencePiece's file, tiktoken,
 * vocab.json with merges.txt, CLIP's gzip; what each becomes must encode as the definition says, by hand where that
 * can be done, and hostile bytes end in a message. Parity with the libraries is tests/parity/test_tokenizer_kinds.c's.
 */
#include "data/text/base64.h"
#include "data/text/bpe.h"
#include "data/text/tokenizer.h"
#include "data/text/utf8.h"
#include "model/core/rng.h"
#include "tests/support/scratch.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
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

/* ---- a SentencePiece file, written by hand ---- */

typedef struct wire {
    unsigned char bytes[1 << 16];
    size_t size;
} wire;

static void put_varint(wire *w, uint64_t v)
{
    do w->bytes[w->size++] = (unsigned char)((v & 0x7F) | (v > 0x7F ? 0x80 : 0));
    while ((v >>= 7) != 0);
}

static void put_bytes(wire *w, int field, const void *bytes, size_t n)
{
    put_varint(w, (uint64_t)field << 3 | 2);
    put_varint(w, n);
    memcpy(w->bytes + w->size, bytes, n);
    w->size += n;
}

static void put_number(wire *w, int field, uint64_t v)
{
    put_varint(w, (uint64_t)field << 3);
    put_varint(w, v);
}

static void put_piece(wire *w, const char *text, float score, int type)
{
    static wire p;
    p.size = 0;
    put_bytes(&p, 1, text, strlen(text));
    put_varint(&p, 2 << 3 | 5);
    memcpy(p.bytes + p.size, &score, 4);
    p.size += 4;
    if (type != 1) put_number(&p, 3, (uint64_t)type);
    put_bytes(w, 1, p.bytes, p.size);
}

typedef struct settings {
    bool fallback, prefix, remove;
    int model_type;
    const char *surface;
} settings;

static void put_settings(wire *w, settings s)
{
    static wire p;
    p.size = 0;
    put_number(&p, 3, (uint64_t)s.model_type);
    put_number(&p, 35, s.fallback);
    if (s.surface) put_bytes(&p, 44, s.surface, strlen(s.surface));
    put_bytes(w, 2, p.bytes, p.size);
    p.size = 0;
    put_bytes(&p, 1, "identity", 8);
    put_number(&p, 3, s.prefix);
    put_number(&p, 4, s.remove);
    put_bytes(w, 3, p.bytes, p.size);
    put_number(w, 99, 7); // unknown fields are passed over
}

/* 0 <unk>, 1 <s>, 2 </s>, then with fallback 256 bytes, then what is given. */
static void begin_model(wire *w, bool fallback)
{
    w->size = 0;
    put_piece(w, "<unk>", 0, 2);
    put_piece(w, "<s>", 0, 3);
    put_piece(w, "</s>", 0, 3);
    for (int b = 0; b < 256 && fallback; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        put_piece(w, name, 0, 6);
    }
}

static pc_tokenizer *model_of(const wire *w)
{
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_sentencepiece_parse(&t, w->bytes, w->size)) fail_msg("%s", pc_error_text());
    return t;
}

static void test_sentencepiece(void **state)
{
    (void)state;
    static wire w;
    begin_model(&w, true); // pieces from 259 on
    put_piece(&w, MARK "a", -1, 1);
    put_piece(&w, "ab", 0, 1);    // 260: the best
    put_piece(&w, MARK, -9, 1);   // 261
    put_piece(&w, "a", -9, 1);    // 262
    put_piece(&w, "b", -9, 1);    // 263
    put_piece(&w, "abab", -5, 1); // 264
    put_piece(&w, "<ud>", 0, 4);  // 265
    put_piece(&w, "bb", -3, 5);   // 266: unused, taken apart again
    put_settings(&w, (settings){true, true, false, 2, NULL});
    pc_tokenizer *first = model_of(&w);
    for (int round = 0; round < 2; round++) {
        pc_tokenizer *t = round ? kept(first) : first;
        assert_int_equal(pc_tokenizer_vocab(t), 267);
        assert_int_equal(pc_tokenizer_bos(t), 1);
        assert_int_equal(pc_tokenizer_eos(t), 2);
        assert_int_equal(pc_tokenizer_pad(t), -1);
        check_ids(t, "", "");
        check_ids(t, "ab", "261 260"); // "ab" goes before the mark's pair
        check_ids(t, "a", "259");
        check_ids(t, "abab", "261 264");
        check_ids(t, " ab", "261 261 260");
        check_ids(t, "bb", "261 263 263"); // merged into the unused piece, given out as its parts
        check_ids(t, "a<ud>b", "259 265 263");
        check_ids(t, "\xC3\xA9", "261 198 172"); // no piece: its bytes
        check_ids(t, "<s>", "261 63 118 65");    // a control piece is not found in texts
        check_ids(t, "\xFF", "261 242 194 192"); // no character: U+FFFD
        TEXT(t, "ab", 261, 260);
        TEXT(t, " ab", 261, 261, 260);
        TEXT(t, "a", 1, 259, 2); // control pieces vanish, and the first piece is the next
        TEXT(t,
             "\xC3\xA9"
             "a",
             198, 172, 262);
        TEXT(t,
             "\xEF\xBF\xBD\xEF\xBF\xBD"
             "a",
             242, 194, 262); // every byte that is no text
        TEXT(t, " \xE2\x81\x87 b", 0, 263);
        TEXT(t, "ab", 260, 5000); // a token of the files beside gives no text
        pc_ids ids = {0};
        assert_int_equal(pc_tokenizer_frame(t, &ids), PC_OK);
        assert_int_equal(ids.count, 1);
        assert_int_equal(ids.list[0], 1);
        pc_ids_close(&ids);
        if (round) pc_tokenizer_close(t);
    }
    pc_tokenizer_close(first);
}

static void test_sentencepiece_settings(void **state)
{
    (void)state;
    static wire w;
    begin_model(&w, false); // pieces from 3 on
    put_piece(&w, MARK "a", -1, 1);
    put_piece(&w, "a", -2, 1);
    put_piece(&w, MARK, -3, 1);
    const size_t pieces = w.size;
    put_settings(&w, (settings){false, true, true, 2, "?"});
    pc_tokenizer *t = model_of(&w);
    check_ids(t, "  a   a ", "3 3"); // spaces collapse and leave the ends
    check_ids(t, "   ", "");
    check_ids(t, "xyz", "5 0"); // unknown characters that stand together are one
    check_ids(t, "xax", "5 0 4 0");
    TEXT(t, "a a", 3, 3);
    TEXT(t, "a", 5, 5, 3); // leading spaces all go
    TEXT(t, "?a", 0, 4);
    pc_tokenizer_close(t);
    w.size = pieces;
    put_settings(&w, (settings){false, false, false, 2, NULL});
    t = model_of(&w);
    check_ids(t, "a a", "4 3");
    check_ids(t, " a", "3");
    TEXT(t, " a", 3); // no prefix was added, none is taken off
    pc_tokenizer_close(t);
}

/* Scores are sums of logarithms: the best way through a text, worked out by hand. */
static void test_unigram(void **state)
{
    (void)state;
    static wire w;
    begin_model(&w, false);       // pieces from 3 on
    put_piece(&w, MARK, -2, 1);   // 3
    put_piece(&w, "a", -1, 1);    // 4
    put_piece(&w, "b", -1.5f, 1); // 5
    put_piece(&w, "ab", -2, 1);   // 6: better than a and b
    put_piece(&w, "ba", -3, 1);   // 7
    put_piece(&w, "aa", -2, 1);   // 8: as good as twice a
    put_piece(&w, "abb", -9, 1);  // 9: worse than ab and b
    put_piece(&w, "<ud>", 0, 4);  // 10
    put_piece(&w, "bb", -1, 5);   // 11: unused, never found
    put_settings(&w, (settings){false, true, false, 1, NULL});
    pc_tokenizer *first = model_of(&w);
    for (int round = 0; round < 2; round++) {
        pc_tokenizer *t = round ? kept(first) : first;
        assert_int_equal(pc_tokenizer_vocab(t), 12);
        check_ids(t, "", "");
        check_ids(t, "ab", "3 6");
        check_ids(t, "abb", "3 6 5");
        check_ids(t, "aba", "3 6 4"); // ab a: -3; a ba: -4
        check_ids(t, "aa", "3 8");    // of equal sums the longer last piece, found first, stays
        check_ids(t, "aaa", "3 4 8"); // a aa and aa a: -3
        check_ids(t, "bb", "3 5 5");  // not the unused piece
        check_ids(t, "xyz", "3 0");   // unknown characters that stand together are one
        check_ids(t, "axbx", "3 4 0 5 0");
        check_ids(t, "b<ud>a", "3 5 10 4");
        check_ids(t, "</s>", "3 0"); // a control piece is not found in texts
        check_ids(t, "a b", "3 4 3 5");
        TEXT(t, "ab", 3, 6);
        TEXT(t, "a \xE2\x81\x87 b", 3, 4, 0, 5);
        if (round) pc_tokenizer_close(t);
    }
    pc_tokenizer_close(first);
    begin_model(&w, true); // unknown characters give their bytes
    put_piece(&w, MARK, -2, 1);
    put_piece(&w, "a", -1, 1); // 260
    put_settings(&w, (settings){true, true, false, 1, NULL});
    pc_tokenizer *t = model_of(&w);
    check_ids(t, "a\xC3\xA9", "259 260 198 172");
    TEXT(t, "a\xC3\xA9", 259, 260, 198, 172);
    pc_tokenizer_close(t);
}

static void test_unigram_json(void **state)
{
    (void)state;
    static const char text[] =
        "{\"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"byte_fallback\": false, \"vocab\": "
        "[[\"<unk>\", 0], [\"a\", -1], [\"b\", -1.5], [\"ab\", -2], [\"xy\", -50], [\"</s>\", 0]]},"
        " \"added_tokens\": [{\"id\": 5, \"content\": \"</s>\", \"special\": true}]}";
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_parse(&t, text, strlen(text))) fail_msg("%s", pc_error_text());
    check_ids(t, "abab", "3 3");
    check_ids(t, "bz", "2 0");
    check_ids(t, "<unk>", "0"); // an ordinary piece to this file, and found like one
    check_ids(t, "xy", "4");    // two unknown characters that are a piece after all
    check_ids(t, "a</s>", "1 5");
    pc_ids ids = {0}; // where special tokens are not to be found, their letters are
    assert_int_equal(pc_tokenizer_encode(t, &ids, "</s>", 4, false), PC_OK);
    assert_int_equal(ids.count, 1);
    assert_int_equal(ids.list[0], 0);
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
    static const char *const bad[][2] = {
        {"{\"a\": 1}", "array of"},
        {"[]", "array of"},
        {"[[\"a\"]]", "vocab[0]"},
        {"[[\"a\", -1], [\"a\", -2]]", "piece 0 already"},
        {"[[\"a\", \"b\"]]", "[piece, score]"},
        {"[[\"\", 1]]", "empty"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char file[256];
        snprintf(file, sizeof file, "{\"model\": {\"type\": \"Unigram\", \"vocab\": %s}}",
                 bad[i][0]);
        assert_int_equal(pc_tokenizer_parse(&t, file, strlen(file)), PC_ERR_FORMAT);
        if (!strstr(pc_error_text(), bad[i][1]))
            fail_msg("%s: '%s' says nothing of '%s'", bad[i][0], pc_error_text(), bad[i][1]);
    }
    const char *unk =
        "{\"model\": {\"type\": \"Unigram\", \"unk_id\": 3, \"vocab\": [[\"a\", -1]]}}";
    assert_int_equal(pc_tokenizer_parse(&t, unk, strlen(unk)), PC_ERR_FORMAT);
    const char *coded = "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", -1]]}, "
                        "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}}";
    assert_int_equal(pc_tokenizer_parse(&t, coded, strlen(coded)), PC_ERR_FORMAT);
    // Without an unknown token only what is known can be said.
    const char *none =
        "{\"model\": {\"type\": \"Unigram\", \"unk_id\": null, \"vocab\": [[\"a\", -1]]}}";
    if (pc_tokenizer_parse(&t, none, strlen(none))) fail_msg("%s", pc_error_text());
    check_ids(t, "aa", "0 0");
    assert_int_equal(pc_tokenizer_encode(t, &ids, "ab", 2, true), PC_ERR_INPUT);
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
}

/* A folder's class decides what is done to texts: SigLIP's, T5's, and others by name not. */
static void test_unigram_classes(void **state)
{
    (void)state;
    static wire w;
    begin_model(&w, false);
    put_piece(&w, MARK "a", -1, 1); // 3
    put_piece(&w, "b", -1, 1);      // 4
    put_piece(&w, MARK, -3, 1);     // 5
    put_settings(&w, (settings){false, true, true, 1, NULL});
    pc_tokenizer *t = NULL;
    scratch_open();
    scratch_write("spiece.model", w.bytes, w.size);
    const char *siglip = "{\"tokenizer_class\": \"SiglipTokenizer\", \"eos_token\": \"</s>\", "
                         "\"pad_token\": \"</s>\", \"unk_token\": \"<unk>\"}";
    scratch_write("tokenizer_config.json", siglip, strlen(siglip));
    if (pc_tokenizer_open(&t, scratch_path(""))) fail_msg("%s", pc_error_text());
    check_ids(t, "  A,  (a) B!", "3 3 5 4");
    check_ids(t, "ab </s> ab",
              "3 4 2 0 4"); // no mark behind a special token, whose spaces are gone
    assert_int_equal(pc_tokenizer_pad(t), 2);
    pc_ids ids = {0};
    assert_int_equal(pc_tokenizer_frame(t, &ids), PC_OK);
    assert_int_equal(ids.count, 1);
    pc_ids_close(&ids);
    pc_tokenizer *again = kept(t);
    check_ids(again, "  A,  (a) B!", "3 3 5 4");
    pc_tokenizer_close(again);
    // A tokenizer.json beside the same configuration is prepared too, and only once.
    char *json = pc_tokenizer_json(t);
    pc_tokenizer_close(t);
    scratch_write("tokenizer.json", json, strlen(json));
    if (pc_tokenizer_open(&t, scratch_path(""))) fail_msg("%s", pc_error_text());
    char *json2 = pc_tokenizer_json(t);
    assert_string_equal(json, json2);
    free(json2);
    free(json);
    pc_tokenizer_close(t);
    assert_int_equal(remove(scratch_path("tokenizer.json")), 0);
    const char *t5 = "{\"tokenizer_class\": \"T5Tokenizer\", \"extra_ids\": 2}";
    scratch_write("tokenizer_config.json", t5, strlen(t5));
    if (pc_tokenizer_open(&t, scratch_path(""))) fail_msg("%s", pc_error_text());
    check_ids(t, "a\tb <extra_id_0>", "3 5 4 7");
    pc_tokenizer_close(t);
    const char *other = "{\"tokenizer_class\": \"XLMRobertaTokenizer\"}";
    scratch_write("tokenizer_config.json", other, strlen(other));
    assert_int_equal(pc_tokenizer_open(&t, scratch_path("")), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "XLMRobertaTokenizer"));
    scratch_close();
}

/* A table of one entry, "a", whose replacement begins at `value` of "\xC3\xA9". */
static void test_charsmap(void **state)
{
    (void)state;
    enum { UNITS = 99, SIZE = 4 + 4 * UNITS + 3 };
    for (uint32_t value = 0; value < 5; value++) {
        unsigned char table[SIZE] = {4 * UNITS & 0xFF, 4 * UNITS >> 8};
        uint32_t unit[UNITS] = {0};
        pc_charsmap m;
        const char *with = NULL;
        unit['a'] = 'a' | 1 << 8 | ('a' ^ 98) << 10; // a leaf, whose value is unit 98
        unit[98] = value;
        memcpy(table + 4, unit, sizeof unit);
        memcpy(table + SIZE - 3, "\xC3\xA9", 3);
        assert_int_equal(pc_charsmap_open(&m, table, sizeof table), PC_OK);
        const size_t n = pc_charsmap_find(&m, &with, "ab", 2);
        // The middle of a character, and what lies behind the table, stand for nothing.
        assert_int_equal(n, value == 0 || value == 2);
        if (n) assert_string_equal(with, value ? "" : "\xC3\xA9");
        assert_int_equal(pc_charsmap_first(&m, &with, "ba", 2), 0);
        pc_charsmap_close(&m);
        table[SIZE - 2] = 'x';
        assert_int_equal(pc_charsmap_open(&m, table, sizeof table), PC_ERR_FORMAT);
        assert_non_null(strstr(pc_error_text(), "UTF-8"));
    }
}

static void refused_model(const wire *w, const char *word)
{
    pc_tokenizer *t = NULL;
    assert_int_equal(pc_tokenizer_sentencepiece_parse(&t, w->bytes, w->size), PC_ERR_FORMAT);
    assert_null(t);
    if (!strstr(pc_error_text(), word))
        fail_msg("'%s' says nothing of '%s'", pc_error_text(), word);
}

static void test_sentencepiece_refused(void **state)
{
    (void)state;
    static wire w;
    const settings usual = {false, true, false, 2, NULL};
    w.size = 0;
    refused_model(&w, "no pieces");
    begin_model(&w, false);
    put_settings(&w, (settings){false, true, false, 3, NULL});
    refused_model(&w, "word");
    begin_model(&w, false);
    put_settings(&w, (settings){true, true, false, 2, NULL});
    refused_model(&w, "byte_fallback");
    begin_model(&w, true);
    put_settings(&w, usual);
    refused_model(&w, "without byte_fallback");
    begin_model(&w, false);
    put_piece(&w, "<s>", 0, 1);
    put_settings(&w, usual);
    refused_model(&w, "both \"<s>\"");
    begin_model(&w, false);
    put_piece(&w, "second", 0, 2);
    put_settings(&w, usual);
    refused_model(&w, "unknown");
    begin_model(&w, false);
    put_piece(&w, "", 0, 1);
    refused_model(&w, "empty");
    begin_model(&w, false);
    put_piece(&w, "\xFF", 0, 1);
    refused_model(&w, "UTF-8");
    begin_model(&w, false);
    put_piece(&w, "x", 0, 9);
    refused_model(&w, "type 9");
    begin_model(&w, false);
    put_piece(&w, "x", (float)NAN, 1);
    refused_model(&w, "score");
    begin_model(&w, false);
    put_piece(&w, "x", (float)-INFINITY, 1);
    refused_model(&w, "score");
    static const unsigned char longer[] = {0x0A, 0xFF, 0xFF, 0xFF, 0xFF,
                                           0xFF, 0xFF, 0xFF, 0xFF, 0x7F};
    memcpy(w.bytes, longer, sizeof longer);
    w.size = sizeof longer;
    refused_model(&w, "are left");
    w.bytes[0] = 0x0B; // a group
    refused_model(&w, "wire type 3");
    memset(w.bytes, 0xFF, 32);
    w.size = 32;
    refused_model(&w, "more than 64 bits");
}

/* ---- a trained tokenizer in other layouts: the same ids ---- */

static const char *const corpus[] = {
    "It's a small step; it's a large step. Steps and steps, stepping stones: 1234 5678.",
    "The weather is better than the other weather, whether you like it or not.",
    "caf\xC3\xA9 na\xC3\xAFve \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E stone stone stones",
    "  leading,  double  spaces\n\nand lines\r\n\ttabs",
};
enum { CORPUS = sizeof corpus / sizeof *corpus };

static pc_tokenizer *trained(void)
{
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_train(&t, corpus, CORPUS, 340, NULL, 0)) fail_msg("%s", pc_error_text());
    return t;
}

static void same_tokenizers(const pc_tokenizer *a, const pc_tokenizer *b)
{
    for (int i = 0; i < CORPUS; i++)
        for (size_t from = 0; from < 12; from++) {
            pc_ids x = {0}, y = {0};
            const char *text = corpus[i] + from;
            assert_int_equal(pc_tokenizer_encode(a, &x, text, strlen(text), false), PC_OK);
            assert_int_equal(pc_tokenizer_encode(b, &y, text, strlen(text), false), PC_OK);
            assert_int_equal(x.count, y.count);
            assert_memory_equal(x.list, y.list, (size_t)x.count * sizeof *x.list);
            pc_ids_close(&x);
            pc_ids_close(&y);
        }
}

/* The trained vocabulary as tiktoken's lines: its ids are in the order of merges, so ranks are ids. */
static pc_buffer tiktoken_of(const pc_tokenizer *t)
{
    pc_buffer out = {0};
    for (int32_t id = 0; id < pc_tokenizer_vocab(t); id++) {
        const pc_piece *p = &t->pieces[id];
        char line[256], *letters = pc_base64_encode(t->pool + p->at, (size_t)p->size);
        snprintf(line, sizeof line, "%s %d\n", letters, id);
        assert_int_equal(pc_buffer_add(&out, line, strlen(line)), PC_OK);
        free(letters);
    }
    return out;
}

static void test_tiktoken(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(), *u = NULL;
    pc_buffer lines = tiktoken_of(t);
    if (pc_tokenizer_tiktoken_parse(&u, lines.data, lines.used)) fail_msg("%s", pc_error_text());
    same_tokenizers(t, u);
    pc_tokenizer *again = kept(u);
    same_tokenizers(t, again);
    const int32_t n = pc_tokenizer_vocab(t);
    assert_int_equal(pc_tokenizer_id(u, "<|endoftext|>"), n);
    assert_int_equal(pc_tokenizer_id(u, "<|extra_204|>"), n + 207);
    assert_int_equal(pc_tokenizer_id(u, "<imgpad>"), n + 216);
    assert_int_equal(pc_tokenizer_eos(again), n + 2);
    assert_int_equal(pc_tokenizer_pad(again), n);
    pc_tokenizer_close(again);
    pc_tokenizer_close(u);
    pc_tokenizer_close(t);
    static const char *const bad[] = {
        "IQ== 0\nIQ== 1\n",        "IQ== x\n", "I 0\n", "IQ==\n", "\n", "IQ== 0\n",
        "IQ== 99999999\nIg== 1\n", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(pc_tokenizer_tiktoken_parse(&u, bad[i], strlen(bad[i])), PC_ERR_FORMAT);
        assert_null(u);
    }
    free(lines.data);
}

static void test_vocab_and_merges(void **state)
{
    (void)state;
    pc_tokenizer *t = trained(), *u = NULL;
    char *text = pc_tokenizer_json(t);
    json_t *root = json_loads(text, 0, NULL), *model = json_object_get(root, "model"), *merge;
    char *vocab = json_dumps(json_object_get(model, "vocab"), 0);
    pc_buffer merges = {0};
    size_t i;
    assert_int_equal(pc_buffer_add(&merges, "#version: 0.2\n", 14), PC_OK);
    json_array_foreach(json_object_get(model, "merges"), i, merge)
    {
        assert_int_equal(pc_buffer_add(&merges, json_string_value(merge),
                                       json_string_length(merge)),
                         0);
        assert_int_equal(pc_buffer_add(&merges, "\n", 1), PC_OK);
    }
    if (pc_tokenizer_merges_parse(&u, vocab, strlen(vocab), merges.data, merges.used,
                                  "Qwen2Tokenizer"))
        fail_msg("%s", pc_error_text());
    same_tokenizers(t, u);
    pc_tokenizer_close(u);
    u = NULL;
    static const char *const bad[] = {"a\n", "a b c\n", " a\n", "a \n", "a zz\n", "\xFF a\n"};
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(pc_tokenizer_merges_parse(&u, vocab, strlen(vocab), bad[i], strlen(bad[i]),
                                                   NULL),
                         PC_ERR_FORMAT);
        assert_null(u);
    }
    assert_int_equal(pc_tokenizer_merges_parse(&u, "[]", 2, "", 0, NULL), PC_ERR_FORMAT);
    assert_int_equal(pc_tokenizer_merges_parse(&u, "{", 1, "", 0, NULL), PC_ERR_FORMAT);
    // As files of a folder, with what stands beside them.
    scratch_open();
    scratch_write("vocab.json", vocab, strlen(vocab));
    scratch_write("merges.txt", merges.data, merges.used);
    const char *config = "{\"tokenizer_class\": \"Qwen2Tokenizer\", \"eos_token\": \"<end>\"}";
    scratch_write("tokenizer_config.json", config, strlen(config));
    const char *added = "{\"<pic>\": 345}";
    scratch_write("added_tokens.json", added, strlen(added));
    assert_true(pc_tokenizer_in(scratch_path("")));
    if (pc_tokenizer_open(&u, scratch_path(""))) fail_msg("%s", pc_error_text());
    same_tokenizers(t, u);
    assert_int_equal(pc_tokenizer_id(u, "<pic>"), 345);
    assert_int_equal(pc_tokenizer_eos(u), 346); // added behind all others
    assert_true(pc_tokenizer_is_special(u, 346));
    pc_tokenizer_close(u);
    scratch_close();
    free(merges.data);
    free(vocab);
    free(text);
    json_decref(root);
    pc_tokenizer_close(t);
}

/* ---- CLIP's file ---- */

static size_t gzip(unsigned char *out, size_t room, const char *text, size_t size)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)text,
                  .avail_in = (uInt)size,
                  .next_out = out,
                  .avail_out = (uInt)room};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static void test_clip_file(void **state)
{
    (void)state;
    static unsigned char packed[1 << 16];
    const char *text = "\"header\" of any kind\nt h\nth e</w>\nc a\nca t</w>\n";
    size_t n = gzip(packed, sizeof packed, text, strlen(text));
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_clip_gz_parse(&t, packed, n)) fail_msg("%s", pc_error_text());
    assert_int_equal(pc_tokenizer_vocab(t), 518);
    assert_int_equal(pc_tokenizer_id(t, "!"), 0);
    assert_int_equal(pc_tokenizer_id(t, "a</w>"), 320);
    assert_int_equal(pc_tokenizer_bos(t), 516);
    assert_int_equal(pc_tokenizer_eos(t), 517);
    pc_tokenizer *again = kept(t);
    for (int round = 0; round < 2; round++) {
        const pc_tokenizer *u = round ? again : t;
        check_ids(u, " The  CAT\n", "513 515"); // lower case, white space of any length
        check_ids(u, "cats", "514 83 338");     // "ca" within a word, "t", and "s" at its end
        check_ids(u, "12", "272 273");          // digits one by one
        check_ids(u, "&lt;", "261 75 339 282"); // entities stay, as in transformers: "&", "lt", ";"
        check_ids(u, "the<|endoftext|>", "513 517");
        pc_ids ids = {0};
        assert_int_equal(pc_tokenizer_frame(u, &ids), PC_OK);
        assert_int_equal(ids.count, 2);
        pc_ids_close(&ids);
        char *words;
        const int32_t two[] = {513, 515};
        assert_int_equal(pc_tokenizer_decode(u, &words, two, 2, false), PC_OK);
        assert_string_equal(words, "the cat");
        free(words);
    }
    pc_tokenizer_close(again);
    pc_tokenizer_close(t);
    for (size_t cut = 0; cut < n; cut++) {
        assert_int_equal(pc_tokenizer_clip_gz_parse(&t, packed, cut), PC_ERR_FORMAT);
        assert_null(t);
    }
    const char *twice = "header\nt h\nt h\n";
    n = gzip(packed, sizeof packed, twice, strlen(twice));
    assert_int_equal(pc_tokenizer_clip_gz_parse(&t, packed, n), PC_ERR_FORMAT);
    char *zeros = calloc(1, 40 << 20); // 40 MB out of 40 KB
    n = gzip(packed, sizeof packed, zeros, 40 << 20);
    assert_int_equal(pc_tokenizer_clip_gz_parse(&t, packed, n), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "more than"));
    free(zeros);
}

/* ---- any bytes ---- */

typedef pc_status parse_fn(pc_tokenizer **out, const void *bytes, size_t size);

static pc_status parse_json(pc_tokenizer **out, const void *bytes, size_t size)
{
    return pc_tokenizer_parse(out, bytes, size);
}

static pc_status parse_lines(pc_tokenizer **out, const void *bytes, size_t size)
{
    return pc_tokenizer_tiktoken_parse(out, bytes, size);
}

/* Cut short and with bytes changed: a message, or a tokenizer that works. */
static void hurt(parse_fn *parse, const void *bytes, size_t size, uint64_t seed, int rounds)
{
    const pc_rng_key key = {.seed = seed, .stream = PC_STREAM_TEST};
    unsigned char *copy = malloc(size + 1);
    int opened = 0;
    for (int i = 0; i < rounds; i++) {
        size_t n = size;
        memcpy(copy, bytes, size);
        const uint64_t base = (uint64_t)i * 16;
        if (i % 4 == 0) n = pc_rng_u32(&key, base) % (size + 1);
        for (uint32_t k = 0; k < (uint32_t)(i % 4) && n > 0; k++)
            copy[pc_rng_u32(&key, base + 1 + 2 * k) % n] =
                (unsigned char)pc_rng_u32(&key, base + 2 + 2 * k);
        pc_tokenizer *t = NULL;
        if (parse(&t, copy, n)) {
            assert_null(t);
            assert_true(strlen(pc_error_text()) > 8);
            continue;
        }
        opened++;
        pc_ids ids = {0};
        char *text = NULL;
        const char *in = "ab <s> 12 \xC3\xA9 caf\xC3\xA9 <|im_end|>";
        if (!pc_tokenizer_encode(t, &ids, in, strlen(in), true) &&
            !pc_tokenizer_decode(t, &text, ids.list, ids.count, false))
            assert_true(strlen(text) <= 3 * 4096);
        free(text);
        pc_ids_close(&ids);
        pc_tokenizer_close(t);
    }
    printf("%d of %d damaged files opened\n", opened, rounds);
    free(copy);
}

static void test_any_bytes(void **state)
{
    (void)state;
    static wire w;
    begin_model(&w, true);
    put_piece(&w, MARK "a", -1, 1);
    put_piece(&w, "ab", 0, 1);
    put_piece(&w, "a", -9, 1);
    put_piece(&w, "b", -9, 4);
    put_settings(&w, (settings){true, true, true, 2, "?"});
    hurt(pc_tokenizer_sentencepiece_parse, w.bytes, w.size, 1, 2000);
    pc_tokenizer *t = trained();
    char *json = pc_tokenizer_json(t);
    pc_buffer lines = tiktoken_of(t);
    hurt(parse_json, json, strlen(json), 2, 400);
    hurt(parse_lines, lines.data, lines.used, 3, 400);
    free(json);
    free(lines.data);
    pc_tokenizer_close(t);
    t = model_of(&w);
    json = pc_tokenizer_json(t);
    hurt(parse_json, json, strlen(json), 4, 400);
    free(json);
    pc_tokenizer_close(t);
}

/* A small file must not ask for much: ids far apart, JSON within JSON, vocabularies of nothing. */
static void test_small_files_stay_small(void **state)
{
    (void)state;
    pc_tokenizer *t = NULL;
    static const char *const bad[] = {
        "{\"model\":{\"vocab\":{\"a\":1000000000},\"merges\":[]}}",
        "{\"model\":{\"vocab\":{\"a\":4000000},\"merges\":[]}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":4000000,"
        "\"content\":\"x\"}]}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"percept\":{\"scores\":[1,2],\"types\":[1,"
        "1]}}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"percept\":{\"scores\":[1],\"types\":["
        "\"x\"]}}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"percept\":{\"sentencepiece\":{}}}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Precompiled\","
        "\"precompiled_charsmap\":\"/////w==\"}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(pc_tokenizer_parse(&t, bad[i], strlen(bad[i])), PC_ERR_FORMAT);
        assert_null(t);
    }
    enum { DEEP = 200000 };
    char *deep = malloc(DEEP + 64);
    memset(deep, '[', DEEP);
    deep[DEEP] = '\0';
    assert_int_equal(pc_tokenizer_parse(&t, deep, DEEP), PC_ERR_FORMAT);
    pc_buffer nested = {0}; // sequences within sequences
    const char *begin = "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":",
               *open = "{\"type\":\"Sequence\",\"normalizers\":[";
    assert_int_equal(pc_buffer_add(&nested, begin, strlen(begin)), PC_OK);
    for (int i = 0; i < 100; i++)
        assert_int_equal(pc_buffer_add(&nested, open, strlen(open)), PC_OK);
    for (int i = 0; i < 100; i++) assert_int_equal(pc_buffer_add(&nested, "]}", 2), PC_OK);
    assert_int_equal(pc_buffer_add(&nested, "}", 1), PC_OK);
    assert_int_equal(pc_tokenizer_parse(&t, nested.data, nested.used), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "Sequences"));
    free(nested.data);
    free(deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentencepiece),
        cmocka_unit_test(test_sentencepiece_settings),
        cmocka_unit_test(test_sentencepiece_refused),
        cmocka_unit_test(test_unigram),
        cmocka_unit_test(test_charsmap),
        cmocka_unit_test(test_unigram_json),
        cmocka_unit_test(test_unigram_classes),
        cmocka_unit_test(test_tiktoken),
        cmocka_unit_test(test_vocab_and_merges),
        cmocka_unit_test(test_clip_file),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_small_files_stay_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

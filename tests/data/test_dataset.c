/*
 * test_dataset.c - rows of captions, conversations and questions: what is taken, and what is said about the rest.
 * Every refusal must name file and line (or row), the value seen and what is expected.
 */
#include "data/datasets/dataset.h"
#include "model/core/rng.h"
#include "tests/support/scratch.h"

#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define GOOD_TALK                                                                                  \
    "{\"id\": 7, \"image\": \"img/a.png\", \"conversations\": [{\"from\": \"human\", \"value\": "  \
    "\"<image>\\nWhat?\"}, {\"from\": \"gpt\", \"value\": \"A cat\"}]}"
#define GOOD_CAPTION "{\"image\": \"img/a.png\", \"captions\": [\"A dog .\", \"One dog\"]}"

static void write_text(const char *name, const char *text)
{
    scratch_write(name, text, strlen(text));
}

static pc_status open_one(pc_dataset *d, const char *name, pc_bad_sample policy)
{
    const pc_source s = {scratch_path(name), NULL, 1.0};
    return pc_dataset_open(d, &s, 1, policy);
}

static void test_captions(void **state)
{
    (void)state;
    pc_dataset d;
    write_text("c.jsonl", GOOD_CAPTION "\n\n  " GOOD_CAPTION "\r\n");
    if (open_one(&d, "c.jsonl", PC_BAD_ERROR)) fail_msg("%s", pc_error_text());
    assert_int_equal(d.count, 2);
    assert_int_equal(d.samples[0].n_captions, 2);
    assert_string_equal(d.samples[0].captions[1], "One dog");
    assert_string_equal(d.samples[0].image, scratch_path("img/a.png"));
    assert_int_equal(d.samples[0].line, 1);
    assert_int_equal(d.samples[1].line, 3); // the empty line counts
    assert_int_equal(d.samples[0].n_turns, 0);
    pc_dataset_close(&d);
}

static void test_conversations(void **state)
{
    (void)state;
    pc_dataset d;
    write_text(
        "t.json",
        "[\n" GOOD_TALK ",\n{\"id\": \"x\", \"image\": null, \"conversations\": [{\"from\": "
        "\"system\", \"value\": \"S\"}, {\"from\": \"human\", \"value\": \"Q1\"}, {\"from\": "
        "\"gpt\", \"value\": \"A1\"}, {\"from\": \"human\", \"value\": \"Q2\"}, {\"from\": "
        "\"gpt\", \"value\": \"A2\"}], \"turn_meta\": [{\"type\": \"count\"}, {}]}]\n");
    if (open_one(&d, "t.json", PC_BAD_ERROR)) fail_msg("%s", pc_error_text());
    assert_int_equal(d.count, 2);
    assert_string_equal(d.samples[0].id, "7");
    assert_string_equal(d.samples[0].turns[0].question, "<image>\nWhat?");
    assert_string_equal(d.samples[0].turns[0].answer, "A cat");
    assert_null(d.samples[1].image);
    assert_string_equal(d.samples[1].system, "S");
    assert_int_equal(d.samples[1].n_turns, 2);
    assert_string_equal(d.samples[1].turns[0].type, "count");
    assert_null(d.samples[1].turns[1].type);
    assert_int_equal(d.samples[1].line, 1); // the second row
    pc_dataset_close(&d);
}

static void test_several_sources(void **state)
{
    (void)state;
    pc_dataset d;
    write_text("c.jsonl", GOOD_CAPTION "\n" GOOD_CAPTION);
    write_text("sub.json", "[" GOOD_TALK "]");
    const char *folder = strdup(scratch_path(""));
    const pc_source s[] = {{scratch_path("c.jsonl"), NULL, 2.5},
                           {scratch_path("sub.json"), folder, 0.0}};
    if (pc_dataset_open(&d, s, 2, PC_BAD_ERROR)) fail_msg("%s", pc_error_text());
    assert_int_equal(d.n_sources, 2);
    assert_int_equal(d.source_begin[1], 2);
    assert_int_equal(d.source_begin[2], 3);
    assert_true(d.source_weight[0] == 2.5 && d.source_weight[1] == 1.0);
    pc_dataset_close(&d);
    free((char *)(uintptr_t)folder);
    const pc_source bad = {scratch_path("c.jsonl"), NULL, -1.0};
    assert_int_equal(pc_dataset_open(&d, &bad, 1, PC_BAD_ERROR), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "-1"));
}

/* ---- bad rows ---- */

typedef struct bad_row {
    const char *row, *words[3]; // what the message must say
} bad_row;

#define TALK(...) "{\"image\": \"img/a.png\", \"conversations\": [" __VA_ARGS__ "]}"
#define HUMAN(t)  "{\"from\": \"human\", \"value\": \"" t "\"}"
#define GPT(t)    "{\"from\": \"gpt\", \"value\": \"" t "\"}"

static const bad_row bad_rows[] = {
    {"{\"image\": \"img/a.png\"}", {"captions", "conversations"}},
    {"{\"image\": \"img/a.png\", \"captions\": [\"a\"], \"conversations\": []}", {"both"}},
    {"{\"image\": \"img/a.png\", \"captions\": []}", {"captions", "empty"}},
    {"{\"image\": \"img/a.png\", \"captions\": \"a\"}", {"captions", "a text", "array"}},
    {"{\"image\": \"img/a.png\", \"captions\": [\"a\", \" \"]}", {"captions[1]", "empty"}},
    {"{\"image\": \"img/a.png\", \"captions\": [3]}", {"captions[0]", "a number", "a text"}},
    {"{\"captions\": [\"a\"]}", {"without", "image"}},
    {"{\"image\": 5, \"captions\": [\"a\"]}", {"image", "a number"}},
    {"{\"image\": \"\", \"captions\": [\"a\"]}", {"image", "empty"}},
    {"{\"image\": \"/etc/passwd\", \"captions\": [\"a\"]}", {"/etc/passwd", "absolute"}},
    {"{\"image\": \"../a.png\", \"captions\": [\"a\"]}", {"../a.png", "out of"}},
    {"{\"image\": \"img/../../a.png\", \"captions\": [\"a\"]}", {"img/../../a.png", "out of"}},
    {"{\"image\": \"img/none.png\", \"captions\": [\"a\"]}", {"img/none.png", "No such file"}},
    {"{\"image\": \"img\", \"captions\": [\"a\"]}", {"img", "no file"}},
    {"{\"image\": [\"img/a.png\", \"img/a.png\"], \"captions\": [\"a\"]}", {"2 images", "several"}},
    {"{\"image\": \"img/a.png\", \"video\": \"v\", \"captions\": [\"a\"]}", {"video"}},
    {"{\"id\": [], \"image\": \"img/a.png\", \"captions\": [\"a\"]}", {"id", "an array"}},
    {TALK(""), {"conversations", "empty"}},
    {TALK(HUMAN("<image>Q")), {"question without an answer", "<image>Q"}},
    {TALK(HUMAN("<image>Q") "," GPT("A") "," HUMAN("R")), {"question without an answer", "\"R\""}},
    {TALK(HUMAN("<image>Q") "," GPT(" \\n")), {"conversations[1]", "empty answer"}},
    {TALK(HUMAN(" ") "," GPT("A")), {"conversations[0]", "empty question"}},
    {TALK(GPT("A") "," HUMAN("<image>Q")), {"conversations[0]", "gpt", "human"}},
    {TALK(HUMAN("<image>Q") "," HUMAN("R")), {"conversations[1]", "human", "gpt"}},
    {TALK("{\"from\": \"robot\", \"value\": \"x\"}"), {"robot", "human, gpt"}},
    {TALK("{\"from\": \"human\"}"), {"conversations[0]", "missing"}},
    {TALK("7"), {"conversations[0]"}},
    {TALK(HUMAN("Q") "," GPT("A")), {"no question holds <image>"}},
    {TALK(HUMAN("<image><image>Q") "," GPT("A")), {"2 times <image>", "several", "expected 1"}},
    {TALK(HUMAN("Q") "," GPT("A") "," HUMAN("<image>R") "," GPT("B")), {"later question", "first"}},
    {TALK(HUMAN("<image>Q") "," GPT("<image>")), {"answer holds <image>"}},
    {"{\"conversations\": [" HUMAN("<image>Q") "," GPT("A") "]}", {"<image>", "no `image`"}},
    {"{\"image\": \"img/a.png\", \"conversations\": \"x\"}", {"conversations", "a text"}},
    {"{\"image\": \"img/a.png\", \"turn_meta\": [{}, {}], \"conversations\": [" HUMAN(
         "<image>Q") "," GPT("A") "]}",
     {"turn_meta", "2", "1"}},
    {"{\"image\": \"img/a.png\", \"turn_meta\": [{\"type\": 3}], \"conversations\": [" HUMAN(
         "<image>Q") "," GPT("A") "]}",
     {"turn_meta[0].type", "a number"}},
    {"[1, 2]", {"an array", "object"}},
};
enum { BAD_ROWS = sizeof bad_rows / sizeof *bad_rows };

static void expect_words(const char *message, const char *const *words, const char *place)
{
    if (!strstr(message, place)) fail_msg("'%s' does not name '%s'", message, place);
    for (int k = 0; k < 3 && words[k]; k++)
        if (!strstr(message, words[k])) fail_msg("'%s' says nothing of '%s'", message, words[k]);
}

/* Alone in a JSONL file, then as an element of an array: always behind a good row. */
static void test_bad_rows(void **state)
{
    (void)state;
    for (int i = 0; i < BAD_ROWS; i++) {
        char text[4096];
        pc_dataset d;
        snprintf(text, sizeof text, GOOD_CAPTION "\n%s\n" GOOD_TALK "\n", bad_rows[i].row);
        write_text("b.jsonl", text);
        assert_int_equal(open_one(&d, "b.jsonl", PC_BAD_ERROR), PC_ERR_INPUT);
        expect_words(pc_error_text(), bad_rows[i].words, "b.jsonl:2: ");
        assert_int_equal(d.count, 0);

        if (open_one(&d, "b.jsonl", PC_BAD_SKIP)) fail_msg("%s", pc_error_text());
        assert_int_equal(d.count, 2);
        assert_int_equal(d.n_skipped, 1);
        expect_words(d.skipped[0], bad_rows[i].words, "b.jsonl:2: ");
        pc_dataset_close(&d);

        snprintf(text, sizeof text, "[" GOOD_CAPTION ",\n%s,\n" GOOD_TALK "]", bad_rows[i].row);
        write_text("b.json", text);
        assert_int_equal(open_one(&d, "b.json", PC_BAD_ERROR), PC_ERR_INPUT);
        expect_words(pc_error_text(), bad_rows[i].words, "b.json row 1 (line 2): ");
        if (open_one(&d, "b.json", PC_BAD_SKIP)) fail_msg("%s", pc_error_text());
        assert_int_equal(d.count, 2);
        assert_int_equal(d.n_skipped, 1);
        pc_dataset_close(&d);
    }
}

static void test_broken_lines(void **state)
{
    (void)state;
    pc_dataset d;
    static const char *const lines[] = {
        "{\"image\": ", "not json", "{} {}", "{\"a\": 1, \"a\": 2}", "{\"image\": \"\xFF\"}", "3"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[1024];
        snprintf(text, sizeof text, GOOD_CAPTION "\n%s\n" GOOD_CAPTION, lines[i]);
        write_text("l.jsonl", text);
        assert_int_equal(open_one(&d, "l.jsonl", PC_BAD_ERROR), PC_ERR_INPUT);
        assert_non_null(strstr(pc_error_text(), "l.jsonl:2: column"));
        if (open_one(&d, "l.jsonl", PC_BAD_SKIP)) fail_msg("%s", pc_error_text());
        assert_int_equal(d.count, 2);
        assert_int_equal(d.n_skipped, 1);
        pc_dataset_close(&d);
    }
}

/* An array that is broken cannot be read on, whatever the policy. */
static void test_broken_arrays(void **state)
{
    (void)state;
    pc_dataset d;
    static const char *const texts[] = {
        "[" GOOD_CAPTION,
        "[" GOOD_CAPTION ",",
        "[" GOOD_CAPTION ",]",
        "[" GOOD_CAPTION " " GOOD_CAPTION "]",
        "[" GOOD_CAPTION "] x",
        "[" GOOD_CAPTION ", {\"image\": ]",
        "[" GOOD_CAPTION ", {\"a\": 1, \"a\": 2}]",
        "[",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_text("a.json", texts[i]);
        assert_int_equal(open_one(&d, "a.json", PC_BAD_SKIP), PC_ERR_FORMAT);
        assert_non_null(strstr(pc_error_text(), "a.json"));
        assert_int_equal(d.count, 0);
    }
}

static void test_useless_files(void **state)
{
    (void)state;
    pc_dataset d;
    write_text("e.json", "");
    assert_int_equal(open_one(&d, "e.json", PC_BAD_ERROR), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "empty"));
    write_text("e.json", " \n\n ");
    assert_int_equal(open_one(&d, "e.json", PC_BAD_ERROR), PC_ERR_FORMAT);
    write_text("e.json", "id,image\n1,a.png\n");
    assert_int_equal(open_one(&d, "e.json", PC_BAD_ERROR), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "id,image"));
    write_text("e.json", "[]");
    assert_int_equal(open_one(&d, "e.json", PC_BAD_ERROR), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "no usable row"));
    write_text("e.json", "[{}]");
    assert_int_equal(open_one(&d, "e.json", PC_BAD_SKIP), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "row 0"));
    assert_int_equal(open_one(&d, "none.json", PC_BAD_SKIP), PC_ERR_IO);
    assert_non_null(strstr(pc_error_text(), "none.json"));
    assert_int_equal(open_one(&d, "img", PC_BAD_SKIP), PC_ERR_IO); // a folder
}

static void test_byte_order_mark(void **state)
{
    (void)state;
    pc_dataset d;
    write_text("m.jsonl", "\xEF\xBB\xBF" GOOD_CAPTION);
    if (open_one(&d, "m.jsonl", PC_BAD_ERROR)) fail_msg("%s", pc_error_text());
    assert_int_equal(d.count, 1);
    pc_dataset_close(&d);
}

/* ---- questions ---- */

static void test_questions(void **state)
{
    (void)state;
    pc_questions q;
    write_text("q.jsonl",
               "{\"question_id\": 3, \"image\": \"img/a.png\", \"question\": \"How many?\", "
               "\"answer\": \"2\", \"type\": \"count\"}\n{\"question_id\": 1, \"image\": "
               "\"img/a.png\", \"text\": \"Is there a dog?\", \"label\": \"yes\"}\n");
    if (pc_questions_open(&q, scratch_path("q.jsonl"), NULL)) fail_msg("%s", pc_error_text());
    assert_int_equal(q.count, 2);
    assert_int_equal(q.list[0].id, 3);
    assert_string_equal(q.list[0].type, "count");
    assert_int_equal(q.list[0].line, 1);
    assert_string_equal(q.list[1].question, "Is there a dog?");
    assert_string_equal(q.list[1].answer, "yes");
    assert_null(q.list[1].type);
    pc_questions_close(&q);
}

static void test_bad_questions(void **state)
{
    (void)state;
    static const bad_row rows[] = {
        {"{\"question\": \"a\", \"answer\": \"b\"}", {"question_id", "missing"}},
        {"{\"question_id\": \"7\", \"question\": \"a\", \"answer\": \"b\"}",
         {"question_id", "a text", "whole number"}},
        {"{\"question_id\": 2, \"question\": \"a\"}", {"answer", "missing"}},
        {"{\"question_id\": 2, \"question\": \"a\", \"answer\": \" \"}", {"answer", "empty"}},
        {"{\"question_id\": 2, \"answer\": \"b\"}", {"question", "missing"}},
        {"{\"question_id\": 2, \"text\": \"a\", \"label\": \"maybe\"}", {"maybe", "yes or no"}},
        {"{\"question_id\": 2, \"question\": \"<image>a\", \"answer\": \"b\"}", {"<image>"}},
        {"{\"question_id\": 2, \"question\": \"a\", \"answer\": \"b\", \"type\": 1}", {"type"}},
        {"{\"question_id\": 2, \"image\": \"../x\", \"question\": \"a\", \"answer\": \"b\"}",
         {"../x", "out of"}},
        {"[]", {"an array"}},
    };
    pc_questions q;
    const char *good = "{\"question_id\": 1, \"question\": \"a\", \"answer\": \"b\"}";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[1024];
        snprintf(text, sizeof text, "%s\n%s\n", good, rows[i].row);
        write_text("q.jsonl", text);
        assert_int_equal(pc_questions_open(&q, scratch_path("q.jsonl"), NULL), PC_ERR_INPUT);
        expect_words(pc_error_text(), rows[i].words, "q.jsonl:2: ");
        if (pc_questions_read(&q, scratch_path("q.jsonl"), NULL, PC_BAD_SKIP))
            fail_msg("%s", pc_error_text());
        assert_int_equal(q.count, 1);
        assert_int_equal(q.n_skipped, 1);
        pc_questions_close(&q);
    }
    char text[1024];
    snprintf(text, sizeof text, "%s\n\n%s\n", good, good);
    write_text("q.jsonl", text);
    assert_int_equal(pc_questions_open(&q, scratch_path("q.jsonl"), NULL), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "question_id 1"));
    assert_non_null(strstr(pc_error_text(), "line 1"));
}

/* ---- damage and real sets ---- */

static void test_damaged_files(void **state)
{
    (void)state;
    const char *good = "[" GOOD_TALK ",\n" GOOD_CAPTION ",\n" GOOD_TALK "]";
    const size_t n = strlen(good);
    char *bad = malloc(n + 1);
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_TEST};
    int taken = 0, refusals = 0;
    for (uint64_t round = 0; round < 1500; round++) {
        pc_dataset d;
        pc_questions q;
        memcpy(bad, good, n + 1);
        size_t size = n;
        for (uint64_t k = 0; k <= round % 4; k++)
            bad[pc_rng_u32(&key, round * 8 + k) % n] =
                "{}[]\",:01\\u \xC3<"[pc_rng_u32(&key, 1000000 + round * 8 + k) % 15];
        if (round % 5 == 0) size = pc_rng_u32(&key, 2000000 + round) % n;
        scratch_write("d.json", bad, size);
        const pc_bad_sample policy = round % 2 ? PC_BAD_SKIP : PC_BAD_ERROR;
        if (open_one(&d, "d.json", policy)) {
            assert_non_null(strstr(pc_error_text(), "d.json"));
            refusals++;
        } else {
            taken++;
            assert_true(d.count > 0);
            pc_dataset_close(&d);
        }
        if (pc_questions_read(&q, scratch_path("d.json"), NULL, policy) == PC_OK)
            pc_questions_close(&q);
    }
    assert_true(taken > 50 && refusals > 50);
    free(bad);
}

/* The sets for development, where they lie beside the project. */
static void test_real_sets(void **state)
{
    (void)state;
    static const char *const patterns[] = {"data/*/captions_*.jsonl", "data/*/vqa_*.json",
                                           "data/*/llava_*.json"};
    if (!shared_path("data/README.md")) skip();
    int files = 0;
    for (int p = 0; p < 3; p++) {
        char pattern[4096];
        glob_t found;
        snprintf(pattern, sizeof pattern, "%s/../%s", shared_path("data"), patterns[p]);
        if (glob(pattern, 0, NULL, &found)) continue;
        for (size_t i = 0; i < found.gl_pathc; i++) {
            const pc_source s = {found.gl_pathv[i], NULL, 1.0};
            pc_dataset d;
            if (pc_dataset_open(&d, &s, 1, PC_BAD_ERROR)) fail_msg("%s", pc_error_text());
            assert_int_equal(d.n_skipped, 0);
            pc_dataset_close(&d);
            files++;
        }
        globfree(&found);
    }
    assert_true(files >= 20);
}

static int setup(void **state)
{
    (void)state;
    scratch_open();
    mkdir(scratch_path("img"), 0777);
    write_text("img/a.png", "not read here");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_captions),        cmocka_unit_test(test_conversations),
        cmocka_unit_test(test_several_sources), cmocka_unit_test(test_bad_rows),
        cmocka_unit_test(test_broken_lines),    cmocka_unit_test(test_broken_arrays),
        cmocka_unit_test(test_useless_files),   cmocka_unit_test(test_byte_order_mark),
        cmocka_unit_test(test_questions),       cmocka_unit_test(test_bad_questions),
        cmocka_unit_test(test_damaged_files),   cmocka_unit_test(test_real_sets),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/*
 * test_loader_texts.c - what a sample shows: rows, labels, branches, choices of turns and captions, truncation by
 * whole turns, the worst case.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/data/small_set.h"

/* The words that rows [begin, end) are to learn; rows that learn nothing give '.'. */
static char *learned(const pc_vlm_batch *b, int64_t begin, int64_t end)
{
    char *out = calloc(1, 4096);
    for (int64_t n = begin; n < end; n++) {
        const int32_t id = pc_i32(b->labels)[n];
        char *piece = NULL;
        if (id >= 0 && pc_tokenizer_decode(set_tok, &piece, &id, 1, false))
            fail_msg("%s", pc_error_text());
        strcat(out, piece ? piece : ".");
        free(piece);
    }
    return out;
}

static int64_t begin_of(const pc_vlm_batch *b, int64_t s)
{
    return pc_i32(b->mask.q_off)[s];
}

static void check_rows(const pc_vlm_batch *b, int64_t s, const char *rows, const char *labels)
{
    char *text = set_row_text(b, begin_of(b, s), begin_of(b, s + 1)),
         *learns = learned(b, begin_of(b, s), begin_of(b, s + 1));
    assert_string_equal(text, rows);
    if (labels) {
        const char *at =
            learns; // only the words: how many rows stay silent depends on the tokenizer
        char words[256] = "";
        for (; *at; at++)
            if (*at != '.') strncat(words, at, 1);
        assert_string_equal(words, labels);
    }
    free(text);
    free(learns);
}

static pc_loader_config in_order(void)
{
    pc_loader_config c = set_config();
    c.shuffle = false;
    c.random_caption = false;
    c.batch = c.micro = 2;
    return c;
}

/* A conversation in one piece, and every turn a branch behind the image: rows, labels, positions, sight. */
static void test_rows(void **state)
{
    (void)state;
    pc_dataset d = set_data("talk.json", 1.0);
    pc_model_config m = set_vlm();
    pc_loader_config c = in_order();
    const char *rows =
        "**** What is it?\n a cat</s> Is it red?\n no</s> Is it large?\n a cat</s> How many?\n "
        "no</s> Where is it?\n a cat</s>";
    const char *labels = " a cat</s> no</s> a cat</s> no</s> a cat</s>";
    for (int branches = 0; branches < 2; branches++) {
        c.branches = branches;
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        const pc_batch *b = set_next(l);
        const pc_vlm_batch *v = &b->micro[0].vlm;
        assert_int_equal(v->mask.S, 2);
        assert_int_equal(v->pictures.count, 2);
        for (int s = 0; s < 2; s++) check_rows(v, s, rows, labels);
        int64_t supervised = 0;
        for (int64_t n = 0; n < v->N; n++) supervised += pc_i32(v->labels)[n] >= 0;
        assert_int_equal(v->supervised, supervised);
        assert_int_equal(b->supervised, supervised);
        assert_int_equal(b->tokens, v->N);
        // The fifth question: where it stands, and what its last row sees.
        const int64_t end = begin_of(v, 1) - 1;
        const int32_t pos = pc_i32(v->pos)[end], lo = pc_i32(v->mask.lo)[end];
        if (!branches) {
            assert_int_equal(pos, end);
            assert_int_equal(lo, 0);
            assert_false(pc_present(v->mask.plo));
        } else {
            assert_int_equal(pos, 4 + end - lo); // goes on from the image
            char *own = set_row_text(v, lo, end + 1);
            assert_string_equal(own, " Where is it?\n a cat</s>");
            free(own);
            assert_int_equal(pc_i32(v->mask.plo)[end], 0);
            assert_int_equal(pc_i32(v->mask.phi)[end], 4);
        }
        pc_loader_close(l);
    }
    pc_dataset_close(&d);
}

/* With branches each turn is laid out as evaluation will ask it: as the first of a conversation. */
static void test_branches_are_first_turns(void **state)
{
    (void)state;
    pc_dataset d = set_data("talk.json", 1.0);
    pc_model_config m = set_vlm();
    pc_loader_config c = in_order();
    c.branches = true;
    c.max_turns = 2;
    pc_loader *l = set_loader(&d, &m, "vicuna_v1", &c, 0);
    const pc_vlm_batch *v = &set_next(l)->micro[0].vlm;
    for (int s = 0; s < 2; s++) {
        char *text = set_row_text(v, begin_of(v, s), begin_of(v, s + 1));
        const char *first = strstr(text, "****\n"),
                   *second = first ? strstr(first, "</s>\n") : NULL;
        assert_non_null(second); // "\nQ ASSISTANT: A</s>" twice behind one image
        assert_null(strstr(first, "USER:"));
        assert_non_null(strstr(second, " ASSISTANT:"));
        free(text);
    }
    pc_loader_close(l);
    pc_dataset_close(&d);
}

/* Subsets and windows: the right number, in order, each turn equally often, another choice each epoch. */
static void test_choices_of_turns(void **state)
{
    (void)state;
    pc_dataset d = set_data("talk.json", 1.0);
    pc_model_config m = set_vlm();
    for (int branches = 0; branches < 2; branches++) {
        pc_loader_config c = in_order();
        c.branches = branches;
        c.max_turns = 2;
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        int64_t shown[SET_TURNS] = {0}, pairs[SET_TURNS][SET_TURNS] = {{0}};
        enum { EPOCHS = 20 };
        for (int step = 0; step < EPOCHS * SET_IMAGES / 2; step++) {
            const pc_vlm_batch *v = &set_next(l)->micro[0].vlm;
            for (int s = 0; s < 2; s++) {
                char *text = set_row_text(v, begin_of(v, s), begin_of(v, s + 1));
                int found[SET_TURNS], n = 0;
                const char *last = text;
                for (int t = 0; t < SET_TURNS; t++) {
                    const char *at = strstr(text, set_questions[t]);
                    if (!at) continue;
                    assert_true(at > last);
                    last = at;
                    found[n++] = t;
                    shown[t]++;
                }
                assert_int_equal(n, 2);
                assert_memory_equal(text, "****", 4);
                if (!branches) assert_int_equal(found[1], found[0] + 1);
                pairs[found[0]][found[1]]++;
                free(text);
            }
        }
        // 240 visits: a subset shows each turn 96 times (spread 7.6); the 4 windows show the ends
        // 60 times, the others 120 (spread 6.7 and 7.7)
        for (int t = 0; t < SET_TURNS; t++) {
            const int64_t want = branches ? 96 : t == 0 || t == SET_TURNS - 1 ? 60 : 120;
            assert_in_range(shown[t], want - 32, want + 32);
        }
        for (int a = 0; branches && a < SET_TURNS; a++) // 10 pairs, 24 times each, spread 4.6
            for (int b = a + 1; b < SET_TURNS; b++) assert_in_range(pairs[a][b], 6, 46);
        pc_loader_close(l);
    }
    pc_dataset_close(&d);
}

/* One of three captions, each equally often, or always the first. */
static void test_choices_of_captions(void **state)
{
    (void)state;
    pc_dataset d = set_data("captions.jsonl", 1.0);
    pc_model_config m = set_vlm();
    pc_loader_config c = in_order();
    pc_loader *l = set_loader(&d, &m, "plain", &c, 0);
    check_rows(&set_next(l)->micro[0].vlm, 1, "<s>****a cat number 1\n", "a cat number 1\n");
    pc_loader_close(l);

    c.random_caption = true;
    l = set_loader(&d, &m, "plain", &c, 0);
    int64_t shown[3] = {0};
    for (int step = 0; step < 150; step++) {
        const pc_vlm_batch *v = &set_next(l)->micro[0].vlm;
        for (int s = 0; s < 2; s++) {
            char *text = set_row_text(v, begin_of(v, s), begin_of(v, s + 1));
            shown[strstr(text, "a cat") ? 0 : strstr(text, "a dog") ? 1 : 2]++;
            free(text);
        }
    }
    for (int k = 0; k < 3; k++) assert_in_range(shown[k], 68, 132); // expected 100, spread 8.2
    pc_loader_close(l);
    pc_dataset_close(&d);
}

/* ---- truncation ---- */

static int64_t ids_in(const char *text)
{
    pc_ids ids = {0};
    assert_int_equal(pc_tokenizer_encode(set_tok, &ids, text, strlen(text), true), 0);
    const int64_t n = ids.count;
    pc_ids_close(&ids);
    return n;
}

static void test_truncation_by_whole_turns(void **state)
{
    (void)state;
    pc_dataset d = set_data("talk.json", 1.0);
    pc_model_config m = set_vlm();
    const char *two = " What is it?\n a cat</s> Is it red?\n no</s>";
    for (int branches = 0; branches < 2; branches++)
        for (int short_by = 0; short_by < 2; short_by++) {
            pc_loader_config c = in_order();
            c.branches = branches;
            c.max_tokens = 4 + ids_in(two) - short_by;
            pc_loader *l = set_loader(&d, &m, "short", &c, 0);
            const pc_vlm_batch *v = &set_next(l)->micro[0].vlm;
            check_rows(v, 1,
                       short_by ? "**** What is it?\n a cat</s>"
                                : "**** What is it?\n a cat</s> Is it red?\n no</s>",
                       short_by ? " a cat</s>" : " a cat</s> no</s>");
            pc_loader_close(l);
        }
    pc_dataset_close(&d);
}

#define ROW(q, a)                                                                                  \
    "{\"image\": \"img/0.png\", \"conversations\": [{\"from\": \"human\", \"value\": \"<image>\\n" \
    "Is it red?\"}, {\"from\": \"gpt\", \"value\": \"no\"}, {\"from\": \"human\", \"value\": \"" q \
    "\"}, {\"from\": \"gpt\", \"value\": \"" a "\"}, {\"from\": \"human\", \"value\": \"How "      \
    "many?\"}, {\"from\": \"gpt\", \"value\": \"two\"}]}\n"
#define LONG "a cat a dog a cat a dog a cat a dog a cat a dog a cat a dog a cat a dog a cat a dog"

/* A turn that can never fit: with branches it alone is left out, without everything behind it too. */
static void test_turns_that_never_fit(void **state)
{
    (void)state;
    set_write_file("long.jsonl", ROW("What is it?", LONG));
    pc_dataset d = set_data("long.jsonl", 2.0);
    pc_model_config m = set_vlm();
    pc_loader_config c = in_order();
    c.max_tokens = 4 + ids_in(" Is it red?\n no</s> How many?\n two</s>");
    for (int branches = 0; branches < 2; branches++) {
        c.branches = branches;
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        check_rows(&set_next(l)->micro[0].vlm, 0,
                   branches ? "**** Is it red?\n no</s> How many?\n two</s>"
                            : "**** Is it red?\n no</s>",
                   branches ? " no</s> two</s>" : " no</s>");
        pc_loader_close(l);
    }
    pc_dataset_close(&d);
}

/* A sample of which nothing can be learned stops, or is skipped and counted; never silently loss 0. */
static void test_nothing_left_to_learn(void **state)
{
    (void)state;
    set_write_file("none.jsonl", "{\"conversations\": [{\"from\": \"human\", \"value\": \"Is it "
                                 "red?\"}, {\"from\": \"gpt\", \"value\": \"no\"}]}\n"
                                 "{\"conversations\": [{\"from\": \"human\", \"value\": \"" LONG
                                 "\"}, {\"from\": \"gpt\", \"value\": \"no\"}]}\n");
    pc_dataset d = set_data("none.jsonl", 1.0);
    pc_model_config m = set_vlm();
    pc_loader_config c = in_order();
    const pc_image_config im = pc_image_config_default(8);
    pc_loader *l = NULL;
    c.batch = c.micro = 1;
    c.max_tokens = 16;
    assert_int_equal(pc_loader_open(&l, &d, &m, set_tok, pc_template_find("short"), &im, &c, 0),
                     PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "none.jsonl:2: no supervised token"));
    assert_non_null(strstr(pc_error_text(), "max_tokens 16"));
    c.on_bad_image = PC_BAD_SKIP;
    l = set_loader(&d, &m, "short", &c, 0);
    assert_int_equal(pc_loader_skipped(l), 1);
    assert_int_equal(pc_loader_steps_per_epoch(l), 1);
    for (int i = 0; i < 3; i++) {
        const pc_batch *b = set_next(l);
        assert_int_equal(b->images, 0);
        assert_false(pc_present(b->micro[0].vlm.pictures.pixels));
        check_rows(&b->micro[0].vlm, 0, " Is it red?\n no</s>", " no</s>");
    }
    pc_loader_close(l);
    pc_dataset_close(&d);
}

/* Two rotary positions: an image of 4 rows takes 2 positions, so a decoder of so few positions still has room. */
static void test_rows_and_positions_differ(void **state)
{
    (void)state;
    pc_dataset d = set_data("talk.json", 1.0);
    pc_model_config m = set_vlm();
    pc_loader_config c = in_order();
    const int64_t ids = ids_in(" What is it?\n a cat</s> Is it red?\n no</s>");
    for (int two = 0; two < 2; two++) {
        m.vlm.decoder.rope_2d = two;
        m.vlm.decoder.T = 2 + ids;
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        const pc_vlm_batch *v = &set_next(l)->micro[0].vlm;
        assert_int_equal(pc_present(v->pos_y), two);
        check_rows(v, 0,
                   two ? "**** What is it?\n a cat</s> Is it red?\n no</s>"
                       : "**** What is it?\n a cat</s>",
                   two ? " a cat</s> no</s>" : " a cat</s>");
        int64_t rows, images, supervised;
        pc_loader_worst(l, &rows, &images, &supervised);
        assert_true(rows >= v->N);
        pc_loader_close(l);
    }
    pc_dataset_close(&d);
}

/* The image mark goes to the front, wherever in the first question it stands; system texts are kept. */
static void test_marks_and_systems(void **state)
{
    (void)state;
    set_write_file(
        "mark.jsonl",
        "{\"image\": \"img/0.png\", \"conversations\": [{\"from\": \"human\", \"value\": "
        "\" Is it <image> \\n\"}, {\"from\": \"gpt\", \"value\": \" no \"}]}\n"
        "{\"image\": \"img/0.png\", \"conversations\": [{\"from\": \"system\", "
        "\"value\": \"two\"}, {\"from\": \"human\", \"value\": \"<image>\"}, {\"from\": "
        "\"gpt\", \"value\": \"no\"}]}\n");
    pc_dataset d = set_data("mark.jsonl", 1.0);
    pc_model_config m = set_vlm();
    pc_loader_config c = in_order();
    pc_loader *l = set_loader(&d, &m, "short", &c, 0);
    const pc_vlm_batch *v = &set_next(l)->micro[0].vlm;
    check_rows(v, 0, "**** Is it\n no</s>", " no</s>");
    check_rows(v, 1, "two\n****\n no</s>", " no</s>");
    pc_loader_close(l);
    pc_dataset_close(&d);
}

/* ---- the worst case ---- */

static void test_worst_case_holds(void **state)
{
    (void)state;
    pc_dataset d = set_data("talk.json", 1.5);
    pc_model_config m = set_vlm();
    for (int way = 0; way < 4; way++) {
        pc_loader_config c = set_config();
        c.batch = c.micro = 3;
        c.branches = way % 2;
        c.max_turns = way / 2 * 2;
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        int64_t rows, images, supervised, most_rows = 0, most_supervised = 0;
        pc_loader_worst(l, &rows, &images, &supervised);
        assert_int_equal(images, 3);
        for (int s = 0; s < 60; s++) {
            const pc_vlm_batch *v = &set_next(l)->micro[0].vlm;
            if (v->N > most_rows) most_rows = v->N;
            if (v->supervised > most_supervised) most_supervised = v->supervised;
        }
        assert_true(most_rows <= rows && most_supervised <= supervised);
        if (c.max_turns == 0) { // every visit is the same: the bound is met
            assert_int_equal(most_rows, rows);
            assert_int_equal(most_supervised, supervised);
        }
        pc_loader_close(l);
    }
    pc_dataset_close(&d);
}

/* ---- two towers ---- */

static void test_clip_texts(void **state)
{
    (void)state;
    pc_model_config m = set_clip();
    pc_ids ids = {0};
    const int32_t bos = pc_tokenizer_bos(set_tok), eos = pc_tokenizer_eos(set_tok);
    assert_int_equal(pc_clip_text_ids(&ids, set_tok, &m.clip.text, "  a cat\n"), PC_OK);
    assert_int_equal(ids.count, 2 + ids_in("a cat"));
    assert_int_equal(ids.list[0], bos);
    assert_int_equal(ids.list[ids.count - 1], eos);
    ids.count = 0;
    assert_int_equal(pc_clip_text_ids(&ids, set_tok, &m.clip.text, LONG), PC_OK);
    assert_int_equal(ids.count, 9); // the context, its last place for the end-of-text
    assert_int_equal(ids.list[8], eos);
    assert_int_equal(pc_clip_text_ids(&ids, set_tok, &m.clip.text, "a cat"), PC_OK);
    assert_int_equal(ids.list[9], bos); // appended
    pc_ids_close(&ids);

    pc_dataset d = set_data("captions.jsonl", 1.0);
    for (int pad = 0; pad < 2; pad++) {
        m.clip.text.pad_to_context = pad;
        m.clip.text.pad_id = pad ? pc_tokenizer_pad(set_tok) : -1;
        pc_loader_config c = in_order();
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        const pc_batch *b = set_next(l);
        const pc_text_batch *t = &b->micro[0].text;
        assert_int_equal(t->ids.dim[0], pad ? 18 : b->tokens);
        assert_int_equal(b->micro[0].pixels.dim[0], 2);
        assert_int_equal(b->supervised, 0);
        for (int64_t i = 0; i < 2; i++) assert_int_equal(pc_i32(t->ids)[pc_i32(t->pooled)[i]], eos);
        int64_t rows, images, supervised;
        pc_loader_worst(l, &rows, &images, &supervised);
        assert_true(rows >= t->ids.dim[0]);
        pc_loader_close(l);
    }
    pc_dataset_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_branches_are_first_turns),
        cmocka_unit_test(test_choices_of_turns),
        cmocka_unit_test(test_choices_of_captions),
        cmocka_unit_test(test_truncation_by_whole_turns),
        cmocka_unit_test(test_turns_that_never_fit),
        cmocka_unit_test(test_nothing_left_to_learn),
        cmocka_unit_test(test_rows_and_positions_differ),
        cmocka_unit_test(test_marks_and_systems),
        cmocka_unit_test(test_worst_case_holds),
        cmocka_unit_test(test_clip_texts),
    };
    return cmocka_run_group_tests(tests, set_open, set_close);
}

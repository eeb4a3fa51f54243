/*
 * test_metrics.c - the measures, against the worked examples of their protocols.
 */
#include "data/metrics/classification.h"
#include "data/metrics/pope.h"
#include "data/metrics/retrieval.h"
#include "data/metrics/vqa.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- VQA ---------------------------------------------------------------------------------------

static void normalisation(void **state)
{
    static const char *const cases[][2] = {
        {"The cat's, 2 dogs.", "cat's 2 dogs"},
        {"1,000", "1000"},
        {"1,000-2,000", "10002000"},
        {"3.5", "3.5"},
        {"dont know", "don't know"},
        {"two-story", "2 story"},
        {"A (red) car!", "red car"},
        {"it's 5.", "it's 5"},
        {"u.s.a.", "usa"},
        {"x/y and z", "x y and z"},
        {"No.", "no"},
        {"  ten \t an apple\n", "10 apple"},
        {"ive", "ive"}, // the table's key is "Ive", which lower-case words never meet
        {"whatve", "what've"},
        {"couldn'tve", "couldn't've"},
        {"yall", "y'all"},
        {"", ""},
        {".", ""},
        {"the a an", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *got = pc_vqa_normalise(cases[i][0]);
        assert_string_equal(got, cases[i][1]);
        free(got);
    }
    assert_true(pc_vqa_exact("Yes", "yes."));
    assert_true(pc_vqa_exact("a blue square", "Blue square"));
    assert_true(pc_vqa_exact("three", "3"));
    assert_false(pc_vqa_exact("blue", "blue square"));
    assert_false(pc_vqa_exact("", "no"));
}

// 120 entries of the official table, less the two with a capital I and two that map to themselves.
static void contractions(void **state)
{
    static const char *const stems =
        "ai are ca could did does do had has have is might must need ought sha "
        "should was were wo would";
    char copy[256], word[64], want[64], got[64], *save = NULL;
    int count = 0;

    (void)state;
    snprintf(copy, sizeof copy, "%s", stems);
    for (char *s = strtok_r(copy, " ", &save); s; s = strtok_r(NULL, " ", &save), count++) {
        snprintf(word, sizeof word, "%snt", s);
        snprintf(want, sizeof want, "%sn't", s);
        assert_string_equal(pc_vqa_contraction(got, sizeof got, word), want);
    }
    assert_int_equal(count, 21);
    assert_string_equal(pc_vqa_contraction(got, sizeof got, "somebody'd"), "somebodyd"); // sic
    assert_string_equal(pc_vqa_contraction(got, sizeof got, "paint"), "paint");
    assert_string_equal(pc_vqa_contraction(got, sizeof got, "red"), "red");
    assert_string_equal(pc_vqa_contraction(got, sizeof got, "theyll"), "they'll");
    assert_string_equal(pc_vqa_contraction(got, sizeof got, "oclock"), "o'clock");
}

static void consensus(void **state)
{
    static const char *const humans[10] = {"red",      "red",      "red",    "red",    "dark red",
                                           "dark red", "dark red", "maroon", "maroon", "brown"};
    static const char *const same[10] = {"no", "no", "no", "no", "no",
                                         "no", "no", "no", "no", "no"};
    (void)state;
    assert_true(fabs(pc_vqa_consensus("red", humans, 10) - 1.0) < 1e-12);
    assert_true(fabs(pc_vqa_consensus("Dark red.", humans, 10) - 0.9) < 1e-12);
    assert_true(fabs(pc_vqa_consensus("maroon", humans, 10) - 0.6) < 1e-12);
    assert_true(fabs(pc_vqa_consensus("brown", humans, 10) - 0.3) < 1e-12);
    assert_true(pc_vqa_consensus("blue", humans, 10) == 0.0);
    assert_true(pc_vqa_consensus("No.", same, 10) == 1.0);
    assert_true(pc_vqa_consensus("no", same, 0) == 0.0);
}

// ---- POPE --------------------------------------------------------------------------------------

static void pope(void **state)
{
    pc_pope p = {0};
    (void)state;
    assert_false(pc_pope_yes("No, there is no dog."));
    assert_true(pc_pope_yes("Not really")); // capital Not is not in the list
    assert_true(pc_pope_yes(""));
    assert_false(pc_pope_yes("there is not"));
    assert_true(pc_pope_yes("Yes. No dog."));    // only the first sentence counts
    assert_true(pc_pope_yes("No\nthere is"));    // a line break does not end a word
    assert_true(pc_pope_yes("nothing notable")); // words, not letters
    assert_true(pc_pope_decided("well, YES"));
    assert_false(pc_pope_decided("maybe"));

    for (int i = 0; i < 3; i++) pc_pope_add(&p, "yes", true);
    pc_pope_add(&p, "maybe", false); // counts as yes
    pc_pope_add(&p, "no", true);
    for (int i = 0; i < 5; i++) pc_pope_add(&p, "no", false);
    const pc_pope_score s = pc_pope_result(&p);
    assert_int_equal(s.n, 10);
    assert_int_equal(p.evasive, 1);
    assert_true(fabs(s.accuracy - 0.8) < 1e-12);
    assert_true(fabs(s.precision - 0.75) < 1e-12);
    assert_true(fabs(s.recall - 0.75) < 1e-12);
    assert_true(fabs(s.f1 - 0.75) < 1e-12);
    assert_true(fabs(s.yes_ratio - 0.4) < 1e-12);

    const pc_pope none = {.tn = 4}; // nothing said yes, nothing was: 0/0 is 0
    assert_true(pc_pope_result(&none).f1 == 0.0);
    assert_true(pc_pope_result(&none).accuracy == 1.0);
}

// ---- retrieval ---------------------------------------------------------------------------------

static void retrieval(void **state)
{
    const float S[] = {.9F, .8F, .95F, .1F};
    const int64_t owner[] = {0, 1};
    int64_t ri[2], rt[3];
    pc_retrieval r;

    (void)state;
    assert_int_equal(pc_retrieval_score(&r, S, 2, 2, owner, ri, rt), PC_OK);
    assert_true(r.image_to_text.r1 == 0.5 && r.text_to_image.r1 == 0.0);
    assert_true(ri[0] == 1 && ri[1] == 2 && rt[0] == 2 && rt[1] == 2);
    assert_true(r.image_to_text.r5 == 1.0 && r.text_to_image.median == 2.0);

    // Two captions for image 0: one of them in front is enough. Ties: the smaller index is first.
    const float U[] = {.1F, .7F, .2F, .5F, .5F, .5F};
    const int64_t three[] = {0, 0, 1};
    assert_int_equal(pc_retrieval_score(&r, U, 2, 3, three, ri, rt), PC_OK);
    assert_true(ri[0] == 1 && ri[1] == 3);
    assert_true(rt[0] == 2 && rt[1] == 1 && rt[2] == 1);
    assert_true(fabs(r.image_to_text.chance1 - 0.5) < 1e-12);

    const float bad[] = {.9F, (float)NAN, .95F, .1F};
    assert_int_equal(pc_retrieval_score(&r, bad, 2, 2, owner, NULL, NULL), PC_ERR_NUMERIC);
    const int64_t orphan[] = {0, 0};
    assert_int_equal(pc_retrieval_score(&r, S, 2, 2, orphan, NULL, NULL), PC_ERR_INPUT);
}

// Ranks of unrelated embeddings are uniform: recall at k is k/n.
static void retrieval_chance(void **state)
{
    enum { N = 400 };
    float *S = malloc(sizeof(float) * N * N);
    int64_t owner[N];
    uint64_t x = 88172645463325252ULL;
    pc_retrieval r;

    (void)state;
    assert_non_null(S);
    for (int i = 0; i < N * N; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        S[i] = (float)(x >> 40);
    }
    for (int i = 0; i < N; i++) owner[i] = i;
    assert_int_equal(pc_retrieval_score(&r, S, N, N, owner, NULL, NULL), PC_OK);
    assert_true(fabs(r.text_to_image.r10 - 10.0 / N) < 0.02);
    assert_true(fabs(r.text_to_image.mean - (N + 1) / 2.0) < 20.0);
    free(S);
}

// ---- classification ----------------------------------------------------------------------------

static void classification(void **state)
{
    const float rows[] = {1.0F, 0.0F, 0.0F, 1.0F};
    const float scores[] = {3, 1, 2, 0, 5, 5, 9, 1, 8}; // (3,3)
    const int64_t truth[] = {0, 2, 2};
    float w[2];
    int64_t top[2];
    pc_classification c;
    double low, high;

    (void)state;
    pc_class_weight(w, rows, 2, 2);
    assert_true(fabs((double)w[0] - sqrt(0.5)) < 1e-6 && fabs((double)w[1] - sqrt(0.5)) < 1e-6);
    pc_top_classes(top, scores + 3, 3, 2);
    assert_true(top[0] == 1 && top[1] == 2); // a tie goes to the lower index
    assert_int_equal(pc_classification_score(&c, scores, truth, 3, 3), PC_OK);
    assert_true(fabs(c.top1 - 1.0 / 3.0) < 1e-12 && c.top5 == 1.0);
    assert_true(fabs(c.class_recall - 0.5) < 1e-12 && c.occurring == 2);

    pc_wilson(&low, &high, 50, 100);
    assert_true(fabs(low - 0.40383) < 1e-4 && fabs(high - 0.59617) < 1e-4);
    pc_wilson(&low, &high, 0, 10);
    assert_true(low == 0.0 && fabs(high - 0.27753) < 1e-4);
    pc_wilson(&low, &high, 0, 0);
    assert_true(low == 0.0 && high == 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normalisation),  cmocka_unit_test(contractions),
        cmocka_unit_test(consensus),      cmocka_unit_test(pope),
        cmocka_unit_test(retrieval),      cmocka_unit_test(retrieval_chance),
        cmocka_unit_test(classification),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_answer.c - answers do not depend on company: many questions behind shared images get what each gets alone,
 * in the order they were asked, by image, without it, and with a grey one.
 */
#include "infer/answer.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUESTIONS = 40 };

static const char *const questions[] = {"What is it?",  "Is it red?",   "How many?",
                                        "Where is it?", "Is it large?", "a cat?",
                                        "two or three?"};

static char image[TINY_IMAGES][4096];

// The answer of a question asked alone, as `percept ask` does it.
static char *alone(answerer *a, const answer_item *q, answer_view view, const answer_options *o)
{
    char text[256], *answer;
    const bool see = q->image && view == ANSWER_SEE;
    snprintf(text, sizeof text, "%s%s", see ? "<image>\n" : "", q->question);
    const pc_message m = {PC_ROLE_USER, text};
    if (answer_one(a, &answer, &m, 1, &q->image, see, o, NULL)) {
        printf("%s\n", pc_error_text());
        abort();
    }
    return answer;
}

static int differing(char **text, int n)
{
    int kinds = 0;
    for (int i = 0; i < n; i++) {
        bool new = true;
        for (int k = 0; k < i; k++) new = new &&strcmp(text[i], text[k]);
        kinds += new;
    }
    return kinds;
}

// Greedy generation is argmax of logits that differ by rounding between a batch and one row: answers are compared as a
// whole, and the seeds below have no near ties.
static void same_together_and_alone(const char *template, uint64_t seed)
{
    pc_bundle b;
    answerer a;
    answer_item item[QUESTIONS];
    char *text[QUESTIONS], *reversed[QUESTIONS];
    answer_item backwards[QUESTIONS];

    tiny_models(template, seed);
    CHECK(!pc_bundle_open(&b, scratch_path("vlm.h5")));
    CHECK(!answerer_open(&a, &b, 2));
    for (int i = 0; i < QUESTIONS; i++) // images come mixed, some questions have none
        item[i] =
            (answer_item){i % 7 == 6 ? NULL : image[i * 5 % TINY_IMAGES], questions[i * 3 % 7]};
    for (int view = 0; view < 2; view++) {
        const answer_options o = {.max_tokens = 6,
                                  .sampling = {.top_p = 1.0},
                                  .view = (answer_view)view};
        CHECK(!answer_all(&a, text, item, QUESTIONS, &o));
        if (view == ANSWER_SEE) CHECK(differing(text, QUESTIONS) > 3);
        for (int i = 0; i < QUESTIONS; i++) {
            char *one = alone(&a, &item[i], (answer_view)view, &o);
            CHECK(!strcmp(one, text[i]));
            free(one);
        }
        for (int i = 0; i < QUESTIONS; i++) backwards[i] = item[QUESTIONS - 1 - i];
        CHECK(!answer_all(&a, reversed, backwards, QUESTIONS, &o));
        for (int i = 0; i < QUESTIONS; i++) CHECK(!strcmp(reversed[QUESTIONS - 1 - i], text[i]));
        for (int i = 0; i < QUESTIONS; i++) {
            free(text[i]);
            free(reversed[i]);
        }
    }
    answerer_close(&a);
    pc_bundle_close(&b);
}

// A grey picture is the same whatever the image was.
static void grey(void)
{
    pc_bundle b;
    answerer a;
    answer_item item[TINY_IMAGES];
    char *text[TINY_IMAGES];
    const answer_options o = {.max_tokens = 4, .sampling = {.top_p = 1.0}, .view = ANSWER_GREY};

    tiny_models("short", 5);
    CHECK(!pc_bundle_open(&b, scratch_path("vlm.h5")) && !answerer_open(&a, &b, 2));
    for (int i = 0; i < TINY_IMAGES; i++) item[i] = (answer_item){image[i], "What is it?"};
    CHECK(!answer_all(&a, text, item, TINY_IMAGES, &o));
    for (int i = 0; i < TINY_IMAGES; i++) CHECK(!strcmp(text[i], text[0]));
    for (int i = 0; i < TINY_IMAGES; i++) free(text[i]);
    answerer_close(&a);
    pc_bundle_close(&b);
}

static void said(void *arg, const char *text)
{
    strcat(arg, text);
}

// What is streamed is what is returned; drawing depends on the seed alone.
static void streaming_and_sampling(void)
{
    pc_bundle b;
    answerer a;
    char heard[2048] = "", *first, *second;
    const pc_message m = {PC_ROLE_USER, "<image>\nWhat is it?"};
    const char *const images[] = {image[1]};
    answer_options o = {.max_tokens = 24,
                        .sampling = {.temperature = 1.0, .top_p = 0.9, .seed = 7}};
    answer_stream s = {.say = said, .arg = heard};

    CHECK(!pc_bundle_open(&b, scratch_path("vlm.h5")) && !answerer_open(&a, &b, 2));
    CHECK(!answer_one(&a, &first, &m, 1, images, 1, &o, &s));
    CHECK(!strncmp(heard, first, strlen(first))); // the stream keeps white space at the end
    CHECK(s.tokens > 0 && s.tokens <= 24 && s.stopped == (s.tokens < 24));
    CHECK(!answer_one(&a, &second, &m, 1, images, 1, &o, NULL));
    CHECK(!strcmp(first, second));
    free(second);
    o.sampling.seed = 8;
    CHECK(!answer_one(&a, &second, &m, 1, images, 1, &o, NULL));
    CHECK(strcmp(first, second));
    free(first);
    free(second);
    answerer_close(&a);
    pc_bundle_close(&b);
}

static void hostile(void)
{
    pc_bundle b;
    answerer a = {0};
    char *text[2];
    const answer_options o = {.max_tokens = 4, .sampling = {.top_p = 1.0}};
    const answer_item missing[2] = {{image[0], "What is it?"},
                                    {"/nowhere/at/all.png", "Is it red?"}};
    static char long_question[4096];

    CHECK(!pc_bundle_open(&b, scratch_path("clip.h5")));
    CHECK(answerer_open(&a, &b, 1) == PC_ERR_INPUT); // a two-tower model
    pc_bundle_close(&b);

    CHECK(!pc_bundle_open(&b, scratch_path("vlm.h5")) && !answerer_open(&a, &b, 2));
    CHECK(answer_all(&a, text, missing, 2, &o) && strstr(pc_error_text(), "/nowhere/at/all.png"));
    CHECK(text[0] == NULL && text[1] == NULL);
    memset(long_question, 'x', sizeof long_question - 1);
    const answer_item too_long[1] = {{image[0], long_question}};
    CHECK(answer_all(&a, text, too_long, 1, &o) == PC_ERR_INPUT);
    answerer_close(&a);
    pc_bundle_close(&b);
}

int main(void)
{
    scratch_open();
    for (int i = 0; i < TINY_IMAGES; i++) {
        char name[32];
        snprintf(name, sizeof name, "image%d.png", i);
        snprintf(image[i], sizeof image[i], "%s", scratch_path(name));
    }
    same_together_and_alone("short", 1);
    same_together_and_alone("vicuna_v1", 2);
    grey();
    streaming_and_sampling();
    hostile();
    scratch_close();
    return check_report("answers");
}

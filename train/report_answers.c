/*
 * report_answers.c - validation questions, the model's greedy answers, and the truths.
 *
 * Answers are written token by token through the generator that `percept ask` uses; they are not the
 * teacher-forced ones that validation counts.
 */
#include "data/images/visual.h"
#include "model/networks/generate.h"
#include "train/report.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { TURNS = 4, ANSWER_TOKENS = 64 };

// What the user says, image mark in front: as the training data have it in a first turn.
static void say(char *buf, size_t size, const char *question, bool image)
{
    if (!strncmp(question, "<image>", 7)) question += 7;
    question += strspn(question, "\n ");
    snprintf(buf, size, "%s%s", !image ? "" : *question ? "<image>\n" : "<image>", question);
}

static char *trimmed(char *text)
{
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1])) *--end = 0;
    return text + strspn(text, " \t\r\n");
}

static bool same_words(const char *a, const char *b)
{
    char *x = strdup(a), *y = strdup(b);
    const bool same = x && y && !strcmp(trimmed(x), trimmed(y));
    free(x);
    free(y);
    return same;
}

typedef struct asked {
    int64_t n;
    const char *question[TURNS], *truth[TURNS];
    pc_rendered rendered[TURNS];
    pc_sequence sequence[TURNS];
    pc_generation answer[TURNS];
    pc_visual visual; // the image once for each question
} asked;

static void close_asked(asked *a)
{
    for (int64_t i = 0; i < TURNS; i++) pc_rendered_close(&a->rendered[i]);
    pc_generation_close(a->answer, TURNS);
    pc_visual_close(&a->visual);
}

static pc_status render(asked *a, const run *u, const pc_sample *s)
{
    a->n = s->n_turns ? (s->n_turns < TURNS ? s->n_turns : TURNS) : 1;
    for (int64_t i = 0; i < a->n; i++) {
        char text[8192];
        a->question[i] = s->n_turns ? s->turns[i].question : "";
        a->truth[i] = s->n_turns ? s->turns[i].answer : s->captions[0];
        say(text, sizeof text, a->question[i], s->image != NULL);
        const pc_message messages[2] = {{PC_ROLE_SYSTEM, s->system}, {PC_ROLE_USER, text}};
        const int skip = s->system ? 0 : 1;
        pc_status st =
            pc_template_render(u->template, &a->rendered[i], u->tokenizer, messages + skip,
                               2 - skip, true, (int32_t)u->model->config.vlm.image_id);
        if (st) return st;
        a->sequence[i] =
            (pc_sequence){.ids = a->rendered[i].ids.list, .length = a->rendered[i].ids.count};
    }
    return PC_OK;
}

// The sample's image once for each question.
static pc_status load_pixels(asked *a, const run *u, const pc_sample *s)
{
    if (!s->image || u->model->config.vlm.vision.L == 0) return PC_OK;
    const char **paths = calloc((size_t)a->n, sizeof *paths);
    if (!paths) return pc_fail(PC_ERR_MEMORY, "%lld questions", (long long)a->n);
    for (int64_t i = 0; i < a->n; i++) paths[i] = s->image;
    pc_status st = pc_visual_measure(&a->visual, &u->image, &u->model->config.vlm, paths, a->n, 1);
    if (!st) st = pc_visual_load(&a->visual, &u->image, paths, u->pool);
    for (int64_t i = 0; i < a->n && !st; i++) a->sequence[i].images = &a->visual.geometry[i];
    free(paths);
    return st;
}

static pc_status generate(asked *a, run *u, pc_runner *runner, const pc_sample *s)
{
    const int32_t stop = pc_template_stop(u->template, u->tokenizer);
    const pc_generate_options options = {.max_tokens = ANSWER_TOKENS,
                                         .sampling = {.top_p = 1.0},
                                         .stop = &stop,
                                         .stops = stop >= 0 ? 1 : 0,
                                         .vocabulary = pc_tokenizer_vocab(u->tokenizer)};
    pc_status st = render(a, u, s);
    if (!st) st = load_pixels(a, u, s);
    if (!st)
        st = pc_generate(a->answer, runner, &u->model->vlm, a->sequence, a->n, &a->visual.pictures,
                         &options);
    return st;
}

static pc_status answer_card(FILE *out, run *u, pc_runner *runner, const pc_sample *s)
{
    asked a = {0};
    pc_status st = generate(&a, u, runner, s);
    fprintf(out, "<div class=sample>");
    if (!st && s->image) st = pc_picture_html(out, s->image, REPORT_SIDE, u->image.orient);
    fprintf(out, "<dl>");
    for (int64_t i = 0; i < a.n && !st; i++) {
        char *text = NULL, shown[8192];
        st = pc_tokenizer_decode(u->tokenizer, &text, a.answer[i].ids, a.answer[i].length, true);
        if (st) break;
        const bool right = same_words(text, a.truth[i]);
        say(shown, sizeof shown, a.question[i], false);
        fprintf(out, "<dt>");
        pc_html_text(out, *shown ? shown : "(describe)");
        fprintf(out, "</dt><dd class=%s>%s ", right ? "ok" : "no", right ? "&#10003;" : "&#10007;");
        pc_html_text(out, trimmed(text));
        fprintf(out, "</dd>");
        if (!right) {
            fprintf(out, "<dd><small>truth: ");
            pc_html_text(out, a.truth[i]);
            fprintf(out, "</small></dd>");
        }
        free(text);
    }
    fprintf(out, "</dl></div>\n");
    close_asked(&a);
    return st;
}

pc_status report_answers(FILE *out, run *u, int64_t count)
{
    const int64_t n = u->shown.count;
    pc_runner runner;
    pc_status st = pc_runner_open_on(&runner, u->threads, NULL, &u->backend);
    if (count > n) count = n;
    for (int64_t k = 0; k < count && !st; k++) {
        const pc_sample *s = &u->shown.samples[k * n / count];
        st = answer_card(out, u, &runner, s);
        // What the recipe skips while training is skipped here too.
        if (st == PC_ERR_INPUT && u->recipe->data.on_bad_sample == BAD_SKIP) st = PC_OK;
    }
    pc_runner_close(&runner);
    return st;
}

/*
 * test_validation.c - what validation counts, and what the first batch shows.
 *
 *   An answer that validation calls right (teacher forcing) is one that greedy generation writes, and only that.
 *   Recall at 1 is counted again from the embeddings, pair by pair. The preview is the conversation itself.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/file.h"
#include "model/core/log.h"
#include "model/networks/generate.h"
#include "tests/support/scratch.h"
#include "tests/support/small_run.h"
#include "train/preview.h"
#include "train/validation.h"

static int failed;

static void expect(bool ok, const char *what, double seen, double wanted)
{
    printf("%s %s: %g, expected %g\n", ok ? "ok    " : "FAILED", what, seen, wanted);
    failed += !ok;
}

static void must(pc_status st)
{
    if (!st) return;
    printf("FAILED %s\n", pc_error_text());
    exit(1);
}

#define SETS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void some_steps(run *u, int n)
{
    for (int i = 0; i < n; i++) {
        pc_batch *b;
        must(pc_loader_next(u->loader, &b));
        objective_step(&u->engine, b);
        optimizer_step(&u->optimizer, u->recipe->optim.lr, optimizer_norm(&u->optimizer));
    }
}

// Greedy: the answer's ids and then the stop, nothing else.
static bool generates(run *u, pc_runner *runner, const pc_sample *s, int64_t turn)
{
    char question[1024];
    const char *q = s->turns[turn].question;
    if (!strncmp(q, "<image>\n", 8)) q += 8;
    snprintf(question, sizeof question, "<image>\n%s", q);
    const pc_message m[2] = {{PC_ROLE_USER, question}, {PC_ROLE_ASSISTANT, s->turns[turn].answer}};
    const int32_t image_id = (int32_t)u->model->config.vlm.image_id;
    const int32_t stop = pc_template_stop(u->template, u->tokenizer);
    pc_rendered prompt = {0}, whole = {0};
    must(pc_template_render(u->template, &prompt, u->tokenizer, m, 1, true, image_id));
    must(pc_template_render(u->template, &whole, u->tokenizer, m, 2, false, image_id));

    const int64_t S = u->image.size;
    float *pixels = malloc((size_t)(3 * S * S) * sizeof *pixels);
    pc_image image;
    must(pc_image_open(&image, s->image, false));
    must(pc_image_preprocess(pixels, &image, &u->image));
    pc_image_close(&image);
    const pc_sequence sequence = {.ids = prompt.ids.list, .length = prompt.ids.count};
    const pc_generate_options o = {.max_tokens = 12,
                                   .sampling = {.top_p = 1.0},
                                   .stop = &stop,
                                   .stops = 1,
                                   .vocabulary = pc_tokenizer_vocab(u->tokenizer)};
    pc_generation g = {0};
    const pc_pictures pictures = {.count = 1, .pixels = pc_view4(pixels, PC_F32, 1, 3, S, S)};
    must(pc_generate(&g, runner, &u->model->vlm, &sequence, 1, &pictures, &o));
    int64_t k = 0;
    bool same = g.stopped;
    for (int64_t i = 0; i < whole.ids.count; i++) {
        if (!whole.supervised[i]) continue;
        if (whole.ids.list[i] == stop) break;
        same = same && k < g.length && g.ids[k] == whole.ids.list[i];
        k++;
    }
    same = same && k == g.length;
    pc_generation_close(&g, 1);
    free(pixels);
    pc_rendered_close(&prompt);
    pc_rendered_close(&whole);
    return same;
}

static void answers(const char *branches)
{
    recipe r;
    run u;
    validation v, again;
    char text[64];
    snprintf(text, sizeof text, "data.text={tokenizer: {train: {vocab: 320}}, branches: %s}",
             branches);
    small_recipe(&r, "tune", "unused", SETS(text, "optim.lr=5e-3"));
    must(run_open(&u, &r, NULL, false));
    some_steps(&u, 80);
    must(validation_run(&v, &u));
    must(validation_run(&again, &u));
    expect(v.loss == again.loss && v.right == again.right, "twice the same", again.loss, v.loss);

    pc_runner runner;
    must(pc_runner_open(&runner, 1, NULL));
    int64_t right = 0, asked = 0, types = 0;
    for (int64_t i = 0; i < u.shown.count; i++)
        for (int64_t k = 0; k < u.shown.samples[i].n_turns; k++, asked++)
            right += generates(&u, &runner, &u.shown.samples[i], k);
    pc_runner_close(&runner);
    expect(v.answers == asked, "answers counted", (double)v.answers, (double)asked);
    expect(v.right == right && right > 0 && right < asked, "right by teacher forcing and by greedy",
           (double)v.right, (double)right);
    for (int i = 0; i < v.n_types; i++) types += v.types[i].count;
    expect(v.n_types >= 3 && types == asked, "types add up", (double)types, (double)asked);
    expect(v.loss > 0.0 && v.loss < u.chance, "loss below chance", v.loss, u.chance);
    run_close(&u);
    recipe_close(&r);
}

static void recall(void)
{
    recipe r;
    run u;
    validation v;
    small_recipe(&r, "pretrain", "unused", SETS("optim.lr=5e-3", "eval.samples=10"));
    must(run_open(&u, &r, NULL, false));
    some_steps(&u, 40);
    must(validation_run(&v, &u));
    enum { N = 10, E = 16 };
    static float numbers[2 * N * E];
    int64_t sample[N], rows, hits = 0;
    double loss;
    const pc_tensor U = pc_view2(numbers, PC_F32, N, E),
                    V = pc_view2(numbers + N * E, PC_F32, N, E);
    must(validation_embed(&u, U, V, sample, &rows, &loss));
    expect(rows == N && u.shown.count == N, "eval.samples", (double)rows, N);
    double sum = 0.0;
    for (int i = 0; i < N; i++) {
        double s[N], largest = -2.0, total = 0.0;
        const double scale = exp((double)*(const float *)u.model->clip.logit_scale.w.data);
        for (int j = 0; j < N; j++) {
            s[j] = 0.0;
            for (int k = 0; k < E; k++) s[j] += (double)pc_f32(U, i)[k] * (double)pc_f32(V, j)[k];
            largest = fmax(largest, s[j]);
        }
        hits += s[i] == largest;
        for (int j = 0; j < N; j++) total += exp(scale * (s[j] - s[i]));
        sum += log(total) / N;
    }
    expect(fabs(v.recall_image - (double)hits / N) < 1e-12, "recall, image to text", v.recall_image,
           (double)hits / N);
    // The other half of the loss is text to image: it differs a little on ten pairs.
    expect(fabs(v.loss - sum) < 0.3 * sum, "loss near its one half", v.loss, sum);
    run_close(&u);
    recipe_close(&r);
}

static void preview(void)
{
    static const char rows[] =
        "[{\"id\": \"1\", \"image\": \"images/train_00000.png\", \"conversations\": ["
        "{\"from\": \"human\", \"value\": \"<image>\\nHow many?\"}, {\"from\": \"gpt\", \"value\": "
        "\"two\"},"
        "{\"from\": \"human\", \"value\": \"What colour?\"}, {\"from\": \"gpt\", \"value\": \"dark "
        "red\"}]}]";
    static const char *const shown[2][2] = {
        {"short", "<image> How many?\n[[ two</s>]] What colour?\n[[ dark red</s>]]"},
        {"chatml", "<|im_end|>\n<|im_start|>assistant\n[[two<|im_end|>]]"}};
    for (int k = 0; k < 4; k++) {
        recipe r;
        run u;
        pc_batch *b;
        char path[4200], set[4400], text[200], *seen;
        const bool branches = k % 2;
        snprintf(path, sizeof path, "%s/one.json", small_scenes());
        must(pc_file_write(path, rows, sizeof rows - 1));
        snprintf(set, sizeof set, "data={root: %s, train: [{path: one.json}]}", small_scenes());
        snprintf(text, sizeof text,
                 "data.text={tokenizer: {train: {vocab: 300}}, template: %s, branches: %s}",
                 shown[k / 2][0], branches ? "true" : "false");
        small_recipe(&r, "tune", "unused", SETS(set, text, "batch={size: 1, micro: 1}"));
        must(run_open(&u, &r, NULL, false));
        must(pc_loader_next(u.loader, &b));
        must(preview_sequence(&seen, &b->micro[0], 0, u.tokenizer));
        const bool ok = k < 2 ? !strcmp(seen, shown[0][1]) : strstr(seen, shown[1][1]) != NULL;
        printf("%s preview, %s%s: %s\n", ok ? "ok    " : "FAILED", shown[k / 2][0],
               branches ? ", branches" : "", seen);
        failed += !ok;
        free(seen);
        run_close(&u);
        recipe_close(&r);
    }
}

int main(void)
{
    pc_log_quiet(true);
    scratch_open();
    answers("true");
    recall();
    preview();
    scratch_close();
    return failed != 0;
}

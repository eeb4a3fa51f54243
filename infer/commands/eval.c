/*
 * eval.c - `percept eval`: how good is a model, by suites of held-out questions, captions or labels.
 */
#include "infer/evaluate/suites.h"
#include "infer/infer.h"
#include "model/core/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const suite_names[] = {"vqa", "pope", "retrieval", "classify"};
enum { SUITES = sizeof suite_names / sizeof suite_names[0], SUITES_MAX = 32, CARDS = 48 };

typedef struct request {
    int kind; // index into suite_names
    const char *data;
} request;

typedef struct evaluation {
    request asked[SUITES_MAX];
    suite_output done[SUITES_MAX];
    int count;
    pc_bundle bundle;
    answerer answerer;
    embedder embedder;
} evaluation;

// "vqa" or "vqa=FILE".
static pc_status parse_suite(request *out, const char *word, const char *data)
{
    const char *equals = strchr(word, '=');
    const size_t n = equals ? (size_t)(equals - word) : strlen(word);
    char name[64];

    snprintf(name, sizeof name, "%.*s", (int)n, word);
    for (int i = 0; i < SUITES; i++) {
        if (strcmp(name, suite_names[i])) continue;
        *out = (request){i, equals ? equals + 1 : data};
        if (out->data && *out->data) return PC_OK;
        return pc_fail(PC_ERR_USAGE, "percept eval: which data? --data FILE, or %s=FILE", name);
    }
    const char *near = pc_nearest(name, suite_names, SUITES);
    return pc_fail(PC_ERR_USAGE,
                   "percept eval: unknown suite '%s'%s%s%s (vqa, pope, retrieval, classify)", name,
                   near ? "; did you mean '" : "", near ? near : "", near ? "'" : "");
}

static pc_status run_suites(evaluation *e, const suite_input *common, int threads)
{
    pc_status st;

    if (e->bundle.model.config.kind == PC_MODEL_VLM)
        st = answerer_open(&e->answerer, &e->bundle, threads);
    else
        st = embedder_open(&e->embedder, &e->bundle, threads);
    for (int i = 0; i < e->count && !st; i++) {
        suite_input in = *common;
        in.data = e->asked[i].data;
        const bool questions = e->asked[i].kind < 2;
        if (questions != (e->bundle.model.config.kind == PC_MODEL_VLM))
            return pc_fail(PC_ERR_INPUT, "suite '%s' needs a %s; '%s' is none",
                           suite_names[e->asked[i].kind],
                           questions ? "model that answers" : "two-tower model", e->bundle.path);
        switch (e->asked[i].kind) {
        case 0: st = suite_vqa(&e->done[i], &e->answerer, &in); break;
        case 1: st = suite_pope(&e->done[i], &e->answerer, &in); break;
        case 2: st = suite_retrieval(&e->done[i], &e->embedder, &in); break;
        default: st = suite_classify(&e->done[i], &e->embedder, &in); break;
        }
    }
    return st;
}

// Mean F1 of several POPE files (random, popular, adversarial); *n of them.
static double pope_mean(const evaluation *e, int *n)
{
    double sum = 0.0;
    *n = 0;
    for (int i = 0; i < e->count; i++) {
        if (e->asked[i].kind != 1) continue;
        sum += json_real_value(json_object_get(e->done[i].result, "f1"));
        (*n)++;
    }
    return *n ? sum / (double)*n : 0.0;
}

static pc_status write_results(const evaluation *e, const char *model, bool json,
                               const char *report)
{
    json_t *results = json_array();
    json_t *head = json_pack("{s:s, s:s, s:O}", "model", model, "version", PERCEPT_VERSION,
                             "results", results);
    pc_status st = PC_OK;

    for (int i = 0; i < e->count; i++) json_array_append(results, e->done[i].result);
    if (!head || json_array_size(results) != (size_t)e->count) {
        st = pc_fail(PC_ERR_MEMORY, "results");
        goto out;
    }
    int files;
    const double mean = pope_mean(e, &files);
    if (files > 1) json_object_set_new(head, "pope_mean_f1", json_real(mean));
    if (json) {
        json_dumpf(head, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        putchar('\n');
    }
    for (int i = 0; i < e->count && !json; i++) {
        printf("%s%s: %s\n", i ? "\n" : "", suite_names[e->asked[i].kind], e->asked[i].data);
        table_print(stdout, e->done[i].table);
    }
    if (files > 1 && !json) printf("\npope: mean F1 of %d files %.1f %%\n", files, 100.0 * mean);
    if (report) st = page_write(report, head, e->done, e->count);
out:
    json_decref(results);
    json_decref(head);
    return st;
}

static pc_status evaluate(char **args, int n, suite_input *in, const char *mmproj, const char *data,
                          bool json, const char *report, const char *answers, int64_t threads)
{
    evaluation *e = calloc(1, sizeof *e);
    pc_status st = PC_OK;

    if (!e) return pc_fail(PC_ERR_MEMORY, "evaluation");
    if (n - 1 > SUITES_MAX)
        st = pc_fail(PC_ERR_USAGE, "percept eval: at most %d suites", SUITES_MAX);
    for (int i = 1; i < n && !st; i++) st = parse_suite(&e->asked[e->count++], args[i], data);
    if (!st && !(st = pc_bundle_open_mapped(&e->bundle, args[0], mmproj)) && answers) {
        in->answers = fopen(answers, "w");
        if (!in->answers) st = pc_fail_errno("cannot write '%s'", answers);
    }
    if (!st) st = run_suites(e, in, (int)threads);
    if (!st) st = write_results(e, args[0], json, report);
    if (in->answers && fclose(in->answers) && !st) st = pc_fail_errno("cannot write '%s'", answers);
    for (int i = 0; i < e->count; i++) suite_close(&e->done[i]);
    answerer_close(&e->answerer);
    embedder_close(&e->embedder);
    pc_bundle_close(&e->bundle);
    free(e);
    return st;
}

pc_status eval_main(int argc, char **argv)
{
    static const char *const usual[] = {"a photo of a {}."};
    suite_input in = {.max_tokens = 16, .cards = CARDS};
    const char *mmproj = NULL, *data = NULL, *report = NULL, *answers = NULL;
    bool json = false, no_blind = false;
    int64_t threads = 0;
    pc_cli_strings templates = {0};
    const pc_cli_flag flags[] = {
        {"data", PC_CLI_STRING, &data, "FILE", "rows of the suite; or write SUITE=FILE", 0, 0,
         NULL},
        {"images", PC_CLI_STRING, &in.images, "DIR",
         "folder of the images, unless it is the data's own", 0, 0, NULL},
        {"samples", PC_CLI_INT, &in.samples, "N",
         "at most N rows (retrieval: images), evenly spaced", 0, 1e12, NULL},
        {"json", PC_CLI_BOOL, &json, NULL, "results as JSON", 0, 0, NULL},
        {"report", PC_CLI_STRING, &report, "FILE", "write a self-contained HTML page", 0, 0, NULL},
        {"cards", PC_CLI_INT, &in.cards, "N", "images with answers on the page, per suite", 0,
         10000, NULL},
        {"answers", PC_CLI_STRING, &answers, "FILE", "write every question with its answer, JSONL",
         0, 0, NULL},
        {"max-tokens", PC_CLI_INT, &in.max_tokens, "N", "vqa, pope: longest answer", 1, 4096, NULL},
        {"suffix", PC_CLI_STRING, &in.suffix, "TEXT",
         "vqa, pope: added to every question, e.g. $'\\nAnswer the question using a single word or "
         "phrase.'",
         0, 0, NULL},
        {"no-blind", PC_CLI_BOOL, &no_blind, NULL, "vqa, pope: do not ask again without the image",
         0, 0, NULL},
        {"captions", PC_CLI_INT, &in.captions, "N", "retrieval: the first N captions of each image",
         0, 1000, NULL},
        {"classes", PC_CLI_STRING, &in.classes, "FILE",
         "classify: class names, one a line or a JSON list; those that occur unless given", 0, 0,
         NULL},
        {"template", PC_CLI_STRINGS, &templates, "TEXT",
         "classify: prompt with {} for the class; repeat for more", 0, 0, NULL},
        {"mmproj", PC_CLI_STRING, &mmproj, "FILE",
         "eyes of a .gguf, where they are not the mmproj beside it", 0, 0, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads; as many as processors unless given", 0,
         4096, NULL},
    };
    const pc_cli cli = {
        .command = "percept eval",
        .usage = "MODEL SUITE[=FILE]...",
        .about =
            "Judges a model. vqa: questions of a JSONL file {question_id, image, question, answer, "
            "type}; right when equal after the VQA normalisation, by type, and asked again without "
            "the "
            "image and with a grey one. pope: {question_id, image, text, label}. retrieval: "
            "{image, "
            "captions}. classify: {image, class}. Greedy decoding. Results name prompt, parser and "
            "the "
            "data's hash.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof flags[0]),
        .min_args = 2,
        .max_args = -1,
        .examples =
            (const char *const[]){
                "percept eval best.h5 vqa --data scenes/qa-test.jsonl --report report.html",
                "percept eval best.h5 vqa=a/qa_val.jsonl pope=a/pope_random_val.jsonl "
                "pope=a/pope_popular_val.jsonl --json",
                "percept eval clip-dir retrieval --data captions_val.jsonl --samples 500",
                "percept eval clip-dir classify --data labels_val.jsonl --classes classes.json",
                NULL},
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);

    if (!st && args) {
        in.blind = !no_blind;
        in.templates = templates.count ? templates.list : usual;
        in.n_templates = templates.count ? templates.count : 1;
        st = evaluate(args, n, &in, mmproj, data, json, report, answers, threads);
    }
    pc_cli_strings_close(&templates);
    return st;
}

/*
 * classify.c - `percept classify`: which of these labels fits an image, without training for them.
 */
#include "data/metrics/classification.h"
#include "infer/embed.h"
#include "infer/evaluate/labels.h"
#include "infer/infer.h"
#include "model/core/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct names {
    char **list;
    int64_t count;
} names;

static pc_status gather(names *out, const pc_cli_strings *labels, const char *file)
{
    pc_status st = PC_OK;

    if (file && (st = labels_names(&out->list, &out->count, file))) return st;
    char **list = realloc(out->list, (size_t)(out->count + labels->count + 1) * sizeof *list);
    if (!list) return pc_fail(PC_ERR_MEMORY, "%d labels", labels->count);
    out->list = list;
    for (int i = 0; i < labels->count && !st; i++) {
        if (!(list[out->count] = strdup(labels->list[i]))) return pc_fail(PC_ERR_MEMORY, "a label");
        out->count++;
    }
    if (out->count < 2)
        return pc_fail(PC_ERR_USAGE,
                       "percept classify: %lld labels; two or more are needed (--label, --labels)",
                       (long long)out->count);
    return PC_OK;
}

static void print_text(const char *image, const names *c, const double *p, const int64_t *top,
                       int64_t k)
{
    printf("%s\n", image);
    for (int64_t i = 0; i < k; i++) printf("  %6.2f %%  %s\n", 100.0 * p[top[i]], c->list[top[i]]);
}

static void print_json(const char *image, const names *c, const double *p, const float *cosine,
                       const int64_t *top, int64_t k)
{
    json_t *labels = json_array();
    for (int64_t i = 0; i < k; i++)
        json_array_append_new(labels,
                              json_pack("{s:s, s:f, s:f}", "label", c->list[top[i]], "probability",
                                        p[top[i]], "cosine", (double)cosine[top[i]]));
    json_t *o = json_pack("{s:s, s:o}", "image", image, "labels", labels);
    if (o) json_dumpf(o, stdout, JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(o);
}

static pc_status run(const char *model, const char *const *images, int64_t n, const names *c,
                     const char *const *templates, int n_templates, int64_t top_k, bool json,
                     int64_t threads)
{
    pc_bundle bundle = {0};
    embedder e = {0};
    const int64_t C = c->count, k = top_k < C ? top_k : C;
    float *W = NULL, *U = NULL, *S = NULL;
    double *p = NULL;
    int64_t *top = NULL;
    pc_status st;

    if ((st = pc_bundle_open_mapped(&bundle, model, NULL)) ||
        (st = embedder_open(&e, &bundle, (int)threads)))
        goto done;
    W = malloc((size_t)(C * e.E + 1) * sizeof *W);
    U = malloc((size_t)(n * e.E + 1) * sizeof *U);
    S = malloc((size_t)(n * C + 1) * sizeof *S);
    p = malloc((size_t)C * sizeof *p);
    top = malloc((size_t)k * sizeof *top);
    if (!W || !U || !S || !p || !top) {
        st = pc_fail(PC_ERR_MEMORY, "%lld labels, %lld images", (long long)C, (long long)n);
        goto done;
    }
    if ((st = embed_classes(&e, W, (const char *const *)c->list, C, templates, n_templates)) ||
        (st = embed_images(&e, U, images, n, n > 1 ? "classify" : NULL)) ||
        (st = embed_similarities(&e, S, U, n, W, C)))
        goto done;
    for (int64_t i = 0; i < n; i++) {
        embed_probabilities(&e, p, S + i * C, C);
        pc_top_classes(top, S + i * C, C, k);
        if (json)
            print_json(images[i], c, p, S + i * C, top, k);
        else
            print_text(images[i], c, p, top, k);
    }
done:
    free(W);
    free(U);
    free(S);
    free(p);
    free(top);
    embedder_close(&e);
    pc_bundle_close(&bundle);
    return st;
}

pc_status classify_main(int argc, char **argv)
{
    static const char *const usual[] = {"a photo of a {}."};
    pc_cli_strings labels = {0}, templates = {0};
    const char *file = NULL;
    bool json = false;
    int64_t top = 5, threads = 0;
    names all = {0};
    const pc_cli_flag flags[] = {
        {"label", PC_CLI_STRINGS, &labels, "NAME", "a label; repeat for more", 0, 0, NULL},
        {"labels", PC_CLI_STRING, &file, "FILE", "labels, one a line or a JSON list", 0, 0, NULL},
        {"template", PC_CLI_STRINGS, &templates, "TEXT",
         "prompt with {} for the label, \"a photo of a {}.\" unless given; repeat to average over "
         "several",
         0, 0, NULL},
        {"top", PC_CLI_INT, &top, "K", "how many labels to show", 1, 1e6, NULL},
        {"json", PC_CLI_BOOL, &json, NULL, "a JSON object an image", 0, 0, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads; as many as processors unless given", 0,
         4096, NULL},
    };
    const pc_cli cli = {
        .command = "percept classify",
        .usage = "MODEL IMAGE...",
        .about = "Which of the given labels fits an image, by a two-tower model that was never "
                 "trained for "
                 "them. Softmax probabilities; with a sigmoid model each label's own.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof flags[0]),
        .min_args = 2,
        .max_args = -1,
        .examples =
            (const char *const[]){
                "percept classify clip-dir photo.jpg --label cat --label dog",
                "percept classify best.h5 *.png --labels classes.txt --template \"{} on a shelf\"",
                NULL},
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);

    if (!st && args && !(st = gather(&all, &labels, file)))
        st = run(args[0], (const char *const *)args + 1, n - 1, &all,
                 templates.count ? templates.list : usual, templates.count ? templates.count : 1,
                 top, json, threads);
    labels_names_close(all.list, all.count);
    pc_cli_strings_close(&labels);
    pc_cli_strings_close(&templates);
    return st;
}

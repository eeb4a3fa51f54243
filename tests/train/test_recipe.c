/*
 * test_recipe.c - recipes: what is read, what is refused and how, what comes out again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/rng.h"
#include "train/recipe.h"
#include "train/recipe_yaml.h"

static int failed;

static void expect(bool ok, const char *what, const char *seen)
{
    printf("%s %s%s%s\n", ok ? "ok    " : "FAILED", what, seen ? ": " : "", seen ? seen : "");
    failed += !ok;
}

static const char base[] = "stage: tune\n"
                           "model: {from: some.h5}\n"
                           "data:\n"
                           "  train: [{path: a.json, images: pics}]\n"
                           "length: {epochs: 2}\n"
                           "optim:\n"
                           "  lr: 3e-4\n";

static pc_status parse(recipe *r, const char *text, const char *set)
{
    return recipe_parse(r, "r.yaml", text, strlen(text), &set, set ? 1 : 0);
}

// The text must be refused, with every one of these words (separated by |) in the message.
static void refuse(const char *what, const char *text, const char *set, const char *words)
{
    recipe r;
    char copy[512];
    const pc_status st = parse(&r, text, set);
    bool ok = st != PC_OK;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok(copy, "|"); w; w = strtok(NULL, "|"))
        ok = ok && strstr(pc_error_text(), w) != NULL;
    expect(ok, what, st ? pc_error_text() : "accepted");
    if (!st) recipe_close(&r);
}

static void refuse_set(const char *what, const char *set, const char *words)
{
    refuse(what, base, set, words);
}

static void defaults_and_values(void)
{
    recipe r;
    if (parse(&r, base, "batch.size=24")) {
        expect(false, "base", pc_error_text());
        return;
    }
    expect(r.optim.lr == 3e-4 && r.batch.size == 24, "values", NULL);
    expect(r.optim.betas.count == 2 && r.optim.betas.v[1] == 0.999, "default list", NULL);
    expect(r.top.stage == STAGE_TUNE && r.optim.schedule == 0, "choices", NULL);
    expect(r.train.vision == CHANGE_FROZEN && r.train.decoder == CHANGE_FULL, "auto by stage",
           NULL);
    expect(!strcmp(r.top.name, "r") && !strcmp(r.top.out, "runs/r"), "name and folder", r.top.out);
    expect(r.batch.micro > 0 && 24 % r.batch.micro == 0, "micro divides size", NULL);
    expect(!strcmp(r.data.train.list[0].full_images, "pics"), "images", NULL);
    recipe_close(&r);

    if (!parse(&r, base,
               "data={root: /d, train: [{path: x/a.json}, {path: /abs/b.json, weight: 2}]}")) {
        expect(!strcmp(r.data.train.list[0].full_path, "/d/x/a.json") &&
                   !strcmp(r.data.train.list[0].full_images, "/d/x"),
               "paths under root", r.data.train.list[0].full_images);
        expect(!strcmp(r.data.train.list[1].full_path, "/abs/b.json") &&
                   r.data.train.list[1].weight == 2.0,
               "absolute paths stay", r.data.train.list[1].full_path);
        recipe_close(&r);
    } else {
        expect(false, "root", pc_error_text());
    }
    if (!parse(&r, base, "data.train[0].path=z.json")) {
        expect(!strcmp(r.data.train.list[0].path, "z.json"), "--set inside a list", NULL);
        recipe_close(&r);
    } else {
        expect(false, "--set inside a list", pc_error_text());
    }
}

static void refusals(void)
{
    refuse("unknown key", "stage: tune\noptim:\n  lrr: 1\n", NULL, "r.yaml:3|optim.lrr|'lr'");
    refuse("unknown section", "stage: tune\nopitm: {lr: 1}\n", NULL, "r.yaml:2|opitm|optim");
    refuse("key of another section", "stage: tune\nclip: 1\n", NULL, "r.yaml:2|optim.clip");
    refuse("repeated key", "stage: tune\noptim:\n  lr: 1\n  lr: 2\n", NULL,
           "r.yaml:4|twice|r.yaml:3");
    refuse("missing key", "seed: 1\n", NULL, "stage|missing|pretrain");
    refuse("a scalar for a section", "stage: tune\noptim: 3\n", NULL, "r.yaml:2|section");
    refuse("not YAML", "stage: [tune\n", NULL, "r.yaml|not YAML");
    refuse("a list at the top", "- a\n", NULL, "keys and values");
    refuse("empty", "", NULL, "keys and values");
    refuse("word of a choice", "stage: tuen\n", NULL, "r.yaml:1|tune|did you mean");
    refuse_set("out of range", "optim.lr=-1", "--set optim.lr|outside|[0, 10]");
    refuse_set("text for a number", "optim.lr=fast", "--set optim.lr|number|fast");
    refuse_set("fraction for a whole number", "batch.size=1.5", "whole number");
    refuse_set("number too large for whole", "seed=1e300", "whole number");
    refuse_set("set without =", "optim.lr", "key=value");
    refuse_set("set an unknown key", "optim.lrate=1", "--set optim.lrate|unknown");
    refuse_set("set below a list that is shorter", "data.train[4].path=x", "no such item");
    refuse_set("set with a broken path", "optim..lr=1", "dotted path");
    refuse_set("unknown key of a source", "data.train=[{pth: a}]", "pth|path");
    refuse_set("source without a path", "data.train=[{images: a}]", "needs a path");
    refuse_set("no source", "data.train=[]", "at least one");
    char on_cpu[512];
    snprintf(on_cpu, sizeof on_cpu, "device: cpu\n%s", base);
    refuse("bf16 on the cpu", on_cpu, "precision=bf16", "fp32");
    refuse("fp8 on the cpu", on_cpu, "precision=fp8", "fp32");
#ifndef PERCEPT_CUDA
    refuse_set("cuda", "device=cuda", "no cuda");
    refuse_set("bf16", "precision=bf16", "fp32|no cuda");
    refuse_set("fp8", "precision=fp8", "fp32|no cuda");
    refuse_set("moments", "optim.moments=bf16", "optim.moments|no cuda");
    refuse_set("gradients", "optim.gradients=bf16", "optim.gradients|no cuda");
    refuse_set("master", "optim.master=none", "optim.master|no cuda");
#endif
    refuse_set("both lengths", "length={epochs: 1, steps: 3}", "not both");
    refuse_set("no length", "length={}", "epochs or steps");
    refuse_set("micro", "batch={size: 8, micro: 3}", "does not divide");
    refuse_set("from and shape", "model.shape={kind: vlm}", "not both");
    refuse_set("recall of tune", "eval.best=recall", "pretrain");
    refuse_set("betas", "optim.betas=[0.9]", "2 numbers");
    refuse_set("five numbers", "optim.betas=[0.1, 0.1, 0.1, 0.1, 0.1]", "at most 4");
    refuse_set("nothing trained", "model.train={projector: frozen, decoder: frozen}", "frozen");
    refuse_set("tokenizer for a checkpoint", "data.text.tokenizer={train: {vocab: 300}}",
               "new model");
}

static void round_trip(void)
{
    recipe a, b;
    char *first = NULL, *second = NULL;
    if (parse(&a, base, "optim.no_decay=['*.positions', \"12\", 'yes: no']") ||
        recipe_to_yaml(&first, &a, true) || parse(&b, first, NULL) ||
        recipe_to_yaml(&second, &b, true)) {
        expect(false, "round trip", pc_error_text());
        return;
    }
    expect(!strcmp(first, second), "resolved recipe reads back as itself", NULL);
    expect(b.optim.no_decay.count == 3 && !strcmp(b.optim.no_decay.list[1], "12"),
           "a text that looks like a number stays one", NULL);
    free(second);
    recipe_to_yaml(&second, &a, false);
    expect(!strstr(second, "\nout:"), "without its folder", NULL);
    expect(recipe_same_run(second, &a) == PC_OK, "the same run", NULL);
    recipe_close(&b);

    parse(&b, first, "eval.every=7");
    expect(recipe_same_run(second, &b) == PC_OK, "other validation is the same run", NULL);
    recipe_close(&b);
    parse(&b, first, "optim.lr=1e-3");
    expect(recipe_same_run(second, &b) != PC_OK && strstr(pc_error_text(), "optim.lr"),
           "another learning rate is not", pc_error_text());
    recipe_close(&b);
    recipe_close(&a);
    free(first);
    free(second);
}

// Bytes changed, cut and doubled at random: an answer or an error, never anything else.
static void hostile(void)
{
    const pc_rng_key key = {.seed = 11, .stream = PC_STREAM_TEST};
    char text[2 * sizeof base];
    int accepted = 0;
    for (uint64_t k = 0; k < 3000; k++) {
        const uint64_t at = 16 * k;
        size_t n = sizeof base - 1;
        memcpy(text, base, sizeof base);
        const int edits = 1 + (int)pc_rng_below(&key, at, 4);
        for (int e = 0; e < edits; e++) {
            const size_t place = (size_t)pc_rng_below(&key, at + 1 + 3 * (uint64_t)e, n);
            const uint64_t what = pc_rng_below(&key, at + 2 + 3 * (uint64_t)e, 3);
            const uint64_t byte = pc_rng_below(&key, at + 3 + 3 * (uint64_t)e, 256);
            if (what == 0) text[place] = (char)byte;
            if (what == 1) n = place + 1;
            if (what == 2) text[place] = ":-[]{}&*!|>'\"%@`\n\t #"[byte % 20];
        }
        recipe r;
        if (!recipe_parse(&r, "r.yaml", text, n, NULL, 0)) {
            accepted++;
            recipe_close(&r);
        }
    }
    char seen[64];
    snprintf(seen, sizeof seen, "%d of 3000 still recipes", accepted);
    expect(accepted < 2000, "spoilt recipes end in a message", seen);

    // An alias inside itself, and one that unfolds without end.
    refuse("alias of itself", "stage: tune\nmodel: &a {shape: *a}\n", NULL, "r.yaml");
    refuse("aliases that multiply",
           "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
           "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
           "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
           NULL, "more than");
}

static void descriptions(void)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out || recipe_schema(out)) expect(false, "schema", pc_error_text());
    if (out) fclose(out);
    json_t *schema = json_loads(text ? text : "", 0, NULL);
    const json_t *lr = json_object_get(
        json_object_get(json_object_get(json_object_get(json_object_get(schema, "properties"),
                                                        "optim"),
                                        "properties"),
                        "lr"),
        "maximum");
    expect(json_number_value(lr) == 10.0, "schema knows the range of optim.lr", NULL);
    json_decref(schema);
    free(text);
    text = NULL;
    out = open_memstream(&text, &size);
    if (out) recipe_reference(out);
    if (out) fclose(out);
    int n;
    const recipe_section *s = recipe_sections(&n);
    bool all = text != NULL;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < s[i].count && all; k++) {
            char row[80];
            snprintf(row, sizeof row, "| `%s` |", s[i].keys[k].name);
            all = strstr(text, row) != NULL;
        }
    expect(all, "the reference has a row for every key", NULL);
    free(text);
}

int main(void)
{
    defaults_and_values();
    refusals();
    round_trip();
    hostile();
    descriptions();
    return failed != 0;
}

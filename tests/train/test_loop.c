/*
 * test_loop.c - whole runs at a small size: does it learn, repeat, resume, stop, and refuse?
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/core/file.h"
#include "model/core/log.h"
#include "tests/support/scratch.h"
#include "tests/support/small_run.h"
#include "train/loop.h"
#include "train/state.h"

static int failed;

static void expect(bool ok, const char *what, const char *seen)
{
    printf("%s %s%s%s\n", ok ? "ok    " : "FAILED", what, seen ? ": " : "", seen ? seen : "");
    failed += !ok;
}

#define SETS(...) ((const char *const[]){__VA_ARGS__, NULL})

static pc_status train(const char *stage, const char *out, bool resume, const char *const *sets)
{
    recipe r;
    pc_status st = small_recipe_try(&r, stage, out, sets);
    if (st) return st;
    st = loop_train(&r, resume);
    recipe_close(&r);
    return st;
}

// The run must fail, with every one of these words (separated by |) in the message.
static void refuse(const char *what, pc_status st, const char *words)
{
    char copy[512];
    bool ok = st != PC_OK;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok(copy, "|"); w; w = strtok(NULL, "|"))
        ok = ok && strstr(pc_error_text(), w) != NULL;
    expect(ok, what, st ? pc_error_text() : "accepted");
}

static void must(const char *what, pc_status st)
{
    expect(st == PC_OK, what, st ? pc_error_text() : NULL);
}

static const char *in(const char *out, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", out, name);
    return scratch_path(path);
}

static bool same_file(const char *a, const char *b)
{
    char x[65] = "a", y[65] = "b";
    return !pc_file_sha256(x, a) && !pc_file_sha256(y, b) && !strcmp(x, y);
}

static void copy_file(const char *to, const char *from)
{
    char *data;
    size_t size;
    if (pc_file_read(&data, &size, from, (size_t)1 << 30) || pc_file_write(to, data, size))
        expect(false, "copy", pc_error_text());
    free(data);
}

// The last number behind "key": in metrics.jsonl.
static double last_metric(const char *out, const char *key)
{
    char *text, find[64];
    size_t size;
    double value = NAN;
    if (pc_file_read(&text, &size, in(out, "metrics.jsonl"), (size_t)1 << 24)) return NAN;
    snprintf(find, sizeof find, "\"%s\": ", key);
    for (const char *at = text; (at = strstr(at, find)); at += strlen(find))
        value = strtod(at + strlen(find), NULL);
    free(text);
    return value;
}

#define VARIED "data.augment={crop: 0.8, flip: true, colour: 0.1, words: 0.2}"

static void repeats_and_resumes(const char *stage)
{
    char a[64], b[64], c[64];
    snprintf(a, sizeof a, "%s-a", stage);
    snprintf(b, sizeof b, "%s-b", stage);
    snprintf(c, sizeof c, "%s-c", stage);
    const char *const optim = strcmp(stage, "tune") ? "optim.name=muon" : "optim.name=adamw";
    const char *const *sets =
        SETS("checkpoint={every: 3, keep: 9}", "eval.every=2", "dropout=0.1", optim, VARIED);
    must(stage, train(stage, a, false, sets));
    must("again, into another folder", train(stage, b, false, sets));
    expect(same_file(in(a, "checkpoints/last.h5"), in(b, "checkpoints/last.h5")),
           "twice the same last.h5", NULL);
    expect(same_file(in(a, "checkpoints/best.h5"), in(b, "checkpoints/best.h5")),
           "twice the same best.h5", NULL);

    // As if the run had been killed at its fourth step: the checkpoint of step 3 is what it left.
    must("folder", pc_make_dirs(in(c, "checkpoints")));
    copy_file(in(c, "checkpoints/last.h5"), in(a, "checkpoints/step-3.h5"));
    copy_file(in(c, "metrics.jsonl"), in(a, "metrics.jsonl"));
    must("going on after step 3", train(stage, c, true, sets));
    expect(same_file(in(a, "checkpoints/last.h5"), in(c, "checkpoints/last.h5")),
           "resumed and unbroken end in the same last.h5", NULL);
    expect(same_file(in(a, "checkpoints/best.h5"), in(c, "checkpoints/best.h5")),
           "and in the same best.h5", NULL);
    expect(pc_file_exists(in(c, "report.html")) && pc_file_exists(in(c, "manifest.json")) &&
               pc_file_exists(in(c, "recipe.yaml")) && pc_file_exists(in(c, "inputs.sha256")),
           "the folder is complete", NULL);

    refuse("a used folder", train(stage, a, false, sets), "already holds a run|--resume");
    must("a complete run has nothing to go on with", train(stage, a, true, sets));
    refuse("another recipe",
           train(stage, a, true, SETS("dropout=0.1", optim, VARIED, "optim.lr=0.5")),
           "optim.lr|0.5");
    refuse("other data",
           train(stage, a, true,
                 SETS(optim, "dropout=0.1", VARIED,
                      strcmp(stage, "tune") ? "data.train=[{path: captions-val.jsonl}]"
                                            : "data.train=[{path: vqa-val.json}]")),
           "data.train|began with");
}

static void keeps_few(void)
{
    must("keep 2", train("tune", "few", false, SETS("checkpoint={every: 1, keep: 2}")));
    expect(!pc_file_exists(in("few", "checkpoints/step-6.h5")) &&
               pc_file_exists(in("few", "checkpoints/step-7.h5")) &&
               pc_file_exists(in("few", "checkpoints/step-8.h5")),
           "two step files stay", NULL);
}

// Eight samples seen again and again are learned by heart.
static void learns(void)
{
    char *text, set[4300], path[4200];
    size_t size;
    snprintf(path, sizeof path, "%s/vqa-train.json", small_scenes());
    if (pc_file_read(&text, &size, path, (size_t)1 << 24)) expect(false, "rows", pc_error_text());
    char *end = text;
    for (int i = 0; i < 9; i++) end = strstr(end + 1, "\n{\"id\"");
    strcpy(end - 1, "\n]\n");
    snprintf(path, sizeof path, "%s/eight.json", small_scenes());
    must("eight rows", pc_file_write(path, text, strlen(text)));
    free(text);
    snprintf(set, sizeof set,
             "data={root: %s, train: [{path: eight.json}], val: [{path: eight.json}]}",
             small_scenes());
    must("overfit", train("tune", "overfit", false,
                          SETS(set, "data.text={tokenizer: {train: {vocab: 300}}, branches: true}",
                               "length.steps=250", "optim.lr=1e-2", "optim.weight_decay=0")));
    char seen[96];
    snprintf(seen, sizeof seen, "loss %.4f, answers right %.2f", last_metric("overfit", "loss"),
             last_metric("overfit", "val_accuracy"));
    expect(last_metric("overfit", "loss") < 0.05, "eight samples are learned by heart", seen);
    expect(last_metric("overfit", "val_accuracy") > 0.98, "and answered", seen);
}

// A checkpoint with one parameter spoilt; the run that starts from it must stop and say where.
static const char *spoilt(const char *from, const char *name, const char *param, float value)
{
    pc_bundle b = {0};
    must("open", pc_bundle_open(&b, from));
    pc_param *p = pc_params_find(&b.model.params, param);
    expect(p != NULL, param, "is there to be spoilt");
    for (int64_t i = 0; p && i < pc_numel(p->weight->w); i++)
        ((float *)p->weight->w.data)[i] = value;
    must("write", pc_native_write(scratch_path(name), &b.model.params, false, &b.text));
    pc_bundle_close(&b);
    return scratch_path(name);
}

static pc_status train_from(const char *checkpoint, const char *out)
{
    char from[4200];
    snprintf(from, sizeof from, "model={from: %s, train: {vision: full}}", checkpoint);
    return train("tune", out, false,
                 SETS(from, "data.text={branches: true}", "checkpoint.every=1"));
}

static void stops(void)
{
    char good[4096];
    snprintf(good, sizeof good, "%s", in("tune-a", "checkpoints/best.h5"));
    refuse("a NaN weight",
           train_from(spoilt(good, "nan.h5", "decoder.blocks.1.attn.out.weight", NAN), "nan"),
           "step 1|parameter|decoder.blocks.1.attn.out.weight");
    expect(!pc_file_exists(in("nan", "checkpoints/last.h5")) &&
               !pc_file_exists(in("nan", "checkpoints/best.h5")),
           "nothing was written", NULL);
    refuse("an activation that overflows",
           train_from(spoilt(good, "big.h5", "vision.blocks.0.mlp.fc2.weight", 3e38f), "big"),
           "step 1|activation|vision.|vqa-train.json");
    must("the same without harm", train_from(good, "sound"));
}

static void refusals(void)
{
    refuse("stage and model", train("pretrain", "x1", false, SETS("model.shape.kind=vlm")),
           "model.shape|text");
    refuse("conversations for two towers",
           train("pretrain", "x2", false, SETS("data.train=[{path: vqa-train.json}]")),
           "vqa-train.json|captions");
    refuse("a file that is not there",
           train("tune", "x3", false, SETS("data.train=[{path: nowhere.json}]")),
           "data.train|nowhere.json");
    refuse("an unknown template", train("tune", "x4", false, SETS("data.text.template=vicunia_v1")),
           "vicuna_v1");
    refuse("another image size", train("tune", "x5", false, SETS("data.image.size=48")), "48|32");
    refuse("an unknown key of the shape",
           train("tune", "x6", false, SETS("model.shape.decoder.heads=2")), "model.shape|heads");
    refuse("a pattern that matches nothing",
           train("tune", "x7", false, SETS("optim.no_decay=['*.nothing']")), "*.nothing");
    refuse("too little memory", train("tune", "x8", false, SETS("compute.memory=1")),
           "memory|batch.micro");
    refuse("a checkpoint that is not there",
           train("tune", "x9", false,
                 SETS("model={from: /nonexistent/a.h5}", "data.text={branches: true}")),
           "model.from|/nonexistent/a.h5");
}

// pretrain -> align with that tower -> tune from there.
static void stages(void)
{
    char set[4300];
    snprintf(set, sizeof set, "model.vision_from=%s", in("pretrain-a", "checkpoints/best.h5"));
    must("a vlm around a pretrained tower",
         train("tune", "around", false,
               SETS(set, "model.shape.vision=null", "model.train={vision: frozen}")));
    pc_bundle tower = {0}, vlm = {0};
    must("open", pc_bundle_open(&tower, in("pretrain-a", "checkpoints/best.h5")));
    must("open", pc_bundle_open(&vlm, in("around", "checkpoints/last.h5")));
    const char *name = "vision.blocks.1.attn.qkv.weight";
    const pc_param *a = pc_params_find(&tower.model.params, name);
    const pc_param *b = pc_params_find(&vlm.model.params, name);
    expect(a && b &&
               !memcmp(a->weight->w.data, b->weight->w.data,
                       (size_t)pc_numel(a->weight->w) * sizeof(float)),
           "the frozen tower is the pretrained one", NULL);
    a = pc_params_find(&vlm.model.params, "decoder.blocks.0.attn.qkv.weight");
    expect(a != NULL, "with a decoder behind it", NULL);
    pc_bundle_close(&tower);
    pc_bundle_close(&vlm);
}

int main(void)
{
    pc_log_quiet(true);
    scratch_open();
    repeats_and_resumes("pretrain");
    repeats_and_resumes("tune");
    keeps_few();
    stops();
    refusals();
    stages();
    learns();
    scratch_close();
    return failed != 0;
}

/*
 * small_run.c - see small_run.h.
 */
#include "tests/support/small_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/scenes/scenes.h"
#include "tests/support/scratch.h"

static char folder[4096];

const char *small_scenes(void)
{
    if (*folder) return folder;
    snprintf(folder, sizeof folder, "%s", scratch_path("scenes"));
    scenes_options o = scenes_default_options();
    o.images = 48;
    o.size = 32;
    o.questions = 4;
    o.seed = 5;
    o.threads = 1;
    if (scenes_write(folder, &o)) {
        fprintf(stderr, "scenes: %s\n", pc_error_text());
        abort();
    }
    return folder;
}

static const char towers[] = "stage: pretrain\n"
                             "seed: 3\n"
                             "model:\n"
                             "  shape:\n"
                             "    vision: {image_size: 32, patch: 8, C: 16, H: 2, L: 2, E: 16}\n"
                             "    text: {C: 16, H: 2, L: 1, T: 64}\n"
                             "data:\n"
                             "  root: %s\n"
                             "  train: [{path: captions-train.jsonl}]\n"
                             "  val: [{path: captions-val.jsonl}]\n"
                             "  text: {tokenizer: {train: {vocab: 320}}}\n"
                             "batch: {size: 12, micro: 3}\n"
                             "length: {steps: 8}\n"
                             "optim: {lr: 1e-3, warmup: 2}\n"
                             "compute: {threads: 2}\n"
                             "report: {samples: 2}\n"
                             "out: %s\n";

static const char tokens[] =
    "stage: tune\n"
    "seed: 3\n"
    "model:\n"
    "  shape:\n"
    "    vision: {image_size: 32, patch: 8, C: 16, H: 2, L: 2, class_token: false}\n"
    "    projector: {depth: 1, out: 24}\n"
    "    decoder: {C: 24, H: 2, L: 2, T: 256}\n"
    "  train: {vision: full}\n"
    "data:\n"
    "  root: %s\n"
    "  train: [{path: vqa-train.json}]\n"
    "  val: [{path: vqa-val.json}]\n"
    "  text: {tokenizer: {train: {vocab: 320}}, branches: true}\n"
    "batch: {size: 8, micro: 2}\n"
    "length: {steps: 8}\n"
    "optim: {lr: 2e-3, warmup: 2}\n"
    "compute: {threads: 2}\n"
    "report: {samples: 2}\n"
    "out: %s\n";

pc_status small_recipe_try(recipe *r, const char *stage, const char *out, const char *const *sets)
{
    char text[12000];
    int n = 0;
    while (sets && sets[n]) n++;
    snprintf(text, sizeof text, strcmp(stage, "pretrain") ? tokens : towers, small_scenes(),
             scratch_path(out));
    return recipe_parse(r, "small.yaml", text, strlen(text), sets, n);
}

void small_recipe(recipe *r, const char *stage, const char *out, const char *const *sets)
{
    if (!small_recipe_try(r, stage, out, sets)) return;
    fprintf(stderr, "recipe: %s\n", pc_error_text());
    abort();
}

/*
 * run.h - the training room's map, and a run: everything a recipe asks for, open.
 *
 *   recipe.h         one YAML file is one run; recipe_keys.h has every key, once
 *   schedule.h       learning rate of a step
 *   optimizer.h      AdamW over the parameter list, clipping
 *   engine.h         replicas on threads; the one place where gradients are summed
 *   objective.h      contrastive.c (two towers), instruction.c (next token): a step's loss and gradients
 *   diagnose.h       where the first value stopped being finite
 *   plan.h           bytes and FLOPs before step 1; plan_fit.c: what to change when they do not fit
 *   run.h            run_model.c: model, tokenizer, image settings; run_adapters.c: low-rank adapters; run.c: data, plan, engine, optimiser
 *   state.h          the run's folder, its checkpoints, and what resume needs
 *   whiten.h         a new tower whose first layer sees pixels whitened
 *   augment.h        training images, varied
 *   validation.h     loss, answers and retrieval on held-out data
 *   preview.h        the first batch as text, its supervised part marked
 *   metrics.h        metrics.jsonl;  tensorboard.h  the event file;  manifest.h  hashes of every input
 *   report.h         report.html: report_curves.c, report_samples.c, report_page.c
 *   loop.h           step after step: train, validate, write, stop
 *   commands/        the commands of percept-train
 */
#ifndef PC_TRAIN_RUN_H
#define PC_TRAIN_RUN_H

#include "model/networks/placement.h"
#include "checkpoints/bundle.h"
#include "train/augment.h"
#include "train/optimizer.h"
#include "train/plan.h"
#include "train/recipe.h"
#include "train/schedule.h"

// How far a run has come: what a checkpoint holds beside numbers.
typedef struct run_state {
    int64_t step;  // finished optimiser steps
    int64_t t;     // updates of the optimiser
    bool has_best; // best.h5 exists
    double best, best_loss;
    int64_t best_step;
    int64_t samples; // of the training data
    char data[65];   // SHA-256 of its row files, one after the other
    int threads, replicas;
} run_state;

typedef struct run {
    recipe *recipe; // not owned
    bool resumed;   // going on from last.h5
    // run_model.c
    pc_bundle bundle;        // what the model came from; a new model's parts are put in here too
    pc_tokenizer *tokenizer; // borrowed from the bundle
    const pc_template *template;
    pc_image_config image;
    pc_model *model;     // &bundle.model
    pc_native_text text; // what checkpoints say beside numbers; `state` is made at each writing
    // run.c
    pc_dataset train, val, shown; // shown: the part of val that is looked at, borrowing its samples
    pc_loader *loader, *val_loader;
    pc_pool *pool;
    int threads;
    pc_backend backend;     // where it is computed
    pc_placement placement; // the weights there
    plan_request request;
    plan plan;
    augment augment;
    engine engine;
    optimizer optimizer;
    schedule schedule;
    int64_t steps, steps_per_epoch;
    run_state state;
    double chance; // loss of knowing nothing
} run;

// Model, tokenizer, template, image settings; new weights drawn from the seed, or those of `from`, or of
// last.h5 when `last` is given. A tokenizer to be trained needs run->train.
pc_status run_open_model(run *u, const char *last);
// run_adapters.c: a checkpoint with its adapters merged; new adapters where the recipe asks for them.
pc_status run_open_merged(pc_bundle *b, const char *path);
pc_status run_add_adapters(run *u);
// Whether the loss depends on a parameter: parts of a tower that the decoder never sees (blocks above the feature
// layer, the head and its norm) get no gradient.
bool run_reaches(const pc_model *m, const char *name);
// Which modules change, at which rate, and which weights decay.
pc_status run_set_modules(run *u);

// Data, plan, engine, optimiser, loaders: after run_open the first step can run. With `plan_only` it
// stops after the plan. `last`: the checkpoint to go on from, or NULL.
pc_status run_open(run *u, recipe *r, const char *last, bool plan_only);
void run_close(run *u); // a zeroed one is fine

// Training batches from the one of this many finished steps on, again.
pc_status run_rewind(run *u, int64_t step);

// FLOPs of a step with these counts, by the plan.
double run_flops(const run *u, const pc_batch *b);

#endif

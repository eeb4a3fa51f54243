/*
 * train.h - the training room's map.
 *
 *   recipe.h         one YAML file is one run; recipe_keys.h has every key, once
 *   schedule.h       learning rate of a step
 *   optimizer.h      AdamW over the parameter list, clipping, finiteness
 *   engine.h         replicas on threads; the one place where gradients are summed
 *   objective.h      contrastive.c (two towers), instruction.c (next token): one step's loss and gradients
 *   plan.h           bytes and FLOPs before step 1, and what to change when they do not fit
 *   setup.h          a recipe turned into model, tokenizer, data, engine: everything a run needs, open
 *   state.h          the run's folder: checkpoints, what resume needs
 *   validation.h     loss, answers and retrieval on held-out data
 *   preview.h        the first batch as text, its supervised part marked
 *   metrics.h        metrics.jsonl;  tensorboard.h  the event file
 *   manifest.h       hashes of every input
 *   report.h         report.html
 *   loop.h           step after step: train, validate, write, stop
 *   commands/        the commands of percept-train
 */
#ifndef PC_TRAIN_TRAIN_H
#define PC_TRAIN_TRAIN_H

#include "train/loop.h"

#endif

/*
 * recipe_keys.h - every key of a recipe, once.
 *
 * A row is X(type, key, default, min, max, unit, help). It makes the struct member, the YAML key, the range check,
 * `--set section.key=value`, the line of `--help recipe`, the row of docs/recipes.md and the JSON schema.
 *
 *   type     member                 default, as YAML text
 *   INT      int64_t                number within [min, max]
 *   REAL     double                 number within [min, max]
 *   BOOL     bool                   true or false
 *   TEXT     char *                 "" is an empty text
 *   CHOICE   int, an index          one of the words in the `unit` column, in the order of the enum in recipe.h
 *   REALS    recipe_reals           list of at most 4 numbers, each within [min, max]
 *   TEXTS    recipe_texts           list of texts
 *   SOURCES  recipe_sources         list of {path, images, weight}
 *   TREE     json_t *               read by someone else: the model's shape
 *
 * A default of NULL makes the key required.
 */
#ifndef PC_TRAIN_RECIPE_KEYS_H
#define PC_TRAIN_RECIPE_KEYS_H

// clang-format off
#define RECIPE_TOP_KEYS(X)                                                                                             \
    X(TEXT,   name,      "\"\"", 0, 0, "", "what the run is called; the recipe's file name when empty")                \
    X(CHOICE, stage,     NULL, 0, 0, "pretrain|align|tune", "pretrain: two towers on image-caption pairs; align: a projector learns to feed a decoder; tune: questions and answers") \
    X(INT,    seed,      "1", 0, 9007199254740992., "", "every random number of the run follows from it")              \
    X(CHOICE, device,    "auto", 0, 0, "auto|cpu|cuda", "where to compute: cuda needs a build with it and a GPU; auto is what PERCEPT_DEVICE names, else a GPU where one is to be had, else the cpu")                    \
    X(CHOICE, precision, "auto", 0, 0, "auto|fp32|bf16|fp8", "of the arithmetic; auto: bf16 on cuda, sums and statistics in fp32; fp8: as bf16, but products of transformer blocks in eight bits while training; the cpu computes in fp32") \
    X(REAL,   dropout,   "0.0", 0, 0.9, "", "probability that a residual branch's value is dropped while training")    \
    X(TEXT,   out,       "\"\"", 0, 0, "", "the run's folder; runs/NAME when empty")

#define RECIPE_MODEL_KEYS(X)                                                                                           \
    X(TEXT, from,        "\"\"", 0, 0, "", "checkpoint to start from: a native .h5 or a Hugging Face directory")       \
    X(TREE, shape,       "null", 0, 0, "", "description of a new model, instead of `from`; keys below")                \
    X(TEXT, vision_from, "\"\"", 0, 0, "", "two-tower checkpoint whose vision tower goes into the new model of `shape`") \
    X(CHOICE, stem,      "random", 0, 0, "random|whitened", "first weights of a new tower's first layer; whitened: random ones before pixels that patches of the training images have taught to differ alike in every direction. For few images: see optim.lr_scale.stem")

#define RECIPE_MODEL_TRAIN_KEYS(X)                                                                                     \
    X(CHOICE, vision,    "auto", 0, 0, "auto|frozen|full|lora", "the vision tower; auto: trained in pretrain, frozen in align and tune. lora: adapters alone") \
    X(CHOICE, text,      "auto", 0, 0, "auto|frozen|full|lora", "the text tower of a two-tower model; auto: trained")  \
    X(CHOICE, projector, "auto", 0, 0, "auto|frozen|full|lora", "auto: trained")                                       \
    X(CHOICE, decoder,   "auto", 0, 0, "auto|frozen|full|lora", "auto: frozen in align, trained in tune")

#define RECIPE_LORA_KEYS(X)                                                                                            \
    X(INT,   r,       "8", 1, 65536, "", "rank of the adapters: W x + alpha/r B A x")                                  \
    X(REAL,  alpha,   "8.0", 1e-6, 1e6, "", "their strength is alpha / r")                                             \
    X(REAL,  dropout, "0.0", 0, 0.9, "", "probability that an input of an adapter is dropped while training")          \
    X(BOOL,  rslora,  "false", 0, 0, "", "strength alpha / sqrt(r) instead")                                           \
    X(TEXTS, targets, "[]", 0, 0, "", "which linears, by their names or the ends of them in the family's library: q_proj, mlp.fc1; all-linear; or a regular expression for the whole path. []: queries and values, and all of a projector")

#define RECIPE_DATA_KEYS(X)                                                                                            \
    X(TEXT,    root,           "\"\"", 0, 0, "", "folder that relative paths of `train` and `val` start from; the current one when empty") \
    X(SOURCES, train,          NULL, 0, 0, "", "what to learn from: captions JSONL or LLaVA conversation JSON")        \
    X(SOURCES, val,            "[]", 0, 0, "", "what to validate on; the same formats")                                \
    X(CHOICE,  on_bad_sample,  "error", 0, 0, "error|skip", "a row or image that cannot be used: stop, or count and list it") \
    X(BOOL,    cache_images,   "true", 0, 0, "", "keep decoded, resized images in memory when they fit")               \
    X(BOOL,    random_caption, "true", 0, 0, "", "an image with several captions shows another one each epoch; false: the first")

#define RECIPE_IMAGE_KEYS(X)                                                                                           \
    X(INT,    size,   "0", 0, 4096, "px", "side of the square the model sees; 0: the model's. Another size than the model's is an error") \
    X(CHOICE, fit,    "auto", 0, 0, "auto|pad|crop|squash", "how an image becomes a square; auto: the checkpoint's, or pad") \
    X(CHOICE, filter, "auto", 0, 0, "auto|bilinear|bicubic", "of the resize; auto: the checkpoint's, or bicubic")      \
    X(REALS,  mean,   "[]", 0, 1, "", "red, green, blue mean; []: the checkpoint's, or CLIP's")                        \
    X(REALS,  std,    "[]", 1e-6, 10, "", "red, green, blue standard deviation; []: the checkpoint's, or CLIP's")

#define RECIPE_AUGMENT_KEYS(X)                                                                                         \
    X(REAL, crop,   "1.0", 0.1, 1, "of the side", "a random square of at least this size at each visit; 1: the whole image") \
    X(BOOL, flip,   "false", 0, 0, "", "left and right exchanged every other visit; not for questions about left and right") \
    X(REAL, colour, "0.0", 0, 1, "", "channels stretched and shifted at random by up to this much") \
    X(REAL, words,  "0.0", 0, 0.9, "", "two towers: this share of a caption's tokens hidden at each visit")

#define RECIPE_TEXT_KEYS(X)                                                                                            \
    X(TEXT, template,   "\"\"", 0, 0, "", "how a conversation is written: short, vicuna_v1, plain, chatml and others (docs/templates.md), or a .jinja file; the checkpoint's, or short, when empty") \
    X(TEXT, tokenizer,  "\"\"", 0, 0, "", "tokenizer.json, a folder or checkpoint that has one; the checkpoint's when empty. Or {train: {vocab: N}}") \
    X(INT,  max_tokens, "0", 0, 1048576, "tokens", "longest sequence, image rows included; longer ones lose whole turns from the end. 0: what the model can hold") \
    X(BOOL, branches,   "false", 0, 0, "", "the turns of a conversation share its image and do not see each other")    \
    X(INT,  max_turns,  "0", 0, 10000, "turns", "at most so many turns of a conversation a visit, chosen anew each epoch; 0: all")

#define RECIPE_TOKENIZER_KEYS(X)                                                                                       \
    X(INT,   vocab, "0", 0, 1000000, "tokens", "train a byte-level BPE of so many tokens on the training texts")       \
    X(TEXTS, also,  "[]", 0, 0, "", "further data files (of stages to come) whose texts count too; relative to data.root")

#define RECIPE_BATCH_KEYS(X)                                                                                           \
    X(INT, size,  "32", 1, 1048576, "samples", "samples of one optimiser step")                                        \
    X(INT, micro, "0", 0, 1048576, "samples", "samples carried through the model at once; divides size. 0: one share a thread, at most 32")

#define RECIPE_LENGTH_KEYS(X)                                                                                          \
    X(REAL, epochs, "0.0", 0, 100000, "epochs", "how often the training data are seen; or give steps")                 \
    X(INT,  steps,  "0", 0, 1000000000, "steps", "optimiser steps; or give epochs")

#define RECIPE_OPTIM_KEYS(X)                                                                                           \
    X(CHOICE, name,         "adamw", 0, 0, "adamw|muon", "muon: orthogonalised momentum for hidden matrices, adamw for the rest") \
    X(REAL,   lr,           "2e-4", 0, 10, "", "peak learning rate")                                                   \
    X(REALS,  betas,        "[0.9, 0.999]", 0, 0.99999999, "", "decay of the first and second moments")                \
    X(REAL,   eps,          "1e-8", 1e-20, 1, "", "added to the root of the second moment")                            \
    X(REAL,   weight_decay, "0.01", 0, 10, "", "decoupled decay of tensors of two or more dimensions")                 \
    X(TEXTS,  no_decay,     "[]", 0, 0, "", "further parameters without decay, by name pattern: \"*.positions\"")      \
    X(REAL,   clip,         "1.0", 0, 1e6, "", "largest gradient norm of a step; 0 for no limit")                      \
    X(CHOICE, schedule,     "cosine", 0, 0, "cosine|linear|constant", "of the learning rate, after the warm-up")       \
    X(REAL,   warmup,       "0.03", 0, 1e9, "", "warm-up: below 1 a share of all steps, from 1 on a number of steps")  \
    X(CHOICE, rounding,     "stochastic", 0, 0, "nearest|stochastic", "of weights and moments that are kept in bf16 alone; stochastic: up or down at random, so that small steps count on average") \
    X(CHOICE, master,       "fp32", 0, 0, "fp32|none", "precision bf16: weights are updated in fp32 and computed with in bf16, or are bf16 alone (4 bytes a number less)") \
    X(CHOICE, moments,      "fp32", 0, 0, "fp32|bf16", "what the moments of matrices are kept in, on cuda (bf16: 4 bytes a number less)") \
    X(CHOICE, gradients,    "fp32", 0, 0, "fp32|bf16", "what the gradients of matrices are summed in, on cuda (bf16: 2 bytes a number less)") \
    X(REAL,   min_lr,       "0.0", 0, 1, "of lr", "where the schedule ends, as a share of lr")

#define RECIPE_LR_SCALE_KEYS(X)                                                                                        \
    X(REAL, vision,    "1.0", 0, 1000, "", "multiplies lr for the vision tower")                                       \
    X(REAL, stem,      "1.0", 0, 1000, "", "multiplies it once more for the tower's first layer; 0: that one stays as it began") \
    X(REAL, text,      "1.0", 0, 1000, "", "multiplies lr for the text tower")                                         \
    X(REAL, projector, "1.0", 0, 1000, "", "multiplies lr for the projector")                                          \
    X(REAL, decoder,   "1.0", 0, 1000, "", "multiplies lr for the decoder")

#define RECIPE_EVAL_KEYS(X)                                                                                            \
    X(INT,    every,   "0", 0, 1000000000, "steps", "validate every so many steps; 0: at the end only")                \
    X(INT,    samples, "0", 0, 1000000000, "samples", "of the validation data, evenly spread; 0: all")                 \
    X(CHOICE, best,    "auto", 0, 0, "auto|loss|accuracy|recall", "what makes best.h5; auto: recall in pretrain, loss in align, accuracy in tune")

#define RECIPE_CHECKPOINT_KEYS(X)                                                                                      \
    X(INT, every, "500", 0, 1000000000, "steps", "write last.h5 every so many steps; 0: at the end only")              \
    X(INT, keep,  "0", 0, 1000, "files", "so many step files stay beside last.h5 and best.h5")

#define RECIPE_COMPUTE_KEYS(X)                                                                                         \
    X(INT,    threads,   "0", 0, 1024, "threads", "0: one for each processor this process may use")                    \
    X(CHOICE, split,     "auto", 0, 0, "auto|samples|operations", "threads share the micro-batches of a step, or every operation; auto: by the model's size") \
    X(CHOICE, recompute, "none", 0, 0, "none|block|auto", "block: keep a block's input only and run it again in backward; auto: when memory asks for it") \
    X(CHOICE, replay,    "auto", 0, 0, "auto|on|off", "contrastive batches of many micro-batches: run the forward pass twice instead of keeping activations; auto: when memory asks for it. The result is the same to the bit") \
    X(INT,    memory,    "0", 0, 1e9, "MiB", "what the run may take; 0: what the machine has free")                    \
    X(INT,    loaders,   "1", 1, 64, "threads", "threads that read, decode and tokenise ahead")                        \
    X(INT,    ahead,     "3", 1, 64, "batches", "batches prepared ahead")

#define RECIPE_REPORT_KEYS(X)                                                                                          \
    X(INT, samples, "12", 0, 200, "images", "validation images shown in report.html with questions, answers and truths")

// Sections: S(path, struct name, member of recipe, KEYS, help).
#define RECIPE_SECTIONS(S)                                                                                             \
    S("",                          recipe_top,         top,        RECIPE_TOP_KEYS,         "The run")                 \
    S("model",                     recipe_model,       model,      RECIPE_MODEL_KEYS,       "What learns")             \
    S("model.train",               recipe_model_train, train,      RECIPE_MODEL_TRAIN_KEYS, "Which modules change")    \
    S("model.lora",                recipe_lora,        lora,       RECIPE_LORA_KEYS,        "Low-rank adapters")       \
    S("data",                      recipe_data,        data,       RECIPE_DATA_KEYS,        "What it learns from")     \
    S("data.image",                recipe_image,       image,      RECIPE_IMAGE_KEYS,       "What it sees")            \
    S("data.augment",              recipe_augment,     augment,    RECIPE_AUGMENT_KEYS,     "Training images, varied") \
    S("data.text",                 recipe_text,        text,       RECIPE_TEXT_KEYS,        "What it reads")           \
    S("data.text.tokenizer.train", recipe_tokenizer,   tokenizer,  RECIPE_TOKENIZER_KEYS,   "A tokenizer of one's own") \
    S("batch",                     recipe_batch,       batch,      RECIPE_BATCH_KEYS,       "Samples a step")          \
    S("length",                    recipe_length,      length,     RECIPE_LENGTH_KEYS,      "How long; one of the two") \
    S("optim",                     recipe_optim,       optim,      RECIPE_OPTIM_KEYS,       "How weights move")        \
    S("optim.lr_scale",            recipe_lr_scale,    lr_scale,   RECIPE_LR_SCALE_KEYS,    "Learning rate by module") \
    S("eval",                      recipe_eval,        eval,       RECIPE_EVAL_KEYS,        "Validation")              \
    S("checkpoint",                recipe_checkpoint,  checkpoint, RECIPE_CHECKPOINT_KEYS,  "What is kept")            \
    S("compute",                   recipe_compute,     compute,    RECIPE_COMPUTE_KEYS,     "Threads and memory")      \
    S("report",                    recipe_report,      report,     RECIPE_REPORT_KEYS,      "report.html")

// Items of a SOURCES list; read by hand in recipe.c, described here like everything else.
#define RECIPE_SOURCE_KEYS(X)                                                                                          \
    X(TEXT, path,   NULL, 0, 0, "", "the rows: captions JSONL or LLaVA conversation JSON")                             \
    X(TEXT, images, "\"\"", 0, 0, "", "folder that the rows' image paths are relative to; the folder of `path` when empty") \
    X(REAL, weight, "1.0", 0.001, 1000, "", "samples of this source count so many times in an epoch")
// clang-format on

#endif

/*
 * recipe.h - one YAML file is one run.
 *
 *   recipe_keys.h       every key: type, default, range, unit, help
 *   recipe_yaml.{h,c}   YAML into a tree that remembers lines
 *   recipe.c            the tree into this struct, each key checked
 *   recipe_rules.c      rules across keys; may a run go on with a changed recipe
 *   recipe_write.c      the recipe as resolved
 *   recipe_reference.c  the same tables as --help recipe, docs/recipes.md and a JSON schema
 */
#ifndef PC_TRAIN_RECIPE_H
#define PC_TRAIN_RECIPE_H

#include "model/core/status.h"
#include "train/recipe_keys.h"
#include <jansson.h>
#include <stdio.h>

// In the order of the choices in recipe_keys.h.
typedef enum recipe_stage { STAGE_PRETRAIN, STAGE_ALIGN, STAGE_TUNE } recipe_stage;
typedef enum recipe_device { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA } recipe_device;
typedef enum recipe_kept { KEPT_FP32, KEPT_BF16 } recipe_kept; // also master: fp32, none
typedef enum recipe_precision {
    PRECISION_AUTO,
    PRECISION_FP32,
    PRECISION_BF16,
    PRECISION_FP8
} recipe_precision;
typedef enum recipe_change { CHANGE_AUTO, CHANGE_FROZEN, CHANGE_FULL, CHANGE_LORA } recipe_change;
typedef enum recipe_bad { BAD_ERROR, BAD_SKIP } recipe_bad;
typedef enum recipe_stem { STEM_RANDOM, STEM_WHITENED } recipe_stem;
typedef enum recipe_fit { FIT_AUTO, FIT_PAD, FIT_CROP, FIT_SQUASH } recipe_fit;
typedef enum recipe_filter { FILTER_AUTO, FILTER_BILINEAR, FILTER_BICUBIC } recipe_filter;
typedef enum recipe_optimizer { OPTIM_ADAMW, OPTIM_MUON } recipe_optimizer;
typedef enum recipe_rounding { ROUNDING_NEAREST, ROUNDING_STOCHASTIC } recipe_rounding;
typedef enum recipe_best { BEST_AUTO, BEST_LOSS, BEST_ACCURACY, BEST_RECALL } recipe_best;
typedef enum recipe_split { SPLIT_AUTO, SPLIT_SAMPLES, SPLIT_OPERATIONS } recipe_split;
typedef enum recipe_recompute { RECOMPUTE_NONE, RECOMPUTE_BLOCK, RECOMPUTE_AUTO } recipe_recompute;
typedef enum recipe_replay { REPLAY_AUTO, REPLAY_ON, REPLAY_OFF } recipe_replay;

enum { RECIPE_REALS_MAX = 4 };

typedef struct recipe_reals {
    double v[RECIPE_REALS_MAX];
    int64_t count;
} recipe_reals;

typedef struct recipe_texts {
    char **list;
    int64_t count;
} recipe_texts;

typedef struct recipe_source {
    char *path, *images;           // as written
    char *full_path, *full_images; // under data.root
    double weight;
} recipe_source;

typedef struct recipe_sources {
    recipe_source *list;
    int64_t count;
} recipe_sources;

// One struct per section, one member per row of its table.
#define RECIPE_INT                                int64_t
#define RECIPE_REAL                               double
#define RECIPE_BOOL                               bool
#define RECIPE_TEXT                               char *
#define RECIPE_CHOICE                             int
#define RECIPE_REALS                              recipe_reals
#define RECIPE_TEXTS                              recipe_texts
#define RECIPE_SOURCES                            recipe_sources
#define RECIPE_TREE                               json_t *
#define RECIPE_MEMBER(type, key, d, lo, hi, u, h) RECIPE_##type key;
#define RECIPE_STRUCT(path, name, member, KEYS, h)                                                 \
    typedef struct name {                                                                          \
        KEYS(RECIPE_MEMBER)                                                                        \
    } name;
RECIPE_SECTIONS(RECIPE_STRUCT)

#define RECIPE_SECTION_MEMBER(path, name, member, KEYS, h) name member;
typedef struct recipe {
    RECIPE_SECTIONS(RECIPE_SECTION_MEMBER)
    char file[4096]; // where it was read from
} recipe;

// Reads, applies `--set` assignments, fills defaults, checks every key and the whole (recipe_validate).
pc_status recipe_open(recipe *r, const char *path, const char *const *sets, int n_sets);
pc_status recipe_parse(recipe *r, const char *name, const char *text, size_t size,
                       const char *const *sets, int n_sets);
void recipe_close(recipe *r);

// Rules across keys. Also settles what `auto` means where that follows from the recipe alone.
pc_status recipe_validate(recipe *r);

// As resolved: every key with its value. New reference; `out` is left out when `where` is false: two
// runs of one recipe into two folders are the same run.
json_t *recipe_to_json(const recipe *r, bool where);
pc_status recipe_to_yaml(char **out, const recipe *r, bool where);

/*
 * May a run that began with `before` (YAML of recipe_to_yaml) go on with `now`? Keys that shape what is
 * learned must be equal; the error names the first that is not, and both values. Keys about where and
 * how often to write, and about threads, may differ.
 */
pc_status recipe_same_run(const char *before, const recipe *now);

// The word of a CHOICE: recipe_word("stage", r.top.stage) is "tune".
const char *recipe_word(const char *path, int choice);

// The tables as text: for --help recipe, docs/recipes.md (--reference) and editors (--schema).
void recipe_help(FILE *out);
void recipe_reference(FILE *out);
pc_status recipe_schema(FILE *out);

// For recipe.c and recipe_reference.c: the tables as data.
typedef enum recipe_type {
    RECIPE_TYPE_INT,
    RECIPE_TYPE_REAL,
    RECIPE_TYPE_BOOL,
    RECIPE_TYPE_TEXT,
    RECIPE_TYPE_CHOICE,
    RECIPE_TYPE_REALS,
    RECIPE_TYPE_TEXTS,
    RECIPE_TYPE_SOURCES,
    RECIPE_TYPE_TREE,
} recipe_type;

typedef struct recipe_key {
    const char *name;
    recipe_type type;
    const char *def; // YAML text; NULL: required
    double min, max;
    const char *unit, *help; // CHOICE: unit holds the words
    size_t offset;           // in the section's struct
} recipe_key;

typedef struct recipe_section {
    const char *path;
    const recipe_key *keys;
    int count;
    size_t offset; // in recipe
    const char *help;
} recipe_section;

void *recipe_member(const recipe *r, const recipe_section *s, const recipe_key *k);
void recipe_join(char *buf, size_t size, const char *path, const char *key); // "path.key"
// Word number `i` of "a|b|c" into buf; false when there are fewer.
bool recipe_word_at(char *buf, size_t size, const char *words, int i);

const recipe_section *recipe_sections(int *count);
const recipe_section *recipe_source_section(void); // the keys of an item of train and val
const char *recipe_type_name(recipe_type t);       // for people: "number", "one of"

#endif

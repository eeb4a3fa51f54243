/*
 * check.c - percept-data check: reads every row and image before compute is spent. Exit status 1 when a row
 * cannot be used; duplicates are told, and are no failure.
 */
#include "data/commands/check.h"
#include "data/commands/commands.h"
#include "model/core/file.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* ---- print ---- */

static int64_t number(const json_t *o, const char *key)
{
    return (int64_t)json_integer_value(json_object_get(o, key));
}

static void print_list(const json_t *list, int64_t most)
{
    const json_t *one;
    size_t i;
    json_array_foreach(list, i, one)
    {
        if ((int64_t)i == most) {
            printf("      ... and %zu more (--show)\n", json_array_size(list) - i);
            break;
        }
        printf("      %s\n", json_string_value(one));
    }
}

static void print_images(const json_t *images)
{
    const json_t *small = json_object_get(images, "smallest"),
                 *large = json_object_get(images, "largest");
    printf("  %lld images", (long long)number(images, "count"));
    if (small && json_equal(small, large))
        printf(" of %lld x %lld pixels", (long long)json_integer_value(json_array_get(small, 0)),
               (long long)json_integer_value(json_array_get(small, 1)));
    else if (small)
        printf(" from %lld x %lld to %lld x %lld pixels",
               (long long)json_integer_value(json_array_get(small, 0)),
               (long long)json_integer_value(json_array_get(small, 1)),
               (long long)json_integer_value(json_array_get(large, 0)),
               (long long)json_integer_value(json_array_get(large, 1)));
    printf("\n");
}

static void print_file(const json_t *r, int64_t show)
{
    const json_t *tokens = json_object_get(r, "tokens"), *same = json_object_get(r, "duplicates");
    printf("%s: %s\n  %lld rows, %lld texts\n", json_string_value(json_object_get(r, "path")),
           json_string_value(json_object_get(r, "kind")), (long long)number(r, "rows"),
           (long long)number(r, "texts"));
    if (number(json_object_get(r, "images"), "count")) print_images(json_object_get(r, "images"));
    if (tokens) {
        printf("  %lld tokens, %lld learned; the longest row has %lld (%s)\n",
               (long long)number(tokens, "total"), (long long)number(tokens, "learned"),
               (long long)number(tokens, "longest"),
               json_string_value(json_object_get(tokens, "longest_at")));
        if (number(tokens, "cut"))
            printf("  %lld rows lose their last turns to --max-tokens\n",
                   (long long)number(tokens, "cut"));
    }
    if (number(same, "rows") + number(same, "captions") + number(same, "images")) {
        printf("  duplicates: %lld rows, %lld captions of several images, %lld images\n",
               (long long)number(same, "rows"), (long long)number(same, "captions"),
               (long long)number(same, "images"));
        print_list(json_object_get(same, "examples"), show);
    }
    if (number(r, "unusable")) {
        printf("  UNUSABLE: %lld rows\n", (long long)number(r, "unusable"));
        print_list(json_object_get(r, "problems"), show);
    }
}

/* ---- files of a folder ---- */

typedef struct paths {
    char **list;
    int count;
} paths;

static pc_status add_path(paths *p, const char *path)
{
    char **list = realloc(p->list, (size_t)(p->count + 1) * sizeof *list);
    char *copy = strdup(path);
    if (list) p->list = list;
    if (!list || !copy) {
        free(copy);
        return pc_fail(PC_ERR_MEMORY, "a path");
    }
    p->list[p->count++] = copy;
    return PC_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* True when the first row is one of a data set: other JSON may lie in the folder too. */
static bool is_data(const char *path)
{
    static const char *const keys[] = {"captions", "conversations", "question_id"};
    pc_row_reader rows;
    json_t *row = NULL;
    bool found = false;
    if (pc_row_reader_open(&rows, path)) return true; // let the check say why
    if (pc_row_reader_next(&rows, &row)) found = true;
    for (int i = 0; i < 3; i++) found = found || json_object_get(row, keys[i]);
    json_decref(row);
    pc_row_reader_close(&rows);
    return found;
}

static pc_status add_folder(paths *p, const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir) return pc_fail_errno("folder '%s'", folder);
    const int first = p->count;
    pc_status st = PC_OK;
    for (const struct dirent *e; !st && (e = readdir(dir));) {
        char path[4096];
        const char *dot = strrchr(e->d_name, '.');
        if (!dot || (strcmp(dot, ".json") != 0 && strcmp(dot, ".jsonl") != 0)) continue;
        const int n = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (n > 0 && (size_t)n < sizeof path && is_data(path)) st = add_path(p, path);
    }
    closedir(dir);
    if (st) return st;
    if (p->count == first)
        return pc_fail(PC_ERR_INPUT,
                       "folder '%s' holds no .json or .jsonl file with captions, conversations or "
                       "questions",
                       folder);
    qsort(p->list + first, (size_t)(p->count - first), sizeof *p->list, by_name);
    return PC_OK;
}

static void paths_close(paths *p)
{
    for (int i = 0; i < p->count; i++) free(p->list[i]);
    free(p->list);
}

/* ---- the command ---- */

static pc_status check_all(const paths *p, const check_options *o, int64_t show, bool as_json)
{
    json_t *files = json_array();
    int64_t unusable = 0, bad_files = 0;
    pc_status st = PC_OK;
    for (int i = 0; i < p->count && !st; i++) {
        json_t *report = NULL;
        if ((st = check_file(&report, p->list[i], o))) break;
        unusable += number(report, "unusable");
        bad_files += number(report, "unusable") > 0;
        if (!as_json) print_file(report, show);
        if (json_array_append_new(files, report)) st = pc_fail(PC_ERR_MEMORY, "the report");
    }
    if (!st && as_json) {
        json_t *all = json_pack("{s:O, s:I}", "files", files, "unusable", (json_int_t)unusable);
        st = data_print_json(all);
        json_decref(all);
    }
    json_decref(files);
    if (!st) st = data_flush();
    if (!st && unusable)
        st = pc_fail(
            PC_ERR_INPUT,
            "%lld rows in %lld of %d files cannot be used; `on_bad_sample: skip` would leave "
            "them out",
            (long long)unusable, (long long)bad_files, p->count);
    return st;
}

pc_status data_check(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-data check build/scenes",
        "percept-data check train.json --images /data/photos",
        "percept-data check train.json --tokenizer tokenizer.json --max-tokens 256 --image-rows 64",
        NULL,
    };
    int names;
    const char *images = NULL, *tokenizer = NULL, *template_name = "vicuna_v1";
    int64_t max_tokens = 0, image_rows = 1, show = 20, threads = 0;
    bool no_images = false, as_json = false;
    const char *choices[16] = {NULL};
    const char *const *known = pc_template_names(&names);
    for (int i = 0; i < names && i < 15; i++) choices[i] = known[i];
    const pc_cli_flag flags[] = {
        {"images", PC_CLI_STRING, &images, "DIR",
         "folder that image paths are relative to (the file's own)", 0, 0, NULL},
        {"no-images", PC_CLI_BOOL, &no_images, NULL, "do not decode the images", 0, 0, NULL},
        {"tokenizer", PC_CLI_STRING, &tokenizer, "FILE",
         "count tokens: a tokenizer.json or a model", 0, 0, NULL},
        {"template", PC_CLI_STRING, &template_name, "NAME", "chat template of the tokens", 0, 0,
         choices},
        {"max-tokens", PC_CLI_INT, &max_tokens, "N", "longest sequence, image rows included", 0,
         1e9, NULL},
        {"image-rows", PC_CLI_INT, &image_rows, "N", "rows that an image takes", 1, 1e6, NULL},
        {"show", PC_CLI_INT, &show, "N", "messages shown of each kind", 0, 1e9, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads that decode; 0 takes every processor", 0,
         256, NULL},
        {"json", PC_CLI_BOOL, &as_json, NULL, "the whole report as one JSON object", 0, 0, NULL},
    };
    const pc_cli cli = {
        .command = "percept-data check",
        .usage = "DATASET...",
        .about =
            "Reads every row and image of captions, conversation and question files (or of all of "
            "them in a folder) and tells what is wrong, where, and what a run would skip; "
            "duplicates; and, with a tokenizer, how many tokens there are and which row is "
            "longest. Ends in 1 when a row cannot be used.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags,
        .min_args = 1,
        .max_args = -1,
        .examples = examples,
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;

    paths p = {0};
    pc_tokenizer *tok = NULL;
    check_options o = {.images = images,
                       .decode = !no_images,
                       .tmpl = pc_template_find(template_name),
                       .max_tokens = max_tokens,
                       .image_rows = image_rows};
    for (int i = 0; i < n && !st; i++)
        st = pc_is_dir(args[i]) ? add_folder(&p, args[i]) : add_path(&p, args[i]);
    if (!st && tokenizer) st = data_open_tokenizer(&tok, tokenizer);
    o.tok = tok;
    if (!st) st = pc_pool_open(&o.pool, (int)threads);
    if (!st) st = check_all(&p, &o, show, as_json);
    pc_pool_close(o.pool);
    pc_tokenizer_close(tok);
    paths_close(&p);
    return st;
}

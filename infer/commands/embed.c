/*
 * embed.c - `percept embed`: unit vectors of images and texts, as JSON lines or in a safetensors file.
 */
#include "infer/embed.h"
#include "infer/infer.h"
#include "model/core/cli.h"
#include "model/core/file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One text a line of a file.
typedef struct lines {
    char *memory;
    const char **list;
    int64_t count;
} lines;

static void lines_close(lines *l)
{
    free(l->memory);
    free(l->list);
    memset(l, 0, sizeof *l);
}

// The texts of the flags, then those of the file.
static pc_status lines_open(lines *l, const pc_cli_strings *given, const char *path)
{
    size_t size = 0;
    pc_status st;

    memset(l, 0, sizeof *l);
    if (path && (st = pc_file_read(&l->memory, &size, path, (size_t)1 << 30))) return st;
    size_t n = (size_t)given->count + 1;
    for (size_t i = 0; i < size; i++) n += l->memory[i] == '\n';
    l->list = calloc(n, sizeof *l->list);
    if (!l->list) return pc_fail(PC_ERR_MEMORY, "%zu texts", n);
    for (int i = 0; i < given->count; i++) l->list[l->count++] = given->list[i];
    for (char *s = l->memory; s && *s;) {
        char *end = strchr(s, '\n');
        if (end) *end = '\0';
        s[strcspn(s, "\r")] = '\0';
        l->list[l->count++] = s;
        s = end ? end + 1 : NULL;
    }
    return PC_OK;
}

static pc_status print_rows(const char *key, const char *const *names, const float *x, int64_t n,
                            int64_t E)
{
    for (int64_t i = 0; i < n; i++) {
        json_t *v = json_array();
        for (int64_t e = 0; e < E; e++) json_array_append_new(v, json_real((double)x[i * E + e]));
        json_t *o = json_pack("{s:s, s:o}", key, names[i], "embedding", v);
        if (!o || json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)))
            return pc_fail(PC_ERR_INPUT, "%s %lld cannot be written as JSON (is it UTF-8?)", key,
                           (long long)i + 1);
        putchar('\n');
        json_decref(o);
    }
    return PC_OK;
}

static pc_status write_rows(const char *path, const float *U, int64_t I, const float *V, int64_t T,
                            int64_t E)
{
    pc_st_out list[2];
    int64_t n = 0;

    if (I)
        list[n++] = (pc_st_out){
            .name = "image_embeds", .dtype = PC_F32, .rank = 2, .dim = {I, E}, .data = U};
    if (T)
        list[n++] = (pc_st_out){
            .name = "text_embeds", .dtype = PC_F32, .rank = 2, .dim = {T, E}, .data = V};
    return pc_safetensors_write(path, list, n, NULL);
}

static pc_status run(const char *model, const pc_cli_strings *images, const lines *texts,
                     const char *out, int64_t threads)
{
    pc_bundle bundle = {0};
    embedder e = {0};
    float *U = NULL, *V = NULL;
    const int64_t I = images->count, T = texts->count;
    pc_status st;

    if ((st = pc_bundle_open_mapped(&bundle, model, NULL)) ||
        (st = embedder_open(&e, &bundle, (int)threads)))
        goto done;
    U = malloc((size_t)(I * e.E + 1) * sizeof *U);
    V = malloc((size_t)(T * e.E + 1) * sizeof *V);
    if (!U || !V) {
        st = pc_fail(PC_ERR_MEMORY, "%lld embeddings", (long long)(I + T));
        goto done;
    }
    if ((I && (st = embed_images(&e, U, images->list, I, "embed, images"))) ||
        (T && (st = embed_texts(&e, V, texts->list, T, "embed, texts"))))
        goto done;
    if (out)
        st = write_rows(out, U, I, V, T, e.E);
    else if (!(st = print_rows("image", images->list, U, I, e.E)))
        st = print_rows("text", texts->list, V, T, e.E);
done:
    free(U);
    free(V);
    embedder_close(&e);
    pc_bundle_close(&bundle);
    return st;
}

pc_status embed_main(int argc, char **argv)
{
    pc_cli_strings images = {0}, texts = {0};
    const char *file = NULL, *out = NULL;
    bool json = false;
    int64_t threads = 0;
    lines all = {0};
    const pc_cli_flag flags[] = {
        {"image", PC_CLI_STRINGS, &images, "FILE", "an image; repeat for more", 0, 0, NULL},
        {"text", PC_CLI_STRINGS, &texts, "TEXT", "a text; repeat for more", 0, 0, NULL},
        {"texts", PC_CLI_STRING, &file, "FILE", "a text a line", 0, 0, NULL},
        {"out", PC_CLI_STRING, &out, "FILE",
         "safetensors with image_embeds and text_embeds, instead of standard output", 0, 0, NULL},
        {"json", PC_CLI_BOOL, &json, NULL,
         "JSON lines on standard output, which is what happens anyway", 0, 0, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads; as many as processors unless given", 0,
         4096, NULL},
    };
    const pc_cli cli = {
        .command = "percept embed",
        .usage = "MODEL [IMAGE...]",
        .about = "Unit vectors of images and texts from a two-tower model. Prints a JSON object a "
                 "line: image or "
                 "text, and embedding.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof flags[0]),
        .min_args = 1,
        .max_args = -1,
        .examples =
            (const char *const[]){
                "percept embed clip-dir cat.jpg dog.jpg --text \"a photo of a cat\"",
                "percept embed best.h5 --texts captions.txt --out texts.safetensors", NULL},
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);

    if (!st && args) {
        // Images may stand behind the model, or behind flags.
        const int given = images.count, count = given + n - 1;
        const char **list = realloc(images.list, (size_t)(count + 1) * sizeof *list);
        if (!list) {
            st = pc_fail(PC_ERR_MEMORY, "%d images", count);
        } else {
            images.list = list;
            for (int i = 1; i < n; i++) images.list[images.count++] = args[i];
            st = lines_open(&all, &texts, file);
        }
        if (!st && images.count + all.count == 0)
            st = pc_fail(PC_ERR_USAGE, "percept embed: no image and no text");
        if (!st) st = run(args[0], &images, &all, out, threads);
    }
    lines_close(&all);
    pc_cli_strings_close(&images);
    pc_cli_strings_close(&texts);
    return st;
}

/*
 * tokenizer_open.c - a tokenizer from files, whichever its publisher chose.
 *
 * A folder: tokenizer.json; or tokenizer.model; or vocab.json with merges.txt; or a *.tiktoken file; or CLIP's
 * bpe_simple_vocab_16e6.txt.gz. Beside them tokenizer_config.json, special_tokens_map.json and added_tokens.json say
 * which tokens were added and what for. A single file: the same, by what it holds rather than by what it is called.
 */
#include "data/text/bpe.h"
#include "data/text/layouts.h"
#include "data/text/sentencepiece.h"
#include "model/core/file.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 256 << 20 };

static pc_status join(char out[PATH_MAX], const char *folder, const char *name)
{
    const int n = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    if (n < 0 || n >= PATH_MAX)
        return pc_fail(PC_ERR_INPUT, "'%.80s...': a path of %d characters is too long", folder, n);
    return PC_OK;
}

/* ---- the files beside ---- */

/* A JSON object of the folder; NULL when there is no such file. */
static pc_status load_object(json_t **out, const char *folder, const char *name)
{
    char path[PATH_MAX], *text;
    size_t size;
    json_error_t error;
    *out = NULL;
    pc_status st = join(path, folder, name);
    if (st || !pc_file_exists(path)) return st;
    if ((st = pc_file_read(&text, &size, path, FILE_LIMIT))) return st;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!*out) return pc_fail(PC_ERR_FORMAT, "'%s': line %d: %s", path, error.line, error.text);
    if (json_is_object(*out)) return PC_OK;
    json_decref(*out);
    *out = NULL;
    return pc_fail(PC_ERR_FORMAT, "'%s': expected a JSON object", path);
}

/* tokenizer_config.json, with what the older files say where it says nothing; NULL: none of them is there. */
static pc_status load_config(json_t **out, const char *folder)
{
    json_t *map = NULL, *added = NULL, *config = NULL, *generation = NULL;
    pc_status st;
    *out = NULL;
    if ((st = load_object(&config, folder, "tokenizer_config.json")) ||
        (st = load_object(&map, folder, "special_tokens_map.json")) ||
        (st = load_object(&added, folder, "added_tokens.json")) ||
        (st = load_object(&generation, folder, "generation_config.json")))
        goto out;
    if (!config && (map || added) && !(config = json_object()))
        st = pc_fail(PC_ERR_MEMORY, "a tokenizer");
    if (!st && map && json_object_update_missing(config, map))
        st = pc_fail(PC_ERR_MEMORY, "a tokenizer");
    if (!st && added && json_object_set(config, "added_tokens.json", added))
        st = pc_fail(PC_ERR_MEMORY, "a tokenizer");
    if (!st && config && generation &&
        json_object_set(config, "generation_config.json", generation))
        st = pc_fail(PC_ERR_MEMORY, "a tokenizer");
    if (!st) {
        *out = config;
        config = NULL;
    }
out:
    json_decref(generation);
    json_decref(config);
    json_decref(map);
    json_decref(added);
    return st;
}

/* ---- kinds ---- */

/* Which of a folder's files holds the tokenizer; "" when none does. */
static void find_file(char *name, size_t size, const char *folder)
{
    static const char *const usual[] = {"tokenizer.json", "tokenizer.model",
                                        "spiece.model",   "sentencepiece.bpe.model",
                                        "vocab.json",     "bpe_simple_vocab_16e6.txt.gz"};
    char path[PATH_MAX];
    name[0] = '\0';
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        if (join(path, folder, usual[i]) || !pc_file_exists(path)) continue;
        if (strcmp(usual[i], "vocab.json") == 0 &&
            (join(path, folder, "merges.txt") || !pc_file_exists(path)))
            continue;
        snprintf(name, size, "%s", usual[i]);
        return;
    }
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (const struct dirent *e;
         (e = readdir(dir));) { // the first by name, so that it is always the same
        const size_t n = strlen(e->d_name);
        if (n < 10 || n >= size || strcmp(e->d_name + n - 9, ".tiktoken") != 0) continue;
        if (!*name || strcmp(e->d_name, name) < 0) snprintf(name, size, "%s", e->d_name);
    }
    closedir(dir);
}

bool pc_tokenizer_in(const char *folder)
{
    char name[NAME_MAX + 1];
    find_file(name, sizeof name, folder);
    return *name != '\0';
}

/* vocab.json and merges.txt of a folder. */
static pc_status open_pair(pc_tokenizer **out, const char *folder, const json_t *config)
{
    char path[PATH_MAX], *merges = NULL;
    size_t size = 0;
    json_t *vocab = NULL, *model = NULL, *root = NULL;
    pc_status st = load_object(&vocab, folder, "vocab.json");
    if (!st && !vocab) st = pc_fail(PC_ERR_INPUT, "'%s': merges.txt without vocab.json", folder);
    if (!st) st = load_object(&model, folder, "config.json");
    if (!st) st = join(path, folder, "merges.txt");
    if (!st) st = pc_file_read(&merges, &size, path, FILE_LIMIT);
    if (st) goto out;
    const char *class = pc_tok_text(config, "tokenizer_class");
    if (!class) class = pc_tok_text(model, "model_type");
    st = pc_merges_txt_json(&root, vocab, merges, size, class, config);
    if (!st) st = pc_tokenizer_build(out, root, config);
out:
    free(merges);
    json_decref(vocab);
    json_decref(model);
    json_decref(root);
    return st;
}

static pc_status open_pieces(pc_tokenizer **out, const char *bytes, size_t size,
                             const json_t *config)
{
    json_t *root = NULL;
    *out = NULL;
    pc_status st = pc_sentencepiece_json(&root, bytes, size, config == NULL, config);
    if (!st && config) st = pc_added_from_config(root, config);
    if (!st) st = pc_tokenizer_build(out, root, config);
    json_decref(root);
    return st;
}

static pc_status open_made(pc_tokenizer **out, json_t *root, const json_t *config)
{
    pc_status st = config ? pc_added_from_config(root, config) : PC_OK;
    if (!st) st = pc_tokenizer_build(out, root, config);
    json_decref(root);
    return st;
}

pc_status pc_tokenizer_tiktoken_parse(pc_tokenizer **out, const char *text, size_t size)
{
    json_t *root;
    *out = NULL;
    pc_status st = pc_tiktoken_json(&root, text, size);
    return pc_context(st ? st : open_made(out, root, NULL), "tiktoken file");
}

pc_status pc_tokenizer_merges_parse(pc_tokenizer **out, const char *vocab, size_t vocab_size,
                                    const char *merges, size_t merges_size, const char *kind)
{
    json_error_t error;
    json_t *root = NULL, *v = json_loadb(vocab, vocab_size, JSON_REJECT_DUPLICATES, &error);
    *out = NULL;
    pc_status st = v ? pc_merges_txt_json(&root, v, merges, merges_size, kind, NULL)
                     : pc_fail(PC_ERR_FORMAT, "vocab.json: line %d: %s", error.line, error.text);
    json_decref(v);
    return st ? st : open_made(out, root, NULL);
}

pc_status pc_tokenizer_clip_gz_parse(pc_tokenizer **out, const void *bytes, size_t size)
{
    json_t *root;
    *out = NULL;
    pc_status st = pc_clip_gz_json(&root, bytes, size);
    return pc_context(st ? st : open_made(out, root, NULL), "CLIP's vocabulary");
}

/* By what the file holds. `config`: of the folder that was asked for, NULL for a file that was. */
static pc_status open_bytes(pc_tokenizer **out, const char *bytes, size_t size,
                            const json_t *config)
{
    static const char *const needs_pair = "a list of merges or a vocabulary; vocab.json and "
                                          "merges.txt belong together, give their folder";
    const unsigned char *p = (const unsigned char *)bytes;
    size_t at = 0;
    while (at < size && strchr(" \t\r\n", bytes[at])) at++;
    if (at < size && bytes[at] == '{') return pc_tokenizer_parse_with(out, bytes, size, config);
    if (size > 2 && p[0] == 0x1F && p[1] == 0x8B)
        return pc_tokenizer_clip_gz_parse(out, bytes, size);
    if (size > 8 && memcmp(bytes, "#version", 8) == 0)
        return pc_fail(PC_ERR_INPUT, "%s", needs_pair);
    if (!pc_looks_like_tiktoken(bytes, size)) return open_pieces(out, bytes, size, config);
    json_t *root;
    pc_status st = pc_tiktoken_json(&root, bytes, size);
    return st ? st : open_made(out, root, config);
}

static pc_status open_folder(pc_tokenizer **out, const char *folder, const char *name)
{
    char path[PATH_MAX], *bytes = NULL;
    size_t size;
    json_t *config = NULL;
    pc_status st = load_config(&config, folder);
    if (!st) st = join(path, folder, name);
    if (!st && strcmp(name, "vocab.json") == 0) {
        st = open_pair(out, folder, config);
    } else if (!st && !(st = pc_file_read(&bytes, &size, path, FILE_LIMIT))) {
        st = open_bytes(out, bytes, size, config);
        st = pc_context(st, "tokenizer '%s'", path);
    }
    free(bytes);
    json_decref(config);
    return st;
}

pc_status pc_tokenizer_open(pc_tokenizer **out, const char *path)
{
    char name[NAME_MAX + 1], folder[PATH_MAX];
    *out = NULL;
    if (pc_is_dir(path)) {
        find_file(name, sizeof name, path);
        if (*name) return open_folder(out, path, name);
        return pc_fail(
            PC_ERR_INPUT,
            "'%s' holds no tokenizer.json, tokenizer.model, vocab.json with merges.txt or "
            "*.tiktoken",
            path);
    }
    const char *slash = strrchr(path, '/');
    const int n = snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1,
                           slash ? path : ".");
    if (n < 0 || (size_t)n >= sizeof folder)
        return pc_fail(PC_ERR_INPUT, "'%.80s...': a path of %d characters is too long", path, n);
    const char *file = slash ? slash + 1 : path;
    if (strcmp(file, "tokenizer.json") == 0) // as published: its settings lie beside it
        return pc_file_exists(path) ? open_folder(out, *folder ? folder : "/", file)
                                    : pc_fail(PC_ERR_IO, "'%s' is not there", path);
    if (strcmp(file, "vocab.json") == 0 || strcmp(file, "merges.txt") == 0)
        return open_folder(out, *folder ? folder : "/", "vocab.json");
    char *bytes;
    size_t size;
    pc_status st = pc_file_read(&bytes, &size, path, FILE_LIMIT);
    if (st) return st;
    st = pc_context(open_bytes(out, bytes, size, NULL), "tokenizer '%s'", path);
    free(bytes);
    return st;
}

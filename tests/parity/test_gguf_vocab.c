/*
 * test_gguf_vocab.c - vocabularies into GGUF files and back: those of ../shared/tokenizers keep every token, type, score
 * and merge; the tokenizers of ../shared/goldens give the reference's ids when read from the file that we wrote.
 */
#include "checkpoints/gguf_model.h"
#include "checkpoints/gguf_vocab.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

// A file with nothing but the vocabulary; its tokenizer too when `out` is given.
static pc_gguf *through_a_file(const pc_tokenizer *t, int64_t V)
{
    const char *path = scratch_path("vocab.gguf");
    pc_gguf_writer *w = NULL;
    pc_gguf *g = NULL;
    char *json = pc_tokenizer_json(t);
    pc_status st = json ? pc_gguf_create(&w, path) : PC_ERR_MEMORY;
    if (!st)
        st = pc_gguf_put_vocabulary(w, json, strlen(json), V, pc_tokenizer_bos(t),
                                    pc_tokenizer_eos(t), pc_tokenizer_pad(t));
    if (!st) st = pc_gguf_begin(w);
    if (!st) st = pc_gguf_finish(w);
    pc_gguf_writer_close(w);
    free(json);
    if (!st) st = pc_gguf_open(&g, path);
    if (st) printf("%s\n", pc_error_text());
    CHECK(!st);
    return g;
}

/* ---- arrays that were in a file already ---- */

// The arrays of spans under one key; the second may be longer: padded.
static void same_spans(const pc_gguf *a, const pc_gguf *b, const char *key)
{
    pc_gguf_span *x = NULL, *y = NULL;
    int64_t n = 0, m = 0, differ = 0;
    CHECK(!pc_gguf_strings(&x, &n, a, key) && !pc_gguf_strings(&y, &m, b, key));
    CHECK(n <= m);
    for (int64_t i = 0; i < n && n <= m; i++)
        differ += x[i].size != y[i].size || memcmp(x[i].text, y[i].text, x[i].size) != 0;
    if (differ) printf("%s: %lld of %lld differ\n", key, (long long)differ, (long long)n);
    CHECK(!differ);
    free(x);
    free(y);
}

static void same_numbers(const pc_gguf *a, const pc_gguf *b, bool pieces)
{
    int32_t *x = NULL, *y = NULL;
    float *s = NULL, *t = NULL;
    int64_t n = 0, m = 0;
    CHECK(!pc_gguf_ints(&x, &n, a, "tokenizer.ggml.token_type"));
    CHECK(!pc_gguf_ints(&y, &m, b, "tokenizer.ggml.token_type") && n == m);
    int64_t differ = 0;
    for (int64_t i = 0; i < n && n == m; i++) differ += x[i] != y[i];
    // A token that is never found in texts (unused) and a normal one are the same to a byte-level tokenizer.
    if (differ) printf("types: %lld of %lld differ\n", (long long)differ, (long long)n);
    CHECK(pieces ? !differ : differ <= n / 100);
    free(x);
    free(y);
    CHECK(!pc_gguf_reals(&s, &n, a, "tokenizer.ggml.scores"));
    CHECK(!pc_gguf_reals(&t, &m, b, "tokenizer.ggml.scores"));
    if (pieces) CHECK(n == m && !memcmp(s, t, (size_t)n * sizeof *s));
    free(s);
    free(t);
}

static void same_ids_of_roles(const pc_gguf *a, const pc_gguf *b)
{
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id",
                                       "tokenizer.ggml.eos_token_id"};
    for (int i = 0; i < 2; i++) {
        int64_t x, y;
        CHECK(!pc_gguf_int(&x, a, keys[i], -1, 0, INT32_MAX) &&
              !pc_gguf_int(&y, b, keys[i], -1, 0, INT32_MAX) && x == y);
    }
    char *p = NULL, *q = NULL;
    CHECK(!pc_gguf_text(&p, a, "tokenizer.ggml.pre") && !pc_gguf_text(&q, b, "tokenizer.ggml.pre"));
    if (p && q) CHECK(!strcmp(p, q));
    free(p);
    free(q);
}

static void vocabulary(const char *path)
{
    pc_gguf *a = NULL;
    pc_tokenizer *t = NULL;
    char *model = NULL;
    printf("%s\n", path);
    if (pc_gguf_open(&a, path) || pc_gguf_tokenizer(&t, a) ||
        pc_gguf_text(&model, a, "tokenizer.ggml.model")) {
        printf("%s\n", pc_error_text());
        CHECK(false);
        return;
    }
    pc_gguf *b = through_a_file(t, pc_tokenizer_vocab(t));
    if (b) {
        same_spans(a, b, "tokenizer.ggml.tokens");
        same_spans(a, b, "tokenizer.ggml.merges");
        same_numbers(a, b, !strcmp(model, "llama"));
        same_ids_of_roles(a, b);
    }
    free(model);
    pc_gguf_close(b);
    pc_tokenizer_close(t);
    pc_gguf_close(a);
}

static void vocabularies(void)
{
    const char *found = shared_path("tokenizers");
    char dir[1024], path[2048];
    if (!found) return;
    snprintf(dir, sizeof dir, "%s", found);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        const size_t n = strlen(e->d_name);
        if (n < 5 || strcmp(e->d_name + n - 5, ".gguf")) continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        vocabulary(path);
    }
    if (d) closedir(d);
}

/* ---- ids of texts ---- */

static bool ids_are(const pc_tokenizer *t, const json_t *text, const json_t *want)
{
    pc_ids ids = {0};
    if (pc_tokenizer_encode(t, &ids, json_string_value(text), json_string_length(text), true))
        abort();
    bool same = ids.count == (int64_t)json_array_size(want);
    for (int64_t i = 0; i < ids.count && same; i++)
        same = ids.list[i] == json_integer_value(json_array_get(want, (size_t)i));
    pc_ids_close(&ids);
    return same;
}

static void cases(const char *name, int64_t extra)
{
    char file[256], line[1 << 16];
    pc_tokenizer *t = NULL, *back = NULL;
    int asked = 0, wrong = 0;
    snprintf(file, sizeof file, "goldens/tokenizers/%s", name);
    const char *dir = shared_path(file);
    if (!dir) return;
    if (pc_tokenizer_open(&t, dir)) {
        printf("%s\n", pc_error_text());
        CHECK(false);
        return;
    }
    pc_gguf *g = through_a_file(t, pc_tokenizer_vocab(t) + extra);
    CHECK(g && !pc_gguf_tokenizer(&back, g) && back);
    snprintf(file, sizeof file, "goldens/tokenizers/%s/cases.jsonl", name);
    FILE *f = fopen(shared_path(file), "re");
    CHECK(f != NULL);
    while (f && back && fgets(line, sizeof line, f)) {
        json_t *c = json_loads(line, JSON_ALLOW_NUL, NULL);
        const json_t *text = json_object_get(c, "text"), *ids = json_object_get(c, "ids");
        if (text && ids && !memchr(json_string_value(text), 0, json_string_length(text))) {
            const bool good = ids_are(back, text, ids);
            if (!good && wrong < 5) printf("%s", line);
            wrong += !good;
            asked++;
        }
        json_decref(c);
    }
    if (f) fclose(f);
    printf("%s: %d texts, %d wrong\n", name, asked, wrong);
    CHECK(asked > 100 && !wrong);
    pc_tokenizer_close(back);
    pc_tokenizer_close(t);
    pc_gguf_close(g);
}

int main(void)
{
    scratch_open();
    vocabularies();
    cases("llama_spm", 0);
    cases("llama_spm", 62); // rows that no token has
    cases("qwen2_bpe", 0);
    cases("qwen2_bpe", 100);
    scratch_close();
    return check_report("vocabularies through GGUF files");
}

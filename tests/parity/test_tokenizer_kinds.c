/*
 * test_tokenizer_kinds.c - every kind of tokenizer against its reference: identical ids, identical text.
 *
 *   ../shared/goldens/tokenizers/NAME   cases.jsonl, decode_cases.jsonl: the folder as a whole; tokenizer.model, vocab.json
 *                                       with merges.txt by themselves; all of them again out of the text that a
 *                                       checkpoint keeps
 *   tests/goldens/tokenizers/NAME       the same of our own: unigram models (scripts/make_tokenizer_goldens.py)
 *   ../shared/tokenizers                vocabularies of GGUF files and the strings that come with them, Llama's and
 *                                       CLIP's own files
 *
 * Folders are walked: a new one needs no code.
 */
#include "checkpoints/gguf_model.h"
#include "data/datasets/loader.h"
#include "data/text/tokenizer.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <dirent.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void no_shared(void)
{
    if (getenv("CI") && !strcmp(getenv("CI"), "true")) fail_msg("../shared is needed with CI=true");
    skip();
}

/* ---- one case ---- */

// Which keys of a row hold what.
typedef struct keys {
    const char *ids, *decoded, *skipped;
} keys;
static const keys hf_keys = {"ids", "decoded", "decoded_skip_special"};
static const keys sp_keys = {"sp_ids", "sp_decoded", NULL};

typedef struct check {
    const pc_tokenizer *t;
    const keys *k;
    char what[512];
    int rows;
} check;

static pc_ids ids_of(const json_t *list)
{
    pc_ids ids = {0};
    for (size_t i = 0; i < json_array_size(list); i++)
        assert_int_equal(pc_ids_add(&ids, (int32_t)json_integer_value(json_array_get(list, i))), 0);
    return ids;
}

static void same_ids(const char *what, int line, const pc_ids *got, const pc_ids *want)
{
    if (got->count == want->count &&
        (got->count == 0 || !memcmp(got->list, want->list, (size_t)got->count * sizeof *got->list)))
        return;
    for (int64_t i = 0; i < got->count; i++) fprintf(stderr, "%d ", got->list[i]);
    fprintf(stderr, "\nexpected\n");
    for (int64_t i = 0; i < want->count; i++) fprintf(stderr, "%d ", want->list[i]);
    fprintf(stderr, "\n");
    fail_msg("%s, line %d: other ids", what, line);
}

static void same_text(const check *c, int line, const pc_ids *ids, const json_t *want, bool skip)
{
    char *text;
    size_t size;
    if (!want) return;
    if (pc_tokenizer_decode_sized(c->t, &text, &size, ids->list, ids->count, skip))
        fail_msg("%s, line %d: %s", c->what, line, pc_error_text());
    if (size != json_string_length(want) || memcmp(text, json_string_value(want), size))
        fail_msg("%s, line %d: '%s', expected '%s'", c->what, line, text, json_string_value(want));
    free(text);
}

/* Streamed, what comes piece by piece adds up to the same text. */
static void same_stream(const check *c, int line, const pc_ids *ids, const json_t *want)
{
    const size_t room = pc_stream_room(c->t);
    if (!want || strlen(json_string_value(want)) != json_string_length(want)) return; // holds a NUL
    char *piece = malloc(room), *all = calloc(1, json_string_length(want) + 4 * room);
    pc_stream_decoder d = {.tokenizer = c->t};
    for (int64_t i = 0; i < ids->count; i++) {
        assert_int_equal(pc_stream_decode(&d, ids->list[i], piece, room), PC_OK);
        assert_true(strlen(all) + strlen(piece) <= json_string_length(want));
        strcat(all, piece);
    }
    pc_stream_flush(&d, piece, room);
    strcat(all, piece);
    if (strcmp(all, json_string_value(want)))
        fail_msg("%s, line %d: streamed '%s', expected '%s'", c->what, line, all,
                 json_string_value(want));
    free(piece);
    free(all);
}

/* As a text tower of 16 places takes it: framed, cut before the last token, padded with it. */
static void same_context(const check *c, int line, const pc_ids *ids, const json_t *want)
{
    const int64_t T = (int64_t)json_array_size(want);
    if (!want) return;
    pc_ids framed = {0}, wanted = ids_of(want);
    for (int64_t i = 0; i < ids->count; i++) assert_int_equal(pc_ids_add(&framed, ids->list[i]), 0);
    assert_int_equal(pc_tokenizer_frame(c->t, &framed), PC_OK);
    const int32_t end = framed.list[framed.count - 1];
    assert_int_equal(end, pc_tokenizer_eos(c->t));
    assert_int_equal(framed.list[0], pc_tokenizer_bos(c->t));
    if (framed.count > T) framed.count = T;
    framed.list[framed.count - 1] = end;
    while (framed.count < T) assert_int_equal(pc_ids_add(&framed, pc_tokenizer_pad(c->t)), 0);
    same_ids(c->what, line, &framed, &wanted);
    pc_ids_close(&framed);
    pc_ids_close(&wanted);
}

/* As the text tower of a SigLIP takes it: prepared, ended, cut to 16 places, filled up. */
static void same_padded(const check *c, int line, const json_t *row)
{
    const json_t *text = json_object_get(row, "text"), *want = json_object_get(row, "ids_padded16");
    const char *special = json_string_value(text);
    if (!want || strstr(special, "</s>") || strstr(special, "<unk>")) return; // not of a caption
    pc_ids got = {0}, wanted = ids_of(want);
    const pc_text_config config = {.T = (int64_t)json_array_size(want),
                                   .V = pc_tokenizer_vocab(c->t),
                                   .eot_id = -1};
    if (pc_clip_text_ids(&got, c->t, &config, json_string_value(text)))
        fail_msg("%s, line %d: %s", c->what, line, pc_error_text());
    while (got.count < config.T) assert_int_equal(pc_ids_add(&got, pc_tokenizer_pad(c->t)), 0);
    same_ids(c->what, line, &got, &wanted);
    pc_ids_close(&got);
    pc_ids_close(&wanted);
}

static void check_row(check *c, const json_t *row, int line)
{
    const json_t *text = json_object_get(row, "text"), *list = json_object_get(row, c->k->ids);
    pc_ids want = ids_of(list ? list : json_object_get(row, "ids"));
    if (text) {
        pc_ids got = {0};
        if (pc_tokenizer_encode(c->t, &got, json_string_value(text), json_string_length(text),
                                true))
            fail_msg("%s, line %d: %s", c->what, line, pc_error_text());
        same_ids(c->what, line, &got, &want);
        pc_ids_close(&got);
    }
    same_text(c, line, &want, json_object_get(row, c->k->decoded), false);
    const json_t *skipped = c->k->skipped ? json_object_get(row, c->k->skipped) : NULL;
    same_text(c, line, &want, skipped, true);
    same_stream(c, line, &want, skipped);
    bool special = false; // streamed, the unknown piece gives nothing
    for (int64_t i = 0; i < want.count; i++)
        special = special || pc_tokenizer_is_special(c->t, want.list[i]);
    if (!c->k->skipped && !special)
        same_stream(c, line, &want, json_object_get(row, c->k->decoded));
    if (c->k == &hf_keys) same_context(c, line, &want, json_object_get(row, "ids_ctx16"));
    if (c->k == &hf_keys) same_padded(c, line, row);
    pc_ids_close(&want);
    c->rows++;
}

static void check_file(check *c, const char *path)
{
    char *text, what[sizeof c->what];
    size_t size;
    int line = 0;
    if (!pc_file_exists(path)) return;
    if (pc_file_read(&text, &size, path, 64 << 20)) fail_msg("%s", pc_error_text());
    snprintf(what, sizeof what, "%s", c->what);
    snprintf(c->what, sizeof c->what, "%.200s by %.200s", what, path);
    for (char *at = text, *end; at < text + size; at = end + 1) {
        end = strchr(at, '\n');
        if (!end) end = text + size;
        json_t *json = json_loadb(at, (size_t)(end - at), JSON_ALLOW_NUL, NULL);
        if (!json) fail_msg("%s:%d is no JSON", path, line + 1);
        check_row(c, json, ++line);
        json_decref(json);
    }
    free(text);
    snprintf(c->what, sizeof c->what, "%s", what);
}

/* ---- a folder ---- */

static int check_tokenizer(const char *dir, const char *file, const keys *k)
{
    static const char *const lists[] = {"cases.jsonl", "decode_cases.jsonl"};
    char path[1024];
    pc_tokenizer *t = NULL;
    int rows = 0;
    snprintf(path, sizeof path, "%s%s%s", dir, *file ? "/" : "", file);
    if (!pc_file_exists(path) && !pc_is_dir(path)) return 0;
    if (pc_tokenizer_open(&t, path)) fail_msg("%s", pc_error_text());
    for (int again = 0; again < 2; again++) {
        check c = {.t = t, .k = k};
        snprintf(c.what, sizeof c.what, "%.200s%s", path, again ? ", kept" : "");
        for (int i = 0; i < 2; i++) {
            char list[1024];
            snprintf(list, sizeof list, "%s/%s", dir, lists[i]);
            check_file(&c, list);
        }
        rows += c.rows;
        // The same again from the text that a checkpoint holds; roles included.
        char *json = pc_tokenizer_json(t);
        pc_tokenizer *kept = NULL;
        assert_non_null(json);
        if (pc_tokenizer_parse(&kept, json, strlen(json))) fail_msg("%s", pc_error_text());
        assert_int_equal(pc_tokenizer_vocab(kept), pc_tokenizer_vocab(t));
        assert_int_equal(pc_tokenizer_bos(kept), pc_tokenizer_bos(t));
        assert_int_equal(pc_tokenizer_eos(kept), pc_tokenizer_eos(t));
        assert_int_equal(pc_tokenizer_pad(kept), pc_tokenizer_pad(t));
        pc_tokenizer_close(t);
        free(json);
        t = kept;
    }
    pc_tokenizer_close(t);
    printf("%s: %d texts, ids and decoded text identical\n", path, rows);
    return rows;
}

static void test_goldens(void **state)
{
    (void)state;
    const char *root = shared_path("goldens/tokenizers");
    DIR *d = root ? opendir(root) : NULL;
    int folders = 0;
    if (!d) no_shared();
    for (const struct dirent *e; (e = readdir(d));) {
        char dir[1024], cases[1200];
        snprintf(dir, sizeof dir, "%s/%s", shared_path("goldens/tokenizers"), e->d_name);
        snprintf(cases, sizeof cases, "%s/cases.jsonl", dir);
        if (e->d_name[0] == '.' || !pc_file_exists(cases)) continue;
        assert_true(check_tokenizer(dir, "", &hf_keys) > 0);
        check_tokenizer(dir, "vocab.json", &hf_keys);
        check_tokenizer(dir, "tokenizer.model", &sp_keys);
        folders++;
    }
    closedir(d);
    assert_true(folders >= 3);
}

/* Unigram models: as a class of transformers reads the folder, and as SentencePiece reads its file. */
static void test_own_goldens(void **state)
{
    (void)state;
    static const struct {
        const char *name, *file;
        bool folder;
    } rows[] = {{"siglip", "spiece.model", true},
                {"t5", NULL, true},
                {"bytes", "tokenizer.model", false},
                {"json", NULL, true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char dir[256];
        snprintf(dir, sizeof dir, "tests/goldens/tokenizers/%s", rows[i].name);
        if (rows[i].folder) assert_true(check_tokenizer(dir, "", &hf_keys) >= 160);
        if (rows[i].file) assert_true(check_tokenizer(dir, rows[i].file, &sp_keys) >= 160);
    }
}

/* Without tokenizer.json the same folder is read from tokenizer.model and what lies beside: identical ids. */
static void test_model_beside_config(void **state)
{
    (void)state;
    static const char *const files[] = {"tokenizer.model", "tokenizer_config.json", "cases.jsonl",
                                        "decode_cases.jsonl"};
    if (!shared_path("goldens/tokenizers/llama_spm/tokenizer.model")) no_shared();
    scratch_open();
    for (int i = 0; i < 4; i++) {
        char name[256], *bytes;
        size_t size;
        snprintf(name, sizeof name, "goldens/tokenizers/llama_spm/%s", files[i]);
        if (pc_file_read(&bytes, &size, shared_path(name), 64 << 20))
            fail_msg("%s", pc_error_text());
        scratch_write(files[i], bytes, size);
        free(bytes);
    }
    assert_true(check_tokenizer(scratch_path(""), "", &hf_keys) > 0);
    scratch_close();
}

/* ---- vocabularies of GGUF files, and the strings that come with them ---- */

static void check_strings(const pc_tokenizer *t, const char *name)
{
    static const char between[] = "\n__ggml_vocab_test__\n";
    char path[1024], *in, *out;
    size_t in_size, out_size;
    int strings = 0;
    snprintf(path, sizeof path, "tokenizers/%s.inp", name);
    if (pc_file_read(&in, &in_size, shared_path(path), 1 << 24)) fail_msg("%s", pc_error_text());
    snprintf(path, sizeof path, "tokenizers/%s.out", name);
    if (pc_file_read(&out, &out_size, shared_path(path), 1 << 24)) fail_msg("%s", pc_error_text());
    char *line = out;
    for (char *at = in; at;) {
        char *next = strstr(at, between);
        pc_ids want = {0}, got = {0};
        for (char *end = line; *line && *line != '\n'; line = end) {
            const long id = strtol(line, &end, 10);
            if (end == line) break;
            assert_int_equal(pc_ids_add(&want, (int32_t)id), 0);
        }
        line = strchr(line, '\n') ? strchr(line, '\n') + 1 : line + strlen(line);
        const size_t size = next ? (size_t)(next - at) : strlen(at);
        if (pc_tokenizer_encode(t, &got, at, size, false)) fail_msg("%s", pc_error_text());
        same_ids(name, ++strings, &got, &want);
        pc_ids_close(&want);
        pc_ids_close(&got);
        at = next ? next + strlen(between) : NULL;
    }
    printf("%s: %d strings, ids identical\n", name, strings);
    assert_true(strings >= 40);
    free(in);
    free(out);
}

static void test_gguf(void **state)
{
    (void)state;
    const char *root = shared_path("tokenizers");
    DIR *d = root ? opendir(root) : NULL;
    int files = 0;
    if (!d) no_shared();
    for (const struct dirent *e; (e = readdir(d));) {
        char path[512];
        const size_t n = strlen(e->d_name);
        pc_gguf *g = NULL;
        pc_tokenizer *t = NULL, *kept = NULL;
        if (n < 5 || strcmp(e->d_name + n - 5, ".gguf")) continue;
        snprintf(path, sizeof path, "tokenizers/%s", e->d_name);
        if (pc_gguf_open(&g, shared_path(path)) || pc_gguf_tokenizer(&t, g))
            fail_msg("%s", pc_error_text());
        pc_gguf_close(g);
        check_strings(t, e->d_name);
        char *json = pc_tokenizer_json(t);
        if (pc_tokenizer_parse(&kept, json, strlen(json))) fail_msg("%s", pc_error_text());
        check_strings(kept, e->d_name);
        free(json);
        pc_tokenizer_close(kept);
        pc_tokenizer_close(t);
        files++;
    }
    closedir(d);
    assert_true(files >= 4);
}

static void test_llama_model(void **state)
{
    (void)state;
    pc_tokenizer *t = NULL;
    if (!shared_path("tokenizers/llama-sentencepiece.model")) no_shared();
    if (pc_tokenizer_open(&t, shared_path("tokenizers/llama-sentencepiece.model")))
        fail_msg("%s", pc_error_text());
    check_strings(t, "ggml-vocab-llama-spm.gguf");
    pc_tokenizer_close(t);
}

/* The original code's ids (spec: tokenizers.md 6). */
static void test_clip_file(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t ids[16];
    } rows[] = {
        {"a photo of a cat", {49406, 320, 1125, 539, 320, 2368, 49407}},
        {"Hello, World! It's 2024.",
         {49406, 3306, 267, 1002, 256, 585, 568, 273, 271, 273, 275, 269, 49407}},
        {"na\xC3\xAFve caf\xC3\xA9", {49406, 1097, 35689, 563, 15304, 49407}},
        {"\xE6\x97\xA5\xE6\x9C\xAC", {49406, 39121, 19277, 361, 49407}},
    };
    const char *path = shared_path("tokenizers/clip-bpe_simple_vocab_16e6.txt.gz");
    pc_tokenizer *t = NULL;
    if (!path) no_shared();
    if (pc_tokenizer_open(&t, path)) fail_msg("%s", pc_error_text());
    assert_int_equal(pc_tokenizer_vocab(t), 49408);
    assert_int_equal(pc_tokenizer_id(t, "a</w>"), 320);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        pc_ids got = {0}, want = {0};
        for (int k = 0; k < 16 && rows[i].ids[k]; k++)
            assert_int_equal(pc_ids_add(&want, rows[i].ids[k]), 0);
        assert_int_equal(pc_tokenizer_encode(t, &got, rows[i].text, strlen(rows[i].text), false),
                         0);
        assert_int_equal(pc_tokenizer_frame(t, &got), 0);
        same_ids("CLIP", (int)i + 1, &got, &want);
        pc_ids_close(&got);
        pc_ids_close(&want);
    }
    pc_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_own_goldens),
        cmocka_unit_test(test_model_beside_config),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_llama_model),
        cmocka_unit_test(test_clip_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

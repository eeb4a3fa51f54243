/*
 * test_gguf_model.c - a whole model through a pair of GGUF files: numbers, tokenizer, layout of conversations, image
 * settings; the commands on it; files with flipped bytes where a model is expected.
 */
#include "checkpoints/bundle.h"
#include "checkpoints/gguf_export.h"
#include "checkpoints/gguf_model.h"
#include "model/core/file.h"
#include "model/core/rng.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_model.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const pc_rng_key numbers = {.seed = 12, .stream = PC_STREAM_TEST};
static uint64_t drawn;

// Files with one to four bytes of their first 4096 changed, opened as a model: a message or a model, never a crash.
static void flip(const char *path, int rounds)
{
    char *base = NULL;
    size_t size = 0;
    int opened = 0;
    if (pc_file_read(&base, &size, path, 1 << 26)) abort();
    for (int i = 0; i < rounds; i++) {
        char *copy = malloc(size);
        if (!copy) abort();
        memcpy(copy, base, size);
        for (int k = 0; k <= i % 4; k++) {
            const uint64_t at = pc_rng_below(&numbers, drawn++, size < 4096 ? size : 4096);
            copy[at] = (char)pc_rng_below(&numbers, drawn++, 256);
        }
        scratch_write("flipped.gguf", copy, size);
        pc_gguf_model m;
        if (!pc_gguf_model_open(&m, scratch_path("flipped.gguf"), "")) {
            pc_gguf_match x = {0};
            if (!pc_gguf_match_open(&x, &m)) pc_gguf_match_close(&x);
            pc_gguf_model_close(&m);
            opened++;
        }
        free(copy);
    }
    printf("%d files with flipped bytes: %d opened\n", rounds, opened);
    CHECK(opened < rounds);
    free(base);
}

static bool same_ids(const pc_tokenizer *a, const pc_tokenizer *b, const char *text)
{
    pc_ids x = {0}, y = {0};
    if (pc_tokenizer_encode(a, &x, text, strlen(text), true) ||
        pc_tokenizer_encode(b, &y, text, strlen(text), true))
        abort();
    const bool same =
        x.count == y.count && !memcmp(x.list, y.list, (size_t)x.count * sizeof *x.list);
    pc_ids_close(&x);
    pc_ids_close(&y);
    return same;
}

static void same_bundle(const pc_bundle *a, const pc_bundle *b)
{
    static const char *const texts[] = {"What is it?", " two red boxes\n", "<image>\nyes</s>",
                                        "1 é"};
    const pc_vlm_config *x = &a->model.config.vlm, *y = &b->model.config.vlm;
    CHECK(b->tokenizer && b->has_image);
    if (!b->tokenizer || !b->has_image) return;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        CHECK(same_ids(a->tokenizer, b->tokenizer, texts[i]));
    CHECK(pc_tokenizer_bos(a->tokenizer) == pc_tokenizer_bos(b->tokenizer));
    CHECK(pc_tokenizer_eos(a->tokenizer) == pc_tokenizer_eos(b->tokenizer));
    CHECK(a->image.size == b->image.size && a->image.fit == b->image.fit);
    CHECK(x->image_id == y->image_id && x->feature_layer == y->feature_layer);
    CHECK(x->vision.act == y->vision.act && x->projector.act == y->projector.act);
    CHECK(x->decoder.T == y->decoder.T && x->decoder.V == y->decoder.V);
}

// Every number of `a` that `b` has too is the same; only what nothing reads may be left out.
static void same_numbers(pc_bundle *a, pc_bundle *b)
{
    for (int i = 0; i < a->model.params.count; i++) {
        const pc_param *p = &a->model.params.list[i];
        const pc_param *q = pc_params_find(&b->model.params, p->name);
        if (!q) {
            CHECK(!strncmp(p->name, "vision.norm_post", 16));
            continue;
        }
        const size_t n = (size_t)pc_numel(p->weight->w) * sizeof(float);
        CHECK(pc_numel(q->weight->w) * (int64_t)sizeof(float) == (int64_t)n &&
              !memcmp(p->weight->w.data, q->weight->w.data, n));
    }
}

// A model of our own with all that belongs to it, through a pair of files in a folder of their own.
static void a_model(void)
{
    pc_bundle a, b;
    pc_gguf_store store;
    char text[1024], eyes[1024], *json = NULL;
    tiny_models("vicuna_v1", 3);
    if (pc_bundle_open(&a, scratch_path("vlm.h5"))) abort();
    if (pc_make_dirs(scratch_path("pair")) || pc_gguf_store_named(&store, "f32")) abort();
    snprintf(text, sizeof text, "%s", scratch_path("pair/tiny-f32.gguf"));
    snprintf(eyes, sizeof eyes, "%s", scratch_path("pair/mmproj-tiny-f32.gguf"));
    pc_gguf_source s = pc_gguf_source_params(&a.model.config, &a.model.params);
    s.image = &a.image;
    s.tokenizer_json = json = pc_tokenizer_json(a.tokenizer);
    s.tokenizer_size = strlen(json);
    s.bos = pc_tokenizer_bos(a.tokenizer);
    s.eos = pc_tokenizer_eos(a.tokenizer);
    s.pad = pc_tokenizer_pad(a.tokenizer);
    pc_status st = pc_gguf_export(text, eyes, &s, &store);
    if (st) printf("%s\n", pc_error_text());
    CHECK(!st);
    st = pc_bundle_open(&b, text);
    if (st) printf("%s\n", pc_error_text());
    CHECK(!st);
    if (!st) {
        same_bundle(&a, &b);
        same_numbers(&a, &b);
        pc_bundle_close(&b);
    }
    // Without its eyes the text stands alone; the eyes alone are no model to ask.
    CHECK(!pc_bundle_open_pair(&b, text, "") && !b.model.config.vlm.vision.L && !b.has_image);
    pc_bundle_close(&b);
    CHECK(pc_bundle_open(&b, eyes) == PC_ERR_INPUT);
    CHECK(pc_bundle_open_pair(&b, text, text) == PC_ERR_FORMAT);
    CHECK(!pc_bundle_open_light(&b, text) && b.tokenizer && b.has_image);
    pc_bundle_close(&b);
    pc_bundle_close(&a);
    free(json);
    flip(text, 600);
    flip(eyes, 600);
}

// What a command prints, malloc'ed.
static char *printed(const char *fmt, ...) PC_PRINTF(1, 2);
static char *printed(const char *fmt, ...)
{
    const char *bin = getenv("PERCEPT_BIN");
    char words[2048], line[4096], *text = NULL;
    size_t size = 0;
    va_list args;
    va_start(args, fmt);
    vsnprintf(words, sizeof words, fmt, args);
    va_end(args);
    snprintf(line, sizeof line, "%s/%s >'%s' 2>/dev/null", bin ? bin : "build/bin", words,
             scratch_path("printed"));
    const bool good = system(line) == 0;
    if (!good) printf("failed: %s\n", line);
    CHECK(good);
    if (pc_file_read(&text, &size, scratch_path("printed"), 1 << 20)) abort();
    return text;
}

// The commands on the pair that a_model wrote, as on the checkpoint that it came from.
static void commands(void)
{
    char native[1024], text[1024], eyes[1024], picture[1024], moved[1024];
    snprintf(native, sizeof native, "%s", scratch_path("vlm.h5"));
    snprintf(text, sizeof text, "%s", scratch_path("pair/tiny-f32.gguf"));
    snprintf(eyes, sizeof eyes, "%s", scratch_path("pair/mmproj-tiny-f32.gguf"));
    snprintf(moved, sizeof moved, "%s", scratch_path("pair/eyes"));
    snprintf(picture, sizeof picture, "%s", scratch_path("image0.png"));
    const char *const asked = "percept ask '%s' --image '%s' --max-tokens 12 'What is it?'";
    char *a = printed(asked, native, picture), *b = printed(asked, text, picture);
    CHECK(*a && !strcmp(a, b));
    free(b);
    // Eyes by another name are not found, and are where they are said to be.
    if (rename(eyes, moved)) abort();
    b = printed("percept ask '%s' --mmproj '%s' --image '%s' --max-tokens 12 'What is it?'", text,
                moved, picture);
    CHECK(!strcmp(a, b));
    free(a);
    free(b);
    if (rename(moved, eyes)) abort();
    scratch_write("words.txt", "What is it?\nTwo red boxes.\n", 27);
    a = printed("percept-data tokenize '%s' '%s'", native, scratch_path("words.txt"));
    b = printed("percept-data tokenize '%s' '%s'", text, scratch_path("words.txt"));
    CHECK(*a && !strcmp(a, b));
    free(a);
    free(b);
}

/* ---- chat templates ---- */

// The Jinja text of a built-in layout writes what the layout does, whoever speaks and whatever is asked for.
static void same_layout(const pc_tokenizer *tok, const char *name)
{
    static const pc_message talk[] = {{PC_ROLE_SYSTEM, "Be short."},
                                      {PC_ROLE_USER, "What is it?"},
                                      {PC_ROLE_ASSISTANT, "A cat."},
                                      {PC_ROLE_USER, "And the other's colour?"},
                                      {PC_ROLE_ASSISTANT, "Grey"}};
    const pc_template *own = pc_template_find(name);
    const char *source = pc_gguf_chat_template(name);
    pc_template *jinja = NULL;
    CHECK(own && source && !pc_template_open(&jinja, name, source, strlen(source), NULL));
    if (!own || !jinja) return;
    for (int first = 0; first < 2; first++)
        for (int last = 2; last <= 5; last++) {
            pc_rendered a = {0}, b = {0};
            const bool generate = talk[last - 1].role == PC_ROLE_USER;
            if (last - first < 1 || talk[last - 1].role == PC_ROLE_SYSTEM) continue;
            const pc_status st =
                pc_template_render(own, &a, tok, talk + first, last - first, generate, -1);
            const pc_status st2 =
                pc_template_render(jinja, &b, tok, talk + first, last - first, generate, -1);
            if (st || st2) printf("%s: %s\n", name, pc_error_text());
            CHECK(!st && !st2 && a.text && b.text && !strcmp(a.text, b.text));
            if (a.text && b.text && strcmp(a.text, b.text))
                printf("%s\n'%s'\n'%s'\n", name, a.text, b.text);
            pc_rendered_close(&a);
            pc_rendered_close(&b);
        }
    pc_template_close(jinja);
}

static void chat_templates(void)
{
    static const char *const specials[] = {"<image>",      "<s>",        "</s>",         "<pad>",
                                           "<|im_start|>", "<|im_end|>", "<|endoftext|>"};
    static const char *const words[] = {
        "What is it? A cat. And the other's colour? Grey USER: ASSISTANT:"};
    pc_tokenizer *tok = NULL;
    if (pc_tokenizer_train(&tok, words, 1, 300, specials, 7)) abort();
    same_layout(tok, "vicuna_v1");
    same_layout(tok, "llava_v1");
    same_layout(tok, "chatml");
    CHECK(!pc_gguf_chat_template("short") && !pc_gguf_chat_template(NULL));
    pc_tokenizer_close(tok);
}

static void names(void)
{
    pc_gguf_store store;
    CHECK(!pc_gguf_store_named(&store, "q4_k_m") && store.type->id == PC_Q_Q4_K && store.mixed);
    CHECK(!pc_gguf_store_named(&store, "Q8_0") && store.type->id == PC_Q_Q8_0 && !store.mixed);
    CHECK(pc_gguf_store_named(&store, "Q8_1") == PC_ERR_INPUT && strstr(pc_error_text(), "'Q8_0'"));
}

int main(void)
{
    scratch_open();
    a_model();
    commands();
    chat_templates();
    names();
    scratch_close();
    return check_report("models in GGUF files");
}

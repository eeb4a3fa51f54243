/*
 * small_set.h - a data set of a few tiny pictures, a tokenizer trained on its words, two model shapes: what the
 * loader's tests stand on. Include behind cmocka.h.
 */
#ifndef PC_TESTS_SMALL_SET_H
#define PC_TESTS_SMALL_SET_H

#include "data/datasets/loader.h"
#include "data/scenes/png.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SET_IMAGES = 12, SET_SIZE = 16, SET_TURNS = 5 };

static pc_tokenizer *set_tok;

static const char *const set_words[] = {
    "What is it? Is it red? Is it large? How many? Where is it? no yes a cat a dog two three left",
    "What is it? Is it red? Is it large? How many? Where is it? no yes a cat a dog two three left",
    "a cat number a dog number caption one two three four five six seven eight nine",
};
static const char *const set_questions[SET_TURNS] = {"What is it?", "Is it red?", "Is it large?",
                                                     "How many?", "Where is it?"};

static void set_write_file(const char *name, const char *text)
{
    scratch_write(name, text, strlen(text));
}

/* Pictures img/0.png ..., each different everywhere; captions.jsonl; talk.json with 5 turns a picture. */
static int set_open(void **state)
{
    (void)state;
    static const char *const specials[] = {"<image>", "<s>", "</s>", "<pad>"};
    if (pc_tokenizer_train(&set_tok, set_words, 3, 320, specials, 4)) return 1;
    scratch_open();
    mkdir(scratch_path("img"), 0777);
    char *captions = calloc(1, 1 << 16), *talk = calloc(1, 1 << 16);
    strcpy(talk, "[");
    for (int i = 0; i < SET_IMAGES; i++) {
        uint8_t rgb[3 * SET_SIZE * SET_SIZE];
        char name[32];
        for (int k = 0; k < 3 * SET_SIZE * SET_SIZE; k++) rgb[k] = (uint8_t)(k * (i + 3) + 17 * i);
        snprintf(name, sizeof name, "img/%d.png", i);
        if (scene_png_write(scratch_path(name), rgb, SET_SIZE)) return 1;
        sprintf(captions + strlen(captions),
                "{\"image\": \"img/%d.png\", \"captions\": [\"a cat number %d\", \"a dog number "
                "%d\", \"caption three\"]}\n",
                i, i, i);
        sprintf(talk + strlen(talk), "%s{\"image\": \"img/%d.png\", \"conversations\": [",
                i ? ",\n" : "", i);
        for (int t = 0; t < SET_TURNS; t++)
            sprintf(talk + strlen(talk),
                    "%s{\"from\": \"human\", \"value\": \"%s%s\"}, {\"from\": \"gpt\", \"value\": "
                    "\"%s\"}",
                    t ? "," : "", t ? "" : "<image>\\n", set_questions[t], t % 2 ? "no" : "a cat");
        strcat(talk, "]}");
    }
    strcat(talk, "]");
    set_write_file("captions.jsonl", captions);
    set_write_file("talk.json", talk);
    free(captions);
    free(talk);
    return 0;
}

static int set_close(void **state)
{
    (void)state;
    pc_tokenizer_close(set_tok);
    scratch_close();
    return 0;
}

static inline pc_dataset set_data(const char *name, double weight)
{
    const pc_source s = {scratch_path(name), NULL, weight};
    pc_dataset d;
    if (pc_dataset_open(&d, &s, 1, PC_BAD_ERROR)) fail_msg("%s", pc_error_text());
    return d;
}

/* 8 x 8 pixels in 4 x 4 patches: 4 rows an image. */
static inline pc_model_config set_vlm(void)
{
    const pc_model_config c = {
        .kind = PC_MODEL_VLM,
        .vlm = {.vision = {.image_size = 8, .patch = 4, .C = 8, .H = 1, .F = 8, .L = 1},
                .decoder = {.V = 320, .C = 8, .L = 1, .H = 1, .G = 1, .D = 8, .F = 8, .T = 256},
                .feature_layer = -1,
                .image_id = pc_tokenizer_id(set_tok, "<image>")}};
    return c;
}

static inline pc_model_config set_clip(void)
{
    const pc_model_config c = {
        .kind = PC_MODEL_CLIP,
        .clip = {.vision = {.image_size = 8, .patch = 4, .C = 8, .H = 1, .F = 8, .L = 1, .E = 8},
                 .text = {.V = 320,
                          .T = 9,
                          .C = 8,
                          .H = 1,
                          .F = 8,
                          .L = 1,
                          .E = 8,
                          .causal = true,
                          .pool = PC_POOL_EOT,
                          .eot_id = pc_tokenizer_eos(set_tok),
                          .pad_id = -1}}};
    return c;
}

static inline pc_loader_config set_config(void)
{
    const pc_loader_config c = {.batch = 4,
                                .micro = 2,
                                .seed = 7,
                                .threads = 0,
                                .ahead = 2,
                                .shuffle = true,
                                .random_caption = true,
                                .cache_images = true};
    return c;
}

static inline pc_loader *set_loader(const pc_dataset *d, const pc_model_config *m, const char *tmpl,
                                    const pc_loader_config *c, int64_t first)
{
    const pc_image_config im = pc_image_config_default(8);
    pc_loader *l = NULL;
    if (pc_loader_open(&l, d, m, set_tok, pc_template_find(tmpl), &im, c, first))
        fail_msg("%s", pc_error_text());
    return l;
}

static inline pc_batch *set_next(pc_loader *l)
{
    pc_batch *b = NULL;
    if (pc_loader_next(l, &b)) fail_msg("%s", pc_error_text());
    return b;
}

/* The words of rows [begin, end) of a batch, image rows as '*'. */
static inline char *set_row_text(const pc_vlm_batch *b, int64_t begin, int64_t end)
{
    char *out = calloc(1, 4096);
    for (int64_t n = begin; n < end; n++) {
        const int32_t id = pc_i32(b->ids)[n];
        char *piece = NULL;
        if (id < 0) {
            strcat(out, "*");
            continue;
        }
        if (pc_tokenizer_decode(set_tok, &piece, &id, 1, false)) fail_msg("%s", pc_error_text());
        strcat(out, piece);
        free(piece);
    }
    return out;
}

#endif

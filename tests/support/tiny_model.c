/*
 * tiny_model.c - see tiny_model.h.
 */
#include "tests/support/tiny_model.h"

#include "checkpoints/native.h"
#include "data/images/image.h"
#include "data/scenes/png.h"
#include "data/text/template.h"
#include "model/networks/model.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 16 };

static const char *const words[] = {
    "What is it? Is it red? Is it large? How many? Where is it? no yes a cat a dog two three left",
    "a chat between a curious user and an assistant USER: ASSISTANT: the image shows a red circle",
    "a photo of a cat. a photo of a dog. one two three four five six seven eight nine ten",
};

static void must(pc_status st)
{
    if (!st) return;
    fprintf(stderr, "%s\n", pc_error_text());
    abort();
}

static void write_model(const char *file, const char *shape, const pc_tokenizer *tok,
                        const char *template, uint64_t seed)
{
    json_error_t error;
    json_t *json = json_loads(shape, 0, &error);
    pc_model_config c;
    pc_model m;

    if (!json) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    must(pc_model_config_from_json(&c, json));
    must(pc_model_open(&m, &c, PC_F32, true));
    pc_params_init(&m.params, seed);
    // Untrained networks answer everything alike; larger matrices make them wild.
    for (int i = 0; i < m.params.count; i++) {
        pc_param *p = &m.params.list[i];
        const float factor = strstr(p->name, "tokens") ? 8.0F : p->rank > 1 ? 2.0F : 1.0F;
        for (int64_t k = 0; k < pc_numel(p->weight->w); k++)
            ((float *)p->weight->w.data)[k] *= factor;
    }
    const pc_image_config image = pc_image_config_default(SIDE);
    json_t *model_json = pc_model_config_to_json(&c), *image_json = pc_image_config_to_json(&image);
    pc_native_text text = {.model = json_dumps(model_json, 0),
                           .image = json_dumps(image_json, 0),
                           .tokenizer = pc_tokenizer_json(tok),
                           .template_name = template ? strdup(template) : NULL};
    must(pc_native_write(scratch_path(file), &m.params, false, &text));
    pc_native_text_close(&text);
    json_decref(model_json);
    json_decref(image_json);
    json_decref(json);
    pc_model_close(&m);
}

void tiny_models(const char *name, uint64_t seed)
{
    static const char *const specials[] = {"<image>", "<s>", "</s>", "<pad>"};
    char shape[1024];
    pc_tokenizer *tok;

    must(pc_tokenizer_train(&tok, words, 3, 320, specials, 4));
    const int V = pc_tokenizer_vocab(tok);
    snprintf(shape, sizeof shape,
             "{\"kind\": \"vlm\", \"image_id\": %d, \"vision\": {\"image_size\": %d, \"patch\": 4, "
             "\"C\": 24, "
             "\"H\": 2, \"L\": 2}, \"projector\": {\"depth\": 2}, \"decoder\": {\"V\": %d, \"C\": "
             "32, \"H\": 4, "
             "\"G\": 2, \"L\": 2, \"T\": 256}}",
             pc_tokenizer_id(tok, "<image>"), SIDE, V);
    write_model("vlm.h5", shape, tok, name, seed);
    snprintf(shape, sizeof shape,
             "{\"kind\": \"clip\", \"vision\": {\"image_size\": %d, \"patch\": 4, \"C\": 24, "
             "\"H\": 2, \"L\": 2, "
             "\"E\": 16}, \"text\": {\"V\": %d, \"C\": 24, \"H\": 2, \"L\": 2, \"T\": 24, "
             "\"eot_id\": %d}}",
             SIDE, V, pc_tokenizer_id(tok, "</s>"));
    write_model("clip.h5", shape, tok, NULL, seed);
    pc_tokenizer_close(tok);

    for (int i = 0; i < TINY_IMAGES; i++) {
        uint8_t rgb[3 * SIDE * SIDE];
        char file[32];
        for (int k = 0; k < 3 * SIDE * SIDE; k++) rgb[k] = (uint8_t)(k * (i + 3) + 17 * i);
        snprintf(file, sizeof file, "image%d.png", i);
        must(scene_png_write(scratch_path(file), rgb, SIDE));
    }
}

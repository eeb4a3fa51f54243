/*
 * parity_generation.c - greedy generation with the cache, id by id (see parity.h).
 */
#include "tests/support/parity.h"

#include "checkpoints/bundle.h"
#include "model/networks/generate.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS_MAX = 1024 };

// A prompt as stored has one id for each row of an image; ours has one for each image.
static int64_t collapse(int32_t *out, const json_t *ids, const pc_vlm_config *c)
{
    const int64_t per = pc_vlm_rows_per_image(c);
    int64_t n = 0;

    for (size_t i = 0; i < json_array_size(ids);) {
        const int64_t id = json_integer_value(json_array_get(ids, i));
        if (n == IDS_MAX) abort();
        out[n++] = (int32_t)id;
        i += per && id == c->image_id ? (size_t)per : 1;
    }
    return n;
}

static void one(const pc_bundle *b, pc_runner *r, const json_t *prompt, int index,
                const pc_safetensors *pixels)
{
    const json_t *want = json_object_get(prompt, "generated_ids");
    const json_t *ids = json_object_get(prompt, "prompt_ids");
    const int64_t n = (int64_t)json_array_size(want);
    int32_t list[IDS_MAX];
    char what[96], name[64];
    pc_generation got;
    pc_pictures image = {0};

    if (!ids) ids = json_object_get(prompt, "ids");
    snprintf(name, sizeof name, "prompt%d.pixel_values", index);
    const pc_st_entry *e = pixels ? pc_safetensors_find(pixels, name) : NULL;
    if (e)
        image = (pc_pictures){.count = e->dim[0],
                              .pixels = pc_view4((void *)(uintptr_t)e->data, PC_F32, e->dim[0],
                                                 e->dim[1], e->dim[2], e->dim[3])};
    const pc_sequence q = {.ids = list, .length = collapse(list, ids, &b->model.config.vlm)};
    const pc_generate_options o = {.max_tokens = n, .sampling = {.top_p = 1.0}};
    if (pc_generate(&got, r, &b->model.vlm, &q, 1, &image, &o)) {
        parity_broken("generation");
        return;
    }
    int64_t same = 0;
    while (same < got.length && same < n &&
           got.ids[same] == json_integer_value(json_array_get(want, (size_t)same)))
        same++;
    snprintf(what, sizeof what, "prompt %d: %lld ids of %lld differ", index, (long long)(n - same),
             (long long)n);
    parity_report(what, n > 0 && got.length == n ? (double)(n - same) : 1e9, 0.0, "");
    pc_generation_close(&got, 1);
}

void parity_generation(const char *dir)
{
    char path[1024];
    pc_bundle b;
    pc_runner r;
    pc_safetensors *pixels = NULL;

    printf("%s: generation\n", dir);
    snprintf(path, sizeof path, "%s/generation.json", dir);
    json_t *json = json_load_file(path, 0, NULL);
    snprintf(path, sizeof path, "%s/generation_inputs.safetensors", dir);
    if (pc_bundle_open(&b, dir) || pc_runner_open(&r, 2, NULL)) {
        parity_broken(dir);
        return;
    }
    if (pc_safetensors_open(&pixels, path)) pixels = NULL; // a text decoder has none
    const json_t *prompts = json_object_get(json, "prompts");
    if (!json_array_size(prompts)) abort();
    for (size_t i = 0; i < json_array_size(prompts); i++)
        one(&b, &r, json_array_get(prompts, i), (int)i, pixels);
    pc_safetensors_close(pixels);
    pc_runner_close(&r);
    pc_bundle_close(&b);
    json_decref(json);
}

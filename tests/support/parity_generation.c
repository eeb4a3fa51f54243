/*
 * parity_generation.c - greedy generation with the cache, id by id (see parity.h).
 *
 * A prompt is read as a batch of one (checkpoints/given.h): its images are those of generation_inputs.safetensors with
 * "promptN." before their names, or, where there is no such file, the first image of inputs.safetensors.
 */
#include "tests/support/parity.h"

#include "checkpoints/bundle.h"
#include "checkpoints/given.h"
#include "model/networks/placement.h"
#include "model/networks/generate.h"
#include "tests/support/scratch.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS_MAX = 4096, PARTS = 8 };

// The stored tensors that describe images; `grid` first, because it says how many patches are an image's.
static const char *const visual[] = {"image_grid_thw", "pixel_values", "image_sizes",
                                     "high_res_pixel_values"};

// A prompt as stored has one id for each row of an image; ours has one for each image.
static int64_t collapse(int32_t *out, const int32_t *ids, int64_t n, const pc_vlm_config *c,
                        const pc_image_geometry *images)
{
    int64_t used = 0;
    for (int64_t i = 0; i < n;) {
        out[used++] = ids[i];
        i += pc_vlm_place(c, ids[i]) ? (images++)->rows : 1;
    }
    return used;
}

// Adds what the prompt is shown to the tensors of its file.
static int add_visual(pc_st_out *list, int n, const pc_safetensors *from, int index, bool first)
{
    int64_t patches = 0;
    for (size_t k = 0; k < sizeof visual / sizeof *visual; k++) {
        char name[64];
        snprintf(name, sizeof name, "prompt%d.%s", index, visual[k]);
        const pc_st_entry *e = pc_safetensors_find(from, first ? visual[k] : name);
        if (!e) continue;
        list[n] = (pc_st_out){.dtype = e->dtype[0] == 'I' ? PC_I64 : PC_F32,
                              .rank = e->rank,
                              .data = e->data};
        memcpy(list[n].dim, e->dim, sizeof e->dim);
        snprintf(list[n].name, sizeof list[n].name, "%s", visual[k]);
        if (first) list[n].dim[0] = k == 1 && patches ? patches : 1;
        if (k == 0) {
            const int64_t *g = e->data;
            patches = g[0] * g[1] * g[2];
        }
        n++;
    }
    return n;
}

static void one(const pc_bundle *b, pc_runner *r, const json_t *prompt, int index,
                const pc_safetensors *from, bool first)
{
    const json_t *want = json_object_get(prompt, "generated_ids");
    const json_t *stored = json_object_get(prompt, "prompt_ids");
    const pc_vlm_config *c = &b->model.config.vlm;
    const char *path = scratch_path("prompt.safetensors");
    static int64_t ids[IDS_MAX];
    static int32_t list[IDS_MAX], whole[IDS_MAX];
    pc_st_out parts[PARTS];
    pc_safetensors *file = NULL;
    pc_given given = {0};
    pc_generation got = {0};
    char what[96];
    bool places = false;

    if (!stored) stored = json_object_get(prompt, "ids");
    const int64_t n = (int64_t)json_array_size(stored), T = (int64_t)json_array_size(want);
    if (n < 1 || n > IDS_MAX) abort();
    for (int64_t i = 0; i < n; i++) {
        ids[i] = json_integer_value(json_array_get(stored, (size_t)i));
        whole[i] = (int32_t)ids[i];
        places = places || pc_vlm_place(c, ids[i]);
    }
    parts[0] =
        (pc_st_out){.name = "input_ids", .dtype = PC_I64, .rank = 2, .dim = {1, n}, .data = ids};
    const int count = places && from ? add_visual(parts, 1, from, index, first) : 1;
    if (pc_safetensors_write(path, parts, count, NULL) || pc_safetensors_open(&file, path) ||
        pc_given_open(&given, file, &b->model.config, "", -1)) {
        parity_broken("prompt");
        goto done;
    }
    const pc_sequence q = {.ids = list,
                           .length = collapse(list, whole, n, c, given.geometry),
                           .images = given.geometry};
    pc_pictures pictures = given.vlm.pictures;
    pictures.count = given.images;
    const pc_generate_options o = {.max_tokens = T, .sampling = {.top_p = 1.0}};
    if (pc_generate(&got, r, &b->model.vlm, &q, 1, &pictures, &o)) {
        parity_broken("generation");
        goto done;
    }
    int64_t same = 0;
    while (same < got.length && same < T &&
           got.ids[same] == json_integer_value(json_array_get(want, (size_t)same)))
        same++;
    snprintf(what, sizeof what, "prompt %d: %lld ids of %lld differ", index, (long long)(T - same),
             (long long)T);
    parity_report(what, T > 0 && got.length == T ? (double)(T - same) : 1e9, 0.0, "");
done:
    pc_generation_close(&got, 1);
    pc_given_close(&given);
    pc_safetensors_close(file);
}

void parity_generation(const char *dir)
{
    char path[1024];
    pc_bundle b = {0};
    pc_runner r = {0};
    pc_placement p = {0};
    pc_safetensors *from = NULL;

    printf("%s: generation\n", dir);
    snprintf(path, sizeof path, "%s/generation.json", dir);
    json_t *json = json_load_file(path, 0, NULL);
    snprintf(path, sizeof path, "%s/generation_inputs.safetensors", dir);
    const bool first = pc_safetensors_open(&from, path);
    snprintf(path, sizeof path, "%s/inputs.safetensors", dir);
    if ((first && pc_safetensors_open(&from, path)) || pc_bundle_open(&b, dir) ||
        pc_runner_open(&r, 2, NULL) || pc_placement_open(&p, &b.model, &r.backend)) {
        parity_broken(dir);
        goto done;
    }
    const json_t *prompts = json_object_get(json, "prompts");
    if (!json_array_size(prompts)) abort();
    for (size_t i = 0; i < json_array_size(prompts); i++)
        one(&b, &r, json_array_get(prompts, i), (int)i, from, first);
done:
    pc_safetensors_close(from);
    pc_placement_close(&p);
    pc_runner_close(&r);
    pc_bundle_close(&b);
    json_decref(json);
}

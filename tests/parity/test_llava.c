/*
 * test_llava.c - LLaVA against PyTorch: forward, every activation, every gradient, both training stages, greedy
 * generation; the older and the newer configuration, and every layout of tensor names.
 *
 * Adapters: beside the model, trained, merged.
 * Seen (relative): outputs 8e-7, activations 7e-7, gradients 3e-6, losses 2e-7, parameters at the end 2e-7.
 */
#include "tests/support/parity.h"
#include "tests/support/scratch.h"

#include "checkpoints/bundle.h"
#include "model/core/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const parity_tap taps[] = {
    {"projector.out", "image_features_projected"},
    {"decoder.hidden_states.0", "lm_hidden_states.0"},
    {"decoder.hidden_states.1", "lm_hidden_states.1"},
    {NULL, NULL},
};
static const parity_tap own_last[] = {{"decoder.normed", "lm_hidden_states.2"}, {NULL, NULL}};
static const parity_tap shared_last[] = {
    {"vision.selected", "image_features_selected"},
    {"decoder.hidden_states.2", "lm_hidden_states.2"},
    {"decoder.normed", "lm_hidden_states.3"},
    {NULL, NULL},
};

static void folder(const char *dir)
{
    parity_logits(dir, NULL, taps);
    parity_gradients(dir);
    parity_trace(dir, "train_stage1.json", "train_batches.safetensors",
                 "train_stage1_final.safetensors");
    parity_trace(dir, "train_stage2.json", "train_batches.safetensors",
                 "train_stage2_final.safetensors");
    parity_generation(dir);
    parity_adapters(dir);
}

// The same weights under another layout's names.
static void rewrite(const char *to, const char *dir, int variant)
{
    pc_bundle b;
    pc_safetensors *in;
    pc_aliases names = {0};
    char path[1024];

    if (pc_bundle_open(&b, dir) || pc_safetensors_open_dir(&in, dir) ||
        b.family->aliases(&names, &b.model.config, variant))
        abort();
    pc_st_out *list = calloc((size_t)names.count, sizeof *list);
    for (int i = 0; list && i < names.count; i++) {
        const pc_st_entry *e = pc_safetensors_find(in, b.aliases.list[i].theirs);
        if (!e || strcmp(b.aliases.list[i].ours, names.list[i].ours)) abort();
        list[i] = (pc_st_out){.dtype = PC_F32, .rank = e->rank, .data = e->data};
        memcpy(list[i].dim, e->dim, sizeof e->dim);
        memcpy(list[i].name, names.list[i].theirs, sizeof list[i].name);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    if (!list || pc_safetensors_write(path, list, names.count, NULL)) abort();
    free(list);
    pc_aliases_close(&names);
    pc_safetensors_close(in);
    pc_bundle_close(&b);
}

static void layouts(const char *dir)
{
    char *config;
    size_t size;
    char from[1024], name[32];

    snprintf(from, sizeof from, "%s/config.json", dir);
    if (pc_file_read(&config, &size, from, 1 << 20)) abort();
    for (int variant = 0; variant < pc_family_find("llava")->variants; variant++) {
        snprintf(name, sizeof name, "layout%d", variant);
        const char *to = scratch_path(name);
        char file[64];
        if (pc_make_dirs(to)) abort();
        snprintf(file, sizeof file, "%s/config.json", name);
        scratch_write(file, config, size);
        rewrite(to, dir, variant);
        parity_logits(dir, to, NULL);
    }
    free(config);
}

int main(void)
{
    scratch_open();
    const char *own = parity_own("llava"), *dir = parity_shared("llava_tiny");
    folder(own);
    parity_logits(own, NULL, own_last);
    layouts(own);
    if (dir) {
        folder(dir);
        parity_logits(dir, NULL, shared_last);
        parity_logits(dir, parity_other_config(dir, "config.legacy.json"), NULL);
    }
    scratch_close();
    return parity_failed() != 0;
}

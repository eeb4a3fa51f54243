/*
 * parity_folders.c - every folder with a model and reference numbers, and all that it has numbers for (see parity.h).
 */
#include "tests/support/parity.h"

#include "checkpoints/bundle.h"
#include "model/core/file.h"
#include "model/layers/taps.h"
#include "model/networks/runner.h"
#include "tests/support/scratch.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has(const char *dir, const char *file)
{
    char path[4400];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return pc_file_exists(path);
}

// ---- larger images ---------------------------------------------------------------------------

// The tower of a contrastive model on images for which its position table is resized.
typedef struct larger {
    pc_vision *tower;
    pc_tensor pixels;
    float *hidden, *pooled;
} larger;

static void larger_pass(pc_ctx *ctx, void *arg)
{
    larger *l = arg;
    pc_vision_kept kept = {0};
    const pc_tensor hidden =
        pc_vision_forward(ctx, &kept, l->tower, l->pixels, l->tower->config.L, true);
    const pc_tensor y = pc_vision_head_forward(ctx, &kept, l->tower, hidden);
    if (ctx->act->dry) return;
    const bool map = l->tower->config.head == PC_HEAD_MAP;
    l->hidden = map ? kept.post.data : hidden.data;
    l->pooled = map ? y.data : kept.post.data;
}

static void interpolation(const char *dir)
{
    pc_bundle b = {0};
    pc_runner r = {0};
    pc_taps taps = {0};
    pc_safetensors *in = NULL, *out = NULL;
    char path[4400];

    snprintf(path, sizeof path, "%s/inputs.safetensors", dir);
    if (pc_safetensors_open(&in, path)) abort();
    const pc_st_entry *px = pc_safetensors_find(in, "interp_pixel_values");
    if (!px) goto done;
    printf("%s: larger images\n", dir);
    snprintf(path, sizeof path, "%s/outputs.safetensors", dir);
    if (pc_bundle_open(&b, dir) || pc_runner_open(&r, 2, NULL) || pc_safetensors_open(&out, path))
        abort();
    if (r.backend.memory) goto done; // looks into the pass's memory itself: the CPU's
    const pc_st_entry *hidden = pc_safetensors_find(out, "interp_last_hidden_state");
    const pc_st_entry *pooled = pc_safetensors_find(out, "interp_pooled");
    if (!hidden || !pooled || b.model.config.kind != PC_MODEL_CLIP) abort();
    larger l = {.tower = &b.model.clip.vision,
                .pixels = pc_view4((void *)(uintptr_t)px->data, PC_F32, px->dim[0], 3, px->dim[2],
                                   px->dim[3])};
    r.ctx.taps = &taps; // the last block makes every row
    if (pc_runner_run(&r, larger_pass, &l)) abort();
    const int64_t rows = hidden->dim[0] * hidden->dim[1], C = hidden->dim[2];
    parity_report("last hidden state", parity_error(l.hidden, hidden->data, rows * C),
                  PARITY_OUTPUT, "");
    parity_report("pooled", parity_error(l.pooled, pooled->data, pooled->dim[0] * C), PARITY_OUTPUT,
                  "");
done:
    pc_taps_close(&taps);
    pc_safetensors_close(in);
    pc_safetensors_close(out);
    pc_runner_close(&r);
    pc_bundle_close(&b);
}

// ---- other layouts of names ------------------------------------------------------------------

// The same weights under another layout's names.
static void rewrite(const char *to, const char *dir, int variant)
{
    pc_bundle b;
    pc_safetensors *in;
    pc_aliases names = {0};
    char path[4400];

    if (pc_bundle_open(&b, dir) || pc_safetensors_open_dir(&in, dir) ||
        b.family->aliases(&names, &b.model.config, variant))
        abort();
    pc_st_out *list = calloc((size_t)names.count, sizeof *list);
    int n = 0;
    for (int i = 0; list && i < names.count; i++) {
        const pc_alias *from = &b.aliases.list[i], *a = &names.list[i];
        if (strcmp(from->ours, a->ours)) abort();
        if (a->offset) continue; // part of a tensor that is there already
        const pc_st_entry *e = pc_safetensors_find(in, from->theirs);
        if (!e) abort();
        list[n] = (pc_st_out){.dtype = PC_F32, .rank = e->rank, .data = e->data};
        memcpy(list[n].dim, e->dim, sizeof e->dim);
        memcpy(list[n++].name, a->theirs, sizeof list[0].name);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    if (!list || pc_safetensors_write(path, list, n, NULL)) abort();
    free(list);
    pc_aliases_close(&names);
    pc_safetensors_close(in);
    pc_bundle_close(&b);
}

static void layouts(const char *dir)
{
    static int count;
    pc_bundle b = {0};
    char *config;
    size_t size;
    char from[4400], name[32], file[64];

    if (!has(dir, "model.safetensors")) return; // shards: the same names, several files
    if (pc_bundle_open(&b, dir)) {
        parity_broken(dir);
        return;
    }
    const int variants = b.family ? b.family->variants : 0;
    pc_bundle_close(&b);
    snprintf(from, sizeof from, "%s/config.json", dir);
    for (int variant = 0; variant < variants && variants > 1; variant++) {
        snprintf(name, sizeof name, "layout%d", count++);
        const char *to = scratch_path(name);
        if (pc_make_dirs(to) || pc_file_read(&config, &size, from, 1 << 20)) abort();
        snprintf(file, sizeof file, "%s/config.json", name);
        scratch_write(file, config, size);
        free(config);
        rewrite(to, dir, variant);
        parity_logits(dir, to, false);
    }
}

// ---- a folder --------------------------------------------------------------------------------

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// Names in a folder, sorted; both to be freed.
static char **names_in(const char *dir, int *count)
{
    DIR *d = opendir(dir);
    const struct dirent *e;
    char **list = NULL;
    *count = 0;
    while (d && (e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        list = realloc(list, (size_t)(*count + 1) * sizeof *list);
        if (!list || !(list[*count] = strdup(e->d_name))) abort();
        ++*count;
    }
    if (d) closedir(d);
    if (list) qsort(list, (size_t)*count, sizeof *list, by_name);
    return list;
}

static void free_names(char **list, int count)
{
    for (int i = 0; i < count; i++) free(list[i]);
    free(list);
}

static bool begins(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

static bool ends(const char *s, const char *with)
{
    const size_t a = strlen(s), b = strlen(with);
    return a >= b && !strcmp(s + a - b, with);
}

void parity_folder(const char *dir)
{
    int count;
    char **names = names_in(dir, &count), final[512];

    parity_logits(dir, NULL, false);
    parity_logits(dir, NULL, true);
    if (has(dir, "grads.safetensors")) parity_gradients(dir);
    for (int i = 0; i < count; i++) {
        const char *n = names[i];
        if (begins(n, "config.") && ends(n, ".json") && strcmp(n, "config.json"))
            parity_logits(dir, parity_other_config(dir, n), false);
        if (!begins(n, "train") || !ends(n, ".json")) continue;
        snprintf(final, sizeof final, "%.*s_final.safetensors", (int)strlen(n) - 5, n);
        parity_trace(dir, n, "train_batches.safetensors", final);
    }
    if (has(dir, "generation.json")) parity_generation(dir);
    if (has(dir, "outputs.safetensors")) interpolation(dir);
    layouts(dir);
    parity_adapters(dir);
    free_names(names, count);
}

int parity_walk(const char *root)
{
    int count, found = 0;
    char **names = names_in(root, &count), path[4400];
    const bool weights =
        has(root, "model.safetensors") || has(root, "model.safetensors.index.json");

    if (weights && has(root, "config.json") && has(root, "inputs.safetensors")) {
        parity_folder(root);
        found++;
    }
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        if (pc_is_dir(path)) found += parity_walk(path);
    }
    free_names(names, count);
    return found;
}

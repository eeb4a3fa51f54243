/*
 * test_clip.c - CLIP against PyTorch: forward, every activation, every gradient, 20 AdamW steps.
 *
 * Seen (relative): outputs 8e-7, activations 9e-7, gradients 2e-6, losses 1.2e-5 (of ../shared's a, where they
 * have fallen to 0.007), parameters at the end 8e-7.
 */
#include "tests/support/parity.h"
#include "tests/support/scratch.h"

#include "checkpoints/bundle.h"
#include "model/layers/taps.h"
#include "model/networks/runner.h"

#include <stdio.h>
#include <stdlib.h>

static const parity_tap taps2[] = {
    {"vision.hidden_states.0", "vision_hidden_states.0"},
    {"vision.hidden_states.1", "vision_hidden_states.1"},
    {"vision.hidden_states.2", "vision_hidden_states.2"},
    {"text.hidden_states.0", "text_hidden_states.0"},
    {"text.hidden_states.1", "text_hidden_states.1"},
    {"text.hidden_states.2", "text_hidden_states.2"},
    {NULL, NULL},
};
static const parity_tap taps3[] = {
    {"vision.hidden_states.3", "vision_hidden_states.3"},
    {"text.hidden_states.3", "text_hidden_states.3"},
    {"text.normed", "text_last_hidden_state"},
    {"vision.pooled", "vision_pooled"},
    {NULL, NULL},
};

// The tower on larger images than its position table was made for.
typedef struct larger {
    pc_vision *tower;
    pc_tensor pixels;
    float *pooled;
} larger;

static void larger_pass(pc_ctx *ctx, void *arg)
{
    larger *l = arg;
    pc_vision_kept kept = {0};
    const pc_tensor hidden =
        pc_vision_forward(ctx, &kept, l->tower, l->pixels, l->tower->config.L, true);
    pc_vision_head_forward(ctx, &kept, l->tower, hidden);
    if (!ctx->act->dry) l->pooled = kept.post.data;
}

static void interpolation(const char *dir)
{
    pc_bundle b;
    pc_runner r;
    pc_safetensors *in, *out;
    char path[1024];

    printf("%s: larger images\n", dir);
    snprintf(path, sizeof path, "%s/inputs.safetensors", dir);
    if (pc_bundle_open(&b, dir) || pc_runner_open(&r, 2, NULL) || pc_safetensors_open(&in, path))
        abort();
    snprintf(path, sizeof path, "%s/outputs.safetensors", dir);
    if (pc_safetensors_open(&out, path)) abort();
    const pc_st_entry *px = pc_safetensors_find(in, "interp_pixel_values");
    const pc_st_entry *hidden = pc_safetensors_find(out, "interp_last_hidden_state");
    const pc_st_entry *pooled = pc_safetensors_find(out, "interp_pooled");
    if (!px || !hidden || !pooled) abort();
    larger l = {.tower = &b.model.clip.vision,
                .pixels = pc_view4((void *)(uintptr_t)px->data, PC_F32, px->dim[0], 3, px->dim[2],
                                   px->dim[3])};
    pc_taps taps = {0}; // with which the last block makes every row
    char name[64];
    r.ctx.taps = &taps;
    if (pc_runner_run(&r, larger_pass, &l) || taps.status) abort();
    snprintf(name, sizeof name, "vision.hidden_states.%lld", (long long)l.tower->config.L);
    const pc_tensor *last = pc_tap_find(&taps, name);
    if (!last) abort();
    const int64_t rows = hidden->dim[0] * hidden->dim[1], C = hidden->dim[2];
    parity_report("last hidden state", parity_error(last->data, hidden->data, rows * C),
                  PARITY_OUTPUT, "");
    parity_report("pooled", parity_error(l.pooled, pooled->data, pooled->dim[0] * C), PARITY_OUTPUT,
                  "");
    pc_taps_close(&taps);
    pc_safetensors_close(in);
    pc_safetensors_close(out);
    pc_runner_close(&r);
    pc_bundle_close(&b);
}

static void folder(const char *dir)
{
    parity_logits(dir, NULL, taps2);
    parity_gradients(dir);
    parity_trace(dir, "train.json", "train_batches.safetensors", "train_final.safetensors");
}

int main(void)
{
    scratch_open();
    folder(parity_own("clip"));
    const char *a = parity_shared("clip_tiny/a"), *b = parity_shared("clip_tiny/b");
    if (a) {
        folder(a);
        parity_logits(a, NULL, taps3);
        interpolation(a);
    }
    if (b) {
        folder(b);
        interpolation(b);
    }
    scratch_close();
    return parity_failed() != 0;
}

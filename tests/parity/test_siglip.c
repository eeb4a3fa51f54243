/*
 * test_siglip.c - SigLIP against PyTorch: forward, every activation, every gradient, 20 AdamW steps.
 *
 * Seen (relative): outputs 6e-7, activations 8e-7, gradients 5e-6, losses 4e-7, parameters at the end 8e-6.
 */
#include "tests/support/parity.h"
#include "tests/support/scratch.h"

static const parity_tap taps[] = {
    {"vision.hidden_states.0", "vision_hidden_states.0"},
    {"vision.hidden_states.1", "vision_hidden_states.1"},
    {"vision.hidden_states.2", "vision_hidden_states.2"},
    {"text.hidden_states.0", "text_hidden_states.0"},
    {"text.hidden_states.1", "text_hidden_states.1"},
    {"text.hidden_states.2", "text_hidden_states.2"},
    {NULL, NULL},
};
static const parity_tap more[] = {
    {"vision.post", "vision_last_hidden_state"},
    {"vision.embedding", "vision_pooled"},
    {"text.normed", "text_last_hidden_state"},
    {"text.embedding", "text_pooled"},
    {NULL, NULL},
};

static void folder(const char *dir)
{
    parity_logits(dir, NULL, taps);
    parity_gradients(dir);
    parity_trace(dir, "train.json", "train_batches.safetensors", "train_final.safetensors");
}

int main(void)
{
    scratch_open();
    folder(parity_own("siglip"));
    const char *dir = parity_shared("siglip_tiny");
    if (dir) {
        folder(dir);
        parity_logits(dir, NULL, more);
    }
    scratch_close();
    return parity_failed() != 0;
}

/*
 * test_decoders.c - text decoders alone against PyTorch: Llama, Llama with llama3 rotary scaling, Mistral with a
 * sliding window, Qwen2 with query/key/value biases and a tied head; older and newer configurations.
 *
 * Seen (relative): outputs 9e-7, gradients 2.2e-6.
 */
#include "tests/support/parity.h"
#include "tests/support/scratch.h"

#include <stdio.h>

int main(void)
{
    static const char *const names[] = {"llama", "llama3", "mistral", "qwen2"};

    scratch_open();
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "text_tiny/%s", names[i]);
        const char *dir = parity_shared(name);
        if (!dir) continue;
        parity_logits(dir, NULL, NULL);
        parity_logits(dir, parity_other_config(dir, "config.legacy.json"), NULL);
        parity_gradients(dir);
        parity_generation(dir);
    }
    scratch_close();
    return parity_failed() != 0;
}

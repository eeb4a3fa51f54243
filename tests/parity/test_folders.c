/*
 * test_folders.c - every folder that holds a model and reference numbers, against PyTorch: forward, every activation
 * that is stored, every gradient, training traces, greedy generation, adapters; the older and the newer
 * configuration, and every layout of tensor names. A new folder needs no code.
 *
 * Seen (relative): outputs 9e-7, activations 1.4e-6, gradients 5e-6, losses 1.2e-5 (of a CLIP whose loss has fallen to
 * 0.007), otherwise 4e-7, parameters at the end 8e-6.
 */
#include "tests/support/parity.h"
#include "tests/support/scratch.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    scratch_open();
    if (argc > 1) { // folders by name, while one of them is being worked on
        for (int i = 1; i < argc; i++) parity_walk(argv[i]);
    } else {
        const int own = parity_walk("tests/goldens");
        const char *shared = parity_shared("");
        const int others = shared ? parity_walk(shared) : 0;
        printf("%d folders of our own, %d below ../shared\n", own, others);
        if (own < 3 || (shared && others < 1)) return 1;
    }
    scratch_close();
    return parity_failed() != 0;
}

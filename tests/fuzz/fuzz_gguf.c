/*
 * fuzz_gguf.c - a GGUF file: opened, every key walked, every tensor decoded; then as a model with its vocabulary.
 */
#include "checkpoints/gguf_model.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

static void tensors(const uint8_t *data, size_t size)
{
    pc_gguf *g = NULL;
    if (pc_gguf_open_memory(&g, data, size)) return;
    for (int64_t i = 0; i < pc_gguf_key_count(g); i++) {
        const pc_gguf_value v = pc_gguf_key_at(g, i);
        if (v.count > size * 8) abort();
    }
    for (int64_t i = 0; i < pc_gguf_count(g); i++) {
        const pc_gguf_tensor t = pc_gguf_at(g, i);
        if (t.numel < 0 || t.numel > (int64_t)size * 16) continue;
        float *x = malloc((size_t)(t.numel + 1) * sizeof *x);
        if (x) pc_gguf_floats(x, &t, 0, t.numel);
        free(x);
    }
    pc_gguf_close(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pc_gguf_model m;
    tensors(data, size);
    if (pc_gguf_model_open(&m, fuzz_file(data, size), "")) return 0;
    pc_tokenizer *tok = NULL;
    pc_gguf_match x;
    if (m.text && !pc_gguf_tokenizer(&tok, m.text)) pc_tokenizer_close(tok);
    if (!pc_gguf_match_open(&x, &m)) pc_gguf_match_close(&x);
    pc_gguf_model_close(&m);
    return 0;
}

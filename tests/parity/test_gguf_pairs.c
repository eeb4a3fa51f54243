/*
 * test_gguf_pairs.c - published-style folders into GGUF pairs and back: `percept logits` on the pair against PyTorch's
 * numbers for the folder, for every type, within what the type explains.
 *
 * Seen (relative error of logits, worst of five folders): see `limits` below, each beside its figure.
 */
#include "checkpoints/bundle.h"
#include "checkpoints/gguf_export.h"
#include "checkpoints/gguf_model.h"
#include "tests/support/check.h"
#include "tests/support/parity.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// A folder as a pair of files named NAME.gguf and mmproj-NAME.gguf in scratch; the text file's path.
static const char *export_pair(const char *dir, const char *name, const char *type)
{
    static char text[1024], eyes[1024];
    char file[128];
    pc_bundle b;
    pc_gguf_store store;
    if (pc_bundle_open(&b, dir) || pc_gguf_store_named(&store, type)) {
        parity_broken(dir);
        return NULL;
    }
    pc_gguf_source s = pc_gguf_source_params(&b.model.config, &b.model.params);
    snprintf(file, sizeof file, "%s.gguf", name);
    snprintf(text, sizeof text, "%s", scratch_path(file));
    snprintf(file, sizeof file, "mmproj-%s.gguf", name);
    snprintf(eyes, sizeof eyes, "%s", scratch_path(file));
    s.about = (pc_gguf_about){.name = name, .license = "apache-2.0"};
    if (b.has_image) s.image = &b.image;
    const bool sees = b.model.config.vlm.vision.L > 0;
    const pc_status st = pc_gguf_export(text, sees ? eyes : NULL, &s, &store);
    if (st) parity_broken(name);
    pc_bundle_close(&b);
    return st ? NULL : text;
}

// Rows of `logits` whose attention_mask is 1.
static double logits_error(const char *dir, const char *model)
{
    const char *bin = getenv("PERCEPT_BIN");
    char line[4096], path[1024];
    const char *out = scratch_path("logits.safetensors");
    pc_safetensors *got = NULL, *want = NULL, *in = NULL;
    double error = (double)NAN;
    snprintf(line, sizeof line,
             "%s/percept logits '%s' --inputs '%s/inputs.safetensors' --out '%s' >/dev/null",
             bin ? bin : "build/bin", model, dir, out);
    if (system(line)) return error;
    snprintf(path, sizeof path, "%s/outputs.safetensors", dir);
    if (pc_safetensors_open(&got, out) || pc_safetensors_open(&want, path)) abort();
    snprintf(path, sizeof path, "%s/inputs.safetensors", dir);
    if (pc_safetensors_open(&in, path)) abort();
    const pc_st_entry *a = pc_safetensors_find(got, "logits"),
                      *b = pc_safetensors_find(want, "logits"),
                      *mask = pc_safetensors_find(in, "attention_mask");
    if (a && b && a->bytes == b->bytes) {
        const int64_t V = b->dim[2], rows = b->dim[0] * b->dim[1];
        float *x = malloc(a->bytes), *y = malloc(b->bytes), *m = malloc((size_t)rows * sizeof *m);
        if (!x || !y || !m || pc_st_floats(x, a, rows * V) || pc_st_floats(y, b, rows * V)) abort();
        for (int64_t r = 0; r < rows; r++) m[r] = 1.0F;
        if (mask && pc_st_floats(m, mask, rows)) abort();
        int64_t n = 0;
        for (int64_t r = 0; r < rows; r++) {
            if (m[r] == 0.0F) continue;
            memmove(x + n * V, x + r * V, (size_t)V * sizeof *x);
            memmove(y + n * V, y + r * V, (size_t)V * sizeof *y);
            n++;
        }
        error = parity_error(x, y, n * V);
        free(x);
        free(y);
        free(m);
    }
    pc_safetensors_close(got);
    pc_safetensors_close(want);
    pc_safetensors_close(in);
    return error;
}

static void folder(const char *dir, const char *name)
{
    static const char *const types[] = {"F32",  "F16",  "BF16", "Q8_0", "Q6_K",
                                        "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q4_K_M"};
    printf("%s as GGUF\n", dir);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char what[64];
        pc_gguf_store store;
        const char *text = export_pair(dir, name, types[i]);
        if (!text) continue;
        if (pc_gguf_store_named(&store, types[i])) abort();
        snprintf(what, sizeof what, "%s %s", name, types[i]);
        parity_report(what, logits_error(dir, text), pc_gguf_store_error(&store), "");
    }
}

int main(void)
{
    static const char *const names[] = {"text_tiny/llama",      "text_tiny/llama3",
                                        "text_tiny/mistral",    "text_tiny/qwen2",
                                        "llava_tiny",           "llava_next_tiny",
                                        "llava_onevision_tiny", "qwen2_vl_tiny"};
    scratch_open();
    folder(parity_own("llava"), "own");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *dir = parity_shared(names[i]);
        if (dir) folder(dir, strrchr(dir, '/') + 1);
    }
    scratch_close();
    return parity_failed() != 0;
}

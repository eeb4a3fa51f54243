/*
 * test_gguf_pairs.c - published-style folders into GGUF pairs and back: `percept logits` on the pair against PyTorch's
 * numbers for the folder, for every type, within what the type explains.
 *
 * Seen (relative error of logits, worst of nine folders): F32 7e-7, F16 1.1e-3, BF16 9e-3, Q8_0 0.03, Q5_1 0.19, Q5_0
 * 0.23, Q4_1 0.39, Q4_0 0.46; K-quants do not fit rows so short and fall back. Wide rows: 2e-7.
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

static pc_status export_model(const char *text, const char *eyes, pc_model *m,
                              const pc_image_config *image, const char *type)
{
    pc_gguf_store store;
    const pc_status st = pc_gguf_store_named(&store, type);
    pc_gguf_source s = pc_gguf_source_params(&m->config, &m->params);
    s.about = (pc_gguf_about){.name = "a model", .license = "apache-2.0"};
    s.image = image;
    return st ? st : pc_gguf_export(text, eyes, &s, &store);
}

// A folder as a pair of files named NAME.gguf and mmproj-NAME.gguf in scratch; the text file's path.
static const char *export_pair(const char *dir, const char *name, const char *type)
{
    static char text[1024], eyes[1024];
    char file[128];
    pc_bundle b;
    if (pc_bundle_open(&b, dir)) {
        parity_broken(dir);
        return NULL;
    }
    snprintf(file, sizeof file, "%s.gguf", name);
    snprintf(text, sizeof text, "%s", scratch_path(file));
    snprintf(file, sizeof file, "mmproj-%s.gguf", name);
    snprintf(eyes, sizeof eyes, "%s", scratch_path(file));
    const bool sees = b.model.config.vlm.vision.L > 0;
    const pc_status st =
        export_model(text, sees ? eyes : NULL, &b.model, b.has_image ? &b.image : NULL, type);
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

/* ---- rows that K-quants take ---- */

// `percept logits`, which leaves blocks where they are.
static float *logits_of(const char *model, int64_t *n)
{
    const char *bin = getenv("PERCEPT_BIN"), *out = scratch_path("wide.safetensors");
    char line[4096];
    pc_safetensors *got = NULL;
    snprintf(line, sizeof line, "%s/percept logits '%s' --inputs '%s' --out '%s' >/dev/null",
             bin ? bin : "build/bin", model, scratch_path("ids.safetensors"), out);
    if (system(line) || pc_safetensors_open(&got, out)) return NULL;
    const pc_st_entry *e = pc_safetensors_find(got, "logits");
    *n = (int64_t)(e->bytes / sizeof(float));
    float *x = malloc(e->bytes);
    if (!x || pc_st_floats(x, e, *n)) abort();
    pc_safetensors_close(got);
    return x;
}

// The worst relative error of a matrix, and in *sum how many are not the same to the bit.
static double rounding(const pc_model *a, pc_model *b, int *changed)
{
    double worst = 0.0;
    *changed = 0;
    for (int i = 0; i < a->params.count; i++) {
        const pc_param *p = &a->params.list[i], *q = pc_params_find(&b->params, p->name);
        const int64_t n = pc_numel(p->weight->w);
        if (!q || pc_numel(q->weight->w) != n) return (double)NAN;
        const double e = parity_error(q->weight->w.data, p->weight->w.data, n);
        *changed += e > 0.0;
        worst = fmax(worst, e);
    }
    return worst;
}

static void wide(const char *type, bool qwen)
{
    pc_model_config c = {.kind = PC_MODEL_VLM};
    c.vlm.feature_layer = c.vlm.image_id = -1;
    c.vlm.decoder = (pc_decoder_config){.V = 300,
                                        .C = 256,
                                        .L = 2,
                                        .H = 4,
                                        .G = 2,
                                        .D = 64,
                                        .F = 512,
                                        .T = 64,
                                        .eps = 1e-5,
                                        .rope = {.theta = 1e4},
                                        .qkv_bias = qwen,
                                        .std = 0.05};
    int32_t ids[24];
    for (int i = 0; i < 24; i++) ids[i] = (7 * i * i + 3) % 300;
    const pc_st_out given = {"input_ids", PC_I32, 2, {2, 12}, ids};
    pc_model a;
    pc_bundle b;
    pc_gguf_store store;
    char stored[1024], rounded[1024], what[64];
    snprintf(stored, sizeof stored, "%s", scratch_path("wide-stored.gguf"));
    snprintf(rounded, sizeof rounded, "%s", scratch_path("wide-rounded.gguf"));
    if (pc_safetensors_write(scratch_path("ids.safetensors"), &given, 1, NULL) ||
        pc_model_open(&a, &c, PC_F32, true) || pc_gguf_store_named(&store, type))
        abort();
    pc_params_init(&a.params, 5);
    snprintf(what, sizeof what, "%s %s", qwen ? "qwen2" : "llama", type);
    if (export_model(stored, NULL, &a, NULL, type) || pc_bundle_open(&b, stored) ||
        export_model(rounded, NULL, &b.model, NULL, "F32")) {
        parity_broken(what);
        return;
    }
    int changed = 0;
    parity_report(what, rounding(&a, &b.model, &changed), pc_gguf_store_tensor(&store), "");
    int64_t n = 0, m = 0;
    float *x = logits_of(stored, &n), *y = logits_of(rounded, &m);
    snprintf(what, sizeof what, "... its logits, %d tensors rounded", changed);
    parity_report(what, x && y && n == m ? parity_error(x, y, n) : (double)NAN, 1e-5, "");
    free(x);
    free(y);
    pc_bundle_close(&b);
    pc_model_close(&a);
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
    static const char *const types[] = {"F16",  "BF16", "Q8_0", "Q6_K",   "Q5_1",
                                        "Q5_0", "Q4_1", "Q4_0", "Q4_K_S", "Q4_K_M"};
    printf("matrices of rows of 256: rounded once, and read where they lie\n");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        wide(types[i], false);
        wide(types[i], true);
    }
    scratch_close();
    return parity_failed() != 0;
}

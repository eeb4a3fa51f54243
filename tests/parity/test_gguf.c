/*
 * test_gguf.c - block formats and GGUF files against the reference package's: bytes and numbers of every type in
 * ../shared/goldens/numerics/gguf_blocks, all of formats/sample.gguf, and the vocabularies of tokenizers/.
 *
 * Bytes and decoded numbers are equal. K-quants (ours to choose): error 0.65 to 1.00 of the plain encoder's.
 */
#include "checkpoints/gguf.h"
#include "checkpoints/safetensors.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct blocks {
    pc_safetensors *file;
    json_t *json;
    const float *input; // (rows, C)
    int64_t rows, C;
} blocks;

static const pc_st_entry *entry(const blocks *b, const char *type, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", type, what);
    return pc_safetensors_find(b->file, name);
}

static float *floats(const pc_st_entry *e, int64_t n)
{
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    if (!x || pc_st_floats(x, e, n)) abort();
    return x;
}

// Their bytes decode to their numbers, bit for bit.
static void decode(const blocks *b, const pc_quant_type *t)
{
    const pc_st_entry *bytes = entry(b, t->name, "bytes"), *want = entry(b, t->name, "dequant");
    if (!bytes || !want) return;
    const int64_t n = want->dim[0] * want->dim[1];
    CHECK(bytes->bytes == pc_quant_bytes(t, n));
    float *x = floats(want, n), *y = malloc((size_t)n * sizeof *y);
    pc_quant_decode(t, y, bytes->data, n);
    CHECK(!memcmp(x, y, (size_t)n * sizeof *y));
    free(x);
    free(y);
}

static double rmse(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    return sqrt(sum / (double)n);
}

// Bytes where the reference says which; otherwise each row's error against the plain encoder's.
static void encode(const blocks *b, const pc_quant_type *t)
{
    const json_t *plain = json_object_get(json_object_get(b->json, "naive_encoder"), t->name);
    const json_t *limit = json_object_get(plain, "rmse_per_row");
    const pc_st_entry *want = limit ? NULL : entry(b, t->name, "bytes");
    if (!want && !limit) return;
    const size_t row = pc_quant_bytes(t, b->C);
    unsigned char *got = malloc((size_t)b->rows * row);
    float *back = malloc((size_t)b->C * sizeof *back);
    if (!got || !back) abort();
    CHECK(pc_quant_encode(t, got, b->input, b->rows * b->C) < 0);
    if (want) CHECK(want->bytes == (size_t)b->rows * row && !memcmp(got, want->data, want->bytes));
    double least = 1.0, most = 0.0;
    for (int64_t r = 0; r < b->rows && limit; r++) {
        pc_quant_decode(t, back, got + (size_t)r * row, b->C);
        const double error = rmse(back, b->input + r * b->C, b->C);
        const double most_allowed = json_number_value(json_array_get(limit, (size_t)r));
        CHECK(error <= most_allowed * (1.0 + 1e-6)); // theirs is printed from doubles
        least = fmin(least, error / most_allowed);
        most = fmax(most, error / most_allowed);
    }
    if (limit) printf("%s: %.3f to %.3f of the plain encoder's error\n", t->name, least, most);
    free(got);
    free(back);
}

static void block_goldens(void)
{
    const char *path = shared_path("goldens/numerics/gguf_blocks.safetensors");
    blocks b = {0};
    if (!path) return;
    b.json = json_load_file(shared_path("goldens/numerics/gguf_blocks.json"), 0, NULL);
    CHECK(!pc_safetensors_open(&b.file, path) && b.json);
    if (!b.file || !b.json) return;
    const pc_st_entry *e = pc_safetensors_find(b.file, "input");
    b.rows = e->dim[0];
    b.C = e->dim[1];
    float *input = floats(e, b.rows * b.C);
    b.input = input;
    int decoded = 0;
    for (int id = 0; id < 64; id++) {
        const pc_quant_type *t = pc_quant_find(id);
        if (!t) continue;
        decoded += entry(&b, t->name, "dequant") != NULL;
        if (entry(&b, t->name, "dequant")) CHECK(t->decodes);
        if (t->decodes) decode(&b, t);
        if (t->encodes) encode(&b, t);
    }
    CHECK(decoded >= 10);
    free(input);
    json_decref(b.json);
    pc_safetensors_close(b.file);
}

/* ---- halves: every value of 16 bits, and what the goldens round ---- */

static void halves(void)
{
    int wrong = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float f = pc_f16_to_f32((uint16_t)h), g = pc_bf16_to_f32((uint16_t)h);
        if (isnan(f) ? !isnan(pc_f16_to_f32(pc_f32_to_f16(f))) : pc_f32_to_f16(f) != h) wrong++;
        if (isnan(g) ? !isnan(pc_bf16_to_f32(pc_f32_to_bf16(g))) : pc_f32_to_bf16(g) != h) wrong++;
        // Halfway to the next is even, a little further is the next.
        if ((h & 0x7FFF) >= 0x7BFF) continue;
        const float next = pc_f16_to_f32((uint16_t)(h + 1)), mid = 0.5F * (f + next);
        if (pc_f32_to_f16(mid) != (h + (h & 1))) wrong++;
        if (pc_f32_to_f16(nextafterf(mid, next)) != h + 1) wrong++;
        if (pc_f32_to_f16(nextafterf(mid, f)) != h) wrong++;
    }
    CHECK(!wrong);
    CHECK(pc_f32_to_f16(65519.0F) == 0x7BFF && pc_f32_to_f16(65520.0F) == 0x7C00);
    CHECK(pc_f32_to_bf16(1.00390625F) == 0x3F80 && pc_f32_to_bf16(1.01171875F) == 0x3F82);
    CHECK(pc_f32_to_bf16(INFINITY) == 0x7F80 && pc_f32_to_f16(-INFINITY) == 0xFC00);
}

/* ---- sample.gguf ---- */

static bool has_text(const pc_gguf *g, const char *key, const char *want)
{
    char *text = NULL;
    const bool same = !pc_gguf_text(&text, g, key) && text && !strcmp(text, want);
    free(text);
    return same;
}

static void sample_tensors(const pc_gguf *g, const json_t *json, const pc_safetensors *blocks_file)
{
    const json_t *list = json_object_get(json, "tensors"), *t;
    const float *input = pc_safetensors_find(blocks_file, "input")->data;
    size_t i;
    CHECK((size_t)pc_gguf_count(g) == json_array_size(list));
    json_array_foreach(list, i, t)
    {
        const char *name = json_string_value(json_object_get(t, "name"));
        const char *type = json_string_value(json_object_get(t, "type"));
        const json_t *dims = json_object_get(t, "ggml_dims_fastest_first");
        pc_gguf_tensor x, same = pc_gguf_at(g, (int64_t)i);
        CHECK(pc_gguf_find(&x, g, name));
        CHECK(!strcmp(same.name, name) && same.data == x.data);
        CHECK(!strcmp(x.type->name, type) && x.rank == (int)json_array_size(dims));
        CHECK(x.bytes == (size_t)json_integer_value(json_object_get(t, "nbytes")));
        for (int k = 0; k < x.rank; k++)
            CHECK(x.dim[x.rank - 1 - k] == json_integer_value(json_array_get(dims, (size_t)k)));
        if (x.rank != 2) continue;
        // The file's bytes are the golden blocks, and the rows its numbers.
        float *y = malloc((size_t)x.numel * sizeof *y);
        CHECK(!pc_gguf_floats(y, &x, 0, x.numel));
        if (x.type->id == PC_Q_F32) CHECK(!memcmp(y, input, x.bytes));
        char key[64];
        snprintf(key, sizeof key, "%s.bytes", type);
        const pc_st_entry *e = pc_safetensors_find(blocks_file, key);
        if (e) CHECK(e->bytes == x.bytes && !memcmp(e->data, x.data, x.bytes));
        free(y);
    }
}

static void sample(void)
{
    const char *path = shared_path("goldens/formats/sample.gguf");
    pc_gguf *g = NULL;
    pc_safetensors *blocks_file = NULL;
    if (!path) return;
    json_t *json = json_load_file(shared_path("goldens/formats/sample_gguf.json"), 0, NULL);
    CHECK(!pc_gguf_open(&g, path) && json);
    CHECK(!pc_safetensors_open(&blocks_file,
                               shared_path("goldens/numerics/gguf_blocks.safetensors")));
    if (!g || !json || !blocks_file) return;
    sample_tensors(g, json, blocks_file);
    const json_t *keys = json_object_get(json, "metadata_keys"), *k;
    size_t i;
    json_array_foreach(keys, i, k)
    {
        const char *key = json_string_value(k);
        if (strncmp(key, "GGUF.", 5)) CHECK(pc_gguf_has(g, key));
    }
    // Every kind of value reads, as its own kind and as no other.
    int64_t n = 0;
    double x = 0.0;
    bool b = false;
    static const char *const ints[] = {"u32", "i32", "u64", "i64", "u8", "i8", "u16", "i16"};
    for (i = 0; i < 8; i++) {
        char key[32];
        snprintf(key, sizeof key, "sample.%s", ints[i]);
        CHECK(!pc_gguf_int(&n, g, key, PC_GGUF_NEEDED, INT64_MIN, INT64_MAX));
        CHECK(pc_gguf_real(&x, g, key, 0.0) == PC_ERR_FORMAT);
    }
    CHECK(!pc_gguf_real(&x, g, "sample.f32", (double)NAN));
    CHECK(!pc_gguf_real(&x, g, "sample.f64", (double)NAN));
    CHECK(!pc_gguf_bool(&b, g, "sample.bool", false) && b);
    CHECK(pc_gguf_int(&n, g, "sample.str", 0, 0, 9) == PC_ERR_FORMAT);
    CHECK(pc_gguf_int(&n, g, "sample.nobody", PC_GGUF_NEEDED, 0, 9) == PC_ERR_FORMAT);
    CHECK(!pc_gguf_int(&n, g, "sample.nobody", 7, 0, 9) && n == 7);
    char *text = NULL;
    CHECK(!pc_gguf_text(&text, g, "sample.str") && text);
    free(text);
    pc_gguf_span *spans;
    int32_t *i32;
    float *f32;
    CHECK(!pc_gguf_strings(&spans, &n, g, "sample.arr_str") && n > 0);
    free(spans);
    CHECK(!pc_gguf_ints(&i32, &n, g, "sample.arr_i32") && n > 0);
    free(i32);
    CHECK(!pc_gguf_reals(&f32, &n, g, "sample.arr_f32") && n > 0);
    free(f32);
    CHECK(pc_gguf_ints(&i32, &n, g, "sample.arr_str") == PC_ERR_FORMAT && !i32 && !n);
    json_decref(json);
    pc_safetensors_close(blocks_file);
    pc_gguf_close(g);
}

/* ---- vocabularies ---- */

static void vocabulary(const char *path)
{
    pc_gguf *g = NULL;
    pc_gguf_span *tokens = NULL, *merges = NULL;
    int32_t *types = NULL;
    float *scores = NULL;
    int64_t n = 0, merge_count = 0, type_count = 0, score_count = 0, bos = -1;
    char *model = NULL;
    printf("%s\n", path);
    CHECK(!pc_gguf_open(&g, path));
    if (!g) return;
    CHECK(!pc_gguf_text(&model, g, "tokenizer.ggml.model") && model);
    CHECK(!pc_gguf_strings(&tokens, &n, g, "tokenizer.ggml.tokens") && n > 1000);
    CHECK(!pc_gguf_strings(&merges, &merge_count, g, "tokenizer.ggml.merges"));
    CHECK(!pc_gguf_ints(&types, &type_count, g, "tokenizer.ggml.token_type") && type_count == n);
    CHECK(!pc_gguf_reals(&scores, &score_count, g, "tokenizer.ggml.scores"));
    CHECK(!pc_gguf_int(&bos, g, "tokenizer.ggml.bos_token_id", PC_GGUF_NEEDED, 0, n - 1));
    const bool pieces = model && !strcmp(model, "llama");
    CHECK(pieces ? score_count == n && !merge_count : merge_count > 1000);
    if (pieces) CHECK(has_text(g, "general.architecture", "llama"));
    for (int64_t i = 0; i < pc_gguf_key_count(g); i++) {
        const pc_gguf_value v = pc_gguf_key_at(g, i);
        char buf[64];
        CHECK(strlen(pc_gguf_value_text(&v, buf, sizeof buf)) > 0);
    }
    free(model);
    free(tokens);
    free(merges);
    free(types);
    free(scores);
    pc_gguf_close(g);
}

static void vocabularies(void)
{
    const char *found = shared_path("tokenizers");
    char dir[1024], path[2048];
    if (!found) return;
    snprintf(dir, sizeof dir, "%s", found);
    DIR *d = opendir(dir);
    int seen = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        const size_t n = strlen(e->d_name);
        if (n < 5 || strcmp(e->d_name + n - 5, ".gguf")) continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        vocabulary(path);
        seen++;
    }
    if (d) closedir(d);
    CHECK(seen >= 4);
}

int main(void)
{
    halves();
    block_goldens();
    sample();
    vocabularies();
    return check_report("GGUF against the reference");
}

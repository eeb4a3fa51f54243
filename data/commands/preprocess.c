/*
 * preprocess.c - percept-data preprocess: what the model sees, written as its processor would hand it over.
 *
 *   squares   pixel_values (images, 3, S, S)
 *   tiles     pixel_values (images, crops, 3, S, S), fewer crops filled up with zeros; image_sizes (images, 2): h, w
 *   patches   pixel_values (patches of all images, 3 t p p); image_grid_thw (images, 3)
 *   hybrid    pixel_values (images, 3, S, S); high_res_pixel_values (images, 3, S2, S2)
 */
#include "checkpoints/hf.h"
#include "data/commands/commands.h"
#include "data/images/prepared.h"
#include "model/core/file.h"

#include <stdlib.h>
#include <string.h>

/* ---- the settings ---- */

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

// A directory whose network is not known is asked for its image settings alone.
static pc_status dir_settings(pc_image_config *out, bool *found, const char *dir)
{
    static const char *const names[3] = {"preprocessor_config.json", "processor_config.json",
                                         "config.json"};
    json_t *json[3] = {NULL, NULL, NULL};
    pc_status st = PC_OK;
    for (int i = 0; i < 3 && !st; i++) st = pc_hf_json(&json[i], dir, names[i]);
    if (!st)
        st = pc_context(pc_image_config_from_files(out, found, json[0], json[1], json[2]), "'%s'",
                        dir);
    for (int i = 0; i < 3; i++) json_decref(json[i]);
    return st;
}

static pc_status file_settings(pc_image_config *out, const char *path)
{
    json_error_t e;
    char *text = NULL;
    size_t size = 0;
    pc_status st = pc_file_read(&text, &size, path, (size_t)1 << 20);
    if (st) return st;
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e);
    free(text);
    if (!json)
        return pc_fail(PC_ERR_FORMAT, "'%s' line %d, column %d: %s", path, e.line, e.column,
                       e.text);
    st = pc_context(pc_image_config_from_hf(out, json), "'%s'", path);
    json_decref(json);
    return st;
}

static pc_status read_settings(pc_image_config *out, const char *model)
{
    bool found = true;
    pc_status st = PC_OK;
    if (pc_is_dir(model)) {
        st = dir_settings(out, &found, model);
    } else if (ends_in(model, ".json")) {
        st = file_settings(out, model);
    } else {
        pc_bundle b;
        if ((st = pc_bundle_open_light(&b, model))) return st;
        *out = b.image;
        found = b.has_image;
        pc_bundle_close(&b);
    }
    if (!st && !found)
        st = pc_fail(PC_ERR_INPUT, "'%s' does not say how images are prepared", model);
    return st;
}

/* ---- tensors ---- */

// All images, and what is written of them.
typedef struct batch {
    int64_t n, rows, most; // images; rows of all of them; the most crops of one
    pc_prepared *images;   // (n)
    float *pixels, *high;
    int64_t *sizes; // (n, 2) or (n, 3)
} batch;

static void batch_close(batch *b)
{
    for (int64_t i = 0; i < b->n; i++) pc_prepared_close(&b->images[i]);
    free(b->images);
    free(b->pixels);
    free(b->high);
    free(b->sizes);
}

static pc_status read_images(batch *b, char **paths, const pc_image_config *c)
{
    for (int64_t i = 0; i < b->n; i++) {
        pc_image im;
        pc_status st = pc_image_open_as(&im, paths[i], c);
        if (st) return st;
        st = pc_image_prepare(&b->images[i], &im, c, 1);
        pc_image_close(&im);
        if (st) return pc_context(st, "'%s'", paths[i]);
        const int64_t rows = b->images[i].shape.rows;
        b->rows += rows;
        if (rows > b->most) b->most = rows;
    }
    return PC_OK;
}

static pc_status join(batch *b)
{
    const pc_image_shape *first = &b->images[0].shape;
    const int64_t row = first->row, high = 3 * first->high * first->high;
    const bool padded = first->kind == PC_IMAGE_TILES;
    const int64_t rows = padded ? b->n * b->most : b->rows;
    b->pixels = calloc((size_t)(rows * row), sizeof *b->pixels);
    b->sizes = malloc((size_t)(3 * b->n) * sizeof *b->sizes);
    if (high) b->high = malloc((size_t)(b->n * high) * sizeof *b->high);
    if (!b->pixels || !b->sizes || (high && !b->high))
        return pc_fail(PC_ERR_MEMORY, "%lld x %lld pixel values", (long long)rows, (long long)row);
    for (int64_t i = 0, at = 0; i < b->n; i++) {
        const pc_prepared *p = &b->images[i];
        const pc_image_shape *s = &p->shape;
        memcpy(b->pixels + (padded ? i * b->most : at) * row, p->pixels,
               (size_t)(s->rows * row) * sizeof *p->pixels);
        at += s->rows;
        if (high) memcpy(b->high + i * high, p->high, (size_t)high * sizeof *p->high);
        if (padded) {
            b->sizes[2 * i] = s->height;
            b->sizes[2 * i + 1] = s->width;
        } else {
            memcpy(b->sizes + 3 * i, s->grid, sizeof s->grid);
        }
    }
    return PC_OK;
}

static pc_st_out tensor(const char *name, pc_dtype dtype, const void *data, int rank,
                        const int64_t *dim)
{
    pc_st_out t = {.dtype = dtype, .rank = rank, .data = data};
    snprintf(t.name, sizeof t.name, "%s", name);
    memcpy(t.dim, dim, (size_t)rank * sizeof *dim);
    return t;
}

static int list_tensors(pc_st_out out[2], const batch *b)
{
    const pc_image_shape *s = &b->images[0].shape;
    const int64_t S = s->size, H = s->high, n = b->n;
    switch (s->kind) {
    case PC_IMAGE_SQUARE:
    case PC_IMAGE_HYBRID:
        out[0] = tensor("pixel_values", PC_F32, b->pixels, 4, (int64_t[]){n, 3, S, S});
        out[1] = tensor("high_res_pixel_values", PC_F32, b->high, 4, (int64_t[]){n, 3, H, H});
        return H ? 2 : 1;
    case PC_IMAGE_TILES:
        out[0] = tensor("pixel_values", PC_F32, b->pixels, 5, (int64_t[]){n, b->most, 3, S, S});
        out[1] = tensor("image_sizes", PC_I64, b->sizes, 2, (int64_t[]){n, 2});
        return 2;
    case PC_IMAGE_PATCHES: break;
    }
    out[0] = tensor("pixel_values", PC_F32, b->pixels, 2, (int64_t[]){b->rows, s->row});
    out[1] = tensor("image_grid_thw", PC_I64, b->sizes, 2, (int64_t[]){n, 3});
    return 2;
}

static void print_tensors(const char *path, const pc_st_out *list, int n)
{
    printf("%s:", path);
    for (int i = 0; i < n; i++) {
        printf("%s %s (", i ? "," : "", list[i].name);
        for (int d = 0; d < list[i].rank; d++)
            printf("%s%lld", d ? "," : "", (long long)list[i].dim[d]);
        printf(")");
    }
    printf("\n");
}

static pc_status preprocess(const char *model, char **paths, int n, const char *out)
{
    pc_image_config c;
    batch b = {.n = n};
    pc_st_out list[2];
    int count = 0;
    pc_status st = read_settings(&c, model);
    if (st) return st;
    b.images = calloc((size_t)n, sizeof *b.images);
    if (!b.images) return pc_fail(PC_ERR_MEMORY, "%d images", n);
    if ((st = read_images(&b, paths, &c)) || (st = join(&b))) goto out;
    count = list_tensors(list, &b);
    st = pc_safetensors_write(out, list, count, NULL);
    if (!st) print_tensors(out, list, count);
out:
    batch_close(&b);
    return st ? st : data_flush();
}

pc_status data_preprocess(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-data preprocess runs/quickstart/tune/checkpoints/best.h5 a.jpg --out "
        "a.safetensors",
        "percept-data preprocess llava-v1.6-mistral-7b-hf a.png b.png --out pixels.safetensors",
        "percept-data preprocess Qwen2-VL-2B-Instruct/preprocessor_config.json a.png --out "
        "a.safetensors",
        NULL,
    };
    const char *out = NULL;
    const pc_cli_flag flags[] = {
        {"out", PC_CLI_STRING, &out, "FILE", "the safetensors file to write", 0, 0, NULL},
    };
    const pc_cli cli = {
        .command = "percept-data preprocess",
        .usage = "MODEL IMAGE...",
        .about =
            "Decodes, fits, resizes and normalises images as MODEL is given them in training and "
            "in use, and writes `pixel_values`, float32, of the model's own shape: (images, 3, "
            "size, size); with `image_sizes`, (images, crops, 3, size, size) of models that cut "
            "into tiles; with `image_grid_thw`, rows of patches; with `high_res_pixel_values`, two "
            "squares. MODEL may be a preprocessor_config.json alone.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags,
        .min_args = 2,
        .max_args = -1,
        .examples = examples,
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;
    if (!out) return pc_fail(PC_ERR_USAGE, "percept-data preprocess needs --out FILE");
    return preprocess(args[0], args + 1, n - 1, out);
}

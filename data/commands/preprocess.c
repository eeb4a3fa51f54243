/*
 * preprocess.c - percept-data preprocess: pixel values exactly as the model sees them.
 */
#include "data/commands/commands.h"

#include <stdlib.h>
#include <string.h>

static pc_status read_images(float *pixels, char **paths, int n, const pc_image_config *c)
{
    for (int i = 0; i < n; i++) {
        pc_image im;
        pc_status st = pc_image_open(&im, paths[i], c->orient);
        if (st) return st;
        st = pc_image_preprocess(pixels + (int64_t)i * 3 * c->size * c->size, &im, c);
        pc_image_close(&im);
        if (st) return pc_context(st, "'%s'", paths[i]);
    }
    return PC_OK;
}

static pc_status preprocess(const char *model, char **paths, int n, const char *out)
{
    pc_bundle b;
    pc_status st = pc_bundle_open_light(&b, model);
    if (st) return st;
    const pc_image_config c = b.image;
    const bool has_image = b.has_image;
    pc_bundle_close(&b);
    if (!has_image)
        return pc_fail(PC_ERR_INPUT, "'%s' does not say how images are prepared", model);

    float *pixels = malloc((size_t)n * 3 * (size_t)(c.size * c.size) * sizeof *pixels);
    if (!pixels) return pc_fail(PC_ERR_MEMORY, "%d images of %lld pixels", n, (long long)c.size);
    if (!(st = read_images(pixels, paths, n, &c))) {
        const pc_st_out tensor = {.name = "pixel_values",
                                  .dtype = PC_F32,
                                  .rank = 4,
                                  .dim = {n, 3, c.size, c.size},
                                  .data = pixels};
        st = pc_safetensors_write(out, &tensor, 1, NULL);
    }
    free(pixels);
    if (st) return st;
    printf("%s: pixel_values (%d,3,%lld,%lld)\n", out, n, (long long)c.size, (long long)c.size);
    return data_flush();
}

pc_status data_preprocess(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-data preprocess runs/quickstart/tune/checkpoints/best.h5 a.jpg --out "
        "a.safetensors",
        "percept-data preprocess llava-1.5-7b-hf a.png b.png --out pixels.safetensors",
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
            "in use, and writes `pixel_values` (images, 3, size, size), float32.",
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

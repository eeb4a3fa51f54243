/*
 * report_samples.c - validation images with what the model makes of them.
 *
 * Pictures go into the page as PNG, large ones made smaller first.
 */
#include "train/report.h"

#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function" // judged at the end of the file
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

enum { SHOWN_SIDE = 224 };

// ---- pictures ------------------------------------------------------------------------------------

typedef struct bytes {
    unsigned char *data;
    size_t n;
    bool failed;
} bytes;

static void collect_bytes(void *arg, void *data, int size)
{
    bytes *b = arg;
    unsigned char *grown = realloc(b->data, b->n + (size_t)size);
    if (!grown) {
        b->failed = true;
        return;
    }
    memcpy(grown + b->n, data, (size_t)size);
    b->data = grown;
    b->n += (size_t)size;
}

static void base64(FILE *out, const unsigned char *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        const unsigned a = p[i], b = i + 1 < n ? p[i + 1] : 0u, c = i + 2 < n ? p[i + 2] : 0u;
        const unsigned word = a << 16 | b << 8 | c;
        fputc(digits[word >> 18], out);
        fputc(digits[word >> 12 & 63u], out);
        fputc(i + 1 < n ? digits[word >> 6 & 63u] : '=', out);
        fputc(i + 2 < n ? digits[word & 63u] : '=', out);
    }
}

// At most SHOWN_SIDE pixels on the longer side; small pictures are left as they are.
pc_status report_picture(FILE *out, const run *u, const char *path)
{
    pc_image image, small = {0};
    pc_status st = pc_image_open(&image, path, u->image.orient);
    if (st) return st;
    const int64_t longest = image.width > image.height ? image.width : image.height;
    const pc_image *shown = &image;
    if (longest > SHOWN_SIDE) {
        const int64_t w = (image.width * SHOWN_SIDE + longest - 1) / longest;
        const int64_t h = (image.height * SHOWN_SIDE + longest - 1) / longest;
        st = pc_image_resize(&small, &image, w, h, u->image.filter);
        shown = &small;
    }
    bytes png = {0};
    if (!st && (!stbi_write_png_to_func(collect_bytes, &png, (int)shown->width, (int)shown->height,
                                        3, shown->rgb, (int)(3 * shown->width)) ||
                png.failed))
        st = pc_fail(PC_ERR_MEMORY, "picture of '%s'", path);
    if (!st) {
        fprintf(out, "<img alt='' src='data:image/png;base64,");
        base64(out, png.data, png.n);
        fprintf(out, "'>");
    }
    free(png.data);
    pc_image_close(&small);
    pc_image_close(&image);
    return st;
}

// ---- two towers: captions found ------------------------------------------------------------------

static double dot(pc_tensor A, int64_t i, pc_tensor B, int64_t j)
{
    double sum = 0.0;
    for (int64_t k = 0; k < A.dim[1]; k++) sum += (double)pc_f32(A, i)[k] * (double)pc_f32(B, j)[k];
    return sum;
}

// The caption nearest to image row i, and the rank (from 1) of its own.
static int64_t nearest(pc_tensor U, pc_tensor V, int64_t i, int64_t *rank)
{
    const double own = dot(U, i, V, i);
    int64_t best = 0;
    double most = -2.0;
    *rank = 1;
    for (int64_t j = 0; j < V.dim[0]; j++) {
        const double s = dot(U, i, V, j);
        if (s > most) most = s, best = j;
        if (s > own) ++*rank;
    }
    return best;
}

static pc_status caption_cards(FILE *out, run *u, int64_t count, pc_tensor U, pc_tensor V,
                               const int64_t *row_sample)
{
    pc_status st = PC_OK;
    const int64_t rows = U.dim[0];
    for (int64_t k = 0; k < count && k < rows && !st; k++) {
        const int64_t i = k * rows / (count < rows ? count : rows);
        int64_t rank;
        const int64_t found = nearest(U, V, i, &rank);
        const pc_sample *own = &u->shown.samples[row_sample[i]];
        const pc_sample *other = &u->shown.samples[row_sample[found]];
        fprintf(out, "<div class=sample>");
        if ((st = report_picture(out, u, own->image))) break;
        fprintf(out, "<dl><dt>its caption</dt><dd>");
        html_text(out, own->captions[0]);
        fprintf(out, "</dd><dt>nearest of %lld</dt><dd class=%s>", (long long)rows,
                rank == 1 ? "ok" : "no");
        html_text(out, other->captions[0]);
        fprintf(out, "</dd><dd><small>its own is number %lld</small></dd></dl></div>\n",
                (long long)rank);
    }
    return st;
}

static pc_status tower_samples(FILE *out, run *u, int64_t count)
{
    const int64_t n = u->shown.count, E = u->model->config.clip.text.E;
    float *numbers = malloc((size_t)(2 * n * E + 1) * sizeof *numbers);
    int64_t *row_sample = malloc((size_t)(n + 1) * sizeof *row_sample), rows = 0;
    double loss;
    if (!numbers || !row_sample) {
        free(numbers);
        free(row_sample);
        return pc_fail(PC_ERR_MEMORY, "report");
    }
    const pc_tensor U = pc_view2(numbers, PC_F32, n, E);
    const pc_tensor V = pc_view2(numbers + n * E, PC_F32, n, E);
    pc_status st = validation_embed(u, U, V, row_sample, &rows, &loss);
    if (!st)
        st = caption_cards(out, u, count, pc_rows(U, 0, rows), pc_rows(V, 0, rows), row_sample);
    free(numbers);
    free(row_sample);
    return st;
}

pc_status report_samples(FILE *out, run *u, int64_t count)
{
    fprintf(out, "<h2>Examples from validation</h2><div class=samples>\n");
    pc_status st = u->model->config.kind == PC_MODEL_CLIP ? tower_samples(out, u, count)
                                                          : report_answers(out, u, count);
    fprintf(out, "</div>\n");
    return pc_context(st, "examples");
}

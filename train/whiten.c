/*
 * whiten.c - see whiten.h. Sums run in double.
 */
#include "train/whiten.h"

#include "model/core/log.h"
#include "model/core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double RIDGE = 0.05; // of the mean variance: the finest directions are mostly noise
static const double SAME = 1e-10; // a variance of rounding alone: pixels are of size 1

// ---- one layer -----------------------------------------------------------------------------------

// mean (n), the lower half of S (n,n), and the mean variance before the ridge.
static double moments(double *mean, double *S, const float *x, int64_t N, int64_t n)
{
    for (int64_t k = 0; k < N; k++)
        for (int64_t i = 0; i < n; i++) mean[i] += (double)x[k * n + i] / (double)N;
    for (int64_t k = 0; k < N; k++)
        for (int64_t i = 0; i < n; i++) {
            const double a = ((double)x[k * n + i] - mean[i]) / (double)N;
            for (int64_t j = 0; j <= i; j++) S[i * n + j] += a * ((double)x[k * n + j] - mean[j]);
        }
    double trace = 0.0;
    for (int64_t i = 0; i < n; i++) trace += S[i * n + i];
    for (int64_t i = 0; i < n; i++) S[i * n + i] += RIDGE * trace / (double)n;
    return trace / (double)n;
}

// S = L L^T in place (lower half). The ridge makes every S positive.
static void factor(double *S, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = S[i * n + j];
            for (int64_t k = 0; k < j; k++) sum -= S[i * n + k] * S[j * n + k];
            S[i * n + j] = j < i ? sum / S[j * n + j] : sqrt(sum);
        }
}

// w <- w L^-1 for one row, from the last column on: L is lower.
static void solve_row(double *w, const double *L, int64_t n)
{
    for (int64_t j = n - 1; j >= 0; j--) {
        w[j] /= L[j * n + j];
        for (int64_t i = 0; i < j; i++) w[i] -= w[j] * L[j * n + i];
    }
}

pc_status whiten_layer(float *W, float *b, int64_t O, const float *x, int64_t N, int64_t n)
{
    double *mean = calloc((size_t)n, sizeof *mean), *row = malloc((size_t)n * sizeof *row);
    double *S = calloc((size_t)(n * n), sizeof *S);
    pc_status st = PC_OK;

    if (!mean || !row || !S) {
        st = pc_fail(PC_ERR_MEMORY, "covariance of patches of %lld numbers", (long long)n);
        goto out;
    }
    if (!(moments(mean, S, x, N, n) > SAME)) {
        st = pc_fail(PC_ERR_INPUT, "%lld patches of the training images are all the same",
                     (long long)N);
        goto out;
    }
    factor(S, n);
    for (int64_t o = 0; o < O; o++) {
        double length = 0.0, shift = 0.0;
        for (int64_t i = 0; i < n; i++) length += (double)W[o * n + i] * (double)W[o * n + i];
        length = length > 0.0 ? sqrt(length) : 1.0;
        for (int64_t i = 0; i < n; i++) row[i] = (double)W[o * n + i] / length;
        solve_row(row, S, n);
        for (int64_t i = 0; i < n; i++) {
            W[o * n + i] = (float)row[i];
            shift += row[i] * mean[i];
        }
        if (b) b[o] = (float)-shift;
    }
out:
    free(mean);
    free(row);
    free(S);
    return st;
}

// ---- patches of the training images --------------------------------------------------------------

typedef struct gathering {
    float *x; // (N,n)
    int64_t N, n, k, S;
    float *pixels; // (3,S,S)
} gathering;

// `count` patches of the image in `pixels`, at random places; in the order of im2col: channel, row, column.
static void cut(gathering *g, int64_t count, const pc_rng_key *key)
{
    const uint64_t places = (uint64_t)(g->S - g->k + 1);
    for (int64_t p = 0; p < count; p++) {
        const int64_t top = (int64_t)pc_rng_below(key, (uint64_t)(2 * p), places);
        const int64_t left = (int64_t)pc_rng_below(key, (uint64_t)(2 * p + 1), places);
        float *out = g->x + g->N++ * g->n;
        for (int64_t row = 0; row < 3 * g->k; row++)
            memcpy(out + row * g->k,
                   g->pixels + (row / g->k * g->S + top + row % g->k) * g->S + left,
                   (size_t)g->k * sizeof *out);
    }
}

static pc_status gather(gathering *g, const pc_dataset *data, const pc_image_config *image,
                        bool skip, uint64_t seed)
{
    const int64_t images = data->count < WHITEN_IMAGES ? data->count : WHITEN_IMAGES;
    const int64_t each = images > 0 ? (WHITEN_PATCHES + images - 1) / images : 0;
    g->x = malloc((size_t)(images * each * g->n + 1) * sizeof *g->x);
    g->pixels = malloc((size_t)(3 * g->S * g->S) * sizeof *g->pixels);
    if (!g->x || !g->pixels) return pc_fail(PC_ERR_MEMORY, "%d patches", WHITEN_PATCHES);
    for (int64_t i = 0; i < images; i++) {
        const int64_t at = i * data->count / images; // evenly spread
        const pc_rng_key key = {seed, PC_STREAM_PATCHES, (uint64_t)i};
        pc_image picture = {0};
        if (!data->samples[at].image) continue;
        pc_status st = pc_image_open_as(&picture, data->samples[at].image, image);
        if (!st) st = pc_image_preprocess(g->pixels, &picture, image);
        pc_image_close(&picture);
        if (st && (!skip || st == PC_ERR_MEMORY)) return st;
        if (!st) cut(g, each, &key);
    }
    return g->N ? PC_OK : pc_fail(PC_ERR_INPUT, "no training sample has an image to look at");
}

pc_status whiten_stem(pc_vision *tower, const pc_dataset *data, const pc_image_config *image,
                      bool skip, uint64_t seed)
{
    pc_linear *l = &tower->stem[0];
    const int64_t k = tower->config.stem == PC_STEM_CONV ? 3 : tower->config.patch;
    gathering g = {.n = 3 * k * k, .k = k, .S = image->size};

    PC_ASSERT(tower->stems > 0 && l->I == g.n && image->size >= k, "stem of %lld numbers, %lld px",
              (long long)l->I, (long long)image->size);
    if (g.n > WHITEN_LARGEST)
        return pc_fail(PC_ERR_INPUT,
                       "patches of %lld x %lld px are too many numbers to whiten; expected at most "
                       "16 x 16 px, or a conv stem",
                       (long long)k, (long long)k);
    pc_status st = gather(&g, data, image, skip, seed);
    if (!st)
        st = whiten_layer(l->weight.w.data, pc_present(l->bias.w) ? l->bias.w.data : NULL, l->O,
                          g.x, g.N, g.n);
    free(g.x);
    free(g.pixels);
    return st;
}

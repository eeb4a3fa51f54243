/*
 * test_whiten.c - a first layer before whitened patches: what comes out of it is white, up to the ridge; the tower of
 * a run is changed so, stays so where the recipe says it, and what cannot be is refused.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/rng.h"
#include "tests/support/scratch.h"
#include "tests/support/small_run.h"
#include "train/loop.h"
#include "train/run.h"
#include "train/whiten.h"

static int failed;

static void expect(bool ok, const char *what, double seen)
{
    printf("%s %s: %.3g\n", ok ? "ok    " : "FAILED", what, seen);
    failed += !ok;
}

enum { N = 4000, D = 12, O = 12 };

static float x[N * D], W[O * D], b[O], Y[N * O];

// Patches whose numbers nearly agree, around a mean: what pixels are like.
static void draw(void)
{
    const pc_rng_key key = {.seed = 4, .stream = PC_STREAM_TEST};
    uint64_t at = 0;
    for (int n = 0; n < N; n++) {
        const double all = pc_rng_normal(&key, at++);
        for (int i = 0; i < D; i++)
            x[n * D + i] = (float)(0.7 + all + 0.2 * (1 + i % 3) * pc_rng_normal(&key, at++));
    }
    memset(W, 0, sizeof W);
    for (int o = 0; o < O; o++) W[o * D + o] = 3.0f; // rows of another length than 1
}

// Mean and covariance of y = W x + b, summed plainly.
static void outputs(double *mean, double *cov)
{
    for (int o = 0; o < O; o++) mean[o] = 0.0;
    for (int i = 0; i < O * O; i++) cov[i] = 0.0;
    for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++) {
            double y = (double)b[o];
            for (int i = 0; i < D; i++) y += (double)W[o * D + i] * (double)x[n * D + i];
            Y[n * O + o] = (float)y;
            mean[o] += y / N;
        }
    for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++)
            for (int p = 0; p < O; p++)
                cov[o * O + p] +=
                    ((double)Y[n * O + o] - mean[o]) * ((double)Y[n * O + p] - mean[p]) / N;
}

static double spread(const double *cov) // of the outputs' correlations
{
    double most = 0.0;
    for (int o = 0; o < O; o++)
        for (int p = 0; p < o; p++)
            most = fmax(most, fabs(cov[o * O + p]) / sqrt(cov[o * O + o] * cov[p * O + p]));
    return most;
}

static void layer(void)
{
    double mean[O], cov[O * O], most = 0.0, least = 1e9, shift = 0.0;
    draw();
    outputs(mean, cov);
    expect(spread(cov) > 0.9, "the numbers of a patch nearly agree", spread(cov));
    if (whiten_layer(W, b, O, x, N, D)) expect(false, pc_error_text(), 0);
    outputs(mean, cov);
    for (int o = 0; o < O; o++) {
        shift = fmax(shift, fabs(mean[o]));
        most = fmax(most, cov[o * O + o]);
        least = fmin(least, cov[o * O + o]);
    }
    // The ridge is 0.05 of the mean variance (1.17): beside noise of 0.04 to 0.36 it holds variances below 1.
    expect(shift < 1e-5, "means of the outputs", shift); // seen 4e-7
    expect(most < 1.0 && least > 0.3, "least variance of an output", least);
    expect(spread(cov) < 0.2, "largest correlation of two outputs", spread(cov));
    for (int i = 0; i < N * D; i++) x[i] = 0.5f;
    expect(whiten_layer(W, b, O, x, N, D) == PC_ERR_INPUT, "patches that are all the same", 0);
}

static const char *const plain[] = {"model.shape.vision.patch_bias=true", NULL};
static const char *const white[] = {"model.shape.vision.patch_bias=true", "model.stem=whitened",
                                    "optim.lr_scale.stem=0", NULL};
static const char *const moving[] = {"model.shape.vision.patch_bias=true", "model.stem=whitened",
                                     NULL};

// The first layer of a run as it begins (steps: none) or as it ends; n numbers.
static int64_t first_layer(float *to, const char *out, const char *const *sets, bool trained)
{
    recipe r;
    run u;
    char path[4096];
    small_recipe(&r, "pretrain", out, sets);
    if (trained && loop_train(&r, false)) expect(false, pc_error_text(), 0);
    snprintf(path, sizeof path, "%s/checkpoints/last.h5", r.top.out);
    if (run_open(&u, &r, trained ? path : NULL, false)) {
        expect(false, pc_error_text(), 0);
        exit(1);
    }
    const pc_weight *w = &u.model->clip.vision.stem[0].weight;
    const int64_t n = pc_numel(w->w);
    memcpy(to, w->w.data, (size_t)n * sizeof *to);
    run_close(&u);
    recipe_close(&r);
    return n;
}

static void runs(void)
{
    enum { MOST = 16 * 3 * 64 };
    static float a[MOST], c[MOST], d[MOST];
    const size_t bytes = (size_t)first_layer(a, "plain", plain, false) * sizeof *a;
    first_layer(c, "white", white, false);
    expect(memcmp(a, c, bytes) != 0, "whitened, another layer", 0);
    first_layer(d, "white-again", white, false);
    expect(!memcmp(c, d, bytes), "... the same each time", 0);
    first_layer(d, "white", white, true);
    expect(!memcmp(c, d, bytes), "lr_scale.stem: 0, it stays through training", 0);
    first_layer(d, "moving", moving, true);
    expect(memcmp(c, d, bytes) != 0, "without, it moves", 0);
}

static void refused(const char *stage, const char *const *sets, const char *word)
{
    recipe r;
    run u = {0};
    pc_status st = small_recipe_try(&r, stage, "refused", sets);
    if (!st) {
        st = run_open(&u, &r, NULL, false);
        run_close(&u);
        recipe_close(&r);
    }
    expect(st == PC_ERR_INPUT && strstr(pc_error_text(), word), word, 0);
}

int main(void)
{
    static const char *const large[] = {"model.stem=whitened", "model.shape.vision.patch=32", NULL};
    static const char *const tower[] = {"model.stem=whitened", "model.vision_from=x.h5", NULL};
    scratch_open();
    layer();
    runs();
    refused("pretrain", large, "16 x 16");
    refused("tune", tower, "vision_from brings its own");
    scratch_close();
    return failed != 0;
}

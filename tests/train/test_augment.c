/*
 * test_augment.c - varied images and captions: what changes, what stays, and that it can be had again.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/augment.h"

static int failed;

static void expect(bool ok, const char *what, double seen)
{
    printf("%s %s: %g\n", ok ? "ok    " : "FAILED", what, seen);
    failed += !ok;
}

enum { S = 8, IMAGES = 40, ONE = 3 * S * S };

static float pixels[IMAGES * ONE], before[IMAGES * ONE], other[IMAGES * ONE];

static void draw(void)
{
    const pc_rng_key key = {.seed = 1, .stream = PC_STREAM_TEST};
    for (int i = 0; i < IMAGES * ONE; i++) {
        pixels[i] = (float)pc_rng_normal(&key, (uint64_t)i);
        before[i] = pixels[i];
    }
}

static pc_batch batch_of(pc_micro_batch *micro, int micros)
{
    const int each = IMAGES / micros;
    for (int m = 0; m < micros; m++)
        micro[m] =
            (pc_micro_batch){.samples = each,
                             .pixels = pc_view4(pixels + m * each * ONE, PC_F32, each, 3, S, S)};
    return (pc_batch){.step = 7, .micro = micro, .micros = micros};
}

static void run(augment a, int micros, pc_pool *pool, int64_t step)
{
    pc_micro_batch micro[4];
    pc_batch b = batch_of(micro, micros);
    b.step = step;
    draw();
    if (augment_open(&a, S, pool)) expect(false, pc_error_text(), 0);
    augment_batch(&a, &b);
    augment_close(&a);
}

static bool is_mirror(const float *x, const float *y)
{
    for (int c = 0; c < 3; c++)
        for (int row = 0; row < S; row++)
            for (int col = 0; col < S; col++) {
                const int line = (c * S + row) * S;
                if (fabsf(x[line + col] - y[line + S - 1 - col]) > 1e-6f) return false;
            }
    return true;
}

static void images(void)
{
    const augment none = {.crop = 1.0};
    expect(!augment_wanted(&none), "nothing wanted", 0);
    int mirrored = 0, same = 0;
    run((augment){.crop = 1.0, .flip = true, .seed = 3}, 1, NULL, 7);
    for (int i = 0; i < IMAGES; i++) {
        const bool whole = !memcmp(pixels + i * ONE, before + i * ONE, ONE * sizeof(float));
        same += whole;
        mirrored += !whole && is_mirror(pixels + i * ONE, before + i * ONE);
    }
    expect(same + mirrored == IMAGES && mirrored > 8 && same > 8, "flipped as wholes", mirrored);

    // Cropping stays inside what was there, and does something.
    run((augment){.crop = 0.5, .seed = 3}, 1, NULL, 7);
    double moved = 0.0;
    bool inside = true;
    for (int i = 0; i < IMAGES; i++)
        for (int c = 0; c < 3; c++) {
            const float *x = before + (i * 3 + c) * S * S, *y = pixels + (i * 3 + c) * S * S;
            float lo = x[0], hi = x[0];
            for (int k = 0; k < S * S; k++) lo = fminf(lo, x[k]), hi = fmaxf(hi, x[k]);
            for (int k = 0; k < S * S; k++) {
                inside = inside && y[k] >= lo - 1e-5f && y[k] <= hi + 1e-5f;
                moved += fabs((double)y[k] - (double)x[k]) / (IMAGES * ONE);
            }
        }
    expect(inside && moved > 0.3, "cropped, between the values that were there", moved);

    // A ramp stays one: sampling is where the formula says.
    augment a = {.crop = 0.4, .seed = 9};
    if (augment_open(&a, S, NULL)) expect(false, pc_error_text(), 0);
    float ramp[ONE], room[ONE];
    for (int i = 0; i < ONE; i++) ramp[i] = (float)(i % S);
    augment_image(&a, ramp, room, 1, 2);
    const float slope = ramp[4] - ramp[3];
    bool straight = slope > 0.39f && slope < 1.0f;
    for (int i = 2; i < S - 2; i++)
        straight = straight && fabsf(ramp[i + 1] - ramp[i] - slope) < 1e-5f;
    expect(straight, "slope of a cropped ramp", (double)slope);
    augment_close(&a);

    run((augment){.crop = 1.0, .colour = 0.3, .seed = 3}, 1, NULL, 7);
    const float gain = (pixels[1] - pixels[0]) / (before[1] - before[0]);
    const float offset = pixels[0] - gain * before[0];
    expect(fabsf(gain - 1.0f) <= 0.3f && fabsf(offset) <= 0.3f && gain != 1.0f, "colour gain",
           (double)gain);
    expect(fabsf(pixels[9] - (gain * before[9] + offset)) < 1e-5f, "one gain a channel", 0);
}

static void repeats(void)
{
    const augment a = {.crop = 0.6, .flip = true, .colour = 0.2, .seed = 5};
    pc_pool *pool;
    if (pc_pool_open(&pool, 3)) expect(false, pc_error_text(), 0);
    run(a, 1, NULL, 7);
    memcpy(other, pixels, sizeof pixels);
    run(a, 4, pool, 7);
    expect(!memcmp(other, pixels, sizeof pixels), "the same by threads and micro-batches", 0);
    run(a, 1, NULL, 8);
    expect(memcmp(other, pixels, sizeof pixels) != 0, "another step, other images", 0);
    pc_pool_close(pool);
}

static void captions(void)
{
    enum { N = 4000, KEEP = 3, BLANK = 0 };
    static int32_t ids[N];
    int hidden = 0, ends = 0;
    for (int n = 0; n < N; n++) ids[n] = n % 10 ? 5 + n % 7 : KEEP;
    pc_micro_batch micro = {.samples = 1, .text = {.ids = pc_view1(ids, PC_I32, N)}};
    const pc_batch b = {.step = 2, .micro = &micro, .micros = 1};
    augment a = {.crop = 1.0, .words = 0.3, .blank = BLANK, .keep = KEEP, .seed = 1};
    if (augment_open(&a, S, NULL)) expect(false, pc_error_text(), 0);
    augment_batch(&a, &b);
    augment_close(&a);
    for (int n = 0; n < N; n++) {
        hidden += ids[n] == BLANK;
        ends += ids[n] == KEEP;
    }
    expect(fabs(hidden / 3600.0 - 0.3) < 0.03, "share of words hidden", hidden / 3600.0);
    expect(ends == N / 10, "ends stay", ends);
}

int main(void)
{
    images();
    repeats();
    captions();
    return failed != 0;
}

/*
 * test_qwen.c - the eyes of Qwen2-VL and Qwen-VL against differences: the tower of patches with places in two
 * directions, the merger, the resampler with either grid, and a tower whose position table is of another grid.
 *
 * Each case is made again with each operation's backward broken (sabotage.h).
 */
#include <math.h>
#include <stdio.h>

#include "model/networks/qwen2_vision.h"
#include "model/networks/resampler.h"
#include "tests/support/sabotage.h"

enum { SEED = 31 };
#define TOLERANCE 1e-7 // seen 1.6e-9

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

/* ---------------------------------------------------------------------- Qwen2-VL's tower */

// Two frames of 4 x 2 patches, and one of 2 x 4.
static const pc_image_geometry images[] = {{.t = 2, .h = 4, .w = 2}, {.t = 1, .h = 2, .w = 4}};
enum { PATCHES = 24, MERGE = 2 };

typedef struct tower_case {
    pc_params params;
    pc_qwen2_vision tower;
    pc_tensor cols, w;
    bool merge; // the merger too
} tower_case;

static double tower_run(pc_ctx *ctx, void *arg, bool backward)
{
    tower_case *s = arg;
    pc_qwen2_vision_kept kept;
    const pc_tensor h = pc_qwen2_vision_forward(ctx, &kept, &s->tower, s->cols, images, 2);
    const pc_tensor y = s->merge ? pc_qwen2_merge_forward(ctx, &kept, &s->tower, h) : h;
    if (!backward) return gradcheck_dot(y, s->w);
    const bool tower = pc_qwen2_vision_trains(&s->tower);
    pc_tensor d = gradcheck_copy(ctx->act, s->w);
    if (s->merge) {
        const pc_tensor dh = tower ? pc_alloc_like(ctx->act, h) : PC_NONE;
        pc_qwen2_merge_backward(ctx, dh, &s->tower, &kept, d);
        d = dh;
    }
    if (tower) pc_qwen2_vision_backward(ctx, &s->tower, &kept, d);
    return gradcheck_dot(y, s->w);
}

static void test_tower(const char *label, bool merge, pc_recompute recompute, const char *frozen)
{
    const pc_vision_config c = {.C = 8,
                                .H = 2,
                                .F = 6,
                                .L = 2,
                                .patch = 2,
                                .frames = 2,
                                .theta = 20.0,
                                .act = PC_ACT_QUICK,
                                .eps = 1e-6,
                                .recompute = recompute};
    gradcheck g;
    tower_case s = {.merge = merge};
    gradcheck_open(&g, label, SEED, 2);
    check(pc_qwen2_vision_validate(&c, MERGE) == PC_OK, label);
    s.cols = gradcheck_random(&g, 1.0, PC_DIMS(PATCHES, pc_qwen2_patch_width(&c)));
    s.w = merge ? gradcheck_random(&g, 1.0, PC_DIMS(PATCHES / (MERGE * MERGE), 5))
                : gradcheck_random(&g, 1.0, PC_DIMS(PATCHES, c.C));
    pc_qwen2_vision_params(&s.params, &s.tower, &c, MERGE, 5);
    pc_qwen2_vision_tables(&s.tower, &g.hold, PC_F64);
    if (!merge) pc_params_train(&s.params, "projector.", false);
    if (frozen) check(pc_params_train(&s.params, frozen, false) > 0, frozen);
    gradcheck_params(&g, &s.params, 0.3);
    check(sabotage_check(&g, tower_run, &s, TOLERANCE), label);
    pc_qwen2_vision_close(&s.tower);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

/*
 * A row's angles depend on its own line and column: two frames with the same patches give the same features, and an
 * image alone what it gives among others.
 */
static double frames_run(pc_ctx *ctx, void *arg, bool backward)
{
    static const pc_image_geometry one = {.t = 1, .h = 2, .w = 4};
    tower_case *s = arg;
    pc_qwen2_vision_kept kept;
    double apart = 0.0;
    (void)backward;
    const pc_tensor last = pc_rows(s->cols, 16, PATCHES);
    const pc_tensor all = pc_qwen2_vision_forward(ctx, &kept, &s->tower, s->cols, images, 2);
    const pc_tensor alone = pc_qwen2_vision_forward(ctx, &kept, &s->tower, last, &one, 1);
    const double *a = all.data, *b = alone.data;
    for (int64_t i = 0; i < 8 * all.dim[1]; i++) {
        apart = fmax(apart, fabs(a[i] - a[8 * all.dim[1] + i]));
        apart = fmax(apart, fabs(a[16 * all.dim[1] + i] - b[i]));
    }
    return apart;
}

static void test_frames(void)
{
    const pc_vision_config c = {
        .C = 8, .H = 2, .F = 6, .L = 2, .patch = 2, .frames = 1, .theta = 20.0, .eps = 1e-6};
    gradcheck g;
    tower_case s = {0};
    gradcheck_open(&g, "frames", SEED, 2);
    s.cols = gradcheck_random(&g, 1.0, PC_DIMS(PATCHES, pc_qwen2_patch_width(&c)));
    double *x = s.cols.data;
    for (int64_t i = 0; i < 8 * s.cols.dim[1]; i++) x[8 * s.cols.dim[1] + i] = x[i];
    pc_qwen2_vision_params(&s.params, &s.tower, &c, MERGE, 5);
    pc_qwen2_vision_tables(&s.tower, &g.hold, PC_F64);
    gradcheck_params(&g, &s.params, 0.3);
    const double apart = gradcheck_once(&g, frames_run, &s, false);
    check(apart <= 1e-14, "frames see only themselves"); // seen 0
    pc_qwen2_vision_close(&s.tower);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

/* ---------------------------------------------------------------------------- the resampler */

typedef struct resampler_case {
    pc_params params;
    pc_resampler resampler;
    pc_tensor x, dx, w;
    int64_t P;
    bool want_dx;
} resampler_case;

static double resampler_run(pc_ctx *ctx, void *arg, bool backward)
{
    resampler_case *s = arg;
    pc_resampler_kept kept;
    const pc_tensor y = pc_resampler_forward(ctx, &kept, &s->resampler, s->x, s->P);
    if (backward)
        pc_resampler_backward(ctx, s->want_dx ? s->dx : PC_NONE, &s->resampler, &kept,
                              gradcheck_copy(ctx->act, s->w));
    return gradcheck_dot(y, s->w);
}

static void test_resampler(const char *label, int64_t P, const char *frozen, bool want_dx)
{
    const pc_resampler_config c = {.Q = 4, .C = 8, .H = 2, .I = 6, .eps = 1e-6};
    gradcheck g;
    resampler_case s = {.P = P, .want_dx = want_dx};
    gradcheck_open(&g, label, SEED, 2);
    check(pc_resampler_validate(&c, P) == PC_OK, label);
    if (want_dx)
        s.x = gradcheck_input(&g, &s.dx, "x", 1.0, PC_DIMS(2 * P, c.I));
    else
        s.x = gradcheck_random(&g, 1.0, PC_DIMS(2 * P, c.I));
    s.w = gradcheck_random(&g, 1.0, PC_DIMS(2 * c.Q, c.C));
    pc_resampler_params(&s.params, &s.resampler, &c);
    // Softmax does not see a number added to all keys: this gradient is rounding alone, and tested below.
    pc_params_train(&s.params, "projector.attn.k.bias", false);
    if (frozen) check(pc_params_train(&s.params, frozen, false) > 0, frozen);
    gradcheck_params(&g, &s.params, 0.4);
    check(sabotage_check(&g, resampler_run, &s, TOLERANCE), label);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

static double norm_of(pc_tensor x)
{
    return sqrt(gradcheck_dot(x, x));
}

static void test_key_bias(void)
{
    const pc_resampler_config c = {.Q = 4, .C = 8, .H = 2, .I = 6, .eps = 1e-6};
    gradcheck g;
    resampler_case s = {.P = 9};
    gradcheck_open(&g, "bias of the keys", SEED, 1);
    s.x = gradcheck_random(&g, 1.0, PC_DIMS(18, c.I));
    s.w = gradcheck_random(&g, 1.0, PC_DIMS(2 * c.Q, c.C));
    pc_resampler_params(&s.params, &s.resampler, &c);
    check(pc_params_train(&s.params, "projector.", true) > 0 &&
              !pc_params_find(&s.params, "projector.places")->trainable,
          "the table of places stays as it is");
    gradcheck_params(&g, &s.params, 0.4);
    pc_params_zero_grads(&s.params);
    gradcheck_once(&g, resampler_run, &s, true);
    const double zero = norm_of(s.resampler.k.bias.g), other = norm_of(s.resampler.v.bias.g);
    check(zero <= 1e-13 * other, "the bias of the keys has no gradient"); // seen 1e-16
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

/* The table of places as a fresh model has it: spec qwen-vl.md 1's own examples. */
static void test_places(void)
{
    const pc_resampler_config c = {.Q = 9, .C = 16, .H = 2, .I = 6, .eps = 1e-6};
    gradcheck g;
    pc_params p = {0};
    pc_resampler r;
    gradcheck_open(&g, "places", SEED, 1);
    pc_resampler_params(&p, &r, &c);
    pc_params_bind_weights(&p, &g.hold, PC_F64);
    pc_params_init(&p, 1);
    const double *x = r.places.w.data;
    double apart = 0.0;
    for (int64_t n = 0; n < c.Q; n++) {
        const double column = (double)(n % 3), line = (double)(n / 3), slow = pow(10000.0, -0.25);
        apart = fmax(apart, fabs(x[n * 16] - sin(column)));
        apart = fmax(apart, fabs(x[n * 16 + 4] - cos(column)));
        apart = fmax(apart, fabs(x[n * 16 + 8] - sin(line)));
        apart = fmax(apart, fabs(x[n * 16 + 12] - cos(line)));
        apart = fmax(apart, fabs(x[n * 16 + 13] - cos(line * slow)));
    }
    check(apart <= 1e-14, "sines and cosines of the grid"); // seen 0
    pc_params_close(&p);
    gradcheck_close(&g);
}

/* ---------------------------------------------- a tower whose table is of another grid */

typedef struct square_case {
    pc_params params;
    pc_vision tower;
    pc_tensor pixels, w;
} square_case;

static double square_run(pc_ctx *ctx, void *arg, bool backward)
{
    square_case *s = arg;
    pc_vision_kept kept;
    const pc_tensor y = pc_vision_forward(ctx, &kept, &s->tower, s->pixels, 1, false);
    if (backward) pc_vision_backward(ctx, &s->tower, &kept, gradcheck_copy(ctx->act, s->w));
    return gradcheck_dot(y, s->w);
}

static void test_table(void)
{
    const pc_vision_config c = {.image_size = 9,
                                .patch = 3,
                                .table = 2,
                                .C = 6,
                                .H = 2,
                                .F = 8,
                                .L = 1,
                                .pre_norm = true,
                                .act = PC_ACT_GELU,
                                .eps = 1e-6};
    gradcheck g;
    square_case s = {0};
    gradcheck_open(&g, "tower with a table of 2 x 2 for images of 3 x 3", SEED, 2);
    s.pixels = gradcheck_random(&g, 1.0, PC_DIMS(2, 3, 9, 9));
    s.w = gradcheck_random(&g, 1.0, PC_DIMS(18, c.C));
    pc_vision_params(&s.params, &s.tower, &c);
    gradcheck_params(&g, &s.params, 0.3);
    check(s.tower.positions.w.dim[0] == 4, "four rows of positions");
    check(sabotage_check(&g, square_run, &s, TOLERANCE), "table of another grid");
    pc_vision_close(&s.tower);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

int main(void)
{
    test_tower("patches: tower", false, PC_RECOMPUTE_NONE, NULL);
    test_tower("patches: tower and merger, recompute", true, PC_RECOMPUTE_BLOCK, NULL);
    test_tower("patches: tower frozen", true, PC_RECOMPUTE_NONE, "vision.");
    test_tower("patches: merger frozen", true, PC_RECOMPUTE_NONE, "projector.");
    test_tower("patches: norm of the merger frozen", true, PC_RECOMPUTE_NONE, "projector.norm");
    test_frames();
    test_resampler("resampler, the table's grid", 4, NULL, true);
    test_resampler("resampler, a larger grid", 9, NULL, true);
    test_resampler("resampler, no dx", 9, NULL, false);
    test_resampler("resampler, queries frozen", 9, "projector.query", true);
    test_resampler("resampler, attention frozen", 9, "projector.attn.", true);
    test_resampler("resampler, keys and values frozen, no dx", 9, "projector.kv", false);
    test_key_bias();
    test_places();
    test_table();
    return failures > 0;
}

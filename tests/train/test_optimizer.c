/*
 * test_optimizer.c - AdamW over a list of parameters: values, decay groups, clipping, the clamp, threads.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/optimizer.h"

static int failed;

static void expect(bool ok, const char *what, double seen, double wanted)
{
    printf("%s %s: %.10g, expected %.10g\n", ok ? "ok    " : "FAILED", what, seen, wanted);
    failed += !ok;
}

static void near(const char *what, double seen, double wanted, double tolerance)
{
    expect(fabs(seen - wanted) <= tolerance, what, seen, wanted);
}

enum { LISTED = 5 };

typedef struct model {
    pc_weight w[LISTED];
    pc_params params;
    pc_arena weights, grads;
    pc_pool *pool;
    optimizer opt;
} model;

// A matrix longer than a piece, a bias, a frozen matrix, the contrast's scale, a small matrix.
static void open_model(model *m, const optimizer_config *c, int threads)
{
    *m = (model){0};
    pc_param_add(&m->params, &m->w[0], "vision.big", PC_INIT_CONST, 1.0, 2, (int64_t[]){300, 200});
    pc_param_add(&m->params, &m->w[1], "vision.bias", PC_INIT_CONST, 1.0, 1, (int64_t[]){7});
    pc_param_add(&m->params, &m->w[2], "text.frozen", PC_INIT_CONST, 1.0, 2, (int64_t[]){3, 3});
    pc_param_add(&m->params, &m->w[3], "logit_scale", PC_INIT_CONST, 4.6, 1, (int64_t[]){1});
    pc_param_add(&m->params, &m->w[4], "text.small", PC_INIT_CONST, 1.0, 2, (int64_t[]){2, 2});
    pc_params_train(&m->params, "text.frozen", false);
    if (pc_arena_open(&m->weights, "w", pc_params_bytes(&m->params, PC_F32, false)) ||
        pc_arena_open(&m->grads, "g", pc_params_bytes(&m->params, PC_F32, true)) ||
        pc_pool_open(&m->pool, threads))
        printf("%s\n", pc_error_text());
    pc_params_bind_weights(&m->params, &m->weights, PC_F32);
    pc_params_bind_grads(&m->params, &m->grads, PC_F32);
    pc_params_init(&m->params, 1);
    if (optimizer_open(&m->opt, &m->params, c, m->pool)) printf("%s\n", pc_error_text());
}

static void close_model(model *m)
{
    optimizer_close(&m->opt);
    pc_pool_close(m->pool);
    pc_params_close(&m->params);
    pc_arena_close(&m->weights);
    pc_arena_close(&m->grads);
}

static void set_grads(model *m, float g)
{
    for (int i = 0; i < LISTED; i++)
        for (int64_t n = 0; pc_present(m->w[i].g) && n < pc_numel(m->w[i].g); n++)
            ((float *)m->w[i].g.data)[n] = g;
}

static float first(const model *m, int i)
{
    return *(const float *)m->w[i].w.data;
}

// w = 1, gradients 0.1, -0.2, 0.05, lr 1e-3, wd 0.1 (spec: training.md 1).
static void values(void)
{
    const optimizer_config c = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1};
    const float g[] = {0.1f, -0.2f, 0.05f};
    const double want[] = {0.9989000001, 0.9991662136038749, 0.9992029876352317};
    model m;
    open_model(&m, &c, 1);
    for (int s = 0; s < 3; s++) {
        set_grads(&m, g[s]);
        optimizer_step(&m.opt, 1e-3, optimizer_norm(&m.opt));
        near("w with decay", (double)first(&m, 0), want[s], 1.2e-7); // fp32; seen 5e-8
        near("the last of a long tensor", (double)((float *)m.w[0].w.data)[300 * 200 - 1], want[s],
             1.2e-7);
        near("w of a small matrix", (double)first(&m, 4), want[s], 1.2e-7);
    }
    expect(first(&m, 1) > first(&m, 0) + 2e-4f, "a bias does not decay", (double)first(&m, 1),
           (double)first(&m, 0));
    expect(first(&m, 2) == 1.0f, "a frozen matrix stays", (double)first(&m, 2), 1.0);
    close_model(&m);
}

static void groups(void)
{
    const optimizer_config c = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1};
    model m;
    open_model(&m, &c, 2);
    expect(optimizer_no_decay(&m.params, "*.small") == 1, "a pattern matches one", 1, 1);
    expect(optimizer_no_decay(&m.params, "nothing*") == 0, "a pattern matches none", 0, 0);
    pc_params_find(&m.params, "vision.bias")->lr_scale = 0.5;
    set_grads(&m, 0.0f);
    optimizer_step(&m.opt, 1.0, optimizer_norm(&m.opt));
    near("decay alone", (double)first(&m, 0), 0.9, 1e-7);
    near("none where a pattern says so", (double)first(&m, 4), 1.0, 0.0);
    set_grads(&m, 1.0f);
    const double before = (double)first(&m, 1);
    optimizer_step(&m.opt, 1e-2, optimizer_norm(&m.opt));
    // Second update with a first gradient of 0: m^ = 0.1/0.19, v^ = 1e-3/1.999e-3.
    near("lr_scale", before - (double)first(&m, 1), 0.5e-2 * (0.1 / 0.19) / sqrt(1e-3 / 1.999e-3),
         1e-7);
    close_model(&m);
}

static void clipping(void)
{
    optimizer_config c = {.beta1 = 0.0, .beta2 = 0.0, .eps = 1.0, .clip = 1.0};
    model m;
    open_model(&m, &c, 2);
    set_grads(&m, 0.5f);
    const double count = 300 * 200 + 7 + 1 + 4, norm = optimizer_norm(&m.opt);
    near("norm over trained numbers", norm, 0.5 * sqrt(count), 1e-9 * norm);
    optimizer_step(&m.opt, 1.0, norm);
    const double g = 0.5 / (norm + 1e-6); // betas 0: the update is g / (g + eps)
    near("clipped", 1.0 - (double)first(&m, 4), g / (g + 1.0), 1e-7);
    ((float *)m.w[4].g.data)[3] = NAN;
    expect(isnan(optimizer_norm(&m.opt)), "NaN reaches the norm", 0, 0);
    ((float *)m.w[4].g.data)[3] = INFINITY;
    expect(isinf(optimizer_norm(&m.opt)), "infinity reaches the norm", 0, 0);
    close_model(&m);
}

static void clamp(void)
{
    const optimizer_config c = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    model m;
    open_model(&m, &c, 1);
    set_grads(&m, -1.0f);
    optimizer_step(&m.opt, 0.1, optimizer_norm(&m.opt)); // 4.6 + 0.1
    near("ln 100 at most", (double)first(&m, 3), log(100.0), 1e-6);
    set_grads(&m, 1e6f);
    for (int i = 0; i < 3; i++) optimizer_step(&m.opt, 10.0, optimizer_norm(&m.opt));
    near("0 at least", (double)first(&m, 3), 0.0, 0.0);
    close_model(&m);
}

// The same bits whatever the number of threads.
static void threads(void)
{
    const optimizer_config c = {
        .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 0.3};
    model m[2];
    double norm[2];
    for (int k = 0; k < 2; k++) {
        open_model(&m[k], &c, k ? 3 : 1);
        const pc_rng_key key = {.seed = 4, .stream = PC_STREAM_TEST};
        for (int s = 0; s < 3; s++) {
            for (int i = 0; i < LISTED; i++)
                for (int64_t n = 0; pc_present(m[k].w[i].g) && n < pc_numel(m[k].w[i].g); n++)
                    ((float *)m[k].w[i].g.data)[n] =
                        (float)pc_rng_normal(&key, (uint64_t)(n + 100000 * s));
            norm[k] = optimizer_norm(&m[k].opt);
            optimizer_step(&m[k].opt, 1e-2, norm[k]);
        }
    }
    expect(norm[0] == norm[1], "norm with 1 and 3 threads", norm[1], norm[0]);
    expect(!memcmp(m[0].w[0].w.data, m[1].w[0].w.data, 300 * 200 * sizeof(float)),
           "weights with 1 and 3 threads", (double)first(&m[1], 0), (double)first(&m[0], 0));
    close_model(&m[0]);
    close_model(&m[1]);
}

int main(void)
{
    values();
    groups();
    clipping();
    clamp();
    threads();
    return failed != 0;
}

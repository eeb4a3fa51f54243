/*
 * test_muon.c - orthogonalised momentum against the same steps in double, matrix by matrix.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/optimizer.h"

static int failed;

static void expect(bool ok, const char *what, double seen)
{
    printf("%s %s: %.3g\n", ok ? "ok    " : "FAILED", what, seen);
    failed += !ok;
}

enum { LISTED = 6, STEPS = 3 };

// Hidden: wide, tall, square, one row, fused (3 parts). Not hidden: a table.
static const int64_t dims[LISTED][2] = {{5, 9}, {31, 6}, {16, 16}, {1, 7}, {20, 8}, {12, 4}};
static const int64_t fused[3] = {8, 8, 4};

typedef struct model {
    pc_weight w[LISTED];
    pc_params params;
    pc_arena weights, grads;
    pc_pool *pool;
    optimizer opt;
} model;

static void must(pc_status st)
{
    if (!st) return;
    printf("FAILED %s\n", pc_error_text());
    exit(1);
}

static void open_model(model *m, int threads)
{
    const optimizer_config c = {
        .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.05, .clip = 1.0, .muon = true};
    *m = (model){0};
    for (int i = 0; i < LISTED; i++) {
        char name[32];
        snprintf(name, sizeof name, "m%d", i);
        pc_param_add(&m->params, &m->w[i], name, PC_INIT_NORMAL, 0.3, 2, dims[i]);
        pc_param_hidden(&m->params, &m->w[i], i < LISTED - 1);
    }
    pc_param_fused(&m->params, &m->w[4], 3, fused);
    pc_params_find(&m->params, "m1")->lr_scale = 0.5;
    pc_params_find(&m->params, "m2")->decay = false;
    must(pc_arena_open(&m->weights, "w", pc_params_bytes(&m->params, PC_F32, false)));
    must(pc_arena_open(&m->grads, "g", pc_params_bytes(&m->params, PC_F32, true)));
    must(pc_pool_open(&m->pool, threads));
    pc_params_bind_weights(&m->params, &m->weights, PC_F32);
    pc_params_bind_grads(&m->params, &m->grads, PC_F32);
    pc_params_init(&m->params, 3);
    must(optimizer_open(&m->opt, &m->params, &c, m->pool));
}

static void close_model(model *m)
{
    optimizer_close(&m->opt);
    pc_pool_close(m->pool);
    pc_params_close(&m->params);
    pc_arena_close(&m->weights);
    pc_arena_close(&m->grads);
}

static void draw_grads(model *m, int step)
{
    for (int i = 0; i < LISTED; i++) {
        const pc_rng_key key = {.seed = 9,
                                .stream = PC_STREAM_TEST,
                                .step = (uint64_t)(10 * step + i)};
        for (int64_t n = 0; n < pc_numel(m->w[i].g); n++)
            ((float *)m->w[i].g.data)[n] = (float)pc_rng_normal(&key, (uint64_t)n);
    }
}

// X (R,C) <- the quintic five times, X X^T whatever the shape.
static void orthogonal(double *X, int64_t R, int64_t C)
{
    double *A = calloc((size_t)(R * R), sizeof *A), *P = calloc((size_t)(R * R), sizeof *P);
    double *Y = calloc((size_t)(R * C), sizeof *Y);
    for (int k = 0; k < 5; k++) {
        for (int64_t i = 0; i < R; i++)
            for (int64_t j = 0; j < R; j++) {
                A[i * R + j] = 0;
                for (int64_t c = 0; c < C; c++) A[i * R + j] += X[i * C + c] * X[j * C + c];
            }
        for (int64_t i = 0; i < R; i++)
            for (int64_t j = 0; j < R; j++) {
                double s = 0;
                for (int64_t c = 0; c < R; c++) s += A[i * R + c] * A[c * R + j];
                P[i * R + j] = -4.7750 * A[i * R + j] + 2.0315 * s;
            }
        for (int64_t i = 0; i < R; i++)
            for (int64_t c = 0; c < C; c++) {
                Y[i * C + c] = 3.4445 * X[i * C + c];
                for (int64_t j = 0; j < R; j++) Y[i * C + c] += P[i * R + j] * X[j * C + c];
            }
        memcpy(X, Y, (size_t)(R * C) * sizeof *X);
    }
    free(A);
    free(P);
    free(Y);
}

// One step of the formulas on rows [row, row + R) of a matrix of C columns.
static void reference(double *w, double *m, const float *g, int64_t R, int64_t C, double lr,
                      double decay, double scale)
{
    double *X = calloc((size_t)(R * C), sizeof *X), norm = 0;
    for (int64_t i = 0; i < R * C; i++) {
        const double gi = (double)g[i] * scale;
        m[i] = 0.9 * m[i] + 0.1 * gi;
        X[i] = 0.1 * gi + 0.9 * m[i];
        norm += X[i] * X[i];
    }
    norm = sqrt(norm) + 1e-7;
    for (int64_t i = 0; i < R * C; i++) X[i] /= norm;
    orthogonal(X, R, C);
    for (int64_t i = 0; i < R * C; i++)
        w[i] = w[i] - lr * (0.2 * sqrt((double)(R > C ? R : C)) * X[i] + decay * w[i]);
    free(X);
}

static void against_double(void)
{
    model m;
    open_model(&m, 2);
    static double w[LISTED - 1][512], mom[LISTED - 1][512];
    for (int i = 0; i < LISTED - 1; i++)
        for (int64_t n = 0; n < dims[i][0] * dims[i][1]; n++)
            w[i][n] = (double)((float *)m.w[i].w.data)[n];
    float table_before = *(float *)m.w[5].w.data;
    for (int s = 0; s < STEPS; s++) {
        draw_grads(&m, s);
        const double norm = optimizer_norm(&m.opt), scale = 1.0 / (norm + 1e-6);
        for (int i = 0; i < LISTED - 1; i++) {
            const double lr = i == 1 ? 0.01 : 0.02, decay = i == 2 ? 0.0 : 0.05;
            const float *g = m.w[i].g.data;
            const int64_t C = dims[i][1];
            int64_t row = 0;
            for (int k = 0; k < (i == 4 ? 3 : 1); k++) {
                const int64_t R = i == 4 ? fused[k] : dims[i][0];
                reference(w[i] + row * C, mom[i] + row * C, g + row * C, R, C, lr, decay, scale);
                row += R;
            }
        }
        optimizer_step(&m.opt, 0.02, norm);
    }
    static const char *const what[] = {"wide", "tall", "square", "one row", "three in one"};
    for (int i = 0; i < LISTED - 1; i++) {
        double diff = 0, size = 0;
        for (int64_t n = 0; n < dims[i][0] * dims[i][1]; n++) {
            const double d = (double)((float *)m.w[i].w.data)[n] - w[i][n];
            diff += d * d;
            size += w[i][n] * w[i][n];
        }
        expect(sqrt(diff / size) < 2e-6, what[i], sqrt(diff / size)); // seen 4e-7
    }
    // Adam's first steps move by about lr whatever the gradient: the table went the other way.
    const double moved = fabs((double)*(float *)m.w[5].w.data - (double)table_before);
    expect(moved > 0.005 && moved < 0.061, "a table is AdamW's", moved);
    close_model(&m);
}

static void threads(void)
{
    model m[2];
    bool same = true;
    for (int k = 0; k < 2; k++) {
        open_model(&m[k], k ? 3 : 1);
        for (int s = 0; s < STEPS; s++) {
            draw_grads(&m[k], s);
            optimizer_step(&m[k].opt, 0.02, optimizer_norm(&m[k].opt));
        }
    }
    for (int i = 0; i < LISTED; i++)
        same = same && !memcmp(m[0].w[i].w.data, m[1].w[i].w.data,
                               (size_t)pc_numel(m[0].w[i].w) * sizeof(float));
    expect(same, "the same bits with 1 and 3 threads", 0);
    close_model(&m[0]);
    close_model(&m[1]);
}

// Singular values of what comes out lie near 1: the sum of their squares is near their number.
static void orthogonality(void)
{
    pc_arena a;
    pc_isa isa;
    must(pc_arena_open(&a, "x", 1 << 22));
    must(pc_isa_choose(&isa));
    pc_ctx ctx = {.ops = pc_cpu_ops(isa, PC_F32),
                  .grad_ops = pc_cpu_grad_ops(isa, PC_F32),
                  .real = PC_F32,
                  .act = &a,
                  .scratch = &a};
    static const int64_t shapes[3][2] = {{24, 96}, {96, 24}, {48, 48}};
    for (int k = 0; k < 3; k++) {
        const int64_t R = shapes[k][0], C = shapes[k][1], r = R < C ? R : C;
        pc_tensor X = pc_alloc2(&a, PC_F32, R, C);
        const pc_rng_key key = {.seed = 2, .stream = PC_STREAM_TEST, .step = (uint64_t)k};
        double norm = 0, after = 0;
        float *x = X.data;
        for (int64_t i = 0; i < R * C; i++) {
            x[i] = (float)pc_rng_normal(&key, (uint64_t)i);
            norm += (double)x[i] * (double)x[i];
        }
        for (int64_t i = 0; i < R * C; i++) x[i] /= (float)sqrt(norm);
        muon_orthogonal(&ctx, X);
        for (int64_t i = 0; i < R * C; i++) after += (double)x[i] * (double)x[i];
        expect(after / (double)r > 0.5 && after / (double)r < 1.4, "mean squared singular value",
               after / (double)r);
    }
    pc_arena_close(&a);
}

int main(void)
{
    against_double();
    threads();
    orthogonality();
    return failed != 0;
}

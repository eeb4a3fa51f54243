/*
 * test_resampler.c - Qwen-VL's resampler by itself against PyTorch, for keys of the table's own grid and of others:
 * what it gives, the places of the keys, the gradient of its input and of every parameter.
 *
 * Seen (relative): outputs 3e-7, gradients 8e-7. The whole model is tests/goldens/qwen_vl.
 */
#include "checkpoints/hf.h"
#include "checkpoints/safetensors.h"
#include "model/families/parts.h"
#include "model/networks/resampler.h"
#include "model/networks/runner.h"
#include "tests/support/parity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const pc_runner_grad with_grad = {pc_cpu_grad_ops, pc_dry_grad_ops,
                                         pc_backend_device_grad_ops};

typedef struct pass {
    pc_resampler *resampler;
    pc_tensor x, dy, y, dx, places;
    int64_t P;
} pass;

static void run(pc_ctx *ctx, void *arg)
{
    pass *p = arg;
    const int64_t Q = p->resampler->config.Q, from = llround(sqrt((double)Q)),
                  to = llround(sqrt((double)p->P));
    pc_resampler_kept kept;
    p->dx = pc_alloc_like(ctx->act, p->x);
    p->places = pc_alloc2(ctx->act, ctx->real, p->P, p->resampler->config.C);
    p->y = pc_resampler_forward(ctx, &kept, p->resampler, p->x, p->P);
    ctx->ops->resize_grid_forward(ctx, p->places, p->resampler->places.w, to, to, from, from);
    pc_resampler_backward(ctx, p->dx, p->resampler, &kept, p->dy);
}

static const pc_st_entry *must_find(const pc_safetensors *s, const char *name)
{
    const pc_st_entry *e = pc_safetensors_find(s, name);
    if (!e) printf("  FAIL no tensor '%s'\n", name), exit(1);
    return e;
}

static pc_tensor rows_of(const pc_st_entry *e) // the last dimension is the width
{
    const int64_t C = e->dim[e->rank - 1], n = (int64_t)(e->bytes / sizeof(float));
    return pc_view2((void *)(uintptr_t)e->data, PC_F32, n / C, C);
}

static void compare(const char *what, const float *ours, const pc_st_entry *theirs, double limit)
{
    parity_report(what, parity_error(ours, theirs->data, (int64_t)(theirs->bytes / sizeof(float))),
                  limit, "");
}

/* Every parameter's gradient under its name in the file; the middle third of in_proj_bias vanishes. */
static void compare_grads(pc_params *params, const pc_aliases *names, const pc_safetensors *want,
                          int number)
{
    double worst = 0.0;
    const char *where = "";
    int compared = 0;
    for (int i = 0; i < names->count; i++) {
        const pc_alias *a = &names->list[i];
        const pc_param *p = pc_params_find(params, a->ours);
        char name[256];
        snprintf(name, sizeof name, "case%d.%s", number, a->theirs);
        const pc_st_entry *e = pc_safetensors_find(want, name);
        if (!p->trainable || !strcmp(a->ours, "projector.attn.k.bias")) continue;
        if (!e) printf("  FAIL no gradient '%s'\n", name), exit(1);
        const double error = parity_error(pc_alias_data(a, p->weight->g),
                                          (const float *)e->data + a->offset, a->count);
        if (!(error <= worst)) worst = error, where = a->theirs;
        compared++;
    }
    parity_report("gradients", compared == 16 ? worst : NAN, PARITY_GRAD, where);
}

static bool one_case(pc_resampler *l, pc_params *params, const pc_aliases *names,
                     const char *const path[3], int number)
{
    pc_safetensors *s[3] = {NULL};
    pc_runner runner;
    char name[3][64];
    for (int i = 0; i < 3; i++)
        if (pc_safetensors_open(&s[i], path[i])) parity_broken(path[i]), exit(1);
    snprintf(name[0], sizeof name[0], "case%d.x", number);
    snprintf(name[1], sizeof name[1], "case%d.grad_output", number);
    const pc_st_entry *x = pc_safetensors_find(s[0], name[0]);
    if (x && !pc_runner_open(&runner, 2, &with_grad)) {
        pass p = {.resampler = l, .x = rows_of(x), .dy = rows_of(must_find(s[0], name[1]))};
        p.P = x->dim[1];
        printf("case %d: %lld keys\n", number, (long long)p.P);
        pc_params_zero_grads(params);
        if (pc_runner_run(&runner, run, &p)) parity_broken("run"), exit(1);
        snprintf(name[1], sizeof name[1], "case%d.y", number);
        snprintf(name[2], sizeof name[2], "case%d.key_pos", number);
        compare("y", p.y.data, must_find(s[1], name[1]), PARITY_OUTPUT);
        compare("places of the keys", p.places.data, must_find(s[1], name[2]), PARITY_OUTPUT);
        compare("gradient of x", p.dx.data, must_find(s[2], name[0]), PARITY_GRAD);
        compare_grads(params, names, s[2], number);
        pc_runner_close(&runner);
    }
    for (int i = 0; i < 3; i++) pc_safetensors_close(s[i]);
    return x != NULL;
}

static int64_t heads_of(const char *dir)
{
    json_t *meta = NULL;
    if (pc_hf_json(&meta, dir, "meta.json")) parity_broken(dir), exit(1);
    const int64_t H = json_integer_value(json_object_get(meta, "num_heads"));
    json_decref(meta);
    return H;
}

static void folder(const char *dir)
{
    static const char *const file[] = {"inputs", "outputs", "grads"};
    char path[4][1024];
    pc_safetensors *weights = NULL;
    pc_params params = {0};
    pc_aliases names = {0};
    pc_arena memory, grads;
    pc_resampler l;

    snprintf(path[3], sizeof path[3], "%s/model.safetensors", dir);
    for (int i = 0; i < 3; i++)
        snprintf(path[i], sizeof path[i], "%s/%s.safetensors", dir, file[i]);
    if (pc_safetensors_open(&weights, path[3])) parity_broken(path[3]), exit(1);
    const pc_st_entry *query = must_find(weights, "transformer.visual.attn_pool.query");
    const pc_st_entry *kv = must_find(weights, "transformer.visual.attn_pool.kv_proj.weight");
    const pc_resampler_config c = {
        .Q = query->dim[0], .C = query->dim[1], .I = kv->dim[1], .H = heads_of(dir), .eps = 1e-6};
    const pc_projector_config p = {.queries = c.Q, .out = c.C, .in = c.I};
    pc_resampler_params(&params, &l, &c);
    pc_family_qwen_resampler_aliases(&names, &p);
    if (pc_params_end(&params) || names.status ||
        pc_arena_open(&memory, "weights", pc_params_bytes(&params, PC_F32, false)) ||
        pc_arena_open(&grads, "gradients", pc_params_bytes(&params, PC_F32, true)))
        parity_broken("memory"), exit(1);
    pc_params_bind_weights(&params, &memory, PC_F32);
    pc_params_bind_grads(&params, &grads, PC_F32);
    for (int i = 0; i < names.count; i++) {
        const pc_alias *a = &names.list[i];
        const pc_param *q = pc_params_find(&params, a->ours);
        if (pc_hf_read(pc_alias_data(a, q->weight->w), a, must_find(weights, a->theirs)))
            parity_broken(a->theirs);
    }
    int n = 0;
    while (one_case(&l, &params, &names, (const char *const[]){path[0], path[1], path[2]}, n)) n++;
    if (n == 0) printf("  FAIL no case\n"), exit(1);
    pc_aliases_close(&names);
    pc_params_close(&params);
    pc_arena_close(&memory);
    pc_arena_close(&grads);
    pc_safetensors_close(weights);
}

int main(void)
{
    const char *dir = parity_shared("qwen_vl_resampler");
    if (dir) folder(dir);
    return parity_failed() != 0;
}

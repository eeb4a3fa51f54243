/*
 * replay.c - a stored trace, step by step.
 *
 * The trace is a JSON object: `betas`, `eps`, `weight_decay`, `grad_clip_norm` (or `grad_clip`; null: none),
 * `no_decay` (names), `trainable` (names; absent: all) and `trace`, a list of steps with `lr` and either `batch`
 * (entry of the leading dimension of every tensor of the batches file) or `micro_batches` (numbers n: tensors
 * "mb<n>.*"). Token losses are normalised by the supervised tokens of the whole step.
 */
#include "model/networks/placement.h"
#include "train/commands/replay.h"

#include "model/core/cli.h"
#include "model/core/file.h"
#include "train/commands/named.h"
#include "train/optimizer.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MICRO_MAX = 64 };

typedef struct replay {
    pc_bundle bundle;
    pc_safetensors *batches;
    pc_aliases names;
    pc_runner runner;
    pc_placement placement;
    pc_arena grads;
    optimizer optimizer;
    json_t *trace;
    bool json;
} replay;

static bool listed(const json_t *list, const char *name)
{
    size_t i;
    json_t *v;

    json_array_foreach(list, i,
                       v) if (json_is_string(v) && !strcmp(json_string_value(v), name)) return true;
    return false;
}

static bool name_is_listed(const char *name, void *arg)
{
    return listed(arg, name);
}

// Sets the flag of every listed tensor; all others have the opposite.
static pc_status apply_list(replay *r, const char *key, named_flag flag, bool value)
{
    const json_t *list = json_object_get(r->trace, key);
    pc_params *params = &r->bundle.model.params;
    size_t i;
    json_t *v;
    pc_status st;

    if (!list || json_is_null(list)) return PC_OK;
    if (!json_is_array(list))
        return pc_fail(PC_ERR_FORMAT, "key '%s': expected a list of names", key);
    for (int k = 0; k < params->count; k++)
        *(flag == NAMED_DECAY ? &params->list[k].decay : &params->list[k].trainable) = !value;
    json_array_foreach(list, i, v)
    {
        if (!json_is_string(v))
            return pc_fail(PC_ERR_FORMAT, "key '%s': entry %zu is not a name", key, i);
        if ((st = named_set(&r->names, params, json_string_value(v), flag, value)))
            return pc_context(st, "key '%s'", key);
    }
    return named_check(&r->names, params, flag, value, name_is_listed, (void *)(uintptr_t)list);
}

static pc_status real_of(double *out, const json_t *o, const char *key, double def)
{
    const json_t *v = json_object_get(o, key);

    if (!v || json_is_null(v)) {
        if (isnan(def)) return pc_fail(PC_ERR_FORMAT, "key '%s' is missing", key);
        *out = def;
        return PC_OK;
    }
    if (!json_is_number(v)) return pc_fail(PC_ERR_FORMAT, "key '%s': expected a number", key);
    *out = json_number_value(v);
    return PC_OK;
}

static pc_status optimiser_of(optimizer_config *c, const json_t *trace)
{
    const json_t *betas = json_object_get(trace, "betas");
    const char *clip = json_object_get(trace, "grad_clip_norm") ? "grad_clip_norm" : "grad_clip";
    pc_status st;

    if (json_array_size(betas) != 2 || !json_is_number(json_array_get(betas, 0)) ||
        !json_is_number(json_array_get(betas, 1)))
        return pc_fail(PC_ERR_FORMAT, "key 'betas': expected a list of two numbers");
    c->beta1 = json_number_value(json_array_get(betas, 0));
    c->beta2 = json_number_value(json_array_get(betas, 1));
    if ((st = real_of(&c->eps, trace, "eps", (double)NAN)) ||
        (st = real_of(&c->weight_decay, trace, "weight_decay", (double)NAN)) ||
        (st = real_of(&c->clip, trace, clip, 0.0)))
        return st;
    return PC_OK;
}

static pc_status set_up(replay *r, const char *model, const char *adapter, const char *trace,
                        const char *batches, int64_t threads)
{
    json_error_t error;
    optimizer_config config = {0};
    pc_status st;

    if ((st = pc_bundle_open(&r->bundle, model)) || (st = pc_bundle_adapt(&r->bundle, adapter)) ||
        (st = named_aliases(&r->names, &r->bundle)) ||
        (st = pc_safetensors_open(&r->batches, batches)))
        return st;
    if (!(r->trace = json_load_file(trace, 0, &error)))
        return pc_fail(PC_ERR_FORMAT, "trace '%s', line %d: %s", trace, error.line, error.text);
    named_train_adapters(&r->bundle.model);
    if ((st = optimiser_of(&config, r->trace)) ||
        (st = apply_list(r, "trainable", NAMED_TRAINABLE, true)) ||
        (st = apply_list(r, "no_decay", NAMED_DECAY, false)))
        return pc_context(st, "trace '%s'", trace);

    pc_params *params = &r->bundle.model.params;
    named_freeze_unreached(&r->bundle.model, &(pc_given){.images = 1});
    if ((st = pc_runner_open(&r->runner, (int)threads, &named_grad)) ||
        (st = pc_placement_open(&r->placement, &r->bundle.model, &r->runner.backend)) ||
        (st = pc_arena_open_in(&r->grads, "gradients", r->runner.backend.memory,
                               pc_params_bytes(params, PC_F32, true), 0)))
        return st;
    pc_params_bind_grads(params, &r->grads, PC_F32);
    config.backend = &r->runner.backend;
    return optimizer_open(&r->optimizer, params, &config, r->runner.pool);
}

// The batches of a step: one slice, or several micro-batches.
static pc_status open_batches(pc_given *given, int *count, replay *r, const json_t *step)
{
    const pc_model_config *c = &r->bundle.model.config;
    const json_t *micro = json_object_get(step, "micro_batches");
    const json_t *batch = json_object_get(step, "batch");
    pc_status st;

    *count = 0;
    if (json_is_integer(batch)) {
        if ((st = pc_given_open(&given[0], r->batches, c, "", json_integer_value(batch))))
            return st;
        *count = 1;
        return PC_OK;
    }
    const size_t n = json_array_size(micro);
    if (n < 1 || n > MICRO_MAX)
        return pc_fail(PC_ERR_FORMAT, "expected 'batch' or 1 to %d 'micro_batches'", MICRO_MAX);
    if (c->kind == PC_MODEL_CLIP && n > 1)
        return pc_fail(PC_ERR_FORMAT,
                       "%zu micro-batches; a contrastive loss couples the whole batch", n);
    for (size_t i = 0; i < n; i++) {
        char prefix[32];
        const json_t *v = json_array_get(micro, i);
        if (!json_is_integer(v))
            return pc_fail(PC_ERR_FORMAT, "key 'micro_batches': entry %zu is not a number", i);
        snprintf(prefix, sizeof prefix, "mb%lld.", (long long)json_integer_value(v));
        if ((st = pc_given_open(&given[i], r->batches, c, prefix, -1))) return st;
        (*count)++;
    }
    return PC_OK;
}

static pc_status one_step(replay *r, const json_t *step, int64_t s)
{
    pc_model *m = &r->bundle.model;
    pc_given given[MICRO_MAX] = {0};
    int count;
    double lr = 0.0, loss = 0.0, M = 0.0;
    pc_status st;

    if ((st = real_of(&lr, step, "lr", (double)NAN)) || (st = open_batches(given, &count, r, step)))
        goto done;
    for (int i = 0; i < count; i++) M += (double)given[i].vlm.supervised;
    if (m->config.kind == PC_MODEL_CLIP) M = 1.0;
    if (M < 1.0) {
        st = pc_fail(PC_ERR_INPUT, "no supervised token");
        goto done;
    }

    pc_grads_begin(&r->runner.ctx, &m->params);
    for (int i = 0; i < count; i++) {
        named_pass pass = {.model = m, .given = &given[i], .coef = 1.0 / M};
        if ((st = pc_runner_run(&r->runner, named_pass_run, &pass))) goto done;
        loss += pass.loss / M;
    }
    pc_grads_end(&r->runner.ctx, &m->params);
    const double norm = optimizer_norm(&r->optimizer);
    if (!isfinite(loss) || !isfinite(norm)) {
        st = pc_fail(PC_ERR_NUMERIC, "loss %g, gradient norm %g", loss, norm);
        goto done;
    }
    optimizer_step(&r->optimizer, lr, norm);
    if (r->json)
        printf("{\"step\": %lld, \"lr\": %.17g, \"loss\": %.9g, \"grad_norm\": %.9g}\n",
               (long long)s, lr, loss, norm);
    else
        printf("%.9g\n", loss);
done:
    for (int i = 0; i < MICRO_MAX; i++) pc_given_close(&given[i]);
    return pc_context(st, "step %lld", (long long)s);
}

static pc_status run(replay *r, const char *const *path, int64_t threads)
{
    pc_status st = set_up(r, path[0], path[4], path[1], path[2], threads);
    size_t s;
    json_t *step;

    if (st) return st;
    const json_t *steps = json_object_get(r->trace, "trace");
    if (!json_array_size(steps))
        return pc_fail(PC_ERR_FORMAT, "trace '%s': key 'trace': expected a list of steps", path[1]);
    json_array_foreach(steps, s, step) if ((st = one_step(r, step, (int64_t)s))) return pc_context(
        st, "trace '%s'", path[1]);
    if ((st = pc_placement_fetch(&r->placement))) return st;
    return named_write(path[3], &r->names, &r->bundle.model.params, NAMED_WEIGHTS, NULL);
}

static void tear_down(replay *r)
{
    optimizer_close(&r->optimizer);
    pc_placement_close(&r->placement);
    pc_runner_close(&r->runner);
    pc_arena_close(&r->grads);
    pc_aliases_close(&r->names);
    pc_safetensors_close(r->batches);
    pc_bundle_close(&r->bundle);
    json_decref(r->trace);
}

pc_status replay_main(int argc, char **argv)
{
    const char *adapter = NULL, *trace = NULL, *batches = NULL, *out = NULL;
    int64_t threads = 0;
    replay r = {0};
    const pc_cli_flag flags[] = {
        {"trace", PC_CLI_STRING, &trace, "FILE", "JSON: optimiser, learning rates, batches by step",
         0, 0, NULL},
        {"batches", PC_CLI_STRING, &batches, "FILE", "safetensors with the batches it names", 0, 0,
         NULL},
        {"adapter", PC_CLI_STRING, &adapter, "DIR", "PEFT folder: its adapters on the model", 0, 0,
         NULL},
        {"out", PC_CLI_STRING, &out, "FILE", "safetensors to write: trained parameters at the end",
         0, 0, NULL},
        {"json", PC_CLI_BOOL, &r.json, NULL, "a JSON object a step: step, lr, loss, grad_norm", 0,
         0, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads; as many as processors unless given", 0,
         4096, NULL},
    };
    const pc_cli cli = {
        .command = "percept-train replay",
        .usage = "MODEL",
        .about =
            "The exact optimiser steps of a stored trace: the loss of each step on standard "
            "output, "
            "one a line, and the trained parameters at the end under the checkpoint's own names.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof flags[0]),
        .min_args = 1,
        .max_args = 1,
        .examples =
            (const char *const[]){"percept-train replay clip-dir --trace train.json --batches "
                                  "train_batches.safetensors --out final.safetensors",
                                  NULL},
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);

    if (st || !args) return st;
    if (!trace || !batches || !out)
        return pc_fail(PC_ERR_USAGE, "percept-train replay: --%s FILE is needed",
                       !trace     ? "trace"
                       : !batches ? "batches"
                                  : "out");
    st = run(&r, (const char *const[]){args[0], trace, batches, out, adapter}, threads);
    tear_down(&r);
    return st;
}

/*
 * gradients.c - one forward and backward pass over given tensors.
 *
 * Written: `loss` (1) and, under the checkpoint's own names and shapes, the gradient of every parameter that the
 * loss depends on. A parameter outside the graph has no entry.
 */
#include "model/networks/placement.h"
#include "train/commands/gradients.h"

#include "model/core/cli.h"
#include "train/commands/named.h"

#include <math.h>
#include <stdio.h>

static pc_status check(const pc_given *g, const pc_model_config *c)
{
    if (c->kind == PC_MODEL_CLIP && (!g->has_text || g->images != g->B))
        return pc_fail(PC_ERR_INPUT,
                       "%lld images and %lld texts; a contrastive loss needs as many of both",
                       (long long)g->images, (long long)g->B);
    if (c->kind == PC_MODEL_VLM && !g->vlm.supervised)
        return pc_fail(PC_ERR_INPUT, "tensor 'labels': %s",
                       g->has_labels ? "no token of it is supervised" : "missing");
    return PC_OK;
}

static pc_status run(const char *model_path, const char *adapter, const char *inputs,
                     const char *out, int64_t threads)
{
    pc_bundle bundle = {0};
    pc_safetensors *file = NULL;
    pc_runner runner = {0};
    pc_given given = {0};
    pc_aliases names = {0};
    pc_arena grads = {0};
    pc_placement placement = {0};
    pc_status st;

    if ((st = pc_bundle_open(&bundle, model_path)) || (st = pc_bundle_adapt(&bundle, adapter)) ||
        (st = pc_safetensors_open(&file, inputs)) || (st = named_aliases(&names, &bundle)))
        goto done;
    pc_model *m = &bundle.model;
    if ((st = pc_given_open(&given, file, &m->config, "", -1)) ||
        (st = check(&given, &m->config))) {
        st = pc_context(st, "inputs '%s'", inputs);
        goto done;
    }
    named_train_adapters(m);
    named_freeze_unreached(m, &given);
    if ((st = pc_runner_open(&runner, (int)threads, &named_grad)) ||
        (st = pc_placement_open(&placement, m, &runner.backend)) ||
        (st = pc_arena_open_in(&grads, "gradients", runner.backend.memory,
                               pc_params_bytes(&m->params, PC_F32, true), 0)))
        goto done;
    pc_params_bind_grads(&m->params, &grads, PC_F32);
    pc_grads_begin(&runner.ctx, &m->params);

    const bool tokens = m->config.kind == PC_MODEL_VLM;
    const double M = tokens ? (double)given.vlm.supervised : 1.0;
    named_pass pass = {.model = m, .given = &given, .coef = 1.0 / M};
    if ((st = pc_runner_run(&runner, named_pass_run, &pass))) goto done;
    pc_grads_end(&runner.ctx, &m->params);
    if ((st = pc_placement_fetch(&placement))) goto done;
    const float loss = (float)(pass.loss / M);
    const pc_param *bad = pc_params_nonfinite(&m->params, true);
    if (!isfinite(loss) || bad) {
        st = pc_fail(PC_ERR_NUMERIC, "loss %g%s%s", (double)loss,
                     bad ? "; not finite: the gradient of " : "", bad ? bad->name : "");
        goto done;
    }
    if ((st = named_write(out, &names, &m->params, NAMED_GRADIENTS, &loss))) goto done;
    printf("loss %.7g\n", (double)loss);
done:
    pc_placement_close(&placement);
    pc_runner_close(&runner);
    pc_given_close(&given);
    pc_aliases_close(&names);
    pc_arena_close(&grads);
    pc_safetensors_close(file);
    pc_bundle_close(&bundle);
    return st;
}

pc_status gradients_main(int argc, char **argv)
{
    const char *adapter = NULL, *inputs = NULL, *out = NULL;
    int64_t threads = 0;
    const pc_cli_flag flags[] = {
        {"inputs", PC_CLI_STRING, &inputs, "FILE",
         "safetensors with input_ids, attention_mask, labels, pixel_values", 0, 0, NULL},
        {"adapter", PC_CLI_STRING, &adapter, "DIR",
         "PEFT folder: its adapters on the model; the gradients are theirs alone", 0, 0, NULL},
        {"out", PC_CLI_STRING, &out, "FILE", "safetensors to write", 0, 0, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads; as many as processors unless given", 0,
         4096, NULL},
    };
    const pc_cli cli = {
        .command = "percept-train gradients",
        .usage = "MODEL",
        .about = "One forward and backward pass on given tensors. Writes `loss` and the gradient "
                 "of every "
                 "parameter it depends on, under the checkpoint's own tensor names, in fp32. The "
                 "token loss is the "
                 "mean over supervised tokens (labels other than -100, shifted by one).",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof flags[0]),
        .min_args = 1,
        .max_args = 1,
        .examples = (const char *const[]){"percept-train gradients llava-dir --inputs "
                                          "inputs.safetensors --out grads.safetensors",
                                          "percept-train gradients llava-dir --adapter lora-dir "
                                          "--inputs inputs.safetensors --out grads.safetensors",
                                          NULL},
    };
    char **args;
    int n;
    const pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);

    if (st || !args) return st;
    if (!inputs || !out)
        return pc_fail(PC_ERR_USAGE, "percept-train gradients: --%s FILE is needed",
                       inputs ? "out" : "inputs");
    return run(args[0], adapter, inputs, out, threads);
}

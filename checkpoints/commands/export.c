/*
 * export.c - percept-convert export: a model into the formats that others read.
 */
#include "checkpoints/commands/commands.h"

#include "checkpoints/commands/common.h"
#include "checkpoints/commands/export.h"
#include "checkpoints/hf_export.h"
#include <string.h>

static const char *const formats[] = {"hf", "gguf", "peft", NULL};

static pc_status dtype_named(pc_dtype *out, const char *word)
{
    static const char *const names[] = {"source", "f32", "bf16", "f16"};
    static const pc_dtype types[] = {PC_F32, PC_F32, PC_BF16, PC_F16};
    for (int i = 0; i < 4; i++)
        if (!strcmp(word, names[i])) {
            *out = types[i];
            return PC_OK;
        }
    const char *near = pc_nearest(word, names, 4);
    return pc_fail(PC_ERR_USAGE, "--dtype: '%s'; a directory takes source, f32, bf16 or f16%s%s%s",
                   word, near ? " (nearest: '" : "", near ? near : "", near ? "')" : "");
}

static pc_status export_hf(pc_supply *o, const convert_request *r, const pc_card *card)
{
    pc_verify_report report;
    pc_hf_export_options x = {
        .as_source = !strcmp(r->dtype, "source"),
        .layout = (int)r->layout,
        .verify = convert_verify_mode(r->verify),
        .seed = (uint64_t)r->seed,
    };
    pc_status st = dtype_named(&x.dtype, r->dtype);
    if (!st && r->shard) st = convert_bytes(&x.shard_size, r->shard, "shard-size");
    if (!st) st = pc_hf_export(r->out, o, &x, card, &report);
    if (!st) convert_done(r->out, &report);
    return st;
}

pc_status convert_run(const convert_request *r)
{
    pc_supply o;
    pc_card card = {0};
    pc_status st = pc_supply_open(&o, r->path);
    if (st) return st;
    if (r->adapter) st = pc_supply_adapt(&o, r->adapter);
    if (!st) st = pc_card_open(&card, &o, r->path, r->name, r->license);
    if (!st)
        st = !strcmp(r->format, "hf")     ? export_hf(&o, r, &card)
             : !strcmp(r->format, "gguf") ? convert_gguf(&o, r, &card)
                                          : convert_peft(&o, r);
    pc_card_close(&card);
    pc_supply_close(&o);
    return st;
}

pc_status convert_export(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-convert export runs/tune/checkpoints/best.h5 --format hf --out my-llava",
        "percept-convert export llava.h5 --format hf --out llava-bf16 --dtype bf16",
        "percept-convert export llava-1.5-7b-hf --format gguf --dtype Q4_K_M --out gguf",
        "percept-convert export runs/lora/checkpoints/best.h5 --format peft --out my-lora",
        NULL,
    };
    convert_request r = {.dtype = "source", .verify = "auto", .layout = -1, .seed = 1};
    const pc_cli_flag flags[] = {
        {"format", PC_CLI_STRING, &r.format, "FORMAT",
         "hf: a Hugging Face directory; gguf: files for llama.cpp; peft: the adapters of a "
         "checkpoint",
         0, 0, formats},
        {"out", PC_CLI_STRING, &r.out, "DIR",
         "the folder to write, new or empty; for gguf also the FILE.gguf", 0, 0, NULL},
        {"dtype", PC_CLI_STRING, &r.dtype, "TYPE",
         "hf: source (each as it was), f32, bf16, f16; gguf: F16, BF16, F32, Q8_0, Q6_K, Q5_0, "
         "Q5_1, Q4_0, Q4_1, Q4_K_S, Q4_K_M",
         0, 0, NULL},
        {"shard-size", PC_CLI_STRING, &r.shard, "SIZE",
         "largest file of weights, such as 5GB (the default)", 0, 0, NULL},
        {"layout", PC_CLI_INT, &r.layout, "N",
         "which of the family's tensor names; -1: those of the source, 0: the published ones", -1,
         64, NULL},
        {"base", PC_CLI_STRING, &r.base, "NAME",
         "peft: base_model_name_or_path; the name of what the model came from unless given", 0, 0,
         NULL},
        {"adapter", PC_CLI_STRING, &r.adapter, "DIR", "a PEFT adapter to merge on the way", 0, 0,
         NULL},
        {"name", PC_CLI_STRING, &r.name, "TEXT", "the model's name in its card", 0, 0, NULL},
        {"license", PC_CLI_STRING, &r.license, "TEXT", "its licence, for card and metadata", 0, 0,
         NULL},
        {"verify", PC_CLI_STRING, &r.verify, "HOW", CONVERT_VERIFY_HELP, 0, 0, pc_verify_modes},
        {"seed", PC_CLI_INT, &r.seed, "N", "of the random inputs", 0, 1e9, NULL},
    };
    const pc_cli cli = {
        .command = "percept-convert export",
        .usage = "MODEL",
        .about =
            "Writes a model (a native checkpoint, a directory or a GGUF file) in a format that "
            "others read, opens what it wrote and holds it against the source. Nothing is left "
            "behind when they differ by more than the written type explains. Numbers go through "
            "in pieces: a model larger than memory is fine.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof *flags),
        .min_args = 1,
        .max_args = 1,
        .examples = examples,
    };
    char **args;
    int n;
    const pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;
    if (!r.format || !r.out)
        return pc_fail(PC_ERR_USAGE, "percept-convert export: --%s is needed",
                       r.format ? "out DIR" : "format FORMAT");
    r.path = args[0];
    return convert_run(&r);
}

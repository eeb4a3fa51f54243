/*
 * merge.c - percept-convert merge: low-rank adapters into the weights they stand beside.
 */
#include "checkpoints/commands/commands.h"

#include "checkpoints/commands/common.h"
#include "checkpoints/hf_export.h"
#include "checkpoints/native_import.h"
#include "model/core/file.h"
#include <string.h>

typedef struct request {
    const char *path, *out, *verify;
    pc_cli_strings adapters;
} request;

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static pc_status write(pc_supply *o, const request *r)
{
    const pc_verify_mode verify = convert_verify_mode(r->verify);
    pc_verify_report report;
    pc_card card = {0};
    pc_status st;
    if (ends_in(r->out, ".h5")) {
        st = pc_native_import(r->out, o, verify, &report);
    } else {
        const pc_hf_export_options x = {.as_source = true,
                                        .layout = -1,
                                        .verify = verify,
                                        .seed = 1};
        st = pc_card_open(&card, o, r->path, NULL, NULL);
        if (!st) st = pc_hf_export(r->out, o, &x, &card, &report);
        pc_card_close(&card);
    }
    if (!st) convert_done(r->out, &report);
    return st;
}

pc_status convert_merge(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-convert merge llava-1.5-7b-hf --adapter my-lora --out merged.h5",
        "percept-convert merge llava.h5 --adapter my-lora --out merged-dir",
        "percept-convert merge runs/lora/checkpoints/best.h5 --out merged.h5",
        NULL,
    };
    request r = {.verify = "auto"};
    const pc_cli_flag flags[] = {
        {"adapter", PC_CLI_STRINGS, &r.adapters, "DIR",
         "a PEFT adapter; may be given several times, all are added", 0, 0, NULL},
        {"out", PC_CLI_STRING, &r.out, "FILE.h5 or DIR",
         "a native checkpoint, or else a Hugging Face directory", 0, 0, NULL},
        {"verify", PC_CLI_STRING, &r.verify, "HOW", CONVERT_VERIFY_HELP, 0, 0, pc_verify_modes},
    };
    const pc_cli cli = {
        .command = "percept-convert merge",
        .usage = "MODEL",
        .about =
            "Adds low-rank adapters to the weights: W + (alpha/r) B A. The adapters are those of "
            "PEFT folders, and those that a native checkpoint trained with `lora` holds itself. "
            "Merged tensors are float32 in a native checkpoint; a directory keeps the source's "
            "types.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof *flags),
        .min_args = 1,
        .max_args = 1,
        .examples = examples,
    };
    char **args;
    int n;
    pc_supply o = {0};
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (!st && args && !r.out)
        st = pc_fail(PC_ERR_USAGE, "percept-convert merge: --out FILE.h5 or DIR is needed");
    if (st || !args) goto out;
    r.path = args[0];
    if ((st = pc_supply_open(&o, r.path))) goto out;
    for (int i = 0; i < r.adapters.count && !st; i++) st = pc_supply_adapt(&o, r.adapters.list[i]);
    if (!st && !o.adapter_count)
        st = pc_fail(PC_ERR_USAGE, "'%s' holds no adapters: give --adapter DIR", r.path);
    if (!st) st = write(&o, &r);
out:
    pc_supply_close(&o);
    pc_cli_strings_close(&r.adapters);
    return st;
}

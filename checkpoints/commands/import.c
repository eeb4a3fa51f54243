/*
 * import.c - percept-convert import: any model into a native checkpoint.
 */
#include "checkpoints/commands/commands.h"

#include "checkpoints/commands/common.h"
#include "checkpoints/native_import.h"

pc_status convert_import(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-convert import llava-1.5-7b-hf --out llava.h5",
        "percept-convert import clip-vit-base-patch32 --out clip.h5",
        "percept-convert import llava.gguf --out llava.h5 --verify tensors",
        NULL,
    };
    const char *out = NULL, *verify = "auto";
    const pc_cli_flag flags[] = {
        {"out", PC_CLI_STRING, &out, "FILE.h5", "the checkpoint to write", 0, 0, NULL},
        {"verify", PC_CLI_STRING, &verify, "HOW", CONVERT_VERIFY_HELP, 0, 0, pc_verify_modes},
    };
    const pc_cli cli = {
        .command = "percept-convert import",
        .usage = "MODEL",
        .about = "Turns a Hugging Face directory (safetensors or PyTorch files) or a GGUF file "
                 "into one native checkpoint. Numbers keep the type they have; config.json, "
                 "tokenizer and processor files are carried along, so that `export` gives the "
                 "directory back, bit for bit. Works through the files in pieces: a model larger "
                 "than memory is fine.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof *flags),
        .min_args = 1,
        .max_args = 1,
        .examples = examples,
    };
    char **args;
    int n;
    pc_supply o;
    pc_verify_report report;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;
    if (!out) return pc_fail(PC_ERR_USAGE, "percept-convert import: --out FILE.h5 is needed");
    if ((st = pc_supply_open(&o, args[0]))) return st;
    st = pc_native_import(out, &o, convert_verify_mode(verify), &report);
    pc_supply_close(&o);
    if (!st) convert_done(out, &report);
    return st;
}

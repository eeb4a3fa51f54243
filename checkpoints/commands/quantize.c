/*
 * quantize.c - percept-convert quantize: a model in fewer bits, as GGUF files.
 */
#include "checkpoints/commands/commands.h"

#include "checkpoints/commands/common.h"
#include "checkpoints/commands/export.h"

pc_status convert_quantize(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-convert quantize llava-1.5-7b-hf --out gguf",
        "percept-convert quantize runs/tune/checkpoints/best.h5 --type Q8_0 --out gguf",
        "percept-convert quantize big.gguf --type Q4_0 --out small.gguf",
        NULL,
    };
    convert_request r = {.format = "gguf", .dtype = "Q4_K_M", .verify = "auto", .seed = 1};
    const pc_cli_flag flags[] = {
        {"out", PC_CLI_STRING, &r.out, "DIR or FILE.gguf", "where the files go", 0, 0, NULL},
        {"type", PC_CLI_STRING, &r.dtype, "TYPE",
         "of matrices: Q8_0, Q6_K, Q5_0, Q5_1, Q4_0, Q4_1, Q4_K_S, Q4_K_M, F16, BF16, F32", 0, 0,
         NULL},
        {"tower", PC_CLI_BOOL, &r.tower, NULL, "the vision tower too; it stays in F16 otherwise", 0,
         0, NULL},
        {"adapter", PC_CLI_STRING, &r.adapter, "DIR", "a PEFT adapter to merge on the way", 0, 0,
         NULL},
        {"name", PC_CLI_STRING, &r.name, "TEXT", "the model's name", 0, 0, NULL},
        {"license", PC_CLI_STRING, &r.license, "TEXT", "its licence, for the metadata", 0, 0, NULL},
        {"verify", PC_CLI_STRING, &r.verify, "HOW", CONVERT_VERIFY_HELP, 0, 0, pc_verify_modes},
        {"seed", PC_CLI_INT, &r.seed, "N", "of the random inputs", 0, 1e9, NULL},
    };
    const pc_cli cli = {
        .command = "percept-convert quantize",
        .usage = "MODEL",
        .about = "Writes a model (a native checkpoint, a directory or a GGUF file) with its "
                 "matrices in fewer bits, as GGUF files, which percept and llama.cpp open. What a "
                 "type cannot hold, because its rows are no multiple of the block, takes the next "
                 "larger type. The result is opened again and held against the source.",
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
    if (!r.out) return pc_fail(PC_ERR_USAGE, "percept-convert quantize: --out DIR is needed");
    r.path = args[0];
    return convert_run(&r);
}

/*
 * main.c - percept-convert: checkpoints in and out.
 */
#include "checkpoints/commands/commands.h"
#include "model/core/cli.h"

int main(int argc, char **argv)
{
    static const pc_cli_command commands[] = {
        {"inspect", "what a checkpoint holds, whatever its format", convert_inspect},
        {"import", "a model directory or a GGUF file into a native checkpoint", convert_import},
        {"export", "a model into formats that others read", convert_export},
        {"quantize", "a model in fewer bits, as GGUF files", convert_quantize},
        {"merge", "low-rank adapters into the weights", convert_merge},
    };
    static const char *const examples[] = {
        "percept-convert inspect runs/quickstart/tune/checkpoints/best.h5",
        "percept-convert inspect llava-1.5-7b-hf --json",
        "percept-convert import llava-1.5-7b-hf --out llava.h5",
        "percept-convert export runs/tune/checkpoints/best.h5 --format hf --out my-llava",
        NULL,
    };
    static const pc_cli_program program = {
        .name = "percept-convert",
        .about = "Looks into checkpoints and turns one kind into another: percept's own (.h5), "
                 "Hugging Face directories, PEFT adapters, GGUF files.",
        .commands = commands,
        .command_count = (int)(sizeof commands / sizeof *commands),
        .examples = examples,
    };
    return pc_cli_main(&program, argc, argv);
}

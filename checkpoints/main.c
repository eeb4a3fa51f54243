/*
 * main.c - percept-convert: checkpoints in and out.
 */
#include "checkpoints/commands/commands.h"
#include "model/core/cli.h"

int main(int argc, char **argv)
{
    static const pc_cli_command commands[] = {
        {"inspect", "what a checkpoint holds, whatever its format", convert_inspect},
    };
    static const char *const examples[] = {
        "percept-convert inspect runs/quickstart/tune/checkpoints/best.h5",
        "percept-convert inspect llava-1.5-7b-hf --json",
        NULL,
    };
    static const pc_cli_program program = {
        .name = "percept-convert",
        .about = "Looks into checkpoints: percept's own (.h5), safetensors files, and Hugging Face "
                 "model directories.",
        .commands = commands,
        .command_count = (int)(sizeof commands / sizeof *commands),
        .examples = examples,
    };
    return pc_cli_main(&program, argc, argv);
}

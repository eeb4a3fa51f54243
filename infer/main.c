/*
 * main.c - percept: the commands that answer.
 */
#include "infer/infer.h"
#include "model/core/cli.h"

int main(int argc, char **argv)
{
    static const pc_cli_command commands[] = {
        {"logits", "the forward pass on given tensors, for comparisons", logits_main},
    };
    const pc_cli_program program = {
        .name = "percept",
        .about = "Asks, searches and judges vision-language models. MODEL is a native checkpoint "
                 "(.h5) or a "
                 "Hugging Face directory as published.",
        .commands = commands,
        .command_count = (int)(sizeof commands / sizeof commands[0]),
        .examples = (const char *const[]){"percept logits model.h5 --inputs in.safetensors --out "
                                          "out.safetensors",
                                          NULL},
    };
    return pc_cli_main(&program, argc, argv);
}

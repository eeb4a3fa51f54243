/*
 * main.c - percept-train.
 */
#include "model/core/cli.h"
#include "train/commands/commands.h"

int main(int argc, char **argv)
{
    return pc_cli_main(&train_program, argc, argv);
}

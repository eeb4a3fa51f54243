/*
 * commands.h - the commands of percept-train.
 *
 *   percept-train RECIPE ...         recipe.c      train by a recipe, plan one, describe recipes
 *   percept-train gradients MODEL    gradients.h   loss and every parameter's gradient for given inputs
 *   percept-train replay MODEL       replay.h      the exact steps of a stored trace
 */
#ifndef PC_TRAIN_COMMANDS_H
#define PC_TRAIN_COMMANDS_H

#include "model/core/cli.h"

extern const pc_cli_program train_program;

pc_status recipe_main(int argc, char **argv);

#endif

/*
 * recipe.c - percept-train RECIPE, and the program's table of commands.
 */
#include "train/commands/commands.h"
#include "train/commands/gradients.h"
#include "train/commands/replay.h"
#include "train/loop.h"
#include "train/recipe.h"

#include <string.h>

static pc_status use_recipe(const char *path, const pc_cli_strings *set, bool resume,
                            bool plan_only)
{
    recipe r;
    pc_status st = recipe_open(&r, path, set->list, set->count);
    if (st) return st;
    st = plan_only ? loop_plan(&r) : loop_train(&r, resume);
    recipe_close(&r);
    return st;
}

pc_status recipe_main(int argc, char **argv)
{
    pc_cli_strings set = {0};
    bool resume = false, plan_only = false, reference = false, schema = false;
    const pc_cli_flag flags[] = {
        {"set", PC_CLI_STRINGS, &set, "KEY=VALUE", "override a key of the recipe: optim.lr=1e-3", 0,
         0, NULL},
        {"resume", PC_CLI_BOOL, &resume, NULL, "go on with the run in the recipe's folder", 0, 0,
         NULL},
        {"plan", PC_CLI_BOOL, &plan_only, NULL, "print the plan of memory and FLOPs and stop", 0, 0,
         NULL},
        {"reference", PC_CLI_BOOL, &reference, NULL,
         "print the reference of all recipe keys (docs/recipes.md) and stop", 0, 0, NULL},
        {"schema", PC_CLI_BOOL, &schema, NULL, "print a JSON schema of recipes and stop", 0, 0,
         NULL},
    };
    const pc_cli cli = {
        .command = "percept-train",
        .usage = "RECIPE.yaml",
        .about =
            "Trains by a recipe: one YAML file is one run. `percept-train help-recipe` lists its "
            "keys. The run's folder gets checkpoints, metrics, an event file for TensorBoard, "
            "a manifest and report.html. Stopped by a signal or killed, it goes on with --resume "
            "and ends in the same bytes.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof flags[0]),
        .min_args = 0,
        .max_args = 1,
        .examples = (const char *const[]){"percept-train configs/quickstart/tune.yaml",
                                          "percept-train configs/quickstart/tune.yaml --plan",
                                          "percept-train recipe.yaml --set optim.lr=1e-3",
                                          "percept-train recipe.yaml --resume", NULL},
    };
    char **args;
    int count;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &count);
    if (st || !args) goto out;
    if (reference)
        recipe_reference(stdout);
    else if (schema)
        st = recipe_schema(stdout);
    else if (count == 0)
        st = pc_fail(PC_ERR_USAGE, "percept-train: expected a recipe");
    else
        st = use_recipe(args[0], &set, resume, plan_only);
out:
    pc_cli_strings_close(&set);
    return st;
}

static pc_status help_recipe_main(int argc, char **argv)
{
    const pc_cli cli = {.command = "percept-train help-recipe",
                        .about = "Prints every key of a recipe with its type, default, range and "
                                 "meaning."};
    char **args;
    int count;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &count);
    if (!st && args) recipe_help(stdout);
    return st;
}

static const pc_cli_command commands[] = {
    {"gradients", "loss and every parameter's gradient for given inputs", gradients_main},
    {"replay", "the exact optimiser steps of a stored trace", replay_main},
    {"help-recipe", "every key of a recipe", help_recipe_main},
};

const pc_cli_program train_program = {
    .name = "percept-train",
    .about = "Trains vision-language models on the CPU: percept-train RECIPE.yaml",
    .commands = commands,
    .command_count = (int)(sizeof commands / sizeof commands[0]),
    .examples = (const char *const[]){"percept-train configs/quickstart/pretrain.yaml",
                                      "percept-train recipe.yaml --plan",
                                      "percept-train recipe.yaml --resume",
                                      "percept-train help-recipe", NULL},
    .fallback = recipe_main,
};

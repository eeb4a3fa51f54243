/*
 * cli.h - command lines: flags from a table, sub-commands from a table, help from both.
 *
 *   percept-convert inspect FILE --json        program, command, positional argument, flag
 *
 * Flags are long: `--name VALUE` or `--name=VALUE`, in any order with the positional arguments; `--` ends
 * them. A value that itself begins with `--` needs the `=`. A flag given twice is wrong usage, unless its
 * kind is PC_CLI_STRINGS or PC_CLI_BOOL. Unknown flags, commands and choices name their nearest neighbour.
 * Everybody has `--help` (or `-h`) and `--version`. Exit status: 0 done, 1 failed, 2 wrong usage.
 */
#ifndef PC_CORE_CLI_H
#define PC_CORE_CLI_H

#include "model/core/status.h"

typedef enum pc_cli_kind {
    PC_CLI_BOOL,    // bool *: set to true; takes no value
    PC_CLI_INT,     // int64_t *
    PC_CLI_REAL,    // double *, finite
    PC_CLI_STRING,  // const char **: points into argv
    PC_CLI_STRINGS, // pc_cli_strings *: one more each time the flag is given
} pc_cli_kind;

typedef struct pc_cli_strings {
    const char **list; // malloc'ed; the texts point into argv
    int count;
} pc_cli_strings;
void pc_cli_strings_close(pc_cli_strings *s);

typedef struct pc_cli_flag {
    const char *name; // without the dashes: "max-tokens"
    pc_cli_kind kind;
    void *target;      // holds the default before parsing; --help shows it unless 0 or NULL
    const char *value; // what stands for the value in --help: "N", "FILE"; NULL for BOOL
    const char *help;  // one sentence, without a full stop
    double min, max;   // range of INT and REAL; both 0: no limit
    const char *const *choices; // allowed texts of STRING, NULL-terminated; NULL: any
} pc_cli_flag;

// One command. Zeroed members are fine: no flags, no examples, no positional arguments.
typedef struct pc_cli {
    const char *command; // as typed: "percept-convert inspect"
    const char *usage;   // its positional arguments: "FILE_OR_DIR"
    const char *about;   // what it does: a paragraph or two, wrapped when printed
    const pc_cli_flag *flags;
    int flag_count;
    int min_args, max_args;      // positional arguments; max_args -1: any number
    const char *const *examples; // whole command lines, NULL-terminated
} pc_cli;

/*
 * Parses argv[0..argc) (no program name in front) into the flags' targets. On success *args and *n are the
 * positional arguments; they lie in argv, whose order changes. When --help or --version was asked for it
 * has been printed and *args is NULL: the command returns PC_OK and does nothing. Wrong usage is PC_ERR_USAGE.
 */
pc_status pc_cli_parse(const pc_cli *cli, int argc, char **argv, char ***args, int *n);

typedef struct pc_cli_command {
    const char *name;                        // "inspect"; may have two words: "tokenizer train"
    const char *help;                        // one line
    pc_status (*run)(int argc, char **argv); // what stands behind the name; ends in pc_cli_parse
} pc_cli_command;

typedef struct pc_cli_program {
    const char *name, *about;
    const pc_cli_command *commands;
    int command_count;
    const char *const *examples;
    // Takes the command line when its first word is no command (percept-train RECIPE); NULL: an error.
    pc_status (*fallback)(int argc, char **argv);
} pc_cli_program;

// The whole of a main(): dispatches, prints errors to stderr, returns the exit status. An interrupted
// run that has written its state (PC_ERR_INTERRUPTED) says so and ends in 0.
int pc_cli_main(const pc_cli_program *p, int argc, char **argv);

#endif

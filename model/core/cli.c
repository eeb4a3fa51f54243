/*
 * cli.c - parsing by the table, help from the table, dispatch to commands.
 */
#include "model/core/cli.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS_MAX  64
#define WORDS_MAX  128
#define HELP_WIDTH 96

void pc_cli_strings_close(pc_cli_strings *s)
{
    free(s->list);
    *s = (pc_cli_strings){0};
}

/* ---- help ---- */

// Prints `text` wrapped at HELP_WIDTH; the cursor stands at column `at`, further lines begin at `indent`.
static void print_wrapped(const char *text, int at, int indent)
{
    bool fresh = true;
    while (*text) {
        if (*text == '\n') {
            printf("\n%*s", indent, "");
            at = indent;
            fresh = true;
            text++;
            continue;
        }
        const int n = (int)strcspn(text, " \n");
        if (!fresh && at + 1 + n > HELP_WIDTH) {
            printf("\n%*s", indent, "");
            at = indent;
            fresh = true;
        }
        at += printf("%s%.*s", fresh ? "" : " ", n, text);
        fresh = false;
        text += n;
        while (*text == ' ') text++;
    }
    printf("\n");
}

static void print_row(const char *left, const char *right, int width)
{
    const int at = printf("  %-*s  ", width, left);
    if (at > width + 4) printf("\n%*s", width + 4, "");
    print_wrapped(right, width + 4, width + 4);
}

static void print_examples(const char *const *examples)
{
    if (!examples || !*examples) return;
    printf("\nExamples:\n");
    for (; *examples; examples++) printf("  %s\n", *examples);
}

static void flag_help(char *buf, size_t size, const pc_cli_flag *f)
{
    int n = snprintf(buf, size, "%s", f->help);
    for (const char *const *c = f->choices; c && *c && n < (int)size; c++)
        n += snprintf(buf + n, size - (size_t)n, "%s%s", c == f->choices ? ": " : ", ", *c);
    if (n >= (int)size) return;
    if (f->kind == PC_CLI_INT && *(const int64_t *)f->target)
        snprintf(buf + n, size - (size_t)n, " (default %lld)",
                 (long long)*(const int64_t *)f->target);
    else if (f->kind == PC_CLI_REAL && *(const double *)f->target != 0.0)
        snprintf(buf + n, size - (size_t)n, " (default %g)", *(const double *)f->target);
    else if (f->kind == PC_CLI_STRING && *(const char *const *)f->target)
        snprintf(buf + n, size - (size_t)n, " (default %s)", *(const char *const *)f->target);
    else if (f->kind == PC_CLI_STRINGS)
        snprintf(buf + n, size - (size_t)n, " (may be repeated)");
}

static void print_help(const pc_cli *cli)
{
    printf("Usage: %s%s%s%s\n\n", cli->command, cli->usage ? " " : "", cli->usage ? cli->usage : "",
           cli->flag_count ? " [flags]" : "");
    print_wrapped(cli->about, 0, 0);
    printf("\nFlags:\n");
    for (int i = 0; i < cli->flag_count; i++) {
        const pc_cli_flag *f = &cli->flags[i];
        char left[96], right[1024];
        snprintf(left, sizeof left, "--%s%s%s", f->name, f->value ? " " : "",
                 f->value ? f->value : "");
        flag_help(right, sizeof right, f);
        print_row(left, right, 24);
    }
    print_row("--help", "this text", 24);
    print_row("--version", "the version", 24);
    print_examples(cli->examples);
}

/* ---- parsing ---- */

static bool in_range(const pc_cli_flag *f, double v)
{
    return (f->min == 0.0 && f->max == 0.0) || (v >= f->min && v <= f->max);
}

static pc_status bad_number(const pc_cli_flag *f, const char *text)
{
    const char *what = f->kind == PC_CLI_INT ? "an integer" : "a number";
    if (f->min == 0.0 && f->max == 0.0)
        return pc_fail(PC_ERR_USAGE, "--%s is '%s', expected %s", f->name, text, what);
    return pc_fail(PC_ERR_USAGE, "--%s is '%s', expected %s from %.15g to %.15g", f->name, text,
                   what, f->min, f->max);
}

static pc_status check_choice(const pc_cli_flag *f, const char *text)
{
    char all[512] = "";
    size_t n = 0;
    int count = 0;
    for (const char *const *c = f->choices; *c; c++, count++) {
        if (!strcmp(*c, text)) return PC_OK;
        if (n < sizeof all)
            n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", count ? ", " : "", *c);
    }
    const char *near = pc_nearest(text, f->choices, count);
    return pc_fail(PC_ERR_USAGE, "--%s is '%s', expected one of: %s%s%s%s", f->name, text, all,
                   near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

static pc_status set_flag(const pc_cli_flag *f, const char *text)
{
    char *end = NULL;
    errno = 0;
    switch (f->kind) {
    case PC_CLI_BOOL: *(bool *)f->target = true; return PC_OK;
    case PC_CLI_INT: {
        const long long v = strtoll(text, &end, 10);
        if (!*text || *end || errno || !in_range(f, (double)v)) return bad_number(f, text);
        *(int64_t *)f->target = v;
        return PC_OK;
    }
    case PC_CLI_REAL: {
        const double v = strtod(text, &end);
        if (!*text || *end || !isfinite(v) || !in_range(f, v)) return bad_number(f, text);
        *(double *)f->target = v;
        return PC_OK;
    }
    case PC_CLI_STRING:
        if (f->choices) {
            pc_status st = check_choice(f, text);
            if (st) return st;
        }
        *(const char **)f->target = text;
        return PC_OK;
    case PC_CLI_STRINGS: {
        pc_cli_strings *s = f->target;
        const char **list = realloc(s->list, (size_t)(s->count + 1) * sizeof *list);
        if (!list) return pc_fail(PC_ERR_MEMORY, "values of --%s", f->name);
        s->list = list;
        s->list[s->count++] = text;
        return PC_OK;
    }
    }
    return PC_OK;
}

static pc_status unknown_flag(const pc_cli *cli, const char *arg, int length)
{
    const char *names[FLAGS_MAX + 2];
    char word[64];
    int n = 0;
    for (; n < cli->flag_count; n++) names[n] = cli->flags[n].name;
    names[n++] = "help";
    names[n++] = "version";
    snprintf(word, sizeof word, "%.*s", length - 2, arg + 2);
    const char *near = pc_nearest(word, names, n);
    if (near)
        return pc_fail(PC_ERR_USAGE, "unknown flag '%.*s' (did you mean --%s?)", length, arg, near);
    return pc_fail(PC_ERR_USAGE, "unknown flag '%.*s'", length, arg);
}

// argv[*i] is a flag: sets it and moves *i onto its value where that is a word of its own.
static pc_status parse_flag(const pc_cli *cli, int argc, char **argv, int *i, bool *given)
{
    const char *arg = argv[*i], *equals = strchr(arg, '=');
    const size_t length = equals ? (size_t)(equals - arg) : strlen(arg);
    if (arg[1] != '-') return pc_fail(PC_ERR_USAGE, "unknown flag '%s': flags begin with --", arg);
    int k = 0;
    while (k < cli->flag_count && (strlen(cli->flags[k].name) != length - 2 ||
                                   memcmp(cli->flags[k].name, arg + 2, length - 2) != 0))
        k++;
    if (k == cli->flag_count) return unknown_flag(cli, arg, (int)length);

    const pc_cli_flag *f = &cli->flags[k];
    const bool repeats = f->kind == PC_CLI_STRINGS || f->kind == PC_CLI_BOOL;
    if (given[k] && !repeats) return pc_fail(PC_ERR_USAGE, "--%s is given twice", f->name);
    given[k] = true;
    if (f->kind == PC_CLI_BOOL) {
        if (equals) return pc_fail(PC_ERR_USAGE, "--%s takes no value", f->name);
        return set_flag(f, "");
    }
    if (equals) return set_flag(f, equals + 1);
    if (*i + 1 >= argc || !strncmp(argv[*i + 1], "--", 2))
        return pc_fail(PC_ERR_USAGE, "--%s needs a value: --%s %s", f->name, f->name,
                       f->value ? f->value : "VALUE");
    (*i)++;
    return set_flag(f, argv[*i]);
}

static pc_status check_args(const pc_cli *cli, int n, char **args)
{
    if (cli->max_args >= 0 && n > cli->max_args)
        return pc_fail(PC_ERR_USAGE, "unexpected argument '%s'", args[cli->max_args]);
    if (n < cli->min_args)
        return pc_fail(PC_ERR_USAGE, "%s expects %s", cli->command, cli->usage ? cli->usage : "");
    return PC_OK;
}

pc_status pc_cli_parse(const pc_cli *cli, int argc, char **argv, char ***args, int *n)
{
    bool given[FLAGS_MAX] = {false};
    PC_ASSERT(cli->flag_count <= FLAGS_MAX, "%d flags of at most %d", cli->flag_count, FLAGS_MAX);
    *args = NULL;
    *n = 0;
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help(cli);
            return PC_OK;
        }
        if (!strcmp(argv[i], "--version")) {
            printf("%s %s\n", cli->command, PERCEPT_VERSION);
            return PC_OK;
        }
    }
    int kept = 0;
    bool flags = true;
    for (int i = 0; i < argc; i++) {
        if (flags && !strcmp(argv[i], "--")) {
            flags = false;
        } else if (flags && argv[i][0] == '-' && argv[i][1]) {
            pc_status st = parse_flag(cli, argc, argv, &i, given);
            if (st) return st;
        } else {
            argv[kept++] = argv[i];
        }
    }
    pc_status st = check_args(cli, kept, argv);
    if (st) return st;
    *args = argv;
    *n = kept;
    return PC_OK;
}

/* ---- dispatch ---- */

// How many leading words of argv are the words of `name`; 0 when they differ.
static int match_words(const char *name, int argc, char **argv)
{
    int words = 0;
    while (*name) {
        const size_t n = strcspn(name, " ");
        if (words >= argc || strlen(argv[words]) != n || memcmp(argv[words], name, n) != 0)
            return 0;
        words++;
        name += n;
        while (*name == ' ') name++;
    }
    return words;
}

static void print_commands(const pc_cli_program *p)
{
    int width = 10;
    for (int i = 0; i < p->command_count; i++)
        if ((int)strlen(p->commands[i].name) > width) width = (int)strlen(p->commands[i].name);
    printf("\nCommands (each has its own --help):\n");
    for (int i = 0; i < p->command_count; i++)
        print_row(p->commands[i].name, p->commands[i].help, width);
}

static void print_program(const pc_cli_program *p)
{
    char help[] = "--help", *argv[] = {help};
    if (p->fallback) {
        (void)p->fallback(1, argv);
    } else {
        printf("Usage: %s COMMAND ...\n\n", p->name);
        print_wrapped(p->about, 0, 0);
    }
    if (p->command_count) print_commands(p);
    print_examples(p->examples);
}

static pc_status unknown_command(const pc_cli_program *p, const char *word)
{
    const char *names[WORDS_MAX];
    int n = 0;
    for (; n < p->command_count && n < WORDS_MAX; n++) names[n] = p->commands[n].name;
    const char *near = pc_nearest(word, names, n);
    const char *what = word[0] == '-' ? "flag" : "command";
    if (near)
        return pc_fail(PC_ERR_USAGE, "unknown %s '%s' (did you mean '%s'?)", what, word, near);
    return pc_fail(PC_ERR_USAGE, "unknown %s '%s'", what, word);
}

// Finds the command with the most matching words and runs it; *ran is its name, for the hint.
static pc_status dispatch(const pc_cli_program *p, int argc, char **argv, const char **ran)
{
    const pc_cli_command *best = NULL;
    int words = 0;
    for (int i = 0; i < p->command_count; i++) {
        const int w = match_words(p->commands[i].name, argc, argv);
        if (w > words) {
            words = w;
            best = &p->commands[i];
        }
    }
    if (best) {
        *ran = best->name;
        return best->run(argc - words, argv + words);
    }
    if (argc && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"))) {
        print_program(p);
        return PC_OK;
    }
    if (argc && !strcmp(argv[0], "--version")) {
        printf("%s %s\n", p->name, PERCEPT_VERSION);
        return PC_OK;
    }
    if (p->fallback) return p->fallback(argc, argv);
    if (!argc) return pc_fail(PC_ERR_USAGE, "%s expects a command", p->name);
    return unknown_command(p, argv[0]);
}

int pc_cli_main(const pc_cli_program *p, int argc, char **argv)
{
    const char *ran = NULL;
    PC_ASSERT(argc >= 1, "argc is %d", argc);
    pc_status st = dispatch(p, argc - 1, argv + 1, &ran);
    if (!st && (fflush(stdout) != 0 || ferror(stdout))) st = pc_fail_errno("standard output");
    if (!st) return 0;
    if (st == PC_ERR_INTERRUPTED) {
        fprintf(stderr, "%s\n", pc_error_text());
        return 0;
    }
    fprintf(stderr, "error: %s\n", pc_error_text());
    if (st != PC_ERR_USAGE) return 1;
    fprintf(stderr, "see '%s%s%s --help'\n", p->name, ran ? " " : "", ran ? ran : "");
    return 2;
}

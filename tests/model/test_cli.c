/*
 * test_cli.c - flags land in their targets, wrong usage names what is wrong and what was meant, and a
 * program's exit status says which it was.
 */
#include "model/core/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct values {
    bool json;
    int64_t count;
    double rate;
    const char *format;
    pc_cli_strings set;
    char **args;
    int n;
} values;

// Parses a command line given as words; argv is a copy, as main's is writable.
static pc_status parse(values *v, const char *const *words)
{
    static const char *const formats[] = {"hf", "gguf", NULL};
    static char *argv[16];
    int argc = 0;
    for (; words[argc]; argc++) argv[argc] = (char *)(uintptr_t)words[argc];
    *v = (values){.count = 3};
    const pc_cli_flag flags[] = {
        {"json", PC_CLI_BOOL, &v->json, NULL, "as JSON", 0, 0, NULL},
        {"count", PC_CLI_INT, &v->count, "N", "how many", 1, 100, NULL},
        {"rate", PC_CLI_REAL, &v->rate, "R", "how fast", 0, 0, NULL},
        {"format", PC_CLI_STRING, &v->format, "F", "which format", 0, 0, formats},
        {"set", PC_CLI_STRINGS, &v->set, "K=V", "a key", 0, 0, NULL},
    };
    const pc_cli cli = {"prog cmd", "FILE [MORE]", "Does it.", flags, 5, 1, 2, NULL};
    return pc_cli_parse(&cli, argc, argv, &v->args, &v->n);
}
#define WORDS(...)                                                                                 \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static void test_values(void **state)
{
    (void)state;
    values v;
    assert_int_equal(parse(&v, WORDS("a.h5", "--json", "--count", "7", "--rate=-1.5e3", "--set",
                                     "x=1", "--format", "gguf", "--set=y=2", "-")),
                     PC_OK);
    assert_true(v.json);
    assert_int_equal(v.count, 7);
    assert_true(v.rate == -1500.0);
    assert_string_equal(v.format, "gguf");
    assert_int_equal(v.set.count, 2);
    assert_string_equal(v.set.list[0], "x=1");
    assert_string_equal(v.set.list[1], "y=2");
    assert_int_equal(v.n, 2);
    assert_string_equal(v.args[0], "a.h5");
    assert_string_equal(v.args[1], "-");
    pc_cli_strings_close(&v.set);

    assert_int_equal(parse(&v, WORDS("--rate", "-2", "--", "--json")), PC_OK);
    assert_true(v.rate == -2.0 && !v.json && v.n == 1);
    assert_int_equal(v.count, 3);
    assert_string_equal(v.args[0], "--json");
}

static void test_wrong_usage(void **state)
{
    (void)state;
    static const struct {
        const char *words[4], *message;
    } cases[] = {
        {{"f", "--jsno"}, "unknown flag '--jsno' (did you mean --json?)"},
        {{"f", "--zzzzzz"}, "unknown flag '--zzzzzz'"},
        {{"f", "--cuont=3"}, "did you mean --count?"},
        {{"f", "--hlep"}, "did you mean --help?"},
        {{"f", "-j"}, "flags begin with --"},
        {{"f", "--count"}, "--count needs a value"},
        {{"f", "--count", "--json"}, "--count needs a value"},
        {{"f", "--count", "x"}, "--count is 'x', expected an integer from 1 to 100"},
        {{"f", "--count="}, "expected an integer"},
        {{"f", "--count", "101"}, "from 1 to 100"},
        {{"f", "--count", "9999999999999999999999"}, "from 1 to 100"},
        {{"f", "--rate", "nan"}, "expected a number"},
        {{"f", "--rate", "1.5x"}, "expected a number"},
        {{"f", "--json=1"}, "--json takes no value"},
        {{"f", "--count=1", "--count=2"}, "given twice"},
        {{"f", "--format", "ggfu"}, "expected one of: hf, gguf (did you mean 'gguf'?)"},
        {{"a", "b", "c"}, "unexpected argument 'c'"},
        {{"--json"}, "expects FILE"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        values v;
        const pc_status st = parse(&v, cases[i].words);
        if (st != PC_ERR_USAGE || !strstr(pc_error_text(), cases[i].message))
            fail_msg("case %zu: status %d, '%s', expected '%s'", i, (int)st, pc_error_text(),
                     cases[i].message);
        pc_cli_strings_close(&v.set);
    }
}

/* ---- programs ---- */

static char ran[32];

static pc_status run_scenes(int argc, char **argv)
{
    snprintf(ran, sizeof ran, "scenes %d %s", argc, argc ? argv[0] : "");
    return PC_OK;
}

static pc_status run_train(int argc, char **argv)
{
    snprintf(ran, sizeof ran, "train %d %s", argc, argc ? argv[0] : "");
    return PC_OK;
}

static pc_status run_broken(int argc, char **argv)
{
    (void)argc, (void)argv;
    return pc_fail(PC_ERR_INPUT, "broken");
}

static pc_status run_stopped(int argc, char **argv)
{
    (void)argc, (void)argv;
    return pc_fail(PC_ERR_INTERRUPTED, "stopped");
}

static pc_status run_fallback(int argc, char **argv)
{
    snprintf(ran, sizeof ran, "fallback %d %s", argc, argc ? argv[0] : "");
    return PC_OK;
}

static int run(bool fallback, const char *const *words)
{
    static const pc_cli_command commands[] = {
        {"scenes", "draws", run_scenes},
        {"tokenizer train", "learns", run_train},
        {"broken", "fails", run_broken},
        {"stopped", "stops", run_stopped},
    };
    const pc_cli_program p = {"prog", "About.", commands, 4, NULL, fallback ? run_fallback : NULL};
    static char *argv[16];
    static char name[] = "prog";
    int argc = 1;
    argv[0] = name;
    for (; words[argc - 1]; argc++) argv[argc] = (char *)(uintptr_t)words[argc - 1];
    ran[0] = '\0';
    return pc_cli_main(&p, argc, argv);
}

static void test_dispatch(void **state)
{
    (void)state;
    assert_int_equal(run(false, WORDS("scenes", "out")), 0);
    assert_string_equal(ran, "scenes 1 out");
    assert_int_equal(run(false, WORDS("tokenizer", "train", "t.txt", "--vocab=3")), 0);
    assert_string_equal(ran, "train 2 t.txt");
    assert_int_equal(run(false, WORDS("broken")), 1);
    assert_int_equal(run(false, WORDS("stopped")), 0);
    assert_int_equal(run(false, WORDS("scnees")), 2);
    assert_non_null(strstr(pc_error_text(), "did you mean 'scenes'?"));
    assert_int_equal(run(false, WORDS("tokenizer")), 2);
    assert_int_equal(run(false, WORDS("--verbose")), 2);
    assert_int_equal(run(false, (const char *const[]){NULL}), 2);
    assert_int_equal(run(true, WORDS("recipe.yaml", "--plan")), 0);
    assert_string_equal(ran, "fallback 2 recipe.yaml");
    assert_int_equal(run(true, WORDS("scenes")), 0);
    assert_string_equal(ran, "scenes 0 ");
}

// What --help prints, through a pipe of our own.
static void test_help(void **state)
{
    (void)state;
    char text[8192] = "";
    int ends[2], saved = dup(1);
    values v;
    fflush(stdout);
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], 1) >= 0);
    const pc_status st = parse(&v, WORDS("--nonsense", "--help"));
    char **args = v.args;
    const pc_status st2 = parse(&v, WORDS("--version"));
    const int status = run(false, WORDS("--help"));
    fflush(stdout);
    assert_true(dup2(saved, 1) >= 0);
    close(saved);
    close(ends[1]);
    const ssize_t n = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    assert_true(n > 0);
    assert_int_equal(st, PC_OK);
    assert_int_equal(st2, PC_OK);
    assert_int_equal(status, 0);
    assert_null(args);
    assert_null(v.args);
    assert_non_null(strstr(text, "Usage: prog cmd FILE [MORE] [flags]"));
    assert_non_null(strstr(text, "--count N"));
    assert_non_null(strstr(text, "how many (default 3)"));
    assert_non_null(strstr(text, "which format: hf, gguf"));
    assert_non_null(strstr(text, "a key (may be repeated)"));
    assert_non_null(strstr(text, "prog cmd " PERCEPT_VERSION "\n"));
    assert_non_null(strstr(text, "tokenizer train  learns"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_wrong_usage),
        cmocka_unit_test(test_dispatch),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

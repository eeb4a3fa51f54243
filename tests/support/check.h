/*
 * check.h - CHECK(condition): prints the place and the condition when it does not hold, counts, goes on.
 * A test's main ends in `return check_report("what");`.
 */
#ifndef PC_TESTS_CHECK_H
#define PC_TESTS_CHECK_H

#include <stdio.h>

static int check_failures, check_count;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        check_count++;                                                                             \
        if (!(condition)) {                                                                        \
            check_failures++;                                                                      \
            printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #condition);                          \
        }                                                                                          \
    } while (0)

static inline int check_report(const char *what)
{
    printf("%s %s: %d checks, %d failed\n", check_failures ? "FAILED" : "ok    ", what, check_count,
           check_failures);
    return check_failures > 0;
}

#endif

/*
 * status.h - how anything fails.
 *
 * A function that can fail on bad input, a full disk or a missing device returns a pc_status. The
 * call that makes the code also records the message (pc_fail); each level on the way up may add what
 * it was doing (pc_context). The message is per thread. Only a main() prints it and exits.
 * A broken promise inside the toolkit is a PC_ASSERT: it prints both sides and aborts.
 *
 * The core: status.h this file, tensor.h views, memory.h arenas, threads.h the pool, rng.h numbers by counter,
 * file.h whole files and SHA-256, log.h lines and bars, cli.h flags and commands.
 */
#ifndef PC_CORE_STATUS_H
#define PC_CORE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum pc_status {
    PC_OK = 0,
    PC_ERR_USAGE,       // wrong flags: exit status 2
    PC_ERR_INPUT,       // a value, row, image or recipe key is wrong
    PC_ERR_FORMAT,      // a file's bytes are not what its format says
    PC_ERR_IO,          // the operating system said no
    PC_ERR_MEMORY,      // an allocation failed or a plan does not fit
    PC_ERR_NUMERIC,     // a value is not finite
    PC_ERR_INTERRUPTED, // SIGINT or SIGTERM: state has been written
} pc_status;

#if defined(__GNUC__)
#define PC_PRINTF(a, b) __attribute__((format(printf, a, b)))
#define PC_NORETURN     __attribute__((noreturn))
#else
#define PC_PRINTF(a, b)
#define PC_NORETURN
#endif

// Records the message (replacing any earlier one) and returns `code`.
pc_status pc_fail(pc_status code, const char *fmt, ...) PC_PRINTF(2, 3);

// Like pc_fail for PC_ERR_IO, with strerror(errno) appended.
pc_status pc_fail_errno(const char *fmt, ...) PC_PRINTF(1, 2);

// Puts "<context>: " before the recorded message; returns `st` unchanged. PC_OK passes through.
pc_status pc_context(pc_status st, const char *fmt, ...) PC_PRINTF(2, 3);

// The calling thread's message; "" when none. pc_error_set moves a worker's message to its joiner.
const char *pc_error_text(void);
void pc_error_set(const char *text);

// The nearest of n names by edit distance, or NULL when none is near enough to suggest.
const char *pc_nearest(const char *word, const char *const *names, int n);

void pc_assert_failed(const char *file, int line, const char *expr, const char *fmt, ...)
    PC_PRINTF(4, 5) PC_NORETURN;
// PC_ASSERT(a == b, "y has %lld rows, x %lld", ...): the message prints both sides.
#define PC_ASSERT(cond, ...)                                                                       \
    do {                                                                                           \
        if (!(cond)) pc_assert_failed(__FILE__, __LINE__, #cond, __VA_ARGS__);                     \
    } while (0)

#endif

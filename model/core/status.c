/*
 * status.c - the per-thread error message, and the assertion that ends the process.
 */
#include "model/core/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAX 2048 // longer messages are cut; contexts go in front, so the cut is at the end

static _Thread_local char message[MESSAGE_MAX];

static void record(const char *fmt, va_list args)
{
    char text[MESSAGE_MAX]; // the arguments may point into the old message
    vsnprintf(text, sizeof text, fmt, args);
    memcpy(message, text, sizeof message);
}

static void append(const char *text)
{
    const size_t used = strlen(message);
    snprintf(message + used, sizeof message - used, "%s", text);
}

pc_status pc_fail(pc_status code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    record(fmt, args);
    va_end(args);
    return code;
}

pc_status pc_fail_errno(const char *fmt, ...)
{
    const int code = errno;
    char why[256] = "";
    va_list args;
    va_start(args, fmt);
    record(fmt, args);
    va_end(args);
    append(": ");
    append(strerror_r(code, why, sizeof why));
    return PC_ERR_IO;
}

pc_status pc_context(pc_status st, const char *fmt, ...)
{
    if (st == PC_OK) return st;
    char inner[MESSAGE_MAX];
    memcpy(inner, message, sizeof inner);
    va_list args;
    va_start(args, fmt);
    record(fmt, args);
    va_end(args);
    append(": ");
    append(inner);
    return st;
}

const char *pc_error_text(void)
{
    return message;
}

void pc_error_set(const char *text)
{
    snprintf(message, sizeof message, "%s", text);
}

/* Edit distance with insertion, deletion, substitution and the swap of two neighbours. */
#define WORD_MAX 64
static int edit_distance(const char *a, const char *b)
{
    const size_t n = strlen(a), m = strlen(b);
    if (n >= WORD_MAX || m >= WORD_MAX) return WORD_MAX;
    int row[3][WORD_MAX];
    int *before = row[0], *last = row[1], *now = row[2];
    for (size_t j = 0; j <= m; j++) last[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < best) best = before[j - 2] + 1;
            now[j] = best;
        }
        int *const oldest = before;
        before = last;
        last = now;
        now = oldest;
    }
    return last[m];
}

const char *pc_nearest(const char *word, const char *const *names, int n)
{
    const char *best = NULL;
    int best_distance = WORD_MAX;
    for (int i = 0; i < n; i++) {
        const int d = edit_distance(word, names[i]);
        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    const size_t length = strlen(word);
    const int near = length < 3 ? 1 : 1 + (int)length / 3; // a third of the letters may be wrong
    return best_distance <= near ? best : NULL;
}

void pc_assert_failed(const char *file, int line, const char *expr, const char *fmt, ...)
{
    char text[MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fprintf(stderr, "%s:%d: broken promise: %s: %s\n", file, line, expr, text);
    abort();
}

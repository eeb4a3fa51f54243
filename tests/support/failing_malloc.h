/*
 * failing_malloc.h - the n-th allocation fails, for every n.
 *
 * Include in one file of a test program: it replaces malloc, calloc, realloc and free of the whole program by
 * ones that can be told to fail, and that count what is alive. Under a sanitizer that brings its own, or under
 * valgrind, nothing fails: ask failing_works().
 */
#ifndef PC_TESTS_FAILING_MALLOC_H
#define PC_TESTS_FAILING_MALLOC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAILING_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FAILING_MALLOC 0
#endif
#endif
#ifndef FAILING_MALLOC
#define FAILING_MALLOC 1
#endif

// Allocations of this thread until the one that fails; 0: none will. Counts down.
static _Thread_local volatile long failing_in;
static _Thread_local volatile int failed_once;
static atomic_long failing_alive; // blocks that are not yet freed

#if FAILING_MALLOC
// The C library's own, under the names that it keeps for replacements.
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void __libc_free(void *p);

static bool fails_now(void)
{
    if (failing_in == 0) return false;
    failing_in = failing_in - 1;
    if (failing_in > 0) return false;
    failed_once = 1;
    return true;
}

static void *alive(void *p)
{
    if (p) atomic_fetch_add(&failing_alive, 1);
    return p;
}

void *malloc(size_t size)
{
    return fails_now() ? NULL : alive(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : alive(__libc_calloc(n, size));
}

void *realloc(void *p, size_t size)
{
    if (fails_now()) return NULL;
    return p ? __libc_realloc(p, size) : alive(__libc_realloc(p, size));
}

void free(void *p)
{
    if (p) atomic_fetch_sub(&failing_alive, 1);
    __libc_free(p);
}
#endif

static bool failing_works(void)
{
    failing_in = 1;
    void *volatile p = malloc(1);
    const bool works = failing_in == 0 && !p;
    failing_in = 0;
    free(p);
    return works;
}

#endif

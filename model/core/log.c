/*
 * log.c - lines and bars on standard error.
 */
#include "model/core/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR_EVERY  0.1  // seconds between two drawings of a bar
#define LINE_EVERY 10.0 // seconds between two plain lines

static atomic_bool quiet;
static pthread_mutex_t terminal = PTHREAD_MUTEX_INITIALIZER; // one writer at a time
static bool bar_on_screen; // a line that starts must first clear the bar; guarded by `terminal`

static void write_line(const char *head, const char *fmt, va_list args)
{
    char text[4096];
    vsnprintf(text, sizeof text, fmt, args);
    pthread_mutex_lock(&terminal);
    if (bar_on_screen) fputs("\r\033[K", stderr);
    bar_on_screen = false;
    fprintf(stderr, "%s%s\n", head, text);
    pthread_mutex_unlock(&terminal);
}

void pc_log(const char *fmt, ...)
{
    if (atomic_load(&quiet)) return;
    va_list args;
    va_start(args, fmt);
    write_line("", fmt, args);
    va_end(args);
}

void pc_warn(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    write_line("warning: ", fmt, args);
    va_end(args);
}

void pc_log_quiet(bool on)
{
    atomic_store(&quiet, on);
}

double pc_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 75 s as "1:15", two hours as "2:00:00". */
static void clock_text(char *out, size_t size, double seconds)
{
    const long s = seconds > 0 ? (long)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(out, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, size, "%ld:%02ld", s / 60, s % 60);
}

static void show(pc_progress *p, const char *note, bool last)
{
    const double seconds = pc_seconds() - p->started;
    const double rate = seconds > 0 ? (double)(p->done - p->first) / seconds : 0.0;
    char time[32], text[512];
    clock_text(time, sizeof time,
               last || rate <= 0 ? seconds : (double)(p->total - p->done) / rate);
    snprintf(text, sizeof text, "%s %lld/%lld %s, %.*f/s, %s %s%s%s", p->label, (long long)p->done,
             (long long)p->total, p->unit, rate < 10 ? 2 : 0, rate, time, last ? "in all" : "left",
             note && *note ? ", " : "", note ? note : "");

    pthread_mutex_lock(&terminal);
    if (p->bar) {
        enum { WIDTH = 24 };
        char bar[WIDTH + 1];
        const int64_t full = p->total > 0 ? p->done * WIDTH / p->total : WIDTH;
        for (int i = 0; i < WIDTH; i++) bar[i] = i < full ? '#' : '.';
        bar[WIDTH] = '\0';
        fprintf(stderr, "\r\033[K[%s] %s%s", bar, text, last ? "\n" : "");
        bar_on_screen = !last;
    } else {
        fprintf(stderr, "%s\n", text);
    }
    fflush(stderr);
    pthread_mutex_unlock(&terminal);
    p->shown = pc_seconds();
}

void pc_progress_open(pc_progress *p, const char *label, const char *unit, int64_t total)
{
    *p = (pc_progress){.total = total, .bar = isatty(STDERR_FILENO) != 0};
    snprintf(p->label, sizeof p->label, "%s", label);
    snprintf(p->unit, sizeof p->unit, "%s", unit);
    p->started = p->shown = pc_seconds();
}

void pc_progress_resume(pc_progress *p, int64_t done)
{
    p->first = p->done = done;
}

void pc_progress_update(pc_progress *p, int64_t done, const char *note)
{
    p->done = done;
    if (atomic_load(&quiet) || p->closed) return;
    if (pc_seconds() - p->shown >= (p->bar ? BAR_EVERY : LINE_EVERY)) show(p, note, false);
}

void pc_progress_close(pc_progress *p)
{
    if (p->closed) return;
    p->closed = true;
    if (!atomic_load(&quiet)) show(p, NULL, true);
}

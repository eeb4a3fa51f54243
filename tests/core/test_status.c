/*
 * test_status.c - messages: made once, added to on the way up, one for each thread; nearest names; log lines.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "model/core/log.h"
#include "model/core/status.h"
#include "tests/support/check.h"

static void test_messages(void)
{
    CHECK(!strcmp(pc_error_text(), ""));
    CHECK(pc_fail(PC_ERR_INPUT, "key '%s': %d", "lr", 3) == PC_ERR_INPUT);
    CHECK(!strcmp(pc_error_text(), "key 'lr': 3"));
    CHECK(pc_context(PC_ERR_INPUT, "recipe '%s'", "a.yaml") == PC_ERR_INPUT);
    CHECK(!strcmp(pc_error_text(), "recipe 'a.yaml': key 'lr': 3"));
    CHECK(pc_context(PC_OK, "nothing") == PC_OK);
    CHECK(!strcmp(pc_error_text(), "recipe 'a.yaml': key 'lr': 3"));
    pc_fail(PC_ERR_IO, "again: %s", pc_error_text()); // an argument may be the old message
    CHECK(!strcmp(pc_error_text(), "again: recipe 'a.yaml': key 'lr': 3"));
    errno = ENOSPC;
    CHECK(pc_fail_errno("'%s'", "out.h5") == PC_ERR_IO);
    CHECK(!strcmp(pc_error_text(), "'out.h5': No space left on device"));

    char much[5000];
    memset(much, 'x', sizeof much - 1);
    much[sizeof much - 1] = '\0';
    pc_fail(PC_ERR_INPUT, "%s", much);
    for (int i = 0; i < 100; i++) pc_context(PC_ERR_INPUT, "level %d", i);
    CHECK(!strncmp(pc_error_text(), "level 99: level 98: ", 20));
    CHECK(strlen(pc_error_text()) < sizeof much);
}

static void *worker(void *arg)
{
    CHECK(!strcmp(pc_error_text(), ""));
    pc_fail(PC_ERR_FORMAT, "in a worker");
    snprintf(arg, 64, "%s", pc_error_text());
    return NULL;
}

static void test_threads(void)
{
    char text[64];
    pthread_t other;
    pc_fail(PC_ERR_IO, "ours");
    CHECK(!pthread_create(&other, NULL, worker, text));
    pthread_join(other, NULL);
    CHECK(!strcmp(pc_error_text(), "ours"));
    pc_error_set(text);
    CHECK(!strcmp(pc_error_text(), "in a worker"));
}

static void test_nearest(void)
{
    static const char *const keys[] = {"lr", "weight_decay", "warmup", "clip", "schedule", "betas"};
    const int n = (int)(sizeof keys / sizeof *keys);
    CHECK(!strcmp(pc_nearest("wieght_decay", keys, n), "weight_decay"));
    CHECK(!strcmp(pc_nearest("warm_up", keys, n), "warmup"));
    CHECK(!strcmp(pc_nearest("sheduel", keys, n), "schedule"));
    CHECK(!strcmp(pc_nearest("lt", keys, n), "lr"));
    CHECK(pc_nearest("temperature", keys, n) == NULL);
    CHECK(pc_nearest("x", keys, 0) == NULL);
    CHECK(pc_nearest("", keys, n) == NULL);
    char much[300];
    memset(much, 'l', sizeof much - 1);
    much[sizeof much - 1] = '\0';
    CHECK(pc_nearest(much, keys, n) == NULL);
}

/* Standard error into a pipe, and what arrived. */
static void test_log(void)
{
    char text[2048] = "";
    int end[2];
    const int saved = dup(STDERR_FILENO);
    CHECK(saved >= 0 && !pipe(end));
    dup2(end[1], STDERR_FILENO);
    pc_log("a line of %d", 7);
    pc_log_quiet(true);
    pc_log("unseen");
    pc_warn("seen");
    pc_progress p;
    pc_progress_open(&p, "tune", "steps", 10);
    pc_progress_update(&p, 5, "loss 1.0");
    pc_progress_close(&p);
    pc_log_quiet(false);
    pc_progress_open(&p, "tune", "steps", 10);
    p.shown -= 11.0; // as if eleven seconds had gone by
    pc_progress_update(&p, 5, "loss 1.234");
    pc_progress_update(&p, 6, "loss 9.999"); // too soon
    pc_progress_update(&p, 10, NULL);
    pc_progress_close(&p);
    pc_progress_close(&p);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(end[1]);
    close(saved);
    const ssize_t n = read(end[0], text, sizeof text - 1);
    close(end[0]);
    CHECK(n > 0);
    CHECK(!strncmp(text, "a line of 7\nwarning: seen\ntune 5/10 steps, ", 43));
    CHECK(strstr(text, "left, loss 1.234\n") && !strstr(text, "9.999") && !strstr(text, "unseen"));
    const char *last = strstr(text, "tune 10/10 steps");
    CHECK(last && strstr(last, "in all\n") && !strstr(last + 1, "tune"));
    CHECK(!strchr(text, '\r')); // no bar where there is no terminal
}

int main(void)
{
    test_messages();
    test_threads();
    test_nearest();
    test_log();
    return check_report("messages");
}

/*
 * test_threads.c - pieces that are always the same, every one once, and nothing that a race detector minds.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "model/core/threads.h"
#include "tests/support/check.h"

enum { MOST = 500, THREADS = 4 };

typedef struct record {
    int64_t begin[THREADS], end[THREADS];
    int runs[THREADS], touched[MOST];
    int64_t grain, n;
} record;

static void note(void *arg, int64_t begin, int64_t end, int worker)
{
    record *r = arg;
    r->begin[worker] = begin;
    r->end[worker] = end;
    r->runs[worker]++;
    for (int64_t i = begin; i < end; i++) r->touched[i]++;
}

static void test_pieces(pc_pool *pool)
{
    for (int64_t n = 0; n <= MOST; n += n < 20 ? 1 : 37) {
        for (int64_t grain = 1; grain <= 64; grain *= 4) {
            record a = {.n = n, .grain = grain}, b = a;
            pc_parallel(pool, n, grain, note, &a);
            pc_parallel(pool, n, grain, note, &b);
            CHECK(!memcmp(&a, &b, sizeof a));
            for (int64_t i = 0; i < MOST; i++) CHECK(a.touched[i] == (i < n));
            for (int w = 0; w < THREADS; w++) {
                CHECK(a.runs[w] <= 1);
                CHECK(a.begin[w] % grain == 0);
                CHECK(a.end[w] % grain == 0 || a.end[w] == n);
            }
        }
    }
}

static void test_balance(pc_pool *pool)
{
    record r = {0};
    pc_parallel(pool, 100, 1, note, &r);
    for (int w = 0; w < THREADS; w++) CHECK(r.end[w] - r.begin[w] == 25);
}

static void add(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)worker;
    atomic_fetch_add((atomic_llong *)arg, end - begin);
}

/* Many short jobs, and pauses long enough for the workers to fall asleep. */
static void test_many(pc_pool *pool)
{
    atomic_llong sum = 0;
    for (int i = 0; i < 20000; i++) pc_parallel(pool, 8, 1, add, &sum);
    CHECK(atomic_load(&sum) == 160000);
    for (int i = 0; i < 20; i++) {
        const struct timespec pause = {.tv_nsec = 2000000};
        nanosleep(&pause, NULL);
        pc_parallel(pool, 8, 1, add, &sum);
    }
    CHECK(atomic_load(&sum) == 160160);
}

typedef struct nest {
    pc_pool *pool;
    atomic_llong sum;
    atomic_int strange;
} nest;

static void inner(void *arg, int64_t begin, int64_t end, int worker)
{
    nest *n = arg;
    atomic_fetch_add(&n->sum, end - begin);
    if (worker < 0 || worker >= THREADS) atomic_fetch_add(&n->strange, 1);
}

static void outer(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)worker;
    nest *n = arg;
    for (int64_t i = begin; i < end; i++) pc_parallel(n->pool, 10, 1, inner, n);
}

static void test_nested(pc_pool *pool)
{
    nest n = {.pool = pool};
    pc_parallel(pool, 40, 1, outer, &n);
    CHECK(atomic_load(&n.sum) == 400);
    CHECK(atomic_load(&n.strange) == 0);
}

/* A nested call cuts into the same pieces as one from outside: sums over pieces agree. */
static void nested_note(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)begin, (void)end, (void)worker;
    nest *n = arg;
    record r = {0}, s = {0};
    pc_parallel(n->pool, 97, 3, note, &r);
    pc_parallel(n->pool, 97, 3, note, &s);
    if (memcmp(&r, &s, sizeof r) || r.runs[THREADS - 1] != 1) atomic_fetch_add(&n->strange, 1);
}

static void *caller(void *arg)
{
    nest *n = arg;
    for (int i = 0; i < 2000; i++) pc_parallel(n->pool, 16, 1, inner, n);
    return NULL;
}

static void test_two_callers(pc_pool *pool)
{
    nest n = {.pool = pool};
    pthread_t other;
    CHECK(!pthread_create(&other, NULL, caller, &n));
    caller(&n);
    pthread_join(other, NULL);
    CHECK(atomic_load(&n.sum) == 64000);
}

static void test_alone(void)
{
    record r = {0};
    pc_parallel(NULL, 10, 1, note, &r);
    CHECK(r.runs[0] == 1 && r.begin[0] == 0 && r.end[0] == 10);
    CHECK(pc_pool_threads(NULL) == 1);
    pc_pool *pool;
    CHECK(!pc_pool_open(&pool, 0));
    CHECK(pc_pool_threads(pool) == pc_cpu_count());
    pc_pool_close(pool);
    pc_pool_close(NULL);
    for (int i = 0; i < 50; i++) { // opened and closed without a job
        CHECK(!pc_pool_open(&pool, 3));
        pc_pool_close(pool);
    }
}

int main(void)
{
    pc_pool *pool;
    CHECK(!pc_pool_open(&pool, THREADS));
    CHECK(pc_pool_threads(pool) == THREADS);
    test_pieces(pool);
    test_balance(pool);
    test_many(pool);
    test_nested(pool);
    nest n = {.pool = pool};
    pc_parallel(pool, 4, 1, nested_note, &n);
    CHECK(atomic_load(&n.strange) == 0);
    test_two_callers(pool);
    pc_pool_close(pool);
    test_alone();
    return check_report("thread pool");
}

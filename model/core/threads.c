/*
 * threads.c - the thread pool: one job at a time, one contiguous piece per thread.
 *
 * Workers wait for the next job by watching a counter for a short while (the kernels of a training step
 * follow one another within microseconds) and then sleep on a condition variable. The caller takes piece 0 and
 * waits for the others in the same way. Every hand-over is an acquire/release pair on an atomic or a mutex.
 */
#include "model/core/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SPINS 2000 // about 20 to 80 microseconds, by processor

struct pc_pool {
    int threads;         // the caller included
    pthread_t *handles;  // (threads - 1)
    pthread_mutex_t use; // one job at a time, whoever calls
    pthread_mutex_t lock;
    pthread_cond_t start, finish;
    atomic_uint job;    // number of the newest job
    atomic_int pending; // workers that have not finished it
    atomic_bool stop;
    // the job: written before `job` is raised
    pc_task *task;
    void *arg;
    int64_t n, grain;
};

typedef struct worker_arg {
    pc_pool *pool;
    int worker;
} worker_arg;

static _Thread_local bool inside; // this thread is running a piece: nested calls run serially

static void pause_a_moment(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void run_piece(pc_task *task, void *arg, int64_t n, int64_t grain, int threads, int worker)
{
    const int64_t units = (n + grain - 1) / grain;
    const int64_t begin = units * worker / threads * grain;
    int64_t end = units * (worker + 1) / threads * grain;
    if (end > n) end = n;
    if (begin < end) task(arg, begin, end, worker);
}

static void *work(void *argument)
{
    pc_pool *pool = ((worker_arg *)argument)->pool;
    const int worker = ((worker_arg *)argument)->worker;
    free(argument);
    inside = true;
    unsigned done = 0;

    for (;;) {
        int spins = 0;
        while (atomic_load_explicit(&pool->job, memory_order_acquire) == done && spins++ < SPINS)
            pause_a_moment();
        if (atomic_load_explicit(&pool->job, memory_order_acquire) == done) {
            pthread_mutex_lock(&pool->lock);
            while (atomic_load_explicit(&pool->job, memory_order_acquire) == done)
                pthread_cond_wait(&pool->start, &pool->lock);
            pthread_mutex_unlock(&pool->lock);
        }
        done++;
        if (atomic_load_explicit(&pool->stop, memory_order_acquire)) return NULL;
        run_piece(pool->task, pool->arg, pool->n, pool->grain, pool->threads, worker);
        if (atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->finish);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static void announce(pc_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->job, 1, memory_order_acq_rel);
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->lock);
}

int pc_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    const int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

pc_status pc_pool_open(pc_pool **out, int threads)
{
    *out = NULL;
    if (threads <= 0) threads = pc_cpu_count();
    pc_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return pc_fail(PC_ERR_MEMORY, "thread pool");
    pthread_mutex_init(&pool->use, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->finish, NULL);
    pool->threads = 1;
    pool->handles = calloc((size_t)threads, sizeof *pool->handles);
    if (!pool->handles) {
        pc_pool_close(pool);
        return pc_fail(PC_ERR_MEMORY, "thread pool of %d", threads);
    }
    for (int worker = 1; worker < threads; worker++) {
        worker_arg *arg = malloc(sizeof *arg);
        if (arg) *arg = (worker_arg){pool, worker};
        if (!arg || pthread_create(&pool->handles[worker - 1], NULL, work, arg)) {
            free(arg);
            pc_pool_close(pool);
            return pc_fail(PC_ERR_MEMORY, "thread %d of %d did not start", worker + 1, threads);
        }
        pool->threads = worker + 1; // read by workers only after the first job is announced
    }
    *out = pool;
    return PC_OK;
}

void pc_pool_close(pc_pool *pool)
{
    if (!pool) return;
    atomic_store_explicit(&pool->stop, true, memory_order_release);
    announce(pool);
    for (int i = 0; i < pool->threads - 1; i++) pthread_join(pool->handles[i], NULL);
    pthread_cond_destroy(&pool->start);
    pthread_cond_destroy(&pool->finish);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->use);
    free(pool->handles);
    free(pool);
}

int pc_pool_threads(const pc_pool *pool)
{
    return pool ? pool->threads : 1;
}

void pc_parallel(pc_pool *pool, int64_t n, int64_t grain, pc_task *task, void *arg)
{
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    const int threads = pc_pool_threads(pool);
    if (threads == 1 || inside || n <= grain) {
        // The same pieces one after the other: what a worker sums does not depend on who runs it.
        for (int worker = 0; worker < threads; worker++)
            run_piece(task, arg, n, grain, threads, worker);
        return;
    }

    pthread_mutex_lock(&pool->use);
    pool->task = task;
    pool->arg = arg;
    pool->n = n;
    pool->grain = grain;
    atomic_store_explicit(&pool->pending, threads - 1, memory_order_relaxed);
    announce(pool);
    inside = true;
    run_piece(task, arg, n, grain, threads, 0);
    inside = false;
    int spins = 0;
    while (atomic_load_explicit(&pool->pending, memory_order_acquire) && spins++ < SPINS)
        pause_a_moment();
    if (atomic_load_explicit(&pool->pending, memory_order_acquire)) {
        pthread_mutex_lock(&pool->lock);
        while (atomic_load_explicit(&pool->pending, memory_order_acquire))
            pthread_cond_wait(&pool->finish, &pool->lock);
        pthread_mutex_unlock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->use);
}

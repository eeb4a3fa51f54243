/*
 * threads.h - the thread pool.
 *
 * pc_parallel splits [0, n) into one contiguous piece per thread, always the same pieces for the same
 * n, grain and thread count, so sums over pieces come out the same every time. The caller works too.
 * Nested calls run serially. Race detectors see plain mutexes, condition variables and C11 atomics.
 */
#ifndef PC_CORE_THREADS_H
#define PC_CORE_THREADS_H

#include "model/core/status.h"

typedef struct pc_pool pc_pool;

// `threads` counts the caller; <= 0 takes the processors this process may run on.
pc_status pc_pool_open(pc_pool **out, int threads);
void pc_pool_close(pc_pool *pool);        // NULL is fine
int pc_pool_threads(const pc_pool *pool); // a NULL pool is one thread: the caller
int pc_cpu_count(void);

// Work on [begin, end); `worker` is 0 .. threads-1 and fixed for a given piece.
typedef void pc_task(void *arg, int64_t begin, int64_t end, int worker);

// Runs the task over [0, n); pieces are multiples of `grain` (the last may be shorter). Blocks.
void pc_parallel(pc_pool *pool, int64_t n, int64_t grain, pc_task *task, void *arg);

#endif

/*
 * upload.cu - large copies from pageable memory (weights, mapped from their files or in an arena) by way of pinned pieces:
 * several threads fill one piece, which also is when the file's pages come in, while those before are under way.
 */
#include "model/ops/cuda/device.cuh"

extern "C" {
#include "model/core/threads.h"
}

#include <string.h>

static const size_t LEAST = (size_t)1 << 20, PIECE = (size_t)8 << 20;
static const int64_t GRAIN = 256 << 10;
enum { PIECES = 4, WORKERS = 8 };

static unsigned char *ring;
static cudaEvent_t passed[PIECES];
static pc_pool *pool;
static uint64_t turn; // pieces so far

typedef struct piece_job {
    unsigned char *to;
    const unsigned char *from;
} piece_job;

static void copy_part(void *arg, int64_t begin, int64_t end, int)
{
    const piece_job *j = (const piece_job *)arg;
    memcpy(j->to + begin, j->from + begin, (size_t)(end - begin));
}

static bool is_pageable(const void *p)
{
    cudaPointerAttributes a;
    if (cudaPointerGetAttributes(&a, p) == cudaSuccess) return a.type == cudaMemoryTypeUnregistered;
    cudaGetLastError();
    return true;
}

static bool open_ring(void)
{
    if (ring) return true;
    if (cudaHostAlloc((void **)&ring, PIECES * PIECE, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        ring = NULL;
        return false;
    }
    for (int i = 0; i < PIECES; i++) CHECK_CUDA(cudaEventCreateWithFlags(&passed[i], cudaEventDisableTiming));
    const int cpus = pc_cpu_count();
    if (pc_pool_open(&pool, cpus < WORKERS ? cpus : WORKERS)) pool = NULL; // this thread alone, then
    return true;
}

bool pc_cuda_upload(void *to, const void *from, size_t bytes)
{
    if (bytes < LEAST || pc_cuda_recording() || !is_pageable(from) || is_pageable(to) || !open_ring()) return false;
    for (size_t at = 0; at < bytes; at += PIECE) {
        const int i = (int)(turn % PIECES);
        const size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        piece_job j = {ring + (size_t)i * PIECE, (const unsigned char *)from + at};
        if (turn++ >= PIECES) CHECK_CUDA(cudaEventSynchronize(passed[i]));
        pc_parallel(pool, (int64_t)n, GRAIN, copy_part, &j);
        CHECK_CUDA(cudaMemcpyAsync((unsigned char *)to + at, j.to, n, cudaMemcpyHostToDevice, pc_cuda_stream));
        CHECK_CUDA(cudaEventRecord(passed[i], pc_cuda_stream));
    }
    return true;
}

void pc_cuda_upload_close(void)
{
    if (!ring) return;
    for (int i = 0; i < PIECES; i++) cudaEventDestroy(passed[i]);
    cudaFreeHost(ring);
    pc_pool_close(pool);
    ring = NULL;
    pool = NULL;
    turn = 0;
}

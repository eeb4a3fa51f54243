/*
 * device.cu - the device: opened once, one stream, memory of three kinds.
 */
#include "model/ops/cuda/device.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cudaStream_t pc_cuda_stream;

static void *workspace;
static size_t workspace_size;
/*
 * What the host stages lies in a ring of parts. An event marks where the device's work stood when a part was left: by the
 * time the ring comes round to it the device has long passed, so the host does not wait.
 */
enum { PARTS = 8, PART = 8 << 20, MIRROR = 32 << 20 };
static unsigned char *staged;
static size_t staged_used; // of the present part
static int staged_part;
static cudaEvent_t staged_left[PARTS];
static unsigned char *mirror; // a ring too; the order of the stream keeps its users apart
static size_t mirror_used;
static cudaEvent_t marks[PC_MARKS];
static int64_t marked;

void pc_cuda_check(cudaError_t e, const char *what, const char *file, int line)
{
    if (e == cudaSuccess) return;
    const char *base = strrchr(file, '/');
    fprintf(stderr, "error: the GPU failed at %s (%s:%d): %s (%s). Checkpoints already written are whole; go on with --resume\n",
            what, base ? base + 1 : file, line, cudaGetErrorString(e), cudaGetErrorName(e));
    exit(1);
}

extern "C" pc_status pc_cuda_open(pc_cuda_info *info)
{
    int count = 0;
    cudaDeviceProp p;
    memset(info, 0, sizeof *info);
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess || count < 1) {
        cudaGetLastError();
        return pc_fail(PC_ERR_INPUT, "no GPU: %s", e == cudaSuccess ? "none is there" : cudaGetErrorString(e));
    }
    if ((e = cudaGetDeviceProperties(&p, 0)) != cudaSuccess || (e = cudaSetDevice(0)) != cudaSuccess)
        return pc_fail(PC_ERR_INPUT, "the GPU does not answer: %s", cudaGetErrorString(e));
    snprintf(info->name, sizeof info->name, "%s", p.name);
    info->major = p.major;
    info->minor = p.minor;
    info->processors = p.multiProcessorCount;
    if (p.major < 8)
        return pc_fail(PC_ERR_INPUT, "%s has compute capability %d.%d; 8.0 or newer is needed", p.name, p.major, p.minor);
    if ((e = cudaMemGetInfo(&info->free, &info->memory)) != cudaSuccess)
        return pc_fail(PC_ERR_INPUT, "%s: %s", p.name, cudaGetErrorString(e));
    if (pc_cuda_stream) return PC_OK;
    CHECK_CUDA(cudaStreamCreateWithFlags(&pc_cuda_stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaHostAlloc((void **)&staged, (size_t)PARTS * PART, cudaHostAllocDefault));
    CHECK_CUDA(cudaMalloc((void **)&mirror, MIRROR));
    for (int i = 0; i < PARTS; i++) CHECK_CUDA(cudaEventCreateWithFlags(&staged_left[i], cudaEventDisableTiming));
    for (int i = 0; i < PC_MARKS; i++) CHECK_CUDA(cudaEventCreateWithFlags(&marks[i], cudaEventDisableTiming));
    return PC_OK;
}

extern "C" void pc_cuda_close(void)
{
    if (!pc_cuda_stream) return;
    cudaStreamSynchronize(pc_cuda_stream);
    pc_cuda_upload_close();
    pc_cuda_repeated_close();
    for (int i = 0; i < PC_MARKS; i++) cudaEventDestroy(marks[i]);
    cudaFree(workspace);
    cudaFreeHost(staged);
    cudaFree(mirror);
    for (int i = 0; i < PARTS; i++) cudaEventDestroy(staged_left[i]);
    cudaStreamDestroy(pc_cuda_stream);
    workspace = NULL;
    workspace_size = staged_used = mirror_used = 0;
    staged_part = 0;
    staged = mirror = NULL;
    pc_cuda_stream = NULL;
}

void *pc_cuda_workspace(size_t bytes)
{
    if (bytes <= workspace_size) return workspace;
    if (pc_cuda_recording()) {
        pc_cuda_decline();
        return workspace;
    }
    if (!pc_cuda_recorded_any()) { // recordings go on with the old one, which is lost to others then
        CHECK_CUDA(cudaStreamSynchronize(pc_cuda_stream));
        CHECK_CUDA(cudaFree(workspace));
    }
    workspace_size = (bytes + 0x1fffff) & ~(size_t)0x1fffff;
    CHECK_CUDA(cudaMalloc(&workspace, workspace_size));
    return workspace;
}

void *pc_cuda_staged(size_t bytes)
{
    bytes = (bytes + 255) / 256 * 256;
    PC_ASSERT(bytes <= PART, "%zu bytes staged at once", bytes);
    if (pc_cuda_recording()) { // what the host writes now would stand in every repeat
        static void *spare; // written and never read
        pc_cuda_decline();
        if (!spare) spare = malloc(PART);
        PC_ASSERT(spare, "no memory for %zu bytes", bytes);
        return spare;
    }
    if (staged_used + bytes > PART) {
        CHECK_CUDA(cudaEventRecord(staged_left[staged_part], pc_cuda_stream));
        staged_part = (staged_part + 1) % PARTS;
        staged_used = 0;
        // That of the next part: what was staged last in this one may have been launched after it was left.
        CHECK_CUDA(cudaEventSynchronize(staged_left[(staged_part + 1) % PARTS])); // at once where it was never recorded
    }
    void *at = staged + (size_t)staged_part * PART + staged_used;
    staged_used += bytes;
    return at;
}

const void *pc_cuda_mirror(const void *from, size_t bytes)
{
    const size_t room = (bytes + 255) / 256 * 256;
    PC_ASSERT(room <= MIRROR / 4, "%zu bytes of indices", bytes);
    if (mirror_used + room > MIRROR) mirror_used = 0;
    void *at = mirror + mirror_used;
    mirror_used += room;
    CHECK_CUDA(cudaMemcpyAsync(at, from, bytes, cudaMemcpyDefault, pc_cuda_stream));
    return at;
}

int64_t pc_cuda_chunk(int64_t bytes)
{
    const char *text = getenv("PERCEPT_CUDA_CHUNK");
    const long long given = text ? atoll(text) : 0;
    return given > 0 ? given : bytes;
}

static void *get_device(size_t bytes)
{
    void *p = NULL;
    if (cudaMalloc(&p, bytes) == cudaSuccess) return p;
    cudaGetLastError();
    return NULL;
}

static void put_device(void *base)
{
    CHECK_CUDA(cudaStreamSynchronize(pc_cuda_stream));
    CHECK_CUDA(cudaFree(base));
}

static void *get_shared(size_t bytes)
{
    void *p = NULL;
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) == cudaSuccess) return p;
    cudaGetLastError();
    return NULL;
}

static void put_shared(void *base)
{
    CHECK_CUDA(cudaFreeHost(base));
}

static void wait_device(void)
{
    CHECK_CUDA(cudaStreamSynchronize(pc_cuda_stream));
}

static void copy_bytes(void *to, const void *from, size_t bytes)
{
    if (pc_cuda_upload(to, from, bytes)) return;
    CHECK_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, pc_cuda_stream));
}

static int64_t set_mark(void)
{
    CHECK_CUDA(cudaEventRecord(marks[marked % PC_MARKS], pc_cuda_stream));
    return marked++;
}

static void wait_mark(int64_t mark)
{
    PC_ASSERT(mark < marked, "mark %lld of %lld", (long long)mark, (long long)marked);
    if (mark + PC_MARKS < marked) mark = marked - PC_MARKS;
    CHECK_CUDA(cudaEventSynchronize(marks[mark % PC_MARKS]));
}

static bool holds_address(const void *at)
{
    cudaPointerAttributes a;
    if (cudaPointerGetAttributes(&a, at) == cudaSuccess) return a.type != cudaMemoryTypeUnregistered;
    cudaGetLastError();
    return false;
}

extern "C" const pc_memory *pc_cuda_memory(void)
{
    static const pc_memory memory = {"the GPU",      get_device,     put_device,       get_shared,     put_shared,
                                     wait_device,    copy_bytes,     set_mark,         wait_mark,      holds_address,
                                     pc_cuda_record, pc_cuda_recorded, pc_cuda_replay, pc_cuda_forget};
    return &memory;
}

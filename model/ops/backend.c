/*
 * backend.c - see backend.h.
 */
#include "model/ops/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PERCEPT_CUDA
#include "model/ops/cuda/cuda.h"

static pc_status choose_cuda(pc_backend *out)
{
    pc_cuda_info info;
    const pc_status st = pc_cuda_open(&info);
    if (st) return pc_context(st, "device: cuda");
    out->name = "cuda";
    out->memory = pc_cuda_memory();
    out->room = info.free;
    out->fp8 = 10 * info.major + info.minor >= 89;
    snprintf(out->device, sizeof out->device, "%s", info.name);
    return PC_OK;
}
#else
static pc_status choose_cuda(pc_backend *out)
{
    (void)out;
    return pc_fail(PC_ERR_INPUT,
                   "device: cuda: this build of percept has the cpu alone; build with "
                   "cmake --preset cuda");
}
#endif

pc_status pc_backend_choose(pc_backend *out, const char *name)
{
    *out = (pc_backend){.name = "cpu", .real = PC_F32};
    const pc_status st = pc_isa_choose(&out->isa);
    if (st) return st;
    if (!name || !strcmp(name, "auto")) name = getenv("PERCEPT_DEVICE");
    if (!name || !*name || !strcmp(name, "auto")) {
        const pc_backend cpu = *out;
        if (choose_cuda(out)) *out = cpu;
        return PC_OK;
    }
    if (!strcmp(name, "cpu")) return PC_OK;
    if (!strcmp(name, "cuda")) return choose_cuda(out);
    return pc_fail(PC_ERR_USAGE, "device: '%s'; expected auto, cpu or cuda", name);
}

const pc_ops *pc_backend_ops(const pc_backend *b)
{
#ifdef PERCEPT_CUDA
    if (b->memory) return pc_cuda_ops();
#endif
    return pc_cpu_ops(b->isa, PC_F32);
}

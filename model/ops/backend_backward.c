/*
 * backend_backward.c - the backward half of backend.h, in a file of its own: who does not train does not link it.
 */
#include "model/ops/backend.h"

#ifdef PERCEPT_CUDA
#include "model/ops/cuda/cuda.h"
#endif

const pc_grad_ops *pc_backend_device_grad_ops(void)
{
#ifdef PERCEPT_CUDA
    return pc_cuda_grad_ops();
#else
    return NULL;
#endif
}

void pc_backend_fp8_next(pc_fp8 *f)
{
#ifdef PERCEPT_CUDA
    pc_cuda_fp8_next(f);
#else
    PC_ASSERT(f->count == 0, "%d matrices in eight bits on the CPU", f->count);
#endif
}

const pc_grad_ops *pc_backend_grad_ops(const pc_backend *b)
{
    return b->memory ? pc_backend_device_grad_ops() : pc_cpu_grad_ops(b->isa, PC_F32);
}

/*
 * tables.cu - the backend as two tables (ops.h).
 */
#include "model/ops/cuda/device.cuh"

#define FORWARD_SLOT(name, args)  t.name##_forward = cuda_##name##_forward;
#define BACKWARD_SLOT(name, args) t.name##_backward = cuda_##name##_backward;
#define TRAIN_SLOT(name, args)    t.name = cuda_##name;
#define NO_SLOT(name, args)

static pc_ops forward_table(void)
{
    pc_ops t;
    PC_OP_LIST(FORWARD_SLOT, NO_SLOT, NO_SLOT)
    return t;
}

static pc_grad_ops backward_table(void)
{
    pc_grad_ops t;
    PC_OP_LIST(NO_SLOT, BACKWARD_SLOT, TRAIN_SLOT)
    return t;
}

extern "C" const pc_ops *pc_cuda_ops(void)
{
    static const pc_ops table = forward_table();
    return &table;
}

extern "C" const pc_grad_ops *pc_cuda_grad_ops(void)
{
    static const pc_grad_ops table = backward_table();
    return &table;
}

/*
 * backend.h - which of the backends computes, chosen by name when a program starts.
 *
 *   cpu    always there (cpu/)
 *   cuda   builds with PERCEPT_CUDA on a machine with a GPU (cuda/); f32 or bf16
 *
 * "auto" and NULL are what the environment's PERCEPT_DEVICE names; else a GPU that this build has code for and that
 * answers, else the CPU.
 */
#ifndef PC_OPS_BACKEND_H
#define PC_OPS_BACKEND_H

#include "model/ops/fp8.h"
#include "model/ops/ops.h"

typedef struct pc_backend {
    const char *name;        // "cpu", "cuda"
    char device[256];        // "NVIDIA H100 80GB HBM3"; "" on the CPU
    const pc_memory *memory; // where its arenas lie; NULL: the host's memory
    size_t room;             // bytes free on the device; 0 on the CPU
    bool fp8;                // a device that multiplies in eight bits
    pc_isa isa;              // of the CPU
    pc_dtype real;           // what it computes in: f32, unless the caller asks a device for bf16
} pc_backend;

// PC_ERR_INPUT says why the named backend is not to be had.
pc_status pc_backend_choose(pc_backend *out, const char *name);
const pc_ops *pc_backend_ops(const pc_backend *b);
// Apart, so that inference links no backward code of the CPU's (backend_backward.c).
const pc_grad_ops *pc_backend_grad_ops(const pc_backend *b);
// The same for a runner, which has chosen already: the device's table, NULL where this build has none.
const pc_grad_ops *pc_backend_device_grad_ops(void);

// Ends a step in eight bits: its largest numbers go in front of the history, and scales follow from that. Where the step saw
// nothing, as after the history was written, it is scales alone. For a backend with fp8.
void pc_backend_fp8_next(pc_fp8 *f);

#endif

/*
 * runner.h - a pass of the model in memory that fits it.
 *
 * A pass is a function that runs layers on a ctx. It is first run dry, which measures what it takes from the
 * two arenas; then, in arenas of that size, for real. The same code both times: nothing is guessed. A pass must
 * not read results, or write through addresses, while ctx->act->dry is set.
 */
#ifndef PC_NETWORKS_RUNNER_H
#define PC_NETWORKS_RUNNER_H

#include "model/ops/backend.h"

typedef struct pc_runner {
    pc_pool *pool;
    pc_arena act, scratch; // grow between passes, never inside one
    pc_arena
        cache; // keys and values (generate.c), kept on a device, where asking for memory takes its time
    pc_ctx ctx; // real
    pc_backend backend;
    const pc_grad_ops *dry_grad_ops;
} pc_runner;

// Where backward comes from. Inference passes NULL, and so links no backward code.
typedef struct pc_runner_grad {
    const pc_grad_ops *(*real)(pc_isa isa, pc_dtype t);
    const pc_grad_ops *(*dry)(void);
    const pc_grad_ops *(*device)(void); // pc_backend_device_grad_ops, or NULL
} pc_runner_grad;

typedef void pc_pass(pc_ctx *ctx, void *arg);

// `threads` <= 0: as many as there are processors. f32 on the best kernels (or PERCEPT_ISA's), or on a device
// (backend.h: auto): then the model is placed there first (placement.h).
pc_status pc_runner_open(pc_runner *r, int threads, const pc_runner_grad *grad);
// The same on a backend that has been chosen already, in its type.
pc_status pc_runner_open_on(pc_runner *r, int threads, const pc_runner_grad *grad,
                            const pc_backend *b);
void pc_runner_close(pc_runner *r); // a zeroed runner is fine

// Makes room for the pass without running it; the FLOPs it will take go to *flops (may be NULL).
pc_status pc_runner_fit(pc_runner *r, pc_pass *pass, void *arg, double *flops);
// Makes room, empties both arenas and runs. What the pass left in r->act stays until the next call.
pc_status pc_runner_run(pc_runner *r, pc_pass *pass, void *arg);
// Makes room, empties both arenas and has the device note the pass down without doing it: pc_memory's `replay` does it, as
// often as wanted, until the next call on this runner. *recording NULL: it cannot be done so.
pc_status pc_runner_record(pc_runner *r, pc_pass *pass, void *arg, void **recording);

#endif

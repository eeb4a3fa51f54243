/*
 * runner.c - dry first, then for real.
 */
#include "model/networks/runner.h"

#include <string.h>

pc_status pc_runner_open(pc_runner *r, int threads, const pc_runner_grad *grad)
{
    pc_backend b;
    memset(r, 0, sizeof *r);
    const pc_status st = pc_backend_choose(&b, NULL);
    return st ? st : pc_runner_open_on(r, threads, grad, &b);
}

pc_status pc_runner_open_on(pc_runner *r, int threads, const pc_runner_grad *grad,
                            const pc_backend *b)
{
    memset(r, 0, sizeof *r);
    r->backend = *b;
    const pc_status st = pc_pool_open(&r->pool, threads);
    if (st) return st;
    r->ctx = (pc_ctx){
        .ops = pc_backend_ops(&r->backend),
        .real = b->real,
        .pool = r->pool,
        .act = &r->act,
        .scratch = &r->scratch,
    };
    if (grad) {
        const bool device = r->backend.memory != NULL;
        r->ctx.grad_ops = device ? grad->device() : grad->real(r->backend.isa, PC_F32);
        r->dry_grad_ops = grad->dry();
    }
    return PC_OK;
}

void pc_runner_close(pc_runner *r)
{
    pc_arena_close(&r->act);
    pc_arena_close(&r->scratch);
    pc_arena_close(&r->cache);
    pc_pool_close(r->pool);
    memset(r, 0, sizeof *r);
}

static pc_status grow(pc_arena *a, const pc_arena *dry)
{
    const size_t need = dry->peak, shared = dry->memory ? dry->shared_peak : 0;
    if (a->base && a->size >= need && a->shared_size >= shared) return PC_OK;
    pc_arena_close(a);
    return pc_arena_open_in(a, dry->name, dry->memory, need + need / 8, shared + shared / 8);
}

pc_status pc_runner_fit(pc_runner *r, pc_pass *pass, void *arg, double *flops)
{
    pc_arena act, scratch;
    pc_ctx dry = r->ctx;
    pc_status st;

    pc_arena_open_dry_in(&act, "activations", r->backend.memory);
    pc_arena_open_dry_in(&scratch, "scratch", r->backend.memory);
    dry.ops = pc_dry_ops();
    dry.grad_ops = r->dry_grad_ops;
    dry.act = &act;
    dry.scratch = &scratch;
    dry.flops = 0.0;
    pass(&dry, arg);
    if (flops) *flops = dry.flops;
    if ((st = grow(&r->act, &act)) || (st = grow(&r->scratch, &scratch))) return st;
    return PC_OK;
}

pc_status pc_runner_run(pc_runner *r, pc_pass *pass, void *arg)
{
    const pc_status st = pc_runner_fit(r, pass, arg, NULL);

    if (st) return st;
    pc_arena_release(&r->act, 0);
    pc_arena_release(&r->scratch, 0);
    pass(&r->ctx, arg);
    return PC_OK;
}

pc_status pc_runner_record(pc_runner *r, pc_pass *pass, void *arg, void **recording)
{
    const pc_memory *m = r->backend.memory;
    *recording = NULL;
    if (!m || !m->record) return PC_OK;
    const pc_status st = pc_runner_fit(r, pass, arg, NULL);
    if (st) return st;
    pc_arena_release(&r->act, 0);
    pc_arena_release(&r->scratch, 0);
    if (!m->record()) return PC_OK;
    pass(&r->ctx, arg);
    *recording = m->recorded();
    return PC_OK;
}

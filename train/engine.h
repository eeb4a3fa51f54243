/*
 * engine.h - replicas on threads, and the one place where gradients are summed.
 *
 *   samples     R replicas, one thread each. They share the weights; activations, scratch and gradients are
 *               their own. Micro-batch m of a step runs on replica m % R, in order; gradients are summed in replica
 *               order. For small models: no thread ever waits inside a layer.
 *   operations  one replica whose operations are spread over all threads. For large models.
 *
 * Either way the same recipe with the same number of threads gives the same bits. Nothing is allocated
 * after engine_open: arenas have the sizes that the plan measured by running dry.
 */
#ifndef PC_TRAIN_ENGINE_H
#define PC_TRAIN_ENGINE_H

#include "model/layers/repeat.h"
#include "model/networks/model.h"
#include "model/ops/backend.h"
#include "train/fp8.h"
#include "train/spans.h"

// What the plan measured (plan.h), in bytes.
typedef struct engine_sizes {
    size_t act;     // a replica's activations, all micro-batches it keeps at once
    size_t scratch; // a replica's temporaries
    size_t whole;   // for what works on the whole batch: embeddings and their loss
    size_t act_shared, scratch_shared, whole_shared; // of a device: what the host shares of them
} engine_sizes;

typedef struct engine_config {
    const pc_backend
        *backend; // NULL: the CPU. A device has one replica, and computes in the backend's type
    pc_dtype gradients; // of matrices: f32 (0), or bf16 on a device
    bool fp8;           // products in eight bits, on a device in bf16 that has them
    int replicas;       // 1 with `operations`
    bool samples;       // how threads are used
    double dropout;     // while training
    double adapter_dropout;
    uint64_t seed;
    int64_t kept; // micro-batches a replica keeps activations of (contrastive); at least 1
} engine_config;

typedef struct replica {
    int index;
    pc_model *model; // the master, or own
    pc_model own;
    pc_arena act, scratch, grads;
    pc_ctx ctx;         // training: forward and backward
    pc_clip_kept *clip; // (kept)
    size_t *marks;      // (kept) where each micro-batch's activations begin
    double loss;        // sum over its micro-batches of the current call
} replica;

typedef struct engine {
    engine_config config;
    pc_model *model; // the master; not owned
    pc_pool *pool;   // all threads; not owned
    replica *replicas;
    int count;
    spans spans;
    fp8_state fp8;
    double *loss; // of a device: where objective_step has it, shared with the host
    pc_arena whole;
    pc_ctx whole_ctx;    // all threads, for the whole batch
    pc_repeats *repeats; // of a device
} engine;

// Binds gradients of the trainable parameters (master and replicas). The pool may be NULL: one thread.
pc_status engine_open(engine *e, pc_model *model, pc_pool *pool, const engine_config *c,
                      const engine_sizes *sizes);
void engine_close(engine *e); // a zeroed one is fine

// Replicas that take part in a step of so many micro-batches.
int engine_used(const engine *e, int64_t micros);

// Runs the task once for every replica in use, each on its thread. A replica's share of the
// micro-batches is m = index, index + used, ...
typedef void engine_task(engine *e, replica *r, int used, void *arg);
void engine_run(engine *e, int used, engine_task *task, void *arg);

// A replica's gradients hold nothing yet (inside a task); at last all hold their sums, those of all used replicas in the
// master's. Between the two only backward passes may look at them (linear.h).
void engine_zero(replica *r);
void engine_reduce(engine *e, int used);

// Sets the key of the dropout masks of a micro-batch's forward pass: replayed, it gives the same masks.
void engine_dropout(const engine *e, pc_ctx *ctx, int64_t step, int64_t micro);

// After a step's last backward pass: in eight bits, the next one's scales.
void engine_scales(engine *e);

// The replica's context for inference: no backward, no dropout, nothing in eight bits, the same memory.
pc_ctx engine_infer(const replica *r);

#endif

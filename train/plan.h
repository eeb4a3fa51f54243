/*
 * plan.h - bytes and FLOPs, known before step 1.
 *
 * The largest micro-batch that the data hold is run dry: the very functions of the step, over arenas that
 * count and operations that compute nothing. What they took are the sizes that the engine then opens.
 */
#ifndef PC_TRAIN_PLAN_H
#define PC_TRAIN_PLAN_H

#include "model/networks/placement.h"
#include "train/muon.h"
#include "train/objective.h"
#include <stdio.h>

// The largest micro-batch: samples, rows (tokens, image rows included), images, supervised rows.
typedef struct plan_batch {
    int64_t samples, rows, images, supervised;
    const pc_image_geometry
        *geometry; // (images), NULL where all are alike; the first of them are those of less
} plan_batch;

typedef struct plan_request {
    pc_model
        *model; // parameters listed, trainable flags set; its gradients are unbound by planning
    pc_pool *pool;
    int64_t batch;    // samples of an optimiser step
    plan_batch train; // of training, micro-batch
    plan_batch val;   // of validation; samples 0: none
    int replicas;     // as the engine would have
    bool samples;     // how threads are used
    bool keep_all;    // contrastive: every micro-batch keeps its activations
    double dropout, adapter_dropout;
    bool muon;
    const pc_memory *memory;           // of the device that computes, or NULL
    pc_dtype real, gradients, moments; // what matrices are kept in, there: f32 (0), or bf16
    bool master;                       // with an f32 original
    bool fp8;                          // products in eight bits
    size_t data;  // bytes of the data room: images in memory, batches ahead, texts
    size_t limit; // bytes the run may take
} plan_request;

typedef struct plan {
    engine_sizes sizes; // for engine_open
    size_t parameters, eights, gradients, moments, masters, activations, scratch, whole, device,
        data, total,
        limit;                // bytes; device: what it takes beside tensors
    int64_t numbers, trained; // parameters
    double flops_step;        // forward and backward of a full optimiser step, replays included
    double flops_row, flops_image,
        flops_supervised; // so that a step's FLOPs follow from its counts
    int64_t kept;         // micro-batches a replica keeps
} plan;

pc_status plan_make(plan *out, const plan_request *q);

// The model's blocks keep their activations or compute them again.
void plan_recompute(pc_model *m, pc_recompute how);

// What the machine can still give this process: free memory, or what its control group leaves.
size_t plan_machine_memory(void);
// What a device takes beside the plan's tensors: workspaces of products, attention and logits.
size_t plan_device_room(const plan_request *q);

// A table for people.
void plan_print(FILE *out, const plan *p);

// PC_ERR_MEMORY naming the three cheapest ways to fit, when the plan exceeds its limit.
pc_status plan_check(const plan *p, const plan_request *q);

// "1.50 GiB" into a buffer of the caller's (16 bytes are enough).
const char *plan_bytes(char *buf, size_t size, double bytes);

#endif

/*
 * placement.h - a model's weights on a device, and back in the host's memory when they are to be written or shown.
 *
 * The host keeps its own copy of everything (as loaded, in the types of its files where it was mapped); the device's is
 * the one that is trained. Under bf16 the device's parameters of two or more dimensions are bf16, the others f32; matrices
 * that came as blocks which its kernels read (Q8_0, Q4_0) stay so. What
 * the host fetches is f32 always: an f32 master in place of its bf16 weight, moments and gradients widened; sent back,
 * it narrows to the very numbers it came from. On the CPU all of this does nothing.
 */
#ifndef PC_NETWORKS_PLACEMENT_H
#define PC_NETWORKS_PLACEMENT_H

#include "model/networks/model.h"
#include "model/ops/backend.h"

typedef struct pc_placement {
    const pc_memory *memory; // NULL: nothing is placed
    const pc_ops *ops;       // the device's, for changes of type
    pc_params *params;
    pc_arena arena;   // weights and rotary tables on the device
    pc_arena staging; // between types, a piece at a time
    pc_arena extra;   // the host's copies of what it has no place for, when they are asked for
    struct pc_placed {
        pc_tensor host;      // the weight as the host has it; absent where it lies in pieces
        int pieces;          // of its linear
        pc_tensor device[5]; // while fetched: weight, gradient, moments, master
    } * list;                // by parameter
} pc_placement;

// Copies weights and rotary tables over, in the backend's type; the model's tensors are the device's from now on.
// PC_ERR_INPUT names what this device does not compute.
pc_status pc_placement_open(pc_placement *out, pc_model *m, const pc_backend *b);
void pc_placement_close(pc_placement *p); // tensors are the host's again, as they were last fetched

// The type to infer in: bf16 where the model came in 16 bits or less and the backend is a device, else f32.
// PERCEPT_PRECISION=fp32|bf16 says otherwise.
pc_dtype pc_placement_precision(const pc_model *m, const pc_backend *b);

// Bytes that _open takes on a device.
size_t pc_placement_bytes(const pc_params *p, pc_dtype real);

// Masters bound since take the host's numbers, which are finer than the device's weights.
void pc_placement_masters(pc_placement *p);

// Host copies of the trained weights and of what else is bound (gradients, moments), and tensors that are these, until
// _return. Frozen weights are the host's own all along.
pc_status pc_placement_fetch(pc_placement *p);
void pc_placement_return(pc_placement *p);
// Moments that the host has read from a checkpoint, and weights, to the device: after _fetch, before _return.
void pc_placement_upload(pc_placement *p);

#endif

/*
 * placement.h - a model's weights on a device, and back in the host's memory when they are to be written or shown.
 *
 * The host keeps its own copy of everything (as loaded); the device's is the one that is trained. On the CPU all of
 * this does nothing.
 */
#ifndef PC_NETWORKS_PLACEMENT_H
#define PC_NETWORKS_PLACEMENT_H

#include "model/networks/model.h"

typedef struct pc_placement {
    const pc_memory *memory; // NULL: nothing is placed
    pc_params *params;
    pc_arena arena; // weights and rotary tables on the device
    pc_arena extra; // the host's copies of moments and gradients, when they are asked for
    struct pc_placed {
        void *host[4], *device[4];
    } * list; // by parameter: w, g, m, v
} pc_placement;

// Copies weights and rotary tables over; the model's tensors are the device's from now on. PC_ERR_INPUT names what this
// device does not compute.
pc_status pc_placement_open(pc_placement *out, pc_model *m, const pc_memory *memory);
void pc_placement_close(pc_placement *p); // tensors are the host's again, as they were last fetched

// Host copies of weights and of what else is bound (gradients, moments), and tensors that are these, until _return.
pc_status pc_placement_fetch(pc_placement *p);
void pc_placement_return(pc_placement *p);
// Moments that the host has read from a checkpoint, and weights, to the device: after _fetch, before _return.
void pc_placement_upload(pc_placement *p);

#endif

/*
 * gpu_profile.h - where a step's time goes, operation by operation: every slot of a backend's two tables between a
 * pair of the device's events (the clock, on the CPU).
 *
 * Beside each operation's time stand the FLOPs that the dry table counts for the same call and the bytes of all its
 * tensors, each once: what it would move had it no cache and nothing else to touch.
 */
#ifndef PC_BENCH_GPU_PROFILE_H
#define PC_BENCH_GPU_PROFILE_H

#include "model/ops/ops.h"

// The tables of a context, wrapped; once a process. Nothing is recorded before profile_start.
void profile_wrap(pc_ctx *ctx, bool device);
void profile_start(void);
// Instead of measuring: after each operation every number of its tensors is looked at, and the first `most` operations
// that leave or are given one that is not finite are named on standard error, with where it stands.
void profile_watch(int most);
// The device has been waited for. `steps` and their seconds: what was run since profile_start. Prints tables by operation
// and by shape (the `shapes` largest), a step each. `learned`: share of rows whose label is looked at.
void profile_print(int64_t steps, double seconds, int shapes, double learned);

#endif

/*
 * repeat.h - a part of a pass that comes again with the same shapes in the same places, replayed by the device.
 *
 * A step of a small model is bound by what it takes the host to tell the device of each operation. A part that the
 * device was told before (of a tower whose batches are alike, say) is noted down when it comes for the second time, and
 * from the third on the device replays it (pc_memory.record). The host's own work of the part is done each time: the
 * layers run with the dry operations, on real arenas.
 *
 * So a part may hold nothing but operations and what layers do between them, and what differs from time to time must be
 * in its key or in memory that the operations read. A part in which the device declines (pc_memory.recorded) is told
 * each time. Equal bits either way.
 */
#ifndef PC_LAYERS_REPEAT_H
#define PC_LAYERS_REPEAT_H

#include "model/ops/ops.h"

typedef struct pc_repeats pc_repeats;

// For passes with these operations; others with its context are told. NULL (no error) where the device has no way to
// note work down.
pc_status pc_repeats_open(pc_repeats **out, const pc_memory *memory, const pc_ops *ops);
void pc_repeats_close(pc_repeats *r); // NULL is fine
// How many parts were replayed so far, for tests.
int64_t pc_repeats_replayed(const pc_repeats *r);

enum { PC_REPEAT_WORDS = 128 };

// What a part depends on: words, and blocks of bytes that are compared (masks, structs of views).
typedef struct pc_repeat_key {
    int64_t word[PC_REPEAT_WORDS];
    int words;
    struct {
        const void *at;
        size_t bytes;
    } block[16];
    int blocks;
} pc_repeat_key;

void pc_repeat_number(pc_repeat_key *k, int64_t n);
void pc_repeat_place(pc_repeat_key *k, pc_tensor x); // where it lies, its shape and type
void pc_repeat_bytes(pc_repeat_key *k, const void *at, size_t bytes);
void pc_repeat_mask(pc_repeat_key *k, const pc_mask *m); // who sees whom, wherever that is written

// Whether parts of a pass with this context may be replayed.
bool pc_repeats_wanted(const pc_ctx *ctx);

// Does the part, or has it done. Where arenas stand is in the key without the caller's help.
typedef void pc_part(pc_ctx *ctx, void *arg);
void pc_repeated(pc_ctx *ctx, pc_repeat_key *key, pc_part *part, void *arg);

#endif

/*
 * memory.h - arenas: few owners, long lives.
 *
 * An arena is one block handed out from the bottom; marks let a stack of temporaries go at once. A
 * dry arena hands out addresses that must never be touched and only counts: running the layers over
 * dry arenas with the dry operations (ops/dry) is how memory and FLOPs are planned before step 1,
 * by the very code that will run. A real arena that overflows is a wrong plan: it aborts, saying so.
 */
#ifndef PC_CORE_MEMORY_H
#define PC_CORE_MEMORY_H

#include "model/core/tensor.h"

#define PC_ALIGN 64 // bytes: one cache line, one AVX-512 register

/*
 * Where an arena lies, when that is not the host's own memory. Numbers lie on the device; what the host writes or
 * reads itself (i32 and f64 tensors, plain bytes, pc_alloc_shared) lies beside them in `get_shared` memory, which
 * both see at the same address. The device works behind the host's back, so shared memory is not used again before
 * the arena is released as a whole. It is there twice: a release as a whole goes on in the other half, and waits only
 * until the device has passed the release before that. So the host prepares one round while the device is at the last.
 */
typedef struct pc_memory {
    const char *name;           // "cuda"
    void *(*get)(size_t bytes); // NULL: not to be had
    void (*put)(void *base);
    void *(*get_shared)(size_t bytes);
    void (*put_shared)(void *base);
    void (*wait)(void); // until the device has done all it was told
    // Copies between either kind of memory, in the order of the device's work; `wait` before the host reads.
    void (*copy)(void *to, const void *from, size_t bytes);
    // A mark behind all that the device was told so far, and until it has come there: what one step left is read while
    // the next is under way. The last PC_MARKS marks are kept; one older than these waits for the oldest that is.
    int64_t (*mark)(void);
    void (*wait_mark)(int64_t mark);
    bool (*holds)(const void *at); // whether an address is of either kind of its memory
    // Work told once and done again and again. From `record` on what the device is told is noted down and not done, and
    // nothing may be waited for; `recorded` ends that, NULL when something in it cannot be done again.
    bool (*record)(void);
    void *(*recorded)(void);
    void (*replay)(void *recording); // does it, in the order of the device's work
    void (*forget)(void *recording);
} pc_memory;

enum { PC_MARKS = 32 };

typedef struct pc_arena {
    unsigned char *base;
    size_t size, used, peak; // bytes
    bool dry;
    const char *name;        // for messages; not copied
    const pc_memory *memory; // NULL: the host's
    unsigned char *shared;   // with `memory`: the half in use of the second block
    size_t shared_size, shared_used, shared_peak; // of a half; counted on dry arenas too
    unsigned char *halves;                        // both
    int half;                                     // 0 or 1
    int64_t left[2];                              // marks: when each was last left; -1: never
} pc_arena;

// Maps `size` bytes (pages are committed when touched). PC_ERR_MEMORY names the arena and the size.
pc_status pc_arena_open(pc_arena *a, const char *name, size_t size);
// The same in a device's memory, with `shared` bytes beside it. memory NULL: the host's, where `shared` is 0.
pc_status pc_arena_open_in(pc_arena *a, const char *name, const pc_memory *memory, size_t size,
                           size_t shared);
void pc_arena_open_dry(pc_arena *a, const char *name);
// The same for passes on a device: what is placed there is counted.
void pc_arena_open_dry_in(pc_arena *a, const char *name, const pc_memory *memory);
void pc_arena_close(pc_arena *a); // a zeroed arena is fine

void *pc_arena_bytes(pc_arena *a, size_t bytes);   // aligned to PC_ALIGN, not cleared; the host's
void *pc_arena_numbers(pc_arena *a, size_t bytes); // likewise; the device's
// A tensor that device and host both read and write, of any type: losses, logits to be sampled.
pc_tensor pc_alloc_shared(pc_arena *a, pc_dtype t, int64_t d0, int64_t d1);
pc_tensor pc_alloc1(pc_arena *a, pc_dtype t, int64_t d0);
pc_tensor pc_alloc2(pc_arena *a, pc_dtype t, int64_t d0, int64_t d1);
pc_tensor pc_alloc3(pc_arena *a, pc_dtype t, int64_t d0, int64_t d1, int64_t d2);
pc_tensor pc_alloc_like(pc_arena *a, pc_tensor x); // dense, same shape and type

static inline size_t pc_arena_mark(const pc_arena *a)
{
    return a->used;
}
// The mark below which nothing lies.
static inline size_t pc_arena_begin(const pc_arena *a)
{
    return a->memory ? PC_ALIGN : 0;
}
// Everything from the mark on. At 0, the whole, shared memory too: see pc_memory. A device's arenas begin above 0, so
// that a mark is never that.
void pc_arena_release(pc_arena *a, size_t mark);

#endif

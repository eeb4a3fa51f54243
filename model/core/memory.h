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

typedef struct pc_arena {
    unsigned char *base;
    size_t size, used, peak; // bytes
    bool dry;
    const char *name; // for messages; not copied
} pc_arena;

// Maps `size` bytes (pages are committed when touched). PC_ERR_MEMORY names the arena and the size.
pc_status pc_arena_open(pc_arena *a, const char *name, size_t size);
void pc_arena_open_dry(pc_arena *a, const char *name);
void pc_arena_close(pc_arena *a); // a zeroed arena is fine

void *pc_arena_bytes(pc_arena *a, size_t bytes); // aligned to PC_ALIGN, not cleared
pc_tensor pc_alloc1(pc_arena *a, pc_dtype t, int64_t d0);
pc_tensor pc_alloc2(pc_arena *a, pc_dtype t, int64_t d0, int64_t d1);
pc_tensor pc_alloc3(pc_arena *a, pc_dtype t, int64_t d0, int64_t d1, int64_t d2);
pc_tensor pc_alloc_like(pc_arena *a, pc_tensor x); // dense, same shape and type

static inline size_t pc_arena_mark(const pc_arena *a)
{
    return a->used;
}
static inline void pc_arena_release(pc_arena *a, size_t mark)
{
    a->used = mark;
}

#endif

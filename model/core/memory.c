/*
 * memory.c - arenas over anonymous mappings, or over a device's memory with a block beside it that both share.
 */
#include "model/core/memory.h"

#include <sys/mman.h>

// From this size on an arena asks for huge pages: fewer misses of the address cache, fewer faults at first touch.
#define HUGE_FROM ((size_t)4 << 20)

pc_status pc_arena_open(pc_arena *a, const char *name, size_t size)
{
    *a = (pc_arena){.name = name};
    const size_t bytes = size ? size : PC_ALIGN;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return pc_fail(PC_ERR_MEMORY, "memory for %s: %.1f MiB are not to be had", name,
                       (double)size / 1048576.0);
    if (bytes >= HUGE_FROM)
        (void)madvise(base, bytes, MADV_HUGEPAGE); // a wish: refused is no error
    a->base = base;
    a->size = bytes;
    return PC_OK;
}

pc_status pc_arena_open_in(pc_arena *a, const char *name, const pc_memory *memory, size_t size,
                           size_t shared)
{
    if (!memory) return pc_arena_open(a, name, size);
    *a = (pc_arena){.name = name, .memory = memory, .left = {-1, -1}};
    const size_t bytes = size + PC_ALIGN;
    const size_t beside = (shared + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN + PC_ALIGN;
    a->base = memory->get(bytes);
    a->shared = a->halves = a->base ? memory->get_shared(2 * beside) : NULL;
    a->size = bytes;
    a->shared_size = beside;
    a->used = PC_ALIGN;
    if (a->shared) return PC_OK;
    const bool device = !a->base;
    pc_arena_close(a);
    return pc_fail(PC_ERR_MEMORY, "memory for %s on %s: %.1f MiB%s are not to be had", name,
                   memory->name, (double)(device ? bytes : 2 * beside) / 1048576.0,
                   device ? "" : " of pinned memory");
}

void pc_arena_open_dry(pc_arena *a, const char *name)
{
    // The addresses must be non-null, aligned and never touched.
    *a = (pc_arena){.base = (unsigned char *)(uintptr_t)PC_ALIGN,
                    .size = SIZE_MAX / 4,
                    .dry = true,
                    .name = name};
}

void pc_arena_open_dry_in(pc_arena *a, const char *name, const pc_memory *memory)
{
    pc_arena_open_dry(a, name);
    a->memory = memory;
    if (memory) a->used = PC_ALIGN;
}

void pc_arena_close(pc_arena *a)
{
    if (a->memory && !a->dry) {
        if (a->base) a->memory->put(a->base);
        if (a->halves) a->memory->put_shared(a->halves); // after `put`, which has waited
    } else if (a->base && !a->dry) {
        munmap(a->base, a->size);
    }
    *a = (pc_arena){0};
}

// What was told to the device so far may still read and write the half that is left, and nothing told later will.
static void other_half(pc_arena *a)
{
    a->left[a->half] = a->memory->mark();
    a->half = 1 - a->half;
    a->shared = a->halves + (size_t)a->half * a->shared_size;
    if (a->left[a->half] >= 0) a->memory->wait_mark(a->left[a->half]);
}

void pc_arena_release(pc_arena *a, size_t mark)
{
    a->used = mark;
    if (mark > 0) return;
    if (a->memory) a->used = PC_ALIGN;
    if (a->memory && !a->dry && a->shared_used) other_half(a);
    a->shared_used = 0;
}

static void *take(unsigned char *base, size_t size, size_t *used, size_t *peak, size_t bytes,
                  const char *name)
{
    const size_t start = (*used + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN;
    PC_ASSERT(base && start <= size && bytes <= size - start,
              "arena '%s': %zu bytes wanted, %zu of %zu used", name ? name : "(closed)", bytes,
              *used, size);
    *used = start + bytes;
    if (*used > *peak) *peak = *used;
    return base + start;
}

static void *own_bytes(pc_arena *a, size_t bytes)
{
    return take(a->base, a->size, &a->used, &a->peak, bytes, a->name);
}

// On a dry arena of the host's both are counted: which of them a real one needs is for who opens it.
static void *shared_bytes(pc_arena *a, size_t bytes)
{
    unsigned char *base = a->dry ? a->base : a->shared;
    const size_t size = a->dry ? SIZE_MAX / 4 : a->shared_size;
    if (a->memory) return take(base, size, &a->shared_used, &a->shared_peak, bytes, a->name);
    if (a->dry) take(base, size, &a->shared_used, &a->shared_peak, bytes, a->name);
    return own_bytes(a, bytes);
}

void *pc_arena_bytes(pc_arena *a, size_t bytes)
{
    return shared_bytes(a, bytes);
}

void *pc_arena_numbers(pc_arena *a, size_t bytes)
{
    return own_bytes(a, bytes);
}

static size_t bytes_of(const pc_arena *a, pc_dtype t, int64_t count)
{
    PC_ASSERT(count >= 0, "arena '%s': %lld elements", a->name, (long long)count);
    return (size_t)count * pc_dtype_size(t);
}

static void *numbers(pc_arena *a, pc_dtype t, int64_t count)
{
    const size_t bytes = bytes_of(a, t, count);
    return t == PC_I32 || t == PC_F64 ? shared_bytes(a, bytes) : own_bytes(a, bytes);
}

pc_tensor pc_alloc_shared(pc_arena *a, pc_dtype t, int64_t d0, int64_t d1)
{
    return pc_view2(shared_bytes(a, bytes_of(a, t, d0 * d1)), t, d0, d1);
}

pc_tensor pc_alloc1(pc_arena *a, pc_dtype t, int64_t d0)
{
    return pc_view1(numbers(a, t, d0), t, d0);
}

pc_tensor pc_alloc2(pc_arena *a, pc_dtype t, int64_t d0, int64_t d1)
{
    return pc_view2(numbers(a, t, d0 * d1), t, d0, d1);
}

pc_tensor pc_alloc3(pc_arena *a, pc_dtype t, int64_t d0, int64_t d1, int64_t d2)
{
    return pc_view3(numbers(a, t, d0 * d1 * d2), t, d0, d1, d2);
}

pc_tensor pc_alloc_like(pc_arena *a, pc_tensor x)
{
    pc_tensor y = x;
    y.stride = pc_row_len(x);
    y.data = numbers(a, x.dtype, pc_numel(x));
    return y;
}

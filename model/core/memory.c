/*
 * memory.c - arenas over anonymous mappings.
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

void pc_arena_open_dry(pc_arena *a, const char *name)
{
    // The addresses must be non-null, aligned and never touched.
    *a = (pc_arena){.base = (unsigned char *)(uintptr_t)PC_ALIGN,
                    .size = SIZE_MAX / 4,
                    .dry = true,
                    .name = name};
}

void pc_arena_close(pc_arena *a)
{
    if (a->base && !a->dry) munmap(a->base, a->size);
    *a = (pc_arena){0};
}

void *pc_arena_bytes(pc_arena *a, size_t bytes)
{
    const size_t start = (a->used + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN;
    PC_ASSERT(a->base && start <= a->size && bytes <= a->size - start,
              "arena '%s': %zu bytes wanted, %zu of %zu used", a->name ? a->name : "(closed)",
              bytes, a->used, a->size);
    a->used = start + bytes;
    if (a->used > a->peak) a->peak = a->used;
    return a->base + start;
}

static void *numbers(pc_arena *a, pc_dtype t, int64_t count)
{
    PC_ASSERT(count >= 0, "arena '%s': %lld elements", a->name, (long long)count);
    return pc_arena_bytes(a, (size_t)count * pc_dtype_size(t));
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

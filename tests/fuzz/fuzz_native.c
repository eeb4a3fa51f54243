/*
 * fuzz_native.c - a native checkpoint: texts, files, list, numbers where they lie, and loaded into the tiny model that
 * the seeds hold. HDF5 itself is not compiled for coverage; our checks before it are.
 */
#include "checkpoints/native.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/tiny.h"

#include <stdlib.h>

// libFuzzer's own mutations, behind checksums that are right again (every eighth keeps what it got).
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    const size_t n = LLVMFuzzerMutate(data, size, max_size);
    if (seed % 8) repair_hdf5(data, n);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size);
    pc_native_text text;
    pc_native_item *items;
    pc_safetensors *s = NULL;
    int64_t n;
    if (!pc_native_read_text(&text, path)) pc_native_text_close(&text);
    if (!pc_native_list(&items, &n, path)) pc_native_list_close(items, n);
    if (!pc_native_map(&s, path)) {
        for (int64_t i = 0; i < pc_safetensors_count(s); i++) {
            const pc_st_entry *e = pc_safetensors_at(s, i);
            int64_t count = 1;
            for (int k = 0; k < e->rank; k++) count *= e->dim[k];
            float *x = malloc((size_t)(count + 1) * sizeof *x);
            if (x) pc_st_floats(x, e, count);
            free(x);
        }
        pc_safetensors_close(s);
    }
    tiny model;
    tiny_open(&model);
    (void)!pc_native_load(&model.params, path, true, false, NULL);
    tiny_close(&model);
    return 0;
}

/*
 * fuzz_pickle.c - a PyTorch archive: opened, every tensor read as numbers. The same calls, other seeds.
 */
#include "checkpoints/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pc_safetensors *s = NULL;
    if (pc_safetensors_open(&s, fuzz_file(data, size))) return 0;
    for (int64_t i = 0; i < pc_safetensors_count(s); i++) {
        const pc_st_entry *e = pc_safetensors_at(s, i);
        int64_t n = 1;
        for (int k = 0; k < e->rank; k++) n *= e->dim[k];
        if (n < 0 || n > (int64_t)size * 8) abort(); // a file says less than it has
        float *x = malloc((size_t)(n + 1) * sizeof *x);
        if (x && pc_safetensors_find(s, e->name) == e) pc_st_floats(x, e, n);
        free(x);
    }
    pc_safetensors_close(s);
    return 0;
}

/*
 * tensor_set.h - inside of a pc_safetensors: named tensors in mapped files, whatever the files' format.
 *
 * safetensors.c, pickle.c and native_map.c fill one; everything above sees entries. Private to checkpoints/.
 */
#ifndef PC_CHECKPOINTS_TENSOR_SET_H
#define PC_CHECKPOINTS_TENSOR_SET_H

#include "checkpoints/safetensors.h"
#include <jansson.h>

typedef struct pc_mapping {
    unsigned char *base;
    size_t size;
    json_t *header; // safetensors: owns names and types of its entries
} pc_mapping;

struct pc_safetensors {
    pc_mapping *file;
    int files;
    char **names; // of entries whose file has no header to own them
    int64_t name_count, name_capacity;
    void **copies; // tensors that did not lie in order in their file
    int64_t copy_count;
    pc_st_entry *list; // by name
    int64_t count, capacity;
};

// Maps one more file of at least `least` bytes; *out stays valid until the next is mapped.
pc_status pc_set_map(pc_safetensors *s, pc_mapping **out, const char *path, size_t least);
// Room for `more` entries.
pc_status pc_set_reserve(pc_safetensors *s, size_t more);
// One more entry under a copy of its name, of n bytes.
pc_status pc_set_add(pc_safetensors *s, const pc_st_entry *e, const char *name, size_t n);
// Sorts by name; a name used twice is PC_ERR_FORMAT.
pc_status pc_set_sort(pc_safetensors *s);

#endif

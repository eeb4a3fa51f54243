/*
 * safetensors.h - safetensors files: memory-mapped in, atomic out (spec: formats.md).
 *
 * PyTorch's own files (pickle.h) open through the same calls and look the same from there on.
 */
#ifndef PC_CHECKPOINTS_SAFETENSORS_H
#define PC_CHECKPOINTS_SAFETENSORS_H

#include "model/core/tensor.h"

typedef struct pc_st_entry {
    const char *name;
    const char *dtype; // as in the file: "F32", "BF16", "I64" ...
    int rank;
    int64_t dim[8];
    const void *data; // into the mapping
    size_t bytes;
} pc_st_entry;

typedef struct pc_safetensors pc_safetensors;

// A file, or a sharded set by its index. Every rule of the format is checked before anything is believed.
pc_status pc_safetensors_open(pc_safetensors **out, const char *path);
pc_status pc_safetensors_open_dir(pc_safetensors **out,
                                  const char *dir); // model.safetensors or its index
void pc_safetensors_close(pc_safetensors *s);
int64_t pc_safetensors_count(const pc_safetensors *s);
const pc_st_entry *pc_safetensors_at(const pc_safetensors *s, int64_t i);
const pc_st_entry *pc_safetensors_find(const pc_safetensors *s, const char *name); // NULL: none

// Numbers of an entry as float / int32, whatever its type (F64, F32, BF16, F16; integers). n is the expected count.
pc_status pc_st_floats(float *out, const pc_st_entry *e, int64_t n);
pc_status pc_st_ints(int32_t *out, const pc_st_entry *e, int64_t n);

// Writing: collect, then write (atomically, names sorted, header padded to 8 bytes).
typedef struct pc_st_out {
    char name[192];
    pc_dtype dtype; // F32 or I64/I32/U8
    int rank;
    int64_t dim[8];
    const void *data;
} pc_st_out;
// Numbers [begin, begin + count) of list[index] into buffer, in that tensor's type, row-major.
typedef pc_status pc_st_fill(void *arg, void *buffer, int64_t index, int64_t begin, int64_t count);
pc_status pc_safetensors_write(const char *path, const pc_st_out *list, int64_t n,
                               const char *metadata_json);

// A file's bytes, malloc'ed.
pc_status pc_safetensors_memory(char **out, size_t *size, const pc_st_out *list, int64_t n);
// The same in pieces of a few MB that `fill` makes: `data` of the list is not looked at.
pc_status pc_safetensors_stream(const char *path, const pc_st_out *list, int64_t n,
                                const char *metadata_json, pc_st_fill *fill, void *arg);

#endif

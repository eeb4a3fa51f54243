/*
 * native.h - the native checkpoint: one HDF5 file that is all there is.
 *
 *   /                attributes: format "percept", version 1
 *   /text/           scalar strings: model, image, tokenizer, template, recipe, state, source, adapters (JSON or YAML)
 *   /files/NAME      bytes: small files of the directory that the model came from (its config.json, tokenizer ...)
 *   /params/NAME     one dataset per parameter, f32 (bf16 or f16 when imported so); attribute `trained` (0/1)
 *   /moments/m/NAME  and /moments/v/NAME: AdamW's, of trained parameters
 *   /moments/history/NAME  of runs in eight bits: the largest numbers of a matrix' operands in past steps (ops/fp8.h)
 *
 * Written beside, synced, renamed. No times and no library-made randomness inside: equal content is equal bytes.
 * Loading checks every name and shape; a missing or surplus tensor is an error that names it.
 */
#ifndef PC_CHECKPOINTS_NATIVE_H
#define PC_CHECKPOINTS_NATIVE_H

#include "checkpoints/safetensors.h"
#include "model/layers/params.h"

// A file carried along, so that a directory can be written as it was read.
typedef struct pc_native_file {
    char *name;
    unsigned char *data; // NUL-terminated beyond `size`
    size_t size;
} pc_native_file;
#define PC_NATIVE_FILES_MAX 256

typedef struct pc_native_text {
    char *model, *image, *tokenizer, *template_name, *recipe, *state; // malloc'ed; NULL when absent
    char *
        source; // where weights came from: {"family", "layout", "dtype", "dtypes", "name"} (hf_carry.h)
    pc_native_file *files;
    int file_count;
    char *adapters; // where low-rank adapters stand (adapters.h); their numbers are parameters
} pc_native_text;
void pc_native_text_close(pc_native_text *t);
// Copies name and bytes; a name must be plain: no separators, no leading dot.
pc_status pc_native_add_file(pc_native_text *t, const char *name, const void *data, size_t size);
const pc_native_file *pc_native_find_file(const pc_native_text *t, const char *name); // NULL: none
bool pc_native_file_name(const char *name);
void pc_native_drop_tokenizer(pc_native_text *t); // the files of a tokenizer that is replaced

pc_status pc_native_write(const char *path, const pc_params *params, bool moments,
                          const pc_native_text *text);

// The same piece by piece: begin, put each parameter in the order of the model's list, end. `end` takes the status so
// far: anything but PC_OK removes the half-written file and comes back with the file's name.
typedef struct pc_native_out pc_native_out;
// Numbers [begin, begin + count) of the parameter into buffer, in its type.
typedef pc_status pc_native_fill(void *arg, void *buffer, int64_t begin, int64_t count);
pc_status pc_native_begin(pc_native_out **out, const char *path, const pc_native_text *text);
pc_status pc_native_put(pc_native_out *o, const char *name, pc_dtype t, int rank,
                        const int64_t *dim, bool trained, pc_native_fill *fill, void *arg);
pc_status pc_native_end(pc_native_out *o, pc_status st);

pc_status pc_native_read_text(pc_native_text *out, const char *path);
// Into bound weights; into bound moments too when asked. `strict`: every parameter of the list must be there; otherwise
// parameters under prefixes the file has none of are left alone (a tower from one file, a decoder from another) and
// `loaded` tells how many came.
pc_status pc_native_load(pc_params *params, const char *path, bool moments, bool strict,
                         int64_t *loaded);
// The file's parameter list, without numbers: for inspect. Names are malloc'ed.
typedef struct pc_native_item {
    char *name;
    int rank;
    int64_t dim[PC_MAX_RANK];
    bool trained;
    pc_dtype dtype;
    bool plain; // stored as f32, f64, bf16 or f16; otherwise HDF5 converts to f32
} pc_native_item;
pc_status pc_native_list(pc_native_item **out, int64_t *n, const char *path);
void pc_native_list_close(pc_native_item *items, int64_t n);
// All parameters as mapped tensors under our names; closed by pc_safetensors_close.
pc_status pc_native_map(pc_safetensors **out, const char *path);

#endif

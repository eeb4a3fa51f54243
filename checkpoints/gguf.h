/*
 * gguf.h - GGUF files (versions 2 and 3): memory-mapped in, streamed out (spec: formats.md 3).
 *
 *   "GGUF" | u32 version | u64 tensors | u64 keys | keys and values | tensor infos | padding | data
 *
 * Every rule is checked when a file is opened, before anything is believed; what is kept beside the mapping are two
 * index numbers a key or tensor. Shapes are ours: dim[0] the slowest axis, so a weight (out,in) is rank 2 {out, in}
 * where the file says {in, out}.
 *
 *   gguf.c   the reader     gguf_keys.c   values of keys, by type     gguf_write.c   the writer
 *   gguf_model.h   a model and its tokenizer out of files         gguf_export.h   and into files
 */
#ifndef PC_CHECKPOINTS_GGUF_H
#define PC_CHECKPOINTS_GGUF_H

#include "model/core/quant.h"
#include "model/core/tensor.h"

#define PC_GGUF_RANK 4
#define PC_GGUF_NAME 64 // bytes of a tensor's name with its NUL

typedef enum pc_gguf_kind {
    PC_GGUF_U8,
    PC_GGUF_I8,
    PC_GGUF_U16,
    PC_GGUF_I16,
    PC_GGUF_U32,
    PC_GGUF_I32,
    PC_GGUF_F32,
    PC_GGUF_BOOL,
    PC_GGUF_STRING,
    PC_GGUF_ARRAY,
    PC_GGUF_U64,
    PC_GGUF_I64,
    PC_GGUF_F64,
    PC_GGUF_KINDS
} pc_gguf_kind;
const char *pc_gguf_kind_name(pc_gguf_kind k); // "u32"

typedef struct pc_gguf pc_gguf;

// Bytes of a text, not NUL-terminated.
typedef struct pc_gguf_span {
    const char *text;
    size_t size;
} pc_gguf_span;

// A key and its value, both in the mapping. An array has kind ARRAY, `item` the kind of its items and `count` of them;
// anything else is one item of its own kind.
typedef struct pc_gguf_value {
    pc_gguf_span key;
    pc_gguf_kind kind, item;
    uint64_t count;
    const unsigned char *data; // the first item
} pc_gguf_value;

typedef struct pc_gguf_tensor {
    char name[PC_GGUF_NAME];
    const pc_quant_type *type;
    int rank; // 0: one number
    int64_t dim[PC_GGUF_RANK];
    int64_t numel, row; // numbers in all; in one row of the fastest axis
    const void *data;
    size_t bytes;
} pc_gguf_tensor;

pc_status pc_gguf_open(pc_gguf **out, const char *path);
// A file that is in memory already, which stays the caller's and must outlive the handle.
pc_status pc_gguf_open_memory(pc_gguf **out, const void *bytes, size_t size);
void pc_gguf_close(pc_gguf *g);
const char *pc_gguf_path(const pc_gguf *g); // "memory" for the latter
int pc_gguf_version(const pc_gguf *g);

/* ---- tensors, in the file's order ---- */

int64_t pc_gguf_count(const pc_gguf *g);
pc_gguf_tensor pc_gguf_at(const pc_gguf *g, int64_t i);
bool pc_gguf_find(pc_gguf_tensor *out, const pc_gguf *g, const char *name);
// Numbers [begin, begin + n) of a tensor, n and begin multiples of its type's block. PC_ERR_FORMAT for a type that is
// not decoded here.
pc_status pc_gguf_floats(float *out, const pc_gguf_tensor *t, int64_t begin, int64_t n);

/* ---- keys, by name ---- */

int64_t pc_gguf_key_count(const pc_gguf *g);
pc_gguf_value pc_gguf_key_at(const pc_gguf *g, int64_t i);
bool pc_gguf_get(pc_gguf_value *out, const pc_gguf *g, const char *key);
bool pc_gguf_has(const pc_gguf *g, const char *key);

// One value with its type checked; an absent key takes `def`, or is an error when that is PC_GGUF_NEEDED (NAN for
// reals). Integers of any width are integers, f32 and f64 reals.
#define PC_GGUF_NEEDED INT64_MIN
pc_status pc_gguf_int(int64_t *out, const pc_gguf *g, const char *key, int64_t def, int64_t min,
                      int64_t max);
pc_status pc_gguf_real(double *out, const pc_gguf *g, const char *key, double def);
pc_status pc_gguf_bool(bool *out, const pc_gguf *g, const char *key, bool def);
// malloc'ed, NUL-terminated; *out NULL with PC_OK when there is no such key.
pc_status pc_gguf_text(char **out, const pc_gguf *g, const char *key);
// An array of strings, integers or reals; *count 0 with PC_OK when there is no such key.
pc_status pc_gguf_strings(pc_gguf_span **out, int64_t *count, const pc_gguf *g, const char *key);
pc_status pc_gguf_ints(int32_t **out, int64_t *count, const pc_gguf *g, const char *key);
pc_status pc_gguf_reals(float **out, int64_t *count, const pc_gguf *g, const char *key);
// The value as text for a person, cut to `size`: numbers, "a string", [4 f32: 1, 2, ...]. Returns buf.
const char *pc_gguf_value_text(const pc_gguf_value *v, char *buf, size_t size);

/* ---- writing ---- */

/*
 * Keys first, then every tensor's name, type and shape, then pc_gguf_begin, then the tensors' numbers in that order,
 * in pieces as they come: a piece is whole rows of the fastest axis. Only the header and one piece are ever in memory.
 * The first failure is kept and returned by every later call. The file appears under its name with pc_gguf_finish.
 */
typedef struct pc_gguf_writer pc_gguf_writer;
pc_status pc_gguf_create(pc_gguf_writer **out, const char *path);
void pc_gguf_put_u32(pc_gguf_writer *w, const char *key, uint32_t v);
void pc_gguf_put_f32(pc_gguf_writer *w, const char *key, double v);
void pc_gguf_put_bool(pc_gguf_writer *w, const char *key, bool v);
void pc_gguf_put_text(pc_gguf_writer *w, const char *key, const char *v);
void pc_gguf_put_texts(pc_gguf_writer *w, const char *key, const char *const *v, int64_t n);
void pc_gguf_put_spans(pc_gguf_writer *w, const char *key, const pc_gguf_span *v, int64_t n);
void pc_gguf_put_i32s(pc_gguf_writer *w, const char *key, const int32_t *v, int64_t n);
void pc_gguf_put_f32s(pc_gguf_writer *w, const char *key, const float *v, int64_t n);
// rank and dim as in pc_gguf_tensor.
void pc_gguf_declare(pc_gguf_writer *w, const char *name, const pc_quant_type *type, int rank,
                     const int64_t *dim);
pc_status pc_gguf_begin(pc_gguf_writer *w);
pc_status pc_gguf_write(pc_gguf_writer *w, const float *numbers, int64_t n);      // encoded here
pc_status pc_gguf_write_bytes(pc_gguf_writer *w, const void *bytes, size_t size); // as they are
// Refuses when something declared has not been written. The writer stays to be closed.
pc_status pc_gguf_finish(pc_gguf_writer *w);
void pc_gguf_writer_close(pc_gguf_writer *w); // an unfinished file is removed

#endif

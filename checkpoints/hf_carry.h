/*
 * hf_carry.h - what a native checkpoint keeps of the directory it came from, so that the directory can be written again.
 *
 *   files    config.json, generation_config.json, tokenizer and preprocessor files, licence: bytes as they are
 *   source   {"name", "family", "layout": variant, "dtype": usual type, "dtypes": {their name: another type}}
 *   ignored.safetensors   small tensors that the family gives no meaning (position_ids), as one more file
 */
#ifndef PC_CHECKPOINTS_HF_CARRY_H
#define PC_CHECKPOINTS_HF_CARRY_H

#include "checkpoints/hf.h"
#include "checkpoints/native.h"

#define PC_HF_IGNORED "ignored.safetensors"

// The files alone; and files with what the weights say. Appends to t->files, replaces t->source.
pc_status pc_hf_carry_files(pc_native_text *t, const char *dir);
pc_status pc_hf_carry(pc_native_text *t, const char *dir, const pc_family *f, const pc_hf_match *m,
                      const pc_safetensors *s);

// A carried file as JSON; *out NULL with PC_OK when there is none.
pc_status pc_hf_carried_json(json_t **out, const pc_native_text *t, const char *name);

// `source`, read: family by its config.json among the files. Absent: all zero, layout -1.
typedef struct pc_hf_source {
    json_t *json;
    const pc_family *family;  // NULL: not known
    int layout;               // -1: not known
    const char *name, *dtype; // into json; NULL: not known
} pc_hf_source;
pc_status pc_hf_source_open(pc_hf_source *out, const pc_native_text *t);
void pc_hf_source_close(pc_hf_source *s);
// The type that a tensor of theirs had ("BF16"); NULL: not known.
const char *pc_hf_source_dtype(const pc_hf_source *s, const char *theirs);

#endif

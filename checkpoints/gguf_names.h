/*
 * gguf_names.h - which tensor of a GGUF pair is which part of our parameters, both ways (spec: formats.md 3).
 *
 * Private to gguf_model.c, gguf_export.c and inspect.
 */
#ifndef PC_CHECKPOINTS_GGUF_NAMES_H
#define PC_CHECKPOINTS_GGUF_NAMES_H

#include "model/families/families.h"

typedef enum pc_gguf_part { PC_GGUF_DECODER, PC_GGUF_EYES } pc_gguf_part;

// "llama", "qwen2" or "qwen2vl": what a file of this decoder is called.
const char *pc_gguf_architecture(const pc_model_config *c);
// The tower and the decoder of a model; NULL where it has none.
const pc_vision_config *pc_gguf_tower(const pc_model_config *c);
const pc_decoder_config *pc_gguf_decoder(const pc_model_config *c);

// PC_ERR_INPUT names what of the model a file of this part cannot say.
pc_status pc_gguf_sayable(const pc_model_config *c, pc_gguf_part part);

#define PC_GGUF_ONES  "(ones)"
#define PC_GGUF_ZEROS "(zeros)"

// Where files differ in their names; what we write is all false.
typedef struct pc_gguf_spelling {
    bool swapped; // fc1 and fc2 are called ffn_down and ffn_up, as the first converters had it
    bool newline; // "v.image_newline", which came after "model.image_newline"
    // The tower's last norm, which nothing reads and files leave out because llama.cpp would apply it: it stands in
    // the list as PC_GGUF_ONES and PC_GGUF_ZEROS, so that the model can be written as a directory again.
    bool implied_norm;
} pc_gguf_spelling;

// The tensors of one part, in the order in which files have them.
pc_status pc_gguf_aliases(pc_aliases *out, const pc_model_config *c, pc_gguf_part part,
                          pc_gguf_spelling spelling);

// The heads by which the rows of this tensor are permuted (query and key of "llama"), or 0.
int64_t pc_gguf_permuted(const pc_alias *a, const pc_decoder_config *d, bool llama);
// `rows` (D, row) of one head: file order (2j, 2j+1 turn together) from ours (j, j + D/2), and back. In place, by way
// of `room`, as large.
void pc_gguf_permute_head(float *rows, float *room, int64_t D, int64_t row);
void pc_gguf_unpermute_head(float *rows, float *room, int64_t D, int64_t row);

// Frame t of the stem of grids, which is a tensor of its own in a file ("v.patch_embd.weight.1"): (C,3,p,p) of our
// (C,3,frames,p,p). -1: the tensor is no such slice.
int pc_gguf_frame(const pc_alias *a, const pc_model_config *c);
void pc_gguf_take_frame(float *out, const float *ours, const pc_vision_config *v, int t);
void pc_gguf_put_frame(float *ours, const float *in, const pc_vision_config *v, int t);

// Divisors of the rotary frequencies (D/2) under llama3 scaling, and the scaling from divisors: false when they are
// none of such a scaling.
void pc_gguf_rope_divisors(float *out, const pc_rope_config *r, int64_t D);
bool pc_gguf_rope_from_divisors(pc_rope_config *r, const float *divisors, int64_t D);

#endif

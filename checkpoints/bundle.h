/*
 * bundle.h - anything a command calls MODEL, opened: weights with the tokenizer, template and image settings that
 * belong to them. A native checkpoint (.h5), a Hugging Face directory as published, or a .gguf with its mmproj.
 *
 * The room, by subject:
 *   bundle.h     this file                  mapped.h     matrices left in their files, for inference
 *   native.h     native.c, native_read.c, native_map.c, native_text.c, native_import.c; h5_sink.h, native_h5.h below
 *   safetensors.h, pickle.h, zip.h          tensors of files, one tensor_set.h behind all; numbers.h narrow types
 *   hf.h         a directory, matched       hf_carry.h   what stays of it      hf_config.h, hf_export.h, card.h   out
 *   gguf.h       gguf_model.h in, gguf_export.h out                            peft.h, adapters.h   low-rank adapters
 *   supply.h     a model's numbers wherever they lie, for conversions          verify.h   what was written, checked
 *   given.h      batches given as tensors   commands/    those of percept-convert
 */
#ifndef PC_CHECKPOINTS_BUNDLE_H
#define PC_CHECKPOINTS_BUNDLE_H

#include "checkpoints/adapters.h"
#include "checkpoints/gguf_model.h"
#include "checkpoints/native.h"
#include "checkpoints/safetensors.h"
#include "data/images/image.h"
#include "data/text/template.h"
#include "model/families/families.h"

typedef struct pc_bundle {
    pc_model model;
    pc_tokenizer *tokenizer;     // NULL when the source has none (a bare test checkpoint)
    const pc_template *template; // NULL likewise
    pc_image_config image;
    bool has_image;
    const pc_family *
        family; // NULL for native checkpoints that carry no config.json; of a GGUF the one that it came from
    pc_aliases aliases;     // their names, when there is a family
    pc_native_text text;    // native checkpoints; of a directory what is carried along (hf_carry.h)
    double adapter_dropout; // of the adapters in a native checkpoint
    bool mapped;            // opened for inference: matrices may lie in the files (mapped.h)
    pc_safetensors *files;  // they lie in these
    pc_gguf_views gguf;     // or in these
    pc_arena room;
    char path[4096];
} pc_bundle;

pc_status pc_bundle_open(pc_bundle *out, const char *path);
// The same with the mmproj of a .gguf named; NULL: the one beside it (pc_gguf_model_open), "": none.
pc_status pc_bundle_open_pair(pc_bundle *out, const char *path, const char *mmproj);
// For inference alone: matrices stay in the files, in their types, and are not read before they are wanted. Answers
// are those of pc_bundle_open to rounding.
pc_status pc_bundle_open_mapped(pc_bundle *out, const char *path, const char *mmproj);
void pc_bundle_close(pc_bundle *b);

// A PEFT folder's adapters onto the model, beside its weights. `dir` NULL: nothing is done.
pc_status pc_bundle_adapt(pc_bundle *b, const char *dir);

// Only what stands around the weights: nothing large is read. Used by tokenize, render, preprocess.
pc_status pc_bundle_open_light(pc_bundle *out, const char *path);

#endif

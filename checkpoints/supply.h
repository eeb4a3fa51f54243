/*
 * supply.h - a model's numbers wherever they lie, a piece at a time: what every conversion reads from.
 *
 *   directory        mapped safetensors (or PyTorch files) under their names
 *   native .h5       mapped parameters under ours
 *   .gguf            mapped blocks, decoded as they are read
 *
 * Low-rank adapters, those of a native checkpoint or of a PEFT folder, are merged on the way: who reads sees
 * W + s B A. One parameter at a time is in memory then, otherwise none.
 */
#ifndef PC_CHECKPOINTS_SUPPLY_H
#define PC_CHECKPOINTS_SUPPLY_H

#include "checkpoints/bundle.h"
#include "checkpoints/gguf_model.h"
#include "checkpoints/hf_carry.h"
#include "checkpoints/peft.h"

typedef struct pc_supply {
    pc_bundle bundle;        // tokenizer, template, image settings and texts; no weights
    pc_model shape;          // its parameter list, without memory
    bool native;             // tensors are under our names
    const pc_family *family; // NULL: not known
    pc_hf_source source;
    pc_safetensors *tensors; // NULL: GGUF
    pc_gguf_model gguf;
    pc_hf_match match;          // a directory's
    struct pc_supply_run *runs; // aliases of a directory or of GGUF files by our name and row
    pc_peft *adapters;          // to merge; a native checkpoint's own come first
    int adapter_count;
    bool own_adapters; // the first one is the checkpoint's own
    double dropout;    // of those
    // A parameter with adapters, merged; a tensor of a GGUF file that cannot be read in pieces.
    const pc_param *merged;
    float *numbers;
    int64_t room;
    int read_alias; // one more than its index
    float *whole;
    int64_t whole_room;
} pc_supply;

pc_status pc_supply_open(pc_supply *out, const char *path);
void pc_supply_close(pc_supply *o); // a zeroed one is fine

// A PEFT folder, to be merged into everything that is read from here on. Needs a family.
pc_status pc_supply_adapt(pc_supply *o, const char *dir);

void pc_supply_drop_adapters(pc_supply *o); // what is read from here on is the base

// `count` numbers of our parameter from number `at` on.
pc_status pc_supply_read(pc_supply *o, float *out, const char *ours, int64_t at, int64_t count);
// All of them into bound f32 parameters of the same model.
pc_status pc_supply_bind(pc_supply *o, pc_params *params);

// The narrowest of f32, bf16, f16 that holds the parameter as stored; f32 when it is merged or was anything else.
pc_dtype pc_supply_dtype(const pc_supply *o, const char *ours);

// Everything that a native checkpoint of it says: copies of what the bundle has.
pc_status pc_supply_texts(pc_native_text *out, const pc_supply *o);

#endif

/*
 * hf_export.h - a model as a Hugging Face directory: weights in safetensors, sharded where they are large, with every
 * JSON and tokenizer file that came with it or can be made, and a model card.
 *
 * Written as DIR.part, opened again and verified, then renamed: DIR is whole or not there. Numbers go through in
 * pieces of a few MB; where the source is mapped nothing larger is in memory, except logits' verification.
 */
#ifndef PC_CHECKPOINTS_HF_EXPORT_H
#define PC_CHECKPOINTS_HF_EXPORT_H

#include "checkpoints/card.h"
#include "checkpoints/verify.h"

typedef struct pc_hf_export_options {
    bool as_source; // every tensor in the type it had; otherwise in `dtype`
    pc_dtype dtype; // F32, BF16, F16
    int layout;     // of the family's names; negative: the source's, or the one that is published
    int64_t shard_size; // bytes; 0: 5 GB
    pc_verify_mode verify;
    uint64_t seed;
} pc_hf_export_options;

pc_status pc_hf_export(const char *dir, pc_supply *o, const pc_hf_export_options *options,
                       const pc_card *card, pc_verify_report *report);

#endif

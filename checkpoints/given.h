/*
 * given.h - batches given as tensors, as transformers lays them out, turned into ours.
 *
 *   input_ids (B,T)  attention_mask (B,T)?  labels (B,T)?  pixel_values (images,3,S,S)?
 * and for other kinds of eyes what given_parts.h lists.
 *
 * Padded places are kept as rows, so that what comes out is rectangular: B*T rows, row b*T + t; keys are limited by
 * attention_mask (which SigLIP, whose texts are always full, does not read). Positions count from 0 in every row,
 * unless position_ids (3,B,T) are given to a model with M-RoPE. Labels are those of the token itself (-100: none); they
 * are shifted here. Used by `percept logits`, `percept-train gradients` and `replay`.
 */
#ifndef PC_CHECKPOINTS_GIVEN_H
#define PC_CHECKPOINTS_GIVEN_H

#include "checkpoints/safetensors.h"
#include "model/networks/model.h"

typedef struct pc_given {
    int64_t B, T, images; // B, T 0 without text
    bool has_text, has_labels;
    pc_tensor pixels;            // (crops of all images,3,S,S), absent without images
    pc_tensor high, patches;     // see pc_pictures
    pc_image_geometry *geometry; // (images), vlm
    uint8_t *film;               // (images), grid: 1 where it is a film
    pc_pictures apart;           // grid: films that stand nowhere in the text
    pc_text_batch text;          // two towers
    pc_vlm_batch vlm;            // vlm; its pictures are these
    pc_arena memory;
} pc_given;

// `prefix` stands before the names ("mb0."); slice >= 0 takes entry `slice` of one more leading dimension.
pc_status pc_given_open(pc_given *out, const pc_safetensors *file, const pc_model_config *config,
                        const char *prefix, int64_t slice);
void pc_given_close(pc_given *g); // a zeroed one is fine

#endif

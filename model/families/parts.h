/*
 * parts.h - what several families share: CLIP-named encoders, Llama-named decoders.
 *
 *   parts.c    encoder layers of CLIP and SigLIP; their vision towers
 *   llava.c    what LLaVA, LLaVA-NeXT and OneVision share
 *   deepseek_vl.c   SAM's tower and the hybrid's convolutions
 *   llama.c    Llama-shaped decoders (llama, mistral, qwen2), alone or inside a vision-language model
 */
#ifndef PC_FAMILIES_PARTS_H
#define PC_FAMILIES_PARTS_H

#include "model/families/families.h"

// The object under `key`, or under `key`_dict, which very old files have and which wins. Absent: *out is
// NULL, every key takes its class default.
pc_status pc_json_section(const json_t **out, const json_t *json, const char *key);

// A CLIP vision tower (head PC_HEAD_NONE: the caller sets it) and its tensors below `theirs`, which ends in
// a dot ("vision_model."); ours are below "vision.".
pc_status pc_family_clip_vision(pc_vision_config *out, const json_t *vision);
void pc_family_clip_vision_aliases(pc_aliases *out, const pc_vision_config *c, const char *theirs);
// SigLIP's: head PC_HEAD_MAP unless `vision_use_head` is false.
pc_status pc_family_siglip_vision(pc_vision_config *out, const json_t *vision);
void pc_family_siglip_vision_aliases(pc_aliases *out, const pc_vision_config *c,
                                     const char *theirs);
// Either of them, by the section's model_type; `def` where it has none.
pc_status pc_family_tower(pc_vision_config *out, const json_t *vision, const char *def);
void pc_family_tower_aliases(pc_aliases *out, const pc_vision_config *c, const char *theirs);

// L encoder layers "<theirs>i.{layer_norm1, self_attn.{q,k,v,out}_proj, layer_norm2, mlp.{fc1,fc2}}" into
// "<ours>.blocks.i".
void pc_family_encoder_aliases(pc_aliases *out, int64_t L, int64_t C, int64_t F, const char *ours,
                               const char *theirs);
// "<theirs>.weight" and "<theirs>.bias" of a linear (O,I) or, with I = 0, of a norm (O), into "<ours>.*",
// rows from `row` on.
void pc_family_pair(pc_aliases *out, const char *ours, int64_t row, const char *theirs, int64_t O,
                    int64_t I);

// A decoder from a text config; the defaults are those of its model_type (llama, mistral, qwen2). Tensors
// below `prefix`, which ends in a dot ("model."); the head's name is whole and unused when tied.
pc_status pc_family_decoder(pc_decoder_config *out, const json_t *text);
// The same with the class that a section without a model_type is of.
pc_status pc_family_decoder_of(pc_decoder_config *out, const json_t *text, const char *def);
void pc_family_decoder_aliases(pc_aliases *out, const pc_decoder_config *c, const char *prefix,
                               const char *head);

// What the classes of the LLaVA family mean by an absent key.
typedef struct pc_llava_class {
    const char *tower, *decoder; // model_types of their sections
    const char *vision;          // JSON of an absent vision_config
    int64_t image_id, feature_layer;
    const char *select; // vision_feature_select_strategy
} pc_llava_class;
// All but how images are cut. kind PC_VISUAL_SQUARE, not validated.
pc_status pc_family_llava_config(pc_vlm_config *out, const json_t *json, const pc_llava_class *k);
// Layouts that tensors may be named in; the newline is listed with tiles.
enum { PC_LLAVA_LAYOUTS = 5 };
pc_status pc_family_llava_aliases(pc_aliases *out, const pc_model_config *c, int variant);
// A list of [height, width] ([width, height] when swapped); absent: what `def` says, as JSON.
pc_status pc_family_pinpoints(pc_pinpoints *out, const json_t *json, const char *key,
                              const char *def, bool swapped);
// A string; absent: def.
pc_status pc_json_text(const char **out, const json_t *json, const char *key, const char *def);

// Qwen-VL's resampler: ours below "projector.".
void pc_family_qwen_resampler_aliases(pc_aliases *out, const pc_projector_config *c);

// SAM's tower as transformers describes it; NULL: as published, ViT-B.
pc_status pc_family_sam(pc_sam_config *out, const json_t *json);
// Its tensors below `theirs`, which ends in a dot, into "vision.high.".
typedef struct pc_sam_names {
    const char *stem, *blocks, *norm; // "patch_embed.projection", "layers", "layer_norm"
} pc_sam_names;
void pc_family_sam_aliases(pc_aliases *out, const pc_sam_config *c, const char *theirs,
                           const pc_sam_names *names);
// A neck: convolution, norm, convolution, norm.
void pc_family_neck_aliases(pc_aliases *out, const pc_sam_config *c, const char *ours,
                            const char *theirs, const char *const names[4]);
// What follows the necks: two convolutions and the scalar, by whole names.
void pc_family_down_aliases(pc_aliases *out, const pc_sam_config *c, const char *first,
                            const char *second, const char *alpha);

// The table's rows.
extern const pc_family pc_family_clip, pc_family_siglip, pc_family_open_clip, pc_family_llava,
    pc_family_llava_original, pc_family_llava_mistral, pc_family_llava_qwen, pc_family_llava_next,
    pc_family_llava_onevision, pc_family_llama, pc_family_mistral, pc_family_qwen2,
    pc_family_qwen2_vl, pc_family_qwen, pc_family_deepseek_vl, pc_family_deepseek_vl_hybrid,
    pc_family_deepseek_vl_original;

#endif

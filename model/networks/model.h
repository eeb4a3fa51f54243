/*
 * model.h - a model of either kind, its parameters and its description.
 *
 * The description is a JSON object: {"kind": "clip"|"vlm", "vision": {...}, ...}; the same keys stand under
 * `model: shape:` in a recipe and in a native checkpoint. Tables in config.c give each key its type, default,
 * range and sentence of help.
 *
 *   vision.h     vision.c stem, tokens, blocks; vision_head.c from rows to an embedding
 *   text.h       the text tower            clip.h    two towers and their losses
 *   projector.h  tower to decoder          decoder.h the Llama-shaped decoder
 *   vlm.h        vlm.c eyes and decoder in one; visual.c kinds of eyes; vlm_batch.c sequences to rows
 *   qwen2_vision.h  patches of any grid and their merger    resampler.h  queries that read a tower's rows
 *   geometry.h   how one image came and what it becomes
 *   generate.h   generate.c ids with a cache; sample.c one id from logits
 *   runner.h     a pass in memory that fits it: dry first, then for real
 *   model.h      model.c a model opened; config.c its description
 */
#ifndef PC_NETWORKS_MODEL_H
#define PC_NETWORKS_MODEL_H

#include "model/layers/adapters.h"
#include "model/networks/clip.h"
#include "model/networks/vlm.h"
#include <jansson.h>

typedef enum pc_model_kind { PC_MODEL_CLIP, PC_MODEL_VLM } pc_model_kind;

typedef struct pc_model_config {
    pc_model_kind kind;
    pc_clip_config clip;
    pc_vlm_config vlm;
} pc_model_config;

typedef struct pc_model {
    pc_model_config config;
    pc_clip clip;
    pc_vlm vlm;
    pc_params params;
    pc_adapters adapters; // none until pc_model_adapt
    pc_arena weights; // owns the memory of parameters and rotary tables, when opened with memory
} pc_model;

// Unknown keys name their nearest neighbour; absent ones take defaults; the result is validated.
pc_status pc_model_config_from_json(pc_model_config *out, const json_t *json);
json_t *pc_model_config_to_json(
    const pc_model_config *c); // new reference, every key written; NULL: no memory
void pc_model_config_help(void (*line)(void *arg, const char *section, const char *key,
                                       const char *type, const char *def, const char *range,
                                       const char *help),
                          void *arg);

// Lists parameters; with `bind` gives them memory of type t (not initialised).
pc_status pc_model_open(pc_model *m, const pc_model_config *c, pc_dtype t, bool bind);
void pc_model_close(pc_model *m);

// After opening without memory, when some parameters have been placed (pc_param_place): f32 memory for the others.
pc_status pc_model_bind_absent(pc_model *m);

// Adds adapters, of type f32, with memory when `bind` (not initialised). A model takes them once.
pc_status pc_model_adapt(pc_model *m, const pc_adapter_site *sites, int count, bool bind);

// A replica: same weights and adapters, own gradients bound to `grads` (may be a shared arena).
pc_status pc_model_replicate(pc_model *out, pc_model *master);

#endif

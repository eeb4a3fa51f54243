/*
 * llava_next.c - LlavaNextForConditionalGeneration: LLaVA whose images are cut into tiles (spec: llava.md 6, 7).
 *
 * Names and all but `image_grid_pinpoints` are LLaVA's; the newline is a tensor of its own.
 */
#include "model/families/parts.h"

static pc_status next_config(pc_model_config *out, const json_t *json)
{
    static const pc_llava_class k = {
        .tower = "clip_vision_model",
        .decoder = "llama",
        .vision = "{\"hidden_size\":1024,\"intermediate_size\":4096,\"num_hidden_layers\":24,"
                  "\"num_attention_heads\":16,\"image_size\":336,\"patch_size\":14}",
        .image_id = 32000,
        .feature_layer = -2,
        .select = "default",
    };
    pc_vlm_config *c = &out->vlm;
    pc_status st;

    out->kind = PC_MODEL_VLM;
    if ((st = pc_family_llava_config(c, json, &k)) ||
        (st = pc_family_pinpoints(&c->pinpoints, json, "image_grid_pinpoints",
                                  "[[336,672],[672,336],[672,672],[1008,336],[336,1008]]", false)))
        return st;
    c->visual = PC_VISUAL_TILES;
    return pc_vlm_validate(c);
}

static const char *const next_ignored[] = {"rotary_emb.inv_freq", "embeddings.position_ids",
                                           "lm_head.weight", NULL};

const pc_family pc_family_llava_next = {
    .name = "llava_next",
    .model_type = "llava_next",
    .config = next_config,
    .aliases = pc_family_llava_aliases,
    .variants = PC_LLAVA_LAYOUTS,
    .ignored = next_ignored,
};

/*
 * llava_onevision.c - LlavaOnevisionForConditionalGeneration: tiles through SigLIP into Qwen2; features of many tiles are
 * shrunk (`vision_aspect_ratio` anyres_max_N).
 */
#include "model/families/parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// [384 i, 384 j] for i, j = 1 .. 6: the class's own list.
static void default_pinpoints(char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < 36; i++)
        used += (size_t)snprintf(out + used, size - used, "%s[%d,%d]", i ? "," : "",
                                 384 * (i / 6 + 1), 384 * (i % 6 + 1));
    snprintf(out + used, size - used, "]");
}

static pc_status onevision_config(pc_model_config *out, const json_t *json)
{
    static const pc_llava_class k = {
        .tower = "siglip_vision_model",
        .decoder = "qwen2",
        .vision = "{\"hidden_size\":1152,\"intermediate_size\":4304,\"num_hidden_layers\":26,"
                  "\"num_attention_heads\":16,\"image_size\":384,\"patch_size\":14,"
                  "\"vision_use_head\":false}",
        .image_id = 151646,
        .feature_layer = -1,
        .select = "full",
    };
    pc_vlm_config *c = &out->vlm;
    const char *aspect = NULL;
    char pinpoints[1024];
    pc_status st;

    out->kind = PC_MODEL_VLM;
    default_pinpoints(pinpoints, sizeof pinpoints);
    if ((st = pc_family_llava_config(c, json, &k)) ||
        (st = pc_json_text(&aspect, json, "vision_aspect_ratio", "anyres_max_9")) ||
        (st = pc_family_pinpoints(&c->pinpoints, json, "image_grid_pinpoints", pinpoints, false)))
        return st;
    if (sscanf(aspect, "anyres_max_%" SCNd64, &c->max_tiles) != 1 || c->max_tiles < 1 ||
        c->max_tiles > 1024)
        return pc_fail(PC_ERR_FORMAT,
                       "key 'vision_aspect_ratio': \"%s\"; expected anyres_max_N, N up to 1024",
                       aspect);
    c->visual = PC_VISUAL_TILES;
    return pc_vlm_validate(c);
}

static const char *const onevision_ignored[] = {"rotary_emb.inv_freq", "embeddings.position_ids",
                                                "lm_head.weight", NULL};

const pc_family pc_family_llava_onevision = {
    .name = "llava_onevision",
    .model_type = "llava_onevision",
    .config = onevision_config,
    .aliases = pc_family_llava_aliases,
    .variants = PC_LLAVA_LAYOUTS,
    .ignored = onevision_ignored,
};

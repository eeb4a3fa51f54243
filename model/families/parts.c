/*
 * parts.c - encoder layers as CLIP and SigLIP name them, and their vision towers (spec: clip.md 1, 4, 7).
 */
#include "model/families/parts.h"

#include <stdio.h>
#include <string.h>

#define D1(a)                                                                                      \
    1, (const int64_t[])                                                                           \
    {                                                                                              \
        a                                                                                          \
    }
#define D2(a, b)                                                                                   \
    2, (const int64_t[])                                                                           \
    {                                                                                              \
        a, b                                                                                       \
    }
#define D3(a, b, c)                                                                                \
    3, (const int64_t[])                                                                           \
    {                                                                                              \
        a, b, c                                                                                    \
    }
#define D4(a, b, c, d)                                                                             \
    4, (const int64_t[])                                                                           \
    {                                                                                              \
        a, b, c, d                                                                                 \
    }

void pc_family_pair(pc_aliases *out, const char *ours, int64_t row, const char *theirs, int64_t O,
                    int64_t I)
{
    char name[PC_NAME_MAX + 8];

    snprintf(name, sizeof name, "%s.weight", ours);
    if (I)
        pc_alias_add(out, name, row, D2(O, I), "%s.weight", theirs);
    else
        pc_alias_add(out, name, row, D1(O), "%s.weight", theirs);
    snprintf(name, sizeof name, "%s.bias", ours);
    pc_alias_add(out, name, row, D1(O), "%s.bias", theirs);
}

void pc_family_encoder_aliases(pc_aliases *out, int64_t L, int64_t C, int64_t F, const char *ours,
                               const char *theirs)
{
    static const char *const qkv[3] = {"q", "k", "v"};
    char us[PC_NAME_MAX], them[160];

    for (int64_t l = 0; l < L; l++) {
        const long long i = l;
        for (int j = 0; j < 3; j++) {
            snprintf(us, sizeof us, "%s.blocks.%lld.attn.qkv", ours, i);
            snprintf(them, sizeof them, "%s%lld.self_attn.%s_proj", theirs, i, qkv[j]);
            pc_family_pair(out, us, j * C, them, C, C);
        }
        snprintf(us, sizeof us, "%s.blocks.%lld.attn.out", ours, i);
        snprintf(them, sizeof them, "%s%lld.self_attn.out_proj", theirs, i);
        pc_family_pair(out, us, 0, them, C, C);
        for (int j = 1; j <= 2; j++) {
            snprintf(us, sizeof us, "%s.blocks.%lld.norm%d", ours, i, j);
            snprintf(them, sizeof them, "%s%lld.layer_norm%d", theirs, i, j);
            pc_family_pair(out, us, 0, them, C, 0);
            snprintf(us, sizeof us, "%s.blocks.%lld.mlp.fc%d", ours, i, j);
            snprintf(them, sizeof them, "%s%lld.mlp.fc%d", theirs, i, j);
            pc_family_pair(out, us, 0, them, j == 1 ? F : C, j == 1 ? C : F);
        }
    }
}

pc_status pc_family_clip_vision(pc_vision_config *v, const json_t *json)
{
    pc_status st;
    int64_t channels;

    if ((st = pc_json_int(&v->C, json, "hidden_size", 768, 1, 1 << 20)) ||
        (st = pc_json_int(&v->F, json, "intermediate_size", 3072, 1, 1 << 22)) ||
        (st = pc_json_int(&v->L, json, "num_hidden_layers", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&v->H, json, "num_attention_heads", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&v->image_size, json, "image_size", 224, 1, 1 << 14)) ||
        (st = pc_json_int(&v->patch, json, "patch_size", 32, 1, 1 << 10)) ||
        (st = pc_json_int(&channels, json, "num_channels", 3, 3, 3)) ||
        (st = pc_json_real(&v->eps, json, "layer_norm_eps", 1e-5)) ||
        (st = pc_json_act(&v->act, json, "hidden_act", "quick_gelu")))
        return st;
    v->stem = PC_STEM_PATCH;
    v->class_token = v->pre_norm = v->post_norm = true;
    v->head = PC_HEAD_NONE;
    return PC_OK;
}

void pc_family_clip_vision_aliases(pc_aliases *out, const pc_vision_config *v, const char *theirs)
{
    const int64_t C = v->C, p = v->patch;
    char them[128];

    pc_alias_add(out, "vision.stem.0.weight", 0, D4(C, 3, p, p),
                 "%sembeddings.patch_embedding.weight", theirs);
    if (v->class_token)
        pc_alias_add(out, "vision.class_token", 0, D1(C), "%sembeddings.class_embedding", theirs);
    pc_alias_add(out, "vision.positions", 0, D2(pc_vision_tokens(v), C),
                 "%sembeddings.position_embedding.weight", theirs);
    snprintf(them, sizeof them, "%spre_layrnorm", theirs);
    pc_family_pair(out, "vision.norm_pre", 0, them, C, 0);
    snprintf(them, sizeof them, "%sencoder.layers.", theirs);
    pc_family_encoder_aliases(out, v->L, C, v->F, "vision", them);
    snprintf(them, sizeof them, "%spost_layernorm", theirs);
    if (v->post_norm) pc_family_pair(out, "vision.norm_post", 0, them, C, 0);
}

pc_status pc_family_siglip_vision(pc_vision_config *v, const json_t *json)
{
    int64_t channels;
    bool use_head;
    pc_status st;

    if ((st = pc_json_int(&v->C, json, "hidden_size", 768, 1, 1 << 20)) ||
        (st = pc_json_int(&v->F, json, "intermediate_size", 3072, 1, 1 << 22)) ||
        (st = pc_json_int(&v->L, json, "num_hidden_layers", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&v->H, json, "num_attention_heads", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&v->image_size, json, "image_size", 224, 1, 1 << 14)) ||
        (st = pc_json_int(&v->patch, json, "patch_size", 16, 1, 1 << 10)) ||
        (st = pc_json_int(&channels, json, "num_channels", 3, 3, 3)) ||
        (st = pc_json_bool(&use_head, json, "vision_use_head", true)) ||
        (st = pc_json_real(&v->eps, json, "layer_norm_eps", 1e-6)) ||
        (st = pc_json_act(&v->act, json, "hidden_act", "gelu_pytorch_tanh")))
        return st;
    v->stem = PC_STEM_PATCH;
    v->patch_bias = v->post_norm = true;
    v->head = use_head ? PC_HEAD_MAP : PC_HEAD_NONE;
    v->head_F = use_head ? v->F : 0;
    v->E = v->C;
    return PC_OK;
}

static void map_head_aliases(pc_aliases *out, int64_t C, int64_t F, const char *theirs)
{
    char them[128];

    pc_alias_add(out, "vision.probe", 0, D3(1, 1, C), "%shead.probe", theirs);
    pc_alias_add_part(out, "vision.map_q.weight", 0, 0, C * C, D2(3 * C, C),
                      "%shead.attention.in_proj_weight", theirs);
    pc_alias_add_part(out, "vision.map_kv.weight", 0, C * C, 2 * C * C, D2(3 * C, C),
                      "%shead.attention.in_proj_weight", theirs);
    pc_alias_add_part(out, "vision.map_q.bias", 0, 0, C, D1(3 * C), "%shead.attention.in_proj_bias",
                      theirs);
    pc_alias_add_part(out, "vision.map_kv.bias", 0, C, 2 * C, D1(3 * C),
                      "%shead.attention.in_proj_bias", theirs);
    snprintf(them, sizeof them, "%shead.attention.out_proj", theirs);
    pc_family_pair(out, "vision.map_out", 0, them, C, C);
    snprintf(them, sizeof them, "%shead.layernorm", theirs);
    pc_family_pair(out, "vision.map_norm", 0, them, C, 0);
    snprintf(them, sizeof them, "%shead.mlp.fc1", theirs);
    pc_family_pair(out, "vision.map_mlp.fc1", 0, them, F, C);
    snprintf(them, sizeof them, "%shead.mlp.fc2", theirs);
    pc_family_pair(out, "vision.map_mlp.fc2", 0, them, C, F);
}

void pc_family_siglip_vision_aliases(pc_aliases *out, const pc_vision_config *v, const char *theirs)
{
    char them[128];

    pc_alias_add(out, "vision.stem.0.weight", 0, D4(v->C, 3, v->patch, v->patch),
                 "%sembeddings.patch_embedding.weight", theirs);
    pc_alias_add(out, "vision.stem.0.bias", 0, D1(v->C), "%sembeddings.patch_embedding.bias",
                 theirs);
    pc_alias_add(out, "vision.positions", 0, D2(pc_vision_tokens(v), v->C),
                 "%sembeddings.position_embedding.weight", theirs);
    snprintf(them, sizeof them, "%sencoder.layers.", theirs);
    pc_family_encoder_aliases(out, v->L, v->C, v->F, "vision", them);
    snprintf(them, sizeof them, "%spost_layernorm", theirs);
    if (v->post_norm) pc_family_pair(out, "vision.norm_post", 0, them, v->C, 0);
    if (v->head == PC_HEAD_MAP) map_head_aliases(out, v->C, v->head_F, theirs);
}

pc_status pc_family_tower(pc_vision_config *v, const json_t *json, const char *def)
{
    const json_t *type = json_object_get(json, "model_type");
    const char *name = json_is_string(type) ? json_string_value(type) : def;

    if (!strcmp(name, "clip_vision_model")) return pc_family_clip_vision(v, json);
    if (!strcmp(name, "siglip_vision_model")) return pc_family_siglip_vision(v, json);
    return pc_fail(PC_ERR_FORMAT,
                   "key 'model_type': \"%s\"; expected clip_vision_model or siglip_vision_model",
                   name);
}

// CLIP's patches have no bias, SigLIP's have one.
void pc_family_tower_aliases(pc_aliases *out, const pc_vision_config *v, const char *theirs)
{
    if (v->patch_bias)
        pc_family_siglip_vision_aliases(out, v, theirs);
    else
        pc_family_clip_vision_aliases(out, v, theirs);
}

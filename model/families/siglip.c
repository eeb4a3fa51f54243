/*
 * siglip.c - SiglipModel (spec: clip.md 7).
 *
 * No class token, patch bias, an attention pooling head; the text tower is bidirectional, reads texts padded to
 * the full context and pools the last place. `head.attention.in_proj_*` (3C rows: query, key, value) is two of our
 * parameters, because the query comes from the probe alone.
 */
#include "model/families/parts.h"

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

static pc_status siglip_config(pc_model_config *out, const json_t *json)
{
    pc_clip_config *c = &out->clip;
    pc_vision_config *v = &c->vision;
    pc_text_config *t = &c->text;
    const json_t *text, *vision;
    int64_t channels;
    bool use_head;
    pc_status st;

    out->kind = PC_MODEL_CLIP;
    c->loss = PC_CONTRAST_SIGMOID;
    c->init_scale = 2.302585092994046; // ln 10
    c->init_bias = -10.0;
    if ((st = pc_json_section(&text, json, "text_config")) ||
        (st = pc_json_section(&vision, json, "vision_config")))
        return st;

    if ((st = pc_json_int(&v->C, vision, "hidden_size", 768, 1, 1 << 20)) ||
        (st = pc_json_int(&v->F, vision, "intermediate_size", 3072, 1, 1 << 22)) ||
        (st = pc_json_int(&v->L, vision, "num_hidden_layers", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&v->H, vision, "num_attention_heads", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&v->image_size, vision, "image_size", 224, 1, 1 << 14)) ||
        (st = pc_json_int(&v->patch, vision, "patch_size", 16, 1, 1 << 10)) ||
        (st = pc_json_int(&channels, vision, "num_channels", 3, 3, 3)) ||
        (st = pc_json_bool(&use_head, vision, "vision_use_head", true)) ||
        (st = pc_json_real(&v->eps, vision, "layer_norm_eps", 1e-6)) ||
        (st = pc_json_act(&v->act, vision, "hidden_act", "gelu_pytorch_tanh")))
        return pc_context(st, "vision_config");
    if (!use_head)
        return pc_fail(PC_ERR_FORMAT,
                       "vision_config: key 'vision_use_head': false; a two-tower model "
                       "needs the pooling head");
    v->stem = PC_STEM_PATCH;
    v->patch_bias = v->post_norm = true;
    v->head = PC_HEAD_MAP;
    v->head_F = v->F;
    v->E = v->C;

    if ((st = pc_json_int(&t->C, text, "hidden_size", 768, 1, 1 << 20)) ||
        (st = pc_json_int(&t->F, text, "intermediate_size", 3072, 1, 1 << 22)) ||
        (st = pc_json_int(&t->L, text, "num_hidden_layers", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&t->H, text, "num_attention_heads", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&t->T, text, "max_position_embeddings", 64, 1, 1 << 20)) ||
        (st = pc_json_int(&t->V, text, "vocab_size", 32000, 1, 1 << 24)) ||
        (st = pc_json_int(&t->E, text, "projection_size", t->C, 1, 1 << 20)) ||
        (st = pc_json_int(&t->pad_id, text, "pad_token_id", 1, 0, 1 << 24)) ||
        (st = pc_json_real(&t->eps, text, "layer_norm_eps", 1e-6)) ||
        (st = pc_json_act(&t->act, text, "hidden_act", "gelu_pytorch_tanh")))
        return pc_context(st, "text_config");
    if (t->E != v->E)
        return pc_fail(PC_ERR_FORMAT,
                       "text_config: key 'projection_size': %lld; the image side is %lld wide",
                       (long long)t->E, (long long)v->E);
    t->proj_bias = t->pad_to_context = true;
    t->pool = PC_POOL_LAST;
    t->eot_id = -1;
    return pc_clip_validate(c);
}

static void head_aliases(pc_aliases *out, int64_t C, int64_t F)
{
    pc_alias_add(out, "vision.probe", 0, D3(1, 1, C), "vision_model.head.probe");
    pc_alias_add_part(out, "vision.map_q.weight", 0, 0, C * C, D2(3 * C, C),
                      "vision_model.head.attention.in_proj_weight");
    pc_alias_add_part(out, "vision.map_kv.weight", 0, C * C, 2 * C * C, D2(3 * C, C),
                      "vision_model.head.attention.in_proj_weight");
    pc_alias_add_part(out, "vision.map_q.bias", 0, 0, C, D1(3 * C),
                      "vision_model.head.attention.in_proj_bias");
    pc_alias_add_part(out, "vision.map_kv.bias", 0, C, 2 * C, D1(3 * C),
                      "vision_model.head.attention.in_proj_bias");
    pc_family_pair(out, "vision.map_out", 0, "vision_model.head.attention.out_proj", C, C);
    pc_family_pair(out, "vision.map_norm", 0, "vision_model.head.layernorm", C, 0);
    pc_family_pair(out, "vision.map_mlp.fc1", 0, "vision_model.head.mlp.fc1", F, C);
    pc_family_pair(out, "vision.map_mlp.fc2", 0, "vision_model.head.mlp.fc2", C, F);
}

static pc_status siglip_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    const pc_vision_config *v = &config->clip.vision;
    const pc_text_config *t = &config->clip.text;

    (void)variant; // one layout
    pc_alias_add(out, "logit_scale", 0, D1(1), "logit_scale");
    pc_alias_add(out, "logit_bias", 0, D1(1), "logit_bias");

    pc_alias_add(out, "vision.stem.0.weight", 0, D4(v->C, 3, v->patch, v->patch),
                 "vision_model.embeddings.patch_embedding.weight");
    pc_alias_add(out, "vision.stem.0.bias", 0, D1(v->C),
                 "vision_model.embeddings.patch_embedding.bias");
    pc_alias_add(out, "vision.positions", 0, D2(pc_vision_tokens(v), v->C),
                 "vision_model.embeddings.position_embedding.weight");
    pc_family_encoder_aliases(out, v->L, v->C, v->F, "vision", "vision_model.encoder.layers.");
    pc_family_pair(out, "vision.norm_post", 0, "vision_model.post_layernorm", v->C, 0);
    head_aliases(out, v->C, v->head_F);

    pc_alias_add(out, "text.tokens", 0, D2(t->V, t->C),
                 "text_model.embeddings.token_embedding.weight");
    pc_alias_add(out, "text.positions", 0, D2(t->T, t->C),
                 "text_model.embeddings.position_embedding.weight");
    pc_family_encoder_aliases(out, t->L, t->C, t->F, "text", "text_model.encoder.layers.");
    pc_family_pair(out, "text.norm_final", 0, "text_model.final_layer_norm", t->C, 0);
    pc_family_pair(out, "text.proj", 0, "text_model.head", t->E, t->C);
    return out->status;
}

static const char *const siglip_ignored[] = {"embeddings.position_ids", NULL};

const pc_family pc_family_siglip = {
    .name = "siglip",
    .model_type = "siglip",
    .config = siglip_config,
    .aliases = siglip_aliases,
    .variants = 1,
    .ignored = siglip_ignored,
};

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

static pc_status siglip_config(pc_model_config *out, const json_t *json)
{
    pc_clip_config *c = &out->clip;
    pc_vision_config *v = &c->vision;
    pc_text_config *t = &c->text;
    const json_t *text, *vision;
    pc_status st;

    out->kind = PC_MODEL_CLIP;
    c->loss = PC_CONTRAST_SIGMOID;
    c->init_scale = 2.302585092994046; // ln 10
    c->init_bias = -10.0;
    if ((st = pc_json_section(&text, json, "text_config")) ||
        (st = pc_json_section(&vision, json, "vision_config")))
        return st;

    if ((st = pc_family_siglip_vision(v, vision))) return pc_context(st, "vision_config");
    if (v->head != PC_HEAD_MAP)
        return pc_fail(PC_ERR_FORMAT,
                       "vision_config: key 'vision_use_head': false; a two-tower model "
                       "needs the pooling head");

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

static pc_status siglip_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    const pc_vision_config *v = &config->clip.vision;
    const pc_text_config *t = &config->clip.text;

    (void)variant; // one layout
    pc_alias_add(out, "logit_scale", 0, D1(1), "logit_scale");
    pc_alias_add(out, "logit_bias", 0, D1(1), "logit_bias");

    pc_family_siglip_vision_aliases(out, v, "vision_model.");

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

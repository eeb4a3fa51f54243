/*
 * clip.c - CLIPModel (spec: clip.md 1 - 4).
 *
 * config.json: `projection_dim`, `text_config`, `vision_config`; an absent key takes its class default, so
 * an empty pair of sections is CLIP ViT-B/32. The text is pooled at the first `eos_token_id`; the value 2
 * is what old files wrote by mistake and stands for "the largest id".
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

static pc_status clip_config(pc_model_config *out, const json_t *json)
{
    pc_clip_config *c = &out->clip;
    pc_vision_config *v = &c->vision;
    pc_text_config *t = &c->text;
    const json_t *text, *vision;
    pc_status st;

    out->kind = PC_MODEL_CLIP;
    c->loss = PC_CONTRAST_SOFTMAX;
    if ((st = pc_json_section(&text, json, "text_config")) ||
        (st = pc_json_section(&vision, json, "vision_config")) ||
        (st = pc_json_int(&v->E, json, "projection_dim", 512, 1, 1 << 20)) ||
        (st = pc_json_real(&c->init_scale, json, "logit_scale_init_value", 2.6592)))
        return st;
    if ((st = pc_family_clip_vision(v, vision))) return pc_context(st, "vision_config");
    v->head = PC_HEAD_CLASS;

    if ((st = pc_json_int(&t->C, text, "hidden_size", 512, 1, 1 << 20)) ||
        (st = pc_json_int(&t->F, text, "intermediate_size", 2048, 1, 1 << 22)) ||
        (st = pc_json_int(&t->L, text, "num_hidden_layers", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&t->H, text, "num_attention_heads", 8, 1, 1 << 12)) ||
        (st = pc_json_int(&t->T, text, "max_position_embeddings", 77, 1, 1 << 20)) ||
        (st = pc_json_int(&t->V, text, "vocab_size", 49408, 1, 1 << 24)) ||
        (st = pc_json_int(&t->eot_id, text, "eos_token_id", 49407, 0, 1 << 24)) ||
        (st = pc_json_real(&t->eps, text, "layer_norm_eps", 1e-5)) ||
        (st = pc_json_act(&t->act, text, "hidden_act", "quick_gelu")))
        return pc_context(st, "text_config");
    t->E = v->E;
    t->causal = true;
    t->pad_id = -1; // what lies behind the pooled place does not matter
    if (t->eot_id == 2) {
        t->pool = PC_POOL_LARGEST;
        t->eot_id = -1;
    } else {
        t->pool = PC_POOL_EOT;
    }
    return pc_clip_validate(c);
}

static pc_status clip_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    const pc_vision_config *v = &config->clip.vision;
    const pc_text_config *t = &config->clip.text;

    (void)variant; // one layout
    pc_alias_add(out, "logit_scale", 0, 0, NULL, "logit_scale");
    pc_family_clip_vision_aliases(out, v, "vision_model.");
    pc_alias_add(out, "vision.proj.weight", 0, D2(v->E, v->C), "visual_projection.weight");

    pc_alias_add(out, "text.tokens", 0, D2(t->V, t->C),
                 "text_model.embeddings.token_embedding.weight");
    pc_alias_add(out, "text.positions", 0, D2(t->T, t->C),
                 "text_model.embeddings.position_embedding.weight");
    pc_family_encoder_aliases(out, t->L, t->C, t->F, "text", "text_model.encoder.layers.");
    pc_family_pair(out, "text.norm_final", 0, "text_model.final_layer_norm", t->C, 0);
    pc_alias_add(out, "text.proj.weight", 0, D2(t->E, t->C), "text_projection.weight");
    return out->status;
}

static const char *const clip_ignored[] = {"embeddings.position_ids", NULL};

const pc_family pc_family_clip = {
    .name = "clip",
    .model_type = "clip",
    .config = clip_config,
    .aliases = clip_aliases,
    .variants = 1,
    .ignored = clip_ignored,
};

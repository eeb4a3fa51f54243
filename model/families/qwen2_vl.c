/*
 * qwen2_vl.c - Qwen2VLForConditionalGeneration (spec: qwen-vl.md 5).
 *
 * The text's keys stand in `text_config`, or, in older files, at the top level; the sections of M-RoPE in
 * `rope_parameters` or in `rope_scaling`. Tensors are named as published files have them (`visual.*`, `model.*`) or as
 * transformers 4.52 and later have them in memory (`model.visual.*`, `model.language_model.*`).
 */
#include "model/families/parts.h"

#include <stdio.h>
#include <string.h>

#define D5(a, b, c, d, e)                                                                          \
    5, (const int64_t[])                                                                           \
    {                                                                                              \
        a, b, c, d, e                                                                              \
    }

typedef struct layout {
    const char *visual, *text;
} layout;

static const layout layouts[] = {
    {"visual.", "model."},
    {"model.visual.", "model.language_model."},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0], IN_MEMORY = 1 };

static pc_status vision_config(pc_vlm_config *c, const json_t *json)
{
    pc_vision_config *v = &c->vision;
    int64_t channels, width;
    double ratio;
    pc_status st;

    const char *channels_key = json_object_get(json, "in_channels") ? "in_channels" : "in_chans";
    const json_t *rope = json_object_get(json, "rope_parameters");
    if (!json_is_object(rope)) rope = json; // older files have the key itself, if any
    if ((st = pc_json_int(&v->L, json, "depth", 32, 1, 4096)) ||
        (st = pc_json_int(&v->C, json, "embed_dim", 1280, 1, 1 << 20)) ||
        (st = pc_json_int(&width, json, "hidden_size", 3584, 1, 1 << 24)) ||
        (st = pc_json_real(&ratio, json, "mlp_ratio", 4.0)) ||
        (st = pc_json_int(&v->H, json, "num_heads", 16, 1, 4096)) ||
        (st = pc_json_int(&channels, json, channels_key, 3, 3, 3)) ||
        (st = pc_json_int(&v->patch, json, "patch_size", 14, 1, 1 << 10)) ||
        (st = pc_json_int(&c->merge, json, "spatial_merge_size", 2, 1, 64)) ||
        (st = pc_json_int(&v->frames, json, "temporal_patch_size", 2, 1, 64)) ||
        (st = pc_json_act(&v->act, json, "hidden_act", "quick_gelu")) ||
        (st = pc_json_real(&v->theta, rope, "rope_theta", 10000.0)))
        return st;
    if (!(ratio > 0.0 && ratio <= 1024.0 && ratio * (double)v->C >= 1.0))
        return pc_fail(PC_ERR_FORMAT, "key 'mlp_ratio': %g; expected a number above 0, up to 1024",
                       ratio);
    if (width != c->decoder.C)
        return pc_fail(PC_ERR_FORMAT, "key 'hidden_size': %lld; the text's is %lld",
                       (long long)width, (long long)c->decoder.C);
    v->F = (int64_t)(ratio * (double)v->C);
    v->eps = 1e-6;
    v->stem = PC_STEM_PATCH;
    v->head = PC_HEAD_NONE;
    v->image_size = 16 * c->merge * v->patch; // images may have any size: nothing goes by it
    return PC_OK;
}

// mrope_section: how many of the D/2 frequencies turn with time, line and column. The class's own are 16, 24, 24.
static pc_status sections(pc_decoder_config *d, const json_t *text)
{
    static const int64_t usual[PC_ROPE_AXES] = {16, 24, 24};
    const char *key = "mrope_section";
    const json_t *list = json_object_get(json_object_get(text, "rope_parameters"), key);
    if (!list) list = json_object_get(json_object_get(text, "rope_scaling"), key);
    int64_t sum = 0;

    for (size_t i = 0; i < PC_ROPE_AXES; i++) {
        const json_t *n = json_array_get(list, i);
        const bool good = json_array_size(list) == PC_ROPE_AXES && json_is_integer(n) &&
                          json_integer_value(n) >= 0 && json_integer_value(n) <= d->D;
        if (list && !good)
            return pc_fail(PC_ERR_FORMAT,
                           "rotary positions: key '%s': expected a list of %d counts", key,
                           PC_ROPE_AXES);
        sum += d->mrope[i] = list ? json_integer_value(n) : usual[i];
    }
    if (sum != d->D / 2)
        return pc_fail(PC_ERR_FORMAT,
                       "rotary positions: key '%s': %lld frequencies in all; heads of %lld have "
                       "%lld",
                       key, (long long)sum, (long long)d->D, (long long)(d->D / 2));
    return PC_OK;
}

static pc_status qwen2_vl_config(pc_model_config *out, const json_t *json)
{
    pc_vlm_config *c = &out->vlm;
    const json_t *text, *vision;
    pc_status st;

    out->kind = PC_MODEL_VLM;
    c->visual = PC_VISUAL_GRID;
    c->feature_layer = -1;
    if ((st = pc_json_section(&text, json, "text_config")) ||
        (st = pc_json_section(&vision, json, "vision_config")))
        return st;
    if (!text) text = json;
    if ((st = pc_family_decoder_of(&c->decoder, text, "qwen2_vl_text")) ||
        (st = sections(&c->decoder, text)))
        return text == json ? st : pc_context(st, "text_config");
    if ((st = vision_config(c, vision))) return pc_context(st, "vision_config");
    if (c->decoder.window)
        return pc_fail(PC_ERR_FORMAT,
                       "key 'use_sliding_window': true; full attention alone is supported");

    const int64_t V = c->decoder.V;
    if ((st = pc_json_bool(&c->decoder.tied, json, "tie_word_embeddings", c->decoder.tied)) ||
        (st = pc_json_int(&c->image_id, json, "image_token_id", 151655, 0, V - 1)) ||
        (st = pc_json_int(&c->video_id, json, "video_token_id", 151656, 1, V - 1)))
        return st;
    c->projector = (pc_projector_config){
        .depth = 2, .in = c->vision.C, .out = c->decoder.C, .bias = true, .act = PC_ACT_GELU};
    return pc_vlm_validate(c);
}

static void vision_aliases(pc_aliases *out, const pc_vlm_config *c, const char *visual)
{
    const pc_vision_config *v = &c->vision;
    const int64_t C = v->C, F = v->F, M = c->merge * c->merge * C;
    const struct {
        const char *ours, *theirs;
        int64_t O, I; // I 0: a norm
    } block[] = {{"norm1", "norm1", C, 0},        {"attn.qkv", "attn.qkv", 3 * C, C},
                 {"attn.out", "attn.proj", C, C}, {"norm2", "norm2", C, 0},
                 {"mlp.fc1", "mlp.fc1", F, C},    {"mlp.fc2", "mlp.fc2", C, F}},
      merger[] = {{"norm", "ln_q", C, 0},
                  {"linear.0", "mlp.0", M, M},
                  {"linear.1", "mlp.2", c->decoder.C, M}};
    char us[PC_NAME_MAX], them[128];

    pc_alias_add(out, "vision.stem.0.weight", 0, D5(C, 3, v->frames, v->patch, v->patch),
                 "%spatch_embed.proj.weight", visual);
    for (int64_t l = 0; l < v->L; l++)
        for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
            snprintf(us, sizeof us, "vision.blocks.%lld.%s", (long long)l, block[i].ours);
            snprintf(them, sizeof them, "%sblocks.%lld.%s", visual, (long long)l, block[i].theirs);
            pc_family_pair(out, us, 0, them, block[i].O, block[i].I);
        }
    for (size_t i = 0; i < sizeof merger / sizeof *merger; i++) {
        snprintf(us, sizeof us, "projector.%s", merger[i].ours);
        snprintf(them, sizeof them, "%smerger.%s", visual, merger[i].theirs);
        pc_family_pair(out, us, 0, them, merger[i].O, merger[i].I);
    }
}

static pc_status qwen2_vl_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    PC_ASSERT(variant >= 0 && variant < LAYOUTS, "variant %d of %d", variant, (int)LAYOUTS);
    const layout *l = &layouts[variant];
    vision_aliases(out, &config->vlm, l->visual);
    pc_family_decoder_aliases(out, &config->vlm.decoder, l->text, "lm_head.weight");
    return out->status;
}

// A tied head may be written out a second time.
static const char *const qwen2_vl_ignored[] = {"rotary_emb.inv_freq", "rotary_pos_emb.inv_freq",
                                               "lm_head.weight", NULL};

const pc_family pc_family_qwen2_vl = {
    .name = "qwen2_vl",
    .model_type = "qwen2_vl",
    .config = qwen2_vl_config,
    .aliases = qwen2_vl_aliases,
    .variants = LAYOUTS,
    .modules = IN_MEMORY,
    .ignored = qwen2_vl_ignored,
};

/*
 * deepseek_vl.c - DeepseekVLForConditionalGeneration and DeepseekVLHybridForConditionalGeneration (spec: deepseek-vl.md 6).
 *
 * SigLIP's rows behind its norm; the hybrid also sends every image, larger, through SAM. Files of the class before
 * transformers 5 have one level more in front of SigLIP's names. The original files are in deepseek_vl_original.c.
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
#define D4(a, b, c, d)                                                                             \
    4, (const int64_t[])                                                                           \
    {                                                                                              \
        a, b, c, d                                                                                 \
    }

#define IMAGE_ID 100015 // <image_placeholder>

/* ---- config.json ---- */

// The set of blocks that attend globally; the first of the list is the one whose output is read too.
static pc_status global_blocks(pc_sam_config *s, const json_t *json)
{
    const json_t *list = json_object_get(json, "global_attn_indexes");
    const bool given = list && !json_is_null(list);
    static const int64_t published[] = {2, 5, 8, 11};
    const size_t n = given ? json_array_size(list) : sizeof published / sizeof *published;

    if (n < 1)
        return pc_fail(PC_ERR_FORMAT,
                       "key 'global_attn_indexes': expected a list of at least one block");
    for (size_t i = 0; i < n; i++) {
        const json_t *v = given ? json_array_get(list, i) : NULL;
        const int64_t block = !given               ? published[i]
                              : json_is_integer(v) ? json_integer_value(v)
                                                   : -1;
        if (block < 0 || block >= s->L)
            return pc_fail(PC_ERR_FORMAT,
                           "key 'global_attn_indexes': entry %zu is no block; expected 0 .. %lld",
                           i, (long long)s->L - 1);
        s->globals |= (int64_t)1 << block;
        if (i == 0) s->middle = block;
    }
    return PC_OK;
}

pc_status pc_family_sam(pc_sam_config *s, const json_t *json)
{
    int64_t channels;
    double ratio;
    pc_status st;

    *s = (pc_sam_config){0};
    if ((st = pc_json_int(&s->C, json, "hidden_size", 768, 1, 1 << 20)) ||
        (st = pc_json_real(&ratio, json, "mlp_ratio", 4.0)))
        return st;
    const double F = (double)s->C * ratio;
    if (!(F >= 1.0 && F <= (double)(1 << 22)))
        return pc_fail(PC_ERR_FORMAT, "key 'mlp_ratio': %g of %lld columns", ratio,
                       (long long)s->C);
    if ((st = pc_json_int(&s->F, json, "mlp_dim", (int64_t)F, 1, 1 << 22)) ||
        (st = pc_json_int(&s->L, json, "num_hidden_layers", 12, 1, PC_SAM_MAX)) ||
        (st = pc_json_int(&s->H, json, "num_attention_heads", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&s->image_size, json, "image_size", 1024, 1, 1 << 14)) ||
        (st = pc_json_int(&s->patch, json, "patch_size", 16, 1, 1 << 10)) ||
        (st = pc_json_int(&channels, json, "num_channels", 3, 3, 3)) ||
        (st = pc_json_int(&s->window, json, "window_size", 14, 0, 1 << 14)) ||
        (st = pc_json_int(&s->neck, json, "output_channels", 256, 1, 1 << 20)) ||
        (st = pc_json_real(&s->eps, json, "layer_norm_eps", 1e-6)) ||
        (st = pc_json_bool(&s->qkv_bias, json, "qkv_bias", true)) ||
        (st = pc_json_bool(&s->positions, json, "use_abs_pos", true)) ||
        (st = pc_json_bool(&s->relative, json, "use_rel_pos", true)) ||
        (st = pc_json_act(&s->act, json, "hidden_act", "gelu")))
        return st;
    return global_blocks(s, json);
}

static pc_status config(pc_model_config *out, const json_t *json, bool hybrid)
{
    pc_vlm_config *c = &out->vlm;
    const json_t *text, *vision, *high;
    bool tied;
    pc_status st;

    out->kind = PC_MODEL_VLM;
    if ((st = pc_json_section(&text, json, "text_config")) ||
        (st = pc_json_section(&vision, json, "vision_config")) ||
        (st = pc_json_section(&high, json, "high_res_vision_config")))
        return st;
    if ((st = pc_family_tower(&c->vision, vision, "siglip_vision_model")))
        return pc_context(st, "vision_config");
    if (c->vision.class_token)
        return pc_fail(PC_ERR_FORMAT,
                       "vision_config: key 'model_type': expected siglip_vision_model");
    if ((st = pc_family_decoder_of(&c->decoder, text, "llama")))
        return pc_context(st, "text_config");
    if (hybrid && (st = pc_family_sam(&c->high, high)))
        return pc_context(st, "high_res_vision_config");

    // An id behind the vocabulary would still be a place.
    const char *image_key =
        json_object_get(json, "image_token_index") ? "image_token_index" : "image_token_id";
    if ((st = pc_json_bool(&tied, json, "tie_word_embeddings", false)) ||
        (st = pc_json_int(&c->image_id, json, image_key, IMAGE_ID, 0, 1 << 24)))
        return st;
    // Files say so at either place, and the other's default stands beside it.
    c->decoder.tied = c->decoder.tied || tied;
    c->visual = hybrid ? PC_VISUAL_HYBRID : PC_VISUAL_SQUARE;
    c->feature_layer = -1;
    c->feature_norm = true;
    c->projector = (pc_projector_config){
        .depth = 2,
        .in = c->vision.C,
        .out = c->decoder.C,
        .bias = true,
        .act = PC_ACT_GELU,
        .std = c->decoder.std,
    };
    return pc_vlm_validate(c);
}

static pc_status square_config(pc_model_config *out, const json_t *json)
{
    return config(out, json, false);
}

static pc_status hybrid_config(pc_model_config *out, const json_t *json)
{
    return config(out, json, true);
}

/* ---- tensors ---- */

// What SAM's tensors are called; each begins with a dot but for the whole names below the tower.
static const pc_sam_names hf_names = {
    .stem = "patch_embed.projection",
    .blocks = "layers",
    .norm = "layer_norm",
};

void pc_family_sam_aliases(pc_aliases *out, const pc_sam_config *s, const char *theirs,
                           const pc_sam_names *n)
{
    const int64_t C = s->C, D = C / s->H, side = pc_sam_side(s);
    char us[PC_NAME_MAX], them[160];

    pc_alias_add(out, "vision.high.stem.weight", 0, D4(C, 3, s->patch, s->patch), "%s%s.weight",
                 theirs, n->stem);
    pc_alias_add(out, "vision.high.stem.bias", 0, D1(C), "%s%s.bias", theirs, n->stem);
    if (s->positions)
        pc_alias_add(out, "vision.high.positions", 0, D4(1, side, side, C), "%spos_embed", theirs);
    for (int64_t l = 0; l < s->L; l++) {
        const long long i = l;
        const bool global = !s->window || (s->globals >> l & 1);
        const int64_t reach = 2 * (global ? side : s->window) - 1;
        for (int k = 1; k <= 2; k++) {
            snprintf(us, sizeof us, "vision.high.blocks.%lld.norm%d", i, k);
            snprintf(them, sizeof them, "%s%s.%lld.%s%d", theirs, n->blocks, i, n->norm, k);
            pc_family_pair(out, us, 0, them, C, 0);
            snprintf(us, sizeof us, "vision.high.blocks.%lld.mlp.fc%d", i, k);
            snprintf(them, sizeof them, "%s%s.%lld.mlp.lin%d", theirs, n->blocks, i, k);
            pc_family_pair(out, us, 0, them, k == 1 ? s->F : C, k == 1 ? C : s->F);
        }
        snprintf(us, sizeof us, "vision.high.blocks.%lld.attn.qkv", i);
        snprintf(them, sizeof them, "%s%s.%lld.attn.qkv", theirs, n->blocks, i);
        if (s->qkv_bias) {
            pc_family_pair(out, us, 0, them, 3 * C, C);
        } else {
            strcat(us, ".weight");
            pc_alias_add(out, us, 0, D2(3 * C, C), "%s.weight", them);
        }
        snprintf(us, sizeof us, "vision.high.blocks.%lld.attn.out", i);
        snprintf(them, sizeof them, "%s%s.%lld.attn.proj", theirs, n->blocks, i);
        pc_family_pair(out, us, 0, them, C, C);
        for (int k = 0; k < 2 && s->relative; k++) {
            snprintf(us, sizeof us, "vision.high.blocks.%lld.attn.rel_%c", i, "hw"[k]);
            pc_alias_add(out, us, 0, D2(reach, D), "%s%s.%lld.attn.rel_pos_%c", theirs, n->blocks,
                         i, "hw"[k]);
        }
    }
}

void pc_family_neck_aliases(pc_aliases *out, const pc_sam_config *s, const char *ours,
                            const char *theirs, const char *const names[4])
{
    const int64_t C = s->C, O = s->neck;
    char us[PC_NAME_MAX], them[160];

    for (int k = 1; k <= 2; k++) {
        const char *conv = names[2 * k - 2], *norm = names[2 * k - 1];
        snprintf(us, sizeof us, "%s.conv%d.weight", ours, k);
        if (k == 1)
            pc_alias_add(out, us, 0, D4(O, C, 1, 1), "%s%s.weight", theirs, conv);
        else
            pc_alias_add(out, us, 0, D4(O, O, 3, 3), "%s%s.weight", theirs, conv);
        snprintf(us, sizeof us, "%s.norm%d", ours, k);
        snprintf(them, sizeof them, "%s%s", theirs, norm);
        pc_family_pair(out, us, 0, them, O, 0);
    }
}

void pc_family_down_aliases(pc_aliases *out, const pc_sam_config *s, const char *first,
                            const char *second, const char *alpha)
{
    const int64_t O = s->neck;
    pc_alias_add(out, "vision.high.down.0.weight", 0, D4(2 * O, O, 3, 3), "%s", first);
    pc_alias_add(out, "vision.high.down.1.weight", 0, D4(4 * O, 2 * O, 3, 3), "%s", second);
    pc_alias_add(out, "vision.high.alpha", 0, D1(1), "%s", alpha);
}

static void high_aliases(pc_aliases *out, const pc_sam_config *s)
{
    static const char *const neck[4] = {"conv1", "layer_norm1", "conv2", "layer_norm2"};
    const char *encoder = "model.high_res_vision_model.vision_encoder.";

    pc_family_sam_aliases(out, s, encoder, &hf_names);
    pc_family_neck_aliases(out, s, "vision.high.neck",
                           "model.high_res_vision_model.vision_encoder.neck.", neck);
    pc_family_neck_aliases(out, s, "vision.high.neck_middle", "model.high_res_vision_neck.", neck);
    pc_family_down_aliases(out, s, "model.high_res_vision_proj.conv1.weight",
                           "model.high_res_vision_proj.conv2.weight",
                           "model.high_res_vision_alpha");
}

static pc_status aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    static const char *const towers[] = {"model.vision_model.", "model.vision_model.vision_model."};
    const pc_vlm_config *c = &config->vlm;
    const pc_projector_config *p = &c->projector;
    const int64_t half = p->out / 2;

    PC_ASSERT(variant == 0 || variant == 1, "layout %d of 2", variant);
    pc_family_siglip_vision_aliases(out, &c->vision, towers[variant]);
    if (c->visual == PC_VISUAL_HYBRID) {
        high_aliases(out, &c->high);
        pc_family_pair(out, "projector.high", 0, "model.aligner.high_res_vision_proj", half,
                       pc_hybrid_width(&c->high));
        pc_family_pair(out, "projector.low", 0, "model.aligner.vision_proj", half, p->in);
        pc_family_pair(out, "projector.linear.0", 0, "model.aligner.proj", p->out, p->out);
    } else {
        pc_family_pair(out, "projector.linear.0", 0, "model.aligner.linear1", p->out, p->in);
        pc_family_pair(out, "projector.linear.1", 0, "model.aligner.linear2", p->out, p->out);
    }
    pc_family_decoder_aliases(out, &c->decoder, "model.language_model.", "lm_head.weight");
    return out->status;
}

// A tied head may be written out a second time; so may SAM's and SigLIP's numbers of positions.
static const char *const ignored[] = {"rotary_emb.inv_freq", "embeddings.position_ids",
                                      "lm_head.weight", NULL};

const pc_family pc_family_deepseek_vl = {
    .name = "deepseek_vl",
    .model_type = "deepseek_vl",
    .config = square_config,
    .aliases = aliases,
    .variants = 2,
    .ignored = ignored,
};

const pc_family pc_family_deepseek_vl_hybrid = {
    .name = "deepseek_vl_hybrid",
    .model_type = "deepseek_vl_hybrid",
    .config = hybrid_config,
    .aliases = aliases,
    .variants = 2,
    .ignored = ignored,
};

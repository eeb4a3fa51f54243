/*
 * open_clip.c - CLIP in open_clip's own layout, which is OpenAI's (spec: clip.md 4).
 *
 * The directory has open_clip_config.json {"model_cfg": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}} and
 * open_clip_model.safetensors (or its .bin). Projections are stored (in, out); a text is pooled at its largest id.
 * Tensors of a "custom text" model stand below "text.", those of a distributed run below "module.". Towers that are
 * named rather than described (timm, Hugging Face), and other kinds of pooling, are refused by name.
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

// Keys that, when true or a name, make another model of it.
static pc_status refuse(const json_t *o, const char *section, const char *const *keys)
{
    for (; *keys; keys++) {
        const json_t *v = json_object_get(o, *keys);
        if (!v || json_is_null(v) || json_is_false(v)) continue;
        return pc_fail(PC_ERR_FORMAT, "%s: key '%s': %s is not supported", section, *keys,
                       json_is_string(v) ? json_string_value(v) : "this kind of tower");
    }
    return PC_OK;
}

// A key that may have one meaning only.
static pc_status only(const json_t *o, const char *section, const char *key, const char *value)
{
    const char *got = NULL;
    const pc_status st = pc_json_text(&got, o, key, value);
    if (st) return pc_context(st, "%s", section);
    if (!strcmp(got, value)) return PC_OK;
    return pc_fail(PC_ERR_FORMAT, "%s: key '%s': \"%s\"; expected %s", section, key, got, value);
}

static pc_status width_of_mlp(int64_t *F, const json_t *o, int64_t C)
{
    double ratio;
    const pc_status st = pc_json_real(&ratio, o, "mlp_ratio", 4.0);
    if (st) return st;
    if (!(ratio > 0.0 && ratio < 1000.0))
        return pc_fail(PC_ERR_FORMAT, "key 'mlp_ratio': %g; expected more than 0", ratio);
    *F = (int64_t)((double)C * ratio);
    return *F > 0 ? PC_OK
                  : pc_fail(PC_ERR_FORMAT, "key 'mlp_ratio': %g of %lld", ratio, (long long)C);
}

static pc_status square(int64_t *out, const json_t *o, const char *key, int64_t def, int64_t most)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_array(v)) return pc_json_int(out, o, key, def, 1, most);
    const json_int_t h = json_integer_value(json_array_get(v, 0)),
                     w = json_integer_value(json_array_get(v, 1));
    if (json_array_size(v) != 2 || h != w || h < 1 || h > most)
        return pc_fail(PC_ERR_FORMAT, "key '%s': expected two equal sides up to %lld", key,
                       (long long)most);
    *out = h;
    return PC_OK;
}

static pc_status vision_config(pc_vision_config *v, const json_t *o, pc_act act)
{
    static const char *const others[] = {
        "timm_model_name", "attentional_pool",    "no_ln_pre", "global_average_pool",
        "output_tokens",   "final_ln_after_pool", NULL};
    int64_t head;
    pc_status st;
    if ((st = refuse(o, "vision_cfg", others)) ||
        (st = only(o, "vision_cfg", "pool_type", "tok")) ||
        (st = only(o, "vision_cfg", "pos_embed_type", "learnable")))
        return st;
    if (json_is_array(json_object_get(o, "layers")))
        return pc_fail(PC_ERR_FORMAT, "vision_cfg: key 'layers': a list is a ResNet, which is not "
                                      "supported");
    if ((st = pc_json_int(&v->C, o, "width", 768, 1, 1 << 20)) ||
        (st = pc_json_int(&v->L, o, "layers", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&head, o, "head_width", 64, 1, 1 << 20)) ||
        (st = square(&v->image_size, o, "image_size", 224, 1 << 14)) ||
        (st = square(&v->patch, o, "patch_size", 16, 1 << 10)) ||
        (st = width_of_mlp(&v->F, o, v->C)))
        return pc_context(st, "vision_cfg");
    if (v->C % head)
        return pc_fail(PC_ERR_FORMAT, "vision_cfg: key 'head_width': %lld does not divide %lld",
                       (long long)head, (long long)v->C);
    v->H = v->C / head;
    v->act = act;
    v->eps = 1e-5;
    v->stem = PC_STEM_PATCH;
    v->class_token = v->pre_norm = v->post_norm = true;
    v->head = PC_HEAD_CLASS;
    return PC_OK;
}

static pc_status text_config(pc_text_config *t, const json_t *o, pc_act act)
{
    static const char *const others[] = {"hf_model_name", "embed_cls",     "no_causal_mask",
                                         "proj_bias",     "output_tokens", NULL};
    pc_status st;
    if ((st = refuse(o, "text_cfg", others)) || (st = only(o, "text_cfg", "pool_type", "argmax")) ||
        (st = only(o, "text_cfg", "proj_type", "linear")))
        return st;
    if ((st = pc_json_int(&t->C, o, "width", 512, 1, 1 << 20)) ||
        (st = pc_json_int(&t->L, o, "layers", 12, 1, 1 << 12)) ||
        (st = pc_json_int(&t->H, o, "heads", 8, 1, 1 << 12)) ||
        (st = pc_json_int(&t->T, o, "context_length", 77, 1, 1 << 20)) ||
        (st = pc_json_int(&t->V, o, "vocab_size", 49408, 1, 1 << 24)) ||
        (st = width_of_mlp(&t->F, o, t->C)))
        return pc_context(st, "text_cfg");
    t->act = act;
    t->eps = 1e-5;
    t->causal = true;
    t->pad_id = -1; // what lies behind the pooled place does not matter
    t->pool = PC_POOL_LARGEST;
    t->eot_id = -1;
    return PC_OK;
}

static pc_status open_clip_config(pc_model_config *out, const json_t *json)
{
    pc_clip_config *c = &out->clip;
    const json_t *model = json_object_get(json, "model_cfg");
    const json_t *bias = json_object_get(model, "init_logit_bias");
    bool quick;
    pc_status st;

    out->kind = PC_MODEL_CLIP;
    if (!json_is_object(model)) return pc_fail(PC_ERR_FORMAT, "key 'model_cfg': missing");
    const json_t *vision = json_object_get(model, "vision_cfg"),
                 *text = json_object_get(model, "text_cfg");
    if (!json_is_object(vision) || !json_is_object(text))
        return pc_fail(PC_ERR_FORMAT, "model_cfg: key '%s': missing",
                       json_is_object(vision) ? "text_cfg" : "vision_cfg");
    if (json_object_get(model, "multimodal_cfg"))
        return pc_fail(PC_ERR_FORMAT, "model_cfg: key 'multimodal_cfg': CoCa is not supported");
    const bool sigmoid = bias && !json_is_null(bias);
    if ((st = pc_json_bool(&quick, model, "quick_gelu", false)) ||
        (st = pc_json_int(&c->vision.E, model, "embed_dim", 512, 1, 1 << 20)) ||
        (st = pc_json_real(&c->init_scale, model, "init_logit_scale", 2.6592600369)) ||
        (st = pc_json_real(&c->init_bias, model, "init_logit_bias", 0.0)) ||
        (st = vision_config(&c->vision, vision, quick ? PC_ACT_QUICK : PC_ACT_GELU)) ||
        (st = text_config(&c->text, text, quick ? PC_ACT_QUICK : PC_ACT_GELU)))
        return st;
    c->loss = sigmoid ? PC_CONTRAST_SIGMOID : PC_CONTRAST_SOFTMAX;
    c->text.E = c->vision.E;
    return pc_clip_validate(c);
}

static void tower_aliases(pc_aliases *out, const char *ours, int64_t L, int64_t C, int64_t F,
                          const char *theirs)
{
    char us[PC_NAME_MAX], them[160];
    for (long long i = 0; i < L; i++) {
        snprintf(us, sizeof us, "%s.blocks.%lld.attn.qkv.weight", ours, i);
        pc_alias_add(out, us, 0, D2(3 * C, C), "%stransformer.resblocks.%lld.attn.in_proj_weight",
                     theirs, i);
        snprintf(us, sizeof us, "%s.blocks.%lld.attn.qkv.bias", ours, i);
        pc_alias_add(out, us, 0, D1(3 * C), "%stransformer.resblocks.%lld.attn.in_proj_bias",
                     theirs, i);
        const struct {
            const char *ours, *theirs;
            int64_t O, I; // I 0: a norm
        } parts[] = {{"attn.out", "attn.out_proj", C, C},
                     {"norm1", "ln_1", C, 0},
                     {"norm2", "ln_2", C, 0},
                     {"mlp.fc1", "mlp.c_fc", F, C},
                     {"mlp.fc2", "mlp.c_proj", C, F}};
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            snprintf(us, sizeof us, "%s.blocks.%lld.%s", ours, i, parts[k].ours);
            snprintf(them, sizeof them, "%stransformer.resblocks.%lld.%s", theirs, i,
                     parts[k].theirs);
            pc_family_pair(out, us, 0, them, parts[k].O, parts[k].I);
        }
    }
}

static pc_status open_clip_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    const pc_vision_config *v = &config->clip.vision;
    const pc_text_config *t = &config->clip.text;
    const char *all = variant & 2 ? "module." : "", *text = variant & 1 ? "text." : "";
    char words[32], eyes[32], them[64];

    snprintf(words, sizeof words, "%s%s", all, text);
    snprintf(eyes, sizeof eyes, "%svisual.", all);
    pc_alias_add(out, "logit_scale", 0, 0, NULL, "%slogit_scale", all);
    if (config->clip.loss == PC_CONTRAST_SIGMOID)
        pc_alias_add(out, "logit_bias", 0, 0, NULL, "%slogit_bias", all);

    pc_alias_add(out, "vision.stem.0.weight", 0, D4(v->C, 3, v->patch, v->patch), "%sconv1.weight",
                 eyes);
    pc_alias_add(out, "vision.class_token", 0, D1(v->C), "%sclass_embedding", eyes);
    pc_alias_add(out, "vision.positions", 0, D2(pc_vision_tokens(v), v->C),
                 "%spositional_embedding", eyes);
    snprintf(them, sizeof them, "%sln_pre", eyes);
    pc_family_pair(out, "vision.norm_pre", 0, them, v->C, 0);
    tower_aliases(out, "vision", v->L, v->C, v->F, eyes);
    snprintf(them, sizeof them, "%sln_post", eyes);
    pc_family_pair(out, "vision.norm_post", 0, them, v->C, 0);
    pc_alias_add_transposed(out, "vision.proj.weight", v->E, v->C, "%sproj", eyes);

    pc_alias_add(out, "text.tokens", 0, D2(t->V, t->C), "%stoken_embedding.weight", words);
    pc_alias_add(out, "text.positions", 0, D2(t->T, t->C), "%spositional_embedding", words);
    tower_aliases(out, "text", t->L, t->C, t->F, words);
    snprintf(them, sizeof them, "%sln_final", words);
    pc_family_pair(out, "text.norm_final", 0, them, t->C, 0);
    pc_alias_add_transposed(out, "text.proj.weight", t->E, t->C, "%stext_projection", words);
    return out->status;
}

static const char *const open_clip_ignored[] = {"attn_mask", "input_resolution", "context_length",
                                                "vocab_size", NULL};

const pc_family pc_family_open_clip = {
    .name = "open_clip",
    .model_type = "open_clip",
    .config = open_clip_config,
    .aliases = open_clip_aliases,
    .variants = 4,
    .ignored = open_clip_ignored,
};

/*
 * deepseek_vl_original.c - DeepSeek-VL as it was released: model_type "multi_modality" (spec: deepseek-vl.md 2-6).
 *
 * The config names its towers instead of describing them; SigLIP is timm's, SAM Meta's. Of the language model it says
 * only what differs from Llama's class. Norms that were listed and never applied (high_layer_norm, low_layer_norm) are
 * left out.
 */
#include "model/families/parts.h"

#include <stdio.h>
#include <string.h>

#define D1(a)                                                                                      \
    1, (const int64_t[])                                                                           \
    {                                                                                              \
        a                                                                                          \
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

#define IMAGE_ID 100015 // <image_placeholder>

/* ---- config.json ---- */

static pc_status section(const json_t **out, const json_t *json, const char *key)
{
    const pc_status st = pc_json_section(out, json, key);
    if (st || *out) return st;
    return pc_fail(PC_ERR_FORMAT, "key '%s' is missing; expected an object", key);
}

static pc_status expect(const json_t *json, const char *key, const char *def, const char *value)
{
    const char *text = NULL;
    const pc_status st = pc_json_text(&text, json, key, def);
    if (st || !strcmp(text, value)) return st;
    return pc_fail(PC_ERR_FORMAT, "key '%s': \"%s\"; expected %s", key, text, value);
}

// What both kinds of towers have: all tokens of the last block that is kept.
static pc_status selection(int64_t *layer, const json_t *json)
{
    const pc_status st = expect(json, "select_feature", "same", "same");
    return st ? st : pc_json_int(layer, json, "select_layer", -1, -1000, 1000);
}

static pc_status siglip(pc_vision_config *v, const json_t *json)
{
    static const struct {
        const char *name;
        int64_t size, patch, C, F, H, L;
    } towers[] = {
        {"siglip_large_patch16_384", 384, 16, 1024, 4096, 16, 24},
        {"siglip_so400m_patch14_384", 384, 14, 1152, 4304, 16, 27},
        {"siglip_so400m_patch14_224", 224, 14, 1152, 4304, 16, 27},
    };
    const char *name = NULL;
    int64_t layer;
    pc_status st;

    if ((st = pc_json_text(&name, json, "model_name", "siglip_large_patch16_384")) ||
        (st = selection(&layer, json)))
        return st;
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++) {
        if (strcmp(name, towers[i].name)) continue;
        // Blocks behind the selected one are not made, so the tower's norm stands behind it.
        const int64_t L = layer <= 0 ? towers[i].L + layer + 1 : layer;
        *v = (pc_vision_config){
            .patch = towers[i].patch,
            .C = towers[i].C,
            .F = towers[i].F,
            .H = towers[i].H,
            .L = L < towers[i].L ? L : towers[i].L,
            .stem = PC_STEM_PATCH,
            .patch_bias = true,
            .post_norm = true,
            .act = PC_ACT_GELU,
            .eps = 1e-6,
            .head = PC_HEAD_MAP, // in the files, though nothing reads it
            .head_F = towers[i].F,
            .E = towers[i].C,
        };
        if (v->L < 1)
            return pc_fail(PC_ERR_FORMAT, "key 'select_layer': %lld; the tower has %lld blocks",
                           (long long)layer, (long long)towers[i].L);
        return pc_json_int(&v->image_size, json, "image_size", towers[i].size, 1, 1 << 14);
    }
    return pc_fail(PC_ERR_FORMAT,
                   "key 'model_name': \"%s\"; expected a SigLIP tower such as "
                   "siglip_large_patch16_384",
                   name);
}

static pc_status sam(pc_sam_config *s, const json_t *json)
{
    int64_t layer;
    pc_status st;

    if ((st = expect(json, "model_name", "sam_b_downsample", "sam_b_downsample")) ||
        (st = selection(&layer, json)) || (st = pc_family_sam(s, NULL)))
        return st;
    if (layer != -1)
        return pc_fail(PC_ERR_FORMAT, "key 'select_layer': %lld; expected -1", (long long)layer);
    return pc_json_int(&s->image_size, json, "image_size", 1024, 1, 1 << 14);
}

static pc_status towers(pc_vlm_config *c, const json_t *json)
{
    const json_t *params, *high, *low;
    const char *kind = NULL;
    pc_status st;

    if ((st = pc_json_text(&kind, json, "cls", "")) || (st = section(&params, json, "params")))
        return st;
    if (!strcmp(kind, "CLIPVisionTower")) {
        c->visual = PC_VISUAL_SQUARE;
        return pc_context(siglip(&c->vision, params), "params");
    }
    if (strcmp(kind, "HybridVisionTower"))
        return pc_fail(PC_ERR_FORMAT,
                       "key 'cls': \"%s\"; expected HybridVisionTower or CLIPVisionTower", kind);
    c->visual = PC_VISUAL_HYBRID;
    if ((st = expect(params, "concat_type", "tuple", "tuple")) ||
        (st = section(&high, params, "high_res_cfg")) ||
        (st = section(&low, params, "low_res_cfg")))
        return st;
    if ((st = sam(&c->high, high))) return pc_context(st, "high_res_cfg");
    return pc_context(siglip(&c->vision, low), "low_res_cfg");
}

static pc_status aligner(pc_vlm_config *c, const json_t *json)
{
    pc_projector_config *p = &c->projector;
    const bool hybrid = c->visual == PC_VISUAL_HYBRID;
    const json_t *params;
    const char *kind = NULL;
    int64_t in, out;
    pc_status st;

    *p = (pc_projector_config){.in = c->vision.C,
                               .out = c->decoder.C,
                               .bias = true,
                               .act = PC_ACT_GELU,
                               .std = c->decoder.std};
    if ((st = expect(json, "cls", "MlpProjector", "MlpProjector")) ||
        (st = section(&params, json, "params")) ||
        (st = pc_json_text(&kind, params, "projector_type",
                           hybrid ? "low_high_hybrid_split_mlp_gelu" : "mlp_gelu")) ||
        (st = pc_json_int(&in, params, "input_dim", c->vision.C, 1, 1 << 20)) ||
        (st = pc_json_int(&out, params, "n_embed", c->decoder.C, 1, 1 << 20)) ||
        (st = pc_json_int(&p->depth, params, "depth", hybrid ? 2 : 1, 1, PC_PROJECTOR_MAX)))
        return st;
    if (in != c->vision.C || (hybrid && in != pc_hybrid_width(&c->high)))
        return pc_fail(PC_ERR_FORMAT, "key 'input_dim': %lld; the tower is %lld wide",
                       (long long)in, (long long)c->vision.C);
    if (out != c->decoder.C)
        return pc_fail(PC_ERR_FORMAT, "key 'n_embed': %lld; the language model is %lld wide",
                       (long long)out, (long long)c->decoder.C);
    if (hybrid && !strcmp(kind, "low_high_hybrid_split_mlp_gelu")) return PC_OK;
    if (!hybrid && !strcmp(kind, "mlp_gelu")) return PC_OK;
    if (!hybrid && !strcmp(kind, "linear")) {
        p->depth = 1;
        return PC_OK;
    }
    return pc_fail(PC_ERR_FORMAT, "key 'projector_type': \"%s\"; expected %s", kind,
                   hybrid ? "low_high_hybrid_split_mlp_gelu" : "mlp_gelu or linear");
}

static pc_status original_config(pc_model_config *out, const json_t *json)
{
    pc_vlm_config *c = &out->vlm;
    const json_t *vision, *connector, *text;
    pc_status st;

    out->kind = PC_MODEL_VLM;
    if ((st = section(&vision, json, "vision_config")) ||
        (st = section(&connector, json, "aligner_config")) ||
        (st = section(&text, json, "language_config")))
        return st;
    if ((st = towers(c, vision))) return pc_context(st, "vision_config");
    if ((st = pc_family_decoder_of(&c->decoder, text, "llama")))
        return pc_context(st, "language_config");
    if ((st = aligner(c, connector))) return pc_context(st, "aligner_config");
    c->image_id = IMAGE_ID;
    c->feature_layer = -1;
    c->feature_norm = true;
    return pc_vlm_validate(c);
}

/* ---- tensors ---- */

static void timm_aliases(pc_aliases *out, const pc_vision_config *v, const char *theirs)
{
    static const struct {
        const char *ours, *theirs;
        int rows, columns; // 0: none, 1: C, 3: 3 C, 4: F
    } parts[] = {
        {"norm1", "norm1", 1, 0}, {"attn.qkv", "attn.qkv", 3, 1}, {"attn.out", "attn.proj", 1, 1},
        {"norm2", "norm2", 1, 0}, {"mlp.fc1", "mlp.fc1", 4, 1},   {"mlp.fc2", "mlp.fc2", 1, 4},
    };
    static const struct {
        const char *ours, *theirs;
        int rows, columns; // ... 2: 2 C
    } head[] = {
        {"map_q", "q", 1, 1},
        {"map_kv", "kv", 2, 1},
        {"map_out", "proj", 1, 1},
        {"map_norm", "norm", 1, 0},
        {"map_mlp.fc1", "mlp.fc1", 4, 1},
        {"map_mlp.fc2", "mlp.fc2", 1, 4},
    };
    const int64_t C = v->C, size[] = {0, C, 2 * C, 3 * C, v->F};
    char us[PC_NAME_MAX], them[160];

    pc_alias_add(out, "vision.stem.0.weight", 0, D4(C, 3, v->patch, v->patch),
                 "%spatch_embed.proj.weight", theirs);
    pc_alias_add(out, "vision.stem.0.bias", 0, D1(C), "%spatch_embed.proj.bias", theirs);
    pc_alias_add(out, "vision.positions", 0, D3(1, pc_vision_tokens(v), C), "%spos_embed", theirs);
    for (int64_t i = 0; i < v->L; i++)
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            snprintf(us, sizeof us, "vision.blocks.%lld.%s", (long long)i, parts[k].ours);
            snprintf(them, sizeof them, "%sblocks.%lld.%s", theirs, (long long)i, parts[k].theirs);
            pc_family_pair(out, us, 0, them, size[parts[k].rows], size[parts[k].columns]);
        }
    snprintf(them, sizeof them, "%snorm", theirs);
    pc_family_pair(out, "vision.norm_post", 0, them, C, 0);

    pc_alias_add(out, "vision.probe", 0, D3(1, 1, C), "%sattn_pool.latent", theirs);
    for (size_t k = 0; k < sizeof head / sizeof *head; k++) {
        snprintf(us, sizeof us, "vision.%s", head[k].ours);
        snprintf(them, sizeof them, "%sattn_pool.%s", theirs, head[k].theirs);
        pc_family_pair(out, us, 0, them, size[head[k].rows], size[head[k].columns]);
    }
}

static void high_aliases(pc_aliases *out, const pc_sam_config *s, const char *theirs)
{
    static const pc_sam_names names = {.stem = "patch_embed.proj",
                                       .blocks = "blocks",
                                       .norm = "norm"};
    static const char *const neck[4] = {"0", "1", "2", "3"};
    char them[4][160];
    static const char *const parts[4] = {"neck.", "neck_hd.", "downsamples.0.weight",
                                         "downsamples.1.weight"};

    for (int k = 0; k < 4; k++) snprintf(them[k], sizeof them[k], "%s%s", theirs, parts[k]);
    pc_family_sam_aliases(out, s, theirs, &names);
    pc_family_neck_aliases(out, s, "vision.high.neck", them[0], neck);
    pc_family_neck_aliases(out, s, "vision.high.neck_middle", them[1], neck);
    snprintf(them[0], sizeof them[0], "%shd_alpha_downsamples", theirs);
    pc_family_down_aliases(out, s, them[2], them[3], them[0]);
}

static pc_status original_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    const pc_vlm_config *c = &config->vlm;
    const pc_projector_config *p = &c->projector;
    const bool hybrid = c->visual == PC_VISUAL_HYBRID;
    char us[PC_NAME_MAX], them[64];

    (void)variant; // one layout
    timm_aliases(out, &c->vision,
                 hybrid ? "vision_model.vision_tower_low.vision_tower."
                        : "vision_model.vision_tower.");
    if (hybrid) {
        high_aliases(out, &c->high, "vision_model.vision_tower_high.vision_tower.");
        pc_family_pair(out, "projector.high", 0, "aligner.high_up_proj", p->out / 2,
                       pc_hybrid_width(&c->high));
        pc_family_pair(out, "projector.low", 0, "aligner.low_up_proj", p->out / 2, p->in);
    }
    // Activations are counted in: the hybrid's first layer is one. A single linear is no sequence.
    for (int64_t i = 0; i < p->depth - hybrid; i++) {
        snprintf(us, sizeof us, "projector.linear.%lld", (long long)i);
        if (!hybrid && p->depth == 1)
            snprintf(them, sizeof them, "aligner.layers");
        else
            snprintf(them, sizeof them, "aligner.layers.%lld", (long long)(2 * i + hybrid));
        pc_family_pair(out, us, 0, them, p->out, i || hybrid ? p->out : p->in);
    }
    pc_family_decoder_aliases(out, &c->decoder, "language_model.model.",
                              "language_model.lm_head.weight");
    return out->status;
}

static const char *const original_ignored[] = {"rotary_emb.inv_freq",
                                               "vision_model.high_layer_norm.weight",
                                               "vision_model.high_layer_norm.bias",
                                               "vision_model.low_layer_norm.weight",
                                               "vision_model.low_layer_norm.bias",
                                               NULL};

const pc_family pc_family_deepseek_vl_original = {
    .name = "deepseek_vl (original)",
    .model_type = "multi_modality",
    .config = original_config,
    .aliases = original_aliases,
    .variants = 1,
    .ignored = original_ignored,
};

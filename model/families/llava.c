/*
 * llava.c - LlavaForConditionalGeneration and files of the original code (spec: llava.md 7, 8).
 *
 * One table of prefixes is all that differs between the layouts. The layout is decided by the tensors of a file,
 * never by a version: the loader tries the variants in this order. The first is the one we write.
 */
#include "model/families/parts.h"

#include <inttypes.h>
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

typedef struct layout {
    const char *text, *head, *vision, *newline;
    const char *projector; // printf of the number of a linear
    int first, step;       // ... which runs first, first + step, ...
} layout;

static const layout layouts[] = {
    // published files, and what transformers saves by default
    {"language_model.model.", "language_model.lm_head.weight", "vision_tower.vision_model.",
     "image_newline", "multi_modal_projector.linear_%lld", 1, 1},
    // the names that transformers 4.52 and later have in memory
    {"model.language_model.", "lm_head.weight", "model.vision_tower.vision_model.",
     "model.image_newline", "model.multi_modal_projector.linear_%lld", 1, 1},
    // ... and 5.x, without the inner level of the tower
    {"model.language_model.", "lm_head.weight", "model.vision_tower.", "model.image_newline",
     "model.multi_modal_projector.linear_%lld", 1, 1},
    {"language_model.model.", "language_model.lm_head.weight", "vision_tower.", "image_newline",
     "multi_modal_projector.linear_%lld", 1, 1},
    // the original code
    {"model.", "lm_head.weight", "model.vision_tower.vision_tower.vision_model.",
     "model.image_newline", "model.mm_projector.%lld", 0, 2},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0], ORIGINAL = LAYOUTS - 1 };
_Static_assert((int)LAYOUTS == (int)PC_LLAVA_LAYOUTS, "one number of layouts");

static pc_status aliases(pc_aliases *out, const pc_model_config *config, const layout *l)
{
    const pc_vlm_config *c = &config->vlm;
    const pc_projector_config *p = &c->projector;
    char us[PC_NAME_MAX], them[128];

    pc_family_tower_aliases(out, &c->vision, l->vision);
    for (int64_t i = 0; i < p->depth; i++) {
        const int64_t I = i ? p->out : p->in;
        snprintf(us, sizeof us, "projector.linear.%lld", (long long)i);
        if (p->depth == 1 && l->step == 2) // the original `linear` is no sequence
            snprintf(them, sizeof them, "model.mm_projector");
        else
            snprintf(them, sizeof them, l->projector, (long long)(l->first + i * l->step));
        if (p->bias) {
            pc_family_pair(out, us, 0, them, p->out, I);
        } else {
            strcat(us, ".weight");
            pc_alias_add(out, us, 0, D2(p->out, I), "%s.weight", them);
        }
    }
    if (c->visual == PC_VISUAL_TILES)
        pc_alias_add(out, "projector.newline", 0, D1(c->decoder.C), "%s", l->newline);
    pc_family_decoder_aliases(out, &c->decoder, l->text, l->head);
    return out->status;
}

pc_status pc_family_llava_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    PC_ASSERT(variant >= 0 && variant < LAYOUTS, "variant %d of %d", variant, (int)LAYOUTS);
    return aliases(out, config, &layouts[variant]);
}

// Original files come first for their own family.
static pc_status original_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    (void)variant;
    return aliases(out, config, &layouts[ORIGINAL]);
}

// hidden_states has L + 1 entries, and an index counts from either end.
static pc_status one_layer(int64_t *out, int64_t k, const char *key, int64_t L)
{
    if (k < -(L + 1) || k > L)
        return pc_fail(PC_ERR_FORMAT, "key '%s': %lld; the tower has %lld layers", key,
                       (long long)k, (long long)L);
    *out = k < 0 ? k : k - (L + 1);
    return PC_OK;
}

// A number, or a list of them, whose states stand side by side.
static pc_status feature_layers(pc_vlm_config *c, const json_t *json, const char *key, int64_t def)
{
    const json_t *v = json_object_get(json, key);
    const int64_t L = c->vision.L;
    int64_t k = def;
    pc_status st = PC_OK;

    if (!json_is_array(v)) {
        if ((st = pc_json_int(&k, json, key, def, -(L + 1), L))) return st;
        return one_layer(&c->feature_layer, k, key, L);
    }
    const size_t n = json_array_size(v);
    if (n < 1 || n > PC_LAYERS_MAX)
        return pc_fail(PC_ERR_FORMAT, "key '%s': a list of %zu; expected 1 to %d layers", key, n,
                       PC_LAYERS_MAX);
    for (size_t i = 0; i < n && !st; i++) {
        const json_t *x = json_array_get(v, i);
        if (!json_is_integer(x))
            return pc_fail(PC_ERR_FORMAT, "key '%s': entry %zu is no number", key, i);
        st = one_layer(i ? &c->also[i - 1] : &c->feature_layer, json_integer_value(x), key, L);
    }
    return st;
}

pc_status pc_json_text(const char **out, const json_t *json, const char *key, const char *def)
{
    const json_t *v = json_object_get(json, key);
    if (v && !json_is_null(v) && !json_is_string(v))
        return pc_fail(PC_ERR_FORMAT, "key '%s': expected a string", key);
    *out = json_is_string(v) ? json_string_value(v) : def;
    return PC_OK;
}

pc_status pc_family_pinpoints(pc_pinpoints *out, const json_t *json, const char *key,
                              const char *def, bool swapped)
{
    const json_t *v = json_object_get(json, key);
    json_t *own =
        !v || json_is_null(v) ? json_loads(def, 0, NULL) : json_incref((json_t *)(uintptr_t)v);
    const size_t n = json_array_size(own);
    pc_status st = PC_OK;

    if (!json_is_array(own) || n < 1 || n > PC_PINPOINTS_MAX)
        st = pc_fail(PC_ERR_FORMAT, "key '%s': %zu resolutions; expected a list of 1 to %d", key, n,
                     PC_PINPOINTS_MAX);
    out->count = (int)n;
    for (size_t i = 0; i < n && !st; i++)
        for (size_t k = 0; k < 2 && !st; k++) {
            const json_t *pair = json_array_get(own, i), *side = json_array_get(pair, k);
            const json_int_t x = json_integer_value(side);
            if (json_array_size(pair) != 2 || !json_is_integer(side) || x < 1 ||
                x > PC_PINPOINT_SIDE)
                st = pc_fail(PC_ERR_FORMAT, "key '%s': entry %zu is no pair of sides up to %d", key,
                             i, PC_PINPOINT_SIDE);
            else
                out->hw[i][swapped ? 1 - k : k] = (int32_t)x;
        }
    json_decref(own);
    return st;
}

// An absent section is a tower of its own, which a section with absent keys is not.
static pc_status read_tower(pc_vision_config *v, const json_t *vision, const pc_llava_class *k)
{
    json_t *own = vision ? NULL : json_loads(k->vision, 0, NULL);
    const pc_status st = pc_family_tower(v, vision ? vision : own, k->tower);

    json_decref(own);
    return pc_context(st, "vision_config");
}

pc_status pc_family_llava_config(pc_vlm_config *c, const json_t *json, const pc_llava_class *k)
{
    const json_t *text, *vision;
    const char *strategy = NULL;
    bool tied;
    pc_status st;

    if ((st = pc_json_section(&text, json, "text_config")) ||
        (st = pc_json_section(&vision, json, "vision_config")) ||
        (st = read_tower(&c->vision, vision, k)))
        return st;
    if ((st = pc_family_decoder_of(&c->decoder, text, k->decoder)))
        return pc_context(st, "text_config");

    const char *image_key =
        json_object_get(json, "image_token_index") ? "image_token_index" : "image_token_id";
    if ((st = pc_json_bool(&tied, json, "tie_word_embeddings", false)) ||
        (st = pc_json_int(&c->image_id, json, image_key, k->image_id, 0, c->decoder.V - 1)) ||
        (st = feature_layers(c, json, "vision_feature_layer", k->feature_layer)) ||
        (st = pc_json_text(&strategy, json, "vision_feature_select_strategy", k->select)) ||
        (st = pc_json_bool(&c->projector.bias, json, "multimodal_projector_bias", true)) ||
        (st = pc_json_act(&c->projector.act, json, "projector_hidden_act", "gelu")))
        return st;
    if (strcmp(strategy, "default") && strcmp(strategy, "full"))
        return pc_fail(PC_ERR_FORMAT,
                       "key 'vision_feature_select_strategy': \"%s\"; expected default or full",
                       strategy);
    const bool full = !strcmp(strategy, "full");
    if (!full && !c->vision.class_token)
        return pc_fail(PC_ERR_FORMAT,
                       "key 'vision_feature_select_strategy': \"default\" drops the class token, "
                       "which this tower does not have; expected full");
    // Files say so at either place, and the other's default stands beside it.
    c->decoder.tied = c->decoder.tied || tied;
    c->keep_class = full && c->vision.class_token;
    c->projector.depth = 2;
    int64_t stops[PC_LAYERS_MAX];
    c->projector.in = c->vision.C * pc_vlm_layers(c, stops);
    c->projector.out = c->decoder.C;
    c->projector.std = c->decoder.std;
    return PC_OK;
}

static pc_status llava_config(pc_model_config *out, const json_t *json)
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
    out->kind = PC_MODEL_VLM;
    const pc_status st = pc_family_llava_config(&out->vlm, json, &k);
    return st ? st : pc_vlm_validate(&out->vlm);
}

// The original config names its tower instead of describing it.
static pc_status named_tower(pc_vision_config *v, const json_t *json)
{
    static const struct {
        const char *name;
        int64_t size, patch, C, F, H, L;
    } towers[] = {
        {"clip-vit-large-patch14-336", 336, 14, 1024, 4096, 16, 24},
        {"clip-vit-large-patch14", 224, 14, 1024, 4096, 16, 24},
        {"clip-vit-base-patch16", 224, 16, 768, 3072, 12, 12},
        {"clip-vit-base-patch32", 224, 32, 768, 3072, 12, 12},
    };
    const char *name = NULL;
    const pc_status st = pc_json_text(&name, json, "mm_vision_tower", "");
    if (st) return st;

    const char *slash = strrchr(name, '/');
    const char *base = slash ? slash + 1 : name;
    for (size_t i = 0; i < sizeof towers / sizeof towers[0]; i++) {
        if (strcmp(base, towers[i].name)) continue;
        *v = (pc_vision_config){
            .image_size = towers[i].size,
            .patch = towers[i].patch,
            .C = towers[i].C,
            .F = towers[i].F,
            .H = towers[i].H,
            .L = towers[i].L,
            .stem = PC_STEM_PATCH,
            .class_token = true,
            .pre_norm = true,
            .post_norm = true,
            .act = PC_ACT_QUICK,
            .eps = 1e-5,
            .head = PC_HEAD_NONE,
        };
        return PC_OK;
    }
    return pc_fail(PC_ERR_FORMAT,
                   "key 'mm_vision_tower': \"%s\"; expected one of OpenAI's CLIP towers, such as "
                   "openai/clip-vit-large-patch14-336",
                   name);
}

// `image_aspect_ratio` anyres or anyres_max_N with `mm_patch_merge_type` spatial_unpad: LLaVA-1.6 as it was released.
static pc_status original_tiles(pc_vlm_config *c, const json_t *json)
{
    const char *aspect = NULL, *merge = NULL;
    pc_status st;

    if ((st = pc_json_text(&aspect, json, "image_aspect_ratio", "pad")) ||
        (st = pc_json_text(&merge, json, "mm_patch_merge_type", "flat")))
        return st;
    if (strncmp(aspect, "anyres", 6) != 0) return PC_OK;
    if (strcmp(merge, "spatial_unpad"))
        return pc_fail(PC_ERR_FORMAT,
                       "key 'mm_patch_merge_type': \"%s\"; expected spatial_unpad with "
                       "image_aspect_ratio \"%s\"",
                       merge, aspect);
    if (aspect[6] && (sscanf(aspect, "anyres_max_%" SCNd64, &c->max_tiles) != 1 ||
                      c->max_tiles < 1 || c->max_tiles > 1024))
        return pc_fail(PC_ERR_FORMAT, "key 'image_aspect_ratio': \"%s\"; expected anyres_max_N",
                       aspect);
    c->visual = PC_VISUAL_TILES;
    return pc_family_pinpoints(&c->pinpoints, json, "image_grid_pinpoints", "[]", true);
}

static pc_status original_config(pc_model_config *out, const json_t *json)
{
    pc_vlm_config *c = &out->vlm;
    const char *type = NULL, *select = NULL;
    long depth = 1;
    pc_status st;

    out->kind = PC_MODEL_VLM;
    if ((st = named_tower(&c->vision, json)) || (st = pc_family_decoder(&c->decoder, json)) ||
        (st = pc_json_text(&type, json, "mm_projector_type", "linear")) ||
        (st = pc_json_text(&select, json, "mm_vision_select_feature", "patch")) ||
        (st = feature_layers(c, json, "mm_vision_select_layer", -2)))
        return st;

    char rest[8];
    if (strcmp(type, "linear") && (sscanf(type, "mlp%ldx_%7s", &depth, rest) != 2 ||
                                   strcmp(rest, "gelu") || depth < 1 || depth > PC_PROJECTOR_MAX))
        return pc_fail(
            PC_ERR_FORMAT,
            "key 'mm_projector_type': \"%s\"; expected linear or mlp<N>x_gelu, N up to %d", type,
            PC_PROJECTOR_MAX);
    if (strcmp(select, "patch") && strcmp(select, "cls_patch"))
        return pc_fail(PC_ERR_FORMAT,
                       "key 'mm_vision_select_feature': \"%s\"; expected patch or cls_patch",
                       select);
    int64_t stops[PC_LAYERS_MAX];
    c->keep_class = !strcmp(select, "cls_patch");
    c->image_id = c->decoder.V; // no token: the id behind the last one marks the place
    c->projector = (pc_projector_config){
        .depth = depth,
        .in = c->vision.C * pc_vlm_layers(c, stops),
        .out = c->decoder.C,
        .bias = true,
        .act = PC_ACT_GELU,
        .std = c->decoder.std,
    };
    if ((st = original_tiles(c, json))) return st;
    return pc_vlm_validate(c);
}

// A tied head may be written out a second time.
static const char *const llava_ignored[] = {"rotary_emb.inv_freq", "embeddings.position_ids",
                                            "lm_head.weight", "image_newline", NULL};

const pc_family pc_family_llava = {
    .name = "llava",
    .model_type = "llava",
    .config = llava_config,
    .aliases = pc_family_llava_aliases,
    .variants = LAYOUTS,
    .modules = 2,
    .ignored = llava_ignored,
};

#define ORIGINAL_FAMILY(symbol, type)                                                              \
    const pc_family pc_family_##symbol = {                                                         \
        .name = "llava (original)",                                                                \
        .model_type = type,                                                                        \
        .config = original_config,                                                                 \
        .aliases = original_aliases,                                                               \
        .variants = 1,                                                                             \
        .ignored = llava_ignored,                                                                  \
    }

ORIGINAL_FAMILY(llava_original, "llava_llama");
ORIGINAL_FAMILY(llava_mistral, "llava_mistral");
ORIGINAL_FAMILY(llava_qwen, "llava_qwen");

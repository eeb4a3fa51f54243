/*
 * llama.c - Llama-shaped decoders: llama, mistral, qwen2 (spec: decoders.md 1, 3).
 *
 * Newer files write `rope_parameters {rope_type, rope_theta, ...}`, older ones `rope_theta` and `rope_scaling`
 * (whose kind is spelled `type` or `rope_type`). An absent key takes the default of its class: nested text
 * configs rely on that. A decoder alone is a vlm without a tower.
 */
#include "model/families/parts.h"

#include <math.h>
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

// What a class means by an absent key.
typedef struct class_defaults {
    const char *model_type;
    int64_t C, F, L, H, G, V, T, window; // G 0: as many as H
    bool qkv_bias;
    bool window_switch; // `sliding_window` counts only with `use_sliding_window`
    double eps, theta;
} class_defaults;

static const class_defaults classes[] = {
    {"llama", 4096, 11008, 32, 32, 0, 32000, 2048, 0, false, false, 1e-6, 1e4},
    {"mistral", 4096, 14336, 32, 32, 8, 32000, 131072, 4096, false, false, 1e-6, 1e4},
    {"qwen2", 4096, 22016, 32, 32, 32, 151936, 32768, 4096, true, true, 1e-6, 1e4},
    {"qwen2_vl_text", 8192, 29568, 80, 64, 8, 152064, 32768, 4096, true, true, 1e-5, 1e6},
};

static pc_status find_class(const class_defaults **out, const json_t *text, const char *def)
{
    const json_t *type = json_object_get(text, "model_type");
    const char *name = json_is_string(type) ? json_string_value(type) : def;

    // The original LLaVA code has the text's keys at the top level.
    if (!strcmp(name, "llava_llama") || !strcmp(name, "llava")) name = "llama";
    if (!strcmp(name, "llava_mistral")) name = "mistral";
    if (!strcmp(name, "llava_qwen")) name = "qwen2";
    if (!strcmp(name, "qwen2_vl")) name = "qwen2_vl_text"; // flat, as older files are
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
        if (!strcmp(classes[i].model_type, name)) {
            *out = &classes[i];
            return PC_OK;
        }
    return pc_fail(PC_ERR_FORMAT, "key 'model_type': \"%s\"; expected llama, mistral or qwen2",
                   name);
}

// The longest sequence that a stretching is meant for.
static pc_status stretch(int64_t *T, double length)
{
    if (!(length <= (double)((int64_t)1 << 24)))
        return pc_fail(PC_ERR_FORMAT, "rotary scaling: a sequence of %g positions", length);
    if (length > (double)*T) *T = (int64_t)length;
    return PC_OK;
}

static bool has_number(const json_t *o, const char *key)
{
    return json_is_number(json_object_get(o, key));
}

static pc_status yarn_config(pc_rope_config *r, const json_t *o, int64_t *T)
{
    double mscale, all;
    bool truncate;
    pc_status st;
    r->scaling = PC_ROPE_YARN;
    if ((st = pc_json_real(&r->original_max, o, "original_max_position_embeddings", (double)*T)) ||
        (st = pc_json_real(&r->beta_fast, o, "beta_fast", 32.0)) ||
        (st = pc_json_real(&r->beta_slow, o, "beta_slow", 1.0)) ||
        (st = pc_json_real(&r->attn_factor, o, "attention_factor", 0.0)) ||
        (st = pc_json_real(&mscale, o, "mscale", 0.0)) ||
        (st = pc_json_real(&all, o, "mscale_all_dim", 0.0)) ||
        (st = pc_json_bool(&truncate, o, "truncate", true)))
        return st;
    if (!(r->original_max >= 1.0))
        return pc_fail(PC_ERR_FORMAT,
                       "rotary scaling: key 'original_max_position_embeddings': %g; at least 1",
                       r->original_max);
    // A factor that is not there is the ratio of the lengths.
    if (!has_number(o, "factor")) r->factor = (double)*T / r->original_max;
    if (!has_number(o, "attention_factor") && mscale != 0.0 && all != 0.0 && r->factor > 1.0)
        r->attn_factor = (0.1 * mscale * log(r->factor) + 1.0) / (0.1 * all * log(r->factor) + 1.0);
    if (!(r->attn_factor >= 0.0 && r->attn_factor <= 1e3))
        return pc_fail(PC_ERR_FORMAT, "rotary scaling: key 'attention_factor': %g", r->attn_factor);
    r->ramp_exact = !truncate;
    return stretch(T, r->factor * r->original_max);
}

static pc_status rope_config(pc_rope_config *r, const json_t *text, int64_t *T, double theta)
{
    const json_t *newer = json_object_get(text, "rope_parameters");
    const json_t *older = json_object_get(text, "rope_scaling");
    const json_t *o = json_is_object(newer) ? newer : json_is_object(older) ? older : NULL;
    pc_status st;

    if ((st = pc_json_real(&r->theta, json_is_object(newer) ? newer : text, "rope_theta", theta)))
        return st;
    const json_t *kind = json_object_get(o, "rope_type");
    if (!kind) kind = json_object_get(o, "type");
    const char *name = json_is_string(kind) ? json_string_value(kind) : "default";
    if (!strcmp(name, "default") ||
        !strcmp(name, "mrope")) { // whose sections are qwen2_vl.c's to read
        r->scaling = PC_ROPE_NONE;
        return PC_OK;
    }
    if ((st = pc_json_real(&r->factor, o, "factor", 1.0))) return st;
    if (!(r->factor > 0.0))
        return pc_fail(PC_ERR_FORMAT, "rotary scaling: key 'factor': %g; expected more than 0",
                       r->factor);
    if (!strcmp(name, "linear")) {
        r->scaling = PC_ROPE_LINEAR;
        return PC_OK;
    }
    if (!strcmp(name, "llama3")) {
        r->scaling = PC_ROPE_LLAMA3;
        if ((st = pc_json_real(&r->low_freq, o, "low_freq_factor", 1.0)) ||
            (st = pc_json_real(&r->high_freq, o, "high_freq_factor", 4.0)) ||
            (st =
                 pc_json_real(&r->original_max, o, "original_max_position_embeddings", (double)*T)))
            return st;
        return PC_OK;
    }
    if (!strcmp(name, "yarn")) return yarn_config(r, o, T);
    if (!strcmp(name, "dynamic")) {
        r->scaling = PC_ROPE_DYNAMIC;
        r->original_max = (double)*T;
        return stretch(T, r->factor * r->original_max);
    }
    return pc_fail(PC_ERR_FORMAT,
                   "rotary scaling \"%s\"; expected default, linear, llama3, yarn or dynamic",
                   name);
}

// Which blocks have the window: newer files list it (layer_types), in older ones it begins at max_window_layers. It is
// all or none here.
static pc_status window_everywhere(pc_decoder_config *d, const json_t *text,
                                   const class_defaults *k)
{
    const json_t *types = json_object_get(text, "layer_types");
    int64_t first = 0, sliding = 0;
    pc_status st = PC_OK;
    if (k->window_switch &&
        (st = pc_json_int(&first, text, "max_window_layers", 28, 0, (int64_t)1 << 24)))
        return st;
    for (int64_t i = 0; i < d->L; i++) {
        const json_t *type = json_array_get(types, (size_t)i);
        sliding += json_is_array(types) ? json_is_string(type) &&
                                              !strcmp(json_string_value(type), "sliding_attention")
                                        : i >= first;
    }
    if (sliding == 0) d->window = 0;
    if (sliding == 0 || sliding == d->L) return PC_OK;
    return pc_fail(PC_ERR_FORMAT,
                   "key '%s': %lld of %lld blocks have a sliding window; expected all or none",
                   json_is_array(types) ? "layer_types" : "max_window_layers", (long long)sliding,
                   (long long)d->L);
}

pc_status pc_family_decoder(pc_decoder_config *d, const json_t *text)
{
    return pc_family_decoder_of(d, text, "llama");
}

pc_status pc_family_decoder_of(pc_decoder_config *d, const json_t *text, const char *def)
{
    const class_defaults *k = NULL;
    const int64_t most = (int64_t)1 << 24;
    bool attention_bias, mlp_bias, use_window;
    pc_act act;
    pc_status st;

    if ((st = find_class(&k, text, def)) ||
        (st = pc_json_int(&d->C, text, "hidden_size", k->C, 1, most)) ||
        (st = pc_json_int(&d->F, text, "intermediate_size", k->F, 1, most)) ||
        (st = pc_json_int(&d->L, text, "num_hidden_layers", k->L, 1, 4096)) ||
        (st = pc_json_int(&d->H, text, "num_attention_heads", k->H, 1, 4096)) ||
        (st = pc_json_int(&d->V, text, "vocab_size", k->V, 1, most)) ||
        (st = pc_json_int(&d->T, text, "max_position_embeddings", k->T, 1, most)) ||
        (st = pc_json_real(&d->eps, text, "rms_norm_eps", k->eps)) ||
        (st = pc_json_real(&d->std, text, "initializer_range", 0.02)) ||
        (st = pc_json_bool(&d->tied, text, "tie_word_embeddings", false)) ||
        (st = pc_json_bool(&attention_bias, text, "attention_bias", false)) ||
        (st = pc_json_bool(&mlp_bias, text, "mlp_bias", false)) ||
        (st = pc_json_bool(&use_window, text, "use_sliding_window", !k->window_switch)) ||
        (st = pc_json_act(&act, text, "hidden_act", "silu")) ||
        (st = rope_config(&d->rope, text, &d->T, k->theta)))
        return st;

    // A null key is a statement here: as many key/value heads as heads; no window.
    const json_t *groups = json_object_get(text, "num_key_value_heads");
    const int64_t G = groups ? d->H : (k->G ? k->G : d->H);
    const json_t *window = json_object_get(text, "sliding_window");
    if ((st = pc_json_int(&d->G, text, "num_key_value_heads", G, 1, d->H)) ||
        (st = pc_json_int(&d->window, text, "sliding_window", window ? 0 : k->window, 0, most)) ||
        (st = pc_json_int(&d->D, text, "head_dim", d->C / d->H, 1, most)))
        return st;
    if (d->D < 1)
        return pc_fail(PC_ERR_FORMAT, "key 'num_attention_heads': %lld heads in a width of %lld",
                       (long long)d->H, (long long)d->C);
    if (!use_window || d->window >= d->T) d->window = 0;
    if (d->window && (st = window_everywhere(d, text, k))) return st;

    if (act != PC_ACT_SILU)
        return pc_fail(PC_ERR_FORMAT, "key 'hidden_act': a decoder's gate is silu here");
    if (attention_bias || mlp_bias)
        return pc_fail(PC_ERR_FORMAT, "key '%s': true; output and MLP biases are not supported",
                       attention_bias ? "attention_bias" : "mlp_bias");
    d->qkv_bias = k->qkv_bias;
    return PC_OK;
}

void pc_family_decoder_aliases(pc_aliases *out, const pc_decoder_config *d, const char *prefix,
                               const char *head)
{
    const int64_t C = d->C, F = d->F, q = d->H * d->D, kv = d->G * d->D;
    const struct {
        const char *name;
        int64_t row, rows;
    } qkv[3] = {{"q_proj", 0, q}, {"k_proj", q, kv}, {"v_proj", q + kv, kv}};
    char us[PC_NAME_MAX];

    pc_alias_add(out, "decoder.tokens", 0, D2(d->V, C), "%sembed_tokens.weight", prefix);
    for (int64_t l = 0; l < d->L; l++) {
        const long long i = l;
        snprintf(us, sizeof us, "decoder.blocks.%lld.norm1.weight", i);
        pc_alias_add(out, us, 0, D1(C), "%slayers.%lld.input_layernorm.weight", prefix, i);
        for (int j = 0; j < 3; j++) {
            snprintf(us, sizeof us, "decoder.blocks.%lld.attn.qkv.weight", i);
            pc_alias_add(out, us, qkv[j].row, D2(qkv[j].rows, C),
                         "%slayers.%lld.self_attn.%s.weight", prefix, i, qkv[j].name);
            if (!d->qkv_bias) continue;
            snprintf(us, sizeof us, "decoder.blocks.%lld.attn.qkv.bias", i);
            pc_alias_add(out, us, qkv[j].row, D1(qkv[j].rows), "%slayers.%lld.self_attn.%s.bias",
                         prefix, i, qkv[j].name);
        }
        snprintf(us, sizeof us, "decoder.blocks.%lld.attn.out.weight", i);
        pc_alias_add(out, us, 0, D2(C, q), "%slayers.%lld.self_attn.o_proj.weight", prefix, i);
        snprintf(us, sizeof us, "decoder.blocks.%lld.norm2.weight", i);
        pc_alias_add(out, us, 0, D1(C), "%slayers.%lld.post_attention_layernorm.weight", prefix, i);
        snprintf(us, sizeof us, "decoder.blocks.%lld.mlp.gate_up.weight", i);
        pc_alias_add(out, us, 0, D2(F, C), "%slayers.%lld.mlp.gate_proj.weight", prefix, i);
        pc_alias_add(out, us, F, D2(F, C), "%slayers.%lld.mlp.up_proj.weight", prefix, i);
        snprintf(us, sizeof us, "decoder.blocks.%lld.mlp.down.weight", i);
        pc_alias_add(out, us, 0, D2(C, F), "%slayers.%lld.mlp.down_proj.weight", prefix, i);
    }
    pc_alias_add(out, "decoder.norm_final.weight", 0, D1(C), "%snorm.weight", prefix);
    if (!d->tied) pc_alias_add(out, "decoder.head", 0, D2(d->V, C), "%s", head);
}

static pc_status llama_config(pc_model_config *out, const json_t *json)
{
    pc_status st;

    out->kind = PC_MODEL_VLM;
    out->vlm.image_id = -1; // no token stands for an image
    out->vlm.feature_layer = -1;
    if ((st = pc_family_decoder(&out->vlm.decoder, json))) return st;
    return pc_vlm_validate(&out->vlm);
}

static pc_status llama_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    (void)variant; // one layout
    pc_family_decoder_aliases(out, &config->vlm.decoder, "model.", "lm_head.weight");
    return out->status;
}

// A tied head may be written out a second time.
static const char *const llama_ignored[] = {"rotary_emb.inv_freq", "lm_head.weight", NULL};

#define DECODER_FAMILY(type)                                                                       \
    const pc_family pc_family_##type = {                                                           \
        .name = #type,                                                                             \
        .model_type = #type,                                                                       \
        .config = llama_config,                                                                    \
        .aliases = llama_aliases,                                                                  \
        .variants = 1,                                                                             \
        .ignored = llama_ignored,                                                                  \
    }

DECODER_FAMILY(llama);
DECODER_FAMILY(mistral);
DECODER_FAMILY(qwen2);

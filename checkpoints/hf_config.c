/*
 * hf_config.c - see hf_config.h.
 */
#include "checkpoints/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- config.json of each family ---- */

static const char *act_name(pc_act a)
{
    switch (a) {
    case PC_ACT_GELU: return "gelu";
    case PC_ACT_GELU_TANH: return "gelu_pytorch_tanh";
    case PC_ACT_QUICK: return "quick_gelu";
    case PC_ACT_SILU: return "silu";
    case PC_ACT_RELU: return "relu";
    }
    return "gelu";
}

static json_t *vision_json(const pc_vision_config *v, const char *type)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:f, s:s}", "model_type", type,
                     "hidden_size", (json_int_t)v->C, "intermediate_size", (json_int_t)v->F,
                     "num_hidden_layers", (json_int_t)v->L, "num_attention_heads", (json_int_t)v->H,
                     "image_size", (json_int_t)v->image_size, "patch_size", (json_int_t)v->patch,
                     "num_channels", 3, "layer_norm_eps", v->eps, "hidden_act", act_name(v->act));
}

static void put_id(json_t *o, const char *key, int64_t id)
{
    json_object_set_new(o, key, id >= 0 ? json_integer(id) : json_null());
}

static json_t *text_tower_json(const pc_text_config *t, const char *type)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:s}", "model_type", type,
                     "hidden_size", (json_int_t)t->C, "intermediate_size", (json_int_t)t->F,
                     "num_hidden_layers", (json_int_t)t->L, "num_attention_heads", (json_int_t)t->H,
                     "max_position_embeddings", (json_int_t)t->T, "vocab_size", (json_int_t)t->V,
                     "layer_norm_eps", t->eps, "hidden_act", act_name(t->act));
}

static json_t *clip_json(const pc_model_config *c, const pc_tokenizer *tok)
{
    const pc_clip_config *m = &c->clip;
    json_t *text = text_tower_json(&m->text, "clip_text_model");
    json_object_set_new(text, "projection_dim", json_integer(m->text.E));
    // 2 is the library's word for "pool at the largest id".
    put_id(text, "eos_token_id", m->text.pool == PC_POOL_LARGEST ? 2 : m->text.eot_id);
    put_id(text, "bos_token_id", tok ? pc_tokenizer_bos(tok) : -1);
    put_id(text, "pad_token_id", tok ? pc_tokenizer_pad(tok) : -1);
    json_t *vision = vision_json(&m->vision, "clip_vision_model");
    json_object_set_new(vision, "projection_dim", json_integer(m->vision.E));
    return json_pack("{s:[s], s:s, s:I, s:f, s:o, s:o}", "architectures", "CLIPModel", "model_type",
                     "clip", "projection_dim", (json_int_t)m->vision.E, "logit_scale_init_value",
                     m->init_scale, "text_config", text, "vision_config", vision);
}

static json_t *siglip_json(const pc_model_config *c, const pc_tokenizer *tok)
{
    const pc_clip_config *m = &c->clip;
    json_t *text = text_tower_json(&m->text, "siglip_text_model");
    json_object_set_new(text, "projection_size", json_integer(m->text.E));
    put_id(text, "pad_token_id", m->text.pad_id);
    put_id(text, "bos_token_id", tok ? pc_tokenizer_bos(tok) : -1);
    put_id(text, "eos_token_id", tok ? pc_tokenizer_eos(tok) : -1);
    return json_pack("{s:[s], s:s, s:o, s:o}", "architectures", "SiglipModel", "model_type",
                     "siglip", "text_config", text, "vision_config",
                     vision_json(&m->vision, "siglip_vision_model"));
}

// Both spellings of the rotary embedding: `rope_theta` and `rope_scaling` until transformers 4, both read by 5.
static void put_rope(json_t *o, const pc_rope_config *r)
{
    json_object_set_new(o, "rope_theta", json_real(r->theta));
    json_t *scaling = NULL;
    if (r->scaling == PC_ROPE_LINEAR)
        scaling = json_pack("{s:s, s:f}", "rope_type", "linear", "factor", r->factor);
    if (r->scaling == PC_ROPE_LLAMA3)
        scaling =
            json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", r->factor,
                      "low_freq_factor", r->low_freq, "high_freq_factor", r->high_freq,
                      "original_max_position_embeddings", (json_int_t)llround(r->original_max));
    if (r->scaling == PC_ROPE_YARN) {
        scaling =
            json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "yarn", "factor", r->factor,
                      "beta_fast", r->beta_fast, "beta_slow", r->beta_slow,
                      "original_max_position_embeddings", (json_int_t)llround(r->original_max));
        if (r->attn_factor > 0.0)
            json_object_set_new(scaling, "attention_factor", json_real(r->attn_factor));
        if (r->ramp_exact) json_object_set_new(scaling, "truncate", json_false());
    }
    if (r->scaling == PC_ROPE_DYNAMIC) { // the length of training is the model's own there
        scaling = json_pack("{s:s, s:f}", "rope_type", "dynamic", "factor", r->factor);
        json_object_set_new(o, "max_position_embeddings", json_integer(llround(r->original_max)));
    }
    json_object_set_new(o, "rope_scaling", scaling ? scaling : json_null());
}

static json_t *decoder_json(const pc_decoder_config *d, const char *type, const pc_tokenizer *tok)
{
    json_t *o =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:b}", "model_type",
                  type, "hidden_size", (json_int_t)d->C, "intermediate_size", (json_int_t)d->F,
                  "num_hidden_layers", (json_int_t)d->L, "num_attention_heads", (json_int_t)d->H,
                  "num_key_value_heads", (json_int_t)d->G, "head_dim", (json_int_t)d->D,
                  "vocab_size", (json_int_t)d->V, "max_position_embeddings", (json_int_t)d->T,
                  "rms_norm_eps", d->eps, "initializer_range", d->std > 0.0 ? d->std : 0.02,
                  "hidden_act", "silu", "tie_word_embeddings", (int)d->tied);
    put_rope(o, &d->rope);
    if (!strcmp(type, "mistral") || !strncmp(type, "qwen2", 5))
        json_object_set_new(o, "sliding_window", d->window ? json_integer(d->window) : json_null());
    if (!strncmp(type, "qwen2", 5)) {
        json_object_set_new(o, "use_sliding_window", json_boolean(d->window > 0));
        if (d->window) json_object_set_new(o, "max_window_layers", json_integer(0));
    }
    put_id(o, "bos_token_id", tok ? pc_tokenizer_bos(tok) : -1);
    put_id(o, "eos_token_id", tok ? pc_tokenizer_eos(tok) : -1);
    put_id(o, "pad_token_id", tok ? pc_tokenizer_pad(tok) : -1);
    return o;
}

static const char *decoder_type(const pc_decoder_config *d)
{
    return d->qkv_bias ? "qwen2" : d->window ? "mistral" : "llama";
}

static json_t *text_json(const pc_model_config *c, const pc_tokenizer *tok)
{
    const char *type = decoder_type(&c->vlm.decoder);
    json_t *o = decoder_json(&c->vlm.decoder, type, tok);
    json_object_set_new(o, "architectures",
                        json_pack("[s]", !strcmp(type, "qwen2")     ? "Qwen2ForCausalLM"
                                         : !strcmp(type, "mistral") ? "MistralForCausalLM"
                                                                    : "LlamaForCausalLM"));
    return o;
}

static json_t *pinpoints_json(const pc_pinpoints *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->count; i++)
        json_array_append_new(list, json_pack("[i, i]", p->hw[i][0], p->hw[i][1]));
    return list;
}

// LLaVA, or with tiles LLaVA-NeXT and, where they are shrunk, OneVision.
static json_t *llava_json(const pc_model_config *c, const pc_tokenizer *tok)
{
    const pc_vlm_config *m = &c->vlm;
    const bool tiles = m->visual == PC_VISUAL_TILES, shrunk = tiles && m->max_tiles > 0;
    json_t *vision = vision_json(&m->vision, m->vision.class_token ? "clip_vision_model"
                                                                   : "siglip_vision_model");
    if (!m->vision.class_token)
        json_object_set_new(vision, "vision_use_head", json_boolean(m->vision.head == PC_HEAD_MAP));
    json_t *o =
        json_pack("{s:[s], s:s, s:I, s:I, s:s, s:s, s:b, s:b, s:o, s:o}", "architectures",
                  shrunk  ? "LlavaOnevisionForConditionalGeneration"
                  : tiles ? "LlavaNextForConditionalGeneration"
                          : "LlavaForConditionalGeneration",
                  "model_type",
                  shrunk  ? "llava_onevision"
                  : tiles ? "llava_next"
                          : "llava",
                  "image_token_index", (json_int_t)m->image_id, "vision_feature_layer",
                  (json_int_t)m->feature_layer, "vision_feature_select_strategy",
                  m->keep_class || !m->vision.class_token ? "full" : "default",
                  "projector_hidden_act", act_name(m->projector.act), "multimodal_projector_bias",
                  (int)m->projector.bias, "tie_word_embeddings", (int)m->decoder.tied,
                  "text_config", decoder_json(&m->decoder, decoder_type(&m->decoder), tok),
                  "vision_config", vision);
    if (m->also[0]) {
        json_t *layers = json_pack("[I]", (json_int_t)m->feature_layer);
        for (int i = 0; i < PC_LAYERS_MAX - 1 && m->also[i]; i++)
            json_array_append_new(layers, json_integer(m->also[i]));
        json_object_set_new(o, "vision_feature_layer", layers);
    }
    if (tiles) json_object_set_new(o, "image_grid_pinpoints", pinpoints_json(&m->pinpoints));
    if (shrunk) {
        char aspect[32];
        snprintf(aspect, sizeof aspect, "anyres_max_%lld", (long long)m->max_tiles);
        json_object_set_new(o, "vision_aspect_ratio", json_string(aspect));
    } else {
        // The library counts a class token that is dropped out of it by itself.
        json_object_set_new(o, "image_seq_length", json_integer(pc_vlm_crop_rows(m)));
    }
    return o;
}

// F as a multiple of C that, multiplied and cut, gives F again.
static json_t *ratio_json(int64_t F, int64_t C)
{
    double ratio = (double)F / (double)C;
    if (F % C == 0) return json_integer(F / C);
    if ((int64_t)(ratio * (double)C) < F) ratio = nextafter(ratio, INFINITY);
    return json_real(ratio);
}

static void put_named(json_t *o, const char *key, const pc_tokenizer *tok, const char *token)
{
    const int32_t id = tok ? pc_tokenizer_id(tok, token) : -1;
    if (id >= 0) json_object_set_new(o, key, json_integer(id));
}

static json_t *qwen2_vl_json(const pc_model_config *c, const pc_tokenizer *tok)
{
    const pc_vlm_config *m = &c->vlm;
    const pc_vision_config *v = &m->vision;
    const pc_decoder_config *d = &m->decoder;
    json_t *text = decoder_json(d, "qwen2_vl_text", tok);
    json_t *rope = json_object_get(text, "rope_scaling");
    if (!json_is_object(rope)) {
        rope = json_pack("{s:s}", "rope_type", "default");
        json_object_set_new(text, "rope_scaling", rope);
    }
    json_object_set_new(rope, "mrope_section",
                        json_pack("[I, I, I]", (json_int_t)d->mrope[0], (json_int_t)d->mrope[1],
                                  (json_int_t)d->mrope[2]));
    json_t *vision =
        json_pack("{s:s, s:I, s:I, s:I, s:o, s:I, s:i, s:I, s:I, s:I, s:s}", "model_type",
                  "qwen2_vl_vision", "depth", (json_int_t)v->L, "embed_dim", (json_int_t)v->C,
                  "hidden_size", (json_int_t)d->C, "mlp_ratio", ratio_json(v->F, v->C), "num_heads",
                  (json_int_t)v->H, "in_channels", 3, "patch_size", (json_int_t)v->patch,
                  "spatial_merge_size", (json_int_t)m->merge, "temporal_patch_size",
                  (json_int_t)v->frames, "hidden_act", act_name(v->act));
    if (v->theta != 10000.0)
        json_object_set_new(vision, "rope_parameters",
                            json_pack("{s:s, s:f}", "rope_type", "axial", "rope_theta", v->theta));
    json_t *o = json_pack("{s:[s], s:s, s:I, s:b, s:o, s:o}", "architectures",
                          "Qwen2VLForConditionalGeneration", "model_type", "qwen2_vl",
                          "image_token_id", (json_int_t)m->image_id, "tie_word_embeddings",
                          (int)d->tied, "text_config", text, "vision_config", vision);
    if (m->video_id) json_object_set_new(o, "video_token_id", json_integer(m->video_id));
    put_named(o, "vision_start_token_id", tok, "<|vision_start|>");
    put_named(o, "vision_end_token_id", tok, "<|vision_end|>");
    return o;
}

static json_t *sam_json(const pc_sam_config *s)
{
    json_t *globals = json_pack("[I]", (json_int_t)s->middle); // the first is handed out
    for (int64_t i = 0; i < s->L; i++)
        if (s->globals >> i & 1 && i != s->middle) json_array_append_new(globals, json_integer(i));
    json_t *o =
        json_pack("{s:s, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:i, s:I, s:I}", "model_type",
                  "sam_vision_model", "hidden_size", (json_int_t)s->C, "mlp_dim", (json_int_t)s->F,
                  "mlp_ratio", ratio_json(s->F, s->C), "num_hidden_layers", (json_int_t)s->L,
                  "num_attention_heads", (json_int_t)s->H, "image_size", (json_int_t)s->image_size,
                  "patch_size", (json_int_t)s->patch, "num_channels", 3, "window_size",
                  (json_int_t)s->window, "output_channels", (json_int_t)s->neck);
    json_object_set_new(o, "layer_norm_eps", json_real(s->eps));
    json_object_set_new(o, "hidden_act", json_string(act_name(s->act)));
    json_object_set_new(o, "qkv_bias", json_boolean(s->qkv_bias));
    json_object_set_new(o, "use_abs_pos", json_boolean(s->positions));
    json_object_set_new(o, "use_rel_pos", json_boolean(s->relative));
    json_object_set_new(o, "global_attn_indexes", globals);
    return o;
}

static json_t *deepseek_vl_json(const pc_model_config *c, const pc_tokenizer *tok)
{
    const pc_vlm_config *m = &c->vlm;
    const bool hybrid = m->visual == PC_VISUAL_HYBRID;
    json_t *vision = vision_json(&m->vision, "siglip_vision_model");
    json_object_set_new(vision, "vision_use_head", json_boolean(m->vision.head == PC_HEAD_MAP));
    json_t *o =
        json_pack("{s:[s], s:s, s:I, s:b, s:o, s:o}", "architectures",
                  hybrid ? "DeepseekVLHybridForConditionalGeneration"
                         : "DeepseekVLForConditionalGeneration",
                  "model_type", hybrid ? "deepseek_vl_hybrid" : "deepseek_vl", "image_token_id",
                  (json_int_t)m->image_id, "tie_word_embeddings", (int)m->decoder.tied,
                  "text_config", decoder_json(&m->decoder, decoder_type(&m->decoder), tok),
                  "vision_config", vision);
    if (hybrid) json_object_set_new(o, "high_res_vision_config", sam_json(&m->high));
    return o;
}

static json_t *made_for(const pc_model_config *c, const pc_tokenizer *tok)
{
    if (c->kind == PC_MODEL_CLIP)
        return c->clip.loss == PC_CONTRAST_SIGMOID ? siglip_json(c, tok) : clip_json(c, tok);
    if (!c->vlm.vision.L) return text_json(c, tok);
    if (c->vlm.visual == PC_VISUAL_GRID) return qwen2_vl_json(c, tok);
    // SigLIP's rows behind its last norm: LLaVA takes those before it.
    const bool deepseek = c->vlm.visual == PC_VISUAL_HYBRID || c->vlm.feature_norm;
    return deepseek ? deepseek_vl_json(c, tok) : llava_json(c, tok);
}

/* ---- the same model? ---- */

// How it starts when it is new, and how it is computed, is no part of what a model is.
static bool beside_the_point(const char *key)
{
    static const char *const keys[] = {"std", "init_scale", "init_bias", "recompute", NULL};
    for (const char *const *k = keys; *k; k++)
        if (!strcmp(*k, key)) return true;
    return false;
}

// Numbers that came through a GGUF were rounded to f32.
static bool same_value(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return fabs(json_number_value(a) - json_number_value(b)) <=
               6e-8 * fabs(json_number_value(a));
    return json_equal((json_t *)(uintptr_t)a, (json_t *)(uintptr_t)b);
}

// The first key whose values differ, as "section.key", with both.
static bool first_difference(char *out, size_t size, const json_t *a, const json_t *b,
                             const char *section)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)a, key, v)
    {
        const json_t *w = json_object_get(b, key);
        if (beside_the_point(key)) continue;
        if (json_is_object(v) && json_is_object(w)) {
            if (first_difference(out, size, v, w, key)) return true;
        } else if (!w || !same_value(v, w)) {
            char *x = json_dumps(v, JSON_ENCODE_ANY),
                 *y = w ? json_dumps(w, JSON_ENCODE_ANY) : NULL;
            snprintf(out, size, "%s%s%s is %.60s, config.json would say %.60s", section,
                     *section ? "." : "", key, x ? x : "?", y ? y : "nothing");
            free(x);
            free(y);
            return true;
        }
    }
    return false;
}

// PC_OK and an empty text when config.json `json` says exactly this model.
static pc_vision_config plain_tower(pc_vision_config v)
{
    if (v.stem == PC_STEM_PATCH) v.stem_width = 0;
    if (v.head != PC_HEAD_MAP) v.head_F = 0;
    if (v.head == PC_HEAD_NONE) v.E = 0;
    return v;
}

// Values that the model does not use, each set to one: files do not hold them, and two defaults are no difference.
static pc_model_config plain(pc_model_config c)
{
    pc_rope_config *r = &c.vlm.decoder.rope;
    if (c.kind == PC_MODEL_CLIP) {
        c.clip.vision = plain_tower(c.clip.vision);
        return c;
    }
    c.vlm.vision = plain_tower(c.vlm.vision);
    if (r->scaling == PC_ROPE_NONE) r->factor = 1.0;
    if (r->scaling < PC_ROPE_LLAMA3) r->original_max = 0.0;
    if (r->scaling != PC_ROPE_LLAMA3) r->low_freq = r->high_freq = 0.0;
    if (r->scaling != PC_ROPE_YARN) {
        r->beta_fast = r->beta_slow = r->attn_factor = 0.0;
        r->ramp_exact = false;
    }
    if (c.vlm.visual != PC_VISUAL_GRID) c.vlm.merge = 0;
    if (c.vlm.visual != PC_VISUAL_TILES) {
        c.vlm.pinpoints.count = 0;
        c.vlm.max_tiles = 0;
    }
    return c;
}

static pc_status says(char *difference, size_t size, const pc_family **family, const json_t *json,
                      const pc_model_config *c)
{
    pc_model_config read;
    pc_status st = pc_family_from_config(family, &read, json);
    if (st) return st;
    const pc_model_config ours = plain(*c), theirs = plain(read);
    json_t *a = pc_model_config_to_json(&ours), *b = pc_model_config_to_json(&theirs);
    difference[0] = '\0';
    if (!a || !b) st = pc_fail(PC_ERR_MEMORY, "description of the model");
    if (!st) first_difference(difference, size, a, b, "");
    json_decref(a);
    json_decref(b);
    return st;
}

static void update(json_t *o, const json_t *from)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)from, key, v)
    {
        json_t *mine = json_object_get(o, key);
        if (json_is_object(mine) && json_is_object(v))
            update(mine, v);
        else if (strcmp(key, "architectures") != 0 || !mine)
            json_object_set(o, key, v);
    }
}

static void put_dtype(json_t *o, const char *dtype)
{
    const bool newer = json_object_get(o, "dtype") != NULL;
    json_object_set_new(o, newer ? "dtype" : "torch_dtype", json_string(dtype));
    if (newer) json_object_del(o, "torch_dtype");
    json_object_del(o, "quantization_config");
    const char *sections[] = {"text_config", "vision_config"};
    for (int i = 0; i < 2; i++) {
        json_t *s = json_object_get(o, sections[i]);
        if (json_object_get(s, "dtype")) json_object_set_new(s, "dtype", json_string(dtype));
        if (json_object_get(s, "torch_dtype"))
            json_object_set_new(s, "torch_dtype", json_string(dtype));
    }
}

pc_status pc_hf_config_json(json_t **out, const pc_family **family, const pc_model_config *c,
                            const json_t *carried, const pc_tokenizer *tok, const char *dtype)
{
    char difference[320] = "";
    *out = NULL;
    pc_status st = PC_OK;
    json_t *o = carried ? json_deep_copy(carried) : NULL;
    if (o && !(st = says(difference, sizeof difference, family, o, c)) && !difference[0]) goto done;
    // Trained on to another shape, or new: what is made goes over what was carried.
    json_t *made = made_for(c, tok);
    if (o && !st && made &&
        !strcmp(json_string_value(json_object_get(o, "model_type")),
                json_string_value(json_object_get(made, "model_type")))) {
        json_object_del(o, "rope_parameters");
        json_object_del(json_object_get(o, "text_config"), "rope_parameters");
        update(o, made);
        json_decref(made);
    } else if (!o) {
        o = made;
    } else {
        json_decref(made);
    }
    if (!o) return pc_fail(PC_ERR_MEMORY, "config.json");
    if (!st) st = says(difference, sizeof difference, family, o, c);
    if (!st && difference[0])
        st = pc_fail(PC_ERR_INPUT,
                     "no config.json of family %s can say this model: %s. Such a model stays in "
                     "percept's own format",
                     (*family)->name, difference);
done:
    if (st) {
        json_decref(o);
        return st;
    }
    put_dtype(o, dtype);
    *out = o;
    return PC_OK;
}

/* ---- the others ---- */

static json_t *three(const double v[3])
{
    return json_pack("[f,f,f]", v[0], v[1], v[2]);
}

/* DeepSeek's classes pad with the mean only where it is stated; grey otherwise, beside the class's own mean. */
static void put_mean(json_t *o, const char *mean_key, const char *std_key, const double mean[3],
                     const double std[3], const uint8_t fill[3])
{
    bool grey = true, own = true;
    for (int i = 0; i < 3; i++) {
        grey = grey && fill[i] == 127;
        own = own && fill[i] == (uint8_t)floor(255.0 * mean[i]);
    }
    if (grey && !own) return;
    json_object_set_new(o, mean_key, three(mean));
    json_object_set_new(o, std_key, three(std));
}

/* Patches of any grid, and squares whose longer side is fitted: their classes' own keys. */
static json_t *other_processor(const pc_image_config *c)
{
    const bool patches = c->kind == PC_IMAGE_PATCHES, hybrid = c->kind == PC_IMAGE_HYBRID;
    json_t *o = json_pack("{s:s, s:b, s:b, s:b, s:b, s:f, s:i}", "image_processor_type",
                          patches  ? "Qwen2VLImageProcessor"
                          : hybrid ? "DeepseekVLHybridImageProcessor"
                                   : "DeepseekVLImageProcessor",
                          "do_convert_rgb", 1, "do_resize", 1, "do_rescale", 1, "do_normalize", 1,
                          "rescale_factor", 1.0 / 255.0, "resample",
                          c->filter == PC_FILTER_BICUBIC ? 3 : 2);
    const struct {
        const char *key;
        int64_t v;
    } counts[] = {{"patch_size", c->patch},
                  {"temporal_patch_size", c->temporal},
                  {"merge_size", c->merge},
                  {"min_pixels", c->min_pixels},
                  {"max_pixels", c->max_pixels}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts && patches; i++)
        json_object_set_new(o, counts[i].key, json_integer(counts[i].v));
    if (patches) {
        json_object_set_new(o, "image_mean", three(c->mean));
        json_object_set_new(o, "image_std", three(c->std));
        json_object_set_new(o, "size",
                            json_pack("{s:I, s:I}", "shortest_edge", (json_int_t)c->min_pixels,
                                      "longest_edge", (json_int_t)c->max_pixels));
        return o;
    }
    json_object_set_new(o, "size",
                        json_pack("{s:I, s:I}", "height", (json_int_t)c->size, "width",
                                  (json_int_t)c->size));
    put_mean(o, "image_mean", "image_std", c->mean, c->std, c->fill);
    json_object_set_new(o, "min_size", json_integer(c->min_size));
    json_object_set_new(o, "do_pad", json_true());
    if (hybrid) {
        const json_int_t S = c->high.size;
        json_object_set_new(o, "high_res_size", json_pack("{s:I, s:I}", "height", S, "width", S));
        json_object_set_new(o, "high_res_resample",
                            json_integer(c->high.filter == PC_FILTER_BICUBIC ? 3 : 2));
        put_mean(o, "high_res_image_mean", "high_res_image_std", c->high.mean, c->high.std,
                 c->high.fill);
    }
    return o;
}

/* The same settings, but for those that no processor's file has. */
static bool same_settings(const pc_image_config *a, pc_image_config b)
{
    b.orient = a->orient;
    b.drop_alpha = a->drop_alpha;
    json_t *x = pc_image_config_to_json(a), *y = pc_image_config_to_json(&b);
    const bool same = x && y && json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return same;
}

static pc_status other_preprocessor(json_t **out, const pc_image_config *c)
{
    pc_image_config back;
    json_t *o = other_processor(c);
    if (!o) return pc_fail(PC_ERR_MEMORY, "preprocessor_config.json");
    const pc_status st = pc_image_config_from_hf(&back, o);
    if (!st && same_settings(c, back))
        *out = o;
    else
        json_decref(o);
    return st == PC_ERR_MEMORY ? st : PC_OK;
}

pc_status pc_hf_preprocessor_json(json_t **out, const pc_image_config *c)
{
    pc_image_config back;
    *out = NULL;
    if (c->kind == PC_IMAGE_PATCHES || c->kind == PC_IMAGE_HYBRID || c->fit == PC_FIT_LONGEST)
        return other_preprocessor(out, c);
    const bool tiles = c->kind == PC_IMAGE_TILES;
    const bool squash = !tiles && c->fit == PC_FIT_SQUASH;
    const char *type =
        tiles    ? c->several_whole ? "LlavaOnevisionImageProcessor" : "LlavaNextImageProcessor"
        : squash ? "SiglipImageProcessor"
        : c->fit == PC_FIT_PAD ? "LlavaImageProcessor"
                               : "CLIPImageProcessor";
    json_t *o =
        json_pack("{s:s, s:b, s:b, s:b, s:b, s:f, s:i, s:o, s:o}", "image_processor_type", type,
                  "do_convert_rgb", 1, "do_resize", 1, "do_rescale", 1, "do_normalize", 1,
                  "rescale_factor", 1.0 / 255.0, "resample", c->filter == PC_FILTER_BICUBIC ? 3 : 2,
                  "image_mean", three(c->mean), "image_std", three(c->std));
    if (!o) return pc_fail(PC_ERR_MEMORY, "preprocessor_config.json");
    const json_int_t S = c->size;
    if (tiles) json_object_set_new(o, "image_grid_pinpoints", pinpoints_json(&c->pinpoints));
    if (squash || (tiles && c->several_whole)) {
        json_object_set_new(o, "size", json_pack("{s:I, s:I}", "height", S, "width", S));
    } else {
        json_object_set_new(o, "do_center_crop", json_true());
        json_object_set_new(o, "do_pad", json_boolean(c->fit == PC_FIT_PAD));
        json_object_set_new(o, "size", json_pack("{s:I}", "shortest_edge", S));
        json_object_set_new(o, "crop_size", json_pack("{s:I, s:I}", "height", S, "width", S));
    }
    // Read back: other settings (a fill of its own, longest side first) have no processor.
    const pc_status st = pc_image_config_from_hf(&back, o);
    const bool fit = tiles ? back.several_whole == c->several_whole &&
                                 !memcmp(&back.pinpoints, &c->pinpoints, sizeof c->pinpoints)
                           : back.fit == c->fit;
    bool same = !st && back.kind == c->kind && fit && back.size == c->size &&
                back.filter == c->filter && back.has_fill == c->has_fill;
    for (int i = 0; i < 3 && same; i++)
        same = back.mean[i] == c->mean[i] && back.std[i] == c->std[i];
    if (same)
        *out = o;
    else
        json_decref(o);
    return st == PC_ERR_MEMORY ? st : PC_OK;
}

json_t *pc_hf_generation_json(const pc_tokenizer *tok)
{
    json_t *o = json_pack("{s:b}", "do_sample", 0);
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"bos_token_id", pc_tokenizer_bos(tok)},
               {"eos_token_id", pc_tokenizer_eos(tok)},
               {"pad_token_id", pc_tokenizer_pad(tok)}};
    for (int i = 0; i < 3; i++)
        if (ids[i].id >= 0) json_object_set_new(o, ids[i].key, json_integer(ids[i].id));
    return o;
}

static void put_token(json_t *o, const char *key, const pc_tokenizer *tok, int32_t id)
{
    char *text = NULL;
    if (id < 0 || pc_tokenizer_decode(tok, &text, &id, 1, false)) return;
    json_object_set_new(o, key, json_string(text));
    free(text);
}

json_t *pc_hf_tokenizer_config_json(const pc_tokenizer *tok, int64_t max_length)
{
    json_t *o =
        json_pack("{s:s, s:I, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                  "model_max_length", (json_int_t)max_length, "clean_up_tokenization_spaces", 0);
    put_token(o, "bos_token", tok, pc_tokenizer_bos(tok));
    put_token(o, "eos_token", tok, pc_tokenizer_eos(tok));
    put_token(o, "pad_token", tok, pc_tokenizer_pad(tok));
    return o;
}

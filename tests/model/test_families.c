/*
 * test_families.c - config.json of published models into our description: absent keys take the defaults of their
 * class, old and new spellings mean the same, and what is not supported is refused by name. (That names and shapes of
 * tensors are right is the parity tests' business: they load such files.)
 */
#include "model/families/families.h"
#include "tests/support/check.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static pc_status parse(const pc_family **family, pc_model_config *c, const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);
    if (!json) {
        printf("%s\n", error.text);
        abort();
    }
    const pc_status st = pc_family_from_config(family, c, json);
    json_decref(json);
    return st;
}

// The aliases cover every number of the model exactly once.
static bool covers(const pc_family *f, const pc_model_config *c, int variant)
{
    pc_aliases a = {0};
    pc_model m;
    int64_t total = 0;
    bool good = !f->aliases(&a, c, variant) && !pc_model_open(&m, c, PC_F32, false);

    for (int i = 0; good && i < a.count; i++) {
        good = pc_params_find(&m.params, a.list[i].ours) != NULL;
        if (!good) printf("  no parameter %s\n", a.list[i].ours);
        total += a.list[i].count;
    }
    good = good && total == pc_params_numel(&m.params, false);
    if (!good)
        printf("  %s: %lld of %lld numbers\n", f->name, (long long)total,
               (long long)pc_params_numel(&m.params, false));
    pc_aliases_close(&a);
    pc_model_close(&m);
    return good;
}

static bool refuses(const char *text, const char *why)
{
    const pc_family *f;
    pc_model_config c;
    if (!parse(&f, &c, text)) {
        printf("  taken: %s\n", text);
        return false;
    }
    if (strstr(pc_error_text(), why)) return true;
    printf("  lacks \"%s\": %s\n", why, pc_error_text());
    return false;
}

// Nothing but the type is CLIP ViT-B/32.
static void clip(void)
{
    const pc_family *f;
    pc_model_config c;

    CHECK(!parse(&f, &c, "{\"model_type\": \"clip\"}"));
    const pc_vision_config *v = &c.clip.vision;
    const pc_text_config *t = &c.clip.text;
    CHECK(v->C == 768 && v->F == 3072 && v->L == 12 && v->H == 12 && v->image_size == 224 &&
          v->patch == 32 && v->E == 512 && v->act == PC_ACT_QUICK && v->class_token && v->pre_norm);
    CHECK(t->C == 512 && t->F == 2048 && t->L == 12 && t->H == 8 && t->T == 77 && t->V == 49408 &&
          t->pool == PC_POOL_EOT && t->eot_id == 49407 && t->causal);
    CHECK(covers(f, &c, 0));
    // Very old files: the key says 2, and the _dict sections win.
    CHECK(!parse(
        &f, &c,
        "{\"model_type\": \"clip\", \"text_config\": {\"eos_token_id\": 7, \"hidden_size\": 64}, "
        "\"text_config_dict\": {\"eos_token_id\": 2, \"hidden_size\": 128}}"));
    CHECK(t->pool == PC_POOL_LARGEST && t->C == 128);
    CHECK(refuses("{\"model_type\": \"clip\", \"vision_config\": {\"hidden_act\": \"mish\"}}",
                  "mish"));
    CHECK(refuses("{\"model_type\": \"clip\", \"vision_config\": {\"hidden_size\": \"big\"}}",
                  "hidden_size"));
    CHECK(refuses("{\"model_type\": \"clip\", \"text_config\": {\"num_hidden_layers\": -1}}",
                  "num_hidden_layers"));
    CHECK(refuses("{\"model_type\": \"clip\", \"text_config\": 3}", "text_config"));
}

static void siglip(void)
{
    const pc_family *f;
    pc_model_config c;

    CHECK(!parse(&f, &c, "{\"model_type\": \"siglip\"}"));
    const pc_vision_config *v = &c.clip.vision;
    const pc_text_config *t = &c.clip.text;
    CHECK(v->C == 768 && v->patch == 16 && v->head == PC_HEAD_MAP && v->eps == 1e-6 &&
          v->act == PC_ACT_GELU_TANH && !v->class_token && v->patch_bias);
    CHECK(t->T == 64 && t->V == 32000 && t->pool == PC_POOL_LAST && t->pad_id == 1 &&
          t->pad_to_context && !t->causal && t->proj_bias);
    CHECK(c.clip.loss == PC_CONTRAST_SIGMOID && covers(f, &c, 0));
    CHECK(refuses("{\"model_type\": \"siglip\", \"vision_config\": {\"vision_use_head\": false}}",
                  "vision_use_head"));
}

// As published: the text config of LLaVA-1.5-7B says little and means Llama-7B.
static const char llava_7b[] =
    "{\"model_type\": \"llava\", \"image_token_index\": 32000, \"projector_hidden_act\": \"gelu\", "
    "\"vision_feature_layer\": -2, \"vision_feature_select_strategy\": \"default\", "
    "\"text_config\": "
    "{\"model_type\": \"llama\", \"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-05, "
    "\"vocab_size\": "
    "32064, \"torch_dtype\": \"float16\"}, \"vision_config\": {\"model_type\": "
    "\"clip_vision_model\", "
    "\"hidden_size\": 1024, \"image_size\": 336, \"intermediate_size\": 4096, "
    "\"num_attention_heads\": 16, "
    "\"num_hidden_layers\": 24, \"patch_size\": 14, \"projection_dim\": 768, \"vocab_size\": "
    "32000}}";

static void llava(void)
{
    const pc_family *f;
    pc_model_config c;

    CHECK(!parse(&f, &c, llava_7b) && !strcmp(f->name, "llava"));
    const pc_decoder_config *d = &c.vlm.decoder;
    CHECK(d->C == 4096 && d->F == 11008 && d->L == 32 && d->H == 32 && d->G == 32 && d->D == 128 &&
          d->V == 32064 && d->T == 4096 && d->eps == 1e-5 && d->rope.theta == 1e4 && !d->tied);
    CHECK(c.vlm.vision.L == 24 && c.vlm.vision.act == PC_ACT_QUICK && pc_vlm_stop(&c.vlm) == 23);
    CHECK(pc_vlm_rows_per_image(&c.vlm) == 576 && c.vlm.image_id == 32000);
    for (int v = 0; v < f->variants; v++) CHECK(covers(f, &c, v));

    // 22 is -3 of 25 states; a list of one is that one; `full` keeps the class token.
    CHECK(!parse(&f, &c,
                 "{\"model_type\": \"llava\", \"vision_feature_layer\": [9], "
                 "\"vision_feature_select_strategy\": \"full\", \"text_config\": {\"model_type\": "
                 "\"llama\"}}"));
    CHECK(pc_vlm_stop(&c.vlm) == 9 && c.vlm.keep_class && pc_vlm_rows_per_image(&c.vlm) == 577);
    CHECK(!parse(&f, &c, "{\"model_type\": \"llava\", \"vision_feature_layer\": [-2, 3]}"));
    CHECK(c.vlm.feature_layer == -2 && c.vlm.also[0] == -22 && c.vlm.projector.in == 2048 &&
          pc_vlm_stop(&c.vlm) == 23);
    for (int v = 0; v < f->variants; v++) CHECK(covers(f, &c, v));
    CHECK(
        refuses("{\"model_type\": \"llava\", \"vision_feature_layer\": [-2, 23]}", "read already"));
    CHECK(refuses("{\"model_type\": \"llava\", \"vision_feature_layer\": [1, 2, 3, 4, 5]}",
                  "vision_feature_layer"));
    CHECK(refuses("{\"model_type\": \"llava\", \"vision_feature_layer\": [-2, \"x\"]}",
                  "vision_feature_layer"));
    CHECK(refuses("{\"model_type\": \"llava\", \"vision_feature_layer\": -40}",
                  "vision_feature_layer"));
    CHECK(refuses("{\"model_type\": \"llava\", \"text_config\": {\"model_type\": \"gemma\"}}",
                  "gemma"));
    CHECK(refuses(
        "{\"model_type\": \"llava\", \"vision_config\": {\"model_type\": \"siglip_vision_model\"}}",
        "vision_feature_select_strategy"));
    CHECK(refuses("{\"model_type\": \"llava\", \"vision_config\": {\"model_type\": "
                  "\"pixtral_vision_model\"}}",
                  "pixtral_vision_model"));
    CHECK(!parse(&f, &c,
                 "{\"model_type\": \"llava\", \"vision_feature_select_strategy\": \"full\", "
                 "\"vision_config\": {\"model_type\": \"siglip_vision_model\"}}"));
    CHECK(!c.vlm.keep_class && c.vlm.vision.head == PC_HEAD_MAP && covers(f, &c, 0));
}

static void open_clip(void)
{
    const pc_family *f;
    pc_model_config c;

    CHECK(!parse(
        &f, &c,
        "{\"model_type\": \"open_clip\", \"model_cfg\": {\"embed_dim\": 512, \"vision_cfg\": "
        "{\"patch_size\": 32}, \"text_cfg\": {}}}"));
    CHECK(c.clip.vision.H == 12 && c.clip.vision.act == PC_ACT_GELU && c.clip.vision.F == 3072 &&
          c.clip.text.pool == PC_POOL_LARGEST && c.clip.loss == PC_CONTRAST_SOFTMAX);
    for (int v = 0; v < f->variants; v++) CHECK(covers(f, &c, v));
    CHECK(!parse(&f, &c,
                 "{\"model_type\": \"open_clip\", \"model_cfg\": {\"quick_gelu\": true, "
                 "\"init_logit_bias\": -10, \"vision_cfg\": {}, \"text_cfg\": {}}}"));
    CHECK(c.clip.vision.act == PC_ACT_QUICK && c.clip.loss == PC_CONTRAST_SIGMOID &&
          covers(f, &c, 0));
    CHECK(refuses("{\"model_type\": \"open_clip\", \"model_cfg\": {\"vision_cfg\": "
                  "{\"timm_model_name\": \"vit_base\"}, \"text_cfg\": {}}}",
                  "vit_base"));
    CHECK(
        refuses("{\"model_type\": \"open_clip\", \"model_cfg\": {\"vision_cfg\": {}, \"text_cfg\": "
                "{\"hf_model_name\": \"roberta\"}}}",
                "roberta"));
    CHECK(refuses("{\"model_type\": \"open_clip\", \"model_cfg\": {\"vision_cfg\": {\"layers\": "
                  "[3, 4, 6, 3]}, \"text_cfg\": {}}}",
                  "ResNet"));
    CHECK(refuses("{\"model_type\": \"open_clip\"}", "model_cfg"));
}

// Tiles: the lists of the classes, and what their features become.
static void tiles(void)
{
    const pc_family *f;
    pc_model_config c;
    pc_image_geometry g = {.height = 480, .width = 640};

    CHECK(!parse(&f, &c, "{\"model_type\": \"llava_next\"}") && c.vlm.visual == PC_VISUAL_TILES);
    CHECK(c.vlm.pinpoints.count == 5 && c.vlm.max_tiles == 0 && c.vlm.vision.C == 1024);
    CHECK(!pc_vlm_measure(&g, &c.vlm) && g.crops == 5 && g.rows == 2340);
    CHECK(pc_vlm_rows_per_image(&c.vlm) >= 2928);
    for (int v = 0; v < f->variants; v++) CHECK(covers(f, &c, v));

    CHECK(!parse(&f, &c, "{\"model_type\": \"llava_onevision\"}"));
    const pc_vlm_config *v = &c.vlm;
    CHECK(v->visual == PC_VISUAL_TILES && v->pinpoints.count == 36 && v->max_tiles == 9);
    CHECK(v->vision.C == 1152 && v->vision.L == 26 && pc_vlm_stop(v) == 26 && v->decoder.qkv_bias);
    CHECK(v->pinpoints.hw[7][0] == 768 && v->pinpoints.hw[7][1] == 768 && covers(f, &c, 0));
    g = (pc_image_geometry){.crops = 1};
    CHECK(!pc_vlm_measure(&g, v) && g.rows == 27 * 27 + 1);
    g = (pc_image_geometry){.height = 0, .width = 3};
    CHECK(pc_vlm_measure(&g, v) == PC_ERR_INPUT);
    CHECK(
        refuses("{\"model_type\": \"llava_onevision\", \"vision_aspect_ratio\": \"pad\"}", "pad"));
    CHECK(refuses("{\"model_type\": \"llava_next\", \"image_grid_pinpoints\": [[336]]}",
                  "image_grid_pinpoints"));
    CHECK(refuses("{\"model_type\": \"llava_next\", \"image_grid_pinpoints\": [[336, 335]]}",
                  "336 x 335"));

    // As the original code has them: (width, height).
    CHECK(!parse(
        &f, &c,
        "{\"model_type\": \"llava_mistral\", \"image_aspect_ratio\": \"anyres\", "
        "\"mm_patch_merge_type\": \"spatial_unpad\", \"image_grid_pinpoints\": [[336, 672]], "
        "\"mm_vision_tower\": \"openai/clip-vit-large-patch14-336\", "
        "\"mm_projector_type\": \"mlp2x_gelu\"}"));
    CHECK(v->pinpoints.hw[0][0] == 672 && v->decoder.F == 14336 && covers(f, &c, 0));
}

// The original code's flat config names its tower.
static void original(void)
{
    const pc_family *f;
    pc_model_config c;

    CHECK(!parse(
        &f, &c,
        "{\"model_type\": \"llava\", \"mm_vision_tower\": \"openai/clip-vit-large-patch14-336\", "
        "\"mm_vision_select_layer\": -2, \"mm_vision_select_feature\": \"patch\", "
        "\"mm_projector_type\": \"mlp2x_gelu\", \"mm_hidden_size\": 1024, \"hidden_size\": 5120, "
        "\"intermediate_size\": 13824, \"num_hidden_layers\": 40, \"num_attention_heads\": 40, "
        "\"num_key_value_heads\": 40, \"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-05, "
        "\"vocab_size\": 32000}"));
    CHECK(!strcmp(f->name, "llava (original)") && c.vlm.projector.depth == 2 &&
          c.vlm.decoder.C == 5120 && c.vlm.vision.C == 1024 && c.vlm.image_id == 32000);
    CHECK(covers(f, &c, 0));
    CHECK(refuses("{\"model_type\": \"llava_llama\", \"mm_vision_tower\": \"google/siglip\"}",
                  "google/siglip"));
    CHECK(
        refuses("{\"model_type\": \"llava_llama\", \"mm_vision_tower\": \"clip-vit-base-patch32\", "
                "\"mm_projector_type\": \"resampler\"}",
                "resampler"));
}

// Absent keys mean SigLIP's and SAM's classes; the hybrid's first global block is the list's first.
static void deepseek(void)
{
    const pc_family *f;
    pc_model_config c;
    const pc_vlm_config *v = &c.vlm;
    const pc_sam_config *s = &c.vlm.high;

    CHECK(!parse(&f, &c, "{\"model_type\": \"deepseek_vl\"}") && v->visual == PC_VISUAL_SQUARE);
    CHECK(v->feature_norm && v->feature_layer == -1 && v->image_id == 100015);
    CHECK(v->vision.C == 768 && v->vision.head == PC_HEAD_MAP && v->projector.depth == 2);
    for (int i = 0; i < f->variants; i++) CHECK(covers(f, &c, i));

    CHECK(!parse(&f, &c,
                 "{\"model_type\": \"deepseek_vl_hybrid\", \"tie_word_embeddings\": true, "
                 "\"high_res_vision_config\": {\"global_attn_indexes\": [7, 3], \"mlp_dim\": null, "
                 "\"mlp_ratio\": 2.5, \"qkv_bias\": false}}"));
    CHECK(v->visual == PC_VISUAL_HYBRID && v->decoder.tied && !s->qkv_bias && s->F == 1920);
    CHECK(s->globals == (1 << 7 | 1 << 3) && s->middle == 7 && s->image_size == 1024 &&
          s->window == 14 && s->neck == 256 && pc_sam_side(s) == 64);
    for (int i = 0; i < f->variants; i++) CHECK(covers(f, &c, i));
    CHECK(refuses("{\"model_type\": \"deepseek_vl_hybrid\", \"high_res_vision_config\": "
                  "{\"global_attn_indexes\": [2, 12]}}",
                  "global_attn_indexes"));
    CHECK(refuses("{\"model_type\": \"deepseek_vl_hybrid\", \"high_res_vision_config\": "
                  "{\"global_attn_indexes\": []}}",
                  "global_attn_indexes"));
    CHECK(refuses("{\"model_type\": \"deepseek_vl_hybrid\", \"high_res_vision_config\": "
                  "{\"image_size\": 1000}}",
                  "image_size"));
    CHECK(refuses("{\"model_type\": \"deepseek_vl_hybrid\", \"high_res_vision_config\": "
                  "{\"window_size\": 16000}}",
                  "high.window"));
    CHECK(refuses("{\"model_type\": \"deepseek_vl_hybrid\", \"text_config\": {\"hidden_size\": 65, "
                  "\"num_attention_heads\": 5, \"head_dim\": 12}}",
                  "two halves"));
    CHECK(refuses("{\"model_type\": \"deepseek_vl\", \"vision_config\": {\"model_type\": "
                  "\"clip_vision_model\"}}",
                  "siglip_vision_model"));
}

#define DEEPSEEK_7B(tower, layer, depth, projector)                                                \
    "{\"model_type\": \"multi_modality\", \"vision_config\": {\"cls\": \"HybridVisionTower\", "    \
    "\"params\": {\"concat_type\": \"tuple\", \"high_res_cfg\": {\"image_size\": 1024, "           \
    "\"model_name\": \"" tower "\", \"select_feature\": \"same\", \"select_layer\": -1}, "         \
    "\"low_res_cfg\": {\"image_size\": 384, \"model_name\": \"siglip_large_patch16_384\", "        \
    "\"select_feature\": \"same\", \"select_layer\": " layer "}}}, \"aligner_config\": "           \
    "{\"cls\": \"MlpProjector\", \"params\": {\"depth\": " depth ", \"input_dim\": 1024, "         \
    "\"n_embed\": 4096, \"projector_type\": \"" projector "\"}}, \"language_config\": "            \
    "{\"max_position_embeddings\": 16384, \"model_type\": \"llama\", \"num_hidden_layers\": 30, "  \
    "\"vocab_size\": 102400}}"

// As released: towers by name, and of the language model what differs from Llama's class.
static void deepseek_original(void)
{
    const pc_family *f;
    pc_model_config c;
    const pc_vlm_config *v = &c.vlm;
    const char *split = "low_high_hybrid_split_mlp_gelu";

    CHECK(!parse(&f, &c,
                 DEEPSEEK_7B("sam_b_downsample", "-1", "2", "low_high_hybrid_split_mlp_gelu")));
    CHECK(v->decoder.C == 4096 && v->decoder.F == 11008 && v->decoder.L == 30 &&
          v->decoder.V == 102400 && v->decoder.T == 16384 && !v->decoder.tied);
    CHECK(v->vision.C == 1024 && v->vision.L == 24 && v->vision.act == PC_ACT_GELU &&
          pc_vlm_rows_per_image(v) == 576 && v->feature_norm);
    CHECK(v->high.C == 768 && v->high.globals == 2340 && v->high.middle == 2 &&
          pc_hybrid_width(&v->high) == 1024);
    CHECK(covers(f, &c, 0));
    CHECK(!parse(&f, &c,
                 DEEPSEEK_7B("sam_b_downsample", "-2", "3", "low_high_hybrid_split_mlp_gelu")));
    CHECK(v->vision.L == 23 && v->projector.depth == 3 && covers(f, &c, 0));
    CHECK(refuses(DEEPSEEK_7B("sam_h", "-1", "2", "low_high_hybrid_split_mlp_gelu"), "sam_h"));
    CHECK(refuses(DEEPSEEK_7B("sam_b_downsample", "-1", "2", "mlp_gelu"), split));
    CHECK(refuses(DEEPSEEK_7B("sam_b_downsample", "-25", "2", "low_high_hybrid_split_mlp_gelu"),
                  "select_layer"));
    CHECK(refuses(DEEPSEEK_7B("sam_b_downsample", "-1", "9", "low_high_hybrid_split_mlp_gelu"),
                  "depth"));

    // 1.3B: one tower.
    CHECK(
        !parse(&f, &c,
               "{\"model_type\": \"multi_modality\", \"vision_config\": {\"cls\": "
               "\"CLIPVisionTower\", \"params\": {\"image_size\": 384, \"model_name\": "
               "\"siglip_large_patch16_384\"}}, \"aligner_config\": {\"params\": {\"depth\": 2, "
               "\"n_embed\": 2048, \"projector_type\": \"mlp_gelu\"}}, \"language_config\": "
               "{\"hidden_size\": 2048, \"intermediate_size\": 5632, \"num_attention_heads\": 16, "
               "\"num_hidden_layers\": 24, \"vocab_size\": 102400}}"));
    CHECK(v->visual == PC_VISUAL_SQUARE && v->decoder.D == 128 && covers(f, &c, 0));
    CHECK(refuses("{\"model_type\": \"multi_modality\"}", "vision_config"));
}

static void decoders(void)
{
    const pc_family *f;
    pc_model_config a, b;
    const pc_decoder_config *d = &a.vlm.decoder, *e = &b.vlm.decoder;

    // Newer and older spelling of the same rotary scaling.
    CHECK(!parse(&f, &a,
                 "{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_type\": \"llama3\", "
                 "\"rope_theta\": "
                 "500000.0, \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                 "\"original_max_position_embeddings\": 8192}}"));
    CHECK(
        !parse(&f, &b,
               "{\"model_type\": \"llama\", \"rope_theta\": 500000.0, \"rope_scaling\": {\"type\": "
               "\"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
               "\"original_max_position_embeddings\": 8192}}"));
    CHECK(d->rope.scaling == PC_ROPE_LLAMA3 && d->rope.theta == 5e5 && d->rope.factor == 8.0);
    CHECK(e->rope.scaling == d->rope.scaling && e->rope.theta == d->rope.theta &&
          e->rope.factor == d->rope.factor && e->rope.original_max == d->rope.original_max);

    CHECK(!parse(&f, &a, "{\"model_type\": \"mistral\"}"));
    CHECK(d->F == 14336 && d->G == 8 && d->T == 131072 && d->window == 4096 && d->eps == 1e-6);
    CHECK(!parse(&f, &a, "{\"model_type\": \"mistral\", \"sliding_window\": null}") &&
          d->window == 0);
    CHECK(!parse(&f, &a, "{\"model_type\": \"llama\", \"num_key_value_heads\": null}") &&
          d->G == 32);
    CHECK(!parse(
        &f, &a,
        "{\"model_type\": \"qwen2\", \"hidden_size\": 896, \"num_attention_heads\": 14, "
        "\"num_key_value_heads\": 2, \"intermediate_size\": 4864, \"num_hidden_layers\": 24, "
        "\"tie_word_embeddings\": true, \"sliding_window\": 32768, \"use_sliding_window\": "
        "false}"));
    CHECK(d->qkv_bias && d->tied && d->window == 0 && d->D == 64 && covers(f, &a, 0));
    CHECK(!parse(&f, &a, "{\"model_type\": \"llama\", \"head_dim\": 96}") && d->D == 96 &&
          covers(f, &a, 0));
    // YaRN: the length of training is the model's own unless it stands there, and sequences may be longer.
    CHECK(!parse(&f, &a,
                 "{\"model_type\": \"qwen2\", \"max_position_embeddings\": 1000, "
                 "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}}"));
    CHECK(d->rope.scaling == PC_ROPE_YARN && d->rope.original_max == 1000.0 && d->T == 4000 &&
          d->rope.beta_fast == 32.0 && d->rope.beta_slow == 1.0 && d->rope.attn_factor == 0.0 &&
          !d->rope.ramp_exact);
    CHECK(!parse(
        &f, &a,
        "{\"model_type\": \"llama\", \"max_position_embeddings\": 8000, "
        "\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 100.0, \"factor\": null, "
        "\"original_max_position_embeddings\": 500, \"beta_fast\": 16, \"mscale\": 2.0, "
        "\"mscale_all_dim\": 0.5, \"truncate\": false}}"));
    CHECK(d->rope.factor == 16.0 && d->T == 8000 && d->rope.beta_fast == 16.0 &&
          d->rope.ramp_exact &&
          fabs(d->rope.attn_factor - (0.2 * log(16.0) + 1.0) / (0.05 * log(16.0) + 1.0)) < 1e-15);
    CHECK(!parse(&f, &a,
                 "{\"model_type\": \"llama\", \"max_position_embeddings\": 2048, "
                 "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}}"));
    CHECK(d->rope.scaling == PC_ROPE_DYNAMIC && d->rope.original_max == 2048.0 && d->T == 4096);
    CHECK(refuses("{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"longrope\", "
                  "\"factor\": 4}}",
                  "longrope"));
    CHECK(refuses("{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\", "
                  "\"factor\": 1e30}}",
                  "rotary scaling"));
    CHECK(refuses("{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\", "
                  "\"factor\": 4, \"beta_fast\": 0.5}}",
                  "beta_fast"));
    CHECK(refuses("{\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\", "
                  "\"factor\": 4, \"original_max_position_embeddings\": 0}}",
                  "original_max_position_embeddings"));
    // A window from some block on, from none on, in all blocks.
    CHECK(
        refuses("{\"model_type\": \"qwen2\", \"sliding_window\": 8, \"use_sliding_window\": true, "
                "\"max_position_embeddings\": 64, \"max_window_layers\": 3}",
                "29 of 32 blocks"));
    CHECK(!parse(&f, &a,
                 "{\"model_type\": \"qwen2\", \"sliding_window\": 8, \"use_sliding_window\": true, "
                 "\"num_hidden_layers\": 28}") &&
          d->window == 0);
    CHECK(!parse(&f, &a,
                 "{\"model_type\": \"qwen2\", \"sliding_window\": 8, \"use_sliding_window\": true, "
                 "\"num_hidden_layers\": 2, \"layer_types\": [\"sliding_attention\", "
                 "\"sliding_attention\"]}") &&
          d->window == 8);
    CHECK(refuses("{\"model_type\": \"llama\", \"attention_bias\": true}", "attention_bias"));
    CHECK(refuses("{\"model_type\": \"llama\", \"hidden_act\": \"gelu\"}", "hidden_act"));
    CHECK(refuses("{\"model_type\": \"lama\"}", "did you mean \"llama\""));
    CHECK(refuses("{\"architectures\": []}", "model_type"));
    CHECK(refuses("[]", "object"));
}

int main(void)
{
    clip();
    siglip();
    open_clip();
    llava();
    tiles();
    original();
    deepseek();
    deepseek_original();
    decoders();
    return check_report("families");
}

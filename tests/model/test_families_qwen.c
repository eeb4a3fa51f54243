/*
 * test_families_qwen.c - config.json of Qwen2-VL and of the first Qwen-VL into our description: the published files,
 * both generations of keys, and refusals by name. (Names and shapes of tensors: the parity tests load such files.)
 */
#include "model/families/families.h"
#include "tests/support/check.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static pc_status parse(const pc_family **family, pc_model_config *c, const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    if (!json) abort();
    const pc_status st = pc_family_from_config(family, c, json);
    json_decref(json);
    return st;
}

// The aliases cover every number of the model, and each once.
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

static bool same(const pc_model_config *a, const pc_model_config *b)
{
    json_t *x = pc_model_config_to_json(a), *y = pc_model_config_to_json(b);
    const bool equal = x && y && json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return equal;
}

// Every key of the description survives being written and read again.
static bool survives(const pc_model_config *c)
{
    pc_model_config again;
    json_t *json = pc_model_config_to_json(c);
    const bool read = !pc_model_config_from_json(&again, json);
    if (!read) printf("  %s\n", pc_error_text());
    json_decref(json);
    return read && same(c, &again);
}

// As published: the text's keys at the top level.
static const char flat_2b[] =
    "{\"model_type\": \"qwen2_vl\", \"hidden_size\": 1536, \"intermediate_size\": 8960, "
    "\"max_position_embeddings\": 32768, \"max_window_layers\": 28, \"num_attention_heads\": 12, "
    "\"num_hidden_layers\": 28, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-06, "
    "\"rope_theta\": 1000000.0, \"sliding_window\": 32768, \"tie_word_embeddings\": true, "
    "\"use_sliding_window\": false, \"vocab_size\": 151936, \"image_token_id\": 151655, "
    "\"video_token_id\": 151656, \"vision_start_token_id\": 151652, "
    "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [16, 24, 24]}, "
    "\"vision_config\": {\"depth\": 32, \"embed_dim\": 1280, \"mlp_ratio\": 4, \"num_heads\": 16, "
    "\"in_chans\": 3, \"hidden_size\": 1536, \"patch_size\": 14, \"spatial_merge_size\": 2, "
    "\"spatial_patch_size\": 14, \"temporal_patch_size\": 2}}";

static void qwen2_vl(void)
{
    const pc_family *f;
    pc_model_config a, b;
    const pc_decoder_config *d = &a.vlm.decoder;
    const pc_vision_config *v = &a.vlm.vision;

    CHECK(!parse(&f, &a, flat_2b) && covers(f, &a, 0) && covers(f, &a, 1) && survives(&a));
    CHECK(d->C == 1536 && d->F == 8960 && d->L == 28 && d->H == 12 && d->G == 2 && d->D == 128 &&
          d->qkv_bias && d->tied && d->window == 0 && d->rope.theta == 1e6 && d->eps == 1e-6);
    CHECK(d->mrope[0] == 16 && d->mrope[1] == 24 && d->mrope[2] == 24);
    CHECK(v->C == 1280 && v->F == 5120 && v->L == 32 && v->H == 16 && v->patch == 14 &&
          v->frames == 2 && v->theta == 1e4 && v->act == PC_ACT_QUICK && v->eps == 1e-6 &&
          a.vlm.merge == 2 && a.vlm.visual == PC_VISUAL_GRID);
    CHECK(a.vlm.image_id == 151655 && a.vlm.video_id == 151656);

    // The same in sections, with the keys of today.
    CHECK(!parse(&f, &b,
                 "{\"model_type\": \"qwen2_vl\", \"tie_word_embeddings\": true, \"text_config\": "
                 "{\"hidden_size\": 1536, \"intermediate_size\": 8960, \"num_attention_heads\": "
                 "12, \"num_hidden_layers\": 28, \"num_key_value_heads\": 2, \"rms_norm_eps\": "
                 "1e-06, \"vocab_size\": 151936, \"rope_parameters\": {\"rope_type\": "
                 "\"default\", \"rope_theta\": 1000000.0, \"mrope_section\": [16, 24, 24]}}, "
                 "\"vision_config\": {\"hidden_size\": 1536}}"));
    CHECK(same(&a, &b));

#define TEXT                                                                                       \
    "{\"model_type\": \"qwen2_vl\", \"hidden_size\": 64, \"num_attention_heads\": 4, "             \
    "\"num_key_value_heads\": 2, \"vocab_size\": 200, \"image_token_id\": 190, "                   \
    "\"video_token_id\": 191, "
#define SECTION "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3, 3]}, "
    CHECK(!parse(&f, &b, TEXT SECTION "\"vision_config\": {\"hidden_size\": 64}}"));
    CHECK(refuses(TEXT "\"vision_config\": {\"hidden_size\": 64}}", "mrope_section"));
    CHECK(refuses(TEXT "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3]}}",
                  "mrope_section"));
    CHECK(refuses(TEXT "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3, 4]}}",
                  "9 frequencies"));
    CHECK(refuses(TEXT SECTION "\"vision_config\": {\"hidden_size\": 65}}", "hidden_size"));
    CHECK(refuses(TEXT SECTION "\"vision_config\": {\"hidden_size\": 64, \"mlp_ratio\": -1}}",
                  "mlp_ratio"));
    CHECK(refuses(TEXT SECTION "\"vision_config\": {\"hidden_size\": 64, \"num_heads\": 3}}",
                  "heads"));
    CHECK(refuses(TEXT SECTION "\"vision_config\": {\"hidden_size\": 64, \"num_heads\": 640}}",
                  "4 must divide"));
    CHECK(refuses(TEXT SECTION "\"vision_config\": {\"hidden_size\": 64, \"in_chans\": 4}}",
                  "in_chans"));
    CHECK(refuses(TEXT SECTION
                  "\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 0, "
                  "\"vision_config\": {\"hidden_size\": 64}}",
                  "use_sliding_window"));
}

static const char qwen_vl_text[] =
    "{\"model_type\": \"qwen\", \"hidden_size\": 4096, \"intermediate_size\": 22016, "
    "\"kv_channels\": 128, \"layer_norm_epsilon\": 1e-06, \"max_position_embeddings\": 8192, "
    "\"no_bias\": true, \"num_attention_heads\": 32, \"num_hidden_layers\": 32, "
    "\"rotary_emb_base\": 10000, \"rotary_pct\": 1.0, \"seq_length\": 2048, "
    "\"tie_word_embeddings\": false, \"use_dynamic_ntk\": true, \"use_logn_attn\": true, "
    "\"vocab_size\": 151936, \"visual\": {\"heads\": 16, \"image_size\": 448, "
    "\"image_start_id\": 151857, \"layers\": 48, \"mlp_ratio\": 4.9231, \"output_dim\": 4096, "
    "\"patch_size\": 14, \"width\": 1664}}";

static void qwen_vl(void)
{
    const pc_family *f;
    pc_model_config a, b;
    const pc_vlm_config *c = &a.vlm;

    CHECK(!parse(&f, &a, qwen_vl_text) && covers(f, &a, 0) && survives(&a));
    CHECK(c->visual == PC_VISUAL_RESAMPLER && pc_vlm_rows_per_image(c) == 256 &&
          c->projector.heads == 32 && c->image_id == 151859);
    CHECK(c->vision.C == 1664 && c->vision.F == 8192 && c->vision.L == 48 && c->vision.H == 16 &&
          c->vision.image_size == 448 && c->vision.table == 16 && !c->vision.class_token &&
          c->vision.pre_norm && c->vision.act == PC_ACT_GELU && c->vision.eps == 1e-6);
    CHECK(c->decoder.F == 11008 && c->decoder.G == 32 && c->decoder.D == 128 &&
          c->decoder.qkv_bias && c->decoder.T == 2048 && c->decoder.rope.theta == 1e4);

    CHECK(!parse(&f, &b, "{\"model_type\": \"qwen\", \"visual\": {}}"));
    CHECK(same(&a, &b)); // the published file is the class's defaults
    // The text model alone; without the two tricks sequences may be as long as positions go.
    CHECK(!parse(&f, &b, "{\"model_type\": \"qwen\"}") && b.vlm.vision.L == 0 && covers(f, &b, 0));
    CHECK(!parse(&f, &b,
                 "{\"model_type\": \"qwen\", \"use_dynamic_ntk\": false, \"use_logn_attn\": "
                 "false}") &&
          b.vlm.decoder.T == 8192);

    CHECK(refuses("{\"model_type\": \"qwen\", \"intermediate_size\": 7}", "intermediate_size"));
    CHECK(refuses("{\"model_type\": \"qwen\", \"no_bias\": false}", "no_bias"));
    CHECK(refuses("{\"model_type\": \"qwen\", \"rotary_pct\": 0.25}", "rotary_pct"));
    CHECK(refuses("{\"model_type\": \"qwen\", \"visual\": {\"output_dim\": 1024}}", "output_dim"));
    CHECK(refuses("{\"model_type\": \"qwen\", \"visual\": {\"n_queries\": 200}}", "200"));
    CHECK(refuses("{\"model_type\": \"qwen\", \"visual\": {\"image_start_id\": 151935}}",
                  "image_start_id"));
    CHECK(refuses("{\"model_type\": \"qwen\", \"visual\": {\"mlp_ratio\": 1e9}}", "mlp_ratio"));
    CHECK(refuses("{\"model_type\": \"qwen\", \"visual\": 3}", "visual"));
}

int main(void)
{
    qwen2_vl();
    qwen_vl();
    return check_report("families of Qwen");
}

/*
 * qwen_vl.c - the first Qwen-VL and its text model, Qwen-7B, under the names of their own files (spec: qwen-vl.md 1-3).
 *
 * config.json of type "qwen": with a section `visual` it is Qwen-VL, without one a text decoder. Where the names
 * mislead: ln_1, ln_2 and ln_f are RMSNorms; c_attn has a bias although no_bias is true; w2 is the gate and w1 is not;
 * intermediate_size counts both halves; the tower's in_proj holds (q,k,v) head by head.
 *
 * Beyond seq_length the original stretches rotary frequencies and scales queries by logarithms (use_dynamic_ntk,
 * use_logn_attn). Sequences are limited to seq_length where either is set, so that numbers are the model's own.
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

// Side of the tower's table of positions: it comes from pictures of 224 pixels and is always of this size.
enum { TABLE = 16 };

static pc_status decoder_config(pc_decoder_config *d, const json_t *json)
{
    const int64_t most = (int64_t)1 << 24;
    int64_t both, seq;
    double rotary;
    bool ntk, logn, no_bias;
    pc_status st;

    if ((st = pc_json_int(&d->V, json, "vocab_size", 151936, 1, most)) ||
        (st = pc_json_int(&d->C, json, "hidden_size", 4096, 1, most)) ||
        (st = pc_json_int(&d->L, json, "num_hidden_layers", 32, 1, 4096)) ||
        (st = pc_json_int(&d->H, json, "num_attention_heads", 32, 1, 4096)) ||
        (st = pc_json_int(&d->D, json, "kv_channels", 128, 1, most)) ||
        (st = pc_json_int(&both, json, "intermediate_size", 22016, 2, most)) ||
        (st = pc_json_int(&d->T, json, "max_position_embeddings", 8192, 1, most)) ||
        (st = pc_json_int(&seq, json, "seq_length", 2048, 1, most)) ||
        (st = pc_json_real(&d->eps, json, "layer_norm_epsilon", 1e-6)) ||
        (st = pc_json_real(&d->std, json, "initializer_range", 0.02)) ||
        (st = pc_json_real(&d->rope.theta, json, "rotary_emb_base", 10000.0)) ||
        (st = pc_json_real(&rotary, json, "rotary_pct", 1.0)) ||
        (st = pc_json_bool(&d->tied, json, "tie_word_embeddings", false)) ||
        (st = pc_json_bool(&no_bias, json, "no_bias", true)) ||
        (st = pc_json_bool(&ntk, json, "use_dynamic_ntk", true)) ||
        (st = pc_json_bool(&logn, json, "use_logn_attn", true)))
        return st;
    if (both % 2)
        return pc_fail(PC_ERR_FORMAT,
                       "key 'intermediate_size': %lld; it counts gate and up, so it is even",
                       (long long)both);
    if (rotary != 1.0) return pc_fail(PC_ERR_FORMAT, "key 'rotary_pct': %g; expected 1", rotary);
    if (!no_bias)
        return pc_fail(PC_ERR_FORMAT, "key 'no_bias': false; biases of output projections and of "
                                      "the feed-forward part are not supported");
    d->G = d->H;
    d->F = both / 2;
    d->qkv_bias = true;
    if ((ntk || logn) && d->T > seq) d->T = seq;
    return PC_OK;
}

static pc_status visual_config(pc_vlm_config *c, const json_t *json)
{
    pc_vision_config *v = &c->vision;
    const int64_t V = c->decoder.V;
    int64_t width, start;
    double ratio;
    pc_status st;

    if ((st = pc_json_int(&v->image_size, json, "image_size", 448, 1, 1 << 14)) ||
        (st = pc_json_int(&v->patch, json, "patch_size", 14, 1, 1 << 10)) ||
        (st = pc_json_int(&v->C, json, "width", 1664, 1, 1 << 20)) ||
        (st = pc_json_int(&v->L, json, "layers", 48, 1, 4096)) ||
        (st = pc_json_int(&v->H, json, "heads", 16, 1, 4096)) ||
        (st = pc_json_real(&ratio, json, "mlp_ratio", 4.9231)) ||
        (st = pc_json_int(&width, json, "output_dim", 4096, 1, 1 << 24)) ||
        (st = pc_json_int(&c->projector.queries, json, "n_queries", 256, 1, 1 << 16)) ||
        (st = pc_json_int(&start, json, "image_start_id", 151857, 0, V - 3)))
        return st;
    if (!(ratio > 0.0 && ratio <= 1024.0 && ratio * (double)v->C >= 1.0))
        return pc_fail(PC_ERR_FORMAT, "key 'mlp_ratio': %g; expected a number above 0, up to 1024",
                       ratio);
    if (width != c->decoder.C)
        return pc_fail(PC_ERR_FORMAT, "key 'output_dim': %lld; hidden_size is %lld",
                       (long long)width, (long long)c->decoder.C);
    v->F = (int64_t)(ratio * (double)v->C);
    v->table = TABLE;
    v->stem = PC_STEM_PATCH;
    v->pre_norm = true;
    v->act = PC_ACT_GELU;
    v->eps = 1e-6;
    v->head = PC_HEAD_NONE;
    c->image_id = start + 2; // <img>, </img>, <imgpad>
    c->projector.depth = 1;
    c->projector.in = v->C;
    c->projector.out = width;
    c->projector.heads = width / 128 > 1 ? width / 128 : 1;
    return PC_OK;
}

static pc_status qwen_config(pc_model_config *out, const json_t *json)
{
    pc_vlm_config *c = &out->vlm;
    const json_t *visual;
    pc_status st;

    out->kind = PC_MODEL_VLM;
    c->feature_layer = -1;
    c->image_id = -1;
    if ((st = decoder_config(&c->decoder, json)) || (st = pc_json_section(&visual, json, "visual")))
        return st;
    if (visual) {
        c->visual = PC_VISUAL_RESAMPLER;
        if ((st = visual_config(c, visual))) return pc_context(st, "visual");
    }
    return pc_vlm_validate(c);
}

// in_proj gives for each head its q, k and v; ours all heads' q, then k, then v.
static void in_proj_aliases(pc_aliases *out, const pc_vision_config *v, int64_t l)
{
    const int64_t C = v->C, D = v->C / v->H;
    char us[PC_NAME_MAX];

    for (int bias = 0; bias <= 1; bias++) {
        const char *what = bias ? "bias" : "weight";
        const int64_t row = bias ? 1 : C, shape[] = {3 * C, C};
        snprintf(us, sizeof us, "vision.blocks.%lld.attn.qkv.%s", (long long)l, what);
        for (int64_t h = 0; h < v->H; h++)
            for (int64_t j = 0; j < 3; j++)
                pc_alias_add_part(out, us, j * C + h * D, (h * 3 + j) * D * row, D * row, 2 - bias,
                                  shape,
                                  "transformer.visual.transformer.resblocks.%lld.attn.in_proj.%s",
                                  (long long)l, what);
    }
}

static void tower_aliases(pc_aliases *out, const pc_vision_config *v)
{
    const int64_t C = v->C;
    const struct {
        const char *ours, *theirs;
        int64_t O, I; // I 0: a norm
    } block[] = {{"norm1", "ln_1", C, 0},
                 {"attn.out", "attn.out_proj", C, C},
                 {"norm2", "ln_2", C, 0},
                 {"mlp.fc1", "mlp.c_fc", v->F, C},
                 {"mlp.fc2", "mlp.c_proj", C, v->F}};
    char us[PC_NAME_MAX], them[128];

    pc_alias_add(out, "vision.stem.0.weight", 0, D4(C, 3, v->patch, v->patch),
                 "transformer.visual.conv1.weight");
    pc_alias_add(out, "vision.positions", 0, D2(TABLE * TABLE, C),
                 "transformer.visual.positional_embedding");
    pc_family_pair(out, "vision.norm_pre", 0, "transformer.visual.ln_pre", C, 0);
    for (int64_t l = 0; l < v->L; l++) {
        in_proj_aliases(out, v, l);
        for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
            snprintf(us, sizeof us, "vision.blocks.%lld.%s", (long long)l, block[i].ours);
            snprintf(them, sizeof them, "transformer.visual.transformer.resblocks.%lld.%s",
                     (long long)l, block[i].theirs);
            pc_family_pair(out, us, 0, them, block[i].O, block[i].I);
        }
    }
}

void pc_family_qwen_resampler_aliases(pc_aliases *out, const pc_projector_config *p)
{
    static const char *const qkv[] = {"q", "k", "v"};
    const int64_t C = p->out, Q = p->queries;
    const char *pool = "transformer.visual.attn_pool";
    char us[PC_NAME_MAX];

    pc_alias_add(out, "projector.kv.weight", 0, D2(C, p->in), "%s.kv_proj.weight", pool);
    pc_family_pair(out, "projector.norm_kv", 0, "transformer.visual.attn_pool.ln_kv", C, 0);
    pc_alias_add(out, "projector.query", 0, D2(Q, C), "%s.query", pool);
    pc_family_pair(out, "projector.norm_q", 0, "transformer.visual.attn_pool.ln_q", C, 0);
    pc_alias_add(out, "projector.places", 0, D2(Q, C), "%s.pos_embed", pool);
    for (int64_t j = 0; j < 3; j++) {
        snprintf(us, sizeof us, "projector.attn.%s.weight", qkv[j]);
        pc_alias_add_part(out, us, 0, j * C * C, C * C, D2(3 * C, C), "%s.attn.in_proj_weight",
                          pool);
    }
    for (int64_t j = 0; j < 3; j++) {
        snprintf(us, sizeof us, "projector.attn.%s.bias", qkv[j]);
        pc_alias_add_part(out, us, 0, j * C, C, D1(3 * C), "%s.attn.in_proj_bias", pool);
    }
    pc_family_pair(out, "projector.attn.out", 0, "transformer.visual.attn_pool.attn.out_proj", C,
                   C);
    pc_family_pair(out, "projector.norm_post", 0, "transformer.visual.ln_post", C, 0);
    pc_alias_add(out, "projector.proj", 0, D2(C, C), "transformer.visual.proj");
}

static void decoder_aliases(pc_aliases *out, const pc_decoder_config *d)
{
    const int64_t C = d->C, F = d->F, HD = d->H * d->D;
    char us[PC_NAME_MAX];

    pc_alias_add(out, "decoder.tokens", 0, D2(d->V, C), "transformer.wte.weight");
    for (int64_t l = 0; l < d->L; l++) {
        const long long i = l;
        char them[64];
        snprintf(us, sizeof us, "decoder.blocks.%lld.norm1.weight", i);
        pc_alias_add(out, us, 0, D1(C), "transformer.h.%lld.ln_1.weight", i);
        snprintf(us, sizeof us, "decoder.blocks.%lld.attn.qkv", i);
        snprintf(them, sizeof them, "transformer.h.%lld.attn.c_attn", i);
        pc_family_pair(out, us, 0, them, 3 * HD, C);
        snprintf(us, sizeof us, "decoder.blocks.%lld.attn.out.weight", i);
        pc_alias_add(out, us, 0, D2(C, HD), "transformer.h.%lld.attn.c_proj.weight", i);
        snprintf(us, sizeof us, "decoder.blocks.%lld.norm2.weight", i);
        pc_alias_add(out, us, 0, D1(C), "transformer.h.%lld.ln_2.weight", i);
        snprintf(us, sizeof us, "decoder.blocks.%lld.mlp.gate_up.weight", i);
        pc_alias_add(out, us, F, D2(F, C), "transformer.h.%lld.mlp.w1.weight", i);
        pc_alias_add(out, us, 0, D2(F, C), "transformer.h.%lld.mlp.w2.weight", i);
        snprintf(us, sizeof us, "decoder.blocks.%lld.mlp.down.weight", i);
        pc_alias_add(out, us, 0, D2(C, F), "transformer.h.%lld.mlp.c_proj.weight", i);
    }
    pc_alias_add(out, "decoder.norm_final.weight", 0, D1(C), "transformer.ln_f.weight");
    if (!d->tied) pc_alias_add(out, "decoder.head", 0, D2(d->V, C), "lm_head.weight");
}

static pc_status qwen_aliases(pc_aliases *out, const pc_model_config *config, int variant)
{
    const pc_vlm_config *c = &config->vlm;
    (void)variant; // one layout
    if (c->vision.L) {
        tower_aliases(out, &c->vision);
        pc_family_qwen_resampler_aliases(out, &c->projector);
    }
    decoder_aliases(out, &c->decoder);
    return out->status;
}

static const char *const qwen_ignored[] = {"rotary_emb.inv_freq", "attn.masked_bias", NULL};

const pc_family pc_family_qwen = {
    .name = "qwen",
    .model_type = "qwen",
    .config = qwen_config,
    .aliases = qwen_aliases,
    .variants = 1,
    .ignored = qwen_ignored,
};

/*
 * gguf_config.c - metadata of GGUF files into our description of a model; see gguf_model.h.
 *
 * Keys of a text file stand below its architecture's name: "llama.block_count". What the files cannot say but our
 * own exports need (which token is an image's place, which GELU) stands below "percept."; others ignore it.
 */
#include "checkpoints/gguf_names.h"
#include "checkpoints/gguf_model.h"
#include "model/core/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST    ((int64_t)1 << 24)
#define LONGEST ((int64_t)1 << 20)

static const char *const architectures[] = {"llama", "qwen2", "qwen2vl"};
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

static pc_status architecture(char *out, size_t size, const pc_gguf *g)
{
    char *text = NULL;
    pc_status st = pc_gguf_text(&text, g, "general.architecture");
    if (!st && !text) st = pc_fail(PC_ERR_FORMAT, "key 'general.architecture' is missing");
    if (!st) snprintf(out, size, "%s", text);
    free(text);
    return st;
}

static pc_status known_architecture(const char *name)
{
    for (int i = 0; i < ARCHITECTURES; i++)
        if (!strcmp(name, architectures[i])) return PC_OK;
    const char *near = pc_nearest(name, architectures, ARCHITECTURES);
    return pc_fail(PC_ERR_FORMAT,
                   "architecture '%.60s' is not known here%s%s%s (known: llama, qwen2, qwen2vl)",
                   name, near ? "; nearest: '" : "", near ? near : "", near ? "'" : "");
}

// "ARCH.key" in one of 4 buffers used in turn.
static const char *in(const char *arch, const char *key)
{
    static _Thread_local char buf[4][128];
    static _Thread_local int next;
    char *b = buf[next++ % 4];
    snprintf(b, sizeof buf[0], "%s.%s", arch, key);
    return b;
}

// As HF has them, (rows, columns).
static bool dims(const pc_gguf *g, const char *name, int rank, int64_t *d)
{
    pc_gguf_tensor t;
    if (!pc_gguf_find(&t, g, name) || t.rank != rank) return false;
    for (int i = 0; i < rank; i++) d[i] = t.dim[i];
    return true;
}

/* ---- rotary positions ---- */

// Cosines and sines are attn_factor times as large as the method has them.
static pc_status yarn(pc_rope_config *r, const pc_gguf *g, const char *arch, int64_t T)
{
    double more;
    int64_t length;
    pc_status st;
    r->scaling = PC_ROPE_YARN;
    if ((st = pc_gguf_real(&r->factor, g, in(arch, "rope.scaling.factor"), 1.0)) ||
        (st = pc_gguf_int(&length, g, in(arch, "rope.scaling.original_context_length"), T, 1,
                          MOST)) ||
        (st = pc_gguf_real(&more, g, in(arch, "rope.scaling.attn_factor"), 1.0)) ||
        (st = pc_gguf_real(&r->beta_fast, g, in(arch, "rope.scaling.yarn_beta_fast"), 32.0)) ||
        (st = pc_gguf_real(&r->beta_slow, g, in(arch, "rope.scaling.yarn_beta_slow"), 1.0)))
        return st;
    if (!(r->factor >= 1.0))
        return pc_fail(PC_ERR_FORMAT, "key '%s' is %g; expected at least 1",
                       in(arch, "rope.scaling.factor"), r->factor);
    if (!(more > 0.0 && more < 1e3))
        return pc_fail(PC_ERR_FORMAT, "key '%s' is %g; expected more than 0",
                       in(arch, "rope.scaling.attn_factor"), more);
    r->original_max = (double)length;
    r->attn_factor = more == 1.0 ? 0.0 : more * (0.1 * log(r->factor) + 1.0);
    return PC_OK;
}

static pc_status rope_scaling(pc_rope_config *r, const pc_gguf *g, const char *arch, int64_t T)
{
    char *type = NULL;
    pc_status st = pc_gguf_text(&type, g, in(arch, "rope.scaling.type"));
    if (!st && type && !strcmp(type, "linear")) {
        r->scaling = PC_ROPE_LINEAR;
        st = pc_gguf_real(&r->factor, g, in(arch, "rope.scaling.factor"), 1.0);
        if (!st && !(r->factor > 0.0))
            st = pc_fail(PC_ERR_FORMAT, "key '%s' is %g; expected more than 0",
                         in(arch, "rope.scaling.factor"), r->factor);
    } else if (!st && type && !strcmp(type, "yarn")) {
        st = yarn(r, g, arch, T);
    } else if (!st && type && strcmp(type, "none")) {
        st = pc_fail(PC_ERR_FORMAT, "key '%s' is \"%.40s\"; expected none, linear or yarn",
                     in(arch, "rope.scaling.type"), type);
    }
    free(type);
    return st;
}

static pc_status rope_divisors(pc_rope_config *r, const pc_gguf *g, int64_t D)
{
    pc_gguf_tensor t;
    if (!pc_gguf_find(&t, g, "rope_freqs.weight")) return PC_OK;
    if (t.numel != D / 2)
        return pc_fail(PC_ERR_FORMAT, "tensor 'rope_freqs.weight' has %lld numbers; expected %lld",
                       (long long)t.numel, (long long)(D / 2));
    float *x = malloc((size_t)(D / 2 + 1) * sizeof *x);
    if (!x) return pc_fail(PC_ERR_MEMORY, "rotary divisors");
    pc_status st = pc_gguf_floats(x, &t, 0, t.numel);
    if (!st && !pc_gguf_rope_from_divisors(r, x, D))
        st = pc_fail(PC_ERR_FORMAT,
                     "tensor 'rope_freqs.weight' holds no divisors of llama3 scaling");
    free(x);
    return st;
}

static pc_status rope(pc_rope_config *r, const pc_gguf *g, const char *arch, int64_t D, int64_t T)
{
    int64_t turned;
    pc_status st;
    if ((st = pc_gguf_real(&r->theta, g, in(arch, "rope.freq_base"), 10000.0)) ||
        (st = pc_gguf_int(&turned, g, in(arch, "rope.dimension_count"), D, 1, MOST)) ||
        (st = rope_scaling(r, g, arch, T)))
        return st;
    if (turned != D)
        return pc_fail(PC_ERR_FORMAT, "key '%s' is %lld; heads are %lld wide and turn whole",
                       in(arch, "rope.dimension_count"), (long long)turned, (long long)D);
    return rope_divisors(r, g, D);
}

// How many frequencies turn with frame, row and column; the file has a fourth, 0.
static pc_status sections(pc_decoder_config *d, const pc_gguf *g, const char *arch)
{
    int32_t *list = NULL;
    int64_t n = 0, sum = 0;
    const char *key = in(arch, "rope.dimension_sections");
    pc_status st = pc_gguf_ints(&list, &n, g, key);
    if (st || strcmp(arch, "qwen2vl")) goto out;
    for (int64_t i = 0; i < n && i < PC_ROPE_AXES; i++) {
        if (list[i] < 0 || list[i] > d->D) n = 0;
        sum += d->mrope[i] = n ? list[i] : 0;
    }
    if (n < PC_ROPE_AXES || sum != d->D / 2)
        st =
            pc_fail(PC_ERR_FORMAT, "key '%s': %lld frequencies in %lld counts; expected %lld in %d",
                    key, (long long)sum, (long long)n, (long long)(d->D / 2), PC_ROPE_AXES);
out:
    free(list);
    return st;
}

/* ---- the decoder ---- */

static pc_status decoder_sizes(pc_decoder_config *d, const pc_gguf *g, const char *arch)
{
    int64_t value_length, window, experts;
    pc_status st;
    if ((st = pc_gguf_int(&d->T, g, in(arch, "context_length"), PC_GGUF_NEEDED, 1, MOST)) ||
        (st = pc_gguf_int(&d->C, g, in(arch, "embedding_length"), PC_GGUF_NEEDED, 1, MOST)) ||
        (st = pc_gguf_int(&d->L, g, in(arch, "block_count"), PC_GGUF_NEEDED, 1, 4096)) ||
        (st = pc_gguf_int(&d->F, g, in(arch, "feed_forward_length"), PC_GGUF_NEEDED, 1, MOST)) ||
        (st = pc_gguf_int(&d->H, g, in(arch, "attention.head_count"), PC_GGUF_NEEDED, 1, 4096)) ||
        (st = pc_gguf_int(&d->G, g, in(arch, "attention.head_count_kv"), d->H, 1, d->H)) ||
        (st = pc_gguf_int(&d->D, g, in(arch, "attention.key_length"), d->C / d->H, 1, MOST)) ||
        (st = pc_gguf_int(&value_length, g, in(arch, "attention.value_length"), d->D, 1, MOST)) ||
        (st = pc_gguf_int(&window, g, in(arch, "attention.sliding_window"), 0, 0, MOST)) ||
        (st = pc_gguf_int(&experts, g, in(arch, "expert_count"), 0, 0, MOST)) ||
        (st = pc_gguf_real(&d->eps, g, in(arch, "attention.layer_norm_rms_epsilon"), (double)NAN)))
        return st;
    if (value_length != d->D)
        return pc_fail(PC_ERR_FORMAT, "key '%s' is %lld, keys are %lld wide; expected the same",
                       in(arch, "attention.value_length"), (long long)value_length,
                       (long long)d->D);
    if (experts)
        return pc_fail(PC_ERR_FORMAT, "key '%s' is %lld; mixtures of experts are not known here",
                       in(arch, "expert_count"), (long long)experts);
    // Rotary tables are made for as many places: what no tensor backs is not believed without end.
    if (d->T > LONGEST)
        pc_warn("key '%s' is %lld; sequences of up to %lld are taken", in(arch, "context_length"),
                (long long)d->T, (long long)LONGEST);
    d->T = d->T < LONGEST ? d->T : LONGEST;
    d->window = window < d->T ? window : 0;
    return PC_OK;
}

static int64_t find_token(const pc_gguf_span *tokens, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++)
        if (tokens[i].size == strlen(name) && !memcmp(tokens[i].text, name, tokens[i].size))
            return i;
    return -1;
}

// The id that stands for an image: said by our own exports; otherwise the token of that name; otherwise the id behind
// the last, which no text can have.
static pc_status image_ids(pc_vlm_config *c, const pc_gguf *g)
{
    static const char *const names[] = {"<image>", "<|image_pad|>", "<image_placeholder>"};
    const int64_t V = c->decoder.V;
    pc_gguf_span *tokens = NULL;
    int64_t n = 0, image = -1, film;
    pc_status st = pc_gguf_strings(&tokens, &n, g, "tokenizer.ggml.tokens");
    if (n > V) n = V;
    for (size_t k = 0; k < sizeof names / sizeof *names && image < 0; k++)
        image = find_token(tokens, n, names[k]);
    film = pc_decoder_axes(&c->decoder) ? find_token(tokens, n, "<|video_pad|>") : -1;
    free(tokens);
    if (st ||
        (st = pc_gguf_int(&c->image_id, g, "percept.image_token_id", image < 0 ? V : image, 0, V)))
        return st;
    return pc_gguf_int(&c->video_id, g, "percept.video_token_id", film < 0 ? 0 : film, 0, V - 1);
}

pc_status pc_gguf_decoder_config(pc_model_config *out, bool *llama, const pc_gguf *g)
{
    char arch[64];
    int64_t V = 0, d2[2];
    pc_vlm_config *c = &out->vlm;
    pc_decoder_config *d = &c->decoder;
    pc_status st;
    if ((st = architecture(arch, sizeof arch, g)) || (st = known_architecture(arch)) ||
        (st = decoder_sizes(d, g, arch)) || (st = rope(&d->rope, g, arch, d->D, d->T)) ||
        (st = sections(d, g, arch)))
        return st;
    *llama = !strcmp(arch, "llama");
    out->kind = PC_MODEL_VLM;
    c->feature_layer = -1;
    if (!dims(g, "token_embd.weight", 2, d2))
        return pc_fail(PC_ERR_FORMAT, "tensor 'token_embd.weight' is missing, or no matrix");
    d->V = d2[0];
    if ((st = pc_gguf_int(&V, g, in(arch, "vocab_size"), d->V, 1, MOST))) return st;
    if (V != d->V)
        return pc_fail(PC_ERR_FORMAT, "key '%s' is %lld, 'token_embd.weight' has %lld rows",
                       in(arch, "vocab_size"), (long long)V, (long long)d->V);
    pc_gguf_tensor t;
    d->tied = !pc_gguf_find(&t, g, "output.weight");
    d->qkv_bias = pc_gguf_find(&t, g, "blk.0.attn_q.bias");
    d->std = 0.02;
    if ((st = image_ids(c, g))) return st;
    return pc_decoder_validate(d);
}

/* ---- tower and projector ---- */

static pc_status tower_sizes(pc_vision_config *v, const pc_gguf *g)
{
    pc_status st;
    if ((st = pc_gguf_int(&v->image_size, g, "clip.vision.image_size", PC_GGUF_NEEDED, 1,
                          1 << 14)) ||
        (st = pc_gguf_int(&v->patch, g, "clip.vision.patch_size", PC_GGUF_NEEDED, 1, 1 << 10)) ||
        (st = pc_gguf_int(&v->C, g, "clip.vision.embedding_length", PC_GGUF_NEEDED, 1, 1 << 20)) ||
        (st = pc_gguf_int(&v->F, g, "clip.vision.feed_forward_length", PC_GGUF_NEEDED, 0,
                          1 << 22)) ||
        (st = pc_gguf_int(&v->L, g, "clip.vision.block_count", PC_GGUF_NEEDED, 1, 1 << 12)) ||
        (st = pc_gguf_int(&v->H, g, "clip.vision.attention.head_count", PC_GGUF_NEEDED, 1,
                          1 << 12)) ||
        (st = pc_gguf_real(&v->eps, g, "clip.vision.attention.layer_norm_epsilon", (double)NAN)))
        return st;
    return PC_OK;
}

// The files say GELU or not. A tower with a class token is a CLIP, whose GELU is erf's; SigLIP's is the tanh form.
static pc_status tower_act(pc_vision_config *v, const pc_gguf *g)
{
    static const struct {
        const char *name;
        pc_act act;
    } own[] = {{"gelu", PC_ACT_GELU}, {"gelu_pytorch_tanh", PC_ACT_GELU_TANH}};
    bool gelu, silu;
    char *name = NULL;
    pc_status st;
    if ((st = pc_gguf_bool(&gelu, g, "clip.use_gelu", false)) ||
        (st = pc_gguf_bool(&silu, g, "clip.use_silu", false)) ||
        (st = pc_gguf_text(&name, g, "percept.vision.hidden_act")))
        return st;
    v->act = silu             ? PC_ACT_SILU
             : !gelu          ? PC_ACT_QUICK
             : v->class_token ? PC_ACT_GELU
                              : PC_ACT_GELU_TANH;
    for (size_t i = 0; name && i < sizeof own / sizeof *own; i++)
        if (gelu && !strcmp(name, own[i].name)) v->act = own[i].act;
    free(name);
    return PC_OK;
}

static bool has(const pc_gguf *g, const char *name)
{
    pc_gguf_tensor t;
    return pc_gguf_find(&t, g, name);
}

static pc_status tower(pc_vision_config *v, pc_gguf_spelling *spelling, const pc_gguf *g)
{
    int64_t down[2] = {0, 0};
    pc_status st = tower_sizes(v, g);
    if (st) return st;
    v->stem = PC_STEM_PATCH;
    v->class_token = has(g, "v.class_embd");
    v->patch_bias = has(g, "v.patch_embd.bias");
    v->pre_norm = has(g, "v.pre_ln.weight");
    v->post_norm = has(g, "v.post_ln.weight");
    v->head = PC_HEAD_NONE;
    // The first converters of Qwen2-VL wrote 0.
    if (!v->F && dims(g, "v.blk.0.ffn_up.weight", 2, down))
        v->F = down[0] == v->C ? down[1] : down[0];
    if (!v->F) return pc_fail(PC_ERR_FORMAT, "key 'clip.vision.feed_forward_length' is 0");
    // fc1 (F,C) under the name ffn_down: the first converters' way.
    spelling->swapped =
        dims(g, "v.blk.0.ffn_down.weight", 2, down) && down[1] == v->C && v->F != v->C;
    return tower_act(v, g);
}

// Without the key all blocks but the last run (llama.cpp's way for LLaVA).
static pc_status feature_layer(int64_t *out, const pc_gguf *g, int64_t L)
{
    int32_t *list = NULL;
    int64_t n = 0;
    const char *key = "clip.vision.feature_layer";
    pc_status st = pc_gguf_ints(&list, &n, g, key);
    *out = -2;
    if (!st && n > 1)
        st = pc_fail(PC_ERR_FORMAT, "key '%s': a list of %lld; features of one layer are supported",
                     key, (long long)n);
    if (!st && n == 1 && (list[0] < 0 || list[0] > L))
        st = pc_fail(PC_ERR_FORMAT, "key '%s' is %d; the tower has %lld blocks", key, list[0],
                     (long long)L);
    if (!st && n == 1) *out = list[0] - (L + 1);
    free(list);
    return st;
}

enum { NO_PROJECTOR, MLP, MERGER };

static pc_status projector_type(int *out, const pc_gguf *g)
{
    char *type = NULL;
    pc_status st = pc_gguf_text(&type, g, "clip.projector_type");
    if (!st && !type) st = pc_gguf_text(&type, g, "clip.vision.projector_type");
    *out = type && !strcmp(type, "qwen2vl_merger") ? MERGER
           : type || has(g, "mm.0.weight")         ? MLP
                                                   : NO_PROJECTOR;
    if (!st && type && *out == MLP && strcmp(type, "mlp"))
        st = pc_fail(PC_ERR_FORMAT,
                     "projector type '%.40s' is not known here; expected mlp or qwen2vl_merger",
                     type);
    free(type);
    return st;
}

static pc_status projector(pc_projector_config *p, const pc_gguf *g, const pc_vision_config *v,
                           int type)
{
    const char *last = type == MERGER ? "mm.2.weight" : "mm.0.weight";
    int64_t d2[2], second[2];
    char *act = NULL;
    if (type == NO_PROJECTOR) return PC_OK;
    if (!dims(g, last, 2, d2))
        return pc_fail(PC_ERR_FORMAT, "tensor '%s' is missing, or no matrix", last);
    const pc_status st = pc_gguf_text(&act, g, "percept.projector.act");
    if (st) return st;
    *p = (pc_projector_config){
        .depth = dims(g, "mm.2.weight", 2, second) ? 2 : 1,
        .in = v->C,
        .out = d2[0],
        .bias = has(g, "mm.0.bias"),
        .act = act && !strcmp(act, "gelu_pytorch_tanh") ? PC_ACT_GELU_TANH : PC_ACT_GELU,
        .std = 0.02,
    };
    free(act);
    return PC_OK;
}

// Qwen2-VL's tower: images of any size, so that the file's image_size means nothing.
static pc_status grid(pc_vlm_config *c, const pc_gguf *g)
{
    pc_vision_config *v = &c->vision;
    c->visual = PC_VISUAL_GRID;
    c->feature_layer = -1;
    v->post_norm = false; // "v.post_ln" is the merger's
    v->frames = has(g, "v.patch_embd.weight.1") ? 2 : 1;
    v->theta = 10000.0;
    const pc_status st = pc_gguf_int(&c->merge, g, "clip.vision.spatial_merge_size", 2, 1, 64);
    v->image_size = 16 * c->merge * v->patch;
    return st;
}

static pc_status three(double out[3], const pc_gguf *g, const char *key)
{
    float *x = NULL;
    int64_t n = 0;
    pc_status st = pc_gguf_reals(&x, &n, g, key);
    if (!st && n != 3)
        st = pc_fail(PC_ERR_FORMAT, "key '%s' has %lld numbers; expected 3", key, (long long)n);
    for (int i = 0; i < 3 && !st; i++) out[i] = (double)x[i];
    free(x);
    return st;
}

// Resolutions make an image one of tiles: (width, height) pairs in the file.
static pc_status tiles(pc_vlm_config *c, pc_gguf_spelling *spelling, const pc_gguf *g)
{
    int32_t *list = NULL;
    int64_t n = 0;
    const char *key = "clip.vision.image_grid_pinpoints";
    pc_pinpoints *p = &c->pinpoints;
    pc_status st = pc_gguf_ints(&list, &n, g, key);
    spelling->newline = has(g, "v.image_newline");
    if (st || !n) return st;
    if (n % 2 || n / 2 > PC_PINPOINTS_MAX)
        st = pc_fail(PC_ERR_FORMAT, "key '%s' has %lld numbers; expected pairs, at most %d", key,
                     (long long)n, PC_PINPOINTS_MAX);
    else if (!spelling->newline && !has(g, "model.image_newline"))
        st = pc_fail(PC_ERR_FORMAT, "tensor 'model.image_newline' is missing, key '%s' is there",
                     key);
    for (int64_t i = 0; i < n / 2 && !st; i++) {
        p->hw[i][0] = list[2 * i + 1];
        p->hw[i][1] = list[2 * i];
        p->count++;
    }
    free(list);
    if (!st) st = pc_pinpoints_validate(p, c->vision.image_size);
    c->visual = PC_VISUAL_TILES;
    return st ? pc_context(st, "key '%s'", key)
              : pc_gguf_int(&c->max_tiles, g, "percept.max_tiles", 0, 0, 1024);
}

// Our own settings, where we wrote the file.
static pc_status own_image(pc_image_config *out, bool *found, const pc_gguf *g)
{
    char *text = NULL;
    json_error_t e;
    pc_status st = pc_gguf_text(&text, g, "percept.image");
    *found = !st && text;
    if (!*found) return st;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    st = json ? pc_image_config_from_json(out, json) : pc_fail(PC_ERR_FORMAT, "%s", e.text);
    json_decref(json);
    free(text);
    return pc_context(st, "key 'percept.image'");
}

// llama.cpp fits an image into the square and pads it; what has resolutions is cut into tiles.
static pc_status image(pc_image_config *out, const pc_gguf *g, const pc_vlm_config *c)
{
    bool found;
    pc_status st = own_image(out, &found, g);
    if (st || found) return st;
    *out = pc_image_config_default(c->vision.image_size);
    if ((st = three(out->mean, g, "clip.vision.image_mean")) ||
        (st = three(out->std, g, "clip.vision.image_std")))
        return st;
    if (c->visual == PC_VISUAL_TILES) {
        out->kind = PC_IMAGE_TILES;
        out->pinpoints = c->pinpoints;
    }
    if (c->visual == PC_VISUAL_GRID) { // the class's own limits of the area
        out->kind = PC_IMAGE_PATCHES;
        out->patch = c->vision.patch;
        out->temporal = c->vision.frames;
        out->merge = c->merge;
        out->min_pixels = 56 * 56;
        out->max_pixels = 28 * 28 * 1280;
    }
    for (int i = 0; i < 3; i++)
        if (!(out->std[i] > 0.0))
            return pc_fail(PC_ERR_FORMAT,
                           "key 'clip.vision.image_std' holds %g; expected more than 0",
                           out->std[i]);
    return PC_OK;
}

pc_status pc_gguf_eyes_config(pc_model_config *out, pc_image_config *pictures,
                              pc_gguf_spelling *spelling, const pc_gguf *g)
{
    char arch[64];
    bool vision = false;
    int type = NO_PROJECTOR;
    pc_vlm_config *c = &out->vlm;
    pc_status st;
    if ((st = architecture(arch, sizeof arch, g))) return st;
    if (strcmp(arch, "clip"))
        return pc_fail(PC_ERR_FORMAT, "architecture '%.60s'; an mmproj file's is clip", arch);
    if ((st = pc_gguf_bool(&vision, g, "clip.has_vision_encoder", false))) return st;
    if (!vision) return pc_fail(PC_ERR_FORMAT, "key 'clip.has_vision_encoder' is not true");
    out->kind = PC_MODEL_VLM;
    if ((st = projector_type(&type, g)) || (st = tower(&c->vision, spelling, g)) ||
        (st = projector(&c->projector, g, &c->vision, type)))
        return st;
    st = type == MERGER ? grid(c, g) : feature_layer(&c->feature_layer, g, c->vision.L);
    if (!st && type != MERGER) st = tiles(c, spelling, g);
    if (!st) st = image(pictures, g, c);
    if (st) return st;
    if (type == MLP) {
        // Published towers have this norm whether anything reads it or not; files have it where it is applied.
        c->feature_norm = c->vision.post_norm;
        if ((st = pc_gguf_bool(&c->vision.post_norm, g, "percept.vision.post_norm", true)))
            return st;
        c->vision.post_norm = c->vision.post_norm || c->feature_norm;
        spelling->implied_norm = c->vision.post_norm && !c->feature_norm;
    }
    return type == MERGER ? PC_OK : pc_vision_validate(&c->vision);
}

/*
 * config.c - the description of a model: JSON <-> pc_model_config, by one table of keys.
 *
 * A row of the table is a key: where it stands, what it holds, what it is when absent, between which values, and
 * a sentence of help. Reading, writing and help walk the table; rules between keys are the networks' own
 * *_validate. A default may follow from other keys ("4 C"): such rows hold a function.
 */
#include "model/networks/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// SET: whole numbers, each a bit of an int64_t.
typedef enum kind { INT, REAL, BOOL, CHOICE, PAIRS, SET } kind;

// What an absent key becomes when that depends on others.
typedef double derive(const pc_model_config *c);

typedef struct row {
    const char *section, *key; // "" for the top level
    int model;                 // a pc_model_kind, or BOTH
    kind kind;
    size_t at; // offset in pc_model_config
    double def, min, max;
    const char *const *choices; // of a CHOICE, NULL-terminated: the enum's values in order
    derive *derived;            // NULL: def
    const char *derived_text;
    const char *help;
} row;

static const char *const kinds[] = {"clip", "vlm", NULL};
static const char *const acts[] = {"gelu", "gelu_tanh", "quick_gelu", "silu", "relu", NULL};
static const char *const stems[] = {"patch", "conv", NULL};
static const char *const heads[] = {"none", "class", "map", "mean", NULL};
static const char *const pools[] = {"eot", "largest", "last", NULL};
static const char *const losses[] = {"softmax", "sigmoid", NULL};
static const char *const recomputes[] = {"none", "block", NULL};
static const char *const visuals[] = {"square", "tiles", "grid", "resampler", "hybrid", NULL};
static const char *const scalings[] = {"none", "linear", "llama3", "yarn", "dynamic", NULL};

static double vision_E(const pc_model_config *c)
{
    return (double)c->clip.vision.C;
}
static double vision_F(const pc_model_config *c)
{
    return 4.0 * (double)c->clip.vision.C;
}
static double tower_F(const pc_model_config *c)
{
    return 4.0 * (double)c->vlm.vision.C;
}
static double merge_of(const pc_model_config *c)
{
    return c->vlm.visual == PC_VISUAL_GRID ? 2.0 : 0.0;
}
static double tower_frames(const pc_model_config *c)
{
    return c->vlm.visual == PC_VISUAL_GRID ? 2.0 : 0.0;
}
static double tower_theta(const pc_model_config *c)
{
    return c->vlm.visual == PC_VISUAL_GRID ? 1e4 : 0.0;
}
static double projector_queries(const pc_model_config *c)
{
    return c->vlm.visual == PC_VISUAL_RESAMPLER ? 256.0 : 0.0;
}
static double projector_heads(const pc_model_config *c)
{
    const double by_width = (double)(c->vlm.decoder.C / 128);
    return c->vlm.visual != PC_VISUAL_RESAMPLER ? 0.0 : by_width > 1.0 ? by_width : 1.0;
}
static double tower_E(const pc_model_config *c)
{
    return c->vlm.vision.head == PC_HEAD_NONE ? 0.0 : (double)c->vlm.vision.C;
}
static double tower_head_F(const pc_model_config *c)
{
    return c->vlm.vision.head == PC_HEAD_MAP ? 4.0 * (double)c->vlm.vision.C : 0.0;
}
static double high_F(const pc_model_config *c)
{
    return 4.0 * (double)c->vlm.high.C;
}
static double high_middle(const pc_model_config *c)
{
    int64_t block = 0;
    while (block < PC_SAM_MAX && !(c->vlm.high.globals >> block & 1)) block++;
    return block < PC_SAM_MAX ? (double)block : 0.0;
}
static double text_F(const pc_model_config *c)
{
    return 4.0 * (double)c->clip.text.C;
}
static double text_E(const pc_model_config *c)
{
    return (double)c->clip.vision.E;
}
static double decoder_G(const pc_model_config *c)
{
    return (double)c->vlm.decoder.H;
}
static double decoder_D(const pc_model_config *c)
{
    return (double)(c->vlm.decoder.C / c->vlm.decoder.H);
}
static double decoder_F(const pc_model_config *c)
{
    return (double)((c->vlm.decoder.C * 8 / 3 + 31) / 32 * 32);
}
static double projector_in(const pc_model_config *c)
{
    int64_t stops[PC_LAYERS_MAX];
    return (double)c->vlm.vision.C * pc_vlm_layers(&c->vlm, stops);
}
static double projector_out(const pc_model_config *c)
{
    return (double)c->vlm.decoder.C;
}
static double init_scale(const pc_model_config *c)
{
    return c->clip.loss == PC_CONTRAST_SIGMOID ? 2.302585092994046 : 2.6592;
}
static double init_bias(const pc_model_config *c)
{
    return c->clip.loss == PC_CONTRAST_SIGMOID ? -10.0 : 0.0;
}

enum { BOTH = -1 };
#define MAX_SIZE 1e7

// clang-format off
#define SECTION_ROW(model_kind, section, key, what, member, def, min, max, choices, derived, text, help) \
    {section, key, model_kind, what, offsetof(pc_model_config, member), def, min, max, choices, derived, text, help},
#define I_(k, s, key, m, def, min, max, help)      SECTION_ROW(k, s, key, INT, m, def, min, max, NULL, NULL, NULL, help)
#define D_(k, s, key, m, f, text, min, max, help)  SECTION_ROW(k, s, key, INT, m, 0, min, max, NULL, f, text, help)
#define R_(k, s, key, m, def, min, max, help)      SECTION_ROW(k, s, key, REAL, m, def, min, max, NULL, NULL, NULL, help)
#define B_(k, s, key, m, def, help)                SECTION_ROW(k, s, key, BOOL, m, def, 0, 1, NULL, NULL, NULL, help)
#define P_(k, s, key, m, help)                     SECTION_ROW(k, s, key, PAIRS, m, 0, 1, PC_PINPOINT_SIDE, NULL, NULL, NULL, help)
#define N_(k, s, key, m, def, max, help)           SECTION_ROW(k, s, key, SET, m, def, 0, max, NULL, NULL, NULL, help)
#define C_(k, s, key, m, def, list, help)          SECTION_ROW(k, s, key, CHOICE, m, def, 0, 0, list, NULL, NULL, help)

// The tower stands in both kinds of model, at two places of pc_model_config.
#define TOWER(k, v, f4)                                                                                              \
    I_(k, "vision", "L", v.L, 12, 0, 1000, "blocks; 0: no tower, the model is a text decoder")                       \
    I_(k, "vision", "C", v.C, 768, 1, MAX_SIZE, "width")                                                             \
    I_(k, "vision", "H", v.H, 12, 1, 4096, "attention heads; they divide C")                                         \
    D_(k, "vision", "F", v.F, f4, "4 C", 1, MAX_SIZE, "width of the feed-forward part")                              \
    I_(k, "vision", "image_size", v.image_size, 224, 1, 16384, "side of the square image, in pixels")                \
    I_(k, "vision", "patch", v.patch, 32, 1, 1024, "side of a patch, in pixels")                                     \
    C_(k, "vision", "stem", v.stem, 0, stems, "how pixels become rows: one linear a patch, or 3x3 convolutions of step 2") \
    I_(k, "vision", "stem_width", v.stem_width, 32, 0, 65536, "channels of a conv stem's first convolution; they double at each") \
    B_(k, "vision", "patch_bias", v.patch_bias, 0, "a bias on the patch linear")                                     \
    B_(k, "vision", "class_token", v.class_token, 1, "a learned token before the patches")                           \
    B_(k, "vision", "pre_norm", v.pre_norm, 0, "a norm between positions and blocks, as CLIP has it")                \
    B_(k, "vision", "post_norm", v.post_norm, 0, "keep norm_post though no head uses it")                            \
    B_(k, "vision", "qk_norm", v.qk_norm, 0, "RMSNorm on queries and keys, by head")                                 \
    C_(k, "vision", "act", v.act, 0, acts, "activation of the feed-forward part and of a conv stem")                 \
    R_(k, "vision", "eps", v.eps, 1e-5, 1e-12, 1e-1, "of the norms")                                                 \
    C_(k, "vision", "recompute", v.recompute, 0, recomputes, "block: keep a block's input alone and run it again in backward")

static const row rows[] = {
    C_(PC_MODEL_CLIP, "", "loss", clip.loss, 0, losses, "contrastive loss: softmax over the batch (CLIP) or sigmoid a pair (SigLIP)")
    SECTION_ROW(PC_MODEL_CLIP, "", "init_scale", REAL, clip.init_scale, 0, -20, 20, NULL, init_scale, "2.6592, sigmoid: ln 10",
                "initial logarithm of the similarity's scale")
    SECTION_ROW(PC_MODEL_CLIP, "", "init_bias", REAL, clip.init_bias, 0, -1000, 1000, NULL, init_bias, "0, sigmoid: -10",
                "initial bias of the sigmoid loss")
    TOWER(PC_MODEL_CLIP, clip.vision, vision_F)
    C_(PC_MODEL_CLIP, "vision", "head", clip.vision.head, PC_HEAD_CLASS, heads, "how an image becomes one row: class token, mean, or attention with a learned query")
    D_(PC_MODEL_CLIP, "vision", "E", clip.vision.E, vision_E, "C", 1, MAX_SIZE, "width of the joint embedding")
    D_(PC_MODEL_CLIP, "vision", "head_F", clip.vision.head_F, vision_F, "4 C", 0, MAX_SIZE, "feed-forward width of a map head")
    I_(PC_MODEL_CLIP, "text", "V", clip.text.V, -1, 1, MAX_SIZE, "vocabulary; a recipe takes it from the tokenizer")
    I_(PC_MODEL_CLIP, "text", "T", clip.text.T, 77, 1, 1e6, "context: the longest text, in tokens")
    I_(PC_MODEL_CLIP, "text", "L", clip.text.L, 12, 0, 1000, "blocks")
    I_(PC_MODEL_CLIP, "text", "C", clip.text.C, 512, 1, MAX_SIZE, "width")
    I_(PC_MODEL_CLIP, "text", "H", clip.text.H, 8, 1, 4096, "attention heads; they divide C")
    D_(PC_MODEL_CLIP, "text", "F", clip.text.F, text_F, "4 C", 1, MAX_SIZE, "width of the feed-forward part")
    D_(PC_MODEL_CLIP, "text", "E", clip.text.E, text_E, "vision.E", 1, MAX_SIZE, "width of the joint embedding")
    B_(PC_MODEL_CLIP, "text", "causal", clip.text.causal, 1, "a token sees those before it alone")
    B_(PC_MODEL_CLIP, "text", "proj_bias", clip.text.proj_bias, 0, "a bias on the projection")
    B_(PC_MODEL_CLIP, "text", "qk_norm", clip.text.qk_norm, 0, "RMSNorm on queries and keys, by head")
    C_(PC_MODEL_CLIP, "text", "act", clip.text.act, 0, acts, "activation of the feed-forward part")
    R_(PC_MODEL_CLIP, "text", "eps", clip.text.eps, 1e-5, 1e-12, 1e-1, "of the norms")
    C_(PC_MODEL_CLIP, "text", "pool", clip.text.pool, 0, pools, "the row that stands for a text: first end-of-text, largest id, last row")
    I_(PC_MODEL_CLIP, "text", "eot_id", clip.text.eot_id, 0, -1, MAX_SIZE, "id of end-of-text; a recipe takes it from the tokenizer. -1 where another row is pooled")
    I_(PC_MODEL_CLIP, "text", "pad_id", clip.text.pad_id, -1, -1, MAX_SIZE, "id that fills texts up; -1: none does")
    B_(PC_MODEL_CLIP, "text", "pad_to_context", clip.text.pad_to_context, 0, "fill every text up to T rows, as SigLIP needs it")
    C_(PC_MODEL_CLIP, "text", "recompute", clip.text.recompute, 0, recomputes, "block: keep a block's input alone and run it again in backward")

    C_(PC_MODEL_VLM, "", "visual", vlm.visual, 0, visuals, "kind of eyes: square images; the whole and tiles of it; any grid of patches; queries that read; two sizes at once")
    P_(PC_MODEL_VLM, "", "pinpoints", vlm.pinpoints, "tiles: the resolutions that an image may be cut in, [height, width] each")
    I_(PC_MODEL_VLM, "", "max_tiles", vlm.max_tiles, 0, 0, 1024, "tiles: more features than those of so many are shrunk; 0: never")
    D_(PC_MODEL_VLM, "", "merge", vlm.merge, merge_of, "grid eyes: 2", 0, 64, "grid eyes: patches of a row of features, in each direction")
    I_(PC_MODEL_VLM, "", "feature_layer", vlm.feature_layer, -1, -1001, -1, "hidden state of the tower that is passed on: -1 the last block's output")
    I_(PC_MODEL_VLM, "", "feature_layer_2", vlm.also[0], 0, -1001, 0, "another, passed on beside the first; 0: none")
    I_(PC_MODEL_VLM, "", "feature_layer_3", vlm.also[1], 0, -1001, 0, "... and a third")
    I_(PC_MODEL_VLM, "", "feature_layer_4", vlm.also[2], 0, -1001, 0, "... and a fourth")
    B_(PC_MODEL_VLM, "", "keep_class", vlm.keep_class, 0, "pass the class token's row on too")
    B_(PC_MODEL_VLM, "", "image_bidirectional", vlm.image_bidirectional, 0, "rows of one image see each other both ways in the decoder")
    I_(PC_MODEL_VLM, "", "image_id", vlm.image_id, -1, -1000, MAX_SIZE, "id of an image place; a recipe takes it from the tokenizer")
    I_(PC_MODEL_VLM, "", "video_id", vlm.video_id, 0, 0, MAX_SIZE, "id of a film's place; 0: none")
    B_(PC_MODEL_VLM, "", "feature_norm", vlm.feature_norm, 0, "the rows that are passed on go through norm_post")
    TOWER(PC_MODEL_VLM, vlm.vision, tower_F)
    I_(PC_MODEL_VLM, "vision", "table", vlm.vision.table, 0, 0, 16384, "side of the position table, in patches, where it is not the image's; it is resized")
    D_(PC_MODEL_VLM, "vision", "frames", vlm.vision.frames, tower_frames, "grid eyes: 2", 0, 64, "grid eyes: frames of a patch")
    SECTION_ROW(PC_MODEL_VLM, "vision", "rope_theta", REAL, vlm.vision.theta, 0, 0, 1e12, NULL, tower_theta, "grid eyes: 10000",
                "grid eyes: base of the rotary frequencies")
    C_(PC_MODEL_VLM, "vision", "head", vlm.vision.head, PC_HEAD_NONE, heads, "a head that came with the tower; nothing reads it")
    D_(PC_MODEL_VLM, "vision", "E", vlm.vision.E, tower_E, "C with a head", 0, MAX_SIZE, "width of the joint embedding")
    D_(PC_MODEL_VLM, "vision", "head_F", vlm.vision.head_F, tower_head_F, "4 C with a map head", 0, MAX_SIZE, "feed-forward width of a map head")
    I_(PC_MODEL_VLM, "high", "L", vlm.high.L, 12, 1, PC_SAM_MAX, "hybrid eyes: blocks of the tower of large images")
    I_(PC_MODEL_VLM, "high", "C", vlm.high.C, 768, 1, MAX_SIZE, "width")
    I_(PC_MODEL_VLM, "high", "H", vlm.high.H, 12, 1, 4096, "attention heads; they divide C")
    D_(PC_MODEL_VLM, "high", "F", vlm.high.F, high_F, "4 C", 1, MAX_SIZE, "width of the feed-forward part")
    I_(PC_MODEL_VLM, "high", "image_size", vlm.high.image_size, 1024, 1, 16384, "side of the square image, in pixels")
    I_(PC_MODEL_VLM, "high", "patch", vlm.high.patch, 16, 1, 1024, "side of a patch, in pixels; it divides image_size")
    I_(PC_MODEL_VLM, "high", "window", vlm.high.window, 14, 0, 16384, "side of a window, in patches; 0: every block looks at everything")
    N_(PC_MODEL_VLM, "high", "globals", vlm.high.globals, 2340, PC_SAM_MAX - 1, "blocks that look at everything, counted from 0")
    D_(PC_MODEL_VLM, "high", "middle", vlm.high.middle, high_middle, "the first of globals", 0, PC_SAM_MAX - 1, "the block whose output is added behind a neck of its own")
    I_(PC_MODEL_VLM, "high", "neck", vlm.high.neck, 256, 1, MAX_SIZE, "channels behind the neck")
    C_(PC_MODEL_VLM, "high", "act", vlm.high.act, 0, acts, "activation of the feed-forward part")
    R_(PC_MODEL_VLM, "high", "eps", vlm.high.eps, 1e-6, 1e-12, 1e-1, "of the blocks' norms")
    B_(PC_MODEL_VLM, "high", "qkv_bias", vlm.high.qkv_bias, 1, "biases on queries, keys and values")
    B_(PC_MODEL_VLM, "high", "positions", vlm.high.positions, 1, "a learned table of positions")
    B_(PC_MODEL_VLM, "high", "relative", vlm.high.relative, 1, "learned tables of distances, by line and by column")
    C_(PC_MODEL_VLM, "high", "recompute", vlm.high.recompute, 0, recomputes, "block: keep a block's input alone and run it again in backward")
    I_(PC_MODEL_VLM, "projector", "depth", vlm.projector.depth, 2, 1, PC_PROJECTOR_MAX, "linears: 1 is LLaVA's linear, 2 mlp2x_gelu")
    D_(PC_MODEL_VLM, "projector", "in", vlm.projector.in, projector_in, "vision.C, for each hidden state", 1, MAX_SIZE, "width of the tower's rows")
    D_(PC_MODEL_VLM, "projector", "out", vlm.projector.out, projector_out, "decoder.C", 1, MAX_SIZE, "width of the decoder's rows")
    B_(PC_MODEL_VLM, "projector", "bias", vlm.projector.bias, 1, "biases on the linears")
    C_(PC_MODEL_VLM, "projector", "act", vlm.projector.act, 0, acts, "activation between the linears")
    I_(PC_MODEL_VLM, "projector", "positions", vlm.projector.positions, 0, 0, MAX_SIZE, "rows of a learned table added to an image's rows; 0: none")
    D_(PC_MODEL_VLM, "projector", "queries", vlm.projector.queries, projector_queries, "resampler: 256", 0, 65536, "rows that a resampler makes of an image, a square number")
    D_(PC_MODEL_VLM, "projector", "heads", vlm.projector.heads, projector_heads, "resampler: decoder.C / 128", 0, 4096, "attention heads of a resampler")
    R_(PC_MODEL_VLM, "projector", "std", vlm.projector.std, 0, 0, 10, "initial standard deviation; 0: each matrix by its size")
    I_(PC_MODEL_VLM, "decoder", "V", vlm.decoder.V, -1, 1, MAX_SIZE, "vocabulary; a recipe takes it from the tokenizer")
    I_(PC_MODEL_VLM, "decoder", "T", vlm.decoder.T, 2048, 1, 1e7, "longest sequence, image rows included")
    I_(PC_MODEL_VLM, "decoder", "L", vlm.decoder.L, 8, 0, 1000, "blocks")
    I_(PC_MODEL_VLM, "decoder", "C", vlm.decoder.C, 512, 1, MAX_SIZE, "width")
    I_(PC_MODEL_VLM, "decoder", "H", vlm.decoder.H, 8, 1, 4096, "query heads")
    D_(PC_MODEL_VLM, "decoder", "G", vlm.decoder.G, decoder_G, "H", 1, 4096, "key and value heads; they divide H")
    D_(PC_MODEL_VLM, "decoder", "D", vlm.decoder.D, decoder_D, "C / H", 1, 65536, "width of a head, even")
    D_(PC_MODEL_VLM, "decoder", "F", vlm.decoder.F, decoder_F, "8/3 C, up to a multiple of 32", 1, MAX_SIZE, "width of the feed-forward part")
    R_(PC_MODEL_VLM, "decoder", "eps", vlm.decoder.eps, 1e-6, 1e-12, 1e-1, "of the norms")
    B_(PC_MODEL_VLM, "decoder", "qkv_bias", vlm.decoder.qkv_bias, 0, "biases on queries, keys and values")
    B_(PC_MODEL_VLM, "decoder", "qk_norm", vlm.decoder.qk_norm, 0, "RMSNorm on queries and keys, by head")
    B_(PC_MODEL_VLM, "decoder", "rope_2d", vlm.decoder.rope_2d, 0, "rows of an image turn with their column and row instead of their number")
    I_(PC_MODEL_VLM, "decoder", "mrope_frames", vlm.decoder.mrope[0], 0, 0, 65536, "rotary frequencies that turn with the frame of a film")
    I_(PC_MODEL_VLM, "decoder", "mrope_rows", vlm.decoder.mrope[1], 0, 0, 65536, "... with the row in the image")
    I_(PC_MODEL_VLM, "decoder", "mrope_columns", vlm.decoder.mrope[2], 0, 0, 65536, "... with the column; with all three 0 rows have one position")
    B_(PC_MODEL_VLM, "decoder", "tied", vlm.decoder.tied, 0, "the head is the token table")
    I_(PC_MODEL_VLM, "decoder", "window", vlm.decoder.window, 0, 0, 1e7, "sliding window, in positions; 0: none")
    R_(PC_MODEL_VLM, "decoder", "std", vlm.decoder.std, 0, 0, 10, "initial standard deviation; 0: each matrix by its size")
    R_(PC_MODEL_VLM, "decoder", "rope_theta", vlm.decoder.rope.theta, 1e4, 1, 1e12, "base of the rotary frequencies")
    C_(PC_MODEL_VLM, "decoder", "rope_scaling", vlm.decoder.rope.scaling, 0, scalings, "how the rotary frequencies are stretched for longer sequences")
    R_(PC_MODEL_VLM, "decoder", "rope_factor", vlm.decoder.rope.factor, 1, 0, 1e6, "of the stretching")
    R_(PC_MODEL_VLM, "decoder", "rope_low_freq", vlm.decoder.rope.low_freq, 1, 0, 1e6, "llama3: waves longer than original / this are stretched in full")
    R_(PC_MODEL_VLM, "decoder", "rope_high_freq", vlm.decoder.rope.high_freq, 4, 0, 1e6, "llama3: waves shorter than original / this stay")
    R_(PC_MODEL_VLM, "decoder", "rope_original_max", vlm.decoder.rope.original_max, 8192, 0, 1e9, "llama3, yarn, dynamic: longest sequence before the stretching")
    R_(PC_MODEL_VLM, "decoder", "rope_beta_fast", vlm.decoder.rope.beta_fast, 32, 0, 1e6, "yarn: waves that turn more often within original_max stay")
    R_(PC_MODEL_VLM, "decoder", "rope_beta_slow", vlm.decoder.rope.beta_slow, 1, 0, 1e6, "yarn: waves that turn less often are stretched in full")
    R_(PC_MODEL_VLM, "decoder", "rope_attn_factor", vlm.decoder.rope.attn_factor, 0, 0, 1e3, "yarn: factor of cosines and sines; 0: 0.1 ln(factor) + 1")
    B_(PC_MODEL_VLM, "decoder", "rope_ramp_exact", vlm.decoder.rope.ramp_exact, 0, "yarn: the ramp does not begin and end at whole frequencies")
    C_(PC_MODEL_VLM, "decoder", "recompute", vlm.decoder.recompute, 0, recomputes, "block: keep a block's input alone and run it again in backward")
};
// clang-format on
enum { ROWS = sizeof rows / sizeof *rows };

static void *place(pc_model_config *c, const row *r)
{
    return (char *)c + r->at;
}

static void put(pc_model_config *c, const row *r, double value)
{
    switch (r->kind) {
    case INT:
    case SET: *(int64_t *)place(c, r) = (int64_t)value; break;
    case REAL: *(double *)place(c, r) = value; break;
    case BOOL: *(bool *)place(c, r) = value != 0.0; break;
    case CHOICE: *(int *)place(c, r) = (int)value; break;
    case PAIRS: *(pc_pinpoints *)place(c, r) = (pc_pinpoints){0}; break; // the default: none
    }
}

static double get(const pc_model_config *c, const row *r)
{
    const void *p = (const char *)c + r->at;
    switch (r->kind) {
    case INT:
    case SET: return (double)*(const int64_t *)p;
    case REAL: return *(const double *)p;
    case BOOL: return *(const bool *)p;
    case CHOICE: return *(const int *)p;
    case PAIRS: break; // no number
    }
    return 0.0;
}

static int count(const char *const *list)
{
    int n = 0;
    while (list[n]) n++;
    return n;
}

static bool applies(const row *r, pc_model_kind model)
{
    return r->model == BOTH || r->model == (int)model;
}

static const char *dot(const row *r)
{
    return *r->section ? "." : "";
}

static pc_status wrong(const char *section, const char *key, const json_t *v, const char *expected)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    const pc_status st = pc_fail(PC_ERR_INPUT, "%s%s%s: %.60s; expected %s", section,
                                 *section && *key ? "." : "", key, text ? text : "?", expected);
    free(text);
    return st;
}

/* "none, block" */
static void list_choices(char *out, size_t size, const char *const *choices)
{
    out[0] = '\0';
    for (int i = 0; choices[i]; i++) {
        const size_t used = strlen(out);
        snprintf(out + used, size - used, "%s%s", i ? ", " : "", choices[i]);
    }
}

static void range_text(char *out, size_t size, const row *r)
{
    if (r->kind == CHOICE)
        list_choices(out, size, r->choices);
    else if (r->kind == BOOL)
        snprintf(out, size, "true, false");
    else
        snprintf(out, size, "%.10g .. %.10g", r->min, r->max);
}

static pc_status read_pairs(pc_pinpoints *out, const row *r, const json_t *v)
{
    char expected[96];
    snprintf(expected, sizeof expected, "at most %d pairs [height, width] of %.0f .. %.0f",
             PC_PINPOINTS_MAX, r->min, r->max);
    const size_t n = json_array_size(v);
    if (!json_is_array(v) || n > PC_PINPOINTS_MAX) return wrong(r->section, r->key, v, expected);
    out->count = (int)n;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < 2; k++) {
            const json_t *pair = json_array_get(v, i), *side = json_array_get(pair, k);
            const double value = json_is_integer(side) ? json_number_value(side) : 0.0;
            if (json_array_size(pair) != 2 || !(value >= r->min && value <= r->max))
                return wrong(r->section, r->key, v, expected);
            out->hw[i][k] = (int32_t)value;
        }
    return PC_OK;
}

static json_t *pairs_json(const pc_pinpoints *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->count && list; i++)
        if (json_array_append_new(list, json_pack("[i,i]", p->hw[i][0], p->hw[i][1]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static pc_status read_set(int64_t *out, const row *r, const json_t *v)
{
    char expected[96];
    int64_t set = 0;
    snprintf(expected, sizeof expected, "a list of whole numbers in 0 .. %.10g", r->max);
    if (!json_is_array(v)) return wrong(r->section, r->key, v, expected);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *member = json_array_get(v, i);
        const json_int_t value = json_is_integer(member) ? json_integer_value(member) : -1;
        if (value < 0 || value > (json_int_t)r->max) return wrong(r->section, r->key, v, expected);
        set |= (int64_t)1 << value;
    }
    *out = set;
    return PC_OK;
}

static json_t *set_json(int64_t set)
{
    json_t *list = json_array();
    for (int i = 0; list && set >> i; i++)
        if (set >> i & 1 && json_array_append_new(list, json_integer(i))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* "2, 5" */
static void set_text(char *out, size_t size, int64_t set)
{
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; set >> i && used < size; i++)
        if (set >> i & 1)
            used += (size_t)snprintf(out + used, size - used, "%s%d", used ? ", " : "", i);
}

static pc_status read_value(pc_model_config *c, const row *r, const json_t *v)
{
    char expected[256] = "one of ";
    if (r->kind == CHOICE) {
        const size_t used = strlen(expected);
        list_choices(expected + used, sizeof expected - used, r->choices);
        if (!json_is_string(v)) return wrong(r->section, r->key, v, expected);
        const char *word = json_string_value(v);
        for (int i = 0; r->choices[i]; i++)
            if (!strcmp(word, r->choices[i])) {
                put(c, r, i);
                return PC_OK;
            }
        const char *near = pc_nearest(word, r->choices, count(r->choices));
        if (near) {
            const size_t end = strlen(expected);
            snprintf(expected + end, sizeof expected - end, " (did you mean %s?)", near);
        }
        return wrong(r->section, r->key, v, expected);
    }
    if (r->kind == PAIRS) return read_pairs(place(c, r), r, v);
    if (r->kind == SET) return read_set(place(c, r), r, v);
    if (r->kind == BOOL) {
        if (!json_is_boolean(v)) return wrong(r->section, r->key, v, "true or false");
        put(c, r, json_is_true(v));
        return PC_OK;
    }
    const bool whole = r->kind == INT;
    snprintf(expected, sizeof expected, "%s in %.10g .. %.10g",
             whole ? "a whole number" : "a number", r->min, r->max);
    if (whole ? !json_is_integer(v) : !json_is_number(v))
        return wrong(r->section, r->key, v, expected);
    const double value = json_number_value(v);
    if (!(value >= r->min && value <= r->max)) return wrong(r->section, r->key, v, expected);
    put(c, r, value);
    return PC_OK;
}

/* Every name in `object` must be a key of the section, or at the top level the name of a section. */
static pc_status known_keys(const json_t *object, const char *section, pc_model_kind model)
{
    const char *names[ROWS + 1];
    int n = 0;
    for (int i = 0; i < ROWS; i++) {
        const row *r = &rows[i];
        if (!applies(r, model)) continue;
        if (!strcmp(r->section, section)) names[n++] = r->key;
        // A section's rows stand together: its name is new when the row before has another.
        const bool first = *r->section && (i == 0 || strcmp(rows[i - 1].section, r->section));
        if (!*section && first) names[n++] = r->section;
    }
    if (!*section) names[n++] = "kind";
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)object, key, v)
    {
        bool known = false;
        for (int i = 0; i < n; i++) known = known || !strcmp(names[i], key);
        if (known) continue;
        const char *near = pc_nearest(key, names, n);
        return pc_fail(PC_ERR_INPUT, "%s%s%s: there is no such key%s%s%s", section,
                       *section ? "." : "", key, near ? "; did you mean '" : "", near ? near : "",
                       near ? "'?" : "");
    }
    return PC_OK;
}

static pc_status read_kind(pc_model_config *out, const json_t *json)
{
    if (!json_is_object(json)) return wrong("model", "", json, "an object {\"kind\": ...}");
    const json_t *word = json_object_get(json, "kind");
    if (!word) return pc_fail(PC_ERR_INPUT, "kind: is missing; expected clip or vlm");
    for (int i = 0; kinds[i]; i++)
        if (json_is_string(word) && !strcmp(json_string_value(word), kinds[i])) {
            out->kind = (pc_model_kind)i;
            return PC_OK;
        }
    return wrong("", "kind", word, "clip or vlm");
}

static pc_status validate(const pc_model_config *c)
{
    return c->kind == PC_MODEL_CLIP ? pc_clip_validate(&c->clip) : pc_vlm_validate(&c->vlm);
}

/* The object that a section's keys stand in; NULL when the description leaves the section out. */
static pc_status section_object(const json_t **out, const json_t *json, const char *section,
                                pc_model_kind model)
{
    *out = *section ? json_object_get(json, section) : json;
    if (!*out) return PC_OK;
    if (!json_is_object(*out)) return wrong(section, "", *out, "an object of keys");
    return known_keys(*out, section, model);
}

pc_status pc_model_config_from_json(pc_model_config *out, const json_t *json)
{
    pc_model_config c = {0};
    bool derive_it[ROWS] = {false};
    pc_status st = read_kind(&c, json);
    if (st) return st;
    const char *section = NULL;
    const json_t *object = NULL;
    for (int i = 0; i < ROWS; i++) {
        const row *r = &rows[i];
        if (!applies(r, c.kind)) continue;
        if (!section || strcmp(section, r->section)) {
            section = r->section;
            if ((st = section_object(&object, json, section, c.kind))) return st;
        }
        const json_t *v = object ? json_object_get(object, r->key) : NULL;
        const bool required = !r->derived && r->kind == INT && r->def < r->min;
        if (!v && required)
            return pc_fail(PC_ERR_INPUT, "%s%s%s: is missing (%s)", r->section, dot(r), r->key,
                           r->help);
        if (v && (st = read_value(&c, r, v))) return st;
        if (!v && !r->derived) put(&c, r, r->def);
        derive_it[i] = !v && r->derived;
    }
    for (int i = 0; i < ROWS; i++) // from keys anywhere in the description
        if (derive_it[i]) put(&c, &rows[i], rows[i].derived(&c));
    // A description without a tower's section is one of a text decoder.
    if (c.kind == PC_MODEL_VLM && !json_object_get(json, "vision")) c.vlm.vision.L = 0;
    if ((st = validate(&c))) return st;
    *out = c;
    return PC_OK;
}

static json_t *value_json(const pc_model_config *c, const row *r)
{
    const double value = get(c, r);
    switch (r->kind) {
    case INT: return json_integer((json_int_t)value);
    case REAL: return json_real(value);
    case BOOL: return json_boolean(value != 0.0);
    case CHOICE: return json_string(r->choices[(int)value]);
    case PAIRS: return pairs_json((const pc_pinpoints *)(const void *)((const char *)c + r->at));
    case SET: return set_json(*(const int64_t *)(const void *)((const char *)c + r->at));
    }
    return NULL;
}

json_t *pc_model_config_to_json(const pc_model_config *c)
{
    json_t *json = json_object(), *object = json;
    const char *section = "";
    const bool towerless = c->kind == PC_MODEL_VLM && c->vlm.vision.L == 0;
    int failed = json_object_set_new(json, "kind", json_string(kinds[c->kind]));
    for (int i = 0; i < ROWS && !failed; i++) {
        const row *r = &rows[i];
        if (!applies(r, c->kind)) continue;
        const bool tower = !strcmp(r->section, "vision") || !strcmp(r->section, "projector");
        if (towerless && tower) continue;
        if (!strcmp(r->section, "high") && (towerless || c->vlm.visual != PC_VISUAL_HYBRID))
            continue;
        if (strcmp(section, r->section)) {
            section = r->section;
            object = json_object();
            failed = json_object_set_new(json, section, object);
        }
        if (!failed) failed = json_object_set_new(object, r->key, value_json(c, r));
    }
    if (!failed) return json;
    json_decref(json);
    pc_fail(PC_ERR_MEMORY, "the description of a model");
    return NULL;
}

/* The tower's rows stand in both kinds of model and are shown once. */
static bool repeated(const row *r)
{
    for (const row *other = rows; r->model == PC_MODEL_VLM && other < r; other++)
        if (other->model == PC_MODEL_CLIP && !strcmp(other->section, r->section) &&
            !strcmp(other->key, r->key))
            return true;
    return false;
}

void pc_model_config_help(void (*line)(void *arg, const char *section, const char *key,
                                       const char *type, const char *def, const char *range,
                                       const char *help),
                          void *arg)
{
    static const char *const types[] = {"integer", "number", "boolean",
                                        "choice",  "pairs",  "integers"};
    line(arg, "", "kind", "choice", "-", "clip, vlm",
         "two towers, or tower, projector and decoder");
    for (int i = 0; i < ROWS; i++) {
        const row *r = &rows[i];
        char def[64], range[256];
        if (repeated(r)) continue;
        if (r->derived)
            snprintf(def, sizeof def, "%s", r->derived_text);
        else if (r->kind == BOOL)
            snprintf(def, sizeof def, "%s", r->def != 0.0 ? "true" : "false");
        else if (r->kind == CHOICE)
            snprintf(def, sizeof def, "%s", r->choices[(int)r->def]);
        else if (r->kind == SET)
            set_text(def, sizeof def, (int64_t)r->def);
        else if (r->kind == PAIRS || r->def < r->min)
            snprintf(def, sizeof def, "-");
        else
            snprintf(def, sizeof def, "%.10g", r->def);
        range_text(range, sizeof range, r);
        line(arg, r->section, r->key, types[r->kind], def, range, r->help);
    }
}

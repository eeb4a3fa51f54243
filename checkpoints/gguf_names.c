/*
 * gguf_names.c - see gguf_names.h.
 */
#include "checkpoints/gguf_names.h"

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
#define D4(a, b, c, d)                                                                             \
    4, (const int64_t[])                                                                           \
    {                                                                                              \
        a, b, c, d                                                                                 \
    }

const char *pc_gguf_architecture(const pc_model_config *c)
{
    const pc_decoder_config *d = &c->vlm.decoder;
    if (pc_decoder_axes(d)) return "qwen2vl";
    return d->qkv_bias ? "qwen2" : "llama";
}

const pc_vision_config *pc_gguf_tower(const pc_model_config *c)
{
    const pc_vision_config *v = c->kind == PC_MODEL_CLIP ? &c->clip.vision : &c->vlm.vision;
    return v->L ? v : NULL;
}

const pc_decoder_config *pc_gguf_decoder(const pc_model_config *c)
{
    return c->kind == PC_MODEL_VLM ? &c->vlm.decoder : NULL;
}

/* ---- what files can say ---- */

static pc_status decoder_sayable(const pc_decoder_config *d)
{
    const char *what =
        d->qk_norm ? "query/key norms"
        : d->rope.scaling == PC_ROPE_DYNAMIC
            ? "rotary positions by the length of a sequence (dynamic)"
        : d->rope.scaling == PC_ROPE_YARN && d->rope.ramp_exact ? "yarn with truncate: false"
        : d->rope_2d                         ? "rotary positions in two directions"
        : pc_decoder_axes(d) && !d->qkv_bias ? "several positions a row without biases"
                                             : NULL;
    if (what) return pc_fail(PC_ERR_INPUT, "a GGUF text file has no place for %s", what);
    return PC_OK;
}

static pc_status tower_sayable(const pc_vision_config *v)
{
    const char *what = v->stem != PC_STEM_PATCH ? "a stem of convolutions"
                       : v->qk_norm             ? "query/key norms in the tower"
                       : v->act == PC_ACT_RELU  ? "ReLU in the tower"
                                                : NULL;
    if (what) return pc_fail(PC_ERR_INPUT, "a GGUF mmproj file has no place for %s", what);
    return PC_OK;
}

static pc_status projector_sayable(const pc_vlm_config *c)
{
    const pc_projector_config *p = &c->projector;
    const bool square = c->visual == PC_VISUAL_SQUARE || c->visual == PC_VISUAL_TILES;
    const bool gelu = p->act == PC_ACT_GELU || p->act == PC_ACT_GELU_TANH;
    const char *what = NULL;
    if (c->visual == PC_VISUAL_GRID)
        what = c->vision.frames > 2 ? "patches of more than two frames" : NULL;
    else if (!square)
        what = "eyes of this kind";
    else if (p->depth > 2)
        what = "a projector of more than two linears";
    else if (p->positions)
        what = "positions behind the projector";
    else if (p->depth > 1 && !gelu)
        what = "another activation than GELU in the projector";
    else if (c->also[0])
        what = "several hidden states side by side";
    else if (c->keep_class && c->vision.class_token)
        what = "the class token's feature";
    else if (c->image_bidirectional)
        what = "image rows that see each other";
    if (what) return pc_fail(PC_ERR_INPUT, "a GGUF mmproj file has no place for %s", what);
    return PC_OK;
}

pc_status pc_gguf_sayable(const pc_model_config *c, pc_gguf_part part)
{
    const pc_vision_config *v = pc_gguf_tower(c);
    if (part == PC_GGUF_DECODER) {
        if (c->kind != PC_MODEL_VLM)
            return pc_fail(PC_ERR_INPUT,
                           "a model of two towers has no decoder, which a GGUF text file is");
        return decoder_sayable(&c->vlm.decoder);
    }
    if (!v) return pc_fail(PC_ERR_INPUT, "the model has no vision tower for a GGUF mmproj file");
    const pc_status st = tower_sayable(v);
    return st || c->kind == PC_MODEL_CLIP ? st : projector_sayable(&c->vlm);
}

/* ---- the decoder ---- */

static void add(pc_aliases *out, const char *theirs, const char *ours, int64_t row, int64_t rows,
                int64_t row_len)
{
    if (row_len)
        pc_alias_add(out, ours, row, D2(rows, row_len), "%s", theirs);
    else
        pc_alias_add(out, ours, row, D1(rows), "%s", theirs);
}

static void decoder_block(pc_aliases *out, const pc_decoder_config *d, long long i)
{
    const int64_t C = d->C, F = d->F, q = d->H * d->D, kv = d->G * d->D;
    const struct {
        const char *theirs, *ours;
        int64_t row, rows, row_len;
        bool skip;
    } list[] = {
        {"attn_norm.weight", "norm1.weight", 0, C, 0, false},
        {"attn_q.weight", "attn.qkv.weight", 0, q, C, false},
        {"attn_q.bias", "attn.qkv.bias", 0, q, 0, !d->qkv_bias},
        {"attn_k.weight", "attn.qkv.weight", q, kv, C, false},
        {"attn_k.bias", "attn.qkv.bias", q, kv, 0, !d->qkv_bias},
        {"attn_v.weight", "attn.qkv.weight", q + kv, kv, C, false},
        {"attn_v.bias", "attn.qkv.bias", q + kv, kv, 0, !d->qkv_bias},
        {"attn_output.weight", "attn.out.weight", 0, C, q, false},
        {"ffn_norm.weight", "norm2.weight", 0, C, 0, false},
        {"ffn_gate.weight", "mlp.gate_up.weight", 0, F, C, false},
        {"ffn_up.weight", "mlp.gate_up.weight", F, F, C, false},
        {"ffn_down.weight", "mlp.down.weight", 0, C, F, false},
    };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        char ours[PC_NAME_MAX], theirs[64];
        if (list[k].skip) continue;
        snprintf(ours, sizeof ours, "decoder.blocks.%lld.%s", i, list[k].ours);
        snprintf(theirs, sizeof theirs, "blk.%lld.%s", i, list[k].theirs);
        add(out, theirs, ours, list[k].row, list[k].rows, list[k].row_len);
    }
}

static void decoder_aliases(pc_aliases *out, const pc_decoder_config *d)
{
    add(out, "token_embd.weight", "decoder.tokens", 0, d->V, d->C);
    for (int64_t l = 0; l < d->L; l++) decoder_block(out, d, l);
    add(out, "output_norm.weight", "decoder.norm_final.weight", 0, d->C, 0);
    if (!d->tied) add(out, "output.weight", "decoder.head", 0, d->V, d->C);
}

/* ---- tower and projector ---- */

// "<theirs>.weight" and "<theirs>.bias" of a linear (rows, row_len) or, with row_len 0, of a norm.
static void add_pair(pc_aliases *out, const char *theirs, const char *ours, int64_t row,
                     int64_t rows, int64_t row_len)
{
    char us[PC_NAME_MAX + 8], them[72];
    snprintf(us, sizeof us, "%s.weight", ours);
    snprintf(them, sizeof them, "%s.weight", theirs);
    add(out, them, us, row, rows, row_len);
    snprintf(us, sizeof us, "%s.bias", ours);
    snprintf(them, sizeof them, "%s.bias", theirs);
    add(out, them, us, row, rows, 0);
}

static void tower_block(pc_aliases *out, const pc_vision_config *v, long long i, bool swapped)
{
    const int64_t C = v->C, F = v->F;
    const struct {
        const char *theirs, *ours;
        int64_t row, rows, row_len;
    } list[] = {
        {"ln1", "norm1", 0, C, 0},
        {"attn_q", "attn.qkv", 0, C, C},
        {"attn_k", "attn.qkv", C, C, C},
        {"attn_v", "attn.qkv", 2 * C, C, C},
        {"attn_out", "attn.out", 0, C, C},
        {"ln2", "norm2", 0, C, 0},
        {swapped ? "ffn_down" : "ffn_up", "mlp.fc1", 0, F, C},
        {swapped ? "ffn_up" : "ffn_down", "mlp.fc2", 0, C, F},
    };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        char ours[PC_NAME_MAX], theirs[64];
        snprintf(ours, sizeof ours, "vision.blocks.%lld.%s", i, list[k].ours);
        snprintf(theirs, sizeof theirs, "v.blk.%lld.%s", i, list[k].theirs);
        add_pair(out, theirs, ours, list[k].row, list[k].rows, list[k].row_len);
    }
}

static void tower_aliases(pc_aliases *out, const pc_vision_config *v, bool swapped)
{
    const int64_t C = v->C, p = v->patch;
    if (v->class_token) add(out, "v.class_embd", "vision.class_token", 0, C, 0);
    pc_alias_add(out, "vision.stem.0.weight", 0, D4(C, 3, p, p), "v.patch_embd.weight");
    if (v->patch_bias) add(out, "v.patch_embd.bias", "vision.stem.0.bias", 0, C, 0);
    add(out, "v.position_embd.weight", "vision.positions", 0, pc_vision_tokens(v), C);
    if (v->pre_norm) add_pair(out, "v.pre_ln", "vision.norm_pre", 0, C, 0);
    for (int64_t l = 0; l < v->L; l++) tower_block(out, v, l, swapped);
}

static void projector_aliases(pc_aliases *out, const pc_projector_config *p)
{
    for (int64_t i = 0; i < p->depth; i++) {
        char ours[PC_NAME_MAX], theirs[32];
        snprintf(ours, sizeof ours, "projector.linear.%lld", (long long)i);
        snprintf(theirs, sizeof theirs, "mm.%lld", (long long)(2 * i));
        const int64_t I = i ? p->out : p->in;
        if (p->bias) {
            add_pair(out, theirs, ours, 0, p->out, I);
        } else {
            strcat(ours, ".weight");
            strcat(theirs, ".weight");
            add(out, theirs, ours, 0, p->out, I);
        }
    }
}

// Qwen2-VL: no positions, a stem of a tensor a frame, the norm of the merger where others have the tower's.
static void grid_aliases(pc_aliases *out, const pc_vlm_config *c, bool swapped)
{
    const pc_vision_config *v = &c->vision;
    const int64_t C = v->C, p = v->patch, M = c->merge * c->merge * C;
    for (int64_t t = 0; t < v->frames; t++)
        pc_alias_add(out, "vision.stem.0.weight", 0, D4(C, 3, p, p), "v.patch_embd.weight%s",
                     t ? ".1" : "");
    for (int64_t l = 0; l < v->L; l++) tower_block(out, v, l, swapped);
    add_pair(out, "v.post_ln", "projector.norm", 0, C, 0);
    add_pair(out, "mm.0", "projector.linear.0", 0, M, M);
    add_pair(out, "mm.2", "projector.linear.1", 0, c->projector.out, M);
}

pc_status pc_gguf_aliases(pc_aliases *out, const pc_model_config *c, pc_gguf_part part,
                          pc_gguf_spelling spelling)
{
    const pc_vision_config *v = pc_gguf_tower(c);
    const bool vlm = c->kind == PC_MODEL_VLM;
    *out = (pc_aliases){0};
    if (part == PC_GGUF_DECODER) {
        decoder_aliases(out, &c->vlm.decoder);
        return out->status;
    }
    if (vlm && c->vlm.visual == PC_VISUAL_GRID) {
        grid_aliases(out, &c->vlm, spelling.swapped);
        return out->status;
    }
    tower_aliases(out, v, spelling.swapped);
    // llama.cpp applies this norm where a file has it: in a VLM only if ours does.
    if (!vlm || c->vlm.feature_norm) add_pair(out, "v.post_ln", "vision.norm_post", 0, v->C, 0);
    if (spelling.implied_norm) {
        add(out, PC_GGUF_ONES, "vision.norm_post.weight", 0, v->C, 0);
        add(out, PC_GGUF_ZEROS, "vision.norm_post.bias", 0, v->C, 0);
    }
    if (vlm) projector_aliases(out, &c->vlm.projector);
    if (vlm && c->vlm.visual == PC_VISUAL_TILES)
        add(out, spelling.newline ? "v.image_newline" : "model.image_newline", "projector.newline",
            0, c->vlm.projector.out, 0);
    return out->status;
}

/* ---- the order of rows ---- */

int64_t pc_gguf_permuted(const pc_alias *a, const pc_decoder_config *d, bool llama)
{
    if (!llama) return 0;
    if (strstr(a->theirs, ".attn_q.")) return d->H;
    return strstr(a->theirs, ".attn_k.") ? d->G : 0;
}

void pc_gguf_permute_head(float *rows, float *room, int64_t D, int64_t row)
{
    const size_t size = (size_t)row * sizeof *rows;
    memcpy(room, rows, (size_t)D * size);
    for (int64_t j = 0; j < D / 2; j++) {
        memcpy(rows + 2 * j * row, room + j * row, size);
        memcpy(rows + (2 * j + 1) * row, room + (j + D / 2) * row, size);
    }
}

void pc_gguf_unpermute_head(float *rows, float *room, int64_t D, int64_t row)
{
    const size_t size = (size_t)row * sizeof *rows;
    memcpy(room, rows, (size_t)D * size);
    for (int64_t j = 0; j < D / 2; j++) {
        memcpy(rows + j * row, room + 2 * j * row, size);
        memcpy(rows + (j + D / 2) * row, room + (2 * j + 1) * row, size);
    }
}

/* ---- frames of a stem ---- */

int pc_gguf_frame(const pc_alias *a, const pc_model_config *c)
{
    if (c->kind != PC_MODEL_VLM || c->vlm.visual != PC_VISUAL_GRID) return -1;
    if (!strcmp(a->theirs, "v.patch_embd.weight")) return 0;
    return strcmp(a->theirs, "v.patch_embd.weight.1") ? -1 : 1;
}

void pc_gguf_take_frame(float *out, const float *ours, const pc_vision_config *v, int t)
{
    const int64_t n = v->patch * v->patch;
    for (int64_t i = 0; i < 3 * v->C; i++)
        memcpy(out + i * n, ours + (i * v->frames + t) * n, (size_t)n * sizeof *out);
}

void pc_gguf_put_frame(float *ours, const float *in, const pc_vision_config *v, int t)
{
    const int64_t n = v->patch * v->patch;
    for (int64_t i = 0; i < 3 * v->C; i++)
        memcpy(ours + (i * v->frames + t) * n, in + i * n, (size_t)n * sizeof *in);
}

/* ---- llama3 scaling as divisors ---- */

// w = M inv / 2 pi, how often a frequency turns within the original length: w > b keeps, w < a divides by s, between
// them 1/divisor runs linearly from 1/s to 1.
static double divisor(const pc_rope_config *r, double theta, int64_t j, int64_t D)
{
    const double inv = pow(theta, -2.0 * (double)j / (double)D);
    const double w = r->original_max * inv / (2.0 * acos(-1.0));
    if (w > r->high_freq) return 1.0;
    if (w < r->low_freq) return r->factor;
    const double t = (w - r->low_freq) / (r->high_freq - r->low_freq);
    return 1.0 / ((1.0 - t) / r->factor + t);
}

void pc_gguf_rope_divisors(float *out, const pc_rope_config *r, int64_t D)
{
    for (int64_t j = 0; j < D / 2; j++) out[j] = (float)divisor(r, r->theta, j, D);
}

/*
 * Only the ratios of the original length and the two limits show in the divisors, so the lower limit is 1. Between
 * the limits t = (w - a) / (b - a) is linear in inv: two points of it, the widest apart, give the line, and with it
 * where it meets t = 0 and t = 1. With one point the line through it that leaves its neighbours outside; with none a
 * step between the last 1 and the first `factor`.
 */
bool pc_gguf_rope_from_divisors(pc_rope_config *r, const float *divisors, int64_t D)
{
    const int64_t half = D / 2;
    const double turn = 2.0 * acos(-1.0);
    double s = 1.0;
    for (int64_t j = 0; j < half; j++) {
        if (!(divisors[j] >= 1.0f) || !isfinite(divisors[j])) return false;
        s = fmax(s, (double)divisors[j]);
    }
    if (s <= 1.0) { // nothing is divided
        r->scaling = PC_ROPE_NONE;
        return true;
    }
    int64_t kept = 0, first = -1, last = -1; // how many are 1; the first and last between
    for (int64_t j = 0; j < half; j++) {
        const bool between =
            (double)divisors[j] > 1.0 + 1e-6 && (double)divisors[j] < s * (1.0 - 1e-6);
        if (j == kept && (double)divisors[j] <= 1.0 + 1e-6) kept++;
        if (between && first < 0) first = j;
        if (between) last = j;
    }
#define INV(j) pow(r->theta, -2.0 * (double)(j) / (double)D)
#define T(j)   ((1.0 / (double)divisors[j] - 1.0 / s) / (1.0 - 1.0 / s))
    double zero, one; // inv at which t is 0 and 1
    if (first < 0) {
        one = kept ? 0.5 * (INV(kept - 1) + INV(kept)) : 2.0;
        zero = one * (1.0 - 1e-9);
    } else if (first == last) {
        const double t = T(first), above = 0.5 * (INV(first - 1) + INV(first)) - INV(first);
        const double below = INV(first) - 0.5 * (INV(first) + INV(first + 1));
        const double slope = fmax((1.0 - t) / above, t / below);
        zero = INV(first) - t / slope;
        one = INV(first) + (1.0 - t) / slope;
    } else {
        const double slope = (T(first) - T(last)) / (INV(first) - INV(last));
        if (!(slope > 0.0)) return false;
        zero = INV(last) - T(last) / slope;
        one = INV(first) + (1.0 - T(first)) / slope;
    }
#undef INV
#undef T
    if (!(zero > 0.0) || !(one > zero)) return false;
    r->scaling = PC_ROPE_LLAMA3;
    r->factor = s;
    r->low_freq = 1.0;
    r->high_freq = one / zero;
    r->original_max = turn / zero;
    for (int64_t j = 0; j < half; j++)
        if (!(fabs(divisor(r, r->theta, j, D) / (double)divisors[j] - 1.0) <= 1e-5)) return false;
    return true;
}

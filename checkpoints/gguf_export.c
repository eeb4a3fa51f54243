/*
 * gguf_export.c - see gguf_export.h: which type each tensor takes, metadata, and the numbers in a stream.
 */
#include "checkpoints/gguf_export.h"

#include "checkpoints/gguf_names.h"
#include "checkpoints/gguf_vocab.h"
#include "model/core/log.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PIECE (1 << 20) // numbers in memory at a time, where a row is not longer

/* ---- types ---- */

static const struct {
    const char *name;
    int type, file_type;
    bool mixed;
    double error, tensor;
} stores[] = {
    // error: of logits, relative: twice what the worst of the small reference models shows, whose random weights suffer
    // more than trained ones. tensor: of one tensor's numbers.
    {"F32", PC_Q_F32, 0, false, 1e-5, 1e-7},     {"F16", PC_Q_F16, 1, false, 3e-3, 6e-4},
    {"BF16", PC_Q_BF16, 32, false, 3e-2, 4e-3},  {"Q8_0", PC_Q_Q8_0, 7, false, 6e-2, 8e-3},
    {"Q6_K", PC_Q_Q6_K, 18, false, 0.1, 2.5e-2}, {"Q5_1", PC_Q_Q5_1, 9, false, 0.4, 5e-2},
    {"Q5_0", PC_Q_Q5_0, 8, false, 0.5, 5e-2},    {"Q4_1", PC_Q_Q4_1, 3, false, 0.8, 0.11},
    {"Q4_0", PC_Q_Q4_0, 2, false, 0.9, 0.11},    {"Q4_K", PC_Q_Q4_K, 14, false, 0.8, 0.11},
    {"Q4_K_S", PC_Q_Q4_K, 14, false, 0.8, 0.11}, {"Q4_K_M", PC_Q_Q4_K, 15, true, 0.8, 0.11},
};
enum { STORES = sizeof stores / sizeof *stores };

static int store_index(const pc_gguf_store *s)
{
    for (int i = 0; i < STORES; i++)
        if (stores[i].type == s->type->id && stores[i].mixed == s->mixed) return i;
    for (int i = 0; i < STORES; i++)
        if (stores[i].type == s->type->id) return i;
    PC_ASSERT(false, "type %s is not written", s->type->name);
    return 0;
}

pc_status pc_gguf_store_named(pc_gguf_store *out, const char *name)
{
    const char *names[STORES];
    for (int i = 0; i < STORES; i++) {
        names[i] = stores[i].name;
        if (strcasecmp(name, names[i])) continue;
        *out = (pc_gguf_store){.type = pc_quant_find(stores[i].type), .mixed = stores[i].mixed};
        return PC_OK;
    }
    const char *near = pc_nearest(name, names, STORES);
    return pc_fail(PC_ERR_INPUT,
                   "type '%.40s' is not written; expected F32, F16, BF16, Q8_0, Q6_K, "
                   "Q5_1, Q5_0, Q4_1, Q4_0, Q4_K_M or Q4_K_S%s%s%s",
                   name, near ? " (nearest: '" : "", near ? near : "", near ? "')" : "");
}

double pc_gguf_store_error(const pc_gguf_store *store)
{
    return stores[store_index(store)].error;
}

double pc_gguf_store_tensor(const pc_gguf_store *store)
{
    return stores[store_index(store)].tensor;
}

// Blocks whose value and down projections weigh most in the result: the first and last eighths, and every third.
static bool more_bits(int64_t i, int64_t L)
{
    return i < L / 8 || i >= 7 * L / 8 || (i - L / 8) % 3 == 2;
}

static const pc_quant_type *mixed_type(const pc_alias *a, const pc_decoder_config *d)
{
    int64_t i = 0;
    const bool value = strstr(a->theirs, ".attn_v.") || strstr(a->theirs, ".ffn_down.");
    const bool head = !strcmp(a->ours, d->tied ? "decoder.tokens" : "decoder.head");
    if (value && sscanf(a->theirs, "blk.%ld.", &i) == 1 && more_bits(i, d->L))
        return pc_quant_find(PC_Q_Q6_K);
    return head ? pc_quant_find(PC_Q_Q6_K) : NULL;
}

// What the type cannot hold takes the next that can.
static const pc_quant_type *fitting(const pc_quant_type *t, int64_t row)
{
    if (row % t->block == 0) return t;
    const pc_quant_type *q8 = pc_quant_find(PC_Q_Q8_0);
    return t->block > q8->block && row % q8->block == 0 ? q8 : pc_quant_find(PC_Q_F16);
}

static bool is_matrix(const pc_alias *a)
{
    return a->rank == 2 && !strstr(a->theirs, "position_embd");
}

static const pc_quant_type *type_of(const pc_alias *a, const pc_gguf_store *s,
                                    const pc_model_config *c, pc_gguf_part part)
{
    const pc_quant_type *f32 = pc_quant_find(PC_Q_F32), *f16 = pc_quant_find(PC_Q_F16);
    if (s->type == f32) return f32;
    if (a->rank == 4) return f16; // the convolution is read as f16 or f32 alone
    if (!is_matrix(a)) return f32;
    const int64_t row = a->dim[1];
    if (part == PC_GGUF_EYES && s->type->block > 1 && !s->quantize_tower) return f16;
    const pc_quant_type *more =
        s->mixed && part == PC_GGUF_DECODER ? mixed_type(a, &c->vlm.decoder) : NULL;
    return fitting(more ? more : s->type, row);
}

// general.file_type: that of most matrices.
static uint32_t file_type(const pc_gguf_store *s, pc_gguf_part part)
{
    if (part == PC_GGUF_EYES && s->type->block > 1 && !s->quantize_tower) return 1;
    return (uint32_t)stores[store_index(s)].file_type;
}

/* ---- metadata ---- */

static void put_text(pc_gguf_writer *w, const char *key, const char *text)
{
    if (text && *text) pc_gguf_put_text(w, key, text);
}

static bool is_address(const char *s)
{
    return !strncmp(s, "http://", 7) || !strncmp(s, "https://", 8);
}

// "org/name" as the hub has it, an address, or a plain name.
static void put_origin(pc_gguf_writer *w, const char *kind, int i, const char *what)
{
    char key[96], text[512];
    const char *slash = strrchr(what, '/');
    snprintf(key, sizeof key, "general.%s.%d.name", kind, i);
    put_text(w, key, slash && slash[1] ? slash + 1 : what);
    const bool hub =
        !is_address(what) && slash && slash == strchr(what, '/') && slash > what && what[0] != '.';
    if (hub) {
        snprintf(key, sizeof key, "general.%s.%d.organization", kind, i);
        snprintf(text, sizeof text, "%.*s", (int)(slash - what), what);
        put_text(w, key, text);
    }
    if (!hub && !is_address(what)) return;
    snprintf(key, sizeof key, "general.%s.%d.repo_url", kind, i);
    snprintf(text, sizeof text, "%s%s%s", hub ? "https://huggingface.co/" : "",
             hub && !strcmp(kind, "dataset") ? "datasets/" : "", what);
    put_text(w, key, text);
}

static void put_origins(pc_gguf_writer *w, const char *kind, const char *const *list, int n)
{
    char key[64];
    if (!n) return;
    snprintf(key, sizeof key, "general.%s.count", kind);
    pc_gguf_put_u32(w, key, (uint32_t)n);
    for (int i = 0; i < n; i++) put_origin(w, kind, i, list[i]);
}

static void put_general(pc_gguf_writer *w, const pc_gguf_source *s, const pc_gguf_store *store,
                        const char *architecture, pc_gguf_part part)
{
    const pc_gguf_about *a = &s->about;
    pc_gguf_put_text(w, "general.architecture", architecture);
    pc_gguf_put_text(w, "general.type", part == PC_GGUF_EYES ? "mmproj" : "model");
    put_text(w, "general.name", a->name);
    put_text(w, "general.author", a->author);
    put_text(w, "general.version", a->version);
    put_text(w, "general.description", a->description);
    put_text(w, "general.url", a->url);
    put_text(w, "general.license", a->license);
    put_text(w, "general.license.link", a->license_link);
    put_origins(w, "base_model", a->base_models, a->base_model_count);
    put_origins(w, "dataset", a->datasets, a->dataset_count);
    pc_gguf_put_u32(w, "general.file_type", file_type(store, part));
    if (store->type->block > 1) pc_gguf_put_u32(w, "general.quantization_version", 2);
}

static const char *in(const char *arch, const char *key, char *buf, size_t size)
{
    snprintf(buf, size, "%s.%s", arch, key);
    return buf;
}

// llama.cpp makes cosines and sines 0.1 ln(factor) + 1 times as large by itself: what is said is the rest.
static void put_yarn(pc_gguf_writer *w, const pc_rope_config *r, const char *arch)
{
    char key[96];
    pc_gguf_put_text(w, in(arch, "rope.scaling.type", key, sizeof key), "yarn");
    pc_gguf_put_f32(w, in(arch, "rope.scaling.factor", key, sizeof key), r->factor);
    pc_gguf_put_u32(w, in(arch, "rope.scaling.original_context_length", key, sizeof key),
                    (uint32_t)llround(r->original_max));
    if (r->attn_factor > 0.0)
        pc_gguf_put_f32(w, in(arch, "rope.scaling.attn_factor", key, sizeof key),
                        r->attn_factor / (0.1 * log(r->factor) + 1.0));
    if (r->beta_fast != 32.0)
        pc_gguf_put_f32(w, in(arch, "rope.scaling.yarn_beta_fast", key, sizeof key), r->beta_fast);
    if (r->beta_slow != 1.0)
        pc_gguf_put_f32(w, in(arch, "rope.scaling.yarn_beta_slow", key, sizeof key), r->beta_slow);
}

static void put_decoder(pc_gguf_writer *w, const pc_decoder_config *d, const char *arch)
{
    char key[96];
    const struct {
        const char *key;
        int64_t v;
    } counts[] = {
        {"context_length", d->T},
        {"embedding_length", d->C},
        {"block_count", d->L},
        {"feed_forward_length", d->F},
        {"attention.head_count", d->H},
        {"attention.head_count_kv", d->G},
        {"attention.key_length", d->D},
        {"attention.value_length", d->D},
        {"rope.dimension_count", d->D},
        {"vocab_size", d->V},
        {"attention.sliding_window", d->window}, // last: only where there is one
    };
    const size_t n = sizeof counts / sizeof *counts - (d->window ? 0 : 1);
    for (size_t i = 0; i < n; i++)
        pc_gguf_put_u32(w, in(arch, counts[i].key, key, sizeof key), (uint32_t)counts[i].v);
    pc_gguf_put_f32(w, in(arch, "attention.layer_norm_rms_epsilon", key, sizeof key), d->eps);
    pc_gguf_put_f32(w, in(arch, "rope.freq_base", key, sizeof key), d->rope.theta);
    if (d->rope.scaling == PC_ROPE_LINEAR) {
        pc_gguf_put_text(w, in(arch, "rope.scaling.type", key, sizeof key), "linear");
        pc_gguf_put_f32(w, in(arch, "rope.scaling.factor", key, sizeof key), d->rope.factor);
    }
    if (d->rope.scaling == PC_ROPE_YARN) put_yarn(w, &d->rope, arch);
}

static void put_sections(pc_gguf_writer *w, const pc_decoder_config *d, const char *arch)
{
    char key[96];
    int32_t list[PC_ROPE_AXES + 1] = {0};
    for (int i = 0; i < PC_ROPE_AXES; i++) list[i] = (int32_t)d->mrope[i];
    pc_gguf_put_i32s(w, in(arch, "rope.dimension_sections", key, sizeof key), list,
                     PC_ROPE_AXES + 1);
}

static const char *act_name(pc_act act)
{
    return act == PC_ACT_GELU_TANH ? "gelu_pytorch_tanh" : "gelu";
}

// The presence of the pairs makes llama.cpp cut images into tiles.
static void put_tiles(pc_gguf_writer *w, const pc_vlm_config *c)
{
    int32_t wh[2 * PC_PINPOINTS_MAX];
    for (int i = 0; i < c->pinpoints.count; i++) {
        wh[2 * i] = c->pinpoints.hw[i][1];
        wh[2 * i + 1] = c->pinpoints.hw[i][0];
    }
    pc_gguf_put_i32s(w, "clip.vision.image_grid_pinpoints", wh, 2 * c->pinpoints.count);
    pc_gguf_put_text(w, "clip.vision.mm_patch_merge_type", "spatial_unpad");
    if (c->max_tiles) pc_gguf_put_u32(w, "percept.max_tiles", (uint32_t)c->max_tiles);
}

// All of our settings: the file's own keys say mean and deviation alone.
static pc_status put_image(pc_gguf_writer *w, const pc_image_config *image)
{
    json_t *json = pc_image_config_to_json(image);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text) return pc_fail(PC_ERR_MEMORY, "image settings");
    pc_gguf_put_text(w, "percept.image", text);
    free(text);
    return PC_OK;
}

static pc_status put_eyes(pc_gguf_writer *w, const pc_gguf_source *s)
{
    const pc_model_config *c = s->config;
    const pc_vision_config *v = pc_gguf_tower(c);
    const bool vlm = c->kind == PC_MODEL_VLM;
    const bool merger = vlm && c->vlm.visual == PC_VISUAL_GRID;
    const pc_image_config usual = pc_image_config_default(v->image_size);
    const pc_image_config *image = s->image ? s->image : &usual;
    float mean[3], std[3];
    const struct {
        const char *key;
        int64_t v;
    } counts[] = {
        {"clip.vision.image_size", v->image_size},
        {"clip.vision.patch_size", v->patch},
        {"clip.vision.embedding_length", v->C},
        {"clip.vision.feed_forward_length", v->F},
        {"clip.vision.projection_dim", vlm ? c->vlm.projector.out : v->E},
        {"clip.vision.block_count", v->L},
        {"clip.vision.attention.head_count", v->H},
    };
    pc_gguf_put_bool(w, "clip.has_vision_encoder", true);
    if (vlm && !merger) pc_gguf_put_bool(w, "clip.has_llava_projector", true);
    if (vlm) pc_gguf_put_text(w, "clip.projector_type", merger ? "qwen2vl_merger" : "mlp");
    if (merger) pc_gguf_put_u32(w, "clip.vision.spatial_merge_size", (uint32_t)c->vlm.merge);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        pc_gguf_put_u32(w, counts[i].key, (uint32_t)counts[i].v);
    pc_gguf_put_f32(w, "clip.vision.attention.layer_norm_epsilon", v->eps);
    for (int i = 0; i < 3; i++) {
        mean[i] = (float)image->mean[i];
        std[i] = (float)image->std[i];
    }
    pc_gguf_put_f32s(w, "clip.vision.image_mean", mean, 3);
    pc_gguf_put_f32s(w, "clip.vision.image_std", std, 3);
    const bool gelu = v->act == PC_ACT_GELU || v->act == PC_ACT_GELU_TANH;
    if (gelu) {
        pc_gguf_put_bool(w, "clip.use_gelu", true);
        pc_gguf_put_text(w, "percept.vision.hidden_act", act_name(v->act));
    }
    if (v->act == PC_ACT_SILU) pc_gguf_put_bool(w, "clip.use_silu", true);
    // All blocks are in the file. Without the key all but the last run, which is what -2 means.
    if (vlm && !merger && c->vlm.feature_layer != -2) {
        const int32_t layer = (int32_t)(v->L + 1 + c->vlm.feature_layer);
        pc_gguf_put_i32s(w, "clip.vision.feature_layer", &layer, 1);
    }
    if (vlm) pc_gguf_put_text(w, "percept.projector.act", act_name(c->vlm.projector.act));
    if (vlm && !merger) pc_gguf_put_bool(w, "percept.vision.post_norm", v->post_norm);
    if (vlm && c->vlm.visual == PC_VISUAL_TILES) put_tiles(w, &c->vlm);
    return s->image ? put_image(w, s->image) : PC_OK;
}

static pc_status put_text_file(pc_gguf_writer *w, const pc_gguf_source *s)
{
    const pc_model_config *c = s->config;
    const pc_decoder_config *d = &c->vlm.decoder;
    pc_status st = PC_OK;
    put_decoder(w, d, pc_gguf_architecture(c));
    if (pc_decoder_axes(d)) put_sections(w, d, pc_gguf_architecture(c));
    if (c->vlm.vision.L) pc_gguf_put_u32(w, "percept.image_token_id", (uint32_t)c->vlm.image_id);
    if (c->vlm.vision.L && c->vlm.video_id)
        pc_gguf_put_u32(w, "percept.video_token_id", (uint32_t)c->vlm.video_id);
    if (s->tokenizer_json)
        st = pc_gguf_put_vocabulary(w, s->tokenizer_json, s->tokenizer_size, d->V, s->bos, s->eos,
                                    s->pad);
    else
        pc_warn("the model comes without a tokenizer: llama.cpp will not open a file without one");
    if (!st)
        put_text(w, "tokenizer.chat_template",
                 s->chat_template ? s->chat_template : pc_gguf_chat_template(s->template_name));
    if (!st) put_text(w, "percept.template", s->template_name);
    return st;
}

/* ---- numbers ---- */

static pc_status grow(float **buf, int64_t *room, int64_t need, const char *name)
{
    if (need <= *room) return PC_OK;
    float *more = realloc(*buf, (size_t)need * sizeof *more);
    if (!more) return pc_fail(PC_ERR_MEMORY, "%lld numbers of '%s'", (long long)need, name);
    *buf = more;
    *room = need;
    return PC_OK;
}

// One frame of a grid's stem, out of the whole.
static pc_status stream_frame(pc_gguf_writer *w, const pc_gguf_source *s, const pc_alias *a,
                              int frame, float **buf, int64_t *room)
{
    const pc_vision_config *v = &s->config->vlm.vision;
    const int64_t n = pc_alias_numel(a), all = n * v->frames;
    pc_status st = grow(buf, room, all + n, a->theirs);
    if (!st) st = s->read(s->arg, *buf, a->ours, 0, all);
    if (st) return st;
    pc_gguf_take_frame(*buf + all, *buf, v, frame);
    return pc_gguf_write(w, *buf + all, n);
}

// One tensor, in pieces of whole rows; a head's rows together where they change their order.
static pc_status stream(pc_gguf_writer *w, const pc_gguf_source *s, const pc_alias *a, bool llama,
                        float **buf, int64_t *room)
{
    const int64_t n = pc_alias_numel(a), row = a->dim[a->rank - 1];
    const int64_t heads =
        s->config->kind == PC_MODEL_VLM ? pc_gguf_permuted(a, &s->config->vlm.decoder, llama) : 0;
    // A bias is one row of the file, but a head of it is D numbers of one.
    const int64_t len = a->rank > 1 ? row : 1;
    int64_t piece = heads ? n / heads : row > PIECE ? row : PIECE / row * row;
    if (heads && a->rank == 1) piece = n;
    const int64_t need = heads ? piece + n / heads : piece < n ? piece : n;
    pc_status st = grow(buf, room, need, a->theirs);
    if (st) return st;
    const int64_t first = a->row * (n / a->dim[0]);
    for (int64_t at = 0; at < n && !st; at += piece) {
        const int64_t k = n - at < piece ? n - at : piece;
        if ((st = s->read(s->arg, *buf, a->ours, first + at, k))) break;
        for (int64_t h = 0; heads && h < k / (n / heads); h++)
            pc_gguf_permute_head(*buf + h * (n / heads), *buf + piece, n / heads / len, len);
        st = pc_gguf_write(w, *buf, k);
    }
    return st;
}

static pc_status write_tensors(pc_gguf_writer *w, const pc_gguf_source *s,
                               const pc_gguf_store *store, pc_gguf_part part)
{
    const pc_model_config *c = s->config;
    const pc_decoder_config *d = &c->vlm.decoder;
    const bool llama = part == PC_GGUF_DECODER && !strcmp(pc_gguf_architecture(c), "llama");
    const bool divided = part == PC_GGUF_DECODER && d->rope.scaling == PC_ROPE_LLAMA3;
    const int64_t half = d->D / 2;
    pc_aliases names;
    float *buf = NULL;
    int64_t room = 0;
    pc_status st = pc_gguf_aliases(&names, c, part, (pc_gguf_spelling){0});
    if (st) goto out;
    if (divided) pc_gguf_declare(w, "rope_freqs.weight", pc_quant_find(PC_Q_F32), 1, &half);
    for (int i = 0; i < names.count; i++) {
        const pc_alias *a = &names.list[i];
        pc_gguf_declare(w, a->theirs, type_of(a, store, c, part), a->rank, a->dim);
    }
    if ((st = pc_gguf_begin(w))) goto out;
    if (divided) {
        if ((st = grow(&buf, &room, half, "rope_freqs.weight"))) goto out;
        pc_gguf_rope_divisors(buf, &d->rope, d->D);
        if ((st = pc_gguf_write(w, buf, half))) goto out;
    }
    for (int i = 0; i < names.count && !st; i++) {
        const pc_alias *a = &names.list[i];
        const int frame = pc_gguf_frame(a, c);
        st = frame < 0 ? stream(w, s, a, llama, &buf, &room)
                       : stream_frame(w, s, a, frame, &buf, &room);
    }
out:
    free(buf);
    pc_aliases_close(&names);
    return st;
}

static pc_status export_part(const char *path, const pc_gguf_source *s, const pc_gguf_store *store,
                             pc_gguf_part part)
{
    pc_gguf_writer *w = NULL;
    pc_status st = pc_gguf_create(&w, path);
    if (st) return st;
    put_general(w, s, store, part == PC_GGUF_EYES ? "clip" : pc_gguf_architecture(s->config), part);
    if (part == PC_GGUF_EYES)
        st = put_eyes(w, s);
    else
        st = put_text_file(w, s);
    if (!st) st = write_tensors(w, s, store, part);
    if (!st) st = pc_gguf_finish(w);
    pc_gguf_writer_close(w);
    return st;
}

pc_status pc_gguf_export(const char *model_path, const char *mmproj_path, const pc_gguf_source *s,
                         const pc_gguf_store *store)
{
    pc_status st = PC_OK;
    PC_ASSERT(store->type->encodes, "type %s is not written", store->type->name);
    // Both are looked at before either is written.
    if (model_path) st = pc_gguf_sayable(s->config, PC_GGUF_DECODER);
    if (!st && mmproj_path) st = pc_gguf_sayable(s->config, PC_GGUF_EYES);
    if (!st && model_path)
        st = pc_context(export_part(model_path, s, store, PC_GGUF_DECODER), "'%s'", model_path);
    if (!st && mmproj_path)
        st = pc_context(export_part(mmproj_path, s, store, PC_GGUF_EYES), "'%s'", mmproj_path);
    return st;
}

/* ---- from parameters ---- */

static pc_status read_params(void *arg, float *out, const char *name, int64_t at, int64_t count)
{
    const pc_param *p = pc_params_find(arg, name);
    PC_ASSERT(p, "the model has no parameter '%s'", name);
    const pc_tensor w = p->weight->w;
    PC_ASSERT(w.dtype == PC_F32 && pc_is_dense(w) && at + count <= pc_numel(w),
              "parameter '%s': numbers %lld to %lld", name, (long long)at, (long long)(at + count));
    memcpy(out, (const float *)w.data + at, (size_t)count * sizeof *out);
    return PC_OK;
}

pc_gguf_source pc_gguf_source_params(const pc_model_config *config, pc_params *params)
{
    return (pc_gguf_source){
        .config = config, .read = read_params, .arg = params, .bos = -1, .eos = -1, .pad = -1};
}

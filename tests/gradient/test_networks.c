/*
 * test_networks.c - the networks' backward against differences: towers with every stem and head, text towers,
 * projectors, decoders; and that what is frozen changes nothing about the rest, bit for bit.
 *
 * Each case is made again with each operation's backward broken (sabotage.h).
 */
#include <stdio.h>
#include <string.h>

#include "model/layers/mask.h"
#include "model/networks/decoder.h"
#include "model/networks/projector.h"
#include "model/networks/text.h"
#include "model/networks/vision.h"
#include "tests/support/sabotage.h"
#include "tests/support/sequences.h"

enum { SEED = 22 };
#define TOLERANCE 1e-7 // seen 2.5e-9, of a decoder with branches and a query/key norm

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

/* ------------------------------------------------------------------------------- vision */

typedef struct tower {
    pc_params params;
    pc_vision vision;
    pc_tensor pixels, w;
    int64_t stop;
    bool head, interpolate;
} tower;

static double tower_run(pc_ctx *ctx, void *arg, bool backward)
{
    tower *s = arg;
    pc_vision_kept kept;
    pc_tensor y = pc_vision_forward(ctx, &kept, &s->vision, s->pixels, s->stop, s->interpolate);
    const pc_tensor hidden = y;
    if (s->head) y = pc_vision_head_forward(ctx, &kept, &s->vision, hidden);
    if (backward) {
        pc_tensor d = gradcheck_copy(ctx->act, s->w);
        if (s->head) {
            const pc_tensor dhidden = pc_alloc_like(ctx->act, hidden);
            pc_vision_head_backward(ctx, dhidden, &s->vision, &kept, d);
            d = dhidden;
        }
        pc_vision_backward(ctx, &s->vision, &kept, d);
    }
    return gradcheck_dot(y, s->w);
}

static pc_vision_config tower_config(void)
{
    return (pc_vision_config){.image_size = 8,
                              .patch = 4,
                              .C = 6,
                              .H = 2,
                              .F = 8,
                              .L = 2,
                              .stem_width = 3,
                              .patch_bias = true,
                              .class_token = true,
                              .act = PC_ACT_GELU,
                              .eps = 1e-5,
                              .head = PC_HEAD_CLASS,
                              .E = 5,
                              .head_F = 7};
}

static void test_tower(const char *label, pc_vision_config c, int64_t size, int64_t stop,
                       const char *frozen)
{
    gradcheck g;
    gradcheck_open(&g, label, SEED, 2);
    tower s = {.stop = stop, .head = c.head != PC_HEAD_NONE, .interpolate = size != c.image_size};
    const int64_t P = (size / c.patch) * (size / c.patch);
    s.pixels = gradcheck_random(&g, 1.0, PC_DIMS(2, 3, size, size));
    s.w = s.head ? gradcheck_random(&g, 1.0, PC_DIMS(2, c.head == PC_HEAD_MAP ? c.C : c.E))
                 : gradcheck_random(&g, 1.0, PC_DIMS(2 * (P + c.class_token), c.C));
    pc_vision_params(&s.params, &s.vision, &c);
    if (frozen) check(pc_params_train(&s.params, frozen, false) > 0, frozen);
    gradcheck_params(&g, &s.params, 0.4);
    check(sabotage_check(&g, tower_run, &s, TOLERANCE), label);
    pc_vision_close(&s.vision);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

static void test_towers(void)
{
    pc_vision_config c = tower_config();
    test_tower("tower, class head", c, 8, 2, NULL);
    c.pre_norm = true;
    c.patch_bias = false;
    test_tower("tower as CLIP's: norm before the blocks, no patch bias", c, 8, 2, NULL);
    test_tower("tower, stem frozen", c, 8, 2, "vision.stem");
    test_tower("tower, positions frozen", c, 8, 2, "vision.positions");
    test_tower("tower, blocks frozen", c, 8, 2, "vision.blocks");
    test_tower("tower, another image size", c, 12, 2, NULL);
    c = tower_config();
    c.class_token = false;
    c.head = PC_HEAD_MEAN;
    test_tower("tower without class token, mean head", c, 8, 2, NULL);
    test_tower("tower without class token, another image size", c, 12, 2, NULL);
    c.head = PC_HEAD_MAP;
    c.act = PC_ACT_GELU_TANH;
    test_tower("tower as SigLIP's: map head", c, 8, 2, NULL);
    test_tower("map head, probe frozen", c, 8, 2, "vision.probe");
    c = tower_config();
    c.head = PC_HEAD_MEAN;
    test_tower("tower with class token, mean head", c, 8, 2, NULL);
    c.stem = PC_STEM_CONV;
    c.qk_norm = true;
    test_tower("tower, conv stem, query/key norm", c, 8, 2, NULL);
    test_tower("conv stem, first convolution frozen", c, 8, 2, "vision.stem.0");
    test_tower("conv stem, last convolution frozen", c, 8, 2, "vision.stem.1");
    c.patch = 8;
    test_tower("conv stem of three levels", c, 16, 2, NULL);
    c = tower_config();
    c.head = PC_HEAD_NONE;
    c.L = 3;
    pc_vision_config r = c;
    r.recompute = PC_RECOMPUTE_BLOCK;
    test_tower("tower, hidden rows before the last block", c, 8, 2, "vision.blocks.2");
    test_tower("the same with recompute", r, 8, 2, "vision.blocks.2");
}

/* --------------------------------------------------------------------------------- text */

typedef struct text_case {
    pc_params params;
    pc_text text;
    pc_text_batch batch;
    pc_tensor w;
} text_case;

static double text_run(pc_ctx *ctx, void *arg, bool backward)
{
    text_case *s = arg;
    pc_text_kept kept;
    const pc_tensor y = pc_text_forward(ctx, &kept, &s->text, &s->batch);
    if (backward) pc_text_backward(ctx, &s->text, &kept, &s->batch, s->w);
    return gradcheck_dot(y, s->w);
}

static void test_text(const char *label, const pc_text_config *c, const char *frozen)
{
    static const int32_t a[] = {1, 4, 2, 6}, b[] = {3, 1, 6, 5, 6};
    static const int32_t *const ids[] = {a, b};
    static const int64_t lengths[] = {4, 5};
    gradcheck g;
    text_case s = {0};
    gradcheck_open(&g, label, SEED, 2);
    s.w = gradcheck_random(&g, 1.0, PC_DIMS(2, c->E));
    pc_text_batch_build(&s.batch, &g.hold, c, ids, lengths, 2);
    pc_text_params(&s.params, &s.text, c);
    if (frozen) check(pc_params_train(&s.params, frozen, false) > 0, frozen);
    gradcheck_params(&g, &s.params, 0.4);
    check(sabotage_check(&g, text_run, &s, TOLERANCE), label);
    pc_text_close(&s.text);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

static void test_texts(void)
{
    pc_text_config c = {.V = 7,
                        .T = 5,
                        .C = 6,
                        .H = 2,
                        .F = 8,
                        .L = 2,
                        .E = 5,
                        .causal = true,
                        .act = PC_ACT_QUICK,
                        .eps = 1e-5,
                        .pool = PC_POOL_EOT,
                        .eot_id = 6,
                        .pad_id = -1};
    test_text("text tower as CLIP's", &c, NULL);
    test_text("text tower, tables frozen", &c, "text.tokens");
    test_text("text tower, blocks frozen", &c, "text.blocks");
    c.pool = PC_POOL_LARGEST;
    test_text("text tower, pooled at the largest id", &c, NULL);
    c.pool = PC_POOL_LAST;
    c.causal = false;
    c.proj_bias = c.qk_norm = c.pad_to_context = true;
    c.pad_id = 0;
    test_text("text tower as SigLIP's, query/key norm", &c, NULL);
}

/* ---------------------------------------------------------------------------- projector */

typedef struct projector_case {
    pc_params params;
    pc_projector projector;
    pc_tensor x, dx, w;
    bool want_dx;
} projector_case;

static double projector_run(pc_ctx *ctx, void *arg, bool backward)
{
    projector_case *s = arg;
    pc_projector_kept kept;
    const pc_tensor y = pc_projector_forward(ctx, &kept, &s->projector, s->x);
    if (backward)
        pc_projector_backward(ctx, s->want_dx ? s->dx : PC_NONE, &s->projector, &kept, s->w);
    return gradcheck_dot(y, s->w);
}

static void test_projector(const char *label, int64_t depth, int64_t positions, const char *frozen,
                           bool want_dx)
{
    const pc_projector_config c = {.depth = depth,
                                   .in = 5,
                                   .out = 4,
                                   .bias = true,
                                   .act = PC_ACT_GELU,
                                   .positions = positions};
    gradcheck g;
    projector_case s = {.want_dx = want_dx};
    gradcheck_open(&g, label, SEED, 2);
    if (want_dx)
        s.x = gradcheck_input(&g, &s.dx, "x", 1.0, PC_DIMS(6, 5));
    else
        s.x = gradcheck_random(&g, 1.0, PC_DIMS(6, 5));
    s.w = gradcheck_random(&g, 1.0, PC_DIMS(6, 4));
    pc_projector_params(&s.params, &s.projector, &c);
    if (frozen) check(pc_params_train(&s.params, frozen, false) > 0, frozen);
    gradcheck_params(&g, &s.params, 0.5);
    check(sabotage_check(&g, projector_run, &s, TOLERANCE), label);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

/* ------------------------------------------------------------------------------ decoder */

typedef struct decoder_case {
    pc_params params;
    pc_decoder decoder;
    pc_seq seq;
    pc_tensor x, dx, w;
    bool want_dx;
} decoder_case;

static double decoder_run(pc_ctx *ctx, void *arg, bool backward)
{
    decoder_case *s = arg;
    pc_decoder_kept kept;
    const pc_tensor y = pc_decoder_forward(ctx, &kept, &s->decoder, s->x, &s->seq, NULL);
    if (backward)
        pc_decoder_backward(ctx, s->want_dx ? s->dx : PC_NONE, &s->decoder, &kept,
                            gradcheck_copy(ctx->act, s->w));
    return gradcheck_dot(y, s->w);
}

static void test_decoder(const char *label, sequences_kind k, bool qk_norm, pc_recompute recompute,
                         const char *frozen, bool want_dx)
{
    const pc_decoder_config c = {.V = 7,
                                 .C = 6,
                                 .L = 2,
                                 .H = 4,
                                 .G = 2,
                                 .D = 4,
                                 .F = 5,
                                 .T = 6,
                                 .eps = 1e-5,
                                 .rope = {.theta = 50.0},
                                 .qkv_bias = true,
                                 .qk_norm = qk_norm,
                                 .tied = true,
                                 .recompute = recompute};
    gradcheck g;
    decoder_case s = {.want_dx = want_dx};
    const int64_t N = sequences_rows(k);
    gradcheck_open(&g, label, SEED, 2);
    if (want_dx)
        s.x = gradcheck_input(&g, &s.dx, "x", 1.0, PC_DIMS(N, 6));
    else
        s.x = gradcheck_random(&g, 1.0, PC_DIMS(N, 6));
    s.w = gradcheck_random(&g, 1.0, PC_DIMS(N, 6));
    s.seq = sequences_make(&g, k, true, c.D);
    pc_decoder_params(&s.params, &s.decoder, &c);
    pc_decoder_tables(&s.decoder, &g.hold, PC_F64);
    pc_params_train(&s.params, "decoder.tokens", false); // the caller embeds
    if (frozen) check(pc_params_train(&s.params, frozen, false) > 0, frozen);
    gradcheck_params(&g, &s.params, 0.4);
    check(sabotage_check(&g, decoder_run, &s, TOLERANCE), label);
    pc_decoder_close(&s.decoder);
    pc_params_close(&s.params);
    gradcheck_close(&g);
}

int main(void)
{
    test_towers();
    test_texts();
    test_projector("projector linear", 1, 0, NULL, true);
    test_projector("projector mlp2x with positions", 2, 3, NULL, true);
    test_projector("projector mlp3x, no dx", 3, 0, NULL, false);
    test_projector("projector, first linear frozen, no dx", 2, 3, "projector.linear.0", false);
    test_projector("projector, last linear frozen", 2, 0, "projector.linear.1", true);
    test_decoder("decoder", SEQ_CAUSAL, false, PC_RECOMPUTE_NONE, NULL, true);
    test_decoder("decoder, branches, query/key norm", SEQ_BRANCHES, true, PC_RECOMPUTE_NONE, NULL,
                 true);
    test_decoder("decoder, recompute, no dx", SEQ_CAUSAL, true, PC_RECOMPUTE_BLOCK, NULL, false);
    test_decoder("decoder, blocks frozen", SEQ_CAUSAL, false, PC_RECOMPUTE_NONE, "decoder.blocks",
                 true);
    test_decoder("decoder, blocks frozen, no dx", SEQ_CAUSAL, false, PC_RECOMPUTE_NONE,
                 "decoder.blocks", false);
    return failures > 0;
}

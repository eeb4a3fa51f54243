/*
 * test_networks_joint.c - whole models against differences: two towers with either loss, and tower, projector and
 * decoder with images spliced in; and what must agree bit for bit.
 *
 * Each case is made again with each operation's backward broken (sabotage.h).
 */
#include <stdio.h>
#include <string.h>

#include "model/layers/adapters.h"
#include "model/networks/clip.h"
#include "model/networks/vlm.h"
#include "tests/support/sabotage.h"

enum { SEED = 23 };
#define TOLERANCE 1e-7 // seen 4.1e-8, of an adapter on the stem, behind two blocks and a decoder

static int failures;

static void check(bool ok, const char *what)
{
    if (!ok) printf("FAILED %s\n", what);
    failures += !ok;
}

static void freeze(pc_params *p, const char *const *frozen)
{
    for (; frozen && *frozen; frozen++) check(pc_params_train(p, *frozen, false) > 0, *frozen);
}

/* Adapters on every part of every linear, and nothing else to be trained. */
static void adapt(pc_adapters *a, pc_params *p)
{
    enum { MOST = 128 };
    static pc_adapter_site sites[MOST];
    int n = 0;
    for (int i = 0; i < p->count; i++) {
        const pc_param *q = &p->list[i];
        int64_t row = 0;
        for (int k = 0; q->linear && k < q->parts && n < MOST; row += q->part_rows[k++]) {
            sites[n] = (pc_adapter_site){
                .row = row, .rows = q->part_rows[k], .r = 1 + n % 2, .alpha = 1.0, .scale = 1.5};
            snprintf(sites[n++].weight, sizeof sites[0].weight, "%s", q->name);
        }
    }
    pc_params_train(p, "", false);
    check(n > 0 && !pc_adapters_open(a, p, sites, n, PC_F64, false), "adapters");
    for (int i = a->first; i < p->count; i++) p->list[i].trainable = true;
}

static void drop(pc_ctx *ctx, bool adapted)
{
    ctx->adapter_dropout = adapted ? 0.3 : 0.0;
    ctx->dropout_key = (pc_rng_key){.seed = SEED, .stream = PC_STREAM_DROPOUT, .step = 7 << 16};
}

static const pc_vision_config small_tower = {.image_size = 8,
                                             .patch = 4,
                                             .C = 6,
                                             .H = 2,
                                             .F = 8,
                                             .L = 2,
                                             .stem_width = 3,
                                             .class_token = true,
                                             .act = PC_ACT_GELU,
                                             .eps = 1e-5,
                                             .E = 5,
                                             .head_F = 7};

/* ---------------------------------------------------------------------------- two towers */

typedef struct pair {
    pc_params params;
    pc_clip clip;
    pc_adapters adapters;
    pc_tensor pixels;
    pc_text_batch text;
} pair;

static double pair_run(pc_ctx *ctx, void *arg, bool backward)
{
    pair *s = arg;
    pc_clip_kept kept;
    drop(ctx, s->adapters.count > 0);
    const pc_tensor u = pc_clip_image_forward(ctx, &kept, &s->clip, s->pixels);
    const pc_tensor v = pc_clip_text_forward(ctx, &kept, &s->clip, &s->text);
    if (!backward) return pc_clip_loss_forward(ctx, &s->clip, u, v);
    const pc_tensor du = pc_alloc_like(ctx->act, u), dv = pc_alloc_like(ctx->act, v);
    const double loss = pc_clip_loss_backward(ctx, du, dv, &s->clip, u, v);
    pc_clip_image_backward(ctx, &s->clip, &kept, du);
    pc_clip_text_backward(ctx, &s->clip, &kept, &s->text, dv);
    return loss;
}

static void test_pair(const char *label, pc_contrast loss, pc_vision_head head,
                      const char *const *frozen, bool adapted)
{
    static const int32_t a[] = {1, 4, 6}, b[] = {3, 6}, d[] = {2, 5, 1, 6};
    static const int32_t *const ids[] = {a, b, d};
    static const int64_t lengths[] = {3, 2, 4};
    gradcheck g;
    pair s = {0};
    pc_clip_config c = {.vision = small_tower,
                        .text = {.V = 7,
                                 .T = 5,
                                 .C = 6,
                                 .H = 2,
                                 .F = 8,
                                 .L = 2,
                                 .E = 5,
                                 .causal = true,
                                 .act = PC_ACT_GELU,
                                 .eps = 1e-5,
                                 .eot_id = 6,
                                 .pad_id = -1},
                        .loss = loss,
                        .init_scale = 1.0,
                        .init_bias = -1.0};
    c.vision.head = head;
    if (head == PC_HEAD_MAP) c.vision.E = c.vision.C;
    c.text.E = c.vision.E;
    gradcheck_open(&g, label, SEED, 2);
    s.pixels = gradcheck_random(&g, 1.0, PC_DIMS(3, 3, 8, 8));
    pc_text_batch_build(&s.text, &g.hold, &c.text, ids, lengths, 3);
    pc_clip_params(&s.params, &s.clip, &c);
    freeze(&s.params, frozen);
    if (adapted) adapt(&s.adapters, &s.params);
    gradcheck_params(&g, &s.params, 0.3);
    check(sabotage_check(&g, pair_run, &s, TOLERANCE), label);
    pc_clip_close(&s.clip);
    pc_params_close(&s.params);
    pc_adapters_close(&s.adapters);
    gradcheck_close(&g);
}

/* -------------------------------------------------------------- tower, projector, decoder */

enum { IMAGE = 9, V = 11, MAX_PARAMS = 200 };

typedef struct whole {
    gradcheck g;
    pc_params params;
    pc_adapters adapters;
    pc_vlm vlm;
    pc_vlm_batch batch;
    pc_tensor coef, nll;
} whole;

static double whole_run(pc_ctx *ctx, void *arg, bool backward)
{
    whole *s = arg;
    pc_vlm_kept kept;
    drop(ctx, s->adapters.count > 0);
    pc_vlm_forward(ctx, &kept, &s->vlm, &s->batch, NULL);
    const pc_tensor nll = pc_alloc1(ctx->act, PC_F64, s->batch.N);
    if (backward)
        pc_vlm_loss_backward(ctx, nll, &s->vlm, &kept, &s->batch, s->coef);
    else
        pc_vlm_loss_forward(ctx, nll, &s->vlm, &kept, &s->batch);
    return gradcheck_dot(nll, s->coef);
}

static pc_vlm_config vlm_config(void)
{
    pc_vlm_config c = {.vision = small_tower,
                       .projector = {.depth = 2, .in = 6, .out = 8, .bias = true},
                       .decoder = {.V = V,
                                   .C = 8,
                                   .L = 2,
                                   .H = 4,
                                   .G = 2,
                                   .D = 4,
                                   .F = 10,
                                   .T = 24,
                                   .eps = 1e-5,
                                   .rope = {.theta = 100.0}},
                       .feature_layer = -1,
                       .image_id = IMAGE};
    return c;
}

/* Two sequences: one with an image and two branches, one with an image behind text; or text alone. */
static void open_whole(whole *s, const char *label, const pc_vlm_config *c, bool branches,
                       const char *const *frozen, bool adapted)
{
    static const int32_t first[] = {1, IMAGE, 2, 3, 4, 5, 6, 3, 7};
    static const uint8_t learn_first[] = {0, 0, 0, 0, 1, 1, 0, 0, 1};
    static const int64_t ends[] = {6, 9};
    static const int32_t second[] = {1, 8, IMAGE, 5, 2};
    static const uint8_t learn_second[] = {0, 1, 0, 1, 1};
    static const int32_t plain[] = {1, 8, 7, 5, 2};
    static const uint8_t learn_plain[] = {0, 1, 1, 0, 1};
    const bool images = c->vision.L > 0;
    const pc_sequence with_images[] = {{first, learn_first, 9, branches ? 3 : 0, branches ? 2 : 0,
                                        branches ? ends : NULL, NULL},
                                       {second, learn_second, 5, 0, 0, NULL, NULL}};
    const pc_sequence without[] = {{plain, learn_plain, 5, 0, 0, NULL, NULL},
                                   {plain + 1, learn_plain, 4, 0, 0, NULL, NULL}};
    *s = (whole){0};
    gradcheck_open(&s->g, label, SEED, 2);
    pc_status st = pc_vlm_validate(c);
    st = st ? st
            : pc_vlm_batch_build(&s->batch, &s->g.hold, c, images ? with_images : without, 2,
                                 images ? 2 : 0);
    check(!st, pc_error_text());
    if (images) s->batch.pictures.pixels = gradcheck_random(&s->g, 1.0, PC_DIMS(2, 3, 8, 8));
    s->coef = gradcheck_random(&s->g, 1.0, PC_DIMS(s->batch.N));
    pc_vlm_params(&s->params, &s->vlm, c);
    pc_decoder_tables(&s->vlm.decoder, &s->g.hold, PC_F64);
    freeze(&s->params, frozen);
    if (adapted) adapt(&s->adapters, &s->params);
    gradcheck_params(&s->g, &s->params, 0.3);
}

static void close_whole(whole *s)
{
    pc_vlm_close(&s->vlm);
    pc_params_close(&s->params);
    pc_adapters_close(&s->adapters);
    gradcheck_close(&s->g);
}

static void test_whole(const char *label, pc_vlm_config c, bool branches, const char *const *frozen)
{
    whole s;
    open_whole(&s, label, &c, branches, frozen, false);
    check(sabotage_check(&s.g, whole_run, &s, TOLERANCE), label);
    close_whole(&s);
}

static void test_adapted(const char *label, pc_vlm_config c)
{
    whole s;
    open_whole(&s, label, &c, true, NULL, true);
    check(sabotage_check(&s.g, whole_run, &s, TOLERANCE), label);
    close_whole(&s);
}

/* Gradients with parts frozen, or with recompute, are those of the whole, bit for bit. */
static void same_gradients(const char *label, pc_vlm_config a, pc_vlm_config b,
                           const char *const *frozen)
{
    whole x, y;
    open_whole(&x, label, &a, true, NULL, false);
    open_whole(&y, label, &b, true, frozen, false);
    int compared = 0;
    for (int i = 0; i < x.params.count; i++) {
        const pc_tensor from = x.params.list[i].weight->w;
        memcpy(y.params.list[i].weight->w.data, from.data, (size_t)pc_numel(from) * sizeof(double));
    }
    pc_params_zero_grads(&x.params);
    pc_params_zero_grads(&y.params);
    const double lx = gradcheck_once(&x.g, whole_run, &x, true);
    const double ly = gradcheck_once(&y.g, whole_run, &y, true);
    check(!memcmp(&lx, &ly, sizeof lx), label);
    for (int i = 0; i < x.params.count; i++) {
        const pc_tensor gx = x.params.list[i].weight->g, gy = y.params.list[i].weight->g;
        if (!pc_present(gx) || !pc_present(gy)) continue;
        compared++;
        check(!memcmp(gx.data, gy.data, (size_t)pc_numel(gx) * sizeof(double)),
              x.params.list[i].name);
    }
    check(compared > 0, "nothing to compare");
    close_whole(&x);
    close_whole(&y);
}

int main(void)
{
    static const char *const vision[] = {"vision.", NULL};
    static const char *const but_projector[] = {"vision.", "decoder.", NULL};
    static const char *const but_vision[] = {"projector.", "decoder.", NULL};
    static const char *const but_head[] = {"vision.",        "projector.",         "decoder.tokens",
                                           "decoder.blocks", "decoder.norm_final", NULL};
    static const char *const text[] = {"text.", NULL};
    static const char *const towers[] = {"vision.", "text.", NULL};
    static const char *const scale[] = {"logit_scale", NULL};

    test_pair("clip, softmax loss", PC_CONTRAST_SOFTMAX, PC_HEAD_CLASS, NULL, false);
    test_pair("clip, sigmoid loss, map head", PC_CONTRAST_SIGMOID, PC_HEAD_MAP, NULL, false);
    test_pair("clip, sigmoid loss, mean head", PC_CONTRAST_SIGMOID, PC_HEAD_MEAN, NULL, false);
    test_pair("clip, image tower frozen", PC_CONTRAST_SOFTMAX, PC_HEAD_CLASS, vision, false);
    test_pair("clip, text tower frozen", PC_CONTRAST_SOFTMAX, PC_HEAD_CLASS, text, false);
    test_pair("clip, towers frozen", PC_CONTRAST_SIGMOID, PC_HEAD_CLASS, towers, false);
    test_pair("clip, temperature frozen", PC_CONTRAST_SOFTMAX, PC_HEAD_CLASS, scale, false);

    test_pair("clip, adapters", PC_CONTRAST_SOFTMAX, PC_HEAD_CLASS, NULL, true);
    test_pair("clip, map head, adapters", PC_CONTRAST_SIGMOID, PC_HEAD_MAP, NULL, true);

    pc_vlm_config c = vlm_config(), d = c;
    test_whole("vlm", c, false, NULL);
    test_whole("vlm, branches", c, true, NULL);
    d.decoder.tied = d.decoder.qk_norm = d.decoder.qkv_bias = true;
    test_whole("vlm, tied head, query/key norm, biases", d, true, NULL);
    d = c;
    d.keep_class = d.image_bidirectional = true;
    d.projector.positions = 5;
    test_whole("vlm, class row kept, image rows both ways, places", d, true, NULL);
    d = c;
    d.vision.stem = PC_STEM_CONV;
    d.vision.class_token = false;
    d.decoder.window = 4;
    test_whole("vlm, conv stem, sliding window", d, true, NULL);
    d = c;
    d.decoder.rope_2d = d.decoder.qk_norm = d.image_bidirectional = true;
    test_whole("vlm, two positions a patch, query/key norm", d, true, NULL);
    d = c;
    d.vision.L = 3;
    d.feature_layer = -1; // the order of the columns is not that of the blocks
    d.also[0] = -4;
    d.also[1] = -2;
    d.projector.in = 18;
    test_whole("vlm, three hidden states side by side", d, true, NULL);
    test_whole("vlm, three hidden states, tower frozen", d, true, vision);
    test_whole("vlm, three hidden states, tower alone", d, true, but_vision);
    d.keep_class = true;
    d.vision.pre_norm = true;
    d.vision.recompute = PC_RECOMPUTE_BLOCK;
    test_whole("vlm, three hidden states, class row kept, recompute", d, false, NULL);
    test_whole("vlm, tower frozen", c, true, vision);
    test_whole("vlm, projector alone", c, true, but_projector);
    test_whole("vlm, tower alone", c, true, but_vision);
    test_whole("vlm, head alone", c, true, but_head);
    d = c;
    d.vision.L = 0;
    test_whole("decoder of text alone", d, false, NULL);
    d.decoder.tied = true;
    test_whole("decoder of text alone, tied head", d, false, NULL);

    d = c;
    d.vision.recompute = d.decoder.recompute = PC_RECOMPUTE_BLOCK;
    test_whole("vlm, recompute", d, true, NULL);
    test_adapted("vlm, adapters, recompute", d);
    test_adapted("vlm, adapters", c);
    same_gradients("vlm: recompute", c, d, NULL);
    same_gradients("vlm: tower frozen", c, c, vision);
    same_gradients("vlm: projector alone", c, c, but_projector);
    same_gradients("vlm: tower alone", c, d, but_vision);
    if (failures == 0) printf("ok     recompute and frozen parts agree bit for bit\n");
    return failures > 0;
}

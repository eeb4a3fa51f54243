/*
 * test_hybrid.c - vision-language models whose rows go through the tower's norm, and the hybrid of two towers: gradients
 * against central differences in float64, and memory against dry runs, whatever is frozen.
 *
 * Each case is made again with each operation's backward broken (sabotage.h).
 */
#include <stdio.h>

#include "model/networks/vlm.h"
#include "tests/support/gradcheck.h"
#include "tests/support/sabotage.h"

#define SEED      20260411
#define TOLERANCE 1e-7 // seen 2e-8

enum { IMAGE = 9, V = 11, SIDE = 6, LARGE = 6, SEQUENCES = 2, IMAGES = 2 };

static int failures;

static void check(bool good, const char *label, const char *what)
{
    if (!good) printf("FAILED %s: %s\n", label, what);
    failures += !good;
}

typedef struct whole {
    gradcheck g;
    pc_params params;
    pc_vlm vlm;
    pc_vlm_batch batch;
    pc_tensor coef;
} whole;

static double run(pc_ctx *ctx, void *arg, bool backward)
{
    whole *s = arg;
    pc_vlm_kept kept;
    pc_vlm_forward(ctx, &kept, &s->vlm, &s->batch, NULL);
    const pc_tensor nll = pc_alloc1(ctx->act, ctx->real, s->batch.N);
    if (backward)
        pc_vlm_loss_backward(ctx, nll, &s->vlm, &kept, &s->batch, s->coef);
    else
        pc_vlm_loss_forward(ctx, nll, &s->vlm, &kept, &s->batch);
    return ctx->real == PC_F64 && !ctx->act->dry ? gradcheck_dot(nll, s->coef) : 0.0;
}

static pc_vlm_config config(pc_visual_kind kind)
{
    return (pc_vlm_config){
        .visual = kind,
        .vision = {.image_size = SIDE,
                   .patch = 3,
                   .C = 6,
                   .H = 2,
                   .F = 7,
                   .L = 2,
                   .patch_bias = true,
                   .post_norm = true,
                   .act = PC_ACT_GELU,
                   .eps = 1e-5},
        .high = {.image_size = LARGE,
                 .patch = 2,
                 .C = 6,
                 .H = 2,
                 .F = 5,
                 .L = 2,
                 .window = 2,
                 .globals = 1,
                 .neck = 4,
                 .act = PC_ACT_GELU,
                 .eps = 1e-5,
                 .qkv_bias = true,
                 .positions = true,
                 .relative = true},
        .projector = {.depth = 2, .in = 6, .out = 8, .bias = true},
        .decoder = {.V = V,
                    .C = 8,
                    .L = 1,
                    .H = 4,
                    .G = 2,
                    .D = 4,
                    .F = 10,
                    .T = 32,
                    .eps = 1e-5,
                    .rope = {.theta = 100.0}},
        .feature_layer = -1,
        .feature_norm = true,
        .image_id = IMAGE,
    };
}

static pc_status lay_out(pc_vlm_batch *b, pc_arena *a, const pc_vlm_config *c)
{
    static const int32_t first[] = {1, IMAGE, 2, 3, 4}, second[] = {5, 8, IMAGE, 6};
    static const uint8_t learn[] = {0, 0, 0, 1, 1};
    const pc_sequence seqs[SEQUENCES] = {{.ids = first, .supervised = learn, .length = 5},
                                         {.ids = second, .supervised = learn, .length = 4}};
    return pc_vlm_batch_build(b, a, c, seqs, SEQUENCES, IMAGES);
}

static void freeze(pc_params *p, const pc_vlm_config *c, const char *const *frozen)
{
    for (; frozen && *frozen; frozen++)
        check(pc_params_train(p, *frozen, false) > 0, *frozen, "no such parameter");
    for (int i = 0; i < p->count; i++) // what nothing reads
        if (!pc_vlm_reads(c, p->list[i].name)) p->list[i].trainable = false;
}

static void gradients(const char *label, const pc_vlm_config *c, const char *const *frozen)
{
    whole s = {0};
    gradcheck_open(&s.g, label, SEED, 2);
    check(!pc_vlm_validate(c) && !lay_out(&s.batch, &s.g.hold, c), label, pc_error_text());
    s.batch.pictures.pixels = gradcheck_random(&s.g, 1.0, PC_DIMS(IMAGES, 3, SIDE, SIDE));
    s.batch.pictures.high = gradcheck_random(&s.g, 1.0, PC_DIMS(IMAGES, 3, LARGE, LARGE));
    s.coef = gradcheck_random(&s.g, 1.0, PC_DIMS(s.batch.N));
    pc_vlm_params(&s.params, &s.vlm, c);
    pc_decoder_tables(&s.vlm.decoder, &s.g.hold, PC_F64);
    freeze(&s.params, c, frozen);
    gradcheck_params(&s.g, &s.params, 0.3);
    check(sabotage_check(&s.g, run, &s, TOLERANCE), label, "gradients");
    pc_vlm_close(&s.vlm);
    pc_params_close(&s.params);
    gradcheck_close(&s.g);
}

/* Both arenas' peaks of a dry pass and of a real one, in float on the best kernels. */
static void memory(const char *label, const pc_vlm_config *c, const char *const *frozen, bool train)
{
    whole s = {0};
    pc_arena host, act, scratch, dry_act, dry_scratch;
    pc_isa isa;
    pc_pool *pool = NULL;
    check(!pc_isa_choose(&isa) && !pc_pool_open(&pool, 2), label, "threads");
    check(!pc_arena_open(&host, "host", 1 << 22) && !pc_arena_open(&act, "act", 1 << 26) &&
              !pc_arena_open(&scratch, "scratch", 1 << 26),
          label, "memory");
    pc_arena_open_dry(&dry_act, "act");
    pc_arena_open_dry(&dry_scratch, "scratch");
    pc_ctx dry = {.ops = pc_dry_ops(),
                  .grad_ops = train ? pc_dry_grad_ops() : NULL,
                  .real = PC_F32,
                  .pool = pool,
                  .act = &dry_act,
                  .scratch = &dry_scratch};
    pc_ctx real = dry;
    real.ops = pc_cpu_ops(isa, PC_F32);
    real.grad_ops = train ? pc_cpu_grad_ops(isa, PC_F32) : NULL;
    real.act = &act;
    real.scratch = &scratch;

    check(!lay_out(&s.batch, &host, c), label, pc_error_text());
    pc_vlm_params(&s.params, &s.vlm, c);
    freeze(&s.params, c, frozen);
    pc_params_bind_weights(&s.params, &host, PC_F32);
    pc_params_init(&s.params, 1);
    pc_decoder_tables(&s.vlm.decoder, &host, PC_F32);
    if (train) pc_params_bind_grads(&s.params, &host, PC_F32);
    if (train) pc_params_zero_grads(&s.params);
    s.coef = pc_alloc1(&host, PC_F32, s.batch.N);
    for (int64_t n = 0; n < s.batch.N; n++) ((float *)s.coef.data)[n] = 0.25F;
    const struct {
        pc_tensor *to;
        int64_t side;
    } images[] = {{&s.batch.pictures.pixels, SIDE}, {&s.batch.pictures.high, LARGE}};
    for (int i = 0; i < 2; i++) {
        const int64_t n = IMAGES * 3 * images[i].side * images[i].side;
        float *x = pc_arena_bytes(&host, (size_t)n * sizeof *x);
        for (int64_t k = 0; k < n; k++) x[k] = (float)(k % 17) / 17.0F;
        *images[i].to = pc_view4(x, PC_F32, IMAGES, 3, images[i].side, images[i].side);
    }
    run(&dry, &s, train);
    run(&real, &s, train);
    check(dry_act.peak == act.peak, label, "activations");
    check(dry_scratch.peak == scratch.peak, label, "scratch");
    printf("%s: %zu bytes of activations, %zu of scratch, as planned\n", label, act.peak,
           scratch.peak);
    pc_vlm_close(&s.vlm);
    pc_params_close(&s.params);
    pc_pool_close(pool);
    pc_arena_close(&host);
    pc_arena_close(&act);
    pc_arena_close(&scratch);
}

#define FROZEN(...) ((const char *const[]){__VA_ARGS__, NULL})

int main(void)
{
    pc_vlm_config c = config(PC_VISUAL_SQUARE);
    gradients("rows through the tower's norm", &c, NULL);
    gradients("the same, tower frozen", &c, FROZEN("vision."));
    gradients("the same, the norm alone trained of the tower", &c,
              FROZEN("vision.stem", "vision.positions", "vision.blocks"));
    c.vision.class_token = true;
    gradients("the same, class token dropped", &c, NULL);
    memory("class token dropped, normed", &c, NULL, true);
    memory("class token dropped, normed, inference", &c, NULL, false);

    c = config(PC_VISUAL_HYBRID);
    gradients("hybrid", &c, NULL);
    gradients("hybrid, towers frozen", &c, FROZEN("vision."));
    gradients("hybrid, high tower frozen, decoder frozen", &c, FROZEN("vision.high", "decoder."));
    gradients("hybrid, low tower frozen", &c,
              FROZEN("vision.stem", "vision.positions", "vision.blocks", "vision.norm_post"));
    memory("hybrid", &c, NULL, true);
    memory("hybrid, inference", &c, NULL, false);
    memory("hybrid, towers frozen", &c, FROZEN("vision."), true);
    memory("hybrid, SAM frozen", &c,
           FROZEN("vision.high.stem", "vision.high.positions", "vision.high.blocks"), true);
    c.high.recompute = c.vision.recompute = c.decoder.recompute = PC_RECOMPUTE_BLOCK;
    memory("hybrid, recompute", &c, NULL, true);
    return failures > 0;
}

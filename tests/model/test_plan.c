/*
 * test_plan.c - does the dry run know what the real one takes? Peaks of both arenas to the byte, training and
 * inference, with and without recompute, on 1 and 3 threads; and FLOPs against a count by hand.
 */
#include <stdlib.h>
#include <string.h>

#include "model/networks/model.h"
#include "tests/support/check.h"

enum { IMAGE = 9 };

typedef struct setup {
    pc_model model;
    pc_arena grads, host;
    pc_tensor pixels;
    pc_vlm_batch batch;
    pc_text_batch text;
    bool train;
} setup;

static void vlm_step(pc_ctx *ctx, setup *s)
{
    pc_vlm_kept kept;
    const pc_tensor nll = pc_alloc1(ctx->act, ctx->real, s->batch.N);
    const pc_tensor coef = pc_alloc1(ctx->act, ctx->real, s->batch.N);
    ctx->ops->zero_forward(ctx, coef);
    pc_vlm_forward(ctx, &kept, &s->model.vlm, &s->batch, NULL);
    if (s->train)
        pc_vlm_loss_backward(ctx, nll, &s->model.vlm, &kept, &s->batch, coef);
    else
        pc_vlm_loss_forward(ctx, nll, &s->model.vlm, &kept, &s->batch);
}

static void clip_step(pc_ctx *ctx, setup *s)
{
    pc_clip_kept kept;
    pc_clip *l = &s->model.clip;
    const pc_tensor u = pc_clip_image_forward(ctx, &kept, l, s->pixels);
    const pc_tensor v = pc_clip_text_forward(ctx, &kept, l, &s->text);
    if (!s->train) {
        pc_clip_loss_forward(ctx, l, u, v);
        return;
    }
    const pc_tensor du = pc_alloc_like(ctx->act, u), dv = pc_alloc_like(ctx->act, v);
    pc_clip_loss_backward(ctx, du, dv, l, u, v);
    pc_clip_image_backward(ctx, l, &kept, du);
    pc_clip_text_backward(ctx, l, &kept, &s->text, dv);
}

static void step(pc_ctx *ctx, setup *s)
{
    if (s->model.config.kind == PC_MODEL_CLIP)
        clip_step(ctx, s);
    else
        vlm_step(ctx, s);
}

static void open_setup(setup *s, const char *description, bool train)
{
    static const int32_t ids[] = {1, IMAGE, 2, 3, 4, 5, 6}, caption[] = {3, 1, 2};
    static const uint8_t learn[] = {0, 0, 0, 1, 1, 0, 1};
    static const int64_t ends[] = {5, 7}, lengths[] = {3, 3};
    static const int32_t *const captions[] = {caption, caption};
    const pc_sequence seqs[] = {{ids, learn, 7, 2, 2, ends, NULL},
                                {ids, learn, 7, 0, 0, NULL, NULL}};
    pc_model_config c;
    *s = (setup){.train = train};
    json_t *json = json_loads(description, 0, NULL);
    CHECK(json && !pc_model_config_from_json(&c, json));
    json_decref(json);
    CHECK(!pc_model_open(&s->model, &c, PC_F32, true));
    CHECK(!pc_arena_open(&s->host, "host", 1 << 20));
    CHECK(!pc_arena_open(&s->grads, "gradients", pc_params_bytes(&s->model.params, PC_F32, true)));
    pc_params_init(&s->model.params, 1);
    if (train) pc_params_bind_grads(&s->model.params, &s->grads, PC_F32);
    s->pixels = pc_view4(pc_arena_bytes(&s->host, 2 * 3 * 16 * 16 * 4), PC_F32, 2, 3, 16, 16);
    if (c.kind == PC_MODEL_CLIP) {
        pc_text_batch_build(&s->text, &s->host, &c.clip.text, captions, lengths, 2);
    } else {
        CHECK(!pc_vlm_batch_build(&s->batch, &s->host, &c.vlm, seqs, 2, 2));
        s->batch.pictures.pixels = s->pixels;
    }
}

static void close_setup(setup *s)
{
    pc_model_close(&s->model);
    pc_arena_close(&s->grads);
    pc_arena_close(&s->host);
}

static double compare(const char *description, bool train, int threads, const char *frozen)
{
    setup s;
    pc_pool *pool;
    pc_arena act, scratch, dry_act, dry_scratch;
    open_setup(&s, description, train);
    if (frozen) CHECK(pc_params_train(&s.model.params, frozen, false) > 0);
    CHECK(!pc_pool_open(&pool, threads));
    CHECK(!pc_arena_open(&act, "act", 1 << 26) && !pc_arena_open(&scratch, "scratch", 1 << 26));
    pc_arena_open_dry(&dry_act, "act");
    pc_arena_open_dry(&dry_scratch, "scratch");
    pc_isa isa;
    CHECK(!pc_isa_choose(&isa));
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
    step(&dry, &s);
    step(&real, &s);
    CHECK(act.peak == dry_act.peak);
    CHECK(scratch.peak == dry_scratch.peak);
    if (act.peak != dry_act.peak || scratch.peak != dry_scratch.peak)
        printf("   act %zu, dry %zu; scratch %zu, dry %zu; %d threads, %s: %s\n", act.peak,
               dry_act.peak, scratch.peak, dry_scratch.peak, threads, train ? "train" : "infer",
               description);
    CHECK(scratch.used == 0 && dry_scratch.used == 0);
    pc_arena_close(&act);
    pc_arena_close(&scratch);
    pc_pool_close(pool);
    close_setup(&s);
    return dry.flops;
}

#define VLM(more)                                                                                  \
    "{\"kind\":\"vlm\",\"image_id\":9,\"vision\":{\"L\":2,\"C\":16,\"H\":2,\"image_size\":16,"     \
    "\"patch\":4" more "},\"projector\":{\"depth\":1},"                                            \
    "\"decoder\":{\"V\":50,\"C\":24,\"H\":4,\"G\":2,\"L\":2,\"T\":64,\"F\":40" more "}}"
#define VLM_2D                                                                                     \
    "{\"kind\":\"vlm\",\"image_id\":9,\"image_bidirectional\":true,\"vision\":{\"L\":1,\"C\":16,"  \
    "\"H\":2,\"image_size\":16,\"patch\":4},"                                                      \
    "\"decoder\":{\"V\":50,\"C\":24,\"H\":2,\"L\":2,\"T\":64,\"rope_2d\":true}}"
#define CLIP(head, loss)                                                                           \
    "{\"kind\":\"clip\",\"loss\":\"" loss "\",\"vision\":{\"L\":2,\"C\":16,\"H\":2,"               \
    "\"image_size\":16,\"patch\":4,\"stem\":\"conv\",\"head\":\"" head "\"},"                      \
    "\"text\":{\"V\":50,\"C\":16,\"H\":2,\"L\":1,\"eot_id\":2}}"

/* Products of one step of VLM(""), counted by hand: 2 images, 2 sequences. */
static void test_flops(void)
{
    const double P = 16, vision_rows = 2 * 17, rows_a = 1 + P + 3 + 2, rows_b = 1 + P + 5;
    const double rows = rows_a + rows_b, C = 16, D = 24;
    const double block = 2 * vision_rows * (C * 3 * C + C * C + 2 * C * 4 * C);
    const double scores = 4 * C * vision_rows * 17;
    const double patches = 2 * (2 * P) * (3 * 16) * C;
    const double projector = 2 * (2 * P) * C * D;
    const double layer = 2 * rows * (D * (24 + 12 + 12) + 24 * D + 3 * D * 40);
    // Pairs: the branches see the prefix of 17 rows and themselves; the plain one is causal.
    const double prefix = 17 * 18 / 2, branches = (3 * 17 + 6) + (2 * 17 + 3);
    const double pairs = prefix + branches + rows_b * (rows_b + 1) / 2;
    const double decoder_scores = 4 * 24 * pairs;
    const double head = 2 * 6 * D * 50; // six supervised rows
    const double forward =
        patches + 2 * (block + scores) + projector + 2 * (layer + decoder_scores) + head;
    // Backward: twice the products, 10/4 of the scores, the head once more and twice; no pixel gradient.
    const double backward = patches + 2 * (2 * block + 2.5 * scores) + 2 * projector +
                            2 * (2 * layer + 2.5 * decoder_scores) + 3 * head;
    CHECK(compare(VLM(""), false, 1, NULL) == forward);
    CHECK(compare(VLM(""), true, 1, NULL) == forward - head + backward);
    // A frozen tower: nothing flows below the projector.
    const double frozen =
        forward - head + projector + 2 * (2 * layer + 2.5 * decoder_scores) + 3 * head;
    CHECK(compare(VLM(""), true, 1, "vision.") == frozen);
}

int main(void)
{
    for (int threads = 1; threads <= 3; threads += 2)
        for (int train = 0; train < 2; train++) {
            compare(VLM(""), train, threads, NULL);
            compare(VLM(",\"recompute\":\"block\""), train, threads, NULL);
            compare(VLM(",\"qk_norm\":true"), train, threads, NULL);
            compare(VLM_2D, train, threads, NULL);
            compare(VLM(""), train, threads, "vision.");
            compare(VLM(""), train, threads, "decoder.");
            compare(CLIP("class", "softmax"), train, threads, NULL);
            compare(CLIP("mean", "sigmoid"), train, threads, NULL);
            compare(CLIP("map", "sigmoid"), train, threads, "text.");
        }
    test_flops();
    return check_report("plans");
}

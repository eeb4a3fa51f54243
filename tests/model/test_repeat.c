/*
 * test_repeat.c - parts of a pass that come again (layers/repeat.h), on a device that only counts: what is told, what is
 * noted down, what is replayed, and what arenas and the host's own work look like after each; then a stack of blocks, whose
 * operations are the CPU's: told and noted down they are done, replayed they are not, and what they made is there still.
 */
#include <stdlib.h>
#include <string.h>

#include "model/layers/mask.h"
#include "model/layers/repeat.h"
#include "model/layers/transformer.h"
#include "tests/support/check.h"

static struct {
    int records, replays, forgotten;
    bool recording, able, declines;
} device = {.able = true};

// What a part consumes: what is noted down in vain on a device is not done, while here it is.
static float *consumed, before[64];

static bool record(void)
{
    if (consumed) memcpy(before, consumed, sizeof before);
    device.recording = device.able;
    device.records += device.able;
    return device.able;
}
static void *recorded(void)
{
    device.recording = false;
    if (consumed && device.declines) memcpy(consumed, before, sizeof before);
    return device.declines ? NULL : &device;
}
static void replay(void *recording)
{
    CHECK(recording == &device);
    device.replays++;
}
static void forget(void *recording)
{
    CHECK(recording == &device);
    device.forgotten++;
}

static const pc_memory memory = {
    .name = "counts", .record = record, .recorded = recorded, .replay = replay, .forget = forget};

typedef struct work {
    const pc_ops *ops;
    int host, told, noted; // runs; of them those that told the device, and those it only noted down
    pc_tensor made;
} work;

static void part(pc_ctx *ctx, void *arg)
{
    work *w = arg;
    w->host++;
    w->told += ctx->ops == w->ops && !device.recording;
    w->noted += ctx->ops == w->ops && device.recording;
    w->made = pc_alloc2(ctx->act, PC_F32, 3, 5);
}

typedef struct bench {
    pc_arena act, scratch;
    pc_ctx ctx;
    pc_repeats *repeats;
    int32_t lo[4];
    work work;
} bench;

static void open_bench(bench *b)
{
    const pc_ops *ops = pc_cpu_ops(PC_ISA_REF, PC_F32);
    *b = (bench){.lo = {0, 0, 2, 2}, .work = {.ops = ops}};
    memset(&device, 0, sizeof device);
    device.able = true;
    CHECK(!pc_arena_open(&b->act, "act", 1 << 16) &&
          !pc_arena_open(&b->scratch, "scratch", 1 << 12));
    CHECK(!pc_repeats_open(&b->repeats, &memory, ops) && b->repeats);
    b->ctx = (pc_ctx){.ops = ops,
                      .grad_ops = pc_cpu_grad_ops(PC_ISA_REF, PC_F32),
                      .real = PC_F32,
                      .act = &b->act,
                      .scratch = &b->scratch,
                      .repeats = b->repeats};
}

static void close_bench(bench *b)
{
    pc_repeats_close(b->repeats);
    pc_arena_close(&b->act);
    pc_arena_close(&b->scratch);
}

// The part from the same place, over numbers of this size.
static void again(bench *b, int64_t size)
{
    pc_repeat_key key = {.words = 0};
    const pc_mask mask = {.S = 2, .lo = pc_view1(b->lo, PC_I32, 4), .pairs = 8.0};
    pc_arena_release(&b->act, 0);
    pc_repeat_number(&key, size);
    pc_repeat_mask(&key, &mask);
    pc_repeated(&b->ctx, &key, part, &b->work);
    CHECK(b->work.made.data == b->act.base && b->act.used == 60); // as if told, each time
    CHECK(b->ctx.ops == b->work.ops);
}

static void test_again(void)
{
    bench b;
    open_bench(&b);
    again(&b, 7);
    CHECK(b.work.told == 1 && device.records == 0);
    again(&b, 7); // noted down, and done
    CHECK(b.work.told == 1 && b.work.noted == 1 && device.records == 1 && device.replays == 1);
    for (int i = 0; i < 5; i++) again(&b, 7);
    CHECK(b.work.told == 1 && b.work.noted == 1 && device.replays == 6 && b.work.host == 7);
    CHECK(pc_repeats_replayed(b.repeats) == 5);
    close_bench(&b);
    CHECK(device.forgotten == 1);
}

static void test_others(void)
{
    bench b;
    open_bench(&b);
    for (int i = 0; i < 3; i++) again(&b, 7);
    const int replays = device.replays;
    b.lo[2] = 1; // another mask of the same counts
    again(&b, 7);
    CHECK(b.work.noted == 2 && device.replays == replays + 1);
    b.lo[2] = 2;
    again(&b, 7);
    CHECK(b.work.noted == 2 && device.replays == replays + 2);
    again(&b, 8); // another size
    CHECK(b.work.told == 2);
    pc_alloc2(&b.scratch, PC_F32, 4, 4); // elsewhere
    again(&b, 7);
    CHECK(b.work.told == 3);
    for (int i = 0; i < 200; i++) again(&b, 100 + i); // nothing comes again: nothing is noted down
    CHECK(b.work.noted == 2 && b.work.told == 203);
    close_bench(&b);
}

static void test_unable(void)
{
    bench b;
    open_bench(&b);
    device.declines = true;
    for (int i = 0; i < 4; i++) again(&b, 7);
    CHECK(device.records == 1 && device.replays == 0 && b.work.told == 4 && b.work.noted == 1);
    device.able = false;
    for (int i = 0; i < 4; i++) again(&b, 8);
    CHECK(device.records == 1 && b.work.told == 8);

    CHECK(pc_repeats_wanted(&b.ctx));
    pc_ctx other = b.ctx;
    other.dropout = 0.1;
    CHECK(!pc_repeats_wanted(&other));
    other = b.ctx;
    other.grad_ops = NULL;
    CHECK(!pc_repeats_wanted(&other));
    other = b.ctx;
    other.ops = pc_dry_ops();
    CHECK(!pc_repeats_wanted(&other));
    close_bench(&b);

    pc_repeats *none = NULL;
    CHECK(!pc_repeats_open(&none, NULL, b.work.ops) && !none);
    pc_repeats_close(none);
}

// ---- a stack of blocks ---------------------------------------------------------------------------

enum { L = 2, C = 8, F = 12, ROWS = 8 };

typedef struct stack {
    bench b;
    pc_arena weights, grads, hold;
    pc_params params;
    pc_transformer t;
    pc_seq seq;
    pc_tensor x, w, dy, y;
} stack;

static void open_stack(stack *s)
{
    const pc_transformer_config config = {.L = L,
                                          .C = C,
                                          .H = 2,
                                          .G = 2,
                                          .D = C / 2,
                                          .F = F,
                                          .norm = PC_LAYERNORM,
                                          .eps = 1e-5,
                                          .act = PC_ACT_GELU,
                                          .std = 0.5,
                                          .out_std = 0.5,
                                          .fc_std = 0.5};
    const int64_t lengths[2] = {2, ROWS - 2};
    *s = (stack){.params = {0}};
    open_bench(&s->b);
    pc_arena_close(&s->b.act);
    pc_arena_close(&s->b.scratch);
    CHECK(!pc_arena_open(&s->b.act, "act", 1 << 20) &&
          !pc_arena_open(&s->b.scratch, "scratch", 1 << 20));
    CHECK(!pc_arena_open(&s->weights, "weights", 1 << 16) &&
          !pc_arena_open(&s->grads, "grads", 1 << 16));
    CHECK(!pc_arena_open(&s->hold, "hold", 1 << 16));
    pc_transformer_params(&s->params, &s->t, &config);
    CHECK(!pc_params_end(&s->params));
    pc_params_bind_weights(&s->params, &s->weights, PC_F32);
    pc_params_init(&s->params, 3);
    pc_params_bind_grads(&s->params, &s->grads, PC_F32);
    pc_mask_ragged(&s->seq.mask, &s->hold, lengths, 0, 2, false);
    s->x = pc_alloc2(&s->hold, PC_F32, ROWS, C);
    s->w = pc_alloc_like(&s->hold, s->x);
    s->dy = pc_alloc2(&s->hold, PC_F32, ROWS, C);
    const pc_rng_key key = {.seed = 5, .stream = PC_STREAM_TEST};
    for (int i = 0; i < ROWS * C; i++) {
        ((float *)s->x.data)[i] = (float)pc_rng_normal(&key, (uint64_t)i);
        ((float *)s->w.data)[i] = (float)pc_rng_normal(&key, (uint64_t)(1000 + i));
    }
}

static void close_stack(stack *s)
{
    close_bench(&s->b);
    pc_transformer_close(&s->t);
    pc_params_close(&s->params);
    pc_arena_close(&s->weights);
    pc_arena_close(&s->grads);
    pc_arena_close(&s->hold);
}

static void pass(stack *s, bool fresh)
{
    pc_ctx *ctx = &s->b.ctx;
    pc_transformer_kept kept;
    pc_arena_release(ctx->act, 0);
    pc_arena_release(ctx->scratch, 0);
    memcpy(s->dy.data, s->w.data, ROWS * C * sizeof(float)); // backward consumes it
    if (fresh) pc_grads_begin(ctx, &s->params);
    s->y = pc_transformer_forward(ctx, &kept, &s->t, s->x, &s->seq, NULL, NULL, L);
    pc_transformer_backward(ctx, PC_NONE, &s->t, &kept, s->dy, &s->seq);
    pc_grads_end(ctx, &s->params);
}

// Of the matrices' gradients the distance from `by` times those given, summed up; taken when none are given.
static double off(const stack *s, float *given, float by, bool take)
{
    double sum = 0.0;
    for (int64_t b = 0; b < L; b++) {
        const pc_block *k = &s->t.blocks[b];
        const pc_tensor g[4] = {k->attn.qkv.weight.g, k->attn.out.weight.g, k->mlp.up.weight.g,
                                k->mlp.down.weight.g};
        for (int m = 0; m < 4; m++)
            for (int64_t i = 0; i < pc_numel(g[m]); i++, given++) {
                const float v = ((const float *)g[m].data)[i];
                if (take) *given = v;
                sum += take ? (double)(v * v) : (double)((v - by * *given) * (v - by * *given));
            }
    }
    return sum;
}

static void test_stack(void)
{
    static float given[L * (4 * C * C + 2 * C * F)];
    stack s;
    open_stack(&s);
    pass(&s, true);
    CHECK(device.records == 0 && off(&s, given, 1.0f, true) > 1.0);
    const void *y = s.y.data;
    const size_t used = s.b.act.used;
    pass(&s, true);
    CHECK(device.records == 2 && device.replays == 2 && off(&s, given, 1.0f, false) == 0.0);
    for (int i = 0; i < 2;
         i++) { // done by none: what is there is the last time's, and not taken for nothing
        pass(&s, true);
        CHECK(device.records == 2 && device.replays == 4 + 2 * i &&
              off(&s, given, 1.0f, false) == 0.0);
        CHECK(s.y.data == y && s.b.act.used == used && s.b.scratch.used == 0);
    }
    pass(&s, false); // a second micro-batch of a step: gradients are added to
    CHECK(device.records == 2 && device.replays == 7 && off(&s, given, 2.0f, false) < 1e-9);
    pc_i32(s.seq.mask.lo)[1] = 1; // another mask
    pass(&s, true);
    CHECK(device.replays == 9 && device.records == 4 && off(&s, given, 1.0f, false) > 1e-6);
    close_stack(&s);

    open_stack(&s); // noted down in vain: told once more, and written once more
    device.declines = true;
    consumed = s.dy.data;
    pass(&s, true);
    CHECK(off(&s, given, 1.0f, false) == 0.0);
    for (int i = 0; i < 3; i++) {
        pass(&s, true);
        CHECK(device.records == 2 && device.replays == 0 && off(&s, given, 1.0f, false) == 0.0);
    }
    consumed = NULL;
    close_stack(&s);
}

int main(void)
{
    test_stack();
    test_again();
    test_others();
    test_unable();
    return check_report("parts that come again");
}

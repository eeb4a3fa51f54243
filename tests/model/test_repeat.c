/*
 * test_repeat.c - parts of a pass that come again (layers/repeat.h), on a device that only counts: what is told, what is
 * noted down, what is replayed, and what arenas and the host's own work look like after each.
 */
#include <stdlib.h>
#include <string.h>

#include "model/layers/repeat.h"
#include "tests/support/check.h"

static struct {
    int records, replays, forgotten;
    bool recording, able, declines;
} device = {.able = true};

static bool record(void)
{
    device.recording = device.able;
    device.records += device.able;
    return device.able;
}
static void *recorded(void)
{
    device.recording = false;
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

int main(void)
{
    test_again();
    test_others();
    test_unable();
    return check_report("parts that come again");
}
